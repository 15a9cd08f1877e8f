/* golden.h: reads the .golden files of this folder, which tests/golden_model.py writes and describes. */
#ifndef GOLDEN_H
#define GOLDEN_H

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GOLDEN "tests/golden/model/"

/* SV_SLOW in the environment: a slow machine, such as an emulated one, is given less to do. */
static inline int slow(void) { return getenv("SV_SLOW") != NULL; }

/* As many threads as a test tries. Without OpenMP there is one, whatever is asked for. */
#ifdef _OPENMP
#define THREADS(n) (n)
#else
#define THREADS(n) 1
#endif

typedef struct Golden {
    uint32_t type, dims, shape[5];              /* type: 0 float, 1 int32, 2 bytes */
    size_t count;
    union { void *any; float *f; int32_t *i; char *text; } data;    /* with a zero behind */
} Golden;

/* Reads count little-endian numbers of four bytes, of whatever type. */
static inline int golden_words(FILE *f, void *words, size_t count) {
    for (size_t i = 0; i < count; i++) {
        unsigned char b[4];
        if (fread(b, 1, 4, f) != 4) return 0;
        uint32_t word = b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
        memcpy((char *)words + 4 * i, &word, 4);
    }
    return 1;
}

/* golden(file, format, ...): the tensor of this name (made as by printf) in the file; a missing one ends the test
   program with a sentence, for no test can pass without it. The caller frees data.any. In two functions, as tcc reads
   wrong arguments where one with "..." returns a structure (0.9.27). */
#define golden(file, ...) golden_named(file, golden_name((char[128]){ 0 }, __VA_ARGS__))

static inline const char *golden_name(char name[128], const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(name, 128, format, args);
    va_end(args);
    return name;
}

static inline Golden golden_named(const char *file, const char *wanted) {
    char name[128];
    FILE *f = fopen(file, "rb");
    Golden g = { 0 };
    uint32_t length;
    while (f && golden_words(f, &length, 1) && length < sizeof name && fread(name, 1, length, f) == length &&
           golden_words(f, &g.type, 1) && golden_words(f, &g.dims, 1) && g.dims <= 5 &&
           golden_words(f, g.shape, g.dims)) {
        name[length] = 0;
        g.count = 1;
        for (uint32_t i = 0; i < g.dims; i++) g.count *= g.shape[i];
        if (strcmp(name, wanted) != 0) {
            if (fseek(f, (long)(g.count * (g.type == 2 ? 1 : 4)), SEEK_CUR) != 0) break;
            continue;
        }
        g.data.any = calloc(g.count + 1, 4);
        if (g.data.any && (g.type == 2 ? fread(g.data.any, 1, g.count, f) == g.count
                                       : golden_words(f, g.data.any, g.count))) {
            fclose(f);
            return g;
        }
        break;
    }
    fprintf(stderr, "%s: no %s (the tests are run from the repository's root)\n", file, wanted);
    exit(EXIT_FAILURE);
}

/* Number i of the stream `seed`, in [-1, 1): the same as golden_model.py's noise(). */
static inline float noise(uint64_t seed, size_t i) {
    uint64_t z = (seed << 32) + ((uint64_t)i + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    z ^= z >> 31;
    return (float)(z >> 40) / 8388608 - 1;
}

/* count numbers of the stream, times scale; the caller frees them. */
static inline float *noises(uint64_t seed, size_t count, float scale) {
    float *x = malloc((count + 1) * sizeof *x);
    if (!x) exit(EXIT_FAILURE);
    for (size_t i = 0; i < count; i++) x[i] = noise(seed, i) * scale;
    return x;
}

#endif
