/* jpeg.c: JPEG -> RGB pixels.

   Pillow decodes a JPEG with libjpeg-turbo, so each step below has libjpeg-turbo's exact arithmetic. The standard is
   ITU-T T.81. Its Figure B.2, which shows how a file is built, is worth having at hand.

     file bytes                 FF D8 .. FF xx length payload .. FF D9                    read_jpeg, T.81 Annex B
         | markers              DQT, DHT, DRI, SOF, SOS fill the tables; APPn: colour space, orientation
         v
     entropy-coded bits         one stream a scan, cut by restart markers                 decode_scan, T.81 F.2 and G.2
         | Huffman
         v
     coefficients               8 x 8 int16 a block, in natural order (the file has them in zigzag order)
         | dequantise, IDCT     after each MCU if the file has a single scan, else after the last scan
         v
     samples                    uint8, of one row of MCUs; each component has its own size   jpeg_pixels.c
         | upsample             triangle filter for 2:1, else repetition                  upsample_row, jpeg_pixels.c
         v
     rows, [width] a component
         | colour               YCbCr, RGB, grey, CMYK, YCCK                              colour_row, jpeg_pixels.c
         v
     rgb                        [height, width, 3]

   A damaged file looks as it does in Pillow, to the bit, because this code goes on exactly as libjpeg does. A code that
   the table lacks counts as symbol 0. Where a marker stands in the middle of a scan, the rest of that MCU is read from
   zero bits, and the MCUs after it keep the coefficients they have. A misplaced restart marker is waited for or
   skipped. The picture's note says what was damaged. A file is refused where Pillow refuses it: because it ends too
   early, or because a segment that matters is damaged. */
#include "codec.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { JPEG_LOOKAHEAD = 10, JPEG_MAX_SIDE = 65500 };

/* Damage met in a scan. BAD_CODE: a code that the table lacks, or a coefficient past the end of its band or of an
   impossible size. BAD_DC: a DC coefficient beyond 32 bits, which libjpeg refuses. BAD_FILL: several bytes FF before
   a 00. */
enum { JPEG_BAD_CODE = 1, JPEG_BAD_DC = 2, JPEG_BAD_FILL = 4 };

typedef struct JpegHuffman {
    bool defined, ready;                    /* ready: the fields below are made, of sound codes */
    uint8_t counts[16], symbols[256];       /* codes of each length; symbols in the order of their codes */
    uint16_t lookup[1 << JPEG_LOOKAHEAD];   /* by the next bits, see jpeg_code; 0: the code is longer */
    int32_t last[17], offset[17];           /* by length: the last code (-1: none); symbol index minus code */
} JpegHuffman;

/* The bits of a scan. `bits` holds the next `count` of them, the first one at the top. Below these are zeros, or some
   bits of the bytes at `at`, which are not counted yet. Past the last byte, zero bits are added and counted in padding.
   Once padding exceeds count, some of them have been used: the data ended early. `at` never moves past a marker. */
typedef struct JpegBits {
    const uint8_t *at, *end;
    uint64_t bits;
    int count, padding, damage;             /* damage: of JPEG_BAD_CODE and the like */
    bool stopped;
} JpegBits;

typedef struct JpegComponent {
    int id, h, v, quant_index;              /* h, v: sampling factors */
    int width, height;                      /* in samples: libjpeg's downsampled_width and _height */
    int blocks_x, blocks_y;                 /* blocks that hold samples of the picture */
    int padded_x, padded_y;                 /* the same, filled up to whole MCUs */
    bool coded;                             /* some scan had it; quant is what its slot held then */
    uint16_t quant[64];                     /* in natural order, as are coefficients */
    int precision[64];                      /* in zigzag order: how many low bits no scan has sent yet; -1: all */
    int previous[10];                       /* the first ten, as they were before the component's last scan */
    uint8_t *samples;                       /* of a row of MCUs, [1 + 8 * v, 8 * padded_x]: see jpeg_sample_row */
    int16_t *coefficients;                  /* only if the file has several scans: [padded_y, padded_x, 64] */
    uint64_t *nonzero;                      /* progressive only, [padded_y, padded_x]: bit k, in zigzag order, says
                                               that an AC coefficient is not 0 */
    const JpegHuffman *dc, *ac;             /* in the current scan */
    int32_t prediction;
} JpegComponent;

typedef enum JpegColour { JPEG_GREY, JPEG_YCC, JPEG_RGB, JPEG_CMYK, JPEG_YCCK } JpegColour;

typedef struct Jpeg {
    const uint8_t *start, *at, *end;
    const char *name;
    SvError *error;
    SvImage *image;                         /* its pixels are allocated at the first scan */
    uint8_t *upsampled;                     /* a row of each component that has fewer samples than pixels */
    bool has_frame, progressive;
    bool several_scans, complete;           /* complete: the file has a single scan, which was read */
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
    bool exhausted;                         /* the scan's data ended early: MCUs up to the next restart keep
                                               what they have */
    int last_good_mcu_y;                    /* the row of MCUs that the last scan reached before it was exhausted */
    uint64_t work;                          /* of all scans: see jpeg_check_work */
    uint8_t *exif;                          /* every Exif segment before the first scan, joined */
    size_t exif_size;
    const uint8_t *xmp;
    size_t xmp_size;
} Jpeg;

/* Natural position of each zigzag position, T.81 Figure A.6. In damaged data a run of zeros can lead past the end.
   libjpeg puts such a coefficient into the last position. */
static const uint8_t jpeg_zigzag[64 + 16] = {
     0,  1,  8, 16,  9,  2,  3, 10, 17, 24, 32, 25, 18, 11,  4,  5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13,  6,
     7, 14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46,
    53, 60, 61, 54, 47, 55, 62, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63
};

/* The Huffman tables of T.81 K.3. Motion JPEG leaves them out of its files, so libjpeg (jstdhuff.c) puts them into
   empty slots. Each is a DHT payload without its first byte: the number of codes of each length, then the symbols. */
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


static int jpeg_truncated(const Jpeg *j) {
    return sv_fail(j->error, "%s: the JPEG file is truncated", j->name);
}

/* Notes the first damage that is found. Most of the rest follows from it. */
SV_PRINTF(2, 3) static void jpeg_damaged(Jpeg *j, const char *format, ...) {
    char what[120];
    va_list arguments;
    if (j->image->note.text[0]) return;
    va_start(arguments, format);
    vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    sv_fail(&j->image->note, "%s: the JPEG is damaged, and shown as far as it can be read: %s", j->name, what);
}

static int jpeg_no_memory(const Jpeg *j) {
    return sv_fail(j->error, "%s: not enough memory to decode the JPEG", j->name);
}

/* ----------------------------------------------------------------------------- JPEG: bits and codes */

/* FF 00 stands for the byte FF. FF before anything else is a marker, where the scan stops. */
static JpegBits jpeg_refill_bytewise(JpegBits b) {
    while (b.count <= 56) {
        unsigned byte = 0;
        if (b.at < b.end && *b.at != 0xff) {
            byte = *b.at++;
        } else if (!b.stopped) {
            const uint8_t *next = b.at;
            while (next < b.end && *next == 0xff) next++;
            if (next < b.end && next > b.at && *next == 0) {
                byte = 0xff;
                if (next - b.at > 1) b.damage |= JPEG_BAD_FILL;
                b.at = next + 1;
            } else {
                b.stopped = true;
            }
        }
        if (b.stopped) b.padding += 8;
        b.bits |= (uint64_t)byte << (56 - b.count);
        b.count += 8;
    }
    return b;
}

/* Afterwards there are at least 57 bits. If none of the next eight bytes is FF, as many as fit are taken at once.
   jpeg_refill_bytewise takes and returns a copy, so that the compiler can keep the caller's JpegBits in registers. */
static inline void jpeg_refill(JpegBits *b) {
    if (b->end - b->at >= 8) {
        const uint64_t ones = 0x0101010101010101;
        uint64_t next = (uint64_t)be32(b->at) << 32 | be32(b->at + 4), inverse = ~next;
        if (!((inverse - ones) & next & ones << 7)) {       /* no byte of inverse is 0 */
            int bytes = (64 - b->count) >> 3;
            b->bits |= next >> b->count;
            b->at += bytes;
            b->count += 8 * bytes;
            return;
        }
    }
    *b = jpeg_refill_bytewise(*b);
}

static inline void jpeg_skip(JpegBits *b, int n) {
    b->bits <<= n;
    b->count -= n;
}

static inline unsigned jpeg_take(JpegBits *b, int n)      /* 1 <= n <= 16 */
{
    if (b->count < n) jpeg_refill(b);
    unsigned value = (unsigned)(b->bits >> (64 - n));
    jpeg_skip(b, n);
    return value;
}

/* Behind a code stand as many bits of a number as the low four bits of its symbol say (but not in refinements). So
   looking up a code gives the length of both together: length << 8 | symbol. Seventeen bits that begin with no code of
   the table count as a code, of symbol 0. */
enum { JPEG_NO_CODE = 1 << 16 | 17 << 8 };

static unsigned jpeg_long_code(uint64_t bits, const JpegHuffman *table) {
    for (int length = JPEG_LOOKAHEAD + 1; length <= 16; length++) {
        int32_t code = (int32_t)(bits >> (64 - length));
        if (code > table->last[length]) continue;
        unsigned symbol = table->symbols[code + table->offset[length]];
        return ((unsigned)length + (symbol & 15)) << 8 | symbol;
    }
    return JPEG_NO_CODE;
}

static inline unsigned jpeg_code(JpegBits *b, const JpegHuffman *table) {
    if (b->count < 32) jpeg_refill(b);                      /* 16 of code and 15 of value are asked for at most */
    unsigned code = table->lookup[b->bits >> (64 - JPEG_LOOKAHEAD)];
    if (!code) code = jpeg_long_code(b->bits, table);
    if (code == JPEG_NO_CODE) b->damage |= JPEG_BAD_CODE;
    return code;
}

/* The next symbol alone. */
static inline int jpeg_symbol(JpegBits *b, const JpegHuffman *table) {
    unsigned code = jpeg_code(b, table);
    jpeg_skip(b, (int)((code >> 8 & 31) - (code & 15)));
    return (int)(code & 255);
}

/* The next symbol, and the number in the `size` bits behind it (T.81 F.2.2.1, EXTEND). If the first of these bits is 0,
   the number is negative, and the bits are the complement of its magnitude. size may be 0, and a shift by 32 is not
   defined, so there are two shifts. */
static inline int jpeg_symbol_and_value(JpegBits *b, const JpegHuffman *table, int *value) {
    unsigned code = jpeg_code(b, table), size = code & 15, length = code >> 8 & 31;
    uint32_t ahead = (uint32_t)(b->bits << (length - size) >> 32), flip = (ahead >> 31) - 1;
    uint32_t magnitude = (ahead ^ flip) >> 1 >> (31 - size);
    *value = (int)((magnitude ^ flip) - flip);              /* negated, if flip is not 0 */
    jpeg_skip(b, (int)length);
    return (int)(code & 255);
}

static void jpeg_define_huffman(JpegHuffman *table, const uint8_t counts[16], const uint8_t *symbols, size_t n) {
    memset(table, 0, sizeof *table);
    memcpy(table->counts, counts, sizeof table->counts);
    memcpy(table->symbols, symbols, n);
    table->defined = true;
}

/* Makes a table ready for decoding. As in jdhuff.c, it is refused (-1) if the counts make no prefix code or need the
   code of all ones, or if a DC symbol exceeds 15. libjpeg does not look at a table that no scan uses. */
static int jpeg_build_huffman(JpegHuffman *table, bool is_dc) {
    int n = 0;
    int32_t code = 0;
    if (table->ready) return 0;
    for (int length = 1; length <= 16; length++, code <<= 1) {
        int count = table->counts[length - 1];
        table->offset[length] = n - code;
        table->last[length] = count ? code + count - 1 : -1;
        for (int i = 0; i < count; i++, n++, code++) {
            if (code + 1 >= 1 << length || (is_dc && table->symbols[n] > 15)) return -1;
            if (length > JPEG_LOOKAHEAD) continue;
            int shift = JPEG_LOOKAHEAD - length;
            for (int low = 0; low < 1 << shift; low++)
                table->lookup[(code << shift) + low] =
                    (uint16_t)((length + (table->symbols[n] & 15)) << 8 | table->symbols[n]);
        }
    }
    table->ready = true;
    return 0;
}

/* ----------------------------------------------------------------------------- JPEG: blocks of a scan

   Each function reads what the scan says about one block. What no encoder writes is noted in `damage`, and read as
   libjpeg reads it. */

/* Sequential, T.81 F.2.2. */
static void jpeg_block_sequential(Jpeg *j, JpegComponent *c, int16_t *block) {
    JpegBits b = j->bits;
    const JpegHuffman *ac = c->ac;
    int value, k = 1;
    jpeg_symbol_and_value(&b, c->dc, &value);
    c->prediction = block[0] = wrap16(c->prediction + value);
    for (; k < 64; k++) {
        int symbol = jpeg_symbol_and_value(&b, ac, &value);
        if ((symbol & 15) == 0 && symbol < 0xf0) break;     /* end of block */
        k += symbol >> 4;
        if (symbol & 15) block[jpeg_zigzag[k]] = (int16_t)value;    /* ZRL: sixteen zeros */
    }
    if (k > 64) b.damage |= JPEG_BAD_CODE;
    j->bits = b;
}

/* Progressive, T.81 G.2. The first scan has the upper bits of the DC coefficient, each later one has one bit more. */
static void jpeg_block_dc_first(Jpeg *j, JpegComponent *c, int16_t *block) {
    int value;
    jpeg_symbol_and_value(&j->bits, c->dc, &value);
    int64_t sum = (int64_t)c->prediction + value;
    if (sum < INT32_MIN || sum > INT32_MAX) j->bits.damage |= JPEG_BAD_DC;
    else c->prediction = (int32_t)sum;
    block[0] = wrap16((int32_t)((uint32_t)c->prediction << j->al & 0xffff));
}

static void jpeg_block_dc_refine(Jpeg *j, int16_t *block) {
    if (jpeg_take(&j->bits, 1)) block[0] = wrap16(block[0] | 1 << j->al);
}

/* Coefficient k in zigzag order; in damaged data k may be past the end. */
static inline void jpeg_put(int16_t *block, uint64_t *nonzero, int k, int16_t value) {
    uint64_t bit = (uint64_t)1 << (k < 63 ? k : 63);
    block[jpeg_zigzag[k]] = value;
    *nonzero = value ? *nonzero | bit : *nonzero & ~bit;
}

/* A symbol r << 4 with r < 15 ends the band, in this block and the 2^r - 1 + (the next r bits) blocks after it. Returns
   how many blocks that are, this one included. */
static uint32_t jpeg_eob_run(JpegBits *b, int r) {
    return (1u << r) + (r ? jpeg_take(b, r) : 0);
}

static void jpeg_block_ac_first(Jpeg *j, JpegComponent *c, int16_t *block, uint64_t *nonzero) {
    if (j->eob_run) {
        j->eob_run--;
        return;
    }
    JpegBits b = j->bits;
    const JpegHuffman *ac = c->ac;
    int value, k = j->ss, se = j->se, al = j->al;
    for (; k <= se; k++) {
        int symbol = jpeg_symbol_and_value(&b, ac, &value), run = symbol >> 4;
        if (symbol & 15) {
            k += run;
            jpeg_put(block, nonzero, k, wrap16(value * (1 << al)));
        } else if (run == 15) {
            k += 15;
        } else {
            j->eob_run = jpeg_eob_run(&b, run) - 1;
            break;
        }
    }
    if (k > se + 1) b.damage |= JPEG_BAD_CODE;
    j->bits = b;
}

static inline int jpeg_lowest_bit(uint64_t bits)          /* bits is not 0 */
{
#ifdef __GNUC__
    return __builtin_ctzll(bits);
#else
    int n = 0;
    for (; !(bits & 1); bits >>= 1) n++;
    return n;
#endif
}

/* Adds one more bit to a coefficient that is not zero, away from zero. The bit cannot be predicted, so there is no
   branch on it. */
static inline void jpeg_correct(JpegBits *b, int16_t *coefficient, int bit) {
    int old = *coefficient, wanted = (int)jpeg_take(b, 1) & !(old & bit);
    *coefficient = wrap16(old + (old < 0 ? -bit : bit) * wanted);
}

/* Passes `run` zeros from k on, and corrects each coefficient on the way that is not zero. Returns the place of the
   next zero, or se + 1 at the end of the band. */
static inline int jpeg_correct_run(JpegBits *b, int16_t *block, uint64_t nonzero, int k, int se, int run, int bit) {
    while (k <= se) {
        uint64_t rest = nonzero >> k;
        int next = rest ? k + jpeg_lowest_bit(rest) : 64;
        if (next > se || next - k > run) return k + run <= se ? k + run : se + 1;
        run -= next - k;
        jpeg_correct(b, block + jpeg_zigzag[next], bit);
        k = next + 1;
    }
    return k;
}

static void jpeg_block_ac_refine(Jpeg *j, JpegComponent *c, int16_t *block, uint64_t *nonzero) {
    JpegBits b = j->bits;
    int bit = 1 << j->al, k = j->ss, se = j->se;
    if (!j->eob_run) {
        for (; k <= se; k++) {
            int symbol = jpeg_symbol(&b, c->ac), run = symbol >> 4, value = 0;
            if (symbol & 15) {
                if ((symbol & 15) != 1) b.damage |= JPEG_BAD_CODE;      /* a new coefficient has only the one bit */
                value = jpeg_take(&b, 1) ? bit : -bit;
            } else if (run < 15) {
                j->eob_run = jpeg_eob_run(&b, run);
                break;
            }
            k = jpeg_correct_run(&b, block, *nonzero, k, se, run, bit);     /* the run counts only zeros */
            if (value) {
                if (k > se) b.damage |= JPEG_BAD_CODE;
                jpeg_put(block, nonzero, k, (int16_t)value);
            }
        }
    }
    if (j->eob_run) {
        jpeg_correct_run(&b, block, *nonzero, k, se, 64, bit);
        j->eob_run--;
    }
    j->bits = b;
}

/* ----------------------------------------------------------------------------- JPEG: samples to pixels */

/* Row y of a component's samples. Those of MCU row mcu_y are in memory, and the one row before them. */
static uint8_t *jpeg_sample_row(const JpegComponent *c, int mcu_y, int y) {
    return c->samples + (size_t)(1 + y - mcu_y * c->v * 8) * (size_t)c->padded_x * 8;
}

/* Dequantises a block and transforms it into samples. */
static void jpeg_samples(const JpegComponent *c, int x, int y, const int16_t *block) {
    uint8_t *out = jpeg_sample_row(c, y / c->v, y * 8) + (size_t)x * 8;
    sv_jpeg_kernels.idct(block, c->quant, out, (size_t)c->padded_x * 8);
}

/* One component in row y of the picture, a sample for each pixel. If the component has as many samples as that, this is
   one of its own rows, else it is made in `row`. A ratio of 2:1 is interpolated: 3/4 of the nearer sample and 1/4 of
   the farther, with rounding that alternates. Other ratios repeat samples. jdsample.c does not interpolate along a row
   of only one or two samples. */
static const uint8_t *upsample_row(const Jpeg *j, const JpegComponent *c, int mcu_y, int y, uint8_t *row) {
    int x_ratio = j->max_h / c->h, y_ratio = j->max_v / c->v, n = c->width;
    const uint8_t *nearer = jpeg_sample_row(c, mcu_y, y / y_ratio);
    bool fancy_x = x_ratio == 2 && y_ratio <= 2 && n > 2, fancy_y = y_ratio == 2 && (x_ratio == 1 || fancy_x);

    if (!fancy_x && !fancy_y) {
        if (x_ratio == 1) return nearer;
        for (int x = 0; x < j->width; x++) row[x] = nearer[x / x_ratio];
        return row;
    }
    if (!fancy_y) {
        sv_jpeg_kernels.upsample_2x1(nearer, n, row);
        return row;
    }

    /* the row above or below; at the picture's edge the same row again */
    int other = y / 2 + (y % 2 ? 1 : -1);
    if (other < 0) other = 0;
    if (other > c->height - 1) other = c->height - 1;
    const uint8_t *farther = jpeg_sample_row(c, mcu_y, other);
    if (fancy_x) sv_jpeg_kernels.upsample_2x2(nearer, farther, n, row);
    else sv_jpeg_kernels.upsample_1x2(nearer, farther, y % 2 ? 2 : 1, n, row);
    return row;
}

/* Pillow takes every file of four components for Adobe's inverted CMYK, which stores 255 - ink. Its Convert.c makes
   each colour nk - ink * nk / 255, where nk is 255 - black; the division is rounded as it is there. */
static inline uint8_t jpeg_ink(int stored, int nk) {
    int product = (255 - stored) * nk + 128;
    return (uint8_t)clamp8(nk - ((product + (product >> 8)) >> 8));
}

static void colour_row(const Jpeg *j, const uint8_t *const row[4], uint8_t *rgb) {
    bool ycc = j->colour == JPEG_YCC || j->colour == JPEG_YCCK;
    if (ycc) sv_jpeg_kernels.ycc_to_rgb(row[0], row[1], row[2], j->width, rgb);
    if (j->colour == JPEG_YCC) return;
    for (int x = 0; x < j->width; x++, rgb += 3) {
        for (int i = 0; i < 3; i++) {
            if (j->colour == JPEG_GREY) rgb[i] = row[0][x];
            else if (j->colour == JPEG_RGB) rgb[i] = row[i][x];
            else rgb[i] = jpeg_ink(ycc ? 255 - rgb[i] : row[i][x], row[3][x]);     /* YCCK's RGB is ink */
        }
    }
}

/* Makes the pixels that can be made now that a row of MCUs is there. Its last row of pixels needs samples of the next
   row of MCUs, so it is left for the next call; the one that the call before left comes first. */
static void jpeg_pixels(Jpeg *j, int mcu_y) {
    const size_t width = (size_t)j->width;
    int first = mcu_y * j->max_v * 8, end = first + j->max_v * 8;
    for (int y = first - (first > 0); y < (mcu_y == j->mcus_y - 1 ? j->height : end - 1); y++) {
        const uint8_t *row[4] = { NULL, NULL, NULL, NULL };
        for (int i = 0; i < j->n_components; i++)
            row[i] = upsample_row(j, &j->components[i], mcu_y, y, j->upsampled + (size_t)i * (width + 8));
        colour_row(j, row, j->image->rgb + (size_t)y * width * 3);
    }
    for (int i = 0; i < j->n_components; i++) {
        const JpegComponent *c = &j->components[i];
        int last = (mcu_y + 1) * c->v * 8 - 1;
        memcpy(c->samples, jpeg_sample_row(c, mcu_y, last), (size_t)c->padded_x * 8);
    }
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

/* Called at the end of a scan, or of its part up to a restart marker, with j->at behind the marker. Many unused bytes
   before the marker are damage. Encoders do leave a few, or fill bytes. */
static void jpeg_check_unused(Jpeg *j) {
    const JpegBits *b = &j->bits;
    int64_t unused = (j->at - b->at) - 2 + (b->count > b->padding ? (b->count - b->padding) / 8 : 0);
    bool fill = true;
    for (const uint8_t *p = b->at; p < j->at - 2; p++) fill = fill && (*p == 0 || *p == 0xff);
    if (unused > 8 && !fill && !j->exhausted)
        jpeg_damaged(j, "the compressed data of scan %d has %lld bytes too many", j->n_scans, (long long)unused);
}

/* Pillow passes a file to libjpeg in pieces of 64 KiB. Returns the end of the pieces that libjpeg has once it has read
   up to `at`. */
static const uint8_t *jpeg_piece_end(const Jpeg *j, const uint8_t *at) {
    const size_t piece = 65536, size = (size_t)(j->end - j->start);
    return j->start + smaller(size, ((size_t)(at - j->start) + piece - 1) / piece * piece);
}

/* Reads restart marker number `expected`, 0..7. With another marker in its place, this does what jdmarker.c does. A
   marker that was due one or two restarts ago, or that means nothing, is skipped. One that will be due one or two
   restarts later, or that ends the scan, stays; so there is no data up to it. Any other restart marker counts as the
   right one. */
static int jpeg_restart(Jpeg *j, int expected) {
    j->at = j->bits.at;
    int marker = jpeg_next_marker(j), ahead = (marker - 0xd0 - expected) & 7;
    if (marker == 0xd0 + expected) jpeg_check_unused(j);
    else if (marker >= 0)
        jpeg_damaged(j, "marker FF%02X is where restart marker %d belongs, in scan %d", (unsigned)marker, expected,
                     j->n_scans);
    while (marker >= 0 && (marker < 0xc0 || (marker >= 0xd0 && marker <= 0xd7 && ahead >= 6))) {
        marker = jpeg_next_marker(j);
        ahead = (marker - 0xd0 - expected) & 7;
    }
    if (marker < 0) return jpeg_truncated(j);
    if (marker < 0xd0 || marker > 0xd7 || ahead == 1 || ahead == 2) j->at -= 2;
    else j->exhausted = false;
    jpeg_reset_entropy(j);
    return 0;
}

enum { JPEG_AGAIN = 1 };

/* Called after an MCU that was damaged, or for which there were not enough bits. Returns JPEG_AGAIN if the scan must be
   decoded once more, by decode_scan_by_fetches. */
static int jpeg_trouble(Jpeg *j) {
    JpegBits *b = &j->bits;
    if (b->damage & JPEG_BAD_DC)
        return sv_fail(j->error, "%s: the JPEG's scan %d has a DC coefficient out of range", j->name, j->n_scans);
    bool fill = b->damage & JPEG_BAD_FILL, ends = b->count < b->padding;
    if (fill || !ends) jpeg_damaged(j, "the compressed data of scan %d", j->n_scans);
    if (fill && !j->progressive && !j->restart_interval) return JPEG_AGAIN;
    b->damage = 0;
    if (!ends) return 0;
    const uint8_t *marker = b->at;
    while (marker < b->end && *marker == 0xff) marker++;
    if (marker == b->end) return jpeg_truncated(j);
    jpeg_damaged(j, "the compressed data of scan %d ends early, at marker FF%02X", j->n_scans, *marker);
    j->exhausted = true;
    return 0;
}

/* A block of an MCU: of which component, and which of its blocks. */
typedef struct JpegPlace { JpegComponent *component; int x, y; } JpegPlace;

/* The blocks of an MCU: h x v of each component. In a scan of one component an MCU is a single block, and the scan has
   only the blocks that hold samples of the picture (T.81 A.2). */
static int jpeg_places(const Jpeg *j, int mcu_x, int mcu_y, JpegPlace places[10]) {
    int n = 0;
    for (int i = 0; i < j->n_scan_components; i++) {
        JpegComponent *c = j->scan[i];
        int mcu_h = j->n_scan_components > 1 ? c->h : 1, mcu_v = j->n_scan_components > 1 ? c->v : 1;
        for (int v = 0; v < mcu_v; v++)
            for (int h = 0; h < mcu_h; h++) places[n++] = (JpegPlace){ c, mcu_x * mcu_h + h, mcu_y * mcu_v + v };
    }
    return n;
}

static size_t jpeg_index(const JpegPlace *place) {
    return (size_t)place->y * (size_t)place->component->padded_x + (size_t)place->x;
}

static int16_t *jpeg_block(const JpegPlace *place) { return place->component->coefficients + jpeg_index(place) * 64; }

/* One MCU of the only scan: first the coefficients of all its blocks, then their samples. */
static void jpeg_decode_mcu(Jpeg *j, const JpegPlace *places, int n) {
    int16_t blocks[10][64];
    memset(blocks, 0, (size_t)n * sizeof blocks[0]);
    for (int i = 0; i < n && !j->exhausted; i++) jpeg_block_sequential(j, places[i].component, blocks[i]);
    for (int i = 0; i < n; i++) jpeg_samples(places[i].component, places[i].x, places[i].y, blocks[i]);
}

/* What one of several scans says about a block. */
static void jpeg_decode_block(Jpeg *j, const JpegPlace *place) {
    JpegComponent *c = place->component;
    int16_t *block = jpeg_block(place);
    if (!j->progressive) jpeg_block_sequential(j, c, block);
    else if (j->ss == 0 && j->ah == 0) jpeg_block_dc_first(j, c, block);
    else if (j->ss == 0) jpeg_block_dc_refine(j, block);
    else if (j->ah == 0) jpeg_block_ac_first(j, c, block, c->nonzero + jpeg_index(place));
    else jpeg_block_ac_refine(j, c, block, c->nonzero + jpeg_index(place));
}

/* Called when a scan has reached the end of row y of its MCUs. If it is the only scan, makes the pixels as soon as a
   row of the picture's MCUs is complete. */
static void jpeg_end_of_row(Jpeg *j, int y) {
    const JpegComponent *only = j->n_scan_components == 1 ? j->scan[0] : NULL;
    if (j->several_scans) return;
    if (!only) jpeg_pixels(j, y);
    else if ((y + 1) % only->v == 0 || y == only->blocks_y - 1) jpeg_pixels(j, y / only->v);
}

/* ----------------------------------------------------------------------------- JPEG: a scan with too many FF

   A sequential scan in which several bytes FF stand before a 00. No encoder writes that, and libjpeg-turbo's result
   depends on how it fetches bits. It has two routines for an MCU. If it has enough of the file, it tries the fast one
   first. That takes the first FF for a marker, reads the rest of the MCU from zero bits, and then leaves the MCU to the
   slow one. For the slow routine those bytes are one byte FF. But a coefficient that the fast one has written stays if
   the slow one writes none in its place. Whether the fast one meets the FF at all depends on how far ahead both read.
   So bits are fetched here just as jdhuff.c fetches them on a 64-bit machine. */

typedef struct JpegFetch {
    const uint8_t *at, *end;                /* end: of the pieces of the file that libjpeg has */
    uint64_t bits;
    int count;
    bool fast;                              /* which of the two routines */
    bool stopped, starved, exhausted;       /* at a marker; at the end of the pieces; zero bits were used */
} JpegFetch;

static void jpeg_fetch_byte(JpegFetch *f, unsigned byte) {
    f->bits |= (uint64_t)byte << (56 - f->count);
    f->count += 8;
}

/* Called before `wanted` bits are used. The slow routine fetches bits if there are fewer than `least`; the fast one, if
   there are at most 16. */
static void jpeg_fetch(JpegFetch *f, int least, int wanted) {
    if (f->fast) {
        for (int i = 0, n = f->count > 16 ? 0 : 6; i < n; i++) {
            f->stopped = f->stopped || f->end - f->at < 2 || (f->at[0] == 0xff && f->at[1] != 0);
            jpeg_fetch_byte(f, f->stopped ? 0 : f->at[0]);
            if (!f->stopped) f->at += f->at[0] == 0xff ? 2 : 1;
        }
        return;
    }
    if (f->count >= least) return;
    while (f->count < 57 && !f->stopped && !f->starved) {
        const uint8_t *next = f->at;
        while (next < f->end && *next == 0xff) next++;
        if (next == f->end) f->starved = true;
        else if (next == f->at) jpeg_fetch_byte(f, *f->at++);
        else if (*next) f->stopped = true;
        else {
            jpeg_fetch_byte(f, 0xff);
            f->at = next + 1;
        }
    }
    if (f->count >= wanted || f->starved) return;
    f->exhausted = true;
    f->count = 57;
}

static int jpeg_fetched(JpegFetch *f, int n) {
    int value = n ? (int)(f->bits >> (64 - n)) : 0;
    f->bits <<= n;
    f->count -= n;
    return value;
}

static int jpeg_fetch_symbol(JpegFetch *f, const JpegHuffman *table) {
    jpeg_fetch(f, 8, 0);
    int length = f->count < 8 ? 1 : 9;
    for (int n = 1; n < length; n++) {
        int32_t code = (int32_t)(f->bits >> (64 - n));
        if (code > table->last[n]) continue;
        jpeg_fetched(f, n);
        return table->symbols[code + table->offset[n]];
    }
    if (!f->fast) jpeg_fetch(f, length, length);
    int32_t code = jpeg_fetched(f, length);
    for (; length < 17 && code > table->last[length] && !f->starved; length++) {
        if (!f->fast) jpeg_fetch(f, 1, 1);
        code = code << 1 | jpeg_fetched(f, 1);
    }
    return length < 17 ? table->symbols[(code + table->offset[length]) & 255] : 0;
}

static int jpeg_fetch_value(JpegFetch *f, int size) {
    if (size == 0) return 0;
    jpeg_fetch(f, size, size);
    int value = jpeg_fetched(f, size);
    return value < 1 << (size - 1) ? value - (1 << size) + 1 : value;
}

/* Writes nothing once f has starved. */
static void jpeg_fetch_block(JpegFetch *f, JpegComponent *c, int16_t *block) {
    int value = jpeg_fetch_value(f, jpeg_fetch_symbol(f, c->dc));
    if (f->starved) return;
    block[0] = wrap16(c->prediction + value);
    c->prediction = block[0];
    for (int k = 1; k < 64; k++) {
        int symbol = jpeg_fetch_symbol(f, c->ac);
        value = jpeg_fetch_value(f, symbol & 15);
        if (f->starved || (symbol < 0xf0 && (symbol & 15) == 0)) return;
        k += symbol >> 4;
        if (symbol & 15) block[jpeg_zigzag[k]] = (int16_t)value;
    }
}

/* One MCU. Returns false where libjpeg would give it up for now: f has starved, or the fast routine met a marker. */
static bool jpeg_fetch_mcu(Jpeg *j, JpegFetch *f, const JpegPlace *places, int n, int16_t mcu[10][64]) {
    for (int i = 0; i < n && !f->starved; i++)
        jpeg_fetch_block(f, places[i].component, j->several_scans ? jpeg_block(&places[i]) : mcu[i]);
    return !f->starved && !(f->fast && f->stopped);
}

static int decode_scan_by_fetches(Jpeg *j, const uint8_t *start) {
    const JpegComponent *only = j->n_scan_components == 1 ? j->scan[0] : NULL;
    int mcus_x = only ? only->blocks_x : j->mcus_x, mcus_y = only ? only->blocks_y : j->mcus_y;
    JpegFetch f = { .at = start, .end = jpeg_piece_end(j, start) };
    j->at = start;
    jpeg_reset_entropy(j);
    for (int mcu_y = 0; mcu_y < mcus_y; mcu_y++) {
        for (int mcu_x = 0; mcu_x < mcus_x && !(f.exhausted && j->several_scans); mcu_x++) {
            int16_t mcu[10][64] = { { 0 } };
            JpegPlace places[10];
            int32_t predictions[4];
            int n = jpeg_places(j, mcu_x, mcu_y, places);
            for (int i = 0; i < j->n_scan_components; i++) predictions[i] = j->scan[i]->prediction;
            const JpegFetch before = f;
            f.fast = !f.stopped && f.end - f.at >= 512 * n;
            while (!before.exhausted && !jpeg_fetch_mcu(j, &f, places, n, mcu)) {
                const JpegFetch gave_up = f;
                f = before;
                f.end = gave_up.end;
                f.fast = false;
                for (int i = 0; i < j->n_scan_components; i++) j->scan[i]->prediction = predictions[i];
                if (!gave_up.starved) continue;             /* the fast routine met an FF: now the slow one */
                if (f.end == j->end) return jpeg_truncated(j);
                const uint8_t *next = f.end;                /* a run of FF starves until the byte after it is there */
                while (next + 1 < j->end && next[-1] == 0xff && *next == 0xff) next++;
                f.end = jpeg_piece_end(j, next + 1);
                f.fast = !f.stopped && f.end - f.at >= 512 * n;
                memset(mcu, 0, sizeof mcu);
            }
            for (int i = 0; i < n && !j->several_scans; i++)
                jpeg_samples(places[i].component, places[i].x, places[i].y, mcu[i]);
        }
        jpeg_end_of_row(j, mcu_y);
    }
    j->bits = (JpegBits){ .at = f.at, .end = j->end, .stopped = f.stopped };
    j->at = f.at;
    return 0;
}

/* ----------------------------------------------------------------------------- JPEG: a whole scan */

static int decode_scan(Jpeg *j) {
    JpegComponent *only = j->n_scan_components == 1 ? j->scan[0] : NULL;
    int mcus_x = only ? only->blocks_x : j->mcus_x, mcus_y = only ? only->blocks_y : j->mcus_y;
    int to_restart = j->restart_interval, restarts = 0;
    const uint8_t *start = j->at;
    j->exhausted = false;
    j->last_good_mcu_y = 0;
    jpeg_reset_entropy(j);
    for (int y = 0; y < mcus_y; y++) {
        const int mcu_y = only ? y / only->v : y;
        for (int x = 0; x < mcus_x; x++) {
            if (!j->exhausted) j->last_good_mcu_y = mcu_y;
            else if (j->several_scans && !j->restart_interval) goto done;
            if (j->restart_interval && to_restart-- == 0) {
                if (jpeg_restart(j, restarts++ & 7)) return -1;
                to_restart = j->restart_interval - 1;
            }
            JpegPlace places[10];
            int n = jpeg_places(j, x, y, places);
            if (!j->several_scans) jpeg_decode_mcu(j, places, n);
            else for (int i = 0; i < n && !j->exhausted; i++) jpeg_decode_block(j, &places[i]);
            if ((j->bits.count < j->bits.padding || j->bits.damage) && !j->exhausted) {
                int trouble = jpeg_trouble(j);
                if (trouble) return trouble == JPEG_AGAIN ? decode_scan_by_fetches(j, start) : -1;
            }
        }
        jpeg_end_of_row(j, y);
    }
done:
    j->at = j->bits.at;
    if (jpeg_next_marker(j) >= 0) jpeg_check_unused(j);
    j->at = j->bits.at;
    return 0;
}

/* ----------------------------------------------------------------------------- JPEG: segments

   T.81 B.2. A segment is p[0 .. size), after its length field. The file has `left` bytes from p on, which may be fewer
   than size or more. Each function returns 0; -1 if the segment is refused; JPEG_ENDS if the file ends before that can
   be decided. */

enum { JPEG_ENDS = 1 };

static int read_sof(Jpeg *j, int marker, const uint8_t *p, size_t size, size_t left) {
    static const char *const process[16] = {
        [3] = "lossless", [5] = "hierarchical", "hierarchical", "hierarchical", [9] = "arithmetic-coded",
        "arithmetic-coded", "lossless", [13] = "hierarchical", "hierarchical", "hierarchical"
    };
    char what[80];
    if (marker > 0xc2) {
        snprintf(what, sizeof what, "%s JPEG is", process[marker & 15]);
        return sv_not_read(j->name, what, j->error);
    }
    if (left < size) return JPEG_ENDS;
    if (size < 6) return sv_fail(j->error, "%s: the JPEG's frame header is too short", j->name);
    if (p[0] != 8) {
        snprintf(what, sizeof what, "JPEG of %d bits a sample is", p[0]);
        return sv_not_read(j->name, what, j->error);
    }
    j->height = (int)be16(p + 1);
    j->width = (int)be16(p + 3);
    j->n_components = p[5];
    if (sv_check_size((uint64_t)j->width, (uint64_t)j->height, j->name, j->error)) return -1;
    if (j->width > JPEG_MAX_SIDE || j->height > JPEG_MAX_SIDE)
        return sv_fail(j->error, "%s: a JPEG of %d x %d pixels is not read: libjpeg's limit is %d a side", j->name,
                       j->width, j->height, JPEG_MAX_SIDE);
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
            return sv_not_read(j->name, what, j->error);
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

static int read_dqt(Jpeg *j, const uint8_t *p, size_t size, size_t left) {
    while (size > 0) {
        if (left < 1) return JPEG_ENDS;
        size_t index = p[0] & 15, bytes = p[0] >> 4 ? 2 : 1, table_size = 1 + 64 * bytes;
        if (index < 4 && left < table_size) return JPEG_ENDS;
        if (index > 3 || size < table_size)
            return sv_fail(j->error, "%s: the JPEG has a bad quantisation table", j->name);
        for (size_t k = 0; k < 64; k++)
            j->quant[index][jpeg_zigzag[k]] = (uint16_t)(bytes == 2 ? be16(p + 1 + 2 * k) : p[1 + k]);
        j->quant_defined[index] = true;
        p += table_size;
        size -= table_size;
        left -= table_size;
    }
    return 0;
}

static int read_dht(Jpeg *j, const uint8_t *p, size_t size, size_t left) {
    while (size > 0) {
        size_t n = 0;
        if (size >= 17 && left < 17) return JPEG_ENDS;
        if (size >= 17)
            for (int i = 1; i <= 16; i++) n += p[i];
        if (size >= 17 + n && n <= 256 && left < 17 + n) return JPEG_ENDS;
        if (size < 17 + n || n > 256 || (p[0] & 0xef) > 3)
            return sv_fail(j->error, "%s: the JPEG has a bad Huffman table", j->name);
        jpeg_define_huffman(p[0] & 16 ? &j->ac[p[0] & 3] : &j->dc[p[0] & 3], p + 1, p + 17, n);
        p += 17 + n;
        size -= 17 + n;
        left -= 17 + n;
    }
    return 0;
}

/* Settings of arithmetic coding. They are of no use here, but libjpeg refuses bad ones in any file. */
static int read_dac(Jpeg *j, const uint8_t *p, size_t size, size_t left) {
    for (; size > 0; p += 2, size -= 2, left -= 2) {
        if (left < 2) return JPEG_ENDS;
        if (size < 2 || p[0] > 31 || (p[0] < 16 && (p[1] & 15) > p[1] >> 4))
            return sv_fail(j->error, "%s: the JPEG has a bad DAC segment", j->name);
    }
    return 0;
}

static int read_dri(Jpeg *j, const uint8_t *p, size_t size, size_t left) {
    if (size != 2) return sv_fail(j->error, "%s: the JPEG's DRI segment has the wrong length", j->name);
    if (left < 2) return JPEG_ENDS;
    j->restart_interval = (int)be16(p);
    return 0;
}

/* Pillow's JpegImagePlugin reads APP1 only before the first scan. It joins all Exif segments and keeps the last XMP. */
static int read_app(Jpeg *j, int marker, const uint8_t *p, size_t size) {
    static const char exif_name[6] = "Exif\0", xmp_name[29] = "http://ns.adobe.com/xap/1.0/";
    if (marker == 0xe0 && size >= 14 && memcmp(p, "JFIF", 5) == 0) {
        j->has_jfif = true;
    } else if (marker == 0xee && size >= 12 && memcmp(p, "Adobe", 5) == 0) {
        j->has_adobe = true;
        j->adobe_transform = p[11];
    } else if (marker == 0xe1 && j->n_scans == 0 && size >= 6 && memcmp(p, exif_name, 6) == 0) {
        size_t skip = j->exif ? 6 : 0;                      /* sv_exif_orientation skips the first one's name */
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

/* The colour space that libjpeg assumes: default_decompress_parms in jdapimin.c. */
static JpegColour jpeg_colour(const Jpeg *j) {
    const JpegComponent *c = j->components;
    if (j->n_components == 1) return JPEG_GREY;
    if (j->n_components == 4) return j->has_adobe && j->adobe_transform != 0 ? JPEG_YCCK : JPEG_CMYK;
    if (j->has_jfif) return JPEG_YCC;
    if (j->has_adobe) return j->adobe_transform == 0 ? JPEG_RGB : JPEG_YCC;
    return c[0].id == 'R' && c[1].id == 'G' && c[2].id == 'B' ? JPEG_RGB : JPEG_YCC;
}

/* Called at the first scan: fills in the tables that a file may leave out, and allocates memory. */
static int jpeg_begin(Jpeg *j) {
    j->colour = jpeg_colour(j);
    j->several_scans = j->progressive || j->n_scan_components < j->n_components;
    for (int i = 0; i < 2 && !j->progressive; i++) {
        const uint8_t *dc = jpeg_standard_dc[i], *ac = jpeg_standard_ac[i];
        if (!j->dc[i].defined) jpeg_define_huffman(&j->dc[i], dc, dc + 16, 12);
        if (!j->ac[i].defined) jpeg_define_huffman(&j->ac[i], ac, ac + 16, 162);
    }
    for (int i = 0; i < j->n_components; i++) {
        JpegComponent *c = &j->components[i];
        size_t blocks = (size_t)c->padded_x * (size_t)c->padded_y;
        if (blocks > SIZE_MAX / 128) return jpeg_no_memory(j);
        if (j->several_scans && !(c->coefficients = calloc(blocks, 64 * sizeof *c->coefficients)))
            return jpeg_no_memory(j);
        if (j->progressive && !(c->nonzero = calloc(blocks, sizeof *c->nonzero))) return jpeg_no_memory(j);
        if (!(c->samples = malloc((size_t)(1 + 8 * c->v) * (size_t)c->padded_x * 8))) return jpeg_no_memory(j);
    }
    /* upsampling by 2:1 may write one sample more than the width */
    if (!(j->upsampled = malloc((size_t)j->n_components * ((size_t)j->width + 8)))) return jpeg_no_memory(j);
    return sv_new_image((uint64_t)j->width, (uint64_t)j->height, j->name, j->image, j->error);
}

/* A table for the current scan; NULL if it is missing or bad. */
static const JpegHuffman *jpeg_table(JpegHuffman tables[4], int selector, bool is_dc) {
    if (selector > 3 || !tables[selector].defined || jpeg_build_huffman(&tables[selector], is_dc)) return NULL;
    return &tables[selector];
}

/* Notes which bits of a component's coefficients this progressive scan brings. It is damage if they were there already,
   or if bits that must come first were not. libjpeg goes on. */
static void jpeg_progress(Jpeg *j, JpegComponent *c) {
    if (j->ss > 0 && c->precision[0] < 0)                   /* T.81 G.1.1.1.1 */
        jpeg_damaged(j, "scan %d has AC coefficients before their DC", j->n_scans);
    for (int k = j->ss > 0; k < 10; k++) c->previous[k] = j->n_scans > 1 ? c->precision[k] : 0;
    for (int k = j->ss; k <= j->se; k++) {
        if (c->precision[k] != (j->ah ? j->ah : -1))
            jpeg_damaged(j, "scan %d repeats or skips bits of coefficients", j->n_scans);
        c->precision[k] = j->al;
    }
}

/* Whether a marker follows. If none does, no MCU can be left out, however damaged the file: every one needs bits. */
static bool jpeg_has_marker(Jpeg *j) {
    const uint8_t *at = j->at;
    bool found = jpeg_next_marker(j) >= 0;
    j->at = at;
    return found;
}

/* A scan over a large picture may be a few bytes long. So a small file of many such scans could keep a machine busy for
   hours, and does with Pillow. To reach this limit, an encoder would have to send each bit of each coefficient in a
   scan of its own. */
static int jpeg_check_work(Jpeg *j, uint64_t blocks) {
    const uint64_t most = (uint64_t)1 << 33;
    j->work += blocks * (uint64_t)(4 + (j->progressive ? j->se - j->ss : 60));
    if (j->work > most)
        return sv_fail(j->error, "%s: the JPEG goes over its picture too often, in %d scans", j->name, j->n_scans);
    return 0;
}

static int read_sos(Jpeg *j, const uint8_t *p, size_t size, size_t left) {
    if (!j->has_frame) return sv_fail(j->error, "%s: the JPEG has a scan before its frame header", j->name);
    if (left < 1) return JPEG_ENDS;
    int n = p[0];
    if (n < 1 || n > 4 || size != 4 + 2 * (size_t)n)
        return sv_fail(j->error, "%s: the header of the JPEG's scan %d has the wrong length", j->name, j->n_scans + 1);

    JpegComponent *scan[4];
    uint64_t blocks = 0, mcu_blocks = 0;
    for (int i = 0; i < n; i++) {
        if (left < 3 + 2 * (size_t)i) return JPEG_ENDS;
        int slot = i;                                       /* jdmarker.c: in the frame's order, even if ids repeat */
        while (slot < j->n_components && j->components[slot].id != p[1 + 2 * i]) slot++;
        if (slot >= j->n_components)
            return sv_fail(j->error, "%s: the JPEG's scan %d has a component the frame lacks", j->name,
                           j->n_scans + 1);
        JpegComponent *c = scan[i] = &j->components[slot];
        for (int k = 0; k < i; k++)
            if (scan[k] == c)
                return sv_fail(j->error, "%s: the JPEG's scan %d has a component twice", j->name, j->n_scans + 1);
        mcu_blocks += (uint64_t)(c->h * c->v);
        blocks += (uint64_t)(n == 1 ? c->blocks_x : c->padded_x) * (uint64_t)(n == 1 ? c->blocks_y : c->padded_y);
    }
    if (left < size) return JPEG_ENDS;
    if (j->complete) return sv_fail(j->error, "%s: the JPEG has a second scan of a finished picture", j->name);
    if (n > 1 && mcu_blocks > 10)                           /* T.81 B.2.3 */
        return sv_fail(j->error, "%s: the JPEG has %d blocks an MCU, more than 10", j->name, (int)mcu_blocks);

    const uint8_t *last = p + 1 + 2 * n;
    j->n_scans++;
    j->n_scan_components = n;
    memcpy(j->scan, scan, sizeof scan);
    j->ss = last[0];
    j->se = last[1];
    j->ah = last[2] >> 4;
    j->al = last[2] & 15;

    /* T.81 G.1.1.1. In a sequential scan these are fixed. Files with other values exist, so nothing is checked. */
    if (j->progressive && ((j->ss == 0 ? j->se != 0 : j->ss > j->se || j->se > 63 || n != 1) ||
                           (j->ah && j->al != j->ah - 1) || j->al > 13))
        return sv_fail(j->error, "%s: the JPEG's scan %d has impossible progression parameters", j->name, j->n_scans);
    if (jpeg_check_work(j, blocks)) return -1;

    /* No code is shorter than a bit. So a header that claims a vast picture is refused before memory is allocated. */
    uint64_t least_bits = !j->progressive ? 2 * blocks : j->ss == 0 ? blocks : 0;
    if (least_bits / 8 > (uint64_t)(j->end - j->at) && !jpeg_has_marker(j)) return jpeg_truncated(j);
    if (j->n_scans == 1 && jpeg_begin(j)) return -1;

    for (int i = 0; i < n; i++) {
        JpegComponent *c = j->scan[i];
        bool needs_dc = !j->progressive || (j->ss == 0 && j->ah == 0), needs_ac = !j->progressive || j->ss > 0;
        c->dc = needs_dc ? jpeg_table(j->dc, p[2 + 2 * i] >> 4, true) : NULL;
        c->ac = needs_ac ? jpeg_table(j->ac, p[2 + 2 * i] & 15, false) : NULL;
        if ((needs_dc && !c->dc) || (needs_ac && !c->ac))
            return sv_fail(j->error, "%s: the JPEG's scan %d uses a Huffman table that is bad or not there",
                           j->name, j->n_scans);
        if (!c->coded) {                                    /* jdinput.c: a component keeps its first scan's table */
            if (c->quant_index > 3 || !j->quant_defined[c->quant_index])
                return sv_fail(j->error, "%s: the JPEG uses a quantisation table that is not there", j->name);
            memcpy(c->quant, j->quant[c->quant_index], sizeof c->quant);
            c->coded = true;
        }
        if (j->progressive) jpeg_progress(j, c);
    }
    if (decode_scan(j)) return -1;
    j->complete = !j->several_scans;
    return 0;
}

/* EOI before any scan: this was a file of tables alone. Another file may follow it, and Pillow reads on. */
static int read_next_file(Jpeg *j) {
    if (j->has_frame || j->end - j->at < 2 || j->at[0] != 0xff || j->at[1] != 0xd8)
        return sv_fail(j->error, "%s: the JPEG has no picture in it", j->name);
    j->at += 2;
    j->has_jfif = j->has_adobe = false;
    j->restart_interval = 0;
    return 0;
}

/* Reads the segment that follows a marker, and moves j->at past it. */
static int read_segment(Jpeg *j, int marker) {
    bool is_sof = (marker >= 0xc0 && marker <= 0xcf && marker != 0xc4 && marker != 0xc8 && marker != 0xcc) ||
                  marker == 0xde;                           /* DHP, the frame header of a hierarchical file */
    bool is_app = marker >= 0xe0 && marker <= 0xef, is_skipped = is_app || marker == 0xdc || marker == 0xfe;
    bool is_other = marker == 0xc4 || marker == 0xcc || (marker >= 0xda && marker <= 0xdd);
    if (!is_sof && !is_skipped && !is_other)
        return sv_fail(j->error, "%s: the JPEG has an unexpected marker FF%02X", j->name, (unsigned)marker);
    if (is_sof && j->has_frame) return sv_fail(j->error, "%s: the JPEG has two frame headers", j->name);
    size_t left = (size_t)(j->end - j->at), size = left >= 2 ? be16(j->at) : 0;
    if (left < 2) return JPEG_ENDS;
    const uint8_t *p = j->at + 2;
    left -= 2;
    if (size < 2) {
        if (!is_skipped)
            return sv_fail(j->error, "%s: the JPEG has a segment of length %d", j->name, (int)size);
        jpeg_damaged(j, "a segment, marker FF%02X, of length %d", (unsigned)marker, (int)size);
        size = 2;
    }
    size -= 2;
    if (size > left && !j->complete) return JPEG_ENDS;
    j->at = size > left ? j->end : p + size;
    if (is_sof) return read_sof(j, marker, p, size, left);
    if (is_app) return size > left ? JPEG_ENDS : read_app(j, marker, p, size);
    switch (marker) {
    case 0xc4: return read_dht(j, p, size, left);
    case 0xcc: return read_dac(j, p, size, left);
    case 0xda: return read_sos(j, p, size, left);
    case 0xdb: return read_dqt(j, p, size, left);
    case 0xdd: return read_dri(j, p, size, left);
    default: return size > left ? JPEG_ENDS : 0;            /* DNL, COM */
    }
}

/* Damage that shows only once everything has been read. */
static void jpeg_look_back(Jpeg *j) {
    for (int i = 0; i < j->n_components; i++)
        if (!j->components[i].coded) jpeg_damaged(j, "no scan has component %d of %d", i + 1, j->n_components);
    for (int i = 0; i < 8; i++) {
        JpegHuffman *table = i < 4 ? &j->dc[i] : &j->ac[i - 4];
        if (table->defined && jpeg_build_huffman(table, i < 4)) jpeg_damaged(j, "a Huffman table that no scan uses");
    }
}

/* How far libjpeg has read at the end of a scan. */
static const uint8_t *jpeg_read_so_far(const Jpeg *j) {
    const uint8_t *at = j->bits.at;
    if (j->bits.stopped) {
        while (at < j->end && *at == 0xff) at++;
        if (at < j->end) at++;                              /* past the marker */
    }
    return at;
}

/* Reads markers up to EOI. In a file of several scans only EOI says that none is missing. A file of a single scan may
   be cut off behind its last MCU: nothing is missing from the picture then, although Pillow refuses some such files,
   depending on how their last bits fall. After a single scan libjpeg looks for EOI, and refuses bad segments on the
   way, but only in the pieces of the file that it has. */
static int read_jpeg(Jpeg *j) {
    if (j->end - j->at < 3 || j->at[0] != 0xff || j->at[1] != 0xd8 || j->at[2] != 0xff)
        return sv_fail(j->error, "%s: not a JPEG file", j->name);
    j->at += 2;
    for (;;) {
        const uint8_t *junk = j->at;
        int marker = jpeg_next_marker(j), status = 0;
        if (marker >= 0 && !j->n_scans && *junk != 0xff) jpeg_damaged(j, "bytes between its segments");
        if (marker == 0xd9 && j->n_scans) break;
        if (marker < 0) status = JPEG_ENDS;
        else if (marker == 0xd9) status = read_next_file(j);
        else if ((marker < 0xd0 || marker > 0xd7) && (marker != 0x01 || !j->n_scans)) status = read_segment(j, marker);
        if (marker == 0xda && j->complete && status == 0) j->end = jpeg_piece_end(j, jpeg_read_so_far(j));
        if (status < 0) return -1;
        if (status == JPEG_ENDS && !j->complete) return jpeg_truncated(j);
        if (status == JPEG_ENDS) break;
    }
    jpeg_look_back(j);
    return 0;
}

/* ----------------------------------------------------------------------------- JPEG: block smoothing

   The scans of a progressive file may leave some of the first nine AC coefficients imprecise. libjpeg guesses those of
   them that are zero, from the DC values of the 5 x 5 blocks around (decompress_smooth_data in jdcoefct.c). Row k of
   the tables below is the kernel for zigzag position k, times 256. The first table is for a component of which only DC
   is known; its DC is smoothed too. The second is for all others. */

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

/* The five block rows whose DC values are used for block row y. At the picture's top and bottom rows repeat. Where the
   bottom is follows libjpeg: in the last row of MCUs, it counts rows as if every row of MCUs had as few as that one. */
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

/* Rows that the last scan did not reach are as precise as they were before it. */
static const int *jpeg_precision_at(const Jpeg *j, const JpegComponent *c, int y) {
    static const int unknown[10] = { -1, -1, -1, -1, -1, -1, -1, -1, -1, -1 };
    if (y / c->v <= j->last_good_mcu_y) return c->precision;
    return j->n_scans > 1 ? c->previous : unknown;
}

static void jpeg_smooth_block(const JpegComponent *c, const int precisions[10], const int rows[5], int x,
                              int16_t block[64]) {
    bool dc_only = true;
    int dc[25];
    for (int k = 1; k < 10; k++) dc_only = dc_only && precisions[k] == -1;
    for (int i = 0; i < 25; i++) {
        int column = x + i % 5 - 2;
        if (column < 0) column = 0;
        if (column > c->blocks_x - 1) column = c->blocks_x - 1;
        dc[i] = c->coefficients[((size_t)rows[i / 5] * (size_t)c->padded_x + (size_t)column) * 64];
    }
    for (int k = dc_only ? 0 : 1; k < (dc_only ? 10 : 6); k++) {
        int at = jpeg_zigzag[k], precision = precisions[k];
        if (k > 0 && (precision == 0 || block[at])) continue;
        const int16_t *kernel = dc_only ? jpeg_smooth_dc_only[k] : jpeg_smooth_mixed[k];
        int64_t sum = 0, q = c->quant[at];
        for (int i = 0; i < 25; i++) sum += dc[i] * kernel[i];
        sum *= c->quant[0];
        int64_t guess = ((q << 7) + (sum < 0 ? -sum : sum)) / (q << 8);
        if (k > 0 && precision > 0 && guess >= 1 << precision) guess = (1 << precision) - 1;
        block[at] = wrap16((int32_t)((sum < 0 ? -guess : guess) & 0xffff));
    }
}

/* Makes all pixels, after the last of several scans. */
static void jpeg_all_pixels(Jpeg *j) {
    bool smooth = j->progressive && jpeg_needs_smoothing(j);
    for (int mcu_y = 0; mcu_y < j->mcus_y; mcu_y++) {
        for (int i = 0; i < j->n_components; i++) {
            JpegComponent *c = &j->components[i];
            for (int y = mcu_y * c->v; y < (mcu_y + 1) * c->v && y < c->blocks_y; y++) {
                int rows[5];
                jpeg_smooth_rows(j, c, y, rows);
                for (int x = 0; x < c->blocks_x; x++) {
                    const int16_t *block = jpeg_block(&(JpegPlace){ c, x, y });
                    int16_t smoothed[64];
                    if (smooth) {
                        memcpy(smoothed, block, sizeof smoothed);
                        jpeg_smooth_block(c, jpeg_precision_at(j, c, y), rows, x, smoothed);
                        block = smoothed;
                    }
                    jpeg_samples(c, x, y, block);
                }
            }
        }
        jpeg_pixels(j, mcu_y);
    }
}

/* ----------------------------------------------------------------------------- JPEG: the whole file */

/* The pixels as the file has them. *orientation says how to turn them: Exif's, or XMP's if Exif has none. */
int sv_decode_jpeg(const uint8_t *data, size_t size, const char *name, SvImage *image, int *orientation,
                       SvError *error) {
    Jpeg *j = calloc(1, sizeof *j);
    if (!j) return sv_fail(error, "%s: not enough memory", name);
    j->start = j->at = data;
    j->end = data + size;
    j->name = name;
    j->error = error;
    j->image = image;
    int status = read_jpeg(j);
    if (status == 0 && j->several_scans) jpeg_all_pixels(j);
    if (status == 0) {
        *orientation = j->exif ? sv_exif_orientation(j->exif, j->exif_size) : 0;
        if (*orientation == 0) *orientation = j->xmp ? sv_xmp_orientation(j->xmp, j->xmp_size) : 0;
    }
    for (int i = 0; i < 4; i++) {
        free(j->components[i].samples);
        free(j->components[i].coefficients);
        free(j->components[i].nonzero);
    }
    free(j->upsampled);
    free(j->exif);
    free(j);
    return status;
}
