/* Sizes and inner products of parameter sets, block by block: functions of a library. */

#ifndef SIZES_OF_BLOCKS_H
#define SIZES_OF_BLOCKS_H

#include "sizes.h"

/* The sizes of `count` numbers of a run, the j-th of its blocks: into (3, blocks + 1, runs). */
static void sizes_of_block(const double *a, int64_t count, int64_t j, int64_t blocks, int64_t run, int64_t runs, double *to)
{
    double *at = to + j * runs + run;
    sizes_of(a, count, at, at + (blocks + 1) * runs, at + 2 * (blocks + 1) * runs);
}

/* And of all of its blocks, beside theirs: NaN where one of theirs is. */
static void sizes_of_all(int64_t blocks, int64_t run, int64_t runs, double *to)
{
    double *largest = to + run, *sum = largest + (blocks + 1) * runs, *length = sum + (blocks + 1) * runs;
    double top = 0, longest = 0, sums = 0, squares = 0;
    for (int64_t j = 0; j < blocks; j++) {
        sums += sum[j * runs];
        top = larger_number(top, largest[j * runs]), longest = larger_number(longest, length[j * runs]);
    }
    for (int64_t j = 0; j < blocks; j++) {
        const double share = longest > 0 ? length[j * runs] / longest : 0;
        squares = fused_numbers(share, share, squares); /* whatever the compiler makes of a loop over so many runs */
    }
    largest[blocks * runs] = sums == sums ? top : NAN, sum[blocks * runs] = sums, length[blocks * runs] = longest * sqrt(squares);
}

/* Of runs first, ..., last - 1 the sizes of their blocks a[j] (runs, count[j]), and of all blocks together: (3, blocks + 1, runs). */
void block_sizes(
    const double *const *a, const int64_t *count, int64_t blocks, int64_t first, int64_t last, int64_t runs, double *to)
{
    for (int64_t run = first; run < last; run++) {
        for (int64_t j = 0; j < blocks; j++) sizes_of_block(a[j] + run * count[j], count[j], j, blocks, run, runs, to);
        sizes_of_all(blocks, run, runs, to);
    }
}

#define SUMS 4

/* <a, b>, in sums of every so many vectors' numbers. */
static double inner_of(const double *a, const double *b, int64_t count)
{
    vec sums[SUMS];
    int64_t e = 0;
    for (int s = 0; s < SUMS; s++) sums[s] = all(0);
    for (; e + SUMS * LANES <= count; e += SUMS * LANES)
        for (int s = 0; s < SUMS; s++)
            sums[s] += (vec)*(const loose_vec *)(a + e + s * LANES) * (vec)*(const loose_vec *)(b + e + s * LANES);
    double sum = 0;
    for (; e < count; e++) sum = fused_numbers(a[e], b[e], sum);
    return added_in_order(sum, (sums[0] + sums[1]) + (sums[2] + sums[3]), LANES);
}

/* Of the same runs <a[j], b[j]> of every block: (blocks, runs). */
void block_products(
    const double *const *a, const double *const *b, const int64_t *count, int64_t blocks, int64_t first, int64_t last, int64_t runs,
    double *to)
{
    for (int64_t j = 0; j < blocks; j++)
        for (int64_t run = first; run < last; run++)
            to[j * runs + run] = inner_of(a[j] + run * count[j], b[j] + run * count[j], count[j]);
}

/* The cosine of the angle between a, in single precision, and b, whatever their sizes; NaN where either is zero. The squares of a
 * and their sum are doubles of some digits however large it is; b is taken in units of a power of two. */
static double cosine_of(const float *const *a, const double *const *b, const int64_t *count, int64_t blocks, int64_t run, double top)
{
    const int exponent = top > 0 && isfinite(top) ? ilogb(top) : 0;
    const double inverse = ldexp(1, exponent < LEAST_UNIT ? -LEAST_UNIT : -exponent);
    double aa = 0, ab = 0, bb = 0;
    for (int64_t j = 0; j < blocks; j++) {
        const float *p = a[j] + run * count[j];
        const double *q = b[j] + run * count[j];
        vec pp = all(0), pq = all(0), qq = all(0);
        int64_t e = 0;
        for (; e + LANES <= count[j]; e += LANES) {
            vec x;
            for (int l = 0; l < LANES; l++) x[l] = p[e + l];
            const vec y = (vec)*(const loose_vec *)(q + e) * inverse;
            pp += x * x, pq += x * y, qq += y * y;
        }
        for (; e < count[j]; e++) {
            const double x = p[e], y = q[e] * inverse;
            aa = fused_numbers(x, x, aa), ab = fused_numbers(x, y, ab), bb = fused_numbers(y, y, bb);
        }
        aa = added_in_order(aa, pp, LANES), ab = added_in_order(ab, pq, LANES), bb = added_in_order(bb, qq, LANES);
    }
    return ab / (sqrt(aa) * sqrt(bb));
}

/* Of the same runs the cosines of a, in single precision, and b, whose largest |entries| are `top`: (runs). */
void block_cosines(
    const float *const *a, const double *const *b, const int64_t *count, int64_t blocks, int64_t first, int64_t last,
    const double *top, double *to)
{
    for (int64_t run = first; run < last; run++) to[run] = cosine_of(a, b, count, blocks, run, top[run]);
}

#endif
