/* test_conversation.c: cli/conversation.c: the ids that a conversation in JSON gives are those that transformers gives
   for the same messages (tests/golden_model.py), the same of {image} in a prompt; and what is refused. */
#include "../cli/cli.h"
#include "golden.h"
#include "greatest.h"

#define LENGTH(array) (sizeof(array) / sizeof *(array))

static SvModel *vlm, *llama;
static SvError error;

static bool has(const char *words) { return strstr(error.text, words) != NULL; }
#define ASSERT_SAYS(words) ASSERTm(error.text, has(words))

#define CONTENT_TEXT(words) "{\"type\": \"text\", \"text\": \"" words "\"}"
#define CONTENT_IMAGE(path) "{\"type\": \"image\", \"path\": \"" path "\"}"
#define BARE "{\"type\": \"image\"}"
#define USER(content) "{\"role\": \"user\", \"content\": " content "}"

static const struct Case { SvModel **model; const char *golden, *name, *json, *given; bool no_split; int longest_edge; }
CASES[] = {
    { &vlm, "vlm", "question",
      "[" USER("[" CONTENT_IMAGE("a.png") ", " CONTENT_TEXT("What is in this picture?") "]") "]", NULL, false, 0 },
    { &vlm, "vlm", "question", "[" USER("[" BARE ", " CONTENT_TEXT("What is in this picture?") "]") "]",
      GOLDEN "a.png", false, 0 },
    { &vlm, "vlm", "two_pictures",
      "[{\"role\": \"system\", \"content\": [" CONTENT_TEXT("You answer\\nin one word.") "]}, "
      USER("[" CONTENT_IMAGE("a.png") "," CONTENT_IMAGE("b.ppm") "," CONTENT_TEXT("What has changed?") "]") "]",
      NULL, false, 0 },
    { &vlm, "vlm", "two_pictures",
      "[{\"content\": \"You answer\\nin one word.\", \"role\": \"system\"}, "
      USER("[" CONTENT_IMAGE("../model/a.png") "," BARE "," CONTENT_TEXT("What has changed?") "]") "]",
      GOLDEN "b.ppm", false, 0 },
    { &vlm, "vlm", "no_split", "[" USER("[" CONTENT_IMAGE("b.ppm") ", " CONTENT_TEXT("And the whole?") "]") "]",
      NULL, true, 0 },
    { &vlm, "vlm", "longest_edge", "[" USER("[" CONTENT_IMAGE("a.png") ", " CONTENT_TEXT("Count to 12.") "]") "]",
      NULL, false, 96 },
    { &vlm, "vlm", "no_picture",
      "[" USER("\"O\\u00f9 est la biblioth\xc3\xa8que? \\u4f60\\u597d \\ud83d\\ude42\"") "]", NULL, false, 0 },
    { &vlm, "vlm", "conversation",
      "[" USER("[" CONTENT_TEXT("Look:") "," CONTENT_IMAGE("a.png") "," CONTENT_TEXT("What is it?") "]") ", "
      "{\"role\": \"assistant\", \"content\": [" CONTENT_TEXT("A tree.") "]}, "
      USER("[" CONTENT_IMAGE("b.ppm") "," CONTENT_TEXT("And this?") "," CONTENT_IMAGE("a.png") "]") ", "
      "{\"role\": \"assistant\", \"content\": \"Two dogs,\\n and a chair.\"}, " USER("\"Are you sure?\"") "]",
      NULL, false, 0 },
    { &llama, "text", "system", "[{\"role\": \"system\", \"content\": \"You answer\\nin one word.\"}, "
      USER("\"I'm sure we've seen 300 of them.\"") "]", NULL, false, 0 },
    { &llama, "text", "conversation", "[" USER("\"Hello!\"") ", {\"role\": \"assistant\", \"content\": \"A tree.\"}, "
      USER("\"Are you sure?\"") "]", NULL, false, 0 },
};

static SvOptions options_of(const struct Case *c) {
    SvOptions options = sv_default_options();
    options.no_split = c->no_split;
    options.longest_edge = c->longest_edge;
    return options;
}

TEST ids_as_transformers(const struct Case *c) {
    char file[64];
    JsonDocument document;
    Conversation talk;
    SvPrompt prompt;
    SvOptions options = options_of(c);
    snprintf(file, sizeof file, GOLDEN "%s.golden", c->golden);
    Golden ids = golden(file, "%s/ids", c->name);
    ASSERT_EQm(error.text, 0, json_parse(c->json, strlen(c->json), "case", &document, &error));
    ASSERT_EQm(error.text, 0, conversation_read(document.root, GOLDEN, &c->given, c->given != NULL, NULL, &talk, &error));
    ASSERT_EQm(error.text, 0, sv_prompt(*c->model, talk.messages, talk.count, &options, &prompt, &error));
    ASSERT_EQ_FMT(ids.count, prompt.n_ids, "%zu");
    ASSERT_MEM_EQ(ids.data.i, prompt.ids, ids.count * sizeof *prompt.ids);
    sv_prompt_free(&prompt);
    conversation_free(&talk);
    json_free(&document);
    free(ids.data.any);
    PASS();
}

/* {image} in a prompt is the same as the contents in that order. */
TEST places_of_pictures(void) {
    static const struct { const char *prompt, *json; } cases[] = {
        { "What is in this picture?", "[" USER("[" CONTENT_IMAGE("a.png") "," CONTENT_IMAGE("b.ppm") ","
                                               CONTENT_TEXT("What is in this picture?") "]") "]" },
        { "Look: {image} and {image}.",
          "[" USER("[" CONTENT_TEXT("Look: ") "," CONTENT_IMAGE("a.png") "," CONTENT_TEXT(" and ") ","
                   CONTENT_IMAGE("b.ppm") "," CONTENT_TEXT(".") "]") "]" },
        { "{image}{image}", "[" USER("[" CONTENT_IMAGE("a.png") "," CONTENT_IMAGE("b.ppm") "]") "]" },
        { "{image} x {image}", "[" USER("[" CONTENT_IMAGE("a.png") "," CONTENT_TEXT(" x ") "," CONTENT_IMAGE("b.ppm")
                                        "]") "]" },
    };
    const char *const paths[] = { GOLDEN "a.png", GOLDEN "b.ppm" };
    const SvOptions options = sv_default_options();
    for (size_t i = 0; i < LENGTH(cases); i++) {
        JsonDocument document;
        Conversation talk, marked;
        SvPrompt expected, prompt;
        ASSERT_EQ(0, json_parse(cases[i].json, strlen(cases[i].json), "case", &document, &error));
        ASSERT_EQm(error.text, 0, conversation_read(document.root, GOLDEN, NULL, 0, NULL, &talk, &error));
        ASSERT_EQm(error.text, 0, conversation_ask(NULL, cases[i].prompt, paths, 2, false, NULL, &marked, &error));
        ASSERT_EQm(error.text, 0, sv_prompt(vlm, talk.messages, talk.count, &options, &expected, &error));
        ASSERT_EQm(error.text, 0, sv_prompt(vlm, marked.messages, marked.count, &options, &prompt, &error));
        ASSERT_STR_EQ(expected.text, prompt.text);
        ASSERT_EQ(expected.n_tiles, prompt.n_tiles);
        ASSERT_MEM_EQ(expected.tiles, prompt.tiles, (size_t)prompt.n_tiles * 32 * 32 * 3);
        sv_prompt_free(&expected);
        sv_prompt_free(&prompt);
        conversation_free(&talk);
        conversation_free(&marked);
        json_free(&document);
    }
    static const char *const wrong[] = { "{image}", "{image} {image} {image}" };
    for (size_t i = 0; i < LENGTH(wrong); i++) {
        Conversation talk;
        ASSERT_EQ(-1, conversation_ask("s", wrong[i], paths, 2, false, NULL, &talk, &error));
        ASSERT_SAYS("but there are 2 pictures");
        ASSERT_EQ(0, conversation_ask(NULL, wrong[i], paths, 2, true, NULL, &talk, &error));
        conversation_free(&talk);
    }
    PASS();
}

/* A picture within the JSON: base64, with line ends, with and without its padding. */
TEST pictures_in_base64(void) {
    static const char *const good[] = { "UDUKMSAxCjI1NQoq", "UDUK\\nMSAxCjI1\\nNQoq\\n", "UDUKMSAxCjI1NQoqKg==",
                                        "UDUKMSAxCjI1NQoqKg" };
    static const struct { const char *base64, *words; } bad[] = {
        { "UDUKMSAxCjI1NQo-", "message 1, content 1: \"base64\" is not base64" }, { "UDUKM", "is not base64" },
        { "UDUK=SAx", "is not base64" }, { "UD\\u0000U", "is not base64" }, { "", "message 1, content 1: " },
        { "UDUKMSAx", "message 1, content 1: " },
    };
    char json[200];
    JsonDocument document;
    Conversation talk;
    for (size_t i = 0; i < LENGTH(good) + LENGTH(bad); i++) {
        bool fine = i < LENGTH(good);
        snprintf(json, sizeof json, "[" USER("[{\"type\": \"image\", \"base64\": \"%s\"}]") "]",
                 fine ? good[i] : bad[i - LENGTH(good)].base64);
        ASSERT_EQm(error.text, 0, json_parse(json, strlen(json), "x", &document, &error));
        ASSERT_EQm(error.text, -!fine, conversation_read(document.root, "", NULL, 0, NULL, &talk, &error));
        if (fine) ASSERT_EQ(42, talk.images[0].rgb[0]);
        else ASSERT_SAYS(bad[i - LENGTH(good)].words);
        conversation_free(&talk);
        json_free(&document);
    }
    PASS();
}

static const struct { const char *json, *words; } BAD[] = {
    { "{}", "the messages are an object, but must be an array" },
    { "[3]", "message 1: a number, but must be an object" },
    { "[" USER("\"x\"") ", {\"content\": \"x\"}]", "message 2: needs a \"role\", a string" },
    { "[{\"role\": 1, \"content\": \"x\"}]", "message 1: needs a \"role\", a string" },
    { "[{\"role\": \"user\"}]", "message 1: needs a \"content\"" },
    { "[" USER("null") "]", "message 1: needs a \"content\"" },
    { "[{\"role\": \"user\", \"content\": \"x\", \"name\": \"y\"}]", "message 1: \"name\": no such key" },
    { "[" USER("[\"x\"]") "]", "message 1, content 1: a string, but must be an object" },
    { "[" USER("[" CONTENT_TEXT("x") ", {\"text\": \"x\"}]") "]", "message 1, content 2: needs a \"type\"" },
    { "[" USER("[{\"type\": \"audio\"}]") "]", "content 1: the type is \"audio\", but must be text, image or video" },
    { "[" USER("[{\"type\": \"text\"}]") "]", "content 1: needs a \"text\"" },
    { "[" USER("[{\"type\": \"text\", \"text\": 5}]") "]", "content 1: a number, but must be a string" },
    { "[" USER("[" CONTENT_TEXT("a\\u0000b") "]") "]", "content 1: a zero byte in the text" },
    { "[" USER("\"a\\u0000b\"") "]", "message 1: a zero byte in the text" },
    { "[" USER("[{\"type\": \"text\", \"text\": \"x\", \"path\": \"y\"}]") "]", "content 1: \"path\": no such key" },
    { "[" USER("[{\"type\": \"image\", \"url\": \"y\"}]") "]", "content 1: \"url\": no such key" },
    { "[" USER("[{\"type\": \"image\", \"path\": \"a.png\", \"base64\": \"y\"}]") "]", "one of the two" },
    { "[" USER("[{\"type\": \"image\", \"base64\": 5}]") "]", "\"base64\" is a number" },
    { "[" USER("[{\"type\": \"image\", \"path\": [1]}]") "]", "an array, but must be a string" },
    { "[" USER("[" BARE "]") "]", "content 1: needs a \"path\"" },
    { "[" USER("[" CONTENT_IMAGE("none.png") "]") "]", GOLDEN "none.png: cannot be opened" },
    { "[" USER("[" CONTENT_IMAGE("-") "]") "]", GOLDEN "-: cannot be opened" },
    { "[" USER("[" CONTENT_IMAGE("/none.png") "]") "]", "/none.png: cannot be opened" },
};

TEST bad_conversations(void) {
    JsonDocument document;
    Conversation talk;
    for (size_t i = 0; i < LENGTH(BAD); i++) {
        ASSERT_EQm(error.text, 0, json_parse(BAD[i].json, strlen(BAD[i].json), "x", &document, &error));
        ASSERT_EQm(BAD[i].json, -1, conversation_read(document.root, GOLDEN, NULL, 0, NULL, &talk, &error));
        ASSERT_SAYS(BAD[i].words);
        conversation_free(&talk);
        json_free(&document);
    }
    const char *const given[] = { GOLDEN "a.png", GOLDEN "b.ppm" };
    static const char one[] = "[" USER("[" BARE "]") "]";
    ASSERT_EQ(0, json_parse(one, strlen(one), "x", &document, &error));
    ASSERT_EQ(-1, conversation_read(document.root, "", given, 2, NULL, &talk, &error));
    ASSERT_SAYS("b.ppm: no {\"type\": \"image\"} without a path is left for this picture");
    json_free(&document);
    PASS();
}

SUITE(conversations) {
    for (size_t i = 0; i < LENGTH(CASES); i++) RUN_TESTp(ids_as_transformers, &CASES[i]);
    RUN_TEST(places_of_pictures);
    RUN_TEST(pictures_in_base64);
    RUN_TEST(bad_conversations);
}

GREATEST_MAIN_DEFS();

int main(int argc, char **argv) {
    GREATEST_MAIN_BEGIN();
    if (sv_open(GOLDEN "vlm.bin", &vlm, &error) != 0 || sv_open(GOLDEN "text.bin", &llama, &error) != 0) {
        fprintf(stderr, "%s\n", error.text);
        return EXIT_FAILURE;
    }
    RUN_SUITE(conversations);
    sv_close(vlm);
    sv_close(llama);
    GREATEST_MAIN_END();
}
