/* video.c: chooses the frames of a video that the model sees, scales them, and writes the words around them.

     number of frames, frames per second
       |  sv_video_new: chooses frames                         SmolVLMVideoProcessor.sample_frames
       |  sv_video_frame, for each: its longer side becomes    .resize
       |  video_longest_edge, then it becomes a square tile
     SvVideo: [count, side, side, 3]
       |  sv_video_intro, sv_video_stamp                       SmolVLMProcessor.replace_video_token
     You are provided the following series of two frames from a 0:00:03 [H:MM:SS] video.

     Frame from 00:00:<a tile's tokens>
     Frame from 00:03:<a tile's tokens>                                                                             */
#include "model.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---------------------------------------------------------------------------------------------- choosing the frames */

/* Python's timedelta holds less than 1e9 days. */
static const double MOST_SECONDS = 8.64e13;

/* np.unique(np.linspace(start, end, count, dtype=int)), in the same steps as numpy, so that rounding is the same. */
static int spread(int64_t start, int64_t end, int count, int64_t *index) {
    const double delta = (double)end - (double)start, step = count > 1 ? delta / (count - 1) : 0;
    int kept = 0;
    for (int i = 0; i < count; i++) {
        double at = i * step + (double)start;
        int64_t frame = i > 0 && i == count - 1 ? end : (int64_t)floor(at);
        if (kept == 0 || frame != index[kept - 1]) index[kept++] = frame;
    }
    return kept;
}

int sv_sample_frames(int64_t total, double rate, double duration, double fps, int max_frames, int64_t *index) {
    double estimated = nearbyint(fps * duration);               /* Python's round: ties to even */
    int count = estimated >= max_frames ? max_frames : estimated >= 1 ? (int)estimated : 1;
    int64_t start = 0, end = total - 1;
    if (duration - 2 > max_frames * fps) {                      /* skip a second at both ends */
        start = rate < (double)total ? (int64_t)rate : total;
        end = rate < (double)total ? (int64_t)((double)total - rate) : 0;
        if (end > total - 1) end = total - 1;
        if (start >= end) start = 0, end = total - 1;
    }
    return spread(start, end, count, index);
}

int sv_video_new(const SvModel *m, int64_t total, double rate, double duration, double fps, int max_frames,
                 SvVideo *video, SvError *error) {
    const SvConfig *c = &m->config;
    const size_t tile = 3 * (size_t)c->image_size * c->image_size;
    *video = (SvVideo){ { .side = (int)c->image_size }, NULL, rate, duration };
    if (c->video_num_frames == 0 || c->vision_num_hidden_layers == 0)
        return sv_fail(error, "%s: takes no video: the model has no settings for it", m->path);
    if (total < 1) return sv_fail(error, "a video without a frame");
    if (total > INT64_C(1) << 53 || !(rate > 0 && rate <= 1e9) || !(duration >= 0 && duration < MOST_SECONDS))
        return sv_fail(error, "a video of %" PRId64 " frames, %g a second, %g seconds long is none", total, rate,
                       duration);
    if (fps == 0) fps = c->video_fps;
    if (max_frames == 0) max_frames = (int)c->video_num_frames;
    if (!(fps > 0 && fps <= 1e9) || max_frames < 1 || max_frames > SV_MAX_FRAMES)
        return sv_fail(error, "of a video, %g frames a second and at most %d cannot be taken", fps, max_frames);
    video->index = malloc((size_t)max_frames * sizeof *video->index);
    if (video->index) {
        int count = video->frames.count = sv_sample_frames(total, rate, duration, fps, max_frames, video->index);
        if ((size_t)count <= SIZE_MAX / tile) video->frames.rgb = calloc((size_t)count, tile);
    }
    if (video->frames.rgb) return 0;
    sv_fail(error, "not enough memory for %d frames of a video", video->index ? video->frames.count : max_frames);
    sv_video_free(video);
    return -1;
}

void sv_video_free(SvVideo *video) {
    free(video->index);
    sv_tiles_free(&video->frames);
    *video = (SvVideo){ 0 };
}

/* ----------------------------------------------------------------------------------------------------- their pixels */

int sv_video_frame(const SvModel *m, SvVideo *video, int i, const SvImage *frame, SvError *error) {
    SvTiles tile;
    const int side = video->frames.side;
    const size_t size = 3 * (size_t)side * (size_t)side;
    if (i < 0 || i >= video->frames.count) return sv_fail(error, "frame %d of %d: is none", i, video->frames.count);
    if (sv_image_frame(frame, (int)m->config.video_longest_edge, side, &tile, error)) return -1;
    memcpy(video->frames.rgb + (size_t)i * size, tile.rgb, size);
    sv_tiles_free(&tile);
    return 0;
}

/* -------------------------------------------------------------------------------------------------------- the words */

/* As num2words: "one thousand, one hundred and twenty-three". For numbers below 10^12. */
static void number_words(SvBytes *text, int64_t n) {
    static const char *const small[] = { "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine",
        "ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen" };
    static const char *const tens[] = { "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety" };
    static const struct { int64_t value; const char *name; } large[] = {
        { 1000000000, " billion" }, { 1000000, " million" }, { 1000, " thousand" }, { 100, " hundred" } };
#define PUT(string) sv_put(text, string, strlen(string))
    for (size_t i = 0; i < sizeof large / sizeof large[0]; i++) {
        int64_t rest = n % large[i].value;
        if (n < large[i].value) continue;
        number_words(text, n / large[i].value);
        PUT(large[i].name);
        if (rest > 0) PUT(rest < 100 ? " and " : ", ");
        if (rest > 0) number_words(text, rest);
        return;
    }
    if (n < 20) {
        PUT(small[n]);
    } else {
        PUT(tens[n / 10 - 2]);
        if (n % 10) PUT("-");
        if (n % 10) PUT(small[n % 10]);
    }
}

void sv_video_intro(SvBytes *text, const SvVideo *video) {
    int64_t seconds = (int64_t)video->duration, days = seconds / 86400;
    char when[80];
    PUT("You are provided the following series of ");
    number_words(text, video->frames.count);
    PUT(" frames from a ");
    if (days > 0) {                                             /* as Python's str(timedelta) */
        snprintf(when, sizeof when, "%" PRId64 " day%s, ", days, days == 1 ? "" : "s");
        PUT(when);
    }
    snprintf(when, sizeof when, "%d:%02d:%02d [H:MM:SS] video.\n", (int)(seconds / 3600 % 24),
             (int)(seconds / 60 % 60), (int)(seconds % 60));
    PUT(when);
}

void sv_video_stamp(SvBytes *text, const SvVideo *video, int i) {
    char stamp[80];
    double second = (double)video->index[i] / video->rate, rest = fmod(second, 60);
    snprintf(stamp, sizeof stamp, "\nFrame from %02.0f:%02d:", floor((second - rest) / 60 + 0.5), (int)rest);
    PUT(stamp);
}

/* ----------------------------------------------------------------------------------------------------- the template */

/* The reference's DEFAULT_CHAT_TEMPLATE in the form of model.h. It replaces the checkpoint's own template if a
   conversation has a video. */
void sv_video_chat(SvConfig *c) {
#define IS(field, string) c->field = (SvString){ string, sizeof string - 1 }
#define ROLE(role, name)                                                                                               \
    IS(chat_##role##_begin, name ": "), IS(chat_##role##_begin_image, name ":"),                                       \
    IS(chat_##role##_end, "<end_of_utterance>\n"), IS(chat_##role##_end_image, "<end_of_utterance>\n")
    c->chat_template = 1;
    c->chat_accepts = SV_CHAT_SYSTEM | SV_CHAT_SYSTEM_LATER | SV_CHAT_ASSISTANT | SV_CHAT_ASSISTANT_LAST |
                      SV_CHAT_MIXED | SV_CHAT_IMAGES;
    IS(chat_begin, "<|im_start|>");
    IS(chat_default_system, "");
    ROLE(system, "System");
    ROLE(user, "User");
    ROLE(assistant, "Assistant");
    IS(chat_between_messages, "");
    IS(chat_text_text, ""), IS(chat_text_image, ""), IS(chat_image_text, ""), IS(chat_image_image, "");
    IS(chat_generation_prompt, "Assistant:");
}
