/* Random loops by a team of threads (src/hyla/ops/native/team.c): every turn once, by one thread at a time for each
   worker's number. Prints nothing and returns 0, or says what went wrong. For races:
   gcc -g -O1 -fsanitize=thread -pthread -I src/hyla/ops/native tests/ops/team_loops.c src/hyla/ops/native/team.c */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "team.h"

#define MOST_TURNS 300
#define MOST_WORKERS 16
#define CALLERS 3

static _Thread_local int threads = 1;
static int own_threads(void) { return threads; }

#define CHECK(condition) \
    if (!(condition)) fprintf(stderr, "line %d: " #condition "\n", __LINE__), _exit(1)

typedef struct {
    int64_t count, size, work;
    int64_t turns[MOST_TURNS]; /* how often each was taken: not atomic, a turn's end is seen by the caller */
    int64_t shares[MOST_WORKERS];
    int is_nested;
} Loop;

static unsigned draw(unsigned *seed) { return (*seed = *seed * 1664525u + 1013904223u) >> 8; }

static void inner_turn(void *context, int64_t index, int64_t worker) {
    CHECK(worker == 0);
    ((int64_t *)context)[index]++;
}

static void turn(void *context, int64_t index, int64_t worker) {
    Loop *loop = context;
    CHECK(0 <= index && index < loop->count && 0 <= worker && worker < loop->size);
    loop->turns[index]++, loop->shares[worker]++;
    unsigned seed = (unsigned)index;
    unsigned *memory = team_memory(sizeof *memory * (size_t)(1 + loop->work));
    for (int64_t i = 0; i < loop->work; i++) memory[i] = draw(&seed);
    for (int64_t i = 0; i < loop->work; i++) CHECK(memory[i] < 1u << 24);
    if (!loop->is_nested) return;
    int64_t inner[20] = {0};
    team_run(20, inner_turn, inner);
    for (int i = 0; i < 20; i++) CHECK(inner[i] == 1);
}

static void range_turn(void *context, int64_t first, int64_t last, int64_t worker) {
    CHECK(first < last);
    for (int64_t i = first; i < last; i++) turn(context, i, worker);
}

static void run_loops(unsigned seed, int number) {
    for (int n = 0; n < number; n++) {
        threads = 1 + (int)(draw(&seed) % (n % 50 ? 6 : MOST_WORKERS));
        Loop loop = {.count = draw(&seed) % (n % 2 ? 8 : MOST_TURNS), .size = team_size(), .is_nested = n % 7 == 0};
        loop.work = draw(&seed) % (n % 11 ? 50 : 3000);
        int64_t total = 0, least = draw(&seed) % 9;
        CHECK(loop.size == threads);
        if (n % 3) team_run(loop.count, turn, &loop);
        else team_ranges(loop.count, least, range_turn, &loop);
        for (int64_t i = 0; i < loop.count; i++) CHECK(loop.turns[i] == 1);
        for (int i = 0; i < MOST_WORKERS; i++) total += loop.shares[i];
        CHECK(total == loop.count);
        if (draw(&seed) % 200 == 0) usleep(draw(&seed) % 1000); /* until some sleep */
    }
}

static void *caller(void *seed) {
    run_loops((unsigned)(size_t)seed, 2000);
    return 0;
}

static void in_a_child(unsigned seed, int number) {
    pid_t child = fork();
    CHECK(child >= 0);
    if (!child) {
        run_loops(seed, number);
        _exit(0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

int main(int count, char **arguments) {
    hyla_follow_threads(own_threads);
    run_loops(1, 3000);
    pthread_t callers[CALLERS];
    for (size_t i = 0; i < CALLERS; i++) pthread_create(callers + i, 0, caller, (void *)(i + 2));
    int forks = count > 1 ? atoi(arguments[1]) : 20;
    for (int i = 0; i < forks; i++) in_a_child((unsigned)i, 100); /* while others are in the middle of loops */
    run_loops(9, 2000);
    for (int i = 0; i < CALLERS; i++) pthread_join(callers[i], 0);
    return 0;
}
