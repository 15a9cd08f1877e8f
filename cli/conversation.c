/* conversation.c: turns -s, -i and -p, or JSON in Hugging Face's format, into the messages of smolvlm.h.

     [{"role": "system", "content": "Be brief."},
      {"role": "user", "content": [{"type": "image", "path": "before.png"}, {"type": "text", "text": "What is this?"}]},
      ...]

   It also reads the pictures and videos, in their order. */
#include "cli.h"

#include <stdlib.h>
#include <string.h>

enum { IMAGE, VIDEO };
static const char *const MARKS[] = { "{image}", "{video}" }, *const NAMES[] = { "picture", "video" };

static int out_of_memory(SvError *error) { return sv_fail(error, "out of memory for the conversation"); }

/* Allocates room for this many messages and contents, all of which might be pictures. */
static int make_room(Conversation *c, size_t messages, size_t contents, SvError *error) {
    *c = (Conversation){ .messages = calloc(messages + 1, sizeof *c->messages),
                         .contents = calloc(contents + 1, sizeof *c->contents),
                         .images = calloc(contents + 1, sizeof *c->images),
                         .clips = calloc(contents + 1, sizeof *c->clips),
                         .kept = calloc(contents + 1, sizeof *c->kept) };
    if (c->messages && c->contents && c->images && c->clips && c->kept) return 0;
    conversation_free(c);
    return out_of_memory(error);
}

void conversation_free(Conversation *c) {
    for (int i = 0; i < c->n_images; i++) sv_image_free(&c->images[i]);
    for (int i = 0; i < c->n_clips; i++) clip_free(&c->clips[i]);
    for (int i = 0; i < c->n_kept; i++) free(c->kept[i]);
    free(c->clips);
    free(c->messages);
    free(c->contents);
    free(c->images);
    free(c->kept);
    *c = (Conversation){ 0 };
}

/* A copy of size characters that lives as long as the conversation; NULL if out of memory. */
static char *keep(Conversation *c, const char *text, size_t size) {
    char *copy = malloc(size + 1);
    if (!copy) return NULL;
    memcpy(copy, text, size);
    copy[size] = 0;
    return c->kept[c->n_kept++] = copy;
}

/* The conversation's next content. */
static SvContent *add(Conversation *c, SvMessage *message) {
    return &c->contents[c->n_contents + message->count++];
}

static int add_file(Conversation *c, SvMessage *message, const char *path, SvError *error) {
    SvImage *image = &c->images[c->n_images];
    if (sv_image_read(path, image, error) != 0) return -1;
    c->n_images++;
    *add(c, message) = (SvContent){ .image = image, .name = path };
    return 0;
}

static int add_clip(Conversation *c, SvMessage *message, const char *path, const ClipOptions *options,
                    SvError *error) {
    Clip *clip = &c->clips[c->n_clips];
    if (!options) return sv_fail(error, "%s: no videos are read here", path);
    if (clip_read(path, options, clip, error) != 0) return -1;
    c->n_clips++;
    *add(c, message) = (SvContent){ .video = &clip->video, .name = path };
    return 0;
}

static int kind_of(const ClipOptions *clips, int i) {
    return clips && clips->videos && clips->videos[i] ? VIDEO : IMAGE;
}

/* Adds the given file i, a picture or a video. */
static int add_given(Conversation *c, SvMessage *message, const char *const *given, int i, const ClipOptions *clips,
                     SvError *error) {
    return kind_of(clips, i) == VIDEO ? add_clip(c, message, given[i], clips, error)
                                      : add_file(c, message, given[i], error);
}

/* The index of the next given file of this kind, from *used on; -1 if there is none. */
static int next_given(const ClipOptions *clips, int n_given, int kind, int *used) {
    while (*used < n_given && kind_of(clips, *used) != kind) ++*used;
    return *used < n_given ? (*used)++ : -1;
}

static SvMessage *begin_message(Conversation *c, const char *role) {
    SvMessage *message = &c->messages[c->count++];
    *message = (SvMessage){ role, c->contents + c->n_contents, 0 };
    return message;
}

static void end_message(Conversation *c, const SvMessage *message) { c->n_contents += message->count; }

int conversation_ask(const char *system, const char *prompt, const char *const *images, int n_images, bool raw,
                     const ClipOptions *clips, Conversation *c, SvError *error) {
    int marks[2] = { 0 }, files[2] = { 0 }, used[2] = { 0 };
    for (int i = 0; i < n_images; i++) files[kind_of(clips, i)]++;
    for (int kind = IMAGE; kind <= VIDEO && !raw; kind++)           /* without a video, {video} is ordinary text */
        for (const char *at = prompt; (kind == IMAGE || files[kind]) && (at = strstr(at, MARKS[kind])) != NULL; at++)
            marks[kind]++;
    bool marked = marks[IMAGE] || marks[VIDEO];
    for (int kind = IMAGE; kind <= VIDEO; kind++) {
        int n = files[kind];
        if (marked && marks[kind] != n)
            return *c = (Conversation){ 0 }, sv_fail(error, "the prompt has %s %d time%s, but there %s %d %s%s",
                MARKS[kind], marks[kind], marks[kind] == 1 ? "" : "s", n == 1 ? "is" : "are", n, NAMES[kind],
                n == 1 ? "" : "s");
    }
    if (make_room(c, 2, 2 * (size_t)n_images + 2, error) != 0) return -1;
    if (system) {
        SvMessage *message = begin_message(c, "system");
        add(c, message)->text = system;
        end_message(c, message);
    }
    SvMessage *message = begin_message(c, "user");
    for (int i = 0; i < n_images; i++) {
        const char *image = marks[IMAGE] ? strstr(prompt, MARKS[IMAGE]) : NULL;
        const char *video = marks[VIDEO] ? strstr(prompt, MARKS[VIDEO]) : NULL;
        int kind = !image || (video && video < image) ? VIDEO : IMAGE;
        const char *mark = !marked ? prompt : kind == VIDEO ? video : image;
        if (mark > prompt && !(add(c, message)->text = keep(c, prompt, (size_t)(mark - prompt)))) goto failed;
        if (add_given(c, message, images, marked ? next_given(clips, n_images, kind, &used[kind]) : i, clips,
                      error) != 0) {
            conversation_free(c);
            return -1;
        }
        prompt = mark + (marked ? strlen(MARKS[kind]) : 0);
    }
    if (*prompt || !marked) add(c, message)->text = prompt;
    end_message(c, message);
    return 0;

failed:
    conversation_free(c);
    return out_of_memory(error);
}

/* ------------------------------------------------------------------------------------------------------------- JSON */

/* The text of a JSON string. Fails and returns NULL if it is not a string or contains a zero byte, which would end a C
   string. what: the value's name. */
static const char *text_of(const Json *value, const char *what, SvError *error) {
    if (value->kind != JSON_STRING) sv_fail(error, "%s: %s, but must be a string", what, json_kind(value));
    else if (strlen(value->text) != value->size) sv_fail(error, "%s: a zero byte in the text", what);
    else return value->text;
    return NULL;
}

int json_known(const Json *object, const char *what, const char *const *keys, SvError *error) {
    for (const Json *member = object->first; member; member = member->next) {
        int i = 0;
        while (keys[i] && strcmp(keys[i], member->key) != 0) i++;
        if (!keys[i] || strlen(member->key) != member->key_size)
            return sv_fail(error, "%s%s\"%.80s\": no such key", what, *what ? ": " : "", member->key);
    }
    return 0;
}

/* The path of a file that the JSON names, relative to folder. "-" means a file of that name, never stdin. */
static char *locate(Conversation *c, const char *folder, const char *path) {
    bool absolute = path[0] == '/';
#if defined(_WIN32)
    absolute = absolute || path[0] == '\\' || (path[0] && path[1] == ':');
#endif
    if (absolute) folder = "";
    else if (!*folder && strcmp(path, "-") == 0) folder = "./";
    size_t size = strlen(folder) + strlen(path) + 1;
    char *whole = c->kept[c->n_kept] = malloc(size);
    if (!whole) return NULL;
    c->n_kept++;
    snprintf(whole, size, "%s%s", folder, path);
    return whole;
}

/* Decodes standard base64, with or without "=" at its end; ignores white space. Returns the number of bytes, or -1 if
   the text is not base64. */
static ptrdiff_t decode_base64(const char *text, size_t size, uint8_t *out) {
    uint32_t bits = 0;
    int count = 0;
    size_t n = 0, i = 0;
    for (; i < size && text[i] != '='; i++) {
        static const char letters[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        const char *letter = text[i] ? strchr(letters, text[i]) : NULL;
        if (strchr(" \t\r\n", text[i]) && text[i]) continue;
        if (!letter) return -1;
        bits = bits << 6 | (uint32_t)(letter - letters);
        if (++count % 4 != 1) out[n++] = (uint8_t)(bits >> (6 - 2 * ((count - 1) % 4)));
    }
    for (; i < size; i++)
        if (!strchr("= \t\r\n", text[i]) || !text[i]) return -1;
    return count % 4 == 1 ? -1 : (ptrdiff_t)n;
}

static int add_base64(Conversation *c, SvMessage *message, const Json *value, const char *what, SvError *error) {
    char *name = keep(c, what, strlen(what));
    uint8_t *data = name ? malloc(value->size + 1) : NULL;
    if (!data) return out_of_memory(error);
    SvImage *image = &c->images[c->n_images];
    ptrdiff_t size = decode_base64(value->text, value->size, data);
    int result = size < 0 ? sv_fail(error, "%s: \"base64\" is not base64", what)
                          : sv_image_decode(data, (size_t)size, name, image, error);
    free(data);
    if (result != 0) return -1;
    c->n_images++;
    *add(c, message) = (SvContent){ .image = image, .name = name };
    return 0;
}

/* The pictures and videos for contents without a path. used: for each kind, where to look for the next one. */
typedef struct Given { const char *const *paths; int count, used[2]; const ClipOptions *clips; } Given;

/* Reads one content, {"type": ...}. */
static int read_content(const Json *value, const char *folder, Given *given, const char *what, Conversation *c,
                        SvMessage *message, SvError *error) {
    static const char *const text_keys[] = { "type", "text", NULL }, *const video_keys[] = { "type", "path", NULL };
    static const char *const image_keys[] = { "type", "path", "base64", NULL };
    if (value->kind != JSON_OBJECT) return sv_fail(error, "%s: %s, but must be an object", what, json_kind(value));
    const Json *type = json_get(value, "type"), *text = json_get(value, "text"), *path = json_get(value, "path");
    const Json *base64 = json_get(value, "base64");
    if (!type || type->kind != JSON_STRING) return sv_fail(error, "%s: needs a \"type\", a string", what);
    if (strcmp(type->text, "text") == 0) {
        if (json_known(value, what, text_keys, error) != 0) return -1;
        if (!text) return sv_fail(error, "%s: needs a \"text\"", what);
        const char *words = text_of(text, what, error);
        if (!words) return -1;
        add(c, message)->text = words;
        return 0;
    }
    int kind = strcmp(type->text, "video") == 0 ? VIDEO : IMAGE;
    if (kind == IMAGE && strcmp(type->text, "image") != 0)
        return sv_fail(error, "%s: the type is \"%.40s\", but must be text, image or video", what, type->text);
    if (json_known(value, what, kind == VIDEO ? video_keys : image_keys, error) != 0) return -1;
    if (path && base64) return sv_fail(error, "%s: \"path\" and \"base64\": one of the two", what);
    if (base64 && base64->kind == JSON_STRING) return add_base64(c, message, base64, what, error);
    if (base64) return sv_fail(error, "%s: \"base64\" is %s, but must be a string", what, json_kind(base64));
    const char *name = path ? text_of(path, what, error) : NULL;
    if (path && !name) return -1;
    int next = path ? -1 : next_given(given->clips, given->count, kind, &given->used[kind]);
    if (!path && next < 0)
        return sv_fail(error, "%s: needs a \"path\"%s", what, given->count ? ", as all that were given are taken" : "");
    if (!path) return add_given(c, message, given->paths, next, given->clips, error);
    char *whole = locate(c, folder, name);
    if (!whole) return out_of_memory(error);
    return kind == VIDEO ? add_clip(c, message, whole, given->clips, error) : add_file(c, message, whole, error);
}

static int read_message(const Json *value, const char *folder, Given *given, Conversation *c, SvError *error) {
    static const char *const keys[] = { "role", "content", NULL };
    int number = c->count + 1, result = 0;
    char what[64];
    snprintf(what, sizeof what, "message %d", number);
    if (value->kind != JSON_OBJECT) return sv_fail(error, "%s: %s, but must be an object", what, json_kind(value));
    const Json *role = json_get(value, "role"), *content = json_get(value, "content");
    if (json_known(value, what, keys, error) != 0) return -1;
    if (!role || role->kind != JSON_STRING) return sv_fail(error, "%s: needs a \"role\", a string", what);
    if (!content || (content->kind != JSON_STRING && content->kind != JSON_ARRAY))
        return sv_fail(error, "%s: needs a \"content\", a string or an array", what);
    SvMessage *message = begin_message(c, role->text);
    if (content->kind == JSON_STRING) {
        const char *text = text_of(content, what, error);
        if (!text) return -1;
        add(c, message)->text = text;
    }
    int i = 0;
    for (const Json *item = content->first; item && result == 0; item = item->next) {
        snprintf(what, sizeof what, "message %d, content %d", number, ++i);
        result = read_content(item, folder, given, what, c, message, error);
    }
    end_message(c, message);
    return result;
}

int conversation_read(const Json *messages, const char *folder, const char *const *paths, int n_given,
                      const ClipOptions *clips, Conversation *c, SvError *error) {
    Given given = { paths, n_given, { 0 }, clips };
    size_t contents = 0;
    int result = 0;
    *c = (Conversation){ 0 };
    if (messages->kind != JSON_ARRAY)
        return sv_fail(error, "the messages are %s, but must be an array", json_kind(messages));
    for (const Json *m = messages->first; m; m = m->next) {
        const Json *content = json_get(m, "content");
        contents += content && content->kind == JSON_ARRAY ? content->count : 1;
    }
    if (make_room(c, messages->count, contents, error) != 0) return -1;
    for (const Json *m = messages->first; m && result == 0; m = m->next)
        result = read_message(m, folder, &given, c, error);
    for (int kind = IMAGE; kind <= VIDEO && result == 0; kind++) {
        int left = next_given(clips, n_given, kind, &given.used[kind]);
        if (left >= 0)
            result = sv_fail(error, "%s: no {\"type\": \"%s\"} without a path is left for this %s", paths[left],
                             kind == VIDEO ? "video" : "image", NAMES[kind]);
    }
    if (result != 0) conversation_free(c);
    return result;
}
