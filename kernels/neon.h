/* neon.h: NEON, with and without dot products.

   sdot adds four products of bytes to each int32; panel: [n / 4][16 rows][4]. Without it, smlal adds products of int16;
   panel: [n][16 rows]. */
#ifndef SV_NEON_H
#define SV_NEON_H

#include "blocks.h"

typedef int8x16_t Bytes;
static inline Bytes bytes_load(const void *from) { return vld1q_s8(from); }
static inline Bytes bytes_four(const int8_t *x) { return vreinterpretq_s8_s32(vdupq_n_s32(four_bytes(x))); }

#ifdef SV_DOTPROD
typedef int8_t xint;
enum { NR = 16, STEP = 4 };

static void pack(int8_t *panel, size_t r, const int8_t *block) { memcpy(panel + r * 4, block, BLOCK_ROWS * GROUP); }

static inline void add_products(int32x4_t s[4][4], const xint *x, size_t x_stride, const int8_t *panel, size_t n) {
    for (size_t k = 0; k < n; k += 4, panel += NR * 4) {
        int8x16_t w[4];
        for (int j = 0; j < 4; j++) w[j] = vld1q_s8(panel + 16 * j);
        for (size_t i = 0; i < 4; i++) {
            Bytes four = bytes_four(x + i * x_stride + k);
            for (int j = 0; j < 4; j++) s[i][j] = vdotq_s32(s[i][j], w[j], four);
        }
    }
}

static inline vi bytes_dot(vi s, Bytes w, Bytes x) { return (vi)vdotq_s32((int32x4_t)s, w, x); }
#else
typedef int16_t xint;
enum { NR = 16, STEP = 1 };

static NOINLINE void pack(int8_t *panel, size_t r, const int8_t *block) {
    for (size_t k = 0; k < GROUP; k += 4) {
        int8x16x4_t number = vld4q_s8(block + k * BLOCK_ROWS);
        for (size_t j = 0; j < 4; j++) vst1q_s8(panel + (k + j) * NR + r, number.val[j]);
    }
}

static inline void add_products(int32x4_t s[4][4], const xint *x, size_t x_stride, const int8_t *panel, size_t n) {
    for (size_t k = 0; k < n; k++, panel += NR) {
        int8x16_t w = vld1q_s8(panel);
        int16x8_t w0 = vmovl_s8(vget_low_s8(w)), w1 = vmovl_high_s8(w);
        for (size_t i = 0; i < 4; i++) {
            int16x4_t v = vdup_n_s16(x[i * x_stride + k]);
            s[i][0] = vmlal_s16(s[i][0], vget_low_s16(w0), v);
            s[i][1] = vmlal_s16(s[i][1], vget_high_s16(w0), v);
            s[i][2] = vmlal_s16(s[i][2], vget_low_s16(w1), v);
            s[i][3] = vmlal_s16(s[i][3], vget_high_s16(w1), v);
        }
    }
}

static inline vi bytes_dot(vi s, Bytes w, Bytes x) {
    int32x4_t low = vpaddlq_s16(vmull_s8(vget_low_s8(w), vget_low_s8(x)));
    return s + (vi)vpaddq_s32(low, vpaddlq_s16(vmull_high_s8(w, x)));
}
#endif

static NOINLINE void product4(float *sum, size_t stride, bool more, const xint *x, size_t x_stride, const float *d,
                              const int32_t *by128, size_t d_stride, const int8_t *panel, const float *scale, size_t n,
                              size_t groups, bool once) {
    (void)by128;
    for (size_t g = 0; g < groups; g++, d++, x += n, panel += n * NR, more = true) {
        int32x4_t s[4][4];
        if (once) prefetch(panel, n * NR);
        for (int i = 0; i < 4; i++)
            for (int j = 0; j < 4; j++) s[i][j] = vdupq_n_s32(0);
        add_products(s, x, x_stride, panel, n);
        for (size_t i = 0; i < 4; i++)
            for (size_t j = 0; j < 4; j++) {
                float *to = sum + i * stride + 4 * j;
                float32x4_t a = vcvtq_f32_s32(s[i][j]);
                if (scale) a = vmulq_f32(a, vld1q_f32(scale + g * NR + 4 * j));
                vst1q_f32(to, vaddq_f32(more ? vld1q_f32(to) : vdupq_n_f32(0), vmulq_n_f32(a, d[i * d_stride])));
            }
    }
}

static inline vi wide_start(int32_t by128) { (void)by128; return (vi){ 0 }; }
static inline vi q4_start(int32_t by128) { (void)by128; return (vi){ 0 }; }
static inline Bytes q4_table(void) { return vld1q_s8(q4_values); }
static inline Bytes q4_low(Bytes table, Bytes both) {
    return vqtbl1q_s8(table, vandq_u8(vreinterpretq_u8_s8(both), vdupq_n_u8(15)));
}
static inline Bytes q4_high(Bytes table, Bytes both) {
    return vqtbl1q_s8(table, vshrq_n_u8(vreinterpretq_u8_s8(both), 4));
}
static inline vi q4_dot(vi s, Bytes w, Bytes x) { return bytes_dot(s, w, x); }

#endif
