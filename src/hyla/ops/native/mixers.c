/* What stands around the operators without a solve: rows in floats, Mamba-2's rates and values, norms of groups under a
   gate. Each step is rounded as the primitives round it. */
#include "norms.h"

#define SMALL 16384 /* fewer elements are not worth a second thread */
#define ROWS 16     /* of one turn */
#include "turns.h"

enum { PLAIN, SIGMOID, SILU };

INLINE void activated_in(const int which, const int is_bf16, int64_t count, const void *x, int64_t at, float *y) {
#define FORM(v) (which == SILU ? silu_vec(v) : which == SIGMOID ? sigmoid_vec(v) : (v))
#define BODY(c, left) store_row(y, c, left, 0, FORM(load_row(x, at + (c), left, is_bf16)))
    ALONG_ROW(count, BODY)
#undef BODY
#undef FORM
}
/* y = f(x) in floats. */
HOT void activated_row(int which, int is_bf16, int64_t count, const void *x, int64_t at, float *y) {
    switch (2 * which + is_bf16) {
        case 0: activated_in(PLAIN, 0, count, x, at, y); break;
        case 1: activated_in(PLAIN, 1, count, x, at, y); break;
        case 2: activated_in(SIGMOID, 0, count, x, at, y); break;
        case 3: activated_in(SIGMOID, 1, count, x, at, y); break;
        case 4: activated_in(SILU, 0, count, x, at, y); break;
        default: activated_in(SILU, 1, count, x, at, y);
    }
}
HOT void rounded_row(int64_t count, const float *x, void *y, int64_t to) {
#define BODY(c, left) store_row(y, to + (c), left, 1, load_row(x, c, left, 0))
    ALONG_ROW(count, BODY)
#undef BODY
}
HOT void product_row(int64_t count, const float *a, const float *b, float *y) {
#define BODY(c, left) store_row(y, c, left, 0, multiply(load_row(a, c, left, 0), load_row(b, c, left, 0)))
    ALONG_ROW(count, BODY)
#undef BODY
}
/* y = f x; y = x + f a. */
HOT void times_row(int64_t count, float f, const float *x, float *y) {
#define BODY(c, left) store_row(y, c, left, 0, multiply(load_row(x, c, left, 0), splat(f)))
    ALONG_ROW(count, BODY)
#undef BODY
}
HOT void skip_row(int64_t count, float f, const float *a, const float *x, float *y) {
#define BODY(c, left) \
    store_row(y, c, left, 0, add(load_row(x, c, left, 0), multiply(load_row(a, c, left, 0), splat(f))))
    ALONG_ROW(count, BODY)
#undef BODY
}
/* y = x / root weight. */
HOT void normed_row(int64_t count, float root, const float *weight, const float *x, float *y) {
#define BODY(c, left) \
    store_row(y, c, left, 0, multiply(divide(load_row(x, c, left, 0), splat(root)), load_row(weight, c, left, 0)))
    ALONG_ROW(count, BODY)
#undef BODY
}

typedef struct {
    int64_t rows, width, x_row, x_bf16, which;
    const void *x; /* rows x_row apart */
    float *y;      /* dense */
} Activated;

static void activated_rows(void *context, int64_t index, int64_t worker) {
    const Activated *call = context;
    int64_t last = (index + 1) * ROWS;
    (void)worker;
    for (int64_t t = index * ROWS; t < last && t < call->rows; t++)
        activated_row((int)call->which, (int)call->x_bf16, call->width, call->x, t * call->x_row, call->y + t * call->width);
}
int hyla_activated(const Activated *call) { return in_turns(call->rows, call->width, activated_rows, call); }

typedef struct {
    int64_t rows, groups, width;  /* of a group */
    int64_t gate_row, gate_bf16, which, is_gate_first;
    int64_t w_bf16, y_bf16;
    int64_t head, skip_row;       /* channels of a head; floats from one row of skip to the next */
    const float *x;               /* [rows, groups, width] */
    const void *gate, *weight;    /* rows gate_row apart; [groups, width] */
    const float *skip, *factor;   /* what is added to x, times its head's factor; or 0 */
    void *y;                      /* as x */
    float eps;
} GroupNorm;

/* One group of one row. */
static void group_norm(const GroupNorm *call, int64_t t, int64_t g) {
    int64_t width = call->width, first = g * width, to = (t * call->groups + g) * width, head = call->head;
    float own[width], gate[width], weight[width];
    const float *x = call->x + to;
    activated_row((int)call->which, (int)call->gate_bf16, width, call->gate, t * call->gate_row + first, gate);
    activated_row(PLAIN, (int)call->w_bf16, width, call->weight, first, weight);
    for (int64_t c = 0; call->skip && c < width; c += head)
        skip_row(head, call->factor[(first + c) / head], call->skip + t * call->skip_row + first + c, x + c, own + c);
    if (call->skip) x = own;
    if (call->is_gate_first) product_row(width, x, gate, own), x = own;
    normed_row(width, sqrtf(square_sum(width, 0, x, 0) / (float)width + call->eps), weight, x, own);
    if (!call->is_gate_first) product_row(width, own, gate, own);
    if (call->y_bf16) rounded_row(width, own, call->y, to);
    else memcpy((float *)call->y + to, own, 4 * (size_t)width);
}
static void group_norms(void *context, int64_t index, int64_t worker) {
    const GroupNorm *call = context;
    int64_t last = (index + 1) * ROWS;
    (void)worker;
    for (int64_t t = index * ROWS; t < last && t < call->rows; t++)
        for (int64_t g = 0; g < call->groups; g++) group_norm(call, t, g);
}
int hyla_group_norm(const GroupNorm *call) {
    return in_turns(call->rows, call->groups * call->width, group_norms, call);
}

typedef struct {
    int64_t rows, heads, head, channels; /* channels of a head, and of all that was convolved: values come first */
    int64_t dt_row, dt_bf16, bias_bf16;
    const float *convolved;  /* [rows, channels] */
    const void *bias, *dt;   /* [channels]; [rows, heads], dt_row apart */
    const float *dt_bias, *rate; /* [heads] */
    float *mixed, *values;   /* silu(convolved + bias), as convolved;  dt x, [rows, heads, head] */
    float *log_decay;        /* rate dt, [rows, heads] */
    float low, high;         /* limits of dt */
} Rates;

/* dt = softplus(raw + bias) within limits; a NaN stays one. */
HOT void steps_row(int64_t count, const float *raw, const float *bias, float low, float high, float *y) {
#define LIMITED(v) negative(larger(splat(-high), negative(larger(splat(low), v))))
#define BODY(c, left) \
    store_row(y, c, left, 0, LIMITED(softplus_vec(add(load_row(raw, c, left, 0), load_row(bias, c, left, 0)))))
    ALONG_ROW(count, BODY)
#undef BODY
#undef LIMITED
}
HOT void biased_row(int64_t count, const float *x, const float *bias, float *y) {
#define BODY(c, left) store_row(y, c, left, 0, silu_vec(add(load_row(x, c, left, 0), load_row(bias, c, left, 0))))
    ALONG_ROW(count, BODY)
#undef BODY
}

static void rates_rows(void *context, int64_t index, int64_t worker) {
    const Rates *call = context;
    int64_t H = call->heads, C = call->channels, P = call->head, last = (index + 1) * ROWS;
    float bias[C], raw[H], dt[H];
    (void)worker;
    activated_row(PLAIN, (int)call->bias_bf16, C, call->bias, 0, bias);
    for (int64_t t = index * ROWS; t < last && t < call->rows; t++) {
        float *mixed = call->mixed + t * C;
        biased_row(C, call->convolved + t * C, bias, mixed);
        activated_row(PLAIN, (int)call->dt_bf16, H, call->dt, t * call->dt_row, raw);
        steps_row(H, raw, call->dt_bias, call->low, call->high, dt);
        product_row(H, call->rate, dt, call->log_decay + t * H);
        for (int64_t h = 0; h < H; h++) times_row(P, dt[h], mixed + h * P, call->values + (t * H + h) * P);
    }
}
int hyla_rates(const Rates *call) { return in_turns(call->rows, call->channels, rates_rows, call); }
