/* Mini-batches: the samples of a step, brought together. */

#ifndef BATCHES_H
#define BATCHES_H

#include "group.h"

/* Whether every lane has the samples index[0], index[0] + 1, ..., so that they lie in memory as they are to be used. */
static int consecutive(const int32_t *index, int64_t batch)
{
    for (int64_t i = 0; i < batch; i++)
        for (int l = 0; l < LANES; l++)
            if (index[i * LANES + l] != index[0] + i) return 0;
    return 1;
}

/* The samples of a step of a run alone; index as there. */
static Samples samples_of_one(const Group *p, Work *v, const int32_t *index)
{
    const Samples *whole = &p->samples;
    const int64_t n = vectors_of(p->batch);
    double *x = (double *)v->batch_x, *columns = (double *)v->batch_columns;
    for (int64_t i = 0; i < n * LANES; i++) {
        const int64_t from = index[least(i, p->batch - 1) * LANES + p->lane];
        const double *row = (const double *)(whole->x + from * p->d);
        if (i < p->batch) memcpy(x + i * p->d * LANES, row, p->d * sizeof(vec));
        for (int64_t j = 0; j < p->features; j++) columns[j * n * LANES + i] = row[j];
        ((int64_t *)v->batch_y)[i] = ((const int64_t *)whole->y)[from];
    }
    const Samples found = {p->batch, n, p->log_batch, v->batch_x, v->batch_columns, v->batch_y};
    return found;
}

/* The samples of a step; index (batch, LANES). */
static Samples samples_of(const Group *p, Work *v, const int32_t *index)
{
    if (p->alone) return samples_of_one(p, v, index);
    const Samples *whole = &p->samples;
    const int64_t d = p->d;
    Samples found = {p->batch, p->batch, p->log_batch, v->batch_x, NULL, v->batch_y};
    if (consecutive(index, p->batch)) {
        found.x = whole->x + index[0] * d, found.y = whole->y + index[0];
        return found;
    }
    for (int64_t i = 0; i < p->batch; i++, index += LANES) {
        const double *x[LANES];
        for (int l = 0; l < LANES; l++) {
            x[l] = (const double *)(whole->x + index[l] * d) + l;
            v->batch_y[i][l] = whole->y[index[l]][l];
        }
        for (int64_t j = 0; j < d; j++)
            for (int l = 0; l < LANES; l++) v->batch_x[i * d + j][l] = x[l][j * LANES];
    }
    return found;
}

#endif
