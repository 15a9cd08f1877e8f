/* vision.c: the vision tower and the connector, tiles to image tokens.

     tile [S, S, 3] bytes                                                          S = image_size
       | rescale, normalise, cut into n = (S / patch_size)^2 patches               SmolVLMImageProcessor
     patches [n, 3 patch_size^2]
       | patch_embedding (a convolution whose stride is its kernel: one matmul)    SmolVLMVisionEmbeddings
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

   Tiles do not see each other, so a batch of them is one tall matrix to everything but attention. */
#include "smolvlm.h"

#include <stdlib.h>
#include <string.h>
#if !defined(_OPENMP) && defined(__GNUC__)
#pragma GCC diagnostic ignored "-Wunknown-pragmas"
#endif

/* Rows of a batch: one tile of the published models; many of a small one, whose products would be too small alone. */
enum { BATCH_ROWS = 1024 };

static size_t patches_of(const SvConfig *c) {
    size_t side = c->image_size / c->patch_size;
    return side * side;
}

static size_t batch_of(const SvConfig *c, size_t tiles) {
    size_t fit = BATCH_ROWS / patches_of(c);
    if (fit < 1) fit = 1;
    return tiles < fit ? tiles : fit;
}

int sv_image_tokens(const SvConfig *c) {
    if (c->vision_num_hidden_layers == 0) return 0;
    return (int)(patches_of(c) / ((size_t)c->scale_factor * c->scale_factor));
}

/* Beside weights in Q8 or Q4, attention works on integers too. */
static bool is_q8(const SvModel *m) { return m->vision.layers[0].k_proj_weight.group != 0; }

/* The tower's arrays, and the floats that each takes for a batch of tiles, stated once. `wide` is the MLP's middle, and
   the patches' pixels before that. */
enum { N_PARTS = 8 };

static uint64_t larger(uint64_t a, uint64_t b) { return a > b ? a : b; }

static void part_sizes(const SvModel *m, size_t tiles, int threads, uint64_t size[N_PARTS]) {
    const SvConfig *c = &m->config;
    uint64_t rows = (uint64_t)patches_of(c) * batch_of(c, tiles), pixels = 3 * (uint64_t)c->patch_size * c->patch_size;
    uint64_t n = patches_of(c), heads = c->vision_num_attention_heads, dim = c->vision_hidden_size / heads;
    uint64_t wide = larger(c->vision_intermediate_size, pixels), area = (uint64_t)c->scale_factor * c->scale_factor;
    for (int i = 0; i < 5; i++) size[i] = rows * c->vision_hidden_size;                     /* x, norm, q, k, v */
    size[5] = rows * wide;
    size[6] = sv_cache_floats(is_q8(m), n, heads, dim);                                                 /* cache */
    size[7] = larger(sv_attention_scratch(n, heads, threads),                                           /* scratch */
                     larger(sv_matmul_scratch(rows, larger(wide, c->vision_hidden_size)),
                            sv_matmul_scratch(rows / area, c->vision_hidden_size * area)));
}

uint64_t sv_vision_memory(const SvModel *model, int tiles, int threads) {
    if (model->config.vision_num_hidden_layers == 0 || tiles <= 0) return 0;
    uint64_t size[N_PARTS];
    part_sizes(model, (size_t)tiles, sv_threads(threads), size);
    return sv_sum(N_PARTS, size) * sizeof(float);
}

/* Channel values as the processor computes them: rescaled in double, rounded to float, normalised in float. */
static void pixel_values(const SvConfig *c, float value[3][256]) {
    for (int channel = 0; channel < 3; channel++)
        for (int byte = 0; byte < 256; byte++)
            value[channel][byte] = ((float)(byte * c->rescale_factor) - c->image_mean[channel]) / c->image_std[channel];
}

/* tile [S, S, 3] -> [3, S, S], only for those who look at it: the tower takes its patches from the bytes. */
static int emit_pixels(const SvConfig *c, const uint8_t *tiles, int count, float value[3][256], const SvEvents *events,
                       SvError *error) {
    if (!events || !events->activation) return 0;
    size_t area = (size_t)c->image_size * c->image_size;
    float *plane = malloc(3 * area * sizeof(float));
    if (!plane) return sv_fail(error, "pixel_values: out of memory for a tile");
    for (int t = 0; t < count; t++) {
        for (size_t i = 0; i < area; i++)
            for (size_t channel = 0; channel < 3; channel++)
                plane[channel * area + i] = value[channel][tiles[((size_t)t * area + i) * 3 + channel]];
        int side = (int)c->image_size;
        sv_emit(events, "pixel_values", 0, plane, 5, (int[]){ 1, 1, 3, side, side }, 1);
    }
    free(plane);
    return 0;
}

/* Patch (i, j) of a tile as the convolution's weight orders it: channel, row, column. */
static void cut_patches(const SvConfig *c, const uint8_t *tile, float value[3][256], float *patches) {
    size_t size = c->image_size, p = c->patch_size, side = size / p;
    for (size_t i = 0; i < side; i++)
        for (size_t j = 0; j < side; j++)
            for (size_t channel = 0; channel < 3; channel++)
                for (size_t y = 0; y < p; y++)
                    for (size_t x = 0; x < p; x++)
                        *patches++ = value[channel][tile[((i * p + y) * size + j * p + x) * 3 + channel]];
}

/* Output row (i, j) is the patches (i s + r, j s + q), r then q in 0 .. s-1, one after the other. */
static void pixel_shuffle(const SvConfig *c, const float *x, float *out) {
    size_t width = c->vision_hidden_size, s = c->scale_factor, side = c->image_size / c->patch_size;
    for (size_t i = 0; i < side / s; i++)
        for (size_t j = 0; j < side / s; j++)
            for (size_t r = 0; r < s; r++, out += s * width)
                memcpy(out, x + ((i * s + r) * side + j * s) * width, s * width * sizeof(float));
}

int sv_vision(const SvModel *model, const uint8_t *tiles, int count, int threads, float *features,
              const SvEvents *events, SvError *error) {
    const SvConfig *c = &model->config;
    const SvVision *w = &model->vision;
    const SvKernels *cpu = model->kernels;
    if (!w->layers) return sv_fail(error, "%s: a text-only model, it has no vision tower", model->path);
    if (count <= 0) return 0;

    threads = sv_threads(threads);
    size_t n = patches_of(c), width = c->vision_hidden_size, mlp = c->vision_intermediate_size;
    size_t heads = c->vision_num_attention_heads, tokens = (size_t)sv_image_tokens(c), dim = c->hidden_size;
    size_t batch = batch_of(c, (size_t)count), tile_bytes = 3 * (size_t)c->image_size * c->image_size;
    float eps = c->layer_norm_eps;
    uint64_t size[N_PARTS];
    float *x, *norm, *q, *k, *v, *wide, *scratch;           /* x: the residual stream; norm: also attention's output; q:
                                                               also what a block adds, and the shuffled patches */
    SvCache cache = { is_q8(model), (n + 63) / 64 * 64, heads, width / heads, NULL };
    part_sizes(model, (size_t)count, threads, size);
    void *block = sv_floats(N_PARTS, size, (float **[]){ &x, &norm, &q, &k, &v, &wide, &cache.data, &scratch });
    if (!block)
        return sv_fail(error, "%s: out of memory for the vision tower (%llu MB)", model->path,
                       (unsigned long long)(sv_sum(N_PARTS, size) * sizeof(float) >> 20));
    threads = sv_team(threads, batch * n * width * (4 * (uint64_t)width + 2 * (uint64_t)mlp));
    int result = -1;

    float value[3][256];
    pixel_values(c, value);

    for (size_t first = 0; first < (size_t)count; first += batch) {
        size_t b = (size_t)count - first < batch ? (size_t)count - first : batch, rows = b * n;
        int shape[] = { (int)b, (int)n, (int)width };
        if (events && events->progress && events->progress(events->user, "tile", (int)(first + b), count)) {
            sv_fail(error, "stopped at tile %zu of %d", first + 1, count);
            goto done;
        }
        const uint8_t *pixels = tiles + first * tile_bytes;
        float *out = features + first * tokens * dim;
        if (emit_pixels(c, pixels, (int)b, value, events, error) != 0) goto done;
        for (size_t t = 0; t < b; t++)
            cut_patches(c, pixels + t * tile_bytes, value, wide + t * n * 3 * c->patch_size * c->patch_size);

#pragma omp parallel num_threads(threads)
        {
            /* embeddings = patch_embedding(pixel_values) + position_embedding */
            SvProduct patch_embedding = { x, &w->patch_embedding_weight, w->patch_embedding_bias.data };
            cpu->matmul(&patch_embedding, 1, wide, rows, scratch);
            for (size_t t = 0; t < b; t++) cpu->add(x + t * n * width, w->position_embedding.data, n, width);
#pragma omp barrier
            sv_team_emit(events, "model.vision_model.embeddings", 0, x, 3, shape, 0);

            for (uint32_t l = 0; l < c->vision_num_hidden_layers; l++) {
                const SvVisionLayer *layer = &w->layers[l];
                SvProduct qkv[] = { { q, &layer->q_proj_weight, layer->q_proj_bias.data },
                                    { k, &layer->k_proj_weight, layer->k_proj_bias.data },
                                    { v, &layer->v_proj_weight, layer->v_proj_bias.data } };
                SvProduct out_proj = { q, &layer->out_proj_weight, layer->out_proj_bias.data };
                SvProduct fc1 = { wide, &layer->fc1_weight, layer->fc1_bias.data };
                SvProduct fc2 = { q, &layer->fc2_weight, layer->fc2_bias.data };

                /* x += out_proj(attention(layer_norm1(x))) */
                cpu->layer_norm(norm, x, layer->layer_norm1_weight.data, layer->layer_norm1_bias.data, rows, width,
                                eps);
                cpu->matmul(qkv, 3, norm, rows, scratch);
                for (size_t t = 0; t < b; t++) {
                    size_t at = t * n * width;
                    cpu->cache(&cache, k + at, v + at, 0, n);
                    cpu->attention(norm + at, q + at, &cache, n, n, heads, false, scratch);
                }
                cpu->matmul(&out_proj, 1, norm, rows, scratch);
                cpu->add(x, q, rows, width);

                /* x += fc2(gelu_tanh(fc1(layer_norm2(x)))) */
                cpu->layer_norm(norm, x, layer->layer_norm2_weight.data, layer->layer_norm2_bias.data, rows, width,
                                eps);
                cpu->matmul(&fc1, 1, norm, rows, scratch);
                cpu->gelu_tanh(wide, rows, mlp);
                cpu->matmul(&fc2, 1, wide, rows, scratch);
                cpu->add(x, q, rows, width);
                sv_team_emit(events, "model.vision_model.encoder.layers.%d", (int)l, x, 3, shape, 0);
            }

            cpu->layer_norm(norm, x, w->post_layernorm_weight.data, w->post_layernorm_bias.data, rows, width, eps);
#pragma omp barrier
            sv_team_emit(events, "model.vision_model.post_layernorm", 0, norm, 3, shape, 0);

            /* features = modality_projection(pixel_shuffle(x)) */
#pragma omp for schedule(static)
            for (int64_t t = 0; t < (int64_t)b; t++)
                pixel_shuffle(c, norm + (size_t)t * n * width, q + (size_t)t * n * width);
            cpu->matmul(&(SvProduct){ out, &w->modality_projection, NULL }, 1, q, b * tokens, scratch);
            sv_team_emit(events, "model.connector", 0, out, 3, (int[]){ (int)b, (int)tokens, (int)dim }, 0);
        }
    }
    result = 0;

done:
    free(block);
    return result;
}
