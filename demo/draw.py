#!/usr/bin/env python3
"""Draws the pictures that the demo model learns from, and the questions about them with their answers.

    python demo/draw.py OUTDIR [--seed 0] [--count 24]      draws samples to look at

    sample(rng, kind) -> Sample(pictures, split, clip, asks)        one conversation's worth, see KINDS
        |-- draw_nothing    no shape and no text
        |-- draw_scene      shapes: colour, shape, count, place, size, left of, yes/no, description
        |-- draw_relations  shapes: where one is as seen from another
        |-- draw_count      shapes to count
        |-- draw_words      words and numbers in many fonts: read, which colour, where
        |-- draw_label, draw_receipt, draw_table, draw_chart      small documents
        |-- draw_fine       a picture with a line of print too small for the global view: only the tiles show it
        |-- draw_pair       two pictures compared
        |-- draw_clip       frames of a film: what moves, which way
        `-- draw_page, draw_crowd       for the eye alone: full of text, full of shapes

Every drawing happens on a Sheet, whose unit is the pixel of the picture *after* the model's resizing (so a size in it
means a size in patches), times Sheet.k for pictures that are larger or smaller than the model wants them. Everything
random comes from the given Dice: the same seed gives the same pictures.

An ask is (skill, question, answer), texts from the picture in the answer marked by as_shown. The wording of a question
is chosen by ask() from PHRASES. The last wording of each list is kept for the evaluation and never trained on, and so
is one number and one made-up word in sixteen (is_held_out).
"""
import argparse
import functools
import importlib.util
import io
import math
import os
import random
import zlib
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

TILE = 144                      # pixels of a tile's side, as the model's configuration has it
EDGE = 2 * TILE                 # the longest edge: pictures are at most 2 x 2 tiles and the global picture
HERE = os.path.dirname(os.path.abspath(__file__))

# What one training sample looks like: (pictures, split?, width, height of each). All samples of a kind give the same
# number of image tokens, so that a batch of one kind needs no padding.
KINDS = {
    "eye": (1, False, TILE, TILE),              # crowded, without questions: for the eye alone (1 tile)
    "tile": (1, False, TILE, TILE),             # one small picture, not split: the cheap lesson (1 tile)
    "wide": (1, True, EDGE, TILE),              # 1 x 2 tiles and the global picture (3 tiles)
    "tall": (1, True, TILE, EDGE),              # 2 x 1 (3)
    "square": (1, True, EDGE, EDGE),            # 2 x 2 (5)
    "pair_tile": (2, False, TILE, TILE),        # two pictures, not split (2)
    "pair_square": (2, True, EDGE, EDGE),       # two pictures, split (10)
    "pair_wide": (2, True, EDGE, TILE),         # (6)
    "frames": (4, False, TILE, TILE),           # four frames of a film, given as pictures (4)
    "film": (4, False, TILE, TILE),             # the same, given as a film, with SmolVLM's words about it (4)
}


class Dice(random.Random):
    """Chance, and what it may choose from.

    level: 0 few fonts, plain pages, clean pictures ... 1 everything. new_wording, new_numbers: for the evaluation, only
    questions and numbers that training never meets."""
    level, new_wording, new_numbers = 1.0, False, False


@dataclass
class Sample:
    """Pictures (PIL, RGB) and what is asked about them: [(skill, question, answer)]."""
    pictures: list
    split: bool
    clip: bool
    asks: list = field(default_factory=list)
    marks: list = field(default_factory=list)       # of each picture, as Sheet's, in shares of its width and height


# ------------------------------------------------------------------------------------------------ words and fonts

@functools.cache
def words(kind):
    """The words of one kind of demo/words.txt, in its order."""
    with open(os.path.join(HERE, "words.txt"), encoding="utf-8") as f:
        lists = dict(line.strip().split(": ", 1) for line in f if ":" in line and line[0] != "#")
    return tuple(lists[kind].split())


def asked(kind):
    """Those of them that questions name: each is one id after a space, and a hint (hints.hint_words)."""
    if kind == "field":
        return ("name", "city", "room", "phone", "product", "price", "weight", "size", "code", "date", "seat", "time",
                "gate", "age", "score", "sport", "pet", "color", "total")
    if kind == "day":
        return ("Mon", "Wed", "Fri", "Sat", "Sun")
    counts = dict(food=34, thing=14, name=26, city=16, animal=16)
    return tuple(word for word in words(kind) if len(word) < 8 and word not in NOT_ASKED)[:counts[kind]]


NOT_ASKED = ("Dora", "Nora", "Tina", "burger", "melon", "orange")     # several ids, or a colour


@functools.cache
def names():
    """All of asked()'s words."""
    return tuple(dict.fromkeys(word for kind in ("food", "thing", "name", "city", "animal", "day", "field")
                               for word in asked(kind)))


@functools.cache
def names_by_lower():
    return {name.lower(): name for name in names()}


def name_of(text):
    """The one of names() that a word is in some case, or None."""
    return names_by_lower().get(text.lower())


@functools.cache
def all_words():
    """Every lower-case word once, sorted."""
    kinds = ("food", "thing", "animal", "nature", "subject", "adjective", "verb", "common")
    return tuple(sorted({word for kind in kinds for word in words(kind)}))


# Fonts from PyPI packages (demo/requirements.txt), all free: Apache-2.0, OFL-1.1 or Bitstream Vera's licence.
FONTS = {
    "plain": ["font_roboto/files/Roboto-Regular.ttf", "font_roboto/files/Roboto-Bold.ttf",
              "font_lato/files/Lato-Bold.ttf", "matplotlib/mpl-data/fonts/ttf/DejaVuSans.ttf"],
    "mono": ["matplotlib/mpl-data/fonts/ttf/DejaVuSansMono.ttf"],
    "serif": ["matplotlib/mpl-data/fonts/ttf/DejaVuSerif.ttf",
              "font_source_serif_pro/files/SourceSerifPro-Semibold.ttf"],
    "fancy": ["font_fredoka_one/files/FredokaOne-Regular.ttf"],
}
FONT_ORDER = [name for style in ("plain", "mono", "serif", "fancy") for name in FONTS[style]]


@functools.lru_cache(4096)
def font(name, size):
    """The PIL font of a file named in FONTS, at a size in pixels."""
    package, rest = name.split("/", 1)
    folder = importlib.util.find_spec(package).submodule_search_locations[0]
    return ImageFont.truetype(os.path.join(folder, rest), size, layout_engine=ImageFont.Layout.BASIC)


def is_held_out(text):
    """True for one text in sixteen: numbers and strings that only the evaluation shows."""
    return zlib.crc32(text.encode()) % 16 == 5


# ------------------------------------------------------------------------------------------------ colours

COLORS = {
    "red": (215, 35, 35), "green": (35, 150, 50), "blue": (40, 70, 215), "yellow": (245, 215, 40),
    "orange": (245, 135, 25), "purple": (130, 45, 165), "pink": (245, 140, 185), "brown": (120, 72, 32),
    "black": (20, 20, 20), "white": (248, 248, 248), "gray": (135, 135, 135),
}


def tint(rng, name, by=14):
    """A colour of this name, RGB, each channel up to `by` away from the model one."""
    return tuple(min(255, max(0, value + rng.randint(-by, by))) for value in COLORS[name])


def contrast(a, b):
    """How far apart two colours look, roughly (names or RGB): 0 to about 700."""
    a, b = (COLORS[c] if isinstance(c, str) else c for c in (a, b))
    return 2 * abs(luma(a) - luma(b)) + sum(abs(x - y) for x, y in zip(a, b)) / 3


def luma(rgb):
    return 0.3 * rgb[0] + 0.59 * rgb[1] + 0.11 * rgb[2]


def colors_on(ground, least=60, names=tuple(COLORS)):
    """The names of colours that can be told from a ground of that name."""
    return [name for name in names if name != ground and contrast(name, ground) >= least]


# ------------------------------------------------------------------------------------------------ the sheet

class Sheet:
    """A picture being drawn. w, h: its size in model pixels; k: real pixels per model pixel; ground: colour's name."""

    def __init__(self, rng, w, h, ground=None, k=1.0):
        self.rng, self.w, self.h, self.k = rng, w, h, k
        self.ground = ground or rng.choice(("white", "white", "white", "gray", "yellow", "black", "blue", "green",
                                            "pink", "orange"))
        self.paper = tint(rng, self.ground, 6)
        self.image = Image.new("RGB", (max(2, round(w * k)), max(2, round(h * k))), self.paper)
        self.draw = ImageDraw.Draw(self.image)
        self.asks = []
        self.marks = []         # what is where: (character or shape, colour or "", x, y, half width, half height), and
        self.lines = 0          # for a character: its line's number, and its place in the line

    def box(self, x0, y0, x1, y1, fill=None, outline=None, width=1):
        k = self.k
        self.draw.rectangle((round(x0 * k), round(y0 * k), round(x1 * k), round(y1 * k)), fill, outline,
                            max(1, round(width * k)))

    def line(self, x0, y0, x1, y1, fill, width=1):
        k = self.k
        self.draw.line((round(x0 * k), round(y0 * k), round(x1 * k), round(y1 * k)), fill, max(1, round(width * k)))

    def face(self, name, size):
        return font(name, max(5, round(size * self.k)))

    def width(self, text, name, size):
        """The width of a text, in model pixels."""
        return self.face(name, size).getlength(text) / self.k

    def text(self, x, y, text, name, size, fill, anchor="la", color=""):
        """Writes a line; x, y in model pixels, size is the font's em in model pixels, anchor as PIL's."""
        k, face = self.k, self.face(name, size)
        self.draw.text((x * k, y * k), text, fill, face, anchor)
        ascent, descent = face.getmetrics()
        ends = [face.getlength(text[:i]) for i in range(len(text) + 1)]
        left = x * k - {"l": 0.0, "m": ends[-1] / 2, "r": ends[-1]}[anchor[0]]
        base = y * k + {"a": ascent, "m": (ascent - descent) / 2}[anchor[1]]
        for i, (char, begin, end) in enumerate(zip(text, ends, ends[1:])):
            self.marks.append((char, color, (left + (begin + end) / 2) / k, base / k - .33 * size,
                               (end - begin) / 2 / k, .4 * size, self.lines, i))
        self.lines += 1

    def shape(self, x, y, r, shape, fill, turn=0.0):
        """A shape of radius r about (x, y), antialiased; turn in radians."""
        k, over = self.k, 3
        side = math.ceil(2.4 * r * k) + 4
        mask = Image.new("L", (side * over, side * over))
        shape_mask(ImageDraw.Draw(mask), shape, side * over / 2, r * k * over, turn)
        mask = mask.reduce(over)
        self.image.paste(fill, (round(x * k - side / 2), round(y * k - side / 2)), mask)


def ring_of(n, c, r, turn, inner=None):
    """n corners on a circle about (c, c), beginning at the top; inner: as many between them on a smaller circle."""
    points = []
    for i in range(n):
        for radius, shift in ((r, 0.0),) if inner is None else ((r, 0.0), (inner, math.pi / n)):
            a = turn + 2 * math.pi * i / n + shift
            points.append((c + radius * math.sin(a), c - radius * math.cos(a)))
    return points


def shape_mask(d, shape, c, r, turn):
    """Draws a shape in white into an L mask; c: its centre both ways, r: its radius."""
    spin = lambda points: [(c + x * math.cos(turn) - y * math.sin(turn), c + x * math.sin(turn) + y * math.cos(turn))
                           for x, y in points]
    if shape == "circle":
        d.ellipse((c - r, c - r, c + r, c + r), 255)
    elif shape == "ring":
        d.ellipse((c - r, c - r, c + r, c + r), 255)
        d.ellipse((c - .58 * r, c - .58 * r, c + .58 * r, c + .58 * r), 0)
    elif shape == "moon":
        d.ellipse((c - r, c - r, c + r, c + r), 255)
        x, y = c + .55 * r * math.cos(turn), c + .55 * r * math.sin(turn)
        d.ellipse((x - .82 * r, y - .82 * r, x + .82 * r, y + .82 * r), 0)
    elif shape == "square":
        d.polygon(ring_of(4, c, 1.15 * r, turn + math.pi / 4), 255)
    elif shape == "diamond":
        d.polygon(spin([(0, -1.1 * r), (.75 * r, 0), (0, 1.1 * r), (-.75 * r, 0)]), 255)
    elif shape == "rectangle":
        d.polygon(spin([(-1.1 * r, -.55 * r), (1.1 * r, -.55 * r), (1.1 * r, .55 * r), (-1.1 * r, .55 * r)]), 255)
    elif shape == "triangle":
        d.polygon(ring_of(3, c, 1.1 * r, turn), 255)
    elif shape == "hexagon":
        d.polygon(ring_of(6, c, 1.05 * r, turn), 255)
    elif shape == "star":
        d.polygon(ring_of(5, c, 1.1 * r, turn, .45 * r), 255)
    elif shape == "cross":
        t = .36 * r
        d.polygon(spin([(-t, -r), (t, -r), (t, -t), (r, -t), (r, t), (t, t), (t, r), (-t, r), (-t, t), (-r, t),
                        (-r, -t), (-t, -t)]), 255)
    elif shape == "heart":
        points = []
        for i in range(40):
            a = 2 * math.pi * i / 40
            points.append((r * 1.08 * math.sin(a) ** 3, -r * (13 * math.cos(a) - 5 * math.cos(2 * a)
                           - 2 * math.cos(3 * a) - math.cos(4 * a)) / 15))
        d.polygon(spin(points), 255)


SHAPES = ("circle", "square", "triangle", "star", "heart", "diamond", "cross", "ring", "moon", "hexagon", "rectangle")


@functools.cache
def noise_bank():
    """Normal noise to crop from: [1024, 1024, 3] float32, standard deviation 1."""
    return np.random.default_rng(7).standard_normal((1024, 1024, 3), dtype=np.float32)


def weather(rng, image, harsh=1.0, turn=True):
    """Makes a drawn picture look taken: shade, noise, blur, a small rotation, JPEG. harsh: 0 none ... 1 plenty ... 2.

    Returns (picture, the angle in radians by which it was turned against the clock)."""
    angle = rng.uniform(-5, 5) if rng.random() < .3 * harsh and turn else 0.0
    if angle:
        image = image.rotate(angle, Image.BICUBIC, fillcolor=image.getpixel((1, 1)))
    if rng.random() < .2 * harsh and min(image.size) >= TILE:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(.3, .8)))
    shade, noise = rng.random() < .35 * harsh, rng.random() < .35 * harsh
    if shade or noise:
        a = np.asarray(image, np.float32)
        h, w = a.shape[:2]
        if shade:
            way, depth = rng.uniform(0, 2 * math.pi), rng.uniform(.08, .28)
            ramp = (math.cos(way) * np.linspace(-1, 1, w, dtype=np.float32)[None, :]
                    + math.sin(way) * np.linspace(-1, 1, h, dtype=np.float32)[:, None])
            a = a * (1 - depth * (.5 + .35 * ramp))[..., None]
        if noise and h <= 1024 and w <= 1024:
            y, x = rng.randrange(1025 - h), rng.randrange(1025 - w)
            a = a + rng.uniform(3, 14) * noise_bank()[y:y + h, x:x + w]
        image = Image.fromarray(np.clip(a, 0, 255).astype(np.uint8))
    if rng.random() < .3 * harsh:
        data = io.BytesIO()
        image.save(data, "JPEG", quality=rng.randint(30, 85))
        image = Image.open(data)
        image.load()
    return image, math.radians(angle)


def turned(sheet, angle):
    """A sheet's marks after its picture was turned, in shares of its width and height."""
    w, h, c, s = sheet.w, sheet.h, math.cos(angle), math.sin(angle)
    return [(what, color, .5 + ((x - w / 2) * c + (y - h / 2) * s) / w, .5 + ((y - h / 2) * c - (x - w / 2) * s) / h,
             half_w / w, half_h / h, *line) for what, color, x, y, half_w, half_h, *line in sheet.marks]


# ------------------------------------------------------------------------------------------------ how one asks

# The last wording of each list is asked in the evaluation only.
PHRASES = {
    "color": ["What color is the {x}?", "What is the color of the {x}?", "Which color does the {x} have?",
              "Tell me the color of the {x}.", "The {x} has what color?", "What colour is the {x}?",
              "Name the color of the {x}.", "Which color is the {x}?", "What color does the {x} have?",
              "The color of the {x}?", "In what color is the {x} drawn?", "Say the color of the {x}.",
              "Can you say what color the {x} is?", "Can you tell me the color of the {x}?",
              "Can you tell me what color the {x} is?"],
    "ground": ["What color is the background?", "What is the background color?", "Which color is the background?",
               "On what color of background is it?", "Tell me the color of the background.", "Background color?",
               "What is the color of the background?", "Which background color does it have?",
               "What colour does the background have?"],
    "shape": ["What shape is {c}?", "Which shape is {c}?", "What is the {c} shape?", "What is {c}?",
              "What is the {c} thing?", "Name the {c} shape.", "What is the {c} object?", "Which thing is {c}?",
              "What {c} shape do you see?", "Tell me which shape is {c}.", "What is drawn in {c}?",
              "What kind of shape is {c}?"],
    "only_shape": ["What shape is this?", "Which shape do you see?", "What shape is in the picture?",
                   "What is this shape?", "Which shape is this?", "Which object is this?",
                   "Which shape is in the picture?", "What shape do you see?", "What object is it?", "Name the shape."],
    "count": ["How many {x} are there?", "How many {x} do you see?", "How many {x} are in the picture?",
              "Count the {x}.", "What is the number of {x}?", "How many {x} can you count?", "How many {x}?",
              "How many {x} can you see?", "Number of {x}?", "How many {x} does the picture show?",
              "Please count the {x}.", "Can you tell me how many {x} there are?",
              "Tell me how many {x} there are."],
    "more_of": ["Are there more {x} or more {y}?", "Are there more {x} or {y}?", "What are there more of, {x} or {y}?",
                "Do you see more {x} or {y}?", "More {x} or more {y}?", "What is more, the {x} or the {y}?",
                "Which are there more of, {x} or {y}?"],
    "where": ["Where is the {x}?", "Where in the picture is the {x}?", "What is the position of the {x}?",
              "In which part of the picture is the {x}?", "Where do you see the {x}?", "Where can you see the {x}?",
              "In what part of the picture is the {x}?", "Tell me where the {x} is.", "Find the {x}.",
              "Can you tell me where the {x} is?",
              "Where can I find the {x}?"],
    "side": ["Which shape is {s} the {x}?", "What is {s} the {x}?", "What do you see {s} the {x}?",
             "Which thing is {s} the {x}?", "What shape is {s} the {x}?", "Tell me what is {s} the {x}.",
             "Which thing do you see {s} the {x}?", "Name what is {s} the {x}.", "Name the shape {s} the {x}."],
    "beside": ["What is {s} the {x}?", "What is to the {s} the {x}?", "Which shape is to the {s} the {x}?",
               "What do you see to the {s} the {x}?", "Which shape is {s} the {x}?", "What shape is {s} the {x}?",
               "Tell me what is to the {s} the {x}.", "Name the shape to the {s} the {x}."],
    "is_side": ["Is the {x} {s} the {y}?", "Is the {x} {s} the {y} or not?", "Do you see the {x} {s} the {y}?",
                "Can you see the {x} {s} the {y}?", "Is it true that the {x} is {s} the {y}?",
                "Does the {x} lie {s} the {y}?", "Do you think the {x} is {s} the {y}?",
                "Would you say that the {x} lies {s} the {y}?", "Does it look as if the {x} is {s} the {y}?",
                "Do you think the {x} lies {s} the {y}?", "Is it right that the {x} is {s} the {y}?",
                "Would you say the {x} is {s} the {y}?"],
    "size": ["Is the {x} big or small?", "How big is the {x}?", "What size is the {x}?", "Is the {x} small or big?",
             "What is the size of the {x}?", "Is the {x} large or small?", "Which size does the {x} have?",
             "Can you say how big the {x} is?", "Tell me the size of the {x}.", "Tell me how large the {x} is.",
             "Does the {x} look large or small?", "How large does the {x} look?", "How small or how large is the {x}?",
             "Of what size is the {x}?", "Is the {x} small or large?", "What size does the {x} have?",
             "Do you know how large the {x} is?", "How large is the {x}?"],
    "bigger": ["Which is bigger, the {x} or the {y}?", "What is larger, the {x} or the {y}?",
               "Which one is bigger: the {x} or the {y}?", "What is bigger, the {x} or the {y}?",
               "Is the {x} or the {y} bigger?", "Which is larger, the {x} or the {y}?",
               "Tell me which is larger, the {x} or the {y}.", "Is the {x} larger or the {y}?",
               "Which one is larger, the {x} or the {y}?", "What looks larger, the {x} or the {y}?",
               "Is the {x} or the {y} the larger one?", "Is the {x} or the {y} larger?"],
    "biggest": ["What is the biggest shape?", "Which shape is the largest?", "What is the largest thing?",
                "Which shape is the biggest?", "What is the largest shape?", "Which thing is the biggest?",
                "Which one is the largest?", "What is the biggest one?", "Which is the largest one?",
                "Name the largest shape.", "Which of them is the biggest?", "Which shape is the biggest one?",
                "Which is the biggest one?"],
    "exists": ["Is there {a}?", "Do you see {a}?", "Is there {a} in the picture?", "Can you see {a}?",
               "Does the picture show {a}?", "Does the picture have {a}?", "Do you see {a} here?", "Can you find {a}?",
               "Is {a} in the picture?", "Tell me if there is {a}.", "Does it have {a}?", "Is {a} here?",
               "Is {a} to be seen?", "Can {a} be seen?", "Would you say there is {a}?", "Is {a} there?"],
    "is_color": ["Is the {x} {c}?", "Is the color of the {x} {c}?", "Does the {x} look {c}?",
                 "Is it true that the {x} is {c}?", "Do you see that the {x} is {c}?", "Is the {x} drawn in {c}?",
                 "Is {c} the {x}'s color?", "Does the {x} have the color {c}?", "Do you think that the {x} is {c}?",
                 "Would you say the {x} is {c}?", "Is {c} the color that the {x} has?", "Has the {x} the color {c}?",
                 "Is {c} what the {x} is drawn in?", "Is {c} the color you see on the {x}?", "Is it {c}, the {x}?",
                 "Does {c} describe the {x}?", "Is {c} the color of the {x}?"],
    "describe": ["Describe the picture.", "Describe this image.", "What is in this picture?", "What do you see?",
                 "What does the picture show?", "Can you describe this image?", "Describe the image in a sentence.",
                 "Tell me what you see.", "What is in the picture?", "Describe what you see.", "What can you see?",
                 "Can you describe this picture?", "What is on the picture?", "Describe it.", "What is this?",
                 "Write a caption.", "Describe the scene.", "What is shown in the picture?", "What is shown?",
                 "What does this show?", "What do we see here?", "What kind of picture is this?", "What is here?",
                 "What can be seen here?", "What is this a picture of?", "What is shown here?"],
    "read": ["What does it say?", "Read the text.", "What is written here?", "What text is in the picture?",
             "What is written in the picture?", "Read what is written.", "Transcribe the text.", "Read this.",
             "What does the text say?", "What is the text?", "What does the picture say?", "What is written?",
             "Which words do you see?", "Can you read the text?", "Which text do you see?", "Can you read this?"],
    "read_number": ["What number is this?", "What number is written here?", "Read the number.",
                    "Which number do you see?", "What is the number?", "What number is in the picture?",
                    "What number do you see?", "Tell me the number.", "Which number is in the picture?",
                    "Which number is this?", "Which number is shown?"],
    "word_color": ["Which word is {c}?", "What is the {c} word?", "Read the {c} word.", "What is written in {c}?",
                   "What does the {c} text say?", "Read the {c} text.", "What is the {c} text?",
                   "What does it say in {c}?", "What word is written in {c}?"],
    "color_of_word": ["What color is the word {x}?", "In which color is {x} written?", "What color has the word {x}?",
                      "What color is {x}?", "What is the color of the word {x}?", "Which color is the text {x}?",
                      "In what color is {x} written?", "The word {x} has what color?", "{x} is written in which color?",
                      "The word {x} is written in what color?", "The color of the word {x}?",
                      "The word {x} is in which color?"],
    "word_place": ["What is the {p} word?", "Which word is at the {p}?", "What is written at the {p}?",
                   "Read the {p} word.", "What does the {p} line say?", "Read the {p} line.", "What is at the {p}?",
                   "Which text is at the {p}?", "What does it say at the {p}?"],
    "has_word": ["Does it say {x}?", "Is the word {x} there?", "Is {x} written in the picture?",
                 "Do you see the word {x}?", "Is the text {x} in the picture?", "Can you see the word {x}?",
                 "Is there the word {x}?", "Does the text say {x}?", "Is {x} one of the words?",
                 "Do you read the word {x}?", "Does the word {x} appear?", "Do you find {x} in the text?",
                 "Can you find the word {x}?"],
    "total": ["What is the total?", "How much is the total?", "What is the total amount?", "How much is it in total?",
              "What does it cost in total?", "How much is to be paid?", "How much was paid in total?", "Total?",
              "What is the sum?", "How much did it cost?", "Tell me the total.", "What is the total price?",
              "What was the total price?"],
    "price": ["How much is the {x}?", "What is the price of the {x}?", "What does the {x} cost?",
              "How much does the {x} cost?", "Tell me the price of the {x}.", "How much did the {x} cost?",
              "What is the price for the {x}?", "Can you tell me the price of the {x}?", "Price of the {x}?",
              "How much was the {x}?",
              "How expensive is the {x}?", "What was paid for the {x}?"],
    "costs": ["What costs {x}?", "Which item costs {x}?", "Which item is {x}?", "What is the item for {x}?",
              "What can I buy for {x}?", "Which item has the price {x}?", "What is it that costs {x}?",
              "What can be bought for {x}?", "What is sold for {x}?"],
    "items": ["How many items are there?", "How many items are on the receipt?", "How many things were bought?",
              "How many items were bought?", "How many items are listed?", "Count the items.",
              "What is the number of items?"],
    "shop": ["What is the name of the shop?", "Which shop is this from?", "What shop is it?", "Where was this bought?",
             "What is the name of the store?", "Which shop is it?", "Which store is this from?", "Name of the shop?",
             "Where is this receipt from?", "What is the shop called?"],
    "date": ["What is the date?", "Which date is on it?", "What date is written?", "When was it?",
             "What date is on the receipt?", "Which date do you see?", "Tell me the date.", "Read the date.",
             "What date does it show?"],
    "field": ["What is the {x}?", "What does it say for {x}?", "Read the {x}.", "Which {x} is given?",
              "What {x} is given?", "Which {x} do you see?", "What is written for {x}?", "Give me the {x}.",
              "Tell me the {x}."],
    "sign": ["What does the sign say?", "What is on the sign?", "Read the sign.", "What does it say?",
             "What does this sign say?", "What is the text on the sign?", "Which word is on the sign?",
             "Can you read the sign?", "What is written on the sign?"],
    "tallest": ["Which bar is the tallest?", "What is the tallest bar?", "Which one has the highest value?",
                "Which bar is the highest?", "What has the largest value?", "Which bar has the highest value?",
                "What is the highest bar?", "Which one is the largest?", "Which has the most?",
                "Which one is the tallest?", "Which bar is the highest one?", "Name the tallest bar.",
                "Which bar is the tallest one?"],
    "shortest": ["Which bar is the shortest?", "What is the shortest bar?", "Which one has the lowest value?",
                 "Which bar is the lowest?", "What has the smallest value?", "Which bar has the lowest value?",
                 "What is the lowest bar?", "Which one is the smallest?", "Which has the least?",
                 "Which one is the shortest?", "Which bar is the lowest one?", "Name the shortest bar.",
                 "Which bar is the shortest one?"],
    "bar": ["What is the value of {x}?", "How much is {x}?", "What value does {x} have?", "How high is the bar of {x}?",
            "What is the number of {x}?", "What is the value for {x}?", "How many for {x}?", "How high is {x}?",
            "What value is shown for {x}?", "Which value is given for {x}?", "What value is written for {x}?",
            "Which number is shown for {x}?", "Which value is shown for {x}?"],
    "bars": ["How many bars are there?", "How many bars does the chart have?", "Count the bars.",
             "How many bars do you see?", "How many bars?", "What is the number of bars?"],
    "bar_color": ["What color is the bar of {x}?", "Which color has the bar for {x}?", "What is the color of {x}?",
                  "What color is the bar for {x}?", "What color is {x}?", "Which color is the bar of {x}?",
                  "In what color is {x} drawn?"],
    "more": ["Which is more, {x} or {y}?", "Which is higher, {x} or {y}?", "What is larger, {x} or {y}?",
             "Is {x} or {y} higher?", "Which has more, {x} or {y}?", "Which is larger, {x} or {y}?",
             "Which has the higher value, {x} or {y}?"],
    "title": ["What is the title?", "What is the chart about?", "Read the title.", "What is the title of the chart?",
              "Which title does the chart have?", "What is this chart about?", "What does the title say?"],
    "cell": ["What is the {y} of {x}?", "What {y} does {x} have?", "Which {y} has {x}?", "Tell me the {y} of {x}.",
             "What is the {y} for {x}?", "Which {y} does {x} have?", "What is {x}'s {y}?", "Read the {y} of {x}.",
             "Look up the {y} of {x}."],
    "row_of": ["Who has the {y} {v}?", "Whose {y} is {v}?", "Which name has the {y} {v}?",
               "Which person has the {y} {v}?", "Who has {v} as {y}?", "For which name is the {y} {v}?",
               "For which person is the {y} {v}?", "Who is it that has the {y} {v}?",
               "Which name stands with the {y} {v}?", "Whose {y} is given as {v}?", "For whom is the {y} {v}?"],
    "rows": ["How many rows are there?", "How many people are listed?", "How many names are in the table?",
             "How many people are in the table?", "Count the names.", "How many rows does the table have?",
             "How many names do you see?", "How many persons are listed?", "How many names are there?",
             "How many names are listed?"],
    "fine": ["What does the small text say?", "Read the small print.", "What is written in small letters?",
             "What does the tiny text say?", "Read the tiny line.", "What is the small text?", "Read the small text.",
             "What is written in tiny letters?", "Can you read the small print?",
             "What does the small print say?"],
    "same": ["Are the two pictures the same?", "Are both pictures equal?", "Do the pictures show the same?",
             "Do you see the same in both pictures?", "Are both pictures the same?", "Do both pictures show the same?",
             "Are the pictures the same?", "Do the pictures look identical?", "Are these two pictures alike?",
             "Do both pictures look the same?", "Is it the same picture twice?", "Are they the same?",
             "Is the second picture identical to the first?", "Are the pictures identical?"],
    "change": ["What is different?", "What changed?", "What is the difference between the pictures?",
               "What has changed in the second picture?", "What is the difference?", "What has changed?",
               "How do the pictures differ?", "Compare the pictures.", "What is new in the second picture?",
               "What is different now?", "What is different between the two?",
               "What is not the same in the second picture?", "How is the second picture different?",
               "What does the second picture have that is different?", "What differs?", "Tell me what is different.",
               "What is different in the second picture?"],
    "which_has": ["Which picture has {a}?", "In which picture is {a}?", "Which of the two pictures shows {a}?",
                  "Which picture shows {a}?", "In which picture do you see {a}?",
                  "Is {a} in the first or the second picture?", "Where is {a}, in the first picture or in the second?",
                  "Do you see {a} in the first or in the second picture?",
                  "Which of the two has {a}, the first or the second picture?",
                  "Where can you see {a}, in the first or the second picture?", "Tell me which picture has {a}.",
                  "First or second picture: where is {a}?", "Which one has {a}?",
                  "Where do you see {a}, in the first or the second picture?"],
    "more_in": ["Which picture has more {x}?", "In which picture are there more {x}?", "Where are more {x}?",
                "Which picture shows more {x}?", "In which picture do you see more {x}?",
                "Which of the two pictures has more {x}?", "Which one has more {x}, the first or the second?",
                "Which of them shows more {x}?", "Do you see more {x} in the first or the second picture?",
                "Which one has more {x}?", "Which of the two has more {x}?"],
    "in_picture": ["What is in the {n} picture?", "Describe the {n} picture.", "What does the {n} picture show?",
                   "What can you see in the {n} picture?", "What is on the {n} picture?",
                   "What is shown in the {n} picture?", "Tell me what is in the {n} picture.",
                   "What can be seen in the {n} picture?", "Describe what you see in the {n} picture.",
                   "What do you see in the {n} picture?"],
    "moves": ["What moves?", "What is moving?", "Which shape moves?", "Which thing is moving?",
              "What is moving in the video?", "Which object moves?", "What moves in the video?",
              "Which shape is moving?", "Name the shape that moves.", "Tell me what moves.",
              "Which object is moving in the video?", "What thing moves in the video?", "What is it that moves?",
              "What object moves in the video?"],
    "way": ["Which way does it move?", "In which direction does it move?", "Where does the {x} move?",
            "Which way does the {x} go?", "Which way does the {x} move?", "In which direction does the {x} move?",
            "Where does it go?", "What is the direction of the {x}?", "Which way is the {x} moving?",
            "In what direction does it go?", "Tell me which way the {x} moves.", "Where is the {x} moving?",
            "In what direction does the {x} move?", "Where is it going?", "In what direction is the {x} moving?"],
    "moves_so": ["Does the {x} move {s}?", "Does the {x} go {s}?", "Does it move {s}?", "Do you see the {x} move {s}?",
                 "Is it moving {s}?", "Would you say the {x} moves {s}?", "Is it true that the {x} moves {s}?",
                 "Does the {x} move {s} in the video?", "Can you see the {x} going {s}?", "Is the {x} moving {s}?"],
    "happens": ["What happens?", "What happens in the video?", "Describe the video.", "What is happening?",
                "What does the video show?", "What do you see in the video?", "What can you see in the video?",
                "What is shown in the video?", "Tell me what happens.", "What is happening in the video?",
                "Describe what happens.", "What is in the video?", "What is to be seen in the video?",
                "What do the frames show?", "What is going on?", "What can be seen in the video?"],
    "stays": ["What does not move?", "What stays in its place?", "Which shape stays still?",
              "Which shape does not move?", "What stays still?", "Which shape stands still?",
              "What remains in its place?", "What keeps still?", "Which thing is standing still?",
              "What is not moving?", "Name the shape that stays still.", "Which thing stays in its place?",
              "What does not move in the video?", "What stands still?"],
}
BEFORE = ("Please tell me: ", "Please answer: ", "Hi! ", "Look at the picture. ", "Question: ", "Hello, ", "Please, ",
          "Look carefully. ", "Tell me, ", "I have a question. ", "So, ", "And ", "OK, ", "Excuse me, ", "Hey, ")
AFTER = (" Please.", " Answer briefly.", " Thanks.", " Be short.", " Thank you!", " Answer with a few words.",
         " Tell me.", " I want to know.", " Look carefully.")
INSTEAD = (("What is", "What's"), ("picture", "image"), ("picture", "photo"), ("Do you see", "Can you see"),
           ("color", "colour"), ("What is", "Whats"), ("Tell me", "Say"), ("Which", "What"))


def ask(rng, phrase, **names):
    """A question in one of its wordings: the last one if the Dice say new_wording, else any of the others, at times
    with other words for some of its own, a word before or after, or as it is typed in a hurry."""
    choices = PHRASES[phrase]
    text = (choices[-1] if rng.new_wording else rng.choice(choices[:-1])).format(**names)
    luck = rng.random()
    if rng.new_wording:
        return text
    if rng.random() < .2:
        text = text.replace(*rng.choice(INSTEAD))
    if luck < .06:
        return text[0].lower() + text[1:]
    if luck < .12:
        return text.rstrip("?.")
    if luck < .16:
        return text[0].lower() + text[1:].rstrip("?.")
    if luck < .23:
        before = rng.choice(BEFORE)
        return before + (text[0].lower() + text[1:] if before.endswith(", ") or before == "And " else text)
    return text + rng.choice(AFTER) if luck < .30 else text


def an(noun):
    return ("an " if noun[0] in "aeiou" else "a ") + noun


def sentence(text):
    return text[0].upper() + text[1:] + "."


def plural(noun):
    return {"cross": "crosses"}.get(noun, noun + "s")


def as_shown(text):
    """A text in an answer as it stands in the picture: marked, so that it is taught letter by letter (prompt.py)."""
    return f"\x02{text}\x03"


def unmarked(answer):
    """An answer without as_shown's marks."""
    return answer.replace("\x02", "").replace("\x03", "")


SMALLEST = 22           # pixels of the smallest text's em, but for small print
SEEN_WHOLE = 29         # from this size on, a text can be read in the whole picture, at half its size, too
NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


# ------------------------------------------------------------------------------------------------ shapes

@dataclass
class Thing:
    """A shape in a scene: its centre and radius in units of the sheet's shorter side."""
    shape: str
    color: str
    x: float
    y: float
    r: float
    big: bool
    turn: float = 0.0

    def name(self):
        return f"{self.color} {self.shape}"

    def full(self):
        return f"{'big' if self.big else 'small'} {self.color} {self.shape}"


def place(rng, count, w, h, big_share=.5, apart=.0, room=None):
    """Centres and radii of shapes that do not touch, in units of the shorter side: [(x, y, r, big)].

    apart: the least distance of any two along x, and of any two along y (so that left/right and above/below are
    plain). room: (x0, y0, x1, y1) to stay within. May return fewer than count."""
    x0, y0, x1, y1 = room or (0, 0, w, h)
    unit = min(x1 - x0, y1 - y0)
    done = []
    for _ in range(60 * count):
        if len(done) == count:
            break
        big = rng.random() < big_share
        r = unit * (rng.uniform(.17, .22) if big else rng.uniform(.075, .10))
        x, y = rng.uniform(x0 + 1.15 * r, x1 - 1.15 * r), rng.uniform(y0 + 1.15 * r, y1 - 1.15 * r)
        if all(math.hypot(x - a, y - b) > 1.2 * (r + s) and abs(x - a) > apart and abs(y - b) > apart
               for a, b, s, _ in done):
            done.append((x, y, r, big))
    return done


def turn_of(rng, shape):
    return rng.uniform(-.15, .15) if shape != "moon" else rng.choice((0, math.pi)) + rng.uniform(-.3, .3)


def make_things(rng, sheet, count, apart=.06, big_share=.4, room=None, unique=True):
    """Things for a sheet; unique: no two with the same colour, nor the same shape."""
    unit = min(sheet.w, sheet.h)
    w, h = sheet.w / unit, sheet.h / unit
    places = place(rng, count, w, h, big_share, apart, room)
    colors = rng.sample(colors_on(sheet.ground), len(places)) if unique else None
    shapes = rng.sample(SHAPES, len(places)) if unique else None
    things = []
    for i, (x, y, r, big) in enumerate(places):
        shape = shapes[i] if unique else rng.choice(SHAPES)
        color = colors[i] if unique else rng.choice(colors_on(sheet.ground))
        things.append(Thing(shape, color, x, y, r, big, turn_of(rng, shape)))
    return things


def paint(sheet, things):
    unit = min(sheet.w, sheet.h)
    for t in things:
        sheet.shape(t.x * unit, t.y * unit, t.r * unit, t.shape, tint(sheet.rng, t.color), t.turn)
        sheet.marks.append((t.shape, t.color, t.x * unit, t.y * unit, .8 * t.r * unit, .8 * t.r * unit))


def zone(sheet, t):
    """Where a thing is, in words, or None where that is not plain."""
    unit = min(sheet.w, sheet.h)
    names = []
    for value, length, low, high in ((t.y, sheet.h / unit, "top", "bottom"), (t.x, sheet.w / unit, "left", "right")):
        part = value / length
        if .30 < part < .38 or .62 < part < .70:
            return None
        names.append(low if part < .34 else high if part > .66 else "")
    both = " ".join(name for name in names if name)
    return f"at the {both}" if both else "in the middle"


def list_things(things):
    """'A big red circle, a small blue star and a small green ring', from left to right."""
    names = [an(t.full()) for t in sorted(things, key=lambda t: t.x)]
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def describe(sheet, things):
    return sentence(f"{list_things(things)} on a {sheet.ground} background".replace("a orange", "an orange"))


def no_such(rng, shape):
    """A question about a shape that is not there."""
    return ("absent", ask(rng, rng.choice(("color", "where", "size")), x=shape), f"There is no {shape} in the picture.")


def draw_nothing(rng, w, h, k):
    """A blurred field of colours, as a picture out of focus: none of what this model knows."""
    q = functools.partial(ask, rng)
    sheet = Sheet(rng, w, h, k=k)
    spots = Image.frombytes("RGB", (5, 5), rng.randbytes(75))
    sheet.image.paste(Image.blend(sheet.image, spots.resize(sheet.image.size, Image.BICUBIC), rng.uniform(.3, 1)))
    shape = rng.choice(SHAPES)
    sheet.asks = [("describe", q("describe"), "Nothing that I know."), ("absent", q("read"), "There is no text."),
                  no_such(rng, shape), ("yesno", q("exists", a=an(shape)), "No."),
                  ("count", q("count", x=rng.choice(("shapes", "objects", plural(shape)))), "None.")]
    return sheet


def relations(rng, pairs, count):
    """Questions about where one thing is as seen from another, for pairs of the `count` things in a scene."""
    q, out = functools.partial(ask, rng), []
    for one, two in pairs:
        dx, dy = one.x - two.x, one.y - two.y
        sides = ["left" if dx < 0 else "right"] * (abs(dx) > .2) + ["above" if dy < 0 else "below"] * (abs(dy) > .2)
        if not sides:
            continue
        side = rng.choice(sides)
        true = rng.random() < .5
        said = side if true else {"left": "right", "right": "left", "above": "below", "below": "above"}[side]
        said = {"left": "to the left of", "right": "to the right of"}.get(said, said)
        plain = said.replace("to the ", "") if rng.random() < .5 else said
        out.append(("relation", q("is_side", x=one.shape, y=two.shape, s=plain), "Yes." if true else "No."))
        if count == 2 and abs(dx) > .2:
            out.append(("relation", q("beside", s="left of" if dx < 0 else "right of", x=two.shape),
                        sentence(an(one.name()))))
        if count == 2 and abs(dy) > .2:
            out.append(("relation", q("side", s="above" if dy < 0 else "below", x=two.shape), sentence(an(one.name()))))
    return out


def draw_relations(rng, w, h, k):
    """Two or three shapes, and only where they are as seen from each other."""
    sheet = Sheet(rng, w, h, k=k)
    things = make_things(rng, sheet, rng.choice((2, 2, 3)))
    paint(sheet, things)
    pairs = [(one, two) for one in things for two in things if one is not two]
    sheet.asks = relations(rng, pairs + pairs, len(things)) or [no_such(rng, rng.choice(
        [shape for shape in SHAPES if shape not in [t.shape for t in things]]))]
    return sheet


def draw_scene(rng, w, h, k):
    """One to four different shapes; nearly everything that can be asked about them, at low levels mostly which shape
    has which colour: until a model can find a thing by its name, the rest teaches it to guess."""
    q = functools.partial(ask, rng)
    sheet = Sheet(rng, w, h, k=k)
    count = rng.choice((1, 2, 2, 3) if rng.level < .6 else (1, 2, 2, 3, 3, 4))
    things = make_things(rng, sheet, count)
    paint(sheet, things)
    out = sheet.asks
    out.append(("describe", q("describe"), describe(sheet, things)))
    if len(things) == 1:
        t = things[0]
        out.append(("shape", q("only_shape"), sentence(an(t.name()))))
    out.append(("color", q("ground"), sentence(sheet.ground)))
    absent = rng.choice([s for s in SHAPES if s not in [t.shape for t in things]])
    for t in things:
        out.append(("color", q("color", x=t.shape), sentence(t.color)))
        out.append(("shape", q("shape", c=t.color), sentence(an(t.shape))))
        out.append(("size", q("size", x=t.shape), sentence("big" if t.big else "small")))
        at = zone(sheet, t)
        if at:
            out.append(("where", q("where", x=rng.choice((t.shape, t.name()))), sentence(at)))
        wrong = rng.choice([c for c in COLORS if c != t.color])
        if rng.random() < .5:
            out.append(("yesno", q("is_color", x=t.shape, c=t.color), "Yes."))
            out.append(("yesno", q("exists", a=an(rng.choice((t.shape, t.name())))), "Yes."))
        else:
            out.append(("yesno", q("is_color", x=t.shape, c=wrong), f"No, it is {t.color}."))
            out.append(("yesno", q("exists", a=an(rng.choice((absent, f"{wrong} {t.shape}")))), "No."))
    if rng.random() < .5:
        out.append(no_such(rng, absent))
    if rng.random() < .3:
        out.append(("absent", q("read"), "There is no text."))
    out.append(("count", q("count", x=rng.choice(("shapes", "objects", "things"))), sentence(NUMBERS[len(things)])))
    out.append(("count", q("count", x=plural(absent)), "None."))
    if len(things) >= 2:
        a, b = rng.sample(things, 2)
        out += relations(rng, [(a, b), (b, a)], len(things))
        if a.big != b.big:
            big = a if a.big else b
            out.append(("size", q("bigger", x=a.shape, y=b.shape), sentence(f"the {big.shape}")))
        if sum(t.big for t in things) == 1:
            out.append(("size", q("biggest"), sentence("the " + next(t.name() for t in things if t.big))))
    if rng.level < .6:
        sheet.asks = [a for a in out if a[0] in ("color", "shape") or rng.random() < .25]
        for t in things:
            sheet.asks += [("color", q("color", x=t.shape), sentence(t.color)),
                           ("shape", q("shape", c=t.color), sentence(an(t.shape)))]
    return sheet


def draw_count(rng, w, h, k):
    """Up to seven shapes of one or two sorts, to be counted."""
    q = functools.partial(ask, rng)
    sheet = Sheet(rng, w, h, k=k)
    most = 7 if min(w, h) > TILE else 6
    total = rng.randint(1, most)
    unit = min(w, h)
    places = place(rng, total, w / unit, h / unit, 0.0)
    total = len(places)
    shapes, colors = rng.sample(SHAPES, 2), rng.sample(colors_on(sheet.ground), 2)
    one = rng.choice((0, 0, rng.randint(0, total)))             # how many are of the first sort
    by_color = rng.random() < .5
    things = []
    for i, (x, y, r, big) in enumerate(places):
        shape, color = shapes[not by_color and i < one], colors[by_color and i < one]
        things.append(Thing(shape, color, x, y, r, big, turn_of(rng, shape)))
    paint(sheet, things)
    number = lambda n: sentence(NUMBERS[n]) if n else "None."
    out = sheet.asks
    out.append(("count", q("count", x=rng.choice(("shapes", "objects", "things"))), number(total)))
    for shape in shapes:
        out.append(("count", q("count", x=plural(shape)), number(sum(t.shape == shape for t in things))))
    for color in colors:
        x = f"{color} {rng.choice(('shapes', 'things'))}"
        out.append(("count", q("count", x=x), number(sum(t.color == color for t in things))))
    if 0 < one < total and not by_color:
        n = sum(t.shape == shapes[1] for t in things)
        if n != total - n:
            out.append(("count", q("more_of", x=plural(shapes[0]), y=plural(shapes[1])),
                        sentence(f"more {plural(shapes[1] if 2 * n > total else shapes[0])}")))
    return sheet


# ------------------------------------------------------------------------------------------------ text

def a_font(rng):
    """A font's file name; at level 0 one of the first three, at level 1 any."""
    return rng.choice(FONT_ORDER[:max(3, round(rng.level * len(FONT_ORDER)))])


def a_word(rng):
    """A word of the vocabulary, in one of three cases."""
    word = rng.choice(all_words() if rng.random() < .75 else
                      words(rng.choice(("name", "city", "sign", "day", "month"))))
    return in_some_case(rng, word)


def a_name(rng):
    """One of the words that questions name."""
    return in_some_case(rng, rng.choice(names()))


def in_some_case(rng, word):
    style = rng.random()
    return word.lower() if style < .4 else word.capitalize() if style < .7 else word.upper()


def made_up(rng):
    """A word that no list has: so that words are read letter by letter, and not guessed from a few of them."""
    syllable = lambda: (rng.choice(("", "b", "c", "d", "f", "g", "h", "k", "l", "m", "n", "p", "r", "s", "t", "v", "w",
                                    "bl", "br", "ch", "cl", "dr", "fl", "gr", "pl", "qu", "sh", "sk", "st", "th", "tr"))
                        + rng.choice(("a", "e", "i", "o", "u", "ai", "ea", "ee", "oo", "ou", "y"))
                        + rng.choice(("", "", "b", "ck", "d", "g", "l", "ll", "m", "n", "ng", "p", "r", "s", "st", "t",
                                      "x", "z")))
    return in_some_case(rng, known(rng, lambda: "".join(syllable() for _ in range(rng.choice((1, 1, 2, 2, 2))))))


def known(rng, make):
    """What make() returns, again and again until it is one of the texts that training may show, or, for the
    evaluation, one of the others. Texts of one or two characters are too few to hold any back."""
    while True:
        text = make()
        if len(text) < 3 or is_held_out(text) == rng.new_numbers:
            return text


def a_number(rng):
    """A number as people write them: 7, 42, 1995, 3.50, $12.99, 85%, 10:45."""
    def make():
        style = rng.random()
        if style < .6:
            return str(rng.randrange(10 ** rng.randint(1, 6)))
        if style < .8:
            return f"{rng.choice(('', '$'))}{rng.randrange(100)}.{rng.randrange(100):02}"
        if style < .9:
            return f"{rng.randrange(101)}%"
        return f"{rng.randrange(24)}:{rng.randrange(60):02}"
    return known(rng, make)


def a_code(rng):
    """Random letters and digits, of which none helps to guess the next."""
    pool = rng.choice(("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz", "ABCDEFGHJKLMNPQRSTUVWXYZ23456789"))
    return "".join(rng.choice(pool) for _ in range(rng.randint(1, 6)))


def a_plain_code(rng):
    """The same from letters that are told apart without neighbours of another case."""
    pool = rng.choice(("ABCDEFGHJKLMNPQRTUYZ", "abdefghijkmnpqrty", "ABDEFGHJKLMNPQRTUY2346789"))
    return "".join(rng.choice(pool) for _ in range(rng.randint(2, 5)))


def off_border(at, length, room, least=0):
    """Where a text of this length, in pixels, that begins at `at` should begin so that the border between two tiles
    does not cut it: as near as possible, between `least` and `room`, or `at` if it does not fit there."""
    if not at < TILE < at + length:
        return at
    before, after = TILE - 1 - length, TILE + 1
    fits = [place for place in (before, after) if least <= place and place + length <= room]
    return min(fits, key=lambda place: abs(place - at)) if fits else at


def fit(sheet, text, name, size, width):
    """The largest size up to `size` at which a text is no wider than width (model pixels)."""
    actual = sheet.width(text, name, size)
    return size if actual <= width else size * width / actual


def draw_words(rng, w, h, k):
    """One to four lines of words or numbers, each with its own font, size and colour."""
    q = functools.partial(ask, rng)
    sheet = Sheet(rng, w, h, k=k, ground=rng.choice(("white", "white", "white", None)) if rng.level < .5 else None)
    rows = rng.choice((1, 1, 2, 2, 3)) if h <= TILE else rng.choice((1, 2, 3, 3, 4))
    colors = colors_on(sheet.ground, 200)
    colors = rng.sample(colors, min(len(colors), rows)) if rng.random() < .6 else [rng.choice(colors)]
    same_face = a_font(rng) if rng.random() < .6 else None
    texts, places, y = [], [], 0.0
    least = SMALLEST + 2
    for i in range(rows):
        sort = rng.random()
        word = rng.choice((a_word, a_word, a_name, made_up))
        text = word(rng) if sort < .5 else a_number(rng) if sort < .85 else a_plain_code(rng)
        if w > TILE and rng.random() < .35 and sort < .5:
            text += " " + word(rng)
        name = same_face or a_font(rng)
        room = h / rows
        size = max(SMALLEST, fit(sheet, text, name, min(rng.uniform(least, max(least + 1, room * .85)), 36), w - 8))
        wide = sheet.width(text, name, size)
        x = rng.uniform(3, max(3.1, w - 3 - wide))
        if size < SEEN_WHOLE:
            x = off_border(x, wide, w)
        top = off_border(y + rng.uniform(0, max(0.0, room - 1.25 * size)), 1.2 * size, h)
        color = colors[i % len(colors)]
        sheet.text(x, top, text, name, size, tint(rng, color), "la", color)
        texts.append((text, color))
        places.append(sort)
        y = max(y + room, top + 1.2 * size)
    whole = "\n".join(text for text, _ in texts)
    out = sheet.asks
    if rows == 1:
        says = f"The text {as_shown(whole)} in {colors[0]} on a {sheet.ground} background."
        out.append(("describe", q("describe"), says.replace("a orange", "an orange")))
    else:
        says = ": " + " and ".join(as_shown(text) for text, _ in texts) if rows == 2 else \
            f", the first is {as_shown(texts[0][0])}"
        out.append(("describe", q("describe"), sentence(f"{NUMBERS[rows]} lines of text{says}")))
    if rows == 1 and .5 <= places[0] < .85:
        out.append(("number", q("read_number"), as_shown(whole)))
    else:
        out.append(("read" if rows <= 3 else "transcribe", q("read"), as_shown(whole)))
    shown = [text for text, _ in texts if " " not in text]
    colors_used = [color for _, color in texts]
    for text, color in texts:
        if name_of(text):
            out.append(("text_color", q("color_of_word", x=name_of(text)), sentence(color)))
        if colors_used.count(color) == 1 and rows > 1:
            out.append(("read", q("word_color", c=color), as_shown(text)))
    if rows > 1:
        for place_name, index in (("top", 0), ("bottom", rows - 1)) + (("middle", 1),) * (rows == 3):
            out.append(("read", q("word_place", p=place_name), as_shown(texts[index][0])))
    if rng.random() < .2:
        shape = rng.choice(SHAPES)
        out.append(rng.choice((no_such(rng, shape), ("count", q("count", x=plural(shape)), "None."),
                               ("yesno", q("exists", a=an(shape)), "No."))))
    named = [text for text in shown if name_of(text)]
    if named and rng.random() < .5:
        out.append(("has_text", q("has_word", x=name_of(rng.choice(named))), "Yes."))
    else:
        other = rng.choice(names())
        if other.lower() not in whole.lower():
            out.append(("has_text", q("has_word", x=other), "No."))
    return sheet


def draw_page(rng, w, h, k):
    """A page full of words, numbers and codes, each line in another font and size; at low levels black and large."""
    plain, least = rng.random() > rng.level, 18 + 7 * (1 - rng.level)
    sheet = Sheet(rng, w, h, "white" if plain else rng.choice(("white", "white", None)), k)
    colors, y = ["black"] if plain else colors_on(sheet.ground, 200), rng.uniform(-3, 8)
    while y < h - 8:
        size = rng.uniform(least, rng.choice((least + 4, least + 10, 48)))
        if rng.random() < .25 * rng.level:                  # as the whole picture shows it, at half its size
            size = rng.uniform(14, 18)
        name, color, x = a_font(rng), rng.choice(colors), rng.uniform(-4, 12)
        ink = tint(rng, color)
        while x < w - 8:
            text = rng.choice((a_word, a_word, a_name, a_number, a_number, a_code))(rng)
            sheet.text(x, y, text, name, size, ink, "la", color)
            x += sheet.width(text, name, size) + size * rng.uniform(.25, 1)
        y += size * rng.uniform(1.1, 1.6)
    return sheet


def draw_crowd(rng, w, h, k):
    """Many shapes of all sorts."""
    sheet = Sheet(rng, w, h, k=k)
    paint(sheet, make_things(rng, sheet, rng.randint(3, 9), 0.0, .25, unique=False))
    return sheet


def price(rng, most=30):
    return known(rng, lambda: f"{rng.randrange(1, most)}.{rng.randrange(100):02}")


def a_date(rng):
    month = words("month")[rng.randrange(12)]
    return rng.choice((f"{month} {rng.randint(1, 28)}", f"{rng.randint(1, 28)} {month}",
                       f"{rng.randint(1, 28):02}/{rng.randint(1, 12):02}/20{rng.randint(10, 29)}"))


def paper_of(rng, w, h, k):
    """A light sheet and a dark ink for a document."""
    sheet = Sheet(rng, w, h, "white", k)
    if rng.random() < .25:
        sheet.paper = (rng.randint(235, 255), rng.randint(230, 250), rng.randint(205, 235))
        sheet.image.paste(sheet.paper, (0, 0, *sheet.image.size))
    return sheet, tuple(rng.randint(0, 60) for _ in range(3))


def draw_receipt(rng, w, h, k):
    """A shop's receipt: name, perhaps a date, items with prices, the total."""
    q = functools.partial(ask, rng)
    sheet, ink = paper_of(rng, w, h, k)
    name = rng.choice(FONTS["mono"] + FONTS["plain"])
    count = rng.randint(2, 3 if h <= TILE else 4)
    items = rng.sample([item for item in asked("food") + asked("thing") if len(item) <= (5 if w <= TILE else 7)], count)
    prices = [price(rng) for _ in items]
    cents = sum(round(float(p) * 100) for p in prices)
    total = f"{cents // 100}.{cents % 100:02}"
    shop = " ".join(rng.sample([word for word in words("shop") if len(word) < 7], 2 if w > TILE else 1))
    date = a_date(rng) if h > TILE and rng.random() < .5 else None
    caps = rng.random()
    show = str.upper if caps < .3 else str.capitalize if caps < .8 else str.lower
    lines = 2 + count + (date is not None)
    margin = rng.uniform(4, 8) if w <= TILE else rng.uniform(8, 40)
    step = min((h - 8) / lines, rng.uniform(28, 38))
    size = min(step * .8, rng.uniform(SMALLEST, 27) if w > TILE else SMALLEST)
    widest = max(sheet.width(f"{show(item)}  {p}", name, size) for item, p in zip(items, prices))
    size *= min(1.0, (w - 2 * margin) / widest)
    y = rng.uniform(3, max(3.1, h - 4 - step * lines - (size if h > TILE else 0)))
    line = lambda y: off_border(y, 1.2 * size, h, y)
    titles = [shop] + ([date] if date else [])
    for title in titles:
        y = line(y)
        smaller = fit(sheet, title, name, size * rng.uniform(1, 1.2) if title == shop else size, w - 8)
        wide = sheet.width(title, name, smaller)
        x = off_border(rng.choice((margin, (w - wide) / 2)), wide, w) if smaller < SEEN_WHOLE else (w - wide) / 2
        sheet.text(x, y, title, name, smaller, ink)
        y += step
    for item, p in zip(items, prices):
        y = line(y)
        sheet.text(margin, y, show(item), name, size, ink)
        sheet.text(w - margin, y, p, name, size, ink, "ra")
        y += step
    y = line(y)
    sheet.line(margin, y - 1, w - margin, y - 1, ink)
    label = rng.choice(("Total", "TOTAL", "Total"))
    sheet.text(margin, y + 1, label, name, size, ink)
    sheet.text(w - margin, y + 1, total, name, size, ink, "ra")
    out = sheet.asks
    out.append(("receipt", q("total"), as_shown(total)))
    out.append(("receipt", q("shop"), as_shown(shop)))
    out.append(("receipt", q("items"), sentence(NUMBERS[count])))
    if date:
        out.append(("receipt", q("date"), as_shown(date)))
    for item, p in zip(items, prices):
        out.append(("receipt", q("price", x=item), as_shown(p)))
        if prices.count(p) == 1 and rng.random() < .8:
            out.append(("receipt", q("costs", x=p), as_shown(show(item))))
    out.append(("describe", q("describe"), f"A receipt from {as_shown(shop)} with {NUMBERS[count]} items."))
    other = rng.choice([item for item in asked("food") if item not in items])
    out.append(("absent", q("price", x=other), f"There is no {other} on the receipt."))
    pairs = "\n".join(f"{show(item)} {p}" for item, p in zip(items, prices))
    whole = f"{shop}\n" + (f"{date}\n" if date else "") + f"{pairs}\n{label} {total}"
    out.append(("transcribe", q("read"), as_shown(whole)))
    return sheet


def draw_label(rng, w, h, k):
    """A sign, a name badge, a price tag, a parcel's label: a few fields, one below the other."""
    q = functools.partial(ask, rng)
    sort = rng.random()
    out = []
    if sort < .3:                                                                   # a sign
        ground = rng.choice(("red", "blue", "green", "yellow", "black", "white", "orange"))
        sheet = Sheet(rng, w, h, ground, k)
        signs = [word for word in words("sign") if len(word) < (7 if w <= TILE else 10)]
        text = rng.choice(signs)
        if rng.random() < .4:
            text = text + "\n" + rng.choice(signs)
        color = rng.choice(colors_on(ground, 220, ("white", "black", "yellow")))
        name = rng.choice(FONTS["plain"] + FONTS["fancy"])
        rows = text.split("\n")
        for i, row in enumerate(rows):
            size = fit(sheet, row, name, min(46, h * .7 / len(rows)) * rng.uniform(.7, 1), w - 16)
            sheet.text(w / 2, h * (i + .5) / len(rows), row, name, size, tint(rng, color, 5), "mm", color)
        if rng.random() < .5:
            sheet.box(4, 4, w - 5, h - 5, None, tint(rng, color, 5), 2)
        out = [("label", q("sign"), as_shown(text)),
               ("describe", q("describe"), f"{sentence(an(ground))[:-1]} sign that says {as_shown(' '.join(rows))}."),
               ("color", q("ground"), sentence(ground))]
        sheet.asks = out
        return sheet
    if sort < .55:
        fields = {"name": rng.choice(asked("name")), "city": rng.choice(asked("city")),
                  "room": known(rng, lambda: str(rng.randint(1, 499))),
                  "phone": known(rng, lambda: f"{rng.randrange(100, 1000)}-{rng.randrange(1000, 10000)}")}
    elif sort < .8:
        fields = {"product": rng.choice(asked("food") + asked("thing")).capitalize(), "price": "$" + price(rng, 100),
                  "weight": f"{rng.randrange(1, 20) * 50} g", "size": rng.choice(("small", "medium", "large")),
                  "code": known(rng, lambda: str(rng.randrange(1000, 100000)))}
    else:
        fields = {"city": rng.choice(asked("city")), "date": a_date(rng), "seat": str(rng.randint(1, 40)),
                  "time": f"{rng.randrange(24)}:{rng.randrange(60):02}", "gate": str(rng.randint(1, 60))}
    sheet, ink = paper_of(rng, w, h, k)
    keys = list(fields)
    most = 3 if h <= TILE else 5
    kept = rng.sample(keys, min(len(keys), rng.randint(2, most)))
    keys = [key for key in keys if key in kept]
    name = a_font(rng)
    step = min((h - 10) / len(keys), rng.uniform(30, 48))
    y = rng.uniform(4, max(4.1, h - 4 - step * len(keys) - (step if h > TILE else 0)))
    if rng.random() < .4:
        sheet.box(2, 2, w - 3, h - 3, None, ink)
    largest = rng.uniform(SMALLEST + 1, 28)
    for key in list(keys):
        start, rest = f"{key.capitalize()}:", fields[key]
        size = min(step * .8, largest)
        if w > TILE:                                        # two columns, one in each tile
            size = fit(sheet, rest, name, fit(sheet, start, name, size, TILE - 12), TILE - 12)
            pieces = [(rng.uniform(6, 10), start), (TILE + rng.uniform(2, 6), rest)]
        else:
            size = fit(sheet, f"{start} {rest}", name, size, w - 10)
            pieces = [(6, f"{start} {rest}")]
        if size < SMALLEST - 1:                                                     # too long to be read
            keys.remove(key)
            continue
        y = off_border(y, 1.2 * size, h, y)
        for x, text in pieces:
            sheet.text(x, y, text, name, size, ink)
        out.append(("label", q("field", x=key), as_shown(fields[key])))
        y += step
    others = ("name", "city", "price", "date", "time", "phone", "weight", "room")
    other = rng.choice([key for key in others if key not in keys])
    out.append(("absent", q("field", x=other), f"There is no {other} given."))
    if keys:
        out.append(("transcribe", q("read"), as_shown("\n".join(f"{key.capitalize()}: {fields[key]}" for key in keys))))
    sheet.asks = out
    return sheet


def draw_chart(rng, w, h, k):
    """A bar chart: three to five named bars with their values written on them."""
    q = functools.partial(ask, rng)
    sheet, ink = paper_of(rng, w, h, k)
    count = rng.choice((2, 2, 3)) if w <= TILE else rng.randint(2, 4)
    name = rng.choice(FONTS["plain"])
    size = rng.uniform(SMALLEST, SMALLEST + 3)
    slot = (w - 8) / count if w <= TILE else TILE / 2 - 2   # so that the border of two tiles lies between two bars
    left = 4 if w <= TILE else 4 + slot * rng.randint(0, 4 - count)
    pool = [word for word in rng.choice((asked("food"), asked("name"), asked("animal"), asked("city"), asked("day")))
            if sheet.width(word.capitalize(), name, size) < slot - 4]
    if len(pool) < count:
        pool = asked("day")
    bars = [word.capitalize() for word in rng.sample(pool, count)]
    values = rng.sample(range(5, 100), count)
    if min(abs(a - b) for i, a in enumerate(values) for b in values[:i]) < 9:
        values = [10 + 9 * v for v in rng.sample(range(10), count)]
    title = rng.choice(("Sales", "Votes", "Points", "Visits", "Books", "Hours", "Goals", "Cars"))
    if h < .95 * TILE or h <= TILE and rng.random() < .5:
        title = None
    top = 4 + (1.4 * size if title else 0)
    base = h - 1.5 * size
    if title:
        x = 6 if w > TILE or rng.random() < .5 else (w - sheet.width(title, name, size)) / 2
        sheet.text(x, 3, title, name, size, ink)
    one = rng.random() < .4
    colors = [rng.choice(colors_on("white"))] * count if one else rng.sample(colors_on("white"), count)
    tall = base - top - 1.3 * size
    written = rng.random() < .8
    for i, (bar, value, color) in enumerate(zip(bars, values, colors)):
        x = left + slot * (i + .5)
        y = base - tall * value / max(values)
        sheet.box(x - slot * .32, y, x + slot * .32, base, tint(rng, color))
        sheet.marks.append(("bar", color, x, (y + base) / 2, slot * .32, (base - y) / 2))
        if written:
            sheet.text(x, off_border(y - 1.2 * size, 1.2 * size, y), str(value), name, size, ink, "ma")
        sheet.text(x, base + 2, bar, name, size, ink, "ma")
    sheet.line(4, base, w - 4, base, ink)
    out = sheet.asks
    best, worst = bars[values.index(max(values))], bars[values.index(min(values))]
    out.append(("chart", q("tallest"), as_shown(best)))
    out.append(("chart", q("shortest"), as_shown(worst)))
    out.append(("chart", q("bars"), sentence(NUMBERS[count])))
    a, b = rng.sample(range(count), 2)
    out.append(("chart", q("more", x=bars[a], y=bars[b]), as_shown(bars[a] if values[a] > values[b] else bars[b])))
    for bar, value, color in zip(bars, values, colors):
        if written:
            out.append(("chart", q("bar", x=bar), as_shown(value)))
        if not one:
            out.append(("chart", q("bar_color", x=bar), sentence(color)))
    out.append(("describe", q("describe"), f"A bar chart with {NUMBERS[count]} bars, the tallest is {as_shown(best)}."))
    if title:
        out.append(("chart", q("title"), as_shown(title)))
    if written:
        rows = [f"{bar} {value}" for bar, value in zip(bars, values)]
        out.append(("transcribe", q("read"), as_shown("\n".join(([title] if title else []) + rows))))
    return sheet


def draw_table(rng, w, h, k):
    """A table of two to five rows: a name and one or two columns."""
    q = functools.partial(ask, rng)
    sheet, ink = paper_of(rng, w, h, k)
    rows = rng.randint(2, 3 if h <= TILE else 4)
    makers = {"age": lambda: str(rng.randint(18, 90)), "city": lambda: rng.choice(asked("city")),
              "score": lambda: str(rng.randint(10, 99)), "room": lambda: known(rng, lambda: str(rng.randint(100, 499))),
              "sport": lambda: rng.choice(("tennis", "soccer", "golf", "chess", "dance")),
              "pet": lambda: rng.choice(("cat", "dog", "horse", "rabbit", "bird", "fish")),
              "color": lambda: rng.choice(tuple(COLORS))}
    columns = rng.sample(sorted(makers), 1 if w <= TILE or rng.random() < .3 else 2)
    people = rng.sample(asked("name"), rows)
    cells = [[makers[column]() for column in columns] for _ in people]
    face = rng.choice(FONTS["plain"] + FONTS["serif"])
    step = min((h - 6) / (rows + 1), rng.uniform(30, 46))
    size = min(step * .72, rng.uniform(SMALLEST, 26))
    table = [["Name"] + [column.capitalize() for column in columns]] + [[n] + row for n, row in zip(people, cells)]
    widths = [max(sheet.width(row[i], face, size) for row in table) + 9 for i in range(len(columns) + 1)]
    middle = TILE if w > TILE else 0                        # there the second column begins, so that no tile cuts it
    scale = min(1.0, (w - 4 - middle) / sum(widths[middle > 0:]), *([(TILE - 4) / widths[0]] if middle else []))
    size, widths = size * scale, [width * scale for width in widths]
    if middle:
        x0 = TILE - 1 - widths[0] - rng.uniform(0, max(0, TILE - 4 - widths[0]))
        widths[0] = TILE - 1 - x0
    else:
        x0 = rng.uniform(2, max(2.1, w - 3 - sum(widths)))
    tops, y = [], rng.uniform(2, max(2.1, h - 3 - step * len(table) - (step if h > TILE else 0)))
    for _ in table + [None]:
        tops.append(y)
        y = off_border(y + step, step, h, y + step)
    head = tuple(rng.randint(190, 235) for _ in range(3))
    sheet.box(x0, tops[0], x0 + sum(widths), tops[1], head)
    for top, row in zip(tops, table):
        x = x0
        for width, cell in zip(widths, row):
            sheet.text(x + 4, top + step / 2, cell, face, size, ink, "lm")
            x += width
    if rng.random() < .8:
        for top in tops:
            sheet.line(x0, top, x0 + sum(widths), top, ink)
        x = x0
        for width in widths + [0]:
            sheet.line(x, tops[0], x, tops[-1], ink)
            x += width
    out = sheet.asks
    for n, row in zip(people, cells):
        for column, cell in zip(columns, row):
            out.append(("table", q("cell", x=n, y=column), as_shown(cell)))
            if [r[columns.index(column)] for r in cells].count(cell) == 1 and rng.random() < .8:
                out.append(("table", q("row_of", y=column, v=cell), as_shown(n)))
    out.append(("table", q("rows"), sentence(NUMBERS[rows])))
    out.append(("describe", q("describe"),
                f"A table with the {' and the '.join(columns)} of {NUMBERS[rows]} people."))
    other = rng.choice([n for n in asked("name") if n not in people])
    out.append(("absent", q("cell", x=other, y=columns[0]), f"There is no {other} in the table."))
    out.append(("transcribe", q("read"), as_shown("\n".join(" ".join(row) for row in table))))
    return sheet


def draw_fine(rng, w, h, k):
    """A scene or a big word, and a line of small print: at half size, in the global picture, nobody could read it."""
    q = functools.partial(ask, rng)
    sheet = Sheet(rng, w, h, rng.choice(("white", "white", "yellow", "pink", "gray")), k)
    name = rng.choice(FONTS["plain"] + FONTS["mono"])
    size = SMALLEST - rng.uniform(1, 3)
    sort = rng.random()
    code = known(rng, lambda: str(rng.randrange(100, 100000)))
    text = f"{rng.choice(('Code', 'No', 'Lot', 'Nr'))} {code}" if sort < .5 else rng.choice((a_word, a_number))(rng)
    wide = sheet.width(text, name, size)
    low = rng.random() < .6
    x = off_border(rng.uniform(3, max(3.1, w - 3 - wide)), wide, w)
    y = h - size * 1.5 if low else 3
    unit = min(w, h)
    band = 1.8 * size / unit
    room = (0, 0 if low else band, w / unit, h / unit - (band if low else 0))
    things = make_things(rng, sheet, rng.choice((1, 2)), big_share=.7, room=room)
    paint(sheet, things)
    sheet.text(x, y, text, name, size, tuple(rng.randint(0, 50) for _ in range(3)))
    out = sheet.asks
    out.append(("fine", q("fine"), as_shown(text)))
    out.append(("fine", q("fine"), as_shown(text)))
    out.append(("read", q("read"), as_shown(text)))
    for t in things:
        out.append(("color", q("color", x=t.shape), sentence(t.color)))
        out.append(("shape", q("shape", c=t.color), sentence(an(t.shape))))
    out.append(("describe", q("describe"), describe(sheet, things)[:-1] + f". The text says {as_shown(text)}."))
    return sheet


# ------------------------------------------------------------------------------------------------ several pictures

def draw_pair(rng, w, h, k):
    """Two scenes, the second a changed copy of the first or another one: (pictures, asks)."""
    q = functools.partial(ask, rng)
    first = Sheet(rng, w, h, k=k)
    things = make_things(rng, first, rng.choice((1, 1, 2, 2)), big_share=.7)
    second = Sheet(rng, w, h, first.ground, k)
    others = [Thing(**vars(t)) for t in things]
    asks, change = [], rng.choice(("none", "none", "color", "color", "shape", "gone", "count", "other"))
    t = rng.choice(others)
    free_colors = [c for c in colors_on(first.ground) if c not in [o.color for o in things]]
    free_shapes = [s for s in SHAPES if s not in [o.shape for o in things]]
    said = None
    if change == "color":
        before, t.color = t.color, rng.choice(free_colors)
        said = f"The {t.shape} is {before} in the first picture and {t.color} in the second."
    elif change == "shape":
        before, t.shape = t.name(), rng.choice(free_shapes)
        said = f"The {before} became {an(t.shape)}."
    elif change == "gone" and len(others) > 1:
        others.remove(t)
        said = f"The {t.name()} is missing in the second picture."
    elif change in ("count", "other"):
        others = make_things(rng, second, rng.choice((1, 2)), big_share=.7)
    if change == "count":                               # only one sort of shape, more of it here or there
        shape, color = rng.choice(SHAPES), rng.choice(colors_on(first.ground))
        unit = min(w, h)
        counts = rng.choice(((1, 3), (1, 4), (2, 4), (2, 5), (3, 1), (4, 1), (4, 2), (5, 2)))
        sides = []
        for n in counts:
            sides.append([Thing(shape, color, x, y, r, big, turn_of(rng, shape))
                          for x, y, r, big in place(rng, n, w / unit, h / unit, 0.0)])
        things, others = sides
        if len(things) != len(others):
            asks.append(("compare", q("more_in", x=plural(shape)), "The first picture." if len(things) > len(others)
                         else "The second picture."))
        asks.append(("compare", q("same"), "No."))
    paint(first, things)
    paint(second, others)
    if change != "count":
        same = change == "none" or (change == "gone" and said is None)
        asks.append(("compare", q("same"), "Yes." if same else "No."))
        if said or same:
            asks.append(("compare", q("change"), said or "Nothing."))
        asks.append(("compare", q("in_picture", n="first"), describe(first, things)))
        asks.append(("compare", q("in_picture", n="second"), describe(second, others)))
        a, b = {t.name() for t in things}, {t.name() for t in others}
        for name in sorted(a ^ b):
            asks.append(("compare", q("which_has", a=an(name)), f"The {'first' if name in a else 'second'} picture."))
    return [first, second], asks


TO = {"left": "to the left", "right": "to the right"}
WAYS = {"right": (1, 0), "left": (-1, 0), "down": (0, 1), "up": (0, -1)}


def draw_clip(rng, w, h, k, frames=4):
    """Frames of a film: one shape moves, perhaps others stay: (pictures, asks)."""
    q = functools.partial(ask, rng)
    ground = Sheet(rng, w, h, k=k)
    colors, shapes = rng.sample(colors_on(ground.ground), 3), rng.sample(SHAPES, 3)
    way = rng.choice(tuple(WAYS))
    dx, dy = WAYS[way]
    r, across = rng.uniform(.11, .16), rng.uniform(.22, .78)
    begin, end = rng.uniform(.18, .32), rng.uniform(.65, .82)
    if dx + dy < 0:
        begin, end = end, begin
    still = []
    for i in range(rng.choice((0, 1, 1, 2))):
        s = rng.uniform(.08, .12)
        away = rng.uniform(.1, .9)
        side = across + (.34 if across < .5 else -.34) if i == 0 else None
        if side is not None and .1 < side < .9:
            x, y = (away, side) if dx else (side, away)
            still.append(Thing(shapes[i + 1], colors[i + 1], x, y, s, False, 0.0))
    mover_color, shade = tint(rng, colors[0]), ground.paper
    pictures = []
    for i in range(frames):
        sheet = Sheet(rng, w, h, ground.ground, k)
        sheet.paper = shade
        sheet.image.paste(shade, (0, 0, *sheet.image.size))
        at = begin + (end - begin) * i / (frames - 1)
        x, y = (at, across) if dx else (across, at)
        paint(sheet, still)
        sheet.shape(x * w, y * h, r * min(w, h), shapes[0], mover_color)
        sheet.marks.append((shapes[0], colors[0], x * w, y * h, .8 * r * min(w, h), .8 * r * min(w, h)))
        pictures.append(sheet)
    name = f"{colors[0]} {shapes[0]}"
    to = TO.get(way, way)
    asks = [("clip", q("moves"), sentence(f"the {name}")), ("clip", q("way", x=shapes[0]), sentence(to)),
            ("clip", q("happens"), sentence(f"{an(name)} moves {to}")),
            ("clip", q("color", x=shapes[0]), sentence(colors[0]))]
    for t in still[:1]:
        asks.append(("clip", q("stays"), sentence(f"the {t.name()}")))
    wrong = rng.choice([other for other in WAYS if other != way])
    true = rng.random() < .5
    asks.append(("clip", q("moves_so", x=shapes[0], s=to if true else TO.get(wrong, wrong)), "Yes." if true else "No."))
    return pictures, asks


# ------------------------------------------------------------------------------------------------ samples

# How often each drawing is made, for each kind of sample.
MIX = {
    "eye": ((draw_page, 3), (draw_crowd, 1)),
    "tile": ((draw_scene, 3), (draw_relations, 1.5), (draw_nothing, .3), (draw_count, 2), (draw_words, 6),
             (draw_label, 3), (draw_receipt, 5), (draw_chart, 5), (draw_table, 5)),
    "wide": ((draw_scene, 2), (draw_relations, 1), (draw_nothing, .2), (draw_count, 3), (draw_words, 5),
             (draw_label, 3), (draw_receipt, 1), (draw_chart, 4), (draw_table, 4), (draw_fine, 3)),
    "tall": ((draw_scene, 2), (draw_relations, 1), (draw_nothing, .1), (draw_count, 1), (draw_words, 5),
             (draw_label, 2), (draw_receipt, 6), (draw_table, 2), (draw_fine, 3)),
    "square": ((draw_scene, 4), (draw_relations, 1), (draw_nothing, .3), (draw_count, 5), (draw_words, 5),
               (draw_label, 3), (draw_receipt, 6), (draw_chart, 5), (draw_table, 6), (draw_fine, 4)),
}


def sample(rng, kind, only=None, own_size=.15):
    """Draws one Sample of a kind (see KINDS) with a Dice.

    only: draw with this function. own_size: the share of split pictures that are drawn at any size, for the model's
    own resizing to bring to size; the others are drawn so that nothing is resized but the global picture."""
    count, split, w, h = KINDS[kind]
    k = 1.0
    draw = only or (rng.choices(*zip(*MIX[kind]))[0] if kind in MIX else None)
    if split and rng.random() < own_size:
        k = rng.uniform(.8, 2.3)
        if draw in (None, draw_scene, draw_relations, draw_count, draw_nothing):        # documents need their room
            if kind in ("wide", "pair_wide"):
                w, h = EDGE, 2 * rng.randint(round(.18 * EDGE), TILE // 2)
            elif kind == "tall":
                w, h = 2 * rng.randint(round(.18 * EDGE), TILE // 2), EDGE
            elif rng.random() < .5:
                w = rng.randint(round(.6 * EDGE), EDGE)
            else:
                h = rng.randint(round(.6 * EDGE), EDGE)
    if kind.startswith("pair"):
        sheets, asks = draw_pair(rng, w, h, k)
    elif kind in ("frames", "film"):
        sheets, asks = draw_clip(rng, w, h, k)
    else:
        sheet = draw(rng, w, h, k)
        sheets, asks = [sheet], sheet.asks
    harsh = .9 * rng.level if not any(skill == "fine" for skill, _, _ in asks) else .25
    sky = rng.getrandbits(32)                               # pictures to be compared are taken in the same weather
    taken = [weather(rng if count != 2 else random.Random(sky), sheet.image, harsh, turn=count == 1)
             for sheet in sheets]
    marks = [turned(sheet, angle) for sheet, (_, angle) in zip(sheets, taken)]
    return Sample([picture for picture, _ in taken], split, kind == "film", asks, marks)


def main():
    parser = argparse.ArgumentParser(description="Draws samples of the training pictures, to look at.")
    parser.add_argument("out", help="a folder")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=24)
    parser.add_argument("--kind", choices=KINDS)
    a = parser.parse_args()
    os.makedirs(a.out, exist_ok=True)
    for i in range(a.count):
        rng = Dice(f"{a.seed}/{i}")
        kind = a.kind or list(KINDS)[i % len(KINDS)]
        s = sample(rng, kind)
        for j, picture in enumerate(s.pictures):
            picture.save(os.path.join(a.out, f"{i:03}-{kind}-{j}.png"))
        print(f"{i:03} {kind} {s.pictures[0].size}")
        for skill, question, answer in s.asks:
            print(f"    {skill:10} {question!r} -> {unmarked(answer)!r}")


if __name__ == "__main__":
    main()
