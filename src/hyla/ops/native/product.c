/* Products with stored weights, y = x W^T: W is plain, in tiles (as `hyla_tile` lays them), or FP8. And FP8 weights made
   plain.

   An output is one sum, begun at zero, to which the products are added in the order of the columns. In floats: one fused
   multiply-add at a time. Of bfloat16 with bfloat16 two columns at a time, the second of the two first, as the
   instruction of x86 does (vdpbf16ps, which takes what is smaller than a float can hold as zero). Products of bfloat16
   are exact in floats, so every build has the same bits. How many rows come together, how the weight is stored and how
   many threads there are changes nothing. */
#include "panel.h"
#include "team.h"

#define STRETCH 180  /* rows that are computed with one panel: a multiple of 5 and 6 */
#define FEW 12       /* rows, for which the panel is to stay in the first cache: it is half as long then */
#define AHEAD 4096   /* bytes of tiles that are asked for before they are needed */
#define SMALL 131072 /* fewer products are not worth a second thread */

/* Rows, and parts of a line, whose sums stay in registers beside what is loaded. */
#if LANES_OF_A_PART == 16
#define ROWS 6
#define COLUMNS 4
#elif LANES_OF_A_PART == 8
#define ROWS 5
#define COLUMNS 2
#else
#define ROWS 5
#define COLUMNS 4
#endif
#define ROWS_BY_HALVES 5 /* where a line is added in two halves: compilers load more at once then */
#ifdef __AVX512BF16__
#define PAIR_ROWS ROWS
#else
#define PAIR_ROWS ROWS_BY_HALVES
#endif

typedef struct {
    int64_t spans;       /* products with one matrix each */
    const int64_t *span; /* [spans][3]: which matrix, the first row of x (and y), the last row + 1 */
    int64_t tiles;       /* of a matrix */
    const int64_t *tile; /* [tiles][3]: the first output, their count (64 at most), their row of scales */
    int64_t outputs, inner; /* of one matrix */
    int64_t scale_rows, scale_kind;
    const void *weights; /* [matrices][outputs][inner], plain or codes; or [matrices][tiles][lines][64] */
    const void *scales;  /* [matrices][scale_rows][ceil(inner / 128)]; none: no codes */
    int64_t w_bf16, is_tiled;
    const void *x;
    int64_t x_stride;
    void *y;
    int64_t y_stride;
    int64_t x_bf16;      /* x and y; fp32 x may meet bf16 weights */
    const float *bias;   /* [outputs], added to the finished sum before it is rounded; none: nothing is added */
} Call;

enum { FLOATS, PAIRS, MIXED }; /* x and W in fp32; both in bf16; x in fp32 and W in bf16 */

typedef struct {
    const Call *call;
    int64_t matrix, first, last;
    int is_bf16;
    void *out;
} Dense;

static void dense_tiles(void *context, int64_t from, int64_t end, int64_t worker) {
    const Dense *dense = context;
    const Call *c = dense->call;
    const uint8_t *codes = (const uint8_t *)c->weights + dense->matrix * c->outputs * c->inner;
    int64_t blocks = (c->inner + SIDE - 1) / SIDE, first = dense->first, last = dense->last;
    for (int64_t t = from; t < end; t++) {
        int64_t low = c->tile[3 * t], high = low + c->tile[3 * t + 1];
        int64_t scales = (dense->matrix * c->scale_rows + c->tile[3 * t + 2]) * blocks;
        for (int64_t o = low < first ? first : low; o < (high < last ? high : last); o++)
            for (int64_t k = 0; k < c->inner; k += SIDE) {
                int64_t count = c->inner - k < SIDE ? c->inner - k : SIDE;
                dense_row(count, scale_of(c->scales, c->scale_kind, scales + k / SIDE), dense->is_bf16,
                          codes + o * c->inner + k, dense->out, (o - first) * c->inner + k);
            }
    }
}

/* Outputs first to last of one matrix of codes, plain: [last - first][inner] of floats or bfloat16. */
void hyla_fp8_dense(const Call *c, int64_t matrix, int64_t first, int64_t last, int is_bf16, void *out) {
    Dense dense = {c, matrix, first, last, is_bf16, out};
    team_ranges(c->tiles, SMALL / (TILE * c->inner), dense_tiles, &dense);
}

INLINE uint32_t bits_at(const char *p) { uint32_t x; memcpy(&x, p, 4); return x; }
INLINE float float_of(uint32_t bits) { float x; memcpy(&x, &bits, 4); return x; }
INLINE part low_halves(const float *p) { return (part)((upart)load_part(p) << 16); }
INLINE part high_halves(const float *p) { return (part)((upart)load_part(p) & 0xffff0000u); }

/* One line of the panel (LOAD: it, or its low or high halves) into the sums: x[r] * w[:]. */
#define ADD_LINE(LOAD, FACTOR)                                                                                \
    {                                                                                                         \
        part w[COLUMNS];                                                                                      \
        _Pragma("GCC unroll 4") for (int m = 0; m < COLUMNS; m++) w[m] = LOAD(line + m * LANES_OF_A_PART);    \
        _Pragma("GCC unroll 8") for (int r = 0; r < rows; r++) {                                              \
            const char *own = x + r * stride;                                                                 \
            part factor = splat_part(FACTOR);                                                                 \
            _Pragma("GCC unroll 4") for (int m = 0; m < COLUMNS; m++) sum[r][m] = fma_part(factor, w[m], sum[r][m]); \
        }                                                                                                     \
    }

/* Nothing is loaded for the other halves before: there are no registers for both. */
#define FINISH_FIRST __asm__ volatile("" ::: "memory")

/* Sums of `rows` rows with the first COLUMNS parts of a tile's lines, continued over `lines` of them, one at least. */
INLINE void chain(const int rows, const int mode, const int asks, int64_t lines, const char *x, int64_t stride,
                  const float *panel, float *sums) {
    part sum[ROWS][COLUMNS];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int m = 0; m < COLUMNS; m++) sum[r][m] = load_part(sums + r * TILE + m * LANES_OF_A_PART);
    int64_t i = 0;
    do {
        const float *line = panel + i * TILE;
        if (asks)
#pragma GCC unroll 4
            for (int m = 0; 16 * m < COLUMNS * LANES_OF_A_PART; m++) __builtin_prefetch((const char *)(line + 16 * m) + AHEAD);
        if (mode == FLOATS) {
            ADD_LINE(load_part, float_of(bits_at(own + 4 * i)))
        } else if (mode == MIXED) {
            ADD_LINE(low_halves, float_of(bits_at(own + 8 * i)))
            FINISH_FIRST;
            ADD_LINE(high_halves, float_of(bits_at(own + 8 * i + 4)))
        } else {
#ifdef __AVX512BF16__
            part w[COLUMNS];
#pragma GCC unroll 4
            for (int m = 0; m < COLUMNS; m++) w[m] = load_part(line + m * LANES_OF_A_PART);
#pragma GCC unroll 8
            for (int r = 0; r < rows; r++) {
                part pair = splat_part(float_of(bits_at(x + r * stride + 4 * i)));
#pragma GCC unroll 4
                for (int m = 0; m < COLUMNS; m++)
                    sum[r][m] = (part)_mm512_dpbf16_ps((__m512)sum[r][m], (__m512bh)w[m], (__m512bh)pair);
            }
#else
            ADD_LINE(high_halves, float_of(bits_at(own + 4 * i) & 0xffff0000u))
            FINISH_FIRST;
            ADD_LINE(low_halves, float_of(bits_at(own + 4 * i) << 16))
#endif
        }
    } while (++i < lines);
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int m = 0; m < COLUMNS; m++) store_part(sums + r * TILE + m * LANES_OF_A_PART, sum[r][m]);
}

#define CASE(R, MODE, ASKS) \
    case R: chain(R, MODE, ASKS, lines, x, stride, panel, sums); break;
#define FIVE(MODE, ASKS) \
    CASE(1, MODE, ASKS) CASE(2, MODE, ASKS) CASE(3, MODE, ASKS) CASE(4, MODE, ASKS) CASE(5, MODE, ASKS)
#define SIX(MODE, ASKS) FIVE(MODE, ASKS) CASE(6, MODE, ASKS)
#define CHAINS(NAME, MODE, CASES)                                                                            \
    HOT void NAME(int64_t rows, int asks, int64_t lines, const char *x, int64_t stride, const float *panel, \
                  float *sums) {                                                                             \
        if (asks) switch (rows) { CASES(MODE, 1) }                                                           \
        else switch (rows) { CASES(MODE, 0) }                                                                \
    }
CHAINS(mixed_chains, MIXED, FIVE)
#if LANES_OF_A_PART == 16
CHAINS(float_chains, FLOATS, SIX)
#else
CHAINS(float_chains, FLOATS, FIVE)
#endif
#ifdef __AVX512BF16__
CHAINS(pair_chains, PAIRS, SIX)
#else
CHAINS(pair_chains, PAIRS, FIVE)
#endif

/* A finished row of a tile, with its bias, in y's dtype. */
INLINE void finish_at(const int is_bf16, int64_t o, int left, const float *sums, const float *bias, void *y, int64_t to) {
    vec sum = load(sums + o);
    if (bias) sum = add(sum, load_row(bias, o, left, 0));
    store_row(y, to + o, left, is_bf16, sum);
}
HOT void finish_row(int64_t count, const float *sums, const float *bias, int is_bf16, void *y, int64_t to) {
#define BODY(o, left) finish_at(1, o, left, sums, bias, y, to)
    if (is_bf16) ALONG_ROW(count, BODY)
#undef BODY
#define BODY(o, left) finish_at(0, o, left, sums, bias, y, to)
    else ALONG_ROW(count, BODY)
#undef BODY
}

static int64_t words_of(const Call *c) { return c->w_bf16 ? 2 : 1; }
static int64_t lines_of(const Call *c) { return (c->inner + words_of(c) - 1) / words_of(c); }

static Stored stored_tile(const Call *c, int64_t matrix, const int64_t *tile) {
    int64_t size = c->scales ? 1 : c->w_bf16 ? 2 : 4, scale_size = c->scale_kind == FLOAT ? 4 : c->scale_kind == BFLOAT ? 2 : 1;
    Stored s = {.stride = c->inner * size, .size = size, .outputs = tile[1], .inner = c->inner, .words = words_of(c),
                .scale_kind = c->scale_kind};
    s.rows = (const uint8_t *)c->weights + (matrix * c->outputs + tile[0]) * s.stride;
    if (c->scales)
        s.scales = (const char *)c->scales +
                   (matrix * c->scale_rows + tile[2]) * ((c->inner + SIDE - 1) / SIDE) * scale_size;
    return s;
}

/* Rows first to last of x with tile t. */
static void tile_product(const Call *c, int64_t matrix, int64_t t, int64_t first, int64_t last) {
    float own[LONGEST * TILE] __attribute__((aligned(64))), sums[STRETCH * TILE] __attribute__((aligned(64)));
    const int64_t *tile = c->tile + 3 * t;
    int64_t rows = last - first, size = c->x_bf16 ? 2 : 4, stride = c->x_stride * size, words = words_of(c);
    int64_t together = c->x_bf16 ? PAIR_ROWS : c->w_bf16 ? ROWS_BY_HALVES : ROWS;
    int64_t groups = (rows + together - 1) / together; /* of equal size: one row alone takes half as long as six */
    int64_t most = rows <= FEW ? LONGEST / 2 : LONGEST;
    if (c->is_tiled) most = groups == 1 ? c->inner : LONGEST * words;
    const char *x = (const char *)c->x + first * stride;
    const float *tiled = (const float *)c->weights + (matrix * c->tiles + t) * lines_of(c) * TILE;
    Stored stored = c->is_tiled ? (Stored){0} : stored_tile(c, matrix, tile);
    memset(sums, 0, sizeof(float) * (size_t)(rows * TILE));
    for (int64_t k = 0; k < c->inner; k += most) {
        int64_t count = k + most < c->inner ? most : c->inner - k, lines = (count + words - 1) / words;
        const float *panel = c->is_tiled ? tiled + k / words * TILE : own;
        if (!c->is_tiled) fill(&stored, k, count, own);
        for (int64_t g = 0; g < groups; g++)
            for (int64_t o = 0; o < TILE; o += COLUMNS * LANES_OF_A_PART) {
                int64_t r = g * rows / groups, some = (g + 1) * rows / groups - r;
                int asks = c->is_tiled && g == 0;
                const char *from = x + r * stride + k * size;
                float *to = sums + r * TILE + o;
                if (c->x_bf16) pair_chains(some, asks, lines, from, stride, panel + o, to);
                else if (c->w_bf16) mixed_chains(some, asks, lines, from, stride, panel + o, to);
                else float_chains(some, asks, lines, from, stride, panel + o, to);
            }
    }
    for (int64_t r = 0; r < rows; r++)
        finish_row(tile[1], sums + r * TILE, c->bias ? c->bias + tile[0] : 0, (int)c->x_bf16, c->y,
                   (first + r) * c->y_stride + tile[0]);
}

typedef struct {
    const Call *call;
    int64_t share; /* tiles of one turn */
} Shared;

static void share_product(void *context, int64_t index, int64_t worker) {
    const Shared *shared = context;
    const Call *c = shared->call;
    int64_t end = (index + 1) * shared->share, all = c->spans * c->tiles;
    for (int64_t i = index * shared->share; i < (end < all ? end : all); i++) {
        const int64_t *span = c->span + 3 * (i / c->tiles);
        for (int64_t r = span[1]; r < span[2]; r += STRETCH)
            tile_product(c, span[0], i % c->tiles, r, r + STRETCH < span[2] ? r + STRETCH : span[2]);
    }
}

/* Each span's rows of x times its matrix. Rows that meet bf16 weights have an even number of columns, `inner` or one
   more, whose last is zero then. */
int hyla_product(const Call *c) {
    int64_t rows = 0, all = c->spans * c->tiles, share = all / (8 * team_size());
    for (int64_t s = 0; s < c->spans; s++) rows += c->span[3 * s + 2] - c->span[3 * s + 1];
    share = share < 1 ? 1 : share > 4 ? 4 : share; /* tiles that follow one another are asked for ahead */
    if (rows * c->outputs * c->inner <= SMALL) share = all;
    Shared shared = {c, share};
    if (all) team_run((all + share - 1) / share, share_product, &shared);
    return 0;
}

typedef struct {
    const Call *call;
    float *out;
} Tiling;

static void lay_tiles(void *context, int64_t first, int64_t last, int64_t worker) {
    const Tiling *tiling = context;
    const Call *c = tiling->call;
    int64_t lines = lines_of(c), panels = (c->inner + LONGEST - 1) / LONGEST;
    for (int64_t i = first; i < last; i++) {
        int64_t m = i / panels, k = i % panels * LONGEST, count = k + LONGEST < c->inner ? LONGEST : c->inner - k;
        Stored stored = stored_tile(c, m / c->tiles, c->tile + 3 * (m % c->tiles));
        float panel[LONGEST * TILE] __attribute__((aligned(64))); /* its last lines may reach past the weight's */
        fill(&stored, k, count, panel);
        memcpy(tiling->out + (m * lines + k / words_of(c)) * TILE, panel,
               sizeof(float) * (size_t)(TILE * ((count + words_of(c) - 1) / words_of(c))));
    }
}

/* Plain weights [matrices][outputs][inner] in tiles: [matrices][tiles][lines][64], zeros after the last output. */
void hyla_tile(const Call *c, int64_t matrices, float *out) {
    Tiling tiling = {c, out};
    int64_t panels = (c->inner + LONGEST - 1) / LONGEST;
    team_ranges(matrices * c->tiles * panels, SMALL / (LONGEST * TILE), lay_tiles, &tiling);
}
