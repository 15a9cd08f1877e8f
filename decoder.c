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

   In the 500M model: hidden_size 960, 32 layers, 15 query heads and 5 key/value heads of 64 numbers, 49280 logits.

   Image tokens are rows of x like any other: the pipeline put them there in place of the embeddings of <image>.
   A prompt goes through in chunks, as matrix products over many positions; an answer one position at a time. Both are
   the same code and, with Q8 or Q4 weights, give the same bits.

   The KV cache. Keys and values of earlier positions never change, since no position sees a later one. So they are
   computed once and kept, and a new token costs one row of every product instead of all. A position takes, in the 500M
   model with integers, 32 layers * 2 * 5 heads * (64 bytes + a 4-byte scale) = 21,760 bytes.

   Q8 and Q4: numbers that share a scale should be about equally large. So the rows that matrices read are turned by a
   Hadamard matrix first (sv_turn; quant.c says what that is), and export.py has turned the matrices likewise. */
#include "model.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* Positions that go through the layers together: many for fast products, few for the processor's caches. */
enum { CHUNK = 512 };

/* count: at most CHUNK positions. delta lies where q does, which has been used by then. */
struct SvDecoder {
    const SvModel *model;
    int threads;
    size_t capacity, position;              /* room for how many positions; how many are in the KV cache              */
    SvCache cache;                          /* of the first layer; each next one lies cache_floats further            */
    size_t cache_floats;
    SvTrial trial; bool ahead;              /* whether to prefetch weights: found out by time; now                    */
    float *sine, *cosine;                   /* [capacity, head_dim / 2]              of RoPE's angles                 */
    float *norm;                            /* [count, hidden_size]                  a block's input, normalised      */
    float *q;                               /* [count, heads, head_dim]              queries                          */
    float *k, *v;                           /* [count, kv_heads, head_dim]           keys and values                  */
    float *attention;                       /* [count, heads, head_dim]              what each head found             */
    float *delta;                           /* [count, hidden_size]                  what a block adds to x           */
    float *gate, *up;                       /* [count, intermediate_size]            the MLP's middle                 */
    float *scratch;                         /* for the kernels                                                        */
    void *block;                            /* the memory of all of these                                             */
};

/* ------------------------------------------------------------------------------------------------------ the model */

/* RoPE, rotary position embedding: turns pairs of numbers of each head of x [count, heads, dim], element i with element
   i + dim/2, by an angle that grows with the position, fast for the first pairs and slowly for the last. The product of
   a query turned by its angle and a key turned by its own depends on the difference of the angles alone. So attention
   sees how far apart two tokens are, and no learned table limits how long a text may be. Values are not turned.

   For keys the loop is split among threads exactly as in cpu->cache(): each thread stores the keys that it turned
   itself, and no barrier is needed between the two. */
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
    sv_turn(d->model, x, count * heads, dim);               /* queries and keys alike: their products stay */
}

/* x [count, hidden_size], at most CHUNK positions, through the layers. All threads of a team run this together; each
   kernel gives every thread its share of the work. */
static void layers(const SvDecoder *d, float *x, size_t count, const SvEvents *events) {
    const SvConfig *c = &d->model->config;
    const SvKernels *cpu = d->model->kernels;
    size_t dim = c->hidden_size, heads = c->num_attention_heads, kv_heads = c->num_key_value_heads;
    const char *name = c->vision_num_hidden_layers ? "model.text_model.layers.%d" : "model.layers.%d";   /* Llama's */

    for (uint32_t l = 0; l < c->num_hidden_layers; l++) {
        const SvTextLayer *layer = &d->model->text.layers[l];
        SvCache cache = d->cache;
        cache.data += l * d->cache_floats;

        /* x += o_proj(attention(input_layernorm(x)))

           The one step in which positions exchange anything. CAUSAL: a position sees itself and what comes before, as
           the model was trained to guess the next token, which it must not see.
           Grouped-query attention: heads / kv_heads query heads in a row share one head of keys and values. In the 500M
           model 15 share 5, so the cache, and the k_proj and v_proj, are a third of what they would be. */
        cpu->rms_norm(d->norm, x, layer->input_layernorm.data, count, dim, c->rms_norm_eps);
        sv_turn(d->model, d->norm, count, dim);
        SvProduct qkv[] = { { d->q, &layer->q_proj, NULL }, { d->k, &layer->k_proj, NULL },
                            { d->v, &layer->v_proj, NULL } };
        sv_matmul(d->model, qkv, 3, d->norm, count, d->ahead, d->scratch);
        rope(d, d->q, count, heads);
        rope(d, d->k, count, kv_heads);
        cpu->cache(&cache, d->k, d->v, d->position, count);
        cpu->attention(d->attention, d->q, &cache, count, d->position + count, heads, SV_CAUSAL, d->scratch);
        SvProduct o_proj = { d->delta, &layer->o_proj, NULL };
        sv_matmul(d->model, &o_proj, 1, d->attention, count, d->ahead, d->scratch);
        cpu->add(x, d->delta, count, dim);

        /* x += down_proj(silu(gate_proj(norm)) * up_proj(norm)), norm = post_attention_layernorm(x)

           Each position by itself. up_proj proposes numbers, gate_proj says how much of each goes through. */
        cpu->rms_norm(d->norm, x, layer->post_attention_layernorm.data, count, dim, c->rms_norm_eps);
        sv_turn(d->model, d->norm, count, dim);
        SvMlp mlp = { .first = { { d->gate, &layer->gate_proj, NULL }, { d->up, &layer->up_proj, NULL } }, .count = 2,
                      .second = { d->delta, &layer->down_proj, NULL }, .turned = c->turned };
        sv_mlp(d->model, &mlp, d->norm, count, d->ahead, d->scratch);
        cpu->add(x, d->delta, count, dim);

        sv_team_emit(events, name, (int)l, x, 3, (int[]){ 1, (int)count, (int)dim }, 1);
    }
}

/* x [hidden_size], the last position's, to logits [vocab_size]: how well each token would come next. */
static void lm_head(const SvDecoder *d, const float *x, float *logits) {
    const SvModel *m = d->model;
    m->kernels->rms_norm(d->norm, x, m->text.norm.data, 1, m->config.hidden_size, m->config.rms_norm_eps);
    sv_turn(m, d->norm, 1, m->config.hidden_size);
    sv_matmul(m, &(SvProduct){ logits, &m->text.lm_head, NULL }, 1, d->norm, 1, d->ahead, d->scratch);
}

void sv_embed(const SvModel *m, const int32_t *ids, size_t count, float *x) {
    size_t dim = m->config.hidden_size;
    for (size_t i = 0; i < count; i++) sv_row(&m->text.embed_tokens, (size_t)ids[i], x + i * dim);
    sv_turn(m, x, count, dim);                              /* a turned table's rows are turned back */
}

/* ------------------------------------------------------------------------------------------------- sizes and memory */

/* The buffers that have memory of their own, and the floats that each takes. */
enum { CACHE, SINE, COSINE, NORM, Q, K, V, ATTENTION, GATE, UP, SCRATCH, N_PARTS };

static void part_sizes(const SvModel *m, uint64_t capacity, int threads, uint64_t size[N_PARTS]) {
    const SvConfig *c = &m->config;
    const SvKernels *cpu = m->kernels;
    uint64_t chunk = capacity < CHUNK ? capacity : CHUNK, q_dim = (uint64_t)c->num_attention_heads * c->head_dim;
    size[CACHE] = c->num_hidden_layers *
                  cpu->cache_floats(sv_text_q8(m), capacity, c->num_key_value_heads, c->head_dim);
    size[SINE] = size[COSINE] = capacity * c->head_dim / 2;
    size[NORM] = chunk * c->hidden_size;
    size[Q] = chunk * sv_larger(q_dim, c->hidden_size);                                    /* and delta */
    size[K] = size[V] = chunk * c->num_key_value_heads * c->head_dim;
    size[ATTENTION] = chunk * q_dim;
    size[GATE] = size[UP] = chunk * c->intermediate_size;
    size[SCRATCH] = cpu->matmul_scratch(chunk, sv_larger(c->intermediate_size, sv_larger(q_dim, c->hidden_size)));
    size[SCRATCH] = sv_larger(size[SCRATCH], cpu->attention_scratch(capacity, c->num_attention_heads, threads));
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
        return sv_fail(error, "%s: %d positions asked for, the model's context is %" PRIu32 " tokens", model->path,
                       capacity, c->max_position_embeddings);

    SvDecoder *d = calloc(1, sizeof *d);
    uint64_t size[N_PARTS];
    float *part[N_PARTS];
    part_sizes(model, (uint64_t)capacity, sv_threads(threads), size);
    void *block = d ? sv_floats(N_PARTS, size, part) : NULL;
    if (!block) {
        free(d);
        return sv_fail(error, "%s: out of memory for a context of %d tokens (%llu MB)", model->path, capacity,
                       (unsigned long long)(sv_decoder_memory(model, capacity, threads) >> 20));
    }
    size_t rows = ((size_t)capacity + 63) / 64 * 64, half = c->head_dim / 2;
    *d = (SvDecoder){ .model = model, .threads = sv_threads(threads), .ahead = true, .capacity = (size_t)capacity,
                      .cache = { sv_text_q8(model), rows, c->num_key_value_heads, c->head_dim, part[CACHE] },
                      .sine = part[SINE], .cosine = part[COSINE], .norm = part[NORM], .q = part[Q], .k = part[K],
                      .v = part[V], .attention = part[ATTENTION], .delta = part[Q], .gate = part[GATE],
                      .up = part[UP], .scratch = part[SCRATCH], .block = block };
    d->cache_floats = (size_t)model->kernels->cache_floats(d->cache.q8, d->capacity, d->cache.heads, d->cache.dim);

    /* LlamaRotaryEmbedding: the angle of position p at frequency i, a product of two floats */
    const float *inv_freq = model->text.inv_freq.data;
    for (size_t p = 0; p < d->capacity; p++)
        for (size_t i = 0; i < half; i++)
            sv_sin_cos((float)p * inv_freq[i], &d->sine[p * half + i], &d->cosine[p * half + i]);
    *decoder = d;
    return 0;
}

const SvTrial *sv_decoder_trial(const SvDecoder *d) { return &d->trial; }
void sv_decoder_free(SvDecoder *d) { if (d) sv_zeros_free(d->block), free(d); }

size_t sv_decoder_rewind(SvDecoder *d, size_t position) { return d->position = smaller(d->position, position); }

/* Multiply-adds of `count` positions in one layer, about: with all weights, and with what the cache then holds. */
static uint64_t layer_work(const SvDecoder *d, size_t count) {
    const SvConfig *c = &d->model->config;
    uint64_t heads = 2 * ((uint64_t)c->num_attention_heads + c->num_key_value_heads);
    uint64_t weights = c->hidden_size * (heads * c->head_dim + 3 * (uint64_t)c->intermediate_size);
    return count * (weights + 2 * (d->position + count) * c->num_attention_heads * c->head_dim);
}

int sv_decoder_forward(SvDecoder *d, float *x, size_t count, float *logits, const SvEvents *events, SvError *error) {
    const SvConfig *c = &d->model->config;
    size_t dim = c->hidden_size;
    double start = sv_seconds();
    if (count == 0) return sv_fail(error, "%s: no token to run", d->model->path);
    if (count > d->capacity - d->position)
        return sv_fail(error, "%s: %zu more tokens do not fit: %zu of %zu positions are taken", d->model->path, count,
                       d->position, d->capacity);

    const char *name = c->vision_num_hidden_layers ? "model.text_model.norm" : "model.norm";
    for (size_t done = 0, chunk; done < count; done += chunk) {
        chunk = smaller(count - done, CHUNK);
        if (events && events->progress && count > 1 &&
            events->progress(events->user, "prefill", (int)(done + chunk), (int)count))
            return sv_fail(error, "stopped in the middle of the prompt");
        int threads = sv_team(d->threads, layer_work(d, chunk));
        (void)threads;                                      /* without OpenMP */
#pragma omp parallel num_threads(threads)
        {
            layers(d, x + done * dim, chunk, events);
            if (events && events->activation) {             /* HF normalises every position; an answer needs the last */
                d->model->kernels->rms_norm(d->norm, x + done * dim, d->model->text.norm.data, chunk, dim,
                                            c->rms_norm_eps);
                sv_team_emit(events, name, 0, d->norm, 3, (int[]){ 1, (int)chunk, (int)dim }, 1);
            }
        }
        d->position += chunk;
    }
    if (logits) {
#pragma omp parallel num_threads(sv_team(d->threads, (uint64_t)c->vocab_size * dim))
        lm_head(d, x + (count - 1) * dim, logits);
        sv_emit(events, "lm_head", 0, logits, 3, (int[]){ 1, 1, (int)c->vocab_size }, 1);
    }
    if (count == 1) d->ahead = sv_trial(&d->trial, sv_seconds() - start);
    return 0;
}
