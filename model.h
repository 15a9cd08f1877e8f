/* model.h: how a checkpoint is laid out in its file, what it becomes in memory, the contract of the arithmetic, and
   what else the files share. For the library's own files, and for programs that look inside a model. All others need
   only smolvlm.h. */
#ifndef SV_MODEL_H
#define SV_MODEL_H

#include "smolvlm.h"

#include <stdio.h>

#if !defined(_OPENMP) && defined(__GNUC__)                  /* without OpenMP, ignore its pragmas */
#pragma GCC diagnostic ignored "-Wunknown-pragmas"
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ------------------------------------------------------------------------------------------------- the checkpoint file

   One flat file that holds everything: written by export.py, mapped into memory by sv_open. All numbers are
   little-endian. STR is a u32 length and that many bytes. Only the weights are aligned.

     offset  0  char[8]  magic "SMOLVLM\n"
             8  u32      version: SV_FILE_VERSION
            12  u32      metadata_crc: CRC-32 (zlib's) of the bytes 16 .. data_offset
            16  u64      data_offset, a multiple of 64
            24  u64      file_size
            32  u32      weights_crc: CRC-32 of the bytes data_offset .. file_size
            36  u32      n_tensors
            40  config   the fields of SV_CONFIG below, in that order
                tensors  n_tensors x { STR name, u32 format, u32 group, u32 rows, u32 cols, u64 offset, u64 size }
                         offset from the start of the file, a multiple of 64, ascending; size in bytes
                tokenizer:
                  u32      n_ids, then n_ids x STR: the bytes an id stands for (empty: an id without a token)
                  u32[256] the id of each single byte, 0xffffffff where the vocabulary has none
                  u32      n_merges, then n_merges x { u32 left, right, merged }, by rank
                  u32      n_added, then n_added x { u32 id, u32 flags, STR content }: matched before anything else
                           in a text; flags: a sum of SV_NORMALIZED ... below
                  u32      single_digits: 1 if every digit (\p{N}) stands alone before the GPT-2 pattern splits
                zeros up to data_offset, the next multiple of 64, then the weights, each tensor padded with zeros to
                such a multiple

   export.py reads the lists below from this header, so the layout is stated only here. */

#define SV_FILE_MAGIC   "SMOLVLM\n"
#define SV_FILE_VERSION 6

/* How a tensor's numbers are stored. f32 and bf16: row after row, unchanged, with group = 0.

   Q8 and Q4: each row is divided into groups of SV_GROUP numbers. Where cols is no multiple of it, the last group is
   padded with numbers that are ignored. A number is its group's scale times an integer:
     Q8  int8, -127 .. 127: 64 bytes a group
     Q4  SV_Q4_VALUES[i], where i has 4 bits: 32 bytes a group; the low half of byte j is number j, the high half number
         j + 32
   Sixteen rows are interleaved, group by group, four bytes of each row in turn: blocks [rows / 16, groups] of [16 or 8,
   16 rows, 4] bytes. So a product reads memory in sequence. Each 32-bit lane of a vector, however wide, holds four
   numbers of one row (quant.c explains more). After all blocks come the scales, in the same order: bf16 [rows / 16,
   groups, 16 rows]. The last block's rows are padded as well.

   The 16 values are closer together where weights are denser. They have the least squared error over normal, Laplace
   and t(5) distributed numbers, rounded to integers that span less than 7 bits, which kernels exploit. In groups of 64
   they have 9 to 23 % less rms error than evenly spaced values (docs/FORMATS.md). */
enum { SV_F32 = 0, SV_BF16 = 1, SV_Q8 = 2, SV_Q4 = 3 };
#define SV_GROUP     64
#define SV_BLOCK_ROWS 16
#define SV_Q4_VALUES { -63, -47, -36, -28, -21, -14, -9, -4, 1, 5, 10, 16, 22, 29, 38, 50 }

/* An added token's flags, as tokenizer.json names them. Tokens with "normalized" are matched after the others, in the
   remaining text (no normalizer changes text here). "lstrip", "rstrip": the match includes the white space on that
   side. "single_word": the token matches only where no word character (\w) is adjacent. */
enum { SV_NORMALIZED = 1, SV_LSTRIP = 2, SV_RSTRIP = 4, SV_SINGLE_WORD = 8 };

/* Every dimension and setting, under its name in config.json, preprocessor_config.json or the tokenizer's files. Where
   both halves of the model have a setting, the tower's is prefixed with "vision_". U32 and F32 take 4 bytes, F64 8. F3
   is three F32, one per colour channel. IDS is a u32 count, at most 16, and that many u32. STR has at most 1 MiB. A
   text-only model has vision_num_hidden_layers = 0. */
#define SV_CONFIG(U32, F32, F64, F3, IDS, STR)                                                                         \
    STR(name)                        /* the exported directory's name; --info shows it, nothing else uses it        */ \
    STR(selftest)                    /* what sv_selftest must give, 16 hexadecimal digits; all zero: not known      */ \
    U32(image_size)                  /* a tile's side in pixels                                                     */ \
    U32(patch_size)                                                                                                    \
    U32(vision_hidden_size)                                                                                            \
    U32(vision_intermediate_size)                                                                                      \
    U32(vision_num_hidden_layers)                                                                                      \
    U32(vision_num_attention_heads)                                                                                    \
    F32(layer_norm_eps)                                                                                                \
    U32(scale_factor)                /* pixel shuffle: scale_factor^2 patches make one image token                  */ \
    U32(hidden_size)                                                                                                   \
    U32(intermediate_size)                                                                                             \
    U32(num_hidden_layers)                                                                                             \
    U32(num_attention_heads)                                                                                           \
    U32(num_key_value_heads)                                                                                           \
    U32(head_dim)                                                                                                      \
    U32(vocab_size)                                                                                                    \
    U32(max_position_embeddings)                                                                                       \
    U32(tie_word_embeddings)         /* 1: lm_head is embed_tokens, and has no tensor of its own                    */ \
    F32(rms_norm_eps)                                                                                                  \
    F32(rope_theta)                  /* informational: the decoder reads the inv_freq tensor                        */ \
    U32(do_image_splitting)                                                                                            \
    U32(longest_edge)                /* a picture's longer side before it is cut into tiles, or SV_EXACT_SIZE       */ \
    F64(rescale_factor)                                                                                                \
    F3(image_mean)                                                                                                     \
    F3(image_std)                                                                                                      \
    U32(image_token_id)                                                                                                \
    STR(image_token)                                                                                                   \
    STR(fake_image_token)                                                                                              \
    STR(global_image_token)                                                                                            \
    IDS(eos_token_id)                /* any of these ends an answer                                                 */ \
    U32(chat_template)               /* 0: none, the model continues a text, and names no roles                     */ \
    U32(chat_accepts)                /* a sum of SV_CHAT_SYSTEM ... below: which conversations                      */ \
    STR(chat_begin)                  /* the chat template, as text: once, at the start                              */ \
    STR(chat_default_system)         /* put there when the first message is not the system's; may be empty          */ \
    STR(chat_system_begin)           /* before a system message that begins with text                               */ \
    STR(chat_system_begin_image)     /* ... with a picture                                                          */ \
    STR(chat_system_end)             /* after one that ends with text                                               */ \
    STR(chat_system_end_image)       /* ... with a picture                                                          */ \
    STR(chat_user_begin)             /* the same four for the other roles                                           */ \
    STR(chat_user_begin_image)                                                                                         \
    STR(chat_user_end)                                                                                                 \
    STR(chat_user_end_image)                                                                                           \
    STR(chat_assistant_begin)                                                                                          \
    STR(chat_assistant_begin_image)                                                                                    \
    STR(chat_assistant_end)                                                                                            \
    STR(chat_assistant_end_image)                                                                                      \
    STR(chat_between_messages)                                                                                         \
    STR(chat_text_text)              /* within a message: between two texts                                         */ \
    STR(chat_text_image)             /* ... a text and a picture                                                    */ \
    STR(chat_image_text)             /* ... a picture and a text                                                    */ \
    STR(chat_image_image)            /* ... two pictures                                                            */ \
    STR(chat_generation_prompt)      /* what the answer continues                                                   */ \
    U32(turned)                      /* 1: rows are turned by Hadamard matrices before products (docs/FORMATS.md)   */ \
    F32(repetition_penalty)          /* what sampling divides the logits of tokens seen before by; 1: nothing       */ \
    U32(video_num_frames)            /* of a video at most so many; 0: the model takes no video                     */ \
    F64(video_fps)                   /* ... and so many a second                                                    */ \
    U32(video_longest_edge)          /* a frame's longer side before it is made one tile                            */

/* chat_accepts: the conversations that these strings render as the template does. sv_prompt refuses all others, because
   the template renders them differently, or refuses them too. With none of these flags, only user messages are
   accepted, each of any number of pictures and one text after them. */
enum {
    SV_CHAT_SYSTEM = 1,             /* a system message (a text), as the first */
    SV_CHAT_SYSTEM_LATER = 2,       /* ... at other places, too */
    SV_CHAT_ASSISTANT = 4,          /* messages of the assistant (a text each): answers given before */
    SV_CHAT_ASSISTANT_LAST = 8,     /* ... as the last, too */
    SV_CHAT_MIXED = 16,             /* texts and pictures in any number and order */
    SV_CHAT_IMAGES = 32             /* pictures in messages of other roles than the user */
};

/* Every tensor: its field in the structs below, V or M, its name in the file (HF's name; %d is the layer), rows, cols.
   M is a matrix, in any format. V is a vector or table whose numbers are used directly, always f32. Row i of
   position_embedding belongs to patch i: export.py has put the rows into the order in which the reference reads
   them. */
#define SV_VISION_TENSORS(T)                                                                                           \
    T(patch_embedding_weight, M, "model.vision_model.embeddings.patch_embedding.weight",                               \
                                 vision_hidden_size, 3 * patch_size * patch_size)                                      \
    T(patch_embedding_bias,   V, "model.vision_model.embeddings.patch_embedding.bias", 1, vision_hidden_size)          \
    T(position_embedding,     V, "model.vision_model.embeddings.position_embedding.weight",                            \
                                 (image_size / patch_size) * (image_size / patch_size), vision_hidden_size)            \
    T(post_layernorm_weight,  V, "model.vision_model.post_layernorm.weight", 1, vision_hidden_size)                    \
    T(post_layernorm_bias,    V, "model.vision_model.post_layernorm.bias",   1, vision_hidden_size)                    \
    T(modality_projection,    M, "model.connector.modality_projection.proj.weight",                                    \
                                 hidden_size, vision_hidden_size * scale_factor * scale_factor)

#define SV_VISION_LAYER "model.vision_model.encoder.layers.%d."
#define SV_VISION_LAYER_TENSORS(T)                                                                                     \
    T(layer_norm1_weight, V, SV_VISION_LAYER "layer_norm1.weight",        1, vision_hidden_size)                       \
    T(layer_norm1_bias,   V, SV_VISION_LAYER "layer_norm1.bias",          1, vision_hidden_size)                       \
    T(q_proj_weight,      M, SV_VISION_LAYER "self_attn.q_proj.weight",   vision_hidden_size, vision_hidden_size)      \
    T(q_proj_bias,        V, SV_VISION_LAYER "self_attn.q_proj.bias",     1, vision_hidden_size)                       \
    T(k_proj_weight,      M, SV_VISION_LAYER "self_attn.k_proj.weight",   vision_hidden_size, vision_hidden_size)      \
    T(k_proj_bias,        V, SV_VISION_LAYER "self_attn.k_proj.bias",     1, vision_hidden_size)                       \
    T(v_proj_weight,      M, SV_VISION_LAYER "self_attn.v_proj.weight",   vision_hidden_size, vision_hidden_size)      \
    T(v_proj_bias,        V, SV_VISION_LAYER "self_attn.v_proj.bias",     1, vision_hidden_size)                       \
    T(out_proj_weight,    M, SV_VISION_LAYER "self_attn.out_proj.weight", vision_hidden_size, vision_hidden_size)      \
    T(out_proj_bias,      V, SV_VISION_LAYER "self_attn.out_proj.bias",   1, vision_hidden_size)                       \
    T(layer_norm2_weight, V, SV_VISION_LAYER "layer_norm2.weight",        1, vision_hidden_size)                       \
    T(layer_norm2_bias,   V, SV_VISION_LAYER "layer_norm2.bias",          1, vision_hidden_size)                       \
    T(fc1_weight,         M, SV_VISION_LAYER "mlp.fc1.weight",         vision_intermediate_size, vision_hidden_size)   \
    T(fc1_bias,           V, SV_VISION_LAYER "mlp.fc1.bias",              1, vision_intermediate_size)                 \
    T(fc2_weight,         M, SV_VISION_LAYER "mlp.fc2.weight",         vision_hidden_size, vision_intermediate_size)   \
    T(fc2_bias,           V, SV_VISION_LAYER "mlp.fc2.bias",              1, vision_hidden_size)

#define SV_TEXT_TENSORS(T)                                                                                             \
    T(embed_tokens, M, "model.text_model.embed_tokens.weight", vocab_size, hidden_size)                                \
    T(inv_freq,     V, "model.text_model.rotary_emb.inv_freq", 1, head_dim / 2)                                        \
    T(norm,         V, "model.text_model.norm.weight",         1, hidden_size)

#define SV_TEXT_LAYER "model.text_model.layers.%d."
#define SV_TEXT_LAYER_TENSORS(T)                                                                                       \
    T(input_layernorm, V, SV_TEXT_LAYER "input_layernorm.weight",  1, hidden_size)                                     \
    T(q_proj,    M, SV_TEXT_LAYER "self_attn.q_proj.weight",       num_attention_heads * head_dim, hidden_size)        \
    T(k_proj,    M, SV_TEXT_LAYER "self_attn.k_proj.weight",       num_key_value_heads * head_dim, hidden_size)        \
    T(v_proj,    M, SV_TEXT_LAYER "self_attn.v_proj.weight",       num_key_value_heads * head_dim, hidden_size)        \
    T(o_proj,    M, SV_TEXT_LAYER "self_attn.o_proj.weight",       hidden_size, num_attention_heads * head_dim)        \
    T(post_attention_layernorm, V, SV_TEXT_LAYER "post_attention_layernorm.weight", 1, hidden_size)                    \
    T(gate_proj, M, SV_TEXT_LAYER "mlp.gate_proj.weight",          intermediate_size, hidden_size)                     \
    T(up_proj,   M, SV_TEXT_LAYER "mlp.up_proj.weight",            intermediate_size, hidden_size)                     \
    T(down_proj, M, SV_TEXT_LAYER "mlp.down_proj.weight",          hidden_size, intermediate_size)

#define SV_UNTIED_TENSORS(T) /* left out where tie_word_embeddings is 1 */                                             \
    T(lm_head,      M, "lm_head.weight",                           vocab_size, hidden_size)

/* --------------------------------------------------------------------------------------------- the model in memory */

typedef struct SvString { const char *data; size_t size; } SvString;    /* bytes in the mapped file, not terminated */
typedef struct SvIds { uint32_t count, id[16]; } SvIds;

#define SV_FIELD_U32(field) uint32_t field;
#define SV_FIELD_F32(field) float field;
#define SV_FIELD_F64(field) double field;
#define SV_FIELD_F3(field) float field[3];
#define SV_FIELD_IDS(field) SvIds field;
#define SV_FIELD_STR(field) SvString field;

/* Fields: those of SV_CONFIG, image_size, patch_size, hidden_size, ... */
typedef struct SvConfig {
    SV_CONFIG(SV_FIELD_U32, SV_FIELD_F32, SV_FIELD_F64, SV_FIELD_F3, SV_FIELD_IDS, SV_FIELD_STR)
} SvConfig;

/* data: sv_tensor_size() bytes. */
typedef struct SvTensor { const void *data; uint32_t format, group, rows, cols; } SvTensor;

/* The lists above as structs: one SvTensor for each line, named by its first word. So layer->q_proj is the tensor of
   "...self_attn.q_proj.weight". */
#define SV_FIELD_TENSOR(field, kind, name, rows, cols) SvTensor field;

/* layer_norm1_weight, layer_norm1_bias, q_proj_weight, q_proj_bias, k_..., v_..., out_proj_weight, ..., fc2_bias */
typedef struct SvVisionLayer { SV_VISION_LAYER_TENSORS(SV_FIELD_TENSOR) } SvVisionLayer;

/* patch_embedding_weight, patch_embedding_bias, position_embedding, post_layernorm_weight, ..., modality_projection */
typedef struct SvVision { SV_VISION_TENSORS(SV_FIELD_TENSOR) SvVisionLayer *layers; } SvVision;

/* input_layernorm, q_proj, k_proj, v_proj, o_proj, post_attention_layernorm, gate_proj, up_proj, down_proj */
typedef struct SvTextLayer { SV_TEXT_LAYER_TENSORS(SV_FIELD_TENSOR) } SvTextLayer;

/* embed_tokens, inv_freq, norm, lm_head (a copy of the embed_tokens field, where they are tied) */
typedef struct SvText {
    SV_TEXT_TENSORS(SV_FIELD_TENSOR) SV_UNTIED_TENSORS(SV_FIELD_TENSOR) SvTextLayer *layers;
} SvText;

typedef struct SvEntry { SvString name; uint32_t format, group, rows, cols; uint64_t offset, size; } SvEntry;

struct SvProduct;
typedef void SvWatch(void *watcher, const struct SvProduct *products, int count, const float *x, size_t n);

struct SvModel {
    SvConfig config;
    SvVision vision;                    /* layers = NULL in a text-only model */
    SvText text;
    SvTokenizer *tokenizer;
    const struct SvKernels *kernels;    /* sv_kernels(0); another set may be put here before the model is used */
    SvWatch *watch;                     /* NULL, or told of every product before it is computed (see sv_matmul) */
    void *watcher;                      /* its first argument */
    SvEntry *entries;                   /* the tensor table, for programs that list it */
    uint32_t n_entries, weights_crc;
    char *path;
    uint8_t *file;                      /* the whole checkpoint: mapped and shared, or read where there is no mmap */
    size_t file_size, data_offset;
    bool mapped;
};

static inline bool sv_is_end(const SvConfig *c, int32_t id) {           /* whether this token ends an answer */
    for (uint32_t i = 0; i < c->eos_token_id.count; i++)
        if (c->eos_token_id.id[i] == (uint32_t)id) return true;
    return false;
}

static inline size_t smaller(size_t a, size_t b) { return a < b ? a : b; }
static inline uint64_t sv_larger(uint64_t a, uint64_t b) { return a > b ? a : b; }

/* Image tokens per tile; 0 for a text-only model. */
int sv_image_tokens(const SvConfig *config);

/* The reference makes no picture longer than this. Whether sv_image_split takes a number as longest_edge. */
enum { SV_LONGEST_EDGE = 4096 };
static inline bool sv_is_edge(int64_t longest_edge) {
    int64_t height = longest_edge >> 16, width = longest_edge & 0xffff;
    if (longest_edge <= SV_MAX_SIDE) return longest_edge >= 1;
    return height <= SV_LONGEST_EDGE && width >= 1 && width <= SV_LONGEST_EDGE;
}

const char *sv_format_name(uint32_t format);                          /* "f32", "bf16", ... */

/* Reads the tokenizer part of a checkpoint from data and sets *used to its length. The strings stay in data, which
   must outlive the tokenizer; the rest is allocated. Every length and id is checked. Ids must be below vocab_size. */
int sv_tokenizer_load(const uint8_t *data, size_t size, uint32_t vocab_size, size_t *used,
                      SvTokenizer **tokenizer, SvError *error);
void sv_tokenizer_free(SvTokenizer *tokenizer);

/* Whether an id is an added token, which no text but its own gives. */
bool sv_is_added(const SvTokenizer *tokenizer, int32_t id);

/* The bytes one id stands for, alive as long as the tokenizer; *size 0 for an id out of range or without a token. */
const char *sv_token_bytes(const SvTokenizer *tokenizer, int32_t id, size_t *size);

/* A streaming UTF-8 decoder for the bytes of tokens. Feed writes the complete characters to out (at most 3 * (size + 4)
   bytes), each invalid sequence as U+FFFD. It keeps an incomplete character for the next call. The last call sets
   `end`, and an incomplete character becomes U+FFFD. Returns the number of bytes written. */
typedef struct SvUtf8 { uint8_t kept[4]; int count; } SvUtf8;
size_t sv_utf8_feed(SvUtf8 *utf8, const char *bytes, size_t size, bool end, char *out);

/* ---------------------------------------------------------------------------------- the arithmetic (quant.c, kernels/)

   Every sum is taken in one fixed order, whatever the machine. For Q8 and Q4 the results are equal to the bit on every
   machine, for any number of threads, of rows computed together, and any vector width. f32 and bf16 products use fused
   multiply-adds where there are any, and sum up to three rows of x in another order than more. */

/* The keys and values of a layer, or of a picture's patches. q8: int8, with a scale for each position and head (used
   with weights in Q8 or Q4); otherwise f32. capacity: a multiple of 64. dim: at most SV_MAX_HEAD_DIM. data:
   cache_floats() floats; their layout is private to a kernel set, and another set cannot read it. */
#define SV_MAX_HEAD_DIM 512
typedef struct SvCache { bool q8; size_t capacity, heads, dim; float *data; } SvCache;

/* Whether attention's queries see later keys. */
enum { SV_BIDIRECTIONAL = false, SV_CAUSAL = true };

/* out [n, w.rows] = x [n, w.cols] * w^T + bias (NULL: no bias) */
typedef struct SvProduct { float *out; const SvTensor *w; const float *bias; } SvProduct;

/* The MLP of a block. count 1: second(gelu_tanh(first[0])), the tower's; 2: second(silu(first[0]) * first[1]), the
   decoder's, where first[0] is gate_proj, first[1] up_proj and second down_proj. turned: second reads turned rows. The
   results of first, [n, second.w.cols], are only room: what they hold afterwards is not defined. */
typedef struct SvMlp { SvProduct first[2]; int count; SvProduct second; bool turned; } SvMlp;

/* The functions that each instruction set implements. All threads of a team call such a function together, inside
   #pragma omp parallel, and share its work; or one thread calls it alone. Row-wise functions (all but matmul, attention
   and mlp) split n rows among the threads in the same way each time, so one may follow another without a barrier.
   matmul and attention have a barrier before they read another thread's rows, and one at their end. Anything else needs
   a #pragma omp barrier. */
typedef struct SvKernels {
    const char *name;                                                     /* "avx2", "neon", ..., "reference" */

    /* The products of the n rows of x with `count` matrices. Done together, they need x quantized once, and threads
       synchronized once. All have the same cols, and no out is x. ahead: prefetch weights, if few rows (decoding) read
       them once; a set may ignore it, as it changes no result. scratch: matmul_scratch(n, cols) floats. A thread may
       start quantizing its rows of x into scratch before the others arrive. */
    void (*matmul)(const SvProduct *products, int count, const float *x, size_t n, bool ahead, float *scratch);

    /* Stores k, v [count, heads * dim] as the positions at, at + 1, ... of the cache. Threads share it by heads, as
       count * heads rows. */
    void (*cache)(const SvCache *cache, const float *k, const float *v, size_t at, size_t count);

    /* Attention for n_q queries over the first n_k positions of the cache, all heads. out and q: [n_q, heads * dim].
       Query head h reads the cache's head h / (heads / cache.heads). SV_CAUSAL: query i sees the keys up to n_k - n_q +
       i. SV_BIDIRECTIONAL: it sees all of them. scratch: attention_scratch() floats. */
    void (*attention)(float *out, const float *q, const SvCache *cache, size_t n_q, size_t n_k, size_t heads,
                      bool causal, float *scratch);

    /* Normalize each of n rows of `size` numbers; out may be x. */
    void (*layer_norm)(float *out, const float *x, const float *weight, const float *bias, size_t n, size_t size,
                       float eps);
    void (*rms_norm)(float *out, const float *x, const float *weight, size_t n, size_t size, float eps);

    void (*gelu_tanh)(float *x, size_t n, size_t size);                     /* gelu_pytorch_tanh */
    void (*silu_mul)(float *gate, const float *up, size_t n, size_t size);  /* gate = silu(gate) * up */
    void (*add)(float *x, const float *y, size_t n, size_t size);           /* x += y */

    /* Turns each of n rows by the Hadamard matrix of `size`, in place. Turning again undoes it. */
    void (*hadamard)(float *x, size_t n, size_t size);

    /* sv_mlp (below) in one go, if the set has a faster way than to call the functions above; returns whether it did
       so, the same on all threads; only then has it matmul's barriers. NULL: the set has none.
       scratch: matmul_scratch(n, cols) floats for the larger cols. */
    bool (*mlp)(const SvMlp *mlp, const float *x, size_t n, float *scratch);

    /* How many floats each of these needs: the scratch of matmul, for n rows of cols numbers; the scratch of attention,
       for n_k positions of the cache; the data of a cache. */
    uint64_t (*matmul_scratch)(uint64_t n, uint64_t cols);
    uint64_t (*attention_scratch)(uint64_t n_k, uint64_t heads, int threads);
    uint64_t (*cache_floats)(bool q8, uint64_t capacity, uint64_t heads, uint64_t dim);
} SvKernels;

/* How the forward passes call matmul: whoever watches the model sees each product's input first. All threads of the
   team call watch together, perhaps before the others have finished their rows of x. */
static inline void sv_matmul(const SvModel *m, const SvProduct *products, int count, const float *x, size_t n,
                             bool ahead, float *scratch) {
    if (m->watch) m->watch(m->watcher, products, count, x, n);
    m->kernels->matmul(products, count, x, n, ahead, scratch);
}

/* hadamard, in a model whose matrices read turned rows: nothing in others. */
static inline void sv_turn(const SvModel *m, float *x, size_t n, size_t size) {
    if (m->config.turned) m->kernels->hadamard(x, n, size);
}

/* second(activation(first(x))), as its steps define it, whoever computes it. */
static inline void sv_mlp(const SvModel *m, const SvMlp *mlp, const float *x, size_t n, bool ahead, float *scratch) {
    const SvKernels *cpu = m->kernels;
    const SvProduct *first = mlp->first;
    size_t size = mlp->second.w->cols;
    if (!m->watch && cpu->mlp && cpu->mlp(mlp, x, n, scratch)) return;
    sv_matmul(m, first, mlp->count, x, n, ahead, scratch);
    if (mlp->count == 1) cpu->gelu_tanh(first[0].out, n, size);
    else cpu->silu_mul(first[0].out, first[1].out, n, size);
    if (mlp->turned) cpu->hadamard(first[0].out, n, size);
    sv_matmul(m, &mlp->second, 1, first[0].out, n, ahead, scratch);
}

/* A choice by time between two ways to do the same, where it depends on the processor which is better. They take turns
   until one of them has been the faster one SV_LEAD times more often than the other; times that are equal (no clock)
   count for the first. Starts as zeros, with the first way. sv_trial is told how long the way just gone took; returns
   whether to go the first way next. lead: of the first way, SV_LEAD or -SV_LEAD for good. */
enum { SV_LEAD = 6 };
typedef struct SvTrial { int lead; bool second; double before; } SvTrial;
bool sv_trial(SvTrial *trial, double seconds);

/* A decoder's: whether its steps of one position prefetch weights (kernels/vectors.h). The first way does. */
const SvTrial *sv_decoder_trial(const SvDecoder *decoder);

/* Whether the weights are Q8 or Q4, so that the cache and attention are of integers too. */
static inline bool sv_text_q8(const SvModel *m) { return m->text.layers[0].k_proj.group != 0; }
static inline bool sv_vision_q8(const SvModel *m) { return m->vision.layers[0].k_proj_weight.group != 0; }

/* The kernels that this machine can run, the fastest first; NULL past the last. */
const SvKernels *sv_kernels(int i);

/* The Hadamard matrix of `size` numbers is one of so many numbers, again and again along the diagonal: the largest power
   of two that divides the size, at most a group of Q8. */
static inline size_t sv_hadamard_block(size_t size) { return smaller(size & (~size + 1), SV_GROUP); }

/* Row `row` of w as floats. */
void sv_row(const SvTensor *w, size_t row, float *out);

/* Bytes that rows x cols numbers take in a format, scales included; 0 if there is no such format or size. */
uint64_t sv_tensor_size(uint32_t format, uint32_t group, uint32_t rows, uint32_t cols);

float sv_exp(float x);                                                    /* e^x within 2 ulp, x clamped to +-87 */
void sv_sin_cos(double angle, float *sine, float *cosine);                /* |angle| <= 2^23 */

/* ------------------------------------------------------------------------------------- the next token (sample.c) */

/* A token that may be sampled: its logit, later its weight. */
typedef struct SvCandidate { float weight; int32_t id; } SvCandidate;

/* The repetition penalty, for each id once: a logit above 0 is divided by it, one below multiplied. seen: as many zeros
   as there are logits, and again afterwards. */
void sv_penalize(float *logits, const int32_t *ids, size_t count, float penalty, uint8_t *seen);

/* At a temperature above 0: the tokens that the options leave to choose from, the likeliest first, and how many; each
   weighs e^((logit - best) / temperature). best: the largest logit. list: room for vocab. *weight: of all together. */
size_t sv_candidates(const float *logits, uint32_t vocab, float best, const SvOptions *options, SvCandidate *list,
                     float *weight);

/* The next token: the likeliest, or at a temperature above 0 one of sv_candidates, for which it takes list. -1 if a
   logit is NaN or the largest is infinite. */
int32_t sv_sample(const float *logits, uint32_t vocab, const SvOptions *options, uint64_t *random, SvCandidate *list);

/* ---------------------------------------------------------------------------------------- what they share (base.c) */

/* Makes the compiler check a function's arguments against its format. In mingw, "printf" means Microsoft's formats. */
#if defined(__MINGW32__) && !defined(__clang__)
#define SV_PRINTF(format_at, first) __attribute__((format(gnu_printf, format_at, first)))
#elif defined(__GNUC__)
#define SV_PRINTF(format_at, first) __attribute__((format(printf, format_at, first)))
#else
#define SV_PRINTF(format_at, first)
#endif

/* Writes the sentence, its middle omitted if it is too long, and returns -1. So "return sv_fail(error, ...)" is how
   every function here fails. */
SV_PRINTF(2, 3) int sv_fail(SvError *error, const char *format, ...);

/* A growing text, zero-terminated once something was put there. After a failed allocation, `failed` is set and nothing
   more is added. */
typedef struct SvBytes { char *data; size_t size, room; bool failed; } SvBytes;
void sv_put(SvBytes *text, const char *data, size_t size);

/* Allocates `count` arrays of sizes[i] floats as one block, all zero, each at the start of a cache line, and sets
   parts[i] to each. The caller gives the block to sv_zeros_free. NULL if out of memory. */
void *sv_floats(int count, const uint64_t *sizes, float **parts);
uint64_t sv_sum(int count, const uint64_t *sizes);                        /* how many floats that block holds */

/* CRC-32 as zlib's crc32(crc, data, size): start with 0, feed in pieces. PNG's and the checkpoint's checksum. */
uint32_t sv_crc32(uint32_t crc, const void *data, size_t size);

int sv_threads(int wanted);                                               /* 0: all (OMP_NUM_THREADS) */
int sv_team(int threads, uint64_t work);                                  /* 1 for too few multiply-adds to share */

/* sv_emit, called by all threads of a team together. They wait until data is complete, and again while the first
   thread, the caller's own, reports it. */
void sv_team_emit(const SvEvents *events, const char *module, int layer, const float *data, int dims,
                  const int *shape, int axis);


/* Reports an activation of a forward pass, if the caller asked for such events; %d in module is the layer. */
void sv_emit(const SvEvents *events, const char *module, int layer, const float *data, int dims, const int *shape,
             int axis);

/* smolvlm.c: a content's picture as the options and the checkpoint say. */
int sv_cut(const SvModel *model, const SvContent *content, const SvOptions *options, SvTiles *tiles, SvError *error);

/* smolvlm.c: checks, before anything is computed: ids in the vocabulary, a prompt within the context, features for each
   <image>. */
int sv_check_prompt(const SvModel *model, const SvPrompt *prompt, SvError *error);

/* image.c: refuses empty pictures and sizes above the limits (SV_MAX_SIDE, SV_MAX_PIXELS). */
int sv_check_size(uint64_t width, uint64_t height, const char *name, SvError *error);

/* image.c: allocates a picture of a size that passed sv_check_size; the pixels are not initialised. */
int sv_new_image(uint64_t width, uint64_t height, const char *name, SvImage *image, SvError *error);

/* image.c: sv_image_split without splitting, in torch's arithmetic: SmolVLMVideoProcessor.resize. */
int sv_image_frame(const SvImage *image, int longest_edge, int side, SvTiles *tiles, SvError *error);

/* video.c: SmolVLMVideoProcessor.sample_frames, the numbers of the frames in order, at most max_frames (1 ...
   SV_MAX_FRAMES); returns how many. total: 1 ... 2^53. What a prompt says before a video and before its frame i. The
   chat template's strings in *config replaced by those for conversations with a video. */
enum { SV_MAX_FRAMES = 1 << 20 };
int sv_sample_frames(int64_t total, double rate, double duration, double fps, int max_frames, int64_t *index);
void sv_video_intro(SvBytes *text, const SvVideo *video);
void sv_video_stamp(SvBytes *text, const SvVideo *video, int i);
void sv_video_chat(SvConfig *config);

/* Bytes that a tower or decoder would allocate. */
uint64_t sv_vision_memory(const SvModel *model, int tiles, int threads);
uint64_t sv_decoder_memory(const SvModel *model, int capacity, int threads);

/* -------------------------------------------------------------------------------- the operating system (system.c) */

double sv_seconds(void);                                                  /* a clock, for differences */

/* Memory of zeros, from a cache line's start on; in huge pages where the system has them and it is large. A vector that
   lies in two lines takes two reads, and a page of 4 KB takes an entry of the TLB: the two cost a tile 5 and 3 % (AVX2,
   on a Zen 4). NULL if out of memory. sv_zeros_free takes NULL, too. */
void *sv_zeros(size_t size);
void sv_zeros_free(void *block);

/* fopen, remove, rename and mkdir for names in UTF-8, on Windows too, where rename also replaces a file. (There, a name
   that is not UTF-8 is taken to be in the system's code page.) Every path given to smolvlm.h's functions is opened this
   way. */
FILE *sv_fopen(const char *path, const char *mode);
int sv_remove(const char *path);
int sv_rename(const char *from, const char *to);
int sv_mkdir(const char *path);

/* The names in a folder, in any order: how many, or -1 with errno. The caller frees each and their list. */
int64_t sv_folder(const char *path, char ***names);

/* Cuts an open file off behind its first `size` bytes. */
int sv_truncate(FILE *file, uint64_t size);

/* For Windows; elsewhere they change nothing. sv_arguments: the program's arguments in UTF-8; the caller does not free
   them. sv_console(0): the console takes UTF-8, and stdin and stdout become binary; returns the code page before, with
   which sv_console restores it. */
char **sv_arguments(int *argc, char **argv);
unsigned sv_console(unsigned code_page);

#ifdef __cplusplus
}
#endif
#endif
