#!/usr/bin/env python3
"""Trains the demo model: a SmolVLM small enough for two CPU cores, on pictures that draw.py draws.

    python demo/train.py WORKDIR                trains, or goes on where WORKDIR/last.pt ends; then writes WORKDIR/hf
                                                (a Hugging Face directory, bf16), demo.bin (Q8) and figures.txt
    python demo/train.py WORKDIR --save DIR     only writes the directory, of what there is so far

    draw.sample ──> make_batch ──> pixels [tiles, 3, T, T], ids [batch, L], seg, positions, targets, hints
        see:    vision_model ──> [tiles, 144, vision width] ──> hint_loss (see hints.py)
                    ──> connector ──> [tiles, 36, text width] ──> hint_loss
        read:   embed_tokens, image tokens among them ──> text_model ──> rows of the answers ──> answer_loss
                    layers 2 and 4 ──> hint_loss

What a picture costs (multiply-adds of the forward pass; the backward pass is twice as many):

    a tile     144 patches of 12 x 12 pixels x (6 layers x 369 k weights + attention)         = 0.37 G
    its tokens  36 in the decoder x (6 layers x 213 k weights) + the connector                = 0.05 G
    questions  about 110 tokens x the same, and 60 answer tokens x 900 candidate words        = 0.15 G
    a picture of 2 x 2 tiles: 5 x 0.42 + 0.15 = 2.3 G, so 6.8 G with the backward pass

Two cores of an AMD EPYC (Zen 5), whose bfloat16 products reach 240 G multiply-adds a second each, take 125 tiles of the
eye's lessons a second and 65 with questions: less than a third of that peak, as at this width norms, softmaxes, GELUs
and the hints cost as much as the products. Without bfloat16 (AVX2) a core reaches 50 G.

Three things make that affordable. All questions about a picture share one pass over it: the picture's tokens come
first, every question sees them and itself but not its neighbours (mask and positions in make_batch), so each is trained
exactly as it is asked later, alone. Only the rows of the answers go through the head, against the words that answers
are made of and 512 others at random (candidates). And on a CPU each core is a process of its own with whole
batches (Team), since at this width two threads on one product mostly wait for each other.

A batch is a function of the seed, its number and its size, so going on after an interruption needs only the number of
steps done, and the same --tiles and --batches as before.
"""
import argparse
import contextlib
import ctypes
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import defaultdict

import numpy as np
import torch
import torch.multiprocessing as mp
from PIL import Image
from transformers import AttentionInterface, SmolVLMConfig, SmolVLMForConditionalGeneration

import draw
from hints import (CHARACTERS, NOTHING, PATCH_HINTS, PLACE, POINTER, SIDE, TILE_HINTS, TOKEN_HINTS, UNKNOWN, Shown,
                   hint_ids, patch_hints, tile_hints, token_hints)
from prompt import PUBLISHED, answer_ids, encode, prefix_text, question_text

TILE, PATCH, SHUFFLE = draw.TILE, draw.TILE // SIDE // 2, 2
TOKENS = SIDE ** 2                                              # image tokens of a tile
VISION = dict(hidden_size=192, num_hidden_layers=6, num_attention_heads=3, intermediate_size=576)
TEXT = dict(hidden_size=128, num_hidden_layers=6, num_attention_heads=4, num_key_value_heads=4, intermediate_size=384,
            head_dim=32)
VOCABULARY = 49280
BF16 = "avx512_bf16" in (open("/proc/cpuinfo").read() if os.path.exists("/proc/cpuinfo") else "")  # products in bf16
ROOM = {"tile": 112, "wide": 128, "tall": 144, "square": 144, "pair_tile": 128, "pair_wide": 128, "pair_square": 128,
        "frames": 96, "film": 96}                               # tokens for the questions about one sample
RATE, MUON_RATE, WARM_UP, CLIP, DECAY_WEIGHTS = 0.4e-3, 1.2e-3, 100, 1.0, 0.02

# The lessons: until how many thousand tiles, level of difficulty (draw.Dice), learning rate (times the rates above),
# how often which kind of sample.
LESSONS = (
    (20, .2, 3, {"eye": 1}),
    (48, .5, 3, {"eye": 1}),
    (66, 1., 3, {"eye": 1}),
    (95, .3, 2, {"tile": 4, "eye": 1}),
    (130, .6, 2, {"tile": 5, "eye": 1.2, "pair_tile": 1, "frames": .5}),
    (170, .9, 2, {"tile": 4, "eye": 2, "wide": 1, "tall": 1, "square": 1.5, "pair_tile": 1.2, "frames": .6}),
    (math.inf, 1., 1.4, {"tile": 2, "eye": 1.5, "wide": 2, "tall": 2.5, "square": 5, "pair_tile": 1.2, "pair_wide": 1.6,
                         "pair_square": 1.6, "frames": .5, "film": .2}),
)
HINT, HINT_UNTIL = 1.0, 300     # weight of hint_loss: full until so many thousand tiles, nothing at twice as many
HEADS = PATCH_HINTS, TOKEN_HINTS, POINTER, POINTER, TILE_HINTS  # of patches, image tokens, named, pointed, tiles
HINT_LAYERS = 2, 4                                      # the decoder's, after which the last three are asked
READING_FIRST = 95              # until here half of the unsplit tiles, and more, are words and numbers to read


# ------------------------------------------------------------------------------------------------ the model

def make_config():
    """The model's configuration, as HF's class takes it."""
    vision = dict(VISION, image_size=TILE, patch_size=PATCH)
    text = dict(TEXT, model_type="llama", vocab_size=VOCABULARY, max_position_embeddings=4096, pad_token_id=2,
                rms_norm_eps=1e-5, rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
                tie_word_embeddings=True)
    return SmolVLMConfig(vision_config=vision, text_config=text, scale_factor=SHUFFLE, image_token_id=49190,
                         tie_word_embeddings=True, pad_token_id=2)


def attend(module, query, key, value, attention_mask, scaling, dropout=0.0, **ignored):
    """Attention as plain products: in training on a CPU three times as fast as torch's fused one, whose backward pass
    is slow. [batch, heads, n, head] -> [batch, n, heads, head]."""
    scores = query * scaling @ key.mT
    if attention_mask is not None:
        scores = scores + attention_mask
    return (torch.softmax(scores, -1, dtype=scores.dtype) @ value).transpose(1, 2).contiguous(), None


AttentionInterface.register("plain", attend)


def make_model(seed):
    """The untrained model. At this width HF's standard deviation of 0.02 learns nothing for hours: each matrix gets
    1 / sqrt(columns) here, about 0.09, and embeddings 0.08, so that no layer begins idle."""
    torch.manual_seed(seed)
    model = SmolVLMForConditionalGeneration(make_config())
    model.set_attn_implementation("plain")
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim > 1:
                p.normal_(0, .08 if "embed" in name and "patch" not in name else p[0].numel() ** -.5)
                if name.endswith(("out_proj.weight", "fc2.weight", "o_proj.weight", "down_proj.weight")):
                    p.mul_(.4)                              # so that a layer adds to what there is
        look_around(model.model.vision_model)
        look_back(model.model.text_model)
    text, vision = TEXT["hidden_size"], VISION["hidden_size"]
    model.hints = torch.nn.ModuleList(torch.nn.Linear(vision if i == 0 else text, n * text)         # not in save_hf
                                      for i, n in enumerate(HEADS))
    for head in model.hints:                    # they begin silent, else the first steps would be for them alone
        torch.nn.init.zeros_(head.weight)
    return model


# What the vision tower's heads look at before they learn: so many patches down and to the right, by layer.
LOOK = ((0, -1), (0, 1), (-1, 0)), ((1, 0), (0, -1), (0, 1)), ((-1, 0), (1, 0), None), ((0, -1), (0, 1), None), \
       ((0, -2), (0, 2), None)
WAVES, SHARP = 8, 2.0


def look_around(vision):
    """Gives the vision tower what a convolution has from the start: positions that tell who is whose neighbour (sines
    and cosines of row and column, in dimensions that nothing else writes to yet), and heads that look at one."""
    side, wide, size = TILE // PATCH, 4 * WAVES, VISION["hidden_size"] // VISION["num_attention_heads"]
    turn = math.pi / side * torch.arange(1, WAVES + 1)

    def waves(row, column):                                 # [4 * WAVES]
        return torch.cat([f(at * turn) for at in (row, column) for f in (torch.cos, torch.sin)])
    table = torch.stack([waves(i // side, i % side) for i in range(side * side)])
    vision.embeddings.position_embedding.weight.zero_()[:, :wide] = table
    vision.embeddings.patch_embedding.weight[:wide] = 0
    for i, (layer, looks) in enumerate(zip(vision.encoder.layers, LOOK + ((None,) * 3,) * len(vision.encoder.layers))):
        sharp = SHARP * (1 + .1 * i)                        # as the positions' share of what a layer sees falls
        layer.self_attn.out_proj.weight[:wide] = 0
        layer.mlp.fc2.weight[:wide] = 0
        for head, look in enumerate(looks):
            if look is None:
                continue
            q, k = (p.weight[head * size:head * size + wide] for p in (layer.self_attn.q_proj, layer.self_attn.k_proj))
            q.zero_(), k.zero_()
            k[:, :wide] = sharp * torch.eye(wide)
            for axis, by in enumerate(look):                # cos(a + b) = cos a cos b - sin a sin b, and so on
                first = 2 * WAVES * axis
                cos, sin = sharp * torch.diag(torch.cos(by * turn)), sharp * torch.diag(torch.sin(by * turn))
                middle, last = first + WAVES, first + 2 * WAVES
                q[first:middle, first:middle], q[first:middle, middle:last] = cos, -sin
                q[middle:last, first:middle], q[middle:last, middle:last] = sin, cos


def look_back(text, constant=.16, sharp=3.0, fast=4):
    """Gives the text model's first layer two heads that look one and two tokens back: what reading on needs most.

    A head that knows only distances needs something that is the same in every token: dimension 0 of all embeddings (as
    they are tied, it adds the same to all logits). RoPE turns pair i of a query by i's frequency times its position; a
    key turned further by `back` of these turns is met best `back` tokens later. Only the fastest pairs: the others
    would not tell neighbours apart, but weigh a token's length."""
    text.embed_tokens.weight[:, 0] = constant
    size, layer = TEXT["head_dim"], text.layers[0].self_attn
    half, turn = size // 2, 10000.0 ** (-torch.arange(fast) / (size // 2))
    for head, back in enumerate((1, 2)):
        q, k = (p.weight[head * size:(head + 1) * size] for p in (layer.q_proj, layer.k_proj))
        q.mul_(.05), k.mul_(.05)
        q[:fast, 0] = sharp
        k[:fast, 0], k[half:half + fast, 0] = sharp * torch.cos(back * turn), sharp * torch.sin(back * turn)


# ------------------------------------------------------------------------------------------------ pictures to tiles

def rescale(image, width, height):
    """Pillow's LANCZOS, or nothing where the size is right already (which is what it would do)."""
    return image if image.size == (width, height) else image.resize((width, height), Image.LANCZOS)


def tiles_of(image, split):
    """SmolVLMImageProcessorPil's steps on one RGB picture: (rows, columns, uint8 [rows * columns + 1, 3, T, T]).

    The longest edge to draw.EDGE; both edges up to multiples of a tile; the tiles row by row, then the whole picture
    in one tile. Not split: the whole picture only, and 0 rows and columns."""
    width, height = image.size
    if width >= height:
        width, height = draw.EDGE, int(draw.EDGE / (width / height))
        height += height % 2
    else:
        width, height = int(draw.EDGE * (width / height)), draw.EDGE
        width += width % 2
    image = rescale(image, max(width, 1), max(height, 1))
    rows = columns = 0
    if split:
        width, height = image.size
        if width >= height:
            height = math.ceil(int(math.ceil(width / TILE) * TILE / (width / height)) / TILE) * TILE
            width = math.ceil(width / TILE) * TILE
        else:
            width = math.ceil(int(math.ceil(height / TILE) * TILE * (width / height)) / TILE) * TILE
            height = math.ceil(height / TILE) * TILE
        image = rescale(image, width, height)
        rows, columns = height // TILE, width // TILE
    whole = np.asarray(rescale(image, TILE, TILE))[None]
    tiles = whole if not split else np.concatenate([np.asarray(image).reshape(rows, TILE, columns, TILE, 3)
                                                    .swapaxes(1, 2).reshape(-1, TILE, TILE, 3), whole])
    return rows, columns, tiles.transpose(0, 3, 1, 2)


# ------------------------------------------------------------------------------------------------ batches

def lesson(seen):
    """(level, rate, weights of the kinds) of the lesson after so many tiles."""
    return next(lesson[1:] for lesson in LESSONS if seen < 1000 * lesson[0])


def pack(asks, rng, room):
    """As many of the asks as fit into room tokens: [(skill, question, answer, ids of each)]. One question of each skill
    comes first, so that those with few are asked as often as those with many; the rest is chance. A page to be read out
    is asked for now and then only, as it takes the room of five other questions."""
    asks = [a for a in asks if a[0] != "transcribe" or rng.random() < .1]
    rng.shuffle(asks)
    seen, first, later = set(), [], []
    for a in asks:
        (later if a[0] in seen else first).append(a)
        seen.add(a[0])
    packed, used = [], 0
    for skill, question, answer in first + later:
        q, a = encode(question_text(question)), answer_ids(answer)
        if used + len(q) + len(a) <= room:
            packed.append((skill, question, answer, q, a))
            used += len(q) + len(a)
    return packed


def make_batch(seed, number, seen, tiles):
    """One batch: `tiles` tiles or as many samples as they make, all of one kind. A function of its arguments alone.

    Returns pixels uint8 [tiles, 3, T, T], patches [tiles, FINE, FINE, PATCH_HINTS], squares [tiles, TOKENS,
    TOKEN_HINTS] and whose [tiles, TILE_HINTS] (see hints.py), ids [B, L], seg [B, L] (0 the picture, 1.. its questions,
    -1 padding), positions [B, L], where [N] (index into B * L of the position that predicts it), targets [N], answer
    [N] (which answer it belongs to), skills [answers], mentions [M] (where in B * L something is named) and meant [M,
    POINTER] (what), pointed [N, POINTER] (what the targets point at, see hints.Shown)."""
    rng = draw.Dice(f"{seed}/{number}")
    rng.level, _, kinds = lesson(seen)
    kind = rng.choices(list(kinds), kinds.values())[0]
    if len(kinds) > 1 and kind == "eye":                    # once there are questions, the eye knows the easy pages
        rng.level = 1.0
    count, split, w, h = draw.KINDS[kind]
    each = count * (1 if not split else 1 + math.ceil(w / TILE) * math.ceil(h / TILE))
    only = draw.draw_words if kind == "tile" and seen < 1000 * READING_FIRST and rng.random() < .5 else None
    batch = max(1, tiles // each)
    pixels, patches, whose, rows, skills = [], [], [], [], []
    for _ in range(batch):
        s = draw.sample(rng, kind, only)
        cut = [tiles_of(p, split) if kind != "eye" else (0, 0, np.asarray(p).transpose(2, 0, 1)[None])
               for p in s.pictures]
        pixels += [c[2] for c in cut]
        patches += [patch_hints(marks, *c[:2]) for c, marks in zip(cut, s.marks)]
        whose += [tile_hints(i, *c[:2]) for i, c in enumerate(cut)]
        prefix = encode(prefix_text([c[:2] for c in cut], s.clip, TOKENS))
        rows.append((prefix, Shown(s.marks, *cut[0][:2]), pack(s.asks, rng, ROOM.get(kind, 0))))
    length = max(len(prefix) + sum(len(q) + len(a) for *_, q, a in packed) for prefix, _, packed in rows)
    ids = np.full((batch, length), 2, np.int64)
    seg = np.full((batch, length), -1, np.int16)
    positions = np.zeros((batch, length), np.int64)
    where, targets, answer, mentions, meant, pointed = [], [], [], [], [], []
    for b, (prefix, shown, packed) in enumerate(rows):
        at = len(prefix)
        ids[b, :at], seg[b, :at], positions[b, :at] = prefix, 0, np.arange(at)
        for i, (skill, question, said, q, a) in enumerate(packed):
            n = len(q) + len(a)
            ids[b, at:at + n], seg[b, at:at + n] = q + a, i + 1
            positions[b, at:at + n] = len(prefix) + np.arange(n)
            named = shown.named(question)
            pointed += shown.pointed(question, said, named)
            for place, what in named:
                mentions.append(b * length + at + place)
                meant.append(what)
            where += range(b * length + at + len(q) - 1, b * length + at + n - 1)
            targets += a
            answer += [len(skills)] * len(a)
            skills.append(skill)
            at += n
    patches = np.concatenate(patches)
    return dict(pixels=np.concatenate(pixels), patches=patches, squares=token_hints(patches),
                whose=np.concatenate(whose), ids=ids, seg=seg, positions=positions, where=np.array(where, np.int64),
                targets=np.array(targets, np.int64), answer=np.array(answer, np.int64), skills=skills,
                mentions=np.array(mentions, np.int64),
                meant=np.array(meant, np.int64).reshape(-1, POINTER),
                pointed=np.array(pointed, np.int64).reshape(-1, POINTER))


def answer_vocabulary(seed=1, count=3000):
    """The ids that answers are made of, seen in so many drawn samples: [n] int64, sorted."""
    ids = set(encode("<end_of_utterance>")) | set(hint_ids().tolist())
    for char in CHARACTERS:
        ids.update(encode(char) + encode(" " + char))
    rng = draw.Dice(seed)
    for _ in range(count):
        for _, _, answer in draw.sample(rng, rng.choice(("tile", "tile", "wide", "pair_tile", "film"))).asks:
            ids.update(answer_ids(answer))
    return torch.tensor(sorted(ids))


# ------------------------------------------------------------------------------------------------ the loss

def see(model, batch, device):
    """The patches of a batch's tiles, [tiles, 144, vision width], and their image tokens, [tiles, 36, text width]."""
    pixels = torch.from_numpy(batch["pixels"]).to(device).float().div_(127.5).sub_(1)
    patches = model.model.vision_model(pixels).last_hidden_state
    return patches, model.model.connector(patches)


class Words:
    """Those rows of the embedding (and head: they are tied) that a batch needs, as a leaf of their own: a gradient of
    all 49280 rows would take longer to clear and add up than many a layer."""

    def __init__(self, model, batch, candidates, rng, device):
        """ids: the batch's, as indices into rows; scored: the rows that compete for an answer's token, which are what
        the batch answers, the candidates and 512 at random; targets: indices into scored."""
        self.weight = model.lm_head.weight
        ids, targets = torch.from_numpy(batch["ids"]), torch.from_numpy(batch["targets"])
        others = torch.from_numpy(np.frombuffer(rng.randbytes(4 * 512), np.uint32) % VOCABULARY)
        chosen, index = torch.unique(torch.cat([targets, candidates, others.long()]), return_inverse=True)
        self.used, where = torch.unique(torch.cat([chosen, hint_ids(), ids.flatten()]), return_inverse=True)
        self.used, self.targets = self.used.to(device), index[:len(targets)].to(device)
        where = where.to(device)
        self.scored, self.hints, self.ids = where.split([len(chosen), len(hint_ids()), ids.numel()])
        self.ids = self.ids.view(ids.shape)
        self.rows = self.weight.detach().index_select(0, self.used).requires_grad_()

    def add_gradient(self):
        """After backward(): to the gradient of the whole."""
        if self.weight.grad is None:
            self.weight.grad = torch.zeros_like(self.weight)
        self.weight.grad.index_add_(0, self.used, self.rows.grad)


def read(model, batch, words, features, device):
    """What the text model makes of a batch whose image tokens are `features`, [B * L, width]: its output, and that of
    its HINT_LAYERS."""
    ids, seg = torch.from_numpy(batch["ids"]).to(device), torch.from_numpy(batch["seg"]).to(device)
    core, n = model.model, ids.shape[1]
    embeddings = torch.nn.functional.embedding(words.ids, words.rows)                       # [B, L, width]
    embeddings = embeddings.masked_scatter((ids == core.image_token_id)[..., None], features.float())
    key, query = seg[:, None, None, :], seg[:, None, :, None]
    allowed = torch.ones(n, n, dtype=torch.bool, device=device).tril() & ((key == 0) | (key == query))
    mask = torch.zeros(allowed.shape, device=device).masked_fill_(~allowed, -1e30).to(features.dtype)
    out = core.text_model(inputs_embeds=embeddings, attention_mask=mask, use_cache=False, output_hidden_states=True,
                          position_ids=torch.from_numpy(batch["positions"]).to(device))
    return [x.flatten(0, 1) for x in (out.last_hidden_state, *(out.hidden_states[n] for n in HINT_LAYERS))]


def some(tokens, labels, kinds, rng):
    """Those tokens, with their labels, that show anything, by the first `kinds` of their labels, and one in ten of the
    others: ([n, width], [n, kinds of hints]). tokens [tiles, of a tile, width]."""
    luck = torch.rand(labels.shape[:2], generator=torch.Generator().manual_seed(rng.getrandbits(32))).to(labels.device)
    chosen = (labels[..., :kinds] != NOTHING).any(-1) | (luck < .1)
    return tokens[chosen], labels[chosen]


def hint_loss(head, words, tokens, labels, nothing):
    """(loss of telling the hints, right ones, labels that are not nothing), the last two [kinds of hints].

    tokens [n, width], labels [n, kinds of hints]; a label that is NOTHING weighs `nothing`. Each kind of hint is a
    linear map (dropped later) from the token to the embedding of the word for what is there, times 4, as embeddings
    are short beside what a softmax needs."""
    told = head(tokens).unflatten(-1, (labels.shape[1], -1))                                # [n, kinds, width]
    scores = (4 * told @ words.rows.index_select(0, words.hints).T).float()                 # [n, kinds, hint_words]
    each = torch.nn.functional.cross_entropy(scores.flatten(0, 1), labels.flatten(), reduction="none",
                                             ignore_index=UNKNOWN).view(labels.shape)
    weight = torch.where(labels > NOTHING, 1.0, nothing) * (labels != UNKNOWN)
    loss, there = ((each * weight).sum(0) / weight.sum(0).clamp(min=1)).mean(), labels > NOTHING
    return loss, ((scores.detach().argmax(2) == labels) & there).sum(0).cpu().numpy(), there.sum(0).cpu().numpy()


def answer_loss(batch, words, hidden, device):
    """(mean loss of the answers' tokens, each token's loss, whether each token has the highest score).

    A token of an answer of n tokens weighs 1 / sqrt(n): long answers teach more than short ones, but "Red." is not
    drowned by a page that is read out."""
    hidden = hidden[torch.from_numpy(batch["where"]).to(device)].float()
    logits = hidden @ words.rows.index_select(0, words.scored).T                            # [N, scored]
    losses = torch.nn.functional.cross_entropy(logits, words.targets, reduction="none")
    lengths = np.bincount(batch["answer"])
    weight = torch.from_numpy(lengths[batch["answer"]] ** -.5).float().to(device)
    right = logits.detach().argmax(1) == words.targets
    return (losses * weight).sum() / weight.sum(), losses.detach().cpu().numpy(), right.cpu().numpy()


def learn(model, batch, candidates, rng, device, hint):
    """Adds the gradient of answer_loss (if there are questions) + hint * each hint_loss to the model's.

    Returns {skill: [tokens' loss, tokens, right, answers]}, and of the hints, in brackets, how many were right."""
    loss, counts = torch.zeros((), device=device), {}
    there = lambda name: torch.from_numpy(batch[name]).to(device)
    words = Words(model, batch, candidates, rng, device)
    with torch.autocast(device.type, torch.bfloat16, enabled=BF16 or device.type == "cuda"):
        patches, features = see(model, batch, device)
        hidden, early, later = read(model, batch, words, features, device) if batch["skills"] else (None, None, None)
        asked = [(*some(patches, there("patches").flatten(1, 2), PATCH_HINTS, rng), .3,
                  ("what", "ink", "before", "before2", "after", "name")),
                 (*some(features, there("squares"), PLACE, rng), .3,
                  ("", "", "left", "", "", "", "right", "", "ink2", "name2") + ("place",) * 4)]
        if batch["skills"]:
            loss, losses, right = answer_loss(batch, words, hidden, device)
            counts = tally(batch, losses, right)
            shown = (there("ids").flatten() == model.config.image_token_id).nonzero()[:, 0]
            asked += [(early[there("mentions")], there("meant"), .5, ("named",) * POINTER),
                      (later[there("where")], there("pointed"), .5, ("", "") + ("pointed",) * (POINTER - 2)),
                      (early[shown[::4]], there("whose").repeat_interleave(TOKENS, 0)[::4], 1, ("tile",) * TILE_HINTS)]
        for head, (tokens, labels, nothing, parts) in zip(model.hints, asked if hint else ()):
            hinted, right, known = hint_loss(head, words, tokens, labels, nothing)
            loss = loss + hint * hinted
            for i, name in enumerate(parts):
                if name:
                    counts.setdefault(f"({name})", np.zeros(4))[2:] += right[i], known[i]
    if loss.requires_grad:
        loss.backward()
        words.add_gradient()
    return counts


def tally(batch, losses, right):
    """{skill: [sum of the tokens' losses, tokens, answers wholly right, answers]}."""
    table, n = defaultdict(lambda: np.zeros(4)), len(batch["skills"])
    per_loss = np.bincount(batch["answer"], losses, n)
    per_token = np.bincount(batch["answer"], minlength=n)
    per_right = np.bincount(batch["answer"], right, n)
    for i, skill in enumerate(batch["skills"]):
        table[skill] += (per_loss[i], per_token[i], per_right[i] == per_token[i], 1)
    return dict(table)


# ------------------------------------------------------------------------------------------------ several processes

class Team:
    """Processes that share the model's weights and take the batches of a step from one counter.

    Every member, the leader too, adds up the gradients of the batches it took; the leader adds the members' sums.
    Whoever is slowed down by other work on the machine simply takes fewer batches."""

    def __init__(self, model, members, work):
        """work(number, seen): computes one batch, adding to the gradients of model; returns its tally."""
        self.work = work
        self.parameters = list(model.parameters())
        context = mp.get_context("fork")                        # work() need not be pickled
        self.next = context.Value("l", 0)
        model.share_memory()
        self.shared = [[torch.zeros_like(p).share_memory_() for p in self.parameters] for _ in range(members - 1)]
        self.orders = [context.Pipe() for _ in range(members - 1)]
        for i in range(members - 1):
            context.Process(target=self.member, args=(i,), daemon=True).start()
        for _, theirs in self.orders:                           # else a member's death would go unnoticed
            theirs.close()

    def take(self, end, seen):
        """Batches from the counter until `end`; returns their tallies."""
        tallies = []
        while True:
            with self.next.get_lock():
                number = self.next.value
                if number >= end:
                    return tallies
                self.next.value += 1
            tallies.append(self.work(number, seen))

    def member(self, i):
        signal.signal(signal.SIGINT, signal.SIG_IGN)            # the leader says when to end
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        for ours, _ in self.orders:                             # else the leader's death would go unnoticed
            ours.close()
        for p, grad in zip(self.parameters, self.shared[i]):
            p.grad = grad
        with contextlib.suppress(EOFError):
            while order := self.orders[i][1].recv():
                for grad in self.shared[i]:
                    grad.zero_()
                self.orders[i][1].send(self.take(*order))

    def step(self, begin, count, seen):
        """The mean gradient of batches begin ... begin + count - 1, left in the parameters; returns the tallies."""
        self.next.value = begin
        for p in self.parameters:
            if p.grad is None:
                p.grad = torch.zeros_like(p)
            else:
                p.grad.zero_()
        for ours, _ in self.orders:
            ours.send((begin + count, seen))
        tallies = self.take(begin + count, seen)
        for (ours, _), grads in zip(self.orders, self.shared):
            tallies += ours.recv()
            torch._foreach_add_([p.grad for p in self.parameters], grads)
        torch._foreach_div_([p.grad for p in self.parameters], count)
        return tallies

    def close(self):
        for ours, _ in self.orders:
            ours.send(None)


class Ahead(torch.utils.data.Dataset):
    """Batches by their number, for a GPU's loader processes."""

    def __init__(self, seed, tiles, batches, steps):
        self.seed, self.tiles, self.batches, self.steps = seed, tiles, batches, steps

    def __len__(self):
        return self.steps * self.batches

    @staticmethod
    def ignore(_):
        """The leader says when to end."""
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

    def __getitem__(self, number):
        torch.set_num_threads(1)
        seen = number // self.batches * self.batches * self.tiles           # before its step
        return make_batch(self.seed, number, seen, self.tiles)


# ------------------------------------------------------------------------------------------------ training

def slope(step, steps, fall):
    """The share of the learning rate: up over WARM_UP steps, level, down to 0.01 over the last share `fall` of all."""
    left = (steps - step) / (fall * steps)
    return min(1.0, (step + 1) / WARM_UP, max(left, 0.01))


class Muon(torch.optim.Optimizer):
    """Momentum whose every step is made orthogonal (Jordan et al., 2024), for the layers' matrices.

    A step's singular values all become about 1, so directions that the gradients rarely show are learned as fast as
    frequent ones. Scaled as by Liu et al., 2025, to the size of AdamW's steps: one learning rate serves both."""

    def __init__(self, parameters, lr, momentum=.95, weight_decay=0.0):
        super().__init__(parameters, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        shapes = defaultdict(list)
        for group in self.param_groups:
            for p in (p for p in group["params"] if p.grad is not None and p.grad.any()):      # what the lesson used
                m = self.state[p].setdefault("momentum", torch.zeros_like(p))
                m.lerp_(p.grad, 1 - group["momentum"])
                shapes[p.flatten(1).shape].append((p, p.grad.lerp(m, group["momentum"]).flatten(1), group))
        for (rows, columns), entries in shapes.items():
            x = torch.stack([update for _, update, _ in entries])               # [matrices, rows, columns]
            x = x.bfloat16() if BF16 or x.is_cuda else x
            x = x.mT if rows > columns else x
            x = x / (x.float().norm(dim=(1, 2), keepdim=True) + 1e-7).to(x.dtype)
            for _ in range(5):                                                  # Newton-Schulz, quintic
                a = x @ x.mT
                x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
            x = x.mT if rows > columns else x
            for (p, _, group), update in zip(entries, x):
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(update.view_as(p), alpha=-group["lr"] * .2 * max(rows, columns) ** .5)


def optimizers_of(model):
    """Muon for the layers' matrices, AdamW for embeddings (patches and words), hints, norms and biases."""
    matrices = [p for n, p in model.named_parameters() if p.ndim > 1 and "embed" not in n and "hints" not in n]
    ours = set(map(id, matrices))
    others = [p for p in model.parameters() if id(p) not in ours]
    return [Muon(matrices, MUON_RATE, weight_decay=DECAY_WEIGHTS),
            torch.optim.AdamW(others, lr=RATE, betas=(.9, .98), weight_decay=0.0, fused=True)]


def save_state(path, **state):
    """A checkpoint, complete or not there at all."""
    torch.save(state, path + ".tmp")
    os.replace(path + ".tmp", path)


def report(log, step, steps, total, seconds, speed):
    """One line of progress: loss, and the share of right answers of each skill since the last line."""
    tokens = max(1, sum(v[1] for v in total.values()))
    skills = " ".join(f"{skill} {v[2] / max(1, v[3]):.2f}" for skill, v in sorted(total.items()))
    line = (f"step {step}/{steps}  {seconds / 3600:.2f} h  loss {sum(v[0] for v in total.values()) / tokens:.3f}  "
            f"{speed:.1f} tiles/s  |  {skills}")
    print(line, flush=True)
    with open(log, "a", encoding="utf-8") as f:
        f.write(line + "\n")


def train(a):
    """Runs the steps that are left; whether it came to the last."""
    os.makedirs(a.work, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    gpu = device.type == "cuda"
    torch.set_num_threads(1 if not gpu else 4)
    with contextlib.suppress(OSError, AttributeError):      # glibc keeps freed memory, or every tensor is paged in anew
        ctypes.CDLL(None).mallopt(-3, 1 << 25), ctypes.CDLL(None).mallopt(-1, 1 << 30)
    last = os.path.join(a.work, "last.pt")
    model = make_model(a.seed).to(device).train()
    candidates = answer_vocabulary()
    state = torch.load(last, map_location=device, weights_only=True) if os.path.exists(last) else None
    step, seconds = (state["step"], state["seconds"]) if state else (0, 0.0)
    if state:
        model.load_state_dict(state["model"])

    def work(number, seen, batch=None):
        batch = batch or make_batch(a.seed, number, seen, a.tiles)
        hint = HINT * min(1.0, max(0.0, 2 - seen / 1000 / HINT_UNTIL))
        return learn(model, batch, candidates, random.Random(number), device, hint)

    team = None if gpu else Team(model, a.processes, work)
    loader = iter(torch.utils.data.DataLoader(
        torch.utils.data.Subset(Ahead(a.seed, a.tiles, a.batches, a.steps),
                                range(step * a.batches, a.steps * a.batches)),
        batch_size=None, num_workers=os.cpu_count(), prefetch_factor=4, collate_fn=lambda batch: batch,
        worker_init_fn=Ahead.ignore, multiprocessing_context="fork")) if gpu else None
    optimizers = optimizers_of(model)
    rates = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    for optimizer, saved in zip(optimizers, state["optimizers"] if state else ()):
        optimizer.load_state_dict(saved)
    keep = lambda: save_state(last, step=step, seconds=seconds, model=model.state_dict(),
                              optimizers=[optimizer.state_dict() for optimizer in optimizers])
    total, begun, marked, saved = defaultdict(lambda: np.zeros(4)), step, time.time(), time.time()
    stop = []
    for what in (signal.SIGINT, signal.SIGTERM):            # finish the step, keep the state, end
        signal.signal(what, lambda *_: stop.append(1))
    print(f"{sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, {len(candidates)} answer ids, "
          f"from step {step} on {device}", flush=True)
    tiles_a_step = a.tiles * a.batches
    while step < a.steps and not stop:
        began, seen = time.time(), step * tiles_a_step
        if gpu:
            tallies = [work(step * a.batches + i, seen, next(loader)) for i in range(a.batches)]
            torch._foreach_div_([p.grad for p in model.parameters() if p.grad is not None], a.batches)
        else:
            tallies = team.step(step * a.batches, a.batches, seen)
        rate = slope(step, a.steps, a.fall) * lesson(seen)[1]
        torch.set_num_threads(a.processes if not gpu else 4)        # the others wait
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        for optimizer, top in zip(optimizers, rates):
            for group in optimizer.param_groups:
                group["lr"] = top * rate
            optimizer.step()
        torch.set_num_threads(1 if not gpu else 4)
        if gpu:
            model.zero_grad(set_to_none=True)
        step += 1
        for counts in tallies:
            for skill, v in counts.items():
                total[skill] += v
        seconds += time.time() - began
        if step % a.report == 0:
            speed = (step - begun) * tiles_a_step / (time.time() - marked)
            report(os.path.join(a.work, "log.txt"), step, a.steps, total, seconds, speed)
            total.clear()
            begun, marked = step, time.time()
        if time.time() - saved > a.save_every:
            keep()
            saved = time.time()
    keep()
    if team:
        team.close()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    return step >= a.steps and not stop


# ------------------------------------------------------------------------------------------------ the HF directory

def save_hf(work, out, dtype=torch.bfloat16):
    """Writes WORKDIR/last.pt as a Hugging Face directory, as SmolVLM2 is published."""
    state = torch.load(os.path.join(work, "last.pt"), map_location="cpu", weights_only=True)
    model = make_model(0)
    model.load_state_dict(state["model"])
    del model.hints
    os.makedirs(out, exist_ok=True)
    model.to(dtype).save_pretrained(out)
    published = os.path.join(PUBLISHED, "256m")
    for name in ("tokenizer_config.json", "chat_template.json", "generation_config.json"):
        shutil.copy(os.path.join(published, name), out)
    shutil.copy(os.path.join(PUBLISHED, "tokenizer.json"), out)
    sizes = dict(size={"longest_edge": draw.EDGE}, max_image_size={"longest_edge": TILE})
    for name, changes in (("preprocessor_config.json", sizes), ("processor_config.json", dict(image_seq_len=TOKENS))):
        with open(os.path.join(published, name), encoding="utf-8") as f:
            settings = json.load(f) | changes
        if "video_sampling" in settings:
            settings["video_sampling"]["video_size"] = {"longest_edge": TILE}
        with open(os.path.join(out, name), "w", encoding="utf-8") as f:
            json.dump(settings, f, indent=2)


def finish(work):
    """The directory, the checkpoint, and the share of right answers to demo/eval by skill."""
    hf, checkpoint, figures = (os.path.join(work, name) for name in ("hf", "demo.bin", "figures.txt"))
    save_hf(work, hf)
    run = lambda *command, **how: subprocess.run([sys.executable, *command], check=True, **how)
    run(os.path.join(draw.HERE, "..", "export.py"), hf, checkpoint, "--format", "q8")
    print("evaluating, some minutes", flush=True)
    with open(figures + ".tmp", "w", encoding="utf-8") as f:
        run(os.path.join(draw.HERE, "evaluate.py"), "run", hf, os.path.join(draw.HERE, "eval"), stdout=f)
    os.replace(figures + ".tmp", figures)
    with open(figures, encoding="utf-8") as f:
        print(f.read(), end="")


def main():
    parser = argparse.ArgumentParser(description="Trains the demo model.")
    parser.add_argument("work", metavar="WORKDIR", help="checkpoints and the log")
    parser.add_argument("--steps", type=int, default=6920)
    parser.add_argument("--fall", type=float, default=.6, help="the share of the steps in which the rate falls")
    parser.add_argument("--tiles", type=int, default=20, help="tiles in a batch")
    parser.add_argument("--batches", type=int, default=4, help="batches in a step")
    parser.add_argument("--processes", type=int, default=2, help="CPU processes, each with one thread")
    parser.add_argument("--report", type=int, default=50, help="steps from one line of progress to the next")
    parser.add_argument("--save-every", type=float, default=180, help="seconds from one checkpoint to the next")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--save", metavar="DIR", help="only write the Hugging Face directory")
    a = parser.parse_args()
    if a.save:
        save_hf(a.work, a.save)
    elif train(a):
        finish(a.work)


if __name__ == "__main__":
    main()
