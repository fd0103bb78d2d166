/* The backward pass of decay.c: linear attention with a decay and without a solve, whole sequences on the 64-row grid.

   One chunk, with S the anchor that it read, G the gradient of the next one, and for j <= r
       P_rj = W_rj <q_r, k_j>,  W_rj the decay between the rows;  c_r, e_j: from the chunk's start to a row, from it to the
       end;  D: over the chunk
   as decay.c defines them (E = W * (o' v^T), a lower triangle; x' is the gradient of x):
       q' = E k + c (o' S^T)      k' = E^T q + e (v G^T)      v' = P^T o' + e (k G)      S' = D G + (c q)^T o'
   Chunks are walked in reverse, everything is computed anew from the anchors. A log decay's gradient at row t is the sum of
   all that decays through it, and of nothing else: pairs j < t <= r, reads of the anchor by t and later rows, rows before t
   on their way to the end, and the anchor's own way. No difference of large sums stands for it.

   One turn is one group of one sequence: its bits depend on nothing else, and heads that share keys are added in order.
   Everything is copied to rows of whole vectors with zeros behind them. */
#include <stdatomic.h>

#include "decay.h"
#include "team.h"
#include "triangles.h"

#define SQUARE (CHUNK + LANES) /* floats from one row of a chunk's square to the next */

typedef struct {
    int64_t sequences;
    const int64_t *offset, *length;    /* of each sequence */
    const int64_t *first_item, *items; /* items[first_item[n] + i]: the item of its i-th chunk */
    int64_t rule, groups, heads, K, V; /* head h reads the keys of group h / (heads / groups) */
    int64_t q_row, k_row, v_row;       /* floats from one token to the next; heads are dense */
    const float *q, *k, *v;            /* [T, G, K], ., [T, H, V] */
    const float *log_decay;            /* summed: [T, H];  by channel: [T, H, K] */
    const float *table;                /* constant: [H, 66], of distances 0 to 64 */
    const float *anchor_items;         /* [I, H, K, V]: what each item read */
    const float *grad_o;               /* [T, H, V] */
    const float *grad_final;           /* [N, H, K, V], or 0: no state was given out */
    float *grad_q, *grad_k, *grad_v;   /* dense, shaped as q, k, v */
    float *grad_decay;                 /* shaped as log_decay */
    float *grad_first;                 /* [N, H, K, V], or 0 */
} Call;

/* Memory of one thread. Rows are spread(K) or spread(V) apart, those of squares SQUARE. */
typedef struct {
    float *q, *k, *grad_q, *grad_k, *y;       /* [CHUNK, K] */
    float *v, *o, *since_o, *grad_v;          /* [CHUNK, V]; o: its gradient, and that times c */
    float *keys, *values;                     /* transposed: [K, CHUNK], [V, CHUNK] */
    float *anchor, *anchor_t, *grad_t;        /* [K, V], and transposed [V, K]: S, and G */
    float *dots, *weights, *grad_p, *grad_dots; /* squares: q k^T, P, o' v^T, E */
    float *since, *out, *gap, *read, *folded, *columns; /* [CHUNK]: c, e; what reads and folds give to decays */
    float *by_distance;                       /* [CHUNK + LANES] */
    double *sums;                             /* [CHUNK] */
    /* by channel: rows [CHUNK, K] */
    float *log_decay, *decay, *to_row, *to_end; /* a, e^a; decays from the block's start to the row, and to its end */
    float *k_end, *k_out, *q_block, *q_in;    /* keys at their block's end and the chunk's; queries at its start and the chunk's */
    float *grad_decay;
    float *levels;                            /* [BLOCKS, BLOCK, K]: queries of one block at the ends of earlier ones */
    float *block_decay, *tail, *between;      /* [BLOCKS, K] */
    float *over;                              /* [K]: D */
    float *readers, *lanes;                   /* [BLOCK, LANES] */
    double *run;                              /* [K] */
    float *grad_state;                        /* G of each head of the group, [K, V] */
} Room;

/* How many floats in all; the places are filled in where there is memory. */
static int64_t lay_out(const Call *call, float *memory, Room *room) {
    int64_t K = call->K, V = call->V, k_row = spread(K), v_row = spread(V), group = call->heads / call->groups;
    int64_t rows = CHUNK * k_row, values = CHUNK * v_row, square = CHUNK * SQUARE, channel = call->rule == BY_CHANNEL;
    int64_t state = whole(K) * v_row, turned = whole(V) * k_row, own = channel * rows;
    const int64_t sizes[] = {rows, rows, rows, rows, rows, values, values, values, values, whole(K) * SQUARE, whole(V) * SQUARE,
                             state, turned, turned, square, square, square, square, CHUNK, CHUNK, CHUNK, CHUNK, CHUNK, CHUNK,
                             CHUNK + LANES, 2 * CHUNK, own, own, own, own, own, own, own, own, own, own,
                             channel * BLOCKS * k_row, channel * BLOCKS * k_row, channel * BLOCKS * k_row, channel * k_row,
                             BLOCK * LANES, BLOCK * LANES, channel * 2 * whole(K), group * state};
    enum { PLACES = sizeof sizes / sizeof *sizes };
    float *at[PLACES];
    int64_t total = places(PLACES, sizes, memory, at);
    if (memory)
        *room = (Room){at[0], at[1], at[2], at[3], at[4], at[5], at[6], at[7], at[8], at[9], at[10], at[11], at[12], at[13],
                       at[14], at[15], at[16], at[17], at[18], at[19], at[20], at[21], at[22], at[23], at[24],
                       (double *)at[25], at[26], at[27], at[28], at[29], at[30], at[31], at[32], at[33], at[34], at[35],
                       at[36], at[37], at[38], at[39], at[40], at[41], (double *)at[42], at[43]};
    return total;
}

/* One chunk of a sequence. */
typedef struct {
    int64_t row, item; /* its first row in the batch */
    int count;         /* rows */
    int is_folded;     /* something flows back from the next anchor */
} Chunk;

static const float one = 1.0f;

/* To rows of whole vectors, up to a whole number of rows, and back. */
static void rows_in(int64_t count, int64_t width, const float *x, int64_t x_row, float *out) {
    int64_t row = spread(width), left = whole(width) - width;
    for (int64_t i = 0; i < count; i++) {
        memcpy(out + i * row, x + i * x_row, 4 * (size_t)width);
        memset(out + i * row + width, 0, 4 * (size_t)left);
    }
    memset(out + count * row, 0, 4 * (size_t)((whole(count) - count) * row));
}
static void rows_out(int64_t count, int64_t width, const float *x, float *out, int64_t out_row) {
    for (int64_t i = 0; i < count; i++) memcpy(out + i * out_row, x + i * spread(width), 4 * (size_t)width);
}
static void no_rows(int64_t count, int64_t width, float *x) { memset(x, 0, 4 * (size_t)(count * spread(width))); }

/* out = out + x, out = out + a x;  <x, y>. Whole vectors. */
HOT void add_row(int64_t count, const float *x, float *out) {
    for (int64_t c = 0; c < count; c += LANES) store(out + c, add(load(out + c), load(x + c)));
}
HOT void add_scaled(int64_t count, float a, const float *x, float *out) {
    for (int64_t c = 0; c < count; c += LANES) store(out + c, fma_vec(splat(a), load(x + c), load(out + c)));
}
HOT float row_dot(int64_t count, const float *x, const float *y) {
    vec total = splat(0.0f);
    for (int64_t c = 0; c < count; c += LANES) total = fma_vec(load(x + c), load(y + c), total);
    return sum_vec(total);
}

/* The lower triangle of x y^T, y as columns: strips of 16 columns, from their first row on. */
static void triangle(int count, int64_t inner, const float *x, const float *columns, float *out) {
    int64_t x_row = spread(inner);
    for (int64_t j = 0; j < count; j += LANES) {
        Terms products = {.count = inner, .columns = LANES, .x = x + j * x_row, .x_step = x_row, .s = columns + j, .s_row = SQUARE,
                          .out = out + j * SQUARE + j, .out_row = SQUARE};
        new_terms(count - j, &products);
    }
}

/* S^T of one item and head. */
static void load_anchor(const Call *call, int64_t item, int64_t h, const Room *room) {
    int64_t K = call->K, V = call->V;
    rows_in(K, V, call->anchor_items + (item * call->heads + h) * K * V, V, room->anchor);
    transpose(whole(K), whole(V), room->anchor, spread(V), room->anchor_t, spread(K));
}

/* Values and the gradients of outputs of one head's chunk, and o' v^T. */
static void load_values(const Call *call, Chunk at, int64_t h, const Room *room) {
    int64_t V = call->V, o_row = call->heads * V;
    rows_in(at.count, V, call->v + at.row * call->v_row + h * V, call->v_row, room->v);
    rows_in(at.count, V, call->grad_o + at.row * o_row + h * V, o_row, room->o);
    transpose(whole(at.count), whole(V), room->v, spread(V), room->values, SQUARE);
    triangle(at.count, V, room->o, room->values, room->grad_p);
}

/* P and E of one row; the second also turns o' v^T into what each pair gives to the decays between its rows. */
HOT void weigh_by_table(int count, const float *decay, const float *dots, const float *grad_p, float *p, float *e) {
    for (int j = 0; j < count; j += LANES) {
        vec w = load(decay + j);
        store(p + j, multiply(w, load(dots + j)));
        store(e + j, fma_vec(w, load(grad_p + j), load(e + j)));
    }
}
HOT void weigh_by_gaps(int count, const float *gap, const float *dots, float *grad_p, float *p, float *e) {
    for (int j = 0; j < count; j += LANES) {
        vec w = exp_vec(load(gap + j)), grad = load(grad_p + j), weight = multiply(w, load(dots + j));
        store(p + j, weight);
        store(e + j, fma_vec(w, grad, load(e + j)));
        store(grad_p + j, multiply(weight, grad));
    }
}

/* The decays of a chunk's rows, onto its squares; c and e. Returns D. */
static float weigh_constant(const Call *call, int64_t h, int count, const Room *room) {
    const float *table = call->table + h * TABLE;
    for (int d = 0; d < CHUNK; d++) room->by_distance[CHUNK - 1 - d] = table[d];
    memset(room->by_distance + CHUNK, 0, 4 * LANES);
    for (int r = 0; r < count; r++) {
        int64_t at = r * SQUARE;
        room->since[r] = table[r + 1], room->out[r] = table[count - 1 - r];
        weigh_by_table(r / LANES * LANES + LANES, room->by_distance + CHUNK - 1 - r, room->dots + at, room->grad_p + at,
                       room->weights + at, room->grad_dots + at);
    }
    return table[count];
}
static float weigh_summed(const Call *call, int64_t h, Chunk at, const Room *room) {
    double *sums = room->sums, sum = 0.0;
    for (int r = 0; r < CHUNK; r++) {
        if (r < at.count) sum += (double)call->log_decay[(at.row + r) * call->heads + h];
        sums[r] = sum, room->since[r] = (float)sum;
    }
    for (int r = 0; r < at.count; r++) {
        int64_t row = r * SQUARE;
        gaps(r + 1, sums[r], sums, room->gap);
        for (int j = r + 1; j % LANES; j++) room->gap[j] = -1e30f;
        weigh_by_gaps(r / LANES * LANES + LANES, room->gap, room->dots + row, room->grad_p + row, room->weights + row,
                      room->grad_dots + row);
    }
    gaps(CHUNK, sum, sums, room->out);
    exp_row(CHUNK, room->since, room->since);
    exp_row(CHUNK, room->out, room->out);
    return room->since[at.count - 1];
}

/* Row t of the pairs joins the later ones, by column; returns the sum over the columns before t. */
HOT float crossing(int t, const float *pairs, float *columns) {
    vec total = splat(0.0f);
    for (int j = 0; j <= t; j += LANES) {
        vec column = add(load(columns + j), load(pairs + j));
        store(columns + j, column);
        total = add(total, select_vec(lanes_between(0, t - 1 - j), column, splat(0.0f)));
    }
    return sum_vec(total);
}
/* over: what the anchor's own way to the chunk's end gives. */
static void summed_gradient(const Call *call, Chunk at, int64_t h, float over, const Room *room) {
    float *grad = call->grad_decay + at.row * call->heads + h;
    double later = 0.0, earlier = over;
    memset(room->columns, 0, 4 * CHUNK);
    for (int t = at.count - 1; t >= 0; t--) {
        later += (double)room->read[t];
        room->gap[t] = (float)((double)crossing(t, room->grad_p + t * SQUARE, room->columns) + later);
    }
    for (int t = 0; t < at.count; t++) {
        grad[t * call->heads] = (float)((double)room->gap[t] + earlier);
        earlier += (double)room->folded[t];
    }
}

/* What the anchor and the next one give to the queries' and keys' gradients of a group, and the values' gradient. */
static void read_back(const Call *call, Chunk at, int is_first, const Room *room) {
    int64_t K = whole(call->K), k_row = spread(call->K), v_row = spread(call->V);
    for (int r = 0; r < at.count; r++) scaled_row(whole(call->V), room->since[r], room->o + r * v_row, room->since_o + r * v_row);
    Terms read = {.count = call->V, .columns = K, .x = room->since_o, .x_step = v_row, .s = room->anchor_t, .s_row = k_row,
                  .out = is_first ? room->grad_q : room->y, .out_row = k_row};
    new_terms(at.count, &read);
    for (int r = 0; r < at.count; r++) {
        if (call->rule == SUMMED) room->read[r] = row_dot(K, room->q + r * k_row, read.out + r * k_row);
        if (!is_first) add_row(K, room->y + r * k_row, room->grad_q + r * k_row);
    }
}
static void fold_back(const Call *call, Chunk at, const float *G, const Room *room) {
    int64_t K = whole(call->K), V = whole(call->V), k_row = spread(call->K), v_row = spread(call->V);
    transpose(K, V, G, v_row, room->grad_t, k_row);
    Terms keys = {.count = call->V, .columns = K, .x = room->v, .x_step = v_row, .s = room->grad_t, .s_row = k_row, .out = room->y,
                  .out_row = k_row};
    new_terms(at.count, &keys);
    for (int j = 0; j < at.count; j++) {
        if (call->rule == SUMMED) room->folded[j] = room->out[j] * row_dot(K, room->k + j * k_row, room->y + j * k_row);
        add_scaled(K, room->out[j], room->y + j * k_row, room->grad_k + j * k_row);
    }
    Terms values = {.count = call->K, .columns = V, .x = room->k, .x_step = k_row, .s = G, .s_row = v_row, .out = room->grad_v,
                    .out_row = v_row};
    new_terms(at.count, &values);
}
static float state_dot(const Call *call, const float *S, const float *G) {
    double total = 0.0;
    for (int64_t c = 0; c < call->K; c++) total += (double)row_dot(whole(call->V), S + c * spread(call->V), G + c * spread(call->V));
    return (float)total;
}

/* v' = factor v' + P^T o', to where it belongs. */
static void values_back(const Call *call, Chunk at, int64_t h, const float *factor, int factor_step, const Room *room) {
    int64_t V = call->V, v_row = spread(V);
    Terms later = {.count = at.count, .columns = whole(V), .x = room->weights, .x_step = SQUARE, .s = room->o, .s_row = v_row,
                   .out = room->grad_v, .out_row = v_row, .factor = factor, .factor_step = factor_step};
    later_terms(at.count, &later);
    rows_out(at.count, V, room->grad_v, call->grad_v + (at.row * call->heads + h) * V, call->heads * V);
}

/* One head of a group: decays are numbers. G is moved to before the chunk. */
static void head_back(const Call *call, Chunk at, int64_t h, int is_first, float *G, const Room *room) {
    int64_t k_row = spread(call->K), v_row = spread(call->V);
    load_values(call, at, h, room);
    load_anchor(call, at.item, h, room);
    float over = call->rule == CONSTANT ? weigh_constant(call, h, at.count, room) : weigh_summed(call, h, at, room);
    read_back(call, at, is_first, room);
    if (at.is_folded) {
        fold_back(call, at, G, room);
    } else {
        no_rows(at.count, call->V, room->grad_v);
        memset(room->folded, 0, 4 * CHUNK);
    }
    values_back(call, at, h, room->out, 1, room);
    if (call->rule == SUMMED)
        summed_gradient(call, at, h, at.is_folded ? over * state_dot(call, room->anchor, G) : 0.0f, room);
    Terms states = {.count = at.count, .columns = whole(call->V), .x = room->q, .x_step = k_row, .s = room->since_o, .s_row = v_row,
                    .out = G, .out_row = v_row, .factor = &over};
    turned_terms(call->K, &states);
}

/* One chunk of a group: what its heads give to pairs of rows is added up before it meets queries and keys. */
static void group_back(const Call *call, Chunk at, int64_t g, const Room *room) {
    int64_t K = call->K, k_row = spread(K), group = call->heads / call->groups, row = call->groups * K, to = at.row * row + g * K;
    rows_in(at.count, K, call->q + at.row * call->q_row + g * K, call->q_row, room->q);
    rows_in(at.count, K, call->k + at.row * call->k_row + g * K, call->k_row, room->k);
    transpose(whole(at.count), whole(K), room->k, k_row, room->keys, SQUARE);
    triangle(at.count, K, room->q, room->keys, room->dots);
    memset(room->grad_dots, 0, 4 * CHUNK * SQUARE);
    no_rows(at.count, K, room->grad_k);
    for (int64_t i = 0; i < group; i++)
        head_back(call, at, g * group + i, i == 0, room->grad_state + i * whole(K) * spread(call->V), room);
    Terms queries = {.count = at.count, .columns = whole(K), .x = room->grad_dots, .x_step = SQUARE, .s = room->k, .s_row = k_row,
                     .out = room->grad_q, .out_row = k_row, .factor = &one};
    Terms keys = queries;
    keys.s = room->q, keys.out = room->grad_k;
    earlier_terms(at.count, &queries);
    later_terms(at.count, &keys);
    rows_out(at.count, K, room->grad_q, call->grad_q + to, row);
    rows_out(at.count, K, room->grad_k, call->grad_k + to, row);
}

/* out = x y and out = x + y z, whole vectors. */
HOT void times_row(int64_t count, const float *x, const float *y, float *out) {
    for (int64_t c = 0; c < count; c += LANES) store(out + c, multiply(load(x + c), load(y + c)));
}
HOT void add_product(int64_t count, const float *x, const float *y, float *out) {
    for (int64_t c = 0; c < count; c += LANES) store(out + c, fma_vec(load(x + c), load(y + c), load(out + c)));
}
static void fill(int64_t count, float x, float *out) {
    for (int64_t c = 0; c < count; c++) out[c] = x;
}

/* Decays of one block: from its start to each row, from each row to its end (the last row that is there). */
static void block_decays(int64_t K, int first, int count, const Room *room) {
    int64_t row = spread(K), padded = whole(K);
    const float *log_decay = room->log_decay + first * row;
    memset(room->run, 0, 8 * (size_t)padded);
    for (int r = 0; r < count; r++) {
        add_decays(padded, log_decay + r * row, room->run);
        exp_of_sums(padded, room->run, room->to_row + (first + r) * row);
        exp_of_row(padded, log_decay + r * row, room->decay + (first + r) * row);
    }
    memcpy(room->block_decay + first / BLOCK * row, room->to_row + (first + count - 1) * row, 4 * (size_t)padded);
    memset(room->run, 0, 8 * (size_t)padded);
    for (int r = count - 1; r >= 0; r--) {
        exp_of_sums(padded, room->run, room->to_end + (first + r) * row);
        add_decays(padded, log_decay + r * row, room->run);
    }
    for (int r = first; r < first + count; r++) {
        times_row(padded, room->q + r * row, room->to_row + r * row, room->q_block + r * row);
        times_row(padded, room->k + r * row, room->to_end + r * row, room->k_end + r * row);
    }
}

/* The next anchor: what it gives to keys at their blocks' ends, to values, and to the decays of whole blocks. */
static void channel_fold_back(const Call *call, Chunk at, const float *G, const Room *room) {
    int64_t K = call->K, V = whole(call->V), padded = whole(K), k_row = spread(K), v_row = spread(call->V);
    transpose(padded, V, G, v_row, room->grad_t, k_row);
    Terms keys = {.count = call->V, .columns = padded, .x = room->v, .x_step = v_row, .s = room->grad_t, .s_row = k_row,
                  .out = room->grad_k, .out_row = k_row};
    new_terms(at.count, &keys);
    for (int64_t c = 0; c < K; c++) room->between[c] = room->over[c] * row_dot(V, room->anchor + c * v_row, G + c * v_row);
    for (int64_t c = K; c < padded; c++) room->between[c] = 0.0f;
    for (int j = 0; j < at.count; j++) {
        int block = j / BLOCK;
        float *between = room->between + block * k_row, *grad = room->grad_k + j * k_row;
        /* The sum goes on from block to block: each passes what the ones before it give. */
        if (j % BLOCK == 0 && block + 1 < BLOCKS) memcpy(between + k_row, between, 4 * (size_t)padded);
        times_row(padded, grad, room->tail + block * k_row, grad);
        times_row(padded, room->k_end + j * k_row, room->tail + block * k_row, room->k_out + j * k_row);
        if (block + 1 < BLOCKS) add_product(padded, room->k_end + j * k_row, grad, between + k_row);
    }
    Terms values = {.count = K, .columns = V, .x = room->k_out, .x_step = k_row, .s = G, .s_row = v_row, .out = room->grad_v,
                    .out_row = v_row};
    new_terms(at.count, &values);
}

/* Queries of block b, and the keys of earlier blocks at those blocks' ends. What queries get is left in y, before their
   own way since the block's start. */
static void across_blocks(int64_t K, int b, int count, const Room *room) {
    int64_t row = spread(K), padded = whole(K), first = b * BLOCK;
    const float *level = room->q_block + first * row;
    for (int earlier = b - 1; earlier >= 0; earlier--) {
        int64_t square = first * SQUARE + earlier * BLOCK;
        Terms weights = {.count = K, .columns = BLOCK, .x = level, .x_step = row, .s = room->keys + earlier * BLOCK, .s_row = SQUARE,
                         .out = room->weights + square, .out_row = SQUARE};
        Terms keys = {.count = count, .columns = padded, .x = room->grad_p + square, .x_step = SQUARE, .s = level, .s_row = row,
                      .out = room->grad_k + earlier * BLOCK * row, .out_row = row, .factor = &one};
        new_terms(count, &weights);
        turned_terms(BLOCK, &keys);
        float *next = earlier ? room->levels + (earlier - 1) * BLOCK * row : room->q_in + first * row;
        for (int r = 0; r < count; r++) times_row(padded, level + r * row, room->block_decay + earlier * row, next + r * row);
        level = next;
    }
    if (b == 0) memcpy(room->q_in, room->q_block, 4 * (size_t)(count * row));
    for (int earlier = 0; earlier < b; earlier++) {
        level = earlier == b - 1 ? room->q_block + first * row : room->levels + earlier * BLOCK * row;
        for (int r = 0; r < count; r++) {
            float *grad = room->y + (first + r) * row;
            times_row(padded, grad, room->block_decay + earlier * row, grad);
            add_product(padded, level + r * row, grad, room->between + earlier * row);
        }
        Terms queries = {.count = BLOCK, .columns = padded, .x = room->grad_p + first * SQUARE + earlier * BLOCK, .x_step = SQUARE,
                         .s = room->k_end + earlier * BLOCK * row, .s_row = row, .out = room->y + first * row, .out_row = row,
                         .factor = &one};
        more_terms(count, &queries);
    }
}

/* One block's arrays at one vector of channels. */
typedef struct {
    const float *k, *decay;     /* rows of the block */
    float *grad_k, *grad_decay; /* added to */
    float *readers, *lanes;     /* [BLOCK, LANES]; the second: added to */
    int64_t row;
} Pairs;

/* Row r of a block with its keys up to its own. The query walks backwards through one decay after the other, the sum of the
   keys that it gets forwards: no factor is above one. Returns the query's gradient. */
INLINE vec pair_walk(int r, vec reader, const float *grad_p, const Pairs *pairs, int64_t c) {
    const float *k = pairs->k + c, *decay = pairs->decay + c;
    float *grad_k = pairs->grad_k + c, *grad_decay = pairs->grad_decay + c, *readers = pairs->readers, *lanes = pairs->lanes;
    int64_t row = pairs->row;
    for (int j = r; j >= 0; j--) {
        store(readers + j * LANES, reader);
        store(lanes + j * LANES, fma_vec(reader, load(k + j * row), load(lanes + j * LANES)));
        store(grad_k + j * row, fma_vec(splat(grad_p[j]), reader, load(grad_k + j * row)));
        reader = multiply(reader, load(decay + j * row));
    }
    vec sum = multiply(splat(grad_p[0]), load(k));
    for (int j = 1; j <= r; j++) {
        sum = multiply(sum, load(decay + j * row));
        store(grad_decay + j * row, fma_vec(sum, load(readers + j * LANES), load(grad_decay + j * row)));
        sum = fma_vec(splat(grad_p[j]), load(k + j * row), sum);
    }
    return sum;
}
HOT void pair_row(int64_t K, int r, const float *q, const float *grad_p, const Pairs *pairs, float *grad_q) {
    for (int64_t c = 0; c < K; c += LANES) store(grad_q + c, pair_walk(r, load(q + c), grad_p, pairs, c));
}
HOT void lane_sums(int count, const float *lanes, float *out) {
    for (int j = 0; j < count; j++) out[j] = sum_vec(load(lanes + j * LANES));
}

/* Pairs of rows inside block b: P, and the gradients of its queries, of its keys (to `grad_k`) and of its decays. */
static void inside_block(int64_t K, int first, int count, float *grad_k, const Room *room) {
    int64_t row = spread(K), at = first * row;
    Pairs pairs = {.k = room->k + at, .decay = room->decay + at, .grad_k = grad_k, .grad_decay = room->grad_decay + at,
                   .readers = room->readers, .lanes = room->lanes, .row = row};
    memset(grad_k, 0, 4 * (size_t)(count * row));
    memset(pairs.grad_decay, 0, 4 * (size_t)(count * row));
    for (int r = 0; r < count; r++) {
        int64_t square = (first + r) * SQUARE + first;
        memset(room->lanes, 0, 4 * BLOCK * LANES);
        pair_row(whole(K), r, room->q + at + r * row, room->grad_p + square, &pairs, room->grad_q + at + r * row);
        lane_sums(r + 1, room->lanes, room->weights + square);
    }
}

/* What stands at a block's edges and what is inside it, for one vector of channels after the other. */
HOT void join_block(int64_t K, int first, int count, const float *grad_k_inside, const Room *room) {
    int64_t row = spread(K), at = first * row;
    const float *q = room->q_block + at, *grad_y = room->y + at, *k = room->k_end + at;
    const float *to_row = room->to_row + at, *to_end = room->to_end + at;
    float *grad_q = room->grad_q + at, *grad_k = room->grad_k + at, *grad_decay = room->grad_decay + at;
    for (int64_t c = 0; c < K; c += LANES) {
        vec later = load(room->between + first / BLOCK * row + c), earlier = splat(0.0f);
        for (int64_t i = (count - 1) * row + c; i >= 0; i -= row) {
            vec grad = load(grad_y + i);
            later = fma_vec(load(q + i), grad, later);
            store(grad_decay + i, add(load(grad_decay + i), later));
            store(grad_q + i, fma_vec(load(to_row + i), grad, load(grad_q + i)));
        }
        for (int64_t i = c; i < count * row; i += row) {
            vec grad = load(grad_k + i);
            store(grad_decay + i, add(load(grad_decay + i), earlier));
            earlier = fma_vec(load(k + i), grad, earlier);
            store(grad_k + i, fma_vec(load(to_end + i), grad, load(grad_k_inside + i)));
        }
    }
}

/* Rows and decays of a chunk, by block and over the whole. */
static void load_channels(const Call *call, Chunk at, int64_t h, const Room *room) {
    int64_t K = call->K, row = spread(K), padded = whole(K), decay_row = call->heads * K;
    int last = (at.count - 1) / BLOCK;
    rows_in(at.count, K, call->q + at.row * call->q_row + h * K, call->q_row, room->q);
    rows_in(at.count, K, call->k + at.row * call->k_row + h * K, call->k_row, room->k);
    rows_in(at.count, K, call->log_decay + at.row * decay_row + h * K, decay_row, room->log_decay);
    no_rows(whole(at.count), K, room->k_end);
    for (int first = 0; first < at.count; first += BLOCK)
        block_decays(K, first, at.count - first < BLOCK ? at.count - first : BLOCK, room);
    transpose(whole(at.count), padded, room->k_end, row, room->keys, SQUARE);
    fill(padded, 1.0f, room->tail + last * row);
    for (int b = last; b > 0; b--) times_row(padded, room->tail + b * row, room->block_decay + b * row, room->tail + (b - 1) * row);
    times_row(padded, room->tail, room->block_decay, room->over);
}

/* One head whose channels decay by themselves. G is moved to before the chunk. */
static void channel_back(const Call *call, Chunk at, int64_t h, const Room *room) {
    int64_t K = call->K, padded = whole(K), k_row = spread(K), v_row = spread(call->V), to = (at.row * call->heads + h) * K;
    float *G = room->grad_state;
    load_channels(call, at, h, room);
    load_values(call, at, h, room);
    load_anchor(call, at.item, h, room);
    Terms read = {.count = call->V, .columns = padded, .x = room->o, .x_step = v_row, .s = room->anchor_t, .s_row = k_row,
                  .out = room->y, .out_row = k_row};
    new_terms(at.count, &read);
    if (at.is_folded) {
        channel_fold_back(call, at, G, room);
    } else {
        no_rows(at.count, K, room->grad_k);
        no_rows(at.count, call->V, room->grad_v);
        no_rows(BLOCKS, K, room->between);
    }
    for (int b = 0; b * BLOCK < at.count; b++)
        across_blocks(K, b, at.count - b * BLOCK < BLOCK ? at.count - b * BLOCK : BLOCK, room);
    for (int first = 0; first < at.count; first += BLOCK) {
        int count = at.count - first < BLOCK ? at.count - first : BLOCK;
        inside_block(K, first, count, room->levels, room);
        join_block(padded, first, count, room->levels, room);
    }
    values_back(call, at, h, &one, 0, room);
    Terms states = {.count = at.count, .columns = whole(call->V), .x = room->q_in, .x_step = k_row, .s = room->o, .s_row = v_row,
                    .out = G, .out_row = v_row, .factor = room->over, .factor_step = 1};
    turned_terms(K, &states);
    rows_out(at.count, K, room->grad_q, call->grad_q + to, call->heads * K);
    rows_out(at.count, K, room->grad_k, call->grad_k + to, call->heads * K);
    rows_out(at.count, K, room->grad_decay, call->grad_decay + to, call->heads * K);
}

/* One group of one sequence: its chunks, the last one first. */
static void walk_back(const Call *call, int64_t n, int64_t g, const Room *room) {
    int64_t K = call->K, V = call->V, group = call->heads / call->groups, state = whole(K) * spread(V);
    for (int64_t i = 0; i < group; i++) {
        int64_t at = (n * call->heads + g * group + i) * K * V;
        if (call->grad_final) rows_in(K, V, call->grad_final + at, V, room->grad_state + i * state);
        else no_rows(whole(K), V, room->grad_state + i * state);
    }
    int is_folded = call->grad_final != 0;
    for (int64_t chunk = (call->length[n] + CHUNK - 1) / CHUNK - 1; chunk >= 0; chunk--) {
        int64_t left = call->length[n] - chunk * CHUNK;
        Chunk at = {call->offset[n] + chunk * CHUNK, call->items[call->first_item[n] + chunk], left < CHUNK ? (int)left : CHUNK,
                    is_folded};
        if (call->rule == BY_CHANNEL) channel_back(call, at, g, room);
        else group_back(call, at, g, room);
        is_folded = 1;
    }
    for (int64_t i = 0; call->grad_first && i < group; i++)
        rows_out(K, V, room->grad_state + i * state, call->grad_first + (n * call->heads + g * group + i) * K * V, V);
}

typedef struct {
    const Call *call;
    atomic_int failed;
} Turns;

static void take_turn(void *context, int64_t index, int64_t worker) {
    (void)worker;
    Turns *turns = context;
    float *memory = team_memory(4 * (size_t)lay_out(turns->call, 0, 0));
    if (!memory) {
        turns->failed = 1;
        return;
    }
    Room room;
    lay_out(turns->call, memory, &room);
    walk_back(turns->call, index / turns->call->groups, index % turns->call->groups, &room);
}

/* Returns 0, or 1 when memory is short. */
int hyla_decay_grad(const Call *call) {
    Turns turns = {.call = call};
    team_run(call->sequences * call->groups, take_turn, &turns);
    return turns.failed;
}
