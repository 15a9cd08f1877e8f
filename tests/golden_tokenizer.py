"""Writes tests/golden/tokenizer/: what the tokenizers library, SmolVLM2's reference, makes of many texts.

    python3 tests/golden_tokenizer.py           the golden files, for tests/test_tokenizer.c
    python3 tests/golden_tokenizer.py tables    the character tables of tokenizer.c, as C text

A tokenizer is a pair of files; all numbers are little-endian:
    NAME.bin    u32 vocab_size, then the tokenizer as a checkpoint carries it (model.h, "tokenizer:")
    NAME.cases  u32 n, then n x { u32 size, text; u32 count, i32 ids }        what encode makes of the text
                u32 n, then n x { u32 count, i32 ids; u32 size, text }        what decode makes of the ids
smollm2 is SmolVLM2's own (SMOLVLM_TOKENIZER says where its tokenizer.json is). tiny is invented for what that one
cannot show: bytes without an id, ambiguous merges, added tokens that begin alike. flagged has all kinds of added
tokens, with flags chosen at random. The ids of classes tell which class a character has: its merges join a, !, 1 or a
tab with the byte after it, if the two are in one piece, and one of its added tokens must not be part of a word.
classes.crc holds two u32: the CRC-32 of its ids for class_text over all of Unicode, without and with single digits."""

import json
import os
import random
import struct
import sys
import zlib

from tokenizers import Regex, Tokenizer, pre_tokenizers

HERE = os.path.dirname(os.path.abspath(__file__))
GOLDEN = os.path.join(HERE, "golden", "tokenizer")
REAL = os.environ.get("SMOLVLM_TOKENIZER", os.path.join(HERE, "..", "..", "shared", "smolvlm2", "tokenizer.json"))
sys.path.insert(0, os.path.dirname(HERE))
from export import tokenizer_blob  # noqa: E402

FLAGS = ("normalized", "lstrip", "rstrip", "single_word")
WORD = "<w>"                    # the token of classes that must stand alone
CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c < 0xE000]


# ------------------------------------------------------------------------------------------- the tables of tokenizer.c

def runs(members):
    """The lengths of the runs of code points outside, inside, outside, ... the set, up to its last member."""
    lengths, at, previous = [], 0, None
    for c in sorted(members):
        if c - 1 != previous:
            lengths += [c - at, 0]
            at = c
        lengths[-1] += 1
        at = previous = c
        at += 1
    return [part for n in lengths for part in ([65535, 0] * (n // 65535) + [n % 65535])]        # of 16 bits each


def tables():
    everything = "".join(map(chr, CODE_POINTS))

    def matching(pattern):
        split = pre_tokenizers.Split(Regex(pattern), behavior="removed", invert=True)
        return {c for _, (a, b) in split.pre_tokenize_str(everything) for c in CODE_POINTS[a:b]}

    digits, numeric = pre_tokenizers.Digits(individual_digits=False), set()
    for i in range(0, len(CODE_POINTS), 4096):      # a character stands alone between two letters if it is numeric
        block = CODE_POINTS[i:i + 4096]
        pieces = digits.pre_tokenize_str("".join("a" + chr(c) + "a" for c in block))
        numeric |= {block[a // 3] for _, (a, b) in pieces if b - a == 1 and a % 3 == 1}

    words = Tokenizer.from_str(json.dumps(classes_json(False)))         # a single_word token is not found after a \w
    word, id = set(), words.token_to_id(WORD)
    for i in range(0, len(CODE_POINTS), 64):
        block = CODE_POINTS[i:i + 64]
        encoded = words.encode("".join(chr(c) + WORD + "|" for c in block))
        alone = {begin // (len(WORD) + 2) for (begin, _), token in zip(encoded.offsets, encoded.ids) if token == id}
        word |= {c for at, c in enumerate(block) if at not in alone}

    number, letter, space = matching(r"\p{N}+"), matching(r"\p{L}+"), matching(r"\s+")
    assert number < numeric and letter < word and not space & word
    last = max(*numeric, *letter, *space)
    for name, members in (("letter", letter), ("number", number), ("space", space), ("word", word - letter)):
        lengths = runs(members)
        assert max(lengths) < 65536
        print("static const uint16_t %s[] = {" % name)
        line = "   "
        for n in lengths:
            if len(line) + len(" %d," % n) > 120:
                print(line)
                line = "   "
            line += " %d," % n
        print(line.rstrip(",") + "\n};")
    print("static const uint32_t digit_only[] = {\n    %s\n};"
          % ", ".join("0x%X" % c for c in sorted(numeric - number)))
    print("#define N_CLASSED 0x%X      /* one more than the last of any class */" % (last + 1))


# ------------------------------------------------------------------------------------------- the tokenizers

def byte_alphabet():
    """GPT-2's: the printable character that stands for each byte."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in printable]
    return {**{b: chr(b) for b in printable}, **{b: chr(256 + i) for i, b in enumerate(rest)}}


def added_token(content, id, *flags):
    """An entry of added_tokens; flags: the names of those that are set."""
    return {"id": id, "content": content, **{flag: flag in flags for flag in FLAGS}, "special": "special" in flags}


def tokenizer_json(vocab, merges, added, single_digits):
    """tokenizer.json; added: {content: id, or (id, flag ...)}."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    digits = {"type": "Digits", "individual_digits": True}
    return {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": None, "post_processor": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [digits, byte_level]} if single_digits else byte_level,
        "decoder": byte_level,
        "added_tokens": [added_token(content, *token) if isinstance(token, tuple) else added_token(content, token)
                         for content, token in added.items()],
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": vocab, "merges": merges}}


def tiny_json():
    """Few letters and many merges among them, so that several merges lead to one token, and some are stated twice."""
    rng, alphabet = random.Random(1), byte_alphabet()
    known = [alphabet[b] for b in b"abcdefst' \n\t0123<>!|" + "\u00e9\u65e5\u672c".encode()]
    tokens, merges = list(dict.fromkeys(known)), []
    while len(merges) < 250:
        left, right = (rng.choice(tokens[:40]) for _ in range(2))
        if len(left + right) <= 6:
            merges.append([left, right])
            if left + right not in tokens:
                tokens.append(left + right)
    merges += merges[:3]
    rng.shuffle(tokens)
    # The library numbers added tokens itself: as the vocabulary if they are in it, or else on from its size.
    contents = ["<a>", "<a><b>", "<a", "><b", "a>b", "\u00e9", "\u65e5\u672c", "\u65e5\u672c\u8a9e", "|||",
                "\ufffd\ufffd"]
    vocab = {token: i for i, token in enumerate(tokens)}
    added = {"|": vocab["|"], **{content: len(vocab) + i for i, content in enumerate(contents)}}
    return tokenizer_json(vocab, merges, added, False)


def flagged_json(rng):
    """Many added tokens that overlap, begin with white space or end in a word, with flags by chance. The vocabulary's
    ids have a gap, so that the library gives some of them to two added tokens; of these it finds the later."""
    alphabet = byte_alphabet()
    parts = ["a", "b", "ab", "<", ">", "<a>", " ", "  ", "\n", "\u00a0", "\u3000", "_", "1", "\u00e9", "\u0301",
             "\u65e5", "\U0001f600", "\u200d", "s"]
    tokens = [alphabet[b] for b in sorted(set("".join(parts).encode()))]
    vocab = {token: i for i, token in enumerate(tokens)}
    merges = [[alphabet[a], alphabet[b]] for a, b in (b"aa", b"ab", b"ba", b"  ", b" a", b"<a", b"a>")]
    vocab.update({left + right: len(tokens) + 9 + i for i, (left, right) in enumerate(merges)})
    added, following, n_added = {}, len(vocab), rng.randrange(1, 60)
    while len(added) < n_added:
        content = "".join(rng.choice(parts) for _ in range(rng.randrange(1, 4)))
        if content not in added:
            flags = [flag for flag in (*FLAGS, "special") if rng.random() < rng.choice((0.1, 0.5))]
            added[content] = (vocab.get(content, following), *flags)
            following += content not in vocab
    return tokenizer_json(vocab, merges, added, rng.random() < 0.5)


def classes_json(single_digits):
    alphabet = byte_alphabet()
    merges = [[first, alphabet[b]]
              for first in ("a", "!", "1", alphabet[9]) for b in [*range(128), *range(0xC2, 0xF5)]]
    tokens = list(dict.fromkeys([*alphabet.values(), *map("".join, merges)]))
    vocab = {token: i for i, token in enumerate(tokens)}
    return tokenizer_json(vocab, merges, {"|": vocab["|"], WORD: (len(vocab), "single_word")}, single_digits)


def class_text(code_points):
    return "".join("a{0}|!{0}|1{0}|\t{0}|{0}{1}|".format(chr(c), WORD) for c in code_points)


# ------------------------------------------------------------------------------------------- the texts

CHOSEN = [
    "", " ", "  ", "a", "a ", " a", "  a", "   a  ", "\n", "\n\n", "\n\n\nOK", " \n a", "a \n", "\t\ta", "\t a \t",
    "\r\n\r\nx", "<|im_start|>User:<image>Describe this picture.<end_of_utterance>\nAssistant:",
    "<fake_token_around_image><row_1_col_1><image><image><row_1_col_2>\n\n<fake_token_around_image><global-img><image>",
    "<row_6_col_6><row_6_col_7><row_1_col_", "<image", "image>", "<<image>>", "< image>", "<image><imag<image>e>",
    "<|im_start|", "a<image>b", " <image> ", "  <image>  a", "1<image>2", "<|endoftext|><|im_end|><repo_name>",
    "<|reserved_special_token_7|>", "I'm you're he's we've I'll I'd can't", "I'M YOU'RE", "'s's 's ''s '",
    "x'llll'vex're", "'r 'v 'l 're", "' s", "1's2's", "don\u2019t", "1234567890", "12 34  56   78", " 1", "  1",
    "a1b2c3", "3.14159e-10", "v1.2.3-rc4", "\u0661\u0662\u0663", "\u00bd\u00b2\u2167 \u2155x",
    "\u0967\u0968 \u0e51\u0e52", "\U0001d7d8\U0001d7d9", "\u4e00\u4e8c\u4e09", "\u3007\u3021",
    "\U00016ff4 \U00011de0\U00011de1", "Hello, world! How are you?", "def f(x):\n    return x ** 2  # square\n",
    "http://a.b/c?d=e&f=%20g", "!!!???...", "a_b-c+d=e",
    "\u4f60\u597d\uff0c\u4e16\u754c\u3002 \u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8",
    "\ud55c\uad6d\uc5b4 \ud14d\uc2a4\ud2b8", "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440",
    "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645",
    "\u05e9\u05b8\u05c1\u05dc\u05d5\u05b9\u05dd",
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e", "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35",
    "e\u0301a\u0308 \u0301x", "\u00e9t\u00e9 na\u00efve \u00c5ngstr\u00f6m",
    "\U0001f600\U0001f469\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea\u2764\ufe0f", "\u202e\u200b\ufeff",
    "a\u00a0b", "a \u00a0 b", "\u3000\u3000a", "a\u0085b\u0085\u0085c", "a\u180eb \u180e", "\u2028\u2029x",
    "a\x0b\x0c\x1c\x1fb", "\u1680a\u2003\u2003b", "a\0b\0\0", "\0", "\x7f\x01",
    "\ue000\uf8ff\ufffe\uffff\U0010ffff\U000e0001", "a" * 100, "ab" * 70, " " * 100, " " * 50 + "x", "\n" * 30,
    "=" * 80, "-" * 33 + ">", "\u00e9" * 40,
    "Donaudampfschifffahrtselektrizit\u00e4tenhauptbetriebswerkbauunterbeamtengesellschaft",
]
BROKEN = [
    b"\xff", b"\xc3", b"a\xc3", b"\xc3a", b"\xc3\xc3\xa9", b"\x80\x80", b"\xe2\x82", b"\xe2\x82 x", b"\xe2\x28\xa1",
    b"\xe0\x80\x80", b"\xe0\x9f\xbf\xe0\xa0\x80", b"\xed\x9f\xbf\xed\xa0\x80\xed\xbf\xbf", b"\xf0\x80\x80\x80",
    b"\xf0\x8f\xbf\xbf\xf0\x90\x80\x80", b"\xf0\x9f\x98", b"\xf0\x9f\x98\xf0\x9f\x98\x80", b"\xf0\x9fx",
    b"\xf4\x8f\xbf\xbf\xf4\x90\x80\x80", b"\xf5\x80\x80\x80", b"\xc0\x80\xc1\xbf", b"\xf8\x88\x80\x80\x80",
    b"<ima\xffge>", b"<image>\xf0\x9f<image>", b" \xff 1\xff's", b"\xfe\xff\x00a",
]
WORDS = [
    "the", "'s", "'ll", "'", "re", " ", "  ", "\n", "\t", "1", "42", ",", "...", "<image>", "<row_1_col_", "<|im_",
    "end|>", "<", ">", "House", "x", "\u00a0", "\u3000", "\u00e9", "\u0301", "\u4e2d", "\u0663", "\U0001f600", "\u00b2",
    "\u1680", "\u2028", "<a>", "|", "\ufffd",
]
# The first and last code points of where many scripts, marks, digits, symbols and spaces are.
BLOCKS = [(0, 0x7F), (0x80, 0x24F), (0x250, 0x36F), (0x370, 0x58F), (0x590, 0x7BF), (0x900, 0xDFF), (0xE00, 0x10FF),
          (0x1100, 0x1FFF), (0x2000, 0x206F), (0x2070, 0x2BFF), (0x2C00, 0x33FF), (0x3400, 0x9FFF), (0xA000, 0xABFF),
          (0xAC00, 0xD7FF), (0xE000, 0xFFFF), (0x10000, 0x1FFFF), (0x1F300, 0x1FAFF), (0x20000, 0x323FF), (0, 0x10FFFF)]


def random_text(rng, words):
    """Some tens of bytes: words, characters of one script after another, and sometimes bytes that are no UTF-8."""
    out = bytearray()
    broken = rng.random() < 0.15
    for _ in range(rng.randrange(1, 12)):
        kind = rng.random()
        if kind < 0.5:
            out += rng.choice(words).encode() * rng.choice((1, 1, 1, 2, 3))
        elif kind < 0.9:
            first, last = rng.choice(BLOCKS)
            for _ in range(rng.randrange(1, 5)):
                c = rng.randint(first, last)
                out += chr(c).encode("utf-8", "surrogatepass") if broken or not 0xD800 <= c < 0xE000 else b" "
        elif broken:
            out += bytes(rng.randrange(256) for _ in range(rng.randrange(1, 5)))
        else:
            out += bytes(rng.choice(b"abcdest '<>|1 \n") for _ in range(rng.randrange(1, 20)))
    if broken and rng.random() < 0.5:
        del out[rng.randrange(len(out)):]
    return bytes(out)


# ------------------------------------------------------------------------------------------- the files

def write(name, data):
    with open(os.path.join(GOLDEN, name), "wb") as file:
        file.write(data)


def with_size(data):
    return struct.pack("<I", len(data)) + data


def with_count(ids):
    return struct.pack("<I%di" % len(ids), len(ids), *ids)


def library(tokenizer):
    reference = Tokenizer.from_str(json.dumps(tokenizer))
    assert all(reference.token_to_id(t["content"]) == t["id"] for t in tokenizer["added_tokens"])
    return reference


def vocab_size(tokenizer):
    return max([*tokenizer["model"]["vocab"].values(), *(t["id"] for t in tokenizer["added_tokens"])]) + 1


def write_blob(name, tokenizer):
    n = vocab_size(tokenizer)
    write(name + ".bin", struct.pack("<I", n) + tokenizer_blob(tokenizer, n))


def encode(reference, text):
    """The ids, or None where the library breaks down: a token's lstrip begins after the token's end, as the one before
    it took the white space that it consists of."""
    try:
        return reference.encode(text.decode("utf-8", "replace"), add_special_tokens=False).ids
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        return None


def write_cases(name, tokenizer, n_random, n_decode):
    rng, reference = random.Random(os.path.basename(name)), library(tokenizer)
    words = WORDS + [t["content"] for t in tokenizer["added_tokens"][-12:]]
    texts = [t.encode() for t in CHOSEN] + BROKEN + [random_text(rng, words) for _ in range(n_random)]
    if any(t["lstrip"] for t in tokenizer["added_tokens"]):
        words = [t["content"] for t in tokenizer["added_tokens"]] + ["a", " ", "  ", "\n", "-", "\u00e9", "\u2003"]
        texts += ["".join(rng.choices(words, k=rng.randrange(1, 9))).encode() for _ in range(n_random)]
    encoded = [(t, encode(reference, t)) for t in texts]
    texts, encoded = zip(*((t, ids) for t, ids in encoded if ids is not None))
    decoded = [*encoded] + [[rng.randrange(vocab_size(tokenizer) + 20) for _ in range(rng.randrange(1, 15))]
                         for _ in range(n_decode)]
    cases = struct.pack("<I", len(texts))
    cases += b"".join(with_size(t) + with_count(ids) for t, ids in zip(texts, encoded))
    cases += struct.pack("<I", len(decoded))
    cases += b"".join(with_count(ids) + with_size(reference.decode(ids, skip_special_tokens=False).encode())
                      for ids in decoded)
    write(name + ".cases", cases)
    print("%s: %d texts, %d ids" % (name, len(texts), sum(map(len, encoded))))


def main():
    os.makedirs(GOLDEN, exist_ok=True)
    with open(REAL, encoding="utf-8") as file:
        real = json.load(file)
    for name, tokenizer, n_random, n_decode in (("smollm2", real, 150, 40), ("tiny", tiny_json(), 150, 40),
                                                 ("flagged", flagged_json(random.Random(9)), 250, 0)):
        write_blob(name, tokenizer)
        write_cases(name, tokenizer, n_random, n_decode)

    write_blob("classes", classes_json(False))
    crcs = []
    for single_digits in (False, True):
        reference, crc = library(classes_json(single_digits)), 0
        for i in range(0, len(CODE_POINTS), 64):        # short texts: the library looks at all of it for each \w$
            ids = reference.encode(class_text(CODE_POINTS[i:i + 64])).ids
            crc = zlib.crc32(struct.pack("<%di" % len(ids), *ids), crc)
        crcs.append(crc)
    write("classes.crc", struct.pack("<2I", *crcs))


if __name__ == "__main__":
    tables() if sys.argv[1:] == ["tables"] else main()
