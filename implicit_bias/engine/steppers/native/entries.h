/* One log scale an entry, for data with zeros: an entry of a gradient may be fed by samples alone that are nothing beside others of
 * its row. From models/linear.py (_without_underflow) and scaled.py.
 *
 * A tensor is a mantissa (k, d), of a size about one where it is a buffer's, and a log scale (k, d); -inf for an entry that is
 * zero. */

#ifndef ENTRIES_H
#define ENTRIES_H

#include "directions.h"
#include "gradient.h"
#include "logarithms.h"
#include "scales.h"

#define NEAR_LESS 0x1p-30 /* times e^LOWEST still a number with a sign */
#define NEAR_MORE 0x1p+30

/* The lanes in which some of these samples have feature j. */
static mask there(const Samples *of, int64_t d, int64_t j)
{
    mask found = {0};
    for (int64_t i = 0; i < of->count; i++) found |= of->x[i * d + j] != 0;
    return found;
}

/* Entry (c, j), in the lanes `lost`, summed in the log domain; `scores` are the logarithms of the samples' weights. */
static void sum_logs(const Group *p, const Samples *of, Work *v, int64_t c, int64_t j, mask lost)
{
    const vec *s = v->scores + c * of->n;
    vec top = all(-INFINITY);
    for (int64_t i = 0; i < of->count; i++) top = larger(top, weight_at(p, s, i) + logarithm(magnitude(of->x[i * p->d + j])));
    const vec unit = choose(top > -INFINITY, top, all(0));
    vec sum = all(0), error = all(0), size = all(0);
    for (int64_t i = 0; i < of->count; i++) {
        const vec x = of->x[i * p->d + j], share = exponential(weight_at(p, s, i) + logarithm(magnitude(x)) - unit);
        const vec signed_share = choose(x == 0, all(0), choose((x < 0) ^ labelled(p, of, i, c), -share, share));
        const vec next = sum + signed_share, added = next - sum;
        error += (sum - (next - added)) + (signed_share - added);
        sum = next;
        size += magnitude(signed_share);
    }
    vec *g = v->g + c * p->d + j, *log = v->g_log + c * p->d + j;
    const mask cancelled = magnitude(sum + error) <= CANCELLED * size;
    *g = choose(lost, choose(cancelled, all(0), sum), *g);
    *log = choose(lost, choose(cancelled, all(-INFINITY), top - of->log_n), *log);
}

/* The log scale of every entry of g, those that are lost beside their row's largest summed anew. */
__attribute__((noinline)) static void spread(const Group *p, const Samples *of, Work *v)
{
    int summed = 0;
    for (int64_t c = 0; c < p->k; c++) {
        const vec log = log_scale(v, c);
        for (int64_t e = c * p->d; e < (c + 1) * p->d; e++) v->g_log[e] = choose(v->g[e] == 0, all(-INFINITY), log);
    }
    for (int64_t j = 0; j < p->d; j++) {
        mask lost = {0};
        for (int64_t c = 0; c < p->k; c++) lost |= magnitude(v->g[c * p->d + j]) < UNDERFLOW;
        lost &= p->doubtful[j] > 0;
        if (!any(lost) || !any(lost &= there(of, p->d, j))) continue;
        if (!summed) log_weights(p, of, v);
        summed = 1;
        for (int64_t c = 0; c < p->k; c++) {
            const mask mine = lost & (magnitude(v->g[c * p->d + j]) < UNDERFLOW);
            if (any(mine)) sum_logs(p, of, v, c, j, mine);
        }
    }
}

/* The gradient of these samples, with a log scale an entry where that is asked for. */
static void evaluate(const Group *p, const Samples *of, Work *v)
{
    gradient(p, of, v);
    if (p->entries) spread(p, of, v);
}

/* Bring a mantissa that has left [NEAR_LESS, NEAR_MORE] to [1, 2): seldom, for a log scale is rounded by its own size. */
static inline void normalise(vec *m, vec *log)
{
    const vec size = magnitude(*m);
    const mask zero = size == 0, far = ~zero & ((size < NEAR_LESS) | (size > NEAR_MORE));
    *log = choose(zero, all(-INFINITY), *log);
    if (!any(far)) return;
    const mask exponent = far & (((mask)size >> 52) - 1023);
    *m = (vec)((mask)*m - (exponent << 52));
    *log += whole(exponent) * LOG_2_FIRST + whole(exponent) * LOG_2_REST;
}

/* weight_a a + weight_b b into `to`, entry by entry. scaled.py: combine. */
static void combine_entries(
    int64_t count, const vec *a, const vec *a_log, vec weight_a, const vec *b, const vec *b_log, vec weight_b, vec *to, vec *to_log)
{
    for (int64_t e = 0; e < count; e++) {
        vec of_a, of_b, log = in_common(counted(weight_a, a_log[e]), counted(weight_b, b_log[e]), &of_a, &of_b);
        to[e] = weight_a * of_a * a[e] + weight_b * of_b * b[e];
        to_log[e] = log;
        normalise(to + e, to_log + e);
    }
}

/* r = sqrt(beta2 r^2 + (1 - beta2) g^2), entry by entry. */
static void average_squares_by_entry(const Group *p, const Work *v)
{
    const vec keep = root(*p->beta2), add = root(1 - *p->beta2);
    for (int64_t e = 0; e < p->k * p->d; e++) {
        vec old, new, log = in_common(counted(*p->beta2, p->r_log[e]), v->g_log[e], &old, &new);
        p->r[e] = hypotenuse(keep * old * p->r[e], add * new * v->g[e]);
        p->r_log[e] = log;
        normalise(p->r + e, p->r_log + e);
    }
}

/* Rows with a log scale each of entries with theirs, which keep their signs however small they are. */
static void gather_rows(const Group *p, const vec *m, const vec *m_log, vec *to, vec *to_log)
{
    for (int64_t c = 0; c < p->k; c++) {
        vec top = largest_of(m_log + c * p->d, p->d);
        if (p->alone) top = largest_across(top);
        for (int64_t e = c * p->d; e < (c + 1) * p->d; e++) to[e] = m[e] * exponential(m_log[e] - top);
        to_log[c] = top;
    }
}

static const vec *stepped_from_entries(const Group *p, Work *v, const vec **log_scales)
{
    const int64_t count = p->k * p->d;
    const vec *m = v->g, *m_log = v->g_log;
    if (p->momentum == BEFORE)
        combine_entries(count, p->m, p->m_log, *p->ahead_beta, v->g, v->g_log, *p->ahead_gain, v->ahead_m, v->ahead_m_log);
    if (p->momentum != NO_MOMENTUM) {
        const vec beta = weight_of_past(p, p->m_log, count), gain = weight_of_new(p, beta);
        combine_entries(count, p->m, p->m_log, beta, v->g, v->g_log, gain, p->m, p->m_log);
        m = p->m, m_log = p->m_log;
    }
    if (p->momentum == LOOK_AHEAD)
        combine_entries(count, p->m, p->m_log, *p->ahead_beta, v->g, v->g_log, *p->ahead_gain, v->ahead_m, v->ahead_m_log);
    if (p->momentum == LOOK_AHEAD || p->momentum == BEFORE) m = v->ahead_m, m_log = v->ahead_m_log;
    v->entry = m, v->entry_log = m_log;
    if (p->rule != ADAM) gather_rows(p, m, m_log, v->ahead, v->ahead_log);
    *log_scales = v->ahead_log;
    return v->ahead;
}

static void adam_step_by_entry(const Group *p, vec eta, vec correct_m, vec correct_r)
{
    const vec inverse = 1 / correct_r;
    for (int64_t e = 0; e < p->k * p->d; e++) {
        const vec factor = exponential(p->m_log[e] - p->r_log[e]) / correct_m;
        const vec step = quotient(p->m[e] * factor, p->r[e] * inverse + eps_in(p, p->r_log[e]));
        p->w[e] -= eta * choose(p->m[e] == 0, all(0), step);
    }
}

/* The matrix of the certificates from entries with a log scale each. */
static void collect_by_entry(const Group *p, const Work *v, double share)
{
    const vec unit = v->unit - v->log_n + logarithm(v->total);
    for (int64_t e = 0; e < p->k * p->d; e++)
        p->certificate[e] += share * (-v->g[e] * exponential(v->g_log[e] - unit) - p->certificate[e]);
}

#endif
