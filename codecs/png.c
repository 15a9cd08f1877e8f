/* png.c: PNG -> RGB pixels, including inflate. */
#include "codec.h"

#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------------------------------------ inflate

   RFC 1950 and 1951, as a pull decoder: the caller requests n bytes of output and finds them at out + read. Only what
   is requested is decoded (and the rest of one match), so a small file cannot expand to much. The 32 KiB before the
   read position are kept, as a match may reach back to them.

     IDAT segments -> bits -> block headers -> literals, matches -> out: | 32 KiB seen | read .. written |        | */

typedef struct Huffman {
    uint16_t fast[1024];            /* by the next 10 bits: symbol << 4 | length, 0 if the code is longer or none */
    uint16_t count[16];             /* codes of each length */
    uint16_t symbol[288];           /* by length, then by value */
} Huffman;

typedef enum { INFLATE_OK, INFLATE_END, INFLATE_SHORT, INFLATE_DAMAGED, INFLATE_MEMORY } InflateStatus;

typedef struct Inflate {
    const uint8_t *in, *in_end;     /* the segment being read */
    const uint8_t *file_end;        /* not NULL: after this segment, an IDAT chunk may follow */
    uint64_t bits;                  /* read ahead; the next one is the lowest */
    unsigned count;
    uint8_t *out;
    size_t capacity, read, written, summed;
    uint32_t adler_a, adler_b;      /* Adler-32 of the output up to out + summed */
    uint32_t stored;                /* bytes left of a stored block */
    bool last, fixed_built;
    enum { AT_HEADER, AT_BLOCK, IN_STORED, IN_CODES, AT_CHECK, AT_END } state;
    const Huffman *literals, *distances;
    Huffman dynamic_literals, dynamic_distances, fixed_literals, fixed_distances;
} Inflate;

enum { WINDOW = 32768, MAX_MATCH = 258 };

/* want: the most bytes that will be requested at once. */
static InflateStatus inflate_begin(Inflate *z, const uint8_t *in, const uint8_t *in_end, size_t want) {
    memset(z, 0, sizeof *z);
    z->in = in;
    z->in_end = in_end;
    z->adler_a = 1;
    z->capacity = 4 * (size_t)WINDOW + 2 * want + MAX_MATCH;
    z->out = malloc(z->capacity);
    return z->out ? INFLATE_OK : INFLATE_MEMORY;
}

/* A PNG's stream continues across its IDAT chunks. As in PngImageFile.load_read, their checksums are not verified: the
   stream has its own. */
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

/* Builds canonical codes from their lengths, RFC 1951 section 3.2.2. zlib accepts an incomplete set only if it has no
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

/* Decodes the next symbol; returns -INFLATE_SHORT or -INFLATE_DAMAGED if there is none. */
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

/* Decodes one literal or match, or the end of the block: at most MAX_MATCH bytes. */
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

/* Decodes until n bytes are available at out + read, or returns why there are fewer. */
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
    bool has_exif;                  /* a block, even an empty one, overrides the "raw profile" of a text chunk */
    int exif, raw_profile, xmp;     /* the orientation each states, 0 if none */
    int deflated_texts;             /* how many were searched */
    uint8_t palette[256][3];
    enum { NO_TRNS, ONE_ENTRY, ALPHAS, ONE_COLOUR } trns;   /* what the tRNS chunk says is transparent: */
    uint8_t alphas[256];            /* of a palette's entries; in ONE_ENTRY all but one are opaque */
    unsigned trns_value[3];         /* ONE_ENTRY: which; ONE_COLOUR: gray, or red, green, blue */
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
    if (png->type != data[9]) png->trns = NO_TRNS;      /* a second header */
    png->type = data[9];
    if (png->type > 6 || !(depths[png->type] & png->depth) || (png->depth & (png->depth - 1)))
        return sv_fail(error, "%s: a damaged PNG file: there is no colour type %d with %d bits", png->name, png->type,
                       png->depth);
    if (data[11]) return sv_fail(error, "%s: a damaged PNG file: there is no filter method %d", png->name, data[11]);
    png->interlaced = data[12] != 0;
    png->has_header = true;

    /* Gray becomes a colour through the palette. Fewer than 8 bits are scaled to 0..255; 16 bits are clipped at 255, as
       Pillow converts mode "I;16" to RGB (I16_RGB in Convert.c). */
    int max = png->depth < 8 ? (1 << png->depth) - 1 : 255;
    for (int i = 0; i < 256; i++) memset(png->palette[i], png->type == 3 || i > max ? 0 : i * 255 / max, 3);
    return sv_check_size(png->width, png->height, png->name, error);
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
    *orientation = sv_exif_orientation(bytes, digits / 2);
    free(bytes);
    return 0;
}

/* The text chunks that can state an orientation: keyword, 0, then
     tEXt   text
     zTXt   method 0, deflated text
     iTXt   flag, method 0, language, 0, translated keyword, 0, text, deflated if the flag is set
   Pillow inflates at most 1 MiB of text. Here the text beyond that is not searched. */
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
    if (is_xmp) png->xmp = sv_xmp_orientation(text, size);
    else if (is_exif) png->has_exif = true, png->exif = sv_exif_orientation(text, size);
    else failed = raw_profile_orientation(text, size, &png->raw_profile);
    if (z) free(z->out);
    free(z);
    return failed ? sv_fail(error, "%s: not enough memory for the PNG's text", png->name) : 0;
}

/* What is transparent, PNG specification section 11.3.2.1. In a picture with an alpha channel the chunk is ignored. As
   in PngStream.chunk_tRNS, a palette has either one entry that is fully transparent or a list of alphas. (Pillow
   decides which by a regular expression that ends in $, which also matches before a final line end.) */
static int png_transparency(Png *png, const uint8_t *data, uint32_t length, SvError *error) {
    const uint32_t need = png->type == 2 ? 6 : png->type == 0 ? 2 : 0;
    if (!png->has_header || png->type > 3) return 0;
    if (length < need) return sv_fail(error, "%s: a damaged PNG file: its tRNS chunk is too short", png->name);
    if (png->type != 3) {
        png->trns = ONE_COLOUR;
        for (uint32_t i = 0; i < need; i += 2) png->trns_value[i / 2] = be16(data + i);
        return 0;
    }
    uint32_t zeros = 0, others = 0, first = 0, end = length && data[length - 1] == '\n' ? length - 1 : length;
    for (uint32_t i = 0; i < end; i++) {
        if (data[i] == 0 && zeros++ == 0) first = i;
        if (data[i] != 0 && data[i] != 255) others++;
    }
    png->trns = zeros == 1 && others == 0 ? ONE_ENTRY : ALPHAS;
    png->trns_value[0] = first < 256 ? first : 255;
    memset(png->alphas, 255, sizeof png->alphas);
    if (png->trns == ALPHAS) memcpy(png->alphas, data, smaller(length, sizeof png->alphas));
    else if (first < 256) png->alphas[first] = 0;
    return 0;
}

/* Reads one chunk other than IDAT and IEND. */
static int png_chunk(Png *png, const uint8_t *data, uint32_t length, SvError *error) {
    const char *type = (const char *)data - 4;
    if (memcmp(type, "IHDR", 4) == 0) return png_header(png, data, length, error);
    if (memcmp(type, "tEXt", 4) == 0 || memcmp(type, "zTXt", 4) == 0 || memcmp(type, "iTXt", 4) == 0)
        return png_text(png, data, length, error);
    if (memcmp(type, "tRNS", 4) == 0) return png_transparency(png, data, length, error);
    if (memcmp(type, "eXIf", 4) == 0) {
        png->has_exif = true;
        png->exif = sv_exif_orientation(data, length);
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

/* PNG specification section 9: a scanline's bytes are differences from the byte one pixel to the left (a), above (b)
   and above left (c). Left of the first pixel and above the first line all are 0. */
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

/* The byte or palette index of pixel i, in a scanline with one sample a pixel. */
static int png_index(const Png *png, const uint8_t *row, size_t i) {
    const int depth = png->depth, max = (1 << depth) - 1;
    if (depth == 16) return row[2 * i] ? 255 : row[2 * i + 1];
    if (depth == 8) return row[i];
    return row[i * (size_t)depth / 8] >> (8 - depth - (int)(i * (size_t)depth % 8)) & max;
}

/* Writes `count` pixels of a scanline as RGB to every step-th pixel of the picture's row. Alpha is left to png_alpha.
   Of 16 bits the high byte is kept; for gray without alpha see png_header. */
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
        for (size_t i = 0; i < count; i++, rgb += step)
            memcpy(rgb, png->palette[png->type == 4 ? row[i * 2 * sample] : png_index(png, row, i)], 3);
    }
}

/* Gives the picture an alpha plane, all opaque; called at the first pixel that is not opaque. */
static int need_alpha(const Png *png, SvImage *image, SvError *error) {
    const size_t size = (size_t)png->width * png->height;
    if (image->alpha) return 0;
    if (!(image->alpha = malloc(size))) return sv_fail(error, "%s: not enough memory to read the picture", png->name);
    memset(image->alpha, 255, size);
    return 0;
}

/* Writes the same scanline's alpha, of 16 bits the high byte, to the picture's alpha plane from pixel `at` on. */
static int png_alpha(const Png *png, const uint8_t *row, size_t count, SvImage *image, size_t at, size_t step,
                     SvError *error) {
    const size_t sample = (size_t)png->depth / 8, pixel = sample * png_channels[png->type];
    const bool indexed = png->type == 3;
    if (indexed ? png->trns == NO_TRNS : png->type < 4) return 0;
    for (size_t i = 0; i < count; i++, at += step) {
        uint8_t alpha = indexed ? png->alphas[png_index(png, row, i)] : row[(i + 1) * pixel - sample];
        if (alpha == 255) continue;
        if (need_alpha(png, image, error)) return -1;
        image->alpha[at] = alpha;
    }
    return 0;
}

/* The passes of Adam7 (section 8): where each begins and how far apart its pixels are. The last line is the only pass
   of a picture without interlacing. */
static const struct { uint8_t x, y, dx, dy; } adam7[8] = {
    { 0, 0, 8, 8 }, { 4, 0, 8, 8 }, { 0, 4, 4, 8 }, { 2, 0, 4, 4 }, { 0, 2, 2, 4 }, { 1, 0, 2, 2 }, { 0, 1, 1, 2 },
    { 0, 0, 1, 1 } };

static size_t pass_size(size_t size, size_t first, size_t step) {
    return size > first ? (size - first + step - 1) / step : 0;
}

/* Whether a whole byte of input is left after the next line's first byte is decoded. Pillow requests one line at a time
   from zlib. If zlib has consumed all input and a line is still missing, Pillow calls the file truncated, even if that
   line is part of the last match. */
static bool input_left(Inflate *z) {
    if (inflate_fill(z, 1) != INFLATE_OK) return true;          /* no next line: the reader will find out why */
    while (z->count < 8 && z->in == z->in_end)
        if (!next_segment(z)) return false;
    return true;
}

static int png_scanlines(Png *png, Inflate *z, uint8_t *row, uint8_t *above, SvImage *image, SvError *error) {
    const size_t bits = (size_t)png_channels[png->type] * (size_t)png->depth, pixel = (bits + 7) / 8;
    bool first = true;
    for (int pass = png->interlaced ? 0 : 7; pass < (png->interlaced ? 7 : 8); pass++) {
        const size_t x0 = adam7[pass].x, y0 = adam7[pass].y, dx = adam7[pass].dx, dy = adam7[pass].dy;
        const size_t width = pass_size(png->width, x0, dx), height = pass_size(png->height, y0, dy);
        const size_t size = (width * bits + 7) / 8;
        if (width == 0) continue;
        memset(above, 0, size);
        for (size_t y = 0; y < height; y++) {
            if (!first && !input_left(z)) return png_cut_short(png, error);
            first = false;
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
            const size_t at = (y0 + y * dy) * png->width + x0;
            png_pixels(png, row, width, image->rgb + 3 * at, dx);
            if (png_alpha(png, row, width, image, at, dx, error)) return -1;
            uint8_t *swap = row;
            row = above;
            above = swap;
        }
    }
    /* If the stream ends here too, its checksum must be right. Pillow accepts one that continues or is cut off. */
    z->file_end = NULL;
    if (z->read == z->written && inflate_fill(z, 1) == INFLATE_DAMAGED)
        return sv_fail(error, "%s: a damaged PNG file: the checksum of its pixels is wrong", png->name);
    png->at = (size_t)(z->in_end - png->data);
    return 0;
}

/* Reads the pixels, from the first IDAT chunk on. */
static int png_picture(Png *png, const uint8_t *chunk, SvImage *image, SvError *error) {
    /* Deflate expands a byte to at most 1032, so a file that is too small for its picture is refused without
       allocating. */
    const size_t row_size = ((size_t)png->width * png_channels[png->type] * (size_t)png->depth + 7) / 8;
    if ((uint64_t)row_size * png->height / 1032 > png->size) return png_cut_short(png, error);

    const uint8_t *first = chunk + 8, *end = png->data + png->size;
    uint8_t *rows = malloc(2 * row_size);
    Inflate *z = malloc(sizeof *z);
    int result = -1;
    if (z) z->out = NULL;
    if (!rows || !z || inflate_begin(z, first, first + smaller(be32(chunk), (size_t)(end - first)), row_size + 1))
        sv_fail(error, "%s: not enough memory to read the picture", png->name);
    else if (sv_new_image(png->width, png->height, png->name, image, error) == 0) {
        z->file_end = end;
        result = png_scanlines(png, z, rows, rows + row_size, image, error);
    }
    if (z) free(z->out);
    free(z);
    free(rows);
    return result;
}

/* Runs after the pixels, when all of the tRNS chunk is known. It is interpreted in two ways, both Pillow's.

   The alpha channel, convert("RGBA"): a palette's is there already. Otherwise pixels of one colour are transparent: the
   decoded pixels, 8 bits a sample, are compared with the lower 8 bits of the chunk's samples
   (ImagingConvertTransparent). So not all pixels that the chunk means are found: a gray level of 2 bits, for example,
   only if it is 0.

   The key, info["transparency"] after convert("RGB"): the palette's colour; the RGB colour as above; a gray level of 2,
   4 or 8 bits, 255 if it is larger. For 1 and 16 bits Pillow converts the pixels but not the level. The level is then
   taken as red without green and blue, so only black is ever found. */
static int png_finish(const Png *png, SvImage *image, SvError *error) {
    const size_t size = (size_t)png->width * png->height;
    const unsigned level = png->depth == 1 ? (png->trns_value[0] ? 255 : 0) : png->trns_value[0];
    const bool is_gray = png->type == 0, is_colour = png->type == 2;
    if ((is_gray || is_colour) && png->trns == ONE_COLOUR) {
        uint8_t colour[3];
        for (int c = 0; c < 3; c++) colour[c] = (uint8_t)(is_gray ? level : png->trns_value[c]);
        for (size_t i = 0; i < size; i++) {
            if (memcmp(image->rgb + 3 * i, colour, 3) != 0) continue;
            if (need_alpha(png, image, error)) return -1;
            image->alpha[i] = 0;
        }
        image->has_key = true;
        memcpy(image->key, colour, 3);
        if (is_gray && png->depth != 1 && png->depth != 16) memset(image->key, level > 255 ? 255 : (int)level, 3);
        else if (is_gray) image->key[1] = image->key[2] = 0;
    } else if (png->type == 3 && png->trns == ONE_ENTRY) {
        image->has_key = true;
        memcpy(image->key, png->palette[png->trns_value[0]], 3);
    }

    bool found = false, hidden = false;                 /* pixels of the key's colour; others that are transparent */
    for (size_t i = 0; i < size && (image->alpha || image->has_key); i++) {
        bool is_key = image->has_key && memcmp(image->rgb + 3 * i, image->key, 3) == 0;
        found = found || is_key;
        hidden = hidden || (!is_key && image->alpha && image->alpha[i] < 255);
    }
    image->has_key = found;
    if (hidden)
        sv_fail(&image->note, "%s: parts of the picture are transparent, and the model sees the colours stored there, "
                "as with transformers", png->name);
    return 0;
}

int sv_decode_png(const uint8_t *data, size_t size, const char *name, SvImage *image, int *orientation,
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

    const uint8_t *const pixels = chunk;
    int result = png_picture(&png, pixels, image, error);

    /* After the pixels (PngImageFile.load_end): EXIF and text may follow here, too. No checksum is verified, and the
       file may end where no chunk begins. An animation's later frames, and all chunks among them, are not read. */
    bool late = false;
    png.at += 4;
    while (result == 0 && png.at < size && size - png.at >= 8) {
        chunk = data + png.at;
        uint32_t length = be32(chunk);
        if (!is_chunk_name(chunk + 4) || memcmp(chunk + 4, "IEND", 4) == 0) break;
        if (png.animated && memcmp(chunk + 4, "fcTL", 4) == 0) break;
        if (size - png.at - 8 < length) result = png_cut_short(&png, error);
        else if (memcmp(chunk + 4, "IHDR", 4) != 0 && memcmp(chunk + 4, "PLTE", 4) != 0)
            result = png_chunk(&png, chunk + 8, length, error);
        late = late || memcmp(chunk + 4, "tRNS", 4) == 0;
        png.at += 12 + (size_t)length;
    }
    if (result == 0 && late && png.type == 3) {         /* the palette's alphas came late: decode again */
        sv_image_free(image);
        result = png_picture(&png, pixels, image, error);
    }
    if (result == 0) result = png_finish(&png, image, error);
    *orientation = png.has_exif ? png.exif : png.raw_profile;
    if (*orientation == 0) *orientation = png.xmp;
    return result;
}
