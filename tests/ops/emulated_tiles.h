/* The processor's matrix tiles (AMX) in plain C, as Intel's manual describes them, to be included before product.c: what
   it computes with tiles is then computed anywhere. */
#include <float.h>
#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef __x86_64__
#include <immintrin.h> /* before its names get another meaning */
#endif

#define HAS_TILES 1

static _Thread_local struct {
    uint16_t bytes[8];
    uint8_t rows[8];
    uint8_t at[8][16][64];
} emulated;

static inline void emulated_shape(const void *shape) {
    memcpy(emulated.bytes, (const uint8_t *)shape + 16, sizeof emulated.bytes);
    memcpy(emulated.rows, (const uint8_t *)shape + 48, sizeof emulated.rows);
    memset(emulated.at, 0, sizeof emulated.at);
}

static inline void emulated_load(int tile, const void *from, int64_t stride) {
    memset(emulated.at[tile], 0, sizeof emulated.at[tile]);
    for (int r = 0; r < emulated.rows[tile]; r++)
        memcpy(emulated.at[tile][r], (const uint8_t *)from + r * stride, emulated.bytes[tile]);
}

static inline void emulated_store(int tile, void *to, int64_t stride) {
    for (int r = 0; r < emulated.rows[tile]; r++)
        memcpy((uint8_t *)to + r * stride, emulated.at[tile][r], emulated.bytes[tile]);
}

static inline float emulated_flush(float x) { return fabsf(x) < FLT_MIN ? copysignf(0.0f, x) : x; }

static inline float emulated_bf16(const uint8_t *p) {
    uint32_t bits = (uint32_t)p[0] << 16 | (uint32_t)p[1] << 24;
    float x;
    memcpy(&x, &bits, 4);
    return emulated_flush(x);
}

/* Even and odd columns have a sum each, begun at zero; both join, and the tile's sum gets them. */
static inline void emulated_product(int to, int x, int w) {
    for (int m = 0; m < emulated.rows[to]; m++)
        for (int n = 0; n < emulated.bytes[to] / 4; n++) {
            float sum[2] = {0.0f, 0.0f}, before;
            for (int k = 0; k < emulated.bytes[x] / 4; k++)
                for (int h = 0; h < 2; h++)
                    sum[h] = emulated_flush(fmaf(emulated_bf16(emulated.at[x][m] + 4 * k + 2 * h),
                                                 emulated_bf16(emulated.at[w][k] + 4 * n + 2 * h), sum[h]));
            memcpy(&before, emulated.at[to][m] + 4 * n, 4);
            float after = emulated_flush(emulated_flush(before) + emulated_flush(sum[0] + sum[1]));
            memcpy(emulated.at[to][m] + 4 * n, &after, 4);
        }
}

#undef _tile_loadd
#undef _tile_stored
#undef _tile_dpbf16ps
#define _tile_loadconfig emulated_shape
#define _tile_loadd emulated_load
#define _tile_stored emulated_store
#define _tile_dpbf16ps emulated_product
#define _tile_release() (void)0
