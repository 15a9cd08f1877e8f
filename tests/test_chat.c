/* test_chat.c: a chat's answers are those of one prompt that holds the whole conversation, and nothing is computed
   twice for them. With Q8 and Q4 that is to the bit. Also where answers end: stop texts, the context. Run from the
   repository's root. */
#include "greatest.h"
#include "golden.h"
#include "../model.h"

#include <math.h>

#define TOLERANCE 5e-6      /* of the largest logit, as in tests/parity.py */
#define MARGIN 1e-3         /* below this two orders of adding floats may choose different tokens */
#define LENGTH(array) (sizeof(array) / sizeof(array)[0])
enum { MOST_MESSAGES = 24, MOST_TOKENS = 40 };

static const char *const FILES[] = { "vlm.bin", "vlm_q8.bin", "vlm_q4.bin", "text.bin", "text_q8.bin", "text_q4.bin" };
enum { VLM, VLM_Q8, VLM_Q4, LLAMA, LLAMA_Q8, LLAMA_Q4 };
static SvModel *models[LENGTH(FILES)];
static SvImage a, b;
static SvError error;

#define TEXT(words) { .text = words }
#define PICTURE(picture) { .image = &(picture) }
#define USER(...)                                                                                                      \
    { "user", (SvContent[]){ __VA_ARGS__ }, (int)(sizeof((SvContent[]){ __VA_ARGS__ }) / sizeof(SvContent)) }
#define SYSTEM(words) { "system", &(SvContent)TEXT(words), 1 }

static SvOptions greedy(int max_tokens) {
    SvOptions options = sv_default_options();
    options.max_tokens = max_tokens;
    options.threads = 1;
    return options;
}

/* --------------------------------------------------------------------------------------- a listener, a conversation */

/* What an answer was made of. */
typedef struct Heard {
    float *logits;                          /* [steps, vocab] */
    int steps, vocab, tiles, first_tile, of_tiles, prefilled, dropped, of_messages, activations, give_up_at, calls;
    char text[8192];
    size_t size;
} Heard;

static bool hear_progress(void *user, const char *phase, int at, int total) {
    Heard *h = user;
    if (strcmp(phase, "tile") == 0) {
        if (h->of_tiles == 0) h->first_tile = at;
        h->tiles = at, h->of_tiles = total;
    } else if (strcmp(phase, "drop") == 0) h->dropped = at, h->of_messages = total;
    else h->prefilled = total;
    return ++h->calls == h->give_up_at;
}

static bool hear_token(void *user, int32_t id, const char *text, size_t size) {
    Heard *h = user;
    (void)id;
    memcpy(h->text + h->size, text, size);
    h->text[h->size += size] = 0;
    return false;
}

static void hear_activation(void *user, const SvActivation *activation) {
    (void)activation;
    ((Heard *)user)->activations++;
}

static void hear_logits(void *user, float *logits, int vocab) {
    Heard *h = user;
    h->vocab = vocab;
    h->logits = realloc(h->logits, (size_t)++h->steps * (size_t)vocab * sizeof *logits);
    if (!h->logits) exit(EXIT_FAILURE);
    memcpy(h->logits + (size_t)(h->steps - 1) * (size_t)vocab, logits, (size_t)vocab * sizeof *logits);
}

static SvEvents listening(Heard *h) {
    free(h->logits);
    *h = (Heard){ .give_up_at = h->give_up_at };
    return (SvEvents){ .user = h, .progress = hear_progress, .token = hear_token, .logits = hear_logits };
}

/* The messages as a program would keep them beside a chat; answers are copied. */
typedef struct Talk { SvMessage list[MOST_MESSAGES]; SvContent answers[MOST_MESSAGES]; int count; } Talk;

static void say(Talk *talk, SvMessage message) { talk->list[talk->count++] = message; }

static void answered(Talk *talk, const SvAnswer *answer) {
    const char *text = answer->text + strspn(answer->text, " \t\r\n");
    char *copy = malloc(strlen(text) + 1);
    if (!copy) exit(EXIT_FAILURE);
    talk->answers[talk->count] = (SvContent){ .text = strcpy(copy, text) };
    talk->list[talk->count] = (SvMessage){ "assistant", &talk->answers[talk->count], 1 };
    talk->count++;
}

static void cut_talk(Talk *talk, int count) {
    while (talk->count > count) free((char *)talk->answers[--talk->count].text), talk->answers[talk->count].text = NULL;
}

/* The same conversation as one prompt, answered by sv_generate. */
static bool afresh(const SvModel *m, const Talk *talk, const SvOptions *options, Heard *heard, SvPrompt *prompt,
                   SvAnswer *answer) {
    SvEvents events = listening(heard);
    if (sv_prompt(m, talk->list, talk->count, options, prompt, &error) != 0) return false;
    return sv_generate(m, prompt, options, &events, answer, &error) == 0;
}

/* The same ids, text and logits; in floats as near as two orders of adding are. */
TEST same_answer(const SvModel *m, const SvAnswer *got, const Heard *by, const SvAnswer *want, const Heard *of) {
    double largest = 0, worst = 0;
    size_t vocab = m->config.vocab_size;
    int steps = by->steps < of->steps ? by->steps : of->steps, differs = 0;
    while (differs < steps && differs < (int)want->n_ids && got->ids[differs] == want->ids[differs]) differs++;
    if (differs < steps) steps = differs + 1;
    for (size_t i = 0; i < (size_t)steps * vocab; i++) {
        largest = fmax(largest, fabs(of->logits[i]));
        worst = fmax(worst, fabs((double)by->logits[i] - of->logits[i]));
    }
    ASSERT(steps > 0 && largest > 0);
    ASSERT(worst <= (sv_same_bits(m) ? 0 : TOLERANCE * largest));
    if (!sv_same_bits(m) && differs < (int)want->n_ids) {   /* undecided between two tokens */
        const float *last = of->logits + (size_t)differs * vocab;
        ASSERT(fabs((double)last[got->ids[differs]] - last[want->ids[differs]]) <= MARGIN);
        PASS();
    }
    ASSERT_EQ_FMT(of->steps, by->steps, "%d");
    ASSERT_EQ_FMT(want->n_ids, got->n_ids, "%zu");
    ASSERT_MEM_EQ(want->ids, got->ids, want->n_ids * sizeof *want->ids);
    ASSERT_STR_EQ(want->text, got->text);
    ASSERT_STR_EQ(want->text, by->text);
    ASSERT_EQ(want->stopped, got->stopped);
    PASS();
}

static SvAnswer last;
static Heard heard, expected;
static int32_t before[2048];                /* what the chat's cache holds */
static size_t n_before, n_kept, differing;  /* n_kept: how much of it the last answer needed                          */

/* Answers what the chat and the talk hold, and compares. The answer is added to the talk. */

TEST answer_and_compare(const SvModel *m, SvChat *chat, Talk *talk, const SvOptions *options) {
    SvEvents events = listening(&heard);
    SvPrompt prompt;
    SvAnswer want;
    ASSERT_EQm(error.text, 0, sv_chat_answer(chat, options, &events, &last, &error));
    ASSERT_EQ_FMT(talk->count + 1, sv_chat_keep(chat, 1000), "%d");
    ASSERTm(error.text, afresh(m, talk, options, &expected, &prompt, &want));
    CHECK_CALL(same_answer(m, &last, &heard, &want, &expected));
    ASSERT_EQ_FMT(prompt.n_ids, last.n_prompt, "%zu");

    size_t common = 0;                      /* here no picture is exchanged for another of the same shape */
    while (common < n_before && common + 1 < prompt.n_ids && before[common] == prompt.ids[common]) common++;
    ASSERT_EQ_FMT(common, last.n_kept, "%zu");
    n_kept = common;
    differing += common + 1 < n_before;
    ASSERT(prompt.n_ids + want.n_ids <= LENGTH(before));
    memcpy(before, prompt.ids, prompt.n_ids * sizeof *before);
    memcpy(before + prompt.n_ids, want.ids, want.n_ids * sizeof *before);
    n_before = prompt.n_ids + (want.n_ids == 0 ? 0 : want.stopped ? want.n_ids : want.n_ids - 1);
    answered(talk, &last);
    sv_answer_free(&last);
    sv_answer_free(&want);
    sv_prompt_free(&prompt);
    PASS();
}

/* ----------------------------------------------------------------------------------- turn after turn, as one prompt */

static const SvMessage TURNS[] = {
    USER(PICTURE(a), TEXT("What is in this picture?")), USER(TEXT("Are you sure?")),
    USER(PICTURE(b), TEXT("And here? Count to 12.")), USER(TEXT("What has changed?")),
    USER(PICTURE(a), TEXT("Look again:")), USER(TEXT("Once more.")),
};
static const SvMessage TEXT_TURNS[] = {
    USER(TEXT("Hello!")), USER(TEXT("I'm sure we've seen 300 of them.")), USER(TEXT("Are you sure?")),
    USER(TEXT("Count to 12.")), USER(TEXT("Once more.")),
};

TEST turns_as_one_prompt(int which, float temperature, float penalty) {
    const SvModel *m = models[which];
    const SvMessage *turns = which < LLAMA ? TURNS : TEXT_TURNS;
    int count = (int)(which < LLAMA ? LENGTH(TURNS) : LENGTH(TEXT_TURNS));
    SvOptions options = greedy(12);
    options.temperature = temperature;
    options.repetition_penalty = penalty;
    SvChat *chat;
    Talk talk = { .count = 0 };
    ASSERT_EQm(error.text, 0, sv_chat_new(m, 0, 1, &chat, &error));
    n_before = differing = 0;
    say(&talk, (SvMessage)SYSTEM("You answer\nin one word."));
    ASSERT_EQm(error.text, 0, sv_chat_add(chat, &talk.list[0], &options, &error));
    for (int i = 0; i < count; i++) {
        options.seed = 50 + (uint64_t)i;
        say(&talk, turns[i]);
        ASSERT_EQm(error.text, 0, sv_chat_add(chat, &turns[i], &options, &error));
        CHECK_CALL(answer_and_compare(m, chat, &talk, &options));
        ASSERT(i == 0 ? n_kept == 0 : n_kept > 30);
    }
    if (GREATEST_IS_VERBOSE()) printf("[%s: %zu answers were read as other tokens] ", FILES[which], differing);
    cut_talk(&talk, 0);
    sv_chat_free(chat);
    PASS();
}

/* Answers whose tokens are not those that their text is read as: "i" and "n", though "in" is a token, too. user: the
   tokens to say. */
static void say_these(void *user, float *logits, int vocab) {
    const int32_t *ids = *(const int32_t **)user;
    for (int i = 0; i < vocab; i++) logits[i] = i == ids[0] ? 0 : -INFINITY;
    ++*(const int32_t **)user;
}

TEST answers_of_other_tokens(int which) {
    const SvModel *m = models[which];
    int32_t *whole, *first, *second, apart[8];
    size_t n_whole, n_first, n_second;
    ASSERT_EQ(0, sv_tokenize(m->tokenizer, "in", 2, &whole, &n_whole, &error));
    ASSERT_EQ(0, sv_tokenize(m->tokenizer, "i", 1, &first, &n_first, &error));
    ASSERT_EQ(0, sv_tokenize(m->tokenizer, "n", 1, &second, &n_second, &error));
    ASSERT(n_whole == 1 && n_first == 1 && n_second == 1);
    for (int i = 0; i < 8; i++) apart[i] = i % 2 ? second[0] : first[0];

    SvOptions options = greedy(8);
    SvChat *chat;
    SvPrompt prompt;
    Talk talk = { .count = 0 };
    const int32_t *next = apart;
    SvEvents events = { .user = &next, .logits = say_these };
    ASSERT_EQ(0, sv_chat_new(m, 0, 1, &chat, &error));
    say(&talk, TEXT_TURNS[0]);
    ASSERT_EQ(0, sv_chat_add(chat, &TEXT_TURNS[0], &options, &error));
    ASSERT_EQ(0, sv_chat_answer(chat, &options, &events, &last, &error));
    ASSERT_STR_EQ("inininin", last.text);
    ASSERT_MEM_EQ(apart, last.ids, sizeof apart);
    answered(&talk, &last);
    ASSERT_EQ(0, sv_prompt(m, talk.list, 1, &options, &prompt, &error));
    n_before = prompt.n_ids + 7;
    memcpy(before, prompt.ids, prompt.n_ids * sizeof *before);
    memcpy(before + prompt.n_ids, apart, sizeof apart);
    size_t of_first = prompt.n_ids;
    sv_prompt_free(&prompt);
    sv_answer_free(&last);

    say(&talk, TEXT_TURNS[2]);
    ASSERT_EQ(0, sv_chat_add(chat, &TEXT_TURNS[2], &options, &error));
    CHECK_CALL(answer_and_compare(m, chat, &talk, &options));
    ASSERT(heard.prefilled > 0 && heard.prefilled <= (int)(n_before - of_first + 1));
    cut_talk(&talk, 0);
    sv_chat_free(chat);
    free(whole);
    free(first);
    free(second);
    PASS();
}

/* An answer of just the tokens that its text is read as, with an end token or cut off: all of it is kept. */
TEST answers_of_the_same_tokens(int which, bool end) {
    const SvModel *m = models[which];
    static SvContent tree = TEXT("A tree.");
    Talk talk = { .list = { TEXT_TURNS[0], { "assistant", &tree, 1 } }, .count = 1 };
    SvOptions options = greedy(100);
    SvPrompt first, second;
    ASSERT_EQ(0, sv_prompt(m, talk.list, 1, &options, &first, &error));
    ASSERT_EQ(0, sv_prompt(m, talk.list, 2, &options, &second, &error));
    ASSERT_MEM_EQ(first.ids, second.ids, first.n_ids * sizeof *first.ids);
    int32_t *ids = second.ids + first.n_ids;
    size_t n = 0, size;
    char *text;
    do {                                                    /* so many are the answer's */
        ASSERT_EQ(0, sv_detokenize(m->tokenizer, ids, ++n, &text, &size, &error));
        bool whole = strstr(text, tree.text) != NULL;
        free(text);
        if (whole) break;
    } while (n < 20);
    if (end) ids[n] = (int32_t)m->config.eos_token_id.id[0];
    else options.max_tokens = (int)n;

    SvChat *chat;
    const int32_t *next = ids;
    SvEvents events = { .user = &next, .logits = say_these };
    ASSERT_EQ(0, sv_chat_new(m, 0, 1, &chat, &error));
    ASSERT_EQ(0, sv_chat_add(chat, &talk.list[0], &options, &error));
    ASSERT_EQ(0, sv_chat_answer(chat, &options, &events, &last, &error));
    ASSERT(last.n_ids == n && last.stopped == end);
    memcpy(before, first.ids, first.n_ids * sizeof *before);
    memcpy(before + first.n_ids, ids, n * sizeof *before);
    n_before = first.n_ids + n - !end;
    size_t all = n_before;
    answered(&talk, &last);
    ASSERT_STR_EQ(tree.text, talk.list[1].content->text);
    sv_answer_free(&last);
    options.max_tokens = 10;
    say(&talk, TEXT_TURNS[2]);
    ASSERT_EQ(0, sv_chat_add(chat, &TEXT_TURNS[2], &options, &error));
    CHECK_CALL(answer_and_compare(m, chat, &talk, &options));
    ASSERT_EQ_FMT(all, n_kept, "%zu");
    cut_talk(&talk, 0);
    sv_chat_free(chat);
    sv_prompt_free(&first);
    sv_prompt_free(&second);
    PASS();
}

TEST undo_and_clear(int which) {
    const SvModel *m = models[which];
    SvOptions options = greedy(10);
    SvChat *chat;
    Talk talk = { .count = 0 };
    ASSERT_EQ(0, sv_chat_new(m, 0, 1, &chat, &error));
    n_before = 0;
    for (int i = 0; i < 3; i++) {
        say(&talk, TURNS[i]);
        ASSERT_EQ(0, sv_chat_add(chat, &TURNS[i], &options, &error));
        CHECK_CALL(answer_and_compare(m, chat, &talk, &options));
    }
    ASSERT_EQ(4, sv_chat_keep(chat, 4));                    /* the third question is taken back */
    cut_talk(&talk, 4);
    size_t held = n_before;
    say(&talk, TURNS[3]);
    ASSERT_EQ(0, sv_chat_add(chat, &TURNS[3], &options, &error));
    CHECK_CALL(answer_and_compare(m, chat, &talk, &options));
    ASSERT(n_kept > 40 && n_kept + 20 < held);

    ASSERT_EQ(0, sv_chat_keep(chat, 0));                    /* all of it; the first question again, answered again */
    cut_talk(&talk, 0);
    say(&talk, TURNS[0]);
    ASSERT_EQ(0, sv_chat_add(chat, &TURNS[0], &options, &error));
    CHECK_CALL(answer_and_compare(m, chat, &talk, &options));
    ASSERT_EQ(0, heard.of_tiles);
    ASSERT_EQ(1, sv_chat_keep(chat, 1));
    cut_talk(&talk, 1);
    CHECK_CALL(answer_and_compare(m, chat, &talk, &options));
    ASSERT_EQ(0, heard.prefilled);                          /* a single position, the prompt's last, tells of none */
    cut_talk(&talk, 0);
    sv_chat_free(chat);
    PASS();
}

/* -------------------------------------------------------------------------------------------------- tiles seen once */

/* A picture like a, but from this row on other pixels. */
static SvImage changed(int row) {
    SvImage image = { .width = a.width, .height = a.height };
    size_t size = 3 * (size_t)a.width * (size_t)a.height, at = 3 * (size_t)row * (size_t)a.width;
    image.rgb = malloc(size);
    if (!image.rgb) exit(EXIT_FAILURE);
    memcpy(image.rgb, a.rgb, size);
    for (size_t i = at; i < size; i++) image.rgb[i] ^= 0x55;
    return image;
}

static SvImage blank(int width, int height, int grey) {
    SvImage image = { .width = width, .height = height, .rgb = malloc(3 * (size_t)width * (size_t)height) };
    if (!image.rgb) exit(EXIT_FAILURE);
    memset(image.rgb, grey, 3 * (size_t)width * (size_t)height);
    return image;
}

/* A prompt of one picture goes to the chat and to sv_generate: the same answer; *tiles: how many went through the
   tower. */
TEST shown(const SvModel *m, SvChat *chat, const SvImage *image, int *tiles) {
    SvOptions options = greedy(5);
    SvContent contents[] = { { .image = image }, TEXT("What?") };
    Talk talk = { .list = { { "user", contents, 2 } }, .count = 1 };
    SvPrompt prompt;
    SvAnswer want;
    ASSERTm(error.text, afresh(m, &talk, &options, &expected, &prompt, &want));
    SvEvents events = listening(&heard);
    ASSERT_EQm(error.text, 0, sv_chat_prompt(chat, &prompt, &options, &events, &last, &error));
    CHECK_CALL(same_answer(m, &last, &heard, &want, &expected));
    *tiles = last.tiles;
    n_kept = last.n_kept;
    ASSERT_EQ_FMT(prompt.n_ids, last.n_prompt, "%zu");
    n_before = prompt.n_ids;
    ASSERT(heard.of_tiles == 0 ? *tiles == 0 : heard.tiles == heard.of_tiles);
    sv_answer_free(&last);
    sv_answer_free(&want);
    sv_prompt_free(&prompt);
    PASS();
}

TEST tiles_once(int which) {
    const SvModel *m = models[which];
    SvChat *chat;
    SvImage low = changed(a.height - 1), white = blank(96, 70, 255);
    SvImage split = blank(64, 32, 0);
    int tiles;
    ASSERT_EQ(0, sv_chat_new(m, 0, 1, &chat, &error));
    CHECK_CALL(shown(m, chat, &a, &tiles));                 /* two rows of two tiles, and the whole */
    ASSERT_EQ_FMT(5, tiles, "%d");
    CHECK_CALL(shown(m, chat, &a, &tiles));
    ASSERT_EQ_FMT(0, tiles, "%d");
    ASSERT_EQ_FMT(n_before - 1, n_kept, "%zu");
    CHECK_CALL(shown(m, chat, &low, &tiles));               /* the same ids; the upper two tiles are the same */
    ASSERT_EQ_FMT(3, tiles, "%d");
    ASSERT(n_kept > 2 * 4 && n_kept < 30);
    ASSERT_EQ_FMT(3, heard.of_tiles, "%d");                 /* those whose places in the prompt were not kept */
    CHECK_CALL(shown(m, chat, &a, &tiles));
    ASSERT_EQ_FMT(0, tiles, "%d");
    CHECK_CALL(shown(m, chat, &white, &tiles));             /* all tiles are one */
    ASSERT_EQ_FMT(1, tiles, "%d");
    ASSERT_EQ_FMT(heard.of_tiles, heard.first_tile, "%d");
    CHECK_CALL(shown(m, chat, &split, &tiles));             /* two tiles and the whole, black: another colour */
    ASSERT_EQ_FMT(1, tiles, "%d");
    ASSERT_EQ_FMT(1, expected.of_tiles - expected.first_tile + 1, "%d");    /* sv_generate did not compute them twice */
    CHECK_CALL(shown(m, chat, &b, &tiles));
    ASSERT(tiles > 1);
    CHECK_CALL(shown(m, chat, &white, &tiles));
    ASSERT_EQ_FMT(0, tiles, "%d");
    sv_chat_free(chat);
    sv_image_free(&low);
    sv_image_free(&white);
    sv_image_free(&split);
    PASS();
}

/* As many tiles are kept as the context has room for; those that were not used for longest go. */
TEST tiles_forgotten(int which) {
    const SvModel *m = models[which];
    int most = (int)m->config.max_position_embeddings / sv_image_tokens(&m->config), tiles;
    SvChat *chat;
    ASSERT_EQ(0, sv_chat_new(m, 0, 1, &chat, &error));
    for (int i = 0; i <= most; i++) {                       /* a tile each, the first one every now and then */
        SvImage image = blank(96, 96, i % 256);
        image.rgb[0] = (uint8_t)(i / 256 + 1);
        CHECK_CALL(shown(m, chat, &image, &tiles));
        ASSERT(tiles >= 1);
        sv_image_free(&image);
        image = blank(96, 96, 0);
        image.rgb[0] = 1;
        if (i % 20 == 0) CHECK_CALL(shown(m, chat, &image, &tiles));
        sv_image_free(&image);
    }
    const struct { int grey, tiles; } then[] = { { most, 0 }, { 0, 0 }, { 1, 1 } };
    for (size_t i = 0; i < LENGTH(then); i++) {
        SvImage image = blank(96, 96, then[i].grey);
        image.rgb[0] = 1;
        CHECK_CALL(shown(m, chat, &image, &tiles));
        ASSERT(then[i].tiles ? tiles > 0 : tiles == 0);
        sv_image_free(&image);
    }
    sv_chat_free(chat);
    PASS();
}

/* Who listens to activations hears of all of them, each time. */
TEST activations_of_everything(int which) {
    const SvModel *m = models[which];
    SvOptions options = greedy(1);
    SvImage white = blank(64, 64, 255);
    SvMessage message = USER(PICTURE(white), PICTURE(a), TEXT("What?"));
    SvPrompt prompt;
    SvChat *chat;
    int told[3] = { 0 };
    ASSERT_EQ(0, sv_chat_new(m, 0, 1, &chat, &error));
    ASSERT_EQ(0, sv_prompt(m, &message, 1, &options, &prompt, &error));
    for (int i = 0; i < 3; i++) {
        SvEvents events = listening(&heard);
        events.activation = hear_activation;
        ASSERT_EQ(0, i == 0 ? sv_generate(m, &prompt, &options, &events, &last, &error)
                            : sv_chat_prompt(chat, &prompt, &options, &events, &last, &error));
        told[i] = heard.activations;
        ASSERT_EQ_FMT(prompt.n_tiles, last.tiles, "%d");
        ASSERT_EQ_FMT((size_t)0, last.n_kept, "%zu");
        sv_answer_free(&last);
    }
    ASSERT(told[0] > 0 && told[0] == told[1] && told[1] == told[2]);
    sv_prompt_free(&prompt);
    sv_chat_free(chat);
    sv_image_free(&white);
    PASS();
}

/* A picture that was cut beforehand is the picture. */
TEST cut_pictures(void) {
    const SvModel *m = models[VLM_Q8];
    SvOptions options = greedy(5);
    SvTiles tiles;
    SvPrompt prompts[2];
    ASSERT_EQ(0, sv_image_split(&a, 64, 32, true, &tiles, &error));
    SvContent contents[2][2] = { { PICTURE(a), TEXT("What?") }, { { .tiles = &tiles }, TEXT("What?") } };
    for (int i = 0; i < 2; i++) {
        SvMessage message = { "user", contents[i], 2 };
        ASSERT_EQm(error.text, 0, sv_prompt(m, &message, 1, &options, &prompts[i], &error));
    }
    ASSERT_STR_EQ(prompts[0].text, prompts[1].text);
    ASSERT_EQ(prompts[0].n_tiles, prompts[1].n_tiles);
    ASSERT_MEM_EQ(prompts[0].tiles, prompts[1].tiles, (size_t)prompts[0].n_tiles * 3 * 32 * 32);
    sv_prompt_free(&prompts[0]);
    sv_prompt_free(&prompts[1]);
    tiles.side = 31;
    ASSERT_EQ(-1, sv_prompt(m, &(SvMessage){ "user", contents[1], 2 }, 1, &options, &prompts[1], &error));
    ASSERTm(error.text, strstr(error.text, "it is not cut into tiles of 32 x 32 pixels"));
    sv_tiles_free(&tiles);
    PASS();
}

/* ----------------------------------------------------------------------------------------------- what may interrupt */

/* Given up in the tower or in the prompt: the chat goes on as if it had not been asked. */
TEST given_up(int which) {
    const SvModel *m = models[which];
    SvOptions options = greedy(6);
    SvChat *chat;
    Talk talk = { .count = 0 };
    ASSERT_EQ(0, sv_chat_new(m, 0, 1, &chat, &error));
    n_before = 0;
    say(&talk, TURNS[0]);
    ASSERT_EQ(0, sv_chat_add(chat, &TURNS[0], &options, &error));
    CHECK_CALL(answer_and_compare(m, chat, &talk, &options));
    say(&talk, TURNS[2]);
    ASSERT_EQ(0, sv_chat_add(chat, &TURNS[2], &options, &error));
    for (int at = 1; at <= 2; at++) {
        heard.give_up_at = at;
        SvEvents events = listening(&heard);
        ASSERT_EQ(-1, sv_chat_answer(chat, &options, &events, &last, &error));
        ASSERTm(error.text, strstr(error.text, "stopped"));
        ASSERT_EQ(3, sv_chat_keep(chat, 3));
        heard.give_up_at = 0;
    }
    SvPrompt prompt;                        /* the second time, it had gone back to where the two prompts part */
    ASSERT_EQ(0, sv_prompt(m, talk.list, talk.count, &options, &prompt, &error));
    size_t common = 0;
    while (common < n_before && before[common] == prompt.ids[common]) common++;
    n_before = common;
    sv_prompt_free(&prompt);
    CHECK_CALL(answer_and_compare(m, chat, &talk, &options));
    ASSERT_EQ(0, heard.of_tiles);
    cut_talk(&talk, 0);
    sv_chat_free(chat);
    PASS();
}

/* Chunks of a prompt that went through stay. */
TEST given_up_in_a_long_prompt(int which) {
    const SvModel *m = models[which];
    enum { N = 600 };
    int32_t ids[N];
    for (int i = 0; i < N; i++) ids[i] = 10 + i % 100;
    SvPrompt prompt = { .ids = ids, .n_ids = N };
    SvOptions options = greedy(4);
    SvChat *chat;
    SvAnswer want;
    ASSERT_EQ(0, sv_chat_new(m, 0, 1, &chat, &error));
    heard.give_up_at = 2;
    SvEvents events = listening(&heard);
    ASSERT_EQ(-1, sv_chat_prompt(chat, &prompt, &options, &events, &last, &error));
    heard.give_up_at = 0;
    events = listening(&heard);
    ASSERT_EQ(0, sv_chat_prompt(chat, &prompt, &options, &events, &last, &error));
    ASSERT_EQ_FMT((size_t)512, last.n_kept, "%zu");
    events = listening(&expected);
    ASSERT_EQ(0, sv_generate(m, &prompt, &options, &events, &want, &error));
    CHECK_CALL(same_answer(m, &last, &heard, &want, &expected));
    sv_answer_free(&last);
    sv_answer_free(&want);
    sv_chat_free(chat);
    PASS();
}

/* --------------------------------------------------------------------------------------------- a context that fills */

/* Whole turns go, the oldest first; the system message stays, and what is answered. */
TEST oldest_turns_are_dropped(int which) {
    const SvModel *m = models[which];
    enum { CAPACITY = 160 };
    SvOptions options = greedy(8);
    SvChat *chat;
    Talk talk = { .count = 0 };
    int times = 0;
    ASSERT_EQ(0, sv_chat_new(m, CAPACITY, 1, &chat, &error));
    say(&talk, (SvMessage)SYSTEM("Be brief."));
    ASSERT_EQ(0, sv_chat_add(chat, &talk.list[0], &options, &error));
    for (int i = 0; i < 9; i++) {
        SvEvents events = listening(&heard);
        SvPrompt prompt;
        SvAnswer want;
        say(&talk, TURNS[i % 4]);
        ASSERT_EQ(0, sv_chat_add(chat, &TURNS[i % 4], &options, &error));
        ASSERT_EQm(error.text, 0, sv_chat_answer(chat, &options, &events, &last, &error));
        ASSERT_EQ_FMT(heard.dropped, last.dropped, "%d");
        ASSERT(last.dropped % 2 == 0);                      /* a question and its answer */
        if (last.dropped) {
            ASSERT_EQ_FMT(talk.count, heard.of_messages, "%d");
            ASSERT(last.n_prompt <= CAPACITY - CAPACITY / 4);
            times++;
            for (int k = 1; k <= last.dropped; k++) free((char *)talk.answers[k].text);
            talk.count -= last.dropped;
            for (int k = 1; k < talk.count; k++) {
                talk.list[k] = talk.list[k + last.dropped];
                talk.answers[k] = talk.answers[k + last.dropped];
                if (strcmp(talk.list[k].role, "assistant") == 0) talk.list[k].content = &talk.answers[k];
            }
            for (int k = talk.count; k < talk.count + last.dropped; k++) talk.answers[k].text = NULL;
        }
        ASSERT_EQ_FMT(talk.count + 1, sv_chat_keep(chat, 1000), "%d");
        ASSERT_STR_EQ("system", talk.list[0].role);
        ASSERT(afresh(m, &talk, &options, &expected, &prompt, &want));
        CHECK_CALL(same_answer(m, &last, &heard, &want, &expected));
        ASSERT(last.n_prompt + 8 <= CAPACITY && last.n_ids == 8);
        answered(&talk, &last);
        sv_answer_free(&last);
        sv_answer_free(&want);
        sv_prompt_free(&prompt);
    }
    ASSERT(times >= 2);
    cut_talk(&talk, 0);

    char words[1200] = "";                                  /* a question that is too long alone */
    for (int i = 0; i < 170; i++) strcat(words, "7 ");
    SvContent content = { .text = words };
    ASSERT_EQ(1, sv_chat_keep(chat, 1));
    ASSERT_EQ(0, sv_chat_add(chat, &(SvMessage){ "user", &content, 1 }, &options, &error));
    ASSERT_EQ(-1, sv_chat_answer(chat, &options, NULL, &last, &error));
    ASSERTm(error.text, strstr(error.text, "the chat has room for 160"));
    ASSERT_EQ(2, sv_chat_keep(chat, 1000));
    ASSERT_EQ(1, sv_chat_keep(chat, 1));
    ASSERT_EQ(0, sv_chat_add(chat, &TURNS[1], &options, &error));
    ASSERT_EQ(0, sv_chat_answer(chat, &options, NULL, &last, &error));
    sv_answer_free(&last);
    sv_chat_free(chat);
    PASS();
}

TEST capacity_ends_the_answer(int which) {
    int32_t ids[20];
    for (int i = 0; i < 20; i++) ids[i] = 10 + i;
    SvPrompt prompt = { .ids = ids, .n_ids = 20 };
    SvOptions options = greedy(1000);
    SvChat *chat;
    ASSERT_EQ(0, sv_chat_new(models[which], 23, 1, &chat, &error));
    for (int i = 0; i < 2; i++) {
        ASSERT_EQ(0, sv_chat_prompt(chat, &prompt, &options, NULL, &last, &error));
        ASSERT(last.n_ids == 3 && !last.stopped && last.n_kept == (i ? 19u : 0u));
        sv_answer_free(&last);
    }
    sv_chat_free(chat);
    PASS();
}

/* -------------------------------------------------------------------------------------- image tokens in an answer */

typedef struct Forced { const int32_t *ids; int at; } Forced;
static void force(void *user, float *logits, int vocab) {
    Forced *forced = user;
    for (int i = 0; i < vocab; i++) logits[i] = i == forced->ids[forced->at] ? 0 : -INFINITY;
    forced->at++;
}

/* An answer has image tokens just where the picture's are in the prompts before and behind it. They are of no tile. */
TEST image_tokens_in_an_answer(int which) {
    const SvModel *m = models[which];
    SvOptions options = greedy(5);
    SvPrompt prompt;
    SvAnswer want;
    SvChat *chat;
    size_t n = 0;
    ASSERT_EQ(0, sv_prompt(m, TURNS, 1, &options, &prompt, &error));
    ASSERT_EQ(0, sv_chat_new(m, 0, 1, &chat, &error));
    ASSERT_EQ(0, sv_chat_prompt(chat, &prompt, &options, NULL, &want, &error));
    while ((uint32_t)prompt.ids[n] != m->config.image_token_id) n++;
    SvPrompt begin = { .ids = prompt.ids, .n_ids = n };
    Forced forced = { prompt.ids + n, 0 };
    SvEvents events = { .user = &forced, .logits = force };
    options.max_tokens = 3;
    ASSERT_EQm(error.text, 0, sv_chat_prompt(chat, &begin, &options, &events, &last, &error));
    ASSERT_EQ_FMT((size_t)3, last.n_ids, "%zu");
    ASSERT_MEM_EQ(&prompt.ids[n], last.ids, 3 * sizeof *last.ids);
    sv_answer_free(&last);
    options.max_tokens = 5;
    ASSERT_EQ(0, sv_chat_prompt(chat, &prompt, &options, NULL, &last, &error));
    ASSERT_EQ_FMT(n, last.n_kept, "%zu");
    ASSERT_EQ(want.n_ids, last.n_ids);
    ASSERT_MEM_EQ(want.ids, last.ids, last.n_ids * sizeof *last.ids);
    sv_answer_free(&last);
    sv_answer_free(&want);
    sv_chat_free(chat);
    sv_prompt_free(&prompt);
    PASS();
}

/* ------------------------------------------------------------------------------------------------------- stop texts */

/* Every text of up to six characters that is somewhere in the answer (on slow machines, at every fifth place), and one
   that is not, beside it. */
TEST stop_texts(int which, int n_more) {
    const SvModel *m = models[which];
    SvOptions options = greedy(MOST_TOKENS);
    SvPrompt prompt;
    SvAnswer whole;
    ASSERT_EQ(0, sv_prompt(m, which < LLAMA ? TURNS : TEXT_TURNS, 1, &options, &prompt, &error));
    ASSERT_EQ(0, sv_generate(m, &prompt, &options, NULL, &whole, &error));
    SvChat *chat;
    ASSERT_EQ(0, sv_chat_new(m, 0, 1, &chat, &error));
    for (size_t at = 0; at < whole.size; at += slow() ? 5 : 1) {
        for (size_t length = 1; length <= 6 && at + length <= whole.size; length++) {
            char stop[8] = "", longer[16];
            if ((whole.text[at] & 0xc0) == 0x80 || (whole.text[at + length] & 0xc0) == 0x80) continue;
            memcpy(stop, whole.text + at, length);
            sprintf(longer, "%s\x01", stop);
            const char *const stops[] = { stop, longer, "", "never" };
            options.stop = stops + (n_more < 0);            /* without it: then the answer is whole */
            options.n_stop = n_more < 0 ? 3 : 1 + n_more;
            const char *first = n_more < 0 ? NULL : strstr(whole.text, stop);
            size_t size = first ? (size_t)(first - whole.text) : whole.size;
            SvEvents events = listening(&heard);
            ASSERT_EQ(0, sv_chat_prompt(chat, &prompt, &options, &events, &last, &error));
            ASSERT_EQ_FMT(size, last.size, "%zu");
            ASSERT_MEM_EQ(whole.text, last.text, size);
            ASSERT_EQ(0, last.text[size]);
            ASSERT_STR_EQ(last.text, heard.text);           /* what was streamed is that and no more */
            ASSERT_EQ(first != NULL, last.stopped);
            ASSERT(last.n_ids <= whole.n_ids);
            ASSERT_MEM_EQ(whole.ids, last.ids, last.n_ids * sizeof *last.ids);
            sv_answer_free(&last);
        }
    }
    sv_chat_free(chat);
    sv_answer_free(&whole);
    sv_prompt_free(&prompt);
    PASS();
}

/* -------------------------------------------------------------------------------------------------- what is refused */

#define ASSERT_SAYS(words) ASSERTm(error.text, strstr(error.text, words) != NULL)

TEST refusals(void) {
    SvOptions options = greedy(3);
    SvChat *chat;
    SvTiles tiles = { .rows = 0, .cols = 0, .count = 1, .side = 32 };
    ASSERT_EQ(-1, sv_chat_new(models[VLM], 641, 1, &chat, &error));
    ASSERT_SAYS("641 positions asked for");
    ASSERT(chat == NULL);
    ASSERT_EQ(-1, sv_chat_new(models[VLM], -1, 1, &chat, &error));
    sv_chat_free(NULL);

    ASSERT_EQ(0, sv_chat_new(models[LLAMA], 0, 1, &chat, &error));
    ASSERT_EQ(-1, sv_chat_add(chat, &TURNS[0], &options, &error));
    ASSERT_SAYS("text.bin: a text-only model, it takes no pictures");
    ASSERT_EQ(-1, sv_chat_answer(chat, &options, NULL, &last, &error));
    ASSERT_SAYS("the prompt is empty");
    uint8_t byte = 0;
    SvPrompt prompt = { .ids = (int32_t[]){ 5 }, .n_ids = 1, .n_tiles = 1, .tiles = &byte };
    ASSERT_EQ(-1, sv_chat_prompt(chat, &prompt, &options, NULL, &last, &error));
    ASSERT_SAYS("text.bin: a text-only model, it takes no pictures");
    sv_chat_free(chat);

    ASSERT_EQ(0, sv_chat_new(models[VLM], 0, 1, &chat, &error));
    const SvContent wrong[] = { { .name = "none" }, { .tiles = &tiles } };
    for (size_t i = 0; i < LENGTH(wrong); i++) {
        ASSERT_EQ(-1, sv_chat_add(chat, &(SvMessage){ "user", &wrong[i], 1 }, &options, &error));
        ASSERT_SAYS("a content is either a text, a picture or a video");
    }
    ASSERT_EQ(0, sv_chat_add(chat, &(SvMessage){ "tool", &(SvContent)TEXT("x"), 1 }, &options, &error));
    ASSERT_EQ(-1, sv_chat_answer(chat, &options, NULL, &last, &error));
    ASSERT_SAYS("the role is tool");
    ASSERT_EQ(0, sv_chat_keep(chat, 0));
    SvContent shape = { .tiles = &tiles };
    ASSERT_EQ(0, sv_prompt(models[VLM], &(SvMessage){ "user", &shape, 1 }, 1, &options, &prompt, &error));
    ASSERT_EQ(-1, sv_generate(models[VLM], &prompt, &options, NULL, &last, &error));
    ASSERT_SAYS("the prompt's tiles have no pixels");
    sv_prompt_free(&prompt);
    sv_chat_free(chat);
    PASS();
}

GREATEST_MAIN_DEFS();

int main(int argc, char **argv) {
    GREATEST_MAIN_BEGIN();
    if (sv_image_read(GOLDEN "a.png", &a, &error) != 0 || sv_image_read(GOLDEN "b.ppm", &b, &error) != 0) {
        fprintf(stderr, "%s\n", error.text);
        return EXIT_FAILURE;
    }
    for (size_t i = 0; i < LENGTH(FILES); i++) {
        char path[128];
        snprintf(path, sizeof path, "%s%s", GOLDEN, FILES[i]);
        if (sv_open(path, &models[i], &error) != 0) {
            fprintf(stderr, "%s\n", error.text);
            return EXIT_FAILURE;
        }
    }
    for (int i = 0; i < (int)LENGTH(FILES); i++) {
        RUN_TESTp(turns_as_one_prompt, i, 0, 1);
        RUN_TESTp(turns_as_one_prompt, i, 0.9f, 1.2f);
    }
    for (int i = LLAMA; i <= LLAMA_Q4; i++) {
        RUN_TEST1(answers_of_other_tokens, i);
        RUN_TESTp(answers_of_the_same_tokens, i, true);
        RUN_TESTp(answers_of_the_same_tokens, i, false);
    }
    for (int i = VLM; i <= VLM_Q4; i++) {
        RUN_TEST1(undo_and_clear, i);
        RUN_TEST1(tiles_once, i);
        RUN_TEST1(given_up, i);
        RUN_TEST1(given_up_in_a_long_prompt, i);
        RUN_TEST1(oldest_turns_are_dropped, i);
    }
    RUN_TEST1(tiles_forgotten, VLM_Q8);
    RUN_TEST1(activations_of_everything, VLM_Q8);
    RUN_TEST(cut_pictures);
    RUN_TEST1(capacity_ends_the_answer, VLM_Q8);
    RUN_TEST1(image_tokens_in_an_answer, VLM_Q8);
    for (int more = -1; more <= 3; more += 2) {
        RUN_TESTp(stop_texts, VLM_Q8, more);
        RUN_TESTp(stop_texts, LLAMA_Q8, more);
    }
    RUN_TEST(refusals);
    free(heard.logits);
    free(expected.logits);
    sv_image_free(&a);
    sv_image_free(&b);
    for (size_t i = 0; i < LENGTH(FILES); i++) sv_close(models[i]);
    GREATEST_MAIN_END();
}
