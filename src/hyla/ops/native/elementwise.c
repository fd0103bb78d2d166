/* Non-linearities and norms over rows. Any float or bfloat16 in and out, float inside. */
#include "vector.h"

enum { SIGMOID, SILU };
#define SMALL 16384 /* fewer elements are not worth a second thread */
#define STRETCH 4096

/* y = f(x) over count contiguous floats. */
void hyla_unary(int which, int64_t count, const float *x, float *y) {
    int64_t stretches = (count + STRETCH - 1) / STRETCH;
#pragma omp parallel for schedule(static) if (count > SMALL)
    for (int64_t s = 0; s < stretches; s++) {
        int64_t end = (s + 1) * STRETCH < count ? (s + 1) * STRETCH : count;
        for (int64_t i = s * STRETCH; i < end; i += LANES) {
            vec v = load_row(x, i, end - i, 0);
            store_row(y, i, end - i, 0, which == SIGMOID ? sigmoid_vec(v) : silu_vec(v));
        }
    }
}

/* y[r, i] = silu(gate[r, i]) * up[r, i]; rows of gate and up are `stride` apart. */
void hyla_swiglu(int64_t rows, int64_t width, int64_t gate_stride, int64_t up_stride, int is_bf16, const void *gate,
                 const void *up, void *y) {
#pragma omp parallel for schedule(static) if (rows * width > SMALL)
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < width; i += LANES) {
            int left = width - i < LANES ? (int)(width - i) : LANES;
            vec g = load_row(gate, r * gate_stride + i, left, is_bf16);
            vec u = load_row(up, r * up_stride + i, left, is_bf16);
            store_row(y, r * width + i, left, is_bf16, silu_vec(g) * u);
        }
}

/* y = x / sqrt(sum(x^2) / divisor + eps) * (weight + shift) over one row; weight may be absent. */
static void norm_row(int64_t width, int x_bf16, int w_bf16, int y_bf16, const void *x, int64_t at, const void *weight,
                     float shift, float eps, float divisor, void *y, int64_t to) {
    vec total = splat(0.0f);
    for (int64_t i = 0; i < width; i += LANES) {
        vec v = load_row(x, at + i, width - i < LANES ? (int)(width - i) : LANES, x_bf16);
        total = fma_vec(v, v, total);
    }
    vec root = splat(sqrtf(sum_vec(total) / divisor + eps));
    for (int64_t i = 0; i < width; i += LANES) {
        int left = width - i < LANES ? (int)(width - i) : LANES;
        vec v = load_row(x, at + i, left, x_bf16) / root;
        if (weight) v *= load_row(weight, i, left, w_bf16) + shift;
        store_row(y, to + i, left, y_bf16, v);
    }
}

/* Divisor: width for RMSNorm, 1 for the L2 norm. */
void hyla_norm(int64_t rows, int64_t width, int64_t stride, int x_bf16, int w_bf16, int y_bf16, const void *x,
               const void *weight, float shift, float eps, float divisor, void *y) {
#pragma omp parallel for schedule(static) if (rows * width > SMALL)
    for (int64_t r = 0; r < rows; r++)
        norm_row(width, x_bf16, w_bf16, y_bf16, x, r * stride, weight, shift, eps, divisor, y, r * width);
}

/* y = o * sigmoid(gate), o [rows, width] float; rows of gate are `gate_stride` apart. */
void hyla_sigmoid_gate(int64_t rows, int64_t width, int64_t gate_stride, int gate_bf16, int y_bf16, const float *o,
                       const void *gate, void *y) {
#pragma omp parallel for schedule(static) if (rows * width > SMALL)
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < width; i += LANES) {
            int left = width - i < LANES ? (int)(width - i) : LANES;
            vec g = load_row(gate, r * gate_stride + i, left, gate_bf16);
            store_row(y, r * width + i, left, y_bf16, load_row(o, r * width + i, left, 0) * sigmoid_vec(g));
        }
}

typedef struct {
    int64_t tokens, heads, width, row, head; /* strides of x in elements; channels are dense */
    int64_t x_bf16, w_bf16, y_bf16, has_norm, rotary, interleaved;
    const void *x, *weight;
    const float *cos_sin; /* [tokens, rotary]: cosines, then sines */
    void *y;              /* [tokens, heads, width] */
    float shift, eps;
} Heads;

/* The first `rotary` channels turn: channel i with i + rotary / 2, or (interleaved) 2i with 2i + 1. */
static void rotate(int64_t half, int interleaved, const float *cos_sin, float *x) {
    const float *c = cos_sin, *s = cos_sin + half;
    int64_t step = interleaved ? 2 : 1, apart = interleaved ? 1 : half;
    for (int64_t i = 0; i < half; i++) {
        float a = x[i * step], b = x[i * step + apart];
        x[i * step] = a * c[i] - b * s[i];
        x[i * step + apart] = b * c[i] + a * s[i];
    }
}

/* RMSNorm and rotation of every head. */
void hyla_heads(const Heads *call) {
    int64_t width = call->width, rows = call->tokens * call->heads;
#pragma omp parallel for schedule(static) if (rows * width > SMALL)
    for (int64_t r = 0; r < rows; r++) {
        int64_t t = r / call->heads, at = t * call->row + r % call->heads * call->head;
        float own[width], *y = call->y_bf16 ? own : (float *)call->y + r * width;
        if (call->has_norm)
            norm_row(width, (int)call->x_bf16, (int)call->w_bf16, 0, call->x, at, call->weight, call->shift, call->eps,
                     (float)width, y, 0);
        else
            for (int64_t i = 0; i < width; i += LANES) {
                int left = width - i < LANES ? (int)(width - i) : LANES;
                store_row(y, i, left, 0, load_row(call->x, at + i, left, (int)call->x_bf16));
            }
        if (call->rotary) rotate(call->rotary / 2, (int)call->interleaved, call->cos_sin + t * call->rotary, y);
        if (!call->y_bf16) continue;
        for (int64_t i = 0; i < width; i += LANES) {
            int left = width - i < LANES ? (int)(width - i) : LANES;
            store_row(call->y, r * width + i, left, 1, load_row(y, i, left, 0));
        }
    }
}
