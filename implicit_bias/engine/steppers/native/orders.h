/* The orders of mini-batches, as numpy draws them: default_rng([seed, epoch]) is SeedSequence and PCG64. From numpy's documentation of its generators; linear.py compares them with numpy before use. */

#ifndef ORDERS_H
#define ORDERS_H

#include <stdint.h>
#include <stdlib.h>

typedef unsigned __int128 wide;

/* PCG64 (O'Neill 2014, XSL-RR 128/64), and the half of a number that is left over. */
typedef struct {
    wide state, increment;
    uint32_t left;
    int has_left;
} Generator;

static uint64_t next_64(Generator *g)
{
    g->state = g->state * (((wide)0x2360ed051fc65da4 << 64) | 0x4385df649fccf645) + g->increment;
    uint64_t mixed = (uint64_t)(g->state >> 64) ^ (uint64_t)g->state;
    unsigned turn = (unsigned)(g->state >> 122);
    return mixed >> turn | mixed << (-turn & 63);
}

static uint32_t next_32(Generator *g)
{
    g->has_left = !g->has_left;
    if (!g->has_left) return g->left;
    uint64_t next = next_64(g);
    g->left = (uint32_t)(next >> 32);
    return (uint32_t)next;
}

/* A number in 0, ..., most, uniform (Lemire 2019). */
static uint32_t up_to(Generator *g, uint32_t most)
{
    if (most == 0) return 0;
    const uint32_t count = most + 1;
    uint64_t m = (uint64_t)next_32(g) * count;
    if ((uint32_t)m < count)
        for (const uint32_t least = (UINT32_MAX - most) % count; (uint32_t)m < least;) m = (uint64_t)next_32(g) * count;
    return (uint32_t)(m >> 32);
}

/* The same by rejection, as shuffles have it. */
static uint32_t shuffled_up_to(Generator *g, uint32_t most)
{
    const uint32_t bits = UINT32_MAX >> __builtin_clz(most);
    uint32_t found;
    do found = next_32(g) & bits;
    while (found > most);
    return found;
}

/* SeedSequence (O'Neill's seed_seq_fe): a pool of four words, mixed. */
static uint32_t hashed(uint32_t value, uint32_t *hash, uint32_t multiplier)
{
    value ^= *hash;
    *hash *= multiplier;
    value *= *hash;
    return value ^ value >> 16;
}

static uint32_t mixed(uint32_t a, uint32_t b)
{
    uint32_t c = 0xca01f9dd * a - 0x4973f715 * b;
    return c ^ c >> 16;
}

static Generator seeded(uint64_t seed, uint64_t epoch)
{
    uint32_t words[4] = {0}, pool[4], hash = 0x43b0d7e5;
    int count = 0;
    for (int i = 0; i < 2; i++) {
        uint64_t number = i ? epoch : seed;
        words[count++] = (uint32_t)number;
        if (number >> 32) words[count++] = (uint32_t)(number >> 32);
    }
    for (int i = 0; i < 4; i++) pool[i] = hashed(words[i], &hash, 0x931e8875);
    for (int from = 0; from < 4; from++)
        for (int to = 0; to < 4; to++)
            if (from != to) pool[to] = mixed(pool[to], hashed(pool[from], &hash, 0x931e8875));
    uint64_t state[4] = {0};
    hash = 0x8b51f9dd;
    for (int i = 0; i < 8; i++) state[i / 2] |= (uint64_t)hashed(pool[i % 4], &hash, 0x58f38ded) << 32 * (i % 2);
    Generator g = {0, ((wide)state[2] << 64 | state[3]) << 1 | 1, 0, 0};
    next_64(&g);
    g.state += (wide)state[0] << 64 | state[1];
    next_64(&g);
    return g;
}

static int by_size(const void *a, const void *b)
{
    int32_t x = *(const int32_t *)a, y = *(const int32_t *)b;
    return (x > y) - (x < y);
}

/* An epoch of n / batch batches without replacement, each ascending; scratch (2 n). */
static void reshuffled(Generator *g, int64_t n, int64_t batch, int32_t *scratch, int32_t *out)
{
    int32_t *order = scratch, *of = scratch + n, *filled = scratch; /* the order is not needed any more when batches are filled */
    for (int64_t i = 0; i < n; i++) order[i] = (int32_t)i;
    for (int64_t i = n - 1; i > 0; i--) {
        const uint32_t j = shuffled_up_to(g, (uint32_t)i);
        int32_t swap = order[i];
        order[i] = order[j], order[j] = swap;
    }
    const int64_t batches = n / batch;
    for (int64_t i = 0; i < n; i++) of[order[i]] = (int32_t)(i / batch);
    for (int64_t t = 0; t < batches; t++) filled[t] = 0;
    for (int64_t i = 0; i < n; i++)
        if (of[i] < batches) out[of[i] * batch + filled[of[i]]++] = (int32_t)i;
}

static void replaced(Generator *g, int64_t n, int64_t batch, int32_t *out)
{
    for (int64_t i = 0; i < n / batch * batch; i++) out[i] = (int32_t)up_to(g, (uint32_t)(n - 1));
    for (int64_t t = 0; t < n / batch; t++) qsort(out + t * batch, (size_t)batch, sizeof *out, by_size);
}

/* The batches of epochs first, ..., first + epochs - 1 of one run into `out` (epochs, n / batch, batch); scratch (2 n). */
void draw_epochs(
    int64_t n, int64_t batch, int64_t with_replacement, uint64_t seed, int64_t first, int64_t epochs, int32_t *scratch, int32_t *out)
{
    for (int64_t e = 0; e < epochs; e++, out += n / batch * batch) {
        Generator g = seeded(seed, (uint64_t)(first + e));
        if (with_replacement) replaced(&g, n, batch, out);
        else reshuffled(&g, n, batch, scratch, out);
    }
}

#endif
