#!/usr/bin/env python3
"""Prints the tables of cli/width.c, from Python's unicodedata: which characters take no column of a terminal, and which
take two. Each range is two numbers: the distance from the end of the last one, and its length. Code points without a
character belong to the ranges around them, so that the tables are short."""
import sys
import unicodedata

END = 0xE0000                       # from there on width.c needs no table
# Format characters that terminals show: the soft hyphen, and signs that stand over or before numbers.
SHOWN = [0xAD, *range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD]


def is_zero(code):
    """Combining marks, format characters, and the vowels and finals that join a Hangul consonant before them."""
    if code in SHOWN:
        return False
    if 0x1160 <= code <= 0x11FF or 0xD7B0 <= code <= 0xD7FF:
        return True
    return unicodedata.category(chr(code)) in ("Mn", "Me", "Cf")


def is_wide(code):
    return unicodedata.east_asian_width(chr(code)) in ("W", "F") and not is_zero(code)


def ranges(belongs):
    found, begin, end = [], None, None
    for code in range(0x300, END):
        if belongs(code):
            if begin is None:
                begin = code
            end = code + 1
        elif begin is not None and unicodedata.category(chr(code)) != "Cn":
            found.append((begin, end))
            begin = None
    return found + ([(begin, end)] if begin is not None else [])


def table(name, belongs):
    numbers, at = [], 0
    for begin, end in ranges(belongs):
        while begin - at > 65535:
            numbers += [65535, 0]
            at += 65535
        while end - begin > 65535:
            numbers += [begin - at, 65535]
            at = begin = begin + 65535
        numbers += [begin - at, end - begin]
        at = end
    print(f"static const uint16_t {name}[] = {{")
    line = "   "
    for number in numbers:
        if len(line) + len(str(number)) + 2 > 120:
            print(line)
            line = "   "
        line += f" {number},"
    print(line[:-1])
    print("};")


print(f"/* Unicode {unicodedata.unidata_version}, by tests/widths.py. */", flush=True)
table("ZERO", is_zero)
table("WIDE", is_wide)
sys.exit(0)
