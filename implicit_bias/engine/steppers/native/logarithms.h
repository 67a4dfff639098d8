/* Logarithms of LANES numbers, and log losses. */

#ifndef LOGARITHMS_H
#define LOGARITHMS_H

#include "group.h"

#define ROOT_HALF_BITS 0x3fe6a09e667f3bcd /* of sqrt(1 / 2) */
#define TINY 0x1p-1022                    /* the smallest normal number; smaller ones are multiplied by LIFT = 2^LIFTED */
#define LIFT 0x1p+54
#define LIFTED 54
#define LOG_2_FIRST 0x1.62e42fefa38p-1    /* log 2 in two parts: the first ends in zeros, times a whole number it is exact */
#define LOG_2_REST 0x1.ef35793c7673p-45

/* Whole numbers as doubles. */
static inline vec whole(mask m) { return (vec)(m + (mask)all(ROUND_BY)) - ROUND_BY; }

/* log x to about an ulp for finite x >= 0; -inf for zero. x = 2^e m, 1 / sqrt 2 <= m < sqrt 2, log m = 2 artanh s with
 * s = (m - 1) / (m + 1), by its Taylor series, |s| <= .172. */
static inline vec logarithm(vec x)
{
    const mask tiny = x < TINY;
    const vec normal = choose(tiny, x * LIFT, x);
    const mask exponent = ((mask)normal - ROOT_HALF_BITS) >> 52;
    const vec m = (vec)((mask)normal - (exponent << 52)), e = whole(exponent) - choose(tiny, all(LIFTED), all(0));
    const vec s = (m - 1) / (m + 1), s2 = s * s, s4 = s2 * s2, s8 = s4 * s4;
    const vec low = (1.0 / 3 + s2 * (1.0 / 5)) + s4 * (1.0 / 7 + s2 * (1.0 / 9));
    const vec high = (1.0 / 11 + s2 * (1.0 / 13)) + s4 * (1.0 / 15 + s2 * (1.0 / 17));
    const vec series = low + s8 * (high + s8 * (1.0 / 19 + s2 * (1.0 / 21)));
    return choose(x == 0, all(-INFINITY), e * LOG_2_FIRST + (2 * s + (2 * s * s2 * series + e * LOG_2_REST)));
}

/* log(1 + y), y >= 0, to full relative accuracy (Kahan). */
static inline vec logarithm_of_more(vec y)
{
    vec u = 1 + y, more = u - 1;
    return choose(more > 0, logarithm(u) * (y / choose(more > 0, more, all(1))), y);
}

/* log(1 + e^a) of cross entropy, e^a = e^excess others, own = e^-excess: gradient.h, share_out. */
static inline vec sample_loss(vec excess, vec own, vec others)
{
    return choose(excess > 0, excess + logarithm(own + others), logarithm_of_more(others));
}

/* log L of these samples, whose gradient was the last to be made. losses/: log l = a for the exponential loss, else log log1p(e^a).
 * Below `unit` = TAIL that is a, too, and sum e^a is `total`. */
SHARED vec log_loss(const Group *p, const Samples *of, const Work *v)
{
    const vec deep = logarithm(v->total) + v->unit;
    const mask shallow = v->unit > TAIL;
    if (p->loss == EXPONENTIAL || !any(shallow)) return deep - of->log_n;
    vec sum = all(0);
    if (p->alone) sum = all(sum_of_magnitudes((const double *)v->losses, of->count));
    else for (int64_t i = 0; i < of->n; i++) sum += v->losses[i];
    return choose(shallow, logarithm(sum), deep) - of->log_n;
}

#endif
