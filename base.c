/* base.c: what every other file uses: errors as sentences, memory, threads, a checksum. It calls none of them. */
#include "model.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

int sv_fail(SvError *error, const char *format, ...) {
    char whole[8192];
    va_list args;
    va_start(args, format);
    int size = error ? vsnprintf(whole, sizeof whole, format, args) : 0;
    va_end(args);
    if (!error || size < 0) return -1;
    size_t length = strlen(whole), half = sizeof error->text / 2 - 8;
    if (length < sizeof error->text) memcpy(error->text, whole, length + 1);
    else sprintf(error->text, "%.*s ... %s", (int)half, whole, whole + length - half);     /* an overlong path */
    return -1;
}

void sv_put(SvBytes *t, const char *data, size_t size) {
    if (t->failed) return;
    if (size >= t->room - t->size) {
        size_t room = 2 * t->room + size + 256;
        char *grown = room > t->room && room < SIZE_MAX / 2 ? realloc(t->data, room) : NULL;
        if (!grown) {
            t->failed = true;
            return;
        }
        t->data = grown;
        t->room = room;
    }
    memcpy(t->data + t->size, data, size);
    t->size += size;
    t->data[t->size] = 0;
}

/* Each array starts a multiple of 64 bytes after the first. */
uint64_t sv_sum(int count, const uint64_t *sizes) {
    uint64_t total = 0;
    for (int i = 0; i < count; i++) total += (sizes[i] + 15) / 16 * 16;
    return total;
}

void *sv_floats(int count, const uint64_t *sizes, float **parts) {
    uint64_t total = sv_sum(count, sizes);
    float *block = total <= SIZE_MAX / 2 / sizeof(float) ? sv_zeros((size_t)total * sizeof(float)) : NULL;
    for (int i = 0; i < count && block; i++) parts[i] = block + (size_t)sv_sum(i, sizes);
    return block;
}

bool sv_trial(SvTrial *t, double seconds) {
    if (t->lead == SV_LEAD || t->lead == -SV_LEAD) return t->lead > 0;
    if (t->second) t->lead += t->before <= seconds ? 1 : -1;
    t->before = seconds;
    t->second = !t->second;
    return t->lead == SV_LEAD || (t->lead > -SV_LEAD && !t->second);
}

void sv_emit(const SvEvents *events, const char *module, int layer, const float *data, int dims, const int *shape,
             int axis) {
    if (!events || !events->activation) return;
    char name[96];
    snprintf(name, sizeof name, module, layer);
    SvActivation a = { .module = name, .data = data, .dims = dims, .axis = axis };
    memcpy(a.shape, shape, (size_t)dims * sizeof(int));
    events->activation(events->user, &a);
}

/* ----------------------------------------------------------------------------------------------------- threads */

/* A layer has about twelve barriers of at least 0.2 us each (two threads of a Zen 5). Work of fewer multiply-adds than
   this, about 5 us of reading weights there, is left to the caller's thread. It is one thread or all: a smaller team
   would make OpenMP end threads and start them again. */
#ifndef WORTH_THREADS                                       /* a test build sets 1: always a team */
#define WORTH_THREADS 200000
#endif

int sv_team(int threads, uint64_t work) { return work < WORTH_THREADS ? 1 : threads; }

void sv_team_emit(const SvEvents *events, const char *module, int layer, const float *data, int dims,
                  const int *shape, int axis) {
    if (!events || !events->activation) return;
#pragma omp barrier
#ifdef _OPENMP
    if (omp_get_thread_num() != 0) events = NULL;
#endif
    sv_emit(events, module, layer, data, dims, shape, axis);
#pragma omp barrier
}

int sv_threads(int wanted) {
#ifdef _OPENMP
    return wanted > 0 ? wanted : omp_get_max_threads();
#else
    (void)wanted;
    return 1;
#endif
}

/* ------------------------------------------------------------------------------------------------ CRC-32

   As in zlib: reflected, polynomial 0xedb88320, complemented before and after. Short data are taken four bits at a time
   with the 16 constants. For long data it pays to build the tables that take 16 bytes a step ("slicing by 16"). There
   slice[k][b] is the remainder of the byte b followed by k zero bytes. */
static uint32_t word(const uint8_t *p) {
    return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

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
            uint32_t a = word(p) ^ crc, b = word(p + 4), c = word(p + 8), d = word(p + 12);
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
