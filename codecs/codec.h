/* codec.h: between the codecs. Each turns a file's bytes into pixels; codecs.c chooses among them.

   Pillow is the specification: where the PNG or PNM text leaves room, or Pillow departs from it, the pixels here are
   Pillow's. What Pillow refuses is refused, but for three things: trouble in metadata (an EXIF block that is none, a
   text chunk of an unknown method) costs only the orientation; a JPEG of one scan may lack its EOI marker; behind a P1
   picture's last bit anything may stand. And a picture that ends early, or whose data is damaged, is refused, also where
   Pillow would show what there is; but a damaged JPEG is shown as Pillow shows it, if the file itself is whole, and
   image->note tells what is damaged. */
#ifndef SV_CODEC_H
#define SV_CODEC_H

#include "../model.h"

/* The picture in a file's bytes, pixels as stored: the caller frees *image, also after an error. *orientation is set if
   metadata state one: 1..8, as in EXIF. name stands for the file in the error's sentence. */
int sv_decode_png(const uint8_t *data, size_t size, const char *name, SvImage *image, int *orientation, SvError *error);
int sv_decode_jpeg(const uint8_t *data, size_t size, const char *name, SvImage *image, int *orientation,
                   SvError *error);
int sv_decode_pnm(const uint8_t *data, size_t size, const char *name, SvImage *image, SvError *error);

/* "NAME: WHAT not read", and how to make a picture of it that is; what: "WebP pictures are". Returns -1. */
int sv_not_read(const char *name, const char *what, SvError *error);
#define SV_STDIN "standard input"               /* what "-" is called in a sentence */

/* In image.c: refuses sizes that no picture may have (SV_MAX_SIDE, SV_MAX_PIXELS), and empty ones. */
int sv_check_size(uint64_t width, uint64_t height, const char *name, SvError *error);

/* In image.c: allocates a picture of a size that came through sv_check_size; the pixels are not initialised. */
int sv_new_image(uint64_t width, uint64_t height, const char *name, SvImage *image, SvError *error);

int sv_exif_orientation(const uint8_t *tiff, size_t size);     /* 1..8; 0: none stated */
int sv_xmp_orientation(const uint8_t *xmp, size_t size);
int sv_orient(SvImage *image, int orientation, const char *name, SvError *error);    /* turns it upright */

/* In jpeg_pixels.c, which says what they compute: the arithmetic between a JPEG's coefficients and its pixels, in vectors
   where the machine has them, and in plain C. Rows have n samples, out has 2 * n where the name begins with 2. */
typedef struct SvJpegKernels {
    void (*idct)(const int16_t coefficients[64], const uint16_t quant[64], uint8_t *out, size_t stride);
    void (*upsample_2x1)(const uint8_t *in, int n, uint8_t *out);
    void (*upsample_1x2)(const uint8_t *nearer, const uint8_t *farther, int rounding, int n, uint8_t *out);
    void (*upsample_2x2)(const uint8_t *nearer, const uint8_t *farther, int n, uint8_t *out);
    void (*ycc_to_rgb)(const uint8_t *luma, const uint8_t *blue, const uint8_t *red, int n, uint8_t *rgb);
} SvJpegKernels;
extern const SvJpegKernels sv_jpeg_kernels, sv_jpeg_plain;

static inline uint32_t be16(const uint8_t *p) { return (uint32_t)p[0] << 8 | p[1]; }
static inline uint32_t be32(const uint8_t *p) { return be16(p) << 16 | be16(p + 2); }
static inline uint32_t le16(const uint8_t *p) { return (uint32_t)p[1] << 8 | p[0]; }
static inline uint32_t le32(const uint8_t *p) { return le16(p + 2) << 16 | le16(p); }
static inline size_t smaller(size_t a, size_t b) { return a < b ? a : b; }
static inline bool is_space(uint8_t c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

#endif
