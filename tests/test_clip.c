/* test_clip.c: cli/clip.c: the frames that it takes of streams, folders and files, and what it says of bad ones. Each
   frame tells its number: it is of one colour. With ffmpeg, also files that it makes; without, these are skipped. */
#if !defined(_WIN32)
#define _POSIX_C_SOURCE 200809L
#endif
#include "../cli/cli.h"
#include "greatest.h"

#include <stdlib.h>
#include <string.h>
#if defined(__unix__) || defined(__APPLE__)
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#define HAVE_UNIX 1
#else
#define HAVE_UNIX 0
#endif

static SvModel *demo;
static SvError error;
static char folder[1000], path[1200];           /* beside this program; path: the file at hand */

static const char *in_folder(const char *name) {
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static bool says(const char *words) {
    if (strstr(error.text, words) && !strchr(error.text, '\n')) return true;
    printf("\n%s\nbut expected: %s\n", error.text, words);
    return false;
}

enum { WIDTH = 24, HEIGHT = 16, MOST = 2000 };

/* The three colours that tell a frame's number, far enough apart to survive YUV, and what they tell. */
static int level(int number, int place) { return 20 + 24 * (number / (place == 0 ? 1 : place == 1 ? 10 : 100) % 10); }

static int number_of(const uint8_t *rgb) {
    return (rgb[0] - 20 + 12) / 24 + 10 * ((rgb[1] - 20 + 12) / 24) + 100 * ((rgb[2] - 20 + 12) / 24);
}

static void put_ppm(FILE *file, int number, int width, int height) {
    fprintf(file, "P6\n# a frame\n%d %d\n255\n", width, height);
    for (int i = 0; i < width * height; i++)
        for (int place = 0; place < 3; place++) putc(level(number, place), file);
}

static FILE *create(const char *name) {
    FILE *file = fopen(in_folder(name), "wb");
    if (!file) perror(path), exit(1);
    return file;
}

static void make_ppms(const char *name, int total) {
    FILE *file = create(name);
    for (int i = 0; i < total; i++) put_ppm(file, i, WIDTH, HEIGHT);
    fclose(file);
}

/* Whether the clip has just the frames that sample_frames takes, in their order. */
static bool has_frames(const Clip *clip, int64_t total, double rate, double duration, double fps, int most) {
    int64_t index[MOST];
    int count = sv_sample_frames(total, rate, duration, fps, most, index);
    const SvTiles *frames = &clip->video.frames;
    bool same = frames->count == count && clip->video.rate == rate && clip->video.duration == duration;
    for (int i = 0; i < count && same; i++) {
        const uint8_t *middle = frames->rgb + ((size_t)i * (size_t)frames->side + (size_t)frames->side / 2) *
                                              (size_t)frames->side * 3 + 3 * (size_t)(frames->side / 2);
        same = clip->video.index[i] == index[i] && number_of(middle) == index[i] % 1000;
        if (!same) printf("\nframe %d: number %d, expected %d\n", i, number_of(middle), (int)index[i]);
    }
    if (frames->count != count) printf("\n%d frames, expected %d\n", frames->count, count);
    return same;
}

static int read_clip(const char *name, ClipOptions options, Clip *clip) {
    options.model = demo;
    error.text[0] = 0;
    return clip_read(strcmp(name, "-") == 0 ? name : in_folder(name), &options, clip, &error);
}

/* A stream has as many frames as it has: each total, read from a file (again) and from a pipe (once). */
TEST streams_of_any_length(void) {
    static const int totals[] = { 1, 2, 3, 23, 24, 25, 60, 250, 999 };
    static const struct { double rate, fps; int most; } ways[] = { { 0, 0, 0 }, { 1, 0, 0 }, { 30, 2, 3 },
                                                                 { 12.5, 0.5, 64 }, { 24, 24, 40 }, { 1, 1, 5 } };
    for (size_t t = 0; t < sizeof totals / sizeof totals[0]; t++) {
        make_ppms("stream.ppm", totals[t]);
        for (size_t w = 0; w < sizeof ways / sizeof ways[0]; w++) {
            double rate = ways[w].rate ? ways[w].rate : 24, fps = ways[w].fps ? ways[w].fps : 1;
            int most = ways[w].most ? ways[w].most : 64;
            ClipOptions options = { .rate = ways[w].rate, .fps = ways[w].fps, .frames = ways[w].most };
            Clip clip;
            ASSERT_EQm(error.text, 0, read_clip("stream.ppm", options, &clip));
            ASSERT(has_frames(&clip, totals[t], rate, totals[t] / rate, fps, most));
            ASSERT_EQ(ways[w].rate == 0, strstr(clip.note.text, "taken as 24 frames a second") != NULL);
            clip_free(&clip);
            ASSERT(freopen(in_folder("stream.ppm"), "rb", stdin));
            ASSERT_EQm(error.text, 0, read_clip("-", options, &clip));
            ASSERT(has_frames(&clip, totals[t], rate, totals[t] / rate, fps, most));
            clip_free(&clip);
        }
    }
    PASS();
}

/* A YUV4MPEG2 file of this many frames, of 24 x 16 pixels; gray, as is 16 + 2 * its number. */
static void make_yuv(const char *name, const char *header, size_t chroma, int total) {
    FILE *file = create(name);
    fprintf(file, "YUV4MPEG2 %s\n", header);
    for (int i = 0; i < total; i++) {
        fputs(i % 2 ? "FRAME Ip\n" : "FRAME\n", file);
        for (int k = 0; k < WIDTH * HEIGHT; k++) putc(16 + 2 * i, file);
        for (size_t k = 0; k < chroma; k++) putc(128, file);
    }
    fclose(file);
}

TEST yuv4mpeg2(void) {
    static const struct { const char *layout; size_t chroma; } layouts[] = {
        { "", 192 }, { " C420jpeg", 192 }, { " C420mpeg2", 192 }, { " C420paldv", 192 }, { " C420", 192 },
        { " C422", 384 }, { " C444", 768 }, { " C411", 192 }, { " Cmono", 0 }, { " C444alpha", 1152 } };
    for (size_t i = 0; i < sizeof layouts / sizeof layouts[0]; i++) {
        char header[100];
        Clip clip;
        snprintf(header, sizeof header, "W24 H16 F30000:1001 Ip A1:1%s XYSCSS=420", layouts[i].layout);
        make_yuv("yuv.y4m", header, layouts[i].chroma, 90);
        ASSERT_EQm(error.text, 0, read_clip("yuv.y4m", (ClipOptions){ 0 }, &clip));
        ASSERT_EQ(30000.0 / 1001, clip.video.rate);
        ASSERT_EQ(3, clip.video.frames.count);
        ASSERT(!clip.note.text[0]);
        for (int f = 0; f < 3; f++) {                                       /* 219 levels become 255 */
            const uint8_t *rgb = clip.video.frames.rgb + (size_t)f * 144 * 144 * 3;
            int bright = (int)(2 * (int)clip.video.index[f] * 255.0 / 219 + 0.5);
            ASSERT(rgb[0] == bright && rgb[1] == bright && rgb[2] == bright);
        }
        clip_free(&clip);
    }
    static const struct { const char *layout, *name; } refused[] = { { "C420p10", "C420p10" }, { "C422p12", "C422p12" },
                                                                     { "Cmono16", "Cmono16" }, { "C9", "C9" } };
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        char header[100];
        Clip clip;
        snprintf(header, sizeof header, "W24 H16 F25:1 %s", refused[i].layout);
        make_yuv("yuv.y4m", header, 192, 2);
        ASSERT_EQ(-1, read_clip("yuv.y4m", (ClipOptions){ 0 }, &clip));
        ASSERT(says(refused[i].name) && says("is not read"));
    }

    /* BT.601: pure red, green and blue, of both ranges; each U and V holds for four pixels, also at an odd edge. */
    static const struct { int y, u, v, red, green, blue; bool full; } colours[] = {
        { 81, 90, 240, 254, 0, 0, false }, { 145, 54, 34, 0, 255, 1, false }, { 41, 240, 110, 0, 0, 255, false },
        { 76, 85, 255, 254, 0, 0, true }, { 150, 44, 21, 0, 255, 1, true }, { 29, 255, 107, 0, 0, 254, true },
        { 235, 128, 128, 255, 255, 255, false }, { 16, 128, 128, 0, 0, 0, false },
        { 255, 128, 128, 255, 255, 255, true }, { 0, 128, 128, 0, 0, 0, false } };
    for (size_t i = 0; i < sizeof colours / sizeof colours[0]; i++) {
        FILE *file = create("yuv.y4m");
        Clip clip;
        fprintf(file, "YUV4MPEG2 W3 H3 F1:1%s\nFRAME\n", colours[i].full ? " XCOLORRANGE=FULL" : "");
        for (int k = 0; k < 9 + 8; k++) putc(k < 9 ? colours[i].y : k < 13 ? colours[i].u : colours[i].v, file);
        fclose(file);
        ASSERT_EQm(error.text, 0, read_clip("yuv.y4m", (ClipOptions){ 0 }, &clip));
        for (size_t k = 0; k < 144 * 144; k++) {
            const uint8_t *rgb = clip.video.frames.rgb + 3 * k;
            if (abs(rgb[0] - colours[i].red) > 1 || abs(rgb[1] - colours[i].green) > 1 ||
                abs(rgb[2] - colours[i].blue) > 1) printf("%d: %d %d %d\n", (int)i, rgb[0], rgb[1], rgb[2]);
            ASSERT(abs(rgb[0] - colours[i].red) <= 1 && abs(rgb[1] - colours[i].green) <= 1 &&
                   abs(rgb[2] - colours[i].blue) <= 1);
        }
        clip_free(&clip);
    }
    PASS();
}

static bool refuses(const char *words) {
    Clip clip;
    for (int way = 0; way < 2; way++) {
        if (way == 1 && !freopen(path, "rb", stdin)) return false;
        const char *name = strrchr(path, '/') + 1;
        int result = read_clip(way ? "-" : name, (ClipOptions){ 0 }, &clip);
        if (result == 0) return printf("\nno error: %s\n", words), false;
        if (clip.video.index || clip.video.frames.rgb) return printf("\nnot freed\n"), false;
        if (!says(words) || !says(way ? "standard input: " : path)) return false;
    }
    return true;
}

TEST bad_streams(void) {
    FILE *file = create("bad.ppm");
    put_ppm(file, 1, WIDTH, HEIGHT);
    fputs("P6\n24 16\n255\n...", file);
    fclose(file);
    ASSERT(refuses("cut short"));
    file = create("bad.ppm");
    put_ppm(file, 1, WIDTH, HEIGHT);
    fputs("P6\n24 ", file);
    fclose(file);
    ASSERT(refuses("cut short"));
    file = create("bad.ppm");
    put_ppm(file, 1, WIDTH, HEIGHT);
    put_ppm(file, 2, WIDTH, HEIGHT - 1);
    fclose(file);
    ASSERT(refuses("a frame of 24 x 15 pixels among those of 24 x 16"));
    file = create("bad.ppm");
    put_ppm(file, 1, WIDTH, HEIGHT);
    fputs("Q6\n24 16\n255\n", file);
    fclose(file);
    ASSERT(refuses("no frame begins where one must"));
    static const struct { const char *bytes, *words; } bad[] = {
        { "P6\n0 16\n255\n", "no pixels" }, { "P6\n70000 16\n255\n", "are too many" }, { "P6\n24 x\n255\n", "damaged" },
        { "P6\n65535 65535\n255\n", "are too many" }, { "P6\n24 16\n70000\n", "damaged" },
        { "P6\n99999999999999999999 1\n255\n", "damaged" }, { "P6\n24 16\n0\n", "damaged" },
        { "YUV4MPEG2 W24 H16 F25:1\n", "without a frame" }, { "YUV4MPEG2 W24 H16 F25:1\nFRAME\n...", "cut short" },
        { "YUV4MPEG2 W24 H16 F25:1\nFRAMES\n...", "no frame begins" }, { "YUV4MPEG2 H16\nFRAME\n", "no pixels" },
        { "YUV4MPEG2 W-5 H16\nFRAME\n", "no pixels" }, { "YUV4MPEG2 W99999 H16\nFRAME\n", "are too many" },
        { "YUV4MPEG2 W99999999999999999999 H16\nFRAME\n", "are too many" },
        { "YUV4MPEG2 W24 H16\nFRAM", "cut short" } };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        file = create("bad.y4m");
        fputs(bad[i].bytes, file);
        fclose(file);
        ASSERTm(bad[i].bytes, refuses(bad[i].words));
    }
    file = create("bad.y4m");
    fputs("YUV4MPEG2 ", file);
    for (int i = 0; i < 5000; i++) fputs("Xabc ", file);
    fclose(file);
    ASSERT(refuses("neither YUV4MPEG2 nor PPM"));
    file = create("wide.ppm");                                              /* 16 bits a sample, and gray */
    fputs("P5\n2 1\n65535\n\xff\xff\xff\xff", file);
    fclose(file);
    Clip clip;
    ASSERT_EQm(error.text, 0, read_clip("wide.ppm", (ClipOptions){ 0 }, &clip));
    ASSERT_EQ(255, clip.video.frames.rgb[0]);
    clip_free(&clip);
    fclose(create("empty.ppm"));
    ASSERT_EQ(-1, read_clip("empty.ppm", (ClipOptions){ 0 }, &clip));
    ASSERT(says("the file is empty"));
    ASSERT_EQ(-1, read_clip("no such file", (ClipOptions){ 0 }, &clip));
    ASSERT(says("no such file: "));
    PASS();
}

TEST folders(void) {
    char name[64];
    Clip clip;
    sv_mkdir(in_folder("frames"));
    for (int i = 0; i < 30; i++) {                                          /* f1 ... f9, f10 ...: f007 beside f7 */
        snprintf(name, sizeof name, i == 7 ? "frames/f%03d.PPM" : "frames/f%d.ppm", i);
        FILE *file = create(name);
        put_ppm(file, i, WIDTH, HEIGHT);
        fclose(file);
    }
    fclose(create("frames/readme.txt"));
    fclose(create("frames/.ppm"));
    ASSERT_EQm(error.text, 0, read_clip("frames", (ClipOptions){ .rate = 5, .fps = 5 }, &clip));
    ASSERT(has_frames(&clip, 30, 5, 6, 5, 64));
    ASSERT(!clip.note.text[0]);
    clip_free(&clip);
    ASSERT_EQm(error.text, 0, read_clip("frames", (ClipOptions){ 0 }, &clip));
    ASSERT(has_frames(&clip, 30, 24, 30.0 / 24, 1, 64));
    ASSERT(strstr(clip.note.text, "frames: taken as 24 frames a second"));
    clip_free(&clip);

    FILE *file = create("frames/f11.ppm");
    put_ppm(file, 11, WIDTH, HEIGHT + 1);
    fclose(file);
    ASSERT_EQ(-1, read_clip("frames", (ClipOptions){ .rate = 5, .fps = 5 }, &clip));
    ASSERT(says("f11.ppm: a frame of 24 x 17 pixels among those of 24 x 16"));
    file = create("frames/f11.ppm");
    fputs("P6\n24 16\n255\n", file);
    fclose(file);
    ASSERT_EQ(-1, read_clip("frames", (ClipOptions){ .rate = 5, .fps = 5 }, &clip));
    ASSERT(says("f11.ppm: the PNM file is cut short"));
    sv_mkdir(in_folder("none"));
    ASSERT_EQ(-1, read_clip("none", (ClipOptions){ 0 }, &clip));
    ASSERT(says("none: no PNG, JPEG or PNM picture"));
    PASS();
}

TEST a_model_that_takes_no_video(void) {
    uint32_t frames = demo->config.video_num_frames;
    Clip clip;
    demo->config.video_num_frames = 0;
    int result = read_clip("stream.ppm", (ClipOptions){ 0 }, &clip);
    demo->config.video_num_frames = frames;
    ASSERT_EQ(-1, result);
    ASSERT(says("demo.bin: takes no video"));
    PASS();
}

/* ------------------------------------------------------------------------------------------------------- ffmpeg */

#if HAVE_UNIX

static bool runs(const char *command) {
    int status = system(command);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

/* Makes folder/clip.mkv of PPM frames that tell their numbers. */
static bool make_film(int total, const char *options, const char *name) {
    char command[4000], to[1200];
    make_ppms("film.ppm", total);
    snprintf(to, sizeof to, "%s", in_folder(name));
    snprintf(command, sizeof command, "ffmpeg -v error -y -f image2pipe -c:v ppm %s -i '%s/film.ppm' -c:v ffv1 "
             "-pix_fmt bgr0 '%s' </dev/null 2>/dev/null", options, folder, to);
    return runs(command);
}

TEST files_through_ffmpeg(void) {
    static const struct { int total; const char *options; double rate; } films[] = {
        { 1, "-framerate 25", 25 }, { 40, "-framerate 10", 10 }, { 700, "-framerate 10", 10 } };
    Clip clip;
    if (!runs("ffmpeg -version >/dev/null 2>&1") || !runs("ffprobe -version >/dev/null 2>&1")) SKIPm("no ffmpeg");
    for (size_t i = 0; i < sizeof films / sizeof films[0]; i++) {
        ASSERT(make_film(films[i].total, films[i].options, "film.mkv"));
        ASSERT_EQm(error.text, 0, read_clip("film.mkv", (ClipOptions){ 0 }, &clip));
        ASSERT_IN_RANGE(films[i].rate, clip.video.rate, 1e-3);
        ASSERT_IN_RANGE(films[i].total / films[i].rate, clip.video.duration, 1e-2);
        ASSERT(has_frames(&clip, films[i].total, clip.video.rate, clip.video.duration, 1, 64));
        clip_free(&clip);
        ASSERT_EQm(error.text, 0, read_clip("film.mkv", (ClipOptions){ .fps = 3, .frames = 7 }, &clip));
        ASSERT(has_frames(&clip, films[i].total, clip.video.rate, clip.video.duration, 3, 7));
        clip_free(&clip);
    }

    /* A name is a name: not an option, a pattern, another protocol or a shell's command. */
    static const char *const names[] = { "-i.mkv", "a b'$(exit 3)`\"%d;.mkv", "concat:a|b.mkv", "http:x.mkv" };
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char from[1200];
        snprintf(from, sizeof from, "%s", in_folder("film.mkv"));
        remove(in_folder(names[i]));
        ASSERT_EQ(0, link(from, in_folder(names[i])));
        ASSERT_EQm(error.text, 0, read_clip(names[i], (ClipOptions){ .frames = 2 }, &clip));
        ASSERT_EQ(2, clip.video.frames.count);
        clip_free(&clip);
    }

    /* Frames that come at unequal times are those of their numbers. */
    char command[4000];
    snprintf(command, sizeof command, "cd '%s' && ffmpeg -v error -y -i film.mkv "
             "-vf \"select='not(mod(n,3))+lt(n,30)'\" -vsync vfr -c:v ffv1 -pix_fmt bgr0 uneven.mkv </dev/null", folder);
    ASSERT(runs(command));
    ASSERT_EQm(error.text, 0, read_clip("uneven.mkv", (ClipOptions){ .frames = 500, .fps = 100 }, &clip));
    ASSERT_EQ(30 + 670 / 3 + 1, clip.video.frames.count);
    for (int i = 0; i < clip.video.frames.count; i++) {
        const uint8_t *frame = clip.video.frames.rgb + (size_t)i * 144 * 144 * 3;
        ASSERT_EQ(i < 30 ? i : 30 + 3 * (i - 30), number_of(frame));
    }
    clip_free(&clip);

    /* Not a video; half of one; sound alone. */
    FILE *file = create("text.mp4");
    fputs("This is no video.\n", file);
    fclose(file);
    ASSERT_EQ(-1, read_clip("text.mp4", (ClipOptions){ 0 }, &clip));
    ASSERT(says("text.mp4: ffprobe cannot read it: "));
    snprintf(command, sizeof command, "cd '%s' && ffmpeg -v error -y -f lavfi -i sine=d=1 sound.wav </dev/null",
             folder);
    ASSERT(runs(command));
    ASSERT_EQ(-1, read_clip("sound.wav", (ClipOptions){ 0 }, &clip));
    ASSERT(says("sound.wav: no video is in this file"));
    ASSERT_EQ(-1, waitpid(-1, NULL, WNOHANG));                              /* no child is left */
    PASS();
}

/* Programs that stand in for ffmpeg and ffprobe, and fail in the middle, hang, or are not there. */
static void stand_in(const char *name, const char *script) {
    FILE *file = create(name);
    fprintf(file, "#!/bin/sh\n%s\n", script);
    fclose(file);
    chmod(path, 0755);
}

TEST ffmpeg_fails(void) {
    char whole[1200], search[8192], *before = getenv("PATH"), *kept = before ? strdup(before) : NULL;
    Clip clip;
    FILE *file = create("film.mp4");
    fputs("....ftypisom", file);
    fclose(file);
    make_ppms("film.ppm", 2);
    sv_mkdir(in_folder("bin"));
    snprintf(whole, sizeof whole, "%s", in_folder("bin"));
    remove(in_folder("bin/ffprobe"));
    remove(in_folder("bin/ffmpeg"));
    setenv("PATH", whole, 1);
    ASSERT_EQ(-1, read_clip("film.mp4", (ClipOptions){ 0 }, &clip));
    ASSERT(says("ffprobe is not installed"));
    snprintf(search, sizeof search, "%s:%s", in_folder("bin"), kept ? kept : "/bin:/usr/bin");
    setenv("PATH", search, 1);
#define PACKETS "echo '[STREAM]'; for i in 0 1 2 3; do echo '[PACKET]'; echo pts_time=$i.0; echo duration_time=1.0; " \
                "echo flags=K__; echo '[/PACKET]'; done"
    stand_in("bin/ffprobe", PACKETS "; exit 0");
    stand_in("bin/ffmpeg", "cat \"${0%/*}/../film.ppm\"; echo 'out of cheese' >&2; exit 1");
    ASSERT_EQ(-1, read_clip("film.mp4", (ClipOptions){ 0 }, &clip));
    ASSERT(says("ffmpeg failed after 2 of 4 frames: out of cheese"));
    stand_in("bin/ffmpeg", "cat \"${0%/*}/../film.ppm\"; kill -9 $$");
    ASSERT_EQ(-1, read_clip("film.mp4", (ClipOptions){ 0 }, &clip));
    ASSERT(says("ffmpeg failed after 2 of 4 frames: it was ended by signal 9"));
    stand_in("bin/ffmpeg", "head -c 700 \"${0%/*}/../film.ppm\"; head -c 100 \"${0%/*}/../film.ppm\"; exit 0");
    ASSERT_EQ(-1, read_clip("film.mp4", (ClipOptions){ 0 }, &clip));
    stand_in("bin/ffmpeg", "echo P6 garbage; yes | head -c 10000000; exec sleep 1000");
    ASSERT_EQ(-1, read_clip("film.mp4", (ClipOptions){ 0 }, &clip));        /* it is not waited for */
    ASSERT(says("damaged"));
    stand_in("bin/ffmpeg", "for i in 1 2 3; do cat \"${0%/*}/../film.ppm\"; done; exec sleep 1000");
    ASSERT_EQ(-1, read_clip("film.mp4", (ClipOptions){ 0 }, &clip));
    ASSERT(says("more frames than it was asked for"));
    /* Fewer frames than packets: they are counted once more, by decoding; then it is said. */
    stand_in("bin/ffmpeg", "cat \"${0%/*}/../film.ppm\"; exit 0");
    ASSERT_EQ(-1, read_clip("film.mp4", (ClipOptions){ 0 }, &clip));
    ASSERT(says("ffmpeg gave 2 of 4 frames"));
    stand_in("bin/ffprobe", "case \"$*\" in *packet=*) " PACKETS ";; *) echo '[STREAM]'; for i in 0 1; do "
             "echo '[FRAME]'; echo pts_time=$i.0; echo pkt_duration_time=1.0; echo '[/FRAME]'; done;; esac");
    ASSERT_EQm(error.text, 0, read_clip("film.mp4", (ClipOptions){ 0 }, &clip));
    ASSERT(has_frames(&clip, 2, 1, 2, 1, 64));
    clip_free(&clip);
    stand_in("bin/ffprobe", "echo '[STREAM]'");
    ASSERT_EQ(-1, read_clip("film.mp4", (ClipOptions){ 0 }, &clip));
    ASSERT(says("a video without a frame"));
    stand_in("bin/ffprobe", "echo 'no such thing' >&2; exit 1");
    ASSERT_EQ(-1, read_clip("film.mp4", (ClipOptions){ 0 }, &clip));
    ASSERT(says("film.mp4: ffprobe cannot read it: no such thing"));
    ASSERT_EQ(-1, waitpid(-1, NULL, WNOHANG));                              /* no child is left */
    if (kept) setenv("PATH", kept, 1);
    free(kept);
    PASS();
}

#endif

GREATEST_MAIN_DEFS();

int main(int argc, char **argv) {
    GREATEST_MAIN_BEGIN();
    if (sv_open("demo/demo.bin", &demo, &error) != 0) return puts(error.text), 1;
    snprintf(folder, sizeof folder, "%s.files", argv[0]);
    sv_mkdir(folder);
    RUN_TEST(streams_of_any_length);
    RUN_TEST(yuv4mpeg2);
    RUN_TEST(bad_streams);
    RUN_TEST(folders);
    RUN_TEST(a_model_that_takes_no_video);
#if HAVE_UNIX
    RUN_TEST(files_through_ffmpeg);
    RUN_TEST(ffmpeg_fails);
#endif
    sv_close(demo);
    GREATEST_MAIN_END();
}
