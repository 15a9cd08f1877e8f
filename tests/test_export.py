#!/usr/bin/env python3
"""export.py against transformers: every field, every tensor, the tokenizer, the chat template, and every refusal.

    python tests/test_export.py        needs torch, transformers and tokenizers beside what export.py needs, and
                                       ./smolvlm (or what SMOLVLM in the environment names)

The files are read back by a reader that shares nothing with export.py; what they should hold is what transformers
makes of the same directory.
"""
import contextlib
import hashlib
import http.server
import inspect
import io
import json
import os
import random
import re
import shutil
import struct
import subprocess
import sys
import tempfile
import threading
import unittest
import urllib.parse
import warnings
import zlib
from types import SimpleNamespace

import numpy as np
import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from tokenizers import AddedToken
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.dirname(HERE)]
import export as exporter                                       # noqa: E402
import golden_tokenizer                                         # noqa: E402
import hf                                                       # noqa: E402
from tiny_model import SMOLLM2_TEMPLATE, SMOLVLM_TEMPLATE, make_tiny     # noqa: E402

hf.settle(1)                                                    # threads have nothing to do in such small models
EXPORT = os.path.join(os.path.dirname(HERE), "export.py")
SMOLVLM = os.environ.get("SMOLVLM", os.path.join(os.path.dirname(HERE), "smolvlm"))
TEMPORARY = tempfile.TemporaryDirectory(prefix="test_export.")
unittest.addModuleCleanup(TEMPORARY.cleanup)


# ------------------------------------------------------------------------------------------------ an independent reader

def read(path):
    with open(path, "rb") as f:
        return f.read()


def read_header():
    return read(os.path.join(os.path.dirname(HERE), "model.h")).decode()


Q4_VALUES = np.array(re.search(r"SV_Q4_VALUES \{(.*?)\}", read_header())[1].split(","), np.int32)
GROUP, ROWS = 64, 16
# The matrices that have four bits in a q4 file.
FOUR_BITS = r"\.text_model\.layers\.(\d+\.self_attn\.[qko]|[1-9]\d*\.mlp\.(gate|up|down))_proj\."


def unpack(form, data, rows, cols):
    """The integers of a Q8 (2) or Q4 (3) tensor, int32 [rows, cols], from blocks [rows / 16, groups, fours, 16, 4]."""
    tall, groups, size = -(-rows // ROWS), -(-cols // GROUP), {2: 64, 3: 32}[form]
    blocks = np.frombuffer(data, np.uint8, tall * groups * ROWS * size).reshape(tall, groups, size // 4, ROWS, 4)
    numbers = np.zeros((rows, cols), np.int32)
    for row in range(rows):
        for column in range(cols):
            block, k = blocks[row // ROWS, column // GROUP], column % GROUP
            byte = block[k % size // 4, row % ROWS, k % 4]
            numbers[row, column] = (byte.astype(np.int8) if form == 2 else
                                    Q4_VALUES[byte >> 4 if k >= 32 else byte & 15])
    return numbers


def unpack_scales(data, rows, cols):
    """The scales of a Q8 or Q4 tensor, f32 [rows, groups], from bf16 [rows / 16, groups, 16]."""
    groups = -(-cols // GROUP)
    bits = np.frombuffer(data, "<u2", -(-rows // ROWS) * groups * ROWS).reshape(-1, groups, ROWS).transpose(0, 2, 1)
    return (bits.reshape(-1, groups)[:rows].astype("<u4") << 16).view("<f4")


def decoded(numbers, scales):
    """The floats that integers [rows, cols] and scales [rows, groups] stand for."""
    return numbers * np.repeat(scales, GROUP, 1)[:, :numbers.shape[1]]


def read_file(path):
    """The file as model.h's comment describes it: config {}, tensors {name: array}, formats {name: int} and more."""
    data = read(path)
    magic, version, metadata_crc, data_offset, size, weights_crc, n_tensors = struct.unpack_from("<8sIIQQII", data)
    assert (magic, version, size, data_offset % 64) == (b"SMOLVLM\n", 6, len(data), 0)
    assert metadata_crc == zlib.crc32(data[16:data_offset]) and weights_crc == zlib.crc32(data[data_offset:])
    at = 40

    def take(code):
        nonlocal at
        values = struct.unpack_from("<" + code, data, at)
        at += struct.calcsize("<" + code)
        return values[0] if len(values) == 1 else list(values)

    def take_string():
        nonlocal at
        size = take("I")
        at += size
        return data[at - size:at]

    takers = dict(U32=lambda: take("I"), F32=lambda: take("f"), F64=lambda: take("d"), F3=lambda: take("3f"),
                  IDS=lambda: [take("I") for _ in range(take("I"))], STR=lambda: take_string().decode())
    config = {}
    for line in read_header().partition("#define SV_CONFIG")[2].splitlines()[1:]:
        entry = re.match(r"    (\w+)\((\w+)\)", line)
        if not entry:
            break
        config[entry[2]] = takers[entry[1]]()
    tensors, formats, end = {}, {}, data_offset
    for _ in range(n_tensors):
        name, (form, group, rows, cols), (offset, size) = take_string().decode(), take("4I"), take("2Q")
        blocks = -(-rows // ROWS) * -(-cols // GROUP)
        at_scales = offset + blocks * (0, 0, 1024, 512)[form]
        assert group == (0, 0, 64, 64)[form] and offset == end
        assert size == (blocks * (1024, 512)[form - 2] + blocks * 32 if group else rows * cols * (4, 2)[form])
        end = (offset + size + 63) // 64 * 64
        assert not any(data[offset + size:end])
        if group:
            numbers = np.frombuffer(data, np.uint8, at_scales - offset, offset)
            tall = numbers.reshape(-(-rows // ROWS), -(-cols // GROUP), -1, ROWS, 4)
            assert not tall[-1, :, :, (rows - 1) % ROWS + 1:].any()
            tensors[name] = (unpack(form, data[offset:at_scales], rows, cols),
                             unpack_scales(data[at_scales:offset + size], rows, cols))
        else:
            tensors[name] = np.frombuffer(data, ("<u4", "<u2")[form], rows * cols, offset).reshape(rows, cols)
        formats[name] = form
    assert end == len(data)
    tokenizer = SimpleNamespace(
        ids=[take_string() for _ in range(take("I"))], bytes=take("256I"),
        merges=[take("3I") for _ in range(take("I"))],
        added={id: (flags, take_string().decode()) for id, flags in (take("2I") for _ in range(take("I")))},
        digits=take("I"))
    assert not any(data[at:data_offset]) and data_offset - at < 64
    return SimpleNamespace(config=config, tensors=tensors, formats=formats, tokenizer=tokenizer, data=data)


def run_export(directory, out, *options):
    """export.py's main in this process: (None or what it exits with, what it says on stderr)."""
    argv, sys.argv = sys.argv, ["export.py", directory, out, *options]
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
            exporter.main()
        return None, errors.getvalue()
    except SystemExit as exit:
        return exit.code, errors.getvalue()
    finally:
        sys.argv = argv


def scratch(name):
    return tempfile.mkdtemp(prefix=name + ".", dir=TEMPORARY.name)


def exported(directory, *options):
    out = os.path.join(scratch("out"), "model.bin")
    code, errors = run_export(directory, out, *options)
    assert code is None, code
    return read_file(out)


def tiny(kind="smolvlm", **overrides):
    return make_tiny(os.path.join(scratch(kind), "tiny"), kind=kind, **overrides)


def edit(directory, name, change):
    """Lets change(the object in a JSON file) change it."""
    path = os.path.join(directory, name)
    with open(path, encoding="utf-8") as f:
        value = json.load(f)
    change(value)
    with open(path, "w", encoding="utf-8") as f:
        json.dump(value, f)


def load(directory):
    config = json.loads(read(os.path.join(directory, "config.json")))
    auto = AutoModelForImageTextToText if "vision_config" in config else AutoModelForCausalLM
    return auto.from_pretrained(directory, output_loading_info=True)


def bits(tensor, form):
    """A torch tensor's bits in the file's format."""
    tensor = tensor.detach().reshape(tensor.shape[0], -1) if tensor.ndim > 1 else tensor.detach().reshape(1, -1)
    if form == 0:
        return tensor.float().contiguous().numpy().view("<u4")
    return tensor.to(torch.bfloat16).contiguous().view(torch.int16).numpy().view("<u2")


CONFIGURATION = dict(        # field in the file: where transformers' configuration has it
    image_size="vision_config", patch_size="vision_config", layer_norm_eps="vision_config", scale_factor="",
    **{"vision_" + key: "vision_config" for key in
       ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")},
    **{key: "text_config" for key in
       ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
        "head_dim", "vocab_size", "max_position_embeddings", "rms_norm_eps")})


def reference_fields(config):
    """What the file's graph fields should be, from a transformers configuration."""
    text = config.get_text_config()
    fields = {"rope_theta": text.rope_parameters["rope_theta"]}
    for field, part in CONFIGURATION.items():
        if part == "text_config":
            fields[field] = getattr(text, field)
        elif hasattr(config, "vision_config"):
            owner = getattr(config, part) if part else config
            fields[field] = getattr(owner, field.removeprefix("vision_"))
        else:
            fields[field] = 0
    return fields


class Whole(unittest.TestCase):
    """Directories that export: the file holds what transformers loads."""

    def check(self, kind, formats=("bf16", "f32"), **overrides):
        directory = tiny(kind, **overrides)
        model, info = load(directory)
        self.assertFalse(info["missing_keys"] or info["unexpected_keys"])
        state = model.state_dict()
        rotary = (model.model.text_model if hasattr(model.model, "text_model") else model.model).rotary_emb
        for form in formats:
            file = exported(directory, "--format", form)
            for field, value in reference_fields(model.config).items():
                if isinstance(value, float):
                    value = float(np.float32(value))
                if not (field == "max_position_embeddings" and kind == "mistral"):
                    self.assertEqual(file.config[field], value, field)
            self.assertEqual(file.config["tie_word_embeddings"], int(model.config.tie_word_embeddings))
            self.assertEqual(file.config["eos_token_id"], np.atleast_1d(model.generation_config.eos_token_id).tolist())
            self.assertEqual(file.config["name"], "tiny")
            seen = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
            for name, data in file.tensors.items():
                source = name if kind in ("smolvlm", "idefics3") else name.replace(".text_model.", ".")
                plain = data.shape[0] == 1 or name.endswith("position_embedding.weight")
                self.assertEqual(file.formats[name], 0 if plain else {"f32": 0, "bf16": 1}[form])
                if name.endswith("inv_freq"):
                    ours = np.frombuffer(data.tobytes(), "<f4")
                    np.testing.assert_array_max_ulp(ours, rotary.inv_freq.numpy().ravel(), 4)   # scaled: more roundings
                    continue
                np.testing.assert_array_equal(data, bits(state[source], file.formats[name]), err_msg=name)
                seen.add(source)
            self.assertEqual(seen, set(state))
        return directory, model, file

    def test_smolvlm(self):
        directory, model, file = self.check("smolvlm", dtype="bfloat16")
        config = file.config
        self.assertEqual((config["longest_edge"], config["do_image_splitting"]), (64, 1))
        self.assertEqual((config["rescale_factor"], config["image_mean"], config["image_std"]),
                         (1 / 255, [.5] * 3, [.5] * 3))
        self.assertEqual(config["image_token_id"], model.config.image_token_id)
        self.assertEqual([config[key] for key in ("image_token", "fake_image_token", "global_image_token")],
                         ["<image>", "<fake_token_around_image>", "<global-img>"])

    def test_variants(self):
        self.check("smolvlm", config_generation=5, processor_generation=5, do_image_splitting=False, longest_edge=96,
                   image_mean=(0.48, 0.46, 0.41), image_std=(0.27, 0.26, 0.28), vocab_size=640, head_dim=16)
        self.check("smolvlm", tie_word_embeddings=True, shards=4, dtype="float16", rope_theta=10000.0)
        self.check("smolvlm", v1_tokenizer=True, image_size=42, patch_size=10, scale_factor=2, num_key_value_heads=4,
                   eos_token_id=[2, 5, 7])
        self.check("idefics3", config_generation=5, tie_word_embeddings=True, shards=3, dtype="bfloat16")
        self.check("idefics3", v1_tokenizer=True, individual_digits=False, vision_intermediate_size=3072)
        self.check("llama", tie_word_embeddings=True, dtype="bfloat16", rope_theta=130000)
        self.check("llama", head_dim=20, config_generation=5, dtype="float16", num_key_value_heads=1)
        _, _, file = self.check("mistral", sliding_window=64, rope_theta=1e6)
        self.assertEqual(file.config["max_position_embeddings"], 64)
        _, _, file = self.check("mistral", config_generation=5)
        self.assertEqual(file.config["max_position_embeddings"], 2048)

    def test_scaled_rope(self):
        for generation in (4, 5):
            self.check("llama", config_generation=generation, rope_scaling={"rope_type": "linear", "factor": 3.0})
            self.check("smolvlm", config_generation=generation, head_dim=64, rope_theta=500000.0, rope_scaling={
                "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 512})

    def test_inv_freq_is_torchs(self):
        """To the bit for the published models, else within two ulp: torch's powf is not always the nearest."""
        for theta in (1e4, 1e5, 1.3e5, 273768.0, 5e5, 1e6, 6234935.0):
            for dim in (12, 16, 20, 24, 32, 64, 72, 96, 128):
                theirs = (1.0 / (theta ** (torch.arange(0, dim, 2, dtype=torch.float) / dim))).numpy()
                ours = exporter.inv_freq({"rope_theta": theta, "rope_type": "default"}, dim)[0]
                np.testing.assert_array_max_ulp(ours, theirs, 2)
                if dim == 64 and theta in (1e5, 1.3e5):
                    np.testing.assert_array_equal(ours, theirs)

    def test_positions_are_the_references(self):
        """For every side up to 128, the table as it is written gives each patch what the reference adds to it."""
        other = []
        for kind in ("SmolVLM", "Idefics3"):
            for side in range(1, 129):
                config = getattr(transformers, kind + "VisionConfig")(
                    image_size=side, patch_size=1, hidden_size=1, num_attention_heads=1, num_hidden_layers=1)
                module = getattr(transformers, kind + "VisionTransformer")(config).embeddings
                rows = torch.arange(side * side, dtype=torch.float32)[:, None]
                with torch.no_grad():
                    module.patch_embedding.weight.zero_()
                    module.patch_embedding.bias.zero_()
                    module.position_embedding.weight.copy_(rows)
                    theirs = module(torch.zeros(1, 3, side, side), torch.ones(1, side, side, dtype=torch.bool))[0]
                np.testing.assert_array_equal(exporter.by_patch(rows.numpy(), side), theirs.numpy(), f"{kind} {side}")
                other += [side] * (not torch.equal(theirs, rows))
        self.assertEqual(other[:6], [19, 25, 29, 31, 38, 40])           # where they are not 0, 1, 2, ...

    def test_position_table_is_written_so(self):
        directory = tiny(image_size=50, patch_size=2, scale_factor=5)   # 25 a side
        weight = load(directory)[0].state_dict()["model.vision_model.embeddings.position_embedding.weight"]
        data = exported(directory).tensors["model.vision_model.embeddings.position_embedding.weight"].view("<f4")
        self.assertFalse(np.array_equal(data, weight.numpy()))
        np.testing.assert_array_equal(data, exporter.by_patch(weight.numpy(), 25))

    def test_text_only_fields_are_empty(self):
        config = exported(tiny("llama")).config
        names = ("image_size", "patch_size", "vision_hidden_size", "vision_num_hidden_layers", "scale_factor",
                 "layer_norm_eps", "longest_edge", "image_token_id", "image_token", "global_image_token")
        self.assertEqual([config[name] for name in names], [0] * 8 + ["", ""])

    def test_default_format_loses_nothing(self):
        for dtype, form in (("bfloat16", 1), ("float32", 0), ("float16", 0)):
            self.assertEqual(exported(tiny(dtype=dtype)).formats["lm_head.weight"], form)

    def test_same_bytes_each_time_and_options(self):
        directory = tiny(dtype="bfloat16")
        first, second = exported(directory), exported(directory, "--format", "bf16")
        self.assertEqual(first.data, second.data)

    def test_f32_to_bf16_rounds_as_torch(self):
        numbers = np.concatenate([np.arange(0, 2**32, 65521, np.uint64).astype(np.uint32).view(np.float32),
                                  np.float32([np.inf, -np.inf, 0, -0.0, 3.4e38])])
        ours = exporter.encode_bf16(numbers)
        theirs = torch.from_numpy(numbers.copy()).to(torch.bfloat16).view(torch.int16).numpy().view("<u2")
        nan = np.isnan(numbers)
        np.testing.assert_array_equal(ours[~nan], theirs[~nan])
        self.assertTrue(np.isnan((ours[nan].astype(np.uint32) << 16).view(np.float32)).all())

    def test_large_tensors_go_in_chunks(self):
        directory = tiny(dtype="float32")
        whole = exported(directory).data
        chunk, exporter.CHUNK = exporter.CHUNK, 100
        try:
            self.assertEqual(exported(directory).data, whole)
        finally:
            exporter.CHUNK = chunk

    def test_tied_and_stored(self):
        """tie_word_embeddings with lm_head.weight stored, too: equal, different, or alone."""
        from safetensors.torch import load_file, save_file
        for kind, embed in dict(smolvlm="model.text_model.embed_tokens.weight",
                                llama="model.embed_tokens.weight").items():
            for case in ("equal", "different", "alone"):
                directory = tiny(kind, tie_word_embeddings=True)
                path = os.path.join(directory, "model.safetensors")
                tensors = load_file(path)
                tensors["lm_head.weight"] = tensors[embed].clone() + (case == "different")
                if case == "alone":
                    del tensors[embed]
                save_file(tensors, path, {"format": "pt"})
                model, _ = load(directory)
                file = exported(directory, "--format", "f32")
                self.assertEqual("lm_head.weight" in file.tensors, case == "different")
                self.assertEqual(file.config["tie_word_embeddings"], int(case != "different"))
                np.testing.assert_array_equal(file.tensors["model.text_model.embed_tokens.weight"],
                                              bits(model.get_input_embeddings().weight, 0))
                head = file.tensors.get("lm_head.weight", file.tensors["model.text_model.embed_tokens.weight"])
                np.testing.assert_array_equal(head, bits(model.lm_head.weight, 0))

    def test_tie_in_text_config_does_not_count(self):
        directory = tiny()
        edit(directory, "config.json", lambda c: c["text_config"].update(tie_word_embeddings=True))
        model, _ = load(directory)
        self.assertFalse(torch.equal(model.lm_head.weight, model.get_input_embeddings().weight))
        self.assertEqual(exported(directory).config["tie_word_embeddings"], 0)

    def test_end_without_generation_config(self):
        for kind in ("smolvlm", "llama", "mistral"):
            for eos in (None, 5, [5, 7]):
                for section in ("", "text_config") if kind == "smolvlm" else ("",):
                    directory = tiny(kind)
                    os.remove(os.path.join(directory, "generation_config.json"))
                    for part in ("", "text_config") if kind == "smolvlm" else ("",):
                        edit(directory, "config.json", lambda c: (c[part] if part else c).pop("eos_token_id", 0))
                    if eos is not None:
                        edit(directory, "config.json",
                             lambda c: (c[section] if section else c).update(eos_token_id=eos))
                    model, _ = load(directory)
                    ids = model.generation_config.eos_token_id
                    self.assertEqual(exported(directory).config["eos_token_id"],
                                     [] if ids is None else np.atleast_1d(ids).tolist(), (kind, eos, section))

    def test_harmless_buffers(self):
        from safetensors.torch import load_file, save_file
        directory = tiny("llama")
        path = os.path.join(directory, "model.safetensors")
        save_file({**load_file(path), "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(6)}, path)
        exported(directory)


LEVELS = {"q8": np.arange(-127, 128), "q4": Q4_VALUES}


def encode(form, numbers):
    """export.py's encoder: (integers int32 [rows, cols], scales f32 [rows, groups])."""
    data, scales = exporter.ENCODERS[form](np.asarray(numbers, "<f4"))
    return (unpack({"q8": 2, "q4": 3}[form], data.tobytes(), *numbers.shape),
            unpack_scales(scales.tobytes(), *numbers.shape))


def weights(rows, cols, seed=0):
    """Numbers as weights are distributed: heavy tails, a size that varies from row to row and group to group."""
    random = np.random.default_rng(seed)
    numbers = random.standard_t(5, (rows, cols)) * 0.02 * 2.0 ** random.integers(-6, 7, (rows, 1))
    return (numbers * np.repeat(2.0 ** random.integers(-2, 3, (rows, -(-cols // 16))), 16, 1)[:, :cols]).astype("<f4")


def group_errors(numbers, values):
    """The squared error of each group, [rows, groups]."""
    squares = (numbers.astype(np.float64) - values) ** 2
    return np.add.reduceat(squares, np.arange(0, numbers.shape[1], GROUP), axis=1)


class Quantized(unittest.TestCase):
    WIDTHS = (1, 31, 33, 63, 64, 65, 100, 576, 4304)

    def test_half_a_step(self):
        """Q8: every number is within half a step, if it is not beyond the last one."""
        for cols in self.WIDTHS:
            numbers = weights(40, cols)
            integers, scales = encode("q8", numbers)
            self.assertLessEqual(np.abs(integers).max(), 127)
            step = np.abs(np.repeat(scales, GROUP, 1)[:, :cols])
            off = np.abs(numbers - decoded(integers, scales))
            beyond = (np.abs(integers) == 127) & (np.abs(numbers) > 127 * step)
            self.assertTrue((off[~beyond] <= 0.50001 * step[~beyond]).all(), cols)
            self.assertTrue((off[beyond] <= 8 * step[beyond]).all(), cols)         # clipping is the search's choice

    def test_nearest_level(self):
        """Each number has the level that is nearest to it, but for a hair's breadth."""
        for form, levels in LEVELS.items():
            for cols in self.WIDTHS:
                numbers = weights(16, cols, 1)
                integers, scales = encode(form, numbers)
                step = np.repeat(scales, GROUP, 1)[:, :cols].astype(np.float64)
                nearest = np.abs(numbers[..., None] - levels * step[..., None]).min(-1)
                off = np.abs(numbers - integers * step)
                self.assertTrue((off <= nearest + 1.0001 * np.abs(step) * (form == "q4") + 1e-5 * np.abs(step)).all())

    def test_never_worse_than_rounding(self):
        """Against the largest number on the outermost level and the nearest level for the others."""
        for form, levels in LEVELS.items():
            for cols in self.WIDTHS:
                numbers = weights(64, cols, 2)
                error = group_errors(numbers, decoded(*encode(form, numbers)))
                padded = np.pad(numbers, ((0, 0), (0, -cols % GROUP))).reshape(len(numbers), -1, GROUP)
                at = np.abs(padded).argmax(2)[..., None]
                scales = np.take_along_axis(padded, at, 2)[..., 0] / np.float32(levels[np.abs(levels).argmax()])
                scales = (exporter.encode_bf16(scales).astype("<u4") << 16).view("<f4")
                safe = np.where(scales == 0, 1, scales)[..., None].astype(np.float64)
                rounded = levels[np.abs(padded[..., None] / safe[..., None] - levels).argmin(-1)]
                plain = group_errors(numbers, decoded(rounded.reshape(len(numbers), -1)[:, :cols], scales))
                self.assertTrue((error <= plain * 1.001).all(), (form, cols, (error / plain).max()))
                if cols >= 64:
                    self.assertLess(error.sum(), {"q8": 0.99, "q4": 0.95}[form] * plain.sum())

    def test_how_much_is_lost(self):
        """Relative to the numbers' root mean square."""
        for form, low, high in (("q8", 0.004, 0.012), ("q4", 0.04, 0.12)):
            numbers = weights(64, 576, 3)
            error = np.sqrt(group_errors(numbers, decoded(*encode(form, numbers))).sum()
                            / (numbers.astype(np.float64) ** 2).sum())
            self.assertTrue(low < error < high, (form, error))

    def test_rows_do_not_see_each_other(self):
        for form in LEVELS:
            numbers = weights(21, 100, 4)
            integers, scales = encode(form, numbers)
            for row in range(21):
                one = encode(form, numbers[row:row + 1])
                np.testing.assert_array_equal(one[0][0], integers[row])
                np.testing.assert_array_equal(one[1][0], scales[row])

    def test_zeros(self):
        for form in LEVELS:
            for value in (0.0, -0.0):
                numbers = np.full((3, 100), value, "<f4")
                numbers[1, 70] = 0.25
                values = decoded(*encode(form, numbers))
                self.assertFalse(values[[0, 2]].any() or values[1, :64].any())
                self.assertAlmostEqual(values[1, 70], 0.25, delta=0.005)

    def test_one_number(self):
        """A group of one number is that number but for bf16's rounding; tiny ones may be 0, huge ones refused."""
        for form in LEVELS:
            for value in (1.0, -3.0, 1e-3, -1e-10, 1e-25, 1e4, -1e15, 1e19, -1e30, 3.3e38):
                with self.subTest(form=form, value=value):
                    try:
                        values = decoded(*encode(form, np.full((1, 1), value, "<f4")))
                        self.assertAlmostEqual(values[0, 0] / value, 1, delta=0.01)
                    except exporter.Refused:
                        self.assertGreater(abs(value), 1e18)
            for value in (1e-30, 1e-35, 1e-40, 1e-45):
                values = decoded(*encode(form, np.full((2, 65), value, "<f4")))
                self.assertTrue((np.abs(values) <= 2 * value).all())

    def test_numbers_that_are_none_are_refused(self):
        for form in ("q8", "q4"):
            for value in (np.nan, np.inf, -np.inf):
                name = "model.text_model.layers.1.mlp.up_proj.weight"
                directory = tiny()
                tensors(lambda w: w[name].view(-1)[77:78].fill_(float(value)))(directory)
                out = os.path.join(scratch("out"), "model.bin")
                with self.subTest(form=form, value=value):
                    code, errors = run_export(directory, out, "--format", form)
                    self.assertIsInstance(code, str, "it was exported")
                    self.assertIn(name, code)
                    self.assertEqual(os.listdir(os.path.dirname(out)), [])

    def check_file(self, kind, form, **overrides):
        """Holds what an f32 file holds that is turned and balanced alike."""
        directory = tiny(kind, **overrides)
        file = exported(directory, "--format", form)
        with balanced_as(form):
            f32 = exported(directory, "--format", "f32", "--turned")
        self.assertEqual((file.config["turned"], f32.config["turned"]), (1, 1))
        for name, data in file.tensors.items():
            numbers = f32.tensors[name].view("<f4")
            vector = len(numbers) == 1 or name.endswith("position_embedding.weight")
            four = form == "q4" and bool(re.search(FOUR_BITS, name))
            self.assertEqual(file.formats[name], 0 if vector else 3 if four else 2, name)
            if vector:
                np.testing.assert_array_equal(data, f32.tensors[name], err_msg=name)
                continue
            integers, scales = encode("q4" if four else "q8", numbers)
            np.testing.assert_array_equal(data[0], integers, err_msg=name)
            np.testing.assert_array_equal(data[1], scales, err_msg=name)
        return directory, file

    def test_whole_files(self):
        for form in LEVELS:
            self.check_file("smolvlm", form, vision_intermediate_size=100, intermediate_size=161)
            self.check_file("smolvlm", form, dtype="bfloat16", tie_word_embeddings=True, hidden_size=132, head_dim=66)
            self.check_file("llama", form, dtype="float16", shards=2)

    def test_same_bytes_for_any_chunk(self):
        directory = tiny(vision_intermediate_size=100, intermediate_size=161)
        for form in LEVELS:
            whole, kept = exported(directory, "--format", form).data, (exporter.CHUNK, exporter.WORKERS)
            try:
                for exporter.CHUNK, exporter.WORKERS in ((1 << 20, 1), (1, 2), (100, 3), (1000, 1), (5000, 7)):
                    self.assertEqual(exported(directory, "--format", form).data, whole)
            finally:
                exporter.CHUNK, exporter.WORKERS = kept
            out = os.path.join(scratch("out"), "model.bin")
            subprocess.run([sys.executable, EXPORT, directory, out, "--format", form], check=True, capture_output=True)
            self.assertEqual(read(out), whole)

    @unittest.skipUnless(os.path.exists(SMOLVLM), "no smolvlm: run make first")
    def test_the_model_answers(self):
        """Through smolvlm: an answer, and outputs near those of the f32 export."""
        for kind in ("smolvlm", "llama"):
            directory, results = tiny(kind, hidden_size=96, head_dim=24, individual_digits=kind == "smolvlm"), {}
            for form in ("f32", "q8", "q4"):
                folder = scratch(form)
                out, dump = os.path.join(folder, "model.bin"), os.path.join(folder, "dump")
                said = [] if form == "f32" else [f"export.py: note: {exporter.UNCALIBRATED[form]}"]
                code, errors = run_export(directory, out, "--format", form)
                errors = [line for line in errors.splitlines() if "takes no video" not in line]
                self.assertEqual((code, errors), (None, said))
                picture = ["-i", os.path.join(HERE, "golden", "model", "a.png")] if kind == "smolvlm" else []
                done = subprocess.run([SMOLVLM, out, "-q", "-p", "What is it?", "-n", "4", "--json", "--dump", dump,
                                       *picture], capture_output=True, text=True)
                self.assertEqual((done.returncode, done.stderr), (0, ""))
                self.assertIn('"text"', done.stdout)
                results[form] = {name: np.load(os.path.join(dump, name + ".npy")).astype(np.float64)
                                 for name in ["lm_head"] + ["model.connector"] * (kind == "smolvlm")}
            for form, bound in (("q8", 0.08), ("q4", 0.4)):
                for name, value in results[form].items():
                    want = results["f32"][name]
                    off = np.sqrt(((value - want) ** 2).sum() / (want ** 2).sum())
                    self.assertTrue(0 < off < bound, (kind, form, name, off))


def hadamard_matrix(size):
    """The Hadamard matrix of size numbers as model.h has it, block by block."""
    block = np.ones((1, 1))
    while len(block) < 64 and size % (2 * len(block)) == 0:
        block = np.block([[block, block], [block, -block]])
    return np.kron(np.eye(size // len(block)), block / np.sqrt(len(block)))


@contextlib.contextmanager
def balanced_as(form):
    """Inside, a turned f32 or bf16 file's norms and columns are balanced as a q8 or q4 file's are."""
    kept, formula = dict(exporter.BALANCE), exporter.BALANCE[form]
    exporter.BALANCE.update(f32=formula, bf16=formula)
    try:
        yield
    finally:
        exporter.BALANCE.clear()
        exporter.BALANCE.update(kept)


def not_zero(squares):
    """No mean square counts as less than a millionth of the largest."""
    return np.maximum(squares, (squares.max() or 1) / 1e6)


FORMULAS = {"q8": lambda weights, read: weights ** (3 / 8) / read ** (1 / 8),
            "q4": lambda weights, read: weights ** (1 / 2)}


class Turning:
    """What an unturned f32 file's tensors become in a turned one, by dense matrices in float64.

    read: {name of a matrix: the mean squares of what it reads}, in calibrated files."""

    def __init__(self, file, form, read=None):
        c, self.formula = file.config, FORMULAS[form]
        self.state = {name: np.frombuffer(data.tobytes(), "<f4").reshape(data.shape).astype("f8")
                      for name, data in file.tensors.items()}
        self.after = {}             # what a matrix' columns are multiplied with, [cols, cols]
        hidden, middle, dim = (hadamard_matrix(c[n]) for n in ("hidden_size", "intermediate_size", "head_dim"))
        heads, kv_heads = c["num_attention_heads"], c["num_key_value_heads"]
        # one row for each number of a query head, a one where the number of the shared head of values stands
        shared = np.kron(np.repeat(np.eye(kv_heads), heads // kv_heads, 0), np.eye(c["head_dim"]))
        for layer in range(c["num_hidden_layers"]):
            at = f"model.text_model.layers.{layer}."
            q, k, v, o = (f"{at}self_attn.{part}_proj.weight" for part in "qkvo")
            gate, up, down = (f"{at}mlp.{part}_proj.weight" for part in ("gate", "up", "down"))
            for norm, readers in ((at + "input_layernorm.weight", (q, k, v)),
                                  (at + "post_attention_layernorm.weight", (gate, up))):
                weight = self.state[norm][0]
                b = self.balance(readers, weight ** 2 if read is None else read[readers[0]])
                self.state[norm] = (weight * b)[None]
                for name in readers:
                    self.turn(name, np.diag(1 / b) @ hidden)
            values = self.balance([o], np.ones(shared.shape[1]) if read is None else shared.T @ read[o], shared)
            self.turn(o, np.diag(1 / (shared @ values)) @ np.kron(np.eye(heads), dim))
            self.state[v] = np.kron(np.eye(kv_heads), dim) @ np.diag(values) @ self.state[v]
            b = self.balance([down], np.ones(c["intermediate_size"]) if read is None else read[down])
            self.turn(down, np.diag(1 / b) @ middle)
            self.state[up] = np.diag(b) @ self.state[up]
        self.turn("model.text_model.embed_tokens.weight", hidden)
        if "lm_head.weight" in self.state:
            self.turn("lm_head.weight", hidden)

    def balance(self, readers, read, shared=None):
        weights = sum((self.state[name] ** 2).sum(0) for name in readers)
        return self.formula(not_zero(weights if shared is None else shared.T @ weights), not_zero(read))

    def turn(self, name, matrix):
        self.state[name], self.after[name] = self.state[name] @ matrix, matrix

    def hessian(self, name, h):
        """H of what the matrix reads, of that of what it reads in an unturned file."""
        if name not in self.after:
            return h
        before = np.linalg.inv(self.after[name])
        return before @ h @ before.T


TURNED = (("smolvlm", dict(head_dim=12)), ("smolvlm", dict(hidden_size=128, head_dim=32, tie_word_embeddings=True)),
          ("smolvlm", dict(hidden_size=66, num_attention_heads=3, num_key_value_heads=3, head_dim=22,
                           intermediate_size=131, scale_factor=1)),
          ("llama", dict(hidden_size=45, num_attention_heads=3, num_key_value_heads=1, head_dim=6, dtype="bfloat16",
                         tie_word_embeddings=True)),
          ("llama", dict(hidden_size=192, head_dim=64, intermediate_size=320, dtype="float16")),
          ("mistral", dict(head_dim=24)))


class Turned(unittest.TestCase):
    """Turned files: the tensors are products with dense matrices, and the model computes what it did."""

    LAYER = "model.layers.1."
    SMALL = (("model.norm.weight", 0.0), ("model.norm.weight", -1.2), (LAYER + "input_layernorm.weight", 0.0),
             (LAYER + "post_attention_layernorm.weight", -1e-20), (LAYER + "post_attention_layernorm.weight", 30.0))

    def check_tensors(self, directory, form):
        plain = exported(directory, "--format", "f32")
        with balanced_as(form):
            turned, rounded = (exported(directory, "--format", other, "--turned") for other in ("f32", "bf16"))
        self.assertEqual((plain.config["turned"], turned.config["turned"]), (0, 1))
        self.assertEqual({**turned.config, "turned": 0}, plain.config)
        wanted = Turning(plain, form).state
        self.assertEqual(wanted.keys(), turned.tensors.keys())
        for name, want in wanted.items():
            got = np.frombuffer(turned.tensors[name].tobytes(), "<f4").reshape(want.shape)
            off = np.abs(got - want).max() / (np.abs(want).max() or 1)
            self.assertLessEqual(off, 6e-8, name)                                   # rounded once, from float64
        for name, data in turned.tensors.items():
            want = bits(torch.from_numpy(data.view("<f4").copy()), rounded.formats[name])
            np.testing.assert_array_equal(rounded.tensors[name], want.reshape(data.shape), err_msg=name)

    def test_tensors(self):
        for form in LEVELS:
            for kind, settings in TURNED:
                with self.subTest(form=form, kind=kind, **settings):
                    self.check_tensors(tiny(kind, **settings), form)

    def small(self):
        """Yields directories of models with single numbers, columns or matrices that are zero, small or large."""
        for name, value in self.SMALL:
            directory = tiny("llama", tie_word_embeddings=True)
            tensors(lambda w: w[name][5:6].fill_(value))(directory)
            yield f"{name}: {value}", directory
        for part in ("self_attn.o_proj", "mlp.down_proj", "mlp.gate_proj"):
            for columns in (slice(3, 4), slice(None)):
                directory, name = tiny("llama"), f"{self.LAYER}{part}.weight"
                tensors(lambda w: w[name][:, columns].fill_(0.0))(directory)
                yield f"{name}: {columns}", directory

    def test_tensors_of_small_numbers(self):
        for what, directory in self.small():
            for form in LEVELS:
                with self.subTest(what=what, form=form):
                    self.check_tensors(directory, form)

    def test_which_files_are_turned(self):
        for directory in (tiny(), tiny("llama", tie_word_embeddings=True)):
            for form, turned in (("f32", 0), ("bf16", 0), ("q4", 1), ("q8", 1)):
                plain = exported(directory, "--format", form)
                also = exported(directory, "--format", form, "--turned")
                self.assertEqual((plain.config["turned"], also.config["turned"]), (turned, 1))
                self.assertEqual(len(plain.data), len(also.data))
                self.assertEqual(plain.data == also.data, bool(turned))
            self.assertEqual(exported(directory).config["turned"], 0)
            for form in ("q8", "q4"):
                size = len(exported(directory, "--format", form).data)
                out = os.path.join(scratch("out"), "plain.bin")
                exporter.export(directory, out, form, turned=False)
                self.assertEqual((read_file(out).config["turned"], len(read(out))), (0, size))

    def compare(self, directory, form):
        """A turned f32 file's answer and activations are those of the file as it is. What differs is rounding: where a
        norm's weight is 30, kernel sets are 1.5e-6 apart on the same file, and a turned file is up to 5.2e-6 from it.
        """
        dumps = []
        for options in ((), ("--turned",)):
            folder = scratch("turned")
            out, dump = os.path.join(folder, "model.bin"), os.path.join(folder, "dump")
            with balanced_as(form):
                code, errors = run_export(directory, out, "--format", "f32", *options)
            self.assertIsNone(code)
            self.assertNotIn("tables", errors)
            picture = ["-i", os.path.join(HERE, "golden", "model", "a.png")] \
                if os.path.exists(os.path.join(directory, "preprocessor_config.json")) else []
            done = subprocess.run([SMOLVLM, out, "-q", "-p", "What is it?", "-n", "4", "--json", "--dump", dump,
                                   *picture], capture_output=True, text=True)
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            dumps.append((json.loads(done.stdout)["ids"],
                          {name: np.load(os.path.join(dump, name)) for name in sorted(os.listdir(dump))}))
        (ids, plain), (turned_ids, turned) = dumps
        self.assertEqual(ids, turned_ids)
        self.assertEqual(plain.keys(), turned.keys())
        self.assertGreater(len(plain), 4)
        for name, want in plain.items():
            off = np.abs(turned[name].astype("f8") - want).max() / max(np.abs(want).max(), 1e-9)
            self.assertLessEqual(off, 1e-5, name)

    @unittest.skipUnless(os.path.exists(SMOLVLM), "no smolvlm: run make first")
    def test_the_model_computes_what_it_did(self):
        for form in LEVELS:
            for kind, settings in TURNED:
                with self.subTest(form=form, kind=kind, **settings):
                    self.compare(tiny(kind, **settings), form)

    @unittest.skipUnless(os.path.exists(SMOLVLM), "no smolvlm: run make first")
    def test_small_numbers(self):
        """Weights of norms that are zero or negative, and columns of zeros, do no harm."""
        for what, directory in self.small():
            for form in LEVELS:
                with self.subTest(what=what, form=form):
                    self.compare(directory, form)


class Defaults(unittest.TestCase):
    """config.json with keys left out means what transformers' classes take it to mean."""

    def check(self, config):
        directory = scratch("config")
        with open(os.path.join(directory, "config.json"), "w", encoding="utf-8") as f:
            json.dump(config, f)
        with contextlib.redirect_stderr(io.StringIO()):
            model, fields, _ = exporter.read_config(config)
        loaded = AutoConfig.from_pretrained(directory)
        reference = reference_fields(loaded)
        if model == "mistral":
            reference["max_position_embeddings"] = min(loaded.max_position_embeddings, loaded.sliding_window or 2**31)
        self.assertEqual({key: fields.get(key, 0) for key in reference}, reference)

    def test_every_key_left_out(self):
        for kind in ("smolvlm", "idefics3"):
            self.check(dict(model_type=kind, vision_config=dict(image_size=512, patch_size=16)))
            self.check(dict(model_type=kind, scale_factor=1))
            base = json.loads(read(os.path.join(tiny(kind, config_generation=5), "config.json")))
            base["vision_config"].update(num_attention_heads=4, image_size=512, patch_size=16)
            self.check(dict(base, vision_config=dict(base["vision_config"], hidden_size=64)))
            for part in ("text_config", "vision_config"):
                for key in base[part]:
                    if key not in ("hidden_size", "num_attention_heads", "image_size", "patch_size"):
                        self.check(dict(base, **{part: {k: v for k, v in base[part].items() if k != key}}))
                        if base[part][key] is not None and key in ("head_dim", "num_key_value_heads"):
                            self.check(dict(base, **{part: dict(base[part], **{key: None})}))
        for kind in ("llama", "mistral"):
            self.check(dict(model_type=kind))
            base = json.loads(read(os.path.join(tiny(kind), "config.json")))
            for key in set(base) - {"model_type", "hidden_size", "sliding_window", "num_attention_heads",
                                    "num_key_value_heads"}:
                self.check({k: v for k, v in base.items() if k != key})


def expected_added(tokenizer):
    """{id: (flags, content)} as transformers has it."""
    names = ("normalized", "lstrip", "rstrip", "single_word")
    return {id: (sum(1 << i for i, name in enumerate(names) if getattr(token, name)), token.content)
            for id, token in tokenizer.added_tokens_decoder.items()}


class Tokenizer(unittest.TestCase):
    def test_ids_bytes_and_merges(self):
        texts = ["Describe the image, please. 2024 things!\n", "Wie heißt 你好 🙂 it's  \t x\x04y",
                 "<image> User:<end_of_utterance>"]
        for kind, overrides in (("smolvlm", {}), ("smolvlm", dict(v1_tokenizer=True)),
                                ("llama", dict(individual_digits=False))):
            directory = tiny(kind, **overrides)
            tokenizer, ours = AutoTokenizer.from_pretrained(directory), exported(directory).tokenizer
            self.assertEqual(len(ours.ids), len(tokenizer))
            for id, data in enumerate(ours.ids):
                self.assertEqual(data.decode("utf-8", "replace"), tokenizer.decode([id]), id)
            self.assertEqual(ours.added, expected_added(tokenizer))
            self.assertEqual(ours.digits, int(overrides.get("individual_digits", True)))
            backend = tokenizer.backend_tokenizer
            for text in texts:
                ids = []
                contents = [content for _, content in ours.added.values()]
                for part in re.split("(" + "|".join(map(re.escape, contents)) + ")", text):
                    if part in contents:
                        ids += [id for id, (_, content) in ours.added.items() if content == part]
                        continue
                    for word, _ in backend.pre_tokenizer.pre_tokenize_str(part):
                        alphabet = {c: b for b, c in zip(range(256), byte_characters())}
                        ids += bpe([ours.bytes[alphabet[c]] for c in word], ours.merges)
                self.assertEqual([id for id in ids if id != 0xFFFFFFFF], tokenizer(text)["input_ids"], text)

    def test_both_layouts_of_merges(self):
        directory = tiny("llama")
        first = exported(directory).data
        def change(tokenizer):
            merges = tokenizer["model"]["merges"]
            tokenizer["model"]["merges"] = [" ".join(m) if isinstance(m, list) else m.split(" ") for m in merges]
        edit(directory, "tokenizer.json", change)
        self.assertEqual(exported(directory).data, first)

    def test_added_tokens_of_the_configuration(self):
        directory = tiny("llama", vocab_size=700)
        n = len(AutoTokenizer.from_pretrained(directory))
        edit(directory, "tokenizer_config.json", lambda c: c.update(added_tokens_decoder={
            str(n): dict(content="<more>", lstrip=False, rstrip=False, single_word=False, normalized=False,
                         special=True)}))
        self.assertEqual(exported(directory).tokenizer.added[n], (0, "<more>"))
        self.assertEqual(AutoTokenizer.from_pretrained(directory)("<more>")["input_ids"], [n])


class AddedTokens(unittest.TestCase):
    """Tokens that were added to a tokenizer, with flags by chance, on texts by chance: the library's ids."""
    TOKENIZERS = 120

    def test_library(self):
        program = os.path.join(os.path.dirname(HERE), "build", "test_tokenizer")
        subprocess.run(["make", "-s", os.path.relpath(program, os.path.dirname(HERE))], cwd=os.path.dirname(HERE),
                       check=True, capture_output=True)
        kept, golden_tokenizer.GOLDEN = golden_tokenizer.GOLDEN, scratch("tokenizers")
        place = os.path.join(golden_tokenizer.GOLDEN, "x")
        silent, stderr = os.open(os.devnull, os.O_WRONLY), os.dup(2)        # the library's own words when it panics
        try:
            for seed in range(self.TOKENIZERS):
                tokenizer = golden_tokenizer.flagged_json(random.Random(f"parity {seed}"))
                os.dup2(silent, 2)
                with contextlib.redirect_stdout(io.StringIO()):
                    golden_tokenizer.write_blob("x", tokenizer)
                    golden_tokenizer.write_cases("x", tokenizer, 150, 5)
                os.dup2(stderr, 2)
                done = subprocess.run([program, place + ".bin", place + ".cases"], capture_output=True, text=True)
                self.assertEqual(done.returncode, 0, (seed, done.stdout))
        finally:
            os.dup2(stderr, 2)
            golden_tokenizer.GOLDEN = kept

    @unittest.skipUnless(os.path.exists(SMOLVLM), "no smolvlm: run make first")
    def test_as_fine_tunes_do(self):
        """add_tokens and save_pretrained; the flags that tokenizer_config.json has count."""
        directory = tiny("llama", vocab_size=700)
        tokenizer = AutoTokenizer.from_pretrained(directory)
        tokenizer.add_tokens(["<answer>", "</answer>", "cat", AddedToken("<b>", lstrip=True, rstrip=True),
                              AddedToken("dog", single_word=True)])
        tokenizer.add_tokens([AddedToken("<think>", rstrip=True, normalized=False)], special_tokens=True)
        tokenizer.save_pretrained(directory)
        texts = ["<answer> a cat </answer>", "cats, cat concat", "dog dogs a_dog\u00e9 dog", " \n<b>  x<b> <b>\n",
                 "<think>\n\n<answer>", "<|im_start|> <b> <think>  <|im_end|>"]
        n = tokenizer.convert_tokens_to_ids("cat")
        cat = dict(content="cat", lstrip=True, rstrip=False, single_word=True, normalized=True, special=False)
        for change in (lambda c: None, lambda c: c.update(tokenizer_class="PreTrainedTokenizerFast",
                                                          added_tokens_decoder={str(n): cat})):
            edit(directory, "tokenizer_config.json", change)
            out = os.path.join(scratch("out"), "model.bin")
            self.assertIsNone(run_export(directory, out)[0])
            tokenizer = AutoTokenizer.from_pretrained(directory)
            self.assertEqual(read_file(out).tokenizer.added, expected_added(tokenizer))
            for text in texts:
                done = subprocess.run([SMOLVLM, out, "--tokenize"], input=text.encode(), capture_output=True)
                self.assertEqual([int(id) for id in done.stdout.split()], tokenizer(text)["input_ids"], text)


def byte_characters():
    """The character of each byte 0..255 in GPT-2's alphabet: itself, or, if not printable, one from U+0100 on."""
    hidden = [*range(0x21), *range(0x7F, 0xA1), 0xAD]
    return [chr(0x100 + hidden.index(byte)) if byte in hidden else chr(byte) for byte in range(256)]


def bpe(ids, merges):
    """Byte-pair merges by rank, the plain way; bytes without an id are dropped first, as tokenizers does."""
    ids, ranks = [id for id in ids if id != 0xFFFFFFFF], {(a, b): (rank, c) for rank, (a, b, c) in enumerate(merges)}
    while True:
        found = [(ranks[pair][0], i) for i, pair in enumerate(zip(ids, ids[1:])) if pair in ranks]
        if not found:
            return ids
        _, i = min(found)
        ids[i:i + 2] = [ranks[ids[i], ids[i + 1]][1]]


def render(config, conversation):
    """What smolvlm.c makes of SV_CONFIG's chat_ fields; conversation: [(role, [text or None for a picture])]."""
    text = config["chat_begin"] + (config["chat_default_system"] if conversation[0][0] != "system" else "")
    kind = lambda item: "image" if item is None else "text"
    tail = lambda item: "_image" if item is None else ""
    for i, (role, items) in enumerate(conversation):
        text += config["chat_between_messages"] if i else ""
        text += config[f"chat_{role}_begin{tail(items[0])}"]
        for j, item in enumerate(items):
            text += config[f"chat_{kind(items[j - 1])}_{kind(item)}"] if j else ""
            text += config["image_token"] if item is None else item
        text += config[f"chat_{role}_end{tail(items[-1])}"]
    return text + config["chat_generation_prompt"]


@contextlib.contextmanager
def without_jinja2():
    """As on a machine where it is not installed."""
    kept, sys.modules["jinja2"] = sys.modules.get("jinja2"), None
    try:
        yield
    finally:
        sys.modules["jinja2"] = kept


def processor_tokens(processor):
    return getattr(processor, "tokenizer", processor).special_tokens_map


class Chat(unittest.TestCase):
    VISION = [SMOLVLM_TEMPLATE,
              transformers.models.smolvlm.processing_smolvlm.DEFAULT_CHAT_TEMPLATE,
              SMOLVLM_TEMPLATE.replace("<|im_start|>{%", "{%").replace("utterance>\n", "utterance>  x\n"),
              SMOLVLM_TEMPLATE.replace("message['role'] | capitalize", "message.role.capitalize()").replace("'", '"'),
              SMOLVLM_TEMPLATE.replace(" | capitalize", "").replace("': '", "':\\t\\'q\\' '"),
              SMOLVLM_TEMPLATE.replace("<|im_start|>", "{{ bos_token }}\n{#- a note -#}\n"),
              SMOLVLM_TEMPLATE.replace("%}{%", "%}\n \t {%").replace("%}{{", "%}\n{{") + "\n",
              SMOLVLM_TEMPLATE.replace("%}{%", "%}{# a note #}\n\n  {%- ").replace("{{", "\n{{- ").replace(
                  "{% if", "\n {%- if")]
    TEXT = [SMOLLM2_TEMPLATE,
            SMOLLM2_TEMPLATE.replace("\n", "\\n"),
            "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
            "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
            "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}"
            "{% for message in messages %}{{ '<|im_start|>' ~ message.role ~ '\\n' ~ message.content ~ eos_token }}\n"
            "{%- endfor %}\n{% if add_generation_prompt %}\n    {{- '<|im_start|>assistant\n' }}\n{%- endif %}\n"]
    TALKS = [[("user", ["Hi."])], [("user", [None, "What?"]), ("assistant", ["A  dog."]), ("user", ["Sure,", "yes"])],
             [("system", ["Be kind."]), ("user", ["I", None, None])]]

    def test_vision_templates(self):
        directory = tiny()
        tokenizer = AutoTokenizer.from_pretrained(directory)
        for template in self.VISION:
            edit(directory, "chat_template.json", lambda c: c.update(chat_template=template))
            config = exported(directory).config
            for talk in self.TALKS:
                messages = [{"role": role, "content": [
                    {"type": "image"} if item is None else {"type": "text", "text": item} for item in items]}
                    for role, items in talk]
                self.assertEqual(render(config, talk), tokenizer.apply_chat_template(
                    messages, chat_template=template, tokenize=False, add_generation_prompt=True), template)

    def test_text_templates(self):
        directory = tiny("llama")
        for template in self.TEXT:
            edit(directory, "tokenizer_config.json", lambda c: c.update(chat_template=template))
            config, tokenizer = exported(directory).config, AutoTokenizer.from_pretrained(directory)
            for talk in self.TALKS:
                talk = [(role, ["".join(item or "" for item in items)]) for role, items in talk]
                self.assertEqual(render(config, talk), tokenizer.apply_chat_template(
                    [{"role": role, "content": items[0]} for role, items in talk], tokenize=False,
                    add_generation_prompt=True), template)

    # Others, with what they do not accept: written as their authors do it, in few words.
    DOCLING = (             # granite-docling
        "{%- for message in messages -%}\n{{- '<|start_of_role|>' + message['role'] + '<|end_of_role|>' -}}\n"
        "{%- if message['content'] is string -%}\n{{- message['content'] -}}\n{%- else -%}\n"
        "{%- for part in message['content'] -%}\n{%- if part['type'] == 'text' -%}\n{{- part['text'] -}}\n"
        "{%- elif part['type'] == 'image' -%}\n{{- '<image>' -}}\n{%- endif -%}\n{%- endfor -%}\n{%- endif -%}\n"
        "{{- '<|end_of_text|>\n' -}}\n{%- endfor -%}\n{%- if add_generation_prompt -%}\n"
        "{{- '<|start_of_role|>assistant' -}}\n{%- if controls -%}{{- ' ' + controls | tojson() -}}{%- endif -%}\n"
        "{{- '<|end_of_role|>' -}}\n{%- endif -%}\n")
    PICTURES = (            # ChatML with pictures and a default system message, a line end after each picture
        "{% for m in messages %}{% if loop.first and m.role != 'system' %}<|im_start|>system\nYou see.<|im_end|>\n"
        "{% endif %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}{% else %}"
        "{% for c in m.content %}{% if c.type == 'image' or 'image_url' in c %}<image>\n{% else %}{{ c.text }}"
        "{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}")
    SEPARATED = (           # something between messages and between items, nothing after the last
        "{% for m in messages %}{{ '' if loop.first else '\n\n' }}{{ m.role | upper }}: {% for c in m.content %}"
        "{{ '' if loop.first else ' ' }}{{ c.text if c.type == 'text' else '<image>' }}{% endfor %}{% endfor %}"
        "{{ '\n\nASSISTANT:' if add_generation_prompt }}")
    PICTURES_FIRST = (      # as granite-vision: a message's pictures go to its front
        "{% for m in messages %}{% if m.role == 'user' %}<|user|>\n"
        "{% for c in m.content | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
        "{% for c in m.content | selectattr('type', 'equalto', 'text') %}{{ c.text + '\n' }}{% endfor %}"
        "{% else %}{{ '<|' + m.role + '|>\n' + m.content[0].text }}<|end_of_text|>{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}")
    GENERATION = (          # trl, axolotl: what is trained is marked
        "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
        "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] + '<|im_end|>' }}{% endgeneration %}"
        "{% else %}{{ m['content'] + '<|im_end|>' }}{% endif %}"
        "{{ '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
    ALTERNATING = (         # Mistral: refuses what does not alternate, and knows no system message
        "{{ bos_token }}{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}"
        "{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %}{{ m.content }}{{ eos_token }}"
        "{% endif %}{% endfor %}")
    SYSTEM_APART = (        # the system message is taken out of the list first, later ones vanish
        "{% if messages[0].role == 'system' %}{% set system = messages[0].content %}{% set rest = messages[1:] %}"
        "{% else %}{% set system = 'Be good.' %}{% set rest = messages %}{% endif %}<|system|>{{ system }}<|end|>\n"
        "{% for m in rest %}{% if m.role in ('user', 'assistant') %}<|{{ m.role }}|>{{ m.content }}<|end|>\n{% endif %}"
        "{% endfor %}{% if messages[-1].role != 'assistant' %}<|assistant|>{% endif %}")
    THOUGHTS = (            # as Qwen3's and others': answers are shown without their thoughts
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content.split('</think>')[-1].lstrip('\n') if m.role == "
        "'assistant' else m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n")
    OTHERS = [(DOCLING, set()), (PICTURES, set()), (SEPARATED, set()),
              (PICTURES_FIRST, {"chat_mixed", "chat_images"})]
    TEXT_OTHERS = [(GENERATION, set()), (DOCLING, set()), (PICTURES, set()), (SEPARATED, set()),
                   (ALTERNATING, {"chat_system", "chat_system_later"}),
                   (SYSTEM_APART, {"chat_system_later", "chat_assistant_last"}),
                   (THOUGHTS, {"chat_assistant", "chat_assistant_last"})]
    QUESTIONS = TALKS + [
        [("user", ["A"]), ("user", [" B \n"])], [("user", [None, None, " C\t"])], [("user", [None])],
        [("user", ["D", None, None, "E", "F"]), ("assistant", ["g"]), ("user", [None, "H"])],
        [("system", ["I", None]), ("user", ["J"]), ("assistant", [None, "<think>k</think>\nL"])],
        [("system", [None, "M"]), ("user", [None, "N"]), ("system", [" \n"]), ("user", ["\\n{{ o }}", "P"])],
        [("user", ["Q"]), ("assistant", ["R"]), ("user", ["S"]), ("assistant", ["T\n\n"]), ("user", [None, "U"])],
        [("user", [" it's "]), ("assistant", ["1"]), ("user", ["2"])], [("user", ["3"]), ("assistant", ["4\n"])],
        [("assistant", ["V"]), ("user", ["W"])], [("system", ["X"]), ("system", ["Y"]), ("user", ["Z"])]]

    def check_template(self, template, lacks, processor, image_token, strings):
        """All questions that it accepts, rendered from the strings and by transformers."""
        tokens = {name: str(token) for name, token in processor_tokens(processor).items()}
        errors = io.StringIO()
        with contextlib.redirect_stderr(errors):
            config = exporter.read_chat(template, tokens, image_token)
        flags = exporter.read_layout().chat_flags
        self.assertEqual({flag for flag in flags if not config["chat_accepts"] & flags[flag]}, lacks, template)
        self.assertEqual(errors.getvalue().count("does not provide for"), len(lacks))
        rendered = 0
        for talk in self.QUESTIONS:
            if exporter.needs(talk) & lacks or not image_token and any(None in items for _, items in talk):
                continue
            messages = [{"role": role, "content": "".join("<image>" if item is None else item for item in items)
                         if strings else [{"type": "image"} if item is None else {"type": "text", "text": item}
                                          for item in items]} for role, items in talk]
            try:
                expected = processor.apply_chat_template(messages, chat_template=template, tokenize=False,
                                                         add_generation_prompt=True)
            except Exception:                                               # the template's own refusal
                self.assertIn("raise_exception", template)
                continue
            self.assertEqual(render({**config, "image_token": "<image>"}, talk), expected, template)
            rendered += 1
        self.assertGreater(rendered, 2)
        return config

    def test_other_templates(self):
        processor = hf.load_processor(tiny())
        for template, lacks in self.OTHERS:
            self.check_template(template, lacks, processor, "<image>", strings=False)
        chatml = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>"
        for template in (self.GENERATION, SMOLLM2_TEMPLATE, chatml, self.THOUGHTS):        # that take strings only
            self.check_template(template, {"chat_assistant", "chat_assistant_last"} if "think" in template else set(),
                                processor, "<image>", strings=True)

    def test_other_templates_of_text_models(self):
        tokenizer = AutoTokenizer.from_pretrained(tiny("llama"))
        for template, lacks in self.TEXT_OTHERS:
            self.check_template(template, lacks, tokenizer, "", strings=template is not self.SEPARATED)

    def test_evaluated_is_recognised(self):
        """With jinja2 and without, the same fields, for all that is known without."""
        tokens = dict(bos_token="<s>", eos_token="</s>")
        for templates, image_token in ((self.VISION, "<image>"), (self.TEXT, ""), (self.TEXT, "<image>")):
            for template in templates:
                with contextlib.redirect_stderr(io.StringIO()):             # a note, where pictures are within texts
                    fields = exporter.read_chat(template, tokens, image_token)
                with without_jinja2():
                    plain = exporter.read_chat(template, tokens, image_token)
                for name in plain:
                    self.assertEqual(fields[name], plain[name], (name, template))
                self.assertFalse(any(fields[name] for name in fields.keys() - plain.keys()))
        with without_jinja2(), self.assertRaisesRegex(exporter.Refused, "pip install -U jinja2"):
            exporter.read_chat(self.DOCLING, tokens, "<image>")

    def test_templates_that_no_strings_make(self):
        """Each with a word of the sentence that says why."""
        chatml = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        for word, template in (
                ("white space around a text", chatml.replace("m.content", "m.content | trim")),
                ("day's date", "{{ strftime_now('%d %b') }}" + chatml),
                ("a second question", chatml.replace("<|im_end|>", "{{ loop.index }}")),
                ("a text with lines", chatml.replace("m.content", "m.content.replace('\n\n  ', ' ')")),
                ("a message's text", chatml.replace("m.content", "m.content + m.content")),
                ("valid jinja", chatml + "{% if %}"), ("jinja says", chatml + "{{ raise_exception('no') }}")):
            with self.assertRaisesRegex(exporter.Refused, word):
                exporter.read_chat(template, {}, "")
        for word, template in (
                ("'<pic>' for a picture", self.DOCLING.replace("<image>", "<pic>")),
                ("refuses a picture", self.DOCLING.replace("{{- '<image>' -}}", "{{- raise_exception('blind') -}}")),
                ("three pictures", self.PICTURES.replace("<image>", "{{ loop.index }}<image>"))):
            with self.assertRaisesRegex(exporter.Refused, word):
                exporter.read_chat(template, {}, "<image>")

    @unittest.skipUnless(os.path.exists(SMOLVLM), "no smolvlm: run make first")
    def test_the_program_renders_them(self):
        """The ids of ./smolvlm's prompt, with a chat template and --raw, are the processor's."""
        pictures = [os.path.join(HERE, "golden", "model", name) for name in ("a.png", "b.ppm")]
        directory = tiny(longest_edge=96)
        images = [[hf.open_picture(picture) for picture in pictures]]
        folder = scratch("out")
        out, processor = os.path.join(folder, "model.bin"), hf.load_processor(directory)

        def prompt_ids(*options):
            done = subprocess.run([SMOLVLM, out, "-q", "-n", "1", "--json", *options], capture_output=True, text=True)
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            return json.loads(done.stdout)["prompt_ids"]

        for template in (SMOLVLM_TEMPLATE, self.DOCLING, self.PICTURES, self.SEPARATED, self.PICTURES_FIRST):
            edit(directory, "chat_template.json", lambda c: c.update(chat_template=template))
            self.assertIsNone(run_export(directory, out)[0])
            for system in (None, " Be\nkind. "):
                messages = hf.conversation(pictures, "What is it? ", system)
                text = processor.apply_chat_template(messages, chat_template=template, tokenize=False,
                                                     add_generation_prompt=True)
                self.assertEqual(prompt_ids(*(["-s", system] if system else []), "-p", "What is it? ",
                                            *(word for picture in pictures for word in ("-i", picture))),
                                 processor(text=text, images=images)["input_ids"][0], template)
        for text in ("<|im_start|>User:<image><image>Two?<end_of_utterance>\nAssistant:", "<image>",
                     "a<<image>>b <image>", " \n<image>\u00e9<|im_end|>"):
            n = text.count("<image>")
            self.assertEqual(prompt_ids("--raw", "-p", text, *(word for picture in pictures[:n]
                                                               for word in ("-i", picture))),
                             processor(text=text, images=[images[0][:n]])["input_ids"][0], text)
        self.assertEqual(prompt_ids("--raw", "-p", "<|im_start|>x"), processor(text="<|im_start|>x")["input_ids"][0])

    def test_names_of_tokens(self):
        """What a template's bos_token, image_token ... stand for: special_tokens_map."""
        for kind in ("smolvlm", "idefics3", "llama", "mistral"):
            for name in ("GPT2Tokenizer", "PreTrainedTokenizerFast"):
                pad = {"__type": "AddedToken", "content": "<|im_start|>"}
                for given in (dict(bos_token="<|im_end|>", pad_token=pad), {}):
                    directory = tiny(kind)
                    edit(directory, "tokenizer_config.json", lambda c: [
                        c.pop(key + "_token", None) for key in ("bos", "eos", "pad", "unk")] and c.update(
                        tokenizer_class=name, extra_special_tokens={"more_token": "<|im_end|>"}, **given))
                    _, settings = exporter.read_tokenizer(directory, 600)
                    self.assertEqual(exporter.template_tokens(kind, settings),
                                     AutoTokenizer.from_pretrained(directory).special_tokens_map, (kind, name, given))

    def test_where_the_template_stands(self):
        """processor_config.json, chat_template.json, .jinja; for a text model .jinja, tokenizer_config.json."""
        directory = tiny()
        ends = lambda: exported(directory).config["chat_user_end"]
        variant = lambda end: SMOLVLM_TEMPLATE.replace("<end_of_utterance>", end)
        with open(os.path.join(directory, "chat_template.jinja"), "w", encoding="utf-8") as f:
            f.write(variant("<jinja>"))
        self.assertEqual(ends(), "<end_of_utterance>\n")
        os.remove(os.path.join(directory, "chat_template.json"))
        self.assertEqual(ends(), "<jinja>\n")
        edit(directory, "processor_config.json", lambda c: c.update(chat_template=variant("<processor>")))
        self.assertEqual(ends(), "<processor>\n")

        directory = tiny("llama")
        edit(directory, "tokenizer_config.json", lambda c: c.update(chat_template=[
            {"name": "other", "template": "x"},
            {"name": "default", "template": SMOLLM2_TEMPLATE.replace("<|im_end|>", "<l>")}]))
        self.assertEqual(ends(), "<l>\n")
        with open(os.path.join(directory, "chat_template.jinja"), "w", encoding="utf-8") as f:
            f.write(SMOLLM2_TEMPLATE.replace("<|im_end|>", "<jinja>"))
        self.assertEqual(ends(), "<jinja>\n")
        self.assertIn("<jinja>", AutoTokenizer.from_pretrained(directory).chat_template)

    def test_no_template(self):
        directory = tiny("llama", chat_template=None)
        config = exported(directory).config
        self.assertEqual({config[key] for key in config if key.startswith("chat_")}, {"", 0})


def setting(file, section, **values):
    """A change to a directory: the values of one section ("a.b": an object in an object; "": the whole) of a file."""
    def change(value):
        for key in filter(None, section.split(".")):
            value = value[int(key) if key.isdigit() else key]
        value.update(values)
    return lambda directory: edit(directory, file, change)


def tensors(change):
    """A change to the tensors of model.safetensors."""
    def apply(directory):
        from safetensors.torch import load_file, save_file
        path = os.path.join(directory, "model.safetensors")
        weights = load_file(path)
        change(weights)
        save_file(weights, path)
    return apply


def bytes_of(file, change):
    """A change to a file's bytes."""
    def apply(directory):
        path = os.path.join(directory, file)
        data = read(path)
        with open(path, "wb") as f:
            f.write(change(data))
    return apply


def without(file):
    return lambda directory: os.remove(os.path.join(directory, file))


C, T, P, W = "config.json", "tokenizer.json", "preprocessor_config.json", "model.safetensors"
NORM = "model.text_model.norm.weight"
SMOLVLM_REFUSALS = [
    ("config.json", without(C)),
    ("not valid JSON", bytes_of(C, lambda data: data[:-9])),
    ("not valid JSON", bytes_of(C, lambda data: b"\xff" + data)),
    ("not a JSON object", bytes_of(C, lambda data: b"[]")),
    ("LlavaForConditionalGeneration", setting(C, "", architectures=["LlavaForConditionalGeneration"])),
    ("gpt2", setting(C, "", model_type="gpt2", architectures=None)),
    ("'qwen2'", setting(C, "text_config", model_type="qwen2")),
    ("attention_bias", setting(C, "text_config", attention_bias=True)),
    ("mlp_bias", setting(C, "text_config", mlp_bias=True)),
    ("hidden_act", setting(C, "text_config", hidden_act="gelu")),
    ("hidden_act", setting(C, "vision_config", hidden_act="quick_gelu")),
    ("num_channels", setting(C, "vision_config", num_channels=1)),
    ("hidden_size", setting(C, "text_config", hidden_size="48")),
    ("hidden_size", setting(C, "text_config", hidden_size=49)),
    ("hidden_size", setting(C, "vision_config", hidden_size=33)),
    ("num_hidden_layers", setting(C, "vision_config", num_hidden_layers=0)),
    ("vocab_size", setting(C, "text_config", vocab_size=-1)),
    ("vocab_size", setting(C, "text_config", vocab_size=True)),
    ("rms_norm_eps", setting(C, "text_config", rms_norm_eps="x")),
    ("head_dim 13 is odd", setting(C, "text_config", head_dim=13)),
    ("scale_factor", setting(C, "", scale_factor=3)),
    ("patches", setting(C, "vision_config", patch_size=33)),
    ("image_size", setting(C, "vision_config", image_size=[32, 32])),
    ("text_config", setting(C, "", text_config=[1])),
    ("rope_type", setting(C, "text_config", rope_scaling={"rope_type": "yarn", "factor": 2.0})),
    ("partial_rotary_factor", setting(C, "text_config", partial_rotary_factor=0.5)),
    ("quantization_config", setting(C, "", quantization_config={"quant_method": "awq"})),
    ("image_token_id", setting(C, "", image_token_id=3)),
    ("image_token_id", setting("tokenizer_config.json", "", image_token="<img>")),
    ("split_special_tokens", setting("tokenizer_config.json", "", split_special_tokens=True)),
    ("eos_token_id", setting("generation_config.json", "", eos_token_id=list(range(17)))),
    ("eos_token_id", setting("generation_config.json", "", eos_token_id="</s>")),
    ("tokenizer.json", without(T)),
    ("WordPiece", setting(T, "model", type="WordPiece")),
    ("byte_fallback", setting(T, "model", byte_fallback=True)),
    ("ignore_merges", setting(T, "model", ignore_merges=True)),
    ("unk_token", setting(T, "model", unk_token="<|endoftext|>")),
    ("continuing_subword_prefix", setting(T, "model", continuing_subword_prefix="##")),
    ("end_of_word_suffix", setting(T, "model", end_of_word_suffix="</w>")),
    ("NFC", setting(T, "", normalizer={"type": "NFC"})),
    ("pre_tokenizer", setting(T, "", pre_tokenizer={"type": "Whitespace"})),
    ("pre_tokenizer", setting(T, "", pre_tokenizer=None)),
    ("pre_tokenizer", setting(T, "pre_tokenizer.pretokenizers.0", individual_digits=False)),
    ("pre_tokenizer", setting(T, "pre_tokenizer.pretokenizers.1", add_prefix_space=True)),
    ("pre_tokenizer", setting(T, "pre_tokenizer.pretokenizers.1", use_regex=False)),
    ("decoder", lambda d: edit(d, T, lambda t: t["decoder"].update(type="WordPiece"))),
    ("post_processor", setting(T, "", post_processor={"type": "TemplateProcessing", "single": [
        {"SpecialToken": {"id": "<|im_start|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]})),
    ("tokenizers gives it", setting(T, "added_tokens.0", content="a")),
    ("tokenizers gives it", lambda d: edit(d, T, lambda t: t["added_tokens"][-1].update(
        id=t["added_tokens"][-2]["id"]))),
    ("merge", lambda d: edit(d, T, lambda t: t["model"]["merges"].append(["never", "there"]))),
    ("tokenizer.json", lambda d: edit(d, T, lambda t: t.pop("model"))),
    ("vocab_size", lambda d: edit(d, T, lambda t: t["model"]["vocab"].update(far=5000))),
    ("preprocessor_config.json", without(P)),
    ("do_resize", setting(P, "", do_resize=False)),
    ("do_rescale", setting(P, "", do_rescale=False)),
    ("do_normalize", setting(P, "", do_normalize=False)),
    ("do_convert_rgb", setting(P, "", do_convert_rgb=False)),
    ("resample", setting(P, "", resample=3)),
    ("longest_edge", setting(P, "", max_image_size={"longest_edge": 64})),
    ("size", setting(P, "", size={"height": 64})), ("size", setting(P, "", size=[64])),
    ("size", setting(P, "", size={"shortest_edge": 64})), ("size", setting(P, "", size=5000)),
    ("image_std", setting(P, "", image_std=[0.5, 0.5])),
    ("image_std", setting(P, "", image_std=0)),
    ("image_std", setting(P, "", image_std=[-0.5, 0.5, 0.5])), ("image_mean", setting(P, "", image_mean=2e6)),
    ("rescale_factor", setting(P, "", rescale_factor=2.0)), ("head_dim", setting(C, "text_config", head_dim=514)),
    ("max_position_embeddings", setting(C, "text_config", max_position_embeddings=2**23 + 1)),
    ("rms_norm_eps", setting(C, "text_config", rms_norm_eps=1.0)),
    ("rotary frequency", setting(C, "text_config", rope_scaling={"rope_type": "linear", "factor": 0.5})),
    ('"resample" is null', setting(P, "", resample=None)),
    ('"do_resize" is None', setting(P, "", do_resize=None)),
    ("max_image_size", setting(P, "", max_image_size=32)),
    ("image_seq_len is 5, but config.json makes 4 image tokens of a tile",
     setting("processor_config.json", "", image_seq_len=5)),
    ("processor_config.json: has no image_seq_len, then 169, but", lambda d: edit(
        d, "processor_config.json", lambda c: c.pop("image_seq_len"))),
    ("processor_config.json: does not exist, so there is no image_seq_len, then 169, but",
     without("processor_config.json")),
    ("image_mean", setting(P, "", image_mean=[0.5, "x", 0.5])),
    ("[1] is named as a token", setting("tokenizer_config.json", "", bos_token={"content": [1]})),
    ("chat template", setting("chat_template.json", "", chat_template="{% for m in messages %}{{ m }}{% endfor %}")),
    ("'<pic>'", setting("chat_template.json", "", chat_template=SMOLVLM_TEMPLATE.replace("<image>", "<pic>"))),
    ("chat_template.json", setting("chat_template.json", "", chat_template=5)),
    ("does not exist", without(W)),
    ("Git LFS", bytes_of(W, lambda data: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")),
    ("Git LFS", bytes_of(T, lambda data: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")),
    ("cut off", bytes_of(W, lambda data: data[:5])),
    ("cut off", bytes_of(W, lambda data: data[:300])),
    ("cut off", bytes_of(W, lambda data: data[:-1])),
    ("header", bytes_of(W, lambda data: data[:8] + b"x" + data[9:])),
    ("header", bytes_of(W, lambda data: b"\xff" * 8 + data[8:])),
    ("", bytes_of(W, lambda data: data.replace(b'"dtype"', b'"dtypo"'))),
    ("says otherwise", bytes_of(W, lambda data: data.replace(b'"F32"', b'"F16"', 1))),
    (NORM + " is missing", tensors(lambda w: w.pop(NORM))),
    ("lm_head.weight is missing", tensors(lambda w: w.pop("lm_head.weight"))),
    ("model.more is not part", tensors(lambda w: w.update({"model.more": torch.ones(2)}))),
    (NORM + " has the shape", tensors(lambda w: w.update({NORM: torch.ones(47)}))),
    (NORM + " is F64", tensors(lambda w: w.update({NORM: torch.ones(48, dtype=torch.float64)}))),
    ("", lambda d: os.chmod(os.path.join(d, C), 0)),
]


class Refusals(unittest.TestCase):
    def check(self, directory, expected):
        out = os.path.join(scratch("refused"), "model.bin")
        code, errors = run_export(directory, out)
        self.assertIsInstance(code, str, f"was exported, though {expected!r}")
        self.assertTrue(code.startswith("export.py: ") and "\n" not in code, code)
        self.assertTrue(all(line.startswith("export.py: note: ") for line in errors.splitlines()), errors)
        self.assertIn(expected, code)
        self.assertIn(os.path.dirname(directory), code)
        self.assertEqual(os.listdir(os.path.dirname(out)), [])
        return code

    def test_every_refusal(self):
        source = tiny()
        assert len(SMOLVLM_REFUSALS) > 70
        for i, (expected, change) in enumerate(SMOLVLM_REFUSALS):
            if os.geteuid() == 0 and i == len(SMOLVLM_REFUSALS) - 1:
                continue                                                    # root may read everything
            directory = shutil.copytree(source, os.path.join(scratch("case"), "tiny"))
            change(directory)
            with self.subTest(number=i, expected=expected):
                code = self.check(directory, expected)
                if "-v" in sys.argv:
                    print(code.replace(TEMPORARY.name, ""))

    def test_shards(self):
        source, index = tiny(shards=3), "model.safetensors.index.json"
        shard = sorted(name for name in os.listdir(source) if name.endswith(".safetensors"))[0]
        for expected, change in (
                (shard, without(shard)), ("not valid JSON", bytes_of(index, lambda data: data[:50])),
                ("outside", lambda d: edit(d, index, lambda v: v["weight_map"].update({NORM: "../x.safetensors"}))),
                ("it is not", lambda d: edit(d, index, lambda v: v["weight_map"].update({"model.x": shard}))),
                (index, lambda d: edit(d, index, lambda v: v.pop("weight_map")))):
            directory = shutil.copytree(source, os.path.join(scratch("case"), "tiny"))
            change(directory)
            with self.subTest(expected=expected):
                self.check(directory, expected)

    def test_the_program_itself(self):
        directory, folder = tiny(), scratch("out")
        out = os.path.join(folder, "model.bin")
        done = subprocess.run([sys.executable, EXPORT, directory, out], capture_output=True, text=True)
        self.assertEqual((done.returncode, done.stderr, done.stdout.count("\n")), (0, "", 1))
        before = read(out)
        os.remove(os.path.join(directory, "config.json"))
        done = subprocess.run([sys.executable, EXPORT, directory, out], capture_output=True, text=True)
        self.assertEqual((done.returncode, done.stdout, done.stderr.count("\n")), (1, "", 1))
        self.assertEqual((os.listdir(folder), read(out)), (["model.bin"], before))

    def test_where_it_cannot_write(self):
        directory = tiny()
        for out in ("/nowhere/model.bin", directory, "/dev/null", "/dev/full"):
            code, errors = run_export(directory, out)
            self.assertTrue(str(code).startswith("export.py: ") and out in code and errors == "", (out, code, errors))

    def test_interrupted_or_full(self):
        directory, folder = tiny(), scratch("out")
        rows_of = exporter.rows_of
        for failure, expected in ((KeyboardInterrupt(), "interrupted"),
                                  (OSError(28, "No space left on device"), "No space")):
            def fail(*arguments):
                raise failure
            exporter.rows_of = fail
            try:
                code, _ = run_export(directory, os.path.join(folder, "model.bin"))
            finally:
                exporter.rows_of = rows_of
            self.assertIn(expected, code)
            self.assertEqual(os.listdir(folder), [])


def exported_or_not(directory):
    """(the file's path, what was said) of an export, or (None, the sentence of the refusal)."""
    out = os.path.join(scratch("out"), "model.bin")
    code, errors = run_export(directory, out, "--format", "f32")
    return (None, code) if code else (out, errors)


def answer(path, prompt, *options, max_tokens=12):
    """smolvlm's JSON for a prompt."""
    done = subprocess.run([SMOLVLM, path, "-q", "--json", "-p", prompt, "-n", str(max_tokens), *options],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


class Generation(unittest.TestCase):
    """generation_config.json: what changes transformers' greedy answer is refused, all else is without effect there."""

    # Every key of GenerationConfig, and a value that would show; {0}, {1} ...: the tokens of the answer without it.
    VALUES = dict(
        max_time=1e-9, stop_strings=["a"], repetition_penalty=50.0, encoder_repetition_penalty=50.0, num_beams=3,
        no_repeat_ngram_size=1, encoder_no_repeat_ngram_size=1, bad_words_ids=[["{0}"]], suppress_tokens=["{0}"],
        begin_suppress_tokens=["{0}"], sequence_bias=[[["{0}"], -100.0]], min_length=9, min_new_tokens=9,
        forced_bos_token_id=5, forced_eos_token_id=7, exponential_decay_length_penalty=[0, 50.0], guidance_scale=3.0,
        watermarking_config={"bias": 20.0}, token_healing=True, num_return_sequences=2, is_assistant=True, use_mtp=True,
        penalty_alpha=0.6, dola_layers="low", constraints=[1], force_words_ids=[[5]], cache_implementation="quantized",
        early_stopping=True, use_cache=False, cache_config={"a": 1}, max_cache_len=500, temperature=0.5, top_k=3,
        top_p=0.5, min_p=0.5, top_h=0.3, typical_p=0.5, epsilon_cutoff=0.5, eta_cutoff=0.5, length_penalty=2.0,
        renormalize_logits=True, remove_invalid_values=True, output_attentions=True, output_hidden_states=True,
        output_scores=True, output_logits=True, return_dict_in_generate=True, pad_token_id=5, bos_token_id=7,
        decoder_start_token_id=5, num_assistant_tokens=3, num_assistant_tokens_schedule="constant",
        assistant_confidence_threshold=0.9, prompt_lookup_num_tokens=2, max_matching_ngram_size=2,
        assistant_early_exit=1, assistant_lookbehind=3, target_lookbehind=3, assistant_ensemble_weight=0.3,
        speculation_type="dflash", disable_compile=True, continuous_batching_config={"block_size": 32},
        low_memory=True, diversity_penalty=0.5, num_beam_groups=2, prefill_chunk_size=2, _from_model_config=True)
    # Not tried: what the command line decides, the end, and what transformers itself does not take from a file.
    OTHERS = {"max_length", "max_new_tokens", "do_sample", "eos_token_id", "compile_config", "transformers_version"}

    def setUp(self):
        warnings.simplefilter("ignore")

    @classmethod
    def setUpClass(cls):
        """A model and two prompts: one token that is said again in the answer, which ends after seven; and two."""
        cls.directory = tiny("llama", individual_digits=False)
        cls.model, _ = load(cls.directory)
        prompts = torch.arange(len(AutoTokenizer.from_pretrained(cls.directory)))[:, None]
        rows = cls.model.generate(prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=7, eos_token_id=None,
                                  pad_token_id=0).tolist()
        row = next(row for row in rows if row[0] in row[2:7] and row[7] not in row[:7] and row[1] != row[0])
        cls.prompts, cls.tokens = [row[:1], row[1:3]], row[1:]
        edit(cls.directory, "generation_config.json", lambda c: c.update(eos_token_id=row[7]))

    def generated(self, directory):
        """transformers' answers, or None where it raises."""
        try:
            self.model.generation_config = transformers.GenerationConfig.from_pretrained(directory)
            outs = [self.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=20)
                    for ids in map(torch.tensor, ([prompt] for prompt in self.prompts))]
        except (ValueError, TypeError, ImportError):
            return None
        return [(out if torch.is_tensor(out) else out.sequences)[0, len(prompt):].tolist()
                for out, prompt in zip(outs, self.prompts)]

    def value(self, key):
        """VALUES[key] with the answer's tokens put in."""
        return json.loads(re.sub(r'"\{(\d)\}"', lambda m: str(self.tokens[int(m[1])]), json.dumps(self.VALUES[key])))

    def test_every_key(self):
        plain = self.generated(self.directory)
        self.assertEqual((plain[0], len(plain[1])), (self.tokens, 20))
        self.assertEqual(set(transformers.GenerationConfig().to_dict()), self.VALUES.keys() | self.OTHERS)
        self.assertLessEqual(exporter.NEUTRAL.keys(), self.VALUES.keys())
        for key in self.VALUES:
            directory = shutil.copytree(self.directory, os.path.join(scratch("case"), "tiny"))
            edit(directory, "generation_config.json", lambda c: c.update({key: self.value(key)}))
            path, said = exported_or_not(directory)
            with self.subTest(key=key):
                if key == "repetition_penalty":                         # the one that is done
                    self.assertEqual((read_file(path).config[key], said), (self.VALUES[key], ""))
                    self.assertNotEqual(self.generated(directory), plain)
                elif path:
                    self.assertEqual((self.generated(directory), said), (plain, ""))
                else:
                    self.assertIn(f"generation_config.json: {key} is", said)
                    self.assertNotEqual(self.generated(directory), plain)
                    edit(directory, "generation_config.json", lambda c: c.update({key: exporter.NEUTRAL.get(key)}))
                    self.assertTrue(exported_or_not(directory)[0])

    def test_config_json_where_there_is_no_other(self):
        for kind, section in (("llama", ""), ("smolvlm", ""), ("smolvlm", "text_config")):
            directory = tiny(kind)
            change = setting(C, section, repetition_penalty=50.0, no_repeat_ngram_size=3)
            change(directory)
            path = exported_or_not(directory)[0]                        # generation_config.json is all that is asked
            self.assertEqual(read_file(path).config["repetition_penalty"], 1.0)
            os.remove(os.path.join(directory, "generation_config.json"))
            self.assertIn("config.json: no_repeat_ngram_size is 3", exported_or_not(directory)[1])
            setting(C, section, no_repeat_ngram_size=0)(directory)
            path = exported_or_not(directory)[0]
            self.assertEqual(read_file(path).config["repetition_penalty"], 50.0)
            self.assertEqual(load(directory)[0].generation_config.repetition_penalty, 50.0)

    def test_repetition_penalty(self):
        """Greedy answers as transformers', which penalizes the prompt's ids too; the command line's comes first."""
        for kind in ("llama", "smolvlm"):
            directory, penalty = tiny(kind), dict(repetition_penalty=1.3)
            edit(directory, "generation_config.json", lambda c: c.update(penalty, eos_token_id=None))
            path, model = exported_or_not(directory)[0], load(directory)[0]
            mine = answer(path, "What is this, is it what it is?", max_tokens=40)
            plain = answer(path, "What is this, is it what it is?", "--repetition-penalty", "1", max_tokens=40)
            ids = torch.tensor([mine["prompt_ids"]])
            for expected, settings in ((mine, penalty), (plain, dict(repetition_penalty=1.0))):
                out = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=40, pad_token_id=0,
                                     **settings)
                self.assertEqual(out[0, ids.shape[1]:].tolist(), expected["ids"])
            self.assertNotEqual(mine["ids"], plain["ids"])
        for penalty in (0, -1.0, "1.3", True, 1e6):
            edit(directory, "generation_config.json", lambda c: c.update(repetition_penalty=penalty))
            self.assertIn("but must be a number above 0", exported_or_not(directory)[1])

    def test_ends_that_are_none(self):
        """An id outside the vocabulary ends nothing; -1 is how some say that nothing does."""
        for eos, expected in ((-1, []), ([-1, 100000], []), ([self.tokens[3], -1], [self.tokens[3]]), ([], [])):
            directory = shutil.copytree(self.directory, os.path.join(scratch("case"), "tiny"))
            edit(directory, "generation_config.json", lambda c: c.update(eos_token_id=eos))
            path, said = exported_or_not(directory)
            self.assertEqual(read_file(path).config["eos_token_id"], expected)
            self.assertEqual(len(self.generated(directory)[0]), 4 if expected else 20)
            self.assertEqual(said.count("\n"), len(np.atleast_1d(eos)) - len(expected) + (not expected))

    def test_sampling_is_asked_for_on_the_command_line(self):
        directory = shutil.copytree(self.directory, os.path.join(scratch("case"), "tiny"))
        edit(directory, "generation_config.json", lambda c: c.update(do_sample=True, temperature=0.6))
        self.assertIn("asks for sampling; smolvlm takes the likeliest token, unless it is given -t 0.6 --top-p 1.0 "
                      "--top-k 50\n", exported_or_not(directory)[1])


class Windows(unittest.TestCase):
    """What in a configuration narrows attention: within the window it is plain attention, for transformers too."""

    @classmethod
    def setUpClass(cls):
        cls.directories = {kind: tiny(kind, max_position_embeddings=64) for kind in ("llama", "smolvlm", "mistral")}
        cls.plain = {kind: cls.generated(directory) for kind, directory in cls.directories.items()}

    def make(self, kind, values):
        directory = shutil.copytree(self.directories[kind], os.path.join(scratch("case"), "tiny"))
        setting(C, "text_config" if kind == "smolvlm" else "", **values)(directory)
        return directory

    @staticmethod
    def generated(directory):
        ids = torch.arange(20, 24)[None]
        return load(directory)[0].generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=30,
                                           eos_token_id=None, pad_token_id=0)[0].tolist()

    def check(self, kind, window, **values):
        directory, plain = self.make(kind, values), self.plain[kind]
        theirs, (path, said) = self.generated(directory), exported_or_not(directory)
        self.assertEqual(read_file(path).config["max_position_embeddings"], window)
        self.assertEqual(f"the sliding window, {window}" in said, window < 64)
        self.assertEqual(theirs[:window], plain[:window])
        self.assertEqual(theirs == plain, window == 64)                 # else it goes on, with another answer

    def test_windows(self):
        full, sliding = ["full_attention"], ["sliding_attention"]
        for kind in ("llama", "smolvlm"):
            for window, values in ((8, dict(sliding_window=8)), (8, dict(sliding_window=8, use_sliding_window=False)),
                                   (8, dict(sliding_window=8, layer_types=full + sliding)),
                                   (9, dict(attention_chunk_size=9)), (64, dict(sliding_window=64)),
                                   (64, dict(sliding_window=8, layer_types=2 * full)),
                                   (64, dict(use_sliding_window=True)), (64, dict(layer_types=2 * full))):
                with self.subTest(kind=kind, **values):
                    self.check(kind, window, **values)
        self.check("mistral", 8, sliding_window=8)
        self.check("mistral", 8, sliding_window=8, layer_types=full + sliding)
        self.check("mistral", 64, sliding_window=8, layer_types=2 * full)
        self.check("mistral", 8, attention_chunk_size=8, sliding_window=None)

    def test_refusals(self):
        """Each is one that transformers refuses, too, or computes otherwise."""
        for words, values in (("sliding_window", dict(layer_types=2 * ["sliding_attention"])),
                              ("linear_attention", dict(layer_types=2 * ["linear_attention"])),
                              ("has 1 entries", dict(layer_types=["full_attention"])),
                              ("is_causal", dict(is_causal=False)),
                              ("kv_sharing_modes", dict(kv_sharing_modes=2 * ["reuse"])),
                              ("is_encoder_decoder", dict(is_encoder_decoder=True))):
            for kind in ("llama", "smolvlm"):
                directory = self.make(kind, values)
                with self.subTest(kind=kind, words=words):
                    self.assertIn(words, exported_or_not(directory)[1])
                    if (kind, words) != ("smolvlm", "is_encoder_decoder"):          # there nobody looks at it
                        try:
                            theirs = self.generated(directory)
                        except (ValueError, AttributeError, StrictDataclassError):
                            continue
                        self.assertNotEqual(theirs, self.plain[kind])


class NamedTokens(unittest.TestCase):
    """Tokens that tokenizer.json does not have, but another file names: cut out of the text, with transformers' ids."""

    TEXT = "In 2024, <new>Is <x1> <x2>it <|im_start|>? a cat<|im_end|> <x1>\n\n5"
    AT = 578            # the first id that the tiny SmolVLM's tokenizer has not given

    def files(self, *named, **others):
        """[(file, content)]; named: tokenizer_config.json's changes."""
        return [("tokenizer_config.json", dict(named)), *((name + ".json", value) for name, value in others.items())]

    CASES = [
        dict(config=dict(bos_token="<new>")), dict(config=dict(foo_token="<new>", cls_token="<x1>")),
        dict(config=dict(extra_special_tokens=["<new>", "<x1>"])),
        dict(config=dict(extra_special_tokens={"foo_token": "<new>"}, bar_token="<x2>")),
        dict(config=dict(additional_special_tokens=["<new>", "<x1>"])),
        dict(config=dict(additional_special_tokens=["<new>"], extra_special_tokens=["<x1>"])),
        dict(config=dict(additional_special_tokens=["<new>"], extra_special_tokens=[])),
        dict(config=dict(additional_special_tokens=["<new>"], extra_special_tokens={"q_token": "<x1>"})),
        dict(config=dict(bos_token={"__type": "AddedToken", "content": "<new>", "normalized": False})),
        dict(config=dict(foo_token=5, bar_token={"content": "<new>"}, baz_token=None)),
        dict(config=dict(pad_token="cat")), dict(config=dict(add_bos_token=True, add_eos_token=True)),
        dict(special_tokens_map=dict(bos_token="<new>", additional_special_tokens=["<x2>", "<x1>"])),
        dict(special_tokens_map=dict(bos_token={"content": "<new>"}, q_token="<x2>", extra_special_tokens=["<x1>"])),
        dict(special_tokens_map=dict(extra_special_tokens={"q_token": "<x1>"}), config=dict(r_token="<x2>")),
        dict(special_tokens_map=dict(additional_special_tokens=["<x1>"]),
             config=dict(additional_special_tokens=["<new>"])),
        dict(special_tokens_map=dict(bos_token="<new>"), config=dict(added_tokens_decoder={})),
        dict(added_tokens={"<new>": AT + 1, "<x1>": AT}), dict(added_tokens={"<x2>": AT, "<|im_start|>": 1}),
        dict(added_tokens={"<x2>": AT}, config=dict(added_tokens_decoder={str(AT): {"content": "<new>"}})),
        dict(added_tokens={"<x1>": AT}, special_tokens_map=dict(additional_special_tokens=["<x1>", "<x2>"])),
    ]

    def make(self, vocab_size, config={}, **files):
        directory = tiny(vocab_size=vocab_size)
        edit(directory, "tokenizer_config.json", lambda c: c.update(config))
        for name, value in files.items():
            with open(os.path.join(directory, name + ".json"), "w", encoding="utf-8") as f:
                json.dump(value, f)
        return directory

    def ids(self, path):
        done = subprocess.run([SMOLVLM, path, "--tokenize"], input=self.TEXT, capture_output=True, text=True)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return [int(id) for id in done.stdout.split()]

    def test_cases(self):
        for case in self.CASES:
            directory = self.make(700, **case)
            tokenizer, (path, said) = AutoTokenizer.from_pretrained(directory), exported_or_not(directory)
            with self.subTest(**case):
                self.assertEqual(said, "")
                self.assertEqual(self.ids(path), tokenizer(self.TEXT)["input_ids"])
                self.assertEqual(len(read_file(path).tokenizer.ids), len(tokenizer))

    def test_beyond_the_vocabulary(self):
        """Such a token is as good as none: transformers fails on a text with it, and reads all others as without it."""
        directory = self.make(None, config=dict(pad_token="[PAD]"))
        path, said = exported_or_not(directory)
        self.assertIn("the token '[PAD]' is named, but would have id 578, and the vocabulary ends at 577", said)
        self.assertEqual(self.ids(path), AutoTokenizer.from_pretrained(directory)(self.TEXT)["input_ids"])

    def test_tokens_of_the_picture(self):
        """special_tokens_map.json may name these, too."""
        directory = self.make(700, special_tokens_map=dict(image_token="<image>", global_image_token="<x1>"))
        self.assertEqual(AutoTokenizer.from_pretrained(directory).global_image_token,
                         read_file(exported_or_not(directory)[0]).config["global_image_token"], "<image>")

    def test_refusals(self):
        directory = self.make(700, config=dict(split_special_tokens=True))
        self.assertIn('"split_special_tokens" is True', exported_or_not(directory)[1])
        split, whole = AutoTokenizer.from_pretrained(directory), AutoTokenizer.from_pretrained(self.make(700))
        self.assertNotEqual(split("<|im_end|>")["input_ids"], whole("<|im_end|>")["input_ids"])
        directory = self.make(700, added_tokens={"<x1>": self.AT + 3})
        self.assertIn("tokenizers gives it 578", exported_or_not(directory)[1])
        directory = self.make(700, added_tokens={"<x1>": 3})
        self.assertIn("has the id 3 of", exported_or_not(directory)[1])
        name = "clean_up_tokenization_spaces"
        directory = self.make(700, config={name: True, name + "_for_bpe_even_though_it_will_corrupt_output": True})
        self.assertIn(name, exported_or_not(directory)[1])
        tokenizer = AutoTokenizer.from_pretrained(directory)
        self.assertEqual(tokenizer.decode(tokenizer("a , b")["input_ids"]), "a, b")

    def test_classes_that_build_the_tokenizer_anew(self):
        """transformers 5.23 gives some model types the class's pre-tokenizer: without Digits, blanks go to a number."""
        text, sentence = "a  5", "for GPT2Tokenizer transformers 5.23 takes other rules than tokenizer.json's, without "
        for kind, told in (("llama", True), ("idefics3", True), ("smolvlm", False), ("mistral", False)):
            for name in ("GPT2Tokenizer", "GPT2TokenizerFast", "PreTrainedTokenizerFast", "LlamaTokenizer", None):
                directory = tiny(kind)
                edit(directory, "tokenizer_config.json", lambda c: c.update(tokenizer_class=name))
                own = transformers.PreTrainedTokenizerFast(tokenizer_file=os.path.join(directory, "tokenizer.json"))
                same = AutoTokenizer.from_pretrained(directory)(text)["input_ids"] == own(text)["input_ids"]
                path, said = exported_or_not(directory)
                with self.subTest(kind=kind, name=name):
                    self.assertEqual(same, not (told and name and name.startswith("GPT2")))
                    self.assertEqual(sentence in said, not same)
                    self.assertEqual(read_file(path).tokenizer.digits, 1)
        self.assertNotIn("GPT2", exported_or_not(tiny("llama", individual_digits=False))[1])


class Pictures(unittest.TestCase):
    """preprocessor_config.json as SmolVLMImageProcessorPil reads it."""

    def pixels(self, directory):
        """The reference's pixels of a picture, or None where it raises."""
        picture = hf.Image.fromarray((np.random.default_rng(0).random((50, 90, 3)) * 255).astype(np.uint8))
        try:
            return hf.inputs(hf.load_processor(directory), [picture], "What?")["pixel_values"].numpy()
        except (ValueError, TypeError, KeyError):
            return None

    def test_one_number_for_three_channels(self):
        for values in (dict(image_mean=0.4), dict(image_std=0.3), dict(image_mean=0, image_std=1),
                       dict(image_mean=0.25, image_std=0.75)):
            directory = tiny(longest_edge=64)
            edit(directory, P, lambda c: c.update(values))
            pixels, config = self.pixels(directory), exported(directory).config
            edit(directory, P, lambda c: c.update(image_mean=config["image_mean"], image_std=config["image_std"]))
            np.testing.assert_array_equal(self.pixels(directory), pixels)
            for key, value in values.items():
                self.assertEqual(config[key], [float(np.float32(value))] * 3)

    @unittest.skipUnless(os.path.exists(SMOLVLM), "no smolvlm: run make first")
    def test_exact_sizes(self):
        """A height and a width, or one number for both: the picture is squeezed to it, then cut."""
        picture = os.path.join(HERE, "golden", "model", "b.ppm")
        for size in (64, [48, 65], {"height": 33, "width": 47}, {"height": 100, "width": 20}, [32, 32]):
            directory = tiny()
            edit(directory, P, lambda c: c.update(size=size))
            path, processor = exported_or_not(directory)[0], hf.load_processor(directory)
            for options, changes in (([], {}), (["--no-split"], dict(do_image_splitting=False)),
                                     (["--longest-edge", "96"], dict(size={"longest_edge": 96}))):
                inputs = hf.inputs(processor, [hf.open_picture(picture)], "What?", **changes)
                folder = scratch("tiles")
                ours = answer(path, "What?", "-i", picture, "--tiles", folder, *options, max_tokens=0)
                with self.subTest(size=size, options=options):
                    self.assertEqual(ours["prompt_ids"], inputs["input_ids"][0].tolist())
                    want = np.round((inputs["pixel_values"][0].numpy() * 0.5 + 0.5) * 255).astype(np.uint8)
                    names = sorted((name for name in os.listdir(folder) if re.search("global|row", name)),
                                   key=lambda name: [int(n) for n in re.findall(r"\d+", name)[1:]] or [99])
                    self.assertEqual(len(names), len(want))
                    for name, tile in zip(names, want):
                        got = np.asarray(hf.Image.open(os.path.join(folder, name))).transpose(2, 0, 1)
                        np.testing.assert_array_equal(got, tile)
            info = subprocess.run([SMOLVLM, path, "--info"], capture_output=True, text=True).stdout
            self.assertEqual("pictures become 65 x 48" in info, size == [48, 65])

    def test_null_is_no_default(self):
        plain = self.pixels(tiny())
        for key in ("do_resize", "do_rescale", "do_normalize", "size", "resample", "max_image_size", "image_mean",
                    "image_std", "rescale_factor"):
            directory = tiny()
            edit(directory, P, lambda c: c.update({key: None}))
            self.assertIn(key, exported_or_not(directory)[1])
            theirs = self.pixels(directory)
            self.assertFalse(theirs is not None and theirs.shape == plain.shape and np.array_equal(theirs, plain), key)
        directory = tiny()
        edit(directory, P, lambda c: c.update(do_image_splitting=None))
        self.assertEqual((exported(directory).config["do_image_splitting"], self.pixels(directory).shape[1]), (0, 1))

    def test_image_seq_len(self):
        """169 where no file says otherwise, as the sentence of the refusal has it."""
        self.assertEqual(inspect.signature(hf.SmolVLMProcessor.__init__).parameters["image_seq_len"].default, 169)
        self.assertEqual(inspect.signature(hf.Idefics3Processor.__init__).parameters["image_seq_len"].default, 169)
        directory = tiny(image_size=208, patch_size=8, scale_factor=2)          # 13 x 13
        os.remove(os.path.join(directory, "processor_config.json"))
        exported(directory)


class Video(unittest.TestCase):
    """The video processor's settings, from where AutoVideoProcessor takes them (video_processing_utils.py)."""
    SAMPLING = dict(fps=2, max_frames=30, video_size={"longest_edge": 40})

    def fields(self, directory, **expected):
        config = exported(directory).config
        self.assertEqual({key: config[key] for key in ("video_num_frames", "video_fps", "video_longest_edge")},
                         dict(dict(video_num_frames=0, video_fps=0, video_longest_edge=0), **expected))

    def test_without_settings_there_is_no_video(self):
        self.fields(tiny())
        self.fields(tiny("idefics3"))
        directory = tiny("idefics3")                            # which has no video processor
        edit(directory, P, lambda c: c.update(video_sampling=self.SAMPLING))
        self.fields(directory)

    def test_size_wins_over_video_size(self):
        directory = tiny(longest_edge=64)
        edit(directory, P, lambda c: c.update(video_sampling=self.SAMPLING))
        self.fields(directory, video_num_frames=30, video_fps=2, video_longest_edge=64)
        edit(directory, P, lambda c: c.update(size={"longest_edge": 50000}))        # MAX_IMAGE_SIZE
        self.fields(directory, video_num_frames=30, video_fps=2, video_longest_edge=4096)
        edit(directory, P, lambda c: c.pop("size"))
        self.fields(directory, video_num_frames=30, video_fps=2, video_longest_edge=40)

    def test_the_first_file_that_has_them(self):
        directory = tiny(longest_edge=64)
        images = json.loads(read(os.path.join(directory, P)))
        edit(directory, P, lambda c: c.update(video_sampling=self.SAMPLING))
        sampling = dict(fps=0.5, max_frames=9, video_size={"longest_edge": 90})
        video = {key: value for key, value in dict(images, video_sampling=sampling).items() if key != "size"}
        with open(os.path.join(directory, "video_preprocessor_config.json"), "w", encoding="utf-8") as f:
            json.dump(video, f)
        self.fields(directory, video_num_frames=9, video_fps=0.5, video_longest_edge=90)
        saved = dict(images, fps=3, num_frames=7, size={"longest_edge": 70})        # as 5.x saves it
        edit(directory, "processor_config.json", lambda c: c.update(video_processor=saved))
        self.fields(directory, video_num_frames=7, video_fps=3, video_longest_edge=70)

    def test_frames_that_would_differ(self):
        changes = [(key, dict({key: False})) for key in ("do_convert_rgb", "do_resize", "do_rescale", "do_normalize")]
        changes += [("resample", dict(resample=3)), ("image_mean", dict(image_mean=[0.4, 0.5, 0.5])),
                    ("image_std", dict(image_std=0.4)), ("rescale_factor", dict(rescale_factor=0.5)),
                    ("max_image_size", dict(max_image_size={"longest_edge": 31})),
                    ("size", dict(size={"height": 32, "width": 32})), ("fps", dict(video_sampling=dict(max_frames=3))),
                    ("fps", dict(video_sampling=dict(max_frames=3, fps=0))),
                    ("max_frames", dict(video_sampling=dict(max_frames=0, fps=1))),
                    ("video_sampling", dict(video_sampling=dict(max_frames=1 << 21, fps=1))),
                    ("video_sampling", dict(video_sampling=[1]))]
        for name, change in changes:
            directory = tiny()
            video = dict(json.loads(read(os.path.join(directory, P))), video_sampling=self.SAMPLING)
            with open(os.path.join(directory, "video_preprocessor_config.json"), "w", encoding="utf-8") as f:
                json.dump(dict(video, **change), f)
            out = os.path.join(scratch("out"), "model.bin")
            code, errors = run_export(directory, out)
            with self.subTest(change=change):
                self.assertIsNone(code)
                self.assertIn(name, errors)
                self.assertIn("takes no video", errors)
                self.assertEqual(read_file(out).config["video_num_frames"], 0)


class Base(unittest.TestCase):
    """Without a chat template: the pictures, then the text, without roles, as processor("<image>text", picture)."""

    @unittest.skipUnless(os.path.exists(SMOLVLM), "no smolvlm: run make first")
    def test_pictures_then_text(self):
        paths = [os.path.join(HERE, "golden", "model", name) for name in ("a.png", "b.ppm")]
        for kind in ("smolvlm", "idefics3"):
            directory = tiny(kind, chat_template=None)
            path, said = exported_or_not(directory)
            self.assertIn("no chat template: the model completes text, after the pictures\n", said)
            processor, model = hf.load_processor(directory), hf.load_model(directory)
            self.assertIsNone(processor.chat_template)
            for pictures in ([], paths[:1], paths):
                prompt = "A picture of a small"
                ours = answer(path, prompt, *(word for picture in pictures for word in ("-i", picture)))
                inputs = processor(text="<image>" * len(pictures) + prompt, return_tensors="pt",
                                   images=[[hf.open_picture(picture) for picture in pictures]] if pictures else None)
                self.assertEqual(ours["prompt_ids"], inputs["input_ids"][0].tolist())
                out = model.generate(**inputs, max_new_tokens=12)[0, inputs["input_ids"].shape[1]:].tolist()
                ends = np.atleast_1d(model.generation_config.eos_token_id)
                self.assertEqual(ours["ids"], out[:-1] if out[-1] in ends else out)


class Adapters(unittest.TestCase):
    """Weights that are not the model's own, or have a wrapper's names."""

    def renamed(self, directory, rename):
        tensors(lambda w: [w.update({rename(name): w.pop(name)}) for name in list(w)])(directory)

    def test_adapters(self):
        adapter = dict(peft_type="LORA", base_model_name_or_path="HuggingFaceTB/SmolVLM2-500M-Video-Instruct")
        for files, words in ((["config.json", "model.safetensors"], "the directory holds only an adapter to Hugging"),
                             ([], "beside the weights lies an adapter to HuggingFaceTB/SmolVLM2-500M-Video-Instruct")):
            directory = tiny()
            with open(os.path.join(directory, "adapter_config.json"), "w", encoding="utf-8") as f:
                json.dump(adapter, f)
            for name in files:
                os.remove(os.path.join(directory, name))
            said = exported_or_not(directory)[1]
            self.assertIn("adapter_config.json: " + words, said)
            self.assertIn("merge_and_unload", said)

    def test_not_merged(self):
        name = "model.text_model.layers.0.self_attn.q_proj."
        for changes in ({name + "lora_A.weight": torch.ones(2, 48)},
                        {"base_model.model." + name + "base_layer.weight": torch.ones(48, 48)}):
            directory = tiny()
            tensors(lambda w: w.update(changes))(directory)
            self.assertIn(f"the tensor {next(iter(changes))} belongs to an adapter: ", exported_or_not(directory)[1])

    def test_wrappers(self):
        """The names of torch.compile, DistributedDataParallel, FSDP, PEFT; transformers would take random numbers."""
        plain = tiny(tie_word_embeddings=False)
        whole = exported(plain, "--format", "f32").data
        for rename in (lambda name: "_orig_mod." + name, lambda name: "module." + name,
                       lambda name: "module._orig_mod." + name, lambda name: "base_model.model." + name,
                       lambda name: name.replace("text_model.layers.1", "text_model._orig_mod.layers.1"),
                       lambda name: "_fsdp_wrapped_module." + name.replace("layers.0.", "layers.0._orig_mod.")):
            directory = shutil.copytree(plain, os.path.join(scratch("case"), "tiny"))
            self.renamed(directory, rename)
            path, said = exported_or_not(directory)
            self.assertEqual(read(path), whole)
            self.assertIn("the tensors have a wrapper's names, such as ", said)
            self.assertTrue(load(directory)[1]["missing_keys"])
        directory = tiny()
        tensors(lambda w: w.update({"_orig_mod." + NORM: w[NORM].clone()}))(directory)
        self.assertIn("differ in nothing but a wrapper's name", exported_or_not(directory)[1])
        directory = tiny()
        tensors(lambda w: w.update({"module." + NORM: w.pop(NORM)}))(directory)
        self.assertIn(f"the tensor {NORM} is missing", exported_or_not(directory)[1])


class Hub(http.server.ThreadingHTTPServer):
    """A Hugging Face hub of the directories in `models`: {"owner/model": directory}. asked: the paths that were; gated:
    the names of models that nobody may fetch."""

    COMMIT = "0123456789abcdef0123456789abcdef01234567"
    daemon_threads = True

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def answer(self, status, body=b"", **headers):
            self.send_response(status)
            for name, value in dict(headers, Content_Length=len(body)).items():
                self.send_header(name.replace("_", "-"), value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def do_GET(self):
            words = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path).strip("/").split("/")
            self.server.asked.append(f"{self.command} {'/'.join(words)}")
            api = words[:2] == ["api", "models"]
            name = "/".join(words[2:4] if api else words[:2])
            words = words[4:] if api else words[2:]
            directory = self.server.models.get(name)
            if directory is None:
                return self.answer(401, X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
            files = {file: read(os.path.join(directory, file)) for file in sorted(os.listdir(directory))}
            if api and words[0] == "revision":
                return self.answer(200, json.dumps(dict(
                    id=name, modelId=name, sha=Hub.COMMIT, siblings=[dict(rfilename=file) for file in files])).encode())
            if api and words[0] == "tree":
                return self.answer(200, json.dumps([dict(
                    type="file", path=file, size=len(data), oid=hashlib.sha1(data).hexdigest())
                    for file, data in files.items()]).encode())
            if name in self.server.gated:
                return self.answer(403, X_Error_Code="GatedRepo", X_Error_Message="Access to model is restricted")
            data = files.get("/".join(words[2:]))
            if words[0] != "resolve" or data is None:
                return self.answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=Hub.COMMIT)
            self.answer(200, data, ETag=f'"{hashlib.sha1(data).hexdigest()}"', X_Repo_Commit=Hub.COMMIT)

        do_HEAD = do_GET

    def __init__(self, models):
        super().__init__(("127.0.0.1", 0), Hub.Handler)
        self.models, self.asked, self.gated = models, [], set()
        threading.Thread(target=self.serve_forever, daemon=True).start()


class FromTheHub(unittest.TestCase):
    """export.py owner/model OUT.bin, from a hub of our own under HF_ENDPOINT."""

    @classmethod
    def setUpClass(cls):
        cls.models = {"lab/tiny-VLM": tiny(dtype="bfloat16"), "lab/shards": tiny("llama", shards=3)}
        for name in ("model.onnx", "pytorch_model.bin", "README.md", "consolidated.safetensors"):
            with open(os.path.join(cls.models["lab/tiny-VLM"], name), "w", encoding="utf-8") as f:
                f.write("not to be fetched")

    def setUp(self):
        self.hub, self.folder = Hub(self.models), scratch("hub")
        self.addCleanup(self.hub.server_close)
        self.addCleanup(self.hub.shutdown)

    def run_export(self, name, **environment):
        """(exit code, stdout, the lines of stderr without progress bars, the file or None), in an empty folder."""
        variables = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGINGFACE_"))}
        variables.update(HF_ENDPOINT=f"http://127.0.0.1:{self.hub.server_address[1]}",
                         HF_HOME=os.path.join(self.folder, "home"), **environment)
        done = subprocess.run([sys.executable, EXPORT, name, "model.bin"], cwd=self.folder, env=variables,
                              capture_output=True, text=True)
        out = os.path.join(self.folder, "model.bin")
        lines = [line for line in re.split(r"[\r\n]", done.stderr) if line and "Fetching" not in line]
        return done.returncode, done.stdout, lines, read_file(out) if os.path.exists(out) else None

    def test_one_file(self):
        code, _, lines, file = self.run_export("lab/tiny-VLM")
        self.assertEqual((code, lines), (0, []))
        own = exported(self.models["lab/tiny-VLM"])
        self.assertEqual((file.config["name"], own.config["name"]), ("tiny-VLM", "tiny"))
        self.assertEqual(file.config, dict(own.config, name="tiny-VLM"))
        for name, data in own.tensors.items():
            np.testing.assert_array_equal(file.tensors[name], data)
        fetched = {path.split("/")[-1] for path in self.hub.asked if path.startswith("GET lab/tiny-VLM/resolve/")}
        self.assertEqual(fetched, {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
                                   "preprocessor_config.json", "processor_config.json", "chat_template.json",
                                   "model.safetensors"})
        self.hub.asked.clear()
        os.remove(os.path.join(self.folder, "model.bin"))
        self.assertEqual(self.run_export("lab/tiny-VLM")[0], 0)                 # from the cache
        self.assertFalse([path for path in self.hub.asked if "resolve" in path])
        for environment in ({}, {"HF_HUB_OFFLINE": "1"}):                       # and without a network
            self.hub.shutdown()
            self.hub.socket.close()
            os.remove(os.path.join(self.folder, "model.bin"))
            self.assertEqual(self.run_export("lab/tiny-VLM", **environment)[3].config, file.config)

    def test_names(self):
        """What --info calls a model: its directory, the name on the hub also in the hub's cache, or --name."""
        commit = os.path.join(scratch("cache"), "models--lab--tiny-VLM", "snapshots", "0123456789" * 4)
        shutil.copytree(self.models["lab/tiny-VLM"], commit)
        for directory, options, name in ((self.models["lab/tiny-VLM"], (), "tiny"), (commit, (), "tiny-VLM"),
                                         (commit, ("--name", "Ünser Modell"), "Ünser Modell")):
            self.assertEqual(exported(directory, *options).config["name"], name)

    def test_shards(self):
        code, _, lines, file = self.run_export("lab/shards")
        self.assertEqual(code, 0, lines)
        own = exported(self.models["lab/shards"])
        for name, data in own.tensors.items():
            np.testing.assert_array_equal(file.tensors[name], data)

    def test_what_is_not_there(self):
        where = f"is no directory here, and on http://127.0.0.1:{self.hub.server_address[1]}"
        self.assertEqual(self.run_export("lab/none"), (1, "", [
            f"export.py: lab/none: {where} there is no such model (a private one takes `hf auth login`)"], None))
        self.assertEqual(self.hub.asked[-1], "GET api/models/lab/none/revision/main")
        self.hub.gated.add("lab/shards")
        self.assertEqual(self.run_export("lab/shards"), (1, "", [
            f"export.py: lab/shards: {where} its owner lets only those fetch it who asked: do so there, then "
            "`hf auth login`"], None))
        code, _, lines, _ = self.run_export("lab/no..ne")
        self.assertEqual((code, len(lines)), (1, 1))
        self.assertIn(f"export.py: lab/no..ne: {where} it could not be fetched (HFValidationError: ", lines[0])
        asked = len(self.hub.asked)
        for name in ("none", "/lab/none", "a/b/c", "./none", "../none", "lab/", ".hidden/none"):     # no names there
            code, _, lines, _ = self.run_export(name)
            self.assertEqual((code, lines), (1, [f"export.py: {os.path.join(name, 'config.json')}: "
                                                 "No such file or directory"]))
        self.assertEqual(len(self.hub.asked), asked)
        self.hub.shutdown()
        self.hub.socket.close()
        for environment in ({}, {"HF_HUB_OFFLINE": "1"}):
            self.assertEqual(self.run_export("lab/tiny-VLM", **environment), (1, "", [
                f"export.py: lab/tiny-VLM: {where} nothing could be fetched: no answer from there, and no copy in the "
                "cache"], None))

    def test_a_directory_comes_first(self):
        shutil.copytree(self.models["lab/shards"], os.path.join(self.folder, "lab", "tiny-VLM"))
        code, _, _, file = self.run_export("lab/tiny-VLM")
        self.assertEqual((code, self.hub.asked, file.config["image_size"]), (0, [], 0))

    def test_packages_that_are_missing(self):
        """One sentence says what to install."""
        for package, name, words in (
                ("numpy", "x", "the Python package numpy is not installed: pip install numpy tqdm"),
                ("tqdm", "x", "the Python package tqdm is not installed: pip install numpy tqdm"),
                ("huggingface_hub", "lab/shards", "lab/shards: is no directory here; to have a model of that name "
                                                  "fetched from the Hugging Face hub: pip install huggingface_hub")):
            folder = scratch("packages")
            with open(os.path.join(folder, package + ".py"), "w", encoding="utf-8") as f:
                f.write(f'raise ModuleNotFoundError("No module named {package}", name="{package}")')
            self.assertEqual(self.run_export(name, PYTHONPATH=folder), (1, "", ["export.py: " + words], None))
        self.assertEqual(self.run_export(self.models["lab/shards"], PYTHONPATH=folder)[0], 0)   # no hub, no need of it


if __name__ == "__main__":
    unittest.main()
