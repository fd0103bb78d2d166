/* Gradients of norms, plain and gated. A row's gradient depends on that row alone. Those of weights are sums over rows:
   of each turn first, then of the turns (by the caller), so that threads change nothing. */
#include "slopes.h"

#define ROWS 32 /* of one turn */
#define SMALL 16384
#include "turns.h"

/* For h = x / root: the sums of x^2 and of grad weight x, 16 sums side by side first. */
INLINE void norm_dots_in(const int x_bf16, const int g_bf16, const int has_weight, int64_t width, const void *x, int64_t at,
                         const void *grad, int64_t from, const float *weight, float *square, float *dot) {
    vec squares = splat(0.0f), dots = splat(0.0f);
#define BODY(i, left)                                                        \
    {                                                                        \
        vec v = load_row(x, at + (i), left, x_bf16), g = load_row(grad, from + (i), left, g_bf16); \
        if (has_weight) g = multiply(g, load_row(weight, i, left, 0));       \
        squares = fma_vec(v, v, squares), dots = fma_vec(g, v, dots);        \
    }
    ALONG_ROW(width, BODY)
#undef BODY
    *square = sum_vec(squares), *dot = sum_vec(dots);
}
HOT void norm_dots(int is_bf16, int64_t width, const void *x, int64_t at, const void *grad, int64_t from,
                   const float *weight, float *square, float *dot) {
    if (is_bf16 && weight) norm_dots_in(1, 1, 1, width, x, at, grad, from, weight, square, dot);
    else if (is_bf16) norm_dots_in(1, 1, 0, width, x, at, grad, from, weight, square, dot);
    else if (weight) norm_dots_in(0, 0, 1, width, x, at, grad, from, weight, square, dot);
    else norm_dots_in(0, 0, 0, width, x, at, grad, from, weight, square, dot);
}

/* out = (grad weight - h mean) inverse, h = x inverse;  sums += grad h. */
INLINE void norm_back_in(const int is_bf16, const int has_weight, int64_t width, float inverse, float mean, const void *x,
                         int64_t at, const void *grad, int64_t from, const float *weight, void *out, int64_t to,
                         float *sums) {
#define BODY(i, left)                                                                                              \
    {                                                                                                              \
        vec h = multiply(load_row(x, at + (i), left, is_bf16), splat(inverse));                                    \
        vec g = load_row(grad, from + (i), left, is_bf16);                                                         \
        if (has_weight) {                                                                                          \
            store_row(sums, i, left, 0, fma_vec(g, h, load_row(sums, i, left, 0)));                                \
            g = multiply(g, load_row(weight, i, left, 0));                                                         \
        }                                                                                                          \
        store_row(out, to + (i), left, is_bf16, multiply(subtract(g, multiply(h, splat(mean))), splat(inverse)));  \
    }
    ALONG_ROW(width, BODY)
#undef BODY
}
HOT void norm_back(int is_bf16, int64_t width, float inverse, float mean, const void *x, int64_t at, const void *grad,
                   int64_t from, const float *weight, void *out, int64_t to, float *sums) {
    if (is_bf16 && weight) norm_back_in(1, 1, width, inverse, mean, x, at, grad, from, weight, out, to, sums);
    else if (is_bf16) norm_back_in(1, 0, width, inverse, mean, x, at, grad, from, weight, out, to, sums);
    else if (weight) norm_back_in(0, 1, width, inverse, mean, x, at, grad, from, weight, out, to, sums);
    else norm_back_in(0, 0, width, inverse, mean, x, at, grad, from, weight, out, to, sums);
}

/* y = x / sqrt(sum(x^2) / divisor + eps) weight: gradients of x and of the weight from those of y. */
static void norm_grad_row(int is_bf16, int64_t width, float eps, float divisor, const void *x, int64_t at,
                          const void *grad, int64_t from, const float *weight, void *out, int64_t to, float *sums) {
    float square, dot;
    norm_dots(is_bf16, width, x, at, grad, from, weight, &square, &dot);
    float inverse = 1.0f / sqrtf(square / divisor + eps);
    norm_back(is_bf16, width, inverse, dot * inverse / divisor, x, at, grad, from, weight, out, to, sums);
}

typedef struct {
    int64_t rows, width, x_row, grad_row, is_bf16; /* rows are so many elements apart */
    const void *x, *grad;
    const float *weight; /* or 0 */
    void *out;           /* dense, as x */
    float *sums;         /* weight: [turns, width] */
    float eps, divisor;  /* divisor: width for RMSNorm, 1 for the L2 norm */
} NormGrad;

static void norm_grad_rows(void *context, int64_t index, int64_t worker) {
    const NormGrad *call = context;
    int64_t last = (index + 1) * ROWS, width = call->width;
    float *sums = call->weight ? call->sums + index * width : 0;
    (void)worker;
    if (sums) memset(sums, 0, sizeof(float) * (size_t)width);
    for (int64_t r = index * ROWS; r < last && r < call->rows; r++)
        norm_grad_row((int)call->is_bf16, width, call->eps, call->divisor, call->x, r * call->x_row, call->grad,
                      r * call->grad_row, call->weight, call->out, r * width, sums);
}
int hyla_norm_grad(const NormGrad *call) { return in_turns(call->rows, call->width, norm_grad_rows, call); }

enum { PLAIN, SIGMOID, SILU };

typedef struct {
    int64_t rows, groups, width;      /* of a group */
    int64_t gate_row, gate_bf16, grad_row, grad_bf16;
    int64_t which, is_gate_first, weight_step; /* weight_step: from a group's weights to the next one's, 0: all share */
    int64_t head, skip_row;           /* channels of a head; floats from one row of skip to the next */
    const float *x, *weight;          /* [rows, groups, width]; floats */
    const void *gate, *grad;          /* rows apart */
    const float *skip, *factor;       /* what was added to x, times its head's factor; or 0 */
    float *x_grad;                    /* as x */
    void *gate_grad;                  /* [rows, groups width], as gate but dense */
    float *weight_sums;               /* [turns, groups width], or [turns, width] where all share */
    float *skip_grad, *factor_sums;   /* [rows, groups width]; [turns, heads] */
    float eps;
} GatedGrad;

/* An activation and its derivative. */
INLINE void opened_in(const int which, const int is_bf16, int64_t count, const void *z, int64_t at, float *a, float *s) {
#define BODY(i, left)                                                                             \
    {                                                                                             \
        vec v = load_row(z, at + (i), left, is_bf16);                                             \
        vec y = which == SILU ? silu_vec(v) : which == SIGMOID ? sigmoid_vec(v) : v;              \
        store_row(a, i, left, 0, y);                                                              \
        store_row(s, i, left, 0, which == SILU ? silu_slope(v) : which == SIGMOID ? sigmoid_slope(y) : splat(1.0f)); \
    }
    ALONG_ROW(count, BODY)
#undef BODY
}
HOT void opened_row(int which, int is_bf16, int64_t count, const void *z, int64_t at, float *a, float *s) {
    switch (2 * which + is_bf16) {
        case 0: opened_in(PLAIN, 0, count, z, at, a, s); break;
        case 1: opened_in(PLAIN, 1, count, z, at, a, s); break;
        case 2: opened_in(SIGMOID, 0, count, z, at, a, s); break;
        case 3: opened_in(SIGMOID, 1, count, z, at, a, s); break;
        case 4: opened_in(SILU, 0, count, z, at, a, s); break;
        default: opened_in(SILU, 1, count, z, at, a, s);
    }
}
INLINE void floats_in(const int is_bf16, int64_t count, const void *x, int64_t at, float *y) {
#define BODY(i, left) store_row(y, i, left, 0, load_row(x, at + (i), left, is_bf16))
    ALONG_ROW(count, BODY)
#undef BODY
}
HOT void floats_of(int is_bf16, int64_t count, const void *x, int64_t at, float *y) {
    if (is_bf16) floats_in(1, count, x, at, y);
    else floats_in(0, count, x, at, y);
}
HOT void products_row(int64_t count, const float *a, const float *b, float *y) {
#define BODY(c, left) store_row(y, c, left, 0, multiply(load_row(a, c, left, 0), load_row(b, c, left, 0)))
    ALONG_ROW(count, BODY)
#undef BODY
}
/* z's gradient, a b c, in z's dtype. */
INLINE void three_in(const int is_bf16, int64_t count, const float *a, const float *b, const float *c, void *y, int64_t to) {
#define BODY(i, left)                                                                                            \
    store_row(y, to + (i), left, is_bf16,                                                                        \
              multiply(multiply(load_row(a, i, left, 0), load_row(b, i, left, 0)), load_row(c, i, left, 0)))
    ALONG_ROW(count, BODY)
#undef BODY
}
HOT void three_row(int is_bf16, int64_t count, const float *a, const float *b, const float *c, void *y, int64_t to) {
    if (is_bf16) three_in(1, count, a, b, c, y, to);
    else three_in(0, count, a, b, c, y, to);
}
/* y = x + f a; y = f x; the sum of a b. */
HOT void added_row(int64_t count, float f, const float *a, const float *x, float *y) {
#define BODY(c, left) \
    store_row(y, c, left, 0, add(load_row(x, c, left, 0), multiply(load_row(a, c, left, 0), splat(f))))
    ALONG_ROW(count, BODY)
#undef BODY
}
HOT void factor_row(int64_t count, float f, const float *x, float *y) {
#define BODY(c, left) store_row(y, c, left, 0, multiply(load_row(x, c, left, 0), splat(f)))
    ALONG_ROW(count, BODY)
#undef BODY
}
HOT float dot_of(int64_t count, const float *a, const float *b) {
    vec total = splat(0.0f);
#define BODY(i, left) total = fma_vec(load_row(a, i, left, 0), load_row(b, i, left, 0), total)
    ALONG_ROW(count, BODY)
#undef BODY
    return sum_vec(total);
}
HOT void weighed_row(int64_t count, float inverse, const float *x, const float *weight, float *y) {
#define BODY(c, left) \
    store_row(y, c, left, 0, multiply(multiply(load_row(x, c, left, 0), splat(inverse)), load_row(weight, c, left, 0)))
    ALONG_ROW(count, BODY)
#undef BODY
}

/* One group of one row, x being the norm's input before the gate: its own gradient, the gate's and the weight's share. */
static void gated_group(const GatedGrad *call, int64_t t, int64_t g, const float *x, float *x_grad, float *sums) {
    int64_t width = call->width, first = g * width, to = (t * call->groups + g) * width;
    float act[width], slope[width], grad[width], met[width], normed[width], square, dot;
    const float *weight = call->weight + g * call->weight_step;
    opened_row((int)call->which, (int)call->gate_bf16, width, call->gate, t * call->gate_row + first, act, slope);
    floats_of((int)call->grad_bf16, width, call->grad, t * call->grad_row + first, grad);
    if (call->is_gate_first) { /* y = norm(x act) weight */
        products_row(width, x, act, met);
        norm_grad_row(0, width, call->eps, (float)width, met, 0, grad, 0, weight, x_grad, 0, sums);
        three_row((int)call->gate_bf16, width, x_grad, x, slope, call->gate_grad, to);
        products_row(width, x_grad, act, x_grad);
    } else { /* y = norm(x) weight act */
        products_row(width, grad, act, met);
        norm_dots(0, width, x, 0, met, 0, weight, &square, &dot);
        float inverse = 1.0f / sqrtf(square / (float)width + call->eps);
        norm_back(0, width, inverse, dot * inverse / (float)width, x, 0, met, 0, weight, x_grad, 0, sums);
        weighed_row(width, inverse, x, weight, normed);
        three_row((int)call->gate_bf16, width, grad, normed, slope, call->gate_grad, to);
    }
}
static void gated_grad_rows(void *context, int64_t index, int64_t worker) {
    const GatedGrad *call = context;
    int64_t C = call->groups * call->width, last = (index + 1) * ROWS, shared = !call->weight_step, width = call->width;
    int64_t head = call->head, heads = call->skip ? C / head : 0;
    float *sums = call->weight_sums + index * (shared ? width : C), *factors = call->factor_sums + index * heads, own[width];
    (void)worker;
    memset(sums, 0, sizeof(float) * (size_t)(shared ? width : C));
    for (int64_t h = 0; h < heads; h++) factors[h] = 0.0f;
    for (int64_t t = index * ROWS; t < last && t < call->rows; t++)
        for (int64_t g = 0; g < call->groups; g++) {
            int64_t first = g * width, at = t * C + first;
            const float *x = call->x + at, *skip = call->skip + t * call->skip_row + first;
            float *x_grad = call->x_grad + at;
            for (int64_t c = 0; heads && c < width; c += head)
                added_row(head, call->factor[(first + c) / head], skip + c, x + c, own + c);
            gated_group(call, t, g, heads ? own : x, x_grad, shared ? sums : sums + first);
            for (int64_t c = 0; heads && c < width; c += head) {
                int64_t h = (first + c) / head;
                factor_row(head, call->factor[h], x_grad + c, call->skip_grad + at + c);
                factors[h] += dot_of(head, x_grad + c, skip + c);
            }
        }
}
/* RMSNorm of groups of channels under a gate, before or after it. */
int hyla_gated_grad(const GatedGrad *call) {
    return in_turns(call->rows, call->groups * call->width, gated_grad_rows, call);
}
