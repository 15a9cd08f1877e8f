/* floats.h: products of floats, for f32 and bf16.

   The shape is that of product4: four rows of x times a panel of NF rows of w, [n][NF], here of floats. */
#ifndef SV_FLOATS_H
#define SV_FLOATS_H

#include "blocks.h"

enum { NF = VL == 1 ? 4 : 2 * VL, NV = NF / VL };
enum { FLOAT_CHAINS = VL == 16 ? 2 : 1 };                    /* as CHAINS: even and odd numbers apart */

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

/* x . w for one row of w, read once. SUMS accumulators hide the latency of the additions. */
enum { SUMS = 8 };

static inline float total_of(const vf v[SUMS], float rest) {
    vf all = ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]));
    float lane[VL];
    v_store(lane, all);
    for (int l = 0; l < VL; l++) rest += lane[l];
    return rest;
}

static NOINLINE float dot_f32(const float *x, const float *w, size_t n, bool ahead) {
    vf v[SUMS];
    float rest = 0;
    size_t i = 0;
    for (int j = 0; j < SUMS; j++) v[j] = v_set(0.0f);
    for (; i + SUMS * VL <= n; i += SUMS * VL) {
        if (ahead) prefetch(w + i, SUMS * VL * sizeof *w);
        for (size_t j = 0; j < SUMS; j++) v[j] = v_fused(v_load(x + i + j * VL), v_load(w + i + j * VL), v[j]);
    }
    for (; i + VL <= n; i += VL) v[0] = v_fused(v_load(x + i), v_load(w + i), v[0]);
    for (; i < n; i++) rest += x[i] * w[i];
    return total_of(v, rest);
}

static NOINLINE float dot_bf16(const float *x, const uint16_t *w, size_t n, bool ahead) {
    vf v[SUMS];
    float rest = 0;
    size_t i = 0;
    for (int j = 0; j < SUMS; j++) v[j] = v_set(0.0f);
    for (; i + SUMS * VL <= n; i += SUMS * VL) {
        if (ahead) prefetch(w + i, SUMS * VL * sizeof *w);
        for (size_t j = 0; j < SUMS; j++) v[j] = v_fused(v_load(x + i + j * VL), load_bf16(w + i + j * VL), v[j]);
    }
    for (; i + VL <= n; i += VL) v[0] = v_fused(v_load(x + i), load_bf16(w + i), v[0]);
    for (; i < n; i++) rest += x[i] * from_bf16(w[i]);
    return total_of(v, rest);
}

#endif
