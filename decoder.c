/* decoder.c: the language model, embeddings to the next token's logits.

     x [count, hidden_size]                                                     LlamaModel
       |------------------------------------------------------------.           LlamaDecoderLayer
       |  norm = input_layernorm(x)                  RMSNorm         |
       |  q, k = rope(q_proj(norm)), rope(k_proj(norm))              |
       |  k, v -> cache, positions so far ... + count                | x num_hidden_layers
       |  x += o_proj(attention(q, cache k, cache v))                |
       |  norm = post_attention_layernorm(x)                         |
       |  x += down_proj(silu(gate_proj(norm)) * up_proj(norm))      |
       |------------------------------------------------------------'
       | norm                                        RMSNorm
       | lm_head, of the last position only
     logits [vocab_size]

   Image tokens are rows of x like any other: the pipeline put them there in place of the embeddings of <image>.
   A prompt goes through in chunks, as matrix products over many positions; an answer one position at a time. Both are
   the same code and, with Q8 or Q4 weights, give the same bits. */
#include "smolvlm.h"

#include <stdlib.h>
#include <string.h>
#if !defined(_OPENMP) && defined(__GNUC__)
#pragma GCC diagnostic ignored "-Wunknown-pragmas"
#endif

/* Positions that go through the layers together: enough to make matrix products of it, few enough for the cache. */
enum { CHUNK = 512 };

struct SvDecoder {
    const SvModel *model;
    int threads;
    size_t capacity, position;
    SvCache cache;                          /* of the first layer; each next one lies cache_floats further */
    size_t cache_floats;
    float *sine, *cosine;                   /* [capacity, head_dim / 2] */
    float *norm, *q, *k, *v, *attention, *gate, *up, *scratch;
    void *block;                            /* what all of these lie in */
};

/* The decoder's arrays, and the floats that each takes, stated once: allocated by sv_decoder_new, summed for people. */
enum { N_PARTS = 11 };

static uint64_t larger(uint64_t a, uint64_t b) { return a > b ? a : b; }

/* Beside weights in Q8 or Q4, the cache and attention are of integers too. */
static bool is_q8(const SvModel *m) { return m->text.layers[0].k_proj.group != 0; }

static void part_sizes(const SvModel *m, uint64_t capacity, int threads, uint64_t size[N_PARTS]) {
    const SvConfig *c = &m->config;
    uint64_t chunk = capacity < CHUNK ? capacity : CHUNK, q_dim = (uint64_t)c->num_attention_heads * c->head_dim;
    uint64_t kv_dim = (uint64_t)c->num_key_value_heads * c->head_dim;
    size[0] = c->num_hidden_layers * sv_cache_floats(is_q8(m), capacity, c->num_key_value_heads, c->head_dim);
    size[1] = size[2] = capacity * c->head_dim / 2;                                     /* sine, cosine */
    size[3] = chunk * c->hidden_size;                                                   /* norm */
    size[4] = chunk * larger(q_dim, c->hidden_size);                                    /* q, and what a block adds */
    size[5] = size[6] = chunk * kv_dim;                                                 /* k, v */
    size[7] = chunk * q_dim;                                                            /* attention */
    size[8] = size[9] = chunk * c->intermediate_size;                                   /* gate, up */
    size[10] = larger(sv_attention_scratch(capacity, c->num_attention_heads, threads),  /* scratch */
                      sv_matmul_scratch(chunk, larger(c->intermediate_size, larger(q_dim, c->hidden_size))));
}

uint64_t sv_decoder_memory(const SvModel *model, int capacity, int threads) {
    uint64_t size[N_PARTS];
    part_sizes(model, (uint64_t)capacity, sv_threads(threads), size);
    return sv_sum(N_PARTS, size) * sizeof(float);
}

int sv_decoder_new(const SvModel *model, int capacity, int threads, SvDecoder **decoder, SvError *error) {
    const SvConfig *c = &model->config;
    *decoder = NULL;
    if (capacity < 1 || (uint32_t)capacity > c->max_position_embeddings)
        return sv_fail(error, "%s: %d positions asked for, the model's context is %u tokens", model->path, capacity,
                       c->max_position_embeddings);

    threads = sv_threads(threads);
    SvDecoder *d = calloc(1, sizeof *d);
    uint64_t size[N_PARTS];
    part_sizes(model, (uint64_t)capacity, threads, size);
    if (d) d->block = sv_floats(N_PARTS, size, (float **[]){ &d->cache.data, &d->sine, &d->cosine, &d->norm, &d->q,
                                                             &d->k, &d->v, &d->attention, &d->gate, &d->up,
                                                             &d->scratch });
    if (!d || !d->block) {
        free(d);
        return sv_fail(error, "%s: out of memory for a context of %d tokens (%llu MB)", model->path, capacity,
                       (unsigned long long)(sv_decoder_memory(model, capacity, threads) >> 20));
    }
    d->model = model;
    d->threads = threads;
    d->capacity = (size_t)capacity;
    d->cache.q8 = is_q8(model);
    d->cache.capacity = (d->capacity + 63) / 64 * 64;
    d->cache.heads = c->num_key_value_heads;
    d->cache.dim = c->head_dim;
    d->cache_floats = (size_t)sv_cache_floats(d->cache.q8, d->capacity, d->cache.heads, d->cache.dim);

    /* LlamaRotaryEmbedding: the angle of position p at frequency i, a product of two floats */
    size_t half = c->head_dim / 2;
    const float *inv_freq = model->text.inv_freq.data;
    for (size_t p = 0; p < d->capacity; p++)
        for (size_t i = 0; i < half; i++)
            sv_sin_cos((float)p * inv_freq[i], &d->sine[p * half + i], &d->cosine[p * half + i]);
    *decoder = d;
    return 0;
}

void sv_decoder_free(SvDecoder *d) {
    if (d) free(d->block);
    free(d);
}

void sv_embed(const SvModel *model, const int32_t *ids, size_t count, float *x) {
    size_t dim = model->config.hidden_size;
    for (size_t i = 0; i < count; i++) sv_row(&model->text.embed_tokens, (size_t)ids[i], x + i * dim);
}

/* Rotates each head of x [count, heads * dim]: element i with element i + dim/2, by the angle of its position. Heads
   are shared out as in SvKernels' cache: a thread caches the keys that it has rotated. */
static void rope(const SvDecoder *d, float *x, size_t count, size_t heads) {
    size_t dim = d->model->config.head_dim, half = dim / 2;
#pragma omp for schedule(static) nowait
    for (int64_t u = 0; u < (int64_t)(count * heads); u++) {
        size_t at = (d->position + (size_t)u / heads) * half;
        const float *sine = d->sine + at, *cosine = d->cosine + at;
        float *a = x + (size_t)u * dim, *b = a + half;
        for (size_t i = 0; i < half; i++) {
            float first = a[i], second = b[i];
            a[i] = first * cosine[i] - second * sine[i];
            b[i] = second * cosine[i] + first * sine[i];
        }
    }
}

/* Multiply-adds of `count` positions in one layer, about: with all weights, and with what the cache then holds. */
static uint64_t layer_work(const SvDecoder *d, size_t count) {
    const SvConfig *c = &d->model->config;
    uint64_t heads = 2 * ((uint64_t)c->num_attention_heads + c->num_key_value_heads);
    uint64_t weights = c->hidden_size * (heads * c->head_dim + 3 * (uint64_t)c->intermediate_size);
    return count * (weights + 2 * (d->position + count) * c->num_attention_heads * c->head_dim);
}

/* Up to CHUNK positions through all layers. All threads of a team are here, and share what each function has to do. */
static void layers(const SvDecoder *d, float *x, size_t count, const SvEvents *events) {
    const SvConfig *c = &d->model->config;
    const SvKernels *cpu = d->model->kernels;
    float *norm = d->norm, *q = d->q, *k = d->k, *v = d->v, *gate = d->gate, *up = d->up, *scratch = d->scratch;
    size_t dim = c->hidden_size, heads = c->num_attention_heads, kv_heads = c->num_key_value_heads;
    const char *name = c->vision_num_hidden_layers ? "model.text_model.layers.%d" : "model.layers.%d";   /* Llama's */

    for (uint32_t l = 0; l < c->num_hidden_layers; l++) {
        const SvTextLayer *layer = &d->model->text.layers[l];
        SvCache cache = d->cache;
        cache.data += l * d->cache_floats;

        /* x += o_proj(attention(input_layernorm(x))) */
        cpu->rms_norm(norm, x, layer->input_layernorm.data, count, dim, c->rms_norm_eps);
        SvProduct qkv[] = { { q, &layer->q_proj, NULL }, { k, &layer->k_proj, NULL }, { v, &layer->v_proj, NULL } };
        cpu->matmul(qkv, 3, norm, count, scratch);
        rope(d, q, count, heads);
        rope(d, k, count, kv_heads);
        cpu->cache(&cache, k, v, d->position, count);
        cpu->attention(d->attention, q, &cache, count, d->position + count, heads, true, scratch);
        cpu->matmul(&(SvProduct){ q, &layer->o_proj, NULL }, 1, d->attention, count, scratch);
        cpu->add(x, q, count, dim);

        /* x += down_proj(silu(gate_proj(norm)) * up_proj(norm)) */
        cpu->rms_norm(norm, x, layer->post_attention_layernorm.data, count, dim, c->rms_norm_eps);
        SvProduct gate_up[] = { { gate, &layer->gate_proj, NULL }, { up, &layer->up_proj, NULL } };
        cpu->matmul(gate_up, 2, norm, count, scratch);
        cpu->silu_mul(gate, up, count, c->intermediate_size);
        cpu->matmul(&(SvProduct){ q, &layer->down_proj, NULL }, 1, gate, count, scratch);
        cpu->add(x, q, count, dim);
        sv_team_emit(events, name, (int)l, x, 3, (int[]){ 1, (int)count, (int)dim }, 1);
    }
}

int sv_decoder_forward(SvDecoder *d, float *x, size_t count, float *logits, const SvEvents *events, SvError *error) {
    const SvConfig *c = &d->model->config;
    const SvKernels *cpu = d->model->kernels;
    size_t dim = c->hidden_size;
    if (count == 0) return sv_fail(error, "%s: no token to run", d->model->path);
    if (count > d->capacity - d->position)
        return sv_fail(error, "%s: %zu more tokens do not fit: %zu of %zu positions are taken", d->model->path, count,
                       d->position, d->capacity);

    bool listening = events && events->activation;
    const char *name = c->vision_num_hidden_layers ? "model.text_model.norm" : "model.norm";
    for (size_t done = 0, chunk; done < count; done += chunk) {
        chunk = count - done < CHUNK ? count - done : CHUNK;
        if (events && events->progress && count > 1 &&
            events->progress(events->user, "prefill", (int)(done + chunk), (int)count))
            return sv_fail(error, "stopped in the middle of the prompt");
        float *from = x + done * dim;
        int threads = sv_team(d->threads, layer_work(d, chunk));
        (void)threads;                                      /* without OpenMP */
#pragma omp parallel num_threads(threads)
        {
            layers(d, from, chunk, events);
            if (listening) {                                /* HF normalises every position; an answer needs the last */
                cpu->rms_norm(d->norm, from, d->model->text.norm.data, chunk, dim, c->rms_norm_eps);
                sv_team_emit(events, name, 0, d->norm, 3, (int[]){ 1, (int)chunk, (int)dim }, 1);
            }
        }
        d->position += chunk;
    }
    if (logits) {
        int threads = sv_team(d->threads, (uint64_t)c->vocab_size * dim);
        (void)threads;
#pragma omp parallel num_threads(threads)
        {
            cpu->rms_norm(d->norm, x + (count - 1) * dim, d->model->text.norm.data, 1, dim, c->rms_norm_eps);
            cpu->matmul(&(SvProduct){ logits, &d->model->text.lm_head, NULL }, 1, d->norm, 1, d->scratch);
        }
        sv_emit(events, "lm_head", 0, logits, 3, (int[]){ 1, 1, (int)c->vocab_size }, 1);
    }
    return 0;
}
