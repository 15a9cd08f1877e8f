/* width.c: decodes UTF-8, and tells how many columns a character takes on a terminal. */
#include "line.h"

/* The characters that take no column, and those that take two, as ranges from U+0300 on. A range is two numbers: its
   distance from the end of the previous range, and its length. Unassigned code points belong to the ranges around
   them. */
/* Unicode 15.1.0, by tests/widths.py. */
static const uint16_t ZERO[] = {
    768, 112, 275, 7, 263, 45, 1, 1, 1, 2, 1, 2, 1, 1, 72, 11, 1, 1, 46, 21, 16, 1, 101, 7, 2, 6, 2, 2, 1, 4, 35, 1, 30,
    27, 91, 11, 58, 9, 9, 1, 24, 4, 1, 9, 1, 3, 1, 5, 43, 3, 60, 8, 42, 24, 1, 32, 55, 1, 1, 1, 4, 8, 4, 1, 3, 7, 10, 2,
    29, 1, 58, 1, 4, 4, 8, 1, 20, 2, 26, 5, 57, 1, 4, 17, 30, 2, 3, 1, 11, 2, 57, 1, 4, 8, 4, 1, 20, 2, 22, 8, 58, 1, 2,
    1, 1, 4, 8, 10, 11, 2, 30, 1, 61, 1, 12, 1, 50, 1, 3, 1, 55, 1, 1, 3, 5, 17, 11, 2, 29, 1, 58, 1, 2, 1, 6, 1, 5, 2,
    20, 2, 28, 2, 57, 2, 4, 4, 8, 1, 20, 2, 29, 1, 72, 1, 7, 5, 90, 1, 2, 7, 12, 8, 98, 1, 2, 9, 11, 7, 73, 2, 27, 1, 1,
    1, 1, 1, 55, 14, 1, 5, 1, 2, 5, 48, 9, 1, 102, 4, 1, 6, 1, 2, 2, 2, 25, 2, 4, 3, 16, 4, 13, 1, 2, 2, 6, 1, 15, 1,
    194, 160, 349, 3, 946, 3, 29, 2, 30, 2, 30, 2, 64, 2, 1, 7, 8, 1, 2, 11, 9, 1, 45, 5, 117, 2, 34, 1, 118, 3, 4, 2,
    9, 1, 6, 3, 219, 2, 2, 1, 58, 1, 1, 9, 1, 1, 2, 8, 6, 13, 48, 84, 48, 1, 1, 5, 1, 1, 5, 1, 40, 9, 12, 2, 32, 4, 2,
    2, 1, 3, 56, 1, 1, 2, 3, 1, 1, 3, 58, 8, 2, 2, 152, 3, 1, 13, 1, 7, 4, 1, 6, 1, 3, 2, 198, 64, 523, 5, 26, 5, 49,
    16, 96, 33, 3070, 3, 141, 1, 96, 32, 554, 4, 107, 2, 30164, 4, 1, 10, 32, 2, 80, 2, 272, 1, 3, 1, 4, 1, 25, 2, 5, 1,
    151, 2, 26, 18, 13, 1, 38, 8, 25, 11, 46, 3, 48, 1, 2, 4, 2, 2, 39, 1, 67, 6, 2, 2, 2, 2, 12, 1, 8, 1, 47, 1, 51, 1,
    1, 3, 2, 2, 5, 2, 1, 1, 42, 2, 8, 1, 238, 1, 2, 1, 4, 1, 11202, 80, 8990, 1, 737, 16, 16, 16, 207, 1, 249, 3, 513,
    1, 226, 1, 149, 5, 1670, 15, 40, 8, 165, 2, 573, 4, 387, 2, 80, 3, 70, 11, 49, 4, 123, 1, 54, 15, 41, 1, 2, 2, 10,
    3, 49, 4, 2, 2, 7, 1, 61, 3, 36, 5, 1, 8, 62, 1, 12, 2, 52, 9, 10, 4, 2, 1, 95, 3, 2, 1, 1, 2, 6, 1, 2, 1, 157, 1,
    3, 8, 21, 2, 57, 2, 3, 1, 37, 15, 195, 8, 2, 3, 1, 1, 23, 1, 84, 6, 1, 1, 4, 2, 1, 2, 238, 4, 6, 2, 1, 2, 27, 2, 85,
    8, 2, 1, 1, 2, 106, 1, 1, 1, 2, 6, 1, 1, 101, 3, 2, 4, 1, 5, 259, 9, 1, 2, 256, 2, 1, 1, 4, 1, 144, 8, 4, 1, 32, 10,
    40, 6, 2, 4, 8, 1, 9, 6, 2, 3, 46, 13, 1, 2, 406, 14, 1, 1, 82, 22, 2, 7, 1, 2, 1, 2, 122, 21, 1, 1, 72, 2, 3, 1, 1,
    1, 347, 2, 11, 2, 52, 5, 5, 1, 1, 1, 5357, 17, 6, 15, 13978, 5, 59, 7, 1048, 1, 63, 4, 81, 1, 19640, 2, 1, 4775,
    544, 3, 9, 16, 2, 7, 30, 4, 148, 3, 1979, 55, 4, 50, 8, 1, 14, 1, 22, 21, 1360, 43, 100, 1, 160, 7, 375, 1, 61, 4,
    508, 4, 992, 7, 109, 7
};
static const uint16_t WIDE[] = {
    4352, 96, 4538, 2, 13, 2, 190, 4, 3, 1, 2, 1, 521, 2, 21, 2, 50, 12, 43, 1, 19, 1, 13, 1, 8, 2, 17, 2, 5, 2, 8, 1,
    5, 1, 21, 1, 7, 2, 1, 1, 4, 1, 2, 1, 7, 1, 4, 2, 28, 1, 35, 1, 1, 1, 4, 3, 1, 1, 61, 3, 24, 1, 14, 1, 859, 2, 51, 1,
    4, 1, 810, 426, 4, 17, 2, 86, 4, 429, 8, 7024, 64, 22215, 1177, 29, 643, 11172, 8540, 512, 784, 10, 22, 60, 149, 96,
    127, 7, 28665, 4, 12, 17164, 15624, 1, 202, 1, 190, 1, 2, 10, 101, 289, 12, 9, 1, 70, 1, 22, 12, 43, 4, 5, 12, 17,
    3, 1, 3, 71, 1, 1, 1, 187, 2, 63, 13, 4, 1, 24, 18, 1, 26, 2, 13, 1, 86, 85, 48, 70, 6, 1, 3, 3, 2, 11, 11, 2, 7, 9,
    227, 17, 283, 47, 1, 10, 1, 185, 112, 137, 1287, 65535, 0, 65535
};

static bool in_ranges(uint32_t code, const uint16_t *ranges, size_t count) {
    for (uint32_t at = 0; count > 0 && code >= at; ranges += 2, count -= 2) {
        at += ranges[0];
        if (code >= at && code < at + ranges[1]) return true;
        at += ranges[1];
    }
    return false;
}
#define IN(code, ranges) in_ranges(code, ranges, sizeof ranges / sizeof ranges[0])

size_t character(const char *text, size_t size, uint32_t *code) {
    const unsigned char *byte = (const unsigned char *)text;
    static const uint32_t least[] = { 0, 0, 0x80, 0x800, 0x10000 };         /* overlong forms are invalid */
    size_t length = byte[0] < 0x80 ? 1 : byte[0] < 0xC0 ? 0 : byte[0] < 0xE0 ? 2 : byte[0] < 0xF0 ? 3 :
                    byte[0] < 0xF8 ? 4 : 0;
    *code = 0xFFFD;
    if (length == 0 || length > size) return 1;
    uint32_t value = length == 1 ? byte[0] : byte[0] & (0xFFu >> (length + 1));
    for (size_t i = 1; i < length; i++) {
        if ((byte[i] & 0xC0) != 0x80) return 1;
        value = value << 6 | (byte[i] & 0x3F);
    }
    if (value < least[length] || value > 0x10FFFF || (value >= 0xD800 && value < 0xE000)) return 1;
    *code = value;
    return length;
}

int character_width(uint32_t code) {
    if (code < 0x300) return 1;
    if (code >= 0xE0000 && code < 0xF0000) return 0;        /* tags and variation selectors */
    return IN(code, WIDE) ? 2 : IN(code, ZERO) ? 0 : 1;
}

size_t next_character(const char *text, size_t size, size_t at) {
    enum { JOINER = 0x200D };
    uint32_t code, last;
    if (at >= size) return size;
    for (at += character(text + at, size - at, &last); at < size; last = code) {
        size_t length = character(text + at, size - at, &code);
        bool tone = code >= 0x1F3FB && code <= 0x1F3FF;
        if (last == '\n' || code < 0x300 || (last != JOINER && !tone && character_width(code) > 0)) break;
        at += length;
    }
    return at;
}

/* Searches from the beginning of the line, because combined characters can only be recognized in that direction. */
size_t previous_character(const char *text, size_t size, size_t at) {
    size_t begin = at > 0 ? at - 1 : 0, next;
    while (begin > 0 && text[begin - 1] != '\n') begin--;
    while ((next = next_character(text, size, begin)) < at) begin = next;
    return begin;
}
