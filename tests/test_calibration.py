#!/usr/bin/env python3
"""Calibration: smolvlm --hessians against the inputs of transformers' modules, and GPTQ (calibration/gptq.py).

    python tests/test_calibration.py        needs what test_export.py needs
"""
import os
import subprocess
import struct
import sys
import unittest

import numpy as np
import torch
from PIL import Image

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(os.path.dirname(HERE), "calibration")]
import gptq                                                                 # noqa: E402
import hf                                                                   # noqa: E402
from test_export import SMOLVLM, exporter, read, run_export, scratch, tiny  # noqa: E402

QUESTION, ANSWER, TEXT = "What is in this picture?", " A tree.", "A picture flows through the model. " * 120


def gathered(file, items, *options):
    """The Hessians of a model's file over the items, [(picture, question, answer) or text file]."""
    folder = scratch("hessians")
    with open(os.path.join(folder, "items"), "w", encoding="utf-8") as f:
        f.write("\n".join(item if isinstance(item, str) else "\t".join(item) for item in items))
    out = os.path.join(folder, "out")
    subprocess.run([SMOLVLM, file, "-q", "--hessians", out, "--items", os.path.join(folder, "items"), *options],
                   check=True)
    return out


def weights_crc(file):
    return struct.unpack_from("<I", read(file), 32)[0]


def shortened(x):
    """Rows of one product, none longer than four times the length that one row in sixteen is beyond."""
    lengths = x.norm(dim=1)
    longest = 4 * lengths.sort().values[len(x) - 1 - len(x) // 16]
    return x * torch.clamp(longest / lengths, max=1)[:, None]


def expected(directory, batches):
    """{name of a matrix: (X^T X, positions)} as transformers computes the inputs of its modules."""
    model, sums = hf.load_model(directory), {}
    vision = hasattr(model.config, "vision_config")

    def hook(name):
        def see(module, args):
            x = args[0]
            if isinstance(module, torch.nn.Conv2d):
                size = module.kernel_size[0]
                x = torch.nn.functional.unfold(x, size, stride=size).transpose(1, 2)
            x = x.reshape(-1, x.shape[-1]).double()
            for part in x.split(512 if ".text_model.layers." in name else len(x)):      # a product's rows
                part = shortened(part)
                h, n = sums.get(name, (0, 0))
                sums[name] = h + part.T @ part, n + len(part)
        return see

    tied = model.config.tie_word_embeddings
    for name, module in model.named_modules():
        if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
            name = "model.embed_tokens" if tied and name == "lm_head" else name
            if not vision:
                name = name.replace("model.", "model.text_model.")
            module.register_forward_pre_hook(hook(name + ".weight"))
    with torch.inference_mode():
        for batch in batches:
            model(**batch)
    return sums


class Gathering(unittest.TestCase):
    """smolvlm --hessians: X^T X of what transformers multiplies with."""

    def compare(self, directory, items, batches):
        file = os.path.join(scratch("file"), "f32.bin")
        self.assertIsNone(run_export(directory, file, "--format", "f32")[0])
        wanted = expected(directory, batches)
        found = gptq.Hessians(gathered(file, items), weights_crc(file))
        self.assertEqual(set(wanted), set(found.at))
        for name, (sums, positions) in wanted.items():
            self.assertEqual(found.at[name][1:], (len(sums), positions), name)
            h = found.matrix(name, len(sums))
            h += np.triu(h, 1).T
            theirs = sums.numpy() / positions
            np.testing.assert_allclose(h, theirs, rtol=0, atol=2e-5 * np.abs(theirs).max(), err_msg=name)

    def test_pictures(self):
        directory = tiny("smolvlm")
        processor = hf.load_processor(directory)
        folder = scratch("pictures")
        rng, paths, batches = np.random.default_rng(1), [], []
        pixels = rng.integers(0, 256, (2, 50, 70, 3), np.uint8)
        pixels[1, 4:] = 127                                 # a few patches far longer than the others
        for i in range(2):
            paths.append(os.path.join(folder, f"{i}.png"))
            Image.fromarray(pixels[i]).save(paths[i])
        for picture in (*paths, None):
            batch = hf.inputs(processor, [hf.open_picture(picture)] if picture else [], QUESTION)
            more = torch.tensor([processor.tokenizer(ANSWER, add_special_tokens=False)["input_ids"]])
            batch["input_ids"] = torch.cat([batch["input_ids"], more], 1)
            batch["attention_mask"] = torch.ones_like(batch["input_ids"])
            batches.append(batch)
        self.compare(directory, [(paths[0], QUESTION, ANSWER), (paths[1], QUESTION, ANSWER), ("", QUESTION, ANSWER)],
                     batches)

    def test_texts(self):
        """Windows of 1024 tokens, tied embeddings; pictures are left out."""
        directory = tiny("llama", tie_word_embeddings=True)
        tokenizer = hf.load_processor(directory)
        path = os.path.join(scratch("texts"), "text.txt")
        with open(path, "w", encoding="utf-8") as f:
            f.write(TEXT)
        ids = torch.tensor([tokenizer(TEXT, add_special_tokens=False)["input_ids"]])
        self.assertGreater(ids.shape[1], 1100)
        windows = [{"input_ids": part} for part in ids.split(1024, 1)]
        self.compare(directory, [path, ("none.png", "What?", "")], windows)


if __name__ == "__main__":
    unittest.main()
