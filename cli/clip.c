/* clip.c: reads the frames that the model sees of a video, from a file, a folder or a stream.

     file       ffprobe counts the frames, ffmpeg decodes the chosen ones; both are started without a shell
     folder     of pictures, in the order of the numbers in their names; only the chosen ones are read
     stream     PPM after PPM, or YUV4MPEG2: in a file, or on stdin ("-")

   Which frames are chosen depends on their number. For a stream on stdin that is unknown until it ends, and until then
   almost any frame may turn out to be a chosen one. So the frames are kept in a temporary file. Memory holds only one
   frame at its full size, and the chosen frames, scaled. */
#if !defined(_WIN32)
#define _POSIX_C_SOURCE 200809L
#define _FILE_OFFSET_BITS 64
#endif
#include "cli.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#if defined(__unix__) || defined(__APPLE__)
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>
#define HAVE_SPAWN 1
extern char **environ;
#else
#define HAVE_SPAWN 0
#endif

static const double USUAL_RATE = 24;                        /* the reference's default */

void clip_free(Clip *clip) { sv_video_free(&clip->video); }

static double rate_of(const char *name, double stated, const ClipOptions *options, Clip *clip) {
    if (options->rate > 0) return options->rate;
    if (stated > 0) return stated;
    sv_fail(&clip->note, "%s: taken as %g frames a second (--video-fps says another rate)", name, USUAL_RATE);
    return USUAL_RATE;
}

static int new_video(const char *name, int64_t total, double rate, double duration, const ClipOptions *o, Clip *clip,
                     SvError *error) {
    SvError why;
    if (sv_video_new(o->model, total, rate, duration, o->fps, o->frames, &clip->video, &why) == 0) return 0;
    return sv_fail(error, "%s: %s", name, why.text);
}

/* Stores the chosen frame i from a picture, which is then freed. All frames must have the size of the first. */
static int take_frame(const char *name, const ClipOptions *o, Clip *clip, int i, SvImage *image, SvError *error) {
    SvImage painted = { 0 };
    SvError why;
    int result = 0;
    if (i == 0) clip->width = image->width, clip->height = image->height;
    if (image->width != clip->width || image->height != clip->height)
        result = sv_fail(error, "%s: a frame of %d x %d pixels among those of %d x %d", name, image->width,
                         image->height, clip->width, clip->height);
    else if (o->background && (image->alpha || image->has_key) &&
             sv_image_paint(image, o->background, &painted, &why) != 0)
        result = sv_fail(error, "%s: %s", name, why.text);
    else if (sv_video_frame(o->model, &clip->video, i, painted.rgb ? &painted : image, &why) != 0)
        result = sv_fail(error, "%s: %s", name, why.text);
    sv_image_free(&painted);
    sv_image_free(image);
    return result;
}

/* --------------------------------------------------------------------------------------------------------- a folder */

static bool is_picture(const char *name) {
    static const char *const ends[] = { ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".ppm", ".pgm", ".pbm", ".pnm" };
    const char *end = strrchr(name, '.');
    char small[8] = "";
    if (!end || end == name || strlen(end) >= sizeof small) return false;
    for (int i = 0; end[i]; i++) small[i] = end[i] >= 'A' && end[i] <= 'Z' ? (char)(end[i] + 32) : end[i];
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++)
        if (strcmp(small, ends[i]) == 0) return true;
    return false;
}

/* Natural order: runs of digits are compared as numbers, so that 9 comes before 10. */
static int natural(const void *x, const void *y) {
    const char *a = *(const char *const *)x, *b = *(const char *const *)y;
    while (*a && *b) {
        size_t n = strspn(a, "0123456789"), m = strspn(b, "0123456789");
        if (n == 0 || m == 0) {
            if (*a != *b) return (unsigned char)*a < (unsigned char)*b ? -1 : 1;
            a++, b++;
            continue;
        }
        for (; n > 1 && *a == '0'; n--) a++;
        for (; m > 1 && *b == '0'; m--) b++;
        int order = n != m ? (n < m ? -1 : 1) : strncmp(a, b, n);
        if (order != 0) return order;
        a += n, b += m;
    }
    if (*a || *b) return *a ? 1 : -1;
    return strcmp(*(const char *const *)x, *(const char *const *)y);
}

static int read_folder(const char *path, char **names, int64_t count, const ClipOptions *o, Clip *clip,
                       SvError *error) {
    int64_t total = 0;
    for (int64_t i = 0; i < count; i++)
        if (is_picture(names[i])) {
            char *name = names[total];
            names[total++] = names[i];
            names[i] = name;
        }
    if (total == 0) return sv_fail(error, "%s: no PNG, JPEG or PNM picture is in this folder", path);
    qsort(names, (size_t)total, sizeof *names, natural);
    double rate = rate_of(path, 0, o, clip);
    if (new_video(path, total, rate, (double)total / rate, o, clip, error) != 0) return -1;
    for (int i = 0; i < clip->video.frames.count; i++) {
        const char *name = names[clip->video.index[i]];
        size_t room = strlen(path) + strlen(name) + 2;
        char *whole = malloc(room);
        SvImage image;
        if (!whole) return sv_fail(error, "%s: out of memory", path);
        snprintf(whole, room, "%s/%s", path, name);
        int result = sv_image_read(whole, &image, error);
        if (result == 0 && image.note.text[0] && !clip->note.text[0]) clip->note = image.note;
        if (result == 0) result = take_frame(whole, o, clip, i, &image, error);
        free(whole);
        if (result != 0) return -1;
    }
    return 0;
}

/* ----------------------------------------------------------------------------------------------------------- a stream

   P6\n640 480\n255\n<pixels>P6\n640 480\n255\n<pixels> ...
   YUV4MPEG2 W640 H480 F30000:1001 C420jpeg\nFRAME\n<Y><U><V>FRAME\n<Y><U><V> ...                                    */

typedef struct Stream {
    FILE *file;
    const char *name;
    int64_t length;                         /* of a file that supports seeking; otherwise -1 */
    bool yuv, full;                         /* full: Y ranges from 0 to 255, not from 16 to 235 */
    int width, height, across, down, planes, maximum, kind;     /* across, down: pixels per U and V; kind: 6 for P6 */
    double rate;                            /* frames per second; 0: not stated */
    size_t size;                            /* bytes of a frame, without its header */
    uint8_t *data;                          /* HEADER bytes for a PNM header, then the frame */
} Stream;

enum { HEADER = 64 };

static int64_t tell(FILE *file) {
#if defined(_WIN32)
    return _ftelli64(file);
#else
    return (int64_t)ftello(file);
#endif
}

static bool seek(FILE *file, int64_t offset, int from) {
#if defined(_WIN32)
    return _fseeki64(file, offset, from) == 0;
#else
    return fseeko(file, (off_t)offset, from) == 0;
#endif
}

static int cut_short(const Stream *s, SvError *error) {
    if (ferror(s->file)) return sv_fail(error, "%s: cannot be read: %s", s->name, strerror(errno));
    return sv_fail(error, "%s: the stream is cut short: it ends within a frame", s->name);
}

/* Reads a line, without its end. Returns its length, -1 at the end of the stream, or -2 if it is too long. */
static int read_line(FILE *file, char *line, int room) {
    int c, n = 0;
    while ((c = getc(file)) != EOF && c != '\n' && n < room - 1) line[n++] = (char)c;
    line[n] = 0;
    return c == '\n' ? n : c == EOF ? -1 : -2;
}

/* The 8-bit chroma layouts of YUV4MPEG2. */
static const struct { const char *name; int across, down, planes; } LAYOUTS[] = {
    { "420", 2, 2, 3 }, { "420jpeg", 2, 2, 3 }, { "420mpeg2", 2, 2, 3 }, { "420paldv", 2, 2, 3 }, { "422", 2, 1, 3 },
    { "444", 1, 1, 3 }, { "444alpha", 1, 1, 4 }, { "411", 4, 1, 3 }, { "mono", 1, 1, 1 } };

/* Reads the header line, after its first letter, Y. */
static int read_yuv_header(Stream *s, SvError *error) {
    char line[1024], *end;
    const char *layout = "420jpeg";
    long width = 0, height = 0;
    size_t i = 0;
    if (read_line(s->file, line, sizeof line) < 0 || strncmp(line, "UV4MPEG2 ", 9) != 0)
        return sv_fail(error, "%s: neither YUV4MPEG2 nor PPM", s->name);
    for (char *word = strtok(line + 9, " "); word; word = strtok(NULL, " ")) {
        if (*word == 'W') width = strtol(word + 1, NULL, 10);
        if (*word == 'H') height = strtol(word + 1, NULL, 10);
        if (*word == 'C') layout = word + 1;
        if (strcmp(word, "XCOLORRANGE=FULL") == 0) s->full = true;
        if (*word == 'F') {
            double above = strtod(word + 1, &end), below = *end == ':' ? strtod(end + 1, NULL) : 1;
            if (above > 0 && below > 0) s->rate = above / below;
        }
    }
    if (width < 0 || height < 0) width = height = 0;
    if (sv_check_size((uint64_t)width, (uint64_t)height, s->name, error) != 0) return -1;
    s->width = (int)width, s->height = (int)height;
    while (i < sizeof LAYOUTS / sizeof LAYOUTS[0] && strcmp(layout, LAYOUTS[i].name) != 0) i++;
    if (i == sizeof LAYOUTS / sizeof LAYOUTS[0])
        return sv_fail(error, "%s: YUV4MPEG2 with the colours C%.40s is not read; ffmpeg -pix_fmt yuv420p makes "
                       "C420jpeg", s->name, layout);
    s->across = LAYOUTS[i].across, s->down = LAYOUTS[i].down, s->planes = LAYOUTS[i].planes;
    size_t luma = (size_t)s->width * (size_t)s->height;
    size_t chroma = (size_t)((s->width + s->across - 1) / s->across) * (size_t)((s->height + s->down - 1) / s->down);
    s->size = luma + (s->planes > 2 ? 2 * chroma : 0) + (s->planes > 3 ? luma : 0);
    return 0;
}

/* Reads a number of a PNM header, and one white space character after it. Returns -1 if there is no number. */
static int64_t pnm_number(FILE *file) {
    int64_t number = -1;
    for (int c = getc(file); c != EOF; c = getc(file)) {
        if (c == '#') {
            while ((c = getc(file)) != EOF && c != '\n' && c != '\r') {}
        } else if (c >= '0' && c <= '9') {
            number = (number < 0 ? 0 : number) * 10 + (c - '0');
            if (number > 1000000) return -1;
        } else if (!strchr(" \t\r\n\v\f", c)) {
            return -1;
        } else if (number >= 0) {
            return number;
        }
    }
    return -1;
}

/* Reads the header of a PPM or PGM, after its first letter, P. */
static int read_pnm_header(Stream *s, SvError *error) {
    int kind = getc(s->file) - '0';
    if (kind != 5 && kind != 6) return sv_fail(error, "%s: not a stream of binary PPM or PGM (P6, P5)", s->name);
    int64_t width = pnm_number(s->file), height = pnm_number(s->file), maximum = pnm_number(s->file);
    if (feof(s->file)) return cut_short(s, error);
    if (width < 0 || height < 0 || maximum < 1 || maximum > 65535)
        return sv_fail(error, "%s: a damaged PPM header", s->name);
    if (sv_check_size((uint64_t)width, (uint64_t)height, s->name, error) != 0) return -1;
    if (s->kind && (width != s->width || height != s->height))
        return sv_fail(error, "%s: a frame of %d x %d pixels among those of %d x %d", s->name, (int)width, (int)height,
                       s->width, s->height);
    if (s->kind && (kind != s->kind || maximum != s->maximum))
        return sv_fail(error, "%s: the frames are not all of one kind", s->name);
    s->width = (int)width, s->height = (int)height, s->kind = kind, s->maximum = (int)maximum;
    s->size = (size_t)width * (size_t)height * (kind == 6 ? 3 : 1) * (maximum > 255 ? 2 : 1);
    return 0;
}

/* Reads up to the pixels of the next frame. Returns 1, or 0 at the end of the stream, or -1 on failure. */
static int next_frame(Stream *s, SvError *error) {
    const bool first = s->size == 0;
    int c = getc(s->file);
    if (c == EOF && ferror(s->file)) return cut_short(s, error);
    if (c == EOF) return first ? sv_fail(error, "%s: empty, a video without a frame", s->name) : 0;
    if (first && c == 'Y') {
        s->yuv = true;
        if (read_yuv_header(s, error) != 0) return -1;
        if ((c = getc(s->file)) == EOF) return 0;
    }
    if (s->yuv) {
        char line[1024];
        int size = c == 'F' ? read_line(s->file, line, sizeof line) : -2;
        if (size == -1) return cut_short(s, error);
        if (size < 0 || strncmp(line, "RAME", 4) != 0 || (line[4] && line[4] != ' '))
            return sv_fail(error, "%s: a damaged YUV4MPEG2 stream: no frame begins where one must", s->name);
    } else if (c != 'P' && first) {
        return sv_fail(error, "%s: neither YUV4MPEG2 nor PPM", s->name);
    } else if (c != 'P') {
        return sv_fail(error, "%s: a damaged stream: no frame begins where one must", s->name);
    } else if (read_pnm_header(s, error) != 0) {
        return -1;
    }
    if (!s->data && (s->size > SIZE_MAX - HEADER || !(s->data = malloc(HEADER + s->size))))
        return sv_fail(error, "%s: out of memory for a frame of %d x %d pixels", s->name, s->width, s->height);
    return 1;
}

static int load_frame(Stream *s, FILE *file, SvError *error) {
    if (fread(s->data + HEADER, 1, s->size, file) == s->size) return 0;
    return file == s->file ? cut_short(s, error)
                           : sv_fail(error, "%s: the temporary file of its frames cannot be read", s->name);
}

static uint8_t clip16(int32_t sum) { return sum < 0 ? 0 : sum >> 16 > 255 ? 255 : (uint8_t)(sum >> 16); }

/* Converts with the BT.601 matrix, which ffmpeg assumes if a stream does not state one, in units of 2^-16. A U and a V
   value apply unchanged to all pixels that share them. */
static void yuv_to_rgb(const Stream *s, uint8_t *rgb) {
    const int width = (s->width + s->across - 1) / s->across, height = (s->height + s->down - 1) / s->down;
    const uint8_t *luma = s->data + HEADER, *blue = luma + (size_t)s->width * (size_t)s->height;
    const uint8_t *red = blue + (size_t)width * (size_t)height;
    const int32_t black = s->full ? 0 : 16, bright = s->full ? 65536 : 76309, half = 1 << 15;
    const int32_t red_v = s->full ? 91881 : 104597, green_u = s->full ? 22554 : 25675;
    const int32_t green_v = s->full ? 46802 : 53279, blue_u = s->full ? 116130 : 132201;
    for (int y = 0; y < s->height; y++)
        for (int x = 0; x < s->width; x++, rgb += 3) {
            size_t at = (size_t)(y / s->down) * (size_t)width + (size_t)(x / s->across);
            int32_t u = s->planes > 1 ? blue[at] - 128 : 0, v = s->planes > 1 ? red[at] - 128 : 0;
            int32_t light = (*luma++ - black) * bright + half;
            rgb[0] = clip16(light + red_v * v);
            rgb[1] = clip16(light - green_u * u - green_v * v);
            rgb[2] = clip16(light + blue_u * u);
        }
}

/* The frame in s->data as a picture. */
static int frame_image(Stream *s, SvImage *image, SvError *error) {
    char header[HEADER];
    *image = (SvImage){ 0 };
    if (s->yuv) {
        if (sv_new_image((uint64_t)s->width, (uint64_t)s->height, s->name, image, error) != 0) return -1;
        yuv_to_rgb(s, image->rgb);
        return 0;
    }
    int size = snprintf(header, sizeof header, "P%d\n%d %d\n%d\n", s->kind, s->width, s->height, s->maximum);
    uint8_t *begin = s->data + HEADER - size;
    memcpy(begin, header, (size_t)size);
    return sv_image_decode(begin, s->size + (size_t)size, s->name, image, error);
}

/* Where the frames are, so that they can be read once their number is known. */
typedef struct Store { FILE *file; int64_t *offset, total, room; } Store;

/* Copies all frames of the stream to a temporary file. In a file that supports seeking, only notes where they are. */
static int store_frames(Stream *s, Store *store, SvError *error) {
    int more;
    while ((more = next_frame(s, error)) == 1) {
        if (s->length >= 0) {
            int64_t at = tell(s->file);
            if (store->total == store->room) {
                int64_t room = 2 * store->room + 1024;
                int64_t *grown = realloc(store->offset, (size_t)room * sizeof *grown);
                if (!grown) return sv_fail(error, "%s: out of memory for the list of its frames", s->name);
                store->offset = grown;
                store->room = room;
            }
            store->offset[store->total] = at;
            if (at < 0 || s->length - at < (int64_t)s->size || !seek(s->file, at + (int64_t)s->size, SEEK_SET))
                return cut_short(s, error);
        } else {
            if (!store->file && !(store->file = tmpfile()))
                return sv_fail(error, "%s: no temporary file for its frames: %s", s->name, strerror(errno));
            if (load_frame(s, s->file, error) != 0) return -1;
            if (fwrite(s->data + HEADER, 1, s->size, store->file) != s->size)
                return sv_fail(error, "%s: no room for its frames in a temporary file: %s (fewer a second take less: "
                               "ffmpeg -vf fps=1, with --video-fps 1)", s->name, strerror(errno));
        }
        store->total++;
    }
    if (more < 0) return -1;
    if (store->total == 0) return sv_fail(error, "%s: a video without a frame", s->name);
    if (store->file && fflush(store->file) != 0)
        return sv_fail(error, "%s: no room for its frames in a temporary file: %s", s->name, strerror(errno));
    return 0;
}

static int read_stream(Stream *s, const ClipOptions *o, Clip *clip, SvError *error) {
    Store store = { 0 };
    int result = store_frames(s, &store, error);
    if (result == 0) {
        double rate = rate_of(s->name, s->rate, o, clip);
        result = new_video(s->name, store.total, rate, (double)store.total / rate, o, clip, error);
    }
    for (int i = 0; result == 0 && i < clip->video.frames.count; i++) {
        int64_t frame = clip->video.index[i], at = store.file ? frame * (int64_t)s->size : store.offset[frame];
        FILE *file = store.file ? store.file : s->file;
        SvImage image;
        if (!seek(file, at, SEEK_SET)) result = sv_fail(error, "%s: cannot be read again", s->name);
        else result = load_frame(s, file, error);
        if (result == 0) result = frame_image(s, &image, error);
        if (result == 0) result = take_frame(s->name, o, clip, i, &image, error);
    }
    if (store.file) fclose(store.file);
    free(store.offset);
    return result;
}

/* ----------------------------------------------------------------------------------------------------------- ffmpeg */

#if HAVE_SPAWN

/* A running program. Its stdout is read from `out`; its stderr is collected in `said` until it ends. */
typedef struct Child { pid_t id; FILE *out, *said; } Child;

static int child_start(const char *const *words, Child *child, SvError *error) {
    posix_spawn_file_actions_t actions;
    int ends[2], failed;
    *child = (Child){ 0 };
    if (!(child->said = tmpfile()))
        return sv_fail(error, "%s: no temporary file for what it says: %s", words[0], strerror(errno));
    if (pipe(ends) != 0) {
        fclose(child->said);
        return sv_fail(error, "%s: %s", words[0], strerror(errno));
    }
    fcntl(ends[0], F_SETFD, FD_CLOEXEC);
    fcntl(ends[1], F_SETFD, FD_CLOEXEC);
    fcntl(fileno(child->said), F_SETFD, FD_CLOEXEC);
    failed = posix_spawn_file_actions_init(&actions);
    if (!failed) {
        failed = posix_spawn_file_actions_addopen(&actions, 0, "/dev/null", O_RDONLY, 0) ||
                 posix_spawn_file_actions_adddup2(&actions, ends[1], 1) ||
                 posix_spawn_file_actions_adddup2(&actions, fileno(child->said), 2);
        failed = failed ? ENOMEM : posix_spawnp(&child->id, words[0], &actions, NULL, (char *const *)words, environ);
        posix_spawn_file_actions_destroy(&actions);
    }
    close(ends[1]);
    child->out = failed ? NULL : fdopen(ends[0], "rb");
    if (child->out) return 0;
    close(ends[0]);
    fclose(child->said);
    if (failed == ENOENT)
        return sv_fail(error, "%s is not installed; it reads videos. Without it: a folder of pictures, or frames on "
                       "standard input (--video -)", words[0]);
    if (!failed) kill(child->id, SIGKILL), waitpid(child->id, NULL, 0);
    return sv_fail(error, "%s cannot be started: %s", words[0], strerror(failed ? failed : errno));
}

/* Waits for the program to end, and kills it first unless all of its output was read. Returns 0 if it succeeded. *why:
   the first line of its stderr, or "". */
static int child_end(Child *child, bool all, SvError *why) {
    char line[400];
    int status = 0;
    fclose(child->out);
    if (!all) kill(child->id, SIGKILL);
    while (waitpid(child->id, &status, 0) < 0 && errno == EINTR) {}
    why->text[0] = 0;
    rewind(child->said);
    while (!why->text[0] && fgets(line, sizeof line, child->said)) {
        line[strcspn(line, "\r\n")] = 0;
        for (char *c = line; *c; c++) if ((unsigned char)*c < 32) *c = ' ';
        if (line[0]) sv_fail(why, "%s", line);
    }
    fclose(child->said);
    if (!why->text[0] && WIFSIGNALED(status)) sv_fail(why, "it was ended by signal %d", WTERMSIG(status));
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -1;
}

/* What ffprobe reports of a file. It counts packets, which is exact unless the file is damaged; with `decode`, it
   counts decoded frames. As in torchcodec, the rate is the number of frames divided by the time from the start of the
   first frame to the end of the last. */
typedef struct Probe { int64_t total; double rate, duration; } Probe;

static int probe_file(const char *path, const char *url, bool decode, Probe *probe, SvError *error) {
    const char *const words[] = { "ffprobe", "-v", "error", "-protocol_whitelist", "file", "-select_streams", "V:0",
                                  "-show_entries",
                                  decode ? "frame=pts_time,pkt_pts_time,duration_time,pkt_duration_time:"
                                           "stream=r_frame_rate,avg_frame_rate"
                                         : "packet=pts_time,duration_time,flags:stream=r_frame_rate,avg_frame_rate",
                                  "-of", "default", url, NULL };
    double first = INFINITY, last = -INFINITY, at = NAN, rate = 0;
    bool streams = false, dropped = false, timed = true;
    char line[512];
    Child child;
    SvError why;
    *probe = (Probe){ 0 };
    if (child_start(words, &child, error) != 0) return -1;
    double lasts = 0;
    while (fgets(line, sizeof line, child.out)) {
        char *value = strchr(line, '=');
        if (value) *value++ = 0;
        line[strcspn(line, "\r\n")] = 0;
        if (strcmp(line, "[PACKET]") == 0 || strcmp(line, "[FRAME]") == 0) at = NAN, lasts = 0, dropped = false;
        if (strcmp(line, "[STREAM]") == 0) streams = true;
        if (value && strstr(line, "pts_time") && strncmp(value, "N/A", 3) != 0) at = strtod(value, NULL);
        if (value && strstr(line, "duration_time") && strncmp(value, "N/A", 3) != 0) lasts = strtod(value, NULL);
        if (value && strcmp(line, "flags") == 0) dropped = strchr(value, 'D') != NULL;
        if (value && strstr(line, "_frame_rate") && (rate == 0 || line[0] == 'a')) {
            char *end;
            double above = strtod(value, &end), below = *end == '/' ? strtod(end + 1, NULL) : 1;
            if (above > 0 && below > 0) rate = above / below;
        }
        if ((strcmp(line, "[/PACKET]") != 0 && strcmp(line, "[/FRAME]") != 0) || dropped) continue;
        probe->total++;
        if (isnan(at)) timed = false;
        if (at < first) first = at;
        if (at + lasts > last) last = at + lasts;
    }
    int failed = child_end(&child, true, &why);
    if (failed) return sv_fail(error, "%s: ffprobe cannot read it: %s", path, why.text);
    if (!streams && probe->total == 0) return sv_fail(error, "%s: no video is in this file", path);
    if (probe->total == 0) return sv_fail(error, "%s: a video without a frame", path);
    probe->duration = last - first;
    if (!timed || !(probe->duration > 0)) probe->duration = (double)probe->total / (rate > 0 ? rate : USUAL_RATE);
    probe->rate = (double)probe->total / probe->duration;
    return 0;
}

/* Writes an ffmpeg expression that is true for these frames. It is a tree of sums, because ffmpeg rejects a sum of more
   than a hundred terms. */
static void put_choice(SvBytes *filter, const int64_t *index, int count) {
    char part[48];
    if (count == 1) {
        int size = snprintf(part, sizeof part, "eq(n,%" PRId64 ")", *index);
        sv_put(filter, part, (size_t)size);
        return;
    }
    sv_put(filter, "(", 1);
    put_choice(filter, index, count / 2);
    sv_put(filter, "+", 1);
    put_choice(filter, index + count / 2, count - count / 2);
    sv_put(filter, ")", 1);
}

/* Lets ffmpeg write the chosen frames as PPM after PPM. Returns 0, or 1 if there were fewer frames than counted, or -1
   on failure. */
static int decode_file(const char *path, const char *url, const ClipOptions *o, Clip *clip, SvError *error) {
    const SvVideo *video = &clip->video;
    Stream s = { .name = path, .length = -1 };
    SvBytes filter = { 0 };
    SvError why;
    Child child;
    char count[16];
    int result, i = 0;
    /* setpts spaces the frames evenly, so that no version of ffmpeg drops or repeats one to reach a constant rate. */
    sv_put(&filter, "select='", 8);
    put_choice(&filter, video->index, video->frames.count);
    sv_put(&filter, "',settb=1/25,setpts=N", 21);
    if (filter.failed) return free(filter.data), sv_fail(error, "%s: out of memory", path);
    snprintf(count, sizeof count, "%d", video->frames.count);
    const char *const words[] = { "ffmpeg", "-nostdin", "-v", "error", "-protocol_whitelist", "file,pipe", "-i", url,
                                  "-map", "0:V:0", "-vf", filter.data, "-r", "25", "-frames:v", count, "-f",
                                  "image2pipe", "-c:v", "ppm", "-", NULL };
    result = child_start(words, &child, error);
    free(filter.data);
    if (result != 0) return -1;
    s.file = child.out;
    bool all = false;
    while (result == 0) {
        SvImage image;
        int c = getc(s.file);
        if ((all = c == EOF) == true) break;
        ungetc(c, s.file);
        result = i == video->frames.count ? sv_fail(error, "%s: ffmpeg gives more frames than it was asked for", path)
                                          : next_frame(&s, error) == 1 ? 0 : -1;
        if (result == 0) result = load_frame(&s, s.file, error);
        if (result == 0) result = frame_image(&s, &image, error);
        if (result == 0) result = take_frame(path, o, clip, i++, &image, error);
    }
    free(s.data);
    int failed = child_end(&child, all, &why);
    if (all && failed)
        return sv_fail(error, "%s: ffmpeg failed after %d of %d frames: %s", path, i, video->frames.count,
                       why.text[0] ? why.text : "it does not say why");
    if (result != 0) return -1;
    if (i == video->frames.count) return 0;
    sv_fail(error, "%s: ffmpeg gave %d of %d frames%s%s", path, i, video->frames.count, why.text[0] ? ": " : "",
            why.text);
    return 1;
}

static int read_film(const char *path, const ClipOptions *o, Clip *clip, SvError *error) {
    Probe probe;
    size_t room = strlen(path) + 6;
    char *url = malloc(room);
    if (!url) return sv_fail(error, "%s: out of memory", path);
    snprintf(url, room, "file:%s", path);                        /* or a name could act as an option or a protocol */
    int result = 1;
    for (int decode = 0; decode < 2 && result == 1; decode++) {
        clip_free(clip);
        result = probe_file(path, url, decode, &probe, error);
        if (result == 0) result = new_video(path, probe.total, probe.rate, probe.duration, o, clip, error);
        if (result == 0) result = decode_file(path, url, o, clip, error);
    }
    free(url);
    return result == 0 ? 0 : -1;
}

#else

static int read_film(const char *path, const ClipOptions *o, Clip *clip, SvError *error) {
    (void)o, (void)clip;
    return sv_fail(error, "%s: on this system ffmpeg must be started by hand: ffmpeg -i VIDEO -f yuv4mpegpipe -pix_fmt "
                   "yuv420p frames.y4m, then --video frames.y4m", path);
}

#endif

/* -------------------------------------------------------------------------------------------------------- any video */

int clip_read(const char *path, const ClipOptions *o, Clip *clip, SvError *error) {
    bool standard = strcmp(path, "-") == 0;
    Stream s = { .file = stdin, .name = standard ? "standard input" : path, .length = -1 };
    char **names, begins[10] = "";
    int64_t count;
    int result;
    *clip = (Clip){ 0 };
    if (o->model->config.video_num_frames == 0 || o->model->config.vision_num_hidden_layers == 0)
        return sv_video_new(o->model, 1, 1, 1, 0, 0, &clip->video, error);          /* reports the error */
    if (!standard && (count = sv_folder(path, &names)) >= 0) {
        result = read_folder(path, names, count, o, clip, error);
        while (count > 0) free(names[--count]);
        free(names);
    } else if (!standard && (errno != ENOTDIR || !(s.file = sv_fopen(path, "rb")))) {
        result = sv_fail(error, "%s: cannot be opened: %s", path, strerror(errno));
    } else if (standard || !seek(s.file, 0, SEEK_END)) {
        result = read_stream(&s, o, clip, error);
    } else {
        s.length = tell(s.file);
        rewind(s.file);
        bool empty = fread(begins, 1, 9, s.file) == 0;
        rewind(s.file);
        if (empty) result = sv_fail(error, "%s: the file is empty", path);
        else if (memcmp(begins, "YUV4MPEG2", 9) == 0 || memcmp(begins, "P6", 2) == 0 || memcmp(begins, "P5", 2) == 0)
            result = read_stream(&s, o, clip, error);
        else result = read_film(path, o, clip, error);
    }
    if (s.file && s.file != stdin) fclose(s.file);
    free(s.data);
    if (result != 0) clip_free(clip);
    return result;
}
