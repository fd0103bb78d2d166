/* The gradient of a weight from those of its products: out[o, d] = sum over rows t of grad[t, o] x[t, d].

   A sum of up to ROWS rows begins at zero and goes upwards, one fused multiply-add at a time; such sums are added one after
   another, and the whole is rounded once. So nothing depends on how many threads there are, and little is lost where there
   are many rows. Products of bfloat16 are exact in floats. */
#include "channels.h"
#include "team.h"
#include "triangles.h"

#define ROWS 128
#define OUTPUTS 128 /* and INPUTS: of a turn, at most; what it works on stays in the second cache */
#define INPUTS 256
#define FEWEST_OUTPUTS 16
#define LARGE (1 << 18) /* elements of a weight that is read so often that turns should be large */
#define ROWS_AHEAD 12   /* rows that are asked for before they are needed: they may lie far apart */

typedef struct {
    int64_t rows, outputs, inputs, grad_row, x_row, is_bf16; /* rows of grad and of x are grad_row and x_row apart */
    const void *grad, *x;
    void *out; /* [outputs, inputs] */
} Call;

typedef struct {
    float grad[ROWS * OUTPUTS], x[ROWS * INPUTS], some[OUTPUTS * INPUTS], all[OUTPUTS * INPUTS];
} Space;

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
static int64_t turns_along(int64_t count, int64_t most) { return (count + most - 1) / most; }

/* Of a turn: many where they are read often, fewer where threads would find no turn. No bit depends on it. */
static int64_t most_outputs(const Call *c) {
    int64_t most = c->outputs * c->inputs < LARGE ? OUTPUTS / 2 : OUTPUTS, across = turns_along(c->inputs, INPUTS);
    while (most > FEWEST_OUTPUTS && turns_along(c->outputs, most) * across < team_size()) most /= 2;
    return most;
}

/* Whole vectors of floats, with zeros behind the last element. */
HOT void widen_rows(int64_t rows, int64_t width, const void *from, int64_t at, int64_t from_row, int is_bf16, float *to,
                    int64_t to_row) {
    for (int64_t t = 0; t < rows; t++, at += from_row, to += to_row) {
        for (int64_t c = 0; c < width; c += is_bf16 ? 32 : 16)
            __builtin_prefetch((const char *)from + (at + ROWS_AHEAD * from_row + c) * (is_bf16 ? 2 : 4), 0, 3);
#define BODY(c, left) store(to + (c), load_row(from, at + (c), left, 1));
        if (is_bf16) ALONG_ROW(width, BODY)
#undef BODY
#define BODY(c, left) store(to + (c), load_row(from, at + (c), left, 0));
        else ALONG_ROW(width, BODY)
#undef BODY
    }
}

HOT void join_sums(int64_t rows, int64_t width, const float *some, float *all) {
    for (int64_t o = 0; o < rows; o++)
        for (int64_t c = 0; c < width; c += LANES)
            store(all + o * INPUTS + c, add(load(all + o * INPUTS + c), load(some + o * INPUTS + c)));
}

HOT void round_rows(int64_t rows, int64_t width, const float *from, int is_bf16, void *to, int64_t at, int64_t to_row) {
    for (int64_t o = 0; o < rows; o++, from += INPUTS, at += to_row) {
#define BODY(c, left) store_row(to, at + (c), left, 1, load(from + (c)));
        if (is_bf16) ALONG_ROW(width, BODY)
#undef BODY
#define BODY(c, left) store_row(to, at + (c), left, 0, load(from + (c)));
        else ALONG_ROW(width, BODY)
#undef BODY
    }
}

typedef struct {
    const Call *call;
    int64_t most; /* outputs of a turn */
    _Atomic int failed;
} Task;

static void weight_turn(void *context, int64_t index, int64_t worker) {
    (void)worker;
    Task *task = context;
    const Call *c = task->call;
    Space *space = team_memory(sizeof(Space));
    if (!space) { task->failed = 1; return; }
    int64_t across = turns_along(c->inputs, INPUTS), most = task->most;
    int64_t o = index / across * most, d = index % across * INPUTS;
    int64_t outputs = least(most, c->outputs - o), inputs = least(INPUTS, c->inputs - d);
    for (int64_t t = 0; t < c->rows; t += ROWS) {
        int64_t rows = least(ROWS, c->rows - t);
        widen_rows(rows, outputs, c->grad, t * c->grad_row + o, c->grad_row, (int)c->is_bf16, space->grad, OUTPUTS);
        widen_rows(rows, inputs, c->x, t * c->x_row + d, c->x_row, (int)c->is_bf16, space->x, INPUTS);
        Terms terms = {.count = rows, .columns = whole(inputs), .x = space->grad, .x_step = OUTPUTS, .s = space->x,
                       .s_row = INPUTS, .out = t ? space->some : space->all, .out_row = INPUTS};
        new_turned_terms(outputs, &terms);
        if (t) join_sums(outputs, whole(inputs), space->some, space->all);
    }
    round_rows(outputs, inputs, space->all, (int)c->is_bf16, c->out, o * c->inputs + d, c->inputs);
}

/* There is one row at least. */
int hyla_weight_grad(const Call *call) {
    Task task = {call, most_outputs(call), 0};
    team_run(turns_along(call->outputs, task.most) * turns_along(call->inputs, INPUTS), weight_turn, &task);
    return task.failed;
}
