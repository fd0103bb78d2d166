/* One C file of the kernels, run on numbers that every machine draws alike; prints a digest of the bits of all outputs.
   gcc -DKERNELS='"delta.c"' -DDELTA -I src/hyla/ops/native digest.c team.c -lm: for processors that only an emulator has. */
#include <stdio.h>
#include <stdlib.h>
#include KERNELS

#define MOST (1 << 18)
static uint64_t seed = 88172645463325252ull, digest = 14695981039346656037ull;

static float draw(void) {
    seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
    return (float)(int32_t)(seed >> 32) / 1073741824.0f;
}
static float *floats(int64_t count, float scale, int special) {
    static const float numbers[] = {NAN, INFINITY, -INFINITY, 0.0f, -0.0f, 1e-41f, -1e-44f, 3.4e38f, -88.0f, 89.0f};
    float *x = malloc(4 * (size_t)count);
    for (int64_t i = 0; i < count; i++) x[i] = scale * draw();
    for (int64_t i = 0; special && i < count; i += 7) x[i] = numbers[i / 7 % 10];
    return x;
}
static uint16_t *halves(int64_t count, float scale, int special) {
    float *x = floats(count, scale, special);
    uint16_t *y = malloc(2 * (size_t)count);
    for (int64_t i = 0; i < count; i++) y[i] = to_bf16(x[i]);
    return y;
}
static void add_float(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    digest = (digest ^ (x != x ? 0x7fc00000u : bits)) * 1099511628211ull;
}
static void add_floats(const float *x, int64_t count) {
    for (int64_t i = 0; i < count; i++) add_float(x[i]);
}
static void add_halves(const uint16_t *x, int64_t count) {
    for (int64_t i = 0; i < count; i++) add_float(from_bf16(x[i]));
}

#ifdef ELEMENTWISE
static void run(void) {
    static float y[MOST];
    static uint16_t h[MOST];
    for (int64_t width = 1; width < 70; width += 3)
        for (int special = 0; special < 2; special++) {
            float *x = floats(3 * width, 20.0f, special), *o = floats(3 * width, 2.0f, 0);
            uint16_t *g = halves(3 * width, 4.0f, special), *u = halves(3 * width, 2.0f, 0);
            for (int which = 0; which < 2; which++) {
                Unary unary = {which, 3 * width, x, y};
                hyla_unary(&unary), add_floats(y, 3 * width);
            }
            Swiglu floats_in = {3, width, width, width, 0, x, o, y}, halves_in = {3, width, width, width, 1, g, u, h};
            hyla_swiglu(&floats_in), add_floats(y, 3 * width);
            hyla_swiglu(&halves_in), add_halves(h, 3 * width);
            Gate gate = {3, width, width, 1, 1, o, g, h};
            hyla_sigmoid_gate(&gate), add_halves(h, 3 * width);
            Norms norms = {3, width, width, 0, 1, 0, x, u, y, 1.0f, 1e-6f, (float)width};
            Norms of_halves = {3, width, width, 1, 0, 1, g, o, h, 0.0f, 1e-6f, 1.0f};
            hyla_norm(&norms), add_floats(y, 3 * width);
            hyla_norm(&of_halves), add_halves(h, 3 * width);
        }
}
#endif

#ifdef CONV
static void run(void) {
    static float y[MOST];
    for (int taps = 2; taps < 6; taps++) {
        int64_t offset[] = {0, 5}, length[] = {5, 9}, start[] = {3, 0}, slot[] = {0, 1}, channels = 300;
        uint16_t *x = halves(14 * channels, 1.0f, 1), *ring = halves(2 * 6 * channels, 1.0f, 0);
        uint16_t *tail = halves(2 * (taps - 1) * channels, 1.0f, 0);
        Call call = {.sequences = 2, .offset = offset, .length = length, .start = start, .slot = slot, .channels = channels,
                     .taps = taps, .stride = channels, .is_bf16 = 1, .ring_rows = 6, .x = x,
                     .weight = floats(taps * channels, 1.0f, 0), .ring = ring, .tail = tail, .y = y};
        if (hyla_conv(&call)) exit(1);
        add_floats(y, 14 * channels), add_halves(ring, 2 * 6 * channels);
        call.has_silu = 1, call.key_channels = 80, call.key_dim = 20, call.eps = 1e-6f, call.scale = 0.3f;
        call.k = floats(14 * 80, 1.0f, 0), call.v = floats(14 * 140, 1.0f, 0), start[0] = 62;
        if (hyla_conv(&call)) exit(1);
        add_floats(y, 14 * 80), add_floats(call.k, 14 * 80), add_floats(call.v, 14 * 140);
        add_halves(tail, 2 * (taps - 1) * channels);
    }
}
#endif

#ifdef GATES
static void run(void) {
    static float y[MOST], beta[MOST];
    for (int64_t K = 1; K < 60; K += 19)
        for (int form = 0; form < 8; form++) {
            int64_t T = 5, H = 3, is_bf16 = form & 1, has_bound = form >> 1 & 1;
            Decays call = {.tokens = T, .heads = H, .channels = K, .raw_row = H * K, .raw_bf16 = is_bf16, .beta_row = H,
                           .beta_bf16 = is_bf16, .has_bound = has_bound, .A_log = floats(H, 1.0f, 0),
                           .dt_bias = floats(H * K, 1.0f, 0), .log_decay = y, .beta = beta, .bound = -5.0f};
            call.raw = is_bf16 ? (void *)halves(T * H * K, 9.0f, 1) : (void *)floats(T * H * K, 9.0f, 1);
            call.raw_beta = is_bf16 ? (void *)halves(T * H, 9.0f, 1) : (void *)floats(T * H, 9.0f, 1);
            if (hyla_decays(&call)) exit(1);
            add_floats(y, T * H * K), add_floats(beta, T * H);
            GatedNorm norm = {.tokens = T, .heads = H, .width = K, .gate_row = H * K, .which = has_bound,
                              .w_bf16 = form >> 2, .gate_bf16 = is_bf16, .x = floats(T * H * K, 2.0f, form >> 2),
                              .gate = call.raw, .y = y, .eps = 1e-6f};
            norm.weight = form >> 2 ? (void *)halves(K, 1.0f, 0) : (void *)floats(K, 1.0f, 0);
            if (hyla_gated_norm(&norm)) exit(1);
            add_floats(y, T * H * K);
        }
}
#endif

#ifdef DELTA
static void run(void) {
    static float o[MOST], final[MOST];
    for (int per_channel = 0; per_channel < 2; per_channel++)
        for (int64_t K = 16; K < 60; K += 9)
            for (int special = 0; special < 2; special++) {
                int64_t offset[] = {0}, length[] = {149}, start[] = {0}, slot[] = {0}, H = 2, V = 20 + K, T = 149;
                int64_t Hk = per_channel ? H : 1, decays = T * H * (per_channel ? K : 1);
                float *decay = floats(decays, 0.3f, 0), *beta = floats(T * H, 1.0f, 0);
                for (int64_t i = 0; i < decays; i++) decay[i] = -fabsf(decay[i]);
                for (int64_t i = 0; i < T * H; i++) beta[i] = fabsf(beta[i]);
                Call call = {.sequences = 1, .offset = offset, .length = length, .start = start, .slot = slot,
                             .key_heads = Hk, .heads = H, .K = K, .V = V, .q = floats(T * Hk * K, 0.2f, 0),
                             .k = floats(T * Hk * K, 0.2f, 0), .v = floats(T * H * V, 1.0f, special),
                             .log_decay = decay, .beta = beta, .o = o, .final = final, .per_channel = per_channel};
                if (hyla_delta(&call)) exit(1);
                add_floats(o, T * H * V), add_floats(final, H * K * V);
            }
}
#endif

#ifdef ATTENTION
static void run(void) {
    static float o[MOST], max[MOST], sum[MOST];
    for (int64_t group = 1; group < 9; group++)
        for (int form = 0; form < 4; form++) {
            int64_t offset[] = {0}, length[] = {133}, start[] = {0}, first[] = {0}, pages[] = {2, 0, 1}, T = 133;
            int64_t K = 24 + 8 * group, V = form & 2 ? 20 : 64, heads = 2;
            Call call = {.sequences = 1, .offset = offset, .length = length, .start = start, .first_page = first,
                         .pages = pages, .heads = heads, .group = group, .K = K, .V = V, .window = form & 1 ? 70 : 0,
                         .q_row = heads * group * K, .q_head = K, .kv_bf16 = form / 2, .k_row = heads * K, .k_head = K,
                         .v_row = heads * V, .v_head = V, .tile_rows = 512, .spare_bytes = 1 << 20,
                         .q = floats(T * heads * group * K, 1.0f, 0), .sinks = floats(heads * group, 1.0f, 0), .o = o,
                         .max = max, .sum = sum, .scale = 0.3f};
            call.k = form / 2 ? (void *)halves(T * heads * K, 1.0f, 0) : (void *)floats(T * heads * K, 1.0f, 0);
            call.v = form / 2 ? (void *)halves(T * heads * V, 1.0f, 1) : (void *)floats(T * heads * V, 1.0f, 1);
            call.k_pages = calloc((size_t)(3 * heads * K * 64), 4), call.v_pages = calloc((size_t)(3 * heads * V * 64), 4);
            if (hyla_attention(&call)) exit(1);
            add_floats(o, T * heads * group * V), add_floats(max, T * heads * group), add_floats(sum, T * heads * group);
        }
}
#endif

#ifdef ATTENTION_GRAD
static void run(void) {
    static float by_head[MOST];
    for (int64_t group = 1; group < 9; group++)
        for (int form = 0; form < 4; form++) {
            int64_t offset[] = {0}, length[] = {133}, T = 133, K = 24 + 8 * group, V = form & 2 ? 20 : 64, heads = 2;
            int64_t width = (K + 15) / 16 * 16, values = (V + 15) / 16 * 16, rows = T * heads * group;
            Call call = {.sequences = 1, .offset = offset, .length = length, .tokens = T, .heads = heads, .group = group,
                         .K = K, .V = V, .window = form & 1 ? 70 : 0, .q_row = heads * group * K, .q_head = K,
                         .kv_bf16 = form / 2, .k_row = heads * K, .k_head = K, .v_row = heads * V, .v_head = V,
                         .grad_row = heads * group * V, .grad_head = V, .q = floats(rows * K, 1.0f, 0),
                         .o = floats(rows * V, 1.0f, 0), .grad = floats(rows * V, 1.0f, 0), .max = floats(rows, 1.0f, 0),
                         .sinks = floats(heads * group, 1.0f, 0), .by_head = by_head, .scale = 0.3f};
            float *sum = floats(rows, 1.0f, 0), sinks[16];
            for (int64_t i = 0; i < rows; i++) sum[i] = 1.0f + fabsf(sum[i]);
            call.sum = sum, call.grad_sinks = sinks;
            call.k = form / 2 ? (void *)halves(T * heads * K, 1.0f, 0) : (void *)floats(T * heads * K, 1.0f, 0);
            call.v = form / 2 ? (void *)halves(T * heads * V, 1.0f, 1) : (void *)floats(T * heads * V, 1.0f, 1);
            call.grad_q = calloc((size_t)(rows * width), 4), call.grad_k = calloc((size_t)(T * heads * width), 4);
            call.grad_v = calloc((size_t)(T * heads * values), 4);
            if (hyla_attention_grad(&call)) exit(1);
            add_floats(call.grad_q, rows * width), add_floats(call.grad_k, T * heads * width);
            add_floats(call.grad_v, T * heads * values), add_floats(sinks, heads * group);
        }
}
#endif

#ifdef PRODUCT
static void run(void) {
    static float y[MOST];
    static uint16_t h[MOST];
    uint8_t codes[512];
    for (int i = 0; i < 512; i++) codes[i] = (uint8_t)i;
    float scales[] = {0.75f, 2.0f}, *x = floats(40 * 258, 1.0f, 0), *w = floats(70 * 258, 1.0f, 0);
    uint16_t *x16 = halves(40 * 258, 1.0f, 0), *w16 = halves(70 * 258, 1.0f, 0);
    for (int64_t inner = 255; inner <= 258; inner++)
        for (int is_tiled = 0; is_tiled < 2; is_tiled++)
            for (int mode = 0; mode < 3; mode++)
                for (int64_t rows = 1; rows <= 40; rows += rows < 8 ? 1 : 32) {
                    static float tiles[MOST];
                    int64_t tile[] = {0, 64, 0, 64, 6, 0}, span[] = {0, 0, rows};
                    Call call = {.spans = 1, .span = span, .tiles = 2, .tile = tile, .outputs = 70, .inner = inner,
                                 .weights = mode ? (void *)w16 : w, .w_bf16 = mode > 0, .x = mode == 1 ? (void *)x16 : x,
                                 .x_bf16 = mode == 1, .x_stride = 258, .y = mode == 1 ? (void *)h : y, .y_stride = 70};
                    for (int64_t r = 0; r < 40 && inner % 2; r++) x[258 * r + inner] = 0.0f, x16[258 * r + inner] = 0;
                    if (is_tiled) hyla_tile(&call, 1, tiles), call.weights = tiles, call.is_tiled = 1;
                    hyla_product(&call);
                    if (mode == 1) add_halves(h, 70 * rows);
                    else add_floats(y, 70 * rows);
                }
    for (int64_t inner = 250; inner <= 256; inner += 3) {
        int64_t tile[] = {0, 2, 0};
        Call call = {.tiles = 1, .tile = tile, .outputs = 2, .inner = inner, .scale_rows = 1, .scale_kind = FLOAT,
                     .weights = codes, .scales = scales};
        hyla_fp8_dense(&call, 0, 0, 2, 0, y), add_floats(y, 2 * inner);
        hyla_fp8_dense(&call, 0, 0, 2, 1, h), add_halves(h, 2 * inner);
    }
}
#endif

int main(void) {
    run();
    printf("%016llx\n", (unsigned long long)digest);
    return 0;
}
