#!/usr/bin/env python3
"""JPEG decoding beside Pillow's: CPU time of one thread from a file's bytes in memory to RGB, taken in turn.

Ten pictures of 12 to 48 megapixels as cameras and photo editors write them are made in build/jpeg_pictures from those
in tests/pictures: enlarged, with texture and sensor noise, so that a pixel takes 2 to 4.5 bits. For each the fastest of
the rounds is shown, Pillow's and ours, and their ratio.

    make bench-jpeg [BENCH="--pick 12mp --rounds 9"]
    python tests/bench_jpeg.py build/bench_jpeg [--rounds 5] [--pick WORD] [--most RATIO] [FILE...]

--pick takes only those whose name has the word. Exit code 1 if a ratio exceeds --most, or a pixel is not Pillow's.
"""
import argparse
import io
import pathlib
import subprocess
import sys
import time
import zlib

import numpy as np
from PIL import Image, features

ROOT = pathlib.Path(__file__).parent.parent
PICTURES = ROOT / "build" / "jpeg_pictures"
# name, width, height, options of Pillow's encoder; subsampling 0: 4:4:4, 1: 4:2:2, 2: 4:2:0
KINDS = (
    ("12mp_420", 4000, 3000, dict(quality=92, subsampling=2)),
    ("12mp_422", 4032, 3024, dict(quality=95, subsampling=1)),
    ("16mp_420_optimised", 4608, 3456, dict(quality=90, subsampling=2, optimize=True)),
    ("16mp_420_progressive", 4928, 3264, dict(quality=85, subsampling=2, progressive=True)),
    ("20mp_422_restarts", 5472, 3648, dict(quality=92, subsampling=1, restart_marker_rows=1)),
    ("24mp_444", 6000, 4000, dict(quality=92, subsampling=0)),
    ("24mp_420_progressive", 6000, 4000, dict(quality=93, subsampling=2, progressive=True)),
    ("36mp_444_optimised", 7360, 4912, dict(quality=90, subsampling=0, optimize=True)),
    ("48mp_420", 8000, 6000, dict(quality=88, subsampling=2)),
    ("48mp_444_progressive", 8000, 6000, dict(quality=88, subsampling=0, progressive=True)),
)


def photograph(width, height, seed):
    """Photographs side by side, six times enlarged and turned in several ways, with finer detail where they have some,
    and a sensor's noise."""
    rng = np.random.default_rng(seed)
    out = Image.new("RGB", (width, height))
    sources = [Image.open(ROOT / "tests" / "pictures" / name).convert("RGB") for name in ("cat.jpg", "coffee.jpg")]
    y = 0
    while y < height:
        x, tallest = 0, 0
        while x < width:
            part = sources[rng.integers(2)]
            part = part.resize((part.width * 6, part.height * 6), Image.Resampling.BICUBIC)
            if rng.integers(2):
                part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            out.paste(part, (x, y))
            x, tallest = x + part.width, max(tallest, part.height)
        y += tallest
    pixels = np.asarray(out).astype(np.float32)
    del out
    for octave in (1, 2, 4):
        small = rng.standard_normal((height // octave + 1, width // octave + 1), np.float32)
        noise = np.repeat(np.repeat(small, octave, 0), octave, 1)[:height, :width]
        contrast = 2 + np.abs(np.gradient(pixels[..., 1], axis=1)) * 2
        pixels += (noise * np.minimum(contrast, 16))[..., None]
    for band in range(3):
        pixels[..., band] += rng.standard_normal((height, width), np.float32) * (4.5, 3, 5)[band]
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


def make(word):
    PICTURES.mkdir(parents=True, exist_ok=True)
    for seed, (name, width, height, options) in enumerate(KINDS):
        path = PICTURES / f"{name}.jpg"
        if word in name and not path.exists():
            photograph(width, height, seed).save(path, **options)
        if word in name:
            yield path


def pillow(data):
    start = time.process_time()
    image = Image.open(io.BytesIO(data))
    image.load()                            # RGB already; convert("RGB") would copy it once more
    return time.process_time() - start, image


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("files", nargs="*", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pick", default="")
    parser.add_argument("--most", type=float)
    args = parser.parse_args()
    processor = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")),
                     "unknown processor") if pathlib.Path("/proc/cpuinfo").exists() else "unknown processor"
    print(f"{processor}; libjpeg-turbo {features.version('libjpeg_turbo')} of Pillow {Image.__version__}")
    print(f"{'':24} {'MP':>5} {'bits/pixel':>10} {'Pillow s':>9} {'ours s':>9} {'ratio':>6}")
    worst = 0
    for path in args.files or make(args.pick):
        data = path.read_bytes()
        theirs, ours = [], []
        for _ in range(args.rounds):
            seconds, image = pillow(data)
            theirs.append(seconds)
            pixels, crc = image.width * image.height, zlib.crc32(image.convert("RGB").tobytes())
            del image
            run = subprocess.run([args.program, path], capture_output=True, check=True, text=True)
            seconds, our_crc = run.stdout.split()
            ours.append(float(seconds))
            if int(our_crc, 16) != crc:
                sys.exit(f"{path}: the pixels are not Pillow's")
        ratio = min(ours) / min(theirs)
        worst = max(worst, ratio)
        print(f"{path.stem:24} {pixels / 1e6:5.1f} {len(data) * 8 / pixels:10.2f} {min(theirs):9.3f} {min(ours):9.3f} "
              f"{ratio:6.2f}", flush=True)
    print(f"worst ratio {worst:.2f}; all pixels are Pillow's")
    if args.most and worst > args.most:
        sys.exit(f"more than {args.most}")


main()
