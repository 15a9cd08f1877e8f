"""Writes tests/golden/video/: what SmolVLM2's reference makes of videos, for tests/test_video.c.

    pip install --no-deps --target DIR torchvision==0.29.0
    PYTHONPATH=DIR python tests/golden_video.py

frames.txt   total rate duration fps num_frames: how many, the first, the last and the CRC-32 (of their decimal numbers,
             each with a line end) of the frames that sample_frames takes
words.txt    count seconds|what the prompt says before a video of so many frames (without the line end)
words.crc    the CRC-32 of num2words(n) and a line end, for every n below 30000
stamps.txt   index rate|what it says before that frame
prompts.golden, in the format of golden_model.py:
    NAME/text, NAME/ids              a conversation of the demo's processor, see PROMPTS; test_video.c has the same
    NAME/index                       all its videos' frames
pixels.txt   file longest_edge side: the CRC-32 of [side, side, 3], the file as a frame that the processor scaled
"""
import json
import os
import random
import sys
import tempfile
import zlib

import numpy as np
import torch

# torchvision's own compiled part comes for a torch with CUDA. Nothing here needs it: only that two names are there.
try:
    import torchvision
except RuntimeError:
    for module in [name for name in sys.modules if name.startswith("torchvision")]:
        del sys.modules[module]
    library = torch.library.Library("torchvision", "DEF")
    library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision  # noqa: F401

from num2words import num2words
from PIL import Image
from transformers import AutoProcessor
from transformers.video_utils import VideoMetadata

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
GOLDEN = os.path.join(HERE, "golden", "video")
sys.path.insert(0, HERE)
import golden_model  # noqa: E402


def sample(processor, total, rate, duration, fps, num_frames):
    metadata = VideoMetadata(total_num_frames=total, fps=rate, duration=duration)
    return processor.video_processor.sample_frames(metadata, num_frames=num_frames, fps=fps).tolist()


def frame_cases():
    """(total, rate, duration, fps, num_frames)"""
    draw = random.Random(21)
    rates = [1, 5, 10, 12.5, 15, 23.976, 24, 24000 / 1001, 25, 29.97, 30000 / 1001, 30, 50, 59.94, 60, 120, 0.1, 0.5]
    for total in [*range(1, 12), 29, 30, 31, 44, 45, 46, 59, 60, 61, 74, 75, 76, 104, 105, 106, 1979, 1980, 1981, 1982]:
        yield total, 30, total / 30, 1, 64
    for rate in rates:                                      # both sides of the half that round() puts to even
        for seconds in (0.5, 1.5, 2.5, 3.5, 66, 66.01, 67, 600, 3600, 100000):
            total = max(1, round(rate * seconds))
            yield total, rate, total / rate, 1, 64
            yield total, rate, float(seconds), 1, 64
    for _ in range(300):
        rate = draw.choice(rates)
        total = int(10 ** draw.uniform(0, 7))
        duration = total / rate * draw.choice([1, 1, 1, 0.99, 1.01, 0.5, 3])
        yield total, rate, duration, draw.choice([1, 1, 2, 0.5, 0.1, 1 / 3, 24, 30.5]), \
            draw.choice([1, 2, 3, 8, 64, 64, 65, 500])
    yield 1, 1000.0, 1e6, 1, 64                             # shorter than the second that is left out
    yield 50, 30.0, 1e6, 1, 64
    yield 61, 30.0, 1e6, 1, 64
    yield 60, 30.0, 1e6, 1, 64
    yield 2 ** 40, 240.0, 2 ** 40 / 240.0, 1, 64


def crc(lines):
    return zlib.crc32("".join(f"{line}\n" for line in lines).encode())


class Shaped:
    """Stands for pixels of so many frames."""
    def __init__(self, count):
        self.shape = (1, count)


def words(processor, count, rate, duration, index):
    metadata = VideoMetadata(total_num_frames=1, fps=rate, duration=duration, frames_indices=index)
    return processor.replace_video_token({"pixel_values": Shaped(count), "video_metadata": [metadata]}, 0)


def text(words):
    return {"type": "text", "text": words}


VIDEO, IMAGE = {"type": "video"}, {"type": "image"}
# name: (messages, videos as (total, rate, duration), the number of pictures, fps, num_frames). Two videos have as many
# frames: of a longer and a shorter one the reference fills up the shorter with black, and says so many frames of both.
PROMPTS = {
    "question": ([("user", [VIDEO, text("What happens?")])], [(8, 2, 4)], 0, 1, 64),
    "one_frame": ([("user", [VIDEO, text("What happens?")])], [(1, 24, 1 / 24)], 0, 1, 64),
    "system": ([("system", [text("You answer in one word.")]), ("user", [VIDEO, text("What happens?")])],
               [(90, 30, 3)], 0, 1, 64),
    "text_first": ([("user", [text("Look: "), VIDEO, text("What happens?")])], [(8, 2, 4)], 0, 1, 64),
    "fewer": ([("user", [VIDEO, text("What happens?")])], [(500, 25, 20)], 0, 1, 4),
    "faster": ([("user", [VIDEO, text("What happens?")])], [(12, 29.97, 12 / 29.97)], 0, 8, 64),
    "days": ([("user", [VIDEO, text("What happens?")])], [(100, 100 / 200000, 200000.9)], 0, 0.00002, 64),
    "picture": ([("user", [IMAGE, VIDEO, text("Is it the same?")])], [(8, 2, 4)], 1, 1, 64),
    "after_picture": ([("user", [VIDEO, IMAGE, text("Is it the same?"), VIDEO])], [(8, 2, 4), (4, 1, 4)], 1, 1, 64),
    "talk": ([("user", [text("Hello.")]), ("assistant", [text("Hi!")]), ("user", [VIDEO, text("What happens?")]),
              ("assistant", [text("Nothing.")]), ("user", [text("Sure?")])], [(8, 2, 4)], 0, 1, 64),
}
PICTURE = "demo/pictures/scene.png"


def prompt(processor, messages, videos, n_pictures, fps, num_frames):
    conversation = [{"role": role, "content": content} for role, content in messages]
    rendered = processor.apply_chat_template(conversation, add_generation_prompt=True, tokenize=False)
    frames = [np.zeros((total, 30, 40, 3), np.uint8) for total, _, _ in videos]
    metadata = [VideoMetadata(total_num_frames=total, fps=rate, duration=duration) for total, rate, duration in videos]
    pictures = [Image.open(os.path.join(ROOT, PICTURE)).convert("RGB")] * n_pictures
    batch = processor(text=rendered, videos=frames, images=pictures or None, video_metadata=metadata, fps=fps,
                      num_frames=num_frames, do_sample_frames=True, return_tensors="pt")
    index = [i for video in videos for i in sample(processor, *video, fps, num_frames)]
    ids = batch["input_ids"][0].tolist()
    return processor.tokenizer.decode(ids), ids, index


PIXELS = [                                                  # file, longest_edge, side
    ("demo/pictures/scene.png", 288, 144), ("tests/pictures/cat.jpg", 2048, 512),
    ("tests/pictures/coffee.jpg", 1536, 384), ("demo/pictures/receipt.jpg", 512, 512),
    ("demo/pictures/chart.png", 4096, 378), ("demo/pictures/film1.png", 97, 96), ("demo/pictures/film1.png", 96, 96),
    ("demo/pictures/table.png", 63, 512), ("demo/pictures/label.jpg", 1, 64),
    ("tests/golden/images/adam7_1x9.png", 288, 144), ("tests/golden/images/adam7_5x2.png", 2048, 512),
    ("tests/golden/images/adam7_1x1.png", 288, 144)]


def scaled(directory, file, longest_edge, side):
    """The pixels of a video of one frame, by a processor with the demo's other settings."""
    with open(os.path.join(ROOT, "demo", "hf", "preprocessor_config.json"), encoding="utf-8") as f:
        settings = json.load(f)
    settings["size"], settings["max_image_size"] = {"longest_edge": longest_edge}, {"longest_edge": side}
    for name in ("tokenizer.json", "tokenizer_config.json", "config.json", "processor_config.json",
                 "chat_template.json"):
        source = os.path.join(ROOT, "demo", "hf", name)
        if os.path.exists(source) and not os.path.exists(os.path.join(directory, name)):
            os.symlink(source, os.path.join(directory, name))
    with open(os.path.join(directory, "preprocessor_config.json"), "w", encoding="utf-8") as f:
        json.dump(settings, f)
    processor = AutoProcessor.from_pretrained(directory).video_processor
    frame = np.array(Image.open(os.path.join(ROOT, file)).convert("RGB"))
    batch = processor(videos=[frame[None]], input_data_format="channels_last", return_tensors="np")
    return np.rint((batch["pixel_values"][0, 0] * 0.5 + 0.5) * 255).astype(np.uint8).transpose(1, 2, 0)


def main():
    torch.set_num_threads(1)
    os.makedirs(GOLDEN, exist_ok=True)
    golden_model.GOLDEN = GOLDEN
    processor = AutoProcessor.from_pretrained(os.path.join(ROOT, "demo", "hf"))

    def write(name, lines):
        with open(os.path.join(GOLDEN, name), "w", encoding="utf-8") as f:
            f.writelines(f"{line}\n" for line in lines)

    lines = []
    for total, rate, duration, fps, num_frames in frame_cases():
        index = sample(processor, total, rate, duration, fps, num_frames)
        lines.append(f"{total} {float(rate).hex()} {float(duration).hex()} {float(fps).hex()} {num_frames}: "
                     f"{len(index)} {index[0]} {index[-1]} {crc(index):08x}")
    write("frames.txt", lines)
    print(f"frames.txt: {len(lines)} cases")

    draw, lines = random.Random(5), []
    counts = [1, 2, 10, 11, 19, 20, 21, 64, 99, 100, 101, 117, 999, 1000, 1001, 1100, 1234, 8192, 100000, 1000000,
              1048576]
    seconds = [0, 0.99, 1, 59, 60, 61, 3599, 3600, 3661, 35999, 36000, 86399, 86400, 86401.5, 172799, 172800, 1e6,
               8.6e13]
    for count, duration in [(c, draw.choice(seconds)) for c in counts] + [(draw.randint(1, 120), s) for s in seconds]:
        said = words(processor, count, 1, duration, [])
        assert said.endswith("\n\n\n")
        lines.append(f"{count} {float(duration).hex()}|{said[:-3]}")
    write("words.txt", lines)
    with open(os.path.join(GOLDEN, "words.crc"), "w") as f:
        print(f"{crc(num2words(n) for n in range(30000)):08x}", file=f)

    lines = []
    for _ in range(300):
        rate = draw.choice([1, 2, 24, 25, 30, 24000 / 1001, 30000 / 1001, 0.3, 1 / 3, 7])
        index = draw.choice([0, round(rate * draw.randint(0, 200)), int(10 ** draw.uniform(0, 7))])
        said = words(processor, 1, rate, 1, [index]).split("\n")
        lines.append(f"{index} {float(rate).hex()}|{said[2].split(processor.fake_image_token)[0]}")
    write("stamps.txt", lines)

    golden = golden_model.Golden("prompts.golden")
    for name, case in PROMPTS.items():
        said, ids, index = prompt(processor, *case)
        golden.put(f"{name}/text", said)
        golden.put(f"{name}/ids", ids)
        golden.put(f"{name}/index", index)
        print(f"{name}: {len(ids)} ids, frames {index}")

    with tempfile.TemporaryDirectory() as directory:
        write("pixels.txt", [f"{file} {longest_edge} {side}: "
                             f"{zlib.crc32(scaled(directory, file, longest_edge, side).tobytes()):08x}"
                             for file, longest_edge, side in PIXELS])


if __name__ == "__main__":
    main()
