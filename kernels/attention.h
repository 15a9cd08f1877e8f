/* attention.h: the KV cache and attention.

   Attention is two products with a softmax between them, so it uses the functions of products.h (with AMX, for many
   queries, those of amx_attention.h). The cache holds each head's keys and values as panels, in the order in which
   product4 reads them. A number is written to its place once, when its position is added; nothing is packed later.

     K panels   NR positions side by side; the product runs over head_dim
     V panels   NR elements of head_dim side by side; the product runs over positions, in groups of KEYS. Groups are
                counted from position 0, so grouping, and with it rounding, does not depend on how a prompt is chunked

   In a q8 cache, keys and values are int8, with a scale for each position. Queries are quantized with one scale each.
   The softmax's weights are multiplied by the scales of their values, then quantized too. An f32 cache has panels of NF
   floats.

   The rows of the product are the queries of all heads that share the keys. So with grouped-query attention, each key
   is read once for the whole group of heads. */
#ifndef SV_ATTENTION_H
#define SV_ATTENTION_H

#include "matmul.h"
#include "sums.h"

enum { KEYS = 64, WIDEST = 32 };                            /* multiples of every NR and NF */

typedef struct Head { int8_t *k, *v; float *k_scale, *v_scale, *k_f32, *v_f32; } Head;

static Head head_of(const SvCache *c, size_t head) {
    size_t one = c->capacity * round_up(c->dim, WIDEST);    /* numbers of a head, at most */
    float *k_f32 = c->data + head * one, *k_scale = c->data + head * c->capacity;
    if (!c->q8) return (Head){ .k_f32 = k_f32, .v_f32 = k_f32 + c->heads * one };
    int8_t *k = (int8_t *)(c->data + 2 * c->heads * c->capacity) + head * one;
    return (Head){ .k = k, .v = k + c->heads * one, .k_scale = k_scale, .v_scale = k_scale + c->heads * c->capacity };
}

/* Writes one position's key and value, [dim] each, into the cache's panels. */
static NOINLINE void put_integers(const SvCache *c, const Head *head, const float *key, const float *value,
                                  size_t position) {
    size_t dim = c->dim, size = round_up(dim, 16);
    int8_t bytes[MAX_GROUP], *k = head->k + position / NR * NR * size + panel_at(0, position % NR);
    int8_t *v = head->v + position / KEYS * KEYS * NR + panel_at(position % KEYS, 0);
    head->k_scale[position] = quantize(bytes, key, dim, size, NULL);
    as_in_panels(bytes, size);
    for (size_t e = 0; e < size; e += STEP) memcpy(k + panel_at(e, 0), bytes + e, STEP);
    head->v_scale[position] = quantize(bytes, value, dim, size, NULL);
    as_in_panels(bytes, size);
    for (size_t e = 0; e < dim; e += NR, v += c->capacity * NR)
        for (size_t r = 0; r < at_most(NR, dim - e); r++) v[panel_at(0, r)] = bytes[e + r];
}

static NOINLINE void put_floats(const SvCache *c, const Head *head, const float *key, const float *value,
                                size_t position) {
    size_t dim = c->dim;
    float *k = head->k_f32 + position / NF * NF * dim + position % NF, *v = head->v_f32 + position * NF;
    for (size_t e = 0; e < dim; e++) k[e * NF] = key[e];
    for (size_t e = 0; e < dim; e++) v[e / NF * NF * c->capacity + e % NF] = value[e];
}

/* Prefetches the cache lines of a q8 cache that one position will be written to, some twenty a head, so that their
   misses overlap. */
static void prefetch_places(const SvCache *c, size_t head, size_t position) {
    enum { APART = 64 / NR > STEP ? 64 / NR : STEP };       /* numbers of a key in one line */
    size_t size = round_up(c->dim, 16);
    Head part = head_of(c, head);
    for (size_t e = 0; e < size; e += APART)
        ask_for(part.k + position / NR * NR * size + panel_at(e, position % NR), STEP);
    for (size_t e = 0; e < c->dim; e += NR)
        ask_for(part.v + e * c->capacity + position / KEYS * KEYS * NR + panel_at(position % KEYS, 0), NR * STEP);
}

static void cache(const SvCache *c, const float *k, const float *v, size_t at, size_t count) {
    size_t heads = c->heads, dim = c->dim;
    if (count == 1 && c->q8) {
#pragma omp for schedule(static) nowait
        for (int64_t h = 0; h < (int64_t)heads; h++) prefetch_places(c, (size_t)h, at);
    }
#pragma omp for schedule(static) nowait
    for (int64_t u = 0; u < (int64_t)(count * heads); u++) {
        size_t i = (size_t)u / heads, h = (size_t)u % heads;
        const float *key = k + (size_t)u * dim, *value = v + (size_t)u * dim;
        Head head = head_of(c, h);
        if (c->q8) put_integers(c, &head, key, value, at + i);
        else put_floats(c, &head, key, value, at + i);
    }
}

/* Rows of many queries that are computed together in a q8 cache: as many as a product takes. Of few queries, and in an
   f32 cache, four. */
enum { TOGETHER = X_ROWS };

/* Scratch for `rows` rows: their scores, the reciprocals of the sums of their weights, and the quantized weights. */
typedef struct Scratch { float *scores, *one_over; Quantized weights; } Scratch;

static uint64_t scratch_floats(uint64_t n_k, uint64_t rows) {
    uint64_t keys = (n_k + KEYS - 1) / KEYS * KEYS;
    return 16 + rows * keys + quantized_floats(rows, keys);
}

static Scratch scratch_in(float *scratch, size_t keys, size_t rows) {
    return (Scratch){ scratch + 16, scratch, quantized_in(scratch + 16 + rows * keys, rows, keys, KEYS) };
}

/* Multiplies a query by the softmax's scale and quantizes it, padded with zeros to `size`, the next multiple of 16.
   Returns the quantization scale. */
static float quantize_query(int8_t *bytes, const float *q, size_t dim, size_t size, int32_t *by128) {
    float scaled[MAX_GROUP];
    vf scale = v_set(1.0f / sqrtf((float)dim));
    memcpy(scaled, q, dim * sizeof *q);
    for (size_t e = 0; e < size; e += VL) v_store(scaled + e, v_load(scaled + e) * scale);
    return quantize(bytes, scaled, dim, size, by128);
}

/* Up to four rows of attention, as product4 takes four, or TOGETHER. Row i is one query of one query head, q[i] [dim].
   It sees the positions 0 .. seen[i] - 1; its result goes to out[i] [dim]. count: the number of rows; those beyond it
   repeat the last, which sees the most. keys: what the last row sees, rounded up to whole groups. once: no other rows
   read these keys and values. */
typedef struct Rows {
    const SvCache *c;
    Head head;
    const float *q[TOGETHER];
    float *out[TOGETHER];
    size_t seen[TOGETHER], count, keys;
    bool once;
    Scratch scratch;
} Rows;

/* Part one, scores: the rows' products with the keys from .. to - 1, `from` being a multiple of WIDEST. */
static NOINLINE void integer_scores(const Rows *row, size_t from, size_t to) {
    size_t dim = row->c->dim, size = round_up(dim, 16);
    int8_t bytes[MAX_GROUP];
    xint x[4 * MAX_GROUP];
    float d[4];
    int32_t by128[4];
    for (size_t i = 0; i < 4; i++) {
        d[i] = quantize_query(bytes, row->q[i], dim, size, &by128[i]);
        widen(x + i * size, bytes, size);
    }
    for (size_t j = from; j < to; j += NR) {
        const int8_t *panel = row->head.k + j * size;
        if (row->once) {                                    /* what part two reads next */
            ask_for(row->head.k_scale + j, NR * sizeof(float));
            ask_for(row->head.v_scale + j, NR * sizeof(float));
        }
        product4(row->scratch.scores + j, row->keys, false, x, size, d, by128, 1, panel, NULL, size, 1, row->once);
    }
}

static NOINLINE void float_scores(const Rows *row, size_t from, size_t to) {
    size_t dim = row->c->dim;
    float x[4 * MAX_GROUP], scale = 1.0f / sqrtf((float)dim);
    for (size_t i = 0; i < 4; i++)
        for (size_t e = 0; e < dim; e++) x[i * dim + e] = row->q[i][e] * scale;
    for (size_t j = from; j < to; j += NF) {
        const float *panel = row->head.k_f32 + j * dim;
        float_product4(row->scratch.scores + j, row->keys, false, x, dim, panel, dim, row->once);
    }
}

/* Memory is idle during the softmax, so the V panels of a q8 cache are prefetched meanwhile: ASKED bytes for each
   score, another slice for each row. Half of it comes during e^x and half during quantization, because faster
   prefetches are dropped. Threads take rows in part two and panels in part three in the same order, so the thread that
   prefetches is mostly the one that reads. */
enum { ASKED = 8 };

static const int8_t *values_to_ask_for(const Rows *row, size_t i) {
    size_t keys = row->keys, panels = (row->c->dim + NR - 1) / NR, at = i * panels * keys / row->count;
    size_t first = at_most(at % keys, keys - keys * ASKED / NR);
    return row->head.v + (at / keys * row->c->capacity + first) * NR;
}

/* to_weights: LANES scores become a softmax's weights, e^(x - max). (Of a row with a NaN, max may not be the largest.
   What comes out is then not defined, but the row's sum is NaN.) sum_weights: adds LANES weights to their sum, then
   multiplies them by `after`, unless it is NULL. */
static inline void to_weights(float *x, vf max) {
    for (size_t l = 0; l < LANES; l += VL) v_store(x + l, v_exp_below(v_load(x + l) - max));
}

static inline void sum_weights(float *x, const float *after, vf total[LANES / VL]) {
    for (size_t l = 0; l < LANES; l += VL) {
        vf weight = v_load(x + l);
        total[l / VL] += weight;
        if (after) v_store(x + l, weight * v_load(after + l));
    }
}

/* Part two, softmax: row i's scores x become weights, not yet divided by their sum. x[j] = e^(x[j] - max) for the n
   keys that the row sees, and zero beyond; one_over gets the reciprocal of the sum. In a q8 cache, the scores are first
   multiplied by the keys' scales. The weights, once summed, are multiplied by the values' scales and quantized. */
static NOINLINE void weights_of(const Rows *row, size_t i) {
    size_t n = row->seen[i], whole = n / LANES * LANES;
    float *x = row->scratch.scores + i * row->keys, s[LANES];
    bool q8 = row->c->q8;
    const float *before = q8 ? row->head.k_scale : NULL, *after = q8 ? row->head.v_scale : NULL;
    const int8_t *next = q8 && row->once ? values_to_ask_for(row, i) : NULL;
    vf total[LANES / VL], max = v_set(max_of(x, before, n));
    for (size_t l = 0; l < LANES / VL; l++) total[l] = v_set(0.0f);
    for (size_t j = 0; j < whole; j += LANES) {
        if (next) ask_for(next + j * ASKED / 2, LANES * ASKED / 2);
        to_weights(x + j, max);
        sum_weights(x + j, after ? after + j : NULL, total);
    }
    if (whole < n) {
        to_weights(x + whole, max);
        memset(x + n, 0, (whole + LANES - n) * sizeof *x);
        sum_weights(x + whole, after ? after + whole : NULL, total);
    }
    for (size_t l = 0; l < LANES / VL; l++) v_store(s + l * VL, total[l]);
    row->scratch.one_over[i] = 1.0f / tree(s);
    memset(x + n, 0, (row->keys - n) * sizeof *x);          /* whatever `after` holds there */
    if (!q8) return;
    for (size_t g = 0; g < row->scratch.weights.groups; g++) {
        if (next) ask_for(next + (row->keys + g * KEYS) * ASKED / 2, KEYS * ASKED / 2);
        quantize_group(&row->scratch.weights, i, x, row->keys, g, false);
    }
}

/* A row beyond `count`: product4 (or a tile) reads it all the same, so all its weights are zero. */
static void no_weights(const Rows *row, size_t i) {
    const Quantized *w = &row->scratch.weights;
    if (!row->c->q8) {
        memset(row->scratch.scores + i * row->keys, 0, row->keys * sizeof(float));
        return;
    }
    if (!w->tiled) {
        memset(w->q + i * w->stride, 0, w->stride * sizeof *w->q);
        memset(w->by128 + i * w->marks, 0, w->groups * sizeof *w->by128);
    }
    for (size_t g = 0; g < w->groups; g++) {
        if (w->tiled) memset(bytes_of(w, i, g), 0, KEYS);
        w->d[mark_of(w, i, g)] = 0;
    }
}

/* Up to `width` elements, from e on, of the rows' weighted sums of values: s [count, width] divided by the sums of the
   weights. */
static inline void put_values(const Rows *row, size_t e, const float *s, size_t width) {
    for (size_t i = 0; i < row->count; i++)
        for (size_t r = 0; r < at_most(width, row->c->dim - e); r++)
            row->out[i][e + r] = s[i * width + r] * row->scratch.one_over[i];
}

/* Part three, values: elements first .. first + WIDEST - 1 of the weighted sums of the values. */
static NOINLINE void integer_values(const Rows *row, size_t first) {
    const Quantized *w = &row->scratch.weights;
    size_t dim = row->c->dim;
    for (size_t e = first; e < at_most(dim, first + WIDEST); e += NR) {
        float s[4][NR];
        product4(s[0], NR, false, w->q, w->stride, w->d, w->by128, w->marks, row->head.v + e * row->c->capacity, NULL,
                 KEYS, row->keys / KEYS, row->once);
        put_values(row, e, s[0], NR);
    }
}

static NOINLINE void float_values(const Rows *row, size_t first) {
    size_t dim = row->c->dim, most = row->seen[3];
    for (size_t e = first; e < at_most(dim, first + WIDEST); e += NF) {
        float s[4][NF];
        const float *panel = row->head.v_f32 + e * row->c->capacity;
        for (size_t at = 0, n; at < most; at += n) {
            n = at_most(KEYS, most - at);
            float_product4(s[0], NF, at > 0, row->scratch.scores + at, row->keys, panel + at * NF, n, row->once);
        }
        put_values(row, e, s[0], NF);
    }
}

static void scores(const Rows *row, size_t from, size_t to) {
    if (row->c->q8) integer_scores(row, from, to);
    else float_scores(row, from, to);
}

static void values(const Rows *row, size_t first) {
    if (row->c->q8) integer_values(row, first);
    else float_values(row, first);
}

/* What differs by set where there are many rows: the two products of up to TOGETHER rows, and what surrounds them. */
#ifdef SV_AMX
#include "amx_attention.h"
#else
static void begin_many(void) {}
static void scores_of_many(const Rows *row) { scores(row, 0, row->seen[3]); }
static void values_of_many(const Rows *row, size_t first) { values(row, first); }
static void end_many(void) {}
#endif

/* The arguments of one attention. Each head of the cache has n_q * shared rows: those of the first query's heads, then
   of the second's, and so on. */
typedef struct Queries {
    float *out;
    const float *q;
    const SvCache *c;
    size_t n_q, n_k, heads;
    bool causal;
    float *scratch;
} Queries;

/* `together` of head h's `count` rows, from row i on, with part `number` of the scratch. */
static Rows rows_of(const Queries *a, size_t h, size_t i, size_t count, size_t together, size_t number) {
    size_t shared = a->heads / a->c->heads;
    Rows row = { .c = a->c, .head = head_of(a->c, h), .count = at_most(together, count - i) };
    for (size_t r = 0; r < together; r++) {
        size_t one = at_most(i + r, count - 1), query = one / shared;
        size_t at = (query * a->heads + h * shared + one % shared) * a->c->dim;
        row.q[r] = a->q + at;
        row.out[r] = a->out + at;
        row.seen[r] = a->causal ? a->n_k - a->n_q + 1 + query : a->n_k;
    }
    row.keys = round_up(row.seen[together - 1], KEYS);
    row.once = count <= 4;
    row.scratch = scratch_in(a->scratch + number * (size_t)scratch_floats(a->n_k, together), row.keys, together);
    return row;
}

/* Sets *row to group number `four` of the groups of four rows, unless *now says that it is set. The first groups of all
   heads come first, then the second ones, and so on. */
static void go_to(Rows *row, size_t *now, const Queries *a, size_t four, size_t count) {
    if (*now != four) *row = rows_of(a, four % a->c->heads, four / a->c->heads * 4, count, 4, four);
    *now = four;
}

/* Few queries (decoding): each part is divided among the threads, because the cache may have fewer heads than there are
   threads, or a number that does not divide evenly. In part one, the keys of all heads, one head after the other, are
   cut into one equal stretch per thread. */
static void attention_of_few(const Queries *a) {
    size_t heads = a->c->heads, dim = a->c->dim, count = a->n_q * (a->heads / heads), fours = (count + 3) / 4 * heads;
    size_t pieces = (a->n_k + WIDEST - 1) / WIDEST, strips = (dim + WIDEST - 1) / WIDEST;
    Rows row;
    size_t now = fours;                                     /* none yet */
    size_t all = fours * pieces, first = all * (size_t)thread_index() / (size_t)thread_count();
    size_t end = all * ((size_t)thread_index() + 1) / (size_t)thread_count();
    while (first < end) {
        size_t four = first / pieces, before = four * pieces, next = at_most(end, before + pieces);
        go_to(&row, &now, a, four, count);
        scores(&row, (first - before) * WIDEST, at_most((next - before) * WIDEST, row.seen[3]));
        first = next;
    }
#pragma omp barrier
#pragma omp for schedule(static)
    for (int64_t u = 0; u < (int64_t)(fours * 4); u++) {
        size_t four = (size_t)u / 4, i = (size_t)u % 4;
        go_to(&row, &now, a, four, count);
        if (i < row.count) weights_of(&row, i);
        else no_weights(&row, i);
    }
#pragma omp for schedule(static)
    for (int64_t u = 0; u < (int64_t)(fours * strips); u++) {
        size_t four = (size_t)u / strips;
        go_to(&row, &now, a, four, count);
        values(&row, (size_t)u % strips * WIDEST);
    }
}

/* Many queries: blocks of ROWS rows; one thread does all three parts of a block. */
static void attention_of_many(const Queries *a) {
    size_t heads = a->c->heads, count = a->n_q * (a->heads / heads), blocks = (count + ROWS - 1) / ROWS;
    size_t together = a->c->q8 ? TOGETHER : 4;
#pragma omp for schedule(static, 1)
    for (int64_t u = 0; u < (int64_t)(heads * blocks); u++) {
        size_t first = (size_t)u / heads * ROWS;
        begin_many();
        for (size_t i = first; i < at_most(first + ROWS, count); i += together) {
            Rows row = rows_of(a, (size_t)u % heads, i, count, together, (size_t)thread_index());
            row.scratch.weights.tiled = TILED && a->c->q8;
            scores_of_many(&row);
            for (size_t r = 0; r < row.count; r++) weights_of(&row, r);
            for (size_t r = row.count; r < together; r++) no_weights(&row, r);
            for (size_t e = 0; e < a->c->dim; e += WIDEST) values_of_many(&row, e);
        }
        end_many();
    }
}

static void attention(float *out, const float *q, const SvCache *c, size_t n_q, size_t n_k, size_t heads, bool causal,
                      float *scratch) {
    Queries all = { out, q, c, n_q, n_k, heads, causal, scratch };
#pragma omp barrier
    if (n_q <= FEW) attention_of_few(&all);
    else attention_of_many(&all);
}

#endif
