/* rows.h: norms, activations, Hadamard matrices. */
#ifndef SV_ROWS_H
#define SV_ROWS_H

#include "sums.h"

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

/* 0.5 x (1 + tanh(u)), u = sqrt(2/pi) (x + 0.044715 x^3). Since 1 + tanh(u) = 2 / (1 + e^-2u), one exp is enough. It
   also avoids the cancellation in 1 + tanh where tanh is near -1. */
static inline vf v_gelu(vf x) {
    vf u = v_set(0.79788456080286536f) * (x + v_set(0.044715f) * (x * x * x));
    return x / (v_set(1.0f) + v_exp(v_set(-2.0f) * u));
}

/* silu(gate) * up, silu(x) = x / (1 + e^-x) */
static inline vf v_silu_mul(vf gate, vf up) { return gate / (v_set(1.0f) + v_exp(-gate)) * up; }

static NOINLINE void gelu_row(float *x, size_t n) {
    size_t i = 0;
    for (; i + VL <= n; i += VL) v_store(x + i, v_gelu(v_load(x + i)));
    Tail tail = tail_of(x + i, n - i);
    v_store(tail.x, v_gelu(v_load(tail.x)));
    memcpy(x + i, tail.x, (n - i) * sizeof *x);
}

static NOINLINE void silu_row(float *gate, const float *up, size_t n) {
    size_t i = 0;
    for (; i + VL <= n; i += VL) v_store(gate + i, v_silu_mul(v_load(gate + i), v_load(up + i)));
    Tail a = tail_of(gate + i, n - i), b = tail_of(up + i, n - i);
    v_store(a.x, v_silu_mul(v_load(a.x), v_load(b.x)));
    memcpy(gate + i, a.x, (n - i) * sizeof *gate);
}

static NOINLINE void add_row(float *x, const float *y, size_t n) {
    for (size_t i = 0; i < n; i++) x[i] += y[i];
}

/* `vectors` vectors times the Hadamard matrix of `block` numbers: first within each vector, each number to (or from) its
   neighbour at a distance, then vector with vector. As quant.c's, a - b is -b + a. */
static inline void turn(float *x, size_t block, size_t vectors) {
    vf v[SV_GROUP / VL], scale = v_set(1.0f / sqrtf((float)block));
    for (size_t i = 0; i < vectors; i++) {
        v[i] = v_load(x + i * VL);
        if (VL > 1 && block > 1) v[i] = v_exchange(v[i], 1) + v[i] * v_signs(1);
        if (VL > 2 && block > 2) v[i] = v_exchange(v[i], 2) + v[i] * v_signs(2);
        if (VL > 4 && block > 4) v[i] = v_exchange(v[i], 4) + v[i] * v_signs(4);
        if (VL > 8 && block > 8) v[i] = v_exchange(v[i], 8) + v[i] * v_signs(8);
    }
    for (size_t d = 1; d < vectors; d *= 2)
        for (size_t i = 0; i < vectors; i++) {
            if (i & d) continue;
            vf first = v[i], second = v[i + d];
            v[i] = first + second;
            v[i + d] = first - second;
        }
    for (size_t i = 0; i < vectors; i++) v_store(x + i * VL, v[i] * scale);
}

static NOINLINE void hadamard_row(float *x, size_t n) {
    size_t block = sv_hadamard_block(n), step = block > VL ? block : VL, i = 0;
    if (block == 1) return;
    if (block == SV_GROUP)                                  /* the usual one, its loops unrolled */
        for (; i < n; i += SV_GROUP) turn(x + i, SV_GROUP, SV_GROUP / VL);
    for (; i + step <= n; i += step) turn(x + i, block, step / VL);
    if (i == n) return;
    Tail tail = tail_of(x + i, n - i);                      /* where blocks are smaller than vectors */
    turn(tail.x, block, 1);
    memcpy(x + i, tail.x, (n - i) * sizeof *x);
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

static void hadamard(float *x, size_t n, size_t size) {
#pragma omp for schedule(static) nowait
    for (int64_t i = 0; i < (int64_t)n; i++) hadamard_row(x + (size_t)i * size, size);
}

#endif
