/* Plain weights in the tiles of product.c: [matrices][tiles][lines][64], zeros after the last output. The matrices that
   stand over one another are read where each of them is, in a mapped file for example: nothing is joined before. */
#include "panel.h"
#include "team.h"

#define SPREAD 64 /* bytes between rows: rows of a round size would meet in few places of the first cache */

typedef struct {
    const char *rows;
    int64_t outputs, row_stride, matrix_stride; /* strides in bytes */
} Part;

typedef struct {
    int64_t matrices, outputs, inner; /* of all parts together */
    int64_t is_bf16;
    int64_t parts;
    const Part *part;
    float *out;
} Call;

/* The bytes from `start` on of the tile's rows, `bytes` of each, close together. Returns how many rows there are. */
static int64_t gather(const Call *c, int64_t matrix, int64_t first, int64_t start, int64_t bytes, char *close,
                      int64_t stride) {
    int64_t rows = 0;
    const Part *part = c->part, *end = c->part + c->parts;
    while (part < end && first >= part->outputs) first -= part++->outputs;
    for (; part < end && rows < TILE; part++, first = 0) {
        const char *from = part->rows + matrix * part->matrix_stride + start;
        for (int64_t o = first; o < part->outputs && rows < TILE; o++, rows++)
            memcpy(close + rows * stride, from + o * part->row_stride, (size_t)bytes);
    }
    return rows;
}

static void tile(void *context, int64_t index, int64_t worker) {
    (void)worker;
    const Call *c = context;
    char close[TILE * (LONGEST * sizeof(float) + SPREAD)] __attribute__((aligned(64)));
    float own[LONGEST * TILE] __attribute__((aligned(64)));
    int64_t words = c->is_bf16 ? 2 : 1, size = 4 / words, lines = (c->inner + words - 1) / words;
    int64_t tiles = (c->outputs + TILE - 1) / TILE, stride = LONGEST * size + SPREAD;
    for (int64_t k = 0; k < c->inner; k += LONGEST) {
        int64_t count = k + LONGEST < c->inner ? LONGEST : c->inner - k;
        int64_t rows = gather(c, index / tiles, index % tiles * TILE, k * size, count * size, close, stride);
        Stored stored = {.rows = (const uint8_t *)close, .stride = stride, .size = size, .outputs = rows, .inner = count,
                         .words = words};
        float *out = c->out + (index * lines + k / words) * TILE, *panel = count == LONGEST ? out : own;
        fill(&stored, 0, count, panel); /* the last lines may reach past the weight's */
        if (panel == own) memcpy(out, own, sizeof(float) * (size_t)(TILE * ((count + words - 1) / words)));
    }
}

int hyla_tiles(const Call *c) {
    team_run(c->matrices * ((c->outputs + TILE - 1) / TILE), tile, (void *)c);
    return 0;
}
