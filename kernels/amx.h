/* amx.h: products of many rows by Intel's AMX, Q8 and Q4. amx_attention.h and amx_mlp.h build on it; all else of the
   set "amx" is avx512.h's.

   AMX has eight tiles: registers of 16 rows of 64 bytes each. One instruction multiplies a tile of x, [16 rows, 64
   numbers], with a tile of w, [64 numbers, 16 rows], and adds the 256 products to a tile of int32, [16, 16]. A block
   of Q8 as the file stores it, four bytes of each of its 16 rows in turn, is such a tile of w already, so nothing is
   packed; a block of Q4 is unpacked to one of Q8. x is quantized straight into tiles: [n / 16, groups, 16 rows, 64]
   bytes.

   A product takes 16 cycles. To get its 256 sums out, scale them and add them up takes more. The loops are arranged
   around that (measured on a Sapphire Rapids and on a later Xeon):

   - Four blocks of w, two groups of 32 rows, stay in tiles while up to STAGED rows of x pass. The float sums of those
     rows are what is read again and again.
   - The tile unit works in order, and a store waits for the product before it. So a tile is stored one product later
     than it is made, and between the two stand the vector instructions that scale what was stored before.
   - Stored tiles alternate between two halves of a buffer: a load right after a store to the same place waits for it.
   - While tile instructions are on their way, only one of the two units that multiply floats works. So the scaling has
     two multiplications, not three (see scale_eight).
   - Tile loads wait for memory, and all tile instructions behind them wait too. So the next tiles are prefetched.
   - The last groups go straight to out, with the bias.

   A thread sets the tiles up for each strip, or block of queries, and releases them after it. So a thread that sleeps
   has no tiles to be saved. Its stack holds some 110 KB meanwhile. */
#ifndef SV_AMX_H
#define SV_AMX_H

#include "quantize.h"

enum { TILE = 16, STAGED = 256 };                           /* rows of a tile; rows of x that pass w together */

typedef struct TileConfig { uint8_t palette, start, zero[14]; uint16_t bytes[16]; uint8_t rows[16]; } TileConfig;

static void begin_tiles(void) {
    TileConfig config = { .palette = 1 };
    for (int i = 0; i < 8; i++) config.bytes[i] = 64, config.rows[i] = TILE;
    __asm__ volatile("" :: "r"(&config) : "memory");        /* gcc 12 believes that 8 bytes of it are read */
    _tile_loadconfig(&config);
}

/* A pass: `tiles` tiles of x, TILE rows each, times one or two groups of 32 rows of w. */
typedef struct Pass {
    float *sum;                             /* [rows of x, 32]: what former groups gave (if more), and, but of the
                                               last pass, what comes out                                              */
    float *out;                             /* where the last pass puts it, and its stride                            */
    size_t stride;
    const float *bias;                      /* [32], added at the end, or NULL                                        */
    bool more;
    const int8_t *x;                        /* the first tile of x: group g; the next group's tile follows it         */
    const float *d;                         /* its scales, [TILE]; the next group's follow them                       */
    size_t groups;                          /* of x: tiles from one 16 rows to the next                               */
    const int8_t *w[2];                     /* blocks: rows 0 .. 15 and 16 .. 31; the next group's block follows it   */
    const float *scale;                     /* [groups, 32]: w's scales                                               */
    size_t tiles;
    const void *next[2];                    /* what the next pass reads of w, prefetched `part` bytes a tile          */
    size_t part;
} Pass;

/* A buffer of stored tiles, one for each product of 16 rows of x: half 0's groups, then half 1's. */
typedef int32_t Stored[4][TILE * TILE];

/* Rows first .. first + 7 of the 16 rows of x number `tile`, times half 0 or 1 of w's 32 rows: for each group
   sum += (float)dot * scale * d.

   (float)dot * scale is one fused multiply-add, (MAGIC + dot) * scale - MAGIC * scale. MAGIC, 1.5 * 2^23, is so large
   that adding dot to its bits adds dot to its value. Nothing but the result is rounded, as in the product, unless
   MAGIC * scale overflows (is_large). A conversion would be a third multiplication to the processor. */
#define MAGIC 12582912.0f
#define MAGIC_BITS 0x4b400000u

INLINE void scale_eight(const Pass *p, Stored dots, size_t tile, size_t half, size_t first, size_t groups, bool last) {
    const float *d = p->d + tile * p->groups * TILE + first;
    float *sum = p->sum + (tile * TILE + first) * 32 + half * 16;
    float *to = last ? p->out + (tile * TILE + first) * p->stride + half * 16 : sum;
    vf w[2], minus[2];
    for (size_t g = 0; g < groups; g++) {
        w[g] = v_load(p->scale + g * 32 + half * 16);
        minus[g] = v_set(-MAGIC) * w[g];
    }
#pragma GCC unroll 8
    for (size_t i = 0; i < 8; i++) {
        vf total = p->more ? v_load(sum + i * 32) : v_set(0);
        for (size_t g = 0; g < groups; g++) {
            vu bits = (vu)_mm512_loadu_si512(dots[half * groups + g] + (first + i) * TILE) + MAGIC_BITS;
            total += v_fused(of_bits(bits), w[g], minus[g]) * v_set(d[g * TILE + i]);
        }
        if (last && p->bias) total += v_load(p->bias + half * 16);
        v_store(to + i * (last ? p->stride : 32), total);
        __asm__ volatile("" ::: "memory");                  /* else gcc 12 mixes rows until it runs out of registers */
    }
}

/* Prefetches to L1, past the end of an array too. */
INLINE void prefetch_to_l1(const void *array, size_t at, size_t bytes) {
    for (size_t i = 0; i < bytes; i += 64) __builtin_prefetch((const void *)((uintptr_t)array + at + i), 0, 3);
}

/* Prefetches, while tile t is computed, the tiles of x after it and a part of what the next pass reads of w. */
INLINE void prefetch_next(const Pass *p, size_t t) {
    for (size_t half = 0; half < 2; half++) prefetch_to_l1(p->next[half], t * p->part, p->part);
    prefetch_to_l1(p->x, (t + 1) * p->groups * TILE * GROUP, 2 * TILE * GROUP);
}

/* Tiles 0 and 1 are sums in turn, 2 and 3 are x's two groups, 4 to 7 are w's blocks. The last round only finishes what
   the one before has begun. (What a pass is made of is copied first, so that compilers keep it in registers.) */
INLINE void pass_groups(const Pass *given, size_t groups, bool end) {
    _Alignas(64) Stored dots[2];
    const Pass pass = *given, *p = &pass;
    __asm__ volatile("" ::: "memory");                      /* gcc 12 does not know that tiles are read from memory */
    _tile_loadd(4, p->w[0], 64);
    _tile_loadd(5, p->w[1], 64);
    if (groups == 2) {
        _tile_loadd(6, p->w[0] + BLOCK_ROWS * GROUP, 64);
        _tile_loadd(7, p->w[1] + BLOCK_ROWS * GROUP, 64);
    }
#define PRODUCT(sums, x, w) do { _tile_zero(sums); _tile_dpbssd(sums, x, w); } while (0)
    for (size_t t = 0; t <= p->tiles; t++) {
        const int8_t *x = p->x + t * p->groups * TILE * GROUP;
        bool on = t < p->tiles, finish = t > 0;
        int32_t (*now)[TILE * TILE] = dots[t & 1], (*last)[TILE * TILE] = dots[~t & 1];
        if (on) prefetch_next(p, t);
        if (groups == 2) {                                  /* four products: half 0 of both groups, half 1 of both */
            if (on) { _tile_loadd(2, x, 64); PRODUCT(0, 2, 4); }
            if (finish) { _tile_stored(1, last[3], 64); scale_eight(p, last, t - 1, 0, 0, 2, end); }
            if (on) { _tile_loadd(3, x + TILE * GROUP, 64); PRODUCT(1, 3, 6); _tile_stored(0, now[0], 64); }
            if (finish) scale_eight(p, last, t - 1, 0, 8, 2, end);
            if (on) { PRODUCT(0, 2, 5); _tile_stored(1, now[1], 64); }
            if (finish) scale_eight(p, last, t - 1, 1, 0, 2, end);
            if (on) { PRODUCT(1, 3, 7); _tile_stored(0, now[2], 64); }
            if (finish) scale_eight(p, last, t - 1, 1, 8, 2, end);
        } else {
            if (on) { _tile_loadd(2, x, 64); PRODUCT(0, 2, 4); }
            if (finish) {
                _tile_stored(1, last[1], 64);
                scale_eight(p, last, t - 1, 0, 0, 1, end);
                scale_eight(p, last, t - 1, 0, 8, 1, end);
            }
            if (on) { PRODUCT(1, 2, 5); _tile_stored(0, now[0], 64); }
            if (finish) {
                scale_eight(p, last, t - 1, 1, 0, 1, end);
                scale_eight(p, last, t - 1, 1, 8, 1, end);
            }
        }
    }
#undef PRODUCT
}

/* The last pass may be over one group or two. */
static NOINLINE void pass_two(const Pass *p) { pass_groups(p, 2, false); }
static NOINLINE void last_two(const Pass *p) { pass_groups(p, 2, true); }
static NOINLINE void last_one(const Pass *p) { pass_groups(p, 1, true); }

/* Sums to out, where it has fewer rows or columns than a pass writes. */
static NOINLINE void put_strip(float *out, size_t stride, const float *sums, const float *bias, size_t rows,
                               size_t cols) {
    for (size_t i = 0; i < rows; i++)
        for (size_t r = 0; r < cols; r++) out[i * stride + r] = bias ? sums[i * 32 + r] + bias[r] : sums[i * 32 + r];
}

/* Whether a scale of the 32 rows of w from row `first` on is too large for scale_eight, or no number. No real file has
   such scales. */
static bool is_large(const SvTensor *w, size_t first) {
    vi most = { 0 };
    for (size_t g = 0; g < groups_of(w); g++)
        for (size_t half = 0; half < 2; half++) {
            vf scale = load_bf16(scales_of(w, at_most(first + half * BLOCK_ROWS, w->rows - 1), g));
            most = v_max_int((vi)(bits_of(scale) & 0x7fffffffu), most);
        }
    return v_largest(most) >= (127 + 100) << 23;            /* the bits of 2^100 */
}

/* integer_strip's result as quant.c defines it, for such scales. */
static NOINLINE void large_strip(float *out, size_t stride, const SvTensor *w, const float *bias, const Quantized *x,
                                 size_t first, size_t i0, size_t i1) {
    int8_t unpacked[BLOCK_ROWS * GROUP];
    for (size_t r = first; r < at_most(first + 32, w->rows); r++)
        for (size_t i = i0; i < i1; i++) {
            float *to = out + (i - i0) * stride + r - first, sum = 0;
            for (size_t g = 0; g < x->groups; g++) {
                const int8_t *block = (const int8_t *)block_of(w, r, g), *q = bytes_of(x, i, g);
                if (w->format == SV_Q4) unpack_q4(unpacked, block_of(w, r, g)), block = unpacked;
                int32_t dot = 0;
                for (size_t k = 0; k < GROUP; k++)
                    dot += q[k] * block[(k / 4 * BLOCK_ROWS + r % BLOCK_ROWS) * 4 + k % 4];
                sum += (float)dot * from_bf16(scales_of(w, r, g)[r % BLOCK_ROWS]) * x->d[mark_of(x, i, g)];
            }
            *to = bias ? sum + bias[r] : sum;
        }
}

/* The strip of 32 rows of w from row `first` on, times the rows i0 .. i1 - 1 of x, to out, rows of which are `stride`
   apart; i0 is a multiple of TILE. */
static NOINLINE void integer_strip(float *out, size_t stride, const SvTensor *w, const float *bias, const Quantized *x,
                                   size_t first, size_t i0, size_t i1) {
    if (is_large(w, first)) {
        large_strip(out, stride, w, bias, x, first, i0, i1);
        return;
    }
    _Alignas(64) float sums[STAGED * 32], scale[2 * 32];
    _Alignas(64) int8_t unpacked[2][2 * BLOCK_ROWS * GROUP];
    size_t cols = at_most(32, w->rows - first);
    begin_tiles();
    for (size_t i = i0; i < i1; i += STAGED) {
        size_t rows = at_most(STAGED, i1 - i);
        float *to = out + (i - i0) * stride;
        bool whole = cols == 32 && rows % TILE == 0;
        for (size_t g = 0, groups; g < x->groups; g += groups) {
            Pass p = { .sum = sums, .out = sums, .stride = 32, .more = g > 0, .groups = x->groups,
                       .x = bytes_of(x, i, g), .d = x->d + mark_of(x, i, g), .scale = scale,
                       .tiles = (rows + TILE - 1) / TILE };
            groups = at_most(2, x->groups - g);
            p.part = round_up(2 * block_bytes(w->format) / p.tiles, 64);
            for (size_t half = 0; half < 2; half++) {
                size_t row = at_most(first + half * BLOCK_ROWS, w->rows - 1);  /* past the last: repeat its block */
                p.w[half] = (const int8_t *)block_of(w, row, g);
                p.next[half] = block_of(w, row, at_most(g + 2, x->groups - 1));
                for (size_t k = 0; k < groups; k++) {
                    v_store(scale + k * 32 + half * 16, load_bf16(scales_of(w, row, g + k)));
                    if (w->format == SV_Q4) unpack_q4(unpacked[half] + k * BLOCK_ROWS * GROUP, block_of(w, row, g + k));
                }
                if (w->format == SV_Q4) p.w[half] = unpacked[half];
            }
            if (whole) p.out = to, p.stride = stride, p.bias = bias ? bias + first : NULL;
            if (g + 2 < x->groups) pass_two(&p);
            else if (groups == 2) last_two(&p);
            else last_one(&p);
        }
        if (!whole) put_strip(to, stride, sums, bias ? bias + first : NULL, rows, cols);
    }
    _tile_release();
}

#endif
