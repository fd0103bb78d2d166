/* Softmax attention over pages of 64 keys, read where they lie.

   A row (a position and a query head) meets its pages in ascending order, in superblocks of 16 pages on the absolute
   grid. In a superblock, with m = -inf, l = a = 0 at its start, and for each of its pages with scores s:
       m' = max(m, s)   p = exp(s - m')   f = exp(m - m')   l = f l + sum p   a = f a + sum_j p_j v_j
   Scores are sums over channels upwards, a page's sum_j goes over keys upwards, one fused multiply-add each; l is kept
   as 16 partial sums. Superblocks are merged in ascending order. Keys that a row does not see have p = 0; a page or a
   superblock of such keys has f = 1 and changes nothing. So a row's bits depend neither on the rows computed with it
   nor on where a superblock was computed. */
#include <stdatomic.h>
#include <stdlib.h>

#include "blocks.h"
#include "rows.h"
#include "team.h"

#define PAGE BLOCK
#define SUPER 16 /* pages of a superblock */
#define GROUP 6  /* rows at most whose sums stand in registers together */
#define MOST_VECTORS 4 /* of a page */
#define SMALL 16384  /* fewer new elements are not worth a second thread */
#define FEW 262144   /* nor are fewer products */

typedef struct {
    int64_t sequences;
    const int64_t *offset, *length, *start;  /* of each sequence */
    const int64_t *first_page, *pages;       /* pages[first_page[n] + b]: page b of sequence n */
    int64_t heads, group, K, V, window;      /* key heads, query heads of each; window 0: all earlier keys are seen */
    int64_t q_bf16, q_row, q_head;           /* strides in elements; channels are dense */
    int64_t kv_bf16, k_row, k_head, v_row, v_head;
    int64_t tile_rows, spare_bytes;          /* at most so many rows together; for superblocks computed side by side */
    const void *q, *k, *v;                   /* [T, heads * group, K], new keys and values [T, heads, .] */
    void *k_pages, *v_pages;                 /* [P, heads, K, 64], [P, heads, 64, V]; v_pages 0: channels of the keys */
    const float *sinks;                      /* [heads * group], or 0 */
    float *o, *max, *sum;                    /* [T, heads * group, V], [T, heads * group] or 0 */
    float scale;
} Call;

typedef struct {
    int64_t sequence, head, row, count; /* rows [row, row + count) of position * group + query head */
    int64_t first, last;                /* pages that some of them see */
} Tile;

typedef struct {
    float *max, *sum, *a; /* [rows], [rows], [rows, width] */
} Part;

typedef struct {
    int64_t width;                           /* V, rounded up to whole vectors */
    int64_t *position;
    float *q, *scores, *next, *factor, *lanes, *block; /* [rows, K], [rows, 64], [rows], [rows], [rows, 16], [64, 64] */
    float *corner;                           /* [16, 16] */
    Part part, total;
} Room;

/* scores[i, :] (+)= sum_c q[i, c] k[c, :] over n rows, `wide` vectors of keys and `count` channels. */
INLINE void score_rows(const int n, const int wide, const int is_bf16, int64_t count, const float *q, int64_t stride,
                       const void *k, int is_first, const char *ahead, float *scores) {
    vec sum[GROUP][MOST_VECTORS];
#pragma GCC unroll 8
    for (int i = 0; i < n; i++)
#pragma GCC unroll 4
        for (int m = 0; m < wide; m++) sum[i][m] = is_first ? splat(0.0f) : load(scores + i * PAGE + m * LANES);
    SUM_ROWS(n, wide, is_bf16, 0, count, q, stride, k, PAGE, ahead, sum)
#pragma GCC unroll 8
    for (int i = 0; i < n; i++)
#pragma GCC unroll 4
        for (int m = 0; m < wide; m++) store(scores + i * PAGE + m * LANES, sum[i][m]);
}

/* a[i, :] = factor[i] a[i, :] + sum_{first <= j < last} p[i, j] v[j, :] over n rows and `wide` vectors of channels. */
INLINE void value_rows(const int n, const int wide, const int is_bf16, int first, int last, const float *p,
                       const float *factor, const void *v, int64_t v_stride, const char *ahead, float *a,
                       int64_t a_stride) {
    vec sum[GROUP][MOST_VECTORS];
#pragma GCC unroll 8
    for (int i = 0; i < n; i++)
#pragma GCC unroll 4
        for (int m = 0; m < wide; m++) sum[i][m] = splat(0.0f);
    SUM_ROWS(n, wide, is_bf16, first, last, p, PAGE, v, v_stride, ahead, sum)
#pragma GCC unroll 8
    for (int i = 0; i < n; i++)
#pragma GCC unroll 4
        for (int m = 0; m < wide; m++) {
            float *out = a + i * a_stride + m * LANES;
            store(out, fma_vec(splat(factor[i]), load(out), sum[i][m]));
        }
}

/* The bytes asked for while the vectors from m on are summed: each of them asks for as many again. */
INLINE const char *ahead_of(const char *ahead, int64_t vectors, const int is_bf16) {
    return ahead ? at(ahead, vectors * LANES, is_bf16) : 0;
}

INLINE void score_in(const int n, const int is_bf16, int64_t count, const float *q, int64_t stride, const void *k,
                     int is_first, const char *ahead, float *scores) {
    const int wide = SIDE_BY_SIDE(n) < MOST_VECTORS ? SIDE_BY_SIDE(n) : MOST_VECTORS;
    for (int m = 0; m < MOST_VECTORS; m += wide)
        score_rows(n, wide, is_bf16, count, q, stride, at(k, m * LANES, is_bf16), is_first,
                   ahead_of(ahead, m * count, is_bf16), scores + m * LANES);
}

INLINE void value_in(const int n, const int is_bf16, int vectors, int first, int last, const float *p,
                     const float *factor, const void *v, int64_t v_stride, const char *ahead, float *a,
                     int64_t a_stride) {
    const int wide = SIDE_BY_SIDE(n) < MOST_VECTORS ? SIDE_BY_SIDE(n) : MOST_VECTORS;
    int m = 0;
    for (; m + wide <= vectors; m += wide)
        value_rows(n, wide, is_bf16, first, last, p, factor, at(v, m * LANES, is_bf16), v_stride,
                   ahead_of(ahead, m * PAGE, is_bf16), a + m * LANES, a_stride);
    for (; wide > 1 && m < vectors; m++)
        value_rows(n, 1, is_bf16, first, last, p, factor, at(v, m * LANES, is_bf16), v_stride,
                   ahead_of(ahead, m * PAGE, is_bf16), a + m * LANES, a_stride);
}

/* The same code for each number of rows, so that the sums stay in registers. */
#define BY_ROWS(n, CASE) \
    switch (n) { case 1: CASE(1); break; case 2: CASE(2); break; case 3: CASE(3); break; case 4: CASE(4); break; \
                 case 5: CASE(5); break; default: CASE(6); }

HOT void score_group(int n, int is_bf16, int64_t count, const float *q, int64_t stride, const void *k, int is_first,
                     const char *ahead, float *scores) {
#define CASE(N) \
    if (is_bf16) score_in(N, 1, count, q, stride, k, is_first, ahead, scores); \
    else score_in(N, 0, count, q, stride, k, is_first, ahead, scores)
    BY_ROWS(n, CASE)
#undef CASE
}

HOT void value_group(int n, int vectors, int is_bf16, int first, int last, const float *p, const float *factor,
                     const void *v, int64_t v_stride, const char *ahead, float *a, int64_t a_stride) {
#define CASE(N) \
    if (is_bf16) value_in(N, 1, vectors, first, last, p, factor, v, v_stride, ahead, a, a_stride); \
    else value_in(N, 0, vectors, first, last, p, factor, v, v_stride, ahead, a, a_stride)
    BY_ROWS(n, CASE)
#undef CASE
}

/* block[j, 0..count) = source[c, j], c < count <= 64; missing channels are zeros. */
static void turn_block(const void *source, int64_t count, int is_bf16, float *corner, float *block) {
    for (int64_t c = 0; c < count; c += LANES)
        for (int j = 0; j < PAGE; j += LANES) {
            int64_t rows = least(LANES, count - c);
            copy_rows(rows, PAGE, LANES, is_bf16, at(source, c * PAGE + j, is_bf16), corner, LANES);
            if (rows < LANES) memset(corner + rows * LANES, 0, 4 * (size_t)((LANES - rows) * LANES));
            turn_corner(corner, LANES, block + j * PAGE + c);
        }
}

/* exp(old - new) for maxima old <= new; 1 where nothing changed, minus infinity included. */
INLINE vec factor_vec(vec old, vec new) {
    return select_vec(is_equal(old, new), splat(1.0f), exp_vec(subtract(old, new)));
}
static float factor_one(float old, float new) { return old == new ? 1.0f : exp_one(old - new); }

/* Keys outside [low, high] of a page are not seen. */
HOT void hide_keys(int32_t low, int32_t high, float *s) {
    for (int m = 0; m < PAGE; m += LANES)
        store(s + m, select_vec(lanes_between(low - m, high - m), load(s + m), splat(-INFINITY)));
}
/* next = the larger of a row's maximum so far and its scores. */
HOT void next_maxima(int rows, const float *s, const float *max, float *next) {
    for (int i = 0; i < rows; i++, s += PAGE) {
        vec low = larger(load(s), load(s + LANES)), high = larger(load(s + 2 * LANES), load(s + 3 * LANES));
        float new = largest(larger(low, high));
        next[i] = new > max[i] ? new : max[i];
    }
}
INLINE void factors_at(int64_t i, int left, float *factor, float *max, const float *next) {
    vec old = load_row(max, i, left, 0), new = load_row(next, i, left, 0);
    store_row(factor, i, left, 0, factor_vec(old, new));
    store_row(max, i, left, 0, new);
}
HOT void factors_of(int64_t count, float *factor, float *max, const float *next) {
#define BODY(i, left) factors_at(i, left, factor, max, next)
    ALONG_ROW(count, BODY)
#undef BODY
}
/* Scores of rows become weights, and their sums join the rows'. */
HOT void soften_rows(int rows, const float *max, const float *factor, float *s, float *sum) {
    for (int i = 0; i < rows; i++, s += PAGE, sum += LANES) {
        float base = max[i] == -INFINITY ? 0.0f : max[i];
        vec total[2];
#pragma GCC unroll 2
        for (int m = 0; m < 2; m++) {
            float *own = s + 2 * m * LANES;
            vec p = exp_vec(subtract(load(own), splat(base))), q = exp_vec(subtract(load(own + LANES), splat(base)));
            store(own, p), store(own + LANES, q);
            total[m] = add(p, q);
        }
        store(sum, fma_vec(splat(factor[i]), load(sum), add(total[0], total[1])));
    }
}

/* Scores of rows [first, last) over page b become weights; maxima, factors and sums move on. */
static void soften(const Call *call, Room *room, int first, int last, int64_t b) {
    float *scores = room->scores + first * PAGE, *max = room->part.max + first, *next = room->next + first;
    for (int i = first; i < last; i++) {
        int64_t end = room->position[i] - b * PAGE, begin = call->window ? end - call->window + 1 : 0;
        if (end < PAGE - 1 || begin > 0)
            hide_keys((int32_t)least(most(begin, 0), PAGE), (int32_t)most(least(end, PAGE), -1), room->scores + i * PAGE);
    }
    next_maxima(last - first, scores, max, next);
    factors_of(last - first, room->factor + first, max, next);
    soften_rows(last - first, next, room->factor + first, scores, room->lanes + first * LANES);
}

/* A page of one head, and the rows [first, last) of a tile that meet it. */
typedef struct {
    int64_t begin;               /* its first position */
    int first, last, is_single;  /* single: few rows, which read it where it lies; more rows share a float copy */
    const void *k, *v, *next;    /* v 0: channels of the keys; next: the keys of the page that follows, or 0 */
} Page;

/* 0 if no row of the tile sees page b. */
static int open_page(const Call *call, const Tile *tile, const Room *room, int64_t b, Page *page) {
    int count = (int)tile->count, first = 0, last = count, is_bf16 = (int)call->kv_bf16;
    const int64_t *position = room->position, begin = b * PAGE, end = begin + PAGE - 1;
    while (first < count && position[least(first + GROUP, count) - 1] < begin) first += GROUP;
    while (last > first && call->window && position[(last - 1) / GROUP * GROUP] - call->window >= end)
        last = (last - 1) / GROUP * GROUP;
    const int64_t *table = call->pages + call->first_page[tile->sequence];
    int64_t id = table[b] * call->heads + tile->head;
    *page = (Page){begin, first, last, last - first <= GROUP, at(call->k_pages, id * call->K * PAGE, is_bf16), 0, 0};
    if (call->v_pages) page->v = at(call->v_pages, id * call->V * PAGE, is_bf16);
    if (b < tile->last) page->next = at(call->k_pages, (table[b + 1] * call->heads + tile->head) * call->K * PAGE, is_bf16);
    return first < last;
}

static void score_page(const Call *call, const Page *page, Room *room) {
    int64_t K = call->K, step = page->is_single ? K : PAGE;
    for (int64_t c = 0; c < K; c += step) {
        int64_t channels = least(step, K - c);
        int is_bf16 = (int)call->kv_bf16;
        const void *keys = at(page->k, c * PAGE, is_bf16);
        const char *ahead = page->v ? at(page->v, c * PAGE, is_bf16) : 0;
        if (is_bf16 && !page->is_single) {
            copy_rows(channels, PAGE, PAGE, 1, keys, room->block, PAGE);
            keys = room->block, is_bf16 = 0;
        }
        for (int i = page->first; i < page->last; i += GROUP, ahead = 0)
            score_group((int)least(GROUP, page->last - i), is_bf16, channels, room->q + i * K + c, K, keys, c == 0, ahead,
                        room->scores + i * PAGE);
    }
}

static void add_values(const Call *call, const Page *page, Room *room) {
    for (int64_t c = 0; c < call->V; c += PAGE) {
        int64_t channels = least(PAGE, call->V - c), stride = PAGE;
        int is_bf16 = (int)call->kv_bf16;
        const void *values = room->block;
        const char *ahead = page->next ? at(page->next, c * PAGE, is_bf16) : 0;
        if (!page->v) {
            turn_block(at(page->k, c * PAGE, is_bf16), channels, is_bf16, room->corner, room->block);
            is_bf16 = 0;
        } else if (page->is_single && channels % LANES == 0) {
            values = at(page->v, c, is_bf16), stride = call->V;
        } else {
            copy_rows(PAGE, call->V, channels, is_bf16, at(page->v, c, is_bf16), room->block, PAGE);
            is_bf16 = 0;
        }
        for (int i = page->first; i < page->last; i += GROUP, ahead = 0) {
            int rows = (int)least(GROUP, page->last - i);
            int64_t low = call->window ? most(0, room->position[i] - call->window + 1 - page->begin) : 0;
            int64_t high = least(PAGE, room->position[i + rows - 1] - page->begin + 1);
            value_group(rows, (int)((channels + LANES - 1) / LANES), is_bf16, (int)low, (int)high,
                        room->scores + i * PAGE, room->factor + i, values, stride, ahead,
                        room->part.a + i * room->width + c, room->width);
        }
    }
}

/* The tile's rows over superblock `super`, into room->part. */
static void take_superblock(const Call *call, const Tile *tile, Room *room, int64_t super) {
    for (int64_t i = 0; i < tile->count; i++) room->part.max[i] = -INFINITY;
    memset(room->lanes, 0, 4 * (size_t)(tile->count * LANES));
    memset(room->part.a, 0, 4 * (size_t)(tile->count * room->width));
    int64_t last = least(tile->last + 1, (super + 1) * SUPER);
    for (int64_t b = most(tile->first, super * SUPER); b < last; b++) {
        Page page;
        if (!open_page(call, tile, room, b, &page)) continue;
        score_page(call, &page, room);
        soften(call, room, page.first, page.last, b);
        add_values(call, &page, room);
    }
    for (int64_t i = 0; i < tile->count; i++) room->part.sum[i] = sum_vec(load(room->lanes + i * LANES));
}

/* a = a old_factor + b factor. */
HOT void merge_row(int64_t width, float old_factor, float factor, float *a, const float *b) {
    for (int64_t c = 0; c < width; c += LANES)
        store(a + c, fma_vec(load(a + c), splat(old_factor), multiply(load(b + c), splat(factor))));
}
/* total = total and part, where total covers earlier keys. */
static void merge(int64_t rows, int64_t width, Part total, Part part) {
    for (int64_t i = 0; i < rows; i++) {
        float new = total.max[i] > part.max[i] ? total.max[i] : part.max[i];
        float old_factor = factor_one(total.max[i], new), factor = factor_one(part.max[i], new);
        total.max[i] = new;
        total.sum[i] = __builtin_fmaf(total.sum[i], old_factor, part.sum[i] * factor);
        merge_row(width, old_factor, factor, total.a + i * width, part.a + i * width);
    }
}

/* out = a factor / sum. */
INLINE void finish_at(int64_t c, int left, float factor, float sum, const float *a, float *out) {
    store_row(out, c, left, 0, divide(multiply(load(a + c), splat(factor)), splat(sum)));
}
HOT void finish_row(int64_t width, float factor, float sum, const float *a, float *out) {
#define BODY(c, left) finish_at(c, left, factor, sum, a, out)
    ALONG_ROW(width, BODY)
#undef BODY
}
/* The sink joins, and sums become outputs. */
static void finish(const Call *call, const Tile *tile, int64_t width, Part part) {
    for (int64_t i = 0; i < tile->count; i++) {
        int64_t row = tile->row + i, head = tile->head * call->group + row % call->group;
        int64_t out = (call->offset[tile->sequence] + row / call->group) * call->heads * call->group + head;
        float top = part.max[i], sum = part.sum[i], factor = 1.0f;
        if (call->sinks) {
            float sink = call->sinks[head], new = sink > top ? sink : top;
            factor = factor_one(top, new);
            sum = __builtin_fmaf(sum, factor, exp_one(sink - new));
            top = new;
        }
        finish_row(call->V, factor, sum, part.a + i * width, call->o + out * call->V);
        if (call->max) call->max[out] = top, call->sum[out] = sum;
    }
}

INLINE void scaled_at(const int is_bf16, int64_t c, int left, float scale, const void *x, float *out) {
    store_row(out, c, left, 0, multiply(load_row(x, c, left, is_bf16), splat(scale)));
}
HOT void scaled_row(int64_t width, int is_bf16, float scale, const void *x, float *out) {
#define BODY(c, left) scaled_at(1, c, left, scale, x, out)
    if (is_bf16) ALONG_ROW(width, BODY)
#undef BODY
#define BODY(c, left) scaled_at(0, c, left, scale, x, out)
    else ALONG_ROW(width, BODY)
#undef BODY
}
/* The tile's queries, scaled, and its positions. */
static void open_tile(const Call *call, const Tile *tile, Room *room) {
    for (int64_t i = 0; i < tile->count; i++) {
        int64_t row = tile->row + i, step = row / call->group;
        room->position[i] = call->start[tile->sequence] + step;
        int64_t from = (call->offset[tile->sequence] + step) * call->q_row;
        from += (tile->head * call->group + row % call->group) * call->q_head;
        scaled_row(call->K, (int)call->q_bf16, call->scale, at(call->q, from, call->q_bf16), room->q + i * call->K);
    }
}

/* New rows [first, last) of sequence n, all in one page, for one head. */
static void write_rows(const Call *call, int64_t n, int64_t head, int64_t first, int64_t last) {
    int64_t position = call->start[n] + first, place = position % PAGE, K = call->K, V = call->V;
    int64_t id = call->pages[call->first_page[n] + position / PAGE] * call->heads + head;
    int64_t token = call->offset[n] + first, rows = last - first, size = call->kv_bf16 ? 2 : 4;
    const char *k = (const char *)call->k + size * (token * call->k_row + head * call->k_head);
    char *out = (char *)call->k_pages + size * (id * K * PAGE + place);
    if (size == 2) {
        const uint16_t *from = (const uint16_t *)k;
        uint16_t *to = (uint16_t *)out;
        for (int64_t c = 0; c < K; c++)
            for (int64_t i = 0; i < rows; i++) to[c * PAGE + i] = from[i * call->k_row + c];
    } else {
        const float *from = (const float *)k;
        float *to = (float *)out;
        for (int64_t c = 0; c < K; c++)
            for (int64_t i = 0; i < rows; i++) to[c * PAGE + i] = from[i * call->k_row + c];
    }
    if (!call->v_pages) return;
    const char *v = (const char *)call->v + size * (token * call->v_row + head * call->v_head);
    char *values = (char *)call->v_pages + size * (id * PAGE + place) * V;
    for (int64_t i = 0; i < rows; i++) memcpy(values + i * size * V, v + i * size * call->v_row, (size_t)(size * V));
}

/* Rows of sequence n that go to its i-th touched page; returns 0 when there is none. */
static int page_rows(const Call *call, int64_t n, int64_t i, int64_t *first, int64_t *last) {
    int64_t begin = (call->start[n] / PAGE + i) * PAGE - call->start[n];
    *first = most(begin, 0), *last = least(begin + PAGE, call->length[n]);
    return *first < *last;
}

static int64_t supers(const Tile *tile) { return tile->last / SUPER - tile->first / SUPER + 1; }

/* Tiles of about `most_rows` rows, alike in size within a sequence; with tiles = 0, only counts them. */
static int64_t make_tiles(const Call *call, int64_t most_rows, Tile *tiles, int64_t *num_supers) {
    int64_t made = 0;
    *num_supers = 0;
    for (int64_t n = 0; n < call->sequences; n++) {
        int64_t rows = call->length[n] * call->group, parts = (rows + most_rows - 1) / most_rows;
        int64_t size = (rows + parts - 1) / parts;
        size = (size + GROUP - 1) / GROUP * GROUP;
        for (int64_t row = 0; row < rows; row += size)
            for (int64_t head = 0; head < call->heads; head++) {
                Tile tile = {.sequence = n, .head = head, .row = row, .count = least(size, rows - row)};
                int64_t position = call->start[n] + row / call->group;
                tile.first = call->window ? most(0, position - call->window + 1) / PAGE : 0;
                tile.last = (call->start[n] + (row + tile.count - 1) / call->group) / PAGE;
                *num_supers += supers(&tile);
                if (tiles) tiles[made] = tile;
                made++;
            }
    }
    return made;
}

static int by_work(const void *a, const void *b) {
    const Tile *x = a, *y = b;
    int64_t left = (x->last - x->first + 1) * x->count, right = (y->last - y->first + 1) * y->count;
    return left < right ? 1 : left > right ? -1 : 0;
}

/* Memory of one thread; `size` floats in all when room is 0. */
static size_t lay_out(const Call *call, int64_t rows, float *memory, Room *room) {
    int64_t width = (call->V + LANES - 1) / LANES * LANES;
    size_t sizes[] = {(size_t)(2 * rows), (size_t)(rows * call->K), (size_t)(rows * PAGE), (size_t)rows, (size_t)rows,
                      (size_t)(rows * LANES), PAGE * PAGE, LANES * LANES, (size_t)rows, (size_t)rows, (size_t)(rows * width),
                      (size_t)rows, (size_t)rows, (size_t)(rows * width)};
    float *places[14];
    size_t total = 0;
    for (int i = 0; i < 14; i++) {
        places[i] = memory ? memory + total : 0;
        total += (sizes[i] + LANES - 1) / LANES * LANES;
    }
    if (memory) {
        *room = (Room){.width = width, .position = (int64_t *)places[0], .q = places[1], .scores = places[2],
                       .next = places[3], .factor = places[4], .lanes = places[5], .block = places[6],
                       .corner = places[7], .part = {places[8], places[9], places[10]},
                       .total = {places[11], places[12], places[13]}};
    }
    return total;
}

/* One superblock of a tile, computed apart from the others. */
typedef struct {
    int64_t tile, super;
    Part part;
} Piece;

static void attend_tile(const Call *call, const Tile *tile, Room *room) {
    open_tile(call, tile, room);
    int64_t first = tile->first / SUPER, last = tile->last / SUPER;
    take_superblock(call, tile, room, first);
    Part total = room->part;
    room->part = room->total, room->total = total;
    for (int64_t super = first + 1; super <= last; super++) {
        take_superblock(call, tile, room, super);
        merge(tile->count, room->width, total, room->part);
    }
    finish(call, tile, room->width, total);
}

/* What one call computes: tiles, and where there are few of them, their superblocks as pieces. */
typedef struct {
    int64_t rows, width, num_tiles, num_pieces, touched; /* most rows of a tile; most pages that a sequence writes */
    int64_t products;                                    /* of rows with pages */
    Tile *tiles;
    Piece *pieces; /* or 0 */
    float *spare;
    const Call *call;
    atomic_int failed;
} Plan;

/* Returns 0 when memory is short. */
static int make_plan(const Call *call, Plan *plan) {
    int64_t most_rows = most(call->tile_rows, GROUP), threads = team_size(), enough = 4 * threads, num_supers;
    plan->num_tiles = make_tiles(call, most_rows, 0, &num_supers);
    while (threads > 1 && num_supers < enough && most_rows > 4 * GROUP)
        plan->num_tiles = make_tiles(call, most_rows /= 2, 0, &num_supers);
    plan->rows = most_rows + GROUP, plan->width = (call->V + LANES - 1) / LANES * LANES;
    for (int64_t n = 0; n < call->sequences; n++)
        plan->touched = most(plan->touched, (call->start[n] + call->length[n] - 1) / PAGE - call->start[n] / PAGE + 1);
    if (!(plan->tiles = malloc((size_t)plan->num_tiles * sizeof(Tile)))) return 0;
    make_tiles(call, most_rows, plan->tiles, &num_supers);
    for (const Tile *tile = plan->tiles; tile < plan->tiles + plan->num_tiles; tile++)
        plan->products += (tile->last - tile->first + 1) * tile->count * PAGE * (call->K + call->V);
    qsort(plan->tiles, (size_t)plan->num_tiles, sizeof(Tile), by_work);
    plan->num_pieces = num_supers;
    int64_t floats = plan->rows * (plan->width + 2);
    if (threads == 1 || plan->num_tiles >= enough || num_supers == plan->num_tiles ||
        num_supers * floats * 4 > call->spare_bytes)
        return 1;
    plan->pieces = malloc((size_t)num_supers * sizeof(Piece)), plan->spare = malloc((size_t)(num_supers * floats) * 4);
    if (!plan->pieces || !plan->spare) return 0;
    Piece *piece = plan->pieces;
    float *own = plan->spare;
    for (int64_t i = 0; i < plan->num_tiles; i++)
        for (int64_t super = plan->tiles[i].first / SUPER; super <= plan->tiles[i].last / SUPER; super++, own += floats)
            *piece++ = (Piece){i, super, {own, own + plan->rows, own + 2 * plan->rows}};
    return 1;
}

static int open_room(const Plan *plan, Room *room) {
    float *memory = team_memory(4 * lay_out(plan->call, plan->rows, 0, 0));
    if (memory) lay_out(plan->call, plan->rows, memory, room);
    return memory != 0;
}

static void take_tile(void *context, int64_t i, int64_t worker) {
    Plan *plan = context;
    Room room;
    if (open_room(plan, &room)) attend_tile(plan->call, plan->tiles + i, &room);
    else plan->failed = 1;
}

static void take_piece(void *context, int64_t i, int64_t worker) {
    Plan *plan = context;
    const Piece *piece = plan->pieces + i;
    const Tile *tile = plan->tiles + piece->tile;
    Room room;
    if (!open_room(plan, &room)) {
        plan->failed = 1;
        return;
    }
    room.part = piece->part;
    open_tile(plan->call, tile, &room);
    take_superblock(plan->call, tile, &room, piece->super);
}

/* The first piece of each tile takes in the others. */
static void join_pieces(void *context, int64_t i, int64_t worker) {
    const Plan *plan = context;
    const Piece *piece = plan->pieces;
    const Tile *tile = plan->tiles + piece[i].tile;
    if (i && piece[i - 1].tile == piece[i].tile) return;
    for (int64_t j = i + 1; j < plan->num_pieces && piece[j].tile == piece[i].tile; j++)
        merge(tile->count, plan->width, piece[i].part, piece[j].part);
    finish(plan->call, tile, plan->width, piece[i].part);
}

static void write_pages(void *context, int64_t from, int64_t end, int64_t worker) {
    const Plan *plan = context;
    const Call *call = plan->call;
    int64_t units = plan->touched * call->heads;
    for (int64_t i = from; i < end; i++) {
        int64_t first, last, n = i / units;
        if (page_rows(call, n, i / call->heads % plan->touched, &first, &last))
            write_rows(call, n, i % call->heads, first, last);
    }
}

/* New rows are written before any is read. */
static void attend(Plan *plan) {
    const Call *call = plan->call;
    int64_t all = call->sequences * plan->touched * call->heads, rows = 0;
    for (int64_t n = 0; n < call->sequences; n++) rows += call->length[n];
    team_ranges(all, all * SMALL / (1 + rows * call->heads * (call->K + call->V)), write_pages, plan);
    if (plan->products < FEW) {
        for (int64_t i = 0; i < plan->num_tiles; i++) take_tile(plan, i, 0);
        return;
    }
    if (!plan->pieces) {
        team_run(plan->num_tiles, take_tile, plan);
        return;
    }
    team_run(plan->num_pieces, take_piece, plan);
    if (!plan->failed) team_run(plan->num_pieces, join_pieces, plan);
}

/* Returns 0, or 1 when memory is short. */
int hyla_attention(const Call *call) {
    Plan plan = {.call = call};
    if (make_plan(call, &plan)) attend(&plan);
    else plan.failed = 1;
    free(plan.tiles), free(plan.pieces), free(plan.spare);
    return plan.failed;
}
