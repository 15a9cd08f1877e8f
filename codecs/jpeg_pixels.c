/* jpeg_pixels.c: the arithmetic from a JPEG's coefficients to its pixels. jpeg.c has what comes before, and calls it.

     coefficients, 8 x 8 int16 a block
         | times the quantisation table, inverse DCT           idct: jidctint.c
         v
     samples, uint8, rows of each component's own width
         | 2:1 in one direction or both: triangle filter       upsample_*: jdsample.c
         v
     rows, [width] a component
         | YCbCr                                               ycc_to_rgb: jdcolor.c
         v
     rgb, [width, 3]

   Every function is here twice. The plain ones define the result, which is libjpeg-turbo's to the bit. The others
   compute the same with vectors of eight or sixteen values, and need only the dozen vector operations below.
   test_image.c compares the two. With -DSV_NO_SIMD, or on a machine without these operations, only the plain ones are
   used. This file is compiled once, for SSE2, which every x86-64 has, and not once for each instruction set: most of a
   JPEG's time goes into its Huffman codes, where vectors do not help. */
#include "codec.h"

#include <string.h>
#if defined(SV_NO_SIMD)
#elif defined(__GNUC__) && defined(__SSE2__)
#define WITH_VECTORS
#include <emmintrin.h>
#elif defined(__ARM_NEON) && defined(__aarch64__) && !defined(__AARCH64EB__)
#define WITH_VECTORS
#include <arm_neon.h>
#endif

static int32_t clamp16(int32_t value) { return value < -32768 ? -32768 : value > 32767 ? 32767 : value; }

/* ----------------------------------------------------------------------------- the inverse DCT

   The "islow" algorithm of jidctint.c (Loeffler, Ligtenberg and Moschytz). It makes eight values of eight, first in
   each column, then in each row. The constants have 13 fractional bits. */
enum {
    C_0_298 = 2446, C_0_390 = 3196, C_0_541 = 4433, C_0_765 = 6270, C_0_899 = 7373, C_1_175 = 9633, C_1_501 = 12299,
    C_1_847 = 15137, C_1_961 = 16069, C_2_053 = 16819, C_2_562 = 20995, C_3_072 = 25172
};

/* Four sums wrap to 16 bits, since libjpeg-turbo's x86 code makes them in 16 bits. That makes a difference only in data
   that no encoder writes. No 32-bit sum overflows, whatever the 16-bit input. */
static inline void idct_1d(const int16_t *in, int step, int32_t out[8]) {
    int32_t in0 = in[0], in1 = in[step], in2 = in[2 * step], in3 = in[3 * step];
    int32_t in4 = in[4 * step], in5 = in[5 * step], in6 = in[6 * step], in7 = in[7 * step];

    int32_t even0 = wrap16(in0 + in4) * 8192, even1 = wrap16(in0 - in4) * 8192;
    int32_t even3 = in2 * (C_0_541 + C_0_765) + in6 * C_0_541;
    int32_t even2 = in2 * C_0_541 + in6 * (C_0_541 - C_1_847);
    int32_t sum0 = even0 + even3, sum3 = even0 - even3, sum1 = even1 + even2, sum2 = even1 - even2;

    int32_t z3 = wrap16(in7 + in3), z4 = wrap16(in5 + in1);
    int32_t odd3 = z3 * (C_1_175 - C_1_961) + z4 * C_1_175;
    int32_t odd4 = z3 * C_1_175 + z4 * (C_1_175 - C_0_390);
    int32_t odd7 = in7 * (C_0_298 - C_0_899) - in1 * C_0_899 + odd3;
    int32_t odd5 = in5 * (C_2_053 - C_2_562) - in3 * C_2_562 + odd4;
    int32_t odd2 = in3 * (C_3_072 - C_2_562) - in5 * C_2_562 + odd3;
    int32_t odd1 = in1 * (C_1_501 - C_0_899) - in7 * C_0_899 + odd4;

    out[0] = sum0 + odd1; out[7] = sum0 - odd1;
    out[1] = sum1 + odd2; out[6] = sum1 - odd2;
    out[2] = sum2 + odd5; out[5] = sum2 - odd5;
    out[3] = sum3 + odd7; out[4] = sum3 - odd7;
}

/* The second pass. Right shifts of negative numbers round down, with every compiler that this is built with. */
static void idct_rows(const int16_t columns[64], uint8_t *out, size_t stride) {
    int32_t sums[8];
    for (int y = 0; y < 8; y++, out += stride) {
        idct_1d(columns + 8 * y, 1, sums);
        for (int x = 0; x < 8; x++) out[x] = (uint8_t)clamp8(((sums[x] + (1 << 17)) >> 18) + 128);
    }
}

/* A block in which only the first row is not zero, so that every column is flat. libjpeg-turbo has code of its own for
   this case, and where samples are far out of range its result differs from the general one. */
static void idct_flat_columns(const int16_t coefficients[64], const uint16_t quant[64], uint8_t *out, size_t stride) {
    int16_t columns[64];                                    /* [row, column] after the first pass */
    int first_row = 0;
    for (int x = 1; x < 8; x++) first_row |= coefficients[x];
    for (int x = 0; x < 8; x++) columns[x] = wrap16(wrap16(coefficients[x] * (int32_t)quant[x]) * 4);
    if (!first_row) {                                       /* the whole block is flat, as most are in a photo's sky */
        int grey = clamp8(((columns[0] + 16) >> 5) + 128);
        for (int y = 0; y < 8; y++) memset(out + (size_t)y * stride, grey, 8);
        return;
    }
    for (int y = 1; y < 8; y++) memcpy(columns + 8 * y, columns, 8 * sizeof *columns);
    idct_rows(columns, out, stride);
}

static void plain_idct(const int16_t coefficients[64], const uint16_t quant[64], uint8_t *out, size_t stride) {
    int16_t in[64], columns[64];
    int32_t sums[8];
    int others = 0;
    for (int i = 8; i < 64; i++) others |= coefficients[i];
    if (!others) {
        idct_flat_columns(coefficients, quant, out, stride);
        return;
    }
    for (int i = 0; i < 64; i++) in[i] = wrap16(coefficients[i] * (int32_t)quant[i]);
    for (int x = 0; x < 8; x++) {
        idct_1d(in + x, 8, sums);                           /* two fractional bits are kept */
        for (int y = 0; y < 8; y++) columns[8 * y + x] = (int16_t)clamp16((sums[y] + (1 << 10)) >> 11);
    }
    idct_rows(columns, out, stride);
}

/* ----------------------------------------------------------------------------- upsampling

   A new sample between two others is 3/4 of the nearer and 1/4 of the farther, with rounding that alternates. At the
   ends of a row, its first and last sample count as repeated. */

/* n samples to 2n, n at least 1. */
static void plain_upsample_2x1(const uint8_t *in, int n, uint8_t *out) {
    for (int x = 0; x < n; x++) {
        out[2 * x] = (uint8_t)((3 * in[x] + in[x - (x > 0)] + 1) >> 2);
        out[2 * x + 1] = (uint8_t)((3 * in[x] + in[x + (x < n - 1)] + 2) >> 2);
    }
}

/* n samples between two rows. rounding is 1 above the nearer row, 2 below it. */
static void plain_upsample_1x2(const uint8_t *nearer, const uint8_t *farther, int rounding, int n, uint8_t *out) {
    for (int x = 0; x < n; x++) out[x] = (uint8_t)((3 * nearer[x] + farther[x] + rounding) >> 2);
}

/* Both at once: n samples to 2n, between two rows. */
static void plain_upsample_2x2(const uint8_t *nearer, const uint8_t *farther, int n, uint8_t *out) {
    int last = 3 * nearer[0] + farther[0], here = last;
    for (int x = 0; x < n; x++) {
        int next = x < n - 1 ? 3 * nearer[x + 1] + farther[x + 1] : here;
        out[2 * x] = (uint8_t)((3 * here + last + 8) >> 4);
        out[2 * x + 1] = (uint8_t)((3 * here + next + 7) >> 4);
        last = here;
        here = next;
    }
}

/* ----------------------------------------------------------------------------- colour */

/* YCbCr to RGB with 16 fractional bits, and jdcolor.c's constants and rounding. */
static void plain_ycc_to_rgb(const uint8_t *luma, const uint8_t *blue, const uint8_t *red, int n, uint8_t *rgb) {
    for (int x = 0; x < n; x++, rgb += 3) {
        int y = luma[x], cb = blue[x] - 128, cr = red[x] - 128;
        rgb[0] = (uint8_t)clamp8(y + ((91881 * cr + 32768) >> 16));                 /* 1.40200 */
        rgb[1] = (uint8_t)clamp8(y + ((-22554 * cb - 46802 * cr + 32768) >> 16));   /* 0.34414, 0.71414 */
        rgb[2] = (uint8_t)clamp8(y + ((116130 * cb + 32768) >> 16));                /* 1.77200 */
    }
}

const SvJpegKernels sv_jpeg_plain = {
    plain_idct, plain_upsample_2x1, plain_upsample_1x2, plain_upsample_2x2, plain_ycc_to_rgb
};

/* ----------------------------------------------------------------------------- the same in vectors */
#ifdef WITH_VECTORS

typedef int16_t Shorts __attribute__((vector_size(16)));
typedef uint16_t UShorts __attribute__((vector_size(16)));
typedef int32_t Ints __attribute__((vector_size(16)));
typedef uint8_t Bytes __attribute__((vector_size(16)));

/* First the operations that the compilers' vectors have no operator for. Where two vectors belong together, the first
   holds the lower half of the elements.

     low_pairs, high_pairs      a0 b0 a1 b1 .., of the lower or the upper halves of a and b
     sums_of_products           a0 * b0 + a1 * b1, a2 * b2 + a3 * b3, ..
     upper_product              (a * b) >> 16
     narrow                     int32 to int16, saturated
     narrow_signed, _unsigned   int16 to int8 or uint8, saturated
     load_half                  eight bytes, then eight zeros */
#ifdef __SSE2__
static inline Shorts low_pairs(Shorts a, Shorts b) { return (Shorts)_mm_unpacklo_epi16((__m128i)a, (__m128i)b); }
static inline Shorts high_pairs(Shorts a, Shorts b) { return (Shorts)_mm_unpackhi_epi16((__m128i)a, (__m128i)b); }
static inline Ints low_pairs_32(Ints a, Ints b) { return (Ints)_mm_unpacklo_epi32((__m128i)a, (__m128i)b); }
static inline Ints high_pairs_32(Ints a, Ints b) { return (Ints)_mm_unpackhi_epi32((__m128i)a, (__m128i)b); }
static inline Bytes low_pairs_8(Bytes a, Bytes b) { return (Bytes)_mm_unpacklo_epi8((__m128i)a, (__m128i)b); }
static inline Bytes high_pairs_8(Bytes a, Bytes b) { return (Bytes)_mm_unpackhi_epi8((__m128i)a, (__m128i)b); }
static inline Ints sums_of_products(Shorts a, Shorts b) { return (Ints)_mm_madd_epi16((__m128i)a, (__m128i)b); }
static inline Shorts upper_product(Shorts a, Shorts b) { return (Shorts)_mm_mulhi_epi16((__m128i)a, (__m128i)b); }
static inline Shorts narrow(Ints a, Ints b) { return (Shorts)_mm_packs_epi32((__m128i)a, (__m128i)b); }
static inline Bytes narrow_signed(Shorts a, Shorts b) { return (Bytes)_mm_packs_epi16((__m128i)a, (__m128i)b); }
static inline Bytes narrow_unsigned(Shorts a, Shorts b) { return (Bytes)_mm_packus_epi16((__m128i)a, (__m128i)b); }
static inline Bytes load_half(const uint8_t *from) { return (Bytes)_mm_loadl_epi64((const __m128i *)from); }
static inline bool all_zero(Shorts a) {
    return _mm_movemask_epi8(_mm_cmpeq_epi8((__m128i)a, _mm_setzero_si128())) == 0xffff;
}
#else
static inline Shorts low_pairs(Shorts a, Shorts b) { return (Shorts)vzip1q_s16((int16x8_t)a, (int16x8_t)b); }
static inline Shorts high_pairs(Shorts a, Shorts b) { return (Shorts)vzip2q_s16((int16x8_t)a, (int16x8_t)b); }
static inline Ints low_pairs_32(Ints a, Ints b) { return (Ints)vzip1q_s32((int32x4_t)a, (int32x4_t)b); }
static inline Ints high_pairs_32(Ints a, Ints b) { return (Ints)vzip2q_s32((int32x4_t)a, (int32x4_t)b); }
static inline Bytes low_pairs_8(Bytes a, Bytes b) { return (Bytes)vzip1q_u8((uint8x16_t)a, (uint8x16_t)b); }
static inline Bytes high_pairs_8(Bytes a, Bytes b) { return (Bytes)vzip2q_u8((uint8x16_t)a, (uint8x16_t)b); }
static inline Ints sums_of_products(Shorts a, Shorts b) {
    int32x4_t low = vmull_s16(vget_low_s16((int16x8_t)a), vget_low_s16((int16x8_t)b));
    return (Ints)vpaddq_s32(low, vmull_high_s16((int16x8_t)a, (int16x8_t)b));
}
static inline Shorts upper_product(Shorts a, Shorts b) {
    int32x4_t low = vmull_s16(vget_low_s16((int16x8_t)a), vget_low_s16((int16x8_t)b));
    return (Shorts)vuzp2q_s16((int16x8_t)low, (int16x8_t)vmull_high_s16((int16x8_t)a, (int16x8_t)b));
}
static inline Shorts narrow(Ints a, Ints b) {
    return (Shorts)vqmovn_high_s32(vqmovn_s32((int32x4_t)a), (int32x4_t)b);
}
static inline Bytes narrow_signed(Shorts a, Shorts b) {
    return (Bytes)vqmovn_high_s16(vqmovn_s16((int16x8_t)a), (int16x8_t)b);
}
static inline Bytes narrow_unsigned(Shorts a, Shorts b) {
    return (Bytes)vqmovun_high_s16(vqmovun_s16((int16x8_t)a), (int16x8_t)b);
}
static inline Bytes load_half(const uint8_t *from) { return (Bytes)vcombine_u8(vld1_u8(from), vdup_n_u8(0)); }
static inline bool all_zero(Shorts a) { return vmaxvq_u16((uint16x8_t)a) == 0; }
#endif

static inline Shorts load_shorts(const void *from) { Shorts v; memcpy(&v, from, sizeof v); return v; }
static inline Bytes load_bytes(const uint8_t *from) { Bytes v; memcpy(&v, from, sizeof v); return v; }
/* Sums and products that wrap. They are unsigned, as the compiler may assume that signed ones never overflow. */
static inline Shorts sum_16(Shorts a, Shorts b) { return (Shorts)((UShorts)a + (UShorts)b); }
static inline Shorts difference_16(Shorts a, Shorts b) { return (Shorts)((UShorts)a - (UShorts)b); }
static inline Shorts product_16(Shorts a, Shorts b) { return (Shorts)((UShorts)a * (UShorts)b); }

static inline Shorts all_16(int value) { return (Shorts){ 0 } + (int16_t)value; }
static inline Ints all_32(int32_t value) { return (Ints){ 0 } + value; }
static inline Shorts pairs_of(int a, int b) {
    int16_t c = (int16_t)a, d = (int16_t)b;
    return (Shorts){ c, d, c, d, c, d, c, d };
}
static inline Shorts low_bytes(Bytes a) { return (Shorts)low_pairs_8(a, (Bytes){ 0 }); }       /* widened */
static inline Shorts high_bytes(Bytes a) { return (Shorts)high_pairs_8(a, (Bytes){ 0 }); }
static inline Shorts load_8(const uint8_t *from) { return low_bytes(load_half(from)); }

/* a * ca + b * cb in 32 bits: the lower four, and the upper four. */
typedef struct { Ints low, high; } Wide;
static inline Wide weighted(Shorts a, int ca, Shorts b, int cb) {
    Shorts c = pairs_of(ca, cb);
    return (Wide){ sums_of_products(low_pairs(a, b), c), sums_of_products(high_pairs(a, b), c) };
}
static inline Wide plus(Wide a, Wide b) { return (Wide){ a.low + b.low, a.high + b.high }; }
static inline Wide minus(Wide a, Wide b) { return (Wide){ a.low - b.low, a.high - b.high }; }
static inline Shorts shifted(Wide a, int by) { return narrow(a.low >> by, a.high >> by); }

/* idct_1d of eight columns or rows at once, and the rounding that follows it: each sum plus a half, shifted right. */
static inline void vector_idct_1d(Shorts v[8], int shift) {
    Shorts zero = all_16(0), sum = sum_16(v[0], v[4]), difference = difference_16(v[0], v[4]);
    Ints half = all_32(1 << (shift - 1));
    /* times 8192: as the upper 16 of 32 bits, shifted right by three */
    Wide even0 = { ((Ints)low_pairs(zero, sum) >> 3) + half, ((Ints)high_pairs(zero, sum) >> 3) + half };
    Wide even1 = { ((Ints)low_pairs(zero, difference) >> 3) + half, ((Ints)high_pairs(zero, difference) >> 3) + half };
    Wide even3 = weighted(v[2], C_0_541 + C_0_765, v[6], C_0_541);
    Wide even2 = weighted(v[2], C_0_541, v[6], C_0_541 - C_1_847);
    Wide sum0 = plus(even0, even3), sum3 = minus(even0, even3);
    Wide sum1 = plus(even1, even2), sum2 = minus(even1, even2);

    Shorts z3 = sum_16(v[7], v[3]), z4 = sum_16(v[5], v[1]);
    Wide odd3 = weighted(z3, C_1_175 - C_1_961, z4, C_1_175);
    Wide odd4 = weighted(z3, C_1_175, z4, C_1_175 - C_0_390);
    Wide odd7 = plus(weighted(v[7], C_0_298 - C_0_899, v[1], -C_0_899), odd3);
    Wide odd5 = plus(weighted(v[5], C_2_053 - C_2_562, v[3], -C_2_562), odd4);
    Wide odd2 = plus(weighted(v[5], -C_2_562, v[3], C_3_072 - C_2_562), odd3);
    Wide odd1 = plus(weighted(v[7], -C_0_899, v[1], C_1_501 - C_0_899), odd4);

    v[0] = shifted(plus(sum0, odd1), shift), v[7] = shifted(minus(sum0, odd1), shift);
    v[1] = shifted(plus(sum1, odd2), shift), v[6] = shifted(minus(sum1, odd2), shift);
    v[2] = shifted(plus(sum2, odd5), shift), v[5] = shifted(minus(sum2, odd5), shift);
    v[3] = shifted(plus(sum3, odd7), shift), v[4] = shifted(minus(sum3, odd7), shift);
}

/* Rows become columns: rows 0 and 4, 1 and 5, .. are interleaved, and that three times. */
static inline void transpose(Shorts v[8]) {
    Shorts a[8], b[8];
    for (int i = 0; i < 4; i++) a[2 * i] = low_pairs(v[i], v[i + 4]), a[2 * i + 1] = high_pairs(v[i], v[i + 4]);
    for (int i = 0; i < 4; i++) b[2 * i] = low_pairs(a[i], a[i + 4]), b[2 * i + 1] = high_pairs(a[i], a[i + 4]);
    for (int i = 0; i < 4; i++) v[2 * i] = low_pairs(b[i], b[i + 4]), v[2 * i + 1] = high_pairs(b[i], b[i + 4]);
}

static void vector_idct(const int16_t coefficients[64], const uint16_t quant[64], uint8_t *out, size_t stride) {
    Shorts v[8];
    for (int y = 0; y < 8; y++) v[y] = load_shorts(coefficients + 8 * y);
    if (all_zero((v[1] | v[2]) | (v[3] | v[4]) | (v[5] | v[6]) | v[7])) {
        idct_flat_columns(coefficients, quant, out, stride);
        return;
    }
    for (int y = 0; y < 8; y++) v[y] = product_16(v[y], load_shorts(quant + 8 * y));
    vector_idct_1d(v, 11);
    transpose(v);
    vector_idct_1d(v, 18);                                  /* v[x] holds column x */

    /* to bytes, and transposed as above, but in four vectors that hold two columns each */
    Bytes a[4], b[4];
    for (int i = 0; i < 4; i++) b[i] = narrow_signed(v[i], v[i + 4]);        /* columns i and i + 4 */
    a[0] = low_pairs_8(b[0], b[2]), a[1] = high_pairs_8(b[0], b[2]);         /* 0 2, 4 6 */
    a[2] = low_pairs_8(b[1], b[3]), a[3] = high_pairs_8(b[1], b[3]);         /* 1 3, 5 7 */
    b[0] = low_pairs_8(a[0], a[2]), b[1] = high_pairs_8(a[0], a[2]);         /* 0 1 2 3 of rows 0..3, 4..7 */
    b[2] = low_pairs_8(a[1], a[3]), b[3] = high_pairs_8(a[1], a[3]);         /* 4 5 6 7 */
    Bytes grey = (Bytes){ 0 } + 128;
    for (int i = 0; i < 2; i++) {
        Bytes rows[2] = { (Bytes)low_pairs_32((Ints)b[i], (Ints)b[i + 2]) + grey,
                          (Bytes)high_pairs_32((Ints)b[i], (Ints)b[i + 2]) + grey };
        for (int y = 0; y < 4; y++) memcpy(out + (size_t)(4 * i + y) * stride, (uint8_t *)rows + 8 * y, 8);
    }
}

/* even0 odd0 even1 odd1 .., a byte each: the elements are bytes in 16 bits. */
static inline void store_alternating(uint8_t *out, Shorts even, Shorts odd) {
    even |= odd << 8;
    memcpy(out, &even, sizeof even);
}

/* The functions below go along a row in whole vectors. The last vector is moved back to end where the row ends, so it
   may compute some elements a second time. */

static void vector_upsample_2x1(const uint8_t *in, int n, uint8_t *out) {
    if (n < 10) {
        plain_upsample_2x1(in, n, out);
        return;
    }
    for (int x = 1;; x += 8) {
        if (x > n - 9) x = n - 9;
        Shorts three = load_8(in + x) * 3;
        store_alternating(out + 2 * x, (three + load_8(in + x - 1) + 1) >> 2, (three + load_8(in + x + 1) + 2) >> 2);
        if (x == n - 9) break;
    }
    out[0] = in[0];
    out[1] = (uint8_t)((3 * in[0] + in[1] + 2) >> 2);
    out[2 * n - 2] = (uint8_t)((3 * in[n - 1] + in[n - 2] + 1) >> 2);
    out[2 * n - 1] = in[n - 1];
}

static inline Shorts three_to_one(const uint8_t *nearer, const uint8_t *farther) {
    return load_8(nearer) * 3 + load_8(farther);
}

static void vector_upsample_1x2(const uint8_t *nearer, const uint8_t *farther, int rounding, int n, uint8_t *out) {
    if (n < 16) {
        plain_upsample_1x2(nearer, farther, rounding, n, out);
        return;
    }
    for (int x = 0;; x += 16) {
        if (x > n - 16) x = n - 16;
        Shorts low = three_to_one(nearer + x, farther + x), high = three_to_one(nearer + x + 8, farther + x + 8);
        Bytes samples = narrow_unsigned((low + (int16_t)rounding) >> 2, (high + (int16_t)rounding) >> 2);
        memcpy(out + x, &samples, sizeof samples);
        if (x == n - 16) break;
    }
}

static void vector_upsample_2x2(const uint8_t *nearer, const uint8_t *farther, int n, uint8_t *out) {
    if (n < 10) {
        plain_upsample_2x2(nearer, farther, n, out);
        return;
    }
    for (int x = 1;; x += 8) {
        if (x > n - 9) x = n - 9;
        Shorts left = three_to_one(nearer + x - 1, farther + x - 1);
        Shorts right = three_to_one(nearer + x + 1, farther + x + 1);
        Shorts here = three_to_one(nearer + x, farther + x) * 3;
        store_alternating(out + 2 * x, (here + left + 8) >> 4, (here + right + 7) >> 4);
        if (x == n - 9) break;
    }
    uint8_t end[4];                                         /* the ends of a row depend on two samples only */
    plain_upsample_2x2(nearer, farther, 2, end);
    memcpy(out, end, 2);
    plain_upsample_2x2(nearer + n - 2, farther + n - 2, 2, end);
    memcpy(out + 2 * n - 2, end + 2, 2);
}

/* Stores sixteen pixels. The two bytes behind them may be overwritten. */
static inline void store_rgb(uint8_t *rgb, Bytes r, Bytes g, Bytes b) {
#ifdef __SSE2__
    typedef uint64_t Longs __attribute__((vector_size(16)));
    const Longs first = (Longs){ 0 } + 0xffffff, second = first << 24;
    Bytes rg[2] = { low_pairs_8(r, g), high_pairs_8(r, g) };
    Shorts b_low = low_bytes(b), b_high = high_bytes(b);
    Longs four[4] = { (Longs)low_pairs((Shorts)rg[0], b_low), (Longs)high_pairs((Shorts)rg[0], b_low),
                      (Longs)low_pairs((Shorts)rg[1], b_high), (Longs)high_pairs((Shorts)rg[1], b_high) };
    for (int i = 0; i < 4; i++) {                           /* r g b 0 r g b 0 in each half becomes r g b r g b 0 0 */
        four[i] = (four[i] & first) | (four[i] >> 8 & second);
        memcpy(rgb + 12 * i, four + i, 8);
        memcpy(rgb + 12 * i + 6, (uint8_t *)(four + i) + 8, 8);
    }
#else
    vst3q_u8(rgb, ((uint8x16x3_t){ { (uint8x16_t)r, (uint8x16_t)g, (uint8x16_t)b } }));
#endif
}

/* Eight pixels. The constants of plain_ycc_to_rgb are split so that they fit 16 bits: 1.402 is 1 + 26345 / 65536,
   -0.71414 is -1 + 18734 / 65536, 1.772 is 2 - 14942 / 65536. ((2 * a * c >> 16) + 1) >> 1 is a * c / 65536, rounded.
   */
static inline void eight_pixels(Shorts y, Shorts cb, Shorts cr, Shorts rgb[3]) {
    cb -= 128;
    cr -= 128;
    Wide green = weighted(cb, -22554, cr, 18734);
    Ints half = all_32(32768);
    rgb[0] = y + cr + ((upper_product(cr * 2, all_16(26345)) + 1) >> 1);
    rgb[1] = y - cr + shifted((Wide){ green.low + half, green.high + half }, 16);
    rgb[2] = y + cb * 2 + ((upper_product(cb * 2, all_16(-14942)) + 1) >> 1);
}

static void vector_ycc_to_rgb(const uint8_t *luma, const uint8_t *blue, const uint8_t *red, int n, uint8_t *rgb) {
    if (n < 16) {
        plain_ycc_to_rgb(luma, blue, red, n, rgb);
        return;
    }
    for (int x = 0;; x += 16) {
        if (x > n - 16) x = n - 16;
        Bytes y = load_bytes(luma + x), cb = load_bytes(blue + x), cr = load_bytes(red + x), bytes[3];
        Shorts low[3], high[3];
        uint8_t last[64];
        eight_pixels(low_bytes(y), low_bytes(cb), low_bytes(cr), low);
        eight_pixels(high_bytes(y), high_bytes(cb), high_bytes(cr), high);
        for (int i = 0; i < 3; i++) bytes[i] = narrow_unsigned(low[i], high[i]);
        if (x < n - 16) {
            store_rgb(rgb + 3 * x, bytes[0], bytes[1], bytes[2]);
            continue;
        }
        store_rgb(last, bytes[0], bytes[1], bytes[2]);
        memcpy(rgb + 3 * x, last, 48);
        break;
    }
}

const SvJpegKernels sv_jpeg_kernels = {
    vector_idct, vector_upsample_2x1, vector_upsample_1x2, vector_upsample_2x2, vector_ycc_to_rgb
};
#else
const SvJpegKernels sv_jpeg_kernels = {
    plain_idct, plain_upsample_2x1, plain_upsample_1x2, plain_upsample_2x2, plain_ycc_to_rgb
};
#endif
