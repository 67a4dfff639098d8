/* Directions of steepest descent in l_p and Schatten norms, 1 < p < inf, in the log domain. norms/vectors.py: lp_direction_log;
 * norms/schatten.py. With q the conjugate exponent, ||g||_q is the dual norm, and u = (|g| / ||g||_q)^(q - 1) the size of an
 * entry. */

#ifndef POWERS_H
#define POWERS_H

#include "group.h"
#include "logarithms.h"

/* (sum_i e^(q l_i))^(1/q) for l_i <= 0, as its logarithm. */
static vec log_norm_of(const vec *logs, int64_t count, vec q)
{
    vec sum = all(0);
    for (int64_t e = 0; e < count; e++) sum += exponential(q * logs[e]);
    return logarithm(sum) / q;
}

/* l_p: the direction of a part into `to` (k, columns); returns its dual norm in units of e^unit. */
SHARED vec lp_direction(const Group *p, const Work *v, const Part *part, const vec *from, const vec *from_log, vec unit, vec *to)
{
    const int64_t columns = part->end - part->first, count = p->k * columns;
    const vec q = *p->dual_exponent, *signs = from + part->first;
    vec top = all(-INFINITY);
    for (int64_t c = 0; c < p->k; c++)
        for (int64_t j = 0; j < columns; j++) {
            const int64_t e = c * p->d + part->first + j;
            const vec size = magnitude(p->entries ? v->entry[e] : from[e]);
            to[c * columns + j] = logarithm(size) + ((p->entries ? v->entry_log[e] : from_log[c]) - unit);
            top = larger(top, to[c * columns + j]);
        }
    const vec known = choose(top > -INFINITY, top, all(0));
    for (int64_t e = 0; e < count; e++) to[e] -= known;
    const vec log_norm = log_norm_of(to, count, q);
    for (int64_t c = 0; c < p->k; c++)
        for (int64_t j = 0; j < columns; j++) {
            vec *u = to + c * columns + j, size = exponential((q - 1) * (*u - log_norm)), g = signs[c * p->d + j];
            *u = choose(g == 0, all(0), choose(g < 0, -size, size));
        }
    return choose(top > -INFINITY, exponential(known + log_norm), all(0));
}

/* Schatten: what the orthogonal rows of lengths s are to be multiplied by, s^(q - 1) / ||s||_q^(q - 1) over s where they are kept
 * (`inverse` is 1 / s there, else zero); returns ||s||_q. */
static vec schatten_sizes(int64_t rows, const vec *s, vec top, vec q, vec *inverse, vec *logs)
{
    const vec safe = choose(top > 0, top, all(1));
    for (int64_t a = 0; a < rows; a++) logs[a] = choose(inverse[a] > 0, logarithm(s[a] / safe), all(-INFINITY));
    const vec log_norm = log_norm_of(logs, rows, q);
    for (int64_t a = 0; a < rows; a++) inverse[a] *= exponential((q - 1) * (logs[a] - log_norm));
    return choose(top > 0, safe * exponential(log_norm), all(0));
}

#endif
