/* main.c: the command line. An answer takes smolvlm.h alone; model.h is for --info and the kernel sets. Printing and
   exit codes are here and nowhere else.

   stdout: the answer (or JSON, ids, information). stderr: progress, one line of timings, errors.
   Exit code 0; 1: something is wrong with an input, said in one sentence; 2: wrong usage. */
#if !defined(_WIN32)
#define _POSIX_C_SOURCE 200809L
#endif
#include "model.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if defined(__unix__) || defined(__APPLE__)
#include <fcntl.h>
#include <unistd.h>
#define stderr_is_terminal() isatty(2)
#else
#define stderr_is_terminal() 0
#endif

typedef struct Arguments {
    const char *model, *prompt, *system, *dump, *tiles, *kernels;
    char *texts[2];                                         /* what -p and -s had read, to be freed */
    const char **images;
    int n_images;
    SvOptions options;
    bool raw, json, tokenize, detokenize, info, selftest, quiet;
} Arguments;

static void sentence(const char *format, va_list args, const char *end) {
    fflush(stdout);                                         /* where both go to one place, in this order */
    fputs("smolvlm: ", stderr);
    vfprintf(stderr, format, args);
    fputs(end, stderr);
}

#ifdef SV_NO_CODECS                                         /* make CODECS=0 */
#define sv_image_read(path, image, error) \
    ((void)(image), sv_fail(error, "%s: this program was built without codecs/, so it reads no picture files", path))
#endif

/* One sentence on stderr, and the exit code for a wrong input. */
static SV_PRINTF(1, 2) int complain(const char *format, ...) {
    va_list args;
    va_start(args, format);
    sentence(format, args, "\n");
    va_end(args);
    return 1;
}

/* The same for wrong usage. */
static SV_PRINTF(1, 2) int misused(const char *format, ...) {
    va_list args;
    va_start(args, format);
    sentence(format, args, " (see --help)\n");
    va_end(args);
    return 2;
}

static bool blank(const char *text) { return !text[strspn(text, " \t\r\n")]; }

/* ---------------------------------------------------------------------------------------------------------- options */

/* Every option: from this table come the parsing, --help and "did you mean". letter: 0 for none. value: what --help
   calls its value, or NULL. field: of Arguments, which it sets; low, high: the bounds of a number. */
enum { SWITCH, TEXT, PICTURE, WHOLE, SEED, REAL, COLOUR, HELP, VERSION };
#define INTO(field) offsetof(Arguments, field)
static const struct Option {
    char letter;
    const char *name, *value;
    int kind;
    size_t field;
    long long low, high;
    const char *help;
} OPTIONS[] = {
    { 'i', "image", "FILE", PICTURE, INTO(images), 0, 0,
      "a picture: PNG, JPEG, PNM (- reads stdin); may be repeated" },
    { 'p', "prompt", "TEXT", TEXT, INTO(prompt), 0, 0,
      "the question; - reads it from stdin, @FILE from a file, both without the line end at their end" },
    { 's', "system", "TEXT", TEXT, INTO(system), 0, 0, "an instruction before the question; - and @FILE as with -p" },
    { 0, "raw", NULL, SWITCH, INTO(raw), 0, 0,
      "-p is the prompt as it stands, without a chat template; special tokens count, and the image token (<image>) "
      "stands where each picture goes" },
    { 'n', "max-tokens", "N", WHOLE, INTO(options.max_tokens), 0, 1 << 24,
      "end the answer after N tokens (default 256; 0 prints the prompt as the model gets it)" },
    { 't', "temperature", "T", REAL, INTO(options.temperature), 0, 100,
      "0 (the default) always takes the likeliest token; 1 samples as the model learnt" },
    { 0, "top-p", "P", REAL, INTO(options.top_p), 0, 1,
      "sample among the likeliest tokens that together reach P (default 1: all)" },
    { 0, "top-k", "K", WHOLE, INTO(options.top_k), 0, 1 << 24, "sample among the K likeliest (default 0: all)" },
    { 0, "seed", "S", SEED, INTO(options.seed), 0, INT64_MAX, "the sampling's random numbers (default 0)" },
    { 'j', "threads", "N", WHOLE, INTO(options.threads), 1, 1024,
      "default: all cores, or OMP_NUM_THREADS (1 without OpenMP)" },
    { 0, "no-split", NULL, SWITCH, INTO(options.no_split), 0, 0,
      "look only at the whole picture, not at its tiles: faster, less detail" },
    { 0, "longest-edge", "PX", WHOLE, INTO(options.longest_edge), 1, SV_MAX_SIDE,
      "scale a picture's longer side to PX before it is cut into tiles: fewer tiles, less detail, less time (default: "
      "the checkpoint's; more than 4096 is 4096)" },
    { 0, "background", "RGB", COLOUR, INTO(options.background), 0, 0,
      "paint what is transparent in a picture: white, black or RRGGBB (default: as transformers does, which makes one "
      "transparent colour white, but shows the colours that an alpha channel hides)" },
    { 0, "json", NULL, SWITCH, INTO(json), 0, 0,
      "one JSON object on stdout: text, ids, prompt_ids, finish_reason, timings in seconds, tokens per second" },
    { 0, "dump", "DIR", TEXT, INTO(dump), 0, 0,
      "write every activation of the prompt as DIR/<Hugging Face module>.npy" },
    { 0, "tiles", "DIR", TEXT, INTO(tiles), 0, 0,
      "write each picture as decoded and its tiles, as DIR/imageK*.ppm" },
    { 0, "tokenize", NULL, SWITCH, INTO(tokenize), 0, 0, "print the ids of the text on stdin, on one line" },
    { 0, "detokenize", NULL, SWITCH, INTO(detokenize), 0, 0, "print the text of the ids on stdin" },
    { 0, "info", NULL, SWITCH, INTO(info), 0, 0,
      "what the checkpoint holds and the memory it needs; verifies its checksum" },
    { 0, "selftest", NULL, SWITCH, INTO(selftest), 0, 0,
      "compute the same with each kernel set that this machine has, with the fastest also on one thread and token by "
      "token, and compare the bits, also with those that the file says it must give" },
    { 0, "kernels", "SET", TEXT, INTO(kernels), 0, 0,
      "use this set (--selftest lists them) instead of the fastest" },
    { 'q', "quiet", NULL, SWITCH, INTO(quiet), 0, 0, "no progress and no timings on stderr" },
    { 'h', "help", NULL, HELP, 0, 0, 0, "" },
    { 0, "version", NULL, VERSION, 0, 0, 0, "" },
};
enum { N_OPTIONS = sizeof OPTIONS / sizeof OPTIONS[0] };

static const char HELP_BEFORE[] =
    "smolvlm: ask a small vision-language model about pictures, on the CPU, offline.\n"
    "\n"
    "  smolvlm MODEL -i photo.jpg -p \"What is this?\"\n"
    "  smolvlm MODEL -i before.png -i after.png -p \"What has changed?\" --json\n"
    "  smolvlm MODEL -i page.png -p \"Read the title.\" -n 20 --longest-edge 1024\n"
    "  smolvlm MODEL --info\n"
    "  smolvlm MODEL --selftest\n"
    "\n"
    "MODEL is a file made by export.py from a Hugging Face directory.\n"
    "\n";
static const char HELP_AFTER[] =
    "\n"
    "-q -i FILE may be written -qi FILE or -qiFILE, --image FILE as --image=FILE; after -- no word is an option. The\n"
    "answer goes to stdout (without white space before its first word; --json has all of it), progress and timings to\n"
    "stderr. Exit code 0; 1 if something is wrong with an input (one sentence says what); 2 for wrong usage.\n";

static void print_help(void) {
    enum { INDENT = 25, WIDTH = 116 };
    fputs(HELP_BEFORE, stdout);
    for (int i = 0; i < N_OPTIONS; i++) {
        const struct Option *o = &OPTIONS[i];
        char letter[8] = "    ";
        if (o->letter) snprintf(letter, sizeof letter, "-%c, ", o->letter);
        int at = printf("  %s--%s%s%s", letter, o->name, o->value ? " " : "", o->value ? o->value : "");
        for (const char *word = o->help; *word; word += strspn(word, " ")) {
            int length = (int)strcspn(word, " ");
            if (at + 1 + length > WIDTH) putchar('\n'), at = 0;
            at += printf("%*s%.*s", at < INDENT ? INDENT - at : 1, "", length, word);
            word += length;
        }
        putchar('\n');
    }
    fputs(HELP_AFTER, stdout);
}

/* How many letters must be inserted, left out, replaced or swapped with the next one to make b of a's first n. */
static int distance(const char *a, size_t n, const char *b) {
    enum { LONGEST = 40 };
    int d[LONGEST + 1][LONGEST + 1];                        /* d[i][j]: of a's first i and b's first j */
    size_t m = strlen(b);
    if (n > LONGEST || m > LONGEST) return LONGEST;
    for (size_t i = 0; i <= n; i++)
        for (size_t j = 0; j <= m; j++) {
            int least = i == 0 ? (int)j : j == 0 ? (int)i : d[i - 1][j - 1] + (a[i - 1] != b[j - 1]);
            if (i > 0 && d[i - 1][j] + 1 < least) least = d[i - 1][j] + 1;
            if (j > 0 && d[i][j - 1] + 1 < least) least = d[i][j - 1] + 1;
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] && d[i - 2][j - 2] + 1 < least)
                least = d[i - 2][j - 2] + 1;
            d[i][j] = least;
        }
    return d[n][m];
}

/* Wrong usage: a word that names no option. Says which ones it may mean: those that it is the beginning of, else the
   nearest, if so near that a slip of the hand is likelier than another name. Capitals do not count, and _ is -. */
static int no_such_option(const char *word) {
    char name[41], meant[128] = "";
    const char *begin = word + strspn(word, "-");
    size_t length = 0;
    for (; length + 1 < sizeof name && begin[length] && begin[length] != '='; length++) {
        char letter = begin[length];
        name[length] = letter == '_' ? '-' : letter >= 'A' && letter <= 'Z' ? (char)(letter - 'A' + 'a') : letter;
    }
    name[length] = 0;
    int best = (int)length / 3, scores[N_OPTIONS];
    for (int i = 0; i < N_OPTIONS; i++) {
        bool begins = length > 1 && strncmp(name, OPTIONS[i].name, length) == 0;
        scores[i] = begins ? 0 : distance(name, length, OPTIONS[i].name);
        if (length == 1 && word[1] == '-' && name[0] == OPTIONS[i].letter) scores[i] = 0;           /* --p */
        if (scores[i] < best) best = scores[i];
    }
    for (int i = 0; i < N_OPTIONS && length > 0; i++)
        if (scores[i] == best)
            snprintf(meant + strlen(meant), sizeof meant - strlen(meant), "%s--%s",
                     *meant ? " or " : "; did you mean ", OPTIONS[i].name);
    return misused("%.*s: no such option%s%s", (int)strcspn(word, "="), word, meant, *meant ? "?" : "");
}

/* -------------------------------------------------------------------------------------------- parsing the arguments */

static bool whole_number(const char *text, long long low, long long high, long long *value) {
    char *end;
    errno = 0;
    *value = strtoll(text, &end, 10);
    return *text && !*end && errno == 0 && *value >= low && *value <= high;
}

static bool real_number(const char *text, double low, double high, float *value) {
    char *end;
    double number = strtod(text, &end);
    if (!*text || *end || !(number >= low && number <= high)) return false;
    *value = (float)number;
    return true;
}

/* white, black or RRGGBB */
static bool colour(const char *text, uint8_t *rgb) {
    const char *digits = strcmp(text, "white") == 0 ? "ffffff" : strcmp(text, "black") == 0 ? "000000" : text;
    if (strlen(digits) != 6 || strspn(digits, "0123456789abcdefABCDEF") != 6) return false;
    unsigned long number = strtoul(digits, NULL, 16);
    for (int i = 0; i < 3; i++) rgb[i] = (uint8_t)(number >> (16 - 8 * i));
    return true;
}

/* Puts the value where the option's goes; shown is the option as it was written. Returns -1 to go on, or the exit
   code. */
static int set_option(Arguments *a, const struct Option *o, const char *shown, const char *value) {
    void *field = (char *)a + o->field;
    long long number;
    switch (o->kind) {
    case SWITCH: *(bool *)field = true; break;
    case TEXT: *(const char **)field = value; break;
    case PICTURE: a->images[a->n_images++] = value; break;
    case WHOLE: case SEED:
        if (!whole_number(value, o->low, o->high, &number))
            return misused("%s %s: not a whole number from %lld to %lld", shown, value, o->low, o->high);
        if (o->kind == WHOLE) *(int *)field = (int)number;
        else *(uint64_t *)field = (uint64_t)number;
        break;
    case REAL:
        if (!real_number(value, (double)o->low, (double)o->high, field))
            return misused("%s %s: not a number from %lld to %lld", shown, value, o->low, o->high);
        break;
    case COLOUR:
        if (!colour(value, field))
            return misused("%s %s: neither white nor black nor a colour as RRGGBB", shown, value);
        a->options.paint = true;
        break;
    case HELP: print_help(); return 0;
    case VERSION: puts("smolvlm " SV_VERSION_STRING); return 0;
    default: break;
    }
    return -1;
}

static const struct Option *find_option(const char *name, size_t length, char letter) {
    for (const struct Option *o = OPTIONS; o < OPTIONS + N_OPTIONS; o++)
        if (letter ? o->letter == letter : strlen(o->name) == length && strncmp(o->name, name, length) == 0) return o;
    return NULL;
}

/* One word of options, as getopt_long reads it, but that a name must be whole: --name, --name=value or --name value;
   letters, of which the first that takes a value takes the rest of the word, or else the next word. Returns -1 to go
   on, or the exit code. */
static int take_options(int argc, char **argv, int *i, Arguments *a) {
    const char *word = argv[*i], *at = word + 1;
    bool by_name = word[1] == '-';
    size_t length = strcspn(word, "=");
    if (!by_name && length > 2 && find_option(at, length - 1, 0)) return no_such_option(word);      /* -image */
    do {
        const struct Option *o = by_name ? find_option(word + 2, length - 2, 0) : find_option(NULL, 0, *at);
        const char *value = by_name ? (word[length] ? word + length + 1 : NULL) : at[1] ? at + 1 : NULL;
        char shown[48];
        if (!o && at > word + 1) return misused("-%s: no such option, in %s", at, word);
        if (!o) return no_such_option(word);
        if (by_name) snprintf(shown, sizeof shown, "--%s", o->name);
        else snprintf(shown, sizeof shown, "-%c", *at);
        if (o->value && !value && *i + 1 == argc) return misused("%s: needs a value", shown);
        if (o->value && !value) value = argv[++*i];
        if (!o->value && value && by_name) return misused("%s: takes no value", shown);
        int code = set_option(a, o, shown, value);
        if (code >= 0 || o->value) return code;
        at++;
    } while (!by_name && *at);
    return -1;
}

/* Fills *a from the command line. Returns -1 to go on, or the exit code. */
static int parse_arguments(int argc, char **argv, Arguments *a) {
    bool options = true;
    const char *text = NULL, *follower = NULL;
    for (int i = 1; i < argc; i++) {
        const char *word = argv[i];
        if (options && strcmp(word, "--") == 0) {
            options = false;
        } else if (options && word[0] == '-' && word[1]) {
            const char *prompt = a->prompt, *system = a->system;
            int code = take_options(argc, argv, &i, a);
            if (code >= 0) return code;
            text = a->prompt != prompt ? a->prompt : a->system != system ? a->system : NULL;
        } else {
            /* A text of one word and another word behind it: its quotes may be missing. */
            if (text && !text[strcspn(text, " \t\r\n")] && !follower) follower = word;
            if (a->model && follower)
                return misused("%s: a second model; a text of several words needs quotes (\"%s %s ...\"), and each "
                               "picture a -i of its own", word, text, follower);
            if (a->model) return misused("%s: a second model; each picture needs a -i of its own", word);
            a->model = word;
        }
    }
    int others = a->tokenize + a->detokenize + a->info + a->selftest;
    if (others > 1) return misused("--tokenize, --detokenize, --info, --selftest: one at a time");
    if (others && (a->prompt || a->system || a->n_images || a->raw || a->json || a->dump || a->tiles))
        return misused("-p, -s, -i, --raw, --json, --dump and --tiles go with none of --tokenize, --detokenize, "
                       "--info, --selftest");
    if (!a->model) return misused("which model? smolvlm MODEL -i photo.jpg -p \"What is this?\"");
    if (!a->prompt && !others)
        return misused("what is the question? smolvlm MODEL -i photo.jpg -p \"What is this?\"");
    if (a->prompt && blank(a->prompt)) return misused("-p: the prompt is empty");
    if (a->raw && a->system) return misused("-s goes not with --raw: the prompt is the whole of it");
    int inputs = (a->prompt && strcmp(a->prompt, "-") == 0) + (a->system && strcmp(a->system, "-") == 0);
    for (int i = 0; i < a->n_images; i++) inputs += strcmp(a->images[i], "-") == 0;
    if (inputs > 1) return misused("-p -, -s - and -i -: standard input can be read only once");
    const SvOptions *o = &a->options, usual = sv_default_options();
    bool samples = o->top_k != usual.top_k || o->seed != usual.seed || o->top_p < usual.top_p;
    if (samples && !(o->temperature > 0) && !a->quiet)
        fputs("smolvlm: --top-p, --top-k and --seed change nothing without -t, as the likeliest token is taken\n",
              stderr);
    return -1;
}

/* ------------------------------------------------------------------------------------------------------------ files */

/* A file is written under another name and renamed when it is whole. */
typedef struct Output { FILE *file; char path[1024], temporary[1040]; } Output;

static bool output_open(Output *o, const char *directory, const char *name) {
    int length = snprintf(o->path, sizeof o->path, "%s/%s", directory, name);
    if (length < 0 || (size_t)length >= sizeof o->path) return complain("%s: the name is too long", directory), false;
    snprintf(o->temporary, sizeof o->temporary, "%s.part", o->path);
    o->file = sv_fopen(o->temporary, "wb+");
    if (!o->file) complain("%s: %s", o->temporary, strerror(errno));
    return o->file != NULL;
}

static bool output_close(Output *o) {
    bool ok = !ferror(o->file);
    if (fclose(o->file) != 0) ok = false;
    o->file = NULL;
    if (ok && sv_rename(o->temporary, o->path) == 0) return true;
    complain("%s: could not be written: %s", o->path, strerror(errno));
    sv_remove(o->temporary);
    return false;
}

/* Makes the directory, if it is not there, and a file in it: so one that cannot be written is known beforehand. */
static bool directory_ready(const char *path) {
    char name[1040];
    bool there = sv_mkdir(path) == 0 || errno == EEXIST;
    FILE *file = NULL;
    if (snprintf(name, sizeof name, "%s/smolvlm.part", path) >= (int)sizeof name) there = false, errno = ENAMETOOLONG;
    if (there) file = sv_fopen(name, "wb");
    if (!file) return complain("%s: %s", path, strerror(errno)), false;
    fclose(file);
    sv_remove(name);
    return true;
}

static bool write_ppm(const char *directory, const char *name, const uint8_t *rgb, int width, int height) {
    Output o;
    if (!output_open(&o, directory, name)) return false;
    fprintf(o.file, "P6\n%d %d\n255\n", width, height);
    fwrite(rgb, 3, (size_t)width * (size_t)height, o.file);
    return output_close(&o);
}

static bool write_tiles(const char *directory, const SvPrompt *prompt) {
    for (int k = 0; k < prompt->n_pictures; k++) {
        const SvTiles *t = &prompt->pictures[k];
        size_t tile = 3 * (size_t)t->side * (size_t)t->side;
        for (int i = 0; i < t->count; i++) {
            char name[80];
            if (i == t->count - 1) snprintf(name, sizeof name, "image%d_global.ppm", k);
            else snprintf(name, sizeof name, "image%d_row%d_col%d.ppm", k, i / t->cols + 1, i % t->cols + 1);
            if (!write_ppm(directory, name, t->rgb + (size_t)i * tile, t->side, t->side)) return false;
        }
    }
    return true;
}

/* --dump: one .npy a module. Its pieces arrive in order and are appended; the header, of fixed size, is written again
   at the end, when the joined axis's length is known. Numbers are in this machine's byte order, as .npy can say. */
typedef struct Dump { Output output; char module[96]; int dims, shape[5], axis; } Dump;
typedef struct Dumps { const char *directory; Dump *list; int count; bool failed; } Dumps;

static void write_npy_header(FILE *f, const char *kind, const int *shape, int dims) {
    char text[119];
    const uint16_t one = 1;
    int n = snprintf(text, sizeof text, "{'descr': '%c%s', 'fortran_order': False, 'shape': (",
                     *(const uint8_t *)&one ? '<' : '>', kind);
    for (int i = 0; i < dims; i++) n += snprintf(text + n, sizeof text - (size_t)n, "%d, ", shape[i]);
    n += snprintf(text + n, sizeof text - (size_t)n, "), }");
    memset(text + n, ' ', sizeof text - (size_t)n);
    text[117] = '\n';                                       /* 10 bytes before it: 128 in all */
    fwrite("\x93NUMPY\x01\x00\x76\x00", 1, 10, f);
    fwrite(text, 1, 118, f);
}

static void dump_activation(Dumps *dumps, const SvActivation *a) {
    if (dumps->failed) return;
    Dump *d = NULL;
    for (int i = 0; i < dumps->count && !d; i++)
        if (strcmp(dumps->list[i].module, a->module) == 0) d = &dumps->list[i];
    if (!d) {
        Dump *grown = realloc(dumps->list, ((size_t)dumps->count + 1) * sizeof *grown);
        if (grown) dumps->list = grown;
        d = grown ? &grown[dumps->count] : NULL;
        char name[112];
        snprintf(name, sizeof name, "%s.npy", a->module);
        if (!d) complain("%s: out of memory", dumps->directory);
        dumps->failed = !d || !output_open(&d->output, dumps->directory, name);
        if (dumps->failed) return;
        dumps->count++;
        snprintf(d->module, sizeof d->module, "%s", a->module);
        d->dims = a->dims;
        d->axis = a->axis;
        memcpy(d->shape, a->shape, sizeof d->shape);
        d->shape[d->axis] = 0;
        write_npy_header(d->output.file, "f4", d->shape, d->dims);
    }
    size_t size = 1;
    for (int i = 0; i < a->dims; i++) size *= (size_t)a->shape[i];
    d->shape[d->axis] += a->shape[a->axis];
    if (fwrite(a->data, sizeof(float), size, d->output.file) == size) return;
    complain("%s: could not be written: %s", d->output.path, strerror(errno));
    dumps->failed = true;
}

/* keep: the answer succeeded, so the files get their names; else they are removed. */
static bool dump_close(Dumps *dumps, bool keep) {
    for (int i = 0; i < dumps->count; i++) {
        Dump *d = &dumps->list[i];
        if (!keep || dumps->failed) {
            fclose(d->output.file);
            sv_remove(d->output.temporary);
            continue;
        }
        if (fseek(d->output.file, 0, SEEK_SET) == 0) write_npy_header(d->output.file, "f4", d->shape, d->dims);
        if (!output_close(&d->output)) dumps->failed = true;
    }
    free(dumps->list);
    return !dumps->failed;
}

static bool dump_ids(const char *directory, const SvPrompt *prompt) {
    Output o;
    if (!output_open(&o, directory, "input_ids.npy")) return false;
    write_npy_header(o.file, "i4", (int[]){ 1, (int)prompt->n_ids }, 2);
    fwrite(prompt->ids, sizeof *prompt->ids, prompt->n_ids, o.file);
    return output_close(&o);
}

/* All of a file, zero-terminated; NULL with a complaint if it cannot be held. */
static char *read_text(FILE *file, const char *name, size_t *size) {
    enum { LONGEST = 1 << 30 };
    char *data = NULL;
    size_t room = 0;
    *size = 0;
    do {
        if (room - *size < 2) {
            char *grown = realloc(data, room = 2 * room + 65536);
            if (!grown) {
                free(data);
                complain("%s: out of memory", name);
                return NULL;
            }
            data = grown;
        }
        *size += fread(data + *size, 1, room - *size - 1, file);
        if (ferror(file) || *size > LONGEST) {
            complain("%s: %s", name, ferror(file) ? strerror(errno) : "more than a gigabyte of text");
            free(data);
            return NULL;
        }
    } while (!feof(file));
    data[*size] = 0;
    return data;
}

static const char STDIN[] = "standard input";

/* What -p or -s names: - is stdin, @FILE a file, both without the line end at their end, so that echo and editors give
   what was meant; all else is the text itself. Returns false with a complaint. */
static bool find_text(const char **text, char **read) {
    size_t size;
    const char *path = **text == '@' ? *text + 1 : NULL, *name = path ? path : STDIN;
    if (!path && strcmp(*text, "-") != 0) return true;
    FILE *file = path ? sv_fopen(path, "rb") : stdin;
    if (!file) {
        complain("%s: %s (a text that begins with @ can come from stdin, as -p -)", *text, strerror(errno));
        return false;
    }
    *text = *read = read_text(file, name, &size);
    if (path) fclose(file);
    if (!*read) return false;
    if (strlen(*read) != size) return complain("%s: a zero byte in the text", name), false;
    if (size > 0 && (*read)[size - 1] == '\n') {
        (*read)[--size] = 0;
        if (size > 0 && (*read)[size - 1] == '\r') (*read)[--size] = 0;
    }
    if (blank(*read)) return complain("%s: the text is empty", name), false;
    return true;
}

/* ------------------------------------------------------------------------------------------- what happens meanwhile */

typedef struct Show {
    const Arguments *arguments;
    Dumps dumps;
    bool terminal, line_open, started;
    int tokens;
} Show;

/* One line that is written over on a terminal, a line each elsewhere. Gives up where a dump could not be written. */
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

/* Streams the answer; white space before its first word is the prompt's end, not the answer's beginning. */
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

static void print_json_string(const char *text, size_t size) {
    putchar('"');
    for (size_t i = 0; i < size; i++) {
        unsigned char byte = (unsigned char)text[i];
        if (byte == '"' || byte == '\\') printf("\\%c", byte);
        else if (byte == '\n') fputs("\\n", stdout);
        else if (byte < 32 || byte == 127) printf("\\u%04x", byte);
        else putchar(byte);
    }
    putchar('"');
}

static void print_ids(const int32_t *ids, size_t count, const char *separator) {
    for (size_t i = 0; i < count; i++) printf("%s%" PRId32, i ? separator : "", ids[i]);
}

/* The prompt as the model gets it, runs of the image token as "<image>x64". */
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

/* The first token of an answer comes with the prefill; the others take a decoding step each. */
static double decode_rate(const SvAnswer *a) {
    return rate((double)a->n_ids - (a->stopped ? 0 : 1), a->decode_seconds);
}

static void print_json(const SvPrompt *prompt, const SvAnswer *a, double load, double image) {
    fputs("{\"text\": ", stdout);
    print_json_string(a->text ? a->text : "", a->size);
    fputs(", \"ids\": [", stdout);
    print_ids(a->ids, a->n_ids, ", ");
    fputs("], \"prompt_ids\": [", stdout);
    print_ids(prompt->ids, prompt->n_ids, ", ");
    printf("], \"finish_reason\": \"%s\", \"timings\": {\"load\": %.6f, \"image\": %.6f, \"vision\": %.6f, "
           "\"prefill\": %.6f, \"decode\": %.6f}, \"tokens_per_second\": {\"prefill\": %.3f, \"decode\": %.3f}}\n",
           a->stopped ? "stop" : "length", load, image, a->vision_seconds, a->prefill_seconds, a->decode_seconds,
           rate((double)prompt->n_ids, a->prefill_seconds), decode_rate(a));
}

static void print_timings(const Arguments *arguments, const SvPrompt *prompt, const SvAnswer *a, double load,
                          double image) {
    int most = arguments->options.max_tokens;
    const char *cut = a->stopped || most == 0 ? "" :
                      a->n_ids == (size_t)most ? ", cut off there (-n)" : ", the context is full";
    fflush(stdout);                                         /* where both go to one place, in this order */
    fprintf(stderr, "load %.2f s, image %.2f s, vision %.2f s (%d tile%s), prefill %.2f s (%zu tokens, %.1f/s), "
            "decode %.2f s (%zu tokens, %.1f/s)%s\n", load, image, a->vision_seconds, prompt->n_tiles,
            prompt->n_tiles == 1 ? "" : "s", a->prefill_seconds, prompt->n_ids,
            rate((double)prompt->n_ids, a->prefill_seconds), a->decode_seconds, a->n_ids, decode_rate(a), cut);
}

static bool starts_with(SvString name, const char *begins) {
    return name.size >= strlen(begins) && memcmp(name.data, begins, strlen(begins)) == 0;
}

/* The parts of a model, each with the format of its matrices: which keep more bits is export.py's choice. */
static void print_weights(const SvModel *m) {
    static const struct { const char *part, *begins; } parts[] = {
        { "vision tower", "model.vision_model." },       { "connector", "model.connector." },
        { "text layers", "model.text_model.layers." },   { "embed_tokens", "model.text_model.embed_tokens." },
        { "lm_head", "lm_head." },                       { "the rest", "" },
    };
    enum { PARTS = sizeof parts / sizeof parts[0] };
    uint64_t numbers[PARTS][4] = { { 0 } }, bytes[PARTS][4] = { { 0 } }, all_numbers = 0, all_bytes = 0;
    for (uint32_t i = 0; i < m->n_entries; i++) {
        const SvEntry *e = &m->entries[i];
        int part = 0;
        while (!starts_with(e->name, parts[part].begins)) part++;
        numbers[part][e->format] += (uint64_t)e->rows * e->cols;
        bytes[part][e->format] += e->size;
    }
    puts("weights  part          format        numbers        MB  bits each");
    for (int part = 0; part < PARTS; part++)
        for (uint32_t f = 0; f < 4; f++) {
            uint64_t n = numbers[part][f], b = bytes[part][f];
            all_numbers += n, all_bytes += b;
            if (n) printf("         %-13s %-6s %14" PRIu64 " %9.1f %10.2f\n", parts[part].part, sv_format_name(f), n,
                          (double)b / 1e6, 8.0 * (double)b / (double)n);
        }
    printf("         %-13s %-6s %14" PRIu64 " %9.1f %10.2f\n", "all", "", all_numbers, (double)all_bytes / 1e6,
           8.0 * (double)all_bytes / (double)all_numbers);
}

/* The shapes along the way from a picture to the decoder, and what a position takes in the KV cache. */
static void print_flow(const SvModel *m) {
    const SvConfig *c = &m->config;
    if (c->vision_num_hidden_layers) {
        uint32_t side = c->image_size / c->patch_size, patches = side * side, s = c->scale_factor;
        bool exact = c->longest_edge > SV_MAX_SIDE;                     /* SV_EXACT_SIZE */
        uint32_t height = exact ? c->longest_edge >> 16 : c->longest_edge, tokens = (uint32_t)sv_image_tokens(c);
        uint32_t width = exact ? c->longest_edge & 0xffff : c->longest_edge;
        if (height > SV_LONGEST_EDGE) height = SV_LONGEST_EDGE;
        if (width > SV_LONGEST_EDGE) width = SV_LONGEST_EDGE;
        bool split = c->do_image_splitting && (height > c->image_size || width > c->image_size);
        uint32_t rows = split ? (height + c->image_size - 1) / c->image_size : 0;
        uint32_t cols = split ? (width + c->image_size - 1) / c->image_size : 0;
        printf("a tile   %u x %u x 3 bytes -> %u patches of %u x %u x 3 = %u numbers -> %u rows of %u\n", c->image_size,
               c->image_size, patches, c->patch_size, c->patch_size, 3 * c->patch_size * c->patch_size, patches,
               c->vision_hidden_size);
        printf("         -> pixel shuffle, %u x %u rows to one: %u rows of %u -> %u image tokens of %u numbers\n", s, s,
               tokens, s * s * c->vision_hidden_size, tokens, c->hidden_size);
        if (split)
            printf("picture  up to %u x %u tiles and the global one: %u x %u = %u positions of the decoder, and the tags\n",
                   rows, cols, rows * cols + 1, tokens, (rows * cols + 1) * tokens);
        else printf("picture  one tile, not split: %u positions of the decoder, and its tags\n", tokens);
    }
    bool q8 = m->text.layers[0].k_proj.group != 0;
    uint32_t number = q8 ? 1 : 4, scale = q8 ? 4 : 0;
    printf("cache    a position takes %u layers x 2 x %u heads x (%u x %u%s) = %u bytes\n", c->num_hidden_layers,
           c->num_key_value_heads, c->head_dim, number, q8 ? " + 4" : "",
           c->num_hidden_layers * 2 * c->num_key_value_heads * (c->head_dim * number + scale));
}

static int print_info(const SvModel *m, int threads) {
    const SvConfig *c = &m->config;
    SvError error;
    if (sv_verify(m, &error) != 0) return complain("%s", error.text);
    printf("%s: %.*s, %.1f MB, checksum ok\n", m->path, (int)c->name.size, c->name.data, (double)m->file_size / 1e6);
    if (c->vision_num_hidden_layers) {
        uint32_t side = c->image_size / c->patch_size;
        uint32_t heads = c->vision_num_attention_heads;
        printf("vision   %u layers, width %u, %u heads of %u, MLP %u\n", c->vision_num_hidden_layers,
               c->vision_hidden_size, heads, c->vision_hidden_size / heads, c->vision_intermediate_size);
        printf("tiles    %u x %u pixels, %u x %u patches of %u, %d image tokens; ", c->image_size, c->image_size, side,
               side, c->patch_size, sv_image_tokens(c));
        if (c->longest_edge > SV_MAX_SIDE)
            printf("pictures become %u x %u", c->longest_edge & 0xffff, c->longest_edge >> 16);
        else printf("longest edge %u", c->longest_edge);
        puts(c->do_image_splitting ? "" : ", not split");
    } else {
        puts("vision   none: a text-only model");
    }
    printf("text     %u layers, width %u, %u heads (%u for keys and values) of %u, MLP %u\n", c->num_hidden_layers,
           c->hidden_size, c->num_attention_heads, c->num_key_value_heads, c->head_dim, c->intermediate_size);
    printf("tokens   %u in the vocabulary, context %u, rope theta %g, lm_head %s\n", c->vocab_size,
           c->max_position_embeddings, (double)c->rope_theta,
           c->tie_word_embeddings ? "tied to embed_tokens" : "its own");
    print_flow(m);
    print_weights(m);
    int positions = c->max_position_embeddings < 1000 ? (int)c->max_position_embeddings : 1000;
    int tiles = c->vision_num_hidden_layers ? 1 : 0, all = (int)c->max_position_embeddings;
    printf("memory   the file, and for %d tokens%s %.1f MB; for the whole context %.1f MB\n", positions,
           tiles ? " and a tile" : "", (double)sv_memory_needed(m, positions, tiles, threads) / 1e6,
           (double)sv_memory_needed(m, all, tiles, threads) / 1e6);
    return 0;
}

/* The same input through every kernel set, or through the one chosen; with the first also with one thread, and position
   by position. */
static int selftest(SvModel *m, const SvKernels *chosen, int threads) {
    const SvConfig *c = &m->config;
    uint64_t first = 0;
    bool same = true, exact = sv_same_bits(m);
    int sets = 0;
    char expected[17] = "";
    puts("kernels   threads  prompt       seconds  hash");
    for (int i = 0; sv_kernels(i); i++) {
        if (chosen && sv_kernels(i) != chosen) continue;
        for (int way = 0; way < (sets == 0 ? 3 : 1); way++) {
            SvError error;
            uint64_t hash;
            int with = way == 1 ? 1 : sv_threads(threads);
            if (way == 1 && sv_threads(threads) == 1) continue;
            double start = sv_seconds();
            m->kernels = sv_kernels(i);
            if (sv_selftest(m, with, way == 2, &hash, &error) != 0) return complain("%s", error.text);
            printf("%-9s %7d  %-10s %9.2f  %016" PRIx64 "\n", m->kernels->name, with, way == 2 ? "one by one" : "whole",
                   sv_seconds() - start, hash);
            fflush(stdout);
            if (sets == 0 && way == 0) first = hash;
            same = same && hash == first;
        }
        sets++;
    }
    if (!exact) {
        puts("f32 and bf16: these numbers are this machine's own, only Q8 and Q4 are the same bits everywhere");
        return 0;
    }
    if (!same) return complain("%s: the self-test's hashes differ, this build is not right", m->path);
    puts("the same bits every time");
    snprintf(expected, sizeof expected, "%.*s", (int)(c->selftest.size < 16 ? c->selftest.size : 16), c->selftest.data);
    if (!expected[strspn(expected, "0")] || strspn(expected, "0123456789abcdef") != 16) {
        puts("the file does not say which they must be (export.py --seal): compare with another machine's");
    } else if (strtoull(expected, NULL, 16) == first) {
        puts("and the ones that the file says they must be: this machine agrees");
    } else {
        return complain("%s: the self-test must give %s, this machine disagrees", m->path, expected);
    }
    return 0;
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
    print_ids(ids, count, " ");
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
    Show show = { .arguments = a, .dumps = { .directory = a->dump }, .terminal = stderr_is_terminal() };
    SvEvents events = { &show, show_progress, show_token, a->dump ? show_activation : NULL };
    SvImage *images = calloc((size_t)a->n_images + 1, sizeof *images);
    SvContent *contents = calloc((size_t)a->n_images + 1, sizeof *contents);
    int code = 1;
    if (!images || !contents) {
        complain("out of memory");
        goto done;
    }
    if ((a->dump && !directory_ready(a->dump)) || (a->tiles && !directory_ready(a->tiles))) goto done;

    double start = sv_seconds();
    for (int i = 0; i < a->n_images; i++) {
        char name[48];
        if (sv_image_read(a->images[i], &images[i], &error) != 0) goto failed;
        if (images[i].note.text[0] && !(images[i].alpha && a->options.paint))
            complain("%s%s", images[i].note.text, images[i].alpha ? " (--background white paints them over)" : "");
        contents[i].image = &images[i];
        contents[i].name = a->images[i];
        snprintf(name, sizeof name, "image%d.ppm", i);
        if (a->tiles && !write_ppm(a->tiles, name, images[i].rgb, images[i].width, images[i].height)) goto done;
    }
    contents[a->n_images].text = a->prompt;
    SvContent system = { .text = a->system };
    SvMessage messages[2] = { { "system", &system, 1 }, { "user", contents, a->n_images + 1 } };
    if (a->raw ? sv_prompt_raw(m, a->prompt, contents, a->n_images, &a->options, &prompt, &error)
               : sv_prompt(m, messages + !a->system, 1 + (a->system != NULL), &a->options, &prompt, &error))
        goto failed;
    for (int i = 0; i < a->n_images; i++) sv_image_free(&images[i]);
    double image_seconds = sv_seconds() - start;

    if (a->tiles && !write_tiles(a->tiles, &prompt)) goto done;
    int all = prompt.n_tiles ? prompt.n_tiles : (int)prompt.n_ids;
    if (a->options.max_tokens > 0) show_progress(&show, prompt.n_tiles ? "tile" : "prefill", 0, all);
    bool answered = a->options.max_tokens == 0 || sv_generate(m, &prompt, &a->options, &events, &result, &error) == 0;
    bool gave_up = show.dumps.failed;                       /* and has said why */
    end_progress(&show);
    if (!dump_close(&show.dumps, answered) || gave_up) goto done;
    if (!answered) goto failed;
    if (a->dump && !dump_ids(a->dump, &prompt)) goto done;
    if (a->json) print_json(&prompt, &result, load_seconds, image_seconds);
    else if (a->options.max_tokens > 0) putchar('\n');
    else print_prompt(m, prompt.text);
    if (!a->quiet) print_timings(a, &prompt, &result, load_seconds, image_seconds);
    code = 0;
    goto done;

failed:
    complain("%s", error.text);
done:
    for (int i = 0; images && i < a->n_images; i++) sv_image_free(&images[i]);
    free(images);
    free(contents);
    sv_prompt_free(&prompt);
    sv_answer_free(&result);
    return code;
}

/* Threads meet about a hundred times a token. At a barrier libgomp spins for milliseconds by default, which is fifty
   times slower when other programs hold the cores; sleeping at once is half as fast on idle ones. 50 us of spinning is
   best for both (measured on x86-64 alone). libgomp reads GOMP_SPINCOUNT before main begins, so we set it and exec
   ourselves once, unless the user has set it (valgrind users must), or another program, such as the dynamic linker, has
   started this one. */
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
    int fd;             /* a closed stdout must not become the first file that is opened: here it fails when written */
    while ((fd = open("/dev/null", O_RDONLY)) >= 0 && fd <= 2) {}
    if (fd > 2) close(fd);
#endif
    let_waiting_threads_sleep(argv);
    argv = sv_arguments(&argc, argv);
    unsigned code_page = sv_console(0);
    Arguments a = { .options = sv_default_options() };
    a.images = calloc((size_t)argc + 1, sizeof *a.images);
    if (!a.images) return complain("out of memory");
    int code = parse_arguments(argc, argv, &a);
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
            else if (a.tokenize) code = tokenize(model);
            else if (a.detokenize) code = detokenize(model);
            else code = answer(&a, model, load);
            sv_close(model);
        }
    }
    if ((fflush(stdout) != 0 || ferror(stdout)) && code == 0) code = complain("stdout: could not be written");
    sv_console(code_page);
    free(a.texts[0]);
    free(a.texts[1]);
    free(a.images);
    return code;
}
