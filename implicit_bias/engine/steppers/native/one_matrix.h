/* What directions.h does with whole matrices, for a run alone: see across.h. Rows of numbers, `stride` apart. */

#ifndef ONE_MATRIX_H
#define ONE_MATRIX_H

#include "across.h"
#include "decompositions.h"
#include "group.h"

/* Of equal entries the first is taken. */
SHARED void largest_entry_of_one(double *a, int64_t rows, int64_t columns, int64_t stride)
{
    double top = 0, sign_of_top = 0;
    int64_t first = -1;
    for (int64_t c = 0; c < rows; c++)
        for (int64_t e = c * stride; e < c * stride + columns; e++) {
            if (fabs(a[e]) > top) first = e, sign_of_top = a[e] < 0 ? -1 : 1;
            top = larger_number(top, fabs(a[e]));
        }
    for (int64_t c = 0; c < rows; c++)
        for (int64_t e = c * stride; e < c * stride + columns; e++) a[e] = e == first ? sign_of_top : 0;
    fill_up(a, rows, columns, stride);
}

/* The sum of all squares, in the order of a matrix without gaps; `scratch` has room for that. */
static vec sum_of_squares(const vec *a, int64_t rows, int64_t columns, vec *scratch)
{
    double *numbers = (double *)scratch;
    for (int64_t c = 0; c < rows; c++) memcpy(numbers + c * columns, a + c * vectors_of(columns), columns * sizeof(double));
    return all(dot_across(numbers, numbers, rows * columns));
}

/* gram_of() of one matrix: both triangles, rows of whole vectors. */
static void gram_of_one(const Work *v, const double *g, int64_t rows, int64_t columns, int64_t stride)
{
    const int64_t wide = vectors_of(rows);
    transpose_across(g, rows, columns, stride, (double *)v->across, wide * LANES);
    spread_product(rows, wide, 0, columns, g, stride, 1, v->across, wide, v->gram, wide);
}

/* newton_schulz() of one matrix. */
SHARED void newton_schulz_of_one(const Group *p, Work *v, vec eps, vec *a)
{
    const int tall = p->k > p->features;
    const int64_t rows = tall ? p->features : p->k, columns = tall ? p->k : p->features;
    const int64_t wide = vectors_of(columns), square = vectors_of(rows), stride = wide * LANES;
    vec *x = a, *next = v->factor, *both = v->reduced;
    if (tall) {
        transpose_across((const double *)a, p->k, p->features, p->d * LANES, (double *)v->factor, stride);
        x = v->factor, next = a;
    }
    vec size = larger(root(sum_of_squares(x, rows, columns, v->reduced)), eps);
    size = 1 / choose(size > 0, size, all(1));
    for (int64_t e = 0; e < rows * wide; e++) x[e] *= size;
    for (int64_t step = 0; step < p->iterations; step++) {
        const double *now = p->coefficients + 3 * step;
        gram_of_one(v, (const double *)x, rows, columns, stride);
        spread_product(rows, square, 0, rows, (const double *)v->gram, square * LANES, 1, v->gram, square, both, square);
        for (int64_t e = 0; e < rows * square; e++) both[e] = combined(now[1], v->gram[e], now[2], both[e]);
        spread_product(rows, wide, 0, rows, (const double *)both, square * LANES, 1, x, wide, next, wide);
        for (int64_t e = 0; e < rows * wide; e++) next[e] += now[0] * x[e];
        vec *swap = x;
        x = next, next = swap;
    }
    if (tall) {
        transpose_across((const double *)x, rows, columns, stride, (double *)next, p->d * LANES);
        fill_up((double *)next, p->k, p->features, p->d * LANES);
        x = next;
    }
    if (x != a) memcpy(a, x, p->k * p->d * sizeof(vec));
}

#endif
