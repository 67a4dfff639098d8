/* Jacobi's method: rotations of pairs of rows until all are orthogonal, or until a Gram matrix is diagonal.
 *
 * A sweep turns every pair of rows once, in rounds as in a tournament: the pairs of a round have no row in common, so that they are
 * turned together and do not wait for each other. Each lane stops by itself. */

#ifndef JACOBI_H
#define JACOBI_H

#include "vectors.h"

#define SWEEPS 30        /* at most; four to six are the rule */
#define ORTHOGONAL 1e-31 /* squared cosine of two rows that are not turned any more: below round-off */
#define CONVERGED 1e-9   /* cosines that one more sweep of a quadratically convergent method takes below round-off */
#define ENOUGH 1e-10     /* cosines at which a Gram matrix is as good as diagonal (decompositions.h: correct) */
#define NOTHING 1e-200   /* squares of rows whose product is below this are left alone: they would underflow */

/* A rotation of rows u, v to c u - s v, s u + c v. */
typedef struct {
    int64_t a, b; /* the rows */
    vec c, s;
    mask turns; /* the lanes in which it is not the identity */
} Turn;

static inline int64_t rounds_of(int64_t rows) { return rows - 1 + rows % 2; }

/* Pair number i = 0, 1, ..., rows / 2 - 1 of a round, by the circle method: one row stays, or where their number is odd one has a
 * bye (and is returned by `bye`), and row round + i meets row round - i. */
static inline void pair_up(int64_t rows, int64_t round, int64_t i, Turn *turn)
{
    const int64_t circle = rounds_of(rows);
    int64_t a = round + i + rows % 2, b = round - i - rows % 2;
    if (a >= circle) a -= circle;
    if (b < 0) b += circle;
    if (i == 0 && rows % 2 == 0) b = rows - 1;
    turn->a = least(a, b), turn->b = a + b - turn->a;
}

/* The rotation that makes rows of squared lengths *p, *q and inner product x orthogonal, where the squared cosine is above
 * `above`, in the lanes `going`; the lengths are changed with it. With h = q - p, u = (h^2 + 4 x^2)^(-1/2): c^2 = (1 + |h| u) / 2,
 * c s = +-x u, and the squares change by -+ x s / c. */
static inline void find_turn(vec *p, vec *q, vec x, mask going, double above, Turn *turn)
{
    const vec square = *p * *q, h = *q - *p, twice = 2 * x;
    turn->turns = going & (x * x > above * square) & (square > NOTHING);
    const vec u = reciprocal_root(choose(turn->turns, h * h + twice * twice, all(1)));
    const vec cosine2 = 0.5 + 0.5 * (magnitude(h) * u), v = reciprocal_root(cosine2); /* 1 / c */
    const vec signed_x = (vec)((mask)x ^ ((mask)h & INT64_MIN));
    turn->c = choose(turn->turns, cosine2 * v, all(1));
    turn->s = choose(turn->turns, (signed_x * u) * v, all(0));
    const vec moved = (turn->s * v) * x;
    *p -= moved;
    *q += moved;
}

static inline void rotate(const Turn *turn, vec *a, vec *b)
{
    const vec u = *a, v = *b;
    *a = turn->c * u - turn->s * v;
    *b = turn->s * u + turn->c * v;
}

static inline void rotate_rows(const Turn *turn, vec *m, int64_t columns)
{
    vec *a = m + turn->a * columns, *b = m + turn->b * columns;
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
            const vec p = gram[a * (rows + 1)], q = gram[b * (rows + 1)], x = gram[a * rows + b], square = p * q;
            found |= (x * x > above * above * square) & (square > NOTHING) & (larger(p, q) > top);
        }
    return found;
}

static inline vec *upper(vec *gram, int64_t rows, int64_t a, int64_t b) { return a < b ? gram + a * rows + b : gram + b * rows + a; }

/* gram <- J gram J^T, in its upper triangle, but for the entries of the pairs themselves, for all rotations of a round. */
static void turn_gram(const Turn *turn, int64_t pairs, int64_t bye, vec *gram, int64_t rows)
{
    for (int64_t i = 0; i < pairs; i++) {
        const int64_t a = turn[i].a, b = turn[i].b;
        for (int64_t j = i + 1; j < pairs; j++) {
            vec *ac = upper(gram, rows, a, turn[j].a), *ad = upper(gram, rows, a, turn[j].b);
            vec *bc = upper(gram, rows, b, turn[j].a), *bd = upper(gram, rows, b, turn[j].b);
            rotate(turn + i, ac, bc);
            rotate(turn + i, ad, bd);
            rotate(turn + j, ac, ad);
            rotate(turn + j, bc, bd);
        }
        if (bye >= 0) rotate(turn + i, upper(gram, rows, a, bye), upper(gram, rows, b, bye));
    }
}

/* Rotations, into `rotation`, that make the Gram matrix (its upper triangle) diagonal to ENOUGH. `turn` has room for rows / 2. */
static void diagonalise(vec *gram, int64_t rows, Turn *turn, vec *rotation)
{
    const int64_t pairs = rows / 2;
    mask going = ~(mask){0};
    identity(rows, rotation);
    for (int sweep = 0; sweep < SWEEPS; sweep++) {
        going &= askew(gram, rows, ENOUGH);
        if (!any(going)) return;
        for (int64_t round = 0; round < rounds_of(rows); round++) {
            mask turns = {0};
            for (int64_t i = 0; i < pairs; i++) {
                pair_up(rows, round, i, turn + i);
                vec *ga = gram + turn[i].a * rows, *gb = gram + turn[i].b * rows, *x = ga + turn[i].b;
                find_turn(ga + turn[i].a, gb + turn[i].b, *x, going, ENOUGH * ENOUGH, turn + i);
                *x = choose(turn[i].turns, all(0), *x);
                turns |= turn[i].turns;
            }
            if (!any(turns)) continue;
            turn_gram(turn, pairs, rows % 2 ? round : -1, gram, rows);
            for (int64_t i = 0; i < pairs; i++) rotate_rows(turn + i, rotation, rows);
        }
    }
}

/* Rotations, applied to g (rows, columns) and to `rotation`, that make the rows of g orthogonal, to high relative accuracy whatever
 * their lengths, in the lanes `going`: one-sided Jacobi (Demmel and Veselic 1992). */
static void orthogonalise(vec *g, int64_t rows, int64_t columns, mask going, vec *norm, vec *rotation)
{
    Turn turn;
    for (int sweep = 0; sweep < SWEEPS && any(going); sweep++) {
        mask again = {0};
        for (int64_t a = 0; a < rows; a++) norm[a] = dot(g + a * columns, g + a * columns, columns);
        for (int64_t round = 0; round < rounds_of(rows); round++)
            for (int64_t i = 0; i < rows / 2; i++) {
                pair_up(rows, round, i, &turn);
                const vec x = dot(g + turn.a * columns, g + turn.b * columns, columns), square = norm[turn.a] * norm[turn.b];
                find_turn(norm + turn.a, norm + turn.b, x, going, ORTHOGONAL, &turn);
                if (!any(turn.turns)) continue;
                again |= turn.turns & (x * x > CONVERGED * CONVERGED * square);
                rotate_rows(&turn, g, columns);
                rotate_rows(&turn, rotation, rows);
            }
        going &= again;
    }
}

#endif
