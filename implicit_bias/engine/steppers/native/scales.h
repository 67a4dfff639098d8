/* What is done to numbers with a log scale. From scaled.py. */

#ifndef SCALES_H
#define SCALES_H

#include "group.h"

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

/* The weight of an average so far in the next, whose log scales these are: none where it is of nothing and averages begin with the
 * first gradient. */
static inline vec weight_of_past(const Group *p, const vec *log_scales, int64_t count)
{
    if (!p->from_first) return *p->beta;
    vec top = log_scales[0];
    for (int64_t e = 1; e < count; e++) top = larger(top, log_scales[e]);
    if (p->alone) top = largest_across(top);
    return choose(top == -INFINITY, all(0), *p->beta);
}

/* That of the new gradient beside it. */
static inline vec weight_of_new(const Group *p, vec weight_of_past) { return p->from_first ? 1 - weight_of_past : *p->gain; }

#endif
