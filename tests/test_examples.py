"""Runs examples/: a hundred requests through GNU parallel and through Ray Data, one process killed midway, every answer
there once; and the server with the openai package: twenty at once, shapes, streams, a client that hangs up, pictures
that are none, a worker that is killed.

    python tests/test_examples.py [--only parallel|ray|serve] [--smolvlm ./smolvlm]

Where parallel, ray or openai is not installed, that part is left out, and it says so. The last line is "N passed, N
failed"."""
import argparse
import base64
import concurrent.futures
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
MODEL = os.path.join(HERE, "golden", "model", "vlm.bin")
PICTURES = [os.path.join(HERE, "golden", "model", name) for name in ("a.png", "b.ppm")]
os.environ["OMP_WAIT_POLICY"] = "passive"


class Count:
    passed = failed = 0

    def check(self, what, good, detail=""):
        self.passed += bool(good)
        self.failed += not good
        if not good:
            print(f"FAIL {what} {detail}")


def processes(model):
    """The ids of the smolvlm --jsonl processes that have this model open: a copy of ours, so no one else's."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as f:
                words = f.read().split(b"\0")
        except OSError:
            continue
        if model.encode() in words and b"--jsonl" in words and b"smolvlm" in os.path.basename(words[0]):
            found.append(int(pid))
    return found


def kill_one(model, seconds=60):
    end = time.time() + seconds
    while time.time() < end:
        for pid in processes(model):
            try:
                os.kill(pid, signal.SIGKILL)
                return True
            except ProcessLookupError:
                pass
        time.sleep(0.01)
    return False


def test_parallel(count, program, model, work):
    if not shutil.which("parallel"):
        return print("parallel is not installed: examples/parallel.sh is not tested")
    requests, folder = os.path.join(work, "requests"), os.path.join(work, "parts")
    with open(requests, "w") as f:
        for i in range(100):
            f.write(json.dumps({"id": f"page {i}", "prompt": "What is it?", "images": PICTURES[i % 2],
                                "max_tokens": 40}) + "\n")
    os.mkdir(folder)
    with open(requests) as f, open(os.path.join(folder, "part.000000"), "w") as part:
        part.writelines(f.readlines()[:7])                  # as if it had been killed while it cut
    command = ["examples/parallel.sh", model, requests, folder, "2"]
    run = subprocess.Popen(command, env=dict(os.environ, SMOLVLM=program, PART="20"))
    count.check("parallel.sh: a process to kill", kill_one(model))
    code = run.wait()
    if code != 0:                                           # it was the third try of that part
        code = subprocess.run(command, env=dict(os.environ, SMOLVLM=program, PART="20")).returncode
    count.check("parallel.sh ends well", code == 0)
    with open(os.path.join(folder, "answers")) as f:
        answers = [json.loads(line) for line in f]
    count.check("parallel.sh: every answer once, in order", [a["id"] for a in answers] ==
                [f"page {i}" for i in range(100)])
    count.check("parallel.sh: all are answers", all("text" in a for a in answers))


def test_ray(count, program, model, work):
    try:
        import ray.data  # noqa: F401
    except ImportError:
        return print("ray is not installed: examples/ray_pages.py is not tested")
    pictures, out = os.path.join(work, "pictures"), os.path.join(work, "pages")
    os.mkdir(pictures)
    for i in range(100):
        shutil.copy(PICTURES[i % 2], os.path.join(pictures, f"{i:03d}" + os.path.splitext(PICTURES[i % 2])[1]))
    run = subprocess.Popen([sys.executable, "examples/ray_pages.py", model, "What is it?", pictures, out, "--workers",
                            "2", "--smolvlm", program, "--max-tokens", "40"],
                           env=dict(os.environ, RAY_USAGE_STATS_ENABLED="0"), stdout=subprocess.DEVNULL,
                           stderr=open(os.path.join(work, "ray"), "w"))
    count.check("ray_pages.py: a process to kill", kill_one(model, 180))
    code = run.wait()
    with open(os.path.join(work, "ray")) as f:
        count.check("ray_pages.py ends well", code == 0, f.read()[-2000:] if code else "")
    answers = []
    for name in os.listdir(out) if os.path.isdir(out) else []:
        with open(os.path.join(out, name)) as f:
            answers += [json.loads(line) for line in f]
    count.check("ray_pages.py: every answer once", sorted(os.path.basename(a["id"]) for a in answers) ==
                sorted(os.listdir(pictures)))
    count.check("ray_pages.py: all are answers", all(a["text"] and not a["error"] for a in answers))


def status_of(url, data, **headers):
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as e:
        return e.code, e.read().decode()


def test_serve(count, program, model, work):
    try:
        import fastapi  # noqa: F401
        import openai
        import uvicorn  # noqa: F401
    except ImportError:
        return print("fastapi, uvicorn or openai is not installed: examples/serve.py is not tested")
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    server = subprocess.Popen([sys.executable, "examples/serve.py", model, "--port", str(port), "--smolvlm", program,
                               "--queue", "30", "--max-body", "1"])
    try:
        check_server(count, openai, f"http://127.0.0.1:{port}", model, server)
    finally:
        server.terminate()
        server.wait()
    count.check("serve.py takes its workers along", not processes(model))


def check_server(count, openai, url, model, server):
    for _ in range(300):
        try:
            with urllib.request.urlopen(url + "/health", timeout=5):
                break
        except OSError:
            time.sleep(0.1)
    client = openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0, timeout=120)
    with open(PICTURES[0], "rb") as f:
        data = "data:image/png;base64," + base64.b64encode(f.read()).decode()

    def ask(picture=data, **more):
        content = [{"type": "image_url", "image_url": {"url": picture}}, {"type": "text", "text": "What is it?"}]
        return client.chat.completions.create(model="x", messages=[
            {"role": "system", "content": "Be kind."}, {"role": "user", "content": content}],
            **{"max_tokens": 10, **more})

    count.check("models", [m.id for m in client.models.list()] == ["vlm.bin"])
    usual = ask()
    text = usual.choices[0].message.content
    count.check("an answer", text and usual.choices[0].finish_reason == "length" and
                usual.usage.completion_tokens == 10 and usual.usage.prompt_tokens > 20, usual)
    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(lambda _: ask().choices[0].message.content, range(20)))
    count.check("twenty at once: the same answer", answers == [text] * 20, answers)
    pieces = [c.choices[0].delta.content or "" for c in ask(stream=True)]
    count.check("a stream: the same text in pieces", "".join(pieces) == text and len(pieces) > 4, pieces)
    shape = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    for seed in range(5):
        answer = ask(temperature=2, seed=seed, max_tokens=40, response_format={
            "type": "json_schema", "json_schema": {"name": "n", "schema": shape, "strict": True}})
        count.check("json_schema", type(json.loads(answer.choices[0].message.content)["n"]) is int, answer)
    answer = ask(response_format={"type": "json_object"}, temperature=2, max_tokens=40)
    count.check("json_object", isinstance(json.loads(answer.choices[0].message.content), dict), answer)
    scores = ask(logprobs=True, top_logprobs=3).choices[0].logprobs.content
    count.check("logprobs", len(scores) == 10 and all(len(s.top_logprobs) == 3 for s in scores) and
                all(s.logprob == s.top_logprobs[0].logprob for s in scores), scores)
    count.check("stop", text[3:5] not in ask(stop=[text[3:5]]).choices[0].message.content)

    for what, words, more in [
            ("a picture that is none", "picture", {"picture": "data:image/png;base64,AAAA"}),
            ("no base64", "base64", {"picture": "data:image/png;base64,????"}),
            ("a picture elsewhere", "data URLs", {"picture": "http://127.0.0.1/a.png"}),
            ("a temperature", "temperature", {"temperature": -1}),
            ("tools", "tools: is not done here", {"tools": [{"type": "function", "function": {"name": "f"}}]}),
            ("two answers", "n: is not done here", {"n": 2}),
            ("a schema", "pattern", {"response_format": {"type": "json_schema", "json_schema": {
                "name": "n", "schema": {"type": "string", "pattern": "a"}}}}),
            ("an error before a stream", "base64", {"picture": "data:image/png;base64,????", "stream": True})]:
        try:
            ask(**more)
            count.check(what + " is refused", False)
        except openai.BadRequestError as e:
            count.check(what + " is refused", words in str(e), e)
    status, words = status_of(url + "/v1/chat/completions", b"{")
    count.check("no JSON", status == 400 and "no JSON" in words, words)
    status, words = status_of(url + "/v1/chat/completions", b"[]")
    count.check("no object", status == 400 and "messages" in words, words)
    status, words = status_of(url + "/v1/chat/completions", b" " * (1 << 21))
    count.check("too large", status == 413, words)

    # a client that hangs up, in a stream and before an answer
    stream = ask(stream=True, max_tokens=400)
    next(iter(stream))
    stream.close()
    try:
        client.with_options(timeout=0.05).chat.completions.create(model="x", max_tokens=500, messages=[
            {"role": "user", "content": "Count."}])
    except openai.APITimeoutError:
        pass
    busy = 1
    for _ in range(100):
        with urllib.request.urlopen(url + "/health", timeout=5) as answer:
            busy = json.load(answer)["busy"]
        if busy == 0:
            break
        time.sleep(0.1)
    count.check("no worker is busy for one that hung up", busy == 0, busy)
    count.check("and the next is answered", ask().choices[0].message.content == text)

    # a worker that is killed in the middle of requests, and while it waits
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(lambda: ask(max_tokens=200).choices[0].message.content) for _ in range(8)]
        count.check("a worker to kill", kill_one(model))
        answers = {a.result() for a in asked}
    count.check("a worker that died is replaced, its request answered", len(answers) == 1, answers)
    kill_one(model)
    count.check("one that died waiting, too", ask().choices[0].message.content == text)
    count.check("the server is there", server.poll() is None)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", choices=["parallel", "ray", "serve"])
    parser.add_argument("--smolvlm", default="./smolvlm")
    args = parser.parse_args()
    os.chdir(ROOT)
    count = Count()
    for name, test in [("parallel", test_parallel), ("ray", test_ray), ("serve", test_serve)]:
        if args.only not in (None, name):
            continue
        with tempfile.TemporaryDirectory() as work:
            model = shutil.copy(MODEL, os.path.join(work, "vlm.bin"))
            test(count, os.path.abspath(args.smolvlm), model, work)
    print(f"{count.passed} passed, {count.failed} failed")
    return count.failed > 0


if __name__ == "__main__":
    sys.exit(main())
