/* test_json.c: cli/json.c: what it takes and refuses, where it says the mistake is, and that damaged texts do no harm.
   tests/fuzz_json.py compares it with Python's json. */
#include "../cli/json.h"
#include "greatest.h"

#include <stdlib.h>
#include <string.h>

#define LENGTH(array) (sizeof(array) / sizeof *(array))

static SvError error;

/* The value as json_put writes it, zero-terminated; the caller frees it. */
static char *written(const Json *value) {
    FILE *file = tmpfile();
    if (!file) return NULL;
    json_put(file, value);
    long size = ftell(file);
    char *text = calloc((size_t)size + 1, 1);
    rewind(file);
    if (!text || fread(text, 1, (size_t)size, file) != (size_t)size) perror("tmpfile");
    fclose(file);
    return text;
}

/* Read and written again: as it stands here if no other text is given. */
static const struct { const char *text, *again; } GOOD[] = {
    { "null", NULL }, { "true", NULL }, { "false", NULL }, { " \t\r\nnull \n", "null" },
    { "0", NULL }, { "-0", NULL }, { "-1", NULL }, { "12.50", NULL }, { "1e5", NULL }, { "1E+05", NULL },
    { "0.1e-7", NULL }, { "123456789012345678901234567890", NULL }, { "1e-400", NULL },
    { "\"\"", NULL }, { "\"a b\"", NULL }, { "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\"",
                                             "\"\\\"\\\\/\\u0008\\u000c\\n\\u000d\\u0009\"" },
    { "\"\\u0041\\u00e9\\u4F60\\ud83d\\uDE42\"", "\"A\xc3\xa9\xe4\xbd\xa0\xf0\x9f\x99\x82\"" },
    { "\"\xc3\xa9 \xe4\xbd\xa0 \xf0\x9f\x99\x82 \xf4\x8f\xbf\xbf\"", NULL },
    { "\"a\\u0000b\"", NULL }, { "\"\x7f\"", "\"\\u007f\"" },
    { "[]", NULL }, { "[ ]", "[]" }, { "{}", NULL }, { "{ }", "{}" }, { "[1, \"a\", null, [true], {}]", NULL },
    { "[1,2]", "[1, 2]" }, { "{\"a\": 1, \"b\": [{\"a\": 2}], \"\": {}}", NULL }, { "{\"a\":{\"a\":1}}",
                                                                                  "{\"a\": {\"a\": 1}}" },
    { "\xef\xbb\xbf[1]", "[1]" },
};

TEST good_texts(void) {
    for (size_t i = 0; i < LENGTH(GOOD); i++) {
        JsonDocument document;
        error.text[0] = 0;
        ASSERT_EQm(error.text, 0, json_parse(GOOD[i].text, strlen(GOOD[i].text), "x", &document, &error));
        char *again = written(document.root);
        ASSERT_STR_EQ(GOOD[i].again ? GOOD[i].again : GOOD[i].text, again);
        free(again);
        json_free(&document);
    }
    PASS();
}

static const struct { const char *text, *words; } BAD[] = {
    { "", "x: line 1, column 1: the text ends where a value is expected" },
    { "  \n ", "x: line 2, column 2: the text ends" },
    { "nul", "column 1: a value is expected" }, { "None", "a value is expected" }, { "NaN", "a value is expected" },
    { "Infinity", "a value is expected" }, { "-Infinity", "a value is expected" }, { "'a'", "a value is expected" },
    { "nullnull", "column 5: the text goes on behind its value" }, { "1 2", "column 3: the text goes on" },
    { "[1] x", "column 5: the text goes on" }, { "// a\n1", "a value is expected" },
    { "01", "begins with 0" }, { "-01", "begins with 0" }, { "+1", "a value is expected" }, { "-", "a value" },
    { ".5", "a value is expected" }, { "1.", "digits after its point" }, { "1.e5", "digits after its point" },
    { "1e", "digits in its exponent" }, { "1e+", "digits in its exponent" }, { "0x10", "column 2: the text goes on" },
    { "1e999", "too large" }, { "-1e999", "too large" },
    { "\"abc", "column 1: the string that begins here has no end" }, { "\"abc\\\"", "has no end" },
    { "\"a\tb\"", "column 3: a control character" }, { "\"a\nb\"", "a control character" },
    { "\"\\x41\"", "no such escape" }, { "\"\\'\"", "no such escape" }, { "\"\\", "no such escape" },
    { "\"\\u12\"", "four hexadecimal digits" }, { "\"\\u12g4\"", "four hexadecimal digits" },
    { "\"\\ud83d\"", "half a surrogate pair" }, { "\"\\ude42\"", "half a surrogate pair" },
    { "\"\\ud83d\\ud83d\"", "half a surrogate pair" }, { "\"\\ud83d\\n\"", "half a surrogate pair" },
    { "\"\\ud83du\"", "half a surrogate pair" }, { "\"\\ud83d\\u12\"", "half a surrogate pair" },
    { "\"\xff\"", "not UTF-8" }, { "\"\xc0\x80\"", "not UTF-8" }, { "\"\xc3\"", "not UTF-8" },
    { "\"\xed\xa0\x80\"", "not UTF-8" }, { "\"\xf4\x90\x80\x80\"", "not UTF-8" }, { "\"\xe0\x9f\xbf\"", "not UTF-8" },
    { "\"\xf8\x88\x80\x80\x80\"", "not UTF-8" }, { "\"\x80\"", "not UTF-8" }, { "\xc3\xa9", "a value is expected" },
    { "[", "the text ends where a value is expected" }, { "[1", "column 3: a comma or ] is expected" },
    { "[1 2]", "column 4: a comma or ]" }, { "[1,]", "column 4: a value is expected" }, { "[,1]", "column 2: a value" },
    { "[1}", "a comma or ]" }, { "]", "a value is expected" }, { "[1,\n 2,\n  x]", "line 3, column 3: a value" },
    { "[\"\xc3\xa9\", x]", "column 7: a value is expected" },       /* columns are characters */
    { "{", "a key in quotes" }, { "{1: 2}", "a key in quotes" }, { "{a: 2}", "a key in quotes" },
    { "{\"a\"}", "a colon is expected" }, { "{\"a\" 1}", "a colon is expected" }, { "{\"a\":}", "a value is expected" },
    { "{\"a\": 1,}", "column 9: a key in quotes" }, { "{\"a\": 1 \"b\": 2}", "a comma or }" },
    { "{\"a\": 1]", "a comma or }" },
    { "{\"a\": 1, \"b\": 2, \"a\": 3}", "column 1: the object has the key \"a\" twice" },
    { "[{\"\\u0061\": 1, \"a\": 1}]", "column 2: the object has the key \"a\" twice" },
};

TEST bad_texts(void) {
    for (size_t i = 0; i < LENGTH(BAD); i++) {
        JsonDocument document;
        ASSERT_EQm(BAD[i].text, -1, json_parse(BAD[i].text, strlen(BAD[i].text), "x", &document, &error));
        ASSERTm(error.text, strstr(error.text, BAD[i].words) != NULL);
        ASSERT_EQ(NULL, document.root);
        json_free(&document);
    }
    const char zero[] = "[1\0, 2]", in_string[] = "\"a\0b\"";
    JsonDocument document;
    ASSERT_EQ(-1, json_parse(zero, sizeof zero - 1, "x", &document, &error));
    ASSERT_EQ(-1, json_parse(in_string, sizeof in_string - 1, "x", &document, &error));
    ASSERTm(error.text, strstr(error.text, "a control character") != NULL);
    PASS();
}

TEST depth(void) {
    static char text[2 * JSON_DEPTH + 2];
    JsonDocument document;
    memset(text, '[', JSON_DEPTH + 1);
    memset(text + JSON_DEPTH, ']', JSON_DEPTH);
    ASSERT_EQ(0, json_parse(text, 2 * JSON_DEPTH, "x", &document, &error));
    json_free(&document);
    memset(text, '[', JSON_DEPTH + 1);
    memset(text + JSON_DEPTH + 1, ']', JSON_DEPTH + 1);
    ASSERT_EQ(-1, json_parse(text, 2 * JSON_DEPTH + 2, "x", &document, &error));
    ASSERTm(error.text, strstr(error.text, "column 129: too many arrays and objects") != NULL);
    size_t many = 1 << 20;
    char *deep = malloc(many);
    memset(deep, '[', many);
    ASSERT_EQ(-1, json_parse(deep, many, "x", &document, &error));
    free(deep);
    PASS();
}

TEST values(void) {
    static const char text[] = "{\"a\": 3, \"b\": 2.5, \"c\": \"x\\u0000y\", \"d\": [null, {\"a\": -9007199254740992}"
                               "], \"e\": 1e2, \"f\": false, \"g\": 9e18}";
    JsonDocument document;
    int64_t whole = 0;
    ASSERT_EQm(error.text, 0, json_parse(text, strlen(text), "x", &document, &error));
    const Json *root = document.root, *d = json_get(root, "d");
    ASSERT_EQ(7, root->count);
    ASSERT_EQ(NULL, json_get(root, "h"));
    ASSERT_EQ(NULL, json_get(d, "a"));
    ASSERT(json_whole(json_get(root, "a"), 0, 3, &whole) && whole == 3);
    ASSERT_FALSE(json_whole(json_get(root, "a"), 0, 2, &whole));
    ASSERT_FALSE(json_whole(json_get(root, "b"), 0, 9, &whole));
    ASSERT_FALSE(json_whole(json_get(root, "c"), 0, 9, &whole));
    ASSERT(json_whole(json_get(root, "e"), 0, 100, &whole) && whole == 100);
    ASSERT_FALSE(json_whole(json_get(root, "g"), 0, 1000, &whole));
    ASSERT_EQ(3, json_get(root, "c")->size);
    ASSERT_MEM_EQ("x\0y", json_get(root, "c")->text, 4);
    ASSERT_EQ(2, d->count);
    ASSERT_STR_EQ("null", json_kind(d->first));
    ASSERT_STR_EQ("an object", json_kind(d->first->next));
    ASSERT(json_whole(json_get(d->first->next, "a"), -(INT64_C(1) << 53), 0, &whole) && whole == -(INT64_C(1) << 53));
    json_free(&document);
    PASS();
}

TEST equal_values(void) {
    static const struct { const char *a, *b; bool equal; } cases[] = {
        { "1", "1.0", true }, { "1", "10e-1", true }, { "1", "2", false }, { "1", "\"1\"", false },
        { "\"a\"", "\"\\u0061\"", true }, { "\"a\"", "\"a \"", false }, { "[1, 2]", "[1, 2]", true },
        { "[1, 2]", "[2, 1]", false }, { "[1, 2]", "[1]", false },
        { "{\"a\": 1, \"b\": 2}", "{\"b\": 2, \"a\": 1}", true },
        { "{\"a\": 1, \"b\": 2}", "{\"a\": 1, \"c\": 2}", false }, { "{}", "[]", false }, { "null", "null", true },
        { "true", "false", false },
    };
    for (size_t i = 0; i < LENGTH(cases); i++) {
        JsonDocument a, b;
        ASSERT_EQ(0, json_parse(cases[i].a, strlen(cases[i].a), "a", &a, &error));
        ASSERT_EQ(0, json_parse(cases[i].b, strlen(cases[i].b), "b", &b, &error));
        ASSERT_EQm(cases[i].a, cases[i].equal, json_equal(a.root, b.root));
        ASSERT_EQm(cases[i].a, cases[i].equal, json_equal(b.root, a.root));
        json_free(&a);
        json_free(&b);
    }
    PASS();
}

/* What is no UTF-8 is written as U+FFFD, so that the text is JSON whatever a file name holds. */
TEST writes_any_bytes(void) {
    FILE *file = tmpfile();
    char text[64] = { 0 };
    ASSERT(file != NULL);
    json_put_string(file, "a\xff\xe4\xbd\xa0\xc3\x01\x7f", 8);
    rewind(file);
    ASSERT(fread(text, 1, sizeof text - 1, file) > 0);
    fclose(file);
    ASSERT_STR_EQ("\"a\xef\xbf\xbd\xe4\xbd\xa0\xef\xbf\xbd\\u0001\\u007f\"", text);
    PASS();
}

/* Good texts, damaged at random places: what is still read is written and read again as the same value. */
TEST damaged_texts(void) {
    static const char bytes[] = "\"\\{}[]:,0123456789.eE+-truefalsn \n\t/bud\x80\xc3\xff\x01";
    static const char seed[] = "{\"a\": [1, -2.5e3, \"\\u00e9\\ud83d\\ude42\\n\", null], \"\xc3\xa9\": {\"b\": true, "
                               "\"c\": [[], {}, false]}, \"d\": \"\xe4\xbd\xa0\"}";
    enum { RUNS = 20000 };
    uint64_t random = 1;
    int still_good = 0;
    for (int run = 0; run < RUNS; run++) {
        char text[sizeof seed];
        size_t size = sizeof seed - 1;
        memcpy(text, seed, size);
        for (int changes = 1 + run % 3; changes > 0; changes--) {
            random = random * 6364136223846793005u + 1442695040888963407u;
            size_t at = (size_t)(random >> 33) % size;
            if (random >> 20 & 1) text[at] = bytes[(random >> 21 & 0xfff) % (sizeof bytes - 1)];
            else memmove(text + at, text + at + 1, --size - at);
        }
        JsonDocument document, again;
        char *exact = malloc(size);                         /* of this size, so that sanitizers see a byte too many */
        memcpy(exact, text, size);
        if (json_parse(exact, size, "x", &document, &error) == 0) {
            char *out = written(document.root);
            ASSERT_EQm(out, 0, json_parse(out, strlen(out), "x", &again, &error));
            ASSERTm(out, json_equal(document.root, again.root));
            json_free(&again);
            json_free(&document);
            free(out);
            still_good++;
        }
        free(exact);
    }
    ASSERT_GT(still_good, RUNS / 20);
    ASSERT_GT(RUNS / 2, still_good);
    PASS();
}

SUITE(json) {
    RUN_TEST(good_texts);
    RUN_TEST(bad_texts);
    RUN_TEST(depth);
    RUN_TEST(values);
    RUN_TEST(equal_values);
    RUN_TEST(writes_any_bytes);
    RUN_TEST(damaged_texts);
}

GREATEST_MAIN_DEFS();

int main(int argc, char **argv) {
    GREATEST_MAIN_BEGIN();
    RUN_SUITE(json);
    GREATEST_MAIN_END();
}
