/* blocks.h: the blocks of Q8 and Q4 matrices, as the file stores them. */
#ifndef SV_BLOCKS_H
#define SV_BLOCKS_H

#include "vectors.h"

static const int8_t q4_values[16] = SV_Q4_VALUES;
enum { GROUP = SV_GROUP, BLOCK_ROWS = SV_BLOCK_ROWS };

static inline float from_bf16(uint16_t bits) {
    union { uint32_t u; float f; } value = { (uint32_t)bits << 16 };
    return value.f;
}

static inline vf load_bf16(const uint16_t *from) {
#ifdef SV_VNNI                                      /* gcc 12 emits six instructions where two do */
    __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from));
    return of_bits((vu)_mm512_slli_epi32(wide, 16));
#elif defined(SV_AVX2)
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)from));
    return of_bits((vu)_mm256_slli_epi32(wide, 16));
#elif defined(SV_VECTORS)
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

/* The block that holds group g of row r, and the 16 scales of that block. Those of group g + 1 follow directly. */
static const uint8_t *block_of(const SvTensor *w, size_t r, size_t g) {
    return (const uint8_t *)w->data + (r / BLOCK_ROWS * groups_of(w) + g) * block_bytes(w->format);
}

static const uint16_t *scales_of(const SvTensor *w, size_t r, size_t g) {
    const uint16_t *first = (const uint16_t *)block_of(w, round_up(w->rows, BLOCK_ROWS), 0);
    return first + (r / BLOCK_ROWS * groups_of(w) + g) * BLOCK_ROWS;
}

/* Unpacks a block of Q4 to one of Q8. */
static NOINLINE void unpack_q4(int8_t to[BLOCK_ROWS * GROUP], const uint8_t *from) {
    const size_t half = BLOCK_ROWS * GROUP / 2;
    for (size_t j = 0; j < half; j += 16) {
#ifdef SV_AVX2
        const __m128i values = _mm_loadu_si128((const __m128i *)q4_values), low = _mm_set1_epi8(15);
        __m128i both = _mm_loadu_si128((const __m128i *)(from + j)), high = _mm_srli_epi16(both, 4);
        _mm_storeu_si128((__m128i *)(to + j), _mm_shuffle_epi8(values, _mm_and_si128(both, low)));
        _mm_storeu_si128((__m128i *)(to + half + j), _mm_shuffle_epi8(values, _mm_and_si128(high, low)));
#elif defined(SV_NEON)
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

#endif
