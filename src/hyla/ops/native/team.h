/* Loops whose turns are taken by whichever thread is free. */
#ifndef HYLA_TEAM
#define HYLA_TEAM
#include <stdint.h>

/* One turn: index of the loop, and who does it, 0 <= worker < team_size(), for memory of its own. */
typedef void Work(void *context, int64_t index, int64_t worker);

/* Threads that may take part. */
int64_t team_size(void);

/* Every index of [0, count) once. Returns when all are done. */
void team_run(int64_t count, Work *work, void *context);

#endif
