#!/usr/bin/env python3
"""Parity with Hugging Face: runs transformers (float32, PIL processor) and ./smolvlm on the same checkpoints, pictures
and prompts, and prints one table: per module how far each of the two is from transformers in float64, the largest
difference relative to the module's largest magnitude, and our cosine with it. The first module that leaves the
tolerance is named. Beside them q8 and q4: how far the same checkpoint's activations are in these formats (--formats).

    python tests/parity.py                                        small random checkpoints of odd shapes
    python tests/parity.py --full [256m 500m 2.2b]                the published shapes, random weights; with
                                                                  --longest-edge 1024 some 5 tiles instead of 17
    python tests/parity.py --model DIR --image FILE --prompt TEXT a checkpoint of one's own

Required, of every checkpoint: every byte of every tile and every prompt id identical; every activation within 5e-6 of
float64's, or as near as HF's float32 is where that is farther off (in released models large numbers cancel, and two
orders of the same float32 additions then differ by more); greedy tokens identical wherever HF's two best logits differ
by more than 1e-3. Of q8 and q4: no module is off by more than QUANTIZED says, which only tells a wrong model from a
rounded one. Exit code 1 if anything is not so.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
import numpy as np
import torch
import transformers
from PIL import Image, ImageDraw

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
sys.path.insert(0, HERE)
import hf
import tiny_model

transformers.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
TOLERANCE = 5e-6
MARGIN = 1e-3
QUANTIZED = {"q8": 0.1, "q4": 0.6}

# name, kind, settings of tiny_model, picture sizes, extra options for ./smolvlm and what they are to the HF processor
SMALL = [
    ("plain", "smolvlm", {}, [(90, 61)], [], {}),
    ("kv-shared, shuffle 3", "smolvlm", dict(
        image_size=48, patch_size=8, scale_factor=3, vision_hidden_size=60, vision_num_attention_heads=5,
        vision_intermediate_size=77, hidden_size=90, num_attention_heads=9, num_key_value_heads=3, head_dim=14,
        intermediate_size=131, num_hidden_layers=3, vision_num_hidden_layers=3, longest_edge=144), [(50, 120)], [], {}),
    ("shuffle 4, tied, config 5", "smolvlm", dict(
        image_size=64, patch_size=8, scale_factor=4, vision_hidden_size=72, vision_num_attention_heads=1,
        hidden_size=40, num_attention_heads=5, num_key_value_heads=1, head_dim=20, intermediate_size=57,
        longest_edge=256, tie_word_embeddings=True, config_generation=5, processor_generation=5), [(300, 200)], [], {}),
    ("patches that leave a rest", "smolvlm", dict(
        image_size=45, patch_size=7, scale_factor=2, longest_edge=90, rope_theta=273768.0, head_dim=64,
        hidden_size=66, num_attention_heads=3, num_key_value_heads=3, vision_hidden_size=33,
        vision_num_attention_heads=3), [(64, 64), (31, 90)], [], {}),
    ("two pictures, not split", "smolvlm", dict(rope_theta=130000.0), [(40, 30), (30, 47)], ["--no-split"],
     dict(do_image_splitting=False)),
    ("25 patches a side: their positions are not 0, 1, 2, ...", "smolvlm", dict(
        image_size=200, patch_size=8, scale_factor=5, longest_edge=400), [(90, 61)], [], {}),
    ("40 patches a side", "idefics3", dict(
        image_size=160, patch_size=4, scale_factor=4, longest_edge=320), [(61, 90)], [], {}),
    ("longest edge 160", "smolvlm", {}, [(123, 77)], ["--longest-edge", "160"], dict(size={"longest_edge": 160})),
    ("v1 tokenizer", "smolvlm", dict(v1_tokenizer=True, longest_edge=96), [(90, 61)], [], {}),
    ("Idefics3", "idefics3", dict(longest_edge=96, head_dim=16), [(61, 90)], [], {}),
    ("no picture", "smolvlm", {}, [], [], {}),
    ("text-only Llama", "llama", dict(num_hidden_layers=4, tie_word_embeddings=True), [], [], {}),
    ("text-only Mistral", "mistral", dict(num_hidden_layers=3, head_dim=24), [], [], {}),
    ("bf16 weights", "smolvlm", dict(dtype="bfloat16", longest_edge=96), [(90, 61)], [], {}),
    ("bf16 weights, sharded, wide", "smolvlm", dict(
        dtype="bfloat16", shards=3, vision_hidden_size=130, vision_num_attention_heads=2, scale_factor=2,
        vision_intermediate_size=515, hidden_size=258, num_attention_heads=6, num_key_value_heads=2, head_dim=42,
        intermediate_size=700, image_size=32, longest_edge=128), [(99, 128)], [], {}),
]


def draw_picture(path, size, seed):
    """A picture with edges, gradients and noise, as JPEG or PNG."""
    rng = np.random.default_rng(seed)
    w, h = size
    y, x = np.mgrid[0:h, 0:w]
    rgb = np.stack([255 * x / max(w - 1, 1), 255 * y / max(h - 1, 1), 127 + 90 * np.sin(x / 5.0 + y / 9.0)], -1)
    image = Image.fromarray(np.clip(rgb + rng.normal(0, 12, rgb.shape), 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    draw.ellipse([w * 0.2, h * 0.3, w * 0.6, h * 0.8], fill=(200, 30, 60))
    draw.line([0, 0, w, h], fill=(255, 255, 255), width=2)
    image.save(path, **({"quality": 90} if path.endswith(".jpg") else {}))
    return path


def run_ours(binary, model, pictures, prompt, system, tokens, options, dump):
    """One run of ./smolvlm; returns its JSON."""
    command = [binary, model, "-p", prompt, "-n", str(tokens), "--json", "-q", "--dump", dump, *options]
    for picture in pictures:
        command += ["-i", picture]
    if system:
        command += ["-s", system]
    done = subprocess.run(command, capture_output=True)
    if done.returncode != 0:
        raise SystemExit(f"parity.py: {' '.join(command)}\n{done.stderr.decode(errors='replace')}")
    return json.loads(done.stdout)


def listened(model):
    """The modules whose outputs are compared, in the order in which they run."""
    wanted = []
    for name, module in model.named_modules():
        last = name.rsplit(".", 1)
        if name.endswith(("vision_model.embeddings", "vision_model.post_layernorm", "model.connector", "lm_head")) or \
                name in ("model.norm", "model.text_model.norm") or (len(last) == 2 and last[0].endswith(".layers")):
            wanted.append((name, module))
    return wanted


def compare(x, reference):
    """max |difference| / max |reference|, cosine."""
    a, b = x.astype(np.float64).ravel(), reference.astype(np.float64).ravel()
    cosine = float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b) + 1e-300))
    return float(np.max(np.abs(a - b))) / (float(np.max(np.abs(b))) + 1e-300), cosine


class Report:
    """Prints rows and remembers what failed."""

    def __init__(self):
        self.passed, self.failed = 0, []

    def check(self, ok, text):
        if ok:
            self.passed += 1
        else:
            self.failed.append(text)
            print(f"    FAILED: {text}")

    def end(self):
        """Prints the sum; returns the exit code."""
        print(f"\n{self.passed} passed, {len(self.failed)} failed")
        for text in self.failed:
            print(f"  {text}")
        return 1 if self.failed else 0


def run_hf(model, batch, visit):
    """HF's forward pass over the prompt; visit(module name, output) for every listened module."""
    hooks = []
    for name, module in listened(model):
        def hook(module, args, output, name=name):
            out = output[0] if isinstance(output, tuple) else output
            visit(name, (out[:, -1:] if name == "lm_head" else out).numpy())
        hooks.append(module.register_forward_hook(hook))
    with torch.no_grad():
        model(**batch)
    for hook in hooks:
        hook.remove()


def check_greedy(report, title, model, batch, ours, tokens):
    """HF's greedy tokens against ours, up to the first step at which HF itself is undecided."""
    with torch.no_grad():
        out = model.generate(**batch, max_new_tokens=tokens, do_sample=False, output_scores=True,
                             return_dict_in_generate=True)
    eos = model.generation_config.eos_token_id
    eos = set(eos if isinstance(eos, list) else [eos])
    ids = out.sequences[0, batch["input_ids"].shape[1]:].tolist()
    theirs = ids[:-1] if ids and ids[-1] in eos else ids
    for step in range(len(ids)):
        mine = ours["ids"][step] if step < len(ours["ids"]) else None
        his = theirs[step] if step < len(theirs) else None
        if mine != his:
            best, two = torch.topk(out.scores[step][0].float(), 2)
            margin = float(best[0] - best[1])
            end = mine is None and bool(eos & set(two.tolist()))
            report.check(margin <= MARGIN and (end or mine in two.tolist()),
                         f"{title}: token {step} is {mine}, HF says {his} with margin {margin:.4g}")
            return f"{step} tokens equal, then a tie ({margin:.1e})"
    report.check(len(ours["ids"]) == len(theirs), f"{title}: {len(ours['ids'])} tokens, HF gives {len(theirs)}")
    return f"{len(theirs)} tokens equal" + (", then the end token" if len(theirs) < len(ids) else "")


def export(directory, checkpoint, *options):
    """Returns the format."""
    done = subprocess.run([sys.executable, os.path.join(ROOT, "export.py"), directory, checkpoint, *options],
                          capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(done.stderr.strip())
    return done.stdout.split(": ")[1].split(",")[0]


def check(report, title, directory, binary, work, pictures, prompt, system=None, options=(), processor_options=None,
          tokens=16, formats=tuple(QUANTIZED)):
    """Exports directory, runs both sides, prints the table of one checkpoint."""
    start = time.time()
    checkpoint, dump = os.path.join(work, "model.bin"), os.path.join(work, "dump")
    export_format = export(directory, checkpoint)
    ours = run_ours(binary, checkpoint, pictures, prompt, system, tokens, options, dump)
    seconds = time.time() - start
    load = lambda name, form="": np.load(os.path.join(dump + form, name + ".npy"), mmap_mode="r")
    for form in formats:
        checkpoint = os.path.join(work, form + ".bin")
        export(directory, checkpoint, "--format", form)
        run_ours(binary, checkpoint, pictures, prompt, system, 1, options, dump + form)
        os.remove(checkpoint)

    processor = hf.load_processor(directory)
    batch = hf.inputs(processor, [hf.open_picture(p) for p in pictures], prompt, system, **(processor_options or {}))
    ids = batch["input_ids"][0].tolist()
    tiles = batch["pixel_values"].shape[1] if pictures else 0
    print(f"\n{title}: {tiles} tiles, {len(ids)} tokens, {export_format}; export and ./smolvlm took {seconds:.1f} s")
    report.check(ours["prompt_ids"] == ids, f"{title}: the prompt's ids differ")
    report.check(load("input_ids").tolist() == [ids], f"{title}: input_ids.npy differs")
    text = getattr(processor, "tokenizer", processor).decode(ours["ids"])
    report.check(ours["text"] == text, f"{title}: the text is {ours['text']!r}, HF decodes {text!r}")
    if pictures:
        pixels = batch["pixel_values"].numpy()
        report.check(load("pixel_values").shape == pixels.shape and np.array_equal(load("pixel_values"), pixels),
                     f"{title}: the tiles differ")
    if ours["prompt_ids"] != ids:
        return

    rows, float32, model = [], {}, hf.load_model(directory)

    def visit(name, out):
        assert out.dtype == np.float64, f"{name} was not computed in float64"
        mine = load(name)
        if mine.shape != out.shape:
            report.check(False, f"{title}: {name} has shape {mine.shape}, HF's has {out.shape}")
            return
        distance, cosine = compare(mine, out)
        rows.append((name, distance, compare(float32.pop(name), out)[0], cosine,
                     [compare(load(name, form), out)[0] for form in formats]))

    run_hf(model, batch, float32.__setitem__)
    with hf.float64(model):
        run_hf(model, batch, visit)
    width = max(len(row[0]) for row in rows)
    far = [row for row in rows if not row[1] <= max(TOLERANCE, row[2])]
    print(f"    {'from HF in float64:':{width}}  ours     HF float32  our cosine " +
          "".join(f"  {form:7}" for form in formats))
    for row in rows:
        name, distance, theirs, cosine, rounded = row
        print(f"    {name:{width}}  {distance:.1e}  {theirs:.1e}     {cosine:.9f}" +
              "".join(f"  {off:.1e}" for off in rounded) + ("   <-- above the tolerance" if row in far else ""))
    report.check(not far, far and "{}: {} is off by {:.1e}, HF's float32 by {:.1e}".format(title, *far[0]))
    for at, form in enumerate(formats):
        name, off = max(((row[0], row[4][at]) for row in rows), key=lambda pair: pair[1])
        report.check(off <= QUANTIZED[form], f"{title}: {name} in {form} is off by {off:.1e}")
    worst = max(rows, key=lambda row: row[1])
    greedy = check_greedy(report, title, model, batch, ours, tokens)
    print(f"    worst {worst[1]:.1e} ({worst[0]}), HF's float32 there {worst[2]:.1e}, at worst "
          f"{max(row[2] for row in rows):.1e}; greedy: {greedy}")


def small(report, binary, work, formats, only=None):
    for number, (title, kind, settings, sizes, options, processor_options) in enumerate(SMALL):
        if only and only not in title:
            continue
        place = os.path.join(work, f"small{number}")
        directory = tiny_model.make_tiny(os.path.join(place, "hf"), seed=number, kind=kind, **settings)
        pictures = [draw_picture(os.path.join(place, f"picture{i}.{'jpg' if i == 0 else 'png'}"), size, number + i)
                    for i, size in enumerate(sizes)]
        check(report, title, directory, binary, place, pictures, "What is in this picture? Count to 12.",
              "You answer\nin one word." if number % 2 else None, options, processor_options, 24, formats)


def full(report, binary, work, names, picture, longest_edge, tokens, formats):
    import make_model
    for name in names:
        place = os.path.join(work, name)
        directory = os.path.join(place, "hf")
        make_model.make(name, directory)
        check(report, name, directory, binary, place, [picture], "What is in this picture?", None,
              ["--longest-edge", str(longest_edge)] if longest_edge else [],
              dict(size={"longest_edge": longest_edge}) if longest_edge else {}, tokens, formats)
        subprocess.run(["rm", "-rf", place])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=os.path.join(ROOT, "smolvlm"))
    parser.add_argument("--model", help="a Hugging Face directory")
    parser.add_argument("--image", action="append", default=[])
    parser.add_argument("--prompt", default="What is in this picture?")
    parser.add_argument("--tokens", type=int, default=16, help="how many greedy tokens to compare")
    parser.add_argument("--full", nargs="*", metavar="NAME", help="256m, 500m, 2.2b (default: all three)")
    parser.add_argument("--picture", default=os.path.join(HERE, "pictures", "cat.jpg"), help="what --full looks at")
    parser.add_argument("--longest-edge", type=int, metavar="N", help="to which --full scales it")
    parser.add_argument("--formats", nargs="*", default=list(QUANTIZED), choices=QUANTIZED, help="q8 and q4, or none")
    parser.add_argument("--only", help="only the small checkpoints whose title contains this")
    a = parser.parse_args()
    report = Report()
    with tempfile.TemporaryDirectory() as work:
        if a.model:
            check(report, a.model, a.model, a.binary, work, a.image, a.prompt, tokens=a.tokens, formats=a.formats)
        elif a.full is not None:
            full(report, a.binary, work, a.full or ["256m", "500m", "2.2b"], a.picture, a.longest_edge, a.tokens,
                 a.formats)
        else:
            small(report, a.binary, work, a.formats, a.only)
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
