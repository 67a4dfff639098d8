/* Directions of steepest descent, of all columns or part by part, and the step that is made of them. norms/ and
 * optimizers/descent.py. */

#ifndef DIRECTIONS_H
#define DIRECTIONS_H

#include "decompositions.h"
#include "gradient.h"
#include "one_matrix.h"
#include "one_polar.h"
#include "powers.h"

static vec largest_of(const vec *numbers, int64_t count)
{
    vec top = numbers[0];
    for (int64_t i = 1; i < count; i++) top = larger(top, numbers[i]);
    return top;
}

/* A part of `from`, with log scales `from_log`, in units of its largest entry, which is returned in units of e^unit. */
static vec plain(const Group *p, const Part *part, const vec *from, const vec *from_log, vec unit, vec *to)
{
    const int64_t columns = part->end - part->first;
    for (int64_t c = 0; c < p->k; c++) {
        const vec factor = exponential(from_log[c] - unit), *row = from + c * p->d + part->first;
        for (int64_t j = 0; j < columns; j++) to[c * columns + j] = factor * row[j];
    }
    const vec top = largest_in_rows(p, to, p->k, columns);
    vec inverse = 1 / choose(top > 0, top, all(1));
    for (int64_t e = 0; e < p->k * columns; e++) to[e] *= inverse;
    return top;
}

/* eps in units of e^log_unit. */
static inline vec eps_in(const Group *p, vec log_unit)
{
    return choose(*p->log_eps == -INFINITY, all(0), exponential(*p->log_eps - log_unit));
}

/* Whether dual norms are asked for. */
static inline int sized(const Group *p) { return p->by_dual || p->outer == OUTER_L2; }

static inline vec sign(vec a) { return choose(a == 0, all(0), choose(a < 0, all(-1), all(1))); }

static vec signs(const Group *p, const Part *part, const vec *from, const vec *from_log, vec unit, vec *to)
{
    const int64_t columns = part->end - part->first;
    vec dual = all(0);
    for (int64_t c = 0; c < p->k; c++) {
        const vec *row = from + c * p->d + part->first;
        vec size = all(0);
        for (int64_t j = 0; j < columns; j++) to[c * columns + j] = sign(row[j]);
        if (!sized(p)) continue;
        if (p->alone) size = all(sum_of_magnitudes((const double *)row, p->features));
        else for (int64_t j = 0; j < columns; j++) size += magnitude(row[j]);
        dual += size * exponential(from_log[c] - unit);
    }
    return dual;
}

static vec largest_entry(const Group *p, const Part *part, const vec *from, const vec *from_log, vec unit, vec *to)
{
    const int64_t columns = part->end - part->first;
    const vec dual = plain(p, part, from, from_log, unit, to);
    if (p->alone) {
        largest_entry_of_one((double *)to, p->k, p->features, columns * LANES);
        return dual;
    }
    vec top = all(0), first = all(-1);
    for (int64_t e = 0; e < p->k * columns; e++) {
        mask higher = magnitude(to[e]) > top;
        first = choose(higher, all(e), first);
        top = larger(top, magnitude(to[e]));
    }
    for (int64_t e = 0; e < p->k * columns; e++)
        to[e] = choose(first == (double)e, choose(to[e] < 0, all(-1), all(1)), all(0));
    return dual;
}

static vec unit_rows(const Group *p, const Part *part, const vec *from, const vec *from_log, vec unit, vec *to, vec *divide)
{
    const int64_t columns = part->end - part->first;
    vec dual = all(0);
    for (int64_t c = 0; c < p->k; c++) {
        const vec *given = from + c * p->d + part->first;
        vec *row = to + c * columns, top = largest_in_rows(p, given, 1, columns);
        vec inverse = 1 / choose(top > 0, top, all(1));
        for (int64_t j = 0; j < columns; j++) row[j] = given[j] * inverse;
        vec size = root(p->alone ? all(dot_across((const double *)row, (const double *)row, p->features)) : dot(row, row, columns));
        divide[c] = choose(size > 0, size, all(1));
        if (sized(p)) dual += size * top * exponential(from_log[c] - unit);
    }
    return dual;
}

/* Each column in units of its own largest scale. */
static vec unit_columns(const Group *p, const Work *v, const Part *part, const vec *from, const vec *from_log, vec unit, vec *to)
{
    const int64_t k = p->k, columns = part->end - part->first;
    vec dual = all(0);
    for (int64_t j = 0; j < columns; j++) {
        const int64_t at = part->first + j;
        const vec *g = (p->entries ? v->entry : from) + at, *logs = p->entries ? v->entry_log + at : from_log;
        const int64_t next = p->entries ? p->d : 1; /* from one row's log scale to the next's */
        vec top = all(-INFINITY), largest = all(0), square = all(0);
        for (int64_t c = 0; c < k; c++) top = larger(top, choose(g[c * p->d] == 0, all(-INFINITY), logs[c * next]));
        top = choose(top > -INFINITY, top, all(0));
        for (int64_t c = 0; c < k; c++) {
            to[c * columns + j] = g[c * p->d] * exponential(logs[c * next] - top);
            largest = larger(largest, magnitude(to[c * columns + j]));
        }
        const vec inverse = 1 / choose(largest > 0, largest, all(1));
        for (int64_t c = 0; c < k; c++) {
            to[c * columns + j] *= inverse;
            square += to[c * columns + j] * to[c * columns + j];
        }
        const vec size = root(square), of_size = 1 / choose(size > 0, size, all(1));
        for (int64_t c = 0; c < k; c++) to[c * columns + j] *= of_size;
        if (sized(p)) dual += size * largest * exponential(top - unit);
    }
    return dual;
}

/* The direction of steepest descent of a part, its rows times `divide`, into `to` (k, columns); returns the dual norm in units
 * of e^unit (Newton-Schulz has none). */
static vec direction(const Group *p, Work *v, const Part *part, const vec *from, const vec *from_log, vec unit, vec *to, vec *divide)
{
    const int64_t k = p->k, columns = part->end - part->first;
    for (int64_t c = 0; c < k; c++) divide[c] = all(1);
    switch (part->kind) {
    case SIGN: return signs(p, part, from, from_log, unit, to);
    case COORDINATE: return largest_entry(p, part, from, from_log, unit, to);
    case LP: return lp_direction(p, v, part, from, from_log, unit, to);
    case COLUMNS: return unit_columns(p, v, part, from, from_log, unit, to);
    case ROWS: return unit_rows(p, part, from, from_log, unit, to, divide);
    default: break;
    }
    vec top = plain(p, part, from, from_log, unit, to);
    if (part->kind == NEWTON_SCHULZ) {
        vec eps = eps_in(p, unit) / choose(top > 0, top, all(1));
        if (p->alone) newton_schulz_of_one(p, v, eps, to);
        else newton_schulz(v, k, columns, p->iterations, p->coefficients, eps, to);
        return top;
    }
    if (part->kind != NORMALISED) {
        if (p->alone) return top * polar_of_one_in_row_space(p, v, part->kind == RANK_ONE, to);
        return top * polar_in_row_space(v, k, columns, part->kind, *p->dual_exponent, to);
    }
    vec size = root(p->alone ? sum_of_squares(to, k, p->features, v->reduced) : dot(to, to, k * columns));
    for (int64_t c = 0; c < k; c++) divide[c] = choose(size > 0, size, all(1));
    return top * size;
}

/* w -= size direction of a part, its rows over `divide`. */
static void move(const Group *p, const Part *part, const vec *direction_of, const vec *divide, vec size)
{
    const int64_t columns = part->end - part->first;
    for (int64_t c = 0; c < p->k; c++) {
        const vec row_size = size / divide[c], *row = direction_of + c * columns;
        vec *w = p->w + c * p->d + part->first;
        for (int64_t j = 0; j < columns; j++) w[j] -= row_size * row[j];
    }
}

/* The parts' dual norms over their weights, in units of the e^unit returned, and into *whole the dual of their product. */
static vec product_dual(const Group *p, Work *v, vec *whole)
{
    const vec unit = largest_of(v->dual_log, p->parts);
    vec sum = all(0);
    for (int64_t b = 0; b < p->parts; b++) {
        v->dual[b] *= exponential(v->dual_log[b] - unit) / p->part[b].weight;
        sum += p->outer == OUTER_L2 ? v->dual[b] * v->dual[b] : v->dual[b];
    }
    *whole = p->outer == OUTER_L2 ? root(sum) : sum;
    return unit;
}

/* A step in the product of the parts' norms. norms/blocks.py: ProductNorm; optimizers/base.py: steepest. */
static void steepest(const Group *p, Work *v, const vec *from, const vec *from_log, vec eta)
{
    vec *to = v->direction, *divide = v->divide, divisor = exponential(-v->log_divisor), size = eta * divisor, whole = all(1);
    for (int64_t b = 0; b < p->parts; b++) {
        const Part *part = p->part + b;
        const vec unit = largest_of(from_log, p->k);
        v->dual_log[b] = choose(unit == -INFINITY, all(0), unit);
        v->dual[b] = direction(p, v, part, from, from_log, v->dual_log[b], to, divide);
        to += p->k * (part->end - part->first), divide += p->k;
    }
    if (sized(p)) {
        vec unit = product_dual(p, v, &whole);
        if (p->by_dual) size = eta * smaller(whole * exponential(unit - v->log_divisor), p->clip * divisor);
        whole = choose(whole > 0, whole, all(1));
    }
    to = v->direction, divide = v->divide;
    for (int64_t b = 0; b < p->parts; b++) {
        const Part *part = p->part + b;
        vec share = p->outer == OUTER_L2 ? v->dual[b] / whole : all(1);
        move(p, part, to, divide, size * share / part->weight);
        to += p->k * (part->end - part->first), divide += p->k;
    }
}

static void descend(const Group *p, Work *v, const vec *from, const vec *from_log, vec eta)
{
    if (p->rule != GRADIENT) {
        steepest(p, v, from, from_log, eta);
        return;
    }
    for (int64_t c = 0; c < p->k; c++) {
        vec size = eta * exponential(from_log[c] - v->log_divisor);
        for (int64_t e = c * p->d; e < (c + 1) * p->d; e++) p->w[e] -= size * from[e];
    }
}

#endif
