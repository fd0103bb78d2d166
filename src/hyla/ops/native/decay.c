/* Linear attention with a decay and without a solve, on the 64-row grid: lightning and linear attention (a constant of
   the head), the state space dual (a number for each token) and gated linear attention (one for each key channel).

   Row r of a chunk, with S the anchor and decays as ops/chunks/constant_decay.py and ops/{ssd,gla}/rule.py define them:
       o_r = since_r (S^T q_r) + sum_{j<=r} P_rj v_j        S' = decay S + sum_j k_j v_j^T, each decayed to the end
   No row waits for another: all new rows of a chunk read together. Sums over channels and over earlier rows go upwards,
   one fused multiply-add each, and are vectors over the value dimension: a row's bits depend neither on how many rows
   come together nor on the width of the hardware's vectors. Nothing is read of rows after the own one. */
#include <stdlib.h>

#include "decay.h"
#include "sums.h"
#include "team.h"

typedef struct {
    int64_t sequences;
    const int64_t *offset, *length, *start, *slot; /* of each sequence */
    const int64_t *first_item, *items; /* items[first_item[n] + i]: the item of its i-th touched chunk; or 0 */
    int64_t rule, groups, heads, K, V; /* head h reads the keys of group h / (heads / groups) */
    int64_t q_row, k_row, v_row;       /* floats from one token to the next; heads are dense */
    const float *q, *k, *v;            /* [T, G, K], ., [T, H, V] */
    const float *log_decay;            /* summed: [T, H];  by channel: [T, H, K] */
    const float *table;                /* constant: [H, 66], of distances 0 to 64 */
    float *o;                          /* [T, H, V] */
    float *anchor, *v_rows;            /* [slots, H, K, V], [slots, H, 64, V] */
    float *keys;                       /* [slots, G, K, 64];  by channel: [slots, H, 64, K] */
    double *sums;                      /* summed: [slots, H, 64] */
    float *decay_rows;                 /* by channel: [slots, H, 64, K] */
    float *anchor_items;               /* [I, H, K, V], or 0 */
    const float *first;                /* without a cache: states before the first rows, [N, H, K, V], or 0: zeros */
    float *final;                      /* and after the last ones, or 0 */
    float scale;                       /* of the queries */
} Call;

/* Memory of one thread. Everything begins at a multiple of 16 floats. */
typedef struct {
    float *x, *dots, *weights; /* [CHUNK, K] (`spread` apart), [CHUNK, CHUNK], [CHUNK, CHUNK] */
    float *v_out;              /* values decayed to the chunk's end, `spread` apart */
    float *strip;              /* [K + CHUNK, 2 LANES] */
    float *since, *gap, *by_distance; /* [CHUNK], [CHUNK], [CHUNK + LANES] */
    float *q, *rows;           /* by channel: [BLOCK, K], [BLOCK, K] */
    float *decays, *decay;     /* [BLOCK, K], [K] */
    float *k_scaled, *k_out;   /* [BLOCKS, K, BLOCK], [K, CHUNK] */
    double *run, *block_sum;   /* [BLOCK + 1, K] and [BLOCKS, K], K rounded up to whole vectors */
    float *own;                /* states of a call without a cache */
} Room;

typedef struct {
    float *anchor, *v, *keys, *decay_rows;
    double *sums;
} State;

/* Floats of one head's state in a call without a cache, beside its group's keys. */
static int64_t head_floats(const Call *call) {
    return 2 * CHUNK + whole(call->K * call->V) + CHUNK * whole(call->V) + (call->rule == BY_CHANNEL ? CHUNK * call->K : 0);
}

/* How many floats in all; the places are filled in where there is memory. */
static int64_t lay_out(const Call *call, float *memory, Room *room) {
    int64_t K = call->K, group = call->heads / call->groups, by_channel = call->rule == BY_CHANNEL;
    const int64_t sizes[] = {CHUNK * spread(K), CHUNK * CHUNK, CHUNK * CHUNK, CHUNK * spread(call->V), 2 * LANES * (K + CHUNK), CHUNK, CHUNK, CHUNK + LANES,
                             by_channel * BLOCK * K, by_channel * BLOCK * K, by_channel * BLOCK * K, K,
                             by_channel * CHUNK * K, by_channel * CHUNK * K, by_channel * 2 * (BLOCK + 1) * whole(K),
                             by_channel * 2 * BLOCKS * whole(K), call->anchor ? 0 : CHUNK * K + group * head_floats(call)};
    enum { PLACES = sizeof sizes / sizeof *sizes };
    float *at[PLACES];
    int64_t total = places(PLACES, sizes, memory, at);
    if (memory)
        *room = (Room){at[0], at[1], at[2], at[3], at[4], at[5], at[6], at[7], at[8], at[9], at[10], at[11], at[12],
                       at[13], (double *)at[14], (double *)at[15], at[16]};
    return total;
}

/* How new rows of a chunk read: `place` is the chunk's place of the first one. */
typedef struct {
    int64_t K, V, place;
    const float *x, *anchor, *since; /* queries that meet the anchor, x_row apart; factors on what they find there */
    int64_t x_row;
    const float *weights, *v; /* [., CHUNK], [CHUNK, V] */
    float *o;
    int64_t o_row;
    float *strip; /* room for columns of the anchor and of the values, side by side */
} Reads;

/* Columns of the anchor and of the values where they lie, or packed. */
typedef struct {
    const float *s, *v;
    int64_t row;
} Columns;

INLINE void read_block(const int n, const int wide, const int is_streamed, const Reads *call, Columns from, int64_t row,
                       int64_t column) {
    int64_t before = call->place + row, o_row = call->o_row, K = call->K, x_row = call->x_row, s_row = from.row;
    const float *x = call->x + row * x_row, *s = from.s, *v = from.v;
    const float *weights = call->weights + row * CHUNK, *since = call->since + row;
    float *o = call->o + row * o_row + column;
    vec sum[MOST_ROWS][MOST_SIDE_BY_SIDE];
#pragma GCC unroll 8
    for (int i = 0; i < n; i++)
#pragma GCC unroll 8
        for (int m = 0; m < wide; m++) sum[i][m] = splat(0.0f);
    if (is_streamed && PARTS > 1 && column + 2 * wide * LANES <= call->V) fetch_strip(wide, K, s + wide * LANES, s_row);
    SUM_ROWS(n, wide, 0, 0, K, x, x_row, s, s_row, (const char *)0, sum)
#pragma GCC unroll 8
    for (int i = 0; i < n; i++)
#pragma GCC unroll 8
        for (int m = 0; m < wide; m++) sum[i][m] = multiply(sum[i][m], splat(since[i]));
    SUM_ROWS(n, wide, 0, 0, before, weights, CHUNK, v, s_row, (const char *)0, sum)
    /* The rows' own places: each reads its own and those before it. */
#pragma GCC unroll 8
    for (int j = 0; j < n; j++)
#pragma GCC unroll 8
        for (int m = 0; m < wide; m++) {
            vec own = load(v + (before + j) * s_row + m * LANES);
#pragma GCC unroll 8
            for (int i = j; i < n; i++) sum[i][m] = fma_vec(splat(weights[i * CHUNK + before + j]), own, sum[i][m]);
        }
#pragma GCC unroll 8
    for (int i = 0; i < n; i++)
#pragma GCC unroll 8
        for (int m = 0; m < wide; m++) store(o + i * o_row + m * LANES, sum[i][m]);
}

INLINE void pack_columns(const int wide, int64_t rows, const float *x, int64_t x_row, float *out) {
    for (int64_t r = 0; r < rows; r++)
#pragma GCC unroll 8
        for (int m = 0; m < wide; m++) store(out + (r * wide + m) * LANES, load(x + r * x_row + m * LANES));
}

/* All rows over `wide` vectors from `column` on. */
INLINE void read_strip(const int n, const int wide, const int is_packed, const Reads *call, int64_t row, int64_t end,
                       int64_t column) {
    Columns from = {call->anchor + column, call->v + column, call->V};
    if (is_packed) {
        /* Rows of the anchor are a power of two apart, so its columns meet in a few places of the first cache. */
        float *v = call->strip + call->K * wide * LANES;
        pack_columns(wide, call->K, from.s, call->V, call->strip);
        pack_columns(wide, call->place + end, from.v, call->V, v);
        from = (Columns){call->strip, v, wide * LANES};
    }
    for (int64_t r = row; r < end; r += n) read_block(n, wide, n <= 2, call, from, r, column);
}

/* Columns outside, rows inside: a strip of the anchor and of the values stays in the first cache. */
INLINE void read_groups(const int n, const int is_packed, const Reads *call, int64_t row, int64_t end) {
    const int wide = SIDE_BY_SIDE(n);
    int64_t w = 0;
    for (; w + wide * LANES <= call->V; w += wide * LANES) read_strip(n, wide, is_packed, call, row, end, w);
    for (; wide > 1 && w + LANES <= call->V; w += LANES) read_strip(n, 1, is_packed, call, row, end, w);
    /* What is left is the end of a whole vector: some columns are computed twice, to the same bits. */
    if (w < call->V && call->V > LANES) read_strip(n, 1, is_packed, call, row, end, call->V - LANES);
}

/* Fewer columns than a vector has. */
TAIL void read_tail(int64_t rows, const Reads *call) {
    for (int64_t i = 0; i < rows; i++)
        for (int64_t w = 0; w < call->V; w++) {
            float a = 0.0f;
            for (int64_t c = 0; c < call->K; c++)
                a = __builtin_fmaf(call->x[i * call->x_row + c], call->anchor[c * call->V + w], a);
            a *= call->since[i];
            for (int64_t j = 0; j <= call->place + i; j++)
                a = __builtin_fmaf(call->weights[i * CHUNK + j], call->v[j * call->V + w], a);
            call->o[i * call->o_row + w] = a;
        }
}

HOT void read_many(int64_t rows, const Reads *call) { read_groups(MOST_ROWS, 1, call, 0, rows); }
HOT void read_few(int64_t rows, const Reads *call, int64_t done) {
    if (rows - done >= MOST_ROWS) read_groups(MOST_ROWS, 0, call, done, done + MOST_ROWS), done += MOST_ROWS;
    if ((rows - done) & 4) read_groups(4, 0, call, done, done + 4), done += 4;
    if ((rows - done) & 2) read_groups(2, 0, call, done, done + 2), done += 2;
    if ((rows - done) & 1) read_groups(1, 0, call, done, done + 1);
}
static void read_rows(int64_t rows, const Reads *call) {
    int64_t done = rows < 2 * MOST_ROWS ? 0 : rows / MOST_ROWS * MOST_ROWS;
    if (call->V < LANES) {
        read_tail(rows, call);
        return;
    }
    if (done) read_many(done, call);
    read_few(rows, call, done);
}

/* New values go to their places. */
static void keep_values(const Call *call, int64_t h, int64_t row, int place, int count, float *v) {
    for (int i = 0; i < count; i++)
        memcpy(v + (place + i) * call->V, call->v + (row + i) * call->v_row + h * call->V, 4 * (size_t)call->V);
}

/* p = decays * dots. The first is there; or it is the exponential of gaps. */
HOT void weigh_by_table(int count, const float *decay, const float *dots, float *p) {
    for (int j = 0; j < count; j += LANES) store(p + j, multiply(load(dots + j), load(decay + j)));
}
HOT void weigh_by_gaps(int count, const float *gap, const float *dots, float *p) {
    for (int j = 0; j < count; j += LANES) store(p + j, multiply(load(dots + j), exp_vec(load(gap + j))));
}

/* The decays from every place to each new row, onto the rows' dots; and since the chunk's start. */
static void weigh_constant(const Call *call, int64_t h, int place, int count, const Room *room) {
    const float *table = call->table + h * TABLE;
    /* by_distance[63 - d]: of distance d, so that places go upwards. */
    for (int d = 0; d < CHUNK; d++) room->by_distance[CHUNK - 1 - d] = table[d];
    for (int i = 0; i < count; i++) {
        int at = place + i;
        room->since[i] = table[at + 1];
        weigh_by_table(at / LANES * LANES + LANES, room->by_distance + CHUNK - 1 - at, room->dots + i * CHUNK,
              room->weights + i * CHUNK);
    }
}
static void weigh_summed(const Call *call, double *sums, int64_t h, int64_t row, int place, int count, const Room *room) {
    for (int i = 0; i < count; i++) {
        int at = place + i;
        sums[at] = (at ? sums[at - 1] : 0.0) + (double)call->log_decay[(row + i) * call->heads + h];
        gaps(at + 1, sums[at], sums, room->gap);
        for (int j = at + 1; j % LANES; j++) room->gap[j] = -1e30f;
        weigh_by_gaps(at / LANES * LANES + LANES, room->gap, room->dots + i * CHUNK, room->weights + i * CHUNK);
        room->since[i] = (float)sums[at];
    }
    for (int j = count; j % LANES; j++) room->since[j] = 0.0f;
    exp_row(count, room->since, room->since);
}

/* Rows of keys as columns, rows of out 64 apart. */
static __attribute__((noinline)) void keys_by_channel(int64_t K, int count, const float *x, int64_t x_row, float *out) {
    for (int64_t c = 0; c < K; c++)
        for (int i = 0; i < count; i++) out[c * CHUNK + i] = x[i * x_row + c];
}

/* Dots of new queries with the keys of the chunk so far; those with later ones are not used. The queries
   stay in x. */
HOT void pack_keys(int64_t K, const float *keys, float *out) { pack_columns(1, K, keys, CHUNK, out); }
static void group_dots(const Call *call, float *keys, int64_t g, int64_t row, int place, int count, const Room *room) {
    int64_t K = call->K, x_row = spread(K);
    const float *k = call->k + row * call->k_row + g * K, *q = call->q + row * call->q_row + g * K;
    /* Tokens are far apart: a row is read as a whole. */
    for (int i = 0; i < count; i++) memcpy(room->x + i * x_row, k + i * call->k_row, 4 * (size_t)K);
    keys_by_channel(K, count, room->x, x_row, keys + place);
    for (int i = 0; i < count; i++) scaled_row(K, call->scale, q + i * call->q_row, room->x + i * x_row);
    Sums dots = {.count = K, .columns = whole(place + count), .x = room->x, .x_row = x_row, .s = keys, .s_row = CHUNK,
                 .out = room->dots, .out_row = CHUNK};
    if (count < 2 * MOST_ROWS) {
        product_rows(count, &dots);
        return;
    }
    for (int at = 0; at < place + count; at += LANES) {
        int first = at > place ? at - place : 0; /* rows before it do not meet these keys */
        pack_keys(K, keys + at, room->strip);
        dots = (Sums){.count = K, .columns = LANES, .x = room->x + first * x_row, .x_row = x_row, .s = room->strip, .s_row = LANES,
                      .out = room->dots + first * CHUNK + at, .out_row = CHUNK};
        product_rows(count - first, &dots);
    }
}

/* Rows [place, place + count) of one chunk for all heads of a group: decays are numbers. */
static void group_rows(const Call *call, State *s, int64_t g, int64_t row, int place, int count, const Room *room) {
    int64_t H = call->heads, V = call->V, K = call->K, group = H / call->groups;
    group_dots(call, s[0].keys, g, row, place, count, room);
    for (int64_t i = 0; i < group; i++) {
        int64_t h = g * group + i;
        keep_values(call, h, row, place, count, s[i].v);
        if (call->rule == CONSTANT) weigh_constant(call, h, place, count, room);
        else weigh_summed(call, s[i].sums, h, row, place, count, room);
        Reads reads = {.K = K, .V = V, .place = place, .x = room->x, .x_row = spread(K), .anchor = s[i].anchor,
                       .since = room->since, .weights = room->weights, .v = s[i].v, .o = call->o + (row * H + h) * V,
                       .o_row = H * V, .strip = room->strip};
        read_rows(count, &reads);
    }
}

/* The first `end` rows of a chunk enter the next anchor: S = decay S + k_out v_out. */
static void fold(const Call *call, const float *k_out, const float *v_out, int64_t v_row, const float *decay,
                 int per_channel, int end, float *S, const Room *room) {
    int64_t K = call->K, V = call->V, left = V % LANES, w = V - left;
    Sums sums = {.count = end, .columns = w, .x = k_out, .x_row = CHUNK, .s = v_out, .s_row = v_row, .out = S, .out_row = V,
                 .factor = decay, .factor_step = per_channel};
    fold_rows(K, &sums);
    if (!left) return;
    /* The last columns by themselves, in whole vectors. */
    float *own = room->strip + CHUNK * LANES;
    for (int j = 0; j < end; j++) memcpy(room->strip + j * LANES, v_out + j * v_row + w, 4 * (size_t)left);
    for (int64_t c = 0; c < K; c++) memcpy(own + c * LANES, S + c * V + w, 4 * (size_t)left);
    sums.columns = sums.s_row = sums.out_row = LANES, sums.s = room->strip, sums.out = own;
    fold_rows(K, &sums);
    for (int64_t c = 0; c < K; c++) memcpy(S + c * V + w, own + c * LANES, 4 * (size_t)left);
}
static void group_fold(const Call *call, State s, int64_t h, int end, const Room *room) {
    const float *table = call->table + h * TABLE;
    int64_t v_row = spread(call->V);
    float decay;
    if (call->rule == CONSTANT) {
        decay = table[end];
        for (int j = 0; j < end; j++) room->gap[j] = table[end - 1 - j];
    } else {
        decay = exp_one((float)s.sums[end - 1]);
        gaps(end, s.sums[end - 1], s.sums, room->gap);
        for (int j = end; j % LANES; j++) room->gap[j] = 0.0f;
        exp_row(end, room->gap, room->gap);
    }
    /* The decay stands on values: they are the smaller side in published models, and heads share their keys. */
    for (int j = 0; j < end; j++) scaled_row(call->V, room->gap[j], s.v + j * call->V, room->v_out + j * v_row);
    fold(call, s.keys, room->v_out, v_row, &decay, 0, end, s.anchor, room);
}

/* out = before + decay. */
HOT void next_sums(int64_t K, const double *restrict before, const float *restrict decay, double *restrict out) {
    for (int64_t c = 0; c < K; c++) out[c] = before[c] + (double)decay[c];
}

/* A reader's dot with a key; then the reader goes on to the row before, through that key's decay. */
INLINE void meet_at(int64_t c, int left, const float *key, const float *decay, float *reader, vec *total) {
    vec x = load_row(reader, c, left, 0);
    *total = fma_vec(x, load_row(key, c, left, 0), *total);
    store_row(reader, c, left, 0, multiply(x, load_row(decay, c, left, 0)));
}
HOT float meet(int64_t K, const float *key, const float *decay, float *reader) {
    vec total = splat(0.0f);
#define BODY(c, left) meet_at(c, left, key, decay, reader, &total)
    ALONG_ROW(K, BODY)
#undef BODY
    return sum_vec(total);
}

/* The first `count` keys of a block, decayed once to the last of them, and the sum of those log decays. */
static void close_block(const Call *call, State s, int block, int count, const Room *room) {
    int64_t K = call->K;
    double *run = room->block_sum + block * whole(K);
    float *k_scaled = room->k_scaled + block * K * BLOCK;
    memset(run, 0, 8 * (size_t)whole(K));
    for (int j = count - 1; j >= 0; j--) {
        decayed_row(K, run, s.keys + (block * BLOCK + j) * K, room->rows + j * K);
        add_decays(K, s.decay_rows + (block * BLOCK + j) * K, run);
    }
    for (int64_t c = 0; c < K; c++)
        for (int j = 0; j < count; j++) k_scaled[c * BLOCK + j] = room->rows[j * K + c];
}

/* decays[j], run[j + 1]: e^a of a row, and the sum of log decays from the block's start to it. */
static void decays_of(const Call *call, State s, int at, const Room *room) {
    int64_t K = call->K, padded = whole(K);
    const float *decay = s.decay_rows + at * K;
    int j = at % BLOCK;
    exp_of_row(K, decay, room->decays + j * K);
    next_sums(K, room->run + j * padded, decay, room->run + (j + 1) * padded);
}

/* Rows [at, stop) of one block. Inside the block a query walks backwards, through one decay after the other: at most 15
   factors. What goes further is the exponential of a sum in double, so that no error grows with the distance. */
static void block_rows(const Call *call, State s, int64_t h, int64_t row, int at, int stop, float *x, float *weights,
                       const Room *room) {
    int64_t K = call->K, padded = whole(K), x_row = spread(K);
    int block = at / BLOCK, count = stop - at, first = at % BLOCK;
    double *run = room->run + (first + 1) * padded;
    for (int i = 0; i < count; i++) {
        int64_t t = row + i;
        memcpy(s.keys + (at + i) * K, call->k + t * call->k_row + h * K, 4 * (size_t)K);
        memcpy(s.decay_rows + (at + i) * K, call->log_decay + (t * call->heads + h) * K, 4 * (size_t)K);
        decays_of(call, s, at + i, room);
        scaled_row(K, call->scale, call->q + t * call->q_row + h * K, room->q + i * K);
        float *p = weights + i * CHUNK + block * BLOCK, *reader = room->rows;
        memcpy(reader, room->q + i * K, 4 * (size_t)K);
        for (int j = first + i; j >= 0; j--)
            p[j] = meet(K, s.keys + (block * BLOCK + j) * K, room->decays + j * K, reader);
    }
    /* Earlier blocks, nearest first, then the anchor: run is the log decay since that block's end. */
    for (int earlier = block - 1; earlier >= -1; earlier--) {
        for (int i = 0; i < count; i++) decayed_row(K, run + i * padded, room->q + i * K, x + i * x_row);
        if (earlier < 0) break;
        Sums dots = {.count = K, .columns = BLOCK, .x = x, .x_row = x_row, .s = room->k_scaled + earlier * K * BLOCK,
                     .s_row = BLOCK, .out = weights + earlier * BLOCK, .out_row = CHUNK};
        product_rows(count, &dots);
        for (int i = 0; i < count; i++) add_sums(K, room->block_sum + earlier * padded, run + i * padded);
    }
    if (stop % BLOCK == 0) close_block(call, s, block, BLOCK, room);
}

/* Rows [place, place + count) of one chunk of a head whose channels decay by themselves. What is derived from the rows
   before them is made anew where they are the first of a call. */
static void channel_rows(const Call *call, State s, int64_t h, int64_t row, int place, int count, int is_first,
                         const Room *room) {
    int64_t K = call->K, H = call->heads, V = call->V;
    for (int block = 0; is_first && block < place / BLOCK; block++) close_block(call, s, block, BLOCK, room);
    keep_values(call, h, row, place, count, s.v);
    for (int at = place, stop; at < place + count; at = stop) {
        stop = (at / BLOCK + 1) * BLOCK < place + count ? (at / BLOCK + 1) * BLOCK : place + count;
        memset(room->run, 0, 8 * (size_t)whole(K));
        for (int before = at / BLOCK * BLOCK; before < at; before++) decays_of(call, s, before, room);
        int done = at - place;
        block_rows(call, s, h, row + done, at, stop, room->x + done * spread(K), room->weights + done * CHUNK, room);
    }
    Reads reads = {.K = K, .V = V, .place = place, .x = room->x, .x_row = spread(K), .anchor = s.anchor, .since = room->since,
                   .weights = room->weights, .v = s.v, .o = call->o + (row * H + h) * V, .o_row = H * V,
                   .strip = room->strip};
    for (int i = 0; i < count; i++) room->since[i] = 1.0f; /* it is in x */
    read_rows(count, &reads);
}

static void channel_fold(const Call *call, State s, int end, const Room *room) {
    int64_t K = call->K, padded = whole(K);
    int blocks = (end + BLOCK - 1) / BLOCK;
    if (end % BLOCK) close_block(call, s, blocks - 1, end % BLOCK, room);
    memset(room->run, 0, 8 * (size_t)padded);
    for (int b = blocks - 1; b >= 0; b--) {
        exp_of_sums(K, room->run, room->decay);
        scaled_columns(K, room->decay, room->k_scaled + b * K * BLOCK, room->k_out + b * BLOCK);
        add_sums(K, room->block_sum + b * padded, room->run);
    }
    exp_of_sums(K, room->run, room->decay);
    fold(call, room->k_out, s.v, call->V, room->decay, 1, end, s.anchor, room);
}

/* Where a head's state is: in the cache, or in the thread's own memory, filled with what the sequence begins with. */
static State state_of(const Call *call, int64_t n, int64_t h, const Room *room) {
    int64_t K = call->K, V = call->V, group = call->heads / call->groups, size = K * V;
    if (call->anchor) {
        int64_t at = call->slot[n] * call->heads + h, g = call->slot[n] * call->groups + h / group;
        return (State){.anchor = call->anchor + at * size, .v = call->v_rows + at * CHUNK * V, .keys = call->keys + g * K * CHUNK,
                       .decay_rows = call->decay_rows + at * CHUNK * K, .sums = call->sums + at * CHUNK};
    }
    float *base = room->own + CHUNK * K + h % group * head_floats(call);
    State s = {.keys = room->own, .sums = (double *)base, .anchor = base + 2 * CHUNK};
    s.v = s.anchor + whole(size), s.decay_rows = s.v + CHUNK * whole(V);
    if (call->first) memcpy(s.anchor, call->first + (n * call->heads + h) * size, 4 * (size_t)size);
    else memset(s.anchor, 0, 4 * (size_t)size);
    return s;
}

static void fold_any(const Call *call, State s, int64_t h, int end, const Room *room) {
    if (call->rule == BY_CHANNEL) channel_fold(call, s, end, room);
    else group_fold(call, s, h, end, room);
}

/* One group of one sequence: its rows, chunk after chunk. */
static void walk(const Call *call, int64_t n, int64_t g, const Room *room) {
    int64_t H = call->heads, size = call->K * call->V, group = H / call->groups, done = 0, chunk = 0;
    State s[group];
    for (int64_t i = 0; i < group; i++) s[i] = state_of(call, n, g * group + i, room);
    while (done < call->length[n]) {
        int place = (int)((call->start[n] + done) % CHUNK);
        int64_t left = call->length[n] - done, row = call->offset[n] + done;
        int count = left < CHUNK - place ? (int)left : CHUNK - place;
        if (call->anchor_items) {
            int64_t item = call->items[call->first_item[n] + chunk++];
            for (int64_t i = 0; i < group; i++)
                memcpy(call->anchor_items + (item * H + g * group + i) * size, s[i].anchor, 4 * (size_t)size);
        }
        if (call->rule == BY_CHANNEL) channel_rows(call, s[0], g, row, place, count, done == 0, room);
        else group_rows(call, s, g, row, place, count, room);
        for (int64_t i = 0; place + count == CHUNK && i < group; i++) fold_any(call, s[i], g * group + i, CHUNK, room);
        done += count;
    }
    if (call->anchor || !call->final) return;
    int end = (int)((call->start[n] + done) % CHUNK);
    for (int64_t i = 0; i < group; i++) {
        if (end) fold_any(call, s[i], g * group + i, end, room);
        memcpy(call->final + (n * H + g * group + i) * size, s[i].anchor, 4 * (size_t)size);
    }
}

typedef struct {
    const Call *call;
    float *memory;
    int64_t floats; /* of one worker */
} Task;

static void walk_unit(void *context, int64_t index, int64_t worker) {
    const Task *task = context;
    Room room;
    lay_out(task->call, task->memory + worker * task->floats, &room);
    walk(task->call, index / task->call->groups, index % task->call->groups, &room);
}

/* Returns 0, or 1 when memory is short. */
int hyla_decay(const Call *call) {
    Task task = {.call = call, .floats = lay_out(call, 0, 0)};
    float *memory = malloc(4 * (size_t)(task.floats * team_size()) + 64);
    if (!memory) return 1;
    task.memory = (float *)(((uintptr_t)memory + 63) & ~(uintptr_t)63);
    team_run(call->sequences * call->groups, walk_unit, &task);
    free(memory);
    return 0;
}
