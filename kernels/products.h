/* products.h: products of integers, by instruction set.

   The contract that avx512.h, avx2.h, neon.h and plain.h keep (words: kernels.h):

     xint, NR, STEP   what a panel is made of
     pack             copies a block of w to rows r .. r + 15 of one group of a panel
     product4         four rows of x times a panel of `groups` groups of n numbers each:
                          for each group:  sum[i * stride + r] += (float)(x[i] . panel[r]) * scale[r] * d[i]
                      more: sums start from what `sum` holds, else from zero
                      scale: NR for each group, or NULL for ones
                      x, d and by128 point to row 0, group 0; row i starts at x + i * x_stride, d + i * d_stride
                      once: the panel will not be read again, so what follows it in memory is prefetched
     rows16           one row of x (int8, the last group padded with zeros) times 16 rows of w, read as the file stores
                      them, block after block, into sum[16], by the same formula; scale: bf16, 16 for each group;
                      ahead: what follows w in memory is prefetched
     rows16_q4        the same for blocks of Q4

   A block holds four consecutive numbers of each row side by side, because that is what dot-product instructions take.
   One instruction adds four products of bytes to each of 4, 8 or 16 sums. Each row of w is a lane, so no sum runs
   across lanes. */
#ifndef SV_PRODUCTS_H
#define SV_PRODUCTS_H

#include "blocks.h"

#ifdef SV_VNNI
#include "avx512.h"
#include "x86.h"
#elif defined(SV_AVX2)
#include "avx2.h"
#include "x86.h"
#elif defined(SV_NEON)
#include "neon.h"
#else
#include "plain.h"
#endif

/* Whether product4 and rows16 use by128. (rows16_q4 may in every set.) */
#ifdef SV_VNNI
enum { BY128 = 1 };
#else
enum { BY128 = 0 };
#endif

/* panel_at: the index of number k of row r in a panel, where STEP numbers of a row are adjacent. as_in_panels: changes
   bytes to the form that panels hold. (AMX multiplies signed bytes; product4 adds the 128 itself then.) */
static inline size_t panel_at(size_t k, size_t r) { return (k / STEP * NR + r) * STEP + k % STEP; }
static inline void as_in_panels(int8_t *w, size_t n) {
#ifdef SV_AMX
    (void)w, (void)n;
#else
    for (size_t k = 0; k < n && BY128; k++) w[k] = (int8_t)(w[k] ^ -128);
#endif
}

/* int8 -> xint, n a multiple of 16 */
static NOINLINE void widen(xint *to, const int8_t *from, size_t n) {
#if defined(SV_AVX2) && !defined(SV_VNNI)
    for (size_t k = 0; k < n; k += 16)
        _mm256_storeu_si256((__m256i *)(to + k), _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(from + k))));
#else
    for (size_t k = 0; k < n; k++) to[k] = from[k];
#endif
}

#if defined(SV_AVX2) || defined(SV_NEON)
/* Unroll 6 of Q4's 8 steps and 8 of Q8's 16. gcc would unroll all: a cache line then takes so few instructions that a
   Zen 5 speculates too far ahead. Where memory is fast, that cost 4 to 6 %; nops between the steps gained the same.
   Slower: 5 or 6 of 16, 7 of 8. On a Zen 4 with AVX2 (prefetching left out), unrolling all cost 6 to 19 %, four steps
   up to 5 %. Not measured on others. */
INLINE void block_product(float sum[BLOCK_ROWS], const uint8_t *w, const int8_t *x, const float *d,
                          const int32_t *by128, const uint16_t *scale, size_t groups, bool q4, bool ahead) {
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
                if (ahead) prefetch(w, 4 * BLOCK_ROWS);
                for (size_t j = 0; j < VECTORS; j++) {
                    Bytes both = bytes_load(w + 4 * VL * j);
                    s[j] = q4_dot(s[j], q4_low(table, both), bytes_four(k));
                    s[j] = q4_dot(s[j], q4_high(table, both), bytes_four(k + GROUP / 2));
                }
            }
        } else {
#pragma GCC unroll 8
            for (const int8_t *k = x, *end = x + GROUP; k < end; k += 4, w += 4 * BLOCK_ROWS) {
                if (ahead) prefetch(w, 4 * BLOCK_ROWS);
                for (size_t j = 0; j < VECTORS; j++)
                    s[j] = bytes_dot(s[j], bytes_load(w + 4 * VL * j), bytes_four(k));
            }
        }
        for (size_t j = 0; j < VECTORS; j++) total[j] += v_float(s[j]) * load_bf16(scale + j * VL) * v_set(d[g]);
    }
    for (size_t j = 0; j < VECTORS; j++) v_store(sum + j * VL, total[j]);
}

static NOINLINE void rows16(float sum[BLOCK_ROWS], const uint8_t *w, const int8_t *x, const float *d,
                            const int32_t *by128, const uint16_t *scale, size_t groups, bool ahead) {
    if (ahead) block_product(sum, w, x, d, by128, scale, groups, false, true);
    else block_product(sum, w, x, d, by128, scale, groups, false, false);
}

static NOINLINE void rows16_q4(float sum[BLOCK_ROWS], const uint8_t *w, const int8_t *x, const float *d,
                               const int32_t *by128, const uint16_t *scale, size_t groups, bool ahead) {
    if (ahead) block_product(sum, w, x, d, by128, scale, groups, true, true);
    else block_product(sum, w, x, d, by128, scale, groups, true, false);
}
#endif

#endif
