/* test_video.c: video.c and a video's prompt against the reference, through the files that golden_video.py wrote and
   describes. */
#include "../model.h"
#include "greatest.h"
#undef GOLDEN
#include "golden.h"

#define VIDEO "tests/golden/video/"

static SvModel *demo;                       /* demo/demo.bin, with the settings of demo/hf */
static SvError error;

/* Calls each(line) for every line of a file; how many gave false, or -1 without a line. */
static int each_line(const char *path, bool (*each)(const char *line)) {
    char line[1024];
    int lines = 0, wrong = 0;
    FILE *file = fopen(path, "r");
    while (file && fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        lines++;
        if (each(line)) continue;
        printf("\n%s: %s\n", path, line);
        wrong++;
    }
    if (file) fclose(file);
    return lines ? wrong : -1;
}

static uint32_t crc_numbers(const int64_t *number, int count) {
    uint32_t crc = 0;
    for (int i = 0; i < count; i++) {
        char line[32];
        int size = snprintf(line, sizeof line, "%lld\n", (long long)number[i]);
        crc = sv_crc32(crc, line, (size_t)size);
    }
    return crc;
}

static bool frames_line(const char *line) {
    long long total, first, last;
    double rate, duration, fps;
    int most, count;
    unsigned crc;
    int64_t index[500];
    if (sscanf(line, "%lld %la %la %la %d: %d %lld %lld %x", &total, &rate, &duration, &fps, &most, &count, &first,
               &last, &crc) != 9 || most > 500) return false;
    int n = sv_sample_frames(total, rate, duration, fps, most, index);
    return n == count && index[0] == first && index[n - 1] == last && crc_numbers(index, n) == crc;
}

TEST frames_are_those_of_sample_frames(void) {
    ASSERT_EQ(0, each_line(VIDEO "frames.txt", frames_line));
    PASS();
}

static bool words_line(const char *line) {
    int count, at = 0;
    double duration;
    SvBytes text = { 0 };
    if (sscanf(line, "%d %la|%n", &count, &duration, &at) != 2 || at == 0) return false;
    sv_video_intro(&text, &(SvVideo){ .frames.count = count, .duration = duration });
    bool same = !text.failed && text.size == strlen(line + at) + 1 && text.data[text.size - 1] == '\n' &&
                memcmp(text.data, line + at, text.size - 1) == 0;
    free(text.data);
    return same;
}

static bool stamps_line(const char *line) {
    long long index;
    int at = 0;
    double rate;
    SvBytes text = { 0 };
    if (sscanf(line, "%lld %la|%n", &index, &rate, &at) != 2 || at == 0) return false;
    sv_video_stamp(&text, &(SvVideo){ .index = (int64_t[]){ index }, .rate = rate }, 0);
    bool same = !text.failed && text.data[0] == '\n' && strcmp(text.data + 1, line + at) == 0;
    free(text.data);
    return same;
}

TEST words_are_those_of_num2words_and_timedelta(void) {
    static const char before[] = "You are provided the following series of ";
    uint32_t crc = 0;
    unsigned expected;
    FILE *file = fopen(VIDEO "words.crc", "r");
    ASSERT_EQ(0, each_line(VIDEO "words.txt", words_line));
    ASSERT_EQ(0, each_line(VIDEO "stamps.txt", stamps_line));
    ASSERT(file && fscanf(file, "%x", &expected) == 1);
    fclose(file);
    for (int n = 0; n < 30000; n++) {
        SvBytes text = { 0 };
        sv_video_intro(&text, &(SvVideo){ .frames.count = n });
        const char *end = strstr(text.data, " frames from");
        ASSERT(end);
        crc = sv_crc32(crc, text.data + sizeof before - 1, (size_t)(end - text.data) - (sizeof before - 1));
        crc = sv_crc32(crc, "\n", 1);
        free(text.data);
    }
    ASSERT_EQ_FMT(expected, crc, "%x");
    PASS();
}

/* --------------------------------------------------------------------------------------------------- prompts */

/* A video of black frames. */
static SvVideo video_of(int64_t total, double rate, double duration, double fps, int most) {
    SvVideo video;
    if (sv_video_new(demo, total, rate, duration, fps, most, &video, &error) != 0) printf("%s\n", error.text);
    return video;
}

/* The conversation against the golden prompt of that name, whose videos have so many frames; frees the videos. */
static int check_prompt(const char *name, const SvMessage *messages, int count, SvVideo *videos, int n_videos) {
    SvOptions options = sv_default_options();
    SvPrompt prompt;
    Golden ids = golden(VIDEO "prompts.golden", "%s/ids", name);
    Golden index = golden(VIDEO "prompts.golden", "%s/index", name);
    Golden text = golden(VIDEO "prompts.golden", "%s/text", name);
    size_t frames = 0;
    int good = sv_prompt(demo, messages, count, &options, &prompt, &error) == 0;
    if (!good) printf("%s: %s\n", name, error.text);
    for (int v = 0; v < n_videos; v++)
        for (int i = 0; i < videos[v].frames.count; i++, frames++)
            good = good && frames < index.count && index.data.i[frames] == videos[v].index[i];
    good = good && frames == index.count && prompt.n_tiles >= (int)frames && prompt.n_ids == ids.count &&
           memcmp(prompt.ids, ids.data.i, ids.count * sizeof *prompt.ids) == 0;
    good = good && strlen(prompt.text) == text.count && strcmp(prompt.text, text.data.text) == 0;
    if (!good && prompt.text) printf("%s: %s\nbut expected: %s\n", name, prompt.text, text.data.text);
    if (prompt.ids) sv_prompt_free(&prompt);
    for (int v = 0; v < n_videos; v++) sv_video_free(&videos[v]);
    free(ids.data.any);
    free(index.data.any);
    free(text.data.any);
    return good;
}

#define SAYS(role, ...) \
    { role, (SvContent[]){ __VA_ARGS__ }, (int)(sizeof((SvContent[]){ __VA_ARGS__ }) / sizeof(SvContent)) }
#define CLIP(i) { .video = &v[i] }
#define TEXT(words) { .text = words }
#define PROMPT(name, n_videos, ...) \
    ASSERT(check_prompt(name, (SvMessage[]){ __VA_ARGS__ }, (int)(sizeof((SvMessage[]){ __VA_ARGS__ }) / \
                        sizeof(SvMessage)), v, n_videos))

TEST prompts_are_the_references(void) {
    SvVideo v[2];
    SvImage picture;
    ASSERT_EQ(0, sv_image_read("demo/pictures/scene.png", &picture, &error));

    v[0] = video_of(8, 2, 4, 0, 0);
    PROMPT("question", 1, SAYS("user", CLIP(0), TEXT("What happens?")));
    v[0] = video_of(1, 24, 1.0 / 24, 0, 0);
    PROMPT("one_frame", 1, SAYS("user", CLIP(0), TEXT("What happens?")));
    v[0] = video_of(90, 30, 3, 1, 64);
    PROMPT("system", 1, SAYS("system", TEXT("You answer in one word.")), SAYS("user", CLIP(0), TEXT("What happens?")));
    v[0] = video_of(8, 2, 4, 0, 0);
    PROMPT("text_first", 1, SAYS("user", TEXT("Look: "), CLIP(0), TEXT("What happens?")));
    v[0] = video_of(500, 25, 20, 0, 4);
    PROMPT("fewer", 1, SAYS("user", CLIP(0), TEXT("What happens?")));
    v[0] = video_of(12, 29.97, 12 / 29.97, 8, 0);
    PROMPT("faster", 1, SAYS("user", CLIP(0), TEXT("What happens?")));
    v[0] = video_of(100, 100.0 / 200000, 200000.9, 0.00002, 0);
    PROMPT("days", 1, SAYS("user", CLIP(0), TEXT("What happens?")));
    v[0] = video_of(8, 2, 4, 0, 0);
    PROMPT("picture", 1, SAYS("user", { .image = &picture }, CLIP(0), TEXT("Is it the same?")));
    v[0] = video_of(8, 2, 4, 0, 0), v[1] = video_of(4, 1, 4, 0, 0);
    PROMPT("after_picture", 2, SAYS("user", CLIP(0), { .image = &picture }, TEXT("Is it the same?"), CLIP(1)));
    v[0] = video_of(8, 2, 4, 0, 0);
    PROMPT("talk", 1, SAYS("user", TEXT("Hello.")), SAYS("assistant", TEXT("Hi!")),
           SAYS("user", CLIP(0), TEXT("What happens?")), SAYS("assistant", TEXT("Nothing.")),
           SAYS("user", TEXT("Sure?")));
    sv_image_free(&picture);
    PASS();
}

/* A prompt made by hand is the template's; its tiles are those of the video, in their places among the picture's. */
TEST raw_prompts(void) {
    SvOptions options = sv_default_options();
    SvVideo v[2] = { video_of(8, 2, 4, 0, 0), video_of(3, 1, 3, 0, 0) };
    SvImage picture;
    SvPrompt prompt, raw;
    const size_t tile = 3 * (size_t)v[0].frames.side * (size_t)v[0].frames.side;
    ASSERT_EQ(0, sv_image_read("demo/pictures/scene.png", &picture, &error));
    ASSERT_EQ(0, sv_video_frame(demo, &v[1], 2, &picture, &error));
    SvContent contents[] = { CLIP(0), { .image = &picture }, CLIP(1), TEXT("So?") };
    ASSERT_EQ(0, sv_prompt(demo, &(SvMessage){ "user", contents, 4 }, 1, &options, &prompt, &error));
    ASSERT_EQ(0, sv_prompt_raw(demo, "<|im_start|>User: <video><image><video>So?<end_of_utterance>\nAssistant:",
                               contents, 3, &options, &raw, &error));
    ASSERT_EQ(prompt.n_ids, raw.n_ids);
    ASSERT_MEM_EQ(prompt.ids, raw.ids, raw.n_ids * sizeof *raw.ids);
    ASSERT_EQ(prompt.n_tiles, raw.n_tiles);
    ASSERT_MEM_EQ(prompt.tiles, raw.tiles, (size_t)raw.n_tiles * tile);
    ASSERT_EQ(3, raw.n_pictures);
    ASSERT_MEM_EQ(v[0].frames.rgb, raw.tiles, 4 * tile);
    ASSERT_MEM_EQ(v[1].frames.rgb, raw.tiles + (size_t)(raw.n_tiles - 3) * tile, 3 * tile);
    sv_prompt_free(&prompt);
    sv_prompt_free(&raw);

    /* The first <video> is the first video, wherever the pictures are in the list. */
    SvContent sorted[] = { { .image = &picture }, CLIP(0), CLIP(1) };
    ASSERT_EQ(0, sv_prompt_raw(demo, "<video><image><video>", sorted, 3, &options, &raw, &error));
    ASSERT_MEM_EQ(v[0].frames.rgb, raw.tiles, 4 * tile);
    sv_prompt_free(&raw);
    ASSERT_EQ(-1, sv_prompt_raw(demo, "<video><image>", contents, 3, &options, &raw, &error));
    ASSERT_STR_EQ("the prompt has <video> 1 time, but there are 2 videos", error.text);
    ASSERT_EQ(-1, sv_prompt_raw(demo, "<video><video>", contents, 3, &options, &raw, &error));
    ASSERT_STR_EQ("the prompt has <image> 0 times, but there is 1 picture", error.text);
    sv_image_free(&picture);
    sv_video_free(&v[0]);
    sv_video_free(&v[1]);
    PASS();
}

static int fails(const SvMessage *messages, int count, const char *sentence) {
    SvOptions options = sv_default_options();
    SvPrompt prompt;
    if (sv_prompt(demo, messages, count, &options, &prompt, &error) == 0) return 0;
    if (strstr(error.text, sentence)) return 1;
    printf("%s\n", error.text);
    return 0;
}

TEST what_is_no_video_is_refused(void) {
    SvVideo v[1], other;
    ASSERT_EQ(-1, sv_video_new(demo, 0, 24, 0, 0, 0, &v[0], &error));
    ASSERT_EQ(-1, sv_video_new(demo, 10, 0, 1, 0, 0, &v[0], &error));
    ASSERT_EQ(-1, sv_video_new(demo, 10, 24, -1, 0, 0, &v[0], &error));
    ASSERT_EQ(-1, sv_video_new(demo, 10, 24, 1e14, 0, 0, &v[0], &error));
    ASSERT_EQ(-1, sv_video_new(demo, 10, 24, 1, -1, 0, &v[0], &error));
    ASSERT_EQ(-1, sv_video_new(demo, 10, 24, 1, 0, -1, &v[0], &error));
    ASSERT(!v[0].frames.rgb && !v[0].index);
    v[0] = video_of(8, 2, 4, 0, 0);
    ASSERT(fails(&(SvMessage)SAYS("user", CLIP(0), TEXT("a <video>")), 1, "contains <video>, which stands for a vid"));
    ASSERT(fails(&(SvMessage)SAYS("user", CLIP(0), TEXT("an <image>")), 1, "contains <image>, which stands for a pic"));
    ASSERT(fails(&(SvMessage)SAYS("tool", CLIP(0)), 1, "the role is tool"));
    ASSERT(fails(&(SvMessage)SAYS("user", { .video = &v[0], .text = "x" }), 1, "either a text, a picture or a video"));
    other = v[0], other.frames.side++;
    ASSERT(fails(&(SvMessage)SAYS("user", { .video = &other }), 1, "a video: it has no frames of 144 x 144 pixels"));
    ASSERT_EQ(-1, sv_video_frame(demo, &v[0], 4, &(SvImage){ 0 }, &error));
    ASSERT_EQ(-1, sv_video_frame(demo, &v[0], 0, &(SvImage){ 0 }, &error));

    uint32_t frames = demo->config.video_num_frames;
    demo->config.video_num_frames = 0;
    ASSERT_EQ(-1, sv_video_new(demo, 8, 2, 4, 0, 0, &other, &error));
    ASSERT(strstr(error.text, "demo.bin: takes no video"));
    demo->config.video_num_frames = frames;
    sv_video_free(&v[0]);
    PASS();
}

/* A conversation keeps a copy of the video; its frames that are equal go through the vision tower once. */
TEST videos_in_a_conversation(void) {
    SvOptions options = sv_default_options();
    SvVideo video = video_of(8, 2, 4, 0, 0);
    SvContent contents[] = { { .video = &video }, TEXT("What happens?") };
    SvMessage message = { "user", contents, 2 };
    SvPrompt prompt;
    SvAnswer once, answer;
    SvChat *chat;
    SvImage picture;
    ASSERT_EQ(0, sv_image_read("demo/pictures/scene.png", &picture, &error));
    ASSERT_EQ(0, sv_video_frame(demo, &video, 2, &picture, &error));
    options.max_tokens = 8;
    ASSERT_EQ(0, sv_prompt(demo, &message, 1, &options, &prompt, &error));
    ASSERT_EQ(0, sv_generate(demo, &prompt, &options, NULL, &once, &error));
    ASSERT_EQ(0, sv_chat_new(demo, 0, 0, &chat, &error));
    ASSERT_EQ(0, sv_chat_add(chat, &message, &options, &error));
    sv_video_free(&video);
    sv_image_free(&picture);
    ASSERT_EQ(0, sv_chat_answer(chat, &options, NULL, &answer, &error));
    ASSERT_EQ(prompt.n_ids, answer.n_prompt);
    ASSERT_EQ(2, answer.tiles);
    ASSERT_STR_EQ(once.text, answer.text);
    sv_answer_free(&answer);
    sv_answer_free(&once);
    sv_prompt_free(&prompt);

    ASSERT_EQ(0, sv_chat_add(chat, &(SvMessage)SAYS("user", TEXT("Sure?")), &options, &error));
    ASSERT_EQ(0, sv_chat_answer(chat, &options, NULL, &answer, &error));
    ASSERT_EQ(0, answer.tiles);
    ASSERT(answer.n_kept > 200);
    sv_answer_free(&answer);
    video = (SvVideo){ .frames = { .side = 144, .count = 1 } };             /* a shape without pixels */
    ASSERT_EQ(-1, sv_chat_add(chat, &message, &options, &error));
    sv_chat_free(chat);
    PASS();
}

/* A video that does not fit into the context is an error that says what helps. */
TEST too_many_frames_for_the_context(void) {
    SvOptions options = sv_default_options();
    SvVideo video = video_of(2000, 24, 2000.0 / 24, 24, 2000);
    SvContent contents[] = { { .video = &video }, TEXT("What happens?") };
    SvPrompt prompt;
    SvAnswer answer;
    ASSERT_EQ(2000, video.frames.count);
    ASSERT_EQ(0, sv_prompt(demo, &(SvMessage){ "user", contents, 2 }, 1, &options, &prompt, &error));
    ASSERT_EQ(-1, sv_generate(demo, &prompt, &options, NULL, &answer, &error));
    ASSERT(strstr(error.text, "more than the context of") && strstr(error.text, "--frames"));
    sv_prompt_free(&prompt);
    sv_video_free(&video);
    PASS();
}

/* ---------------------------------------------------------------------------------------------------- pixels */

static bool pixels_line(const char *line) {
    const SvConfig config = demo->config;
    char file[200];
    unsigned edge, side, crc;
    SvImage image;
    if (sscanf(line, "%199s %u %u: %x", file, &edge, &side, &crc) != 4) return false;
    demo->config.video_longest_edge = edge;
    demo->config.image_size = side;
    SvVideo video = video_of(1, 1, 1, 0, 0);
    bool same = sv_image_read(file, &image, &error) == 0 && sv_video_frame(demo, &video, 0, &image, &error) == 0 &&
                sv_crc32(0, video.frames.rgb, 3 * (size_t)side * side) == crc;
    sv_image_free(&image);
    sv_video_free(&video);
    demo->config = config;
    return same;
}

TEST pixels_are_those_of_torch(void) {
    ASSERT_EQ(0, each_line(VIDEO "pixels.txt", pixels_line));
    PASS();
}

GREATEST_MAIN_DEFS();

int main(int argc, char **argv) {
    GREATEST_MAIN_BEGIN();
    if (sv_open("demo/demo.bin", &demo, &error) != 0) return puts(error.text), 1;
    RUN_TEST(frames_are_those_of_sample_frames);
    RUN_TEST(words_are_those_of_num2words_and_timedelta);
    RUN_TEST(prompts_are_the_references);
    RUN_TEST(raw_prompts);
    RUN_TEST(what_is_no_video_is_refused);
    RUN_TEST(videos_in_a_conversation);
    RUN_TEST(too_many_frames_for_the_context);
    RUN_TEST(pixels_are_those_of_torch);
    sv_close(demo);
    GREATEST_MAIN_END();
}
