/* A run alone: a vector holds LANES neighbouring features, or samples, of one run instead of one number of LANES runs. What is
 * computed entry by entry is then computed by the same code; what goes across a vector is here, in the order in which a lane of
 * LANES runs takes it, so that a run has the same bits either way (one that has become infinite aside).
 *
 * Rows are filled up to whole vectors by their last entry, which changes no largest entry, and which no sum reaches. */

#ifndef ACROSS_H
#define ACROSS_H

#include "vectors.h"

typedef double quad __attribute__((vector_size(32)));
typedef double loose __attribute__((vector_size(32), aligned(8))); /* one that begins anywhere */

/* Vectors that so many numbers take. */
static inline int64_t vectors_of(int64_t numbers) { return (numbers + LANES - 1) / LANES; }

static inline vec largest_across(vec a)
{
    double top = a[0];
    for (int l = 1; l < LANES; l++) top = a[l] > top ? a[l] : top;
    return all(top);
}

static inline vec smallest_across(vec a)
{
    double least = a[0];
    for (int l = 1; l < LANES; l++) least = a[l] < least ? a[l] : least;
    return all(least);
}

/* a b + c rounded as it is in a vector: once, where the processor can. (A loop of numbers may have its products made apart.) */
static inline double fused(double a, double b, double c)
{
#if defined(__FP_FAST_FMA) || defined(__FMA__)
    return __builtin_fma(a, b, c);
#else
    return a * b + c;
#endif
}

/* dot() of one run: a quad holds its four partial sums. */
static inline double dot_across(const double *a, const double *b, int64_t length)
{
    quad s = {0};
    int64_t j = 0;
    for (; j + 3 < length; j += 4) s += *(const loose *)(a + j) * *(const loose *)(b + j);
    double s0 = s[0];
    for (; j < length; j++) s0 = fused(a[j], b[j], s0);
    return (s0 + s[1]) + (s[2] + s[3]);
}

static inline double sum_of_magnitudes(const double *a, int64_t length)
{
    double sum = 0;
    for (int64_t j = 0; j < length; j++) sum += fabs(a[j]);
    return sum;
}

/* Rows and columns of a tile's sums, which with a row of vectors and a number fill the registers. */
#if LANES == 8
#define TILE_ROWS 5
#define TILE_VECTORS 5
#else
#define TILE_ROWS 4
#define TILE_VECTORS 3
#endif

/* c[a, b] = sum_l p[a, l] q[l, b], p of numbers, for `rows` x `vectors` vectors b at once, in registers. */
__attribute__((always_inline)) static inline void spread_tile(
    const int rows, const int vectors, int64_t length, const double *p, int64_t p_row, int64_t p_length, const vec *q, int64_t q_length,
    vec *c, int64_t c_row)
{
    vec sum[rows * vectors];
    for (int s = 0; s < rows * vectors; s++) sum[s] = all(0);
    for (int64_t l = 0; l < length; l++)
        for (int a = 0; a < rows; a++) {
            vec number = all(p[a * p_row + l * p_length]);
            for (int b = 0; b < vectors; b++) sum[a * vectors + b] += number * q[l * q_length + b];
        }
    for (int a = 0; a < rows; a++)
        for (int b = 0; b < vectors; b++) c[a * c_row + b] = sum[a * vectors + b];
}

/* The size of the next of the equal pieces, of `most` at most, that `left` is cut into. */
static inline int64_t piece(int64_t left, int64_t most) { return left / ((left + most - 1) / most); }

/* The same for any number of rows and vectors; product() of one run. */
static void spread_product(
    int64_t rows, int64_t vectors, int64_t length, const double *p, int64_t p_row, int64_t p_length, const vec *q, int64_t q_length,
    vec *c, int64_t c_row)
{
    for (int64_t b = 0, wide; b < vectors; b += wide) {
        wide = piece(vectors - b, TILE_VECTORS);
        for (int64_t a = 0, high; a < rows; a += high) {
            high = piece(rows - a, TILE_ROWS);
            const double *pa = p + a * p_row;
            vec *cab = c + a * c_row + b;
            switch (wide * 8 + high) {
#define SPREAD(V, R) \
    case V * 8 + R: spread_tile(R, V, length, pa, p_row, p_length, q + b, q_length, cab, c_row); break;
#define SPREAD_ROWS(V) SPREAD(V, 1) SPREAD(V, 2) SPREAD(V, 3) SPREAD(V, 4)
                SPREAD_ROWS(1) SPREAD_ROWS(2) SPREAD_ROWS(3)
#if LANES == 8
                SPREAD_ROWS(4) SPREAD_ROWS(5)
                SPREAD(1, 5) SPREAD(2, 5) SPREAD(3, 5) SPREAD(4, 5) SPREAD(5, 5)
#endif
            }
        }
    }
}

#endif
