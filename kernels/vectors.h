/* vectors.h: float vectors as wide as the instruction set has them, e^x, prefetching.

   These are gcc's and clang's vector types: an operator works on all elements at once, in whatever registers there
   are. */
#ifndef SV_VECTORS_H
#define SV_VECTORS_H

#include "kernels.h"

#ifdef SV_VECTORS
#ifdef SV_VNNI
enum { VL = 16 };
#elif defined(SV_AVX2)
enum { VL = 8 };
#else
enum { VL = 4 };
#endif
typedef float vf __attribute__((vector_size(VL * 4)));
typedef int32_t vi __attribute__((vector_size(VL * 4)));
typedef uint32_t vu __attribute__((vector_size(VL * 4)));
static inline vu bits_of(vf x) { return (vu)x; }
static inline vf of_bits(vu x) { return (vf)x; }
static inline vf v_set(float x) { return x - (vf){ 0 }; }
#else
enum { VL = 1 };
typedef float vf;
typedef int32_t vi;
typedef uint32_t vu;
static inline vu bits_of(vf x) { union { float f; uint32_t u; } bits = { x }; return bits.u; }
static inline vf of_bits(vu x) { union { uint32_t u; float f; } bits = { x }; return bits.f; }
static inline vf v_set(float x) { return x; }
#endif

static inline vf v_load(const float *from) { vf x; memcpy(&x, from, sizeof x); return x; }
static inline void v_store(float *to, vf x) { memcpy(to, &x, sizeof x); }

/* v_max: a > b ? a : b. v_min: a < b ? a : b. Both give b if either is NaN. */
#ifdef SV_VNNI
static inline vf v_max(vf a, vf b) { return _mm512_max_ps(a, b); }
static inline vi v_max_int(vi a, vi b) { return (vi)_mm512_max_epi32((__m512i)a, (__m512i)b); }
static inline vf v_min(vf a, vf b) { return _mm512_min_ps(a, b); }
#elif defined(SV_AVX2)
static inline vf v_max(vf a, vf b) { return _mm256_max_ps(a, b); }
static inline vi v_max_int(vi a, vi b) { return (vi)_mm256_max_epi32((__m256i)a, (__m256i)b); }
static inline vf v_min(vf a, vf b) { return _mm256_min_ps(a, b); }
#elif defined(SV_VECTORS)
static inline vi v_choose(vi mask, vi yes, vi no) { return (mask & yes) | (~mask & no); }
static inline vf v_max(vf a, vf b) { return (vf)v_choose(a > b, (vi)a, (vi)b); }
static inline vf v_min(vf a, vf b) { return (vf)v_choose(a < b, (vi)a, (vi)b); }
#ifdef SV_NEON
static inline vi v_max_int(vi a, vi b) { return (vi)vmaxq_s32((int32x4_t)a, (int32x4_t)b); }
#else
static inline vi v_max_int(vi a, vi b) { return v_choose(a > b, a, b); }
#endif
#else
static inline vf v_max(vf a, vf b) { return a > b ? a : b; }
static inline vf v_min(vf a, vf b) { return a < b ? a : b; }
static inline vi v_max_int(vi a, vi b) { return a > b ? a : b; }
#endif

/* Each element's neighbour at a distance of 1, 2, 4 or 8: that of element i is i ^ distance. And what tells the two apart:
   1 for the first, -1 for the second. The distance is a constant, so that compilers make one shuffle of it. */
#ifdef SV_VECTORS
#define V_FOUR(one, i) one(i), one((i) + 1), one((i) + 2), one((i) + 3)
#ifdef SV_VNNI
#define V_ALL(one) (vf){ V_FOUR(one, 0), V_FOUR(one, 4), V_FOUR(one, 8), V_FOUR(one, 12) }
#elif defined(SV_AVX2)
#define V_ALL(one) (vf){ V_FOUR(one, 0), V_FOUR(one, 4) }
#else
#define V_ALL(one) (vf){ V_FOUR(one, 0) }
#endif
#define V_NEIGHBOUR(i) x[(i) ^ distance]
#define V_SIGN(i) ((i) & distance ? -1.0f : 1.0f)
static inline vf v_exchange(vf x, int distance) { return V_ALL(V_NEIGHBOUR); }
static inline vf v_signs(int distance) { return V_ALL(V_SIGN); }
#else
static inline vf v_exchange(vf x, int distance) { (void)distance; return x; }
static inline vf v_signs(int distance) { (void)distance; return 1.0f; }
#endif

/* The largest element, and the sum of all: half of the vector with the other half, then quarters, and so on. (To store
   a vector and read its numbers one by one takes longer: the processor waits for the store.) */
static inline int32_t v_first(vi x) { int32_t first; memcpy(&first, &x, sizeof first); return first; }
static inline int32_t v_largest(vi x) {
    if (VL > 8) x = v_max_int(x, (vi)v_exchange((vf)x, 8));
    if (VL > 4) x = v_max_int(x, (vi)v_exchange((vf)x, 4));
    if (VL > 2) x = v_max_int(x, (vi)v_exchange((vf)x, 2));
    if (VL > 1) x = v_max_int(x, (vi)v_exchange((vf)x, 1));
    return v_first(x);
}
static inline int32_t v_total(vi x) {
    if (VL > 8) x += (vi)v_exchange((vf)x, 8);
    if (VL > 4) x += (vi)v_exchange((vf)x, 4);
    if (VL > 2) x += (vi)v_exchange((vf)x, 2);
    if (VL > 1) x += (vi)v_exchange((vf)x, 1);
    return v_first(x);
}

/* a * b + c, rounded once where the machine has a fused multiply-add. Only for f32 and bf16 products, where a * b is
   exact, and in amx.h, whose set always has one. */
#ifdef SV_VNNI
static inline vf v_fused(vf a, vf b, vf c) { return _mm512_fmadd_ps(a, b, c); }
#elif defined(SV_AVX2) && defined(__FMA__)
static inline vf v_fused(vf a, vf b, vf c) { return _mm256_fmadd_ps(a, b, c); }
#elif defined(SV_NEON)
static inline vf v_fused(vf a, vf b, vf c) { return (vf)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b); }
#else
static inline vf v_fused(vf a, vf b, vf c) { return a * b + c; }
#endif

/* e^x = 2^n e^r, as sv_exp in quant.c, which explains it. n times either part of ln 2 is exact, so these two
   multiply-adds may be fused: they are rounded once in any case. v_exp_below: of an x that is 87 at most. */
static inline vf v_exp_below(vf x) {
    const float round = 12582912.0f + 127;                  /* as in quant.c */
    x = v_max(v_set(-87.0f), x);                            /* operands in this order let a NaN through */
    vf shifted = x * v_set(1.44269504088896341f) + v_set(round);
    vf n = shifted - v_set(round);
    vf r = v_fused(n, v_set(-0x1.62e4p-1f), x);
    r = v_fused(n, v_set(-0x1.7f7dp-20f), r);
    vf r2 = r * r;
    vf low = v_set(0.49999991f) + r * v_set(0.16666520f);
    vf high = (v_set(0.041669092f) + r * v_set(0.0083688833f)) + r2 * v_set(0.0013780382f);
    return (v_set(1.0f) + (r + (low + high * r2) * r2)) * of_bits(bits_of(shifted) << 23);
}

static inline vf v_exp(vf x) { return v_exp_below(v_min(v_set(87.0f), x)); }

#ifdef SV_VECTORS
static inline vf v_float(vi x) {
#ifdef SV_VNNI
    return _mm512_cvtepi32_ps((__m512i)x);
#else
    return __builtin_convertvector(x, vf);
#endif
}

static inline int32_t four_bytes(const void *from) { int32_t four; memcpy(&four, from, 4); return four; }
#endif

/* Prefetch for data that is streamed once, AHEAD bytes in advance. The hardware prefetcher stops at the end of every
   page. Locality 3 means into all cache levels, although the data is not reused. Locality 0 (prefetchnta) looks better,
   but on Intel it bypasses L2: each line then occupies one of L1's few fill buffers for the whole memory latency.

   Decoding, measured:
     Sapphire Rapids, AVX-512    locality 0 takes 2.3 times as long as 1, 2 or 3
     Zen 5, AVX-512              3 takes 2 to 3 % longer than 0; so does no prefetching at all
     Zen 4, AVX2 only            3 takes 1 % longer than 0, 1 and 2 take 3 to 6 %.
                                 AHEAD from 2048 to 5120: within 4 %; 1024 or less, 8192 or more: 1 to 7 % longer
   So 3 is never far from the best way to prefetch. But on that Zen 4 it is better not to: Q8 and bf16 take 4 to 12 %
   less time then (Q4 about the same). So it is found out when the program runs whether to prefetch weights: a decoder's
   first steps take turns (sv_trial). Keys and values are always prefetched: on that Zen 4, too, it saves 4 to 9 % of the
   time at 1000 and 4000 positions. Not measured: Intel with AVX2 only, Zen 1 to 3, ARM. */
enum { AHEAD = 5120 };
static inline void prefetch(const void *from, size_t bytes) {
#ifdef SV_VECTORS
    for (size_t i = 0; i < bytes; i += 64) __builtin_prefetch((const void *)((uintptr_t)from + AHEAD + i), 0, 3);
#else
    (void)from, (void)bytes;
#endif
}

/* Prefetches what is used soon into L2. Best called for a little at a time, between other work: a processor drops
   prefetches that come faster than memory can serve them (a Zen 5: more than one line in 4 ns). */
static inline void ask_for(const void *from, size_t bytes) {
#ifdef SV_VECTORS
    for (size_t i = 0; i < bytes; i += 64) __builtin_prefetch((const char *)from + i, 0, 2);
#else
    (void)from, (void)bytes;
#endif
}

/* Tail of a row: its last n % LANES numbers, in a copy padded with zeros. */
typedef struct Tail { float x[LANES]; } Tail;
static inline Tail tail_of(const float *x, size_t n) {
    Tail tail = { { 0 } };
    memcpy(tail.x, x, n * sizeof *x);
    return tail;
}

#endif
