/* quantize.h: quantizes rows of floats to integers.

   x = d q for a group: q = x * (127 / max |x|), rounded to nearest, ties to even, and d = max |x| * (1 / 127). q gets
   `size` numbers, zeros from n on. A group of (next to) nothing becomes zeros. One with an infinity or a NaN gets d =
   NaN, so that the fault stays visible. The maximum is taken over the bits as integers, among which NaN is the largest.
   *by128, unless it is NULL: 128 times the sum of q. */
#ifndef SV_QUANTIZE_H
#define SV_QUANTIZE_H

#include "products.h"

enum { MAX_GROUP = 512 };

static inline void low_bytes(int8_t to[16], const vu bits[16 / VL]) {
#ifdef SV_VNNI
    _mm_storeu_si128((__m128i *)to, _mm512_cvtepi32_epi8((__m512i)bits[0]));
#elif defined(SV_AVX2)
    const __m256i pick = _mm256_set1_epi32(0x0c080400);
    __m256i a = _mm256_shuffle_epi8((__m256i)bits[0], pick), b = _mm256_shuffle_epi8((__m256i)bits[1], pick);
    __m256i both = _mm256_permutevar8x32_epi32(_mm256_unpacklo_epi32(a, b), _mm256_setr_epi32(0, 4, 1, 5, 0, 0, 0, 0));
    _mm_storeu_si128((__m128i *)to, _mm256_castsi256_si128(both));
#elif defined(SV_NEON)
    uint16x8_t a = vuzp1q_u16((uint16x8_t)bits[0], (uint16x8_t)bits[1]);
    uint16x8_t b = vuzp1q_u16((uint16x8_t)bits[2], (uint16x8_t)bits[3]);
    vst1q_s8(to, (int8x16_t)vuzp1q_u8((uint8x16_t)a, (uint8x16_t)b));
#else
    uint32_t one[16];
    memcpy(one, bits, sizeof one);
    for (int j = 0; j < 16; j++) to[j] = (int8_t)(one[j] & 255);
#endif
}

#ifdef SV_AVX2
/* A whole group of 64, which stays in registers from the maximum to the bytes. The conversion rounds as adding `round`
   does below. wide: q gets int16, else int8. */
enum { PARTS = GROUP / VL };

static inline void narrow(void *q, const vi n[PARTS], bool wide) {
#ifdef SV_VNNI
    (void)wide;                                             /* this set's products take bytes */
    __m512i a = _mm512_packs_epi32((__m512i)n[0], (__m512i)n[1]), b = _mm512_packs_epi32((__m512i)n[2], (__m512i)n[3]);
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    __m512i bytes = _mm512_permutexvar_epi32(order, _mm512_packs_epi16(a, b));
    memcpy(q, &bytes, sizeof bytes);
#else
    for (int j = 0; j < PARTS; j += 4) {
        __m256i a = _mm256_packs_epi32((__m256i)n[j], (__m256i)n[j + 1]);
        __m256i b = _mm256_packs_epi32((__m256i)n[j + 2], (__m256i)n[j + 3]);
        if (wide) {
            _mm256_storeu_si256((__m256i *)q + j / 2, _mm256_permute4x64_epi64(a, 0xd8));
            _mm256_storeu_si256((__m256i *)q + j / 2 + 1, _mm256_permute4x64_epi64(b, 0xd8));
        } else {
            const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
            __m256i bytes = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(a, b), order);
            _mm256_storeu_si256((__m256i *)q + j / 4, bytes);
        }
    }
#endif
}

static inline vi nearest(vf x) {
#ifdef SV_VNNI
    return (vi)_mm512_cvtps_epi32(x);
#else
    return (vi)_mm256_cvtps_epi32(x);
#endif
}

static NOINLINE float quantize64(void *q, const float *x, int32_t *by128, bool wide) {
    vi most = { 0 }, total = { 0 }, n[PARTS];
    vf part[PARTS];
    for (int j = 0; j < PARTS; j++) part[j] = v_load(x + j * VL);
    for (int j = 0; j < PARTS; j++) most = v_max_int((vi)(bits_of(part[j]) & 0x7fffffffu), most);
    int32_t largest = v_largest(most);
    float max;
    memcpy(&max, &largest, sizeof max);
    if (!(max > 1e-30f && max <= FLT_MAX)) {
        memset(q, 0, wide ? 2 * GROUP : GROUP);
        if (by128) *by128 = 0;
        return max <= 1e-30f ? 0 : NAN;
    }
    vf scale = v_set(127.0f / max);
    for (int j = 0; j < PARTS; j++) n[j] = nearest(part[j] * scale);
    narrow(q, n, wide);
    if (by128) {
        for (int j = 0; j < PARTS; j++) total += n[j];
        *by128 = 128 * v_total(total);
    }
    return max * (1.0f / 127);
}
#endif

static NOINLINE float quantize(int8_t *q, const float *x, size_t n, size_t size, int32_t *by128) {
#ifdef SV_AVX2
    if (n == GROUP && size == GROUP) return quantize64(q, x, by128, false);
#endif
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
    const float round = 12582912.0f;                        /* 1.5 * 2^23: adding it rounds to an integer */
    vf scale = v_set(127.0f / max);
    vi total = (vi)bits_of(v_set(0.0f));
    for (size_t k = 0; k < size; k += 16) {
        vu bits[16 / VL];                                   /* the lowest byte is the integer's */
        for (int j = 0; j < 16 / VL; j++) {
            bits[j] = bits_of(v_load(x + k + j * VL) * scale + v_set(round));
            total += (vi)(bits[j] - 0x4b400000u);           /* minus the bits of `round` */
        }
        low_bytes(q + k, bits);
    }
    if (by128) *by128 = 128 * v_total(total);
    return max * (1.0f / 127);
}

/* Rows of x are allocated by X_ROWS, as product4 (or a tile) always reads so many. */
#ifdef SV_AMX
enum { X_ROWS = 16, TILED = 1 };
#else
enum { X_ROWS = 4, TILED = 0 };
#endif

/* Rows of x as integers: bytes [n, stride] for rows16, or q [n, stride] for product4. d, by128 [n, marks]: the scale
   and by128 of each group. Where they are `tiled`, for amx.h: bytes [n / 16, groups, 16, GROUP], d [n / 16, groups,
   16], and no by128. */
typedef struct Quantized {
    int8_t *bytes;
    xint *q;
    float *d;
    int32_t *by128;
    size_t stride, marks, groups, group;
    bool tiled;
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

/* Where group g of a row lies: its index in d and by128, and its bytes. */
static inline size_t mark_of(const Quantized *x, size_t row, size_t g) {
    if (TILED && x->tiled) return (row / X_ROWS * x->groups + g) * X_ROWS + row % X_ROWS;
    return row * x->marks + g;
}

static inline int8_t *bytes_of(const Quantized *x, size_t row, size_t g) {
    if (TILED && x->tiled) return x->bytes + mark_of(x, row, g) * GROUP;
    return x->bytes + row * x->stride + g * x->group;
}

/* Quantizes group g of the `cols` numbers at `from` into a row of x. */
static inline void quantize_group(const Quantized *x, size_t row, const float *from, size_t cols, size_t g,
                                  bool to_bytes) {
    int8_t room[MAX_GROUP];
#if defined(SV_AVX2) && !defined(SV_VNNI)
    if (!to_bytes && x->group == GROUP && cols - g * GROUP >= GROUP) {      /* to int16 at once */
        x->d[row * x->marks + g] = quantize64(x->q + row * x->stride + g * GROUP, from + g * GROUP, NULL, true);
        return;
    }
#endif
    bool same = sizeof(xint) == 1 || to_bytes;
    size_t at = g * x->group;
    int8_t *bytes = same ? bytes_of(x, row, g) : room;
    x->d[mark_of(x, row, g)] = quantize(bytes, from + at, at_most(x->group, cols - at), x->group,
                                        to_bytes || (BY128 && !x->tiled) ? &x->by128[mark_of(x, row, g)] : NULL);
    if (!same) widen(x->q + row * x->stride + at, bytes, x->group);
}

static NOINLINE void quantize_row(const Quantized *x, size_t row, const float *from, size_t cols, bool to_bytes) {
    for (size_t g = 0; g < x->groups; g++) quantize_group(x, row, from, cols, g, to_bytes);
}

#endif
