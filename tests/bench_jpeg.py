#!/usr/bin/env python3
"""JPEG decoding beside Pillow's: CPU time of one thread from a file's bytes in memory to RGB, taken in turn.

Ten pictures of 12 to 48 megapixels as cameras and photo editors write them are made in build/jpeg_pictures from those
in tests/pictures: enlarged, with texture and sensor noise, so that a pixel takes 2 to 4.5 bits. Each round is a process
with Pillow and one with the program, and each decodes the picture three times: the first one includes what the system
needs to give out memory (of which Pillow takes four bytes a pixel), the others find that memory in the process. Shown
are the fastest first and the fastest later one.

    make bench-jpeg [BENCH="--pick 12mp --rounds 9"]
    python tests/bench_jpeg.py build/bench_jpeg [--rounds 3] [--pick WORD] [--most RATIO] [FILE...]

--pick takes only those whose name has the word. Exit code 1 if a ratio exceeds --most, or a pixel is not Pillow's.
"""
import argparse
import io
import os
import pathlib
import subprocess
import sys
import time
import zlib

import numpy as np
from PIL import Image, features

TIMES = 3
# glibc keeps what is freed, however large, so that the next picture finds it.
KEEP = {"MALLOC_MMAP_THRESHOLD_": str(1 << 31), "MALLOC_TRIM_THRESHOLD_": str(1 << 33)}
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


def pillow(path):
    """What tests/bench_jpeg.c does, with Pillow."""
    data = path.read_bytes()
    tiny = io.BytesIO()
    Image.new("RGB", (8, 8)).save(tiny, "JPEG")
    Image.open(tiny).load()                 # imports what there is to import
    for _ in range(TIMES):
        start = time.process_time()
        image = Image.open(io.BytesIO(data))
        image.load()                        # RGB already; convert("RGB") would copy it once more
        print(f"{time.process_time() - start:.6f} {zlib.crc32(image.convert('RGB').tobytes()):08x}", flush=True)
        del image


def decode(command):
    """CPU seconds of each time, and the pixels' CRC-32."""
    run = subprocess.run(command, capture_output=True, check=True, text=True, env=os.environ | KEEP)
    seconds, crc = zip(*(line.split() for line in run.stdout.splitlines()))
    return [float(one) for one in seconds], crc


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program")
    parser.add_argument("files", nargs="*", type=pathlib.Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--pick", default="")
    parser.add_argument("--most", type=float)
    args = parser.parse_intermixed_args()
    processor = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")),
                     "unknown processor") if pathlib.Path("/proc/cpuinfo").exists() else "unknown processor"
    print(f"{processor}; libjpeg-turbo {features.version('libjpeg_turbo')} of Pillow {Image.__version__}")
    half = f" {'Pillow s':>8} {'ours s':>8} {'ratio':>6}"
    print(f"{'':30}   bits/ {'first':>8} {'':15} {'later':>8}")
    print(f"{'':24} {'MP':>5} {'pixel':>7}{half}{half}")
    worst = 0
    for path in args.files or make(args.pick):
        theirs, ours = [], []
        for _ in range(args.rounds):
            seconds, crc = decode([sys.executable, __file__, "--pillow", path])
            theirs.append(seconds)
            seconds, our_crc = decode([args.program] + [path] * TIMES)
            ours.append(seconds)
            if our_crc != crc:
                sys.exit(f"{path}: the pixels are not Pillow's")
        with Image.open(path) as image:
            pixels = image.width * image.height
        line = f"{path.stem:24} {pixels / 1e6:5.1f} {path.stat().st_size * 8 / pixels:7.2f}"
        for times in (slice(0, 1), slice(1, None)):
            a, b = (min(min(seconds[times]) for seconds in side) for side in (theirs, ours))
            worst = max(worst, b / a)
            line += f" {a:8.3f} {b:8.3f} {b / a:6.2f}"
        print(line, flush=True)
    print(f"worst ratio {worst:.2f}; all pixels are Pillow's")
    if args.most and worst > args.most:
        sys.exit(f"more than {args.most}")


if sys.argv[1:2] == ["--pillow"]:
    pillow(pathlib.Path(sys.argv[2]))
else:
    main()
