/* A program: calls of kernels, written down once and made again one after another. */
#include <stdint.h>

typedef struct {
    int (*kernel)(const void *call);
    const void *call;
} Step;

/* Returns what the first kernel that failed returned, else 0. */
int hyla_run(const Step *steps, int64_t count) {
    for (int64_t i = 0; i < count; i++) {
        int failed = steps[i].kernel(steps[i].call);
        if (failed) return failed;
    }
    return 0;
}
