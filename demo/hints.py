"""Hints: what the model is told while it learns, beside the right answers.

Answers alone teach slowly, since at first the model looks anywhere and so learns little from what it should have said.
At this size it did not learn in some 30,000 scenes to find a thing by its name, and answered with a colour that occurs.
Told where to look, it needed 10,000. So tokens inside the model are asked what they mean (train.hint_loss), through
linear layers that are dropped after the training:

    patches, as the vision tower gives them     the letter or shape at its middle, its colour, the letters before and
                                                after, and which of draw.names() it belongs to      patch_hints
    image tokens, as the connector gives them   the same of its left and its right half, and where it is token_hints
    image tokens, after two decoder layers      which picture and which tile they belong to             tile_hints
    names in a question, after two layers       what the thing is, and where; where the word stands     Shown.named
    an answer's tokens, after four              the same of what the answer says next                   Shown.pointed

A letter knows its neighbours, so reading is to find the token with the last two letters said and to say what it has
next: one look, where letters alone would need a chain of them.

A hint is always one of hint_words, and the right one is scored against the others by the embedding of that word, so the
eye's tokens get the very directions that the decoder's words have: one match of words with squares is as good as the
next, red with the colour of a square, "e" with the letter before it.

A mark is what draw.Sheet notes of each thing and letter that it draws: (character or shape, colour or "", x, y, half
width, half height), in shares of the picture, and for a character its line's number and its place in the line.
"""
import functools
import math
import re
from collections import defaultdict

import numpy as np
import torch

import draw
from prompt import encode, ends, pieces

SIDE = 6                                                # squares, one image token each, along a tile's side
FINE = 2 * SIDE                                         # patches
CHARACTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.,:$%/- "
# What a patch is asked: the character or shape at its middle, its colour, the character before it, the one before that,
# the one after it, and which of draw.names() it belongs to.
WHAT, INK, BEFORE, BEFORE2, AFTER, WORD, PATCH_HINTS = range(7)
# What an image token is asked: these of its left half and of its right half, the colour, the name, and where in the
# tile it is: vertical and horizontal third, row and column.
HALF = BEFORE2, BEFORE, WHAT, AFTER
TOKEN_INK = 2 * len(HALF)
TOKEN_WORD, PLACE, TOKEN_HINTS = TOKEN_INK + 1, TOKEN_INK + 2, TOKEN_INK + 6
TILE_HINTS = 3                                          # an image token's tile: of which picture, row, column
POINTER = 6                                             # a pointer's hints: what, which, thirds, row and column
NOTHING, UNKNOWN = 0, -100


@functools.cache
def hint_words():
    """What a hint can be: {text: its place among the hints}, nothing first; a line's begin or end is "\\n"."""
    words = draw.SHAPES + ("bar",) + tuple(draw.COLORS) + ("top", "bottom", "middle", "left", "right")
    texts = ["<|endoftext|>", "\n", *CHARACTERS, *(" " + word for word in words + draw.names())]
    return {text: i for i, text in enumerate(dict.fromkeys(texts))}


@functools.cache
def hint_ids():
    """The id of each hint; the first of them, where a word has more: [hints] int64."""
    return torch.tensor([encode(text)[0] for text in hint_words()])


# ------------------------------------------------------------------------------------------------ patches

def inside(middle, half, count):
    """The numbers of those of `count` equal parts of 0 ... 1 whose middles lie within middle +- half."""
    return range(max(0, math.ceil((middle - half) * count - .5)), min(count, math.floor((middle + half) * count + .5)))


def known_names(line):
    """Which of a line's characters belong to one of draw.names(): {place in the line: the hint}."""
    text = "".join(line.get(i, "\n") for i in range(max(line) + 1))
    return {i: hint_words()[" " + name] for match in re.finditer(r"[A-Za-z]+", text)
            for name in [draw.name_of(match[0])] if name for i in range(*match.span())}


def patch_hints(marks, rows, columns):
    """What each patch of a picture shows: int64 [tiles, FINE, FINE, PATCH_HINTS], places in hint_words.

    rows, columns: of tiles; 0 if it is not split. The whole picture is the last tile. UNKNOWN where characters are too
    small to tell, or beyond the tile's edge."""
    word = hint_words()
    out = np.zeros((rows * columns + 1, FINE, FINE, PATCH_HINTS), np.int64)
    lines = defaultdict(dict)
    for what, *_, line, at in (mark for mark in marks if len(mark) > 6):
        lines[line][at] = what
    names = {line: known_names(texts) for line, texts in lines.items()}
    for first, r, c in ([(0, rows, columns)] if rows else []) + [(rows * columns, 1, 1)]:
        tile_of = {(line, at): (math.floor(y * r), math.floor(x * c))
                   for _, _, x, y, _, _, line, at in (mark for mark in marks if len(mark) > 6)}
        for what, color, x, y, half_w, half_h, *line in marks:
            if what == " ":
                continue
            hint = np.zeros(PATCH_HINTS, np.int64)
            hint[INK] = word[" " + color] if color else UNKNOWN
            if line and half_h * r * draw.TILE < 5.6:             # an em of 14 pixels
                hint[:] = UNKNOWN
            elif line:
                hint[WHAT] = word[what]
                row, at = line
                for kind, i in ((BEFORE, at - 1), (BEFORE2, at - 2), (AFTER, at + 1)):
                    if i not in lines[row]:
                        hint[kind] = word["\n"]
                    else:
                        same = tile_of[row, i] == tile_of[row, at]
                        hint[kind] = word[lines[row][i]] if same else UNKNOWN
                hint[WORD] = names[row].get(at, NOTHING)
            else:
                hint[WHAT] = word[" " + what]
            for v in inside(y, half_h, r * FINE):
                for u in inside(x, half_w, c * FINE):
                    out[first + v // FINE * c + u // FINE, v % FINE, u % FINE] = hint
    return out


def tile_hints(picture, rows, columns):
    """Which picture and which part of it the tiles of a picture are: int64 [tiles, TILE_HINTS]. Pictures count from 0;
    rows, columns: of tiles, 0 if it is not split. The whole picture is neither top nor bottom, left nor right."""
    word = hint_words()
    grid = [(" top" if r == 0 else " bottom", " left" if c == 0 else " right") for r in range(rows)
            for c in range(columns)]
    return np.array([[word[str(picture + 1)], word[row], word[column]] for row, column in grid + [(" middle",) * 2]])


@functools.cache
def places():
    """The hints about place of a tile's squares: [SIDE, SIDE, 4]."""
    word, out = hint_words(), np.zeros((SIDE, SIDE, 4), np.int64)
    for i in range(SIDE):
        out[i, :, 0], out[i, :, 2] = word[(" top", " middle", " bottom")[3 * i // SIDE]], word[str(i)]
        out[:, i, 1], out[:, i, 3] = word[(" left", " middle", " right")[3 * i // SIDE]], word[str(i)]
    return out


def token_hints(patches):
    """What each image token shows, of what its four patches show: int64 [tiles, SIDE * SIDE, TOKEN_HINTS].

    UNKNOWN where two lines of text meet in one token."""
    tiles = len(patches)
    squares = patches.reshape(tiles, SIDE, 2, SIDE, 2, PATCH_HINTS)
    upper, lower = squares[:, :, 0], squares[:, :, 1]                       # [tiles, SIDE, SIDE, 2, PATCH_HINTS]
    there = upper[..., WHAT:WHAT + 1] != NOTHING
    half = np.where(there, upper, lower)
    both = there[..., 0] & (lower[..., WHAT] != NOTHING) & (lower[..., WHAT] != upper[..., WHAT])
    half[both] = UNKNOWN
    left, right = half[..., 0, :], half[..., 1, :]
    some = np.where(left[..., WHAT:WHAT + 1] != NOTHING, left, right)       # the left half, or the right if it is empty
    out = np.zeros((tiles, SIDE, SIDE, TOKEN_HINTS), np.int64)
    out[..., :TOKEN_INK] = np.concatenate([left[..., HALF], right[..., HALF]], -1)
    out[..., TOKEN_INK], out[..., TOKEN_WORD] = some[..., INK], some[..., WORD]
    out[..., PLACE:] = places()
    return out.reshape(tiles, SIDE * SIDE, TOKEN_HINTS)


# ------------------------------------------------------------------------------------------------ pointers

@functools.cache
def wording():
    """The words that questions are made of, in lower case: all others are names of something in the picture."""
    texts = [text for texts in draw.PHRASES.values() for text in texts]
    texts += [*draw.BEFORE, *draw.AFTER, *(text for pair in draw.INSTEAD for text in pair), *draw.COLORS, "top bottom"]
    return frozenset(re.findall(r"[a-z']+", re.sub("{.}", "", " ".join(texts)).lower()))


def pointer(what, which, x, y, rows=1, columns=1):
    """The hints for something at (x, y): two words, the thirds of the picture, its square's row and column in the
    tile. rows, columns: of tiles; 1 for the whole picture's."""
    word, (x, y) = hint_words(), (min(max(value, 0.0), .999) for value in (x, y))
    return (word.get(what, UNKNOWN), word.get(which, UNKNOWN), word[(" top", " middle", " bottom")[int(3 * y)]],
            word[(" left", " middle", " right")[int(3 * x)]], word[str(int(rows * SIDE * y) % SIDE)],
            word[str(int(columns * SIDE * x) % SIDE)])


def in_common(pointers):
    """What some pointers have in common, UNKNOWN where they differ; [] if there are none."""
    return [hints.pop() if len(hints) == 1 else UNKNOWN for hints in map(set, zip(*pointers))]


class Shown:
    """What a sample's pictures show, to tell what the words of its questions and answers point at.

    A word may point at a thing: shape, colour, where it is in thirds and in sixths of the picture. Or, where there is
    text and no thing, at a word of it: its first two letters, where it stands in thirds of the picture, and in which
    square of its tile. Or, in an answer, at a character: it, the next one, and where it stands."""

    def __init__(self, pictures, rows, columns):
        """pictures: the marks of each; text is looked for in the first only. rows, columns: as for patch_hints."""
        self.grid = max(rows, 1), max(columns, 1)
        self.things = [[mark for mark in marks if mark[0] in draw.SHAPES] for marks in pictures]
        self.words = defaultdict(list)                  # word: [[(character, x, y)] of each place where it stands]
        self.starts = defaultdict(list)                 # word in lower case: [(first character, second, x, y)]
        lines = defaultdict(dict)
        for what, _, x, y, _, _, *line in pictures[0]:
            if line:
                lines[line[0]][line[1]] = what, x, y
        for line in lines.values():
            line = [line[i] for i in range(len(line))]
            text = "".join(char for char, _, _ in line)
            for match in re.finditer(r"\S+", text):
                chars = line[slice(*match.span())]
                self.words[match[0]].append(chars)
                x, y = (sum(char[k] for char in chars) / len(chars) for k in (1, 2))
                self.starts[match[0].lower().strip(".:$")].append((*(match[0] + "\n")[:2], x, y))

    def thing(self, name):
        """The pointer to the things of that shape or colour, or to nothing; of several pictures, the thirds are those
        of the first picture and the sixths those of the last."""
        found = [in_common(pointer(" " + t[0], " " + t[1], *t[2:4]) for t in things if t[name in draw.COLORS] == name)
                 or [NOTHING] * POINTER for things in self.things]
        what = in_common([hints[:2] for hints in found if any(hints)] or [[NOTHING] * 2])
        return what + found[0][2:4] + found[-1][4:]

    def named(self, question):
        """What a question's names point at: [(place of the name's last id, pointer)]. Names are shapes and colours,
        and where there is text all words that are no part of the questions' own wording."""
        found, word, things = [], hint_words(), any(self.things)
        for match in re.finditer(r"[\w.:/%-]+", question):
            name = match[0].strip(".:")
            at = ends(question).get(match.start() + len(name))
            if at is None:
                continue
            if (name in draw.SHAPES or name in draw.COLORS) and (things or not self.starts):
                found.append((at, self.thing(name)))
            elif not things and self.starts and (name.lower() in self.starts or name.lower() not in wording()):
                found.append((at, in_common(pointer(*start, *self.grid) for start in self.starts[name.lower()]) or
                              [word.get(char, UNKNOWN) for char in (name + "\n")[:2]] + [NOTHING] * (POINTER - 2)))
        return found

    def way(self, question):
        """For a question about a thing in a film: where it is at the end as seen from where it was at first; about two
        things in a picture: where the first is as seen from the second. A pair of words, as " top", " left"."""
        names = [name for name in re.findall("[a-z]+", question) if name in draw.SHAPES]
        places = [[t[2:4] for t in things if t[0] == name] for name in names[:2] for things in self.things[::-1]]
        if len(places) < 2 or len(self.things) > 1 and len(names) > 1 or any(len(place) != 1 for place in places):
            return UNKNOWN, UNKNOWN
        (x, y), (from_x, from_y) = places[0][0], places[-1][0]
        side = lambda by, low, high: hint_words()[low if by < -.1 else high if by > .1 else " middle"]
        return side(y - from_y, " top", " bottom"), side(x - from_x, " left", " right")

    def pointed(self, question, answer, named):
        """Where to look for each of an answer's ids (prompt.answer_ids): [ids, POINTER].

        named: as the method gives it. What is read out points at its characters, shapes and colours at the thing that
        has them, what leads up to one at the same; all else at what all the question's names point at, if that is
        one thing, and the way from one to the other."""
        meant = {tuple(hints) for _, hints in named}
        usual = list(meant.pop()) if len(meant) == 1 else [UNKNOWN] * POINTER
        way = self.way(question)
        if way[0] != UNKNOWN:
            usual[2:] = *way, UNKNOWN, UNKNOWN
        out = []
        for i, piece in enumerate(pieces(answer)):
            if i % 2:                                                                       # read out
                out += self.characters(re.split(r"(\s+)", piece), self.words)
                continue
            found = [usual] * len(encode(piece))
            for match in re.finditer(r"[a-z]+", piece.lower()):
                at = ends(piece).get(match.end())
                if at is not None and (match[0] in draw.COLORS or match[0] in draw.SHAPES):
                    hints = self.thing(match[0])
                    if any(hints):
                        found[at] = hints
            out += found
        ahead = None
        for at in reversed(range(len(out))):
            if out[at][1] == UNKNOWN and ahead:
                out[at] = ahead
            ahead = out[at] if out[at][1] != UNKNOWN and out[at] is not usual else None
        return out

    def characters(self, texts, places):
        """The pointers of all characters of some texts. places: {text: [[(character, x, y)]]}, as self.words; white
        space may be missing."""
        word, out = hint_words(), []
        for text in texts:
            found = places.get(text, ())
            for j, pair in enumerate(zip(text, text[1:] + "\n")):
                out.append(in_common(pointer(*pair, *chars[j][1:], *self.grid) for chars in found) or
                           [word.get(pair[0], UNKNOWN)] + [UNKNOWN] * (POINTER - 1))
        return out
