/* Variance reduction: gradients of mini-batches corrected by those at an anchor. From the equations of
 * engine/variance_reduction.py. */

#ifndef ANCHORS_H
#define ANCHORS_H

#include "entries.h"
#include "gradient.h"
#include "group.h"

/* The gradient in g with its log scales, into `to` (k, d) and `to_log` (k), or (k, d) by entry. */
static void keep_gradient(const Group *p, const Work *v, vec *to, vec *to_log)
{
    const int64_t count = p->k * p->d;
    memcpy(to, v->g, count * sizeof(vec));
    if (p->entries) memcpy(to_log, v->g_log, count * sizeof(vec));
    else for (int64_t c = 0; c < p->k; c++) to_log[c] = log_scale(v, c);
}

/* What `evaluate` makes of these samples, at the anchor. */
static void gradient_at_anchor(const Group *p, const Samples *of, Work *v)
{
    Group there = *p;
    there.w = p->anchor;
    evaluate(&there, of, v);
}

/* g, that of a batch at w, becomes g - g(anchor) + mean, with log scales in `row`, or in `g_log`. */
static void reduce_variance(const Group *p, const Samples *batch, Work *v)
{
    keep_gradient(p, v, v->here, v->here_log);
    gradient_at_anchor(p, batch, v);
    if (p->entries) {
        const int64_t count = p->k * p->d;
        combine_entries(count, v->here, v->here_log, all(1), v->g, v->g_log, all(-1), v->g, v->g_log);
        combine_entries(count, v->g, v->g_log, all(1), v->mean, v->mean_log, all(1), v->g, v->g_log);
        return;
    }
    for (int64_t c = 0; c < p->k; c++) {
        vec there_log = log_scale(v, c), unit = larger(larger(v->here_log[c], there_log), v->mean_log[c]);
        vec here = exponential(v->here_log[c] - unit), there = exponential(there_log - unit);
        vec mean = exponential(v->mean_log[c] - unit);
        for (int64_t e = c * p->d; e < (c + 1) * p->d; e++)
            v->g[e] = (here * v->here[e] - there * v->g[e]) + mean * v->mean[e];
        v->row[c] = unit;
    }
    v->unit = all(0), v->log_n = 0; /* `row` says it all */
}

#endif
