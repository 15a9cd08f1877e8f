/* test_quant.c: every kernel set that this machine can run, against torch (functions.golden) and against quant.c, the
   set that defines the results. What must be equal to the bit everywhere, the products of Q8 and Q4 and all row-wise
   functions, must equal quant.c's. What may differ, products of floats, is compared with double precision. quant.c
   itself is tested against torch, and by the hashes here and in test_model.c. -v prints the largest error that each
   test has met. Run from the repository's root. */
#include "greatest.h"
#include "golden.h"
#include "../model.h"

#include <float.h>
#include <math.h>
#if !defined(_OPENMP) && defined(__GNUC__)
#pragma GCC diagnostic ignored "-Wunknown-pragmas"
#endif

#define FUNCTIONS GOLDEN "functions.golden"
#define EXP_HASH 0xafcf18bbfa56dc6bu
#define SIN_COS_HASH 0x4cf44bf483fc2ec9u
#define LENGTH(array) (sizeof(array) / sizeof(array)[0])

static const SvKernels *cpu, *reference;    /* the set under test, and quant.c */
static bool ahead = true;                   /* whether products prefetch weights */

/* |got - want| in units in the last place of want, as a float. */
static double ulps(float got, double want) {
    int exponent = want == 0 ? -126 : ilogb(want);
    return fabs(got - want) / ldexp(1, (exponent < -126 ? -126 : exponent) - 23);
}

static double worst_ulps(const float *got, const float *want, size_t n) {
    double worst = 0;
    for (size_t i = 0; i < n; i++) {
        double d = ulps(got[i], want[i]);
        worst = d <= worst ? worst : d;                     /* a NaN is the worst */
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
    if (GREATEST_IS_VERBOSE()) printf("[%s: at most %.3g %s] ", what, worst, unit);
}

static bool same(const float *a, const float *b, size_t n) { return memcmp(a, b, n * sizeof *a) == 0; }

/* The same bits, or both NaN: a NaN's payload differs between processors. */
static bool same_numbers(const float *a, const float *b, size_t n) {
    if (same(a, b, n)) return true;
    for (size_t i = 0; i < n; i++)
        if (!same(a + i, b + i, 1) && !(isnan(a[i]) && isnan(b[i]))) return false;
    return true;
}

static void *bytes(size_t n) {
    void *data = malloc(n ? n : 1);
    if (!data) exit(EXIT_FAILURE);
    return data;
}

static float *floats(size_t n) {
    float *x = calloc(n + 1, sizeof *x);
    if (!x) exit(EXIT_FAILURE);
    return x;
}

/* Scratch for a kernel, full of NaNs: its contents must not matter. */
static float *scratch(uint64_t n) { return memset(bytes((size_t)n * sizeof(float)), 0xff, (size_t)n * sizeof(float)); }

/* -------------------------------------------------------------------------------------------- functions of a number */

TEST exp_as_torch(void) {
    Golden want = golden(FUNCTIONS, "exp");
    float *x = noises(1, want.count, 87);
    for (size_t i = 0; i < want.count; i++) x[i] = sv_exp(x[i]);
    double worst = worst_ulps(x, want.data.f, want.count);
    say("exp", worst, "ulp");
    ASSERT_LTE(worst, 1);
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
    ASSERT_LTE(worst, 1.01);
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

static uint64_t hash_of(uint64_t hash, float x) {           /* FNV-1a */
    union { float f; uint32_t u; } bits = { x };
    for (int i = 0; i < 4; i++) hash = (hash ^ (bits.u >> 8 * i & 255)) * 0x100000001b3u;
    return hash;
}

/* The expected hashes are those of x86-64, gcc -O0 and SIMD=0. */
TEST functions_have_the_same_bits_everywhere(void) {
    uint64_t hash = 0xcbf29ce484222325u;
    for (uint32_t bits = 0; bits < 0x42b00000u; bits += 4099)
        for (uint32_t sign = 0; sign < 2; sign++) {
            union { uint32_t u; float f; } x = { bits | sign << 31 };
            hash = hash_of(hash, sv_exp(x.f));
        }
    ASSERT_EQ_FMT((unsigned long long)EXP_HASH, (unsigned long long)hash, "%016llx");
    hash = 0xcbf29ce484222325u;
    for (size_t i = 0; i < 100000; i++) {
        float s, c;
        sv_sin_cos(noise(15, i) * (i % 2 ? 16000000.0 : 8192.0), &s, &c);
        hash = hash_of(hash_of(hash, s), c);
    }
    ASSERT_EQ_FMT((unsigned long long)SIN_COS_HASH, (unsigned long long)hash, "%016llx");
    PASS();
}

TEST gelu_as_torch(void) {
    Golden want = golden(FUNCTIONS, "gelu");
    float *x = noises(2, want.count, 12);
    cpu->gelu_tanh(x, 1, want.count);
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
    cpu->silu_mul(alone, ones, 1, want.count);
    double worst = worst_ulps(alone, want.data.f, want.count);
    say("silu", worst, "ulp");
    ASSERT_LTE(worst, 3);
    cpu->silu_mul(x, up, 1, want.count);
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
    cpu->gelu_tanh(x, 1, LENGTH(x));
    cpu->silu_mul(y, ones, 1, LENGTH(y));
    const float want[] = { 0, 1e4f, 0, 1e10f, 0, 100, 0 };
    for (size_t i = 0; i < LENGTH(x); i++) {
        ASSERT_IN_RANGE(want[i], x[i], 1e-20);
        ASSERT_IN_RANGE(want[i], y[i], 1e-20);
    }
    PASS();
}

/* The golden is transformers' in float: at most an ulp of 1 off, because an angle is a float and its sine is
   rounded. */
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

/* ------------------------------------------------------------------------------------------------------------ norms */

TEST norms_as_torch(void) {
    const int sizes[] = { 1, 2, 15, 17, 100, 1153 };
    double worst = 0;
    for (size_t i = 0; i < LENGTH(sizes); i++) {
        size_t size = (size_t)sizes[i], n = 3;
        float *x = noises(5, n * size, 3), *weight = noises(6, size, 1), *bias = noises(7, size, 1);
        float *out = floats(n * size);
        for (size_t j = 0; j < n * size; j++) x[j] += 1;
        Golden layer = golden(FUNCTIONS, "layer_norm %zu", size), rms = golden(FUNCTIONS, "rms_norm %zu", size);
        cpu->layer_norm(out, x, weight, bias, n, size, 1e-6f);
        worst = fmax(worst, distance(out, layer.data.f, n * size));
        cpu->rms_norm(out, x, weight, n, size, 1e-5f);
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

/* Rows together, alone, in place, on threads, and by quant.c: the same bits. No weight of RMSNorm is one of ones. */
TEST norms_bit_for_bit(size_t n, size_t size) {
    float *x = noises(16, n * size, 2), *weight = noises(17, size, 1), *bias = noises(18, size, 1);
    float *layer = floats(n * size), *rms = floats(n * size), *out = floats(n * size);
    reference->layer_norm(layer, x, weight, bias, n, size, 1e-6f);
    reference->rms_norm(rms, x, weight, n, size, 1e-5f);
    for (size_t i = 0; i < n; i++) {
        cpu->layer_norm(out, x + i * size, weight, bias, 1, size, 1e-6f);
        ASSERT(same(out, layer + i * size, size));
        cpu->rms_norm(out, x + i * size, weight, 1, size, 1e-5f);
        ASSERT(same(out, rms + i * size, size));
    }
    for (int threads = 1; threads <= THREADS(4); threads++) {
        memcpy(out, x, n * size * sizeof *x);
#pragma omp parallel num_threads(threads)
        cpu->layer_norm(out, out, weight, bias, n, size, 1e-6f);
        ASSERT(same(out, layer, n * size));
        memcpy(out, x, n * size * sizeof *x);
#pragma omp parallel num_threads(threads)
        cpu->rms_norm(out, out, weight, n, size, 1e-5f);
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

/* The same for the activations and the sum. */
TEST activations_bit_for_bit(size_t rows, size_t size) {
    size_t n = rows * size;
    float *x = noises(19, n, 5), *up = noises(20, n, 1), *out = floats(n), *want = floats(n);
    for (int what = 0; what < 3; what++) {
        memcpy(want, x, n * sizeof *x);
        if (what == 0) reference->gelu_tanh(want, rows, size);
        else if (what == 1) reference->silu_mul(want, up, rows, size);
        else reference->add(want, up, rows, size);
        for (int threads = 1; threads <= THREADS(4); threads++) {
            memcpy(out, x, n * sizeof *x);
#pragma omp parallel num_threads(threads)
            {
                if (what == 0) cpu->gelu_tanh(out, rows, size);
                else if (what == 1) cpu->silu_mul(out, up, rows, size);
                else cpu->add(out, up, rows, size);
            }
            ASSERT(same(out, want, n));
        }
    }
    free(x);
    free(up);
    free(out);
    free(want);
    PASS();
}

/* Number j of the Hadamard matrix's row i. */
static double hadamard_number(size_t i, size_t j, size_t block) {
    double sign = 1;
    for (size_t both = i & j; both; both &= both - 1) sign = -sign;
    return sign / sqrt((double)block);
}

/* Against the matrix, block by block; twice is nothing; rows together, alone, on threads, and by quant.c: the same
   bits. */
TEST hadamard(size_t size, size_t block) {
    enum { N = 5 };
    size_t n = N * size;
    float *x = noises(21, n, 3), *want = floats(n), *out = floats(n);
    double worst = 0, back = 0;
    ASSERT_EQ(block, sv_hadamard_block(size));
    memcpy(want, x, n * sizeof *x);
    reference->hadamard(want, N, size);
    for (size_t at = 0; at < n; at += block)
        for (size_t j = 0; j < block; j++) {
            double sum = 0;
            for (size_t i = 0; i < block; i++) sum += x[at + i] * hadamard_number(i, j, block);
            worst = fmax(worst, fabs(want[at + j] - sum));
        }
    for (int threads = 1; threads <= 4; threads++) {
        memcpy(out, x, n * sizeof *x);
#pragma omp parallel num_threads(threads)
        cpu->hadamard(out, N, size);
        ASSERT(same(out, want, n));
    }
    for (size_t i = 0; i < N; i++) {
        memcpy(out, x + i * size, size * sizeof *x);
        cpu->hadamard(out, 1, size);
        ASSERT(same(out, want + i * size, size));
        cpu->hadamard(out, 1, size);
        for (size_t j = 0; j < size; j++) back = fmax(back, fabs((double)out[j] - x[i * size + j]));
    }
    say("off the matrix", worst, "");
    ASSERT_LTE(worst, 3e-6);                                /* the numbers reach about 10 */
    ASSERT_LTE(back, 3e-6);
    free(x);
    free(want);
    free(out);
    PASS();
}

/* A number that is none, or too large, makes its own block wrong and no other. */
TEST hadamard_of_no_numbers(void) {
    enum { SIZE = 192 };
    float *x = noises(22, SIZE, 1);
    x[70] = NAN;
    x[130] = FLT_MAX, x[131] = FLT_MAX;
    float *want = memcpy(floats(SIZE), x, SIZE * sizeof *x);
    cpu->hadamard(x, 1, SIZE);
    reference->hadamard(want, 1, SIZE);
    ASSERT(same_numbers(x, want, SIZE));
    for (size_t i = 0; i < SIZE; i++) ASSERT(isnan(x[i]) == (i / 64 == 1) && (i >= 64 || fabsf(x[i]) < 10));
    ASSERT(isinf(x[128]));
    free(x);
    free(want);
    PASS();
}

TEST rows_that_are_no_numbers(void) {
    enum { SIZE = 37 };
    for (int i = 0; i < SIZE; i++) {
        float *x = noises(33, SIZE, 1), *ones = floats(SIZE), out[SIZE];
        x[i] = NAN;
        cpu->rms_norm(out, x, x, 1, SIZE, 1e-5f);
        for (int j = 0; j < SIZE; j++) ASSERT(isnan(out[j]));
        cpu->layer_norm(out, x, x, x, 1, SIZE, 1e-5f);
        for (int j = 0; j < SIZE; j++) ASSERT(isnan(out[j]));
        memcpy(out, x, sizeof out);
        cpu->gelu_tanh(out, 1, SIZE);
        for (int j = 0; j < SIZE; j++) ASSERT(isnan(out[j]) == (j == i));
        memcpy(out, x, sizeof out);
        cpu->silu_mul(out, ones, 1, SIZE);
        for (int j = 0; j < SIZE; j++) ASSERT(isnan(out[j]) == (j == i));
        free(x);
        free(ones);
    }
    PASS();
}

/* ---------------------------------------------------------------------------------------- matrix products of floats */

/* The floats w in a format of the checkpoint: unchanged, or their upper halves. The caller frees data. */
static SvTensor encode(const float *w, uint32_t format, size_t rows, size_t cols) {
    void *data = bytes(rows * cols * 4);
    if (format == SV_F32) memcpy(data, w, rows * cols * 4);
    for (size_t i = 0; format == SV_BF16 && i < rows * cols; i++) {
        uint32_t bits;
        memcpy(&bits, w + i, 4);
        ((uint16_t *)data)[i] = (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    }
    return (SvTensor){ data, format, 0, (uint32_t)rows, (uint32_t)cols };
}

static void multiply_by(const SvKernels *set, float *out, const float *x, const SvTensor *w, const float *bias,
                        size_t n, int threads) {
    float *room = scratch(set->matmul_scratch(n, w->cols));
    (void)threads;
#pragma omp parallel num_threads(threads)
    set->matmul(&(SvProduct){ out, w, bias }, 1, x, n, ahead, room);
    free(room);
}

static void multiply(float *out, const float *x, const SvTensor *w, const float *bias, size_t n, int threads) {
    multiply_by(cpu, out, x, w, bias, n, threads);
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
            multiply(out, x, &tensor, format == SV_F32 ? bias : NULL, n, 1);
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

/* Largest error of out = x w^T + bias, relative to sum |x w| + |bias|, because terms that cancel were rounded
   before. */
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

/* Counts of rows of x around a kernel's four, widths around its sixteen lanes and its panels. Neither threads nor the
   presence of other rows may change a bit: among the few rows that go one by one, and among the many that go together.
   Between these two the order of a sum differs. */
TEST matmul_shapes(uint32_t format, double *worst) {
    const size_t counts[] = { 1, 2, 3, 4, 5, 33 }, heights[] = { 1, 2, 7, 65 };
    const size_t widths[] = { 1, 2, 15, 16, 17, 31, 33, 255, 257, 333, 4304, 20001 };
    for (size_t h = 0; h < LENGTH(heights); h++)
        for (size_t k = 0; k < LENGTH(widths); k++) {
            size_t rows = heights[h], cols = widths[k], most = counts[LENGTH(counts) - 1];
            if (rows * cols > 150000) continue;
            float *x = noises(21, most * cols, 1), *w = noises(22, rows * cols, 1), *bias = noises(23, rows, 1);
            float *out = floats(most * rows), *alone = floats(rows), *other = floats(most * rows);
            SvTensor tensor = encode(w, format, rows, cols);
            for (size_t c = 0; c < 2 * LENGTH(counts); c++) {
                size_t n = counts[c / 2];
                const float *b = c % 2 ? bias : NULL;
                multiply(out, x, &tensor, b, n, 1);
                if (n <= 5) *worst = fmax(*worst, matmul_error(out, x, &tensor, b, n));
                if (n <= 3)
                    for (size_t i = 0; i < n; i++) {
                        multiply(alone, x + i * cols, &tensor, b, 1, 1);
                        ASSERTm("a row depends on its company", same(alone, out + i * rows, rows));
                    }
                else {
                    multiply(other, x, &tensor, b, most, 1);
                    ASSERTm("a row depends on its company", same(out, other, n * rows));
                }
                for (int threads = 2; threads <= THREADS(3); threads++) {
                    multiply(other, x, &tensor, b, n, threads);
                    ASSERTm("threads change the bits", same(other, out, n * rows));
                }
            }
            free(x);
            free(w);
            free(bias);
            free(out);
            free(alone);
            free(other);
            free((void *)tensor.data);
        }
    PASS();
}

/* A sequential sum of n floats has an error of at most n 2^-24 of their magnitudes, and a panel has 256 columns. Noise
   gives far less than that: a random walk. */
TEST matmul(uint32_t format) {
    double worst = 0;
    CHECK_CALL(matmul_shapes(format, &worst));
    say(sv_format_name(format), worst * 0x1p24, "2^-24 of sum |x w|");
    ASSERT_LTE(worst, 16 * 0x1p-24);
    PASS();
}

/* A row of a product must not depend on the other rows, not even if they hold NaNs. */
TEST matmul_rows_are_apart(void) {
    enum { N = 6, ROWS = 5, COLS = 19 };
    float *x = noises(24, N * COLS, 1), *w = noises(25, ROWS * COLS, 1), out[N * ROWS], spoilt[N * ROWS];
    SvTensor tensor = encode(w, SV_F32, ROWS, COLS);
    multiply(out, x, &tensor, NULL, N, 1);
    for (int i = 0; i < COLS; i++) x[2 * COLS + i] = NAN;
    multiply(spoilt, x, &tensor, NULL, N, 1);
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

/* -------------------------------------------------------------------------------------------- Q8 and Q4: the format */

static const uint32_t FORMATS[] = { SV_Q8, SV_Q4 };
enum { GROUP = 64 };

/* A matrix twice: as a tensor of a checkpoint, and plain: numbers [rows, cols], scales [rows, groups]. */
typedef struct Matrix { SvTensor w; int8_t *numbers; float *scales; size_t groups; } Matrix;

static float bf16(uint16_t bits) {
    union { uint32_t u; float f; } value = { (uint32_t)bits << 16 };
    return value.f;
}

static size_t up_to(size_t n, size_t multiple) { return (n + multiple - 1) / multiple * multiple; }

/* Scales: mostly about a sixteenth, of either sign, and sometimes zero, tiny or large. */
static uint16_t some_scale(uint64_t seed, size_t i) {
    static const uint16_t special[] = { 0, 0x8000, 0x0001, 0x0080, 0x5000, 0xd000 };
    int one = (int)((noise(seed, 2 * i) + 1) * 32);
    if (one < (int)LENGTH(special)) return special[one];
    return (uint16_t)((one % 2 ? 0x3d00 : 0xbd00) + (int)((noise(seed, 2 * i + 1) + 1) * 127));
}

/* All possible numbers, including Q8's -128, which export.py never writes. The padding of groups and of sixteen rows is
   not zero, because a file may hold anything there. */
static Matrix make_matrix(uint32_t format, size_t rows, size_t cols, uint64_t seed) {
    static const int8_t values[16] = SV_Q4_VALUES;
    size_t groups = (cols + GROUP - 1) / GROUP, group = format == SV_Q8 ? GROUP : GROUP / 2;
    size_t first_scale = up_to(rows, 16) * groups * group, size = first_scale + up_to(rows, 16) * groups * 2;
    uint8_t *data = bytes(size);
    memset(data, 0xa5, size);
    Matrix m = { { data, format, GROUP, (uint32_t)rows, (uint32_t)cols }, bytes(rows * cols), floats(rows * groups),
                 groups };
    for (size_t r = 0; r < rows; r++)
        for (size_t c = 0; c < cols; c++) {
            int any = (int)((noise(seed, r * cols + c) + 1) * 128);
            int8_t *number = m.numbers + r * cols + c;
            size_t k = c % 64 % group;                      /* the block's byte that holds it, wholly or in one half */
            uint8_t *at = data + (r / 16 * groups + c / 64) * 16 * group + (k / 4 * 16 + r % 16) * 4 + k % 4;
            if (format == SV_Q8) {
                *at = (uint8_t)any;
                *number = (int8_t)(any - (any > 127 ? 256 : 0));
            } else {
                *at = c % 64 < 32 ? (uint8_t)((*at & 0xf0) | any / 16) : (uint8_t)((*at & 15) | any / 16 << 4);
                *number = values[any / 16];
            }
        }
    uint16_t *scales = (uint16_t *)(data + first_scale);
    for (size_t r = 0; r < up_to(rows, 16); r++)
        for (size_t g = 0; g < groups; g++) {
            uint16_t bits = r < rows ? some_scale(seed + 1, r * groups + g) : 0x7fc0;
            scales[(r / 16 * groups + g) * 16 + r % 16] = bits;
            if (r < rows) m.scales[r * groups + g] = bf16(bits);
        }
    return m;
}

static void free_matrix(Matrix *m) {
    free((void *)m->w.data);
    free(m->numbers);
    free(m->scales);
}

TEST quantized_rows(uint32_t format) {
    const size_t heights[] = { 1, 15, 16, 17, 33 }, widths[] = { 1, 31, 32, 33, 64, 65, 100, 577 };
    for (size_t h = 0; h < LENGTH(heights); h++)
        for (size_t k = 0; k < LENGTH(widths); k++) {
            size_t rows = heights[h], cols = widths[k];
            Matrix m = make_matrix(format, rows, cols, 40);
            float *row = floats(cols);
            for (size_t r = 0; r < rows; r++) {
                sv_row(&m.w, r, row);
                for (size_t c = 0; c < cols; c++)
                    ASSERT_EQ((float)m.numbers[r * cols + c] * m.scales[r * m.groups + c / GROUP], row[c]);
            }
            free(row);
            free_matrix(&m);
        }
    PASS();
}

TEST tensor_sizes(void) {
    static const struct { uint32_t format, group, rows, cols; uint64_t size; } sizes[] = {
        { SV_F32, 0, 3, 5, 60 }, { SV_BF16, 0, 3, 5, 30 }, { SV_F32, 0, 1, 1, 4 },
        { SV_Q8, 64, 1, 1, 1024 + 32 }, { SV_Q8, 64, 16, 64, 1024 + 32 }, { SV_Q8, 64, 17, 65, 4 * (1024 + 32) },
        { SV_Q8, 64, 960, 960, 921600 + 60 * 15 * 32 }, { SV_Q8, 64, 2, 32, 1024 + 32 },
        { SV_Q4, 64, 1, 1, 512 + 32 }, { SV_Q4, 64, 16, 64, 512 + 32 }, { SV_Q4, 64, 17, 65, 4 * (512 + 32) },
        { SV_Q4, 64, 576, 576, 165888 + 36 * 9 * 32 }, { SV_Q4, 64, 1, 4304, 68 * (512 + 32) },
        { SV_Q8, 64, 0xffffffff, 64, 268435456ull * (1024 + 32) },
        { SV_F32, 64, 3, 5, 0 }, { SV_BF16, 64, 3, 5, 0 }, { SV_Q8, 0, 3, 5, 0 }, { SV_Q8, 16, 3, 5, 0 },
        { SV_Q8, 32, 3, 5, 0 }, { SV_Q8, 48, 3, 5, 0 }, { SV_Q8, 128, 3, 5, 0 }, { SV_Q4, 0, 3, 5, 0 },
        { SV_Q4, 16, 3, 5, 0 }, { SV_Q4, 32, 3, 5, 0 }, { SV_Q4, 63, 3, 5, 0 }, { 4, 0, 3, 5, 0 }, { 4, 64, 3, 5, 0 },
        { 0xffffffff, 64, 3, 5, 0 },
    };
    ASSERT_EQ(GROUP, SV_GROUP);
    for (size_t i = 0; i < LENGTH(sizes); i++)
        ASSERT_EQ_FMT((unsigned long long)sizes[i].size,
                      (unsigned long long)sv_tensor_size(sizes[i].format, sizes[i].group, sizes[i].rows, sizes[i].cols),
                      "%llu");
    PASS();
}

/* ------------------------------------------------------------------------------------------ Q8 and Q4: the products */

/* Rows of x, eight kinds in turn: noise; many zeros of both signs; close to overflow; denormal and tiny; nothing but
   -0; a NaN; an infinity; numbers halfway between two integers. */
enum { KINDS = 8 };
static float *inputs(size_t n, size_t cols) {
    float *x = noises(41, n * cols, 1);
    for (size_t i = 0; i < n; i++)
        for (size_t c = 0; c < cols; c++) {
            float *to = x + i * cols + c;
            switch (i % KINDS) {
            case 1: *to = c < 32 || c % 3 == 0 ? 0 : c % 5 == 0 ? -0.0f : *to; break;
            case 2: *to *= 3e38f; break;
            case 3: *to *= c / 64 % 2 ? 4e-30f : 1e-38f; break;
            case 4: *to = -0.0f; break;
            case 5: if (c == (i * 13 + cols / 2) % cols) *to = NAN; break;
            case 6: if (c == (i * 7 + cols / 3) % cols) *to = c % 2 ? INFINITY : -INFINITY; break;
            case 7: *to = c % 16 == 0 ? 127 : floorf(*to * 127) + 0.5f; break;
            default: break;
            }
        }
    return x;
}

/* Each n on rows of x that begin with another kind, with and without a bias, on threads if there is enough work. */
TEST quantized_product(uint32_t format, size_t rows, size_t cols) {
    const size_t counts[] = { 1, 1, 1, 1, 1, 1, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 257, 300 };
    size_t kinds = LENGTH(counts), most = KINDS + 300;
    if (rows * cols > 3500) kinds -= 2, most = KINDS + 9;
    Matrix m = make_matrix(format, rows, cols, 42);
    float *x = inputs(most, cols), *bias = noises(43, rows, 1), *out = floats(most * rows);
    float *want[2] = { floats(most * rows), floats(most * rows) };
    multiply_by(reference, want[0], x, &m.w, NULL, most, 1);
    for (size_t i = 0; i < most * rows; i++) {
        want[1][i] = want[0][i] + bias[i % rows];
        if (i / rows % KINDS == 5 || i / rows % KINDS == 6) ASSERT(isnan(want[0][i]));
    }
    for (size_t k = 0; k < kinds; k++) {
        size_t n = counts[k], first = k % KINDS;
        for (int with_bias = 0; with_bias < 2; with_bias++)
            for (int threads = 1; threads <= (n * rows * cols > 100000 ? THREADS(3) : 1); threads++) {
                memset(out, 0x55, n * rows * sizeof *out);
                multiply(out, x + first * cols, &m.w, with_bias ? bias : NULL, n, threads);
                bool right = same_numbers(want[with_bias] + first * rows, out, n * rows);
                if (!right)
                    printf("\n%s, %zu x %zu, %zu rows of x from %zu on, %d threads\n", sv_format_name(format), rows,
                           cols, n, first, threads);
                ASSERT(right);
            }
    }
    free(x);
    free(bias);
    free(want[0]);
    free(want[1]);
    free(out);
    free_matrix(&m);
    PASS();
}

TEST quantized_products(uint32_t format) {
    const size_t heights[] = { 1, 7, 15, 16, 17, 31, 33, 48, 49, 100 };
    const size_t widths[] = { 1, 5, 31, 32, 33, 63, 64, 65, 100, 160, 576, 1000, 4304 };
    for (size_t h = 0; h < LENGTH(heights); h++)
        for (size_t k = 0; k < LENGTH(widths); k++)
            if (heights[h] < 100 || widths[k] < 4304) CHECK_CALL(quantized_product(format, heights[h], widths[k]));
    PASS();
}

/* Scales that are not numbers: the rows they belong to are not numbers either; all others are. And scales that are
   close to the largest number, or a little below what amx.h calls large. */
TEST scales_that_are_no_numbers(uint32_t format, int kind) {
    enum { ROWS = 43, COLS = 200, N = 9 };
    const uint16_t bad[3][3] = { { 0x7f80, 0xff80, 0x7fc0 }, { 0x7280, 0xf300, 0x7f7f }, { 0x717f, 0xf17f, 0x7100 } };
    Matrix m = make_matrix(format, ROWS, COLS, 44);
    uint16_t *scales = (uint16_t *)((uint8_t *)m.w.data + sv_tensor_size(format, GROUP, ROWS, COLS)) -
                       up_to(ROWS, 16) * m.groups;
    for (size_t r = 0; r < ROWS; r += 5) {
        size_t g = r % m.groups;
        scales[(r / 16 * m.groups + g) * 16 + r % 16] = bad[kind][r % 3];
        m.scales[r * m.groups + g] = bf16(bad[kind][r % 3]);
    }
    float *x = noises(45, N * COLS, 1), want[N * ROWS], out[N * ROWS];
    multiply_by(reference, want, x, &m.w, NULL, N, 1);
    for (size_t n = 1; n <= N; n += 4) {
        multiply(out, x, &m.w, NULL, n, 1);
        ASSERT(same_numbers(want, out, n * ROWS));
        for (size_t i = 0; i < n * ROWS && kind == 0; i++) ASSERT(isfinite(out[i]) == (i % ROWS % 5 != 0));
    }
    free(x);
    free_matrix(&m);
    PASS();
}

/* Several matrices at once, like q_proj, k_proj and v_proj, in formats that may differ: each gives what it gives
   alone. */
TEST products_together(const uint32_t *formats) {
    enum { COUNT = 4, COLS = 300, N = 20 };
    const size_t heights[COUNT] = { 65, 8, 33, 200 };
    float *x = noises(46, N * COLS, 1), *bias = noises(47, 200, 1);
    Matrix m[COUNT];
    SvProduct products[COUNT];
    for (int i = 0; i < COUNT; i++) {
        m[i] = make_matrix(formats[i] == SV_Q4 ? SV_Q4 : SV_Q8, heights[i], COLS, 48 + (uint64_t)i);
        if (formats[i] < SV_Q8) {
            float *w = noises(49, heights[i] * COLS, 1);
            free((void *)m[i].w.data);
            m[i].w = encode(w, formats[i], heights[i], COLS);
            free(w);
        }
        products[i] = (SvProduct){ floats(N * heights[i]), &m[i].w, i % 2 ? bias : NULL };
    }
    const size_t counts[] = { 1, 3, 4, N };
    for (size_t k = 0; k < LENGTH(counts); k++)
        for (int threads = 1; threads <= THREADS(3); threads++) {
            size_t n = counts[k];
            float *room = scratch(cpu->matmul_scratch(n, COLS));
            for (int i = 0; i < COUNT; i++) memset(products[i].out, 0x55, N * heights[i] * sizeof(float));
#pragma omp parallel num_threads(threads)
            cpu->matmul(products, COUNT, x, n, ahead, room);
            free(room);
            for (int i = 0; i < COUNT; i++) {
                float *alone = floats(n * heights[i]);
                multiply(alone, x, &m[i].w, products[i].bias, n, 1);
                ASSERT(same(alone, products[i].out, n * heights[i]));
                free(alone);
            }
        }
    for (int i = 0; i < COUNT; i++) {
        free_matrix(&m[i]);
        free(products[i].out);
    }
    free(x);
    free(bias);
    PASS();
}

/* An MLP: what sv_mlp makes of the set's functions is what it makes of the reference's, whether the set does it in one
   go or not. */
TEST mlp(uint32_t format, bool gated, bool turned) {
    enum { COLS = 100, ROWS = 50, MOST = 530 };
    const size_t wide[] = { 64, 320, 72 }, counts[] = { 1, 31, 32, 33, 200, MOST };
    float *x = inputs(MOST, COLS), *bias = noises(50, 320, 1);
    for (size_t k = 0; k < LENGTH(wide); k++) {
        Matrix gate = make_matrix(format, wide[k], COLS, 51), up = make_matrix(format, wide[k], COLS, 53);
        Matrix down = make_matrix(format, ROWS, wide[k], 55);
        for (size_t i = 0; i < LENGTH(counts); i++) {
            size_t n = counts[i];
            float *want = floats(n * ROWS), *out = floats(n * ROWS), *middle[2];
            for (int j = 0; j < 2; j++) middle[j] = floats(n * wide[k]);
            for (int threads = 0; threads <= THREADS(3); threads++) {
                SvModel model = { .kernels = threads ? cpu : reference };
                SvMlp both = { { { middle[0], &gate.w, gated ? NULL : bias }, { middle[1], &up.w, NULL } },
                               gated ? 2 : 1, { threads ? out : want, &down.w, bias }, turned };
                uint64_t first = model.kernels->matmul_scratch(n, COLS);
                uint64_t second = model.kernels->matmul_scratch(n, wide[k]);
                float *room = scratch(first > second ? first : second);
                memset(both.second.out, 0x55, n * ROWS * sizeof *out);
#pragma omp parallel num_threads(threads ? threads : 1)
                sv_mlp(&model, &both, x, n, ahead, room);
                free(room);
                if (threads) ASSERT(same_numbers(want, out, n * ROWS));
            }
            free(want);
            free(out);
            for (int j = 0; j < 2; j++) free(middle[j]);
        }
        free_matrix(&gate);
        free_matrix(&up);
        free_matrix(&down);
    }
    free(x);
    free(bias);
    PASS();
}

/* Prefetching weights or not: the same bits, in every format. */
TEST prefetching_changes_no_bit(uint32_t format) {
    const size_t shapes[][3] = { { 1, 33, 100 }, { 3, 16, 64 }, { 2, 100, 577 }, { 1, 31, 4304 }, { 5, 40, 200 } };
    for (size_t s = 0; s < LENGTH(shapes); s++) {
        size_t n = shapes[s][0], rows = shapes[s][1], cols = shapes[s][2];
        float *x = noises(53, n * cols, 1), *w = noises(54, rows * cols, 1);
        float *with = floats(n * rows), *without = floats(n * rows);
        Matrix m = { .w = { 0 } };
        if (format >= SV_Q8) m = make_matrix(format, rows, cols, 55);
        else m.w = encode(w, format, rows, cols);
        multiply(with, x, &m.w, NULL, n, 1);
        memset(without, 0x55, n * rows * sizeof *without);
        ahead = false;
        multiply(without, x, &m.w, NULL, n, 1);
        ahead = true;
        ASSERT(same_numbers(with, without, n * rows));
        free(x);
        free(w);
        free(with);
        free(without);
        free_matrix(&m);
    }
    PASS();
}

static const uint32_t TOGETHER[][4] = {
    { SV_Q8, SV_Q8, SV_Q8, SV_Q8 }, { SV_Q4, SV_Q4, SV_Q4, SV_Q4 }, { SV_Q8, SV_Q4, SV_Q8, SV_Q4 },
    { SV_F32, SV_F32, SV_F32, SV_F32 }, { SV_BF16, SV_BF16, SV_F32, SV_BF16 }, { SV_F32, SV_Q8, SV_BF16, SV_Q4 },
    { SV_Q4, SV_F32, SV_F32, SV_Q8 },
};

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

/* q, k, v from the random streams that golden_model.py uses, and out; freed together. */
typedef struct Case { float *q, *k, *v, *out; SvCache cache; size_t size; } Case;

static SvCache new_cache_of(const SvKernels *set, bool q8, size_t positions, size_t heads, size_t dim) {
    SvCache cache = { q8, up_to(positions, 64), heads, dim, NULL };
    cache.data = scratch(set->cache_floats(q8, positions, heads, dim));
    return cache;
}

static SvCache new_cache(bool q8, size_t positions, size_t heads, size_t dim) {
    return new_cache_of(cpu, q8, positions, heads, dim);
}

static Case make_case(const Attention *a, bool q8) {
    size_t size = a->n_q * a->heads * a->dim, kv = a->n_k * a->kv_heads * a->dim;
    return (Case){ noises(11, size, 3), noises(12, kv, 3), noises(13, kv, 1), floats(size),
                   new_cache(q8, a->n_k, a->kv_heads, a->dim), size };
}

static void free_case(Case *c) {
    free(c->q);
    free(c->k);
    free(c->v);
    free(c->out);
    free(c->cache.data);
}

static void attend_by(const SvKernels *set, float *out, const float *q, const SvCache *cache, size_t n_q, size_t n_k,
                      size_t heads, bool causal, int threads) {
    float *room = scratch(set->attention_scratch(n_k, heads, threads));
#pragma omp parallel num_threads(threads)
    set->attention(out, q, cache, n_q, n_k, heads, causal, room);
    free(room);
}

static void attend(float *out, const float *q, const SvCache *cache, size_t n_q, size_t n_k, size_t heads, bool causal,
                   int threads) {
    attend_by(cpu, out, q, cache, n_q, n_k, heads, causal, threads);
}

static void attend_all(const Attention *a, Case *c, float *out, int threads) {
#pragma omp parallel num_threads(threads)
    cpu->cache(&c->cache, c->k, c->v, 0, a->n_k);
    attend(out, c->q, &c->cache, a->n_q, a->n_k, a->heads, a->causal, threads);
}

/* One query and head by the formula: softmax(q k^T / sqrt(dim)) v, to out [dim]. */
static void exact_attention(const Attention *a, const Case *c, size_t query, size_t head, double *weights, float *out) {
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

/* The softmax of x [n] alone: attention of a query 1 over keys x[j], with values that are 1 at one position each. */
static void softmax(float *x, size_t n) {
    enum { DIM = 256 };                                     /* whose square root is exact */
    float q[DIM] = { 16 }, weights[DIM], *k = floats(n * DIM), *v = floats(n * DIM), *out = floats(n);
    for (size_t first = 0; first < n; first += DIM) {
        SvCache cache = new_cache(false, n, 1, DIM);
        memset(v, 0, n * DIM * sizeof *v);
        for (size_t j = 0; j < n; j++) k[j * DIM] = x[j];
        for (size_t j = first; j < n && j < first + DIM; j++) v[j * DIM + j - first] = 1;
        cpu->cache(&cache, k, v, 0, n);
        attend(weights, q, &cache, 1, n, 1, false, 1);
        for (size_t j = first; j < n && j < first + DIM; j++) out[j] = weights[j - first];
        free(cache.data);
    }
    memcpy(x, out, n * sizeof *x);
    free(k);
    free(v);
    free(out);
}

/* Up to 18 below the largest, a difference of floats has an error of at most 2^-20, and so has its exp: 16 ulp. */
TEST softmax_as_torch(void) {
    const int sizes[] = { 1, 2, 15, 16, 17, 333 };
    double worst = 0;
    for (size_t i = 0; i < LENGTH(sizes); i++) {
        Golden want = golden(FUNCTIONS, "softmax %d", sizes[i]);
        float *x = noises(4, want.count, 9);
        softmax(x, want.count);
        worst = fmax(worst, worst_ulps(x, want.data.f, want.count));
        free(x);
        free(want.data.any);
    }
    say("softmax", worst, "ulp");
    ASSERT_LTE(worst, 20);
    PASS();
}

/* Scores of any size and distance: nothing overflows, and the weights depend only on the differences. If one score is
   not a number, no weight is. */
TEST softmax_of_large_numbers(void) {
    float equal[] = { 3e38f, 3e38f, 3e38f, 3e38f }, apart[] = { -3e38f, 3e38f, 0 }, shifted[] = { 1001, 1000 };
    softmax(equal, 4);
    for (int i = 0; i < 4; i++) ASSERT_EQ(0.25f, equal[i]);
    softmax(apart, 3);
    ASSERT_EQ(1.0f, apart[1]);
    ASSERT(apart[0] < 1e-37f && apart[2] < 1e-37f);
    softmax(shifted, 2);
    ASSERT_IN_RANGE(1 / (1 + exp(-1)), shifted[0], 1e-7);
    for (size_t i = 0; i < 37; i++) {
        float *x = noises(33, 37, 1);
        x[i] = NAN;
        softmax(x, 37);
        for (int j = 0; j < 37; j++) ASSERT(isnan(x[j]));
        free(x);
    }
    PASS();
}

TEST attention_as_torch(void) {
    double worst = 0;
    for (size_t i = 0; i < LENGTH(GOLDEN_ATTENTIONS); i++) {
        const Attention *a = &GOLDEN_ATTENTIONS[i];
        Case c = make_case(a, false);
        Golden want = golden(FUNCTIONS, "attention %zu %zu %zu %zu %zu %d", a->n_q, a->n_k, a->heads, a->kv_heads,
                             a->dim, a->causal);
        attend_all(a, &c, c.out, 1);
        worst = fmax(worst, distance(c.out, want.data.f, c.size));
        free(want.data.any);
        free_case(&c);
    }
    say("attention", worst, "of the largest");
    ASSERT_LTE(worst, 1e-6);
    PASS();
}

/* In floats, scores reach 30, where floats are 2e-6 apart, and exp turns these absolute errors into relative ones. In
   integers, a query, a key and a value are each off by at most half a 127th of their largest number. So weights at a
   score of 30 are off by several percent: the measured distance is the result of that. */
TEST attention_as_exact(bool q8, double bound) {
    double worst = 0;
    for (size_t i = 0; i < LENGTH(ATTENTIONS); i++) {
        const Attention *a = &ATTENTIONS[i];
        Case c = make_case(a, q8);
        float *want = floats(c.size), *out = floats(c.size);
        double *weights = bytes(a->n_k * sizeof *weights);
        for (size_t query = 0; query < a->n_q; query++)
            for (size_t head = 0; head < a->heads; head++)
                exact_attention(a, &c, query, head, weights, want + (query * a->heads + head) * a->dim);
        attend_all(a, &c, c.out, 1);
        double off = 0, size = 0;
        for (size_t j = 0; q8 && j < c.size; j++) {
            off += ((double)c.out[j] - want[j]) * ((double)c.out[j] - want[j]);
            size += (double)want[j] * want[j];
        }
        worst = fmax(worst, q8 ? sqrt(off / size) : distance(c.out, want, c.size));
        for (int threads = 2; threads <= THREADS(3); threads++) {
            memset(out, 0xff, c.size * sizeof *out);
            attend_all(a, &c, out, threads);
            ASSERTm("threads change the bits", same(out, c.out, c.size));
        }
        for (size_t query = 0, row = a->heads * a->dim; query < a->n_q; query++) {      /* a query alone */
            size_t seen = a->causal ? a->n_k - a->n_q + query + 1 : a->n_k;
            attend(out, c.q + query * row, &c.cache, 1, seen, a->heads, a->causal, 1);
            if (q8) ASSERTm("a query depends on its company", same(out, c.out + query * row, row));
            else worst = fmax(worst, distance(out, want + query * row, row));
        }
        free(weights);
        free(want);
        free(out);
        free_case(&c);
    }
    say("attention", worst, q8 ? "of the root mean square" : "of the largest");
    ASSERT_LTE(worst, bound);
    PASS();
}

typedef struct Heads { size_t dim, heads, kv_heads, positions; float size; int broken; } Heads;

/* Positions one after the other, in chunks of every kind and whole, on threads: each query's output equals quant.c's.
   broken: this position's key, value or query holds a NaN. */
TEST integer_attention(const Heads *h) {
    size_t dim = h->dim, row = h->heads * dim, kv = h->kv_heads * dim, n = h->positions;
    float *q = noises(50, n * row, h->size), *k = noises(51, n * kv, h->size), *v = noises(52, n * kv, 1);
    float *want = floats(n * row), *out = floats(n * row), *all = floats(row * n);
    if (h->broken) (h->broken % 3 == 0 ? q : h->broken % 3 == 1 ? k : v)[(size_t)h->broken * kv + kv / 2] = NAN;
    for (size_t c = 0; c < 2 * kv; c++) (c < kv ? k : v)[n / 2 * kv + c % kv] = 0;      /* next to nothing */
    SvCache right = new_cache_of(reference, true, n, h->kv_heads, dim);
    reference->cache(&right, k, v, 0, n);
    attend_by(reference, want, q, &right, n, n, h->heads, true, 1);
    size_t chunks[] = { 1, 2, 3, 4, 5, 7, 16, 63, 64, 65, n };
    for (size_t c = 0; c < LENGTH(chunks); c++)
        for (int threads = 1; threads <= (chunks[c] >= 63 || (n > 500 && chunks[c] % 2) ? THREADS(3) : 1);
             threads++) {
            SvCache cache = new_cache(true, n, h->kv_heads, dim);
            for (size_t at = 0, count; at < n; at += count) {
                count = n - at < chunks[c] ? n - at : chunks[c];
#pragma omp parallel num_threads(threads)
                cpu->cache(&cache, k + at * kv, v + at * kv, at, count);
                attend(out + at * row, q + at * row, &cache, count, at + count, h->heads, true, threads);
            }
            for (size_t i = 0; i < n; i++) {
                if (!same_numbers(want + i * row, out + i * row, row))
                    printf("\ndim %zu, %zu heads, %zu shared: position %zu in chunks of %zu\n", dim, h->heads,
                           h->kv_heads, i, chunks[c]);
                ASSERT(same_numbers(want + i * row, out + i * row, row));
            }
            free(cache.data);
        }

    /* every query sees all keys; the cache has been used before, for more positions */
    const size_t keys[] = { 1, 5, 63, 64, 65, 129, n };
    SvCache cache = new_cache(true, n, h->kv_heads, dim);
    for (size_t i = LENGTH(keys); i-- > 0 && !h->broken;) {
        size_t n_k = keys[i] < n ? keys[i] : n;
#pragma omp parallel num_threads(2)
        cpu->cache(&cache, k, v, 0, n_k);
        attend_by(reference, all, q, &right, n_k, n_k, h->heads, false, 1);
        for (size_t n_q = 1; n_q <= n_k; n_q = n_q < 6 ? n_q + 1 : n_q < n_k ? n_k : n_k + 1) {
            attend(out, q, &cache, n_q, n_k, h->heads, false, 1 + (int)n_q % 3);
            ASSERT(same_numbers(all, out, n_q * row));
        }
    }
    free(cache.data);
    free(right.data);
    free(q);
    free(k);
    free(v);
    free(want);
    free(out);
    free(all);
    PASS();
}

static const Heads HEADS[] = {
    { 8, 4, 2, 200, 2, 0 }, { 16, 3, 3, 199, 2, 0 }, { 24, 4, 1, 131, 3, 0 }, { 64, 2, 1, 200, 2, 0 },
    { 72, 2, 2, 197, 1, 0 }, { 80, 3, 1, 71, 2, 0 }, { 6, 6, 2, 65, 2, 0 }, { 10, 4, 2, 67, 2, 0 },
    { 2, 1, 1, 9, 2, 0 }, { 11, 3, 3, 66, 2, 0 }, { 512, 1, 1, 66, 1, 0 }, { 16, 2, 1, 530, 30, 0 },
};
static const Heads BROKEN_HEADS[] = {
    { 16, 2, 2, 70, 2, 3 }, { 16, 2, 2, 70, 2, 4 }, { 16, 2, 2, 70, 2, 5 }, { 64, 1, 1, 130, 2, 66 },
    { 64, 1, 1, 130, 2, 67 }, { 64, 1, 1, 130, 2, 68 },
};

TEST threads_wanted(void) {
    ASSERT(sv_threads(0) >= 1);
    ASSERT(sv_threads(3) == 3 || sv_threads(3) == 1);       /* 1: built without OpenMP */
    PASS();
}

SUITE(numbers) {
    RUN_TEST(exp_as_torch);
    RUN_TEST(exp_as_libm);
    RUN_TEST(exp_at_its_ends);
    RUN_TEST1(rope_as_transformers, "100000");
    RUN_TEST1(rope_as_transformers, "273768");
    RUN_TEST(sin_cos_as_libm);
    RUN_TEST(functions_have_the_same_bits_everywhere);
    RUN_TEST(threads_wanted);
}

SUITE(formats) {
    RUN_TEST(bf16_rows);
    for (size_t i = 0; i < LENGTH(FORMATS); i++) RUN_TEST1(quantized_rows, FORMATS[i]);
    RUN_TEST(tensor_sizes);
}

SUITE(rows) {
    RUN_TEST(gelu_as_torch);
    RUN_TEST(silu_as_torch);
    RUN_TEST(activations_at_their_ends);
    RUN_TEST(norms_as_torch);
    const size_t sizes[] = { 1, 2, 15, 16, 17, 33, 100 };
    for (size_t i = 0; i < LENGTH(sizes); i++) {
        RUN_TESTp(norms_bit_for_bit, 3, sizes[i]);
        RUN_TESTp(activations_bit_for_bit, 1, sizes[i]);
    }
    RUN_TESTp(norms_bit_for_bit, 130, 1153);
    RUN_TESTp(activations_bit_for_bit, 7, 1153);
    RUN_TEST(rows_that_are_no_numbers);
    const size_t turned[][2] = { { 64, 64 }, { 576, 64 }, { 128, 64 }, { 8192, 64 }, { 32, 32 }, { 96, 32 }, { 80, 16 },
                                 { 24, 8 }, { 40, 8 }, { 36, 4 }, { 10, 2 }, { 2, 2 }, { 1, 1 }, { 131, 1 } };
    for (size_t i = 0; i < LENGTH(turned); i++) RUN_TESTp(hadamard, turned[i][0], turned[i][1]);
    RUN_TEST(hadamard_of_no_numbers);
}

SUITE(products) {
    RUN_TEST(linear_as_torch);
    RUN_TEST1(matmul, SV_F32);
    RUN_TEST1(matmul, SV_BF16);
    RUN_TEST(matmul_rows_are_apart);
    for (size_t i = 0; i < LENGTH(FORMATS); i++) {
        RUN_TEST1(quantized_products, FORMATS[i]);
        for (int kind = 0; kind < 3; kind++) RUN_TESTp(scales_that_are_no_numbers, FORMATS[i], kind);
        for (int kind = 0; kind < 4; kind++) RUN_TESTp(mlp, FORMATS[i], kind % 2 == 1, kind / 2 == 1);
    }
    for (size_t i = 0; i < LENGTH(TOGETHER); i++) RUN_TEST1(products_together, TOGETHER[i]);
    for (uint32_t format = SV_F32; format <= SV_Q4; format++) RUN_TEST1(prefetching_changes_no_bit, format);
}

SUITE(attention) {
    RUN_TEST(softmax_as_torch);
    RUN_TEST(softmax_of_large_numbers);
    RUN_TEST(attention_as_torch);
    RUN_TESTp(attention_as_exact, false, 3e-6);
    RUN_TESTp(attention_as_exact, true, 0.02);
    for (size_t i = 0; i < LENGTH(HEADS); i++) RUN_TEST1(integer_attention, &HEADS[i]);
    for (size_t i = 0; i < LENGTH(BROKEN_HEADS); i++) RUN_TEST1(integer_attention, &BROKEN_HEADS[i]);
}

GREATEST_MAIN_DEFS();

int main(int argc, char **argv) {
    GREATEST_MAIN_BEGIN();
    for (int i = 0; sv_kernels(i); i++) reference = sv_kernels(i);
    RUN_SUITE(numbers);
    RUN_SUITE(formats);
    for (int i = 0; (cpu = sv_kernels(i)) != NULL; i++) {
        printf("\n\n* Kernels %s:\n", cpu->name);
        RUN_SUITE(rows);
        RUN_SUITE(products);
        RUN_SUITE(attention);
    }
    GREATEST_MAIN_END();
}
