/* Depthwise causal convolution with a few taps, over a packed batch. */
#include "vector.h"

/* Sequence n has rows offset[n] .. + length[n], from position start[n] on; its ring of the last `ring_rows` inputs is at
   slot[n]. weight: [taps, channels] float. y: [T, channels] float. */
void hyla_conv(int64_t sequences, const int64_t *offset, const int64_t *length, const int64_t *start,
               const int64_t *slot, int64_t channels, int taps, int64_t stride, int is_bf16, const void *x,
               const float *weight, void *ring, int64_t ring_rows, float *y) {
    int64_t blocks = (channels + 255) / 256;
    for (int64_t n = 0; n < sequences; n++) {
        char *own = ring ? (char *)ring + slot[n] * ring_rows * channels * (is_bf16 ? 2 : 4) : 0;
#pragma omp parallel for schedule(static) if (length[n] * channels > 16384)
        for (int64_t b = 0; b < blocks; b++) {
            int64_t end = (b + 1) * 256 < channels ? (b + 1) * 256 : channels;
            for (int64_t t = 0; t < length[n]; t++)
                for (int64_t c = b * 256; c < end; c += LANES) {
                    int left = end - c < LANES ? (int)(end - c) : LANES;
                    vec sum = splat(0.0f);
                    for (int j = 0; j < taps; j++) {
                        int64_t from = t - (taps - 1) + j;
                        vec v;
                        if (from >= 0) v = load_row(x, (offset[n] + from) * stride + c, left, is_bf16);
                        else if (start[n] + from >= 0 && own)
                            v = load_row(own, (start[n] + from) % ring_rows * channels + c, left, is_bf16);
                        else v = splat(0.0f);
                        vec product = v * load_row(weight, j * channels + c, left, 0);
                        sum = j ? sum + product : product;
                    }
                    store_row(y, (offset[n] + t) * channels + c, left, 0, sum);
                }
            if (!own) continue;
            int64_t first = length[n] > ring_rows ? length[n] - ring_rows : 0;
            for (int64_t t = first; t < length[n]; t++)
                for (int64_t c = b * 256; c < end; c += LANES) {
                    int left = end - c < LANES ? (int)(end - c) : LANES;
                    store_row(own, (start[n] + t) % ring_rows * channels + c, left, is_bf16,
                              load_row(x, (offset[n] + t) * stride + c, left, is_bf16));
                }
        }
    }
}
