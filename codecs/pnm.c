/* pnm.c: PBM, PGM, PPM -> RGB pixels.

     P1 P4   bits, 1 is black         width height              ascii digits | rows of whole bytes
     P2 P5   gray                     width height maxval       ascii numbers | 1 or 2 bytes a sample
     P3 P6   RGB                      width height maxval

   "#" begins a comment up to the end of the line. The comment and its line end are removed from the text. */
#include "codec.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>


typedef struct Pnm { const uint8_t *at, *end; } Pnm;

/* Reads a number of up to 10 characters and one white space after it. Returns the number, -1 at the end of the data, or
   -2 if it is no number. */
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

/* Python's round(value / maxval * out_max), ties to even, then converted as convert("RGB") does. Gray of more than 8
   bits is scaled to 65535 in Pillow's mode "I", then clipped at 255 (i2rgb in Convert.c). */
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

int sv_decode_pnm(const uint8_t *data, size_t size, const char *name, SvImage *image, SvError *error) {
    Pnm pnm = { data + 2, data + size };
    const int kind = data[1] - '0';
    int64_t width = pnm_number(&pnm), height = pnm_number(&pnm), maxval = kind % 3 == 1 ? 1 : pnm_number(&pnm);
    if (width == -1 || height == -1 || maxval == -1)
        return sv_fail(error, "%s: the PNM file is cut short: it ends before its picture does", name);
    if (width < 0 || height < 0 || maxval < 1 || maxval > 65535)
        return sv_fail(error, "%s: a damaged PNM file: its header must be width, height and a maximum of 1 to 65535",
                       name);
    if (sv_check_size((uint64_t)width, (uint64_t)height, name, error)) return -1;

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
    int result = sv_new_image((uint64_t)width, (uint64_t)height, name, image, error);
    if (result == 0) result = pnm_pixels(&pnm, kind, (uint32_t)maxval, scaled, image, name, error);
    free(scaled);
    return result;
}
