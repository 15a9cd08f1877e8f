/* x86.h: what AVX2 and AVX-512 share: product4 over the vectors of avx2.h or avx512.h, and Q4.

   Q4: a level minus the smallest level is 0 .. 113, an unsigned byte; two of its products fit an int16. The accumulator
   starts at smallest * (sum of x) to make up for the subtraction. */
#ifndef SV_X86_H
#define SV_X86_H

#include "blocks.h"

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
