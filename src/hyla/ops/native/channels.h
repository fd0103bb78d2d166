/* Decays by channel: sums of log decays in double, and rows times the exponential of them. */
#ifndef HYLA_CHANNELS_H
#define HYLA_CHANNELS_H

#include "vector.h"

/* Floats, rounded up to whole vectors. */
INLINE int64_t whole(int64_t floats) { return (floats + LANES - 1) / LANES * LANES; }

/* out = e^run, with run's zeros after the last channel. */
HOT void exp_of_sums(int64_t K, const double *run, float *out) {
#define BODY(c, left) store_row(out, c, left, 0, exp_vec(from_doubles(run + (c))))
    ALONG_ROW(K, BODY)
#undef BODY
}
HOT void add_decays(int64_t K, const float *restrict decay, double *restrict run) {
    for (int64_t c = 0; c < K; c++) run[c] += (double)decay[c];
}
HOT void add_sums(int64_t K, const double *restrict sum, double *restrict run) {
    for (int64_t c = 0; c < K; c++) run[c] += sum[c];
}

/* out = x e^run. */
HOT void decayed_row(int64_t K, const double *run, const float *x, float *out) {
#define BODY(c, left) store_row(out, c, left, 0, multiply(exp_vec(from_doubles(run + (c))), load_row(x, c, left, 0)))
    ALONG_ROW(K, BODY)
#undef BODY
}

/* out[c, 0..16) = factor[c] x[c, :], rows of out 64 apart. */
HOT void scaled_columns(int64_t K, const float *factor, const float *x, float *out) {
    for (int64_t c = 0; c < K; c++) store(out + c * 64, multiply(splat(factor[c]), load(x + c * LANES)));
}

#endif
