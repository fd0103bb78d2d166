/* Gradients of non-linearities over rows, and of a chunk's loss. An element's gradient depends on nothing but what the
   element saw: not on its place, not on other rows. */
#include "slopes.h"
#include "team.h"

#define SMALL 16384 /* fewer elements are not worth a second thread */
#define STRETCH 4096

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

INLINE vec swiglu_grad_at(const SwigluGrad *c, const int is_bf16, const int has_weight, int64_t r, int64_t i, int left,
                          vec dot) {
    vec x = load_row(c->gate, r * c->gate_row + i, left, is_bf16), up = load_row(c->up, r * c->up_row + i, left, is_bf16);
    vec g = load_row(c->grad, r * c->grad_row + i, left, is_bf16), silu = silu_vec(x);
    if (has_weight) {
        vec act = multiply(silu, up), weight = splat(c->weights[r]);
        dot = fma_vec(act, g, dot);
        store_row(c->act, r * c->width + i, left, is_bf16, multiply(act, weight));
        g = multiply(g, weight);
    }
    store_row(c->gate_grad, r * c->out_row + i, left, is_bf16, multiply(multiply(g, up), silu_slope(x)));
    store_row(c->up_grad, r * c->out_row + i, left, is_bf16, multiply(g, silu));
    return dot;
}
HOT void swiglu_grad_row(const SwigluGrad *c, int is_bf16, int64_t r) {
    vec dot = splat(0.0f);
#define BODY(i, left) dot = swiglu_grad_at(c, 0, 0, r, i, left, dot)
    if (!is_bf16) ALONG_ROW(c->width, BODY)
#undef BODY
#define BODY(i, left) dot = swiglu_grad_at(c, 1, 0, r, i, left, dot)
    else ALONG_ROW(c->width, BODY)
#undef BODY
}
HOT void expert_grad_row(const SwigluGrad *c, int is_bf16, int64_t r) {
    vec dot = splat(0.0f);
#define BODY(i, left) dot = swiglu_grad_at(c, 0, 1, r, i, left, dot)
    if (!is_bf16) ALONG_ROW(c->width, BODY)
#undef BODY
#define BODY(i, left) dot = swiglu_grad_at(c, 1, 1, r, i, left, dot)
    else ALONG_ROW(c->width, BODY)
#undef BODY
    c->weight_grad[r] = sum_vec(dot);
}
static void swiglu_grad_rows(void *context, int64_t first, int64_t last, int64_t worker) {
    const SwigluGrad *call = context;
    (void)worker;
    for (int64_t r = first; r < last; r++)
        (call->weights ? expert_grad_row : swiglu_grad_row)(call, (int)call->is_bf16, r);
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
/* x = e^(x - most); the sum. */
HOT float exponentials_of(int64_t count, float most, float *x) {
    vec total = splat(0.0f);
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES) {
        vec e = exp_vec(subtract(load(x + i), splat(most)));
        store(x + i, e);
        total = add(total, e);
    }
    float sum = sum_vec(total);
    for (; i < count; i++) sum += x[i] = exp_one(x[i] - most);
    return sum;
}
HOT void times_number(int64_t count, float factor, float *x) {
#define BODY(i, left) store_row(x, i, left, 0, multiply(load_row(x, i, left, 0), splat(factor)))
    ALONG_ROW(count, BODY)
#undef BODY
}

static void loss_row(const Loss *call, int64_t r) {
    float *x = call->logits + r * call->vocab, most = largest_of(call->vocab, x), sum = 0.0f;
    int64_t target = call->targets[r];
    call->picked[r] = x[target] - most;
    for (int64_t i = 0; i < call->vocab; i += STRETCH) /* sums of sums: a vocabulary is long */
        sum += exponentials_of(call->vocab - i < STRETCH ? call->vocab - i : STRETCH, most, x + i);
    call->sums[r] = sum;
    float own = x[target] / sum;
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
