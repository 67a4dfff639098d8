/* Loss gradients of samples in the log domain, and the certificates' matrices made of them. From the equations of
 * models/linear.py and the losses. */

#ifndef GRADIENT_H
#define GRADIENT_H

#include "group.h"
#include "products.h"

#define TILE 32 /* samples whose features stay in the first cache between two uses */

/* scores[c, i] = <w_c, x_i>. */
static void all_scores(const Group *p, const Samples *of, Work *v)
{
    const Matrix w = {p->w, p->d, 1}, x = {(vec *)of->x, p->d, 1}, scores = {v->scores, of->n, 1};
    product(p->k, of->n, 0, p->d, w, transposed(x), scores);
}

/* g_c = sum_i weights[c, i] x_i. */
static void weighted_sums(const Group *p, const Samples *of, const Work *v, vec *g)
{
    const Matrix weights = {v->scores, of->n, 1}, x = {(vec *)of->x, p->d, 1}, to = {g, p->d, 1};
    for (int64_t i = 0; i < of->n; i += TILE)
        product(p->k, p->d, i > 0, least(TILE, of->n - i), part_of(weights, 0, i), part_of(x, i, 0), to);
}

/* The largest |entry| of row c of g (k, d). */
static vec row_top(const Group *p, const vec *g, int64_t c)
{
    vec top = all(0);
    for (int64_t j = 0; j < p->d; j++) top = larger(top, magnitude(g[c * p->d + j]));
    return top;
}

/* The least |entry|, by four minima that do not wait for each other. */
static vec least_entry(const vec *g, int64_t count)
{
    vec found[4] = {all(INFINITY), all(INFINITY), all(INFINITY), all(INFINITY)};
    int64_t e = 0;
    for (; e + 3 < count; e += 4)
        for (int a = 0; a < 4; a++) found[a] = smaller(found[a], magnitude(g[e + a]));
    for (; e < count; e++) found[0] = smaller(found[0], magnitude(g[e]));
    return smaller(smaller(found[0], found[1]), smaller(found[2], found[3]));
}

/* The largest score of sample i but its label's, which is *own. */
static inline vec top_of_others(const Group *p, const Samples *of, const vec *s, int64_t i, vec *own)
{
    vec top = all(-INFINITY);
    *own = all(0);
    for (int64_t c = 0; c < p->k; c++, s += of->n) {
        *own = where_equal(of->y[i], c, *s, *own);
        top = where_equal(of->y[i], c, top, larger(top, *s));
    }
    return top;
}

/* The logarithms of the samples' weights, of their sum at the label, in place of scores. */
static void log_weights(const Group *p, const Samples *of, Work *v)
{
    all_scores(p, of, v);
    for (int64_t i = 0; i < of->n; i++) {
        vec *s = v->scores + i, own, own_log, others, top = top_of_others(p, of, s, i, &own), size = all(0);
        for (int64_t c = 0; c < p->k; c++) size = where_equal(of->y[i], c, size, size + share_of(s[c * of->n] - top));
        top -= own;
        for (int l = 0; l < LANES; l++) {
            double a = top[l] + log(size[l]), tail = log1p(exp(-fabs(a)));
            /* log of a weight is u_c - others; of their sum own_log. */
            others[l] = p->loss == EXPONENTIAL ? 0 : fmax(a, 0) + tail;
            own_log[l] = p->loss == EXPONENTIAL ? a : fmin(a, 0) - tail;
        }
        for (int64_t c = 0; c < p->k; c++)
            s[c * of->n] = where_equal(of->y[i], c, own_log, s[c * of->n] - own - others);
    }
}

/* Gradients with one scale a class row, of all lanes; kept where `deep`. models/linear.py: _deep. */
__attribute__((noinline)) static void deep_gradient(const Group *p, const Samples *of, Work *v, mask deep)
{
    log_weights(p, of, v);
    for (int64_t c = 0; c < p->k; c++) {
        vec *s = v->scores + c * of->n, top = s[0];
        for (int64_t i = 1; i < of->n; i++) top = larger(top, s[i]);
        for (int64_t i = 0; i < of->n; i++) {
            vec weight = share_of(s[i] - top);
            s[i] = where_equal(of->y[i], c, -weight, weight);
        }
        v->row[c] = choose(deep, top - v->unit, all(0));
    }
    weighted_sums(p, of, v, v->factor);
    for (int64_t e = 0; e < p->k * p->d; e++) v->g[e] = choose(deep, v->factor[e], v->g[e]);
}

/* Entry (c, j) of g, summed anew with the errors of all additions made up for: exactly zero where no more is left than CANCELLED
 * of the sum of the contributions' absolute values. models/linear.py: _with_zeros. */
static void clear_if_cancelled(const Group *p, const Samples *of, Work *v, int64_t c, int64_t j, mask doubt)
{
    vec sum = all(0), error = all(0), size = all(0);
    for (int64_t i = 0; i < of->n; i++) {
        vec part = v->scores[c * of->n + i] * of->x[i * p->d + j], next = sum + part, added = next - sum;
        error += (sum - (next - added)) + (part - added);
        sum = next;
        size += magnitude(part);
    }
    vec *g = v->g + c * p->d + j;
    *g = choose(doubt & (magnitude(sum + error) <= CANCELLED * size), all(0), *g);
}

/* The same for all entries, in the lanes `where`; `scores` are the samples' weights that g is made of. */
static void clear_cancelled(const Group *p, const Samples *of, Work *v, mask where)
{
    for (int64_t c = 0; c < p->k; c++) {
        vec *s = v->scores + c * of->n, size = all(0);
        for (int64_t i = 0; i < of->n; i++) size += magnitude(s[i]);
        for (int64_t j = 0; j < p->d; j++) {
            vec g = v->g[c * p->d + j];
            mask doubt = where & (magnitude(g) < size * p->doubtful[j]) & (g != 0);
            if (any(doubt)) clear_if_cancelled(p, of, v, c, j, doubt);
        }
    }
}

/* Gradients with an entry that may be zero, or a class row too small for the common scale. */
__attribute__((noinline)) static void look_closer(const Group *p, const Samples *of, Work *v)
{
    clear_cancelled(p, of, v, ~(mask){0});
    vec small = all(INFINITY);
    for (int64_t c = 0; c < p->k; c++) small = smaller(small, row_top(p, v->g, c));
    mask deep = small < *p->smallest_row;
    if (!any(deep)) return;
    deep_gradient(p, of, v, deep);
    clear_cancelled(p, of, v, deep);
}

/* What the weights of a sample are measured from but for `unit`, and the label's exponent (weigh); and `unit`. */
static void look_for_unit(const Group *p, const Samples *of, Work *v)
{
    vec unit = all(-INFINITY);
    for (int64_t i = 0; i < of->n; i++) {
        vec own, gap = top_of_others(p, of, v->scores + i, i, &own);
        gap -= own;
        vec excess = p->loss == EXPONENTIAL ? all(0) : larger(gap, all(0));
        v->from[i] = own + excess;
        v->at_label[i] = -excess;
        unit = larger(unit, gap - excess);
    }
    v->unit = unit;
}

/* Scores become weights in units of e^unit: those of sample i are e_c / q, and minus their sum at its label, where
 *
 *     e_c = e^(z_c - (z_y + excess + unit)), excess = max(max_c z_c - z_y, 0), unit = max_i min(max_c z_c - z_y, 0)
 *     q = e^-excess + e^unit sum_c e_c
 *
 * over c other than y: p_c e^-unit, for either no excess or `unit` is zero. (Exponential losses: no excess, unit = max_i max_c
 * z_c - z_y, q = 1.) One exponential a score: the label's makes e^-excess. Sums go by ascending c and i. */
static void weigh(const Group *p, const Samples *of, Work *v)
{
    const int64_t n = of->n, k = p->k;
    const vec unit = v->unit, scale = exponential(unit);
    vec all_samples = all(0);
    for (int64_t i = 0; i < n; i++) {
        const mask label = of->y[i];
        const vec from = v->from[i] + unit, of_label = v->at_label[i];
        vec *s = v->scores + i, size = all(0), own = all(1);
        for (int64_t c = 0; c < k; c++) {
            vec e = share_of(where_equal(label, c, of_label, s[c * n] - from));
            size = where_equal(label, c, size, size + e);
            own = where_equal(label, c, e, own);
            s[c * n] = e;
        }
        const vec share = p->loss == EXPONENTIAL ? all(1) : 1 / (own + scale * size), total = size * share;
        for (int64_t c = 0; c < k; c++) s[c * n] = where_equal(label, c, -total, s[c * n] * share);
        v->from[i] = size; /* for the loss: logarithms.h */
        all_samples += total;
    }
    v->total = all_samples;
}

/* Whether some entry may be zero without being it, or a class row is too small for the common scale: of data with zeros, whose
 * entries may well be zero, and features of any size. */
static int any_doubtful(const Group *p, const Work *v)
{
    mask found = {0};
    for (int64_t c = 0; c < p->k; c++) {
        vec top = all(0);
        for (int64_t j = 0; j < p->d; j++) {
            vec size = magnitude(v->g[c * p->d + j]);
            found |= (size < v->total * p->doubtful[j]) & (size != 0);
            top = larger(top, size);
        }
        found |= top < *p->smallest_row;
    }
    return any(found);
}

/* n e^-unit grad L of these samples into g, with `row` and `total` = n e^-unit sum of weights. Not inlined: the same samples give
 * the same bits wherever it is called. */
__attribute__((noinline)) static void gradient(const Group *p, const Samples *of, Work *v)
{
    v->log_n = of->log_n;
    all_scores(p, of, v);
    look_for_unit(p, of, v);
    weigh(p, of, v);
    weighted_sums(p, of, v, v->g);
    for (int64_t c = 0; c < p->k; c++) v->row[c] = all(0);
    /* No row's weights sum to more than the total. */
    if (p->entries ? any_doubtful(p, v) : any(least_entry(v->g, p->k * p->d) < v->total * v->most_doubtful)) look_closer(p, of, v);
}

/* The matrix sum w_ic (e_y - e_c) x_i^T, weights summing to one, into the certificates' average. */
static void collect(const Group *p, const Work *v, double share)
{
    for (int64_t c = 0; c < p->k; c++) {
        vec factor = exponential(v->row[c]) / v->total;
        for (int64_t e = c * p->d; e < (c + 1) * p->d; e++) p->certificate[e] += share * (-v->g[e] * factor - p->certificate[e]);
    }
}

static inline vec log_scale(const Work *v, int64_t c) { return v->row[c] + v->unit - v->log_n; }

#endif
