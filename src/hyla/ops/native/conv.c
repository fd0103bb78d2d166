/* Depthwise causal convolution with a few taps, over a packed batch; for the delta rules with what follows it there. */
#include "norms.h"
#include "team.h"

#define CHANNELS 256  /* computed together */
#define WIDEST 1024   /* or one head, where that is wider */
#define MOST_TAPS 16
#define SEQUENCES 16  /* of one turn: they share the taps that are turned for it */
#define AHEAD 8       /* rows asked for before they are needed: they lie too far apart for the machine to guess */
#define CHUNK 64
#define SMALL 16384   /* fewer results are not worth a second thread */

static const float nothing[WIDEST] __attribute__((aligned(64))); /* the inputs before a sequence's first */

typedef struct {
    int64_t sequences;
    const int64_t *offset, *length, *start, *slot; /* sequence n: rows offset[n] .. + length[n], from position start[n] */
    int64_t channels, taps, stride, is_bf16, w_bf16, ring_rows;
    int64_t has_silu;
    int64_t key_channels, key_dim; /* not 0: the channels are queries, keys and values, heads of key_dim the first two */
    const void *x, *weight;        /* [T, channels], rows `stride` apart; [channels, taps] */
    void *ring;                    /* [slots, ring_rows, channels]: each sequence's last inputs; or 0 */
    void *tail; /* [slots, taps - 1, channels]: those before the last multiple of 64 that a sequence has passed; or 0 */
    float *y, *k, *v; /* [T, channels]; or [T, key_channels] twice, q and k at unit length, and the rest */
    float eps, scale; /* scale: of q */
} Call;

#include "conv_parts.h"

INLINE void taps_at(const int taps, const int is_bf16, const int has_silu, int64_t c, int left, const void *const *from,
                    const float *weight, int64_t channels, float *y) {
    vec sum = multiply(load_row(from[0], c, left, is_bf16), load_row(weight, c, left, 0));
#pragma GCC unroll 4
    for (int j = 1; j < taps; j++)
        sum = add(sum, multiply(load_row(from[j], c, left, is_bf16), load_row(weight, j * channels + c, left, 0)));
    store_row(y, c, left, 0, has_silu ? silu_vec(sum) : sum);
}
INLINE void taps_row(const int taps, const int is_bf16, const int has_silu, int64_t count, const void *const *from,
                     const float *weight, int64_t channels, float *y) {
#define BODY(c, left) taps_at(taps, is_bf16, has_silu, c, left, from, weight, channels, y)
    ALONG_ROW(count, BODY)
#undef BODY
}
/* y[c] = sum_j from[j][c] weight[j, c] for `count` channels, j upwards. Most models have four taps. */
HOT void conv_row(int taps, int is_bf16, int64_t count, const void *const *from, const float *weight, int64_t channels,
                  float *y) {
    if (taps == 4 && is_bf16) taps_row(4, 1, 0, count, from, weight, channels, y);
    else if (taps == 4) taps_row(4, 0, 0, count, from, weight, channels, y);
    else if (is_bf16) taps_row(taps, 1, 0, count, from, weight, channels, y);
    else taps_row(taps, 0, 0, count, from, weight, channels, y);
}
HOT void conv_silu_row(int taps, int is_bf16, int64_t count, const void *const *from, const float *weight,
                       int64_t channels, float *y) {
    if (taps == 4 && is_bf16) taps_row(4, 1, 1, count, from, weight, channels, y);
    else if (taps == 4) taps_row(4, 0, 1, count, from, weight, channels, y);
    else if (is_bf16) taps_row(taps, 1, 1, count, from, weight, channels, y);
    else taps_row(taps, 0, 1, count, from, weight, channels, y);
}

/* y = y / root * scale. */
INLINE void unit_at(int64_t i, int left, float root, float scale, float *y) {
    store_row(y, i, left, 0, multiply(divide(load_row(y, i, left, 0), splat(root)), splat(scale)));
}
HOT void unit_row(int64_t width, float root, float scale, float *y) {
#define BODY(i, left) unit_at(i, left, root, scale, y)
    ALONG_ROW(width, BODY)
#undef BODY
}

/* The taps of `count` channels as floats, one tap of all of them after another. */
static void turn_taps(const Call *call, int64_t first, int64_t count, float *turned) {
    int64_t taps = call->taps;
    for (int64_t j = 0; j < taps; j++) {
        const uint16_t *halves = (const uint16_t *)call->weight + first * taps + j;
        const float *floats = (const float *)call->weight + first * taps + j;
        if (call->w_bf16) for (int64_t c = 0; c < count; c++) turned[j * count + c] = from_bf16(halves[c * taps]);
        else for (int64_t c = 0; c < count; c++) turned[j * count + c] = floats[c * taps];
    }
}

/* Where some channels of a sequence stand: its new rows, its ring and its tail. */
typedef struct {
    const char *rows;
    char *ring, *tail;
    int64_t length, start, row, kept, ring_rows, bytes; /* row, kept: bytes between rows of x and of what is kept */
} Place;

/* The input at a position, counted from the first new row. */
static const void *input(const Place *p, int64_t at) {
    if (at >= 0) return p->rows + at * p->row;
    if (p->start + at >= 0 && p->ring) return p->ring + (p->start + at) % p->ring_rows * p->kept;
    return nothing;
}

/* What later calls and snapshots need of the inputs. The tail first: it may reach back to what the ring still holds. */
static void keep(const Place *p, int64_t taps) {
    int64_t boundary = (p->start + p->length) / CHUNK * CHUNK - p->start;
    if (p->tail && boundary > 0)
        for (int64_t j = 0; j < taps - 1; j++)
            memcpy(p->tail + j * p->kept, input(p, boundary - (taps - 1) + j), (size_t)p->bytes);
    if (!p->ring) return;
    for (int64_t t = p->length > p->ring_rows ? p->length - p->ring_rows : 0; t < p->length; t++)
        memcpy(p->ring + (p->start + t) % p->ring_rows * p->kept, p->rows + t * p->row, (size_t)p->bytes);
}

/* Channels [first, first + count) of a part, of one sequence. */
static void conv_block(const Call *call, int64_t n, const Part *part, int64_t first, int64_t count, const float *weight) {
    int64_t size = call->is_bf16 ? 2 : 4, channel = part->first + first, kept = size * call->channels;
    Place p = {.length = call->length[n], .start = call->start[n], .row = size * call->stride, .kept = kept,
               .ring_rows = call->ring_rows, .bytes = size * count};
    p.rows = (const char *)call->x + call->offset[n] * p.row + size * channel;
    if (call->ring) p.ring = (char *)call->ring + call->slot[n] * call->ring_rows * kept + size * channel;
    if (call->tail) p.tail = (char *)call->tail + call->slot[n] * (call->taps - 1) * kept + size * channel;
    int taps = (int)call->taps;
    float *y = part->rows + call->offset[n] * part->count + first;
    for (int64_t t = 0; t < p.length; t++, y += part->count) {
        const void *from[MOST_TAPS];
        for (int j = 0; j < taps; j++) from[j] = input(&p, t - (taps - 1) + j);
        if (t + AHEAD < p.length)
            for (int64_t b = 0; b < p.bytes; b += 64) __builtin_prefetch(p.rows + (t + AHEAD) * p.row + b, 0, 3);
        (call->has_silu ? conv_silu_row : conv_row)(taps, (int)call->is_bf16, count, from, weight, count, y);
        for (int64_t c = 0; part->head && c < count; c += part->head)
            unit_row(part->head, sqrtf(square_sum(part->head, 0, y, c) + call->eps), part->scale, y + c);
    }
    keep(&p, taps);
}

static void conv_turn(const Job *job, int64_t index) {
    const Call *call = job->call;
    const Part *part = job->part;
    int64_t groups = (call->sequences + SEQUENCES - 1) / SEQUENCES, block = index / groups, n = index % groups * SEQUENCES;
    for (; block >= blocks_of(part); part++) block -= blocks_of(part);
    int64_t first = block * part->block, left = part->count - first, count = left < part->block ? left : part->block;
    float turned[MOST_TAPS * WIDEST];
    turn_taps(call, part->first + first, count, turned);
    for (int64_t i = n; i < n + SEQUENCES && i < call->sequences; i++) conv_block(call, i, part, first, count, turned);
}
static void conv_turns(void *context, int64_t first, int64_t last, int64_t worker) {
    for (int64_t i = first; i < last; i++) conv_turn(context, i);
}

int hyla_conv(const Call *call) {
    Job job = job_of(call);
    int64_t turns = job.blocks * ((call->sequences + SEQUENCES - 1) / SEQUENCES);
    team_ranges(turns, turns * SMALL / (1 + elements_of(call)), conv_turns, &job);
    return 0;
}
