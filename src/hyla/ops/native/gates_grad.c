/* Gradients of log decays and of Mamba-2's steps, from what a projection left. A row's gradient depends on that row alone;
   those of parameters are summed over the rows of a turn, and over the turns by the caller. */
#include "slopes.h"

#define ROWS 32 /* of one turn */
#define SMALL 8192
#include "turns.h"

INLINE void accumulate(float *sums, int64_t c, int left, vec x) {
    store_row(sums, c, left, 0, add(load_row(sums, c, left, 0), x));
}

typedef struct {
    int64_t rows, columns, raw_row, raw_bf16, has_bound;
    const void *raw;                 /* rows raw_row apart */
    const float *bias, *rates, *grad; /* [columns]; e^A_log of each column's head; [rows, columns] */
    void *out;                       /* raw's gradient, dense */
    float *bias_sums, *rate_sums;    /* [turns, columns]: rate_sums of A_log, by column */
    float bound;
} DecaysGrad;

/* What the gradient is multiplied with for raw, and for A_log. The two exponentials of one loop would not leave enough
   registers for the rest of it. */
INLINE vec decay_input(const DecaysGrad *d, const int is_bf16, int64_t t, int64_t c, int left) {
    return add(load_row(d->raw, t * d->raw_row + c, left, is_bf16), load_row(d->bias, c, left, 0));
}
INLINE void decay_factors_in(const DecaysGrad *d, const int has_bound, const int is_bf16, int64_t t, float *for_raw,
                             float *for_rate) {
#define RATE(c, left) load_row(d->rates, c, left, 0)
#define BODY(c, left)                                                                                             \
    {                                                                                                             \
        vec z = decay_input(d, is_bf16, t, c, left), rate = RATE(c, left);                                        \
        vec slope = has_bound ? multiply(splat(d->bound), sigmoid_slope(sigmoid_vec(multiply(rate, z))))          \
                              : negative(sigmoid_vec(z));                                                         \
        store_row(for_raw, c, left, 0, multiply(slope, rate));                                                    \
    }
    ALONG_ROW(d->columns, BODY)
#undef BODY
#define BODY(c, left)                                                                                             \
    {                                                                                                             \
        vec z = decay_input(d, is_bf16, t, c, left);                                                              \
        store_row(for_rate, c, left, 0,                                                                           \
                  has_bound ? multiply(load_row(for_raw, c, left, 0), z) : multiply(negative(RATE(c, left)), softplus_vec(z))); \
    }
    ALONG_ROW(d->columns, BODY)
#undef BODY
#undef RATE
}
HOT void decay_factors(const DecaysGrad *d, int64_t t, float *for_raw, float *for_rate) {
    if (d->has_bound && d->raw_bf16) decay_factors_in(d, 1, 1, t, for_raw, for_rate);
    else if (d->has_bound) decay_factors_in(d, 1, 0, t, for_raw, for_rate);
    else if (d->raw_bf16) decay_factors_in(d, 0, 1, t, for_raw, for_rate);
    else decay_factors_in(d, 0, 0, t, for_raw, for_rate);
}
/* Products of the gradient with these, into raw's gradient and the sums. */
INLINE void decay_back_in(const int is_bf16, int64_t count, const float *grad, const float *for_raw, const float *for_rate,
                          void *out, int64_t to, float *biases, float *rates) {
#define BODY(c, left)                                                                                             \
    {                                                                                                             \
        vec g = load_row(grad, c, left, 0), own = multiply(g, load_row(for_raw, c, left, 0));                     \
        store_row(out, to + (c), left, is_bf16, own);                                                             \
        accumulate(biases, c, left, own);                                                                         \
        accumulate(rates, c, left, multiply(g, load_row(for_rate, c, left, 0)));                                  \
    }
    ALONG_ROW(count, BODY)
#undef BODY
}
HOT void decay_back(int is_bf16, int64_t count, const float *grad, const float *for_raw, const float *for_rate, void *out,
                    int64_t to, float *biases, float *rates) {
    if (is_bf16) decay_back_in(1, count, grad, for_raw, for_rate, out, to, biases, rates);
    else decay_back_in(0, count, grad, for_raw, for_rate, out, to, biases, rates);
}
static void decays_grad_rows(void *context, int64_t index, int64_t worker) {
    const DecaysGrad *call = context;
    int64_t last = (index + 1) * ROWS, columns = call->columns;
    float *biases = call->bias_sums + index * columns, *rates = call->rate_sums + index * columns;
    float for_raw[columns], for_rate[columns];
    (void)worker;
    memset(biases, 0, sizeof(float) * (size_t)columns);
    memset(rates, 0, sizeof(float) * (size_t)columns);
    for (int64_t t = index * ROWS; t < last && t < call->rows; t++) {
        decay_factors(call, t, for_raw, for_rate);
        decay_back((int)call->raw_bf16, columns, call->grad + t * columns, for_raw, for_rate, call->out, t * columns, biases,
                   rates);
    }
}
int hyla_decays_grad(const DecaysGrad *call) { return in_turns(call->rows, call->columns, decays_grad_rows, call); }

typedef struct {
    int64_t rows, heads, head, channels, dt_row, dt_bf16; /* as Rates of mixers.c has them */
    const float *convolved, *bias; /* [rows, channels], [channels] */
    const void *dt;                /* [rows, heads], dt_row apart */
    const float *dt_bias, *rate;   /* [heads] */
    const float *mixed, *values, *log_decay; /* gradients of the three results */
    float *convolved_grad;
    void *dt_grad;                 /* dense, as dt */
    float *bias_sums, *dt_bias_sums, *rate_sums; /* [turns, ..] */
    float low, high;
} RatesGrad;

/* silu(x + bias) and its derivative. */
HOT void mixed_slopes(int64_t count, const float *x, const float *bias, float *act, float *slope) {
#define BODY(c, left)                                                                \
    {                                                                                \
        vec z = add(load_row(x, c, left, 0), load_row(bias, c, left, 0));            \
        store_row(act, c, left, 0, silu_vec(z));                                     \
        store_row(slope, c, left, 0, silu_slope(z));                                 \
    }
    ALONG_ROW(count, BODY)
#undef BODY
}
/* softplus(raw + bias), whose derivative is the sigmoid. */
INLINE void step_slopes_in(const int is_bf16, int64_t count, const void *raw, int64_t at, const float *bias, float *step,
                           float *slope) {
#define BODY(c, left)                                                                \
    {                                                                                \
        vec z = add(load_row(raw, at + (c), left, is_bf16), load_row(bias, c, left, 0)); \
        store_row(step, c, left, 0, softplus_vec(z));                                \
        store_row(slope, c, left, 0, sigmoid_vec(z));                                \
    }
    ALONG_ROW(count, BODY)
#undef BODY
}
HOT void step_slopes(int is_bf16, int64_t count, const void *raw, int64_t at, const float *bias, float *step, float *slope) {
    if (is_bf16) step_slopes_in(1, count, raw, at, bias, step, slope);
    else step_slopes_in(0, count, raw, at, bias, step, slope);
}
/* grad += step values; the sum of values act. */
HOT float value_back(int64_t count, float step, const float *values, const float *act, float *grad) {
    vec total = splat(0.0f);
#define BODY(c, left)                                                                \
    {                                                                                \
        vec v = load_row(values, c, left, 0);                                        \
        total = fma_vec(v, load_row(act, c, left, 0), total);                        \
        store_row(grad, c, left, 0, add(load_row(grad, c, left, 0), multiply(v, splat(step)))); \
    }
    ALONG_ROW(count, BODY)
#undef BODY
    return sum_vec(total);
}
/* grad = grad slope; sums += grad. */
HOT void slope_back(int64_t count, const float *slope, float *grad, float *sums) {
#define BODY(c, left)                                                                \
    {                                                                                \
        vec g = multiply(load_row(grad, c, left, 0), load_row(slope, c, left, 0));   \
        store_row(grad, c, left, 0, g);                                              \
        accumulate(sums, c, left, g);                                                \
    }
    ALONG_ROW(count, BODY)
#undef BODY
}

static void rates_grad_rows(void *context, int64_t index, int64_t worker) {
    const RatesGrad *call = context;
    int64_t H = call->heads, C = call->channels, P = call->head, last = (index + 1) * ROWS;
    float act[C], slope[C], step[H], step_slope[H];
    float *biases = call->bias_sums + index * C, *steps = call->dt_bias_sums + index * H, *rates = call->rate_sums + index * H;
    (void)worker;
    memset(biases, 0, sizeof(float) * (size_t)C);
    memset(steps, 0, sizeof(float) * (size_t)H);
    memset(rates, 0, sizeof(float) * (size_t)H);
    for (int64_t t = index * ROWS; t < last && t < call->rows; t++) {
        float *grad = call->convolved_grad + t * C;
        mixed_slopes(C, call->convolved + t * C, call->bias, act, slope);
        step_slopes((int)call->dt_bf16, H, call->dt, t * call->dt_row, call->dt_bias, step, step_slope);
        memcpy(grad, call->mixed + t * C, sizeof(float) * (size_t)C);
        for (int64_t h = 0; h < H; h++) {
            int is_inside = step[h] >= call->low && step[h] <= call->high;
            float own = step[h] < call->low ? call->low : step[h] > call->high ? call->high : step[h];
            float by_decay = call->log_decay[t * H + h];
            float by_step = value_back(P, own, call->values + (t * H + h) * P, act + h * P, grad + h * P);
            rates[h] += by_decay * own;
            by_step += by_decay * call->rate[h];
            by_step = is_inside ? by_step * step_slope[h] : 0.0f;
            steps[h] += by_step;
            if (call->dt_bf16) ((uint16_t *)call->dt_grad)[t * H + h] = to_bf16(by_step);
            else ((float *)call->dt_grad)[t * H + h] = by_step;
        }
        slope_back(C, slope, grad, biases);
    }
}
int hyla_rates_grad(const RatesGrad *call) { return in_turns(call->rows, call->channels, rates_grad_rows, call); }
