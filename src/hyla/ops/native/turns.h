/* Rows in turns of ROWS each, by several threads where there are more than SMALL elements; the including file says how
   many these are. */
#ifndef HYLA_TURNS_H
#define HYLA_TURNS_H

#include "team.h"

static int in_turns(int64_t rows, int64_t width, Work *work, const void *call) {
    int64_t turns = (rows + ROWS - 1) / ROWS;
    if (rows * width > SMALL) team_run(turns, work, (void *)call);
    else for (int64_t i = 0; i < turns; i++) work((void *)call, i, 0);
    return 0;
}

#endif
