/* logits.c: the logits of every position of a text, for tests/released.py. An answer needs the last position's alone,
   so the program itself has no such thing.

       logits MODEL THREADS <ids >logits

   stdin: token ids, int32; stdout: f32 [ids, vocab_size]; both as this machine lays them out. */
#include "model.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROWS = 64 };             /* positions whose logits are computed together */

static int fail(const char *text) {
    fprintf(stderr, "logits: %s\n", text);
    return 1;
}

int main(int argc, char **argv) {
    SvModel *model;
    SvDecoder *decoder;
    SvError error;
    if (argc != 3) return fail("usage: logits MODEL THREADS <ids >logits");
    if (sv_open(argv[1], &model, &error) != 0) return fail(error.text);

    size_t most = model->config.max_position_embeddings, dim = model->config.hidden_size;
    size_t vocabulary = model->config.vocab_size;
    int32_t *ids = malloc(most * sizeof *ids);
    size_t n = ids ? fread(ids, sizeof *ids, most, stdin) : 0;
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || (size_t)ids[i] >= vocabulary) return fail("an id is not in the vocabulary");
    if (n == 0 || getchar() != EOF) return fail("there must be one id at least, and no more than the context holds");

    float *x = malloc(n * dim * sizeof *x), *last = malloc(vocabulary * sizeof *last);
    float *logits = malloc(ROWS * vocabulary * sizeof *logits);
    float *scratch = malloc(model->kernels->matmul_scratch(ROWS, dim) * sizeof *scratch);
    if (!x || !last || !logits || !scratch) return fail("out of memory");
    sv_embed(model, ids, n, x);
    if (sv_decoder_new(model, (int)n, atoi(argv[2]), &decoder, &error) != 0 ||
        sv_decoder_forward(decoder, x, n, last, NULL, &error) != 0) return fail(error.text);

    /* x is now what the last layer made of it: what is left is the decoder's lm_head, for all positions. */
    const float *weight = model->text.norm.data;
    size_t rows = 0;
    for (size_t at = 0; at < n; at += rows) {
        rows = n - at < ROWS ? n - at : ROWS;
#pragma omp parallel num_threads(sv_threads(atoi(argv[2])))
        {
            model->kernels->rms_norm(x + at * dim, x + at * dim, weight, rows, dim, model->config.rms_norm_eps);
            sv_turn(model, x + at * dim, rows, dim);
            model->kernels->matmul(&(SvProduct){ logits, &model->text.lm_head, NULL }, 1, x + at * dim, rows, false,
                                   scratch);
        }
        if (fwrite(logits, vocabulary * sizeof *logits, rows, stdout) != rows) return fail("cannot write");
    }
    /* As in decoding, where the last position is computed alone. */
    if (sv_same_bits(model) && memcmp(logits + (rows - 1) * vocabulary, last, vocabulary * sizeof *last) != 0)
        return fail("the last position's logits are not those of an answer");
    sv_decoder_free(decoder);
    sv_close(model);
    free(ids), free(x), free(last), free(logits), free(scratch);
    return fflush(stdout) == 0 ? 0 : fail("cannot write");
}
