"""Writes tests/golden/model/: two small checkpoints, two pictures, and what torch and transformers make of them, for
tests/test_quant.c, tests/test_model.c, tests/test_checkpoint.c and tests/test_cli.sh.

    python tests/golden_model.py        in a venv with tests/requirements.txt

    vlm.bin  text.bin       checkpoints (export.py): a SmolVLM in f32, untied; a bf16 Llama with ChatML, tied
    vlm_q8.bin ...          the same in Q8 and Q4
    hashes                  of what these compute (sv_selftest): by the plain kernels, gcc -O0, one token at a time
    a.png  b.ppm            pictures
    vlm.golden text.golden  transformers' answers in float32: CASES below, by the name of the case and a slash:
                              text ids               the prompt, as rendered and expanded, and its token ids
                              greedy margins answer  the greedy ids, by how much each beat the next best, the text
                              a module's name        its output for the prompt; pixel_values too (only some cases)
    functions.golden        torch's answers in float64, rounded to float32, to inputs that noise() makes on both sides;
                            except cos and sin, which are transformers' in float32

A .golden file is read by golden.h: a row of { u32 length, name, u32 type, u32 dims, u32 shape[dims], data }, all
little-endian; type 0 is float, 1 int32, 2 bytes."""
import os
import struct
import subprocess
import sys
import tempfile

import numpy as np
import torch
import torch.nn.functional as F
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
GOLDEN = os.path.join(HERE, "golden", "model")
sys.path.insert(0, HERE)
import hf  # noqa: E402
import parity  # noqa: E402
import tiny_model  # noqa: E402

# No dimension equals another by chance, no head is a multiple of 16 wide, and the channels are normalised differently.
VLM = dict(
    vision_hidden_size=24, vision_num_attention_heads=2, vision_num_hidden_layers=2, vision_intermediate_size=40,
    image_size=32, patch_size=8, scale_factor=2, longest_edge=64, image_mean=(0.5, 0.45, 0.4),
    image_std=(0.5, 0.25, 0.3), hidden_size=32, num_attention_heads=4, num_key_value_heads=2, head_dim=10,
    num_hidden_layers=2, intermediate_size=52, max_position_embeddings=640, rope_theta=273768.0, merges=100)
TEXT = dict(
    hidden_size=36, num_attention_heads=6, num_key_value_heads=2, head_dim=6, num_hidden_layers=2, intermediate_size=44,
    max_position_embeddings=400, merges=100, dtype="bfloat16", tie_word_embeddings=True)

IMAGE = {"type": "image"}


def text(words):
    return {"type": "text", "text": words}


# name: messages, pictures, what the image processor is told, whether the modules' outputs are kept
CASES = {
    "question": ([("user", [IMAGE, text("What is in this picture?")])], ["a.png"], {}, True),
    "two_pictures": ([("system", [text("You answer\nin one word.")]),
                      ("user", [IMAGE, IMAGE, text("What has changed?")])], ["a.png", "b.ppm"], {}, False),
    "no_split": ([("user", [IMAGE, text("And the whole?")])], ["b.ppm"], dict(do_image_splitting=False), False),
    "longest_edge": ([("user", [IMAGE, text("Count to 12.")])], ["a.png"], dict(size={"longest_edge": 96}), False),
    "no_picture": ([("user", [text("Où est la bibliothèque? 你好 🙂")])], [], {}, True),
    "conversation": ([("user", [text("Look:"), IMAGE, text("What is it?")]),
                      ("assistant", [text("A tree.")]),
                      ("user", [IMAGE, text("And this?"), IMAGE]),
                      ("assistant", [text("Two dogs,\n and a chair.")]),
                      ("user", [text("Are you sure?")])], ["a.png", "b.ppm", "a.png"], {}, False),
}
TEXT_CASES = {
    "question": ([("user", "What is in this picture?")], [], {}, True),
    "system": ([("system", "You answer\nin one word."), ("user", "I'm sure we've seen 300 of them.")], [], {}, False),
    "conversation": ([("user", "Hello!"), ("assistant", "A tree."), ("user", "Are you sure?")], [], {}, False),
}
GREEDY = 24


class Golden:
    """A .golden file being written."""

    def __init__(self, name):
        self.file = open(os.path.join(GOLDEN, name), "wb")

    def put(self, name, value):
        if isinstance(value, str):
            value = value.encode()
        if isinstance(value, bytes):
            value = np.frombuffer(value, np.uint8)
        value = np.asarray(value)
        kind = {"f": 0, "i": 1, "u": 2}[value.dtype.kind]
        shape = struct.pack(f"<{2 + value.ndim}I", kind, value.ndim, *value.shape)
        data = value.astype(["<f4", "<i4", "u1"][kind]).tobytes()
        self.file.write(struct.pack("<I", len(name)) + name.encode() + shape + data)


def put_case(golden, name, model, processor, batch, keep):
    """Everything about one prompt."""
    tokenizer = getattr(processor, "tokenizer", processor)
    ids = batch["input_ids"][0].tolist()
    golden.put(f"{name}/ids", ids)
    golden.put(f"{name}/text", tokenizer.decode(ids))
    if keep:
        if "pixel_values" in batch:
            golden.put(f"{name}/pixel_values", batch["pixel_values"].numpy())
        parity.run_hf(model, batch, lambda module, out: golden.put(f"{name}/{module}", out))
    with torch.no_grad():
        out = model.generate(**batch, max_new_tokens=GREEDY, do_sample=False, output_scores=True,
                             return_dict_in_generate=True)
    greedy = out.sequences[0, len(ids):].tolist()
    best = [torch.topk(scores[0], 2).values for scores in out.scores]
    golden.put(f"{name}/greedy", greedy)
    golden.put(f"{name}/margins", np.array([float(b[0] - b[1]) for b in best]))
    golden.put(f"{name}/answer", tokenizer.decode(greedy))
    print(f"{name}: {len(ids)} ids, {len(greedy)} greedy, least margin {min(float(b[0] - b[1]) for b in best):.2e}")


def models(work):
    for name, kind, settings, form, cases in [("vlm", "smolvlm", VLM, "f32", CASES),
                                              ("text", "llama", TEXT, "bf16", TEXT_CASES)]:
        directory = tiny_model.make_tiny(os.path.join(work, name), seed=7, kind=kind, **settings)
        for suffix, *options in [("", form), ("_q8", "q8"), ("_q4", "q4")]:
            subprocess.run([sys.executable, os.path.join(ROOT, "export.py"), directory,
                            os.path.join(GOLDEN, name + suffix + ".bin"), "--format", *options], check=True)
        model, processor = hf.load_model(directory), hf.load_processor(directory)
        golden = Golden(name + ".golden")
        for case, (messages, pictures, options, keep) in cases.items():
            messages = [dict(role=role, content=content) for role, content in messages]
            rendered = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
            images = [hf.open_picture(os.path.join(GOLDEN, picture)) for picture in pictures]
            if name == "text":
                batch = processor(rendered, return_tensors="pt", add_special_tokens=False)
            else:
                batch = processor(text=rendered, images=[images] if images else None, return_tensors="pt", **options)
            put_case(golden, case, model, processor, batch, keep)


def hashes(work):
    program = os.path.join(work, "build", "test_model")
    subprocess.run(["make", "-s", f"BUILD={work}/build", "CC=gcc", "CFLAGS=-O0", "SIMD=0", "OMP=0", program], cwd=ROOT,
                   check=True)
    with open(os.path.join(GOLDEN, "hashes"), "wb") as f:
        subprocess.run([program, "--hashes"], cwd=ROOT, stdout=f, check=True)


def noise(seed, *shape):
    """Numbers in [-1, 1) that golden.h's noise() makes as well: splitmix64 of a counter, the top 24 bits."""
    z = np.arange(1, int(np.prod(shape)) + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed << 32)
    z = (z ^ z >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ z >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return torch.from_numpy((z >> np.uint64(40)).astype(np.float64) / 8388608 - 1).reshape(shape)


def float32(x):
    """A product of floats, rounded as C rounds it, in double."""
    return x.float().double()


def functions():
    golden = Golden("functions.golden")
    golden.put("exp", torch.exp(float32(noise(1, 2000) * 87)).numpy())
    golden.put("gelu", F.gelu(float32(noise(2, 2000) * 12), approximate="tanh").numpy())
    golden.put("silu", F.silu(float32(noise(3, 2000) * 30)).numpy())
    for n in [1, 2, 15, 16, 17, 333]:
        golden.put(f"softmax {n}", torch.softmax(float32(noise(4, n) * 9), -1).numpy())
    for size in [1, 2, 15, 17, 100, 1153]:
        x, weight, bias = float32(float32(noise(5, 3, size) * 3) + 1), noise(6, size), noise(7, size)
        golden.put(f"layer_norm {size}", F.layer_norm(x, (size,), weight, bias, float(np.float32(1e-6))).numpy())
        golden.put(f"rms_norm {size}", F.rms_norm(x, (size,), weight, float(np.float32(1e-5))).numpy())
    for n, rows, cols in [(1, 7, 13), (3, 19, 1), (5, 33, 100), (6, 3, 577)]:
        x, weight, bias = noise(8, n, cols), noise(9, rows, cols), noise(10, rows)
        golden.put(f"linear f32 {n} {rows} {cols}", F.linear(x, weight, bias).numpy())
        golden.put(f"linear bf16 {n} {rows} {cols}", F.linear(x, weight.bfloat16().double(), None).numpy())
    for n_q, n_k, heads, kv_heads, dim, causal in [
            (6, 6, 2, 2, 11, False), (9, 9, 3, 3, 72, False), (1, 1, 2, 1, 20, True), (5, 5, 4, 2, 20, True),
            (7, 19, 6, 2, 11, True), (1, 23, 3, 1, 72, True), (10, 13, 2, 1, 64, True)]:
        q, k, v = noise(11, n_q, heads, dim), noise(12, n_k, kv_heads, dim), noise(13, n_k, kv_heads, dim)
        q, k, v = (x.transpose(0, 1)[None] for x in (float32(q * 3), float32(k * 3), v))
        k, v = (x.repeat_interleave(heads // kv_heads, 1) for x in (k, v))
        mask = torch.ones(n_q, n_k, dtype=torch.bool).tril(n_k - n_q) if causal else None
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)[0].transpose(0, 1)
        golden.put(f"attention {n_q} {n_k} {heads} {kv_heads} {dim} {int(causal)}", out.numpy())
    positions = [0, 1, 2, 3, 5, 100, 1023, 2048, 4095, 6000, 8190, 8191]
    golden.put("positions", positions)
    for theta in [100000, 273768]:
        rope = LlamaRotaryEmbedding(LlamaConfig(
            hidden_size=64, num_attention_heads=1, head_dim=64, max_position_embeddings=8192,
            rope_parameters=dict(rope_type="default", rope_theta=float(theta))))
        cos, sin = rope(torch.zeros(1), torch.tensor([positions]))
        golden.put(f"inv_freq {theta}", rope.inv_freq.numpy())
        golden.put(f"cos {theta}", cos[0, :, :32].numpy())
        golden.put(f"sin {theta}", sin[0, :, :32].numpy())


def main():
    os.makedirs(GOLDEN, exist_ok=True)
    torch.set_num_threads(1)
    for name, size in [("a.png", (50, 37)), ("b.ppm", (29, 44))]:
        parity.draw_picture(os.path.join(GOLDEN, name), size, 5)
    functions()
    with tempfile.TemporaryDirectory() as work:
        models(work)
        hashes(work)
    print(f"{sum(f.stat().st_size for f in os.scandir(GOLDEN))} bytes in {GOLDEN}")


if __name__ == "__main__":
    main()
