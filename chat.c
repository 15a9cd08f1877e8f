/* chat.c: a prompt to an answer.

     SvPrompt: ids [T], tiles [N]
       |   features = sv_vision(tiles)                   [N, tokens of a tile, hidden]   get_image_features
       |   x = embed(ids); x[ids == image_token] = features        [T, hidden]           inputs_merger
       |   logits = decoder(x)                                     [vocab_size]          prefill
       |   loop: id = sv_sample(logits); logits = decoder(embed(id))                     decode
     SvAnswer: ids, text */
#include "model.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------------------------------------- prompt -> answer */

/* x [n_ids, hidden]: the tokens' embeddings, and at the <image> positions, in order, the rows of features. */
static void embed_prompt(const SvModel *m, const SvPrompt *prompt, const float *features, float *x) {
    size_t dim = m->config.hidden_size;
    sv_embed(m, prompt->ids, prompt->n_ids, x);
    for (size_t i = 0; i < prompt->n_ids && prompt->n_tiles > 0; i++) {
        if ((uint32_t)prompt->ids[i] != m->config.image_token_id) continue;
        memcpy(x + i * dim, features, dim * sizeof(float));
        features += dim;
    }
}

static bool is_end(const SvConfig *c, int32_t id) {
    for (uint32_t i = 0; i < c->eos_token_id.count; i++)
        if (c->eos_token_id.id[i] == (uint32_t)id) return true;
    return false;
}

/* Appends the characters that token id completes to the answer and passes them to the token event. Returns true to
   stop. */
static bool deliver(const SvModel *m, const SvEvents *events, SvUtf8 *utf8, SvBytes *text, int32_t id, bool end) {
    size_t size = 0, before = text->size;
    const char *bytes = end ? "" : sv_token_bytes(m->tokenizer, id, &size);
    char small[768], *out = size + 4 <= sizeof small / 3 ? small : malloc(3 * (size + 4));
    if (!out) {
        text->failed = true;
        return true;
    }
    sv_put(text, out, sv_utf8_feed(utf8, bytes, size, end, out));
    if (out != small) free(out);
    if (!events || !events->token || (end && text->size == before)) return false;
    return events->token(events->user, id, text->size > before ? text->data + before : "", text->size - before);
}

int sv_generate(const SvModel *m, const SvPrompt *prompt, const SvOptions *options, const SvEvents *events,
                SvAnswer *answer, SvError *error) {
    const SvConfig *c = &m->config;
    size_t n = prompt->n_ids, max = options->max_tokens > 0 ? (size_t)options->max_tokens : 0;
    *answer = (SvAnswer){ 0 };
    if (sv_check_prompt(m, prompt, error) != 0) return -1;
    if (max > c->max_position_embeddings - n) max = c->max_position_embeddings - n;

    SvDecoder *decoder = NULL;
    uint64_t tokens = (uint64_t)prompt->n_tiles * (uint64_t)sv_image_tokens(c);
    float *part[3] = { NULL };
    void *block = sv_floats(3, (uint64_t[]){ n * (uint64_t)c->hidden_size, tokens * c->hidden_size, c->vocab_size },
                            part);
    float *x = part[0], *features = part[1], *logits = part[2];
    SvCandidate *candidates = options->temperature > 0 ? malloc(c->vocab_size * sizeof *candidates) : NULL;
    answer->ids = malloc((max + 1) * sizeof *answer->ids);
    SvBytes text = { 0 };
    sv_put(&text, "", 0);                                      /* terminated even if nothing is added */
    int result = -1;
    if (!block || (options->temperature > 0 && !candidates) || !answer->ids || text.failed) {
        sv_fail(error, "%s: out of memory for a prompt of %zu tokens", m->path, n);
        goto done;
    }
    if (sv_decoder_new(m, (int)(n + max), options->threads, &decoder, error) != 0) goto done;

    double start = sv_seconds();
    if (prompt->n_tiles &&
        sv_vision(m, prompt->tiles, prompt->n_tiles, options->threads, features, events, error) != 0) goto done;
    answer->vision_seconds = sv_seconds() - start;

    start = sv_seconds();
    embed_prompt(m, prompt, features, x);
    if (sv_decoder_forward(decoder, x, n, logits, events, error) != 0) goto done;
    answer->prefill_seconds = sv_seconds() - start;

    start = sv_seconds();
    SvUtf8 utf8 = { { 0 }, 0 };
    uint64_t random = options->seed;
    bool told_to_stop = false;
    while (answer->n_ids < max) {
        int32_t id = sv_sample(logits, c->vocab_size, options, &random, candidates);
        if (id < 0) {
            sv_fail(error, "%s: the logits are not numbers: the weights are damaged or out of range", m->path);
            goto done;
        }
        answer->stopped = is_end(c, id);
        if (answer->stopped) break;
        answer->ids[answer->n_ids++] = id;
        answer->stopped = told_to_stop = deliver(m, events, &utf8, &text, id, false);
        if (told_to_stop || answer->n_ids == max) break;
        sv_embed(m, &id, 1, x);
        if (sv_decoder_forward(decoder, x, 1, logits, NULL, error) != 0) goto done;
    }
    deliver(m, told_to_stop ? NULL : events, &utf8, &text, -1, true);
    answer->decode_seconds = sv_seconds() - start;
    result = text.failed ? sv_fail(error, "%s: out of memory for the answer", m->path) : 0;

done:
    answer->text = text.data;
    answer->size = text.size;
    sv_decoder_free(decoder);
    free(block);
    free(candidates);
    if (result != 0) sv_answer_free(answer);
    return result;
}

void sv_answer_free(SvAnswer *answer) {
    free(answer->text);
    free(answer->ids);
    *answer = (SvAnswer){ 0 };
}
