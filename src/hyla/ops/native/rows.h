/* The loop under the delta rules and attention: a few rows, each times its own numbers, into sums that stay in registers.

       sum[i, :] = sum[i, :] + x[i, first] s[first, :] + ... + x[i, last - 1] s[last - 1, :]

   One fused multiply-add at a time, upwards, for every element: how many rows and columns go together changes nothing
   but the time. */
#ifndef HYLA_ROWS_H
#define HYLA_ROWS_H

#include "vector.h"

/* Vectors of 16 that a row takes along, for n rows: as many sums as there are registers for, beside what is loaded. */
#if LANES_OF_A_PART == 16
#define SIDE_BY_SIDE(n) ((n) <= 2 ? 8 : (n) <= 6 ? 4 : 2) /* of 32 registers at most 24 */
#define MOST_ROWS 8
#elif LANES_OF_A_PART == 8
#define SIDE_BY_SIDE(n) ((n) == 1 ? 4 : (n) == 2 ? 2 : 1) /* of 16 registers at most 12 */
#define MOST_ROWS 6
#else
#define SIDE_BY_SIDE(n) ((n) == 1 ? 4 : (n) == 2 ? 2 : 1) /* of 32 registers at most 24 */
#define MOST_ROWS 6
#endif

#define MOST_SIDE_BY_SIDE 8

/* What follows is written for constant n and wide only: then `sum` is registers. Rows of x and s are x_row and s_row
   elements apart. ahead, or 0: bytes that are asked for meanwhile, as many as a row of s has, at a time. */
#define SUM_ROWS(n, wide, is_bf16, first, last, x, x_row, s, s_row, ahead, sum)                            \
    for (int64_t c = (first); c < (last); c++) {                                                           \
        if (ahead) fetch(ahead, (wide) * c, is_bf16, wide);                                                \
        if ((n) == 1) {                                                                                    \
            vec factor = splat((x)[c]);                                                                    \
            _Pragma("GCC unroll 8") for (int m = 0; m < (wide); m++)                                       \
                sum[0][m] = fma_vec(factor, load_full(s, c * (s_row) + m * LANES, is_bf16), sum[0][m]);    \
        } else {                                                                                           \
            vec own[MOST_SIDE_BY_SIDE];                                                                    \
            _Pragma("GCC unroll 8") for (int m = 0; m < (wide); m++)                                       \
                own[m] = load_full(s, c * (s_row) + m * LANES, is_bf16);                                   \
            _Pragma("GCC unroll 8") for (int i = 0; i < (n); i++) {                                        \
                vec factor = splat((x)[i * (x_row) + c]);                                                  \
                _Pragma("GCC unroll 8") for (int m = 0; m < (wide); m++)                                   \
                    sum[i][m] = fma_vec(factor, own[m], sum[i][m]);                                        \
            }                                                                                              \
        }                                                                                                  \
    }

/* The same over floats, where the vectors of a row of s lie `panel` elements apart. */
#define SUM_PANELS(n, wide, first, last, x, x_row, s, s_row, panel, sum)                                   \
    for (int64_t c = (first); c < (last); c++) {                                                           \
        vec own[MOST_SIDE_BY_SIDE];                                                                        \
        _Pragma("GCC unroll 8") for (int m = 0; m < (wide); m++)                                           \
            own[m] = load((s) + c * (s_row) + m * (panel));                                                \
        _Pragma("GCC unroll 8") for (int i = 0; i < (n); i++) {                                            \
            vec factor = splat((x)[i * (x_row) + c]);                                                      \
            _Pragma("GCC unroll 8") for (int m = 0; m < (wide); m++)                                       \
                sum[i][m] = fma_vec(factor, own[m], sum[i][m]);                                            \
        }                                                                                                  \
    }

/* Ask for the bytes of `vectors` vectors that are read later: pages lie anywhere, and no hardware guesses where. */
INLINE void fetch(const char *ahead, int64_t vectors, const int is_bf16, const int wide) {
    const int bytes = LANES * (is_bf16 ? 2 : 4);
    for (int line = 0; line * 64 < wide * bytes; line++) __builtin_prefetch(ahead + vectors * bytes + 64 * line, 0, 2);
}

#endif
