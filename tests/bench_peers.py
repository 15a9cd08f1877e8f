#!/usr/bin/env python3
"""Speed and memory beside the peers: llama.cpp, transformers and ./smolvlm on the same random checkpoints, the same
picture and prompts, the same number of threads and of generated tokens, greedy all of them.

    python tests/bench_peers.py                                   256m, 500m, 2.2b, everything (hours on two cores)
    python tests/bench_peers.py --models 256m 500m --rounds 1     fewer models, one round
    python tests/bench_peers.py --models 500m --quick --rounds 1  one tile and short texts (minutes)
    python tests/bench_peers.py --peers llama-q8_0 ours-q8 --cases short

Every measurement is a process of its own, so that peak memory and state are its own; in each round all engines take
turns at each case, and the table shows the medians of the rounds, so that a machine whose speed drifts favours none.

    case      what is asked                                   what it gives
    picture   coffee.jpg (17 tiles) and a short question      time to first token and its parts, memory
    text      a text of about as many tokens, no picture      prefill, and decode after it
    short     "Hi"                                            decode from an almost empty context

What is counted the same for all: loading is not counted; "image" is reading, scaling and cutting the picture and
tokenizing; "vision" the tower and the connector of all tiles; "prefill" the decoder up to the first token's logits;
"decode" the steps after the first token. llama.cpp is its own libmtmd and libllama, compiled for this machine from
PyPI's source package of llama-cpp-python and called through that package's ctypes declarations in the order in which
its mtmd_helper_eval_chunks calls them: the decoder runs once a piece of text and once a tile, since that is how
llama.cpp reads a picture. Flash attention is its default ("auto", which turns it on) and faster that way in the tower
and in prefill, but slower in decoding a long context: the peers "...-off" are its decoder without it, for the cases
text and short. transformers runs under torch.inference_mode with sdpa attention.

Needs the Python packages of `make parity`, a C++ compiler and the network for the source package; everything made is
kept under --cache (some 25 GB, most of it for the 2.2b). A model that cannot be made is noted, and the others are
measured. This process must stay small: a child's peak memory is at least what its parent had when it forked.
"""
import argparse
import collections
import ctypes
import glob
import itertools
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)

LLAMA_CPP_PYTHON = "0.3.36"
NAMES = ["256m", "500m", "2.2b"]
PARAMETERS = {"256m": 256_484_928, "500m": 507_482_304, "2.2b": 2_246_784_880}
# bits: of a weight, roughly; the ratios compare with peers whose weights are "at least as wide". flash: llama.cpp's
# setting for the decoder, -1 auto, 0 off
Peer = collections.namedtuple("Peer", "engine format bits flash", defaults=[None])
PEERS = {"llama-q8_0": Peer("llama", "q8_0", 8, -1), "llama-q8_0-off": Peer("llama", "q8_0", 8, 0),
         "llama-q4_0": Peer("llama", "q4_0", 4, -1), "llama-q4_0-off": Peer("llama", "q4_0", 4, 0),
         "hf-bf16": Peer("hf", "bfloat16", 16), "hf-f32": Peer("hf", "float32", 32),
         "ours-f32": Peer("ours", "f32", 32), "ours-bf16": Peer("ours", "bf16", 16),
         "ours-q8": Peer("ours", "q8", 8), "ours-q4": Peer("ours", "q4", 4)}
BF16_FLAGS = ("avx512_bf16", "amx_bf16", "bf16")
CASES = ["picture", "text", "short"]

QUESTION = "What is in this picture?"
PASSAGE = ("A cup of coffee stands on the wooden table beside a small plate and an open notebook. Behind it, through "
           "the window, people walk along the wet street under umbrellas, and a yellow tram turns the corner. ")
TEXT_PASSAGES, QUICK_PASSAGES = 26, 6           # about 44 tokens each
CONTEXT = 2048                                  # positions that every case fits into


class Failed(Exception):
    """A measurement did not come to its end."""


def say(text):
    print(text, file=sys.stderr, flush=True)


def run(command, what, **kwargs):
    """A command that must succeed; its output is shown only if it does not."""
    start = time.time()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **kwargs)
    if done.returncode != 0:
        raise SystemExit(f"bench_peers.py: {what} failed:\n{done.stdout[-4000:]}")
    say(f"{what}: {time.time() - start:.0f} s")


# ------------------------------------------------------------------------------------------------------- preparations

def machine():
    """The processor's name and its flags, which a library built with -march=native depends on."""
    name, flags = platform.processor() or platform.machine(), ""
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo") as f:
            fields = dict(line.split(":", 1) for line in f.read().split("\n\n")[0].splitlines() if ":" in line)
        fields = {key.strip(): value.strip() for key, value in fields.items()}
        name = f"{fields.get('model name', name)} (family {fields.get('cpu family')}, model {fields.get('model')})"
        flags = fields.get("flags", "")
    return name, flags


def without_amx():
    """Whether llama.cpp must be built without AMX here: with it, this version dies of an illegal instruction (tilezero
    in a thread that has not set up its tiles)."""
    return "amx_int8" in machine()[1].split()


class Llama:
    """llama.cpp, built from the source package into cache/llama.cpp unless it is there for this very processor."""

    def __init__(self, cache):
        place = os.path.join(cache, "llama.cpp")
        self.source = os.path.join(place, f"llama_cpp_python-{LLAMA_CPP_PYTHON}")
        self.packages = os.path.join(place, "packages")
        self.vendor = os.path.join(self.source, "vendor", "llama.cpp")
        stamp, wanted = os.path.join(place, "built"), LLAMA_CPP_PYTHON + " " + " ".join(machine())
        if not os.path.exists(stamp) or open(stamp).read() != wanted:
            self.build(place)
            with open(stamp, "w") as f:
                f.write(wanted)
        # llama_cpp (and its small dependencies); gguf, which the convert script finds beside itself
        self.environment = {**os.environ, "PYTHONPATH": self.packages, "HF_HUB_OFFLINE": "1"}

    def build(self, place):
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
        shutil.rmtree(place, ignore_errors=True)
        os.makedirs(place)
        run([*pip, "download", "--no-binary", "llama-cpp-python", "--no-deps", "-d", place,
             f"llama-cpp-python=={LLAMA_CPP_PYTHON}"], "llama.cpp: download")
        with tarfile.open(glob.glob(os.path.join(place, "*.tar.gz"))[0]) as archive:
            archive.extractall(place, filter="data")
        # GGML_NATIVE (this machine's instructions), GGML_OPENMP, GGML_LLAMAFILE and GGML_CPU_REPACK are the defaults
        env = {**os.environ, "CMAKE_BUILD_PARALLEL_LEVEL": str(os.cpu_count())}
        if without_amx():
            for name in ("CFLAGS", "CXXFLAGS"):
                env[name] = f"{env.get(name, '')} -mno-amx-tile -mno-amx-int8 -mno-amx-bf16".strip()
        run([*pip, "install", "--no-deps", "--target", self.packages, self.source, "diskcache", "sentencepiece"],
            "llama.cpp: build", env=env)

    def version(self):
        """The package's version and the llama.cpp commit that its change log names."""
        with open(os.path.join(self.source, "CHANGELOG.md")) as f:
            commit = f.read().split("update llama.cpp to ggml-org/llama.cpp@")[1].split()[0]
        return f"llama.cpp {commit} (llama-cpp-python {LLAMA_CPP_PYTHON}{', built without AMX' * without_amx()})"

    def convert(self, directory, out, *options):
        run([sys.executable, os.path.join(self.vendor, "convert_hf_to_gguf.py"), directory, "--outfile", out, *options],
            f"{os.path.basename(out)}: convert_hf_to_gguf.py", env=self.environment)

    def quantize(self, source, out, kind):
        code = ("import sys; from llama_cpp import llama_cpp as L; p = L.llama_model_quantize_default_params(); "
                "p.ftype = getattr(L, 'LLAMA_FTYPE_MOSTLY_' + sys.argv[3].upper()); "
                "sys.exit(L.llama_model_quantize(sys.argv[1].encode(), sys.argv[2].encode(), p))")
        run([sys.executable, "-c", code, source, out, kind], f"{os.path.basename(out)}: llama_model_quantize",
            env=self.environment)


def hf_directory(cache, name):
    """The random checkpoint of a published shape, written by make_model.py once."""
    directory = os.path.join(cache, name, "hf")
    if not os.path.exists(os.path.join(directory, "tokenizer.json")):       # the file that make_model.py writes last
        run([sys.executable, os.path.join(HERE, "make_model.py"), name, directory], f"{name}: make_model.py")
    return directory


def newer(out, *sources):
    """Whether out exists and is no older than what it was made from (files, or folders of files)."""
    files = [os.path.join(s, f) for s in sources if os.path.isdir(s) for f in os.listdir(s)] + \
        [s for s in sources if os.path.isfile(s)]
    return os.path.exists(out) and os.path.getmtime(out) >= max(map(os.path.getmtime, files))


def gguf(directory, place, kind, llama):
    """llama.cpp's file for an HF directory, made in place: kind mmproj-q8_0 (vision tower and connector; q8_0 is the
    smallest that the convert script has), q8_0 as the convert script writes it, or q4_0 by llama_model_quantize from
    bf16, as llama-quantize does it: token embeddings q4_0, lm_head larger."""
    out, part, bf16 = (os.path.join(place, part + ".gguf") for part in (kind, kind + ".part", "bf16"))
    if newer(out, directory):
        return out
    if kind == "mmproj-q8_0":
        llama.convert(directory, part, "--mmproj", "--outtype", "q8_0")
    elif kind == "q8_0":
        llama.convert(directory, part, "--outtype", kind)
    else:
        llama.convert(directory, bf16, "--outtype", "bf16")
        llama.quantize(bf16, part, kind)
        os.remove(bf16)
    os.rename(part, out)
    return out


def ours(directory, place, kind):
    """Our checkpoint of an HF directory, by export.py, made in place."""
    out, export, layout = os.path.join(place, kind + ".bin"), f"{ROOT}/export.py", f"{ROOT}/model.h"
    if not newer(out, directory, export, layout):
        start = time.time()
        run([sys.executable, export, directory, out, "--format", kind], f"{place}: export.py --format {kind}")
        os.utime(out, (start, start))           # as old as the export.py that wrote it
    return out


# ------------------------------------------------------------------------------------------------------------ workers
#
# Each answers a job {"case", "prompt", "image" (a path or null), "quick", "tokens", "threads", ...} with seconds and
# counts: {"image", "vision", "tiles", "prefill", "prompt_ids", "decode", "steps"}.

def llama_open(job, batch=2048):
    """(llama_cpp, mtmd_cpp, model, context, vision) of job's "model", "mmproj" (a path or null), "threads" and "flash",
    taking up to `batch` tokens a call; the rest is llama.cpp's default (micro-batches of 512, mmap, f16 cache)."""
    from llama_cpp import llama_cpp as L
    from llama_cpp import mtmd_cpp as M

    llama_open.quiet = L.llama_log_callback(lambda level, text, user: None)             # must outlive the calls
    L.llama_log_set(llama_open.quiet, None)
    M.mtmd_helper_log_set(llama_open.quiet, None)
    L.llama_backend_init()
    parameters = L.llama_model_default_params()
    parameters.n_gpu_layers = 0
    model = L.llama_model_load_from_file(job["model"].encode(), parameters)
    settings = L.llama_context_default_params()
    settings.n_ctx, settings.n_batch, settings.flash_attn_type = CONTEXT, batch, job["flash"]
    settings.n_threads = settings.n_threads_batch = job["threads"]
    context = L.llama_init_from_model(model, settings)
    vision = None
    if job["mmproj"]:
        vision_settings = M.mtmd_context_params_default()
        vision_settings.use_gpu, vision_settings.print_timings = False, False
        vision_settings.n_threads = job["threads"]
        vision = M.mtmd_init_from_file(job["mmproj"].encode(), model, vision_settings)
    if not model or not context or (job["mmproj"] and not vision):
        raise SystemExit(f"llama.cpp could not open {job['model']}, {job['mmproj']}")
    return L, M, model, context, vision


def llama_pieces(M, vision, image, prompt):
    """What mtmd_tokenize makes of one question, in order: (chunk, its number of tokens, their ids or None: a tile)."""
    bitmaps = [M.mtmd_helper_bitmap_init_from_file(vision, image.encode(), False)] if image else []
    before = M.mtmd_default_marker().decode() if image else " "
    text = f"<|im_start|>User:{before}{prompt}<end_of_utterance>\nAssistant:".encode()
    chunks = M.mtmd_input_chunks_init()
    asked = M.mtmd_input_text(text, len(text), False, True)
    if M.mtmd_tokenize(vision, chunks, ctypes.byref(asked), (ctypes.c_void_p * len(bitmaps))(*bitmaps), len(bitmaps)):
        raise SystemExit("mtmd_tokenize failed")
    pieces = []
    for i in range(M.mtmd_input_chunks_size(chunks)):
        chunk, count = M.mtmd_input_chunks_get(chunks, i), ctypes.c_size_t()
        if M.mtmd_input_chunk_get_type(chunk) == M.MTMD_INPUT_CHUNK_TYPE_IMAGE:
            pieces.append((chunk, M.mtmd_input_chunk_get_n_tokens(chunk), None))
        else:
            ids = M.mtmd_input_chunk_get_tokens_text(chunk, ctypes.byref(count))
            pieces.append((chunk, count.value, ids[:count.value]))
    return pieces


def llama_worker(job):
    import numpy as np

    L, M, model, context, vision = llama_open(job)
    vocabulary = L.llama_vocab_n_tokens(L.llama_model_get_vocab(model))

    def decode(ids):
        tokens = (L.llama_token * len(ids))(*ids)           # the batch only points to them
        if L.llama_decode(context, L.llama_batch_get_one(tokens, len(ids))):
            raise SystemExit("llama_decode failed")
        L.llama_synchronize(context)

    def best():
        return int(np.argmax(np.ctypeslib.as_array(L.llama_get_logits_ith(context, -1), (vocabulary,))))

    start = time.perf_counter()
    pieces = llama_pieces(M, vision, job["image"], job["prompt"])
    image_seconds = time.perf_counter() - start
    if job["quick"]:                                        # of the tiles only the last, which is the whole picture
        last = max((i for i, (_, _, text) in enumerate(pieces) if text is None), default=None)
        pieces = [piece for i, piece in enumerate(pieces) if piece[2] is not None or i == last]

    vision_seconds = prefill_seconds = 0.0
    prompt_ids, tiles, position = [], 0, L.llama_pos(0)
    for chunk, count, ids in pieces:
        start = time.perf_counter()
        if ids is not None:
            decode(ids)
            position.value += count
        else:
            if M.mtmd_encode_chunk(vision, chunk):
                raise SystemExit("mtmd_encode_chunk failed")
            features = M.mtmd_get_output_embd(vision)
            vision_seconds += time.perf_counter() - start
            start = time.perf_counter()
            if M.mtmd_helper_decode_image_chunk(vision, context, chunk, features, position, 0, L.llama_n_batch(context),
                                                ctypes.byref(position),
                                                ctypes.cast(None, M.mtmd_helper_post_decode_callback), None):
                raise SystemExit("mtmd_helper_decode_image_chunk failed")
            L.llama_synchronize(context)
            tiles += 1
        prefill_seconds += time.perf_counter() - start
        prompt_ids += ids or [job["image_token_id"]] * count

    start = time.perf_counter()
    for _ in range(job["tokens"] - 1):
        decode([best()])
    best()
    return {"image": image_seconds, "vision": vision_seconds, "tiles": tiles, "prefill": prefill_seconds,
            "prompt_ids": prompt_ids, "decode": time.perf_counter() - start, "steps": job["tokens"] - 1}


def hf_worker(job):
    import torch
    sys.path.insert(0, HERE)
    import hf

    hf.settle(job["threads"])
    dtype = getattr(torch, job["model_format"])
    processor = hf.load_processor(job["model"])
    model = hf.load_model(job["model"], dtype=dtype)

    start = time.perf_counter()
    pictures = [hf.open_picture(job["image"])] if job["image"] else []
    batch = hf.inputs(processor, pictures, job["prompt"], **({"do_image_splitting": False} if job["quick"] else {}))
    image_seconds = time.perf_counter() - start
    tiles = batch["pixel_values"].shape[1] if job["image"] else 0
    ids = batch["input_ids"][0].tolist()
    batch = {key: value.to(dtype) if value.is_floating_point() else value for key, value in batch.items()}

    marks = []
    model.model.vision_model.register_forward_pre_hook(lambda *_: marks.append(time.perf_counter()))
    model.model.connector.register_forward_hook(lambda *_: marks.append(time.perf_counter()))
    with torch.inference_mode():
        start = time.perf_counter()
        out = model(**batch, use_cache=True, logits_to_keep=1)
        seconds = time.perf_counter() - start
        vision_seconds = marks[1] - marks[0] if marks else 0.0
        start = time.perf_counter()
        for _ in range(job["tokens"] - 1):
            token = out.logits[:, -1:].argmax(-1)
            out = model(input_ids=token, past_key_values=out.past_key_values, use_cache=True)
        out.logits[:, -1].argmax()
        decode_seconds = time.perf_counter() - start
    return {"image": image_seconds, "vision": vision_seconds, "tiles": tiles, "prefill": seconds - vision_seconds,
            "prompt_ids": ids, "decode": decode_seconds, "steps": job["tokens"] - 1}


def ours_command(job, binary):
    command = [binary, job["model"], "-p", job["prompt"], "-n", str(job["tokens"]), "-j", str(job["threads"]), "--json"]
    return command + (["-i", job["image"]] if job["image"] else []) + (["--no-split"] if job["quick"] else [])


def ours_result(out, job):
    """The worker's answer from ./smolvlm's JSON. An end token, which random weights may happen to give, ends the answer
    early: the rate is then of fewer steps."""
    answer = json.loads(out)
    tiles = answer["prompt_ids"].count(job["image_token_id"]) // job["image_seq_len"]
    times, steps = answer["timings"], len(answer["ids"]) - (answer["finish_reason"] == "length")
    if steps < min(8, job["tokens"] - 1):
        say(f"    only {steps} decoding steps before an end token: the rate is not to be trusted")
    return {**{key: times[key] for key in ("image", "vision", "prefill", "decode")}, "tiles": tiles,
            "prompt_ids": answer["prompt_ids"], "steps": steps}


def busy_seconds():
    """What all processors have worked since the machine started; 0 where that is not told."""
    if not os.path.exists("/proc/stat"):
        return 0.0
    with open("/proc/stat") as f:
        user, nice, system = (int(field) for field in f.readline().split()[1:4])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


def measure(peer, job, llama, binary):
    """Runs one job in a process of its own; returns the worker's answer, and "rss", its peak memory in bytes, and
    "others", the part of the machine that other processes took meanwhile."""
    engine = PEERS[peer].engine
    environment = {**(llama.environment if engine == "llama" else os.environ), "OMP_NUM_THREADS": str(job["threads"])}
    command = ours_command(job, binary) if engine == "ours" else \
        [sys.executable, os.path.abspath(__file__), "--worker", json.dumps({**job, "engine": engine})]
    start, busy = time.monotonic(), busy_seconds()
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=environment)
        out = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            errors.seek(0)
            raise Failed(f"{peer}, {job['case']}: failed with exit code {process.returncode}\n"
                         f"{errors.read().decode(errors='replace')[-3000:]}")
    result = ours_result(out, job) if engine == "ours" else json.loads(out.decode().splitlines()[-1])
    others = busy_seconds() - busy - usage.ru_utime - usage.ru_stime
    return {**result, "rss": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
            "others": max(others, 0) / (os.cpu_count() * (time.monotonic() - start))}


# ---------------------------------------------------------------------------------------------------------- the table

# row, unit, digits, whether more is better, the case it comes from, the number from that case's answer
ROWS = [
    ("one tile through the vision tower", "s", 2, False, "picture", lambda r: r["vision"] / r["tiles"]),
    ("time to first token", "s", 2, False, "picture", lambda r: r["image"] + r["vision"] + r["prefill"]),
    ("&nbsp; of it the picture's preprocessing", "s", 2, False, "picture", lambda r: r["image"]),
    ("&nbsp; of it the vision tower", "s", 2, False, "picture", lambda r: r["vision"]),
    ("&nbsp; of it the prefill", "s", 2, False, "picture", lambda r: r["prefill"]),
    ("prefill of the picture's prompt", "tokens/s", 1, True, "picture", lambda r: len(r["prompt_ids"]) / r["prefill"]),
    ("prefill of a text", "tokens/s", 1, True, "text", lambda r: len(r["prompt_ids"]) / r["prefill"]),
    ("decode after that text", "tokens/s", 1, True, "text", lambda r: r["steps"] / r["decode"]),
    ("decode, almost empty context", "tokens/s", 1, True, "short", lambda r: r["steps"] / r["decode"]),
    ("peak memory with the picture", "GB", 2, False, "picture", lambda r: r["rss"] / 1e9),
]


def rival(peer, peers, values, more):
    """The best of the other engines' values whose weights are at least as wide as this peer's."""
    rivals = [values[p] for p in peers if PEERS[p].engine != "ours" and PEERS[p].bits >= PEERS[peer].bits and
              p in values]
    return (max if more else min)(rivals, default=None)


def table(name, peers, results):
    """Markdown: medians; behind ours, how many times better than the best peer with weights at least as wide."""
    lines = [f"| {name} | " + " | ".join(peers) + " |", "|---" * (len(peers) + 1) + "|"]
    for title, unit, digits, more, case, number in ROWS:
        values = {}
        for peer in peers:
            rounds = [number(r) for r in results.get((name, peer, case), []) if r["steps"] > 0 or case == "picture"]
            if rounds:
                values[peer] = statistics.median(rounds)
        cells = []
        for peer in peers:
            best = rival(peer, peers, values, more) if PEERS[peer].engine == "ours" else None
            cell = f"{values[peer]:.{digits}f}" if peer in values else "–"
            if best and peer in values:
                cell += f" (×{values[peer] / best if more else best / values[peer]:.2f})"
            cells.append(cell)
        if values:
            lines.append(f"| {title}, {unit} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def header(a, llama):
    name, flags = machine()
    wide = [flag for flag in ("avx2", "avx512f", "avx_vnni", "avx512_vnni", "asimddp", "i8mm", "amx_int8", *BF16_FLAGS)
            if flag in flags.split()]
    versions = subprocess.run([sys.executable, "-c", "import torch, transformers; "
                               "print(f'torch {torch.__version__}, transformers {transformers.__version__}')"],
                              stdout=subprocess.PIPE, text=True).stdout.strip()
    own = subprocess.run([a.binary, "--version"], stdout=subprocess.PIPE, text=True).stdout.strip()
    return (f"{name}, {os.cpu_count()} cores, {' '.join(wide)}; {platform.system()} {platform.release()}\n"
            f"{a.threads} threads; {a.tokens} tokens; median of {a.rounds} rounds{'; quick: one tile' * a.quick}\n"
            f"{own}; {llama.version() if llama else 'no llama.cpp'}; {versions}")


def too_big(name, peer):
    """A sentence, if the machine has not the memory for it: the weights, what they are read from, room for the rest."""
    read = 2 * PARAMETERS[name] if PEERS[peer].engine == "hf" else 0            # the safetensors file is bf16
    size = PARAMETERS[name] * PEERS[peer].bits // 8 + read + (2 << 30)
    if not os.path.exists("/proc/meminfo"):
        return ""
    with open("/proc/meminfo") as f:
        free = next(int(line.split()[1]) * 1024 for line in f if line.startswith("MemAvailable"))
    return f"{name} {peer}: left out, needs about {size / 1e9:.0f} GB of {free / 1e9:.0f} free" if size > free else ""


def jobs_of(a, directory, peer, paths):
    """The three cases as jobs for one engine."""
    with open(os.path.join(directory, "config.json")) as f:
        image_token_id = json.load(f)["image_token_id"]
    with open(os.path.join(directory, "processor_config.json")) as f:
        image_seq_len = json.load(f)["image_seq_len"]
    common = {**paths, "model_format": PEERS[peer].format, "threads": a.threads, "tokens": a.tokens, "quick": a.quick,
              "image": None, "image_token_id": image_token_id, "image_seq_len": image_seq_len,
              "flash": PEERS[peer].flash}
    long = PASSAGE * (QUICK_PASSAGES if a.quick else TEXT_PASSAGES) + "What is this text about?"
    return {"picture": {**common, "case": "picture", "image": a.image, "prompt": QUESTION, "tokens": 1},
            "text": {**common, "case": "text", "prompt": long},
            "short": {**common, "case": "short", "prompt": "Hi"}}


def jobs_of_all(a, name, llama, notes):
    """{peer: its jobs}, everything converted that they need; without those that do not fit into memory."""
    jobs, directory, place = {}, hf_directory(a.cache, name), os.path.join(a.cache, name)
    for peer in a.peers:
        engine, kind, reason = PEERS[peer].engine, PEERS[peer].format, too_big(name, peer)
        if reason:
            notes.append(reason)
            continue
        if engine == "llama":
            paths = {"model": gguf(directory, place, kind, llama),
                     "mmproj": gguf(directory, place, "mmproj-q8_0", llama)}
        else:
            paths = {"model": directory if engine == "hf" else ours(directory, place, kind)}
        jobs[peer] = jobs_of(a, directory, peer, paths)
    return jobs


def measure_model(a, name, llama, results, notes):
    """All rounds of one model; each answer is appended to results[name, peer, case]. An engine that fails is noted and
    left out from there on."""
    jobs, first = jobs_of_all(a, name, llama, notes), {}
    for number in range(a.rounds):
        for case, peer in itertools.product(a.cases, list(jobs)):
            if peer not in jobs or (case == "picture" and PEERS[peer].flash == 0):
                continue
            try:
                tries = [measure(peer, jobs[peer][case], llama, a.binary)]
                while a.calm and tries[-1]["others"] > a.calm / 100 and len(tries) < 4:
                    tries.append(measure(peer, jobs[peer][case], llama, a.binary))
            except Failed as failure:
                say(str(failure))
                notes.append(str(failure).splitlines()[0])
                del jobs[peer]
                continue
            r = min(tries, key=lambda r: r["others"])
            results.setdefault((name, peer, case), []).append(r)
            decode = f", decode {r['decode']:.2f} s for {r['steps']}" if r["steps"] else ""
            say(f"round {number + 1} {name} {case:7} {peer:14} {r['tiles']} tiles, {len(r['prompt_ids'])} tokens: "
                f"image {r['image']:.2f} s, vision {r['vision']:.2f} s, prefill {r['prefill']:.2f} s{decode}; "
                f"{r['rss'] / 1e9:.2f} GB; others took {r['others']:.0%}")
            seen = first.setdefault(case, r)
            if not a.quick and (seen["prompt_ids"], seen["tiles"]) != (r["prompt_ids"], r["tiles"]):
                notes.append(f"{name} {case}: {peer} saw another prompt than the first: {len(r['prompt_ids'])} tokens, "
                             f"not {len(seen['prompt_ids'])}; {r['tiles']} tiles, not {seen['tiles']}")


def main():
    if len(sys.argv) == 3 and sys.argv[1] == "--worker":
        job = json.loads(sys.argv[2])
        print(json.dumps({"llama": llama_worker, "hf": hf_worker}[job["engine"]](job)))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=NAMES, choices=NAMES, help="default: all, the smallest first")
    parser.add_argument("--peers", nargs="+", choices=list(PEERS), metavar="PEER",
                        help=f"of {', '.join(PEERS)}; default: all but ours-f32, and hf-bf16 only where the processor "
                             "has instructions for it (elsewhere torch is some ten times as slow as in f32)")
    parser.add_argument("--cases", nargs="+", default=CASES, choices=CASES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=32, help="generated in the cases text and short")
    parser.add_argument("--quick", action="store_true",
                        help="one tile (among the markers of all 17, for llama.cpp), and a text of 280 tokens")
    parser.add_argument("--calm", type=float, metavar="PERCENT", help="repeat, up to three times, a measurement during "
                        "which other processes took more of the machine, and keep the least disturbed")
    parser.add_argument("--image", default=os.path.join(HERE, "pictures", "coffee.jpg"))
    parser.add_argument("--binary", default=os.path.join(ROOT, "smolvlm"))
    parser.add_argument("--cache", default=os.path.join(ROOT, "build", "peers"), help="what is built and converted")
    parser.add_argument("--json", help="also write every answer of every round to this file")
    a = parser.parse_args()
    a.cache = os.path.abspath(a.cache)
    if not a.peers:
        without = ["ours-f32"] + ([] if set(BF16_FLAGS) & set(machine()[1].split()) else ["hf-bf16"])
        a.peers = [peer for peer in PEERS if peer not in without]

    llama = Llama(a.cache) if any(PEERS[p].engine == "llama" for p in a.peers) else None
    head, results, notes = header(a, llama), {}, []
    try:
        for name in a.models:
            try:
                measure_model(a, name, llama, results, notes)
            except SystemExit as failure:                   # no room on the disk, say
                say(str(failure))
                notes.append(f"{name}: {str(failure).splitlines()[0]}")
    except KeyboardInterrupt:
        notes.append("interrupted: not all rounds were run")
    if not results:
        raise SystemExit("\n".join([*notes, "bench_peers.py: nothing was measured"]))
    disturbed = [r["others"] for rounds in results.values() for r in rounds]
    notes.insert(0, f"other processes took {statistics.median(disturbed):.0%} of the machine (median over the "
                    f"measurements), {max(disturbed):.0%} at most")
    print("\n".join([head, *notes]))
    for name in a.models:
        if any(key[0] == name for key in results):
            print("\n" + table(name, a.peers, results))
    if a.json:
        with open(a.json, "w") as f:
            json.dump({"machine": head, "answers": [
                {"model": name, "peer": peer, "case": case, **{k: v for k, v in r.items() if k != "prompt_ids"},
                 "prompt_tokens": len(r["prompt_ids"])} for (name, peer, case), rounds in results.items()
                for r in rounds]}, f, indent=1)


if __name__ == "__main__":
    main()
