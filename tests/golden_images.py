"""Writes tests/golden/images: small pictures of every kind that image.c reads, and what Pillow and transformers make of
them. tests/test_image.c reads the manifest; the JPEG pictures have their own script, folder and manifest.

usage:  python tests/golden_images.py          (from the repository root)
needs:  pillow, numpy, transformers

The manifest's lines, paths relative to it, "#" begins a comment:
  pixels FILE WIDTH HEIGHT CRC                    ImageOps.exif_transpose(Image.open(FILE)).convert("RGB")
  resize FILE WIDTH HEIGHT CRC                    the same, then .resize((WIDTH, HEIGHT), LANCZOS)
  split  FILE LONGEST SIDE SPLIT ROWS COLS COUNT CRC    SmolVLMImageProcessorPil without the normalisation
  paint  FILE RRGGBB CRC                          Image.alpha_composite of its convert("RGBA") over that colour
  hides  FILE 0|1                                 whether transparent pixels keep their colours; if so, it has a note
  fails  FILE TEXT                                an error whose sentence contains TEXT
CRC is zlib.crc32 of the bytes, [height, width, 3] or [count, side, side, 3], in hexadecimal.

To add a picture, put it into pictures(), transparent() or broken(); every entry gets its lines by itself. Pillow cannot
write most kinds of PNG (16-bit RGB, Adam7, chosen filters and block types), so png() below does. The files case_*.png
are not written here but read: they come from elsewhere.
"""
import glob
import io
import os
import random
import struct
import warnings
import zlib

import numpy as np
from PIL import Image, ImageOps

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "golden", "images")
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


# ------------------------------------------------------------------------------------------------ a PNG encoder

def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def scanline(samples, depth):
    """samples: integers of one line, channels side by side."""
    if depth == 16:
        return b"".join(struct.pack(">H", s) for s in samples)
    bits = "".join(format(s, f"0{depth}b") for s in samples)
    bits += "0" * (-len(bits) % 8)
    return int(bits or "0", 2).to_bytes(len(bits) // 8, "big")


def filtered(line, above, pixel, kind):
    out = bytearray()
    for i, byte in enumerate(line):
        a = line[i - pixel] if i >= pixel else 0
        b = above[i]
        c = above[i - pixel] if i >= pixel else 0
        p = a + b - c
        paeth = min((abs(p - a), 0, a), (abs(p - b), 1, b), (abs(p - c), 2, c))[2]
        out.append((byte - (0, a, b, (a + b) // 2, paeth)[kind]) & 255)
    return bytes([kind]) + bytes(out)


def deflate(raw, level=9, strategy=zlib.Z_DEFAULT_STRATEGY):
    z = zlib.compressobj(level, zlib.DEFLATED, 15, 8, strategy)
    return z.compress(raw) + z.flush()


def png(array, depth, color, interlace=False, filters=(0, 1, 2, 3, 4), before=(), after=(), parts=1, level=9,
        strategy=zlib.Z_DEFAULT_STRATEGY, tail=chunk(b"IEND", b"")):
    """array: [height, width, channels] integers below 2^depth. before, after: (name, data) around the IDAT chunks, into
    which the stream is cut in so many parts."""
    height, width = array.shape[:2]
    pixel = (CHANNELS[color] * depth + 7) // 8
    raw, n = b"", 0
    for x0, y0, dx, dy in ADAM7 if interlace else ((0, 0, 1, 1),):
        part = array[y0::dy, x0::dx]
        if part.size == 0:
            continue
        above = None
        for line in part.reshape(part.shape[0], -1):
            line = scanline([int(s) for s in line], depth)
            raw += filtered(line, above or bytes(len(line)), pixel, filters[n % len(filters)])
            above, n = line, n + 1
    stream = deflate(raw, level, strategy)
    cuts = [len(stream) * i // parts for i in range(parts + 1)]
    idat = [(b"IDAT", stream[a:b]) for a, b in zip(cuts, cuts[1:])]
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, int(interlace))
    chunks = [(b"IHDR", header), *before, *idat, *after]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*c) for c in chunks) + tail


def with_stream(data, change):
    """The PNG with the IDAT chunks that change makes of its stream (a list; None for another chunk in their place)."""
    before, idat, after, at = b"", b"", b"", 8
    while at < len(data):
        end = at + 12 + int.from_bytes(data[at:at + 4], "big")
        if data[at + 4:at + 8] == b"IDAT":
            idat += data[at + 8:end - 4]
        elif idat:
            after += data[at:end]
        else:
            before += data[at:end]
        at = end
    chunks = [chunk(b"tEXt", b"a\0b") if part is None else chunk(b"IDAT", part) for part in change(idat)]
    return data[:8] + before + b"".join(chunks) + after


def tiff(orientation, order=">", more=()):
    """A TIFF block that states an orientation, after the entries more = (tag, type, count, value)."""
    entries = sorted([*more, (274, 3, 1, orientation)])
    pack = lambda *e: struct.pack(order + "HHI", *e[:3]) + (
        struct.pack(order + "HH", e[3], 0) if e[1] == 3 else struct.pack(order + "I", e[3]))
    head = (b"MM\0*" if order == ">" else b"II*\0") + struct.pack(order + "I", 8)
    return head + struct.pack(order + "H", len(entries)) + b"".join(pack(*e) for e in entries) + bytes(4)


def xmp(orientation, attribute=True):
    element = f"><tiff:Orientation>{orientation}</tiff:Orientation>"
    inner = f' tiff:Orientation="{orientation}"/>' if attribute else element
    return f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description{inner}</x:xmpmeta>'.encode()


def raw_profile(block):
    block = b"Exif\0\0" + block
    return f"\nexif\n{len(block):8}\n{block.hex()}\n".encode()


def samples(rng, height, width, channels, top):
    """A gradient with noise, so that filters and codes have something to do."""
    y, x, c = np.mgrid[0:height, 0:width, 0:channels]
    smooth = (x * (3 + c) + y * (5 - c)) / (3.0 * width + 5.0 * height + 1)
    noise = np.array([rng.random() for _ in range(y.size)]).reshape(y.shape)
    return np.clip((smooth + 0.3 * noise * noise) * (top + 1), 0, top).astype(int)


# ------------------------------------------------------------------------------------------------ the pictures

def pictures(rng):
    """FILE -> bytes of every picture that is read."""
    files = {}
    for color, depths in DEPTHS.items():
        for depth in depths:
            for interlace in (False, True):
                array = samples(rng, 11, 13, CHANNELS[color], 2 ** depth - 1)
                before = []
                if color == 3:
                    entries = 2 ** depth if depth < 8 else 200              # a palette shorter than the indices
                    before = [(b"PLTE", bytes(rng.randrange(256) for _ in range(3 * entries))),
                              (b"tRNS", bytes([255, 0, 128][: min(3, entries)]))]
                elif color == 0 and not interlace:
                    before = [(b"tRNS", struct.pack(">H", int(array[3, 3, 0])))]
                elif color == 2 and not interlace:
                    before = [(b"tRNS", struct.pack(">HHH", *(int(s) for s in array[3, 3])))]
                files[f"color{color}_{depth}bit{'_adam7' if interlace else ''}.png"] = png(
                    array, depth, color, interlace, before=before)
    for width, height in ((1, 1), (2, 5), (5, 2), (1, 9)):
        array = samples(rng, height, width, 3, 255)
        files[f"adam7_{width}x{height}.png"] = png(array, 8, 2, True)
        files[f"plain_{width}x{height}.png"] = png(array, 8, 2)

    array = samples(rng, 40, 50, 3, 255)
    files["stored.png"] = png(array[:16], 8, 2, level=0)
    files["fixed.png"] = png(array, 8, 2, strategy=zlib.Z_FIXED)
    files["huffman_only.png"] = png(array, 8, 2, strategy=zlib.Z_HUFFMAN_ONLY)
    files["runs.png"] = png(np.full((300, 300, 3), 77), 8, 2, filters=(0,))
    files["many_idat.png"] = png(array, 8, 2, parts=97)
    files["stored_many_idat.png"] = png(array[:16], 8, 2, level=0, parts=31)
    files["no_iend.png"] = png(array[:8], 8, 2, tail=b"")
    files["no_checksum.png"] = with_stream(files["fixed.png"], lambda stream: [stream[:-4]])
    files["no_palette.png"] = png(array[:8, :, :1], 8, 3)

    small = samples(rng, 5, 7, 3, 255)
    for orientation in range(10):
        block = tiff(orientation, "<>"[orientation % 2])
        files[f"exif_{orientation}.png"] = png(small, 8, 2, before=[(b"eXIf", block)])
    xml, raw = b"XML:com.adobe.xmp", b"Raw profile type exif"
    for name, before, after in (
            ("exif_after", [], [(b"eXIf", tiff(6))]),
            ("exif_long", [(b"eXIf", tiff(5, more=[(256, 4, 1, 7), (270, 2, 1, 0)]))], []),
            ("exif_tag_outside", [(b"eXIf", tiff(5, more=[(270, 2, 20, 5000)]))], []),
            ("exif_tag_huge", [(b"eXIf", tiff(5, more=[(270, 2, 90000, 8)]))], []),
            ("xmp", [(b"iTXt", xml + bytes(5) + xmp(8))], []),
            ("xmp_deflated", [], [(b"iTXt", xml + b"\0\1\0en\0x\0" + zlib.compress(xmp(7, False)))]),
            ("xmp_and_exif", [(b"iTXt", xml + bytes(5) + xmp(8)), (b"eXIf", tiff(1))], []),
            ("raw_profile", [(b"tEXt", raw + b"\0" + raw_profile(tiff(6)))], []),
            ("raw_profile_deflated", [(b"zTXt", raw + b"\0\0" + zlib.compress(raw_profile(tiff(3))))], [])):
        files[f"{name}.png"] = png(small, 8, 2, before=before, after=after)

    for maxval in (1, 3, 100, 255, 256, 1000, 65535):
        gray = samples(rng, 6, 9, 1, maxval)
        color = samples(rng, 6, 9, 3, maxval)
        pack = lambda a: a.astype(">u2" if maxval > 255 else "u1").tobytes()
        text = lambda a: "\n".join(" ".join(map(str, line)) for line in a.reshape(6, -1)).encode()
        files[f"p2_{maxval}.pgm"] = b"P2\n# a comment\n9 6\n%d\n" % maxval + text(gray) + b"\n"
        files[f"p3_{maxval}.ppm"] = b"P3 9 6\n%d\n" % maxval + text(color)
        files[f"p5_{maxval}.pgm"] = b"P5\n9 6\n%d\n" % maxval + pack(gray)
        files[f"p6_{maxval}.ppm"] = b"P6\n9 6 #c\n%d\n" % maxval + pack(color)
    files["p5_above_maxval.pgm"] = b"P5 4 1 100\n" + bytes([99, 100, 101, 255])
    files["p1.pbm"] = b"P1\n# bits\n10 3\n1 0 1 0101101\n#x\n0000011111\n1111100000\n"
    files["p4.pbm"] = b"P4\n11 3\n" + bytes([0xA5, 0x60, 0x00, 0x1F, 0xFF, 0x80])
    files["comments.ppm"] = b"P3\n#one\n2#two\n\n#three\r\n1\n255\n1 2 3#four\n 4 5 6"

    # Pictures to resize and to cut.
    for name, width, height in (("wide", 90, 41), ("tall", 33, 120), ("square", 64, 64), ("line", 200, 1)):
        array = samples(rng, height, width, 3, 255).astype("u1")
        files[f"{name}.ppm"] = b"P6\n%d %d\n255\n" % (width, height) + array.tobytes()
    return files


def palette_alphas(rng, entries):
    """A tRNS chunk of a palette, of every kind that makes a difference."""
    one = bytearray(b"\xff" * rng.randrange(1, entries + 1))
    one[rng.randrange(len(one))] = 0
    return rng.choice((
        bytes(one), bytes(one), bytes(one),                                         # one entry fully transparent
        bytes(one) + b"\n",                                                         # Pillow's $ looks past a line end
        bytes(one) + bytes([rng.randrange(256)]),
        bytes(rng.choice((0, 255)) for _ in range(entries)),
        bytes(rng.randrange(256) for _ in range(rng.randrange(entries + 1))),
        b"\xff" * entries,
        b"\xff" * rng.choice((255, 256, 300)) + b"\0",                              # beyond the palette
        bytes(rng.choice((0, 255, 255, 99)) for _ in range(300))))


def transparent_picture(rng):
    """A small picture of a random kind with a tRNS chunk or alpha channel, or both. Few values, so that the transparent
    one occurs."""
    color = rng.choice((0, 0, 2, 2, 3, 3, 4, 6))
    depth = rng.choice(DEPTHS[color])
    height, width = rng.randrange(1, 20), rng.randrange(1, 20)
    entries = min(2 ** depth, rng.choice((3, 5, 200)))
    levels = [rng.randrange(2 ** depth) for _ in range(3)] + [0, 2 ** depth - 1]
    if depth == 16:
        levels += [rng.randrange(256), levels[0] & 0xff00, levels[1] >> 8, levels[1] >> 8 << 8 | levels[1] >> 8]
    pixels = [[rng.choice(levels) for _ in range(CHANNELS[color])] for _ in range(rng.randrange(2, 8))]
    if color == 3:
        pixels = [[rng.randrange(min(2 ** depth, entries + 1))] for _ in pixels]
    if color > 3 and rng.random() < 0.2:
        for pixel in pixels:
            pixel[-1] = 2 ** depth - 1                                              # opaque after all
    array = np.array([[rng.choice(pixels) for _ in range(width)] for _ in range(height)])
    before, after = [], []
    if color == 3 and rng.random() < 0.95:
        colors = [[rng.choice((0, 10, 255)) for _ in range(3)] for _ in range(4)]   # the same colour more than once
        before.append((b"PLTE", bytes(c for _ in range(entries) for c in rng.choice(colors))))
    elif rng.random() < 0.1:
        before.append((b"PLTE", bytes(30)))                                         # a suggestion, of no effect
    for _ in range(rng.choice((0, 1, 1, 1, 2)) if color > 3 else rng.choice((1, 1, 1, 1, 1, 2))):
        value = [s ^ rng.choice((0, 0, 0, 0, 0x100, 0xff00, 1)) for s in rng.choice(pixels)]
        value = [s >> 8 if depth == 16 and rng.random() < 0.3 else s for s in value]
        trns = palette_alphas(rng, entries) if color == 3 else struct.pack(f">{len(value)}H", *value)
        trns += bytes(rng.choice((0, 0, 0, 1, 4)))                                  # a longer one is as good
        place = rng.choice((before, before, before, after))
        place.insert(rng.randrange(len(place) + 1), (b"tRNS", trns))
    if rng.random() < 0.4:
        before.append((b"eXIf", tiff(rng.randrange(1, 9))))
    return png(array, depth, color, rng.random() < 0.3, before=before, after=after, parts=rng.choice((1, 1, 3)))


def transparent(rng):
    """FILE -> bytes of pictures that are transparent in every way there is."""
    files = {}
    for depth in DEPTHS[0]:
        array = samples(rng, 9, 12, 1, 2 ** depth - 1)
        level = int(array[4, 4, 0])
        for name, value in (("", level), ("_0", 0), ("_high", level | 0x300), ("_low", 0x300)):
            files[f"trns_gray{depth}{name}.png"] = png(array, depth, 0, before=[(b"tRNS", struct.pack(">H", value))])
    for depth in DEPTHS[2]:
        array = np.repeat(np.repeat(samples(rng, 5, 7, 3, 2 ** depth - 1), 3, 0), 2, 1)
        top = [int(s) >> (depth - 8) for s in array[4, 4]]
        for name, value in (("", array[4, 4]), ("_top", top), ("_low", [s | 0x4200 for s in top])):
            files[f"trns_rgb{depth}{name}.png"] = png(
                array, depth, 2, depth == 8, before=[(b"tRNS", struct.pack(">HHH", *(int(s) for s in value)))])
    array = samples(rng, 9, 12, 1, 7)
    palette = (b"PLTE", bytes([250, 10, 10, 10, 10, 250, 10, 160, 10, 0, 0, 0, 200, 200, 0, 250, 10, 10, 90, 90, 90]))
    for name, trns in (("first", b"\0"), ("one", b"\xff\xff\0\xff"), ("twice", b"\xff" * 5 + b"\0"), ("empty", b""),
                       ("many", b"\0\xff\0\x80\x01\xfe"), ("partial", b"\xff\x80"), ("opaque", b"\xff" * 7),
                       ("line_end", b"\xff\0\xff\n"), ("beyond", b"\xff" * 7 + b"\0"), ("unused", b"\xff" * 9 + b"\0"),
                       ("index_300", b"\xff" * 300 + b"\0"), ("long", b"\xff\0\x80" + bytes(300))):
        files[f"trns_palette_{name}.png"] = png(array, 8, 3, before=[palette, (b"tRNS", trns)])
    one, many = (b"tRNS", b"\xff\0"), (b"tRNS", b"\0\x60\xff\0")
    files["trns_before_palette.png"] = png(array, 4, 3, before=[one, palette])
    files["trns_no_palette.png"] = png(array, 4, 3, before=[one])
    files["trns_late_one.png"] = png(array, 4, 3, before=[palette], after=[one])
    files["trns_late_many.png"] = png(array, 4, 3, True, before=[palette, one], after=[many], parts=3)
    files["trns_late_gray.png"] = png(array, 8, 0, after=[(b"tRNS", b"\0\3")])
    files["trns_twice.png"] = png(array, 8, 0, before=[(b"tRNS", b"\0\3"), (b"tRNS", b"\0\5")])
    for color in (4, 6):
        for depth in (8, 16):
            array = samples(rng, 7, 10, CHANNELS[color], 2 ** depth - 1)
            for name, alphas in (("", array[:, :, -1]), ("_some", np.minimum(array[:, :, -1] * 3, 2 ** depth - 1)),
                                 ("_none", 2 ** depth - 1), ("_all", 0)):
                array[:, :, -1] = alphas
                files[f"alpha{color}_{depth}{name}.png"] = png(array, depth, color, name == "_some",
                                                               before=[(b"tRNS", b"\0")])
    for orientation in range(2, 9):
        exif = (b"eXIf", tiff(orientation))
        files[f"alpha_exif_{orientation}.png"] = png(samples(rng, 5, 7, 4, 255), 8, 6, before=[exif])
        files[f"trns_exif_{orientation}.png"] = png(samples(rng, 5, 7, 1, 3), 8, 3, before=[palette, one, exif])
    for i in range(24):
        files[f"trns_random_{i}.png"] = transparent_picture(rng)
    return files


def ends_in_match(stream):
    """Its beginning that makes all of the pixels, the last of them by a match that is in the last byte."""
    size = len(zlib.decompress(stream))
    return [stream[:next(n for n in range(len(stream)) if len(zlib.decompressobj().decompress(stream[:n])) == size)]]


def fewer_pixels(stream):
    return [deflate(zlib.decompress(stream)[:-30])]


def broken(files):
    """FILE -> (bytes, what the error's sentence says)."""
    good = files["color2_8bit.png"]
    idat = good.index(b"IDAT")
    header = lambda w, h, depth=8, color=2, rest=b"\0\0\0": b"\x89PNG\r\n\x1a\n" + chunk(
        b"IHDR", struct.pack(">IIBB", w, h, depth, color) + rest) + good[idat - 4:]
    adler = bytearray(files["fixed.png"])
    adler[-17] ^= 1                                                         # the last byte of the last IDAT's data
    zeros = png(np.zeros((40, 9, 1), int), 8, 0, filters=(0,))
    return {
        "idat_half.png": (with_stream(good, lambda s: [s[:len(s) // 2]]), "cut short"),
        "idat_parts.png": (with_stream(good, lambda s: [s[:60], b"", s[60:len(s) - 40]]), "cut short"),
        "idat_adam7.png": (with_stream(files["color2_8bit_adam7.png"], lambda s: [s[:len(s) - 60]]), "cut short"),
        "idat_stored.png": (with_stream(files["stored.png"], lambda s: [s[:len(s) - 5]]), "cut short"),
        "idat_empty.png": (with_stream(good, lambda s: [b""]), "cut short"),
        "idat_apart.png": (with_stream(good, lambda s: [s[:60], None, s[60:]]), "cut short"),
        "idat_match.png": (with_stream(zeros, ends_in_match), "cut short"),
        "idat_short_adam7.png": (with_stream(files["color2_8bit_adam7.png"], fewer_pixels), "fewer pixels"),
        "empty.png": (b"", "empty"),
        "cut.png": (good[:idat + 60], "cut short"),
        "cut_header.png": (good[:20], "cut short"),
        "crc.png": (good[:20] + bytes([good[20] ^ 1]) + good[21:], "checksum"),
        "adler.png": (bytes(adler), "checksum of its pixels"),
        "line_ends.png": (good.replace(b"\r\n", b"\n", 1), "line ends"),
        "no_pixels.png": (good[:33] + chunk(b"IEND", b""), "no pixels"),
        "zero.png": (header(0, 5), "no pixels"),
        "wide.png": (header(100000, 1), "too many"),
        "large.png": (header(65535, 65535), "too many"),
        "bomb.png": (header(10000, 10000), "cut short"),
        "depth.png": (header(13, 11, 3), "3 bits"),
        "color.png": (header(13, 11, 8, 5), "colour type 5"),
        "filter_method.png": (header(13, 11, 8, 2, b"\0\1\0"), "filter method"),
        "filter.png": (header(13, 11)[:33] + chunk(b"IDAT", deflate(b"\5" + bytes(600))), "filter 5"),
        "deflate.png": (header(13, 11)[:33] + chunk(b"IDAT", b"x\x9c\xff\xff\xff\xff" * 9), "decompressed"),
        "short.png": (header(13, 11)[:33] + chunk(b"IDAT", deflate(bytes(40 * 5))), "fewer pixels"),
        "trns_gray.png": (png(np.zeros((2, 2, 1), int), 8, 0, before=[(b"tRNS", b"\0")]), "tRNS chunk is too short"),
        "trns_rgb.png": (png(np.zeros((2, 2, 3), int), 8, 2, before=[(b"tRNS", bytes(5))]), "tRNS chunk is too short"),
        "trns_late.png": (png(np.zeros((2, 2, 3), int), 8, 2, after=[(b"tRNS", bytes(5))]), "tRNS chunk is too short"),
        "palette.png": (png(np.zeros((2, 2, 1), int), 8, 3, before=[(b"PLTE", bytes(3 * 257))]), "257 colours"),
        "cut.pgm": (b"P5\n9 9\n255\n" + bytes(80), "cut short"),
        "cut_ascii.pgm": (b"P2\n3 3\n255\n1 2 3 4 5 6 7 8    ", "cut short"),
        "cut_header.pgm": (b"P5\n9", "cut short"),
        "maxval.pgm": (b"P5\n1 1\n65536\n\0\0", "maximum"),
        "above.pgm": (b"P2\n1 1\n100\n101", "above its maximum"),
        "word.ppm": (b"P3\n1 1\n255\n1 two 3", "sample 2"),
        "zero.ppm": (b"P6\n0 4\n255\n", "no pixels"),
        "wide.ppm": (b"P6\n100000 1\n255\n", "too many"),
        "photo.webp": (b"RIFF\x24\0\0\0WEBPVP8 ", "photo.webp"),
        "photo.gif": (b"GIF89a\1\0\1\0", "GIF pictures are not read; convert it: magick"),
        "photo.bmp": (b"BM" + bytes(52), "BMP"),
        "photo.tif": (b"II*\0\x08\0\0\0", "TIFF"),
        "photo.avif": (b"\0\0\0\x1cftypavif" + bytes(16), "AVIF"),
        "photo.heic": (b"\0\0\0\x1cftypheic" + bytes(16), "HEIC"),
        "photo.jxl": (b"\xff\x0a" + bytes(16), "JPEG XL"),
        "film.mp4": (b"\0\0\0\x1cftypisom" + bytes(16), "a video"),
        "page.html": (b"<!DOCTYPE html><html></html>", "not a picture"),
    }


# ------------------------------------------------------------------------------------------------ the references

def crc(data):
    return format(zlib.crc32(bytes(data)), "08x")


def pixels(path, mode="RGB"):
    """The picture as transformers' load_image reads it. Its info may still name a transparent colour."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert(mode)


def paint(path, color):
    """The picture over a background, RRGGBB."""
    above = pixels(path, "RGBA")
    below = Image.new("RGBA", above.size, "#" + color)
    below.alpha_composite(above)
    return below.convert("RGB")


def hides(path):
    """Whether the processor leaves a pixel as it is that is transparent in the file."""
    seen = np.asarray(pixels(path).convert("RGBA"))[:, :, 3]
    return bool(np.any((np.asarray(pixels(path, "RGBA"))[:, :, 3] < 255) & (seen == 255)))


def split(image, longest, side, cut):
    """image: a path or what pixels() makes of it."""
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil
    processor = SmolVLMImageProcessorPil(
        size={"longest_edge": longest}, max_image_size={"longest_edge": side}, do_image_splitting=cut, do_pad=False,
        do_rescale=False, do_normalize=False, return_row_col_info=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        out = processor([image])
    tiles = np.stack([np.moveaxis(np.asarray(tile), 0, -1) for tile in out["pixel_values"][0]])
    assert tiles.dtype == np.uint8
    return out["rows"][0][0], out["cols"][0][0], tiles


def split_line(name, longest, side, cut):
    """By both ways into the processor, which must agree."""
    path = os.path.join(HERE, name)
    rows, cols, tiles = split(path, longest, side, cut)
    again = split(pixels(path), longest, side, cut)
    assert (rows, cols) == again[:2] and np.array_equal(tiles, again[2]), name
    return f"split {name} {longest} {side} {int(cut)} {rows} {cols} {len(tiles)} {crc(tiles.tobytes())}"


def is_transparent(name):
    with Image.open(os.path.join(HERE, name)) as image:
        image.load()                                                        # a chunk may stand behind the pixels
        return "A" in image.getbands() or "transparency" in image.info


def main():
    os.makedirs(HERE, exist_ok=True)
    rng = random.Random(20)
    files = pictures(rng)
    files.update(transparent(random.Random(21)))
    for path in sorted(glob.glob(os.path.join(HERE, "case_*.png"))):
        files[os.path.basename(path)] = open(path, "rb").read()
    lines = ["# written by tests/golden_images.py"]
    for name, data in files.items():
        path = os.path.join(HERE, name)
        open(path, "wb").write(data)
        image = pixels(path)
        lines.append(f"pixels {name} {image.width} {image.height} {crc(image.tobytes())}")
    for name, sizes in {"wide.ppm": ((90, 41), (91, 41), (90, 40), (180, 82), (30, 13), (7, 3), (1, 1), (45, 300)),
                        "tall.ppm": ((66, 240), (11, 40), (33, 1), (32, 121)), "square.ppm": ((63, 63), (200, 17)),
                        "line.ppm": ((100, 1), (100, 3), (400, 2))}.items():
        image = pixels(os.path.join(HERE, name))
        for width, height in sizes:
            out = image.resize((width, height), Image.Resampling.LANCZOS)
            lines.append(f"resize {name} {width} {height} {crc(out.tobytes())}")
    for name in ("wide.ppm", "tall.ppm", "square.ppm", "line.ppm", "exif_6.png"):
        for size in ((128, 32, True), (128, 32, False), (120, 48, True), (97, 25, True), (32, 32, True),
                     (20, 32, True), (5000, 3000, False), (64, 14, True)):
            lines.append(split_line(name, *size))
    for name in sorted(name for name in files if name.endswith(".png") and is_transparent(name)):
        lines += [split_line(name, 64, 32, True), split_line(name, 40, 24, False)]
        try:
            color = f"{rng.randrange(1 << 24):06x}"
            lines += [f"paint {name} {color} {crc(paint(os.path.join(HERE, name), color).tobytes())}",
                      f"hides {name} {int(hides(os.path.join(HERE, name)))}"]
        except ValueError as error:
            assert "palette index out of range" in str(error), name
    for name, (data, text) in broken(files).items():
        name = "bad_" + name
        open(os.path.join(HERE, name), "wb").write(data)
        try:
            pixels(os.path.join(HERE, name))
            print(f"note: Pillow reads {name}")
        except Exception:
            pass
        lines.append(f"fails {name} {text}")
    open(os.path.join(HERE, "manifest.txt"), "w", encoding="utf-8").write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
