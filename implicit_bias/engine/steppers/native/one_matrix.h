/* What directions.h does with whole matrices, for a run alone: see across.h. Rows of numbers, `stride` apart. */

#ifndef ONE_MATRIX_H
#define ONE_MATRIX_H

#include "across.h"
#include "decompositions.h"
#include "group.h"

/* Fill up a row. */
static inline void repeat_last(double *row, int64_t length, int64_t stride)
{
    for (int64_t j = length; j < stride; j++) row[j] = row[length - 1];
}

/* Of equal entries the first is taken. */
static void largest_entry_of_one(double *a, int64_t rows, int64_t columns, int64_t stride)
{
    double top = 0, sign_of_top = 0;
    int64_t first = -1;
    for (int64_t c = 0; c < rows; c++)
        for (int64_t e = c * stride; e < c * stride + columns; e++)
            if (fabs(a[e]) > top) top = fabs(a[e]), first = e, sign_of_top = a[e] < 0 ? -1 : 1;
    for (int64_t c = 0; c < rows; c++) {
        for (int64_t e = c * stride; e < c * stride + columns; e++) a[e] = e == first ? sign_of_top : 0;
        repeat_last(a + c * stride, columns, stride);
    }
}

/* The sum of all squares, in the order of a matrix without gaps; `scratch` has room for that. */
static vec sum_of_squares(const double *a, int64_t rows, int64_t columns, int64_t stride, double *scratch)
{
    for (int64_t c = 0; c < rows; c++) memcpy(scratch + c * columns, a + c * stride, columns * sizeof(double));
    return all(dot_across(scratch, scratch, rows * columns));
}

static void transpose_one(const double *a, int64_t rows, int64_t columns, int64_t stride, double *b, int64_t b_stride)
{
    for (int64_t j = 0; j < columns; j++) {
        for (int64_t i = 0; i < rows; i++) b[j * b_stride + i] = a[i * stride + j];
        repeat_last(b + j * b_stride, rows, b_stride);
    }
}

/* Turn the pairs of rows first[q], second[q], no row of which is in two of them; returns their largest squared cosine. */
static vec turn_pairs(
    int64_t pairs, const int64_t *first, const int64_t *second, double *g, int64_t columns, int64_t stride, double *rotation,
    int64_t r_stride, double *norm)
{
    vec worst = all(0), inner = all(0), a = all(0), b = all(0), c, s; /* a pair is a lane */
    for (int64_t q = 0; q < pairs; q++) {
        inner[q] = dot_across(g + first[q] * stride, g + second[q] * stride, columns);
        a[q] = norm[first[q]], b[q] = norm[second[q]];
    }
    const mask turns = to_be_turned(inner, a, b);
    if (!any(turns)) return worst;
    turn(turns, inner, &a, &b, &worst, &c, &s);
    for (int64_t q = 0; q < pairs; q++) {
        if (!turns[q]) continue;
        norm[first[q]] = a[q], norm[second[q]] = b[q];
        rotate((vec *)(g + first[q] * stride), (vec *)(g + second[q] * stride), all(c[q]), all(s[q]), stride / LANES);
        vec *turned = (vec *)(rotation + first[q] * r_stride), *with = (vec *)(rotation + second[q] * r_stride);
        rotate(turned, with, all(c[q]), all(s[q]), r_stride / LANES);
    }
    return worst;
}

/* polar() of one matrix, whose rows and those of `out` are `stride` apart. */
static double polar_of_one(
    double *g, int64_t rows, int64_t columns, int64_t stride, int top_pair_only, double *rotation, double *norm, double *out)
{
    const int64_t r_stride = vectors_of(rows) * LANES;
    for (int64_t e = 0; e < rows * r_stride; e++) rotation[e] = 0;
    for (int64_t a = 0; a < rows; a++) rotation[a * r_stride + a] = 1;
    for (int sweep = 0; sweep < SWEEPS; sweep++) {
        vec worst = all(0);
        for (int64_t a = 0; a < rows; a++) norm[a] = dot_across(g + a * stride, g + a * stride, columns);
        for (int64_t a = 0; a < rows; a++)
            for (int64_t b = a + 1; b < rows; b++)
                worst = larger(worst, turn_pairs(1, &a, &b, g, columns, stride, rotation, r_stride, norm));
        if (!any(worst > CONVERGED * CONVERGED)) break;
    }
    double top = 0, nuclear = 0;
    int64_t first = -1;
    for (int64_t a = 0; a < rows; a++) {
        norm[a] = sqrt(dot_across(g + a * stride, g + a * stride, columns));
        nuclear += norm[a];
        if (norm[a] > top) first = a, top = norm[a];
    }
    for (int64_t a = 0; a < rows; a++) {
        const int kept = top_pair_only ? first == a : norm[a] > RANK_TOLERANCE * top;
        const double inverse = kept ? 1 / (norm[a] > 0 ? norm[a] : 1) : 0;
        for (int64_t j = 0; j < stride; j++) g[a * stride + j] *= inverse;
    }
    spread_product(rows, stride / LANES, rows, rotation, 1, r_stride, (vec *)g, stride / LANES, (vec *)out, stride / LANES);
    return top_pair_only ? top : nuclear;
}

/* polar_in_row_space() of one matrix. */
static vec polar_of_one_in_row_space(const Group *p, Work *v, int top_pair_only, vec *a)
{
    const int64_t k = p->k, rows = k - 1, columns = p->features, stride = p->d * LANES, tall = vectors_of(rows) * LANES;
    double *reduced = (double *)v->reduced, *rotation = (double *)v->rotation, *norm = (double *)v->norm, sizes;
    double *factor = (double *)v->factor, *turned = (double *)a;
    into_row_space(a, k, p->d, v->reduced);
    if (rows <= columns) {
        sizes = polar_of_one(reduced, rows, columns, stride, top_pair_only, rotation, norm, factor);
    } else {
        transpose_one(reduced, rows, columns, stride, turned, tall);
        sizes = polar_of_one(turned, columns, rows, tall, top_pair_only, rotation, norm, reduced);
        transpose_one(reduced, columns, rows, tall, factor, stride);
    }
    out_of_row_space(v->factor, k, p->d, a);
    return all(sizes);
}

/* newton_schulz() of one matrix. */
static void newton_schulz_of_one(const Group *p, Work *v, vec eps, vec *a)
{
    const int tall = p->k > p->features;
    const int64_t rows = tall ? p->features : p->k, columns = tall ? p->k : p->features;
    const int64_t wide = vectors_of(columns), square = vectors_of(rows), stride = wide * LANES;
    vec *x = a, *next = v->factor, *both = v->reduced;
    double *gram = (double *)v->rotation;
    if (tall) {
        transpose_one((const double *)a, p->k, p->features, p->d * LANES, (double *)v->factor, stride);
        x = v->factor, next = a;
    }
    vec size = larger(root(sum_of_squares((const double *)x, rows, columns, stride, (double *)v->reduced)), eps);
    size = 1 / choose(size > 0, size, all(1));
    for (int64_t e = 0; e < rows * wide; e++) x[e] *= size;
    for (int64_t e = 0; e < rows * square; e++) v->rotation[e] = all(0);
    for (int64_t step = 0; step < p->iterations; step++) {
        const double *now = p->coefficients + 3 * step, *row = (const double *)x;
        for (int64_t i = 0; i < rows; i++)
            for (int64_t j = 0; j <= i; j++)
                gram[i * square * LANES + j] = gram[j * square * LANES + i] =
                    dot_across(row + i * stride, row + j * stride, columns);
        spread_product(rows, square, rows, gram, square * LANES, 1, v->rotation, square, both, square);
        for (int64_t e = 0; e < rows * square; e++) both[e] = combined(now[1], v->rotation[e], now[2], both[e]);
        spread_product(rows, wide, rows, (const double *)both, square * LANES, 1, x, wide, next, wide);
        for (int64_t e = 0; e < rows * wide; e++) next[e] += now[0] * x[e];
        vec *swap = x;
        x = next, next = swap;
    }
    if (tall) {
        transpose_one((const double *)x, rows, columns, stride, (double *)next, p->d * LANES);
        x = next;
    }
    if (x != a) memcpy(a, x, p->k * p->d * sizeof(vec));
}

#endif
