/* Depthwise causal convolution with a few taps, over a packed batch. */
#include "team.h"
#include "vector.h"

#define CHANNELS 256 /* computed together */
#define SMALL 16384  /* fewer elements are not worth a second thread */

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

typedef struct {
    const int64_t *offset, *length, *start, *slot;
    int64_t channels, taps, stride, is_bf16, ring_rows;
    const void *x;
    const float *weight;
    void *ring;
    float *y;
} Conv;

/* CHANNELS channels of one sequence. */
static void conv_block(const Conv *c, int64_t n, int64_t first) {
    int64_t channels = c->channels, count = channels - first < CHANNELS ? channels - first : CHANNELS;
    int64_t size = c->is_bf16 ? 2 : 4, rows = c->ring_rows, start = c->start[n], length = c->length[n];
    int taps = (int)c->taps;
    char *own = c->ring ? (char *)c->ring + c->slot[n] * rows * channels * size : 0;
    const char *x = (const char *)c->x + size * c->offset[n] * c->stride;
    for (int64_t t = 0; t < length; t++) {
        const void *from[taps];
        for (int j = 0; j < taps; j++) {
            int64_t at = t - (taps - 1) + j;
            if (at >= 0) from[j] = x + size * (at * c->stride + first);
            else if (start + at >= 0 && own) from[j] = own + size * ((start + at) % rows * channels + first);
            else from[j] = nothing;
        }
        conv_row(taps, (int)c->is_bf16, count, from, c->weight + first, channels,
                 c->y + (c->offset[n] + t) * channels + first);
    }
    if (!own) return;
    for (int64_t t = length > rows ? length - rows : 0; t < length; t++)
        memcpy(own + size * ((start + t) % rows * channels + first), x + size * (t * c->stride + first),
               (size_t)(size * count));
}
static void conv_blocks(void *context, int64_t first, int64_t last, int64_t worker) {
    const Conv *c = context;
    int64_t blocks = (c->channels + CHANNELS - 1) / CHANNELS;
    for (int64_t i = first; i < last; i++) conv_block(c, i / blocks, i % blocks * CHANNELS);
}

/* Sequence n has rows offset[n] .. + length[n], from position start[n] on; its ring of the last `ring_rows` inputs is at
   slot[n]. weight: [taps, channels] float. y: [T, channels] float. */
void hyla_conv(int64_t sequences, const int64_t *offset, const int64_t *length, const int64_t *start,
               const int64_t *slot, int64_t channels, int taps, int64_t stride, int is_bf16, const void *x,
               const float *weight, void *ring, int64_t ring_rows, float *y) {
    Conv conv = {offset, length, start, slot, channels, taps, stride, is_bf16, ring_rows, x, weight, ring, y};
    int64_t blocks = sequences * ((channels + CHANNELS - 1) / CHANNELS), rows = 0;
    for (int64_t n = 0; n < sequences; n++) rows += length[n];
    team_ranges(blocks, blocks * SMALL / (1 + rows * channels), conv_blocks, &conv);
}
