/* test_talk.c: the conversation on a terminal, with the tiny model: what is seen is compared with what the library says
   to the whole conversation in one prompt. The program is the one beside this test. Run from the repository's root. */
#if !defined(_WIN32)
#define _XOPEN_SOURCE 700
#define _DEFAULT_SOURCE                     /* TIOCSWINSZ */
#define _DARWIN_C_SOURCE
#endif
#include "greatest.h"
#include "golden.h"
#include "terminal.h"
#include "../model.h"

#if defined(HAVE_TERMINAL)

#define LENGTH(array) (sizeof(array) / sizeof(array)[0])
#define MODEL GOLDEN "vlm_q8.bin"
#define PICTURE GOLDEN "a.png"
#define OTHER GOLDEN "b.ppm"
#define TOKENS 8                            /* of an answer */

static char program[1024], folder[1024];    /* the folder is for files, and is the home directory */
static SvModel *model;
static SvImage pictures[2];

/* ------------------------------------------------------------------------------------------------ the child process */

static const char *words[16];

static void run_program(const char *unused) {
    (void)unused;
    setenv("HOME", folder, 1);
    unsetenv("XDG_STATE_HOME");
    execv(program, (char *const *)words);
}

static void run_without_stdout(const char *unused) {
    int null = open("/dev/null", O_WRONLY);
    dup2(null, 1);
    run_program(unused);
}

/* ------------------------------------------------------------------------------------------------ what must be seen */

static Screen plain;
static char wanted[sizeof seen];

static void expect(const char *text) { feed_text(&plain, text); }

/* Whether all that was expected is what is seen, and the cursor is where it would be. */
static bool as_expected(void) {
    screen_text(&plain, wanted);
    return shows(wanted, plain.x, plain.y);
}

/* A conversation, message after message: a text, and before it pictures by their numbers. */
typedef struct Turn { const char *role, *text; int pictures[2], n_pictures; } Turn;
static Turn turns[32];
static int n_turns;
static char answers[32][1024];

static Turn *add(const char *role, const char *text) {
    turns[n_turns] = (Turn){ .role = role, .text = text };
    return &turns[n_turns++];
}

/* What the library answers to all of it; the answer joins the conversation. */
static const char *answer_of_library(void) {
    SvContent contents[32][3];
    SvMessage messages[32];
    SvOptions options = sv_default_options();
    SvPrompt prompt;
    SvAnswer answer;
    SvError error = { "" };
    memset(contents, 0, sizeof contents);
    options.max_tokens = TOKENS;
    for (int i = 0; i < n_turns; i++) {
        int n = turns[i].n_pictures;
        for (int j = 0; j < n; j++) contents[i][j].image = &pictures[turns[i].pictures[j]];
        contents[i][n].text = turns[i].text;
        messages[i] = (SvMessage){ turns[i].role, contents[i], n + 1 };
    }
    if (sv_prompt(model, messages, n_turns, &options, &prompt, &error) != 0) return puts(error.text), "no prompt";
    if (sv_generate(model, &prompt, &options, NULL, &answer, &error) != 0) return puts(error.text), "no answer";
    char *kept = answers[n_turns];
    snprintf(kept, sizeof answers[0], "%s", answer.text + strspn(answer.text, " \t\r\n"));
    sv_answer_free(&answer);
    sv_prompt_free(&prompt);
    return add("assistant", kept)->text;
}

static void expect_answer(void) {
    const char *text = answer_of_library();
    uint32_t code;
    for (size_t at = 0, size = strlen(text), length; at < size; at += length) {
        char one[8] = "";
        length = character(text + at, size - at, &code);
        memcpy(one, text + at, length);
        bool control = (code < 32 && code != '\n') || (code >= 127 && code < 160);
        expect(control ? "\xef\xbf\xbd" : one);
    }
    expect("\n(cut off after 8 tokens; -n allows more)\n> ");
}

/* Types a line, which is then expected to stand there. */
static void type(const char *line) {
    press(line);
    press("\r");
    expect(line);
    expect("\n");
}

/* smolvlm -q -n 8 and these, up to NULL; the first is the model. */
static bool talk_with(int columns, const char *term, const char *const *more) {
    char limit[16];
    int n = 0;
    snprintf(limit, sizeof limit, "%d", TOKENS);
    words[n++] = program;
    words[n++] = "-q";
    words[n++] = "-n";
    words[n++] = limit;
    while (*more && n < (int)LENGTH(words) - 1) words[n++] = *more++;
    words[n] = NULL;
    end();
    memset(&plain, 0, sizeof plain);
    plain.columns = columns;
    plain.rows = MAX_ROWS;
    n_turns = 0;
    return begin(columns, MAX_ROWS, term, run_program, NULL);
}

#define TALK(width, term, ...)                                                                                         \
    do {                                                                                                               \
        if (!talk_with(width, term, (const char *const[]){ __VA_ARGS__, NULL }))                                       \
            SKIPm("there is no pseudo terminal");                                                                      \
    } while (0)
#define LEAVES()                                                                                                       \
    do {                                                                                                               \
        press("\x04");                                                                                                 \
        int status = ended();                                                                                          \
        if (status != 0) puts(row_text(&screen, screen.y > 0 ? screen.y - 1 : 0, seen));                               \
        ASSERT_EQ_FMT(0, status, "%d");                                                                                \
        ASSERT(restored());                                                                                            \
        ASSERT_EQm(screen.unknown, NULL, screen.unknown);                                                              \
        end();                                                                                                         \
    } while (0)

TEST questions_and_pictures(void) {
    TALK(100, "xterm", MODEL);
    expect("> ");
    ASSERT(as_expected());
    type("/image " PICTURE);
    expect("(" PICTURE ", 50 x 37: ask about it)\n> ");
    ASSERT(as_expected());
    type("What is in this picture?");
    *add("user", "What is in this picture?") = (Turn){ "user", "What is in this picture?", { 0 }, 1 };
    expect_answer();
    ASSERT(as_expected());
    type("And where?");
    add("user", "And where?");
    expect_answer();
    ASSERT(as_expected());

    type("/undo");
    expect("(taken back: And where?)\n> ");
    n_turns -= 2;
    type("Why?");
    add("user", "Why?");
    expect_answer();
    ASSERT(as_expected());

    type("/system Be brief.");                              /* before all of it, from here on */
    expect("(the system message from here on)\n> ");
    memmove(turns + 1, turns, sizeof *turns * (size_t)n_turns++);
    turns[0] = (Turn){ .role = "system", .text = "Be brief." };
    type("And this?");
    add("user", "And this?");
    expect_answer();
    type("/system");
    expect("Be brief.\n> ");
    ASSERT(as_expected());

    type("/clear");
    expect("(forgotten; the system message stays)\n> ");
    n_turns = 1;
    type("/image " PICTURE " " OTHER);
    expect("(" PICTURE ", 50 x 37: ask about it)\n(" OTHER ", 29 x 44: ask about these 2)\n> ");
    type("Which is which?");
    *add("user", "") = (Turn){ "user", "Which is which?", { 0, 1 }, 2 };
    expect_answer();
    ASSERT(as_expected());
    type("/system -");
    expect("(no system message from here on)\n> ");
    memmove(turns, turns + 1, sizeof *turns * (size_t)--n_turns);
    type("Sure?");
    add("user", "Sure?");
    expect_answer();
    ASSERT(as_expected());
    LEAVES();
    PASS();
}

TEST options_begin_it(void) {
    TALK(100, "xterm", MODEL, "-i", OTHER, "-s", "Be brief.");
    expect("(the system message from here on)\n(" OTHER ", 29 x 44: ask about it)\n> ");
    ASSERT(as_expected());
    type("What?");
    add("system", "Be brief.");
    *add("user", "") = (Turn){ "user", "What?", { 1 }, 1 };
    expect_answer();
    ASSERT(as_expected());
    LEAVES();
    PASS();
}

static bool copy_file(const char *from, const char *to) {
    FILE *in = fopen(from, "rb"), *out = fopen(to, "wb");
    if (!in || !out) return false;
    for (int byte; (byte = getc(in)) != EOF; ) putc(byte, out);
    fclose(in);
    return fclose(out) == 0;
}

/* As terminals write the names of what is dropped on them. */
TEST dropped_names(void) {
    static const char *const LINES[] = {
        "%s/a picture.png", "'%s/a picture.png'", "\"%s/a picture.png\" ", "%s/a\\ picture.png",
        "file://%s/a%%20picture.png", "~/a\\ picture.png", "/image %s/a picture.png", "/image '%s/a picture.png'",
    };
    char line[4096], shown[4096], path[2048];
    snprintf(path, sizeof path, "%s/a picture.png", folder);
    ASSERT(copy_file(PICTURE, path));
    TALK(100, "xterm", MODEL);
    expect("> ");
    for (size_t i = 0; i < LENGTH(LINES); i++) {
        ASSERT(as_expected());
        snprintf(line, sizeof line, LINES[i], folder);
        snprintf(shown, sizeof shown, "(%s, 50 x 37: ask about it)\n> ", path);
        type(line);
        expect(shown);
        ASSERT(as_expected());
        type("/undo");
        expect("(1 picture taken back)\n> ");
    }
    snprintf(line, sizeof line, "'%s/a picture.png' %s", folder, OTHER);
    type(line);
    snprintf(shown, sizeof shown, "(%s, 50 x 37: ask about it)\n(%s, 29 x 44: ask about these 2)\n> ", path, OTHER);
    expect(shown);
    ASSERT(as_expected());
    type("/clear");
    expect("(forgotten)\n> ");
    type("/no/such.png");
    expect("smolvlm: /no/such.png: no such file\n> ");
    type("/no");
    expect("smolvlm: /no: no such command; /help lists them\n> ");
    type("/image none.png");
    expect("smolvlm: none.png: cannot be opened: No such file or directory\n> ");
    type("/image -");                                       /* not stdin, which would be the terminal */
    expect("smolvlm: ./-: cannot be opened: No such file or directory\n> ");
    type("/load -");
    expect("smolvlm: ./-: No such file or directory\n> ");
    type("/image");
    expect("smolvlm: /image FILE ...\n> ");
    type("./Makefile");                                     /* a file, but no picture */
    expect("smolvlm: ./Makefile: not a picture that is read here: neither PNG, JPEG nor PNM (PBM, PGM, PPM)\n> ");
    ASSERT(as_expected());
    type("{image} is what?");
    expect("smolvlm: {image} stands in the question 1 time, but there are 0 pictures for it\n> ");
    type("/undo");
    expect("(there is nothing to take back)\n> ");
    ASSERT(as_expected());
    LEAVES();
    remove(path);
    PASS();
}

TEST completed_names(void) {
    static const char *const NAMES[] = { "one picture.png", "one.png", "one\x1b[2J" };      /* the last is not shown */
    char path[LENGTH(NAMES)][2048], shown[4096];
    for (size_t i = 0; i < LENGTH(NAMES); i++) {
        snprintf(path[i], sizeof path[i], "%s/%s", folder, NAMES[i]);
        FILE *file = fopen(path[i], "wb");
        ASSERT(file);
        fclose(file);
    }
    TALK(100, "xterm", MODEL);
    expect("> ");
    ASSERT(as_expected());
    press("/im\t" GOLDEN "a.p\t");
    expect("/image " GOLDEN "a.png ");
    ASSERT(as_expected());
    press("\r");
    expect("\n(" GOLDEN "a.png, 50 x 37: ask about it)\n> ");
    press("/save ~/o\t\t");
    expect("/save ~/one\none picture.png  one.png\n> /save ~/one");
    ASSERT(as_expected());
    press("\\ \t");
    expect("\\ picture.png ");
    ASSERT(as_expected());
    press("\x15/save '");
    press(folder);
    press("/one \t\x01\x0b");
    press("\x19");
    snprintf(shown, sizeof shown, "> /save '%s/one picture.png'", folder);
    ASSERT(ends_with(shown));
    press("\x15what\tabout \t/no/such\t\x01\x0b\x19");
    ASSERT(ends_with("> whatabout /no/such"));
    press("\x15\x04");
    int status = ended();
    ASSERT_EQ_FMT(0, status, "%d");
    end();
    for (size_t i = 0; i < LENGTH(NAMES); i++) remove(path[i]);
    PASS();
}

/* What one conversation saves another loads, and the next answer is the same. */
TEST saved_and_loaded(void) {
    char line[4096], shown[4096], path[2048];
    snprintf(path, sizeof path, "%s/saved.json", folder);
    TALK(100, "xterm", MODEL, "-i", PICTURE);
    expect("(" PICTURE ", 50 x 37: ask about it)\n> ");
    ASSERT(as_expected());
    type("What is \"this\"?");
    *add("user", "") = (Turn){ "user", "What is \"this\"?", { 0 }, 1 };
    expect_answer();
    snprintf(line, sizeof line, "/save %s", path);
    type(line);
    snprintf(shown, sizeof shown, "(2 messages in %s)\n> ", path);
    expect(shown);
    ASSERT(as_expected());
    LEAVES();

    Turn before[2] = { turns[0], turns[1] };
    TALK(100, "xterm", MODEL);
    expect("> ");
    ASSERT(as_expected());
    snprintf(line, sizeof line, "/load %s", path);
    type(line);
    snprintf(shown, sizeof shown, "(2 messages, 1 picture from %s)\n> ", path);
    expect(shown);
    ASSERT(as_expected());
    type("And now?");
    memcpy(turns, before, sizeof before);
    n_turns = 2;
    add("user", "And now?");
    expect_answer();
    ASSERT(as_expected());
    snprintf(line, sizeof line, "/save %s/none/saved.json", folder);
    type(line);
    snprintf(shown, sizeof shown, "smolvlm: %s/none/saved.json.part: No such file or directory\n> ", folder);
    expect(shown);
    type("/load Makefile");
    expect("smolvlm: Makefile: line 1, column 1: a value is expected\n> ");
    ASSERT(as_expected());
    LEAVES();
    remove(path);
    PASS();
}

/* A folder of pictures is a video, where the demo's file has settings for one. */
TEST videos(void) {
    static const char DEMO[] = "demo/demo.bin";
    char clip[1100], path[2][1200], line[2400], saved[4096] = "";
    SvModel *demo;
    SvError error;
    ASSERT_EQ(0, sv_open(DEMO, &demo, &error));
    bool takes = demo->config.video_num_frames > 0;
    sv_close(demo);
    snprintf(clip, sizeof clip, "%s/clip", folder);
    mkdir(clip, 0777);
    for (int i = 0; i < 2; i++) {
        snprintf(path[i], sizeof path[i], "%s/%d.png", clip, i + 1);
        ASSERT(copy_file(PICTURE, path[i]));
    }
    TALK(100, "xterm", DEMO, "--video-fps", "1", "--video", clip);
    if (takes) {
        snprintf(line, sizeof line, "(%s, 2.0 s, 2 frames: ask about it)\n> ", clip);
        expect(line);
        ASSERT(as_expected());
        type(OTHER);
        expect("(" OTHER ", 29 x 44: ask about these 2)\n> ");
        ASSERT(as_expected());
        press("Of {image} and {video}, which moves?\r");
        ASSERT(ends_with("\n>"));
        snprintf(line, sizeof line, "/save %s/saved.json\r", clip);
        press(line);
        ASSERT(ends_with("saved.json)\n>"));
        LEAVES();
        snprintf(line, sizeof line, "%s/saved.json", clip);
        FILE *file = fopen(line, "rb");
        ASSERT(file);
        saved[fread(saved, 1, sizeof saved - 1, file)] = 0;
        fclose(file);
        remove(line);
        ASSERT(strstr(saved, "[{\"role\": \"user\", \"content\": [{\"type\": \"text\", \"text\": \"Of \"}, "
                             "{\"type\": \"image\", \"path\": \"/"));
        snprintf(line, sizeof line, "{\"type\": \"text\", \"text\": \" and \"}, "
                 "{\"type\": \"video\", \"path\": \"%s\"}, {\"type\": \"text\", \"text\": \", which moves?\"}]}", clip);
        ASSERT(strstr(saved, line));
    } else {
        ASSERT(ends_with("takes no video: the model has no settings for it\n>"));
        LEAVES();
    }
    for (int i = 0; i < 2; i++) remove(path[i]);
    rmdir(clip);
    PASS();
}

/* Questions until the context is full: the oldest leave, and it goes on. */
TEST full_context(void) {
    char question[256];
    TALK(100, "xterm", MODEL, "-s", "Be brief.");
    ASSERT(ends_with(">"));
    for (int i = 1; i <= 6; i++) {
        memset(question, 0, sizeof question);
        snprintf(question, sizeof question, "Question %d", i);
        memset(question + strlen(question), 'a' + i, 120);
        press(question);
        press("\r");
        ASSERT(ends_with("(cut off after 8 tokens; -n allows more)\n>"));
        ASSERT_EQ(i == 5, strstr(seen, "(the context is full: dropped \"Question 1bbb") != NULL);
        press("\x0c");
        ASSERT(shows(">", 2, 0));
    }
    press("/undo\r");
    ASSERT(ends_with("ggg...)\n>"));
    memset(question, 'x', sizeof question - 1);
    question[sizeof question - 1] = 0;
    for (int i = 0; i < 4; i++) press(question);
    press("\r");
    ASSERT(ends_with("tokens, more than the context of 640\n>"));
    ASSERT_EQm("what is too long drops nothing", NULL, strstr(seen, "the context is full"));
    press("/undo\r");
    ASSERT(ends_with("fff...)\n>"));
    end();
    PASS();
}

/* Ctrl-C while a picture is looked at: the question is taken back, the picture is not. It may come too late, so it is
   tried until it does not. */
TEST interrupted(void) {
    static const char DEMO[] = "demo/demo.bin", RECEIPT[] = "demo/pictures/receipt.jpg";
    for (int attempt = 0; attempt < 5; attempt++) {
        end();
        words[0] = program;
        words[1] = DEMO;
        words[2] = "-i";
        words[3] = RECEIPT;
        words[4] = NULL;
        if (!begin(100, MAX_ROWS, "xterm", run_program, NULL)) SKIPm("there is no pseudo terminal");
        ASSERT(ends_with("ask about it)\n>"));
        press("How much was the bacon?\r");
        for (int waited = 0; waited < 2000 && (screen_text(&screen, seen), !strstr(seen, "\ntile ")); waited++)
            take_output(10);
        press("\x03");
        for (int waited = 0; waited < 2000 && (screen_text(&screen, seen), !strstr(seen, "taken back)\n>")) &&
                             !strstr(seen, "\n3.18\n>"); waited++) take_output(10);
        if (!strstr(seen, "(stopped; the question is taken back)\n>")) continue;
        press("/undo\r");
        ASSERT(ends_with("(1 picture taken back)\n>"));
        LEAVES();
        PASS();
    }
    FAILm("five times the answer was there before Ctrl-C");
}

TEST help_in_40_columns(void) {
    char row[MAX_COLUMNS * 32];
    TALK(40, "xterm", MODEL);
    ASSERT(ends_with(">"));
    press("/help\r");
    ASSERT(ends_with("Ctrl-D leaves.\n>"));
    for (int y = 0; y < screen.rows; y++)
        ASSERT_FALSEm("no line of it wraps", strlen(row_text(&screen, y, row)) == 40);
    LEAVES();
    PASS();
}

TEST other_terminals(void) {
    TALK(80, "dumb", MODEL);
    expect("> ");
    ASSERT(as_expected());
    press("Hello?\n");
    expect("Hello?\n");
    add("user", "Hello?");
    expect_answer();
    ASSERT(as_expected());
    LEAVES();

    words[0] = program;                                     /* stdin alone is a terminal */
    words[1] = MODEL;
    words[2] = NULL;
    ASSERT(begin(100, 24, "xterm", run_without_stdout, NULL));
    int status = ended();
    ASSERT(WIFEXITED(status));
    ASSERT_EQ_FMT(2, WEXITSTATUS(status), "%d");
    screen_text(&screen, seen);
    ASSERT(strstr(seen, "smolvlm: what is the question?"));
    end();
    PASS();
}

SUITE(conversation) {
    RUN_TEST(questions_and_pictures);
    RUN_TEST(options_begin_it);
    RUN_TEST(dropped_names);
    RUN_TEST(completed_names);
    RUN_TEST(saved_and_loaded);
    RUN_TEST(videos);
    RUN_TEST(full_context);
    RUN_TEST(interrupted);
    RUN_TEST(help_in_40_columns);
    RUN_TEST(other_terminals);
    end();
}
#endif

GREATEST_MAIN_DEFS();

int main(int argc, char **argv) {
    GREATEST_MAIN_BEGIN();
#if defined(HAVE_TERMINAL)
    SvError error;
    const char *slash = strrchr(argv[0], '/');
    snprintf(program, sizeof program, "%.*s/smolvlm", slash ? (int)(slash - argv[0]) : 1, slash ? argv[0] : ".");
    snprintf(folder, sizeof folder, "%.900s.tmp", argv[0]);
    mkdir(folder, 0777);
    char *whole = realpath(folder, NULL);
    if (!whole || sv_open(MODEL, &model, &error) != 0 || sv_image_read(PICTURE, &pictures[0], &error) != 0 ||
        sv_image_read(OTHER, &pictures[1], &error) != 0) return EXIT_FAILURE;
    snprintf(folder, sizeof folder, "%s", whole);
    RUN_SUITE(conversation);
    char history[1100];
    snprintf(history, sizeof history, "%.1000s/.smolvlm_history", folder);
    remove(history);
    rmdir(folder);
    free(whole);
    for (int i = 0; i < 2; i++) sv_image_free(&pictures[i]);
    sv_close(model);
#endif
    GREATEST_MAIN_END();
}
