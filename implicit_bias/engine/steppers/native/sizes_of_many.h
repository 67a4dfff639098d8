/* What records compute norms by, of many matrices or vectors in a call: functions of a library. */

#ifndef SIZES_OF_MANY_H
#define SIZES_OF_MANY_H

#include "sizes.h"

/* Doubles of memory that singular_values() needs of matrices (rows, columns). */
int64_t singular_values_size(int64_t rows, int64_t columns)
{
    return LANES * values_size(least(rows, columns), rows < columns ? columns : rows);
}

/* Singular values (count, min(rows, columns)), descending, of matrices a (count, rows, columns). */
void singular_values(const double *a, int64_t count, int64_t rows, int64_t columns, double *to, double *memory)
{
    const int64_t few = least(rows, columns);
    values_of_many(a, count, few, rows < columns ? columns : rows, rows > columns, to, (vec *)memory);
}

/* Of every one of `count` rows of so many numbers, the largest absolute value, their sum and the root of the sum of their squares:
 * in three rows, which begin `apart` numbers apart. */
void entry_sizes(const double *a, int64_t count, int64_t numbers, int64_t apart, double *to)
{
    for (int64_t r = 0; r < count; r++) sizes_of(a + r * numbers, numbers, to + r, to + apart + r, to + 2 * apart + r);
}

#endif
