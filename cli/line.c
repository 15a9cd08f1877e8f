/* line.c: reads and edits a line on a terminal, with the keys of common shells.

     keys        arrows, Home, End, Delete; Ctrl-A E B F D H K U W Y T L P N Z; by words: Alt-B F D, Alt-Backspace,
                 left and right with Ctrl or Alt; Tab completes; Alt-Enter begins another line, Enter ends the input;
                 Ctrl-C cancels it, Ctrl-D on an empty line leaves
     paste       bracketed paste: pasted text is inserted as text, even if it has several lines
     screen      after every key the prompt and the text are redrawn, over as many rows as they take; if the text is
                 taller than the screen, the rows around the cursor. Only VT100 escape sequences are used
     history     a file, one text per line, newest last; it is rewritten under a temporary name and renamed

   Where the terminal does not support this (TERM=dumb, Windows), the system's own line editing is used. */
#if !defined(_WIN32)
#define _POSIX_C_SOURCE 200809L
#define _DEFAULT_SOURCE                                     /* TIOCGWINSZ, SIGWINCH */
#define _DARWIN_C_SOURCE
#endif
#include "line.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if defined(__unix__) || defined(__APPLE__)
#define HAVE_TERMINAL 1
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>
#elif defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#endif

enum { HISTORY_MOST = 1000 };

typedef struct Text { char *data; size_t size, room; } Text;       /* not terminated */

struct LineEditor {
    bool plain;                                             /* the system's own line editing */
    char *path, **history;
    int n_history;

    const char *prompt;
    Text text, killed, drawing;
    size_t cursor;
    int at_history;                                         /* n_history: the text is not from the history */
    Text draft;                                             /* the unfinished text, while the history is shown */

    int columns, rows;                                      /* of the screen */
    int top, cursor_row;                                    /* the first drawn row; the cursor's row relative to it */
    bool drawn, failed;

    LineCompletion *complete;
    void *user;

    unsigned char input[4096];
    size_t begin, end;
};

void line_complete(LineEditor *e, LineCompletion *complete, void *user) {
    e->complete = complete;
    e->user = user;
}

/* ------------------------------------------------------------------------------------------------------------- text */

static bool insert_text(Text *t, size_t at, const char *data, size_t size) {
    if (t->room - t->size < size) {
        size_t room = 2 * (t->size + size) + 64;
        char *grown = room > size ? realloc(t->data, room) : NULL;
        if (!grown) return false;
        t->data = grown;
        t->room = room;
    }
    if (size == 0) return true;
    memmove(t->data + at + size, t->data + at, t->size - at);
    memcpy(t->data + at, data, size);
    t->size += size;
    return true;
}

static bool append(Text *t, const char *data, size_t size) { return insert_text(t, t->size, data, size); }

static char *copy_text(const char *data, size_t size) {
    char *copy = malloc(size + 1);
    if (!copy) return NULL;
    if (size > 0) memcpy(copy, data, size);
    copy[size] = 0;
    return copy;
}

/* ---------------------------------------------------------------------------------------------------------- history */

/* Adds a text to the history in memory, unless it equals the last one. Returns false if out of memory. */
static bool keep(LineEditor *e, const char *text) {
    if (e->n_history > 0 && strcmp(e->history[e->n_history - 1], text) == 0) return true;
    char *copy = copy_text(text, strlen(text));
    if (!copy) return false;
    if (e->n_history == HISTORY_MOST) {
        free(e->history[0]);
        memmove(e->history, e->history + 1, (HISTORY_MOST - 1) * sizeof *e->history);
        e->n_history--;
    }
    e->history[e->n_history++] = copy;
    return true;
}

#ifdef HAVE_TERMINAL

static void forget_history(LineEditor *e) {
    while (e->n_history > 0) free(e->history[--e->n_history]);
}

/* In the file, \n stands for a line end within a text, and \\ for a backslash. */
static void read_history(LineEditor *e) {
    FILE *file = e->path ? fopen(e->path, "rb") : NULL;
    Text line = { 0 };
    if (!file) return;
    for (int byte, escape = 0; (byte = getc(file)) != EOF; ) {
        char one = (char)(escape && byte == 'n' ? '\n' : byte);
        if (byte == '\n') {
            if (append(&line, "", 1) && line.data[0]) keep(e, line.data);
            line.size = 0;
            escape = 0;
        } else if (byte == '\\' && !escape) {
            escape = 1;
        } else {
            if (byte != 0 && !append(&line, &one, 1)) break;
            escape = 0;
        }
    }
    free(line.data);
    fclose(file);
}

/* The file is readable only by the user. If it is a symbolic link, the link is kept. */
static bool write_history(const LineEditor *e) {
    char *real = realpath(e->path, NULL), *part = NULL;
    const char *path = real ? real : e->path;
    size_t size = strlen(path) + 32;
    int fd = -1;
    if ((part = malloc(size)) != NULL) {
        snprintf(part, size, "%s.%ld.part", path, (long)getpid());
        fd = open(part, O_WRONLY | O_CREAT | O_EXCL, 0600);
    }
    FILE *file = fd >= 0 ? fdopen(fd, "wb") : NULL;
    if (fd >= 0 && !file) close(fd);
    for (int i = 0; file && i < e->n_history; i++) {
        for (const char *c = e->history[i]; *c; c++) {
            if (*c == '\n' || *c == '\\') putc('\\', file);
            putc(*c == '\n' ? 'n' : *c, file);
        }
        putc('\n', file);
    }
    bool ok = file && !ferror(file);
    if (file && fclose(file) != 0) ok = false;
    if (ok && rename(part, path) != 0) ok = false;
    if (fd >= 0 && !ok) unlink(part);
    free(part);
    free(real);
    return ok;
}

char *line_history_path(const char *name) {
    const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
    bool has_state = state && *state;
    if (!has_state && !(home && *home)) return NULL;
    size_t size = strlen(has_state ? state : home) + strlen(name) + 16;
    char *path = malloc(size);
    if (path) snprintf(path, size, has_state ? "%s/%s_history" : "%s/.%s_history", has_state ? state : home, name);
    return path;
}

/* Reads the file again before writing it, because another conversation may have added to it. */
bool line_remember(LineEditor *e, const char *text) {
    if (e->path) {
        char **before = e->history;
        int n = e->n_history;
        e->n_history = 0;
        if ((e->history = calloc(HISTORY_MOST, sizeof *e->history)) != NULL) read_history(e);
        if (e->n_history > 0) {
            while (n > 0) free(before[--n]);
            free(before);
        } else {                                            /* the file is empty or missing */
            free(e->history);
            e->history = before;
            e->n_history = n;
        }
    }
    return keep(e, text) && (!e->path || write_history(e));
}

/* --------------------------------------------------------------------------------------------------------- terminal */

/* A signal handler must restore the terminal, so this state has to be global. */
enum { OUTSIDE, BETWEEN, EDITING };
static const int SIGNALS[] = { SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP, SIGWINCH, SIGSEGV, SIGBUS, SIGABRT, SIGFPE,
                               SIGILL };
enum { N_SIGNALS = sizeof SIGNALS / sizeof SIGNALS[0] };
static struct termios modes[3];
static struct sigaction actions[N_SIGNALS];                 /* the previous ones */
static volatile sig_atomic_t mode, plain, interrupted, changed, stopped;

static const char PASTE_ON[] = "\x1b[?2004h", PASTE_OFF[] = "\x1b[?2004l";

static void write_all(const char *data, size_t size) {
    while (size > 0) {
        ssize_t n = write(1, data, size);
        if (n < 0 && errno != EINTR && errno != EAGAIN) return;
        if (n > 0) data += n, size -= (size_t)n;
    }
}

/* Switches the terminal to another mode. TCSANOW keeps the input that has already been typed. */
static void set_mode(int next) {
    if (mode == next) return;
    if (!plain) {
        if (mode == EDITING) write_all(PASTE_OFF, sizeof PASTE_OFF - 1);
        tcsetattr(0, TCSANOW, &modes[next]);
        if (next == EDITING) write_all(PASTE_ON, sizeof PASTE_ON - 1);
    }
    mode = next;
}

/* Uses only functions that are allowed in a signal handler. */
static void on_signal(int signal) {
    int kept = errno, before = mode;
    if (signal == SIGWINCH) {
        changed = 1;
    } else if (signal == SIGINT && mode == BETWEEN) {
        interrupted = 1;
    } else {
        if (before == EDITING && !plain) write_all("\r\n", 2);
        set_mode(OUTSIDE);
        struct sigaction own;
        sigset_t one, blocked;
        for (int i = 0; i < N_SIGNALS; i++)
            if (SIGNALS[i] == signal) sigaction(signal, &actions[i], &own);
        raise(signal);
        if (signal == SIGTSTP) {                            /* stops at the unblocking; continues after SIGCONT */
            sigemptyset(&one);
            sigaddset(&one, signal);
            sigprocmask(SIG_UNBLOCK, &one, &blocked);
            sigprocmask(SIG_SETMASK, &blocked, NULL);
            sigaction(signal, &own, NULL);
            set_mode(before);
            changed = stopped = 1;
        }
    }
    errno = kept;
}

bool line_typed(void) { return isatty(0); }
bool line_terminal(void) { return isatty(0) && isatty(1); }

int line_columns(void) {
    struct winsize size;
    return ioctl(1, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

bool line_interrupted(void) { return interrupted != 0; }

LineEditor *line_open(const char *history) {
    LineEditor *e = calloc(1, sizeof *e);
    const char *kind = getenv("TERM");
    if (!e) return NULL;
    e->history = calloc(HISTORY_MOST, sizeof *e->history);
    e->path = history ? copy_text(history, strlen(history)) : NULL;
    if (!e->history || (history && !e->path)) {
        line_close(e);
        return NULL;
    }
    read_history(e);
    e->plain = !line_terminal() || !kind || !*kind || strcmp(kind, "dumb") == 0 || tcgetattr(0, &modes[OUTSIDE]) != 0;
    plain = e->plain;
    modes[BETWEEN] = modes[EDITING] = modes[OUTSIDE];
    modes[BETWEEN].c_lflag &= ~(tcflag_t)(ECHO | ICANON);
    modes[BETWEEN].c_cc[VMIN] = 1;
    modes[BETWEEN].c_cc[VTIME] = 0;
    modes[EDITING] = modes[BETWEEN];
    modes[EDITING].c_lflag &= ~(tcflag_t)(IEXTEN | ISIG);
    modes[EDITING].c_iflag &= ~(tcflag_t)(BRKINT | ICRNL | INPCK | ISTRIP | IXON);
    struct sigaction own = { .sa_handler = on_signal, .sa_flags = SA_RESTART };
    sigemptyset(&own.sa_mask);
    for (int i = 0; i < N_SIGNALS; i++) {
        sigaction(SIGNALS[i], NULL, &actions[i]);
        if (actions[i].sa_handler != SIG_IGN) sigaction(SIGNALS[i], &own, NULL);       /* keeps what nohup ignores */
    }
    interrupted = 0;
    set_mode(BETWEEN);
    return e;
}

void line_close(LineEditor *e) {
    if (!e) return;
    if (mode != OUTSIDE) {
        set_mode(OUTSIDE);
        for (int i = 0; i < N_SIGNALS; i++) sigaction(SIGNALS[i], &actions[i], NULL);
    }
    if (e->history) forget_history(e);
    free(e->history);
    free(e->path);
    free(e->text.data);
    free(e->killed.data);
    free(e->drawing.data);
    free(e->draft.data);
    free(e);
}

/* ----------------------------------------------------------------------------------------------------------- screen */

/* Walks over the prompt and the text as they appear on the screen. For the rows from `first` up to, but not including,
   `end`, it appends the output that draws them. */
typedef struct Walk { int row, col, columns, first, end; Text *out; bool failed; } Walk;

static bool seen(const Walk *w, int row) { return w->out && row >= w->first && row < w->end; }

static void emit(Walk *w, const char *data, size_t size) {
    if (seen(w, w->row) && !append(w->out, data, size)) w->failed = true;
}

/* Goes to the next row. soft: by the terminal's own wrapping, so that the terminal can wrap the text again when it is
   resized. After a full row the cursor stays on the last column until another character comes. */
static void next_row(Walk *w, bool soft) {
    if (seen(w, w->row + 1) && soft) emit(w, " \r", 2);
    else if (!soft) emit(w, "\x1b[K", 3);
    if (seen(w, w->row + 1) && !soft) emit(w, "\r\n", 2);
    w->row++;
    w->col = 0;
}

/* Control characters are shown as ^X. A line end takes one column, because the cursor may be on it. */
static int shown_width(uint32_t code) {
    return code == '\n' ? 1 : code == '\t' ? 4 : code < 32 || code == 127 ? 2 : character_width(code);
}

static void step(Walk *w, const char *bytes, size_t size, uint32_t code) {
    char control[2] = { '^', (char)(code ^ 0x40) };
    int width = shown_width(code);
    if (code == '\t') bytes = "    ", size = 4;
    else if (code < 32 || code == 127) bytes = control, size = 2;
    else if ((code >= 128 && code < 160) || code == 0xFFFD) bytes = "\xef\xbf\xbd", size = 3;
    if (width > 0 && w->col == w->columns) next_row(w, true);
    if (code == '\n') {
        next_row(w, false);
        return;
    }
    if (w->col + width > w->columns) next_row(w, false);    /* a wide character does not fit in the last column */
    emit(w, bytes, size);
    w->col += width;
}

/* Sets *row and *col to the cursor's place, and *w to the end of the text. */
static void walk(const LineEditor *e, Walk *w, int *row, int *col) {
    uint32_t code;
    for (size_t at = 0, length, size = strlen(e->prompt); at < size; at += length) {
        length = character(e->prompt + at, size - at, &code);
        step(w, e->prompt + at, length, code);
    }
    for (size_t at = 0, length; at < e->text.size; at += length) {
        length = character(e->text.data + at, e->text.size - at, &code);
        if (at == e->cursor) {
            bool full = w->col + shown_width(code) > w->columns;
            *row = w->row + full;
            *col = full ? 0 : w->col;
        }
        step(w, e->text.data + at, length, code);
    }
    if (w->col == w->columns) next_row(w, true);
    if (e->cursor >= e->text.size) *row = w->row, *col = w->col;
}

static void measure_screen(LineEditor *e) {
    struct winsize size = { 0 };
    bool known = ioctl(1, TIOCGWINSZ, &size) == 0;
    e->columns = known && size.ws_col > 0 ? size.ws_col : 80;
    e->rows = known && size.ws_row > 0 ? size.ws_row : 24;
    if (e->columns < 8) e->columns = 8;
}

static void move_to(Text *out, int up, int col) {
    char move[48];
    int n = snprintf(move, sizeof move, "\r");
    if (up > 0) n += snprintf(move + n, sizeof move - (size_t)n, "\x1b[%dA", up);
    if (col > 0) n += snprintf(move + n, sizeof move - (size_t)n, "\x1b[%dC", col);
    append(out, move, (size_t)n);
}

static void draw(LineEditor *e) {
    Walk plan = { .columns = e->columns }, w = plan;
    int row, col;
    walk(e, &plan, &row, &col);
    if (plan.row < e->rows) e->top = 0;
    else if (row < e->top) e->top = row;
    else if (row >= e->top + e->rows) e->top = row - e->rows + 1;
    e->drawing.size = 0;
    if (e->drawn) move_to(&e->drawing, e->cursor_row, 0);
    w.first = e->top;
    w.end = e->top + e->rows;
    w.out = &e->drawing;
    walk(e, &w, &row, &col);
    int last = w.row < w.end ? w.row : w.end - 1;
    if (last == w.row && !append(&e->drawing, "\x1b[J", 3)) w.failed = true;
    move_to(&e->drawing, last - row, col);
    e->cursor_row = row - e->top;
    e->drawn = true;
    e->failed |= w.failed;
    write_all(e->drawing.data, e->drawing.size);
}

/* The screen was resized. Terminals that wrap their text again have already moved the cursor to its new place. */
static void screen_changed(LineEditor *e) {
    Walk w = { 0 };
    int row, col;
    changed = 0;
    measure_screen(e);
    w.columns = e->columns;
    walk(e, &w, &row, &col);
    e->cursor_row = row > e->top ? row - e->top : 0;
    if (e->cursor_row >= e->rows) e->cursor_row = e->rows - 1;
    if (stopped) e->drawn = false;
    stopped = 0;
    draw(e);
}

/* ------------------------------------------------------------------------------------------------------------- keys */

enum {
    KEY_NONE = 256, KEY_CLOSED, KEY_LEFT, KEY_RIGHT, KEY_UP, KEY_DOWN, KEY_HOME, KEY_END, KEY_DELETE, KEY_WORD_LEFT,
    KEY_WORD_RIGHT, KEY_WORD_ERASE, KEY_WORD_DELETE, KEY_NEW_LINE, KEY_PASTE
};
#define CONTROL(letter) ((letter) & 31)
enum { ESCAPE = 27, PATIENCE = 50 };                        /* ms to wait for the rest of a key's bytes */

static bool input_waits(const LineEditor *e) {
    struct pollfd in = { .fd = 0, .events = POLLIN };
    return e->begin < e->end || poll(&in, 1, 0) > 0;
}

/* Reads a byte. Returns KEY_NONE if none came within `patience` ms. -1 waits for ever, and redraws a resized screen. */
static int next_byte(LineEditor *e, int patience) {
    while (e->begin == e->end) {
        struct pollfd in = { .fd = 0, .events = POLLIN };
        if (changed && patience < 0 && !e->plain) screen_changed(e);
        int ready = poll(&in, 1, patience);
        if (ready == 0) return KEY_NONE;
        if (ready < 0 && errno == EINTR) continue;
        ssize_t n = ready < 0 ? 0 : read(0, e->input, sizeof e->input);
        if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
        if (n <= 0) return KEY_CLOSED;
        e->begin = 0;
        e->end = (size_t)n;
    }
    return e->input[e->begin++];
}

/* Reads the rest of ESC [ numbers letter, xterm's form, including modifiers. Unknown sequences are consumed whole. */
static int read_sequence(LineEditor *e) {
    int number[2] = { 0, 0 }, n = 0, byte = next_byte(e, PATIENCE);
    if (byte == '[') return next_byte(e, PATIENCE), KEY_NONE;               /* function keys of the Linux console */
    for (; byte >= ' ' && byte < '@'; byte = next_byte(e, PATIENCE)) {
        if (byte == ';' && n < 1) n++;
        else if (byte >= '0' && byte <= '9' && number[n] < 10000) number[n] = 10 * number[n] + byte - '0';
    }
    bool word = number[1] > 1;                              /* Ctrl, Alt or Shift was held */
    switch (byte) {
    case 'A': return KEY_UP;
    case 'B': return KEY_DOWN;
    case 'C': return word ? KEY_WORD_RIGHT : KEY_RIGHT;
    case 'D': return word ? KEY_WORD_LEFT : KEY_LEFT;
    case 'H': return KEY_HOME;
    case 'F': return KEY_END;
    case '~': break;
    default: return KEY_NONE;
    }
    switch (number[0]) {
    case 1: case 7: return KEY_HOME;
    case 4: case 8: return KEY_END;
    case 3: return word ? KEY_WORD_DELETE : KEY_DELETE;
    case 200: return KEY_PASTE;
    default: return KEY_NONE;
    }
}

static int read_key(LineEditor *e) {
    int byte = next_byte(e, -1);
    if (byte != ESCAPE) return byte;
    while (byte == ESCAPE) byte = next_byte(e, PATIENCE);   /* Alt and an arrow key: ESC ESC [ */
    switch (byte) {
    case '[': return read_sequence(e);
    case 'O':
        byte = next_byte(e, PATIENCE);
        return byte == 'A' ? KEY_UP : byte == 'B' ? KEY_DOWN : byte == 'C' ? KEY_RIGHT : byte == 'D' ? KEY_LEFT :
               byte == 'H' ? KEY_HOME : byte == 'F' ? KEY_END : KEY_NONE;
    case 'b': return KEY_WORD_LEFT;
    case 'f': return KEY_WORD_RIGHT;
    case 'd': return KEY_WORD_DELETE;
    case 8: case 127: return KEY_WORD_ERASE;
    case '\r': case '\n': return KEY_NEW_LINE;
    case KEY_CLOSED: return KEY_CLOSED;
    default: return KEY_NONE;
    }
}

/* ---------------------------------------------------------------------------------------------------------- editing */

static void insert(LineEditor *e, const char *data, size_t size) {
    if (insert_text(&e->text, e->cursor, data, size)) e->cursor += size;
    else e->failed = true;
}

/* Inserts a character with all its bytes, so that half a character is never drawn. */
static void insert_character(LineEditor *e, int byte) {
    char bytes[4] = { (char)byte };
    size_t n = 1, length = byte < 0xC0 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
    while (n < length && (byte = next_byte(e, PATIENCE)) < 256) {
        if ((byte & 0xC0) != 0x80) {
            e->begin--;                                     /* it begins another character */
            break;
        }
        bytes[n++] = (char)byte;
    }
    insert(e, bytes, n);
}

/* Reads pasted text up to ESC [ 2 0 1 ~. Line ends become \n, and one at the end is dropped. Control characters are
   left out, as they could act as keys or terminal commands. */
static bool paste(LineEditor *e) {
    static const char END[] = "\x1b[201~";
    Text text = { 0 };
    size_t matched = 0;
    int last = 0, byte;
    while (matched < sizeof END - 1 && (byte = next_byte(e, 10000)) < 256) {
        char one = (char)(byte == '\r' ? '\n' : byte);
        if (byte == END[matched]) matched++;
        else {
            for (size_t i = 1; i < matched; i++)            /* the end sequence was not complete */
                if (!append(&text, END + i, 1)) e->failed = true;
            matched = byte == ESCAPE;
            bool shown = (byte >= 32 && byte != 127) || byte == '\t' || byte == '\r' || (byte == '\n' && last != '\r');
            if (shown && !append(&text, &one, 1)) e->failed = true;
        }
        last = byte;
    }
    if (text.size > 0 && text.data[text.size - 1] == '\n') text.size--;
    if (text.size > 0) insert(e, text.data, text.size);
    free(text.data);
    return matched == sizeof END - 1;
}

static void remove_text(Text *t, size_t from, size_t to) {
    if (from == to) return;
    memmove(t->data + from, t->data + to, t->size - to);
    t->size -= to - from;
}

static size_t line_begin(const LineEditor *e, size_t at) {
    while (at > 0 && e->text.data[at - 1] != '\n') at--;
    return at;
}

static size_t line_end(const LineEditor *e, size_t at) {
    while (at < e->text.size && e->text.data[at] != '\n') at++;
    return at;
}

static size_t after(const LineEditor *e, size_t at) { return next_character(e->text.data, e->text.size, at); }
static size_t before(const LineEditor *e, size_t at) { return previous_character(e->text.data, e->text.size, at); }

static bool is_space(const LineEditor *e, size_t at) { return strchr(" \t\n", e->text.data[at]) != NULL; }

static bool in_word(const LineEditor *e, size_t at) {
    unsigned char byte = (unsigned char)e->text.data[at];
    return byte >= 128 || (byte >= '0' && byte <= '9') || ((byte | 32) >= 'a' && (byte | 32) <= 'z');
}

static size_t word_begin(const LineEditor *e, size_t at) {
    while (at > 0 && !in_word(e, at - 1)) at--;
    while (at > 0 && in_word(e, at - 1)) at--;
    return at;
}

static size_t word_end(const LineEditor *e, size_t at) {
    while (at < e->text.size && !in_word(e, at)) at++;
    while (at < e->text.size && in_word(e, at)) at++;
    return at;
}

/* Removes a part of the text and keeps it for Ctrl-Y. */
static void kill_text(LineEditor *e, size_t from, size_t to) {
    if (from == to) return;
    e->killed.size = 0;
    if (!append(&e->killed, e->text.data + from, to - from)) e->failed = true;
    remove_text(&e->text, from, to);
    e->cursor = from;
}

/* Swaps the characters on both sides of the cursor; at the end of a line, the last two. */
static void transpose(LineEditor *e) {
    size_t middle = e->cursor == line_end(e, e->cursor) ? before(e, e->cursor) : e->cursor;
    if (middle <= line_begin(e, e->cursor)) return;
    size_t from = before(e, middle), to = after(e, middle);
    Text first = { 0 };
    if (!append(&first, e->text.data + from, middle - from)) {
        e->failed = true;
        return;
    }
    remove_text(&e->text, from, middle);
    e->cursor = from + to - middle;
    insert(e, first.data, first.size);
    free(first.data);
}

static int columns_between(const LineEditor *e, size_t from, size_t to) {
    int columns = 0;
    uint32_t code;
    for (; from < to; columns += shown_width(code)) from += character(e->text.data + from, to - from, &code);
    return columns;
}

/* Moves the cursor to about the same column of the line above or below. Returns false if there is no such line. */
static bool move_line(LineEditor *e, bool up) {
    size_t begin = line_begin(e, e->cursor), end = line_end(e, e->cursor);
    int columns = columns_between(e, begin, e->cursor);
    if (up ? begin == 0 : end == e->text.size) return false;
    e->cursor = begin = up ? line_begin(e, begin - 1) : end + 1;
    end = line_end(e, begin);
    while (e->cursor < end && columns_between(e, begin, e->cursor) < columns) e->cursor = after(e, e->cursor);
    return true;
}

static void set_text(LineEditor *e, const char *data, size_t size) {
    e->text.size = e->cursor = 0;
    insert(e, data, size);
}

static void move_history(LineEditor *e, int by) {
    int at = e->at_history + by;
    if (at < 0 || at > e->n_history) return;
    if (e->at_history == e->n_history) {
        e->draft.size = 0;
        if (!append(&e->draft, e->text.data, e->text.size)) e->failed = true;
    }
    e->at_history = at;
    if (at < e->n_history) set_text(e, e->history[at], strlen(e->history[at]));
    else set_text(e, e->draft.data, e->draft.size);
}


static void complete(LineEditor *e) {
    char *list = NULL, *more = e->complete(e->user, e->text.data ? e->text.data : "", e->cursor, &list);
    if (more) {
        insert(e, more, strlen(more));
    } else if (list) {                                      /* shown below the text, which is redrawn after it */
        size_t cursor = e->cursor;
        e->cursor = e->text.size;
        draw(e);
        write_all("\r\n", 2);
        write_all(list, strlen(list));
        write_all("\r\n", 2);
        e->cursor = cursor;
        e->drawn = false;
    }
    free(more);
    free(list);
}

/* Acts on one key. Returns false if that ends the input; *result then says how. */
static bool act(LineEditor *e, int key, LineResult *result) {
    size_t at = e->cursor, begin;
    switch (key) {
    case '\r': case '\n': *result = LINE_TEXT; return false;
    case CONTROL('C'): *result = LINE_BREAK; return false;
    case KEY_CLOSED: *result = LINE_END; return false;
    case CONTROL('D'):
        if (e->text.size == 0) return *result = LINE_END, false;
        remove_text(&e->text, at, after(e, at));
        break;
    case KEY_DELETE: remove_text(&e->text, at, after(e, at)); break;
    case CONTROL('H'): case 127:
        e->cursor = before(e, at);
        remove_text(&e->text, e->cursor, at);
        break;
    case CONTROL('B'): case KEY_LEFT: e->cursor = before(e, at); break;
    case CONTROL('F'): case KEY_RIGHT: e->cursor = after(e, at); break;
    case CONTROL('A'): case KEY_HOME: e->cursor = line_begin(e, at); break;
    case CONTROL('E'): case KEY_END: e->cursor = line_end(e, at); break;
    case KEY_WORD_LEFT: e->cursor = word_begin(e, at); break;
    case KEY_WORD_RIGHT: e->cursor = word_end(e, at); break;
    case KEY_WORD_ERASE: kill_text(e, word_begin(e, at), at); break;
    case KEY_WORD_DELETE: kill_text(e, at, word_end(e, at)); break;
    case CONTROL('W'):
        for (begin = at; begin > 0 && is_space(e, begin - 1); ) begin--;
        while (begin > 0 && !is_space(e, begin - 1)) begin--;
        kill_text(e, begin, at);
        break;
    case CONTROL('U'): kill_text(e, line_begin(e, at), at); break;
    case CONTROL('K'):
        begin = line_end(e, at);
        kill_text(e, at, begin > at || begin == e->text.size ? begin : begin + 1);      /* at a line's end: its \n */
        break;
    case CONTROL('Y'): insert(e, e->killed.data, e->killed.size); break;
    case CONTROL('T'): transpose(e); break;
    case CONTROL('L'):
        write_all("\x1b[H\x1b[2J", 7);
        e->drawn = false;
        break;
    case KEY_UP: if (!move_line(e, true)) move_history(e, -1); break;
    case KEY_DOWN: if (!move_line(e, false)) move_history(e, 1); break;
    case CONTROL('P'): move_history(e, -1); break;
    case CONTROL('N'): move_history(e, 1); break;
    case CONTROL('Z'):
        kill(0, SIGTSTP);                                   /* stops the whole process group, as a shell would */
        if (stopped) screen_changed(e);
        break;
    case KEY_NEW_LINE: insert(e, "\n", 1); break;
    case KEY_PASTE: paste(e); break;
    case '\t':
        if (e->complete) complete(e);
        else insert(e, "\t", 1);
        break;
    default: if (key >= 32 && key < 256) insert_character(e, key); break;
    }
    return true;
}

/* ----------------------------------------------------------------------------------------- the system's own editing */

static LineResult read_plain(LineEditor *e, const char *prompt) {
    write_all(prompt, strlen(prompt));
    for (;;) {
        int byte = next_byte(e, -1);
        char one = (char)byte;
        if (byte == KEY_CLOSED) return e->text.size > 0 ? LINE_TEXT : LINE_END;
        if (byte == '\n') return LINE_TEXT;
        if (byte < 256 && byte != 0 && !append(&e->text, &one, 1)) return LINE_FAILED;
    }
}

LineResult line_read(LineEditor *e, const char *prompt, char **text) {
    LineResult result = LINE_TEXT;
    *text = NULL;
    e->prompt = prompt;
    e->text.size = e->cursor = 0;
    e->at_history = e->n_history;
    e->top = e->cursor_row = 0;
    e->drawn = e->failed = false;
    fflush(stdout);
    set_mode(EDITING);
    if (e->plain) {
        result = read_plain(e, prompt);
    } else {
        changed = stopped = 0;
        measure_screen(e);
        draw(e);
        while (!e->failed && act(e, read_key(e), &result))
            if (!input_waits(e)) draw(e);
        e->cursor = e->text.size;
        draw(e);
        write_all(result == LINE_BREAK ? "^C\r\n" : "\r\n", result == LINE_BREAK ? 4 : 2);
    }
    set_mode(BETWEEN);
    interrupted = 0;
    if (e->failed) result = LINE_FAILED;
    if (result == LINE_TEXT && (*text = copy_text(e->text.data, e->text.size)) == NULL) result = LINE_FAILED;
    return result;
}

#else                                                       /* Windows, or an unknown system */

static volatile sig_atomic_t interrupted;

static void on_interrupt(int number) {
    signal(number, on_interrupt);
    interrupted = 1;
}

bool line_interrupted(void) { return interrupted != 0; }
int line_columns(void) { return 80; }
char *line_history_path(const char *name) { return (void)name, NULL; }
bool line_remember(LineEditor *e, const char *text) { return keep(e, text); }

#if defined(_WIN32)
/* isatty would count NUL as a terminal. */
static bool console(DWORD which) { return GetConsoleMode(GetStdHandle(which), &(DWORD){ 0 }); }

bool line_typed(void) { return console(STD_INPUT_HANDLE); }
bool line_terminal(void) { return console(STD_INPUT_HANDLE) && console(STD_OUTPUT_HANDLE); }

/* The console delivers UTF-16. */
static LineResult read_plain(LineEditor *e) {
    wchar_t wide[512];
    char bytes[4 * 512];
    DWORD count;
    do {
        if (!ReadConsoleW(GetStdHandle(STD_INPUT_HANDLE), wide, 512, &count, NULL) || count == 0 ||
            (e->text.size == 0 && wide[0] == 26)) return interrupted ? LINE_BREAK : LINE_END;
        int n = WideCharToMultiByte(CP_UTF8, 0, wide, (int)count, bytes, sizeof bytes, NULL, NULL);
        if (!append(&e->text, bytes, (size_t)(n > 0 ? n : 0))) return LINE_FAILED;
    } while (wide[count - 1] != '\n');
    while (e->text.size > 0 && strchr("\r\n", e->text.data[e->text.size - 1])) e->text.size--;
    return LINE_TEXT;
}
#else
bool line_typed(void) { return false; }
bool line_terminal(void) { return false; }
static LineResult read_plain(LineEditor *e) {
    for (int byte; (byte = getchar()) != '\n'; ) {
        char one = (char)byte;
        if (byte == EOF) return e->text.size > 0 ? LINE_TEXT : LINE_END;
        if (byte != 0 && !append(&e->text, &one, 1)) return LINE_FAILED;
    }
    return LINE_TEXT;
}
#endif

LineEditor *line_open(const char *history) {
    LineEditor *e = calloc(1, sizeof *e);
    (void)history;
    if (!e || (e->history = calloc(HISTORY_MOST, sizeof *e->history)) == NULL) {
        free(e);
        return NULL;
    }
    signal(SIGINT, on_interrupt);
    return e;
}

LineResult line_read(LineEditor *e, const char *prompt, char **text) {
    *text = NULL;
    e->text.size = 0;
    interrupted = 0;
    fputs(prompt, stdout);
    fflush(stdout);
    LineResult result = read_plain(e);
    interrupted = 0;
    if (result == LINE_TEXT && (*text = copy_text(e->text.data, e->text.size)) == NULL) result = LINE_FAILED;
    return result;
}

void line_close(LineEditor *e) {
    if (!e) return;
    signal(SIGINT, SIG_DFL);
    while (e->n_history > 0) free(e->history[--e->n_history]);
    free(e->history);
    free(e->text.data);
    free(e);
}

#endif
