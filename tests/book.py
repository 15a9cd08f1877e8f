#!/usr/bin/env python3
"""Checks MODEL.md against the code that it describes.

    python tests/book.py            references and exercises; the last line is "N passed, N failed"
    python tests/book.py --lines    references alone;  --write: puts today's line numbers into the page
    python tests/book.py --show 7   runs exercise 7 and prints what it gives

A reference is written `vision.c` 95-135 `encoder`: that function, struct or macro must stand on exactly those lines.
An exercise is a section "### Exercise N: ..." with, in this order: at most one block "In `FILE`:" ```diff, whose lines
with a blank or "-" before them stand in FILE once, and are replaced by those with a blank or "+"; a block ```sh; and a
block ```text with all that it prints. Lines of "..." in the text stand for any lines. Each exercise runs in a copy of
the tree, in which the program is built with the change. Where the page speaks of an exercise, there must be one of that
number. Needs a C compiler and make."""
import argparse
import os
import re
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PAGE = os.path.join(ROOT, "MODEL.md")
COPY = os.path.join(ROOT, "build", "book")
REFERENCE = re.compile(r"`([\w/.]+\.(?:c|h|py))` (\d+)-(\d+) `(\w+)`")
BLOCK = re.compile(r"(?:In `(\S+)`:\n\n)?```(diff|sh|text)\n(.*?)```\n", re.S)


def read(path):
    """The text of a file of the tree, given from the root."""
    with open(os.path.join(ROOT, path), encoding="utf-8") as f:
        return f.read()


def place(path, name):
    """(first, last) line of the definition of `name` in a file of the tree; None if there is none.

    A definition begins in the first column (static int name(, struct name {, #define name, def name) and ends with the
    first line that is a closing brace there, or where its statement or macro or Python block ends."""
    lines = read(path).split("\n")
    word = re.compile(r"\b%s\b" % re.escape(name))
    for i, line in enumerate(lines):
        if not line or line[0] in " \t/*}" or not word.search(line) or (line.startswith("#") and "define" not in line):
            continue
        if line.startswith("def "):
            last = next((j for j in range(i + 1, len(lines)) if lines[j] and not lines[j][0].isspace()), len(lines))
            while not lines[last - 1].strip():
                last -= 1
            return i + 1, last
        if line.startswith("#define"):
            j = i
            while lines[j].endswith("\\"):
                j += 1
            return i + 1, j + 1
        if line.rstrip().endswith(";"):                     # a declaration, or a definition of one line
            if path.endswith(".h") or "{" in line or line.startswith(("enum", "typedef", "static")):
                return i + 1, i + 1
            continue
        for j in range(i, len(lines)):
            if lines[j].startswith("}") or (j == i and lines[j].rstrip().endswith("}")):
                return i + 1, j + 1
            if path.endswith(".h") and lines[j].rstrip().endswith(");"):
                return i + 1, j + 1
    return None


def check_references(write):
    """Every reference of the page: (passed, failed). write: puts the right numbers into the page instead."""
    passed = failed = 0

    def settle(match):
        nonlocal passed, failed
        path, name = match.group(1), match.group(4)
        found = place(path, name)
        right = found and f"`{path}` {found[0]}-{found[1]} `{name}`"
        if right == match.group(0) or (right and write):
            passed += 1
        else:
            failed += 1
            print(f"MODEL.md says {match.group(0)}; it is " + (right or "nowhere"))
        return right if right and write else match.group(0)
    text = read("MODEL.md")
    new = REFERENCE.sub(settle, text)
    for number in sorted(set(re.findall(r"\b[Ee]xercise (\d+)", text)) | set(
            sum(re.findall(r"\b[Ee]xercises (\d+) and (\d+)", text), ()))):
        if f"### Exercise {number}:" not in text:
            failed += 1
            print(f"MODEL.md speaks of exercise {number}, and has none")
    if write and new != text:
        with open(PAGE, "w", encoding="utf-8") as f:
            f.write(new)
    return passed, failed


def exercises():
    """[(title, blocks {kind: (file, text)})] of the page; file: what a diff changes."""
    parts = re.split(r"^### (Exercise \d+: .*)\n", read("MODEL.md"), flags=re.M)
    result = []
    for title, body in zip(parts[1::2], parts[2::2]):
        body = re.split(r"^##", body, maxsplit=1, flags=re.M)[0]
        result.append((title, {kind: (file, text) for file, kind, text in BLOCK.findall(body)}))
    return result


def copy_tree():
    """The tree to build/book, except what is unchanged there, so that make builds only what changed."""
    os.makedirs(COPY, exist_ok=True)
    for name in ("Makefile", "export.py", "cli", "codecs", "kernels", "demo/demo.bin", "demo/pictures", "demo/hf",
                 *(f for f in os.listdir(ROOT) if f.endswith((".c", ".h")))):
        source = os.path.join(ROOT, name)
        for folder, _, files in os.walk(source) if os.path.isdir(source) else [(ROOT, [], [name])]:
            for file in files:
                path = os.path.join(folder, file)
                to = os.path.join(COPY, os.path.relpath(path, ROOT))
                os.makedirs(os.path.dirname(to), exist_ok=True)
                if not os.path.exists(to) or open(path, "rb").read() != open(to, "rb").read():
                    shutil.copyfile(path, to)


def changed(path, diff):
    """The text of a file with the diff's "-" lines replaced by its "+" lines."""
    old = "".join(line[1:] + "\n" for line in diff.splitlines() if line[:1] in (" ", "-"))
    new = "".join(line[1:] + "\n" for line in diff.splitlines() if line[:1] in (" ", "+"))
    text = read(path)
    if text.count(old) != 1:
        raise SystemExit(f"{path} holds this {text.count(old)} times instead of once:\n{old}")
    return text.replace(old, new)


def fits(got, want):
    """Whether an output is the expected one, where "..." stands for any lines."""
    pattern = "\n".join(r"(?:.*\n)*?.*" if line == "..." else re.escape(line) for line in want.split("\n"))
    return re.fullmatch(pattern, got) is not None


def run(title, blocks):
    """Runs an exercise in the copy; returns what it printed."""
    path, diff = blocks.get("diff", (None, None))
    if path:
        with open(os.path.join(COPY, path), "w", encoding="utf-8") as f:
            f.write(changed(path, diff))
    try:
        built = subprocess.run(["make", "-s", "smolvlm"], cwd=COPY, capture_output=True, text=True)
        if built.returncode:
            raise SystemExit(f"{title}: does not build\n{built.stderr}")
        env = dict(os.environ, OMP_WAIT_POLICY="passive")
        done = subprocess.run(["sh", "-c", blocks["sh"][1]], cwd=COPY, env=env, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True)
    finally:
        if path:
            shutil.copyfile(os.path.join(ROOT, path), os.path.join(COPY, path))
    return "\n".join(line.rstrip() for line in done.stdout.strip().split("\n"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", action="store_true", help="references alone")
    parser.add_argument("--write", action="store_true", help="put today's line numbers into MODEL.md")
    parser.add_argument("--show", type=int, metavar="N", help="run exercise N and print what it gives")
    args = parser.parse_args()
    passed = failed = 0
    if args.show is None:
        passed, failed = check_references(args.write)
    if not (args.lines or args.write):
        copy_tree()
        for title, blocks in exercises():
            if args.show is not None and not title.startswith(f"Exercise {args.show}:"):
                continue
            got = run(title, blocks)
            if args.show is not None:
                print(got)
                continue
            want = blocks["text"][1].strip()
            if fits(got, want):
                passed += 1
            else:
                failed += 1
                print(f"{title}\n  the page says:\n{want}\n  it printed:\n{got}\n")
    print(f"{passed} passed, {failed} failed")
    sys.exit(failed > 0 or passed == 0)


if __name__ == "__main__":
    main()
