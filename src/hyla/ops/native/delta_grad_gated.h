/* Part of delta_grad.c: what the gated delta rule measures inside a chunk, and its gradients. */

/* Queries and keys of the chunk, their dots with its keys, and no gradient yet. */
static void gated_measure_keys(const Call *call, const Room *room, const Chunk *chunk, int64_t kh) {
    int64_t K = call->K, step = call->key_heads * K, first = chunk->row * step + kh * K, rows = chunk->rows;
    take_rows(chunk, K, call->q + first, step, room->q, room->K);
    take_rows(chunk, K, call->k + first, step, room->k, room->K);
    transpose(rows, K, room->k, room->K, room->k_t, SIDE);
    for (int64_t at = 0; at < rows; at += BLOCK) {
        block_dots(call, room, room->k + at * room->K, room->k_t, at + BLOCK, room->kk + at * SIDE);
        block_dots(call, room, room->q + at * room->K, room->k_t, at + BLOCK, room->qk + at * SIDE);
    }
    memset(room->grad_q, 0, 4 * (size_t)(rows * room->K));
    memset(room->grad_k, 0, 4 * (size_t)(rows * room->K));
    memset(room->grad_kk, 0, 4 * (size_t)(rows * SIDE));
    memset(room->grad_qk, 0, 4 * (size_t)(rows * SIDE));
}

/* gap[j] = end - sums[j] in floats; of later rows so far below zero that nothing is left of them. */
HOT void gaps(int64_t count, int64_t needed, double end, const double *restrict sums, float *restrict gap) {
    for (int64_t j = 0; j < count; j++) gap[j] = (float)(end - sums[j]);
    for (int64_t j = count; j < needed; j++) gap[j] = -1e30f;
}

/* A row's decays since earlier rows, from gaps of log decays; its weights of their u, as A (without and with minus beta)
   and P have them. `count` is a multiple of 16. */
HOT void weigh_pairs(int64_t count, const float *gap, const float *kk, const float *qk, float beta, float *decay, float *a,
                     float *minus_a, float *p) {
#pragma GCC unroll 1 /* the compiler finds out that there are four turns at most */
    for (int64_t j = 0; j < count; j += LANES) {
        vec d = exp_vec(load(gap + j)), own = multiply(load(kk + j), d);
        store(decay + j, d);
        store(a + j, own);
        store(minus_a + j, negative(multiply(own, splat(beta))));
        store(p + j, multiply(load(qk + j), d));
    }
}

typedef struct {
    double sums[CHUNK];                /* of log decays from the chunk's start */
    float since[CHUNK], to_end[CHUNK]; /* decays from the start to a row, from a row to the end */
    float over;                        /* and over the whole chunk */
    float by_start[CHUNK], by_end[CHUNK]; /* products of `since` and of `to_end` with their gradients */
} Gates;

static void gated_measure(const Call *call, Room *room, const Chunk *chunk, int64_t h, Gates *gates) {
    int64_t H = call->heads, rows = chunk->rows, K = room->K, columns = whole(call->K);
    float *gap = room->row;
    double sum = 0.0;
    for (int64_t r = 0; r < rows; r++) {
        int64_t at = (chunk->row + r) * H + h;
        if (r < chunk->count) sum += (double)call->log_decay[at];
        gates->sums[r] = sum;
        room->beta[r] = r < chunk->count ? call->beta[at] : 0.0f;
    }
    gates->over = exp_one((float)sum);
    for (int64_t r = 0; r < rows; r++) {
        int64_t needed = r / BLOCK * BLOCK + BLOCK, at = r * SIDE;
        gates->since[r] = exp_one((float)gates->sums[r]), gates->to_end[r] = exp_one((float)(sum - gates->sums[r]));
        scale_row(columns, gates->since[r], room->q + r * K, room->q_in + r * K);
        scale_row(columns, gates->since[r], room->k + r * K, room->q_in + (rows + r) * K);
        scale_row(columns, gates->to_end[r], room->k + r * K, room->k_out + r * K);
        gaps(r + 1, needed, gates->sums[r], gates->sums, gap);
        weigh_pairs(needed, gap, room->kk + at, room->qk + at, room->beta[r], room->decay + at, room->a + at,
                    room->minus_a + at, room->p + at);
        room->a[at + r] = room->minus_a[at + r] = 0.0f;
    }
}

/* Rows against the states: what queries and keys have from there, and products of the decays and their gradients. */
static void gated_states_back(const Call *call, Room *room, const Chunk *chunk, int64_t h, Gates *gates) {
    int64_t rows = chunk->rows, K = room->K, columns = whole(call->K);
    const float *u = call->u_items + (chunk->item * call->heads + h) * CHUNK * call->V, *k_in = room->q_in + rows * K;
    memset(gates->by_start, 0, sizeof gates->by_start);
    memset(gates->by_end, 0, sizeof gates->by_end);
    if (chunk->has_before) {
        read_state(call, room, chunk, room->o, room->V, room->anchor_t);
        for (int64_t r = 0; r < rows; r++)
            gates->by_start[r] = add_scaled_row(columns, gates->since[r], room->read + r * K, room->q_in + r * K,
                                                room->grad_q + r * K);
        read_state(call, room, chunk, room->rhs, room->V, room->anchor_t);
        for (int64_t r = 0; r < rows; r++) {
            float dot = add_scaled_row(columns, -room->beta[r] * gates->since[r], room->read + r * K, k_in + r * K,
                                       room->grad_k + r * K);
            room->grad_beta[r] -= dot;
            gates->by_start[r] -= room->beta[r] * dot;
        }
    }
    if (!chunk->has_after) return;
    read_state(call, room, chunk, u, call->V, room->next_t);
    for (int64_t r = 0; r < rows; r++)
        gates->by_end[r] = add_scaled_row(columns, gates->to_end[r], room->read + r * K, room->k_out + r * K,
                                          room->grad_k + r * K);
}

typedef struct {
    int64_t count; /* a multiple of 16 */
    float minus_beta;
    const float *grad_a, *grad_p, *a, *p, *decay;
    float *grad_kk, *grad_qk, *by_key;
} Pairs;

/* A row's pairs: gradients of its dots; by_key gathers, for each earlier row, products of decays and their gradients.
   Gives sum_j rhs' u_j a_j. */
HOT float pairs_back(const Pairs *pairs) {
    vec sum = splat(0.0f);
    for (int64_t j = 0; j < pairs->count; j += LANES) {
        vec own = load(pairs->grad_a + j), by_p = load(pairs->grad_p + j), a = load(pairs->a + j), d = load(pairs->decay + j);
        vec by_a = multiply(own, splat(pairs->minus_beta));
        sum = fma_vec(own, a, sum);
        vec both = fma_vec(by_p, load(pairs->p + j), multiply(by_a, a));
        store(pairs->by_key + j, add(load(pairs->by_key + j), both));
        store(pairs->grad_kk + j, fma_vec(by_a, d, load(pairs->grad_kk + j)));
        store(pairs->grad_qk + j, fma_vec(by_p, d, load(pairs->grad_qk + j)));
    }
    return sum_vec(sum);
}

/* The first `count` of a row. */
HOT float sum_first(int64_t count, const float *x) {
    vec sum = splat(0.0f);
    int64_t j = 0;
    for (; j + LANES <= count; j += LANES) sum = add(sum, load(x + j));
    if (j < count) sum = add(sum, select_vec(lanes_between(0, (int32_t)(count - j - 1)), load(x + j), splat(0.0f)));
    return sum_vec(sum);
}

/* Gradients of the pairs, then those of log decays and betas, the last row first: by_key then holds what later rows and
   this one have with each earlier row, and all of those decayed at this row. */
static void gated_pairs_back(const Call *call, Room *room, const Chunk *chunk, int64_t h, const Gates *gates) {
    float by_key[CHUNK] = {0};
    double before[CHUNK], since = 0.0, total = 0.0;
    for (int64_t c = 0; c < call->K; c++) total += (double)room->total[c];
    for (int64_t r = 0; r < chunk->rows; r++) before[r] = r ? before[r - 1] + (double)gates->by_end[r - 1] : 0.0;
    for (int64_t r = chunk->rows - 1; r >= 0; r--) {
        int64_t at = r * SIDE;
        Pairs pairs = {.count = r / BLOCK * BLOCK + BLOCK, .minus_beta = -room->beta[r], .grad_a = room->grad_a + at,
                       .grad_p = room->grad_p + at, .a = room->a + at, .p = room->p + at, .decay = room->decay + at,
                       .grad_kk = room->grad_kk + at, .grad_qk = room->grad_qk + at, .by_key = by_key};
        room->grad_beta[r] -= pairs_back(&pairs);
        since += (double)gates->by_start[r];
        if (r >= chunk->count) continue;
        int64_t place = (chunk->row + r) * call->heads + h;
        call->grad_decay[place] = (float)(since + before[r] + total + (double)sum_first(r, by_key));
        call->grad_beta[place] = room->grad_beta[r];
    }
}

/* One value head of a chunk. */
static void gated_chunk(const Call *call, Room *room, const Chunk *chunk, int64_t h, float *state) {
    Gates gates;
    int64_t V = call->V;
    gated_measure(call, room, chunk, h, &gates);
    take_rows(chunk, V, call->grad_o + (chunk->row * call->heads + h) * V, call->heads * V, room->o, room->V);
    solve_back(call, room, chunk, state);
    spread_rhs(call, room, chunk, h);
    turn_states(call, room, chunk, h, state, &gates.over, 0);
    gated_states_back(call, room, chunk, h, &gates);
    gated_pairs_back(call, room, chunk, h, &gates);
    fold_back(call, room, chunk, &gates.over, 0, state);
}

/* Queries and keys, from the dots of all value heads at once: q' += qk' k;  k' += (kk' + kk'^T) k + qk'^T q. */
static void gated_give_keys(const Call *call, const Room *room, const Chunk *chunk, int64_t kh) {
    int64_t K = call->K, step = call->key_heads * K, first = chunk->row * step + kh * K, rows = chunk->rows;
    for (int64_t r = 0; r < rows; r++) room->grad_kk[r * SIDE + r] = 0.0f; /* no row's own key is part of A */
    for (int64_t at = 0; at < rows; at += BLOCK) {
        const float *own_kk = room->grad_kk + at * SIDE, *own_qk = room->grad_qk + at * SIDE;
        Terms earlier = {.count = at + BLOCK, .columns = whole(K), .x = own_qk, .x_step = SIDE, .s = room->k,
                        .s_row = room->K, .out = room->grad_q + at * room->K, .out_row = room->K};
        added_terms(BLOCK, &earlier);
        earlier.x = own_kk, earlier.out = room->grad_k + at * room->K;
        added_terms(BLOCK, &earlier);
        Terms later = {.count = rows - at, .columns = whole(K), .x = own_kk + at, .x_step = SIDE,
                      .s = room->k + at * room->K, .s_row = room->K, .out = room->grad_k + at * room->K,
                      .out_row = room->K};
        added_turned_terms(BLOCK, &later);
        later.x = own_qk + at, later.s = room->q + at * room->K;
        added_turned_terms(BLOCK, &later);
    }
    give_rows(chunk, K, room->grad_q, room->K, call->grad_q + first, step);
    give_rows(chunk, K, room->grad_k, room->K, call->grad_k + first, step);
}
