/* quant.c: the arithmetic under the model, and the formats its weights are stored in.

                       w: f32, bf16 (later Q8, Q4), [rows, cols]
                                |  a panel of rows as f32, once for all of x
     x [n, cols] ---------> sv_matmul ---------> out [n, rows]            nn.Linear

     q [n_q, heads, dim]
     k [n_k, kv, dim]   --> sv_attention ------> out [n_q, heads, dim]    eager_attention_forward
     v [n_k, kv, dim]

   One rule governs the file. Floating-point addition is not associative, so every sum has one order that nobody may
   change: LANES running sums, element i going to sum i % LANES, then a fixed tree over them. The order was chosen
   because it vectorises at any width up to 16 floats, and every other freedom (threads, rows at a time, chunking of a
   prompt) moves whole sums, never their insides. exp, sin and cos are made of basic operations for the same reason: a
   libm's are its own. What is left to differ between machines is the fused multiply-add in sv_matmul's f32 and bf16
   products, which are compared with Hugging Face by tolerance; the build forbids it elsewhere (-ffp-contract=off). */
#include "smolvlm.h"

#include <float.h>
#include <math.h>
#include <string.h>
#if FLT_EVAL_METHOD > 0
#error "floats must be rounded to float: -fexcess-precision=fast or, on x86, -msse2 -mfpmath=sse (see the Makefile)"
#endif
#ifdef _OPENMP
#include <omp.h>
#elif defined(__GNUC__)
#pragma GCC diagnostic ignored "-Wunknown-pragmas"
#endif

enum { LANES = 16 };

/* Starting threads costs some ten microseconds: work of fewer operations than this is done by the caller's alone. */
#define WORTH_THREADS 100000

/* The innermost loops stand in functions of their own: inlined into a parallel region, gcc 12 runs out of registers for
   their sums and takes twice the time. */
#if defined(__GNUC__)
#define NOINLINE __attribute__((noinline))
#else
#define NOINLINE
#endif

#if defined(FP_FAST_FMAF) || defined(__FMA__) || defined(__ARM_FEATURE_FMA)
#define MULTIPLY_ADD(a, b, c) fmaf(a, b, c)
#else
#define MULTIPLY_ADD(a, b, c) ((a) * (b) + (c))
#endif

int sv_threads(int wanted) {
#ifdef _OPENMP
    return wanted > 0 ? wanted : omp_get_num_procs();
#else
    (void)wanted;
    return 1;
#endif
}

static int thread_index(void) {
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}

/* -------------------------------------------------------------------------------------------- functions of a number */

/* e^x within 1 ulp-and-a-bit: x = n ln 2 + r with |r| <= ln 2 / 2, e^r by its Taylor series (the first term left out is
   below 2^-27), times 2^n put into the exponent. Clamped to where a float's e^x and its inverse are both normal. */
static inline float exp_inline(float x) {
    x = x < -87.0f ? -87.0f : x;
    x = x > 87.0f ? 87.0f : x;
    const float round = 12582912.0f;                        /* 1.5 * 2^23: adding it rounds to an integer */
    float shifted = x * 1.44269504088896341f + round;
    float n = shifted - round;
    float r = x - n * 0.693359375f;                         /* ln 2 in two parts; the first times n is exact */
    r = r - n * -2.12194440e-4f;
    float p = 1.0f / 5040;
    p = p * r + 1.0f / 720;
    p = p * r + 1.0f / 120;
    p = p * r + 1.0f / 24;
    p = p * r + 1.0f / 6;
    p = p * r + 0.5f;
    p = p * r + 1.0f;
    p = p * r + 1.0f;
    union { float f; uint32_t u; } from = { shifted }, scale;
    scale.u = (from.u << 23) + (127u << 23);                /* the low bits of `shifted` are n */
    return p * scale.f;
}

float sv_exp(float x) { return exp_inline(x); }

/* Sine and cosine to double accuracy, then rounded once: RoPE's angles reach the context length in radians, where a
   float's own spacing is too coarse. angle = n pi/2 + r; pi/2 in two parts, so that n times the first is exact. */
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

/* ------------------------------------------------------------------------------------------ sums in the fixed order */

static inline float tree(const float s[LANES]) {
    float t[8];
    for (int l = 0; l < 8; l++) t[l] = s[l] + s[l + 8];
    for (int l = 0; l < 4; l++) t[l] = t[l] + t[l + 4];
    return (t[0] + t[2]) + (t[1] + t[3]);
}

static float sum(const float *x, size_t n) {
    float s[LANES] = { 0 };
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++) s[l] += x[i + l];
    for (int l = 0; i < n; i++, l++) s[l] += x[i];
    return tree(s);
}

static float sum_of_squares(const float *x, size_t n, float mean) {
    float s[LANES] = { 0 };
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++) s[l] += (x[i + l] - mean) * (x[i + l] - mean);
    for (int l = 0; i < n; i++, l++) s[l] += (x[i] - mean) * (x[i] - mean);
    return tree(s);
}

#define PLAIN(a, b, c) ((a) * (b) + (c))

/* Dot products of four rows of x (x_stride apart) with one row w. Four by one is the shape that gcc and clang keep in
   registers, and a macro, because clang 14 takes twice the time for an inline function with the step as an argument.
   The rest of a row is filled up with zeros, which change no sum. */
#define DOT4(name, step)                                                                                               \
    static NOINLINE void name(float out[4], const float *restrict x, size_t x_stride, const float *restrict w,         \
                              size_t n) {                                                                              \
        float s[4][LANES] = { { 0 } };                                                                                 \
        size_t i = 0;                                                                                                  \
        for (; i + LANES <= n; i += LANES)                                                                             \
            for (int r = 0; r < 4; r++)                                                                                \
                for (int l = 0; l < LANES; l++) s[r][l] = step(x[(size_t)r * x_stride + i + l], w[i + l], s[r][l]);    \
        if (i < n) {                                                                                                   \
            float a[4][LANES] = { { 0 } }, b[LANES] = { 0 };                                                           \
            memcpy(b, w + i, (n - i) * sizeof(float));                                                                 \
            for (int r = 0; r < 4; r++) memcpy(a[r], x + (size_t)r * x_stride + i, (n - i) * sizeof(float));           \
            for (int r = 0; r < 4; r++)                                                                                \
                for (int l = 0; l < LANES; l++) s[r][l] = step(a[r][l], b[l], s[r][l]);                                \
        }                                                                                                              \
        for (int r = 0; r < 4; r++) out[r] = tree(s[r]);                                                               \
    }
DOT4(dot4, PLAIN)
DOT4(dot4_fused, MULTIPLY_ADD)

static inline float dot(const float *restrict x, const float *restrict w, size_t n, bool fused) {
    float s[LANES] = { 0 };
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++)
            s[l] = fused ? MULTIPLY_ADD(x[i + l], w[i + l], s[l]) : x[i + l] * w[i + l] + s[l];
    for (int l = 0; i < n; i++, l++)
        s[l] = fused ? MULTIPLY_ADD(x[i], w[i], s[l]) : x[i] * w[i] + s[l];
    return tree(s);
}

/* ---------------------------------------------------------------------------------------- weights and their formats */

static inline float from_bf16(uint16_t bits) {
    union { uint32_t u; float f; } value = { (uint32_t)bits << 16 };
    return value.f;
}

/* The same product as dot(), for a bf16 row that is not unpacked first: decoding reads each weight once. */
static inline float dot_bf16(const float *restrict x, const uint16_t *restrict w, size_t n) {
    float s[LANES] = { 0 };
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int l = 0; l < LANES; l++) s[l] = MULTIPLY_ADD(x[i + l], from_bf16(w[i + l]), s[l]);
    for (int l = 0; i < n; i++, l++) s[l] = MULTIPLY_ADD(x[i], from_bf16(w[i]), s[l]);
    return tree(s);
}

void sv_row(const SvTensor *w, size_t row, float *out) {
    size_t n = w->cols;
    if (w->format == SV_BF16) {
        const uint16_t *bits = (const uint16_t *)w->data + row * n;
        for (size_t i = 0; i < n; i++) out[i] = from_bf16(bits[i]);
    } else {
        memcpy(out, (const float *)w->data + row * n, n * sizeof(float));
    }
}

static inline float dot_row(const SvTensor *w, size_t row, const float *x) {
    size_t n = w->cols;
    return w->format == SV_BF16 ? dot_bf16(x, (const uint16_t *)w->data + row * n, n)
                                : dot(x, (const float *)w->data + row * n, n, true);
}

/* out[i * rows + r] for every row i of x and the `count` rows of w at `panel`, which are f32. */
static NOINLINE void panel_product(float *out, const float *x, const float *panel, const float *bias, size_t n,
                                   size_t count, size_t rows, size_t cols) {
    size_t i = 0;
    for (; i + 4 <= n; i += 4)
        for (size_t r = 0; r < count; r++) {
            float value[4];
            dot4_fused(value, x + i * cols, cols, panel + r * cols, cols);
            for (size_t j = 0; j < 4; j++) out[(i + j) * rows + r] = bias ? value[j] + bias[r] : value[j];
        }
    for (; i < n; i++)
        for (size_t r = 0; r < count; r++) {
            float value = dot(x + i * cols, panel + r * cols, cols, true);
            out[i * rows + r] = bias ? value + bias[r] : value;
        }
}

/* What a thread unpacks at a time: it stays in its cache while all of x passes, and on its stack. */
enum { PANEL = 16384 };

void sv_matmul(float *out, const float *x, const SvTensor *w, const float *bias, size_t n, int threads) {
    size_t rows = w->rows, cols = w->cols;
    bool one_by_one = n == 1 || cols > PANEL;
    size_t step = one_by_one ? 1 : PANEL / cols;
    int64_t panels = (int64_t)((rows + step - 1) / step);
    (void)threads;
#pragma omp parallel for schedule(guided) num_threads(threads) if (n * rows * cols > WORTH_THREADS)
    for (int64_t p = 0; p < panels; p++) {
        size_t first = (size_t)p * step, count = rows - first < step ? rows - first : step;
        if (one_by_one) {
            for (size_t i = 0; i < n; i++) {
                float value = dot_row(w, first, x + i * cols);
                out[i * rows + first] = bias ? value + bias[first] : value;
            }
            continue;
        }
        float unpacked[PANEL];
        const float *panel = (const float *)w->data + first * cols;
        if (w->format != SV_F32) {
            for (size_t r = 0; r < count; r++) sv_row(w, first + r, unpacked + r * cols);
            panel = unpacked;
        }
        panel_product(out + first, x, panel, bias ? bias + first : NULL, n, count, rows, cols);
    }
}

/* -------------------------------------------------------------------------------------------------------- attention */

/* softmax(x) in place: exp(x - max) / sum. */
void sv_softmax(float *x, size_t n) {
    float max = x[0];
    for (size_t i = 1; i < n; i++) max = x[i] > max ? x[i] : max;
    for (size_t i = 0; i < n; i++) x[i] = exp_inline(x[i] - max);
    float scale = 1.0f / sum(x, n);
    for (size_t i = 0; i < n; i++) x[i] *= scale;
}

/* p[r][j] = scale * q[r] . k[j] for up to four queries q and all n keys */
static NOINLINE void score4(float *p, const float *q, size_t q_stride, size_t count, const float *k, size_t k_stride,
                            size_t n, size_t dim, float scale) {
    if (count == 4) {
        for (size_t j = 0; j < n; j++) {
            float value[4];
            dot4(value, q, q_stride, k + j * k_stride, dim);
            for (size_t r = 0; r < 4; r++) p[r * n + j] = value[r] * scale;
        }
    } else {
        for (size_t r = 0; r < count; r++)
            for (size_t j = 0; j < n; j++) p[r * n + j] = dot(q + r * q_stride, k + j * k_stride, dim, false) * scale;
    }
}

/* s[r][l] = sum over j, in order, of p[r][j] v[j][l], for four rows of p and 16 columns of v */
static NOINLINE void weighted_sum4(float s[4][LANES], const float *p, size_t n, const float *v, size_t v_stride) {
    float t[4][LANES] = { { 0 } };
    for (size_t j = 0; j < n; j++, v += v_stride)
        for (int r = 0; r < 4; r++)
            for (int l = 0; l < LANES; l++) t[r][l] += p[(size_t)r * n + j] * v[l];
    memcpy(s, t, sizeof t);
}

static float weighted_sum(const float *p, size_t n, const float *v, size_t v_stride) {
    float s = 0;
    for (size_t j = 0; j < n; j++) s += p[j] * v[j * v_stride];
    return s;
}

size_t sv_attention_scratch(size_t n_k, int threads) { return 4 * n_k * (size_t)threads; }

/* Four queries at a time. A causal query's weights beyond what it sees are set to zero instead of being left out of the
   sum over v: adding a zero changes no bit, so the grouping in fours is not visible in the result. */
void sv_attention(float *out, const float *q, const float *k, const float *v, size_t n_q, size_t n_k,
                  size_t heads, size_t kv_heads, size_t dim, bool causal, float *scores, int threads) {
    size_t q_stride = heads * dim, kv_stride = kv_heads * dim, blocks = (n_q + 3) / 4;
    float scale = 1.0f / sqrtf((float)dim);
    (void)threads;
#pragma omp parallel for schedule(dynamic) num_threads(threads) if (n_q * n_k * q_stride > WORTH_THREADS)
    for (int64_t work = 0; work < (int64_t)(heads * blocks); work++) {
        size_t head = (size_t)work / blocks, first = (size_t)work % blocks * 4;
        size_t count = n_q - first < 4 ? n_q - first : 4, kv = head / (heads / kv_heads);
        size_t seen[4], most = 0;
        float *row[4] = { NULL };
        for (size_t r = 0; r < count; r++) {
            seen[r] = causal ? n_k - n_q + first + r + 1 : n_k;
            most = seen[r];
            row[r] = out + (first + r) * q_stride + head * dim;
        }
        float *p = scores + 4 * n_k * (size_t)thread_index();
        const float *k0 = k + kv * dim, *v0 = v + kv * dim;
        score4(p, q + first * q_stride + head * dim, q_stride, count, k0, kv_stride, most, dim, scale);
        for (size_t r = 0; r < 4; r++) {
            if (r < count) sv_softmax(p + r * most, seen[r]);
            for (size_t j = r < count ? seen[r] : 0; j < most; j++) p[r * most + j] = 0;
        }
        size_t d = 0;
        for (; d + LANES <= dim; d += LANES) {
            float s[4][LANES];
            weighted_sum4(s, p, most, v0 + d, kv_stride);
            for (size_t r = 0; r < count; r++) memcpy(row[r] + d, s[r], sizeof s[r]);
        }
        for (; d < dim; d++)
            for (size_t r = 0; r < count; r++) row[r][d] = weighted_sum(p + r * most, most, v0 + d, kv_stride);
    }
}

/* -------------------------------------------------------------------------------------------- norms and activations */

/* nn.LayerNorm: (x - mean) / sqrt(var + eps) * weight + bias */
void sv_layer_norm(float *out, const float *x, const float *weight, const float *bias, size_t n, size_t size, float eps,
                   int threads) {
    (void)threads;
#pragma omp parallel for num_threads(threads) if (n * size > WORTH_THREADS)
    for (int64_t i = 0; i < (int64_t)n; i++) {
        const float *from = x + (size_t)i * size;
        float *to = out + (size_t)i * size;
        float mean = sum(from, size) / (float)size;
        float scale = 1.0f / sqrtf(sum_of_squares(from, size, mean) / (float)size + eps);
        for (size_t j = 0; j < size; j++) to[j] = (from[j] - mean) * scale * weight[j] + bias[j];
    }
}

/* LlamaRMSNorm: x / sqrt(mean(x^2) + eps) * weight */
void sv_rms_norm(float *out, const float *x, const float *weight, size_t n, size_t size, float eps, int threads) {
    (void)threads;
#pragma omp parallel for num_threads(threads) if (n * size > WORTH_THREADS)
    for (int64_t i = 0; i < (int64_t)n; i++) {
        const float *from = x + (size_t)i * size;
        float *to = out + (size_t)i * size;
        float scale = 1.0f / sqrtf(sum_of_squares(from, size, 0.0f) / (float)size + eps);
        for (size_t j = 0; j < size; j++) to[j] = from[j] * scale * weight[j];
    }
}

/* gelu_pytorch_tanh: 0.5 x (1 + tanh(u)), u = sqrt(2/pi) (x + 0.044715 x^3). As 1 + tanh(u) = 2 / (1 + e^-2u), one exp
   does it, without the cancellation that 1 + tanh suffers where tanh nears -1. */
void sv_gelu_tanh(float *x, size_t n, int threads) {
    (void)threads;
#pragma omp parallel for num_threads(threads) if (n > WORTH_THREADS / 10)
    for (int64_t i = 0; i < (int64_t)n; i++) {
        float u = 0.79788456080286536f * (x[i] + 0.044715f * (x[i] * x[i] * x[i]));
        x[i] = x[i] / (1.0f + exp_inline(-2.0f * u));
    }
}

/* SwiGLU's product: silu(gate) * up, silu(x) = x / (1 + e^-x) */
void sv_silu_mul(float *gate, const float *up, size_t n, int threads) {
    (void)threads;
#pragma omp parallel for num_threads(threads) if (n > WORTH_THREADS / 10)
    for (int64_t i = 0; i < (int64_t)n; i++) gate[i] = gate[i] / (1.0f + exp_inline(-gate[i])) * up[i];
}

void sv_add(float *x, const float *y, size_t n) {
    for (size_t i = 0; i < n; i++) x[i] += y[i];
}
