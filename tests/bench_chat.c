/* bench_chat.c: what a second question about a picture costs.

       bench_chat MODEL PICTURE [TIMES]           make bench-chat MODEL=smolvlm2.bin

   The first question is answered with a few tokens. Then others follow it in turn, each in place of the one before, so
   that each finds the same in the cache. Measured is the CPU time, on one thread, from adding the question to its first
   token; and, after each, that of the decoder alone for as many tokens, at the same place in a cache. */
#include "model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MOST = 100 };

static double cpu_seconds(void) { return (double)clock() / CLOCKS_PER_SEC; }

static bool first_token(void *user, int32_t id, const char *text, size_t size) {
    (void)id, (void)text, (void)size;
    *(double *)user = cpu_seconds();
    return true;
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* One question at the end of the chat's messages; *seconds: to its first token. */
static int ask(SvChat *chat, const SvImage *image, const char *words, int max_tokens, SvAnswer *answer,
               double *seconds, SvError *error) {
    SvContent contents[2] = { { .image = image }, { .text = words } };
    SvMessage message = { "user", contents + !image, 1 + (image != NULL) };
    SvOptions options = sv_default_options();
    double token = 0, start = cpu_seconds();
    SvEvents events = { .user = &token, .token = max_tokens == 1 ? first_token : NULL };
    options.max_tokens = max_tokens;
    if (sv_chat_add(chat, &message, &options, error) != 0 ||
        sv_chat_answer(chat, &options, &events, answer, error) != 0) return -1;
    *seconds = (token > 0 ? token : cpu_seconds()) - start;
    return 0;
}

int main(int argc, char **argv) {
    static const char *const QUESTIONS[] = { "What colour is the cup on the table?",
                                             "How many people are in the room?" };
    SvError error;
    SvModel *model;
    SvImage image;
    SvChat *chat;
    SvDecoder *decoder;
    SvAnswer answer;
    double first, second[MOST], alone[MOST], ratio[MOST];
    int times = argc > 3 ? atoi(argv[3]) : 20;
    if (argc < 3 || times < 1 || times > MOST) return fputs("bench_chat MODEL PICTURE [TIMES]\n", stderr), 2;
    if (sv_open(argv[1], &model, &error) != 0 || sv_image_read(argv[2], &image, &error) != 0 ||
        sv_chat_new(model, 0, 1, &chat, &error) != 0 ||
        ask(chat, &image, "What is in this picture?", 10, &answer, &first, &error) != 0) goto failed;
    printf("first question: %zu tokens, %d tiles, and an answer of %zu: %.2f s\n", answer.n_prompt, answer.tiles,
           answer.n_ids, first);
    sv_answer_free(&answer);

    size_t dim = model->config.hidden_size, most = model->config.max_position_embeddings, kept = 0;
    float *x = calloc(most * dim, sizeof *x), *logits = calloc(model->config.vocab_size, sizeof *logits);
    int32_t *ids = calloc(most, sizeof *ids);
    if (!x || !logits || !ids) return fputs("out of memory\n", stderr), 1;
    if (sv_decoder_new(model, (int)most, 1, &decoder, &error) != 0) goto failed;
    for (size_t i = 0; i < most; i++) ids[i] = (int32_t)(i * 7919 % model->config.vocab_size);
    for (int i = -1; i < times; i++) {                      /* the first is not counted: it keeps more */
        double seconds, start;
        sv_chat_keep(chat, 2);
        if (ask(chat, NULL, QUESTIONS[(i + 2) % 2], 1, &answer, &seconds, &error) != 0) goto failed;
        size_t left = answer.n_prompt - answer.n_kept;
        if (kept < answer.n_kept) {
            sv_embed(model, ids, answer.n_kept - kept, x);
            if (sv_decoder_forward(decoder, x, answer.n_kept - kept, NULL, NULL, &error) != 0) goto failed;
        }
        kept = sv_decoder_rewind(decoder, answer.n_kept);
        start = cpu_seconds();
        sv_embed(model, ids, left, x);
        if (sv_decoder_forward(decoder, x, left, logits, NULL, &error) != 0) goto failed;
        if (i >= 0) {
            second[i] = seconds;
            alone[i] = cpu_seconds() - start;
            ratio[i] = second[i] / alone[i];
        }
        if (i == times - 1) printf("then: %zu tokens, of which %zu are kept", answer.n_prompt, answer.n_kept);
        sv_answer_free(&answer);
    }
    qsort(second, (size_t)times, sizeof *second, compare);
    qsort(alone, (size_t)times, sizeof *alone, compare);
    qsort(ratio, (size_t)times, sizeof *ratio, compare);
    printf("; first token after %.1f ms, prefilling the others alone %.1f ms, %.3f times as long (medians of %d)\n",
           1e3 * second[times / 2], 1e3 * alone[times / 2], ratio[times / 2], times);
    free(ids);
    free(logits);
    free(x);
    sv_decoder_free(decoder);
    sv_chat_free(chat);
    sv_image_free(&image);
    sv_close(model);
    return 0;

failed:
    fprintf(stderr, "bench_chat: %s\n", error.text);
    return 1;
}
