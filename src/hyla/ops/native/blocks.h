/* Rows of a matrix, float or bfloat16 and anywhere in memory, as dense blocks of floats that stay in a cache. */
#ifndef HYLA_BLOCKS_H
#define HYLA_BLOCKS_H

#include "vector.h"

#define BLOCK 64 /* positions of a block */

static inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
static inline const void *at(const void *p, int64_t i, int64_t is_bf16) { return (const char *)p + i * (is_bf16 ? 2 : 4); }

#ifdef __clang__
#define PICK(a, b, i, j, k, l) __builtin_shufflevector(a, b, i, j, k, l)
#else
typedef int32_t iquad __attribute__((vector_size(16)));
#define PICK(a, b, i, j, k, l) __builtin_shuffle(a, b, (iquad){i, j, k, l})
#endif
INLINE quad load_quad(const float *p) { quad x; memcpy(&x, p, sizeof x); return x; }
INLINE void store_quad(float *p, quad x) { memcpy(p, &x, sizeof x); }

/* out[j, i] = x[i, j] for 16 x 16 floats, rows of x `x_row` and of out 64 apart, in corners of 4 x 4. */
HOT void turn_corner(const float *x, int64_t x_row, float *out) {
    for (int i = 0; i < LANES; i += 4)
        for (int j = 0; j < LANES; j += 4) {
            quad a = load_quad(x + i * x_row + j), b = load_quad(x + (i + 1) * x_row + j);
            quad c = load_quad(x + (i + 2) * x_row + j), d = load_quad(x + (i + 3) * x_row + j);
            quad e = PICK(a, b, 0, 4, 1, 5), f = PICK(c, d, 0, 4, 1, 5), g = PICK(a, b, 2, 6, 3, 7), h = PICK(c, d, 2, 6, 3, 7);
            float *to = out + j * BLOCK + i;
            store_quad(to, PICK(e, f, 0, 1, 4, 5)), store_quad(to + BLOCK, PICK(e, f, 2, 3, 6, 7));
            store_quad(to + 2 * BLOCK, PICK(g, h, 0, 1, 4, 5)), store_quad(to + 3 * BLOCK, PICK(g, h, 2, 3, 6, 7));
        }
}

/* out[j, 0..count) = source[j, 0..count): rows of source `stride` apart, of out `out_stride`; the missing channels of
   the last vector are zeros. */
INLINE void copy_at(const int is_bf16, int64_t c, int left, const void *from, float *to) {
    store(to + c, load_row(from, c, left, is_bf16));
}
HOT void copy_rows(int64_t rows, int64_t stride, int64_t count, int is_bf16, const void *source, float *out,
                   int64_t out_stride) {
    for (int64_t j = 0; j < rows; j++) {
        const void *from = at(source, j * stride, is_bf16);
        float *to = out + j * out_stride;
#define BODY(c, left) copy_at(1, c, left, from, to)
        if (is_bf16) ALONG_ROW(count, BODY)
#undef BODY
#define BODY(c, left) copy_at(0, c, left, from, to)
        else ALONG_ROW(count, BODY)
#undef BODY
    }
}

#endif
