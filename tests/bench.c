/* bench.c: the limits of this machine, and the share of them that every phase of an answer reaches.

       bench [options] [MODEL...]            make bench [MODEL=smolvlm2.bin]

   First the limits are measured: how fast memory is read, and how many multiply-adds of int8 and of f32 the arithmetic
   units finish when nothing has to be fetched. Then, for every model, each phase's time is compared with the least work
   it must do:

     vision, prefill   multiply-adds, counted from the configuration (below), against the peak of int8 for weights in
                       Q8 and Q4, of f32 for f32 and bf16
     decode            bytes: all weights of the decoder once and the keys and values so far, against the memory
                       bandwidth measured right before and after, as a shared machine changes within seconds

   It also shows how the cost grows with tiles, with context, and with a video's frames. stdout gets a table in
   Markdown, stderr what is being measured. Pictures and ids are synthetic, because the time does not depend on their
   contents. A time is the median of its repetitions, a limit the best of them. The arithmetic limits are measured once,
   at the start: on a shared machine, shares of them can be wrong in either direction. */
#define _DEFAULT_SOURCE
#include "model.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#elif defined(__GNUC__)
#pragma GCC diagnostic ignored "-Wunknown-pragmas"
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <sys/resource.h>
#endif
#ifdef __APPLE__
#include <sys/sysctl.h>
#endif
#if defined(__GNUC__) && defined(__x86_64__)
#define X86
#include <immintrin.h>
#elif defined(__GNUC__) && defined(__aarch64__) && !defined(__AARCH64EB__)
#define ARM
#include <arm_neon.h>
#ifdef __linux__
#include <sys/auxv.h>
#endif
#endif

static const char HELP[] =
    "bench: what this machine can do, and what share of it a model reaches in every phase.\n"
    "\n"
    "  bench [options] [MODEL...]            without a model: only the machine\n"
    "\n"
    "      --threads N    measure with N threads too, besides 1 and all\n"
    "      --image FILE   the picture that is read and cut into tiles (default: one made up)\n"
    "      --quick        fewer tiles, less context, fewer repetitions\n"
    "  -h, --help\n";

enum { MOST_COUNTS = 3, MOST_CONTEXTS = 3, MOST_TILES = 17, MOST_TIMES = 64 };

/* The limits measured with this number of threads: bytes and multiply-adds a second. */
typedef struct Limits { int threads; double read, int8, f32; } Limits;

typedef struct Bench {
    const char *picture;
    bool quick;
    int n_counts, all;
    Limits limits[MOST_COUNTS];                 /* by ascending number of threads; limits[all] has as many as cores */
} Bench;

#if defined(__GNUC__)
#define PRINTF __attribute__((format(printf, 1, 2)))
#else
#define PRINTF
#endif

/* Prints one sentence on stderr and returns the exit code for an invalid input. */
static PRINTF int complain(const char *format, ...) {
    va_list args;
    va_start(args, format);
    fputs("bench: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    return 1;
}

/* Prints what is being measured, one line on stderr. */
static PRINTF void note(const char *format, ...) {
    va_list args;
    va_start(args, format);
    fputs("... ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
}

/* ------------------------------------------------------------------------------------------------------------ times */

typedef struct Times { double at[MOST_TIMES]; int n; } Times;

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void add_time(Times *t, double seconds) {
    if (t->n < MOST_TIMES) t->at[t->n++] = seconds;
}

/* The median: the middle one, or the mean of the two in the middle; 0 of none. Sorts them. */
static double median(Times *t) {
    if (t->n == 0) return 0;
    qsort(t->at, (size_t)t->n, sizeof t->at[0], compare);
    return (t->at[(t->n - 1) / 2] + t->at[t->n / 2]) / 2;
}

/* Whether to measure again after `times` measurements since `start`: up to three if that takes no longer than
   `patience` seconds, more if they are quick. */
static bool again(int times, double start, double patience) {
    double gone = sv_seconds() - start;
    return times == 0 || (times < 3 && gone * (times + 1) / times < patience) || (times < 15 && gone < patience / 20);
}

/* Pseudo-random numbers, the same every time. */
static uint32_t random32(uint64_t *state) {
    *state = *state * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*state >> 33);
}

/* -------------------------------------------------------------------------------------------- the machine: arithmetic

   A loop over accumulators that stay in registers, enough of them to hide the latency, with the instructions that
   kernels/ multiplies with. KEEP makes the compiler believe that a register has changed, so that it precomputes
   nothing. */
typedef struct Peak {
    const char *instruction;
    double multiply_adds;                       /* in a round */
    double (*run)(long rounds);
} Peak;

#define EIGHT(DO) DO(0) DO(1) DO(2) DO(3) DO(4) DO(5) DO(6) DO(7)
#define TWELVE(DO) EIGHT(DO) DO(8) DO(9) DO(10) DO(11)
#define TWENTY_FOUR(DO) TWELVE(DO) DO(12) DO(13) DO(14) DO(15) DO(16) DO(17) DO(18) DO(19) DO(20) DO(21) DO(22) DO(23)

#ifdef X86
#define KEEP(x) __asm__ volatile("" : "+x"(x))
#define KEEP_WIDE(x) __asm__ volatile("" : "+v"(x))

__attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni"))) static double run_vnni(long rounds) {
#define START(i) __m512i s##i = _mm512_set1_epi32(i);
#define STEP(i) s##i = _mm512_dpbusd_epi32(s##i, w, x); KEEP_WIDE(s##i);
#define SUM(i) total = _mm512_add_epi32(total, s##i);
    __m512i w = _mm512_set1_epi8(3), x = _mm512_set1_epi8(5), total = _mm512_setzero_si512();
    TWELVE(START)
    for (; rounds > 0; rounds--) { TWELVE(STEP) }
    TWELVE(SUM)
    return _mm_cvtsi128_si32(_mm512_castsi512_si128(total));
#undef START
#undef STEP
#undef SUM
}

__attribute__((target("avx512f"))) static double run_fma512(long rounds) {
#define START(i) __m512 s##i = _mm512_set1_ps(i);
#define STEP(i) s##i = _mm512_fmadd_ps(w, x, s##i); KEEP_WIDE(s##i);
#define SUM(i) total = _mm512_add_ps(total, s##i);
    __m512 w = _mm512_set1_ps(3), x = _mm512_set1_ps(5), total = _mm512_setzero_ps();
    TWELVE(START)
    for (; rounds > 0; rounds--) { TWELVE(STEP) }
    TWELVE(SUM)
    return (double)_mm_cvtss_f32(_mm512_castps512_ps128(total));
#undef START
#undef STEP
#undef SUM
}

/* The instructions of rows16. Those of a panel (vpmovsxbw, vpmaddwd of int16, vpaddd) have twice the additions and
   reach about two thirds of it. */
__attribute__((target("avx2"))) static double run_maddubs(long rounds) {
#define START(i) __m256i s##i = _mm256_set1_epi32(i);
#define STEP(i) KEEP(w); s##i = _mm256_add_epi32(s##i, _mm256_madd_epi16(_mm256_maddubs_epi16(w, x), ones));
#define SUM(i) total = _mm256_add_epi32(total, s##i);
    __m256i w = _mm256_set1_epi8(3), x = _mm256_set1_epi8(5), ones = _mm256_set1_epi16(1);
    __m256i total = _mm256_setzero_si256();
    EIGHT(START)
    for (; rounds > 0; rounds--) { EIGHT(STEP) }
    EIGHT(SUM)
    return _mm_cvtsi128_si32(_mm256_castsi256_si128(total));
#undef START
#undef STEP
#undef SUM
}

__attribute__((target("avx2,fma"))) static double run_fma(long rounds) {
#define START(i) __m256 s##i = _mm256_set1_ps(i);
#define STEP(i) s##i = _mm256_fmadd_ps(w, x, s##i); KEEP(s##i);
#define SUM(i) total = _mm256_add_ps(total, s##i);
    __m256 w = _mm256_set1_ps(3), x = _mm256_set1_ps(5), total = _mm256_setzero_ps();
    TWELVE(START)
    for (; rounds > 0; rounds--) { TWELVE(STEP) }
    TWELVE(SUM)
    return (double)_mm_cvtss_f32(_mm256_castps256_ps128(total));
#undef START
#undef STEP
#undef SUM
}
#endif

#ifdef ARM
/* sdot v0 .. v23, v24, v25 by its encoding, because an assembler may refuse the name. The processor is checked
   before. */
static double run_sdot(long rounds) {
#define STEP(i) ".inst 0x4e999700 + " #i "\n\t"
    for (; rounds > 0; rounds--)
        __asm__ volatile(TWENTY_FOUR(STEP) : : : "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7", "v8", "v9", "v10",
                         "v11", "v12", "v13", "v14", "v15", "v16", "v17", "v18", "v19", "v20", "v21", "v22", "v23",
                         "v24", "v25");
    return 0;
#undef STEP
}

static double run_smlal(long rounds) {
#define START(i) int32x4_t s##i = vdupq_n_s32(i);
#define SUM(i) total = vaddq_s32(total, s##i);
#define STEP(i) __asm__ volatile("smlal %0.4s, %1.4h, %2.4h" : "+w"(s##i) : "w"(w), "w"(x));
    int16x8_t w = vdupq_n_s16(3), x = vdupq_n_s16(5);
    int32x4_t total = vdupq_n_s32(0);
    TWENTY_FOUR(START)
    for (; rounds > 0; rounds--) { TWENTY_FOUR(STEP) }
    TWENTY_FOUR(SUM)
    return vgetq_lane_s32(total, 0);
#undef START
#undef STEP
#undef SUM
}

static double run_fmla(long rounds) {
#define START(i) float32x4_t s##i = vdupq_n_f32(i);
#define STEP(i) __asm__ volatile("fmla %0.4s, %1.4s, %2.4s" : "+w"(s##i) : "w"(w), "w"(x));
#define SUM(i) total = vaddq_f32(total, s##i);
    float32x4_t w = vdupq_n_f32(3), x = vdupq_n_f32(5), total = vdupq_n_f32(0);
    TWENTY_FOUR(START)
    for (; rounds > 0; rounds--) { TWENTY_FOUR(STEP) }
    TWENTY_FOUR(SUM)
    return (double)vgetq_lane_f32(total, 0);
#undef START
#undef STEP
#undef SUM
}

/* Whether the processor has sdot. */
static bool has_dotprod(void) {
#if defined(__linux__)
    return (getauxval(AT_HWCAP) >> 20 & 1) != 0;
#else
    return true;
#endif
}
#endif

#ifndef ARM
/* Plain C, for a machine without any of the above; data in L1. */
enum { PLAIN = 1024 };

static double run_plain_int8(long rounds) {
    static int8_t x[PLAIN], w[PLAIN];
    const int8_t *volatile from_x = x, *volatile from_w = w;    /* volatile: loaded every time */
    int32_t s = 0;
    for (; rounds > 0; rounds--) {
        const int8_t *a = from_x, *b = from_w;
        for (int i = 0; i < PLAIN; i++) s += a[i] * b[i];
    }
    return s;
}

static double run_plain_f32(long rounds) {
    static float x[PLAIN], w[PLAIN];
    const float *volatile from_x = x, *volatile from_w = w;
    float s[16] = { 0 };
    for (; rounds > 0; rounds--) {
        const float *a = from_x, *b = from_w;
        for (int i = 0; i < PLAIN; i += 16)
            for (int l = 0; l < 16; l++) s[l] += a[i + l] * b[i + l];
    }
    for (int l = 1; l < 16; l++) s[0] += s[l];
    return (double)s[0];
}
#endif

/* The fastest of them that this machine has. */
static Peak int8_peak(void) {
#ifdef X86
    if (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512vl")) return (Peak){ "vpdpbusd, 512 bits", 12 * 64, run_vnni };
    if (__builtin_cpu_supports("avx2")) return (Peak){ "vpmaddubsw, 256 bits", 8 * 32, run_maddubs };
#endif
#ifdef ARM
    return has_dotprod() ? (Peak){ "sdot", 24 * 16, run_sdot } : (Peak){ "smlal", 24 * 4, run_smlal };
#else
    return (Peak){ "plain C", PLAIN, run_plain_int8 };
#endif
}

static Peak f32_peak(void) {
#ifdef X86
    if (__builtin_cpu_supports("avx512f")) return (Peak){ "vfmadd, 512 bits", 12 * 16, run_fma512 };
    if (__builtin_cpu_supports("fma") && __builtin_cpu_supports("avx2"))
        return (Peak){ "vfmadd, 256 bits", 12 * 8, run_fma };
#endif
#ifdef ARM
    return (Peak){ "fmla", 24 * 4, run_fmla };
#else
    return (Peak){ "plain C", PLAIN, run_plain_f32 };
#endif
}

static volatile double sink;                    /* takes results that are not used otherwise */

static double run_all(const Peak *peak, long rounds, int threads) {
    double total = 0, start = sv_seconds();
    (void)threads;
#pragma omp parallel num_threads(threads) reduction(+ : total)
    total += peak->run(rounds);
    sink = total;
    return sv_seconds() - start;
}

/* Multiply-adds a second: the best of several short runs. */
static double measure_peak(const Peak *peak, int threads, bool quick) {
    long rounds = 1000;
    double best = 0;
    while (run_all(peak, rounds, 1) < 0.02 && rounds < 1L << 29) rounds *= 2;
    for (int i = 0; i < (quick ? 10 : 20); i++) {
        double rate = peak->multiply_adds * (double)rounds * threads / run_all(peak, rounds, threads);
        if (rate > best) best = rate;
    }
    return best;
}

/* ------------------------------------------------------------------------------------------------ the machine: memory

   All sums are used, so that no read can be optimized away. Four streams are read side by side: hardware prefetchers
   follow several streams, and one stream alone does not saturate memory. Loads have the widest registers there are, as
   a core has only so many in flight. `from` is aligned to a cache line; n is a multiple of 32. */
#define READ_ALL(name, Wide)                                                                                           \
    static uint64_t name(const uint64_t *from, size_t n) {                                                             \
        enum { WIDE = sizeof(Wide) / 8, SUMS = 32 / WIDE };                                                            \
        Wide s[SUMS] = { { 0 } }, total = { 0 };                                                                       \
        uint64_t each[WIDE];                                                                                           \
        for (size_t i = 0; i < n / 4; i += 8)                                                                          \
            for (size_t l = 0; l < SUMS; l++)                                                                          \
                s[l] += *(const Wide *)(from + l * WIDE / 8 * (n / 4) + i + l * WIDE % 8);                             \
        for (size_t l = 0; l < SUMS; l++) total += s[l];                                                               \
        memcpy(each, &total, sizeof each);                                                                             \
        for (size_t l = 1; l < WIDE; l++) each[0] += each[l];                                                          \
        return each[0];                                                                                                \
    }

#ifdef __GNUC__
typedef uint64_t Two __attribute__((vector_size(16), aligned(8), may_alias));
#else
typedef uint64_t Two;
#endif
READ_ALL(read_128, Two)
#ifdef X86
typedef uint64_t Four __attribute__((vector_size(32), aligned(8), may_alias));
typedef uint64_t Eight __attribute__((vector_size(64), aligned(8), may_alias));
__attribute__((target("avx2"))) READ_ALL(read_256, Four)
__attribute__((target("avx512f"))) READ_ALL(read_512, Eight)
#endif

static uint64_t read_all(const uint64_t *from, size_t n) {
#ifdef X86
    if (__builtin_cpu_supports("avx512f")) return read_512(from, n);
    if (__builtin_cpu_supports("avx2")) return read_256(from, n);
#endif
    return read_128(from, n);
}

/* Bytes a second that `threads` threads together read from a buffer of n numbers: the best of `times` runs. */
static double measure_read(const uint64_t *buffer, size_t n, int threads, int times) {
    double best = 0;
    size_t part = n / (size_t)threads / 32 * 32;
    for (int i = 0; i < times; i++) {
        uint64_t total = 0;
        double start = sv_seconds();
#pragma omp parallel for num_threads(threads) reduction(+ : total)
        for (int t = 0; t < threads; t++) total += read_all(buffer + (size_t)t * part, part);
        sink = (double)total;
        double rate = (double)(part * (size_t)threads * 8) / (sv_seconds() - start);
        if (rate > best) best = rate;
    }
    return best;
}

/* Bytes of the last-level cache, 0 if unknown. */
static size_t last_cache(void) {
    long kilobytes = 0;
    FILE *f = fopen("/sys/devices/system/cpu/cpu0/cache/index3/size", "r");
    if (!f) return 0;
    if (fscanf(f, "%ldK", &kilobytes) != 1 || kilobytes < 0) kilobytes = 0;
    fclose(f);
    return (size_t)kilobytes << 10;
}

/* The processor's name. */
static void processor(char name[128]) {
    snprintf(name, 128, "a processor without a name");
#ifdef __APPLE__
    size_t size = 128;
    sysctlbyname("machdep.cpu.brand_string", name, &size, NULL, 0);
#endif
    char line[256];
    FILE *f = fopen("/proc/cpuinfo", "r");
    if (!f) return;
    while (fgets(line, sizeof line, f)) {
        char *colon = strchr(line, ':');
        if (!colon || (strncmp(line, "model name", 10) != 0 && strncmp(line, "cpu model", 9) != 0)) continue;
        colon += 1 + strspn(colon + 1, " \t");
        colon[strcspn(colon, "\n")] = 0;
        snprintf(name, 128, "%.120s", colon);
        break;
    }
    fclose(f);
}

static int measure_machine(Bench *b) {
    size_t bytes = (size_t)256 << 20, most = (size_t)1 << 30;
    if (4 * last_cache() > bytes) bytes = 4 * last_cache() < most ? 4 * last_cache() : most;
    int64_t n = (int64_t)(bytes / 8);
    uint64_t *room = malloc(bytes + 64);
    if (!room) return complain("out of memory for the %zu MB that measure memory", bytes >> 20);
    uint64_t *buffer = room + (64 - (uintptr_t)room % 64) / 8;                      /* aligned to a cache line */
#pragma omp parallel for
    for (int64_t i = 0; i < n; i++) buffer[i] = (uint64_t)i;

    Peak int8 = int8_peak(), f32 = f32_peak();
    for (int i = 0; i < b->n_counts; i++) {
        Limits *l = &b->limits[i];
        note("the machine, %d thread%s", l->threads, l->threads == 1 ? "" : "s");
        l->read = measure_read(buffer, (size_t)n, l->threads, b->quick ? 10 : 30);
        l->int8 = measure_peak(&int8, l->threads, b->quick);
        l->f32 = measure_peak(&f32, l->threads, b->quick);
    }
    free(room);

    char name[128];
    processor(name);
    printf("## %s\n\nKernels: %s; %d core%s. A G is 10^9.\n\n| this machine can |", name, sv_kernels(0)->name,
           b->limits[b->all].threads, b->limits[b->all].threads == 1 ? "" : "s");
    for (int i = 0; i < b->n_counts; i++)
        printf(" %d thread%s |", b->limits[i].threads, b->limits[i].threads == 1 ? "" : "s");
    printf("\n|---|");
    for (int i = 0; i < b->n_counts; i++) printf("--:|");
    printf("\n| read memory (%zu MB) |", bytes >> 20);
    for (int i = 0; i < b->n_counts; i++) printf(" %.1f GB/s |", b->limits[i].read / 1e9);
    printf("\n| multiply and add int8 (%s) |", int8.instruction);
    for (int i = 0; i < b->n_counts; i++) printf(" %.1f G/s |", b->limits[i].int8 / 1e9);
    printf("\n| multiply and add f32 (%s) |", f32.instruction);
    for (int i = 0; i < b->n_counts; i++) printf(" %.1f G/s |", b->limits[i].f32 / 1e9);
    printf("\n");
    return 0;
}

/* ----------------------------------------------------------------------------------------------------- the least work

   Multiply-adds of a tile: n patches of width w, MLP m, L layers:
     n w 3 patch^2                   patch_embedding
     L (4 n w^2                      q, k, v, out_proj
        + 2 n n w                    attention: queries by keys, weights by values
        + 2 n w m)                   fc1, fc2
     n w hidden_size                 the connector: n / s^2 rows of w s^2 numbers */
static double tile_work(const SvConfig *c) {
    double side = c->image_size / c->patch_size, n = side * side, w = c->vision_hidden_size;
    double pixels = 3.0 * c->patch_size * c->patch_size, m = c->vision_intermediate_size;
    return n * w * pixels + c->vision_num_hidden_layers * (4 * n * w * w + 2 * n * n * w + 2 * n * w * m) +
           n * w * c->hidden_size;
}

/* Multiply-adds of `count` tokens that come after `before`, of width d, MLP m, q and k heads of `dim`, L layers:
     L (count (2 d q dim             q_proj, o_proj
               + 2 d k dim           k_proj, v_proj
               + 3 d m)              gate_proj, up_proj, down_proj
        + 2 q dim seen)              attention; seen = the sum of before + 1, ..., before + count: it is causal
     d vocab_size                    lm_head, of the last one */
static double text_work(const SvConfig *c, double before, double count) {
    double d = c->hidden_size, q = (double)c->num_attention_heads * c->head_dim, m = c->intermediate_size;
    double k = (double)c->num_key_value_heads * c->head_dim, seen = count * before + count * (count + 1) / 2;
    return c->num_hidden_layers * (count * (2 * d * q + 2 * d * k + 3 * d * m) + 2 * q * seen) + d * c->vocab_size;
}

static double tensor_bytes(const SvTensor *t) { return (double)sv_tensor_size(t->format, t->group, t->rows, t->cols); }

/* Bytes of keys and values of one position: the numbers and, with int8, one scale a head. */
static double position_bytes(const SvModel *m) {
    const SvConfig *c = &m->config;
    double heads = c->num_key_value_heads, dim = c->head_dim;
    return 2 * c->num_hidden_layers * heads * (m->text.layers[0].k_proj.group ? dim + 4 : 4 * dim);
}

/* Bytes that a step of decoding reads after `context` positions: every tensor of the decoder once (of the embeddings
   one row), and the keys and values of these positions. */
static double step_bytes(const SvModel *m, double context) {
    double bytes = tensor_bytes(&m->text.norm) + tensor_bytes(&m->text.lm_head) + context * position_bytes(m);
    for (uint32_t l = 0; l < m->config.num_hidden_layers; l++) {
#define ADD(field, kind, name, rows, cols) bytes += tensor_bytes(&m->text.layers[l].field);
        SV_TEXT_LAYER_TENSORS(ADD)
#undef ADD
    }
    return bytes;
}

/* Whether a model fits in the caches, at least in part. */
static bool is_small(const SvModel *m) {
    size_t least = (size_t)64 << 20, caches = 4 * last_cache();
    return m->file_size < (caches > least ? caches : least);
}

/* ----------------------------------------------------------------------------------------------------------- memory */

/* Resets the peak, where the system allows it. */
static bool reset_peak(void) {
    FILE *f = fopen("/proc/self/clear_refs", "w");
    if (!f) return false;
    bool ok = fputs("5", f) >= 0;
    return fclose(f) == 0 && ok;
}

/* Peak memory in bytes, including resident pages of mapped files; 0 if unknown. */
static double peak_memory(void) {
    char line[256];
    double kilobytes = 0;
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f))
        if (strncmp(line, "VmHWM:", 6) == 0) kilobytes = strtod(line + 6, NULL);
    if (f) fclose(f);
    if (kilobytes > 0) return kilobytes * 1024;
#if defined(__unix__) || defined(__APPLE__)
    struct rusage usage;
    if (getrusage(RUSAGE_SELF, &usage) == 0) {
#ifdef __APPLE__
        return (double)usage.ru_maxrss;
#else
        return (double)usage.ru_maxrss * 1024;
#endif
    }
#endif
    return 0;
}

/* ----------------------------------------------------------------------------------------------------- measurements */

/* A model's times, those of the phases for each number of threads. */
typedef struct Run {
    const Bench *bench;
    const SvModel *model;
    const char *name;
    int contexts[MOST_CONTEXTS], n_contexts, steps;
    Times load, touch, image;
    int width, height, picture_tiles;
    Times tile[MOST_COUNTS], prefill[MOST_COUNTS][MOST_CONTEXTS], decode[MOST_COUNTS][MOST_CONTEXTS];
    Times read[MOST_COUNTS][MOST_CONTEXTS];     /* memory bandwidth in bytes a second, beside each decode */
    int decoders[MOST_COUNTS], ahead[MOST_COUNTS];          /* how many; of which so many prefetch weights */
    int tiles[4], n_tiles;
    Times growth[4];
} Run;

/* A synthetic picture: 1600 x 1200 pixels, smooth with a little noise. */
static int made_up(SvImage *image) {
    *image = (SvImage){ .width = 1600, .height = 1200, .rgb = malloc((size_t)1600 * 1200 * 3) };
    if (!image->rgb) return complain("out of memory for a picture");
    uint64_t state = 1;
    for (size_t i = 0; i < (size_t)1600 * 1200 * 3; i++)
        image->rgb[i] = (uint8_t)(i / 3 % 1600 / 10 + i / 4800 / 20 + random32(&state) % 32);
    return 0;
}

/* Reads the picture (the synthetic one is there already) and cuts it into tiles. */
static int measure_image(Run *r) {
    const SvConfig *c = &r->model->config;
    SvError error;
    SvImage image = { 0 };
    if (c->vision_num_hidden_layers == 0) return 0;
    note("%s: a picture", r->name);
    for (double start = sv_seconds(); again(r->image.n, start, 2);) {
        SvTiles tiles;
        if (!r->bench->picture && !image.rgb && made_up(&image) != 0) return 1;
        double t = sv_seconds();
        if (r->bench->picture && sv_image_read(r->bench->picture, &image, &error) != 0)
            return complain("%s", error.text);
        int result = sv_image_split(&image, (int)c->longest_edge, (int)c->image_size, true, &tiles, &error);
        add_time(&r->image, sv_seconds() - t);
        r->width = image.width, r->height = image.height;
        if (r->bench->picture || result != 0) sv_image_free(&image);
        if (result != 0) return complain("%s", error.text);
        r->picture_tiles = tiles.count;
        sv_tiles_free(&tiles);
    }
    sv_image_free(&image);
    return 0;
}

/* Times of the vision tower for `count` tiles. */
static int measure_tiles(const Run *r, int count, int threads, Times *times) {
    const SvConfig *c = &r->model->config;
    size_t bytes = 3 * (size_t)c->image_size * c->image_size * (size_t)count;
    uint8_t *tiles = malloc(bytes);
    float *features = malloc((size_t)count * (size_t)sv_image_tokens(c) * c->hidden_size * sizeof *features);
    SvError error;
    uint64_t state = 2;
    int result = 0;
    if (!tiles || !features) result = complain("out of memory for %d tiles", count);
    for (size_t i = 0; result == 0 && i < bytes; i++) tiles[i] = (uint8_t)random32(&state);
    for (double start = sv_seconds(); result == 0 && again(times->n, start, r->bench->quick ? 4 : 8);) {
        double t = sv_seconds();
        if (sv_vision(r->model, tiles, count, threads, features, NULL, &error) != 0)
            result = complain("%s", error.text);
        add_time(times, sv_seconds() - t);
    }
    free(tiles);
    free(features);
    return result;
}

/* The decoder's input: x and ids for the longest stretch; and room for the logits. */
typedef struct Feed { int32_t *ids; float *x, *logits; } Feed;

static int forward(const Run *r, SvDecoder *d, const Feed *feed, int count) {
    SvError error;
    sv_embed(r->model, feed->ids, (size_t)count, feed->x);
    if (sv_decoder_forward(d, feed->x, (size_t)count, feed->logits, NULL, &error) != 0)
        return complain("%s", error.text);
    return 0;
}

/* The memory bandwidth now, in bytes a second, measured on the model's file. A small file would come from the caches:
   then the limit measured at the start is used. */
static double read_now(const Run *r, const Limits *limits) {
    size_t bytes = r->model->file_size, most = (size_t)512 << 20;
    if (is_small(r->model)) return limits->read;
    return measure_read((const uint64_t *)(const void *)r->model->file, (bytes < most ? bytes : most) / 8,
                        limits->threads, 5);
}

/* The median of several steps of decoding with thread count number i and context number k, and the best of the memory
   bandwidths measured right before and after them. */
static int measure_steps(Run *r, int i, int k, SvDecoder *d, const Feed *feed) {
    const Limits *limits = &r->bench->limits[i];
    double before = read_now(r, limits), after;
    Times steps = { .n = 0 };
    for (int step = 0; step < r->steps; step++) {
        double t = sv_seconds();
        if (forward(r, d, feed, 1) != 0) return 1;
        add_time(&steps, sv_seconds() - t);
    }
    after = read_now(r, limits);
    add_time(&r->decode[i][k], median(&steps));
    add_time(&r->read[i][k], after > before ? after : before);
    return 0;
}

/* A decoder that has found out whether to prefetch weights, unless after 100 steps neither way leads. */
static int new_decoder(Run *r, int i, int capacity, const Feed *feed, SvDecoder **d) {
    SvError error;
    if (sv_decoder_new(r->model, capacity, r->bench->limits[i].threads, d, &error) != 0)
        return complain("%s", error.text);
    const SvTrial *trial = sv_decoder_trial(*d);
    for (int step = 0; step < 100 && trial->lead > -SV_LEAD && trial->lead < SV_LEAD; step++) {
        if (forward(r, *d, feed, 1) != 0) return 1;
        sv_decoder_rewind(*d, 0);
    }
    r->decoders[i]++;
    r->ahead[i] += trial->lead > 0;
    return 0;
}

/* One pass over all contexts, or to the end of the first prompt: a prompt of contexts[1] tokens, some steps, the next
   tokens up to contexts[2], some steps. Steps without context have a decoder of their own. */
static int measure_text(Run *r, int i, const Feed *feed, bool all) {
    int last = r->n_contexts - 1, at = 0, result = 0;
    SvDecoder *d;
    if (all) {
        if (new_decoder(r, i, r->steps, feed, &d) != 0) return 1;
        result = measure_steps(r, i, 0, d, feed);
        sv_decoder_free(d);
    }
    if (last == 0 || result != 0) return result;
    if (new_decoder(r, i, r->contexts[last] + r->steps, feed, &d) != 0) return 1;
    for (int c = 1; result == 0 && c <= (all ? last : 1); c++) {
        double t = sv_seconds();
        result = forward(r, d, feed, r->contexts[c] - at);
        add_time(&r->prefill[i][c], sv_seconds() - t);
        if (all && result == 0) result = measure_steps(r, i, c, d, feed);
        at = r->contexts[c] + r->steps;
    }
    sv_decoder_free(d);
    return result;
}

static int measure_texts(Run *r) {
    const SvConfig *c = &r->model->config;
    size_t longest = (size_t)r->contexts[r->n_contexts - 1] + 1;
    Feed feed = { malloc(longest * sizeof(int32_t)), malloc(longest * c->hidden_size * sizeof(float)),
                  malloc(c->vocab_size * sizeof(float)) };
    uint64_t state = 3;
    int result = 0;
    if (!feed.ids || !feed.x || !feed.logits) result = complain("out of memory for %zu tokens", longest);
    for (size_t i = 0; result == 0 && i < longest; i++) feed.ids[i] = (int32_t)(random32(&state) % c->vocab_size);
    for (int i = 0; result == 0 && i < r->bench->n_counts; i++) {
        int threads = r->bench->limits[i].threads;
        note("%s: prefill and decode, %d thread%s", r->name, threads, threads == 1 ? "" : "s");
        int times = 0;
        for (double start = sv_seconds(); result == 0; times++) {
            bool all = times == 0 || sv_seconds() - start < 1;
            if (!all && r->prefill[i][1].n == 0) break;
            /* after a first pass, the first prompt twice more if it does not take too long */
            if (times > 0 && (times >= (all ? 15 : 3) || r->bench->quick)) break;
            if (times > 0 && !all && r->prefill[i][1].at[0] * (3 - times) > 20) break;
            result = measure_text(r, i, &feed, all);
        }
    }
    free(feed.ids);
    free(feed.x);
    free(feed.logits);
    return result;
}

/* Opens the model several times and keeps it open the last time; then reads a byte of every page of it. */
static int measure_load(Run *r, const char *path, SvModel **model) {
    SvError error;
    note("%s: load", r->name);
    for (double start = sv_seconds(); again(r->load.n, start, 2);) {
        if (*model) sv_close(*model);
        double t = sv_seconds();
        if (sv_open(path, model, &error) != 0) return *model = NULL, complain("%s", error.text);
        add_time(&r->load, sv_seconds() - t);
    }
    double t = sv_seconds();
    uint64_t total = 0;
    for (size_t i = 0; i < (*model)->file_size; i += 4096) total += (*model)->file[i];
    sink = (double)total;
    add_time(&r->touch, sv_seconds() - t);
    r->model = *model;
    return 0;
}

/* --------------------------------------------------------------------------------------------------------- printing */

/* Formats a time, with about three digits. */
static const char *clock_time(double seconds, char text[32]) {
    if (seconds >= 99.5) snprintf(text, 32, "%.0f s", seconds);
    else if (seconds >= 0.995) snprintf(text, 32, "%.*f s", seconds < 9.95 ? 2 : 1, seconds);
    else if (seconds >= 0.995e-3) snprintf(text, 32, "%.*f ms", seconds < 0.0995 ? 1 : 0, 1e3 * seconds);
    else snprintf(text, 32, "%.0f us", 1e6 * seconds);
    return text;
}

/* Formats a number of tokens a second, likewise. */
static const char *rate(double tokens, double seconds, char text[32]) {
    double r = seconds > 0 ? tokens / seconds : 0;
    snprintf(text, 32, "%.*f", r < 9.95 ? 2 : r < 99.5 ? 1 : 0, r);
    return text;
}

/* Formats a count of multiply-adds or bytes, likewise. */
static const char *amount(double n, char text[32]) {
    double scaled = n < 1e9 ? n / 1e6 : n / 1e9;
    snprintf(text, 32, "%.*f %s", scaled < 9.95 ? 2 : scaled < 99.5 ? 1 : 0, scaled, n < 1e9 ? "M" : "G");
    return text;
}

/* The cells of one number of threads: time, tokens a second, share of the limit. */
static void cells(double seconds, double tokens, double work, double limit) {
    char text[32];
    if (seconds <= 0) {
        printf(" | | |");
        return;
    }
    printf(" %s |", clock_time(seconds, text));
    printf(tokens > 0 ? " %s |" : " |", rate(tokens, seconds, text));
    if (work > 0) printf(" %.0f %% |", 100 * work / seconds / limit);
    else printf(" |");
}

static void print_phases(Run *r) {
    const SvModel *m = r->model;
    const SvConfig *c = &m->config;
    const Limits *l = r->bench->limits;
    int n = r->bench->n_counts;
    char text[32];
    bool int8 = m->text.layers[0].q_proj.group != 0;

    printf("\n| phase | least work |");
    for (int i = 0; i < n; i++)
        printf(" %d thread%s | tokens/s | of limit |", l[i].threads, l[i].threads == 1 ? "" : "s");
    printf("\n|---|---|");
    for (int i = 0; i < n; i++) printf("--:|--:|--:|");
    printf("\n| load | |");
    cells(median(&r->load), 0, 0, 0);
    for (int i = 1; i < n; i++) cells(0, 0, 0, 0);
    printf("\n| the file's pages, first touched | %sB |", amount((double)m->file_size, text));
    cells(median(&r->touch), 0, 0, 0);
    for (int i = 1; i < n; i++) cells(0, 0, 0, 0);
    if (c->vision_num_hidden_layers) {
        bool vision8 = m->vision.layers[0].q_proj_weight.group != 0;
        printf("\n| image: %s %d x %d, to %d tile%s | |", r->bench->picture ? "read" : "cut", r->width, r->height,
               r->picture_tiles, r->picture_tiles == 1 ? "" : "s");
        cells(median(&r->image), 0, 0, 0);
        for (int i = 1; i < n; i++) cells(0, 0, 0, 0);
        printf("\n| vision, a tile | %s multiply-adds, %s |", amount(tile_work(c), text), vision8 ? "int8" : "f32");
        for (int i = 0; i < n; i++)
            cells(median(&r->tile[i]), sv_image_tokens(c), tile_work(c), vision8 ? l[i].int8 : l[i].f32);
    }
    for (int k = 1, at = 0; k < r->n_contexts; at = r->contexts[k++] + r->steps) {
        double count = r->contexts[k] - at, work = text_work(c, at, count);
        printf("\n| prefill, tokens %d to %d | %s multiply-adds, %s |", at + 1, r->contexts[k], amount(work, text),
               int8 ? "int8" : "f32");
        for (int i = 0; i < n; i++) cells(median(&r->prefill[i][k]), count, work, int8 ? l[i].int8 : l[i].f32);
    }
    for (int k = 0; k < r->n_contexts; k++) {
        double bytes = step_bytes(m, r->contexts[k] + (r->steps + 1) / 2.0);
        printf("\n| decode at %d | %sB read |", r->contexts[k], amount(bytes, text));
        for (int i = 0; i < n; i++) cells(median(&r->decode[i][k]), 1, bytes, median(&r->read[i][k]));
    }
    printf("\n\n%s\n", is_small(m) ? "So small a model stays in the caches: decode's share of the memory says little."
                                   : "Decode's limit is what memory was read with right before and after its steps.");
    printf("Decoders that found out by time to prefetch weights:");
    for (int i = 0; i < n; i++)
        printf("%s %d of %d with %d thread%s", i ? "," : "", r->ahead[i], r->decoders[i], l[i].threads,
               l[i].threads == 1 ? "" : "s");
    printf(".\n");
}

/* Seconds that a prompt of n tokens takes with all threads: a n + b n^2 through the measured points. */
static double prompt_seconds(Run *r, double n) {
    int i = r->bench->all;
    if (r->n_contexts < 2) return 0;
    double n1 = r->contexts[1], t1 = median(&r->prefill[i][1]);
    if (r->n_contexts < 3) return t1 * n / n1;
    double n2 = r->contexts[2], between = n2 - n1 - r->steps;
    double t2 = t1 + median(&r->prefill[i][2]) * (n2 - n1) / between;
    double b = (t2 / n2 - t1 / n1) / (n2 - n1), a = t1 / n1 - b * n1;
    return a * n + b * n * n;
}

static void print_growth(Run *r) {
    const SvConfig *c = &r->model->config;
    int all = r->bench->all, tokens = sv_image_tokens(c);
    char a[32], b[32], d[32];
    printf("\nHow the cost grows, with %d thread%s:\n", r->bench->limits[all].threads,
           r->bench->limits[all].threads == 1 ? "" : "s");
    if (r->n_tiles) {
        printf("\n| tiles | image tokens | vision | a tile |\n|--:|--:|--:|--:|\n");
        for (int k = 0; k < r->n_tiles; k++) {
            double seconds = median(&r->growth[k]);
            printf("| %d | %d | %s | %s |\n", r->tiles[k], r->tiles[k] * tokens, clock_time(seconds, a),
                   clock_time(seconds / r->tiles[k], b));
        }
    }
    printf("\n| context | prefill of it | tokens/s | a step of decoding | to none |\n|--:|--:|--:|--:|--:|\n");
    double none = median(&r->decode[all][0]);
    for (int k = 0; k < r->n_contexts; k++) {
        double step = median(&r->decode[all][k]), whole = prompt_seconds(r, r->contexts[k]);
        printf("| %d | %s | %s | %s | %.2f |\n", r->contexts[k], k ? clock_time(whole, a) : "",
               k ? rate(r->contexts[k], whole, b) : "", clock_time(step, d), step / none);
    }
    if (!r->n_tiles || r->n_contexts < 2) return;
    double tile = median(&r->growth[r->n_tiles - 1]) / r->tiles[r->n_tiles - 1];
    printf("\nA video's frames, a tile each (computed from the above: %s a tile, and the prompt as a n + b n^2 of its "
           "image tokens):\n\n| frames | image tokens | vision | prefill | together |\n|--:|--:|--:|--:|--:|\n",
           clock_time(tile, a));
    for (int frames = 1; frames <= 32; frames = frames == 1 ? 8 : 4 * frames) {
        double n = (double)frames * tokens, prefill = prompt_seconds(r, n);
        if (n > c->max_position_embeddings) {
            printf("| %d | %.0f | | | more than the context of %u |\n", frames, n, c->max_position_embeddings);
            break;
        }
        printf("| %d | %.0f | %s |", frames, n, clock_time(frames * tile, a));
        printf(" %s | %s |\n", clock_time(prefill, a), clock_time(frames * tile + prefill, b));
    }
}

static void print_memory(const Run *r, bool was_reset) {
    const SvModel *m = r->model;
    int threads = r->bench->limits[r->bench->all].threads, n = r->contexts[r->n_contexts - 1] + r->steps;
    double more = (double)(sv_decoder_memory(m, n + 1000, threads) - sv_decoder_memory(m, n, threads));
    double peak = peak_memory();
    char a[32], b[32];
    printf("\nMemory: ");
    if (peak > 0)
        printf("%sB at its peak%s, of which %sB are the file%s; ", amount(peak, a),
               was_reset ? "" : ", what measured the machine included", amount((double)m->file_size, b),
               m->mapped ? ", mapped and shared" : "");
    printf("%sB for 1000 more tokens of context,", amount(more, a));
    printf(" %sB of it keys and values.\n", amount(position_bytes(m) * 1000, a));
}

/* ------------------------------------------------------------------------------------------------------------- runs */

/* Chooses the contexts and tiles to measure: no more than the model's positions. */
static void choose_sizes(Run *r) {
    static const int contexts[MOST_CONTEXTS] = { 0, 1000, 4000 }, tiles[4] = { 1, 2, 5, MOST_TILES };
    uint32_t positions = r->model->config.max_position_embeddings;
    int most = positions < 1 << 20 ? (int)positions : 1 << 20;
    r->steps = r->bench->quick ? 16 : 32;
    if (r->steps > (most + 1) / 2) r->steps = (most + 1) / 2;
    for (int k = 0; k < (r->bench->quick ? 2 : MOST_CONTEXTS); k++) {
        int context = contexts[k] <= most - r->steps ? contexts[k] : most - r->steps;
        if (k == 0 || context > r->contexts[r->n_contexts - 1] + 2 * r->steps) r->contexts[r->n_contexts++] = context;
    }
    if (r->model->config.vision_num_hidden_layers == 0) return;
    r->n_tiles = r->bench->quick ? 2 : 4;
    for (int k = 0; k < r->n_tiles; k++) r->tiles[k] = tiles[k];
}

static int bench_model(const Bench *b, const char *path) {
    const char *slash = strrchr(path, '/');
    Run *r = calloc(1, sizeof *r);
    SvModel *model = NULL;
    if (!r) return complain("out of memory");
    r->bench = b;
    r->name = slash ? slash + 1 : path;
    bool was_reset = reset_peak();
    int result = measure_load(r, path, &model);
    if (result == 0) {
        choose_sizes(r);
        result = measure_image(r);
    }
    for (int i = 0; result == 0 && r->n_tiles && i < b->n_counts; i++) {
        note("%s: a tile, %d thread%s", r->name, b->limits[i].threads, b->limits[i].threads == 1 ? "" : "s");
        result = measure_tiles(r, 1, b->limits[i].threads, &r->tile[i]);
    }
    for (int k = 0; result == 0 && k < r->n_tiles; k++) {
        note("%s: %d tile%s", r->name, r->tiles[k], r->tiles[k] == 1 ? "" : "s");
        if (k == 0) r->growth[0] = r->tile[b->all];
        else result = measure_tiles(r, r->tiles[k], b->limits[b->all].threads, &r->growth[k]);
    }
    if (result == 0) result = measure_texts(r);
    if (result == 0) {
        const SvTensor *w = &model->text.layers[0].q_proj;
        char text[32];
        printf("\n### %s: %.*s, %s, %sB\n", r->name, (int)model->config.name.size, model->config.name.data,
               sv_format_name(w->format), amount((double)model->file_size, text));
        print_phases(r);
        print_growth(r);
        print_memory(r, was_reset);
        fflush(stdout);
    }
    sv_close(model);
    free(r);
    return result;
}

/* Inserts a number of threads among those to measure, in order. */
static void add_count(Bench *b, int threads) {
    int i = 0, cores = sv_threads(0);
    while (i < b->n_counts && b->limits[i].threads < threads) i++;
    if (i < b->n_counts && b->limits[i].threads == threads) return;
    memmove(b->limits + i + 1, b->limits + i, (size_t)(b->n_counts - i) * sizeof b->limits[0]);
    b->limits[i] = (Limits){ .threads = threads };
    b->n_counts++;
    for (i = 0; i < b->n_counts; i++)
        if (b->limits[i].threads == cores) b->all = i;
}

int main(int argc, char **argv) {
    Bench b = { 0 };
    int models = 0, code = 0;
    add_count(&b, 1);
    add_count(&b, sv_threads(0));
    for (int i = 1; i < argc; i++) {
        const char *word = argv[i];
        if (strcmp(word, "--help") == 0 || strcmp(word, "-h") == 0) return fputs(HELP, stdout), 0;
        if (strcmp(word, "--quick") == 0) {
            b.quick = true;
        } else if (strcmp(word, "--threads") == 0 || strcmp(word, "--image") == 0) {
            char *end;
            if (++i == argc) return complain("%s: needs a value (see --help)", word), 2;
            long n = strtol(argv[i], &end, 10);
            if (word[2] == 'i') b.picture = argv[i];
            else if (*end || end == argv[i] || n < 1 || n > 1024 || b.n_counts == MOST_COUNTS)
                return complain("--threads %s: one number, 1 to 1024 (see --help)", argv[i]), 2;
            else add_count(&b, sv_threads((int)n));
        } else if (word[0] == '-') {
            return complain("%s: no such option (see --help)", word), 2;
        } else {
            argv[models++] = argv[i];           /* not ahead of the argument being read */
        }
    }
    if (models == 0) note("no model: only the machine");
    for (int i = 0; i < models; i++) {          /* report at once what cannot be opened */
        SvError error;
        SvModel *model;
        if (sv_open(argv[i], &model, &error) != 0) return complain("%s", error.text);
        sv_close(model);
    }
    code = measure_machine(&b);
    for (int i = 0; code == 0 && i < models; i++) code = bench_model(&b, argv[i]);
    if ((fflush(stdout) != 0 || ferror(stdout)) && code == 0) code = complain("stdout: %s", strerror(errno));
    return code;
}
