/* A run alone, taken out of its lane of a group and put back: see across.h. */

#ifndef ALONE_H
#define ALONE_H

#include "across.h"
#include "group.h"

/* What every entry of a run shares. */
typedef struct {
    vec beta, gain, ahead_beta, ahead_gain, beta2, log_eps, decay, smallest_row, below;
    Part part;
} Held;

/* Vectors of memory that the arrays of a run alone take. */
static int64_t held_alone(int64_t k, int64_t d, int64_t entries)
{
    return (5 * k + 1) * vectors_of(d) + 2 * k * (entries ? vectors_of(d) : 1);
}

/* Rows of a lane as rows of whole vectors; returns what is behind them. */
static vec *rows_out(const vec *from, int64_t rows, int64_t features, int64_t lane, vec *to)
{
    const int64_t stride = vectors_of(features) * LANES;
    for (int64_t c = 0; c < rows; c++)
        for (int64_t j = 0; j < stride; j++) ((double *)to)[c * stride + j] = from[c * features + least(j, features - 1)][lane];
    return to + rows * vectors_of(features);
}

/* A vector's numbers: one of them may be written while another thread writes others, which an entry of the vector itself may not
 * (compilers may write all of it anew). */
static double *number_in(vec *v) { return (double *)v; }

static void rows_back(const vec *from, int64_t rows, int64_t features, int64_t lane, vec *to)
{
    const int64_t stride = vectors_of(features) * LANES;
    for (int64_t c = 0; c < rows; c++)
        for (int64_t j = 0; j < features; j++) number_in(to + c * features + j)[lane] = ((const double *)from)[c * stride + j];
}

/* Numbers of a lane, each as a vector; returns what is behind them. */
static vec *numbers_out(const vec *from, int64_t count, int64_t lane, vec *to)
{
    for (int64_t c = 0; c < count; c++) to[c] = all(from[c][lane]);
    return to + count;
}

static void numbers_back(const vec *from, int64_t count, int64_t lane, vec *to)
{
    for (int64_t c = 0; c < count; c++) number_in(to + c)[lane] = from[c][0];
}

/* Log scales of a buffer. */
static vec *scales_out(const Group *p, const vec *from, vec *to)
{
    return p->entries ? rows_out(from, p->k, p->features, p->lane, to) : numbers_out(from, p->k, p->lane, to);
}

static void scales_back(const Group *p, const vec *from, vec *to)
{
    if (p->entries) rows_back(from, p->k, p->features, p->lane, to);
    else numbers_back(from, p->k, p->lane, to);
}

/* The run in `p->lane`, held in `memory`, as `own`, a copy of the group. */
static void hold(const Group *p, vec *memory, Held *held, Group *own)
{
    const int64_t k = p->k, d = p->features, lane = p->lane;
    own->d = vectors_of(d);
#define TAKE_ROWS(name, rows) own->name = memory, memory = rows_out(p->name, rows, d, lane, memory)
    TAKE_ROWS(w, k);
    TAKE_ROWS(m, k);
    TAKE_ROWS(r, k);
    TAKE_ROWS(anchor, k);
    TAKE_ROWS(certificate, k);
    TAKE_ROWS(doubtful, 1);
#undef TAKE_ROWS
    own->m_log = memory, memory = scales_out(p, p->m_log, memory);
    own->r_log = memory, scales_out(p, p->r_log, memory);
#define TAKE_NUMBER(name) held->name = all((*p->name)[lane]), own->name = &held->name
    TAKE_NUMBER(beta);
    TAKE_NUMBER(gain);
    TAKE_NUMBER(ahead_beta);
    TAKE_NUMBER(ahead_gain);
    TAKE_NUMBER(beta2);
    TAKE_NUMBER(log_eps);
    TAKE_NUMBER(decay);
    TAKE_NUMBER(smallest_row);
    if (p->below) TAKE_NUMBER(below);
#undef TAKE_NUMBER
    if (p->parts) held->part = *p->part, held->part.end = own->d, own->part = &held->part;
}

/* Back into its lane. */
static void give_back(const Group *p, const Group *own)
{
    const int64_t k = p->k, d = p->features, lane = p->lane;
    vec *const to[] = {p->w, p->m, p->r, p->anchor, p->certificate};
    const vec *const from[] = {own->w, own->m, own->r, own->anchor, own->certificate};
    for (int i = 0; i < 5; i++) rows_back(from[i], k, d, lane, to[i]);
    scales_back(p, own->m_log, p->m_log);
    scales_back(p, own->r_log, p->r_log);
}

#endif
