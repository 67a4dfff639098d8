/* From scores to what is pulled back through a network, (outputs, samples): losses/ and models/network.py. Lanes are samples; those
 * beyond the last repeat it. */

#ifndef NETWORK_SCORES_H
#define NETWORK_SCORES_H

#include "network.h"

static inline int64_t sample_in(const Network *p, int64_t i, int64_t lane) { return least(i * LANES + lane, p->samples - 1); }

static inline mask labels_at(const Network *p, int64_t run, int64_t i)
{
    mask y = {0};
    for (int l = 0; l < LANES; l++) y[l] = p->y[run * p->y_run + sample_in(p, i, l)];
    return y;
}

/* Negative gaps in place of the scores, -inf at the label; of a single output one a sample. Returns whether all scores are finite
 * numbers. */
static int negative_gaps(const Network *p, Room *v, int64_t run)
{
    const int64_t k = p->layer[p->layers - 1].units, n = vectors_of(p->samples);
    mask odd = {0};
    for (int64_t i = 0; i < n; i++) {
        const mask y = labels_at(p, run, i);
        vec own = all(0);
        for (int64_t c = 0; c < k; c++) {
            const vec f = v->u[c * n + i];
            odd |= ~(f - f == 0);
            own = choose(y == c, f, own);
        }
        if (k == 1) v->u[i] = choose(y == 1, -v->u[i], v->u[i]);
        else for (int64_t c = 0; c < k; c++) v->u[c * n + i] = choose(y == c, all(-INFINITY), v->u[c * n + i] - own);
    }
    return !any(odd);
}

/* Weights w_ic in units of e^unit in place of the gaps, none below e^FLOOR but the label's, which are zero: LossTerms. */
static void weights_of(const Network *p, Room *v)
{
    const int64_t k = p->layer[p->layers - 1].units, n = vectors_of(p->samples);
    vec unit = all(-INFINITY), low = all(INFINITY);
    for (int64_t i = 0; i < n; i++) {
        vec top = v->u[i], size = all(0);
        for (int64_t c = 1; c < k; c++) top = larger(top, v->u[c * n + i]);
        for (int64_t c = 0; c < k; c++) {
            vec *u = v->u + c * n + i;
            *u = choose(*u == -INFINITY, all(0), share_of(*u - top));
            size += *u;
        }
        v->top[i] = top, v->size[i] = size;
        unit = larger(unit, p->loss == CROSS_ENTROPY ? smaller(top, all(0)) : top);
    }
    unit = largest_across(unit);
    for (int64_t i = 0; i < n; i++) {
        const vec top = v->top[i], below = p->loss == CROSS_ENTROPY ? smaller(top, all(0)) : top;
        vec share = share_of(below - unit);
        if (p->loss == CROSS_ENTROPY) share /= exponential(below - top) + v->size[i] * exponential(below);
        v->total[i] = v->size[i] * share;
        for (int64_t c = 0; c < k; c++) {
            vec *w = v->u + c * n + i;
            const mask label = *w == 0;
            *w = choose(label, all(0), larger(*w * share, all(LEAST_WEIGHT)));
            low = smaller(low, choose(label, all(INFINITY), *w));
        }
    }
    v->unit = unit, v->least = smallest_across(low);
}

/* The derivative in the scores, -sum_ic w_ic grad m_ic, in place of the weights; zero beyond the last sample. */
static void derivative_in_scores(const Network *p, Room *v, int64_t run)
{
    const int64_t k = p->layer[p->layers - 1].units, n = vectors_of(p->samples);
    for (int64_t i = 0; i < n; i++) {
        const mask y = labels_at(p, run, i), there = lane_numbers() + i * LANES < p->samples;
        vec sum = all(0);
        for (int64_t c = 0; c < k; c++) sum += v->u[c * n + i];
        for (int64_t c = 0; c < k; c++) {
            vec *w = v->u + c * n + i;
            *w = choose(there, k == 1 ? choose(y == 1, -*w, *w) : choose(y == c, -sum, *w), all(0));
        }
    }
}

/* log L, from what weights_of() has left. Losses far below one are e^a, a = top + log size, for cross entropy, too; of losses near
 * the largest double the sum is of shares of them. */
static double log_loss_of(const Network *p, const Room *v)
{
    const double unit = v->unit[0], *top = (const double *)v->top, *size = (const double *)v->size;
    const int logistic = p->loss == CROSS_ENTROPY && unit > TAIL;
    double sum = 0;
    for (int64_t i = 0; i < p->samples; i++) {
        const double a = top[i] + log(size[i]);
        sum += !logistic ? size[i] * exp(top[i] - unit) : (a > 0 ? a + log1p(exp(-a)) : log1p(exp(a)));
    }
    if (sum == INFINITY && logistic) {
        double shares = 0;
        for (int64_t i = 0; i < p->samples; i++) shares += larger_number(0, top[i] + log(size[i])) / (double)p->samples;
        return log(shares);
    }
    return log(sum) + (logistic ? 0 : unit) - p->log_n;
}

/* sum_ic w_ic in units of e^unit. */
static double sum_of_weights(const Network *p, const Room *v)
{
    double sum = 0;
    for (int64_t i = 0; i < p->samples; i++) sum += ((const double *)v->total)[i];
    return sum;
}

/* The share of samples whose gaps are all positive, and the smallest gap. */
static void look_at_gaps(const Network *p, const Room *v, double *accuracy, double *margin)
{
    const double *top = (const double *)v->top;
    int64_t right = 0;
    double most = -INFINITY;
    for (int64_t i = 0; i < p->samples; i++) right += top[i] < 0, most = larger_number(most, top[i]);
    *accuracy = (double)right / (double)p->samples, *margin = -most;
}

#endif
