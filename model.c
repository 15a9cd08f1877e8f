/* model.c: a checkpoint file -> SvModel: config, tokenizer, weights (pointers into the mapped file). */
#if !defined(_WIN32)
#define _POSIX_C_SOURCE 200809L
#define _FILE_OFFSET_BITS 64
#endif
#include "model.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#if defined(__unix__) || defined(__APPLE__)
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#define HAVE_MMAP 1
#else
#define HAVE_MMAP 0
#endif
#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <io.h>
#include <windows.h>
#endif

/* ------------------------------------------------------------------------------------------------- reading the file */

static bool big_endian(void) {
    const uint16_t one = 1;
    return *(const uint8_t *)&one == 0;
}

/* A read position in the metadata. A read past the end returns zeros and sets `bad`. */
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

/* The limits are far above any model of the family. They are so low that no product of dimensions in the code overflows
   64 bits (the largest: intermediate_size * rows of a batch, layers * positions * kv_dim). */
static int check_config(const SvConfig *c, const char *path, SvError *error) {
#define BETWEEN(field, low, high)                                                                                      \
    if (c->field < (low) || c->field > (high))                                                                         \
        return sv_fail(error, "%s: %s is %" PRIu32 ", expected %d to %" PRIu32, path, #field, c->field, low,           \
                       (uint32_t)(high));
#define REQUIRE(condition, path, sentence)                                                                             \
    if (!(condition)) return sv_fail(error, "%s: %s", path, sentence)
    BETWEEN(hidden_size, 1, 65536)
    BETWEEN(intermediate_size, 1, 262144)
    BETWEEN(num_hidden_layers, 1, 1024)
    BETWEEN(num_attention_heads, 1, 1024)
    BETWEEN(num_key_value_heads, 1, c->num_attention_heads)
    BETWEEN(head_dim, 2, 512)
    BETWEEN(vocab_size, 1, 1u << 22)
    BETWEEN(max_position_embeddings, 1, 1u << 23)           /* the range of sv_sin_cos */
    REQUIRE(c->tie_word_embeddings <= 1 && c->chat_template <= 1, path, "a setting that is 0 or 1 is neither");
    REQUIRE(c->chat_accepts < 2 * SV_CHAT_IMAGES, path, "chat_accepts has a flag of no known meaning");
    REQUIRE(c->num_attention_heads % c->num_key_value_heads == 0, path,
            "num_key_value_heads does not divide num_attention_heads");
    REQUIRE(c->head_dim % 2 == 0, path, "head_dim is odd, RoPE rotates pairs");
    REQUIRE(c->turned <= 1, path, "a setting that is 0 or 1 is neither");
    REQUIRE(c->repetition_penalty > 0 && c->repetition_penalty < 1e6f, path, "repetition_penalty is out of range");
    REQUIRE(c->rms_norm_eps >= 0 && c->rms_norm_eps < 1, path, "rms_norm_eps is out of range");
    for (uint32_t i = 0; i < c->eos_token_id.count; i++)
        REQUIRE(c->eos_token_id.id[i] < c->vocab_size, path, "an eos_token_id is not below vocab_size");
    REQUIRE(!memchr(c->image_token.data, 0, c->image_token.size), path, "image_token has a zero byte");
    if (c->vision_num_hidden_layers == 0) return 0;

    BETWEEN(image_size, 1, 4096)
    BETWEEN(patch_size, 1, c->image_size)
    BETWEEN(vision_hidden_size, 1, 65536)
    BETWEEN(vision_intermediate_size, 1, 262144)
    BETWEEN(vision_num_hidden_layers, 1, 1024)
    BETWEEN(vision_num_attention_heads, 1, 1024)
    BETWEEN(scale_factor, 1, 64)
    REQUIRE(sv_is_edge(c->longest_edge), path, "longest_edge is out of range");
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
    REQUIRE(c->video_num_frames <= SV_MAX_FRAMES, path, "video_num_frames is out of range");
    if (c->video_num_frames > 0) {
        REQUIRE(c->video_fps > 0 && c->video_fps < 1e6, path, "video_fps is out of range");
        BETWEEN(video_longest_edge, 1, SV_LONGEST_EDGE)
    }
    REQUIRE(c->image_token_id < c->vocab_size, path, "image_token_id is not below vocab_size");
    REQUIRE(c->image_token.size > 0, path, "image_token is empty");
    return 0;
}

const char *sv_format_name(uint32_t format) {
    static const char *const names[] = { "f32", "bf16", "q8", "q4" };
    return format < 4 ? names[format] : "unknown";
}

/* Checks one entry of the tensor table; `free_from` is where the tensor before it ends. */
static int check_entry(const SvModel *m, const SvEntry *e, uint64_t free_from, SvError *error) {
    int length = e->name.size < 120 ? (int)e->name.size : 120;
    uint64_t size = sv_tensor_size(e->format, e->group, e->rows, e->cols);
    if (sv_tensor_size(e->format, e->group, 1, 1) == 0)
        return sv_fail(error, "%s: tensor %.*s has format %" PRIu32 " (%s) in groups of %" PRIu32
                       ", which this version does not read",
                       m->path, length, e->name.data, e->format, sv_format_name(e->format), e->group);
    if (size == 0 || e->size != size)
        return sv_fail(error, "%s: tensor %.*s has a size that does not fit its shape", m->path, length, e->name.data);
    if (e->offset % 64 != 0 || e->offset > m->file_size || e->size > m->file_size - e->offset)
        return sv_fail(error, "%s: tensor %.*s lies outside the file", m->path, length, e->name.data);
    if (e->offset < free_from)
        return sv_fail(error, "%s: tensor %.*s overlaps what is before it", m->path, length, e->name.data);
    return 0;
}

/* Finds a tensor by name and sets *tensor to it. kind: 'V' (always f32) or 'M' (any format). */
static int bind(const SvModel *m, SvTensor *tensor, char kind, const char *name_format, uint32_t layer, uint64_t rows,
                uint64_t cols, SvError *error) {
    char name[128];
    int length = snprintf(name, sizeof name, name_format, (int)layer);
    for (uint32_t i = 0; i < m->n_entries; i++) {
        const SvEntry *e = &m->entries[i];
        if (e->name.size != (size_t)length || memcmp(e->name.data, name, e->name.size) != 0) continue;
        if (e->rows != rows || e->cols != cols)
            return sv_fail(error, "%s: tensor %s is %" PRIu32 " x %" PRIu32 ", expected %" PRIu64 " x %" PRIu64,
                           m->path, name, e->rows, e->cols, rows, cols);
        if (kind == 'V' && e->format != SV_F32) return sv_fail(error, "%s: tensor %s is not f32", m->path, name);
        *tensor = (SvTensor){ m->file + e->offset, e->format, e->group, e->rows, e->cols };
        return 0;
    }
    return sv_fail(error, "%s: tensor %s is missing", m->path, name);
}

/* Expands the lists of model.h to bind every tensor to its field. The lists write sizes with the names of these
   locals. */
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

static bool has_config(const char *directory) {
    static const char name[] = "/config.json";
    size_t length = strlen(directory);
    char *path = malloc(length + sizeof name);
    FILE *f = NULL;
    if (path) {
        memcpy(path, directory, length);
        memcpy(path + length, name, sizeof name);
        f = sv_fopen(path, "rb");
    }
    free(path);
    if (f) fclose(f);
    return f != NULL;
}

#define EXPORT "python export.py"

/* Refuses other formats of a model; the error says how to make a checkpoint of them. */
static int refuse_other_model(const SvModel *m, SvError *error) {
    const uint8_t *b = m->file;
    uint64_t header = 0;
    for (int i = 7; i >= 0; i--) header = header << 8 | b[i];
    if (memcmp(b, "GGUF", 4) == 0)
        return sv_fail(error, "%s: a GGUF file, no checkpoint; one is made of the model's Hugging Face directory: "
                              EXPORT " DIRECTORY smolvlm2.bin", m->path);
    if (header > m->file_size - 8 || b[8] != '{')
        return sv_fail(error, "%s: not a checkpoint made by export.py", m->path);
    int length = (int)strlen(m->path);                      /* of the directory, without the last slash */
    while (length > 0 && m->path[length - 1] != '/' && m->path[length - 1] != '\\') length--;
    return sv_fail(error, "%s: the weights of a Hugging Face directory; to make a checkpoint of it: " EXPORT
                          " %.*s smolvlm2.bin", m->path, length > 1 ? length - 1 : 1, length > 0 ? m->path : ".");
}

static int refuse_directory(const SvModel *m, SvError *error) {
    if (!has_config(m->path))
        return sv_fail(error, "%s: a directory, expected a checkpoint made by export.py", m->path);
    return sv_fail(error, "%s: a Hugging Face directory; to make a checkpoint of it: " EXPORT " %s smolvlm2.bin",
                   m->path, m->path);
}

/* Loads the file. It is mapped, so that processes share it and pages are read on demand. Without mmap, or if bytes must
   be swapped, it is read whole. */
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
        return S_ISDIR(st.st_mode) ? refuse_directory(m, error) :
               sv_fail(error, "%s: not a file, expected a checkpoint made by export.py", m->path);
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
    FILE *f = sv_fopen(m->path, "rb");
    if (!f) {
        int why = errno;
        bool directory = why == EISDIR || has_config(m->path);
        return directory ? refuse_directory(m, error) : sv_fail(error, "%s: %s", m->path, strerror(why));
    }
    if (!m->file_size) {
        int64_t size = fseek(f, 0, SEEK_END) == 0 ? position_in(f) : -1;
        if (size < 64 || (uint64_t)size > SIZE_MAX / 2 || fseek(f, 0, SEEK_SET) != 0) {
            fclose(f);
            return sv_fail(error, "%s: not a checkpoint made by export.py", m->path);
        }
        m->file_size = (size_t)size;
    }
#if defined(_WIN32)
    HANDLE mapping = CreateFileMappingW((HANDLE)_get_osfhandle(_fileno(f)), NULL, PAGE_READONLY, 0, 0, NULL);
    m->file = mapping ? MapViewOfFile(mapping, FILE_MAP_READ, 0, 0, 0) : NULL;
    if (mapping) CloseHandle(mapping);
    if (m->file) {
        m->mapped = true;
        fclose(f);
        return 0;
    }
#endif
    m->file = malloc(m->file_size);
    if (!m->file) {
        fclose(f);
        return sv_fail(error, "%s: out of memory for %zu MB", m->path, m->file_size >> 20);
    }
    size_t got = fread(m->file, 1, m->file_size, f);
    fclose(f);
    return got == m->file_size ? 0 : sv_fail(error, "%s: could not be read to its end", m->path);
}

/* Swaps the bytes of every tensor's numbers, on a big-endian machine. In Q8 and Q4 only the scales, at the end, have
   more than one byte. */
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
    if (memcmp(take(&cursor, 8), SV_FILE_MAGIC, 8) != 0) return refuse_other_model(m, error);
    uint32_t version = take_u32(&cursor), metadata_crc = take_u32(&cursor);
    uint64_t data_offset = take_u64(&cursor), file_size = take_u64(&cursor);
    m->weights_crc = take_u32(&cursor);
    m->n_entries = take_u32(&cursor);
    if (version != SV_FILE_VERSION)
        return sv_fail(error, "%s: file version %" PRIu32 ", this program reads version %d: export it again", m->path,
                       version, SV_FILE_VERSION);
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

/* ------------------------------------------------------------------------------------------------------- kernel sets

   SV_SETS(X): the sets of kernels/ that are in this build, the fastest first (see the Makefile). "base" is the one that
   every machine can run. Without any set, quant.c alone makes a complete program. */
#ifndef SV_SETS
#define SV_SETS(X)
#endif
#define DECLARE(name) extern const SvKernels sv_kernels_##name;
SV_SETS(DECLARE)
extern const SvKernels sv_kernels_reference;                /* quant.c */

#if defined(__linux__) && defined(__aarch64__)              /* the Makefile builds this set nowhere else */
#include <sys/auxv.h>
#define HAS_dotprod() ((getauxval(AT_HWCAP) >> 20 & 1) != 0)                   /* HWCAP_ASIMDDP */
#endif
#define HAS_base() true
#define HAS_avx512() (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") && \
                      __builtin_cpu_supports("avx512vl"))
#if defined(__linux__) && defined(__x86_64__) && !defined(__TINYC__)           /* tcc has no such header, nor the set */
#include <cpuid.h>
#include <sys/syscall.h>
/* Whether the processor has AMX for bytes, and Linux lets this process use it, which it must ask for once:
   arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) fails where the system does not save tiles. */
long syscall(long number, ...);                             /* unistd.h has it for _DEFAULT_SOURCE only */
__attribute__((unused)) static bool has_amx(void) {
    enum { REQUEST = 0x1023, TILEDATA = 18 };
    unsigned a, b, c, d;
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || (d >> 24 & 3) != 3) return false;
    return syscall(SYS_arch_prctl, REQUEST, TILEDATA) == 0;
}
#define HAS_amx() (HAS_avx512() && has_amx())
#endif
#define HAS_avx2() (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))

const SvKernels *sv_kernels(int i) {
#define COUNT_DOWN(name) if (HAS_##name() && i-- == 0) return &sv_kernels_##name;
    SV_SETS(COUNT_DOWN)
    return i == 0 ? &sv_kernels_reference : NULL;
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

const SvTokenizer *sv_tokenizer(const SvModel *m) { return m->tokenizer; }

void sv_close(SvModel *m) {
    if (!m) return;
    sv_tokenizer_free(m->tokenizer);
    free(m->text.layers);
    free(m->vision.layers);
    free(m->entries);
#if HAVE_MMAP
    if (m->mapped) munmap(m->file, m->file_size);
#elif defined(_WIN32)
    if (m->mapped) UnmapViewOfFile(m->file);
#endif
    if (!m->mapped) free(m->file);
    free(m->path);
    free(m);
}
