/* info.c: --info prints what a checkpoint contains and how much memory it needs; --selftest checks that this machine
   computes the same bits as every other. */
#include "cli.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static bool starts_with(SvString name, const char *begins) {
    return name.size >= strlen(begins) && memcmp(name.data, begins, strlen(begins)) == 0;
}

/* The parts of a model and the formats of their matrices. export.py chooses which parts keep more bits. */
static void print_weights(const SvModel *m) {
    static const struct { const char *part, *begins; } parts[] = {
        { "vision tower", "model.vision_model." },       { "connector", "model.connector." },
        { "text layers", "model.text_model.layers." },   { "embed_tokens", "model.text_model.embed_tokens." },
        { "lm_head", "lm_head." },                       { "the rest", "" },
    };
    enum { PARTS = sizeof parts / sizeof parts[0] };
    uint64_t numbers[PARTS][4] = { { 0 } }, bytes[PARTS][4] = { { 0 } }, all_numbers = 0, all_bytes = 0;
    for (uint32_t i = 0; i < m->n_entries; i++) {
        const SvEntry *e = &m->entries[i];
        int part = 0;
        while (!starts_with(e->name, parts[part].begins)) part++;
        numbers[part][e->format] += (uint64_t)e->rows * e->cols;
        bytes[part][e->format] += e->size;
    }
    puts("weights  part          format        numbers        MB  bits each");
    for (int part = 0; part < PARTS; part++)
        for (uint32_t f = 0; f < 4; f++) {
            uint64_t n = numbers[part][f], b = bytes[part][f];
            all_numbers += n, all_bytes += b;
            if (n) printf("         %-13s %-6s %14" PRIu64 " %9.1f %10.2f\n", parts[part].part, sv_format_name(f), n,
                          (double)b / 1e6, 8.0 * (double)b / (double)n);
        }
    printf("         %-13s %-6s %14" PRIu64 " %9.1f %10.2f\n", "all", "", all_numbers, (double)all_bytes / 1e6,
           8.0 * (double)all_bytes / (double)all_numbers);
}

/* The shapes at each step from a picture to the decoder, and the bytes of one position in the KV cache. */
static void print_flow(const SvModel *m) {
    const SvConfig *c = &m->config;
    if (c->vision_num_hidden_layers) {
        uint32_t side = c->image_size / c->patch_size, patches = side * side, s = c->scale_factor;
        bool exact = c->longest_edge > SV_MAX_SIDE;                     /* SV_EXACT_SIZE */
        uint32_t height = exact ? c->longest_edge >> 16 : c->longest_edge, tokens = (uint32_t)sv_image_tokens(c);
        uint32_t width = exact ? c->longest_edge & 0xffff : c->longest_edge;
        if (height > SV_LONGEST_EDGE) height = SV_LONGEST_EDGE;
        if (width > SV_LONGEST_EDGE) width = SV_LONGEST_EDGE;
        bool split = c->do_image_splitting && (height > c->image_size || width > c->image_size);
        uint32_t rows = split ? (height + c->image_size - 1) / c->image_size : 0;
        uint32_t cols = split ? (width + c->image_size - 1) / c->image_size : 0;
        printf("a tile   %u x %u x 3 bytes -> %u patches of %u x %u x 3 = %u numbers -> %u rows of %u\n", c->image_size,
               c->image_size, patches, c->patch_size, c->patch_size, 3 * c->patch_size * c->patch_size, patches,
               c->vision_hidden_size);
        printf("         -> pixel shuffle, %u x %u rows to one: %u rows of %u -> %u image tokens of %u numbers\n", s, s,
               tokens, s * s * c->vision_hidden_size, tokens, c->hidden_size);
        if (split)
            printf("picture  up to %u x %u tiles and the global one: %u x %u = %u positions of the decoder, "
                   "and the tags\n", rows, cols, rows * cols + 1, tokens, (rows * cols + 1) * tokens);
        else printf("picture  one tile, not split: %u positions of the decoder, and its tags\n", tokens);
    }
    bool q8 = m->text.layers[0].k_proj.group != 0;
    uint32_t number = q8 ? 1 : 4, scale = q8 ? 4 : 0;
    printf("cache    a position takes %u layers x 2 x %u heads x (%u x %u%s) = %u bytes\n", c->num_hidden_layers,
           c->num_key_value_heads, c->head_dim, number, q8 ? " + 4" : "",
           c->num_hidden_layers * 2 * c->num_key_value_heads * (c->head_dim * number + scale));
}

int print_info(const SvModel *m, int threads) {
    const SvConfig *c = &m->config;
    SvError error;
    if (sv_verify(m, &error) != 0) return complain("%s", error.text);
    printf("%s: %.*s, %.1f MB, checksum ok\n", m->path, (int)c->name.size, c->name.data, (double)m->file_size / 1e6);
    if (c->vision_num_hidden_layers) {
        uint32_t side = c->image_size / c->patch_size;
        uint32_t heads = c->vision_num_attention_heads;
        printf("vision   %u layers, width %u, %u heads of %u, MLP %u\n", c->vision_num_hidden_layers,
               c->vision_hidden_size, heads, c->vision_hidden_size / heads, c->vision_intermediate_size);
        printf("tiles    %u x %u pixels, %u x %u patches of %u, %d image tokens; ", c->image_size, c->image_size, side,
               side, c->patch_size, sv_image_tokens(c));
        if (c->longest_edge > SV_MAX_SIDE)
            printf("pictures become %u x %u", c->longest_edge & 0xffff, c->longest_edge >> 16);
        else printf("longest edge %u", c->longest_edge);
        puts(c->do_image_splitting ? "" : ", not split");
        if (c->video_num_frames)
            printf("videos   %g frame%s a second, at most %u, longest edge %u, one tile each\n", c->video_fps,
                   c->video_fps == 1 ? "" : "s", c->video_num_frames, c->video_longest_edge);
        else puts("videos   none are taken");
    } else {
        puts("vision   none: a text-only model");
    }
    printf("text     %u layers, width %u, %u heads (%u for keys and values) of %u, MLP %u\n", c->num_hidden_layers,
           c->hidden_size, c->num_attention_heads, c->num_key_value_heads, c->head_dim, c->intermediate_size);
    printf("tokens   %u in the vocabulary, context %u, rope theta %g, lm_head %s\n", c->vocab_size,
           c->max_position_embeddings, (double)c->rope_theta,
           c->tie_word_embeddings ? "tied to embed_tokens" : "its own");
    print_flow(m);
    print_weights(m);
    int positions = c->max_position_embeddings < 1000 ? (int)c->max_position_embeddings : 1000;
    int tiles = c->vision_num_hidden_layers ? 1 : 0, all = (int)c->max_position_embeddings;
    printf("memory   the file, and for %d tokens%s %.1f MB; for the whole context %.1f MB\n", positions,
           tiles ? " and a tile" : "", (double)sv_memory_needed(m, positions, tiles, threads) / 1e6,
           (double)sv_memory_needed(m, all, tiles, threads) / 1e6);
    return 0;
}

/* Runs the same input through every kernel set, or only the chosen one. The first set also runs with one thread, and
   position by position. */
int selftest(SvModel *m, const SvKernels *chosen, int threads) {
    const SvConfig *c = &m->config;
    uint64_t first = 0;
    bool same = true, exact = sv_same_bits(m);
    int sets = 0;
    char expected[17] = "";
    puts("kernels   threads  prompt       seconds  hash");
    for (int i = 0; sv_kernels(i); i++) {
        if (chosen && sv_kernels(i) != chosen) continue;
        for (int way = 0; way < (sets == 0 ? 3 : 1); way++) {
            SvError error;
            uint64_t hash;
            int with = way == 1 ? 1 : sv_threads(threads);
            if (way == 1 && sv_threads(threads) == 1) continue;
            double start = sv_seconds();
            m->kernels = sv_kernels(i);
            if (sv_selftest(m, with, way == 2, &hash, &error) != 0) return complain("%s", error.text);
            printf("%-9s %7d  %-10s %9.2f  %016" PRIx64 "\n", m->kernels->name, with, way == 2 ? "one by one" : "whole",
                   sv_seconds() - start, hash);
            fflush(stdout);
            if (sets == 0 && way == 0) first = hash;
            same = same && hash == first;
        }
        sets++;
    }
    if (!exact) {
        puts("f32 and bf16: these numbers are this machine's own, only Q8 and Q4 are the same bits everywhere");
        return 0;
    }
    if (!same) return complain("%s: the self-test's hashes differ, this build is not right", m->path);
    puts("the same bits every time");
    snprintf(expected, sizeof expected, "%.*s", (int)(c->selftest.size < 16 ? c->selftest.size : 16), c->selftest.data);
    if (!expected[strspn(expected, "0")] || strspn(expected, "0123456789abcdef") != 16) {
        puts("the file does not say which they must be (export.py --seal): compare with another machine's");
    } else if (strtoull(expected, NULL, 16) == first) {
        puts("and the ones that the file says they must be: this machine agrees");
    } else {
        return complain("%s: the self-test must give %s, this machine disagrees", m->path, expected);
    }
    return 0;
}
