/* The gates of the delta rules: log decays and betas from what a projection left, and the norm of their outputs under an
   output gate. */
#include "norms.h"
#include "team.h"

#define SMALL 8192 /* fewer elements, each with an exponential or two, are not worth a second thread */

/* How a log decay comes from z = raw + bias: -rate softplus(z), rate for each channel or one for all; or
   bound sigmoid(rate z). */
enum { BY_CHANNEL, BY_HEAD, BOUNDED };

INLINE void decay_at(const int kind, const int is_bf16, int64_t c, int left, const void *raw, int64_t at,
                     const float *bias, const float *rates, float rate, float bound, float *y) {
    vec z = add(load_row(raw, at + c, left, is_bf16), load_row(bias, c, left, 0));
    vec factor = kind == BY_CHANNEL ? load_row(rates, c, left, 0) : splat(rate);
    if (kind == BOUNDED) z = multiply(splat(bound), sigmoid_vec(multiply(factor, z)));
    else z = multiply(negative(factor), softplus_vec(z));
    store_row(y, c, left, 0, z);
}
INLINE void decay_in(const int kind, const int is_bf16, int64_t count, const void *raw, int64_t at, const float *bias,
                     const float *rates, float rate, float bound, float *y) {
#define BODY(c, left) decay_at(kind, is_bf16, c, left, raw, at, bias, rates, rate, bound, y)
    ALONG_ROW(count, BODY)
#undef BODY
}
HOT void decay_row(int kind, int is_bf16, int64_t count, const void *raw, int64_t at, const float *bias,
                   const float *rates, float rate, float bound, float *y) {
    switch (2 * kind + is_bf16) {
        case 0: decay_in(BY_CHANNEL, 0, count, raw, at, bias, rates, rate, bound, y); break;
        case 1: decay_in(BY_CHANNEL, 1, count, raw, at, bias, rates, rate, bound, y); break;
        case 2: decay_in(BY_HEAD, 0, count, raw, at, bias, rates, rate, bound, y); break;
        case 3: decay_in(BY_HEAD, 1, count, raw, at, bias, rates, rate, bound, y); break;
        case 4: decay_in(BOUNDED, 0, count, raw, at, bias, rates, rate, bound, y); break;
        default: decay_in(BOUNDED, 1, count, raw, at, bias, rates, rate, bound, y);
    }
}
INLINE void beta_in(const int is_bf16, int64_t count, const void *raw, int64_t at, float *y) {
#define BODY(c, left) store_row(y, c, left, 0, sigmoid_vec(load_row(raw, at + (c), left, is_bf16)))
    ALONG_ROW(count, BODY)
#undef BODY
}
HOT void beta_row(int is_bf16, int64_t count, const void *raw, int64_t at, float *y) {
    if (is_bf16) beta_in(1, count, raw, at, y);
    else beta_in(0, count, raw, at, y);
}
HOT void rates_of(int64_t heads, const float *A_log, float *rate) {
#define BODY(c, left) store_row(rate, c, left, 0, exp_vec(load_row(A_log, c, left, 0)))
    ALONG_ROW(heads, BODY)
#undef BODY
}

typedef struct {
    int64_t tokens, heads, channels; /* channels: log decays of a head, 1 or K */
    int64_t raw_row, raw_bf16, beta_row, beta_bf16, has_bound;
    const void *raw, *raw_beta;      /* [T, heads, channels], [T, heads] or 0, rows apart; channels dense */
    const float *A_log, *dt_bias;    /* [heads], [heads, channels] */
    float *log_decay, *beta;         /* as raw and raw_beta, dense */
    float bound;
} Decays;

/* Some rows. Rates are computed anew in every turn: their bits are a function of A_log alone. */
static void decay_rows(void *context, int64_t first, int64_t last, int64_t worker) {
    const Decays *call = context;
    int64_t H = call->heads, C = call->channels;
    float rates[H];
    rates_of(H, call->A_log, rates);
    for (int64_t t = first; t < last; t++) {
        if (C == 1 && !call->has_bound)
            decay_row(BY_CHANNEL, (int)call->raw_bf16, H, call->raw, t * call->raw_row, call->dt_bias, rates, 0.0f, 0.0f,
                      call->log_decay + t * H);
        else
            for (int64_t h = 0; h < H; h++)
                decay_row(call->has_bound ? BOUNDED : BY_HEAD, (int)call->raw_bf16, C, call->raw,
                          t * call->raw_row + h * C, call->dt_bias + h * C, 0, rates[h], call->bound,
                          call->log_decay + (t * H + h) * C);
        if (call->raw_beta)
            beta_row((int)call->beta_bf16, H, call->raw_beta, t * call->beta_row, call->beta + t * H);
    }
}
int hyla_decays(const Decays *call) {
    team_ranges(call->tokens, 1 + SMALL / (1 + call->heads * call->channels), decay_rows, (void *)call);
    return 0;
}

enum { SIGMOID, SILU };

/* y = x / root (weight + shift) gate(z). */
INLINE void gated_at(const int which, const int w_bf16, const int z_bf16, const int y_bf16, int64_t c, int left,
                     float root, float shift, const float *x, const void *weight, const void *z, int64_t at, void *y,
                     int64_t to) {
    vec normed = divide(load_row(x, c, left, 0), splat(root)), gate = load_row(z, at + c, left, z_bf16);
    normed = multiply(normed, add(load_row(weight, c, left, w_bf16), splat(shift)));
    store_row(y, to + c, left, y_bf16, multiply(normed, which == SILU ? silu_vec(gate) : sigmoid_vec(gate)));
}
INLINE void gated_in(const int which, const int w_bf16, const int z_bf16, const int y_bf16, int64_t width, float root,
                     float shift, const float *x, const void *weight, const void *z, int64_t at, void *y, int64_t to) {
#define BODY(c, left) gated_at(which, w_bf16, z_bf16, y_bf16, c, left, root, shift, x, weight, z, at, y, to)
    ALONG_ROW(width, BODY)
#undef BODY
}
#define FORMS(which)                                                                                           \
    switch (4 * w_bf16 + 2 * z_bf16 + y_bf16) {                                                                \
        case 0: gated_in(which, 0, 0, 0, width, root, shift, x, weight, z, at, y, to); break;                  \
        case 1: gated_in(which, 0, 0, 1, width, root, shift, x, weight, z, at, y, to); break;                  \
        case 2: gated_in(which, 0, 1, 0, width, root, shift, x, weight, z, at, y, to); break;                  \
        case 3: gated_in(which, 0, 1, 1, width, root, shift, x, weight, z, at, y, to); break;                  \
        case 4: gated_in(which, 1, 0, 0, width, root, shift, x, weight, z, at, y, to); break;                  \
        case 5: gated_in(which, 1, 0, 1, width, root, shift, x, weight, z, at, y, to); break;                  \
        case 6: gated_in(which, 1, 1, 0, width, root, shift, x, weight, z, at, y, to); break;                  \
        default: gated_in(which, 1, 1, 1, width, root, shift, x, weight, z, at, y, to);                        \
    }
HOT void silu_gated_row(int w_bf16, int z_bf16, int y_bf16, int64_t width, float root, float shift, const float *x,
                        const void *weight, const void *z, int64_t at, void *y, int64_t to) {
    FORMS(SILU)
}
HOT void sigmoid_gated_row(int w_bf16, int z_bf16, int y_bf16, int64_t width, float root, float shift, const float *x,
                           const void *weight, const void *z, int64_t at, void *y, int64_t to) {
    FORMS(SIGMOID)
}

typedef struct {
    int64_t tokens, heads, width, gate_row; /* rows of the gate are apart, its heads and channels dense */
    int64_t which, w_bf16, gate_bf16, y_bf16;
    const float *x;     /* [T, heads, width] */
    const void *weight; /* [width] */
    const void *gate;
    void *y;            /* as x */
    float shift, eps;
} GatedNorm;

static void gated_rows(void *context, int64_t first, int64_t last, int64_t worker) {
    const GatedNorm *call = context;
    int64_t H = call->heads, width = call->width;
    for (int64_t t = first; t < last; t++)
        for (int64_t h = 0; h < H; h++) {
            int64_t to = (t * H + h) * width;
            float root = sqrtf(square_sum(width, 0, call->x, to) / (float)width + call->eps);
            (call->which == SILU ? silu_gated_row : sigmoid_gated_row)(
                (int)call->w_bf16, (int)call->gate_bf16, (int)call->y_bf16, width, root, call->shift, call->x + to,
                call->weight, call->gate, t * call->gate_row + h * width, call->y, to);
        }
}
int hyla_gated_norm(const GatedNorm *call) {
    team_ranges(call->tokens, 1 + SMALL / (1 + call->heads * call->width), gated_rows, (void *)call);
    return 0;
}
