"""Writes tests/golden/model/sample.golden, for tests/test_sample.c: what is left of logits by transformers' processors.

    python tests/golden_sample.py        in a venv with tests/requirements.txt

generate()'s own list of processors, in its own order, gets the logits that noise() of golden_model.py and golden.h
makes. For case N of CASES:
    N/settings   spread of the logits, steps (0, or how many values a unit has: so that there are equal ones), then
                 temperature (0: no sampling), top_k, top_p, min_p, repetition_penalty
    N/before     the ids so far
    N/scores     what is left of each logit, -inf where the token is barred
    N/kept       the tokens that are left, the likeliest first, of equal ones the lower id first
    N/weights    the probability of each"""
import numpy as np
import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

import golden_model

VOCAB = 300
# spread, steps, temperature, top_k, top_p, min_p, repetition_penalty, ids so far
CASES = [
    (6, 0, 1.0, 0, 1.0, 0.0, 1.0, 5), (6, 0, 0.7, 0, 1.0, 0.0, 1.0, 5), (6, 0, 2.5, 0, 1.0, 0.0, 1.0, 5),
    (6, 0, 1.0, 1, 1.0, 0.0, 1.0, 5), (6, 0, 1.0, 7, 1.0, 0.0, 1.0, 5), (6, 0, 1.0, 1000, 1.0, 0.0, 1.0, 5),
    (6, 4, 1.0, 5, 1.0, 0.0, 1.0, 5), (6, 4, 0.5, 13, 1.0, 0.0, 1.0, 5), (6, 1, 1.0, 1, 1.0, 0.0, 1.0, 5),
    (6, 0, 1.0, 0, 0.9, 0.0, 1.0, 5), (6, 0, 1.0, 0, 0.1, 0.0, 1.0, 5), (6, 0, 1.3, 0, 0.999, 0.0, 1.0, 5),
    (6, 0, 1.0, 0, 0.0001, 0.0, 1.0, 5), (6, 0, 1.0, 20, 0.8, 0.0, 1.0, 5), (6, 0, 0.8, 20, 0.3, 0.0, 1.0, 5),
    (6, 0, 1.0, 0, 1.0, 0.05, 1.0, 5), (6, 0, 1.0, 0, 1.0, 1.0, 1.0, 5), (6, 0, 2.0, 0, 1.0, 0.3, 1.0, 5),
    (6, 4, 1.0, 0, 1.0, 0.3, 1.0, 5), (6, 0, 1.0, 40, 0.95, 0.1, 1.0, 5), (6, 0, 0.6, 9, 0.99, 0.02, 1.0, 5),
    (6, 0, 1.0, 0, 1.0, 0.0, 1.3, 0), (6, 0, 1.0, 0, 1.0, 0.0, 1.3, 1), (6, 0, 1.0, 0, 1.0, 0.0, 1.3, 400),
    (6, 0, 1.0, 0, 1.0, 0.0, 0.7, 50), (6, 0, 0.7, 30, 0.9, 0.02, 1.1, 50), (6, 0, 1.7, 30, 0.9, 0.02, 50.0, 50),
    (6, 0, 0, 0, 1.0, 0.0, 1.3, 50), (6, 0, 0, 0, 1.0, 0.0, 1.0, 50), (40, 0, 1.0, 0, 1.0, 0.0, 1.2, 20),
]


def main():
    model = LlamaForCausalLM(LlamaConfig(vocab_size=VOCAB, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
                                         num_attention_heads=1))
    golden = golden_model.Golden("sample.golden")
    golden.put("cases", [len(CASES), VOCAB])
    for i, (spread, steps, temperature, top_k, top_p, min_p, penalty, n_before) in enumerate(CASES):
        logits = (golden_model.noise(100 + i, VOCAB) * spread).float()
        if steps:
            logits = torch.floor(logits * steps) / steps
        before = (golden_model.noise(200 + i, n_before).abs() * VOCAB).floor().long()
        settings = GenerationConfig(do_sample=temperature > 0, temperature=temperature or None, top_k=top_k,
                                    top_p=top_p, min_p=min_p, repetition_penalty=penalty)
        processors = model._get_logits_processor(settings, input_ids_seq_length=n_before)
        scores = processors(before[None], logits.clone()[None])[0]
        kept = sorted(torch.isfinite(scores).nonzero()[:, 0].tolist(), key=lambda t: (-scores[t].item(), t))
        weights = torch.softmax(scores[kept].double(), -1)
        golden.put(f"{i}/settings", np.array([spread, steps, temperature, top_k, top_p, min_p, penalty], np.float32))
        golden.put(f"{i}/before", before.numpy().astype(np.int32))
        golden.put(f"{i}/scores", scores.numpy())
        golden.put(f"{i}/kept", kept)
        golden.put(f"{i}/weights", weights.numpy())
        print(f"{i}: {[type(p).__name__ for p in processors]}, {len(kept)} of {VOCAB} kept")


if __name__ == "__main__":
    main()
