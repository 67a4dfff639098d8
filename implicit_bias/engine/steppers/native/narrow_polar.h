/* Polar factors of one matrix with 2 to 20 columns, and no fewer rows, without rotations: the rational functions of
 * zolotarev.h on vectors of neighbouring columns.
 *
 * Symmetric matrices are held whole: rows of whole vectors, zeros beyond the last column. There is code for 4, 8, ... 20
 * columns; columns of zeros, those of the matrix too, stay what they are.
 *
 * Singular values below 1/700 need the first function again: it takes them up by up to 200 each time. Round-off in the product
 * with its factor, whose entries are up to 200, makes about 1e-14 of what should be zero, less than 1e-6 in the last pass,
 * where the second function still tells it from a singular value. Errors are round-off times the condition. What is deficient
 * in rank, or nearly (beyond a condition of 1e9), is left to wide_polar.h and to rotations, which decide on rank. */

#ifndef NARROW_POLAR_H
#define NARROW_POLAR_H

#include "across.h"
#include "one_polar.h"
#include "zolotarev.h"

#define FEWEST_NARROW 2
#define MOST_NARROW 20 /* columns */
#define PASSES 4
#define SINGULAR 1e14 /* the trace of an inverse Gram matrix, times the norm of that, from which on they are too few */
#define WIDE(columns) (((columns) + LANES - 1) / LANES)
#define MOST_WIDE WIDE(MOST_NARROW)
#define SQUARE(columns) ((columns) * WIDE(columns))
#define FEW 4 /* rows that are swept at once */

/* Rows of a block of sums that stays in registers: of a Gram matrix, and of a product with one. */
#if LANES == 8
#define TALL 16
#define HIGH(wide) 8
#else
#define TALL 4
#define HIGH(wide) ((wide) > 4 ? 2 : (wide) > 3 ? 3 : 4)
#endif

/* Numbers of such an array are loaded one by one, which a multiply-add does by itself; compilers would take them out of
 * registers, by permutations, of which processors make fewer at a time. */
#define LOADED(a) __asm__("" : "+m"(a))

/* Two vectors' numbers by turns, in blocks of so many: the first, third, ... blocks of both, and the others. */
#if LANES == 8
#define EXCHANGED \
    EXCHANGE(4, NUMBERS(0, 1, 2, 3, 8, 9, 10, 11), NUMBERS(4, 5, 6, 7, 12, 13, 14, 15)) \
    EXCHANGE(2, NUMBERS(0, 1, 8, 9, 4, 5, 12, 13), NUMBERS(2, 3, 10, 11, 6, 7, 14, 15)) \
    EXCHANGE(1, NUMBERS(0, 8, 2, 10, 4, 12, 6, 14), NUMBERS(1, 9, 3, 11, 5, 13, 7, 15))
#else
#define EXCHANGED \
    EXCHANGE(2, NUMBERS(0, 1, 4, 5), NUMBERS(2, 3, 6, 7)) \
    EXCHANGE(1, NUMBERS(0, 4, 2, 6), NUMBERS(1, 5, 3, 7))
#endif
#define NUMBERS(...) __VA_ARGS__
#define EXCHANGE(size, low, high) \
    UNROLLED for (int i = 0; i < LANES; i++) \
        if (!(i & size)) { \
            const vec u = block[i], w = block[i + size]; \
            block[i] = PLACED_(u, w, low), block[i + size] = PLACED_(u, w, high); \
        }

typedef struct {
    vec gram[SQUARE(MOST_NARROW)], one[SQUARE(MOST_NARROW)], other[SQUARE(MOST_NARROW)], factor[SQUARE(MOST_NARROW)];
    vec rest[SQUARE(MOST_NARROW)];
} Narrow;

/* Rows a, ..., a + tall - 1 of x^T y, from vector b on, but for what is below the blocks on the diagonal; x and y have `count`
 * rows. */
INLINE void gram_block(
    const int columns, const int a, const int tall, const int b, const int vectors, int64_t count, const vec *x, const vec *y,
    vec *to)
{
    const int wide = WIDE(columns);
    vec sum[TALL * MOST_WIDE];
    UNROLLED for (int e = 0; e < tall * vectors; e++) sum[e] = all(0);
    for (int64_t l = 0; l < count; l++, x += wide, y += wide) {
        const double *number = (const double *)x;
        vec right[MOST_WIDE];
        UNROLLED for (int j = 0; j < vectors; j++) right[j] = y[b + j];
        UNROLLED for (int i = 0; i < tall; i++) {
            const vec left = all(number[a + i]);
            UNROLLED for (int j = 0; j < vectors; j++)
                if ((a + i) / LANES <= b + j) sum[i * vectors + j] += left * right[j];
        }
    }
    UNROLLED for (int i = 0; i < tall; i++)
        UNROLLED for (int j = 0; j < vectors; j++)
            if ((a + i) / LANES <= b + j) to[(a + i) * wide + b + j] = sum[i * vectors + j];
}

/* What is below the blocks on the diagonal, from what is above. */
INLINE void mirror(const int columns, vec *m)
{
    const int wide = WIDE(columns);
    UNROLLED for (int a = 0; a < wide; a++)
        UNROLLED for (int b = a + 1; b < wide; b++) {
            vec block[LANES];
            UNROLLED for (int i = 0; i < LANES; i++) block[i] = m[(a * LANES + i) * wide + b];
            EXCHANGED
            UNROLLED for (int i = 0; i < LANES; i++)
                if (b * LANES + i < columns) m[(b * LANES + i) * wide + a] = block[i];
        }
}

/* x^T y, which is symmetric: of y = x, or of symmetric matrices that commute. */
INLINE void gram_of_columns(const int columns, int64_t count, const vec *x, const vec *y, vec *to)
{
    const int wide = WIDE(columns);
#if LANES == 8
    if (wide <= 2) {
        gram_block(columns, 0, columns, 0, wide, count, x, y, to);
    } else {
        gram_block(columns, 0, 8, 0, 3, count, x, y, to);
        gram_block(columns, 8, columns - 8, 1, 2, count, x, y, to);
    }
#else
    UNROLLED for (int a = 0; a < columns; a += TALL)
        UNROLLED for (int b = a / LANES; b < wide; b += 3)
            gram_block(columns, a, columns - a < TALL ? columns - a : TALL, b, wide - b < 3 ? wide - b : 3, count, x, y, to);
#endif
    mirror(columns, to);
}

/* Vector j of row a of the identity. */
INLINE vec unit_at(int64_t a, int64_t j)
{
    static const double one[2 * MOST_NARROW + 2 * LANES] = {[MOST_NARROW] = 1};
    return *(const loose_vec *)(one + MOST_NARROW - a + j * LANES);
}

/* to (+)= x f for `high` rows. */
INLINE void times_block(const int columns, const int high, int add, const vec *x, const vec *f, vec *to)
{
    const int wide = WIDE(columns);
    vec sum[HIGH(1) * MOST_WIDE];
    UNROLLED for (int e = 0; e < high * wide; e++) sum[e] = add ? to[e] : all(0);
#pragma GCC unroll 2
    for (int l = 0; l < columns; l++) {
        vec right[MOST_WIDE];
        UNROLLED for (int j = 0; j < wide; j++) right[j] = f[l * wide + j];
        UNROLLED for (int i = 0; i < high; i++) {
            const vec left = all(((const double *)x)[i * wide * LANES + l]);
            UNROLLED for (int j = 0; j < wide; j++) sum[i * wide + j] += left * right[j];
        }
    }
    UNROLLED for (int e = 0; e < high * wide; e++) to[e] = sum[e];
}

INLINE void times_square(const int columns, int add, int64_t count, const vec *x, const vec *f, vec *to)
{
    const int wide = WIDE(columns), high = HIGH(wide);
    for (; count >= high; count -= high, x += high * wide, to += high * wide) times_block(columns, high, add, x, f, to);
    for (; count > 0; count--, x += wide, to += wide) times_block(columns, 1, add, x, f, to);
}

/* Sweeps of FEW rows from k on (zolotarev.h), which stay where they are. What others wait for longest is the pivots: these are
 * found among numbers, which is sooner than among vectors. */
INLINE void sweep_few(const int columns, int64_t k, vec *m)
{
    const int wide = WIDE(columns), stride = wide * LANES;
    vec line[FEW][MOST_WIDE], by[FEW][MOST_WIDE];
    mask kept[MOST_WIDE], is[FEW][MOST_WIDE];
    double pivot[FEW][FEW], inverse[FEW]; /* pivot[t][s]: of row t, when row s is swept */
    const double *number = (const double *)(m + k * wide) + k;
    UNROLLED for (int t = 0; t < FEW; t++)
        UNROLLED for (int s = 0; s <= t; s++) pivot[t][s] = number[s * stride + t];
    UNROLLED for (int r = 0; r < FEW; r++) {
        inverse[r] = 1 / pivot[r][r];
        UNROLLED for (int s = r + 1; s < FEW; s++) {
            const double share = pivot[s][r] * inverse[r];
            UNROLLED for (int t = s; t < FEW; t++) pivot[t][s] = fused_numbers(-pivot[t][r], share, pivot[t][s]);
        }
    }
    UNROLLED for (int j = 0; j < wide; j++) {
        kept[j] = ~(mask){0};
        UNROLLED for (int t = 0; t < FEW; t++) is[t][j] = lane_numbers() + j * LANES == k + t, kept[j] &= ~is[t][j];
    }
    UNROLLED for (int t = 0; t < FEW; t++)
        UNROLLED for (int j = 0; j < wide; j++) {
            vec now = (vec)((mask)m[(k + t) * wide + j] & kept[j]);
            UNROLLED for (int s = 0; s < t; s++) now -= pivot[t][s] * by[s][j];
            line[t][j] = now;
            by[t][j] = choose(is[t][j], all(-inverse[t]), now * inverse[t]);
        }
    LOADED(line);
    UNROLLED for (int i = 0; i < columns; i++)
        UNROLLED for (int j = 0; j < wide; j++) {
            vec now = (vec)((mask)m[i * wide + j] & kept[j]);
            UNROLLED for (int t = 0; t < FEW; t++) now -= ((const double *)line[t])[i] * by[t][j];
            m[i * wide + j] = now;
        }
    UNROLLED for (int t = 0; t < FEW; t++)
        UNROLLED for (int j = 0; j < wide; j++) {
            vec now = by[t][j];
            UNROLLED for (int s = t + 1; s < FEW; s++) now -= ((const double *)line[s])[k + t] * by[s][j];
            m[(k + t) * wide + j] = now;
        }
}

/* Minus the inverses, in their place, of one or two matrices that are positive but for round-off. A sweep waits for the one
 * before, less for that of another matrix. */
INLINE void inverses_of(const int columns, int64_t count, vec *const *of)
{
#pragma GCC unroll 1
    for (int64_t k = 0; k < columns; k += FEW)
#pragma GCC unroll 1
        for (int64_t i = 0; i < count; i++) sweep_few(columns, k, of[i]);
}

/* The sum of all entries' squares. */
INLINE double squares_of(const int columns, const vec *m)
{
    vec sum[4] = {all(0), all(0), all(0), all(0)};
    for (int e = 0; e < SQUARE(columns); e += 4)
        UNROLLED for (int i = 0; i < 4; i++)
            if (e + i < SQUARE(columns)) sum[i] += m[e + i] * m[e + i];
    return added_in_order(0, (sum[0] + sum[1]) + (sum[2] + sum[3]), LANES);
}

typedef struct {
    void (*gram)(int64_t count, const vec *x, const vec *y, vec *to);
    void (*times)(int add, int64_t count, const vec *x, const vec *f, vec *to);
    void (*inverses)(int64_t count, vec *const *of);
} OfColumns;

#define EACH_VECTOR \
    _Pragma("GCC unroll 1") for (int64_t a = 0, e = 0; a < columns; a++) \
        UNROLLED for (int j = 0; j < wide; j++, e++)

/* The entry of a matrix on the diagonal. */
INLINE double at_diagonal(const int columns, const vec *m, int64_t a)
{
    return ((const double *)m)[a * (WIDE(columns) * LANES + 1)];
}

/* Whether a matrix, whose Gram matrix has this size, has a singular value that PASSES are too few for; `to` is scratch. */
INLINE int singular(const int columns, const OfColumns *of, const vec *gram, double size, vec *to)
{
    const int wide = WIDE(columns);
    double trace = 0;
    EACH_VECTOR to[e] = at_diagonal(columns, gram, a) > 0 ? gram[e] : size * unit_at(a, j);
    of->inverses(1, (vec *const[]){to});
    for (int64_t a = 0; a < columns; a++) trace -= at_diagonal(columns, to, a);
    return !(trace > 0 && trace * size < SINGULAR);
}

/* The factor of the first function into s->factor, s->gram being the Gram matrix and `size` its Frobenius norm. */
INLINE void narrow_first(const int columns, const OfColumns *of, double size, Narrow *s)
{
    const int wide = WIDE(columns);
    const double c = FIRST_SCALE / sqrt(size), ca = c * FIRST_WEIGHT * size;
    EACH_VECTOR s->one[e] = s->gram[e] + (FIRST_POLE * size) * unit_at(a, j);
    of->inverses(1, (vec *const[]){s->one});
    EACH_VECTOR s->factor[e] = c * unit_at(a, j) - ca * s->one[e];
}

/* The factor of the second function and of the series, times `by`, into s->one, s->gram being the Gram matrix of what the first
 * has made. Returns whether all together make the polar factor. */
INLINE int narrow_second(const int columns, const OfColumns *of, double by, Narrow *s)
{
    const int wide = WIDE(columns);
    vec *rest = s->rest, *left = s->one, *squared = s->other, *series = s->gram;
    EACH_VECTOR s->one[e] = s->gram[e] + LOW_POLE * unit_at(a, j), s->other[e] = s->gram[e] + HIGH_POLE * unit_at(a, j);
    of->inverses(2, (vec *const[]){s->one, s->other});
    EACH_VECTOR {
        const vec low = SECOND_SCALE * LOW_WEIGHT * s->one[e], high = SECOND_SCALE * HIGH_WEIGHT * s->other[e];
        const vec of_gram = fused(all(SECOND_SCALE), s->gram[e], fused(all(LOW_POLE), low, HIGH_POLE * high));
        s->factor[e] = SECOND_SCALE * unit_at(a, j) - (low + high);
        /* minus the factor times the Gram matrix */
        rest[e] = -(SECOND_SCALE * (LOW_WEIGHT + HIGH_WEIGHT) * unit_at(a, j)) - of_gram;
        left[e] = at_diagonal(columns, s->gram, a) > 0 ? unit_at(a, j) : all(0);
    }
    of->times(1, columns, s->factor, rest, left);
    of->gram(columns, left, left, squared);
    EACH_VECTOR {
        rest[e] = by * unit_at(a, j) + (0.5 * by) * left[e];
        series[e] = (3. / 8 * by) * unit_at(a, j) + fused(all(5. / 16 * by), left[e], (35. / 128 * by) * squared[e]);
    }
    of->times(1, columns, squared, series, rest);
    of->gram(columns, s->factor, rest, s->one);
    return squares_of(columns, squared) <= LEFT_OVER * LEFT_OVER;
}

/* The polar factor of x (count, columns), times `by`, into `to` or, where `add`, added to that; `to` may be x, and `turned` is
 * scratch of its size. Returns whether it is made: if not, x and `to` are as they were. */
INLINE int narrow_polar(
    const int columns, const OfColumns *of, int64_t count, const vec *x, vec *turned, double by, int add, vec *to)
{
    Narrow s;
    for (int pass = 0; pass < PASSES; pass++, x = turned) {
        of->gram(count, x, x, s.gram);
        const double square = squares_of(columns, s.gram), size = sqrt(square);
        if (!(square > LEAST && square < MOST) || (pass && singular(columns, of, s.gram, size, s.other))) return 0;
        narrow_first(columns, of, size, &s);
        of->times(0, count, x, s.factor, turned);
        of->gram(count, turned, turned, s.gram);
        if (!narrow_second(columns, of, by, &s)) continue;
        of->times(add, count, turned, s.one, to);
        return 1;
    }
    return 0;
}

#define NARROW(C) \
    APART void narrow_gram_##C(int64_t count, const vec *x, const vec *y, vec *to) { gram_of_columns(C, count, x, y, to); } \
    APART void narrow_times_##C(int add, int64_t count, const vec *x, const vec *f, vec *to) \
    { \
        times_square(C, add, count, x, f, to); \
    } \
    APART void narrow_inverses_##C(int64_t count, vec *const *of) { inverses_of(C, count, of); } \
    static const OfColumns NARROW_##C = {narrow_gram_##C, narrow_times_##C, narrow_inverses_##C}; \
    APART int narrow_polar_##C(int64_t count, const vec *x, vec *turned, double by, int add, vec *to) \
    { \
        return narrow_polar(C, &NARROW_##C, count, x, turned, by, add, to); \
    }
NARROW(4) NARROW(8) NARROW(12) NARROW(16) NARROW(20)

static inline int is_narrow(int64_t columns) { return FEWEST_NARROW <= columns && columns <= MOST_NARROW; }

/* narrow_polar() of any number of columns that is_narrow(). */
static int polar_of_narrow(int64_t columns, int64_t count, const vec *x, vec *turned, double by, int add, vec *to)
{
    switch ((columns + FEW - 1) / FEW * FEW) {
#define POLAR_OF_NARROW(C) case C: return narrow_polar_##C(count, x, turned, by, add, to);
        POLAR_OF_NARROW(4) POLAR_OF_NARROW(8) POLAR_OF_NARROW(12) POLAR_OF_NARROW(16) POLAR_OF_NARROW(20)
    }
    return 0;
}

#endif
