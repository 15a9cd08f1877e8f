/* cli.h: what the files of the command line share. smolvlm.h's interface is all that answering a question takes; model.h
   is for --info and the kernel sets. Printing and exit codes are in this folder and nowhere else.

   main.c      the uses of the program
   options.c   the table of options: parsing, --help
   info.c      --info, --selftest
   calibrate.c --hessians: what export.py --calibrate rounds by
   output.c    files that are read and written, activations as .npy
   answer.c    log-probabilities, given choices, shapes
   schema.c    JSON Schema as an automaton that bars tokens; schema.h
   jsonl.c, request.c  --jsonl: the lines; one request
   talk.c      a conversation on a terminal; line.c reads its lines, width.c says how wide they are (line.h)
   conversation.c  what is asked, of arguments or JSON, to messages
   clip.c      videos: files through ffmpeg, folders, streams
   json.c      JSON, read and written; json.h

   stdout: the answer (or JSON, ids, information). stderr: progress, one line of timings, errors.
   Exit code 0; 1: something is wrong with an input, said in one sentence; 2: wrong usage. */
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
    char *texts[2];                                         /* what -p and -s had read, to be freed */
    const char **images, **stops;                           /* pictures and videos; stops: of options.stop */
    bool *videos;                                           /* which of images are videos */
    int n_images, logprobs, frames;
    double rate, fps;                                       /* --video-fps, --fps; 0: not given, as frames */
    char *choices;
    SvOptions options;
    bool implied;                                           /* -p is stdin, without having been said */
    bool talk, raw, json, jsonl, json_output, tokenize, detokenize, info, selftest, quiet;
} Arguments;

/* options.c: one sentence on stderr, and the exit code for a wrong input, 1. */
SV_PRINTF(1, 2) int complain(const char *format, ...);

/* The same for wrong usage, 2. */
SV_PRINTF(1, 2) int misused(const char *format, ...);

int no_question(void);                                      /* the same where there is none */
bool blank(const char *text);                               /* nothing but white space */

/* Fills *a from the command line; a->images, a->videos and a->stops have room for argc each.
   Returns -1 to go on, or the exit code. */
int parse_arguments(int argc, char **argv, Arguments *a);

/* talk.c: a conversation, until Ctrl-D; returns the exit code. */
int talk(const Arguments *a, const SvModel *model);

/* info.c: --info and --selftest; both return the exit code. chosen: the one kernel set to test, or NULL for all. */
int print_info(const SvModel *m, int threads);
int selftest(SvModel *m, const SvKernels *chosen, int threads);

/* calibrate.c: --hessians; returns the exit code. */
int gather_hessians(const Arguments *a, const SvModel *model);

/* output.c. A file is written under another name and renamed when it is whole; directory NULL: name is its path. All
   that return bool complain before they return false. */
typedef struct Output { FILE *file; char path[1024], temporary[1040]; } Output;
bool output_open(Output *o, const char *directory, const char *name);
bool output_close(Output *o);

/* Makes the directory, if it is not there, and a file in it: so one that cannot be written is known beforehand. */
bool directory_ready(const char *path);

/* --tiles: a picture; all tiles of a prompt. */
bool write_ppm(const char *directory, const char *name, const uint8_t *rgb, int width, int height);
bool write_tiles(const char *directory, const SvPrompt *prompt);

/* --dump: one .npy a module. Its pieces arrive in order and are appended; the header, of fixed size, is written again
   at the end, when the joined axis's length is known. Numbers are in this machine's byte order, as .npy can say. */
typedef struct Dump { Output output; char module[96]; int dims, shape[5], axis; } Dump;
typedef struct Dumps { const char *directory; Dump *list; int count; bool failed; } Dumps;
void dump_activation(Dumps *dumps, const SvActivation *a);

/* keep: the answer succeeded, so the files get their names; otherwise they are removed. */
bool dump_close(Dumps *dumps, bool keep);
bool dump_ids(const char *directory, const SvPrompt *prompt);

extern const char STDIN[];                                  /* what errors call it */

/* All of a file, zero-terminated, to be freed; NULL with a complaint if it cannot be held. */
char *read_text(FILE *file, const char *name, size_t *size);
char *read_file(const char *path, size_t *size);

/* A JSON file, or of "-" stdin. What read_text complained of leaves no sentence in *error. */
int read_json(const char *path, JsonDocument *document, SvError *error);

/* What -p or -s names: - is stdin, @FILE a file, both without the line end at their end, so that echo and editors give
   what was meant; anything else is the text itself. *read: what is to be freed. Returns false with a complaint. */
bool find_text(const char **text, char **read);

/* clip.c: a video's chosen frames. rate: how many a second a folder or stream has, 0: as stated, or 24, and a note says
   so; fps, frames: how to choose, 0: as the checkpoint says. background: as SvOptions', or NULL. videos: which of the
   files given are videos, or NULL for none. clip_read zeroes *clip first. */
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

/* conversation.c: messages with their pictures. The texts are the caller's, and must outlive it. Freeing one that is
   zeroed, or could not be made, does nothing. */
typedef struct Conversation {
    SvMessage *messages;
    int count;
    SvContent *contents;                                    /* of all messages, one message after the other */
    int n_contents;
    SvImage *images;                                        /* in the order of the contents */
    Clip *clips;
    int n_images, n_clips;
    char **kept;                                            /* names and texts made here */
    int n_kept;
} Conversation;
void conversation_free(Conversation *conversation);

/* Of -s (or NULL), -p, -i and --video: pictures stand where the prompt has {image}, videos where it has {video}; all
   are before it, in their order, where it has neither. raw: {image} is a text like any other, and the pictures are the
   first contents. */
int conversation_ask(const char *system, const char *prompt, const char *const *images, int n_images, bool raw,
                     const ClipOptions *clips, Conversation *conversation, SvError *error);

/* Of JSON. folder: what paths are relative to, with a / at its end, or "" for the working directory. given: pictures
   and videos for those contents that name none. */
int conversation_read(const Json *messages, const char *folder, const char *const *given, int n_given,
                      const ClipOptions *clips, Conversation *conversation, SvError *error);

/* output.c: of a file of JSON, or of stdin (-); paths in it are relative to it. The document must outlive it. The
   sentence is "" where a complaint was made already. */
int conversation_file(const char *path, const char *const *given, int n_given, const ClipOptions *clips,
                      JsonDocument *document, Conversation *conversation, SvError *error);

/* Refuses an object with a member that is not among keys (with NULL at their end); what: the object's name, or "". */
int json_known(const Json *object, const char *what, const char *const *keys, SvError *error);

/* A string or an array of strings: their texts, to be freed as one; none for NULL. name: the member's, for an error. */
int json_texts(const Json *value, const char *name, const char ***texts, int *count, SvError *error);

void put_ids(FILE *file, const int32_t *ids, size_t count, const char *separator);

enum { MOST_LOGPROBS = 100 };

/* answer.c: what is wanted beside an answer's text. choices: the answer is the likeliest of these. guide: NULL, or what
   keeps it to a shape. */
typedef struct Wish { int logprobs; const char *const *choices; int n_choices; Guide *guide; } Wish;
typedef struct ScoredId { int32_t id; double logprob; } ScoredId;

/* A given answer: the log-probability of it as a whole, of so many tokens, with the end token. */
typedef struct Choice { const char *text; double logprob; size_t tokens; } Choice;

/* tokens: a row each for the n_tokens of the answer, in it the token and behind it the likeliest ones, -1 where there
   are no more. */
typedef struct Report {
    ScoredId *tokens;
    size_t n_tokens, row, room;
    Choice *choices;
    int n_choices, best;
} Report;

/* sv_chat_prompt, or where chat is NULL sv_generate, with what is wished. The caller frees *report. */
int ask(const SvModel *model, SvChat *chat, const SvPrompt *prompt, const Wish *wish, const SvOptions *options,
        const SvEvents *events, SvAnswer *answer, Report *report, SvError *error);
void report_free(Report *report);
void put_report(FILE *out, const SvModel *model, const Report *report);   /* as members of an object, a comma before */

/* A shape for answers, and what is remembered for the next one, which is often the same. Zeroed at first. schema: NULL
   for one of fields ("total,date"), or where these are NULL too, for any object. */
typedef struct Shape { SvBytes text; Schema *schema; SchemaVocabulary *vocabulary; Guide *guide; } Shape;
int shape_set(Shape *shape, const SvModel *model, const Json *schema, const char *fields, SvError *error);
void shape_free(Shape *shape);

/* "a|b|c" to its parts, which stay in the text, and a list of them to be freed. */
int split_choices(char *text, const char ***choices, int *count, SvError *error);
int check_choices(const char *const *choices, int count, SvError *error); /* refuses empty ones and one twice */

/* request.c: answers requests of --jsonl, one after the other, and writes each answer as a line. Freeing what is zeroed
   but for the first two does nothing. */
typedef struct Answerer {
    const Arguments *arguments;                             /* what a request does not say */
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
