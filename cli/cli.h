/* cli.h: what the files of the command line share. Answering a question needs only the interface of smolvlm.h; model.h
   is needed for --info and the kernel sets. Only this folder prints and sets exit codes.

   main.c      main, answering one question, --tokenize
   options.c   the table of options: parsing, --help
   info.c      --info, --selftest
   calibrate.c --hessians: statistics by which export.py --calibrate rounds
   output.c    reading and writing files; activations as .npy
   answer.c    log-probabilities, choices, answers that follow a schema
   schema.c    JSON Schema as an automaton that forbids tokens; schema.h
   jsonl.c, request.c  --jsonl: its lines; a single request
   talk.c      a conversation on a terminal; line.c edits its lines, width.c measures them in columns (line.h)
   conversation.c  turns arguments or JSON into messages
   clip.c      videos: files through ffmpeg, folders, streams
   json.c      reading and writing JSON; json.h

   stdout: the answer (or JSON, ids, information). stderr: progress, one line of timings, errors.
   Exit code: 0 for success; 1 for a faulty input, which one sentence describes; 2 for wrong usage. */
#ifndef SV_CLI_H
#define SV_CLI_H

#include "../model.h"
#include "json.h"
#include "schema.h"

#ifdef SV_NO_CODECS                                         /* make CODECS=0 */
#define NO_CODECS(name, error) \
    sv_fail(error, "%s: this program was built without codecs/, so it reads no picture files", name)
#define sv_image_read(path, image, error) ((void)(image), NO_CODECS(path, error))
#define sv_image_decode(data, size, name, image, error) \
    ((void)(data), (void)(size), (void)(image), NO_CODECS(name, error))
#endif

typedef struct Arguments {
    const char *model, *prompt, *system, *messages, *resume, *schema, *fields, *dump, *tiles, *kernels;
    const char *hessians, *items, *layers;
    char *texts[2];                                         /* the texts that -p and -s read, to be freed */
    const char **images, **stops;                           /* images: pictures and videos; stops: backs options.stop */
    bool *videos;                                           /* videos[i]: images[i] is a video */
    int n_images, logprobs, frames;
    double rate, fps;                                       /* --video-fps, --fps; these and frames: 0 if not given */
    char *choices;
    SvOptions options;
    bool implied;                                           /* stdin is the prompt because -p is missing */
    bool talk, raw, json, jsonl, json_output, tokenize, detokenize, info, selftest, quiet;
} Arguments;

/* options.c: prints one sentence to stderr. Returns 1, the exit code for a faulty input. */
SV_PRINTF(1, 2) int complain(const char *format, ...);

/* The same for wrong usage: returns 2. */
SV_PRINTF(1, 2) int misused(const char *format, ...);

int no_question(void);                                      /* the same for a missing question */
bool blank(const char *text);                               /* whether it is all white space */

/* Fills *a from the command line; a->images, a->videos and a->stops have room for argc entries
   each. Returns -1 to continue, otherwise the exit code. */
int parse_arguments(int argc, char **argv, Arguments *a);

/* talk.c: a conversation, until Ctrl-D; returns the exit code. */
int talk(const Arguments *a, const SvModel *model);

/* info.c: --info and --selftest; both return the exit code. chosen: the one kernel set to test, or NULL for all. */
int print_info(const SvModel *m, int threads);
int selftest(SvModel *m, const SvKernels *chosen, int threads);

/* calibrate.c: --hessians; returns the exit code. */
int gather_hessians(const Arguments *a, const SvModel *model);

/* output.c. A file is written under a temporary name and renamed when it is complete. directory NULL: name is the whole
   path. Functions that return bool print a complaint before they return false. */
typedef struct Output { FILE *file; char path[1024], temporary[1040]; } Output;
bool output_open(Output *o, const char *directory, const char *name);
bool output_close(Output *o);

/* Creates the directory if it is missing, and tries to write a file in it, so that a failure shows before any work. */
bool directory_ready(const char *path);

/* --tiles: writes one picture; writes all tiles of a prompt. */
bool write_ppm(const char *directory, const char *name, const uint8_t *rgb, int width, int height);
bool write_tiles(const char *directory, const SvPrompt *prompt);

/* --dump: one .npy file per module. Its parts arrive in order and are appended along one axis. The header has a fixed
   size and is rewritten at the end, when the length of that axis is known. Numbers are in this machine's byte order,
   which the header states. */
typedef struct Dump { Output output; char module[96]; int dims, shape[5], axis; } Dump;
typedef struct Dumps { const char *directory; Dump *list; int count; bool failed; } Dumps;
void dump_activation(Dumps *dumps, const SvActivation *a);

/* keep: the answer succeeded, so the files are renamed to their final names; otherwise they are removed. */
bool dump_close(Dumps *dumps, bool keep);
bool dump_ids(const char *directory, const SvPrompt *prompt);

extern const char STDIN[];                                  /* the name of stdin in errors */

/* The whole content of a file, zero-terminated; the caller frees it. Prints a complaint and returns NULL on failure. */
char *read_text(FILE *file, const char *name, size_t *size);
char *read_file(const char *path, size_t *size);

/* Reads a JSON file, or stdin for "-". *error is left empty if read_text has already printed the complaint. */
int read_json(const char *path, JsonDocument *document, SvError *error);

/* Resolves the value of -p or -s: - reads stdin, @FILE reads a file, anything else is the text itself. A final newline,
   which echo and editors add, is removed. *read: memory that the caller frees. Prints a complaint and returns false on
   failure. */
bool find_text(const char **text, char **read);

/* clip.c: reads the chosen frames of a video. rate: frames per second of a folder or stream; 0 takes the stated rate,
   or 24 with a note. fps, frames: how to choose frames; 0 takes the checkpoint's setting. background: as in SvOptions,
   or NULL. videos: which of the given files are videos, or NULL for none. clip_read zeroes *clip first. */
typedef struct ClipOptions {
    const SvModel *model;
    double rate, fps;
    int frames;
    const uint8_t *background;
    const bool *videos;
} ClipOptions;
typedef struct Clip { SvVideo video; int width, height; SvError note; } Clip;
int clip_read(const char *path, const ClipOptions *options, Clip *clip, SvError *error);
void clip_free(Clip *clip);

/* conversation.c: messages with their pictures. The texts belong to the caller and must outlive the conversation. A
   zeroed conversation, or one whose creation failed, may be freed: nothing happens. */
typedef struct Conversation {
    SvMessage *messages;
    int count;
    SvContent *contents;                                    /* of all messages, in order */
    int n_contents;
    SvImage *images;                                        /* in the order of the contents */
    Clip *clips;
    int n_images, n_clips;
    char **kept;                                            /* names and texts that the conversation owns */
    int n_kept;
} Conversation;
void conversation_free(Conversation *conversation);

/* Makes a conversation of -s (or NULL), -p, -i and --video. Pictures go where the prompt has {image}, videos where it
   has {video}; without such marks, all go before the text, in their order. raw: {image} is ordinary text, and the
   pictures are the first contents. */
int conversation_ask(const char *system, const char *prompt, const char *const *images, int n_images, bool raw,
                     const ClipOptions *clips, Conversation *conversation, SvError *error);

/* Makes a conversation of JSON. folder: the base of relative paths, ending in /, or "" for the working directory.
   given: the pictures and videos for contents without a path. */
int conversation_read(const Json *messages, const char *folder, const char *const *given, int n_given,
                      const ClipOptions *clips, Conversation *conversation, SvError *error);

/* output.c: makes a conversation of a JSON file, or of stdin for "-". Paths in it are relative to the file. The
   document must outlive the conversation. *error is left empty if the complaint was already printed. */
int conversation_file(const char *path, const char *const *given, int n_given, const ClipOptions *clips,
                      JsonDocument *document, Conversation *conversation, SvError *error);

/* Fails if the object has a member that is not in keys, a list that ends with NULL. what: the object's name, or "". */
int json_known(const Json *object, const char *what, const char *const *keys, SvError *error);

/* The texts of a string or an array of strings, as one list that the caller frees; an empty list if value is NULL.
   name: the member's name, for errors. */
int json_texts(const Json *value, const char *name, const char ***texts, int *count, SvError *error);

void put_ids(FILE *file, const int32_t *ids, size_t count, const char *separator);

enum { MOST_LOGPROBS = 100 };

/* answer.c: what is requested beyond the text of an answer. choices: the answer is the likeliest of these. guide: keeps
   the answer to a schema, or NULL. */
typedef struct Wish { int logprobs; const char *const *choices; int n_choices; Guide *guide; } Wish;
typedef struct ScoredId { int32_t id; double logprob; } ScoredId;

/* One of the choices: the log-probability of the whole text, and its number of tokens; both include the end token. */
typedef struct Choice { const char *text; double logprob; size_t tokens; } Choice;

/* tokens: one row for each of the answer's n_tokens tokens: first the token itself, then the likeliest tokens at its
   position, with id -1 where there are no more. */
typedef struct Report {
    ScoredId *tokens;
    size_t n_tokens, row, room;
    Choice *choices;
    int n_choices, best;
} Report;

/* Does what sv_chat_prompt does (sv_generate if chat is NULL), and fulfils the wish. The caller frees *report. */
int ask(const SvModel *model, SvChat *chat, const SvPrompt *prompt, const Wish *wish, const SvOptions *options,
        const SvEvents *events, SvAnswer *answer, Report *report, SvError *error);
void report_free(Report *report);
void put_report(FILE *out, const SvModel *model, const Report *report);   /* writes ", " and members of a JSON object */

/* The schema that answers must follow, cached because the next request often has the same one. Zero it before use.
   shape_set makes it from schema; if that is NULL, from fields ("total,date"); if both are NULL, any object will do. */
typedef struct Shape { SvBytes text; Schema *schema; SchemaVocabulary *vocabulary; Guide *guide; } Shape;
int shape_set(Shape *shape, const SvModel *model, const Json *schema, const char *fields, SvError *error);
void shape_free(Shape *shape);

/* Splits "a|b|c" in place. *choices: a list of pointers into the text; the caller frees the list. */
int split_choices(char *text, const char ***choices, int *count, SvError *error);
int check_choices(const char *const *choices, int count, SvError *error); /* fails for empty or repeated ones */

/* request.c: answers requests of --jsonl one by one, and writes each answer as a line. One with only the first two
   members set may be freed. */
typedef struct Answerer {
    const Arguments *arguments;                             /* the defaults for every request */
    const SvModel *model;
    SvChat *chat;
    Shape shape;
    JsonDocument schema;                                    /* --schema */
} Answerer;
int answer_request(Answerer *answerer, const Json *request, FILE *out, SvError *error);
void answerer_free(Answerer *answerer);

/* jsonl.c: --jsonl; returns the exit code. */
int jsonl(const Arguments *a, const SvModel *m);

#endif
