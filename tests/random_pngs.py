#!/usr/bin/env python3
"""Random PNGs, transparent in every way there is. The tiles that ./smolvlm cuts must be those of transformers'
processor, whichever way a picture gets into it (load_image, or the path itself). Over a random background they must be
those of Pillow's alpha_composite. And ./smolvlm must say when hidden colours are seen. Then half as many that end
early, as a file or as a stream of pixels: what Pillow refuses must be refused. make parity runs it.

    python tests/random_pngs.py [--count 600] [--seed 1]            (from the repository root; ./smolvlm is built)
"""
import argparse
import os
import random
import subprocess
import sys
import tempfile

import numpy as np
from PIL import Image

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import golden_images
import hf

MODEL = os.path.join(HERE, "golden", "model", "vlm.bin")
SIDE, LONGEST = 32, 64                                      # that model's


def ours(binary, path, directory, *options):
    """The tiles and stderr; None where the picture was refused."""
    done = subprocess.run([binary, MODEL, "-q", "-i", path, "-p", "x", "-n", "0", "--tiles", directory, *options],
                          capture_output=True, text=True)
    if done.returncode != 0:
        return None, done.stderr
    names = sorted(name for name in os.listdir(directory) if name.startswith("image0_row"))
    return np.stack([np.asarray(Image.open(os.path.join(directory, name)))
                     for name in [*names, "image0_global.ppm"]]), done.stderr


def check(binary, path, color):
    """What is wrong with this picture, or None."""
    with tempfile.TemporaryDirectory() as directory:
        seen, said = ours(binary, path, directory)
    try:
        image = golden_images.pixels(path)
    except Exception as error:
        return None if seen is None else f"Pillow refuses it: {error}"
    if seen is None:
        return f"refused: {said.strip()}"
    for name, entry in (("load_image", image), ("the path", path)):
        if not np.array_equal(seen, golden_images.split(entry, LONGEST, SIDE, True)[2]):
            return f"the tiles differ from the processor's by {name}"
    try:
        painted = golden_images.paint(path, color)
    except ValueError as error:                             # a tRNS chunk of more than 256 entries
        return None if "palette index out of range" in str(error) else str(error)
    if ("transparent" in said) != golden_images.hides(path):
        return f"hidden colours are seen: {golden_images.hides(path)}; it says: {said.strip()!r}"
    with tempfile.TemporaryDirectory() as directory:
        seen, said = ours(binary, path, directory, "--background", color)
    if seen is None or said:
        return f"with --background {color} it says {said.strip()}"
    if not np.array_equal(seen, golden_images.split(painted, LONGEST, SIDE, True)[2]):
        return f"the tiles differ over {color}"
    return None


def cut(rng, data):
    """The picture's file, or its stream of pixels in one whole IDAT chunk, up to a random byte."""
    if rng.random() < 0.4:
        return data[:rng.randrange(len(data))]
    return golden_images.with_stream(data, lambda stream: [
        stream[:rng.randrange(max(0, len(stream) - rng.choice((8, 30, 1000))), len(stream))]])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default=os.path.join(os.path.dirname(HERE), "smolvlm"))
    parser.add_argument("--count", type=int, default=600)
    parser.add_argument("--seed", type=int, default=1)
    a = parser.parse_args()
    hf.settle(1)
    rng = random.Random(a.seed)
    failed = 0
    with tempfile.TemporaryDirectory() as work:
        for number in range(a.count + a.count // 2):
            path = os.path.join(work, "picture.png")
            data = golden_images.transparent_picture(rng)
            with open(path, "wb") as file:
                file.write(data if number < a.count else cut(rng, data))
            wrong = check(a.binary, path, f"{rng.randrange(1 << 24):06x}")
            if wrong:
                failed += 1
                kept = os.path.join(tempfile.gettempdir(), f"random_png_{a.seed}_{number}.png")
                os.replace(path, kept)
                print(f"  {kept}: {wrong}")
    print(f"{a.count} transparent PNGs and {a.count // 2} that end early, against transformers and Pillow")
    print(f"{a.count + a.count // 2 - failed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
