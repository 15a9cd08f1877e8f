#!/usr/bin/env python3
"""What a format costs: the logits of every position of a fixed text, and of a prompt with a picture, in our formats and
in llama.cpp's, against transformers in float32 on the same weights and the same token ids.

    python tests/accuracy.py                              500m with random weights, a text
    python tests/accuracy.py --model DIR --picture        a checkpoint of one's own, a text and a picture
    python tests/accuracy.py --demo                       the demo model: how many answers of demo/eval are right

KL is the mean over all positions of sum p log(p / q), p the reference's probabilities, in nats; top-1 how often the
likeliest token is the same; rms the root mean square of the logits' error relative to that of the logits themselves.
Random weights make nearly flat logits, so that KL is tiny and top-1 coarse there: rms is what to look at.

With a picture each side goes its whole way, from the file to the logits, and "features" is the rms error of the image
tokens: llama.cpp scales pictures in its own way, which is part of its error. Ours run one token at a time, which gives
the same bits as a whole prompt (checked at its end); the other engines run the whole at once.

--demo: demo/hf is exported in each of our formats, and build/eval asks each file all of demo/eval. Required: Q8 loses
at most 0.2 points against f32, Q4 at most 1.0; exit code 1 if not.

What single decisions within the formats cost is measured by formats.py.

Needs what bench_peers.py needs (--demo: what export.py needs), and shares its folder of builds and converted
checkpoints.
"""
import argparse
import ctypes
import json
import os
import re
import struct
import subprocess
import sys
import tempfile

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
sys.path.insert(0, HERE)
import bench_peers as peers

DEMO_FORMATS = ["f32", "bf16", "q8", "q4"]
ALLOWED = {"q8": 0.2, "q4": 1.0}                            # points that a format may lose against f32
FORMATS = ["ours-f32", "ours-bf16", "ours-q8", "ours-q4", "llama-q8_0", "llama-q4_0"]
QUESTION = "What is in this picture?"
TEXT = """A harbour town wakes slowly. Before six the first boats return, low in the water, and men in yellow coats
throw ropes to each other without a word. By seven the market hall smells of fish, coffee and wet wood; a woman counts
crates of mackerel, 14 of them, at 3.75 a kilo, and writes the sum on a slate. The church clock, which has been four
minutes slow since 1962, strikes the quarter.

How do tides work? The moon pulls the near side of the ocean harder than the Earth beneath it, and the Earth harder than
the far side, so that the water rises on both sides at once; the sun does the same, less than half as strongly. When
both pull along one line, at new and at full moon, the range is largest. A bay whose own period is close to twelve and a
half hours may answer with waves of more than ten metres, as a swing answers to small pushes at the right moment.

def tide(t, parts):
    \"\"\"Height in metres at t hours: the sum of a few cosines.\"\"\"
    return sum(a * math.cos(math.radians(speed * t - phase)) for a, speed, phase in parts)

Le soir, les touristes mangent des crêpes sur le quai et regardent les bateaux repartir. "Will it rain tomorrow?" asks
a child. "Ask the gulls," says the fisherman, "if they walk on the sand, stay at home." Nobody knows whether that is
true, but the gulls are walking now, in single file, along the edge of the foam, and over the lighthouse the sky has
taken the colour of slate. Somebody closes the shutters of the Hotel Bellevue, one after another, eleven windows on
each floor."""


# ------------------------------------------------------------------------------------------------------------ workers
#
# Each answers a job {"model", "ids", "image" (a path or null), "threads", "out", ...} by writing DIR/logits.npy, f32
# [positions, vocabulary], and with a picture DIR/features.npy, f32 [image tokens, hidden], DIR being job["out"].

def save(job, name, array):
    np.save(os.path.join(job["out"], name + ".npy"), np.ascontiguousarray(array, "<f4"))


def hf_worker(job):
    import torch
    import hf

    hf.settle(job["threads"])
    model = hf.load_model(job["model"])
    batch = {"input_ids": torch.tensor([job["ids"]])}
    if job["image"]:
        batch = hf.inputs(hf.load_processor(job["model"]), [hf.open_picture(job["image"])], QUESTION)
        model.model.connector.register_forward_hook(
            lambda module, args, out: save(job, "features", out.reshape(-1, out.shape[-1])))
    with torch.inference_mode():
        save(job, "logits", model(**batch).logits[0])


def llama_worker(job):
    L, M, model, context, vision = peers.llama_open(job, peers.CONTEXT)
    vocabulary, hidden = L.llama_vocab_n_tokens(L.llama_model_get_vocab(model)), L.llama_model_n_embd(model)
    logits, features, position = [], [], 0

    def decode(n, ids=None, embeddings=None):
        """n token ids, or embeddings [n, hidden]; every position's logits are kept."""
        nonlocal position
        batch = L.llama_batch_init(n, 0 if ids else hidden, 1)
        batch.n_tokens = n
        if ids:
            np.ctypeslib.as_array(batch.token, (n,))[:] = ids
        else:
            np.ctypeslib.as_array(batch.embd, (n, hidden))[:] = embeddings
        np.ctypeslib.as_array(batch.pos, (n,))[:] = np.arange(position, position + n)
        np.ctypeslib.as_array(batch.n_seq_id, (n,))[:] = 1
        np.ctypeslib.as_array(batch.logits, (n,))[:] = 1
        for i in range(n):
            batch.seq_id[i][0] = 0
        if L.llama_decode(context, batch):
            raise SystemExit("llama_decode failed")
        logits.append(np.ctypeslib.as_array(L.llama_get_logits(context), (n, vocabulary)).copy())
        L.llama_batch_free(batch)
        position += n

    if not job["image"]:
        decode(len(job["ids"]), job["ids"])
    else:
        pieces, seen = peers.llama_pieces(M, vision, job["image"], QUESTION), []
        for chunk, count, ids in pieces:
            seen += ids or [job["image_token_id"]] * count
            if not ids:
                if M.mtmd_encode_chunk(vision, chunk):
                    raise SystemExit("mtmd_encode_chunk failed")
                features.append(np.ctypeslib.as_array(M.mtmd_get_output_embd(vision), (count, hidden)).copy())
            decode(count, ids, None if ids else features[-1])
        if seen != job["ids"]:
            raise SystemExit("llama.cpp makes other token ids of the picture")
        save(job, "features", np.concatenate(features))
    save(job, "logits", np.concatenate(logits))


def ours_worker(job):
    """Through model.h, from the library that was made of the program's own objects."""
    library = ctypes.CDLL(job["library"])
    error, model, decoder = ctypes.create_string_buffer(640), ctypes.c_void_p(), ctypes.c_void_p()

    def call(name, *arguments):
        if getattr(library, name)(*arguments, error) != 0:
            raise SystemExit(error.value.decode())

    def floats(array):
        return array.ctypes.data_as(ctypes.POINTER(ctypes.c_float))

    call("sv_open", job["model"].encode(), ctypes.byref(model))
    ids, hidden, vocabulary = np.array(job["ids"], np.int32), job["hidden"], job["vocabulary"]
    x, logits = np.zeros((len(ids), hidden), np.float32), np.zeros((len(ids), vocabulary), np.float32)
    library.sv_embed(model, ids.ctypes.data_as(ctypes.c_void_p), ctypes.c_size_t(len(ids)), floats(x))
    if job["image"]:
        subprocess.run([job["binary"], job["model"], "-i", job["image"], "-p", QUESTION, "-n", "1", "-q", "-j",
                        str(job["threads"]), "--dump", job["out"]], stdout=subprocess.DEVNULL, check=True)
        features = np.load(os.path.join(job["out"], "model.connector.npy")).reshape(-1, hidden)
        save(job, "features", features)
        x[ids == job["image_token_id"]] = features
    whole, last = x.copy(), np.zeros(vocabulary, np.float32)
    call("sv_decoder_new", model, len(ids), job["threads"], ctypes.byref(decoder))
    call("sv_decoder_forward", decoder, floats(whole), ctypes.c_size_t(len(ids)), floats(last), None)
    library.sv_decoder_free(decoder)
    call("sv_decoder_new", model, len(ids), job["threads"], ctypes.byref(decoder))
    for i in range(len(ids)):
        call("sv_decoder_forward", decoder, floats(x[i:]), ctypes.c_size_t(1), floats(logits[i:]), None)
    if not np.array_equal(logits[-1], last):
        peers.say(f"    token by token differs from the whole prompt by {np.max(np.abs(logits[-1] - last)):.2g}")
    save(job, "logits", logits)


def make_library(cache):
    """./smolvlm once more, with the Makefile's own flags but as a shared library."""
    place = os.path.join(cache, "library")
    peers.run(["make", "-s", "-C", ROOT, f"BUILD={place}", "CFLAGS_EXTRA=-fPIC", "LDFLAGS=-shared",
               os.path.join(place, "smolvlm")], "library")
    return os.path.join(place, "smolvlm")


# ----------------------------------------------------------------------------------------------------------- the table

def bits_of(paths):
    """Bits per weight of the text layers and of all tensors, as stored in the files (ours or GGUF)."""
    bits, numbers = np.zeros(2), np.zeros(2)                # text layers, all
    for path in paths:
        if path.endswith(".gguf"):
            from gguf import GGUFReader
            tensors = [(t.name.startswith("blk."), int(t.n_bytes), int(t.n_elements)) for t in GGUFReader(path).tensors]
        else:
            with open(path, "rb") as f:                     # the tensor table: model.h
                size = struct.unpack("<Q", f.read(24)[16:])[0]
                metadata = f.read(size - 24)
            tensors = []
            for match in re.finditer(rb"(?:model\.|lm_head\.)[\w.]+", metadata):
                format, group, rows, cols, offset, size = struct.unpack_from("<4I2Q", metadata, match.end())
                tensors.append((b"text_model.layers." in match[0], size, rows * cols))
        for layers, size, count in tensors:
            bits += [8 * size * layers, 8 * size]
            numbers += [count * layers, count]
    return bits / numbers


def compare(logits, reference):
    """(mean KL, share of equal likeliest tokens, relative rms) of logits [positions, vocabulary], row by row."""
    divergence, same, wrong, whole = [], 0, 0.0, 0.0
    for mine, his in zip(logits, reference):
        q, p = mine.astype(np.float64), his.astype(np.float64)
        wrong, whole = wrong + np.sum((q - p) ** 2), whole + np.sum(p ** 2)
        same += int(np.argmax(q) == np.argmax(p))
        log_q, log_p = (x - x.max() - np.log(np.sum(np.exp(x - x.max()))) for x in (q, p))
        divergence.append(np.sum(np.exp(log_p) * (log_p - log_q)))
    return float(np.mean(divergence)), same / len(divergence), float(np.sqrt(wrong / whole))


def rms(x, reference):
    """The rms of x - reference relative to that of reference, arrays of one shape."""
    x, reference = x.astype(np.float64), reference.astype(np.float64)
    return float(np.sqrt(np.sum((x - reference) ** 2) / np.sum(reference ** 2)))


def prompt(directory, image, positions):
    """The token ids of the text or of the question about the picture, and the dimensions that ours_worker needs."""
    import hf
    config = hf.read_json(directory, "config.json")
    text = config.get("text_config", config)
    settings = {"hidden": text["hidden_size"], "vocabulary": text["vocab_size"]}
    processor = hf.load_processor(directory)
    if "image_token_id" in config:
        settings["image_token_id"] = config["image_token_id"]
    if image:
        return hf.inputs(processor, [hf.open_picture(image)], QUESTION)["input_ids"][0].tolist(), settings
    tokenizer = getattr(processor, "tokenizer", processor)
    return tokenizer(TEXT, add_special_tokens=False)["input_ids"][:positions], settings


# ------------------------------------------------------------------------------------------------------ the demo model

def read_lines(path):
    """[dict] of a file of JSON objects, a line each; none if there is no such file."""
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8") as f:
        return [json.loads(line) for line in f]


def ask_demo(a, file, questions, answers, every=1):
    """{id: whether the answer is right} of every Nth question of a folder, as build/eval finds it for a checkpoint,
    which writes the answers to a file. (Its exit code also says whether enough are right.)"""
    if os.path.exists(answers):                             # what is read below is this run's
        os.remove(answers)
    done = subprocess.run([a.eval, file, questions, "--answers", answers, "--every", str(every), "-j", str(a.threads)],
                          stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                          env={**os.environ, "OMP_WAIT_POLICY": "passive"})
    right = {line["id"]: line["right"] for line in read_lines(answers)}
    if right.keys() != {line["id"] for line in read_lines(os.path.join(questions, "eval.jsonl"))[::every]}:
        raise SystemExit(f"{file}: {done.stderr.strip()}")
    return right


def demo(a):
    """Prints the share of right answers per skill and format, and the files' sizes; returns the exit code."""
    directory, questions = os.path.join(a.demo, "hf"), os.path.join(a.demo, "eval")
    place = os.path.join(a.cache, "demo")
    os.makedirs(place, exist_ok=True)
    skills = {q["id"]: q["skill"] for q in read_lines(os.path.join(questions, "eval.jsonl"))[::a.every]}
    files, right = {}, {}                                   # right: {format: {id: bool}}
    for kind in DEMO_FORMATS:
        files[kind] = peers.ours(directory, place, kind)
        right[kind] = ask_demo(a, files[kind], questions, os.path.join(place, kind + ".jsonl"), a.every)
        peers.say(f"{kind}: {sum(right[kind].values())} of {len(skills)} right")

    def share(kind, skill=None):
        values = [value for i, value in right[kind].items() if skill in (None, skills[i])]
        return 100 * sum(values) / len(values)

    def cells(what, skill=None):
        first = share("f32", skill)
        return [what, str(sum(skill in (None, s) for s in skills.values()))] + \
            [f"{share(kind, skill):.1f}" + (f" ({share(kind, skill) - first:+.1f})" if kind != "f32" else "")
             for kind in DEMO_FORMATS]

    rows = [cells(skill, skill) for skill in sorted(set(skills.values()))] + [cells("total")]
    rows.append(["MB", ""] + [f"{os.path.getsize(files[kind]) / 1e6:.1f}" for kind in DEMO_FORMATS])
    rows.append(["bits per weight", ""] + [f"{bits_of([files[kind]])[1]:.2f}" for kind in DEMO_FORMATS])
    print("Right answers in per cent (difference to f32):\n")
    print("| skill | questions | " + " | ".join(DEMO_FORMATS) + " |")
    print("|---" * (2 + len(DEMO_FORMATS)) + "|")
    for row in rows:
        print("| " + " | ".join(row) + " |")
    lost = {kind: share("f32") - share(kind) for kind in ALLOWED}
    too_much = [kind for kind in ALLOWED if lost[kind] > ALLOWED[kind] + 1e-9]
    for kind in too_much:
        print(f"{kind} loses {lost[kind]:.2f} points, more than {ALLOWED[kind]}")
    return int(bool(too_much))


def main():
    if len(sys.argv) == 3 and sys.argv[1] == "--worker":
        job = json.loads(sys.argv[2])
        {"hf": hf_worker, "llama": llama_worker, "ours": ours_worker}[job["engine"]](job)
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="500m", help="256m, 500m, 2.2b (random weights) or a Hugging Face directory")
    parser.add_argument("--formats", nargs="+", default=FORMATS, metavar="FORMAT",
                        choices=[p for p in peers.PEERS if not p.endswith("-off")], help=", ".join(FORMATS))
    parser.add_argument("--picture", action="store_true", help="also with a picture")
    parser.add_argument("--image", default=os.path.join(HERE, "pictures", "coffee.jpg"))
    parser.add_argument("--demo", nargs="?", const=os.path.join(ROOT, "demo"), metavar="DIR",
                        help="the demo model instead: DIR holds hf and eval (default: demo)")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="with --demo: only every Nth question")
    parser.add_argument("--eval", default=os.path.join(ROOT, "build", "eval"), help="the program made of demo/eval.c")
    parser.add_argument("--positions", type=int, help="only so many of the text's tokens")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--binary", default=os.path.join(ROOT, "smolvlm"))
    parser.add_argument("--cache", default=os.path.join(ROOT, "build", "peers"))
    a = parser.parse_args()
    a.cache = os.path.abspath(a.cache)
    if a.demo:
        sys.exit(demo(a))

    random = a.model in peers.NAMES
    directory = peers.hf_directory(a.cache, a.model) if random else os.path.abspath(a.model)
    place = os.path.join(a.cache, a.model if random else "of-" + os.path.basename(directory))
    os.makedirs(place, exist_ok=True)
    llama = peers.Llama(a.cache) if any(peers.PEERS[f].engine == "llama" for f in a.formats) else None
    library = make_library(a.cache) if any(peers.PEERS[f].engine == "ours" for f in a.formats) else None
    if llama:
        sys.path.insert(0, os.path.join(llama.vendor, "gguf-py"))         # for bits_of
    environment = {**(llama.environment if llama else os.environ), "OMP_NUM_THREADS": str(a.threads)}

    def ask(engine, out, **job):
        os.makedirs(out)
        done = subprocess.run([sys.executable, os.path.abspath(__file__), "--worker",
                               json.dumps({**job, "engine": engine, "out": out, "threads": a.threads})],
                              env=environment)
        if done.returncode != 0:
            raise peers.Failed(f"{engine} failed on {job['model']} with exit code {done.returncode}")
        features = os.path.join(out, "features.npy")
        return (np.load(os.path.join(out, "logits.npy"), mmap_mode="r"),
                np.load(features) if os.path.exists(features) else None)

    rows = {}
    with tempfile.TemporaryDirectory(dir=place) as work:
        for image in [None] + ([os.path.abspath(a.image)] if a.picture else []):
            ids, settings = prompt(directory, image, a.positions)
            peers.say(f"reference: {len(ids)} tokens")
            what = "picture" if image else "text"
            common = {"ids": ids, "image": image, "library": library, "binary": a.binary, **settings}
            reference, reference_features = ask("hf", os.path.join(work, what), model=directory, **common)
            for name in a.formats:
                peers.say(f"{name}: {what}")
                engine, kind = peers.PEERS[name].engine, peers.PEERS[name].format
                if engine == "llama":
                    files = [peers.gguf(directory, place, part, llama)
                             for part in ([kind, "mmproj-q8_0"] if "image_token_id" in settings else [kind])]
                else:
                    files = [directory if engine == "hf" else peers.ours(directory, place, kind)]
                try:
                    logits, features = ask(engine, os.path.join(work, what + name), model=files[0], flash=-1,
                                           mmproj=files[-1] if image else None, **common)
                except peers.Failed as failure:
                    peers.say(f"{name} is left out: {failure}")
                    continue
                row = rows.setdefault(name, [files])
                row.append(compare(logits, reference))
                if features is not None:
                    row.append((rms(features, reference_features),))
            spread = float(np.std(reference - np.mean(reference, -1, keepdims=True)))
            peers.say(f"the reference's logits: standard deviation {spread:.3g} about their mean")

    titles = ["format", "bits per weight: text layers / all", "MB", "KL", "top-1", "rms"]
    print(f"{directory}, against transformers in float32; {llama.version() if llama else ''}\n")
    print("| " + " | ".join(titles + (["picture: KL", "top-1", "rms", "features"] if a.picture else [])) + " |")
    print("|---" * (len(titles) + 4 * a.picture) + "|")
    for name, (files, *numbers) in rows.items():
        cells = [name, "{:.2f} / {:.2f}".format(*bits_of(files)), f"{sum(map(os.path.getsize, files)) / 1e6:.0f}"]
        for number in numbers:
            cells += [f"{number[0]:.1e}"] + ([f"{number[1]:.1%}", f"{number[2]:.1e}"] if len(number) == 3 else [])
        print("| " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
