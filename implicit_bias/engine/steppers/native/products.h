/* Products of small matrices of vectors, row-major or strided: blocks of sums in registers.
 *
 * A sum goes by ascending index, one multiply-add after the other, whatever block it is in: blocks do not show. */

#ifndef PRODUCTS_H
#define PRODUCTS_H

#include "vectors.h"

/* The sums of a block wait for nothing but themselves. Eight or more hide the time that a multiply-add takes (four cycles, two a
 * cycle), and a wide block needs few numbers from memory; so many as there are registers for. */
#if LANES == 8
#define MOST_ROWS 5
#define MOST_COLUMNS 5
#else
#define MOST_ROWS 4
#define MOST_COLUMNS 3
#endif

/* A (rows, columns) matrix of vectors, entry (a, b) at a * row + b * column. */
typedef struct {
    vec *at;
    int64_t row, column;
} Matrix;

static inline Matrix part_of(Matrix m, int64_t a, int64_t b)
{
    m.at += a * m.row + b * m.column;
    return m;
}

static inline Matrix transposed(Matrix m) { return (Matrix){m.at, m.column, m.row}; }

/* c (+)= p q for `rows` x `columns` entries at once; those of a row of c are neighbours. */
__attribute__((always_inline)) static inline void block_product(
    const int rows, const int columns, int add, int64_t length, const Matrix p, const Matrix q, const Matrix c)
{
    vec sum[MOST_ROWS * MOST_COLUMNS], *to = c.at;
    const vec *left = p.at, *right = q.at;
#pragma GCC unroll 8
    for (int a = 0; a < rows; a++, to += c.row)
#pragma GCC unroll 8
        for (int b = 0; b < columns; b++) sum[a * columns + b] = add ? to[b] : all(0);
    for (int64_t l = 0; l < length; l++, left += p.column, right += q.row)
#pragma GCC unroll 8
        for (int a = 0; a < rows; a++)
#pragma GCC unroll 8
            for (int b = 0; b < columns; b++) sum[a * columns + b] += left[a * p.row] * right[b * q.column];
    to = c.at;
#pragma GCC unroll 8
    for (int a = 0; a < rows; a++, to += c.row)
#pragma GCC unroll 8
        for (int b = 0; b < columns; b++) to[b] = sum[a * columns + b];
}

/* Of `left` rows or columns the next block has so many: blocks are as large as possible, and then of one size, about. */
static inline int64_t next_block(int64_t left, int64_t most)
{
    const int64_t blocks = (left + most - 1) / most;
    return (left + blocks - 1) / blocks;
}

/* c (+)= p q, p (rows, length), q (length, columns), c row-major. */
__attribute__((noinline)) static void product(
    int64_t rows, int64_t columns, int add, int64_t length, Matrix p, Matrix q, Matrix c)
{
    for (int64_t b = 0, wide; b < columns; b += wide) {
        wide = next_block(columns - b, MOST_COLUMNS);
        for (int64_t a = 0, tall; a < rows; a += tall) {
            tall = next_block(rows - a, MOST_ROWS);
            const Matrix pa = part_of(p, a, 0), qb = part_of(q, 0, b), cab = part_of(c, a, b);
            switch (tall * 8 + wide) {
#define BLOCK(R, C) \
    case R * 8 + C: block_product(R, C, add, length, pa, qb, cab); break;
#define BLOCKS(R) BLOCK(R, 1) BLOCK(R, 2) BLOCK(R, 3)
                BLOCKS(1) BLOCKS(2) BLOCKS(3) BLOCKS(4)
#if LANES == 8
#define WIDE_BLOCKS(R) BLOCK(R, 4) BLOCK(R, 5)
                WIDE_BLOCKS(1) WIDE_BLOCKS(2) WIDE_BLOCKS(3) WIDE_BLOCKS(4)
                BLOCKS(5) WIDE_BLOCKS(5)
#endif
            }
        }
    }
}

/* g g^T of rows (rows, columns), its upper triangle and more, into gram (rows, rows). */
static void gram_of(const vec *g, int64_t rows, int64_t columns, vec *gram)
{
    const Matrix all_rows = {(vec *)g, columns, 1}, to = {gram, rows, 1};
    for (int64_t a = 0, tall; a < rows; a += tall) {
        tall = next_block(rows - a, MOST_ROWS);
        product(tall, rows - a, 0, columns, part_of(all_rows, a, 0), transposed(part_of(all_rows, a, 0)), part_of(to, a, a));
    }
}

#endif
