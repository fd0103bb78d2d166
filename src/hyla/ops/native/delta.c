/* The delta rules on the 64-row grid: every row is computed once, by the same code, however it arrives.

   Row r of a chunk, with S the anchor and decays as ops/chunks/delta_chain.py defines them:
       u_r = beta_r (v_r - S^T k_in_r) - sum_{j<r} A_rj u_j        o_r = S^T q_in_r + sum_{j<=r} P_rj u_j
   Sums over channels and over earlier rows go upwards, one fused multiply-add each, and are vectors over the value
   dimension: a row's bits depend neither on how many rows come together nor on the width of the hardware's vectors. */
#include <stdatomic.h>

#include "channels.h"
#include "rows.h"
#include "team.h"

#define CHUNK 64
#define BLOCK 16
#define TILE 8 /* rows that read the anchor together */
#define WIDE(n) (SIDE_BY_SIDE(n) < 4 ? SIDE_BY_SIDE(n) : 4) /* vectors that n rows take along, each with its address */
#define STEP 16 /* rows of a matrix that few rows read before they turn to other columns of it */
#define SMALL 32768 /* fewer elements of states, each for every row that meets it, are not worth a second thread */

typedef struct {
    int64_t sequences;
    const int64_t *offset, *length, *start, *slot; /* of each sequence */
    const int64_t *first_item, *items; /* items[first_item[n] + i]: the item of its i-th touched chunk; or 0 */
    int64_t key_heads, heads, K, V;
    const float *q, *k, *v, *log_decay, *beta; /* [T, Hk, K] (q scaled), ., [T, H, V], [T, H] or [T, H, K], [T, H] */
    float *o;                /* [T, H, V] */
    float *anchor, *u;       /* [slots, H, K, V], [slots, H, 64, V] */
    float *keys;             /* gated delta: [slots, Hk, K, 64];  KDA: rows of the open block [slots, H, 16, K] */
    double *sums;            /* gated delta: [slots, H, 64] */
    float *decay_rows;       /* KDA: [slots, H, 16, K] */
    float *k_scaled;         /* KDA: [slots, H, 4, K, 16] */
    double *block_sum;       /* KDA: [slots, H, 4, K] */
    float *u_items, *anchor_items; /* [I, H, 64, V], [I, H, K, V], or 0 */
    const float *first;            /* without a cache: states before the first rows, [N, H, K, V], or 0: zeros */
    float *final;                  /* and after the last ones, or 0 */
    int64_t per_channel;           /* KDA: a decay per channel of a head's keys */
} Call;

/* Rows of floats as sums read them: `row` from one to the next, `panel` from 16 columns to the next 16. Plain ones lie as
   in the cache. Where many rows come they are first copied into panels, in which 16 columns of all rows lie in one piece:
   rows of a power of two of bytes meet in a few sets of the first cache, and a strip of them would not stay there. */
typedef struct {
    const float *at;
    int64_t row, panel;
} Matrix;
static Matrix plain(const float *at, int64_t columns) { return (Matrix){at, columns, LANES}; }
static Matrix panels(const float *at, int64_t rows) { return (Matrix){at, LANES, rows * LANES}; }

/* Memory of one thread. Everything begins at a multiple of 16 floats. */
typedef struct {
    float *x, *reads;          /* [2 TILE, K], [2 TILE, V]: of each row its key's and its query's */
    float *weights;            /* [2 TILE, CHUNK]: of earlier rows in u and in o */
    float *dots, *gap, *decay; /* [2 TILE, CHUNK], [CHUNK], [K] */
    float *k_out;              /* [K, CHUNK] */
    double *run;               /* KDA: [TILE, K], K rounded up to whole vectors */
    float *own;                /* states of a call without a cache */
    float *anchors, *us;       /* [G, V / 16, K, 16], [G, V / 16, CHUNK, 16]: panels, of the G heads that share a key */
} Room;

/* How many floats in all; the places are filled in where there is memory. */
static int64_t lay_out(const Call *call, float *memory, Room *room) {
    int64_t K = call->K, V = call->V, group = call->heads / call->key_heads;
    int64_t gated = K * CHUNK + group * (2 * CHUNK + whole(K * V) + CHUNK * V);
    int64_t kda = whole(8 * K) + whole(K * V) + CHUNK * V + 2 * BLOCK * K + CHUNK * K;
    const int64_t sizes[] = {2 * TILE * K, 2 * TILE * V, 2 * TILE * CHUNK, 2 * TILE * CHUNK, CHUNK, K, K * CHUNK,
                             2 * TILE * whole(K), call->anchor ? 0 : gated > kda ? gated : kda, group * K * V,
                             group * CHUNK * V};
    float *places[11];
    int64_t total = 0;
    for (int i = 0; i < 11; i++) {
        places[i] = memory ? memory + total : 0;
        total += whole(sizes[i]);
    }
    if (memory)
        *room = (Room){places[0], places[1], places[2], places[3], places[4], places[5], places[6], (double *)places[7],
                       places[8], places[9], places[10]};
    return total;
}

/* What a sum begins with: zero, what is there, or that times the row's factor. */
enum { FROM_ZERO, FROM_OUT, FROM_SCALED };

/* Rows that the next tile reads and writes: they lie so far apart that no hardware guesses them, so they are asked for
   during a product, a share with each strip of columns. */
#define MOST_ARRAYS 5
typedef struct {
    int64_t rows; /* TILE at most */
    int arrays;
    struct { const float *at; int64_t row, size; } of[MOST_ARRAYS];
} Next;
static void add_next(Next *next, const float *at, int64_t row, int64_t size) {
    next->of[next->arrays].at = at, next->of[next->arrays].row = row, next->of[next->arrays++].size = size;
}
static void ask(const Next *next, int64_t first, int64_t last) {
    for (int64_t i = first; i < last && i < next->rows; i++)
        for (int a = 0; a < next->arrays; a++)
            for (int64_t c = 0; c < next->of[a].size; c += LANES)
                __builtin_prefetch(next->of[a].at + i * next->of[a].row + c, 0, 2);
}

typedef struct {
    int64_t count, columns; /* of s */
    const float *x;
    Matrix s;
    float *out;
    int64_t x_row, out_row;
    const float *factor;    /* of each row, `factor_step` apart */
    int64_t factor_step;
    const Next *next;       /* or 0 */
} Sums;

/* Ask for what is read next: rows of a page, one after another, come quicker than a strip of all pages. */
INLINE void fetch_strip(const int wide, int64_t first, int64_t last, Matrix s, int64_t column) {
    for (int64_t c = first; c < last; c++)
#pragma GCC unroll 8
        for (int m = 0; m < wide; m++)
            __builtin_prefetch(s.at + c * s.row + (column / LANES + m) * s.panel, 0, 3);
}
/* The same for the first rows, before anything else is there to do meanwhile. */
static void fetch_first(int64_t rows, int64_t columns, Matrix s) {
    for (int64_t w = 0; w < columns; w += LANES) fetch_strip(1, 0, rows < STEP ? rows : STEP, s, w);
}

/* The share of [first, last) in the sums of n rows and `wide` vectors of columns. */
INLINE void sum_block(const int n, const int wide, const int start, const Sums *call, int64_t row, int64_t column,
                      int64_t first, int64_t last) {
    int64_t x_row = call->x_row, s_row = call->s.row, panel = call->s.panel, out_row = call->out_row;
    const float *x = call->x + row * x_row, *s = call->s.at + column / LANES * panel;
    float *out = call->out + row * out_row + column;
    vec sum[MOST_ROWS][MOST_SIDE_BY_SIDE];
#pragma GCC unroll 8
    for (int i = 0; i < n; i++)
#pragma GCC unroll 8
        for (int m = 0; m < wide; m++) {
            sum[i][m] = start == FROM_ZERO ? splat(0.0f) : load(out + i * out_row + m * LANES);
            if (start == FROM_SCALED) sum[i][m] = multiply(sum[i][m], splat(call->factor[(row + i) * call->factor_step]));
        }
    SUM_PANELS(n, wide, first, last, x, x_row, s, s_row, panel, sum)
#pragma GCC unroll 8
    for (int i = 0; i < n; i++)
#pragma GCC unroll 8
        for (int m = 0; m < wide; m++) store(out + i * out_row + m * LANES, sum[i][m]);
}

/* Columns outside, rows inside: a strip of s stays in the first cache. */
INLINE void sum_groups(const int n, const int start, const Sums *call, int64_t row, int64_t end) {
    const int wide = WIDE(n);
    int64_t w = 0;
    for (; w + wide * LANES <= call->columns; w += wide * LANES) {
        if (call->next && row == 0) ask(call->next, w * TILE / call->columns, (w + wide * LANES) * TILE / call->columns);
        for (int64_t r = row; r < end; r += n) sum_block(n, wide, start, call, r, w, 0, call->count);
    }
    for (; wide > 1 && w + LANES <= call->columns; w += LANES)
        for (int64_t r = row; r < end; r += n) sum_block(n, 1, start, call, r, w, 0, call->count);
}

/* All whole vectors of columns for [first, last); what comes after is asked for meanwhile. */
INLINE void sum_along(const int n, const int start, const Sums *call, int64_t row, int64_t first, int64_t last) {
    const int wide = WIDE(n);
    int64_t w = 0, next = call->count - last < STEP ? call->count : last + STEP;
    for (; w + wide * LANES <= call->columns; w += wide * LANES) {
        fetch_strip(wide, last, next, call->s, w);
        sum_block(n, wide, start, call, row, w, first, last);
    }
    for (; wide > 1 && w + LANES <= call->columns; w += LANES) {
        fetch_strip(1, last, next, call->s, w);
        sum_block(n, 1, start, call, row, w, first, last);
    }
}

/* One or two rows: s is read once, in the order of memory. */
INLINE void sum_few(const int n, const int start, const Sums *call, int64_t row) {
    int64_t count = call->count;
    sum_along(n, start, call, row, 0, count < STEP ? count : STEP);
    for (int64_t c = STEP; c < count; c += STEP) sum_along(n, FROM_OUT, call, row, c, count - c < STEP ? count : c + STEP);
}

/* The columns after the last whole vector: made whole vectors with zeros, some rows of s at a time. What is between is kept
   in `out`, to its last bit. */
#define TAIL_ROWS 64
INLINE void add_to_tail(const int n, const int start, const Sums *call, int64_t row, int64_t first, int64_t count,
                        const float *s) {
    int64_t whole_ones = call->columns / LANES * LANES;
    int left = (int)(call->columns - whole_ones);
    const float *x = call->x + row * call->x_row + first;
    float *out = call->out + row * call->out_row + whole_ones;
    vec sum[MOST_ROWS][MOST_SIDE_BY_SIDE];
#pragma GCC unroll 8
    for (int i = 0; i < n; i++) {
        sum[i][0] = splat(0.0f);
        if (first || start != FROM_ZERO) sum[i][0] = load_row(out, i * call->out_row, left, 0);
        if (!first && start == FROM_SCALED)
            sum[i][0] = multiply(sum[i][0], splat(call->factor[(row + i) * call->factor_step]));
    }
    SUM_ROWS(n, 1, 0, 0, count, x, call->x_row, s, LANES, (const char *)0, sum)
#pragma GCC unroll 8
    for (int i = 0; i < n; i++) store_row(out, i * call->out_row, left, 0, sum[i][0]);
}
TAIL void sum_tail(int64_t rows, int start, const Sums *call) {
    float s[TAIL_ROWS * LANES];
    const float *columns = call->s.at + call->columns / LANES * call->s.panel;
    int64_t first = 0, count;
    do {
        count = call->count - first < TAIL_ROWS ? call->count - first : TAIL_ROWS;
        for (int64_t c = 0; c < count; c++)
            load_some(columns, (first + c) * call->s.row, (int)(call->columns % LANES), 0, s + c * LANES);
        int64_t row = 0;
        for (; row + 4 <= rows; row += 4) add_to_tail(4, start, call, row, first, count, s);
        for (; row < rows; row++) add_to_tail(1, start, call, row, first, count, s);
        first += count;
    } while (first < call->count);
}

/* out[i, :] = start + sum_c x[i, c] s[c, :], c upwards, for `rows` rows. */
INLINE void sum_all(const int start, int64_t rows, const Sums *call) {
    int64_t done = rows / MOST_ROWS * MOST_ROWS;
    if (done) sum_groups(MOST_ROWS, start, call, 0, done);
    if ((rows - done) & 4) sum_groups(4, start, call, done, done + 4), done += 4;
    if (rows == 2) sum_few(2, start, call, 0);
    else if ((rows - done) & 2) sum_groups(2, start, call, done, done + 2), done += 2;
    if (rows == 1) sum_few(1, start, call, 0);
    else if ((rows - done) & 1) sum_groups(1, start, call, done, done + 1);
    if (call->columns % LANES) sum_tail(rows, start, call);
}
HOT void product_rows(int64_t rows, const Sums *call) { sum_all(FROM_ZERO, rows, call); }
HOT void add_rows(int64_t rows, const Sums *call) { sum_all(FROM_OUT, rows, call); }
HOT void fold_rows(int64_t rows, const Sums *call) { sum_all(FROM_SCALED, rows, call); }

/* S = decay S + k_out u: decay [K] or one number; k_out [K, 64]. */
static void fold(int64_t K, int64_t V, const float *decay, int per_channel, const float *k_out, Matrix u, float *S) {
    Sums sums = {.count = CHUNK, .columns = V, .x = k_out, .x_row = CHUNK, .s = u, .out = S, .out_row = V,
                 .factor = decay, .factor_step = per_channel};
    fold_rows(K, &sums);
}

/* Whole rows of a plain matrix into panels of `height` rows, from row `first` on. */
HOT void put_rows(int64_t rows, int64_t columns, const float *from, int64_t first, int64_t height, float *to) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t w = 0; w < columns; w += LANES)
            store(to + w * height + (first + r) * LANES, load(from + r * columns + w));
}

/* out = a x; out = beta (v - out); out = y + p u, over one row. */
HOT void scaled_row(int64_t count, float a, const float *restrict x, float *restrict out) {
    for (int64_t c = 0; c < count; c++) out[c] = x[c] * a;
}
HOT void missing_row(int64_t count, float beta, const float *restrict v, float *restrict out) {
    for (int64_t w = 0; w < count; w++) out[w] = beta * (v[w] - out[w]);
}

/* The rows of a tile among themselves: reads [2 count, V] hold what earlier tiles gave, of each row's u and its output;
   weights [2 count, CHUNK] begin with the tile's first row. u_i = read - sum_{j<i}, o_i = read + sum_{j<=i}. */
INLINE void solve_strip(const int wide, int count, int64_t V, const float *weights, float *reads, float *o, int64_t o_row) {
    for (int i = 0; i < count; i++) {
        const float *a = weights + 2 * i * CHUNK, *p = a + CHUNK;
        float *own = reads + 2 * i * V;
        vec mine[2], out[2];
#pragma GCC unroll 2
        for (int m = 0; m < wide; m++) mine[m] = load(own + m * LANES), out[m] = load(own + V + m * LANES);
        for (int j = 0; j < i; j++) {
            vec minus = splat(a[j]), plus = splat(p[j]);
#pragma GCC unroll 2
            for (int m = 0; m < wide; m++) {
                vec u = load(reads + 2 * j * V + m * LANES);
                mine[m] = fma_vec(minus, u, mine[m]), out[m] = fma_vec(plus, u, out[m]);
            }
        }
#pragma GCC unroll 2
        for (int m = 0; m < wide; m++) {
            store(own + m * LANES, mine[m]);
            store(o + i * o_row + m * LANES, fma_vec(splat(p[i]), mine[m], out[m]));
        }
    }
}
TAIL void solve_tail(int count, int64_t V, int64_t w, const float *weights, float *reads, float *o, int64_t o_row) {
    for (; w < V; w++)
        for (int i = 0; i < count; i++) {
            const float *a = weights + 2 * i * CHUNK, *p = a + CHUNK;
            float mine = reads[2 * i * V + w], out = reads[(2 * i + 1) * V + w];
            for (int j = 0; j < i; j++) {
                mine = __builtin_fmaf(a[j], reads[2 * j * V + w], mine);
                out = __builtin_fmaf(p[j], reads[2 * j * V + w], out);
            }
            reads[2 * i * V + w] = mine;
            o[i * o_row + w] = __builtin_fmaf(p[i], mine, out);
        }
}
HOT void solve_rows(int count, int64_t V, const float *weights, float *reads, float *o, int64_t o_row) {
    int64_t w = 0;
    for (; w + 2 * LANES <= V; w += 2 * LANES) solve_strip(2, count, V, weights, reads + w, o + w, o_row);
    for (; w + LANES <= V; w += LANES) solve_strip(1, count, V, weights, reads + w, o + w, o_row);
    if (w < V) solve_tail(count, V, w, weights, reads, o, o_row);
}

typedef struct {
    float *anchor, *u, *keys, *decay_rows, *k_scaled;
    double *sums, *block_sum;
    Matrix anchor_read, u_read; /* as they are read now */
    float *u_panels;            /* or 0 */
} State;

/* Rows [place, place + count) of a chunk: reads hold S^T k_in and S^T q_in of each, weights those of earlier rows.
   Their u goes to the chunk's u, their outputs to o, `o_row` apart. Rows before the tile join for all at once. */
static void solve(const State *s, int place, int count, int64_t V, const Room *room, const float *beta, const float *v,
                  int64_t v_row, float *o) {
    for (int i = 0; i < count; i++) missing_row(V, beta[i], v + i * v_row, room->reads + 2 * i * V);
    Sums sums = {.count = place, .columns = V, .x = room->weights, .x_row = CHUNK, .s = s->u_read, .out = room->reads,
                 .out_row = V};
    if (place) add_rows(2 * count, &sums);
    solve_rows(count, V, room->weights + place, room->reads, o, v_row);
    for (int i = 0; i < count; i++) {
        memcpy(s->u + (place + i) * V, room->reads + 2 * i * V, 4 * (size_t)V);
        if (s->u_panels) put_rows(1, V, room->reads + 2 * i * V, place + i, CHUNK, s->u_panels);
    }
}

/* Copy what a chunk's rows read into panels, if they are so many that it pays. */
static void arrange(const Call *call, State *s, const Room *room, int64_t g, int place, int end) {
    int64_t K = call->K, V = call->V;
    s->anchor_read = plain(s->anchor, V), s->u_read = plain(s->u, V), s->u_panels = 0;
    if (end - place < CHUNK / 4 || V % LANES) return;
    float *anchor = room->anchors + g * K * V;
    s->u_panels = room->us + g * CHUNK * V;
    put_rows(K, V, s->anchor, 0, K, anchor);
    put_rows(place, V, s->u, 0, CHUNK, s->u_panels);
    s->anchor_read = panels(anchor, K), s->u_read = panels(s->u_panels, CHUNK);
}

/* What sequence n still has from `row` on, a tile at most. */
static Next next_rows(const Call *call, int64_t n, int64_t row) {
    int64_t left = call->offset[n] + call->length[n] - row;
    return (Next){.rows = left < TILE ? left : TILE};
}

/* gap[j] = end - sums[j] in floats. */
HOT void gaps(int count, double end, const double *restrict sums, float *restrict gap) {
    for (int j = 0; j < count; j++) gap[j] = (float)(end - sums[j]);
}

/* Weights of the earlier rows of a chunk, from gaps and from dots with their keys; `count` is a multiple of 16. */
HOT void weigh(int count, const float *gap, const float *kd, const float *qd, float beta, float *minus_a, float *p) {
    for (int j = 0; j < count; j += LANES) {
        vec decay = exp_vec(load(gap + j));
        store(minus_a + j, negative(multiply(multiply(load(kd + j), decay), splat(beta))));
        store(p + j, multiply(load(qd + j), decay));
    }
}

/* Rows [place, place + count) of one chunk for one value head; kd, qd: dots of those rows with the chunk's keys. */
static void gated_rows(const Call *call, State s, int64_t h, int64_t kh, int64_t row, int place, int count,
                       const float *kd, const float *qd, const Next *next, const Room *room) {
    int64_t K = call->K, V = call->V, H = call->heads, Hk = call->key_heads;
    float beta[TILE];
    for (int i = 0; i < count; i++) {
        int at = place + i;
        int64_t t = row + i;
        s.sums[at] = (at ? s.sums[at - 1] : 0.0) + (double)call->log_decay[t * H + h];
        float since = exp_one((float)s.sums[at]);
        scaled_row(K, since, call->k + (t * Hk + kh) * K, room->x + 2 * i * K);
        scaled_row(K, since, call->q + (t * Hk + kh) * K, room->x + (2 * i + 1) * K);
    }
    Sums reads = {.count = K, .columns = V, .x = room->x, .x_row = K, .s = s.anchor_read, .out = room->reads, .out_row = V,
                  .next = next};
    if (count == 1) fetch_first(place, V, s.u_read);
    product_rows(2 * count, &reads);
    for (int i = 0; i < count; i++) {
        int at = place + i, needed = at / LANES * LANES + LANES;
        beta[i] = call->beta[(row + i) * H + h];
        gaps(at + 1, s.sums[at], s.sums, room->gap);
        for (int j = at + 1; j < needed; j++) room->gap[j] = -1e30f;
        weigh(needed, room->gap, kd + i * CHUNK, qd + i * CHUNK, beta[i], room->weights + 2 * i * CHUNK,
              room->weights + (2 * i + 1) * CHUNK);
    }
    int64_t first = (row * H + h) * V;
    solve(&s, place, count, V, room, beta, call->v + first, H * V, call->o + first);
}

HOT void exp_row(int64_t count, const float *x, float *y) {
    for (int64_t j = 0; j < count; j += LANES) store(y + j, exp_vec(load(x + j)));
}
/* k_out [K, 64] = keys [4, K, 16], each row of the chunk times its factor. */
HOT void decayed_keys(int64_t K, const float *keys, const float *factor, float *k_out) {
    for (int64_t m = 0; m < CHUNK; m += LANES) {
        vec f = load(factor + m);
        for (int64_t c = 0; c < K; c++) store(k_out + c * CHUNK + m, multiply(load(keys + m * K + c * LANES), f));
    }
}

static void gated_fold(const Call *call, State s, const Room *room) {
    float last = exp_one((float)s.sums[CHUNK - 1]);
    gaps(CHUNK, s.sums[CHUNK - 1], s.sums, room->gap);
    exp_row(CHUNK, room->gap, room->gap);
    decayed_keys(call->K, s.keys, room->gap, room->k_out);
    fold(call->K, call->V, &last, 0, room->k_out, s.u_read, s.anchor);
}

static void keep(const Call *call, int64_t item, int64_t h, const State *s, int at_start) {
    int64_t K = call->K, V = call->V;
    if (at_start && call->anchor_items)
        memcpy(call->anchor_items + (item * call->heads + h) * K * V, s->anchor, 4 * (size_t)(K * V));
    if (!at_start && call->u_items)
        memcpy(call->u_items + (item * call->heads + h) * CHUNK * V, s->u, 4 * (size_t)(CHUNK * V));
}

/* The state before a sequence's first row, for a call without a cache. */
static void begin(const Call *call, int64_t n, int64_t h, float *anchor) {
    int64_t size = call->K * call->V;
    if (call->first) memcpy(anchor, call->first + (n * call->heads + h) * size, 4 * (size_t)size);
}

static void finish(const Call *call, int64_t n, int64_t h, const float *anchor) {
    int64_t size = call->K * call->V;
    memcpy(call->final + (n * call->heads + h) * size, anchor, 4 * (size_t)size);
}

/* Channel c of the key of row j of a chunk: keys are panels of 16 rows, [4, K, 16], so that a row's own stay together. */
INLINE float *key_at(float *keys, int64_t K, int j, int64_t c) {
    return keys + (j / LANES * K + c) * LANES + j % LANES;
}

/* Fold a chunk of which only `end` rows came: the others neither decay nor write. */
static void gated_fold_open(const Call *call, State s, int end, const Room *room) {
    for (int j = end; j < CHUNK; j++) s.sums[j] = s.sums[end - 1];
    for (int j = end; j < CHUNK; j++)
        for (int64_t c = 0; c < call->K; c++) *key_at(s.keys, call->K, j, c) = 0.0f;
    memset(s.u + end * call->V, 0, 4 * (size_t)((CHUNK - end) * call->V));
    s.u_read = plain(s.u, call->V);
    gated_fold(call, s, room);
}

/* Dots of the keys and queries of a tile's rows with all keys of the chunk so far; those of later rows are not used. */
static void gated_dots(const Call *call, int64_t kh, int64_t row, int place, int count, float *keys, const Room *room) {
    if (count == 1) fetch_first(call->K, place + 1, panels(keys, call->K));
    int64_t K = call->K, step = call->key_heads * K, first = row * step + kh * K;
    for (int i = 0; i < count; i++) {
        const float *k = call->k + first + i * step, *q = call->q + first + i * step;
        float *own = key_at(keys, K, place + i, 0);
        for (int64_t c = 0; c < K; c++) own[c * LANES] = k[c];
        memcpy(room->x + i * K, k, 4 * (size_t)K);
        memcpy(room->x + (count + i) * K, q, 4 * (size_t)K);
    }
    Sums dots = {.count = K, .columns = (place + count + LANES - 1) / LANES * LANES, .x = room->x, .x_row = K,
                 .s = panels(keys, K), .out = room->dots, .out_row = CHUNK};
    product_rows(2 * count, &dots);
}

/* One key head of one sequence, all its value heads. */
static void gated_head(const Call *call, int64_t n, int64_t kh, const Room *room) {
    int64_t K = call->K, V = call->V, H = call->heads, Hk = call->key_heads, group = H / Hk;
    int64_t size = 2 * CHUNK + whole(K * V) + CHUNK * V;
    State s[group];
    for (int64_t g = 0; g < group; g++) {
        int64_t h = kh * group + g;
        if (call->anchor) {
            int64_t slot = call->slot[n];
            s[g] = (State){.anchor = call->anchor + (slot * H + h) * K * V, .u = call->u + (slot * H + h) * CHUNK * V,
                           .keys = call->keys + (slot * Hk + kh) * K * CHUNK, .sums = call->sums + (slot * H + h) * CHUNK};
        } else {
            float *base = room->own + K * CHUNK + g * size;
            s[g] = (State){.sums = (double *)base, .anchor = base + 2 * CHUNK, .u = base + 2 * CHUNK + whole(K * V),
                           .keys = room->own};
            memset(base, 0, 4 * (size_t)size);
            begin(call, n, h, s[g].anchor);
        }
    }
    if (!call->anchor) memset(room->own, 0, 4 * (size_t)(K * CHUNK));
    int64_t done = 0, chunk = 0;
    while (done < call->length[n]) {
        int place = (int)((call->start[n] + done) % CHUNK);
        int64_t left = call->length[n] - done;
        int end = left < CHUNK - place ? place + (int)left : CHUNK;
        int64_t item = call->items ? call->items[call->first_item[n] + chunk++] : 0;
        for (int64_t g = 0; g < group; g++) {
            keep(call, item, kh * group + g, s + g, 1);
            arrange(call, s + g, room, g, place, end);
        }
        for (int at = place; at < end; at += TILE) {
            int count = end - at < TILE ? end - at : TILE;
            int64_t row = call->offset[n] + done + at - place;
            Next next = next_rows(call, n, row + count);
            add_next(&next, call->k + ((row + count) * Hk + kh) * K, Hk * K, K);
            add_next(&next, call->q + ((row + count) * Hk + kh) * K, Hk * K, K);
            add_next(&next, call->v + ((row + count) * H + kh * group) * V, H * V, group * V);
            add_next(&next, call->o + ((row + count) * H + kh * group) * V, H * V, group * V);
            gated_dots(call, kh, row, at, count, s[0].keys, room);
            for (int64_t g = 0; g < group; g++)
                gated_rows(call, s[g], kh * group + g, kh, row, at, count, room->dots, room->dots + count * CHUNK,
                           g ? 0 : &next, room);
        }
        for (int64_t g = 0; g < group; g++) {
            keep(call, item, kh * group + g, s + g, 0);
            if (end == CHUNK) gated_fold(call, s[g], room);
        }
        if (call->u_items && end < CHUNK)
            for (int64_t g = 0; g < group; g++)
                memset(call->u_items + ((item * H + kh * group + g) * CHUNK + end) * V, 0, 4 * (size_t)((CHUNK - end) * V));
        done += end - place;
    }
    if (call->anchor || !call->final) return;
    int end = (int)((call->start[n] + done) % CHUNK);
    for (int64_t g = 0; g < group; g++) {
        if (end) gated_fold_open(call, s[g], end, room);
        finish(call, n, kh * group + g, s[g].anchor);
    }
}

/* A key and its query. */
INLINE void decayed_at(int64_t c, int left, const double *run, const float *k, const float *q, float *kx, float *qx) {
    vec w = exp_vec(from_doubles(run + c));
    store_row(kx, c, left, 0, multiply(load_row(k, c, left, 0), w));
    store_row(qx, c, left, 0, multiply(load_row(q, c, left, 0), w));
}
HOT void decayed_pair(int64_t K, const double *run, const float *k, const float *q, float *kx, float *qx) {
#define BODY(c, left) decayed_at(c, left, run, k, q, kx, qx)
    ALONG_ROW(K, BODY)
#undef BODY
}

/* Dots of a key and a query with an earlier key that has decayed by e^run since; with itself where run is 0. */
INLINE void pair_at(const int has_decay, int64_t c, int left, const double *run, const float *other, const float *k,
                    const float *q, vec *a, vec *b) {
    vec w = load_row(other, c, left, 0);
    if (has_decay) w = multiply(w, exp_vec(from_doubles(run + c)));
    *a = fma_vec(w, load_row(k, c, left, 0), *a);
    *b = fma_vec(w, load_row(q, c, left, 0), *b);
}
INLINE void pair_in(const int has_decay, int64_t K, const double *run, const float *other, const float *k, const float *q,
                    float *dots) {
    vec a = splat(0.0f), b = splat(0.0f);
    int64_t c = 0;
    for (; c + LANES <= K; c += LANES) pair_at(has_decay, c, LANES, run, other, k, q, &a, &b);
    if (c < K) pair_at(has_decay, c, (int)(K - c), run, other, k, q, &a, &b);
    dots[0] = sum_vec(a), dots[1] = sum_vec(b);
}
HOT void pair_dots(int64_t K, const double *run, const float *other, const float *k, const float *q, float *dots) {
    if (run) pair_in(1, K, run, other, k, q, dots);
    else pair_in(0, K, run, other, k, q, dots);
}

HOT void minus_times(int count, float beta, float *x) {
    for (int j = 0; j < count; j += LANES) store(x + j, negative(multiply(load(x + j), splat(beta))));
}

/* A full block's keys, decayed once to its end, and its sum of log decays. */
static void kda_close_block(const Call *call, State s, int block, const Room *room) {
    int64_t K = call->K;
    memset(room->run, 0, 8 * (size_t)whole(K));
    for (int j = BLOCK - 1; j >= 0; j--) {
        decayed_row(K, room->run, s.keys + j * K, room->x);
        for (int64_t c = 0; c < K; c++) s.k_scaled[(block * K + c) * BLOCK + j] = room->x[c];
        add_decays(K, s.decay_rows + j * K, room->run);
    }
    memcpy(s.block_sum + block * K, room->run, 8 * (size_t)K);
}

/* KDA: rows [at, at + count) of one block of 16 of head h. */
static void kda_rows(const Call *call, State s, int64_t h, int64_t row, int place, int count, const Next *next,
                     const Room *room) {
    int64_t K = call->K, V = call->V, H = call->heads, padded = whole(K);
    int block = place / BLOCK;
    const float *k = call->k + (row * H + h) * K, *q = call->q + (row * H + h) * K;
    const float *decay = call->log_decay + (row * H + h) * K;
    float beta[TILE];
    memset(room->run, 0, 8 * (size_t)(count * padded));
    /* The own block, from each row backwards: every pair its own exponential. */
    for (int i = 0; i < count; i++) {
        int in_block = (place + i) % BLOCK;
        double *run = room->run + i * padded;
        float *minus_a = room->weights + 2 * i * CHUNK + block * BLOCK, dots[2];
        beta[i] = call->beta[(row + i) * H + h];
        memcpy(s.keys + in_block * K, k + i * H * K, 4 * (size_t)K);
        memcpy(s.decay_rows + in_block * K, decay + i * H * K, 4 * (size_t)K);
        for (int j = in_block; j >= 0; j--) {
            pair_dots(K, j < in_block ? run : 0, s.keys + j * K, k + i * H * K, q + i * H * K, dots);
            minus_a[j] = -(dots[0] * beta[i]);
            minus_a[CHUNK + j] = dots[1];
            add_decays(K, s.decay_rows + j * K, run);
        }
    }
    /* Earlier blocks, nearest first, then the anchor: run is the log decay since that block's end. */
    for (int earlier = block - 1; earlier >= -1; earlier--) {
        for (int i = 0; i < count; i++)
            decayed_pair(K, room->run + i * padded, k + i * H * K, q + i * H * K, room->x + 2 * i * K,
                         room->x + (2 * i + 1) * K);
        if (earlier < 0) break;
        float *weights = room->weights + earlier * BLOCK;
        Sums dots = {.count = K, .columns = BLOCK, .x = room->x, .x_row = K,
                     .s = plain(s.k_scaled + earlier * K * BLOCK, BLOCK), .out = weights, .out_row = CHUNK};
        product_rows(2 * count, &dots);
        for (int i = 0; i < count; i++) {
            minus_times(BLOCK, beta[i], weights + 2 * i * CHUNK);
            add_sums(K, s.block_sum + earlier * K, room->run + i * padded);
        }
    }
    Sums reads = {.count = K, .columns = V, .x = room->x, .x_row = K, .s = s.anchor_read, .out = room->reads, .out_row = V,
                  .next = next};
    product_rows(2 * count, &reads);
    int64_t first = (row * H + h) * V;
    solve(&s, place, count, V, room, beta, call->v + first, H * V, call->o + first);
    if ((place + count) % BLOCK == 0) kda_close_block(call, s, block, room);
}

static void kda_fold(const Call *call, State s, const Room *room) {
    int64_t K = call->K;
    memset(room->run, 0, 8 * (size_t)whole(K));
    for (int b = CHUNK / BLOCK - 1; b >= 0; b--) {
        exp_of_sums(K, room->run, room->decay);
        scaled_columns(K, room->decay, s.k_scaled + b * K * BLOCK, room->k_out + b * BLOCK);
        add_sums(K, s.block_sum + b * K, room->run);
    }
    exp_of_sums(K, room->run, room->decay);
    fold(K, call->V, room->decay, 1, room->k_out, s.u_read, s.anchor);
}

/* Fold a chunk of which only `end` rows came: the others neither decay nor write. */
static void kda_fold_open(const Call *call, State s, int end, const Room *room) {
    int64_t K = call->K;
    int block = (end - 1) / BLOCK, rest = end % BLOCK, after = block + 1;
    if (rest) {
        memset(s.keys + rest * K, 0, 4 * (size_t)((BLOCK - rest) * K));
        memset(s.decay_rows + rest * K, 0, 4 * (size_t)((BLOCK - rest) * K));
        kda_close_block(call, s, block, room);
    }
    memset(s.k_scaled + after * K * BLOCK, 0, 4 * (size_t)((CHUNK / BLOCK - after) * K * BLOCK));
    memset(s.block_sum + after * K, 0, 8 * (size_t)((CHUNK / BLOCK - after) * K));
    memset(s.u + end * call->V, 0, 4 * (size_t)((CHUNK - end) * call->V));
    s.u_read = plain(s.u, call->V);
    kda_fold(call, s, room);
}

static void kda_head(const Call *call, int64_t n, int64_t h, const Room *room) {
    int64_t K = call->K, V = call->V, H = call->heads;
    State s;
    if (call->anchor) {
        int64_t at = call->slot[n] * H + h;
        s = (State){.anchor = call->anchor + at * K * V, .u = call->u + at * CHUNK * V, .keys = call->keys + at * BLOCK * K,
                    .decay_rows = call->decay_rows + at * BLOCK * K, .k_scaled = call->k_scaled + at * CHUNK * K,
                    .block_sum = call->block_sum + at * (CHUNK / BLOCK) * K};
    } else {
        int64_t doubles = whole(2 * (CHUNK / BLOCK) * K);
        int64_t size = doubles + whole(K * V) + CHUNK * V + 2 * BLOCK * K + CHUNK * K;
        memset(room->own, 0, 4 * (size_t)size);
        s = (State){.block_sum = (double *)room->own, .anchor = room->own + doubles};
        s.u = s.anchor + whole(K * V), s.keys = s.u + CHUNK * V, s.decay_rows = s.keys + BLOCK * K;
        s.k_scaled = s.decay_rows + BLOCK * K;
        begin(call, n, h, s.anchor);
    }
    int64_t done = 0, chunk = 0;
    while (done < call->length[n]) {
        int place = (int)((call->start[n] + done) % CHUNK);
        int64_t left = call->length[n] - done;
        int end = left < CHUNK - place ? place + (int)left : CHUNK;
        int64_t item = call->items ? call->items[call->first_item[n] + chunk++] : 0;
        keep(call, item, h, &s, 1);
        arrange(call, &s, room, 0, place, end);
        for (int at = place; at < end;) {
            int stop = (at / TILE + 1) * TILE < end ? (at / TILE + 1) * TILE : end; /* tiles stay inside blocks */
            int64_t row = call->offset[n] + done + at - place, after = row + stop - at;
            Next next = next_rows(call, n, after);
            add_next(&next, call->k + (after * H + h) * K, H * K, K);
            add_next(&next, call->q + (after * H + h) * K, H * K, K);
            add_next(&next, call->log_decay + (after * H + h) * K, H * K, K);
            add_next(&next, call->v + (after * H + h) * V, H * V, V);
            add_next(&next, call->o + (after * H + h) * V, H * V, V);
            kda_rows(call, s, h, row, at, stop - at, &next, room);
            at = stop;
        }
        keep(call, item, h, &s, 0);
        if (call->u_items && end < CHUNK)
            memset(call->u_items + ((item * H + h) * CHUNK + end) * V, 0, 4 * (size_t)((CHUNK - end) * V));
        if (end == CHUNK) kda_fold(call, s, room);
        done += end - place;
    }
    if (call->anchor || !call->final) return;
    int end = (int)((call->start[n] + done) % CHUNK);
    if (end) kda_fold_open(call, s, end, room);
    finish(call, n, h, s.anchor);
}

typedef struct {
    const Call *call;
    int64_t units; /* heads, or groups of them, of each sequence */
    atomic_int failed;
} Turns;

static void take_units(void *context, int64_t first, int64_t last, int64_t worker) {
    Turns *turns = context;
    const Call *call = turns->call;
    float *memory = team_memory(4 * (size_t)lay_out(call, 0, 0));
    if (!memory) {
        turns->failed = 1;
        return;
    }
    Room room;
    lay_out(call, memory, &room);
    for (int64_t i = first; i < last; i++) {
        if (call->per_channel) kda_head(call, i / turns->units, i % turns->units, &room);
        else gated_head(call, i / turns->units, i % turns->units, &room);
    }
}

/* Returns 0, or 1 when memory is short. */
int hyla_delta(const Call *call) {
    Turns turns = {.call = call, .units = call->per_channel ? call->heads : call->key_heads};
    int64_t rows = 0, all = call->sequences * turns.units;
    for (int64_t n = 0; n < call->sequences; n++) rows += call->length[n];
    team_ranges(all, all * SMALL / (1 + rows * call->heads * call->K * call->V), take_units, &turns);
    return turns.failed;
}
