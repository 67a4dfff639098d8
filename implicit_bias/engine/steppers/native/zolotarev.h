/* Polar factors of small matrices without rotations: two of Zolotarev's rational functions one after the other, and a series.
 *
 * U V^T of g = U S V^T (rows, columns), rows <= columns, is U f(S) V^T for any odd function f that is one on all singular values
 * (Nakatsukasa and Freund, Computing Fundamental Matrix Decompositions Accurately via the Matrix Sign Function in Two Iterations,
 * SIAM Review 58, 2016). By partial fractions a rational f needs inverses of shifted Gram matrices only:
 *
 *     f(x) = c x (1 + sum_j a_j / (x^2 + b_j)),   U f(S) V^T = c (I + sum_j a_j (G + b_j I)^(-1)) g,   G = g g^T.
 *
 * The first function, of one pole, takes singular values from 1/700 to 1, in units of the root of G's Frobenius norm, into
 * [0.278, 1]. The second, of two poles, goes by the Gram matrix of what the first has made, and leaves 1 - x^2 within 7.2e-4 of zero.
 * Of E = I - Y, Y the Gram matrix that there would be then, four terms of (I - E)^(-1/2) are enough. The size of E shows whether all
 * this holds: where a singular value is below 1/700, it does not.
 *
 * G knows a singular value s to round-off over s^2, but beside b_1 = 1e-4 no more is asked of it: errors are round-off times 1/s^2,
 * at most times 1e4; 1e-13 was met at a condition of 700, where a singular value decomposition has 2e-14 to 1e-13. */

#ifndef ZOLOTAREV_H
#define ZOLOTAREV_H

#include "products.h"

/* Best on these intervals but for a common factor; further digits would only shift what is left in E. */
#define FIRST_SCALE 0.98016539
#define FIRST_WEIGHT 0.02023801
#define FIRST_POLE 1.0034e-4
#define SECOND_SCALE 0.34368974
#define LOW_WEIGHT 0.64807773 /* of its two poles */
#define LOW_POLE 0.02505012
#define HIGH_WEIGHT 1.99428444
#define HIGH_POLE 0.55998722
#define LEFT_OVER 2e-6 /* the Frobenius norm of E^2 up to which four terms are enough: eigenvalues of E are then at most 1.4e-3 */

#define FEWEST_ROWS 2
#define MOST_PACKED 9 /* rows, see POLAR_OF */
#define ENTRIES(rows) ((rows) * ((rows) + 1) / 2)

#define INLINE __attribute__((always_inline)) static inline
#define APART __attribute__((noinline)) static
#define UNROLLED _Pragma("GCC unroll 64")
#define IN_ORDER __asm__ volatile("" ::: "memory") /* what compilers would load early they would have to put away again */

/* What is computed on the way: symmetric matrices, the upper triangle row after row. */
typedef struct {
    vec gram[ENTRIES(MOST_PACKED)], one[ENTRIES(MOST_PACKED)], other[ENTRIES(MOST_PACKED)], last[ENTRIES(MOST_PACKED)];
    vec weighed[ENTRIES(MOST_PACKED)];     /* the first factor times the Gram matrix of g */
    vec factor[MOST_PACKED * MOST_PACKED]; /* (rows, rows): what is to be multiplied next, both triangles */
} Small;

/* Code for a number of rows: it has no loops over them. */
typedef struct {
    void (*gram)(int64_t columns, const vec *g, vec *to);
    void (*times)(int64_t columns, const vec *factor, const vec *g, vec *to);
    void (*product)(const vec *p, const vec *q, vec *to);
    void (*inverse)(const vec *m, vec scale, double pole, vec *to);
    void (*first)(Small *s);
    mask (*second)(Small *s, vec *nuclear);
} OfRows;

INLINE int64_t entry_at(const int64_t rows, int64_t a, int64_t b)
{
    return a <= b ? a * rows - a * (a - 1) / 2 + b - a : b * rows - b * (b - 1) / 2 + a - b;
}

/* The largest equal blocks. */
INLINE int64_t block_of(const int64_t rows, const int64_t most)
{
    const int64_t blocks = (rows + most - 1) / most;
    return (rows + blocks - 1) / blocks;
}

/* p q of symmetric matrices that commute. */
INLINE void product_of(const int64_t rows, const vec *p, const vec *q, vec *to)
{
    const int64_t tall = block_of(rows, MOST_ROWS), wide = block_of(rows, MOST_COLUMNS);
    UNROLLED for (int64_t a = 0; a < rows; a += tall)
        UNROLLED for (int64_t b = a / wide * wide; b < rows; b += wide) {
            vec sum[MOST_ROWS * MOST_COLUMNS];
            UNROLLED for (int64_t l = 0; l < rows; l++) {
                IN_ORDER;
                UNROLLED for (int64_t i = a; i < a + tall; i++)
                    UNROLLED for (int64_t j = b; j < b + wide; j++)
                        if (i <= j && j < rows) {
                            const vec left = p[entry_at(rows, i, l)], right = q[entry_at(rows, l, j)];
                            vec *of = sum + (i - a) * wide + j - b;
                            *of = l ? *of + left * right : left * right;
                        }
            }
            UNROLLED for (int64_t i = a; i < a + tall; i++)
                UNROLLED for (int64_t j = b; j < b + wide; j++)
                    if (i <= j && j < rows) to[entry_at(rows, i, j)] = sum[(i - a) * wide + j - b];
        }
}

/* g g^T of g (rows, columns). */
INLINE void gram_of_rows(const int64_t rows, int64_t columns, const vec *g, vec *to)
{
    const int64_t tall = block_of(rows, MOST_ROWS), wide = block_of(rows, MOST_COLUMNS);
    UNROLLED for (int64_t a = 0; a < rows; a += tall)
        UNROLLED for (int64_t b = a / wide * wide; b < rows; b += wide) {
            vec sum[MOST_ROWS * MOST_COLUMNS];
            UNROLLED for (int64_t i = 0; i < tall * wide; i++) sum[i] = all(0);
            for (int64_t l = 0; l < columns; l++)
                UNROLLED for (int64_t i = a; i < a + tall; i++)
                    UNROLLED for (int64_t j = b; j < b + wide; j++)
                        if (i <= j && j < rows) sum[(i - a) * wide + j - b] += g[i * columns + l] * g[j * columns + l];
            UNROLLED for (int64_t i = a; i < a + tall; i++)
                UNROLLED for (int64_t j = b; j < b + wide; j++)
                    if (i <= j && j < rows) to[entry_at(rows, i, j)] = sum[(i - a) * wide + j - b];
        }
}

/* A factor times g (rows, columns), some columns after the others. */
INLINE void factor_times(const int64_t rows, int64_t columns, const vec *factor, const vec *g, vec *to)
{
    const int64_t tall = block_of(rows, MOST_ROWS);
    const Matrix p = {(vec *)factor, rows, 1}, q = {(vec *)g, columns, 1}, c = {to, columns, 1};
    int64_t b = 0;
    for (; b + MOST_COLUMNS <= columns; b += MOST_COLUMNS)
        UNROLLED for (int64_t a = 0; a < rows; a += tall) {
            const int64_t high = a + tall <= rows ? tall : rows - a;
            block_product(high, MOST_COLUMNS, 0, rows, part_of(p, a, 0), part_of(q, 0, b), part_of(c, a, b));
        }
    if (b < columns) product(rows, columns - b, 0, rows, p, part_of(q, 0, b), part_of(c, 0, b));
}

/* The sum of the products of all entries. */
INLINE vec inner_product(const int64_t rows, const vec *p, const vec *q)
{
    vec diagonal = all(0), sum[2] = {all(0), all(0)};
    UNROLLED for (int64_t a = 0; a < rows; a++)
        UNROLLED for (int64_t b = a; b < rows; b++) {
            const int64_t e = entry_at(rows, a, b);
            vec *of = a == b ? &diagonal : sum + e % 2;
            *of += p[e] * q[e];
        }
    return diagonal + 2 * (sum[0] + sum[1]);
}

INLINE void add_to_diagonal(const int64_t rows, vec number, vec *m)
{
    UNROLLED for (int64_t a = 0; a < rows; a++) m[entry_at(rows, a, a)] += number;
}

INLINE void unpack(const int64_t rows, const vec *m, vec *to)
{
    UNROLLED for (int64_t a = 0; a < rows; a++)
        UNROLLED for (int64_t b = a; b < rows; b++) to[a * rows + b] = to[b * rows + a] = m[entry_at(rows, a, b)];
}

/* A sweep of the first row, which becomes the last one while the others move up; those of all rows make minus the inverse (Goodnight,
 * A Tutorial on the SWEEP Operator, The American Statistician 33, 1979). */
INLINE void sweep_one(const int64_t rows, vec *m)
{
    vec line[MOST_PACKED], by[MOST_PACKED], inverse = m[0];
    reciprocals(1, &inverse);
    UNROLLED for (int64_t a = 1; a < rows; a++) line[a] = m[a], by[a] = line[a] * inverse;
    UNROLLED for (int64_t a = 1; a < rows; a++) {
        UNROLLED for (int64_t b = a; b < rows; b++) m[entry_at(rows, a - 1, b - 1)] = m[entry_at(rows, a, b)] - line[a] * by[b];
        m[entry_at(rows, a - 1, rows - 1)] = by[a];
    }
    m[ENTRIES(rows) - 1] = -inverse;
}

/* Two of them at once, so that entries are loaded half as often. */
INLINE void sweep_two(const int64_t rows, vec *m)
{
    vec line[MOST_PACKED], by[MOST_PACKED], inverse = m[0], then[MOST_PACKED], then_by[MOST_PACKED], next;
    reciprocals(1, &inverse);
    UNROLLED for (int64_t a = 1; a < rows; a++) line[a] = m[a], by[a] = line[a] * inverse;
    UNROLLED for (int64_t a = 1; a < rows; a++) then[a] = m[entry_at(rows, 1, a)] - line[1] * by[a];
    next = then[1], then[0] = by[1];
    reciprocals(1, &next);
    UNROLLED for (int64_t a = 0; a < rows; a++) then_by[a] = then[a] * next;
    UNROLLED for (int64_t a = 2; a < rows; a++) {
        UNROLLED for (int64_t b = a; b < rows; b++) {
            const vec once = m[entry_at(rows, a, b)] - line[a] * by[b];
            m[entry_at(rows, a - 2, b - 2)] = once - then[a] * then_by[b];
        }
        m[entry_at(rows, a - 2, rows - 2)] = by[a] - then[0] * then_by[a];
        m[entry_at(rows, a - 2, rows - 1)] = then_by[a];
    }
    m[ENTRIES(rows) - 3] = -inverse - then[0] * then_by[0];
    m[ENTRIES(rows) - 2] = then_by[0];
    m[ENTRIES(rows) - 1] = -next;
}

/* to <- -(scale m + pole I)^(-1) of a matrix m that is positive but for round-off. */
INLINE void inverse_of(const int64_t rows, const vec *m, vec scale, double pole, vec *to)
{
    for (int64_t e = 0; e < ENTRIES(rows); e++) to[e] = scale * m[e];
    add_to_diagonal(rows, all(pole), to);
    for (int64_t pairs = rows / 2; pairs > 0; pairs--) {
        sweep_two(rows, to);
        IN_ORDER;
    }
    if (rows % 2) sweep_one(rows, to);
}

/* The factor of the first function, from s->gram, that of g. */
INLINE void first_factor(const int64_t rows, const OfRows *of, Small *s)
{
    const vec square = inner_product(rows, s->gram, s->gram);
    vec per_size = square, root_of;
    reciprocal_roots(1, &per_size);
    root_of = per_size;
    positive_roots(1, &root_of);
    of->inverse(s->gram, per_size, FIRST_POLE, s->one);
    const vec c = FIRST_SCALE * root_of, ca = c * FIRST_WEIGHT, ca_size = ca * (square * per_size), cab_size = ca_size * FIRST_POLE;
    for (int64_t e = 0; e < ENTRIES(rows); e++) {
        s->other[e] = -ca * s->one[e];
        s->weighed[e] = fused(c, s->gram[e], cab_size * s->one[e]);
    }
    add_to_diagonal(rows, c, s->other);
    add_to_diagonal(rows, ca_size, s->weighed);
    unpack(rows, s->other, s->factor);
}

/* That of the second and of the series, from s->gram, that of what the first has made. Returns the lanes in which all together do not
 * make the polar factor; into *nuclear the nuclear norm, the trace of the polar factor's product with g^T. */
INLINE mask second_factor(const int64_t rows, const OfRows *of, Small *s, vec *nuclear)
{
    vec *rest = s->gram, *e = s->one, *e2 = s->other, *series = s->factor;
    of->inverse(s->gram, all(1), LOW_POLE, s->one);
    of->inverse(s->gram, all(1), HIGH_POLE, s->other);
    for (int64_t i = 0; i < ENTRIES(rows); i++) {
        const vec low = SECOND_SCALE * LOW_WEIGHT * s->one[i], high = SECOND_SCALE * HIGH_WEIGHT * s->other[i];
        s->last[i] = -(low + high);
        rest[i] = fused(all(SECOND_SCALE), s->gram[i], fused(all(LOW_POLE), low, HIGH_POLE * high));
    }
    add_to_diagonal(rows, all(SECOND_SCALE), s->last);
    add_to_diagonal(rows, all(SECOND_SCALE * (LOW_WEIGHT + HIGH_WEIGHT)), rest); /* the factor times its Gram matrix */
    of->product(s->last, rest, e);
    for (int64_t i = 0; i < ENTRIES(rows); i++) e[i] = -e[i];
    add_to_diagonal(rows, all(1), e);
    of->product(e, e, e2);
    const mask far = ~(inner_product(rows, e2, e2) <= LEFT_OVER * LEFT_OVER);
    for (int64_t i = 0; i < ENTRIES(rows); i++) series[i] = fused(all(5. / 16), e[i], 35. / 128 * e2[i]);
    add_to_diagonal(rows, all(3. / 8), series);
    of->product(e2, series, rest);
    for (int64_t i = 0; i < ENTRIES(rows); i++) rest[i] += 0.5 * e[i];
    add_to_diagonal(rows, all(1), rest);
    of->product(s->last, rest, e);
    *nuclear = inner_product(rows, e, s->weighed);
    unpack(rows, e, s->factor);
    return far;
}

#define OF_ROWS(R) \
    APART void gram_##R(int64_t columns, const vec *g, vec *to) { gram_of_rows(R, columns, g, to); } \
    APART void times_##R(int64_t columns, const vec *f, const vec *g, vec *to) { factor_times(R, columns, f, g, to); } \
    APART void product_##R(const vec *p, const vec *q, vec *to) { product_of(R, p, q, to); } \
    APART void inverse_##R(const vec *m, vec scale, double pole, vec *to) { inverse_of(R, m, scale, pole, to); } \
    static const OfRows USED_##R = {gram_##R, times_##R, product_##R, inverse_##R, NULL, NULL}; \
    APART void first_##R(Small *s) { first_factor(R, &USED_##R, s); } \
    APART mask second_##R(Small *s, vec *nuclear) { return second_factor(R, &USED_##R, s, nuclear); }
#define ENTRY(R) [R] = {gram_##R, times_##R, product_##R, inverse_##R, first_##R, second_##R}

OF_ROWS(2) OF_ROWS(3) OF_ROWS(4) OF_ROWS(5) OF_ROWS(6) OF_ROWS(7) OF_ROWS(8) OF_ROWS(9)
static const OfRows POLAR_OF[MOST_PACKED + 1] = {ENTRY(2), ENTRY(3), ENTRY(4), ENTRY(5), ENTRY(6), ENTRY(7), ENTRY(8), ENTRY(9)};

/* Where there is such code. */
static inline int has_functions(int64_t rows) { return FEWEST_ROWS <= rows && rows <= MOST_PACKED; }

/* The last factor, into s->factor, of the two that make the polar factor of g (rows, columns); the first times g into `turned`.
 * Returns as second_factor(). */
static mask factors_of(Small *s, int64_t rows, int64_t columns, const vec *g, vec *turned, vec *nuclear)
{
    const OfRows *of = POLAR_OF + rows;
    of->gram(columns, g, s->gram);
    of->first(s);
    of->times(columns, s->factor, g, turned);
    of->gram(columns, turned, s->gram);
    return of->second(s, nuclear);
}

#endif
