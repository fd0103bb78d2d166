/* Loops whose turns are taken by whichever thread is free. */
#ifndef HYLA_TEAM
#define HYLA_TEAM
#include <stddef.h>
#include <stdint.h>

/* One turn: index of the loop, and who does it, 0 <= worker < team_size(). */
typedef void Work(void *context, int64_t index, int64_t worker);
/* Indices [first, last) of a loop. */
typedef void RangeWork(void *context, int64_t first, int64_t last, int64_t worker);

/* Threads that may take part, the caller among them. It stays as it is until the caller returns to Python. */
int64_t team_size(void);

/* Every index of [0, count) once, in ascending order as far as threads begin them. Returns when all are done. The caller
   takes turns too, and waits for nobody who has not begun one. A loop inside a turn, and a loop of a second caller while
   the threads are taken, are done by their caller alone, as worker 0. */
void team_run(int64_t count, Work *work, void *context);

/* The same in ranges of `least` indices or more: a turn should be worth some microseconds. */
void team_ranges(int64_t count, int64_t least, RangeWork *work, void *context);

/* The turn's own memory, not set, at a multiple of 64 bytes; 0 where there is none. It is the thread's: the next turn
   finds it again, and a loop inside a turn must not ask for it. */
void *team_memory(size_t bytes);

/* Whom to ask how many threads there are: PyTorch. Before that there is one. */
void hyla_follow_threads(int (*threads)(void));

#endif
