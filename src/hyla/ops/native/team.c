#include "team.h"

#include <omp.h>

int64_t team_size(void) { return omp_get_max_threads(); }

void team_run(int64_t count, Work *work, void *context) {
    if (count == 1) {
        work(context, 0, 0);
        return;
    }
#pragma omp parallel for schedule(dynamic)
    for (int64_t i = 0; i < count; i++) work(context, i, omp_get_thread_num());
}
