/* jsonl.c: --jsonl reads requests from stdin, one per line, and writes their answers in the same order.

     {"id": 7, "prompt": "What is this?", "images": ["photo.jpg"]}
       | a conversation and its options; the command line's options are the defaults
       | sv_chat_prompt: a beginning in common with the last request, and tiles seen before, are not computed again
     {"id": 7, "text": "A cat.", "finish_reason": "stop", "usage": {...}, "timings": {...}}
     {"id": 8, "error": "none.jpg: cannot be opened: No such file or directory"}

   --resume OUT: the answers are appended to OUT, and requests whose ids are already in it are skipped. If a process was
   killed while it wrote a line, OUT ends with an incomplete line, which is removed first. */
#if !defined(_WIN32)
#define _POSIX_C_SOURCE 200809L
#endif
#include "cli.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#if defined(__unix__) || defined(__APPLE__)
#include <fcntl.h>
#include <unistd.h>
#define POSIX
#endif

/* ------------------------------------------------------------------------------------------------------------ lines */

enum { LONGEST_LINE = 1 << 28 };                            /* it may contain a picture in base64 */

/* complete: it had a line end. too_long: it had more than LONGEST_LINE bytes; the rest was dropped. */
typedef struct Line { char *text; size_t size, room; bool complete, too_long; } Line;

/* Reads the next line, without its end. Returns false if there is none, or, with a complaint, if out of memory. */
static bool read_line(FILE *file, Line *line) {
    int c;
    line->size = 0;
    line->complete = line->too_long = false;
    while ((c = getc(file)) != EOF) {
        if (c == '\n') {
            line->complete = true;
            break;
        }
        if (line->size == LONGEST_LINE) line->too_long = true;
        if (line->too_long) continue;
        if (line->size + 1 >= line->room) {
            size_t room = 2 * line->room + 4096;
            char *grown = realloc(line->text, room);
            if (!grown) return complain("out of memory for a line of %zu bytes", line->size), false;
            line->text = grown;
            line->room = room;
        }
        line->text[line->size++] = (char)c;
    }
    return line->complete || line->size > 0;
}

/* ------------------------------------------------------------------------------------------------- the ids in OUT */

/* A set of texts: a hash table with open addressing, at most half full. */
typedef struct Names { char **list; size_t room, count; } Names;

static size_t place_of(const Names *names, const char *name) {
    uint64_t hash = 0xcbf29ce484222325u;
    for (const char *c = name; *c; c++) hash = (hash ^ (uint8_t)*c) * 0x100000001b3u;
    size_t at = (size_t)(hash ^ hash >> 32) & (names->room - 1);
    while (names->list[at] && strcmp(names->list[at], name) != 0) at = (at + 1) & (names->room - 1);
    return at;
}

static bool has_name(const Names *names, const char *name) { return names->room && names->list[place_of(names, name)]; }

/* Adds a name to the set and takes ownership of it. Returns false if out of memory. */
static bool add_name(Names *names, char *name) {
    if (!name) return false;
    if (2 * names->count >= names->room) {
        Names larger = { .room = names->room ? 2 * names->room : 1024 };
        larger.list = calloc(larger.room, sizeof *larger.list);
        if (!larger.list) return free(name), false;
        for (size_t i = 0; i < names->room; i++)
            if (names->list[i]) larger.list[place_of(&larger, names->list[i])] = names->list[i];
        larger.count = names->count;
        free(names->list);
        *names = larger;
    }
    char **place = &names->list[place_of(names, name)];
    if (*place) free(name);
    else *place = name, names->count++;
    return true;
}

static void free_names(Names *names) {
    for (size_t i = 0; i < names->room; i++) free(names->list[i]);
    free(names->list);
}

/* Whether an id is valid: a string or a whole number. */
static bool is_id(const Json *id) {
    int64_t whole;
    return id && ((id->kind == JSON_STRING && strlen(id->text) == id->size) ||
                  json_whole(id, -(INT64_C(1) << 53), INT64_C(1) << 53, &whole));
}

/* The name of a request in the set: a letter and its id, so that 7 and "7" differ; without an id, its line number. The
   caller frees it. NULL if out of memory. */
static char *name_of(const Json *id, int64_t line) {
    size_t size = is_id(id) ? id->size : 24;
    char *name = malloc(size + 2);
    if (!name) return NULL;
    if (is_id(id)) snprintf(name, size + 2, "%c%.*s", id->kind == JSON_STRING ? 's' : 'n', (int)size, id->text);
    else snprintf(name, size + 2, "l%" PRId64, line);
    return name;
}

/* Reads the ids in OUT, and removes an incomplete last line. */
static bool read_names(FILE *file, const char *path, Names *names) {
    Line line = { 0 };
    uint64_t whole = 0;
    int64_t number = 0, n = 0;
    bool ok = true, torn = false;
    rewind(file);
    while (ok && !torn && read_line(file, &line)) {
        JsonDocument document = { 0 };
        SvError error;
        n++;
        torn = !line.complete;
        if (torn) break;
        whole += line.size + 1;
        ok = !line.too_long && json_parse(line.text, line.size, "answer", &document, &error) == 0;
        const Json *id = ok ? json_get(document.root, "id") : NULL, *at = ok ? json_get(document.root, "line") : NULL;
        ok = id && (is_id(id) || (at && json_whole(at, 1, INT64_C(1) << 53, &number)));
        if (!ok) complain("%s: line %" PRId64 " is no answer of --jsonl", path, n);
        else if (!add_name(names, name_of(id, number))) ok = !complain("%s: out of memory", path);
        json_free(&document);
    }
    free(line.text);
    if (ok && ferror(file)) ok = !complain("%s: %s", path, strerror(errno));
    if (ok && torn && sv_truncate(file, whole) != 0) ok = !complain("%s: %s", path, strerror(errno));
    if (ok && fseek(file, 0, SEEK_END) != 0) ok = !complain("%s: %s", path, strerror(errno));
    return ok;
}

/* Opens OUT for appending, and locks it against other processes. */
static FILE *open_answers(const char *path, Names *names) {
    FILE *file = sv_fopen(path, "ab+");
    if (!file) {
        complain("%s: %s", path, strerror(errno));
        return NULL;
    }
#if defined(POSIX)
    struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
    if (fcntl(fileno(file), F_SETLK, &lock) != 0 && (errno == EACCES || errno == EAGAIN)) {
        complain("%s: another process writes to it", path);
        fclose(file);
        return NULL;
    }
#endif
    if (read_names(file, path, names)) return file;
    fclose(file);
    return NULL;
}

/* ---------------------------------------------------------------------------------------------------------- SIGTERM */

#if defined(POSIX)
static volatile sig_atomic_t told_to_end;
static int nothing = -1;                                    /* /dev/null */

/* Makes stdin end, also for a read that is waiting or just begins. A second SIGTERM ends the program at once. */
static void end_soon(int signal_number) {
    int kept = errno;
    told_to_end = 1;
    if (nothing >= 0) dup2(nothing, 0);
    signal(signal_number, SIG_DFL);
    errno = kept;
}

static void listen_for_end(void) {
    struct sigaction action = { .sa_handler = end_soon, .sa_flags = SA_RESTART };    /* ffprobe's words are read on */
    nothing = open("/dev/null", O_RDONLY);
    sigemptyset(&action.sa_mask);
    sigaction(SIGTERM, &action, NULL);
}
#else
enum { told_to_end = 0 };
static void listen_for_end(void) {}
#endif

/* --------------------------------------------------------------------------------------------------------- the loop */

static void put_error(FILE *out, const Json *id, int64_t line, const char *what) {
    fputs("{\"id\": ", out);
    if (is_id(id)) json_put(out, id);
    else fprintf(out, "null, \"line\": %" PRId64, line);
    fputs(", \"error\": ", out);
    json_put_string(out, what, strlen(what));
    fputs("}\n", out);
}

/* Answers one request. Returns false if it wrote an error instead. */
static bool take(const Json *root, int64_t line, bool needs_id, Answerer *answerer, FILE *out) {
    const Json *id = json_get(root, "id");
    SvError error;
    if (root->kind != JSON_OBJECT) sv_fail(&error, "the request is %s, but must be an object", json_kind(root));
    else if (id && id->kind != JSON_NULL && !is_id(id)) sv_fail(&error, "\"id\": neither a string nor a whole number");
    else if (needs_id && !is_id(id)) sv_fail(&error, "--resume needs an \"id\" in each request");
    else if (answer_request(answerer, root, out, &error) == 0) return true;
    else if (told_to_end && needs_id) return false;         /* ffmpeg was told, too? It is tried again on --resume */
    put_error(out, id, line, error.text);
    return false;
}

int jsonl(const Arguments *a, const SvModel *m) {
    Names names = { 0 };
    FILE *out = a->resume ? open_answers(a->resume, &names) : stdout;
    Answerer answerer = { .arguments = a, .model = m };
    Line line = { 0 };
    int64_t number = 0, answered = 0, failed = 0, skipped = 0;
    int code = 0;
    double start = sv_seconds();
    SvError why;
    if (!out) code = 1;
    if (code == 0 && a->schema && read_json(a->schema, &answerer.schema, &why) != 0)
        code = why.text[0] ? complain("%s", why.text) : 1;
    listen_for_end();
    while (code == 0 && !told_to_end && read_line(stdin, &line)) {
        JsonDocument document = { 0 };
        SvError error;
        number++;
        if (told_to_end && !line.complete) break;           /* SIGTERM cut this line short */
        size_t space = 0;
        while (space < line.size && strchr(" \t\r", line.text[space]) && line.text[space]) space++;
        if (space == line.size && !line.too_long) continue;
        bool bad = line.too_long ? sv_fail(&error, "more than %d bytes", LONGEST_LINE) != 0
                                 : json_parse(line.text, line.size, "request", &document, &error) != 0;
        const Json *id = bad ? NULL : json_get(document.root, "id");
        char *name = a->resume ? name_of(id, number) : NULL;
        if (a->resume && name && has_name(&names, name)) {
            skipped++;
            free(name);
        } else {
            if (bad) put_error(out, NULL, number, error.text), failed++;
            else if (take(document.root, number, a->resume != NULL, &answerer, out)) answered++;
            else failed++;
            if (fflush(out) != 0 || ferror(out))
                code = complain("%s: could not be written: %s", a->resume ? a->resume : "stdout", strerror(errno));
            else if (a->resume && !add_name(&names, name)) code = complain("%s: out of memory", a->resume);
        }
        json_free(&document);
    }
    if (code == 0 && !told_to_end && ferror(stdin)) code = complain("%s: %s", STDIN, strerror(errno));
    if (out && !a->quiet)
        fprintf(stderr, "%" PRId64 " request%s answered, %" PRId64 " error%s, %" PRId64 " skipped, %.2f s\n", answered,
                answered == 1 ? "" : "s", failed, failed == 1 ? "" : "s", skipped, sv_seconds() - start);
    if (out && out != stdout && fclose(out) != 0 && code == 0)
        code = complain("%s: could not be written: %s", a->resume, strerror(errno));
    answerer_free(&answerer);
    free_names(&names);
    free(line.text);
    return code == 0 && told_to_end ? 128 + SIGTERM : code;
}
