/* The delta rules on the 64-row grid: every row is computed once, by the same code, however it arrives.

   Row r of a chunk, with S the anchor and decays as ops/chunks/delta_chain.py defines them:
       u_r = beta_r (v_r - S^T k_in_r) - sum_{j<r} A_rj u_j        o_r = S^T q_in_r + sum_{j<=r} P_rj u_j
   Sums over channels and over earlier rows go upwards, one fused multiply-add each, and are vectors over the value
   dimension: a row's bits depend neither on how many rows come together nor on the width of the hardware's vectors. */
#include <stdlib.h>

#include "vector.h"

#define CHUNK 64
#define BLOCK 16
#define TILE 8 /* rows that read the anchor together */

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
} Call;

/* out[i, :] = sum_c x[i, c] S[c, :], S [K, V], for `rows` rows of x; the loop over c goes upwards for every element. */
static void multiply(int rows, int64_t K, int64_t V, const float *x, const float *S, float *out) {
    int64_t w = 0;
    /* Two rows (a decoded token's key and query): S is read once, in order, as memory likes it. */
    for (; rows == 2 && w + 8 * LANES <= V; w += 8 * LANES) {
        vec a[8] = {{0}}, b[8] = {{0}};
        for (int64_t c = 0; c < K; c++) {
            vec y = splat(x[c]), z = splat(x[K + c]);
#pragma GCC unroll 8
            for (int m = 0; m < 8; m++) {
                vec s = load(S + c * V + w + m * LANES);
                a[m] = fma_vec(y, s, a[m]);
                b[m] = fma_vec(z, s, b[m]);
            }
        }
#pragma GCC unroll 8
        for (int m = 0; m < 8; m++) store(out + w + m * LANES, a[m]), store(out + V + w + m * LANES, b[m]);
    }
    for (; w + 2 * LANES <= V; w += 2 * LANES) {
        int i = 0;
        for (; i + 4 <= rows; i += 4) {
            vec a[4] = {{0}}, b[4] = {{0}};
            for (int64_t c = 0; c < K; c++) {
                vec s = load(S + c * V + w), t = load(S + c * V + w + LANES);
                for (int m = 0; m < 4; m++) {
                    vec y = splat(x[(i + m) * K + c]);
                    a[m] = fma_vec(y, s, a[m]);
                    b[m] = fma_vec(y, t, b[m]);
                }
            }
            for (int m = 0; m < 4; m++) store(out + (i + m) * V + w, a[m]), store(out + (i + m) * V + w + LANES, b[m]);
        }
        for (; i < rows; i++) {
            vec a = {0}, b = {0};
            for (int64_t c = 0; c < K; c++) {
                vec y = splat(x[i * K + c]);
                a = fma_vec(y, load(S + c * V + w), a);
                b = fma_vec(y, load(S + c * V + w + LANES), b);
            }
            store(out + i * V + w, a), store(out + i * V + w + LANES, b);
        }
    }
    for (; w < V; w++)
        for (int i = 0; i < rows; i++) {
            float a = 0;
            for (int64_t c = 0; c < K; c++) a = __builtin_fmaf(x[i * K + c], S[c * V + w], a);
            out[i * V + w] = a;
        }
}

/* y[:] += sum_{j < count} weight[j] u[j, :], upwards. */
static void add_rows(int count, int64_t V, const float *weight, const float *u, float *y) {
    int64_t w = 0;
    for (; w + 4 * LANES <= V; w += 4 * LANES) {
        vec a = load(y + w), b = load(y + w + LANES), c = load(y + w + 2 * LANES), d = load(y + w + 3 * LANES);
        for (int j = 0; j < count; j++) {
            vec x = splat(weight[j]);
            const float *row = u + j * V + w;
            a = fma_vec(x, load(row), a), b = fma_vec(x, load(row + LANES), b);
            c = fma_vec(x, load(row + 2 * LANES), c), d = fma_vec(x, load(row + 3 * LANES), d);
        }
        store(y + w, a), store(y + w + LANES, b), store(y + w + 2 * LANES, c), store(y + w + 3 * LANES, d);
    }
    for (; w + LANES <= V; w += LANES) {
        vec a = load(y + w);
        for (int j = 0; j < count; j++) a = fma_vec(splat(weight[j]), load(u + j * V + w), a);
        store(y + w, a);
    }
    for (; w < V; w++)
        for (int j = 0; j < count; j++) y[w] = __builtin_fmaf(weight[j], u[j * V + w], y[w]);
}

/* S = decay S + k_out u: decay [K] or one number; k_out [K, 64]. */
static void fold(int64_t K, int64_t V, const float *decay, int per_channel, const float *k_out, const float *u, float *S) {
    for (int64_t c = 0; c < K; c++) {
        float *row = S + c * V;
        float factor = decay[per_channel ? c : 0];
        for (int64_t w = 0; w < V; w++) row[w] *= factor;
        add_rows(CHUNK, V, k_out + c * CHUNK, u, row);
    }
}

/* Solve and output one row: reads[0..V) is S^T k_in, reads[V..2V) S^T q_in. */
static void solve_row(int place, int64_t V, float beta, const float *v, const float *reads, const float *minus_a,
                      const float *p, float *u, float *o) {
    float *mine = u + place * V;
    for (int64_t w = 0; w < V; w++) mine[w] = beta * (v[w] - reads[w]);
    add_rows(place, V, minus_a, u, mine);
    memcpy(o, reads + V, 4 * (size_t)V);
    add_rows(place + 1, V, p, u, o);
}

typedef struct {
    float *anchor, *u, *keys, *decay_rows, *k_scaled;
    double *sums, *block_sum;
} State;


/* Rows [first, last) of one chunk for one value head; kd, qd: dots of those rows with the chunk's keys. */
static void gated_rows(const Call *call, State s, int64_t h, int64_t kh, int64_t row, int place, int count,
                       const float *kd, const float *qd, float *room) {
    int64_t K = call->K, V = call->V, H = call->heads, Hk = call->key_heads;
    float *x = room, *reads = x + 2 * TILE * K;
    for (int i = 0; i < count; i++) {
        int at = place + i;
        int64_t t = row + i;
        s.sums[at] = (at ? s.sums[at - 1] : 0.0) + (double)call->log_decay[t * H + h];
        float since = exp_one((float)s.sums[at]);
        const float *k = call->k + (t * Hk + kh) * K, *q = call->q + (t * Hk + kh) * K;
        for (int64_t c = 0; c < K; c++) {
            x[(2 * i) * K + c] = k[c] * since;
            x[(2 * i + 1) * K + c] = q[c] * since;
        }
    }
    multiply(2 * count, K, V, x, s.anchor, reads);
    for (int i = 0; i < count; i++) {
        int at = place + i;
        int64_t t = row + i;
        float beta = call->beta[t * H + h], minus_a[CHUNK], p[CHUNK], gap[CHUNK];
        for (int j = 0; j < CHUNK; j++) gap[j] = j <= at ? (float)(s.sums[at] - s.sums[j]) : -1e30f;
        for (int j = 0; j < CHUNK; j += LANES) {
            vec decay = exp_vec(load(gap + j));
            store(minus_a + j, -(load(kd + i * CHUNK + j) * decay * beta));
            store(p + j, load(qd + i * CHUNK + j) * decay);
        }
        solve_row(at, V, beta, call->v + (t * H + h) * V, reads + 2 * i * V, minus_a, p, s.u, call->o + (t * H + h) * V);
    }
}

static void gated_fold(const Call *call, State s, float *k_out) {
    float last = exp_one((float)s.sums[CHUNK - 1]), gap[CHUNK], to_end[CHUNK];
    for (int j = 0; j < CHUNK; j++) gap[j] = (float)(s.sums[CHUNK - 1] - s.sums[j]);
    for (int j = 0; j < CHUNK; j += LANES) store(to_end + j, exp_vec(load(gap + j)));
    for (int64_t c = 0; c < call->K; c++)
        for (int j = 0; j < CHUNK; j++) k_out[c * CHUNK + j] = s.keys[c * CHUNK + j] * to_end[j];
    fold(call->K, call->V, &last, 0, k_out, s.u, s.anchor);
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

/* Fold a chunk of which only `end` rows came: the others neither decay nor write. */
static void gated_fold_open(const Call *call, State s, int end, float *k_out) {
    for (int j = end; j < CHUNK; j++) s.sums[j] = s.sums[end - 1];
    for (int64_t c = 0; c < call->K; c++) memset(s.keys + c * CHUNK + end, 0, 4 * (size_t)(CHUNK - end));
    memset(s.u + end * call->V, 0, 4 * (size_t)((CHUNK - end) * call->V));
    gated_fold(call, s, k_out);
}

/* One key head of one sequence, all its value heads. */
static void gated_head(const Call *call, int64_t n, int64_t kh, float *room) {
    int64_t K = call->K, V = call->V, H = call->heads, Hk = call->key_heads, group = H / Hk;
    float *kd = room, *k_out = kd + 2 * TILE * CHUNK, *rest = k_out + K * CHUNK;
    float *own = rest + 2 * TILE * (K + V); /* states of a call without a cache */
    int64_t size = (K * V + CHUNK * V + 2 * CHUNK + 1) / 2 * 2; /* keeps doubles aligned */
    State s[group];
    for (int64_t g = 0; g < group; g++) {
        int64_t h = kh * group + g;
        if (call->anchor) {
            int64_t slot = call->slot[n];
            s[g] = (State){.anchor = call->anchor + (slot * H + h) * K * V, .u = call->u + (slot * H + h) * CHUNK * V,
                           .keys = call->keys + (slot * Hk + kh) * K * CHUNK, .sums = call->sums + (slot * H + h) * CHUNK};
        } else {
            float *base = own + K * CHUNK + g * size;
            s[g] = (State){.sums = (double *)base, .anchor = base + 2 * CHUNK, .u = base + 2 * CHUNK + K * V, .keys = own};
            memset(base, 0, 4 * (size_t)size);
            begin(call, n, h, s[g].anchor);
        }
    }
    if (!call->anchor) memset(own, 0, 4 * (size_t)(K * CHUNK));
    int64_t done = 0, chunk = 0;
    while (done < call->length[n]) {
        int place = (int)((call->start[n] + done) % CHUNK);
        int64_t left = call->length[n] - done;
        int end = left < CHUNK - place ? place + (int)left : CHUNK;
        int64_t item = call->items ? call->items[call->first_item[n] + chunk++] : 0;
        for (int64_t g = 0; g < group; g++) keep(call, item, kh * group + g, s + g, 1);
        for (int at = place; at < end; at += TILE) {
            int count = end - at < TILE ? end - at : TILE;
            int64_t row = call->offset[n] + done + at - place;
            for (int i = 0; i < count; i++) {
                const float *k = call->k + ((row + i) * Hk + kh) * K;
                for (int64_t c = 0; c < K; c++) s[0].keys[c * CHUNK + at + i] = k[c];
            }
            /* Dots with all 64 places of the chunk; those of later rows are not used. */
            for (int i = 0; i < count; i++) {
                memcpy(rest + i * K, call->k + ((row + i) * Hk + kh) * K, 4 * (size_t)K);
                memcpy(rest + (count + i) * K, call->q + ((row + i) * Hk + kh) * K, 4 * (size_t)K);
            }
            multiply(2 * count, K, CHUNK, rest, s[0].keys, kd);
            const float *qd = kd + count * CHUNK;
            for (int64_t g = 0; g < group; g++)
                gated_rows(call, s[g], kh * group + g, kh, row, at, count, kd, qd, rest);
        }
        for (int64_t g = 0; g < group; g++) {
            keep(call, item, kh * group + g, s + g, 0);
            if (end == CHUNK) gated_fold(call, s[g], k_out);
        }
        if (call->u_items && end < CHUNK)
            for (int64_t g = 0; g < group; g++)
                memset(call->u_items + ((item * H + kh * group + g) * CHUNK + end) * V, 0, 4 * (size_t)((CHUNK - end) * V));
        done += end - place;
    }
    if (call->anchor || !call->final) return;
    int end = (int)((call->start[n] + done) % CHUNK);
    for (int64_t g = 0; g < group; g++) {
        if (end) gated_fold_open(call, s[g], end, k_out);
        finish(call, n, kh * group + g, s[g].anchor);
    }
}

/* A full block's keys, decayed once to its end, and its sum of log decays. */
static void kda_close_block(const Call *call, State s, int block) {
    int64_t K = call->K;
    for (int64_t c = 0; c < K; c++) {
        double sum = 0.0;
        float gap[BLOCK];
        for (int j = BLOCK - 1; j >= 0; j--) {
            gap[j] = (float)sum;
            sum += (double)s.decay_rows[j * K + c];
        }
        s.block_sum[block * K + c] = sum;
        vec w = exp_vec(load(gap));
        for (int j = 0; j < BLOCK; j++) s.k_scaled[(block * K + c) * BLOCK + j] = w[j] * s.keys[j * K + c];
    }
}

/* KDA: rows [at, at + count) of one block of 16 of head h. */
static void kda_rows(const Call *call, State s, int64_t h, int64_t row, int place, int count, float *room) {
    int64_t K = call->K, V = call->V, H = call->heads;
    int block = place / BLOCK;
    float *x = room, *reads = x + 2 * TILE * K;
    float minus_a[TILE][CHUNK], p[TILE][CHUNK];
    float kx[K], qx[K];
    double run[K];
    for (int i = 0; i < count; i++) {
        int in_block = (place + i) % BLOCK;
        int64_t t = row + i;
        const float *k = call->k + (t * H + h) * K, *q = call->q + (t * H + h) * K;
        float beta = call->beta[t * H + h];
        memcpy(s.keys + in_block * K, k, 4 * (size_t)K);
        memcpy(s.decay_rows + in_block * K, call->log_decay + (t * H + h) * K, 4 * (size_t)K);
        /* The own block, from this row backwards: every pair its own exponential. */
        for (int64_t c = 0; c < K; c++) run[c] = 0.0;
        for (int j = in_block; j >= 0; j--) {
            const float *other = s.keys + j * K;
            vec a = {0}, b = {0};
            for (int64_t c = 0; c < K; c += LANES) {
                int some = K - c < LANES ? (int)(K - c) : LANES;
                vec w = load_row(other, c, some, 0);
                if (j < in_block) {
                    float sum[LANES] = {0};
                    for (int m = 0; m < some; m++) sum[m] = (float)run[c + m];
                    w *= exp_vec(load(sum));
                }
                a = fma_vec(w, load_row(k, c, some, 0), a);
                b = fma_vec(w, load_row(q, c, some, 0), b);
            }
            minus_a[i][block * BLOCK + j] = -(sum_vec(a) * beta);
            p[i][block * BLOCK + j] = sum_vec(b);
            for (int64_t c = 0; c < K; c++) run[c] += (double)s.decay_rows[j * K + c];
        }
        /* Earlier blocks, nearest first, then the anchor: run is the log decay since that block's end. */
        for (int earlier = block - 1; earlier >= -1; earlier--) {
            for (int64_t c = 0; c < K; c += LANES) {
                int some = K - c < LANES ? (int)(K - c) : LANES;
                float sum[LANES] = {0};
                for (int m = 0; m < some; m++) sum[m] = (float)run[c + m];
                vec w = exp_vec(load(sum));
                store_row(earlier < 0 ? x + 2 * i * K : kx, c, some, 0, load_row(k, c, some, 0) * w);
                store_row(earlier < 0 ? x + (2 * i + 1) * K : qx, c, some, 0, load_row(q, c, some, 0) * w);
            }
            if (earlier < 0) break;
            const float *scaled = s.k_scaled + earlier * K * BLOCK;
            vec a = {0}, b = {0};
            for (int64_t c = 0; c < K; c++) {
                vec other = load(scaled + c * BLOCK);
                a = fma_vec(splat(kx[c]), other, a);
                b = fma_vec(splat(qx[c]), other, b);
            }
            store(minus_a[i] + earlier * BLOCK, -(a * beta));
            store(p[i] + earlier * BLOCK, b);
            for (int64_t c = 0; c < K; c++) run[c] += s.block_sum[earlier * K + c];
        }
    }
    multiply(2 * count, K, V, x, s.anchor, reads);
    for (int i = 0; i < count; i++) {
        int64_t t = row + i;
        solve_row(place + i, V, call->beta[t * H + h], call->v + (t * H + h) * V, reads + 2 * i * V, minus_a[i], p[i], s.u,
                  call->o + (t * H + h) * V);
    }
    if ((place + count) % BLOCK == 0) kda_close_block(call, s, block);
}

static void kda_fold(const Call *call, State s, float *k_out, float *decay) {
    int64_t K = call->K;
    for (int64_t c = 0; c < K; c++) {
        double sum = 0.0;
        for (int b = CHUNK / BLOCK - 1; b >= 0; b--) {
            vec w = splat(exp_one((float)sum)) * load(s.k_scaled + (b * K + c) * BLOCK);
            store(k_out + c * CHUNK + b * BLOCK, w);
            sum += s.block_sum[b * K + c];
        }
        decay[c] = exp_one((float)sum);
    }
    fold(K, call->V, decay, 1, k_out, s.u, s.anchor);
}

/* Fold a chunk of which only `end` rows came: the others neither decay nor write. */
static void kda_fold_open(const Call *call, State s, int end, float *k_out, float *decay) {
    int64_t K = call->K;
    int block = (end - 1) / BLOCK, rest = end % BLOCK, after = block + 1;
    if (rest) {
        memset(s.keys + rest * K, 0, 4 * (size_t)((BLOCK - rest) * K));
        memset(s.decay_rows + rest * K, 0, 4 * (size_t)((BLOCK - rest) * K));
        kda_close_block(call, s, block);
    }
    memset(s.k_scaled + after * K * BLOCK, 0, 4 * (size_t)((CHUNK / BLOCK - after) * K * BLOCK));
    memset(s.block_sum + after * K, 0, 8 * (size_t)((CHUNK / BLOCK - after) * K));
    memset(s.u + end * call->V, 0, 4 * (size_t)((CHUNK - end) * call->V));
    kda_fold(call, s, k_out, decay);
}

static void kda_head(const Call *call, int64_t n, int64_t h, float *room) {
    int64_t K = call->K, V = call->V, H = call->heads;
    float *k_out = room, *decay = k_out + K * CHUNK, *rest = decay + K, *own = rest + 2 * TILE * (K + V);
    State s;
    if (call->anchor) {
        int64_t at = call->slot[n] * H + h;
        s = (State){.anchor = call->anchor + at * K * V, .u = call->u + at * CHUNK * V, .keys = call->keys + at * BLOCK * K,
                    .decay_rows = call->decay_rows + at * BLOCK * K, .k_scaled = call->k_scaled + at * CHUNK * K,
                    .block_sum = call->block_sum + at * (CHUNK / BLOCK) * K};
    } else {
        int64_t doubles = 2 * (CHUNK / BLOCK) * K, size = doubles + K * V + CHUNK * V + 2 * BLOCK * K + CHUNK * K;
        own += (uintptr_t)own % 8 ? 1 : 0;
        memset(own, 0, 4 * (size_t)size);
        s = (State){.block_sum = (double *)own, .anchor = own + doubles};
        s.u = s.anchor + K * V, s.keys = s.u + CHUNK * V, s.decay_rows = s.keys + BLOCK * K;
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
        for (int at = place; at < end;) {
            int stop = (at / TILE + 1) * TILE < end ? (at / TILE + 1) * TILE : end; /* tiles stay inside blocks */
            kda_rows(call, s, h, call->offset[n] + done + at - place, at, stop - at, rest);
            at = stop;
        }
        keep(call, item, h, &s, 0);
        if (call->u_items && end < CHUNK)
            memset(call->u_items + ((item * H + h) * CHUNK + end) * V, 0, 4 * (size_t)((CHUNK - end) * V));
        if (end == CHUNK) kda_fold(call, s, k_out, decay);
        done += end - place;
    }
    if (call->anchor || !call->final) return;
    int end = (int)((call->start[n] + done) % CHUNK);
    if (end) kda_fold_open(call, s, end, k_out, decay);
    finish(call, n, h, s.anchor);
}

/* Returns 0, or 1 when memory is short. */
int hyla_delta(const Call *call, int per_channel) {
    int64_t group = call->heads / call->key_heads, units = per_channel ? call->heads : call->key_heads;
    int64_t K = call->K, V = call->V;
    size_t floats = (size_t)(2 * TILE * CHUNK + K * CHUNK + K + 2 * TILE * (K + V) + K * CHUNK + 8 +
                             group * (K * V + CHUNK * V + 2 * CHUNK + 1) + 8 * K + 2 * BLOCK * K + CHUNK * K);
    int failed = 0;
#pragma omp parallel if (call->sequences * units > 1)
    {
        float *room = malloc(4 * floats + 64);
        if (!room) failed = 1;
#pragma omp for schedule(dynamic)
        for (int64_t i = 0; i < call->sequences * units; i++) {
            if (!room) continue;
            if (per_channel) kda_head(call, i / units, i % units, room);
            else gated_head(call, i / units, i % units, room);
        }
        free(room);
    }
    return failed;
}
