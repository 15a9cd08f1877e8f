/* calibrate.c: --hessians gathers the statistics by which export.py rounds weights. It runs a model over calibration
   items and adds up X^T X for the input X of every matrix product: how large each input number is, and how the numbers
   correlate. Rounding a weight does little harm if its input is small, or if other weights can compensate for it.

   The file OUT contains (numbers in this machine's byte order; calibration/gptq.py reads it):

     char[8]  "HESSIANS"
     u32      version: 1
     u32      weights_crc of the model's file
     u32      number of inputs; for each:
                u32      number of matrices that are multiplied with it; for each a u32 length and its name
                u32      cols
                u64      positions: number of rows of X
                f32      [cols (cols + 1) / 2] the upper triangle of X^T X, row by row
     u32      CRC-32 (zlib's) of all bytes before it

   The list of items is UTF-8, one item per line, fields separated by tabs. Paths are relative to the list's folder.

     FILE                          a text file, taken literally, in windows of WINDOW tokens
     PICTURE  QUESTION  ANSWER     a question about the picture in the model's chat template, and then the answer's
                                   tokens; PICTURE may be empty
     # ...                         a comment; empty lines are ignored too

   Models without a vision tower skip items with pictures. */
#include "cli.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { WINDOW = 1024, ROWS = 128 };

/* An input, identified by the matrices that are multiplied with it. sums: the upper triangle of X^T X in blocks of ROWS
   rows; the block that starts at row i holds the columns from i on. */
typedef struct Input {
    const SvTensor *w[3];
    int count;
    size_t cols;
    uint64_t positions;
    float *sums;
} Input;

/* Layers are numbered consecutively: the vision tower's first, then the decoder's. part: the model without the layers
   after `last`. now: the input that all threads work on; x is [n, cols]. */
typedef struct Gathering {
    const SvModel *model;
    SvModel part;
    int threads;
    uint32_t first, last;
    Input *inputs;
    size_t count, now;
    float *norms, *sorted;              /* [n]            the norm of each row of x, and the norms in order    */
    float *columns;                     /* [cols, n]      x^T                                                  */
    float *block;                       /* [ROWS, cols]   some rows of x^T x                                   */
    float *scratch;                     /* needed by the kernels                                               */
    float *memory;                      /* one allocation that holds all of these                              */
    uint64_t floats;
    float longest;                      /* rows of x with a larger norm are scaled down to it                  */
    bool failed;
} Gathering;

/* -------------------------------------------------------------------------------------------------- gathering X^T X */

static uint32_t all_layers(const SvModel *m) {
    return m->config.vision_num_hidden_layers + m->config.num_hidden_layers;
}

static bool has_tower(const Gathering *g) { return g->model->config.vision_num_hidden_layers > 0; }
static bool needs_decoder(const Gathering *g) { return g->last >= g->model->config.vision_num_hidden_layers; }

/* The index of the struct that contains w, in an array of `count` structs of `size` bytes at `first`; count if none
   does. */
static uint32_t holder(const SvTensor *w, const void *first, size_t size, uint32_t count) {
    uintptr_t at = (uintptr_t)w, from = (uintptr_t)first;
    return first && at >= from && at < from + size * count ? (uint32_t)((at - from) / size) : count;
}

/* The layer that a matrix belongs to. The patch embedding counts as part of the tower's first layer, the connector as
   part of its last, and lm_head as part of the decoder's last. */
static uint32_t layer_of(const Gathering *g, const SvTensor *w) {
    uint32_t tower = g->model->config.vision_num_hidden_layers, text = g->model->config.num_hidden_layers;
    if (w == &g->part.vision.patch_embedding_weight) return 0;
    if (w == &g->part.vision.modality_projection) return tower - 1;
    uint32_t layer = holder(w, g->model->vision.layers, sizeof(SvVisionLayer), tower);
    if (layer < tower) return layer;
    layer = holder(w, g->model->text.layers, sizeof(SvTextLayer), text);
    return tower + (layer < text ? layer : text - 1);
}

/* Where row i of an input's sums begins. Its first number is that of column i. */
static float *sums_at(const Input *input, size_t i) {
    size_t begin = i / ROWS * ROWS, blocks = i / ROWS, cols = input->cols;
    size_t before = ROWS * (blocks * cols - (blocks ? ROWS * (blocks * (blocks - 1) / 2) : 0));
    return input->sums + before + (i - begin) * (cols - begin) + (i - begin);
}

/* Allocates memory for n rows of an input, and for its sums if it is new. Returns the input's index, or count if its
   layer is outside first .. last. */
static size_t find_input(Gathering *g, const SvProduct *products, int count, size_t n) {
    const SvTensor *w = products[0].w;
    uint32_t layer = layer_of(g, w);
    size_t i = 0, cols = w->cols;
    if (layer < g->first || layer > g->last || g->failed) return g->count;
    while (i < g->count && g->inputs[i].w[0] != w) i++;
    if (i == g->count) {
        Input *grown = realloc(g->inputs, (i + 1) * sizeof *grown), input = { .count = count, .cols = cols };
        if (grown) g->inputs = grown;
        input.sums = calloc((cols + ROWS) * (cols + ROWS) / 2, sizeof(float));
        g->failed = !grown || !input.sums;
        for (int k = 0; k < count; k++) input.w[k] = products[k].w;
        if (g->failed) {
            free(input.sums);
            return g->count;
        }
        g->inputs[g->count++] = input;
    }
    uint64_t floats = 2 * n + cols * (n + ROWS) + g->part.kernels->matmul_scratch(ROWS, n);
    if (floats > g->floats) {
        free(g->memory);
        g->memory = floats <= SIZE_MAX / sizeof(float) ? malloc((size_t)floats * sizeof(float)) : NULL;
        g->floats = g->memory ? floats : 0;
        g->failed = !g->memory;
        if (g->failed) return g->count;
    }
    g->norms = g->memory;
    g->sorted = g->norms + n;
    g->columns = g->sorted + n;
    g->block = g->columns + cols * n;
    g->scratch = g->block + cols * ROWS;
    g->inputs[i].positions += n;
    return i;
}

static int by_size(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

/* Adds an input to its sums. All threads of a team call it together, as with sv_matmul. A few positions of a text, such
   as its first, have activations a thousand times as large as the others (known as massive activations). They matter no
   more than other positions, but their squares would dominate the sums. So rows of x whose norm is far above the usual
   one are scaled down. */
static void watch(void *watcher, const SvProduct *products, int count, const float *x, size_t n) {
    Gathering *g = watcher;
    const SvKernels *cpu = g->part.kernels;
    size_t cols = products[0].w->cols;
#pragma omp barrier
#pragma omp single
    g->now = find_input(g, products, count, n);
    if (g->now == g->count) return;
    const Input *input = &g->inputs[g->now];

#pragma omp for schedule(static)
    for (int64_t i = 0; i < (int64_t)n; i++) {
        double sum = 0;
        for (size_t k = 0; k < cols; k++) sum += (double)x[(size_t)i * cols + k] * x[(size_t)i * cols + k];
        g->norms[i] = g->sorted[i] = (float)sqrt(sum);
    }
#pragma omp single
    {
        qsort(g->sorted, n, sizeof(float), by_size);
        g->longest = 4 * g->sorted[n - 1 - n / 16];
    }

    /* x^T, 16 columns of x at a time, so that whole cache lines are read */
#pragma omp for schedule(static)
    for (int64_t at = 0; at < (int64_t)cols; at += 16)
        for (size_t i = 0; i < n; i++) {
            float by = g->norms[i] > g->longest ? g->longest / g->norms[i] : 1;
            for (size_t k = (size_t)at; k < smaller((size_t)at + 16, cols); k++)
                g->columns[k * n + i] = x[i * cols + k] * by;
        }

    /* A block of rows of X^T X: the product of that block's columns with all columns from there on. */
    for (size_t i = 0; i < cols; i += ROWS) {
        const float *from = g->columns + i * n;
        size_t rows = smaller(ROWS, cols - i);
        SvTensor rest = { from, SV_F32, 0, (uint32_t)(cols - i), (uint32_t)n };
        cpu->matmul(&(SvProduct){ g->block, &rest, NULL }, 1, from, rows, false, g->scratch);
        cpu->add(sums_at(input, i), g->block, rows, cols - i);
    }
}

/* ----------------------------------------------------------------------------------------------------------- the items

   Functions that return bool print a complaint before they return false. */

static bool failed(const SvError *error) { return complain("%s", error->text), false; }

static bool out_of_memory(const Gathering *g) {
    return complain("%s: out of memory for X^T X (--layers takes fewer at a time)", g->model->path), false;
}

/* Runs rows of x through the decoder. lm_head's input is gathered at all positions, though an answer would need only
   the last. */
static bool run_decoder(Gathering *g, float *x, size_t n) {
    const SvModel *m = &g->part;
    const SvConfig *c = &m->config;
    SvError error;
    SvDecoder *decoder;
    if (sv_decoder_new(m, (int)n, g->threads, &decoder, &error) != 0) return failed(&error);
    int result = sv_decoder_forward(decoder, x, n, NULL, NULL, &error);
    sv_decoder_free(decoder);
    if (result != 0) return failed(&error);
    if (g->last + 1 < all_layers(g->model)) return true;
    SvProduct lm_head = { NULL, &m->text.lm_head, NULL };
#pragma omp parallel num_threads(sv_threads(g->threads))
    {
        m->kernels->rms_norm(x, x, m->text.norm.data, n, c->hidden_size, c->rms_norm_eps);
        watch(g, &lm_head, 1, x, n);
    }
    return true;
}

/* Runs token ids and the tiles of their pictures through the model. */
static bool run_ids(Gathering *g, const int32_t *ids, size_t n, const SvPrompt *pictures) {
    const SvModel *m = &g->part;
    SvError error;
    size_t dim = m->config.hidden_size, tiles = pictures ? (size_t)pictures->n_tiles : 0;
    float *part[2];
    void *memory = sv_floats(2, (uint64_t[]){ n * dim, tiles * (uint64_t)sv_image_tokens(&m->config) * dim }, part);
    if (!memory) return complain("%s: out of memory for %zu tokens", m->path, n), false;
    float *x = part[0], *features = part[1];
    bool ok = !tiles || sv_vision(m, pictures->tiles, (int)tiles, g->threads, features, NULL, &error) == 0 ||
              failed(&error);
    if (ok && needs_decoder(g)) {
        sv_embed(m, ids, n, x);
        for (size_t i = 0; i < n && tiles; i++) {
            if ((uint32_t)ids[i] != m->config.image_token_id) continue;
            memcpy(x + i * dim, features, dim * sizeof(float));
            features += dim;
        }
        ok = run_decoder(g, x, n);
    }
    sv_zeros_free(memory);
    return ok && (!g->failed || out_of_memory(g));
}

static bool run_text(Gathering *g, const char *path) {
    SvError error;
    int32_t *ids;
    size_t size, count, window = smaller(WINDOW, g->model->config.max_position_embeddings);
    char *text = read_file(path, &size);
    if (!text) return false;
    bool ok = sv_tokenize(g->model->tokenizer, text, size, &ids, &count, &error) == 0 || failed(&error);
    free(text);
    for (size_t i = 0; ok && i < count; i += window) ok = run_ids(g, ids + i, smaller(window, count - i), NULL);
    if (ok) free(ids);
    return ok;
}

/* picture: NULL for a question without one. */
static bool run_conversation(Gathering *g, const char *picture, const char *question, const char *answer) {
    const SvConfig *c = &g->model->config;
    SvError error;
    SvOptions options = sv_default_options();
    SvImage image = { 0 };
    SvPrompt prompt = { 0 };
    SvContent contents[2] = { { .image = &image, .name = picture }, { .text = question } };
    SvMessage message = { "user", contents + !picture, 1 + (picture != NULL) };
    int32_t *more = NULL, *ids = NULL;
    size_t count = 0;
    if (c->longest_edge <= SV_MAX_SIDE)                     /* a few tiles are as representative as many */
        options.longest_edge = (int)smaller(2 * c->image_size, c->longest_edge);
    bool ok = (!picture || sv_image_read(picture, &image, &error) == 0) &&
              sv_prompt(g->model, &message, 1, &options, &prompt, &error) == 0 &&
              sv_tokenize(g->model->tokenizer, answer, strlen(answer), &more, &count, &error) == 0;
    for (size_t i = 0; i < count && ok && has_tower(g); i++)            /* it has no features */
        if ((uint32_t)more[i] == c->image_token_id)
            ok = !sv_fail(&error, "the answer contains %.*s, which stands for a picture: %.80s",
                          (int)c->image_token.size, c->image_token.data, answer);
    if (!ok) {
        failed(&error);
    } else {
        size_t n = prompt.n_ids + count;
        ids = malloc((n + 1) * sizeof *ids);
        if (ids) memcpy(ids, prompt.ids, prompt.n_ids * sizeof *ids);
        if (ids && count) memcpy(ids + prompt.n_ids, more, count * sizeof *ids);
        if (n > c->max_position_embeddings) n = c->max_position_embeddings;
        ok = ids ? run_ids(g, ids, n, &prompt) : out_of_memory(g);
    }
    free(ids);
    free(more);
    sv_prompt_free(&prompt);
    sv_image_free(&image);
    return ok;
}

/* --------------------------------------------------------------------------------------------------------- the list */

/* Cuts text at the first `end` and returns the rest after it, or NULL if there is no `end`. */
static char *cut(char *text, char end) {
    char *at = text ? strchr(text, end) : NULL;
    if (at) *at++ = 0;
    return at;
}

/* The path of a file that is named relative to the list's folder; the caller frees it. */
static char *beside(const char *list, const char *name) {
    size_t folder = strlen(list);
    while (folder > 0 && list[folder - 1] != '/' && list[folder - 1] != '\\') folder--;
    if (name[0] == '/') folder = 0;
    char *path = malloc(folder + strlen(name) + 1);
    if (!path) return NULL;
    memcpy(path, list, folder);
    strcpy(path + folder, name);
    return path;
}

/* Runs one line of the list. */
static bool run_item(Gathering *g, const char *list, char *line) {
    if (*line && line[strlen(line) - 1] == '\r') line[strlen(line) - 1] = 0;
    if (blank(line) || *line == '#') return true;
    char *question = cut(line, '\t'), *answer = cut(question, '\t');
    if (question && (!answer || strchr(answer, '\t')))
        return complain("%s: an item of neither one field nor three: %.80s", list, line), false;
    bool picture = question && *line;
    if (picture ? !has_tower(g) : !needs_decoder(g)) return true;
    char *path = beside(list, line);
    if (!path) return out_of_memory(g);
    bool ok = question ? run_conversation(g, picture ? path : NULL, question, answer) : run_text(g, path);
    free(path);
    return ok;
}

/* --------------------------------------------------------------------------------------------------------- the file */

static void put(Output *o, uint32_t *crc, const void *data, size_t size) {
    *crc = sv_crc32(*crc, data, size);
    fwrite(data, 1, size, o->file);
}

static void put_u32(Output *o, uint32_t *crc, uint32_t number) { put(o, crc, &number, sizeof number); }

static void put_name(Output *o, uint32_t *crc, const SvModel *m, const SvTensor *w) {
    const SvEntry *e = m->entries;
    while (m->file + e->offset != (const uint8_t *)w->data) e++;
    put_u32(o, crc, (uint32_t)e->name.size);
    put(o, crc, e->name.data, e->name.size);
}

static bool write_hessians(const Gathering *g, const char *path) {
    Output o;
    uint32_t crc = 0;
    if (!output_open(&o, NULL, path)) return false;
    put(&o, &crc, "HESSIANS", 8);
    put_u32(&o, &crc, 1);
    put_u32(&o, &crc, g->model->weights_crc);
    put_u32(&o, &crc, (uint32_t)g->count);
    for (const Input *input = g->inputs; input < g->inputs + g->count; input++) {
        put_u32(&o, &crc, (uint32_t)input->count);
        for (int k = 0; k < input->count; k++) put_name(&o, &crc, g->model, input->w[k]);
        put_u32(&o, &crc, (uint32_t)input->cols);
        put(&o, &crc, &input->positions, sizeof input->positions);
        for (size_t i = 0; i < input->cols; i++) put(&o, &crc, sums_at(input, i), (input->cols - i) * sizeof(float));
    }
    put_u32(&o, &crc, crc);
    return output_close(&o);
}

/* Parses a range of layers, "2-5" or "3". The first must not exceed the last, and the last must be below count. */
static bool read_range(const char *text, uint32_t count, uint32_t *first, uint32_t *last) {
    char *end;
    if (*text < '0' || *text > '9') return false;
    unsigned long low = strtoul(text, &end, 10), high = low;
    if (*end == '-' && end[1] >= '0' && end[1] <= '9') high = strtoul(end + 1, &end, 10);
    if (*end || low > high || high >= count) return false;
    *first = (uint32_t)low;
    *last = (uint32_t)high;
    return true;
}

int gather_hessians(const Arguments *a, const SvModel *model) {
    uint32_t tower = model->config.vision_num_hidden_layers;
    Gathering g = { .model = model, .part = *model, .threads = a->options.threads, .last = all_layers(model) - 1 };
    if (a->layers && !read_range(a->layers, all_layers(model), &g.first, &g.last))
        return misused("--layers %s: not a range, such as 0-3, within the layers 0 to %" PRIu32, a->layers,
                       all_layers(model) - 1);
    g.part.watch = watch;
    g.part.watcher = &g;
    if (needs_decoder(&g)) g.part.config.num_hidden_layers = g.last - tower + 1;
    else g.part.config.vision_num_hidden_layers = g.last + 1;

    size_t size;
    char *list = read_file(a->items, &size);
    if (!list) return 1;
    bool ok = true;
    int at = 0, total = 1;
    for (const char *b = list; *b; b++) total += *b == '\n' && b[1];
    for (char *line = list, *next; line && ok; line = next) {
        next = cut(line, '\n');
        if (!a->quiet && at < total) fprintf(stderr, "item %d/%d\n", ++at, total);
        ok = run_item(&g, a->items, line);
    }
    if (ok && g.count == 0) ok = !complain("%s: no item that this model can use", a->items);
    ok = ok && write_hessians(&g, a->hessians);
    for (size_t i = 0; i < g.count; i++) free(g.inputs[i].sums);
    free(g.inputs);
    free(g.memory);
    free(list);
    return !ok;
}
