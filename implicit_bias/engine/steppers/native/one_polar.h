/* Jacobi's method and polar factors (jacobi.h, decompositions.h) of one matrix: a lane is a pair of rows, or a column. */

#ifndef ONE_POLAR_H
#define ONE_POLAR_H

#include "across.h"
#include "decompositions.h"
#include "one_matrix.h"

/* The rotations of a round: rows `a` and `b` of each pair; filled up to whole vectors by the last pair. */
typedef struct {
    int64_t pairs, *a, *b;
    double *c, *s;
} Round;

static Round room_for_rounds(const Work *v, int64_t rows)
{
    const int64_t pairs = rows / 2, wide = vectors_of(pairs);
    vec *start = (vec *)v->turn;
    return (Round){pairs, (int64_t *)start, (int64_t *)(start + wide), (double *)(start + 2 * wide), (double *)(start + 3 * wide)};
}

static void pair_up_all(int64_t rows, int64_t round, Round *r)
{
    Turn turn = {0};
    for (int64_t i = 0; i < vectors_of(r->pairs) * LANES; i++) {
        if (i < r->pairs) pair_up(rows, round, i, &turn);
        r->a[i] = turn.a, r->b[i] = turn.b;
    }
}

/* Numbers (a[i], b[i]) of a matrix, as a vector. */
static inline vec picked(const double *from, int64_t stride, const int64_t *a, const int64_t *b)
{
#define PICK(i) from[a[i] * stride + b[i]]
#if LANES == 8
    return (vec){PICK(0), PICK(1), PICK(2), PICK(3), PICK(4), PICK(5), PICK(6), PICK(7)};
#else
    return (vec){PICK(0), PICK(1), PICK(2), PICK(3)};
#endif
#undef PICK
}

static inline void rotate_numbers(double c, double s, double *a, double *b)
{
    const double u = *a, v = *b;
    *a = fused_numbers(c, u, -(s * v));
    *b = fused_numbers(s, u, c * v);
}

/* Rotate the rows of each pair of m, `wide` vectors each. */
static void rotate_pairs(const Round *r, vec *m, int64_t wide)
{
    for (int64_t i = 0; i < r->pairs; i++) {
        const Turn turn = {r->a[i], r->b[i], all(r->c[i]), all(r->s[i]), {0}};
        rotate_rows(&turn, m, wide);
    }
}

/* find_turn() for the pairs of a round of a Gram matrix; whether any row is to be turned. */
static int find_turns(const Round *r, double *gram, int64_t stride)
{
    int turning = 0;
    for (int64_t i = 0; i < r->pairs; i += LANES) {
        const int64_t *a = r->a + i, *b = r->b + i;
        vec p = picked(gram, stride, a, a), q = picked(gram, stride, b, b), x = picked(gram, stride, a, b);
        Turn turn;
        find_turn(&p, &q, x, ~(mask){0}, ENOUGH * ENOUGH, &turn);
        *(vec *)(r->c + i) = turn.c, *(vec *)(r->s + i) = turn.s;
        if (!any(turn.turns)) continue;
        turning = 1;
        x = choose(turn.turns, all(0), x);
        for (int64_t l = 0; l < least(LANES, r->pairs - i); l++) {
            gram[a[l] * stride + a[l]] = p[l], gram[b[l] * stride + b[l]] = q[l];
            gram[a[l] * stride + b[l]] = gram[b[l] * stride + a[l]] = x[l];
        }
    }
    return turning;
}

/* turn_gram() of one matrix, in both triangles. */
static void turn_one_gram(const Round *r, int64_t bye, double *gram, int64_t stride)
{
    for (int64_t i = 0; i < r->pairs; i++) {
        const int64_t a = r->a[i], b = r->b[i];
        const double c = r->c[i], s = r->s[i];
        double *ga = gram + a * stride, *gb = gram + b * stride;
        for (int64_t j = i + 1; j < r->pairs; j++) {
            const int64_t e = r->a[j], f = r->b[j];
            double *ge = gram + e * stride, *gf = gram + f * stride, ae = ga[e], af = ga[f], be = gb[e], bf = gb[f];
            rotate_numbers(c, s, &ae, &be);
            rotate_numbers(c, s, &af, &bf);
            rotate_numbers(r->c[j], r->s[j], &ae, &af);
            rotate_numbers(r->c[j], r->s[j], &be, &bf);
            ga[e] = ge[a] = ae, ga[f] = gf[a] = af, gb[e] = ge[b] = be, gb[f] = gf[b] = bf;
        }
        if (bye < 0) continue;
        double *gz = gram + bye * stride, az = ga[bye], bz = gb[bye];
        rotate_numbers(c, s, &az, &bz);
        ga[bye] = gz[a] = az, gb[bye] = gz[b] = bz;
    }
}

/* askew() of one Gram matrix. */
static int one_is_askew(const vec *gram, int64_t rows, double above)
{
    const int64_t wide = vectors_of(rows), stride = wide * LANES;
    const double *numbers = (const double *)gram;
    double top = 0;
    for (int64_t a = 0; a < rows; a++) top = larger_number(top, numbers[a * (stride + 1)]);
    top *= RANK_TOLERANCE * RANK_TOLERANCE;
    mask found = {0};
    for (int64_t b = 0; b < wide; b++) {
        vec q = all(0);
        for (int64_t l = 0; l < least(LANES, rows - b * LANES); l++) q[l] = numbers[(b * LANES + l) * (stride + 1)];
        for (int64_t a = 0; a < rows; a++) {
            const vec p = all(numbers[a * (stride + 1)]), x = gram[a * wide + b], square = p * q;
            found |= (x * x > above * above * square) & (square > NOTHING) & (larger(p, q) > top) & (lane_numbers() + b * LANES > a);
        }
    }
    return any(found);
}

/* diagonalise() of one Gram matrix. */
static void diagonalise_one(const Work *v, int64_t rows)
{
    const int64_t wide = vectors_of(rows), stride = wide * LANES;
    Round r = room_for_rounds(v, rows);
    for (int64_t e = 0; e < rows * wide; e++) v->rotation[e] = all(0);
    for (int64_t a = 0; a < rows; a++) ((double *)v->rotation)[a * (stride + 1)] = 1;
    for (int sweep = 0; sweep < SWEEPS && one_is_askew(v->gram, rows, ENOUGH); sweep++)
        for (int64_t round = 0; round < rounds_of(rows); round++) {
            pair_up_all(rows, round, &r);
            if (!find_turns(&r, (double *)v->gram, stride)) continue;
            turn_one_gram(&r, rows % 2 ? round : -1, (double *)v->gram, stride);
            rotate_pairs(&r, v->rotation, wide);
        }
}

/* orthogonalise() of one matrix. */
static void orthogonalise_one(const Work *v, double *g, int64_t rows, int64_t columns, int64_t stride)
{
    Round r = room_for_rounds(v, rows);
    double *norm = (double *)v->norm;
    int again = 1;
    for (int sweep = 0; sweep < SWEEPS && again; sweep++) {
        again = 0;
        for (int64_t a = 0; a < rows; a++) norm[a] = dot_across(g + a * stride, g + a * stride, columns);
        for (int64_t round = 0; round < rounds_of(rows); round++) {
            int turning = 0;
            pair_up_all(rows, round, &r);
            for (int64_t i = 0; i < r.pairs; i += LANES) {
                const int64_t *a = r.a + i, *b = r.b + i, count = least(LANES, r.pairs - i);
                vec p = picked(norm, 0, a, a), q = picked(norm, 0, b, b), x = all(0), square = p * q;
                for (int64_t l = 0; l < count; l++) x[l] = dot_across(g + a[l] * stride, g + b[l] * stride, columns);
                Turn turn;
                find_turn(&p, &q, x, ~(mask){0}, ORTHOGONAL, &turn);
                *(vec *)(r.c + i) = turn.c, *(vec *)(r.s + i) = turn.s;
                turning |= any(turn.turns), again |= any(turn.turns & (x * x > CONVERGED * CONVERGED * square));
                for (int64_t l = 0; l < count; l++) norm[a[l]] = p[l], norm[b[l]] = q[l];
            }
            if (!turning) continue;
            rotate_pairs(&r, (vec *)g, stride / LANES);
            rotate_pairs(&r, v->rotation, vectors_of(rows));
        }
    }
}

/* correct() of one matrix, into v->corrected. A row's corrections go in the order of the rows that they are made of, as there;
 * v->gram is overwritten with what those rows are multiplied with. */
static void correct_one(const Work *v, int64_t rows)
{
    const int64_t wide = vectors_of(rows);
    const double *norm = (const double *)v->norm, *inverse = (const double *)v->inverse;
    for (int64_t a = 0; a < rows; a++) {
        vec *row = v->gram + a * wide, *to = v->corrected + a * wide;
        for (int64_t b = 0; b < wide; b++) {
            const vec sum = v->norm[b] + norm[a], later = row[b] * inverse[a] * v->inverse[b], before = row[b] * v->inverse[b] * inverse[a];
            const vec each = choose(lane_numbers() + b * LANES > a, later, before) / choose(sum > 0, sum, all(1));
            row[b] = each * norm[a];
            to[b] = v->rotation[a * wide + b];
        }
        for (int64_t c = 0; c < rows; c++)
            for (int64_t b = 0; c != a && b < wide; b++) to[b] -= ((const double *)row)[c] * v->rotation[c * wide + b];
    }
}

/* polar() of one matrix, whose rows and those of `turned` are `stride` apart. */
static double polar_of_one(Work *v, double *g, int64_t rows, int64_t columns, int64_t stride, int top_pair_only, double *turned)
{
    const int64_t wide = vectors_of(rows), across = stride / LANES;
    double *norm = (double *)v->norm, *inverse = (double *)v->inverse, top = 0, nuclear = 0;
    gram_of_one(v, g, rows, columns, stride);
    diagonalise_one(v, rows);
    spread_product(rows, across, rows, (double *)v->rotation, wide * LANES, 1, (vec *)g, across, (vec *)turned, across);
    gram_of_one(v, turned, rows, columns, stride);
    if (top_pair_only || one_is_askew(v->gram, rows, NEARLY)) {
        orthogonalise_one(v, turned, rows, columns, stride);
        gram_of_one(v, turned, rows, columns, stride);
    }
    int64_t first = -1;
    for (int64_t b = 0; b < wide; b++) v->norm[b] = v->inverse[b] = all(0);
    for (int64_t a = 0; a < rows; a++) {
        norm[a] = sqrt(((double *)v->gram)[a * (wide * LANES + 1)]);
        nuclear += norm[a];
        first = norm[a] > top ? a : first;
        top = larger_number(top, norm[a]);
    }
    for (int64_t a = 0; a < rows; a++) {
        const int kept = top_pair_only ? first == a : norm[a] > RANK_TOLERANCE * top;
        inverse[a] = kept ? 1 / (norm[a] > 0 ? norm[a] : 1) : 0;
        for (int64_t j = 0; j < stride; j++) turned[a * stride + j] *= inverse[a];
    }
    if (!top_pair_only) correct_one(v, rows);
    const double *of = (double *)(top_pair_only ? v->rotation : v->corrected);
    spread_product(rows, across, rows, of, 1, wide * LANES, (vec *)turned, across, (vec *)g, across);
    return top_pair_only ? top : nuclear;
}

/* polar_in_row_space() of one matrix. */
static vec polar_of_one_in_row_space(const Group *p, Work *v, int top_pair_only, vec *a)
{
    const int64_t k = p->k, rows = k - 1, columns = p->features, stride = p->d * LANES, tall = vectors_of(rows) * LANES;
    double *reduced = (double *)v->reduced, *factor = (double *)v->factor, *turned = (double *)a, sizes;
    into_row_space(v, k, p->d, a);
    if (rows <= columns) {
        sizes = polar_of_one(v, reduced, rows, columns, stride, top_pair_only, factor);
    } else {
        transpose_across(reduced, rows, columns, stride, turned, tall);
        sizes = polar_of_one(v, turned, columns, rows, tall, top_pair_only, factor);
        transpose_across(turned, columns, rows, tall, reduced, stride);
        fill_up(reduced, rows, columns, stride);
    }
    out_of_row_space(v, k, p->d, a);
    return all(sizes);
}

#endif
