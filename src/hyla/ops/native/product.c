/* Products with stored weights, y = x W^T: W is FP8 (e4m3 codes, one scale per block of 128 x 128) or plain. And FP8
   weights made plain.

   An output is a sum over chains: `order` products added one after another from zero, the chains' sums added in turn.
   Floats: one fused multiply-add per product. bfloat16: two products per step, as the processor's instruction defines
   it. So a row's bits depend on nothing but the row, the weight and `order`. */
#include <omp.h>

#include "vector.h"

#define SIDE 128  /* of a scale's block */
#define TILE 64   /* outputs computed together */
#define GROUPS 4  /* vectors of a tile */
#define LONGEST 1024 /* products of a chain at most */
#define SHORT 128 /* inner columns made plain at a time when the rows are few: they stay in the first cache */
#define AHEAD 128 /* bytes of a row asked for before they are needed; rows lie too far apart for the machine to guess */
#define FEW 12    /* rows at most for that */
#define STRETCH 192 /* rows computed before the next columns are made plain; a multiple of ROWS */
#define ROWS 6    /* rows whose sums fit into registers */
#define SMALL 32768 /* fewer products are not worth a second thread */

enum { FLOAT, BFLOAT, POWER }; /* of a scale: POWER is the exponent of a power of two, biased by 127 */

typedef struct {
    int64_t spans;           /* products with one matrix each */
    const int64_t *span;     /* [spans][3]: which matrix, the first row of x (and y), the last row + 1 */
    int64_t tiles;
    const int64_t *tile;     /* [tiles][3]: the first output, their count (64 at most), their row of scales */
    int64_t outputs, inner;  /* of one matrix */
    int64_t scale_rows, scale_kind;
    const void *weights;     /* [matrices][outputs][inner]: codes, or plain numbers in the dtype of x */
    const void *scales;      /* [matrices][scale_rows][ceil(inner / 128)]; none: plain */
    const void *x;
    int64_t x_stride;
    void *y;
    int64_t y_stride;
    int64_t is_bf16;         /* x and y */
    int64_t order;
    const float *bias;       /* [outputs], added to the finished sum before it is rounded; none: nothing is added */
} Call;

static inline float scale_at(const Call *c, int64_t matrix, int64_t row, int64_t column) {
    int64_t i = (matrix * c->scale_rows + row) * ((c->inner + SIDE - 1) / SIDE) + column;
    if (c->scale_kind == FLOAT) return ((const float *)c->scales)[i];
    if (c->scale_kind == BFLOAT) return from_bf16(((const uint16_t *)c->scales)[i]);
    uint32_t exponent = ((const uint8_t *)c->scales)[i], bits = exponent ? exponent << 23 : 1u << 22;
    float y;
    memcpy(&y, &bits, 4);
    return y;
}

/* The numbers that 16 codes stand for: sign, 4 bits of exponent (bias 7), 3 bits; 127 is not a number. */
static inline vec value_of(uvec code) {
    uvec size = code & 0x7f;
    vec normal = (vec)((size << 20) + (120u << 23));
    vec small = __builtin_convertvector((ivec)size, vec) * 0.001953125f;
    ivec is_small = (ivec)(size < 8), is_nan = (ivec)(size == 0x7f);
    ivec bits = ((ivec)small & is_small) | ((ivec)normal & ~is_small) | (is_nan & 0x7fc00000);
    return (vec)(bits | (ivec)((code & 0x80) << 24));
}

typedef uint8_t bvec __attribute__((vector_size(LANES), aligned(1)));

/* Outputs first to last of one matrix, plain: [last - first][inner] of floats or bfloat16. */
void hyla_fp8_dense(const Call *c, int64_t matrix, int64_t first, int64_t last, int is_bf16, void *out) {
    const uint8_t *codes = (const uint8_t *)c->weights + matrix * c->outputs * c->inner;
#pragma omp parallel for schedule(static) if ((last - first) * c->inner > SMALL)
    for (int64_t t = 0; t < c->tiles; t++) {
        int64_t low = c->tile[3 * t], high = low + c->tile[3 * t + 1];
        for (int64_t o = low < first ? first : low; o < (high < last ? high : last); o++)
            for (int64_t k = 0; k < c->inner; k += LANES) {
                int left = c->inner - k < LANES ? (int)(c->inner - k) : LANES;
                bvec code = {0};
                memcpy(&code, codes + o * c->inner + k, (size_t)left);
                vec y = value_of(__builtin_convertvector(code, uvec)) * scale_at(c, matrix, c->tile[3 * t + 2], k / SIDE);
                store_row(out, (o - first) * c->inner + k, left, is_bf16, y);
            }
    }
}

#if defined(__AVX512VBMI__) && defined(__AVX512BW__) && defined(__AVX512BF16__)

/* 16 rows of 16 words of 4 bytes, turned. */
static inline void turn(__m512i r[16]) {
    __m512i s[16];
    for (int i = 0; i < 16; i += 2) {
        s[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        s[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(s[i], s[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(s[i], s[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(s[i + 1], s[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(s[i + 1], s[i + 3]);
    }
    for (int i = 0; i < 4; i++) {
        s[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
        s[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
        s[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
        s[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
    }
    for (int i = 0; i < 4; i++) {
        r[i] = _mm512_shuffle_i32x4(s[i], s[i + 8], 0x88);
        r[i + 8] = _mm512_shuffle_i32x4(s[i], s[i + 8], 0xdd);
        r[i + 4] = _mm512_shuffle_i32x4(s[i + 4], s[i + 12], 0x88);
        r[i + 12] = _mm512_shuffle_i32x4(s[i + 4], s[i + 12], 0xdd);
    }
}

/* bfloat16 of all codes of one block, as low and high bytes; the sign is added from the code. */
typedef struct {
    __m512i low[2], high[2];
} Table;

static inline Table table_of(float scale) {
    const uvec lanes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    uint8_t low[SIDE], high[SIDE];
    for (uint32_t i = 0; i < SIDE; i += LANES) {
        uint16_t y[LANES];
        store_row(y, 0, LANES, 1, value_of(lanes + i) * scale);
        __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)y));
        _mm_storeu_si128((void *)(low + i), _mm512_cvtepi32_epi8(wide));
        _mm_storeu_si128((void *)(high + i), _mm512_cvtepi32_epi8(_mm512_srli_epi32(wide, 8)));
    }
    return (Table){{_mm512_loadu_si512(low), _mm512_loadu_si512(low + 64)},
                   {_mm512_loadu_si512(high), _mm512_loadu_si512(high + 64)}};
}

/* Of 4 columns of 16 rows (one word a row) the pairs of columns 0, 1 and 2, 3 as bfloat16. */
static inline void look_up(const Table *table, __m512i codes, __m512i *first, __m512i *second) {
    const __m512i by_pair = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15));
    codes = _mm512_shuffle_epi8(codes, by_pair);
    __m512i low = _mm512_permutex2var_epi8(table->low[0], codes, table->low[1]);
    __m512i high = _mm512_permutex2var_epi8(table->high[0], codes, table->high[1]);
    high = _mm512_ternarylogic_epi32(high, codes, _mm512_set1_epi8((char)0x80), 0xf8); /* high | (codes & 0x80) */
    *first = _mm512_unpacklo_epi8(low, high);
    *second = _mm512_unpackhi_epi8(low, high);
}

/* Rows of 64 bytes: missing rows and bytes are zeros. Asks for the bytes `ahead` as well. */
static inline void load_bytes(__m512i r[16], const uint8_t *p, int64_t stride, int rows, int64_t bytes, int64_t ahead) {
    if (rows == 16 && bytes >= 64) {
        for (int i = 0; i < 16; i++) r[i] = _mm512_loadu_si512(p + i * stride);
        for (int i = 0; i < 16; i++) _mm_prefetch((const char *)(p + i * stride + ahead), _MM_HINT_T0);
        return;
    }
    __mmask64 mask = bytes >= 64 ? ~0ull : (1ull << bytes) - 1;
    for (int i = 0; i < 16; i++) r[i] = i < rows ? _mm512_maskz_loadu_epi8(mask, p + i * stride) : _mm512_setzero_si512();
}

/* The columns k to k + count of a tile, turned: [column][64 outputs] of floats, or [pair][64 outputs] of pairs. */
static void fill(const Call *c, int64_t matrix, const int64_t *tile, int64_t k, int64_t count, float *panel) {
    int64_t size = c->scales ? 1 : c->is_bf16 ? 2 : 4, stride = c->inner * size, step = 64 / size;
    int64_t words = c->is_bf16 ? 2 : 1; /* columns of one line of the panel */
    const uint8_t *from = (const uint8_t *)c->weights + (matrix * c->outputs + tile[0]) * stride;
    int64_t end = k + count;
    Table tables[LONGEST / SIDE];
    float scales[LONGEST / SIDE];
    if (c->scales)
        for (int64_t i = 0; i * SIDE < count; i++) {
            scales[i] = scale_at(c, matrix, tile[2], k / SIDE + i);
            tables[i] = table_of(c->is_bf16 ? scales[i] : 1.0f);
        }
    for (int g = 0; g < GROUPS; g++) {
        int rows = (int)tile[1] - g * LANES;
        rows = rows < 0 ? 0 : rows > LANES ? LANES : rows;
        for (int64_t j = k; j < end; j += step) {
            __m512i r[16];
            float *line = panel + (j - k) / words * TILE + g * LANES;
            int64_t bytes = (c->inner - j) * size;
            /* Past the end of the rows the next tile begins. */
            int64_t ahead = bytes > AHEAD ? AHEAD : AHEAD + (TILE - 1) * stride;
            load_bytes(r, from + g * LANES * stride + j * size, stride, rows, bytes, ahead);
            turn(r);
            if (!c->scales) {
                for (int i = 0; i < 16; i++) _mm512_storeu_si512(line + i * TILE, r[i]);
                continue;
            }
            const Table *table = tables + (j - k) / SIDE;
            float scale = scales[(j - k) / SIDE];
            for (int i = 0; i < 16; i++) {
                __m512i pair[2];
                look_up(table, r[i], pair, pair + 1);
                if (c->is_bf16) {
                    _mm512_storeu_si512(line + 2 * i * TILE, pair[0]);
                    _mm512_storeu_si512(line + (2 * i + 1) * TILE, pair[1]);
                    continue;
                }
                for (int h = 0; h < 2; h++) {
                    store(line + (4 * i + 2 * h) * TILE, (vec)((uvec)pair[h] << 16) * scale);
                    store(line + (4 * i + 2 * h + 1) * TILE, (vec)((uvec)pair[h] & 0xffff0000u) * scale);
                }
            }
        }
    }
}

/* Sums of `rows` rows with a tile, continued over `lines` lines of the panel. */
static inline __attribute__((always_inline)) void chain(const int rows, const int is_bf16, int64_t lines, const char *x,
                                                        int64_t stride, const float *panel, float *sums) {
    vec acc[ROWS][GROUPS];
    for (int r = 0; r < rows; r++)
        for (int g = 0; g < GROUPS; g++) acc[r][g] = load(sums + r * TILE + g * LANES);
    for (int64_t i = 0; i < lines; i++) {
        vec w[GROUPS];
        for (int g = 0; g < GROUPS; g++) w[g] = load(panel + i * TILE + g * LANES);
        for (int r = 0; r < rows; r++) {
            float a;
            memcpy(&a, x + r * stride + 4 * i, 4);
            for (int g = 0; g < GROUPS; g++)
                acc[r][g] = is_bf16 ? (vec)_mm512_dpbf16_ps((__m512)acc[r][g], (__m512bh)w[g], (__m512bh)splat(a))
                                    : fma_vec(splat(a), w[g], acc[r][g]);
        }
    }
    for (int r = 0; r < rows; r++)
        for (int g = 0; g < GROUPS; g++) store(sums + r * TILE + g * LANES, acc[r][g]);
}

#define CASE(R)                                                                       \
    case R:                                                                           \
        if (is_bf16) chain(R, 1, lines, x, stride, panel, sums);                      \
        else chain(R, 0, lines, x, stride, panel, sums);                              \
        break;
static void chains(int64_t rows, int is_bf16, int64_t lines, const char *x, int64_t stride, const float *panel,
                   float *sums) {
    switch (rows) { CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) }
}

/* Rows first to last of x with one tile. */
static void tile_product(const Call *c, int64_t matrix, const int64_t *tile, int64_t first, int64_t last) {
    float panel[LONGEST * TILE] __attribute__((aligned(64)));
    float sums[STRETCH * TILE] __attribute__((aligned(64))), totals[STRETCH * TILE] __attribute__((aligned(64)));
    int64_t rows = last - first, size = c->is_bf16 ? 2 : 4, stride = c->x_stride * size, words = c->is_bf16 ? 2 : 1;
    const char *x = (const char *)c->x + first * stride;
    for (int64_t start = 0; start < c->inner; start += c->order) {
        int64_t end = start + c->order < c->inner ? start + c->order : c->inner;
        int64_t most = rows <= FEW ? SHORT : LONGEST;
        memset(sums, 0, sizeof(float) * (size_t)(rows * TILE));
        for (int64_t k = start; k < end; k += most) {
            int64_t count = k + most < end ? most : end - k;
            fill(c, matrix, tile, k, count, panel);
            for (int64_t r = 0; r < rows; r += ROWS)
                chains(r + ROWS < rows ? ROWS : rows - r, (int)c->is_bf16, (count + words - 1) / words,
                       x + r * stride + k * size, stride, panel, sums + r * TILE);
        }
        if (start == 0) memcpy(totals, sums, sizeof(float) * (size_t)(rows * TILE));
        else
            for (int64_t i = 0; i < rows * TILE; i += LANES) store(totals + i, load(totals + i) + load(sums + i));
    }
    for (int64_t r = 0; r < rows; r++)
        for (int64_t o = 0; o < tile[1]; o += LANES) {
            int left = tile[1] - o < LANES ? (int)(tile[1] - o) : LANES;
            vec y = load(totals + r * TILE + o);
            if (c->bias) y += load_row(c->bias, tile[0] + o, left, 0);
            store_row(c->y, (first + r) * c->y_stride + tile[0] + o, left, (int)c->is_bf16, y);
        }
}

/* Each span's rows of x times its matrix. bfloat16 rows have an even number of columns, at least `inner`. */
int hyla_product(const Call *c) {
    int64_t rows = 0, share = c->spans * c->tiles / (8 * omp_get_max_threads());
    for (int64_t s = 0; s < c->spans; s++) rows += c->span[3 * s + 2] - c->span[3 * s + 1];
    share = share < 1 ? 1 : share > 4 ? 4 : share; /* tiles that follow one another are asked for ahead */
#pragma omp parallel for collapse(2) schedule(dynamic, share) if (rows * c->outputs * c->inner > SMALL)
    for (int64_t s = 0; s < c->spans; s++)
        for (int64_t t = 0; t < c->tiles; t++)
            for (int64_t r = c->span[3 * s + 1]; r < c->span[3 * s + 2]; r += STRETCH) {
                int64_t end = r + STRETCH < c->span[3 * s + 2] ? r + STRETCH : c->span[3 * s + 2];
                tile_product(c, c->span[3 * s], c->tile + 3 * t, r, end);
            }
    return 0;
}

#else

int hyla_product(const Call *c) { (void)c; return 1; } /* this processor lacks the instructions */

#endif
