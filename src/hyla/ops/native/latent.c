/* Outputs of heads, each times its gate, rounded. */
#include "team.h"
#include "vector.h"

#define ENOUGH 16384 /* elements that are worth a turn */

typedef struct {
    int64_t tokens, heads, width;       /* rows of o and y are dense */
    int64_t gate_row, gate_bf16, y_bf16;
    const float *o;                     /* [tokens, heads, width] */
    const void *gate;                   /* [tokens, heads], rows gate_row apart; none: factor 1 */
    void *y;
} Call;

INLINE void gated_at(const int has_gate, const int y_bf16, int64_t i, int left, vec factor, const float *o, void *y,
                     int64_t to) {
    vec v = load_row(o, i, left, 0);
    store_row(y, to + i, left, y_bf16, has_gate ? multiply(v, factor) : v);
}
HOT void gated_head(int64_t width, int has_gate, int y_bf16, float gate, const float *o, void *y, int64_t to) {
    vec factor = splat(gate);
#define BODY(i, left) gated_at(1, 1, i, left, factor, o, y, to)
    if (has_gate && y_bf16) { ALONG_ROW(width, BODY) return; }
#undef BODY
#define BODY(i, left) gated_at(1, 0, i, left, factor, o, y, to)
    if (has_gate) { ALONG_ROW(width, BODY) return; }
#undef BODY
#define BODY(i, left) gated_at(0, 1, i, left, factor, o, y, to)
    ALONG_ROW(width, BODY)
#undef BODY
}

static float gate_of(const Call *c, int64_t at) {
    float x = c->gate_bf16 ? from_bf16(((const uint16_t *)c->gate)[at]) : ((const float *)c->gate)[at];
    return 1.0f / (1.0f + exp_one(-x));
}

static int64_t tokens_of_a_turn(const Call *c) {
    int64_t tokens = ENOUGH / (c->heads * c->width);
    return tokens < 1 ? 1 : tokens;
}

static void gate_turn(void *context, int64_t index, int64_t worker) {
    (void)worker;
    const Call *c = context;
    int64_t first = index * tokens_of_a_turn(c), last = first + tokens_of_a_turn(c);
    for (int64_t t = first; t < (last < c->tokens ? last : c->tokens); t++)
        for (int64_t h = 0; h < c->heads; h++) {
            int64_t at = (t * c->heads + h) * c->width;
            float gate = c->gate ? gate_of(c, t * c->gate_row + h) : 1.0f;
            gated_head(c->width, c->gate != 0, (int)c->y_bf16, gate, c->o + at, c->y, at);
        }
}

/* y = o * sigmoid(gate), one gate for each head. Without gates y is bfloat16. */
int hyla_gate_heads(const Call *c) {
    int64_t step = tokens_of_a_turn(c);
    team_run((c->tokens + step - 1) / step, gate_turn, (void *)c);
    return 0;
}
