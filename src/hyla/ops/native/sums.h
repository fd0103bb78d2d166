/* Sums of rows over a matrix, out[i, :] = start + sum_c x[i, c] s[c, :], for any number of rows and whole vectors of columns:
   a strip of columns at a time, with as many sums in registers as there are. */
#ifndef HYLA_SUMS_H
#define HYLA_SUMS_H

#include "rows.h"

/* What a sum begins with: zero, or what is there times the row's factor. */
enum { FROM_ZERO, FROM_SCALED };

typedef struct {
    int64_t count, columns; /* of s; columns are whole vectors */
    const float *x, *s;
    float *out;
    int64_t x_row, s_row, out_row;
    const float *factor;    /* of each row, `factor_step` apart */
    int64_t factor_step;
} Sums;

/* Ask for a strip of s that is read next: memory is quicker in the order of rows, a few registers want strips. */
INLINE void fetch_strip(const int wide, int64_t count, const float *s, int64_t s_row) {
    for (int64_t c = 0; c < count; c++)
#pragma GCC unroll 2
        for (int m = 0; m < wide; m++) __builtin_prefetch(s + c * s_row + m * LANES, 0, 3);
}

INLINE void sum_block(const int n, const int wide, const int start, const Sums *call, int64_t row, int64_t column) {
    const float *x = call->x + row * call->x_row, *s = call->s + column;
    float *out = call->out + row * call->out_row + column;
    int64_t x_row = call->x_row, s_row = call->s_row, out_row = call->out_row, count = call->count;
    vec sum[MOST_ROWS][MOST_SIDE_BY_SIDE];
#pragma GCC unroll 8
    for (int i = 0; i < n; i++)
#pragma GCC unroll 8
        for (int m = 0; m < wide; m++) {
            sum[i][m] = start == FROM_ZERO ? splat(0.0f) : load(out + i * out_row + m * LANES);
            if (start == FROM_SCALED) sum[i][m] = multiply(sum[i][m], splat(call->factor[(row + i) * call->factor_step]));
        }
    if (PARTS > 1 && n <= 2 && column + 2 * wide * LANES <= call->columns) fetch_strip(wide, count, s + wide * LANES, s_row);
    SUM_ROWS(n, wide, 0, 0, count, x, x_row, s, s_row, (const char *)0, sum)
#pragma GCC unroll 8
    for (int i = 0; i < n; i++)
#pragma GCC unroll 8
        for (int m = 0; m < wide; m++) store(out + i * out_row + m * LANES, sum[i][m]);
}

/* Columns outside, rows inside: a strip of s stays in the first cache. */
INLINE void sum_groups(const int n, const int start, const Sums *call, int64_t row, int64_t end) {
    const int wide = SIDE_BY_SIDE(n);
    int64_t w = 0;
    for (; w + wide * LANES <= call->columns; w += wide * LANES)
        for (int64_t r = row; r < end; r += n) sum_block(n, wide, start, call, r, w);
    for (; wide > 1 && w + LANES <= call->columns; w += LANES)
        for (int64_t r = row; r < end; r += n) sum_block(n, 1, start, call, r, w);
}

/* out[i, :] = start + sum_c x[i, c] s[c, :], c upwards, for `rows` rows. */
INLINE void sum_all(const int start, int64_t rows, const Sums *call) {
    int64_t done = rows / MOST_ROWS * MOST_ROWS;
    if (done) sum_groups(MOST_ROWS, start, call, 0, done);
    if ((rows - done) & 4) sum_groups(4, start, call, done, done + 4), done += 4;
    if ((rows - done) & 2) sum_groups(2, start, call, done, done + 2), done += 2;
    if ((rows - done) & 1) sum_groups(1, start, call, done, done + 1);
}
HOT void product_rows(int64_t rows, const Sums *call) { sum_all(FROM_ZERO, rows, call); }
HOT void fold_rows(int64_t rows, const Sums *call) { sum_all(FROM_SCALED, rows, call); }

#endif
