/* avx512.h: AVX-512 with VNNI.

   vpdpbusd adds four products of an unsigned and a signed byte to each int32. Adding 128 makes the weights unsigned;
   128 times the sum of x (by128) is subtracted again. Panel: [n / 4][32 rows][4].

   CHAINS: two accumulators per output, 16 in all, hide the latency of vpdpbusd. With 8, a Zen 5 idles a sixth of the
   time. Not measured on others. */
#ifndef SV_AVX512_H
#define SV_AVX512_H

#include "blocks.h"

typedef int8_t xint;
typedef __m512i Wide;
enum { NR = 32, STEP = 4, CHAINS = 2 };
static inline Wide wide_four(const void *x) { return _mm512_set1_epi32(four_bytes(x)); }
static inline Wide wide_flip(Wide w) { return w ^ _mm512_set1_epi32((int)0x80808080); }
#ifdef SV_AMX                                               /* its panels are signed: see as_in_panels */
static inline Wide wide_load(const int8_t *from) { return wide_flip(_mm512_loadu_si512(from)); }
#else
static inline Wide wide_load(const int8_t *from) { return _mm512_loadu_si512(from); }
#endif
static inline vi wide_start(int32_t by128) { return (vi){ 0 } - (vi)_mm512_set1_epi32(by128); }
static inline vi wide_dot(vi s, Wide w, Wide x) { return (vi)_mm512_dpbusd_epi32((__m512i)s, w, x); }

typedef __m512i Bytes;
static inline Bytes bytes_load(const void *from) { return _mm512_loadu_si512(from); }
static inline Bytes bytes_of_16(__m128i x) { return _mm512_broadcast_i32x4(x); }
static inline Bytes bytes_pick(Bytes values, Bytes i) { return _mm512_shuffle_epi8(values, i); }
static inline vi unsigned_dot(vi s, Bytes w, Bytes x) { return wide_dot(s, w, x); }
static inline vi bytes_dot(vi s, Bytes w, Bytes x) { return wide_dot(s, wide_flip(w), x); }

#ifndef SV_AMX                                              /* amx.h packs nothing */
static NOINLINE void pack(int8_t *panel, size_t r, const int8_t *block) {
    for (size_t k = 0; k < GROUP; k += 4) {
        Bytes fours = wide_flip(bytes_load(block + k * BLOCK_ROWS));
        memcpy(panel + k * NR + r * 4, &fours, sizeof fours);
    }
}
#endif

#endif
