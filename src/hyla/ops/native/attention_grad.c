/* The gradient of softmax attention over whole sequences; the weights are computed again, block by block.

   A block is 64 positions of a sequence's own grid. With q scaled, and the forward pass's maxima m and sums l, a block of
   rows of one query head that meets a block of keys makes
       P = exp(q k^T - m) / l      S = P (o' v^T - delta)      delta_t = sum_v o'_tv o_tv
       v' += P^T o'      k' += S^T q      q' += S (scale k)
   Each product is summed from zero, upwards, one fused multiply-add at a time, and then joins what is there: q' in the
   ascending order of key blocks, k' and v' in that of query blocks and, in one block, of the query heads that read the
   key head. Keys that a row does not see have P = S = 0 and change nothing. So a gradient's bits depend on its own
   sequence alone, and not on how the work is shared out.

   Tiles of up to 4 x 4 blocks go in stages: those of a stage share neither rows nor keys, and a tile's stage comes after
   those of the tiles before it in its row and in its column. */
#include <stdatomic.h>
#include <stdlib.h>

#include "blocks.h"
#include "rows.h"
#include "team.h"

#define GROUP 6     /* rows at most whose sums stand in registers together */
#define STRIP 4     /* vectors of a block of 64 columns */
#define SPAN 4      /* blocks along a tile, at most */
#define FEW 262144  /* fewer products are not worth a second thread */
#define ROWS 16     /* of the statistics: fewer are not, either */

typedef struct {
    int64_t sequences;
    const int64_t *offset, *length;          /* of each sequence */
    int64_t tokens, heads, group, K, V, window; /* key heads, query heads of each; window 0: all earlier keys are seen */
    int64_t q_bf16, q_row, q_head;           /* strides in elements; channels are dense */
    int64_t kv_bf16, k_row, k_head, v_row, v_head, grad_row, grad_head;
    const void *q, *k, *v;                   /* [T, heads * group, K], [T, heads, .]; v 0: the first V channels of k */
    const float *o, *grad, *max, *sum;       /* [T, heads * group, V], twice, and [T, heads * group], twice */
    const float *sinks;                      /* [heads * group], or 0 */
    float *by_head;                          /* [3, heads * group, T]: maxima, 1 / sums, deltas; set here */
    float *grad_q, *grad_k, *grad_v;         /* zeros at first, rows of whole vectors; grad_v 0: it joins grad_k */
    float *grad_sinks;                       /* [heads * group], or 0 */
    float scale;
} Call;

typedef struct {
    int64_t sequence, head, queries, keys; /* the first block of each side */
} Tile;

typedef struct {
    int64_t k_width, v_width;                /* K and V, rounded up to whole vectors */
    float *q, *grad, *k, *v;                 /* [64, width] */
    float *k_turned, *v_turned;              /* [width, 64] */
    float *weights, *grad_scores;            /* [64, 64] */
} Room;

/* Row i of a block sees key j of another one if i + ahead - window < j <= i + ahead. */
typedef struct {
    int64_t rows, keys, ahead, window;
} Meeting;

static int64_t first_key(const Meeting *m, int64_t row) {
    return m->window ? least(most(row + m->ahead - m->window + 1, 0), BLOCK) : 0;
}
static int64_t end_of_keys(const Meeting *m, int64_t row) { return least(row + m->ahead + 1, BLOCK); }
static int64_t first_row(const Meeting *m, int64_t key) { return most(key - m->ahead, 0); }
static int64_t end_of_rows(const Meeting *m, int64_t key) {
    return m->window ? least(m->rows, key - m->ahead + m->window) : m->rows;
}

/* How a product reads x: its own rows, or rows of a matrix that is turned. */
enum { ROWWISE, TURNED };

/* out[i, :] = sum_{first <= c < last} x[i, c] s[c, :], or what was there plus that, over n rows and `wide` vectors. */
INLINE void sum_at(const int n, const int wide, const int order, const int is_added, int64_t first, int64_t last,
                   const float *x, int64_t x_row, const float *s, int64_t s_row, float *out, int64_t out_row) {
    const int64_t along = order == TURNED ? BLOCK : 1, across = order == TURNED ? 1 : x_row;
    vec sum[GROUP][STRIP];
#pragma GCC unroll 8
    for (int i = 0; i < n; i++)
#pragma GCC unroll 4
        for (int m = 0; m < wide; m++) sum[i][m] = splat(0.0f);
    for (int64_t c = first; c < last; c++) {
        vec own[STRIP];
#pragma GCC unroll 4
        for (int m = 0; m < wide; m++) own[m] = load(s + c * s_row + m * LANES);
#pragma GCC unroll 8
        for (int i = 0; i < n; i++) {
            vec factor = splat(x[i * across + c * along]);
#pragma GCC unroll 4
            for (int m = 0; m < wide; m++) sum[i][m] = fma_vec(factor, own[m], sum[i][m]);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < n; i++)
#pragma GCC unroll 4
        for (int m = 0; m < wide; m++) {
            float *to = out + i * out_row + m * LANES;
            store(to, is_added ? add(load(to), sum[i][m]) : sum[i][m]);
        }
}

/* The same for up to four vectors, as many at a time as there are registers for. */
INLINE void sum_strip(const int n, const int order, const int is_added, int vectors, int64_t first, int64_t last,
                      const float *x, int64_t x_row, const float *s, int64_t s_row, float *out, int64_t out_row) {
    const int wide = SIDE_BY_SIDE(n) < STRIP ? SIDE_BY_SIDE(n) : STRIP;
#define SUM_AT(w) sum_at(n, w, order, is_added, first, last, x, x_row, s + m * LANES, s_row, out + m * LANES, out_row)
    int m = 0;
    for (; m + wide <= vectors; m += wide) SUM_AT(wide);
    if (wide > 2 && vectors - m == 3) SUM_AT(3);
    else if (wide > 1 && vectors - m == 2) SUM_AT(2);
    else if (wide > 1 && vectors - m == 1) SUM_AT(1);
#undef SUM_AT
}

/* Rows that go together, of `left`: the same code for each number of them, so that the sums stay in registers. */
static int64_t rows_together(int64_t left) { return left >= GROUP ? GROUP : left >= 4 ? 4 : left >= 2 ? 2 : 1; }
#define BY_ROWS(n, CASE) \
    switch (n) { case 1: CASE(1); break; case 2: CASE(2); break; case 4: CASE(4); break; default: CASE(GROUP); }

HOT void score_block(int64_t n, int vectors, int64_t count, const float *x, int64_t x_row, const float *turned, float *out) {
#define CASE(N) sum_strip(N, ROWWISE, 0, vectors, 0, count, x, x_row, turned, BLOCK, out, BLOCK)
    BY_ROWS(n, CASE)
#undef CASE
}
HOT void add_over_keys(int64_t n, int vectors, int64_t first, int64_t last, const float *x, const float *s, int64_t s_row,
                       float *out, int64_t out_row) {
#define CASE(N) sum_strip(N, ROWWISE, 1, vectors, first, last, x, BLOCK, s, s_row, out, out_row)
    BY_ROWS(n, CASE)
#undef CASE
}
HOT void add_over_rows(int64_t n, int vectors, int64_t first, int64_t last, const float *x, const float *s, int64_t s_row,
                       float *out, int64_t out_row) {
#define CASE(N) sum_strip(N, TURNED, 1, vectors, first, last, x, BLOCK, s, s_row, out, out_row)
    BY_ROWS(n, CASE)
#undef CASE
}

/* Scores become weights, and the gradients of weights those of scores. */
HOT void weigh_block(int64_t rows, const float *max, const float *share, const float *delta, float *p, float *s) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = i * BLOCK; j < (i + 1) * BLOCK; j += LANES) {
            vec weight = multiply(exp_vec(subtract(load(p + j), splat(max[i]))), splat(share[i]));
            store(p + j, weight);
            store(s + j, multiply(weight, subtract(load(s + j), splat(delta[i]))));
        }
}
/* Keys outside [low, high] get a weight of zero and no gradient, whatever stood there. */
HOT void hide_keys_of_row(int32_t low, int32_t high, float *p, float *s) {
    for (int m = 0; m < BLOCK; m += LANES) {
        mask seen = lanes_between(low - m, high - m);
        store(p + m, select_vec(seen, load(p + m), splat(-INFINITY)));
        store(s + m, select_vec(seen, load(s + m), splat(0.0f)));
    }
}

/* Rows of a block, scaled; the missing channels of the last vector are zeros. */
INLINE void scaled_at(const int is_bf16, int64_t c, int left, float scale, const void *from, float *to) {
    store(to + c, multiply(load_row(from, c, left, is_bf16), splat(scale)));
}
HOT void scaled_copy(int64_t rows, int64_t stride, int64_t count, int is_bf16, float scale, const void *source, float *out,
                     int64_t out_row) {
    for (int64_t j = 0; j < rows; j++) {
        const void *from = at(source, j * stride, is_bf16);
        float *to = out + j * out_row;
#define BODY(c, left) scaled_at(1, c, left, scale, from, to)
        if (is_bf16) ALONG_ROW(count, BODY)
#undef BODY
#define BODY(c, left) scaled_at(0, c, left, scale, from, to)
        else ALONG_ROW(count, BODY)
#undef BODY
    }
}

/* `count` rows of a block as floats, turned as well; rows that are missing are zeros. */
static void open_rows(int64_t count, int64_t stride, int64_t channels, int is_bf16, const void *source, int64_t width,
                      float *rows, float *turned) {
    copy_rows(count, stride, channels, is_bf16, source, rows, width);
    memset(rows + count * width, 0, 4 * (size_t)((BLOCK - count) * width));
    for (int64_t c = 0; c < width; c += LANES)
        for (int64_t j = 0; j < BLOCK; j += LANES) turn_corner(rows + j * width + c, width, turned + c * BLOCK + j);
}

static int64_t rows_of(const Call *call, int64_t sequence, int64_t block) {
    return least(BLOCK, call->length[sequence] - block * BLOCK);
}

static void open_keys(const Call *call, const Tile *tile, int64_t block, Room *room) {
    int64_t token = call->offset[tile->sequence] + block * BLOCK, count = rows_of(call, tile->sequence, block);
    int is_bf16 = (int)call->kv_bf16;
    const void *k = at(call->k, token * call->k_row + tile->head * call->k_head, is_bf16);
    open_rows(count, call->k_row, call->K, is_bf16, k, room->k_width, room->k, room->k_turned);
    scaled_copy(count, room->k_width, room->k_width, 0, call->scale, room->k, room->k, room->k_width);
    if (!call->v) return;
    const void *v = at(call->v, token * call->v_row + tile->head * call->v_head, is_bf16);
    open_rows(count, call->v_row, call->V, is_bf16, v, room->v_width, room->v, room->v_turned);
}

/* Weights and the gradients of scores of a block of rows, over all 64 keys. */
static void open_weights(const Call *call, const Meeting *meeting, const float *by_head, Room *room) {
    const Meeting m = *meeting;
    const float *v_turned = call->v ? room->v_turned : room->k_turned;
    int is_whole = end_of_keys(&m, 0) == BLOCK && first_key(&m, m.rows - 1) == 0;
    for (int64_t n, i = 0; i < m.rows; i += n) {
        n = rows_together(m.rows - i);
        int64_t first = first_key(&m, i) / LANES * LANES;
        int vectors = (int)((end_of_keys(&m, i + n - 1) - first + LANES - 1) / LANES);
        float *p = room->weights + i * BLOCK, *s = room->grad_scores + i * BLOCK;
        score_block(n, vectors, call->K, room->q + i * room->k_width, room->k_width, room->k_turned + first, p + first);
        score_block(n, vectors, call->V, room->grad + i * room->v_width, room->v_width, v_turned + first, s + first);
        for (int64_t row = i; !is_whole && row < i + n; row++, p += BLOCK, s += BLOCK)
            hide_keys_of_row((int32_t)first_key(&m, row), (int32_t)end_of_keys(&m, row) - 1, p, s);
    }
    int64_t each = call->tokens * call->heads * call->group;
    weigh_block(m.rows, by_head, by_head + each, by_head + 2 * each, room->weights, room->grad_scores);
}

/* out[i, :] += sum_j x[i, j] s[j, :] over the keys that the rows see. */
static void add_to_rows(const Meeting *m, const float *x, const float *s, int64_t width, float *out, int64_t out_row) {
    for (int64_t c = 0; c < width; c += BLOCK)
        for (int64_t n, i = 0; i < m->rows; i += n) {
            n = rows_together(m->rows - i);
            add_over_keys(n, (int)(least(BLOCK, width - c) / LANES), first_key(m, i), end_of_keys(m, i + n - 1), x + i * BLOCK,
                          s + c, width, out + i * out_row + c, out_row);
        }
}
/* out[j, :] += sum_i x[i, j] s[i, :] over the rows that see the keys. */
static void add_to_keys(const Meeting *m, const float *x, const float *s, int64_t width, float *out, int64_t out_row) {
    for (int64_t c = 0; c < width; c += BLOCK)
        for (int64_t n, j = 0; j < m->keys; j += n) {
            n = rows_together(m->keys - j);
            int64_t first = first_row(m, j), last = end_of_rows(m, j + n - 1);
            if (first < last)
                add_over_rows(n, (int)(least(BLOCK, width - c) / LANES), first, last, x + j, s + c, width,
                              out + j * out_row + c, out_row);
        }
}

/* A block of rows of one query head meets the keys that are open. */
static void meet(const Call *call, const Tile *tile, int64_t block, int64_t key_block, int64_t head, Room *room) {
    int64_t begin = call->offset[tile->sequence], token = begin + block * BLOCK, key = begin + key_block * BLOCK;
    int64_t query_heads = call->heads * call->group, k_width = room->k_width, v_width = room->v_width;
    Meeting m = {rows_of(call, tile->sequence, block), rows_of(call, tile->sequence, key_block),
                 (block - key_block) * BLOCK, call->window};
    scaled_copy(m.rows, call->q_row, call->K, (int)call->q_bf16, call->scale,
                at(call->q, token * call->q_row + head * call->q_head, call->q_bf16), room->q, k_width);
    copy_rows(m.rows, call->grad_row, call->V, 0, call->grad + token * call->grad_row + head * call->grad_head,
              room->grad, v_width);
    open_weights(call, &m, call->by_head + head * call->tokens + token, room);
    add_to_rows(&m, room->grad_scores, room->k, k_width, call->grad_q + (token * query_heads + head) * k_width,
                query_heads * k_width);
    float *grad_k = call->grad_k + (key * call->heads + tile->head) * k_width;
    add_to_keys(&m, room->grad_scores, room->q, k_width, grad_k, call->heads * k_width);
    if (call->grad_v) {
        float *grad_v = call->grad_v + (key * call->heads + tile->head) * v_width;
        add_to_keys(&m, room->weights, room->grad, v_width, grad_v, call->heads * v_width);
    } else {
        add_to_keys(&m, room->weights, room->grad, v_width, grad_k, call->heads * k_width);
    }
}

/* What one call computes. */
typedef struct {
    const Call *call;
    int64_t span;
    Tile *tiles; /* of the stage that is on */
    atomic_int failed;
} Plan;

static int64_t blocks_of(const Call *call, int64_t n) { return (call->length[n] + BLOCK - 1) / BLOCK; }

/* Whether rows of block i and later see keys of blocks before `end`. */
static int sees(const Call *call, int64_t i, int64_t end) {
    return !call->window || i * BLOCK - call->window < end * BLOCK - 1;
}

static int64_t spans_of(const Call *call, int64_t n, int64_t span) { return (blocks_of(call, n) + span - 1) / span; }

/* The tiles of one stage for one head, whichever; returns how many there are. */
static int64_t open_stage(const Call *call, int64_t span, int64_t stage, Tile *tiles) {
    int64_t made = 0;
    for (int64_t n = 0; n < call->sequences; n++)
        for (int64_t j = most(0, stage - spans_of(call, n, span) + 1); j <= stage / 2; j++) {
            Tile tile = {.sequence = n, .queries = (stage - j) * span, .keys = j * span};
            if (sees(call, tile.queries, tile.keys + span)) tiles[made++] = tile;
        }
    return made;
}

/* Memory of one thread; its size in floats when room is 0. */
static size_t lay_out(const Call *call, float *memory, Room *room) {
    int64_t k_width = (call->K + LANES - 1) / LANES * LANES, v_width = (call->V + LANES - 1) / LANES * LANES;
    int64_t k = BLOCK * k_width, v = BLOCK * v_width, square = BLOCK * BLOCK;
    if (memory)
        *room = (Room){.k_width = k_width, .v_width = v_width, .q = memory, .k = memory + k, .k_turned = memory + 2 * k,
                       .grad = memory + 3 * k, .v = memory + 3 * k + v, .v_turned = memory + 3 * k + 2 * v,
                       .weights = memory + 3 * (k + v), .grad_scores = memory + 3 * (k + v) + square};
    return (size_t)(3 * (k + v) + 2 * square);
}

static void take_tile(void *context, int64_t index, int64_t worker) {
    Plan *plan = context;
    const Call *call = plan->call;
    Tile own = plan->tiles[index / call->heads], *tile = &own;
    own.head = index % call->heads;
    Room room;
    float *memory = team_memory(4 * lay_out(call, 0, 0));
    if (!memory) {
        plan->failed = 1;
        return;
    }
    lay_out(call, memory, &room);
    int64_t blocks = blocks_of(call, tile->sequence), end = least(tile->queries + plan->span, blocks);
    for (int64_t j = tile->keys; j < least(tile->keys + plan->span, blocks); j++) {
        int64_t first = most(j, tile->queries);
        if (!sees(call, first, j + 1)) continue;
        open_keys(call, tile, j, &room);
        for (int64_t i = first; i < end && sees(call, i, j + 1); i++)
            for (int64_t r = 0; r < call->group; r++) meet(call, tile, i, j, tile->head * call->group + r, &room);
    }
}

HOT float dot_of_rows(int64_t count, const float *a, const float *b) {
    vec total = splat(0.0f);
#define BODY(c, left) total = fma_vec(load_row(a, c, left, 0), load_row(b, c, left, 0), total)
    ALONG_ROW(count, BODY)
#undef BODY
    return sum_vec(total);
}

static void take_statistics(void *context, int64_t first, int64_t last, int64_t worker) {
    const Call *call = ((const Plan *)context)->call;
    int64_t heads = call->heads * call->group, each = call->tokens * heads;
    for (int64_t t = first; t < last; t++)
        for (int64_t h = 0; h < heads; h++) {
            const float *grad = call->grad + t * call->grad_row + h * call->grad_head;
            float *out = call->by_head + h * call->tokens + t;
            out[0] = call->max[t * heads + h], out[each] = 1.0f / call->sum[t * heads + h];
            out[2 * each] = dot_of_rows(call->V, grad, call->o + (t * heads + h) * call->V);
        }
}

/* sum_t exp(sink - m_t) / l_t delta_t of one sequence. What stands behind its end counts nothing. */
INLINE vec sink_at(int64_t t, int left, float sink, const float *max, const float *share, const float *delta, vec total) {
    vec top = larger(load_row(max, t, left, 0), splat(sink));
    vec weight = multiply(exp_vec(subtract(splat(sink), top)), load_row(share, t, left, 0));
    return fma_vec(weight, load_row(delta, t, left, 0), total);
}
HOT float sink_of_sequence(int64_t length, float sink, const float *max, const float *share, const float *delta) {
    vec total = splat(0.0f);
#define BODY(t, left) total = sink_at(t, left, sink, max, share, delta, total)
    ALONG_ROW(length, BODY)
#undef BODY
    return sum_vec(total);
}
static void take_sink(void *context, int64_t head, int64_t worker) {
    const Call *call = ((const Plan *)context)->call;
    int64_t each = call->tokens * call->heads * call->group;
    float total = 0.0f;
    for (int64_t n = 0; n < call->sequences; n++) {
        const float *max = call->by_head + head * call->tokens + call->offset[n];
        total -= sink_of_sequence(call->length[n], call->sinks[head], max, max + each, max + 2 * each);
    }
    call->grad_sinks[head] = total;
}

/* The most tiles that a stage can have for one head. */
static int64_t widest_stage(const Call *call, int64_t span) {
    int64_t tiles = 0;
    for (int64_t n = 0; n < call->sequences; n++) tiles += (spans_of(call, n, span) + 1) / 2;
    return tiles;
}

static void take_stages(Plan *plan) {
    const Call *call = plan->call;
    int64_t products = 0, longest = 0;
    for (int64_t n = 0; n < call->sequences; n++) {
        products += call->length[n] * (call->window ? least(call->window, call->length[n]) : call->length[n]);
        longest = most(longest, spans_of(call, n, plan->span));
    }
    int is_small = products * call->heads * call->group * (call->K + call->V) < FEW;
    for (int64_t stage = 0; stage < 2 * longest - 1; stage++) {
        int64_t count = open_stage(call, plan->span, stage, plan->tiles) * call->heads;
        if (is_small) for (int64_t i = 0; i < count; i++) take_tile(plan, i, 0);
        else team_run(count, take_tile, plan);
    }
}

/* Returns 0, or 1 when memory is short. */
int hyla_attention_grad(const Call *call) {
    Plan plan = {.call = call, .span = SPAN};
    int64_t threads = team_size();
    while (threads > 1 && plan.span > 1 && widest_stage(call, plan.span) * call->heads < 2 * threads) plan.span /= 2;
    plan.tiles = malloc((size_t)widest_stage(call, plan.span) * sizeof(Tile));
    if (!plan.tiles) return 1;
    team_ranges(call->tokens, ROWS, take_statistics, &plan);
    if (call->sinks) team_run(call->heads * call->group, take_sink, &plan);
    take_stages(&plan);
    free(plan.tiles);
    return plan.failed;
}
