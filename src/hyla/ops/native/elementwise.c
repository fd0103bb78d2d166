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

/* y = x / sqrt(sum(x^2) / divisor + eps) * (weight + shift); weight may be absent. Divisor: width for RMSNorm, 1 for
   the L2 norm. */
void hyla_norm(int64_t rows, int64_t width, int64_t stride, int x_bf16, int w_bf16, int y_bf16, const void *x,
               const void *weight, float shift, float eps, float divisor, void *y) {
#pragma omp parallel for schedule(static) if (rows * width > SMALL)
    for (int64_t r = 0; r < rows; r++) {
        vec total = splat(0.0f);
        for (int64_t i = 0; i < width; i += LANES) {
            vec v = load_row(x, r * stride + i, width - i < LANES ? (int)(width - i) : LANES, x_bf16);
            total = fma_vec(v, v, total);
        }
        vec root = splat(sqrtf(sum_vec(total) / divisor + eps));
        for (int64_t i = 0; i < width; i += LANES) {
            int left = width - i < LANES ? (int)(width - i) : LANES;
            vec v = load_row(x, r * stride + i, left, x_bf16) / root;
            if (weight) v *= load_row(weight, i, left, w_bf16) + shift;
            store_row(y, r * width + i, left, y_bf16, v);
        }
    }
}
