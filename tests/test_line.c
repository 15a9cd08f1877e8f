/* test_line.c: how wide characters are, and the line editor as it is on a terminal: a child process reads lines on a
   pseudo terminal, this one presses the keys, and a small terminal of our own shows what would be seen. Run from the
   repository's root; the history is written beside the test program. */
#if !defined(_WIN32)
#define _XOPEN_SOURCE 700
#define _DEFAULT_SOURCE                     /* TIOCSWINSZ */
#define _DARWIN_C_SOURCE
#endif
#include "greatest.h"
#include "../cli/line.h"
#include "terminal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LENGTH(array) (sizeof(array) / sizeof(array)[0])

/* ---------------------------------------------------------------------------------------------------------- width.c */

static int width_of(const char *text) {
    int width = 0;
    uint32_t code;
    for (size_t at = 0, size = strlen(text); at < size; width += character_width(code))
        at += character(text + at, size - at, &code);
    return width;
}

/* By glibc's wcwidth, which terminals go by, and by Unicode's own tables. */
TEST widths(void) {
    static const struct { const char *text; int width; } CASES[] = {
        { "smolvlm", 7 }, { "Größe", 5 }, { "Gro\xcc\x88\xc3\x9f" "e", 5 }, { "你好", 4 }, { "こんにちは", 10 },
        { "한국어", 6 },
        { "\xe1\x84\x92\xe1\x85\xa1\xe1\x86\xab", 2 }, { "ｶﾀｶﾅ", 4 }, { "ＡＢ", 4 }, { "🙂", 2 }, { "€", 1 }, { "…", 1 },
        { "\xe2\x80\x8b", 0 }, { "\xc2\xad", 1 }, { "नि", 2 }, { "ก็", 1 }, { "עִ", 1 }, { "─", 1 },
        { "\xf0\xa0\x80\x80", 2 },
        { "\xf3\xa0\x84\x80", 0 }, { "\xef\xb8\x8f", 0 }, { "⚡", 2 }, { "\xff\xfe", 2 }, { "", 0 },
    };
    for (size_t i = 0; i < LENGTH(CASES); i++) ASSERT_EQ_FMT(CASES[i].width, width_of(CASES[i].text), "%d");
    PASS();
}

/* All code points. Where one is a character, Python's unicodedata was asked, by hand, for each. */
#define ZEROS       72405
#define WIDES       191879
#define WIDTHS_HASH 0xa8e06f323b1c5dddu
TEST widths_of_all(void) {
    int count[3] = { 0 };
    uint64_t hash = 0xcbf29ce484222325u;
    for (uint32_t code = 0; code < 0x110000; code++) {
        int width = character_width(code);
        count[width]++;
        hash = (hash ^ (uint64_t)width) * 0x100000001b3u;
    }
    ASSERT_EQ_FMT(ZEROS, count[0], "%d");
    ASSERT_EQ_FMT(WIDES, count[2], "%d");
    ASSERT_EQ_FMT((unsigned long long)WIDTHS_HASH, (unsigned long long)hash, "%llx");
    PASS();
}

TEST broken_utf8(void) {
    static const char *const CASES[] = {
        "\x80", "\xc3", "\xc0\x80", "\xe0\x80\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xf8", "\xff", "\xe4\xbd",
        "\xf0\x9f\x99",
    };
    for (size_t i = 0; i < LENGTH(CASES); i++) {
        uint32_t code;
        ASSERT_EQ_FMT((size_t)1, character(CASES[i], strlen(CASES[i]), &code), "%zu");
        ASSERT_EQ_FMT(0xFFFDu, (unsigned)code, "%x");
    }
    PASS();
}

/* Forwards and backwards, through the same places. */
TEST characters_that_join(void) {
    static const struct { const char *text; int count; } CASES[] = {
        { "abc", 3 }, { "Gro\xcc\x88\xc3\x9f" "e", 5 }, { "👩\xe2\x80\x8d👧", 1 }, { "👍🏽!", 2 }, { "a\n\xcc\x88" "b", 4 },
        { "你\n好", 3 }, { "\xcc\x88", 1 }, { "\xff\xff", 2 },
    };
    for (size_t i = 0; i < LENGTH(CASES); i++) {
        const char *text = CASES[i].text;
        size_t size = strlen(text), places[16] = { 0 };
        int count = 0;
        while (places[count] < size) {
            places[count + 1] = next_character(text, size, places[count]);
            count++;
        }
        ASSERT_EQ_FMT(CASES[i].count, count, "%d");
        for (; count > 0; count--)
            ASSERT_EQ_FMT(places[count - 1], previous_character(text, size, places[count]), "%zu");
        ASSERT_EQ_FMT((size_t)0, previous_character(text, size, 0), "%zu");
    }
    PASS();
}

SUITE(characters) {
    RUN_TEST(widths);
    RUN_TEST(widths_of_all);
    RUN_TEST(broken_utf8);
    RUN_TEST(characters_that_join);
}

#if defined(HAVE_TERMINAL)
/* ------------------------------------------------------------------------------------------------ the child process */

static char history_path[1024];
static int lines[2] = { -1, -1 };           /* a pipe: what the child has read, each with a zero byte */
static char wanted[sizeof seen];

/* Shows each line it has read in brackets, its line ends as |; "wait": as if an answer took its time, until Ctrl-C. */
static void read_lines(const char *history) {
    LineEditor *e = line_open(history);
    LineResult result;
    char *text;
    while (e && (result = line_read(e, "> ", &text)) != LINE_END) {
        if (result == LINE_BREAK) puts("break");
        if (result == LINE_FAILED) puts("failed");
        if (!text) continue;
        line_remember(e, text);
        if (write(lines[1], text, strlen(text) + 1) < 0) break;
        for (char *c = text; *c; c++) *c = *c == '\n' ? '|' : *c == '\t' ? '?' : *c;
        bool wait = strcmp(text, "wait") == 0;
        printf("[%s]\n", text);
        if (wait) puts("waiting");
        fflush(stdout);
        while (wait && !line_interrupted()) nanosleep(&(struct timespec){ 0, 1000000 }, NULL);
        if (wait) puts("interrupted");
        free(text);
    }
    line_close(e);
    puts("end");
}

static bool line_read_by_child(char *text, size_t size) {
    struct pollfd in = { .fd = lines[0], .events = POLLIN };
    for (int waited = 0; waited < 4000 && poll(&in, 1, 5) == 0; waited++) take_output(0);
    ssize_t n = poll(&in, 1, 0) > 0 ? read(lines[0], text, size) : 0;
    return n > 0 && text[n - 1] == 0;
}

static bool start(int columns, int rows, const char *history, const char *term) {
    for (int i = 0; i < 2; i++) if (lines[i] >= 0) close(lines[i]);
    return pipe(lines) == 0 && begin(columns, rows, term, read_lines, history);
}

#define BEGIN(columns, rows, history, term)                                                                            \
    do {                                                                                                               \
        end();                                                                                                         \
        if (!start(columns, rows, history, term)) SKIPm("there is no pseudo terminal");                                \
        ASSERT(shows(">", 2, 0));                                                                                      \
    } while (0)

/* Keys, and the line that they make. */
static enum greatest_test_res types(int columns, const char *keys, const char *line) {
    BEGIN(columns, 100, NULL, "xterm");
    ASSERTm("bracketed paste is on", screen.pastes);
    press(keys);
    press("\r");
    ASSERT(line_read_by_child(wanted, sizeof wanted));
    for (char *c = wanted; *c; c++) if (*c == '\n') *c = '|';
    ASSERT_STR_EQ(line, wanted);
    press("\x04");
    int status = ended();
    ASSERT_EQ_FMT(0, status, "%d");
    ASSERT_EQm(screen.unknown, NULL, screen.unknown);
    ASSERT(restored());
    end();
    PASS();
}

#define LEFT "\x1b[D"
#define RIGHT "\x1b[C"
#define UP "\x1b[A"
#define DOWN "\x1b[B"
#define HOME "\x1b[H"
#define END "\x1b[F"
#define PASTED(text) "\x1b[200~" text "\x1b[201~"

TEST editing_keys(void) {
    static const char *const CASES[][2] = {
        { "hello", "hello" },
        { "hllo" LEFT LEFT LEFT "e", "hello" },
        { "ello" HOME "h" END "!", "hello!" },
        { "ello\x01h\x05!", "hello!" },
        { "\x1b[4~ello\x1b[1~h\x1b[8~!\x1bOH<\x1bOF>", "<hello!>" },
        { "helloo\x7f", "hello" }, { "helloo\b", "hello" }, { "\x7f\b" LEFT RIGHT "x", "x" },
        { "hhello" HOME "\x1b[3~", "hello" }, { "hhello\x01\x04", "hello" }, { "ab\x02\x02\x06x", "axb" },
        { "hello world\x01\x06\x06\x0b", "he" }, { "hello world" LEFT LEFT "\x15", "ld" },
        { "hello world\x17", "hello " }, { "hello-world  \x17", "" }, { "one two\x17\x17three\x19", "threeone " },
        { "hello world\x17\x01\x19", "worldhello " },
        { "ehllo\x01\x06\x14", "hello" }, { "helol\x14", "hello" }, { "x\x14\x01\x14", "x" },
        { "one two-three\x1b" "b\x1b" "b!\x1b" "f?", "one !two?-three" },
        { "one two\x1b[1;5D\x1b[1;5D<\x1b[1;3C>", "<one> two" }, { "one two\x1b\x1b[D!", "one tw!o" },
        { "one two.\x1b\x7f", "one " }, { "one two\x01\x1b" "d", " two" },
        { "so\x1b[5~\x1b[15~\x1b[[A\x1b[?1;2c\x1bOP\x1bq rt", "so rt" },                /* keys that mean nothing */
        { "a\tb", "a\tb" }, { "a\x1e" "b\x1f", "ab" },
        { "Gr\xc3\xb6\xc3\x9f" "e" LEFT LEFT LEFT "x", "Grxöße" }, { "你好吗" LEFT LEFT "\x7f", "好吗" },
        { "o\xcc\x88u\xcc\x88\x7f", "o\xcc\x88" }, { "👩\xe2\x80\x8d👧x" LEFT "\x7f", "x" }, { "👍🏽" LEFT "x", "x👍🏽" },
        { "好你\x14", "你好" }, { "a\xff" "b\x7f", "a\xff" }, { "a\xe4\xbd" "b", "a\xe4\xbd" "b" },
        { "one\x1b\rtwo\x1b\nthree", "one|two|three" }, { "one\x1b\rtwo\x01x\x7f\x7f", "onetwo" },
        { "one\x1b\rtwo\x01" "<\x05>" UP "!", "one!|<two>" }, { "one\x1b\rtwo" UP "\x0b", "onetwo" },
        { "one\x1b\rtwo\x15", "one|" }, { "你好\x1b\rabc" UP "x" DOWN "y", "你好x|abcy" },
    };
    for (size_t i = 0; i < LENGTH(CASES); i++) CHECK_CALL(types(40, CASES[i][0], CASES[i][1]));
    PASS();
}

TEST pastes(void) {
    static const char *const CASES[][2] = {
        { PASTED("one\ntwo"), "one|two" },
        { "<" PASTED("one\r\ntwo\rthree\r\n") ">", "<one|two|three>" },
        { PASTED("a\x1b[A\x03\x04\x7f\x01" "b\x1b[201"), "a[Ab[201" },
        { PASTED("\x1b\x1b[200~x\x1b"), "[200~x" },
        { PASTED("") "x", "x" }, { PASTED("\n"), "" }, { PASTED("a\tb"), "a\tb" },
        { "one" LEFT PASTED("你\n\n好"), "on你||好e" },
    };
    for (size_t i = 0; i < LENGTH(CASES); i++) CHECK_CALL(types(40, CASES[i][0], CASES[i][1]));
    static char keys[40000], line[40000];
    strcpy(keys, "\x1b[200~");
    for (int i = 0; i < 1000; i++) {
        sprintf(keys + strlen(keys), "line %d\n", i);
        sprintf(line + strlen(line), "%sline %d", i ? "|" : "", i);
    }
    strcat(keys, "\x1b[201~");
    BEGIN(80, 24, NULL, "xterm");
    press(keys);
    ASSERTm("of what is too high, the end is shown", ends_with("line 997\nline 998\nline 999"));
    ASSERT_EQ_FMT(23, screen.y, "%d");
    press(UP UP UP UP UP UP UP UP UP UP UP UP UP UP UP UP UP UP UP UP UP UP UP UP UP UP "!");
    ASSERTm("... then the rows around the cursor", ends_with("line 994\nline 995\nline 996"));
    ASSERT_EQ_FMT(0, screen.y, "%d");
    ASSERT_STR_EQ("line 973!", row_text(&screen, 0, seen));
    press("\x03");
    ASSERT(ends_with("line 998\nline 999^C\nbreak\n>"));
    end();
    PASS();
}

TEST rows_of_40_columns(void) {
    BEGIN(40, 12, NULL, "xterm");
    press("12345678901234567890123456789012345678");
    ASSERT(shows("> 12345678901234567890123456789012345678", 0, 1));
    press(LEFT);
    ASSERT(shows("> 12345678901234567890123456789012345678", 39, 0));
    press(END "9");
    ASSERT(shows("> 12345678901234567890123456789012345678\n9", 1, 1));
    press("\x7f\x7f");
    ASSERT(shows("> 1234567890123456789012345678901234567", 39, 0));
    press("\x15" "1234567890123456789012345678901234567你");
    ASSERTm("a wide one goes to the next row", shows("> 1234567890123456789012345678901234567\n你", 2, 1));
    press(LEFT);
    ASSERT(shows("> 1234567890123456789012345678901234567\n你", 0, 1));
    press(LEFT "\x7f");
    ASSERT(shows("> 123456789012345678901234567890123457你", 37, 0));
    press("\x05\x15" "你好你好你好你好你好你好你好你好你好o\xcc\x88" "e\xcc\x81" "好");
    ASSERT(shows("> 你好你好你好你好你好你好你好你好你好o\xcc\x88" "e\xcc\x81\n好", 2, 1));
    press("\x7f\x7f\x1b\r");
    ASSERTm("after a full row an empty one", shows("> 你好你好你好你好你好你好你好你好你好o\xcc\x88", 0, 1));
    press("\x7f\x15");
    ASSERT(shows(">", 2, 0));
    press("one\x1b\rtwo" HOME UP);
    ASSERT(shows("> one\ntwo", 2, 0));
    press("\r");
    ASSERTm("what follows begins below all of it", shows("> one\ntwo\n[one|two]\n>", 2, 3));
    press("\x0c");
    ASSERT(shows(">", 2, 0));
    ASSERT_EQm(screen.unknown, NULL, screen.unknown);
    end();
    PASS();
}

/* Whatever is typed, the screen shows what it would show if prompt and text were simply printed. */
TEST random_keys(int columns) {
    static const char *const KEYS[] = {
        "a", "b", " ", "word", "ö", "o\xcc\x88", "你", "🙂", "한국", "\x1b\r", LEFT, LEFT, RIGHT, UP, DOWN, HOME, END,
        "\x7f", "\x1b[3~", "\x17", "\x19", "\x14", "\x0b", "\x1b" "b", "\x1b" "f", PASTED("two\nlines"),
        PASTED("一二三四五六七八九十"),
        "12345678901234567890",
    };
    static Screen plain;
    uint32_t random = (uint32_t)columns;
    for (int round = 0; round < 40; round++) {
        char text[4096];
        BEGIN(columns, MAX_ROWS, NULL, "xterm");
        for (int i = 0; i < 50; i++) {
            random = random * 1664525 + 1013904223;
            press(KEYS[(random >> 16) % LENGTH(KEYS)]);
            if (random >> 30 == 0) take_output(2);          /* drawn here and there */
        }
        press("\r");
        ASSERT(line_read_by_child(text, sizeof text));
        memset(&plain, 0, sizeof plain);
        plain.columns = columns;
        plain.rows = MAX_ROWS;
        feed_text(&plain, "> ");
        feed_text(&plain, text);
        if (plain.full) feed_text(&plain, " \r");
        feed_text(&plain, "\n[");
        for (char *c = text; *c; c++) if (*c == '\n') *c = '|';
        feed_text(&plain, text);
        feed_text(&plain, "]");
        plain.full = false;
        feed_text(&plain, "\n> ");
        screen_text(&plain, wanted);
        ASSERT(shows(wanted, plain.x, plain.y));
        ASSERT_EQm(screen.unknown, NULL, screen.unknown);
    }
    end();
    PASS();
}

/* ---------------------------------------------------------------------------------------------------------- history */

static void write_history_file(const char *text) {
    FILE *file = fopen(history_path, "wb");
    if (!file || fputs(text, file) < 0 || fclose(file) != 0) exit(EXIT_FAILURE);
}

static const char *history_file(void) {
    FILE *file = fopen(history_path, "rb");
    size_t size = file ? fread(wanted, 1, sizeof wanted - 1, file) : 0;
    wanted[size] = 0;
    if (file) fclose(file);
    return file ? wanted : "no file";
}

TEST history(void) {
    struct stat file;
    remove(history_path);
    BEGIN(40, 24, history_path, "xterm");
    press("first\rsecond\x1b\rline\rthird \\n\rthird \\n\r");
    ASSERT(ends_with("[third \\n]\n>"));
    press(UP UP);
    ASSERT(ends_with("> second\nline"));
    press(UP UP);
    ASSERT(ends_with("> first"));
    press(UP "!" DOWN DOWN DOWN);
    ASSERT(ends_with("]\n>"));
    press("draft" UP);
    ASSERT(ends_with("> third \\n"));
    press(DOWN);
    ASSERT(ends_with("> draft"));
    press("\x10\x10\x0e\x0e\x15\x04");
    int status = ended();
    ASSERT_EQ_FMT(0, status, "%d");
    end();
    ASSERT_STR_EQ("first\nsecond\\nline\nthird \\\\n\n", history_file());
    ASSERT_EQ(0, stat(history_path, &file));
    ASSERT_EQ_FMT(0600u, (unsigned)(file.st_mode & 0777), "%o");

    BEGIN(40, 24, history_path, "xterm");          /* another conversation finds it */
    press(UP UP);
    ASSERT(shows("> second\nline", 4, 1));
    write_history_file("other\n");                          /* ... and keeps what a third one has added */
    press("\x03more\r");
    ASSERT(ends_with("[more]\n>"));
    ASSERT_STR_EQ("other\nmore\n", history_file());
    press(UP UP);
    ASSERT(ends_with("> other"));
    end();

    write_history_file("");
    FILE *longer = fopen(history_path, "ab");
    ASSERT(longer);
    for (int i = 0; i < 1500; i++) fprintf(longer, "%d\n", i);
    fclose(longer);
    BEGIN(40, 24, history_path, "xterm");
    press("last\r");
    ASSERT(ends_with("[last]\n>"));
    ASSERT_EQ(0, strncmp(history_file(), "501\n", 4));     /* the newest 1000 are kept */
    ASSERT_STR_EQ("1499\nlast\n", strstr(wanted, "1499"));
    end();
    remove(history_path);
    PASS();
}

/* A link stays a link; a file that cannot be made stops nothing. */
TEST history_elsewhere(void) {
    char link[1100], before[1024];
    struct stat file;
    snprintf(link, sizeof link, "%s.link", history_path);
    remove(link);
    write_history_file("old\n");
    char *real = realpath(history_path, NULL);
    ASSERT(real);
    int linked = symlink(real, link);
    free(real);
    ASSERT_EQ(0, linked);
    BEGIN(40, 24, link, "xterm");
    press("new\r");
    ASSERT(ends_with("[new]\n>"));
    end();
    ASSERT_EQ(0, lstat(link, &file));
    ASSERT(S_ISLNK(file.st_mode));
    ASSERT_STR_EQ("old\nnew\n", history_file());
    remove(link);
    remove(history_path);
    snprintf(before, sizeof before, "%.900s.none/history", history_path);
    BEGIN(40, 24, before, "xterm");
    press("one\rtwo\r" UP UP);
    ASSERT(ends_with("[two]\n> one"));
    end();
    PASS();
}

TEST history_paths(void) {
    char *path;
    setenv("HOME", "/home/ada", 1);
    unsetenv("XDG_STATE_HOME");
    ASSERT_STR_EQ("/home/ada/.smolvlm_history", path = line_history_path("smolvlm"));
    free(path);
    setenv("XDG_STATE_HOME", "/state", 1);
    ASSERT_STR_EQ("/state/smolvlm_history", path = line_history_path("smolvlm"));
    free(path);
    unsetenv("HOME");
    setenv("XDG_STATE_HOME", "", 1);
    ASSERT_EQ(NULL, line_history_path("smolvlm"));
    PASS();
}

/* ---------------------------------------------------------------------------------------------------------- signals */

TEST ends_and_breaks(void) {
    BEGIN(40, 24, NULL, "xterm");
    press("half a question\x03");
    ASSERT(shows("> half a question^C\nbreak\n>", 2, 2));
    press("ab\x02\x04\x7f\x04");
    int status = ended();
    ASSERT_EQ_FMT(0, status, "%d");
    ASSERT(restored());
    ASSERT(shows("> half a question^C\nbreak\n>\nend", -1, 0));
    end();
    PASS();
}

/* While an answer is made, Ctrl-C is told to who makes it, and nothing that is typed is shown. */
TEST interrupted_answer(void) {
    BEGIN(40, 24, NULL, "xterm");
    press("wait\r");
    ASSERT(shows("> wait\n[wait]\nwaiting", -1, 0));
    press("\x03");
    ASSERT(shows("> wait\n[wait]\nwaiting\ninterrupted\n>", 2, 4));
    press("wait\r");
    ASSERT(ends_with("\nwaiting"));
    press("early");
    take_output(100);
    ASSERTm("what is typed early is not shown yet", ends_with("\nwaiting"));
    kill(child, SIGINT);
    ASSERTm("... and begins the next line", ends_with("interrupted\n> early"));
    press("!\r\x04");
    int status = ended();
    ASSERT_EQ_FMT(0, status, "%d");
    ASSERT(ends_with("[early!]\n>\nend"));
    ASSERT(restored());
    end();
    PASS();
}

/* Signals that end a program end this one, but the terminal is as before. */
TEST deadly_signal(int number) {
    signal(number, SIG_DFL);                                /* nohup and the like ignore it */
    for (int waiting = 0; waiting < 2; waiting++) {
        BEGIN(40, 24, NULL, "xterm");
        press(waiting ? "wait\r" : "text");
        ASSERT(ends_with(waiting ? "\nwaiting" : "> text"));
        ASSERT_FALSE(restored());
        kill(child, number);
        int status = ended();
        ASSERT(WIFSIGNALED(status));
        ASSERT_EQ_FMT(number, WTERMSIG(status), "%d");
        ASSERT(restored());
        end();
    }
    PASS();
}

/* As a shell runs it: it says when the command stops, and how the terminal is then, and brings it back. */
static void stop_and_go_on(const char *history) {
    struct termios now;
    int status;
    pid_t pid = fork();
    if (pid == 0) {
        setpgid(0, 0);
        while (tcgetpgrp(0) != getpid()) nanosleep(&(struct timespec){ 0, 1000000 }, NULL);
        read_lines(history);
        fflush(stdout);
        _exit(0);
    }
    signal(SIGTTOU, SIG_IGN);
    setpgid(pid, pid);
    tcsetpgrp(0, pid);
    while (waitpid(pid, &status, WUNTRACED) == pid && WIFSTOPPED(status)) {
        tcsetpgrp(0, getpid());
        printf("stopped, %s\n", tcgetattr(0, &now) == 0 && (now.c_lflag & ECHO) ? "restored" : "not restored");
        fflush(stdout);
        tcsetpgrp(0, pid);
        kill(-pid, SIGCONT);
    }
}

TEST stopped_by_a_key(void) {
    end();
    if (!begin(40, 24, "xterm", stop_and_go_on, NULL)) SKIPm("there is no pseudo terminal");
    ASSERT(shows(">", 2, 0));
    press("half a question that goes on for two rows");
    ASSERT(shows("> half a question that goes on for two r\nows", 3, 1));
    press("\x1a");
    ASSERT(shows("> half a question that goes on for two r\nows\nstopped, restored\n"
                 "> half a question that goes on for two r\nows", 3, 4));
    press("!\r\x04");
    ASSERT(ends_with("\nows!\n[half a question that goes on for two ro\nws!]\n>\nend"));
    int status = ended();
    ASSERT_EQ_FMT(0, status, "%d");
    ASSERT(restored());
    end();
    PASS();
}

TEST another_size(void) {
    struct winsize size = { .ws_col = 20, .ws_row = 24 };
    BEGIN(40, 24, NULL, "xterm");
    press("eighteen columns..");
    ASSERT(shows("> eighteen columns..", 20, 0));
    memset(&screen, 0, sizeof screen);
    screen.columns = 20;
    screen.rows = 24;
    ASSERT_EQ(0, ioctl(master, TIOCSWINSZ, &size));
    press("");
    ASSERT(shows("> eighteen columns..", 0, 1));
    press("more");
    ASSERT(shows("> eighteen columns..\nmore", 4, 1));
    end();
    PASS();
}

TEST no_such_terminal(void) {
    BEGIN(40, 24, NULL, "dumb");
    press("question\n");
    ASSERT(shows("> question\n[question]\n>", 2, 2));
    press("wait\n");
    ASSERT(ends_with("waiting"));
    press("\x03");
    ASSERT(ends_with("interrupted\n>"));
    press("\x04");
    int status = ended();
    ASSERT_EQ_FMT(0, status, "%d");
    ASSERT(restored());
    end();
    PASS();
}

SUITE(on_a_terminal) {
    RUN_TEST(editing_keys);
    RUN_TEST(pastes);
    RUN_TEST(rows_of_40_columns);
    RUN_TEST1(random_keys, 40);
    RUN_TEST1(random_keys, 17);
    RUN_TEST(history);
    RUN_TEST(history_elsewhere);
    RUN_TEST(history_paths);
    RUN_TEST(ends_and_breaks);
    RUN_TEST(interrupted_answer);
    RUN_TEST1(deadly_signal, SIGTERM);
    RUN_TEST1(deadly_signal, SIGHUP);
    RUN_TEST1(deadly_signal, SIGQUIT);
    RUN_TEST(stopped_by_a_key);
    RUN_TEST(another_size);
    RUN_TEST(no_such_terminal);
    end();
}
#endif

GREATEST_MAIN_DEFS();

int main(int argc, char **argv) {
    GREATEST_MAIN_BEGIN();
    RUN_SUITE(characters);
#if defined(HAVE_TERMINAL)
    snprintf(history_path, sizeof history_path, "%.900s.history.tmp", argv[0]);
    RUN_SUITE(on_a_terminal);
#endif
    GREATEST_MAIN_END();
}
