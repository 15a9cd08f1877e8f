/* kernels.h: what all parts of a kernel set share. The sets in this folder compute what quant.c defines, fast.

   A set is set.c compiled with the flags of one instruction set (see the Makefile). set.c includes the files below, all
   of static functions, and defines one SvKernels table. model.c picks a set at run time by what the processor supports.
   So one binary is fast on every machine, and sets can be compared within one process.

     vectors.h     float vectors as wide as the instruction set has them, e^x, prefetching
     sums.h        sums over a row in the fixed order
     blocks.h      the blocks of Q8 and Q4 matrices, as the file stores them
     products.h    the contract of the integer products, and the file below that implements it for this set:
                     avx512.h, avx2.h (what they share: x86.h), neon.h, plain.h
     quantize.h    quantizes rows of floats to integers
     amx.h         products of many rows by tiles, for the set "amx", which is AVX-512 otherwise; also
                     amx_attention.h, amx_mlp.h
     floats.h      products for f32 and bf16
     matmul.h      blocked matrix products
     attention.h   KV cache and attention
     rows.h        norms, activations, Hadamard matrices
     set.c         the table

   Words
     vf, vi, vu    a vector of VL floats, int32, uint32; VL is what the instruction set offers, 1 without vectors
     block         16 rows x 64 numbers of a Q8 or Q4 matrix, as in the file: four numbers of row 0, four of row 1, ...
     panel         rows of a matrix (or keys, or values), repacked in the order in which a product reads them:
                   NR rows of integers, NF rows of floats. It stays in L1 while many rows of x are multiplied with it
     strip         NR (or NF) full rows of a matrix: the unit of work given to a thread
     xint          one number of a quantized x: int8, or int16 where bytes have no exact product
     by128         128 times the sum of a group of x's integers: what a product grows by when 128 is added to each
                   weight. Instructions that multiply unsigned by signed bytes need it (AVX-512)
     STEP          how many consecutive numbers of a row are adjacent in a panel: as many as one instruction sums
     CHAINS        how many accumulators share one sum, to hide the latency of an instruction
     few, many     up to FEW rows of x, for which each weight is read once (decoding); or more (prefill, vision)

   Where the constants come from. None of them changes a bit of the results. The AVX-512 set was tuned on a Zen 5:
   CHAINS, FLOAT_CHAINS, the unrolling in products.h, ASKED, ROWS, PANEL and AHEAD. On an Intel processor only
   prefetching was measured (vectors.h), and AMX. The AVX2 set has the same values; it was measured on a Zen 3, and on
   a Zen 4 without AVX-512. The AMX set follows a trial on a Sapphire Rapids, and was measured on a later Xeon (amx.h).
   NEON was measured on no processor. Where to look first if a set is slow:
     AHEAD, locality      longer memory latency, or other hardware prefetchers: once a factor of 2.3 (vectors.h)
     unrolling            a core that speculates further ahead than a Zen 5, or less far: up to 19 % (products.h)
     PANEL, ROWS          an AVX-512 panel fills an L1 of 32 KB, as in a Zen 4 or a Cascade Lake; a small L2 does
                          not hold PANEL numbers of ROWS rows of x (0.5 MB; AVX2: 1 MB)
     ASKED                a processor may drop more prefetches (attention.h)

   To add an instruction set, follow docs/ADDING.md. In short: write a file like avx2.h with xint, NR, STEP and the
   functions that products.h lists. Add a line to the #if below, SETS and SET_name to the Makefile, and HAS_name to
   model.c. Then `./smolvlm demo/demo.bin --selftest` must show the same hash for it. */
#ifndef SV_KERNELS_H
#define SV_KERNELS_H

#include "../model.h"

#include <float.h>
#include <math.h>
#include <string.h>
#ifdef _OPENMP
#include <omp.h>
#endif

/* The instruction set that this compilation is for, and its name. SV_NO_SIMD: plain C alone. */
#ifdef SV_NO_SIMD
#define SV_SET plain
#elif defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#if defined(__AMX_TILE__) && defined(__AMX_INT8__)
#define SV_SET amx
#define SV_AMX
#else
#define SV_SET avx512
#endif
#define SV_AVX2
#define SV_VNNI
#elif defined(__AVX2__)
#define SV_SET avx2
#define SV_AVX2
#elif defined(__ARM_FEATURE_DOTPROD) && defined(__aarch64__) && !defined(__AARCH64EB__)
#define SV_SET dotprod
#define SV_NEON
#define SV_DOTPROD
#elif defined(__ARM_NEON) && defined(__aarch64__) && !defined(__AARCH64EB__)
#define SV_SET neon
#define SV_NEON
#else
#define SV_SET plain
#endif
#if defined(__GNUC__) && !defined(SV_NO_SIMD)
#define SV_VECTORS                                          /* the compiler has vector types */
#pragma GCC diagnostic ignored "-Wpsabi"                    /* about passing vectors: all functions here are static */
#endif
#ifdef SV_AVX2
#include <immintrin.h>
#elif defined(SV_NEON)
#include <arm_neon.h>
#endif

/* The innermost loops are functions of their own: when they are inlined, gcc 12 runs out of registers. */
#if defined(__GNUC__)
#define NOINLINE __attribute__((noinline))
#define INLINE static inline __attribute__((always_inline))
#else
#define NOINLINE
#define INLINE static inline
#endif

enum { LANES = 16 };                                        /* partial sums in a sum over a row */

static size_t at_most(size_t a, size_t b) { return a < b ? a : b; }
static size_t round_up(size_t n, size_t multiple) { return (n + multiple - 1) / multiple * multiple; }

static int thread_index(void) {
#ifdef _OPENMP
    return omp_get_thread_num();
#else
    return 0;
#endif
}

static int thread_count(void) {
#ifdef _OPENMP
    return omp_get_num_threads();
#else
    return 1;
#endif
}

#endif
