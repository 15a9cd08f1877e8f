#!/usr/bin/env python3
"""The held-out questions of demo/eval: draws them, and answers them with Hugging Face's model.

    python demo/evaluate.py draw DIR                          writes DIR/eval.jsonl and DIR/*.png, *.jpg
    python demo/evaluate.py run HF_DIR DIR [--answers FILE]   answers them in float32, prints accuracy per skill

eval.jsonl has a line per question: its id, skill, pictures (files), split (false: with --no-split), question, answer.
The pictures come from seeds that training never uses, with numbers that it never shows (draw.is_held_out), and one
question in four is worded as no question of the training is.
"""
import argparse
import json
import os
import random
import re
import sys
from collections import defaultdict

import draw

SEED = "eval 1"                 # training seeds are numbers
PER_SKILL = 30
KINDS = {"wide": 5, "tall": 5, "square": 8, "pair_wide": 1, "pair_square": 1, "frames": 1.5}
MOST = 4                        # questions about a picture


def save_picture(image, path, rng):
    """A PNG where that is small, else a JPEG (noise); returns (file name, the picture as it will be read)."""
    plain = len(image.getcolors(1 << 24)) < 4000
    name = path + (".png" if plain and rng.random() < .8 else ".jpg")
    image.save(name, **({"optimize": True} if name.endswith(".png") else {"quality": 80}))
    return os.path.basename(name)


def draw_eval(out):
    """Draws pictures until every skill has PER_SKILL questions."""
    os.makedirs(out, exist_ok=True)
    rng, counts, lines, pictures = random.Random(SEED), defaultdict(int), [], 0
    skills = set()
    for i in range(100000):
        kind = rng.choices(list(KINDS), KINDS.values())[0]
        dice = draw.Dice(f"{SEED}/{i}")
        dice.new_numbers, dice.new_wording = True, rng.random() < .25
        s = draw.sample(dice, kind)
        skills |= {a[0] for a in s.asks}
        wanted = [a for a in s.asks if counts[a[0]] < PER_SKILL]
        rng.shuffle(wanted)
        chosen, seen = [], set()
        for a in wanted:
            if a[0] not in seen and len(chosen) < MOST:
                chosen.append(a)
                seen.add(a[0])
        if len(chosen) < 2 and not (chosen and i > 1000):
            if i > 200 and all(counts[skill] >= PER_SKILL for skill in skills):
                break
            continue
        names = [save_picture(p, os.path.join(out, f"{pictures:03}{'abcd'[j] if len(s.pictures) > 1 else ''}"), rng)
                 for j, p in enumerate(s.pictures)]
        for skill, question, answer in chosen:
            counts[skill] += 1
            lines.append(dict(id=len(lines), skill=skill, pictures=names, split=s.split, question=question,
                              answer=answer))
        pictures += 1
    with open(os.path.join(out, "eval.jsonl"), "w", encoding="utf-8") as f:
        for line in lines:
            f.write(json.dumps(line) + "\n")
    print(f"{len(lines)} questions about {pictures} pictures, {len(counts)} skills")


def normal(text):
    """What counts: the words and numbers, not white space at the ends or between, nor the last full stop."""
    return re.sub(r"\s+", " ", text).strip().rstrip(".")


def table_of(right):
    """Prints accuracy per skill and in total. right: {skill: [bool]}."""
    for skill, values in sorted(right.items()):
        print(f"{skill:12} {sum(values):4} of {len(values):4}   {100 * sum(values) / len(values):5.1f} %")
    values = [v for skill in right.values() for v in skill]
    print(f"{'total':12} {sum(values):4} of {len(values):4}   {100 * sum(values) / len(values):5.1f} %")


def run(model_dir, folder, answers):
    """Answers every question greedily as the C program does; writes {id, answer, margin} a line, if wanted.

    margin: the least difference, over the answer's tokens, between Hugging Face's two best logits."""
    sys.path.insert(0, os.path.join(draw.HERE, "..", "tests"))
    import hf
    import torch

    processor, model = hf.load_processor(model_dir), hf.load_model(model_dir)
    right, file = defaultdict(list), open(answers, "w", encoding="utf-8") if answers else None
    with open(os.path.join(folder, "eval.jsonl"), encoding="utf-8") as f:
        questions = [json.loads(line) for line in f]
    for q in questions:
        pictures = [hf.open_picture(os.path.join(folder, name)) for name in q["pictures"]]
        x = hf.inputs(processor, pictures, q["question"], **({} if q["split"] else {"do_image_splitting": False}))
        with torch.inference_mode():
            y = model.generate(**x, do_sample=False, max_new_tokens=160, output_logits=True,
                               return_dict_in_generate=True)
        best = torch.stack(y.logits).flatten(0, 1).topk(2).values
        text = processor.tokenizer.decode(y.sequences[0, x["input_ids"].shape[1]:], skip_special_tokens=True)
        right[q["skill"]].append(normal(text) == normal(q["answer"]))
        if file:
            file.write(json.dumps(dict(id=q["id"], right=right[q["skill"]][-1], answer=text,
                                       margin=float((best[:, 0] - best[:, 1]).min()))) + "\n")
    table_of(right)


def main():
    parser = argparse.ArgumentParser(description="Draws the evaluation set, or runs it with Hugging Face's model.")
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("draw", help="draw pictures and questions")
    command.add_argument("dir")
    command = commands.add_parser("run", help="answer them with a Hugging Face directory")
    command.add_argument("model")
    command.add_argument("dir")
    command.add_argument("--answers", help="a JSONL file for every answer and its margin")
    a = parser.parse_args()
    if a.command == "draw":
        draw_eval(a.dir)
    else:
        run(a.model, a.dir, a.answers)


if __name__ == "__main__":
    main()
