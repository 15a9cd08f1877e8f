/* talk.c: a conversation on a terminal. A line is a question, a command (/help), or the name of a file that was dropped
   on the terminal. The library's chat also keeps the messages, so that nothing is computed twice. This file keeps them
   in their original form, for /save, /undo and /system. */
#if !defined(_WIN32)
#define _XOPEN_SOURCE 700                                   /* realpath */
#endif
#include "cli.h"
#include "line.h"

#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#if defined(__unix__) || defined(__APPLE__)
#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

/* A text, a picture or a video (then clip.video has frames). path: its absolute path. base64: the data of a picture
   that was embedded in JSON. */
typedef struct Piece { char *text, *path, *base64; SvImage image; Clip clip; } Piece;
typedef struct Said { char *role; Piece *pieces; int count, dropped; } Said;
enum { DROPPED_NOW = 1, DROPPED };                          /* of dropped: the chat no longer holds the message */

typedef struct Talk {
    const Arguments *arguments;
    const SvModel *model;
    SvChat *chat;
    LineEditor *line;
    Said *said;
    int n_said;
    Said next;                                              /* the pictures and videos for the next question */
    SvOptions options;
    ClipOptions clips;
    bool shows_progress, progress_open, begun, reported;
} Talk;

/* ------------------------------------------------------------------------------------------------- what is printed */

SV_PRINTF(1, 2) static void note(const char *format, ...) {
    va_list args;
    va_start(args, format);
    putchar('(');
    vprintf(format, args);
    fputs(")\n", stdout);
    va_end(args);
}

/* Prints a text without its control characters. Otherwise text in a picture could lead the model to write escape
   sequences that control the terminal. */
static void print_safely(const char *text, size_t size) {
    uint32_t code;
    for (size_t at = 0, length; at < size; at += length) {
        length = character(text + at, size - at, &code);
        bool control = (code < 32 && code != '\n' && code != '\t') || (code >= 127 && code < 160);
        if (control) fputs("\xef\xbf\xbd", stdout);
        else fwrite(text + at, 1, length, stdout);
    }
}

/* Prints the beginning of a text on one line, so that the user recognizes it. */
static void print_beginning(const char *text) {
    enum { MOST = 40 };
    uint32_t code;
    int width = 0;
    size_t size = strlen(text), at = 0, length;
    for (; at < size && text[at] != '\n'; at += length) {
        length = character(text + at, size - at, &code);
        if ((width += character_width(code)) > MOST) break;
        print_safely(text + at, length);
    }
    if (at < size) fputs("...", stdout);
}

static const char *text_of(const Said *said) {
    for (int i = 0; i < said->count; i++) if (said->pieces[i].text) return said->pieces[i].text;
    return "";
}

static void end_progress(Talk *t) {
    if (t->progress_open) fputs("\r\x1b[K", stderr);
    t->progress_open = false;
}

/* ----------------------------------------------------------------------------------------------------- the messages */

static bool no_memory(void) { return complain("out of memory for the conversation"), false; }

static char *copy(const char *text) {
    size_t size = strlen(text) + 1;
    char *out = malloc(size);
    if (!out) no_memory();
    return out ? memcpy(out, text, size) : NULL;
}

static void free_piece(Piece *piece) {
    free(piece->text);
    free(piece->path);
    free(piece->base64);
    sv_image_free(&piece->image);
    clip_free(&piece->clip);
}

static bool is_video(const Piece *piece) { return piece->clip.video.frames.count > 0; }

static void free_said(Said *said) {
    for (int i = 0; i < said->count; i++) free_piece(&said->pieces[i]);
    free(said->pieces);
    free(said->role);
    *said = (Said){ 0 };
}

/* Takes ownership of the piece, even if it fails. */
static bool add_piece(Said *said, Piece piece) {
    Piece *grown = realloc(said->pieces, ((size_t)said->count + 1) * sizeof *grown);
    if (grown) {
        said->pieces = grown;
        grown[said->count++] = piece;
        return true;
    }
    free_piece(&piece);
    return no_memory();
}

static bool add_text(Said *said, const char *text, size_t size) {
    Piece piece = { .text = malloc(size + 1) };
    if (!piece.text) return no_memory();
    memcpy(piece.text, text, size);
    piece.text[size] = 0;
    return add_piece(said, piece);
}

/* Moves all pictures and videos from one message to the end of another. */
static void move_pictures(Said *from, Said *to) {
    int kept = 0;
    for (int i = 0; i < from->count; i++) {
        if (from->pieces[i].text) from->pieces[kept++] = from->pieces[i];
        else add_piece(to, from->pieces[i]);
    }
    from->count = kept;
}

/* Moves *said into the conversation at this index, and leaves it empty. */
static bool insert_said(Talk *t, int at, Said *said) {
    Said *grown = realloc(t->said, ((size_t)t->n_said + 1) * sizeof *grown);
    if (!grown) return no_memory();
    t->said = grown;
    memmove(grown + at + 1, grown + at, (size_t)(t->n_said++ - at) * sizeof *grown);
    grown[at] = *said;
    *said = (Said){ 0 };
    return true;
}

static void forget_last(Talk *t) { free_said(&t->said[--t->n_said]); }

static int messages_in_chat(Talk *t) { return sv_chat_keep(t->chat, INT_MAX); }

static bool tell_chat(Talk *t, const Said *said) {
    SvError error;
    SvContent *contents = calloc((size_t)said->count + 1, sizeof *contents);
    if (!contents) return no_memory();
    for (int i = 0; i < said->count; i++) {
        const Piece *piece = &said->pieces[i];
        contents[i].name = piece->path;
        if (piece->text) contents[i].text = piece->text;
        else if (is_video(piece)) contents[i].video = &piece->clip.video;
        else contents[i].image = &piece->image;
    }
    int result = sv_chat_add(t->chat, &(SvMessage){ said->role, contents, said->count }, &t->options, &error);
    free(contents);
    if (result != 0) complain("%s", error.text);
    return result == 0;
}

/* Fills the chat again with all messages that are not dropped. */
static bool tell_all(Talk *t) {
    bool ok = true;
    sv_chat_keep(t->chat, 0);
    for (int i = 0; i < t->n_said && ok; i++)
        if (!t->said[i].dropped) ok = tell_chat(t, &t->said[i]);
    return ok;
}

/* ------------------------------------------------------------------------------------------------------- an answer */

/* The context is full: the chat has dropped the oldest `count` messages, not counting the system message. */
static void drop(Talk *t, int count) {
    for (int i = 0; i < t->n_said && count > 0; i++) {
        if (t->said[i].dropped || strcmp(t->said[i].role, "system") == 0) continue;
        t->said[i].dropped = DROPPED_NOW;
        count--;
    }
}

/* Tells the user what was dropped, once an answer is certain. */
static void announce_drop(Talk *t) {
    const char *first = NULL;
    int questions = 0;
    for (int i = 0; i < t->n_said; i++) {
        Said *said = &t->said[i];
        if (said->dropped != DROPPED_NOW) continue;
        said->dropped = DROPPED;
        if (strcmp(said->role, "user") != 0) continue;
        if (questions++ == 0) first = text_of(said);
    }
    if (!first) return;
    fputs("(the context is full: dropped \"", stdout);
    print_beginning(first);
    if (questions > 1) printf("\" and %d more question%s, with their answers)\n", questions - 1,
                              questions == 2 ? "" : "s");
    else puts("\" and its answer)");
}

static bool show_progress(void *user, const char *phase, int at, int total) {
    Talk *t = user;
    if (strcmp(phase, "drop") == 0) {
        drop(t, at);
        return line_interrupted();
    }
    announce_drop(t);
    if (t->shows_progress) {
        fprintf(stderr, "\r%s %d/%d\x1b[K", phase, at, total);
        t->progress_open = true;
    }
    return line_interrupted();
}

/* White space before the first word is dropped: it belongs to the end of the prompt. */
static bool show_token(void *user, int32_t id, const char *text, size_t size) {
    Talk *t = user;
    (void)id;
    end_progress(t);
    while (!t->begun && size > 0 && memchr(" \n\t\r", *text, 4)) text++, size--;
    if (size > 0) t->begun = true;
    print_safely(text, size);
    fflush(stdout);
    return line_interrupted() || ferror(stdout);
}

/* Removes the last question as if it had not been asked. Its pictures stay for the next question. */
static void take_back(Talk *t, int in_chat) {
    Said pictures = { 0 };
    Said *last = &t->said[t->n_said - 1];
    sv_chat_keep(t->chat, in_chat);
    move_pictures(last, &pictures);
    move_pictures(&t->next, &pictures);
    free_said(&t->next);
    t->next = pictures;
    forget_last(t);
}

/* Answers the last message. */
static void answer(Talk *t) {
    SvError error;
    SvAnswer a;
    SvEvents events = { .user = t, .progress = show_progress, .token = show_token };
    t->begun = false;
    int result = sv_chat_answer(t->chat, &t->options, &events, &a, &error), n = messages_in_chat(t);
    bool stopped = line_interrupted();
    end_progress(t);
    if (t->begun) putchar('\n');
    if (result != 0) {
        bool short_of = false;
        if (stopped) note("stopped; the question is taken back");
        else complain("%s", error.text);
        take_back(t, n - 1);
        for (int i = 0; i < t->n_said; i++)
            if (t->said[i].dropped == DROPPED_NOW) t->said[i].dropped = 0, short_of = true;
        if (short_of) tell_all(t);                          /* the dropped turns return: it was too long anyway */
        return;
    }
    announce_drop(t);
    if (stopped && !t->begun) {
        note("stopped; the question is taken back");
        take_back(t, n - 2);
    } else {
        Said said = { .role = copy("assistant") };
        const char *text = a.text + strspn(a.text, " \t\r\n");
        if (!said.role || !add_text(&said, text, strlen(text)) || !insert_said(t, t->n_said, &said)) {
            free_said(&said);
            take_back(t, n - 2);
        } else if (stopped) note("stopped");
        else if (!a.stopped && a.n_ids == (size_t)t->options.max_tokens)
            note("cut off after %d tokens; -n allows more", t->options.max_tokens);
        else if (!a.stopped) note("cut off, the context is full");
        else if (!t->begun) note("no answer");
    }
    t->options.seed++;                                      /* or the same question would always get the same answer */
    sv_answer_free(&a);
}

/* The next {image} or {video} in the text, and which of the two it is. NULL if there is none. */
static const char *find_mark(const char *text, bool *video) {
    const char *image = strstr(text, "{image}"), *clip = strstr(text, "{video}");
    *video = clip && (!image || clip < image);
    return *video ? clip : image;
}
enum { MARK = 7 };                                          /* its length */

/* Checks that there is either no mark, or one for each picture and video. Complains otherwise. */
static bool marks_fit(const Talk *t, const char *text) {
    int marks[2] = { 0 }, pieces[2] = { 0 };
    bool video;
    for (int i = 0; i < t->next.count; i++) pieces[is_video(&t->next.pieces[i])]++;
    for (; (text = find_mark(text, &video)) != NULL; text += MARK) marks[video]++;
    for (int k = 0; k < 2 && marks[0] + marks[1] > 0; k++)
        if (marks[k] != pieces[k]) {
            complain("{%s} stands in the question %d time%s, but there %s %d %s%s for it", k ? "video" : "image",
                     marks[k], marks[k] == 1 ? "" : "s", pieces[k] == 1 ? "is" : "are", pieces[k],
                     k ? "video" : "picture", pieces[k] == 1 ? "" : "s");
            return false;
        }
    return true;
}

/* Asks a question. Pictures go where it has {image}, videos where it has {video}; without such marks, before it. */
static void put_question(Talk *t, const char *text) {
    if (!marks_fit(t, text)) return;
    Said question = { .role = copy("user") };
    bool ok = question.role != NULL, video, marked = find_mark(text, &video) != NULL;
    for (int i = 0; i < t->next.count && ok; i++) {
        const char *mark = marked ? find_mark(text, &video) : text;
        Piece *left = t->next.pieces + i, *of_kind = left;
        while (marked && is_video(of_kind) != video) of_kind++;
        Piece piece = *of_kind;
        memmove(left + 1, left, (size_t)(of_kind - left) * sizeof *left);
        *left = (Piece){ 0 };                               /* the question owns it now */
        if (mark > text) ok = add_text(&question, text, (size_t)(mark - text));
        ok = add_piece(&question, piece) && ok;
        text = mark + (marked ? MARK : 0);
    }
    free_said(&t->next);
    if (ok && (*text || !marked)) ok = add_text(&question, text, strlen(text));
    if (ok && insert_said(t, t->n_said, &question)) {
        if (tell_chat(t, &t->said[t->n_said - 1])) answer(t);
        else take_back(t, messages_in_chat(t));
    }
    free_said(&question);
}

/* --------------------------------------------------------------------------------------------------------- pictures */

/* The absolute path, which is valid from any directory; the caller frees it. */
static char *absolute(const char *path) {
#if defined(_WIN32)
    char *whole = _fullpath(NULL, path, 0);
#elif defined(__unix__) || defined(__APPLE__)
    char *whole = realpath(path, NULL);
#else
    char *whole = NULL;
#endif
    return whole ? whole : copy(path);
}

static void print_next(const Talk *t) {
    if (t->next.count == 1) puts("ask about it)");
    else printf("ask about these %d)\n", t->next.count);
}

static void read_picture(Talk *t, const char *path) {
    SvError error;
    Piece piece = { 0 };
    if (!t->model->vision.layers) {
        complain("%s: %s is a text-only model, it takes no pictures", path, t->model->path);
        return;
    }
    if (sv_image_read(path, &piece.image, &error) != 0) {
        complain("%s", error.text);
        return;
    }
    const SvImage *image = &piece.image;
    if (image->note.text[0] && !(image->alpha && t->options.paint)) complain("%s", image->note.text);
    if ((piece.path = absolute(path)) == NULL) {
        free_piece(&piece);
        return;
    }
    int width = image->width, height = image->height;
    if (!add_piece(&t->next, piece)) return;
    putchar('(');
    print_safely(path, strlen(path));
    printf(", %d x %d: ", width, height);
    print_next(t);
}

static void read_video(Talk *t, const char *path) {
    SvError error;
    Piece piece = { 0 };
    if (clip_read(path, &t->clips, &piece.clip, &error) != 0) {
        complain("%s", error.text);
        return;
    }
    if (piece.clip.note.text[0] && !t->arguments->quiet) complain("%s", piece.clip.note.text);
    const Clip clip = piece.clip;
    if ((piece.path = absolute(path)) == NULL) {
        free_piece(&piece);
        return;
    }
    if (!add_piece(&t->next, piece)) return;
    putchar('(');
    print_safely(path, strlen(path));
    printf(", %.1f s, %d frame%s: ", clip.video.duration, clip.video.frames.count,
           clip.video.frames.count == 1 ? "" : "s");
    print_next(t);
}

/* Guesses the kind of a file from its first bytes. Pictures in a format that cannot be read here count as A_FILE: the
   error for them says how to convert them. */
typedef enum { NOTHING, A_FILE, A_PICTURE, A_VIDEO, A_FOLDER } Kind;
static Kind kind_of_file(const char *path) {
#if defined(__unix__) || defined(__APPLE__)
    struct stat status;
    if (stat(path, &status) != 0) return NOTHING;
    if (S_ISDIR(status.st_mode)) return A_FOLDER;
    if (!S_ISREG(status.st_mode)) return NOTHING;
#endif
    unsigned char b[12] = { 0 };
    FILE *file = sv_fopen(path, "rb");
    if (!file) return NOTHING;
    size_t n = fread(b, 1, sizeof b, file);
    fclose(file);
    if (n < 4) return A_FILE;
    if (memcmp(b, "\x89PNG", 4) == 0 || memcmp(b, "\xff\xd8\xff", 3) == 0 ||
        (b[0] == 'P' && b[1] >= '1' && b[1] <= '6')) return A_PICTURE;
    bool still = memcmp(b + 8, "hei", 3) == 0 || memcmp(b + 8, "avif", 4) == 0 || memcmp(b + 8, "mif1", 4) == 0;
    if ((memcmp(b + 4, "ftyp", 4) == 0 && !still) || memcmp(b, "\x1a\x45\xdf\xa3", 4) == 0 ||     /* mp4, webm */
        (memcmp(b, "RIFF", 4) == 0 && memcmp(b + 8, "AVI ", 4) == 0) || memcmp(b, "YUV4MPEG", 8) == 0 ||
        memcmp(b, "\0\0\1\xba", 4) == 0) return A_VIDEO;
    return A_FILE;
}

static int hex(char digit) {
    const char *digits = "0123456789abcdef", *at = digit ? strchr(digits, digit | 32) : NULL;
    return at ? (int)(at - digits) : -1;
}

/* Decodes in place the form file:///a%20name, which some terminals use for dropped files. */
static void decode_address(char *word) {
    static const char SCHEME[] = "file://";
    if (strncmp(word, SCHEME, sizeof SCHEME - 1) != 0) return;
    char *to = word;
    for (const char *from = word + sizeof SCHEME - 1; *from; from++) {
        bool coded = *from == '%' && hex(from[1]) >= 0 && hex(from[2]) >= 0;
        *to++ = coded ? (char)(16 * hex(from[1]) + hex(from[2])) : *from;
        if (coded) from += 2;
    }
    *to = 0;
}

/* The next file name of a line, with a shell's quoting, which terminals use for dropped files: quotes and backslashes
   (except on Windows, where backslashes are part of names). The caller frees it. NULL if there is none, or if out of
   memory. */
static char *next_name(const char **line) {
    const char *at = *line + strspn(*line, " \t\n"), *home = getenv("HOME");
    char quote = 0, *name = malloc(strlen(at) + (home ? strlen(home) : 0) + 1), *to = name;
    if (!*at || !name) {
        free(name);
        return NULL;
    }
    if (home && at[0] == '~' && at[1] == '/') to += sprintf(to, "%s", home), at++;
    for (; *at && (quote || !strchr(" \t\n", *at)); at++) {
        bool escapes = *at == '\\' && quote != '\'' && at[1];
#if defined(_WIN32)
        escapes = false;
#endif
        if (escapes) *to++ = *++at;
        else if (quote ? *at == quote : *at == '"' || *at == '\'') quote = quote ? 0 : *at;
        else *to++ = *at;
    }
    *to = 0;
    decode_address(name);
    *line = at;
    return name;
}

/* Whether it names a picture or a video, or a path to any other file. */
static bool is_dropped(const char *name) {
    Kind kind = kind_of_file(name);
    return kind == A_PICTURE || kind == A_VIDEO || (kind != NOTHING && strpbrk(name, "/\\"));
}

/* Whether a line consists only of such names, so that they were dropped on the terminal. */
static bool dropped(const char *line) {
    int count = 0;
    bool files = true;
    if (is_dropped(line)) return true;                      /* a single name, which may have spaces */
    for (char *name; files && (name = next_name(&line)) != NULL; count++) {
        files = is_dropped(name);
        free(name);
    }
    return files && count > 0;
}

static void read_dropped(Talk *t, const char *name) {
    Kind kind = kind_of_file(name);
    (kind == A_VIDEO || kind == A_FOLDER ? read_video : read_picture)(t, name);
}

/* A file named "-": stdin is the terminal here. */
static const char *never_stdin(const char *name) { return strcmp(name, "-") == 0 ? "./-" : name; }

/* Calls `read` for each of the names. */
static void for_names(Talk *t, const char *rest, void (*read)(Talk *t, const char *name)) {
    if (kind_of_file(rest) != NOTHING) {                    /* a single name, which may have spaces */
        read(t, never_stdin(rest));
        return;
    }
    for (char *name; (name = next_name(&rest)) != NULL; free(name)) read(t, never_stdin(name));
}

/* --------------------------------------------------------------------------------------------------------- commands */

static void command_image(Talk *t, const char *rest) { for_names(t, rest, read_picture); }
static void command_video(Talk *t, const char *rest) { for_names(t, rest, read_video); }

static void command_system(Talk *t, const char *rest) {
    bool there = t->n_said > 0 && strcmp(t->said[0].role, "system") == 0;
    if (!*rest) {
        if (there) printf("%s\n", text_of(&t->said[0]));
        else note("there is no system message");
        return;
    }
    Said said = { .role = copy("system") };
    bool none = strcmp(rest, "-") == 0;
    if (!said.role || !add_text(&said, rest, strlen(rest)) || (!none && !insert_said(t, 0, &said))) {
        free_said(&said);
        return;
    }
    free_said(&said);
    if (there) {
        int old = none ? 0 : 1;
        free_said(&t->said[old]);
        memmove(t->said + old, t->said + old + 1, (size_t)(--t->n_said - old) * sizeof *t->said);
    }
    tell_all(t);
    note(none ? "no system message from here on" : "the system message from here on");
}

/* Forgets everything except the system message. */
static void forget(Talk *t) {
    int first = t->n_said > 0 && strcmp(t->said[0].role, "system") == 0;
    while (t->n_said > first) forget_last(t);
    free_said(&t->next);
    sv_chat_keep(t->chat, first);
}

static void command_clear(Talk *t, const char *rest) {
    (void)rest;
    forget(t);
    note(t->n_said ? "forgotten; the system message stays" : "forgotten");
}

/* Takes back the pictures that wait for a question; if there are none, the last question and its answer. */
static void command_undo(Talk *t, const char *rest) {
    int in_chat = messages_in_chat(t);
    (void)rest;
    if (t->next.count > 0) {
        bool videos = false;
        for (int i = 0; i < t->next.count; i++) videos = videos || is_video(&t->next.pieces[i]);
        note("%d %s%s taken back", t->next.count, videos ? "file" : "picture", t->next.count == 1 ? "" : "s");
        free_said(&t->next);
        return;
    }
    int first = t->n_said;
    while (first > 0 && strcmp(t->said[first - 1].role, "user") != 0) first--;
    if (first == 0 || t->said[first - 1].dropped) {
        note("there is nothing to take back");
        return;
    }
    fputs("(taken back: ", stdout);
    print_beginning(text_of(&t->said[first - 1]));
    puts(")");
    for (; t->n_said >= first; in_chat--) forget_last(t);
    sv_chat_keep(t->chat, in_chat);
}

/* Writes a picture's path relative to the file's folder if it lies in or below it. */
static void put_path(FILE *file, const char *path, const char *folder) {
    size_t length = strlen(folder);
    bool below = strncmp(path, folder, length) == 0 && (path[length] == '/' || path[length] == '\\');
    if (below) path += length + 1;
    json_put_string(file, path, strlen(path));
}

static void put_said(FILE *file, const Said *said, const char *folder) {
    fputs("{\"role\": ", file);
    json_put_string(file, said->role, strlen(said->role));
    fputs(", \"content\": ", file);
    bool list = said->count != 1 || !said->pieces[0].text;
    if (list) putc('[', file);
    for (int i = 0; i < said->count; i++) {
        const Piece *piece = &said->pieces[i];
        if (i) fputs(", ", file);
        if (list) fprintf(file, "{\"type\": \"%s\", \"%s\": ",
                          piece->text ? "text" : is_video(piece) ? "video" : "image",
                          piece->text ? "text" : piece->base64 ? "base64" : "path");
        if (piece->text) json_put_string(file, piece->text, strlen(piece->text));
        else if (piece->base64) json_put_string(file, piece->base64, strlen(piece->base64));
        else put_path(file, piece->path, folder);
        if (list) putc('}', file);
    }
    if (list) putc(']', file);
    putc('}', file);
}

/* Splits a path: returns its folder, or "." if it names none, which the caller frees; *name is the rest. */
static char *folder_of(const char *path, const char **name) {
    char *folder = copy(path), *end = NULL;
    for (char *at = folder; at && *at; at++)
#if defined(_WIN32)
        if (*at == '/' || *at == '\\') end = at;
#else
        if (*at == '/') end = at;
#endif
    *name = end ? path + (end - folder) + 1 : path;
    if (end) *end = 0;
    else if (folder) strcpy(folder, ".");
    return folder;
}

static void command_save(Talk *t, const char *rest) {
    const char *names = rest, *name;
    char *path = kind_of_file(rest) != NOTHING ? copy(rest) : next_name(&names);
    char *folder = path ? folder_of(path, &name) : NULL;
    char *whole = folder ? absolute(*folder ? folder : "/") : NULL;
    Output o;
    if (whole && output_open(&o, folder, name)) {
        for (int i = 0; i < t->n_said; i++) {
            fputs(i ? ",\n " : "[", o.file);
            put_said(o.file, &t->said[i], strcmp(whole, "/") == 0 ? "" : whole);
        }
        fputs(t->n_said ? "]\n" : "[]\n", o.file);
        if (output_close(&o)) note("%d message%s in %s", t->n_said, t->n_said == 1 ? "" : "s", path);
    }
    free(path);
    free(folder);
    free(whole);
}

/* Moves the messages of a conversation that was read into this one. Base64 data is taken from its JSON. */
static bool take_over(Talk *t, Conversation *read, const Json *json) {
    int images = 0, clips = 0;
    json = json->first;
    for (int i = 0; i < read->count; i++, json = json->next) {
        Said said = { .role = copy(read->messages[i].role) };
        const Json *content = json_get(json, "content"), *item = content ? content->first : NULL;
        bool ok = said.role != NULL;
        for (int j = 0; j < read->messages[i].count && ok; j++) {
            const SvContent *c = &read->messages[i].content[j];
            const Json *base64 = item ? json_get(item, "base64") : NULL;
            if (item) item = item->next;
            if (c->text) {
                ok = add_text(&said, c->text, strlen(c->text));
                continue;
            }
            Piece piece = { .path = absolute(c->name), .base64 = base64 ? copy(base64->text) : NULL };
            if (c->image) {
                piece.image = read->images[images];
                read->images[images++] = (SvImage){ 0 };
            } else {
                piece.clip = read->clips[clips];
                read->clips[clips++] = (Clip){ 0 };
            }
            ok = add_piece(&said, piece) && piece.path && (!base64 || piece.base64);
        }
        if (!ok || !insert_said(t, t->n_said, &said)) {
            free_said(&said);
            return false;
        }
    }
    return true;
}

static void command_load(Talk *t, const char *rest) {
    const char *names = rest;
    char *path = kind_of_file(rest) != NOTHING ? copy(rest) : next_name(&names);
    JsonDocument document = { 0 };
    Conversation read = { 0 };
    SvError error = { "" };
    if (path && conversation_file(never_stdin(path), NULL, 0, &t->clips, &document, &read, &error) != 0) {
        if (error.text[0]) complain("%s", error.text);
    } else if (path) {
        while (t->n_said > 0) forget_last(t);
        free_said(&t->next);
        int images = read.n_images, videos = read.n_clips;
        if (take_over(t, &read, document.root) && tell_all(t)) {
            printf("(%d message%s, %d picture%s", t->n_said, t->n_said == 1 ? "" : "s", images,
                   images == 1 ? "" : "s");
            if (videos) printf(", %d video%s", videos, videos == 1 ? "" : "s");
            printf(" from %s)\n", path);
            if (t->n_said > 0 && strcmp(t->said[t->n_said - 1].role, "user") == 0) answer(t);
        } else {
            while (t->n_said > 0) forget_last(t);
            sv_chat_keep(t->chat, 0);
        }
    }
    conversation_free(&read);
    json_free(&document);
    free(path);
}

static void command_help(Talk *t, const char *rest);

/* needs: the argument that must follow, or NULL; takes: one that may follow, or NULL. */
static const struct Command {
    const char *name, *needs, *takes;
    void (*run)(Talk *t, const char *rest);
    const char *help;
} COMMANDS[] = {
    { "/image", "FILE ...", NULL, command_image, "adds pictures; dropping them on the terminal works too" },
    { "/video", "FILE ...", NULL, command_video, "adds videos" },
    { "/system", NULL, "TEXT", command_system, "shows or sets the system message; - removes it" },
    { "/undo", NULL, NULL, command_undo, "takes the last question back" },
    { "/clear", NULL, NULL, command_clear, "forgets the conversation" },
    { "/save", "FILE", NULL, command_save, "writes the conversation as JSON" },
    { "/load", "FILE", NULL, command_load, "continues a conversation from JSON" },
    { "/help", NULL, NULL, command_help, "shows this list" },
};
enum { N_COMMANDS = sizeof COMMANDS / sizeof COMMANDS[0] };

static void command_help(Talk *t, const char *rest) {
    (void)t;
    (void)rest;
    for (int i = 0; i < N_COMMANDS; i++) {
        const struct Command *c = &COMMANDS[i];
        const char *value = c->needs ? c->needs : c->takes ? c->takes : "";
        int width = printf("%s %s", c->name, value);
        if (line_columns() < 80) printf("\n    %s\n", c->help);
        else printf("%*s %s\n", 16 - width, "", c->help);
    }
    puts("Tab completes names.\nAlt-Enter begins another line.\nCtrl-C ends an answer, Ctrl-D leaves.");
}

/* Runs a command. Returns false if the line is none. A line that only looks like a command gets a complaint. */
static bool command(Talk *t, const char *line) {
    size_t length = strcspn(line, " \t\n");
    if (line[0] != '/') return false;
    for (int i = 0; i < N_COMMANDS; i++) {
        const struct Command *c = &COMMANDS[i];
        if (strlen(c->name) != length || strncmp(c->name, line, length) != 0) continue;
        const char *rest = line + length + strspn(line + length, " \t\n");
        if (c->needs && !*rest) complain("%s %s", c->name, c->needs);
        else if (!c->needs && !c->takes && *rest) complain("%s: takes nothing after it", c->name);
        else c->run(t, rest);
        return true;
    }
    complain("%.*s: %s", (int)length, line, memchr(line + 1, '/', length - 1) ? "no such file" :
             "no such command; /help lists them");
    return true;
}

/* ------------------------------------------------------------------------------------------------------------- Tab */

#if defined(__unix__) || defined(__APPLE__)
/* Completions: the names that begin with the first `typed` bytes, and the longest beginning that all of them share. */
typedef struct Ways { size_t typed; char common[1024], *list; size_t size; int count; } Ways;

static void add_way(Ways *w, const char *typed, const char *name) {
    size_t length = strlen(name), same = 0;
    if (strncmp(name, typed, w->typed) != 0 || length >= sizeof w->common) return;
    for (const char *c = name; *c; c++) if ((unsigned char)*c < 32 || *c == 127) return;     /* what the terminal obeys */
    char *grown = realloc(w->list, w->size + length + 3);
    if (!grown) return;
    w->list = grown;
    w->size += (size_t)sprintf(grown + w->size, "%s%s", w->count ? "  " : "", name);
    if (w->count++ == 0) strcpy(w->common, name);
    while (w->common[same] && w->common[same] == name[same]) same++;
    w->common[same] = 0;
}

/* Adds the files that complete a path. */
static void add_files(Ways *w, const char *path) {
    const char *slash = strrchr(path, '/'), *typed = slash ? slash + 1 : path;
    char folder[1024];
    snprintf(folder, sizeof folder, "%.*s", slash ? (int)(slash - path) + 1 : 1, slash ? path : ".");
    struct dirent **files;
    int n = scandir(folder, &files, NULL, alphasort);
    w->typed = strlen(typed);
    for (int i = 0; i < n; i++) {
        if (files[i]->d_name[0] != '.' || typed[0] == '.') add_way(w, typed, files[i]->d_name);
        free(files[i]);
    }
    if (n >= 0) free(files);
}

/* What the names share beyond the typed text, escaped as needed within this quote (0: none), followed by `end`. */
static char *addition(const Ways *w, char quote, const char *end) {
    char *more = malloc(2 * sizeof w->common + 4), *to = more;
    if (!more) return NULL;
    for (const char *from = w->common + w->typed; *from; from++) {
        if (!quote && strchr(" '\"\\", *from)) *to++ = '\\';
        *to++ = *from;
    }
    strcpy(to, end);
    return more;
}

/* Completes a file name: after a command, or if it has a folder in it. */
static char *complete_file(const char *line, Ways *w) {
    size_t size = strlen(line);
    const char *rest = line;
    char *name = NULL, quote = 0, path[2100], end[3] = " ";
    for (char *next; (next = next_name(&rest)) != NULL; name = next) free(name);
    for (const char *at = line; *at; at++)
        if (quote ? *at == quote : *at == '"' || *at == '\'') quote = quote ? 0 : *at;
    if (size > 0 && line[size - 1] == ' ' && !quote && !(size > 1 && line[size - 2] == '\\')) {
        free(name);                                         /* the next name has not been begun */
        name = copy("");
    }
    if (!name || !(line[0] == '/' || strchr(name, '/'))) {
        free(name);
        return NULL;
    }
    add_files(w, name);
    const char *slash = strrchr(name, '/');
    snprintf(path, sizeof path, "%.*s%s", slash ? (int)(slash - name) + 1 : 0, name, w->common);
    free(name);
    struct stat status;
    if (w->count == 1 && stat(path, &status) == 0 && S_ISDIR(status.st_mode)) strcpy(end, "/");
    else if (quote) end[0] = quote, end[1] = ' ';
    if (w->count == 0 || (w->count > 1 && !w->common[w->typed])) return NULL;
    return addition(w, quote, w->count > 1 ? "" : end);
}

static char *complete(void *user, const char *text, size_t size, char **list) {
    Ways ways = { .typed = size };
    char *line = malloc(size + 1), *more = NULL;
    (void)user;
    *list = NULL;
    if (!line) return NULL;
    memcpy(line, text, size);
    line[size] = 0;
    if (line[0] == '/' && !strpbrk(line + 1, "/ \t\n")) {
        for (int i = 0; i < N_COMMANDS; i++) add_way(&ways, line, COMMANDS[i].name);
        if (ways.count == 1 || (ways.count > 1 && ways.common[size]))
            more = addition(&ways, 0, ways.count > 1 ? "" : " ");
    } else {
        more = complete_file(line, &ways);
    }
    if (!more && ways.count > 1) *list = ways.list;
    else free(ways.list);
    free(line);
    return more;
}
#else
#define complete NULL
#endif

/* ------------------------------------------------------------------------------------------------ the conversation */

/* Removes white space at both ends. */
static char *trim(char *line) {
    char *begin = line + strspn(line, " \t\n");
    size_t size = strlen(begin);
    while (size > 0 && strchr(" \t\n", begin[size - 1])) begin[--size] = 0;
    return begin;
}

static int converse(Talk *t) {
    int breaks = 0;
    for (;;) {
        char *text;
        LineResult result = line_read(t->line, "> ", &text);
        if (result == LINE_END) return 0;
        if (result == LINE_FAILED) return complain("out of memory for a line");
        if (result == LINE_BREAK) {
            if (++breaks == 2) note("Ctrl-D leaves");
            continue;
        }
        char *line = trim(text);
        breaks = 0;
        if (*line && !line_remember(t->line, line) && !t->reported) {
            complain("the history could not be written");
            t->reported = true;
        }
        if (dropped(line)) for_names(t, line, read_dropped);
        else if (*line && !command(t, line)) put_question(t, line);
        free(text);
        if (ferror(stdout)) return 1;                       /* main prints the error */
    }
}

int talk(const Arguments *a, const SvModel *model) {
    Talk t = { .arguments = a, .model = model, .options = a->options };
    t.clips = (ClipOptions){ .model = model, .rate = a->rate, .fps = a->fps, .frames = a->frames,
                             .background = a->options.paint ? a->options.background : NULL };
    SvError error;
    char *history = line_history_path("smolvlm");
    int code = 1;
#if defined(__unix__) || defined(__APPLE__)
    const char *kind = getenv("TERM");
    t.shows_progress = !a->quiet && isatty(2) && kind && strcmp(kind, "dumb") != 0;
#endif
    if (sv_chat_new(model, 0, a->options.threads, &t.chat, &error) != 0) {
        complain("%s", error.text);
    } else if ((t.line = line_open(history)) == NULL) {
        no_memory();
    } else {
        if (!a->quiet) puts("/help lists commands, Ctrl-D leaves.");
        line_complete(t.line, complete, &t);
        if (a->system) command_system(&t, a->system);
        for (int i = 0; i < a->n_images; i++) (a->videos[i] ? read_video : read_picture)(&t, a->images[i]);
        code = converse(&t);
    }
    line_close(t.line);
    while (t.n_said > 0) forget_last(&t);
    free(t.said);
    free_said(&t.next);
    sv_chat_free(t.chat);
    free(history);
    return code;
}
