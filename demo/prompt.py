"""Questions, answers and pictures as SmolVLMProcessor turns them into ids: what comes before the image tokens, among
them and after them, in the words of SmolVLM2's chat template.
"""
import functools
import os
import re

from tokenizers import Tokenizer

PUBLISHED = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests", "published")     # SmolVLM2's own


@functools.cache
def tokenizer():
    """SmolVLM2's, 49280 ids."""
    return Tokenizer.from_file(os.path.join(PUBLISHED, "tokenizer.json"))


@functools.lru_cache(20000)
def encode(text):
    """The ids of a text, none added."""
    return tuple(tokenizer().encode(text, add_special_tokens=False).ids)


@functools.lru_cache(20000)
def ends(text):
    """{place in the text where an id ends: the id's index}."""
    offsets = tokenizer().encode(text, add_special_tokens=False).offsets
    return {end: i for i, (_, end) in enumerate(offsets)}


def picture_text(rows, columns, tokens):
    """What SmolVLMProcessor puts into the prompt for one picture of so many tiles, each of so many image tokens."""
    row = lambda r: "".join(f"<fake_token_around_image><row_{r}_col_{c}>" + "<image>" * tokens
                            for c in range(1, columns + 1)) + "\n"
    return ("".join(row(r) for r in range(1, rows + 1)) + ("\n" if rows else "")
            + "<fake_token_around_image><global-img>" + "<image>" * tokens + "<fake_token_around_image>")


def prefix_text(grids, clip, tokens):
    """The prompt up to the question: pictures as [(rows, columns)]; clip: as the frames of a film, one a second."""
    if not clip:
        return "<|im_start|>User:" + "".join(picture_text(*grid, tokens) for grid in grids)
    frames = "".join(f"\nFrame from 00:{i:02}:" + picture_text(0, 0, tokens) for i in range(len(grids)))
    count = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight")[len(grids)]
    return (f"<|im_start|>User: You are provided the following series of {count} frames from a 0:00:{len(grids):02} "
            f"[H:MM:SS] video.\n{frames}\n\n")


def question_text(question):
    """What follows the pictures."""
    return question + "<end_of_utterance>\nAssistant:"


def pieces(answer):
    """An answer, with what surrounds it, cut at draw.as_shown's marks: every second piece is read out."""
    return re.split("[\x02\x03]", " " + answer + "<end_of_utterance>")


@functools.lru_cache(20000)
def answer_ids(answer):
    """An answer as the model has to give it: what it reads out (draw.as_shown) a character at a time, which reads as
    well, spares it the tokenizer's thousand ways to cut words up, and lets it read words it has never seen."""
    ids = []
    for i, piece in enumerate(pieces(answer)):
        ids += encode(piece) if i % 2 == 0 else [id for char in piece for id in encode(char)]
    return tuple(ids)
