/* Scores and gradients of one run: models/mlp.py. */

#ifndef NETWORK_GRADIENT_H
#define NETWORK_GRADIENT_H

#include "network_scores.h"

/* Terms of the products whose long side is features, or samples, at a time. */
#define FEATURES_AT_A_TIME 1024
#define SAMPLES_AT_A_TIME 32

/* What is kept of outputs, in their place, and the activation. */
static void activate(int64_t activation, vec slope, int64_t count, vec *kept, vec *value)
{
    switch (activation) {
    case RELU:
        for (int64_t e = 0; e < count; e++) kept[e] = larger(kept[e], all(0));
        break;
    case SQUARED_RELU:
        for (int64_t e = 0; e < count; e++) kept[e] = larger(kept[e], all(0)), value[e] = kept[e] * kept[e];
        break;
    case QUADRATIC:
        for (int64_t e = 0; e < count; e++) value[e] = kept[e] * kept[e];
        break;
    case LEAKY_RELU:
        for (int64_t e = 0; e < count; e++) kept[e] = choose(kept[e] > 0, kept[e], slope * kept[e]);
        break;
    default: /* LINEAR */
        break;
    }
}

/* g <- g s'(z). A leaky ReLU's value has the sign of its argument. */
static void through_activation(int64_t activation, vec slope, int64_t count, const vec *kept, vec *g)
{
    switch (activation) {
    case RELU:
        for (int64_t e = 0; e < count; e++) g[e] = choose(kept[e] > 0, g[e], all(0));
        break;
    case SQUARED_RELU:
    case QUADRATIC:
        for (int64_t e = 0; e < count; e++) g[e] = 2 * (g[e] * kept[e]);
        break;
    case LEAKY_RELU:
        for (int64_t e = 0; e < count; e++) g[e] = choose(kept[e] > 0, g[e], slope * g[e]);
        break;
    default:
        break;
    }
}

/* What a layer is applied to, and the numbers from one sample's to the next's. */
static const double *inputs_of(const Network *p, const Room *v, int64_t run, int64_t j, int64_t *stride)
{
    *stride = j ? vectors_of(p->layer[j].inputs) * LANES : p->features;
    return j ? (const double *)v->value[j - 1] : p->x + run * p->x_run;
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
}

/* The gradient of every layer, in units of e^unit / n, from the derivative in the scores. */
static void backward(const Network *p, Room *v, int64_t run)
{
    const vec slope = all(p->slope[run]);
    for (int64_t j = p->layers - 1; j >= 0; j--) {
        const Layer layer = layer_of(p, j, run);
        const int64_t wide = vectors_of(layer.units), inputs = vectors_of(layer.inputs);
        int64_t stride;
        const double *h = inputs_of(p, v, run, j, &stride);
        product_in_pieces(layer.inputs, wide, p->samples, SAMPLES_AT_A_TIME, h, 1, stride, v->here, v->g[j]);
        if (!j) break;
        transpose_across((const double *)layer.w, layer.inputs, layer.units, wide * LANES, (double *)v->back, inputs * LANES);
        product_in_pieces(p->samples, inputs, layer.units, FEATURES_AT_A_TIME, (double *)v->here, wide * LANES, 1, v->back, v->before);
        through_activation(p->activation, slope, p->samples * inputs, v->kept[j - 1], v->before);
        vec *swap = v->here;
        v->here = v->before, v->before = swap;
    }
}

/* Whether an entry is so small that weights which have been cut may matter for it. */
static int doubtful(const Network *p, const Room *v)
{
    if (!(v->least[0] < SMALL_ENTRY)) return 0;
    mask found = {0};
    for (int64_t j = 0; j < p->layers; j++)
        for (int64_t e = 0; e < vectors_in(p->layer + j); e++) {
            const vec size = magnitude(v->g[j][e]);
            found |= (size > 0) & (size < SMALL_ENTRY);
        }
    return any(found);
}

#endif
