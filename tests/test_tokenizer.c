/* test_tokenizer.c: tokenizer.c against the tokenizers library on the same texts (tests/golden_tokenizer.py writes
   tests/golden/tokenizer/), against damaged files, and against the clock. Run from the repository's root. SV_SLOW in
   the environment allows more time, for a slow machine, such as an emulated one. */
#include "greatest.h"
#include "../model.h"

#include <time.h>

#define GOLDEN "tests/golden/tokenizer/"

static uint8_t *read_file(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    uint8_t *data = NULL;
    *size = 0;
    if (!file) return NULL;
    if (fseek(file, 0, SEEK_END) == 0 && ftell(file) > 0) {
        *size = (size_t)ftell(file);
        rewind(file);
        data = malloc(*size);
        if (data && fread(data, 1, *size, file) != *size) {
            free(data);
            data = NULL;
        }
    }
    fclose(file);
    return data;
}

static uint32_t take_u32(const uint8_t **at)
{
    const uint8_t *b = *at;
    *at += 4;
    return b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

static uint8_t *put_u32(uint8_t *at, uint32_t n)
{
    for (int i = 0; i < 4; i++) *at++ = (uint8_t)(n >> 8 * i);
    return at;
}

/* A tokenizer and the file it was read from. */
typedef struct Loaded { uint8_t *file; size_t size; uint32_t vocab_size; SvTokenizer *t; } Loaded;

static bool load(Loaded *l, const char *path)
{
    SvError error;
    size_t used;
    memset(l, 0, sizeof *l);
    l->file = read_file(path, &l->size);
    if (!l->file || l->size < 4) return false;
    const uint8_t *at = l->file;
    l->vocab_size = take_u32(&at);
    return sv_tokenizer_load(at, l->size - 4, l->vocab_size, &used, &l->t, &error) == 0 && used == l->size - 4;
}

static void unload(Loaded *l)
{
    sv_tokenizer_free(l->t);
    free(l->file);
}

/* --------------------------------------------------------------------------------------- the library's answers */

static bool same_ids(const uint8_t *golden, const int32_t *ids, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (take_u32(&golden) != (uint32_t)ids[i]) return false;
    return true;
}

TEST equals_the_library(const char *blob, const char *cases)
{
    Loaded l;
    ASSERT(load(&l, blob));
    size_t size;
    uint8_t *file = read_file(cases, &size);
    ASSERT(file);
    const uint8_t *at = file;
    for (uint32_t n = take_u32(&at); n > 0; n--) {
        uint32_t text_size = take_u32(&at);
        int32_t *ids;
        size_t count;
        ASSERT_EQ(0, sv_tokenize(l.t, (const char *)at, text_size, &ids, &count, NULL));
        at += text_size;
        uint32_t expected = take_u32(&at);
        ASSERT_EQ_FMT(expected, (uint32_t)count, "%u");
        ASSERT(same_ids(at, ids, count));
        at += 4 * count;
        free(ids);
    }
    for (uint32_t n = take_u32(&at); n > 0; n--) {
        uint32_t count = take_u32(&at);
        int32_t *ids = malloc(4 * count + 1);
        ASSERT(ids);
        for (uint32_t i = 0; i < count; i++) ids[i] = (int32_t)take_u32(&at);
        char *text;
        size_t text_size;
        ASSERT_EQ(0, sv_detokenize(l.t, ids, count, &text, &text_size, NULL));
        uint32_t expected = take_u32(&at);
        ASSERT_EQ_FMT(expected, (uint32_t)text_size, "%u");
        ASSERT_MEM_EQ(at, text, text_size);
        ASSERT_EQ(0, text[text_size]);
        at += text_size;
        free(text);
        free(ids);
    }
    ASSERT(at == file + size);
    free(file);
    unload(&l);
    PASS();
}

static char *put_utf8(char *out, uint32_t c)
{
    if (c < 0x80) {
        *out++ = (char)c;
    } else if (c < 0x800) {
        *out++ = (char)(0xC0 | c >> 6);
        *out++ = (char)(0x80 | (c & 0x3F));
    } else {
        if (c < 0x10000) {
            *out++ = (char)(0xE0 | c >> 12);
        } else {
            *out++ = (char)(0xF0 | c >> 18);
            *out++ = (char)(0x80 | (c >> 12 & 0x3F));
        }
        *out++ = (char)(0x80 | (c >> 6 & 0x3F));
        *out++ = (char)(0x80 | (c & 0x3F));
    }
    return out;
}

/* The class of every code point, by golden_tokenizer.py's class_text, without and with single digits. */
TEST every_code_point(void)
{
    size_t size, used;
    uint8_t *golden = read_file(GOLDEN "classes.crc", &size), *blob = read_file(GOLDEN "classes.bin", &size);
    char *text = malloc(1024 * 40);
    uint8_t *little_endian = malloc(4 * 1024 * 40);
    ASSERT(golden && blob && text && little_endian);
    const uint8_t *crcs = golden, *tokenizer = blob;
    uint32_t vocab_size = take_u32(&tokenizer);
    for (uint32_t single_digits = 0; single_digits < 2; single_digits++) {
        SvTokenizer *t;
        put_u32(blob + size - 4, single_digits);
        ASSERT_EQ(0, sv_tokenizer_load(tokenizer, size - 4, vocab_size, &used, &t, NULL));
        uint32_t crc = 0;
        for (uint32_t first = 0; first < 0x110000; first += 1024) {
            char *end = text;
            for (uint32_t c = first; c < first + 1024; c++)
                for (int i = 0; i < 5 && !(c >= 0xD800 && c < 0xE000); i++) {
                    if (i < 4) *end++ = "a!1\t"[i];
                    end = put_utf8(end, c);
                    end += sprintf(end, "%s", i < 4 ? "|" : "<w>|");
                }
            int32_t *ids;
            size_t count;
            ASSERT_EQ(0, sv_tokenize(t, text, (size_t)(end - text), &ids, &count, NULL));
            for (size_t i = 0; i < count; i++) put_u32(little_endian + 4 * i, (uint32_t)ids[i]);
            crc = sv_crc32(crc, little_endian, 4 * count);
            free(ids);
        }
        sv_tokenizer_free(t);
        uint32_t expected = take_u32(&crcs);
        ASSERT_EQ_FMT(expected, crc, "%08x");
    }
    free(golden);
    free(blob);
    free(text);
    free(little_endian);
    PASS();
}

/* --------------------------------------------------------------------------------------- UTF-8 */

/* A stream divided in any way gives the text of the whole, and never more than the header says. */
TEST choppings(void)
{
    static const char bytes[] = "a\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80z\xFF\xC3\xC3\xA9\xE2\x82x\xF0\x9F\x98"
                                "\xF0\x9F\x98\x80\xED\xA0\x80\xE0\x80\x80\xF4\x90\x80\x80\xC0\x80\0b\xF0\x90\x80";
    static const char text[] = "a\xC3\xA9\xE2\x82\xAC\xF0\x9F\x98\x80z?" "?\xC3\xA9?x?\xF0\x9F\x98\x80"
                               "??????????" "??\0b?";   /* ? is U+FFFD here */
    char expected[256], out[512];
    size_t n_expected = 0;
    for (size_t i = 0; i < sizeof text - 1; i++) {
        memcpy(expected + n_expected, text[i] == '?' ? "\xEF\xBF\xBD" : &text[i], text[i] == '?' ? 3 : 1);
        n_expected += text[i] == '?' ? 3 : 1;
    }
    uint32_t random = 1;
    for (int round = 0; round < 2000; round++) {
        SvUtf8 utf8 = { { 0 }, 0 };
        size_t n = 0;
        for (size_t i = 0; i < sizeof bytes - 1; ) {
            random = random * 1664525 + 1013904223;
            size_t size = round == 0 ? sizeof bytes - 1 : round == 1 ? 1 : (random >> 16) % 7;
            if (size > sizeof bytes - 1 - i) size = sizeof bytes - 1 - i;
            char *exact = malloc(3 * (size + 4));       /* so that a sanitizer detects an extra byte */
            ASSERT(exact);
            size_t written = sv_utf8_feed(&utf8, bytes + i, size, false, exact);
            ASSERT(n + written <= sizeof out);
            memcpy(out + n, exact, written);
            free(exact);
            n += written;
            i += size;
        }
        n += sv_utf8_feed(&utf8, NULL, 0, true, out + n);
        ASSERT_EQ_FMT(n_expected, n, "%zu");
        ASSERT_MEM_EQ(expected, out, n);
        ASSERT_EQ(0, utf8.count);
        ASSERT_EQ(0, sv_utf8_feed(&utf8, NULL, 0, true, out));
    }
    PASS();
}

/* Complete characters come out at once: the output never lags by more than it must. */
TEST nothing_is_held_back(void)
{
    SvUtf8 utf8 = { { 0 }, 0 };
    char out[24];
    ASSERT_EQ(1, sv_utf8_feed(&utf8, "a\xE2\x82", 3, false, out));
    ASSERT_EQ(3, sv_utf8_feed(&utf8, "\xAC", 1, false, out));
    ASSERT_MEM_EQ("\xE2\x82\xAC", out, 3);
    ASSERT_EQ(3, sv_utf8_feed(&utf8, "\xFF", 1, false, out));
    ASSERT_EQ(0, sv_utf8_feed(&utf8, "\xF0\x9F", 2, false, out));
    ASSERT_EQ(4, sv_utf8_feed(&utf8, "b", 1, false, out));
    ASSERT_MEM_EQ("\xEF\xBF\xBD" "b", out, 4);
    PASS();
}

/* --------------------------------------------------------------------------------------- files */

static uint8_t *put_added(uint8_t *at, uint32_t id, uint32_t flags, const char *content)
{
    at = put_u32(put_u32(put_u32(at, id), flags), (uint32_t)strlen(content));
    memcpy(at, content, strlen(content));
    return at + strlen(content);
}

/* A tokenizer part written here: ids 0 "a", 1 "b", 2 none, 3 "ab" merged from these two, 4 "<ab>" added. */
static size_t write_small(uint8_t *out)
{
    static const char *const token[] = { "a", "b", "", "ab", "<ab>" };
    uint8_t *at = put_u32(out, 5);
    for (int i = 0; i < 5; i++) {
        at = put_u32(at, (uint32_t)strlen(token[i]));
        memcpy(at, token[i], strlen(token[i]));
        at += strlen(token[i]);
    }
    for (int b = 0; b < 256; b++) at = put_u32(at, b == 'a' ? 0 : b == 'b' ? 1 : 0xFFFFFFFF);
    at = put_u32(put_u32(put_u32(put_u32(at, 1), 0), 1), 3);
    at = put_added(put_u32(at, 3), 4, 0, "<ab>");
    at = put_added(at, 3, 0, "");                       /* an empty added token, which is never found */
    at = put_added(at, 1, 0, "<ab>");                   /* a content stated twice: the first counts */
    return (size_t)(put_u32(at, 1) - out);
}

TEST a_small_one(void)
{
    uint8_t data[2048];
    size_t size = write_small(data), used, count, n;
    SvTokenizer *t;
    SvError error;
    memset(data + size, 0xFF, 100);
    ASSERT_EQ(0, sv_tokenizer_load(data, size + 100, 5, &used, &t, &error));
    ASSERT_EQ(size, used);

    int32_t *ids;
    static const int32_t expected[] = { 3, 4, 0, 3 };   /* x has no id, so its neighbours become adjacent */
    ASSERT_EQ(0, sv_tokenize(t, "axb<ab>a ab", 11, &ids, &count, &error));
    ASSERT_EQ(4, count);
    ASSERT_MEM_EQ(expected, ids, sizeof expected);
    free(ids);
    ASSERT_EQ(0, sv_tokenize(t, NULL, 0, &ids, &count, &error));
    ASSERT_EQ(0, count);
    free(ids);
    ASSERT_EQ(0, sv_tokenize(t, "xyz", 3, &ids, &count, NULL));
    ASSERT_EQ(0, count);
    free(ids);

    static const int32_t odd[] = { 4, 2, -1, 5, INT32_MAX, INT32_MIN, 1 };
    char *text;
    ASSERT_EQ(0, sv_detokenize(t, odd, 7, &text, &n, &error));
    ASSERT_STR_EQ("<ab>b", text);
    ASSERT_EQ(5, n);
    free(text);
    ASSERT_EQ(0, sv_detokenize(t, NULL, 0, &text, &n, &error));
    ASSERT_STR_EQ("", text);
    free(text);
    ASSERT_MEM_EQ("<ab>", sv_token_bytes(t, 4, &n), 4);
    ASSERT_EQ(4, n);
    ASSERT(sv_token_bytes(t, 5, &n) && n == 0);
    ASSERT(sv_token_bytes(t, -1, &n) && n == 0);
    ASSERT(sv_token_bytes(t, 2, &n) && n == 0);

#if SIZE_MAX > 0xFFFFFFFF
    ASSERT_EQ(-1, sv_tokenize(t, "a", (size_t)INT32_MAX + 1, &ids, &count, &error));
    ASSERT_STR_EQ("the text is longer than 2147483647 bytes", error.text);
    ASSERT(!ids && count == 0);
#endif
    sv_tokenizer_free(t);
    sv_tokenizer_free(NULL);
    PASS();
}

static bool refused(const uint8_t *data, size_t size, uint32_t vocab_size, const char *sentence)
{
    SvError error = { "" };
    SvTokenizer *t;
    size_t used;
    if (sv_tokenizer_load(data, size, vocab_size, &used, &t, &error) == 0) return false;
    if (t || used || strcmp(error.text, sentence) != 0) {
        printf("\n%s\n", error.text);
        return false;
    }
    return sv_tokenizer_load(data, size, vocab_size, &used, &t, NULL) == -1;
}

#define CUT_SHORT "the tokenizer is cut short, or one of its lengths is wrong"

TEST sentences(void)
{
    uint8_t data[2048], copy[2048];
    size_t size = write_small(data);
    size_t byte_ids = 4 + 4 * 5 + 8, merges = byte_ids + 1024, added = merges + 16;
    static const struct { size_t part, offset; uint32_t value; const char *sentence; } wrong[] = {
        { 0,   0, 6, "the tokenizer has 6 ids, but the vocabulary only 5" },
        { 0,   0, 0xFFFFFFFF, CUT_SHORT },
        { 0,   4, 2000, CUT_SHORT },
        { 0,   4, 0xFFFFFFFF, CUT_SHORT },
        { 1,   0, 5, "the tokenizer names the id 5, but has only 5 ids" },
        { 1, 400, 0xFFFFFFFE, "the tokenizer names the id 4294967294, but has only 5 ids" },
        { 2,   0, 0xFFFFFFFF, CUT_SHORT },
        { 2,   4, 5, "the tokenizer names the id 5, but has only 5 ids" },
        { 2,   8, 0xFFFFFFFF, "the tokenizer names the id 4294967295, but has only 5 ids" },
        { 2,  12, 6, "the tokenizer names the id 6, but has only 5 ids" },
        { 3,   0, 100, CUT_SHORT },
        { 3,   4, 5, "the tokenizer names the id 5, but has only 5 ids" },
        { 3,   8, 16, "the tokenizer has an added token with flags of no known meaning" },
        { 3,  12, 0x80000000, CUT_SHORT },
        { 3,  16, 0xBCBCBCBC, "the tokenizer has an added token that is not UTF-8" },
        { 4,   0, 2, "the tokenizer's single_digits is 2, neither 0 nor 1" },
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        size_t part[] = { 0, byte_ids, merges, added, size - 4 };
        memcpy(copy, data, size);
        put_u32(copy + part[wrong[i].part] + wrong[i].offset, wrong[i].value);
        ASSERTm(wrong[i].sentence, refused(copy, size, 5, wrong[i].sentence));
    }
    ASSERT(refused(data, size, 4, "the tokenizer has 5 ids, but the vocabulary only 4"));
    ASSERT(refused(NULL, 0, 4, CUT_SHORT));
    PASS();
}

/* Truncated to size bytes, in memory of exactly that size: refused, and nothing beyond it is read. */
static bool cut(const Loaded *l, size_t size)
{
    uint8_t *data = malloc(size + 1);
    if (!data) return false;
    memcpy(data + 1, l->file + 4, size);
    bool result = refused(data + 1, size, l->vocab_size, CUT_SHORT);
    free(data);
    return result;
}

TEST truncated(void)
{
    Loaded l;
    ASSERT(load(&l, GOLDEN "tiny.bin"));
    for (size_t size = 0; size < l.size - 4; size++) ASSERT(cut(&l, size));
    unload(&l);
    ASSERT(load(&l, GOLDEN "smollm2.bin"));
    for (size_t size = 0; size < l.size - 4; size += 19937) ASSERT(cut(&l, size));
    unload(&l);
    PASS();
}

/* Every byte is changed: refused with a sentence, or able to tokenize any text. */
TEST corrupt(void)
{
    static const char text[] = "the <a><b> abc'll \xE6\x97\xA5\xE6\x9C\xAC\xC3\xA9 1234 \xFF |||>";
    static const uint8_t change[] = { 0x01, 0x80, 0xFF };
    Loaded l;
    ASSERT(load(&l, GOLDEN "tiny.bin"));
    for (size_t i = 4; i < l.size; i++)
        for (size_t k = 0; k < sizeof change; k++) {
            SvError error = { "" };
            SvTokenizer *t;
            size_t used, count, size;
            int32_t *ids;
            char *out;
            l.file[i] ^= change[k];
            if (sv_tokenizer_load(l.file + 4, l.size - 4, l.vocab_size, &used, &t, &error)) {
                ASSERT(error.text[0]);
            } else {
                ASSERT_EQ(0, sv_tokenize(t, text, sizeof text - 1, &ids, &count, &error));
                ASSERT_EQ(0, sv_detokenize(t, ids, count, &out, &size, &error));
                free(ids);
                free(out);
                sv_tokenizer_free(t);
            }
            l.file[i] ^= change[k];
        }
    unload(&l);
    PASS();
}

/* --------------------------------------------------------------------------------------- time */

static double seconds_allowed(void)
{
#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) || __has_feature(memory_sanitizer)
    return 60;
#endif
#endif
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(__OPTIMIZE__)
    return 60;
#else
    return getenv("SV_SLOW") ? 60 : 1;
#endif
}

/* 1 MB of each of these texts in less than a second: no text may take more than n log n. */
TEST a_megabyte(void)
{
    enum { SIZE = 1000000 };
    static const struct { const char *name, *repeated; } texts[] = {
        { "a", "a" }, { "spaces", " " }, { "<", "<" }, { "newlines", "\n" }, { "7", "7" }, { "'", "'" }, { "=", "=" },
        { "added", "<image>" }, { "added, longer", "<row_1_col_1>" }, { "almost added", "<row_1_col_1" },
        { "less so", "<row_" }, { "the", "the" }, { "Chinese", "\xE4\xBD\xA0\xE5\xA5\xBD" }, { "not UTF-8", "\xFF" },
        { "a prompt", "<|im_start|>User: Can you describe this picture in 20 words?\nIt's a cat,  I'd say. " },
        { "any of a..z", NULL }, { "any of a, b", NULL },
    };
    Loaded l;
    clock_t begin = clock();
    ASSERT(load(&l, GOLDEN "smollm2.bin"));
    if (GREATEST_IS_VERBOSE()) printf("\n    load %.0f ms\n", 1e3 * (double)(clock() - begin) / CLOCKS_PER_SEC);
    char *text = malloc(SIZE);
    ASSERT(text);
    for (size_t k = 0; k < sizeof texts / sizeof *texts; k++) {
        const char *repeated = texts[k].repeated;
        uint32_t random = 1, letters = strchr(texts[k].name, 'z') ? 26 : 2;
        for (size_t i = 0, n = repeated ? strlen(repeated) : 0; i < SIZE; i++) {
            random = random * 1664525 + 1013904223;
            text[i] = repeated ? repeated[i % n] : (char)('a' + (random >> 16) % letters);
        }
        int32_t *ids;
        size_t count, size;
        begin = clock();
        ASSERT_EQ(0, sv_tokenize(l.t, text, SIZE, &ids, &count, NULL));
        double seconds = (double)(clock() - begin) / CLOCKS_PER_SEC;
        if (GREATEST_IS_VERBOSE())
            printf("    %-15s %7lu ids %4.0f ms\n", texts[k].name, (unsigned long)count, 1e3 * seconds);
        ASSERT_LT(seconds, seconds_allowed());
        char *back;
        ASSERT_EQ(0, sv_detokenize(l.t, ids, count, &back, &size, NULL));
        if (strcmp(texts[k].name, "not UTF-8") != 0) {      /* the others are valid, except perhaps their last bytes */
            ASSERT(size >= SIZE);
            ASSERT_MEM_EQ(text, back, SIZE - 4);
        }
        free(back);
        free(ids);
    }
    free(text);
    unload(&l);
    PASS();
}

SUITE(tokenizer)
{
    RUN_TESTp(equals_the_library, GOLDEN "smollm2.bin", GOLDEN "smollm2.cases");
    RUN_TESTp(equals_the_library, GOLDEN "tiny.bin", GOLDEN "tiny.cases");
    RUN_TESTp(equals_the_library, GOLDEN "flagged.bin", GOLDEN "flagged.cases");
    RUN_TEST(every_code_point);
    RUN_TEST(choppings);
    RUN_TEST(nothing_is_held_back);
    RUN_TEST(a_small_one);
    RUN_TEST(sentences);
    RUN_TEST(truncated);
    RUN_TEST(corrupt);
    RUN_TEST(a_megabyte);
}

GREATEST_MAIN_DEFS();

/* test_tokenizer BLOB CASES holds tokenizer.c against that pair of files alone (tests/test_export.py makes some). */
int main(int argc, char **argv)
{
    const char *blob = argc == 3 && argv[1][0] != '-' ? argv[1] : NULL, *cases = blob ? argv[2] : NULL;
    if (blob) argc = 1;
    GREATEST_MAIN_BEGIN();
    if (blob) RUN_TESTp(equals_the_library, blob, cases);
    else RUN_SUITE(tokenizer);
    GREATEST_MAIN_END();
}
