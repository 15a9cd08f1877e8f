/* test_sample.c: sample.c against transformers' logits processors (tests/golden_sample.py describes the goldens), and
   the tokens that seeds must give on every machine. Run from the repository's root. */
#include "greatest.h"
#include "golden.h"
#include "../model.h"

#include <math.h>

#define FILE_OF_ALL GOLDEN "sample.golden"

static int n_cases, vocab;

/* A case: its settings and its logits, as golden_sample.py makes them. */
typedef struct Case { SvOptions options; float *logits; int32_t *before; size_t n_before; } Case;

static Case read_case(int i) {
    Golden settings = golden(FILE_OF_ALL, "%d/settings", i), before = golden(FILE_OF_ALL, "%d/before", i);
    const float *s = settings.data.f;
    Case c = { .options = sv_default_options(), .logits = noises(100 + (uint64_t)i, (size_t)vocab, s[0]),
               .before = before.data.i, .n_before = before.count };
    for (int t = 0; t < vocab && s[1] > 0; t++) c.logits[t] = floorf(c.logits[t] * s[1]) / s[1];
    c.options.temperature = s[2];
    c.options.top_k = (int)s[3];
    c.options.top_p = s[4];
    c.options.min_p = s[5];
    c.options.repetition_penalty = s[6];
    free(settings.data.any);
    return c;
}

static void free_case(Case *c) {
    free(c->logits);
    free(c->before);
}

/* The penalty and the temperature to the bit; of the others, which tokens are left, in which order, how likely. */
TEST as_transformers(int i) {
    Golden scores = golden(FILE_OF_ALL, "%d/scores", i), kept = golden(FILE_OF_ALL, "%d/kept", i);
    Golden weights = golden(FILE_OF_ALL, "%d/weights", i);
    Case c = read_case(i);
    uint8_t *seen = calloc((size_t)vocab, 1);
    SvCandidate *list = malloc((size_t)vocab * sizeof *list);
    uint64_t random = 0;
    float t = c.options.temperature, best, total = 0;
    ASSERT(seen && list);
    sv_penalize(c.logits, c.before, c.n_before, c.options.repetition_penalty, seen);
    for (int id = 0; id < vocab; id++) {
        float score = t > 0 ? c.logits[id] / t : c.logits[id];
        ASSERT_EQ(0, seen[id]);
        if (!isinf(scores.data.f[id])) ASSERT_EQ_FMT(scores.data.f[id], score, "%.9g");
    }
    best = c.logits[kept.data.i[0]];
    if (t > 0) {
        size_t n = sv_candidates(c.logits, (uint32_t)vocab, best, &c.options, list, &total);
        ASSERT(n <= kept.count);
        for (size_t k = n; k < kept.count; k++)             /* sv_candidates drops what is e^-30 less likely */
            ASSERT_LT(weights.data.f[k], 1e-13 * weights.data.f[0]);
        for (size_t k = 0; k < n; k++) {
            ASSERT_EQ_FMT(kept.data.i[k], list[k].id, "%d");
            ASSERT_IN_RANGE(weights.data.f[k], list[k].weight / total, 2e-6 * weights.data.f[k] + 1e-9);
        }
    } else {
        ASSERT_EQ_FMT(kept.data.i[0], sv_sample(c.logits, (uint32_t)vocab, &c.options, &random, NULL), "%d");
    }
    free(list);
    free(seen);
    free_case(&c);
    free(scores.data.any);
    free(kept.data.any);
    free(weights.data.any);
    PASS();
}

/* Twenty tokens in a row from one seed: on whatever machine this runs, these. */
TEST seeds_give_the_same_everywhere(void) {
    static const struct { int of; uint64_t seed; int32_t ids[20]; } want[] = {
        { 2, 0, { 83, 184, 197, 222, 186, 79, 15, 8, 168, 176, 91, 61, 157, 174, 252, 192, 97, 259, 111, 264 } },
        { 19, 7, { 150, 87, 299, 84, 74, 286, 74, 223, 236, 155, 236, 252, 128, 47, 42, 38, 47, 223, 72, 287 } },
        { 25, 1234567890123456789u,
          { 163, 108, 108, 163, 138, 124, 277, 108, 160, 163, 19, 138, 150, 161, 244, 125, 275, 275, 108, 108 } },
    };
    SvCandidate *list = malloc((size_t)vocab * sizeof *list);
    ASSERT(list);
    for (size_t w = 0; w < sizeof want / sizeof want[0]; w++) {
        Case c = read_case(want[w].of);
        uint64_t random = want[w].seed;
        for (int i = 0; i < 20; i++) {
            int32_t id = sv_sample(c.logits, (uint32_t)vocab, &c.options, &random, list);
            if (GREATEST_IS_VERBOSE()) printf("%d, ", (int)id);
            ASSERT_EQ_FMT(want[w].ids[i], id, "%d");
        }
        free_case(&c);
    }
    free(list);
    PASS();
}

/* Of many drawn tokens each comes about as often as it should. */
TEST draws_follow_the_weights(void) {
    enum { DRAWS = 20000 };
    Golden kept = golden(FILE_OF_ALL, "19/kept"), weights = golden(FILE_OF_ALL, "19/weights");
    Case c = read_case(19);
    SvCandidate *list = malloc((size_t)vocab * sizeof *list);
    int *times = calloc((size_t)vocab, sizeof *times), all = 0;
    uint64_t random = 3;
    ASSERT(list && times);
    for (int i = 0; i < DRAWS; i++) times[sv_sample(c.logits, (uint32_t)vocab, &c.options, &random, list)]++;
    for (size_t k = 0; k < kept.count; k++) {
        double p = weights.data.f[k];
        all += times[kept.data.i[k]];
        ASSERT_IN_RANGE(DRAWS * p, times[kept.data.i[k]], 4.5 * sqrt(DRAWS * p * (1 - p)));
    }
    ASSERT_EQ(DRAWS, all);
    free(times);
    free(list);
    free_case(&c);
    free(kept.data.any);
    free(weights.data.any);
    PASS();
}

/* A logit of -INFINITY bars its token at any temperature; where nothing is left, or a number is none, there is no
   token. */
TEST barred_tokens(void) {
    float logits[4] = { 3, -INFINITY, 2, -INFINITY };
    SvCandidate list[4];
    SvOptions options = sv_default_options();
    for (int heat = 0; heat <= 100; heat += 50) {
        options.temperature = (float)heat;
        uint64_t random = 1;
        for (int i = 0; i < 200; i++) {
            int32_t id = sv_sample(logits, 4, &options, &random, list);
            ASSERT(id == 0 || (id == 2 && heat));
        }
        for (int i = 0; i < 3; i++) {
            float none[4] = { -INFINITY, -INFINITY, i == 1 ? INFINITY : -INFINITY, i == 2 ? NAN : -INFINITY };
            ASSERT_EQ(-1, sv_sample(none, 4, &options, &random, list));
        }
    }
    uint8_t seen[4] = { 0 };
    sv_penalize(logits, (int32_t[]){ 1, 0, 1 }, 3, 2, seen);
    ASSERT(logits[0] == 1.5f && isinf(logits[1]) && logits[1] < 0 && logits[2] == 2);
    PASS();
}

GREATEST_MAIN_DEFS();

int main(int argc, char **argv) {
    GREATEST_MAIN_BEGIN();
    Golden cases = golden(FILE_OF_ALL, "cases");
    n_cases = cases.data.i[0];
    vocab = cases.data.i[1];
    free(cases.data.any);
    for (int i = 0; i < n_cases; i++) RUN_TEST1(as_transformers, i);
    RUN_TEST(seeds_give_the_same_everywhere);
    RUN_TEST(draws_follow_the_weights);
    RUN_TEST(barred_tokens);
    GREATEST_MAIN_END();
}
