#!/usr/bin/env python3
"""export.py: a Hugging Face checkpoint directory -> the one flat file that smolvlm reads.

    DIR/config.json, generation_config.json ──────────── read_config ────┐
    DIR/preprocessor_config.json, processor_config.json ─ read_images ───┤ SV_CONFIG's fields
        and video_preprocessor_config.json ────────────── read_video ────┤
    DIR/chat_template.json | .jinja ───────────────────── read_chat ─────┘        │
    DIR/tokenizer.json, tokenizer_config.json ─────────── tokenizer_blob ──┐      │
    DIR/model.safetensors | shards and their index ────── find_tensors ─┐  │      │
                                                                        │  │      │
    OUT.bin      0  prologue: magic, version, checksums, sizes          │  │      │
                40  config <────────────────────────────────────────────┼──┼──────┘
                    tensor table: name, format, rows, cols, offset, size│  │
                    tokenizer <─────────────────────────────────────────┼──┘
       data_offset  weights, one tensor after the other, 64-aligned <───┘

The layout is defined in one place, model.h: in its comment "the checkpoint file" and its lists SV_CONFIG and
SV_..._TENSORS. This program reads them from that header. It interprets a directory as transformers 5.23 does; each
function names the module that it follows. If smolvlm could not run a model exactly as transformers would, the model is
refused with one sentence, and nothing is written.
"""
import argparse
import collections
import concurrent.futures
import contextlib
import datetime
import functools
import itertools
import json
import os
import random
import re
import struct
import subprocess
import sys
import tempfile
import types
import zlib

# --calibrate uses threads of its own. numpy's BLAS must use one: with more, their number would change the order of its
# sums, and so the file's bytes.
for library in ("OPENBLAS", "MKL", "VECLIB", "BLIS"):
    os.environ.setdefault(f"{library}_NUM_THREADS", "1")
try:
    import numpy as np
    from tqdm import tqdm
except ModuleNotFoundError as missing:
    if __name__ != "__main__":
        raise
    sys.exit(f"export.py: the Python package {missing.name} is not installed: pip install numpy tqdm")

HEADER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "model.h")
CHUNK = 1 << 20             # numbers converted at a time: 4 MiB of f32
WORKERS = os.cpu_count() or 1
NO_ID = 0xFFFFFFFF


class Refused(Exception):
    """The directory cannot be exported; the text is the sentence that the user reads."""


MISFITS = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, struct.error)


@contextlib.contextmanager
def naming(path):
    """Names the file in any refusal inside. Also refuses a file whose structure is not the expected one."""
    try:
        yield
    except Refused as refusal:
        raise Refused(f"{path}: {refusal}") from None
    except MISFITS as error:
        raise Refused(f"{path}: is not laid out as expected ({type(error).__name__}: {error})") from None


def note(text):
    print(f"export.py: note: {text}", file=sys.stderr)


POINTER = "is only Git LFS's pointer to the file: `git lfs pull` fetches it"


def is_pointer(data):
    return data.startswith(b"version https://git-lfs.github.com/spec/")


def read_json(directory, name, default=None):
    """The JSON object in DIR/name. Without such a file: default, or Refused if default is None."""
    path = os.path.join(directory, name)
    if default is not None and not os.path.exists(path):
        return default
    try:
        with open(path, "rb") as f:
            data = f.read()
        value = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise Refused(f"{path}: {POINTER if is_pointer(data) else f'is not valid JSON ({error})'}") from None
    if not isinstance(value, dict):
        raise Refused(f"{path}: is not a JSON object")
    return value


# ------------------------------------------------------------------------------------------------ the layout, model.h

def read_layout():
    """model.h's lists: config [(type, field)], tensors {list: [(field, kind, name, rows, cols)]}; and the enums
    formats, added_flags and chat_flags, each {name: number}."""
    with open(HEADER, encoding="utf-8") as f:
        header = f.read()
    for name, text in re.findall(r'#define (SV_\w+_LAYER) "(.*)"', header):
        header = header.replace(f'{name} "', f'"{text}')
    bodies = dict(re.findall(r"#define (SV_CONFIG|SV_\w+_TENSORS)\([^)]*\)((?:.*\\\n)+.*)", header))
    enums = re.findall(r"\benum \{([^}]*)\}", header)

    def enum(first):
        """The numbers of the enum that begins with SV_first."""
        body = next(body for body in enums if body.split()[0] == "SV_" + first)
        return {name.lower(): int(number) for name, number in re.findall(r"\bSV_(\w+) = (\d+)", body)}

    entry = re.compile(r'\bT\((\w+),\s*([VM]),\s*"([^"]+)",[\s\\]*(.+),\s*(.+?)\)\s*\\?$', re.M)
    return types.SimpleNamespace(
        magic=re.search(r'#define SV_FILE_MAGIC\s+"(.*)"', header)[1].encode().decode("unicode_escape").encode(),
        version=int(re.search(r"#define SV_FILE_VERSION\s+(\d+)", header)[1]),
        formats=enum("F32"), added_flags=enum("NORMALIZED"), chat_flags=enum("CHAT_SYSTEM"),
        q4_values=[int(value) for value in re.search(r"#define SV_Q4_VALUES \{(.*)\}", header)[1].split(",")],
        config=re.findall(r"\b(U32|F32|F64|F3|IDS|STR)\((\w+)\)", bodies.pop("SV_CONFIG")),
        tensors={name: entry.findall(body) for name, body in bodies.items()})


def list_tensors(layout, fields):
    """The file's tensors in order: [(field, kind, name, rows, cols)]. Sizes are computed as C would."""
    value = lambda expression: eval(expression.replace("/", "//"), dict(fields))
    vision = fields["vision_num_hidden_layers"]
    parts = [("SV_VISION_TENSORS", min(vision, 1)), ("SV_VISION_LAYER_TENSORS", vision), ("SV_TEXT_TENSORS", 1),
             ("SV_TEXT_LAYER_TENSORS", fields["num_hidden_layers"]),
             ("SV_UNTIED_TENSORS", 1 - fields["tie_word_embeddings"])]
    return [(field, kind, name.replace("%d", str(layer)), value(rows), value(cols)) for part, layers in parts
            for layer in range(layers) for field, kind, name, rows, cols in layout.tensors[part]]


EMPTY = {"U32": 0, "F32": 0, "F64": 0, "F3": (0, 0, 0), "IDS": (), "STR": ""}       # what a text-only model lacks


def pack_string(text):
    data = text if isinstance(text, bytes) else text.encode("utf-8")
    return struct.pack("<I", len(data)) + data


# The largest values that smolvlm accepts (check_config in model.c). No model of the family comes near them.
LIMITS = dict(hidden_size=65536, intermediate_size=262144, num_hidden_layers=1024, num_attention_heads=1024,
              head_dim=512, vocab_size=2**22, max_position_embeddings=2**23, image_size=4096, vision_hidden_size=65536,
              vision_intermediate_size=262144, vision_num_hidden_layers=1024, vision_num_attention_heads=1024,
              scale_factor=64)


def check_limits(fields):
    """Refuses fields of SV_CONFIG with which smolvlm would refuse the file."""
    def demand_range(key, fits, what):
        if not fits:
            raise Refused(f"{key} is {fields[key]!r}, but smolvlm takes {what}")
    for key, most in LIMITS.items():
        demand_range(key, fields[key] <= most, f"at most {most}")
    demand_range("rms_norm_eps", 0 <= fields["rms_norm_eps"] < 1, "0 to 1")
    if fields["vision_num_hidden_layers"]:
        demand_range("layer_norm_eps", 0 <= fields["layer_norm_eps"] < 1, "0 to 1")
        demand_range("rescale_factor", 0 < fields["rescale_factor"] <= 1, "more than 0, up to 1")
        demand_range("image_mean", max(map(abs, fields["image_mean"])) < 1e6, "less than 1e6")
        demand_range("image_std", min(fields["image_std"]) > 1e-6 and max(fields["image_std"]) < 1e6, "1e-6 to 1e6")


def pack_config(layout, fields):
    """SV_CONFIG's fields as bytes."""
    pack = {"U32": lambda v: struct.pack("<I", v), "F32": lambda v: struct.pack("<f", v),
            "F64": lambda v: struct.pack("<d", v), "F3": lambda v: struct.pack("<3f", *v),
            "IDS": lambda v: struct.pack(f"<I{len(v)}I", len(v), *v), "STR": pack_string}
    return b"".join(pack[kind](fields[field]) for kind, field in layout.config)


# ------------------------------------------------------------------------------------------------ config.json

MODELS = {"smolvlm": "SmolVLMForConditionalGeneration", "idefics3": "Idefics3ForConditionalGeneration",
          "llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM"}
VISION_DEFAULTS = dict(hidden_size=1152, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=16,
                       image_size=224, patch_size=32)                           # SmolVLM- and Idefics3VisionConfig
TEXT_DEFAULTS = {
    "llama": dict(vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32,
                  num_attention_heads=32, max_position_embeddings=2048),
    "mistral": dict(vocab_size=32000, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32,
                    num_attention_heads=32, max_position_embeddings=131072)}


def whole(section, key, default, low=1):
    """The whole number section[key] of config.json, low .. 2^31 - 1; default if it is absent or null."""
    value = section.get(key)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value < 2**31:
        raise Refused(f'"{key}" is {value!r}, but must be a whole number of at least {low}')
    return value


def real(section, key, default):
    """The positive number section[key] of config.json; default if it is absent or null."""
    value = section.get(key)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 3e38:
        raise Refused(f'"{key}" is {value!r}, but must be a positive number')
    return value


def demand(section, key, default, *accepted):
    """Refuses a setting (default if absent or null) with a value that smolvlm does not implement."""
    value = default if section.get(key) is None else section[key]
    if value not in accepted:
        raise Refused(f'"{key}" is {value!r}, but only {" or ".join(map(repr, accepted))} is supported')


def read_config(config):
    """The fields of SV_CONFIG that describe the graph (SmolVLMConfig, Idefics3Config, LlamaConfig, MistralConfig).

    Returns (model_type, fields, the inv_freq tensor)."""
    model = config.get("model_type")
    architectures = config.get("architectures") or [MODELS.get(model)]
    if model not in MODELS or architectures[0] != MODELS[model]:
        raise Refused(f"the model is {architectures[0] or model}, but only {', '.join(MODELS.values())} are supported")
    text, vision = config, None
    if model in ("smolvlm", "idefics3"):
        text = config["text_config"] if config.get("text_config") is not None else {"rms_norm_eps": 1e-5}
        vision = config["vision_config"] if config.get("vision_config") is not None else {}
        if not (isinstance(text, dict) and isinstance(vision, dict)):
            raise Refused("text_config or vision_config is not a JSON object")
    for section in (config, text):
        for key in ("quantization_config", "per_layer_config", "kv_sharing_modes"):
            if section.get(key):
                raise Refused(f'"{key}" is set, and such models are not supported')
        demand(section, "is_causal", True, True)
        demand(section, "is_encoder_decoder", False, False)
    fields = read_text(text) if vision is None else {**read_vision(config, vision), **read_text(text)}
    fields["tie_word_embeddings"] = int(bool(config.get("tie_word_embeddings")))
    return model, fields, inv_freq(read_rope(text, fields), fields["head_dim"])


def read_vision(config, vision):
    """The vision tower's and the connector's fields."""
    demand(vision, "hidden_act", "gelu_pytorch_tanh", "gelu_pytorch_tanh")
    demand(vision, "num_channels", 3, 3)
    v = {key: whole(vision, key, default) for key, default in VISION_DEFAULTS.items()}
    scale = whole(config, "scale_factor", 2)
    if v["hidden_size"] % v["num_attention_heads"]:
        raise Refused(f"the vision hidden_size {v['hidden_size']} is not a multiple of its num_attention_heads "
                      f"{v['num_attention_heads']}")
    side = v["image_size"] // v["patch_size"]       # the convolution drops what is left over: 384 / 14 is 27
    if side == 0 or side % scale:
        raise Refused(f"the {side} patches a side (image_size {v['image_size']}, patch_size {v['patch_size']}) are "
                      f"not a multiple of scale_factor {scale}")
    return dict(image_size=v["image_size"], patch_size=v["patch_size"], scale_factor=scale,
                layer_norm_eps=real(vision, "layer_norm_eps", 1e-6),
                **{"vision_" + key: v[key] for key in v if key not in ("image_size", "patch_size")})


def position_ids(side):
    """[side] whole numbers: the row (or column) of the position table that patch 0, 1, ... of a side reads.

    SmolVLMVisionEmbeddings compares i * (1 / side) with the boundaries 1 / side, 2 / side, ..., all in float32 whatever
    the model's dtype. Rounding can put a fraction on the wrong side of its boundary. It does so for 19, 25, 29, 31, 38,
    40, ... patches a side, and then patch i does not read row i. The boundaries are torch.arange's on x86-64. It
    computes them in pairs of vectors of 8: the first number of a vector is rounded to float32, and the others are that
    one plus multiples of the step. What is left over is computed one by one."""
    f32, step = np.float32, 1 / side
    i = np.arange(int(np.ceil((1 - step) / step)))
    first = (step + step * (i // 8 * 8)).astype(f32).astype(np.float64)
    boundaries = np.where(i < len(i) // 16 * 16, first + step * (i % 8), step + step * i).astype(f32)
    fractions = np.minimum(np.arange(side, dtype=f32) * (f32(1) / f32(side)), f32(1 - 1e-6))
    return np.searchsorted(boundaries, fractions, side="right")


def by_patch(table, side):
    """The position table [side * side, width], reordered: row i is the one that patch i reads."""
    ids = position_ids(side)
    return table[(ids[:, None] * side + ids).ravel()]


def read_text(text):
    """The language model's fields."""
    model = text.get("model_type", "llama")
    if model not in TEXT_DEFAULTS:
        raise Refused(f"the text model is {model!r}, but only {' or '.join(map(repr, TEXT_DEFAULTS))} is supported")
    demand(text, "hidden_act", "silu", "silu", "swish")
    for key in ("attention_bias", "mlp_bias") if model == "llama" else ():
        demand(text, key, False, False)
    t = {key: whole(text, key, default) for key, default in TEXT_DEFAULTS[model].items()}
    heads = t["num_attention_heads"]
    t["num_key_value_heads"] = whole(text, "num_key_value_heads",
                                     8 if model == "mistral" and "num_key_value_heads" not in text else heads)
    if t["hidden_size"] % heads or heads % t["num_key_value_heads"]:
        raise Refused(f"hidden_size {t['hidden_size']}, num_attention_heads {heads} and num_key_value_heads "
                      f"{t['num_key_value_heads']} do not divide one another")
    t["head_dim"] = whole(text, "head_dim", t["hidden_size"] // heads)
    if t["head_dim"] % 2:
        raise Refused(f"head_dim {t['head_dim']} is odd, which rotary positions rule out")
    t["rms_norm_eps"] = real(text, "rms_norm_eps", 1e-6)
    window = attention_window(text, model, t["num_hidden_layers"])
    if window < t["max_position_embeddings"]:
        note(f"max_position_embeddings is cut from {t['max_position_embeddings']} to the sliding window, {window}")
        t["max_position_embeddings"] = window
    return t


def attention_window(text, model, layers):
    """The smallest window of any layer, in positions. In a context no longer than that, attention is plain attention.

    Not only Mistral has a window. DynamicCache reads one from any model's configuration, ignoring "use_sliding_window",
    and forgets older positions while it decodes (cache_utils.get_layer_types_and_kwargs)."""
    window = text.get("sliding_window", 4096 if model == "mistral" else None)
    chunk, types = text.get("attention_chunk_size"), text.get("layer_types")
    if types is None:
        types = ["sliding_attention" if window is not None else "chunked_attention" if chunk is not None else
                 "full_attention"] * layers
    if len(types) != layers:
        raise Refused(f'"layer_types" has {len(types)} entries, but the model has {layers} layers')
    keys = dict(full_attention=None, sliding_attention="sliding_window", chunked_attention="attention_chunk_size")
    if set(types) - keys.keys():
        raise Refused(f'"layer_types" has {min(set(types) - keys.keys())!r}, but only {", ".join(keys)} are supported')
    values = {"sliding_window": window, "attention_chunk_size": chunk}
    return min((whole(values, keys[kind], None) for kind in set(types) if keys[kind]), default=2**31)


def read_rope(text, fields):
    """The rotary settings as one dict, from config.json's old or new keys, as RotaryEmbeddingConfigMixin reads them."""
    rope = dict(text.get("rope_scaling") or text.get("rope_parameters") or {})
    rope["rope_theta"] = real(rope, "rope_theta", real(text, "rope_theta", 10000.0))
    rope["rope_type"] = rope.get("rope_type", rope.get("type", "default"))
    demand(rope, "rope_type", "default", "default", "linear", "llama3")
    demand({**text, **rope}, "partial_rotary_factor", 1, 1)
    rope["original_max_position_embeddings"] = text.get("original_max_position_embeddings") or rope.get(
        "original_max_position_embeddings") or whole(text, "max_position_embeddings", fields["max_position_embeddings"])
    fields["rope_theta"] = rope["rope_theta"]
    return rope


def inv_freq(rope, head_dim):
    """[1, head_dim / 2] f32: the rotary frequencies (LlamaRotaryEmbedding, modeling_rope_utils).

    Each power is rounded correctly to f32. For the published models torch's powers are the same. For other thetas some
    of torch's are an ulp off, and which ones depends on its vector width (1e-5 radians at position 1400)."""
    f32 = np.float32
    exponents = np.arange(0, head_dim, 2, dtype=f32) / f32(head_dim)
    frequencies = 1 / np.power(np.float64(rope["rope_theta"]), exponents.astype(np.float64)).astype(f32)
    if rope["rope_type"] == "linear":
        frequencies = frequencies / f32(real(rope, "factor", None))
    elif rope["rope_type"] == "llama3":
        low, high = real(rope, "low_freq_factor", None), real(rope, "high_freq_factor", None)
        factor, length = real(rope, "factor", None), rope["original_max_position_embeddings"]
        if low >= high:
            raise Refused(f"low_freq_factor {low} is not below high_freq_factor {high}")
        wavelength = (1 / frequencies) * f32(2 * np.pi)                 # as torch divides a scalar by a tensor
        smooth = ((1 / wavelength) * f32(length) - f32(low)) / f32(high - low)
        slow, fast = wavelength > f32(length / low), wavelength < f32(length / high)
        frequencies = np.where(slow, frequencies / f32(factor), frequencies)
        smoothed = (1 - smooth) * frequencies / f32(factor) + smooth * frequencies
        frequencies = np.where(slow | fast, frequencies, smoothed)
    if not ((0 <= frequencies) & (frequencies <= 1)).all():
        raise Refused("rope_theta and rope_scaling give a rotary frequency that is not between 0 and 1")
    return frequencies.reshape(1, -1)


# Keys of generation_config.json that change greedy generation, each with the value that changes nothing. No other key
# of GenerationConfig does: they are about sampling, beams, speculation (which gives the same tokens), caches and what
# is returned. tests/test_export.py tries each one. Lengths are set on the command line.
NEUTRAL = dict(encoder_repetition_penalty=1.0, no_repeat_ngram_size=0, num_beams=1,
               encoder_no_repeat_ngram_size=0, min_length=0, min_new_tokens=0, bad_words_ids=[], suppress_tokens=[],
               begin_suppress_tokens=[], forced_bos_token_id=None, forced_eos_token_id=None, sequence_bias=None,
               guidance_scale=1.0, penalty_alpha=None, exponential_decay_length_penalty=None, max_time=None,
               stop_strings=[], watermarking_config=None, token_healing=False, dola_layers=None, constraints=None,
               force_words_ids=None, num_return_sequences=1, is_assistant=False, use_mtp=False)


def read_generation(directory, config, vocab_size):
    """The ids that end an answer, and the repetition penalty, as generate() finds them: in generation_config.json, or
    without that file in config.json (GenerationConfig.from_model_config takes every setting from there)."""
    name, text = "generation_config.json", config.get("text_config") or {}
    settings = read_json(directory, name, {})
    if not os.path.exists(os.path.join(directory, name)):
        name, settings = "config.json", {**text, **{key: v for key, v in config.items() if v is not None}}
    path = os.path.join(directory, name)
    for key, neutral in NEUTRAL.items():
        if settings.get(key) not in (None, neutral):
            raise Refused(f"{path}: {key} is {settings[key]!r}, which smolvlm does not do")
    if settings.get("cache_implementation") == "quantized":
        raise Refused(f"{path}: cache_implementation is 'quantized', and such a cache is not supported")
    if settings.get("do_sample"):
        t, p, k = (settings.get(key) for key in ("temperature", "top_p", "top_k"))
        note(f"{path} asks for sampling; smolvlm takes the likeliest token, unless it is given "
             f"-t {1.0 if t is None else t} --top-p {1.0 if p is None else p} --top-k {50 if k is None else k}")
    penalty = settings.get("repetition_penalty")
    penalty = 1.0 if penalty is None else penalty
    if type(penalty) not in (int, float) or not 0 < np.float32(penalty) < 1e6:
        raise Refused(f"{path}: repetition_penalty is {penalty!r}, but must be a number above 0 and below a million")
    ids = settings.get("eos_token_id")
    ids = [] if ids is None else ids if isinstance(ids, list) else [ids]
    if not all(type(i) is int for i in ids):
        raise Refused(f"{path}: eos_token_id is {ids}, but must be an id or a list of ids")
    for i in ids:
        if not 0 <= i < vocab_size:                                     # never generated; some write -1 for "none"
            note(f"{path}: the eos_token_id {i} is none of the {vocab_size} ids of the vocabulary, so it ends nothing")
    ids = [i for i in ids if 0 <= i < vocab_size]
    if len(ids) > 16:
        raise Refused(f"{path}: eos_token_id has {len(ids)} ids, but smolvlm has room for 16")
    if not ids:
        note("no eos_token_id: an answer ends only at the length asked for")
    return dict(eos_token_id=ids, repetition_penalty=float(penalty))


# ------------------------------------------------------------------------------------------------ picture settings

def three(images, key):
    """One of image_mean and image_std: three numbers, or one for all three channels."""
    value = images.get(key, 0.5)
    values = value if isinstance(value, list) else [value] * 3
    if len(values) != 3 or not all(isinstance(v, (int, float)) and abs(v) < 1e6 for v in values):
        raise Refused(f'"{key}" is {value!r}, but must be a number or three numbers, one a channel')
    return values


def longest_edge(size):
    """SV_CONFIG's longest_edge for the setting "size": {"longest_edge": 2048}, or a height and a width to which every
    picture is squeezed: {"height": 512, "width": 512}, [512, 512] or 512 (get_size_dict)."""
    if isinstance(size, dict) and "longest_edge" in size:
        return min(whole(size, "longest_edge", None), 0xFFFF)           # above 4096 it is 4096 anyway
    pair = [size] * 2 if type(size) is int else size if isinstance(size, list) else [
        size.get("height"), size.get("width")] if isinstance(size, dict) else []
    if len(pair) < 2 or not all(type(n) is int and 1 <= n <= 4096 for n in pair[:2]):
        raise Refused(f'"size" is {size}, but only a longest_edge is supported, or a height and a width of 1 to 4096')
    return pair[0] << 16 | pair[1]                                                          # SV_EXACT_SIZE


def read_images(directory, fields):
    """The image processor's fields, checked: from processor_config.json (since 5.0) or preprocessor_config.json."""
    name, processor = "processor_config.json", read_json(directory, "processor_config.json", {})
    images = processor.get("image_processor")
    if images is None:
        name, images = "preprocessor_config.json", read_json(directory, "preprocessor_config.json")
    with naming(os.path.join(directory, name)):
        for key in ("do_convert_rgb", "do_resize", "do_rescale", "do_normalize"):
            if not images.get(key, True):
                raise Refused(f'"{key}" is {images[key]!r}, but only true is supported')
        for key in ("resample", "max_image_size", "image_mean", "image_std", "rescale_factor", "size"):
            if images.get(key, 0) is None:                  # an absent key has a default, null has none
                raise Refused(f'"{key}" is null, so that no picture could be processed')
        if type(images.get("resample", 1)) is not int or images.get("resample", 1) != 1:  # 1.0 is not LANCZOS
            raise Refused(f'"resample" is {images["resample"]!r}, but only 1, LANCZOS, is supported')
        tile, size = images.get("max_image_size", {"longest_edge": 364}), images.get("size", {"longest_edge": 4 * 364})
        if not isinstance(tile, dict) or tile.get("longest_edge") != fields["image_size"]:
            raise Refused(f'"max_image_size" is {tile}, but only {{"longest_edge": {fields["image_size"]}}}, the '
                          "image_size of config.json, is supported")
        settings = dict(do_image_splitting=int(bool(images.get("do_image_splitting", True))),
                        image_mean=three(images, "image_mean"), image_std=three(images, "image_std"),
                        longest_edge=longest_edge(size),
                        rescale_factor=real(images, "rescale_factor", 1 / 255))
        if 0 in settings["image_std"]:
            raise Refused('"image_std" is 0, by which nothing can be divided')
    tokens = (fields["image_size"] // fields["patch_size"] // fields["scale_factor"]) ** 2
    if processor.get("image_seq_len", 169) != tokens:
        path = os.path.join(directory, "processor_config.json")
        says = f"image_seq_len is {processor.get('image_seq_len')!r}"
        if "image_seq_len" not in processor:
            says = ("has no" if os.path.exists(path) else "does not exist, so there is no") + " image_seq_len, then 169"
        raise Refused(f"{path}: {says}, but config.json makes {tokens} image tokens of a tile")
    return settings


def read_video(directory, fields):
    """The video processor's fields, from the file in which transformers would find them. A model takes no video if it
    has no such settings, or if its frames would be made differently from here; then a note says why."""
    for name in ("processor_config.json", "video_preprocessor_config.json", "preprocessor_config.json"):
        found = read_json(directory, name, {})
        video = found.get("video_processor") if name.startswith("processor") else found
        if video:
            break
    path = os.path.join(directory, name)
    with naming(path):
        video = video if isinstance(video, dict) else {}
        sampling = video.get("video_sampling", {key: video[other] for key, other in (("max_frames", "num_frames"),
                                                ("fps", "fps"), ("video_size", "size")) if video.get(other)})
        if isinstance(sampling, dict) and not {"max_frames", "fps"} & sampling.keys():
            return {}                               # settings of pictures alone
        try:
            if not isinstance(sampling, dict):
                raise Refused(f'"video_sampling" is {sampling!r}, but must have fps, max_frames and video_size')
            for key in ("do_convert_rgb", "do_resize", "do_rescale", "do_normalize"):
                if not video.get(key, True):
                    raise Refused(f'"{key}" is {video[key]!r}')
            if video.get("resample", 1) != 1:
                raise Refused(f'"resample" is {video["resample"]!r}')
            size = video["size"] if "size" in video else sampling.get("video_size", {"longest_edge": 4 * 364})
            tile = video.get("max_image_size", {"longest_edge": 364})
            if not isinstance(size, dict) or "longest_edge" not in size:
                raise Refused(f'"size" is {size}, without a longest_edge')
            if not isinstance(tile, dict) or tile.get("longest_edge") != fields["image_size"]:
                raise Refused(f'"max_image_size" is {tile}, but image_size {fields["image_size"]}')
            for key in ("image_mean", "image_std"):
                if three(video, key) != fields[key]:
                    raise Refused(f'"{key}" is not the pictures\'')
            if real(video, "rescale_factor", 1 / 255) != fields["rescale_factor"]:
                raise Refused('"rescale_factor" is not the pictures\'')
            frames, fps = whole(sampling, "max_frames", None), real(sampling, "fps", None)
            if frames > 1 << 20 or fps >= 1e6:
                raise Refused(f'"video_sampling" is {sampling}, which is out of range')
            return dict(video_num_frames=frames, video_fps=fps, video_longest_edge=min(longest_edge(size), 4096))
        except Refused as why:
            note(f"{path}: {why}: this model takes no video")
            return {}


# ------------------------------------------------------------------------------------------------ the chat template

FILES_OF_TEMPLATES = ("processor_config.json", "chat_template.json", "chat_template.jinja", "tokenizer_config.json")


def find_template(directory, text_only):
    """(file, template): the template that transformers would use, the processor's or the tokenizer's; or two None."""
    for name in FILES_OF_TEMPLATES[2 if text_only else 0:]:
        path = os.path.join(directory, name)
        if name.endswith(".jinja"):
            if os.path.exists(path):
                with open(path, encoding="utf-8") as f, naming(path):
                    return path, f.read()
            continue
        template = read_json(directory, name, {}).get("chat_template")
        with naming(path):
            if isinstance(template, list):
                template = {entry["name"]: entry["template"] for entry in template}.get("default")
            if template is not None:
                return path, template
    return None, None


STRING = r"'(?:\\.|[^'\\])*'|\"(?:\\.|[^\"\\])*\""


def simplify(template, tokens):
    """A jinja template in one spelling: ("{%for x in y%}«0»{{z['w']}}«1»", [literal 0, literal 1]).

    Literal text, '...' and names of tokens ("bos_token") become «number»; adjacent ones are joined. White space around
    tags is removed as jinja does with transformers' settings: trim_blocks, lstrip_blocks, no newline at the end."""
    pieces, before, line_start = [], "", True                   # before: the tag before the text, without what it does
    split = re.split(rf"(\{{%(?:{STRING}|[^'\"])*?%\}}|\{{\{{(?:{STRING}|[^'\"])*?\}}\}}|\{{#.*?#\}})",
                     template.removesuffix("\n"), flags=re.S)
    for text, tag in zip(split[::2], [*split[1::2], ""]):
        if before[-3:-2] == "-":
            text = text.lstrip()
        elif before[-2:] in ("%}", "#}") and before[-3:-2] != "+":
            line_start = text[:1] == "\n"
            text = text.removeprefix("\n")
        if tag[2:3] == "-":
            text = text.rstrip()
        elif tag[:2] in ("{%", "{#") and tag[2:3] != "+":
            text = re.sub(r"(^|\n)[ \t]*\Z" if line_start else r"(\n)[ \t]*\Z", r"\1", text)
        pieces.append(text)
        before, line_start, inside = tag, False, tag[2:-2].strip("+-")
        if tag[:2] == "{%":
            pieces.append(["{%" + spell(inside) + "%}"])
        elif tag[:2] == "{{":
            for term in map(str.strip, re.findall(rf"((?:{STRING}|[^+~'\"])+)", inside)):
                if re.fullmatch(STRING, term):
                    pieces.append(term[1:-1].encode("ascii", "backslashreplace").decode("unicode_escape"))
                else:
                    pieces.append(tokens.get(term) or ["{{" + spell(term) + "}}"])
    simple, literals = "", []
    for piece in filter(None, pieces):
        if isinstance(piece, list):
            simple += piece[0]
        elif simple.endswith("»"):
            literals[-1] += piece
        else:
            simple += f"«{len(literals)}»"
            literals.append(piece)
    return simple, literals


def spell(expression):
    """An expression in one spelling: no optional blanks, single quotes, x['y'] for x.y."""
    words = [f"'{word[1:-1]}'" if word[0] == '"' else word for word in re.findall(rf"{STRING}|\w+|\S", expression)]
    text = re.sub(r" ?\. (\w+)\b(?! \()", r"['\1']", " ".join(words))
    return re.sub(r"(?<=\W) | (?=\W)", "", text)


def block(text):
    """A regular expression for these tags of a template, in any spelling."""
    return re.escape(simplify(text, {})[0])


def literal(name):
    """A regular expression for a literal, which may be empty, with a group of that name."""
    return f"(?:«(?P<{name}>\\d+)»)?"


ROLE = r"\{\{message\['role'\](?P<capitalize>\|capitalize|\.capitalize\(\))?\}\}"
PROMPT = block("{% if add_generation_prompt %}") + literal("chat_generation_prompt") + block("{% endif %}")
TEMPLATES = (
    re.compile(         # SmolVLM, Idefics3: processing_smolvlm.DEFAULT_CHAT_TEMPLATE, with or without the video branch
        literal("chat_begin") + block("{% for message in messages %}") + literal("chat_role_prefix") + ROLE
        + block("{% if message['content'][0]['type'] == 'image' %}") + literal("chat_role_suffix_image")
        + block("{% else %}") + literal("chat_role_suffix")
        + block("{% endif %}{% for line in message['content'] %}{% if line['type'] == 'text' %}{{ line['text'] }}")
        + block("{% elif line['type'] == 'image' %}") + literal("image")
        + "(?:" + block("{% elif line['type'] == 'video' %}") + literal("video") + ")?"
        + block("{% endif %}{% endfor %}") + literal("chat_message_end") + block("{% endfor %}") + PROMPT),
    re.compile(         # ChatML, with a default system message or not: SmolLM2
        "(?:" + block("{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}")
        + ")?" + literal("chat_begin") + block("{% for message in messages %}")
        + "(?:" + block("{% if loop.first and messages[0]['role'] != 'system' %}") + literal("chat_default_system")
        + block("{% endif %}") + ")?"
        + literal("chat_role_prefix") + ROLE + literal("chat_role_suffix") + block("{{ message['content'] }}")
        + literal("chat_message_end") + block("{% endfor %}") + PROMPT))


ROLES = ("system", "user", "assistant")


def recognised(template, tokens, image_token):
    """SV_CONFIG's chat_ fields for a template with the structure of a published model's, without jinja2; else None. Its
    literals may be any."""
    simple, literals = simplify(template, tokens)
    match = next(filter(None, (t.fullmatch(simple) for t in TEMPLATES)), None)
    if match is None:
        return None
    found = {name: literals[int(i)] if i is not None and name != "capitalize" else ""
             for name, i in match.groupdict().items()}
    if "image" in found and found["image"] != image_token:
        raise Refused(f"the chat template puts {found['image']!r} for a picture, but image_token is {image_token!r}")
    found.setdefault("chat_role_suffix_image", found["chat_role_suffix"])
    fields = dict(chat_begin=found["chat_begin"], chat_default_system=found.get("chat_default_system", ""),
                  chat_generation_prompt=found["chat_generation_prompt"],
                  chat_accepts=sum(read_layout().chat_flags.values()))
    for role in ROLES:
        name = found["chat_role_prefix"] + (role.capitalize() if match["capitalize"] else role)
        fields[f"chat_{role}_begin"] = name + found["chat_role_suffix"]
        fields[f"chat_{role}_begin_image"] = name + found["chat_role_suffix_image"]
        fields[f"chat_{role}_end"] = fields[f"chat_{role}_end_image"] = found["chat_message_end"]
    return fields


class Misfit(Exception):
    """What a template renders does not have the expected structure; the text says where."""


class Unrendered(Misfit):
    """The template refuses to render this conversation."""


def sandbox():
    """jinja as transformers sets it up (utils.chat_template_utils). None without jinja2, or with a version before
    3.1.6: a malicious template can escape from its sandbox.

    Its clock shows environment.clock, so that a template that writes the date can be detected."""
    try:
        import jinja2
        import jinja2.ext
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError:
        return None
    if tuple(map(int, re.findall(r"\d+", jinja2.__version__)[:3])) < (3, 1, 6):
        return None

    class Generation(jinja2.ext.Extension):
        """{% generation %} ... {% endgeneration %}: marks what the model is trained to say. Renders its contents."""
        tags = {"generation"}

        def parse(self, parser):
            line = next(parser.stream).lineno
            body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
            return jinja2.nodes.CallBlock(self.call_method("rendered"), [], [], body).set_lineno(line)

        def rendered(self, caller):
            return caller()

    class Dict:
        def __call__(self, *arguments, **keywords):
            return dict(*arguments, **keywords)

        def fromkeys(self, *arguments):
            return dict.fromkeys(*arguments)

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                                extensions=[Generation, jinja2.ext.loopcontrols])
    environment.filters["tojson"] = tojson
    environment.globals.update(raise_exception=raise_exception, dict=Dict(),
                               strftime_now=lambda format: environment.clock.strftime(format))
    environment.clock = DATES[0]
    return environment


DATES = datetime.datetime(2001, 2, 3, 4, 5, 6), datetime.datetime(2018, 11, 30, 22, 47, 58)
A, B, C = "Zw1Qx", "Zw2Qx", "Zw3Qx"                             # texts that occur in no template


def system(*items):
    """A message: its role, and its items, each a text or None for a picture."""
    return "system", items


def user(*items):
    return "user", items


def assistant(*items):
    return "assistant", items


class Chat:
    """A template, rendered as transformers renders it.

    strings: whether a message's content is one string, with image_token for a picture, as the templates of tokenizers
    take it. Otherwise it is a list, as the templates of processors take it."""

    def __init__(self, environment, template, tokens, image_token, strings):
        self.environment, self.image_token, self.strings = environment, image_token, strings
        try:
            self.template = environment.from_string(template)
        except Exception as error:
            raise Refused(f"the chat template is no valid jinja ({error})") from None
        self.tokens = {name: token for name, token in tokens.items() if token}
        self.dates = DATES if "strftime_now" in template else DATES[:1]

    def message(self, role, items):
        if self.strings:
            content = "".join(self.image_token if item is None else item for item in items)
        else:
            content = [{"type": "image"} if item is None else {"type": "text", "text": item} for item in items]
        return {"role": role, "content": content}

    def render(self, conversation, prompt=True):
        """The rendered text. Raises Unrendered."""
        texts = []
        for date in self.dates:
            self.environment.clock = date
            messages = [self.message(role, items) for role, items in conversation]
            try:
                texts.append(self.template.render(messages=messages, tools=None, documents=None,
                                                  add_generation_prompt=prompt, **self.tokens))
            except Exception as error:                          # a template's code may raise anything
                raise Unrendered(f"jinja says: {error}") from None
        if len(set(texts)) > 1:
            raise Refused("the chat template writes the day's date (strftime_now), which a file cannot hold")
        return texts[0]

    def around(self, *conversation, prompt=True):
        """[what stands before the first item, ... between two, ... after the last]. Raises Misfit."""
        rest, pieces = self.render(conversation, prompt), []
        items = [self.image_token if item is None else item for _, items in conversation for item in items]
        if f"'text': {A!r}" in rest:
            raise Misfit("a message's content is written as Python writes a list")
        for item in set(items):
            if rest.count(item) != items.count(item):
                what = f"{self.image_token!r}, a picture," if item == self.image_token else "a message's text"
                raise Misfit(f"{what} stands there {rest.count(item)} times, not {items.count(item)}")
        for item in items:
            piece, found, rest = rest.partition(item)
            if not found:
                raise Misfit("texts and pictures do not stand in their order")
            pieces.append(piece)
        return [*pieces, rest]

    def perhaps(self, *conversation, prompt=True):
        """The same, but None for a Misfit."""
        try:
            return self.around(*conversation, prompt=prompt)
        except Misfit:
            return None


def common_end(*texts):
    return os.path.commonprefix([text[::-1] for text in texts])[::-1]


def take_apart(chat, vision):
    """SV_CONFIG's chat_ strings, found from what stands around the texts of a few conversations.

    Between two messages stand the end of one, chat_between_messages, and the beginning of the other. Where these are
    cut does not matter, if the cut fits all conversations. A string that cannot be found stays empty. Whether the
    others are right is checked elsewhere (evaluated)."""
    # A question alone; without add_generation_prompt; two questions; an answer between two; a system message before a
    # question, and between two.
    head, tail = chat.around(user(A))
    bare, twice = chat.perhaps(user(A), prompt=False), chat.perhaps(user(A), user(B))
    talk, told = chat.perhaps(user(A), assistant(B), user(C)), chat.perhaps(system(A), user(B))
    later = chat.perhaps(user(A), system(B), user(C))

    # Whatever follows a question starts with chat_user_end; whatever precedes one ends with chat_user_begin.
    leaving = [tail, *(pieces[1] for pieces in (twice, talk, later) if pieces)]
    end = bare[1] if bare and all(piece.startswith(bare[1]) for piece in leaving) else os.path.commonprefix(leaving)
    entering = [head, *(pieces[-2] for pieces in (talk, told, later) if pieces)]
    entering += [twice[1][len(end):]] if twice else []
    generation = tail.removeprefix(end)
    last = chat.perhaps(user(A), assistant(B))
    answer_end = last[2].removesuffix(generation) if last else ""
    entering += [talk[2][len(answer_end):]] if talk and talk[2].startswith(answer_end) else []
    begin = common_end(*entering)
    between = twice[1][len(end):].removesuffix(begin) if twice else ""
    before, after = end + between, between + begin              # of a message of another role
    opening = head.removesuffix(begin)
    found = dict(chat_user_begin=begin, chat_user_end=end, chat_between_messages=between, chat_begin=opening,
                 chat_generation_prompt=generation)
    if talk:
        found.update(chat_assistant_begin=talk[1].removeprefix(before), chat_assistant_end=talk[2].removesuffix(after))
    if told:
        name = common_end(told[0], later[1].removeprefix(before)) if later else ""
        start = told[0].removesuffix(name)
        if not opening.startswith(start) or not name:
            start = os.path.commonprefix([opening, told[0]])
        found.update(chat_begin=start, chat_default_system=opening.removeprefix(start),
                     chat_system_begin=told[0].removeprefix(start), chat_system_end=told[1].removesuffix(after))

    def add(name, pieces, at, before="", after=""):
        if pieces:
            found[name] = pieces[at].removeprefix(before).removesuffix(after)

    for role in ROLES:                                          # until shown otherwise
        for edge in ("begin", "end"):
            found[f"chat_{role}_{edge}_image"] = found.get(f"chat_{role}_{edge}", "")
    add("chat_text_text", chat.perhaps(user(A, B)), 1)
    if vision:
        picture = chat.perhaps(user(None, A))
        add("chat_user_begin_image", picture, 0, before=opening)
        add("chat_image_text", picture, 1)
        add("chat_image_image", chat.perhaps(user(None, None, A)), 1)
        add("chat_text_image", chat.perhaps(user(A, None)), 1)
        add("chat_user_end_image", chat.perhaps(user(A, None)), 2, after=generation)
        add("chat_system_begin_image", chat.perhaps(system(None, A), user(B)), 0, before=found["chat_begin"])
        add("chat_system_end_image", chat.perhaps(system(A, None), user(B)), 2, after=after)
        add("chat_assistant_begin_image", chat.perhaps(user(A), assistant(None, B), user(C)), 1, before=before)
        add("chat_assistant_end_image", chat.perhaps(user(A), assistant(B, None), user(C)), 3, after=after)
    names = [name for kind, name in read_layout().config if name.startswith("chat_") and kind == "STR"]
    return {name: found.get(name, "") for name in names}


def composed(fields, conversation, image_token):
    """The text that smolvlm.c would make with these strings."""
    suffix = lambda item: "_image" if item is None else ""
    kind = lambda item: "image" if item is None else "text"
    text = fields["chat_begin"] + (fields["chat_default_system"] if conversation[0][0] != "system" else "")
    for i, (role, items) in enumerate(conversation):
        text += (fields["chat_between_messages"] if i else "") + fields[f"chat_{role}_begin{suffix(items[0])}"]
        for j, item in enumerate(items):
            text += fields[f"chat_{kind(items[j - 1])}_{kind(item)}"] if j else ""
            text += image_token if item is None else item
        text += fields[f"chat_{role}_end{suffix(items[-1])}"]
    return text + fields["chat_generation_prompt"]


def needs(conversation):
    """The flags of chat_accepts (their names in model.h) that sv_prompt demands for this conversation."""
    flags = set()
    for i, (role, items) in enumerate(conversation):
        if role == "system":
            flags |= {"chat_system", "chat_system_later"} if i else {"chat_system"}
        if role == "assistant":
            flags |= {"chat_assistant"} | ({"chat_assistant_last"} if i == len(conversation) - 1 else set())
        if None in items and role != "user":
            flags.add("chat_images")
        if items[-1] is None or any(item is not None for item in items[:-1]):
            flags.add("chat_mixed")
    return frozenset(flags)


# Texts that a template may treat specially, each with what is special about it.
TEXTS = [("white space around a text", " \t {} \n\n"), ("a text with lines", "{}\n\n  y\r\nz"),
         ("quotes and brackets in a text", "'{}' \"x\" \\ \\n <b>&amp;</b> [1] (2)"),
         ("a text that looks like a template", "{{{{ {} }}}} {{% x %}} {{# y #}}"),
         ("a text with thoughts", "<think>\nx\n</think>\n\n{}"),
         ("letters of other scripts", "\u00a0\u00e9 {} \u4f60\u597d\u3000"),
         ("a text that names roles", "user: {} assistant\nsystem"), ("a long text", "{} " + "word " * 300)]


def probes(vision):
    """[(what is special about it, a conversation)]: some of every kind, then many random ones."""
    found = [("a question", [user(A)]), ("a second question", [user(A), user(B)]),
             ("a system message", [system(A), user(B)]), ("two system messages", [system(A), system(B), user(C)]),
             ("a system message after others", [user(A), system(B), user(C)]),
             ("a conversation", [user(A), assistant(B), user(C)]),
             ("a conversation with a system message", [system(C), user(A), assistant(B), user(C)]),
             ("a long conversation", [user(A), assistant(B), user(C), assistant(A), user(B), assistant(C), user(A)]),
             ("an answer as the first message", [assistant(A), user(B)]),
             ("an answer as the last message", [user(A), assistant(B)]),
             ("a system message as the last", [user(A), system(B)]),
             ("two texts in a message", [user(A, B)]), ("two texts in an answer", [user(A), assistant(B, C), user(A)]),
             ("a picture", [user(None, A)]), ("three pictures", [user(None, None, None, A)]),
             ("pictures in two messages", [user(None, A), user(None, None, B)]),
             ("a picture in the second message", [user(A), user(None, B)]),
             ("a picture and a system message", [system(A), user(None, B)]),
             ("a conversation about pictures", [user(None, A), assistant(B), user(None, None, C)]),
             ("a picture after a text", [user(A, None)]), ("a picture between texts", [user(A, None, B)]),
             ("a picture without a text", [user(None)]), ("pictures without a text", [user(None, None)]),
             ("a text between pictures", [user(None, A, None)]),
             ("a picture in a system message", [system(None, A), user(B)]),
             ("a picture in an answer", [user(A), assistant(None, B), user(C)])]
    for what, text in TEXTS:
        x = text.format(A)
        found += [(what, talk) for talk in (
            [user(x)], [system(x), user(x)], [user(x), assistant(x), user(x)], [user(None, x)], [user(x, None, x)])]
    chance = random.Random(0)
    for _ in range(400):
        items = [None, None, A, *(text.format(B) for _, text in TEXTS)]
        roles = chance.choices((user, user, assistant, assistant, system), k=chance.randrange(1, 6))
        talk = [role(*chance.choices(items, k=chance.choice((1, 1, 2, 3)))) for role in roles]
        found.append(("a conversation", talk))
    return [(what, talk) for what, talk in found if vision or not any(None in items for _, items in talk)]


LACKING = dict(chat_system="a system message", chat_system_later="a system message after others",
               chat_assistant="answers given before", chat_assistant_last="an answer as the last message",
               chat_mixed="anything but pictures and one text after them in a message",
               chat_images="pictures in a system message or an answer")


def compared(chat, fields, talks):
    """Compares what the strings make of conversations with what jinja does. Returns (same, where): whether all are the
    same, and there was at least one; and a description of the first difference, or "". Conversations that the template
    refuses to render do not count."""
    equal = False
    for what, talk in talks:
        try:
            got = chat.render(talk)
        except Unrendered:
            continue
        want = composed(fields, talk, chat.image_token)
        if got != want:
            at = len(os.path.commonprefix([got, want]))
            cut = slice(max(0, at - 20), at + 30)
            return False, f"it makes of {what} what fixed strings cannot, ...{got[cut]!r} instead of ...{want[cut]!r}"
        equal = True
    return equal, ""


def check_picture(chat, fields):
    """Refuses a template that renders a picture as anything but image_token."""
    try:
        got, plain = chat.render([user(None, A)]), composed(fields, [user(A)], chat.image_token)
    except Unrendered as refusal:
        raise Refused(f"the chat template cannot be exported: it refuses a picture ({refusal})") from None
    if got.count(chat.image_token) != 1:
        there = got[len(os.path.commonprefix([got, plain[:plain.find(A)]])):got.find(A)]
        raise Refused(f"the chat template puts {there!r} for a picture, but image_token is {chat.image_token!r}")


def evaluated(chat, vision):
    """SV_CONFIG's chat_ fields, found from what the template renders: (fields, [(what it does not accept, why)]). The
    second part is for people to read.

    A few conversations give the strings; all probes then check that these make what the template makes. If they do not
    for a kind of conversation, chat_accepts leaves that kind out. Raises Misfit if not even a question can be taken
    apart, Refused if conversations of the user's messages alone differ."""
    fields = take_apart(chat, vision)
    if vision:
        check_picture(chat, fields)
    accepted, lacking, talks = set(), [], [(what, talk, needs(talk)) for what, talk in probes(vision)]
    equal, why = compared(chat, fields, [(what, talk) for what, talk, needed in talks if not needed])
    if not equal:
        raise Refused(f"the chat template cannot be exported: {why}")
    for flag in LACKING:
        equal, why = compared(chat, fields, [(what, talk) for what, talk, needed in talks
                                             if flag in needed and needed <= accepted | {flag}])
        if equal or flag == "chat_images" and not vision:
            accepted.add(flag)
        else:
            lacking.append((LACKING[flag], why))
    flags = read_layout().chat_flags
    return {**fields, "chat_accepts": sum(flags[flag] for flag in accepted)}, lacking


def read_chat(template, tokens, image_token):
    """SV_CONFIG's chat_ fields for a jinja template.

    tokens: what the names bos_token, eos_token ... stand for. image_token: empty for a text-only model. smolvlm runs no
    jinja, so the template becomes strings. With jinja2 installed they are found from what the template renders;
    otherwise only templates like those of the published models are recognised. Raises Refused."""
    environment = sandbox()
    if environment is None:
        fields = recognised(template, tokens, image_token)
        if fields is None:
            raise Refused("the chat template is neither SmolVLM's nor ChatML; others can be exported where jinja2 "
                          "(3.1.6 or later) is installed: pip install -U jinja2")
        return {**fields, "chat_template": 1}
    if not isinstance(template, str):
        raise Refused(f"the chat template is {template!r}, which is no text")
    misfits = []
    for strings in (False, True) if image_token else (True, False):     # as this kind of model is usually asked
        chat = Chat(environment, template, tokens, image_token or "<image>", strings)
        try:
            fields, lacking = evaluated(chat, bool(image_token))
        except Misfit as misfit:
            misfits.append(misfit)
            continue
        if strings and image_token:
            note(f"the chat template takes no pictures but as {image_token} within a text, so that is where they go")
        for what, why in lacking:
            note(f"the chat template does not provide for {what}{': ' if why else ''}{why}")
        return {**fields, "chat_template": 1}
    raise Refused(f"the chat template cannot be exported, not even for a question alone: {misfits[0]}")


# ------------------------------------------------------------------------------------------------ the tokenizer

def byte_alphabet():
    """{character: byte}: the printable alphabet in which GPT-2's vocabulary spells bytes (tokenizers: ByteLevel)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {**{chr(byte): byte for byte in printable}, **{chr(256 + i): byte for i, byte in enumerate(others)}}


def single_digits(tokenizer):
    """1 or 0, from the pre-tokenizer. Refuses whatever in tokenizer.json smolvlm's tokenizer.c does not implement."""
    model = tokenizer["model"]
    demand(model, "type", "BPE", "BPE")
    for key, accepted in dict(byte_fallback=[False], ignore_merges=[False], dropout=[0], unk_token=[""],
                              continuing_subword_prefix=[""], end_of_word_suffix=[""]).items():
        has_all_bytes = key == "unk_token" and set(byte_alphabet()) <= set(model["vocab"])   # so no text is unknown
        if not has_all_bytes:
            demand(model, key, accepted[0], *accepted)
    if tokenizer.get("normalizer") is not None:
        raise Refused(f"the normalizer {tokenizer['normalizer'].get('type')} is not supported")
    if (tokenizer.get("decoder") or {}).get("type") != "ByteLevel":
        raise Refused("the decoder is not ByteLevel, and no other is supported")
    post = tokenizer.get("post_processor") or {"type": "ByteLevel"}
    pieces = [next(iter(piece)) for piece in post.get("single", [])]
    if post["type"] != "ByteLevel" and not (post["type"] == "TemplateProcessing" and pieces == ["Sequence"]):
        raise Refused(f"the post_processor {post['type']} adds tokens, which is not supported")
    pre = tokenizer.get("pre_tokenizer") or {}
    parts = pre["pretokenizers"] if pre.get("type") == "Sequence" else [pre]
    digits = len(parts) == 2 and parts[0].get("type") == "Digits" and parts[0].get("individual_digits") is True
    last = parts[-1]
    if (len(parts) != 1 + digits or last.get("type") != "ByteLevel" or last.get("add_prefix_space", True)
            or not last.get("use_regex", True)):
        raise Refused(f"the pre_tokenizer {' + '.join(str(part.get('type')) for part in parts)} is not supported: "
                      "only ByteLevel(add_prefix_space=false, use_regex=true) is, or Digits(individual_digits) and it")
    return int(digits)


def tokenizer_blob(tokenizer, vocab_size):
    """The tokenizer part of the file (bytes), as model.h defines it, from tokenizer.json (a dict).

    Raises Refused for a tokenizer that is not byte-level BPE, or whose ids are not below vocab_size."""
    digits = single_digits(tokenizer)
    vocab, added = tokenizer["model"]["vocab"], [t for t in tokenizer.get("added_tokens") or [] if t["content"]]
    words = {id: token for token, id in vocab.items()}
    words.update((token["id"], token["content"]) for token in added)
    n_ids = max(words) + 1
    if min(words) < 0 or n_ids > vocab_size:
        raise Refused(f"has token ids up to {n_ids - 1}, but the model's vocab_size is {vocab_size}")
    ids, found, following = {}, {}, len(vocab)              # found: {id: the token; the last entry wins}
    for token in added:                                     # ids are assigned as in AddedVocabulary.add_tokens
        id = ids.get(token["content"], vocab.get(token["content"], following))
        if id != token["id"]:
            raise Refused(f"the added token {token['content']!r} has id {token['id']}, but tokenizers gives it {id}")
        following += id == following and token["content"] not in vocab and token["content"] not in ids
        ids[token["content"]] = id
        found[id] = token
    alphabet = byte_alphabet()

    def spelled(token):                                                 # as tokenizers' ByteLevel decoder
        return bytes(map(alphabet.get, token)) if alphabet.keys() >= set(token) else token.encode("utf-8")

    pairs = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge)
             for merge in tokenizer["model"]["merges"]]
    for left, right in pairs:
        for token in (left, right, left + right):
            if token not in vocab:
                raise Refused(f"a merge names {token!r}, which the vocabulary lacks")
    characters = {byte: character for character, byte in alphabet.items()}
    bits = read_layout().added_flags
    flags = lambda token: sum(bit for flag, bit in bits.items()
                              if token.get(flag, flag == "normalized" and not token.get("special")))
    merges = [(vocab[left], vocab[right], vocab[left + right]) for left, right in pairs]
    return b"".join([
        struct.pack("<I", n_ids), *(pack_string(spelled(words.get(id, ""))) for id in range(n_ids)),
        struct.pack("<256I", *(vocab.get(characters[byte], NO_ID) for byte in range(256))),
        struct.pack("<I", len(merges)), *(struct.pack("<3I", *merge) for merge in merges),
        struct.pack("<I", len(found)),
        *(struct.pack("<2I", id, flags(token)) + pack_string(token["content"]) for id, token in found.items()),
        struct.pack("<I", digits)])


def token_text(settings, key, default=None):
    """The text of a token that named_tokens found (a string or an AddedToken); default if there is none."""
    value = settings.get(key) or default
    value = value["content"] if isinstance(value, dict) else value
    if not isinstance(value, (str, type(default))):
        raise Refused(f'"{key}" is {value!r}, which is no token')
    return value


STANDARD_TOKENS = [name + "_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")]


def named_tokens(settings, special):
    """The tokens that tokenizer_config.json and special_tokens_map.json name: ({name: token}, [token, ...] of
    extra_special_tokens), in the order in which they are added (PreTrainedTokenizerBase._from_pretrained, __init__)."""
    extra, old = "extra_special_tokens", "additional_special_tokens"
    settings = {key: v for key, v in settings.items()       # other names may have an AddedToken, but no plain dict
                if key in STANDARD_TOKENS or not (key.endswith("_token") and isinstance(v, dict) and "__type" not in v)}
    if old in settings and not settings.get(extra):
        settings[extra] = settings.pop(old)
    own = {key: settings.pop(key) for key in list(settings)
           if key.endswith("_token") and key not in STANDARD_TOKENS and isinstance(settings[key], str)}
    if isinstance(settings.get(extra), dict):
        own.update(settings.pop(extra))
    for key, value in special.items():
        if key == extra and isinstance(value, list):
            value = (settings.get(extra) or []) + value
        settings[key] = value
    if isinstance(settings.get(extra), dict):
        own.update(settings.pop(extra))
    if old in settings and extra not in settings:
        settings[extra] = settings.pop(old)
    named = {key: settings[key] for key in STANDARD_TOKENS if settings.get(key)}
    named.update((key, value) for key, value in settings.items()
                 if key.endswith("_token") and key not in named and isinstance(value, (str, dict)))
    return {**named, **own}, settings.get(extra) or []


def added_token(token, special=True):
    """An AddedToken, or a string, as an entry of tokenizer.json without an id."""
    token = token if isinstance(token, dict) else {"content": token}
    if not isinstance(token["content"], str):
        raise Refused(f"{token['content']!r} is named as a token, but is no text")
    token = {**dict(lstrip=False, rstrip=False, single_word=False, special=special), **token}
    return {"normalized": not token["special"], **token}


def read_tokenizer(directory, vocab_size):
    """(tokenizer.json, with added tokens that only other files list; tokenizer_config.json, with tokens' names as
    special_tokens_map.json changes them).

    TokenizersBackend.__init__ adds, in this order: what added_tokens_decoder or added_tokens.json lists, the named
    tokens, the extra ones. A token keeps the id that it has in the vocabulary; others get the next free one."""
    tokenizer = read_json(directory, "tokenizer.json")
    with naming(os.path.join(directory, "tokenizer.json")):
        added = tokenizer["added_tokens"] = tokenizer.get("added_tokens") or []
        vocab, known = tokenizer["model"]["vocab"], {token["content"]: token for token in added}
        ids = {id: content for content, id in [*vocab.items(), *((c, token["id"]) for c, token in known.items())]}

    def add(token, id):
        added.append({**token, "id": id})
        known[token["content"]] = added[-1]

    settings, special, listed = read_json(directory, "tokenizer_config.json", {}), {}, {}
    if "added_tokens_decoder" not in settings:              # otherwise transformers reads neither of these
        special = read_json(directory, "special_tokens_map.json", {})
        listed = read_json(directory, "added_tokens.json", {})
    with naming(os.path.join(directory, "tokenizer_config.json")):
        demand(settings, "split_special_tokens", False, False)
        if settings.get("clean_up_tokenization_spaces"):
            demand(settings, "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output", False, False)
        named, extra = named_tokens(settings, special)
        named = {key: added_token(value) for key, value in named.items()}
        extra = [added_token(value) for value in extra]
        decoder = {int(id): added_token(token, special=False)
                   for id, token in (settings.get("added_tokens_decoder") or {}).items()}
    with naming(os.path.join(directory, "added_tokens.json")):
        texts = {token["content"] for token in [*named.values(), *extra]}
        decoder.update((whole({content: id}, content, None, low=0), added_token(content, special=content in texts))
                       for content, id in listed.items() if content not in known)
    for id, token in sorted(decoder.items()):
        content = token["content"]
        if ids.setdefault(id, content) != content:
            raise Refused(f"{directory}: the added token {content!r} has the id {id} of {ids[id]!r} in tokenizer.json")
        if content in known:
            known[content].update({**token, "id": known[content]["id"]})            # its flags win
        else:
            add(token, id)
    for token in [*named.values(), *extra]:
        content, following = token["content"], max([len(vocab), *(token["id"] + 1 for token in added)])
        id = vocab.get(content, following)
        if content in known or not content:
            continue
        if id < vocab_size:
            add(token, id)
        else:
            note(f"{directory}: the token {content!r} is named, but would have id {id}, and the vocabulary ends at "
                 f"{vocab_size - 1}: it is read as text")
    return tokenizer, {**settings, **named}


# Classes that build a new tokenizer and take only the vocabulary and the merges from tokenizer.json.
REBUILDING = ("GPT2Tokenizer", "GPTNeoXTokenizer", "Qwen2Tokenizer", "CodeGenTokenizer", "CohereTokenizer",
              "RobertaTokenizer")


def compare_class(model, config, settings, tokenizer):
    """Notes where transformers would not use the directory's own tokenizer, with which the model was trained.
    AutoTokenizer follows tokenizer_class, except for model types where it knows that to be wrong (smolvlm, mistral)."""
    name = str(settings.get("tokenizer_class") or config.get("tokenizer_class")).removesuffix("Fast")
    plain = name == "GPT2Tokenizer" and not (single_digits(tokenizer) or settings.get("add_prefix_space"))
    if model in ("llama", "idefics3") and name in REBUILDING and not plain:
        rule = ", without the rule that each digit stands alone" if single_digits(tokenizer) else ""
        note(f"for {name} transformers 5.23 takes other rules than tokenizer.json's{rule}; here tokenizer.json's hold")


def template_tokens(model, settings):
    """The values of bos_token and the like in a chat template (PreTrainedTokenizerBase.special_tokens_map)."""
    usual = {}
    if model in ("llama", "idefics3") and str(settings.get("tokenizer_class")).startswith("GPT2Tokenizer"):
        usual = dict.fromkeys(("bos_token", "eos_token", "unk_token"), "<|endoftext|>")     # the class's default
    return {**usual, **{name: token_text(settings, name) for name, token in settings.items()
                        if name.endswith("_token") and isinstance(token, (str, dict)) and token}}


def read_tokens(model, config, tokenizer, settings):
    """The tokens around a picture: SmolVLMProcessor takes them from the tokenizer, Idefics3Processor has constants."""
    settings = settings if model == "smolvlm" else {}
    fields = dict(image_token=token_text(settings, "image_token", "<image>"),
                  fake_image_token=token_text(settings, "fake_image_token", "<fake_token_around_image>"),
                  global_image_token=token_text(settings, "global_image_token", "<global-img>"),
                  image_token_id=whole(config, "image_token_id", 128257, low=0))
    token, id = fields["image_token"], fields["image_token_id"]
    actual = {added["content"]: added["id"] for added in tokenizer["added_tokens"]}.get(token)
    if actual != id:
        raise Refused(f"image_token_id is {id}, but the tokenizer has {token} as {actual}")
    return fields


# ------------------------------------------------------------------------------------------------ the weights

SOURCES = {"F32": (4, lambda raw: raw.view("<f4")), "F16": (2, lambda raw: raw.view("<f2").astype("<f4")),
           "BF16": (2, lambda raw: (raw.view("<u2").astype("<u4") << 16).view("<f4"))}      # safetensors dtypes
HARMLESS = re.compile(r"(.*\.)?(rotary_emb\.inv_freq|position_ids)")      # buffers that old checkpoints stored


def encode_f32(numbers):
    return numbers.astype("<f4", copy=False)


def encode_bf16(numbers):
    """f32 -> bf16 as u16, rounded to nearest, ties to even, as torch does. NaN stays NaN."""
    bits = numbers.astype("<f4", copy=False).view("<u4")
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1)).astype("<u4")) >> 16
    return np.where(np.isnan(numbers), (bits >> 16) | 0x40, rounded).astype("<u2")


def decode_bf16(bits):
    return (bits.astype("<u4") << 16).view("<f4")


def sums_of_rows(x):
    """Row sums of x [n, a power of two]. One half is added to the other until one column is left: a fixed order, so
    every build of numpy gives the same bits."""
    while x.shape[1] > 1:
        half = x.shape[1] // 2
        x = x[:, :half] + x[:, half:]
    return x[:, 0]


def check_numbers(numbers):
    if not (np.abs(numbers) < 1e18).all():
        raise Refused("holds a number that is none, or of 1e18 and more: q8 and q4 have none for that")


def quantized(levels, numbers, group, first_guesses, encode=encode_bf16, decode=decode_bf16):
    """f32 [rows, cols] -> (the nearest levels' indices, u8 [rows, cols filled up to whole groups],
    scales, bf16 as u16 [rows, groups]), a number being levels[index] * scale.

    levels: ascending integers in -127..127. A group's scale is searched for the least squared error. Each of the first
    guesses is a level, to which the number of largest magnitude is mapped. Then, twice, the scale that fits the indices
    best, sum(x level) / sum(level^2), is tried. (Without fixed indices there is no closed form; many more guesses than
    GUESSES would gain another 1 to 2.5 % of the rms error.) encode, decode: how a scale is stored. tests/formats.py
    measures all this, and other ways to store scales."""
    check_numbers(numbers)
    rows, cols = numbers.shape
    groups = -(-cols // group)
    x = np.zeros((rows, groups * group), "<f4")
    x[:, :cols] = numbers
    x = x.reshape(-1, group)
    counted = lambda squares: squares                               # the padding of a last group must not count
    if cols % group:
        real = (np.arange(groups * group) < cols).astype("<f4").reshape(-1, group)
        counted = lambda squares: (squares.reshape(rows, -1, group) * real).reshape(-1, group)
    levels = np.asarray(levels, "<f4")
    nearest = np.searchsorted(levels[1:] + levels[:-1], np.arange(-256, 256), side="right").astype(np.uint8)
    best, scale = np.full(len(x), np.inf, "<f4"), encode(np.zeros(len(x), "<f4"))

    def indices(bits):
        s = decode(bits)
        halves = np.divide(np.float32(2), s, out=np.zeros_like(s), where=np.abs(s) > 1e-30)  # borders: multiples of 1/2
        return nearest[(np.clip(np.floor(x * halves[:, None]), -256, 255) + 256).astype(np.uint16)]

    def attempt(guess):
        bits = encode(guess)
        error = sums_of_rows(counted((x - levels[indices(bits)] * decode(bits)[:, None]) ** 2))
        better = error < best
        best[better], scale[better] = error[better], bits[better]

    largest = np.take_along_axis(x, np.abs(x).argmax(1)[:, None], 1)[:, 0]
    for level in first_guesses:
        attempt(largest / np.float32(level))
    for _ in range(2):
        chosen = levels[indices(scale)]
        attempt(sums_of_rows(x * chosen) / np.maximum(sums_of_rows(counted(chosen * chosen)), np.float32(1)))
    return indices(scale).reshape(rows, -1), scale.reshape(rows, groups)


def in_blocks(rows, together):
    """[rows, groups, n] -> [blocks, groups, n / together, BLOCK_ROWS, together]. The last block is padded with rows of
    zeros."""
    filled = np.pad(rows, ((0, -len(rows) % BLOCK_ROWS), (0, 0), (0, 0)))
    blocks = filled.reshape(-1, BLOCK_ROWS, rows.shape[1], rows.shape[2] // together, together)
    return np.ascontiguousarray(blocks.transpose(0, 2, 3, 1, 4))


def encode_q8(numbers, quantized=quantized):
    """[rows, cols] -> (int8 [blocks, groups, 16, 16 rows, 4], scales u16 [blocks, groups, 16 rows]); see model.h."""
    chosen, scales = quantized(range(-127, 128), numbers, GROUPS["q8"], GUESSES["q8"])
    integers = (chosen.astype("<i2") - 127).astype(np.int8)
    return in_blocks(integers.reshape(len(chosen), -1, GROUPS["q8"]), 4), in_blocks(scales[..., None], 1)


def encode_q4(numbers, quantized=quantized):
    """[rows, cols] -> (u8 [blocks, groups, 8, 16 rows, 4], scales u16 [blocks, groups, 16 rows]); see model.h."""
    chosen, scales = quantized(read_layout().q4_values, numbers, GROUPS["q4"], GUESSES["q4"])
    halves = chosen.reshape(len(chosen), -1, 2, GROUPS["q4"] // 2)
    return in_blocks(halves[:, :, 0] | halves[:, :, 1] << 4, 4), in_blocks(scales[..., None], 1)


GROUPS = {"f32": 0, "bf16": 0, "q8": 64, "q4": 64}
GUESSES = {"q8": (127, 130, 133, 124, 121, 136), "q4": (-63, -56, -69, 63, 56, 49)}     # where the search begins

NUMBER_BYTES = {"f32": 4, "bf16": 2}
BLOCK_ROWS = 16                                                     # rows that are interleaved in Q8 and Q4
TURNED_TOGETHER = 64                                                # the largest group, in numbers; a power of two
BLOCK_BYTES = {"q8": BLOCK_ROWS * 64, "q4": BLOCK_ROWS * 32}        # bytes of a group, without its scale
# [rows, cols] f32 (rows: a multiple of BLOCK_ROWS, except at a tensor's end) -> what is written: numbers, and scales or
# None. For Q8 and Q4, another function may take the place of `quantized`.
ENCODERS = {"f32": lambda numbers: (encode_f32(numbers), None), "bf16": lambda numbers: (encode_bf16(numbers), None),
            "q8": encode_q8, "q4": encode_q4}


def format_of(tensor, wanted):
    """The format of a tensor in a checkpoint made with --format wanted.

    Vectors and tables are f32. In a q4 file, only matrices of the text layers are Q4: they are most of the weights, and
    with lm_head all that decoding waits for. The others are Q8. The tower's products would not be faster in Q4, and
    four bits in all parts cost the demo model 1.5 points of right answers; in the text layers alone they cost none.
    (With random weights of the 500M shape these cost a text's logits most: tests/formats.py --parts.) In the text
    layers two things stay Q8: v_proj, few numbers, each of which costs ten times as much as one of the MLP's, and the
    first layer's MLP, measured best among what takes as many bits (docs/FORMATS.md, "What they cost, and where")."""
    field, kind, name, _, _ = tensor
    wide = ".text_model.layers." not in name or ".layers.0.mlp." in name or field == "v_proj"
    return "f32" if kind == "V" else "q8" if wanted == "q4" and wide else wanted


def size_of(format, rows, cols):
    """Bytes of a tensor."""
    if not GROUPS[format]:
        return rows * cols * NUMBER_BYTES[format]
    return -(-rows // BLOCK_ROWS) * -(-cols // GROUPS[format]) * (BLOCK_BYTES[format] + BLOCK_ROWS * 2)


def side_by_side(function, items):
    """map(function, items) on WORKERS threads, in order, a few items at a time. (numpy releases the GIL.)"""
    with concurrent.futures.ThreadPoolExecutor(WORKERS) as pool:
        waiting = collections.deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > WORKERS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def encoded(format, chunks, rounding=None):
    """The arrays to write, one after the other, for a tensor whose rows come in chunks. rounding: takes the place of
    quantized, if given."""
    encode = functools.partial(ENCODERS[format], quantized=rounding) if rounding else ENCODERS[format]
    scales = []
    for numbers, scale in side_by_side(encode, chunks):
        scales.append(scale)
        yield numbers
    if GROUPS[format]:
        yield np.concatenate(scales).astype("<u2", copy=False)


def read_safetensors_header(path):
    """{name: (path, dtype, shape, offset)} of one file. Every number is checked against the file's size."""
    with open(path, "rb") as f, naming(path):
        size = os.fstat(f.fileno()).st_size
        start = f.read(64)
        if is_pointer(start):
            raise Refused(POINTER)
        length = int.from_bytes(start[:8], "little")
        f.seek(8)
        if size < 8 or length > size - 8:
            raise Refused("is cut off or no safetensors file: its header does not fit")
        try:
            header = json.loads(f.read(length))
        except (ValueError, RecursionError) as error:
            raise Refused(f"is no safetensors file: its header is not JSON ({error})") from None
        tensors = {}
        for name, entry in header.items():
            if name == "__metadata__":
                continue
            (begin, end), shape, dtype = entry["data_offsets"], entry["shape"], entry["dtype"]
            count = 1
            for n in shape:
                count *= whole({"shape": n}, "shape", None, low=0)
            if not 0 <= begin <= end <= size - 8 - length:
                raise Refused(f"is cut off: the tensor {name} lies outside the file")
            if dtype in SOURCES and end - begin != count * SOURCES[dtype][0]:
                raise Refused(f"the tensor {name} has {end - begin} bytes, but its shape {shape} says otherwise")
            tensors[name] = (path, dtype, shape, 8 + length + begin)
        return tensors


MERGE = "put it into the model's weights (peft: merge_and_unload), save the result and export that"


def refuse_adapter(directory):
    """Refuses a directory with an adapter. Its weights are added only while transformers loads it, if peft is there."""
    path = os.path.join(directory, "adapter_config.json")
    if not os.path.exists(path):
        return
    with naming(path):
        base = read_json(directory, "adapter_config.json").get("base_model_name_or_path")
        whole_model = any(name.startswith("model") and name.endswith(".safetensors") for name in os.listdir(directory))
        raise Refused(f"{'beside the weights lies' if whole_model else 'the directory holds only'} an adapter to "
                      f"{base or 'a model that it does not name'}: {MERGE}"
                      + (", or take the adapter's files away" if whole_model else ""))


WRAPPERS = re.compile(r"(^|(?<=\.))(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
PREFIXES = "module.", "base_model.model."       # DistributedDataParallel's, PEFT's


def without_wrappers(directory, found):
    """found, with wrappers' prefixes removed from the tensors' names: those of torch.compile, DistributedDataParallel,
    FSDP and PEFT, whose state was saved instead of the model's. (transformers would ignore such tensors and use random
    weights.)"""
    lora = next((name for name in found if re.search(r"\.(lora_|base_layer\.|modules_to_save\.)", name)), None)
    if lora:
        raise Refused(f"{found[lora][0]}: the tensor {lora} belongs to an adapter: {MERGE}")
    names = {name: WRAPPERS.sub("", name) for name in found}
    while prefix := next((p for p in PREFIXES if names and all(name.startswith(p) for name in names.values())), None):
        names = {name: plain.removeprefix(prefix) for name, plain in names.items()}
    changed = next((name for name, plain in names.items() if name != plain), None)
    if changed is None:
        return found
    if len(set(names.values())) < len(names):
        raise Refused(f"{directory}: some tensors differ in nothing but a wrapper's name, such as {changed}")
    note(f"the tensors have a wrapper's names, such as {changed}, which is read as {names[changed]}")
    return {names[name]: source for name, source in found.items()}


SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


def find_tensors(directory):
    """{name: (path, dtype, shape, offset)} of all weights: from model.safetensors, or from the shards in its index."""
    single, index = (os.path.join(directory, name) for name in (SINGLE, INDEX))
    if os.path.exists(single) or not os.path.exists(index):
        if not os.path.exists(single):
            raise Refused(f"{single}: does not exist, nor an index of shards (weights in other files are not read)")
        return read_safetensors_header(single)
    places = read_json(directory, INDEX).get("weight_map")
    with naming(index):
        if any(os.path.basename(file) != file for file in places.values()):
            raise Refused("names a file outside the directory")
        shards = {file: read_safetensors_header(os.path.join(directory, file)) for file in sorted(set(places.values()))}
        for name, file in places.items():
            if name not in shards[file]:
                raise Refused(f"says that {name} is in {file}, but it is not")
    return {name: shards[file][name] for name, file in places.items()}


def source_name(name, text_only):
    """The checkpoint's name of a tensor: a text-only model has no .text_model."""
    return name.replace("model.text_model.", "model.") if text_only else name


def rows_of(source, rows, cols):
    """The tensor's f32 numbers, some rows at a time. All pieces but the last are a multiple of BLOCK_ROWS and of
    TURNED_TOGETHER rows."""
    path, dtype, _, offset = source
    width, decode = SOURCES[dtype]
    step = max(1, CHUNK // max(TURNED_TOGETHER * cols, 1)) * TURNED_TOGETHER
    with open(path, "rb") as f:
        f.seek(offset)
        for row in range(0, rows, step):
            count = min(step, rows - row) * cols
            raw = f.read(count * width)
            if len(raw) != count * width:
                raise Refused(f"{path}: became shorter while it was read")
            yield decode(np.frombuffer(raw, np.uint8)).reshape(-1, cols)


def settle_embeddings(directory, found, fields, text_only):
    """Ties lm_head and embed_tokens where PreTrainedModel.tie_weights would. Changes found and fields."""
    embed, head = source_name("model.text_model.embed_tokens.weight", text_only), "lm_head.weight"
    if not fields["tie_word_embeddings"]:
        return
    if embed not in found and head in found:                        # either one serves as both
        found[embed] = found[head]
    if embed in found and head in found:
        (_, a_dtype, shape, _), (_, b_dtype, head_shape, _) = found[embed], found[head]
        same = shape == head_shape and len(shape) == 2 and {a_dtype, b_dtype} <= SOURCES.keys() and all(
            np.array_equal(a, b) for a, b in zip(rows_of(found[embed], *shape), rows_of(found[head], *shape)))
        if same:
            del found[head]
        else:
            note("lm_head.weight differs from embed_tokens.weight, so they stay two, in spite of tie_word_embeddings")
            fields["tie_word_embeddings"] = 0


def check_tensors(directory, found, tensors, fields, text_only):
    """Refuses a checkpoint with a tensor that is missing, of another shape, of an unknown dtype, or not expected."""
    left = {name for name in found if not HARMLESS.fullmatch(name)}
    for field, _, name, rows, cols in tensors:
        if field == "inv_freq":
            continue
        name = source_name(name, text_only)
        if name not in found:
            raise Refused(f"{directory}: the tensor {name} is missing")
        path, dtype, shape, _ = found[name]
        patch = fields["patch_size"]
        expected = ([rows, 3, patch, patch] if field == "patch_embedding_weight" else
                    [cols] if rows == 1 and len(shape) == 1 else [rows, cols])
        if shape != expected:
            raise Refused(f"{path}: the tensor {name} has the shape {shape}, but config.json asks for {expected}")
        if dtype not in SOURCES:
            raise Refused(f"{path}: the tensor {name} is {dtype}, but only {', '.join(SOURCES)} can be read")
        left.discard(name)
    if left:
        raise Refused(f"{directory}: the tensor {min(left)} is not part of the model ({len(left)} such)")


# ------------------------------------------------------------------------------------------------ turned weights

# What a turned file's matrices have turned (docs/FORMATS.md, "Turning"), by the Hadamard matrices of which sizes: their
# columns, and their rows.
TURNED = {"q_proj": ("hidden_size", None), "k_proj": ("hidden_size", None), "v_proj": ("hidden_size", "head_dim"),
          "o_proj": ("head_dim", None), "gate_proj": ("hidden_size", None), "up_proj": ("hidden_size", None),
          "down_proj": ("intermediate_size", None), "embed_tokens": ("hidden_size", None),
          "lm_head": ("hidden_size", None)}
# The norm or matrix that makes what a matrix reads.
MAKER = {"q_proj": "input_layernorm", "k_proj": "input_layernorm", "v_proj": "input_layernorm", "o_proj": "v_proj",
         "gate_proj": "post_attention_layernorm", "up_proj": "post_attention_layernorm", "down_proj": "up_proj"}
READERS = {maker: [field for field in MAKER if MAKER[field] == maker] for maker in MAKER.values()}
# Turning.balance of these formats: of the sums of squares of columns of weights, and the mean squares of what they
# read. Only basic operations and roots: they have the same bits everywhere.
BALANCE = {"q8": lambda weights, read: np.sqrt(np.sqrt(np.sqrt(weights * weights * weights / read))),
           "q4": lambda weights, read: np.sqrt(weights)}
LAYER = re.compile(r"(.*\.layers\.\d+\.).*")


def hadamard(x, size, step=1):
    """float64 x times the Hadamard matrix of `size` (sv_hadamard_block in model.h), along an axis of a multiple of size
    numbers that lie step apart. In the order of quant.c; sums in a fixed order have the same bits everywhere."""
    block, shape = min(size & -size, TURNED_TOGETHER), x.shape
    end = block * step
    while step < end:
        pairs = x.reshape(-1, 2, step)
        x = np.empty_like(pairs)
        np.add(pairs[:, 0], pairs[:, 1], out=x[:, 0])
        np.subtract(pairs[:, 0], pairs[:, 1], out=x[:, 1])
        step *= 2
    return x.reshape(shape) * (1 / np.sqrt(np.float64(block)))


class Turning:
    """What a turned file has in place of the model's own numbers (docs/FORMATS.md, "Turning")."""

    def __init__(self, format, fields, found, tensors, text_only):
        self.formula = BALANCE.get(format, BALANCE["q8"])
        self.fields, self.found, self.text_only, self.balances = fields, found, text_only, {}
        self.at = {self.place(tensor): tensor for tensor in tensors}
        self.squares = None                     # calibrated: gives the mean squares [cols] of what a matrix reads

    @staticmethod
    def place(tensor):
        layer = LAYER.fullmatch(tensor[2])
        return layer and layer[1], tensor[0]

    def rows_of(self, tensor):
        return rows_of(self.found[source_name(tensor[2], self.text_only)], *tensor[3:])

    def balance(self, layer, maker):
        """By what the numbers that a norm or matrix makes are multiplied, float64 [numbers], and the columns that read
        them divided."""
        if (layer, maker) not in self.balances:
            _, kind, _, rows, cols = self.at[layer, maker]
            readers = [self.at[layer, field] for field in READERS[maker]]
            with np.errstate(all="ignore"):                         # what is infinite is refused later
                if self.squares:
                    read = self.squares(readers[0])
                else:                                               # what a norm makes is as large as its weights
                    norm = kind == "V"
                    read = next(self.rows_of(self.at[layer, maker]))[0].astype("f8") ** 2 if norm else np.ones(rows)
                weights = sum(np.square(x, dtype="f8").sum(0) for reader in readers for x in self.rows_of(reader))
                read, weights = (self.settled(squares, rows if kind == "M" else cols) for squares in (read, weights))
                self.balances[layer, maker] = self.formula(weights, read)
        return self.balances[layer, maker]

    def settled(self, squares, size):
        """[size] from [a multiple of size]: the heads of o_proj's columns that share a head of values count together.
        None is zero."""
        squares = np.where(np.isfinite(squares), squares, 0)        # a tensor with such numbers is refused later
        if len(squares) != size:
            squares = squares.reshape(-1, len(squares) // size, self.fields["head_dim"]).sum(1).ravel()
        return np.maximum(squares, (squares.max() or 1) * 1e-6)

    def divisors(self, tensor):
        """float64 [cols]: what a matrix' columns are divided by."""
        (layer, field), cols = self.place(tensor), tensor[4]
        if field not in MAKER:
            return np.ones(cols)
        balance = self.balance(layer, MAKER[field])
        if field != "o_proj":
            return balance
        heads = balance.reshape(-1, 1, self.fields["head_dim"])     # each is read by several heads of queries
        return np.repeat(heads, cols // len(balance), 1).ravel()

    def numbers(self, tensor):
        """A tensor's f32 numbers, in pieces as from rows_of; computed in float64, and rounded once."""
        (layer, field), (_, kind, _, rows, cols) = self.place(tensor), tensor
        balance = self.balance(layer, field) if field in READERS else None
        if kind == "V" and balance is not None:
            return [(x * balance).astype("<f4") for x in self.rows_of(tensor)]
        if field not in TURNED:
            return self.rows_of(tensor)
        factors = np.ones(rows) if balance is None else balance
        divisors, (by_columns, by_rows) = self.divisors(tensor), (size and self.fields[size] for size in TURNED[field])

        def pieces():
            at = 0
            for x in self.rows_of(tensor):
                yield x, factors[at:at + len(x), None]
                at += len(x)

        def turned(piece):
            with np.errstate(all="ignore"):                         # what is infinite is refused later
                x = hadamard(piece[0].astype("f8") * piece[1] / divisors, by_columns)
                return (hadamard(x, by_rows, cols) if by_rows else x).astype("<f4")
        return side_by_side(turned, pieces())

    def hessian(self, tensor, h):
        """Changes H [cols, cols] to that of the numbers as a turned file has them. Returns it."""
        field = tensor[0]
        if field in TURNED:
            factors, size = self.divisors(tensor), self.fields[TURNED[field][0]]
            for at in range(0, len(h), TURNED_TOGETHER):
                some = h[at:at + TURNED_TOGETHER]
                some *= factors
                some *= factors[at:at + TURNED_TOGETHER, None]
                some[:] = hadamard(hadamard(some, size), size, len(h))
        return h


def numbers_of(tensor, model):
    """A tensor's f32 numbers as they go into the file, before they are encoded, in pieces as from rows_of."""
    field, _, name, rows, cols = tensor
    chunks = rows_of(model.found[source_name(name, model.text_only)], rows, cols)
    if field == "position_embedding":
        return [by_patch(np.concatenate(list(chunks)), model.fields["image_size"] // model.fields["patch_size"])]
    return model.turning.numbers(tensor) if model.turning else chunks


# ------------------------------------------------------------------------------------------------ the hub

SMALL_FILES = ["config.json", "generation_config.json", "adapter_config.json", "preprocessor_config.json",
               "processor_config.json", "chat_template.json", "chat_template.jinja", "tokenizer.json",
               "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"]


def fetched(name):
    """The directory with a model of the Hugging Face hub, "owner/model", in huggingface_hub's cache. Fetches those
    files that are read here, unless they are in the cache."""
    try:
        import huggingface_hub
        from huggingface_hub import constants, errors
    except ModuleNotFoundError:
        raise Refused(f"{name}: is no directory here; to have a model of that name fetched from the Hugging Face hub: "
                      "pip install huggingface_hub") from None

    def fetch(files, revision=None):
        return huggingface_hub.snapshot_download(name, allow_patterns=files, revision=revision)

    try:
        directory = fetch([*SMALL_FILES, INDEX])
        revision = os.path.basename(directory)                      # the other files, of the same commit
        fetch([SINGLE], revision)
        if not os.path.exists(os.path.join(directory, SINGLE)) and os.path.exists(os.path.join(directory, INDEX)):
            with naming(os.path.join(directory, INDEX)):
                fetch(sorted(set(read_json(directory, INDEX)["weight_map"].values())), revision)
        return directory
    except Refused:
        raise
    except Exception as error:                      # the HTTP library below has errors of its own
        reason = error
    where = f"{name}: is no directory here, and on {constants.ENDPOINT}"
    if isinstance(reason, errors.GatedRepoError):
        raise Refused(f"{where} its owner lets only those fetch it who asked: do so there, then `hf auth login`")
    if isinstance(reason, errors.RepositoryNotFoundError):
        raise Refused(f"{where} there is no such model (a private one takes `hf auth login`)")
    if isinstance(reason, errors.LocalEntryNotFoundError):
        raise Refused(f"{where} nothing could be fetched: no answer from there, and no copy in the cache")
    what = str(reason).partition("\n")[0]
    raise Refused(f"{where} it could not be fetched ({type(reason).__name__}: {what})")


# ------------------------------------------------------------------------------------------------ calibration

ITEMS = os.path.join(os.path.dirname(HEADER), "calibration", "items.tsv")
MOST_HESSIANS = 3 << 29     # bytes that smolvlm gathers at a time
# The matrices by whose names smolvlm says what an input is; the others have the same inputs.
INPUTS = ("patch_embedding_weight", "modality_projection", "q_proj_weight", "out_proj_weight", "fc1_weight",
          "fc2_weight", "q_proj", "o_proj", "gate_proj", "down_proj", "lm_head")


# What is lost without, of released weights (docs/FORMATS.md).
UNCALIBRATED = {"q8": "without --calibrate ./smolvlm the weights are rounded to the nearest: about twice the error",
                "q4": "without --calibrate ./smolvlm the weights are rounded to the nearest: several times the error"}


class Calibration:
    """How a Q8 or Q4 file's matrices are rounded: by what their inputs are (calibration/gptq.py).

    The model is written to a folder as the file will have it, but not rounded; smolvlm runs the items with it and
    writes what export.py reads, of as many layers at a time as MOST_HESSIANS has room for."""

    def __init__(self, model, program, items, folder):
        from calibration import gptq                                # beside this program; nothing else needs it
        self.gptq, self.model, self.program, self.items = gptq, model, program, items
        self.file, self.gathered = os.path.join(folder, "model.bin"), os.path.join(folder, "hessians")
        large = sum(rows * cols for _, _, _, rows, cols in model.tensors) > 1 << 30
        plain = types.SimpleNamespace(**{**vars(model), "fields": {**model.fields, "turned": 0}, "turning": None})
        _, self.weights_crc = write(plain, self.file, "bf16" if large else "f32")
        if model.turning:
            model.turning.squares = self.squares
        self.passes, self.current, self.hessians, self.factor = self.divided(), None, None, (None, None)

    def layer_of(self, tensor):
        """The number by which smolvlm --layers knows a matrix: the tower's layers come first."""
        field, _, name, _, _ = tensor
        tower, fields = self.model.fields["vision_num_hidden_layers"], self.model.fields
        layer = LAYER.fullmatch(name)
        if layer:
            return int(layer[1].split(".")[-2]) + (0 if ".vision_model." in name else tower)
        return {"patch_embedding_weight": 0, "modality_projection": tower - 1}.get(
            field, tower + fields["num_hidden_layers"] - 1)

    def divided(self):
        """[(first, last)]: the layers of each pass."""
        sizes = collections.Counter()
        for tensor in self.model.tensors:
            if self.is_rounded(tensor) and (tensor[0] in INPUTS or tensor[0] == "embed_tokens"):
                sizes[self.layer_of(tensor)] += 2 * tensor[4] ** 2
        passes, size = [], MOST_HESSIANS
        for layer in sorted(sizes):
            size += sizes[layer]
            if size > MOST_HESSIANS:
                passes, size = [*passes, (layer, layer)], sizes[layer]
            passes[-1] = passes[-1][0], layer
        return passes

    def is_rounded(self, tensor):
        """Whether products tell how to round it: not of a table of embeddings alone."""
        field, kind, *_ = tensor
        return kind == "M" and (field != "embed_tokens" or bool(self.model.fields["tie_word_embeddings"]))

    def pass_of(self, tensor):
        layer = self.layer_of(tensor) if self.is_rounded(tensor) or tensor[0] in READERS else 0
        return next(i for i, (_, last) in enumerate(self.passes) if layer <= last)

    def order(self):
        """In which order the tensors are best written, so that each pass is made once."""
        return sorted(range(len(self.model.tensors)), key=lambda i: self.pass_of(self.model.tensors[i]))

    def gather(self, number):
        """One pass: smolvlm's progress becomes a bar, what else it says a sentence."""
        first, last = self.passes[number]
        command = [self.program, self.file, "--hessians", self.gathered, "--items", self.items,
                   "--layers", f"{first}-{last}"]
        said = "it said nothing"
        with subprocess.Popen(command, stderr=subprocess.PIPE, encoding="utf-8", errors="replace") as run, tqdm(
                desc=f"calibrating, {number + 1} of {len(self.passes)}", disable=None, leave=False,
                file=sys.stderr) as bar:
            try:
                for line in run.stderr:
                    item = re.fullmatch(r"item (\d+)/(\d+)\s*", line)
                    if item:
                        bar.total = int(item[2])
                        bar.update(1)
                    else:
                        said = line.strip()
            except BaseException:
                run.kill()
                raise
        if run.returncode:
            raise Refused(f"the calibration failed: {said}")
        self.hessians, self.current = self.gptq.Hessians(self.gathered, self.weights_crc), number

    def hessians_for(self, tensor):
        """The Hessians, after the pass that a tensor needs."""
        number = self.pass_of(tensor)
        if self.current != number:
            self.factor = None, None
            self.gather(number)
        return self.hessians

    def squares(self, tensor):
        """float64 [cols]: the mean squares of the numbers that a matrix reads."""
        try:
            return self.hessians_for(tensor).diagonal(tensor[2], tensor[4])
        except self.gptq.Unusable as error:
            raise Refused(str(error)) from None

    def rounding(self, tensor):
        """What to give `encoded` for a tensor."""
        if not self.is_rounded(tensor):
            return None
        _, _, name, _, cols = tensor
        try:
            hessians = self.hessians_for(tensor)
            key = self.current, hessians.at.get(name)
            if self.factor[0] != key:
                self.factor = None, None                            # two would take twice the memory
                h = hessians.matrix(name, cols)
                if self.model.turning:
                    h = self.model.turning.hessian(tensor, h)
                self.factor = key, self.gptq.Factor(h, WORKERS)
        except self.gptq.Unusable as error:
            raise Refused(str(error)) from None
        factor = self.factor[1]

        def quantized(levels, numbers, group, first_guesses):
            check_numbers(numbers)
            return self.gptq.quantized(levels, numbers, group, first_guesses, encode_bf16, decode_bf16, factor)
        return quantized


# ------------------------------------------------------------------------------------------------ the file

def align(offset):
    return -(-offset // 64) * 64


def name_of(directory):
    """The model's name, for people: its directory's; in the hub's cache, whose directories are commits, its name on the
    hub. (config.json's _name_or_path only says where its author kept it.)"""
    path = os.path.abspath(directory)
    cached = re.search(r"models--(?:.+--)?(.+)/snapshots/[0-9a-f]{40}$", path.replace(os.sep, "/"))
    return cached[1] if cached else os.fsencode(os.path.basename(path)).decode("utf-8", "replace")


def gather(directory, layout, name=None):
    """A directory's contents except the weights: (fields, inv_freq, tokenizer part, source tensors, text_only)."""
    refuse_adapter(directory)
    config, path = read_json(directory, "config.json"), os.path.join(directory, "config.json")
    fields = {field: EMPTY[kind] for kind, field in layout.config}
    with naming(path):
        model, graph, frequencies = read_config(config)
    text_only = model in TEXT_DEFAULTS
    fields.update(graph, **read_generation(directory, config, graph["vocab_size"]), name=name or name_of(directory))

    tokenizer, settings = read_tokenizer(directory, fields["vocab_size"])
    with naming(os.path.join(directory, "tokenizer.json")):
        blob = tokenizer_blob(tokenizer, fields["vocab_size"])
        compare_class(model, config, settings, tokenizer)
    if not text_only:
        fields.update(read_images(directory, fields))
        if model == "smolvlm":                              # Idefics3 has no video processor
            fields.update(read_video(directory, fields))
        with naming(path):
            fields.update(read_tokens(model, config, tokenizer, settings))

    place, template = find_template(directory, text_only)
    if template is not None:
        with naming(place):
            fields.update(read_chat(template, template_tokens(model, settings), fields["image_token"]))
    else:
        note("no chat template: the model completes text" + ("" if text_only else ", after the pictures"))

    found = without_wrappers(directory, find_tensors(directory))
    settle_embeddings(directory, found, fields, text_only)
    return fields, frequencies, blob, found, text_only


def selftest_hash(program, path):
    """The first hash that `program path --selftest` prints, 16 hexadecimal digits."""
    with naming(program):
        run = subprocess.run([program, path, "--selftest"], capture_output=True, text=True)
        hashes = re.findall(r"\b[0-9a-f]{16}$", run.stdout, re.M)
        if run.returncode or not hashes or "same bits" not in run.stdout:
            raise Refused(f"the self-test failed: {(run.stderr or run.stdout).strip() or 'it printed no hash'}")
        return hashes[0]


def export(source, out, format, program=None, name=None, turned=None, calibrate=None, items=ITEMS):
    """Writes a checkpoint directory, or a model of the hub, to the file out; returns (format, bytes, parameters).

    format None: the smallest that loses nothing. program: smolvlm, which computes the self-test's hash for a Q8 or Q4
    file, by which other machines know whether they agree. name: what --info calls the model. turned: whether the text
    layers are turned (docs/FORMATS.md); None: q8 and q4 files are, others not. calibrate: smolvlm, which
    runs the items, by which a Q8 or Q4 file is then rounded. Raises Refused and OSError."""
    layout = read_layout()
    for option, given in (("--seal", program), ("--calibrate", calibrate)):
        if given and format not in ("q8", "q4"):
            raise Refused(f"{option}: only for --format q8 and q4")
    if calibrate:
        version = subprocess.run([calibrate, "--version"], capture_output=True)     # before anything is computed
        if not version.stdout.startswith(b"smolvlm "):
            raise Refused(f"{calibrate}: is not smolvlm")
        if not os.path.exists(items):
            raise Refused(f"{items}: there is no such list of calibration items")
    on_hub = not os.path.exists(source) and re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", source)
    directory = fetched(source) if on_hub else source
    name = name or (source.split("/")[1] if on_hub else None)
    fields, frequencies, blob, found, text_only = gather(directory, layout, name)
    fields["selftest"] = "0" * 16
    with naming(directory):
        check_limits(fields)
    check_tensors(directory, found, list_tensors(layout, fields), fields, text_only)
    fields["turned"] = int(format in ("q8", "q4") if turned is None else turned)
    tensors = list_tensors(layout, fields)

    matrices = {found[source_name(name, text_only)][1] for _, kind, name, _, _ in tensors if kind == "M"}
    format = format or ("bf16" if matrices == {"BF16"} else "f32")
    model = types.SimpleNamespace(directory=directory, layout=layout, fields=fields, frequencies=frequencies, blob=blob,
                                  found=found, text_only=text_only, tensors=tensors, turning=None)
    if fields["turned"]:
        model.turning = Turning(format, fields, found, tensors, text_only)
    if format in ("q8", "q4") and not calibrate:
        note(UNCALIBRATED[format])
    with contextlib.ExitStack() as stack:
        calibration = None
        if calibrate:
            folder = stack.enter_context(tempfile.TemporaryDirectory(
                prefix=f"{os.path.basename(out)}.tmp-", dir=os.path.dirname(os.path.abspath(out))))
            calibration = Calibration(model, calibrate, items, folder)
        size, _ = write(model, out, format, calibration, program)
    return format, size, sum(rows * cols for field, _, _, rows, cols in tensors if field != "inv_freq")


def write(model, out, format, calibration=None, program=None):
    """Writes the file; returns (bytes, weights_crc)."""
    layout, fields, tensors = model.layout, model.fields, model.tensors
    formats = [format_of(tensor, format) for tensor in tensors]
    sizes = [size_of(f, rows, cols) for f, (_, _, _, rows, cols) in zip(formats, tensors)]
    table = sum(4 + len(name) + 32 for _, _, name, _, _ in tensors)
    data_offset = offset = align(40 + len(pack_config(layout, fields)) + table + len(model.blob))
    entries, offsets = [], []
    for f, size, (_, _, name, rows, cols) in zip(formats, sizes, tensors):
        entries.append(pack_string(name) + struct.pack("<4I2Q", layout.formats[f], GROUPS[f], rows, cols, offset, size))
        offsets.append(offset)
        offset += align(size)
    order = calibration.order() if calibration else range(len(tensors))
    with written_aside(out) as f, tqdm(total=offset, unit="B", unit_scale=True, disable=None, file=sys.stderr) as bar:
        for i in order:
            field, _, name, _, _ = tensors[i]
            with naming(f"{model.directory}: tensor {name}"):
                chunks = [model.frequencies] if field == "inv_freq" else numbers_of(tensors[i], model)
                rounding = calibration.rounding(tensors[i]) if calibration and GROUPS[formats[i]] else None
                f.seek(offsets[i])
                for data in itertools.chain(encoded(formats[i], chunks, rounding),
                                            [np.zeros(align(sizes[i]) - sizes[i], np.uint8)]):
                    f.write(data)
                    bar.update(data.nbytes)
        f.seek(data_offset)
        weights_crc = 0
        while data := f.read(CHUNK):
            weights_crc = zlib.crc32(data, weights_crc)

        def write_metadata():
            metadata = (pack_config(layout, fields) + b"".join(entries) + model.blob).ljust(data_offset - 40, b"\0")
            checked = struct.pack("<QQII", data_offset, offset, weights_crc, len(tensors)) + metadata
            f.seek(0)
            f.write(layout.magic + struct.pack("<II", layout.version, zlib.crc32(checked)) + checked)
            f.flush()

        write_metadata()
        if program:
            fields["selftest"] = selftest_hash(program, f.name)
            write_metadata()
        bar.update(data_offset)
    return offset, weights_crc


@contextlib.contextmanager
def written_aside(path):
    """A temporary file that replaces path if all goes well, and is removed if not (an error, Ctrl-C)."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise Refused(f"{path}: exists and is no regular file")
    aside = f"{path}.tmp-{os.getpid()}"
    try:
        with open(aside, "w+b") as f:
            yield f
        os.replace(aside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.remove(aside)
        raise


def main():
    parser = argparse.ArgumentParser(
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Writes a SmolVLM2, SmolVLM, Idefics3, Llama or Mistral checkpoint as the one file smolvlm reads.",
        epilog="""\
MODEL is a directory as Hugging Face publishes it (config.json, tokenizer.json, *.safetensors and the rest), or its
name there, if the package huggingface_hub is installed: then it is fetched into that package's cache.
    hf download HuggingFaceTB/SmolVLM2-500M-Video-Instruct --local-dir SmolVLM2-500M
    python export.py SmolVLM2-500M smolvlm2-500m.bin
    python export.py HuggingFaceTB/SmolVLM2-500M-Video-Instruct smolvlm2-500m.bin
--format says how the matrices are stored; norms, biases and positions are always f32.
    bf16  2 bytes a number: what the models were trained in; an f32 or f16 checkpoint is rounded
    f32   4 bytes a number: every bit of an f32 or f16 checkpoint
    q8    8.25 bits a number: close to bf16, and several times as fast
    q4    4.5 bits a number in the text layers, else q8: the smallest, decodes fastest
--calibrate ./smolvlm (the program that `make` builds) runs the texts and pictures of calibration/ first, and rounds
each weight of q8 or q4 by what that costs: a fraction of what rounding to the nearest loses, for some minutes of work.
    python export.py SmolVLM2-500M smolvlm2-500m.bin --format q4 --calibrate ./smolvlm
q8 and q4 compute the same bits on every machine; --seal ./smolvlm writes the hash of these bits into the file, so that
`smolvlm OUT.bin --selftest` says on any other machine whether it agrees.
OUT.bin appears only when it is complete; the same directory gives the same bytes every time (with --calibrate on one
machine, with one numpy). Exit status: 0, or 1 with one sentence that names the file and what is wrong with it.""")
    parser.add_argument("model", metavar="MODEL", help="the checkpoint directory, or a name on the Hugging Face hub")
    parser.add_argument("out", metavar="OUT.bin", help="the file to write")
    parser.add_argument("--format", choices=GROUPS, help="how matrices are stored (default: the smallest that loses "
                        "nothing, so bf16 if the checkpoint is, else f32)")
    parser.add_argument("--turned", action="store_true", help="turn the text layers' numbers in an f32 or bf16 file, "
                        "too (docs/FORMATS.md): for tests")
    parser.add_argument("--seal", metavar="PROGRAM", help="smolvlm, to compute the self-test's hash for q8 or q4")
    parser.add_argument("--calibrate", metavar="PROGRAM", help="smolvlm, to run the calibration items; q8 and q4 are "
                        "then rounded by what their inputs are there, and lose a fraction of what they lose otherwise")
    parser.add_argument("--items", metavar="LIST", default=ITEMS, help="another list of such items (default: "
                        "calibration/items.tsv beside export.py)")
    parser.add_argument("--name", help="what `smolvlm OUT.bin --info` calls the model (default: as its directory, or "
                        "as on the hub)")
    arguments = parser.parse_args()
    try:
        format, size, parameters = export(arguments.model, arguments.out, arguments.format, arguments.seal,
                                          arguments.name, arguments.turned or None, arguments.calibrate,
                                          arguments.items)
    except Refused as refusal:
        sys.exit(f"export.py: {refusal}")
    except OSError as error:
        sys.exit(f"export.py: {error.filename or arguments.out}: {error.strerror or error}")
    except MISFITS as error:                        # unforeseen: still a sentence, with Python's own words
        sys.exit(f"export.py: {arguments.model}: is not laid out as expected ({type(error).__name__}: {error})")
    except MemoryError:
        sys.exit(f"export.py: {arguments.model}: there is not enough memory")
    except KeyboardInterrupt:
        sys.exit("export.py: interrupted, nothing written")
    print(f"{arguments.out}: {format}, {size / 1e6:.1f} MB, {parameters / 1e6:.2f} M parameters")


if __name__ == "__main__":
    main()
