/* codecs.c: a picture file or its bytes -> RGB pixels. Recognises the file format, calls its codec, and turns the
   picture upright.

     the file's bytes                          told apart by their first bytes, never by the file's name
       |  png.c     chunks -> inflate -> unfilter -> Adam7      PngImagePlugin.py, ZipDecode.c
       |  jpeg.c    Huffman -> inverse DCT -> YCbCr to RGB      JpegImagePlugin.py, libjpeg-turbo
       |  pnm.c     header -> samples scaled by maxval          PpmImagePlugin.py
     [h, w, 3] as stored
       |  orient    EXIF's or XMP's orientation, 1..8           ImageOps.exif_transpose
     [height, width, 3]                                         SvImage */
#include "codec.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------------------------------------ files */

/* Formats that are recognised only to say how to convert them. */
static const struct { uint8_t at, size; const char *bytes, *kind; } unread[] = {
    { 0, 4, "GIF8", "GIF" }, { 8, 4, "WEBP", "WebP" }, { 0, 2, "BM", "BMP" }, { 0, 4, "II*\0", "TIFF" },
    { 0, 4, "MM\0*", "TIFF" }, { 0, 4, "II+\0", "TIFF" }, { 0, 4, "MM\0+", "TIFF" },
    { 4, 8, "ftypavif", "AVIF" }, { 4, 8, "ftypavis", "AVIF" }, { 4, 7, "ftyphei", "HEIC" },
    { 4, 7, "ftyphev", "HEIC" }, { 4, 8, "ftypmif1", "HEIF" }, { 4, 8, "ftypmsf1", "HEIF" },
    { 4, 8, "ftypcrx ", "Canon raw" }, { 4, 8, "JXL \r\n\x87\n", "JPEG XL" }, { 0, 2, "\xff\x0a", "JPEG XL" },
    { 4, 8, "jP  \r\n\x87\n", "JPEG 2000" }, { 0, 4, "\xff\x4f\xff\x51", "JPEG 2000" }, { 0, 4, "8BPS", "Photoshop" },
    { 0, 4, "%PDF", "PDF" }, { 0, 4, "<svg", "SVG" }, { 0, 4, "\0\0\1\0", "icon" }, { 0, 4, "qoif", "QOI" },
    { 0, 4, "\x76\x2f\x31\x01", "OpenEXR" }, { 0, 10, "#?RADIANCE", "Radiance" }, { 0, 4, "DDS ", "DDS" },
    { 0, 2, "P7", "PAM" }, { 0, 2, "Pf", "PFM" }, { 0, 2, "PF", "PFM" }, { 0, 8, "\x8aMNG\r\n\x1a\n", "MNG" },
    { 4, 4, "ftyp", NULL }, { 0, 4, "\x1a\x45\xdf\xa3", NULL }, { 8, 4, "AVI ", NULL },     /* NULL: a video */
};

static bool is_png(const uint8_t *p, size_t size) { return size >= 8 && memcmp(p, "\x89PNG\r\n\x1a\n", 8) == 0; }
static bool is_jpeg(const uint8_t *p, size_t size) { return size >= 3 && memcmp(p, "\xff\xd8\xff", 3) == 0; }
static bool is_pnm(const uint8_t *p, size_t size) {
    return size >= 3 && p[0] == 'P' && p[1] >= '1' && p[1] <= '6' && is_space(p[2]);
}

/* Returns 0 if the data begins like a picture in a supported format. */
static int check_kind(const uint8_t *data, size_t size, const char *name, SvError *error) {
    if (size == 0) return sv_fail(error, "%s: the file is empty", name);
    if (is_png(data, size) || is_jpeg(data, size) || is_pnm(data, size)) return 0;

    for (size_t i = 0; i < sizeof unread / sizeof unread[0]; i++) {
        if (size < (size_t)unread[i].at + unread[i].size) continue;
        if (memcmp(data + unread[i].at, unread[i].bytes, unread[i].size) != 0) continue;
        if (!unread[i].kind)
            return sv_fail(error, "%s: this is a video, not a picture; take one out of it: "
                           "ffmpeg -i '%.200s' -frames:v 1 frame.png", name, name);
        char what[80];
        snprintf(what, sizeof what, "%s pictures are", unread[i].kind);
        return sv_not_read(name, what, error);
    }
    if ((size < 8 && memcmp(data, "\x89PNG\r\n\x1a\n", size) == 0) || (size < 3 && memcmp(data, "\xff\xd8", size) == 0)
        || (size < 3 && data[0] == 'P' && (size < 2 || (data[1] >= '1' && data[1] <= '6'))))
        return sv_fail(error, "%s: the file is cut short: it has only %d bytes", name, (int)size);
    if (size >= 4 && memcmp(data, "\x89PNG", 4) == 0)
        return sv_fail(error, "%s: a damaged PNG file: its line ends were changed, as by a transfer as text", name);
    return sv_fail(error, "%s: not a picture that is read here: neither PNG, JPEG nor PNM (PBM, PGM, PPM)", name);
}

int sv_image_decode(const void *data, size_t size, const char *name, SvImage *image, SvError *error) {
    int orientation = 1, result;
    *image = (SvImage){0};
    if (check_kind(data, size, name, error)) return -1;
    if (is_png(data, size)) result = sv_decode_png(data, size, name, image, &orientation, error);
    else if (is_jpeg(data, size)) result = sv_decode_jpeg(data, size, name, image, &orientation, error);
    else result = sv_decode_pnm(data, size, name, image, error);
    if (result == 0) result = sv_orient(image, orientation, name, error);
    if (result) sv_image_free(image);
    return result;
}

int sv_image_read(const char *path, SvImage *image, SvError *error) {
    /* A file larger than this is no picture within SV_MAX_PIXELS, but a device or a mistake. */
    const size_t most = (size_t)SV_MAX_PIXELS * 8 + ((size_t)64 << 20);
    const bool is_stdin = strcmp(path, "-") == 0;
    const char *name = is_stdin ? SV_STDIN : path;
    *image = (SvImage){0};
    errno = 0;
    FILE *file = is_stdin ? stdin : sv_fopen(path, "rb");
    if (!file) return sv_fail(error, "%s: cannot be opened: %s", name, strerror(errno));

    uint8_t *data = NULL;
    size_t size = 0, capacity = 0;
    int result = 0;
    while (result == 0) {
        if (size == capacity) {
            capacity = capacity ? capacity * 2 : 65536;
            uint8_t *larger = size < most ? realloc(data, capacity) : NULL;
            if (!larger) {
                result = size < most ? sv_fail(error, "%s: not enough memory to read the file", name)
                                     : sv_fail(error, "%s: larger than any picture that is read here", name);
                break;
            }
            data = larger;
        }
        size_t part = fread(data + size, 1, capacity - size, file);
        if (ferror(file)) result = sv_fail(error, "%s: cannot be read: %s", name, strerror(errno));
        else if (size == 0) result = check_kind(data, part, name, error);
        size += part;
        if (size < capacity) break;
    }
    if (!is_stdin) fclose(file);
    if (result == 0) result = sv_image_decode(data, size, name, image, error);
    free(data);
    return result;
}
