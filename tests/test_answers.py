"""What --jsonl answers, held against others: probabilities against transformers, shapes against Python's json and
jsonschema, --resume against a process that is killed again and again.

    python tests/test_answers.py [--runs 300] [--kills 10] [--smolvlm ./smolvlm]

--runs: sampled answers for each shape and model, at temperature 2. The last line is "N passed, N failed"."""
import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
GOLDEN = os.path.join(HERE, "golden", "model")
sys.path.insert(0, HERE)
os.environ["OMP_WAIT_POLICY"] = "passive"

SHAPES = [
    {"type": "object", "properties": {
        "total": {"type": "number"}, "paid": {"type": "boolean"}, "vendor": {"type": ["string", "null"]},
        "kind": {"enum": ["receipt", "invoice", "recipe", "in", 12, 1, None]},
        "items": {"type": "array", "items": {"type": "object", "properties": {
            "name": {"type": "string"}, "n": {"type": "integer"}}, "required": ["n"]}, "minItems": 1, "maxItems": 3}},
     "required": ["total", "kind", "items"], "additionalProperties": False},
    {"type": "object", "properties": {"a\"é": {"type": "string"}, "b": {"const": {"x": [1, "é"]}}},
     "required": ["a\"é", "b"]},
    {"type": "array", "items": {"anyOf": [{"type": "null"}, {"type": "number"}, {"type": "object"}]}, "minItems": 2},
    {"$ref": "#/$defs/node", "$defs": {"node": {
        "type": "object", "properties": {"v": {"type": "integer"}, "next": {"anyOf": [{"$ref": "#/$defs/node"},
                                                                                     {"type": "null"}]}},
        "required": ["v", "next"]}}},
    {},
]


class Count:
    passed = failed = 0

    def check(self, what, good, detail=""):
        self.passed += bool(good)
        self.failed += not good
        if not good and self.failed <= 20:
            print(f"FAIL {what} {detail}")


def jsonl(program, model, requests, *options):
    """The answers to the requests."""
    lines = "".join(json.dumps(r) + "\n" for r in requests)
    run = subprocess.run([program, model, "--jsonl", "-q", *options], input=lines.encode(), stdout=subprocess.PIPE,
                         check=True)
    answers = [json.loads(line) for line in run.stdout.decode().split("\n")[:-1]]
    assert [a["id"] for a in answers] == [r["id"] for r in requests]
    return answers


def probabilities(count, program, work):
    """Log-probabilities of sampled tokens and of given answers, as transformers computes them."""
    import torch
    import hf
    import tiny_model
    for kind in ("smolvlm", "llama"):
        directory = tiny_model.make_tiny(os.path.join(work, kind), seed=3, kind=kind)
        file = os.path.join(work, kind + ".bin")
        subprocess.run([sys.executable, os.path.join(ROOT, "export.py"), directory, file, "--format", "f32"],
                       check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        model, processor = hf.load_model(directory), hf.load_processor(directory)
        picture = os.path.join(GOLDEN, "a.png")
        choices = ["A tree.", "A dog, and a tree", "no", "A", "Привет"]
        words, see = "What is in this picture?", kind == "smolvlm"
        content = [{"type": "image"}] * see + [{"type": "text", "text": words}] if see else words
        talk = [{"role": "user", "content": content}]
        request = {"prompt": words, "images": [picture] if see else [], "ids": True}
        answers = jsonl(program, file, [
            dict(request, id=0, choices=choices), dict(request, id=1, logprobs=4, max_tokens=12),
            dict(request, id=2, logprobs=3, max_tokens=12, temperature=1, seed=5)])

        def batch(text):
            if not see:
                return processor(text, return_tensors="pt", add_special_tokens=False)
            return processor(text=text, images=[[hf.open_picture(picture)]], return_tensors="pt")

        def logs(inputs):
            with torch.no_grad():
                return torch.log_softmax(model(**inputs).logits[0].double(), dim=-1)

        asked = processor.apply_chat_template(talk, add_generation_prompt=True, tokenize=False)
        end = model.generation_config.eos_token_id
        ends = end if isinstance(end, list) else [end]
        for text, ours in zip(choices, answers[0]["choices"]):
            said = {"role": "assistant", "content": [{"type": "text", "text": text}] if see else text}
            whole = batch(processor.apply_chat_template(talk + [said], tokenize=False))
            ids, begin = whole["input_ids"][0].tolist(), len(batch(asked)["input_ids"][0])
            stop = next(i for i in range(begin, len(ids)) if ids[i] in ends)
            scores = logs(whole)
            total = sum(float(scores[i - 1, ids[i]]) for i in range(begin, stop))
            total += float(torch.logsumexp(scores[stop - 1, ends], 0))
            count.check(f"{kind}, choice {text!r}: tokens", ours["tokens"] == stop + 1 - begin, ours)
            count.check(f"{kind}, choice {text!r}: logprob", abs(ours["logprob"] - total) < 2e-4, (ours, total))
        for answer in answers[1:]:
            inputs = batch(asked)
            ids = inputs["input_ids"][0].tolist()
            count.check(f"{kind}: prompt ids", ids == answer["prompt_ids"])
            inputs["input_ids"] = torch.tensor([ids + answer["ids"]])
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
            scores = logs(inputs)
            for i, token in enumerate(answer["logprobs"]):
                row = scores[len(ids) - 1 + i]
                top = torch.topk(row, len(token["top"]))
                count.check(f"{kind}: token {i}", token["id"] == answer["ids"][i] and
                            abs(token["logprob"] - float(row[token["id"]])) < 1e-4, token)
                count.check(f"{kind}: the likeliest in place {i}", all(
                    abs(t["logprob"] - float(v)) < 1e-4 for t, v in zip(token["top"], top.values)), token)


def shapes(count, program, runs):
    """Sampled answers that always parse and fit."""
    import jsonschema
    for model in (os.path.join(GOLDEN, "vlm.bin"), os.path.join(GOLDEN, "text_q8.bin"), "demo/demo.bin"):
        for schema in SHAPES:
            validator = jsonschema.Draft202012Validator(schema)
            rng = random.Random(1)
            some = runs // 5 if "demo" in model else runs
            requests = [{"id": i, "prompt": "What is it?", "schema": schema, "temperature": 2, "seed": i,
                         "max_tokens": rng.choice([40, 50, 60, 80, 150])} for i in range(some)]
            for answer in jsonl(program, model, requests):
                text = answer.get("text", "")
                try:
                    errors = list(validator.iter_errors(json.loads(text)))
                except (ValueError, RecursionError) as e:
                    errors = [e]
                good = not errors and answer["finish_reason"] == "stop"
                count.check(f"{model}: {schema}", good, (answer, errors[:1]))


def kills(count, program, work, times):
    """A process that is killed at any moment, and started again, answers every request once."""
    rng = random.Random(2)
    model = os.path.join(GOLDEN, "vlm.bin")
    requests = [{"id": i if i % 3 else f"page {i}", "prompt": "What is it?", "max_tokens": 30, "images": os.path.join(
        GOLDEN, rng.choice(["a.png", "b.ppm", "none.png"]))} for i in range(400)]
    lines = os.path.join(work, "requests")
    out = os.path.join(work, "answers")
    with open(lines, "w") as f:
        f.writelines(json.dumps(r) + "\n" for r in requests)

    def run(**more):
        return subprocess.Popen([program, model, "--jsonl", "-q", "--resume", out], stdin=open(lines), **more)

    torn = 0
    for _ in range(times):
        process = run()
        time.sleep(rng.uniform(0.01, 0.4))
        process.send_signal(signal.SIGKILL)
        process.wait()
        if rng.random() < 0.5 and os.path.getsize(out) > 100:       # as if it had been in the middle of a line
            os.truncate(out, os.path.getsize(out) - rng.randrange(1, 100))
        with open(out, "rb") as f:
            torn += not f.read().endswith(b"\n")
    count.check("the last process", run().wait() == 0)
    with open(out) as f:
        answers = [json.loads(line) for line in f]
    count.check("every answer, once, in order", [a["id"] for a in answers] == [r["id"] for r in requests])
    count.check("each is an answer or an error", all(("text" in a) != ("error" in a) for a in answers))
    whole = {a["id"]: a.get("text") for a in jsonl(program, model, requests)}
    count.check("the same answers as without kills", all(a.get("text") == whole[a["id"]] for a in answers))
    print(f"killed {times} times, {torn} times in the middle of a line")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--smolvlm", default="./smolvlm")
    args = parser.parse_args()
    os.chdir(ROOT)
    count = Count()
    with tempfile.TemporaryDirectory() as work:
        kills(count, args.smolvlm, work, args.kills)
        shapes(count, args.smolvlm, args.runs)
        probabilities(count, args.smolvlm, work)
    print(f"{count.passed} passed, {count.failed} failed")
    return count.failed > 0


if __name__ == "__main__":
    sys.exit(main())
