/* test_schema.c: cli/schema.c: which texts fit a schema, which schemas are refused, that every text can be brought to
   its end, and that answers of random tokens fit. */
#include "../cli/schema.h"
#include "golden.h"
#include "greatest.h"

#include <math.h>

#define LENGTH(array) (sizeof(array) / sizeof *(array))

static SvError error;

static Schema *schema_of(const char *text) {
    JsonDocument document;
    Schema *schema = NULL;
    error.text[0] = 0;
    if (json_parse(text, strlen(text), "schema", &document, &error) != 0) return NULL;
    schema_new(document.root, &schema, &error);
    json_free(&document);
    return schema;
}

static bool fits(const Schema *schema, const char *text) {
    SchemaState state = schema_begin(schema);
    for (; *text; text++)
        if (!schema_step(schema, &state, (uint8_t)*text)) return false;
    return schema_complete(schema, &state);
}

/* Texts that fit and, behind NULL, texts that do not. */
static const struct { const char *schema, *texts[24]; } CASES[] = {
    { "{\"type\": \"string\"}",
      { "\"\"", " \"a b\"", "\"\\\"\\\\\\/\\b\\f\\n\\r\\t\\u00e9\\uFFff\"", "\"\\ud7ff\\uE000\"",
        "\"\xc3\xa9\xe4\xbd\xa0\xf0\x9f\x99\x82\xf4\x8f\xbf\xbf\xed\x9f\xbf\xe0\xa0\x80\"", NULL,
        "", "\"", "\"\n\"", "\"\\x\"", "\"\\u12\"", "\"\\ud800\"", "\"\\uDFFF\"", "\"\xff\"", "\"\xc0\x80\"",
        "\"\xc3\"",
        "\"\xed\xa0\x80\"", "\"\xf4\x90\x80\x80\"", "\"\xe0\x9f\xbf\"", "\"a\" ", "  \"a\"", "a" } },
    { "{\"type\": \"number\"}",
      { "0", "-0", "12", "-3.5", "0.25", "1e5", "1.5E-07", "1e+99", "123456789012345", NULL,
        "01", "+1", ".5", "1.", "1e", "-", "1e100", "1234567890123456", "--1", "1,", "0x1" } },
    { "{\"type\": \"integer\"}", { "0", "-12", " 7", NULL, "1.0", "1e3", "01", "-", "" } },
    { "{\"type\": \"boolean\"}", { "true", "false", NULL, "tru", "True", "null", "truefalse" } },
    { "{\"type\": \"null\"}", { "null", " null", NULL, "nul", "0" } },
    { "{\"enum\": [\"a\", \"ab\", 1, 12, null, [1, {\"x\": 2}], \"a\"]}",
      { "\"a\"", "\"ab\"", "1", "12", "null", "[1, {\"x\": 2}]", NULL, "\"b\"", "2", "123", "[1]", "\"\"" } },
    { "{\"enum\": [\"a\", 1, 2.5, true], \"type\": \"integer\"}", { "1", NULL, "\"a\"", "2.5", "true" } },
    { "{\"const\": \"caf\\u00e9\\n\"}", { "\"caf\xc3\xa9\\n\"", NULL, "\"cafe\"", "\"caf\\u00e9\\n\"" } },
    { "{\"type\": \"object\", \"properties\": {\"a\": {\"type\": \"integer\"}, \"ab\": {\"type\": \"null\"}, \"b\": "
      "{\"type\": \"string\"}, \"c\": true}, \"required\": [\"ab\", \"c\"]}",
      { "{\"a\": 1, \"ab\": null, \"b\": \"x\", \"c\": [1]}", "{\"ab\":null,\"c\":{}}",
      "{\"ab\": null, \"b\": \"\",\"c\": 0}",
        "{\"a\": -5,\"ab\":null,\"c\":0}", NULL,
        "{}", "{\"a\": 1}", "{\"c\": 1, \"ab\": null}", "{\"ab\": null}", "{\"a\": 1, \"c\": 0}",
        "{\"ab\": null, \"c\": 0,}",
        "{\"ab\": null, \"c\": 0, \"d\": 1}", "{\"ab\": null \"c\": 0}", "{ \"ab\": null, \"c\": 0}",
        "{\"ab\": null,  \"c\": 0}", "{\"a\": x, \"ab\": null, \"c\": 0}", "{\"ab\": null, \"ab\": null, \"c\": 0}",
        "[]" } },
    { "{\"type\": \"object\", \"properties\": {\"a\": {\"type\": \"integer\"}, \"b\": {\"type\": \"integer\"}}}",
      { "{}", "{\"a\": 1}", "{\"b\": 1}", "{\"a\": 1, \"b\": 2}", NULL, "{\"b\": 1, \"a\": 2}", "{,}",
      "{\"a\": 1,}" } },
    { "{\"type\": \"object\", \"additionalProperties\": false}", { "{}", NULL, "{\"a\": 1}" } },
    { "{\"type\": \"object\"}", { "{}", "{\"x\": [1, \"a\", {\"y\": null}], \"\": true}", NULL, "[]", "{\"x\"}",
      "{x: 1}" } },
    { "{\"additionalProperties\": {\"type\": \"integer\"}}", { "{}", "{\"x\": 1, \"y\": 2}", NULL, "{\"x\": \"a\"}" } },
    { "{\"type\": \"array\", \"items\": {\"type\": \"integer\"}, \"minItems\": 2, \"maxItems\": 3}",
      { "[1,2]", "[1, 2, 3]", NULL, "[]", "[1]", "[1,2,3,4]", "[1,\"a\"]", "[ 1,2]", "[1,2,]", "[,1]" } },
    { "{\"type\": \"array\", \"items\": {\"type\": \"boolean\"}}", { "[]", "[true,false]", NULL, "[1]", "[true" } },
    { "{\"type\": \"array\", \"maxItems\": 0}", { "[]", NULL, "[1]" } },
    { "{\"minItems\": 1}", { "[[]]", "[1, null]", NULL, "[]" } },
    { "{}", { "1", "\"a\"", "[[[]]]", "{\"a\": {\"b\": [false]}}", "null", NULL, "", "x" } },
    { "{\"type\": [\"string\", \"null\", \"integer\"]}", { "\"a\"", "null", "-3", NULL, "true", "[]" } },
    { "{\"anyOf\": [{\"type\": \"array\", \"items\": {\"type\": \"null\"}}, {\"enum\": [1, \"x\"]}], \"title\": \"T\"}",
      { "[null]", "1", "\"x\"", NULL, "\"y\"", "[1]" } },
    { "{\"$ref\": \"#/$defs/node\", \"$defs\": {\"node\": {\"type\": \"object\", \"properties\": {\"v\": {\"type\": "
      "\"integer\"}, \"next\": {\"anyOf\": [{\"$ref\": \"#/$defs/node\"}, {\"type\": \"null\"}]}}, \"required\": "
      "[\"v\", "
      "\"next\"]}}}",
      { "{\"v\": 1, \"next\": null}", "{\"v\": 1, \"next\": {\"v\": 2, \"next\": null}}", NULL, "{\"v\": 1}",
        "{\"v\": 1, \"next\": 2}" } },
    { "{\"allOf\": [{\"$ref\": \"#/definitions/a~1b\"}], \"definitions\": {\"a/b\": {\"type\": \"null\"}}}",
      { "null", NULL, "1" } },
    { "{\"type\": \"string\", \"title\": \"x\", \"description\": \"y\", \"default\": 1, \"examples\": [], "
    "\"$schema\": \"s\"}",
      { "\"\"", NULL, "1" } },
};

TEST texts_that_fit(void) {
    for (size_t i = 0; i < LENGTH(CASES); i++) {
        Schema *schema = schema_of(CASES[i].schema);
        ASSERTm(error.text, schema != NULL);
        bool good = true;
        for (size_t t = 0; t < LENGTH(CASES[i].texts) && (CASES[i].texts[t] || good); t++) {
            if (!CASES[i].texts[t]) good = false;
            else ASSERT_EQm(CASES[i].texts[t], good, fits(schema, CASES[i].texts[t]));
        }
        ASSERT_FALSE(good);
        schema_free(schema);
    }
    PASS();
}

static const struct { const char *schema, *words; } BAD[] = {
    { "false", "#: no value fits" }, { "3", "#: a number, but must be an object" },
    { "{\"type\": \"text\"}", "#: there is no type \"text\"" }, { "{\"type\": 3}", "\"type\" must be a string" },
    { "{\"type\": \"string\", \"pattern\": \"a+\"}", "#: \"pattern\" is not done here" },
    { "{\"type\": \"string\", \"maxLength\": 3}", "\"maxLength\" is not done here" },
    { "{\"type\": \"string\", \"format\": \"date\"}", "\"format\" is not done here" },
    { "{\"type\": \"number\", \"minimum\": 0}", "\"minimum\" is not done here" },
    { "{\"properties\": {\"a\": {\"items\": {\"multipleOf\": 2}}}}",
      "#/properties/a/items: \"multipleOf\" is not done" },
    { "{\"not\": {}}", "\"not\" is not done here" }, { "{\"if\": {}}", "\"if\" is not done here" },
    { "{\"patternProperties\": {}}", "\"patternProperties\" is not done here" },
    { "{\"type\": \"array\", \"uniqueItems\": true}", "\"uniqueItems\" is not done here" },
    { "{\"type\": \"array\", \"prefixItems\": []}", "\"prefixItems\" is not done here" },
    { "{\"type\": \"array\", \"minItems\": 3, \"maxItems\": 2}", "no value fits" },
    { "{\"type\": \"array\", \"minItems\": -1}", "must be whole numbers" },
    { "{\"enum\": [1], \"minimum\": 0}", "\"minimum\" beside \"enum\" is not done here" },
    { "{\"enum\": []}", "no value fits" }, { "{\"enum\": [\"a\"], \"type\": \"integer\"}", "no value fits" },
    { "{\"anyOf\": [{\"type\": \"string\"}, {\"const\": \"a\"}]}", "alternatives that begin alike" },
    { "{\"type\": [\"integer\", \"number\"]}", "alternatives that begin alike" },
    { "{\"anyOf\": []}", "\"anyOf\" must be an array with something in it" },
    { "{\"allOf\": [{}, {}]}", "\"allOf\" of more than one schema" },
    { "{\"anyOf\": [{}], \"type\": \"string\"}", "\"type\" beside \"anyOf\" is not done here" },
    { "{\"$ref\": \"#/$defs/none\"}", "\"$ref\" leads to nothing" }, { "{\"$ref\": \"http://x/y\"}",
      "leads to nothing" },
    { "{\"$ref\": \"#\"}", "no text comes to an end" },
    { "{\"properties\": {\"a\": {\"$ref\": \"#\"}}, \"required\": [\"a\"]}", "no text comes to an end" },
    { "{\"properties\": {\"a\": {}}, \"required\": [\"b\"]}", "\"b\" is required, but is no property" },
    { "{\"properties\": {\"a\": {}}, \"additionalProperties\": {}}", "\"additionalProperties\" with a schema" },
    { "{\"properties\": []}", "\"properties\" must be an object" }, { "{\"required\": 1}",
      "\"required\" must be an array" },
};

TEST schemas_refused(void) {
    for (size_t i = 0; i < LENGTH(BAD); i++) {
        Schema *schema = schema_of(BAD[i].schema);
        ASSERT_EQm(BAD[i].schema, NULL, schema);
        ASSERTm(error.text, strstr(error.text, BAD[i].words) != NULL);
    }
    PASS();
}

static uint64_t random_state = 1;
static uint32_t random_number(void) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(random_state >> 33);
}

/* schema_least bytes lead to the end: each time one of the bytes needs one fewer. */
static bool can_end(const Schema *schema, SchemaState state) {
    for (uint32_t least = schema_least(schema, &state); least > 0; least--) {
        SchemaState next;
        int byte = 0;
        for (; byte < 256; byte++) {
            next = state;
            if (schema_step(schema, &next, (uint8_t)byte) && schema_least(schema, &next) == least - 1) break;
        }
        if (byte == 256) return false;
        state = next;
    }
    return schema_complete(schema, &state);
}

/* From wherever random bytes lead. */
TEST every_text_can_end(void) {
    for (size_t i = 0; i < LENGTH(CASES); i++) {
        Schema *schema = schema_of(CASES[i].schema);
        for (int run = 0; run < 30; run++) {
            SchemaState state = schema_begin(schema), next;
            for (uint32_t steps = random_number() % 60, tries = 0; steps > 0 && tries < 4000; tries++) {
                static const char often[] = "\"\"{}[]:,\\ut0123456789.e- anlf";
                next = state;
                uint32_t byte = random_number() % 3 ? (uint8_t)often[random_number() % (sizeof often - 1)]
                                                    : random_number() % 256;
                if (schema_step(schema, &next, (uint8_t)byte)) state = next, steps--;
            }
            ASSERTm(CASES[i].schema, can_end(schema, state));
        }
        schema_free(schema);
    }
    PASS();
}

/* However deep a text goes, what is required there still has room: the last key or bracket that has none is barred. */
TEST the_deepest_texts_can_end(void) {
    static const struct { const char *schema, *nest; } CHAINS[] = {
        { "{\"type\": \"object\", \"properties\": {\"next\": {\"$ref\": \"#\"}, \"nil\": {\"type\": \"null\"}, \"w\": "
          "{\"type\": \"object\", \"properties\": {\"v\": {\"type\": \"array\", \"minItems\": 1}}, \"required\": "
          "[\"v\"]}}, \"required\": [\"w\"]}", "{\"next\":" },
        { "{\"type\": \"array\", \"items\": {\"anyOf\": [{\"$ref\": \"#\"}, {\"const\": 0}]}, \"minItems\": 2}", "[" },
        { "{\"additionalProperties\": {\"type\": \"array\", \"items\": {\"$ref\": \"#\"}, \"minItems\": 1}}",
          "{\"a\":[" },
        { "{}", "[" }, { "{}", "{\"a\":" },
    };
    for (size_t i = 0; i < LENGTH(CHAINS); i++) {
        Schema *schema = schema_of(CHAINS[i].schema);
        ASSERTm(error.text, schema != NULL);
        SchemaState state = schema_begin(schema), next = state;
        const char *at = CHAINS[i].nest;
        while (schema_step(schema, &next, (uint8_t)*at)) {
            state = next;
            ASSERTm(CHAINS[i].schema, can_end(schema, state));
            at = at[1] ? at + 1 : CHAINS[i].nest;
        }
        ASSERT_GT(state.depth, SCHEMA_DEPTH - 5);
        schema_free(schema);
    }
    char text[8192], *to = text + sprintf(text, "{\"$ref\": \"#/$defs/0\", \"$defs\": {");
    for (int i = 0; i < SCHEMA_DEPTH; i++)
        to += sprintf(to, "\"%d\": {\"type\": \"array\", \"minItems\": 1, \"items\": {\"$ref\": \"#/$defs/%d\"}}, ", i,
                      i + 1);
    sprintf(to, "\"%d\": {\"type\": \"null\"}}}", SCHEMA_DEPTH);
    ASSERT_EQ(NULL, schema_of(text));
    ASSERT_STR_EQ("the schema needs more than 64 values within each other", error.text);
    PASS();
}

/* ------------------------------------------------------------------------------------------------- random answers */

/* Whether a value fits a schema: of what is done here, read anew and simply. */
static bool valid(const Json *root, const Json *schema, const Json *value) {
    const Json *at;
    if (schema->kind != JSON_OBJECT) return schema->kind == JSON_TRUE;
    if ((at = json_get(schema, "$ref")) != NULL) {
        const Json *defs = json_get(root, "$defs");
        return valid(root, json_get(defs, strrchr(at->text, '/') + 1), value);
    }
    if ((at = json_get(schema, "anyOf")) != NULL) {
        for (const Json *one = at->first; one; one = one->next)
            if (valid(root, one, value)) return true;
        return false;
    }
    if ((at = json_get(schema, "enum")) != NULL) {
        bool found = false;
        for (const Json *one = at->first; one; one = one->next) found = found || json_equal(one, value);
        if (!found) return false;
    }
    if ((at = json_get(schema, "type")) != NULL) {
        static const char *const names[] = { "null", "boolean", "boolean", "number", "string", "array", "object" };
        bool found = false;
        bool list = at->kind == JSON_ARRAY, whole = value->kind == JSON_NUMBER && value->number == floor(value->number);
        for (const Json *one = list ? at->first : at; one; one = list ? one->next : NULL)
            found = found || strcmp(one->text, names[value->kind]) == 0 || (whole && strcmp(one->text, "integer") == 0);
        if (!found) return false;
    }
    if (value->kind == JSON_ARRAY) {
        const Json *least = json_get(schema, "minItems"), *most = json_get(schema, "maxItems");
        if (least && (double)value->count < least->number) return false;
        if (most && (double)value->count > most->number) return false;
        at = json_get(schema, "items");
        for (const Json *item = value->first; item && at; item = item->next)
            if (!valid(root, at, item)) return false;
    }
    if (value->kind == JSON_OBJECT) {
        const Json *required = json_get(schema, "required"), *properties = json_get(schema, "properties");
        for (const Json *key = required ? required->first : NULL; key; key = key->next)
            if (!json_get(value, key->text)) return false;
        for (const Json *member = value->first; member && properties; member = member->next) {
            at = json_get(properties, member->key);
            if (!at || !valid(root, at, member)) return false;
        }
    }
    return true;
}

static const char *const SHAPES[] = {
    "{\"type\": \"object\", \"properties\": {\"total\": {\"type\": \"number\"}, \"paid\": {\"type\": \"boolean\"}, "
    "\"vendor\": "
    "{\"type\": [\"string\", \"null\"]}, \"kind\": {\"enum\": [\"receipt\", \"invoice\", \"recipe\", \"in\"]}, "
    "\"items\": "
    "{\"type\": \"array\", \"items\": {\"type\": \"object\", \"properties\": {\"name\": {\"type\": \"string\"}, "
    "\"n\": {\"type\": "
    "\"integer\"}}, \"required\": [\"n\"]}, \"minItems\": 1, \"maxItems\": 3}}, \"required\": [\"total\", \"kind\", "
    "\"items\"]}",
    "{\"type\": \"object\", \"properties\": {\"a\": {\"type\": \"string\"}, \"b\": {\"type\": \"string\"}}, "
    "\"required\": "
    "[\"a\", \"b\"], \"additionalProperties\": false}",
    "{\"type\": \"array\", \"items\": {\"anyOf\": [{\"type\": \"null\"}, {\"type\": \"number\"}, {\"enum\": [\"x\", "
    "\"xy\"]}]}, "
    "\"minItems\": 3}",
    "{\"$ref\": \"#/$defs/node\", \"$defs\": {\"node\": {\"type\": \"object\", \"properties\": {\"v\": {\"type\": "
    "\"integer\"}, "
    "\"next\": {\"anyOf\": [{\"$ref\": \"#/$defs/node\"}, {\"type\": \"null\"}]}}, \"required\": [\"v\", \"next\"]}}}",
    "{\"type\": \"integer\"}", "{\"type\": \"string\"}", "{\"enum\": [1, 12, 123]}",
};

/* An answer of at most `most` tokens, each drawn by random logits, of which the end token's is the lower the rarer it
   is to come. The caller frees the text; NULL with the error if there is none. */
static char *random_answer(const SvModel *m, Guide *guide, int most, float *logits, SvCandidate *list, bool *ended) {
    int32_t ids[512];
    size_t n = 0, size;
    char *text;
    SvOptions options = sv_default_options();
    options.temperature = 2;
    uint64_t random = random_number();
    if (guide_begin(guide, most, &error) != 0) return NULL;
    *ended = false;
    while (n < (size_t)most) {
        for (uint32_t i = 0; i < m->config.vocab_size; i++) logits[i] = (float)random_number() / (1u << 28);
        for (uint32_t i = 0; i < m->config.eos_token_id.count; i++) logits[m->config.eos_token_id.id[i]] -= 12;
        guide_mask(guide, logits);
        int32_t id = sv_sample(logits, m->config.vocab_size, &options, &random, list);
        if (id < 0) return NULL;
        *ended = sv_is_end(&m->config, id);
        if (*ended) break;
        ids[n++] = id;
        guide_token(guide, id);
    }
    *ended = *ended || guide_complete(guide);
    return sv_detokenize(m->tokenizer, ids, n, &text, &size, &error) == 0 ? text : NULL;
}

TEST random_answers(const char *path) {
    SvModel *m;
    SchemaVocabulary *vocabulary;
    ASSERT_EQm(error.text, 0, sv_open(path, &m, &error));
    ASSERT_EQm(error.text, 0, schema_vocabulary_new(m, &vocabulary, &error));
    float *logits = malloc(m->config.vocab_size * sizeof *logits);
    SvCandidate *list = malloc(m->config.vocab_size * sizeof *list);
    int runs = m->config.vocab_size > 10000 ? 6 : 60, cut = 0;
    for (size_t i = 0; i < LENGTH(SHAPES); i++) {
        JsonDocument document, answer;
        Schema *schema;
        Guide *guide;
        ASSERT_EQ(0, json_parse(SHAPES[i], strlen(SHAPES[i]), "shape", &document, &error));
        ASSERT_EQm(error.text, 0, schema_new(document.root, &schema, &error));
        ASSERT_EQm(error.text, 0, guide_new(schema, vocabulary, &guide, &error));
        SchemaState begin = schema_begin(schema);
        int least = (int)schema_least(schema, &begin);
        ASSERT_EQ(-1, guide_begin(guide, least - 1, &error));
        ASSERTm(error.text, strstr(error.text, "an answer of this shape may take") != NULL);
        for (int run = 0; run < runs; run++) {
            int most = run % 3 == 0 ? least : run % 3 == 1 ? least + (int)(random_number() % 10) : 200;
            bool ended;
            char *text = random_answer(m, guide, most, logits, list, &ended);
            ASSERTm(error.text, text != NULL);
            ASSERTm(text, ended);
            ASSERT_EQm(error.text, 0, json_parse(text, strlen(text), text, &answer, &error));
            ASSERTm(text, valid(document.root, document.root, answer.root));
            cut += most < 200;
            json_free(&answer);
            free(text);
        }
        guide_free(guide);
        schema_free(schema);
        json_free(&document);
    }
    ASSERT_GT(cut, 0);
    free(logits);
    free(list);
    schema_vocabulary_free(vocabulary);
    sv_close(m);
    PASS();
}

SUITE(schemas) {
    RUN_TEST(texts_that_fit);
    RUN_TEST(schemas_refused);
    RUN_TEST(every_text_can_end);
    RUN_TEST(the_deepest_texts_can_end);
    RUN_TESTp(random_answers, GOLDEN "vlm.bin");
    RUN_TESTp(random_answers, GOLDEN "text.bin");
    RUN_TESTp(random_answers, "demo/demo.bin");
}

GREATEST_MAIN_DEFS();

int main(int argc, char **argv) {
    GREATEST_MAIN_BEGIN();
    RUN_SUITE(schemas);
    GREATEST_MAIN_END();
}
