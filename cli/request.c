/* request.c: answers one request of --jsonl: its JSON is read, the answer's JSON is written. */
#include "cli.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* The settings that a request may have, and the members of SvOptions that they set. */
enum { COUNT, NUMBER, FLAG };
#define INTO(field) offsetof(SvOptions, field)
static const struct Setting { const char *name; int kind; size_t field; int64_t low, high; } SETTINGS[] = {
    { "max_tokens", COUNT, INTO(max_tokens), 0, 1 << 24 },
    { "temperature", NUMBER, INTO(temperature), 0, 100 },
    { "top_k", COUNT, INTO(top_k), 0, 1 << 24 },
    { "top_p", NUMBER, INTO(top_p), 0, 1 },
    { "min_p", NUMBER, INTO(min_p), 0, 1 },
    { "repetition_penalty", NUMBER, INTO(repetition_penalty), 0, 100 },
    { "no_split", FLAG, INTO(no_split), 0, 1 },
    { "longest_edge", COUNT, INTO(longest_edge), 1, SV_MAX_SIDE },
};
enum { N_SETTINGS = sizeof SETTINGS / sizeof *SETTINGS };

static const char *const KEYS[] = {
    "id", "messages", "prompt", "images", "video", "system", "seed", "ids", "stop", "logprobs", "choices", "schema",
    "fields", "json_output", "stream",
    "max_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "no_split", "longest_edge", NULL
};

static int read_setting(const Json *value, const struct Setting *s, SvOptions *options, SvError *error) {
    void *field = (char *)options + s->field;
    int64_t whole = 0;
    bool number = value->kind == JSON_NUMBER && value->number >= (double)s->low && value->number <= (double)s->high;
    if (s->kind == FLAG) {
        if (value->kind != JSON_TRUE && value->kind != JSON_FALSE)
            return sv_fail(error, "\"%s\": %s, but must be true or false", s->name, json_kind(value));
        *(bool *)field = value->kind == JSON_TRUE;
    } else if (s->kind == NUMBER ? !number : !json_whole(value, s->low, s->high, &whole)) {
        return sv_fail(error, "\"%s\": must be a %snumber from %" PRId64 " to %" PRId64, s->name,
                       s->kind == NUMBER ? "" : "whole ", s->low, s->high);
    } else if (s->kind == NUMBER) {
        *(float *)field = (float)value->number;
    } else {
        *(int *)field = (int)whole;
    }
    return 0;
}

/* A seed may have 63 bits, more than a double holds exactly; so it is read from its digits. */
static int read_seed(const Json *value, uint64_t *seed, SvError *error) {
    uint64_t number = 0;
    bool whole = value->kind == JSON_NUMBER && value->size <= 19;
    for (size_t i = 0; whole && i < value->size; i++) {
        whole = value->text[i] >= '0' && value->text[i] <= '9';
        number = 10 * number + (uint64_t)(value->text[i] - '0');
    }
    if (!whole || number > INT64_MAX)
        return sv_fail(error, "\"seed\": must be a whole number from 0 to %" PRId64 ", in digits alone", INT64_MAX);
    *seed = number;
    return 0;
}

int json_texts(const Json *value, const char *name, const char ***texts, int *count, SvError *error) {
    *texts = NULL;
    *count = 0;
    if (!value) return 0;
    bool one = value->kind == JSON_STRING;
    if (!one && value->kind != JSON_ARRAY)
        return sv_fail(error, "\"%s\": %s, but must be a string or an array of strings", name, json_kind(value));
    *texts = calloc(value->count + 1, sizeof **texts);
    if (!*texts) return sv_fail(error, "out of memory");
    for (const Json *item = one ? value : value->first; item; item = one ? NULL : item->next) {
        if (item->kind != JSON_STRING || strlen(item->text) != item->size) {
            free(*texts);
            *texts = NULL;
            return sv_fail(error, item->kind != JSON_STRING ? "\"%s\": has something other than a string in it"
                                                            : "\"%s\": a zero byte in a text", name);
        }
        (*texts)[(*count)++] = item->text;
    }
    return 0;
}

/* Reads a string member; leaves *text unchanged if it is missing. */
static int read_text_member(const Json *root, const char *name, const char **text, SvError *error) {
    const Json *value = json_get(root, name);
    if (!value) return 0;
    if (value->kind != JSON_STRING) return sv_fail(error, "\"%s\": %s, but must be a string", name, json_kind(value));
    if (strlen(value->text) != value->size) return sv_fail(error, "\"%s\": a zero byte in the text", name);
    *text = value->text;
    return 0;
}

/* Makes the conversation of a request: of its messages, or of its system, prompt, images and videos. */
static int read_conversation(const Json *root, const SvModel *m, const Arguments *a, Conversation *talk,
                             SvError *error) {
    const Json *messages = json_get(root, "messages"), *prompt_given = json_get(root, "prompt");
    const char *prompt = NULL, *system = a->system, **images, **videos;
    int n_images, n_videos, result = -1;
    if (!messages == !prompt_given) return sv_fail(error, "\"messages\" or \"prompt\": one of the two");
    if (messages && json_get(root, "system"))
        return sv_fail(error, "\"system\" goes not with \"messages\", which are the whole conversation");
    if (read_text_member(root, "prompt", &prompt, error) != 0) return -1;
    if (read_text_member(root, "system", &system, error) != 0) return -1;
    if (prompt && blank(prompt)) return sv_fail(error, "\"prompt\": is empty");
    if (json_texts(json_get(root, "images"), "images", &images, &n_images, error) != 0) return -1;
    if (json_texts(json_get(root, "video"), "video", &videos, &n_videos, error) != 0) return free(images), -1;
    size_t count = (size_t)n_images + (size_t)n_videos;
    const char **files = calloc(count + 1, sizeof *files);
    bool *film = calloc(count + 1, sizeof *film);
    const ClipOptions clips = { m, a->rate, a->fps, a->frames, a->options.paint ? a->options.background : NULL, film };
    if (!files || !film) sv_fail(error, "out of memory");
    for (size_t i = 0; files && film && i < count; i++) {
        film[i] = i >= (size_t)n_images;
        files[i] = film[i] ? videos[i - (size_t)n_images] : images[i];
        if (strcmp(files[i], "-") == 0) files[i] = "./-";   /* stdin has the requests */
    }
    if (files && film)
        result = messages ? conversation_read(messages, "", files, (int)count, &clips, talk, error)
                          : conversation_ask(system, prompt, files, (int)count, false, &clips, talk, error);
    free(files);
    free(film);
    free(images);                                           /* the strings belong to the document */
    free(videos);
    return result;
}

/* A request that is being answered. notes: remarks about its pictures, such as damage or transparency. */
typedef struct Request {
    SvOptions options;
    const char **stop, **choices;
    char *split;                                            /* memory of the parts of "a|b" */
    Wish wish;
    Report report;
    bool ids, stream;
    SvError *notes;
    int n_notes;
    double image_seconds;
} Request;

/* A line of the output, up to what follows the request's id. */
static void begin_line(FILE *out, const Json *id) {
    fputs("{\"id\": ", out);
    if (id) json_put(out, id);
    else fputs("null", out);
}

static void put_answer(FILE *out, const SvModel *m, const Json *id, const Request *r, const SvPrompt *prompt,
                       const SvAnswer *answer) {
    begin_line(out, id);
    size_t space = strspn(answer->text, " \t\r\n");         /* it belongs to the end of the prompt */
    fputs(", \"text\": ", out);
    json_put_string(out, answer->text + space, answer->size - space);
    fprintf(out, ", \"finish_reason\": \"%s\", \"usage\": {\"prompt_tokens\": %zu, \"completion_tokens\": %zu, "
            "\"total_tokens\": %zu, \"cached_tokens\": %zu}, \"timings\": {\"image\": %.6f, \"vision\": %.6f, "
            "\"prefill\": %.6f, \"decode\": %.6f}", answer->stopped ? "stop" : "length", prompt->n_ids, answer->n_ids,
            prompt->n_ids + answer->n_ids, answer->n_kept, r->image_seconds, answer->vision_seconds,
            answer->prefill_seconds, answer->decode_seconds);
    if (r->ids) {
        fputs(", \"ids\": [", out);
        put_ids(out, answer->ids, answer->n_ids, ", ");
        fputs("], \"prompt_ids\": [", out);
        put_ids(out, prompt->ids, prompt->n_ids, ", ");
        fputs("]", out);
    }
    put_report(out, m, &r->report);
    for (int i = 0; i < r->n_notes; i++) {
        fputs(i == 0 ? ", \"notes\": [" : ", ", out);
        json_put_string(out, r->notes[i].text, strlen(r->notes[i].text));
        if (i == r->n_notes - 1) putc(']', out);
    }
    fputs("}\n", out);
}

/* "stream": writes a line for each piece of the text, before the line of the whole answer. */
typedef struct Stream { FILE *out; const Json *id; bool started; } Stream;

static bool put_piece(void *user, int32_t token, const char *text, size_t size) {
    Stream *s = user;
    (void)token;
    while (!s->started && size > 0 && memchr(" \n\t\r", *text, 4)) text++, size--;
    if (size == 0) return false;
    s->started = true;
    begin_line(s->out, s->id);
    fputs(", \"delta\": ", s->out);
    json_put_string(s->out, text, size);
    fputs("}\n", s->out);
    return fflush(s->out) != 0;
}

/* Copies the notes of the pictures, which are freed before the answer is written. */
static int keep_notes(const Conversation *talk, Request *r, SvError *error) {
    r->notes = calloc((size_t)talk->n_images + (size_t)talk->n_clips + 1, sizeof *r->notes);
    if (!r->notes) return sv_fail(error, "out of memory");
    for (int i = 0; i < talk->n_images; i++) {
        const SvImage *image = &talk->images[i];
        if (image->note.text[0] && !(image->alpha && r->options.paint)) r->notes[r->n_notes++] = image->note;
    }
    for (int i = 0; i < talk->n_clips; i++)
        if (talk->clips[i].note.text[0]) r->notes[r->n_notes++] = talk->clips[i].note;
    return 0;
}

/* Choices: a list, or a text with | between them as on the command line. */
static int read_choices(const Json *value, const Arguments *a, Request *r, SvError *error) {
    const char *given = value && value->kind == JSON_STRING ? value->text : value ? NULL : a->choices;
    if (given) {
        r->split = malloc(strlen(given) + 1);
        if (!r->split) return sv_fail(error, "out of memory");
        strcpy(r->split, given);
        if (split_choices(r->split, &r->choices, &r->wish.n_choices, error) != 0) return -1;
    } else if (json_texts(value, "choices", &r->choices, &r->wish.n_choices, error) != 0) {
        return -1;
    }
    r->wish.choices = r->choices;
    if (value && r->wish.n_choices == 0) return sv_fail(error, "\"choices\": there are none");
    return check_choices(r->choices, r->wish.n_choices, error);
}

/* The schema that the answer must follow: the request's, otherwise the command line's. */
static int read_shape(Answerer *answerer, const Json *root, Request *r, SvError *error) {
    const Arguments *a = answerer->arguments;
    const Json *schema = json_get(root, "schema"), *names = json_get(root, "fields");
    const Json *any = json_get(root, "json_output");
    const char **list = NULL, *fields = names || schema || any ? NULL : a->fields;
    SvBytes joined = { 0 };
    int n = 0;
    if (any && any->kind != JSON_TRUE && any->kind != JSON_FALSE)
        return sv_fail(error, "\"json_output\": %s, but must be true or false", json_kind(any));
    bool wants = any && any->kind == JSON_TRUE;
    if ((schema != NULL) + (names != NULL) + wants > 1)
        return sv_fail(error, "\"schema\", \"fields\", \"json_output\": one of them");
    if (!schema && !names && !any) schema = answerer->schema.root, wants = a->json_output;
    if (!schema && !names && !fields && !wants) return 0;
    if (r->wish.n_choices > 0) return sv_fail(error, "choices and a shape for the answer: one of the two");
    if (json_texts(names, "fields", &list, &n, error) != 0) return -1;
    for (int i = 0; i < n; i++) {
        size_t size = strlen(list[i]);
        if (names->kind == JSON_ARRAY &&
            (strchr(list[i], ',') || list[i][0] == ' ' || (size > 0 && list[i][size - 1] == ' '))) {
            sv_fail(error, "\"fields\": \"%.80s\": a comma, or a space at an end, takes a \"schema\"", list[i]);
            free(joined.data);
            free(list);
            return -1;
        }
        if (i > 0) sv_put(&joined, ",", 1);
        sv_put(&joined, list[i], strlen(list[i]));
    }
    free(list);
    if (names) fields = joined.data ? joined.data : "";
    int result = joined.failed ? sv_fail(error, "out of memory")
                               : shape_set(&answerer->shape, answerer->model, schema, fields, error);
    r->wish.guide = answerer->shape.guide;
    free(joined.data);
    return result;
}

static int read_request(const Json *root, const Arguments *a, Request *r, SvError *error) {
    r->options = a->options;
    if (json_known(root, "", KEYS, error) != 0) return -1;
    for (int i = 0; i < N_SETTINGS; i++) {
        const Json *value = json_get(root, SETTINGS[i].name);
        if (value && read_setting(value, &SETTINGS[i], &r->options, error) != 0) return -1;
    }
    const Json *logprobs = json_get(root, "logprobs"), *choices = json_get(root, "choices");
    int64_t whole = a->logprobs;
    if (logprobs && !json_whole(logprobs, 0, MOST_LOGPROBS, &whole))
        return sv_fail(error, "\"logprobs\": must be a whole number from 0 to %d", MOST_LOGPROBS);
    r->wish.logprobs = (int)whole;
    if (read_choices(choices, a, r, error) != 0) return -1;
    const Json *seed = json_get(root, "seed"), *ids = json_get(root, "ids"), *stop = json_get(root, "stop");
    if (stop && json_texts(stop, "stop", &r->stop, &r->options.n_stop, error) != 0) return -1;
    if (stop) r->options.stop = r->stop;
    if (seed && read_seed(seed, &r->options.seed, error) != 0) return -1;
    if (ids && ids->kind != JSON_TRUE && ids->kind != JSON_FALSE)
        return sv_fail(error, "\"ids\": %s, but must be true or false", json_kind(ids));
    r->ids = ids && ids->kind == JSON_TRUE;
    const Json *stream = json_get(root, "stream");
    if (stream && stream->kind != JSON_TRUE && stream->kind != JSON_FALSE)
        return sv_fail(error, "\"stream\": %s, but must be true or false", json_kind(stream));
    r->stream = stream && stream->kind == JSON_TRUE;
    if (r->stream && a->resume) return sv_fail(error, "\"stream\" goes not with --resume");
    if (r->stream && r->wish.n_choices > 0) return sv_fail(error, "\"stream\" goes not with choices");
    return 0;
}

int answer_request(Answerer *answerer, const Json *root, FILE *out, SvError *error) {
    const SvModel *m = answerer->model;
    Request r = { 0 };
    Conversation talk = { 0 };
    SvPrompt prompt = { 0 };
    SvAnswer answer = { 0 };
    double start = sv_seconds();
    int result = -1;
    if (read_request(root, answerer->arguments, &r, error) != 0) goto done;
    if (read_shape(answerer, root, &r, error) != 0) goto done;
    if (read_conversation(root, answerer->model, answerer->arguments, &talk, error) != 0) goto done;
    if (keep_notes(&talk, &r, error) != 0) goto done;
    if (sv_prompt(m, talk.messages, talk.count, &r.options, &prompt, error) != 0) goto done;
    conversation_free(&talk);
    r.image_seconds = sv_seconds() - start;
    if (!answerer->chat && sv_chat_new(m, 0, r.options.threads, &answerer->chat, error) != 0) goto done;
    Stream stream = { .out = out, .id = json_get(root, "id") };
    const SvEvents events = { .user = &stream, .token = r.stream ? put_piece : NULL };
    result = ask(m, answerer->chat, &prompt, &r.wish, &r.options, &events, &answer, &r.report, error);
    if (result == 0) put_answer(out, m, json_get(root, "id"), &r, &prompt, &answer);

done:
    conversation_free(&talk);
    sv_prompt_free(&prompt);
    sv_answer_free(&answer);
    free(r.notes);
    free(r.stop);
    free(r.choices);
    free(r.split);
    report_free(&r.report);
    return result;
}

void answerer_free(Answerer *answerer) {
    sv_chat_free(answerer->chat);
    answerer->chat = NULL;
    shape_free(&answerer->shape);
    json_free(&answerer->schema);
}
