/* vision.c: the vision tower and the connector, tiles to image tokens.

     tile [S, S, 3] bytes                                                          S = image_size
       | rescale, normalise, cut into n = (S / patch_size)^2 patches               SmolVLMImageProcessor
     patches [n, 3 patch_size^2]
       | patch_embedding (a convolution whose squares do not overlap: a matmul)    SmolVLMVisionEmbeddings
       | + position_embedding
     x [n, width]
       |---------------------------------------------------.                       SmolVLMEncoderLayer
       |  x += out_proj(attention(layer_norm1(x)))         | x vision_num_hidden_layers
       |  x += fc2(gelu_tanh(fc1(layer_norm2(x))))         |
       |---------------------------------------------------'
       | post_layernorm
     x [n, width]
       | pixel shuffle: s x s patches side by side become one row                  SmolVLMConnector
     [n / s^2, s^2 width]
       | modality_projection
     image tokens [n / s^2, hidden_size]

   In the 500M model: S = 512, patches of 16 x 16 x 3 = 768 bytes, n = 32 * 32 = 1024, width = 768, 12 layers; with
   s = 4, rows of 4 * 4 * 768 = 12288 numbers, and 1024 / 16 = 64 image tokens of 960 numbers.

   Tiles do not see each other here: bringing them together is the decoder's work. So a batch of tiles is one tall
   matrix to every step but attention. */
#include "model.h"

#include <stdlib.h>
#include <string.h>

/* A batch of tiles on its way through the tower, and the memory for it; rows = tiles * patches. Buffers that are never
   needed at the same time share their memory: attention lies where norm does, delta and shuffled where q does, and mlp
   where pixels does. */
typedef struct Batch {
    size_t tiles, patches, rows;            /* patches: of one tile */
    float *pixels;                          /* [rows, 3 patch_size^2]         the patches, cut out                    */
    float *x;                               /* [rows, width]                  the residual stream: blocks add to it   */
    float *norm;                            /* [rows, width]                  a block's input, normalised             */
    float *q, *k, *v;                       /* [rows, heads, width / heads]   queries, keys and values                */
    float *attention;                       /* [rows, heads, width / heads]   what each head found                    */
    float *delta;                           /* [rows, width]                  what a block adds to x                  */
    float *mlp;                             /* [rows, intermediate_size]      the MLP's middle                        */
    float *shuffled;                        /* [rows / s^2, s^2 width]        s^2 patches a row                       */
    SvCache cache;                          /* one tile's keys and values, arranged for attention                     */
    float *scratch;                         /* for the kernels                                                        */
} Batch;

/* ------------------------------------------------------------------------------------------------------ the model */

/* Channel values as Hugging Face's image processor computes them: rescaled in double, rounded to float, then
   normalised. */
static void pixel_values(const SvConfig *c, float value[3][256]) {
    for (int channel = 0; channel < 3; channel++)
        for (int byte = 0; byte < 256; byte++)
            value[channel][byte] = ((float)(byte * c->rescale_factor) - c->image_mean[channel]) / c->image_std[channel];
}

/* tile [S, S, 3] -> patches [n, 3 patch_size^2]. Patches go row by row; within a patch the order is that of the
   convolution's weight: channel, row, column. */
static void cut_patches(const SvConfig *c, const uint8_t *tile, float value[3][256], float *patches) {
    size_t size = c->image_size, p = c->patch_size, side = size / p;
    for (size_t i = 0; i < side; i++)
        for (size_t j = 0; j < side; j++)
            for (size_t channel = 0; channel < 3; channel++)
                for (size_t y = 0; y < p; y++)
                    for (size_t x = 0; x < p; x++)
                        *patches++ = value[channel][tile[((i * p + y) * size + j * p + x) * 3 + channel]];
}

/* x [side, side, width] -> out [side / s, side / s, s * s, width]: the s x s patches of a square, laid end to end, row
   by row. The name is Hugging Face's; nothing is shuffled or averaged, space becomes depth. Positions are what costs
   time in the decoder, so 16 neighbouring patches are better one long row than 16 short ones. */
static void pixel_shuffle(const SvConfig *c, const float *x, float *out) {
    size_t width = c->vision_hidden_size, s = c->scale_factor, side = c->image_size / c->patch_size;
    for (size_t i = 0; i < side / s; i++)
        for (size_t j = 0; j < side / s; j++)
            for (size_t r = 0; r < s; r++, out += s * width)
                memcpy(out, x + ((i * s + r) * side + j * s) * width, s * width * sizeof(float));
}

/* patches -> x: a patch's pixels times one matrix, plus what stands for its place. Attention compares patches but does
   not know where they are, so each place has a vector of its own, learned in training. Every tile is square and full,
   so one table fits every tile: patch i takes row i. */
static void embeddings(const SvModel *m, const Batch *b, const SvEvents *events) {
    const SvVision *w = &m->vision;
    size_t width = m->config.vision_hidden_size;

    /* x = patch_embedding(pixel_values) + position_embedding */
    SvProduct patch_embedding = { b->x, &w->patch_embedding_weight, w->patch_embedding_bias.data };
    sv_matmul(m, &patch_embedding, 1, b->pixels, b->rows, false, b->scratch);
    for (size_t t = 0; t < b->tiles; t++)
        m->kernels->add(b->x + t * b->patches * width, w->position_embedding.data, b->patches, width);
#pragma omp barrier
    sv_team_emit(events, "model.vision_model.embeddings", 0, b->x, 3,
                 (int[]){ (int)b->tiles, (int)b->patches, (int)width }, 0);
}

/* x through the layers. All threads of a team run this together; each kernel gives every thread its share of rows. */
static void encoder(const SvModel *m, const Batch *b, const SvEvents *events) {
    const SvConfig *c = &m->config;
    const SvKernels *cpu = m->kernels;
    size_t width = c->vision_hidden_size, heads = c->vision_num_attention_heads, n = b->patches;

    for (uint32_t l = 0; l < c->vision_num_hidden_layers; l++) {
        const SvVisionLayer *layer = &m->vision.layers[l];

        /* x += out_proj(attention(layer_norm1(x)))

           A patch has a query (what it looks for), a key (what it is) and a value (what it has to tell). It receives
           the values of all patches of its tile, weighted by how well their keys fit its query. BIDIRECTIONAL: there
           is no mask, as a picture is not read in an order; its last patch may explain its first. */
        cpu->layer_norm(b->norm, b->x, layer->layer_norm1_weight.data, layer->layer_norm1_bias.data, b->rows, width,
                        c->layer_norm_eps);
        SvProduct qkv[] = { { b->q, &layer->q_proj_weight, layer->q_proj_bias.data },
                            { b->k, &layer->k_proj_weight, layer->k_proj_bias.data },
                            { b->v, &layer->v_proj_weight, layer->v_proj_bias.data } };
        sv_matmul(m, qkv, 3, b->norm, b->rows, false, b->scratch);
        for (size_t at = 0; at < b->rows * width; at += n * width) {            /* tile after tile */
            cpu->cache(&b->cache, b->k + at, b->v + at, 0, n);
            cpu->attention(b->attention + at, b->q + at, &b->cache, n, n, heads, SV_BIDIRECTIONAL, b->scratch);
        }
        SvProduct out_proj = { b->delta, &layer->out_proj_weight, layer->out_proj_bias.data };
        sv_matmul(m, &out_proj, 1, b->attention, b->rows, false, b->scratch);
        cpu->add(b->x, b->delta, b->rows, width);

        /* x += fc2(gelu_tanh(fc1(layer_norm2(x)))): what each patch makes of what it has gathered, by itself */
        cpu->layer_norm(b->norm, b->x, layer->layer_norm2_weight.data, layer->layer_norm2_bias.data, b->rows, width,
                        c->layer_norm_eps);
        SvMlp mlp = { .first = { { b->mlp, &layer->fc1_weight, layer->fc1_bias.data } }, .count = 1,
                      .second = { b->delta, &layer->fc2_weight, layer->fc2_bias.data } };
        sv_mlp(m, &mlp, b->norm, b->rows, false, b->scratch);
        cpu->add(b->x, b->delta, b->rows, width);

        sv_team_emit(events, "model.vision_model.encoder.layers.%d", (int)l, b->x, 3,
                     (int[]){ (int)b->tiles, (int)n, (int)width }, 0);
    }
}

/* x -> features [tiles, image tokens of a tile, hidden_size]: rows as wide as the decoder's, for the <image> places. */
static void connector(const SvModel *m, const Batch *b, float *features, const SvEvents *events) {
    const SvConfig *c = &m->config;
    size_t width = c->vision_hidden_size, tokens = (size_t)sv_image_tokens(c);

    m->kernels->layer_norm(b->norm, b->x, m->vision.post_layernorm_weight.data, m->vision.post_layernorm_bias.data,
                           b->rows, width, c->layer_norm_eps);
#pragma omp barrier
    sv_team_emit(events, "model.vision_model.post_layernorm", 0, b->norm, 3,
                 (int[]){ (int)b->tiles, (int)b->patches, (int)width }, 0);

    /* features = modality_projection(pixel_shuffle(x)) */
#pragma omp for schedule(static)
    for (int64_t t = 0; t < (int64_t)b->tiles; t++)
        pixel_shuffle(c, b->norm + (size_t)t * b->patches * width, b->shuffled + (size_t)t * b->patches * width);
    SvProduct projection = { features, &m->vision.modality_projection, NULL };
    sv_matmul(m, &projection, 1, b->shuffled, b->tiles * tokens, false, b->scratch);
    sv_team_emit(events, "model.connector", 0, features, 3,
                 (int[]){ (int)b->tiles, (int)tokens, (int)c->hidden_size }, 0);
}

/* ------------------------------------------------------------------------------------------------- sizes and memory */

static size_t patches_of(const SvConfig *c) {
    return (size_t)(c->image_size / c->patch_size) * (c->image_size / c->patch_size);
}

/* How many tiles go through together. With a published model it is one. With a small model, whose products would be too
   small to be fast, as many as make BATCH_ROWS rows. */
enum { BATCH_ROWS = 1024 };
static size_t batch_of(const SvConfig *c, size_t tiles) {
    return smaller(tiles, patches_of(c) < BATCH_ROWS ? BATCH_ROWS / patches_of(c) : 1);
}

int sv_image_tokens(const SvConfig *c) {
    if (c->vision_num_hidden_layers == 0) return 0;
    return (int)(patches_of(c) / ((size_t)c->scale_factor * c->scale_factor));
}

/* The buffers that have memory of their own, and the floats that each takes. WIDE is the patches' pixels first, and the
   MLP's middle afterwards. */
enum { X, NORM, Q, K, V, WIDE, CACHE, SCRATCH, N_PARTS };

static void part_sizes(const SvModel *m, size_t tiles, int threads, uint64_t size[N_PARTS]) {
    const SvConfig *c = &m->config;
    const SvKernels *cpu = m->kernels;
    uint64_t n = patches_of(c), rows = n * batch_of(c, tiles), heads = c->vision_num_attention_heads;
    uint64_t pixels = 3 * (uint64_t)c->patch_size * c->patch_size, area = (uint64_t)c->scale_factor * c->scale_factor;
    uint64_t width = c->vision_hidden_size, wide = sv_larger(c->vision_intermediate_size, pixels);
    size[X] = size[NORM] = size[Q] = size[K] = size[V] = rows * width;
    size[WIDE] = rows * wide;
    size[CACHE] = cpu->cache_floats(sv_vision_q8(m), n, heads, width / heads);
    size[SCRATCH] = sv_larger(cpu->attention_scratch(n, heads, threads),
                           sv_larger(cpu->matmul_scratch(rows, sv_larger(wide, width)),
                                  cpu->matmul_scratch(rows / area, width * area)));
}

uint64_t sv_vision_memory(const SvModel *model, int tiles, int threads) {
    if (model->config.vision_num_hidden_layers == 0 || tiles <= 0) return 0;
    uint64_t size[N_PARTS];
    part_sizes(model, (size_t)tiles, sv_threads(threads), size);
    return sv_sum(N_PARTS, size) * sizeof(float);
}

/* Tells a listener of the tiles as the reference's pixel_values [1, tiles, 3, S, S]. Only a listener needs this form:
   the tower takes its patches from the bytes. */
static int emit_pixels(const SvConfig *c, const uint8_t *tiles, size_t count, float value[3][256],
                       const SvEvents *events, SvError *error) {
    if (!events || !events->activation) return 0;
    size_t area = (size_t)c->image_size * c->image_size;
    float *plane = malloc(3 * area * sizeof(float));
    if (!plane) return sv_fail(error, "pixel_values: out of memory for a tile");
    for (size_t t = 0; t < count; t++) {
        for (size_t i = 0; i < area; i++)
            for (size_t channel = 0; channel < 3; channel++)
                plane[channel * area + i] = value[channel][tiles[(t * area + i) * 3 + channel]];
        sv_emit(events, "pixel_values", 0, plane, 5, (int[]){ 1, 1, 3, (int)c->image_size, (int)c->image_size }, 1);
    }
    free(plane);
    return 0;
}

int sv_vision(const SvModel *model, const uint8_t *tiles, int count, int threads, float *features,
              const SvEvents *events, SvError *error) {
    const SvConfig *c = &model->config;
    if (!model->vision.layers) return sv_fail(error, "%s: a text-only model, it has no vision tower", model->path);
    if (count <= 0) return 0;

    size_t n = patches_of(c), width = c->vision_hidden_size, heads = c->vision_num_attention_heads;
    size_t most = batch_of(c, (size_t)count), tile_bytes = 3 * (size_t)c->image_size * c->image_size;
    uint64_t size[N_PARTS];
    float *part[N_PARTS], value[3][256];
    threads = sv_threads(threads);
    part_sizes(model, (size_t)count, threads, size);
    void *block = sv_floats(N_PARTS, size, part);
    if (!block)
        return sv_fail(error, "%s: out of memory for the vision tower (%llu MB)", model->path,
                       (unsigned long long)(sv_sum(N_PARTS, size) * sizeof(float) >> 20));
    Batch b = { .patches = n, .pixels = part[WIDE], .x = part[X], .norm = part[NORM], .q = part[Q], .k = part[K],
                .v = part[V], .attention = part[NORM], .delta = part[Q], .mlp = part[WIDE], .shuffled = part[Q],
                .cache = { sv_vision_q8(model), (n + 63) / 64 * 64, heads, width / heads, part[CACHE] },
                .scratch = part[SCRATCH] };
    threads = sv_team(threads, most * n * width * (4 * (uint64_t)width + 2 * (uint64_t)c->vision_intermediate_size));

    int result = 0;
    pixel_values(c, value);
    for (size_t first = 0; first < (size_t)count; first += most) {
        const uint8_t *bytes = tiles + first * tile_bytes;
        b.tiles = (size_t)count - first < most ? (size_t)count - first : most;
        b.rows = b.tiles * n;
        if (events && events->progress && events->progress(events->user, "tile", (int)(first + b.tiles), count))
            result = sv_fail(error, "stopped at tile %zu of %d", first + 1, count);
        else result = emit_pixels(c, bytes, b.tiles, value, events, error);
        if (result != 0) break;
        for (size_t t = 0; t < b.tiles; t++)
            cut_patches(c, bytes + t * tile_bytes, value, b.pixels + t * n * 3 * c->patch_size * c->patch_size);
#pragma omp parallel num_threads(threads)
        {
            embeddings(model, &b, events);
            encoder(model, &b, events);
            connector(model, &b, features + first * (size_t)sv_image_tokens(c) * c->hidden_size, events);
        }
    }
    sv_zeros_free(block);
    return result;
}
