/* eval.c: asks a model the questions of demo/eval, and says how many of its answers are right.

       eval [options] MODEL DIR              make eval [MODEL=file.bin]

   DIR/eval.jsonl (written by evaluate.py) has one question a line, with the names of its pictures, which are in DIR:

     {"id": 0, "skill": "fine", "pictures": ["000.png"], "split": true, "question": "...", "answer": "..."}

   Each question is asked alone, as ./smolvlm would: the pictures in order, then the question, with --no-split where
   split is false. The answer is greedy and at most 160 tokens long. It is right if it has the same words and numbers as
   the expected one. White space at the ends and full stops at the end are ignored; any white space between words counts
   as one space. Capitals matter.

   stdout: one line for each skill and one for all. Exit code 0; 1: fewer than 95 % right in all, or fewer than 90 % in
   a skill of ten or more questions, or an invalid input; 2: wrong usage. */
#if !defined(_WIN32)
#define _POSIX_C_SOURCE 200809L
#endif
#include "model.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if defined(__unix__) || defined(__APPLE__)
#include <unistd.h>
#define stderr_is_terminal() isatty(2)
#else
#define stderr_is_terminal() 0
#endif

static const char HELP[] =
    "eval: asks a model the questions of a folder, and says how many of its answers are right.\n"
    "\n"
    "  eval [options] MODEL DIR              DIR holds eval.jsonl and its pictures\n"
    "\n"
    "      --answers FILE  write each answer as a line of JSON: id, right, answer\n"
    "      --every N       ask only every Nth question, beginning with the first\n"
    "  -j, --threads N     default: all cores (1 without OpenMP)\n"
    "  -h, --help\n"
    "\n"
    "Exit code 0; 1 if fewer than 95 % are right in all, or fewer than 90 % in a skill of ten questions and more,\n"
    "or if something is wrong with an input; 2 for wrong usage.\n";

enum {
    MOST_TOKENS = 160,          /* of an answer */
    MOST_PICTURES = 8,          /* of a question */
    MOST_SKILLS = 64,
    MOST_BYTES = 1 << 26,       /* of eval.jsonl */
    WANTED = 95,                /* per cent of all answers */
    WANTED_EACH = 90,           /* per cent of a skill's, */
    FEW = 10                    /* unless it has fewer questions than this */
};

typedef struct Question {
    int id, n_pictures;
    bool split;
    char *skill, *question, *answer, *pictures[MOST_PICTURES];
} Question;

typedef struct Skill { const char *name; int right, asked; } Skill;

/* Prints one sentence on stderr and returns the exit code for an invalid input. */
static SV_PRINTF(1, 2) int complain(const char *format, ...) {
    va_list args;
    va_start(args, format);
    fputs("eval: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    return 1;
}

/* ------------------------------------------------------------------------------------------------- a line of the file

   A line ends with a zero byte and has none within. Strings are decoded in place, as they only become shorter, so a
   question's texts point into the file. */

typedef struct Line { const char *path; int number; char *begin, *at; } Line;

static bool malformed(const Line *line, const char *what) {
    complain("%s, line %d, column %d: %s", line->path, line->number, (int)(line->at - line->begin) + 1, what);
    return false;
}

/* Whether the next character, after white space, is this one; if so, it is consumed. */
static bool next_is(Line *line, char c) {
    line->at += strspn(line->at, " \t\r");
    if (*line->at != c) return false;
    line->at++;
    return true;
}

/* Four hexadecimal digits, or -1. */
static long hex4(const char *at) {
    long value = 0;
    for (int i = 0; i < 4; i++) {
        char c = at[i];
        if (c >= '0' && c <= '9') value = value << 4 | (c - '0');
        else if (c >= 'a' && c <= 'f') value = value << 4 | (c - 'a' + 10);
        else if (c >= 'A' && c <= 'F') value = value << 4 | (c - 'A' + 10);
        else return -1;
    }
    return value;
}

static char *put_utf8(char *to, long c) {
    if (c < 0x80) {
        *to++ = (char)c;
        return to;
    }
    if (c < 0x800) {
        *to++ = (char)(0xc0 | c >> 6);
    } else {
        if (c < 0x10000) {
            *to++ = (char)(0xe0 | c >> 12);
        } else {
            *to++ = (char)(0xf0 | c >> 18);
            *to++ = (char)(0x80 | (c >> 12 & 63));
        }
        *to++ = (char)(0x80 | (c >> 6 & 63));
    }
    *to++ = (char)(0x80 | (c & 63));
    return to;
}

/* Decodes what follows a backslash to *to: \n and the like, or \u and four digits, twice that beyond U+FFFF. */
static bool read_escape(Line *line, char **to) {
    static const char letters[] = "\"\\/bfnrt", meant[] = "\"\\/\b\f\n\r\t";
    const char *letter = *line->at ? strchr(letters, *line->at) : NULL;
    if (letter) {
        *(*to)++ = meant[letter - letters];
        line->at++;
        return true;
    }
    if (*line->at != 'u') return malformed(line, "an escape that JSON does not have");
    long c = hex4(line->at + 1);
    if (c < 0) return malformed(line, "\\u without four hexadecimal digits");
    if (c == 0) return malformed(line, "a zero character in a text");
    if (c >= 0xd800 && c < 0xe000) {
        long low = c < 0xdc00 && line->at[5] == '\\' && line->at[6] == 'u' ? hex4(line->at + 7) : -1;
        if (low < 0xdc00 || low >= 0xe000) return malformed(line, "half a surrogate pair");
        c = 0x10000 + ((c - 0xd800) << 10) + (low - 0xdc00);
        line->at += 6;
    }
    line->at += 5;
    *to = put_utf8(*to, c);
    return true;
}

static bool read_string(Line *line, char **text) {
    if (!next_is(line, '"')) return malformed(line, "a string was expected");
    char *to = *text = line->at;
    while (*line->at != '"') {
        if (!*line->at) return malformed(line, "a string without an end");
        if ((unsigned char)*line->at < 32) return malformed(line, "a control character in a string");
        if (*line->at != '\\') {
            *to++ = *line->at++;
        } else {
            line->at++;
            if (!read_escape(line, &to)) return false;
        }
    }
    line->at++;
    *to = 0;
    return true;
}

/* A text that is not empty, even when its final full stops are ignored. */
static bool read_text(Line *line, char **text) {
    if (!read_string(line, text)) return false;
    return (*text)[strspn(*text, " \t\r\n.")] || malformed(line, "an empty text");
}

static bool read_id(Line *line, int *id) {
    line->at += strspn(line->at, " \t\r");
    size_t digits = strspn(line->at, "0123456789");
    if (digits == 0 || digits > 9 || (digits > 1 && *line->at == '0'))
        return malformed(line, "a whole number below 1000000000 was expected");
    *id = (int)strtol(line->at, &line->at, 10);
    return true;
}

static bool read_bool(Line *line, bool *value) {
    line->at += strspn(line->at, " \t\r");
    *value = *line->at == 't';
    const char *word = *value ? "true" : "false";
    if (strncmp(line->at, word, strlen(word)) != 0) return malformed(line, "true or false was expected");
    line->at += strlen(word);
    return true;
}

static bool read_pictures(Line *line, Question *q) {
    if (!next_is(line, '[')) return malformed(line, "a list of pictures was expected");
    do {
        if (q->n_pictures == MOST_PICTURES) return malformed(line, "too many pictures");
        char **name = &q->pictures[q->n_pictures++];
        if (!read_text(line, name)) return false;
        if (strpbrk(*name, "/\\")) return malformed(line, "a picture outside the folder");
    } while (next_is(line, ','));
    return next_is(line, ']') || malformed(line, "a comma or the list's end was expected");
}

/* One object with exactly the fields of a question, in any order. */
static bool read_question(Line *line, Question *q) {
    enum { ID, SKILL, PICTURES, SPLIT, QUESTION, ANSWER, FIELDS };
    static const char *const names[FIELDS] = { "id", "skill", "pictures", "split", "question", "answer" };
    unsigned seen = 0;
    memset(q, 0, sizeof *q);
    if (!next_is(line, '{')) return malformed(line, "a question, {...}, was expected");
    do {
        char *name;
        int field = 0;
        bool ok = false;
        if (!read_string(line, &name)) return false;
        while (field < FIELDS && strcmp(name, names[field]) != 0) field++;
        if (field == FIELDS) return malformed(line, "a field that questions do not have");
        if (seen >> field & 1) return malformed(line, "the same field a second time");
        seen |= 1u << field;
        if (!next_is(line, ':')) return malformed(line, "a colon was expected");
        switch (field) {
        case ID: ok = read_id(line, &q->id); break;
        case SKILL: ok = read_text(line, &q->skill); break;
        case PICTURES: ok = read_pictures(line, q); break;
        case SPLIT: ok = read_bool(line, &q->split); break;
        case QUESTION: ok = read_text(line, &q->question); break;
        case ANSWER: ok = read_text(line, &q->answer); break;
        }
        if (!ok) return false;
    } while (next_is(line, ','));
    if (!next_is(line, '}')) return malformed(line, "a comma or the question's end was expected");
    line->at += strspn(line->at, " \t\r");
    if (*line->at) return malformed(line, "something behind the question");
    for (int field = 0; field < FIELDS; field++) {
        char text[48];
        snprintf(text, sizeof text, "a question without \"%s\"", names[field]);
        if (!(seen >> field & 1)) return malformed(line, text);
    }
    return true;
}

/* ---------------------------------------------------------------------------------------------------- all questions */

/* The whole file with a zero byte after it; NULL after a complaint. */
static char *read_file(const char *path, size_t *size) {
    FILE *f = sv_fopen(path, "rb");
    char *data = NULL;
    size_t room = 0;
    *size = 0;
    if (!f) return complain("%s: %s", path, strerror(errno)), NULL;
    do {
        if (room - *size < 2) {
            char *grown = realloc(data, room = 2 * room + 65536);
            if (!grown) {
                complain("%s: out of memory", path);
                goto failed;
            }
            data = grown;
        }
        *size += fread(data + *size, 1, room - *size - 1, f);
        if (ferror(f) || *size > MOST_BYTES) {
            complain("%s: %s", path, ferror(f) ? strerror(errno) : "more than 64 MiB");
            goto failed;
        }
    } while (!feof(f));
    fclose(f);
    data[*size] = 0;
    return data;

failed:
    fclose(f);
    free(data);
    return NULL;
}

/* The questions of a file's text, ids ascending; NULL after a complaint. They point into data. */
static Question *read_questions(const char *path, char *data, size_t size, int *count) {
    Question *list = NULL;
    size_t room = 0;
    *count = 0;
    for (char *begin = data, *end; begin < data + size; begin = end + 1) {
        end = memchr(begin, '\n', (size_t)(data + size - begin));
        if (!end) end = data + size;
        *end = 0;
        Line line = { path, *count + 1, begin, begin };
        if ((size_t)*count == room) {
            Question *grown = realloc(list, (room = 2 * room + 256) * sizeof *grown);
            if (!grown) {
                complain("%s: out of memory", path);
                goto failed;
            }
            list = grown;
        }
        Question *q = &list[*count];
        if (strlen(begin) != (size_t)(end - begin)) {
            line.at += strlen(begin);
            malformed(&line, "a zero byte");
            goto failed;
        }
        if (!read_question(&line, q)) goto failed;
        if (*count && q->id <= q[-1].id) {
            malformed(&line, "its id is not above that of the line before");
            goto failed;
        }
        ++*count;
    }
    if (*count) return list;
    complain("%s: no questions", path);
failed:
    free(list);
    return NULL;
}

/* -------------------------------------------------------------------------------------------------------- answering */

static bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

/* The part of an answer that counts: no white space around it, no full stops at its end. */
static SvString trimmed(const char *text, size_t size) {
    while (size && is_space(text[size - 1])) size--;
    while (size && is_space(*text)) text++, size--;
    while (size && text[size - 1] == '.') size--;
    return (SvString){ text, size };
}

/* Whether two answers are the same, any white space between words being one space: evaluate.py's normal(). */
static bool same(SvString a, SvString b) {
    while (a.size && b.size) {
        bool space = is_space(*a.data);
        if (space ? !is_space(*b.data) : *a.data != *b.data) return false;
        do a.data++, a.size--; while (space && a.size && is_space(*a.data));
        do b.data++, b.size--; while (space && b.size && is_space(*b.data));
    }
    return a.size == 0 && b.size == 0;
}

static int ask(const SvModel *model, const char *folder, const Question *q, const SvOptions *settings,
               SvAnswer *answer, SvError *error) {
    SvImage images[MOST_PICTURES] = { { 0 } };
    SvContent contents[MOST_PICTURES + 1] = { { 0 } };
    SvPrompt prompt = { 0 };
    SvOptions options = *settings;
    int result = 0;
    options.no_split = !q->split;
    for (int i = 0; i < q->n_pictures && result == 0; i++) {
        char path[1024];
        int length = snprintf(path, sizeof path, "%s/%s", folder, q->pictures[i]);
        result = length < 0 || (size_t)length >= sizeof path ? sv_fail(error, "%s: the name is too long", path)
                                                             : sv_image_read(path, &images[i], error);
        contents[i].image = &images[i];
        contents[i].name = q->pictures[i];
    }
    contents[q->n_pictures].text = q->question;
    SvMessage message = { "user", contents, q->n_pictures + 1 };
    if (result == 0) result = sv_prompt(model, &message, 1, &options, &prompt, error);
    if (result == 0) result = sv_generate(model, &prompt, &options, NULL, answer, error);
    for (int i = 0; i < q->n_pictures; i++) sv_image_free(&images[i]);
    sv_prompt_free(&prompt);
    return result;
}

static void write_string(FILE *f, const char *text, size_t size) {
    fputc('"', f);
    for (size_t i = 0; i < size; i++) {
        unsigned char byte = (unsigned char)text[i];
        if (byte == '"' || byte == '\\') fprintf(f, "\\%c", byte);
        else if (byte < 32 || byte == 127) fprintf(f, "\\u%04x", byte);
        else fputc(byte, f);
    }
    fputc('"', f);
}

/* The skill of this name in the sorted list, inserted if it is new; NULL if there are too many. */
static Skill *find_skill(Skill *skills, int *count, const char *name) {
    int i = 0;
    while (i < *count && strcmp(skills[i].name, name) < 0) i++;
    if (i < *count && strcmp(skills[i].name, name) == 0) return &skills[i];
    if (*count == MOST_SKILLS) return NULL;
    memmove(skills + i + 1, skills + i, (size_t)(*count - i) * sizeof *skills);
    skills[i] = (Skill){ .name = name };
    ++*count;
    return &skills[i];
}

static void print_row(const Skill *s) {
    printf("%-12s %4d of %4d   %5.1f %%\n", s->name, s->right, s->asked, 100.0 * s->right / s->asked);
}

static bool too_few(const Skill *s, int wanted) { return 100 * (int64_t)s->right < (int64_t)wanted * s->asked; }

/* Prints the table; returns the exit code. */
static int judge(const Skill *skills, int count) {
    Skill total = { .name = "total" };
    int code = 0;
    for (int i = 0; i < count; i++) {
        print_row(&skills[i]);
        total.right += skills[i].right;
        total.asked += skills[i].asked;
    }
    print_row(&total);
    fflush(stdout);
    for (int i = 0; i < count; i++)
        if (skills[i].asked >= FEW && too_few(&skills[i], WANTED_EACH))
            code = complain("%s: fewer than %d %% are right", skills[i].name, WANTED_EACH);
    if (too_few(&total, WANTED)) code = complain("in all fewer than %d %% are right", WANTED);
    return code;
}

static int evaluate(const SvModel *model, const char *folder, const Question *questions, int count, int every,
                    const SvOptions *options, FILE *answers) {
    Skill skills[MOST_SKILLS];
    int n_skills = 0, right = 0, result = 0;
    bool terminal = stderr_is_terminal();
    double start = sv_seconds();
    for (int i = 0; i < count && result == 0; i += every) {
        const Question *q = &questions[i];
        SvAnswer answer = { 0 };
        SvError error;
        result = ask(model, folder, q, options, &answer, &error);
        if (result == 0) {
            bool is_right = same(trimmed(answer.text, answer.size), trimmed(q->answer, strlen(q->answer)));
            if (answers) {
                fprintf(answers, "{\"id\": %d, \"right\": %s, \"answer\": ", q->id, is_right ? "true" : "false");
                write_string(answers, answer.text, answer.size);
                fputs("}\n", answers);
            }
            Skill *skill = find_skill(skills, &n_skills, q->skill);
            if (!skill) result = sv_fail(&error, "more than %d skills", MOST_SKILLS);
            else skill->right += is_right, skill->asked++;
            right += is_right;
            if (terminal) fprintf(stderr, "\r%d/%d, %d right\x1b[K", i / every + 1, (count - 1) / every + 1, right);
        }
        if (terminal && (result != 0 || i + every >= count)) fputs("\r\x1b[K", stderr);
        if (result != 0) complain("question %d: %s", q->id, error.text);
        sv_answer_free(&answer);
    }
    if (result != 0) return 1;
    result = judge(skills, n_skills);
    fprintf(stderr, "%d questions in %.1f s\n", (count - 1) / every + 1, sv_seconds() - start);
    return result;
}

int main(int argc, char **argv) {
    const char *places[2] = { NULL, NULL }, *answers_path = NULL;
    SvOptions options = sv_default_options();
    SvModel *model = NULL;
    SvError error;
    int n_places = 0, every = 1, count = 0, code = 1;
    char path[1024], *data = NULL;
    Question *questions = NULL;
    FILE *answers = NULL;
    size_t size;
    options.max_tokens = MOST_TOKENS;
    for (int i = 1; i < argc; i++) {
        const char *word = argv[i];
        bool threads = strcmp(word, "--threads") == 0 || strcmp(word, "-j") == 0;
        if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0)
            return fputs(HELP, stdout) < 0 || fflush(stdout) != 0 ? complain("stdout: could not be written") : 0;
        if (threads || strcmp(word, "--every") == 0 || strcmp(word, "--answers") == 0) {
            char *end;
            if (++i == argc) return complain("%s: needs a value (see --help)", word), 2;
            long n = strtol(argv[i], &end, 10);
            if (strcmp(word, "--answers") == 0) answers_path = argv[i];
            else if (*end || end == argv[i] || n < 1 || n > (threads ? 1024 : 1000000))
                return complain("%s %s: not a number it takes (see --help)", word, argv[i]), 2;
            else *(threads ? &options.threads : &every) = (int)n;
        } else if (word[0] == '-') {
            return complain("%s: no such option (see --help)", word), 2;
        } else if (n_places == 2) {
            return complain("%s: a model and a folder are all it takes (see --help)", word), 2;
        } else {
            places[n_places++] = word;
        }
    }
    if (n_places < 2) return complain("which model, and which questions? eval MODEL DIR (see --help)"), 2;

    int length = snprintf(path, sizeof path, "%s/eval.jsonl", places[1]);
    if (length < 0 || (size_t)length >= sizeof path) return complain("%s: the name is too long", places[1]);
    data = read_file(path, &size);
    questions = data ? read_questions(path, data, size, &count) : NULL;
    if (!questions) goto done;
    if (sv_open(places[0], &model, &error) != 0) {
        complain("%s", error.text);
        goto done;
    }
    if (answers_path && !(answers = sv_fopen(answers_path, "wb"))) {
        complain("%s: %s", answers_path, strerror(errno));
        goto done;
    }
    code = evaluate(model, places[1], questions, count, every, &options, answers);
    if (answers) {
        bool written = !ferror(answers);
        if (fclose(answers) != 0 || !written) code = complain("%s: could not be written", answers_path);
    }
    if ((fflush(stdout) != 0 || ferror(stdout)) && code == 0) code = complain("stdout: could not be written");
done:
    sv_close(model);
    free(questions);
    free(data);
    return code;
}
