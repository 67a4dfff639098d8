/* Polar factors, top singular pairs and Newton-Schulz iterations of small matrices. */

#ifndef DECOMPOSITIONS_H
#define DECOMPOSITIONS_H

#include "group.h"

#define SWEEPS 30        /* of Jacobi's method at most; five or six are the rule */
#define ORTHOGONAL 1e-31 /* squared cosine of two rows that are not turned any more: below round-off */
#define CONVERGED 1e-9   /* cosines that one more sweep of a quadratically convergent method takes below round-off */

/* Where two rows of squared norms `a` and `b` are to be turned until they are orthogonal. */
static inline mask to_be_turned(vec inner, vec a, vec b)
{
    vec square = a * b;
    return (inner * inner > ORTHOGONAL * square) & (square > 0);
}

/* Cosine and sine of that rotation, the identity elsewhere; the norms become those after it, `worst` the largest squared cosine
 * between rows that were turned. */
static inline void turn(mask turns, vec inner, vec *a, vec *b, vec *worst, vec *c, vec *s)
{
    vec square = *a * *b, safe = choose(turns, inner, all(1));
    *worst = larger(*worst, choose(turns, inner * inner / choose(square > 0, square, all(1)), all(0)));
    vec zeta = (*b - *a) / (2 * safe);
    vec t = 1 / (magnitude(zeta) + root(1 + zeta * zeta));
    t = choose(turns, choose(zeta < 0, -t, t), all(0));
    *c = 1 / root(1 + t * t), *s = *c * t;
    *a -= t * choose(turns, inner, all(0));
    *b += t * choose(turns, inner, all(0));
}

/* The truncated polar factor U_r V_r^T of g (rows, columns), rows <= columns, or its top u_1 v_1^T; g is overwritten. One-sided
 * Jacobi: rotations J make the rows of J g orthogonal, J g = S V^T, to high relative accuracy whatever the condition; then
 * U V^T = J^T V^T. (Demmel and Veselic 1992.) Returns the sum of the singular values, or the top one. */
static vec polar(vec *g, int64_t rows, int64_t columns, int top_pair_only, vec *rotation, vec *norm, vec *out)
{
    for (int64_t a = 0; a < rows; a++)
        for (int64_t b = 0; b < rows; b++) rotation[a * rows + b] = all(a == b);
    mask going = ~(mask){0};
    for (int sweep = 0; sweep < SWEEPS && any(going); sweep++) {
        vec worst = all(0);
        for (int64_t a = 0; a < rows; a++) norm[a] = dot(g + a * columns, g + a * columns, columns);
        for (int64_t a = 0; a < rows; a++)
            for (int64_t b = a + 1; b < rows; b++) {
                vec *ga = g + a * columns, *gb = g + b * columns;
                vec inner = dot(ga, gb, columns), c, s;
                mask turns = going & to_be_turned(inner, norm[a], norm[b]);
                if (!any(turns)) continue;
                turn(turns, inner, norm + a, norm + b, &worst, &c, &s);
                rotate(ga, gb, c, s, columns);
                rotate(rotation + a * rows, rotation + b * rows, c, s, rows);
            }
        going &= worst > CONVERGED * CONVERGED;
    }
    vec top = all(0), first = all(-1), nuclear = all(0);
    for (int64_t a = 0; a < rows; a++) {
        norm[a] = root(dot(g + a * columns, g + a * columns, columns));
        nuclear += norm[a];
        first = choose(norm[a] > top, all(a), first);
        top = larger(top, norm[a]);
    }
    for (int64_t a = 0; a < rows; a++) {
        mask kept = top_pair_only ? first == (double)a : norm[a] > RANK_TOLERANCE * top;
        vec inverse = choose(kept, 1 / choose(norm[a] > 0, norm[a], all(1)), all(0));
        for (int64_t j = 0; j < columns; j++) g[a * columns + j] *= inverse;
    }
    for (int64_t a = 0; a < rows; a++)
        for (int64_t j = 0; j < columns; j++) {
            vec sum = all(0);
            for (int64_t b = 0; b < rows; b++) sum += rotation[b * rows + a] * g[b * columns + j];
            out[a * columns + j] = sum;
        }
    return top_pair_only ? top : nuclear;
}

/* a (k, d) in the basis of vectors that sum to zero (models/linear.py: zero_sum_basis, Helmert's: column r has r + 1 ones, then
 * -(r + 1), over sqrt((r + 1)(r + 2))), into `reduced` (k - 1, d). */
static void into_row_space(const vec *a, int64_t k, int64_t d, vec *reduced)
{
    for (int64_t j = 0; j < d; j++) {
        vec sum = all(0);
        for (int64_t r = 0; r < k - 1; r++) {
            sum += a[r * d + j];
            reduced[r * d + j] = (sum - (r + 1.0) * a[(r + 1) * d + j]) / sqrt((r + 1.0) * (r + 2.0));
        }
    }
}

/* a (k, d) of a matrix `reduced` (k - 1, d) in that basis. */
static void out_of_row_space(const vec *reduced, int64_t k, int64_t d, vec *a)
{
    for (int64_t j = 0; j < d; j++) {
        vec sum = all(0);
        for (int64_t c = k - 1; c >= 0; c--) {
            vec u = c < k - 1 ? reduced[c * d + j] / sqrt((c + 1.0) * (c + 2.0)) : all(0);
            vec before = c > 0 ? reduced[(c - 1) * d + j] / sqrt(c * (c + 1.0)) : all(0);
            sum += u;
            a[c * d + j] = sum - (double)c * before;
        }
    }
}

/* a (k, d) becomes its polar factor, or its top pair, taken in the basis of vectors that sum to zero. Returns as polar(). */
static vec polar_in_row_space(Work *v, int64_t k, int64_t d, int top_pair_only, vec *a)
{
    const int64_t rows = k - 1;
    vec sizes;
    into_row_space(a, k, d, v->reduced);
    if (rows <= d) {
        sizes = polar(v->reduced, rows, d, top_pair_only, v->rotation, v->norm, v->factor);
    } else {
        transpose(v->reduced, rows, d, a);
        sizes = polar(a, d, rows, top_pair_only, v->rotation, v->norm, v->reduced);
        transpose(v->reduced, d, rows, v->factor);
    }
    out_of_row_space(v->factor, k, d, a);
    return sizes;
}

static inline vec combined(double a, vec x, double b, vec y) { return a * x + b * y; }

/* a (k, d) after so many quintic Newton-Schulz steps from a over its norm, or over eps where that is larger; each has three
 * coefficients. optimizers/muon_ns.py. */
static void newton_schulz(Work *v, int64_t k, int64_t d, int64_t iterations, const double *coefficients, vec eps, vec *a)
{
    const int tall = k > d;
    const int64_t rows = tall ? d : k, columns = tall ? k : d;
    vec *x = a, *next = v->factor, *gram = v->rotation, *both = v->reduced;
    if (tall) {
        transpose(a, k, d, v->factor);
        x = v->factor, next = a;
    }
    vec size = larger(root(dot(x, x, rows * columns)), eps);
    size = 1 / choose(size > 0, size, all(1));
    for (int64_t e = 0; e < rows * columns; e++) x[e] *= size;
    for (int64_t step = 0; step < iterations; step++) {
        const double *now = coefficients + 3 * step;
        for (int64_t i = 0; i < rows; i++)
            for (int64_t j = 0; j <= i; j++)
                gram[i * rows + j] = gram[j * rows + i] = dot(x + i * columns, x + j * columns, columns);
        product(rows, rows, 0, rows, gram, rows, gram, rows, 1, both, rows);
        for (int64_t e = 0; e < rows * rows; e++) both[e] = combined(now[1], gram[e], now[2], both[e]);
        product(rows, columns, 0, rows, both, rows, x, columns, 1, next, columns);
        for (int64_t e = 0; e < rows * columns; e++) next[e] += now[0] * x[e];
        vec *swap = x;
        x = next, next = swap;
    }
    if (tall) {
        transpose(x, rows, columns, next);
        x = next;
    }
    if (x != a) memcpy(a, x, rows * columns * sizeof(vec));
}

#endif
