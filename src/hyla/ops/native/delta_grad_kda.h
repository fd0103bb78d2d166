/* Part of delta_grad.c: what KDA measures inside a chunk, and its gradients. Decays are products of numbers in [0, 1] or
   exponentials of sums <= 0, as in ops/chunks/channel_decay.py: inside a block of 16 every pair has its own, and a row
   meets an earlier block through keys that decayed to that block's end. */

INLINE float *between_at(const Room *room, float *table, int64_t b, int64_t e) {
    return table + (b * (BLOCKS + 1) + e + 1) * room->K;
}

/* A row's decay since its block's start (or, backwards, until its end), and the key times that. */
HOT void decay_along(int64_t count, const double *run, const float *k, float *decay, float *decayed) {
    for (int64_t c = 0; c < count; c += LANES) {
        vec d = exp_vec(from_doubles(run + c));
        store(decay + c, d);
        store(decayed + c, multiply(d, load(k + c)));
    }
}
HOT void exp_of_row(int64_t count, const float *x, float *out) {
    for (int64_t c = 0; c < count; c += LANES) store(out + c, exp_vec(load(x + c)));
}

/* Decays from the start or the end of a block to its rows. */
static void kda_measure_block(const Call *call, const Room *room, int64_t b) {
    int64_t K = room->K, columns = whole(call->K);
    double *run = room->block_sum + b * K;
    memset(run, 0, 8 * (size_t)columns);
    for (int64_t r = b * BLOCK; r < (b + 1) * BLOCK; r++) {
        add_decays(columns, room->log_decay + r * K, run);
        decay_along(columns, run, room->k + r * K, room->since + r * K, room->k_since + r * K);
        times_row(columns, room->q + r * K, room->since + r * K, room->q_since + r * K);
        exp_of_row(columns, room->log_decay + r * K, room->factor + r * K);
    }
    memset(room->run, 0, 8 * (size_t)columns);
    for (int64_t r = (b + 1) * BLOCK - 1; r >= b * BLOCK; r--) {
        decay_along(columns, room->run, room->k + r * K, room->until + r * K, room->k_until + r * K);
        add_decays(columns, room->log_decay + r * K, room->run);
    }
}

/* Decays over whole blocks: between two of them, and from each to the chunk's start and end. */
static void kda_measure_blocks(const Call *call, const Room *room, int64_t blocks) {
    int64_t K = room->K, columns = whole(call->K);
    for (int64_t b = 0; b < blocks; b++) {
        memset(room->run, 0, 8 * (size_t)columns);
        for (int64_t e = b - 1; e >= -1; e--) {
            exp_of_sums(columns, room->run, between_at(room, room->between, b, e));
            if (e >= 0) add_sums(columns, room->block_sum + e * K, room->run);
        }
    }
    memset(room->run, 0, 8 * (size_t)columns);
    for (int64_t e = blocks - 1; e >= 0; e--) {
        exp_of_sums(columns, room->run, room->after + e * K);
        add_sums(columns, room->block_sum + e * K, room->run);
    }
    exp_of_sums(columns, room->run, room->over);
}

/* Dots of a later row's key and query with an earlier key that decays on: decay *= factor first. */
HOT void decayed_dots(int64_t count, const float *factor, const float *earlier, const float *k, const float *q,
                      float *decay, float *a, float *p) {
    vec by_k = splat(0.0f), by_q = splat(0.0f);
    for (int64_t c = 0; c < count; c += LANES) {
        vec d = multiply(load(decay + c), load(factor + c)), own = multiply(d, load(earlier + c));
        store(decay + c, d);
        by_k = fma_vec(own, load(k + c), by_k), by_q = fma_vec(own, load(q + c), by_q);
    }
    *a = sum_vec(by_k), *p = sum_vec(by_q);
}

/* Weights of a block's rows for one another. */
static void kda_inside_block(const Call *call, const Room *room, int64_t first) {
    int64_t K = room->K, columns = whole(call->K);
    for (int64_t r = first; r < first + BLOCK; r++) {
        const float *k = room->k + r * K, *q = room->q + r * K;
        float *a = room->a + r * SIDE, *p = room->p + r * SIDE;
        memset(a + first, 0, 4 * BLOCK), memset(p + first, 0, 4 * BLOCK);
        p[r] = dot_row(columns, q, k);
        for (int64_t c = 0; c < columns; c++) room->row[c] = 1.0f;
        for (int64_t j = r - 1; j >= first; j--)
            decayed_dots(columns, room->factor + (j + 1) * K, room->k + j * K, k, q, room->row, a + j, p + j);
    }
}

/* to[c, j] = from[c, j] factor[c] for the 16 rows of a block. */
static void scale_block(int64_t K, const float *factor, const float *from, float *to) {
    for (int64_t c = 0; c < K; c++) store(to + c * SIDE, multiply(splat(factor[c]), load(from + c * SIDE)));
}

static void kda_measure(const Call *call, Room *room, const Chunk *chunk, int64_t h) {
    int64_t H = call->heads, K = call->K, row = room->K, columns = whole(K), rows = chunk->rows;
    int64_t first = (chunk->row * H + h) * K;
    take_rows(chunk, K, call->q + first, H * K, room->q, row);
    take_rows(chunk, K, call->k + first, H * K, room->k, row);
    take_rows(chunk, K, call->log_decay + first, H * K, room->log_decay, row);
    for (int64_t r = 0; r < rows; r++) room->beta[r] = r < chunk->count ? call->beta[(chunk->row + r) * H + h] : 0.0f;
    for (int64_t b = 0; b * BLOCK < rows; b++) kda_measure_block(call, room, b);
    kda_measure_blocks(call, room, rows / BLOCK);
    transpose(rows, K, room->k_until, row, room->k_until_t, SIDE);
    for (int64_t r = 0; r < rows; r++) {
        const float *from_start = between_at(room, room->between, r / BLOCK, -1);
        times_row(columns, room->q_since + r * row, from_start, room->q_in + r * row);
        times_row(columns, room->k_since + r * row, from_start, room->q_in + (rows + r) * row);
        times_row(columns, room->k_until + r * row, room->after + r / BLOCK * row, room->k_out + r * row);
    }
    for (int64_t at = 0; at < rows; at += BLOCK) {
        for (int64_t e = 0; e * BLOCK < at; e++)
            scale_block(K, between_at(room, room->between, at / BLOCK, e), room->k_until_t + e * BLOCK,
                        room->keys_t + e * BLOCK);
        if (at) {
            block_dots(call, room, room->k_since + at * row, room->keys_t, at, room->a + at * SIDE);
            block_dots(call, room, room->q_since + at * row, room->keys_t, at, room->p + at * SIDE);
        }
        kda_inside_block(call, room, at);
        for (int64_t r = at; r < at + BLOCK; r++)
            scale_row(at + BLOCK, -room->beta[r], room->a + r * SIDE, room->minus_a + r * SIDE);
    }
}

/* out = factor x by;  sum += factor x y. */
HOT void take_read(int64_t count, float factor, const float *x, const float *by, const float *y, float *out, float *sum) {
    for (int64_t c = 0; c < count; c += LANES) {
        vec own = multiply(load(x + c), splat(factor));
        store(out + c, multiply(own, load(by + c)));
        store(sum + c, fma_vec(own, load(y + c), load(sum + c)));
    }
}

/* Rows against the states, as gradients of rows decayed from their block's start or to its end. */
static void kda_states_back(const Call *call, Room *room, const Chunk *chunk, int64_t h) {
    int64_t rows = chunk->rows, K = room->K, columns = whole(call->K);
    const float *u = call->u_items + (chunk->item * call->heads + h) * CHUNK * call->V, *k_in = room->q_in + rows * K;
    memset(room->grad_between, 0, 4 * (size_t)(BLOCKS * (BLOCKS + 1) * K));
    memset(room->grad_after, 0, 4 * (size_t)(BLOCKS * K));
    if (chunk->has_before) {
        read_state(call, room, chunk, room->o, room->V, room->anchor_t);
        for (int64_t r = 0; r < rows; r++)
            take_read(columns, 1.0f, room->read + r * K, between_at(room, room->between, r / BLOCK, -1),
                     room->q_in + r * K, room->grad_q_since + r * K, between_at(room, room->grad_between, r / BLOCK, -1));
        read_state(call, room, chunk, room->rhs, room->V, room->anchor_t);
        for (int64_t r = 0; r < rows; r++) {
            room->grad_beta[r] -= dot_row(columns, room->read + r * K, k_in + r * K);
            take_read(columns, -room->beta[r], room->read + r * K, between_at(room, room->between, r / BLOCK, -1),
                     k_in + r * K, room->grad_k_since + r * K, between_at(room, room->grad_between, r / BLOCK, -1));
        }
    } else {
        memset(room->grad_q_since, 0, 4 * (size_t)(rows * K));
        memset(room->grad_k_since, 0, 4 * (size_t)(rows * K));
    }
    if (!chunk->has_after) {
        memset(room->grad_k_until, 0, 4 * (size_t)(rows * K));
        return;
    }
    read_state(call, room, chunk, u, call->V, room->next_t);
    for (int64_t r = 0; r < rows; r++)
        take_read(columns, 1.0f, room->read + r * K, room->after + r / BLOCK * K, room->k_out + r * K,
                 room->grad_k_until + r * K, room->grad_after + r / BLOCK * K);
}

/* A block's rows with all earlier blocks. */
static void kda_across_back(const Call *call, const Room *room, int64_t at) {
    int64_t K = room->K, columns = whole(call->K), b = at / BLOCK;
    const float *grad_a = room->grad_a + at * SIDE, *grad_p = room->grad_p + at * SIDE;
    for (int64_t j = 0; j < at; j++)
        times_row(columns, room->k_until + j * K, between_at(room, room->between, b, j / BLOCK), room->keys + j * K);
    Terms later = {.count = at, .columns = columns, .x = grad_a, .x_step = SIDE, .s = room->keys, .s_row = K,
                  .out = room->grad_k_since + at * K, .out_row = K};
    added_terms(BLOCK, &later);
    later.x = grad_p, later.out = room->grad_q_since + at * K;
    added_terms(BLOCK, &later);
    Terms earlier = {.count = BLOCK, .columns = columns, .x = grad_a, .x_step = SIDE, .s = room->k_since + at * K,
                    .s_row = K, .out = room->grad_keys, .out_row = K};
    new_turned_terms(at, &earlier);
    earlier.x = grad_p, earlier.s = room->q_since + at * K;
    added_turned_terms(at, &earlier);
    for (int64_t j = 0; j < at; j++) {
        float *grad = room->grad_keys + j * K;
        add_times_row(columns, grad, between_at(room, room->between, b, j / BLOCK), room->grad_k_until + j * K);
        add_times_row(columns, grad, room->keys + j * K, between_at(room, room->grad_between, b, j / BLOCK));
    }
}

/* A block's rows with one another, `LANES_OF_A_PART` channels at a time: a pair's decay is the product of the factors
   between, and the gradient of a pair's decay goes to each of them: for row r, summed over j upwards. Sets the gradients
   of the block's rows. decays: room for 16 parts. */
INLINE void inside_part(const float *k, const float *q, const float *factor, int64_t row, const float *grad_a,
                        const float *grad_p, float *grad_q, float *grad_k, float *grad_decay, float *decays) {
    for (int r = 0; r < BLOCK; r++) {
        part own_k = load_part(k + r * row), own_q = load_part(q + r * row), since = splat_part(0.0f);
        part diagonal = splat_part(grad_p[r * SIDE + r]), by_k = diagonal * own_q, by_q = diagonal * own_k;
        part decay = load_part(factor + r * row);
        for (int j = r - 1; j >= 0; j--) {
            store_part(decays + j * LANES_OF_A_PART, decay);
            decay = decay * load_part(factor + j * row);
        }
        store_part(grad_decay + r * row, since);
        for (int j = 0; j < r; j++) {
            part d = load_part(decays + j * LANES_OF_A_PART), earlier = d * load_part(k + j * row);
            part a = splat_part(grad_a[r * SIDE + j]), p = splat_part(grad_p[r * SIDE + j]);
            part x = fma_part(a, own_k, p * own_q);
            by_k = fma_part(a, earlier, by_k), by_q = fma_part(p, earlier, by_q);
            since = fma_part(x, earlier, since);
            store_part(grad_k + j * row, fma_part(d, x, load_part(grad_k + j * row)));
            store_part(grad_decay + (j + 1) * row, since + load_part(grad_decay + (j + 1) * row));
        }
        store_part(grad_q + r * row, by_q), store_part(grad_k + r * row, by_k);
    }
}
HOT void inside_back(int64_t count, const float *k, const float *q, const float *factor, int64_t row, const float *grad_a,
                     const float *grad_p, float *grad_q, float *grad_k, float *grad_decay, float *decays) {
    for (int64_t c = 0; c < count; c += LANES_OF_A_PART)
        inside_part(k + c, q + c, factor + c, row, grad_a, grad_p, grad_q + c, grad_k + c, grad_decay + c, decays);
}

/* out += x y;  sum += x z. */
HOT void add_decayed(int64_t count, const float *x, const float *y, const float *z, float *out, float *sum) {
    for (int64_t c = 0; c < count; c += LANES) {
        vec own = load(x + c);
        store(out + c, fma_vec(own, load(y + c), load(out + c)));
        store(sum + c, fma_vec(own, load(z + c), load(sum + c)));
    }
}

/* What a block's rows have outside it comes to their gradients; so does what decays over the whole block. */
static void kda_join_block(const Call *call, const Room *room, int64_t b, int64_t blocks) {
    int64_t K = room->K, columns = whole(call->K);
    float *whole_block = room->total + K, *sum = room->row;
    memcpy(whole_block, room->total, 4 * (size_t)columns);
    for (int64_t e = 0; e < b; e++) add_row(columns, room->grad_after + e * K, whole_block);
    for (int64_t later = b + 1; later < blocks; later++)
        for (int64_t e = -1; e < b; e++) add_row(columns, between_at(room, room->grad_between, later, e), whole_block);
    memcpy(sum, whole_block, 4 * (size_t)columns);
    /* A row's decay since the block's start has the factors up to its own, */
    for (int64_t r = (b + 1) * BLOCK - 1; r >= b * BLOCK; r--) {
        add_decayed(columns, room->grad_k_since + r * K, room->since + r * K, room->k_since + r * K, room->grad_k + r * K, sum);
        add_decayed(columns, room->grad_q_since + r * K, room->since + r * K, room->q_since + r * K, room->grad_q + r * K, sum);
        add_row(columns, sum, room->grad_decay + r * K);
    }
    /* and that until its end those behind it. */
    memset(sum, 0, 4 * (size_t)columns);
    for (int64_t r = b * BLOCK; r < (b + 1) * BLOCK; r++) {
        add_row(columns, sum, room->grad_decay + r * K);
        add_decayed(columns, room->grad_k_until + r * K, room->until + r * K, room->k_until + r * K, room->grad_k + r * K, sum);
    }
}

/* One head of a chunk. */
static void kda_chunk(const Call *call, Room *room, const Chunk *chunk, int64_t h) {
    int64_t H = call->heads, K = call->K, V = call->V, row = room->K, rows = chunk->rows;
    int64_t first = (chunk->row * H + h) * K;
    kda_measure(call, room, chunk, h);
    take_rows(chunk, V, call->grad_o + (chunk->row * H + h) * V, H * V, room->o, room->V);
    solve_back(call, room, chunk, room->state);
    spread_rhs(call, room, chunk, h);
    turn_states(call, room, chunk, h, room->state, room->over, 1);
    kda_states_back(call, room, chunk, h);
    for (int64_t r = 0; r < rows; r++) {
        float *grad_a = room->grad_a + r * SIDE;
        int64_t columns = r / BLOCK * BLOCK + BLOCK;
        room->grad_beta[r] -= dot_row(columns, grad_a, room->a + r * SIDE);
        scale_row(columns, -room->beta[r], grad_a, grad_a);
        if (r < chunk->count) call->grad_beta[(chunk->row + r) * H + h] = room->grad_beta[r];
    }
    for (int64_t at = 0; at < rows; at += BLOCK) {
        if (at) kda_across_back(call, room, at);
        inside_back(whole(K), room->k + at * row, room->q + at * row, room->factor + at * row, row,
                    room->grad_a + at * SIDE + at, room->grad_p + at * SIDE + at, room->grad_q + at * row,
                    room->grad_k + at * row, room->grad_decay + at * row, room->row);
    }
    for (int64_t b = 0; b * BLOCK < rows; b++) kda_join_block(call, room, b, rows / BLOCK);
    give_rows(chunk, K, room->grad_q, row, call->grad_q + first, H * K);
    give_rows(chunk, K, room->grad_k, row, call->grad_k + first, H * K);
    give_rows(chunk, K, room->grad_decay, row, call->grad_decay + first, H * K);
    fold_back(call, room, chunk, room->over, 1, room->state);
}
