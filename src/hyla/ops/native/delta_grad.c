/* The backward pass of the delta rules: chunks from a sequence's last to its first, one head (gated: one key head with
   its value heads) of one sequence by one thread. What a sequence's gradients are depends on its rows alone: nothing is
   summed across sequences or threads, and every sum has one order.

   With S the anchor of a chunk, N the gradient of the state behind it, x' the gradient of x, and the rest as
   ops/chunks/delta_chain.py has it:
       u' = P^T o' + k_out N       (I + A)^T rhs' = u'       S' = decay N + q_in^T o' - (beta k_in)^T rhs'
       A' = -rhs' u^T   P' = o' u^T   v' = beta rhs'   k_in' = -beta rhs' S^T   q_in' = o' S^T   k_out' = u N^T
       beta' = rhs' (v - k_in S) + A' (A / beta)
   A log decay's gradient is the sum over all factors e^(a_j + .. + a_r) that it stands in. It is summed as such, from
   products of one sign's worth, never as a difference of sums: strong decays leave it exact. */
#include <stdatomic.h>

#include "channels.h"
#include "triangles.h"
#include "team.h"

#define CHUNK 64
#define BLOCK 16
#define BLOCKS (CHUNK / BLOCK)
#define SIDE (CHUNK + LANES) /* floats from one row to the next of what is as wide as a chunk; as `apart` has it */
#define SMALL 8192 /* fewer elements of states, each for every row that meets it, are not worth a second thread */

typedef struct {
    int64_t sequences;
    const int64_t *offset, *length;      /* of each sequence */
    const int64_t *first_item, *items;   /* items[first_item[n] + i]: the item of its i-th chunk */
    int64_t key_heads, heads, K, V;
    const float *q, *k, *v, *log_decay, *beta; /* [T, Hk, K] (q scaled), ., [T, H, V], [T, H] or [T, H, K], [T, H] */
    const float *u_items, *anchor_items;       /* [I, H, 64, V], [I, H, K, V], of the forward pass */
    const float *grad_o, *grad_final;          /* [T, H, V], [N, H, K, V] or 0: nothing came after the last rows */
    float *grad_q, *grad_k, *grad_v, *grad_decay, *grad_beta; /* as q, k, v, log_decay, beta */
    float *grad_first;                         /* [N, H, K, V], or 0: the sequences began with zeros */
    int64_t per_channel;                       /* KDA: a decay per channel of a head's keys */
} Call;

/* Memory of one thread; rows of K and of V are `apart` floats from one another, rows of a chunk's width SIDE. */
typedef struct {
    int64_t K, V;                      /* floats from one row to the next */
    float *q, *k, *k_t;                /* [64, K] twice, [K, 64] */
    float *q_in, *k_out;               /* [2 x 64, K]: k_in stands behind the rows of q_in; [64, K] */
    float *o, *rhs;                    /* gradients: [2 x 64, V], behind its rows those of -beta rhs'; [64, V] */
    float *u_t, *anchor_t, *next_t;    /* [V, 64], [V, K], [V, K] */
    float *state;                      /* the gradient of the state behind a chunk, then before it: [G, K, V] */
    float *a, *minus_a, *p;            /* A without its beta, minus A, P: [64, 64] */
    float *grad_a, *grad_p;            /* rhs' u^T, later the gradient of `a`; the gradient of P */
    float *read;                       /* [64, K]: rows that met a state */
    float *grad_q, *grad_k;            /* [64, K] */
    float *total, *row;                /* [2, K]: of the decay over the whole chunk; and what a function needs for itself */
    float beta[CHUNK], grad_beta[CHUNK];
    /* Gated delta. */
    float *kk, *qk, *decay, *grad_kk, *grad_qk; /* [64, 64] */
    /* KDA, all [64, K] but where it is said. */
    float *grad_decay, *log_decay, *factor;     /* factor: e^log_decay */
    float *since, *k_since, *q_since;           /* decay since the block's start, keys and queries times that */
    float *until, *k_until, *k_until_t;         /* from a row to its block's end, keys times that; [K, 64] */
    float *keys, *keys_t, *grad_keys;           /* k_until as a later block sees it; [K, 64] */
    float *grad_k_since, *grad_q_since, *grad_k_until;
    float *between, *grad_between;              /* [BLOCKS, BLOCKS + 1, K]: from the start (0) or block e's end (e + 1) to b */
    float *after, *grad_after, *over;           /* [BLOCKS, K] twice, [K]: from a block's end to the chunk's; all of it */
    double *run, *block_sum;                    /* [K], [BLOCKS, K] */
} Room;

/* Floats from one row of `columns` to the next: whole vectors, an odd number of them. Rows of a power of two of bytes
   meet in a few sets of the first cache, and a strip of them would not stay there. */
INLINE int64_t apart(int64_t columns) { return (whole(columns) / LANES | 1) * LANES; }

/* How many floats in all; the places are filled in where there is memory. */
static int64_t lay_out(const Call *call, float *memory, Room *room) {
    int64_t K = apart(call->K), V = apart(call->V), keys = CHUNK * K, squares = CHUNK * SIDE;
    int64_t gated = !call->per_channel, kda = call->per_channel;
    float *run, *block_sum;
    const struct { float **at; int64_t size; } parts[] = {
        {&room->q, keys}, {&room->k, keys}, {&room->k_t, gated * call->K * SIDE}, {&room->q_in, 2 * keys},
        {&room->k_out, keys}, {&room->o, 2 * CHUNK * V}, {&room->rhs, CHUNK * V}, {&room->u_t, call->V * SIDE},
        {&room->anchor_t, call->V * K}, {&room->next_t, call->V * K},
        {&room->state, call->heads / call->key_heads * call->K * V}, {&room->a, squares}, {&room->minus_a, squares},
        {&room->p, squares}, {&room->grad_a, squares}, {&room->grad_p, squares}, {&room->read, keys},
        {&room->grad_q, keys}, {&room->grad_k, keys}, {&room->total, 2 * K}, {&room->row, K + BLOCK * LANES},
        {&room->kk, gated * squares}, {&room->qk, gated * squares}, {&room->decay, gated * squares},
        {&room->grad_kk, gated * squares}, {&room->grad_qk, gated * squares},
        {&room->grad_decay, kda * keys}, {&room->log_decay, kda * keys}, {&room->factor, kda * keys},
        {&room->since, kda * keys}, {&room->k_since, kda * keys}, {&room->q_since, kda * keys},
        {&room->until, kda * keys}, {&room->k_until, kda * keys}, {&room->k_until_t, kda * call->K * SIDE},
        {&room->keys, kda * keys}, {&room->keys_t, kda * call->K * SIDE}, {&room->grad_keys, kda * keys},
        {&room->grad_k_since, kda * keys}, {&room->grad_q_since, kda * keys}, {&room->grad_k_until, kda * keys},
        {&room->between, kda * BLOCKS * (BLOCKS + 1) * K}, {&room->grad_between, kda * BLOCKS * (BLOCKS + 1) * K},
        {&room->after, kda * BLOCKS * K}, {&room->grad_after, kda * BLOCKS * K}, {&room->over, kda * K},
        {&run, kda * 2 * K}, {&block_sum, kda * 2 * BLOCKS * K},
    };
    int64_t total = 0;
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        *parts[i].at = memory ? memory + total : 0;
        total += whole(parts[i].size);
    }
    room->K = K, room->V = V, room->run = (double *)run, room->block_sum = (double *)block_sum;
    return total;
}

/* A chunk of sequence n: `count` rows from flat row `row` on, computed as `rows`, whole blocks. */
typedef struct {
    int64_t n, item, row, count, rows;
    int has_before, has_after; /* whether its anchor, and the gradient of the state behind it, may be other than zero */
} Chunk;

/* out = x y; out += x y; over whole vectors, as all that follows. */
HOT void times_row(int64_t count, const float *x, const float *y, float *out) {
    for (int64_t c = 0; c < count; c += LANES) store(out + c, multiply(load(x + c), load(y + c)));
}
HOT void add_times_row(int64_t count, const float *x, const float *y, float *out) {
    for (int64_t c = 0; c < count; c += LANES) store(out + c, fma_vec(load(x + c), load(y + c), load(out + c)));
}
HOT void add_row(int64_t count, const float *x, float *out) {
    for (int64_t c = 0; c < count; c += LANES) store(out + c, add(load(x + c), load(out + c)));
}
HOT void scale_row(int64_t count, float factor, const float *x, float *out) {
    for (int64_t c = 0; c < count; c += LANES) store(out + c, multiply(load(x + c), splat(factor)));
}
/* out += factor x; the dot of x and y. */
HOT float add_scaled_row(int64_t count, float factor, const float *x, const float *y, float *out) {
    vec dot = splat(0.0f);
    for (int64_t c = 0; c < count; c += LANES) {
        vec own = load(x + c);
        dot = fma_vec(own, load(y + c), dot);
        store(out + c, fma_vec(splat(factor), own, load(out + c)));
    }
    return sum_vec(dot);
}
HOT float dot_row(int64_t count, const float *x, const float *y) {
    vec dot = splat(0.0f);
#define BODY(c, left) dot = fma_vec(load_row(x, c, left, 0), load_row(y, c, left, 0), dot)
    ALONG_ROW(count, BODY)
#undef BODY
    return sum_vec(dot);
}

/* Rows of a packed tensor, zeros after the last. */
static void take_rows(const Chunk *chunk, int64_t width, const float *from, int64_t from_row, float *to, int64_t to_row) {
    for (int64_t r = 0; r < chunk->count; r++) memcpy(to + r * to_row, from + r * from_row, 4 * (size_t)width);
    memset(to + chunk->count * to_row, 0, 4 * (size_t)((chunk->rows - chunk->count) * to_row));
}
static void give_rows(const Chunk *chunk, int64_t width, const float *from, int64_t from_row, float *to, int64_t to_row) {
    for (int64_t r = 0; r < chunk->count; r++) memcpy(to + r * to_row, from + r * from_row, 4 * (size_t)width);
}

/* rhs'_j = u'_j - sum_{r > j} A_rj rhs'_r among the rows of a block, the last row first. */
INLINE void solve_strip(const int wide, const float *minus_a, float *rhs, int64_t row) {
    for (int j = BLOCK - 2; j >= 0; j--) {
        vec own[2];
#pragma GCC unroll 2
        for (int m = 0; m < wide; m++) own[m] = load(rhs + j * row + m * LANES);
        for (int r = BLOCK - 1; r > j; r--) {
            vec factor = splat(minus_a[r * SIDE + j]);
#pragma GCC unroll 2
            for (int m = 0; m < wide; m++) own[m] = fma_vec(factor, load(rhs + r * row + m * LANES), own[m]);
        }
#pragma GCC unroll 2
        for (int m = 0; m < wide; m++) store(rhs + j * row + m * LANES, own[m]);
    }
}
HOT void solve_block(int64_t columns, const float *minus_a, float *rhs, int64_t row) {
    int64_t w = 0;
    for (; w + 2 * LANES <= columns; w += 2 * LANES) solve_strip(2, minus_a, rhs + w, row);
    for (; w < columns; w += LANES) solve_strip(1, minus_a, rhs + w, row);
}

/* u' and rhs' of a chunk, from its P, minus A, k_out and the gradients of its outputs and of the state behind it. */
static void solve_back(const Call *call, const Room *room, const Chunk *chunk, const float *state) {
    int64_t rows = chunk->rows, V = room->V, columns = whole(call->V);
    float *rhs = room->rhs;
    if (chunk->has_after) {
        Terms sums = {.count = call->K, .columns = columns, .x = room->k_out, .x_step = room->K, .s = state, .s_row = V,
                     .out = rhs, .out_row = V};
        new_terms(rows, &sums);
    } else {
        memset(rhs, 0, 4 * (size_t)(rows * V));
    }
    for (int64_t first = 0; first < rows; first += BLOCK) {
        Terms sums = {.count = rows - first, .columns = columns, .x = room->p + first * SIDE + first, .x_step = SIDE,
                     .s = room->o + first * V, .s_row = V, .out = rhs + first * V, .out_row = V};
        added_turned_terms(BLOCK, &sums);
    }
    for (int64_t first = rows - BLOCK; first >= 0; first -= BLOCK) {
        int64_t end = first + BLOCK;
        Terms sums = {.count = rows - end, .columns = columns, .x = room->minus_a + end * SIDE + first, .x_step = SIDE,
                     .s = rhs + end * V, .s_row = V, .out = rhs + first * V, .out_row = V};
        if (end < rows) added_turned_terms(BLOCK, &sums);
        solve_block(columns, room->minus_a + first * SIDE + first, rhs + first * V, V);
    }
}

/* x u^T for the pairs of a row with its own and earlier blocks. */
static void meet_u(const Call *call, const Room *room, const Chunk *chunk, const float *x, float *out) {
    for (int64_t first = 0; first < chunk->rows; first += BLOCK) {
        Terms sums = {.count = call->V, .columns = first + BLOCK, .x = x + first * room->V, .x_step = room->V,
                     .s = room->u_t, .s_row = SIDE, .out = out + first * SIDE, .out_row = SIDE};
        new_terms(BLOCK, &sums);
    }
}

/* What follows from rhs': gradients of v and of the pairs, -beta rhs', and what beta has from v. */
static void spread_rhs(const Call *call, Room *room, const Chunk *chunk, int64_t h) {
    int64_t H = call->heads, V = call->V, columns = whole(V);
    float *minus = room->o + chunk->rows * room->V;
    for (int64_t r = 0; r < chunk->rows; r++) {
        float *rhs = room->rhs + r * room->V, *out = minus + r * room->V;
        room->grad_beta[r] = 0.0f;
        if (r < chunk->count) {
            int64_t at = ((chunk->row + r) * H + h) * V;
            scale_row(columns, room->beta[r], rhs, out);
            memcpy(call->grad_v + at, out, 4 * (size_t)V);
            room->grad_beta[r] = dot_row(V, call->v + at, rhs);
        }
        scale_row(columns, -room->beta[r], rhs, out);
    }
    transpose(chunk->rows, V, call->u_items + (chunk->item * H + h) * CHUNK * V, V, room->u_t, SIDE);
    meet_u(call, room, chunk, room->rhs, room->grad_a);
    meet_u(call, room, chunk, room->o, room->grad_p);
}

/* Rows of width V against a state that lies as [V, K]: room->read. */
static void read_state(const Call *call, const Room *room, const Chunk *chunk, const float *x, int64_t x_row,
                       const float *state_t) {
    Terms sums = {.count = call->V, .columns = whole(call->K), .x = x, .x_step = x_row, .s = state_t, .s_row = room->K,
                 .out = room->read, .out_row = room->K};
    new_terms(chunk->rows, &sums);
}

/* Turn the chunk's two states around; what the decay over the whole chunk gets: decay[c] sum_v S[c, v] N[c, v]. */
static void turn_states(const Call *call, const Room *room, const Chunk *chunk, int64_t h, const float *state,
                        const float *over, int64_t over_step) {
    int64_t K = call->K, V = call->V, columns = whole(K);
    const float *anchor = call->anchor_items + (chunk->item * call->heads + h) * K * V;
    if (chunk->has_before) transpose(K, V, anchor, V, room->anchor_t, room->K);
    if (chunk->has_after) transpose(K, V, state, room->V, room->next_t, room->K);
    memset(room->total, 0, 4 * (size_t)columns);
    if (!chunk->has_before || !chunk->has_after) return;
    for (int64_t v = 0; v < V; v++)
        add_times_row(columns, room->anchor_t + v * room->K, room->next_t + v * room->K, room->total);
    if (over_step) times_row(columns, room->total, over, room->total);
    else scale_row(columns, *over, room->total, room->total);
}

/* The gradient of the state before the chunk. */
static void fold_back(const Call *call, const Room *room, const Chunk *chunk, const float *over, int64_t over_step,
                      float *state) {
    Terms sums = {.count = 2 * chunk->rows, .columns = whole(call->V), .x = room->q_in, .x_step = room->K, .s = room->o,
                 .s_row = room->V, .out = state, .out_row = room->V, .factor = over, .factor_step = over_step};
    if (chunk->has_before) turned_terms(call->K, &sums);
}

/* Products of a block's rows with the keys up to it: [16, 64], the first `columns`. */
static void block_dots(const Call *call, const Room *room, const float *x, const float *keys_t, int64_t columns,
                       float *out) {
    Terms sums = {.count = call->K, .columns = columns, .x = x, .x_step = room->K, .s = keys_t, .s_row = SIDE, .out = out,
                 .out_row = SIDE};
    new_terms(BLOCK, &sums);
}

#include "delta_grad_gated.h"
#include "delta_grad_kda.h"

/* The next chunk on the way back: `done` rows of the sequence lie before it. */
static Chunk chunk_at(const Call *call, int64_t n, int64_t done) {
    int64_t left = call->length[n] - done;
    Chunk chunk = {.n = n, .item = call->items[call->first_item[n] + done / CHUNK], .row = call->offset[n] + done};
    chunk.count = left < CHUNK ? left : CHUNK;
    chunk.rows = (chunk.count + BLOCK - 1) / BLOCK * BLOCK;
    chunk.has_before = done > 0 || call->grad_first;
    chunk.has_after = left > CHUNK || call->grad_final;
    return chunk;
}

/* The states of `group` heads from the first on, between the thread's memory and a tensor. */
static void begin_states(const Call *call, const Room *room, int64_t n, int64_t h, int64_t group) {
    int64_t K = call->K, V = call->V;
    for (int64_t i = 0; i < group * K; i++) {
        float *own = room->state + i * room->V;
        if (call->grad_final) memcpy(own, call->grad_final + ((n * call->heads + h) * K + i) * V, 4 * (size_t)V);
        else memset(own, 0, 4 * (size_t)V);
    }
}
static void end_states(const Call *call, const Room *room, int64_t n, int64_t h, int64_t group) {
    int64_t K = call->K, V = call->V;
    if (!call->grad_first) return;
    for (int64_t i = 0; i < group * K; i++)
        memcpy(call->grad_first + ((n * call->heads + h) * K + i) * V, room->state + i * room->V, 4 * (size_t)V);
}

/* All chunks of one unit: a head, or the heads that share a key head. */
static void walk_back(const Call *call, Room *room, int64_t n, int64_t unit) {
    int64_t group = call->heads / call->key_heads, size = call->K * room->V;
    begin_states(call, room, n, unit * group, group);
    for (int64_t done = (call->length[n] - 1) / CHUNK * CHUNK; done >= 0; done -= CHUNK) {
        Chunk chunk = chunk_at(call, n, done);
        if (call->per_channel) {
            kda_chunk(call, room, &chunk, unit);
            continue;
        }
        gated_measure_keys(call, room, &chunk, unit);
        for (int64_t g = 0; g < group; g++)
            gated_chunk(call, room, &chunk, unit * group + g, room->state + g * size);
        gated_give_keys(call, room, &chunk, unit);
    }
    end_states(call, room, n, unit * group, group);
}

typedef struct {
    const Call *call;
    int64_t units; /* heads, or groups of them, of each sequence */
    atomic_int failed;
} Turns;

static void take_units(void *context, int64_t first, int64_t last, int64_t worker) {
    Turns *turns = context;
    const Call *call = turns->call;
    Room room;
    int64_t size = lay_out(call, 0, &room);
    float *memory = team_memory(4 * (size_t)size);
    if (!memory) {
        turns->failed = 1;
        return;
    }
    lay_out(call, memory, &room);
    int has_pads = call->K % LANES || call->V % LANES;
    for (int64_t i = first; i < last; i++) {
        /* Zeros behind the columns, whatever a unit before this one left there. */
        if (has_pads) memset(memory, 0, 4 * (size_t)size);
        walk_back(call, &room, i / turns->units, i % turns->units);
    }
}

/* Returns 0, or 1 when memory is short. */
int hyla_delta_grad(const Call *call) {
    Turns turns = {.call = call, .units = call->per_channel ? call->heads : call->key_heads};
    int64_t rows = 0, all = call->sequences * turns.units;
    for (int64_t n = 0; n < call->sequences; n++) rows += call->length[n];
    team_ranges(all, all * SMALL / (1 + rows * call->heads * call->K * call->V), take_units, &turns);
    return turns.failed;
}
