/* Singular values of small matrices, LANES at a time, and the sizes of their entries. */

#ifndef SIZES_H
#define SIZES_H

#include "across.h"
#include "jacobi.h"
#include "products.h"
#include "vectors.h"

#define LEAST_UNIT -1000 /* the exponent of the least power of two that sizes are in units of: one over it is a number */

/* Vectors of scratch memory for matrices of so many rows, which are not more than the columns. */
static int64_t values_size(int64_t rows, int64_t columns)
{
    return 2 * rows * columns + 2 * rows * rows + rows + turns_of(rows) * (int64_t)(sizeof(Turn) / sizeof(vec)) + 1;
}

/* Rotations that make the rows of g orthogonal to round-off, whatever their lengths (one-sided Jacobi: Demmel and Veselic 1992), and
 * the squares of their lengths. */
static void make_orthogonal(vec *g, int64_t rows, int64_t columns, vec *square)
{
    mask going = ~(mask){0};
    for (int64_t sweep = 0; sweep < SWEEPS && any(going); sweep++) {
        mask again = {0};
        for (int64_t a = 0; a < rows; a++) square[a] = dot(g + a * columns, g + a * columns, columns);
        for (int64_t round = 0; round < rows; round++)
            for (int64_t a = start_of(rows, sweep, round); a + 1 < rows; a += 2) {
                vec *ga = g + a * columns, *gb = ga + columns, p = square[a], q = square[a + 1];
                const vec x = dot(ga, gb, columns);
                again |= oblique(p, q, x, CONVERGED * CONVERGED);
                const Turn turn = find_turn(&p, &q, x, going & oblique(p, q, x, ORTHOGONAL));
                square[a] = q, square[a + 1] = p;
                rotate_rows(turn, ga, gb, columns);
            }
        going &= again;
    }
    for (int64_t a = 0; a < rows; a++) square[a] = dot(g + a * columns, g + a * columns, columns);
}

/* Singular values, not in order, of g (rows, columns), rows <= columns, whose largest entries are about one. Most rotations are found
 * on the Gram matrix, which is small; the rows themselves show what is left to do. */
static const vec *values_of(vec *g, int64_t rows, int64_t columns, vec *memory)
{
    vec *turned = memory, *gram = turned + rows * columns, *rotation = gram + rows * rows, *square = rotation + rows * rows;
    Turn *turn = (Turn *)(square + rows);
    gram_of(g, rows, columns, gram);
    diagonalise(gram, rows, turn, rotation);
    product(rows, columns, 0, rows, (Matrix){rotation, rows, 1}, (Matrix){g, columns, 1}, (Matrix){turned, columns, 1});
    make_orthogonal(turned, rows, columns, square);
    for (int64_t a = 0; a < rows; a++) square[a] = root(square[a]);
    return square;
}

/* LANES matrices from a on, or the last one again where there are fewer, (rows, columns) row-major, or the other way round where
 * `tall`, in units of the returned powers of two; in the lanes `far` an entry is no finite number. */
static vec gathered(const double *a, int64_t count, int64_t rows, int64_t columns, int tall, vec *to, mask *far)
{
    vec unit = all(1), top;
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++)
            for (int64_t l = 0; l < LANES; l++) {
                const int64_t matrix = least(l, count - 1) * rows * columns;
                to[i * columns + j][l] = a[matrix + (tall ? j * rows + i : i * columns + j)];
            }
    *far = (mask){0};
    for (int64_t e = 0; e < rows * columns; e++) *far |= (to[e] - to[e]) != 0;
    for (int64_t e = 0; e < rows * columns; e++) to[e] = choose(*far, all(0), to[e]);
    top = largest_size(to, rows * columns);
    for (int l = 0; l < LANES; l++)
        if (top[l] > 0) unit[l] = ldexp(1, ilogb(top[l]));
    for (int64_t e = 0; e < rows * columns; e++) to[e] = to[e] / unit;
    return unit;
}

/* Numbers of a lane in descending order. */
static void in_order(const vec *values, int64_t count, int64_t lane, double unit, double *to)
{
    for (int64_t a = 0; a < count; a++) {
        const double value = values[a][lane] * unit;
        int64_t place = a;
        for (; place > 0 && to[place - 1] < value; place--) to[place] = to[place - 1];
        to[place] = value;
    }
}

/* Singular values (count, rows) of matrices a (count, rows, columns), rows <= columns, or (count, columns, rows) where `tall`; NaN of
 * those with an entry that is no finite number. */
static void values_of_many(const double *a, int64_t count, int64_t rows, int64_t columns, int tall, double *to, vec *memory)
{
    vec *g = memory + values_size(rows, columns) - rows * columns;
    for (int64_t first = 0; first < count; first += LANES) {
        mask far;
        const int64_t here = least(LANES, count - first);
        const vec unit = gathered(a + first * rows * columns, here, rows, columns, tall, g, &far);
        const vec *values = values_of(g, rows, columns, memory);
        for (int64_t l = 0; l < here; l++)
            in_order(values, rows, l, far[l] ? NAN : unit[l], to + (first + l) * rows);
    }
}

/* The largest of `count` numbers' absolute values, their sum, and the root of the sum of their squares, in units of a power of two;
 * all are NaN where a number is. */
static void sizes_of(const double *a, int64_t count, double *largest, double *sum, double *length)
{
    const int64_t whole_vectors = count / LANES * LANES;
    vec tops = all(0), sums = all(0), squares = all(0);
    for (int64_t e = 0; e < whole_vectors; e += LANES) {
        const vec size = magnitude((vec)*(const loose_vec *)(a + e));
        tops = larger(tops, size), sums += size;
    }
    double top = largest_across(tops)[0], all_sizes = 0, all_squares = 0;
    for (int l = 0; l < LANES; l++) all_sizes += sums[l];
    for (int64_t e = whole_vectors; e < count; e++) top = larger_number(top, fabs(a[e])), all_sizes += fabs(a[e]);
    const int exponent = top > 0 && isfinite(top) ? ilogb(top) : 0;
    const double inverse = ldexp(1, exponent < LEAST_UNIT ? -LEAST_UNIT : -exponent);
    for (int64_t e = 0; e < whole_vectors; e += LANES) {
        const vec number = (vec)*(const loose_vec *)(a + e) * inverse;
        squares += number * number;
    }
    for (int l = 0; l < LANES; l++) all_squares += squares[l];
    for (int64_t e = whole_vectors; e < count; e++) all_squares += (a[e] * inverse) * (a[e] * inverse);
    *largest = all_sizes == all_sizes ? top : NAN, *sum = all_sizes, *length = sqrt(all_squares) / inverse;
}

#endif
