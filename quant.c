/* ------------------------------------------------------------------------------------------------- KV cache, attention
   norms, activations. Plain loops, each what one would write on a board.

   It is a whole kernel set, "reference". The sets in kernels/ compute the same, ten times faster and more, and are held
   against this one by the tests and by --selftest. A porter starts from here, and speeds up one function at a time.

                       w: f32, bf16, Q8, Q4, [rows, cols]
                                |
     x [n, cols] ---------> matmul ------------> out [n, rows]            nn.Linear
              Q8, Q4: x becomes int8, a scale for each group of 64

     k, v [count, kv_heads, dim] -> cache                                 DynamicCache
     q [n_q, heads, dim] -------> attention ---> out [n_q, heads, dim]    eager_attention_forward

   One rule governs the file: what a Q8 or Q4 model computes is the same to the bit on every machine. Adding floats in
   another order gives another result, so every sum of floats has one order, which no set may change. Only sums of
   integers are exact, and free:

     a product of x with a row of w     for each group, in order:  sum += (float)(integer dot product) * w's scale
                                                                          * x's scale
     a sum over a row (norms, softmax)  16 running sums, element i going to sum i % 16, then a fixed tree over them

   Both can be computed with vectors of any width: the first over the rows of w, the second over the 16. No multiply-add
   is fused (-ffp-contract=off), as that rounds once instead of twice. exp, sin and cos are made of basic operations, as
   every libm has its own. f32 and bf16 are free of all this: other sets use fused multiply-adds there and other orders,
   and a tolerance holds.

   All threads of a team call these functions together; "omp for" gives each its share (see SvKernels in model.h). */
#include "model.h"

#include <float.h>
#include <math.h>
#include <string.h>
#if FLT_EVAL_METHOD != 0 && FLT_EVAL_METHOD != 16           /* 16: _Float16 is rounded to itself too */
#error "floats must be rounded to float, and doubles to double. On s390x: -fexcess-precision=fast. On x86: -msse2 \
-mfpmath=sse. An x87 or a 68881 alone rounds to 80 bits, whatever the compiler is told: only a later processor (-m68040) \
or arithmetic in software (-msoft-float, where the compiler brings it) helps"
#endif
#ifdef __FAST_MATH__
#error "-ffast-math and -Ofast let the compiler reorder sums, and no result could be relied on"
#endif

enum { GROUP = SV_GROUP, BLOCK_ROWS = SV_BLOCK_ROWS };

static size_t at_most(size_t a, size_t b) { return a < b ? a : b; }

/* ------------------------------------------------------------------------------------------------------ formats */

static float from_bf16(uint16_t bits) {                     /* the upper half of a float */
    union { uint32_t u; float f; } value = { (uint32_t)bits << 16 };
    return value.f;
}

static size_t block_bytes(uint32_t format) { return format == SV_Q8 ? BLOCK_ROWS * GROUP : BLOCK_ROWS * GROUP / 2; }
static size_t groups_of(size_t cols) { return (cols + GROUP - 1) / GROUP; }

uint64_t sv_tensor_size(uint32_t format, uint32_t group, uint32_t rows, uint32_t cols) {
    bool in_groups = format == SV_Q8 || format == SV_Q4;
    if (format > SV_Q4 || (in_groups ? group != GROUP : group != 0)) return 0;
    if ((uint64_t)rows * cols > UINT64_MAX / 8) return 0;
    if (!in_groups) return (format == SV_F32 ? 4 : 2) * (uint64_t)rows * cols;
    uint64_t blocks = ((uint64_t)rows + BLOCK_ROWS - 1) / BLOCK_ROWS * (((uint64_t)cols + GROUP - 1) / GROUP);
    return blocks * (block_bytes(format) + BLOCK_ROWS * sizeof(uint16_t));  /* the numbers and the scales */
}

/* Group g of row r of a Q8 or Q4 matrix: its 64 integers, in their own order again; returns their scale. In the file,
   16 rows lie side by side, of each group four numbers of every row in turn; all scales follow (model.h). */
static float load_group(const SvTensor *w, size_t r, size_t g, int8_t q[GROUP]) {
    static const int8_t levels[16] = SV_Q4_VALUES;
    size_t groups = groups_of(w->cols), blocks = (w->rows + BLOCK_ROWS - 1) / BLOCK_ROWS * groups;
    size_t number = r / BLOCK_ROWS * groups + g, row = r % BLOCK_ROWS;
    const uint8_t *block = (const uint8_t *)w->data + number * block_bytes(w->format);
    const uint16_t *scales = (const uint16_t *)((const uint8_t *)w->data + blocks * block_bytes(w->format));
    for (size_t k = 0; k < GROUP; k++) {
        size_t j = w->format == SV_Q8 ? k : k % 32;         /* Q4: number k and number k + 32 share a byte */
        uint8_t byte = block[(j / 4 * BLOCK_ROWS + row) * 4 + j % 4];
        q[k] = w->format == SV_Q8 ? (int8_t)byte : levels[k < 32 ? byte & 15 : byte >> 4];
    }
    return from_bf16(scales[number * BLOCK_ROWS + row]);
}

void sv_row(const SvTensor *w, size_t row, float *out) {
    size_t n = w->cols;
    if (w->format == SV_F32) memcpy(out, (const float *)w->data + row * n, n * sizeof *out);
    for (size_t i = 0; i < n && w->format == SV_BF16; i++) out[i] = from_bf16(((const uint16_t *)w->data)[row * n + i]);
    for (size_t g = 0; g < groups_of(n) && w->group; g++) {
        int8_t q[GROUP];
        float scale = load_group(w, row, g, q);
        for (size_t k = 0; k < at_most(GROUP, n - g * GROUP); k++) out[g * GROUP + k] = (float)q[k] * scale;
    }
}

/* n numbers as integers of -127 .. 127: x[i] is about scale * q[i]; returns the scale. To the nearest integer;
   halves go to the even neighbour. Numbers that are next to nothing become zeros. Where one is infinite or NaN, the
   scale is NaN, so that what is broken stays visible. */
static float quantize(int8_t *q, const float *x, size_t n) {
    const float round = 12582912.0f;                        /* 1.5 * 2^23: adding it leaves no room for a fraction */
    float max = 0;
    bool broken = false;
    for (size_t i = 0; i < n; i++) {
        if (!(fabsf(x[i]) <= FLT_MAX)) broken = true;
        if (fabsf(x[i]) > max) max = fabsf(x[i]);
    }
    bool zero = broken || max <= 1e-30f;
    float scale = zero ? 0 : 127.0f / max;
    for (size_t i = 0; i < n; i++) {
        float rounded = zero ? 0 : x[i] * scale + round;
        q[i] = (int8_t)(zero ? 0 : rounded - round);
    }
    return broken ? NAN : zero ? 0 : max * (1.0f / 127);
}

/* ------------------------------------------------------------------------------------------------ matrix products */

static int32_t dot(const int8_t *a, const int8_t *b, size_t n) {
    int32_t sum = 0;
    for (size_t i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

/* Rows of x in groups of 64 integers, the last one filled up with zeros, and a scale for each group. */
typedef struct Quantized { int8_t *q; float *scale; size_t groups; } Quantized;

static uint64_t matmul_scratch(uint64_t n, uint64_t cols) {
    uint64_t groups = (cols + GROUP - 1) / GROUP;
    return n * groups * (1 + GROUP / sizeof(float));
}

static void quantize_rows(Quantized to, const float *x, size_t n, size_t cols) {
#pragma omp for schedule(static)
    for (int64_t i = 0; i < (int64_t)n; i++)
        for (size_t g = 0; g < to.groups; g++) {
            float group[GROUP] = { 0 };
            size_t at = (size_t)i * to.groups + g;
            memcpy(group, x + (size_t)i * cols + g * GROUP, at_most(GROUP, cols - g * GROUP) * sizeof *x);
            to.scale[at] = quantize(to.q + at * GROUP, group, GROUP);
        }
}

/* Column r of out: every row of x times row r of w, by integers. */
static void integer_product(const SvProduct *p, size_t r, Quantized x, size_t n) {
    for (size_t i = 0; i < n; i++) p->out[i * p->w->rows + r] = 0;
    for (size_t g = 0; g < x.groups; g++) {
        int8_t w[GROUP];
        float w_scale = load_group(p->w, r, g, w);
        for (size_t i = 0; i < n; i++) {
            size_t at = i * x.groups + g;
            p->out[i * p->w->rows + r] += (float)dot(x.q + at * GROUP, w, GROUP) * w_scale * x.scale[at];
        }
    }
}

/* The same by floats, f32 or bf16. */
static void float_product(const SvProduct *p, size_t r, const float *x, size_t n) {
    size_t cols = p->w->cols;
    const float *f32 = (const float *)p->w->data + r * cols;
    const uint16_t *bf16 = (const uint16_t *)p->w->data + r * cols;
    for (size_t i = 0; i < n; i++) {
        float sum = 0;
        for (size_t c = 0; c < cols; c++)
            sum += x[i * cols + c] * (p->w->format == SV_F32 ? f32[c] : from_bf16(bf16[c]));
        p->out[i * p->w->rows + r] = sum;
    }
}

/* out [n, rows] = x [n, cols] w^T + bias, for one w after the other */
static void matmul(const SvProduct *products, int count, const float *x, size_t n, bool ahead, float *scratch) {
    (void)ahead;
#pragma omp barrier
    for (const SvProduct *p = products; p < products + count; p++) {
        size_t rows = p->w->rows, groups = groups_of(p->w->cols);
        Quantized xq = { (int8_t *)(scratch + n * groups), scratch, groups };
        if (p->w->group) quantize_rows(xq, x, n, p->w->cols);
#pragma omp for schedule(static)
        for (int64_t r = 0; r < (int64_t)rows; r++) {
            if (p->w->group) integer_product(p, (size_t)r, xq, n);
            else float_product(p, (size_t)r, x, n);
            for (size_t i = 0; i < n && p->bias; i++) p->out[i * rows + (size_t)r] += p->bias[r];
        }
    }
}

/* ------------------------------------------------------------------------------------------------ KV cache, attention

   Keys and values [2, heads, capacity, dim]: floats, or int8 with a scale for each row of dim numbers. */

static uint64_t cache_floats(bool q8, uint64_t capacity, uint64_t heads, uint64_t dim) {
    uint64_t rows = 2 * heads * ((capacity + 63) / 64 * 64);
    return q8 ? rows + (rows * dim + 3) / 4 : rows * dim;
}

typedef struct Row { int8_t *q; float *scale, *f32; } Row;
enum { KEY, VALUE };

/* In q8 all scales come first, then all bytes. Of the two views only the one that c->q8 says is valid. */
static Row row_of(const SvCache *c, int kind, size_t head, size_t position) {
    size_t at = ((size_t)kind * c->heads + head) * c->capacity + position, rows = 2 * c->heads * c->capacity;
    return (Row){ (int8_t *)(c->data + rows) + at * c->dim, c->data + at, c->data + at * c->dim };
}

static void put(const SvCache *c, Row row, const float *x) {
    if (c->q8) *row.scale = quantize(row.q, x, c->dim);
    else memcpy(row.f32, x, c->dim * sizeof *x);
}

static void cache(const SvCache *c, const float *k, const float *v, size_t at, size_t count) {
#pragma omp for schedule(static) nowait
    for (int64_t u = 0; u < (int64_t)(count * c->heads); u++) {
        size_t position = at + (size_t)u / c->heads, head = (size_t)u % c->heads;
        put(c, row_of(c, KEY, head, position), k + (size_t)u * c->dim);
        put(c, row_of(c, VALUE, head, position), v + (size_t)u * c->dim);
    }
}

/* The order of every sum of floats over a row: 16 running sums, then a tree over them, 16 -> 8 -> 4 -> 2 -> 1. */
static float tree(float s[16]) {
    for (int width = 8; width > 2; width /= 2)
        for (int l = 0; l < width; l++) s[l] += s[l + width];
    return (s[0] + s[2]) + (s[1] + s[3]);
}

static float sum(const float *x, size_t n) {
    float s[16] = { 0 };
    for (size_t i = 0; i < n; i++) s[i % 16] += x[i];
    return tree(s);
}

static float sum_of_squares(const float *x, size_t n, float mean) {
    float s[16] = { 0 };
    for (size_t i = 0; i < n; i++) s[i % 16] += (x[i] - mean) * (x[i] - mean);
    return tree(s);
}

/* One query of one head, which sees the first `seen` positions:

     out = softmax(q . keys / sqrt(dim)) . values

   The softmax, e^score over the sum of all of them, makes weights of scores: each above 0, together 1. The largest
   score is subtracted first, which changes nothing but keeps e^score finite; the division comes last. weight: [seen]
   floats of scratch. */
static void attend(float *out, const float *q, const SvCache *c, size_t head, size_t seen, float *weight) {
    size_t dim = c->dim;
    float scaled[SV_MAX_HEAD_DIM], max = -INFINITY;
    int8_t query[SV_MAX_HEAD_DIM], group[GROUP];
    for (size_t d = 0; d < dim; d++) scaled[d] = q[d] * (1.0f / sqrtf((float)dim));
    float q_scale = c->q8 ? quantize(query, scaled, dim) : 0;

    for (size_t j = 0; j < seen; j++) {                     /* scores: how well each key fits the query */
        Row key = row_of(c, KEY, head, j);
        weight[j] = 0;
        if (c->q8) weight[j] = (float)dot(query, key.q, dim) * q_scale * *key.scale;
        else for (size_t d = 0; d < dim; d++) weight[j] += scaled[d] * key.f32[d];
        if (weight[j] > max) max = weight[j];
    }
    for (size_t j = 0; j < seen; j++) weight[j] = sv_exp(weight[j] - max);
    float one_over_sum = 1.0f / sum(weight, seen);

    for (size_t d = 0; d < dim; d++) out[d] = 0;
    for (size_t j = 0; j < seen && !c->q8; j++)             /* the values, weighted */
        for (size_t d = 0; d < dim; d++) out[d] += weight[j] * row_of(c, VALUE, head, j).f32[d];
    for (size_t at = 0; at < seen && c->q8; at += GROUP) {  /* by integers: 64 positions' weights share a scale */
        size_t n = at_most(GROUP, seen - at);
        for (size_t j = at; j < at + n; j++) weight[j] *= *row_of(c, VALUE, head, j).scale;
        float scale = quantize(group, weight + at, n);
        for (size_t d = 0; d < dim; d++) {
            int32_t total = 0;
            for (size_t j = 0; j < n; j++) total += group[j] * row_of(c, VALUE, head, at + j).q[d];
            out[d] += (float)total * scale;
        }
    }
    for (size_t d = 0; d < dim; d++) out[d] *= one_over_sum;
}

static uint64_t attention_scratch(uint64_t n_k, uint64_t heads, int threads) {
    (void)threads;
    return n_k * heads;
}

/* All queries of all heads. Grouped-query attention: heads / c->heads query heads in a row read one head of the
   cache. */
static void attention(float *out, const float *q, const SvCache *c, size_t n_q, size_t n_k, size_t heads, bool causal,
                      float *scratch) {
#pragma omp barrier
#pragma omp for schedule(static)
    for (int64_t h = 0; h < (int64_t)heads; h++)
        for (size_t i = 0; i < n_q; i++) {
            size_t at = (i * heads + (size_t)h) * c->dim, seen = causal ? n_k - n_q + i + 1 : n_k;
            attend(out + at, q + at, c, (size_t)h / (heads / c->heads), seen, scratch + (size_t)h * n_k);
        }
}

/* -------------------------------------------------------------------------------------------- norms and activations */

/* nn.LayerNorm: (x - mean) / sqrt(var + eps) * weight + bias */
static void layer_norm(float *out, const float *x, const float *weight, const float *bias, size_t n, size_t size,
                       float eps) {
#pragma omp for schedule(static) nowait
    for (int64_t i = 0; i < (int64_t)n; i++) {
        const float *from = x + (size_t)i * size;
        float mean = sum(from, size) / (float)size;
        float scale = 1.0f / sqrtf(sum_of_squares(from, size, mean) / (float)size + eps);
        for (size_t j = 0; j < size; j++) out[(size_t)i * size + j] = (from[j] - mean) * scale * weight[j] + bias[j];
    }
}

/* LlamaRMSNorm: x / sqrt(mean(x^2) + eps) * weight. The mean stays: one pass and one vector less than LayerNorm. */
static void rms_norm(float *out, const float *x, const float *weight, size_t n, size_t size, float eps) {
#pragma omp for schedule(static) nowait
    for (int64_t i = 0; i < (int64_t)n; i++) {
        const float *from = x + (size_t)i * size;
        float scale = 1.0f / sqrtf(sum_of_squares(from, size, 0) / (float)size + eps);
        for (size_t j = 0; j < size; j++) out[(size_t)i * size + j] = from[j] * scale * weight[j];
    }
}

/* gelu_pytorch_tanh: 0.5 x (1 + tanh(u)), u = sqrt(2/pi) (x + 0.044715 x^3). As 1 + tanh(u) = 2 / (1 + e^-2u), one exp
   does it, and nothing cancels where tanh nears -1. */
static void gelu_tanh(float *x, size_t n, size_t size) {
#pragma omp for schedule(static) nowait
    for (int64_t i = 0; i < (int64_t)n; i++)
        for (float *at = x + (size_t)i * size, *end = at + size; at < end; at++) {
            float u = 0.79788456080286536f * (*at + 0.044715f * (*at * *at * *at));
            *at = *at / (1.0f + sv_exp(-2.0f * u));
        }
}

/* gate = silu(gate) * up, where silu(x) = x / (1 + e^-x) */
static void silu_mul(float *gate, const float *up, size_t n, size_t size) {
#pragma omp for schedule(static) nowait
    for (int64_t i = 0; i < (int64_t)n; i++)
        for (size_t j = (size_t)i * size; j < ((size_t)i + 1) * size; j++)
            gate[j] = gate[j] / (1.0f + sv_exp(-gate[j])) * up[j];
}

static void add(float *x, const float *y, size_t n, size_t size) {
#pragma omp for schedule(static) nowait
    for (int64_t i = 0; i < (int64_t)n; i++)
        for (size_t j = (size_t)i * size; j < ((size_t)i + 1) * size; j++) x[j] += y[j];
}

/* x H, where H is a Hadamard matrix: all of its numbers are 1 or -1, and any two rows are at right angles. From one of
   n numbers comes one of 2n:

     H1 = [ 1 ]     H2 = [ 1  1 ]     H4 = [ H2  H2 ]     H8 = [ H4  H4 ]     ...
                         [ 1 -1 ]          [ H2 -H2 ]          [ H4 -H4 ]

   Divided by sqrt(n) it turns x as a rotation does: lengths and products of vectors stay, and as H is symmetric, turning
   twice gives x again. So matrices turned likewise beforehand (export.py) make the same model of turned numbers.

   Why: 64 numbers share the scale of a group. One number of 25,000 among small ones, such as released models have in
   their residual stream, leaves the others no integer but 0. Turned, every number is a sum over all 64 of the old ones,
   with signs of its own: the large one is spread over the group, and all come out about equally large.

   n^2 products become n log2 n additions, because H of 2n needs H of n only once for each half: sums and differences of
   neighbours, then of pairs of those, and so on. The order is fixed, as everywhere here. */
static void hadamard(float *x, size_t n, size_t size) {
    size_t block = sv_hadamard_block(size);                 /* at most 64; odd sizes have blocks of 1: nothing to do */
    float scale = 1.0f / sqrtf((float)block);
#pragma omp for schedule(static) nowait
    for (int64_t i = 0; i < (int64_t)n; i++)
        for (float *b = x + (size_t)i * size, *end = b + size; b < end; b += block) {
            for (size_t d = 1; d < block; d *= 2)
                for (size_t j = 0; j < block; j++) {
                    if (j & d) continue;                    /* the second of a pair at distance d */
                    float first = b[j], second = b[j + d];
                    b[j] = first + second;
                    b[j + d] = first - second;
                }
            for (size_t j = 0; j < block; j++) b[j] *= scale;
        }
}

extern const SvKernels sv_kernels_reference;
const SvKernels sv_kernels_reference = { "reference", matmul, cache, attention, layer_norm, rms_norm, gelu_tanh,
                                         silu_mul, add, hadamard, NULL, matmul_scratch, attention_scratch,
                                         cache_floats };

/* ------------------------------------------------------------------------------------------------ exp, sine, cosine */

/* e^x = 2^n e^r, where x = n ln 2 + r and |r| <= ln 2 / 2; within 1.01 ulp. ln 2 is in two parts, so short that n times
   either is exact: a fused multiply-add gives the same. e^r is a polynomial of degree 6. Its coefficients are those with
   the smallest largest error, 0.04 ulp (by linear programming; the Taylor series needs degree 7). 1, the largest term,
   is added last: the rounding errors of the others hardly count then. 2^n: the low bits of `shifted` are n + 127, a
   float's exponent. */
float sv_exp(float x) {
    const float round = 12582912.0f + 127;                  /* as in quantize, and 127 */
    if (x < -87.0f) x = -87.0f;                             /* where e^x and its inverse are normal floats; */
    if (x > 87.0f) x = 87.0f;                               /* NaN stays NaN */
    union { float f; uint32_t u; } shifted = { x * 1.44269504088896341f + round }, power;
    float n = shifted.f - round;
    float r = x - n * 0x1.62e4p-1f;
    r = r - n * 0x1.7f7dp-20f;
    float r2 = r * r;                                       /* Estrin's order: shorter chains than Horner's */
    float low = 0.49999991f + r * 0.16666520f, high = (0.041669092f + r * 0.0083688833f) + r2 * 0.0013780382f;
    power.u = shifted.u << 23;
    return (1.0f + (r + (low + high * r2) * r2)) * power.f;
}

/* Sine and cosine in double, then rounded once: RoPE's angles reach the context length in radians, where a float's own
   spacing is too coarse. angle = n pi/2 + r; pi/2 in two parts, the first of 31 bits, so that n times it is exact. */
void sv_sin_cos(double angle, float *sine, float *cosine) {
    double n = floor(angle * 0.63661977236758134308 + 0.5);
    double r = (angle - n * 1.57079632673412561417) - n * 6.07710050650619224932e-11;
    double r2 = r * r, s = 0, c = 0;
    for (int k = 8; k >= 1; k--) {                          /* Taylor, Horner's way: |r| <= pi/4 needs 17 terms */
        s = (1 + s) * -r2 / ((2 * k) * (2 * k + 1));
        c = (1 + c) * -r2 / ((2 * k - 1) * (2 * k));
    }
    s = r * (1 + s);
    c = 1 + c;
    switch ((int64_t)n & 3) {
    case 0: *sine = (float)s, *cosine = (float)c; break;
    case 1: *sine = (float)c, *cosine = (float)-s; break;
    case 2: *sine = (float)-s, *cosine = (float)-c; break;
    default: *sine = (float)-c, *cosine = (float)s; break;
    }
}
