/* main.c: the program's entry point. To answer a question it needs smolvlm.h alone. */
#if !defined(_WIN32)
#define _POSIX_C_SOURCE 200809L
#endif
#include "cli.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#if defined(__unix__) || defined(__APPLE__)
#include <fcntl.h>
#include <unistd.h>
#define stderr_is_terminal() isatty(2)
#else
#define stderr_is_terminal() 0
#endif

/* ---------------------------------------------------------------------------------------------- progress and output */

typedef struct Show {
    const Arguments *arguments;
    Dumps dumps;
    bool terminal, line_open, started;
    int tokens;
} Show;

/* On a terminal, one line that is overwritten each time; elsewhere, a new line each time. It returns true, which
   stops the computation, if a dump could not be written. */
static bool show_progress(void *user, const char *phase, int at, int total) {
    Show *show = user;
    if (show->arguments->quiet) return show->dumps.failed;
    fprintf(stderr, show->terminal ? "\r%s %d/%d\x1b[K" : "%s %d/%d\n", phase, at, total);
    show->line_open = show->terminal;
    return show->dumps.failed;
}

static void end_progress(Show *show) {
    if (show->line_open) fputs("\r\x1b[K", stderr);
    show->line_open = false;
}

/* Streams the answer. White space before its first word is dropped: it belongs to the end of the prompt. */
static bool show_token(void *user, int32_t id, const char *text, size_t size) {
    Show *show = user;
    (void)id;
    if (show->arguments->json) {
        if (show->terminal) show_progress(show, "token", ++show->tokens, show->arguments->options.max_tokens);
        return show->dumps.failed;
    }
    end_progress(show);
    while (!show->started && size > 0 && memchr(" \n\t\r", *text, 4)) text++, size--;
    if (size > 0) show->started = true;
    fwrite(text, 1, size, stdout);
    fflush(stdout);
    return ferror(stdout) != 0 || show->dumps.failed;
}

static void show_activation(void *user, const SvActivation *activation) {
    Show *show = user;
    dump_activation(&show->dumps, activation);
}

/* -------------------------------------------------------------------------------------------------- what is printed */

/* The prompt as the model gets it. A run of image tokens is printed as "<image>x64". */
static void print_prompt(const SvModel *m, const char *text) {
    SvString token = m->config.image_token;
    while (*text) {
        size_t run = 0;
        for (; token.size && strncmp(text, token.data, token.size) == 0; text += token.size) run++;
        if (run) printf("%.*s\xc3\x97%zu", (int)token.size, token.data, run);
        else putchar(*text++);
    }
    putchar('\n');
}

static double rate(double count, double seconds) { return seconds > 0 && count > 0 ? count / seconds : 0; }

/* Tokens per second. The prefill already yields an answer's first token; each further one takes a decoding step. */
static double decode_rate(const SvAnswer *a) {
    return rate((double)a->n_ids - (a->stopped ? 0 : 1), a->decode_seconds);
}

static void print_json(const SvModel *m, const SvPrompt *prompt, const SvAnswer *a, const Report *report, double load,
                       double image) {
    fputs("{\"text\": ", stdout);
    json_put_string(stdout, a->text ? a->text : "", a->size);
    fputs(", \"ids\": [", stdout);
    put_ids(stdout, a->ids, a->n_ids, ", ");
    fputs("], \"prompt_ids\": [", stdout);
    put_ids(stdout, prompt->ids, prompt->n_ids, ", ");
    putchar(']');
    put_report(stdout, m, report);
    printf(", \"finish_reason\": \"%s\", \"timings\": {\"load\": %.6f, \"image\": %.6f, \"vision\": %.6f, "
           "\"prefill\": %.6f, \"decode\": %.6f}, \"tokens_per_second\": {\"prefill\": %.3f, \"decode\": %.3f}}\n",
           a->stopped ? "stop" : "length", load, image, a->vision_seconds, a->prefill_seconds, a->decode_seconds,
           rate((double)prompt->n_ids, a->prefill_seconds), decode_rate(a));
}

static void print_timings(const Arguments *arguments, const SvPrompt *prompt, const SvAnswer *a, double load,
                          double image) {
    int most = arguments->options.max_tokens;
    const char *cut = a->stopped || most == 0 ? "" :
                      a->n_ids == (size_t)most ? ", cut off there (-n)" : ", the context is full";
    fflush(stdout);                                         /* so that stdout comes first if both go to one file */
    fprintf(stderr, "load %.2f s, image %.2f s, vision %.2f s (%d tile%s), prefill %.2f s (%zu tokens, %.1f/s), "
            "decode %.2f s (%zu tokens, %.1f/s)%s\n", load, image, a->vision_seconds, prompt->n_tiles,
            prompt->n_tiles == 1 ? "" : "s", a->prefill_seconds, prompt->n_ids,
            rate((double)prompt->n_ids, a->prefill_seconds), a->decode_seconds, a->n_ids, decode_rate(a), cut);
}

/* --------------------------------------------------------------------------------------------------- the three uses */

static int tokenize(const SvModel *m) {
    SvError error;
    size_t size, count;
    int32_t *ids;
    char *text = read_text(stdin, STDIN, &size);
    if (!text) return 1;
    int result = sv_tokenize(m->tokenizer, text, size, &ids, &count, &error);
    free(text);
    if (result != 0) return complain("%s", error.text);
    put_ids(stdout, ids, count, " ");
    putchar('\n');
    free(ids);
    return 0;
}

static int detokenize(const SvModel *m) {
    SvError error;
    size_t size, count = 0, out_size;
    char *text = read_text(stdin, STDIN, &size), *at = text, *out;
    if (!text) return 1;
    int32_t *ids = malloc((size / 2 + 1) * sizeof *ids);
    int result = ids ? 0 : complain("standard input: out of memory");
    while (result == 0 && at[strspn(at, " \t\r\n,[]")]) {
        char *end;
        at += strspn(at, " \t\r\n,[]");
        long long id = strtoll(at, &end, 10);
        size_t length = strcspn(at, " \t\r\n,[]");
        if (end != at + length || id < 0 || id >= (long long)m->config.vocab_size)
            result = complain("standard input: '%.*s' is not a token id", length < 40 ? (int)length : 40, at);
        else ids[count++] = (int32_t)id;
        at = end;
    }
    if (result == 0 && at + strlen(at) != text + size) result = complain("standard input: a zero byte among the ids");
    if (result == 0 && sv_detokenize(m->tokenizer, ids, count, &out, &out_size, &error) != 0)
        result = complain("%s", error.text);
    if (result == 0) {
        fwrite(out, 1, out_size, stdout);
        free(out);
    }
    free(ids);
    free(text);
    return result;
}

static int answer(const Arguments *a, const SvModel *m, double load_seconds) {
    SvError error;
    SvPrompt prompt = { 0 };
    SvAnswer result = { 0 };
    Report report = { 0 };
    const char **choices = NULL;
    Wish wish = { .logprobs = a->logprobs };
    Conversation talk = { 0 };
    JsonDocument document = { 0 }, schema = { 0 };
    Shape shape = { 0 };
    Show show = { .arguments = a, .dumps = { .directory = a->dump }, .terminal = stderr_is_terminal() };
    SvEvents events = { .user = &show, .progress = show_progress, .token = show_token,
                        .activation = a->dump ? show_activation : NULL };
    const ClipOptions clips = { m, a->rate, a->fps, a->frames, a->options.paint ? a->options.background : NULL,
                                a->videos };
    int code = 1;
    if ((a->dump && !directory_ready(a->dump)) || (a->tiles && !directory_ready(a->tiles))) goto done;

    if (a->choices && split_choices(a->choices, &choices, &wish.n_choices, &error) != 0) goto failed;
    if (check_choices(choices, wish.n_choices, &error) != 0) goto failed;
    wish.choices = choices;
    if (a->schema && read_json(a->schema, &schema, &error) != 0) goto failed;
    if ((a->schema || a->fields || a->json_output) && shape_set(&shape, m, schema.root, a->fields, &error) != 0)
        goto failed;
    wish.guide = shape.guide;
    double start = sv_seconds();
    if (a->messages ? conversation_file(a->messages, a->images, a->n_images, &clips, &document, &talk, &error)
                    : conversation_ask(a->system, a->prompt, a->images, a->n_images, a->raw, &clips, &talk, &error))
        goto failed;
    for (int i = 0; i < talk.n_clips; i++)
        if (talk.clips[i].note.text[0] && !a->quiet) complain("%s", talk.clips[i].note.text);
    for (int i = 0, k = 0; k < talk.n_contents; k++) {
        const SvImage *image = talk.contents[k].image;
        char name[48];
        if (!image) {
            i += talk.contents[k].video != NULL;
            continue;
        }
        if (image->note.text[0] && !(image->alpha && a->options.paint))
            complain("%s%s", image->note.text, image->alpha ? " (--background white paints them over)" : "");
        snprintf(name, sizeof name, "image%d.ppm", i++);
        if (a->tiles && !write_ppm(a->tiles, name, image->rgb, image->width, image->height)) goto done;
    }
    if (a->raw ? sv_prompt_raw(m, a->prompt, talk.contents, a->n_images, &a->options, &prompt, &error)
               : sv_prompt(m, talk.messages, talk.count, &a->options, &prompt, &error)) goto failed;
    conversation_free(&talk);
    double image_seconds = sv_seconds() - start;

    if (a->tiles && !write_tiles(a->tiles, &prompt)) goto done;
    int all = prompt.n_tiles ? prompt.n_tiles : (int)prompt.n_ids;
    if (a->options.max_tokens > 0) show_progress(&show, prompt.n_tiles ? "tile" : "prefill", 0, all);
    bool answered = (a->options.max_tokens == 0 && !choices) ||
                    ask(m, NULL, &prompt, &wish, &a->options, &events, &result, &report, &error) == 0;
    bool gave_up = show.dumps.failed;                       /* the reason was already printed */
    end_progress(&show);
    if (!dump_close(&show.dumps, answered) || gave_up) goto done;
    if (!answered) goto failed;
    if (a->dump && !dump_ids(a->dump, &prompt)) goto done;
    if (a->json) print_json(m, &prompt, &result, &report, load_seconds, image_seconds);
    else if (choices) puts(choices[report.best]);
    else if (a->options.max_tokens > 0) putchar('\n');
    else print_prompt(m, prompt.text);
    if (!a->quiet) print_timings(a, &prompt, &result, load_seconds, image_seconds);
    code = 0;
    goto done;

failed:
    if (error.text[0]) complain("%s", error.text);
done:
    conversation_free(&talk);
    json_free(&document);
    sv_prompt_free(&prompt);
    sv_answer_free(&result);
    report_free(&report);
    shape_free(&shape);
    json_free(&schema);
    free(choices);
    return code;
}

/* Threads wait for each other about a hundred times per token. By default libgomp spins for milliseconds at a barrier,
   which is fifty times slower when other programs use the cores; sleeping at once halves the speed on idle cores. 50 us
   of spinning is best in both cases (measured on x86-64 only). libgomp reads GOMP_SPINCOUNT before main begins, so the
   program sets it and executes itself once more. It does not if the user has set the variable (needed under valgrind),
   or if another program, such as the dynamic linker, started this one. */
static void let_waiting_threads_sleep(char **argv) {
#if defined(__linux__) && defined(__x86_64__) && defined(_OPENMP) && !defined(__clang__)
    char path[4096];
    ssize_t size = argv[0] ? readlink("/proc/self/exe", path, sizeof path - 1) : -1;
    if (size < 0 || getenv("OMP_WAIT_POLICY") || getenv("GOMP_SPINCOUNT")) return;
    path[size] = 0;
    const char *name = strrchr(argv[0], '/'), *own = strrchr(path, '/');
    if (own && strcmp(name ? name + 1 : argv[0], own + 1) == 0 && setenv("GOMP_SPINCOUNT", "2000", 0) == 0)
        execv(path, argv);
#else
    (void)argv;
#endif
}

int main(int argc, char **argv) {
#if defined(__unix__) || defined(__APPLE__)
    int fd;     /* if stdout is closed, put a read-only /dev/null there, so that no other file takes its place */
    while ((fd = open("/dev/null", O_RDONLY)) >= 0 && fd <= 2) {}
    if (fd > 2) close(fd);
#endif
    let_waiting_threads_sleep(argv);
    argv = sv_arguments(&argc, argv);
    unsigned code_page = sv_console(0);
    Arguments a = { .options = sv_default_options() };
    a.images = calloc((size_t)argc + 1, sizeof *a.images);
    a.videos = calloc((size_t)argc + 1, sizeof *a.videos);
    a.options.stop = a.stops = calloc((size_t)argc + 1, sizeof *a.stops);
    if (!a.images || !a.videos || !a.stops) return complain("out of memory");
    int code = parse_arguments(argc, argv, &a);
    if (code < 0 && a.implied && ungetc(getc(stdin), stdin) == EOF) code = no_question();
    if (code < 0 && a.prompt && !find_text(&a.prompt, &a.texts[0])) code = 1;
    if (code < 0 && a.system && !find_text(&a.system, &a.texts[1])) code = 1;
    const SvKernels *chosen = NULL;
    for (int i = 0; a.kernels && sv_kernels(i); i++)
        if (!chosen && strcmp(a.kernels, sv_kernels(i)->name) == 0) chosen = sv_kernels(i);
    if (code < 0 && a.kernels && !chosen)
        code = misused("--kernels %s: not a set that this machine can run, which --selftest lists", a.kernels);
    if (code < 0) {
        SvError error;
        SvModel *model;
        double start = sv_seconds();
        if (sv_open(a.model, &model, &error) != 0) {
            code = complain("%s", error.text);
        } else {
            double load = sv_seconds() - start;
            if (chosen) model->kernels = chosen;
            if (a.info) code = print_info(model, a.options.threads);
            else if (a.selftest) code = selftest(model, chosen, a.options.threads);
            else if (a.hessians) code = gather_hessians(&a, model);
            else if (a.tokenize) code = tokenize(model);
            else if (a.detokenize) code = detokenize(model);
            else if (a.jsonl) code = jsonl(&a, model);
            else if (a.talk) code = talk(&a, model);
            else code = answer(&a, model, load);
            sv_close(model);
        }
    }
    if ((fflush(stdout) != 0 || ferror(stdout)) && code == 0) code = complain("stdout: could not be written");
    sv_console(code_page);
    free(a.texts[0]);
    free(a.texts[1]);
    free(a.images);
    free(a.videos);
    free(a.stops);
    return code;
}
