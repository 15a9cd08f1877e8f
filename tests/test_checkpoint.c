/* test_checkpoint.c: sv_open on damaged and wrong files. Whatever a file holds, either it is refused with a sentence
   that names it, or it opens and works; under make sanitize, without an invalid access or a leak. Run from the
   repository's root; the damaged copies are written beside the test program. */
#if !defined(_WIN32)
#define _POSIX_C_SOURCE 200809L             /* ftruncate */
#endif
#include "greatest.h"
#include "golden.h"
#include "../model.h"

#include <math.h>
#include <unistd.h>

#define LENGTH(array) (sizeof(array) / sizeof(array)[0])

static char copy_path[1024];                /* the damaged file */
static SvError error;
static SvImage picture;

/* From one changed byte of the metadata to the next: slow machines change every seventh, so that each byte of a number
   has its turn. */
static size_t stride(void) { return slow() ? 7 : 1; }

/* ------------------------------------------------------------------------------------------------------------ files */

typedef struct Bytes { uint8_t *data; size_t size, data_offset; } Bytes;

static uint64_t read_u64(const uint8_t *at) {
    uint64_t n = 0;
    for (int i = 8; i-- > 0;) n = n << 8 | at[i];
    return n;
}

static void write_u32(uint8_t *at, uint32_t n) {
    for (int i = 0; i < 4; i++) at[i] = (uint8_t)(n >> 8 * i);
}

static void write_u64(uint8_t *at, uint64_t n) {
    for (int i = 0; i < 8; i++) at[i] = (uint8_t)(n >> 8 * i);
}

static Bytes read_checkpoint(const char *path) {
    FILE *f = fopen(path, "rb");
    if (!f || fseek(f, 0, SEEK_END) != 0) exit(EXIT_FAILURE);
    Bytes b = { NULL, (size_t)ftell(f), 0 };
    rewind(f);
    b.data = malloc(b.size);
    if (!b.data || fread(b.data, 1, b.size, f) != b.size) exit(EXIT_FAILURE);
    fclose(f);
    b.data_offset = (size_t)read_u64(b.data + 16);
    return b;
}

static void write_copy(const void *data, size_t size) {
    FILE *f = fopen(copy_path, "wb");
    if (!f || (size && fwrite(data, 1, size, f) != size) || fclose(f) != 0) {
        fprintf(stderr, "%s: cannot be written\n", copy_path);
        exit(EXIT_FAILURE);
    }
}

/* Repairs both checksums and writes the copy. */
static void write_repaired(Bytes *b) {
    write_u32(b->data + 32, sv_crc32(0, b->data + b->data_offset, b->size - b->data_offset));
    write_u32(b->data + 12, sv_crc32(0, b->data + 16, b->data_offset - 16));
    write_copy(b->data, b->size);
}

/* ---------------------------------------------------------------------------------------------------------- opening */

static bool names(const char *path) {
    return strncmp(error.text, path, strlen(path)) == 0 && error.text[strlen(path)] == ':';
}

static bool refused(const char *path, const char *words) {
    SvModel *model = (SvModel *)&error;
    memset(&error, 0, sizeof error);
    if (sv_open(path, &model, &error) == 0) {
        sv_close(model);
        snprintf(error.text, sizeof error.text, "it was opened");
        return false;
    }
    return !model && names(path) && strstr(error.text, words);
}

#define ASSERT_REFUSED(path, words) ASSERTm(error.text, refused(path, words))

/* Opens the damaged copy and, if that succeeds, uses it: two tokens, about a picture if `see` is set. Returns 1 if it
   worked, 0 if it failed with a sentence, -1 if the sentence does not name the file. */
static int try_copy(bool see) {
    SvModel *model;
    memset(&error, 0, sizeof error);
    if (sv_open(copy_path, &model, &error) != 0) return names(copy_path) ? 0 : -1;
    see = see && model->config.vision_num_hidden_layers > 0 && model->config.longest_edge <= 1024;
    SvContent contents[] = { { .image = &picture }, { .text = "?" } };
    SvMessage messages[] = { { "system", &(SvContent){ .text = "Hm" }, 1 }, { "user", contents + !see, 1 + see } };
    SvOptions options = sv_default_options();
    options.threads = 1;
    options.max_tokens = 2;
    options.no_split = true;
    SvPrompt prompt;
    int result = sv_prompt(model, messages, 2, &options, &prompt, &error);
    if (result == 0) {
        SvAnswer answer;
        result = sv_generate(model, &prompt, &options, NULL, &answer, &error);
        sv_answer_free(&answer);
        sv_prompt_free(&prompt);
    }
    int verdict = result == 0 ? 1 : error.text[0] ? 0 : -1;
    sv_close(model);
    return verdict;
}

/* -------------------------------------------------------------------------------------------- what is no checkpoint */

TEST no_checkpoint_at_all(const char *directory) {
    ASSERT_REFUSED(directory, "a directory");
    ASSERT_REFUSED("no/such/file.bin", "No such file");
    ASSERT_REFUSED("tests/golden/model/a.png", "not a checkpoint");
    ASSERT_REFUSED("tests/test_checkpoint.c", "not a checkpoint");
#if !defined(_WIN32)
    ASSERT_REFUSED("/dev/null", "not a file");
#endif
    ASSERT_REFUSED("tests/published/256m", "a Hugging Face directory; to make a checkpoint of it: "
                                           "python export.py tests/published/256m smolvlm2.bin");
    char gguf[64] = "GGUF\3", weights[80] = "\110\0\0\0\0\0\0\0{\"__metadata__\":{\"format\":\"pt\"}}", command[1100];
    write_copy(gguf, sizeof gguf);
    ASSERT_REFUSED(copy_path, "a GGUF file");
    ASSERT(strstr(error.text, "python export.py DIRECTORY smolvlm2.bin"));
    write_copy(weights, sizeof weights);                    /* safetensors: the header's length, the header */
    int folder = (int)strlen(copy_path);
    while (folder > 0 && copy_path[folder] != '/' && copy_path[folder] != '\\') folder--;
    snprintf(command, sizeof command, "python export.py %.*s smolvlm2.bin", folder ? folder : 1,
             folder ? copy_path : ".");
    ASSERT_REFUSED(copy_path, command);
    weights[0]++;                                           /* longer than the file */
    write_copy(weights, sizeof weights);
    ASSERT_REFUSED(copy_path, "not a checkpoint");
    write_copy("", 0);
    ASSERT_REFUSED(copy_path, "not a checkpoint");
    write_copy(SV_FILE_MAGIC, 8);
    ASSERT_REFUSED(copy_path, "not a checkpoint");
    uint8_t zeros[4096] = { 0 };
    write_copy(zeros, sizeof zeros);
    ASSERT_REFUSED(copy_path, "not a checkpoint");
    memcpy(zeros, SV_FILE_MAGIC, 8);
    write_copy(zeros, sizeof zeros);
    ASSERT_REFUSED(copy_path, "file version 0");
    SvModel *model;
    ASSERT_EQ(-1, sv_open("no/such/file.bin", &model, NULL));
    ASSERT(!model);
    PASS();
}

TEST whole(const char *path) {
    Bytes b = read_checkpoint(path);
    write_copy(b.data, b.size);
    ASSERT_EQm(error.text, 1, try_copy(true));
    SvModel *model;
    ASSERT_EQm(error.text, 0, sv_open(copy_path, &model, &error));
    ASSERT_EQm(error.text, 0, sv_verify(model, &error));
    ASSERT_EQ_FMT(b.size, model->file_size, "%zu");
    ASSERT_EQ_FMT(b.data_offset, model->data_offset, "%zu");
    ASSERT_STR_EQ(copy_path, model->path);
    sv_close(model);

    write_u32(b.data + 8, SV_FILE_VERSION + 1);
    write_copy(b.data, b.size);
    ASSERT_REFUSED(copy_path, "file version 7, this program reads version 6");
    free(b.data);
    PASS();
}

/* -------------------------------------------------------------------------------------------------------- cut short */

/* At every byte of the metadata and every step-th of the weights. The header still states the old length, so the length
   is what is wrong. */
TEST cut_short(const char *path, size_t step) {
    Bytes b = read_checkpoint(path);
    write_copy(b.data, b.size);
    FILE *f = fopen(copy_path, "r+b");
    ASSERT(f);
    for (size_t size = b.size - 1; size > 0; size -= size > b.data_offset + step ? step : 1) {
        ASSERT_EQ(0, ftruncate(fileno(f), (off_t)size));
        ASSERT_REFUSED(copy_path, size < 64 ? "not a checkpoint" : "cut short");
    }
    fclose(f);
    free(b.data);
    PASS();
}

/* Truncated, with a header that states the new length and correct checksums: only the offsets beyond the end show
   it. */
TEST cut_and_repaired(const char *path) {
    Bytes b = read_checkpoint(path);
    size_t whole = b.size, step = 64 * (1 + whole / 64 / 150);
    for (b.size = b.data_offset; b.size < whole; b.size += step) {
        write_u64(b.data + 24, b.size);
        write_repaired(&b);
        ASSERT_REFUSED(copy_path, "lies outside the file");
    }
    free(b.data);
    PASS();
}

/* The metadata ends early, at each multiple of 64, and the weights begin there. */
TEST metadata_cut_and_repaired(const char *path) {
    Bytes b = read_checkpoint(path);
    size_t whole = b.data_offset;
    for (b.data_offset = 64; b.data_offset < whole; b.data_offset += 64) {
        write_u64(b.data + 16, b.data_offset);
        write_repaired(&b);
        ASSERT_REFUSED(copy_path, "");
    }
    free(b.data);
    PASS();
}

/* ---------------------------------------------------------------------------------------------------------- damaged */

/* A rotary frequency that would send sv_sin_cos out of its range, with correct checksums. */
TEST frequencies_are_checked(const char *path) {
    const float bad[] = { NAN, INFINITY, -INFINITY, 1e20f, -1e-3f, 1.001f };
    Bytes b = read_checkpoint(path);
    SvModel *model;
    ASSERT_EQ(0, sv_open(path, &model, &error));
    size_t at = (size_t)((const uint8_t *)model->text.inv_freq.data - model->file);
    sv_close(model);
    for (size_t i = 0; i < LENGTH(bad); i++) {
        union { float f; uint32_t u; } value = { bad[i] };
        write_u32(b.data + at, value.u);
        write_repaired(&b);
        ASSERT_REFUSED(copy_path, "rotary frequency");
    }
    free(b.data);
    PASS();
}

/* The offset of this tensor's format in the tensor table. Group, rows and cols follow, then 64 bits of offset and size
   each. */
static size_t entry_of(const Bytes *b, const char *name) {
    size_t length = strlen(name);
    for (size_t at = 40; at + length < b->data_offset; at++)
        if (b->data[at] == length && memcmp(b->data + at + 4, name, length) == 0) return at + 4 + length;
    fprintf(stderr, "no tensor %s\n", name);
    exit(EXIT_FAILURE);
}

/* A changed entry of the tensor table: its format, group, rows, cols; -1 leaves a field as it is. size: 0 leaves it, 1
   makes it right for the other fields, anything else is added to it. */
typedef struct Misfit { const char *words; int64_t format, group, rows, cols, size; } Misfit;

TEST entry_is_checked(const char *path, const char *name, const Misfit *m) {
    Bytes b = read_checkpoint(path);
    size_t at = entry_of(&b, name);
    const int64_t to[] = { m->format, m->group, m->rows, m->cols };
    uint32_t now[4];
    for (int i = 0; i < 4; i++) {
        if (to[i] >= 0) write_u32(b.data + at + 4 * i, (uint32_t)to[i]);
        now[i] = (uint32_t)read_u64(b.data + at + 4 * i);
    }
    uint64_t size = read_u64(b.data + at + 24) + (uint64_t)m->size;
    write_u64(b.data + at + 24, m->size == 1 ? sv_tensor_size(now[0], now[1], now[2], now[3]) : size);
    write_repaired(&b);
    free(b.data);
    ASSERT_REFUSED(copy_path, m->words);
    ASSERTm(error.text, strstr(error.text, "tensor model."));
    PASS();
}

#define Q_PROJ "model.text_model.layers.0.self_attn.q_proj.weight"
#define POSITIONS "model.vision_model.embeddings.position_embedding.weight"
#define NO_GROUP "which this version does not read"
#define NO_FIT "has a size that does not fit its shape"
static const Misfit MISFITS_Q4[] = {                        /* of Q_PROJ, Q4 in groups of 64, 36 x 36 */
    { NO_GROUP, -1, 0, -1, -1, 0 }, { NO_GROUP, -1, 1, -1, -1, 0 }, { NO_GROUP, -1, 16, -1, -1, 0 },
    { NO_GROUP, -1, 48, -1, -1, 0 }, { NO_GROUP, -1, 128, -1, -1, 0 }, { NO_GROUP, -1, 0xffffffff, -1, -1, 0 },
    { NO_GROUP, -1, 0, -1, -1, 1 }, { NO_GROUP, 0, 64, -1, -1, 0 }, { NO_GROUP, 1, 64, -1, -1, 0 },
    { NO_GROUP, 4, 0, -1, -1, 0 }, { NO_GROUP, 4, 64, -1, -1, 0 }, { NO_GROUP, 0xffffffff, 64, -1, -1, 1 },
    { NO_GROUP, -1, 32, -1, -1, 0 }, { NO_GROUP, 2, 32, -1, -1, 1 }, { NO_FIT, 2, 64, -1, -1, 0 },
    { NO_FIT, 0, 0, -1, -1, 0 }, { NO_FIT, 1, 0, -1, -1, 0 }, { NO_FIT, -1, -1, -1, -1, 2 },
    { NO_FIT, -1, -1, -1, -1, -1 }, { NO_FIT, -1, -1, -1, -1, 16 }, { NO_FIT, -1, -1, -1, -1, -16 },
    { NO_FIT, -1, -1, -1, -1, 64 }, { NO_FIT, -1, -1, -1, -1, INT64_MIN }, { NO_FIT, -1, -1, 0, -1, 0 },
    { NO_FIT, -1, -1, 0, -1, 1 }, { NO_FIT, -1, -1, -1, 0, 1 }, { NO_FIT, -1, -1, 49, -1, 0 },
    { NO_FIT, -1, -1, -1, 65, 0 }, { NO_FIT, -1, -1, 0xffffffff, -1, 0 }, { NO_FIT, -1, -1, -1, 0xffffffff, 0 },
    { NO_FIT, -1, -1, 0xffffffff, 0xffffffff, 0 }, { NO_FIT, -1, -1, 0xffffffff, 0xffffffff, 1 },
    { NO_FIT, 0, 0, 0xffffffff, 0xffffffff, 1 }, { NO_FIT, -1, -1, 0x80000000, 0x80000000, 1 },
    { "lies outside the file", -1, -1, 0xffffffff, -1, 1 }, { "lies outside the file", -1, -1, -1, 0xffffffff, 1 },
    { "lies outside the file", -1, -1, 0x7fffffff, 0x3fffffff, 1 }, { "is 35 x 36", -1, -1, 35, -1, 1 },
    { "overlaps", -1, -1, 49, -1, 1 }, { "is 37 x 36", -1, -1, 37, -1, 0 }, { "is 36 x 37", -1, -1, -1, 37, 1 },
    { "is 36 x 64", -1, -1, -1, 64, 0 }, { "overlaps", 2, 64, -1, -1, 1 },
};
static const Misfit MISFITS_TABLE[] = {                     /* of POSITIONS, a table, always f32, 16 x 24 */
    { "is not f32", 1, 0, -1, -1, 1 }, { "is not f32", 2, 64, -1, -1, 1 }, { "is not f32", 3, 64, -1, -1, 1 },
    { NO_GROUP, 0, 64, -1, -1, 0 }, { NO_FIT, 2, 64, -1, -1, 0 },
};

/* One bit of a byte is flipped and the checksums are left: every byte of the metadata, and of the weights with a
   stride. */
TEST damage_is_noticed(const char *path) {
    Bytes b = read_checkpoint(path);
    write_copy(b.data, b.size);
    FILE *f = fopen(copy_path, "r+b");
    ASSERT(f);
    setvbuf(f, NULL, _IONBF, 0);
    for (size_t i = 0; i < b.size; i += i < b.data_offset ? stride() : 1009) {
        fseek(f, (long)i, SEEK_SET);
        fputc(b.data[i] ^ 1 << i % 8, f);
        ASSERT_REFUSED(copy_path, i < 8 ? "not a checkpoint" : i < 12 ? "file version"
                                  : i < b.data_offset ? "" : "the weights' checksum is wrong");
        fseek(f, (long)i, SEEK_SET);
        fputc(b.data[i], f);
    }
    fclose(f);
    ASSERT_EQm(error.text, 1, try_copy(true));                  /* every byte was put back */
    free(b.data);
    PASS();
}

/* image_token with a zero byte, whatever it begins with: what looks for it in a text would read past the text's end. */
TEST image_token_with_a_zero(const char *path) {
    static const char token[] = "<image>";
    Bytes b = read_checkpoint(path);
    uint8_t *at = b.data + 40;
    while (at < b.data + b.data_offset - 11 && memcmp(at, "\7\0\0\0<image>", 11) != 0) at++;
    ASSERT_MEM_EQ(token, at + 4, 7);
    for (int i = 0; i < 7; i += 3) {
        at[4 + i] = 0;
        write_repaired(&b);
        at[4 + i] = (uint8_t)token[i];
        ASSERT_REFUSED(copy_path, "image_token has a zero byte");
    }
    free(b.data);
    PASS();
}

typedef struct Tally { unsigned opened, refused; } Tally;

/* Changes `size` bytes of b at `at` to `to`, repairs the header's checksum, opens and uses the file, and changes it
   back. A hole makes the file longer than SV_VERIFY_SIZE, so that its weights are not summed ten thousand times. To
   save time, the tower runs for one change in four. */
static bool changed(const Bytes *b, FILE *f, size_t at, const void *to, size_t size, Tally *tally) {
    uint8_t kept[8], crc[4];
    memcpy(kept, b->data + at, size);
    memcpy(b->data + at, to, size);
    write_u32(crc, sv_crc32(0, b->data + 16, b->data_offset - 16));
    fseek(f, (long)at, SEEK_SET);
    fwrite(to, 1, size, f);
    fseek(f, 12, SEEK_SET);
    fwrite(crc, 1, 4, f);
    int verdict = try_copy((tally->opened + tally->refused) % 4 == 0);
    memcpy(b->data + at, kept, size);
    fseek(f, (long)at, SEEK_SET);
    fwrite(kept, 1, size, f);
    if (verdict < 0) printf("\nat byte %zu: \"%s\"\n", at, error.text);
    *(verdict == 1 ? &tally->opened : &tally->refused) += 1;
    return verdict >= 0;
}

/* False on a big-endian machine, and where there is no mmap. */
static bool is_mapped(const char *path) {
    SvModel *model;
    bool mapped = sv_open(path, &model, &error) == 0 && model->mapped;
    sv_close(model);
    return mapped;
}

static FILE *open_long_copy(Bytes *b) {
    const size_t size = (size_t)SV_VERIFY_SIZE + 64;
    write_u64(b->data + 24, size);
    write_copy(b->data, b->size);
    FILE *f = fopen(copy_path, "r+b");
    if (!f || ftruncate(fileno(f), (off_t)size) != 0) exit(EXIT_FAILURE);
    setvbuf(f, NULL, _IONBF, 0);
    return f;
}

/* Every byte of the metadata is changed and the checksum repaired: a sentence or an answer, never a crash. The bytes of
   the header and the config are changed in three ways. */
TEST repaired_damage_is_harmless(const char *path) {
    if (!is_mapped(path)) SKIPm("the file is read and summed whole here, ten thousand times would take too long");
    Bytes b = read_checkpoint(path);
    FILE *f = open_long_copy(&b);
    Tally tally = { 0, 0 };
    for (size_t i = 16; i < b.data_offset; i += stride()) {
        uint8_t to[] = { (uint8_t)(b.data[i] ^ 1 << i % 8), 0, (uint8_t)~b.data[i] };
        for (size_t k = 0; k < (i < 330 ? LENGTH(to) : 1); k++) ASSERT(changed(&b, f, i, to + k, 1, &tally));
    }
    fclose(f);
    if (GREATEST_IS_VERBOSE()) printf("[%u opened, %u refused] ", tally.opened, tally.refused);
    ASSERT(tally.opened > 0 && tally.refused > 0);
    free(b.data);
    PASS();
}

/* Any four bytes, taken as a number, are set to the limits of a length, a dimension or a float. In the header, the
   config and the first entries of the tensor table, each is set to all of these values; in the rest, to one or
   another. */
TEST extreme_numbers_are_harmless(const char *path) {
    if (!is_mapped(path)) SKIPm("the file is read and summed whole here, ten thousand times would take too long");
    const uint32_t extremes[] = { 0, 1, 2, 0xffff, 0x3fffffff, 0x7f800000, 0x7fc00000, 0x7fffffff, 0xffffffff };
    Bytes b = read_checkpoint(path);
    FILE *f = open_long_copy(&b);
    Tally tally = { 0, 0 };
    for (size_t i = 16; i + 4 <= b.data_offset; i += i < 330 ? stride() : 5 * stride())
        for (size_t k = 0; k < LENGTH(extremes); k += i < 330 ? 1 : LENGTH(extremes)) {
            uint8_t bytes[4];
            write_u32(bytes, extremes[(k + i) % LENGTH(extremes)]);
            ASSERT(changed(&b, f, i, bytes, 4, &tally));
        }
    fclose(f);
    if (GREATEST_IS_VERBOSE()) printf("[%u opened, %u refused] ", tally.opened, tally.refused);
    ASSERT(tally.refused > 0);
    free(b.data);
    PASS();
}

/* Writes a checkpoint whose f32 tensors of one kind are all `value`, or only their last number, with correct
   checksums. */
static void spoil_weights(const char *path, const char *kind, float value, bool last) {
    union { float f; uint32_t u; } bits = { value };
    Bytes b = read_checkpoint(path);
    SvModel *model;
    if (sv_open(path, &model, &error) != 0) exit(EXIT_FAILURE);
    for (uint32_t i = 0; i < model->n_entries; i++) {
        const SvEntry *e = &model->entries[i];
        size_t length = strlen(kind);
        bool meant = e->name.size >= length && memcmp(e->name.data + e->name.size - length, kind, length) == 0;
        for (size_t at = last ? e->size - sizeof bits : 0; meant && at < e->size; at += sizeof bits)
            write_u32(b.data + e->offset + at, bits.u);
    }
    sv_close(model);
    write_repaired(&b);
    free(b.data);
}

/* NaNs and numbers beyond all bounds reach the logits, and are found there. */
TEST weights_that_are_no_numbers(const char *path, const char *kind, float value) {
    spoil_weights(path, kind, value, false);
    for (int temperature = 0; temperature <= 1; temperature++) {
        SvModel *model;
        ASSERT_EQm(error.text, 0, sv_open(copy_path, &model, &error));
        SvMessage message = { "user", &(SvContent){ .text = "What?" }, 1 };
        SvOptions options = sv_default_options();
        options.temperature = (float)temperature;
        SvPrompt prompt;
        SvAnswer answer;
        ASSERT_EQm(error.text, 0, sv_prompt(model, &message, 1, &options, &prompt, &error));
        ASSERT_EQ(-1, sv_generate(model, &prompt, &options, NULL, &answer, &error));
        ASSERT(!answer.text && !answer.ids);
        ASSERTm(error.text, names(copy_path) && strstr(error.text, "the logits are not numbers"));
        sv_prompt_free(&prompt);
        sv_close(model);
    }
    PASS();
}

/* The self-test finds one such number in one row of lm_head: a hash of it would differ between machines. */
TEST selftest_of_one_that_is_no_number(const char *path) {
    SvModel *model;
    uint64_t hash;
    spoil_weights(path, "lm_head.weight", NAN, true);
    ASSERT_EQm(error.text, 0, sv_open(copy_path, &model, &error));
    ASSERT_EQ(-1, sv_selftest(model, 1, false, &hash, &error));
    ASSERTm(error.text, strstr(error.text, "the logits are not numbers"));
    sv_close(model);
    PASS();
}

/* sv_verify sums the mapped file, so it notices what changed after opening. */
TEST verify_notices_a_change(const char *path) {
    if (!is_mapped(path)) SKIPm("the file was read, and summed then");
    Bytes b = read_checkpoint(path);
    write_copy(b.data, b.size);
    SvModel *model;
    ASSERT_EQm(error.text, 0, sv_open(copy_path, &model, &error));
    FILE *f = fopen(copy_path, "r+b");
    ASSERT(f);
    fseek(f, (long)b.size - 100, SEEK_SET);
    fputc(b.data[b.size - 100] ^ 4, f);
    fclose(f);
    ASSERT_EQ(-1, sv_verify(model, &error));
    ASSERTm(error.text, names(copy_path) && strstr(error.text, "the weights' checksum is wrong"));
    sv_close(model);
    free(b.data);
    PASS();
}

SUITE(damaged_files) {
    const char *const paths[] = { GOLDEN "text.bin", GOLDEN "vlm.bin", GOLDEN "text_q4.bin" };
    RUN_TEST1(no_checkpoint_at_all, "tests/golden");
    for (size_t i = 0; i < LENGTH(paths); i++) {
        RUN_TEST1(whole, paths[i]);
        RUN_TESTp(cut_short, paths[i], i == 0 && stride() == 1 ? 1 : 101);
        RUN_TEST1(cut_and_repaired, paths[i]);
        RUN_TEST1(metadata_cut_and_repaired, paths[i]);
        RUN_TEST1(frequencies_are_checked, paths[i]);
        RUN_TEST1(damage_is_noticed, paths[i]);
        RUN_TEST1(repaired_damage_is_harmless, paths[i]);
        RUN_TEST1(extreme_numbers_are_harmless, paths[i]);
        RUN_TESTp(weights_that_are_no_numbers, paths[i], ".norm.weight", NAN);
        RUN_TESTp(weights_that_are_no_numbers, paths[i], ".input_layernorm.weight", INFINITY);
        RUN_TEST1(verify_notices_a_change, paths[i]);
    }
    RUN_TEST1(image_token_with_a_zero, GOLDEN "vlm.bin");
    RUN_TEST1(selftest_of_one_that_is_no_number, GOLDEN "vlm.bin");
    for (size_t i = 0; i < LENGTH(MISFITS_Q4); i++)
        RUN_TESTp(entry_is_checked, GOLDEN "text_q4.bin", Q_PROJ, &MISFITS_Q4[i]);
    for (size_t i = 0; i < LENGTH(MISFITS_TABLE); i++) {
        RUN_TESTp(entry_is_checked, GOLDEN "vlm_q4.bin", POSITIONS, &MISFITS_TABLE[i]);
        RUN_TESTp(entry_is_checked, GOLDEN "vlm.bin", POSITIONS, &MISFITS_TABLE[i]);
    }
}

GREATEST_MAIN_DEFS();

int main(int argc, char **argv) {
    GREATEST_MAIN_BEGIN();
    snprintf(copy_path, sizeof copy_path, "%s.tmp", argv[0]);
    if (sv_image_read(GOLDEN "a.png", &picture, &error) != 0) {
        fprintf(stderr, "%s\n", error.text);
        return EXIT_FAILURE;
    }
    RUN_SUITE(damaged_files);
    sv_image_free(&picture);
    remove(copy_path);
    GREATEST_MAIN_END();
}
