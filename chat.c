/* chat.c: answers a prompt, and then the next prompt without computing anything twice.

     SvPrompt: ids [T], tiles [N]
       | kept = how many positions match the cache                              [the first `kept` of T]
       | features = sv_vision(tiles that were never seen)     [tokens of a tile, hidden] each    get_image_features
       | x = embed(ids); x[ids == image_token] = features     [T - kept, hidden]                 inputs_merger
       | logits = decoder(x)                                  [vocab_size]                       prefill
       | loop: id = sv_sample(logits); logits = decoder(embed(id))                               decode
     SvAnswer: ids, text

   The KV cache holds the keys and values of each position. No position depends on a later one. So if a prompt begins
   with the ids in the cache, and their image tokens belong to the same tiles, that part of the cache stays valid. In a
   conversation, the next prompt consists of the last prompt, the answer and a new question: only the question must be
   computed. The answer may have been generated as other tokens than the tokenizer makes of its text ("to" and "day"
   instead of "today"). Then the prompt is computed again from that place on. With Q8 or Q4 weights the bits are the
   same as without a cache.

   Tiles are recognized by their bytes, with a hash and then a full comparison. So a repeated page, a blank tile or a
   still frame of a video passes through the vision tower only once. A chat keeps the tiles of its conversation's
   pictures, and also the most recently used others, up to as many as fit into the model's context. In the 500M model a
   tile takes 512 * 512 * 3 bytes, and 64 * 960 * 4 bytes of features; all 128 tiles of 64 tokens take 132 MB. */
#include "model.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

/* number: unique within the chat, never reused. used: the number of the answer for which it was last looked up. shown:
   how often it occurs in the conversation's pictures. */
typedef struct Tile {
    uint64_t hash, number, used;
    int shown;
    const uint8_t *bytes;                   /* [image_size, image_size, 3] */
    float *features;                        /* [image tokens of a tile, hidden_size]; NULL: not computed yet */
} Tile;

/* A picture of a message. shape: the rows and columns of its tiles, without pixels. video: if it is a video, a copy
   whose frames are that shape. */
typedef struct Picture { SvTiles shape; Tile **tiles; SvVideo video; } Picture;

/* pictures: the contents that are not texts, in their order. */
typedef struct Message { SvMessage is; SvContent *contents; Picture *pictures; int n_pictures; char *texts; } Message;

struct SvChat {
    const SvModel *model;
    int threads;
    bool once;                              /* used for one prompt only, so tiles' bytes need no copy                 */
    SvDecoder *decoder;
    size_t capacity, position;              /* positions that fit into the decoder's cache; that are in it now        */
    int32_t *ids;                           /* [capacity + 1]       the ids at those positions                        */
    uint64_t *numbers;                      /* [capacity + 1]       the numbers of the tiles they contain             */
    Tile **tiles;                           /* all tiles that the chat remembers                                      */
    size_t n_tiles;
    uint64_t last_number, answers;          /* the last tile's number; the number of answers so far                   */
    Message *messages;
    int n_messages;
};

/* -------------------------------------------------------------------------------------------------------- the tiles */

static size_t tile_bytes(const SvModel *m) { return 3 * (size_t)m->config.image_size * m->config.image_size; }

static uint64_t hash_tile(const uint8_t *bytes, size_t size) {
    uint64_t hash = size, word = 0;
    for (size_t i = 0; i + sizeof word <= size; i += sizeof word) {
        memcpy(&word, bytes + i, sizeof word);
        hash = (hash ^ word) * 0x9e3779b97f4a7c15u;
        hash ^= hash >> 32;
    }
    for (size_t i = size / sizeof word * sizeof word; i < size; i++) hash = (hash ^ bytes[i]) * 0x9e3779b97f4a7c15u;
    return hash;
}

static void free_tile(const SvChat *chat, Tile *tile) {
    if (!chat->once) free((void *)tile->bytes);
    free(tile->features);
    free(tile);
}

/* Forgets the least recently used tiles while there are more than fit into the context, except those in use. */
static void forget_tiles(SvChat *chat) {
    size_t most = chat->model->config.max_position_embeddings / (size_t)sv_image_tokens(&chat->model->config);
    while (chat->n_tiles > most) {
        Tile **oldest = NULL;
        for (Tile **t = chat->tiles; t < chat->tiles + chat->n_tiles; t++)
            if (!(*t)->shown && (*t)->used < chat->answers && (!oldest || (*t)->used < (*oldest)->used)) oldest = t;
        if (!oldest) return;
        free_tile(chat, *oldest);
        *oldest = chat->tiles[--chat->n_tiles];
    }
}

/* The chat's tile with these bytes, a new one if there is none yet. NULL if out of memory. */
static Tile *find_tile(SvChat *chat, const uint8_t *bytes) {
    size_t size = tile_bytes(chat->model);
    uint64_t hash = hash_tile(bytes, size);
    for (size_t i = 0; i < chat->n_tiles; i++) {
        Tile *tile = chat->tiles[i];
        if (tile->hash != hash || memcmp(tile->bytes, bytes, size) != 0) continue;
        tile->used = chat->answers;
        return tile;
    }
    Tile *tile = malloc(sizeof *tile), **grown = realloc(chat->tiles, (chat->n_tiles + 1) * sizeof(Tile *));
    if (grown) chat->tiles = grown;
    uint8_t *copy = chat->once ? NULL : malloc(size);
    if (!tile || !grown || (!copy && !chat->once)) {
        free(copy);
        free(tile);
        return NULL;
    }
    if (copy) bytes = memcpy(copy, bytes, size);
    *tile = (Tile){ .hash = hash, .number = ++chat->last_number, .used = chat->answers, .bytes = bytes };
    chat->tiles[chat->n_tiles++] = tile;
    forget_tiles(chat);
    return tile;
}

/* The tiles for n tiles' bytes, as a list that the caller frees; NULL if out of memory. */
static Tile **find_tiles(SvChat *chat, const uint8_t *bytes, size_t n) {
    Tile **list = calloc(n + 1, sizeof *list);
    for (size_t i = 0; i < n && list; i++)
        if (!(list[i] = find_tile(chat, bytes + i * tile_bytes(chat->model)))) {
            free(list);
            return NULL;
        }
    return list;
}

/* Reports progress as a part of all tiles, where the first `before` need no computing. */
typedef struct Rest { const SvEvents *events; int before, total; } Rest;
static bool progress_of_rest(void *user, const char *phase, int at, int total) {
    Rest *rest = user;
    (void)total;
    return rest->events->progress(rest->events->user, phase, rest->before + at, rest->total);
}

/* Computes the features of those of n tiles that have none yet. Returns their number, or -1 on failure. */
static int look(SvChat *chat, Tile **tiles, size_t n, const SvEvents *events, SvError *error) {
    const SvModel *m = chat->model;
    bool all = events && events->activation;
    size_t floats = (size_t)sv_image_tokens(&m->config) * m->config.hidden_size, size = tile_bytes(m), count = 0;
    bool in_a_row = chat->once;                             /* whether their bytes are contiguous */
    Tile **list = malloc((n + 1) * sizeof *list);
    if (!list) return sv_fail(error, "%s: out of memory for %zu tiles", m->path, n);
    for (size_t i = 0; i < n; i++) {
        size_t same = 0;
        while (same < count && list[same] != tiles[i]) same++;
        if (!all && (tiles[i]->features || same < count)) continue;
        in_a_row = in_a_row && (count == 0 || tiles[i]->bytes == list[count - 1]->bytes + size);
        list[count++] = tiles[i];
    }
    uint8_t *bytes = count && !in_a_row && count <= SIZE_MAX / size ? malloc(count * size) : NULL;
    float *features = count ? malloc(count * floats * sizeof *features) : NULL;
    int result = -1;
    if (count && (!features || (!bytes && !in_a_row))) {
        sv_fail(error, "%s: out of memory for %zu tiles", m->path, count);
        goto done;
    }
    for (size_t i = 0; i < count && bytes; i++) memcpy(bytes + i * size, list[i]->bytes, size);
    Rest rest = { events, (int)(n - count), (int)n };
    SvEvents of_rest = { .user = &rest, .progress = progress_of_rest };
    if (n > count && events && events->progress) events = &of_rest;
    if (count && sv_vision(m, bytes ? bytes : list[0]->bytes, (int)count, chat->threads, features, events, error) != 0)
        goto done;
    for (size_t i = 0; i < count; i++) {
        Tile *tile = list[i];
        if (!tile->features && !(tile->features = malloc(floats * sizeof *features))) {
            sv_fail(error, "%s: out of memory for %zu tiles", m->path, count);
            goto done;
        }
        memcpy(tile->features, features + i * floats, floats * sizeof *features);
    }
    result = (int)count;

done:
    free(features);
    free(bytes);
    free(list);
    return result;
}

/* ------------------------------------------------------------------------------------------------- prompt -> answer */

static bool is_image(const SvConfig *c, int32_t id) {
    return c->vision_num_hidden_layers > 0 && (uint32_t)id == c->image_token_id;
}

/* How many of these ids, with their tiles, match the beginning of the cache; *seen: the image tokens among them. The
   last id is never counted, because its logits are needed and not cached. */
static size_t in_common(const SvChat *chat, const int32_t *ids, size_t n, Tile **tiles, size_t *seen) {
    const SvConfig *c = &chat->model->config;
    size_t most = smaller(n - 1, chat->position), of_tile = (size_t)sv_image_tokens(c), at = 0;
    *seen = 0;
    for (; at < most && ids[at] == chat->ids[at]; at++) {
        if (!is_image(c, ids[at])) continue;
        if (tiles[*seen / of_tile]->number != chat->numbers[*seen / of_tile]) break;
        ++*seen;
    }
    return at;
}

/* x [n, hidden]: the tokens' embeddings; at the <image> positions, in order, the features from `row` on. */
static void embed_prompt(const SvModel *m, const int32_t *ids, size_t n, Tile **tiles, size_t row, float *x) {
    size_t dim = m->config.hidden_size, of_tile = (size_t)sv_image_tokens(&m->config);
    sv_embed(m, ids, n, x);
    for (size_t i = 0; i < n; i++) {
        if (!is_image(&m->config, ids[i])) continue;
        memcpy(x + i * dim, tiles[row / of_tile]->features + row % of_tile * dim, dim * sizeof(float));
        row++;
    }
}

/* The answer's text, of which the first `told` bytes have been passed to the token event. */
typedef struct Delivery {
    const SvModel *model;
    const SvOptions *options;
    const SvEvents *events;
    SvUtf8 utf8;
    SvBytes text;
    size_t told;
} Delivery;

/* If the text contains a stop text, cuts it there and returns true. Otherwise *certain is the length that can be passed
   on: what follows might be the beginning of a stop text. The first `told` bytes need no search. */
static bool find_stop(const SvOptions *o, SvBytes *text, size_t told, size_t *certain) {
    *certain = text->size;
    for (size_t at = told; at < text->size; at++)
        for (int i = 0; i < o->n_stop; i++) {
            size_t length = strlen(o->stop[i]), rest = text->size - at;
            if (length == 0 || memcmp(text->data + at, o->stop[i], smaller(length, rest)) != 0) continue;
            if (length <= rest) {
                text->data[text->size = *certain = at] = 0;
                return true;
            }
            *certain = smaller(*certain, at);
        }
    return false;
}

/* Adds the characters that a token completes to the text, and passes on what is certain. Returns true to stop. */
static bool deliver(Delivery *d, int32_t id, bool end) {
    size_t size = 0, certain = 0;
    const char *bytes = end ? "" : sv_token_bytes(d->model->tokenizer, id, &size);
    char small[768], *out = size + 4 <= sizeof small / 3 ? small : malloc(3 * (size + 4));
    if (!out) {
        d->text.failed = true;
        return true;
    }
    sv_put(&d->text, out, sv_utf8_feed(&d->utf8, bytes, size, end, out));
    if (out != small) free(out);
    if (d->text.failed) return true;
    bool stop = find_stop(d->options, &d->text, d->told, &certain);
    if (stop) d->utf8.count = 0;                            /* drops the bytes after it */
    if (end) certain = d->text.size;
    const char *news = d->text.data + d->told;
    size = certain - d->told;
    d->told = certain;
    if (!d->events || !d->events->token || (end && size == 0)) return stop;
    return d->events->token(d->events->user, id, news, size) || stop;
}

/* Answers a prompt of these ids and of the tiles of their image tokens. All ids must fit into the chat's capacity. */
static int answer_ids(SvChat *chat, const int32_t *ids, size_t n, Tile **tiles, size_t n_tiles,
                      const SvOptions *options, const SvEvents *events, SvAnswer *answer, SvError *error) {
    const SvModel *m = chat->model;
    const SvConfig *c = &m->config;
    size_t max = options->max_tokens > 0 ? (size_t)options->max_tokens : 0, row = 0;
    if (max > chat->capacity - n) max = chat->capacity - n;
    size_t kept = events && events->activation ? 0 : in_common(chat, ids, n, tiles, &row), left = n - kept;
    float penalty = options->repetition_penalty > 0 ? options->repetition_penalty : c->repetition_penalty;

    float *part[2] = { NULL };
    void *block = sv_floats(2, (uint64_t[]){ left * (uint64_t)c->hidden_size, c->vocab_size }, part);
    float *x = part[0], *logits = part[1];
    SvCandidate *candidates = options->temperature > 0 ? malloc(c->vocab_size * sizeof *candidates) : NULL;
    uint8_t *seen = penalty != 1 ? calloc(c->vocab_size, 1) : NULL;
    Delivery delivery = { .model = m, .options = options, .events = events };
    *answer = (SvAnswer){ .n_prompt = n, .n_kept = kept, .ids = malloc((max + 1) * sizeof *answer->ids) };
    sv_put(&delivery.text, "", 0);                          /* terminates the text even if it stays empty */
    int result = -1;
    if (!block || (options->temperature > 0 && !candidates) || (penalty != 1 && !seen) || !answer->ids ||
        delivery.text.failed) {
        sv_fail(error, "%s: out of memory for a prompt of %zu tokens", m->path, n);
        goto done;
    }

    double start = sv_seconds();
    size_t of_tile = (size_t)sv_image_tokens(c), first = n_tiles ? row / of_tile : 0;
    answer->tiles = look(chat, tiles + first, n_tiles - first, events, error);
    if (answer->tiles < 0) goto done;
    answer->vision_seconds = sv_seconds() - start;

    start = sv_seconds();
    embed_prompt(m, ids + kept, left, tiles, row, x);
    sv_decoder_rewind(chat->decoder, kept);
    memcpy(chat->ids + kept, ids + kept, left * sizeof *ids);
    for (size_t i = first; i < n_tiles; i++) chat->numbers[i] = tiles[i]->number;
    chat->numbers[n_tiles] = 0;                             /* an image token of the answer is of no tile */
    int failed = sv_decoder_forward(chat->decoder, x, left, logits, events, error);
    chat->position = sv_decoder_rewind(chat->decoder, n);   /* less than n if it failed in the middle */
    if (failed) goto done;
    answer->prefill_seconds = sv_seconds() - start;

    start = sv_seconds();
    uint64_t random = options->seed;
    bool told_to_stop = false;
    while (answer->n_ids < max) {
        if (events && events->logits) events->logits(events->user, logits, (int)c->vocab_size);
        if (seen) sv_penalize(logits, chat->ids, n + answer->n_ids, penalty, seen);
        int32_t id = sv_sample(logits, c->vocab_size, options, &random, candidates);
        if (id < 0) {
            sv_fail(error, "%s: the logits are not numbers: the weights are damaged or out of range", m->path);
            goto done;
        }
        answer->stopped = sv_is_end(c, id);
        if (answer->stopped) break;
        chat->ids[n + answer->n_ids] = answer->ids[answer->n_ids] = id;
        answer->n_ids++;
        answer->stopped = told_to_stop = deliver(&delivery, id, false);
        if (told_to_stop || answer->n_ids == max) break;
        sv_embed(m, &id, 1, x);
        if (sv_decoder_forward(chat->decoder, x, 1, logits, NULL, error) != 0) goto done;
        chat->position++;
    }
    if (told_to_stop) delivery.events = NULL;
    deliver(&delivery, -1, true);
    answer->decode_seconds = sv_seconds() - start;
    result = delivery.text.failed ? sv_fail(error, "%s: out of memory for the answer", m->path) : 0;

done:
    answer->text = delivery.text.data;
    answer->size = delivery.text.size;
    sv_zeros_free(block);
    free(candidates);
    free(seen);
    if (result != 0) sv_answer_free(answer);
    return result;
}

void sv_answer_free(SvAnswer *answer) {
    free(answer->text);
    free(answer->ids);
    *answer = (SvAnswer){ 0 };
}

/* ------------------------------------------------------------------------------------------ a cache between prompts */

int sv_chat_new(const SvModel *m, int capacity, int threads, SvChat **out, SvError *error) {
    SvChat *chat = calloc(1, sizeof *chat);
    *out = NULL;
    if (!chat) return sv_fail(error, "%s: out of memory", m->path);
    if (capacity == 0) capacity = (int)m->config.max_position_embeddings;
    chat->model = m;
    chat->threads = threads;
    if (sv_decoder_new(m, capacity, threads, &chat->decoder, error) != 0) {
        free(chat);
        return -1;
    }
    chat->capacity = (size_t)capacity;
    chat->ids = malloc((chat->capacity + 1) * sizeof *chat->ids);
    chat->numbers = malloc((chat->capacity + 1) * sizeof *chat->numbers);
    *out = chat;
    if (chat->ids && chat->numbers) return 0;
    sv_chat_free(chat);
    *out = NULL;
    return sv_fail(error, "%s: out of memory for a context of %d tokens", m->path, capacity);
}

void sv_chat_free(SvChat *chat) {
    if (!chat) return;
    sv_chat_keep(chat, 0);
    for (size_t i = 0; i < chat->n_tiles; i++) free_tile(chat, chat->tiles[i]);
    free(chat->tiles);
    free(chat->messages);
    free(chat->ids);
    free(chat->numbers);
    sv_decoder_free(chat->decoder);
    free(chat);
}

int sv_chat_prompt(SvChat *chat, const SvPrompt *prompt, const SvOptions *options, const SvEvents *events,
                   SvAnswer *answer, SvError *error) {
    const char *path = chat->model->path;
    *answer = (SvAnswer){ 0 };
    if (sv_check_prompt(chat->model, prompt, error) != 0) return -1;
    if (prompt->n_ids > chat->capacity)
        return sv_fail(error, "%s: the prompt has %zu tokens, the chat has room for %zu", path, prompt->n_ids,
                       chat->capacity);
    if (prompt->n_tiles > 0 && !(prompt->tiles && chat->model->vision.layers))
        return sv_fail(error, "%s: %s", path, prompt->tiles ? "a text-only model, it takes no pictures" :
                                                              "the prompt's tiles have no pixels");
    size_t n_tiles = (size_t)prompt->n_tiles;
    chat->answers++;
    Tile **tiles = find_tiles(chat, prompt->tiles, n_tiles);
    if (!tiles) return sv_fail(error, "%s: out of memory for %zu tiles", path, n_tiles);
    int result = answer_ids(chat, prompt->ids, prompt->n_ids, tiles, n_tiles, options, events, answer, error);
    free(tiles);
    return result;
}

int sv_generate(const SvModel *m, const SvPrompt *prompt, const SvOptions *options, const SvEvents *events,
                SvAnswer *answer, SvError *error) {
    size_t context = m->config.max_position_embeddings;
    size_t more = options->max_tokens > 0 ? (size_t)options->max_tokens : 0;
    SvChat *chat;
    *answer = (SvAnswer){ 0 };
    if (sv_check_prompt(m, prompt, error) != 0) return -1;
    if (sv_chat_new(m, (int)smaller(prompt->n_ids + more, context), options->threads, &chat, error) != 0) return -1;
    chat->once = true;
    int result = sv_chat_prompt(chat, prompt, options, events, answer, error);
    sv_chat_free(chat);
    return result;
}

/* ------------------------------------------------------------------------------------------------- the conversation */

static void free_message(Message *message) {
    for (int i = 0; i < message->n_pictures; i++) {
        Picture *picture = &message->pictures[i];
        for (int t = 0; t < picture->shape.count && picture->tiles; t++) picture->tiles[t]->shown--;
        free(picture->tiles);
        free(picture->video.index);
    }
    free(message->pictures);
    free(message->contents);
    free(message->texts);
}

/* Copies a string to *to, and advances *to past it. Returns the copy, or NULL for NULL. */
static const char *copy_text(char **to, const char *text) {
    if (!text) return NULL;
    char *copy = strcpy(*to, text);
    *to += strlen(text) + 1;
    return copy;
}

static size_t length_of(const char *text) { return text ? strlen(text) + 1 : 0; }

int sv_chat_add(SvChat *chat, const SvMessage *message, const SvOptions *options, SvError *error) {
    const char *path = chat->model->path;
    size_t count = message->count > 0 ? (size_t)message->count : 0, size = length_of(message->role);
    for (size_t i = 0; i < count; i++)
        size += length_of(message->content[i].text) + length_of(message->content[i].name);
    Message *grown = realloc(chat->messages, ((size_t)chat->n_messages + 1) * sizeof *grown);
    if (!grown) return sv_fail(error, "%s: out of memory for a message", path);
    chat->messages = grown;

    Message own = { .contents = calloc(count + 1, sizeof *own.contents), .texts = malloc(size + 1),
                    .pictures = calloc(count + 1, sizeof *own.pictures) };
    char *to = own.texts;
    if (!own.contents || !own.texts || !own.pictures) {
        sv_fail(error, "%s: out of memory for a message", path);
        goto failed;
    }
    own.is = (SvMessage){ copy_text(&to, message->role), own.contents, (int)count };
    for (size_t i = 0; i < count; i++) {
        const SvContent *content = &message->content[i];
        SvTiles tiles = { 0 };
        own.contents[i].text = copy_text(&to, content->text);
        own.contents[i].name = copy_text(&to, content->name);
        if (content->text) continue;
        const SvTiles *cut = content->video ? &content->video->frames : content->tiles;
        if (!content->image && !(cut && cut->rgb)) {
            sv_fail(error, "a content is either a text, a picture or a video");
            goto failed;
        }
        if (sv_cut(chat->model, content, options, &tiles, error) != 0) goto failed;
        Picture *picture = &own.pictures[own.n_pictures++];
        picture->shape = tiles;
        picture->shape.rgb = NULL;
        picture->tiles = find_tiles(chat, tiles.rgb, (size_t)tiles.count);
        sv_tiles_free(&tiles);
        if (!picture->tiles) {
            sv_fail(error, "%s: out of memory for %d tiles", path, picture->shape.count);
            goto failed;
        }
        for (int t = 0; t < picture->shape.count; t++) picture->tiles[t]->shown++;
        if (!content->video) {
            own.contents[i].tiles = &picture->shape;
            continue;
        }
        const size_t bytes = (size_t)picture->shape.count * sizeof *picture->video.index;
        picture->video = *content->video;
        picture->video.frames = picture->shape;
        if (!(picture->video.index = malloc(bytes))) {
            sv_fail(error, "%s: out of memory for %d frames", path, picture->shape.count);
            goto failed;
        }
        memcpy(picture->video.index, content->video->index, bytes);
        own.contents[i].video = &picture->video;
    }
    chat->messages[chat->n_messages++] = own;
    return 0;

failed:
    free_message(&own);
    return -1;
}

int sv_chat_keep(SvChat *chat, int count) {
    while (chat->n_messages > count && chat->n_messages > 0) free_message(&chat->messages[--chat->n_messages]);
    return chat->n_messages;
}

/* Drops the oldest turn: a question and what follows it, except system messages. Returns how many messages that were,
   or 0 if only the turn to be answered is left. */
static int drop_turn(SvChat *chat) {
    int first = 0, next, dropped = 0;
    while (first < chat->n_messages && strcmp(chat->messages[first].is.role, "system") == 0) first++;
    for (next = first + 1; next < chat->n_messages; next++)
        if (strcmp(chat->messages[next].is.role, "user") == 0) break;
    if (next >= chat->n_messages) return 0;
    for (int i = first; i < chat->n_messages; i++) {
        if (i < next && strcmp(chat->messages[i].is.role, "system") != 0) free_message(&chat->messages[i]), dropped++;
        else chat->messages[i - dropped] = chat->messages[i];
    }
    chat->n_messages -= dropped;
    return dropped;
}

/* Makes the prompt of all messages, without tiles. */
static int prompt_of(const SvChat *chat, const SvOptions *options, SvPrompt *prompt, SvError *error) {
    SvMessage *list = malloc(((size_t)chat->n_messages + 1) * sizeof *list);
    if (!list) return sv_fail(error, "%s: out of memory for %d messages", chat->model->path, chat->n_messages);
    for (int i = 0; i < chat->n_messages; i++) list[i] = chat->messages[i].is;
    int result = sv_prompt(chat->model, list, chat->n_messages, options, prompt, error);
    free(list);
    return result;
}

/* Makes the prompt of as many turns as leave room for an answer. If it is too long, turns are dropped until a quarter
   of the context is free, so that not every further answer has to drop turns and compute the rest again. */
static int fitting_prompt(SvChat *chat, const SvOptions *options, const SvEvents *events, SvPrompt *prompt,
                          int *dropped, SvError *error) {
    size_t quarter = chat->capacity / 4, more = options->max_tokens > 0 ? (size_t)options->max_tokens : 0;
    size_t room = smaller(more, quarter);
    int total = chat->n_messages, turn;
    *dropped = 0;
    if (prompt_of(chat, options, prompt, error) != 0) return -1;
    while (prompt->n_ids + room > chat->capacity && (turn = drop_turn(chat)) > 0) {
        *dropped += turn;
        room = quarter;
        sv_prompt_free(prompt);
        if (prompt_of(chat, options, prompt, error) != 0) return -1;
    }
    if (*dropped == 0 || !events || !events->progress || !events->progress(events->user, "drop", *dropped, total))
        return 0;
    sv_prompt_free(prompt);
    return sv_fail(error, "stopped before the prompt");
}

int sv_chat_answer(SvChat *chat, const SvOptions *options, const SvEvents *events, SvAnswer *answer, SvError *error) {
    const char *path = chat->model->path;
    SvPrompt prompt;
    int dropped, result = -1;
    *answer = (SvAnswer){ 0 };
    if (fitting_prompt(chat, options, events, &prompt, &dropped, error) != 0) return -1;

    Tile **tiles = calloc((size_t)prompt.n_tiles + 1, sizeof *tiles);
    if (!tiles) sv_fail(error, "%s: out of memory for %d tiles", path, prompt.n_tiles);
    else if (sv_check_prompt(chat->model, &prompt, error) != 0) {}
    else if (prompt.n_ids > chat->capacity)
        sv_fail(error, "%s: the prompt has %zu tokens, the chat has room for %zu", path, prompt.n_ids, chat->capacity);
    else {
        size_t n = 0;
        chat->answers++;
        for (int i = 0; i < chat->n_messages; i++)
            for (int j = 0; j < chat->messages[i].n_pictures; j++)
                for (int t = 0; t < chat->messages[i].pictures[j].shape.count; t++) {
                    tiles[n] = chat->messages[i].pictures[j].tiles[t];
                    tiles[n++]->used = chat->answers;
                }
        result = answer_ids(chat, prompt.ids, prompt.n_ids, tiles, n, options, events, answer, error);
    }
    free(tiles);
    sv_prompt_free(&prompt);
    if (result != 0) return -1;
    answer->dropped = dropped;
    SvContent text = { .text = answer->text + strspn(answer->text, " \t\r\n") };
    result = sv_chat_add(chat, &(SvMessage){ "assistant", &text, 1 }, options, error);
    if (result != 0) sv_answer_free(answer);
    return result;
}
