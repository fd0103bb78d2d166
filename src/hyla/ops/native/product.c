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

/* The numbers that codes stand for: sign, 4 bits of exponent (bias 7), 3 bits; 127 is not a number. */
INLINE part value_of(upart code) {
    upart size = code & 0x7f;
    part normal = (part)((size << 20) + (120u << 23));
    part small = __builtin_convertvector((ipart)size, part) * splat_part(0.001953125f);
    part value = select_part((ipart)((ipart)size < 8), small, normal);
    ipart nan = (ipart)((ipart)size == 0x7f) & 0x7fc00000;
    return (part)((ipart)value | nan | (ipart)((code & 0x80) << 24));
}
INLINE vec values_of(const uint8_t *codes) {
    vec y;
    EVERY_PART y.at[i] = value_of(from_bytes_part(codes + i * LANES_OF_A_PART));
    return y;
}

/* `count` numbers with one scale. */
INLINE void dense_in(const int is_bf16, int64_t count, float scale, const uint8_t *codes, void *out, int64_t to) {
    int64_t k = 0;
#pragma GCC unroll 1
    for (; k + LANES <= count; k += LANES)
        store_full(out, to + k, is_bf16, multiply(values_of(codes + k), splat(scale)));
    if (k == count) return;
    uint8_t rest[LANES] = {0};
    memcpy(rest, codes + k, (size_t)(count - k));
    store_row(out, to + k, (int)(count - k), is_bf16, multiply(values_of(rest), splat(scale)));
}
HOT void dense_row(int64_t count, float scale, int is_bf16, const uint8_t *codes, void *out, int64_t to) {
    if (is_bf16) dense_in(1, count, scale, codes, out, to);
    else dense_in(0, count, scale, codes, out, to);
}

/* Outputs first to last of one matrix, plain: [last - first][inner] of floats or bfloat16. */
void hyla_fp8_dense(const Call *c, int64_t matrix, int64_t first, int64_t last, int is_bf16, void *out) {
    const uint8_t *codes = (const uint8_t *)c->weights + matrix * c->outputs * c->inner;
#pragma omp parallel for schedule(static) if ((last - first) * c->inner > SMALL)
    for (int64_t t = 0; t < c->tiles; t++) {
        int64_t low = c->tile[3 * t], high = low + c->tile[3 * t + 1];
        for (int64_t o = low < first ? first : low; o < (high < last ? high : last); o++)
            for (int64_t k = 0; k < c->inner; k += SIDE) {
                int64_t count = c->inner - k < SIDE ? c->inner - k : SIDE;
                dense_row(count, scale_at(c, matrix, c->tile[3 * t + 2], k / SIDE), is_bf16, codes + o * c->inner + k, out,
                          (o - first) * c->inner + k);
            }
    }
}

#if defined(__AVX512VBMI__) && defined(__AVX512BW__) && defined(__AVX512BF16__)

/* 16 rows of 16 words of 4 bytes, turned. */
INLINE void turn(__m512i r[16]) {
    __m512i s[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; i += 2) {
        s[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        s[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < 16; i += 4) {
        r[i] = _mm512_unpacklo_epi64(s[i], s[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(s[i], s[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(s[i + 1], s[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(s[i + 1], s[i + 3]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; i++) {
        s[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
        s[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
        s[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
        s[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
    }
#pragma GCC unroll 4
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

HOT void table_of(float scale, Table *table) {
    const upart lanes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    for (uint32_t i = 0; i < SIDE; i += LANES) {
        __m512i wide = (__m512i)bf16_part(value_of(lanes + i) * splat_part(scale));
        _mm_storeu_si128((void *)((uint8_t *)table->low + i), _mm512_cvtepi32_epi8(wide));
        _mm_storeu_si128((void *)((uint8_t *)table->high + i), _mm512_cvtepi32_epi8(_mm512_srli_epi32(wide, 8)));
    }
}

/* Of 4 columns of 16 rows (one word a row) the pairs of columns 0, 1 and 2, 3 as bfloat16. */
INLINE void look_up(const Table *table, __m512i codes, __m512i *first, __m512i *second) {
    const __m512i by_pair = _mm512_broadcast_i32x4(_mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15));
    codes = _mm512_shuffle_epi8(codes, by_pair);
    __m512i low = _mm512_permutex2var_epi8(table->low[0], codes, table->low[1]);
    __m512i high = _mm512_permutex2var_epi8(table->high[0], codes, table->high[1]);
    high = _mm512_ternarylogic_epi32(high, codes, _mm512_set1_epi8((char)0x80), 0xf8); /* high | (codes & 0x80) */
    *first = _mm512_unpacklo_epi8(low, high);
    *second = _mm512_unpackhi_epi8(low, high);
}

/* 64 bytes of each of 16 rows, turned. Missing rows and bytes are zeros; the bytes `ahead` are asked for. */
INLINE void load_turned(__m512i r[16], const uint8_t *p, int64_t stride, int rows, int64_t bytes, int64_t ahead) {
    if (rows == 16 && bytes >= 64) {
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) r[i] = _mm512_loadu_si512(p + i * stride);
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) _mm_prefetch((const char *)(p + i * stride + ahead), _MM_HINT_T0);
    } else {
        __mmask64 some = bytes >= 64 ? ~0ull : (1ull << bytes) - 1;
#pragma GCC unroll 16
        for (int i = 0; i < 16; i++) r[i] = _mm512_maskz_loadu_epi8(i < rows ? some : 0, i < rows ? p + i * stride : p);
    }
    turn(r);
}
HOT void fill_plain(const uint8_t *p, int64_t stride, int rows, int64_t bytes, int64_t ahead, float *line) {
    __m512i r[16];
    load_turned(r, p, stride, rows, bytes, ahead);
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) _mm512_storeu_si512(line + i * TILE, r[i]);
}
HOT void fill_pairs(const uint8_t *p, int64_t stride, int rows, int64_t bytes, int64_t ahead, const Table *table,
                    float *line) {
    __m512i r[16];
    load_turned(r, p, stride, rows, bytes, ahead);
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) {
        __m512i first, second;
        look_up(table, r[i], &first, &second);
        _mm512_storeu_si512(line + 2 * i * TILE, first);
        _mm512_storeu_si512(line + (2 * i + 1) * TILE, second);
    }
}
/* The table is of scale 1, whose bfloat16 are exact. */
HOT void fill_floats(const uint8_t *p, int64_t stride, int rows, int64_t bytes, int64_t ahead, const Table *table,
                     float scale, float *line) {
    __m512i r[16];
    load_turned(r, p, stride, rows, bytes, ahead);
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) {
        __m512i pair[2];
        look_up(table, r[i], pair, pair + 1);
#pragma GCC unroll 2
        for (int h = 0; h < 2; h++) {
            store_part(line + (4 * i + 2 * h) * TILE, (part)((upart)pair[h] << 16) * splat_part(scale));
            store_part(line + (4 * i + 2 * h + 1) * TILE, (part)((upart)pair[h] & 0xffff0000u) * splat_part(scale));
        }
    }
}

/* The columns k to k + count of a tile, turned: [column][64 outputs] of floats, or [pair][64 outputs] of pairs. */
static void fill(const Call *c, int64_t matrix, const int64_t *tile, int64_t k, int64_t count, float *panel) {
    int64_t size = c->scales ? 1 : c->is_bf16 ? 2 : 4, stride = c->inner * size, step = 64 / size;
    int64_t words = c->is_bf16 ? 2 : 1; /* columns of one line of the panel */
    const uint8_t *from = (const uint8_t *)c->weights + (matrix * c->outputs + tile[0]) * stride;
    Table tables[LONGEST / SIDE];
    float scales[LONGEST / SIDE];
    if (c->scales)
        for (int64_t i = 0; i * SIDE < count; i++) {
            scales[i] = scale_at(c, matrix, tile[2], k / SIDE + i);
            table_of(c->is_bf16 ? scales[i] : 1.0f, tables + i);
        }
    for (int g = 0; g < GROUPS; g++) {
        int rows = (int)tile[1] - g * LANES;
        rows = rows < 0 ? 0 : rows > LANES ? LANES : rows;
        for (int64_t j = k; j < k + count; j += step) {
            float *line = panel + (j - k) / words * TILE + g * LANES;
            const uint8_t *p = from + g * LANES * stride + j * size;
            int64_t bytes = (c->inner - j) * size, at = (j - k) / SIDE;
            /* Past the end of the rows the next tile begins. */
            int64_t ahead = bytes > AHEAD ? AHEAD : AHEAD + (TILE - 1) * stride;
            if (!c->scales) fill_plain(p, stride, rows, bytes, ahead, line);
            else if (c->is_bf16) fill_pairs(p, stride, rows, bytes, ahead, tables + at, line);
            else fill_floats(p, stride, rows, bytes, ahead, tables + at, scales[at], line);
        }
    }
}

/* Sums of `rows` rows with a tile, continued over `lines` lines of the panel. */
INLINE void chain(const int rows, const int is_bf16, int64_t lines, const char *x, int64_t stride, const float *panel,
                  float *sums) {
    __m512 sum[ROWS][GROUPS];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int g = 0; g < GROUPS; g++) sum[r][g] = _mm512_loadu_ps(sums + r * TILE + g * LANES);
    for (int64_t i = 0; i < lines; i++) {
        __m512 w[GROUPS];
#pragma GCC unroll 4
        for (int g = 0; g < GROUPS; g++) w[g] = _mm512_loadu_ps(panel + i * TILE + g * LANES);
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            float a;
            memcpy(&a, x + r * stride + 4 * i, 4);
            __m512 all = _mm512_set1_ps(a);
#pragma GCC unroll 4
            for (int g = 0; g < GROUPS; g++)
                sum[r][g] = is_bf16 ? _mm512_dpbf16_ps(sum[r][g], (__m512bh)w[g], (__m512bh)all)
                                    : _mm512_fmadd_ps(all, w[g], sum[r][g]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++)
#pragma GCC unroll 4
        for (int g = 0; g < GROUPS; g++) _mm512_storeu_ps(sums + r * TILE + g * LANES, sum[r][g]);
}

#define CASE(R)                                                                       \
    case R:                                                                           \
        if (is_bf16) chain(R, 1, lines, x, stride, panel, sums);                      \
        else chain(R, 0, lines, x, stride, panel, sums);                              \
        break;
HOT void chains(int64_t rows, int is_bf16, int64_t lines, const char *x, int64_t stride, const float *panel,
                float *sums) {
    switch (rows) { CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6) }
}

HOT void add_sums(int64_t count, const float *sums, float *totals) {
    for (int64_t i = 0; i < count; i += LANES) store(totals + i, add(load(totals + i), load(sums + i)));
}

/* A finished row of a tile, with its bias, in y's dtype. */
INLINE void finish_at(const int is_bf16, int64_t o, int left, const float *totals, const float *bias, void *y, int64_t to) {
    vec sum = load(totals + o);
    if (bias) sum = add(sum, load_row(bias, o, left, 0));
    store_row(y, to + o, left, is_bf16, sum);
}
HOT void finish_row(int64_t count, const float *totals, const float *bias, int is_bf16, void *y, int64_t to) {
#define BODY(o, left) finish_at(1, o, left, totals, bias, y, to)
    if (is_bf16) ALONG_ROW(count, BODY)
#undef BODY
#define BODY(o, left) finish_at(0, o, left, totals, bias, y, to)
    else ALONG_ROW(count, BODY)
#undef BODY
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
        else add_sums(rows * TILE, sums, totals);
    }
    for (int64_t r = 0; r < rows; r++)
        finish_row(tile[1], totals + r * TILE, c->bias ? c->bias + tile[0] : 0, (int)c->is_bf16, c->y,
                   (first + r) * c->y_stride + tile[0]);
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
