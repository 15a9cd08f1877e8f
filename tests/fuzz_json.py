"""JSON texts made and damaged at random: does cli/json.c take the same as Python's json, and read the same value?

    python tests/fuzz_json.py --json build/sanitize/json [--texts 20000] [--seed 1]

Where they differ on purpose, Python is told to be as strict: no NaN or Infinity, no number beyond a double's range, no
half of a surrogate pair, no key twice, no more than 128 levels. The last line is "N passed, N failed"."""
import argparse
import json
import random
import subprocess
import sys

WORDS = ["", "a", "id", "é", "你好", "🙂", "\u0000", "\n", "\"", "\\", "/", "\x7f", "\u2028", "\ud83d", "\ude42", "total"]
SCRAPS = [b'"', b"\\", b"{", b"}", b"[", b"]", b":", b",", b"0", b"1", b"9", b".", b"e", b"E", b"+", b"-", b"null",
          b"true", b"false", b"NaN", b"Infinity", b"\\u", b"\\ud83d", b"\\ude42", b"\\u00e9", b"\\n", b"\\x", b" ",
          b"\n", b"\t", b"\x00", b"\x01", b"\x80", b"\xc3", b"\xc3\xa9", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xff",
          b"\xef\xbb\xbf", b"1e999", b"1e-999", b"00", b"//", b"'"]


class Refused(ValueError):
    pass


def value(rng, depth=0):
    kind = rng.randrange(8 if depth < 5 else 5)
    if kind == 0:
        return rng.choice([None, True, False])
    if kind == 1:
        return rng.choice([0, 1, -1, 255, -(2 ** 53), 2 ** 64, rng.randrange(10 ** 6)])
    if kind == 2:
        return rng.choice([0.5, -1e-7, 1e300, 5e-324, rng.random(), rng.gauss(0, 1e10)])
    if kind in (3, 4):
        return "".join(rng.choice(WORDS) for _ in range(rng.randrange(4)))
    if kind in (5, 6):
        return [value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {"".join(rng.choice(WORDS) for _ in range(rng.randrange(3))): value(rng, depth + 1)
            for _ in range(rng.randrange(4))}


def make(rng):
    text = json.dumps(value(rng), ensure_ascii=rng.random() < 0.5, indent=rng.choice([None, None, 1]))
    data = text.encode("utf-8", "surrogatepass")
    if rng.random() < 0.02:
        depth = rng.choice([100, 127, 128, 129, 500])
        data = b"[" * depth + data + b"]" * depth
    for _ in range(rng.choice([0, 0, 1, 1, 2, 4])):
        at = rng.randrange(len(data) + 1)
        drop = rng.choice([0, 0, 1, 1, 3])
        data = data[:at] + (rng.choice(SCRAPS) if rng.random() < 0.8 else b"") + data[at + drop:]
    return data


def levels(v):
    inner = v.values() if isinstance(v, dict) else v if isinstance(v, list) else None
    return 0 if inner is None else 1 + max(map(levels, inner), default=0)


def refuse(what):
    raise Refused(what)


def pairs(items):
    if len(dict(items)) < len(items):
        refuse("a key twice")
    return dict(items)


def check(v):
    if isinstance(v, str):
        v.encode()                                          # half of a surrogate pair cannot be
    elif isinstance(v, (dict, list)):
        for key in v if isinstance(v, dict) else []:
            key.encode()
        for item in v.values() if isinstance(v, dict) else v:
            check(item)
    elif isinstance(v, float) and v in (float("inf"), float("-inf")):
        refuse("too large")
    elif isinstance(v, int) and abs(v) >= 2 ** 1024:
        refuse("too large")


def python(data):
    """What Python's json reads, as (value,), or None."""
    try:
        text = (data[3:] if data[:3] == b"\xef\xbb\xbf" else data).decode()
        v = json.loads(text, object_pairs_hook=pairs, parse_constant=refuse)
        check(v)
        return (v,) if levels(v) <= 128 else None
    except (ValueError, RecursionError):
        return None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", required=True, help="the program of tests/json.c")
    parser.add_argument("--texts", type=int, default=20000)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    texts = [make(rng) for _ in range(args.texts)]
    lines = b"".join(t.hex().encode() + b"\n" for t in texts)
    run = subprocess.run([args.json], input=lines, stdout=subprocess.PIPE, check=True)
    answers = run.stdout.split(b"\n")[:-1]
    assert len(answers) == len(texts), (len(answers), len(texts))
    failed = good = 0
    for data, answer in zip(texts, answers):
        expected = python(data)
        ours = None if answer.startswith(b"bad ") else (json.loads(answer.decode()),)
        good += expected is not None
        if repr(ours) != repr(expected):
            failed += 1
            if failed <= 10:
                print(f"{data!r}: Python {expected!r}, ours {answer!r}")
    print(f"{good} of {len(texts)} texts are JSON")
    print(f"{len(texts) - failed} passed, {failed} failed")
    return failed > 0 or not len(texts) / 5 < good < len(texts) * 4 / 5


if __name__ == "__main__":
    sys.exit(main())
