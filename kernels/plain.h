/* plain.h: the integer products in plain C, for machines without any of the other sets. */
#ifndef SV_PLAIN_H
#define SV_PLAIN_H

#include "blocks.h"

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

static inline void add_group(float sum[BLOCK_ROWS], const int8_t *block, const int8_t *x, const uint16_t *scale,
                             float d) {
    int32_t dot[BLOCK_ROWS] = { 0 };
    for (size_t k = 0; k < GROUP; k += 4)
        for (size_t r = 0; r < BLOCK_ROWS; r++, block += 4)
            dot[r] += x[k] * block[0] + x[k + 1] * block[1] + x[k + 2] * block[2] + x[k + 3] * block[3];
    for (size_t r = 0; r < BLOCK_ROWS; r++) sum[r] += (float)dot[r] * from_bf16(scale[r]) * d;
}

static NOINLINE void rows16(float sum[BLOCK_ROWS], const uint8_t *w, const int8_t *x, const float *d,
                            const int32_t *by128, const uint16_t *scale, size_t groups, bool ahead) {
    (void)by128;
    memset(sum, 0, BLOCK_ROWS * sizeof *sum);
    for (size_t g = 0; g < groups; g++, w += BLOCK_ROWS * GROUP) {
        if (ahead) prefetch(w, BLOCK_ROWS * GROUP);
        add_group(sum, (const int8_t *)w, x + g * GROUP, scale + g * BLOCK_ROWS, d[g]);
    }
}

static NOINLINE void rows16_q4(float sum[BLOCK_ROWS], const uint8_t *w, const int8_t *x, const float *d,
                               const int32_t *by128, const uint16_t *scale, size_t groups, bool ahead) {
    (void)by128;
    memset(sum, 0, BLOCK_ROWS * sizeof *sum);
    for (size_t g = 0; g < groups; g++, w += BLOCK_ROWS * GROUP / 2) {
        int8_t block[BLOCK_ROWS * GROUP];
        if (ahead) prefetch(w, BLOCK_ROWS * GROUP / 2);
        unpack_q4(block, w);
        add_group(sum, block, x + g * GROUP, scale + g * BLOCK_ROWS, d[g]);
    }
}

#endif
