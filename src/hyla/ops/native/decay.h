/* What the operators with a decay and without a solve share in both passes (decay.c, decay_grad.c). */
#ifndef HYLA_DECAY_H
#define HYLA_DECAY_H

#include "channels.h"

#define CHUNK 64
#define BLOCK 16
#define BLOCKS (CHUNK / BLOCK)
#define TABLE (CHUNK + 2) /* columns of the table of constant decays */

enum { CONSTANT, SUMMED, BY_CHANNEL }; /* rules: how a row decays */

/* Floats from one row to the next, so that rows lie in different places of the first cache. */
static int64_t spread(int64_t floats) { return whole(floats) + LANES; }

/* Where pieces of so many floats lie one after another, each at whole vectors, if there is memory; floats in all. */
static int64_t places(int count, const int64_t *sizes, float *memory, float **at) {
    int64_t total = 0;
    for (int i = 0; i < count; i++) {
        at[i] = memory ? memory + total : 0;
        total += whole(sizes[i]);
    }
    return total;
}

HOT void scaled_row(int64_t count, float a, const float *restrict x, float *restrict out) {
    for (int64_t c = 0; c < count; c++) out[c] = x[c] * a;
}

/* gap[j] = end - sums[j] in floats. */
HOT void gaps(int count, double end, const double *restrict sums, float *restrict gap) {
    for (int j = 0; j < count; j++) gap[j] = (float)(end - sums[j]);
}
HOT void exp_row(int64_t count, const float *x, float *y) {
    for (int64_t j = 0; j < count; j += LANES) store(y + j, exp_vec(load(x + j)));
}
HOT void exp_of_row(int64_t K, const float *x, float *out) {
#define BODY(c, left) store_row(out, c, left, 0, exp_vec(load_row(x, c, left, 0)))
    ALONG_ROW(K, BODY)
#undef BODY
}

#endif
