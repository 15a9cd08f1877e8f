/* amx_attention.h: attention of many queries by Intel's AMX (amx.h), 16 rows at a time. attention.h includes it.

   Keys and values lie in the cache in the panels of avx512.h, [numbers / 4][32 rows][4]. So every other 64 bytes of a
   panel are a tile of 16 keys (or of 16 elements of values). As in amx.h, a tile is stored one product later than it is
   made, and the vector instructions that finish the one before stand between. */
#ifndef SV_AMX_ATTENTION_H
#define SV_AMX_ATTENTION_H

enum { PANEL_STEP = NR * STEP };                            /* bytes from four numbers of a row to its next four */

/* Two products of 16 rows, as tiles store them (Stored has four). */
typedef int32_t Dots[2][TILE * TILE];

/* Scores of 16 rows with the keys j .. j + 31 from their products. */
INLINE void finish_scores(const Rows *row, Dots dots, size_t j, const float *d) {
    float *to = row->scratch.scores + j;
    for (size_t i = 0; i < TILE; i++)
        for (size_t half = 0; half < 2; half++) {
            vi dot = (vi)_mm512_loadu_si512(dots[half] + i * TILE);
            v_store(to + i * row->keys + half * VL, v_float(dot) * v_set(d[i]));
        }
}

/* Part one: 16 rows times all keys. Tiles 0 and 1 are the products, 2 is the queries', 4 and 5 the keys'. Queries of
   more than 64 numbers take several tiles; where the last is not full, its zeros meet whatever follows the keys. */
static NOINLINE void tile_scores(const Rows *row) {
    size_t dim = row->c->dim, size = round_up(dim, 16), parts = (size + GROUP - 1) / GROUP;
    _Alignas(64) int8_t x[MAX_GROUP / GROUP][TILE][GROUP];
    _Alignas(64) Dots dots[2];
    float d[TILE];
    for (size_t i = 0; i < TILE; i++) {
        int8_t bytes[MAX_GROUP] = { 0 };
        d[i] = quantize_query(bytes, row->q[i], dim, size, NULL);
        for (size_t part = 0; part < parts; part++) memcpy(x[part][i], bytes + part * GROUP, GROUP);
    }
    __asm__ volatile("" ::: "memory");
    _tile_loadd(2, x[0], GROUP);
#define PRODUCT(sums, keys, from) do {                                                                                 \
        _tile_zero(sums);                                                                                              \
        for (size_t part = 0; part < parts; part++) {                                                                  \
            if (parts > 1) _tile_loadd(2, x[part], GROUP);                                                             \
            _tile_loadd(keys, (from) + part * GROUP * NR, PANEL_STEP);                                                 \
            _tile_dpbssd(sums, 2, keys);                                                                               \
        }                                                                                                              \
    } while (0)
    for (size_t j = 0; j <= row->keys; j += NR) {
        const int8_t *panel = row->head.k + j * size;
        int32_t (*now)[TILE * TILE] = dots[j / NR & 1], (*last)[TILE * TILE] = dots[~(j / NR) & 1];
        bool on = j < row->keys;
        prefetch_to_l1(panel, NR * size, GROUP * NR);
        if (on) PRODUCT(0, 4, panel);
        if (j) _tile_stored(1, last[1], 64);
        if (on) {
            PRODUCT(1, 5, panel + TILE * STEP);
            _tile_stored(0, now[0], 64);
        }
        if (j) finish_scores(row, last, j - NR, d);
    }
#undef PRODUCT
}

/* Part three: elements first .. first + 31 of 16 rows' weighted sums of values. */
INLINE void add_values(float sum[TILE][NR], Dots dots, const float *d) {
    for (size_t i = 0; i < TILE; i++)
        for (size_t half = 0; half < 2; half++) {
            vi dot = (vi)_mm512_loadu_si512(dots[half] + i * TILE);
            float *to = sum[i] + half * VL;
            v_store(to, v_load(to) + v_float(dot) * v_set(d[i]));
        }
}

static NOINLINE void tile_values(const Rows *row, size_t first) {
    const Quantized *w = &row->scratch.weights;
    const int8_t *panel = row->head.v + first * row->c->capacity;
    size_t groups = row->keys / KEYS;
    _Alignas(64) float sum[TILE][NR] = { { 0 } };
    _Alignas(64) Dots dots[2];
    __asm__ volatile("" ::: "memory");
    for (size_t g = 0; g <= groups; g++, panel += KEYS * NR) {
        int32_t (*now)[TILE * TILE] = dots[g & 1], (*last)[TILE * TILE] = dots[~g & 1];
        bool on = g < groups;
        prefetch_to_l1(panel, KEYS * NR, KEYS * NR);
        if (on) {
            _tile_loadd(2, w->bytes + g * TILE * GROUP, GROUP);
            _tile_loadd(4, panel, PANEL_STEP);
            _tile_zero(0);
            _tile_dpbssd(0, 2, 4);
        }
        if (g) _tile_stored(1, last[1], 64);
        if (on) {
            _tile_loadd(5, panel + TILE * STEP, PANEL_STEP);
            _tile_zero(1);
            _tile_dpbssd(1, 2, 5);
            _tile_stored(0, now[0], 64);
        }
        if (g) add_values(sum, last, w->d + (g - 1) * TILE);
    }
    put_values(row, first, sum[0], NR);
}

static void begin_many(void) { begin_tiles(); }
static void end_many(void) { _tile_release(); }

static void scores_of_many(const Rows *row) {
    if (row->c->q8) tile_scores(row);
    else scores(row, 0, row->seen[3]);
}

static void values_of_many(const Rows *row, size_t first) {
    if (row->c->q8) tile_values(row, first);
    else values(row, first);
}

#endif
