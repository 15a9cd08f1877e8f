#!/usr/bin/env python3
"""Damaged JPEG files: does codecs/jpeg.c refuse what Pillow refuses, and are the pixels of all others Pillow's?

Makes files that Pillow's encoder and cjpeg write (baseline and progressive, all samplings, grey, RGB, CMYK, YCCK,
restart markers, several scans) and damages each: bytes and bits changed, cut out, put in, swapped, repeated; segments
and markers removed, repeated, changed, moved; the end cut off. build/decode reads them all in one process, best one
built with sanitizers. A difference is kept in a folder.

    make fuzz [FUZZ="--files 20000 --seed 7"]
    python tests/fuzz_jpeg.py [--files 2000] [--seed 1] [--decode build/decode] [--keep build/fuzz]

What may differ, and is counted apart: kinds that are not read here (arithmetic coding); a picture of one scan that
lacks only the end of its file (Pillow refuses some of those, by how the bits fall).
"""
import argparse
import collections
import io
import pathlib
import random
import shutil
import struct
import subprocess
import sys
import warnings
import zlib

import numpy as np
from PIL import Image, ImageFile, ImageOps, JpegImagePlugin

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import golden_jpeg as made  # noqa: E402

warnings.simplefilter("ignore")
Image.MAX_IMAGE_PIXELS = 1 << 23    # twice that is refused: no header that claims a vast picture slows the whole down


def tolerant_app(self, marker):
    """Metadata that Pillow cannot read cost a file its orientation here, not its picture."""
    start = self.fp.tell()
    try:
        plain_app(self, marker)
    except (IndexError, struct.error):
        self.fp.seek(start)
        JpegImagePlugin.Skip(self, marker)
    self.icclist = []
    self.info.pop("mp", None)


plain_app = JpegImagePlugin.APP
for code, (name, text, handler) in list(JpegImagePlugin.MARKER.items()):
    if handler is plain_app:
        JpegImagePlugin.MARKER[code] = name, text, tolerant_app


def pillow(data):
    """What Pillow makes of it: "pixels W H CRC", or "fails WHY"."""
    try:
        image = Image.open(io.BytesIO(data), formats=["JPEG"])
        image.load()
    except Exception as error:  # noqa: BLE001
        return f"fails {type(error).__name__}: {error}"
    try:
        image = ImageOps.exif_transpose(image)
    except Exception:  # noqa: BLE001
        pass
    image = image.convert("RGB")
    return f"pixels {image.width} {image.height} {zlib.crc32(image.tobytes()):08x}"


def whole_files(rng):
    """Sound files, small and not so small (those from some 3 KiB on take libjpeg's fast path)."""
    array = made.picture(rng.randint(1, 70), rng.randint(1, 70), 4, seed=rng.randint(0, 1 << 20))
    if rng.random() < 0.2:
        array = made.picture(rng.randint(100, 300), rng.randint(100, 300), 4, seed=rng.randint(0, 1 << 20))
    if rng.random() < 0.02:                                             # more than one piece of Pillow's 64 KiB
        array = made.picture(400, 400, 4, seed=rng.randint(0, 1 << 20))
    options = {"quality": rng.choice([10, 40, 75, 90, 97]), "progressive": rng.random() < 0.45}
    if rng.random() < 0.3:
        options["restart_marker_blocks"] = rng.choice([1, 2, 3, 5, 20])
    elif rng.random() < 0.2:
        options["restart_marker_rows"] = rng.choice([1, 2])
    if rng.random() < 0.3:
        options["optimize"] = True
    kind = rng.choice(["RGB"] * 6 + ["L", "CMYK", "YCCK", "adobe"] + ["scans"] * bool(shutil.which("cjpeg")))
    bands = {"L": 1, "CMYK": 4, "YCCK": 4}.get(kind, 3)
    if kind == "scans":
        script = rng.choice(["0;1;2;", "0;1,2;", "0,1;2;", "0,1,2:0-0,0,0;", "0,1,2:0-0,0,1;0:1-9,0,2;0:1-9,2,1;",
                             "0:0-0,0,0;1,2:0-0,0,1;0:1-63,0,0;", "0,1,2:0-0,0,0;0:1-63,0,2;1:1-63,0,1;"])
        more = ["-restart", rng.choice(["1", "3B", "1B"])] if rng.random() < 0.4 else []
        return made.cjpeg(array[..., :3].copy(), "-quality", str(options["quality"]), "-sample",
                          rng.choice(["1x1", "2x1", "2x2", "1x2", "4x1", "1x4", "2x2,1x2,2x1"]), *more,
                          scans=script)[0]
    if bands == 3:
        options["subsampling"] = rng.choice([0, 1, 2, 2])
    piece, ImageFile.MAXBLOCK = ImageFile.MAXBLOCK, 1 << 22             # or Pillow cannot write large noisy pictures
    data = made.pil(array[..., :bands].copy(), **options)
    ImageFile.MAXBLOCK = piece
    if kind == "YCCK":
        data = made.after_soi(made.without(data, 0xee), made.adobe(2))
    if kind == "adobe":
        data = made.after_soi(made.without(data, 0xe0), made.adobe(rng.choice([0, 1, 2])))
    if rng.random() < 0.15:
        data = made.after_soi(data, made.exif(rng.randint(0, 9)))
    if rng.random() < 0.1:
        data = made.after_soi(data, made.segment(0xfe, b"a comment"))
    if rng.random() < 0.05:                                             # the end of Pillow's first piece in the scan
        data = made.after_soi(data, made.segment(0xed, bytes(max(0, 65530 - rng.randrange(len(data))))))
    if rng.random() < 0.1 and not options["progressive"]:
        data = made.put(data, made.find(data, 0xc0)[0] + 1, 0xc1)
    return data


def pieces(data):
    """Where the file may be cut: at each marker, in scans too."""
    return [i for i in range(len(data) - 1) if data[i] == 0xff and data[i + 1] not in (0, 0xff)]


def damage(rng, data):
    data = bytearray(data)
    headers_end = data.find(b"\xff\xda") + 2
    for _ in range(rng.choice([1, 1, 1, 1, 2, 2, 3, 5, 10])):
        if len(data) < 20:
            break
        low = rng.choice([2, 2, headers_end, headers_end, headers_end, headers_end])
        low = min(low, len(data) - 4)
        at = rng.randrange(low, len(data) - 2)
        other = rng.randrange(low, len(data) - 2)
        size = rng.choice([1, 1, 2, 3, 8, 30, 200])
        markers = pieces(data) or [2]
        marker = rng.choice(markers)
        after = next((m for m in markers if m > marker), len(data))
        what = rng.randrange(20)
        if what == 0:
            data[at] = rng.randrange(256)
        elif what == 1:
            data[at] ^= 1 << rng.randrange(8)
        elif what == 2:
            del data[at:at + size]
        elif what == 3:
            data[at:at] = bytes(rng.randrange(256) for _ in range(size))
        elif what == 4:
            data[at], data[other] = data[other], data[at]
        elif what == 5:
            data[other:other] = data[at:at + size]
        elif what == 6:
            data[at:at + size] = bytes(size)
        elif what == 7:
            data[at:at + size] = b"\xff" * size
        elif what == 8:
            del data[marker:after]                                      # a segment, or the scan up to a restart marker
        elif what == 9:
            data[after:after] = data[marker:after]
        elif what == 10:
            piece = data[marker:after]
            del data[marker:after]
            to = rng.choice(pieces(data) or [2])
            data[to:to] = piece
        elif what == 11:
            data[marker + 1] = rng.choice([*range(0xd0, 0xda), 0xc0, 0xc2, 0xc4, 0xda, 0xdb, 0xdd, 0xfe, 0xe0, 1, 5])
        elif what == 12:
            data[at:at] = bytes([0xff, rng.choice([*range(0xd0, 0xd8), 0xd9, 1, 2, 0xc0, 0xc4, 0xfe, 0xe1, 0xff, 0])])
        elif what == 13 and after - marker > 4:
            data[marker + 2:marker + 4] = struct.pack(">H", rng.choice([0, 1, 2, 3, after - marker, 60000]))
        elif what == 14 and after - marker > 5:
            data[rng.randrange(marker + 2, min(after, marker + 40))] = rng.randrange(256)
        elif what == 15:
            data[at:at + 2] = rng.choice([b"\xff\xd9", b"\xff\xff", b"\xff\0", b"\xff\xd0"])
        elif what == 16 and rng.random() < 0.3:
            del data[at:]                                               # cut off
        elif what == 17:
            data[at:] = data[at:at + size] + b"\xff\xd9"                # ends early
        elif what == 18:
            data[marker + 2:marker + 2] = bytes(rng.randrange(256) for _ in range(size))
        elif what == 19:
            stuffed = [i for i in range(headers_end, len(data) - 1) if data[i] == 0xff and data[i + 1] == 0]
            for i in reversed(rng.sample(stuffed, min(len(stuffed), rng.choice([1, 2, 5])))):
                data[i:i] = b"\xff" * rng.choice([1, 1, 2])
    return bytes(data)


def ours(program, files):
    """build/decode's lines. It ends where a sanitizer finds something: say where."""
    stream = b"".join(struct.pack("<I", len(data)) + data for data in files)
    result = subprocess.run([program], input=stream, capture_output=True)
    found = result.stdout.decode(errors="replace").splitlines()
    if result.returncode or len(found) != len(files):
        sys.stderr.write(result.stderr.decode(errors="replace")[-4000:])
    return found


def judge(data, theirs, mine):
    """None where both agree; else what is different."""
    mine_pixels = " ".join(mine.split()[:4]) if mine.startswith("pixels") else None
    if theirs.startswith("fails"):
        if mine_pixels is None:
            return "both refuse"
        if pillow(data + b"\xff\xd9") == mine_pixels:
            return "only its end missing"
        return None
    if mine_pixels == theirs:
        return "same pixels" + (", with a note" if len(mine.split()) > 4 else "")
    if mine_pixels is None and ("is not read" in mine or "too often" in mine):
        return "a kind not read here"
    return None


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--decode", default="build/decode")
    parser.add_argument("--keep", type=pathlib.Path, default=pathlib.Path("build/fuzz"))
    arguments = parser.parse_args()
    rng = random.Random(arguments.seed)
    counts, different = collections.Counter(), 0
    if not shutil.which("cjpeg"):
        print("cjpeg is not installed: no files of several sequential scans, no unusual progressive ones")
    batch = 200
    for first in range(0, arguments.files, batch):
        files = []
        while len(files) < min(batch, arguments.files - first):
            whole = whole_files(rng)
            files += [damage(rng, whole) for _ in range(10)]
        files = files[:arguments.files - first]
        found = ours(arguments.decode, files)
        for i, data in enumerate(files):
            theirs = pillow(data)
            mine = found[i] if i < len(found) else "crashed"
            verdict = judge(data, theirs, mine)
            if verdict:
                counts[verdict] += 1
                continue
            different += 1
            arguments.keep.mkdir(parents=True, exist_ok=True)
            path = arguments.keep / f"{arguments.seed}_{first + i}.jpg"
            path.write_bytes(data)
            print(f"{path}: Pillow: {theirs}; here: {mine}")
            if mine == "crashed":
                break
    for verdict, count in counts.most_common():
        print(f"{count:7} {verdict}")
    print(f"{arguments.files - different} passed, {different} failed: {arguments.files} damaged JPEG files, seed "
          f"{arguments.seed}")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
