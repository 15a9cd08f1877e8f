/* sample.c: logits to the next token.

     logits [vocab_size]                                              LogitsProcessorList of generate(), in its order
       | sv_penalize: tokens already in the prompt or the answer      RepetitionPenaltyLogitsProcessor
       | at temperature 0: the likeliest token                        argmax
       | otherwise: divide by the temperature                         TemperatureLogitsWarper
       |     keep the k likeliest tokens                              TopKLogitsWarper
       |     of these, the likeliest whose sum reaches top_p          TopPLogitsWarper
       |     of these, those at least min_p times the likeliest       MinPLogitsWarper
       |     draw one of them                                         multinomial
     id

   Every number here is computed in a fixed order and without libm, so the same logits and the same seed give the same
   token on every machine. */
#include "model.h"

#include <math.h>
#include <stdlib.h>

void sv_penalize(float *logits, const int32_t *ids, size_t count, float penalty, uint8_t *seen) {
    for (size_t i = 0; i < count; i++) {
        if (seen[ids[i]]) continue;
        seen[ids[i]] = 1;
        float *logit = &logits[ids[i]];
        *logit = *logit < 0 ? *logit * penalty : *logit / penalty;
    }
    for (size_t i = 0; i < count; i++) seen[ids[i]] = 0;
}

static int by_weight(const void *a, const void *b) {
    const SvCandidate *x = a, *y = b;
    if (x->weight != y->weight) return x->weight < y->weight ? 1 : -1;
    return x->id < y->id ? -1 : 1;
}

/* Tokens that are less than e^-30 times as likely as the best are dropped before sorting: together they weigh less than
   a millionth. */
size_t sv_candidates(const float *logits, uint32_t vocab, float best, const SvOptions *o, SvCandidate *list,
                     float *weight) {
    size_t n = 0, all, kept = 0;
    for (uint32_t i = 0; i < vocab; i++)
        if (logits[i] - best >= -30 * o->temperature) list[n++] = (SvCandidate){ logits[i], (int32_t)i };
    qsort(list, all = n, sizeof *list, by_weight);
    if (o->top_k > 0 && (size_t)o->top_k < n) n = (size_t)o->top_k;
    while (n < all && list[n].weight == list[n - 1].weight) n++;            /* ties with the last of the k */
    float total = 0;
    for (size_t i = 0; i < n; i++) total += list[i].weight = sv_exp((list[i].weight - best) / o->temperature);
    *weight = 0;
    while (kept < n && (kept == 0 || ((o->top_p >= 1 || *weight < o->top_p * total) && list[kept].weight >= o->min_p)))
        *weight += list[kept++].weight;
    return kept;
}

/* splitmix64 (Steele, Lea, Flood 2014); the top 24 bits become a number in [0, 1). */
static float uniform(uint64_t *state) {
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    return (float)(z >> 40) * (1.0f / 16777216);
}

int32_t sv_sample(const float *logits, uint32_t vocab, const SvOptions *o, uint64_t *random, SvCandidate *list) {
    int32_t best = 0;
    for (uint32_t i = 0; i < vocab; i++) {
        if (isnan(logits[i])) return -1;
        if (logits[i] > logits[best]) best = (int32_t)i;
    }
    if (isinf(logits[best])) return -1;
    if (!(o->temperature > 0)) return best;

    float weight;
    size_t kept = sv_candidates(logits, vocab, logits[best], o, list, &weight);
    float draw = uniform(random) * weight;
    for (size_t i = 0; i < kept; i++)
        if ((draw -= list[i].weight) < 0) return list[i].id;
    return list[kept - 1].id;
}
