/* Mixture of experts: which experts a token goes to, its rows sorted by expert, and the sum of what comes back. */
#include <stdlib.h>

#include "team.h"
#include "vector.h"

#define ENOUGH 8192 /* elements that are worth a turn */

typedef struct {
    int64_t rows, width;
    const float *x; /* dense, as y is */
    float *y;
} Softmax;

typedef struct {
    int64_t tokens, experts, chosen, is_sigmoid, normalize, groups, groups_kept;
    const float *logits; /* [tokens, experts] */
    const float *bias;   /* [experts], takes part in the choice only; or 0 */
    float *weights;      /* [tokens, chosen] */
    int64_t *ids;        /* [tokens, chosen], the largest first */
    float scaling, eps;
} Route;

typedef struct {
    int64_t tokens, chosen, experts, spans; /* spans: as many as experts can have rows */
    const int64_t *ids;                     /* [tokens, chosen] */
    int64_t *order, *rows;                  /* [A]: the pair of each row by expert, and the row of each pair */
    int64_t *span;                          /* [spans, 3]: expert, first row, last row + 1; then empty ones */
    int64_t x_stride, x_bytes;              /* bytes between rows of x, and of a row */
    const char *x;
    char *sorted;                           /* [A]: rows of x in the order of the experts */
} Group;

typedef struct {
    int64_t tokens, chosen, width, is_bf16;
    const void *slots;    /* [A, width], rows by expert */
    const int64_t *rows;  /* [tokens, chosen] */
    const float *weights; /* [tokens, chosen] */
    void *y;              /* [tokens, width] */
} Combine;

typedef struct {
    int64_t tokens, width, is_bf16, shared_row, gate_row;
    const void *shared, *gate; /* gate: one for each token, before its sigmoid; none: factor 1 */
    void *y;
} Join;

typedef struct {
    int64_t rows, width, stride;
    const uint16_t *x;
    float *y;
} Widen;

typedef struct {
    int64_t rows, width, stride, is_bf16; /* rows of x are a stride apart, those of y dense */
    const void *x;
    void *y;
} Relu2;

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
/* Rows of a turn, and turns. */
static int64_t some_rows(int64_t width) { return width >= ENOUGH ? 1 : ENOUGH / (width < 1 ? 1 : width); }
static int64_t turns(int64_t rows, int64_t width) { return (rows + some_rows(width) - 1) / some_rows(width); }

/* What is missing of the last vector of a row counts as nothing. */
HOT float largest_of(int64_t width, const float *x) {
    vec most = splat(-INFINITY);
    int64_t i = 0;
    for (; i + LANES <= width; i += LANES) most = larger(load(x + i), most);
    if (i < width) {
        vec rest = select_vec(lanes_between(0, (int32_t)(width - i) - 1), load_row(x, i, (int)(width - i), 0), splat(-INFINITY));
        most = larger(rest, most);
    }
    return largest(most);
}
HOT float exponentials(int64_t width, float base, const float *x, float *y) {
    vec total = splat(0.0f);
    int64_t i = 0;
    for (; i + LANES <= width; i += LANES) {
        vec e = exp_vec(subtract(load(x + i), splat(base)));
        store(y + i, e);
        total = add(total, e);
    }
    if (i < width) {
        vec e = exp_vec(subtract(load_row(x, i, (int)(width - i), 0), splat(base)));
        e = select_vec(lanes_between(0, (int32_t)(width - i) - 1), e, splat(0.0f));
        store_row(y, i, (int)(width - i), 0, e);
        total = add(total, e);
    }
    return sum_vec(total);
}
INLINE void divide_at(int64_t i, int left, float by, float *y) {
    store_row(y, i, left, 0, divide(load_row(y, i, left, 0), splat(by)));
}
HOT void divide_row(int64_t width, float by, float *y) {
#define BODY(i, left) divide_at(i, left, by, y)
    ALONG_ROW(width, BODY)
#undef BODY
}
static void softmax_row(int64_t width, const float *x, float *y) {
    float total = exponentials(width, largest_of(width, x), x, y);
    divide_row(width, total, y);
}

static void softmax_turn(void *context, int64_t index, int64_t worker) {
    (void)worker;
    const Softmax *c = context;
    int64_t first = index * some_rows(c->width), last = least(first + some_rows(c->width), c->rows);
    for (int64_t r = first; r < last; r++) softmax_row(c->width, c->x + r * c->width, c->y + r * c->width);
}
int hyla_softmax(const Softmax *c) {
    team_run(turns(c->rows, c->width), softmax_turn, (void *)c);
    return 0;
}

INLINE void scores_at(int64_t i, int left, const float *x, float *y) {
    store_row(y, i, left, 0, sigmoid_vec(load_row(x, i, left, 0)));
}
HOT void sigmoid_scores(int64_t width, const float *x, float *y) {
#define BODY(i, left) scores_at(i, left, x, y)
    ALONG_ROW(width, BODY)
#undef BODY
}

/* Places of the k largest of `count` numbers, the largest first; of equal ones the first. */
static void largest_places(int64_t count, const float *x, int64_t k, float *values, int64_t *places) {
    int64_t have = 0;
    for (int64_t i = 0; i < count; i++) {
        if (have == k && !(x[i] > values[k - 1])) continue;
        int64_t at = have < k ? have++ : k - 1;
        for (; at > 0 && x[i] > values[at - 1]; at--) values[at] = values[at - 1], places[at] = places[at - 1];
        values[at] = x[i], places[at] = i;
    }
}

/* Minus infinity outside the groups whose two largest numbers have the largest sums. */
static void keep_groups(const Route *c, float *biased) {
    int64_t size = c->experts / c->groups, places[c->groups > 2 ? c->groups : 2];
    float sums[c->groups], values[c->groups > 2 ? c->groups : 2];
    char is_kept[c->groups];
    for (int64_t g = 0; g < c->groups; g++) {
        largest_places(size, biased + g * size, least(2, size), values, places);
        sums[g] = size > 1 ? values[0] + values[1] : values[0];
        is_kept[g] = 0;
    }
    largest_places(c->groups, sums, c->groups_kept, values, places);
    for (int64_t i = 0; i < c->groups_kept; i++) is_kept[places[i]] = 1;
    for (int64_t e = 0; e < c->experts; e++)
        if (!is_kept[e / size]) biased[e] = -INFINITY;
}

static void route_token(const Route *c, const float *logits, float *scores, float *biased, float *weights, int64_t *ids) {
    if (c->is_sigmoid) sigmoid_scores(c->experts, logits, scores);
    else softmax_row(c->experts, logits, scores);
    for (int64_t e = 0; e < c->experts; e++) biased[e] = c->bias ? scores[e] + c->bias[e] : scores[e];
    if (c->groups > 1) keep_groups(c, biased);
    largest_places(c->experts, biased, c->chosen, weights, ids);
    float total = 0.0f;
    for (int64_t j = 0; j < c->chosen; j++) total += weights[j] = scores[ids[j]];
    for (int64_t j = 0; j < c->chosen; j++)
        weights[j] = (c->normalize ? weights[j] / (total + c->eps) : weights[j]) * c->scaling;
}
static void route_turn(void *context, int64_t index, int64_t worker) {
    (void)worker;
    const Route *c = context;
    float scores[c->experts], biased[c->experts];
    int64_t first = index * some_rows(c->experts), last = least(first + some_rows(c->experts), c->tokens);
    for (int64_t t = first; t < last; t++)
        route_token(c, c->logits + t * c->experts, scores, biased, c->weights + t * c->chosen, c->ids + t * c->chosen);
}
/* The chosen experts of each token and their weights. */
int hyla_route(const Route *c) {
    team_run(turns(c->tokens, c->experts), route_turn, (void *)c);
    return 0;
}

static void gather_turn(void *context, int64_t index, int64_t worker) {
    (void)worker;
    const Group *c = context;
    int64_t some = some_rows(c->x_bytes / 2), first = index * some, last = least(first + some, c->tokens * c->chosen);
    for (int64_t r = first; r < last; r++)
        memcpy(c->sorted + r * c->x_bytes, c->x + c->order[r] / c->chosen * c->x_stride, (size_t)c->x_bytes);
}
/* (token, slot) pairs sorted by expert, in their order within one; spans of the experts that have rows; rows of x. */
int hyla_group(const Group *c) {
    int64_t pairs = c->tokens * c->chosen, spans = 0, first = 0;
    int64_t *next = calloc((size_t)c->experts, sizeof *next);
    if (!next) return 1;
    for (int64_t i = 0; i < pairs; i++) next[c->ids[i]]++;
    for (int64_t e = 0; e < c->experts; e++) {
        int64_t count = next[e];
        next[e] = first;
        if (!count) continue;
        int64_t *span = c->span + 3 * spans++;
        span[0] = e, span[1] = first, span[2] = first += count;
    }
    for (; spans < c->spans; spans++) c->span[3 * spans] = 0, c->span[3 * spans + 1] = c->span[3 * spans + 2] = pairs;
    for (int64_t i = 0; i < pairs; i++) {
        int64_t row = next[c->ids[i]]++;
        c->order[row] = i, c->rows[i] = row;
    }
    free(next);
    team_run(turns(pairs, c->x_bytes / 2), gather_turn, (void *)c);
    return 0;
}

/* w[0] s[0] + ... of a token's slots, one after another, each product rounded. */
INLINE void combine_at(const Combine *c, const int is_bf16, int64_t i, int left, const int64_t *rows, const float *weights,
                       int64_t to) {
    vec sum = multiply(load_row(c->slots, rows[0] * c->width + i, left, is_bf16), splat(weights[0]));
    for (int64_t j = 1; j < c->chosen; j++)
        sum = add(sum, multiply(load_row(c->slots, rows[j] * c->width + i, left, is_bf16), splat(weights[j])));
    store_row(c->y, to + i, left, is_bf16, sum);
}
HOT void combine_row(const Combine *c, const int64_t *rows, const float *weights, int64_t to) {
#define BODY(i, left) combine_at(c, 1, i, left, rows, weights, to)
    if (c->is_bf16) { ALONG_ROW(c->width, BODY) return; }
#undef BODY
#define BODY(i, left) combine_at(c, 0, i, left, rows, weights, to)
    ALONG_ROW(c->width, BODY)
#undef BODY
}
static void combine_turn(void *context, int64_t index, int64_t worker) {
    (void)worker;
    const Combine *c = context;
    int64_t some = some_rows(c->width * c->chosen), first = index * some, last = least(first + some, c->tokens);
    for (int64_t t = first; t < last; t++)
        combine_row(c, c->rows + t * c->chosen, c->weights + t * c->chosen, t * c->width);
}
int hyla_combine(const Combine *c) {
    team_run(turns(c->tokens, c->width * c->chosen), combine_turn, (void *)c);
    return 0;
}

INLINE void join_at(const int is_bf16, const int has_gate, int64_t i, int left, vec factor, const void *shared, int64_t from,
                    void *y, int64_t to) {
    vec v = load_row(shared, from + i, left, is_bf16);
    store_row(y, to + i, left, is_bf16, add(load_row(y, to + i, left, is_bf16), has_gate ? multiply(v, factor) : v));
}
HOT void join_row(int64_t width, int is_bf16, int has_gate, float gate, const void *shared, int64_t from, void *y,
                  int64_t to) {
    vec factor = splat(gate);
#define BODY(i, left) join_at(1, 1, i, left, factor, shared, from, y, to)
    if (is_bf16 && has_gate) { ALONG_ROW(width, BODY) return; }
#undef BODY
#define BODY(i, left) join_at(0, 1, i, left, factor, shared, from, y, to)
    if (has_gate) { ALONG_ROW(width, BODY) return; }
#undef BODY
#define BODY(i, left) join_at(1, 0, i, left, factor, shared, from, y, to)
    if (is_bf16) { ALONG_ROW(width, BODY) return; }
#undef BODY
#define BODY(i, left) join_at(0, 0, i, left, factor, shared, from, y, to)
    ALONG_ROW(width, BODY)
#undef BODY
}
static void join_turn(void *context, int64_t index, int64_t worker) {
    (void)worker;
    const Join *c = context;
    int64_t first = index * some_rows(c->width), last = least(first + some_rows(c->width), c->tokens);
    for (int64_t t = first; t < last; t++) {
        float gate = 1.0f;
        if (c->gate) {
            int64_t at = t * c->gate_row;
            float x = c->is_bf16 ? from_bf16(((const uint16_t *)c->gate)[at]) : ((const float *)c->gate)[at];
            gate = 1.0f / (1.0f + exp_one(-x));
        }
        join_row(c->width, (int)c->is_bf16, c->gate != 0, gate, c->shared, t * c->shared_row, c->y, t * c->width);
    }
}
/* y = y + shared * sigmoid(gate), rounded once. */
int hyla_join(const Join *c) {
    team_run(turns(c->tokens, c->width), join_turn, (void *)c);
    return 0;
}

INLINE void widen_at(int64_t i, int left, const uint16_t *x, float *y) { store_row(y, i, left, 0, load_row(x, i, left, 1)); }
static void widen_turn(void *context, int64_t index, int64_t worker) {
    (void)worker;
    const Widen *c = context;
    int64_t first = index * some_rows(c->width), last = least(first + some_rows(c->width), c->rows);
    for (int64_t r = first; r < last; r++) {
#define BODY(i, left) widen_at(i, left, c->x + r * c->stride, c->y + r * c->width)
        ALONG_ROW(c->width, BODY)
#undef BODY
    }
}
/* Rows of bfloat16 as floats: a router scores in full precision. */
int hyla_widen(const Widen *c) {
    team_run(turns(c->rows, c->width), widen_turn, (void *)c);
    return 0;
}

/* max(x, 0)^2; a NaN stays one. */
INLINE void relu2_at(const int is_bf16, int64_t i, int left, const void *x, int64_t at, void *y, int64_t to) {
    vec v = larger(splat(0.0f), load_row(x, at + i, left, is_bf16));
    store_row(y, to + i, left, is_bf16, multiply(v, v));
}
HOT void relu2_row(int64_t width, int is_bf16, const void *x, int64_t at, void *y, int64_t to) {
#define BODY(i, left) relu2_at(1, i, left, x, at, y, to)
    if (is_bf16) { ALONG_ROW(width, BODY) return; }
#undef BODY
#define BODY(i, left) relu2_at(0, i, left, x, at, y, to)
    ALONG_ROW(width, BODY)
#undef BODY
}
static void relu2_turn(void *context, int64_t index, int64_t worker) {
    (void)worker;
    const Relu2 *c = context;
    int64_t first = index * some_rows(c->width), last = least(first + some_rows(c->width), c->rows);
    for (int64_t r = first; r < last; r++) relu2_row(c->width, (int)c->is_bf16, c->x, r * c->stride, c->y, r * c->width);
}
int hyla_relu2(const Relu2 *c) {
    team_run(turns(c->rows, c->width), relu2_turn, (void *)c);
    return 0;
}
