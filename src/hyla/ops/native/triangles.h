/* Sums of rows over a matrix as in sums.h, for backward passes: a row's numbers may stand in a column of x, and a row may
   take a part of them only, up to its own place or from it on.

       out[i, :] = factor_i out[i, :] + sum_c x[i, c] s[c, :]

   c goes upwards, one fused multiply-add each: how many rows and columns go together changes no bit. All matrices of a
   call are its thread's own memory, whose rows are whole vectors; what is left out of a triangle is not read. */
#ifndef HYLA_TRIANGLES_H
#define HYLA_TRIANGLES_H

#include "rows.h"

enum { ALL, UP_TO_OWN, FROM_OWN };        /* of a row's numbers; the last two where there are as many rows */
enum { BY_ROW, BY_COLUMN };               /* x[i, c] is at x + i * x_step + c, or at x + c * x_step + i */
enum { NEW_SUMS, MORE_SUMS, SCALED_SUMS }; /* begun at zero, with what is there, or with that times the row's factor */

typedef struct {
    int64_t count, columns; /* of s; columns are rounded up to whole vectors */
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
        for (int m = 0; m < wide; m++) {
            sum[i][m] = start == NEW_SUMS ? splat(0.0f) : load(out + i * out_row + m * LANES);
            if (start == SCALED_SUMS) sum[i][m] = multiply(sum[i][m], splat(call->factor[(row + i) * call->factor_step]));
        }
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
    for (; w < call->columns; w += LANES)
        for (int64_t r = row; r < end; r += n) term_block(n, 1, part, order, start, call, r, w);
}

INLINE void terms(const int part, const int order, const int start, int64_t rows, const Terms *call) {
    int64_t done = rows / MOST_ROWS * MOST_ROWS;
    if (done) term_groups(MOST_ROWS, part, order, start, call, 0, done);
    if ((rows - done) & 4) term_groups(4, part, order, start, call, done, done + 4), done += 4;
    if ((rows - done) & 2) term_groups(2, part, order, start, call, done, done + 2), done += 2;
    if ((rows - done) & 1) term_groups(1, part, order, start, call, done, done + 1);
}

/* out = x s;  out = out + x s;  out = factor out + x s;  and with x transposed. */
HOT void new_terms(int64_t rows, const Terms *call) { terms(ALL, BY_ROW, NEW_SUMS, rows, call); }
HOT void added_terms(int64_t rows, const Terms *call) { terms(ALL, BY_ROW, MORE_SUMS, rows, call); }
HOT void more_terms(int64_t rows, const Terms *call) { terms(ALL, BY_ROW, SCALED_SUMS, rows, call); }
HOT void new_turned_terms(int64_t rows, const Terms *call) { terms(ALL, BY_COLUMN, NEW_SUMS, rows, call); }
HOT void added_turned_terms(int64_t rows, const Terms *call) { terms(ALL, BY_COLUMN, MORE_SUMS, rows, call); }
HOT void turned_terms(int64_t rows, const Terms *call) { terms(ALL, BY_COLUMN, SCALED_SUMS, rows, call); }
/* out = factor out + x s for a lower triangle x, and for a lower triangle transposed. */
HOT void earlier_terms(int64_t rows, const Terms *call) { terms(UP_TO_OWN, BY_ROW, SCALED_SUMS, rows, call); }
HOT void later_terms(int64_t rows, const Terms *call) { terms(FROM_OWN, BY_COLUMN, SCALED_SUMS, rows, call); }

/* Four rows of four: their columns. */
INLINE void transpose_quads(const float *from, int64_t from_row, float *to, int64_t to_row) {
#if defined(__x86_64__) && !defined(PLAIN_C)
    __m128 a = _mm_loadu_ps(from), b = _mm_loadu_ps(from + from_row), c = _mm_loadu_ps(from + 2 * from_row),
           d = _mm_loadu_ps(from + 3 * from_row);
    _MM_TRANSPOSE4_PS(a, b, c, d);
    _mm_storeu_ps(to, a), _mm_storeu_ps(to + to_row, b), _mm_storeu_ps(to + 2 * to_row, c);
    _mm_storeu_ps(to + 3 * to_row, d);
#else
    for (int j = 0; j < 4; j++)
        for (int i = 0; i < 4; i++) to[j * to_row + i] = from[i * from_row + j];
#endif
}
TAIL void transpose_tail(int64_t rows, int64_t columns, const float *from, int64_t from_row, float *to, int64_t to_row) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++) to[j * to_row + i] = from[i * from_row + j];
}
/* to[j, i] = from[i, j]. Sixteen rows at a time: so many lines of `to` are written whole. */
static void transpose(int64_t rows, int64_t columns, const float *from, int64_t from_row, float *to, int64_t to_row) {
    int64_t some = columns / 4 * 4, i = 0;
    for (; i + LANES <= rows; i += LANES) {
        for (int64_t j = 0; j < some; j += 4)
            for (int64_t q = i; q < i + LANES; q += 4)
                transpose_quads(from + q * from_row + j, from_row, to + j * to_row + q, to_row);
        if (some < columns)
            transpose_tail(LANES, columns - some, from + i * from_row + some, from_row, to + some * to_row + i, to_row);
    }
    if (i < rows) transpose_tail(rows - i, columns, from + i * from_row, from_row, to + i, to_row);
}

#endif
