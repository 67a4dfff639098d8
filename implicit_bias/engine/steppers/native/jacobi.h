/* Jacobi's method: rotations of pairs of rows until all are orthogonal, or until a Gram matrix is diagonal.
 *
 * A sweep of m rows is m rounds, by turns of the pairs (0, 1), (2, 3), ... and of (1, 2), (3, 4), ...: the rotations of a round have
 * no row in common and do not wait for each other. The two rows of a pair change places, so that all have met after m rounds. The
 * next sweep goes on by turns: its first pairs are not again those of the last round. Each lane stops by itself. */

#ifndef JACOBI_H
#define JACOBI_H

#include "vectors.h"

#define REGISTERS (LANES == 8 ? 32 : 16)
#define SWEEPS 30        /* at most; five are the rule */
#define ORTHOGONAL 1e-31 /* squared cosine of two rows that are not turned any more: below round-off */
#define CONVERGED 1e-9   /* cosines that one more sweep of a quadratically convergent method takes below round-off */
#define ENOUGH 1e-7      /* cosines at which a Gram matrix is as good as diagonal (decompositions.h: correct) */
#define NOTHING 1e-200   /* squares of rows whose product is below this are left alone: they would underflow */

/* A rotation of rows u, v to c u - s v, s u + c v. */
typedef struct {
    vec c, s;
} Turn;

/* How many rotations a sweep is. */
static inline int64_t turns_of(int64_t rows) { return rows * (rows - 1) / 2; }

/* The first row of the first pair of a round. */
static inline int64_t start_of(int64_t rows, int64_t sweep, int64_t round) { return (sweep * rows + round) % 2; }

/* The rotations that make two rows of squared lengths p, q and inner product x orthogonal, of `count` such pairs (ABREAST at most),
 * in the lanes `where`; the lengths are changed with it. With h = q - p, u = (h^2 + 4 x^2)^(-1/2): c^2 = (1 + |h| u) / 2,
 * c s = +-x u, and the squares change by -+ x s / c. */
__attribute__((always_inline)) static inline void find_turns_of(
    const int count, vec *p, vec *q, const vec *x, const mask *where, Turn *turn)
{
    vec h[ABREAST], u[ABREAST], cosine2[ABREAST], v[ABREAST]; /* v = 1 / c */
    EACH h[i] = q[i] - p[i];
    EACH u[i] = larger(fused(h[i], h[i], 4 * (x[i] * x[i])), all(NOTHING));
    reciprocal_roots(count, u);
    EACH v[i] = cosine2[i] = 0.5 + 0.5 * (magnitude(h[i]) * u[i]);
    reciprocal_roots(count, v);
    EACH turn[i].c = choose(where[i], cosine2[i] * v[i], all(1));
    EACH h[i] = (vec)((mask)x[i] ^ ((mask)h[i] & INT64_MIN)); /* +-x */
    EACH turn[i].s = choose(where[i], (h[i] * u[i]) * v[i], all(0));
    EACH v[i] = turn[i].s * v[i];
    EACH p[i] = fused(-v[i], x[i], p[i]);
    EACH q[i] = fused(v[i], x[i], q[i]);
}

static inline Turn find_turn(vec *p, vec *q, vec x, mask where)
{
    Turn turn;
    find_turns_of(1, p, q, &x, &where, &turn);
    return turn;
}

/* Whether the squared cosine of two rows is above a bound, where they are large enough to tell. */
static inline mask oblique(vec p, vec q, vec x, double above)
{
    const vec square = p * q;
    return (x * x > above * square) & (square > NOTHING);
}

/* Turned, the two have changed places. */
static inline void rotate(Turn turn, vec *a, vec *b)
{
    const vec u = *a, v = *b;
    *a = fused(turn.s, u, turn.c * v);
    *b = fused(turn.c, u, -(turn.s * v));
}

static inline void rotate_rows(Turn turn, vec *restrict a, vec *restrict b, int64_t columns)
{
#pragma GCC unroll 4
    for (int64_t j = 0; j < columns; j++) rotate(turn, a + j, b + j);
}

static void identity(int64_t rows, vec *m)
{
    for (int64_t a = 0; a < rows; a++)
        for (int64_t b = 0; b < rows; b++) m[a * rows + b] = all(a == b);
}

/* The lanes in which two rows of this Gram matrix (its upper triangle) have a cosine above `above`. Of rows that RANK_TOLERANCE
 * takes for zero only one is looked at. */
static mask askew(const vec *gram, int64_t rows, double above)
{
    vec top = all(0);
    mask found = {0};
    for (int64_t a = 0; a < rows; a++) top = larger(top, gram[a * (rows + 1)]);
    top *= RANK_TOLERANCE * RANK_TOLERANCE;
    for (int64_t a = 0; a < rows; a++)
        for (int64_t b = a + 1; b < rows; b++) {
            const vec p = gram[a * (rows + 1)], q = gram[b * (rows + 1)];
            found |= oblique(p, q, gram[a * rows + b], above * above) & (larger(p, q) > top);
        }
    return found;
}

/* The rotations of `count` neighbouring pairs of rows a, a + 1; a + 2, ... of a Gram matrix (its upper triangle), with the entries of
 * the two of a pair themselves turned. */
__attribute__((always_inline)) static inline void find_in_gram(
    const int count, vec *gram, int64_t rows, int64_t a, mask going, Turn *turn)
{
    const int64_t below = rows + 1, next = 2 * below; /* from an entry to that below and to the right, and to that of the next pair */
    vec *pp = gram + a * below, p[ABREAST], q[ABREAST], x[ABREAST];
    mask where[ABREAST];
    EACH p[i] = pp[i * next], x[i] = pp[i * next + 1], q[i] = pp[i * next + below];
    EACH where[i] = going & oblique(p[i], q[i], x[i], ENOUGH * ENOUGH);
    find_turns_of(count, p, q, x, where, turn);
    EACH pp[i * next] = q[i], pp[i * next + 1] = choose(where[i], all(0), x[i]), pp[i * next + below] = p[i];
}

/* Rows a, a + 1 and columns c, c + 1 of a Gram matrix after the rotations of the two and of the other two; of a last column alone. */
__attribute__((always_inline)) static inline void turn_block(
    const Turn *turn, const Turn *other, vec *gram, const int64_t rows, const int64_t a, const int64_t c)
{
    vec *ga = gram + a * rows + c, *gb = ga + rows, ac = ga[0], bc = gb[0];
    rotate(*turn, &ac, &bc);
    if (c + 1 < rows) {
        vec ad = ga[1], bd = gb[1];
        rotate(*turn, &ad, &bd);
        rotate(*other, &ac, &ad);
        rotate(*other, &bc, &bd);
        ga[1] = ad, gb[1] = bd;
    }
    ga[0] = ac, gb[0] = bc;
}

/* gram <- J gram J^T of the upper triangle but for the pairs themselves, after the rotations of those from row `first` on: what the
 * next round finds its rotations from. */
__attribute__((always_inline)) static inline void turn_near(const Turn *turn, vec *gram, const int64_t rows, const int64_t first)
{
    if (first && rows > 2) rotate(turn[0], gram + 1, gram + 2);
#pragma GCC unroll 5
    for (int64_t a = first; a + 2 < rows; a += 2, turn++) turn_block(turn, turn + 1, gram, rows, a, a + 2);
}

/* And what it does not. */
__attribute__((always_inline)) static inline void turn_far(const Turn *turn, vec *gram, const int64_t rows, const int64_t first)
{
#pragma GCC unroll 5
    for (int64_t a = first; a + 1 < rows; a += 2, turn++) {
        if (first && a > first) rotate(*turn, gram + a, gram + a + 1);
#pragma GCC unroll 5
        for (int64_t c = a + 4; c < rows; c += 2) turn_block(turn, turn + (c - a) / 2, gram, rows, a, c);
    }
}

/* A round: the rotations of pairs from row `first` on, into `turn`, and what they do to the Gram matrix. They are long waited for, and
 * meanwhile the rest is done that those of the round before do (`before`; NULL: there is none). */
__attribute__((always_inline)) static inline void turn_round(
    const int64_t rows, const int64_t first, vec *gram, mask going, Turn *turn, const Turn *before)
{
    int64_t a = first;
#pragma GCC unroll 3
    for (; a + 2 * ABREAST <= rows; a += 2 * ABREAST) find_in_gram(ABREAST, gram, rows, a, going, turn + (a - first) / 2);
    for (; a + 2 <= rows; a += 2) find_in_gram(1, gram, rows, a, going, turn + (a - first) / 2);
    if (before) turn_far(before, gram, rows, 1 - first);
    turn_near(turn, gram, rows, first);
}

/* A sweep over a Gram matrix; its rotations into `turn`. Code of its own for few rows, without loops. */
static void turn_gram(int64_t rows, int64_t sweep, vec *gram, mask going, Turn *turn)
{
    const Turn *before = NULL;
    int64_t first = 0;
    for (int64_t round = 0; round < rows; round++) {
        first = start_of(rows, sweep, round);
        switch (2 * rows + first) {
#define ROUND(R, FIRST) case 2 * R + FIRST: turn_round(R, FIRST, gram, going, turn, before); break;
#define ROUNDS(R) ROUND(R, 0) ROUND(R, 1)
            ROUNDS(3) ROUNDS(4) ROUNDS(5) ROUNDS(6) ROUNDS(7) ROUNDS(8) ROUNDS(9)
        default: turn_round(rows, first, gram, going, turn, before);
        }
        before = turn, turn += (rows - first) / 2;
    }
    turn_far(before, gram, rows, first);
}

/* The rotations of a sweep that begins at row `start`, applied to `abreast` columns, at m and after it, in registers. */
__attribute__((always_inline)) static inline void turn_columns(
    const int rows, const int start, const int abreast, const Turn *turn, vec *m, int64_t columns)
{
    vec held[rows * abreast];
#pragma GCC unroll 16
    for (int a = 0; a < rows; a++)
#pragma GCC unroll 2
        for (int j = 0; j < abreast; j++) held[a * abreast + j] = m[a * columns + j];
    for (int round = 0; round < rows; round += 2)
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++) {
            if (round + half == rows) break;
#pragma GCC unroll 16
            for (int a = half ? 1 - start : start; a + 1 < rows; a += 2, turn++)
#pragma GCC unroll 2
                for (int j = 0; j < abreast; j++) rotate(*turn, held + a * abreast + j, held + (a + 1) * abreast + j);
        }
#pragma GCC unroll 16
    for (int a = 0; a < rows; a++)
#pragma GCC unroll 2
        for (int j = 0; j < abreast; j++) m[a * columns + j] = held[a * abreast + j];
}

/* So many columns at a time as leave registers over. */
__attribute__((always_inline)) static inline void turn_few_rows(
    const int rows, const int start, const Turn *turn, vec *m, int64_t columns)
{
    const int abreast = 2 * rows + 4 <= REGISTERS ? 2 : 1;
    int64_t j = 0;
    for (; j + abreast <= columns; j += abreast) turn_columns(rows, start, abreast, turn, m + j, columns);
    for (; j < columns; j++) turn_columns(rows, start, 1, turn, m + j, columns);
}

/* The same for any number of rows. */
static void turn_rows(int64_t rows, int64_t sweep, const Turn *turn, vec *m, int64_t columns)
{
    switch (2 * rows + start_of(rows, sweep, 0)) {
#define EVEN(R) case 2 * R: turn_few_rows(R, 0, turn, m, columns); return;
#define ODD(R) EVEN(R) case 2 * R + 1: turn_few_rows(R, 1, turn, m, columns); return;
        EVEN(2) ODD(3) EVEN(4) ODD(5) EVEN(6) ODD(7) EVEN(8) ODD(9)
        EVEN(10)
    }
    for (int64_t round = 0; round < rows; round++)
        for (int64_t a = start_of(rows, sweep, round); a + 1 < rows; a += 2, turn++)
            rotate_rows(*turn, m + a * columns, m + (a + 1) * columns, columns);
}

/* An odd number of sweeps has turned the order of rows about, in all lanes: also in those that had stopped before, whose bits must
 * not tell. */
static void put_back(int64_t sweeps, int64_t rows, vec *m, int64_t columns)
{
    if (sweeps % 2 == 0) return;
    for (int64_t a = 0; a < rows / 2; a++)
        for (int64_t j = 0; j < columns; j++) {
            vec *one = m + a * columns + j, *other = m + (rows - 1 - a) * columns + j, swap = *one;
            *one = *other, *other = swap;
        }
}

/* Rotations, into `rotation`, that make the Gram matrix (its upper triangle) diagonal to ENOUGH; `turn` has room for a sweep. */
static void diagonalise(vec *gram, int64_t rows, Turn *turn, vec *rotation)
{
    mask going = ~(mask){0};
    int64_t sweep = 0;
    identity(rows, rotation);
    for (; sweep < SWEEPS; sweep++) {
        going &= askew(gram, rows, ENOUGH);
        if (!any(going)) break;
        turn_gram(rows, sweep, gram, going, turn);
        turn_rows(rows, sweep, turn, rotation, rows);
    }
    put_back(sweep, rows, rotation, rows);
}

/* Rotations, applied to g (rows, columns) and to `rotation`, that make the rows of g orthogonal, to high relative accuracy whatever
 * their lengths, in the lanes `going`: one-sided Jacobi (Demmel and Veselic 1992). */
static void orthogonalise(vec *g, int64_t rows, int64_t columns, mask going, vec *norm, vec *rotation)
{
    int64_t sweep = 0;
    for (; sweep < SWEEPS && any(going); sweep++) {
        mask again = {0};
        for (int64_t a = 0; a < rows; a++) norm[a] = dot(g + a * columns, g + a * columns, columns);
        for (int64_t round = 0; round < rows; round++)
            for (int64_t a = start_of(rows, sweep, round); a + 1 < rows; a += 2) {
                vec *ga = g + a * columns, *gb = ga + columns, p = norm[a], q = norm[a + 1];
                const vec x = dot(ga, gb, columns);
                again |= oblique(p, q, x, CONVERGED * CONVERGED);
                const Turn turn = find_turn(&p, &q, x, going & oblique(p, q, x, ORTHOGONAL));
                norm[a] = q, norm[a + 1] = p;
                rotate_rows(turn, ga, gb, columns);
                rotate_rows(turn, rotation + a * rows, rotation + (a + 1) * rows, rows);
            }
        going &= again;
    }
    put_back(sweep, rows, g, columns);
    put_back(sweep, rows, rotation, rows);
}

#endif
