/* Polar factors of one matrix of many rows, without rotations: the rational functions of zolotarev.h, in vectors that hold
 * neighbouring rows; of any condition and rank. Where there are few rows, and no singular value is small, narrow_polar.h is
 * faster.
 *
 * The matrix lies transposed, (length, wide): x = g^T, wide vectors of rows. What is made of its Gram matrix G = g g^T are
 * matrices (wide LANES, wide), and g's products with them are x's from the other side. Inverses of shifted Gram matrices are
 * L^(-T) L^(-1) by Cholesky's factor: eliminations that make them directly know them less well, and polar factors to 1e-11
 * only, not to 1e-13.
 *
 * The first function is that of zolotarev.h. Inverses cost little beside the products with g, so that the last one has four
 * poles: what the first has made of singular values from 1/3900 to 1, [0.05, 1] or more, it leaves with 1 - x^2 within 3.2e-4
 * of zero. Where that is not enough, the first function is taken once more, by a new Gram matrix of what it has made: small
 * singular values grow by 198 every time. Four times reach from 3e-11, larger than what counts as zero in a polar factor
 * (RANK_TOLERANCE).
 *
 * Singular values that do count as zero stay small: after two times those below 2e-13 (of a matrix without full rank there is
 * rounding in their place), after three those below 3e-14. Where all others are one by then, Y is all but a projection, which
 * ||Y - Y^2|| shows, and what is left of them goes by a product with Y. Where singular values are between the two limits,
 * those on either side of what counts as zero are told apart by the sign of G - cut I, after four times: (I + sign) / 2 is
 * the projection on the space of those that count. On the rest G is made one, and what is left has a condition of 700 or
 * less. */

#ifndef WIDE_POLAR_H
#define WIDE_POLAR_H

#include "across.h"
#include "zolotarev.h"

#define TERMS_AT_A_TIME 96 /* of a Gram matrix: their lines stay near */
#define MOST_PASSES 4
#define SIGN_PASSES 3    /* of the first function, of a sign: eigenvalues down to 7e-9 of the largest */
#define SQUARINGS 14
#define LAST_SCALE 0.31011469
#define LAST_POLES 4
static const double LAST_WEIGHT[LAST_POLES] = {0.112139644, 0.228782837, 0.610410543, 2.3476276};
static const double LAST_POLE[LAST_POLES] = {6.41808507e-4, 0.0104500675, 0.0834737128, 0.774128531};

/* Matrices (wide LANES, wide), and lines of one. */
typedef struct {
    vec *gram, *one, *other, *last, *square, *series, *whole, *line, *minus;
} Wide;

/* Vectors of that memory. */
static int64_t wide_size(int64_t rows)
{
    const int64_t wide = vectors_of(rows);
    return (7 * wide + 2) * wide * LANES;
}

static Wide room_for_wide(vec *start, int64_t wide)
{
    const int64_t count = wide * wide * LANES;
    vec *m[7], *line = start + 7 * count;
    for (int i = 0; i < 7; i++) m[i] = start + i * count;
    return (Wide){m[0], m[1], m[2], m[3], m[4], m[5], m[6], line, line + wide * LANES};
}

/* The lower triangle as the upper one is. */
static void mirror_wide(int64_t wide, vec *m)
{
    const int64_t n = wide * LANES;
    double *of = (double *)m;
    for (int64_t a = 0; a < n; a += LANES)
        for (int64_t b = a; b < n; b += LANES)
            for (int64_t i = a; i < a + LANES; i++)
                for (int64_t j = b > i ? b : i + 1; j < b + LANES; j++) of[j * n + i] = of[i * n + j];
}

/* c = p q, which is symmetric, p (wide LANES, length) of numbers, q (length, wide). If both are triangular, p = q^T and q with
 * zeros above its diagonal blocks, terms that are zero are left out. */
static void symmetric_product(
    int64_t wide, int64_t length, int triangular, const double *p, int64_t p_row, int64_t p_length, const vec *q, vec *c)
{
    const int64_t n = wide * LANES;
    for (int64_t l = 0; l < length; l += TERMS_AT_A_TIME)
        for (int64_t a = 0, high; a < n; a += high) {
            const int64_t first = a / LANES, begin = triangular ? first * LANES : 0, from = l > begin ? l : begin;
            high = next_block(n - a, MOST_ROWS);
            if (from < least(length, l + TERMS_AT_A_TIME))
                spread_product(
                    high, wide - first, from > begin, least(length, l + TERMS_AT_A_TIME) - from, p + a * p_row + from * p_length,
                    p_row, p_length, q + from * wide + first, wide, c + a * wide + first, wide);
        }
    mirror_wide(wide, c);
}

/* p q of symmetric matrices that commute. */
static void commuting_product(int64_t wide, const vec *p, const vec *q, vec *c)
{
    symmetric_product(wide, wide * LANES, 0, (const double *)p, wide * LANES, 1, q, c);
}

static void gram_of_wide(int64_t wide, int64_t length, const vec *x, vec *gram)
{
    symmetric_product(wide, length, 0, (const double *)x, 1, wide * LANES, x, gram);
}

/* *x <- *x factor; *spare and *x change places. */
static void columns_times(int64_t wide, int64_t length, const vec *factor, vec **x, vec **spare)
{
    vec *from = *x;
    spread_product(length, wide, 0, wide * LANES, (const double *)from, wide * LANES, 1, factor, wide, *spare, wide);
    *x = *spare, *spare = from;
}

static void shift_diagonal(int64_t wide, double number, vec *m)
{
    for (int64_t a = 0; a < wide * LANES; a++) ((double *)m)[a * (wide * LANES + 1)] += number;
}

/* Where a row of g is zero, as those beyond the last are, the diagonal of its Gram matrix gets a number: a singular value like
 * the others, of nothing. */
static void fill_diagonal(int64_t wide, double number, vec *m)
{
    for (int64_t a = 0; a < wide * LANES; a++) {
        double *entry = (double *)m + a * (wide * LANES + 1);
        *entry = *entry == 0 ? number : *entry;
    }
}

static double frobenius(int64_t wide, const vec *m)
{
    vec sum[4] = {all(0), all(0), all(0), all(0)};
    for (int64_t e = 0; e < wide * wide * LANES; e += 4)
        for (int i = 0; i < 4; i++) sum[i] += m[e + i] * m[e + i];
    return sqrt(added_in_order(0, (sum[0] + sum[1]) + (sum[2] + sum[3]), LANES));
}

/* d <- L^(-1) of a block d = L L^T: a row after the other is taken from those below it, and its share of the unit matrix with
 * it. */
static inline void invert_factor_of_block(vec *d)
{
#pragma GCC unroll 8
    for (int k = 0; k < LANES; k++) {
        const mask here = lane_numbers() == k;
        const double inverse = 1 / sqrt(d[k][k]);
        const vec row = d[k] * inverse;
        d[k] = choose(here, all(inverse), row);
#pragma GCC unroll 8
        for (int i = k + 1; i < LANES; i++) d[i] = choose(here, all(0), d[i]) - all(row[i]) * d[k];
    }
    for (int k = 0; k < LANES; k++) d[k] = choose(lane_numbers() <= k, d[k], all(0));
}

/* m <- L^(-1) of m = L L^T, by such rows of blocks. What is left of L^T above the diagonal goes. */
static void invert_factor(const Wide *v, int64_t wide, vec *m)
{
    const int64_t n = wide * LANES;
    for (int64_t k = 0; k < wide; k++) {
        const int64_t next = (k + 1) * LANES;
        vec d[LANES], *lines = m + k * LANES * wide;
        for (int i = 0; i < LANES; i++) d[i] = lines[i * wide + k];
        invert_factor_of_block(d);
        spread_product(LANES, wide, 0, LANES, (const double *)d, LANES, 1, lines, wide, v->line, wide);
        for (int i = 0; i < LANES; i++) v->line[i * wide + k] = d[i];
        for (int64_t e = 0; e < LANES * wide; e++) v->minus[e] = -v->line[e];
        for (int64_t a = next; a < n; a++) m[a * wide + k] = all(0);
        spread_product(n - next, wide, 1, LANES, (const double *)v->minus + next, 1, n, v->line, wide, m + next * wide, wide);
        for (int i = 0; i < LANES; i++)
            for (int64_t b = 0; b < wide; b++) lines[i * wide + b] = b <= k ? v->line[i * wide + b] : all(0);
    }
}

/* to <- (scale G + pole I)^(-1) */
static void shifted_inverse(const Wide *v, int64_t wide, double scale, double pole, vec *to)
{
    vec *factor = v->series;
    for (int64_t e = 0; e < wide * wide * LANES; e++) factor[e] = scale * v->gram[e];
    shift_diagonal(wide, pole, factor);
    invert_factor(v, wide, factor);
    symmetric_product(wide, wide * LANES, 1, (const double *)factor, 1, wide * LANES, factor, to);
}

/* The factor of the first function by v->gram, whose unit is `unit`, into v->one. */
static void first_factor_of_wide(const Wide *v, int64_t wide, double unit)
{
    const double c = FIRST_SCALE / sqrt(unit);
    fill_diagonal(wide, unit, v->gram);
    shifted_inverse(v, wide, 1 / unit, FIRST_POLE, v->one);
    for (int64_t e = 0; e < wide * wide * LANES; e++) v->one[e] *= c * FIRST_WEIGHT;
    shift_diagonal(wide, c, v->one);
}

/* The last function's factor Q by v->gram into v->last, and E = I - Y, Y = Q G Q, into v->one. */
static void last_function_of_wide(const Wide *v, int64_t wide)
{
    const int64_t count = wide * wide * LANES;
    double sum = 0;
    fill_diagonal(wide, 1, v->gram);
    for (int64_t e = 0; e < count; e++) v->last[e] = all(0), v->other[e] = LAST_SCALE * v->gram[e]; /* Q G */
    for (int j = 0; j < LAST_POLES; j++) {
        const double weight = LAST_SCALE * LAST_WEIGHT[j], pole = LAST_POLE[j];
        shifted_inverse(v, wide, 1, pole, v->one);
        for (int64_t e = 0; e < count; e++) {
            const vec part = weight * v->one[e];
            v->last[e] += part, v->other[e] -= pole * part;
        }
        sum += weight;
    }
    shift_diagonal(wide, LAST_SCALE, v->last);
    shift_diagonal(wide, sum, v->other);
    commuting_product(wide, v->last, v->other, v->one);
    for (int64_t e = 0; e < count; e++) v->one[e] = -v->one[e];
    shift_diagonal(wide, 1, v->one);
}

/* Four terms of (I - E)^(-1/2), from E in v->one and its square, into v->series. */
static void series_of_wide(const Wide *v, int64_t wide)
{
    const int64_t count = wide * wide * LANES;
    for (int64_t e = 0; e < count; e++) v->other[e] = 5. / 16 * v->one[e] + 35. / 128 * v->square[e];
    shift_diagonal(wide, 3. / 8, v->other);
    commuting_product(wide, v->square, v->other, v->series);
    for (int64_t e = 0; e < count; e++) v->series[e] += 0.5 * v->one[e];
    shift_diagonal(wide, 1, v->series);
}

/* The factor of both, by the Gram matrix of what the first function has made in so many passes; NULL: they do not make the
 * polar factor. */
static const vec *last_factor_of_wide(const Wide *v, int64_t wide, int pass)
{
    const int64_t count = wide * wide * LANES;
    last_function_of_wide(v, wide);
    commuting_product(wide, v->one, v->one, v->square);
    const int near = frobenius(wide, v->square) <= LEFT_OVER;
    if (!near && pass == 1) return NULL;
    series_of_wide(v, wide);
    commuting_product(wide, v->last, v->series, v->other);
    if (near) return v->other;
    vec *y = v->last, *square = v->square; /* Y with the series' factors: six times the square of what is small in Q g */
    commuting_product(wide, v->series, v->series, square);
    for (int64_t e = 0; e < count; e++) v->one[e] = -v->one[e];
    shift_diagonal(wide, 1, v->one);
    commuting_product(wide, square, v->one, y);
    commuting_product(wide, y, y, square);
    for (int64_t e = 0; e < count; e++) square[e] -= y[e];
    if (!(frobenius(wide, square) <= (pass == 2 ? 2e-12 : 1e-9))) return NULL;
    commuting_product(wide, v->other, y, v->one);
    return v->one;
}

/* The largest eigenvalue of v->whole, by the sizes of its powers: at most log(rows) / 2^14 of it too large. */
static double largest_eigenvalue(const Wide *v, int64_t wide)
{
    const int64_t count = wide * wide * LANES;
    double found = 0, part = 1;
    memcpy(v->one, v->whole, count * sizeof(vec));
    for (int k = 0; k < SQUARINGS; k++, part /= 2) {
        const double size = frobenius(wide, v->one);
        found += part * log(size);
        for (int64_t e = 0; e < count; e++) v->other[e] = v->one[e] / size;
        commuting_product(wide, v->other, v->other, v->one);
    }
    return exp(found);
}

/* v->whole becomes its sign; 0: it is not found. */
static int sign_of_wide(const Wide *v, int64_t wide)
{
    vec *m = v->whole;
    const int64_t bytes = wide * wide * LANES * sizeof(vec);
    for (int pass = 1; pass <= SIGN_PASSES; pass++) {
        commuting_product(wide, m, m, v->gram);
        first_factor_of_wide(v, wide, 1);
        commuting_product(wide, m, v->one, v->other);
        memcpy(m, v->other, bytes);
        commuting_product(wide, m, m, v->gram);
        const vec *factor = last_factor_of_wide(v, wide, 1);
        if (!factor) continue;
        commuting_product(wide, m, factor, v->last);
        memcpy(m, v->last, bytes);
        return 1;
    }
    return 0;
}

/* gram_of_wide(), and one in the space that v->whole is not the projection on. */
static void gram_of_kept(const Wide *v, int64_t wide, int64_t length, const vec *x)
{
    gram_of_wide(wide, length, x, v->gram);
    fill_diagonal(wide, 1, v->gram);
    for (int64_t e = 0; e < wide * wide * LANES; e++) v->gram[e] -= v->whole[e];
    shift_diagonal(wide, 1, v->gram);
}

/* The polar factor in the space of the singular values that count, of which there are others: after MOST_PASSES times of the
 * first function, with the first Gram matrix, whose unit is `unit`, in v->whole. */
static int polar_of_kept(const Wide *v, int64_t wide, int64_t length, double unit, vec **x, vec **spare)
{
    double cut = RANK_TOLERANCE * sqrt(largest_eigenvalue(v, wide) / unit);
    for (int pass = 0; pass < MOST_PASSES; pass++) cut *= FIRST_SCALE * (1 + FIRST_WEIGHT / (cut * cut + FIRST_POLE));
    shifted_inverse(v, wide, 1, cut * cut, v->whole); /* (G - cut^2 I) / (G + cut^2 I) has the same sign */
    for (int64_t e = 0; e < wide * wide * LANES; e++) v->whole[e] *= -2 * cut * cut;
    shift_diagonal(wide, 1, v->whole);
    if (!sign_of_wide(v, wide)) return 0;
    shift_diagonal(wide, 1, v->whole);
    for (int64_t e = 0; e < wide * wide * LANES; e++) v->whole[e] *= 0.5;
    columns_times(wide, length, v->whole, x, spare);
    gram_of_kept(v, wide, length, *x);
    first_factor_of_wide(v, wide, 1);
    columns_times(wide, length, v->one, x, spare);
    gram_of_kept(v, wide, length, *x);
    const vec *factor = last_factor_of_wide(v, wide, 1);
    if (factor) columns_times(wide, length, factor, x, spare);
    return factor ? MOST_PASSES + 1 : 0;
}

/* *x (length, wide), the transpose of g, becomes that of g's polar factor, and *spare, of its size, something else; they may
 * have changed places. Entries are to be of such a size that fourth powers are normal numbers. Returns how often the first
 * function was taken; 0: it is not found, and *x is something else, too. */
static int polar_of_wide(const Wide *v, int64_t wide, int64_t length, vec **x, vec **spare)
{
    gram_of_wide(wide, length, *x, v->gram);
    const double unit = frobenius(wide, v->gram);
    if (!(unit > 0 && unit < INFINITY)) return 0;
    memcpy(v->whole, v->gram, wide * wide * LANES * sizeof(vec));
    for (int pass = 1; pass <= MOST_PASSES; pass++) {
        first_factor_of_wide(v, wide, pass == 1 ? unit : 1);
        columns_times(wide, length, v->one, x, spare);
        gram_of_wide(wide, length, *x, v->gram);
        const vec *factor = last_factor_of_wide(v, wide, pass);
        if (!factor) continue;
        columns_times(wide, length, factor, x, spare);
        return pass;
    }
    return polar_of_kept(v, wide, length, unit, x, spare);
}

#endif
