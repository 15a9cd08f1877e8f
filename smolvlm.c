/* smolvlm.c: the pipeline. Opens a checkpoint, turns a conversation into a prompt, and a prompt into an answer.

     checkpoint file --sv_open--> SvModel: config, tokenizer, weights (pointers into the mapped file)

     messages (text, pictures)
       | sv_prompt: chat template, pictures cut into tiles, each tile as its tokens     SmolVLMProcessor
     SvPrompt: ids [T], tiles [N]
       | sv_generate
       |   features = sv_vision(tiles)                   [N, tokens of a tile, hidden]   get_image_features
       |   x = embed(ids); x[ids == image_token] = features        [T, hidden]           inputs_merger
       |   logits = decoder(x)                                     [vocab_size]          prefill
       |   loop: id = sample(logits); logits = decoder(embed(id))                        decode
     SvAnswer: ids, text */
#if !defined(_WIN32)
#define _POSIX_C_SOURCE 200809L
#define _FILE_OFFSET_BITS 64
#endif
#include "smolvlm.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#if defined(__unix__) || defined(__APPLE__)
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#define HAVE_MMAP 1
#else
#define HAVE_MMAP 0
#endif

int sv_fail(SvError *error, const char *format, ...) {
    char whole[8192];
    va_list args;
    va_start(args, format);
    int size = error ? vsnprintf(whole, sizeof whole, format, args) : 0;
    va_end(args);
    if (!error || size < 0) return -1;
    size_t length = strlen(whole), half = sizeof error->text / 2 - 8;
    if (length < sizeof error->text) memcpy(error->text, whole, length + 1);
    else sprintf(error->text, "%.*s ... %s", (int)half, whole, whole + length - half);     /* a path of that length */
    return -1;
}

double sv_seconds(void) {
    struct timespec t;
#ifdef CLOCK_MONOTONIC
    clock_gettime(CLOCK_MONOTONIC, &t);
#else
    timespec_get(&t, TIME_UTC);
#endif
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Each array begins at a multiple of 64 bytes after the first. */
uint64_t sv_sum(int count, const uint64_t *sizes) {
    uint64_t total = 0;
    for (int i = 0; i < count; i++) total += (sizes[i] + 15) / 16 * 16;
    return total;
}

void *sv_floats(int count, const uint64_t *sizes, float **const *parts) {
    uint64_t total = sv_sum(count, sizes);
    float *block = total <= SIZE_MAX / 2 / sizeof(float) ? calloc((size_t)total + 1, sizeof(float)) : NULL;
    for (int i = 0; i < count && block; i++) *parts[i] = block + (size_t)sv_sum(i, sizes);
    return block;
}

/* ------------------------------------------------------------------------------------------------- reading the file */

static bool big_endian(void) {
    const uint16_t one = 1;
    return *(const uint8_t *)&one == 0;
}

/* A place in the metadata. A read past the end returns zeros and is remembered in `bad`. */
typedef struct Cursor { const uint8_t *at, *end; bool bad; } Cursor;

static const uint8_t *take(Cursor *c, size_t size) {
    static const uint8_t zeros[8];
    if (size > (size_t)(c->end - c->at)) {
        c->bad = true;
        return size <= sizeof zeros ? zeros : NULL;
    }
    c->at += size;
    return c->at - size;
}

static uint32_t take_u32(Cursor *c) {
    const uint8_t *b = take(c, 4);
    return (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

static uint64_t take_u64(Cursor *c) {
    uint64_t low = take_u32(c);
    return low | (uint64_t)take_u32(c) << 32;
}

static float take_f32(Cursor *c) {
    union { uint32_t u; float f; } value = { take_u32(c) };
    return value.f;
}

static double take_f64(Cursor *c) {
    union { uint64_t u; double f; } value = { take_u64(c) };
    return value.f;
}

static SvString take_string(Cursor *c) {
    enum { LONGEST = 1 << 20 };
    SvString s = { "", take_u32(c) };
    if (s.size > LONGEST) c->bad = true;
    const uint8_t *data = c->bad ? NULL : take(c, s.size);
    if (c->bad) return (SvString){ "", 0 };
    s.data = (const char *)data;
    return s;
}

static SvIds take_ids(Cursor *c) {
    SvIds ids = { .count = take_u32(c) };
    if (ids.count > sizeof ids.id / sizeof ids.id[0]) c->bad = true, ids.count = 0;
    for (uint32_t i = 0; i < ids.count; i++) ids.id[i] = take_u32(c);
    return ids;
}

static void take_config(Cursor *cursor, SvConfig *c) {
#define TAKE_U32(field) c->field = take_u32(cursor);
#define TAKE_F32(field) c->field = take_f32(cursor);
#define TAKE_F64(field) c->field = take_f64(cursor);
#define TAKE_F3(field) for (int i = 0; i < 3; i++) c->field[i] = take_f32(cursor);
#define TAKE_IDS(field) c->field = take_ids(cursor);
#define TAKE_STR(field) c->field = take_string(cursor);
    SV_CONFIG(TAKE_U32, TAKE_F32, TAKE_F64, TAKE_F3, TAKE_IDS, TAKE_STR)
}

/* The dimensions' limits are far above any model of the family, and low enough that no product of those that the code
   forms (the largest: intermediate_size * rows of a batch, layers * positions * kv_dim) overflows 64 bits. */
static int check_config(const SvConfig *c, const char *path, SvError *error) {
#define BETWEEN(field, low, high)                                                                                      \
    if (c->field < (low) || c->field > (high))                                                                         \
        return sv_fail(error, "%s: %s is %u, expected %d to %u", path, #field, c->field, low, (uint32_t)(high));
#define REQUIRE(condition, path, sentence)                                                                             \
    if (!(condition)) return sv_fail(error, "%s: %s", path, sentence)
    BETWEEN(hidden_size, 1, 65536)
    BETWEEN(intermediate_size, 1, 262144)
    BETWEEN(num_hidden_layers, 1, 1024)
    BETWEEN(num_attention_heads, 1, 1024)
    BETWEEN(num_key_value_heads, 1, c->num_attention_heads)
    BETWEEN(head_dim, 2, 512)
    BETWEEN(vocab_size, 1, 1u << 22)
    BETWEEN(max_position_embeddings, 1, 1u << 23)           /* sv_sin_cos */
    REQUIRE(c->tie_word_embeddings <= 1 && c->chat_role_capitalize <= 1 && c->chat_template <= 1, path,
            "a setting that is 0 or 1 is neither");
    REQUIRE(c->num_attention_heads % c->num_key_value_heads == 0, path,
            "num_key_value_heads does not divide num_attention_heads");
    REQUIRE(c->head_dim % 2 == 0, path, "head_dim is odd, RoPE rotates pairs");
    REQUIRE(c->rms_norm_eps >= 0 && c->rms_norm_eps < 1, path, "rms_norm_eps is out of range");
    for (uint32_t i = 0; i < c->eos_token_id.count; i++)
        REQUIRE(c->eos_token_id.id[i] < c->vocab_size, path, "an eos_token_id is not below vocab_size");
    if (c->vision_num_hidden_layers == 0) return 0;

    BETWEEN(image_size, 1, 4096)
    BETWEEN(patch_size, 1, c->image_size)
    BETWEEN(vision_hidden_size, 1, 65536)
    BETWEEN(vision_intermediate_size, 1, 262144)
    BETWEEN(vision_num_hidden_layers, 1, 1024)
    BETWEEN(vision_num_attention_heads, 1, 1024)
    BETWEEN(scale_factor, 1, 64)
    BETWEEN(longest_edge, 1, SV_MAX_SIDE)
    REQUIRE(c->do_image_splitting <= 1, path, "a setting that is 0 or 1 is neither");
    REQUIRE(c->vision_hidden_size % c->vision_num_attention_heads == 0, path,
            "vision_num_attention_heads does not divide vision_hidden_size");
    REQUIRE(c->vision_hidden_size / c->vision_num_attention_heads <= 512, path, "a vision head is wider than 512");
    REQUIRE(c->image_size / c->patch_size % c->scale_factor == 0, path,
            "scale_factor does not divide the patches of a side");
    REQUIRE(c->layer_norm_eps >= 0 && c->layer_norm_eps < 1, path, "layer_norm_eps is out of range");
    REQUIRE(c->rescale_factor > 0 && c->rescale_factor <= 1, path, "rescale_factor is out of range");
    for (int i = 0; i < 3; i++) {
        REQUIRE(fabsf(c->image_mean[i]) < 1e6f, path, "image_mean is out of range");
        REQUIRE(c->image_std[i] > 1e-6f && c->image_std[i] < 1e6f, path, "image_std is out of range");
    }
    REQUIRE(c->image_token_id < c->vocab_size, path, "image_token_id is not below vocab_size");
    REQUIRE(c->image_token.size > 0, path, "image_token is empty");
    return 0;
}

const char *sv_format_name(uint32_t format) {
    static const char *const names[] = { "f32", "bf16", "q8", "q4" };
    return format < 4 ? names[format] : "unknown";
}

/* Checks one line of the tensor table; `free_from` is where the tensor before it ends. */
static int check_entry(const SvModel *m, const SvEntry *e, uint64_t free_from, SvError *error) {
    int length = e->name.size < 120 ? (int)e->name.size : 120;
    uint64_t size = sv_tensor_size(e->format, e->group, e->rows, e->cols);
    if (sv_tensor_size(e->format, e->group, 1, 1) == 0)
        return sv_fail(error, "%s: tensor %.*s has format %u (%s) in groups of %u, which this version does not read",
                       m->path, length, e->name.data, e->format, sv_format_name(e->format), e->group);
    if (size == 0 || e->size != size)
        return sv_fail(error, "%s: tensor %.*s has a size that does not fit its shape", m->path, length, e->name.data);
    if (e->offset % 64 != 0 || e->offset > m->file_size || e->size > m->file_size - e->offset)
        return sv_fail(error, "%s: tensor %.*s lies outside the file", m->path, length, e->name.data);
    if (e->offset < free_from)
        return sv_fail(error, "%s: tensor %.*s overlaps what is before it", m->path, length, e->name.data);
    return 0;
}

/* Finds a tensor by name and points to it. kind: 'V' (always f32) or 'M' (any format). */
static int bind(const SvModel *m, SvTensor *tensor, char kind, const char *name_format, uint32_t layer, uint64_t rows,
                uint64_t cols, SvError *error) {
    char name[128];
    int length = snprintf(name, sizeof name, name_format, (int)layer);
    for (uint32_t i = 0; i < m->n_entries; i++) {
        const SvEntry *e = &m->entries[i];
        if (e->name.size != (size_t)length || memcmp(e->name.data, name, e->name.size) != 0) continue;
        if (e->rows != rows || e->cols != cols)
            return sv_fail(error, "%s: tensor %s is %u x %u, expected %llu x %llu", m->path, name, e->rows, e->cols,
                           (unsigned long long)rows, (unsigned long long)cols);
        if (kind == 'V' && e->format != SV_F32) return sv_fail(error, "%s: tensor %s is not f32", m->path, name);
        *tensor = (SvTensor){ m->file + e->offset, e->format, e->group, e->rows, e->cols };
        return 0;
    }
    return sv_fail(error, "%s: tensor %s is missing", m->path, name);
}

/* The lists of smolvlm.h, read as: bind every tensor to its field. The locals are what the lists' sizes are made of. */
static int bind_all(SvModel *m, SvError *error) {
    const SvConfig *c = &m->config;
    uint64_t image_size = c->image_size, patch_size = c->patch_size, scale_factor = c->scale_factor;
    uint64_t vision_hidden_size = c->vision_hidden_size, vision_intermediate_size = c->vision_intermediate_size;
    uint64_t hidden_size = c->hidden_size, intermediate_size = c->intermediate_size, vocab_size = c->vocab_size;
    uint64_t num_attention_heads = c->num_attention_heads, num_key_value_heads = c->num_key_value_heads;
    uint64_t head_dim = c->head_dim;
    uint32_t layer = 0;
#define BIND(field, kind, name, rows, cols)                                                                            \
    if (bind(m, &to->field, #kind[0], name, layer, rows, cols, error) != 0) return -1;

    m->text.layers = calloc(c->num_hidden_layers, sizeof *m->text.layers);
    if (!m->text.layers) return sv_fail(error, "%s: out of memory", m->path);
    {
        SvText *to = &m->text;
        SV_TEXT_TENSORS(BIND)
        if (c->tie_word_embeddings) to->lm_head = to->embed_tokens;
        else SV_UNTIED_TENSORS(BIND)
    }
    for (; layer < c->num_hidden_layers; layer++) {
        SvTextLayer *to = &m->text.layers[layer];
        SV_TEXT_LAYER_TENSORS(BIND)
    }
    const float *inv_freq = m->text.inv_freq.data;
    for (uint32_t i = 0; i < c->head_dim / 2; i++)              /* so an angle stays below the context's length */
        REQUIRE(inv_freq[i] >= 0 && inv_freq[i] <= 1, m->path, "a rotary frequency is not between 0 and 1");

    if (c->vision_num_hidden_layers == 0) return 0;
    m->vision.layers = calloc(c->vision_num_hidden_layers, sizeof *m->vision.layers);
    if (!m->vision.layers) return sv_fail(error, "%s: out of memory", m->path);
    layer = 0;
    {
        SvVision *to = &m->vision;
        SV_VISION_TENSORS(BIND)
    }
    for (; layer < c->vision_num_hidden_layers; layer++) {
        SvVisionLayer *to = &m->vision.layers[layer];
        SV_VISION_LAYER_TENSORS(BIND)
    }
    return 0;
}

static int64_t position_in(FILE *f) {
#ifdef _WIN32
    return _ftelli64(f);                                    /* a long has 32 bits there */
#else
    return ftell(f);
#endif
}

/* Puts the file into memory: mapped, so that it is shared between processes and read as it is needed, or, where there
   is no mmap or the bytes must be turned round, read whole. */
static int load_file(SvModel *m, SvError *error) {
#if HAVE_MMAP
    int fd = open(m->path, O_RDONLY | O_NONBLOCK);
    if (fd < 0) return sv_fail(error, "%s: %s", m->path, strerror(errno));
    struct stat st;
    if (fstat(fd, &st) != 0) {
        int why = errno;
        close(fd);
        return sv_fail(error, "%s: %s", m->path, strerror(why));
    }
    if (!S_ISREG(st.st_mode)) {
        close(fd);
        return sv_fail(error, "%s: %s, expected a checkpoint made by export.py", m->path,
                       S_ISDIR(st.st_mode) ? "a directory" : "not a file");
    }
    if (st.st_size < 64) {
        close(fd);
        return sv_fail(error, "%s: %lld bytes, not a checkpoint", m->path, (long long)st.st_size);
    }
    if ((uint64_t)st.st_size > SIZE_MAX / 2) {
        close(fd);
        return sv_fail(error, "%s: too large for this machine's address space", m->path);
    }
    m->file_size = (size_t)st.st_size;
    if (!big_endian()) {
        void *map = mmap(NULL, m->file_size, PROT_READ, MAP_PRIVATE, fd, 0);
        int why = errno;
        close(fd);
        if (map == MAP_FAILED) return sv_fail(error, "%s: cannot be mapped into memory: %s", m->path, strerror(why));
        m->file = map;
        m->mapped = true;
        return 0;
    }
    close(fd);
#endif
    FILE *f = fopen(m->path, "rb");
    if (!f) return sv_fail(error, "%s: %s", m->path, strerror(errno));
    if (!m->file_size) {
        int64_t size = fseek(f, 0, SEEK_END) == 0 ? position_in(f) : -1;
        if (size < 64 || (uint64_t)size > SIZE_MAX / 2 || fseek(f, 0, SEEK_SET) != 0) {
            fclose(f);
            return sv_fail(error, "%s: not a checkpoint made by export.py", m->path);
        }
        m->file_size = (size_t)size;
    }
    m->file = malloc(m->file_size);
    if (!m->file) {
        fclose(f);
        return sv_fail(error, "%s: out of memory for %zu MB", m->path, m->file_size >> 20);
    }
    size_t got = fread(m->file, 1, m->file_size, f);
    fclose(f);
    return got == m->file_size ? 0 : sv_fail(error, "%s: could not be read to its end", m->path);
}

/* Turns the bytes of every tensor's numbers round, on a big-endian machine; of Q8 and Q4, only the scales have several
   bytes, at the end. */
static void swap_weights(SvModel *m) {
    for (uint32_t i = 0; i < m->n_entries; i++) {
        const SvEntry *e = &m->entries[i];
        size_t width = e->format == SV_F32 ? 4 : 2, swapped = e->size;
        size_t rows = ((size_t)e->rows + SV_BLOCK_ROWS - 1) / SV_BLOCK_ROWS * SV_BLOCK_ROWS;
        if (e->group) swapped = rows * ((e->cols + e->group - 1) / e->group) * sizeof(uint16_t);
        for (uint8_t *end = m->file + e->offset + e->size, *b = end - swapped; b < end; b += width)
            for (size_t j = 0; j < width / 2; j++) {
                uint8_t swap = b[j];
                b[j] = b[width - 1 - j];
                b[width - 1 - j] = swap;
            }
    }
}

static int verify(const SvModel *m, SvError *error) {
    if (sv_crc32(0, m->file + m->data_offset, m->file_size - m->data_offset) == m->weights_crc) return 0;
    return sv_fail(error, "%s: the weights' checksum is wrong, the file is damaged", m->path);
}

static int parse(SvModel *m, SvError *error) {
    Cursor cursor = { m->file, m->file + m->file_size, false };
    if (memcmp(take(&cursor, 8), SV_FILE_MAGIC, 8) != 0)
        return sv_fail(error, "%s: not a checkpoint made by export.py", m->path);
    uint32_t version = take_u32(&cursor), metadata_crc = take_u32(&cursor);
    uint64_t data_offset = take_u64(&cursor), file_size = take_u64(&cursor);
    m->weights_crc = take_u32(&cursor);
    m->n_entries = take_u32(&cursor);
    if (version != SV_FILE_VERSION)
        return sv_fail(error, "%s: file version %u, this program reads version %d: export it again", m->path, version,
                       SV_FILE_VERSION);
    if (file_size != m->file_size)
        return sv_fail(error, "%s: %zu bytes, should be %llu: the file is cut short or damaged", m->path, m->file_size,
                       (unsigned long long)file_size);
    if (data_offset < 64 || data_offset % 64 != 0 || data_offset > file_size || m->n_entries > data_offset / 32)
        return sv_fail(error, "%s: the header is damaged", m->path);
    if (sv_crc32(0, m->file + 16, (size_t)data_offset - 16) != metadata_crc)
        return sv_fail(error, "%s: the header's checksum is wrong, the file is damaged", m->path);
    m->data_offset = (size_t)data_offset;

    cursor.end = m->file + m->data_offset;
    take_config(&cursor, &m->config);
    if (cursor.bad) return sv_fail(error, "%s: the header is damaged", m->path);
    if (check_config(&m->config, m->path, error) != 0) return -1;

    m->entries = calloc((size_t)m->n_entries + 1, sizeof *m->entries);
    if (!m->entries) return sv_fail(error, "%s: out of memory", m->path);
    for (uint32_t i = 0; i < m->n_entries; i++) {
        SvEntry *e = &m->entries[i];
        e->name = take_string(&cursor);
        e->format = take_u32(&cursor);
        e->group = take_u32(&cursor);
        e->rows = take_u32(&cursor);
        e->cols = take_u32(&cursor);
        e->offset = take_u64(&cursor);
        e->size = take_u64(&cursor);
        if (cursor.bad) return sv_fail(error, "%s: the tensor table is damaged", m->path);
        if (check_entry(m, e, i ? e[-1].offset + e[-1].size : m->data_offset, error) != 0) return -1;
    }
    size_t used;
    SvError why;
    if (sv_tokenizer_load(cursor.at, (size_t)(cursor.end - cursor.at), m->config.vocab_size, &used, &m->tokenizer,
                          &why) != 0)
        return sv_fail(error, "%s: %.500s", m->path, why.text);
    if ((size_t)(cursor.end - cursor.at) - used >= 64)
        return sv_fail(error, "%s: %zu bytes before the weights are of no known use", m->path,
                       (size_t)(cursor.end - cursor.at) - used);
    if ((m->file_size <= SV_VERIFY_SIZE || !m->mapped) && verify(m, error) != 0) return -1;
    if (big_endian()) swap_weights(m);
    return bind_all(m, error);
}

int sv_open(const char *path, SvModel **model, SvError *error) {
    *model = NULL;
    SvModel *m = calloc(1, sizeof *m);
    if (m) m->path = malloc(strlen(path) + 1);
    if (!m || !m->path) {
        free(m);
        return sv_fail(error, "%s: out of memory", path);
    }
    strcpy(m->path, path);
    m->kernels = sv_kernels(0);
    if (load_file(m, error) != 0 || parse(m, error) != 0) {
        sv_close(m);
        return -1;
    }
    *model = m;
    return 0;
}

int sv_verify(const SvModel *m, SvError *error) {
    return m->mapped ? verify(m, error) : 0;                /* a file that was read whole was verified then */
}

void sv_close(SvModel *m) {
    if (!m) return;
    sv_tokenizer_free(m->tokenizer);
    free(m->text.layers);
    free(m->vision.layers);
    free(m->entries);
#if HAVE_MMAP
    if (m->mapped) munmap(m->file, m->file_size);
#endif
    if (!m->mapped) free(m->file);
    free(m->path);
    free(m);
}

/* A token that may be drawn: its logit, later its weight. */
typedef struct Candidate { float weight; int32_t id; } Candidate;

uint64_t sv_memory_needed(const SvModel *m, int positions, int tiles, int threads) {
    const SvConfig *c = &m->config;
    uint64_t n = (uint64_t)positions, t = (uint64_t)tiles;
    return sv_decoder_memory(m, positions, threads) + sv_vision_memory(m, tiles, threads) +
           (n + t * (uint64_t)sv_image_tokens(c)) * c->hidden_size * sizeof(float) +
           c->vocab_size * (sizeof(float) + sizeof(Candidate)) + t * 3 * c->image_size * c->image_size;
}

void sv_emit(const SvEvents *events, const char *module, int layer, const float *data, int dims, const int *shape,
             int axis) {
    if (!events || !events->activation) return;
    char name[96];
    snprintf(name, sizeof name, module, layer);
    SvActivation a = { .module = name, .data = data, .dims = dims, .axis = axis };
    memcpy(a.shape, shape, (size_t)dims * sizeof(int));
    events->activation(events->user, &a);
}

/* ------------------------------------------------------------------------------------------- conversation -> prompt */

SvOptions sv_default_options(void) {
    return (SvOptions){ .threads = 0, .max_tokens = 256, .temperature = 0, .top_k = 0, .top_p = 1, .seed = 0 };
}

/* Text that grows; an allocation that failed is remembered and makes the rest do nothing. */
typedef struct Text { char *data; size_t size, room; bool failed; } Text;

static void put(Text *t, const char *data, size_t size) {
    if (t->failed) return;
    if (size >= t->room - t->size) {
        size_t room = 2 * t->room + size + 256;
        char *grown = room > t->room && room < SIZE_MAX / 2 ? realloc(t->data, room) : NULL;
        if (!grown) {
            t->failed = true;
            return;
        }
        t->data = grown;
        t->room = room;
    }
    memcpy(t->data + t->size, data, size);
    t->size += size;
    t->data[t->size] = 0;
}

static void put_string(Text *t, SvString s) { put(t, s.data, s.size); }

/* One tile's tokens: <fake_token_around_image>, its tag, <image> as often as it has image tokens. */
static void put_tile(Text *t, const SvConfig *c, const char *tag, size_t size) {
    put_string(t, c->fake_image_token);
    put(t, tag, size);
    for (int i = 0; i < sv_image_tokens(c); i++) put_string(t, c->image_token);
}

/* get_image_prompt_string: the tiles row by row, then the global picture. */
static void put_picture(Text *t, const SvConfig *c, const SvTiles *tiles) {
    for (int row = 1; row <= tiles->rows; row++) {
        for (int col = 1; col <= tiles->cols; col++) {
            char tag[48];
            int size = snprintf(tag, sizeof tag, "<row_%d_col_%d>", row, col);
            put_tile(t, c, tag, (size_t)size);
        }
        put(t, "\n", 1);
    }
    if (tiles->rows > 0) put(t, "\n", 1);
    put_tile(t, c, c->global_image_token.data, c->global_image_token.size);
    put_string(t, c->fake_image_token);
}

static bool contains(const char *text, SvString word) {
    for (; (text = strchr(text, word.data[0])) != NULL; text++)
        if (strncmp(text, word.data, word.size) == 0) return true;
    return false;
}

/* {{ role | capitalize }}: the first letter upper, the others lower. */
static void put_role(Text *t, const SvConfig *c, const char *role) {
    for (size_t i = 0; role[i]; i++) {
        char letter = role[i];
        if (c->chat_role_capitalize && i == 0 && letter >= 'a' && letter <= 'z') letter = (char)(letter - 'a' + 'A');
        if (c->chat_role_capitalize && i > 0 && letter >= 'A' && letter <= 'Z') letter = (char)(letter - 'A' + 'a');
        put(t, &letter, 1);
    }
}

/* The chat template, whose strings the checkpoint carries. Cuts each picture when its turn comes. */
static int render(const SvModel *m, const SvMessage *messages, int count, const SvOptions *options, SvPrompt *prompt,
                  Text *text, SvError *error) {
    const SvConfig *c = &m->config;
    int longest_edge = options->longest_edge ? options->longest_edge : (int)c->longest_edge;
    bool split = c->do_image_splitting && !options->no_split, empty = true;

    put_string(text, c->chat_begin);
    if (strcmp(messages[0].role, "system") != 0) put_string(text, c->chat_default_system);
    for (int i = 0; i < count; i++) {
        const SvMessage *message = &messages[i];
        bool picture_first = message->count > 0 && message->content[0].image;
        put_string(text, c->chat_role_prefix);
        if (c->chat_template) put_role(text, c, message->role);
        put_string(text, picture_first ? c->chat_role_suffix_image : c->chat_role_suffix);
        for (int j = 0; j < message->count; j++) {
            const SvContent *content = &message->content[j];
            if (!content->image == !content->text)
                return sv_fail(error, "message %d: a content is either a text or a picture", i + 1);
            if (content->image) {
                if (c->vision_num_hidden_layers == 0)
                    return sv_fail(error, "%s: a text-only model, it takes no pictures", m->path);
                SvTiles *tiles = &prompt->pictures[prompt->n_pictures];
                SvError why;
                if (sv_image_split(content->image, longest_edge, (int)c->image_size, split, tiles, &why) != 0)
                    return sv_fail(error, "%s: %s", content->name ? content->name : "a picture", why.text);
                prompt->n_pictures++;
                prompt->n_tiles += tiles->count;
                put_picture(text, c, tiles);
            } else {
                if (c->image_token.size > 0 && contains(content->text, c->image_token))
                    return sv_fail(error, "the prompt contains %.*s, which stands for a picture",
                                   (int)c->image_token.size, c->image_token.data);
                if (content->text[strspn(content->text, " \t\r\n")]) empty = false;
                put(text, content->text, strlen(content->text));
            }
        }
        put_string(text, c->chat_message_end);
    }
    put_string(text, c->chat_generation_prompt);
    if (empty && prompt->n_pictures == 0) return sv_fail(error, "the prompt is empty");
    return 0;
}

/* Moves all pictures' tiles into one array: the vision tower takes them in batches, whichever picture they are of. */
static int join_tiles(SvPrompt *prompt, SvError *error) {
    if (prompt->n_pictures == 0) return 0;
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

int sv_prompt(const SvModel *m, const SvMessage *messages, int count, const SvOptions *options, SvPrompt *prompt,
              SvError *error) {
    double start = sv_seconds();
    *prompt = (SvPrompt){ 0 };
    size_t pictures = 0;
    for (int i = 0; i < count; i++)
        for (int j = 0; j < messages[i].count; j++) pictures += messages[i].content[j].image != NULL;
    if (count < 1) return sv_fail(error, "the prompt is empty");
    prompt->pictures = calloc(pictures + 1, sizeof *prompt->pictures);
    if (!prompt->pictures) return sv_fail(error, "out of memory for %zu pictures", pictures);

    Text text = { 0 };
    int result = render(m, messages, count, options, prompt, &text, error);
    prompt->text = text.data;
    if (result == 0) result = join_tiles(prompt, error);
    if (result == 0 && text.failed) result = sv_fail(error, "%s: out of memory for the prompt", m->path);
    if (result == 0) result = sv_tokenize(m->tokenizer, text.data, text.size, &prompt->ids, &prompt->n_ids, error);
    if (result != 0) sv_prompt_free(prompt);
    prompt->seconds = sv_seconds() - start;
    return result;
}

void sv_prompt_free(SvPrompt *prompt) {
    for (int i = 0; i < prompt->n_pictures && !prompt->tiles; i++) sv_tiles_free(&prompt->pictures[i]);
    free(prompt->tiles);
    free(prompt->pictures);
    free(prompt->ids);
    free(prompt->text);
    *prompt = (SvPrompt){ 0 };
}

/* --------------------------------------------------------------------------------------------- logits -> next token */

static int by_weight(const void *a, const void *b) {
    const Candidate *x = a, *y = b;
    if (x->weight != y->weight) return x->weight < y->weight ? 1 : -1;
    return x->id < y->id ? -1 : 1;
}

/* splitmix64 (Steele, Lea, Flood 2014), its top 24 bits as a number in [0, 1). */
static float uniform(uint64_t *state) {
    uint64_t z = *state += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    return (float)(z >> 40) * (1.0f / 16777216);
}

/* Greedy, or: divide by the temperature, keep the top k, of these the likeliest that together reach p, draw. (The order
   of HF's logits processors.) Tokens e^-30 less likely than the best are left out before sorting: all of them together
   weigh less than a millionth. Returns -1 if a logit is no number. */
static int32_t sample(const float *logits, uint32_t vocab, const SvOptions *o, uint64_t *random,
                      Candidate *candidates) {
    int32_t best = 0;
    for (uint32_t i = 0; i < vocab; i++) {
        if (isnan(logits[i])) return -1;
        if (logits[i] > logits[best]) best = (int32_t)i;
    }
    if (isinf(logits[best])) return -1;
    if (!(o->temperature > 0)) return best;

    size_t n = 0, kept = 0;
    for (uint32_t i = 0; i < vocab; i++)
        if (logits[i] - logits[best] >= -30 * o->temperature) candidates[n++] = (Candidate){ logits[i], (int32_t)i };
    qsort(candidates, n, sizeof *candidates, by_weight);
    if (o->top_k > 0 && (size_t)o->top_k < n) n = (size_t)o->top_k;
    float total = 0, reached = 0;
    for (size_t i = 0; i < n; i++)
        total += candidates[i].weight = sv_exp((candidates[i].weight - logits[best]) / o->temperature);
    while (kept < n && (kept == 0 || reached < o->top_p * total)) reached += candidates[kept++].weight;
    float draw = uniform(random) * reached;
    for (size_t i = 0; i < kept; i++)
        if ((draw -= candidates[i].weight) < 0) return candidates[i].id;
    return candidates[kept - 1].id;
}

/* ------------------------------------------------------------------------------------------------- prompt -> answer */

/* x [n_ids, hidden]: the tokens' embeddings, and at the <image> positions, in order, the rows of features. */
static void embed_prompt(const SvModel *m, const SvPrompt *prompt, const float *features, float *x) {
    size_t dim = m->config.hidden_size;
    sv_embed(m, prompt->ids, prompt->n_ids, x);
    for (size_t i = 0; i < prompt->n_ids && prompt->n_tiles > 0; i++) {
        if ((uint32_t)prompt->ids[i] != m->config.image_token_id) continue;
        memcpy(x + i * dim, features, dim * sizeof(float));
        features += dim;
    }
}

/* What must hold before anything is computed: ids in the vocabulary, room for them, features for each <image>. */
static int check_prompt(const SvModel *m, const SvPrompt *prompt, SvError *error) {
    const SvConfig *c = &m->config;
    size_t n = prompt->n_ids, found = 0, expected = (size_t)prompt->n_tiles * (size_t)sv_image_tokens(c);
    if (n == 0) return sv_fail(error, "the prompt is empty");
    if (n > c->max_position_embeddings)
        return sv_fail(error, "%s: the prompt has %zu tokens, more than the context of %u%s", m->path, n,
                       c->max_position_embeddings,
                       prompt->n_tiles ? " (no-split or a smaller longest-edge takes fewer)" : "");
    for (size_t i = 0; i < n; i++) {
        if (prompt->ids[i] < 0 || (uint32_t)prompt->ids[i] >= c->vocab_size)
            return sv_fail(error, "%s: the prompt has token %d, outside the vocabulary", m->path, prompt->ids[i]);
        found += c->vision_num_hidden_layers > 0 && (uint32_t)prompt->ids[i] == c->image_token_id;
    }
    if (found == expected) return 0;
    return sv_fail(error, "%s: the prompt has %zu image tokens, its pictures %zu", m->path, found, expected);
}

static bool is_end(const SvConfig *c, int32_t id) {
    for (uint32_t i = 0; i < c->eos_token_id.count; i++)
        if (c->eos_token_id.id[i] == (uint32_t)id) return true;
    return false;
}

/* The characters that token id completes: appended to the answer and told to whoever listens; true: stop. */
static bool deliver(const SvModel *m, const SvEvents *events, SvUtf8 *utf8, Text *text, int32_t id, bool end) {
    size_t size = 0, before = text->size;
    const char *bytes = end ? "" : sv_token_bytes(m->tokenizer, id, &size);
    char small[768], *out = size + 4 <= sizeof small / 3 ? small : malloc(3 * (size + 4));
    if (!out) {
        text->failed = true;
        return true;
    }
    put(text, out, sv_utf8_feed(utf8, bytes, size, end, out));
    if (out != small) free(out);
    if (!events || !events->token || (end && text->size == before)) return false;
    return events->token(events->user, id, text->size > before ? text->data + before : "", text->size - before);
}

int sv_generate(const SvModel *m, const SvPrompt *prompt, const SvOptions *options, const SvEvents *events,
                SvAnswer *answer, SvError *error) {
    const SvConfig *c = &m->config;
    size_t n = prompt->n_ids, max = options->max_tokens > 0 ? (size_t)options->max_tokens : 0;
    *answer = (SvAnswer){ 0 };
    if (check_prompt(m, prompt, error) != 0) return -1;
    if (max > c->max_position_embeddings - n) max = c->max_position_embeddings - n;

    SvDecoder *decoder = NULL;
    uint64_t tokens = (uint64_t)prompt->n_tiles * (uint64_t)sv_image_tokens(c);
    float *x = NULL, *features = NULL, *logits = NULL;
    void *block = sv_floats(3, (uint64_t[]){ n * (uint64_t)c->hidden_size, tokens * c->hidden_size, c->vocab_size },
                            (float **[]){ &x, &features, &logits });
    Candidate *candidates = options->temperature > 0 ? malloc(c->vocab_size * sizeof *candidates) : NULL;
    answer->ids = malloc((max + 1) * sizeof *answer->ids);
    Text text = { 0 };
    put(&text, "", 0);                                      /* a terminated string from the start */
    int result = -1;
    if (!block || (options->temperature > 0 && !candidates) || !answer->ids || text.failed) {
        sv_fail(error, "%s: out of memory for a prompt of %zu tokens", m->path, n);
        goto done;
    }
    if (sv_decoder_new(m, (int)(n + max), options->threads, &decoder, error) != 0) goto done;

    double start = sv_seconds();
    if (prompt->n_tiles &&
        sv_vision(m, prompt->tiles, prompt->n_tiles, options->threads, features, events, error) != 0) goto done;
    answer->vision_seconds = sv_seconds() - start;

    start = sv_seconds();
    embed_prompt(m, prompt, features, x);
    if (sv_decoder_forward(decoder, x, n, logits, events, error) != 0) goto done;
    answer->prefill_seconds = sv_seconds() - start;

    start = sv_seconds();
    SvUtf8 utf8 = { { 0 }, 0 };
    uint64_t random = options->seed;
    bool told_to_stop = false;
    while (answer->n_ids < max) {
        int32_t id = sample(logits, c->vocab_size, options, &random, candidates);
        if (id < 0) {
            sv_fail(error, "%s: the logits are not numbers: the weights are damaged or out of range", m->path);
            goto done;
        }
        answer->stopped = is_end(c, id);
        if (answer->stopped) break;
        answer->ids[answer->n_ids++] = id;
        answer->stopped = told_to_stop = deliver(m, events, &utf8, &text, id, false);
        if (told_to_stop || answer->n_ids == max) break;
        sv_embed(m, &id, 1, x);
        if (sv_decoder_forward(decoder, x, 1, logits, NULL, error) != 0) goto done;
    }
    deliver(m, told_to_stop ? NULL : events, &utf8, &text, -1, true);
    answer->decode_seconds = sv_seconds() - start;
    result = text.failed ? sv_fail(error, "%s: out of memory for the answer", m->path) : 0;

done:
    answer->text = text.data;
    answer->size = text.size;
    sv_decoder_free(decoder);
    free(block);
    free(candidates);
    if (result != 0) sv_answer_free(answer);
    return result;
}

void sv_answer_free(SvAnswer *answer) {
    free(answer->text);
    free(answer->ids);
    *answer = (SvAnswer){ 0 };
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
        return sv_fail(error, "%s: a context of %u tokens is too short to test", m->path, c->max_position_embeddings);

    float *x, *features, *logits;
    SvDecoder *decoder = NULL;
    void *block = sv_floats(3, (uint64_t[]){ n * dim, tiles * (uint64_t)sv_image_tokens(c) * dim, c->vocab_size },
                            (float **[]){ &x, &features, &logits });
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
        int32_t best = sample(logits, c->vocab_size, &(SvOptions){ 0 }, NULL, NULL);
        if (best < 0) break;                                /* what a NaN's other bits are is each machine's own */
        sv_embed(m, &best, 1, x);
        if (sv_decoder_forward(decoder, x, 1, logits, NULL, error) != 0) goto done;
    }
    *hash = hash_floats(*hash, logits, c->vocab_size);
    if (sample(logits, c->vocab_size, &(SvOptions){ 0 }, NULL, NULL) < 0)
        sv_fail(error, "%s: the logits are not numbers, so the weights are damaged", m->path);
    else result = 0;

done:
    sv_decoder_free(decoder);
    free(pixels);
    free(block);
    return result;
}
