/* LANES runs in a vector: arithmetic, exponentials, and products of small matrices of such vectors, row-major.
 *
 * A sum's order depends on neither the other lanes nor how a product is cut into blocks. FLOOR comes from rules.py. */

#ifndef VECTORS_H
#define VECTORS_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#ifdef __AVX512F__
#define LANES 8
#else
#define LANES 4
#endif

typedef double vec __attribute__((vector_size(8 * LANES)));
typedef int64_t mask __attribute__((vector_size(8 * LANES)));

#define LOWEST -708.0 /* e^x is a normal number from here to HIGHEST */
#define HIGHEST 709.0
#define PER_LOG_2 0x1.71547652b82fep+0     /* 1 / log 2 */
#define LOG_2_HIGH 0x1.62e42fefa38p-1      /* log 2 in two parts: the first ends in zeros, times a whole number it is exact */
#define LOG_2_LOW 0x1.ef35793c7673p-45
#define ROUND_BY 0x1.8p52                  /* added and subtracted, it rounds to whole numbers */

static inline vec all(double value) { return value - (vec){0}; }
static inline vec choose(mask where, vec yes, vec no) { return (vec)(((mask)yes & where) | ((mask)no & ~where)); }
static inline vec larger(vec a, vec b) { return choose(a > b, a, b); }
static inline vec smaller(vec a, vec b) { return choose(a < b, a, b); }
static inline vec magnitude(vec a) { return (vec)((mask)a & INT64_MAX); }

static inline int any(mask m)
{
    int64_t found = 0;
    for (int l = 0; l < LANES; l++) found |= m[l];
    return found != 0;
}

static inline vec root(vec a)
{
    vec b = a;
    for (int l = 0; l < LANES; l++) b[l] = sqrt(a[l]);
    return b;
}

/* e^x to about an ulp for LOWEST <= x <= HIGHEST: x = m log 2 + r, e^r by its Taylor polynomial, |r| <= log(2) / 2. */
static inline vec exponential_inside(vec x)
{
    vec t = x * PER_LOG_2 + ROUND_BY;
    vec m = t - ROUND_BY;
    vec r = (x - m * LOG_2_HIGH) - m * LOG_2_LOW;
    /* In pairs, then pairs of pairs: half as long a chain of operations that wait for each other as Horner's. */
    vec r2 = r * r, r4 = r2 * r2;
    vec low = (1.0 / 2 + r * (1.0 / 6)) + r2 * (1.0 / 24 + r * (1.0 / 120));
    vec middle = (1.0 / 720 + r * (1.0 / 5040)) + r2 * (1.0 / 40320 + r * (1.0 / 362880));
    vec high = (1.0 / 3628800 + r * (1.0 / 39916800)) + r2 * (1.0 / 479001600 + r * (1.0 / 6227020800));
    vec p = 1.0 + (r + r2 * (low + r4 * (middle + r4 * high)));
    return p * (vec)(((mask)t - (mask)all(ROUND_BY) + 1023) << 52);
}

/* The same for any x, which is cut to that range. */
static inline vec exponential(vec x) { return exponential_inside(smaller(larger(x, all(LOWEST)), all(HIGHEST))); }

/* e^x for x <= 0, cut at FLOOR. */
static inline vec share_of(vec x) { return exponential_inside(larger(x, all(FLOOR))); }

/* c[a, b] (+)= sum_l p[a, l] q[l, b] for `rows` x `columns` entries at once, in registers; strides in vectors. */
__attribute__((always_inline)) static inline void tile_product(
    const int rows, const int columns, int add, int64_t length, const vec *p, int64_t p_row, const vec *q, int64_t q_length,
    int64_t q_column, vec *c, int64_t c_row)
{
    vec sum[rows * columns];
    for (int a = 0; a < rows; a++)
        for (int b = 0; b < columns; b++) sum[a * columns + b] = add ? c[a * c_row + b] : all(0);
    for (int64_t l = 0; l < length; l++)
        for (int a = 0; a < rows; a++)
            for (int b = 0; b < columns; b++) sum[a * columns + b] += p[a * p_row + l] * q[l * q_length + b * q_column];
    for (int a = 0; a < rows; a++)
        for (int b = 0; b < columns; b++) c[a * c_row + b] = sum[a * columns + b];
}

/* The same for any number of rows and columns. A sum's order depends on no other entry, so the blocks do not show. */
__attribute__((always_inline)) static inline void product(
    int64_t rows, int64_t columns, int add, int64_t length, const vec *p, int64_t p_row, const vec *q, int64_t q_length,
    int64_t q_column, vec *c, int64_t c_row)
{
    for (int64_t a = 0; a < rows; a += 4)
        for (int64_t b = 0; b < columns; b += 2) {
            const vec *pa = p + a * p_row, *qb = q + b * q_column;
            vec *cab = c + a * c_row + b;
            int two = b + 1 < columns;
            switch (rows - a) {
#define BLOCK(R) \
    if (two) tile_product(R, 2, add, length, pa, p_row, qb, q_length, q_column, cab, c_row); \
    else tile_product(R, 1, add, length, pa, p_row, qb, q_length, q_column, cab, c_row); \
    break
            case 1: BLOCK(1);
            case 2: BLOCK(2);
            case 3: BLOCK(3);
            default: BLOCK(4);
            }
        }
}

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

static inline vec dot(const vec *a, const vec *b, int64_t length)
{
    vec s0 = all(0), s1 = all(0), s2 = all(0), s3 = all(0);
    int64_t j = 0;
    for (; j + 3 < length; j += 4) {
        s0 += a[j] * b[j];
        s1 += a[j + 1] * b[j + 1];
        s2 += a[j + 2] * b[j + 2];
        s3 += a[j + 3] * b[j + 3];
    }
    for (; j < length; j++) s0 += a[j] * b[j];
    return (s0 + s1) + (s2 + s3);
}

static inline void rotate(vec *a, vec *b, vec c, vec s, int64_t length)
{
    for (int64_t j = 0; j < length; j++) {
        vec u = a[j], v = b[j];
        a[j] = c * u - s * v;
        b[j] = s * u + c * v;
    }
}

static void transpose(const vec *a, int64_t rows, int64_t columns, vec *b)
{
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++) b[j * rows + i] = a[i * columns + j];
}

#endif
