/* What a record says of a group, or of a run alone: loss, gradient and gaps of all samples where the next step starts.
 *
 * Numbers are written run after run, as PyTorch has them. */

#ifndef RECORDS_H
#define RECORDS_H

#include "entries.h"
#include "gradient.h"
#include "group.h"
#include "logarithms.h"

/* Where it is written, for all runs of a batch. */
typedef struct {
    double *w;                       /* (runs, k, features) */
    double *gradient, *gradient_log; /* the same, and its log scales: (runs, k), or by entry */
    double *per_weight;              /* (runs, k, features): -grad L / sum w */
    double *total, *log_unit;        /* (runs, n), (runs): sum_c w_ic = total e^log_unit */
    double *log_loss;                /* (runs): log L */
    double *accuracy, *margin;       /* (runs): the share of samples with positive gaps; the smallest gap */
    double *largest, *parameter;     /* (runs): the largest |entry| of per_weight, and of w; NaN where one is not finite */
    double *average;                 /* (runs, k, features): of the certificates' matrices, with that there; NULL: not asked for */
} Seen;

/* A group of runs, or a run alone, that makes updates by itself. */
typedef struct {
    Group group;
    const vec *lr, *power;      /* of its step sizes */
    int64_t place, first, runs; /* its group among those of the batch; its first run; how many it has */
} Task;

/* What a call is to do. */
typedef struct {
    int64_t tasks, first, steps, seen, watched; /* updates first + 1, ..., first + steps of so many tasks; the rest: advance() */
    const double *share;
    const int32_t *index; /* NULL where updates are made from all samples; of a group so many: */
    int64_t index_size;
    const Seen *look; /* NULL where no record follows */
    double look_share;
} Call;

/* The smallest gap and the share of samples whose gaps are all positive, from the gaps that the gradient was made of; in the lanes
 * returned some score is no finite number. */
static mask look_at_gaps(const Group *p, const Samples *of, const Work *v, vec *margin, vec *accuracy)
{
    vec top = all(-INFINITY), right = all(0);
    for (int64_t i = 0; i < of->n; i++) {
        vec counts = choose(v->gap[i] < 0, all(1), all(0));
        if (p->alone)
            for (int64_t l = of->count - i * LANES; l < LANES; l++) counts[l] = 0; /* filled up by the last */
        top = larger(top, v->gap[i]);
        right += counts;
    }
    if (p->alone) {
        double sum = 0;
        for (int l = 0; l < LANES; l++) sum += right[l];
        top = largest_across(top), right = all(sum);
    }
    *margin = -top, *accuracy = right / (double)of->count;
    return p->alone && any(v->far) ? ~(mask){0} : v->far;
}

/* Number e of a run's rows of `across` vectors each, row c: of lane l, or of the run alone. */
static inline double number_of(const Group *p, const vec *rows, int64_t across, int64_t c, int64_t e, int64_t l)
{
    return p->alone ? ((const double *)(rows + c * across))[e] : rows[c * across + e][l];
}

/* -grad L / sum w into `to` (k, d). In the unit of the scales, so that it is exact however small the loss is. */
static void per_weight(const Group *p, const Work *v, vec *to)
{
    const vec unit = v->unit - v->log_n;
    for (int64_t c = 0; c < p->k; c++) {
        const vec factor = exponential(log_scale(v, c) - unit) / v->total;
        for (int64_t e = c * p->d; e < (c + 1) * p->d; e++)
            to[e] = -v->g[e] * (p->entries ? exponential(v->g_log[e] - unit) / v->total : factor);
    }
}

/* The largest |entry| of a matrix, which comparisons lose where it is no number: NaN where some entry is not finite. */
static vec largest_or_none(const Group *p, const vec *c)
{
    mask far = {0};
    for (int64_t e = 0; e < p->k * p->d; e++) far |= (c[e] - c[e]) != 0;
    if (p->alone) far = any(far) ? ~(mask){0} : far;
    return choose(far, all(NAN), largest_in_rows(p, c, p->k, p->d));
}

/* The rows of a run. */
static void write_rows(const Group *p, const vec *from, int64_t l, double *to)
{
    for (int64_t c = 0; c < p->k; c++)
        for (int64_t j = 0; j < p->features; j++) *to++ = number_of(p, from, p->d, c, j, l);
}

/* Of `runs` runs of a group from its first on, or of the one that is alone, which are runs `first`, ... of the batch. The
 * certificates' average takes the gradient in with the weight `share`. */
static void look_at(const Group *p, Work *v, double share, int64_t first, int64_t runs, const Seen *to)
{
    const Samples *of = &p->samples;
    const int64_t size = p->k * p->features;
    vec margin, accuracy;
    v->looks = 1, v->far = (mask){0};
    evaluate(p, of, v);
    const mask far = look_at_gaps(p, of, v, &margin, &accuracy);
    const vec loss = choose(far, all(NAN), log_loss(p, of, v));
    if (share != 0) (p->entries ? collect_by_entry : collect)(p, v, share);
    per_weight(p, v, v->factor);
    const vec largest = largest_or_none(p, v->factor), parameter = largest_or_none(p, p->w);
    for (int64_t l = 0; l < runs; l++) {
        const int64_t r = first + l, lane = p->alone ? 0 : l;
        write_rows(p, p->w, l, to->w + r * size);
        write_rows(p, v->g, l, to->gradient + r * size);
        write_rows(p, v->factor, l, to->per_weight + r * size);
        if (to->average) write_rows(p, p->certificate, l, to->average + r * size);
        if (p->entries) write_rows(p, v->g_log, l, to->gradient_log + r * size);
        else for (int64_t c = 0; c < p->k; c++) to->gradient_log[r * p->k + c] = log_scale(v, c)[lane];
        for (int64_t i = 0; i < of->count; i++) to->total[r * of->count + i] = number_of(p, v->size, of->n, 0, i, l);
        to->log_unit[r] = v->unit[lane], to->log_loss[r] = loss[lane];
        to->margin[r] = far[lane] ? NAN : margin[lane], to->accuracy[r] = accuracy[lane];
        to->largest[r] = largest[lane], to->parameter[r] = parameter[lane];
    }
}

#endif
