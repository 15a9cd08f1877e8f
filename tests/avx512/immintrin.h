/* tests/avx512/immintrin.h: the AVX-512 intrinsics that quant.c uses, in plain C after Intel's Intrinsics Guide, on a
   machine that has AVX2 alone. So the avx512 kernels can be tested where there is no AVX-512, if slowly.
   In front of the compiler's own immintrin.h (-isystem), with the macros by which quant.c knows AVX-512 (-D):

       make test BUILD=build/avx512 SETS= ARCH="-mavx2 -mfma -isystem tests/avx512 -D__AVX512F__ -D__AVX512BW__ \
           -D__AVX512VL__ -D__AVX512VNNI__" CFLAGS_EXTRA=-Wno-psabi

   With -D__AMX_TILE__ -D__AMX_INT8__ too: AMX's tiles, for the amx kernels. */
#ifndef SV_AVX512_IMMINTRIN_H
#define SV_AVX512_IMMINTRIN_H

#ifdef __AMX_INT8__
#define PLAIN_TILES
#undef __AMX_TILE__
#undef __AMX_INT8__
#endif
#undef __AVX512F__
#undef __AVX512BW__
#undef __AVX512VL__
#undef __AVX512VNNI__
#include_next <immintrin.h>
#define __AVX512F__ 1
#define __AVX512BW__ 1
#define __AVX512VL__ 1
#define __AVX512VNNI__ 1

#include <stdint.h>
#include <string.h>

#define PLAIN static inline __attribute__((always_inline, unused))
typedef int32_t Sixteen __attribute__((vector_size(64)));
typedef float SixteenFloats __attribute__((vector_size(64)));

PLAIN __m512i plain_loadu_si512(const void *from) { __m512i x; memcpy(&x, from, sizeof x); return x; }
PLAIN __m512i plain_set1_epi32(int32_t x) { return (__m512i)(x - (Sixteen){ 0 }); }
PLAIN __m512i plain_slli_epi32(__m512i a, unsigned n) { return (__m512i)((Sixteen)a << (int)n); }
PLAIN __m512 plain_cvtepi32_ps(__m512i a) { return (__m512)__builtin_convertvector((Sixteen)a, SixteenFloats); }

PLAIN __m512i plain_cvtepu16_epi32(__m256i a) {
    uint16_t from[16];
    int32_t to[16];
    memcpy(from, &a, sizeof from);
    for (int i = 0; i < 16; i++) to[i] = from[i];
    return plain_loadu_si512(to);
}

PLAIN __m128i plain_cvtepi32_epi8(__m512i a) {              /* truncates */
    int8_t to[16];
    for (int i = 0; i < 16; i++) to[i] = (int8_t)(((Sixteen)a)[i] & 255);
    return _mm_loadu_si128((const __m128i *)to);
}

PLAIN __m512i plain_max_epi32(__m512i a, __m512i b) {
    Sixteen x = (Sixteen)a, y = (Sixteen)b, more = x > y;
    return (__m512i)((x & more) | (y & ~more));
}

PLAIN __m512 plain_max_ps(__m512 a, __m512 b) {             /* b where one is NaN, or both are zero */
    Sixteen more = (SixteenFloats)a > (SixteenFloats)b;
    return (__m512)(((Sixteen)a & more) | ((Sixteen)b & ~more));
}

PLAIN __m512 plain_min_ps(__m512 a, __m512 b) {
    Sixteen less = (SixteenFloats)a < (SixteenFloats)b;
    return (__m512)(((Sixteen)a & less) | ((Sixteen)b & ~less));
}

PLAIN __m512 plain_fmadd_ps(__m512 a, __m512 b, __m512 c) {
    for (int i = 0; i < 16; i++) a[i] = __builtin_fmaf(a[i], b[i], c[i]);
    return a;
}

/* To each int32, the four products of a's unsigned and b's signed bytes. */
PLAIN __m512i plain_dpbusd_512(__m512i sum, __m512i a, __m512i b) {
    int32_t s[16];
    uint8_t x[64];
    int8_t y[64];
    memcpy(s, &sum, sizeof s), memcpy(x, &a, sizeof x), memcpy(y, &b, sizeof y);
    for (int i = 0; i < 64; i++) s[i / 4] = (int32_t)((uint32_t)s[i / 4] + (uint32_t)(x[i] * y[i]));
    return plain_loadu_si512(s);
}

PLAIN __m512i plain_cvtps_epi32(__m512 a) {                 /* to nearest, halves to even */
    int32_t to[16];
    for (int i = 0; i < 16; i++) to[i] = (int32_t)__builtin_rintf(((SixteenFloats)a)[i]);
    return plain_loadu_si512(to);
}

/* In each 16 bytes: a's numbers, then b's, as narrower ones, saturated. */
PLAIN __m512i plain_packs_epi32(__m512i a, __m512i b) {
    __m128i x[4], y[4];
    memcpy(x, &a, sizeof x), memcpy(y, &b, sizeof y);
    for (int i = 0; i < 4; i++) x[i] = _mm_packs_epi32(x[i], y[i]);
    return plain_loadu_si512(x);
}

PLAIN __m512i plain_packs_epi16(__m512i a, __m512i b) {
    __m128i x[4], y[4];
    memcpy(x, &a, sizeof x), memcpy(y, &b, sizeof y);
    for (int i = 0; i < 4; i++) x[i] = _mm_packs_epi16(x[i], y[i]);
    return plain_loadu_si512(x);
}

PLAIN __m512i plain_permutexvar_epi32(__m512i order, __m512i a) {
    int32_t to[16];
    for (int i = 0; i < 16; i++) to[i] = ((Sixteen)a)[((Sixteen)order)[i] & 15];
    return plain_loadu_si512(to);
}

PLAIN __m512i plain_broadcast_i32x4(__m128i x) {
    __m128i four[4] = { x, x, x, x };
    return plain_loadu_si512(four);
}

/* In each 16 bytes: of a, the byte that each byte's four lowest bits name; zero where its highest bit is set. */
PLAIN __m512i plain_shuffle_epi8(__m512i a, __m512i i) {
    uint8_t from[64], at[64], to[64];
    memcpy(from, &a, sizeof from), memcpy(at, &i, sizeof at);
    for (int k = 0; k < 64; k++) to[k] = at[k] & 128 ? 0 : from[k / 16 * 16 + (at[k] & 15)];
    return plain_loadu_si512(to);
}

#undef _mm512_slli_epi32                                   /* macros where nothing is optimised */
#undef _mm512_dpbusd_epi32
#undef _mm512_setr_epi32
#define _mm512_setr_epi32(...) ((__m512i)(Sixteen){ __VA_ARGS__ })
#define _mm512_cvtps_epi32(a) plain_cvtps_epi32(a)
#define _mm512_packs_epi32(a, b) plain_packs_epi32(a, b)
#define _mm512_packs_epi16(a, b) plain_packs_epi16(a, b)
#define _mm512_permutexvar_epi32(order, a) plain_permutexvar_epi32(order, a)
#define _mm512_loadu_si512(from) plain_loadu_si512(from)
#define _mm512_set1_epi32(x) plain_set1_epi32(x)
#define _mm512_slli_epi32(a, n) plain_slli_epi32(a, n)
#define _mm512_cvtepi32_ps(a) plain_cvtepi32_ps(a)
#define _mm512_cvtepu16_epi32(a) plain_cvtepu16_epi32(a)
#define _mm512_cvtepi32_epi8(a) plain_cvtepi32_epi8(a)
#define _mm512_max_epi32(a, b) plain_max_epi32(a, b)
#define _mm512_max_ps(a, b) plain_max_ps(a, b)
#define _mm512_min_ps(a, b) plain_min_ps(a, b)
#define _mm512_fmadd_ps(a, b, c) plain_fmadd_ps(a, b, c)
#define _mm512_dpbusd_epi32(sum, a, b) plain_dpbusd_512(sum, a, b)
#define _mm512_broadcast_i32x4(x) plain_broadcast_i32x4(x)
#define _mm512_shuffle_epi8(a, i) plain_shuffle_epi8(a, i)

/* A thread's tiles; a use of one that was not set up, as in a thread that did not call _tile_loadconfig, is trapped. */
#ifdef PLAIN_TILES
#define __AMX_TILE__ 1
#define __AMX_INT8__ 1
static _Thread_local int8_t plain_tile[8][16][64];
static _Thread_local int plain_tiles_ready;

PLAIN int8_t (*plain_tile_of(int t))[64] {
    if (!plain_tiles_ready) __builtin_trap();
    return plain_tile[t];
}

PLAIN void plain_loadconfig(const void *config) {           /* palette 1, all tiles 16 rows of 64 bytes */
    const uint8_t *bytes = config;
    if (bytes[0] != 1) __builtin_trap();
    for (int t = 0; t < 8; t++)
        if (bytes[16 + 2 * t] != 64 || bytes[17 + 2 * t] != 0 || bytes[48 + t] != 16) __builtin_trap();
    plain_tiles_ready = 1;
    memset(plain_tile, 0, sizeof plain_tile);
}

PLAIN void plain_loadd(int t, const void *from, size_t stride) {
    for (size_t r = 0; r < 16; r++) memcpy(plain_tile_of(t)[r], (const char *)from + r * stride, 64);
}

PLAIN void plain_stored(int t, void *to, size_t stride) {
    for (size_t r = 0; r < 16; r++) memcpy((char *)to + r * stride, plain_tile_of(t)[r], 64);
}

/* c[m][n] += a[m] . column n of b, where b holds four numbers of each column side by side */
PLAIN void plain_dpbssd(int c, int a, int b) {
    for (int m = 0; m < 16; m++)
        for (int n = 0; n < 16; n++) {
            int32_t sum;
            memcpy(&sum, &plain_tile_of(c)[m][4 * n], sizeof sum);
            for (int k = 0; k < 64; k++) sum += plain_tile_of(a)[m][k] * plain_tile_of(b)[k / 4][4 * n + k % 4];
            memcpy(&plain_tile_of(c)[m][4 * n], &sum, sizeof sum);
        }
}

#undef _tile_loadconfig
#undef _tile_release
#undef _tile_zero
#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbssd
#define _tile_loadconfig(config) plain_loadconfig(config)
#define _tile_release() (plain_tiles_ready = 0)
#define _tile_zero(t) memset(plain_tile_of(t), 0, sizeof plain_tile[t])
#define _tile_loadd(t, from, stride) plain_loadd(t, from, stride)
#define _tile_stored(t, to, stride) plain_stored(t, to, stride)
#define _tile_dpbssd(c, a, b) plain_dpbssd(c, a, b)
#endif
#endif
