/* kernels.h: what all parts of a kernel set share. The sets in this folder compute what quant.c defines, fast.

   One set is one compilation of set.c with one instruction set's flags (see the Makefile): it includes the files below,
   which are full of static functions, and gives one SvKernels. model.c picks a set by what the processor says at run
   time, so one binary is fast on every machine, and sets can be compared within one process.

     vectors.h     vectors of floats of whatever width there is, e^x, prefetching
     sums.h        sums over a row in the fixed order
     blocks.h      Q8 and Q4 matrices as they lie in the file
     products.h    the contract of the integer products, and the one of these files that keeps it:
                     avx512.h, avx2.h (what they share: x86.h), neon.h, plain.h
     quantize.h    rows of floats to integers
     floats.h      products for f32 and bf16
     matmul.h      blocked matrix products
     attention.h   KV cache and attention
     rows.h        norms and activations
     set.c         the table

   Words
     vf, vi, vu    a vector of VL floats, int32, uint32; VL is what the instruction set offers, 1 without vectors
     block         16 rows x 64 numbers of a Q8 or Q4 matrix, as in the file: four numbers of each row in turn
     panel         rows of a matrix (or keys, or values), repacked in the order in which a product reads them:
                   NR rows of integers, NF rows of floats. It stays in the first-level cache while many rows of x pass
     strip         NR (or NF) rows of a matrix in their whole length: the unit of work that a thread takes
     xint          one number of a quantized x: int8, or int16 where there is no exact product of bytes
     by128         128 times the sum of a group of x's integers: what adding 128 to each weight would add to the
                   product. Instructions that multiply unsigned by signed bytes need it (AVX-512)
     STEP          how many consecutive numbers of a row lie side by side in a panel: what one instruction sums up
     CHAINS        how many accumulators share one sum, so that an instruction need not wait for the one before
     few, many     up to FEW rows of x, which read each weight once (decoding); or more (prefill, vision)

   Where the constants come from. None changes a bit of what is computed. The AVX-512 set was tuned on a Zen 5: CHAINS,
   FLOAT_CHAINS, the unrolling in products.h, ASKED, ROWS, PANEL and AHEAD; on an Intel processor only prefetching was
   looked at (vectors.h). The AVX2 set has the same values and was measured on a Zen 3, and on a Zen 4 without AVX-512;
   NEON on no processor. Where to look first if one is slow:
     AHEAD, locality      memory that takes longer to answer, or other prefetchers: 2.3 times, once (vectors.h)
     unrolling            a core that runs ahead further, or less far, than a Zen 5: up to 19 % (products.h)
     PANEL, ROWS          a panel of AVX-512 fills a first-level cache of 32 KB, which a Zen 4 or a Cascade Lake has;
                          a small second-level one does not hold PANEL numbers of ROWS rows of x (0.5 MB, AVX2: 1 MB)
     ASKED                a processor may drop more prefetches (attention.h)

   One more instruction set: docs/ADDING.md says it step by step. In short: a file like avx2.h with xint, NR, STEP and
   the functions that products.h lists; a line in the #if below; SETS and SET_name in the Makefile; HAS_name in model.c.
   Then `./smolvlm demo/demo.bin --selftest` must show the same hash for it. */
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
#define SV_SET avx512
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
#pragma GCC diagnostic ignored "-Wpsabi"                    /* how they are passed: all functions here are static */
#endif
#ifdef SV_AVX2
#include <immintrin.h>
#elif defined(SV_NEON)
#include <arm_neon.h>
#endif

/* The innermost loops stand in functions of their own: inlined into others, gcc 12 runs out of registers. */
#if defined(__GNUC__)
#define NOINLINE __attribute__((noinline))
#else
#define NOINLINE
#endif

enum { LANES = 16 };                                        /* of a sum over a row */

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
