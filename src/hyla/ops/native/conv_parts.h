/* How both passes of the short convolution divide its channels: one result for all of them, or queries and keys by whole
   heads, and values. The including file has a Call with these results, and says how many CHANNELS are computed together. */
#ifndef HYLA_CONV_PARTS_H
#define HYLA_CONV_PARTS_H

/* Channels of one result: [first, first + count) of x. head: width of heads that get unit length, or 0. */
typedef struct {
    int64_t first, count, block, head;
    float *rows; /* dense: what is written, or gradients that are read */
    float scale;
} Part;

typedef struct {
    const Call *call;
    Part part[3];
    int64_t blocks; /* of all parts */
} Job;

static int64_t blocks_of(const Part *part) { return (part->count + part->block - 1) / part->block; }

static Job job_of(const Call *call) {
    int64_t keys = call->key_channels, head = call->key_dim;
    int64_t block = head > CHANNELS ? head : head ? CHANNELS / head * head : CHANNELS;
    Job job = {.call = call, .part = {{0, call->channels, CHANNELS, 0, call->y, 1.0f}}};
    if (head) {
        job.part[0] = (Part){0, keys, block, head, call->y, call->scale};
        job.part[1] = (Part){keys, keys, block, head, call->k, 1.0f};
        job.part[2] = (Part){2 * keys, call->channels - 2 * keys, CHANNELS, 0, call->v, 1.0f};
    }
    for (int i = 0; i < (head ? 3 : 1); i++) job.blocks += blocks_of(job.part + i);
    return job;
}

/* Elements of all sequences. */
static int64_t elements_of(const Call *call) {
    int64_t rows = 0;
    for (int64_t n = 0; n < call->sequences; n++) rows += call->length[n];
    return rows * call->channels;
}

#endif
