/* products.h: products of integers, by instruction set.

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

/* Whether product4 and rows16 look at by128; rows16_q4 may always. */
#ifdef SV_VNNI
enum { BY128 = 1 };
#else
enum { BY128 = 0 };
#endif

/* Where a panel has number k of its row r: STEP numbers of a row lie side by side. And what bytes become there. */
static inline size_t panel_at(size_t k, size_t r) { return (k / STEP * NR + r) * STEP + k % STEP; }
static inline void as_in_panels(int8_t *w, size_t n) {
    for (size_t k = 0; k < n && BY128; k++) w[k] = (int8_t)(w[k] ^ -128);
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

#endif
