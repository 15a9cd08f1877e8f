/* smolvlm.h: SmolVLM2 in plain C, the public interface. A complete program (link all .c files but those of cli/):

     #include "smolvlm.h"
     #include <stdio.h>

     int main(void) {
         SvModel *model; SvImage image; SvPrompt prompt; SvAnswer answer; SvError error;
         SvOptions options = sv_default_options();
         SvContent contents[] = { { .image = &image }, { .text = "What do you see?" } };
         SvMessage message = { "user", contents, 2 };
         if (sv_open("demo/demo.bin", &model, &error) != 0 ||
             sv_image_read("demo/pictures/scene.png", &image, &error) != 0 ||
             sv_prompt(model, &message, 1, &options, &prompt, &error) != 0 ||
             sv_generate(model, &prompt, &options, NULL, &answer, &error) != 0) return puts(error.text), 1;
         puts(answer.text);
         sv_answer_free(&answer), sv_prompt_free(&prompt), sv_image_free(&image), sv_close(model);
     }

   A picture flows through codecs/ (its file to pixels), image.c (to tiles; a video by video.c), smolvlm.c (with the
   conversation to a prompt), tokenizer.c (to ids), vision.c (tiles to image tokens), decoder.c (to logits), sample.c
   (to the next token); chat.c leads it. model.c opens checkpoints; quant.c defines the arithmetic; kernels/: fast.

   Conventions. Nothing here prints, exits, or keeps global state. A function that can fail returns 0, or -1 with a
   sentence in *error that names the file and what is wrong (error may be NULL). Whatever a function allocates for the
   caller has a matching sv_..._free, which accepts a zeroed struct, or is a plain array for free(). A model is
   read-only once open, so any number of threads may share it; an SvDecoder or SvChat belongs to one thread at a time.
   Shapes are row-major, [rows, cols]. */
#ifndef SMOLVLM_H
#define SMOLVLM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SV_VERSION_STRING "0.1.0"

typedef struct SvError { char text[640]; } SvError;

/* ------------------------------------------------------------------------------------- pictures (codecs/, image.c) */

/* A picture as its file has it. What is transparent in it keeps its colours in rgb: what to show there is said later,
   by sv_image_paint. */
typedef struct SvImage {
    int width, height;
    uint8_t *rgb;               /* [height, width, 3] */
    uint8_t *alpha;             /* [height, width], 0: transparent .. 255: opaque; NULL where all of it is opaque */
    bool has_key;               /* the picture has pixels of the one colour that stands for transparent: Pillow's     */
    uint8_t key[3];             /* ... info["transparency"] after convert("RGB"); alpha, if any, need not agree       */
    SvError note;               /* what is remarkable about the file, one sentence as an error's, or "" */
} SvImage;

/* A picture as the model sees it: rows x cols tiles, row by row, then the global one; count = rows * cols + 1.
   An unsplit picture has rows = cols = 0 and count = 1. rgb: [count, side, side, 3] */
typedef struct SvTiles { int rows, cols, count, side; uint8_t *rgb; } SvTiles;

/* What a picture may measure: JPEG's own limit a side, and in all the number of pixels at which Pillow refuses. */
#define SV_MAX_SIDE   65535
#define SV_MAX_PIXELS 178956970

/* Reads a PNG, JPEG or PNM file ("-": standard input) as Image.open, ImageOps.exif_transpose, convert("RGB") would,
   to the bit; sv_image_decode the same from memory, and errors call that name. The caller frees *image. */
int sv_image_read(const char *path, SvImage *image, SvError *error);
int sv_image_decode(const void *data, size_t size, const char *name, SvImage *image, SvError *error);

/* An opaque picture for the model to see. Over a background (red, green, blue), it is what Image.alpha_composite of
   Pillow makes of convert("RGBA"). With background NULL, it is what convert_to_rgb of the reference's processor makes:
   pixels of the key's colour become white, all others stay as they are. The caller frees *out. */
int sv_image_paint(const SvImage *image, const uint8_t *background, SvImage *out, SvError *error);

/* Pillow's Image.resize((width, height), LANCZOS), to the bit. The caller frees *out. */
int sv_image_resize(const SvImage *image, int width, int height, SvImage *out, SvError *error);

/* SmolVLMImageProcessorPil without the normalisation: painted (no background), the longest edge to longest_edge pixels,
   then cut into tiles of side x side and the global picture, or (split false) only the global one. The caller frees
   *tiles. SV_EXACT_SIZE as longest_edge: every picture to that height and width, whatever its shape. */
#define SV_EXACT_SIZE(height, width) ((height) * 65536 + (width))   /* each 1 to 4096 */
int sv_image_split(const SvImage *image, int longest_edge, int side, bool split, SvTiles *tiles, SvError *error);
void sv_image_free(SvImage *image);
void sv_tiles_free(SvTiles *tiles);

/* --------------------------------------------------------------------------------------------- the model (model.c) */

typedef struct SvModel SvModel;          /* model.h shows what is in it */
/* Opens a checkpoint: maps it, checks every length, offset and dimension, and that the metadata's checksum holds. Files
   up to SV_VERIFY_SIZE, and those that are read whole, have their weights' checksum verified too: for a larger one that
   would take longer than an answer, so there it is the caller's choice (sv_verify). Do not truncate or change the file
   while the model is open: reading a page that is gone raises SIGBUS. Close the model with sv_close. */
#define SV_VERIFY_SIZE (64u << 20)
int sv_open(const char *path, SvModel **model, SvError *error);
int sv_verify(const SvModel *model, SvError *error);
void sv_close(SvModel *model);

/* Bytes that an answer takes beside the mapped file: the key/value cache for `positions`, the image features and the
   buffers of the vision tower for `tiles`, with as many threads as sv_threads(threads). */
uint64_t sv_memory_needed(const SvModel *model, int positions, int tiles, int threads);

/* ---------------------------------------------------------------------- conversation to answer (smolvlm.c, chat.c) */

/* What happens on the way, told to whoever wants to know; every function may be NULL.

   progress    what is being worked on: phase "tile" or "prefill", up to tile or prompt token `at` of `total`; or "drop"
               (sv_chat_answer). Return true to give up: sv_generate fails.
   logits      those of the next token, before the options change them. You may, too: -INFINITY bars a token.
   token       one more token of the answer; text is the characters that became certain with it (maybe none; not
               terminated): a character is whole, and no stop text can begin there. Not called for the end token; with
               id -1 for text that is left at the end. Return true to end the answer there.
   activation  one module's output: data is a piece of a tensor, of this shape; the pieces come in order and are joined
               along axis. Names and joined shapes are those of the HF modules' outputs. It must return, as threads of
               the team wait. */
typedef struct SvActivation { const char *module; const float *data; int dims, shape[5], axis; } SvActivation;
typedef struct SvEvents {
    void *user;
    bool (*progress)(void *user, const char *phase, int at, int total);
    bool (*token)(void *user, int32_t id, const char *text, size_t size);
    void (*activation)(void *user, const SvActivation *activation);
    void (*logits)(void *user, float *logits, int count);
} SvEvents;

/* A video as the model sees it: some of its frames, those number index[i], each as one tile. sv_video_new chooses them
   as sample_frames does, of `total` frames, `rate` a second: fps a second, at most max_frames (0: the checkpoint's).
   Then sv_video_frame is given each, in any order. */
typedef struct SvVideo { SvTiles frames; int64_t *index; double rate, duration; } SvVideo;
int sv_video_new(const SvModel *model, int64_t total, double rate, double duration, double fps, int max_frames,
                 SvVideo *video, SvError *error);
int sv_video_frame(const SvModel *model, SvVideo *video, int i, const SvImage *frame, SvError *error);
void sv_video_free(SvVideo *video);

/* A conversation: messages with a role ("system", "user", "assistant") and at least one content: a text, a picture, one
   that sv_image_split has cut, or a video, and NULL for the others. name: what errors call it; may be NULL. */
typedef struct SvContent { const char *text, *name; const SvImage *image; const SvTiles *tiles;
                           const SvVideo *video; } SvContent;
typedef struct SvMessage { const char *role; const SvContent *content; int count; } SvMessage;

typedef struct SvOptions {
    int threads;                /* 0: sv_threads(0), as many as there are cores (1 without OpenMP) */
    int max_tokens;             /* the answer's limit */
    float temperature;          /* 0: greedy, always the likeliest token */
    int top_k;                  /* sample among the k likeliest; 0: all */
    float top_p;                /* ... among the likeliest that together reach p; 1: all */
    float min_p;                /* ... among those at least min_p times as likely as the likeliest; 0: all */
    float repetition_penalty;   /* on all ids of the prompt and the answer, greedy too; 0: the checkpoint's; 1: none */
    uint64_t seed;
    const char *const *stop; int n_stop;    /* the answer ends before the first of these texts */
    bool no_split;              /* only the global picture */
    int longest_edge;           /* 0: the checkpoint's; above 4096, the reference's limit, it is that */
    bool paint; uint8_t background[3];  /* what is transparent is painted over it; false: as the reference does */
} SvOptions;
SvOptions sv_default_options(void);

typedef struct SvPrompt {
    char *text;                 /* as rendered, pictures expanded */
    int32_t *ids;
    size_t n_ids;
    SvTiles *pictures;          /* in the order of their <image> tokens; their rgb point into tiles */
    int n_pictures, n_tiles;
    uint8_t *tiles;             /* all pictures' tiles, [n_tiles, image_size, image_size, 3] */
    double seconds;             /* cutting the pictures and tokenizing */
} SvPrompt;

/* Renders the conversation as the checkpoint's chat template does, cuts the pictures, expands each into its tokens, and
   tokenizes the whole (SmolVLMProcessor.__call__). Fails if a text contains the image token itself, and for a
   conversation that the template does not provide for (chat_accepts in model.h). */
int sv_prompt(const SvModel *model, const SvMessage *messages, int count, const SvOptions *options,
              SvPrompt *prompt, SvError *error);

/* The same for a text that is the prompt as it stands, without a chat template: processor(text=text, images=pictures).
   The image token stands in it where each of the `count` pictures goes, <video> for a video. */
int sv_prompt_raw(const SvModel *model, const char *text, const SvContent *pictures, int count,
                  const SvOptions *options, SvPrompt *prompt, SvError *error);
void sv_prompt_free(SvPrompt *prompt);

typedef struct SvAnswer {
    char *text;                 /* tokenizer.decode(ids) */
    size_t size;
    int32_t *ids;               /* without the end token, with those of a stop text; text ends before it */
    size_t n_ids, n_prompt, n_kept;     /* n_kept: of the prompt's n_prompt ids, those that were in a chat's cache */
    int tiles, dropped;         /* tiles that went through the vision tower; messages that sv_chat_answer dropped */
    bool stopped;               /* by an end token, stop text or token event; else by max_tokens or the context */
    double vision_seconds, prefill_seconds, decode_seconds;
} SvAnswer;

/* generate(): vision tower, prefill, then token after token. The caller frees *answer. */
int sv_generate(const SvModel *model, const SvPrompt *prompt, const SvOptions *options, const SvEvents *events,
                SvAnswer *answer, SvError *error);
void sv_answer_free(SvAnswer *answer);

/* Keeps the KV cache and the tiles' features between answers. capacity: positions, 0: the model's context.
   sv_chat_prompt is sv_generate, but as far as a prompt begins as the one before and its answer did, it is not computed
   again, and neither is a tile that was seen before (unless activations are listened to). */
typedef struct SvChat SvChat;
int sv_chat_new(const SvModel *model, int capacity, int threads, SvChat **chat, SvError *error);
int sv_chat_prompt(SvChat *chat, const SvPrompt *prompt, const SvOptions *options, const SvEvents *events,
                   SvAnswer *answer, SvError *error);
void sv_chat_free(SvChat *chat);

/* It also holds a conversation. sv_chat_add appends a copy of a message. sv_chat_answer answers, and appends the answer
   without white space before it; where the context would not suffice it first drops whole turns, the oldest, but no
   system message, and tells progress: "drop", `at` of `total` messages. sv_chat_keep forgets all messages but the first
   `count`, and returns how many there are. */
int sv_chat_add(SvChat *chat, const SvMessage *message, const SvOptions *options, SvError *error);
int sv_chat_answer(SvChat *chat, const SvOptions *options, const SvEvents *events, SvAnswer *answer, SvError *error);
int sv_chat_keep(SvChat *chat, int count);

/* A hash (FNV-1a, 64 bits) of all that the model computes for an input made up here, two tiles and a prompt of them,
   which goes through as a whole or one_by_one. With Q8 or Q4 it is the same for every machine, compiler, number of
   threads and set of kernels, so one number proves a port. f32 and bf16 give a number of the machine's own.
   sv_same_bits: whether all of the model's matrices are Q8 or Q4. */
int sv_selftest(const SvModel *model, int threads, bool one_by_one, uint64_t *hash, SvError *error);
bool sv_same_bits(const SvModel *model);

/* -------------------------------------------------------------------------------------------- tokens (tokenizer.c) */

typedef struct SvTokenizer SvTokenizer;
const SvTokenizer *sv_tokenizer(const SvModel *model);       /* it lives as long as the model */
/* Text (any bytes; what is not UTF-8 counts as U+FFFD, as Python's errors="replace" would) to ids, added tokens
   included, none put in front. The caller frees *ids. */
int sv_tokenize(const SvTokenizer *tokenizer, const char *text, size_t size, int32_t **ids, size_t *count,
                SvError *error);
/* Ids to text, as tokenizer.decode(ids): valid UTF-8, zero-terminated. The caller frees *text. */
int sv_detokenize(const SvTokenizer *tokenizer, const int32_t *ids, size_t count, char **text, size_t *size,
                  SvError *error);

/* -------------------------------------------------------------------------- the two halves, for a loop of your own */

/* tiles [count, image_size, image_size, 3] bytes -> features [count, sv_image_tokens, hidden_size] */
int sv_vision(const SvModel *model, const uint8_t *tiles, int count, int threads, float *features,
              const SvEvents *events, SvError *error);

typedef struct SvDecoder SvDecoder;
/* A decoder with room for `capacity` positions, at position 0. */
int sv_decoder_new(const SvModel *model, int capacity, int threads, SvDecoder **decoder, SvError *error);
void sv_decoder_free(SvDecoder *decoder);
/* ids [count] -> x [count, hidden_size]: embed_tokens. */
void sv_embed(const SvModel *model, const int32_t *ids, size_t count, float *x);
/* Runs `count` more positions, x [count, hidden_size], through the layers, which overwrite x. Writes the logits of the
   last, [vocab_size], unless logits is NULL. Fails for no position, past the capacity, or if the progress event says
   so, which is told of each chunk of a prompt: chunks that went through before stay in the cache. */
int sv_decoder_forward(SvDecoder *decoder, float *x, size_t count, float *logits, const SvEvents *events,
                       SvError *error);
/* Forgets what is in the cache from this position on. Returns how many positions are left. */
size_t sv_decoder_rewind(SvDecoder *decoder, size_t position);

#ifdef __cplusplus
}
#endif
#endif
