/* sample.c: logits to the next token.

     logits [vocab_size]                                                        LogitsProcessorList of generate()
       | the likeliest                                       temperature 0      argmax
       | or, of those kept, one drawn at random              temperature > 0    multinomial
       |   temperature, top_k, top_p
     id */
#include "model.h"

#include <math.h>
#include <stdlib.h>

static int by_weight(const void *a, const void *b) {
    const SvCandidate *x = a, *y = b;
    if (x->weight != y->weight) return x->weight < y->weight ? 1 : -1;
    return x->id < y->id ? -1 : 1;
}

/* splitmix64 (Steele, Lea, Flood 2014), its top 24 bits as a number in [0, 1). */
static float uniform(uint64_t *state) {
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    return (float)(z >> 40) * (1.0f / 16777216);
}

/* Greedy at temperature 0. Otherwise, in the order of HF's logits processors: divide by the temperature, keep the top
   k, keep the likeliest of these that together reach p, draw one. Tokens e^-30 less likely than the best are dropped
   before sorting: all of them together weigh less than a millionth. Returns -1 if a logit is NaN or the largest is
   infinite. */
int32_t sv_sample(const float *logits, uint32_t vocab, const SvOptions *o, uint64_t *random, SvCandidate *candidates) {
    int32_t best = 0;
    for (uint32_t i = 0; i < vocab; i++) {
        if (isnan(logits[i])) return -1;
        if (logits[i] > logits[best]) best = (int32_t)i;
    }
    if (isinf(logits[best])) return -1;
    if (!(o->temperature > 0)) return best;

    size_t n = 0, kept = 0;
    for (uint32_t i = 0; i < vocab; i++)
        if (logits[i] - logits[best] >= -30 * o->temperature) candidates[n++] = (SvCandidate){ logits[i], (int32_t)i };
    qsort(candidates, n, sizeof *candidates, by_weight);
    if (o->top_k > 0 && (size_t)o->top_k < n) n = (size_t)o->top_k;
    float total = 0, reached = 0;
    for (size_t i = 0; i < n; i++)
        total += candidates[i].weight = sv_exp((candidates[i].weight - logits[best]) / o->temperature);
    while (kept < n && (kept == 0 || reached < o->top_p * total)) reached += candidates[kept++].weight;
    float draw = uniform(random) * reached;
    for (size_t i = 0; i < kept; i++)
        if ((draw -= candidates[i].weight) < 0) return candidates[i].id;
    return candidates[kept - 1].id;
}
