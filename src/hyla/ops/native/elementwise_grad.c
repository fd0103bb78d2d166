/* Gradients of non-linearities over rows, and of a chunk's loss. An element's gradient depends on nothing but what the
   element saw: not on its place, not on other rows. */
#include "slopes.h"
#include "team.h"

#define SMALL 16384 /* fewer elements are not worth a second thread */
#define STRETCH 4096
#define PIECE 512 /* of a row, whose results stay in the first cache */

static int64_t rows_of(int64_t width) { return SMALL / (width < 1 ? 1 : width); }

/* Of the sigmoid `saved` is its value, of the others their input. */
enum { SIGMOID, SILU, SOFTPLUS };

INLINE void unary_grad_at(const int which, int64_t i, int left, const float *saved, const float *grad, float *out) {
    vec v = load_row(saved, i, left, 0), g = load_row(grad, i, left, 0);
    if (which == SIGMOID) g = multiply(multiply(g, v), subtract(splat(1.0f), v));
    else g = multiply(g, which == SILU ? silu_slope(v) : sigmoid_vec(v));
    store_row(out, i, left, 0, g);
}
#define BODY(i, left) unary_grad_at(SIGMOID, i, left, saved, grad, out)
HOT void sigmoid_grad_row(int64_t count, const float *saved, const float *grad, float *out) { ALONG_ROW(count, BODY) }
#undef BODY
#define BODY(i, left) unary_grad_at(SILU, i, left, saved, grad, out)
HOT void silu_grad_row(int64_t count, const float *saved, const float *grad, float *out) { ALONG_ROW(count, BODY) }
#undef BODY
#define BODY(i, left) unary_grad_at(SOFTPLUS, i, left, saved, grad, out)
HOT void softplus_grad_row(int64_t count, const float *saved, const float *grad, float *out) { ALONG_ROW(count, BODY) }
#undef BODY

typedef struct {
    int64_t which, count;
    const float *saved, *grad;
    float *out;
} UnaryGrad;

static void (*const unary_grads[])(int64_t, const float *, const float *, float *) = {sigmoid_grad_row, silu_grad_row,
                                                                                      softplus_grad_row};

static void unary_grad_stretches(void *context, int64_t first, int64_t last, int64_t worker) {
    const UnaryGrad *call = context;
    (void)worker;
    for (int64_t s = first; s < last; s++) {
        int64_t left = call->count - s * STRETCH, at = s * STRETCH;
        unary_grads[call->which](left < STRETCH ? left : STRETCH, call->saved + at, call->grad + at, call->out + at);
    }
}
int hyla_unary_grad(const UnaryGrad *call) {
    team_ranges((call->count + STRETCH - 1) / STRETCH, SMALL / STRETCH, unary_grad_stretches, (void *)call);
    return 0;
}

typedef struct {
    int64_t rows, width, gate_row, up_row, grad_row, out_row, is_bf16; /* rows are so many elements apart */
    const void *gate, *up, *grad;
    const float *weights;      /* [rows]: what the rows' results are multiplied with afterwards (experts); or 0 */
    void *gate_grad, *up_grad; /* rows out_row apart */
    void *act;                 /* weights: silu(gate) up times its row's weight, dense */
    float *weight_grad;        /* weights: [rows], the sums of silu(gate) up times grad */
} SwigluGrad;

/* silu of a piece of the gate's row, and its derivative. */
INLINE void silu_slopes_in(const int is_bf16, int64_t count, const void *x, int64_t at, float *silu, float *slope) {
#define BODY(i, left)                                                        \
    {                                                                        \
        vec v = load_row(x, at + (i), left, is_bf16);                        \
        store_row(silu, i, left, 0, silu_vec(v));                            \
        store_row(slope, i, left, 0, silu_slope(v));                         \
    }
    ALONG_ROW(count, BODY)
#undef BODY
}
HOT void silu_slopes(int is_bf16, int64_t count, const void *x, int64_t at, float *silu, float *slope) {
    if (is_bf16) silu_slopes_in(1, count, x, at, silu, slope);
    else silu_slopes_in(0, count, x, at, silu, slope);
}

/* A piece of a row: where it begins in it, and what was made of the gate there. */
typedef struct {
    int64_t row, from, count;
    const float *silu, *slope;
} PieceOfRow;

/* Both gradients. factor: of the gradient. */
INLINE void swiglu_back_in(const SwigluGrad *c, const int is_bf16, const PieceOfRow *p, float factor) {
    int64_t up_at = p->row * c->up_row + p->from, grad_at = p->row * c->grad_row + p->from, to = p->row * c->out_row + p->from;
#define BODY(i, left)                                                                                   \
    {                                                                                                   \
        vec g = multiply(load_row(c->grad, grad_at + (i), left, is_bf16), splat(factor));               \
        store_row(c->up_grad, to + (i), left, is_bf16, multiply(g, load_row(p->silu, i, left, 0)));     \
        g = multiply(g, load_row(c->up, up_at + (i), left, is_bf16));                                   \
        store_row(c->gate_grad, to + (i), left, is_bf16, multiply(g, load_row(p->slope, i, left, 0)));  \
    }
    ALONG_ROW(p->count, BODY)
#undef BODY
}
HOT void swiglu_back(const SwigluGrad *c, int is_bf16, const PieceOfRow *p, float factor) {
    if (is_bf16) swiglu_back_in(c, 1, p, factor);
    else swiglu_back_in(c, 0, p, factor);
}
/* The result times its weight again, and the sum of the result times the gradient. */
INLINE float weighed_in(const SwigluGrad *c, const int is_bf16, const PieceOfRow *p, float weight) {
    int64_t up_at = p->row * c->up_row + p->from, grad_at = p->row * c->grad_row + p->from, to = p->row * c->width + p->from;
    vec dot = splat(0.0f);
#define BODY(i, left)                                                                                   \
    {                                                                                                   \
        vec act = multiply(load_row(p->silu, i, left, 0), load_row(c->up, up_at + (i), left, is_bf16)); \
        dot = fma_vec(act, load_row(c->grad, grad_at + (i), left, is_bf16), dot);                       \
        store_row(c->act, to + (i), left, is_bf16, multiply(act, splat(weight)));                       \
    }
    ALONG_ROW(p->count, BODY)
#undef BODY
    return sum_vec(dot);
}
HOT float weighed_results(const SwigluGrad *c, int is_bf16, const PieceOfRow *p, float weight) {
    return is_bf16 ? weighed_in(c, 1, p, weight) : weighed_in(c, 0, p, weight);
}

static void swiglu_grad_row(const SwigluGrad *c, int64_t r) {
    float silu[PIECE], slope[PIECE], weight = c->weights ? c->weights[r] : 1.0f, dot = 0.0f;
    int is_bf16 = (int)c->is_bf16;
    for (int64_t from = 0; from < c->width; from += PIECE) {
        PieceOfRow p = {r, from, c->width - from < PIECE ? c->width - from : PIECE, silu, slope};
        silu_slopes(is_bf16, p.count, c->gate, r * c->gate_row + from, silu, slope);
        swiglu_back(c, is_bf16, &p, weight);
        if (c->weights) dot += weighed_results(c, is_bf16, &p, weight);
    }
    if (c->weights) c->weight_grad[r] = dot;
}
static void swiglu_grad_rows(void *context, int64_t first, int64_t last, int64_t worker) {
    const SwigluGrad *call = context;
    (void)worker;
    for (int64_t r = first; r < last; r++) swiglu_grad_row(call, r);
}
int hyla_swiglu_grad(const SwigluGrad *call) {
    team_ranges(call->rows, rows_of(call->width), swiglu_grad_rows, (void *)call);
    return 0;
}

typedef struct {
    int64_t rows, vocab, is_gradient;
    float *logits;          /* [rows, vocab]: become probabilities, or the gradient of the losses times scale */
    const int64_t *targets; /* [rows] */
    float *sums, *picked;   /* [rows]: a row's loss is log(sum) - picked */
    float scale;
} Loss;

HOT float largest_of(int64_t count, const float *x) {
    vec most = splat(-INFINITY);
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) most = larger(load(x + i), most);
    float found = largest(most);
    for (; i < count; i++) found = x[i] > found ? x[i] : found;
    return found;
}
/* The sum of e^(x - most), which become y where they are kept. */
INLINE float exponentials_in(const int keeps, int64_t count, float most, const float *x, float *y) {
    vec total = splat(0.0f);
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        vec e = exp_vec(subtract(load(x + i), splat(most)));
        if (keeps) store(y + i, e);
        total = add(total, e);
    }
    float sum = sum_vec(total);
    for (; i < count; i++) {
        float e = exp_one(x[i] - most);
        if (keeps) y[i] = e;
        sum += e;
    }
    return sum;
}
HOT float exponentials_of(int64_t count, float most, float *x) { return exponentials_in(1, count, most, x, x); }
HOT float sum_of_exponentials(int64_t count, float most, const float *x) { return exponentials_in(0, count, most, x, 0); }
/* Of a whole row. kept: the row itself, where it becomes its exponentials, or 0. Sums of sums: a vocabulary is long. */
static float row_of_exponentials(int64_t vocab, float most, const float *x, float *kept) {
    float sum = 0.0f;
    for (int64_t i = 0; i < vocab; i += STRETCH) {
        int64_t count = vocab - i < STRETCH ? vocab - i : STRETCH;
        sum += kept ? exponentials_of(count, most, kept + i) : sum_of_exponentials(count, most, x + i);
    }
    return sum;
}
HOT void times_number(int64_t count, float factor, float *x) {
#define BODY(i, left) store_row(x, i, left, 0, multiply(load_row(x, i, left, 0), splat(factor)))
    ALONG_ROW(count, BODY)
#undef BODY
}

static void loss_row(const Loss *call, int64_t r) {
    float *x = call->logits + r * call->vocab, most = largest_of(call->vocab, x);
    int64_t target = call->targets[r];
    call->picked[r] = x[target] - most;
    float sum = row_of_exponentials(call->vocab, most, x, x), own = x[target] / sum;
    call->sums[r] = sum;
    times_number(call->vocab, call->scale / sum, x);
    if (call->is_gradient) x[target] = (own - 1.0f) * call->scale;
}
static void loss_rows(void *context, int64_t first, int64_t last, int64_t worker) {
    (void)worker;
    for (int64_t r = first; r < last; r++) loss_row(context, r);
}
int hyla_loss(const Loss *call) {
    team_ranges(call->rows, rows_of(call->vocab), loss_rows, (void *)call);
    return 0;
}

typedef struct {
    int64_t rows, vocab;
    const float *logits; /* [rows, vocab] */
    float *most, *sums;  /* [rows]: the largest of a row, and the sum of e^(x - most): the loss's own */
} RowSums;

static void row_sums_rows(void *context, int64_t first, int64_t last, int64_t worker) {
    const RowSums *call = context;
    (void)worker;
    for (int64_t r = first; r < last; r++) {
        const float *x = call->logits + r * call->vocab;
        call->most[r] = largest_of(call->vocab, x);
        call->sums[r] = row_of_exponentials(call->vocab, call->most[r], x, 0);
    }
}
int hyla_row_sums(const RowSums *call) {
    team_ranges(call->rows, rows_of(call->vocab), row_sums_rows, (void *)call);
    return 0;
}
