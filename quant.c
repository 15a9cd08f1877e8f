/* quant.c: the arithmetic under the model, and the formats its weights are stored in.

                       w: f32, bf16, Q8, Q4, [rows, cols]
                                |  a panel of rows at a time, in the order the kernel reads it, once for all of x
     x [n, cols] ---------> matmul ------------> out [n, rows]            nn.Linear
              Q8, Q4: x becomes int8, a scale for each group of each row

     k, v [count, kv, dim] -> cache                                       DynamicCache
     q [n_q, heads, dim] ---> attention -------> out [n_q, heads, dim]    eager_attention_forward

   One rule governs the file: what a Q8 or Q4 model computes is the same to the bit on every machine. Floating-point
   addition is not associative, so every sum of floats has one order that nobody may change, and only sums of integers,
   which are exact, are left to each machine's taste:

     a product of x with a row of w     for each group, in order:  sum += (float)(integer dot product) * w's scale
                                                                          * x's scale
     a sum over a row (norms, softmax)  16 running sums, element i going to sum i % 16, then a fixed tree over them

   Both vectorise at any width: the first over the rows of w, the second over the 16. Threads, rows at a time and the
   chunking of a prompt move whole sums, never their insides. exp, sin and cos are made of basic operations for the same
   reason: a libm's are its own. And no multiply-add is fused (-ffp-contract=off). f32 and bf16 products are free of
   this: they use the machine's fused multiply-add, and are held against Hugging Face by tolerance.

   All threads of a team walk through the model together, and each of these functions gives each its share; smolvlm.h
   says, at SvKernels, who waits for whom.

   The file is compiled once for every instruction set worth having (see the Makefile): each compilation gives one
   SvKernels, a table of the functions that take the time, and sv_kernels() picks by what the processor says at run
   time, so that one binary is fast on every machine, and the sets can be compared within one process. Compiled alone,
   with whatever flags, the file is complete too. What is written for an instruction set is only the integer products,
   a few short functions each, beside the plain ones that define them; all else is C over vectors `vf` of VL floats,
   where VL is what the instruction set offers, and 1 if the compiler has no such vectors, or with -DSV_NO_SIMD. */
#include "smolvlm.h"

#include <float.h>
#include <math.h>
#include <string.h>
#if FLT_EVAL_METHOD > 0
#error "floats must be rounded to float: -fexcess-precision=fast or, on x86, -msse2 -mfpmath=sse (see the Makefile)"
#endif
#ifdef __FAST_MATH__
#error "-ffast-math and -Ofast let the compiler reorder sums, and no result could be relied on"
#endif
#ifdef _OPENMP
#include <omp.h>
#elif defined(__GNUC__)
#pragma GCC diagnostic ignored "-Wunknown-pragmas"
#endif

#ifdef SV_NO_SIMD
#define SV_SET plain
#elif defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define SV_SET avx512
#define WITH_VNNI
#include <immintrin.h>
#elif defined(__AVX2__)
#define SV_SET avx2
#include <immintrin.h>
#elif defined(__ARM_FEATURE_DOTPROD) && defined(__aarch64__) && !defined(__AARCH64EB__)
#define SV_SET dotprod
#include <arm_neon.h>
#elif defined(__ARM_NEON) && defined(__aarch64__) && !defined(__AARCH64EB__)
#define SV_SET neon
#include <arm_neon.h>
#else
#define SV_SET plain
#endif

/* The innermost loops stand in functions of their own: inlined into others, gcc 12 runs out of registers. */
#if defined(__GNUC__)
#define NOINLINE __attribute__((noinline))
#else
#define NOINLINE
#endif

enum { LANES = 16 };                                        /* of a sum over a row */

static size_t at_most(size_t a, size_t b) { return a < b ? a : b; }
static size_t round_up(size_t n, size_t multiple) { return (n + multiple - 1) / multiple * multiple; }

static int thread_index(void) {
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}

static int thread_count(void) {
#ifdef _OPENMP
    return omp_get_num_threads();
#else
    return 1;
#endif
}

/* --------------------------------------------------------------------------------------------------- vectors of floats

   gcc's and clang's vector types: arithmetic on all elements at once, in whatever registers there are. */

#if defined(__GNUC__) && !defined(SV_NO_SIMD)
#if defined(WITH_VNNI)
enum { VL = 16 };
#elif defined(__AVX2__)
enum { VL = 8 };
#else
enum { VL = 4 };
#endif
typedef float vf __attribute__((vector_size(VL * 4)));
typedef int32_t vi __attribute__((vector_size(VL * 4)));
typedef uint32_t vu __attribute__((vector_size(VL * 4)));
static inline vu bits_of(vf x) { return (vu)x; }
static inline vf of_bits(vu x) { return (vf)x; }
static inline vf v_set(float x) { return x - (vf){ 0 }; }
#else
enum { VL = 1 };
typedef float vf;
typedef int32_t vi;
typedef uint32_t vu;
static inline vu bits_of(vf x) { union { float f; uint32_t u; } bits = { x }; return bits.u; }
static inline vf of_bits(vu x) { union { uint32_t u; float f; } bits = { x }; return bits.f; }
static inline vf v_set(float x) { return x; }
#endif

static inline vf v_load(const float *from) { vf x; memcpy(&x, from, sizeof x); return x; }
static inline void v_store(float *to, vf x) { memcpy(to, &x, sizeof x); }

/* a > b ? a : b, and a < b ? a : b: b where one is NaN */
#if defined(WITH_VNNI)
static inline vf v_max(vf a, vf b) { return _mm512_max_ps(a, b); }
static inline vi v_max_int(vi a, vi b) { return (vi)_mm512_max_epi32((__m512i)a, (__m512i)b); }
static inline vf v_min(vf a, vf b) { return _mm512_min_ps(a, b); }
#elif defined(__AVX2__) && !defined(SV_NO_SIMD)
static inline vf v_max(vf a, vf b) { return _mm256_max_ps(a, b); }
static inline vi v_max_int(vi a, vi b) { return (vi)_mm256_max_epi32((__m256i)a, (__m256i)b); }
static inline vf v_min(vf a, vf b) { return _mm256_min_ps(a, b); }
#elif defined(__GNUC__) && !defined(SV_NO_SIMD)
static inline vi v_choose(vi mask, vi yes, vi no) { return (mask & yes) | (~mask & no); }
static inline vf v_max(vf a, vf b) { return (vf)v_choose(a > b, (vi)a, (vi)b); }
static inline vf v_min(vf a, vf b) { return (vf)v_choose(a < b, (vi)a, (vi)b); }
static inline vi v_max_int(vi a, vi b) { return v_choose(a > b, a, b); }
#else
static inline vf v_max(vf a, vf b) { return a > b ? a : b; }
static inline vf v_min(vf a, vf b) { return a < b ? a : b; }
static inline vi v_max_int(vi a, vi b) { return a > b ? a : b; }
#endif

/* The largest element, and the sum of all. */
#if defined(WITH_VNNI)
static inline int32_t v_largest(vi x) { return _mm512_reduce_max_epi32((__m512i)x); }
static inline int32_t v_total(vi x) { return _mm512_reduce_add_epi32((__m512i)x); }
#else
static inline int32_t v_largest(vi x) {
    int32_t lane[VL];
    memcpy(lane, &x, sizeof lane);
    for (int l = 1; l < VL; l++) lane[0] = lane[l] > lane[0] ? lane[l] : lane[0];
    return lane[0];
}
static inline int32_t v_total(vi x) {
    int32_t lane[VL];
    memcpy(lane, &x, sizeof lane);
    for (int l = 1; l < VL; l++) lane[0] += lane[l];
    return lane[0];
}
#endif

/* a * b + c, rounded once where the machine can: for f32 and bf16 products alone */
#if defined(WITH_VNNI)
static inline vf v_fused(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
#elif defined(__AVX2__) && defined(__FMA__) && !defined(SV_NO_SIMD)
static inline vf v_fused(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
#elif defined(__ARM_NEON) && defined(__aarch64__) && !defined(__AARCH64EB__) && !defined(SV_NO_SIMD)
static inline vf v_fused(vf a, vf b, vf c) { return (vf)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b); }
#else
static inline vf v_fused(vf a, vf b, vf c) { return a * b + c; }
#endif

/* e^x within 2 ulp: x = n ln 2 + r with |r| <= ln 2 / 2, e^r by its Taylor series (the first term left out is
   below 2^-27), times 2^n put into the exponent. Clamped to where a float's e^x and its inverse are both normal. */
static inline vf v_exp(vf x) {
    x = v_max(v_set(-87.0f), x);                            /* in this order, so that NaN stays NaN */
    x = v_min(v_set(87.0f), x);
    const float round = 12582912.0f;                        /* 1.5 * 2^23: adding it rounds to an integer */
    vf shifted = x * v_set(1.44269504088896341f) + v_set(round);
    vf n = shifted - v_set(round);
    vf r = x - n * v_set(0.693359375f);                     /* ln 2 in two parts; the first times n is exact */
    r = r - n * v_set(-2.12194440e-4f);
    vf r2 = r * r, r4 = r2 * r2;                            /* Estrin's way: Horner's would wait for itself */
    vf low = (v_set(1.0f) + r) + (v_set(0.5f) + r * v_set(1.0f / 6)) * r2;
    vf high = (v_set(1.0f / 24) + r * v_set(1.0f / 120)) + (v_set(1.0f / 720) + r * v_set(1.0f / 5040)) * r2;
    vf p = low + high * r4;
    return p * of_bits((bits_of(shifted) << 23) + (127u << 23));        /* the low bits of `shifted` are n */
}

/* What is read once, from end to end, is asked for when it is this many bytes off, as the processor's prefetcher stops
   at the end of every page; into the first-level cache alone, as nobody asks for it again. So the others keep what is
   needed again: on a Zen 5, decoding Q8 took 2 to 3 % longer with hints for all levels, or with none. */
enum { AHEAD = 5120 };
static inline void prefetch(const void *from, size_t bytes) {
#if defined(__GNUC__) && !defined(SV_NO_SIMD)
    for (size_t i = 0; i < bytes; i += 64) __builtin_prefetch((const void *)((uintptr_t)from + AHEAD + i), 0, 0);
#else
    (void)from, (void)bytes;
#endif
}

/* Asks for what is used soon, into the second-level cache: best little by little, between other work, as a processor
   forgets what it is asked for faster than memory can bring it (a Zen 5 what exceeds a line in 4 ns). */
static inline void ask_for(const void *from, size_t bytes) {
#if defined(__GNUC__) && !defined(SV_NO_SIMD)
    for (size_t i = 0; i < bytes; i += 64) __builtin_prefetch((const char *)from + i, 0, 2);
#else
    (void)from, (void)bytes;
#endif
}

/* The functions of rows below take a row's rest, shorter than a vector, through a copy filled up with zeros. */
typedef struct Rest { float x[LANES]; } Rest;
static inline Rest rest_of(const float *x, size_t n) {
    Rest rest = { { 0 } };
    memcpy(rest.x, x, n * sizeof *x);
    return rest;
}

/* ------------------------------------------------------------------------------------------ sums in the fixed order */

static inline float tree(const float s[LANES]) {
    float t[8];
    for (int l = 0; l < 8; l++) t[l] = s[l] + s[l + 8];
    for (int l = 0; l < 4; l++) t[l] = t[l] + t[l + 4];
    return (t[0] + t[2]) + (t[1] + t[3]);
}

static NOINLINE float sum(const float *x, size_t n) {
    float s[LANES];
    vf v[LANES / VL];
    for (int j = 0; j < LANES / VL; j++) v[j] = v_set(0.0f);
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES / VL; j++) v[j] += v_load(x + i + j * VL);
    Rest rest = rest_of(x + i, n - i);
    for (int j = 0; j < LANES / VL; j++) v_store(s + j * VL, v[j] + v_load(rest.x + j * VL));
    return tree(s);
}

static NOINLINE float sum_of_squares(const float *x, size_t n, float mean) {
    float s[LANES];
    vf v[LANES / VL], m = v_set(mean);
    for (int j = 0; j < LANES / VL; j++) v[j] = v_set(0.0f);
    size_t i = 0;
    for (; i + LANES <= n; i += LANES)
        for (int j = 0; j < LANES / VL; j++) {
            vf d = v_load(x + i + j * VL) - m;
            v[j] += d * d;
        }
    for (int j = 0; j < LANES / VL; j++) v_store(s + j * VL, v[j]);
    for (int l = 0; i < n; i++, l++) s[l] += (x[i] - mean) * (x[i] - mean);
    return tree(s);
}

/* The largest number of x, each of which is first multiplied by its scale, unless that is NULL. */
static NOINLINE float max_of(float *x, const float *scale, size_t n) {
    float lane[VL], best = -INFINITY;
    vf v = v_set(best);
    size_t i = 0;
    for (; i + VL <= n; i += VL) {
        vf one = v_load(x + i);
        if (scale) one *= v_load(scale + i), v_store(x + i, one);
        v = v_max(v, one);
    }
    v_store(lane, v);
    for (int l = 0; l < VL; l++) best = lane[l] > best ? lane[l] : best;
    for (; i < n; i++) {
        if (scale) x[i] *= scale[i];
        best = x[i] > best ? x[i] : best;
    }
    return best;
}

/* ---------------------------------------------------------------------------------------- weights and their formats */

static const int8_t q4_values[16] = SV_Q4_VALUES;
enum { GROUP = SV_GROUP, BLOCK_ROWS = SV_BLOCK_ROWS };

static inline float from_bf16(uint16_t bits) {
    union { uint32_t u; float f; } value = { (uint32_t)bits << 16 };
    return value.f;
}

static inline vf load_bf16(const uint16_t *from) {
#if defined(WITH_VNNI)                                      /* gcc 12 makes six instructions of two */
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from));
    return of_bits((vu)_mm512_slli_epi32(wide, 16));
#elif defined(__AVX2__) && !defined(SV_NO_SIMD)
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)from));
    return of_bits((vu)_mm256_slli_epi32(wide, 16));
#elif defined(__GNUC__) && !defined(SV_NO_SIMD)
    typedef uint16_t Halves __attribute__((vector_size(VL * 2)));
    Halves bits;
    memcpy(&bits, from, sizeof bits);
    return of_bits(__builtin_convertvector(bits, vu) << 16);
#else
    return from_bf16(*from);
#endif
}

static size_t block_bytes(uint32_t format) { return format == SV_Q8 ? BLOCK_ROWS * GROUP : BLOCK_ROWS * GROUP / 2; }
static size_t groups_of(const SvTensor *w) { return (w->cols + GROUP - 1) / GROUP; }

/* The block of group g of the rows that row r lies beside, and their scales; the next group's follow. */
static const uint8_t *block_of(const SvTensor *w, size_t r, size_t g) {
    return (const uint8_t *)w->data + (r / BLOCK_ROWS * groups_of(w) + g) * block_bytes(w->format);
}

static const uint16_t *scales_of(const SvTensor *w, size_t r, size_t g) {
    const uint16_t *first = (const uint16_t *)block_of(w, round_up(w->rows, BLOCK_ROWS), 0);
    return first + (r / BLOCK_ROWS * groups_of(w) + g) * BLOCK_ROWS;
}

/* A block of Q4 as one of Q8. */
static NOINLINE void unpack_q4(int8_t to[BLOCK_ROWS * GROUP], const uint8_t *from) {
    const size_t half = BLOCK_ROWS * GROUP / 2;
    for (size_t j = 0; j < half; j += 16) {
#if defined(__AVX2__) && !defined(SV_NO_SIMD)
        const __m128i values = _mm_loadu_si128((const __m128i *)q4_values), low = _mm_set1_epi8(15);
        __m128i both = _mm_loadu_si128((const __m128i *)(from + j)), high = _mm_srli_epi16(both, 4);
        _mm_storeu_si128((__m128i *)(to + j), _mm_shuffle_epi8(values, _mm_and_si128(both, low)));
        _mm_storeu_si128((__m128i *)(to + half + j), _mm_shuffle_epi8(values, _mm_and_si128(high, low)));
#elif defined(__ARM_NEON) && defined(__aarch64__) && !defined(__AARCH64EB__) && !defined(SV_NO_SIMD)
        const int8x16_t values = vld1q_s8(q4_values);
        uint8x16_t both = vld1q_u8(from + j);
        vst1q_s8(to + j, vqtbl1q_s8(values, vandq_u8(both, vdupq_n_u8(15))));
        vst1q_s8(to + half + j, vqtbl1q_s8(values, vshrq_n_u8(both, 4)));
#else
        for (size_t e = j; e < j + 16; e++) {
            to[e] = q4_values[from[e] & 15];
            to[half + e] = q4_values[from[e] >> 4];
        }
#endif
    }
}

/* ------------------------------------------------------------------------- products of integers, by instruction set

   An xint holds one number of a quantized x: a byte, or int16 where an instruction set has no exact product of bytes. A
   panel is NR rows of w (or of the keys, or of the values), packed in the order in which product4 reads them, group
   after group.

     pack        a block of w -> a group of a panel's rows, from r on
     product4    four rows of x times a panel of `groups` groups of n numbers, into sum[i * stride + r], which starts
                 from what is there (more), or from zero:
                     for each group:  sum += (float)(x[i] . panel[r]) * scale[r] * d[i]
                 scale: NR for each group, or NULL for ones
                 x, its scales d and by128 (128 times the sum of the group's numbers in x[i], for who needs it) are
                 given for the first group and the first row; the other rows are x_stride and d_stride further
                 once: this panel is read this one time, so the memory behind it, which comes next, is asked for
     rows16      one row of x times the sixteen rows of a block of w as it lies in memory, block after block, into
                 sum[16], in the same way; x is of bytes here, and zero where the last group is filled up; scale: bf16,
                 sixteen for each group
     rows16_q4   the same for blocks of Q4

   A block has fours of its rows' numbers side by side because that is what instructions of today take: one adds, to
   each of 4, 8 or 16 sums, four products of bytes. So a row of w is a lane, and no sum runs across lanes. */

#if defined(__AVX2__) && !defined(SV_NO_SIMD)
#define X86_PRODUCTS
#elif defined(__ARM_NEON) && defined(__aarch64__) && !defined(__AARCH64EB__) && !defined(SV_NO_SIMD)
#define NEON_PRODUCTS
#else
#define PLAIN_PRODUCTS
#endif

#ifndef PLAIN_PRODUCTS
static inline vf v_float(vi x) {
#if defined(WITH_VNNI)
    return _mm512_cvtepi32_ps((__m512i)x);
#else
    return __builtin_convertvector(x, vf);
#endif
}

static inline int32_t four_bytes(const void *from) { int32_t four; memcpy(&four, from, 4); return four; }
#endif

/* Whether product4 and rows16 look at by128; rows16_q4 may always. */
#ifdef WITH_VNNI
enum { BY128 = 1 };
#else
enum { BY128 = 0 };
#endif

/* AVX-512: vpdpbusd adds four products of an unsigned and a signed byte to each int32. The weights become unsigned by
   adding 128, which is taken off again as 128 times the sum of x. Panel: [n / 4][32 rows][4].
   AVX2 has no such thing. Widened to int16, vpmaddwd adds two products to each int32; panel: [n / 2][16 rows][2]. For
   one row of x, vpmaddubsw adds two products of bytes to each int16 without a loss if the signs of w are moved over to
   x (2 * 128 * 127 fits), and vpmaddwd by ones two of those to each int32; that is better there, as the bytes need not
   be widened first, and worse for a panel, as the signs move in the ports that multiply.
   Q4: the 16 values, less the smallest, are 0 .. 113: unsigned bytes, of which two products fit an int16 as they are;
   what the smallest makes of x is added first.
   CHAINS: vpdpbusd waits for the sum before, so steps go to two sums in turn, 16 in all: with 8 a Zen 5 stands idle a
   sixth of the time. AVX2's additions alone wait, and it has no registers to spare. */
#ifdef X86_PRODUCTS
#ifdef WITH_VNNI
typedef int8_t xint;
typedef __m512i Wide;
enum { NR = 32, STEP = 4, CHAINS = 2 };
static inline Wide wide_load(const int8_t *from) { return _mm512_loadu_si512(from); }
static inline Wide wide_four(const void *x) { return _mm512_set1_epi32(four_bytes(x)); }
static inline Wide wide_flip(Wide w) { return w ^ _mm512_set1_epi32((int)0x80808080); }
static inline vi wide_start(int32_t by128) { return (vi){ 0 } - (vi)_mm512_set1_epi32(by128); }
static inline vi wide_dot(vi s, Wide w, Wide x) { return (vi)_mm512_dpbusd_epi32((__m512i)s, w, x); }

typedef __m512i Bytes;
static inline Bytes bytes_load(const void *from) { return _mm512_loadu_si512(from); }
static inline Bytes bytes_of_16(__m128i x) { return _mm512_broadcast_i32x4(x); }
static inline Bytes bytes_pick(Bytes values, Bytes i) { return _mm512_shuffle_epi8(values, i); }
static inline vi unsigned_dot(vi s, Bytes w, Bytes x) { return wide_dot(s, w, x); }
static inline vi bytes_dot(vi s, Bytes w, Bytes x) { return wide_dot(s, wide_flip(w), x); }

static NOINLINE void pack(int8_t *panel, size_t r, const int8_t *block) {
    for (size_t k = 0; k < GROUP; k += 4) {
        Bytes fours = wide_flip(bytes_load(block + k * BLOCK_ROWS));
        memcpy(panel + k * NR + r * 4, &fours, sizeof fours);
    }
}
#else
typedef int16_t xint;
typedef __m256i Wide;
enum { NR = 16, STEP = 2, CHAINS = 1 };
static inline Wide wide_load(const int8_t *from) {
    return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)from));
}
static inline Wide wide_four(const void *x) { return _mm256_set1_epi32(four_bytes(x)); }
static inline vi wide_start(int32_t by128) { (void)by128; return (vi){ 0 }; }
static inline vi wide_dot(vi s, Wide w, Wide x) { return s + (vi)_mm256_madd_epi16(w, x); }

typedef __m256i Bytes;
static inline Bytes bytes_load(const void *from) { return _mm256_loadu_si256((const __m256i *)from); }
static inline Bytes bytes_of_16(__m128i x) { return _mm256_broadcastsi128_si256(x); }
static inline Bytes bytes_pick(Bytes values, Bytes i) { return _mm256_shuffle_epi8(values, i); }
static inline vi unsigned_dot(vi s, Bytes w, Bytes x) {
    return s + (vi)_mm256_madd_epi16(_mm256_maddubs_epi16(w, x), _mm256_set1_epi16(1));
}
static inline vi bytes_dot(vi s, Bytes w, Bytes x) {
    return unsigned_dot(s, _mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
}

/* Eight rows' four numbers at a time: their first pairs, and their second. */
static NOINLINE void pack(int8_t *panel, size_t r, const int8_t *block) {
    const __m256i pairs = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13,
                                                                    2, 3, 6, 7, 10, 11, 14, 15));
    for (size_t k = 0; k < GROUP; k += 4)
        for (size_t i = 0; i < BLOCK_ROWS; i += 8) {
            __m256i fours = _mm256_shuffle_epi8(bytes_load(block + k * BLOCK_ROWS + i * 4), pairs);
            fours = _mm256_permute4x64_epi64(fours, 0xd8);
            _mm_storeu_si128((__m128i *)(panel + k * NR + (r + i) * 2), _mm256_castsi256_si128(fours));
            _mm_storeu_si128((__m128i *)(panel + (k + 2) * NR + (r + i) * 2), _mm256_extracti128_si256(fours, 1));
        }
}
#endif

static NOINLINE void product4(float *sum, size_t stride, bool more, const xint *x, size_t x_stride, const float *d,
                              const int32_t *by128, size_t d_stride, const int8_t *panel, const float *scale, size_t n,
                              size_t groups, bool once) {
    vf total[4][2];
    for (size_t i = 0; i < 4; i++)
        for (size_t j = 0; j < 2; j++) total[i][j] = more ? v_load(sum + i * stride + j * VL) : v_set(0);
    for (size_t g = 0; g < groups; g++, d++, by128++) {
        vi s[CHAINS][4][2];
        for (size_t i = 0; i < 4; i++) s[0][i][0] = s[0][i][1] = wide_start(by128[i * d_stride]);
        for (size_t c = 1; c < CHAINS; c++)
            for (size_t i = 0; i < 4; i++) s[c][i][0] = s[c][i][1] = (vi){ 0 };
        for (const xint *end = x + n; x < end;) {
            if (once) prefetch(panel, CHAINS * STEP * NR);
            for (size_t c = 0; c < CHAINS; c++, x += STEP, panel += STEP * NR) {
                Wide w0 = wide_load(panel), w1 = wide_load(panel + STEP * NR / 2);
                for (size_t i = 0; i < 4; i++) {
                    Wide four = wide_four(x + i * x_stride);
                    s[c][i][0] = wide_dot(s[c][i][0], w0, four);
                    s[c][i][1] = wide_dot(s[c][i][1], w1, four);
                }
            }
        }
        for (size_t c = 1; c < CHAINS; c++)
            for (size_t i = 0; i < 4; i++) s[0][i][0] += s[c][i][0], s[0][i][1] += s[c][i][1];
        vf scale0 = v_set(1), scale1 = v_set(1);
        if (scale) scale0 = v_load(scale + g * NR), scale1 = v_load(scale + g * NR + VL);
        for (size_t i = 0; i < 4; i++) {
            vf di = v_set(d[i * d_stride]);
            total[i][0] += v_float(s[0][i][0]) * scale0 * di;
            total[i][1] += v_float(s[0][i][1]) * scale1 * di;
        }
    }
    for (size_t i = 0; i < 4; i++)
        for (size_t j = 0; j < 2; j++) v_store(sum + i * stride + j * VL, total[i][j]);
}

static inline Bytes bytes_four(const int8_t *x) { return wide_four(x); }
static inline vi q4_start(int32_t by128) { return (vi){ 0 } + by128 / 128 * q4_values[0]; }
static inline Bytes q4_table(void) {
    __m128i values = _mm_loadu_si128((const __m128i *)q4_values);
    return bytes_of_16(_mm_sub_epi8(values, _mm_set1_epi8((char)q4_values[0])));
}
static inline Bytes q4_low(Bytes table, Bytes both) {
    return bytes_pick(table, both & (Bytes)((vi){ 0 } + 0x0f0f0f0f));
}
static inline Bytes q4_high(Bytes table, Bytes both) {
    return q4_low(table, (Bytes)((vu)both >> 4));
}
static inline vi q4_dot(vi s, Bytes w, Bytes x) { return unsigned_dot(s, w, x); }
#endif

/* sdot adds four products of bytes to each int32; panel: [n / 4][16 rows][4]. Without it, smlal adds products of int16;
   panel: [n][16 rows]. */
#ifdef NEON_PRODUCTS
typedef int8x16_t Bytes;
static inline Bytes bytes_load(const void *from) { return vld1q_s8(from); }
static inline Bytes bytes_four(const int8_t *x) { return vreinterpretq_s8_s32(vdupq_n_s32(four_bytes(x))); }

#ifdef __ARM_FEATURE_DOTPROD
typedef int8_t xint;
enum { NR = 16, STEP = 4 };

static void pack(int8_t *panel, size_t r, const int8_t *block) { memcpy(panel + r * 4, block, BLOCK_ROWS * GROUP); }

static inline void add_products(int32x4_t s[4][4], const xint *x, size_t x_stride, const int8_t *panel, size_t n) {
    for (size_t k = 0; k < n; k += 4, panel += NR * 4) {
        int8x16_t w[4];
        for (int j = 0; j < 4; j++) w[j] = vld1q_s8(panel + 16 * j);
        for (size_t i = 0; i < 4; i++) {
            Bytes four = bytes_four(x + i * x_stride + k);
            for (int j = 0; j < 4; j++) s[i][j] = vdotq_s32(s[i][j], w[j], four);
        }
    }
}

static inline vi bytes_dot(vi s, Bytes w, Bytes x) { return (vi)vdotq_s32((int32x4_t)s, w, x); }
#else
typedef int16_t xint;
enum { NR = 16, STEP = 1 };

static NOINLINE void pack(int8_t *panel, size_t r, const int8_t *block) {
    for (size_t k = 0; k < GROUP; k += 4) {
        int8x16x4_t number = vld4q_s8(block + k * BLOCK_ROWS);
        for (size_t j = 0; j < 4; j++) vst1q_s8(panel + (k + j) * NR + r, number.val[j]);
    }
}

static inline void add_products(int32x4_t s[4][4], const xint *x, size_t x_stride, const int8_t *panel, size_t n) {
    for (size_t k = 0; k < n; k++, panel += NR) {
        int8x16_t w = vld1q_s8(panel);
        int16x8_t w0 = vmovl_s8(vget_low_s8(w)), w1 = vmovl_high_s8(w);
        for (size_t i = 0; i < 4; i++) {
            int16x4_t v = vdup_n_s16(x[i * x_stride + k]);
            s[i][0] = vmlal_s16(s[i][0], vget_low_s16(w0), v);
            s[i][1] = vmlal_s16(s[i][1], vget_high_s16(w0), v);
            s[i][2] = vmlal_s16(s[i][2], vget_low_s16(w1), v);
            s[i][3] = vmlal_s16(s[i][3], vget_high_s16(w1), v);
        }
    }
}

static inline vi bytes_dot(vi s, Bytes w, Bytes x) {
    int32x4_t low = vpaddlq_s16(vmull_s8(vget_low_s8(w), vget_low_s8(x)));
    return s + (vi)vpaddq_s32(low, vpaddlq_s16(vmull_high_s8(w, x)));
}
#endif

static NOINLINE void product4(float *sum, size_t stride, bool more, const xint *x, size_t x_stride, const float *d,
                              const int32_t *by128, size_t d_stride, const int8_t *panel, const float *scale, size_t n,
                              size_t groups, bool once) {
    (void)by128;
    for (size_t g = 0; g < groups; g++, d++, x += n, panel += n * NR, more = true) {
        int32x4_t s[4][4];
        if (once) prefetch(panel, n * NR);
        for (int i = 0; i < 4; i++)
            for (int j = 0; j < 4; j++) s[i][j] = vdupq_n_s32(0);
        add_products(s, x, x_stride, panel, n);
        for (size_t i = 0; i < 4; i++)
            for (size_t j = 0; j < 4; j++) {
                float *to = sum + i * stride + 4 * j;
                float32x4_t a = vcvtq_f32_s32(s[i][j]);
                if (scale) a = vmulq_f32(a, vld1q_f32(scale + g * NR + 4 * j));
                vst1q_f32(to, vaddq_f32(more ? vld1q_f32(to) : vdupq_n_f32(0), vmulq_n_f32(a, d[i * d_stride])));
            }
    }
}

static inline vi wide_start(int32_t by128) { (void)by128; return (vi){ 0 }; }
static inline vi q4_start(int32_t by128) { (void)by128; return (vi){ 0 }; }
static inline Bytes q4_table(void) { return vld1q_s8(q4_values); }
static inline Bytes q4_low(Bytes table, Bytes both) {
    return vqtbl1q_s8(table, vandq_u8(vreinterpretq_u8_s8(both), vdupq_n_u8(15)));
}
static inline Bytes q4_high(Bytes table, Bytes both) {
    return vqtbl1q_s8(table, vshrq_n_u8(vreinterpretq_u8_s8(both), 4));
}
static inline vi q4_dot(vi s, Bytes w, Bytes x) { return bytes_dot(s, w, x); }
#endif

/* The plain products: what all of the above compute. */
#ifdef PLAIN_PRODUCTS
typedef int8_t xint;
enum { NR = 16, STEP = 1 };

static NOINLINE void pack(int8_t *panel, size_t r, const int8_t *block) {
    for (size_t k = 0; k < GROUP; k += 4)
        for (size_t i = 0; i < BLOCK_ROWS; i++, block += 4)
            for (size_t j = 0; j < 4; j++) panel[(k + j) * NR + r + i] = block[j];
}

static NOINLINE void product4(float *sum, size_t stride, bool more, const xint *x, size_t x_stride, const float *d,
                              const int32_t *by128, size_t d_stride, const int8_t *panel, const float *scale, size_t n,
                              size_t groups, bool once) {
    (void)by128;
    for (size_t g = 0; g < groups; g++, d++, x += n, panel += n * NR, more = true) {
        if (once) prefetch(panel, n * NR);
        for (size_t i = 0; i < 4; i++) {
            int32_t dot[NR] = { 0 };
            for (size_t k = 0; k < n; k++)
                for (size_t r = 0; r < NR; r++) dot[r] += x[i * x_stride + k] * panel[k * NR + r];
            for (size_t r = 0; r < NR; r++) {
                float *to = sum + i * stride + r;
                *to = (more ? *to : 0) + (float)dot[r] * (scale ? scale[g * NR + r] : 1) * d[i * d_stride];
            }
        }
    }
}
#endif

/* Where a panel has number k of its row r: STEP numbers of a row lie side by side. And what bytes become there. */
static inline size_t panel_at(size_t k, size_t r) { return (k / STEP * NR + r) * STEP + k % STEP; }
static inline void as_in_panels(int8_t *w, size_t n) {
    for (size_t k = 0; k < n && BY128; k++) w[k] = (int8_t)(w[k] ^ -128);
}

/* int8 -> xint, n a multiple of 16 */
static NOINLINE void widen(xint *to, const int8_t *from, size_t n) {
#if defined(X86_PRODUCTS) && !defined(WITH_VNNI)
    for (size_t k = 0; k < n; k += 16)
        _mm256_storeu_si256((__m256i *)(to + k), _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(from + k))));
#else
    for (size_t k = 0; k < n; k++) to[k] = from[k];
#endif
}

#ifdef PLAIN_PRODUCTS
static inline void add_group(float sum[BLOCK_ROWS], const int8_t *block, const int8_t *x, const uint16_t *scale,
                             float d) {
    int32_t dot[BLOCK_ROWS] = { 0 };
    for (size_t k = 0; k < GROUP; k += 4)
        for (size_t r = 0; r < BLOCK_ROWS; r++, block += 4)
            dot[r] += x[k] * block[0] + x[k + 1] * block[1] + x[k + 2] * block[2] + x[k + 3] * block[3];
    for (size_t r = 0; r < BLOCK_ROWS; r++) sum[r] += (float)dot[r] * from_bf16(scale[r]) * d;
}

static NOINLINE void rows16(float sum[BLOCK_ROWS], const uint8_t *w, const int8_t *x, const float *d,
                            const int32_t *by128, const uint16_t *scale, size_t groups) {
    (void)by128;
    memset(sum, 0, BLOCK_ROWS * sizeof *sum);
    for (size_t g = 0; g < groups; g++, w += BLOCK_ROWS * GROUP) {
        prefetch(w, BLOCK_ROWS * GROUP);
        add_group(sum, (const int8_t *)w, x + g * GROUP, scale + g * BLOCK_ROWS, d[g]);
    }
}

static NOINLINE void rows16_q4(float sum[BLOCK_ROWS], const uint8_t *w, const int8_t *x, const float *d,
                               const int32_t *by128, const uint16_t *scale, size_t groups) {
    (void)by128;
    memset(sum, 0, BLOCK_ROWS * sizeof *sum);
    for (size_t g = 0; g < groups; g++, w += BLOCK_ROWS * GROUP / 2) {
        int8_t block[BLOCK_ROWS * GROUP];
        prefetch(w, BLOCK_ROWS * GROUP / 2);
        unpack_q4(block, w);
        add_group(sum, block, x + g * GROUP, scale + g * BLOCK_ROWS, d[g]);
    }
}
#else
/* Six and eight of a group's steps are unrolled, not all, as gcc would: then a line of memory takes so few instructions
   that a Zen 5 runs further ahead than does it good. Where memory is fast, that cost 4 to 6 %; nops between the steps
   gained the same. Five steps or six of sixteen, seven of eight: worse. */
static inline void block_product(float sum[BLOCK_ROWS], const uint8_t *w, const int8_t *x, const float *d,
                                 const int32_t *by128, const uint16_t *scale, size_t groups, bool q4) {
    enum { VECTORS = BLOCK_ROWS / VL };
    const Bytes table = q4_table();
    vf total[VECTORS];
    for (size_t j = 0; j < VECTORS; j++) total[j] = v_set(0);
    for (size_t g = 0; g < groups; g++, x += GROUP, scale += BLOCK_ROWS) {
        vi s[VECTORS];
        for (size_t j = 0; j < VECTORS; j++) s[j] = q4 ? q4_start(by128[g]) : wide_start(by128[g]);
        if (q4) {
#pragma GCC unroll 6
            for (const int8_t *k = x, *end = x + GROUP / 2; k < end; k += 4, w += 4 * BLOCK_ROWS) {
                prefetch(w, 4 * BLOCK_ROWS);
                for (size_t j = 0; j < VECTORS; j++) {
                    Bytes both = bytes_load(w + 4 * VL * j);
                    s[j] = q4_dot(s[j], q4_low(table, both), bytes_four(k));
                    s[j] = q4_dot(s[j], q4_high(table, both), bytes_four(k + GROUP / 2));
                }
            }
        } else {
#pragma GCC unroll 8
            for (const int8_t *k = x, *end = x + GROUP; k < end; k += 4, w += 4 * BLOCK_ROWS) {
                prefetch(w, 4 * BLOCK_ROWS);
                for (size_t j = 0; j < VECTORS; j++)
                    s[j] = bytes_dot(s[j], bytes_load(w + 4 * VL * j), bytes_four(k));
            }
        }
        for (size_t j = 0; j < VECTORS; j++) total[j] += v_float(s[j]) * load_bf16(scale + j * VL) * v_set(d[g]);
    }
    for (size_t j = 0; j < VECTORS; j++) v_store(sum + j * VL, total[j]);
}

static NOINLINE void rows16(float sum[BLOCK_ROWS], const uint8_t *w, const int8_t *x, const float *d,
                            const int32_t *by128, const uint16_t *scale, size_t groups) {
    block_product(sum, w, x, d, by128, scale, groups, false);
}

static NOINLINE void rows16_q4(float sum[BLOCK_ROWS], const uint8_t *w, const int8_t *x, const float *d,
                               const int32_t *by128, const uint16_t *scale, size_t groups) {
    block_product(sum, w, x, d, by128, scale, groups, true);
}
#endif

/* ------------------------------------------------------------------------------------------------- numbers to integers

   x = d q for a group: q = x * (127 / max |x|), to the nearest integer and to even from the middle, d = max |x| *
   (1 / 127). q gets `size` numbers, zeros from n on. A group of (next to) nothing becomes zeros; one with an infinity
   or a NaN gets d = NaN, so that what is broken stays visible. The maximum is taken of the bits as integers, among
   which NaN is the largest. *by128, unless it is NULL: 128 times the sum of q. */
enum { MAX_GROUP = 512 };

static inline void low_bytes(int8_t to[16], const vu bits[16 / VL]) {
#if defined(WITH_VNNI)
    _mm_storeu_si128((__m128i *)to, _mm512_cvtepi32_epi8((__m512i)bits[0]));
#elif defined(__AVX2__) && !defined(SV_NO_SIMD)
    const __m256i pick = _mm256_set1_epi32(0x0c080400);
    __m256i a = _mm256_shuffle_epi8((__m256i)bits[0], pick), b = _mm256_shuffle_epi8((__m256i)bits[1], pick);
    __m256i both = _mm256_permutevar8x32_epi32(_mm256_unpacklo_epi32(a, b), _mm256_setr_epi32(0, 4, 1, 5, 0, 0, 0, 0));
    _mm_storeu_si128((__m128i *)to, _mm256_castsi256_si128(both));
#else
    uint32_t one[16];
    memcpy(one, bits, sizeof one);
    for (int j = 0; j < 16; j++) to[j] = (int8_t)(one[j] & 255);
#endif
}

static NOINLINE float quantize(int8_t *q, const float *x, size_t n, size_t size, int32_t *by128) {
    float padded[MAX_GROUP];
    if (n < size) {                                         /* the last group of a row */
        memcpy(padded, x, n * sizeof *x);
        memset(padded + n, 0, (size - n) * sizeof *x);
        x = padded;
    }
    vi most = (vi)bits_of(v_set(0.0f));
    for (size_t k = 0; k < size; k += VL) most = v_max_int((vi)(bits_of(v_load(x + k)) & 0x7fffffffu), most);
    int32_t largest = v_largest(most);
    float max;
    memcpy(&max, &largest, sizeof max);
    if (!(max > 1e-30f && max <= FLT_MAX)) {
        memset(q, 0, size);
        if (by128) *by128 = 0;
        return max <= 1e-30f ? 0 : NAN;
    }
    const float round = 12582912.0f;                        /* 1.5 * 2^23: adding it rounds to an integer, */
    vf scale = v_set(127.0f / max);
    vi total = (vi)bits_of(v_set(0.0f));
    for (size_t k = 0; k < size; k += 16) {
        vu bits[16 / VL];                                   /* whose lowest byte is the integer's */
        for (int j = 0; j < 16 / VL; j++) {
            bits[j] = bits_of(v_load(x + k + j * VL) * scale + v_set(round));
            total += (vi)(bits[j] - 0x4b400000u);           /* less the bits of `round` */
        }
        low_bytes(q + k, bits);
    }
    if (by128) *by128 = 128 * v_total(total);
    return max * (1.0f / 127);
}

/* Rows of x as integers, bytes [n, stride] for rows16 or q [n, stride] for product4; and for each group its scale d and
   by128, [n, marks]. */
typedef struct Quantized {
    int8_t *bytes;
    xint *q;
    float *d;
    int32_t *by128;
    size_t stride, marks, groups, group;
} Quantized;

static uint64_t quantized_floats(uint64_t n, uint64_t cols) {          /* in groups of 64 */
    uint64_t groups = (cols + GROUP - 1) / GROUP, marks = (groups + 7) / 8 * 8;
    return n * (2 * marks + groups * GROUP / 2);            /* the scales, the sums, int16 */
}

static Quantized quantized_in(void *scratch, size_t n, size_t cols, size_t group) {
    Quantized x = { .group = group, .groups = (cols + group - 1) / group };
    x.stride = x.groups * group;
    x.marks = round_up(x.groups, 8);
    x.d = scratch;
    x.by128 = (int32_t *)(x.d + n * x.marks);
    x.bytes = (int8_t *)(x.by128 + n * x.marks);
    x.q = (xint *)x.bytes;
    return x;
}

/* Group g of `cols` numbers from `from` on, into a row of x. */
static inline void quantize_group(const Quantized *x, size_t row, const float *from, size_t cols, size_t g,
                                  bool to_bytes) {
    int8_t room[MAX_GROUP];
    bool same = sizeof(xint) == 1 || to_bytes;
    size_t at = g * x->group;
    int8_t *bytes = same ? x->bytes + row * x->stride + at : room;
    x->d[row * x->marks + g] = quantize(bytes, from + at, at_most(x->group, cols - at), x->group,
                                        to_bytes || BY128 ? &x->by128[row * x->marks + g] : NULL);
    if (!same) widen(x->q + row * x->stride + at, bytes, x->group);
}

static NOINLINE void quantize_row(const Quantized *x, size_t row, const float *from, size_t cols, bool to_bytes) {
    for (size_t g = 0; g < x->groups; g++) quantize_group(x, row, from, cols, g, to_bytes);
}

/* ------------------------------------------------------------------------------------------------- products of floats

   In the same shape: four rows of x times a panel of NF rows of w, [n][NF], here of floats. */
enum { NF = VL == 1 ? 4 : 2 * VL, NV = NF / VL };
enum { FLOAT_CHAINS = VL == 16 ? 2 : 1 };                    /* as CHAINS above: even and odd numbers apart */

static inline void add_float_products(vf s[4][NV], const float *x, size_t x_stride, const float *panel) {
    vf w[NV];
    for (int j = 0; j < NV; j++) w[j] = v_load(panel + j * VL);
    for (size_t i = 0; i < 4; i++) {
        vf one = v_set(x[i * x_stride]);
        for (int j = 0; j < NV; j++) s[i][j] = v_fused(one, w[j], s[i][j]);
    }
}

static NOINLINE void float_product4(float *sum, size_t stride, bool more, const float *x, size_t x_stride,
                                    const float *panel, size_t n, bool once) {
    vf s[FLOAT_CHAINS][4][NV];
    for (int c = 0; c < FLOAT_CHAINS; c++)
        for (int i = 0; i < 4; i++)
            for (int j = 0; j < NV; j++) s[c][i][j] = v_set(0.0f);
    for (size_t k = 0; k + FLOAT_CHAINS <= n; k += FLOAT_CHAINS)
        for (size_t c = 0; c < FLOAT_CHAINS; c++, panel += NF) {
            if (once) prefetch(panel, NF * sizeof *panel);
            add_float_products(s[c], x + k + c, x_stride, panel);
        }
    if (n % FLOAT_CHAINS) add_float_products(s[0], x + n - 1, x_stride, panel);
    for (size_t i = 0; i < 4; i++)
        for (size_t j = 0; j < NV; j++) {
            float *to = sum + i * stride + j * VL;
            vf all = s[0][i][j];
            for (size_t c = 1; c < FLOAT_CHAINS; c++) all += s[c][i][j];
            v_store(to, more ? v_load(to) + all : all);
        }
}

/* x . w for one row of w, read once. SUMS vectors of sums, so that none waits for the one before. */
enum { SUMS = 8 };

static inline float total_of(const vf v[SUMS], float rest) {
    vf all = ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]));
    float lane[VL];
    v_store(lane, all);
    for (int l = 0; l < VL; l++) rest += lane[l];
    return rest;
}

static NOINLINE float dot_f32(const float *x, const float *w, size_t n) {
    vf v[SUMS];
    float rest = 0;
    size_t i = 0;
    for (int j = 0; j < SUMS; j++) v[j] = v_set(0.0f);
    for (; i + SUMS * VL <= n; i += SUMS * VL) {
        prefetch(w + i, SUMS * VL * sizeof *w);
        for (size_t j = 0; j < SUMS; j++) v[j] = v_fused(v_load(x + i + j * VL), v_load(w + i + j * VL), v[j]);
    }
    for (; i + VL <= n; i += VL) v[0] = v_fused(v_load(x + i), v_load(w + i), v[0]);
    for (; i < n; i++) rest += x[i] * w[i];
    return total_of(v, rest);
}

static NOINLINE float dot_bf16(const float *x, const uint16_t *w, size_t n) {
    vf v[SUMS];
    float rest = 0;
    size_t i = 0;
    for (int j = 0; j < SUMS; j++) v[j] = v_set(0.0f);
    for (; i + SUMS * VL <= n; i += SUMS * VL) {
        prefetch(w + i, SUMS * VL * sizeof *w);
        for (size_t j = 0; j < SUMS; j++) v[j] = v_fused(v_load(x + i + j * VL), load_bf16(w + i + j * VL), v[j]);
    }
    for (; i + VL <= n; i += VL) v[0] = v_fused(v_load(x + i), load_bf16(w + i), v[0]);
    for (; i < n; i++) rest += x[i] * from_bf16(w[i]);
    return total_of(v, rest);
}

/* ------------------------------------------------------------------------------------------------------------ matmul

   Few rows of x (decoding): every row of w is read once, in order. Many: w is cut into panels, x into blocks, and a
   thread takes one strip of w for one block of x after the other. It packs PANEL numbers of the strip's rows, on its
   stack, and multiplies all of the block with them, so that w is packed once for ROWS rows of x and never copied as a
   whole, and a panel stays in the nearest cache while the block passes (with AVX-512 it fills 32 KB). */
enum { FEW = 3, ROWS = 512, PANEL = 1024, FLOAT_PANEL = 256 };

/* The numbers of a block of Q8 or Q4; `unpacked` may be what is returned. */
static inline const int8_t *integers(const SvTensor *w, const uint8_t *block, int8_t unpacked[BLOCK_ROWS * GROUP]) {
    if (w->format == SV_Q8) return (const int8_t *)block;
    unpack_q4(unpacked, block);
    return unpacked;
}

/* out[r] = x . row r of w, for `count` rows from `first`, a multiple of 16, on, and one row of x. */
static NOINLINE void integer_rows(float *out, const SvTensor *w, const float *bias, const Quantized *x, size_t row,
                                  size_t first, size_t count) {
    const int8_t *q = x->bytes + row * x->stride;
    const float *d = x->d + row * x->marks;
    const int32_t *by128 = x->by128 + row * x->marks;
    for (size_t r = first; r < first + count; r += BLOCK_ROWS) {
        float s[BLOCK_ROWS];
        if (w->format == SV_Q4) rows16_q4(s, block_of(w, r, 0), q, d, by128, scales_of(w, r, 0), x->groups);
        else rows16(s, block_of(w, r, 0), q, d, by128, scales_of(w, r, 0), x->groups);
        for (size_t i = 0; i < at_most(BLOCK_ROWS, first + count - r); i++)
            out[r + i] = bias ? s[i] + bias[r + i] : s[i];
    }
}

/* Copies four rows of sums, of which out has only so many rows and columns, in or out. */
static void take_sums(float *sums, size_t width, const float *out, size_t stride, size_t rows, size_t cols) {
    for (size_t i = 0; i < rows; i++) memcpy(sums + i * width, out + i * stride, cols * sizeof *out);
}

static void put_sums(float *out, size_t stride, const float *sums, size_t width, size_t rows, size_t cols) {
    for (size_t i = 0; i < rows; i++) memcpy(out + i * stride, sums + i * width, cols * sizeof *out);
}

/* The last thing that happens to them. */
static NOINLINE void add_bias(float *out, size_t stride, const float *bias, size_t rows, size_t cols) {
    for (size_t i = 0; i < rows; i++)
        for (size_t r = 0; r < cols; r++) out[i * stride + r] += bias[r];
}

/* So many pieces of memory are nothing that a processor foresees: asks for all before the first is used. */
static inline void prefetch_blocks(const SvTensor *w, size_t first, size_t count, size_t g, size_t groups) {
    for (size_t r = first; r < first + count; r += BLOCK_ROWS)
        ask_for(block_of(w, r, g), groups * block_bytes(w->format));
}

/* The strip of NR rows of w from row `first` on, times the rows i0 .. i1 of x: one panel after the other, all about as
   long. */
static NOINLINE void integer_strip(float *out, const SvTensor *w, const float *bias, const Quantized *x, size_t first,
                                   size_t i0, size_t i1) {
    int8_t panel[PANEL * NR], unpacked[BLOCK_ROWS * GROUP];
    float scale[PANEL / GROUP * NR];
    size_t cols = at_most(NR, w->rows - first), panels = (x->groups + PANEL / GROUP - 1) / (PANEL / GROUP);
    size_t most = (x->groups + panels - 1) / panels;
    for (size_t g0 = 0; g0 < x->groups; g0 += most) {
        size_t groups = at_most(most, x->groups - g0);
        prefetch_blocks(w, first, cols, g0, groups);
        for (size_t g = 0; g < groups; g++)
            for (size_t r = 0; r < NR; r += BLOCK_ROWS) {
                size_t row = at_most(first + r, w->rows - 1);                  /* past the last: that block once more */
                const uint16_t *bf16 = scales_of(w, row, g0 + g);
                pack(panel + g * GROUP * NR, r, integers(w, block_of(w, row, g0 + g), unpacked));
                for (size_t i = 0; i < BLOCK_ROWS; i++) scale[g * NR + r + i] = from_bf16(bf16[i]);
            }
        for (size_t i = i0; i < i1; i += 4) {
            float sums[4 * NR], *to = out + i * w->rows + first;
            size_t rows = at_most(4, i1 - i), mark = i * x->marks + g0;
            bool whole = rows == 4 && cols == NR;
            if (!whole && g0) take_sums(sums, NR, to, w->rows, rows, cols);
            product4(whole ? to : sums, whole ? w->rows : NR, g0 > 0, x->q + i * x->stride + g0 * GROUP, x->stride,
                     x->d + mark, x->by128 + mark, x->marks, panel, scale, GROUP, groups, false);
            if (!whole) put_sums(to, w->rows, sums, NR, rows, cols);
            if (bias && g0 + groups == x->groups) add_bias(to, w->rows, bias + first, rows, cols);
        }
    }
}

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
            if (rows < 4) {                                 /* a row that is not there is another one once more */
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

static void float_rows(float *out, const SvTensor *w, const float *bias, const float *x, size_t first, size_t count) {
    for (size_t r = first; r < first + count; r++) {
        float s = w->format == SV_F32 ? dot_f32(x, (const float *)w->data + r * w->cols, w->cols)
                                      : dot_bf16(x, (const uint16_t *)w->data + r * w->cols, w->cols);
        out[r] = bias ? s + bias[r] : s;
    }
}

/* Units of work in a product: blocks of rows of w for few rows of x, or strips of w times blocks of x. */
enum { UNIT = 32 };

static size_t units_of(const SvTensor *w, size_t n, size_t strip) {
    return n <= FEW ? (w->rows + UNIT - 1) / UNIT : (w->rows + strip - 1) / strip * ((n + ROWS - 1) / ROWS);
}

/* Unit u of the products p[0], p[1], ... */
static void multiply_unit(const SvProduct *p, size_t u, const float *x, const Quantized *xq, size_t n, size_t strip) {
    for (; u >= units_of(p->w, n, strip); p++) u -= units_of(p->w, n, strip);
    size_t rows = p->w->rows, cols = p->w->cols;
    if (n <= FEW) {
        size_t first = u * UNIT, count = at_most(UNIT, rows - first);
        for (size_t i = 0; i < n; i++) {
            if (p->w->group) integer_rows(p->out + i * rows, p->w, p->bias, xq, i, first, count);
            else float_rows(p->out + i * rows, p->w, p->bias, x + i * cols, first, count);
        }
    } else {
        size_t strips = (rows + strip - 1) / strip, first = u % strips * strip;
        size_t i0 = u / strips * ROWS, i1 = at_most(i0 + ROWS, n);
        if (p->w->group) integer_strip(p->out, p->w, p->bias, xq, first, i0, i1);
        else float_strip(p->out, p->w, p->bias, x, first, i0, i1);
    }
}

/* Products of one x with several w of the same group, for which x is quantized once. */
static void multiply_all(const SvProduct *products, int count, const float *x, size_t n, float *scratch) {
    size_t group = products->w->group, cols = products->w->cols, strip = group ? (size_t)NR : (size_t)NF;
    size_t units = 0;
    Quantized xq = { 0 };
    for (int i = 0; i < count; i++) units += units_of(products[i].w, n, strip);
    if (group) {
        xq = quantized_in(scratch, round_up(n, 4), cols, group);            /* product4 reads rows that nobody uses */
#pragma omp for schedule(static) nowait
        for (int64_t i = 0; i < (int64_t)n; i++)
            quantize_row(&xq, (size_t)i, x + (size_t)i * cols, cols, n <= FEW);
    }
#pragma omp barrier
    if (n <= FEW) {
#pragma omp for schedule(static)
        for (int64_t u = 0; u < (int64_t)units; u++) multiply_unit(products, (size_t)u, x, &xq, n, strip);
    } else {
#pragma omp for schedule(dynamic)
        for (int64_t u = 0; u < (int64_t)units; u++) multiply_unit(products, (size_t)u, x, &xq, n, strip);
    }
}

static void matmul(const SvProduct *products, int count, const float *x, size_t n, float *scratch) {
    for (int first = 0, next; first < count; first = next) {
        for (next = first + 1; next < count && products[next].w->group == products[first].w->group;) next++;
        multiply_all(products + first, next - first, x, n, scratch);
    }
}

/* -------------------------------------------------------------------------------------------------------- attention

   Two products with a softmax between them, for which everything above serves again. The cache holds each head's keys
   and values as panels, in the order in which product4 reads them, so that a number is put in its place once, when its
   position comes, and nothing needs packing later: panels of NR keys along which a product runs over dim; and panels of
   NR of the values' dimensions along which one runs over positions, in groups of KEYS that are counted from the first
   position, so that they do not depend on how the prompt was cut.
   In a q8 cache keys and values are int8, with a scale for each position. The queries become integers, a scale each;
   and so do the softmax's weights, each first multiplied by its value's scale. An f32 cache has panels of NF floats.

   The rows of the product are all queries of all heads that share the keys: of grouped-query attention's, each key is
   read once for the whole group. */
enum { KEYS = 64, WIDEST = 32 };                            /* a multiple of every NR and NF */

typedef struct Parts { int8_t *k, *v; float *k_scale, *v_scale, *k_f32, *v_f32; } Parts;

static Parts parts_of(const SvCache *c, size_t head) {
    size_t one = c->capacity * round_up(c->dim, WIDEST);    /* numbers of a head, at most */
    float *k_f32 = c->data + head * one, *k_scale = c->data + head * c->capacity;
    if (!c->q8) return (Parts){ .k_f32 = k_f32, .v_f32 = k_f32 + c->heads * one };
    int8_t *k = (int8_t *)(c->data + 2 * c->heads * c->capacity) + head * one;
    return (Parts){ .k = k, .v = k + c->heads * one, .k_scale = k_scale, .v_scale = k_scale + c->heads * c->capacity };
}

/* One position's key and value, [dim], into the cache's panels. */
static NOINLINE void put_integers(const SvCache *c, const Parts *head, const float *key, const float *value,
                                  size_t position) {
    size_t dim = c->dim, size = round_up(dim, 16);
    int8_t bytes[MAX_GROUP], *k = head->k + position / NR * NR * size + panel_at(0, position % NR);
    int8_t *v = head->v + position / KEYS * KEYS * NR + panel_at(position % KEYS, 0);
    head->k_scale[position] = quantize(bytes, key, dim, size, NULL);
    as_in_panels(bytes, size);
    for (size_t e = 0; e < size; e += STEP) memcpy(k + panel_at(e, 0), bytes + e, STEP);
    head->v_scale[position] = quantize(bytes, value, dim, size, NULL);
    as_in_panels(bytes, size);
    for (size_t e = 0; e < dim; e += NR, v += c->capacity * NR)
        for (size_t r = 0; r < at_most(NR, dim - e); r++) v[panel_at(0, r)] = bytes[e + r];
}

static NOINLINE void put_floats(const SvCache *c, const Parts *head, const float *key, const float *value,
                                size_t position) {
    size_t dim = c->dim;
    float *k = head->k_f32 + position / NF * NF * dim + position % NF, *v = head->v_f32 + position * NF;
    for (size_t e = 0; e < dim; e++) k[e * NF] = key[e];
    for (size_t e = 0; e < dim; e++) v[e / NF * NF * c->capacity + e % NF] = value[e];
}

/* Asks for the lines of a q8 cache where one position's numbers go: some twenty a head, in as many places, so that they
   are waited for together and not one by one. */
static void ask_for_places(const SvCache *c, size_t head, size_t position) {
    enum { APART = 64 / NR > STEP ? 64 / NR : STEP };       /* numbers of a key in one line */
    size_t size = round_up(c->dim, 16);
    Parts part = parts_of(c, head);
    for (size_t e = 0; e < size; e += APART)
        ask_for(part.k + position / NR * NR * size + panel_at(e, position % NR), STEP);
    for (size_t e = 0; e < c->dim; e += NR)
        ask_for(part.v + e * c->capacity + position / KEYS * KEYS * NR + panel_at(position % KEYS, 0), NR * STEP);
}

static void cache(const SvCache *c, const float *k, const float *v, size_t at, size_t count) {
    size_t heads = c->heads, dim = c->dim;
    if (count == 1 && c->q8) {
#pragma omp for schedule(static) nowait
        for (int64_t h = 0; h < (int64_t)heads; h++) ask_for_places(c, (size_t)h, at);
    }
#pragma omp for schedule(static) nowait
    for (int64_t u = 0; u < (int64_t)(count * heads); u++) {
        size_t i = (size_t)u / heads, h = (size_t)u % heads;
        const float *key = k + (size_t)u * dim, *value = v + (size_t)u * dim;
        Parts head = parts_of(c, h);
        if (c->q8) put_integers(c, &head, key, value, at + i);
        else put_floats(c, &head, key, value, at + i);
    }
}

/* Room for four rows: their scores, one over the sums of their weights, the weights as integers. */
typedef struct Room { float *scores, *one_over; Quantized weights; } Room;

static uint64_t room_floats(uint64_t n_k) {
    uint64_t keys = (n_k + KEYS - 1) / KEYS * KEYS;
    return 16 + 4 * keys + quantized_floats(4, keys);
}

static Room room_in(float *scratch, size_t keys) {
    return (Room){ scratch + 16, scratch, quantized_in(scratch + 16 + 4 * keys, 4, keys, KEYS) };
}

/* A query, times the softmax's scale, as integers, zeros from dim to `size`, the next multiple of 16; returns their
   scale. */
static float quantize_query(int8_t *bytes, const float *q, size_t dim, size_t size, int32_t *by128) {
    float scaled[MAX_GROUP];
    vf scale = v_set(1.0f / sqrtf((float)dim));
    memcpy(scaled, q, dim * sizeof *q);
    for (size_t e = 0; e < size; e += VL) v_store(scaled + e, v_load(scaled + e) * scale);
    return quantize(bytes, scaled, dim, size, by128);
}

/* Up to four rows: the queries q[i] [dim], each of one of the heads that share the keys, of which it sees the first
   seen[i]; out[i] [dim] is the result. count: how many there are; the others repeat the last, which sees the most.
   keys: as many positions as the last sees, up to whole groups. once: no other rows read these keys and values. */
typedef struct Rows {
    const SvCache *c;
    Parts head;
    const float *q[4];
    float *out[4];
    size_t seen[4], count, keys;
    bool once;
    Room room;
} Rows;

/* Part one: the rows' products with the keys from .. to, `from` a multiple of WIDEST. */
static NOINLINE void integer_scores(const Rows *row, size_t from, size_t to) {
    size_t dim = row->c->dim, size = round_up(dim, 16);
    int8_t bytes[MAX_GROUP];
    xint x[4 * MAX_GROUP];
    float d[4];
    int32_t by128[4];
    for (size_t i = 0; i < 4; i++) {
        d[i] = quantize_query(bytes, row->q[i], dim, size, &by128[i]);
        widen(x + i * size, bytes, size);
    }
    for (size_t j = from; j < to; j += NR) {
        const int8_t *panel = row->head.k + j * size;
        if (row->once) {                                    /* what part two reads next */
            ask_for(row->head.k_scale + j, NR * sizeof(float));
            ask_for(row->head.v_scale + j, NR * sizeof(float));
        }
        product4(row->room.scores + j, row->keys, false, x, size, d, by128, 1, panel, NULL, size, 1, row->once);
    }
}

static NOINLINE void float_scores(const Rows *row, size_t from, size_t to) {
    size_t dim = row->c->dim;
    float x[4 * MAX_GROUP], scale = 1.0f / sqrtf((float)dim);
    for (size_t i = 0; i < 4; i++)
        for (size_t e = 0; e < dim; e++) x[i * dim + e] = row->q[i][e] * scale;
    for (size_t j = from; j < to; j += NF) {
        const float *panel = row->head.k_f32 + j * dim;
        float_product4(row->room.scores + j, row->keys, false, x, dim, panel, dim, row->once);
    }
}

/* A q8 cache's values are asked for while the weights are made, when memory has nothing else to do: ASKED bytes for
   each score, from another place for each row, half of them while e^x is taken, half while the weights become integers;
   asked for faster, much would be forgotten. As the threads take rows in part two and panels in part three in the same
   order, mostly the thread that asks is the one that reads. */
enum { ASKED = 8 };

static const int8_t *values_to_ask_for(const Rows *row, size_t i) {
    size_t keys = row->keys, panels = (row->c->dim + NR - 1) / NR, at = i * panels * keys / row->count;
    size_t first = at_most(at % keys, keys - keys * ASKED / NR);
    return row->head.v + (at / keys * row->c->capacity + first) * NR;
}

/* LANES scores of a softmax to weights, e^(x - max), and weights into their sum; then `after`, unless it is NULL, is
   multiplied in. */
static inline void to_weights(float *x, vf max) {
    for (size_t l = 0; l < LANES; l += VL) v_store(x + l, v_exp(v_load(x + l) - max));
}

static inline void sum_weights(float *x, const float *after, vf total[LANES / VL]) {
    for (size_t l = 0; l < LANES; l += VL) {
        vf weight = v_load(x + l);
        total[l / VL] += weight;
        if (after) v_store(x + l, weight * v_load(after + l));
    }
}

/* Part two: row i's scores x become the softmax's weights, not yet divided by their sum: x[j] = e^(x[j] - max) for the
   n keys that the row sees, zero from there on; one over the sum is kept beside. In a q8 cache the scores are first
   multiplied by the keys' scales, and the weights, once they are summed, by the values'; then they become integers. */
static NOINLINE void weights_of(const Rows *row, size_t i) {
    size_t n = row->seen[i], whole = n / LANES * LANES;
    float *x = row->room.scores + i * row->keys, s[LANES];
    bool q8 = row->c->q8;
    const float *before = q8 ? row->head.k_scale : NULL, *after = q8 ? row->head.v_scale : NULL;
    const int8_t *next = q8 && row->once ? values_to_ask_for(row, i) : NULL;
    vf total[LANES / VL], max = v_set(max_of(x, before, n));
    for (size_t l = 0; l < LANES / VL; l++) total[l] = v_set(0.0f);
    for (size_t j = 0; j < whole; j += LANES) {
        if (next) ask_for(next + j * ASKED / 2, LANES * ASKED / 2);
        to_weights(x + j, max);
        sum_weights(x + j, after ? after + j : NULL, total);
    }
    if (whole < n) {
        to_weights(x + whole, max);
        memset(x + n, 0, (whole + LANES - n) * sizeof *x);
        sum_weights(x + whole, after ? after + whole : NULL, total);
    }
    for (size_t l = 0; l < LANES / VL; l++) v_store(s + l * VL, total[l]);
    row->room.one_over[i] = 1.0f / tree(s);
    memset(x + n, 0, (row->keys - n) * sizeof *x);          /* whatever `after` is there */
    if (!q8) return;
    for (size_t g = 0; g < row->room.weights.groups; g++) {
        if (next) ask_for(next + (row->keys + g * KEYS) * ASKED / 2, KEYS * ASKED / 2);
        quantize_group(&row->room.weights, i, x, row->keys, g, false);
    }
}

/* A row that is not there, but that the products of four read: all its weights are zero. */
static void no_weights(const Rows *row, size_t i) {
    const Quantized *w = &row->room.weights;
    if (!row->c->q8) {
        memset(row->room.scores + i * row->keys, 0, row->keys * sizeof(float));
        return;
    }
    memset(w->q + i * w->stride, 0, w->stride * sizeof *w->q);
    memset(w->d + i * w->marks, 0, w->groups * sizeof *w->d);
    memset(w->by128 + i * w->marks, 0, w->groups * sizeof *w->by128);
}

/* Part three: the values' dimensions first .. first + WIDEST, weighted. */
static NOINLINE void integer_values(const Rows *row, size_t first) {
    const Quantized *w = &row->room.weights;
    size_t dim = row->c->dim;
    for (size_t e = first; e < at_most(dim, first + WIDEST); e += NR) {
        float s[4][NR];
        product4(s[0], NR, false, w->q, w->stride, w->d, w->by128, w->marks, row->head.v + e * row->c->capacity, NULL,
                 KEYS, row->keys / KEYS, row->once);
        for (size_t i = 0; i < row->count; i++)
            for (size_t r = 0; r < at_most(NR, dim - e); r++) row->out[i][e + r] = s[i][r] * row->room.one_over[i];
    }
}

static NOINLINE void float_values(const Rows *row, size_t first) {
    size_t dim = row->c->dim, most = row->seen[3];
    for (size_t e = first; e < at_most(dim, first + WIDEST); e += NF) {
        float s[4][NF];
        const float *panel = row->head.v_f32 + e * row->c->capacity;
        for (size_t at = 0, n; at < most; at += n) {
            n = at_most(KEYS, most - at);
            float_product4(s[0], NF, at > 0, row->room.scores + at, row->keys, panel + at * NF, n, row->once);
        }
        for (size_t i = 0; i < row->count; i++)
            for (size_t r = 0; r < at_most(NF, dim - e); r++) row->out[i][e + r] = s[i][r] * row->room.one_over[i];
    }
}

static void scores(const Rows *row, size_t from, size_t to) {
    if (row->c->q8) integer_scores(row, from, to);
    else float_scores(row, from, to);
}

static void values(const Rows *row, size_t first) {
    if (row->c->q8) integer_values(row, first);
    else float_values(row, first);
}

/* All of an attention. A head of the cache has n_q * shared rows: the first query's heads, the second's, and so on. */
typedef struct Queries {
    float *out;
    const float *q;
    const SvCache *c;
    size_t n_q, n_k, heads;
    bool causal;
    float *scratch;
} Queries;

/* Four of head h's rows from row i on, of `count` in all; with room number `room` of the scratch. */
static Rows rows_of(const Queries *a, size_t h, size_t i, size_t count, size_t room) {
    size_t shared = a->heads / a->c->heads;
    Rows row = { .c = a->c, .head = parts_of(a->c, h), .count = at_most(4, count - i) };
    for (size_t r = 0; r < 4; r++) {
        size_t one = at_most(i + r, count - 1), query = one / shared;
        size_t at = (query * a->heads + h * shared + one % shared) * a->c->dim;
        row.q[r] = a->q + at;
        row.out[r] = a->out + at;
        row.seen[r] = a->causal ? a->n_k - a->n_q + 1 + query : a->n_k;
    }
    row.keys = round_up(row.seen[3], KEYS);
    row.once = count <= 4;
    row.room = room_in(a->scratch + room * (size_t)room_floats(a->n_k), row.keys);
    return row;
}

/* Makes *row number `four` of all fours of rows, the first four of each head first, unless *now says that it is. */
static void turn_to(Rows *row, size_t *now, const Queries *a, size_t four, size_t count) {
    if (*now != four) *row = rows_of(a, four % a->c->heads, four / a->c->heads * 4, count, four);
    *now = four;
}

/* Few queries (decoding): each part is shared out among the threads, as the cache may have fewer heads than there are
   threads, or a number that does not divide well. The keys of all heads, one head after the other, are cut into as many
   equal stretches as there are threads. */
static void attention_of_few(const Queries *a) {
    size_t heads = a->c->heads, dim = a->c->dim, count = a->n_q * (a->heads / heads), fours = (count + 3) / 4 * heads;
    size_t pieces = (a->n_k + WIDEST - 1) / WIDEST, strips = (dim + WIDEST - 1) / WIDEST;
    Rows row;
    size_t now = fours;                                     /* none yet */
    size_t all = fours * pieces, first = all * (size_t)thread_index() / (size_t)thread_count();
    size_t end = all * ((size_t)thread_index() + 1) / (size_t)thread_count();
    while (first < end) {
        size_t four = first / pieces, before = four * pieces, next = at_most(end, before + pieces);
        turn_to(&row, &now, a, four, count);
        scores(&row, (first - before) * WIDEST, at_most((next - before) * WIDEST, row.seen[3]));
        first = next;
    }
#pragma omp barrier
#pragma omp for schedule(static)
    for (int64_t u = 0; u < (int64_t)(fours * 4); u++) {
        size_t four = (size_t)u / 4, i = (size_t)u % 4;
        turn_to(&row, &now, a, four, count);
        if (i < row.count) weights_of(&row, i);
        else no_weights(&row, i);
    }
#pragma omp for schedule(static)
    for (int64_t u = 0; u < (int64_t)(fours * strips); u++) {
        size_t four = (size_t)u / strips;
        turn_to(&row, &now, a, four, count);
        values(&row, (size_t)u % strips * WIDEST);
    }
}

/* Many: blocks of ROWS rows, everything about a block by one thread. */
static void attention_of_many(const Queries *a) {
    size_t heads = a->c->heads, count = a->n_q * (a->heads / heads), blocks = (count + ROWS - 1) / ROWS;
#pragma omp for schedule(static, 1)
    for (int64_t u = 0; u < (int64_t)(heads * blocks); u++) {
        size_t first = (size_t)u / heads * ROWS;
        for (size_t i = first; i < at_most(first + ROWS, count); i += 4) {
            Rows row = rows_of(a, (size_t)u % heads, i, count, (size_t)thread_index());
            scores(&row, 0, row.seen[3]);
            for (size_t r = 0; r < row.count; r++) weights_of(&row, r);
            for (size_t r = row.count; r < 4; r++) no_weights(&row, r);
            for (size_t e = 0; e < a->c->dim; e += WIDEST) values(&row, e);
        }
    }
}

static void attention(float *out, const float *q, const SvCache *c, size_t n_q, size_t n_k, size_t heads, bool causal,
                      float *scratch) {
    Queries all = { out, q, c, n_q, n_k, heads, causal, scratch };
#pragma omp barrier
    if (n_q <= FEW) attention_of_few(&all);
    else attention_of_many(&all);
}

/* -------------------------------------------------------------------------------------------- norms and activations */

/* nn.LayerNorm: (x - mean) / sqrt(var + eps) * weight + bias */
static NOINLINE void layer_norm_row(float *out, const float *x, const float *weight, const float *bias, size_t n,
                                    float eps) {
    float mean = sum(x, n) / (float)n;
    float scale = 1.0f / sqrtf(sum_of_squares(x, n, mean) / (float)n + eps);
    size_t j = 0;
    for (; j + VL <= n; j += VL)
        v_store(out + j, (v_load(x + j) - v_set(mean)) * v_set(scale) * v_load(weight + j) + v_load(bias + j));
    for (; j < n; j++) out[j] = (x[j] - mean) * scale * weight[j] + bias[j];
}

static void layer_norm(float *out, const float *x, const float *weight, const float *bias, size_t n, size_t size,
                       float eps) {
#pragma omp for schedule(static) nowait
    for (int64_t i = 0; i < (int64_t)n; i++)
        layer_norm_row(out + (size_t)i * size, x + (size_t)i * size, weight, bias, size, eps);
}

/* LlamaRMSNorm: x / sqrt(mean(x^2) + eps) * weight */
static NOINLINE void rms_norm_row(float *out, const float *x, const float *weight, size_t n, float eps) {
    float scale = 1.0f / sqrtf(sum_of_squares(x, n, 0.0f) / (float)n + eps);
    size_t j = 0;
    for (; j + VL <= n; j += VL) v_store(out + j, v_load(x + j) * v_set(scale) * v_load(weight + j));
    for (; j < n; j++) out[j] = x[j] * scale * weight[j];
}

static void rms_norm(float *out, const float *x, const float *weight, size_t n, size_t size, float eps) {
#pragma omp for schedule(static) nowait
    for (int64_t i = 0; i < (int64_t)n; i++)
        rms_norm_row(out + (size_t)i * size, x + (size_t)i * size, weight, size, eps);
}

/* 0.5 x (1 + tanh(u)), u = sqrt(2/pi) (x + 0.044715 x^3). As 1 + tanh(u) = 2 / (1 + e^-2u), one exp does it, without
   the cancellation that 1 + tanh suffers where tanh nears -1. */
static inline vf v_gelu(vf x) {
    vf u = v_set(0.79788456080286536f) * (x + v_set(0.044715f) * (x * x * x));
    return x / (v_set(1.0f) + v_exp(v_set(-2.0f) * u));
}

/* silu(gate) * up, silu(x) = x / (1 + e^-x) */
static inline vf v_silu_mul(vf gate, vf up) { return gate / (v_set(1.0f) + v_exp(-gate)) * up; }

static NOINLINE void gelu_row(float *x, size_t n) {
    size_t i = 0;
    for (; i + VL <= n; i += VL) v_store(x + i, v_gelu(v_load(x + i)));
    Rest rest = rest_of(x + i, n - i);
    v_store(rest.x, v_gelu(v_load(rest.x)));
    memcpy(x + i, rest.x, (n - i) * sizeof *x);
}

static NOINLINE void silu_row(float *gate, const float *up, size_t n) {
    size_t i = 0;
    for (; i + VL <= n; i += VL) v_store(gate + i, v_silu_mul(v_load(gate + i), v_load(up + i)));
    Rest a = rest_of(gate + i, n - i), b = rest_of(up + i, n - i);
    v_store(a.x, v_silu_mul(v_load(a.x), v_load(b.x)));
    memcpy(gate + i, a.x, (n - i) * sizeof *gate);
}

static NOINLINE void add_row(float *x, const float *y, size_t n) {
    for (size_t i = 0; i < n; i++) x[i] += y[i];
}

static void gelu_tanh(float *x, size_t n, size_t size) {
#pragma omp for schedule(static) nowait
    for (int64_t i = 0; i < (int64_t)n; i++) gelu_row(x + (size_t)i * size, size);
}

static void silu_mul(float *gate, const float *up, size_t n, size_t size) {
#pragma omp for schedule(static) nowait
    for (int64_t i = 0; i < (int64_t)n; i++) silu_row(gate + (size_t)i * size, up + (size_t)i * size, size);
}

static void add(float *x, const float *y, size_t n, size_t size) {
#pragma omp for schedule(static) nowait
    for (int64_t i = 0; i < (int64_t)n; i++) add_row(x + (size_t)i * size, y + (size_t)i * size, size);
}

/* ------------------------------------------------------------------------------------------------------- the table */

#define STRING(name) STRING_OF(name)
#define STRING_OF(name) #name
#define TABLE(name) TABLE_OF(name)
#define TABLE_OF(name) sv_kernels_##name

/* The file compiled with the flags of everything else may have any set's code, so its table has a name of its own. */
#ifdef SV_KERNELS_ONLY
#define SV_TABLE TABLE(SV_SET)
#else
#define SV_TABLE sv_kernels_base
#endif

extern const SvKernels SV_TABLE;
const SvKernels SV_TABLE = { STRING(SV_SET), matmul, cache, attention, layer_norm, rms_norm, gelu_tanh, silu_mul,
                                  add };

/* ------------------------------------------------------------------ what exists once, whatever the instruction set */
#ifndef SV_KERNELS_ONLY

/* SV_SETS(X): the other sets of this build, by the Makefile; the fastest first. */
#ifndef SV_SETS
#define SV_SETS(X)
#endif
#define DECLARE(name) extern const SvKernels sv_kernels_##name;
SV_SETS(DECLARE)

#if defined(__linux__) && defined(__aarch64__)              /* elsewhere the Makefile makes no such set */
#include <sys/auxv.h>
#define HAS_dotprod() ((getauxval(AT_HWCAP) >> 20 & 1) != 0)                   /* HWCAP_ASIMDDP */
#endif
#define HAS_avx512() (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") && \
                      __builtin_cpu_supports("avx512vl"))
#define HAS_avx2() (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))

const SvKernels *sv_kernels(int i) {
#define COUNT_DOWN(name) if (HAS_##name() && i-- == 0) return &sv_kernels_##name;
    SV_SETS(COUNT_DOWN)
    return i == 0 ? &sv_kernels_base : NULL;
}

/* A layer's threads meet some twelve times, at 0.2 us and more: work of fewer multiply-adds, 5 us of reading weights,
   is left to the caller's thread. All or one, as a smaller team would make OpenMP end threads and start them again. */
#ifndef WORTH_THREADS                                       /* 1: the tests' teams too */
#define WORTH_THREADS 200000
#endif

int sv_team(int threads, uint64_t work) { return work < WORTH_THREADS ? 1 : threads; }

void sv_team_emit(const SvEvents *events, const char *module, int layer, const float *data, int dims,
                  const int *shape, int axis) {
    if (!events || !events->activation) return;
#pragma omp barrier
    if (thread_index() == 0) sv_emit(events, module, layer, data, dims, shape, axis);
#pragma omp barrier
}

int sv_threads(int wanted) {
#ifdef _OPENMP
    return wanted > 0 ? wanted : omp_get_max_threads();
#else
    (void)wanted;
    return 1;
#endif
}

uint64_t sv_matmul_scratch(uint64_t n, uint64_t cols) { return quantized_floats((n + 3) / 4 * 4, cols); }

uint64_t sv_attention_scratch(uint64_t n_k, uint64_t heads, int threads) {
    return room_floats(n_k) * (heads > (uint64_t)threads ? heads : (uint64_t)threads);
}

uint64_t sv_cache_floats(bool q8, uint64_t capacity, uint64_t heads, uint64_t dim) {
    capacity = (capacity + KEYS - 1) / KEYS * KEYS;
    uint64_t numbers = 2 * heads * capacity * ((dim + WIDEST - 1) / WIDEST * WIDEST);
    return q8 ? 2 * heads * capacity + numbers / 4 : numbers;
}

uint64_t sv_tensor_size(uint32_t format, uint32_t group, uint32_t rows, uint32_t cols) {
    bool in_groups = format == SV_Q8 || format == SV_Q4;
    if (format > SV_Q4 || (in_groups ? group != GROUP : group != 0)) return 0;
    if ((uint64_t)rows * cols > UINT64_MAX / 8) return 0;
    if (!in_groups) return (format == SV_F32 ? 4 : 2) * (uint64_t)rows * cols;
    uint64_t blocks = ((uint64_t)rows + BLOCK_ROWS - 1) / BLOCK_ROWS * (((uint64_t)cols + GROUP - 1) / GROUP);
    return blocks * (block_bytes(format) + BLOCK_ROWS * sizeof(uint16_t));  /* the numbers and the scales */
}

void sv_row(const SvTensor *w, size_t row, float *out) {
    size_t n = w->cols;
    if (w->format == SV_F32) {
        memcpy(out, (const float *)w->data + row * n, n * sizeof *out);
    } else if (w->format == SV_BF16) {
        for (size_t i = 0; i < n; i++) out[i] = from_bf16(((const uint16_t *)w->data)[row * n + i]);
    } else {
        for (size_t g = 0; g * GROUP < n; g++) {
            int8_t unpacked[BLOCK_ROWS * GROUP];
            const int8_t *fours = integers(w, block_of(w, row, g), unpacked) + row % BLOCK_ROWS * 4;
            float scale = from_bf16(scales_of(w, row, g)[row % BLOCK_ROWS]);
            for (size_t k = 0; k < at_most(GROUP, n - g * GROUP); k++)
                out[g * GROUP + k] = (float)fours[k / 4 * BLOCK_ROWS * 4 + k % 4] * scale;
        }
    }
}

float sv_exp(float x) {
    float lane[VL] = { x };
    v_store(lane, v_exp(v_load(lane)));
    return lane[0];
}

/* softmax(x) in place: exp(x - max) / sum. */
void sv_softmax(float *x, size_t n) {
    float max = max_of(x, NULL, n);
    for (size_t i = 0; i < n; i++) x[i] = sv_exp(x[i] - max);
    float scale = 1.0f / sum(x, n);
    for (size_t i = 0; i < n; i++) x[i] *= scale;
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
#endif
