/* LANES runs in a vector: arithmetic and exponentials, and what is done to rows of such vectors.
 *
 * An operation's result depends on neither the other lanes nor where it is written. FLOOR comes from rules.py. */

#ifndef VECTORS_H
#define VECTORS_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512F__) && defined(__AVX512DQ__)
#include <immintrin.h>
#define LANES 8
#else
#define LANES 4
#endif

typedef double vec __attribute__((vector_size(8 * LANES)));
typedef int64_t mask __attribute__((vector_size(8 * LANES)));

#define LOWEST -708.0 /* e^x is a normal number from here to HIGHEST */
#define HIGHEST 709.0
#define PARTS 16                           /* 2^(0 / PARTS), 2^(1 / PARTS), ... are in a table */
#define PER_LOG_2 0x1.71547652b82fep+4     /* PARTS / log 2 */
#define LOG_2_HIGH 0x1.62e42fefap-5       /* log(2) / PARTS in two parts: the first ends in zeros, times a whole number it is exact */
#define LOG_2_LOW 0x1.cf79abc9e3b3ap-44
#define LEAST 0x1p-900
#define MOST 0x1p900
#define ROUND_BY 0x1.8p52                  /* added and subtracted, it rounds to whole numbers */

/* a b + c rounded once, where the processor can; as compilers do by themselves, but where they have a choice of two products, or
 * may make those of a loop of numbers apart, it is said which. */
static inline double fused_numbers(double a, double b, double c)
{
#if defined(__FP_FAST_FMA) || defined(__FMA__)
    return __builtin_fma(a, b, c);
#else
    return a * b + c;
#endif
}

static inline vec all(double value) { return value - (vec){0}; }
static inline vec choose(mask where, vec yes, vec no) { return (vec)(((mask)yes & where) | ((mask)no & ~where)); }
static inline vec magnitude(vec a) { return (vec)((mask)a & INT64_MAX); }

/* Where compilers do not find the instruction themselves, it is named. */
#if LANES == 8

static inline vec fused(vec a, vec b, vec c) { return (vec)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c); }
static inline vec larger(vec a, vec b) { return (vec)_mm512_max_pd((__m512d)a, (__m512d)b); }
static inline vec smaller(vec a, vec b) { return (vec)_mm512_min_pd((__m512d)a, (__m512d)b); }
static inline vec root(vec a) { return (vec)_mm512_sqrt_pd((__m512d)a); }
static inline int any(mask m) { return _mm512_test_epi64_mask((__m512i)m, (__m512i)m) != 0; }

/* table[m mod PARTS] */
static inline mask looked_up(const int64_t *table, mask m)
{
    return (mask)_mm512_permutex2var_epi64(_mm512_loadu_si512(table), (__m512i)m, _mm512_loadu_si512(table + LANES));
}

/* 1 / sqrt(x) to about an ulp, for normal x > 0: an estimate y good to 2^-14, times (1 - e)^(-1/2) where e = 1 - x y^2, to e^3. A
 * fifth of the time that a root and a division take. */
static inline vec reciprocal_root(vec x)
{
    vec y = (vec)_mm512_rsqrt14_pd((__m512d)x), e = 1 - (x * y) * y;
    return y + (y * e) * (0.5 + e * (0.375 + e * 0.3125));
}

/* The same of 1 / x. */
static inline vec reciprocal(vec x)
{
    vec y = (vec)_mm512_rcp14_pd((__m512d)x), e = 1 - x * y;
    return y + (y * e) * (1 + e * (1 + e));
}

static inline vec positive_root(vec x) { return x * reciprocal_root(x); }

#else

static inline vec fused(vec a, vec b, vec c)
{
    for (int l = 0; l < LANES; l++) c[l] = fused_numbers(a[l], b[l], c[l]);
    return c;
}

static inline vec larger(vec a, vec b) { return choose(a > b, a, b); }
static inline vec smaller(vec a, vec b) { return choose(a < b, a, b); }

static inline vec root(vec a)
{
    vec b = a;
    for (int l = 0; l < LANES; l++) b[l] = sqrt(a[l]);
    return b;
}

static inline int any(mask m)
{
    int64_t found = 0;
    for (int l = 0; l < LANES; l++) found |= m[l];
    return found != 0;
}

static inline mask looked_up(const int64_t *table, mask m)
{
    mask found = m & (PARTS - 1);
    for (int l = 0; l < LANES; l++) found[l] = table[found[l]];
    return found;
}

static inline vec reciprocal_root(vec x) { return 1 / root(x); }
static inline vec reciprocal(vec x) { return 1 / x; }
static inline vec positive_root(vec x) { return root(x); }

#endif

/* The bits of 2^(j / PARTS), less j in the place where m is added for 2^(m / PARTS): what is left there counts in whole powers. */
static const int64_t POWERS[PARTS] = {
    0x3ff0000000000000, 0x3fefb5586cf9890f, 0x3fef72b83c7d517b, 0x3fef387a6e756238, 0x3fef06fe0a31b715, 0x3feedea64c123422,
    0x3feebfdad5362a27, 0x3feeab07dd485429, 0x3feea09e667f3bcd, 0x3feea11473eb0187, 0x3feeace5422aa0db, 0x3feec49182a3f090,
    0x3feee89f995ad3ad, 0x3fef199bdd85529c, 0x3fef5818dcfba487, 0x3fefa4afa2a490da,
};

/* e^x to about an ulp for LOWEST <= x <= HIGHEST: x = m log(2) / PARTS + r, |r| <= log(2) / (2 PARTS), and 2^(m / PARTS) e^r with
 * e^r = 1 + r + r^2 (c_2 + ... + c_6 r^4), the c_j by Remez's algorithm: the relative error is 1.2e-17. */
static inline vec exponential_inside(vec x)
{
    vec t = x * PER_LOG_2 + ROUND_BY;
    vec m = t - ROUND_BY;
    vec r = (x - m * LOG_2_HIGH) - m * LOG_2_LOW;
    vec r2 = r * r;
    vec low = 0x1.fffffffffffb9p-2 + r * 0x1.555555548f74fp-3;
    vec high = 0x1.55555558fd05ap-5 + r * 0x1.11123abd8c085p-7;
    vec less_1 = r + r2 * (low + r2 * (high + r2 * 0x1.6c14c6d1defd6p-10));
    vec power = (vec)(looked_up(POWERS, (mask)t) + ((mask)t << 48)); /* the last bits of t are those of m */
    return power + power * less_1;
}

/* The same for any x, which is cut to that range. */
static inline vec exponential(vec x) { return exponential_inside(smaller(larger(x, all(LOWEST)), all(HIGHEST))); }

/* e^x for x <= 0, cut at FLOOR. */
static inline vec share_of(vec x) { return exponential_inside(larger(x, all(FLOOR))); }

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* The lanes in which x > 0 is no number whose reciprocal, or squares that it is the sum of, are normal numbers. */
static inline mask extreme(vec x) { return ~((x > LEAST) & (x < MOST)); }

/* a / b, b >= 0, to about two ulps. */
static inline vec quotient(vec a, vec b)
{
    const mask far = extreme(b);
    const vec usual = a * reciprocal(b);
    return any(far) ? choose(far, a / b, usual) : usual;
}

/* sqrt(a^2 + b^2) to about two ulps, however small or large. */
static inline vec hypotenuse(vec a, vec b)
{
    const vec square = a * a + b * b, usual = positive_root(square);
    const mask far = extreme(square);
    if (!any(far)) return usual;
    const vec high = larger(magnitude(a), magnitude(b)), low = smaller(magnitude(a), magnitude(b));
    const vec ratio = low / choose(high == 0, all(1), high);
    return choose(far, high * root(1 + ratio * ratio), usual);
}

/* The largest and the least |entry|, by four of them that do not wait for each other. */
static inline vec largest_size(const vec *a, int64_t count)
{
    vec top[4] = {all(0), all(0), all(0), all(0)};
    int64_t e = 0;
    for (; e + 3 < count; e += 4)
        for (int i = 0; i < 4; i++) top[i] = larger(top[i], magnitude(a[e + i]));
    for (; e < count; e++) top[0] = larger(top[0], magnitude(a[e]));
    return larger(larger(top[0], top[1]), larger(top[2], top[3]));
}

static inline vec least_size(const vec *a, int64_t count)
{
    vec low[4] = {all(INFINITY), all(INFINITY), all(INFINITY), all(INFINITY)};
    int64_t e = 0;
    for (; e + 3 < count; e += 4)
        for (int i = 0; i < 4; i++) low[i] = smaller(low[i], magnitude(a[e + i]));
    for (; e < count; e++) low[0] = smaller(low[0], magnitude(a[e]));
    return smaller(smaller(low[0], low[1]), smaller(low[2], low[3]));
}

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

static void transpose(const vec *a, int64_t rows, int64_t columns, vec *b)
{
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++) b[j * rows + i] = a[i * columns + j];
}

#endif
