/* smolvlm.c: a conversation to a prompt, and the self-test.

     messages (text, pictures, videos)
       | sv_prompt: chat template, pictures cut into tiles, each tile as its tokens     SmolVLMProcessor
       | (sv_prompt_raw: the same for a text that is already the prompt)
     SvPrompt: ids [T], tiles [N] */
#include "model.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

uint64_t sv_memory_needed(const SvModel *m, int positions, int tiles, int threads) {
    const SvConfig *c = &m->config;
    uint64_t n = (uint64_t)positions, t = (uint64_t)tiles;
    return sv_decoder_memory(m, positions, threads) + sv_vision_memory(m, tiles, threads) +
           (n + 2 * t * (uint64_t)sv_image_tokens(c)) * c->hidden_size * sizeof(float) +
           c->vocab_size * (sizeof(float) + sizeof(SvCandidate) + 1) + t * 3 * c->image_size * c->image_size;
}

/* ------------------------------------------------------------------------------------------- conversation -> prompt */

SvOptions sv_default_options(void) {
    return (SvOptions){ .threads = 0, .max_tokens = 256, .temperature = 0, .top_k = 0, .top_p = 1, .seed = 0 };
}

static void put_string(SvBytes *t, SvString s) { sv_put(t, s.data, s.size); }

/* One tile's tokens: <fake_token_around_image>, its tag, and one <image> for each of its image tokens. */
static void put_tile(SvBytes *t, const SvConfig *c, const char *tag, size_t size) {
    put_string(t, c->fake_image_token);
    sv_put(t, tag, size);
    for (int i = 0; i < sv_image_tokens(c); i++) put_string(t, c->image_token);
}

/* get_image_prompt_string: the tiles row by row, then the global picture. */
static void put_picture(SvBytes *t, const SvConfig *c, const SvTiles *tiles) {
    for (int row = 1; row <= tiles->rows; row++) {
        for (int col = 1; col <= tiles->cols; col++) {
            char tag[48];
            int size = snprintf(tag, sizeof tag, "<row_%d_col_%d>", row, col);
            put_tile(t, c, tag, (size_t)size);
        }
        sv_put(t, "\n", 1);
    }
    if (tiles->rows > 0) sv_put(t, "\n", 1);
    put_tile(t, c, c->global_image_token.data, c->global_image_token.size);
    put_string(t, c->fake_image_token);
}

/* A picture that was cut before, or a video's frames; sv_chat_answer gives their shape alone, without pixels. */
static int copy_tiles(const SvModel *m, const SvContent *content, SvTiles *tiles, SvError *error) {
    const SvTiles *from = content->video ? &content->video->frames : content->tiles;
    const char *name = content->name ? content->name : content->video ? "a video" : "a picture";
    int side = (int)m->config.image_size;
    if (content->video && (from->side != side || from->rows || from->cols || from->count < 1))
        return sv_fail(error, "%s: it has no frames of %d x %d pixels", name, side, side);
    if (!content->video &&
        (from->side != side || from->rows < 0 || from->cols < 0 || from->rows > SV_LONGEST_EDGE ||
         from->cols > SV_LONGEST_EDGE || from->count != from->rows * from->cols + 1))
        return sv_fail(error, "%s: it is not cut into tiles of %d x %d pixels", name, side, side);
    *tiles = *from;
    if (!from->rgb) return 0;
    size_t size = (size_t)from->count * 3 * (size_t)side * (size_t)side;
    if (!(tiles->rgb = malloc(size))) return sv_fail(error, "%s: out of memory for %d tiles", name, from->count);
    memcpy(tiles->rgb, from->rgb, size);
    return 0;
}

int sv_cut(const SvModel *m, const SvContent *content, const SvOptions *options, SvTiles *tiles, SvError *error) {
    const SvConfig *c = &m->config;
    int longest_edge = options->longest_edge ? options->longest_edge : (int)c->longest_edge;
    bool split = c->do_image_splitting && !options->no_split;
    const SvImage *image = content->image;
    SvImage painted = { 0 };
    SvError why;
    int failed = 0;
    if (c->vision_num_hidden_layers == 0)
        return sv_fail(error, "%s: a text-only model, it takes no pictures", m->path);
    if (content->tiles || content->video) return copy_tiles(m, content, tiles, error);
    if (options->paint && (image->alpha || image->has_key)) {
        failed = sv_image_paint(image, options->background, &painted, &why);
        image = &painted;
    }
    if (!failed) failed = sv_image_split(image, longest_edge, (int)c->image_size, split, tiles, &why);
    sv_image_free(&painted);
    if (failed) return sv_fail(error, "%s: %s", content->name ? content->name : "a picture", why.text);
    return 0;
}

/* replace_video_token: each frame is a picture that is not split. */
static void put_video(SvBytes *text, const SvConfig *c, const SvVideo *video) {
    const SvTiles frame = { .count = 1 };
    sv_video_intro(text, video);
    for (int i = 0; i < video->frames.count; i++) {
        sv_video_stamp(text, video, i);
        put_picture(text, c, &frame);
    }
    sv_put(text, "\n\n", 2);
}

/* Takes the next picture, cut into tiles, or video, and adds its tokens to the text. */
static int add_picture(const SvModel *m, const SvContent *content, const SvOptions *options, SvPrompt *prompt,
                       SvBytes *text, SvError *error) {
    SvTiles *tiles = &prompt->pictures[prompt->n_pictures];
    if (sv_cut(m, content, options, tiles, error) != 0) return -1;
    prompt->n_pictures++;
    prompt->n_tiles += tiles->count;
    if (content->video) put_video(text, &m->config, content->video);
    else put_picture(text, &m->config, tiles);
    return 0;
}

/* The next occurrence of word in text; NULL if there is none, or if word is empty. */
static const char *find(const char *text, SvString word) {
    for (; word.size > 0 && (text = strchr(text, word.data[0])) != NULL; text++)
        if (strncmp(text, word.data, word.size) == 0) return text;
    return NULL;
}

static bool is_picture(const SvContent *content) { return content->image || content->tiles; }
static bool is_blank(const char *text) { return !text[strspn(text, " \t\r\n")]; }

/* What the chat template puts before and after a role's message. [1]: for a message that begins (or ends) with a
   picture. */
typedef struct Role { const char *name; SvString begin[2], end[2]; } Role;
enum { SYSTEM, USER, ASSISTANT, ROLES };

static void roles_of(const SvConfig *c, Role roles[ROLES]) {
#define ROLE(role) { #role, { c->chat_##role##_begin, c->chat_##role##_begin_image },                                  \
                            { c->chat_##role##_end, c->chat_##role##_end_image } }
    const Role list[ROLES] = { ROLE(system), ROLE(user), ROLE(assistant) };
    memcpy(roles, list, sizeof list);
}

static int role_of(const Role *roles, const char *name) {
    int role = 0;
    while (role < ROLES && strcmp(roles[role].name, name) != 0) role++;
    return role;
}

/* Refuses a conversation that the template's strings do not render (model.h, chat_accepts). */
static int check_conversation(const SvModel *m, uint32_t accepts, const Role *roles, const SvMessage *messages,
                              int count, SvError *error) {
    for (int i = 0; i < count; i++) {
        const SvMessage *message = &messages[i];
        int role = role_of(roles, message->role), images = 0, mixed = 0;
        if (role == ROLES)
            return sv_fail(error, "message %d: the role is %.40s, but must be system, user or assistant", i + 1,
                           message->role);
        for (int j = 0; j < message->count; j++) {
            bool picture = !message->content[j].text;
            images += picture;
            mixed += picture == (j == message->count - 1);
        }
        const char *lacks =
            role == SYSTEM && !(accepts & SV_CHAT_SYSTEM) ? "a system message" :
            role == SYSTEM && i > 0 && !(accepts & SV_CHAT_SYSTEM_LATER) ? "a system message that is not the first" :
            role == ASSISTANT && !(accepts & SV_CHAT_ASSISTANT) ? "a message of the assistant" :
            role == ASSISTANT && i == count - 1 && !(accepts & SV_CHAT_ASSISTANT_LAST) ?
                "a message of the assistant as the last" :
            images && role != USER && !(accepts & SV_CHAT_IMAGES) ? "a picture in a message that is not the user's" :
            mixed && !(accepts & SV_CHAT_MIXED) ? "a message that is not pictures and one text after them" : NULL;
        if (lacks) return sv_fail(error, "%s: the model's chat template does not provide for %s", m->path, lacks);
    }
    return 0;
}

/* What stands for a video where a text is made. */
static const SvString VIDEO = { "<video>", 7 };

/* Refuses a text with a token in it that stands for something else. */
static int check_words(const char *words, SvString token, const char *what, SvError *error) {
    if (!find(words, token)) return 0;
    return sv_fail(error, "the prompt contains %.*s, which stands for a %s", (int)token.size, token.data, what);
}

/* Renders the conversation with the chat template's strings from the checkpoint, or with those for videos. Each picture
   is cut when it is reached. */
static int render(const SvModel *m, const SvMessage *messages, int count, const SvOptions *options, SvPrompt *prompt,
                  SvBytes *text, SvError *error) {
    SvConfig with_video;
    const SvConfig *c = &m->config;
    Role roles[ROLES];
    bool empty = true, video = false;

    for (int i = 0; i < count; i++) {
        if (messages[i].count < 1) return sv_fail(error, "message %d: has no content", i + 1);
        for (int j = 0; j < messages[i].count; j++) {
            const SvContent *content = &messages[i].content[j];
            int set = (content->text != NULL) + (content->image != NULL) + (content->tiles != NULL) +
                      (content->video != NULL);
            if (set != 1) return sv_fail(error, "message %d: a content is either a text, a picture or a video", i + 1);
            if (content->video) video = true;
        }
    }
    if (video) {
        with_video = m->config;
        sv_video_chat(&with_video);
        c = &with_video;
    }
    const SvString between[2][2] = { { c->chat_text_text, c->chat_text_image },
                                     { c->chat_image_text, c->chat_image_image } };
    roles_of(c, roles);
    if (c->chat_template && check_conversation(m, c->chat_accepts, roles, messages, count, error) != 0) return -1;

    put_string(text, c->chat_begin);
    if (strcmp(messages[0].role, roles[SYSTEM].name) != 0) put_string(text, c->chat_default_system);
    for (int i = 0; i < count; i++) {
        const SvMessage *message = &messages[i];
        const Role *role = c->chat_template ? &roles[role_of(roles, message->role)] : NULL;
        bool image = is_picture(&message->content[0]);
        if (i > 0) put_string(text, c->chat_between_messages);
        if (role) put_string(text, role->begin[image]);
        for (int j = 0; j < message->count; j++) {
            const SvContent *content = &message->content[j];
            bool before = image;
            image = is_picture(content);
            if (j > 0) put_string(text, between[before][image]);
            if (!content->text && add_picture(m, content, options, prompt, text, error) != 0) return -1;
            if (!content->text) continue;
            if (check_words(content->text, c->image_token, "picture", error) != 0) return -1;
            if (video && check_words(content->text, VIDEO, "video", error) != 0) return -1;
            if (!is_blank(content->text)) empty = false;
            sv_put(text, content->text, strlen(content->text));
        }
        if (role) put_string(text, role->end[image]);
    }
    put_string(text, c->chat_generation_prompt);
    if (empty && prompt->n_pictures == 0) return sv_fail(error, "the prompt is empty");
    return 0;
}

/* Whether a token stands in the text once for each of so many things. */
static int check_places(const char *words, SvString token, int count, const char *what, SvError *error) {
    int places = 0;
    for (const char *at = words; (at = find(at, token)) != NULL; at += token.size) places++;
    if (places == count) return 0;
    return sv_fail(error, "the prompt has %.*s %d time%s, but there %s %d %s%s", (int)token.size, token.data, places,
                   places == 1 ? "" : "s", count == 1 ? "is" : "are", count, what, count == 1 ? "" : "s");
}

/* The text unchanged, with a picture's tokens in place of each image token, and a video's in place of each <video>. */
static int render_raw(const SvModel *m, const char *words, const SvContent *pictures, int count,
                      const SvOptions *options, SvPrompt *prompt, SvBytes *text, SvError *error) {
    SvString token = m->config.image_token;
    int videos = 0, next[2] = { 0 };                        /* the next picture, the next video */
    if (count > 0 && m->config.vision_num_hidden_layers == 0)
        return sv_fail(error, "%s: a text-only model, it takes no pictures", m->path);
    for (int i = 0; i < count; i++) {
        int set = (pictures[i].image != NULL) + (pictures[i].tiles != NULL) + (pictures[i].video != NULL);
        if (pictures[i].text || set != 1) return sv_fail(error, "picture %d: is none", i + 1);
        videos += pictures[i].video != NULL;
    }
    if (check_places(words, token, count - videos, "picture", error) != 0) return -1;
    if (videos > 0 && check_places(words, VIDEO, videos, "video", error) != 0) return -1;
    if (count == 0 && is_blank(words)) return sv_fail(error, "the prompt is empty");
    for (int i = 0; i < count; i++) {
        const char *at = find(words, token), *other = videos > 0 ? find(words, VIDEO) : NULL;
        bool video = !at || (other && other < at);
        int *which = &next[video];
        while ((pictures[*which].video != NULL) != video) ++*which;
        if (video) at = other;
        sv_put(text, words, (size_t)(at - words));
        if (add_picture(m, &pictures[(*which)++], options, prompt, text, error) != 0) return -1;
        words = at + (video ? VIDEO.size : token.size);
    }
    sv_put(text, words, strlen(words));
    return 0;
}

/* Moves all pictures' tiles into one array: a batch of the vision tower may hold tiles of several pictures. */
static int join_tiles(SvPrompt *prompt, SvError *error) {
    if (prompt->n_pictures == 0 || !prompt->pictures[0].rgb) return 0;
    size_t side = (size_t)prompt->pictures[0].side, tile = 3 * side * side;
    bool fits = (size_t)prompt->n_tiles <= SIZE_MAX / tile;
    uint8_t *to = prompt->tiles = fits ? malloc((size_t)prompt->n_tiles * tile) : NULL;
    if (!to) return sv_fail(error, "out of memory for %d tiles", prompt->n_tiles);
    for (int i = 0; i < prompt->n_pictures; i++) {
        SvTiles *picture = &prompt->pictures[i];
        memcpy(to, picture->rgb, (size_t)picture->count * tile);
        free(picture->rgb);
        picture->rgb = to;
        to += (size_t)picture->count * tile;
    }
    return 0;
}

/* Makes a prompt of the messages, or, if there are none, of the words and their pictures. */
static int make_prompt(const SvModel *m, const SvMessage *messages, const char *words, const SvContent *pictures,
                       int count, const SvOptions *options, SvPrompt *prompt, SvError *error) {
    double start = sv_seconds();
    *prompt = (SvPrompt){ 0 };
    size_t n_pictures = messages || count < 0 ? 0 : (size_t)count;
    for (int i = 0; messages && i < count; i++)
        for (int j = 0; j < messages[i].count; j++) n_pictures += !messages[i].content[j].text;
    if (!words && count < 1) return sv_fail(error, "the prompt is empty");
    prompt->pictures = calloc(n_pictures + 1, sizeof *prompt->pictures);
    if (!prompt->pictures) return sv_fail(error, "out of memory for %zu pictures", n_pictures);

    SvBytes text = { 0 };
    int result = messages ? render(m, messages, count, options, prompt, &text, error)
                          : render_raw(m, words, pictures, count, options, prompt, &text, error);
    prompt->text = text.data;
    if (result == 0) result = join_tiles(prompt, error);
    if (result == 0 && text.failed) result = sv_fail(error, "%s: out of memory for the prompt", m->path);
    if (result == 0) result = sv_tokenize(m->tokenizer, text.data, text.size, &prompt->ids, &prompt->n_ids, error);
    if (result != 0) sv_prompt_free(prompt);
    prompt->seconds = sv_seconds() - start;
    return result;
}

int sv_prompt(const SvModel *m, const SvMessage *messages, int count, const SvOptions *options, SvPrompt *prompt,
              SvError *error) {
    return make_prompt(m, messages, NULL, NULL, count, options, prompt, error);
}

int sv_prompt_raw(const SvModel *m, const char *text, const SvContent *pictures, int count, const SvOptions *options,
                  SvPrompt *prompt, SvError *error) {
    return make_prompt(m, NULL, text, pictures, count, options, prompt, error);
}

/* How many tokens shorter the prompt would be if its pictures were not split, each being one tile. */
static size_t saved_unsplit(const SvModel *m, const SvPrompt *prompt) {
    size_t saved = 0, count, unsplit = (size_t)sv_image_tokens(&m->config) + 3;
    for (int i = 0; i < prompt->n_pictures; i++) {
        SvBytes text = { 0 };
        int32_t *ids;
        put_picture(&text, &m->config, &prompt->pictures[i]);
        if (!text.failed && sv_tokenize(m->tokenizer, text.data, text.size, &ids, &count, NULL) == 0) {
            saved += count > unsplit ? count - unsplit : 0;
            free(ids);
        }
        free(text.data);
    }
    return saved;
}

int sv_check_prompt(const SvModel *m, const SvPrompt *prompt, SvError *error) {
    const SvConfig *c = &m->config;
    size_t n = prompt->n_ids, found = 0, expected = (size_t)prompt->n_tiles * (size_t)sv_image_tokens(c);
    if (n == 0) return sv_fail(error, "the prompt is empty");
    if (n > c->max_position_embeddings) {
        size_t split = saved_unsplit(m, prompt);
        int frames = 0;
        for (int i = 0; i < prompt->n_pictures; i++)
            if (prompt->pictures[i].rows == 0 && prompt->pictures[i].count > frames) frames = prompt->pictures[i].count;
        bool helps = split > 0 && split < n && n - split <= c->max_position_embeddings;
        return sv_fail(error, "%s: the prompt has %zu tokens, more than the context of %" PRIu32 "%s", m->path, n,
                       c->max_position_embeddings,
                       frames > 1 ? " (of a video, --frames takes fewer)" :
                       helps ? " (--no-split or a smaller --longest-edge takes fewer)" : "");
    }
    for (size_t i = 0; i < n; i++) {
        if (prompt->ids[i] < 0 || (uint32_t)prompt->ids[i] >= c->vocab_size)
            return sv_fail(error, "%s: the prompt has token %" PRId32 ", outside the vocabulary", m->path,
                           prompt->ids[i]);
        found += c->vision_num_hidden_layers > 0 && (uint32_t)prompt->ids[i] == c->image_token_id;
    }
    if (found == expected) return 0;
    return sv_fail(error, "%s: the prompt has %zu image tokens, its pictures %zu", m->path, found, expected);
}

void sv_prompt_free(SvPrompt *prompt) {
    for (int i = 0; i < prompt->n_pictures && !prompt->tiles; i++) sv_tiles_free(&prompt->pictures[i]);
    free(prompt->tiles);
    free(prompt->pictures);
    free(prompt->ids);
    free(prompt->text);
    *prompt = (SvPrompt){ 0 };
}

/* ------------------------------------------------------------------------------------------------------- self-test */

bool sv_same_bits(const SvModel *m) {
    bool all = true;
#define SAME_V(field)
#define SAME_M(field) all = all && part->field.group != 0;
#define SAME(field, kind, name, rows, cols) SAME_##kind(field)
    if (m->vision.layers) {
        const SvVision *part = &m->vision;
        SV_VISION_TENSORS(SAME)
    }
    for (uint32_t l = 0; m->vision.layers && l < m->config.vision_num_hidden_layers; l++) {
        const SvVisionLayer *part = &m->vision.layers[l];
        SV_VISION_LAYER_TENSORS(SAME)
    }
    const SvText *part = &m->text;
    SV_TEXT_TENSORS(SAME)
    SV_UNTIED_TENSORS(SAME)
    for (uint32_t l = 0; l < m->config.num_hidden_layers; l++) {
        const SvTextLayer *part = &m->text.layers[l];
        SV_TEXT_LAYER_TENSORS(SAME)
    }
    return all;
}

/* FNV-1a over the floats' bytes, the lowest first. */
static uint64_t hash_floats(uint64_t hash, const float *x, size_t n) {
    for (size_t i = 0; i < n; i++) {
        union { float f; uint32_t u; } bits = { x[i] };
        for (int shift = 0; shift < 32; shift += 8) hash = (hash ^ (bits.u >> shift & 255)) * 0x100000001b3u;
    }
    return hash;
}

int sv_selftest(const SvModel *m, int threads, bool one_by_one, uint64_t *hash, SvError *error) {
    enum { TILES = 2, BEFORE = 4, PROMPT = 40, MORE = 8 };
    const SvConfig *c = &m->config;
    size_t dim = c->hidden_size, tiles = c->vision_num_hidden_layers ? TILES : 0, side = tiles ? c->image_size : 0;
    size_t image = tiles * (size_t)sv_image_tokens(c), n = image + PROMPT;
    if (n + MORE > c->max_position_embeddings) image = 0, n = PROMPT;
    if (n + MORE > c->max_position_embeddings)
        return sv_fail(error, "%s: a context of %" PRIu32 " tokens is too short to test", m->path,
                       c->max_position_embeddings);

    SvDecoder *decoder = NULL;
    float *part[3] = { NULL };
    void *block = sv_floats(3, (uint64_t[]){ n * dim, tiles * (uint64_t)sv_image_tokens(c) * dim, c->vocab_size },
                            part);
    float *x = part[0], *features = part[1], *logits = part[2];
    uint8_t *pixels = malloc(tiles * side * side * 3 + 1);
    int result = -1;
    if (!block || !pixels) {
        sv_fail(error, "%s: out of memory for a test", m->path);
        goto done;
    }
    if (sv_decoder_new(m, (int)(n + MORE), threads, &decoder, error) != 0) goto done;

    /* slopes, edges and a texture, different in each channel and tile */
    for (size_t i = 0, t = 0; t < tiles; t++)
        for (size_t row = 0; row < side; row++)
            for (size_t col = 0; col < side; col++)
                for (size_t channel = 0; channel < 3; channel++, i++)
                    pixels[i] = (uint8_t)((col * (channel + 1) + row * (3 - channel) + 37 * t) ^ (col * row >> 4));
    if (tiles && sv_vision(m, pixels, (int)tiles, threads, features, NULL, error) != 0) goto done;
    *hash = hash_floats(0xcbf29ce484222325u, features, tiles * (size_t)sv_image_tokens(c) * dim);

    for (size_t i = 0; i < PROMPT; i++) {
        int32_t id = (int32_t)(((uint64_t)i * 2654435761u >> 7) % c->vocab_size);
        sv_embed(m, &id, 1, x + (i < BEFORE ? i : image + i) * dim);
    }
    memcpy(x + BEFORE * dim, features, image * dim * sizeof *x);
    for (size_t i = 0; i < n; i += one_by_one ? 1 : n)
        if (sv_decoder_forward(decoder, x + i * dim, one_by_one ? 1 : n, logits, NULL, error) != 0) goto done;
    for (int i = 0; i < MORE; i++) {
        *hash = hash_floats(*hash, logits, c->vocab_size);
        int32_t best = sv_sample(logits, c->vocab_size, &(SvOptions){ 0 }, NULL, NULL);
        if (best < 0) break;                                /* a NaN's payload differs between machines */
        sv_embed(m, &best, 1, x);
        if (sv_decoder_forward(decoder, x, 1, logits, NULL, error) != 0) goto done;
    }
    *hash = hash_floats(*hash, logits, c->vocab_size);
    if (sv_sample(logits, c->vocab_size, &(SvOptions){ 0 }, NULL, NULL) < 0)
        sv_fail(error, "%s: the logits are not numbers, so the weights are damaged", m->path);
    else result = 0;

done:
    sv_decoder_free(decoder);
    free(pixels);
    sv_zeros_free(block);
    return result;
}
