#!/usr/bin/env python3
"""Writes tests/golden/jpeg: small JPEG files, and manifest.txt with what image.c must make of each.

    pixels FILE WIDTH HEIGHT CRC32     CRC-32 of the RGB bytes of exif_transpose(Image.open(FILE)).convert("RGB")
    pixels ... WORDS...                the same of a damaged file: the picture's note contains WORDS; else it is empty
    fails  FILE WORDS...               the error must contain WORDS

The pictures are drawn here. What Pillow's encoder does not write comes from cjpeg and jpegtran (libjpeg-turbo 2.1.5,
Debian's libjpeg-turbo-progs), whose command is noted in the manifest, or from changing bytes of another file.

    python tests/golden_jpeg.py        needs Pillow, NumPy, cjpeg and jpegtran
"""
import io
import pathlib
import struct
import subprocess
import sys
import tempfile
import zlib

import numpy as np
from PIL import Image, ImageOps, features

OUT = pathlib.Path(__file__).parent / "golden" / "jpeg"
lines = []


def picture(width, height, bands=3, seed=0):
    """A gradient, rings, noise and hard edges, one in each quarter, so that every coefficient occurs."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width]
    out = np.zeros((height, width, bands))
    for band in range(bands):
        smooth = 255 * (x * (band + 1) + y * 2) / (width * (band + 1) + height * 2)
        rings = 127 + 127 * np.sin(np.hypot(x - width * 0.8, y - height * 0.2) * (0.7 + 0.3 * band))
        noise = rng.integers(0, 256, (height, width))
        edges = 255 * ((x // (band + 2) + y // 3) % 2)
        out[..., band] = np.where(y < height / 2, np.where(x < width / 2, smooth, rings),
                                  np.where(x < width / 2, edges, noise))
    return np.clip(out, 0, 255).astype(np.uint8)


def pixels(name, data, comment=None, like=None, words=None):
    """like: another file's bytes, whose pixels these must be too."""
    (OUT / name).write_bytes(data)
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(like or data))).convert("RGB")
    if comment:
        lines.append(f"# {comment}")
    lines.append(f"pixels {name} {image.width} {image.height} {zlib.crc32(image.tobytes()):08x}" +
                 (f" {words}" if words else ""))


def damaged(name, data, words, comment=None):
    """A damaged file that Pillow shows nevertheless."""
    pixels(name, data, comment, words=words)


def fails(name, data, words, comment=None, pillow_reads=False):
    (OUT / name).write_bytes(data)
    if not pillow_reads:
        try:
            Image.open(io.BytesIO(data)).load()
            sys.exit(f"{name}: Pillow reads it")
        except (OSError, SyntaxError, Image.DecompressionBombError):
            pass
    if comment:
        lines.append(f"# {comment}")
    lines.append(f"fails {name} {words}")


def pil(array, **options):
    mode = {1: "L", 3: "RGB", 4: "CMYK"}[array.shape[2]]
    image = Image.frombytes(mode, (array.shape[1], array.shape[0]), array.tobytes())
    out = io.BytesIO()
    image.save(out, "JPEG", **options)
    return out.getvalue()


def run(command, data):
    return subprocess.run(command, input=data, capture_output=True, check=True).stdout


def cjpeg(array, *options, scans=None):
    """The file, and the command for the manifest."""
    height, width, bands = array.shape
    pnm = b"P%d %d %d 255\n" % (6 if bands == 3 else 5, width, height) + array.tobytes()
    command = ["cjpeg", *options]
    with tempfile.NamedTemporaryFile("w") as script:
        if scans:
            script.write(scans)
            script.flush()
        data = run(command + (["-scans", script.name] if scans else []), pnm)
    return data, " ".join(command) + (f' -scans FILE with "{scans}"' if scans else "")


def segments(data):
    """(marker, start, end) of each segment up to the first scan's header."""
    at = 2
    while True:
        end = at + 2 + struct.unpack(">H", data[at + 2:at + 4])[0]
        yield data[at + 1], at, end
        if data[at + 1] == 0xda:
            return
        at = end


def find(data, *markers):
    return next((start, end) for marker, start, end in segments(data) if marker in markers)


def without(data, *markers):
    out = data[:2]
    for marker, start, end in segments(data):
        if marker == 0xda:
            return out + data[start:]
        if marker not in markers:
            out += data[start:end]


def put(data, at, *values):
    return data[:at] + bytes(values) + data[at + len(values):]


def segment(marker, payload):
    return bytes([0xff, marker]) + struct.pack(">H", len(payload) + 2) + payload


def after_soi(data, more):
    return data[:2] + more + data[2:]


def adobe(transform):
    return segment(0xee, b"Adobe\0\x64\0\0\0\0" + bytes([transform]))


def exif(orientation, order=">"):
    tiff = struct.pack(order + "2sHIHHHIHHI", b"MM" if order == ">" else b"II", 42, 8, 1, 274, 3, 1, orientation, 0, 0)
    return segment(0xe1, b"Exif\0\0" + tiff)


def xmp(text):
    return segment(0xe1, b"http://ns.adobe.com/xap/1.0/\0" + text)


def with_ids(data, ids):
    """Other component identifiers, in the frame header and in the one scan."""
    frame, _ = find(data, 0xc0)
    scan, _ = find(data, 0xda)
    for i, value in enumerate(ids):
        data = put(put(data, frame + 10 + 3 * i, value), scan + 5 + 2 * i, value)
    return data


def encoder():
    """What Pillow's encoder writes."""
    for subsampling, name in ((0, "444"), (1, "422"), (2, "420")):
        for quality in (5, 50, 93, 100):
            for progressive in (False, True):
                kind = "progressive" if progressive else "baseline"
                pixels(f"{kind}_{name}_q{quality}.jpg", pil(picture(37, 29, seed=quality), quality=quality,
                                                            subsampling=subsampling, progressive=progressive))
    for width, height in ((1, 1), (2, 2), (3, 5), (5, 3), (8, 8), (16, 16), (17, 16), (16, 17), (33, 31), (1, 40),
                          (40, 1)):
        pixels(f"size_{width}x{height}.jpg", pil(picture(width, height), quality=80))
        pixels(f"size_{width}x{height}_progressive.jpg", pil(picture(width, height), quality=80, progressive=True))
    a = picture(50, 43, seed=1)
    pixels("photo_size.jpg", pil(picture(100, 75, seed=2), quality=85))
    pixels("optimize.jpg", pil(a, quality=70, optimize=True))
    pixels("restart_blocks.jpg", pil(a, quality=70, restart_marker_blocks=1))
    pixels("restart_blocks_progressive.jpg", pil(a, quality=70, restart_marker_blocks=3, progressive=True))
    pixels("restart_rows.jpg", pil(a, quality=70, restart_marker_rows=1, subsampling=1))
    pixels("keep_rgb.jpg", pil(a, quality=70, keep_rgb=True), "Adobe transform 0, identifiers R G B")
    for quality in (30, 95):
        pixels(f"grey_q{quality}.jpg", pil(a[..., :1], quality=quality))
        pixels(f"grey_progressive_q{quality}.jpg", pil(a[..., :1], quality=quality, progressive=True))
        pixels(f"cmyk_q{quality}.jpg", pil(picture(29, 23, 4), quality=quality))
    pixels("cmyk_progressive.jpg", pil(picture(29, 23, 4), quality=60, progressive=True))


def sampling():
    a = picture(45, 39, seed=3)
    for factors in ("1x2", "4x1", "1x4", "3x1", "1x3", "4x2", "2x4", "2x2,2x1,1x1", "2x2,1x2,2x1", "1x1,2x2,1x1",
                    "2x1,1x1,2x1", "2x2,1x1,2x2", "4x1,2x1,1x1", "1x4,1x2,1x1"):
        name = "sampling_" + factors.replace(",", "_")
        pixels(name + ".jpg", *cjpeg(a, "-quality", "80", "-sample", factors))
        if "," not in factors:
            pixels(name + "_progressive.jpg", *cjpeg(a, "-quality", "60", "-sample", factors, "-progressive"))
    pixels("sampling_4x4_separate.jpg", *cjpeg(a, "-sample", "4x4", scans="0;1;2;"))
    pixels("sampling_4x2_2x2_1x1_separate.jpg", *cjpeg(a, "-sample", "4x2,2x2,1x1", scans="0;1;2;"))
    pixels("sampling_3x3_separate.jpg", *cjpeg(a, "-sample", "3x3", scans="0;1;2;"))
    pixels("sampling_2x2_width_4.jpg", *cjpeg(picture(4, 9), "-sample", "2x2"))
    pixels("sampling_2x2_width_5.jpg", *cjpeg(picture(5, 9), "-sample", "2x2"))
    pixels("sampling_2x1_width_4.jpg", *cjpeg(picture(4, 9), "-sample", "2x1"))
    pixels("sampling_grey_2x2.jpg", *cjpeg(a[..., :1], "-sample", "2x2"))
    pixels("separate_scans.jpg", *cjpeg(a, "-sample", "2x2", scans="0;1;2;"))
    pixels("separate_scans_restart.jpg", *cjpeg(a, "-sample", "2x1", "-restart", "2B", scans="0;1,2;"))


def smoothing():
    """Progressive files with bits of coefficients left out: libjpeg's block smoothing."""
    a = picture(61, 45, seed=4)
    for name, scans in (("dc_only", "0,1,2:0-0,0,0;"), ("dc_only_imprecise", "0,1,2:0-0,0,2;"),
                        ("unrefined", "0,1,2:0-0,0,0;0:1-63,0,2;1:1-63,0,1;"),
                        ("low_band", "0,1,2:0-0,0,0;0:1-5,0,2;1:1-2,0,0;"), ("one_unknown", "0,1,2:0-0,0,0;0:2-2,0,3;"),
                        ("high_band", "0,1,2:0-0,0,1;0:6-63,0,0;"), ("dc_refined", "0,1,2:0-0,0,1;0,1,2:0-0,1,0;")):
        for factors in ("1x1", "2x2", "1x4"):
            pixels(f"smooth_{name}_{factors}.jpg", *cjpeg(a, "-quality", "40", "-sample", factors, scans=scans))
    pixels("smooth_narrow.jpg", *cjpeg(picture(9, 70), "-sample", "2x2", scans="0,1,2:0-0,0,0;"))
    pixels("smooth_flat.jpg", *cjpeg(picture(70, 9), "-sample", "2x2", scans="0,1,2:0-0,0,0;"))
    data = pil(picture(40, 40, seed=5), quality=60, progressive=True)
    second = data.index(b"\xff\xda", data.index(b"\xff\xda") + 2)
    third = data.index(b"\xff\xda", second + 2)
    pixels("smooth_cut_after_scan_1.jpg", data[:second] + b"\xff\xd9", "EOI after the first scan of a progressive file")
    pixels("smooth_cut_after_scan_2.jpg", data[:third] + b"\xff\xd9")


def colours_and_headers():
    a = picture(31, 26, seed=6)
    plain = without(pil(a, quality=75), 0xe0)
    ink = pil(picture(31, 26, 4, seed=6), quality=75)
    pixels("no_jfif.jpg", plain)
    pixels("adobe_0.jpg", after_soi(plain, adobe(0)), "Adobe transform 0: RGB")
    pixels("adobe_1.jpg", after_soi(plain, adobe(1)))
    pixels("adobe_2.jpg", after_soi(plain, adobe(2)))
    pixels("jfif_and_adobe_0.jpg", after_soi(pil(a, quality=75), adobe(0)), "JFIF wins: YCbCr")
    pixels("ids_rgb.jpg", with_ids(plain, b"RGB"))
    pixels("ids_other.jpg", with_ids(plain, b"\x05\x09\xc8"))
    pixels("ids_all_alike.jpg", with_ids(plain, b"\x01\x01\x01"))
    pixels("ycck.jpg", after_soi(without(ink, 0xee), adobe(2)), "Adobe transform 2 of four components: YCCK")
    pixels("cmyk_no_adobe.jpg", without(ink, 0xee))
    pixels("cmyk_adobe_1.jpg", after_soi(without(ink, 0xee), adobe(1)))
    pixels("standard_huffman.jpg", without(pil(a, quality=75), 0xc4), "no DHT, as in Motion JPEG")
    pixels("extended.jpg", put(pil(a, quality=75), find(pil(a, quality=75), 0xc0)[0] + 1, 0xc1))
    pixels("fill_bytes.jpg", pil(a).replace(b"\xff\xdb", b"\xff\xff\xff\xdb").replace(b"\xff\xda", b"\xff\xff\xda"))
    pixels("trailing_bytes.jpg", pil(a) + b"more bytes \xff\xd8\xff")
    pixels("no_eoi.jpg", pil(a)[:-2], "complete but for EOI: Pillow reads such a file or not, by how its bits fall",
           like=pil(a))
    pixels("zero_scan_parameters.jpg", put(pil(a), find(pil(a), 0xda)[1] - 3, 0, 0, 0), "Ss, Se, Ah, Al all 0")
    rng = np.random.default_rng(7)
    for top in (255, 1000, 65535):
        data = without(pil(a, quality=75), 0xdb)
        for table in (1, 0):
            values = rng.integers(1, top + 1, 64).astype(">u2").tobytes()
            data = after_soi(data, segment(0xdb, bytes([16 + table]) + values))
        pixels(f"quant_16_bit_to_{top}.jpg", data, "DQT of 16 bits" + (", samples far out of range" * (top > 255)))
    pixels("huge_coefficients.jpg", put(pil(picture(31, 26, seed=8), quality=100),
                                        find(pil(a), 0xdb)[0] + 5, *[200 + i % 50 for i in range(64)]))
    pixels("jpegtran_progressive.jpg", run(["jpegtran", "-progressive"], ink), "jpegtran -progressive of a CMYK file")


def orientation():
    a = picture(21, 14, seed=9)
    data = pil(a, quality=80)
    for value in range(0, 10):
        pixels(f"exif_{value}.jpg", after_soi(data, exif(value)))
    pixels("exif_little_endian.jpg", after_soi(data, exif(6, "<")))
    pixels("exif_after_dqt.jpg", data.replace(b"\xff\xc0", exif(8) + b"\xff\xc0", 1))
    both = exif(6)
    pixels("exif_in_two_segments.jpg", after_soi(data, both[:2] + struct.pack(">H", 20) + both[4:22] +
                                                 segment(0xe1, b"Exif\0\0" + both[22:])))
    pixels("exif_empty.jpg", after_soi(data, segment(0xe1, b"Exif\0\0")))
    pixels("xmp_attribute.jpg", after_soi(data, xmp(b'<x tiff:Orientation="3"/>')))
    pixels("xmp_element.jpg", after_soi(data, xmp(b"<tiff:Orientation>6</tiff:Orientation>")))
    pixels("xmp_last_counts.jpg", after_soi(data, xmp(b'tiff:Orientation="3"') + xmp(b'tiff:Orientation="8"')))
    pixels("exif_1_xmp_6.jpg", after_soi(data, exif(1) + xmp(b'tiff:Orientation="6"')), "XMP is not asked")
    pixels("exif_none_xmp_6.jpg", after_soi(data, segment(0xe1, b"Exif\0\0MM\0*\0\0\0\x08\0\0\0\0\0\0") +
                                            xmp(b'tiff:Orientation="6"')))
    cut = data.rindex(b"\xff\xd9")
    pixels("exif_after_the_picture.jpg", data[:cut] + exif(6) + data[cut:])


def put_in(data, at, *values):
    return data[:at] + bytes(values) + data[at:]


def scans(data):
    """The file in parts: what is before the first SOS, then each scan with the tables before the next."""
    at = [i for i in range(len(data)) if data[i:i + 2] == b"\xff\xda"]
    tables = [data.find(b"\xff\xc4", i) for i in at]
    starts = [at[0]] + [t if 0 < t < i else i for t, i in zip(tables, at[1:])]
    return [data[:starts[0]]] + [data[i:j] for i, j in zip(starts, starts[1:] + [len(data) - 2])]


def middle_of(part):
    """Of a scan's compressed data."""
    at = part.index(b"\xff\xda")
    return (at + 2 + struct.unpack(">H", part[at + 2:at + 4])[0] + len(part)) // 2


def damages():
    """Files that libjpeg warns of and shows: data that no encoder writes."""
    a = picture(29, 23, seed=10)
    data = pil(a, quality=80)
    progressive = pil(a, quality=80, progressive=True)
    frame, frame_end = find(data, 0xc0)
    scan, scan_end = find(data, 0xda)
    quant, _ = find(data, 0xdb)
    huffman, _ = find(data, 0xc4)
    middle = (scan_end + len(data)) // 2
    eoi = b"\xff\xd9"

    damaged("data_damaged.jpg", data[:scan_end] + b"\xfe" * (len(data) - scan_end - 2) + eoi, "data of scan 1")
    for i in range(4):
        at = scan_end + (len(data) - scan_end) * (i + 1) // 8
        damaged(f"data_changed_{i}.jpg", put(data, at, data[at] ^ 0x55, 0x5a), "data of scan 1")
    damaged("data_cut_out.jpg", data[:middle] + data[middle + 9:], "data of scan 1")
    damaged("data_repeated.jpg", data[:middle] + data[middle - 99:], "bytes too many")
    damaged("run_past_the_end.jpg", data[:scan_end] + bytes(60) + eoi, "data of scan 1",
            "runs of zeros past coefficient 63")
    damaged("eoi_too_early.jpg", data[:middle] + eoi, "data of scan 1 ends early, at marker FFD9")
    damaged("eoi_at_once.jpg", data[:scan_end] + eoi, "data of scan 1 ends early, at marker FFD9")
    damaged("marker_in_data.jpg", put_in(data, middle, 0xff, 0xd3), "data of scan 1 ends early, at marker FFD3")
    damaged("comment_in_data.jpg", data[:middle] + segment(0xfe, b"comment") + data[middle:],
            "data of scan 1 ends early, at marker FFFE")
    damaged("header_claims_more.jpg", put(data, frame + 5, 1, 0, 1, 4), "data of scan 1 ends early, at marker FFD9",
            "256 x 260")
    for bands in (1, 3):        # FF FF 00, where libjpeg-turbo's fast routine leaves coefficients behind
        full = pil(picture(60, 60, bands, seed=11), quality=95, subsampling=0, optimize=True)
        filled = [put_in(full, i, 0xff) for i in range(find(full, 0xda)[1], len(full)) if full[i:i + 2] == b"\xff\0"]
        differ = [f for f in filled if Image.open(io.BytesIO(f)).tobytes() != Image.open(io.BytesIO(full)).tobytes()]
        damaged(f"fill_before_stuffing_{bands}.jpg", differ[0], "data of scan 1")

    restarts = pil(a, quality=80, restart_marker_blocks=1, subsampling=0)
    damaged("restart_missing.jpg", restarts.replace(b"\xff\xd1", b"", 1), "FFD2 is where restart marker 1 belongs")
    for other in (0, 1, 3, 4, 5, 6, 7):
        damaged(f"restart_{other}_for_2.jpg", restarts.replace(b"\xff\xd2", bytes([0xff, 0xd0 + other]), 1),
                f"FFD{other} is where restart marker 2 belongs")
    damaged("restart_invalid.jpg", restarts.replace(b"\xff\xd2", b"\xff\x05", 1), "FF05")
    damaged("restart_twice.jpg", restarts.replace(b"\xff\xd2", b"\xff\xd2\xff\xd2", 1), "ends early, at marker FFD2")
    damaged("restart_eoi.jpg", restarts.replace(b"\xff\xd2", eoi + b"\xff\xd2", 1), "FFD9")
    damaged("restart_ends_early.jpg", restarts[:restarts.index(b"\xff\xd3") + 9] + eoi, "ends early, at marker FFD9")
    damaged("restart_data.jpg", put(restarts, restarts.index(b"\xff\xd3") + 6, *[0xfe] * 4), "data of scan 1")
    at = find(restarts, 0xdd)[0]
    damaged("restart_interval_2.jpg", put(restarts, at + 5, 2), "data of scan 1")
    damaged("restart_interval_0.jpg", put(restarts, at + 5, 0), "ends early, at marker FFD0")
    damaged("restart_interval_for_none.jpg", after_soi(data, segment(0xdd, b"\0\2")), "restart marker 0 belongs")
    steps = pil(a, quality=80, restart_marker_blocks=2, progressive=True, subsampling=0)
    for i, part in enumerate(scans(steps)[1:]):
        whole = steps.index(part)
        at = part.index(b"\xff\xd1")
        damaged(f"restart_progressive_{i}.jpg", put(steps, whole + at + 1, 0xd3), f"in scan {i + 1}")

    damaged("app_too_short.jpg", put(data, 4, 0, 9), "bytes between its segments", "APP0 says 9 instead of 16")
    damaged("app_too_long.jpg", data[:huffman] + b"\xff\xed\0\x0a" + data[huffman:], "bytes between its segments",
            "APP13 swallows a DHT's beginning; the standard table is in its place")
    damaged("comment_length_0.jpg", after_soi(data, b"\xff\xfe\0\0"), "FFFE, of length 0")
    damaged("segment_length_1.jpg", after_soi(data, b"\xff\xfe\0\1"), "FFFE, of length 1")
    damaged("junk_between_segments.jpg", pil(a).replace(b"\xff\xdb", b"junk\xff\x00\xff\xdb", 1),
            "bytes between its segments")
    bad = segment(0xc4, b"\x03\3" + bytes(15) + b"\1\2\3")
    damaged("huffman_bad_unused.jpg", after_soi(data, bad), "Huffman table that no scan uses")
    damaged("huffman_bad_replaced.jpg", after_soi(data, bad.replace(b"\x03\3", b"\x00\3")), None,
            "a bad table, and a good one in its place before the scan")
    pixels("tables_first.jpg", data[:2] + data[quant:frame] + eoi + data[:2] + data[frame:],
           "a file of tables, EOI, and a file that lacks them")
    pixels("dnl.jpg", data[:-2] + segment(0xdc, b"\0\1") + eoi, "DNL is not heeded")

    # which scan is damaged, in a progressive file
    parts = scans(progressive)
    for i in range(1, len(parts)):
        name, before, after = f"progressive_scan_{i}", b"".join(parts[:i]), b"".join(parts[i + 1:]) + eoi
        half = middle_of(parts[i])
        damaged(name + "_changed.jpg", before + put(parts[i], half, 0xa5, 0x5a, 0x3c) + after,
                None if i == 7 else "scan", "one more bit of DC, and any will do" if i == 7 else None)
        damaged(name + "_cut.jpg", before + parts[i][:half] + after, f"scan {i} ends early")
        if i > 1:
            damaged(name + "_missing.jpg", before + after, "scan" if i < 7 else None)
        damaged(name + "_repeated.jpg", before + parts[i] + parts[i] + after, "repeats or skips bits")
    damaged("progression_repeats.jpg", progressive[:-2] + progressive[progressive.rindex(b"\xff\xda"):],
            "repeats or skips bits")
    first = find(progressive, 0xda)[0]
    damaged("ac_before_dc.jpg", progressive[:first] + progressive[progressive.index(b"\xff\xc4", first):],
            "AC coefficients before their DC", "without the first scan")
    smooth, command = cjpeg(picture(50, 60, seed=12), "-sample", "2x2",
                            scans="0,1,2:0-0,0,1;0:1-5,0,2;0:1-5,2,1;0,1,2:0-0,1,0;")
    parts = scans(smooth)
    for i in range(1, len(parts)):
        damaged(f"smooth_last_good_{i}.jpg", b"".join(parts[:i]) + parts[i][:middle_of(parts[i])] + eoi,
                f"scan {i} ends early", command + ", cut in scan " + str(i))

    # several scans of a sequential file: a component missing, one twice
    parts = scans(cjpeg(a, "-sample", "2x1", scans="0;1;2;")[0])
    others = scans(cjpeg(picture(29, 23, seed=13), "-sample", "2x1", scans="0;1;2;")[0])
    damaged("component_missing.jpg", parts[0] + parts[1] + parts[3] + eoi, "no scan has component 2")
    pixels("component_twice.jpg", b"".join(parts) + parts[1] + eoi)
    pixels("component_twice_otherwise.jpg", b"".join(parts) + others[1] + eoi,
           "the second time another picture's: coefficients that this has not stay")

    # 8 x 8 grey, each coefficient sent 14 times: legal, and of 896 scans
    grey = b"\xff\xd8" + segment(0xdb, b"\0" + b"\1" * 64) + segment(0xc2, b"\x08\0\x08\0\x08\1\1\x11\0")
    for kind in (0, 16):
        grey += segment(0xc4, bytes([kind, 1]) + b"\0" * 15 + b"\0")
    for k in range(64):
        for al in range(13, -1, -1):
            grey += segment(0xda, bytes([1, 1, 0, k, k, (al + 1 if al < 13 else 0) << 4 | al])) + b"\x7f"
    pixels("scans_896.jpg", grey + eoi)


def failures():
    a = picture(29, 23, seed=10)
    data = pil(a, quality=80)
    progressive = pil(a, quality=80, progressive=True)
    frame, frame_end = find(data, 0xc0)
    scan, scan_end = find(data, 0xda)
    quant, _ = find(data, 0xdb)
    huffman, _ = find(data, 0xc4)

    fails("arithmetic.jpg", run(["jpegtran", "-arithmetic"], data), "arithmetic-coded JPEG is not read",
          "jpegtran -arithmetic", pillow_reads=True)
    fails("arithmetic_progressive.jpg", run(["jpegtran", "-arithmetic", "-progressive"], data),
          "arithmetic-coded JPEG is not read", "jpegtran -arithmetic -progressive", pillow_reads=True)
    fails("lossless.jpg", put(data, frame + 1, 0xc3), "lossless JPEG is not read")
    fails("hierarchical.jpg", put(data, frame + 1, 0xc5), "hierarchical JPEG is not read")
    fails("bits_12.jpg", put(put(data, frame + 1, 0xc1), frame + 4, 12), "JPEG of 12 bits a sample is not read")
    fails("components_2.jpg", data[:frame] + segment(0xc0, data[frame + 4:frame + 9] + b"\2" +
                                                     data[frame + 10:frame + 16]) + data[frame_end:],
          "JPEG of 2 components is not read")
    fails("sampling_3_beside_2.jpg", put(data, frame + 11, 0x31, 0, 2, 0x21), "sampling factors 2 x 1 beside 3 x 1")
    fails("height_0.jpg", put(data, frame + 5, 0, 0), "no pixels", "a height that DNL would give")
    fails("width_0.jpg", put(data, frame + 7, 0, 0), "no pixels")
    fails("too_many_pixels.jpg", put(data, frame + 5, 255, 255, 255, 255), "too many")

    fails("empty_after_magic.jpg", data[:3], "truncated")
    fails("cut_in_header.jpg", data[:frame + 9], "truncated")
    fails("cut_before_data.jpg", data[:scan_end], "truncated")
    fails("cut_in_data.jpg", data[:(scan_end + len(data)) // 2], "truncated")
    restarts = pil(a, quality=80, restart_marker_blocks=1)
    fails("cut_before_restart.jpg", restarts[:restarts.index(b"\xff\xd1")], "truncated")
    fails("cut_progressive.jpg", progressive[:len(progressive) * 2 // 3], "truncated")
    fails("cut_progressive_before_eoi.jpg", progressive[:-2], "truncated")
    fails("no_picture.jpg", data[:quant] + b"\xff\xd9", "no picture")

    fails("quant_missing.jpg", without(data, 0xdb), "quantisation table that is not there")
    fails("quant_index.jpg", put(data, quant + 4, 5), "bad quantisation table")
    fails("quant_short.jpg", put(data, quant + 4, 0x10), "bad quantisation table")
    fails("huffman_missing.jpg", without(progressive, 0xc4), "Huffman table that is bad or not there")
    fails("huffman_selector.jpg", put(data, scan + 6, 0x44), "Huffman table that is bad or not there")
    fails("huffman_oversubscribed.jpg", put(data, huffman + 5, 3), "bad Huffman table")
    fails("huffman_all_ones.jpg", put(data, huffman + 5, 2, 0, 0, *data[huffman + 8:huffman + 21]), "bad Huffman table")
    fails("huffman_short.jpg", put(data, huffman + 2, 0, 12), "bad Huffman table")
    fails("frame_twice.jpg", data[:frame_end] + data[frame:], "two frame headers")
    fails("frame_missing.jpg", without(data, 0xc0), "scan before its frame header")
    fails("frame_length.jpg", put(data, frame + 3, 16), "wrong length")
    fails("factor_0.jpg", put(data, frame + 11, 0x20), "sampling factor of 2 x 0")
    fails("factor_5.jpg", put(data, frame + 11, 0x15), "sampling factor of 1 x 5")
    fails("blocks_12.jpg", put(data, frame + 11, 0x42, 0, 2, 0x22, 1, 3, 0x11), "13 blocks an MCU")
    fails("scan_component.jpg", put(data, scan + 5, 9), "component the frame lacks")
    fails("scan_component_twice.jpg", put(data, scan + 7, 1), "component")
    fails("scan_length.jpg", put(data, scan + 4, 2), "wrong length")
    fails("scan_again.jpg", data[:-2] + data[scan:], "second scan")
    fails("progression.jpg", put(progressive, find(progressive, 0xda)[1] - 2, 63), "progression parameters")
    fails("tables_alone.jpg", data[:2] + data[quant:frame] + b"\xff\xd9" + data[quant:], "no picture",
          "EOI before the frame header, and no SOI behind it")
    fails("soi_twice.jpg", after_soi(data, b"\xff\xd8"), "unexpected marker FFD8")
    fails("tem.jpg", after_soi(data, b"\xff\1"), "unexpected marker FF01")
    fails("invalid_marker_in_data.jpg", data[:-40] + b"\xff\5" + data[-40:], "unexpected marker FF05")
    fails("frame_behind.jpg", data[:-2] + b"\xff\xc0\xff\xd9", "two frame headers")
    fails("huffman_index_behind.jpg", data[:-2] + segment(0xc4, b"\4" + bytes(16)) + b"\xff\xd9", "bad Huffman table")
    fails("dac.jpg", after_soi(data, segment(0xcc, b"\0\1")), "bad DAC segment")
    fails("side_65501.jpg", put(data, frame + 5, 0, 8, 0xff, 0xdd), "65500 a side")
    fails("marker_unknown.jpg", after_soi(data, b"\xff\xf3\0\2"), "unexpected marker FFF3")
    fails("restart_interval_length.jpg", after_soi(data, segment(0xdd, b"\0\1\0")), "DRI")

    # a picture of 36 million pixels and 240 scans of a few bytes each
    bomb = b"\xff\xd8" + segment(0xdb, b"\0" + b"\1" * 64) + segment(0xc2, b"\x08\x17\x70\x17\x70\1\1\x11\0")
    for kind in (0, 16):
        bomb += segment(0xc4, bytes([kind, 1]) + b"\0" * 15 + b"\0")
    bomb += segment(0xda, bytes([1, 1, 0, 0, 0, 0])) + b"\x7f"
    bomb += 240 * (segment(0xda, bytes([1, 1, 0, 1, 63, 0])) + b"\x7f")
    fails("scans_too_many.jpg", bomb + b"\xff\xd9", "too often", "Pillow goes over it", pillow_reads=True)


def main():
    OUT.mkdir(parents=True, exist_ok=True)
    for old in OUT.iterdir():
        old.unlink()
    lines.append("# Written by tests/golden_jpeg.py; the format is described there. Pixels are those of Pillow with")
    lines.append(f"# libjpeg-turbo {features.version('libjpeg_turbo')}.")
    for part in (encoder, sampling, smoothing, colours_and_headers, orientation, damages, failures):
        lines.append(f"\n# {part.__name__.replace('_', ' ')}")
        part()
    (OUT / "manifest.txt").write_text("\n".join(lines) + "\n")
    files = list(OUT.iterdir())
    print(len(files) - 1, "files,", sum(f.stat().st_size for f in files), "bytes")


if __name__ == "__main__":
    main()
