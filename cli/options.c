/* options.c: parses the command line into Arguments; prints --help and error messages. */
#include "cli.h"
#include "line.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

static void sentence(const char *format, va_list args, const char *end) {
    fflush(stdout);                                         /* so that stdout comes first if both go to one file */
    fputs("smolvlm: ", stderr);
    vfprintf(stderr, format, args);
    fputs(end, stderr);
}

SV_PRINTF(1, 2) int complain(const char *format, ...) {
    va_list args;
    va_start(args, format);
    sentence(format, args, "\n");
    va_end(args);
    return 1;
}

SV_PRINTF(1, 2) int misused(const char *format, ...) {
    va_list args;
    va_start(args, format);
    sentence(format, args, " (see --help)\n");
    va_end(args);
    return 2;
}

bool blank(const char *text) { return !text[strspn(text, " \t\r\n")]; }

/* ---------------------------------------------------------------------------------------------------------- options */

/* All options. Parsing, --help and "did you mean" use this table. letter: 0 for none. value: the name of its value in
   --help, or NULL if it takes none. field: the member of Arguments that it sets. low, high: the bounds of a number. */
enum { SWITCH, TEXT, PICTURE, FILM, RATE, STOP, WHOLE, SEED, REAL, COLOUR, HELP, VERSION };
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
    { 0, "video", "FILE", FILM, INTO(images), 0, 0,
      "a video: a file that ffmpeg reads, a folder of numbered pictures, or a YUV4MPEG2 or PPM stream from a file or "
      "stdin (-); may be repeated, and mixed with -i" },
    { 0, "video-fps", "R", RATE, INTO(rate), 0, 1000000,
      "frames per second of a folder or stream (default: as YUV4MPEG2 states, otherwise 24)" },
    { 0, "fps", "R", RATE, INTO(fps), 0, 1000000,
      "show the model R frames per second of video (default: the checkpoint's setting, usually 1)" },
    { 0, "frames", "N", WHOLE, INTO(frames), 1, 100000,
      "show at most N frames of a video (default: the checkpoint's setting, usually 64)" },
    { 'p', "prompt", "TEXT", TEXT, INTO(prompt), 0, 0,
      "the question; - reads it from stdin, @FILE from a file (a final newline is dropped). {image} marks where each "
      "picture belongs; without it the pictures come first" },
    { 's', "system", "TEXT", TEXT, INTO(system), 0, 0, "an instruction before the question; - and @FILE as with -p" },
    { 0, "messages", "FILE", TEXT, INTO(messages), 0, 0,
      "instead of -s and -p: a whole conversation as JSON in Hugging Face's format (docs/BATCH.md); - reads stdin. "
      "Paths in it are relative to the file; a picture without a path takes the next -i" },
    { 0, "jsonl", NULL, SWITCH, INTO(jsonl), 0, 0,
      "answer requests from stdin, one JSON object per line, with one line each on stdout (docs/BATCH.md); the other "
      "options are the defaults of every request" },
    { 0, "resume", "OUT", TEXT, INTO(resume), 0, 0,
      "with --jsonl: append the answers to the file OUT, and skip requests whose ids are already in it" },
    { 0, "raw", NULL, SWITCH, INTO(raw), 0, 0,
      "use -p as the prompt without a chat template; special tokens in it are recognized, and an image token (<image>) "
      "marks where each picture goes" },
    { 'n', "max-tokens", "N", WHOLE, INTO(options.max_tokens), 0, 1 << 24,
      "end the answer after N tokens (default 256); 0 prints the prompt as the model gets it" },
    { 't', "temperature", "T", REAL, INTO(options.temperature), 0, 100,
      "0 (the default) always takes the likeliest token; 1 samples from the model's own probabilities" },
    { 0, "top-p", "P", REAL, INTO(options.top_p), 0, 1,
      "sample from the likeliest tokens whose probabilities add up to P (default 1: all)" },
    { 0, "min-p", "P", REAL, INTO(options.min_p), 0, 1,
      "sample from tokens at least P times as likely as the likeliest (default 0: all)" },
    { 0, "top-k", "K", WHOLE, INTO(options.top_k), 0, 1 << 24, "sample from the K likeliest tokens (default 0: all)" },
    { 0, "repetition-penalty", "R", REAL, INTO(options.repetition_penalty), 0, 1000,
      "above 1, make tokens less likely that are already in the prompt or the answer, also without -t (default 0: the "
      "checkpoint's setting, usually 1, which changes nothing)" },
    { 0, "stop", "TEXT", STOP, INTO(stops), 0, 0, "end the answer before this text; may be repeated" },
    { 0, "seed", "S", SEED, INTO(options.seed), 0, INT64_MAX, "seed of the random numbers for sampling (default 0)" },
    { 'j', "threads", "N", WHOLE, INTO(options.threads), 1, 1024,
      "number of threads (default: OMP_NUM_THREADS, otherwise all cores; 1 without OpenMP)" },
    { 0, "no-split", NULL, SWITCH, INTO(options.no_split), 0, 0,
      "show the model only the whole picture, not its tiles: faster, less detail" },
    { 0, "longest-edge", "PX", WHOLE, INTO(options.longest_edge), 1, SV_MAX_SIDE,
      "scale a picture's longer side to PX before it is cut into tiles: a smaller PX gives fewer tiles, less "
      "detail and more speed (default: the checkpoint's setting; at most 4096)" },
    { 0, "background", "RGB", COLOUR, INTO(options.background), 0, 0,
      "put this colour behind transparent pictures: white, black or RRGGBB (default: as transformers does; it turns a "
      "single transparent colour white, but shows the colours that an alpha channel hides)" },
    { 0, "logprobs", "K", WHOLE, INTO(logprobs), 0, MOST_LOGPROBS,
      "with --json: the log-probability of each token of the answer, and of the K likeliest tokens at that position" },
    { 0, "choices", "A|B", TEXT, INTO(choices), 0, 0,
      "answer with the likeliest of these texts; --json adds the probability of each, as a whole and per token" },
    { 0, "schema", "FILE", TEXT, INTO(schema), 0, 0,
      "the answer is JSON that fits this JSON Schema, at any temperature (docs/BATCH.md lists what is supported)" },
    { 0, "fields", "A,B", TEXT, INTO(fields), 0, 0,
      "the answer is a JSON object with these keys, each value a string" },
    { 0, "json-output", NULL, SWITCH, INTO(json_output), 0, 0, "the answer is a JSON object" },
    { 0, "json", NULL, SWITCH, INTO(json), 0, 0,
      "print one JSON object: text, ids, prompt_ids, finish_reason, timings in seconds, tokens per second" },
    { 0, "dump", "DIR", TEXT, INTO(dump), 0, 0,
      "write every activation of the prompt as DIR/<Hugging Face module>.npy" },
    { 0, "tiles", "DIR", TEXT, INTO(tiles), 0, 0,
      "write each decoded picture and its tiles as DIR/imageK*.ppm" },
    { 0, "tokenize", NULL, SWITCH, INTO(tokenize), 0, 0, "print the ids of the text on stdin, on one line" },
    { 0, "detokenize", NULL, SWITCH, INTO(detokenize), 0, 0, "print the text of the ids on stdin" },
    { 0, "info", NULL, SWITCH, INTO(info), 0, 0,
      "print what the checkpoint contains and how much memory it needs; verify its checksum" },
    { 0, "selftest", NULL, SWITCH, INTO(selftest), 0, 0,
      "run the same input through each kernel set that this machine supports (the fastest also with one thread and "
      "token by token), and compare the results bit for bit, also with the hash in the file" },
    { 0, "hessians", "OUT", TEXT, INTO(hessians), 0, 0,
      "run calibration items and write X^T X of every matrix's input X, which export.py --calibrate rounds "
      "by" },
    { 0, "items", "LIST", TEXT, INTO(items), 0, 0, "the items for --hessians, such as calibration/items.tsv" },
    { 0, "layers", "A-B", TEXT, INTO(layers), 0, 0,
      "with --hessians: only these layers, which takes less memory; counted from 0, the vision tower's layers first" },
    { 0, "kernels", "SET", TEXT, INTO(kernels), 0, 0,
      "use this kernel set (--selftest lists them) instead of the fastest" },
    { 'q', "quiet", NULL, SWITCH, INTO(quiet), 0, 0, "print no progress and no timings on stderr" },
    { 'h', "help", NULL, HELP, 0, 0, 0, "" },
    { 0, "version", NULL, VERSION, 0, 0, 0, "" },
};
enum { N_OPTIONS = sizeof OPTIONS / sizeof OPTIONS[0] };

static const char HELP_BEFORE[] =
    "smolvlm: ask a small vision-language model about pictures, on the CPU, offline.\n"
    "\n"
    "  smolvlm MODEL -i photo.jpg -p \"What is this?\"\n"
    "  smolvlm MODEL -i before.png -i after.png -p \"What has changed?\" --json\n"
    "  smolvlm MODEL --video clip.mp4 -p \"What happens?\"\n"
    "  smolvlm MODEL -i page.png -p \"Read the title.\" -n 20 --longest-edge 1024\n"
    "  smolvlm MODEL\n"
    "  smolvlm MODEL --info\n"
    "  smolvlm MODEL --selftest\n"
    "\n"
    "MODEL is a file made by export.py from a Hugging Face directory. Without -p the question is read from stdin. On\n"
    "a terminal a conversation starts instead, with -i, --video and -s at its beginning. There, /image FILE or a file\n"
    "dropped on the terminal shows the model a picture, and /help lists all commands. What you type is kept in\n"
    "~/.smolvlm_history, or in $XDG_STATE_HOME/smolvlm_history.\n"
    "\n";
static const char HELP_AFTER[] =
    "\n"
    "-q -i FILE may be written -qi FILE or -qiFILE, --image FILE as --image=FILE; after -- no argument is an option.\n"
    "The answer goes to stdout (without white space before its first word, which only --json keeps), progress and\n"
    "timings go to stderr. Exit code: 0 for success, 1 for a faulty input (one sentence says what is wrong), 2 for\n"
    "wrong usage.\n";

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

/* The edit distance between a's first n letters and b: how many letters must be inserted, deleted, replaced or swapped
   with the next one. */
static int distance(const char *a, size_t n, const char *b) {
    enum { LONGEST = 40 };
    int d[LONGEST + 1][LONGEST + 1];                        /* d[i][j]: between a's first i and b's first j */
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

/* Wrong usage: the word names no option. Suggests options whose names begin with it, otherwise those at the smallest
   edit distance, if that is small enough for a typing error. Ignores case, and takes _ for -. */
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
        if (strcmp(name, OPTIONS[i].name) == 0) scores[i] = -1;                                     /* -json */
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

/* 30, 29.97 or 30000/1001 */
static bool rate(const char *text, double high, double *value) {
    char *end;
    double above = strtod(text, &end), below = 1;
    if (end == text) return false;
    if (*end == '/' && end[1]) below = strtod(end + 1, &end);
    if (*end || !(above > 0 && below > 0 && above / below > 0 && above / below <= high)) return false;
    *value = above / below;
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

/* Stores an option's value. shown: the option as the user wrote it. Returns -1 to continue, otherwise the exit code. */
static int set_option(Arguments *a, const struct Option *o, const char *shown, const char *value) {
    void *field = (char *)a + o->field;
    long long number;
    switch (o->kind) {
    case SWITCH: *(bool *)field = true; break;
    case TEXT: *(const char **)field = value; break;
    case PICTURE: a->images[a->n_images++] = value; break;
    case FILM:
        a->videos[a->n_images] = true;
        a->images[a->n_images++] = value;
        break;
    case RATE:
        if (!rate(value, (double)o->high, field))
            return misused("%s %s: not a rate above 0 and up to %lld, as 30 or 29.97 or 30000/1001", shown, value,
                           o->high);
        break;
    case STOP:
        if (!*value) return misused("%s: an empty text stops nothing", shown);
        a->stops[a->options.n_stop++] = value;
        break;
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

/* Reads one argument that begins with -, as getopt_long does, except that names must be complete: --name, --name=value
   or --name value; or letters, where the first that takes a value takes the rest of the argument, or the next argument
   if nothing is left. Returns -1 to continue, otherwise the exit code. */
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

int no_question(void) { return misused("what is the question? smolvlm MODEL -i photo.jpg -p \"What is this?\""); }

int parse_arguments(int argc, char **argv, Arguments *a) {
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
            /* If a text is a single word and another word follows, the quotes are probably missing. */
            if (text && !text[strcspn(text, " \t\r\n")] && !follower) follower = word;
            if (a->model && follower)
                return misused("%s: a second model; a text of several words needs quotes (\"%s %s ...\"), and each "
                               "picture a -i of its own", word, text, follower);
            if (a->model) return misused("%s: a second model; each picture needs a -i of its own", word);
            a->model = word;
        }
    }
    int others = a->tokenize + a->detokenize + a->info + a->selftest + (a->hessians != NULL) + a->jsonl;
    if (others > 1) return misused("--tokenize, --detokenize, --info, --selftest, --hessians, --jsonl: one at a time");
    bool question = a->prompt || a->messages || a->n_images || a->raw || a->json || a->dump || a->tiles;
    if (others && (question || (a->system && !a->jsonl)))
        return misused("-p, -s, -i, --video, --messages, --raw, --json, --dump and --tiles go with none of --tokenize, "
                       "--detokenize, --info, --selftest, --hessians, --jsonl (-s does with the last)");
    bool films = a->messages || a->jsonl;
    for (int i = 0; i < a->n_images; i++) films = films || a->videos[i];
    if ((a->rate > 0 || a->fps > 0 || a->frames) && !films)
        return misused("--video-fps, --fps and --frames are about a --video, and there is none");
    if (a->logprobs && !a->json && !a->jsonl) return misused("--logprobs goes with --json or --jsonl");
    if (a->choices && (a->logprobs || a->dump)) return misused("--choices goes with neither --logprobs nor --dump");
    int shapes = (a->schema != NULL) + (a->fields != NULL) + a->json_output;
    if (shapes > 1) return misused("--schema, --fields, --json-output: one of them");
    if (shapes && others && !a->jsonl)
        return misused("--schema, --fields and --json-output go with a question or --jsonl");
    if (shapes && (a->choices || a->options.n_stop))
        return misused("--schema, --fields and --json-output go with neither --choices nor --stop");
    if (a->resume && !a->jsonl) return misused("--resume goes with --jsonl alone");
    if (a->hessians && !a->items) return misused("--hessians: of which items? --items calibration/items.tsv");
    if ((a->items || a->layers) && !a->hessians) return misused("--items and --layers go only with --hessians");
    if (!a->model) return misused("which model? smolvlm MODEL -i photo.jpg -p \"What is this?\"");
    if (a->messages && (a->prompt || a->system || a->raw))
        return misused("-p, -s and --raw go not with --messages, which is the whole conversation");
    if (!a->prompt && !a->messages && !others) {            /* start a conversation, or read the question from stdin */
        bool alone = !a->raw && !a->json && !a->choices && !shapes && !a->dump && !a->tiles &&
                     a->options.max_tokens > 0;
        bool taken = a->system && strcmp(a->system, "-") == 0;
        for (int i = 0; i < a->n_images; i++) taken = taken || strcmp(a->images[i], "-") == 0;
        a->talk = alone && !taken && line_terminal();
        a->implied = !taken && !line_typed();
        if (a->implied) a->prompt = "-";
        if (!a->talk && !a->implied) return no_question();
    }
    if (a->prompt && blank(a->prompt)) return misused("-p: the prompt is empty");
    if (a->raw && a->system) return misused("-s goes not with --raw: the prompt is the whole of it");
    int inputs = (a->prompt && strcmp(a->prompt, "-") == 0) + (a->system && strcmp(a->system, "-") == 0) +
                 (a->messages && strcmp(a->messages, "-") == 0) + a->jsonl;
    for (int i = 0; i < a->n_images; i++) inputs += strcmp(a->images[i], "-") == 0;
    if (inputs > 1)
        return misused("-p -, -s -, -i -, --video -, --messages - and --jsonl: standard input can be read only once");
    const SvOptions *o = &a->options, usual = sv_default_options();
    bool samples = o->top_k != usual.top_k || o->seed != usual.seed || o->top_p < usual.top_p || o->min_p > 0;
    if (samples && !(o->temperature > 0) && !a->quiet)
        fputs("smolvlm: --top-p, --min-p, --top-k and --seed change nothing without -t, as the likeliest token is "
              "taken\n", stderr);
    return -1;
}
