/* A run alone: a vector holds LANES neighbouring features, or samples, of one run instead of one number of LANES runs. What is
 * computed entry by entry is then computed by the same code; what goes across a vector is here, in the order in which a lane of
 * LANES runs takes it, so that a run has the same bits either way.
 *
 * Rows are filled up to whole vectors by their last entry, which changes no largest entry, and which no sum reaches. */

#ifndef ACROSS_H
#define ACROSS_H

#include "products.h"
#include "vectors.h"

typedef double quad __attribute__((vector_size(32)));
typedef double loose __attribute__((vector_size(32), aligned(8))); /* one that begins anywhere */
typedef double loose_vec __attribute__((vector_size(8 * LANES), aligned(8)));

/* Vectors that so many numbers take. */
static inline int64_t vectors_of(int64_t numbers) { return (numbers + LANES - 1) / LANES; }

/* larger() of numbers, which is the second where one of the two is none (NaN). */
static inline double larger_number(double a, double b) { return a > b ? a : b; }

static inline vec largest_across(vec a)
{
    double top = a[0];
    for (int l = 1; l < LANES; l++) top = larger_number(top, a[l]);
    return all(top);
}

/* larger(top, a), so that largest_across() of the last is what larger() finds number by number: their order shows where one is
 * none, in a run that has overflowed. */
static inline vec larger_in_order(vec top, vec a)
{
    if (!any(a != a)) return larger(top, a);
    double found = largest_across(top)[0];
    for (int l = 0; l < LANES; l++) found = larger_number(found, a[l]);
    return all(found);
}

static inline double smaller_number(double a, double b) { return a < b ? a : b; }

static inline vec smallest_across(vec a)
{
    double least = a[0];
    for (int l = 1; l < LANES; l++) least = smaller_number(least, a[l]);
    return all(least);
}

/* largest_size() and least_size() of rows of numbers, number by number: where some are none. */
static vec largest_size_in_order(const double *a, int64_t rows, int64_t columns, int64_t stride)
{
    double top[4] = {0};
    for (int64_t e = 0; e < rows * columns; e++) {
        double *of = top + (e < rows * columns / 4 * 4 ? e % 4 : 0);
        *of = larger_number(*of, fabs(a[e / columns * stride + e % columns]));
    }
    return all(larger_number(larger_number(top[0], top[1]), larger_number(top[2], top[3])));
}

static vec least_size_in_order(const double *a, int64_t rows, int64_t columns, int64_t stride)
{
    double low[4] = {INFINITY, INFINITY, INFINITY, INFINITY};
    for (int64_t e = 0; e < rows * columns; e++) {
        double *of = low + (e < rows * columns / 4 * 4 ? e % 4 : 0);
        *of = smaller_number(*of, fabs(a[e / columns * stride + e % columns]));
    }
    return all(smaller_number(smaller_number(low[0], low[1]), smaller_number(low[2], low[3])));
}

/* The same of rows of `wide` vectors, with so many columns, of one run. */
static inline vec largest_size_across(const vec *a, int64_t rows, int64_t wide, int64_t columns)
{
    vec top = all(0);
    mask none = {0};
    for (int64_t e = 0; e < rows * wide; e++) top = larger(top, magnitude(a[e])), none |= a[e] != a[e];
    return any(none) ? largest_size_in_order((const double *)a, rows, columns, wide * LANES) : largest_across(top);
}

static inline vec least_size_across(const vec *a, int64_t rows, int64_t wide, int64_t columns)
{
    vec low = all(INFINITY);
    mask none = {0};
    for (int64_t e = 0; e < rows * wide; e++) low = smaller(low, magnitude(a[e])), none |= a[e] != a[e];
    return any(none) ? least_size_in_order((const double *)a, rows, columns, wide * LANES) : smallest_across(low);
}

/* dot() of one run: a quad holds its four partial sums. */
static inline double dot_across(const double *a, const double *b, int64_t length)
{
    quad s = {0};
    int64_t j = 0;
    for (; j + 3 < length; j += 4) s += *(const loose *)(a + j) * *(const loose *)(b + j);
    double s0 = s[0];
    for (; j < length; j++) s0 = fused_numbers(a[j], b[j], s0);
    return (s0 + s[1]) + (s[2] + s[3]);
}

static inline double added_in_order(double sum, vec a, int64_t count)
{
    for (int64_t l = 0; l < count; l++) sum += a[l];
    return sum;
}

static inline double sum_of_magnitudes(const double *a, int64_t length)
{
    double sum = 0;
    for (int64_t j = 0; j < length; j++) sum += fabs(a[j]);
    return sum;
}

/* 0, 1, ..., LANES - 1 */
static inline mask lane_numbers(void)
{
    mask numbers = {0};
    for (int l = 0; l < LANES; l++) numbers[l] = l;
    return numbers;
}

/* Rows of numbers are filled up to `stride`, by their last. */
static inline void fill_up(double *a, int64_t rows, int64_t columns, int64_t stride)
{
    for (int64_t c = 0; c < rows; c++)
        for (int64_t j = columns; j < stride; j++) a[c * stride + j] = a[c * stride + columns - 1];
}

/* b = a^T, its rows filled up with zeros. */
static inline void transpose_across(const double *a, int64_t rows, int64_t columns, int64_t stride, double *b, int64_t b_stride)
{
    for (int64_t j = 0; j < columns; j++) {
        for (int64_t i = 0; i < rows; i++) b[j * b_stride + i] = a[i * stride + j];
        for (int64_t i = rows; i < b_stride; i++) b[j * b_stride + i] = 0;
    }
}

/* c[a, b] (+)= sum_l p[a, l] q[l, b], p of numbers, for `rows` x `vectors` vectors b at once, in registers. */
__attribute__((always_inline)) static inline void spread_tile(
    const int rows, const int vectors, int add, int64_t length, const double *p, int64_t p_row, int64_t p_length, const vec *q,
    int64_t q_length, vec *c, int64_t c_row)
{
    vec sum[MOST_ROWS * MOST_COLUMNS], right[MOST_COLUMNS];
#pragma GCC unroll 8
    for (int a = 0; a < rows; a++)
#pragma GCC unroll 8
        for (int b = 0; b < vectors; b++) sum[a * vectors + b] = add ? c[a * c_row + b] : all(0);
    for (int64_t l = 0; l < length; l++, p += p_length, q += q_length) {
#pragma GCC unroll 8
        for (int b = 0; b < vectors; b++) right[b] = q[b];
#pragma GCC unroll 8
        for (int a = 0; a < rows; a++) {
            const vec number = all(p[a * p_row]);
#pragma GCC unroll 8
            for (int b = 0; b < vectors; b++) sum[a * vectors + b] += number * right[b];
        }
    }
#pragma GCC unroll 8
    for (int a = 0; a < rows; a++)
#pragma GCC unroll 8
        for (int b = 0; b < vectors; b++) c[a * c_row + b] = sum[a * vectors + b];
}

/* One or two vectors leave registers over, for more rows. */
#define MOST_HIGH(wide) (LANES == 8 && (wide) <= 2 ? 8 : MOST_ROWS)

/* The same for any number of rows and vectors; product() of one run. */
__attribute__((noinline)) static void spread_product(
    int64_t rows, int64_t vectors, int add, int64_t length, const double *p, int64_t p_row, int64_t p_length, const vec *q,
    int64_t q_length, vec *c, int64_t c_row)
{
    for (int64_t b = 0, wide; b < vectors; b += wide) {
        wide = next_block(vectors - b, MOST_COLUMNS);
        for (int64_t a = 0, high; a < rows; a += high) {
            high = next_block(rows - a, MOST_HIGH(wide));
            const double *pa = p + a * p_row;
            vec *cab = c + a * c_row + b;
            switch (wide * 16 + high) {
#define SPREAD(V, R) \
    case V * 16 + R: spread_tile(R, V, add, length, pa, p_row, p_length, q + b, q_length, cab, c_row); break;
#define SPREAD_ROWS(V) SPREAD(V, 1) SPREAD(V, 2) SPREAD(V, 3) SPREAD(V, 4)
                SPREAD_ROWS(1) SPREAD_ROWS(2) SPREAD_ROWS(3)
#if LANES == 8
                SPREAD_ROWS(4) SPREAD_ROWS(5)
                SPREAD(1, 5) SPREAD(2, 5) SPREAD(3, 5) SPREAD(4, 5) SPREAD(5, 5)
                SPREAD(1, 6) SPREAD(2, 6) SPREAD(1, 7) SPREAD(2, 7) SPREAD(1, 8) SPREAD(2, 8)
#endif
            }
        }
    }
}

#endif
