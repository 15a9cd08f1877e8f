/* picture.c: what several codecs need: the error for formats that are not read, and turning a picture upright. */
#include "codec.h"

#include <stdlib.h>
#include <string.h>

/* Fails with "NAME: WHAT not read" and how to convert the file; what: "WebP pictures are". */
int sv_not_read(const char *name, const char *what, SvError *error) {
    if (strcmp(name, SV_STDIN) == 0)
        return sv_fail(error, "%s: %s not read; give it as a PNG, JPEG or PNM picture", name, what);
    const char *slash = strrchr(name, '/'), *dot = strrchr(slash ? slash : name, '.');
    int stem = dot && dot != name ? (int)(dot - name) : (int)strlen(name);
    if (*name == '-' || strpbrk(name, "'%:") || strlen(name) > 200 || strcmp(name + stem, ".png") == 0)
        return sv_fail(error, "%s: %s not read; convert it to PNG, JPEG or PNM", name, what);   /* without a command */
    return sv_fail(error, "%s: %s not read; convert it: magick '%s' '%.*s.png'", name, what, name, stem, name);
}

/* ------------------------------------------------------------------------------------------------ orientation */

/* The orientation (1..8) in the TIFF block of an EXIF record, 0 if it states none. A value outside 1..8 turns nothing
   and counts as 1. Reading stops where Pillow's ImageFileDirectory_v2.load stops. An earlier tag whose data lies
   outside the block ends it; a tag larger than the block can hold is skipped. */
int sv_exif_orientation(const uint8_t *tiff, size_t size) {
    static const uint8_t unit[14] = { 0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4 };   /* bytes, by TIFF type */
    for (int i = 0; i < 2 && size >= 6 && memcmp(tiff, "Exif\0", 6) == 0; i++) {
        tiff += 6;
        size -= 6;
    }
    if (size < 8 || (memcmp(tiff, "MM", 2) != 0 && memcmp(tiff, "II", 2) != 0)) return 0;
    if (memcmp(tiff + 2, "\0*", 2) != 0 && memcmp(tiff + 2, "*\0", 2) != 0) return 0;
    bool big = tiff[0] == 'M';
    uint64_t at = big ? be32(tiff + 4) : le32(tiff + 4), total = 0;
    if (at > size || size - at < 2) return 0;
    uint32_t tags = big ? be16(tiff + at) : le16(tiff + at);
    at += 2;
    for (; tags && size - at >= 12; tags--, at += 12) {
        const uint8_t *entry = tiff + at, *value = entry + 8;
        uint32_t tag = big ? be16(entry) : le16(entry), type = big ? be16(entry + 2) : le16(entry + 2);
        uint64_t bytes = big ? be32(entry + 4) : le32(entry + 4);
        if (type == 16) bytes *= 8;
        else if (type < 14) bytes *= unit[type];
        else continue;
        if (bytes > 4) {
            uint64_t offset = big ? be32(value) : le32(value);
            total += bytes;
            if (total > size) continue;
            if (offset > size || size - offset < bytes) return 0;
            value = tiff + offset;
        }
        if (tag != 274 || bytes == 0) continue;
        uint32_t number = 1;
        if (type == 3 || type == 8) number = big ? be16(value) : le16(value);
        else if (type == 4 || type == 9 || type == 13) number = big ? be32(value) : le32(value);
        else if (type == 6) number = value[0];
        return number >= 1 && number <= 8 ? (int)number : 1;
    }
    return 0;
}

/* The same from an XMP packet, which Pillow searches for tiff:Orientation(="|>)([0-9]) when EXIF states none. */
int sv_xmp_orientation(const uint8_t *xmp, size_t size) {
    static const char key[] = "tiff:Orientation";
    const size_t length = sizeof key - 1;
    for (size_t i = 0; size >= length + 2 && i <= size - length - 2; i++) {
        if (xmp[i] != 't' || memcmp(xmp + i, key, length) != 0) continue;
        const uint8_t *p = xmp + i + length;
        if (p[0] == '=' && p[1] == '"' && i + length + 2 < size) p += 2;
        else if (p[0] == '>') p += 1;
        else continue;
        if (*p >= '0' && *p <= '9') return *p >= '1' && *p <= '8' ? *p - '0' : 1;
    }
    return 0;
}

/* Turns the stored picture upright. Orientations 5..8 are the transposed ones. */
int sv_orient(SvImage *image, int orientation, const char *name, SvError *error) {
    if (orientation < 2 || orientation > 8) return 0;
    const ptrdiff_t w = image->width, h = image->height;
    const ptrdiff_t first[9] = { 0, 0, w - 1, h * w - 1, (h - 1) * w, 0, (h - 1) * w, h * w - 1, w - 1 };
    const ptrdiff_t right[9] = { 0, 1, -1, -1, 1, w, -w, -w, w };       /* from an output pixel to its neighbour's */
    const ptrdiff_t down[9] = { 0, w, w, -w, -w, 1, 1, -1, -1 };        /* ... in the stored picture, in pixels     */
    SvImage turned = {0};
    bool transposed = orientation >= 5;
    if (sv_new_image((uint64_t)(transposed ? h : w), (uint64_t)(transposed ? w : h), name, &turned, error)) return -1;
    uint8_t *alpha = image->alpha ? malloc((size_t)w * (size_t)h) : NULL;
    if (image->alpha && !alpha) {
        sv_image_free(&turned);
        return sv_fail(error, "%s: not enough memory to turn the picture", name);
    }
    uint8_t *to = turned.rgb, *to_alpha = alpha;
    for (int y = 0; y < turned.height; y++) {
        const ptrdiff_t row = first[orientation] + y * down[orientation];
        for (int x = 0; x < turned.width; x++, to += 3) {
            const uint8_t *from = image->rgb + 3 * (row + x * right[orientation]);
            to[0] = from[0], to[1] = from[1], to[2] = from[2];
        }
        for (int x = 0; alpha && x < turned.width; x++) *to_alpha++ = image->alpha[row + x * right[orientation]];
    }
    free(image->rgb);
    free(image->alpha);
    image->width = turned.width;
    image->height = turned.height;
    image->rgb = turned.rgb;
    image->alpha = alpha;
    return 0;
}
