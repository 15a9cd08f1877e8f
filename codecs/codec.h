/* codec.h: what the codecs share. Each turns a file's bytes into pixels; codecs.c chooses among them.

   Pillow is the specification: where the PNG or PNM standard leaves room, or Pillow departs from it, the pixels here
   are Pillow's. What Pillow refuses is refused, with three exceptions. Errors in metadata (an invalid EXIF block, a
   text chunk of an unknown method) cost only the orientation. A JPEG of one scan may lack its EOI marker. Anything may
   follow a P1 picture's last bit.

   A picture that ends early, or whose data is damaged, is refused, even where Pillow would show a part of it. But a
   damaged JPEG whose file is complete is shown as Pillow shows it, and image->note says what is damaged. */
#ifndef SV_CODEC_H
#define SV_CODEC_H

#include "../model.h"

/* Decodes a file's bytes to pixels as stored. The caller frees *image, also after an error. *orientation is set if the
   metadata states one: 1..8, as in EXIF. name is what error messages call the file. */
int sv_decode_png(const uint8_t *data, size_t size, const char *name, SvImage *image, int *orientation, SvError *error);
int sv_decode_jpeg(const uint8_t *data, size_t size, const char *name, SvImage *image, int *orientation,
                   SvError *error);
int sv_decode_pnm(const uint8_t *data, size_t size, const char *name, SvImage *image, SvError *error);

/* Fails with "NAME: WHAT not read" and how to convert the file; what: "WebP pictures are". Returns -1. */
int sv_not_read(const char *name, const char *what, SvError *error);
#define SV_STDIN "standard input"               /* what messages call "-" */

int sv_exif_orientation(const uint8_t *tiff, size_t size);     /* 1..8; 0: none stated */
int sv_xmp_orientation(const uint8_t *xmp, size_t size);
int sv_orient(SvImage *image, int orientation, const char *name, SvError *error);    /* turns it upright */

/* In jpeg_pixels.c, which explains what they compute: the arithmetic from a JPEG's coefficients to its pixels, once in
   vectors where the machine has them, and once in plain C. Rows have n samples; out has 2 * n where the name has
   "2x". */
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
static inline int clamp8(int value) { return value < 0 ? 0 : value > 255 ? 255 : value; }

/* The low 16 bits, as two's complement. */
static inline int16_t wrap16(int32_t value) { return (int16_t)(uint16_t)((uint32_t)value & 0xffff); }
static inline bool is_space(uint8_t c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

#endif
