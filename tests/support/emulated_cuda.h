/* CUDA's threads of a block as coroutines of one thread of the host, so that a kernel's own source runs, and is tested, without a
 * GPU. A warp runs as far as it comes without the others: its threads take turns where they wait for each other, until all wait for
 * the block; then the next warp runs. Warps and threads have their turns from the first to the last, or from the last to the first,
 * so that what is read before it is written, or written before it is read, is another number in one of the two.
 *
 * Included before the source. It says nothing of a GPU's rounding and speed. */

#include <math.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#define __global__
#define __device__
#define __noinline__
#define __shared__
#define __launch_bounds__(count)
#define __align__(bytes)
#define STACK_BYTES (256 * 1024)
#define MOST_WARPS 32

struct double2 {
    double x, y;
};
struct Index {
    int x;
};

static double memory[32 * 1024] __attribute__((aligned(64)));
static Index threadIdx, blockIdx;
/* Begun as contexts, gone on with by jumps, which take no system call. */
static ucontext_t contexts[32 * MOST_WARPS];
static jmp_buf scheduling, waiting[32 * MOST_WARPS];
static bool begun[32 * MOST_WARPS], done[32 * MOST_WARPS], at_whole[32 * MOST_WARPS];
static unsigned waited[32 * MOST_WARPS];

static inline void give_way()
{
    if (!_setjmp(waiting[threadIdx.x])) _longjmp(scheduling, 1);
}

static void give_turn(int t)
{
    threadIdx.x = t;
    if (_setjmp(scheduling)) return;
    if (begun[t]) _longjmp(waiting[t], 1);
    begun[t] = true;
    setcontext(&contexts[t]);
}

/* Where so many threads wait for each other; `flag` is what any of them brings. */
static long moves; /* how often a thread has come to a barrier, or past one */
struct Barrier {
    int arrived, flag, found;
    unsigned turn;
    void wait(int count, int brought)
    {
        const unsigned mine = turn;
        moves++;
        flag |= brought;
        if (++arrived == count) {
            arrived = 0, found = flag, flag = 0, turn++;
        } else {
            while (turn == mine) give_way();
        }
        moves++;
    }
};
static Barrier whole, warps[MOST_WARPS];
static double exchanged[MOST_WARPS][32];

static inline int __syncthreads_or(int brought)
{
    at_whole[threadIdx.x] = true, waited[threadIdx.x] = whole.turn;
    whole.wait(THREADS, brought);
    at_whole[threadIdx.x] = false;
    return whole.found; /* nobody is at the next barrier before all have read it: they read before they give way */
}
static inline void __syncthreads() { __syncthreads_or(0); }
static inline void __syncwarp() { warps[threadIdx.x / 32].wait(32, 0); }
static inline double __shfl_xor_sync(unsigned, double value, int away)
{
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    exchanged[warp][lane] = value;
    __syncwarp();
    const double theirs = exchanged[warp][lane ^ away];
    __syncwarp();
    return theirs;
}
static inline double __dmul_rn(double a, double b)
{
    volatile double product = a * b;
    return product;
}
static inline double rsqrt(double a) { return 1 / sqrt(a); }
static inline double __longlong_as_double(long long bits)
{
    double number;
    memcpy(&number, &bits, sizeof number);
    return number;
}

static void (*body)();

static void entered()
{
    body();
    done[threadIdx.x] = true;
    give_way();
}

/* Whether a thread waits for all, not all of whom are there. */
static bool held(int t) { return at_whole[t] && waited[t] == whole.turn; }

/* Runs the threads of a warp as far as they come without the other warps; returns how many have ended. */
static int run_warp(int warp, bool backwards)
{
    int ended = 0;
    for (bool moved = true; moved;) {
        moved = false;
        for (int i = 0; i < 32; i++) {
            const int t = 32 * warp + (backwards ? 31 - i : i);
            if (done[t] || held(t)) continue;
            const long before = moves;
            give_turn(t);
            ended += done[t];
            moved |= moves != before;
        }
    }
    return ended;
}

/* Runs a block's threads to their ends; whether all have come there, and have written to no more than so many bytes of shared
 * memory. */
static bool run_block(int block, bool backwards, size_t shared)
{
    static char *stacks = (char *)malloc((size_t)THREADS * STACK_BYTES);
    for (int t = 0; t < THREADS; t++) {
        getcontext(&contexts[t]);
        contexts[t].uc_stack.ss_sp = stacks + (size_t)t * STACK_BYTES;
        contexts[t].uc_stack.ss_size = STACK_BYTES;
        contexts[t].uc_link = NULL;
        makecontext(&contexts[t], entered, 0);
        begun[t] = done[t] = false;
    }
    /* Shared memory holds anything at first. */
    memset(memory, 0xff, sizeof memory);
    blockIdx.x = block;
    for (int left = THREADS; left;) {
        const unsigned turn = whole.turn;
        const int before = left;
        for (int i = 0; i < THREADS / 32; i++) left -= run_warp(backwards ? THREADS / 32 - 1 - i : i, backwards);
        if (turn == whole.turn && left == before) return false; /* some wait for one that never comes */
    }
    for (size_t byte = shared; byte < sizeof memory; byte++)
        if (((unsigned char *)memory)[byte] != 0xff) return false;
    return true;
}
