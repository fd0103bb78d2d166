/* Non-linearities and norms over rows. Any float or bfloat16 in and out, float inside. */
#include "norms.h"
#include "team.h"

enum { SIGMOID, SILU, SOFTPLUS, EXP };
#define SMALL 16384 /* fewer elements are not worth a second thread */
#define STRETCH 4096

/* Rows that go together. */
static int64_t rows_of(int64_t width) { return SMALL / (width < 1 ? 1 : width); }

/* y = f(x) over count contiguous floats. */
INLINE void unary_at(const int which, int64_t i, int left, const float *x, float *y) {
    vec v = load_row(x, i, left, 0);
    if (which == EXP) v = exp_vec(v);
    else v = which == SIGMOID ? sigmoid_vec(v) : which == SILU ? silu_vec(v) : softplus_vec(v);
    store_row(y, i, left, 0, v);
}
HOT void sigmoid_row(int64_t count, const float *x, float *y) {
#define BODY(i, left) unary_at(SIGMOID, i, left, x, y)
    ALONG_ROW(count, BODY)
#undef BODY
}
HOT void silu_row(int64_t count, const float *x, float *y) {
#define BODY(i, left) unary_at(SILU, i, left, x, y)
    ALONG_ROW(count, BODY)
#undef BODY
}
HOT void softplus_row(int64_t count, const float *x, float *y) {
#define BODY(i, left) unary_at(SOFTPLUS, i, left, x, y)
    ALONG_ROW(count, BODY)
#undef BODY
}

HOT void power_row(int64_t count, const float *x, float *y) {
#define BODY(i, left) unary_at(EXP, i, left, x, y)
    ALONG_ROW(count, BODY)
#undef BODY
}

typedef struct {
    int64_t which, count;
    const float *x;
    float *y;
} Unary;

static void (*const unary_rows[])(int64_t, const float *, float *) = {sigmoid_row, silu_row, softplus_row, power_row};

static void unary_stretches(void *context, int64_t first, int64_t last, int64_t worker) {
    const Unary *call = context;
    for (int64_t s = first; s < last; s++) {
        int64_t left = call->count - s * STRETCH, at = s * STRETCH;
        unary_rows[call->which](left < STRETCH ? left : STRETCH, call->x + at, call->y + at);
    }
}

int hyla_unary(const Unary *call) {
    team_ranges((call->count + STRETCH - 1) / STRETCH, SMALL / STRETCH, unary_stretches, (void *)call);
    return 0;
}

/* y[i] = silu(gate[i]) * up[i]. */
INLINE void swiglu_at(const int is_bf16, int64_t i, int left, const void *gate, const void *up, void *y) {
    vec g = load_row(gate, i, left, is_bf16), u = load_row(up, i, left, is_bf16);
    store_row(y, i, left, is_bf16, multiply(silu_vec(g), u));
}
HOT void swiglu_row(int64_t width, int is_bf16, const void *gate, const void *up, void *y) {
#define BODY(i, left) swiglu_at(1, i, left, gate, up, y)
    if (is_bf16) ALONG_ROW(width, BODY)
#undef BODY
#define BODY(i, left) swiglu_at(0, i, left, gate, up, y)
    else ALONG_ROW(width, BODY)
#undef BODY
}

typedef struct {
    int64_t rows, width, gate_stride, up_stride, is_bf16; /* rows of gate and up are a stride apart, those of y dense */
    const void *gate, *up;
    void *y;
} Swiglu;

static void swiglu_rows(void *context, int64_t first, int64_t last, int64_t worker) {
    const Swiglu *call = context;
    int64_t width = call->width, size = call->is_bf16 ? 2 : 4;
    for (int64_t r = first; r < last; r++)
        swiglu_row(width, (int)call->is_bf16, (const char *)call->gate + size * r * call->gate_stride,
                   (const char *)call->up + size * r * call->up_stride, (char *)call->y + size * r * width);
}

int hyla_swiglu(const Swiglu *call) {
    team_ranges(call->rows, rows_of(call->width), swiglu_rows, (void *)call);
    return 0;
}

/* y = x / root * (weight + shift); weight may be absent. */
typedef struct {
    int64_t width;
    int x_bf16, w_bf16, y_bf16;
    const void *weight;
    float shift, eps, divisor;
} Norm;
INLINE void scale_at(const Norm *n, const int x_bf16, const int y_bf16, const int w_bf16, const int has_weight, int64_t i,
                     int left, float root, const void *x, int64_t at, void *y, int64_t to) {
    vec v = divide(load_row(x, at + i, left, x_bf16), splat(root));
    if (has_weight) v = multiply(v, add(load_row(n->weight, i, left, w_bf16), splat(n->shift)));
    store_row(y, to + i, left, y_bf16, v);
}
INLINE void scale_in(const Norm *n, const int x_bf16, const int y_bf16, float root, const void *x, int64_t at, void *y,
                     int64_t to) {
    int64_t width = n->width;
#define BODY(i, left) scale_at(n, x_bf16, y_bf16, 0, 0, i, left, root, x, at, y, to)
    if (!n->weight) { ALONG_ROW(width, BODY) return; }
#undef BODY
#define BODY(i, left) scale_at(n, x_bf16, y_bf16, 0, 1, i, left, root, x, at, y, to)
    if (!n->w_bf16) { ALONG_ROW(width, BODY) return; }
#undef BODY
#define BODY(i, left) scale_at(n, x_bf16, y_bf16, 1, 1, i, left, root, x, at, y, to)
    ALONG_ROW(width, BODY)
#undef BODY
}
HOT void scale_row(const Norm *n, float root, const void *x, int64_t at, void *y, int64_t to) {
    switch (2 * n->x_bf16 + n->y_bf16) {
        case 0: scale_in(n, 0, 0, root, x, at, y, to); break;
        case 1: scale_in(n, 0, 1, root, x, at, y, to); break;
        case 2: scale_in(n, 1, 0, root, x, at, y, to); break;
        default: scale_in(n, 1, 1, root, x, at, y, to);
    }
}
/* y = x / sqrt(sum(x^2) / divisor + eps) * (weight + shift) over one row. */
static void norm_row(const Norm *n, const void *x, int64_t at, void *y, int64_t to) {
    float total = square_sum(n->width, n->x_bf16, x, at);
    scale_row(n, sqrtf(total / n->divisor + n->eps), x, at, y, to);
}

typedef struct {
    int64_t rows, width, stride, x_bf16, w_bf16, y_bf16; /* rows of x are a stride apart, those of y dense */
    const void *x, *weight;
    void *y;
    float shift, eps, divisor; /* divisor: width for RMSNorm, 1 for the L2 norm */
} Norms;

static void norm_rows(void *context, int64_t first, int64_t last, int64_t worker) {
    const Norms *call = context;
    int64_t width = call->width;
    Norm norm = {width, (int)call->x_bf16, (int)call->w_bf16, (int)call->y_bf16, call->weight, call->shift, call->eps,
                 call->divisor};
    for (int64_t r = first; r < last; r++) norm_row(&norm, call->x, r * call->stride, call->y, r * width);
}

int hyla_norm(const Norms *call) {
    team_ranges(call->rows, rows_of(call->width), norm_rows, (void *)call);
    return 0;
}

/* y = o * sigmoid(gate), o float. */
INLINE void sigmoid_gate_at(const int gate_bf16, const int y_bf16, int64_t i, int left, const float *o,
                            const void *gate, void *y) {
    vec g = load_row(gate, i, left, gate_bf16);
    store_row(y, i, left, y_bf16, multiply(load_row(o, i, left, 0), sigmoid_vec(g)));
}
INLINE void sigmoid_gate_in(const int gate_bf16, const int y_bf16, int64_t width, const float *o, const void *gate,
                            void *y) {
#define BODY(i, left) sigmoid_gate_at(gate_bf16, y_bf16, i, left, o, gate, y)
    ALONG_ROW(width, BODY)
#undef BODY
}
HOT void sigmoid_gate_row(int64_t width, int gate_bf16, int y_bf16, const float *o, const void *gate, void *y) {
    switch (2 * gate_bf16 + y_bf16) {
        case 0: sigmoid_gate_in(0, 0, width, o, gate, y); break;
        case 1: sigmoid_gate_in(0, 1, width, o, gate, y); break;
        case 2: sigmoid_gate_in(1, 0, width, o, gate, y); break;
        default: sigmoid_gate_in(1, 1, width, o, gate, y);
    }
}

typedef struct {
    int64_t rows, width, gate_stride, gate_bf16, y_bf16; /* rows of gate are a stride apart, those of o and y dense */
    const float *o;
    const void *gate;
    void *y;
} Gate;

static void sigmoid_gate_rows(void *context, int64_t first, int64_t last, int64_t worker) {
    const Gate *call = context;
    int64_t width = call->width, gate_size = call->gate_bf16 ? 2 : 4, y_size = call->y_bf16 ? 2 : 4;
    for (int64_t r = first; r < last; r++)
        sigmoid_gate_row(width, (int)call->gate_bf16, (int)call->y_bf16, call->o + r * width,
                         (const char *)call->gate + gate_size * r * call->gate_stride, (char *)call->y + y_size * r * width);
}

int hyla_sigmoid_gate(const Gate *call) {
    team_ranges(call->rows, rows_of(call->width), sigmoid_gate_rows, (void *)call);
    return 0;
}

typedef struct {
    int64_t tokens, heads, width, row, head; /* strides of x in elements; channels are dense */
    int64_t x_bf16, w_bf16, y_bf16, has_norm, rotary, interleaved;
    const void *x, *weight;
    const float *cos_sin; /* [tokens, rotary]: cosines, then sines */
    void *y;              /* [tokens, heads, width] */
    float shift, eps;
    int64_t y_row, y_head; /* strides of y in elements; channels are dense */
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

/* A row in another dtype. */
INLINE void copy_in(const int x_bf16, const int y_bf16, int64_t width, const void *x, int64_t at, void *y, int64_t to) {
#define BODY(i, left) store_row(y, to + (i), left, y_bf16, load_row(x, at + (i), left, x_bf16))
    ALONG_ROW(width, BODY)
#undef BODY
}
HOT void to_floats(int64_t width, int x_bf16, const void *x, int64_t at, float *y) {
    if (x_bf16) copy_in(1, 0, width, x, at, y, 0);
    else copy_in(0, 0, width, x, at, y, 0);
}
HOT void to_bfloats(int64_t width, const float *x, void *y, int64_t to) { copy_in(0, 1, width, x, 0, y, to); }

static void heads_rows(void *context, int64_t first, int64_t last, int64_t worker) {
    const Heads *call = context;
    int64_t width = call->width;
    Norm norm = {width, (int)call->x_bf16, (int)call->w_bf16, 0, call->weight, call->shift, call->eps, (float)width};
    for (int64_t r = first; r < last; r++) {
        int64_t t = r / call->heads, h = r % call->heads, at = t * call->row + h * call->head;
        int64_t to = t * call->y_row + h * call->y_head;
        float own[width], *y = call->y_bf16 ? own : (float *)call->y + to;
        if (call->has_norm) norm_row(&norm, call->x, at, y, 0);
        else to_floats(width, (int)call->x_bf16, call->x, at, y);
        if (call->rotary) rotate(call->rotary / 2, (int)call->interleaved, call->cos_sin + t * call->rotary, y);
        if (call->y_bf16) to_bfloats(width, y, call->y, to);
    }
}

/* RMSNorm and rotation of every head. */
int hyla_heads(const Heads *call) {
    team_ranges(call->tokens * call->heads, rows_of(call->width), heads_rows, (void *)call);
    return 0;
}
