"""llama.cpp's formats, acted out: what a GGUF file of a Hugging Face model would make of its weights, and what
libllama makes of a matrix product's input. All other arithmetic is float32, attention's too (libllama's keys and
values are f16, which costs far less). It is neither the program nor its file: no speed is measured here.

Q8_0, Q4_0 and Q5_0 are the gguf package's quantizers, which are ggml's; it has none for Q4_K and Q6_K, and those are
written below by ggml's rules: quantize_row_q4_K_ref, quantize_row_q6_K_ref. Which matrix gets which format is
llama.cpp's choice too (llama_tensor_get_type): see format_of.
"""
import contextlib

import gguf
import numpy as np
import torch

BITS = {"Q4_0": 4.5, "Q5_0": 5.5, "Q8_0": 8.5, "Q4_K": 4.5, "Q6_K": 6.5625}


def half(x):
    return x.astype(np.float16).astype(np.float32)


def inverse(x):
    """1 / x, and 0 where x is."""
    return np.divide(1, x, out=np.zeros_like(x), where=x != 0)


def scale_and_offset(x, most=15):
    """x [n, 32] -> the scale and the offset [n, 1] (x is about scale * i - offset, with i from 0 to most) that err
    least of 22, weighted by how large a number is beside the others (make_qkx2_quants)."""
    weight = np.sqrt((x * x).mean(1, keepdims=True)) + np.abs(x)
    low, high = np.minimum(x.min(1, keepdims=True), 0), x.max(1, keepdims=True)
    total, first = weight.sum(1, keepdims=True), (weight * x).sum(1, keepdims=True)
    span = inverse(high - low)
    best_scale, best_low = (high - low) / most, low
    i = np.clip(np.rint(most * span * (x - low)), 0, most)
    best = (weight * (best_scale * i + low - x) ** 2).sum(1, keepdims=True)
    for step in range(21):
        i = np.clip(np.rint((most - 1 + 0.1 * step) * span * (x - low)), 0, most)
        one, two = (weight * i).sum(1, keepdims=True), (weight * i * i).sum(1, keepdims=True)
        product = (weight * i * x).sum(1, keepdims=True)
        by = total * two - one * one
        scale, offset = (total * product - first * one) * inverse(by), (two * first - one * product) * inverse(by)
        above = offset > 0
        scale, offset = np.where(above, product * inverse(two), scale), np.where(above, 0, offset)
        error = (weight * (scale * i + offset - x) ** 2).sum(1, keepdims=True)
        better = (by > 0) & (error < best)
        best_scale, best_low = np.where(better, scale, best_scale), np.where(better, offset, best_low)
        best = np.where(better, error, best)
    flat = high == low
    return np.where(flat, 0, best_scale), -np.where(flat, low, best_low)


def q4_k(rows):
    """f32 [rows, cols], cols whole groups of 256 -> as Q4_K has them."""
    x = rows.reshape(-1, 32)
    scale, offset = (part.reshape(-1, 8) for part in scale_and_offset(x))
    d, least = scale.max(1, keepdims=True), offset.max(1, keepdims=True)
    scale_steps = np.minimum(np.rint(63 * inverse(d) * scale), 63)
    offset_steps = np.minimum(np.rint(63 * inverse(least) * offset), 63)
    scale = (half(d / 63) * scale_steps).reshape(-1, 1)
    offset = (half(least / 63) * offset_steps).reshape(-1, 1)
    i = np.clip(np.rint((x + offset) * inverse(scale)), 0, 15)
    return np.where(scale != 0, scale * i - offset, -offset).reshape(rows.shape).astype(np.float32)


def q6_k(rows):
    """f32 [rows, cols], cols whole groups of 256 -> as Q6_K has them (make_qx_quants for each 16)."""
    x = rows.reshape(-1, 16)
    largest = np.take_along_axis(x, np.abs(x).argmax(1)[:, None], 1)
    best, scale = np.zeros_like(largest), np.zeros_like(largest)
    for step in [0, *range(-9, 0), *range(1, 10)]:
        i = np.clip(np.rint(-(32 + 0.1 * step) * inverse(largest) * x), -32, 31)
        product, square = (x ** 3 * i).sum(1, keepdims=True), (x ** 2 * i * i).sum(1, keepdims=True)
        better = (square > 0) & ((product ** 2 > best * square) | (step == 0))
        scale = np.where(better, product * inverse(square), scale)
        best = np.where(better, scale * product, best)
    scale = scale.reshape(-1, 16)
    most = np.take_along_axis(scale, np.abs(scale).argmax(1)[:, None], 1)
    steps = np.minimum(np.rint(-128 * inverse(most) * scale), 127)
    scale = (half(-most / 128) * steps).reshape(-1, 1)
    return (scale * np.clip(np.rint(x * inverse(scale)), -32, 31)).reshape(rows.shape).astype(np.float32)


def through(format, rows):
    """f32 [rows, cols] -> as the format has them."""
    if format in ("Q4_K", "Q6_K"):
        return (q4_k if format == "Q4_K" else q6_k)(rows)
    kind = gguf.GGMLQuantizationType[format]
    return gguf.quants.dequantize(gguf.quants.quantize(rows, kind), kind).astype(np.float32)


def format_of(file, name, layer, layers, cols):
    """The format of a matrix in a file of type Q8_0, Q4_0 or Q4_K_M; layer: its number, None for the embeddings, which
    are lm_head too."""
    if file == "Q8_0":
        return "Q8_0"
    if layer is None:
        wanted = "Q6_K"
    elif file == "Q4_0":
        return "Q4_0"
    else:
        more = layer < layers // 8 or layer >= 7 * layers // 8 or (layer - layers // 8) % 3 == 2
        wanted = "Q6_K" if more and name in ("v_proj", "down_proj") else "Q4_K"
    return wanted if cols % 256 == 0 else {"Q4_K": "Q5_0", "Q6_K": "Q8_0"}[wanted]


def input_through(format, x):
    """A product's input, torch f32 [..., cols] -> as libllama multiplies it: int8, for K formats 256 with a scale in
    f32, for others 32 with one in f16."""
    k = format.endswith("_K")
    groups = x.unflatten(-1, (-1, 256 if k else 32))
    if k:
        most = groups.gather(-1, groups.abs().argmax(-1, keepdim=True))
        whole = (groups * torch.where(most != 0, -127 / most, 0)).round().clamp(max=127)
        return (whole * torch.where(most != 0, most / -127, 0)).flatten(-2)
    d = groups.abs().amax(-1, keepdim=True) / 127
    return ((groups * torch.where(d != 0, 1 / d, 0)).round() * d.half().float()).flatten(-2)


@contextlib.contextmanager
def acted_out(model, file):
    """Inside, a Hugging Face model of the Llama family computes as libllama would with a file of a type. Yields the
    bits a weight of its layers and of all."""
    layers, exact, hooks, bits = model.config.num_hidden_layers, {}, [], np.zeros((2, 2))

    def round_input(format):
        return lambda module, arguments: (input_through(format, arguments[0]), *arguments[1:])

    for name, module in model.named_modules():
        parts = name.split(".")
        layer = int(parts[2]) if name.startswith("model.layers.") else None
        if name != "model.embed_tokens" and not isinstance(module, torch.nn.Linear):
            continue
        format = format_of(file, parts[-1], layer, layers, module.weight.shape[1])
        if isinstance(module, torch.nn.Linear):
            hooks.append(module.register_forward_pre_hook(round_input(format)))
        if name == "lm_head" and module.weight is model.model.embed_tokens.weight:
            continue
        exact[name] = module.weight.detach().clone()
        module.weight.data.copy_(torch.from_numpy(through(format, exact[name].numpy())))
        for row in range(2):
            bits[row] += np.array([BITS[format], 1]) * exact[name].numel() * (row == 1 or layer is not None)
    try:
        yield bits[:, 0] / bits[:, 1]
    finally:
        for hook in hooks:
            hook.remove()
        for name, weight in exact.items():
            model.get_submodule(name).weight.data.copy_(weight)
