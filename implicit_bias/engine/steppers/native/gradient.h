/* Loss gradients of samples in the log domain, and the certificates' matrices made of them. From the equations of
 * models/linear.py and the losses. */

#ifndef GRADIENT_H
#define GRADIENT_H

#include "group.h"
#include "logarithms.h"
#include "products.h"

#define TILE 320 /* scores that stay in the first cache while they are made, or made into a gradient */
#define LEAST_SAMPLES 16

/* scores[c, i] = <w_c, x_i> for `count` samples from `first` on. */
static void scores_of(const Group *p, const Samples *of, Work *v, int64_t first, int64_t count)
{
    if (p->alone) {
        const double *numbers = (const double *)p->w;
        spread_product(p->k, count, 0, p->features, numbers, p->d * LANES, 1, of->columns + first, of->n, v->scores + first, of->n);
        return;
    }
    const Matrix w = {p->w, p->d, 1}, x = {(vec *)of->x, p->d, 1}, scores = {v->scores, of->n, 1};
    product(p->k, count, 0, p->d, w, transposed(part_of(x, first, 0)), part_of(scores, 0, first));
}

/* g_c (+)= sum_i weights[c, i] x_i over these samples. */
static void weighted_sum(const Group *p, const Samples *of, const Work *v, int64_t first, int64_t count, vec *g)
{
    if (p->alone) {
        const double *numbers = (const double *)(v->scores + first);
        const vec *x = of->x + first * LANES * p->d;
        const int64_t samples = least(count * LANES, of->count - first * LANES);
        spread_product(p->k, p->d, first > 0, samples, numbers, of->n * LANES, 1, x, p->d, g, p->d);
        return;
    }
    const Matrix weights = {v->scores, of->n, 1}, x = {(vec *)of->x, p->d, 1}, to = {g, p->d, 1};
    product(p->k, p->d, first > 0, count, part_of(weights, 0, first), part_of(x, first, 0), to);
}

static inline vec larger_of(const Group *p, vec top, vec a) { return p->alone ? larger_in_order(top, a) : larger(top, a); }

/* The largest |entry| of rows of `wide` vectors; and the least. */
static vec largest_in_rows(const Group *p, const vec *a, int64_t rows, int64_t wide)
{
    return p->alone ? largest_size_across(a, rows, wide, p->features) : largest_size(a, rows * wide);
}

static vec least_in_rows(const Group *p, const vec *a, int64_t rows, int64_t wide)
{
    return p->alone ? least_size_across(a, rows, wide, p->features) : least_size(a, rows * wide);
}

/* Number i of a row of weights. */
static inline vec weight_at(const Group *p, const vec *row, int64_t i) { return p->alone ? all(((const double *)row)[i]) : row[i]; }

/* Where sample i has the label c. */
static inline mask labelled(const Group *p, const Samples *of, int64_t i, int64_t c)
{
    return p->alone ? (mask){0} - (((const int64_t *)of->y)[i] == c) : of->y[i] == c;
}

/* The label of sample i where all lanes have one; else -1. */
static inline int64_t shared_label(const Samples *of, int64_t i)
{
    const int64_t label = ((const int64_t *)(of->y + i))[0];
    return any(of->y[i] ^ label) ? -1 : label;
}

/* Sample i's score of its label in lane l. */
static inline double *label_score(const Samples *of, const Work *v, int64_t i, int l)
{
    return (double *)(v->scores + of->y[i][l] * of->n + i) + l;
}

/* Scores of labels move into `own` and become -infinity: at once where lanes share a label, else a lane at a time, which costs less
 * than to ask of each score whether it is one. Not at once before the same scores are read as vectors: these would have to wait. */
static void take_own(const Samples *of, Work *v, int64_t first, int64_t count)
{
    for (int64_t i = first; i < first + count; i++) {
        const int64_t label = shared_label(of, i);
        if (label >= 0) {
            vec *at = v->scores + label * of->n + i;
            v->own[i] = *at;
            *at = all(-INFINITY);
        } else {
            for (int l = 0; l < LANES; l++) {
                double *at = label_score(of, v, i, l);
                v->own[i][l] = *at;
                *at = -INFINITY;
            }
        }
    }
}

/* Minus the sum of the weights of sample i, at its label. */
static inline void put_own(const Samples *of, Work *v, int64_t i, vec sum)
{
    const int64_t label = shared_label(of, i);
    if (label >= 0) v->scores[label * of->n + i] = -sum;
    else for (int l = 0; l < LANES; l++) *label_score(of, v, i, l) = -sum[l];
}

/* The largest score of sample i but its label's, by two that do not wait for each other. */
static inline vec top_of_others(const Group *p, const Samples *of, const Work *v, int64_t i)
{
    const vec *s = v->scores + i;
    vec even = s[0], odd = all(-INFINITY);
    int64_t c = 1;
    for (; c + 1 < p->k; c += 2) {
        odd = larger(odd, s[c * of->n]);
        even = larger(even, s[(c + 1) * of->n]);
    }
    return larger(even, c < p->k ? larger(odd, s[c * of->n]) : odd);
}

/* The logarithms of the samples' weights, of their sum at the label, in place of scores. */
static void log_weights(const Group *p, const Samples *of, Work *v)
{
    scores_of(p, of, v, 0, of->n);
    take_own(of, v, 0, of->n);
    for (int64_t i = 0; i < of->n; i++) {
        vec *s = v->scores + i, own_log, others, top = top_of_others(p, of, v, i), size = all(0);
        for (int64_t c = 0; c < p->k; c++) size += share_of(s[c * of->n] - top); /* the label's e^FLOOR is nothing beside 1 */
        top -= v->own[i];
        for (int l = 0; l < LANES; l++) {
            double a = top[l] + log(size[l]), tail = log1p(exp(-fabs(a)));
            /* log of a weight is u_c - others; of their sum own_log. */
            others[l] = p->loss == EXPONENTIAL ? 0 : fmax(a, 0) + tail;
            own_log[l] = p->loss == EXPONENTIAL ? a : fmin(a, 0) - tail;
        }
        for (int64_t c = 0; c < p->k; c++)
            s[c * of->n] = choose(of->y[i] == c, own_log, s[c * of->n] - v->own[i] - others);
    }
}

/* Gradients with one scale a class row, of all lanes; kept where `deep`. models/linear.py: _deep. */
__attribute__((noinline)) static void deep_gradient(const Group *p, const Samples *of, Work *v, mask deep)
{
    log_weights(p, of, v);
    for (int64_t c = 0; c < p->k; c++) {
        vec *s = v->scores + c * of->n, top = all(-INFINITY);
        for (int64_t i = 0; i < of->n; i++) top = larger_of(p, top, s[i]);
        if (p->alone) top = largest_across(top);
        for (int64_t i = 0; i < of->n; i++) {
            vec weight = share_of(s[i] - top);
            s[i] = choose(of->y[i] == c, -weight, weight);
        }
        v->row[c] = choose(deep, top - v->unit, all(0));
    }
    weighted_sum(p, of, v, 0, of->n, v->factor);
    for (int64_t e = 0; e < p->k * p->d; e++) v->g[e] = choose(deep, v->factor[e], v->g[e]);
}

/* Entry (c, j) of g, summed anew with the errors of all additions made up for: exactly zero where no more is left than CANCELLED
 * of the sum of the contributions' absolute values. models/linear.py: _with_zeros. */
static void clear_if_cancelled(const Group *p, const Samples *of, Work *v, int64_t c, int64_t j, mask doubt)
{
    vec sum = all(0), error = all(0), size = all(0);
    for (int64_t i = 0; i < of->count; i++) {
        vec part = weight_at(p, v->scores + c * of->n, i) * of->x[i * p->d + j], next = sum + part, added = next - sum;
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
        for (int64_t i = 0; i < of->count; i++) size += magnitude(weight_at(p, s, i));
        for (int64_t j = 0; j < p->d; j++) {
            vec g = v->g[c * p->d + j];
            mask doubt = where & (magnitude(g) < size * p->doubtful[j]) & (g != 0);
            if (any(doubt)) clear_if_cancelled(p, of, v, c, j, doubt);
        }
    }
}

/* Gradients with an entry that may be zero, or a class row too small for the common scale, of the lanes `where`. */
__attribute__((noinline)) static void look_closer(const Group *p, const Samples *of, Work *v, mask where)
{
    clear_cancelled(p, of, v, where);
    vec small = all(INFINITY);
    for (int64_t c = 0; c < p->k; c++) small = smaller(small, largest_in_rows(p, v->g + c * p->d, 1, p->d));
    mask deep = where & (small < *p->smallest_row);
    if (!any(deep)) return;
    deep_gradient(p, of, v, deep);
    clear_cancelled(p, of, v, deep);
}

/* The largest gap of every sample to its label, and with it `unit`; from -infinity on. */
static void look_for_unit(const Group *p, const Samples *of, Work *v, int64_t first, int64_t count)
{
    vec unit = v->unit;
    for (int64_t i = first; i < first + count; i++) {
        vec gap = top_of_others(p, of, v, i) - v->own[i];
        v->gap[i] = gap;
        unit = larger_of(p, unit, p->loss == EXPONENTIAL ? gap : smaller(gap, all(0)));
    }
    v->unit = unit;
}

/* What the weights of sample i are to be multiplied by: one over q (weigh), `size` the sum of its e_c; and its loss. */
static inline vec share_out(const Group *p, Work *v, int64_t i, vec scale, vec size)
{
    if (p->loss == EXPONENTIAL) return all(1);
    const vec excess = larger(v->gap[i], all(0)), own = any(excess > 0) ? share_of(-excess) : all(1);
    if (p->asks_loss) v->losses[i] = sample_loss(excess, own, scale * size);
    return 1 / fused(scale, size, own);
}

/* weigh() of a few samples. */
__attribute__((always_inline)) static inline void weigh_few(
    const int samples, const Group *p, const Samples *of, Work *v, int64_t first, vec scale)
{
    vec from[ABREAST], size[ABREAST], share[ABREAST], *s = v->scores + first;
    for (int i = 0; i < samples; i++) {
        const vec excess = p->loss == EXPONENTIAL ? all(0) : larger(v->gap[first + i], all(0));
        from[i] = (v->own[first + i] + excess) + v->unit, size[i] = all(0);
    }
    for (int64_t c = 0; c < p->k; c++, s += of->n) {
        shares_of(samples, from, s);
        for (int i = 0; i < samples; i++) size[i] += s[i]; /* the label's e^FLOOR is nothing beside the largest that counts */
    }
    for (int i = 0; i < samples; i++) {
        const int64_t left = of->count - (first + i) * LANES;
        share[i] = share_out(p, v, first + i, scale, size[i]);
        v->size[first + i] = size[i] *= share[i];
        v->total = p->alone ? all(added_in_order(v->total[0], size[i], least(LANES, left))) : v->total + size[i];
    }
    s = v->scores + first;
    for (int64_t c = 0; c < p->k; c++, s += of->n)
        for (int i = 0; i < samples; i++) s[i] *= share[i];
    for (int i = 0; i < samples; i++) put_own(of, v, first + i, size[i]);
}

/* Scores become weights in units of e^unit, and add to `total`: those of sample i are e_c / q, and minus their sum at its label,
 * where
 *
 *     e_c = e^(z_c - (z_y + excess + unit)), excess = max(max_c z_c - z_y, 0), unit = max_i min(max_c z_c - z_y, 0)
 *     q = e^-excess + e^unit sum_c e_c
 *
 * over c other than y: p_c e^-unit, for either no excess or `unit` is zero. (Exponential losses: no excess, unit = max_i max_c
 * z_c - z_y, q = 1.) One exponential a score, and one a sample that is not classified rightly. Sums go by ascending c and i. The sum
 * of a sample's weights at its label is left in `size`. */
static void weigh(const Group *p, const Samples *of, Work *v, int64_t first, int64_t count)
{
    const vec scale = exponential(v->unit);
    int64_t i = first;
    for (; i + ABREAST <= first + count; i += ABREAST) weigh_few(ABREAST, p, of, v, i, scale);
    for (; i < first + count; i++) weigh_few(1, p, of, v, i, scale);
}

/* The lanes in which some entry may be zero without being it, or a class row is too small for the common scale: of data with zeros, whose
 * entries may well be zero, and features of any size. */
static mask doubtful_entries(const Group *p, const Work *v)
{
    mask found = {0};
    for (int64_t c = 0; c < p->k; c++) {
        for (int64_t j = 0; j < p->d; j++) {
            vec size = magnitude(v->g[c * p->d + j]);
            found |= (size < v->total * p->doubtful[j]) & (size != 0);
        }
        found |= largest_in_rows(p, v->g + c * p->d, 1, p->d) < *p->smallest_row;
    }
    return p->alone && any(found) ? ~(mask){0} : found;
}

/* The lanes in which a score of these samples is no finite number, beside those known before. */
static void look_for_far(const Group *p, const Samples *of, Work *v, int64_t first, int64_t count)
{
    for (int64_t c = 0; c < p->k; c++)
        for (int64_t i = first; i < first + count; i++) {
            const vec s = v->scores[c * of->n + i];
            v->far |= (s - s) != 0;
        }
}

/* n e^-unit grad L of these samples into g, with `row` and `total` = n e^-unit sum of weights. Not inlined: the same samples give
 * the same bits wherever it is called. */
__attribute__((noinline)) static void gradient(const Group *p, const Samples *of, Work *v)
{
    const int64_t n = of->n, most = p->k * LEAST_SAMPLES < TILE ? TILE / p->k : LEAST_SAMPLES;
    v->log_n = of->log_n, v->unit = all(-INFINITY), v->total = all(0);
    for (int64_t i = 0, count; i < n; i += count) {
        count = next_block(n - i, most);
        scores_of(p, of, v, i, count);
        if (v->looks) look_for_far(p, of, v, i, count);
        take_own(of, v, i, count);
        look_for_unit(p, of, v, i, count);
    }
    if (p->alone) v->unit = largest_across(v->unit);
    for (int64_t i = 0, count; i < n; i += count) {
        count = next_block(n - i, most);
        weigh(p, of, v, i, count);
        weighted_sum(p, of, v, i, count, v->g);
    }
    for (int64_t c = 0; c < p->k; c++) v->row[c] = all(0);
    /* No row's weights sum to more than the total. */
    mask doubt;
    if (p->entries) doubt = doubtful_entries(p, v);
    else doubt = least_in_rows(p, v->g, p->k, p->d) < v->total * v->most_doubtful;
    if (any(doubt)) look_closer(p, of, v, doubt);
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
