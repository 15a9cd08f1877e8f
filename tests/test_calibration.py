#!/usr/bin/env python3
"""Calibration: smolvlm --hessians against the inputs of transformers' modules, and GPTQ (calibration/gptq.py).

    python tests/test_calibration.py        needs what test_export.py needs
"""
import os
import re
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
from test_export import (FOUR_BITS, SMOLVLM, TURNED, Turning, decoded, exported, exporter, read,               # noqa: E402
                         read_file, run_export, scratch, tiny)

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
            theirs = sums.numpy() / positions
            np.testing.assert_allclose(h, theirs, rtol=0, atol=2e-5 * np.abs(theirs).max(), err_msg=name)
            np.testing.assert_array_equal(h, h.T, err_msg=name)
            np.testing.assert_allclose(found.diagonal(name, len(sums)), np.diag(h), rtol=2e-7, err_msg=name)

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


LEVELS = {"q8": np.arange(-127, 128), "q4": np.array(exporter.read_layout().q4_values)}


def dequantized(form, chosen, scales):
    """float64 [rows, cols]; chosen: indices of levels"""
    scales = np.repeat(exporter.decode_bf16(scales), 64, 1)[:, :chosen.shape[1]]
    return LEVELS[form][chosen] * scales.astype(np.float64)


def quantized(form, numbers, factor=None):
    """(indices [rows, cols], scales) to the nearest, or by GPTQ"""
    arguments = LEVELS[form], numbers, 64, exporter.GUESSES[form]
    if factor is None:
        chosen, scales = exporter.quantized(*arguments)
    else:
        chosen, scales = gptq.quantized(*arguments, exporter.encode_bf16, exporter.decode_bf16, factor)
    return chosen[:, :numbers.shape[1]], scales


def by_gptq_alone(form, numbers, factor):
    """As quantized, without the rounds of coordinate descent: the scales that these try are absurd."""
    groups, calls = -(-numbers.shape[1] // 64), 0
    before = 1 + groups * (len(exporter.GUESSES[form]) + 2)

    def encode(scales):
        nonlocal calls
        calls += 1
        return exporter.encode_bf16(scales if calls <= before else np.full_like(scales, 1e15))

    chosen, scales = gptq.quantized(LEVELS[form], numbers, 64, exporter.GUESSES[form], encode, exporter.decode_bf16,
                                    factor)
    assert calls == before + groups * gptq.rounds(LEVELS[form])
    return chosen[:, :numbers.shape[1]], scales


def rounded(form, numbers, factor=None):
    """What numbers become, float64."""
    return dequantized(form, *quantized(form, numbers, factor))


def costs(difference, h):
    """d H d^T of each row d"""
    return (difference @ h * difference).sum(1)


def cost(difference, h):
    return float(costs(difference, h).sum())


def damped(h):
    return h + np.eye(len(h)) * gptq.DAMPING * np.trace(h) / len(h)


class Items(unittest.TestCase):
    """What comes with the project: calibration/."""
    FOLDER = os.path.join(os.path.dirname(HERE), "calibration")
    SHARED = 8                                              # words in a row that must not stand in tests/texts too

    def texts(self, folder):
        """{name: the runs of SHARED words in it}, of the text files in a folder."""
        found = {}
        for name in os.listdir(folder):
            if name.endswith(".txt"):
                with open(os.path.join(folder, name), encoding="utf-8") as f:
                    words = re.findall(r"[^\W_]+", f.read().lower())
                found[name] = {tuple(words[at:at + self.SHARED]) for at in range(len(words) - self.SHARED + 1)}
        return found

    def test_list(self):
        """Every text is run once, and every picture is there; under 1 MB."""
        with open(os.path.join(self.FOLDER, "items.tsv"), encoding="utf-8") as f:
            items = [line.rstrip("\n").split("\t") for line in f if not line.startswith("#")]
        self.assertEqual({len(item) for item in items}, {1, 3})
        self.assertEqual(sorted(item[0] for item in items if len(item) == 1), sorted(self.texts(self.FOLDER)))
        for item in items:
            self.assertTrue(os.path.isfile(os.path.join(self.FOLDER, item[0])), item[0])
        size = sum(os.path.getsize(os.path.join(folder, name)) for folder, _, names in os.walk(self.FOLDER)
                   for name in names if name.endswith((".txt", ".jpg", ".png")))
        self.assertLess(size, 1000000)

    def test_measured_texts_are_new(self):
        """The formats are measured on tests/texts: no run of words there stands in a calibration text."""
        measured = self.texts(os.path.join(HERE, "texts"))
        self.assertTrue(measured)
        for name, runs in self.texts(self.FOLDER).items():
            for other, theirs in measured.items():
                self.assertFalse(runs & theirs, f"{name}, {other}")


class Rounding(unittest.TestCase):
    WIDTHS = (1, 2, 63, 64, 65, 130, 300, 576)

    def hessian(self, cols, seed=0):
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((2 * cols, cols)) @ rng.standard_normal((cols, cols)) * (rng.random(cols) + 0.05)
        return x.T @ x / len(x)

    def test_factor(self):
        """U D U^T is H with its damping, whatever the panels."""
        for cols in self.WIDTHS:
            h = self.hessian(cols)
            factor = gptq.Factor(h.copy(), 2)
            u = np.eye(cols) + factor.above
            self.assertFalse(np.tril(factor.above).any())
            d = np.linalg.solve(u, np.linalg.solve(u, damped(h)).T)
            self.assertLess(np.abs(d - np.diag(np.diag(d))).max(), 1e-6 * np.abs(d).max())
            np.testing.assert_array_equal(factor.h, damped(h).astype(np.float32))

    def test_as_gptq_has_it(self):
        """The same levels as by the updates with H's inverse, in GPTQ's own form, for scales that are given."""
        rng = np.random.default_rng(5)
        w, h = rng.standard_normal((40, 64)).astype(np.float32), self.hessian(64, 5)
        for form, levels in LEVELS.items():
            chosen, scales = by_gptq_alone(form, w, gptq.Factor(h.copy()))
            s = exporter.decode_bf16(scales).astype(np.float64)
            u = np.linalg.cholesky(np.linalg.inv(damped(h))).T              # upper, H^-1 = U^T U
            left, theirs = w.astype(np.float64), np.zeros((40, 64), int)
            for k in range(64):
                theirs[:, k] = np.abs(left[:, k:k + 1] - levels * s).argmin(1)
                error = (left[:, k] - levels[theirs[:, k]] * s[:, 0]) / u[k, k]
                left[:, k:] -= error[:, None] * u[k, k:]
            self.assertGreater((theirs == chosen).mean(), 0.99, form)       # one that is a hair off changes the rest

    def test_coordinate_descent(self):
        """Group by group, the scale that fits best; then each number in turn becomes the level that costs least."""
        for form, levels in LEVELS.items():
            for cols in (64, 100, 200):
                w, h = np.random.default_rng(cols).standard_normal((30, cols)).astype(np.float32), self.hessian(cols)
                chosen, scales = by_gptq_alone(form, w, gptq.Factor(h.copy()))
                full, values, wanted = damped(h), dequantized(form, chosen, scales), chosen.astype(int)
                for at in [*range(0, cols, 64)] * {"q8": 1, "q4": 3}[form]:
                    part = slice(at, min(at + 64, cols))
                    fit, others = np.zeros(w.shape), values.copy()
                    fit[:, part], others[:, part] = levels[wanted[:, part]], 0
                    best = ((w - others) @ full * fit).sum(1) / (fit @ full * fit).sum(1)
                    s = exporter.decode_bf16(exporter.encode_bf16(best.astype(np.float32))).astype(np.float64)
                    tried, now = wanted.copy(), others + fit * s[:, None]
                    for k in range(at, part.stop):
                        candidates = w[:, k:k + 1] - levels * s[:, None]    # the errors that the levels would leave
                        now[:, k] = w[:, k]
                        slope = (w - now) @ full[k]
                        tried[:, k] = (full[k, k] * candidates ** 2 + 2 * candidates * slope[:, None]).argmin(1)
                        now[:, k] = levels[tried[:, k]] * s
                    better = costs(w - now, full) < costs(w - values, full)
                    values[better], wanted[better] = now[better], tried[better]
                ours, scales = quantized(form, w, gptq.Factor(h.copy()))
                self.assertGreater((ours == wanted).mean(), 0.99, (form, cols))
                self.assertLess(cost(dequantized(form, ours, scales) - values, np.eye(cols)),
                                0.02 * cost(w - values, np.eye(cols)), (form, cols))

    def test_coordinate_descent_costs_nothing(self):
        """No row costs more than by GPTQ alone, and all of them less."""
        for form, most in (("q8", 0.93), ("q4", 0.9)):
            for cols in self.WIDTHS:
                h, numbers = self.hessian(cols), np.random.default_rng(cols).standard_normal((50, cols))
                numbers, factor = numbers.astype(np.float32), gptq.Factor(h.copy())
                alone = costs(dequantized(form, *by_gptq_alone(form, numbers, factor)) - numbers, damped(h))
                ours = costs(rounded(form, numbers, factor) - numbers, damped(h))
                self.assertTrue((ours <= alone * (1 + 1e-4) + 1e-12).all(), (form, cols, (ours / alone).max()))
                if cols >= 63:
                    self.assertLess(ours.sum(), most * alone.sum(), (form, cols))

    def test_costs_less_than_the_nearest(self):
        for form in LEVELS:
            for cols in self.WIDTHS:
                h = self.hessian(cols)
                numbers = np.random.default_rng(cols).standard_normal((50, cols)).astype(np.float32)
                plain = cost(rounded(form, numbers) - numbers, h)
                ours = cost(rounded(form, numbers, gptq.Factor(h.copy())) - numbers, h)
                self.assertLess(ours, (1.02 if cols < 63 else 0.8) * plain, (form, cols))

    def test_inputs_that_are_always_zero(self):
        """Their weights do not matter, and nothing is divided by zero."""
        for zeros in (3, 64):
            h = self.hessian(64)
            h[:zeros], h[:, :zeros] = 0, 0
            numbers = np.random.default_rng(1).standard_normal((20, 64)).astype(np.float32)
            for form in LEVELS:
                values = rounded(form, numbers, gptq.Factor(h.copy()))
                self.assertTrue(np.isfinite(values).all())
                self.assertLess(np.abs(values - numbers).max(), 3 * np.abs(numbers).max())

    def test_zeros(self):
        numbers = np.zeros((3, 100), np.float32)
        numbers[1, 70] = 0.25
        for form in LEVELS:
            values = rounded(form, numbers, gptq.Factor(self.hessian(100)))
            self.assertFalse(values[[0, 2]].any())
            self.assertLess(np.abs(values[1, :64]).max(), 0.01)     # these may make up for what the other group lacks
            self.assertAlmostEqual(values[1, 70], 0.25, delta=0.01)


@unittest.skipUnless(os.path.exists(SMOLVLM), "no smolvlm: run make first")
class Files(unittest.TestCase):
    """export.py --calibrate."""

    def items(self, *lines):
        path = os.path.join(scratch("items"), "items.tsv")
        picture = os.path.join(HERE, "golden", "model", "a.png")
        with open(os.path.join(os.path.dirname(path), "text.txt"), "w", encoding="utf-8") as f:
            f.write(TEXT)
        with open(path, "w", encoding="utf-8") as f:
            f.write("\n".join(lines or ("text.txt", f"{picture}\t{QUESTION}\t{ANSWER}")))
        return path

    def export(self, directory, form, items, *options, calibrate=SMOLVLM):
        """(what it exits with, the file's path)"""
        out = os.path.join(scratch("out"), "model.bin")
        code, errors = run_export(directory, out, "--format", form, "--calibrate", calibrate, "--items", items,
                                  *options)
        self.assertEqual(sorted(os.listdir(os.path.dirname(out))), [] if code else ["model.bin"])
        self.assertTrue(code or not errors, errors)
        return code, out

    def check_costs(self, kind, form, **overrides):
        """Every matrix is what GPTQ makes of a turned matrix and its Hessian, which is that of the file as it is; and
        it costs less than when it is rounded to the nearest."""
        directory, items = tiny(kind, **overrides), self.items()
        code, out = self.export(directory, form, items)
        self.assertIsNone(code)
        file = read_file(out)
        self.assertEqual(file.config["turned"], 1)
        plain = os.path.join(scratch("f32"), "model.bin")
        self.assertEqual(run_export(directory, plain, "--format", "f32")[0], None)
        lines = [line.split("\t") for line in read(items).decode().splitlines()]
        lines = [os.path.join(os.path.dirname(items), line[0]) if len(line) == 1 else line for line in lines]
        found = gptq.Hessians(gathered(plain, lines), weights_crc(plain))
        turning = Turning(read_file(plain), form, {name: found.diagonal(name, cols)
                                                   for name, (_, cols, _) in found.at.items()})
        ratios, same = [], []
        for name, (_, cols, _) in found.at.items():
            numbers = turning.state[name].astype(np.float32)
            self.assertEqual(file.formats[name], 3 if form == "q4" and re.search(FOUR_BITS, name) else 2, name)
            own, h = {2: "q8", 3: "q4"}[file.formats[name]], turning.hessian(name, found.matrix(name, cols))
            values = decoded(*file.tensors[name]).astype(np.float64)
            ratios.append(cost(values - numbers, h) / cost(rounded(own, numbers) - numbers, h))
            self.assertLess(ratios[-1], 1, name)
            same.append((np.abs(values - rounded(own, numbers, gptq.Factor(h))) < 1e-6 * np.abs(values).max()).mean())
        self.assertLess(np.mean(ratios), 0.3)
        self.assertGreater(min(same), 0.99)                 # sums of another order may tip a number
        for name, data in file.tensors.items():
            if file.formats[name] == 0:
                np.testing.assert_allclose(data.view("<f4"), turning.state[name], rtol=2e-7, err_msg=name)
        done = subprocess.run([SMOLVLM, out, "--selftest"], capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("the same bits every time", done.stdout)

    def test_costs(self):
        for form in LEVELS:
            self.check_costs("smolvlm", form, hidden_size=96, head_dim=24)
            self.check_costs("smolvlm", form, vision_intermediate_size=100, intermediate_size=161, dtype="bfloat16")
            self.check_costs("llama", form, tie_word_embeddings=True, hidden_size=64, head_dim=16,
                             individual_digits=False)

    def test_same_bytes(self):
        """Twice, with other numbers of threads, and in several passes."""
        directory, items = tiny("llama", tie_word_embeddings=True, individual_digits=False), self.items()
        kept, workers = exporter.MOST_HESSIANS, exporter.WORKERS
        whole = read(self.export(directory, "q4", items)[1])
        try:
            exporter.MOST_HESSIANS = 1
            self.assertEqual(read(self.export(directory, "q4", items)[1]), whole)
            exporter.MOST_HESSIANS = kept
            exporter.WORKERS = 1
            os.environ["OMP_NUM_THREADS"] = "1"
            self.assertEqual(read(self.export(directory, "q4", items)[1]), whole)
        finally:
            exporter.MOST_HESSIANS, exporter.WORKERS = kept, workers
            os.environ.pop("OMP_NUM_THREADS", None)
        vlm = tiny("smolvlm")
        one = read(self.export(vlm, "q8", items)[1])
        try:
            exporter.MOST_HESSIANS = 1
            self.assertEqual(read(self.export(vlm, "q8", items)[1]), one)
        finally:
            exporter.MOST_HESSIANS = kept

    def test_hessians_of_turned_numbers(self):
        """As a product of dense matrices, H of what the turned matrix reads."""
        for form in LEVELS:
            for kind, settings in TURNED:
                directory, rng, layout = tiny(kind, **settings), np.random.default_rng(3), exporter.read_layout()
                fields, _, _, found, text_only = exporter.gather(directory, layout)
                tensors = exporter.list_tensors(layout, fields)
                read = {name: rng.lognormal(0, 2, cols) for _, kind, name, _, cols in tensors if kind == "M"}
                for name in read:                               # some read the same
                    same = re.sub(r"\.[kv]_proj\.", ".q_proj.", name).replace(".up_proj.", ".gate_proj.")
                    read[name] = read[same]
                ours = exporter.Turning(form, fields, found, tensors, text_only)
                ours.squares = lambda tensor: read[tensor[2]]
                theirs = Turning(exported(directory, "--format", "f32"), form, read)
                for tensor in tensors:
                    _, matrix, name, _, cols = tensor
                    if matrix == "M":
                        x = rng.standard_normal((cols + 5, cols))
                        h = x.T @ x
                        want = theirs.hessian(name, h)
                        np.testing.assert_allclose(ours.hessian(tensor, h.copy()), want, rtol=0,
                                                   atol=1e-12 * np.abs(want).max(), err_msg=name)

    def test_seal(self):
        code, out = self.export(tiny("llama", individual_digits=False), "q8", self.items(), "--seal", SMOLVLM)
        self.assertIsNone(code)
        done = subprocess.run([SMOLVLM, out, "--selftest"], capture_output=True, text=True)
        self.assertIn("this machine agrees", done.stdout)

    def test_refusals(self):
        directory, items = tiny(), self.items()
        none = os.path.join(scratch("none"), "smolvlm")
        for form, lines, program, words in (
                ("q8", items, none, f"{none}: No such file or directory"),
                ("q8", items, os.path.join(HERE, "hf.py"), "Permission denied"),
                ("q8", none, SMOLVLM, f"{none}: there is no such list"),
                ("q8", self.items("none.txt"), SMOLVLM, "the calibration failed: smolvlm: "),
                ("q8", self.items("text.txt"), SMOLVLM, "has nothing of model.vision_model."),
                ("f32", items, SMOLVLM, "--calibrate: only for --format q8 and q4"),
                ("q4", items, "true", "true: is not smolvlm")):
            with self.subTest(words=words):
                code, _ = self.export(directory, form, lines, calibrate=program)
                self.assertIn(words, str(code))

    def test_files_of_hessians(self):
        """Cut off, changed, of another model or size: one sentence."""
        directory = tiny("llama")
        file = os.path.join(scratch("file"), "f32.bin")
        self.assertIsNone(run_export(directory, file, "--format", "f32")[0])
        text = os.path.join(os.path.dirname(self.items()), "text.txt")
        path, crc = gathered(file, [text]), weights_crc(file)
        data = read(path)

        def refused(data, words, crc=crc, name="lm_head.weight", cols=48):
            with open(path, "wb") as f:
                f.write(data)
            with self.assertRaisesRegex(gptq.Unusable, words):
                gptq.Hessians(path, crc).matrix(name, cols)

        for size in (0, 7, 11, 23, 50, len(data) // 2, len(data) - 1):
            refused(data[:size], "is cut off")
        refused(b"HESSIANT" + data[8:], "was not written by")
        refused(data[:8] + struct.pack("=I", 2) + data[12:], "is version 2")
        refused(data, "is of another model", crc=crc ^ 1)
        refused(data[:len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1:], "is damaged")
        refused(data + b"x", "is damaged")
        refused(data, "has nothing of x", name="x")
        refused(data, "has 48 columns there, not 50", cols=50)


if __name__ == "__main__":
    unittest.main()
