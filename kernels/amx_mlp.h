/* amx_mlp.h: an MLP of many rows by Intel's AMX. What its first product gives goes through the activation, and is
   quantized for the second one, while it is in L1 or L2. So of its middle, several times as wide as x, memory sees
   bytes instead of floats, and once. A tile of the 500M model takes 10 to 13 % less time. */
#ifndef SV_AMX_MLP_H
#define SV_AMX_MLP_H

#include "matmul.h"
#include "rows.h"

/* GROUP columns of the middle, from `first` on, of the rows i0 .. i1 - 1. */
static NOINLINE void middle_strip(const SvMlp *mlp, const Quantized *x, const Quantized *middle, size_t first,
                                  size_t i0, size_t i1) {
    enum { BLOCK = 128 };
    _Alignas(64) float part[2][BLOCK * GROUP];
    for (size_t i = i0; i < i1; i += BLOCK) {
        size_t end = at_most(i + BLOCK, i1);
        for (int k = 0; k < mlp->count; k++) {
            const SvProduct *p = &mlp->first[k];
            for (size_t c = 0; c < GROUP; c += NR)
                integer_strip(part[k] + c, GROUP, p->w, p->bias, x, first + c, i, end);
        }
        for (size_t r = i; r < end; r++) {
            float *row = part[0] + (r - i) * GROUP;
            if (mlp->count == 1) gelu_row(row, GROUP);
            else silu_row(row, part[1] + (r - i) * GROUP, GROUP);
            if (mlp->turned) hadamard_row(row, GROUP);
            middle->d[mark_of(middle, r, first / GROUP)] =
                quantize(bytes_of(middle, r, first / GROUP), row, GROUP, GROUP, NULL);
        }
    }
}

static bool mlp_by_tiles(const SvMlp *mlp, const float *x, size_t n, float *scratch) {
    const SvTensor *w = mlp->first[0].w, *second = mlp->second.w;
    /* The quantized middle lies in first[0].out, [n, second->cols]. It takes at most 32 floats of the 64 for each row
       and group, and with LEAST rows, rounding up to 16 adds less than half. */
    enum { LEAST = 32 };
    if (n < LEAST || second->cols % GROUP || w->group != GROUP || second->group != GROUP) return false;
    if (mlp->count == 2 && mlp->first[1].w->group != GROUP) return false;
    Quantized xq = quantized_in(scratch, round_up(n, X_ROWS), w->cols, GROUP);
    Quantized middle = quantized_in(mlp->first[0].out, round_up(n, X_ROWS), second->cols, GROUP);
    xq.tiled = middle.tiled = true;
#pragma omp for schedule(static)
    for (int64_t i = 0; i < (int64_t)n; i++) quantize_row(&xq, (size_t)i, x + (size_t)i * w->cols, w->cols, false);
    size_t strips = second->cols / GROUP, units = strips * ((n + ROWS - 1) / ROWS);
#pragma omp for schedule(dynamic)
    for (int64_t u = 0; u < (int64_t)units; u++) {
        size_t i0 = (size_t)u / strips * ROWS;
        middle_strip(mlp, &xq, &middle, (size_t)u % strips * GROUP, i0, at_most(i0 + ROWS, n));
    }
    units = units_of(second, n, NR);
#pragma omp for schedule(dynamic)
    for (int64_t u = 0; u < (int64_t)units; u++) multiply_unit(&mlp->second, (size_t)u, NULL, &middle, n, NR, false);
    return true;
}

#endif
