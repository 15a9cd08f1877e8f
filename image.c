/* image.c: picture file -> RGB pixels -> tiles.

     the file's bytes                          told apart by their first bytes, never by the file's name
       |  decode_png     chunks -> inflate -> unfilter -> Adam7      PngImagePlugin.py, ZipDecode.c
       |  decode_jpeg    Huffman -> inverse DCT -> YCbCr to RGB      JpegImagePlugin.py, libjpeg-turbo
       |  decode_pnm     header -> samples scaled by maxval          PpmImagePlugin.py
     [h, w, 3] as stored
       |  orient         EXIF's or XMP's orientation, 1..8           ImageOps.exif_transpose
     [height, width, 3]                                              SvImage
       |  longest edge to longest_edge, the other by the aspect      SmolVLMImageProcessorPil.resize
       |  both edges up to multiples of side                         .resize_for_vision_encoder
     [rows * side, cols * side, 3]
       |  cut; and once more the whole, resized to one tile          .split_images
     [rows * cols + 1, side, side, 3]                                SvTiles

   Pillow is the specification: where the PNG or PNM text leaves room, or Pillow departs from it, the pixels here are
   Pillow's. What Pillow refuses is refused, but for three things: trouble in metadata (an EXIF block that is none, a
   text chunk of an unknown method) costs only the orientation; a JPEG of one scan may lack its EOI marker; behind a P1
   picture's last bit anything may stand. And a picture that ends early, or whose data is damaged, is always refused,
   also where Pillow, warned by its libraries, would show what there is. */
#include "smolvlm.h"

#include <errno.h>
#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint32_t be16(const uint8_t *p) { return (uint32_t)p[0] << 8 | p[1]; }
static uint32_t be32(const uint8_t *p) { return be16(p) << 16 | be16(p + 2); }
static uint32_t le16(const uint8_t *p) { return (uint32_t)p[1] << 8 | p[0]; }
static uint32_t le32(const uint8_t *p) { return le16(p + 2) << 16 | le16(p); }
static size_t smaller(size_t a, size_t b) { return a < b ? a : b; }

static const char standard_input[] = "standard input";     /* what "-" is called in a sentence */

/* "NAME: WHAT not read", and how to make a picture of it that is; what: "WebP pictures are". */
static int not_read(const char *name, const char *what, SvError *error) {
    if (strcmp(name, standard_input) == 0)
        return sv_fail(error, "%s: %s not read; give it as a PNG, JPEG or PNM picture", name, what);
    const char *slash = strrchr(name, '/'), *dot = strrchr(slash ? slash : name, '.');
    int stem = dot && dot != name ? (int)(dot - name) : (int)strlen(name);
    if (*name == '-' || strpbrk(name, "'%:") || strlen(name) > 200 || strcmp(name + stem, ".png") == 0)
        return sv_fail(error, "%s: %s not read; convert it to PNG, JPEG or PNM", name, what);   /* nothing to paste */
    return sv_fail(error, "%s: %s not read; convert it: magick '%s' '%.*s.png'", name, what, name, stem, name);
}

void sv_image_free(SvImage *image) {
    free(image->rgb);
    *image = (SvImage){0};
}

void sv_tiles_free(SvTiles *tiles) {
    free(tiles->rgb);
    *tiles = (SvTiles){0};
}

/* ------------------------------------------------------------------------------------------------ CRC-32

   zlib's: reflected, polynomial 0xedb88320, complemented before and after. Short data go four bits at a time through
   the 16 constants; for long data it pays to make the tables that take 16 bytes a step ("slicing by 16"), where
   slice[k][b] is the remainder of the byte b followed by k zero bytes. */
uint32_t sv_crc32(uint32_t crc, const void *data, size_t size) {
    static const uint32_t nibble[16] = {
        0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4, 0x4db26158, 0x5005713c,
        0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c, 0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c };
    const uint8_t *p = data;
    crc = ~crc;
    if (size >= 8192) {
        uint32_t slice[16][256];
        for (uint32_t b = 0; b < 256; b++) {
            uint32_t half = b >> 4 ^ nibble[b & 15];
            slice[0][b] = half >> 4 ^ nibble[half & 15];
        }
        for (int k = 1; k < 16; k++)
            for (int b = 0; b < 256; b++)
                slice[k][b] = slice[k - 1][b] >> 8 ^ slice[0][slice[k - 1][b] & 255];
        for (; size >= 16; p += 16, size -= 16) {
            uint32_t a = le32(p) ^ crc, b = le32(p + 4), c = le32(p + 8), d = le32(p + 12);
            crc = slice[15][a & 255] ^ slice[14][a >> 8 & 255] ^ slice[13][a >> 16 & 255] ^ slice[12][a >> 24]
                ^ slice[11][b & 255] ^ slice[10][b >> 8 & 255] ^ slice[9][b >> 16 & 255] ^ slice[8][b >> 24]
                ^ slice[7][c & 255] ^ slice[6][c >> 8 & 255] ^ slice[5][c >> 16 & 255] ^ slice[4][c >> 24]
                ^ slice[3][d & 255] ^ slice[2][d >> 8 & 255] ^ slice[1][d >> 16 & 255] ^ slice[0][d >> 24];
        }
    }
    for (; size; p++, size--) {
        crc ^= *p;
        crc = crc >> 4 ^ nibble[crc & 15];
        crc = crc >> 4 ^ nibble[crc & 15];
    }
    return ~crc;
}

/* ------------------------------------------------------------------------------------------------ sizes and memory */

static int check_size(uint64_t width, uint64_t height, const char *name, SvError *error) {
    if (width == 0 || height == 0)
        return sv_fail(error, "%s: the picture has no pixels: its header says %llu x %llu", name,
                       (unsigned long long)width, (unsigned long long)height);
    if (width > SV_MAX_SIDE || height > SV_MAX_SIDE || width * height > SV_MAX_PIXELS)
        return sv_fail(error, "%s: %llu x %llu pixels are too many: at most %d a side and %d in all are read", name,
                       (unsigned long long)width, (unsigned long long)height, SV_MAX_SIDE, SV_MAX_PIXELS);
    return 0;
}

/* Sizes that came through check_size; the pixels are not initialised. */
static int new_image(uint64_t width, uint64_t height, const char *name, SvImage *image, SvError *error) {
    if (width * height * 3 > SIZE_MAX || !(image->rgb = malloc((size_t)(width * height * 3))))
        return sv_fail(error, "%s: not enough memory for %llu x %llu pixels", name,
                       (unsigned long long)width, (unsigned long long)height);
    image->width = (int)width;
    image->height = (int)height;
    return 0;
}

/* ------------------------------------------------------------------------------------------------ orientation */

/* The orientation (1..8) that the TIFF block of an EXIF record states, 0 if it states none; a value outside 1..8 turns
   nothing and counts as 1. Follows Pillow's ImageFileDirectory_v2.load in what stops the reading: a tag before this
   one whose data lie outside the block ends it, one larger than what the block can hold is passed over. */
static int exif_orientation(const uint8_t *tiff, size_t size) {
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
static int xmp_orientation(const uint8_t *xmp, size_t size) {
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
static int orient(SvImage *image, int orientation, const char *name, SvError *error) {
    if (orientation < 2 || orientation > 8) return 0;
    const ptrdiff_t w = image->width, h = image->height;
    const ptrdiff_t first[9] = { 0, 0, w - 1, h * w - 1, (h - 1) * w, 0, (h - 1) * w, h * w - 1, w - 1 };
    const ptrdiff_t right[9] = { 0, 1, -1, -1, 1, w, -w, -w, w };       /* from a result's pixel to its neighbour's */
    const ptrdiff_t down[9] = { 0, w, w, -w, -w, 1, 1, -1, -1 };        /* ... in the stored picture, in pixels     */
    SvImage turned = {0};
    bool transposed = orientation >= 5;
    if (new_image((uint64_t)(transposed ? h : w), (uint64_t)(transposed ? w : h), name, &turned, error)) return -1;
    uint8_t *to = turned.rgb;
    for (int y = 0; y < turned.height; y++) {
        const uint8_t *row = image->rgb + 3 * (first[orientation] + y * down[orientation]);
        for (int x = 0; x < turned.width; x++, to += 3) {
            const uint8_t *from = row + 3 * (x * right[orientation]);
            to[0] = from[0], to[1] = from[1], to[2] = from[2];
        }
    }
    free(image->rgb);
    *image = turned;
    return 0;
}

/* ------------------------------------------------------------------------------------------------ inflate

   RFC 1950 and 1951, pulled: the reader asks for n bytes of output, and they stand at out + read. Only what was asked
   for is decoded (and the rest of one match), so a small file cannot make much of itself. Behind the read position
   stay the 32 KiB to which a match may reach back.

     IDAT segments -> bits -> block headers -> literals, matches -> out: | 32 KiB seen | read .. written |        | */

typedef struct Huffman {
    uint16_t fast[1024];            /* by the next 10 bits: symbol << 4 | length, 0 if the code is longer or none */
    uint16_t count[16];             /* codes of each length */
    uint16_t symbol[288];           /* by length, then by value */
} Huffman;

typedef enum { INFLATE_OK, INFLATE_END, INFLATE_SHORT, INFLATE_DAMAGED, INFLATE_MEMORY } InflateStatus;

typedef struct Inflate {
    const uint8_t *in, *in_end;     /* the segment being read */
    const uint8_t *file_end;        /* not NULL: when it ends, an IDAT chunk may follow */
    uint64_t bits;                  /* read ahead; the next one is the lowest */
    unsigned count;
    uint8_t *out;
    size_t capacity, read, written, summed;
    uint32_t adler_a, adler_b;      /* Adler-32 of all that came out, up to out + summed */
    uint32_t stored;                /* bytes left of a stored block */
    bool last, fixed_built;
    enum { AT_HEADER, AT_BLOCK, IN_STORED, IN_CODES, AT_CHECK, AT_END } state;
    const Huffman *literals, *distances;
    Huffman dynamic_literals, dynamic_distances, fixed_literals, fixed_distances;
} Inflate;

enum { WINDOW = 32768, MAX_MATCH = 258 };

/* want: the most that will be asked for at once. */
static InflateStatus inflate_begin(Inflate *z, const uint8_t *in, const uint8_t *in_end, size_t want) {
    memset(z, 0, sizeof *z);
    z->in = in;
    z->in_end = in_end;
    z->adler_a = 1;
    z->capacity = 4 * (size_t)WINDOW + 2 * want + MAX_MATCH;
    z->out = malloc(z->capacity);
    return z->out ? INFLATE_OK : INFLATE_MEMORY;
}

/* A PNG's stream goes on over the boundaries of its IDAT chunks. As in PngImageFile.load_read, their checksums are not
   looked at: the stream has its own. */
static bool next_segment(Inflate *z) {
    if (!z->file_end || z->file_end - z->in_end < 12) return false;
    const uint8_t *header = z->in_end + 4;
    if (memcmp(header + 4, "IDAT", 4) != 0) return false;
    z->in = header + 8;
    z->in_end = z->in + smaller(be32(header), (size_t)(z->file_end - z->in));
    return true;
}

static void refill(Inflate *z) {
    if (z->in_end - z->in >= 8) {
        z->bits |= ((uint64_t)le32(z->in + 4) << 32 | le32(z->in)) << z->count;
        z->in += (63 - z->count) / 8;
        z->count |= 56;
        return;
    }
    for (; z->count < 56 && z->in < z->in_end; z->count += 8) z->bits |= (uint64_t)*z->in++ << z->count;
}

static bool need_bits(Inflate *z, unsigned n) {
    while (z->count < n) {
        refill(z);
        if (z->count < n && z->in == z->in_end && !next_segment(z)) return false;
    }
    return true;
}

static uint32_t take_bits(Inflate *z, unsigned n)       /* n <= 32, and need_bits(n) was true */
{
    uint32_t value = (uint32_t)(z->bits & ((UINT64_C(1) << n) - 1));
    z->bits >>= n;
    z->count -= n;
    return value;
}

/* Canonical codes from their lengths, RFC 1951 section 3.2.2. zlib accepts an incomplete set only where there is no
   code at all or a single one of one bit, and only for literals and distances. */
static bool build_huffman(Huffman *h, const uint8_t *length, int n, bool may_be_incomplete) {
    uint32_t offset[16], code[16], left = 1;
    memset(h, 0, sizeof *h);
    for (int i = 0; i < n; i++) h->count[length[i]]++;
    bool tiny = h->count[0] == n || (h->count[0] == n - 1 && h->count[1] == 1);
    h->count[0] = 0;
    offset[0] = offset[1] = code[0] = 0;
    for (int i = 1; i < 16; i++) {
        left <<= 1;
        if (h->count[i] > left) return false;
        left -= h->count[i];
        code[i] = (code[i - 1] + h->count[i - 1]) << 1;
        if (i < 15) offset[i + 1] = offset[i] + h->count[i];
    }
    if (left && !(tiny && may_be_incomplete)) return false;
    for (int i = 0; i < n; i++) {
        unsigned bits = length[i];
        if (!bits) continue;
        h->symbol[offset[bits]++] = (uint16_t)i;
        uint32_t forward = code[bits]++, reversed = 0;
        for (unsigned b = 0; b < bits; b++) reversed |= (forward >> b & 1) << (bits - 1 - b);
        if (bits <= 10)
            for (uint32_t at = reversed; at < 1024; at += UINT32_C(1) << bits)
                h->fast[at] = (uint16_t)(i << 4 | (int)bits);
    }
    return true;
}

/* The next symbol, or -INFLATE_SHORT, -INFLATE_DAMAGED. */
static int decode_symbol(Inflate *z, const Huffman *h) {
    for (;;) {
        if (z->count < 15) refill(z);
        unsigned entry = h->fast[z->bits & 1023];
        if (entry && (entry & 15) <= z->count) {
            z->bits >>= entry & 15;
            z->count -= entry & 15;
            return (int)(entry >> 4);
        }
        if (!entry) {
            uint32_t code = 0, first = 0, index = 0;
            for (unsigned length = 1; length <= 15 && length <= z->count; length++) {
                code |= (uint32_t)(z->bits >> (length - 1) & 1);
                uint32_t n = h->count[length];
                if (code - first < n) {
                    z->bits >>= length;
                    z->count -= length;
                    return h->symbol[index + code - first];
                }
                index += n;
                first = (first + n) << 1;
                code <<= 1;
            }
            if (z->count >= 15) return -INFLATE_DAMAGED;
        }
        if (z->in == z->in_end && !next_segment(z)) return -INFLATE_SHORT;
    }
}

static InflateStatus read_dynamic_codes(Inflate *z) {
    static const uint8_t order[19] = { 16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15 };
    uint8_t length[288 + 32] = {0};
    if (!need_bits(z, 14)) return INFLATE_SHORT;
    int literals = 257 + (int)take_bits(z, 5), distances = 1 + (int)take_bits(z, 5), codes = 4 + (int)take_bits(z, 4);
    if (literals > 286 || distances > 30) return INFLATE_DAMAGED;
    for (int i = 0; i < codes; i++) {
        if (!need_bits(z, 3)) return INFLATE_SHORT;
        length[order[i]] = (uint8_t)take_bits(z, 3);
    }
    if (!build_huffman(&z->dynamic_literals, length, 19, false)) return INFLATE_DAMAGED;
    memset(length, 0, sizeof length);
    for (int i = 0; i < literals + distances;) {
        int symbol = decode_symbol(z, &z->dynamic_literals), repeat = 1;
        uint8_t value = (uint8_t)symbol;
        if (symbol < 0) return (InflateStatus)-symbol;
        if (symbol >= 16) {                             /* 16: the last one 3..6 times; 17, 18: zeros 3..10, 11..138 */
            unsigned extra = symbol == 16 ? 2 : symbol == 17 ? 3 : 7;
            if (symbol == 16 && i == 0) return INFLATE_DAMAGED;
            if (!need_bits(z, extra)) return INFLATE_SHORT;
            value = symbol == 16 ? length[i - 1] : 0;
            repeat = (symbol == 18 ? 11 : 3) + (int)take_bits(z, extra);
        }
        if (repeat > literals + distances - i) return INFLATE_DAMAGED;
        while (repeat--) length[i++] = value;
    }
    if (length[256] == 0) return INFLATE_DAMAGED;       /* a block that could not end */
    if (!build_huffman(&z->dynamic_literals, length, literals, true)) return INFLATE_DAMAGED;
    if (!build_huffman(&z->dynamic_distances, length + literals, distances, true)) return INFLATE_DAMAGED;
    z->literals = &z->dynamic_literals;
    z->distances = &z->dynamic_distances;
    return INFLATE_OK;
}

static void use_fixed_codes(Inflate *z) {
    if (!z->fixed_built) {
        uint8_t length[288];
        for (int i = 0; i < 288; i++) length[i] = i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8;
        build_huffman(&z->fixed_literals, length, 288, false);
        memset(length, 5, 32);
        build_huffman(&z->fixed_distances, length, 32, false);
        z->fixed_built = true;
    }
    z->literals = &z->fixed_literals;
    z->distances = &z->fixed_distances;
}

static void sum_adler(Inflate *z) {
    while (z->summed < z->written) {
        size_t n = smaller(z->written - z->summed, 5552);       /* the most before the sums could overflow */
        const uint8_t *p = z->out + z->summed;
        for (size_t i = 0; i < n; i++) {
            z->adler_a += p[i];
            z->adler_b += z->adler_a;
        }
        z->adler_a %= 65521;
        z->adler_b %= 65521;
        z->summed += n;
    }
}

/* One literal or match, or the end of the block, at most MAX_MATCH bytes. */
static InflateStatus inflate_symbol(Inflate *z) {
    static const uint16_t length_base[29] = { 3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59,
        67, 83, 99, 115, 131, 163, 195, 227, 258 };
    static const uint8_t length_extra[29] = { 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4,
        5, 5, 5, 5, 0 };
    static const uint16_t distance_base[30] = { 1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257, 385,
        513, 769, 1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577 };
    int symbol = decode_symbol(z, z->literals);
    if (symbol < 0) return (InflateStatus)-symbol;
    if (symbol < 256) {
        z->out[z->written++] = (uint8_t)symbol;
        return INFLATE_OK;
    }
    if (symbol == 256) {
        z->state = z->last ? AT_CHECK : AT_BLOCK;
        return INFLATE_OK;
    }
    if (symbol > 285) return INFLATE_DAMAGED;
    unsigned extra = length_extra[symbol - 257];
    if (!need_bits(z, extra)) return INFLATE_SHORT;
    size_t length = length_base[symbol - 257] + take_bits(z, extra);
    symbol = decode_symbol(z, z->distances);
    if (symbol < 0) return (InflateStatus)-symbol;
    if (symbol > 29) return INFLATE_DAMAGED;
    extra = symbol < 2 ? 0 : (unsigned)symbol / 2 - 1;
    if (!need_bits(z, extra)) return INFLATE_SHORT;
    size_t distance = distance_base[symbol] + take_bits(z, extra);
    if (distance > z->written) return INFLATE_DAMAGED;
    uint8_t *to = z->out + z->written;
    const uint8_t *from = to - distance;
    z->written += length;
    if (distance >= length) memcpy(to, from, length);
    else while (length--) *to++ = *from++;              /* overlapping: it repeats what it has just written */
    return INFLATE_OK;
}

/* Decodes until n bytes stand at out + read, or says why there are fewer. */
static InflateStatus inflate_fill(Inflate *z, size_t n) {
    InflateStatus status = INFLATE_OK;
    while (z->written - z->read < n && status == INFLATE_OK) {
        if (z->capacity - z->written < n + MAX_MATCH) {
            size_t from = smaller(z->read, z->written > WINDOW ? z->written - WINDOW : 0);
            sum_adler(z);
            memmove(z->out, z->out + from, z->written - from);
            z->read -= from, z->written -= from, z->summed -= from;
        }
        switch (z->state) {
        case AT_HEADER:
            if (!need_bits(z, 16)) return INFLATE_SHORT;
            uint32_t method = take_bits(z, 8), flags = take_bits(z, 8);
            if ((method << 8 | flags) % 31 || (method & 15) != 8 || method >> 4 > 7) return INFLATE_DAMAGED;
            if (flags & 32) return INFLATE_DAMAGED;             /* a preset dictionary */
            z->state = AT_BLOCK;
            break;
        case AT_BLOCK:
            if (!need_bits(z, 3)) return INFLATE_SHORT;
            z->last = take_bits(z, 1);
            uint32_t type = take_bits(z, 2);
            if (type == 0) {
                take_bits(z, z->count % 8);
                if (!need_bits(z, 32)) return INFLATE_SHORT;
                z->stored = take_bits(z, 16);
                if (take_bits(z, 16) != (z->stored ^ 0xffff)) return INFLATE_DAMAGED;
                z->state = IN_STORED;
            } else if (type == 3) {
                return INFLATE_DAMAGED;
            } else {
                if (type == 1) use_fixed_codes(z);
                else status = read_dynamic_codes(z);
                z->state = IN_CODES;
            }
            break;
        case IN_STORED:
            if (z->stored == 0) {
                z->state = z->last ? AT_CHECK : AT_BLOCK;
            } else if (z->count) {
                z->out[z->written++] = (uint8_t)take_bits(z, 8);
                z->stored--;
            } else if (z->in == z->in_end) {
                if (!next_segment(z)) return INFLATE_SHORT;
            } else {
                size_t part = smaller(smaller(z->stored, (size_t)(z->in_end - z->in)), n - (z->written - z->read));
                memcpy(z->out + z->written, z->in, part);
                z->in += part, z->written += part, z->stored -= (uint32_t)part;
                z->bits = 0;        /* bits above count may be a read-ahead of the bytes just taken */
            }
            break;
        case IN_CODES:
            while (z->state == IN_CODES && status == INFLATE_OK && z->written - z->read < n) status = inflate_symbol(z);
            break;
        case AT_CHECK:
            take_bits(z, z->count % 8);
            if (!need_bits(z, 32)) return INFLATE_SHORT;
            sum_adler(z);
            uint32_t a = take_bits(z, 8) << 8, b = 0;
            a |= take_bits(z, 8);
            b = take_bits(z, 8) << 8;
            b |= take_bits(z, 8);
            if (a != z->adler_b || b != z->adler_a) return INFLATE_DAMAGED;
            z->state = AT_END;
            break;
        case AT_END:
            return INFLATE_END;
        }
    }
    return status;
}

/* ------------------------------------------------------------------------------------------------ PNG

   PNG specification (third edition). A chunk: u32 length, 4 letters, data, u32 CRC of letters and data. */

typedef struct Png {
    const uint8_t *data;
    size_t size, at;                /* at: where the next chunk begins */
    const char *name;
    uint32_t width, height;
    int depth, type;                /* bits a sample; 0 gray, 2 RGB, 3 palette, 4 gray + alpha, 6 RGB + alpha */
    bool has_header, interlaced, animated;
    bool has_exif;                  /* one block, even an empty one, comes before the "raw profile" in a text chunk */
    int exif, raw_profile, xmp;     /* the orientation each states, 0 if none */
    int deflated_texts;             /* how many were looked into */
    uint8_t palette[256][3];
} Png;

static const uint8_t png_channels[7] = { 1, 0, 3, 1, 2, 0, 4 };          /* by colour type */

static int png_cut_short(const Png *png, SvError *error) {
    return sv_fail(error, "%s: the PNG file is cut short: it ends before its picture does", png->name);
}

static int png_header(Png *png, const uint8_t *data, uint32_t length, SvError *error) {
    static const uint8_t depths[7] = { 1 | 2 | 4 | 8 | 16, 0, 8 | 16, 1 | 2 | 4 | 8, 8 | 16, 0, 8 | 16 };
    if (length < 13) return sv_fail(error, "%s: a damaged PNG file: its header is too short", png->name);
    png->width = be32(data);
    png->height = be32(data + 4);
    png->depth = data[8];
    png->type = data[9];
    if (png->type > 6 || !(depths[png->type] & png->depth) || (png->depth & (png->depth - 1)))
        return sv_fail(error, "%s: a damaged PNG file: there is no colour type %d with %d bits", png->name, png->type,
                       png->depth);
    if (data[11]) return sv_fail(error, "%s: a damaged PNG file: there is no filter method %d", png->name, data[11]);
    png->interlaced = data[12] != 0;
    png->has_header = true;

    /* What is not a colour becomes one through the palette: gray of few bits is spread over 0..255, and 16 bits are
       cut off at 255, which is how Pillow's mode "I;16" becomes RGB (I16_RGB in Convert.c). */
    int max = png->depth < 8 ? (1 << png->depth) - 1 : 255;
    for (int i = 0; i < 256; i++) memset(png->palette[i], png->type == 3 || i > max ? 0 : i * 255 / max, 3);
    return check_size(png->width, png->height, png->name, error);
}

/* ImageMagick's "Raw profile type exif": an empty line, the name, the length, then hexadecimal lines. */
static int raw_profile_orientation(const uint8_t *text, size_t size, int *orientation) {
    for (int lines = 0; lines < 3; lines++) {
        const uint8_t *end = size ? memchr(text, '\n', size) : NULL;
        if (!end) return 0;
        size -= (size_t)(end + 1 - text);
        text = end + 1;
    }
    uint8_t *bytes = malloc(size / 2 + 1);
    if (!bytes) return -1;
    size_t digits = 0;
    for (size_t i = 0; i < size; i++) {
        unsigned c = text[i], digit = c - '0' < 10 ? c - '0' : (c | 32) - 'a' < 6 ? (c | 32) - 'a' + 10 : 16;
        if (digit < 16 && digits++ % 2 == 0) bytes[digits / 2] = (uint8_t)(digit << 4);
        else if (digit < 16) bytes[digits / 2 - 1] |= (uint8_t)digit;
    }
    *orientation = exif_orientation(bytes, digits / 2);
    free(bytes);
    return 0;
}

/* The text chunks that can state an orientation: keyword, 0, then
     tEXt   text
     zTXt   method 0, deflated text
     iTXt   flag, method 0, language, 0, translated keyword, 0, text, deflated if the flag is set
   Pillow inflates no more than 1 MiB of text; here what lies beyond is not searched. */
static int png_text(Png *png, const uint8_t *data, size_t size, SvError *error) {
    enum { MAX_TEXT = 1 << 20, MOST_TEXTS = 64 };           /* Pillow's limits: 1 MiB each, 64 MiB in all */
    char kind = (char)data[-4];
    const uint8_t *text = size ? memchr(data, 0, size) : NULL, *end = data + size;
    if (!text) return 0;
    bool deflated = kind == 'z', is_exif = strcmp((const char *)data, "exif") == 0;
    bool is_raw = strcmp((const char *)data, "Raw profile type exif") == 0;
    bool is_xmp = strcmp((const char *)data, "XML:com.adobe.xmp") == 0;
    if (!is_raw && !is_xmp && !(is_exif && kind == 't')) return 0;
    text++;
    if (kind == 'z') {
        if (text == end || *text++ != 0) return 0;
    } else if (kind == 'i') {
        if (end - text < 2 || (text[0] && text[1])) return 0;
        deflated = text[0] != 0;
        text += 2;
        for (int i = 0; i < 2; i++) {
            text = text < end ? memchr(text, 0, (size_t)(end - text)) : NULL;
            if (!text) return 0;
            text++;
        }
    }

    Inflate *z = NULL;
    size = (size_t)(end - text);
    if (deflated && ++png->deflated_texts > MOST_TEXTS) return 0;
    if (deflated) {
        z = malloc(sizeof *z);
        if (!z || inflate_begin(z, text, end, MAX_TEXT) != INFLATE_OK) {
            free(z);
            return sv_fail(error, "%s: not enough memory for the PNG's text", png->name);
        }
        bool damaged = inflate_fill(z, MAX_TEXT) == INFLATE_DAMAGED;
        text = z->out;
        size = damaged ? 0 : smaller(z->written, MAX_TEXT);
    }
    int failed = 0;
    if (is_xmp) png->xmp = xmp_orientation(text, size);
    else if (is_exif) png->has_exif = true, png->exif = exif_orientation(text, size);
    else failed = raw_profile_orientation(text, size, &png->raw_profile);
    if (z) free(z->out);
    free(z);
    return failed ? sv_fail(error, "%s: not enough memory for the PNG's text", png->name) : 0;
}

/* One chunk other than IDAT and IEND. */
static int png_chunk(Png *png, const uint8_t *data, uint32_t length, SvError *error) {
    const char *type = (const char *)data - 4;
    if (memcmp(type, "IHDR", 4) == 0) return png_header(png, data, length, error);
    if (memcmp(type, "tEXt", 4) == 0 || memcmp(type, "zTXt", 4) == 0 || memcmp(type, "iTXt", 4) == 0)
        return png_text(png, data, length, error);
    if (memcmp(type, "eXIf", 4) == 0) {
        png->has_exif = true;
        png->exif = exif_orientation(data, length);
    } else if (memcmp(type, "acTL", 4) == 0 && length >= 8) {
        png->animated = be32(data) > 1;
    } else if (memcmp(type, "PLTE", 4) == 0 && png->has_header && png->type == 3) {
        if (length / 3 > 256) return sv_fail(error, "%s: a damaged PNG file: a palette of %u colours", png->name,
                                             (unsigned)(length / 3));
        memset(png->palette, 0, sizeof png->palette);           /* an index beyond the palette is black */
        memcpy(png->palette, data, length / 3 * 3);
    }
    return 0;
}

static bool is_chunk_name(const uint8_t *name) {
    for (int i = 0; i < 4; i++) {
        unsigned c = name[i];
        if (c - '0' >= 10 && (c | 32) - 'a' >= 26 && c != '_') return false;
    }
    return true;
}

/* PNG specification section 9: a scanline's bytes are differences to the byte one pixel to the left (a), above (b) and
   above left (c). Before the first pixel and above the first line all are 0. */
static bool unfilter(int filter, uint8_t *row, const uint8_t *above, size_t size, size_t pixel) {
    size_t i = 0, first = smaller(pixel, size);
    switch (filter) {
    case 0:
        return true;
    case 1:
        for (i = pixel; i < size; i++) row[i] = (uint8_t)(row[i] + row[i - pixel]);
        return true;
    case 2:
        for (; i < size; i++) row[i] = (uint8_t)(row[i] + above[i]);
        return true;
    case 3:
        for (; i < first; i++) row[i] = (uint8_t)(row[i] + above[i] / 2);
        for (; i < size; i++) row[i] = (uint8_t)(row[i] + (row[i - pixel] + above[i]) / 2);
        return true;
    case 4:
        for (; i < first; i++) row[i] = (uint8_t)(row[i] + above[i]);
        for (; i < size; i++) {
            int a = row[i - pixel], b = above[i], c = above[i - pixel];
            int pa = abs(b - c), pb = abs(a - c), pc = abs(a + b - 2 * c);
            int bc = pb <= pc ? b : c;
            row[i] = (uint8_t)(row[i] + (pa <= pb && pa <= pc ? a : bc));
        }
        return true;
    default:
        return false;
    }
}

/* count pixels of a scanline to RGB, every step-th pixel of the picture's row. Alpha is dropped, as convert("RGB")
   does; of 16 bits the high byte is kept, but for gray without alpha see png_header. */
static void png_pixels(const Png *png, const uint8_t *row, size_t count, uint8_t *rgb, size_t step) {
    size_t sample = (size_t)png->depth / 8;
    step *= 3;
    if (png->type == 2 && sample == 1 && step == 3) {
        memcpy(rgb, row, count * 3);
    } else if (png->type == 2 || png->type == 6) {
        size_t pixel = sample * (png->type == 2 ? 3 : 4);
        for (size_t i = 0; i < count; i++, row += pixel, rgb += step)
            rgb[0] = row[0], rgb[1] = row[sample], rgb[2] = row[2 * sample];
    } else {
        int depth = png->depth, max = (1 << depth) - 1;
        for (size_t i = 0; i < count; i++, rgb += step) {
            int index;
            if (png->type == 4) index = row[i * 2 * sample];
            else if (depth == 16) index = row[2 * i] ? 255 : row[2 * i + 1];
            else if (depth == 8) index = row[i];
            else index = row[i * (size_t)depth / 8] >> (8 - depth - (int)(i * (size_t)depth % 8)) & max;
            memcpy(rgb, png->palette[index], 3);
        }
    }
}

/* The passes of Adam7 (section 8): where each begins and how far apart its pixels are; the last line is the only pass
   of a picture without interlace. */
static const struct { uint8_t x, y, dx, dy; } adam7[8] = {
    { 0, 0, 8, 8 }, { 4, 0, 8, 8 }, { 0, 4, 4, 8 }, { 2, 0, 4, 4 }, { 0, 2, 2, 4 }, { 1, 0, 2, 2 }, { 0, 1, 1, 2 },
    { 0, 0, 1, 1 } };

static size_t pass_size(size_t size, size_t first, size_t step) {
    return size > first ? (size - first + step - 1) / step : 0;
}

static int png_scanlines(Png *png, Inflate *z, uint8_t *row, uint8_t *above, SvImage *image, SvError *error) {
    const size_t bits = (size_t)png_channels[png->type] * (size_t)png->depth, pixel = (bits + 7) / 8;
    for (int pass = png->interlaced ? 0 : 7; pass < (png->interlaced ? 7 : 8); pass++) {
        const size_t x0 = adam7[pass].x, y0 = adam7[pass].y, dx = adam7[pass].dx, dy = adam7[pass].dy;
        const size_t width = pass_size(png->width, x0, dx), height = pass_size(png->height, y0, dy);
        const size_t size = (width * bits + 7) / 8;
        if (width == 0) continue;
        memset(above, 0, size);
        for (size_t y = 0; y < height; y++) {
            InflateStatus status = inflate_fill(z, size + 1);
            if (status == INFLATE_SHORT) return png_cut_short(png, error);
            if (status == INFLATE_END)
                return sv_fail(error, "%s: a damaged PNG file: it has fewer pixels than its header says", png->name);
            if (status != INFLATE_OK)
                return sv_fail(error, "%s: a damaged PNG file: its pixels cannot be decompressed", png->name);
            int filter = z->out[z->read];
            memcpy(row, z->out + z->read + 1, size);
            z->read += size + 1;
            if (!unfilter(filter, row, above, size, pixel))
                return sv_fail(error, "%s: a damaged PNG file: there is no filter %d", png->name, filter);
            png_pixels(png, row, width, image->rgb + 3 * ((y0 + y * dy) * png->width + x0), dx);
            uint8_t *swap = row;
            row = above;
            above = swap;
        }
    }
    /* If the stream ends here too, its checksum must be right; if it goes on or is cut off, Pillow does not mind. */
    z->file_end = NULL;
    if (z->read == z->written && inflate_fill(z, 1) == INFLATE_DAMAGED)
        return sv_fail(error, "%s: a damaged PNG file: the checksum of its pixels is wrong", png->name);
    png->at = (size_t)(z->in_end - png->data);
    return 0;
}

static int decode_png(const uint8_t *data, size_t size, const char *name, SvImage *image, int *orientation,
                      SvError *error) {
    Png png = { .data = data, .size = size, .at = 8, .name = name };
    const uint8_t *chunk;
    for (;; png.at += 12 + (size_t)be32(chunk)) {                       /* up to the pixels */
        chunk = data + png.at;
        if (size - png.at < 8) return png_cut_short(&png, error);
        if (!is_chunk_name(chunk + 4))
            return sv_fail(error, "%s: a damaged PNG file: no chunk where one should begin, at byte %llu", name,
                           (unsigned long long)png.at);
        uint32_t length = be32(chunk);
        if (memcmp(chunk + 4, "IDAT", 4) == 0) break;
        if (memcmp(chunk + 4, "IEND", 4) == 0) return sv_fail(error, "%s: the PNG file has no pixels in it", name);
        if (size - png.at < 12 || size - png.at - 12 < length) return png_cut_short(&png, error);
        if (sv_crc32(0, chunk + 4, length + 4) != be32(chunk + 8 + length))
            return sv_fail(error, "%s: a damaged PNG file: the checksum of its %.4s chunk is wrong", name,
                           (const char *)chunk + 4);
        if (png_chunk(&png, chunk + 8, length, error)) return -1;
    }
    if (!png.has_header) return sv_fail(error, "%s: a damaged PNG file: it has no header", name);

    /* Deflate makes at most 1032 bytes of one: a picture for which the file is too small costs no memory. */
    const size_t row_size = ((size_t)png.width * png_channels[png.type] * (size_t)png.depth + 7) / 8;
    if ((uint64_t)row_size * png.height / 1032 > size) return png_cut_short(&png, error);

    const uint8_t *first = chunk + 8, *end = data + size;
    uint8_t *rows = malloc(2 * row_size);
    Inflate *z = malloc(sizeof *z);
    int result = -1;
    if (z) z->out = NULL;
    if (!rows || !z || inflate_begin(z, first, first + smaller(be32(chunk), (size_t)(end - first)), row_size + 1))
        sv_fail(error, "%s: not enough memory to read the picture", name);
    else if (new_image(png.width, png.height, name, image, error) == 0) {
        z->file_end = end;
        result = png_scanlines(&png, z, rows, rows + row_size, image, error);
    }
    if (z) free(z->out);
    free(z);
    free(rows);

    /* After the pixels (PngImageFile.load_end): EXIF and text may stand here, too, but no checksum is looked at, and
       where no chunk begins the file may end. An animation's later frames are not read, nor what is among them. */
    png.at += 4;
    while (result == 0 && png.at < size && size - png.at >= 8) {
        chunk = data + png.at;
        uint32_t length = be32(chunk);
        if (!is_chunk_name(chunk + 4) || memcmp(chunk + 4, "IEND", 4) == 0) break;
        if (png.animated && memcmp(chunk + 4, "fcTL", 4) == 0) break;
        if (size - png.at - 8 < length) result = png_cut_short(&png, error);
        else if (memcmp(chunk + 4, "IHDR", 4) != 0 && memcmp(chunk + 4, "PLTE", 4) != 0)
            result = png_chunk(&png, chunk + 8, length, error);
        png.at += 12 + (size_t)length;
    }
    *orientation = png.has_exif ? png.exif : png.raw_profile;
    if (*orientation == 0) *orientation = png.xmp;
    return result;
}

/* ------------------------------------------------------------------------------------------------ JPEG

   What Pillow gives for a JPEG is what libjpeg-turbo gives, so each step below has libjpeg-turbo's exact arithmetic.
   The standard is ITU-T T.81; a reader should have its figure of the scan structure (Figure B.2) beside this.

     file bytes                 FF D8 .. FF xx length payload .. FF D9                    read_jpeg, T.81 Annex B
         | markers              DQT, DHT, DRI, SOF, SOS fill the tables; APPn the colour space and the orientation
         v
     entropy-coded bits         one stream a scan, cut by restart markers                 decode_scan, T.81 F.2 and G.2
         | Huffman
         v
     coefficients               8 x 8 int16 a block, out of zigzag order
         | dequantise, IDCT     a sequential block at once, progressive ones after the last scan
         v
     planes of samples          one uint8 plane a component, its own size                 jpeg_idct: jidctint.c
         | upsample             triangle filter for 2:1, else repetition                  upsample_row: jdsample.c
         v
     rows, [width] a component
         | colour               YCbCr, RGB, grey, CMYK, YCCK                              colour_row: jdcolor.c
         v
     rgb                        [height, width, 3]

   Where libjpeg only warns and goes on with made-up coefficients, this decoder says what is wrong and stops. */

enum { JPEG_LOOKAHEAD = 9, JPEG_MAX_SCANS = 500 };

typedef struct JpegHuffman {
    bool defined;
    uint8_t symbols[256];                   /* in the order of their codes */
    uint16_t lookup[1 << JPEG_LOOKAHEAD];   /* by the next bits: length << 8 | symbol; 0 where the code is longer */
    int32_t last[17], offset[17];           /* by length: the last code (-1: none); symbol index minus code */
} JpegHuffman;

/* The bits of one scan, the next one at the top of bits. Past the last byte come zeros, counted in padding: as soon as
   padding exceeds count some of them were used, and the data had ended early. */
typedef struct JpegBits {
    const uint8_t *at, *end;
    uint64_t bits;
    int count, padding;
    bool stopped;
} JpegBits;

typedef struct JpegComponent {
    int id, h, v, quant_index;              /* h, v: sampling factors */
    int width, height;                      /* in samples: libjpeg's downsampled_width and _height */
    int blocks_x, blocks_y;                 /* blocks that hold samples of the picture */
    int padded_x, padded_y;                 /* the same, filled up to whole MCUs */
    bool coded;                             /* some scan had it, and quant is what was in its slot then */
    uint16_t quant[64];                     /* in natural order, as are coefficients */
    int precision[64];                      /* in zigzag order: bits not sent yet of a coefficient, -1 for all of it */
    uint8_t *plane;                         /* [8 * padded_y, 8 * padded_x] */
    int16_t *coefficients;                  /* progressive only: [padded_y, padded_x, 64] */
    const JpegHuffman *dc, *ac;             /* in the current scan */
    int16_t prediction;
} JpegComponent;

typedef enum JpegColour { JPEG_GREY, JPEG_YCC, JPEG_RGB, JPEG_CMYK, JPEG_YCCK } JpegColour;

typedef struct Jpeg {
    const uint8_t *at, *end;
    const char *name;
    SvError *error;
    bool has_frame, progressive, complete;  /* complete: the one scan a sequential file needs was read */
    bool has_jfif, has_adobe, quant_defined[4];
    int adobe_transform;
    uint16_t quant[4][64];
    JpegHuffman dc[4], ac[4];
    int width, height, max_h, max_v, mcus_x, mcus_y, n_components;
    JpegComponent components[4];
    JpegColour colour;
    int restart_interval, n_scans;
    int n_scan_components, ss, se, ah, al;  /* the current scan, T.81 B.2.3 */
    JpegComponent *scan[4];
    uint32_t eob_run;
    JpegBits bits;
    uint8_t *exif;                          /* every Exif segment before the first scan, joined */
    size_t exif_size;
    const uint8_t *xmp;
    size_t xmp_size;
} Jpeg;

/* Natural position of each zigzag position, T.81 Figure A.6. */
static const uint8_t jpeg_zigzag[64] = {
     0,  1,  8, 16,  9,  2,  3, 10, 17, 24, 32, 25, 18, 11,  4,  5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13,  6,
     7, 14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46,
    53, 60, 61, 54, 47, 55, 62, 63
};

/* Files from Motion JPEG leave the tables of T.81 K.3 out, and libjpeg (jstdhuff.c) puts them into the empty slots.
   Each is a DHT payload without its first byte: how many codes of each length, then the symbols. */
static const uint8_t jpeg_standard_dc[2][28] = {
    { 0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 },
    { 0, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11 }
};
static const uint8_t jpeg_standard_ac[2][178] = {
    {
        0, 2, 1, 3, 3, 2, 4, 3, 5, 5, 4, 4, 0, 0, 1, 125, 1, 2, 3, 0, 4, 17, 5, 18, 33, 49, 65, 6, 19, 81, 97, 7, 34,
        113, 20, 50, 129, 145, 161, 8, 35, 66, 177, 193, 21, 82, 209, 240, 36, 51, 98, 114, 130, 9, 10, 22, 23, 24,
        25, 26, 37, 38, 39, 40, 41, 42, 52, 53, 54, 55, 56, 57, 58, 67, 68, 69, 70, 71, 72, 73, 74, 83, 84, 85, 86,
        87, 88, 89, 90, 99, 100, 101, 102, 103, 104, 105, 106, 115, 116, 117, 118, 119, 120, 121, 122, 131, 132, 133,
        134, 135, 136, 137, 138, 146, 147, 148, 149, 150, 151, 152, 153, 154, 162, 163, 164, 165, 166, 167, 168, 169,
        170, 178, 179, 180, 181, 182, 183, 184, 185, 186, 194, 195, 196, 197, 198, 199, 200, 201, 202, 210, 211, 212,
        213, 214, 215, 216, 217, 218, 225, 226, 227, 228, 229, 230, 231, 232, 233, 234, 241, 242, 243, 244, 245, 246,
        247, 248, 249, 250
    }, {
        0, 2, 1, 2, 4, 4, 3, 4, 7, 5, 4, 4, 0, 1, 2, 119, 0, 1, 2, 3, 17, 4, 5, 33, 49, 6, 18, 65, 81, 7, 97, 113, 19,
        34, 50, 129, 8, 20, 66, 145, 161, 177, 193, 9, 35, 51, 82, 240, 21, 98, 114, 209, 10, 22, 36, 52, 225, 37,
        241, 23, 24, 25, 26, 38, 39, 40, 41, 42, 53, 54, 55, 56, 57, 58, 67, 68, 69, 70, 71, 72, 73, 74, 83, 84, 85,
        86, 87, 88, 89, 90, 99, 100, 101, 102, 103, 104, 105, 106, 115, 116, 117, 118, 119, 120, 121, 122, 130, 131,
        132, 133, 134, 135, 136, 137, 138, 146, 147, 148, 149, 150, 151, 152, 153, 154, 162, 163, 164, 165, 166, 167,
        168, 169, 170, 178, 179, 180, 181, 182, 183, 184, 185, 186, 194, 195, 196, 197, 198, 199, 200, 201, 202, 210,
        211, 212, 213, 214, 215, 216, 217, 218, 226, 227, 228, 229, 230, 231, 232, 233, 234, 242, 243, 244, 245, 246,
        247, 248, 249, 250
    }
};

/* The low 16 bits, as two's complement. */
static int16_t jpeg_wrap16(int32_t value) { return (int16_t)(uint16_t)((uint32_t)value & 0xffff); }
static int jpeg_clamp8(int value) { return value < 0 ? 0 : value > 255 ? 255 : value; }

static int jpeg_truncated(const Jpeg *j) {
    return sv_fail(j->error, "%s: the JPEG file is truncated", j->name);
}

static int jpeg_no_memory(const Jpeg *j) {
    return sv_fail(j->error, "%s: not enough memory to decode the JPEG", j->name);
}

/* ----------------------------------------------------------------------------- JPEG: bits and codes */

/* At least 57 bits afterwards. FF 00 stands for the byte FF; FF and anything else is a marker, where a scan stops. */
static void jpeg_refill(JpegBits *b) {
    while (b->count <= 56) {
        unsigned byte = 0;
        if (b->at < b->end && *b->at != 0xff) {
            byte = *b->at++;
        } else if (!b->stopped) {
            const uint8_t *next = b->at;
            while (next < b->end && *next == 0xff) next++;
            if (next < b->end && next > b->at && *next == 0) {
                byte = 0xff;
                b->at = next + 1;
            } else {
                b->stopped = true;
            }
        }
        if (b->stopped) b->padding += 8;
        b->bits |= (uint64_t)byte << (56 - b->count);
        b->count += 8;
    }
}

static inline unsigned jpeg_take(JpegBits *b, int n)      /* 1 <= n <= 16 */
{
    if (b->count < n) jpeg_refill(b);
    unsigned value = (unsigned)(b->bits >> (64 - n));
    b->bits <<= n;
    b->count -= n;
    return value;
}

/* The next symbol, or -1 for a code the table does not have. */
static inline int jpeg_symbol(JpegBits *b, const JpegHuffman *table) {
    if (b->count < 32) jpeg_refill(b);
    unsigned entry = table->lookup[b->bits >> (64 - JPEG_LOOKAHEAD)];
    if (entry) {
        b->bits <<= entry >> 8;
        b->count -= (int)(entry >> 8);
        return (int)(entry & 255);
    }
    for (int length = JPEG_LOOKAHEAD + 1; length <= 16; length++) {
        int32_t code = (int32_t)(b->bits >> (64 - length));
        if (code <= table->last[length]) {
            b->bits <<= length;
            b->count -= length;
            return table->symbols[code + table->offset[length]];
        }
    }
    return -1;
}

/* The number of that many bits, T.81 F.2.2.1 EXTEND: the lower half of the codes is negative. */
static inline int jpeg_value(JpegBits *b, int size)       /* 0 <= size <= 15 */
{
    if (size == 0) return 0;
    int value = (int)jpeg_take(b, size);
    return value < 1 << (size - 1) ? value - (1 << size) + 1 : value;
}

/* Makes a table from 16 counts and the symbols; the caller has checked that symbols holds them all. Returns -1 for
   counts that are no prefix code, or that use the code of all ones, and for DC symbols over 15, as jdhuff.c does. */
static int jpeg_build_huffman(JpegHuffman *table, const uint8_t counts[16], const uint8_t *symbols, bool is_dc) {
    int n = 0;
    int32_t code = 0;
    memset(table, 0, sizeof *table);
    for (int length = 1; length <= 16; length++, code <<= 1) {
        int count = counts[length - 1];
        if (n + count > 256) return -1;
        table->offset[length] = n - code;
        table->last[length] = count ? code + count - 1 : -1;
        for (int i = 0; i < count; i++, n++, code++) {
            if (code + 1 >= 1 << length || (is_dc && symbols[n] > 15)) return -1;
            table->symbols[n] = symbols[n];
            if (length > JPEG_LOOKAHEAD) continue;
            int shift = JPEG_LOOKAHEAD - length;
            for (int low = 0; low < 1 << shift; low++)
                table->lookup[(code << shift) + low] = (uint16_t)(length << 8 | symbols[n]);
        }
    }
    table->defined = true;
    return 0;
}

/* ----------------------------------------------------------------------------- JPEG: the inverse DCT */

/* Eight values to eight, the "islow" algorithm of jidctint.c (Loeffler, Ligtenberg and Moschytz) with 13 fractional
   bits in the constants. The sums that wrap to 16 bits are those that libjpeg-turbo's x86 code makes in 16 bits; for
   what an encoder writes it makes no difference. No 32-bit sum overflows for any 16-bit input. */
static inline void jpeg_idct_1d(const int16_t *in, int step, int32_t out[8]) {
    int32_t in0 = in[0], in1 = in[step], in2 = in[2 * step], in3 = in[3 * step];
    int32_t in4 = in[4 * step], in5 = in[5 * step], in6 = in[6 * step], in7 = in[7 * step];

    int32_t even0 = jpeg_wrap16(in0 + in4) * 8192, even1 = jpeg_wrap16(in0 - in4) * 8192;
    int32_t even3 = in2 * (4433 + 6270) + in6 * 4433;           /* 8192 times 0.541196100, 0.765366865, */
    int32_t even2 = in2 * 4433 + in6 * (4433 - 15137);          /* ... 1.847759065 */
    int32_t sum0 = even0 + even3, sum3 = even0 - even3, sum1 = even1 + even2, sum2 = even1 - even2;

    int32_t z3 = jpeg_wrap16(in7 + in3), z4 = jpeg_wrap16(in5 + in1);
    int32_t odd3 = z3 * (9633 - 16069) + z4 * 9633;             /* 1.175875602, 1.961570560 */
    int32_t odd4 = z3 * 9633 + z4 * (9633 - 3196);              /* 0.390180644 */
    int32_t odd7 = in7 * (2446 - 7373) - in1 * 7373 + odd3;     /* 0.298631336, 0.899976223 */
    int32_t odd5 = in5 * (16819 - 20995) - in3 * 20995 + odd4;  /* 2.053119869, 2.562915447 */
    int32_t odd2 = in3 * (25172 - 20995) - in5 * 20995 + odd3;  /* 3.072711026 */
    int32_t odd1 = in1 * (12299 - 7373) - in7 * 7373 + odd4;    /* 1.501321110 */

    out[0] = sum0 + odd1; out[7] = sum0 - odd1;
    out[1] = sum1 + odd2; out[6] = sum1 - odd2;
    out[2] = sum2 + odd5; out[5] = sum2 - odd5;
    out[3] = sum3 + odd7; out[4] = sum3 - odd7;
}

/* One block, coefficients in natural order, to 8 x 8 samples. Right shifts of negative numbers round down, as on every
   compiler this is built with. */
static void jpeg_idct(const int16_t coefficients[64], const uint16_t quant[64], uint8_t *out, size_t stride) {
    int16_t in[64], columns[64];                            /* columns: [row, column] after the first pass */
    int32_t sums[8];
    int first_row = 0, others = 0;
    for (int i = 1; i < 8; i++) first_row |= coefficients[i];
    for (int i = 8; i < 64; i++) others |= coefficients[i];

    if (!others) {                                          /* every column is flat */
        for (int x = 0; x < 8; x++)
            columns[x] = jpeg_wrap16(jpeg_wrap16(coefficients[x] * (int32_t)quant[x]) * 4);
        if (!first_row) {                                   /* and so is the block: most of them, in a photo's sky */
            int grey = jpeg_clamp8(((columns[0] + 16) >> 5) + 128);
            for (int y = 0; y < 8; y++) memset(out + (size_t)y * stride, grey, 8);
            return;
        }
        for (int y = 1; y < 8; y++) memcpy(columns + 8 * y, columns, 8 * sizeof *columns);
    } else {
        for (int i = 0; i < 64; i++) in[i] = jpeg_wrap16(coefficients[i] * (int32_t)quant[i]);
        for (int x = 0; x < 8; x++) {
            jpeg_idct_1d(in + x, 8, sums);
            for (int y = 0; y < 8; y++) {                   /* two fractional bits stay */
                int32_t value = (sums[y] + (1 << 10)) >> 11;
                columns[8 * y + x] = (int16_t)(value < -32768 ? -32768 : value > 32767 ? 32767 : value);
            }
        }
    }
    for (int y = 0; y < 8; y++, out += stride) {
        jpeg_idct_1d(columns + 8 * y, 1, sums);
        for (int x = 0; x < 8; x++) out[x] = (uint8_t)jpeg_clamp8(((sums[x] + (1 << 17)) >> 18) + 128);
    }
}

/* ----------------------------------------------------------------------------- JPEG: blocks of a scan

   Each function reads one block's share of the scan, and returns -1 for data that no encoder writes. */

/* Sequential, T.81 F.2.2. block holds zeros before. */
static int jpeg_block_sequential(Jpeg *j, JpegComponent *c, int16_t *block) {
    JpegBits *b = &j->bits;
    int size = jpeg_symbol(b, c->dc);
    if (size < 0) return -1;
    c->prediction = jpeg_wrap16(c->prediction + jpeg_value(b, size));
    block[0] = c->prediction;
    for (int k = 1; k < 64; k++) {
        int symbol = jpeg_symbol(b, c->ac);
        if (symbol < 0) return -1;
        if ((symbol & 15) == 0) {
            if (symbol < 0xf0) break;                       /* end of block */
            k += 15;                                        /* ZRL: sixteen zeros */
            continue;
        }
        k += symbol >> 4;
        if (k > 63) return -1;
        block[jpeg_zigzag[k]] = (int16_t)jpeg_value(b, symbol & 15);
    }
    return 0;
}

/* Progressive, T.81 G.2: the DC coefficient's upper bits, then one more of them a scan. */
static int jpeg_block_dc_first(Jpeg *j, JpegComponent *c, int16_t *block) {
    int size = jpeg_symbol(&j->bits, c->dc);
    if (size < 0) return -1;
    c->prediction = jpeg_wrap16(c->prediction + jpeg_value(&j->bits, size));
    block[0] = jpeg_wrap16(c->prediction * (1 << j->al));
    return 0;
}

static int jpeg_block_dc_refine(Jpeg *j, JpegComponent *c, int16_t *block) {
    (void)c;
    if (jpeg_take(&j->bits, 1)) block[0] = jpeg_wrap16(block[0] | 1 << j->al);
    return 0;
}

/* Symbol r0 with r < 15: this block and 2^r - 1 + (r more bits) others have no further new coefficients in the band. */
static uint32_t jpeg_eob_run(JpegBits *b, int r) {
    return (1u << r) + (r ? jpeg_take(b, r) : 0);
}

static int jpeg_block_ac_first(Jpeg *j, JpegComponent *c, int16_t *block) {
    if (j->eob_run) {
        j->eob_run--;
        return 0;
    }
    for (int k = j->ss; k <= j->se; k++) {
        int symbol = jpeg_symbol(&j->bits, c->ac);
        if (symbol < 0) return -1;
        int run = symbol >> 4, size = symbol & 15;
        if (size) {
            k += run;
            if (k > j->se) return -1;
            block[jpeg_zigzag[k]] = jpeg_wrap16(jpeg_value(&j->bits, size) * (1 << j->al));
        } else if (run == 15) {
            k += 15;
        } else {
            j->eob_run = jpeg_eob_run(&j->bits, run) - 1;
            break;
        }
    }
    return 0;
}

/* One more bit of a coefficient that is not zero, away from zero. */
static void jpeg_correct(JpegBits *b, int16_t *coefficient, int bit) {
    if (jpeg_take(b, 1) && !(*coefficient & bit))
        *coefficient = jpeg_wrap16(*coefficient + (*coefficient < 0 ? -bit : bit));
}

static int jpeg_block_ac_refine(Jpeg *j, JpegComponent *c, int16_t *block) {
    JpegBits *b = &j->bits;
    int bit = 1 << j->al, k = j->ss;
    if (!j->eob_run) {
        for (; k <= j->se; k++) {
            int symbol = jpeg_symbol(b, c->ac), value = 0;
            if (symbol < 0) return -1;
            int run = symbol >> 4;
            if ((symbol & 15) == 1) {
                value = jpeg_take(b, 1) ? bit : -bit;
            } else if (symbol & 15) {
                return -1;                                  /* a new coefficient has only the one bit */
            } else if (run < 15) {
                j->eob_run = jpeg_eob_run(b, run);
                break;
            }
            for (; k <= j->se; k++) {                       /* the run counts only coefficients still zero */
                int16_t *coefficient = block + jpeg_zigzag[k];
                if (*coefficient) jpeg_correct(b, coefficient, bit);
                else if (run-- == 0) break;
            }
            if (value) {
                if (k > j->se) return -1;
                block[jpeg_zigzag[k]] = (int16_t)value;
            }
        }
    }
    if (j->eob_run) {
        for (; k <= j->se; k++)
            if (block[jpeg_zigzag[k]]) jpeg_correct(b, block + jpeg_zigzag[k], bit);
        j->eob_run--;
    }
    return 0;
}

/* ----------------------------------------------------------------------------- JPEG: a scan */

/* Moves past the next marker and returns it, or -1 at the end of the file. Anything in between is skipped. */
static int jpeg_next_marker(Jpeg *j) {
    for (;;) {
        while (j->at < j->end && *j->at != 0xff) j->at++;
        while (j->at < j->end && *j->at == 0xff) j->at++;
        if (j->at == j->end) return -1;
        if (*j->at++ != 0) return j->at[-1];
    }
}

static void jpeg_reset_entropy(Jpeg *j)                   /* T.81 F.2.1.3.1, at the start and at restart markers */
{
    j->bits = (JpegBits){ .at = j->at, .end = j->end };
    j->eob_run = 0;
    for (int i = 0; i < j->n_scan_components; i++) j->scan[i]->prediction = 0;
}

/* Where a scan went wrong: past the end of the file, past a marker, or in the midst of it. */
static int jpeg_scan_failed(const Jpeg *j) {
    const JpegBits *b = &j->bits;
    if (b->count >= b->padding)
        return sv_fail(j->error, "%s: the JPEG's compressed data is damaged (in scan %d)", j->name, j->n_scans);
    const uint8_t *marker = b->at;
    while (marker < b->end && *marker == 0xff) marker++;
    if (marker == b->end) return jpeg_truncated(j);
    return sv_fail(j->error, "%s: the JPEG's compressed data ends early, at marker FF%02X (in scan %d)",
                   j->name, *marker, j->n_scans);
}

static int jpeg_decode_block(Jpeg *j, JpegComponent *c, int x, int y) {
    if (!j->progressive) {
        int16_t block[64] = { 0 };
        if (jpeg_block_sequential(j, c, block)) return -1;
        size_t stride = (size_t)c->padded_x * 8;
        jpeg_idct(block, c->quant, c->plane + (size_t)y * 8 * stride + (size_t)x * 8, stride);
        return 0;
    }
    int16_t *block = c->coefficients + ((size_t)y * (size_t)c->padded_x + (size_t)x) * 64;
    if (j->ss == 0) return j->ah ? jpeg_block_dc_refine(j, c, block) : jpeg_block_dc_first(j, c, block);
    return j->ah ? jpeg_block_ac_refine(j, c, block) : jpeg_block_ac_first(j, c, block);
}

/* A scan of one component goes over its own blocks; one of several over MCUs, of h x v blocks of each (T.81 A.2). */
static int decode_scan(Jpeg *j) {
    JpegComponent *only = j->n_scan_components == 1 ? j->scan[0] : NULL;
    int mcus_x = only ? only->blocks_x : j->mcus_x, mcus_y = only ? only->blocks_y : j->mcus_y;
    int to_restart = j->restart_interval, restarts = 0;
    jpeg_reset_entropy(j);
    for (int y = 0; y < mcus_y; y++) {
        for (int x = 0; x < mcus_x; x++) {
            if (j->restart_interval && to_restart-- == 0) {
                j->at = j->bits.at;
                int marker = jpeg_next_marker(j);
                if (marker < 0) return jpeg_truncated(j);
                if (marker != 0xd0 + (restarts & 7))
                    return sv_fail(j->error, "%s: the JPEG has marker FF%02X where restart marker %d belongs",
                                   j->name, (unsigned)marker, restarts & 7);
                restarts++;
                to_restart = j->restart_interval - 1;
                jpeg_reset_entropy(j);
            }
            if (only) {
                if (jpeg_decode_block(j, only, x, y)) return jpeg_scan_failed(j);
            } else {
                for (int i = 0; i < j->n_scan_components; i++) {
                    JpegComponent *c = j->scan[i];
                    for (int v = 0; v < c->v; v++)
                        for (int h = 0; h < c->h; h++)
                            if (jpeg_decode_block(j, c, x * c->h + h, y * c->v + v)) return jpeg_scan_failed(j);
                }
            }
            if (j->bits.count < j->bits.padding) return jpeg_scan_failed(j);
        }
    }
    j->at = j->bits.at;                                     /* never past a marker */
    return 0;
}

/* ----------------------------------------------------------------------------- JPEG: segments

   T.81 B.2. p[0 .. size) is what follows the length. */

static int read_sof(Jpeg *j, int marker, const uint8_t *p, size_t size) {
    static const char *const process[16] = {
        [3] = "lossless", [5] = "hierarchical", "hierarchical", "hierarchical", [9] = "arithmetic-coded",
        "arithmetic-coded", "lossless", [13] = "hierarchical", "hierarchical", "hierarchical"
    };
    char what[80];
    if (marker > 0xc2) {
        snprintf(what, sizeof what, "%s JPEG is", process[marker & 15]);
        return not_read(j->name, what, j->error);
    }
    if (j->has_frame) return sv_fail(j->error, "%s: the JPEG has two frame headers", j->name);
    if (size < 6) return sv_fail(j->error, "%s: the JPEG's frame header is too short", j->name);
    if (p[0] != 8) {
        snprintf(what, sizeof what, "JPEG of %d bits a sample is", p[0]);
        return not_read(j->name, what, j->error);
    }
    j->height = (int)be16(p + 1);
    j->width = (int)be16(p + 3);
    j->n_components = p[5];
    if (check_size((uint64_t)j->width, (uint64_t)j->height, j->name, j->error)) return -1;
    if (j->n_components != 1 && j->n_components != 3 && j->n_components != 4)
        return sv_fail(j->error, "%s: JPEG of %d components is not read, only 1, 3 or 4", j->name, j->n_components);
    if (size != 6 + 3 * (size_t)j->n_components)
        return sv_fail(j->error, "%s: the JPEG's frame header has the wrong length", j->name);

    j->max_h = j->max_v = 1;
    for (int i = 0; i < j->n_components; i++) {
        JpegComponent *c = &j->components[i];
        c->id = p[6 + 3 * i];
        c->h = p[7 + 3 * i] >> 4;
        c->v = p[7 + 3 * i] & 15;
        c->quant_index = p[8 + 3 * i];
        if (c->h < 1 || c->h > 4 || c->v < 1 || c->v > 4)
            return sv_fail(j->error, "%s: the JPEG has a sampling factor of %d x %d", j->name, c->h, c->v);
        if (c->h > j->max_h) j->max_h = c->h;
        if (c->v > j->max_v) j->max_v = c->v;
    }
    j->mcus_x = (j->width + 8 * j->max_h - 1) / (8 * j->max_h);
    j->mcus_y = (j->height + 8 * j->max_v - 1) / (8 * j->max_v);
    for (int i = 0; i < j->n_components; i++) {
        JpegComponent *c = &j->components[i];
        if (j->max_h % c->h || j->max_v % c->v) {
            snprintf(what, sizeof what, "JPEG with sampling factors %d x %d beside %d x %d is", c->h, c->v, j->max_h,
                     j->max_v);
            return not_read(j->name, what, j->error);
        }
        c->width = (j->width * c->h + j->max_h - 1) / j->max_h;
        c->height = (j->height * c->v + j->max_v - 1) / j->max_v;
        c->blocks_x = (c->width + 7) / 8;
        c->blocks_y = (c->height + 7) / 8;
        c->padded_x = j->mcus_x * c->h;
        c->padded_y = j->mcus_y * c->v;
        for (int k = 0; k < 64; k++) c->precision[k] = -1;
    }
    j->progressive = marker == 0xc2;
    j->has_frame = true;
    return 0;
}

static int read_dqt(Jpeg *j, const uint8_t *p, size_t size) {
    while (size > 0) {
        int index = p[0] & 15, bytes = p[0] >> 4 ? 2 : 1;
        if (index > 3 || size < 1 + 64 * (size_t)bytes)
            return sv_fail(j->error, "%s: the JPEG has a bad quantisation table", j->name);
        p++;
        for (int k = 0; k < 64; k++, p += bytes)
            j->quant[index][jpeg_zigzag[k]] = (uint16_t)(bytes == 2 ? be16(p) : p[0]);
        j->quant_defined[index] = true;
        size -= 1 + 64 * (size_t)bytes;
    }
    return 0;
}

static int read_dht(Jpeg *j, const uint8_t *p, size_t size) {
    while (size > 0) {
        size_t n = 0;
        if (size >= 17)
            for (int i = 1; i <= 16; i++) n += p[i];
        if (size < 17 || n > 256 || size < 17 + n || (p[0] & 0xef) > 3 ||
            jpeg_build_huffman(p[0] & 16 ? &j->ac[p[0] & 3] : &j->dc[p[0] & 3], p + 1, p + 17, !(p[0] & 16)))
            return sv_fail(j->error, "%s: the JPEG has a bad Huffman table", j->name);
        p += 17 + n;
        size -= 17 + n;
    }
    return 0;
}

/* Pillow's JpegImagePlugin looks at APP1 only before the first scan, joins all Exif segments and keeps the last XMP. */
static int read_app(Jpeg *j, int marker, const uint8_t *p, size_t size) {
    static const char exif_name[6] = "Exif\0", xmp_name[29] = "http://ns.adobe.com/xap/1.0/";
    if (marker == 0xe0 && size >= 14 && memcmp(p, "JFIF", 5) == 0) {
        j->has_jfif = true;
    } else if (marker == 0xee && size >= 12 && memcmp(p, "Adobe", 5) == 0) {
        j->has_adobe = true;
        j->adobe_transform = p[11];
    } else if (marker == 0xe1 && j->n_scans == 0 && size >= 6 && memcmp(p, exif_name, 6) == 0) {
        size_t skip = j->exif ? 6 : 0;                      /* exif_orientation takes the first one's name off */
        uint8_t *joined = realloc(j->exif, j->exif_size + size - skip);
        if (!joined) return jpeg_no_memory(j);
        memcpy(joined + j->exif_size, p + skip, size - skip);
        j->exif = joined;
        j->exif_size += size - skip;
    } else if (marker == 0xe1 && j->n_scans == 0 && size >= 29 && memcmp(p, xmp_name, 29) == 0) {
        j->xmp = p + 29;
        j->xmp_size = size - 29;
    }
    return 0;
}

/* What libjpeg takes the components for: jdapimin.c, default_decompress_parms. */
static JpegColour jpeg_colour(const Jpeg *j) {
    const JpegComponent *c = j->components;
    if (j->n_components == 1) return JPEG_GREY;
    if (j->n_components == 4) return j->has_adobe && j->adobe_transform != 0 ? JPEG_YCCK : JPEG_CMYK;
    if (j->has_jfif) return JPEG_YCC;
    if (j->has_adobe) return j->adobe_transform == 0 ? JPEG_RGB : JPEG_YCC;
    return c[0].id == 'R' && c[1].id == 'G' && c[2].id == 'B' ? JPEG_RGB : JPEG_YCC;
}

/* Once the first scan's header is read: the tables a file may leave out, and the memory. */
static int jpeg_begin(Jpeg *j) {
    j->colour = jpeg_colour(j);
    for (int i = 0; i < 2 && !j->progressive; i++) {
        const uint8_t *dc = jpeg_standard_dc[i], *ac = jpeg_standard_ac[i];
        if (!j->dc[i].defined) jpeg_build_huffman(&j->dc[i], dc, dc + 16, true);
        if (!j->ac[i].defined) jpeg_build_huffman(&j->ac[i], ac, ac + 16, false);
    }
    for (int i = 0; i < j->n_components; i++) {
        JpegComponent *c = &j->components[i];
        size_t blocks = (size_t)c->padded_x * (size_t)c->padded_y;
        if (blocks > SIZE_MAX / 128) return jpeg_no_memory(j);
        if (j->progressive) c->coefficients = calloc(blocks, 64 * sizeof *c->coefficients);
        else c->plane = malloc(blocks * 64);
        if (!c->coefficients && !c->plane) return jpeg_no_memory(j);
        if (!j->progressive && j->n_scan_components < j->n_components)
            memset(c->plane, 128, blocks * 64);             /* grey, if no scan has it */
    }
    return 0;
}

static int read_sos(Jpeg *j, const uint8_t *p, size_t size) {
    if (!j->has_frame) return sv_fail(j->error, "%s: the JPEG has a scan before its frame header", j->name);
    if (j->complete) return sv_fail(j->error, "%s: the JPEG has a second scan of a finished picture", j->name);
    if (++j->n_scans > JPEG_MAX_SCANS)
        return sv_fail(j->error, "%s: the JPEG has more than %d scans", j->name, JPEG_MAX_SCANS);
    int n = j->n_scan_components = size > 0 ? p[0] : 0;
    if (n < 1 || n > 4 || size != 4 + 2 * (size_t)n)
        return sv_fail(j->error, "%s: the header of the JPEG's scan %d has the wrong length", j->name, j->n_scans);
    const uint8_t *last = p + 1 + 2 * n;
    j->ss = last[0];
    j->se = last[1];
    j->ah = last[2] >> 4;
    j->al = last[2] & 15;

    /* T.81 G.1.1.1; a sequential scan's parameters are fixed, and files with others there exist */
    if (j->progressive && ((j->ss == 0 ? j->se != 0 : j->ss > j->se || j->se > 63 || n != 1) ||
                           (j->ah && j->al != j->ah - 1) || j->al > 13))
        return sv_fail(j->error, "%s: the JPEG's scan %d has impossible progression parameters", j->name, j->n_scans);

    uint64_t blocks = 0, mcu_blocks = 0;
    for (int i = 0; i < n; i++) {
        int slot = i;                                       /* jdmarker.c: in the frame's order, even if ids repeat */
        while (slot < j->n_components && j->components[slot].id != p[1 + 2 * i]) slot++;
        if (slot >= j->n_components)
            return sv_fail(j->error, "%s: the JPEG's scan %d has a component the frame lacks", j->name, j->n_scans);
        JpegComponent *c = j->scan[i] = &j->components[slot];
        for (int k = 0; k < i; k++)
            if (j->scan[k] == c)
                return sv_fail(j->error, "%s: the JPEG's scan %d has a component twice", j->name, j->n_scans);
        if (j->progressive && j->ss > 0 && c->precision[0] < 0)         /* T.81 G.1.1.1.1 */
            return sv_fail(j->error, "%s: the JPEG's scan %d has AC coefficients before their DC", j->name, j->n_scans);
        mcu_blocks += (uint64_t)(c->h * c->v);
        blocks += (uint64_t)(n == 1 ? c->blocks_x : c->padded_x) * (uint64_t)(n == 1 ? c->blocks_y : c->padded_y);
    }
    if (n > 1 && mcu_blocks > 10)                           /* T.81 B.2.3 */
        return sv_fail(j->error, "%s: the JPEG has %d blocks an MCU, more than 10", j->name, (int)mcu_blocks);

    /* No code is shorter than a bit, so a header that claims a vast picture is found out before memory is taken. */
    uint64_t least_bits = !j->progressive ? 2 * blocks : j->ss == 0 ? blocks : 0;
    if (least_bits / 8 > (uint64_t)(j->end - (last + 3))) return jpeg_truncated(j);
    if (j->n_scans == 1 && jpeg_begin(j)) return -1;

    for (int i = 0; i < n; i++) {
        JpegComponent *c = j->scan[i];
        int dc = p[2 + 2 * i] >> 4, ac = p[2 + 2 * i] & 15;
        bool needs_dc = !j->progressive || (j->ss == 0 && j->ah == 0), needs_ac = !j->progressive || j->ss > 0;
        if ((needs_dc && (dc > 3 || !j->dc[dc].defined)) || (needs_ac && (ac > 3 || !j->ac[ac].defined)))
            return sv_fail(j->error, "%s: the JPEG's scan %d uses a Huffman table that is not there",
                           j->name, j->n_scans);
        c->dc = needs_dc ? &j->dc[dc] : NULL;
        c->ac = needs_ac ? &j->ac[ac] : NULL;
        if (!c->coded) {                                    /* jdinput.c: the table of the component's first scan */
            if (c->quant_index > 3 || !j->quant_defined[c->quant_index])
                return sv_fail(j->error, "%s: the JPEG uses a quantisation table that is not there", j->name);
            memcpy(c->quant, j->quant[c->quant_index], sizeof c->quant);
            c->coded = true;
        } else if (!j->progressive) {
            return sv_fail(j->error, "%s: the JPEG's scan %d repeats a component", j->name, j->n_scans);
        }
        for (int k = j->ss; j->progressive && k <= j->se; k++) {
            if (c->precision[k] != (j->ah ? j->ah : -1))    /* libjpeg goes on; small files that cost hours do this */
                return sv_fail(j->error, "%s: the JPEG's scan %d repeats or skips bits of coefficients",
                               j->name, j->n_scans);
            c->precision[k] = j->al;
        }
    }
    if (decode_scan(j)) return -1;
    j->complete = !j->progressive && n == j->n_components;
    return 0;
}

/* Markers up to EOI. A file of a single scan may be cut after its last MCU: nothing is missing then. With several scans
   only EOI tells that none is missing. */
static int read_jpeg(Jpeg *j) {
    if (j->end - j->at < 3 || j->at[0] != 0xff || j->at[1] != 0xd8 || j->at[2] != 0xff)
        return sv_fail(j->error, "%s: not a JPEG file", j->name);
    j->at += 2;
    for (;;) {
        int marker = jpeg_next_marker(j), status = 0;
        if (marker == 0xd9 && j->n_scans) return 0;
        if (marker == 0xd9) return sv_fail(j->error, "%s: the JPEG has no picture in it", j->name);
        if (marker == 0x01 || (marker >= 0xd0 && marker <= 0xd7)) continue;     /* TEM, RSTn: no payload */
        bool is_sof = (marker >= 0xc0 && marker <= 0xcf && marker != 0xc4 && marker != 0xc8 && marker != 0xcc) ||
                      marker == 0xde;                       /* DHP, the frame header of a hierarchical file */
        bool is_app = marker >= 0xe0 && marker <= 0xef;
        bool is_other = marker == 0xc4 || marker == 0xcc || (marker >= 0xda && marker <= 0xdd) || marker == 0xfe;
        if (marker >= 0 && !is_sof && !is_app && !is_other)
            return sv_fail(j->error, "%s: the JPEG has an unexpected marker FF%02X", j->name, (unsigned)marker);
        size_t left = (size_t)(j->end - j->at), size = left >= 2 ? be16(j->at) : 0;
        if (marker < 0 || left < 2 || size > left) return j->complete ? 0 : jpeg_truncated(j);
        if (size < 2) return sv_fail(j->error, "%s: the JPEG has a segment of length %d", j->name, (int)size);
        const uint8_t *payload = j->at + 2;
        j->at += size;
        size -= 2;
        if (is_sof) status = read_sof(j, marker, payload, size);
        else if (is_app) status = read_app(j, marker, payload, size);
        else if (marker == 0xc4) status = read_dht(j, payload, size);
        else if (marker == 0xda) status = read_sos(j, payload, size);
        else if (marker == 0xdb) status = read_dqt(j, payload, size);
        else if (marker == 0xdd && size == 2) j->restart_interval = (int)be16(payload);
        else if (marker == 0xdd) status = sv_fail(j->error, "%s: the JPEG's DRI segment has the wrong length", j->name);
        if (status) return -1;
    }
}

/* ----------------------------------------------------------------------------- JPEG: block smoothing

   For a progressive file whose scans leave some of the first nine AC coefficients imprecise, libjpeg guesses those that
   are zero from the DC values of the 5 x 5 blocks around (decompress_smooth_data of jdcoefct.c). Row k of the tables
   below is the kernel, times 256, of zigzag position k: one set for a component of which only DC is known, whose DC is
   smoothed too, and one for all others. */

static const int16_t jpeg_smooth_dc_only[10][25] = {
    {  -2,  -6,  -8,  -6,  -2,  -6,   6,  42,   6,  -6,  -8,  42, 152,  42,  -8,  -6,   6,  42,   6,  -6,
       -2,  -6,  -8,  -6,  -2 },
    {  -1,  -1,   0,   1,   1,  -3,  13,   0, -13,   3,  -3,  38,   0, -38,   3,  -3,  13,   0, -13,   3,
       -1,  -1,   0,   1,   1 },
    {  -1,  -3,  -3,  -3,  -1,  -1,  13,  38,  13,  -1,   0,   0,   0,   0,   0,   1, -13, -38, -13,   1,
        1,   3,   3,   3,   1 },
    {   0,   0,   1,   0,   0,   0,   2,   7,   2,   0,   0,  -5, -14,  -5,   0,   0,   2,   7,   2,   0,
        0,   0,   1,   0,   0 },
    {  -1,   0,   0,   0,   1,   0,   9,   0,  -9,   0,   0,   0,   0,   0,   0,   0,  -9,   0,   9,   0,
        1,   0,   0,   0,  -1 },
    {   0,   0,   0,   0,   0,   0,   2,  -5,   2,   0,   1,   7, -14,   7,   1,   0,   2,  -5,   2,   0,
        0,   0,   0,   0,   0 },
    {   0,   0,   0,   0,   0,   0,   1,   0,  -1,   0,   0,   2,   0,  -2,   0,   0,   1,   0,  -1,   0,
        0,   0,   0,   0,   0 },
    {   0,   0,   0,   0,   0,   0,   1,  -3,   1,   0,   0,   0,   0,   0,   0,   0,  -1,   3,  -1,   0,
        0,   0,   0,   0,   0 },
    {   0,   0,   0,   0,   0,   0,   1,   0,  -1,   0,   0,  -3,   0,   3,   0,   0,   1,   0,  -1,   0,
        0,   0,   0,   0,   0 },
    {   0,   0,   0,   0,   0,   0,   1,   2,   1,   0,   0,   0,   0,   0,   0,   0,  -1,  -2,  -1,   0,
        0,   0,   0,   0,   0 }
};

static const int16_t jpeg_smooth_mixed[6][25] = {
    { 0 },                                                  /* DC stays */
    {   0,   0,   0,   0,   0,   0,   0,   0,   0,   0,  -7,  50,   0, -50,   7,   0,   0,   0,   0,   0,
        0,   0,   0,   0,   0 },
    {   0,   0,  -7,   0,   0,   0,   0,  50,   0,   0,   0,   0,   0,   0,   0,   0,   0, -50,   0,   0,
        0,   0,   7,   0,   0 },
    {   0,   0,  -1,   0,   0,   0,   0,  13,   0,   0,   0,   0, -24,   0,   0,   0,   0,  13,   0,   0,
        0,   0,  -1,   0,   0 },
    {   0,  -1,   0,   1,   0,  -1,  10,   0, -10,   1,   0,   0,   0,   0,   0,   1, -10,   0,  10,  -1,
        0,   1,   0,  -1,   0 },
    {   0,   0,   0,   0,   0,   0,   0,   0,   0,   0,  -1,  13, -24,  13,  -1,   0,   0,   0,   0,   0,
        0,   0,   0,   0,   0 }
};

static bool jpeg_needs_smoothing(const Jpeg *j) {
    bool useful = false;
    for (int i = 0; i < j->n_components; i++) {
        const JpegComponent *c = &j->components[i];
        if (!c->coded || c->precision[0] < 0) return false;
        for (int k = 0; k < 10; k++) {
            if (c->quant[jpeg_zigzag[k]] == 0) return false;
            if (k > 0 && c->precision[k] != 0) useful = true;
        }
    }
    return useful;
}

/* The five block rows whose DC values count for block row y, libjpeg's way of stopping at the top and the bottom: in
   the last row of MCUs it counts rows as if every row of MCUs had as few as that one. */
static void jpeg_smooth_rows(const Jpeg *j, const JpegComponent *c, int y, int rows[5]) {
    int mcu_y = y / c->v, per_mcu = c->v;
    if (mcu_y == j->mcus_y - 1 && c->blocks_y % c->v) per_mcu = c->blocks_y % c->v;
    int counted = mcu_y * per_mcu + y % c->v, total = per_mcu * j->mcus_y;
    rows[2] = y;
    rows[1] = counted > 0 ? y - 1 : y;
    rows[0] = counted > 1 ? y - 2 : rows[1];
    rows[3] = counted < total - 1 ? y + 1 : y;
    rows[4] = counted < total - 2 ? y + 2 : rows[3];
}

static void jpeg_smooth_block(const JpegComponent *c, const int rows[5], int x, int16_t block[64]) {
    bool dc_only = true;
    int dc[25];
    for (int k = 1; k < 10; k++) dc_only = dc_only && c->precision[k] == -1;
    for (int i = 0; i < 25; i++) {
        int column = x + i % 5 - 2;
        if (column < 0) column = 0;
        if (column > c->blocks_x - 1) column = c->blocks_x - 1;
        dc[i] = c->coefficients[((size_t)rows[i / 5] * (size_t)c->padded_x + (size_t)column) * 64];
    }
    for (int k = dc_only ? 0 : 1; k < (dc_only ? 10 : 6); k++) {
        int at = jpeg_zigzag[k], precision = c->precision[k];
        if (k > 0 && (precision == 0 || block[at])) continue;
        const int16_t *kernel = dc_only ? jpeg_smooth_dc_only[k] : jpeg_smooth_mixed[k];
        int64_t sum = 0, q = c->quant[at];
        for (int i = 0; i < 25; i++) sum += dc[i] * kernel[i];
        sum *= c->quant[0];
        int64_t guess = ((q << 7) + (sum < 0 ? -sum : sum)) / (q << 8);
        if (k > 0 && precision > 0 && guess >= 1 << precision) guess = (1 << precision) - 1;
        block[at] = jpeg_wrap16((int32_t)((sum < 0 ? -guess : guess) & 0xffff));
    }
}

static int jpeg_progressive_planes(Jpeg *j) {
    bool smooth = jpeg_needs_smoothing(j);
    for (int i = 0; i < j->n_components; i++) {
        JpegComponent *c = &j->components[i];
        size_t stride = (size_t)c->padded_x * 8;
        if (!(c->plane = malloc(stride * (size_t)c->padded_y * 8))) return jpeg_no_memory(j);
        for (int y = 0; y < c->blocks_y; y++) {
            int rows[5] = { 0 };
            if (smooth) jpeg_smooth_rows(j, c, y, rows);
            for (int x = 0; x < c->blocks_x; x++) {
                int16_t block[64];
                memcpy(block, c->coefficients + ((size_t)y * (size_t)c->padded_x + (size_t)x) * 64, sizeof block);
                if (smooth) jpeg_smooth_block(c, rows, x, block);
                jpeg_idct(block, c->quant, c->plane + (size_t)y * 8 * stride + (size_t)x * 8, stride);
            }
        }
        free(c->coefficients);
        c->coefficients = NULL;
    }
    return 0;
}

/* ----------------------------------------------------------------------------- JPEG: samples to pixels */

/* Row y of the picture of one component: either in its plane or, if it has fewer samples, made in row. Ratios of 2:1
   are interpolated, 3/4 of the nearer sample and 1/4 of the farther, and the rounding alternates; all others repeat
   samples. jdsample.c does not interpolate across a component of one or two samples a row. */
static const uint8_t *upsample_row(const Jpeg *j, const JpegComponent *c, int y, uint8_t *row) {
    int x_ratio = j->max_h / c->h, y_ratio = j->max_v / c->v, n = c->width;
    size_t stride = (size_t)c->padded_x * 8;
    const uint8_t *nearer = c->plane + (size_t)(y / y_ratio) * stride;
    bool fancy_x = x_ratio == 2 && y_ratio <= 2 && n > 2, fancy_y = y_ratio == 2 && (x_ratio == 1 || fancy_x);

    if (!fancy_x && !fancy_y) {
        if (x_ratio == 1) return nearer;
        for (int x = 0; x < j->width; x++) row[x] = nearer[x / x_ratio];
        return row;
    }
    if (!fancy_y) {
        row[0] = nearer[0];
        row[1] = (uint8_t)((3 * nearer[0] + nearer[1] + 2) >> 2);
        for (int x = 1; x < n - 1; x++) {
            row[2 * x] = (uint8_t)((3 * nearer[x] + nearer[x - 1] + 1) >> 2);
            row[2 * x + 1] = (uint8_t)((3 * nearer[x] + nearer[x + 1] + 2) >> 2);
        }
        row[2 * n - 2] = (uint8_t)((3 * nearer[n - 1] + nearer[n - 2] + 1) >> 2);
        row[2 * n - 1] = nearer[n - 1];
        return row;
    }

    /* the other row that counts: above or below, but for the picture's first and last */
    int other = y / 2 + (y % 2 ? 1 : -1);
    if (other < 0) other = 0;
    if (other > c->height - 1) other = c->height - 1;
    const uint8_t *farther = c->plane + (size_t)other * stride;
    if (!fancy_x) {
        for (int x = 0; x < n; x++) row[x] = (uint8_t)((3 * nearer[x] + farther[x] + (y % 2 ? 2 : 1)) >> 2);
        return row;
    }
    int last = 3 * nearer[0] + farther[0], here = last;
    for (int x = 0; x < n; x++) {
        int next = x < n - 1 ? 3 * nearer[x + 1] + farther[x + 1] : here;
        row[2 * x] = (uint8_t)((3 * here + last + 8) >> 4);
        row[2 * x + 1] = (uint8_t)((3 * here + next + 7) >> 4);
        last = here;
        here = next;
    }
    return row;
}

/* YCbCr to RGB with 16 fractional bits, jdcolor.c's constants and rounding. */
static inline void jpeg_ycc_to_rgb(int luma, int cb, int cr, uint8_t rgb[3]) {
    cb -= 128;
    cr -= 128;
    rgb[0] = (uint8_t)jpeg_clamp8(luma + ((91881 * cr + 32768) >> 16));                 /* 1.40200 */
    rgb[1] = (uint8_t)jpeg_clamp8(luma + ((-22554 * cb - 46802 * cr + 32768) >> 16));   /* 0.34414, 0.71414 */
    rgb[2] = (uint8_t)jpeg_clamp8(luma + ((116130 * cb + 32768) >> 16));                /* 1.77200 */
}

/* Pillow takes every file of four components for Adobe's inverted CMYK; what is stored is then 255 - ink. Its
   Convert.c makes each colour nk - ink * nk / 255 of it, nk = 255 - black, rounded in its own way. */
static inline uint8_t jpeg_ink(int stored, int nk) {
    int product = (255 - stored) * nk + 128;
    return (uint8_t)jpeg_clamp8(nk - ((product + (product >> 8)) >> 8));
}

static void colour_row(const Jpeg *j, const uint8_t *const row[4], uint8_t *rgb) {
    for (int x = 0; x < j->width; x++, rgb += 3) {
        switch (j->colour) {
        case JPEG_GREY:
            rgb[0] = rgb[1] = rgb[2] = row[0][x];
            break;
        case JPEG_YCC:
            jpeg_ycc_to_rgb(row[0][x], row[1][x], row[2][x], rgb);
            break;
        case JPEG_RGB:
            for (int i = 0; i < 3; i++) rgb[i] = row[i][x];
            break;
        case JPEG_CMYK:
            for (int i = 0; i < 3; i++) rgb[i] = jpeg_ink(row[i][x], row[3][x]);
            break;
        case JPEG_YCCK:                                     /* the "RGB" is ink already: 255 - what CMYK stores */
            jpeg_ycc_to_rgb(row[0][x], row[1][x], row[2][x], rgb);
            for (int i = 0; i < 3; i++) rgb[i] = jpeg_ink(255 - rgb[i], row[3][x]);
            break;
        }
    }
}

static int jpeg_pixels(Jpeg *j, SvImage *image) {
    size_t row_size = (size_t)j->width + 8;                 /* 2:1 may write one sample more than the width */
    uint8_t *made = malloc(4 * row_size);
    if (!made) return jpeg_no_memory(j);
    if (new_image((uint64_t)j->width, (uint64_t)j->height, j->name, image, j->error)) {
        free(made);
        return -1;
    }
    for (int y = 0; y < j->height; y++) {
        const uint8_t *row[4] = { NULL, NULL, NULL, NULL };
        for (int i = 0; i < j->n_components; i++)
            row[i] = upsample_row(j, &j->components[i], y, made + (size_t)i * row_size);
        colour_row(j, row, image->rgb + (size_t)y * (size_t)j->width * 3);
    }
    free(made);
    return 0;
}

/* The pixels as the file has them, and how they are to be turned: Exif's orientation, or XMP's if there is none. */
static int decode_jpeg(const uint8_t *data, size_t size, const char *name, SvImage *image, int *orientation,
                       SvError *error) {
    Jpeg *j = calloc(1, sizeof *j);
    if (!j) return sv_fail(error, "%s: not enough memory", name);
    j->at = data;
    j->end = data + size;
    j->name = name;
    j->error = error;
    int status = read_jpeg(j);
    if (status == 0 && j->progressive) status = jpeg_progressive_planes(j);
    if (status == 0) status = jpeg_pixels(j, image);
    if (status == 0) {
        *orientation = j->exif ? exif_orientation(j->exif, j->exif_size) : 0;
        if (*orientation == 0) *orientation = j->xmp ? xmp_orientation(j->xmp, j->xmp_size) : 0;
        }
    for (int i = 0; i < 4; i++) {
        free(j->components[i].plane);
        free(j->components[i].coefficients);
    }
    free(j->exif);
    free(j);
    return status;
}

/* ------------------------------------------------------------------------------------------------ PNM

     P1 P4   bits, 1 is black         width height              ascii digits | rows of whole bytes
     P2 P5   gray                     width height maxval       ascii numbers | 1 or 2 bytes a sample
     P3 P6   RGB                      width height maxval

   "#" begins a comment up to the end of the line, which is taken out of the text, its line end included. */

typedef struct Pnm { const uint8_t *at, *end; } Pnm;

static bool is_space(uint8_t c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

/* Up to 10 characters up to white space, of which one is taken. Returns the number, -1 where the data end, or -2 if it
   is no number. */
static int64_t pnm_number(Pnm *pnm) {
    char token[10];
    int length = 0;
    while (pnm->at < pnm->end) {
        uint8_t c = *pnm->at++;
        if (c == '#') {
            while (pnm->at < pnm->end && *pnm->at != '\n' && *pnm->at != '\r') pnm->at++;
            if (pnm->at < pnm->end) pnm->at++;
        } else if (is_space(c)) {
            if (length) break;
        } else if (length == 10) {
            return -2;
        } else {
            token[length++] = (char)c;
        }
    }
    int64_t number = 0;
    int i = length > 1 && (token[0] == '+' || token[0] == '-') ? 1 : 0;
    if (length == 0) return -1;
    for (; i < length; i++) {
        if (token[i] < '0' || token[i] > '9') return -2;
        number = number * 10 + token[i] - '0';
    }
    return token[0] == '-' && number ? -2 : number;
}

/* Python's round(value / maxval * out_max), halves to even, then what convert("RGB") makes of it: gray of more than
   8 bits is scaled to 65535 in Pillow's mode "I" and cut off at 255 from there (i2rgb in Convert.c). */
static uint8_t pnm_scale(uint32_t value, uint32_t maxval, uint32_t out_max) {
    double scaled = (double)value / maxval * out_max;
    double whole = floor(scaled), rest = scaled - whole;
    uint32_t rounded = (uint32_t)whole;
    if (rest > 0.5 || (rest == 0.5 && rounded % 2)) rounded++;
    return rounded > 255 ? 255 : (uint8_t)rounded;
}

static int pnm_pixels(Pnm *pnm, int kind, uint32_t maxval, const uint8_t *scaled, SvImage *image, const char *name,
                      SvError *error) {
    const size_t width = (size_t)image->width, height = (size_t)image->height;
    const size_t samples = width * height * (kind == 3 || kind == 6 ? 3 : 1);
    uint8_t *to = image->rgb;
    if (kind == 4) {
        for (size_t y = 0; y < height; y++, pnm->at += (width + 7) / 8)
            for (size_t x = 0; x < width; x++, to += 3) memset(to, pnm->at[x / 8] >> (7 - x % 8) & 1 ? 0 : 255, 3);
        return 0;
    }
    for (size_t i = 0; i < samples; i++) {
        int64_t value;
        if (kind == 1) {                                        /* one digit each, with or without space between */
            while (pnm->at < pnm->end && (is_space(*pnm->at) || *pnm->at == '#')) {
                if (*pnm->at == '#') while (pnm->at < pnm->end && *pnm->at != '\n' && *pnm->at != '\r') pnm->at++;
                if (pnm->at < pnm->end) pnm->at++;
            }
            value = pnm->at == pnm->end ? -1 : *pnm->at == '0' || *pnm->at == '1' ? *pnm->at++ - '0' : -2;
        } else if (kind < 4) {
            value = pnm_number(pnm);
            if (value > maxval)
                return sv_fail(error, "%s: a damaged PNM file: sample %llu is %lld, above its maximum %u", name,
                               (unsigned long long)i + 1, (long long)value, (unsigned)maxval);
        } else if (maxval > 255) {
            value = be16(pnm->at);
            pnm->at += 2;
        } else {
            value = *pnm->at++;
        }
        if (value == -1) return sv_fail(error, "%s: the PNM file is cut short: it ends before its picture does", name);
        if (value < 0) return sv_fail(error, "%s: a damaged PNM file: sample %llu is not a number that can stand there",
                                      name, (unsigned long long)i + 1);
        uint8_t sample = kind == 1 ? (value ? 0 : 255) : scaled[value];
        *to++ = sample;
        if (kind == 1 || kind == 2 || kind == 5) *to++ = sample, *to++ = sample;
    }
    return 0;
}

static int decode_pnm(const uint8_t *data, size_t size, const char *name, SvImage *image, SvError *error) {
    Pnm pnm = { data + 2, data + size };
    const int kind = data[1] - '0';
    int64_t width = pnm_number(&pnm), height = pnm_number(&pnm), maxval = kind % 3 == 1 ? 1 : pnm_number(&pnm);
    if (width == -1 || height == -1 || maxval == -1)
        return sv_fail(error, "%s: the PNM file is cut short: it ends before its picture does", name);
    if (width < 0 || height < 0 || maxval < 1 || maxval > 65535)
        return sv_fail(error, "%s: a damaged PNM file: its header must be width, height and a maximum of 1 to 65535",
                       name);
    if (check_size((uint64_t)width, (uint64_t)height, name, error)) return -1;

    uint64_t samples = (uint64_t)width * (uint64_t)height * (kind % 3 == 0 ? 3 : 1), need = samples;
    if (kind == 2 || kind == 3) need = 2 * samples - 1;                 /* a digit each, and a space between */
    if (kind == 4) need = ((uint64_t)width + 7) / 8 * (uint64_t)height;
    if (kind > 4) need = maxval > 255 ? 2 * samples : samples;
    if ((uint64_t)(pnm.end - pnm.at) < need)
        return sv_fail(error, "%s: the PNM file is cut short: it ends before its picture does", name);

    const uint32_t values = kind > 4 ? (maxval > 255 ? 65536 : 256) : (uint32_t)maxval + 1;
    uint8_t *scaled = malloc(values);
    if (!scaled) return sv_fail(error, "%s: not enough memory to read the picture", name);
    for (uint32_t i = 0; i < values; i++)
        scaled[i] = pnm_scale(i, (uint32_t)maxval, maxval > 255 && kind % 3 == 2 ? 65535 : 255);
    int result = new_image((uint64_t)width, (uint64_t)height, name, image, error);
    if (result == 0) result = pnm_pixels(&pnm, kind, (uint32_t)maxval, scaled, image, name, error);
    free(scaled);
    return result;
}

/* ------------------------------------------------------------------------------------------------ files */


/* What is recognised only to say what to do with it. */
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

/* 0 if the data begin like a picture that is read. */
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
        return not_read(name, what, error);
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
    if (is_png(data, size)) result = decode_png(data, size, name, image, &orientation, error);
    else if (is_jpeg(data, size)) result = decode_jpeg(data, size, name, image, &orientation, error);
    else result = decode_pnm(data, size, name, image, error);
    if (result == 0) result = orient(image, orientation, name, error);
    if (result) sv_image_free(image);
    return result;
}

int sv_image_read(const char *path, SvImage *image, SvError *error) {
    /* Beyond this a file is no picture within SV_MAX_PIXELS, but a device or a mistake. */
    const size_t most = (size_t)SV_MAX_PIXELS * 8 + ((size_t)64 << 20);
    const bool is_stdin = strcmp(path, "-") == 0;
    const char *name = is_stdin ? standard_input : path;
    *image = (SvImage){0};
    errno = 0;
    FILE *file = is_stdin ? stdin : fopen(path, "rb");
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

/* ------------------------------------------------------------------------------------------------ resize

   Resample.c of Pillow for 8-bit pixels. A result's pixel is a weighted sum of the source's pixels under a window
   around its centre, the window stretched by the scale where the picture shrinks. The weights are computed in double,
   made to sum to 1 and rounded to 22 bits; both passes end in 8 bits.

     [h, w, 3]  -> along the rows [h', width, 3], only the rows that the next pass needs
                -> down the columns [height, width, 3]
     or first down the columns, then along the rows: see sv_image_resize                                             */

enum { PRECISION_BITS = 32 - 8 - 2 };

typedef struct Coeffs {
    int ksize;                      /* weights kept for each result's pixel */
    int *bounds;                    /* [out, 2]: its first source pixel, and how many */
    int32_t *k;                     /* [out, ksize] */
} Coeffs;

/* sin for |x| <= 10 from basic operations alone, so that no libm has a say: what is left of x after the nearest
   multiple of pi (in three parts, of which the first two leave room for an exact product), through its Taylor series.
   Within 2 ulp; what counts is that it stays far below the 22 bits that are kept. */
static double sine(double x) {
    double turns = floor(x / 3.14159265358979323846 + 0.5);
    double r = ((x - turns * 0x1.921fb5p+1) - turns * 0x1.110b46p-25) - turns * 0x1.1a62633145c07p-53;
    double r2 = r * r, sum = 0;
    for (int n = 20; n >= 2; n -= 2) sum = (sum + 1) * -r2 / (n * (n + 1));
    sum = r + r * sum;
    return (int)turns % 2 ? -sum : sum;
}

static double sinc(double x) {
    if (x == 0) return 1;
    x *= 3.14159265358979323846;
    return sine(x) / x;
}

static double lanczos(double x) { return -3 <= x && x < 3 ? sinc(x) * sinc(x / 3) : 0; }

static int precompute_coeffs(int in, int out, Coeffs *coeffs) {
    const double scale = (double)in / out, filterscale = scale < 1 ? 1 : scale, support = 3 * filterscale;
    const int ksize = (int)ceil(support) * 2 + 1;
    double *weights = malloc((size_t)ksize * sizeof *weights);
    coeffs->ksize = ksize;
    coeffs->bounds = malloc((size_t)out * 2 * sizeof *coeffs->bounds);
    coeffs->k = (size_t)ksize > SIZE_MAX / 4 / (size_t)out ? NULL : malloc((size_t)out * (size_t)ksize * 4);
    if (!weights || !coeffs->bounds || !coeffs->k) {
        free(weights);
        return -1;
    }
    for (int i = 0; i < out; i++) {
        double center = (i + 0.5) * scale, sum = 0;
        int first = (int)(center - support + 0.5), end = (int)(center + support + 0.5);
        int32_t *k = coeffs->k + (size_t)i * (size_t)ksize;
        if (first < 0) first = 0;
        if (end > in) end = in;
        for (int j = 0; j < end - first; j++) {
            weights[j] = lanczos((j + first - center + 0.5) * (1 / filterscale));
            sum += weights[j];
        }
        for (int j = 0; j < end - first; j++) {
            double weight = (sum != 0 ? weights[j] / sum : weights[j]) * (1 << PRECISION_BITS);
            k[j] = (int32_t)(weight < 0 ? weight - 0.5 : weight + 0.5);
        }
        coeffs->bounds[2 * i] = first;
        coeffs->bounds[2 * i + 1] = end - first;
    }
    free(weights);
    return 0;
}

static void free_coeffs(Coeffs *coeffs) {
    free(coeffs->bounds);
    free(coeffs->k);
}

static uint8_t clip8(int32_t sum) {
    return sum < 0 ? 0 : sum >> PRECISION_BITS > 255 ? 255 : (uint8_t)(sum >> PRECISION_BITS);
}

/* Along the rows, eight at once: they are laid side by side, [w, 8, 3], so that the innermost loop runs over 24
   neighbours with one weight. block: room for that. */
enum { BLOCK = 8 };
static void resample_rows(const uint8_t *from, int in, int rows, const Coeffs *coeffs, uint8_t *to, int out,
                          uint8_t *block) {
    const size_t row_size = (size_t)out * 3;
    for (int y = 0; y < rows; y += BLOCK) {
        int n = rows - y < BLOCK ? rows - y : BLOCK;
        for (int r = 0; r < n; r++) {
            const uint8_t *row = from + (size_t)(y + r) * (size_t)in * 3;
            for (size_t x = 0; x < (size_t)in; x++) memcpy(block + (x * BLOCK + (size_t)r) * 3, row + x * 3, 3);
        }
        for (int x = 0; x < out; x++) {
            const int32_t *k = coeffs->k + (size_t)x * (size_t)coeffs->ksize;
            const uint8_t *column = block + (size_t)coeffs->bounds[2 * x] * BLOCK * 3;
            int32_t sum[BLOCK * 3];
            for (int i = 0; i < BLOCK * 3; i++) sum[i] = 1 << (PRECISION_BITS - 1);
            for (int j = 0; j < coeffs->bounds[2 * x + 1]; j++, column += BLOCK * 3)
                for (int i = 0; i < BLOCK * 3; i++) sum[i] += column[i] * k[j];
            uint8_t *result = to + (size_t)x * 3;
            for (int r = 0; r < n; r++, result += row_size)
                for (int c = 0; c < 3; c++) result[c] = clip8(sum[r * 3 + c]);
        }
        to += (size_t)n * row_size;
    }
}

/* Down the columns, a stretch of a row at a time. from begins with the source's row first. */
static void resample_columns(const uint8_t *from, int first, size_t row_size, const Coeffs *coeffs, uint8_t *to,
                             int out) {
    for (int y = 0; y < out; y++, to += row_size) {
        const int32_t *k = coeffs->k + (size_t)y * (size_t)coeffs->ksize;
        const uint8_t *rows = from + (size_t)(coeffs->bounds[2 * y] - first) * row_size;
        for (size_t x = 0; x < row_size;) {
            enum { STRETCH = 768 };
            int32_t sum[STRETCH];
            size_t n = smaller(STRETCH, row_size - x);
            for (size_t i = 0; i < n; i++) sum[i] = 1 << (PRECISION_BITS - 1);
            for (int j = 0; j < coeffs->bounds[2 * y + 1]; j++) {
                const uint8_t *row = rows + (size_t)j * row_size + x;
                for (size_t i = 0; i < n; i++) sum[i] += row[i] * k[j];
            }
            for (size_t i = 0; i < n; i++) to[x + i] = clip8(sum[i]);
            x += n;
        }
    }
}

int sv_image_resize(const SvImage *image, int width, int height, SvImage *out, SvError *error) {
    const uint64_t w = width > 0 ? (uint64_t)width : 0, h = height > 0 ? (uint64_t)height : 0;
    const bool need_horizontal = width != image->width, need_vertical = height != image->height;
    Coeffs horizontal = {0}, vertical = {0};
    SvImage between = {0};
    uint8_t *block = NULL;
    *out = (SvImage){0};
    if (check_size(w, h, "resize", error) || new_image(w, h, "resize", out, error)) return -1;
    if (!need_horizontal && !need_vertical) {
        memcpy(out->rgb, image->rgb, (size_t)w * (size_t)h * 3);
        return 0;
    }

    /* Pillow 13 goes down the columns first where the height shrinks by more than twice what the width does (in pixels,
       not by scale); Pillow up to 12 never does, and differs from this by 1 in some of such a picture's bytes. */
    const bool columns_first = image->height > height && image->height - height > (image->width - width) * 2;
    bool failed = (need_vertical && precompute_coeffs(image->height, height, &vertical))
               || (need_horizontal && precompute_coeffs(image->width, width, &horizontal))
               || (need_horizontal && !(block = calloc((size_t)image->width, BLOCK * 3)));
    if (failed) {
        ;
    } else if (!need_horizontal) {
        resample_columns(image->rgb, 0, (size_t)w * 3, &vertical, out->rgb, height);
    } else if (!need_vertical) {
        resample_rows(image->rgb, image->width, height, &horizontal, out->rgb, width, block);
    } else if (columns_first) {
        failed = new_image((uint64_t)image->width, h, "resize", &between, error);
        if (!failed) {
            resample_columns(image->rgb, 0, (size_t)image->width * 3, &vertical, between.rgb, height);
            resample_rows(between.rgb, image->width, height, &horizontal, out->rgb, width, block);
        }
    } else {
        const int first = vertical.bounds[0], end = vertical.bounds[2 * height - 2] + vertical.bounds[2 * height - 1];
        const uint8_t *from = image->rgb + (size_t)first * (size_t)image->width * 3;
        failed = new_image(w, (uint64_t)(end - first), "resize", &between, error);
        if (!failed) {
            resample_rows(from, image->width, end - first, &horizontal, between.rgb, width, block);
            resample_columns(between.rgb, first, (size_t)w * 3, &vertical, out->rgb, height);
        }
    }
    free(block);
    sv_image_free(&between);
    free_coeffs(&horizontal);
    free_coeffs(&vertical);
    if (!failed) return 0;
    sv_image_free(out);
    return sv_fail(error, "not enough memory to make %d x %d pixels of %d x %d", width, height, image->width,
                   image->height);
}

/* ------------------------------------------------------------------------------------------------ tiles */

/* _resize_output_size_rescale_to_max_len, then _scale_below_upper_bound: Python's int() is the cast to int. */
static void longest_edge_size(int *width, int *height, int longest_edge) {
    enum { MAX_IMAGE_SIZE = 4096 };
    double aspect_ratio = (double)*width / *height;
    if (*width >= *height) {
        *width = longest_edge;
        *height = (int)(*width / aspect_ratio);
        *height += *height % 2;
    } else {
        *height = longest_edge;
        *width = (int)(*height * aspect_ratio);
        *width += *width % 2;
    }
    if (*width < 1) *width = 1;
    if (*height < 1) *height = 1;

    aspect_ratio = (double)*width / *height;
    if (*width >= *height && *width > MAX_IMAGE_SIZE) {
        *width = MAX_IMAGE_SIZE;
        *height = (int)(*width / aspect_ratio);
    } else if (*height > *width && *height > MAX_IMAGE_SIZE) {
        *height = MAX_IMAGE_SIZE;
        *width = (int)(*height * aspect_ratio);
    }
    if (*width < 1) *width = 1;
    if (*height < 1) *height = 1;
}

/* resize_for_vision_encoder: the long edge up to a multiple of side, the other from it by the aspect and then up. */
static void vision_encoder_size(int *width, int *height, int side) {
    double aspect_ratio = (double)*width / *height;
    if (*width >= *height) {
        *width = (*width + side - 1) / side * side;
        *height = (int)(*width / aspect_ratio);
        *height = (*height + side - 1) / side * side;
    } else {
        *height = (*height + side - 1) / side * side;
        *width = (int)(*height * aspect_ratio);
        *width = (*width + side - 1) / side * side;
    }
}

static int split_tiles(const SvImage *image, int side, SvTiles *tiles, SvError *error) {
    const size_t row_size = (size_t)side * 3, tile_size = row_size * (size_t)side;
    SvImage whole = {0};
    tiles->side = side;
    if (image->width > side || image->height > side) {
        tiles->rows = image->height / side;
        tiles->cols = image->width / side;
    }
    tiles->count = tiles->rows * tiles->cols + 1;
    if ((size_t)tiles->count > SIZE_MAX / tile_size || !(tiles->rgb = malloc((size_t)tiles->count * tile_size)))
        return sv_fail(error, "not enough memory for %d tiles of %d x %d pixels", tiles->count, side, side);
    uint8_t *to = tiles->rgb;
    for (int row = 0; row < tiles->rows; row++)
        for (int col = 0; col < tiles->cols; col++) {
            const uint8_t *from = image->rgb + ((size_t)(row * side) * (size_t)image->width + (size_t)(col * side)) * 3;
            for (int y = 0; y < side; y++, to += row_size, from += (size_t)image->width * 3) memcpy(to, from, row_size);
        }
    if (sv_image_resize(image, side, side, &whole, error)) return -1;
    memcpy(to, whole.rgb, tile_size);
    sv_image_free(&whole);
    return 0;
}

int sv_image_split(const SvImage *image, int longest_edge, int side, bool split, SvTiles *tiles, SvError *error) {
    SvImage resized = {0}, padded = {0};
    int width = image->width, height = image->height, result;
    *tiles = (SvTiles){0};
    if (longest_edge < 1 || longest_edge > SV_MAX_SIDE || side < 1 || side > SV_MAX_SIDE)
        return sv_fail(error, "a picture cannot be cut: the longest edge %d and the tile's side %d must be 1 to %d",
                       longest_edge, side, SV_MAX_SIDE);
    longest_edge_size(&width, &height, longest_edge);
    if (sv_image_resize(image, width, height, &resized, error)) return -1;
    if (split) vision_encoder_size(&width, &height, side);
    else width = height = side;
    if (width < 1 || height < 1)            /* by a rounding of the aspect; the reference raises here */
        result = sv_fail(error, "a picture of %d x %d pixels is too narrow to be cut into tiles", image->width,
                         image->height);
    else result = sv_image_resize(&resized, width, height, &padded, error);
    sv_image_free(&resized);
    if (result == 0) result = split_tiles(&padded, side, tiles, error);
    sv_image_free(&padded);
    if (result) sv_tiles_free(tiles);
    return result;
}
