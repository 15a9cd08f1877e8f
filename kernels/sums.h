/* sums.h: sums over a row in the fixed order that quant.c defines. */
#ifndef SV_SUMS_H
#define SV_SUMS_H

#include "vectors.h"

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
    Tail tail = tail_of(x + i, n - i);
    for (int j = 0; j < LANES / VL; j++) v_store(s + j * VL, v[j] + v_load(tail.x + j * VL));
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

/* The largest number of x. Unless scale is NULL, each x[i] is first multiplied by scale[i], in place. */
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

#endif
