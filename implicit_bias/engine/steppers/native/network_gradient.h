/* Scores and gradients of one run: models/mlp.py. */

#ifndef NETWORK_GRADIENT_H
#define NETWORK_GRADIENT_H

#include "network_activations.h"
#include "network_scores.h"

/* Terms of the products whose long side is features, or samples, at a time. */
#define FEATURES_AT_A_TIME 1024
#define SAMPLES_AT_A_TIME 32

/* What a layer is applied to, and the numbers from one sample's to the next's. */
static const double *inputs_of(const Network *p, const Room *v, int64_t run, int64_t j, int64_t *stride)
{
    *stride = j ? vectors_of(p->layer[j].inputs) * LANES : p->features;
    return j ? (const double *)v->value[j - 1] : p->x + run * p->x_run;
}

/* The scores, which are by samples, by outputs. */
static void scores_by_output(const Network *p, Room *v)
{
    const int64_t k = p->layer[p->layers - 1].units, n = vectors_of(p->samples), stride = vectors_of(k) * LANES;
    const double *scores = (const double *)v->kept[p->layers - 1];
    for (int64_t c = 0; c < k; c++)
        for (int64_t i = 0; i < n; i++)
            for (int l = 0; l < LANES; l++) v->u[c * n + i][l] = scores[sample_in(p, i, l) * stride + c];
}

/* And what is pulled back through them, by samples. */
static void derivative_by_sample(const Network *p, Room *v)
{
    const int64_t k = p->layer[p->layers - 1].units, n = vectors_of(p->samples) * LANES, stride = vectors_of(k) * LANES;
    double *to = (double *)v->here;
    memset(to, 0, p->samples * stride * sizeof(double));
    for (int64_t c = 0; c < k; c++)
        for (int64_t i = 0; i < p->samples; i++) to[i * stride + c] = ((const double *)v->u)[c * n + i];
}

static void forward(const Network *p, Room *v, int64_t run)
{
    const vec slope = all(p->slope[run]);
    for (int64_t j = 0; j < p->layers; j++) {
        const Layer layer = layer_of(p, j, run);
        const int64_t wide = vectors_of(layer.units);
        int64_t stride;
        const double *h = inputs_of(p, v, run, j, &stride);
        product_in_pieces(p->samples, wide, layer.inputs, FEATURES_AT_A_TIME, h, stride, 1, layer.w, v->kept[j]);
        if (j + 1 < p->layers) activate(p->activation, slope, p->samples * wide, v->kept[j], v->value[j]);
    }
    scores_by_output(p, v);
}

/* The gradient of every layer, in units of e^unit / n, from the derivative in the scores. */
static void backward(const Network *p, Room *v, int64_t run)
{
    const vec slope = all(p->slope[run]);
    const int64_t first = first_trained(p);
    derivative_by_sample(p, v);
    for (int64_t j = p->layers - 1; j >= first; j--) {
        const Layer layer = layer_of(p, j, run);
        const int64_t wide = vectors_of(layer.units), inputs = vectors_of(layer.inputs);
        int64_t stride;
        const double *h = inputs_of(p, v, run, j, &stride);
        if (trained(p, j)) product_in_pieces(layer.inputs, wide, p->samples, SAMPLES_AT_A_TIME, h, 1, stride, v->here, v->g[j]);
        if (j == first) break;
        transpose_across((const double *)layer.w, layer.inputs, layer.units, wide * LANES, (double *)v->back, inputs * LANES);
        product_in_pieces(p->samples, inputs, layer.units, FEATURES_AT_A_TIME, (double *)v->here, wide * LANES, 1, v->back, v->before);
        through_activation(p->activation, slope, p->samples * inputs, v->kept[j - 1], v->before);
        vec *swap = v->here;
        v->here = v->before, v->before = swap;
    }
}

/* Whether an entry is so small that weights which have been cut may matter for it; or a sigmoid, whose exponential is cut, too. */
static int doubtful(const Network *p, const Room *v)
{
    if (p->activation != SIGMOID && !(v->least[0] < SMALL_ENTRY)) return 0;
    mask found = {0};
    for (int64_t j = 0; j < p->layers; j++)
        for (int64_t e = 0; trained(p, j) && e < vectors_in(p->layer + j); e++) {
            const vec size = magnitude(v->g[j][e]);
            found |= (size > 0) & (size < SMALL_ENTRY);
        }
    return any(found);
}

#endif
