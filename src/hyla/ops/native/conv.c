/* Depthwise causal convolution with a few taps, over a packed batch. */
#include "vector.h"

#define CHANNELS 256 /* computed together */

static const float nothing[CHANNELS] __attribute__((aligned(64))); /* the inputs before a sequence's first */

INLINE void taps_at(const int taps, const int is_bf16, int64_t c, int left, const void *const *from, const float *weight,
                    int64_t channels, float *y) {
    vec sum = multiply(load_row(from[0], c, left, is_bf16), load_row(weight, c, left, 0));
#pragma GCC unroll 4
    for (int j = 1; j < taps; j++)
        sum = add(sum, multiply(load_row(from[j], c, left, is_bf16), load_row(weight, j * channels + c, left, 0)));
    store_row(y, c, left, 0, sum);
}
INLINE void taps_row(const int taps, const int is_bf16, int64_t count, const void *const *from, const float *weight,
                     int64_t channels, float *y) {
#define BODY(c, left) taps_at(taps, is_bf16, c, left, from, weight, channels, y)
    ALONG_ROW(count, BODY)
#undef BODY
}
/* y[c] = sum_j from[j][c] weight[j, c] for `count` channels, j upwards. Most models have four taps. */
HOT void conv_row(int taps, int is_bf16, int64_t count, const void *const *from, const float *weight, int64_t channels,
                  float *y) {
    if (taps == 4 && is_bf16) taps_row(4, 1, count, from, weight, channels, y);
    else if (taps == 4) taps_row(4, 0, count, from, weight, channels, y);
    else if (is_bf16) taps_row(taps, 1, count, from, weight, channels, y);
    else taps_row(taps, 0, count, from, weight, channels, y);
}

/* Sequence n has rows offset[n] .. + length[n], from position start[n] on; its ring of the last `ring_rows` inputs is at
   slot[n]. weight: [taps, channels] float. y: [T, channels] float. */
void hyla_conv(int64_t sequences, const int64_t *offset, const int64_t *length, const int64_t *start,
               const int64_t *slot, int64_t channels, int taps, int64_t stride, int is_bf16, const void *x,
               const float *weight, void *ring, int64_t ring_rows, float *y) {
    int64_t blocks = (channels + CHANNELS - 1) / CHANNELS, size = is_bf16 ? 2 : 4;
    for (int64_t n = 0; n < sequences; n++) {
        char *own = ring ? (char *)ring + slot[n] * ring_rows * channels * size : 0;
        const char *rows = (const char *)x + size * offset[n] * stride;
#pragma omp parallel for schedule(static) if (length[n] * channels > 16384)
        for (int64_t b = 0; b < blocks; b++) {
            int64_t first = b * CHANNELS, count = channels - first < CHANNELS ? channels - first : CHANNELS;
            for (int64_t t = 0; t < length[n]; t++) {
                const void *from[taps];
                for (int j = 0; j < taps; j++) {
                    int64_t at = t - (taps - 1) + j;
                    if (at >= 0) from[j] = rows + size * (at * stride + first);
                    else if (start[n] + at >= 0 && own) from[j] = own + size * ((start[n] + at) % ring_rows * channels + first);
                    else from[j] = nothing;
                }
                conv_row(taps, is_bf16, count, from, weight + first, channels, y + (offset[n] + t) * channels + first);
            }
            if (!own) continue;
            for (int64_t t = length[n] > ring_rows ? length[n] - ring_rows : 0; t < length[n]; t++)
                memcpy(own + size * ((start[n] + t) % ring_rows * channels + first), rows + size * (t * stride + first),
                       (size_t)(size * count));
        }
    }
}
