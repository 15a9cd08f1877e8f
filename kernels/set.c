/* set.c: one kernel set; kernels.h explains how. */
#include "attention.h"
#include "rows.h"
#ifdef SV_AMX
#include "amx_mlp.h"
#define MLP mlp_by_tiles
#else
#define MLP NULL
#endif

/* Memory that the functions of the set need, in floats: see SvKernels. */
static uint64_t matmul_scratch(uint64_t n, uint64_t cols) {
    return quantized_floats((n + X_ROWS - 1) / X_ROWS * X_ROWS, cols);
}

static uint64_t attention_scratch(uint64_t n_k, uint64_t heads, int threads) {
    uint64_t few = scratch_floats(n_k, 4) * heads, many = scratch_floats(n_k, TOGETHER) * (uint64_t)threads;
    return few > many ? few : many;
}

static uint64_t cache_floats(bool q8, uint64_t capacity, uint64_t heads, uint64_t dim) {
    capacity = (capacity + KEYS - 1) / KEYS * KEYS;
    uint64_t numbers = 2 * heads * capacity * ((dim + WIDEST - 1) / WIDEST * WIDEST);
    return q8 ? 2 * heads * capacity + numbers / 4 : numbers;
}

#define STRING(name) STRING_OF(name)
#define STRING_OF(name) #name
#define TABLE(name) TABLE_OF(name)
#define TABLE_OF(name) sv_kernels_##name

/* SV_BASE: the set is compiled with the flags of the rest of the program. It may be any of the sets above, so its table
   has a name of its own. */
#ifdef SV_BASE
#define SV_TABLE sv_kernels_base
#else
#define SV_TABLE TABLE(SV_SET)
#endif

extern const SvKernels SV_TABLE;
const SvKernels SV_TABLE = { STRING(SV_SET), matmul, cache, attention, layer_norm, rms_norm, gelu_tanh, silu_mul,
                             add, hadamard, MLP, matmul_scratch, attention_scratch, cache_floats };
