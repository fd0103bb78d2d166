/* Products with stored weights, y = x W^T: W is plain, in tiles (as tiles.c lays them), or FP8. And FP8 weights made
   plain.

   An output is one sum, begun at zero, to which the products are added in the order of the columns. In floats: one fused
   multiply-add at a time. Of bfloat16 with bfloat16 two columns at a time, the second of the two first, as the
   instruction of x86 does (vdpbf16ps, which takes what is smaller than a float can hold as zero). Products of bfloat16
   are exact in floats, so every build has the same bits, but for matrix tiles, which have an order of their own. How many
   rows come together, how the weight is stored and how many threads there are changes nothing. */
#if defined(__AMX_TILE__) && defined(__AMX_BF16__)
#define HAS_TILES 1
#ifdef __linux__
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif
#ifndef HAS_TILES
#define HAS_TILES 0
#endif

#include "panel.h"
#include "team.h"

#define STRETCH 120  /* rows that are computed with one panel: a multiple of 5 and 6 */
#define FEW 12       /* rows, for which a panel of plain weights is half as long: it stays in the first cache */
#define LINES 64     /* of a panel of tiles: it and the next one lie in the first cache */
#define AHEAD 4096   /* bytes of tiles that are asked for before they are needed, where each is read once */
#define FEWEST 24    /* rows that a thread takes where threads share a tile */
#define SMALL 131072 /* fewer products are not worth a second thread */

/* Rows, and parts of a line, whose sums stay in registers beside what is loaded. A row or two take more of a line along:
   sums that do not wait for one another. */
#if LANES_OF_A_PART == 16
#define ROWS 6
#define COLUMNS 4
#define COLUMNS_OF_ONE 4
#define COLUMNS_OF_TWO 4
#elif LANES_OF_A_PART == 8
#define ROWS 6
#define COLUMNS 2
#define COLUMNS_OF_ONE 8
#define COLUMNS_OF_TWO 4
#elif !defined(PLAIN_C)
#define ROWS 5
#define COLUMNS 4
#define COLUMNS_OF_ONE 16
#define COLUMNS_OF_TWO 8
#else /* to be compared with only: what compiles fast */
#define ROWS 5
#define COLUMNS 1
#define COLUMNS_OF_ONE 1
#define COLUMNS_OF_TWO 1
#endif
#define WIDTH (COLUMNS * LANES_OF_A_PART)
#define ROWS_BY_HALVES 5 /* where a line is added in two halves: compilers load more at once then */
#ifdef __AVX512BF16__
#define HAS_PAIRS 1
#else
#define HAS_PAIRS 0
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
    int64_t x_bf16;      /* fp32 x may meet bf16 weights */
    int64_t y_bf16;
    const float *bias;   /* [outputs], added to the finished sum before it is rounded; none: nothing is added */
    int64_t x_matrix, y_matrix; /* elements from a matrix's rows of x (of y) to the next one's; 0: all share the rows */
    int64_t is_turned;   /* plain weights lie as [matrices][inner][outputs]: y = x W, as gradients of rows are */
} Call;

enum { FLOATS, PAIRS, MIXED }; /* x and W in fp32; both in bf16; x in fp32 and W in bf16 */
enum { UPWARDS = 3, IN_PAIRS }; /* two lines of floats at once; of IN_PAIRS the second is added first */

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

INLINE float float_at(const char *p) { float x; memcpy(&x, p, 4); return x; }
INLINE part low_of(part pairs) { return (part)((upart)pairs << 16); }
INLINE part high_of(part pairs) { return (part)((upart)pairs & 0xffff0000u); }
INLINE part low_halves(const float *p) { return low_of(load_part(p)); }
INLINE part high_halves(const float *p) { return high_of(load_part(p)); }

/* What a chain reads and continues. */
typedef struct {
    const char *x;         /* of its first row; rows lie `stride` bytes apart. Floats, or pairs for the pairs' instruction */
    int64_t stride;
    const float *panel;    /* lines lie `step` floats apart */
    int64_t step, lines;   /* of lines there is one at least */
    const char *ahead;     /* is asked for meanwhile, `ahead_step` bytes further with each line */
    int64_t ahead_step;
    float *sums;           /* [rows][TILE] */
} Chain;

/* Rows are three and three behind one register, as far as x86 multiplies on its way to an address. */
#define ROW_AT(r) ((r) < 3 ? x + (r) * stride : fourth + ((r) - 3) * stride)
/* One line of the panel (LOAD: it, or its low or high halves) into the sums: x[r] * w[:]. */
#define ADD_LINE(LOAD, AT)                                                                                    \
    {                                                                                                         \
        part w[MOST_COLUMNS];                                                                                 \
        _Pragma("GCC unroll 16") for (int m = 0; m < columns; m++) w[m] = LOAD(line + m * LANES_OF_A_PART);   \
        _Pragma("GCC unroll 8") for (int r = 0; r < rows; r++) {                                              \
            part factor = splat_part(float_at(ROW_AT(r) + (AT)));                                             \
            _Pragma("GCC unroll 16") for (int m = 0; m < columns; m++) sum[r][m] = fma_part(factor, w[m], sum[r][m]); \
        }                                                                                                     \
    }
/* Of each part of a line one half and then the other, for two rows at most: all factors have a register. */
#define ADD_PAIRS(FIRST, FIRST_AT, SECOND, SECOND_AT)                                                         \
    {                                                                                                         \
        part first[2], second[2];                                                                             \
        _Pragma("GCC unroll 2") for (int r = 0; r < rows; r++) {                                              \
            first[r] = splat_part(float_at(ROW_AT(r) + (FIRST_AT)));                                     \
            second[r] = splat_part(float_at(ROW_AT(r) + (SECOND_AT)));                                   \
        }                                                                                                     \
        _Pragma("GCC unroll 16") for (int m = 0; m < columns; m++) {                                          \
            part w = load_part(line + m * LANES_OF_A_PART);                                                   \
            _Pragma("GCC unroll 2") for (int r = 0; r < rows; r++)                                            \
                sum[r][m] = fma_part(second[r], SECOND(w), fma_part(first[r], FIRST(w), sum[r][m]));          \
        }                                                                                                     \
    }

#define MOST_COLUMNS 16
/* Nothing is loaded for the other halves before: there are no registers for both. */
#define FINISH_FIRST __asm__ volatile("" ::: "memory")

/* Sums of `rows` rows with `columns` parts of the lines. asks: for how many pieces of 64 bytes with each line. What
   widened panels are made of goes to the second cache only. */
INLINE void chain(const int rows, const int columns, const int mode, const int asks, const Chain *c) {
    const char *x = c->x, *fourth = x + 3 * c->stride, *ahead = c->ahead;
    const float *line = c->panel;
    const int64_t stride = c->stride, step = c->step, lines = c->lines, ahead_step = c->ahead_step;
    const int64_t bytes = mode == FLOATS || (mode == PAIRS && HAS_PAIRS) ? 4 : 8; /* of x with each turn */
    float *sums = c->sums;
    __asm__("" : "+r"(fourth)); /* not made of x again and again */
    part sum[ROWS][MOST_COLUMNS];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 16
        for (int m = 0; m < columns; m++) sum[r][m] = load_part(sums + r * TILE + m * LANES_OF_A_PART);
    int64_t i = 0;
    do {
        if (asks) {
#pragma GCC unroll 4
            for (int n = 0; n < asks; n++)
                __builtin_prefetch(ahead + 64 * n, 0, mode == UPWARDS || mode == IN_PAIRS ? 2 : 3);
            ahead += ahead_step;
        }
        if (mode == FLOATS) {
            ADD_LINE(load_part, 0)
        } else if (mode == UPWARDS) {
            ADD_LINE(load_part, 0)
            line += step;
            ADD_LINE(load_part, 4)
        } else if (mode == IN_PAIRS) {
            line += step;
            ADD_LINE(load_part, 4)
            line -= step;
            ADD_LINE(load_part, 0)
            line += step;
        } else if (mode == PAIRS && HAS_PAIRS) {
#ifdef __AVX512BF16__
            part w[MOST_COLUMNS];
#pragma GCC unroll 16
            for (int m = 0; m < columns; m++) w[m] = load_part(line + m * LANES_OF_A_PART);
#pragma GCC unroll 8
            for (int r = 0; r < rows; r++) {
                part pair = splat_part(float_at(ROW_AT(r)));
#pragma GCC unroll 16
                for (int m = 0; m < columns; m++)
                    sum[r][m] = (part)_mm512_dpbf16_ps((__m512)sum[r][m], (__m512bh)w[m], (__m512bh)pair);
            }
#endif
        } else if (mode == PAIRS && rows <= 2) {
            ADD_PAIRS(high_of, 4, low_of, 0)
        } else if (mode == PAIRS) {
            ADD_LINE(high_halves, 4)
            FINISH_FIRST;
            ADD_LINE(low_halves, 0)
        } else if (rows <= 2) {
            ADD_PAIRS(low_of, 0, high_of, 4)
        } else {
            ADD_LINE(low_halves, 0)
            FINISH_FIRST;
            ADD_LINE(high_halves, 4)
        }
        line += step, x += bytes, fourth += bytes;
    } while (++i < lines);
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 16
        for (int m = 0; m < columns; m++) store_part(sums + r * TILE + m * LANES_OF_A_PART, sum[r][m]);
}

#define SIZES(ROWS_, COLUMNS_) (16 * (ROWS_) + (COLUMNS_) - 1)
#define ALWAYS(R, C, MODE, ASKS) \
    case SIZES(R, C): chain(R, C, MODE, ASKS, c); break;
/* All of what the next lines have here is asked for, or nothing; where all rows take whole lines, some with each group. */
#define CASE(R, C, MODE, ASKS)                                                                                 \
    case SIZES(R, C):                                                                                          \
        if (ASKS == 0 || 16 * ASKS == C * LANES_OF_A_PART || (LANES_OF_A_PART == 16 && ASKS <= C)) \
            chain(R, C, MODE, ASKS, c);                                                                        \
        break;
#if LANES_OF_A_PART == 16
#define FIVE(MODE, ASKS)                                                                                \
    CASE(1, 4, MODE, ASKS) CASE(1, 2, MODE, ASKS) CASE(1, 1, MODE, ASKS) CASE(2, 4, MODE, ASKS) CASE(2, 2, MODE, ASKS) \
    CASE(3, 4, MODE, ASKS) CASE(4, 4, MODE, ASKS) CASE(5, 4, MODE, ASKS)
#elif LANES_OF_A_PART == 8
#define FIVE(MODE, ASKS)                                                                                \
    CASE(1, 8, MODE, ASKS) CASE(1, 4, MODE, ASKS) CASE(1, 2, MODE, ASKS) CASE(2, 4, MODE, ASKS) CASE(2, 2, MODE, ASKS) \
    CASE(3, 2, MODE, ASKS) CASE(4, 2, MODE, ASKS) CASE(5, 2, MODE, ASKS)
#elif defined(PLAIN_C)
#define FIVE(MODE, ASKS) \
    CASE(1, 1, MODE, ASKS) CASE(2, 1, MODE, ASKS) CASE(3, 1, MODE, ASKS) CASE(4, 1, MODE, ASKS) CASE(5, 1, MODE, ASKS)
#else
#define FIVE(MODE, ASKS)                                                                                \
    CASE(1, 16, MODE, ASKS) CASE(1, 8, MODE, ASKS) CASE(1, 4, MODE, ASKS) CASE(2, 8, MODE, ASKS) CASE(2, 4, MODE, ASKS) \
    CASE(3, 4, MODE, ASKS) CASE(4, 4, MODE, ASKS) CASE(5, 4, MODE, ASKS)
#endif
#if ROWS == 6
#define SIX(MODE, ASKS) FIVE(MODE, ASKS) CASE(6, COLUMNS, MODE, ASKS)
#define WIDE(MODE, ASKS) THREE(MODE, ASKS) ALWAYS(6, COLUMNS, MODE, ASKS)
#else
#define SIX(MODE, ASKS) FIVE(MODE, ASKS)
#define WIDE(MODE, ASKS) THREE(MODE, ASKS)
#endif
/* A panel is widened for more rows than one group has, so that a group has half of that at least. */
#define THREE(MODE, ASKS) \
    ALWAYS(3, COLUMNS, MODE, ASKS) ALWAYS(4, COLUMNS, MODE, ASKS) ALWAYS(5, COLUMNS, MODE, ASKS)
#define CHAINS(NAME, MODE, CASES)                                                 \
    HOT void NAME(int64_t rows, int64_t columns, int asks, const Chain *c) {      \
        int64_t sizes = SIZES(rows, columns);                                     \
        if (asks == 0) switch (sizes) { CASES(MODE, 0) }                          \
        else if (asks == 1) switch (sizes) { CASES(MODE, 1) }                     \
        else if (asks == 2) switch (sizes) { CASES(MODE, 2) }                     \
        else switch (sizes) { CASES(MODE, 4) }                                    \
    }
#define WIDE_CHAINS(NAME, MODE)                                                   \
    HOT void NAME(int64_t rows, int asks, const Chain *c) {                       \
        int64_t sizes = SIZES(rows, COLUMNS);                                     \
        if (asks == 0) switch (sizes) { WIDE(MODE, 0) }                           \
        else if (asks == 1) switch (sizes) { WIDE(MODE, 1) }                      \
        else switch (sizes) { WIDE(MODE, 2) }                                     \
    }
CHAINS(float_chains, FLOATS, SIX)
CHAINS(mixed_chains, MIXED, FIVE)
#if HAS_PAIRS
CHAINS(pair_chains, PAIRS, SIX)
#else
CHAINS(pair_chains, PAIRS, FIVE)
#endif
WIDE_CHAINS(upward_chains, UPWARDS)
WIDE_CHAINS(in_pairs_chains, IN_PAIRS)

/* Lines of a panel as blocks of WIDTH outputs, [TILE / WIDTH][columns][WIDTH] of floats. */
HOT void widen_floats(int64_t lines, const float *panel, float *wide) {
    for (int64_t i = 0; i < lines; i++)
#pragma GCC unroll 16
        for (int o = 0; o < TILE; o += LANES_OF_A_PART)
            store_part(wide + o / WIDTH * WIDTH * LONGEST + i * WIDTH + o % WIDTH, load_part(panel + i * TILE + o));
}
HOT void widen_pairs(int64_t lines, const float *panel, float *wide) {
    for (int64_t i = 0; i < lines; i++)
#pragma GCC unroll 16
        for (int o = 0; o < TILE; o += LANES_OF_A_PART) {
            int64_t at = o / WIDTH * WIDTH * LONGEST + 2 * i * WIDTH + o % WIDTH;
            part pairs = load_part(panel + i * TILE + o);
            store_part(wide + at, low_of(pairs)), store_part(wide + at + WIDTH, high_of(pairs));
        }
}
/* bfloat16 as floats. */
HOT void widen_row(int64_t count, const uint16_t *x, float *wide) {
#define BODY(o, left) store_row(wide, o, left, 0, load_row(x, o, left, 1));
    ALONG_ROW(count, BODY)
#undef BODY
}

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
    if (c->is_turned) {
        s.is_turned = 1, s.stride = c->outputs * size;
        s.rows = (const uint8_t *)c->weights + matrix * c->inner * s.stride + tile[0] * size;
    }
    if (c->scales)
        s.scales = (const char *)c->scales +
                   (matrix * c->scale_rows + tile[2]) * ((c->inner + SIDE - 1) / SIDE) * scale_size;
    return s;
}

/* What is computed at once: rows [first, last) of x with the outputs [from, to) of a tile. */
typedef struct {
    int64_t matrix, tile, from, to, first, last;
    const float *end; /* of the tiles that are read one after the other */
} Piece;

/* Its memory; all of it lies in the second cache. */
typedef struct {
    float panel[LONGEST * TILE], wide[LONGEST * TILE], x[STRETCH * LONGEST], sums[STRETCH * TILE];
} Space;

/* Panels and rows as chains read them. */
typedef struct {
    int mode, chain;  /* of the numbers, and of what adds them */
    int is_wide;      /* the panel is in blocks of floats */
    int64_t bytes;    /* of the panel in tiles */
    int64_t groups;   /* of rows, of equal size: one row alone takes half as long as six */
    int64_t columns;  /* parts of a line that are taken along at most */
    const float *next; /* what is read after this panel; none: nothing is asked for */
} Way;

/* All rows and outputs of a piece with one panel. While it is computed with, the next one comes to the cache: a part of it
   with each group of rows, so that none waits for memory. */
static void sweep(const Way *way, const Piece *p, Chain whole, float *sums) {
    int64_t rows = p->last - p->first;
    for (int64_t o = p->from, columns; o < p->to; o += columns * LANES_OF_A_PART) {
        columns = (p->to - o) / LANES_OF_A_PART < way->columns ? (p->to - o) / LANES_OF_A_PART : way->columns;
        int64_t pieces = columns * LANES_OF_A_PART / 16, a_pass = way->groups > 3 ? 1 : way->groups > 1 ? 2 : 4;
        int most_asks = (int)(way->is_wide ? way->mode == FLOATS ? 2 : 1 : a_pass < pieces ? a_pass : pieces);
        for (int64_t g = 0; g < way->groups; g++) {
            int64_t r = g * rows / way->groups, some = (g + 1) * rows / way->groups - r, at;
            int asks = most_asks;
            Chain c = whole;
            c.x += r * c.stride;
            c.panel += way->is_wide ? o * LONGEST : o;
            c.sums = sums + r * TILE + o;
            if (way->is_wide) { /* along all of the next panel */
                at = (WIDTH == TILE ? g : o / WIDTH) * whole.lines * 64 * asks, c.ahead_step = 64 * asks;
                if (at >= way->bytes || (WIDTH < TILE && g > 0)) asks = 0;
            } else { /* along the lines, where these outputs are */
                at = 4 * o + 64 * asks * g, c.ahead_step = 4 * TILE;
                if (asks * g >= pieces) asks = 0;
            }
            if (!way->next || (way->is_wide && way->chain == FLOATS)) asks = 0;
            c.ahead = (const char *)way->next + at;
            switch (way->chain) {
            case FLOATS: float_chains(some, columns, asks, &c); break;
            case PAIRS: pair_chains(some, columns, asks, &c); break;
            case MIXED: mixed_chains(some, columns, asks, &c); break;
            case UPWARDS: upward_chains(some, asks, &c); break;
            default: in_pairs_chains(some, asks, &c);
            }
        }
    }
}

#if HAS_TILES

/* The processor's tiles of 16 rows of 64 bytes, for bfloat16 with bfloat16: 0 to 3 are sums, 4 and 5 rows of x, 6 and 7
   weights: 16 lines of a panel. Each product takes 32 columns, so what is left of them is filled up with zeros. */
#define DEEP 16        /* lines of a tile of weights */
#define PANEL_DEEP 256 /* lines that meet all rows, one group after the other */
#define GROUP 32       /* rows of two tiles */
#define AHEAD_OF_TILES 8192

/* As the processor reads it. */
typedef struct {
    uint8_t palette, start, unused[14];
    uint16_t bytes[16];
    uint8_t rows[16];
} Shape;

/* For up to 16 rows, or up to 32, the second half in tiles of its own. */
static void shape_tiles(int64_t rows) {
    uint8_t first = (uint8_t)(rows < 16 ? rows : 16), second = (uint8_t)(rows > 16 ? rows - 16 : first);
    Shape shape = {.palette = 1, .rows = {first, first, second, second, first, second, DEEP, DEEP}};
    for (int i = 0; i < 8; i++) shape.bytes[i] = 64;
    _tile_loadconfig(&shape);
}

/* The instructions name no memory to the compiler. */
#define MEMORY_IS_READ __asm__ volatile("" ::: "memory")

/* Up to 16 rows, 64 or 32 outputs. */
INLINE void few_rows(const int is_whole, int64_t blocks, const char *x, int64_t stride, const float *panel, float *sums) {
    MEMORY_IS_READ;
    _tile_loadd(0, sums, 4 * TILE);
    _tile_loadd(1, sums + 16, 4 * TILE);
    if (is_whole) {
        _tile_loadd(2, sums + 32, 4 * TILE);
        _tile_loadd(3, sums + 48, 4 * TILE);
    }
    do {
#pragma GCC unroll 16
        for (int i = 0; i < DEEP; i++)
#pragma GCC unroll 4
            for (int n = 0; n < 4; n++)
                if (is_whole || n < 2) __builtin_prefetch((const char *)(panel + i * TILE + 16 * n) + AHEAD_OF_TILES);
        _tile_loadd(4, x, stride);
        _tile_loadd(6, panel, 4 * TILE);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, panel + 16, 4 * TILE);
        _tile_dpbf16ps(1, 4, 7);
        if (is_whole) {
            _tile_loadd(6, panel + 32, 4 * TILE);
            _tile_dpbf16ps(2, 4, 6);
            _tile_loadd(7, panel + 48, 4 * TILE);
            _tile_dpbf16ps(3, 4, 7);
        }
        x += 4 * DEEP, panel += DEEP * TILE;
    } while (--blocks);
    _tile_stored(0, sums, 4 * TILE);
    _tile_stored(1, sums + 16, 4 * TILE);
    if (is_whole) {
        _tile_stored(2, sums + 32, 4 * TILE);
        _tile_stored(3, sums + 48, 4 * TILE);
    }
    MEMORY_IS_READ;
}
HOT void few_rows_in_tiles(int is_whole, int64_t blocks, const char *x, int64_t stride, const float *panel, float *sums) {
    if (is_whole) few_rows(1, blocks, x, stride, panel, sums);
    else few_rows(0, blocks, x, stride, panel, sums);
}

/* 17 to 32 rows, 32 outputs. */
HOT void rows_in_tiles(int64_t blocks, const char *x, int64_t stride, const float *panel, float *sums) {
    const char *second = x + 16 * stride;
    float *below = sums + 16 * TILE;
    MEMORY_IS_READ;
    _tile_loadd(0, sums, 4 * TILE);
    _tile_loadd(1, sums + 16, 4 * TILE);
    _tile_loadd(2, below, 4 * TILE);
    _tile_loadd(3, below + 16, 4 * TILE);
    do {
        _tile_loadd(4, x, stride);
        _tile_loadd(6, panel, 4 * TILE);
        _tile_dpbf16ps(0, 4, 6);
        _tile_loadd(7, panel + 16, 4 * TILE);
        _tile_dpbf16ps(1, 4, 7);
        _tile_loadd(5, second, stride);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
        x += 4 * DEEP, second += 4 * DEEP, panel += DEEP * TILE;
    } while (--blocks);
    _tile_stored(0, sums, 4 * TILE);
    _tile_stored(1, sums + 16, 4 * TILE);
    _tile_stored(2, below, 4 * TILE);
    _tile_stored(3, below + 16, 4 * TILE);
    MEMORY_IS_READ;
}

/* All rows of a piece with `blocks` times 16 lines. */
static void sweep_tiles(const Piece *p, int64_t blocks, const char *x, int64_t stride, const float *panel, float *sums) {
    int64_t rows = p->last - p->first, shaped = 0;
    for (int64_t o = p->from, width = rows > 16 ? 32 : p->to - p->from; o < p->to; o += width)
        for (int64_t r = 0, some; r < rows; r += some) {
            some = rows - r < GROUP ? rows - r : GROUP;
            if (some != shaped) shape_tiles(shaped = some);
            if (some > 16) rows_in_tiles(blocks, x + r * stride, stride, panel + o, sums + r * TILE + o);
            else few_rows_in_tiles(width == TILE, blocks, x + r * stride, stride, panel + o, sums + r * TILE + o);
        }
}

static void sum_in_tiles(const Call *c, const Piece *p, Space *space) {
    int64_t rows = p->last - p->first, stride = 2 * c->x_stride, most = c->is_tiled ? 2 * PANEL_DEEP : LONGEST;
    const float *tiled = (const float *)c->weights + (p->matrix * c->tiles + p->tile) * lines_of(c) * TILE;
    Stored stored = c->is_tiled ? (Stored){0} : stored_tile(c, p->matrix, c->tile + 3 * p->tile);
    for (int64_t k = 0; k < c->inner; k += most) {
        int64_t count = k + most < c->inner ? most : c->inner - k, lines = (count + 1) / 2, rest = lines % DEEP;
        const float *panel = c->is_tiled ? tiled + k / 2 * TILE : space->panel;
        const char *x = (const char *)c->x + p->first * stride + 2 * (p->matrix * c->x_matrix + k);
        if (!c->is_tiled) fill(&stored, k, count, space->panel);
        if (lines > rest) sweep_tiles(p, lines / DEEP, x, stride, panel, space->sums);
        if (rest) {
            memset(space->wide, 0, 4 * DEEP * TILE);
            memcpy(space->wide, panel + (lines - rest) * TILE, sizeof(float) * (size_t)(rest * TILE));
            memset(space->x, 0, 4 * DEEP * (size_t)rows);
            for (int64_t r = 0; r < rows; r++)
                memcpy(space->x + r * DEEP, x + r * stride + 4 * (lines - rest), sizeof(float) * (size_t)rest);
            sweep_tiles(p, 1, (const char *)space->x, 4 * DEEP, space->wide, space->sums);
        }
    }
    _tile_release();
}

#endif

/* Ask the kernel of Linux for tiles, which it gives to those that ask only. 0: they can be used, or there are none here. */
int hyla_tiles_refused(void) {
#if defined(__AMX_TILE__) && defined(__linux__)
    return (int)syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* the tiles' data */);
#else
    return 0;
#endif
}

static void finish_piece(const Call *c, const Piece *p, const float *sums) {
    const int64_t *tile = c->tile + 3 * p->tile;
    int64_t outputs = (p->to < tile[1] ? p->to : tile[1]) - p->from, o = tile[0] + p->from;
    for (int64_t r = 0; r < p->last - p->first; r++)
        finish_row(outputs, sums + r * TILE + p->from, c->bias ? c->bias + o : 0, (int)c->y_bf16, c->y,
                   p->matrix * c->y_matrix + (p->first + r) * c->y_stride + o);
}

static void sum_by_lines(const Call *c, const Piece *p, Space *space) {
    int64_t rows = p->last - p->first, size = c->x_bf16 ? 2 : 4, stride = c->x_stride * size, words = words_of(c);
    Way way = {.mode = !c->w_bf16 ? FLOATS : c->x_bf16 ? PAIRS : MIXED, };
    way.chain = way.mode;
    int by_instruction = HAS_PAIRS && way.mode == PAIRS;
    int64_t together = way.mode == FLOATS || by_instruction ? ROWS : ROWS_BY_HALVES;
    way.is_wide = rows > together && !by_instruction && (way.mode != FLOATS || WIDTH < TILE);
    if (way.is_wide) together = ROWS;
    way.groups = (rows + together - 1) / together;
    way.columns = rows == 1 ? COLUMNS_OF_ONE : rows == 2 ? COLUMNS_OF_TWO : COLUMNS;
    int once = p->to - p->from <= way.columns * LANES_OF_A_PART && way.groups == 1;
    int64_t most = way.is_wide ? LONGEST : c->is_tiled ? LINES * words : rows <= FEW ? LONGEST / 2 : LONGEST;
    const char *x = (const char *)c->x + p->first * stride + p->matrix * c->x_matrix * size;
    const float *tiled = (const float *)c->weights + (p->matrix * c->tiles + p->tile) * lines_of(c) * TILE;
    Stored stored = c->is_tiled ? (Stored){0} : stored_tile(c, p->matrix, c->tile + 3 * p->tile);
    for (int64_t k = 0; k < c->inner; k += most) {
        int64_t count = k + most < c->inner ? most : c->inner - k, lines = (count + words - 1) / words;
        way.bytes = 4 * lines * TILE;
        Chain whole = {.x = x + k * size, .stride = stride, .step = TILE, .lines = lines};
        if (c->is_tiled) {
            whole.panel = tiled + k / words * TILE;
            way.next = whole.panel + (once ? AHEAD / 4 : lines * TILE);
            if (!once && way.next >= p->end) way.next = 0;
        } else {
            whole.panel = space->panel;
            fill(&stored, k, count, space->panel);
        }
        if (way.mode == PAIRS && !by_instruction) {
            for (int64_t r = 0; r < rows; r++)
                widen_row(lines * words, (const uint16_t *)(whole.x + r * stride), space->x + r * LONGEST);
            whole.x = (const char *)space->x, whole.stride = 4 * LONGEST;
        }
        if (way.is_wide) {
            if (words == 2) widen_pairs(lines, whole.panel, space->wide);
            else widen_floats(lines, whole.panel, space->wide);
            int by_two = words == 2 || lines % 2 == 0;
            way.chain = !by_two ? FLOATS : way.mode == PAIRS ? IN_PAIRS : UPWARDS;
            whole.panel = space->wide, whole.step = WIDTH, whole.lines = by_two ? lines * words / 2 : lines;
        }
        sweep(&way, p, whole, space->sums);
    }
}

static void piece_product(const Call *c, const Piece *p, Space *space) {
    memset(space->sums, 0, sizeof(float) * (size_t)((p->last - p->first) * TILE));
#if HAS_TILES
    if (c->w_bf16 && c->x_bf16) sum_in_tiles(c, p, space);
    else
#endif
        sum_by_lines(c, p, space);
    finish_piece(c, p, space->sums);
}

/* How a product is cut: the rows of every span into `blocks`, its tiles into `parts` each, of which `share` make a turn. */
typedef struct {
    const Call *c;
    int64_t blocks, parts, share, turns; /* turns: of one block */
} Cut;

static void product_turn(void *context, int64_t index, int64_t worker) {
    const Cut *cut = context;
    const Call *c = cut->c;
    const int64_t *span = c->span + 3 * (index / (cut->blocks * cut->turns));
    int64_t rows = span[2] - span[1], own = (rows + cut->blocks - 1) / cut->blocks, units = c->tiles * cut->parts;
    int64_t first = span[1] + index / cut->turns % cut->blocks * own, last = first + own < span[2] ? first + own : span[2];
    int64_t unit = index % cut->turns * cut->share, end = unit + cut->share < units ? unit + cut->share : units;
    Space space __attribute__((aligned(64)));
    (void)worker;
    Piece p = {.matrix = span[0]};
    p.end = (const float *)c->weights + (p.matrix * c->tiles + (end + cut->parts - 1) / cut->parts) * lines_of(c) * TILE;
    for (; unit < end; unit++)
        for (p.first = first; p.first < last; p.first = p.last) {
            p.last = p.first + STRETCH < last ? p.first + STRETCH : last;
            p.tile = unit / cut->parts;
            p.from = unit % cut->parts * TILE / cut->parts, p.to = p.from + TILE / cut->parts;
            if (p.from < c->tile[3 * p.tile + 1]) piece_product(c, &p, &space);
        }
}

/* Each span's rows of x times its matrix. Rows that meet bf16 weights have an even number of columns, `inner` or one
   more, whose last is zero then. */
int hyla_product(const Call *c) {
    int64_t rows = 0, most = 0, team = team_size();
    for (int64_t s = 0; s < c->spans; s++) {
        int64_t own = c->span[3 * s + 2] - c->span[3 * s + 1];
        rows += own, most = own > most ? own : most;
    }
    Cut cut = {.c = c, .blocks = 1, .parts = 1};
    int64_t units = c->spans * c->tiles;
    if (units < 2 * team) { /* tiles in two or four, down to 64 bytes of y, which no two threads share */
        int64_t finest = !c->is_tiled || most > 2 ? 1 : c->y_bf16 ? 2 : most == 1 ? 4 : 2;
        while (cut.parts < finest && units * cut.parts < 2 * team) cut.parts *= 2;
        cut.blocks = 2 * team / (units * cut.parts);
        int64_t many = most / FEWEST;
        cut.blocks = cut.blocks > many ? many : cut.blocks;
        if (cut.blocks < 1) cut.blocks = 1;
    }
    cut.share = units * cut.parts * cut.blocks / (8 * team); /* tiles that follow one another are asked for ahead */
    cut.share = cut.share < 1 ? 1 : cut.share > 4 ? 4 : cut.share;
    cut.turns = (c->tiles * cut.parts + cut.share - 1) / cut.share;
    int64_t count = c->spans * cut.blocks * cut.turns;
    if (rows * c->outputs * c->inner <= SMALL)
        for (int64_t i = 0; i < count; i++) product_turn(&cut, i, 0);
    else team_run(count, product_turn, &cut);
    return 0;
}
