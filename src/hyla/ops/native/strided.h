/* Sums of rows over a matrix for backward passes: out[i, :] = start + sum_c x(i, c) s[c, :], c upwards, one fused
   multiply-add each, where x lies by rows or by columns (a product with its transpose needs no copy). All matrices of a
   call are its thread's own memory: their rows are whole vectors, `apart` floats one from the next. */
#ifndef HYLA_STRIDED_H
#define HYLA_STRIDED_H

#include "channels.h"
#include "rows.h"

/* Floats from one row of `columns` to the next: whole vectors, an odd number of them. Rows of a power of two of bytes
   meet in a few sets of the first cache, and a strip of them would not stay there. */
INLINE int64_t apart(int64_t columns) { return (whole(columns) / LANES | 1) * LANES; }

/* What a sum begins with: zero, what is there, or that times the row's factor. */
enum { FROM_ZERO, FROM_OUT, FROM_SCALED };
/* How x lies: x(i, c) = x[i x_row + c], or x[c x_row + i]. */
enum { BY_ROWS, BY_COLUMNS };

typedef struct {
    int64_t count, columns; /* of s; columns are rounded up to whole vectors */
    const float *x, *s;
    float *out;
    int64_t x_row, s_row, out_row;
    const float *factor;    /* of each row, `factor_step` apart */
    int64_t factor_step;
} Sums;

INLINE void sum_block(const int n, const int wide, const int start, const int lies, const Sums *call, int64_t row,
                      int64_t column) {
    int64_t x_row = call->x_row, s_row = call->s_row, out_row = call->out_row, count = call->count;
    const float *x = call->x + (lies == BY_ROWS ? row * x_row : row), *s = call->s + column;
    float *out = call->out + row * out_row + column;
    vec sum[MOST_ROWS][MOST_SIDE_BY_SIDE];
#pragma GCC unroll 8
    for (int i = 0; i < n; i++)
#pragma GCC unroll 8
        for (int m = 0; m < wide; m++) {
            sum[i][m] = start == FROM_ZERO ? splat(0.0f) : load(out + i * out_row + m * LANES);
            if (start == FROM_SCALED) sum[i][m] = multiply(sum[i][m], splat(call->factor[(row + i) * call->factor_step]));
        }
    for (int64_t c = 0; c < count; c++) {
        vec own[MOST_SIDE_BY_SIDE];
#pragma GCC unroll 8
        for (int m = 0; m < wide; m++) own[m] = load(s + c * s_row + m * LANES);
#pragma GCC unroll 8
        for (int i = 0; i < n; i++) {
            vec factor = splat(lies == BY_ROWS ? x[i * x_row + c] : x[c * x_row + i]);
#pragma GCC unroll 8
            for (int m = 0; m < wide; m++) sum[i][m] = fma_vec(factor, own[m], sum[i][m]);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < n; i++)
#pragma GCC unroll 8
        for (int m = 0; m < wide; m++) store(out + i * out_row + m * LANES, sum[i][m]);
}

/* Columns outside, rows inside: a strip of s stays in the first cache. */
INLINE void sum_groups(const int n, const int start, const int lies, const Sums *call, int64_t row, int64_t end) {
    const int wide = SIDE_BY_SIDE(n);
    int64_t w = 0;
    for (; w + wide * LANES <= call->columns; w += wide * LANES)
        for (int64_t r = row; r < end; r += n) sum_block(n, wide, start, lies, call, r, w);
    for (; w < call->columns; w += LANES)
        for (int64_t r = row; r < end; r += n) sum_block(n, 1, start, lies, call, r, w);
}

INLINE void sum_all(const int start, const int lies, int64_t rows, const Sums *call) {
    int64_t done = rows / MOST_ROWS * MOST_ROWS;
    if (done) sum_groups(MOST_ROWS, start, lies, call, 0, done);
    if ((rows - done) & 4) sum_groups(4, start, lies, call, done, done + 4), done += 4;
    if ((rows - done) & 2) sum_groups(2, start, lies, call, done, done + 2), done += 2;
    if ((rows - done) & 1) sum_groups(1, start, lies, call, done, done + 1);
}
HOT void product_by_rows(int64_t rows, const Sums *call) { sum_all(FROM_ZERO, BY_ROWS, rows, call); }
HOT void add_by_rows(int64_t rows, const Sums *call) { sum_all(FROM_OUT, BY_ROWS, rows, call); }
HOT void product_by_columns(int64_t rows, const Sums *call) { sum_all(FROM_ZERO, BY_COLUMNS, rows, call); }
HOT void add_by_columns(int64_t rows, const Sums *call) { sum_all(FROM_OUT, BY_COLUMNS, rows, call); }
HOT void fold_by_columns(int64_t rows, const Sums *call) { sum_all(FROM_SCALED, BY_COLUMNS, rows, call); }

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
