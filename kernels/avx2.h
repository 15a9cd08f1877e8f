/* avx2.h: AVX2.

   AVX2 has no vpdpbusd. For a panel the bytes are widened to int16, and vpmaddwd adds two products to each int32.
   Panel: [n / 2][16 rows][2].

   For one row of x, vpmaddubsw adds two products of bytes to each int16. That is exact if the signs of w are moved to x
   (2 * 128 * 127 fits). vpmaddwd by ones then adds two of those to each int32. This is faster there, because the bytes
   need no widening. For a panel it is slower, because moving the signs takes the ports that multiply.

   CHAINS: only the additions depend on each other here, and no registers are left for more accumulators. */
#ifndef SV_AVX2_H
#define SV_AVX2_H

#include "blocks.h"

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

/* Four numbers of eight rows at a time: their first pairs go to one step of the panel, their second pairs to the
   next. */
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
