#!/usr/bin/env python3
"""The held-out questions of demo/eval: draws them, answers them with Hugging Face's model, compares the answers.

    python demo/evaluate.py draw DIR                          writes DIR/eval.jsonl and DIR/*.png, *.jpg
    python demo/evaluate.py run HF_DIR DIR [--answers FILE]   answers them in float32, prints accuracy per skill
    python demo/evaluate.py compare THEIRS OURS               the answers of `run` and those of eval.c: the same?
    python demo/evaluate.py pictures DIR                      draws the pictures that `make demo` asks about

eval.jsonl has a line per question: its id, skill, pictures (files), split (false: with --no-split), question, answer.
The pictures come from seeds that training never uses, with prices and numbers that it does not draw (draw.is_held_out);
one question in seven is worded as no question of the training is.
"""
import argparse
import json
import os
import random
import re
import sys
import time
from collections import Counter, defaultdict

import draw

SEED = "eval 1"                 # training seeds are numbers
PER_SKILL = 60
MOST = 4                        # questions about a picture
# How often each kind is drawn; no "film", as ./smolvlm is given its frames as pictures.
KINDS = {"wide": 5, "tall": 5, "square": 8, "pair_wide": 1, "pair_square": 1, "frames": 1.5}
NOT_ASKED = {"transcribe"}      # whole documents: learnt as an exercise, not promised
MARGIN = 1e-3                   # below that, two of HF's logits are as good as equal


# ------------------------------------------------------------------------------------------------ drawing

def save_picture(image, path, rng):
    """A PNG where there are few colours (with a palette where that loses nothing), else a JPEG; returns its name."""
    if image.getcolors(1000) and rng.random() < .85:
        path += ".png"
        palette = image.quantize(256, dither=0)
        same = palette.convert("RGB").tobytes() == image.tobytes()
        (palette if same else image).save(path, optimize=True)
    else:
        path += ".jpg"
        image.save(path, quality=80, optimize=True)
    return os.path.basename(path)


def draw_eval(out):
    """Draws pictures until every skill has PER_SKILL questions."""
    os.makedirs(out, exist_ok=True)
    if os.listdir(out):
        raise SystemExit(f"{out}: not empty, and old pictures would stay among the new ones")
    rng, counts, seen, lines, pictures = random.Random(SEED), Counter(), set(), [], 0
    for i in range(100000):
        kind = rng.choices(list(KINDS), KINDS.values())[0]
        dice = draw.Dice(f"{SEED}/{i}")
        dice.new_numbers, dice.new_wording = True, rng.random() < .14
        s = draw.sample(dice, kind)
        asks = [a for a in s.asks if a[0] not in NOT_ASKED]
        seen |= {a[0] for a in asks}
        rng.shuffle(asks)
        wanted = list({a[0]: a for a in asks if counts[a[0]] < PER_SKILL}.values())[:MOST]      # one of a skill
        if i > 300 and all(counts[skill] >= PER_SKILL for skill in seen):
            break
        if len(wanted) < 2 and not (wanted and i > 1000):           # a single question only for the rarest skills
            continue
        names = [save_picture(p, os.path.join(out, f"{pictures:03}{'abcd'[j] if len(s.pictures) > 1 else ''}"), rng)
                 for j, p in enumerate(s.pictures)]
        for skill, question, answer in wanted:
            counts[skill] += 1
            lines.append(dict(id=len(lines), skill=skill, pictures=names, split=s.split, question=question,
                              answer=draw.unmarked(answer)))
        pictures += 1
    with open(os.path.join(out, "eval.jsonl"), "w", encoding="utf-8") as f:
        for line in lines:
            f.write(json.dumps(line) + "\n")
    print(f"{len(lines)} questions about {pictures} pictures, {len(counts)} skills")


# The pictures of demo/pictures: how they are drawn, width and height (as the model sees them; they are twice as large),
# how harshly they are photographed, the seed. Several names: the pictures of a pair, the frames of a film.
PICTURES = {
    "scene.png": (draw.draw_scene, 288, 288, 0, "scene 8"),
    "count.png": (draw.draw_count, 288, 288, 0, "count 16"),
    "sign.jpg": (draw.draw_label, 288, 144, .9, "sign 14"),
    "receipt.jpg": (draw.draw_receipt, 180, 288, 2, "receipt 1"),
    "label.jpg": (draw.draw_label, 288, 288, 2, "label 3"),
    "table.png": (draw.draw_table, 288, 216, 0, "table 4"),
    "chart.png": (draw.draw_chart, 288, 216, 0, "chart 8"),
    "small_print.png": (draw.draw_fine, 288, 288, 0, "small_print 9"),
    "before.png after.png": (draw.draw_pair, 288, 288, 0, "pair 4"),
    "film1.png film2.png film3.png film4.png": (draw.draw_clip, 144, 144, 0, "film 8"),
}


def draw_pictures(out):
    """Draws PICTURES, and prints what can be asked about each and the right answers."""
    os.makedirs(out, exist_ok=True)
    for names, (draw_one, w, h, harsh, seed) in PICTURES.items():
        dice = draw.Dice(f"picture {seed}")
        dice.new_numbers = True
        drawn = draw_one(dice, w, h, 2)
        sheets, asks = drawn if isinstance(drawn, tuple) else ([drawn], drawn.asks)
        dice = draw.Dice(f"weather {seed}")                 # whatever else is asked, the weather is the same
        for name, sheet in zip(names.split(), sheets):
            image = draw.weather(dice, sheet.image, harsh)[0]
            image.save(os.path.join(out, name), optimize=True, **({"quality": 85} if name.endswith(".jpg") else {}))
        print(names)
        for skill, question, answer in asks:
            print(f"    {skill:10} {question} -> {draw.unmarked(answer)!r}")


# ------------------------------------------------------------------------------------------------ answering

def normal(text):
    """What counts: the words and numbers, not white space around or between them, nor full stops at the end."""
    return re.sub(r"[ \t-\r]+", " ", text).strip(" ").rstrip(".")


def table_of(right):
    """Prints accuracy per skill and in total. right: {skill: [bool]}."""
    rows = sorted(right.items()) + [("total", [value for values in right.values() for value in values])]
    for skill, values in rows:
        print(f"{skill:12} {sum(values):4} of {len(values):4}   {100 * sum(values) / len(values):5.1f} %")


def read_lines(path):
    """The objects of a JSONL file."""
    with open(path, encoding="utf-8") as f:
        return [json.loads(line) for line in f]


def run(model_dir, folder, answers, every):
    """Answers every question greedily as the C program does; writes {id, right, answer, margin} a line, if wanted.

    margin: the least difference, over the answer's tokens, between Hugging Face's two best logits."""
    sys.path.insert(0, os.path.join(draw.HERE, "..", "tests"))
    import hf
    import torch

    processor, model = hf.load_processor(model_dir), hf.load_model(model_dir)
    ends = model.generation_config.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    questions = read_lines(os.path.join(folder, "eval.jsonl"))[::every]
    right, file, start = defaultdict(list), open(answers, "w", encoding="utf-8") if answers else None, time.time()
    for i, q in enumerate(questions):
        pictures = [hf.open_picture(os.path.join(folder, name)) for name in q["pictures"]]
        x = hf.inputs(processor, pictures, q["question"], **({} if q["split"] else {"do_image_splitting": False}))
        with torch.inference_mode():
            y = model.generate(**x, do_sample=False, max_new_tokens=160, output_logits=True,
                               return_dict_in_generate=True)
        best = torch.stack(y.logits).flatten(0, 1).topk(2).values
        ids = y.sequences[0, x["input_ids"].shape[1]:].tolist()
        text = processor.tokenizer.decode(ids[:-1] if ids[-1] in ends else ids)
        right[q["skill"]].append(normal(text) == normal(q["answer"]))
        if file:
            file.write(json.dumps(dict(id=q["id"], right=right[q["skill"]][-1], answer=text,
                                       margin=float((best[:, 0] - best[:, 1]).min()))) + "\n")
        if sys.stderr.isatty():
            print(f"\r{i + 1}/{len(questions)}\x1b[K", end="", file=sys.stderr, flush=True)
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr)
    if file:
        file.close()
    table_of(right)
    print(f"{len(questions)} questions in {time.time() - start:.1f} s", file=sys.stderr)


def compare(theirs_path, ours_path):
    """Whether both give the same answers, wherever HF's margin exceeds MARGIN; returns the exit code."""
    theirs, ours = ({a["id"]: a for a in read_lines(path)} for path in (theirs_path, ours_path))
    if theirs.keys() != ours.keys() or not theirs:
        print(f"{theirs_path} and {ours_path} do not answer the same questions")
        return 1
    close = sum(a["margin"] <= MARGIN for a in theirs.values())
    differing = [i for i in sorted(theirs) if theirs[i]["answer"] != ours[i]["answer"]]
    wrong = [i for i in differing if theirs[i]["margin"] > MARGIN]
    for i in differing:
        print(f"question {i}, margin {theirs[i]['margin']:.1e}: {theirs[i]['answer']!r}, here {ours[i]['answer']!r}")
    print(f"{len(theirs)} answers compared, {len(theirs) - len(differing)} equal; {close} with a margin up to "
          f"{MARGIN:g}, of which {len(differing) - len(wrong)} differ; {len(wrong)} differ that must not")
    return int(bool(wrong))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    command = commands.add_parser("draw", help="draw pictures and questions")
    command.add_argument("dir")
    command = commands.add_parser("run", help="answer them with a Hugging Face directory")
    command.add_argument("model")
    command.add_argument("dir")
    command.add_argument("--answers", help="a JSONL file for every answer and its margin")
    command.add_argument("--every", type=int, default=1, metavar="N", help="only every Nth question")
    command = commands.add_parser("compare", help="compare two files of answers")
    command.add_argument("theirs", help="what `run` wrote")
    command.add_argument("ours", help="what eval.c wrote")
    command = commands.add_parser("pictures", help="draw the pictures of make demo")
    command.add_argument("dir")
    a = parser.parse_args()
    if a.command == "draw":
        draw_eval(a.dir)
    elif a.command == "pictures":
        draw_pictures(a.dir)
    elif a.command == "compare":
        sys.exit(compare(a.theirs, a.ours))
    else:
        run(a.model, a.dir, a.answers, a.every)


if __name__ == "__main__":
    main()
