/* Gradients of the short convolution over whole sequences, alone or with what follows it in the delta rules: SiLU, and
   unit length of queries and keys. What lies between is computed again. A row's gradient is one sum over the taps,
   upwards, wherever the row lies; a weight's is summed over 64 rows of a sequence first, then in the order of the rows. */
#include "slopes.h"
#include "team.h"

#define CHANNELS 128 /* computed together */
#define WIDEST 1024  /* or one head, where that is wider */
#define MOST_TAPS 16
#define AHEAD 8      /* rows asked for before they are needed */
#define ROWS 64      /* whose shares of the weight's gradient are added first */
#define SMALL 16384

static const float nothing[WIDEST] __attribute__((aligned(64))); /* inputs and gradients outside the sequence */

typedef struct {
    int64_t sequences;
    const int64_t *offset, *length; /* sequence n: rows offset[n] .. + length[n] */
    int64_t channels, taps, stride, is_bf16;
    int64_t has_silu, key_channels, key_dim; /* as the forward pass has them (conv.c) */
    const void *x;           /* [T, channels], rows `stride` apart */
    const float *weight;     /* [taps, channels] */
    float *y, *k, *v;        /* gradients of [T, channels]; or of q, k [T, key_channels] and v */
    void *out;               /* x's gradient, dense */
    float *weight_grad;      /* [taps, channels] */
    float eps, scale;
} Call;

#include "conv_parts.h"

/* silu of the taps' sum and its derivative. */
INLINE void mixed_in(const int taps, const int is_bf16, int64_t count, const void *const *from, const float *weight,
                     int64_t step, float *act, float *slope) {
#define BODY(c, left)                                                                                          \
    {                                                                                                          \
        vec sum = multiply(load_row(from[0], c, left, is_bf16), load_row(weight, c, left, 0));                 \
        _Pragma("GCC unroll 4") for (int j = 1; j < taps; j++)                                                 \
            sum = add(sum, multiply(load_row(from[j], c, left, is_bf16), load_row(weight, j * step + (c), left, 0))); \
        store_row(act, c, left, 0, silu_vec(sum));                                                             \
        store_row(slope, c, left, 0, silu_slope(sum));                                                         \
    }
    ALONG_ROW(count, BODY)
#undef BODY
}
HOT void mixed_row(int taps, int is_bf16, int64_t count, const void *const *from, const float *weight, int64_t step,
                   float *act, float *slope) {
    if (taps == 4 && is_bf16) mixed_in(4, 1, count, from, weight, step, act, slope);
    else if (taps == 4) mixed_in(4, 0, count, from, weight, step, act, slope);
    else if (is_bf16) mixed_in(taps, 1, count, from, weight, step, act, slope);
    else mixed_in(taps, 0, count, from, weight, step, act, slope);
}

/* weight_grad[j, :] += grad from[j, :]. */
INLINE void shares_in(const int taps, const int is_bf16, int64_t count, const void *const *from, const float *grad,
                      float *own) {
#define BODY(c, left)                                                                                          \
    {                                                                                                          \
        vec g = load_row(grad, c, left, 0);                                                                    \
        _Pragma("GCC unroll 4") for (int j = 0; j < taps; j++)                                                 \
            store_row(own + j * count, c, left, 0,                                                             \
                      fma_vec(g, load_row(from[j], c, left, is_bf16), load_row(own + j * count, c, left, 0))); \
    }
    ALONG_ROW(count, BODY)
#undef BODY
}
HOT void shares_row(int taps, int is_bf16, int64_t count, const void *const *from, const float *grad, float *own) {
    if (taps == 4 && is_bf16) shares_in(4, 1, count, from, grad, own);
    else if (taps == 4) shares_in(4, 0, count, from, grad, own);
    else if (is_bf16) shares_in(taps, 1, count, from, grad, own);
    else shares_in(taps, 0, count, from, grad, own);
}

/* out = sum_j weight[j, :] grad[j]: of the row that met tap j in grad[j]'s row. */
INLINE void back_in(const int taps, const int is_bf16, int64_t count, const float *const *grad, const float *weight,
                    int64_t step, void *out) {
#define BODY(c, left)                                                                                          \
    {                                                                                                          \
        vec sum = multiply(load_row(grad[0], c, left, 0), load_row(weight, c, left, 0));                       \
        _Pragma("GCC unroll 4") for (int j = 1; j < taps; j++)                                                 \
            sum = fma_vec(load_row(grad[j], c, left, 0), load_row(weight, j * step + (c), left, 0), sum);      \
        store_row(out, c, left, is_bf16, sum);                                                                 \
    }
    ALONG_ROW(count, BODY)
#undef BODY
}
HOT void back_row(int taps, int is_bf16, int64_t count, const float *const *grad, const float *weight, int64_t step,
                  void *out) {
    if (taps == 4 && is_bf16) back_in(4, 1, count, grad, weight, step, out);
    else if (taps == 4) back_in(4, 0, count, grad, weight, step, out);
    else if (is_bf16) back_in(taps, 1, count, grad, weight, step, out);
    else back_in(taps, 0, count, grad, weight, step, out);
}

/* Through y = act / root scale and act = silu: the sums of act^2 and of grad act; then the gradient before the SiLU. */
HOT void unit_dots(int64_t width, const float *act, const float *grad, float *square, float *dot) {
    vec squares = splat(0.0f), dots = splat(0.0f);
#define BODY(i, left)                                                                                          \
    {                                                                                                          \
        vec v = load_row(act, i, left, 0);                                                                     \
        squares = fma_vec(v, v, squares), dots = fma_vec(load_row(grad, i, left, 0), v, dots);                 \
    }
    ALONG_ROW(width, BODY)
#undef BODY
    *square = sum_vec(squares), *dot = sum_vec(dots);
}
HOT void unit_back(int64_t width, float factor, float mean, const float *act, const float *slope, const float *grad,
                   float *out) {
#define BODY(i, left)                                                                                          \
    store_row(out, i, left, 0,                                                                                 \
              multiply(multiply(subtract(load_row(grad, i, left, 0), multiply(load_row(act, i, left, 0), splat(mean))), \
                                splat(factor)),                                                                \
                       load_row(slope, i, left, 0)))
    ALONG_ROW(width, BODY)
#undef BODY
}
HOT void sloped_row(int64_t count, const float *grad, const float *slope, float *out) {
#define BODY(c, left) store_row(out, c, left, 0, multiply(load_row(grad, c, left, 0), load_row(slope, c, left, 0)))
    ALONG_ROW(count, BODY)
#undef BODY
}
HOT void add_row(int64_t count, const float *x, float *y) {
#define BODY(c, left) store_row(y, c, left, 0, add(load_row(x, c, left, 0), load_row(y, c, left, 0)))
    ALONG_ROW(count, BODY)
#undef BODY
}

/* Some channels of a part. */
typedef struct {
    const Call *call;
    const Part *part;
    int64_t first, count;             /* of the part */
    float rows[MOST_TAPS][WIDEST];    /* gradients of the taps' sums, of the last rows */
    float own[MOST_TAPS * WIDEST];    /* the weight's gradient, of at most ROWS rows */
    float total[MOST_TAPS * WIDEST];
} Block;

/* The gradient of the taps' sum in a row, from that of the forward pass's result. */
static void into_taps(const Block *b, const void *const *from, const float *grad, float *out) {
    const Call *call = b->call;
    const Part *part = b->part;
    if (!call->has_silu) { memcpy(out, grad, sizeof(float) * (size_t)b->count); return; }
    float act[WIDEST], slope[WIDEST], square, dot;
    mixed_row((int)call->taps, (int)call->is_bf16, b->count, from, call->weight + part->first + b->first, call->channels,
              act, slope);
    if (!part->head) { sloped_row(b->count, grad, slope, out); return; }
    for (int64_t c = 0; c < b->count; c += part->head) {
        unit_dots(part->head, act + c, grad + c, &square, &dot);
        float inverse = 1.0f / sqrtf(square + call->eps);
        unit_back(part->head, part->scale * inverse, dot * inverse * inverse, act + c, slope + c, grad + c, out + c);
    }
}

/* Row r of x, all of whose taps' gradients are known; those behind the sequence are zero. */
static void finish_row(Block *b, int64_t n, int64_t r) {
    const Call *call = b->call;
    int64_t size = call->is_bf16 ? 2 : 4, channel = b->part->first + b->first, taps = call->taps;
    const float *grad[MOST_TAPS];
    for (int64_t j = 0; j < taps; j++) {
        int64_t at = r + taps - 1 - j;
        grad[j] = at < call->length[n] ? b->rows[at % taps] : nothing;
    }
    back_row((int)taps, (int)call->is_bf16, b->count, grad, call->weight + channel, call->channels,
             (char *)call->out + size * ((call->offset[n] + r) * call->channels + channel));
}

static void add_shares(Block *b) {
    int64_t count = b->call->taps * b->count;
    add_row(count, b->own, b->total);
    memset(b->own, 0, sizeof(float) * (size_t)count);
}

static void sequence_grad(Block *b, int64_t n) {
    const Call *call = b->call;
    int64_t size = call->is_bf16 ? 2 : 4, taps = call->taps, length = call->length[n], row = size * call->stride;
    const char *x = (const char *)call->x + call->offset[n] * row + size * (b->part->first + b->first);
    const float *grad = b->part->rows + call->offset[n] * b->part->count + b->first;
    for (int64_t t = 0; t < length; t++, grad += b->part->count) {
        const void *from[MOST_TAPS];
        for (int64_t j = 0; j < taps; j++) from[j] = t + j >= taps - 1 ? x + (t + j - (taps - 1)) * row : (const void *)nothing;
        if (t + AHEAD < length)
            for (int64_t c = 0; c < size * b->count; c += 64) __builtin_prefetch(x + (t + AHEAD) * row + c, 0, 3);
        into_taps(b, from, grad, b->rows[t % taps]);
        shares_row((int)taps, (int)call->is_bf16, b->count, from, b->rows[t % taps], b->own);
        if (t >= taps - 1) finish_row(b, n, t - (taps - 1));
        if (t % ROWS == ROWS - 1 || t == length - 1) add_shares(b);
    }
    for (int64_t r = length < taps - 1 ? 0 : length - (taps - 1); r < length; r++) finish_row(b, n, r);
}

static void conv_grad_turn(void *context, int64_t index, int64_t worker) {
    const Job *job = context;
    const Part *part = job->part;
    (void)worker;
    for (; index >= blocks_of(part); part++) index -= blocks_of(part);
    int64_t first = index * part->block, left = part->count - first;
    Block b = {.call = job->call, .part = part, .first = first, .count = left < part->block ? left : part->block};
    for (int64_t n = 0; n < job->call->sequences; n++) sequence_grad(&b, n);
    for (int64_t j = 0; j < job->call->taps; j++)
        memcpy(job->call->weight_grad + j * job->call->channels + part->first + first, b.total + j * b.count,
               sizeof(float) * (size_t)b.count);
}

int hyla_conv_grad(const Call *call) {
    Job job = job_of(call);
    if (elements_of(call) > SMALL) team_run(job.blocks, conv_grad_turn, &job);
    else for (int64_t i = 0; i < job.blocks; i++) conv_grad_turn(&job, i, 0);
    return 0;
}
