/* What every norm of a row begins with. */
#ifndef HYLA_NORMS_H
#define HYLA_NORMS_H

#include "vector.h"

/* The sum of the squares of a row: 16 sums side by side, then of these. */
HOT float square_sum(int64_t width, int is_bf16, const void *x, int64_t at) {
    vec total = splat(0.0f);
    int64_t i = 0;
    for (; i + LANES <= width; i += LANES) {
        vec v = load_full(x, at + i, is_bf16);
        total = fma_vec(v, v, total);
    }
    if (i < width) {
        vec v = load_row(x, at + i, (int)(width - i), is_bf16);
        total = fma_vec(v, v, total);
    }
    return sum_vec(total);
}

#endif
