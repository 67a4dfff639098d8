/* LANES runs in a vector: arithmetic and exponentials, and what is done to rows of such vectors.
 *
 * An operation's result depends on neither the other lanes nor where it is written. FLOOR comes from rules.py. */

#ifndef VECTORS_H
#define VECTORS_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#ifdef __AVX__
#include <immintrin.h>
#endif
#if defined(__AVX512F__) && defined(__AVX512DQ__)
#define LANES 8
#else
#define LANES 4
#endif

/* A function of a header that not every source uses. */
#define SHARED __attribute__((unused)) static

typedef double vec __attribute__((vector_size(8 * LANES)));
typedef int64_t mask __attribute__((vector_size(8 * LANES)));

#define LOWEST -708.0 /* e^x is a normal number from here to HIGHEST */
#define HIGHEST 709.0
#define PARTS 16                       /* 2^(0 / PARTS), 2^(1 / PARTS), ... are in a table */
#define PER_LOG_2 0x1.71547652b82fep+4 /* PARTS / log 2 */
#define LOG_2_HIGH 0x1.62e42fefap-5    /* log(2) / PARTS in two parts: the first ends in zeros, times a whole number it is exact */
#define LOG_2_LOW 0x1.cf79abc9e3b3ap-44
#define ROUND_BY 0x1.8p52 /* added and subtracted, it rounds to whole numbers */
#define LEAST 0x1p-900    /* between these two, the estimates of quotient and hypotenuse are good */
#define MOST 0x1p900

/* An operation waits for the one before, so that a few vectors are done operation by operation: EACH is a loop over them. */
#define ABREAST 2
#define EACH _Pragma("GCC unroll 2") for (int i = 0; i < count; i++)

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
 * fifth of the time that a root and a division take. Of `count` vectors, ABREAST at most, in place. */
__attribute__((always_inline)) static inline void reciprocal_roots(const int count, vec *x)
{
    vec y[ABREAST], e[ABREAST], series[ABREAST];
    EACH y[i] = (vec)_mm512_rsqrt14_pd((__m512d)x[i]);
    EACH x[i] = x[i] * y[i];
    EACH e[i] = 1 - x[i] * y[i];
    EACH series[i] = 0.375 + e[i] * 0.3125;
    EACH series[i] = 0.5 + e[i] * series[i];
    EACH e[i] = y[i] * e[i];
    EACH x[i] = y[i] + e[i] * series[i];
}

/* The same of 1 / x. */
__attribute__((always_inline)) static inline void reciprocals(const int count, vec *x)
{
    vec y[ABREAST], e[ABREAST], series[ABREAST];
    EACH y[i] = (vec)_mm512_rcp14_pd((__m512d)x[i]);
    EACH e[i] = 1 - x[i] * y[i];
    EACH series[i] = 1 + e[i];
    EACH series[i] = 1 + e[i] * series[i];
    EACH e[i] = y[i] * e[i];
    EACH x[i] = y[i] + e[i] * series[i];
}

/* sqrt(x), likewise. */
__attribute__((always_inline)) static inline void positive_roots(const int count, vec *x)
{
    vec y[ABREAST];
    EACH y[i] = x[i];
    reciprocal_roots(count, y);
    EACH x[i] = x[i] * y[i];
}

#else

static inline vec fused(vec a, vec b, vec c)
{
#if defined(__AVX__) && defined(__FMA__)
    return (vec)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#else
    for (int l = 0; l < LANES; l++) c[l] = fused_numbers(a[l], b[l], c[l]);
    return c;
#endif
}

static inline vec larger(vec a, vec b) { return choose(a > b, a, b); }
static inline vec smaller(vec a, vec b) { return choose(a < b, a, b); }

static inline vec root(vec a)
{
#ifdef __AVX__
    return (vec)_mm256_sqrt_pd((__m256d)a);
#else
    vec b = a;
    for (int l = 0; l < LANES; l++) b[l] = sqrt(a[l]);
    return b;
#endif
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

static inline void reciprocal_roots(const int count, vec *x) { EACH x[i] = 1 / root(x[i]); }
static inline void reciprocals(const int count, vec *x) { EACH x[i] = 1 / x[i]; }
static inline void positive_roots(const int count, vec *x) { EACH x[i] = root(x[i]); }

#endif

/* The bits of 2^(j / PARTS), less j in the place where m is added for 2^(m / PARTS): what is left there counts in whole powers. */
static const int64_t POWERS[PARTS] = {
    0x3ff0000000000000, 0x3fefb5586cf9890f, 0x3fef72b83c7d517b, 0x3fef387a6e756238, 0x3fef06fe0a31b715, 0x3feedea64c123422,
    0x3feebfdad5362a27, 0x3feeab07dd485429, 0x3feea09e667f3bcd, 0x3feea11473eb0187, 0x3feeace5422aa0db, 0x3feec49182a3f090,
    0x3feee89f995ad3ad, 0x3fef199bdd85529c, 0x3fef5818dcfba487, 0x3fefa4afa2a490da,
};

/* e^x to about an ulp for LOWEST <= x <= HIGHEST: x = m log(2) / PARTS + r, |r| <= log(2) / (2 PARTS), and 2^(m / PARTS) e^r with
 * e^r = 1 + r + r^2 (c_2 + ... + c_6 r^4), the c_j by Remez's algorithm: the relative error is 1.2e-17. Of `count`
 * vectors, ABREAST at most. */
__attribute__((always_inline)) static inline void exponentials_inside(const int count, vec *x)
{
    vec t[ABREAST], m[ABREAST], r2[ABREAST], low[ABREAST], high[ABREAST], power[ABREAST];
    EACH t[i] = x[i] * PER_LOG_2 + ROUND_BY;
    EACH m[i] = t[i] - ROUND_BY;
    EACH x[i] = x[i] - m[i] * LOG_2_HIGH;
    EACH x[i] = x[i] - m[i] * LOG_2_LOW;
    EACH r2[i] = x[i] * x[i];
    EACH high[i] = 0x1.55555558fd05ap-5 + x[i] * 0x1.11123abd8c085p-7;
    EACH low[i] = 0x1.fffffffffffb9p-2 + x[i] * 0x1.555555548f74fp-3;
    EACH high[i] = high[i] + r2[i] * 0x1.6c14c6d1defd6p-10;
    EACH power[i] = (vec)(looked_up(POWERS, (mask)t[i]) + ((mask)t[i] << 48)); /* the last bits of t are those of m */
    EACH low[i] = low[i] + r2[i] * high[i];
    EACH x[i] = x[i] + r2[i] * low[i];
    EACH x[i] = power[i] + power[i] * x[i];
}

static inline vec exponential_inside(vec x)
{
    exponentials_inside(1, &x);
    return x;
}

/* The same for any x, which is cut to that range. */
static inline vec exponential(vec x) { return exponential_inside(smaller(larger(x, all(LOWEST)), all(HIGHEST))); }

/* e^x for x <= 0, cut at FLOOR. */
static inline vec share_of(vec x) { return exponential_inside(larger(x, all(FLOOR))); }

/* The same of `count` vectors x less `from`, in place. */
__attribute__((always_inline)) static inline void shares_of(const int count, const vec *from, vec *x)
{
    vec e[ABREAST];
    for (int i = 0; i < count; i++) e[i] = larger(x[i] - from[i], all(FLOOR));
    exponentials_inside(count, e);
    for (int i = 0; i < count; i++) x[i] = e[i];
}

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* The lanes in which x is not between LEAST and MOST: its reciprocal, or squares that it is the sum of, may be no normal numbers. */
static inline mask extreme(vec x) { return ~((x > LEAST) & (x < MOST)); }

/* a <- a / b, b >= 0, to about two ulps, of `count` vectors, ABREAST at most. */
__attribute__((always_inline)) static inline void divide(const int count, vec *a, const vec *b)
{
    vec inverse[ABREAST];
    mask far[ABREAST], some = {0};
    EACH inverse[i] = b[i];
    reciprocals(count, inverse);
    EACH far[i] = extreme(b[i]), some |= far[i];
    EACH inverse[i] = a[i] * inverse[i];
    if (any(some)) {
        EACH inverse[i] = choose(far[i], a[i] / b[i], inverse[i]);
    }
    EACH a[i] = inverse[i];
}

static inline vec quotient(vec a, vec b)
{
    divide(1, &a, &b);
    return a;
}

/* sqrt(a^2 + b^2) where the sum of the squares is no good. */
static inline vec far_hypotenuse(vec a, vec b)
{
    const vec high = larger(magnitude(a), magnitude(b)), low = smaller(magnitude(a), magnitude(b));
    const vec ratio = low / choose(high == 0, all(1), high);
    return high * root(1 + ratio * ratio);
}

/* a <- sqrt(a^2 + b^2) to about two ulps, however small or large, of `count` vectors, ABREAST at most. */
__attribute__((always_inline)) static inline void hypotenuses(const int count, vec *a, const vec *b)
{
    vec usual[ABREAST];
    mask far[ABREAST], some = {0};
    EACH usual[i] = a[i] * a[i] + b[i] * b[i];
    EACH far[i] = extreme(usual[i]), some |= far[i];
    positive_roots(count, usual);
    if (any(some)) {
        EACH usual[i] = choose(far[i], far_hypotenuse(a[i], b[i]), usual[i]);
    }
    EACH a[i] = usual[i];
}

static inline vec hypotenuse(vec a, vec b)
{
    hypotenuses(1, &a, &b);
    return a;
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
