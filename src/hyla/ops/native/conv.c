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
    int64_t sequences;
    const int64_t *offset, *length, *start, *slot; /* sequence n: rows offset[n] .. + length[n], from position start[n] */
    int64_t channels, taps, stride, is_bf16, ring_rows;
    const void *x;
    const float *weight; /* [taps, channels] */
    void *ring;          /* [slots, ring_rows, channels]: each sequence's last inputs; or 0 */
    float *y;            /* [T, channels] */
} Call;

/* Channels first to first + count of one sequence: its rows, then its ring. */
static void conv_block(const Call *call, int64_t n, int64_t first, int64_t count) {
    int64_t channels = call->channels, ring_rows = call->ring_rows, size = call->is_bf16 ? 2 : 4;
    int64_t length = call->length[n], start = call->start[n], stride = size * call->stride;
    int taps = (int)call->taps;
    const char *rows = (const char *)call->x + call->offset[n] * stride + size * first;
    float *y = call->y + call->offset[n] * channels + first;
    char *own = 0;
    if (call->ring) own = (char *)call->ring + size * (call->slot[n] * ring_rows * channels + first);
    for (int64_t t = 0; t < length; t++) {
        const void *from[taps];
        for (int j = 0; j < taps; j++) {
            int64_t at = t - (taps - 1) + j;
            if (at >= 0) from[j] = rows + at * stride;
            else if (start + at >= 0 && own) from[j] = own + size * ((start + at) % ring_rows * channels);
            else from[j] = nothing;
        }
        conv_row(taps, (int)call->is_bf16, count, from, call->weight + first, channels, y + t * channels);
    }
    if (!own) return;
    for (int64_t t = length > ring_rows ? length - ring_rows : 0; t < length; t++)
        memcpy(own + size * ((start + t) % ring_rows * channels), rows + t * stride, (size_t)(size * count));
}

static void conv_blocks(void *context, int64_t from, int64_t end, int64_t worker) {
    const Call *call = context;
    int64_t channels = call->channels, blocks = (channels + CHANNELS - 1) / CHANNELS;
    for (int64_t i = from; i < end; i++) {
        int64_t first = i % blocks * CHANNELS;
        conv_block(call, i / blocks, first, channels - first < CHANNELS ? channels - first : CHANNELS);
    }
}

int hyla_conv(const Call *call) {
    int64_t blocks = call->sequences * ((call->channels + CHANNELS - 1) / CHANNELS), rows = 0;
    for (int64_t n = 0; n < call->sequences; n++) rows += call->length[n];
    team_ranges(blocks, blocks * SMALL / (1 + rows * call->channels), conv_blocks, (void *)call);
    return 0;
}
