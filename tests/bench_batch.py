"""What a batch costs, in CPU time, so that other work on the machine matters little.

    python tests/bench_batch.py [--smolvlm ./smolvlm] [--questions 200] [MODEL.bin ...]

The demo's held-out questions through one smolvlm --jsonl and through one start of the program for each; and for each
MODEL pictures an hour that one core answers, and memory: photographs, each asked one question whose answer has 32
tokens, whole and scaled to a longer side of 1024 pixels, one process on one thread."""
import argparse
import json
import os
import subprocess
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PICTURES = ["tests/pictures/coffee.jpg", "tests/pictures/cat.jpg", "demo/pictures/receipt.jpg"]
os.environ["OMP_WAIT_POLICY"] = "passive"


def run(command, lines=b""):
    """What it writes, CPU seconds, wall seconds, peak memory in MB (pages of the model's file included)."""
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out:
        given.write(lines)
        given.seek(0)
        start = time.time()
        process = subprocess.Popen(command, stdin=given, stdout=out)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = status
        assert status == 0, command
        out.seek(0)
        return out.read(), used.ru_utime + used.ru_stime, time.time() - start, used.ru_maxrss / 1000


def jsonl(program, model, requests, *options):
    out, cpu, wall, memory = run([program, model, "--jsonl", "-q", "-j", "1", *options],
                         "".join(json.dumps(r) + "\n" for r in requests).encode())
    answers = [json.loads(line) for line in out.decode().split("\n")[:-1]]
    assert all("text" in a for a in answers), answers
    return answers, cpu, wall, memory


def demo(program, count):
    with open("demo/eval/eval.jsonl") as f:
        questions = [q for q in map(json.loads, f) if q["split"]][:count]
    paths = [[os.path.join("demo/eval", p) for p in q["pictures"]] for q in questions]
    requests = [{"id": i, "prompt": q["question"], "images": p} for i, (q, p) in enumerate(zip(questions, paths))]
    answers, cpu, wall, _ = jsonl(program, "demo/demo.bin", requests)
    tiles = sum(a["timings"]["vision"] < 1e-4 for a in answers)
    alone_cpu = alone_wall = 0
    for q, p, a in zip(questions, paths, answers):
        words = [w for path in p for w in ("-i", path)]
        out, c, w, _ = run([program, "demo/demo.bin", "-q", "-j", "1", *words, "-p", q["question"]])
        assert out.decode().strip() == a["text"].strip(), (q, out, a)
        alone_cpu, alone_wall = alone_cpu + c, alone_wall + w
    print(f"| {len(questions)} questions of the demo | CPU time | questions a CPU minute | wall |\n|---|---|---|---|")
    for name, c, w in (("one --jsonl", cpu, wall), ("a start for each", alone_cpu, alone_wall)):
        print(f"| {name} | {c:.1f} s | {60 * len(questions) / c:.0f} | {w:.1f} s |")
    print(f"(the same answers; {tiles} of them about pictures that were seen before)")


def sizes(program, model):
    for name, options in (("whole", []), ("longer side 1024", ["--longest-edge", "1024"])):
        idle = jsonl(program, model, [], *options)[1]
        answers, cpu, _, memory = jsonl(program, model, [
            {"id": i, "prompt": "What is in this picture?", "images": path, "max_tokens": 32}
            for i, path in enumerate(PICTURES)], *options)
        tokens, each = sum(a["usage"]["prompt_tokens"] for a in answers) / len(answers), (cpu - idle) / len(answers)
        print(f"| {os.path.basename(model)}, {name} | {tokens:.0f} | {each:.2f} s | {3600 / each:.0f} | {memory:.0f} MB "
              f"({os.path.getsize(model) / 1e6:.0f} of it the file, shared) |", flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="*")
    parser.add_argument("--smolvlm", default="./smolvlm")
    parser.add_argument("--questions", type=int, default=200)
    args = parser.parse_args()
    os.chdir(ROOT)
    if args.questions:
        demo(args.smolvlm, args.questions)
    if args.models:
        print("\n| model, pictures | prompt tokens | CPU time a picture | pictures a core-hour | peak memory |\n"
              "|---|---|---|---|---|")
    for model in args.models:
        sizes(args.smolvlm, model)


if __name__ == "__main__":
    main()
