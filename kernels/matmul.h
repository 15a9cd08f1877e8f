/* matmul.h: matrix products.

   Few rows of x (decoding): every row of w is read once, in order. Many: a thread takes a strip of w (NR rows) and a
   block of x (ROWS rows) at a time. It packs PANEL numbers of each of the strip's rows into a panel on its stack. It
   multiplies the whole block of x with that panel, then goes on to the next PANEL numbers. So w is packed once for ROWS
   rows of x and never copied as a whole. The panel stays in L1 (with AVX-512 it fills 32 KB). */
#ifndef SV_MATMUL_H
#define SV_MATMUL_H

#include "floats.h"
#include "quantize.h"
#ifdef SV_AMX
#include "amx.h"
#endif

enum { FEW = 3, ROWS = 512, PANEL = 1024, FLOAT_PANEL = 256 };

/* The integers of a block of Q8 or Q4. Those of Q4 are unpacked into `unpacked`, which is then returned. */
static inline const int8_t *integers(const SvTensor *w, const uint8_t *block, int8_t unpacked[BLOCK_ROWS * GROUP]) {
    if (w->format == SV_Q8) return (const int8_t *)block;
    unpack_q4(unpacked, block);
    return unpacked;
}

/* out[r] = x . row r of w, for one row of x and `count` rows of w from `first` on. first: a multiple of 16. */
static NOINLINE void integer_rows(float *out, const SvTensor *w, const float *bias, const Quantized *x, size_t row,
                                  size_t first, size_t count, bool ahead) {
    const int8_t *q = x->bytes + row * x->stride;
    const float *d = x->d + row * x->marks;
    const int32_t *by128 = x->by128 + row * x->marks;
    for (size_t r = first; r < first + count; r += BLOCK_ROWS) {
        float s[BLOCK_ROWS];
        if (w->format == SV_Q4) rows16_q4(s, block_of(w, r, 0), q, d, by128, scales_of(w, r, 0), x->groups, ahead);
        else rows16(s, block_of(w, r, 0), q, d, by128, scales_of(w, r, 0), x->groups, ahead);
        for (size_t i = 0; i < at_most(BLOCK_ROWS, first + count - r); i++)
            out[r + i] = bias ? s[i] + bias[r + i] : s[i];
    }
}

/* Copy up to four rows of sums from out, and to out, where out has fewer rows or columns than product4 writes. */
static void take_sums(float *sums, size_t width, const float *out, size_t stride, size_t rows, size_t cols) {
    for (size_t i = 0; i < rows; i++) memcpy(sums + i * width, out + i * stride, cols * sizeof *out);
}

static void put_sums(float *out, size_t stride, const float *sums, size_t width, size_t rows, size_t cols) {
    for (size_t i = 0; i < rows; i++) memcpy(out + i * stride, sums + i * width, cols * sizeof *out);
}

/* Added last, when the sums are complete. */
static NOINLINE void add_bias(float *out, size_t stride, const float *bias, size_t rows, size_t cols) {
    for (size_t i = 0; i < rows; i++)
        for (size_t r = 0; r < cols; r++) out[i * stride + r] += bias[r];
}

/* A strip touches many separate blocks, which no hardware prefetcher predicts, so prefetch them all first. */
static inline void prefetch_blocks(const SvTensor *w, size_t first, size_t count, size_t g, size_t groups) {
    for (size_t r = first; r < first + count; r += BLOCK_ROWS)
        ask_for(block_of(w, r, g), groups * block_bytes(w->format));
}

#ifndef SV_AMX                                               /* else amx.h's */
/* The strip of NR rows of w from row `first` on, times the rows i0 .. i1 - 1 of x, to out, rows of which are `stride`
   apart. The strip is cut into panels of about equal length. */
static NOINLINE void integer_strip(float *out, size_t stride, const SvTensor *w, const float *bias, const Quantized *x,
                                   size_t first, size_t i0, size_t i1) {
    int8_t panel[PANEL * NR], unpacked[BLOCK_ROWS * GROUP];
    float scale[PANEL / GROUP * NR];
    size_t cols = at_most(NR, w->rows - first), panels = (x->groups + PANEL / GROUP - 1) / (PANEL / GROUP);
    size_t most = (x->groups + panels - 1) / panels;
    for (size_t g0 = 0; g0 < x->groups; g0 += most) {
        size_t groups = at_most(most, x->groups - g0);
        prefetch_blocks(w, first, cols, g0, groups);
        for (size_t g = 0; g < groups; g++)
            for (size_t r = 0; r < NR; r += BLOCK_ROWS) {
                size_t row = at_most(first + r, w->rows - 1);                  /* past the last: repeat its block */
                const uint16_t *bf16 = scales_of(w, row, g0 + g);
                pack(panel + g * GROUP * NR, r, integers(w, block_of(w, row, g0 + g), unpacked));
                for (size_t i = 0; i < BLOCK_ROWS; i++) scale[g * NR + r + i] = from_bf16(bf16[i]);
            }
        for (size_t i = i0; i < i1; i += 4) {
            float sums[4 * NR], *to = out + (i - i0) * stride;
            size_t rows = at_most(4, i1 - i), mark = i * x->marks + g0;
            bool whole = rows == 4 && cols == NR;
            if (!whole && g0) take_sums(sums, NR, to, stride, rows, cols);
            product4(whole ? to : sums, whole ? stride : NR, g0 > 0, x->q + i * x->stride + g0 * GROUP, x->stride,
                     x->d + mark, x->by128 + mark, x->marks, panel, scale, GROUP, groups, false);
            if (!whole) put_sums(to, stride, sums, NR, rows, cols);
            if (bias && g0 + groups == x->groups) add_bias(to, stride, bias + first, rows, cols);
        }
    }
}
#endif

/* The same for f32 and bf16. */
static NOINLINE void pack_floats(float *panel, const SvTensor *w, size_t first, size_t at, size_t n) {
    for (size_t r = 0; r < NF; r++) {
        size_t row = first + r;
        if (row >= w->rows) {
            for (size_t k = 0; k < n; k++) panel[k * NF + r] = 0;
            continue;
        }
        const float *f32 = (const float *)w->data + row * w->cols + at;
        const uint16_t *bf16 = (const uint16_t *)w->data + row * w->cols + at;
        if (w->format == SV_F32) for (size_t k = 0; k < n; k++) panel[k * NF + r] = f32[k];
        else for (size_t k = 0; k < n; k++) panel[k * NF + r] = from_bf16(bf16[k]);
    }
}

static NOINLINE void float_strip(float *out, const SvTensor *w, const float *bias, const float *x, size_t first,
                                 size_t i0, size_t i1) {
    float panel[FLOAT_PANEL * NF];
    size_t cols = at_most(NF, w->rows - first);
    for (size_t at = 0; at < w->cols; at += FLOAT_PANEL) {
        size_t n = at_most(FLOAT_PANEL, w->cols - at);
        pack_floats(panel, w, first, at, n);
        for (size_t i = i0; i < i1; i += 4) {
            float sums[4 * NF], few[4][FLOAT_PANEL], *to = out + i * w->rows + first;
            const float *from = x + i * w->cols + at;
            size_t rows = at_most(4, i1 - i), stride = w->cols;
            bool whole = rows == 4 && cols == NF;
            if (rows < 4) {                                 /* missing rows repeat the last one */
                for (size_t j = 0; j < 4; j++)
                    memcpy(few[j], from + at_most(j, rows - 1) * stride, n * sizeof(float));
                from = few[0], stride = FLOAT_PANEL;
            }
            if (!whole && at) take_sums(sums, NF, to, w->rows, rows, cols);
            float_product4(whole ? to : sums, whole ? w->rows : NF, at > 0, from, stride, panel, n, false);
            if (!whole) put_sums(to, w->rows, sums, NF, rows, cols);
            if (bias && at + n == w->cols) add_bias(to, w->rows, bias + first, rows, cols);
        }
    }
}

static void float_rows(float *out, const SvTensor *w, const float *bias, const float *x, size_t first, size_t count,
                       bool ahead) {
    for (size_t r = first; r < first + count; r++) {
        float s = w->format == SV_F32 ? dot_f32(x, (const float *)w->data + r * w->cols, w->cols, ahead)
                                      : dot_bf16(x, (const uint16_t *)w->data + r * w->cols, w->cols, ahead);
        out[r] = bias ? s + bias[r] : s;
    }
}

/* Units of work in a product. Few rows of x: UNIT rows of w. Many: a strip of w times a block of x. */
enum { UNIT = 32 };

static size_t units_of(const SvTensor *w, size_t n, size_t strip) {
    return n <= FEW ? (w->rows + UNIT - 1) / UNIT : (w->rows + strip - 1) / strip * ((n + ROWS - 1) / ROWS);
}

/* Computes unit u, counted through the products p[0], p[1], ... */
static void multiply_unit(const SvProduct *p, size_t u, const float *x, const Quantized *xq, size_t n, size_t strip,
                          bool ahead) {
    for (; u >= units_of(p->w, n, strip); p++) u -= units_of(p->w, n, strip);
    size_t rows = p->w->rows, cols = p->w->cols;
    if (n <= FEW) {
        size_t first = u * UNIT, count = at_most(UNIT, rows - first);
        for (size_t i = 0; i < n; i++) {
            if (p->w->group) integer_rows(p->out + i * rows, p->w, p->bias, xq, i, first, count, ahead);
            else float_rows(p->out + i * rows, p->w, p->bias, x + i * cols, first, count, ahead);
        }
    } else {
        size_t strips = (rows + strip - 1) / strip, first = u % strips * strip;
        size_t i0 = u / strips * ROWS, i1 = at_most(i0 + ROWS, n);
        if (p->w->group) integer_strip(p->out + i0 * rows + first, rows, p->w, p->bias, xq, first, i0, i1);
        else float_strip(p->out, p->w, p->bias, x, first, i0, i1);
    }
}

/* Products of one x with several w of the same group size: x is quantized once. */
static void multiply_all(const SvProduct *products, int count, const float *x, size_t n, bool ahead, float *scratch) {
    size_t group = products->w->group, cols = products->w->cols, strip = group ? (size_t)NR : (size_t)NF;
    size_t units = 0;
    Quantized xq = { 0 };
    for (int i = 0; i < count; i++) units += units_of(products[i].w, n, strip);
    if (group) {
        xq = quantized_in(scratch, round_up(n, X_ROWS), cols, group);
        xq.tiled = TILED && n > FEW;
#pragma omp for schedule(static) nowait
        for (int64_t i = 0; i < (int64_t)n; i++)
            quantize_row(&xq, (size_t)i, x + (size_t)i * cols, cols, n <= FEW);
    }
#pragma omp barrier
    if (n <= FEW) {
#pragma omp for schedule(static)
        for (int64_t u = 0; u < (int64_t)units; u++) multiply_unit(products, (size_t)u, x, &xq, n, strip, ahead);
    } else {
#pragma omp for schedule(dynamic)
        for (int64_t u = 0; u < (int64_t)units; u++) multiply_unit(products, (size_t)u, x, &xq, n, strip, ahead);
    }
}

static void matmul(const SvProduct *products, int count, const float *x, size_t n, bool ahead, float *scratch) {
    for (int first = 0, next; first < count; first = next) {
        for (next = first + 1; next < count && products[next].w->group == products[first].w->group;) next++;
        multiply_all(products + first, next - first, x, n, ahead, scratch);
    }
}

#endif
