/* answer.c: an answer with what may be asked beside it: log-probabilities, the probabilities of given answers, a shape.

     prompt ids | ids of a given answer, end token
     ---------- | --------------------------------
      in the    | each is forced, in turn, after its
      cache     | probability has been looked up        the sum of the logarithms: the answer's probability as a whole

   Probabilities are the model's own: those before temperature, penalties and filters. */
#include "cli.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------------------------------------ log-probabilities */

/* log(sum of e^logit): a logit minus this is its token's log-probability. */
static double log_sum(const float *logits, int count) {
    float best = logits[0];
    double sum = 0;
    for (int i = 1; i < count; i++)
        if (logits[i] > best) best = logits[i];
    for (int i = 0; i < count; i++)
        if (logits[i] - best > -80) sum += sv_exp(logits[i] - best);
    return best + log(sum);
}

/* What happens in an answer: events goes on to those who wanted it before. */
typedef struct Watch {
    const SvEvents *events;
    const Wish *wish;
    Report *report;
    float *logits;                                          /* a copy, of the token that is being chosen */
    double log_sum;
    int count;
    bool failed;
} Watch;

/* The n largest, the largest first; of equal ones the first. */
static void likeliest(const float *logits, int count, int n, ScoredId *top) {
    int kept = 0;
    for (int i = 0; i < count; i++) {
        if (kept == n && !(logits[i] > logits[top[n - 1].id])) continue;
        int at = kept < n ? kept++ : n - 1;
        for (; at > 0 && logits[i] > logits[top[at - 1].id]; at--) top[at] = top[at - 1];
        top[at].id = i;
    }
}

static void watch_logits(void *user, float *logits, int count) {
    Watch *w = user;
    w->count = count;
    if (w->wish->logprobs > 0) {
        memcpy(w->logits, logits, (size_t)count * sizeof *logits);
        w->log_sum = log_sum(logits, count);
    }
    if (w->events->logits) w->events->logits(w->events->user, logits, count);
    if (w->wish->guide) guide_mask(w->wish->guide, logits);
}

static void score_token(Watch *w, int32_t id) {
    Report *r = w->report;
    int n = w->wish->logprobs < w->count ? w->wish->logprobs : w->count;
    if (r->n_tokens == r->room) {
        size_t room = 2 * r->room + 64, row = (size_t)w->wish->logprobs + 1;
        ScoredId *grown = realloc(r->tokens, room * row * sizeof *grown);
        if (!grown) {
            w->failed = true;
            return;
        }
        r->tokens = grown;
        r->room = room;
    }
    ScoredId *row = r->tokens + r->n_tokens++ * ((size_t)w->wish->logprobs + 1);
    row[0] = (ScoredId){ id, w->logits[id] - w->log_sum };
    for (int i = 1; i <= w->wish->logprobs; i++) row[i].id = -1;
    likeliest(w->logits, w->count, n, row + 1);
    for (int i = 1; i <= n; i++) row[i].logprob = w->logits[row[i].id] - w->log_sum;
}

static bool watch_token(void *user, int32_t id, const char *text, size_t size) {
    Watch *w = user;
    if (w->wish->logprobs > 0 && id >= 0) score_token(w, id);
    bool ended = w->wish->guide && id >= 0 && guide_token(w->wish->guide, id);
    bool stop = w->events->token && w->events->token(w->events->user, id, text, size);
    return stop || ended || w->failed;
}

static bool watch_progress(void *user, const char *phase, int at, int total) {
    const Watch *w = user;
    return w->events->progress && w->events->progress(w->events->user, phase, at, total);
}

static void watch_activation(void *user, const SvActivation *activation) {
    const Watch *w = user;
    w->events->activation(w->events->user, activation);
}

/* ---------------------------------------------------------------------------------------------------- given answers */

/* The ids of prompt and answer together, up to the end token; *begin: where they are no longer the prompt's. The answer
   stands as the chat template puts a message of the assistant behind what it asks for. */
static int ids_of_choice(const SvModel *m, const SvPrompt *prompt, const char *choice, int32_t **ids, size_t *count,
                         size_t *begin, SvError *error) {
    const SvConfig *c = &m->config;
    SvString before = c->chat_assistant_begin, asked = c->chat_generation_prompt;
    SvBytes text = { 0 };
    bool chat = c->chat_template != 0;
    sv_put(&text, prompt->text, strlen(prompt->text));
    if (chat && before.size >= asked.size && memcmp(before.data, asked.data, asked.size) == 0)
        sv_put(&text, before.data + asked.size, before.size - asked.size);
    sv_put(&text, choice, strlen(choice));
    if (chat) sv_put(&text, c->chat_assistant_end.data, c->chat_assistant_end.size);
    int result = text.failed ? sv_fail(error, "out of memory for a choice")
                             : sv_tokenize(m->tokenizer, text.data, text.size, ids, count, error);
    free(text.data);
    if (result != 0) return -1;
    size_t at = 0, n = 0;
    while (at < *count && at < prompt->n_ids && (*ids)[at] == prompt->ids[at]) at++;
    for (n = at; n < *count; n++)
        if (sv_is_end(c, (*ids)[n])) break;
    if (n < *count) n++;                                    /* the first end token */
    *begin = at;
    *count = n;
    if (at > 0 && n > at) return 0;
    free(*ids);
    return sv_fail(error, "the choice \"%.80s\" has no tokens of its own", choice);
}

/* The answer that is forced: its ids, of which `at` have been looked up. */
typedef struct Forced {
    const SvModel *model;
    const SvEvents *events;
    const int32_t *ids;
    size_t count, at;
    double logprob;
} Forced;

static bool force_progress(void *user, const char *phase, int at, int total) {
    const Forced *f = user;
    return f->events->progress(f->events->user, phase, at, total);
}

static void force(void *user, float *logits, int count) {
    Forced *f = user;
    if (f->at == f->count) return;
    int32_t id = f->ids[f->at++];
    double sum = log_sum(logits, count), end = 0;
    const SvIds *ends = &f->model->config.eos_token_id;
    if (sv_is_end(&f->model->config, id)) {                 /* any of them ends an answer */
        for (uint32_t i = 0; i < ends->count; i++) end += exp(logits[ends->id[i]] - sum);
        f->logprob += log(end);
    } else {
        f->logprob += logits[id] - sum;
    }
    for (int i = 0; i < count; i++) logits[i] = -INFINITY;
    logits[id] = 0;
}

static int score_choice(SvChat *chat, const SvModel *m, const SvPrompt *prompt, const SvOptions *options,
                        const SvEvents *events, const char *text, Choice *choice, SvAnswer *answer, SvError *error) {
    size_t count, begin;
    int32_t *ids;
    if (ids_of_choice(m, prompt, text, &ids, &count, &begin, error) != 0) return -1;
    Forced forced = { .model = m, .events = events, .ids = ids + begin, .count = count - begin };
    SvOptions greedy = *options;
    greedy.temperature = 0;
    greedy.repetition_penalty = 1;
    greedy.n_stop = 0;
    greedy.max_tokens = (int)forced.count;
    SvPrompt start = *prompt;                               /* without its last ids, where they join the answer's */
    start.n_ids = begin;
    SvEvents watch = { .user = &forced, .logits = force,
                       .progress = events && events->progress ? force_progress : NULL };
    int result = sv_chat_prompt(chat, &start, &greedy, &watch, answer, error);
    if (result == 0 && forced.at < forced.count) {
        sv_answer_free(answer);
        result = sv_fail(error, "the choice \"%.80s\" does not fit into the model's context", text);
    }
    if (result == 0) *choice = (Choice){ text, forced.logprob, forced.count };
    free(ids);
    return result;
}

/* Scores each choice; the answer is the likeliest as a whole. */
static int choose(SvChat *chat, const SvModel *m, const SvPrompt *prompt, const Wish *wish, const SvOptions *options,
                  const SvEvents *events, SvAnswer *best, Report *report, SvError *error) {
    report->choices = calloc((size_t)wish->n_choices, sizeof *report->choices);
    if (!report->choices) return sv_fail(error, "out of memory");
    for (int i = 0; i < wish->n_choices; i++) {
        SvAnswer answer = { 0 };
        double times[3] = { best->vision_seconds, best->prefill_seconds, best->decode_seconds };
        int tiles = best->tiles;
        size_t kept = best->n_kept;
        Choice *choice = &report->choices[i];
        if (score_choice(chat, m, prompt, options, events, wish->choices[i], choice, &answer, error) != 0) {
            sv_answer_free(best);
            return -1;
        }
        if (i == 0) kept = answer.n_kept;
        times[0] += answer.vision_seconds, times[1] += answer.prefill_seconds, times[2] += answer.decode_seconds;
        tiles += answer.tiles;
        bool better = i == 0 || choice->logprob > report->choices[report->best].logprob;
        if (better) {
            SvAnswer other = *best;
            *best = answer;
            answer = other;
            report->best = i;
        }
        sv_answer_free(&answer);
        best->vision_seconds = times[0], best->prefill_seconds = times[1], best->decode_seconds = times[2];
        best->tiles = tiles;
        best->n_kept = kept;
        best->stopped = true;
        report->n_choices++;
    }
    return 0;
}

/* ------------------------------------------------------------------------------------------------------- the answer */

int ask(const SvModel *m, SvChat *chat, const SvPrompt *prompt, const Wish *wish, const SvOptions *options,
        const SvEvents *events, SvAnswer *answer, Report *report, SvError *error) {
    static const SvEvents none = { 0 };
    SvChat *own = NULL;
    int result = -1;
    *answer = (SvAnswer){ 0 };
    *report = (Report){ .row = (size_t)wish->logprobs + 1 };
    if (wish->n_choices > 0) {
        if (!chat && sv_chat_new(m, 0, options->threads, &own, error) != 0) return -1;
        result = choose(chat ? chat : own, m, prompt, wish, options, events, answer, report, error);
        sv_chat_free(own);
        return result;
    }
    Watch w = { .events = events ? events : &none, .wish = wish, .report = report,
                .logits = malloc(m->config.vocab_size * sizeof(float)) };
    SvEvents watch = { &w, watch_progress, watch_token, w.events->activation ? watch_activation : NULL, watch_logits };
    const SvEvents *heard = wish->logprobs > 0 || wish->guide ? &watch : events;
    int room = (int)m->config.max_position_embeddings - (int)prompt->n_ids;
    if (room > options->max_tokens) room = options->max_tokens;
    if (!w.logits) sv_fail(error, "out of memory");
    else if (wish->guide && options->n_stop > 0) sv_fail(error, "a stop text might cut an answer off before its end");
    else if (wish->guide && guide_begin(wish->guide, room, error) != 0) {}
    else if (chat) result = sv_chat_prompt(chat, prompt, options, heard, answer, error);
    else result = sv_generate(m, prompt, options, heard, answer, error);
    if (result == 0 && wish->guide && guide_complete(wish->guide)) answer->stopped = true;
    if (result == 0 && w.failed) {
        sv_answer_free(answer);
        result = sv_fail(error, "out of memory for the log-probabilities");
    }
    free(w.logits);
    return result;
}

void report_free(Report *report) {
    free(report->tokens);
    free(report->choices);
    *report = (Report){ 0 };
}

static void put_scored(FILE *out, const SvModel *m, const ScoredId *scored) {
    size_t size;
    const char *bytes = sv_token_bytes(m->tokenizer, scored->id, &size);
    fputs("{\"token\": ", out);
    json_put_string(out, bytes, size);
    fprintf(out, ", \"id\": %d, \"logprob\": %.6f", (int)scored->id, scored->logprob);
}

void put_report(FILE *out, const SvModel *m, const Report *r) {
    for (size_t i = 0; i < r->n_tokens; i++) {
        const ScoredId *row = r->tokens + i * r->row;
        fputs(i == 0 ? ", \"logprobs\": [" : ", ", out);
        put_scored(out, m, row);
        fputs(", \"top\": [", out);
        for (size_t k = 1; k < r->row && row[k].id >= 0; k++) {
            if (k > 1) fputs(", ", out);
            put_scored(out, m, &row[k]);
            putc('}', out);
        }
        fputs(i == r->n_tokens - 1 ? "]}]" : "]}", out);
    }
    for (int i = 0; i < r->n_choices; i++) {
        const Choice *c = &r->choices[i];
        fputs(i == 0 ? ", \"choices\": [{\"text\": " : ", {\"text\": ", out);
        json_put_string(out, c->text, strlen(c->text));
        fprintf(out, ", \"probability\": %.9g, \"logprob\": %.6f, \"tokens\": %zu, \"logprob_per_token\": %.6f}%s",
                exp(c->logprob), c->logprob, c->tokens, c->logprob / (double)c->tokens,
                i == r->n_choices - 1 ? "]" : "");
    }
}

int split_choices(char *text, const char ***choices, int *count, SvError *error) {
    size_t n = 1;
    for (const char *c = text; *c; c++) n += *c == '|';
    *count = 0;
    *choices = calloc(n, sizeof **choices);
    if (!*choices) return sv_fail(error, "out of memory");
    for (char *at = text; at; ) {
        char *bar = strchr(at, '|');
        (*choices)[(*count)++] = at;
        if (bar) *bar++ = 0;
        at = bar;
    }
    return 0;
}

int check_choices(const char *const *choices, int count, SvError *error) {
    for (int i = 0; i < count; i++) {
        if (blank(choices[i])) return sv_fail(error, "the choices have an empty one");
        for (int j = 0; j < i; j++)
            if (strcmp(choices[i], choices[j]) == 0)
                return sv_fail(error, "the choice \"%.80s\" is there twice", choices[i]);
    }
    return 0;
}

/* ----------------------------------------------------------------------------------------------------------- shapes */

static void put_words(SvBytes *text, const char *words) { sv_put(text, words, strlen(words)); }

/* What --fields names, "total, date", as a schema: an object of texts. */
static int fields_schema(const char *fields, SvBytes *text, SvError *error) {
    SvBytes names = { 0 };
    put_words(text, "{\"type\": \"object\", \"properties\": {");
    for (const char *at = fields; at; ) {
        const char *comma = strchr(at, ','), *end = comma ? comma : at + strlen(at);
        const char *next = comma ? comma + 1 : NULL, *between = at > fields ? ", " : "";
        at += strspn(at, " ");
        while (end > at && end[-1] == ' ') end--;
        if (end <= at) return free(names.data), sv_fail(error, "fields: one of them has no name");
        put_words(text, between);
        put_words(&names, between);
        json_write_string(json_to_bytes, text, at, (size_t)(end - at));
        json_write_string(json_to_bytes, &names, at, (size_t)(end - at));
        put_words(text, ": {\"type\": \"string\"}");
        at = next;
    }
    put_words(text, "}, \"required\": [");
    put_words(text, names.data);
    put_words(text, "], \"additionalProperties\": false}");
    text->failed = text->failed || names.failed;
    free(names.data);
    return 0;
}

int shape_set(Shape *shape, const SvModel *m, const Json *schema, const char *fields, SvError *error) {
    SvBytes text = { 0 };
    JsonDocument document = { 0 };
    SvError why;
    int result = -1;
    if (schema) json_write(json_to_bytes, &text, schema);
    else if (fields && fields_schema(fields, &text, error) != 0) goto done;
    else if (!fields) put_words(&text, "{\"type\": \"object\"}");
    if (text.failed) {
        sv_fail(error, "out of memory for the schema");
        goto done;
    }
    if (shape->guide && text.size == shape->text.size && memcmp(text.data, shape->text.data, text.size) == 0) {
        free(text.data);
        return 0;
    }
    guide_free(shape->guide);
    schema_free(shape->schema);
    free(shape->text.data);
    shape->guide = NULL;
    shape->schema = NULL;
    shape->text = (SvBytes){ 0 };
    if (!shape->vocabulary && schema_vocabulary_new(m, &shape->vocabulary, error) != 0) goto done;
    if (json_parse(text.data, text.size, fields ? "fields" : "schema", &document, error) != 0) goto done;
    if (schema_new(document.root, &shape->schema, &why) != 0) {
        sv_fail(error, "schema: %s", why.text);
        goto done;
    }
    if (guide_new(shape->schema, shape->vocabulary, &shape->guide, error) != 0) goto done;
    shape->text = text;
    text = (SvBytes){ 0 };
    result = 0;

done:
    json_free(&document);
    free(text.data);
    return result;
}

void shape_free(Shape *shape) {
    guide_free(shape->guide);
    schema_free(shape->schema);
    schema_vocabulary_free(shape->vocabulary);
    free(shape->text.data);
    *shape = (Shape){ 0 };
}
