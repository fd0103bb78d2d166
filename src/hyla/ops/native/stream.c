/* What joins a sublayer to the residual stream, and rows in another dtype. */
#include "team.h"
#include "vector.h"

#define SMALL 16384 /* fewer elements are not worth a second thread */

typedef struct {
    int64_t rows, width, x_stride, y_stride, x_bf16, y_bf16, z_bf16; /* strides in elements; channels are dense */
    const void *x, *y;                                               /* y may be 0 */
    void *z;                                                         /* [rows, width] */
    float alpha, beta;
} Sum;

INLINE void sum_at(const int has_y, const int x_bf16, const int y_bf16, const int z_bf16, int64_t i, int left,
                   const Sum *call, const void *x, const void *y, void *z) {
    vec v = multiply(load_row(x, i, left, x_bf16), splat(call->alpha));
    if (has_y) v = add(v, multiply(load_row(y, i, left, y_bf16), splat(call->beta)));
    store_row(z, i, left, z_bf16, v);
}
HOT void sum_row(const Sum *call, const void *x, const void *y, void *z) {
#define BODY(i, left) sum_at(1, 1, 1, 1, i, left, call, x, y, z)
    if (y && call->x_bf16) { ALONG_ROW(call->width, BODY) return; }
#undef BODY
#define BODY(i, left) sum_at(1, 0, 0, 0, i, left, call, x, y, z)
    if (y) { ALONG_ROW(call->width, BODY) return; }
#undef BODY
#define BODY(i, left) sum_at(0, 1, 0, 1, i, left, call, x, y, z)
    if (call->x_bf16 && call->z_bf16) { ALONG_ROW(call->width, BODY) return; }
#undef BODY
#define BODY(i, left) sum_at(0, 1, 0, 0, i, left, call, x, y, z)
    if (call->x_bf16) { ALONG_ROW(call->width, BODY) return; }
#undef BODY
#define BODY(i, left) sum_at(0, 0, 0, 1, i, left, call, x, y, z)
    if (call->z_bf16) { ALONG_ROW(call->width, BODY) return; }
#undef BODY
#define BODY(i, left) sum_at(0, 0, 0, 0, i, left, call, x, y, z)
    ALONG_ROW(call->width, BODY)
#undef BODY
}
static void sum_rows(void *context, int64_t r, int64_t worker) {
    const Sum *call = context;
    int64_t x_size = call->x_bf16 ? 2 : 4, y_size = call->y_bf16 ? 2 : 4, z_size = call->z_bf16 ? 2 : 4;
    (void)worker;
    sum_row(call, (const char *)call->x + x_size * r * call->x_stride,
            call->y ? (const char *)call->y + y_size * r * call->y_stride : 0, (char *)call->z + z_size * r * call->width);
}

/* z = alpha x + beta y, rounded once; without y: z = alpha x. With y all three are of one dtype. */
int hyla_sum(const Sum *call) {
    if (call->rows * call->width > SMALL) team_run(call->rows, sum_rows, (void *)call);
    else
        for (int64_t r = 0; r < call->rows; r++) sum_rows((void *)call, r, 0);
    return 0;
}
