/* terminal.h: a program on a terminal, for the tests: a child process on a pseudo terminal, whose keys are pressed
   here, and a small VT100 that shows what would be seen. Where there are no pseudo terminals (Windows), nothing of it
   is here, and HAVE_TERMINAL is not defined. */
#ifndef SV_TERMINAL_H
#define SV_TERMINAL_H
#if defined(__unix__) || defined(__APPLE__)
#define HAVE_TERMINAL 1
#include "../cli/line.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

/* ----------------------------------------------------------------------------------------------- a terminal of ours */

enum { MAX_COLUMNS = 100, MAX_ROWS = 120, WIDE_TAIL = 1 };
typedef struct Screen {
    int columns, rows, x, y;
    bool full;                              /* the last column was written: the next character goes to the next row */
    char cells[MAX_ROWS][MAX_COLUMNS][32];  /* "": empty; "\1": the right half of the one before */
    char kept[256];                         /* an escape sequence or a character whose end has not come */
    int n_kept;
    bool pastes;                            /* bracketed paste is on */
    const char *unknown;                    /* a sequence that this terminal does not have: a fault */
} Screen;

static inline void scroll(Screen *s) {
    if (++s->y < s->rows) return;
    s->y = s->rows - 1;
    memmove(s->cells[0], s->cells[1], (size_t)(s->rows - 1) * sizeof s->cells[0]);
    memset(s->cells[s->rows - 1], 0, sizeof s->cells[0]);
}

static inline void clear(Screen *s, int y, int from) {
    for (int x = from; x < s->columns; x++) s->cells[y][x][0] = 0;
}

static inline void show(Screen *s, const char *bytes, size_t size) {
    uint32_t code;
    character(bytes, size, &code);
    int width = character_width(code);
    if (width == 0) {                       /* joins what was written last */
        int x = s->full ? s->columns - 1 : s->x - 1;
        if (x > 0 && s->cells[s->y][x][0] == WIDE_TAIL) x--;
        if (x < 0 || strlen(s->cells[s->y][x]) + size >= sizeof s->cells[0][0]) return;
        memcpy(s->cells[s->y][x] + strlen(s->cells[s->y][x]), bytes, size + 1);
        return;
    }
    if (s->full || s->x + width > s->columns) s->x = 0, s->full = false, scroll(s);
    char *cell = s->cells[s->y][s->x];
    if (cell[0] == WIDE_TAIL) cell[-(int)sizeof s->cells[0][0]] = 0;        /* half of it is gone, so all of it is */
    if (s->x + width < s->columns && s->cells[s->y][s->x + width][0] == WIDE_TAIL) s->cells[s->y][s->x + width][0] = 0;
    memcpy(cell, bytes, size);
    cell[size] = 0;
    if (width == 2) cell[sizeof s->cells[0][0]] = WIDE_TAIL, cell[sizeof s->cells[0][0] + 1] = 0;
    s->x += width;
    if (s->x == s->columns) s->x = s->columns - 1, s->full = true;
}

/* A byte from the program. Erasing clears the cell under the cursor too, also when that cell has just been written. */
static inline void feed(Screen *s, char byte) {
    if (s->n_kept == 0 && (byte == '\r' || byte == '\n')) {
        s->full = false;
        if (byte == '\r') s->x = 0;
        else scroll(s);
        return;
    }
    s->kept[s->n_kept++] = byte;
    s->kept[s->n_kept] = 0;
    if (s->kept[0] == 27) {
        if (s->n_kept < 3 || byte < '@' || byte > '~') return;
        int n = atoi(s->kept + 2), up = n > 0 ? n : 1;
        if (strcmp(s->kept, "\x1b[?2004h") == 0) s->pastes = true;
        else if (strcmp(s->kept, "\x1b[?2004l") == 0) s->pastes = false;
        else if (strcmp(s->kept, "\x1b[H") == 0) s->x = s->y = 0, s->full = false;
        else if (strcmp(s->kept, "\x1b[2J") == 0) memset(s->cells, 0, sizeof s->cells);
        else if (strcmp(s->kept, "\x1b[K") == 0) clear(s, s->y, s->x);
        else if (strcmp(s->kept, "\x1b[J") == 0) {
            clear(s, s->y, s->x);
            for (int y = s->y + 1; y < s->rows; y++) clear(s, y, 0);
        } else if (byte == 'A') s->y = s->y > up ? s->y - up : 0, s->full = false;
        else if (byte == 'C') s->x = s->x + up < s->columns ? s->x + up : s->columns - 1, s->full = false;
        else s->unknown = "an unknown sequence";
    } else {
        unsigned char first = (unsigned char)s->kept[0];
        int length = first < 0xC0 ? 1 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : 4;
        if (s->n_kept < length) return;
        if (first < 32) s->unknown = "a control character";
        show(s, s->kept, (size_t)s->n_kept);
    }
    s->n_kept = 0;
}

/* As printf would print it. After a full row, a line end begins an empty one: that is where the cursor was. */
static inline void feed_text(Screen *s, const char *text) {
    for (; *text; text++) {
        if (*text == '\n' && s->full) feed(s, ' '), feed(s, '\r');
        if (*text == '\n') feed(s, '\r');
        feed(s, *text);
    }
}

/* A row as text, without the spaces at its end. */
static inline const char *row_text(const Screen *s, int y, char *out) {
    size_t size = 0;
    for (int x = 0; x < s->columns; x++) {
        const char *cell = s->cells[y][x];
        if (cell[0] == WIDE_TAIL) continue;
        strcpy(out + size, cell[0] ? cell : " ");
        size += strlen(out + size);
    }
    while (size > 0 && out[size - 1] == ' ') size--;
    out[size] = 0;
    return out;
}

static inline void screen_text(const Screen *s, char *out) {
    char row[MAX_COLUMNS * 32];
    int last = s->rows;
    while (last > 0 && !*row_text(s, last - 1, row)) last--;
    *out = 0;
    for (int y = 0; y < last; y++) {
        strcat(out, row_text(s, y, row));
        if (y + 1 < last) strcat(out, "\n");
    }
}

/* ------------------------------------------------------------------------------------------------ the child process */

static int master = -1, slave = -1;
static pid_t child;
static Screen screen;
static char seen[MAX_ROWS * MAX_COLUMNS * 8];

/* A child process whose terminal this is: there it runs run(argument). Returns false where there is none to be had. */
static inline bool begin(int columns, int rows, const char *term, void (*run)(const char *argument),
                         const char *argument) {
    memset(&screen, 0, sizeof screen);
    screen.columns = columns;
    screen.rows = rows;
    master = posix_openpt(O_RDWR | O_NOCTTY);
    if (master < 0 || grantpt(master) != 0 || unlockpt(master) != 0) return false;
    slave = open(ptsname(master), O_RDWR | O_NOCTTY);
    struct winsize size = { .ws_col = (unsigned short)columns, .ws_row = (unsigned short)rows };
    if (slave < 0 || ioctl(slave, TIOCSWINSZ, &size) != 0) return false;
    fflush(stdout);
    if ((child = fork()) == 0) {
        signal(SIGINT, SIG_DFL);                            /* a script's background job is started with both ignored */
        signal(SIGQUIT, SIG_DFL);
        setsid();
        int terminal = open(ptsname(master), O_RDWR);       /* the session's first terminal is its own */
#ifdef TIOCSCTTY
        ioctl(terminal, TIOCSCTTY, 0);
#endif
        for (int fd = 0; fd < 3; fd++) dup2(terminal, fd);
        close(master);
        close(slave);
        setenv("TERM", term, 1);
        run(argument);
        fflush(stdout);
        _exit(0);
    }
    return child > 0;
}

static inline void end(void) {
    if (child > 0) kill(child, SIGKILL), waitpid(child, NULL, 0);
    if (master >= 0) close(master);
    if (slave >= 0) close(slave);
    master = slave = -1;
    child = 0;
}

static inline void press(const char *keys) {
    for (size_t size = strlen(keys); size > 0; ) {
        ssize_t n = write(master, keys, size);
        if (n <= 0) return;
        keys += n;
        size -= (size_t)n;
    }
}

static inline bool take_output(int patience) {
    char bytes[4096];
    struct pollfd in = { .fd = master, .events = POLLIN };
    if (poll(&in, 1, patience) <= 0) return false;
    ssize_t n = read(master, bytes, sizeof bytes);
    for (ssize_t i = 0; i < n; i++) feed(&screen, bytes[i]);
    return n > 0;
}

/* Waits until the screen shows this, with the cursor there (x < 0: anywhere). */
static inline bool shows(const char *text, int x, int y) {
    for (int waited = 0; waited < 400; ) {
        screen_text(&screen, seen);
        if (strcmp(seen, text) == 0 && (x < 0 || (screen.x == x && screen.y == y && !screen.full))) return true;
        if (!take_output(50)) waited++;
    }
    printf("\nwanted, cursor at %d, %d:\n%s\nseen, cursor at %d, %d%s:\n%s\n", x, y, text, screen.x, screen.y,
           screen.full ? " (full)" : "", seen);
    return false;
}

static inline bool ends_with(const char *text) {
    for (int waited = 0; waited < 400; ) {
        screen_text(&screen, seen);
        size_t size = strlen(seen), tail = strlen(text);
        if (size >= tail && strcmp(seen + size - tail, text) == 0) return true;
        if (!take_output(50)) waited++;
    }
    printf("\nwanted at the end:\n%s\nseen:\n%s\n", text, seen);
    return false;
}

/* The child's end: its wait status; -1 if it does not come. */
static inline int ended(void) {
    int status = -1;
    if (child <= 0) return -1;
    for (int waited = 0; waited < 4000 && waitpid(child, &status, WNOHANG) == 0; waited++) take_output(5), status = -1;
    if (status == -1) kill(child, SIGKILL), waitpid(child, NULL, 0);
    while (take_output(0)) {}
    child = 0;
    return status;
}

/* Whether the terminal is as it was, for the shell that follows. */
static inline bool restored(void) {
    struct termios now;
    return tcgetattr(slave, &now) == 0 && (now.c_lflag & ECHO) && (now.c_lflag & ICANON) && (now.c_lflag & ISIG) &&
           (now.c_iflag & ICRNL) && !screen.pastes;
}

#endif
#endif
