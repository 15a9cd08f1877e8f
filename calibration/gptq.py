"""gptq.py: weights rounded to few levels so that a matrix's outputs change least, not its numbers. For export.py
--calibrate.

A matrix W [rows, cols] is multiplied with inputs x. If X is many of them, rounding W to Q costs |(W - Q) X^T|^2: the
sum over rows of d H d^T, where d is a row of W - Q and H = X^T X / positions. With H = U D U^T (U unit upper
triangular, D diagonal) that is the sum over columns k of D_k (d U)_k^2, and (d U)_k = d_k + sum_{j<k} d_j U_jk: so each
number can be rounded after adding what the errors of the numbers before it ask for. That is GPTQ (Frantar et al.,
2022), which updates all later columns by H's inverse, in the form that Chee et al. (2023, LDLQ) showed to be equal to
it: no inverse, and each group of columns is one product with what lies before it.

GPTQ decides about a number before it knows what the later ones will be. So afterwards each group is gone through again,
with all other groups as they are now: its scale is fitted, and each number in turn rounded to what is best beside all
others (coordinate descent). A row keeps the result where it costs less. One round lowers the cost by 4 %, and the
perplexity of SmolLM2-135M's Q4 from +4.2 to +3.9 % (four of tests/texts); two more lower its KL divergence by 2 %.

X^T X comes from `smolvlm MODEL --hessians OUT`, whose layout cli/calibrate.c states.
"""
import concurrent.futures
import struct
import zlib

import numpy as np

# Of the mean of H's diagonal, added to it: as if every number of x had some noise. H is of few texts, and a rounding
# that suits them too well suits others less. SmolLM2-135M's Q4 after 36,700 tokens, perplexity on four of tests/texts:
# 0.002 costs 4.9 %, 0.01 4.8 %, 0.04 4.2 %, 0.12 4.7 %. After 99,200 tokens, KL divergence on all eight: 0.02 costs
# 0.046, 0.04 and 0.08 0.044; on other texts the three are equal.
DAMPING = 0.04
PANEL = 256                 # columns factorised at a time


class Unusable(Exception):
    """A file of Hessians that is not what it should be; the text is a sentence."""


class Hessians:
    """The file that smolvlm --hessians wrote; checked as a whole when it is opened, each matrix read when asked for."""

    def __init__(self, path, weights_crc):
        """weights_crc: of the model's file that they must be of."""
        self.path, self.at = path, {}
        with open(path, "rb") as f:
            def read(count):
                data = f.read(count)
                if len(data) != count:
                    raise Unusable(f"{path}: is cut off")
                self.crc = zlib.crc32(data, self.crc)
                return data

            self.crc = 0
            if read(8) != b"HESSIANS":
                raise Unusable(f"{path}: was not written by smolvlm --hessians")
            version, crc, count = struct.unpack("=3I", read(12))
            if version != 1:
                raise Unusable(f"{path}: is version {version}, and only 1 is known")
            if crc != weights_crc:
                raise Unusable(f"{path}: is of another model's weights (checksum {crc:08x}, not {weights_crc:08x})")
            for _ in range(count):
                names = [read(struct.unpack("=I", read(4))[0]).decode() for _ in range(*struct.unpack("=I", read(4)))]
                cols, positions = struct.unpack("=IQ", read(12))
                self.at.update(dict.fromkeys(names, (f.tell(), cols, positions)))
                left = cols * (cols + 1) // 2 * 4
                while left:
                    left -= len(read(min(left, 1 << 24)))
            whole = self.crc
            if struct.unpack("=I", read(4))[0] != whole or f.read(1):
                raise Unusable(f"{path}: is damaged, its checksum is wrong")

    def place(self, name, cols):
        """(offset, positions)"""
        if name not in self.at:
            raise Unusable(f"{self.path}: has nothing of {name}")
        offset, size, positions = self.at[name]
        if size != cols:
            raise Unusable(f"{self.path}: {name} has {size} columns there, not {cols}")
        return offset, positions

    def matrix(self, name, cols):
        """H of the tensor's inputs, float64 [cols, cols]."""
        offset, positions = self.place(name, cols)
        h = np.zeros((cols, cols))
        with open(self.path, "rb") as f:
            f.seek(offset)
            for i in range(cols):
                h[i, i:] = np.frombuffer(f.read((cols - i) * 4), np.float32)
                h[i, i:] /= positions
                h[i:, i] = h[i, i:]
        if not np.isfinite(h.sum()):
            raise Unusable(f"{self.path}: holds a number that is none, at {name}")
        return h

    def diagonal(self, name, cols):
        """The mean squares of the tensor's inputs, float64."""
        offset, positions = self.place(name, cols)
        i = np.arange(cols)
        triangle = np.memmap(self.path, np.uint8, "r", offset, cols * (cols + 1) // 2 * 4).view(np.float32)
        return triangle[i * cols - i * (i - 1) // 2].astype("f8") / positions


class Factor:
    """H = U D U^T, of a damped H; what rounding needs of it. h: H, float32; above: U, float32, without its diagonal of
    ones."""

    def __init__(self, h, workers=1, damping=DAMPING):
        """h: Hessians.matrix's; it is overwritten."""
        cols = len(h)
        mean = float(np.trace(h)) / cols
        h[np.diag_indices(cols)] += damping * mean if mean > 0 else 1.0
        self.h = h.astype(np.float32)
        self.above = np.zeros((cols, cols), np.float32)
        with concurrent.futures.ThreadPoolExecutor(workers) as pool:
            for end in range(cols, 0, -PANEL):
                a = max(0, end - PANEL)
                corner = np.triu(h[a:end, a:end])
                corner += np.triu(corner, 1).T
                # Cholesky's factor is lower triangular: upper triangular for the columns in reverse
                root = np.linalg.cholesky(corner[::-1, ::-1])[::-1, ::-1]
                diagonal = np.diag(root)
                self.above[a:end, a:end] = np.triu(root / diagonal, 1)
                panel = np.linalg.solve(root, h[:a, a:end].T).T             # h[:a, a:end] = panel root^T
                self.above[:a, a:end] = panel / diagonal

                def update(b):
                    stop = min(b + PANEL, a)
                    h[:stop, b:stop] -= panel[:stop] @ panel[b:stop].T
                list(pool.map(update, range(0, a, PANEL)))


def rounds(levels):
    """How many rounds of coordinate descent: Q8, whose levels are many, would hardly gain by more than one."""
    return 3 if len(levels) <= 16 else 1


def quantized(levels, numbers, group, first_guesses, encode, decode, factor):
    """As export.py's function of this name, by GPTQ and coordinate descent.

    A group's scale is searched for when its turn has come, to the least squared error of its numbers as they are then,
    each weighted by what its error costs by itself."""
    rows, cols = numbers.shape
    x = np.ascontiguousarray(numbers.T, np.float32)             # [cols, rows]: a column's numbers lie together
    levels = np.asarray(levels, np.float32)
    nearest = np.searchsorted(levels[1:] + levels[:-1], np.arange(-256, 256), side="right").astype(np.uint8)
    groups = -(-cols // group)
    chosen = np.full((groups * group, rows), nearest[256], np.uint8)
    scales = np.zeros((groups, rows), encode(np.zeros(1, np.float32)).dtype)
    error = np.empty_like(x)

    def indices(numbers, halves):
        return nearest[(np.clip(np.floor(numbers * halves), -256, 255) + 256).astype(np.int16)]

    def halves_of(scale):
        return np.divide(np.float32(2), scale, out=np.zeros_like(scale), where=np.abs(scale) > 1e-30)

    for at in range(0, cols, group):
        end = min(at + group, cols)
        now = x[at:end] + factor.above[:at, at:end].T @ error[:at]
        weight = np.diagonal(factor.h)[at:end, None]
        best, bits = np.full(rows, np.inf, np.float32), scales[at // group]

        def attempt(guess):
            tried = encode(guess)
            scale = decode(tried)
            difference = levels[indices(now, halves_of(scale))]
            difference *= scale
            difference -= now
            difference *= difference
            cost = (difference * weight).sum(0)
            better = cost < best
            best[better], bits[better] = cost[better], tried[better]

        largest = np.take_along_axis(now, np.abs(now).argmax(0)[None], 0)[0]
        for level in first_guesses:
            attempt(largest / np.float32(level))
        for _ in range(2):
            fit = levels[indices(now, halves_of(decode(bits)))]
            attempt((now * fit * weight).sum(0) / np.maximum((fit * fit * weight).sum(0), np.float32(1e-30)))
        scale = decode(bits)
        halves = halves_of(scale)
        for k in range(at, end):
            chosen[k] = indices(now[k - at], halves)
            error[k] = x[k] - levels[chosen[k]] * scale
            # now[k - at] holds all earlier errors; what its own rounding left is passed on through d = W - Q
            now[k - at + 1:] += factor.above[k, k + 1:end, None] * error[k]

    for at in [*range(0, cols, group)] * rounds(levels):
        end = min(at + group, cols)
        h, e, bits = factor.h[at:end, at:end], error[at:end], scales[at // group]
        others = factor.h[at:end] @ error - h @ e               # what the errors of other groups ask for

        def cost(e):
            return (e * (h @ e + 2 * others)).sum(0)

        fit = levels[chosen[at:end]]
        best = ((h @ x[at:end] + others) * fit).sum(0) / np.maximum(((h @ fit) * fit).sum(0), np.float32(1e-30))
        tried = encode(best)
        scale = decode(tried)
        halves, now, after = halves_of(scale), chosen[at:end].copy(), x[at:end] - fit * scale
        slope = h @ after + others
        for k in range(end - at):
            now[k] = indices(x[at + k] - after[k] + slope[k] / h[k, k], halves)
            changed = x[at + k] - levels[now[k]] * scale
            slope += h[:, k, None] * (changed - after[k])
            after[k] = changed
        better = cost(after) < cost(e)
        chosen[at:end][:, better], e[:, better], bits[better] = now[:, better], after[:, better], tried[better]
    return np.ascontiguousarray(chosen.T), np.ascontiguousarray(scales.T)
