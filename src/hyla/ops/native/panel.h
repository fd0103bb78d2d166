/* A tile of stored weights, turned for a product: 64 outputs beside one another in every line of the panel. A line is one
   column as floats, or two as a pair of bfloat16. What is missing at the end of outputs or columns is zero. */
#ifndef HYLA_PANEL_H
#define HYLA_PANEL_H

#include "codes.h"

#define TILE 64    /* outputs of a tile */
#define GROUPS (TILE / LANES)
#define LONGEST 256 /* columns of a panel at most: a multiple of SIDE */
#define ASKED 128  /* bytes of a row asked for before they are needed; rows lie too far apart for the machine to guess */

typedef struct {
    const uint8_t *rows;  /* of the tile: codes, floats or bfloat16, `stride` bytes apart */
    int64_t stride, size; /* size: bytes of an element */
    int64_t outputs;      /* 64 at most */
    int64_t inner;        /* columns of a row */
    int64_t words;        /* columns of a line: 2 for bfloat16, else 1 */
    const void *scales;   /* of codes: the tile's row of them; none: plain */
    int64_t scale_kind;
    int64_t is_turned;    /* plain ones whose outputs lie beside one another: `rows` are of columns, `stride` bytes apart */
} Stored;

/* The columns k to k + count of a tile whose outputs lie beside one another already. */
HOT void float_lines(int64_t count, int64_t outputs, const float *p, int64_t stride, float *panel) {
    for (int64_t i = 0; i < count; i++, p += stride, panel += TILE) {
        if (outputs < TILE) {
            memset(panel, 0, 4 * TILE);
            memcpy(panel, p, 4 * (size_t)outputs);
            continue;
        }
#pragma GCC unroll 16
        for (int o = 0; o < TILE; o += LANES_OF_A_PART) store_part(panel + o, load_part(p + o));
    }
}
/* Two columns, the second in the upper halves. */
INLINE void pair_line(const uint16_t *first, const uint16_t *second, float *line) {
#pragma GCC unroll 16
    for (int o = 0; o < TILE; o += LANES_OF_A_PART)
        store_part(line + o, (part)((upart)widen_part(first + o) >> 16 | (upart)widen_part(second + o)));
}
HOT void pair_lines(int64_t count, int64_t outputs, const uint16_t *p, int64_t stride, float *panel) {
    uint16_t own[2][TILE];
    for (int64_t i = 0; i < count; i += 2, p += 2 * stride, panel += TILE) {
        if (outputs == TILE && i + 1 < count) {
            pair_line(p, p + stride, panel);
            continue;
        }
        memset(own, 0, sizeof own);
        memcpy(own[0], p, 2 * (size_t)outputs);
        if (i + 1 < count) memcpy(own[1], p + stride, 2 * (size_t)outputs);
        pair_line(own[0], own[1], panel);
    }
}
static void fill_lines(const Stored *s, int64_t k, int64_t count, float *panel) {
    const uint8_t *rows = s->rows + k * s->stride;
    if (s->words == 2) pair_lines(count, s->outputs, (const uint16_t *)rows, s->stride / 2, panel);
    else float_lines(count, s->outputs, (const float *)rows, s->stride / 4, panel);
}

#if defined(__AVX512VBMI__) && LANES_OF_A_PART == 16

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

/* The columns k to k + count of a tile. k is a multiple of SIDE. */
static void fill(const Stored *s, int64_t k, int64_t count, float *panel) {
    int64_t step = 64 / s->size;
    if (s->is_turned) { fill_lines(s, k, count, panel); return; }
    Table tables[LONGEST / SIDE];
    float scales[LONGEST / SIDE];
    if (s->scales)
        for (int64_t i = 0; i * SIDE < count; i++) {
            scales[i] = scale_of(s->scales, s->scale_kind, k / SIDE + i);
            table_of(s->words == 2 ? scales[i] : 1.0f, tables + i);
        }
    for (int g = 0; g < GROUPS; g++) {
        int rows = (int)s->outputs - g * LANES;
        rows = rows < 0 ? 0 : rows > LANES ? LANES : rows;
        for (int64_t j = k; j < k + count; j += step) {
            float *line = panel + (j - k) / s->words * TILE + g * LANES;
            const uint8_t *p = s->rows + g * LANES * s->stride + j * s->size;
            int64_t bytes = (s->inner - j) * s->size, at = (j - k) / SIDE;
            /* Past the end of the rows the next tile begins. */
            int64_t ahead = bytes > ASKED ? ASKED : ASKED + (TILE - 1) * s->stride;
            if (!s->scales) fill_plain(p, s->stride, rows, bytes, ahead, line);
            else if (s->words == 2) fill_pairs(p, s->stride, rows, bytes, ahead, tables + at, line);
            else fill_floats(p, s->stride, rows, bytes, ahead, tables + at, scales[at], line);
        }
    }
}

#else

/* Words of 4 bytes of `outputs` rows, `stride` bytes apart, turned: 64 bytes of each row at a time, since rows of a round
   size fall into few places of the first cache, and a line that is left half read is fetched again. */
static void fill_words(const uint8_t *rows, int64_t stride, int64_t outputs, int64_t words, float *panel) {
    for (int64_t first = 0; first < words; first += 16) {
        int64_t count = words - first < 16 ? words - first : 16;
        for (int64_t o = 0; o < outputs; o++) {
            const uint8_t *row = rows + o * stride + 4 * first;
            for (int64_t i = 0; i < count; i++) memcpy(panel + (first + i) * TILE + o, row + 4 * i, 4);
        }
    }
}

static void fill(const Stored *s, int64_t k, int64_t count, float *panel) {
    int64_t lines = (count + s->words - 1) / s->words, whole = count / s->words;
    float dense[TILE][SIDE];
    if (s->is_turned) { fill_lines(s, k, count, panel); return; }
    if (s->outputs < TILE || whole < lines) memset(panel, 0, sizeof(float) * (size_t)(lines * TILE));
    if (!s->scales) {
        const uint8_t *rows = s->rows + k * s->size;
        fill_words(rows, s->stride, s->outputs, whole, panel);
        for (int64_t o = 0; whole < lines && o < s->outputs; o++) /* half a pair */
            memcpy(panel + whole * TILE + o, rows + o * s->stride + 4 * whole, 2);
        return;
    }
    for (int64_t j = k; j < k + count; j += SIDE) {
        int64_t columns = k + count - j < SIDE ? k + count - j : SIDE;
        float scale = scale_of(s->scales, s->scale_kind, j / SIDE);
        for (int64_t o = 0; o < s->outputs; o++) {
            if (columns % s->words) memset((uint16_t *)dense[o] + columns, 0, 2);
            dense_row(columns, scale, s->words == 2, s->rows + o * s->stride + j, dense[o], 0);
        }
        fill_words((const uint8_t *)dense, sizeof dense[0], s->outputs, (columns + s->words - 1) / s->words,
                   panel + (j - k) / s->words * TILE);
    }
}

#endif

#endif
