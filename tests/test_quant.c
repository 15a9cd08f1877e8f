/* test_quant.c: quant.c against torch (functions.golden), against plain double-precision versions written here, and
   against itself: the bits may depend neither on the number of threads nor on how many rows are computed together.
   -v prints the largest error that each test has met. Run from the repository's root. */
#include "greatest.h"
#include "golden.h"
#include "../smolvlm.h"

#include <math.h>

#define FUNCTIONS GOLDEN "functions.golden"
#define LENGTH(array) (sizeof(array) / sizeof(array)[0])

/* |got - want| in steps of a float of want's size. */
static double ulps(float got, double want) {
    int exponent = want == 0 ? -126 : ilogb(want);
    return fabs(got - want) / ldexp(1, (exponent < -126 ? -126 : exponent) - 23);
}

static double worst_ulps(const float *got, const float *want, size_t n) {
    double worst = 0;
    for (size_t i = 0; i < n; i++) {
        double d = ulps(got[i], want[i]);
        worst = d <= worst ? worst : d;                     /* a NaN becomes the worst */
    }
    return worst;
}

/* max |got - want| / max |want| */
static double distance(const float *got, const float *want, size_t n) {
    double worst = 0, largest = 0;
    for (size_t i = 0; i < n; i++) {
        double d = fabs((double)got[i] - want[i]);
        worst = d <= worst ? worst : d;
        largest = fmax(largest, fabs(want[i]));
    }
    return worst / largest;
}

static void say(const char *what, double worst, const char *unit) {
    if (greatest_info.verbose) printf("[%s: at most %.3g %s] ", what, worst, unit);
}

static bool same(const float *a, const float *b, size_t n) { return memcmp(a, b, n * sizeof *a) == 0; }

static float *floats(size_t n) {
    float *x = calloc(n + 1, sizeof *x);
    if (!x) exit(EXIT_FAILURE);
    return x;
}

/* -------------------------------------------------------------------------------------------- functions of a number */

TEST exp_as_torch(void) {
    Golden want = golden(FUNCTIONS, "exp");
    float *x = noises(1, want.count, 87);
    for (size_t i = 0; i < want.count; i++) x[i] = sv_exp(x[i]);
    double worst = worst_ulps(x, want.data.f, want.count);
    say("exp", worst, "ulp");
    ASSERT_LTE(worst, 2);
    free(x);
    free(want.data.any);
    PASS();
}

/* Every 4099th float of the range in which sv_exp is not clamped, and those around 0. */
TEST exp_as_libm(void) {
    double worst = 0;
    for (uint32_t bits = 0; bits < 0x42ae0000u; bits += 4099)         /* 87.0f */
        for (uint32_t sign = 0; sign < 2; sign++) {
            union { uint32_t u; float f; } x = { bits | sign << 31 };
            worst = fmax(worst, ulps(sv_exp(x.f), exp(x.f)));
        }
    say("exp", worst, "ulp");
    ASSERT_LTE(worst, 1.5);
    PASS();
}

TEST exp_at_its_ends(void) {
    ASSERT_EQ(1.0f, sv_exp(0.0f));
    ASSERT_EQ(1.0f, sv_exp(-0.0f));
    float most = sv_exp(87.0f), least = sv_exp(-87.0f);
    ASSERT(isfinite(most) && most > 6e37f);
    ASSERT(isnormal(least) && least < 2e-38f);
    const float beyond[] = { 87.5f, 88.8f, 1e3f, 1e30f, 3.4e38f, INFINITY };
    for (size_t i = 0; i < LENGTH(beyond); i++) {
        ASSERT_EQ(most, sv_exp(beyond[i]));
        ASSERT_EQ(least, sv_exp(-beyond[i]));
    }
    ASSERT(isnan(sv_exp(NAN)));                             /* damaged weights must not pass for good ones */
    PASS();
}

TEST gelu_as_torch(void) {
    Golden want = golden(FUNCTIONS, "gelu");
    float *x = noises(2, want.count, 12);
    sv_gelu_tanh(x, want.count, 1);
    double worst = 0, near = 0;
    for (size_t i = 0; i < want.count; i++) {
        float argument = noise(2, i) * 12;
        double off = fabs((double)x[i] - want.data.f[i]);
        worst = fmax(worst, off / fmax(fabs(want.data.f[i]), 1e-2));
        if (fabsf(argument) < 2) near = fmax(near, ulps(x[i], want.data.f[i]));
    }
    say("gelu for |x| < 2", near, "ulp");
    say("gelu, relative to max(|y|, 0.01)", worst, "");
    ASSERT_LTE(near, 8);
    ASSERT_LTE(worst, 5e-7);
    free(x);
    free(want.data.any);
    PASS();
}

TEST silu_as_torch(void) {
    Golden want = golden(FUNCTIONS, "silu");
    float *x = noises(3, want.count, 30), *up = noises(14, want.count, 2), *alone = noises(3, want.count, 30);
    float *ones = floats(want.count);
    for (size_t i = 0; i < want.count; i++) ones[i] = 1;
    sv_silu_mul(alone, ones, want.count, 1);
    double worst = worst_ulps(alone, want.data.f, want.count);
    say("silu", worst, "ulp");
    ASSERT_LTE(worst, 3);
    sv_silu_mul(x, up, want.count, 1);
    for (size_t i = 0; i < want.count; i++) ASSERT_EQ(alone[i] * up[i], x[i]);
    free(x);
    free(up);
    free(alone);
    free(ones);
    free(want.data.any);
    PASS();
}

TEST activations_at_their_ends(void) {
    float x[] = { 0, 1e4f, -1e4f, 1e10f, -1e10f, 100, -100 }, ones[] = { 1, 1, 1, 1, 1, 1, 1 }, y[LENGTH(x)];
    memcpy(y, x, sizeof x);
    sv_gelu_tanh(x, LENGTH(x), 1);
    sv_silu_mul(y, ones, LENGTH(y), 1);
    const float want[] = { 0, 1e4f, 0, 1e10f, 0, 100, 0 };
    for (size_t i = 0; i < LENGTH(x); i++) {
        ASSERT_IN_RANGE(want[i], x[i], 1e-20);
        ASSERT_IN_RANGE(want[i], y[i], 1e-20);
    }
    PASS();
}

/* The golden is transformers' in float: an ulp of 1 off at most, for an angle is a float and its sine a rounded one. */
TEST rope_as_transformers(const char *theta) {
    Golden at = golden(FUNCTIONS, "positions"), inv_freq = golden(FUNCTIONS, "inv_freq %s", theta);
    Golden cosine = golden(FUNCTIONS, "cos %s", theta), sine = golden(FUNCTIONS, "sin %s", theta);
    double worst = 0;
    for (size_t p = 0; p < at.count; p++)
        for (size_t i = 0; i < inv_freq.count; i++) {
            float s, c;
            sv_sin_cos((float)at.data.i[p] * inv_freq.data.f[i], &s, &c);
            worst = fmax(worst, fabs((double)s - sine.data.f[p * inv_freq.count + i]));
            worst = fmax(worst, fabs((double)c - cosine.data.f[p * inv_freq.count + i]));
        }
    say("sin, cos", worst * 0x1p24, "2^-24");
    ASSERT_LTE(worst, 0x1p-23);
    free(at.data.any);
    free(inv_freq.data.any);
    free(cosine.data.any);
    free(sine.data.any);
    PASS();
}

TEST sin_cos_as_libm(void) {
    double worst = 0;
    for (int i = 0; i < 200000; i++) {
        double angle = noise(15, (size_t)i) * (i % 2 ? 1e6 : i % 3 ? 8192 : 4);
        float s, c;
        sv_sin_cos(angle, &s, &c);
        worst = fmax(worst, fmax(ulps(s, sin(angle)), ulps(c, cos(angle))));
    }
    say("sin, cos", worst, "ulp");
    ASSERT_LTE(worst, 0.501);
    float s, c;
    sv_sin_cos(0, &s, &c);
    ASSERT(s == 0 && c == 1);
    PASS();
}

/* ------------------------------------------------------------------------------------------------ softmax and norms */

/* Up to 18 below the largest, a difference of floats is off by 2^-20 at most, and so is its exp: 16 ulp. */
TEST softmax_as_torch(void) {
    const int sizes[] = { 1, 2, 15, 16, 17, 333 };
    double worst = 0;
    for (size_t i = 0; i < LENGTH(sizes); i++) {
        Golden want = golden(FUNCTIONS, "softmax %d", sizes[i]);
        float *x = noises(4, want.count, 9);
        sv_softmax(x, want.count);
        worst = fmax(worst, worst_ulps(x, want.data.f, want.count));
        free(x);
        free(want.data.any);
    }
    say("softmax", worst, "ulp");
    ASSERT_LTE(worst, 20);
    PASS();
}

/* Scores however large or far apart: nothing overflows, and the weights are those of their differences. */
TEST softmax_of_large_numbers(void) {
    float equal[] = { 3e38f, 3e38f, 3e38f, 3e38f }, apart[] = { -3e38f, 3e38f, 0 }, shifted[] = { 1001, 1000 };
    sv_softmax(equal, 4);
    for (int i = 0; i < 4; i++) ASSERT_EQ(0.25f, equal[i]);
    sv_softmax(apart, 3);
    ASSERT_EQ(1.0f, apart[1]);
    ASSERT(apart[0] < 1e-37f && apart[2] < 1e-37f);
    sv_softmax(shifted, 2);
    ASSERT_IN_RANGE(1 / (1 + exp(-1)), shifted[0], 1e-7);
    PASS();
}

TEST norms_as_torch(void) {
    const int sizes[] = { 1, 2, 15, 17, 100, 1153 };
    double worst = 0;
    for (size_t i = 0; i < LENGTH(sizes); i++) {
        size_t size = (size_t)sizes[i], n = 3;
        float *x = noises(5, n * size, 3), *weight = noises(6, size, 1), *bias = noises(7, size, 1);
        float *out = floats(n * size);
        for (size_t j = 0; j < n * size; j++) x[j] += 1;
        Golden layer = golden(FUNCTIONS, "layer_norm %zu", size), rms = golden(FUNCTIONS, "rms_norm %zu", size);
        sv_layer_norm(out, x, weight, bias, n, size, 1e-6f, 1);
        worst = fmax(worst, distance(out, layer.data.f, n * size));
        sv_rms_norm(out, x, weight, n, size, 1e-5f, 1);
        worst = fmax(worst, distance(out, rms.data.f, n * size));
        free(x);
        free(weight);
        free(bias);
        free(out);
        free(layer.data.any);
        free(rms.data.any);
    }
    say("norms", worst, "of the largest");
    ASSERT_LTE(worst, 5e-7);
    PASS();
}

/* Rows together, alone, in place, on threads: the same bits. */
TEST norms_bit_for_bit(void) {
    size_t n = 130, size = 1153;                            /* above the size from which threads are worth it */
    float *x = noises(16, n * size, 2), *weight = noises(17, size, 1), *bias = noises(18, size, 1);
    float *layer = floats(n * size), *rms = floats(n * size), *out = floats(n * size);
    sv_layer_norm(layer, x, weight, bias, n, size, 1e-6f, 1);
    sv_rms_norm(rms, x, weight, n, size, 1e-5f, 1);
    for (size_t i = 0; i < n; i++) {
        sv_layer_norm(out, x + i * size, weight, bias, 1, size, 1e-6f, 1);
        ASSERT(same(out, layer + i * size, size));
        sv_rms_norm(out, x + i * size, weight, 1, size, 1e-5f, 1);
        ASSERT(same(out, rms + i * size, size));
    }
    for (int threads = 2; threads <= 4; threads++) {
        memcpy(out, x, n * size * sizeof *x);
        sv_layer_norm(out, out, weight, bias, n, size, 1e-6f, threads);
        ASSERT(same(out, layer, n * size));
        memcpy(out, x, n * size * sizeof *x);
        sv_rms_norm(out, out, weight, n, size, 1e-5f, threads);
        ASSERT(same(out, rms, n * size));
    }
    free(x);
    free(weight);
    free(bias);
    free(layer);
    free(rms);
    free(out);
    PASS();
}

TEST activations_bit_for_bit(void) {
    size_t n = 20011;
    float *alone = noises(19, n, 5), *together = noises(19, n, 5), *up = noises(20, n, 1);
    for (int threads = 1; threads <= 4; threads++) {
        for (size_t i = 0; i < n; i++) sv_gelu_tanh(alone + i, 1, 1), sv_silu_mul(alone + i, up + i, 1, 1);
        sv_gelu_tanh(together, n, threads);
        sv_silu_mul(together, up, n, threads);
        ASSERT(same(alone, together, n));
    }
    free(alone);
    free(together);
    free(up);
    PASS();
}

/* -------------------------------------------------------------------------------------------------- matrix products */

/* The floats w in a format of the checkpoint: as they are, or their upper halves. The caller frees data. */
static SvTensor encode(const float *w, uint32_t format, size_t rows, size_t cols) {
    void *data = malloc(rows * cols * 4);
    if (!data) exit(EXIT_FAILURE);
    if (format == SV_F32) memcpy(data, w, rows * cols * 4);
    for (size_t i = 0; format == SV_BF16 && i < rows * cols; i++) {
        uint32_t bits;
        memcpy(&bits, w + i, 4);
        ((uint16_t *)data)[i] = (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    }
    return (SvTensor){ data, format, (uint32_t)rows, (uint32_t)cols };
}

TEST linear_as_torch(void) {
    const size_t shapes[][3] = { { 1, 7, 13 }, { 3, 19, 1 }, { 5, 33, 100 }, { 6, 3, 577 } };
    double worst = 0;
    for (size_t s = 0; s < LENGTH(shapes); s++)
        for (uint32_t format = SV_F32; format <= SV_BF16; format++) {
            size_t n = shapes[s][0], rows = shapes[s][1], cols = shapes[s][2];
            float *x = noises(8, n * cols, 1), *w = noises(9, rows * cols, 1), *bias = noises(10, rows, 1);
            float *out = floats(n * rows);
            Golden want = golden(FUNCTIONS, "linear %s %zu %zu %zu", sv_format_name(format), n, rows, cols);
            SvTensor tensor = encode(w, format, rows, cols);
            sv_matmul(out, x, &tensor, format == SV_F32 ? bias : NULL, n, 1);
            worst = fmax(worst, distance(out, want.data.f, n * rows));
            free(x);
            free(w);
            free(bias);
            free(out);
            free((void *)tensor.data);
            free(want.data.any);
        }
    say("linear", worst, "of the largest");
    ASSERT_LTE(worst, 5e-7);
    PASS();
}

/* Largest error of out = x w^T + bias, as a part of sum |x w| + |bias|: what cancels in a sum was rounded before. */
static double matmul_error(const float *out, const float *x, const SvTensor *w, const float *bias, size_t n) {
    double worst = 0;
    size_t rows = w->rows, cols = w->cols;
    float *row = floats(cols);
    for (size_t r = 0; r < rows; r++) {
        sv_row(w, r, row);
        for (size_t i = 0; i < n; i++) {
            double want = bias ? bias[r] : 0, size = fabs(want);
            for (size_t c = 0; c < cols; c++) {
                want += (double)x[i * cols + c] * row[c];
                size += fabs((double)x[i * cols + c] * row[c]);
            }
            double error = fabs(out[i * rows + r] - want) / (size > 0 ? size : 1);
            worst = error <= worst ? worst : error;
        }
    }
    free(row);
    return worst;
}

/* Every count of rows of x around the kernel's four, every width around its sixteen lanes and its panel. */
TEST matmul_shapes(uint32_t format, double *worst) {
    const size_t counts[] = { 1, 2, 3, 4, 5, 33 }, heights[] = { 1, 2, 7, 65 };
    const size_t widths[] = { 1, 2, 15, 16, 17, 31, 33, 333, 4304, 16384, 16385, 20001 };
    for (size_t h = 0; h < LENGTH(heights); h++)
        for (size_t k = 0; k < LENGTH(widths); k++) {
            size_t rows = heights[h], cols = widths[k], most = counts[LENGTH(counts) - 1];
            if (rows * cols > 150000) continue;
            float *x = noises(21, most * cols, 1), *w = noises(22, rows * cols, 1), *bias = noises(23, rows, 1);
            float *out = floats(most * rows), *alone = floats(rows), *threaded = floats(most * rows);
            SvTensor tensor = encode(w, format, rows, cols);
            for (size_t c = 0; c < 2 * LENGTH(counts); c++) {
                size_t n = counts[c / 2];
                const float *b = c % 2 ? bias : NULL;
                sv_matmul(out, x, &tensor, b, n, 1);
                if (n <= 5) *worst = fmax(*worst, matmul_error(out, x, &tensor, b, n));
                for (size_t i = 0; i < n; i++) {
                    sv_matmul(alone, x + i * cols, &tensor, b, 1, 1);
                    ASSERTm("a row depends on its company", same(alone, out + i * rows, rows));
                }
                for (int threads = 2; threads <= 4; threads++) {
                    sv_matmul(threaded, x, &tensor, b, n, threads);
                    ASSERTm("threads change the bits", same(threaded, out, n * rows));
                }
            }
            free(x);
            free(w);
            free(bias);
            free(out);
            free(alone);
            free(threaded);
            free((void *)tensor.data);
        }
    PASS();
}

TEST matmul(uint32_t format) {
    double worst = 0;
    CHECK_CALL(matmul_shapes(format, &worst));
    say(sv_format_name(format), worst * 0x1p24, "2^-24 of sum |x w|");
    ASSERT_LTE(worst, 16 * 0x1p-24);
    PASS();
}

/* A row of a product must not change with what stands in the other rows, not even if that is no number. */
TEST matmul_rows_are_apart(void) {
    enum { N = 6, ROWS = 5, COLS = 19 };
    float *x = noises(24, N * COLS, 1), *w = noises(25, ROWS * COLS, 1), out[N * ROWS], spoilt[N * ROWS];
    SvTensor tensor = encode(w, SV_F32, ROWS, COLS);
    sv_matmul(out, x, &tensor, NULL, N, 1);
    for (int i = 0; i < COLS; i++) x[2 * COLS + i] = NAN;
    sv_matmul(spoilt, x, &tensor, NULL, N, 1);
    for (int i = 0; i < N; i++)
        for (int r = i * ROWS; r < (i + 1) * ROWS; r++) ASSERT(i == 2 ? isnan(spoilt[r]) : spoilt[r] == out[r]);
    free(x);
    free(w);
    free((void *)tensor.data);
    PASS();
}

TEST bf16_rows(void) {
    const float values[] = { 0, -0.0f, 1, -2.5f, 3.140625f, 0x1p-126f, 0x1.fep127f, INFINITY };
    SvTensor tensor = encode(values, SV_BF16, 2, 4);
    float row[8];
    sv_row(&tensor, 0, row);
    sv_row(&tensor, 1, row + 4);
    ASSERT_MEM_EQ(values, row, sizeof values);
    free((void *)tensor.data);
    PASS();
}

/* -------------------------------------------------------------------------------------------------------- attention */

typedef struct Attention { size_t n_q, n_k, heads, kv_heads, dim; bool causal; } Attention;

static const Attention GOLDEN_ATTENTIONS[] = {
    { 6, 6, 2, 2, 11, false }, { 9, 9, 3, 3, 72, false }, { 1, 1, 2, 1, 20, true }, { 5, 5, 4, 2, 20, true },
    { 7, 19, 6, 2, 11, true }, { 1, 23, 3, 1, 72, true }, { 10, 13, 2, 1, 64, true },
};
static const Attention ATTENTIONS[] = {
    { 33, 33, 3, 3, 11, false }, { 64, 64, 2, 2, 72, false }, { 1, 1, 1, 1, 2, true },  { 2, 5, 9, 3, 20, true },
    { 33, 33, 4, 2, 16, true },  { 34, 300, 6, 2, 64, true }, { 3, 1030, 5, 1, 17, true }, { 257, 257, 3, 1, 33, true },
};

/* q, k, v of the streams that golden_model.py takes, and out; freed together. */
typedef struct Case { float *q, *k, *v, *out, *scores; size_t size; } Case;

static Case make_case(const Attention *a, int threads) {
    size_t size = a->n_q * a->heads * a->dim, kv = a->n_k * a->kv_heads * a->dim;
    return (Case){ noises(11, size, 3), noises(12, kv, 3), noises(13, kv, 1), floats(size),
                   floats(sv_attention_scratch(a->n_k, threads)), size };
}

static void free_case(Case *c) {
    free(c->q);
    free(c->k);
    free(c->v);
    free(c->out);
    free(c->scores);
}

static void attend(const Attention *a, Case *c, float *out, int threads) {
    sv_attention(out, c->q, c->k, c->v, a->n_q, a->n_k, a->heads, a->kv_heads, a->dim, a->causal, c->scores, threads);
}

/* One query and head, as the formula says it: softmax(q k^T / sqrt(dim)) v, to out [dim]. */
static void plain_attention(const Attention *a, const Case *c, size_t query, size_t head, double *weights, float *out) {
    size_t seen = a->causal ? a->n_k - a->n_q + query + 1 : a->n_k, kv = head / (a->heads / a->kv_heads);
    const float *q = c->q + (query * a->heads + head) * a->dim;
    double max = -INFINITY, total = 0;
    for (size_t j = 0; j < seen; j++) {
        const float *k = c->k + (j * a->kv_heads + kv) * a->dim;
        weights[j] = 0;
        for (size_t d = 0; d < a->dim; d++) weights[j] += (double)q[d] * k[d];
        weights[j] /= sqrt((double)a->dim);
        max = fmax(max, weights[j]);
    }
    for (size_t j = 0; j < seen; j++) total += weights[j] = exp(weights[j] - max);
    for (size_t d = 0; d < a->dim; d++) {
        double sum = 0;
        for (size_t j = 0; j < seen; j++) sum += weights[j] / total * c->v[(j * a->kv_heads + kv) * a->dim + d];
        out[d] = (float)sum;
    }
}

TEST attention_as_torch(void) {
    double worst = 0;
    for (size_t i = 0; i < LENGTH(GOLDEN_ATTENTIONS); i++) {
        const Attention *a = &GOLDEN_ATTENTIONS[i];
        Case c = make_case(a, 1);
        Golden want = golden(FUNCTIONS, "attention %zu %zu %zu %zu %zu %d", a->n_q, a->n_k, a->heads, a->kv_heads,
                             a->dim, a->causal);
        attend(a, &c, c.out, 1);
        worst = fmax(worst, distance(c.out, want.data.f, c.size));
        free(want.data.any);
        free_case(&c);
    }
    say("attention", worst, "of the largest");
    ASSERT_LTE(worst, 1e-6);
    PASS();
}

/* Here scores reach 30, where floats are 2e-6 apart, and exp makes relative errors of these absolute ones. */
TEST attention_as_plain(void) {
    double worst = 0;
    for (size_t i = 0; i < LENGTH(ATTENTIONS); i++) {
        const Attention *a = &ATTENTIONS[i];
        Case c = make_case(a, 1);
        float *want = floats(c.size);
        double *weights = malloc(a->n_k * sizeof *weights);
        ASSERT(weights);
        for (size_t query = 0; query < a->n_q; query++)
            for (size_t head = 0; head < a->heads; head++)
                plain_attention(a, &c, query, head, weights, want + (query * a->heads + head) * a->dim);
        attend(a, &c, c.out, 1);
        worst = fmax(worst, distance(c.out, want, c.size));
        free(weights);
        free(want);
        free_case(&c);
    }
    say("attention", worst, "of the largest");
    ASSERT_LTE(worst, 3e-6);
    PASS();
}

/* All queries at once, one after the other, on threads: the same bits. A causal query alone has the keys it sees. */
TEST attention_bit_for_bit(void) {
    for (size_t i = 0; i < LENGTH(ATTENTIONS); i++) {
        const Attention *a = &ATTENTIONS[i];
        Case c = make_case(a, 4);
        float *out = floats(c.size);
        attend(a, &c, c.out, 1);
        for (size_t query = 0, row = a->heads * a->dim; query < a->n_q; query++) {
            size_t seen = a->causal ? a->n_k - a->n_q + query + 1 : a->n_k;
            sv_attention(out, c.q + query * row, c.k, c.v, 1, seen, a->heads, a->kv_heads, a->dim, a->causal, c.scores,
                         1);
            ASSERTm("a query depends on its company", same(out, c.out + query * row, row));
        }
        for (int threads = 2; threads <= 4; threads++) {
            memset(out, 0xff, c.size * sizeof *out);
            attend(a, &c, out, threads);
            ASSERTm("threads change the bits", same(out, c.out, c.size));
        }
        free(out);
        free_case(&c);
    }
    PASS();
}

TEST threads_wanted(void) {
    ASSERT(sv_threads(0) >= 1);
    ASSERT(sv_threads(3) == 3 || sv_threads(3) == 1);       /* 1: built without OpenMP */
    PASS();
}

SUITE(numbers) {
    RUN_TEST(exp_as_torch);
    RUN_TEST(exp_as_libm);
    RUN_TEST(exp_at_its_ends);
    RUN_TEST(gelu_as_torch);
    RUN_TEST(silu_as_torch);
    RUN_TEST(activations_at_their_ends);
    RUN_TEST1(rope_as_transformers, "100000");
    RUN_TEST1(rope_as_transformers, "273768");
    RUN_TEST(sin_cos_as_libm);
}

SUITE(rows) {
    RUN_TEST(softmax_as_torch);
    RUN_TEST(softmax_of_large_numbers);
    RUN_TEST(norms_as_torch);
    RUN_TEST(norms_bit_for_bit);
    RUN_TEST(activations_bit_for_bit);
}

SUITE(products) {
    RUN_TEST(linear_as_torch);
    RUN_TEST1(matmul, SV_F32);
    RUN_TEST1(matmul, SV_BF16);
    RUN_TEST(matmul_rows_are_apart);
    RUN_TEST(bf16_rows);
}

SUITE(attention) {
    RUN_TEST(attention_as_torch);
    RUN_TEST(attention_as_plain);
    RUN_TEST(attention_bit_for_bit);
    RUN_TEST(threads_wanted);
}

GREATEST_MAIN_DEFS();

int main(int argc, char **argv) {
    GREATEST_MAIN_BEGIN();
    RUN_SUITE(numbers);
    RUN_SUITE(rows);
    RUN_SUITE(products);
    RUN_SUITE(attention);
    GREATEST_MAIN_END();
}
