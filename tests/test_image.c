/* test_image.c: image.c against Pillow and transformers, through the manifests that golden_images.py and
   golden_jpeg.py wrote (the format is described in golden_images.py), and against damaged files. Run from the
   repository root. */
#include "../codecs/codec.h"
#include "greatest.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const folders[] = { "tests/golden/images", "tests/golden/jpeg" };

/* Reads a whole file; the caller frees it. */
static uint8_t *load(const char *path, size_t *size)
{
    FILE *file = fopen(path, "rb");
    if (!file) return NULL;
    fseek(file, 0, SEEK_END);
    *size = (size_t)ftell(file);
    rewind(file);
    uint8_t *data = malloc(*size + 1);
    if (data) *size = fread(data, 1, *size, file);
    fclose(file);
    return data;
}

static uint32_t crc_of(const SvImage *image)
{
    return sv_crc32(0, image->rgb, (size_t)image->width * (size_t)image->height * 3);
}

/* ------------------------------------------------------------------------------------------------ the manifests */

static int check_line(const char *folder, const char *line)
{
    char file[200], path[300];
    SvImage image, out;
    SvTiles tiles;
    SvError error = {""};
    int w, h, longest, side, split, rows, cols, count, hides, good = 0, end = 0;
    unsigned crc, color;
    if (sscanf(line, "%*s %199s", file) != 1) return 0;
    snprintf(path, sizeof path, "%s/%s", folder, file);
    int read = sv_image_read(path, &image, &error);
    if (strncmp(line, "fails ", 6) == 0) {
        const char *text = strchr(line + 6, ' ') + 1;
        good = read == -1 && !image.rgb && strncmp(error.text, path, strlen(path)) == 0 && strstr(error.text, text)
            && !strchr(error.text, '\n');
    } else if (read) {
        good = 0;
    } else if (sscanf(line, "pixels %*s %d %d %x %n", &w, &h, &crc, &end) == 3) {
        const char *note = image.note.text, *words = line + end;
        good = w == image.width && h == image.height && crc == crc_of(&image)
            && (*words ? strncmp(note, path, strlen(path)) == 0 && strstr(note, words) && !strchr(note, '\n')
                       : folder != folders[1] || !*note);
    } else if (sscanf(line, "resize %*s %d %d %x", &w, &h, &crc) == 3) {
        good = sv_image_resize(&image, w, h, &out, &error) == 0 && out.width == w && out.height == h
            && crc == crc_of(&out);
        sv_image_free(&out);
    } else if (sscanf(line, "split %*s %d %d %d %d %d %d %x", &longest, &side, &split, &rows, &cols, &count, &crc)
               == 7) {
        good = sv_image_split(&image, longest, side, split, &tiles, &error) == 0 && tiles.rows == rows
            && tiles.cols == cols && tiles.count == count && tiles.side == side
            && crc == sv_crc32(0, tiles.rgb, (size_t)count * (size_t)side * (size_t)side * 3);
        sv_tiles_free(&tiles);
    } else if (sscanf(line, "paint %*s %x %x", &color, &crc) == 2) {
        const uint8_t background[3] = { (uint8_t)(color >> 16), (uint8_t)(color >> 8), (uint8_t)color };
        good = sv_image_paint(&image, background, &out, &error) == 0 && crc == crc_of(&out) && !out.alpha
            && !out.has_key && out.width == image.width && out.height == image.height;
        sv_image_free(&out);
    } else if (sscanf(line, "hides %*s %d", &hides) == 1) {
        good = hides ? strncmp(image.note.text, path, strlen(path)) == 0 && strstr(image.note.text, "transparent")
                     : !image.note.text[0];
    }
    if (!good) printf("\n%s: %s\n  %s\n", folder, line, read ? error.text : image.note.text);
    sv_image_free(&image);
    return good;
}

static enum greatest_test_res check_manifest(const char *folder)
{
    char path[300];
    size_t size, checked = 0, wrong = 0;
    snprintf(path, sizeof path, "%s/manifest.txt", folder);
    char *text = (char *)load(path, &size);
    ASSERTm("no manifest: tests run from the repository's root", text);
    text[size] = 0;
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        if (*line == '#') continue;
        checked++;
        if (!check_line(folder, line)) wrong++;
    }
    free(text);
    ASSERT(checked > 10);
    ASSERT_EQ_FMT((size_t)0, wrong, "%zu");
    PASS();
}

TEST image_manifest(void) { return check_manifest(folders[0]); }
TEST jpeg_manifest(void) { return check_manifest(folders[1]); }

/* ------------------------------------------------------------------------------------------------ damaged files */

static const char *const small_files[] = {
    "images/color2_8bit.png", "images/color3_4bit_adam7.png", "images/color0_16bit.png", "images/many_idat.png",
    "images/stored_many_idat.png", "images/xmp_deflated.png", "images/raw_profile_deflated.png",
    "images/exif_long.png", "images/alpha6_8_some.png", "images/alpha4_16.png", "images/alpha_exif_6.png",
    "images/trns_late_many.png", "images/trns_rgb8.png",
    "images/p1.pbm", "images/p2_100.pgm", "images/p3_1000.ppm", "images/p4.pbm",
    "images/p5_1000.pgm", "images/p6_255.ppm", "images/comments.ppm", "jpeg/size_3x5.jpg",
    "jpeg/size_8x8_progressive.jpg", "jpeg/smooth_low_band_2x2.jpg", "jpeg/sampling_2x2_width_5.jpg" };

/* A prefix is either refused with a sentence or, where only the end of the file is missing, read like the whole file.
   The copy has exactly the prefix's size, so that a sanitizer detects every read beyond it. */
TEST cut_at_every_byte(const char *name)
{
    char path[300];
    size_t size;
    SvImage whole, image;
    SvError error;
    snprintf(path, sizeof path, "tests/golden/%s", name);
    uint8_t *data = load(path, &size);
    ASSERTm(path, data);
    ASSERT_EQm(path, 0, sv_image_decode(data, size, name, &whole, &error));
    size_t refused = 0;
    for (size_t n = 0; n < size; n++) {
        uint8_t *copy = malloc(n + !n);
        ASSERT(copy);
        if (n) memcpy(copy, data, n);
        error.text[0] = 0;
        if (sv_image_decode(copy, n, name, &image, &error)) {
            ASSERTm(path, !image.rgb && strncmp(error.text, name, strlen(name)) == 0 && strlen(error.text) > 20);
            refused++;
        } else if (data[0] != 'P' || data[1] == '1' || data[1] > '3') {         /* cut ASCII numbers are numbers */
            bool same = image.width == whole.width && image.height == whole.height;
            ASSERTm(path, strstr(name, "xmp") || (same && crc_of(&image) == crc_of(&whole)));
        }
        sv_image_free(&image);
        free(copy);
    }
    ASSERTm(path, refused + 64 > size || refused * 10 > size * 7);
    sv_image_free(&whole);
    free(data);
    PASS();
}

TEST change_every_byte(const char *name)
{
    static const uint8_t flips[] = { 0x01, 0x80, 0xff, 0x20 }, background[3] = { 255, 0, 100 };
    char path[300];
    size_t size;
    SvImage image, painted;
    SvError error;
    snprintf(path, sizeof path, "tests/golden/%s", name);
    uint8_t *loaded = load(path, &size), *data = malloc(size + !size);      /* of its exact size, as above */
    ASSERTm(path, loaded && data);
    memcpy(data, loaded, size);
    free(loaded);
    for (size_t i = 0; i < size; i++)
        for (size_t f = 0; f < sizeof flips; f++) {
            data[i] ^= flips[f];
            error.text[0] = 0;
            int result = sv_image_decode(data, size, name, &image, &error);
            ASSERTm(path, (result == 0) == (image.rgb != NULL));
            ASSERTm(path, result == 0 || strncmp(error.text, name, strlen(name)) == 0);
            for (int way = 0; way < 2 && result == 0 && (image.alpha || image.has_key); way++) {
                ASSERT_EQm(path, 0, sv_image_paint(&image, way ? background : NULL, &painted, &error));
                sv_image_free(&painted);
            }
            sv_image_free(&image);
            data[i] ^= flips[f];
        }
    free(data);
    PASS();
}

/* ------------------------------------------------------------------------------------------------ inflate

   One gray line of eight pixels, its IDAT written by hand. The zlib header is 78 01; the line is 00 (no filter) and
   eight bytes. */
static size_t tiny_png(uint8_t *png, const uint8_t *stream, size_t size)
{
    static const uint8_t header[] = { 0x89, 'P', 'N', 'G', '\r', '\n', 0x1a, '\n', 0, 0, 0, 13, 'I', 'H', 'D', 'R',
        0, 0, 0, 8, 0, 0, 0, 1, 8, 0, 0, 0, 0 };
    memcpy(png, header, sizeof header);
    size_t at = sizeof header;
    uint32_t crc = sv_crc32(0, png + 12, 17);
    for (int i = 0; i < 4; i++) png[at++] = (uint8_t)(crc >> (24 - 8 * i));
    png[at++] = 0, png[at++] = 0, png[at++] = 0, png[at++] = (uint8_t)size;
    memcpy(png + at, "IDAT", 4);
    memcpy(png + at + 4, stream, size);
    return at + 4 + size;
}

#define INFLATES(expected, ...)                                                                                        \
    do {                                                                                                               \
        static const uint8_t stream[] = { __VA_ARGS__ };                                                               \
        uint8_t png[256];                                                                                              \
        SvImage image;                                                                                                 \
        SvError error = {""};                                                                                          \
        size_t size = tiny_png(png, stream, sizeof stream);                                                            \
        int result = sv_image_decode(png, size, "tiny", &image, &error), good = result == -1;                          \
        const char *text = (expected);                                                                                 \
        if (text[0] == '=') {                                                                                          \
            good = result == 0;                                                                                        \
            for (int i = 0; good && i < 8; i++) good = image.rgb[3 * i] == (uint8_t)text[i + 1];                       \
        } else {                                                                                                       \
            good = good && strstr(error.text, text);                                                                   \
        }                                                                                                              \
        if (!good) printf("\n%s\n", error.text);                                                                       \
        sv_image_free(&image);                                                                                         \
        ASSERTm(#__VA_ARGS__, good);                                                                                   \
    } while (0)

TEST inflate_blocks(void)
{
    /* stored; two stored blocks, one of them empty; wrong complement of its length; truncated before the checksum */
    INFLATES("=abcdefgh", 0x78, 1, 1, 9, 0, 0xf6, 0xff, 0, 'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 0x0e, 1, 3, 0x25);
    INFLATES("=abcdefgh", 0x78, 1, 0, 0, 0, 0xff, 0xff, 1, 9, 0, 0xf6, 0xff, 0, 'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h');
    INFLATES("checksum of its", 0x78, 1, 1, 9, 0, 0xf6, 0xff, 0, 'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 0, 0, 0, 0);
    INFLATES("decompressed", 0x78, 1, 1, 9, 0, 0xf6, 0xfe, 0, 'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h');
    INFLATES("cut short", 0x78, 1, 1, 9, 0, 0xf6, 0xff, 0, 'a', 'b', 'c', 'd', 'e', 'f', 'g');
    INFLATES("fewer pixels", 0x78, 1, 1, 0, 0, 0xff, 0xff, 0, 0, 0, 1);

    /* the wrapper: method, check bits, a preset dictionary, a block of type 3, nothing */
    INFLATES("decompressed", 0x79, 1, 1, 9, 0, 0xf6, 0xff);
    INFLATES("decompressed", 0x78, 2, 1, 9, 0, 0xf6, 0xff);
    INFLATES("decompressed", 0x78, 0x20, 1, 9, 0, 0xf6, 0xff);
    INFLATES("decompressed", 0x78, 1, 7, 0, 0);
    INFLATES("cut short", 0x78);

    /* fixed codes: the literal 0, then a match of 8 at distance 1; one of 9, so that the stream is longer than the
       picture; a match before the first byte; distance code 30; length code 286 */
    INFLATES("=\0\0\0\0\0\0\0\0", 0x78, 1, 0x63, 0x80, 0x01, 0x00, 0x00, 0x09, 0x00, 0x01);
    INFLATES("checksum of its pixels", 0x78, 1, 0x63, 0x80, 0x01, 0x00, 0x00, 0x09, 0x00, 0x02);
    INFLATES("=\0\0\0\0\0\0\0\0", 0x78, 1, 0x63, 0x80, 0x03, 0x00, 0, 0, 0, 0);
    INFLATES("decompressed", 0x78, 1, 0x03, 0x02, 0x00, 0x00);
    INFLATES("decompressed", 0x78, 1, 0x63, 0x00, 0x3e, 0x00, 0x00);
    INFLATES("decompressed", 0x78, 1, 0x63, 0x18, 0x03, 0x00, 0x00);

    /* dynamic codes: 0 and a match of 8 at distance 1; a distance without a code; too many symbols; code lengths'
       codes that are over-subscribed, empty, incomplete; nothing to repeat, too much of it; no end of the block */
    INFLATES("=\0\0\0\0\0\0\0\0", 0x78, 1, 0x35, 0xe0, 1, 9, 0, 0, 0, 0x80, 0x20, 0xf8, 0x7f, 0x75, 0, 0xa4, 5);
    INFLATES("decompressed", 0x78, 1, 0x35, 0xe0, 1, 9, 0, 0, 0, 0x80, 0x20, 0xf8, 0x7f, 0x75, 0, 0xa4, 7, 0, 0);
    INFLATES("decompressed", 0x78, 1, 0xfd, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff);
    INFLATES("decompressed", 0x78, 1, 5, 0xe0, 0x93, 0x24, 0x49, 0x92, 0x24, 0x49, 0x92, 0);
    INFLATES("decompressed", 0x78, 1, 5, 0xe0, 1, 0, 0, 0, 0, 0, 0, 0);
    INFLATES("decompressed", 0x78, 1, 5, 0xe0, 1, 4, 0, 0, 0, 0, 0, 0);
    INFLATES("decompressed", 0x78, 1, 5, 0xe0, 3, 0, 0, 0, 0, 0, 0x10, 4);
    INFLATES("decompressed", 0x78, 1, 5, 0xe0, 0x81, 4, 0, 0, 0, 0, 0, 0xfc, 0xff, 3);
    INFLATES("decompressed", 0x78, 1, 5, 0xe0, 0x81, 4, 0, 0, 0, 0, 0, 0xfc, 0x6f, 3);
    PASS();
}

/* ------------------------------------------------------------------------------------------------ JPEG's arithmetic

   The vector code and plain C must agree on whatever a file may hold. */
static uint32_t random_bits(void)
{
    static uint32_t state = 1;
    state = state * 1664525 + 1013904223;
    return state >> 8;
}

/* Blocks with few coefficients and many, none in some rows, of any magnitude up to the last bit. */
TEST jpeg_inverse_dct(void)
{
    enum { STRIDE = 11 };
    static const int quants[] = { 1, 16, 255, 4096, 65535 };
    if (sv_jpeg_kernels.idct == sv_jpeg_plain.idct) SKIP();
    for (int round = 0; round < 40000; round++) {
        int16_t coefficients[64] = { 0 };
        uint16_t quant[64];
        uint8_t out[2][8 * STRIDE] = { { 0 } };
        int size = 1 + (int)(random_bits() % 16), count = (int)(random_bits() % 65), from = round % 8 ? 64 : 8;
        int most = quants[random_bits() % (sizeof quants / sizeof quants[0])];
        for (int i = 0; i < count; i++)
            coefficients[random_bits() % (unsigned)from] = (int16_t)((int)(random_bits() & 0xffff) % (1 << size) -
                                                                     (1 << (size - 1)));
        if (round % 10 == 1) coefficients[random_bits() % 64] = round % 20 == 1 ? -32768 : 32767;
        for (int i = 0; i < 64; i++) quant[i] = (uint16_t)(random_bits() % (unsigned)most + 1);
        sv_jpeg_kernels.idct(coefficients, quant, out[0], STRIDE);
        sv_jpeg_plain.idct(coefficients, quant, out[1], STRIDE);
        ASSERT_MEM_EQ(out[1], out[0], sizeof out[0]);
    }
    PASS();
}

/* Rows of every length around the vector widths, of random samples and of extremes only. */
TEST jpeg_upsampling(void)
{
    enum { MOST = 70 };
    if (sv_jpeg_kernels.upsample_2x2 == sv_jpeg_plain.upsample_2x2) SKIP();
    for (int n = 1; n <= MOST; n++)
        for (int round = 0; round < 50; round++) {
            uint8_t out[2][2 * MOST + 1] = { { 0 } }, *row[2];
            for (int k = 0; k < 2; k++) {
                row[k] = malloc((size_t)n);                 /* of exactly this size, for the sanitizers */
                ASSERT(row[k]);
                for (int x = 0; x < n; x++)
                    row[k][x] = (uint8_t)(round % 2 ? random_bits() : random_bits() % 2 ? 255 : 0);
            }
            sv_jpeg_kernels.upsample_2x1(row[0], n, out[0]);
            sv_jpeg_plain.upsample_2x1(row[0], n, out[1]);
            ASSERT_MEM_EQ(out[1], out[0], sizeof out[0]);
            sv_jpeg_kernels.upsample_2x2(row[0], row[1], n, out[0]);
            sv_jpeg_plain.upsample_2x2(row[0], row[1], n, out[1]);
            ASSERT_MEM_EQ(out[1], out[0], sizeof out[0]);
            sv_jpeg_kernels.upsample_1x2(row[0], row[1], 1 + n % 2, n, out[0]);
            sv_jpeg_plain.upsample_1x2(row[0], row[1], 1 + n % 2, n, out[1]);
            ASSERT_MEM_EQ(out[1], out[0], sizeof out[0]);
            free(row[0]);
            free(row[1]);
        }
    PASS();
}

/* All colours, then rows of every length. */
TEST jpeg_colours(void)
{
    uint8_t luma[256], blue[256], red[256], out[2][3 * 256 + 1] = { { 0 } };
    if (sv_jpeg_kernels.ycc_to_rgb == sv_jpeg_plain.ycc_to_rgb) SKIP();
    for (int x = 0; x < 256; x++) luma[x] = (uint8_t)x;
    for (int cb = 0; cb < 256; cb++)
        for (int cr = 0; cr < 256; cr++) {
            memset(blue, cb, sizeof blue);
            memset(red, cr, sizeof red);
            sv_jpeg_kernels.ycc_to_rgb(luma, blue, red, 256, out[0]);
            sv_jpeg_plain.ycc_to_rgb(luma, blue, red, 256, out[1]);
            ASSERT_MEM_EQ(out[1], out[0], sizeof out[0]);
        }
    for (int n = 1; n <= 70; n++) {
        memset(out, 0, sizeof out);
        for (int x = 0; x < n; x++) {
            luma[x] = (uint8_t)random_bits();
            blue[x] = (uint8_t)random_bits();
            red[x] = (uint8_t)random_bits();
        }
        sv_jpeg_kernels.ycc_to_rgb(luma, blue, red, n, out[0]);
        sv_jpeg_plain.ycc_to_rgb(luma, blue, red, n, out[1]);
        ASSERT_MEM_EQ(out[1], out[0], sizeof out[0]);
    }
    PASS();
}

/* ------------------------------------------------------------------------------------------------ transparency */

/* Only transparent pixels cost an alpha plane or give a key: an alpha channel or a tRNS chunk alone does not. */
TEST alpha_planes(void)
{
    static const char *const opaque[] = { "alpha6_8_none.png", "alpha6_16_none.png", "alpha4_8_none.png",
        "trns_palette_opaque.png", "trns_gray2.png", "color2_8bit_adam7.png", "case_word_white.png", "p1.pbm" };
    static const char *const transparent[] = { "alpha6_8_some.png", "alpha6_16.png", "alpha4_8_all.png",
        "trns_palette_partial.png", "trns_palette_one.png", "trns_late_many.png", "trns_gray8.png",
        "trns_rgb16_low.png", "trns_exif_6.png" };
    char path[300];
    SvImage image;
    SvError error;
    for (size_t i = 0; i < sizeof opaque / sizeof opaque[0]; i++) {
        snprintf(path, sizeof path, "tests/golden/images/%s", opaque[i]);
        ASSERT_EQm(path, 0, sv_image_read(path, &image, &error));
        ASSERTm(path, !image.alpha && !image.has_key && !image.note.text[0]);
        sv_image_free(&image);
    }
    for (size_t i = 0; i < sizeof transparent / sizeof transparent[0]; i++) {
        snprintf(path, sizeof path, "tests/golden/images/%s", transparent[i]);
        ASSERT_EQm(path, 0, sv_image_read(path, &image, &error));
        ASSERTm(path, image.alpha);
        sv_image_free(&image);
    }
    PASS();
}

/* ------------------------------------------------------------------------------------------------ limits */

TEST refusals(void)
{
    SvImage image, out;
    SvTiles tiles;
    SvError error;
    uint8_t pixels[12] = {0};
    SvImage two = { .width = 2, .height = 2, .rgb = pixels };
    ASSERT_EQ(-1, sv_image_read("tests/golden/images/not there.png", &image, &error));
    ASSERT(strncmp(error.text, "tests/golden/images/not there.png: ", 35) == 0);
    ASSERT_EQ(-1, sv_image_read("tests", &image, &error));
    ASSERT(strncmp(error.text, "tests: ", 7) == 0);
    ASSERT_EQ(-1, sv_image_read("tests", &image, NULL));
    ASSERT_EQ(-1, sv_image_resize(&two, 0, 1, &out, &error));
    ASSERT_EQ(-1, sv_image_resize(&two, 1, -1, &out, &error));
    ASSERT_EQ(-1, sv_image_resize(&two, SV_MAX_SIDE + 1, 1, &out, &error));
    ASSERT_EQ(-1, sv_image_resize(&two, SV_MAX_SIDE, SV_MAX_SIDE, &out, &error));
    ASSERT_EQ(-1, sv_image_split(&two, 0, 2, true, &tiles, &error));
    ASSERT_EQ(-1, sv_image_split(&two, SV_EXACT_SIZE(2, 0), 2, true, &tiles, &error));
    ASSERT_EQ(-1, sv_image_split(&two, SV_EXACT_SIZE(2, 4097), 2, true, &tiles, &error));
    ASSERT_EQ(-1, sv_image_split(&two, SV_EXACT_SIZE(4097, 2), 2, true, &tiles, &error));
    ASSERT_EQ(-1, sv_image_split(&two, 2, 0, true, &tiles, &error));
    ASSERT_EQ(-1, sv_image_split(&two, 2, SV_MAX_SIDE, true, &tiles, &error));
    ASSERT(!out.rgb && !tiles.rgb);
    sv_image_free(&(SvImage){0});
    sv_tiles_free(&(SvTiles){0});
    PASS();
}

/* 1 x 49 pixels: int(49 * (1 / 49)) is 0 in double, and there the reference raises. */
TEST split_too_narrow(void)
{
    uint8_t pixels[49 * 3] = {0};
    SvImage line = { .width = 1, .height = 49, .rgb = pixels };
    SvTiles tiles;
    SvError error;
    int result = sv_image_split(&line, 49, 49, true, &tiles, &error);
    if (result == 0) sv_tiles_free(&tiles);
    ASSERT_EQ(-1, result);
    ASSERT(strstr(error.text, "too narrow"));
    PASS();
}

TEST crc32_in_pieces(void)
{
    enum { SIZE = 20000 };
    static uint8_t data[SIZE];
    ASSERT_EQ_FMT(0xcbf43926u, (unsigned)sv_crc32(0, "123456789", 9), "%x");
    ASSERT_EQ_FMT(0u, (unsigned)sv_crc32(0, NULL, 0), "%x");
    for (uint32_t i = 0, x = 1; i < SIZE; i++, x = x * 1664525 + 1013904223) data[i] = (uint8_t)(x >> 24);
    uint32_t one = 0, whole = sv_crc32(0, data, SIZE);          /* with the large tables, and without */
    for (size_t i = 0; i < SIZE; i++) one = sv_crc32(one, data + i, 1);
    ASSERT_EQ_FMT((unsigned)one, (unsigned)whole, "%x");
    ASSERT_EQ_FMT((unsigned)one, (unsigned)sv_crc32(sv_crc32(0, data, 9001), data + 9001, SIZE - 9001), "%x");
    PASS();
}

SUITE(golden)
{
    RUN_TEST(image_manifest);
    RUN_TEST(jpeg_manifest);
}

SUITE(damage)
{
    const size_t n = sizeof small_files / sizeof small_files[0];
    for (size_t i = 0; i < n; i++) RUN_TESTp(cut_at_every_byte, small_files[i]);
    for (size_t i = 0; i < n; i++) RUN_TESTp(change_every_byte, small_files[i]);
    RUN_TEST(inflate_blocks);
}

SUITE(jpeg)
{
    RUN_TEST(jpeg_inverse_dct);
    RUN_TEST(jpeg_upsampling);
    RUN_TEST(jpeg_colours);
}

SUITE(transparency)
{
    RUN_TEST(alpha_planes);
}

SUITE(limits)
{
    RUN_TEST(refusals);
    RUN_TEST(split_too_narrow);
    RUN_TEST(crc32_in_pieces);
}

GREATEST_MAIN_DEFS();

int main(int argc, char **argv)
{
    GREATEST_MAIN_BEGIN();
    RUN_SUITE(golden);
    RUN_SUITE(damage);
    RUN_SUITE(jpeg);
    RUN_SUITE(transparency);
    RUN_SUITE(limits);
    GREATEST_MAIN_END();
}
