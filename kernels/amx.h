/* amx.h: products of many rows by Intel's AMX, Q8 and Q4. All else of the set "amx" is avx512.h's.

   AMX has eight tiles: registers of 16 rows of 64 bytes each. One instruction multiplies a tile of x, [16 rows, 64
   numbers], with a tile of w, [64 numbers, 16 rows], and adds the 256 products to a tile of int32, [16, 16]. A block of
   Q8 as the file stores it, four bytes of each of its 16 rows in turn, is such a tile of w already, so nothing is packed;
   a block of Q4 is unpacked to one of Q8. x is quantized straight into tiles: [n / 16, groups, 16 rows, 64] bytes.

   A product takes 16 cycles. To get its 256 sums out, scale them and add them up takes more. The loops are arranged
   around that (measured on a Sapphire Rapids):

   - Four blocks of w, two groups of 32 rows, stay in tiles while STAGED rows of x pass. So what is read again and again,
     the float sums of those rows, fits L1.
   - The tile unit works in order, and a store waits for the product before it. So a tile is stored one product later
     than it is made, and between the two stand the vector instructions that scale what was stored before.
   - Stored tiles alternate between two halves of a buffer: a load right after a store to the same place waits for it.
   - The last groups go straight to out, with the bias.

   A thread sets the tiles up for each strip and releases them after it, so none of them is in use when other code
   runs, and a thread that sleeps has no tiles to be saved. */
#ifndef SV_AMX_H
#define SV_AMX_H

#include "quantize.h"

enum { TILE = 16, STAGED = 256 };                           /* rows of a tile; rows of x that pass w together */

typedef struct TileConfig { uint8_t palette, start, zero[14]; uint16_t bytes[16]; uint8_t rows[16]; } TileConfig;

static void begin_tiles(void) {
    TileConfig config = { .palette = 1 };
    for (int i = 0; i < 8; i++) config.bytes[i] = 64, config.rows[i] = TILE;
    _tile_loadconfig(&config);
}

/* A pass: `tiles` tiles of x, TILE rows each, times one or two groups of 32 rows of w. */
typedef struct Pass {
    float *sum;                             /* [rows of x, 32]: what former groups gave (if more), and what comes out */
    float *out;                             /* where the result goes, and its stride: sum, or out itself at the end   */
    size_t stride;
    const float *bias;                      /* [32], added at the end, or NULL                                        */
    bool more;
    const int8_t *x;                        /* the first tile of x: group g; the next group's tile follows it         */
    size_t x_step;                          /* bytes from one 16 rows of x to the next                                */
    const float *d;                         /* [rows of x, marks]: x's scales, from the first group on                */
    size_t marks;
    const int8_t *w[2];                     /* blocks: rows 0 .. 15 and 16 .. 31; the next group's block follows it   */
    const float *scale;                     /* [groups, 32]: w's scales                                               */
    size_t tiles;
} Pass;

/* A buffer of stored tiles, one for each product of 16 rows of x: half 0's groups, then half 1's. */
typedef int32_t Stored[4][TILE * TILE];

/* Rows 4 quarter .. + 3 of the 16 rows of x number `tile`, times half 0 or 1 of w's 32 rows: for each group
   sum += (float)dot * scale * d. */
INLINE void scale_quarter(const Pass *p, Stored dots, size_t tile, size_t half, size_t quarter, size_t groups) {
    size_t row = tile * TILE + 4 * quarter;
    const float *sum = p->sum + row * 32 + half * 16, *d = p->d + row * p->marks;
    float *to = p->out + row * p->stride + half * 16;
    vf total[4];
    for (size_t i = 0; i < 4; i++) total[i] = p->more ? v_load(sum + i * 32) : v_set(0);
#pragma GCC unroll 2
    for (size_t g = 0; g < groups; g++) {
        const int32_t *dot = dots[half * groups + g] + quarter * 4 * TILE;
        vf w = v_load(p->scale + g * 32 + half * 16);
        for (size_t i = 0; i < 4; i++)
            total[i] += v_float((vi)_mm512_loadu_si512(dot + i * TILE)) * w * v_set(d[i * p->marks + g]);
    }
    if (p->bias)
        for (size_t i = 0; i < 4; i++) total[i] += v_load(p->bias + half * 16);
    for (size_t i = 0; i < 4; i++) v_store(to + i * p->stride, total[i]);
}

INLINE void scale_two(const Pass *p, Stored dots, size_t tile, size_t half, size_t first, size_t groups) {
    scale_quarter(p, dots, tile, half, first, groups);
    scale_quarter(p, dots, tile, half, first + 1, groups);
}

/* Tiles 0 and 1 are sums in turn, 2 and 3 are x's two groups, 4 to 7 are w's blocks. The last round only finishes what
   the one before has begun. */
INLINE void pass_groups(const Pass *p, size_t groups) {
    _Alignas(4096) Stored dots[2];
    __asm__ volatile("" ::: "memory");                      /* gcc 12 does not know that tiles are read from memory */
    _tile_loadd(4, p->w[0], 64);
    _tile_loadd(5, p->w[1], 64);
    if (groups == 2) {
        _tile_loadd(6, p->w[0] + BLOCK_ROWS * GROUP, 64);
        _tile_loadd(7, p->w[1] + BLOCK_ROWS * GROUP, 64);
    }
#define PRODUCT(sums, x, w) do { _tile_zero(sums); _tile_dpbssd(sums, x, w); } while (0)
    for (size_t t = 0; t <= p->tiles; t++) {
        const int8_t *x = p->x + t * p->x_step;
        bool on = t < p->tiles, finish = t > 0;
        int32_t (*now)[TILE * TILE] = dots[t & 1], (*last)[TILE * TILE] = dots[~t & 1];
        if (groups == 2) {                                  /* four products: half 0 of both groups, half 1 of both */
            if (on) { _tile_loadd(2, x, 64); PRODUCT(0, 2, 4); }
            if (finish) { _tile_stored(1, last[3], 64); scale_two(p, last, t - 1, 0, 2, 2); }
            if (on) { _tile_loadd(3, x + TILE * GROUP, 64); PRODUCT(1, 3, 6); _tile_stored(0, now[0], 64); }
            if (finish) scale_two(p, last, t - 1, 1, 0, 2);
            if (on) { PRODUCT(0, 2, 5); _tile_stored(1, now[1], 64); }
            if (finish) scale_two(p, last, t - 1, 1, 2, 2);
            if (on) { PRODUCT(1, 3, 7); _tile_stored(0, now[2], 64); scale_two(p, now, t, 0, 0, 2); }
        } else {
            if (on) { _tile_loadd(2, x, 64); PRODUCT(0, 2, 4); }
            if (finish) {
                _tile_stored(1, last[1], 64);
                scale_two(p, last, t - 1, 0, 0, 1);
                scale_two(p, last, t - 1, 0, 2, 1);
            }
            if (on) { PRODUCT(1, 2, 5); _tile_stored(0, now[0], 64); }
            if (finish) {
                scale_two(p, last, t - 1, 1, 0, 1);
                scale_two(p, last, t - 1, 1, 2, 1);
            }
        }
    }
#undef PRODUCT
}

static NOINLINE void pass_one(const Pass *p) { pass_groups(p, 1); }
static NOINLINE void pass_two(const Pass *p) { pass_groups(p, 2); }

/* Sums to out, where it has fewer rows or columns than a pass writes. */
static NOINLINE void put_strip(float *out, size_t stride, const float *sums, const float *bias, size_t rows,
                               size_t cols) {
    for (size_t i = 0; i < rows; i++)
        for (size_t r = 0; r < cols; r++) out[i * stride + r] = bias ? sums[i * 32 + r] + bias[r] : sums[i * 32 + r];
}

/* The strip of 32 rows of w from row `first` on, times the rows i0 .. i1 - 1 of x; i0 is a multiple of TILE. */
static NOINLINE void integer_strip(float *out, const SvTensor *w, const float *bias, const Quantized *x, size_t first,
                                   size_t i0, size_t i1) {
    _Alignas(64) float sums[STAGED * 32], scale[2 * 32];
    _Alignas(64) int8_t unpacked[2][2 * BLOCK_ROWS * GROUP];
    size_t cols = at_most(32, w->rows - first), stride = w->rows;
    begin_tiles();
    for (size_t i = i0; i < i1; i += STAGED) {
        size_t rows = at_most(STAGED, i1 - i);
        float *to = out + i * stride + first;
        bool whole = cols == 32 && rows % TILE == 0;
        for (size_t g = 0, groups; g < x->groups; g += groups) {
            Pass p = { .sum = sums, .out = sums, .stride = 32, .more = g > 0, .x_step = x->groups * TILE * GROUP,
                       .x = x->bytes + (i / TILE * x->groups + g) * TILE * GROUP, .d = x->d + i * x->marks + g,
                       .marks = x->marks, .scale = scale, .tiles = (rows + TILE - 1) / TILE };
            groups = at_most(2, x->groups - g);
            for (size_t half = 0; half < 2; half++) {
                size_t row = at_most(first + half * BLOCK_ROWS, w->rows - 1);  /* past the last: repeat its block */
                p.w[half] = (const int8_t *)block_of(w, row, g);
                for (size_t k = 0; k < groups; k++) {
                    v_store(scale + k * 32 + half * 16, load_bf16(scales_of(w, row, g + k)));
                    if (w->format == SV_Q4) unpack_q4(unpacked[half] + k * BLOCK_ROWS * GROUP, block_of(w, row, g + k));
                }
                if (w->format == SV_Q4) p.w[half] = unpacked[half];
            }
            for (size_t r = rows * g / x->groups; r < rows * (g + groups) / x->groups; r++) {   /* to be written soon */
                __builtin_prefetch(to + r * stride, 1, 3);
                __builtin_prefetch(to + r * stride + 16, 1, 3);
            }
            if (whole && g + groups == x->groups) p.out = to, p.stride = stride, p.bias = bias ? bias + first : NULL;
            if (groups == 2) pass_two(&p);
            else pass_one(&p);
        }
        if (!whole) put_strip(to, stride, sums, bias ? bias + first : NULL, rows, cols);
    }
    _tile_release();
}

#endif
