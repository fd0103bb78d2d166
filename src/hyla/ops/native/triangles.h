/* Sums of rows over a matrix as in sums.h, for backward passes: a row's numbers may stand in a column of x, and a row may
   take a part of them only, up to its own place or from it on.

       out[i, :] = factor_i out[i, :] + sum_c x[i, c] s[c, :]

   c goes upwards, one fused multiply-add each: how many rows and columns go together changes no bit. Columns come in
   whole vectors; what is left out of a triangle is not read. */
#ifndef HYLA_TRIANGLES_H
#define HYLA_TRIANGLES_H

#include "rows.h"

enum { ALL, UP_TO_OWN, FROM_OWN };        /* of a row's numbers; the last two where there are as many rows */
enum { BY_ROW, BY_COLUMN };               /* x[i, c] is at x + i * x_step + c, or at x + c * x_step + i */
enum { NEW_SUMS, SCALED_SUMS };

typedef struct {
    int64_t count, columns; /* of s */
    const float *x, *s;
    float *out;
    int64_t x_step, s_row, out_row;
    const float *factor;    /* of each row, `factor_step` apart */
    int64_t factor_step;
} Terms;

#define X_AT(i, c) x[order == BY_ROW ? (i) * x_step + (c) : (c) * x_step + (i)]

/* One row of s, for the rows [first, last) of the block. */
#define ADD_TERM(first, last, c)                                                                        \
    {                                                                                                   \
        vec own[MOST_SIDE_BY_SIDE];                                                                     \
        _Pragma("GCC unroll 8") for (int m = 0; m < wide; m++) own[m] = load(s + (c) * s_row + m * LANES); \
        _Pragma("GCC unroll 8") for (int i = (first); i < (last); i++) {                                \
            vec factor = splat(X_AT(i, c));                                                             \
            _Pragma("GCC unroll 8") for (int m = 0; m < wide; m++) sum[i][m] = fma_vec(factor, own[m], sum[i][m]); \
        }                                                                                               \
    }

INLINE void term_block(const int n, const int wide, const int part, const int order, const int start, const Terms *call,
                       int64_t row, int64_t column) {
    int64_t x_step = call->x_step, s_row = call->s_row, out_row = call->out_row;
    int64_t c = 0, end = part == UP_TO_OWN ? row : call->count;
    const float *x = call->x + (order == BY_ROW ? row * x_step : row), *s = call->s + column;
    float *out = call->out + row * out_row + column;
    vec sum[MOST_ROWS][MOST_SIDE_BY_SIDE];
#pragma GCC unroll 8
    for (int i = 0; i < n; i++)
#pragma GCC unroll 8
        for (int m = 0; m < wide; m++)
            sum[i][m] = start == NEW_SUMS ? splat(0.0f)
                                          : multiply(load(out + i * out_row + m * LANES),
                                                     splat(call->factor[(row + i) * call->factor_step]));
    if (part == FROM_OWN) {
#pragma GCC unroll 8
        for (int j = 0; j < n; j++) ADD_TERM(0, j + 1, row + j)
        c = row + n;
    }
    for (; c < end; c++) ADD_TERM(0, n, c)
    if (part == UP_TO_OWN) {
#pragma GCC unroll 8
        for (int j = 0; j < n; j++) ADD_TERM(j, n, row + j)
    }
#pragma GCC unroll 8
    for (int i = 0; i < n; i++)
#pragma GCC unroll 8
        for (int m = 0; m < wide; m++) store(out + i * out_row + m * LANES, sum[i][m]);
}

/* Columns outside, rows inside: a strip of s stays in the first cache. */
INLINE void term_groups(const int n, const int part, const int order, const int start, const Terms *call, int64_t row,
                        int64_t end) {
    const int wide = SIDE_BY_SIDE(n);
    int64_t w = 0;
    for (; w + wide * LANES <= call->columns; w += wide * LANES)
        for (int64_t r = row; r < end; r += n) term_block(n, wide, part, order, start, call, r, w);
    for (; wide > 1 && w < call->columns; w += LANES)
        for (int64_t r = row; r < end; r += n) term_block(n, 1, part, order, start, call, r, w);
}

INLINE void terms(const int part, const int order, const int start, int64_t rows, const Terms *call) {
    int64_t done = rows / MOST_ROWS * MOST_ROWS;
    if (done) term_groups(MOST_ROWS, part, order, start, call, 0, done);
    if ((rows - done) & 4) term_groups(4, part, order, start, call, done, done + 4), done += 4;
    if ((rows - done) & 2) term_groups(2, part, order, start, call, done, done + 2), done += 2;
    if ((rows - done) & 1) term_groups(1, part, order, start, call, done, done + 1);
}

/* out = x s;  out = factor out + x s;  and with x transposed. */
HOT void new_terms(int64_t rows, const Terms *call) { terms(ALL, BY_ROW, NEW_SUMS, rows, call); }
HOT void more_terms(int64_t rows, const Terms *call) { terms(ALL, BY_ROW, SCALED_SUMS, rows, call); }
HOT void turned_terms(int64_t rows, const Terms *call) { terms(ALL, BY_COLUMN, SCALED_SUMS, rows, call); }
/* out = factor out + x s for a lower triangle x, and for a lower triangle transposed. */
HOT void earlier_terms(int64_t rows, const Terms *call) { terms(UP_TO_OWN, BY_ROW, SCALED_SUMS, rows, call); }
HOT void later_terms(int64_t rows, const Terms *call) { terms(FROM_OWN, BY_COLUMN, SCALED_SUMS, rows, call); }

typedef int32_t iquad __attribute__((vector_size(16)));
#if defined(__clang__)
#define PICK(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#else
#define PICK(a, b, i, j, k, l) __builtin_shuffle(a, b, (iquad){i, j, k, l})
#endif

INLINE quad load_quad(const float *p) { quad x; memcpy(&x, p, sizeof x); return x; }
INLINE void store_quad(float *p, quad x) { memcpy(p, &x, sizeof x); }

/* out[c, r] = x[r, c]; rows and columns are multiples of 4. */
HOT void transpose(int64_t rows, int64_t columns, const float *x, int64_t x_row, float *out, int64_t out_row) {
    for (int64_t c = 0; c < columns; c += 4)
        for (int64_t r = 0; r < rows; r += 4) {
            const float *from = x + r * x_row + c;
            float *to = out + c * out_row + r;
            quad a = load_quad(from), b = load_quad(from + x_row), d = load_quad(from + 2 * x_row);
            quad e = load_quad(from + 3 * x_row);
            quad ab_low = PICK(a, b, 0, 4, 1, 5), ab_high = PICK(a, b, 2, 6, 3, 7);
            quad de_low = PICK(d, e, 0, 4, 1, 5), de_high = PICK(d, e, 2, 6, 3, 7);
            store_quad(to, PICK(ab_low, de_low, 0, 1, 4, 5));
            store_quad(to + out_row, PICK(ab_low, de_low, 2, 3, 6, 7));
            store_quad(to + 2 * out_row, PICK(ab_high, de_high, 0, 1, 4, 5));
            store_quad(to + 3 * out_row, PICK(ab_high, de_high, 2, 3, 6, 7));
        }
}

#endif
