/* What is done to numbers with a log scale. From scaled.py. */

#ifndef SCALES_H
#define SCALES_H

#include "vectors.h"

/* Factors that bring two numbers to a common scale, whose logarithm is returned. */
static inline vec in_common(vec a_log, vec b_log, vec *a, vec *b)
{
    vec common = larger(a_log, b_log);
    *a = exponential(a_log - common);
    *b = exponential(b_log - common);
    return common;
}

/* The log scale of a buffer that counts with a weight: nothing where that is 0, so that it makes nothing else underflow. */
static inline vec counted(vec weight, vec log_scale) { return choose(weight == 0, all(-INFINITY), log_scale); }

/* sqrt(a^2 + b^2) */
static inline vec length_of(vec a, vec b)
{
    a = magnitude(a), b = magnitude(b);
    vec high = larger(a, b), ratio = smaller(a, b) / choose(high == 0, all(1), high);
    return high * root(1 + ratio * ratio);
}

#endif
