/* test_model.c: whole models against transformers (tests/golden_model.py describes the goldens), and against
   themselves. The bits are the same with any number of threads. With Q8 and Q4 they are also the same however a prompt
   is chunked, and with every kernel set: those of the golden hashes, on every machine. Run from the repository's root.
   test_model --hashes prints the hashes that golden_model.py keeps. */
#include "greatest.h"
#include "golden.h"
#include "../model.h"

#include <math.h>
#if !defined(_OPENMP) && defined(__GNUC__)
#pragma GCC diagnostic ignored "-Wunknown-pragmas"
#endif

#define TOLERANCE 5e-6      /* of a tensor's largest magnitude, as in tests/parity.py */
#define MARGIN 1e-3         /* below this transformers itself is undecided between two tokens */
#define LENGTH(array) (sizeof(array) / sizeof(array)[0])

static SvModel *vlm, *llama;

/* The same models in Q8 and Q4. far_features, far_logits: the rms distance from the original's
   outputs that is allowed. It is a little more than measured, so that a wrong model cannot hide behind its hash. */
typedef struct Quantized {
    const char *file;
    SvModel **original, *model;
    double far_features, far_logits;
} Quantized;
static Quantized quantized[] = {
    { "vlm_q8.bin", &vlm, NULL, 0.02, 0.025 }, { "vlm_q4.bin", &vlm, NULL, 0.02, 0.2 },
    { "text_q8.bin", &llama, NULL, 0, 0.032 }, { "text_q4.bin", &llama, NULL, 0, 0.2 },
};
static SvImage a, b;
static SvError error;

/* --------------------------------------------------------------------------------------- the golden's conversations */

#define TEXT(words) { .text = words }
#define PICTURE(picture) { .image = &(picture) }
#define MESSAGE(role, ...)                                                                                             \
    { role, (SvContent[]){ __VA_ARGS__ }, (int)(sizeof((SvContent[]){ __VA_ARGS__ }) / sizeof(SvContent)) }

static const SvMessage QUESTION[] = { MESSAGE("user", PICTURE(a), TEXT("What is in this picture?")) };
static const SvMessage TWO_PICTURES[] = {
    MESSAGE("system", TEXT("You answer\nin one word.")),
    MESSAGE("user", PICTURE(a), PICTURE(b), TEXT("What has changed?")),
};
static const SvMessage NO_SPLIT[] = { MESSAGE("user", PICTURE(b), TEXT("And the whole?")) };
static const SvMessage LONGEST_EDGE[] = { MESSAGE("user", PICTURE(a), TEXT("Count to 12.")) };
static const SvMessage NO_PICTURE[] = { MESSAGE("user", TEXT("Où est la bibliothèque? 你好 🙂")) };
static const SvMessage CONVERSATION[] = {
    MESSAGE("user", TEXT("Look:"), PICTURE(a), TEXT("What is it?")),
    MESSAGE("assistant", TEXT("A tree.")),
    MESSAGE("user", PICTURE(b), TEXT("And this?"), PICTURE(a)),
    MESSAGE("assistant", TEXT("Two dogs,\n and a chair.")),
    MESSAGE("user", TEXT("Are you sure?")),
};
static const SvMessage TEXT_QUESTION[] = { MESSAGE("user", TEXT("What is in this picture?")) };
static const SvMessage TEXT_SYSTEM[] = {
    MESSAGE("system", TEXT("You answer\nin one word.")),
    MESSAGE("user", TEXT("I'm sure we've seen 300 of them.")),
};
static const SvMessage TEXT_CONVERSATION[] = {
    MESSAGE("user", TEXT("Hello!")), MESSAGE("assistant", TEXT("A tree.")), MESSAGE("user", TEXT("Are you sure?")),
};

typedef struct Case {
    SvModel **model;
    const char *golden, *name;
    const SvMessage *messages;
    int count;
    bool no_split;
    int longest_edge, modules;      /* modules: how many outputs the golden has; 0: it has none */
} Case;

static const Case CASES[] = {
    { &vlm, GOLDEN "vlm.golden", "question", QUESTION, LENGTH(QUESTION), false, 0, 10 },
    { &vlm, GOLDEN "vlm.golden", "two_pictures", TWO_PICTURES, LENGTH(TWO_PICTURES), false, 0, 0 },
    { &vlm, GOLDEN "vlm.golden", "no_split", NO_SPLIT, LENGTH(NO_SPLIT), true, 0, 0 },
    { &vlm, GOLDEN "vlm.golden", "longest_edge", LONGEST_EDGE, LENGTH(LONGEST_EDGE), false, 96, 0 },
    { &vlm, GOLDEN "vlm.golden", "no_picture", NO_PICTURE, LENGTH(NO_PICTURE), false, 0, 4 },
    { &vlm, GOLDEN "vlm.golden", "conversation", CONVERSATION, LENGTH(CONVERSATION), false, 0, 0 },
    { &llama, GOLDEN "text.golden", "question", TEXT_QUESTION, LENGTH(TEXT_QUESTION), false, 0, 4 },
    { &llama, GOLDEN "text.golden", "system", TEXT_SYSTEM, LENGTH(TEXT_SYSTEM), false, 0, 0 },
    { &llama, GOLDEN "text.golden", "conversation", TEXT_CONVERSATION, LENGTH(TEXT_CONVERSATION), false, 0, 0 },
};

/* The answer to a case under options, and its prompt, unless that is NULL. Returns false on failure; `error` says
   why. */
static bool ask(const Case *c, SvOptions options, const SvEvents *events, SvPrompt *prompt, SvAnswer *answer) {
    SvPrompt own;
    options.no_split = c->no_split;
    options.longest_edge = c->longest_edge;
    if (sv_prompt(*c->model, c->messages, c->count, &options, prompt ? prompt : &own, &error) != 0) return false;
    int result = sv_generate(*c->model, prompt ? prompt : &own, &options, events, answer, &error);
    if (!prompt) sv_prompt_free(&own);
    return result == 0;
}

static SvOptions greedy(int max_tokens) {
    SvOptions options = sv_default_options();
    options.max_tokens = max_tokens;
    options.threads = 1;
    return options;
}

static bool same_answer(const SvAnswer *x, const SvAnswer *y) {
    return x->n_ids == y->n_ids && memcmp(x->ids, y->ids, x->n_ids * sizeof *x->ids) == 0 && x->size == y->size &&
           memcmp(x->text, y->text, x->size) == 0 && x->stopped == y->stopped;
}

/* --------------------------------------------------------------------------------------------- against transformers */

TEST prompt_as_transformers(const Case *c) {
    Golden ids = golden(c->golden, "%s/ids", c->name), text = golden(c->golden, "%s/text", c->name);
    SvPrompt prompt;
    SvAnswer answer;
    ASSERTm(error.text, ask(c, greedy(0), NULL, &prompt, &answer));
    ASSERT_STR_EQ(text.data.text, prompt.text);
    ASSERT_EQ_FMT(ids.count, prompt.n_ids, "%zu");
    ASSERT_MEM_EQ(ids.data.i, prompt.ids, ids.count * sizeof *prompt.ids);
    sv_prompt_free(&prompt);
    sv_answer_free(&answer);
    free(ids.data.any);
    free(text.data.any);
    PASS();
}

TEST greedy_as_transformers(const Case *c) {
    Golden ids = golden(c->golden, "%s/greedy", c->name), margins = golden(c->golden, "%s/margins", c->name);
    Golden text = golden(c->golden, "%s/answer", c->name);
    SvAnswer answer;
    ASSERTm(error.text, ask(c, greedy((int)ids.count), NULL, NULL, &answer));
    ASSERT_EQ_FMT(ids.count, answer.n_ids, "%zu");
    ASSERT(!answer.stopped);
    size_t i = 0;
    while (i < ids.count && answer.ids[i] == ids.data.i[i]) i++;
    if (i < ids.count) {
        if (margins.data.f[i] > MARGIN) printf("\n%s: token %zu of the answer differs\n", c->name, i);
        ASSERT_LTE(margins.data.f[i], MARGIN);
    } else {
        ASSERT_STR_EQ(text.data.text, answer.text);
    }
    sv_answer_free(&answer);
    free(ids.data.any);
    free(margins.data.any);
    free(text.data.any);
    PASS();
}

/* One module's activation events, joined. */
typedef struct Module { char name[96]; int dims, shape[5]; float *data; size_t count; } Module;
typedef struct Modules { Module list[16]; int count; } Modules;

static void collect(void *user, const SvActivation *piece) {
    Modules *modules = user;
    int i = 0;
    while (i < modules->count && strcmp(modules->list[i].name, piece->module) != 0) i++;
    if (i == (int)LENGTH(modules->list)) return;
    Module *m = &modules->list[i];
    size_t count = 1;
    for (int d = 0; d < piece->dims; d++) count *= (size_t)piece->shape[d];
    if (i == modules->count) {
        *m = (Module){ .dims = piece->dims };
        snprintf(m->name, sizeof m->name, "%s", piece->module);
        memcpy(m->shape, piece->shape, sizeof m->shape);
        m->shape[piece->axis] = 0;
        modules->count++;
    }
    m->shape[piece->axis] += piece->shape[piece->axis];
    m->data = realloc(m->data, (m->count + count) * sizeof *m->data);
    if (!m->data) exit(EXIT_FAILURE);
    memcpy(m->data + m->count, piece->data, count * sizeof *m->data);
    m->count += count;
}

static void free_modules(Modules *modules) {
    for (int i = 0; i < modules->count; i++) free(modules->list[i].data);
    *modules = (Modules){ 0 };
}

TEST module_as_transformers(const Case *c, const Module *m, double *worst) {
    Golden want = golden(c->golden, "%s/%s", c->name, m->name);
    ASSERT_EQ_FMT((int)want.dims, m->dims, "%d");
    for (int d = 0; d < m->dims; d++) ASSERT_EQ_FMT((int)want.shape[d], m->shape[d], "%d");
    double off = 0, largest = 0;
    for (size_t i = 0; i < want.count; i++) {
        double distance = fabs((double)m->data[i] - want.data.f[i]);
        off = distance <= off ? off : distance;
        largest = fmax(largest, fabs(want.data.f[i]));
    }
    free(want.data.any);
    *worst = fmax(*worst, off / largest);
    if (!(off <= TOLERANCE * largest)) printf("\n%s of %s: off by %.2g\n", m->name, c->name, off / largest);
    ASSERT(off <= TOLERANCE * largest);
    if (strcmp(m->name, "pixel_values") == 0) ASSERTm("pixel values are to the bit", off == 0);
    PASS();
}

/* Only activations of the prompt are reported, so the number of answer tokens must not matter. */
TEST modules_as_transformers(const Case *c) {
    Modules modules = { .count = 0 };
    SvEvents events = { .user = &modules, .activation = collect };
    SvAnswer answer;
    double worst = 0;
    ASSERTm(error.text, ask(c, greedy(3), &events, NULL, &answer));
    ASSERT_EQ_FMT(c->modules, modules.count, "%d");
    for (int i = 0; i < modules.count; i++) CHECK_CALL(module_as_transformers(c, &modules.list[i], &worst));
    if (GREATEST_IS_VERBOSE()) printf("[at most %.2g of the largest] ", worst);
    free_modules(&modules);
    sv_answer_free(&answer);
    PASS();
}

/* ------------------------------------------------------------------------------------------------------ bit for bit */

/* Logits after each position of x, which is fed in chunks. */
static float *logits_in_chunks(const SvModel *m, const float *x, size_t n, size_t chunk, int threads) {
    size_t dim = m->config.hidden_size, vocab = m->config.vocab_size;
    float *copy = malloc(n * dim * sizeof *copy), *logits = calloc(n * vocab, sizeof *logits);
    SvDecoder *decoder;
    if (!copy || !logits || sv_decoder_new(m, (int)n, threads, &decoder, &error) != 0) exit(EXIT_FAILURE);
    memcpy(copy, x, n * dim * sizeof *copy);
    for (size_t at = 0; at < n; at += chunk) {
        size_t count = n - at < chunk ? n - at : chunk, last = at + count - 1;
        if (sv_decoder_forward(decoder, copy + at * dim, count, logits + last * vocab, NULL, &error) != 0)
            exit(EXIT_FAILURE);
    }
    sv_decoder_free(decoder);
    free(copy);
    return logits;
}

/* 600 positions are more than the decoder's own chunk of 512. Threads start only where there is work for them. With Q8
   and Q4, each position's logits equal, to the bit, those of feeding it alone. With floats they are as close to those
   as both are to transformers'. */
TEST prefill_in_any_chunks(SvModel *m) {
    size_t n = m->config.max_position_embeddings < 600 ? m->config.max_position_embeddings : 600;
    size_t vocab = m->config.vocab_size;
    float *x = noises(30, n * m->config.hidden_size, 1);
    float *alone = logits_in_chunks(m, x, n, 1, 1);
    const size_t chunks[] = { 3, 4, 64, 256, 257, 513, n };
    double worst = 0, largest = 0;
    for (size_t i = 0; i < n * vocab; i++) largest = fmax(largest, fabs(alone[i]));
    for (size_t i = 0; i < LENGTH(chunks); i += slow() ? 3 : 1) {
        float *first = NULL;
        for (int threads = 1; threads <= THREADS(3); threads++) {
            float *logits = logits_in_chunks(m, x, n, chunks[i], threads);
            for (size_t at = 0; at < n * vocab; at++)
                if ((at / vocab + 1) % chunks[i] == 0 || at / vocab == n - 1)
                    worst = fmax(worst, fabs((double)logits[at] - alone[at]));
            if (!first) first = logits;
            else ASSERTm("threads change the bits", memcmp(first, logits, n * vocab * sizeof *first) == 0);
            if (first != logits) free(logits);
        }
        free(first);
    }
    if (GREATEST_IS_VERBOSE()) printf("[at most %.2g of the largest] ", worst / largest);
    ASSERT(worst <= (sv_same_bits(m) ? 0 : TOLERANCE * largest));
    free(alone);
    free(x);
    PASS();
}

static void count_one(void *user, const SvActivation *activation) {
    (void)activation;
    ++*(int *)user;
}

/* A model is shared; a decoder belongs to one thread. Two of the caller's own threads, each with a decoder and event
   callbacks, get the same events as one thread alone. */
TEST threads_of_the_caller(SvModel *m) {
    enum { N = 3 };
    size_t dim = m->config.hidden_size, vocab = m->config.vocab_size;
    float *x = noises(33, 3 * N * dim, 1), *logits = calloc(3 * vocab, sizeof *logits);
    int told[3] = { 0 }, failed = 0;
    ASSERT(logits);
    for (int i = 1; i < 3; i++) memcpy(x + (size_t)i * N * dim, x, N * dim * sizeof *x);
#pragma omp parallel for num_threads(2) schedule(static, 1) reduction(+ : failed)
    for (int i = 0; i < 3; i++) {                           /* one thread has two */
        SvEvents events = { .user = &told[i], .activation = count_one };
        SvDecoder *decoder;
        SvError e;
        failed += sv_decoder_new(m, N, 2, &decoder, &e) != 0 ||
                  sv_decoder_forward(decoder, x + (size_t)i * N * dim, N, logits + (size_t)i * vocab, &events, &e) != 0;
        sv_decoder_free(decoder);
    }
    ASSERT_EQ(0, failed);
    for (int i = 0; i < 3; i++) {
        ASSERT_EQ((int)m->config.num_hidden_layers + 2, told[i]);
        const float *of_this = logits + (size_t)i * vocab;
        ASSERT_MEM_EQ(logits, of_this, vocab * sizeof *logits);
    }
    free(x);
    free(logits);
    PASS();
}

/* Tiles do not see each other: each alone, all in a batch, and on threads give the same features. 70 are more than a
   batch. */
TEST vision_in_any_company(SvModel *m) {
    enum { TILES = 70 };
    const SvConfig *c = &m->config;
    size_t tile = 3 * (size_t)c->image_size * c->image_size, size = (size_t)sv_image_tokens(c) * c->hidden_size;
    uint8_t *tiles = malloc(TILES * tile);
    float *features = malloc(TILES * size * sizeof *features), *other = malloc(TILES * size * sizeof *other);
    ASSERT(tiles && features && other);
    for (size_t i = 0; i < TILES * tile; i++) tiles[i] = (uint8_t)(128 + 127 * noise(31, i));
    ASSERT_EQ(0, sv_vision(m, tiles, TILES, 1, features, NULL, &error));
    for (size_t t = 0; t < TILES; t++)
        ASSERT_EQ(0, sv_vision(m, tiles + t * tile, 1, 1, other + t * size, NULL, &error));
    ASSERT_MEM_EQ(features, other, TILES * size * sizeof *features);
    for (int threads = 2; threads <= THREADS(3); threads++) {
        memset(other, 0xff, TILES * size * sizeof *other);
        ASSERT_EQ(0, sv_vision(m, tiles, TILES, threads, other, NULL, &error));
        ASSERT_MEM_EQ(features, other, TILES * size * sizeof *features);
    }
    free(tiles);
    free(features);
    free(other);
    PASS();
}

TEST answers_on_any_threads(const Case *c) {
    SvAnswer one, more;
    SvOptions options = greedy(30);
    ASSERTm(error.text, ask(c, options, NULL, NULL, &one));
    for (options.threads = 0; options.threads <= 3; options.threads++) {
        ASSERTm(error.text, ask(c, options, NULL, NULL, &more));
        ASSERT(same_answer(&one, &more));
        sv_answer_free(&more);
    }
    sv_answer_free(&one);
    PASS();
}

/* ------------------------------------------------------------------------------------------- Q8 and Q4: the hashes */

/* The line "FILE HASH" of tests/golden/model/hashes; 0: there is none. */
static uint64_t golden_hash(const char *file) {
    FILE *f = fopen(GOLDEN "hashes", "r");
    char name[64];
    unsigned long long hash = 0, found = 0;
    while (f && fscanf(f, "%63s %llx", name, &hash) == 2)
        if (strcmp(name, file) == 0) found = hash;
    if (f) fclose(f);
    return found;
}

TEST hash_is_golden(const Quantized *z) {
    uint64_t want = golden_hash(z->file), hash = 0;
    ASSERT(sv_same_bits(z->model) && !sv_same_bits(*z->original));
    for (int i = 0; sv_kernels(i); i++)
        for (int threads = 1; threads <= THREADS(3); threads++)
            for (int one_by_one = 0; one_by_one <= 1; one_by_one++) {
                z->model->kernels = sv_kernels(i);
                int result = sv_selftest(z->model, threads, one_by_one, &hash, &error);
                z->model->kernels = sv_kernels(0);
                ASSERT_EQm(error.text, 0, result);
                if (hash != want)
                    printf("\n%s: %016llx instead of %016llx with the kernels %s, %d threads%s\n", z->file,
                           (unsigned long long)hash, (unsigned long long)want, sv_kernels(i)->name, threads,
                           one_by_one ? ", one by one" : "");
                ASSERT(hash == want);
            }
    PASS();
}

static double far_off(const float *got, const float *want, size_t n) {
    double off = 0, size = 0;
    for (size_t i = 0; i < n; i++) {
        off += ((double)got[i] - want[i]) * ((double)got[i] - want[i]);
        size += (double)want[i] * want[i];
    }
    return sqrt(off / size);
}

/* Not too far, and not suspiciously near either. */
TEST near_the_original(const Quantized *z) {
    enum { N = 100, TILES = 3 };
    const SvModel *from = *z->original;
    const SvConfig *c = &from->config;
    float *x = noises(30, N * c->hidden_size, 1);
    float *want = logits_in_chunks(from, x, N, 1, 1);
    float *got = logits_in_chunks(z->model, x, N, 1, 1);
    double logits = far_off(got, want, N * c->vocab_size), features = 0, embeddings;
    ASSERT_EQ(1, z->model->config.turned);
    free(x);
    free(got);
    free(want);
    if (z->far_features > 0) {
        size_t size = (size_t)sv_image_tokens(c) * c->hidden_size, tile = 3 * (size_t)c->image_size * c->image_size;
        uint8_t *tiles = malloc(TILES * tile);
        got = malloc(TILES * size * sizeof *got), want = malloc(TILES * size * sizeof *want);
        ASSERT(tiles && got && want);
        for (size_t i = 0; i < TILES * tile; i++) tiles[i] = (uint8_t)(128 + 127 * noise(31, i));
        ASSERT_EQ(0, sv_vision(z->model, tiles, TILES, 1, got, NULL, &error));
        ASSERT_EQ(0, sv_vision(from, tiles, TILES, 1, want, NULL, &error));
        features = far_off(got, want, TILES * size);
        free(tiles);
        free(got);
        free(want);
    }
    got = malloc(c->vocab_size * c->hidden_size * sizeof *got);
    want = malloc(c->vocab_size * c->hidden_size * sizeof *want);
    ASSERT(got && want);
    for (int32_t id = 0; id < (int32_t)c->vocab_size; id++) {
        sv_embed(z->model, &id, 1, got + (size_t)id * c->hidden_size);
        sv_embed(from, &id, 1, want + (size_t)id * c->hidden_size);
    }
    embeddings = far_off(got, want, c->vocab_size * c->hidden_size);
    free(got);
    free(want);
    if (GREATEST_IS_VERBOSE())
        printf("[%s: embeddings %.2g, features %.2g, logits %.2g] ", z->file, embeddings, features, logits);
    ASSERT(embeddings > 0 && embeddings <= 0.01);
    ASSERT(features <= z->far_features && (features > 0) == (z->far_features > 0));
    ASSERT(logits > 0 && logits <= z->far_logits);
    PASS();
}

/* Neither are the activations; and who does not listen gets the same answer. */
TEST activations_near_the_original(const Quantized *z) {
    Case c = CASES[z->original == &vlm ? 0 : 6];
    Modules got = { .count = 0 }, want = { .count = 0 };
    SvEvents events = { .user = &want, .activation = collect };
    SvModel *model = z->model;
    SvAnswer answer, unheard;
    double worst = 0;
    ASSERTm(error.text, ask(&c, greedy(0), &events, NULL, &answer));
    sv_answer_free(&answer);
    events.user = &got;
    c.model = &model;
    ASSERTm(error.text, ask(&c, greedy(8), &events, NULL, &answer));
    ASSERTm(error.text, ask(&c, greedy(8), NULL, NULL, &unheard));
    ASSERT(same_answer(&answer, &unheard));
    ASSERT_EQ_FMT(c.modules, got.count, "%d");
    for (int i = 0; i < got.count; i++) {
        ASSERT_STR_EQ(want.list[i].name, got.list[i].name);
        ASSERT_EQ_FMT(want.list[i].count, got.list[i].count, "%zu");
        double off = far_off(got.list[i].data, want.list[i].data, got.list[i].count);
        worst = off <= worst ? worst : off;
    }
    if (GREATEST_IS_VERBOSE()) printf("[%s: at most %.2g] ", z->file, worst);
    ASSERT(worst > 0 && worst <= 1.25 * z->far_logits);                        /* of other inputs than those above */
    free_modules(&got);
    free_modules(&want);
    sv_answer_free(&answer);
    sv_answer_free(&unheard);
    PASS();
}

/* --------------------------------------------------------------------------------------------------------- sampling */

TEST sampling(const Case *c) {
    enum { N = 24, SEEDS = 5 };
    SvAnswer best, answers[SEEDS], again;
    SvOptions options = greedy(N);
    ASSERTm(error.text, ask(c, options, NULL, NULL, &best));

    int different = 0;
    options.temperature = 1;
    for (int i = 0; i < SEEDS; i++) {
        options.seed = (uint64_t)i;
        ASSERTm(error.text, ask(c, options, NULL, NULL, &answers[i]));
        ASSERTm(error.text, ask(c, options, NULL, NULL, &again));
        ASSERTm("the same seed gives another answer", same_answer(&answers[i], &again));
        different += i > 0 && !same_answer(&answers[i], &answers[0]);
        sv_answer_free(&again);
    }
    ASSERT_EQ_FMT(SEEDS - 1, different, "%d");

    /* Each of these leaves one token to choose from: the likeliest. */
    const struct { float temperature, top_p; int top_k; } sure[] = {
        { 1, 1, 1 }, { 1, 0, 0 }, { 1, 1e-6f, 0 }, { 1e-6f, 1, 0 }, { 1e-9f, 1, 0 }, { 1e-39f, 1, 0 },
    };
    for (size_t i = 0; i < LENGTH(sure); i++) {
        options.temperature = sure[i].temperature;
        options.top_p = sure[i].top_p;
        options.top_k = sure[i].top_k;
        ASSERTm(error.text, ask(c, options, NULL, NULL, &again));
        ASSERT(same_answer(&best, &again));
        sv_answer_free(&again);
    }
    for (int i = 0; i < SEEDS; i++) sv_answer_free(&answers[i]);
    sv_answer_free(&best);
    PASS();
}

/* The first token of many answers. With top_k = 3 it is always one of the three likeliest. Each of these comes about as
   often as the softmax of their logits says. */
TEST sampling_follows_the_logits(void) {
    enum { SEEDS = 1000, K = 3 };
    const Case *c = &CASES[4];
    Golden logits = golden(c->golden, "%s/lm_head", c->name);
    int top[K], seen[K] = { 0 };
    double weight[K], total = 0;
    for (int k = 0; k < K; k++) {
        top[k] = -1;
        for (int i = 0; i < (int)logits.count; i++) {
            bool taken = false;
            for (int j = 0; j < k; j++) taken = taken || top[j] == i;
            if (!taken && (top[k] < 0 || logits.data.f[i] > logits.data.f[top[k]])) top[k] = i;
        }
        total += weight[k] = exp((logits.data.f[top[k]] - logits.data.f[top[0]]) / 1.5);
    }
    SvOptions options = greedy(1);
    options.temperature = 1.5f;
    options.top_k = K;
    SvPrompt prompt;
    ASSERT_EQ(0, sv_prompt(vlm, c->messages, c->count, &options, &prompt, &error));
    for (options.seed = 0; options.seed < SEEDS; options.seed++) {
        SvAnswer answer;
        ASSERT_EQ(0, sv_generate(vlm, &prompt, &options, NULL, &answer, &error));
        int k = 0;
        while (k < K && answer.ids[0] != top[k]) k++;
        ASSERTm("a token beyond the three likeliest", k < K);
        seen[k]++;
        sv_answer_free(&answer);
    }
    for (int k = 0; k < K; k++) {                           /* 4.5 standard deviations */
        double p = weight[k] / total;
        ASSERT_IN_RANGE(SEEDS * p, seen[k], 4.5 * sqrt(SEEDS * p * (1 - p)));
    }
    sv_prompt_free(&prompt);
    free(logits.data.any);
    PASS();
}

/* -------------------------------------------------------------------------------------- the answer's stream and end */

typedef struct Stream { char text[4096]; size_t size, tokens, stop_after; int32_t ids[64]; } Stream;

static bool listen(void *user, int32_t id, const char *text, size_t size) {
    Stream *s = user;
    if (size < sizeof s->text - s->size) memcpy(s->text + s->size, text, size), s->size += size;
    if (id >= 0 && s->tokens < LENGTH(s->ids)) s->ids[s->tokens++] = id;
    return s->tokens == s->stop_after;
}

TEST stream_is_the_answer(const Case *c) {
    for (uint64_t seed = 0; seed < 8; seed++) {             /* high temperature: invalid and split characters */
        Stream stream = { .size = 0 };
        SvEvents events = { .user = &stream, .token = listen };
        SvOptions options = greedy(40);
        options.temperature = seed ? 3 : 0;
        options.seed = seed;
        SvAnswer answer;
        ASSERTm(error.text, ask(c, options, &events, NULL, &answer));
        ASSERT_EQ_FMT(answer.size, stream.size, "%zu");
        ASSERT_MEM_EQ(answer.text, stream.text, answer.size);
        ASSERT_EQ(0, answer.text[answer.size]);
        ASSERT_EQ_FMT(answer.n_ids, stream.tokens, "%zu");
        ASSERT_MEM_EQ(answer.ids, stream.ids, answer.n_ids * sizeof *answer.ids);
        char *text;
        size_t size;
        ASSERT_EQ(0, sv_detokenize((*c->model)->tokenizer, answer.ids, answer.n_ids, &text, &size, &error));
        ASSERT_EQ_FMT(size, answer.size, "%zu");
        ASSERT_MEM_EQ(text, answer.text, size);
        free(text);
        sv_answer_free(&answer);
    }
    PASS();
}

TEST listener_stops_the_answer(void) {
    Stream stream = { .stop_after = 5 };
    SvEvents events = { .user = &stream, .token = listen };
    SvAnswer answer;
    ASSERTm(error.text, ask(&CASES[0], greedy(20), &events, NULL, &answer));
    ASSERT_EQ_FMT((size_t)5, answer.n_ids, "%zu");
    ASSERT(answer.stopped);
    sv_answer_free(&answer);
    PASS();
}

/* The model's own end token is never the likeliest here, so one of the answer's tokens is made an end token. */
TEST end_token_stops_the_answer(void) {
    Golden ids = golden(CASES[0].golden, "question/greedy");
    SvConfig *config = &vlm->config;
    SvIds kept = config->eos_token_id;
    size_t first = 0;                                       /* where the answer's sixth token first occurs */
    while (ids.data.i[first] != ids.data.i[5]) first++;
    config->eos_token_id = (SvIds){ 3, { 0, 1, (uint32_t)ids.data.i[5] } };
    SvAnswer answer;
    bool ok = ask(&CASES[0], greedy(20), NULL, NULL, &answer);
    config->eos_token_id = kept;
    ASSERTm(error.text, ok);
    ASSERT_EQ_FMT(first, answer.n_ids, "%zu");
    ASSERT_MEM_EQ(ids.data.i, answer.ids, first * sizeof *answer.ids);
    ASSERT(answer.stopped);
    sv_answer_free(&answer);
    free(ids.data.any);
    PASS();
}

TEST length_ends_the_answer(void) {
    for (int max = 0; max <= 3; max++) {
        SvAnswer answer;
        ASSERTm(error.text, ask(&CASES[0], greedy(max), NULL, NULL, &answer));
        ASSERT_EQ_FMT((size_t)max, answer.n_ids, "%zu");
        ASSERT(!answer.stopped);
        ASSERT(answer.text && strlen(answer.text) == answer.size);
        sv_answer_free(&answer);
    }
    PASS();
}

/* A prompt of exactly n text tokens. */
static SvPrompt long_prompt(size_t n) {
    SvPrompt prompt = { .ids = malloc((n + 1) * sizeof *prompt.ids), .n_ids = n };
    if (!prompt.ids) exit(EXIT_FAILURE);
    for (size_t i = 0; i < n; i++) prompt.ids[i] = 10 + (int32_t)(i % 100);
    return prompt;
}

TEST context_ends_the_answer(void) {
    size_t context = llama->config.max_position_embeddings;
    for (size_t room = 0; room <= 3; room++) {
        SvPrompt prompt = long_prompt(context - room);
        SvOptions options = greedy(1000);
        SvAnswer answer;
        ASSERT_EQm(error.text, 0, sv_generate(llama, &prompt, &options, NULL, &answer, &error));
        ASSERT_EQ_FMT(room, answer.n_ids, "%zu");
        ASSERT(!answer.stopped);
        sv_answer_free(&answer);
        sv_prompt_free(&prompt);
    }
    PASS();
}

/* -------------------------------------------------------------------------------------------------- what is refused */

#define ASSERT_SAYS(words) ASSERTm(error.text, strstr(error.text, words) != NULL)

static int prompt_of(const SvModel *m, const char *role, SvContent content, SvPrompt *prompt) {
    SvOptions options = sv_default_options();
    memset(&error, 0, sizeof error);
    return sv_prompt(m, &(SvMessage){ role, &content, 1 }, 1, &options, prompt, &error);
}

TEST prompts_refused(void) {
    SvPrompt prompt;
    ASSERT_EQ(-1, prompt_of(llama, "user", (SvContent)PICTURE(a), &prompt));
    ASSERT_SAYS("text.bin: a text-only model");
    const char *const words[] = { "<image>", "What is <image> in this?", "<<image>", "<ima<image>" };
    for (size_t i = 0; i < LENGTH(words); i++) {
        ASSERT_EQ(-1, prompt_of(vlm, "user", (SvContent)TEXT(words[i]), &prompt));
        ASSERT_SAYS("<image>");
        ASSERT_EQ(-1, prompt_of(vlm, "system", (SvContent)TEXT(words[i]), &prompt));
        ASSERT_SAYS("<image>");
    }
    const char *const empty[] = { "", " ", "\n\t \r" };
    for (size_t i = 0; i < LENGTH(empty); i++) {
        ASSERT_EQ(-1, prompt_of(vlm, "user", (SvContent)TEXT(empty[i]), &prompt));
        ASSERT_SAYS("empty");
    }
    ASSERT_EQ(0, prompt_of(vlm, "user", (SvContent)TEXT("<imag> <image"), &prompt));
    sv_prompt_free(&prompt);
    ASSERT_EQ(0, prompt_of(llama, "user", (SvContent)TEXT("<image>"), &prompt));    /* plain text there */
    sv_prompt_free(&prompt);
    SvOptions options = sv_default_options();
    ASSERT_EQ(-1, sv_prompt(vlm, NULL, 0, &options, &prompt, &error));
    ASSERT_EQ(-1, sv_prompt(vlm, NULL, 0, &options, &prompt, NULL));
    PASS();
}

/* A template of strings that are all different, and what comes of them; [P] is a picture, of one tile here. */
TEST every_string_of_a_template(void) {
    static const struct { size_t offset; const char *text; } strings[] = {
#define STRING(field, text) { offsetof(SvConfig, field), text }
        STRING(chat_begin, "BEGIN "), STRING(chat_default_system, "DEFAULT "), STRING(chat_system_begin, "S{"),
        STRING(chat_system_begin_image, "Si{"), STRING(chat_system_end, "}S"), STRING(chat_system_end_image, "}iS"),
        STRING(chat_user_begin, "U{"), STRING(chat_user_begin_image, "Ui{"), STRING(chat_user_end, "}U"),
        STRING(chat_user_end_image, "}iU"), STRING(chat_assistant_begin, "A{"),
        STRING(chat_assistant_begin_image, "Ai{"), STRING(chat_assistant_end, "}A"),
        STRING(chat_assistant_end_image, "}iA"), STRING(chat_between_messages, " | "), STRING(chat_text_text, "-tt-"),
        STRING(chat_text_image, "-ti-"), STRING(chat_image_text, "-it-"), STRING(chat_image_image, "-ii-"),
        STRING(chat_generation_prompt, " GO"),
    };
    const SvMessage talk[] = {
        MESSAGE("system", TEXT("a"), TEXT("b")), MESSAGE("user", PICTURE(b), PICTURE(b), TEXT("c"), PICTURE(b)),
        MESSAGE("assistant", PICTURE(b), TEXT("d")), MESSAGE("user", TEXT("e")),
        MESSAGE("system", PICTURE(b)), MESSAGE("assistant", TEXT("f"), PICTURE(b)),
    };
    static const struct { int first, count; uint32_t accepts; const char *words; } cases[] = {
        { 0, 6, 63, "BEGIN S{a-tt-b}S | Ui{[P]-ii-[P]-it-c-ti-[P]}iU | Ai{[P]-it-d}A | U{e}U | Si{[P]}iS | "
                    "A{f-ti-[P]}iA GO" },
        { 1, 1, SV_CHAT_MIXED, "BEGIN DEFAULT Ui{[P]-ii-[P]-it-c-ti-[P]}iU GO" },
        { 3, 1, 0, "BEGIN DEFAULT U{e}U GO" },
        { 0, 2, SV_CHAT_MIXED, "vlm.bin: the model's chat template does not provide for a system message" },
        { 0, 2, SV_CHAT_SYSTEM, "does not provide for a message that is not pictures and one text after them" },
        { 2, 2, 63 & ~SV_CHAT_ASSISTANT, "does not provide for a message of the assistant" },
        { 2, 1, 63 & ~SV_CHAT_ASSISTANT_LAST, "does not provide for a message of the assistant as the last" },
        { 2, 2, 63 & ~SV_CHAT_IMAGES, "does not provide for a picture in a message that is not the user's" },
        { 3, 2, 63 & ~SV_CHAT_SYSTEM_LATER, "does not provide for a system message that is not the first" },
    };
    const SvConfig kept = vlm->config;
    SvOptions options = sv_default_options();
    options.no_split = true;
    SvPrompt prompt;
    ASSERT_EQ(0, sv_prompt_raw(vlm, "<image>", (SvContent[]){ PICTURE(b) }, 1, &options, &prompt, &error));
    char *picture = prompt.text;
    prompt.text = NULL;
    sv_prompt_free(&prompt);
    for (size_t i = 0; i < LENGTH(strings); i++) {
        SvString string = { strings[i].text, strlen(strings[i].text) };
        memcpy((char *)&vlm->config + strings[i].offset, &string, sizeof string);
    }
    for (size_t i = 0; i < LENGTH(cases); i++) {
        vlm->config.chat_accepts = cases[i].accepts;
        bool refused = strstr(cases[i].words, "provide") != NULL;
        ASSERT_EQm(error.text, -refused,
                   sv_prompt(vlm, talk + cases[i].first, cases[i].count, &options, &prompt, &error));
        if (refused) {
            ASSERT_SAYS(cases[i].words);
            continue;
        }
        const char *at = prompt.text;
        for (const char *word = cases[i].words; *word; ) {
            size_t size = strncmp(word, "[P]", 3) == 0 ? strlen(picture) : 1;
            ASSERTm(prompt.text, strncmp(at, size > 1 ? picture : word, size) == 0);
            at += size;
            word += size > 1 ? 3 : 1;
        }
        ASSERT_EQ(0, *at);
        sv_prompt_free(&prompt);
    }
    vlm->config = kept;
    free(picture);
    ASSERT_EQ(-1, prompt_of(vlm, "tool", (SvContent)TEXT("x"), &prompt));
    ASSERT_SAYS("message 1: the role is tool, but must be system, user or assistant");
    ASSERT_EQ(-1, sv_prompt(vlm, &(SvMessage){ "user", NULL, 0 }, 1, &options, &prompt, &error));
    ASSERT_SAYS("message 1: has no content");
    PASS();
}

/* The prompt as it stands: special tokens count, and pictures go where the image token is. */
TEST raw_prompts(void) {
    SvOptions options = sv_default_options();
    SvContent pictures[] = { PICTURE(a), PICTURE(b) };
    SvMessage message = { "user", (SvContent[]){ PICTURE(a), PICTURE(b), TEXT("What?") }, 3 };
    SvPrompt prompt, raw;
    ASSERT_EQ(0, sv_prompt(vlm, &message, 1, &options, &prompt, &error));
    ASSERT_EQm(error.text, 0, sv_prompt_raw(vlm, "<|im_start|>User:<image><image>What?<end_of_utterance>\nAssistant:",
                                            pictures, 2, &options, &raw, &error));
    ASSERT_STR_EQ(prompt.text, raw.text);
    ASSERT_EQ(prompt.n_ids, raw.n_ids);
    ASSERT_MEM_EQ(prompt.ids, raw.ids, raw.n_ids * sizeof *raw.ids);
    ASSERT(prompt.n_tiles == raw.n_tiles && raw.n_pictures == 2);
    sv_prompt_free(&raw);
    sv_prompt_free(&prompt);
    ASSERT_EQ(-1, sv_prompt_raw(vlm, "<image> and no other", pictures, 2, &options, &raw, &error));
    ASSERT_SAYS("the prompt has <image> 1 time, but there are 2 pictures");
    ASSERT_EQ(-1, sv_prompt_raw(vlm, "<image><image>", pictures, 1, &options, &raw, &error));
    ASSERT_SAYS("the prompt has <image> 2 times, but there is 1 picture");
    ASSERT_EQ(-1, sv_prompt_raw(vlm, " \n", NULL, 0, &options, &raw, &error));
    ASSERT_SAYS("the prompt is empty");
    ASSERT_EQ(-1, sv_prompt_raw(llama, "x", pictures, 1, &options, &raw, &error));
    ASSERT_SAYS("text.bin: a text-only model");
    ASSERT_EQ(0, sv_prompt_raw(llama, "<image> x", NULL, 0, &options, &raw, &error));
    ASSERT_STR_EQ("<image> x", raw.text);
    sv_prompt_free(&raw);
    PASS();
}

static int generate(const SvModel *m, SvPrompt *prompt) {
    SvOptions options = greedy(4);
    SvAnswer answer;
    memset(&error, 0, sizeof error);
    int result = sv_generate(m, prompt, &options, NULL, &answer, &error);
    sv_answer_free(&answer);
    return result;
}

TEST generation_refused(void) {
    SvPrompt prompt = long_prompt(vlm->config.max_position_embeddings + 1);
    ASSERT_EQ(-1, generate(vlm, &prompt));
    ASSERT_SAYS("641 tokens, more than the context of 640");
    prompt.n_ids = 0;
    ASSERT_EQ(-1, generate(vlm, &prompt));
    ASSERT_SAYS("empty");
    prompt.n_ids = 3;
    ASSERT_EQ(0, generate(vlm, &prompt));
    prompt.ids[1] = (int32_t)vlm->config.vocab_size;
    ASSERT_EQ(-1, generate(vlm, &prompt));
    ASSERT_SAYS("vlm.bin: the prompt has token 378");
    prompt.ids[1] = -1;
    ASSERT_EQ(-1, generate(vlm, &prompt));
    ASSERT_SAYS("vlm.bin: the prompt has token -1");
    prompt.ids[1] = (int32_t)vlm->config.image_token_id;    /* an image token and no picture */
    ASSERT_EQ(-1, generate(vlm, &prompt));
    ASSERT_SAYS("vlm.bin: the prompt has 1 image tokens, its pictures 0");
    sv_prompt_free(&prompt);

    ASSERT_EQ(0, prompt_of(vlm, "user", (SvContent)PICTURE(a), &prompt));
    ASSERT_EQ(0, generate(vlm, &prompt));
    size_t i = 0;
    while ((uint32_t)prompt.ids[i] != vlm->config.image_token_id) i++;
    prompt.ids[i] = 5;                                      /* one image token too few */
    ASSERT_EQ(-1, generate(vlm, &prompt));
    ASSERT_SAYS("image tokens, its pictures 20");
    sv_prompt_free(&prompt);
    PASS();
}

/* A choice by time: the way that leads by SV_LEAD, for good; the first, if no clock tells them apart. */
TEST the_faster_way_is_chosen(void) {
    const double first_faster[] = { 1, 2 }, second_faster[] = { 2, 1 }, equal[] = { 0, 0 };
    const struct { const double *seconds; bool first; } ways[] = { { first_faster, true }, { second_faster, false },
                                                                   { equal, true } };
    for (size_t i = 0; i < LENGTH(ways); i++) {
        SvTrial trial = { 0 };
        bool first = true;
        for (int step = 0; step < 2 * SV_LEAD; step++) {
            ASSERT_EQ(step % 2 == 0, first);                /* in turn until then */
            first = sv_trial(&trial, ways[i].seconds[!first]);
        }
        ASSERT_EQ(ways[i].first, first);
        ASSERT_EQ_FMT(ways[i].first ? SV_LEAD : -SV_LEAD, trial.lead, "%d");
        for (int step = 0; step < 4 * SV_LEAD; step++)      /* whatever comes later */
            ASSERT_EQ(ways[i].first, sv_trial(&trial, ways[i].first ? 100 - step : step));
    }
    SvTrial trial = { 0 };                                  /* no way leads: no choice */
    for (int step = 0; step < 100; step++) sv_trial(&trial, step % 4 == 0 || step % 4 == 3 ? 1 : 2);
    ASSERT_EQ_FMT(0, trial.lead, "%d");
    PASS();
}

/* A decoder tries with steps of one position, not with prompts. */
TEST decoder_tries_prefetching(void) {
    SvDecoder *decoder;
    const SvModel *m = quantized[0].model;
    size_t dim = m->config.hidden_size;
    float *x = calloc(5 * dim, sizeof *x);
    ASSERT(x);
    ASSERT_EQm(error.text, 0, sv_decoder_new(m, 5 + 2 * SV_LEAD, 1, &decoder, &error));
    const SvTrial *trial = sv_decoder_trial(decoder);
    for (size_t i = 0; i < 5 * dim; i++) x[i] = noise(90, i);
    ASSERT_EQ(0, sv_decoder_forward(decoder, x, 5, NULL, NULL, &error));
    ASSERT(trial->lead == 0 && !trial->second);
    for (int step = 1; step <= 2 * SV_LEAD; step++) {
        ASSERT_EQ(0, sv_decoder_forward(decoder, x, 1, NULL, NULL, &error));
        ASSERT(step % 2 == 0 || trial->second);
        ASSERT(abs(trial->lead) <= step / 2 && abs(trial->lead) % 2 == step / 2 % 2);
    }
    sv_decoder_free(decoder);
    free(x);
    PASS();
}

TEST decoder_refused(void) {
    SvDecoder *decoder;
    ASSERT_EQ(-1, sv_decoder_new(llama, 0, 1, &decoder, &error));
    ASSERT_EQ(-1, sv_decoder_new(llama, 401, 1, &decoder, &error));
    ASSERT_SAYS("text.bin: 401 positions asked for, the model's context is 400");
    ASSERT_EQ(0, sv_decoder_new(llama, 4, 1, &decoder, &error));
    float *x = noises(32, 5 * llama->config.hidden_size, 1);
    ASSERT_EQ(-1, sv_decoder_forward(decoder, x, 0, NULL, NULL, &error));
    ASSERT_EQ(-1, sv_decoder_forward(decoder, x, 5, NULL, NULL, &error));
    ASSERT_EQ(0, sv_decoder_forward(decoder, x, 3, NULL, NULL, &error));
    ASSERT_EQ(-1, sv_decoder_forward(decoder, x, 2, NULL, NULL, &error));
    ASSERT_SAYS("text.bin: 2 more tokens do not fit: 3 of 4 positions are taken");
    ASSERT_EQ(0, sv_decoder_forward(decoder, x, 1, NULL, NULL, &error));
    sv_decoder_free(decoder);
    free(x);
    float feature;
    ASSERT_EQ(-1, sv_vision(llama, a.rgb, 1, 1, &feature, NULL, &error));
    ASSERT_SAYS("text.bin: a text-only model");
    PASS();
}

/* --------------------------------------------------------------------------------------------------------- the rest */

typedef struct Progress { int tiles, of_tiles, prefill, of_prefill, calls, stop_at; bool backwards; } Progress;

static bool watch(void *user, const char *phase, int done, int total) {
    Progress *p = user;
    int *at = strcmp(phase, "tile") == 0 ? &p->tiles : &p->prefill;
    p->backwards = p->backwards || done <= *at || done > total;
    *at = done;
    at[1] = total;
    return ++p->calls == p->stop_at;
}

TEST progress_reaches_its_end(void) {
    Progress p = { 0 };
    SvEvents events = { .user = &p, .progress = watch };
    SvPrompt prompt;
    SvAnswer answer;
    ASSERTm(error.text, ask(&CASES[5], greedy(4), &events, &prompt, &answer));
    ASSERT(!p.backwards && p.calls >= 2);
    ASSERT(p.tiles == prompt.n_tiles && p.of_tiles == prompt.n_tiles && prompt.n_tiles > 3);
    ASSERT(p.prefill == (int)prompt.n_ids && p.of_prefill == (int)prompt.n_ids);
    sv_prompt_free(&prompt);
    sv_answer_free(&answer);
    PASS();
}

TEST text_only_needs_no_memory_for_tiles(void) {
    ASSERT_EQ(0, sv_image_tokens(&llama->config));
    ASSERT_EQ(0, sv_vision_memory(llama, 3, 1));
    ASSERT(sv_memory_needed(llama, 10, 3, 1) > 0);
    PASS();
}

TEST content_is_a_text_or_a_picture(void) {
    SvContent contents[] = { { .name = "neither" }, { .text = "both", .image = &a } };
    for (int i = 0; i < 2; i++) {
        SvMessage message = { "user", &contents[i], 1 };
        SvOptions options = greedy(1);
        SvPrompt prompt;
        ASSERT_EQ(-1, sv_prompt(vlm, &message, 1, &options, &prompt, &error));
        ASSERT_SAYS("message 1: a content is either a text, a picture or a video");
    }
    PASS();
}

TEST progress_can_give_up(void) {
    for (int stop_at = 1; stop_at <= 2; stop_at++) {        /* in the vision tower, in the prompt */
        Progress p = { .stop_at = stop_at };
        SvEvents events = { .user = &p, .progress = watch };
        SvPrompt prompt;
        SvAnswer answer;
        ASSERT(!ask(&CASES[5], greedy(4), &events, &prompt, &answer));
        ASSERT_SAYS("stopped");
        ASSERT_EQ(stop_at, p.calls);
        sv_prompt_free(&prompt);
    }
    PASS();
}

/* The pictures' tiles follow each other in prompt.tiles, as sv_vision expects them. */
TEST tiles_of_several_pictures(void) {
    SvPrompt prompt;
    SvAnswer answer;
    ASSERTm(error.text, ask(&CASES[1], greedy(0), NULL, &prompt, &answer));
    ASSERT_EQ(2, prompt.n_pictures);
    uint8_t *at = prompt.tiles;
    const SvImage *images[] = { &a, &b };
    for (int i = 0; i < 2; i++) {
        SvTiles *got = &prompt.pictures[i], want;
        ASSERT(got->rgb == at);
        ASSERT_EQ(0, sv_image_split(images[i], 64, 32, true, &want, &error));
        ASSERT(got->rows == want.rows && got->cols == want.cols && got->count == want.count && got->side == want.side);
        ASSERT_MEM_EQ(want.rgb, got->rgb, (size_t)want.count * 3 * 32 * 32);
        at += (size_t)want.count * 3 * 32 * 32;
        sv_tiles_free(&want);
    }
    ASSERT(at == prompt.tiles + (size_t)prompt.n_tiles * 3 * 32 * 32);
    sv_prompt_free(&prompt);
    sv_answer_free(&answer);
    PASS();
}

TEST embeddings_are_rows(SvModel *m) {
    size_t dim = m->config.hidden_size;
    const int32_t ids[] = { 0, 7, (int32_t)m->config.vocab_size - 1, 7 };
    float *x = malloc(4 * dim * sizeof *x), *row = malloc(dim * sizeof *row);
    ASSERT(x && row);
    sv_embed(m, ids, 4, x);
    for (size_t i = 0; i < 4; i++) {
        sv_row(&m->text.embed_tokens, (size_t)ids[i], row);
        const float *embedding = x + i * dim;
        ASSERT_MEM_EQ(row, embedding, dim * sizeof *x);
    }
    free(x);
    free(row);
    PASS();
}

TEST what_is_freed_may_be_freed_again(void) {
    SvPrompt prompt = { 0 };
    SvAnswer answer = { 0 };
    SvImage image = { 0 };
    SvTiles tiles = { 0 };
    sv_prompt_free(&prompt);
    sv_answer_free(&answer);
    sv_image_free(&image);
    sv_tiles_free(&tiles);
    sv_decoder_free(NULL);
    sv_tokenizer_free(NULL);
    sv_close(NULL);
    PASS();
}

SUITE(against_transformers) {
    for (size_t i = 0; i < LENGTH(CASES); i++) {
        RUN_TEST1(prompt_as_transformers, &CASES[i]);
        RUN_TEST1(greedy_as_transformers, &CASES[i]);
        if (CASES[i].modules) RUN_TEST1(modules_as_transformers, &CASES[i]);
    }
}

SUITE(bit_for_bit) {
    RUN_TEST1(threads_of_the_caller, vlm);
    RUN_TEST1(threads_of_the_caller, quantized[0].model);
    RUN_TEST1(prefill_in_any_chunks, vlm);
    RUN_TEST1(prefill_in_any_chunks, llama);
    RUN_TEST1(vision_in_any_company, vlm);
    RUN_TEST1(answers_on_any_threads, &CASES[5]);
    RUN_TEST1(answers_on_any_threads, &CASES[6]);
    for (size_t i = 0; i < LENGTH(quantized); i++) {
        RUN_TEST1(prefill_in_any_chunks, quantized[i].model);
        if (quantized[i].far_features > 0) RUN_TEST1(vision_in_any_company, quantized[i].model);
        RUN_TEST1(hash_is_golden, &quantized[i]);
        RUN_TEST1(near_the_original, &quantized[i]);
        RUN_TEST1(activations_near_the_original, &quantized[i]);
    }
}

SUITE(answers) {
    RUN_TEST1(sampling, &CASES[0]);
    RUN_TEST1(sampling, &CASES[6]);
    RUN_TEST(sampling_follows_the_logits);
    RUN_TEST1(stream_is_the_answer, &CASES[4]);
    RUN_TEST1(stream_is_the_answer, &CASES[6]);
    RUN_TEST(listener_stops_the_answer);
    RUN_TEST(end_token_stops_the_answer);
    RUN_TEST(length_ends_the_answer);
    RUN_TEST(context_ends_the_answer);
}

SUITE(refusals_and_the_rest) {
    RUN_TEST(prompts_refused);
    RUN_TEST(every_string_of_a_template);
    RUN_TEST(raw_prompts);
    RUN_TEST(generation_refused);
    RUN_TEST(the_faster_way_is_chosen);
    RUN_TEST(decoder_tries_prefetching);
    RUN_TEST(decoder_refused);
    RUN_TEST(progress_reaches_its_end);
    RUN_TEST(progress_can_give_up);
    RUN_TEST(text_only_needs_no_memory_for_tiles);
    RUN_TEST(content_is_a_text_or_a_picture);
    RUN_TEST(tiles_of_several_pictures);
    RUN_TEST1(embeddings_are_rows, vlm);
    RUN_TEST1(embeddings_are_rows, llama);
    RUN_TEST(what_is_freed_may_be_freed_again);
}

GREATEST_MAIN_DEFS();

static int print_hashes(void) {
    for (size_t i = 0; i < LENGTH(quantized); i++) {
        uint64_t hash;
        if (sv_selftest(quantized[i].model, 1, true, &hash, &error) != 0) return EXIT_FAILURE;
        printf("%s %016llx\n", quantized[i].file, (unsigned long long)hash);
    }
    return EXIT_SUCCESS;
}

int main(int argc, char **argv) {
    bool only_hashes = argc == 2 && strcmp(argv[1], "--hashes") == 0;
    if (!only_hashes) GREATEST_MAIN_BEGIN();
    if (sv_open(GOLDEN "vlm.bin", &vlm, &error) != 0 || sv_open(GOLDEN "text.bin", &llama, &error) != 0 ||
        sv_image_read(GOLDEN "a.png", &a, &error) != 0 || sv_image_read(GOLDEN "b.ppm", &b, &error) != 0) {
        fprintf(stderr, "%s\n", error.text);
        return EXIT_FAILURE;
    }
    for (size_t i = 0; i < LENGTH(quantized); i++) {
        char path[128];
        snprintf(path, sizeof path, "%s%s", GOLDEN, quantized[i].file);
        if (sv_open(path, &quantized[i].model, &error) != 0) {
            fprintf(stderr, "%s\n", error.text);
            return EXIT_FAILURE;
        }
    }
    if (only_hashes) return print_hashes();
    RUN_SUITE(against_transformers);
    RUN_SUITE(bit_for_bit);
    RUN_SUITE(answers);
    RUN_SUITE(refusals_and_the_rest);
    sv_image_free(&a);
    sv_image_free(&b);
    sv_close(vlm);
    sv_close(llama);
    for (size_t i = 0; i < LENGTH(quantized); i++) sv_close(quantized[i].model);
    GREATEST_MAIN_END();
}
