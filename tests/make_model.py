#!/usr/bin/env python3
"""Writes a full-size SmolVLM2 directory with seeded random weights: the published shapes of tests/published/NAME.

Parity, speed and memory at full size are measured on such checkpoints, so that nobody needs to download anything. Norms
and biases are moved away from 1 and 0, so that a forgotten one shows. --layers: only so many, in tower and decoder.

    python tests/make_model.py {256m,500m,2.2b} OUTDIR [--dtype bfloat16|float32] [--seed 0] [--shard 5GB] [--layers N]
"""
import argparse
import json
import os
import shutil

import torch
from transformers import SmolVLMConfig, SmolVLMForConditionalGeneration

PUBLISHED = os.path.join(os.path.dirname(os.path.abspath(__file__)), "published")
NAMES = ["256m", "500m", "2.2b"]


def make(name, out, dtype="bfloat16", seed=0, shard="5GB", layers=None):
    """Writes the HF directory out; returns its number of parameters."""
    torch.manual_seed(seed)
    config = SmolVLMConfig.from_pretrained(os.path.join(PUBLISHED, name))
    if layers:
        config.vision_config.num_hidden_layers = config.text_config.num_hidden_layers = layers
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        model = SmolVLMForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(before)
    model.to(getattr(torch, dtype))         # text_config.torch_dtype of the published files may say otherwise
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 1:
                p.add_(torch.randn_like(p) * 0.05)
    model.save_pretrained(out, max_shard_size=shard)
    for f in os.listdir(os.path.join(PUBLISHED, name)):     # the published files, not the library's rewrite of them
        shutil.copy(os.path.join(PUBLISHED, name, f), out)
    if layers:
        with open(os.path.join(out, "config.json"), "r+", encoding="utf-8") as f:
            published = json.load(f)
            for part in ("vision_config", "text_config"):
                published[part]["num_hidden_layers"] = layers
            f.seek(0)
            f.truncate()
            json.dump(published, f, indent=2)
    shutil.copy(os.path.join(PUBLISHED, "tokenizer.json"), out)
    return sum(p.numel() for p in model.parameters())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("out")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shard", default="5GB")
    parser.add_argument("--layers", type=int)
    a = parser.parse_args()
    count = make(a.name, a.out, a.dtype, a.seed, a.shard, a.layers)
    print(f"{a.out}: {count / 1e6:.2f} M parameters, {a.dtype}")


if __name__ == "__main__":
    main()
