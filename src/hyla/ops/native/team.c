#define _GNU_SOURCE
#include "team.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#if defined(__linux__) && !defined(WITHOUT_FUTEX)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#define HAS_FUTEX
#endif

#define MOST_THREADS 512
#define STACK (1 << 20) /* bytes of a thread's */
#define INDEX_BITS 24
#define CLOSED ((1 << INDEX_BITS) - 1) /* as the next index: there is none. Longer loops have one thread */
#define PAUSES 200       /* looks in a row before a thread lets others run between them: some microseconds */
#define IDLE 200000      /* nanoseconds that a thread looks for the next loop before it sleeps */
#define UNFINISHED 50000 /* and that a caller looks for the end of its loop */
#define WAKES 2          /* threads that one wakes; each of them wakes as many while there are turns */
#define RANGES 8         /* for each thread, at most */

#define APART alignas(128) /* two lines of a cache: they are fetched in pairs */

/* One loop at a time. `ticket` is the loop's number and its next index: who moves it on has that turn, and the loop
   cannot end before the turn is done. So a thread that was away between its look at a loop and its move of the ticket
   finds another number there, and whatever it read meanwhile is of no account. */
static struct {
    APART atomic_flag is_taken;          /* somebody's loop is on */
    int64_t threads;                     /* made so far; the taker's */
    APART _Atomic uint64_t ticket;
    APART _Atomic int64_t count, size;   /* of the loop: turns, and threads that may take them */
    _Atomic(Work *) work;
    _Atomic(void *) context;
    APART _Atomic uint32_t done;         /* turns of the loop */
    _Atomic uint32_t is_awaited;         /* its caller sleeps on `done` */
    APART _Atomic uint32_t begun;        /* loops; idle threads look at it, and sleep on it */
    _Atomic uint32_t sleepers;
} pool = {.is_taken = ATOMIC_FLAG_INIT, .ticket = CLOSED};

static _Thread_local int is_inside; /* a turn */
static int (*count_threads)(void);

void hyla_follow_threads(int (*threads)(void)) { count_threads = threads; }

int64_t team_size(void) {
    int64_t size = count_threads ? count_threads() : 1;
    return size < 1 ? 1 : size > MOST_THREADS ? MOST_THREADS : size;
}

/* Sleep while *word is `seen`, or for a shorter time; and wake threads that sleep on it. */
#ifdef HAS_FUTEX
static void sleep_on(_Atomic uint32_t *word, uint32_t seen) {
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}
static void wake(_Atomic uint32_t *word, int threads) { syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, threads, NULL, NULL, 0); }
static void forget_sleepers(void) {}
#else
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static void sleep_on(_Atomic uint32_t *word, uint32_t seen) {
    pthread_mutex_lock(&lock);
    while (atomic_load(word) == seen) pthread_cond_wait(&changed, &lock);
    pthread_mutex_unlock(&lock);
}
static void wake(_Atomic uint32_t *word, int threads) {
    (void)word, (void)threads;
    pthread_mutex_lock(&lock);
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}
static void forget_sleepers(void) {
    pthread_mutex_init(&lock, NULL);
    pthread_cond_init(&changed, NULL);
}
#endif

static void pause_briefly(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");
#endif
}

static int64_t nanoseconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1000000000LL + now.tv_nsec;
}

/* Look at a word until it is not `seen` any more; for `patience` nanoseconds, in which others may run. Returns it. */
static uint32_t look(_Atomic uint32_t *word, uint32_t seen, int64_t patience) {
    uint32_t now = seen;
    for (int i = 0; i < PAUSES; i++) {
        if ((now = atomic_load_explicit(word, memory_order_acquire)) != seen) return now;
        pause_briefly();
    }
    for (int64_t end = nanoseconds() + patience; now == seen && nanoseconds() < end;) {
        sched_yield();
        now = atomic_load_explicit(word, memory_order_acquire);
    }
    return now;
}

/* Turns of the loop that is on, until none is left. */
static void take_turns(int64_t worker) {
    uint32_t taken = 0;
    int64_t count;
    for (;;) {
        uint64_t ticket = atomic_load_explicit(&pool.ticket, memory_order_acquire);
        int64_t index = (int64_t)(ticket & CLOSED);
        count = atomic_load_explicit(&pool.count, memory_order_acquire);
        Work *work = atomic_load_explicit(&pool.work, memory_order_acquire);
        void *context = atomic_load_explicit(&pool.context, memory_order_acquire);
        if (index >= count || worker >= atomic_load_explicit(&pool.size, memory_order_acquire)) break;
        if (!atomic_compare_exchange_strong(&pool.ticket, &ticket, ticket + 1)) continue;
        work(context, index, worker);
        taken++;
    }
    /* With a turn taken and not yet told the loop is still on, so `count` is its own. */
    if (taken && atomic_fetch_add(&pool.done, taken) + taken == count && atomic_load(&pool.is_awaited))
        wake(&pool.done, 1);
}

static int has_turns(void) {
    return (int64_t)(atomic_load(&pool.ticket) & CLOSED) < atomic_load(&pool.count);
}

static void *serve(void *number) {
    uint32_t seen = 0;
    is_inside = 1;
    for (;;) {
        uint32_t now = look(&pool.begun, seen, IDLE);
        if (now == seen) {
            atomic_fetch_add(&pool.sleepers, 1);
            while ((now = atomic_load(&pool.begun)) == seen) sleep_on(&pool.begun, seen);
            if (atomic_fetch_sub(&pool.sleepers, 1) > 1 && has_turns()) wake(&pool.begun, WAKES);
        }
        seen = now;
        take_turns((int64_t)(intptr_t)number);
    }
    return NULL;
}

/* In a new process there is only the thread that forked. */
static void begin_again(void) {
    atomic_store(&pool.ticket, CLOSED);
    atomic_store(&pool.sleepers, 0);
    pool.threads = 0;
    forget_sleepers();
    atomic_flag_clear(&pool.is_taken);
}
static void begin_again_after_forks(void) { pthread_atfork(NULL, NULL, begin_again); }

/* Signals are for the process's other threads, but for those that say what a thread itself did. */
static void make_threads(int64_t wanted) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    if (pool.threads >= wanted) return;
    pthread_once(&once, begin_again_after_forks);
    const int theirs[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP};
    sigset_t others, before;
    sigfillset(&others);
    for (size_t i = 0; i < sizeof theirs / sizeof *theirs; i++) sigdelset(&others, theirs[i]);
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, STACK);
    pthread_sigmask(SIG_SETMASK, &others, &before);
    pthread_t thread;
    while (pool.threads < wanted && !pthread_create(&thread, &attributes, serve, (void *)(intptr_t)(pool.threads + 1)))
        pool.threads++;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    pthread_attr_destroy(&attributes);
}

/* One loop, by the taker of the pool. */
static void run(int64_t count, int64_t size, Work *work, void *context) {
    uint64_t number = (atomic_load_explicit(&pool.ticket, memory_order_relaxed) >> INDEX_BITS) + 1;
    atomic_store(&pool.ticket, number << INDEX_BITS | CLOSED);
    atomic_store_explicit(&pool.count, count, memory_order_release);
    atomic_store_explicit(&pool.size, size, memory_order_release);
    atomic_store_explicit(&pool.work, work, memory_order_release);
    atomic_store_explicit(&pool.context, context, memory_order_release);
    atomic_store_explicit(&pool.done, 0, memory_order_release);
    atomic_store(&pool.ticket, (number + 1) << INDEX_BITS);
    atomic_fetch_add(&pool.begun, 1);
    if (atomic_load(&pool.sleepers)) wake(&pool.begun, WAKES);
    take_turns(0);
    uint32_t done = atomic_load(&pool.done);
    while (done != (uint32_t)count) {
        uint32_t now = look(&pool.done, done, UNFINISHED);
        if (now == done) {
            atomic_store(&pool.is_awaited, 1);
            if ((now = atomic_load(&pool.done)) == done) sleep_on(&pool.done, done);
            atomic_store(&pool.is_awaited, 0);
            now = atomic_load(&pool.done);
        }
        done = now;
    }
}

void team_run(int64_t count, Work *work, void *context) {
    int was_inside = is_inside;
    int64_t size = count < 2 || was_inside ? 1 : team_size();
    is_inside = 1;
    if (size > 1 && count <= CLOSED && !atomic_flag_test_and_set(&pool.is_taken)) {
        make_threads(size - 1);
        run(count, size, work, context);
        atomic_flag_clear(&pool.is_taken);
    } else {
        for (int64_t i = 0; i < count; i++) work(context, i, 0);
    }
    is_inside = was_inside;
}

typedef struct {
    int64_t count, parts;
    RangeWork *work;
    void *context;
} Ranges;

static void take_range(void *context, int64_t part, int64_t worker) {
    const Ranges *ranges = context;
    int64_t first = part * ranges->count / ranges->parts, end = (part + 1) * ranges->count / ranges->parts;
    ranges->work(ranges->context, first, end, worker);
}

void team_ranges(int64_t count, int64_t least, RangeWork *work, void *context) {
    int64_t parts = least > 1 ? count / least : count, most = RANGES * team_size();
    if (count < 1) return;
    Ranges ranges = {count, parts < 1 ? 1 : parts > most ? most : parts, work, context};
    team_run(ranges.parts, take_range, &ranges);
}

typedef struct {
    size_t bytes;
    void *memory;
} Memory;

static _Thread_local Memory own;
static pthread_key_t own_key; /* its value is freed when a thread ends */
static void make_key(void) { pthread_key_create(&own_key, free); }

void *team_memory(size_t bytes) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    if (bytes <= own.bytes) return own.memory;
    pthread_once(&once, make_key);
    free(own.memory);
    own.bytes = (bytes + 63) & ~(size_t)63;
    own.memory = aligned_alloc(64, own.bytes);
    if (!own.memory) own.bytes = 0;
    pthread_setspecific(own_key, own.memory);
    return own.memory;
}
