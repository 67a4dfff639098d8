/* A fully connected network as network.c gets it, and its scratch memory. network_structures.py has the same fields in the same
 * order. */

#ifndef NETWORK_H
#define NETWORK_H

#include "across.h"
#include "one_polar.h"
#include "vectors.h"

/* W (units, inputs), held transposed: (inputs, units) a run, rows of whole vectors with zeros beyond the last unit. Its buffers lie
 * as it does, and have a log scale a unit. */
typedef struct {
    int64_t inputs, units;
    int64_t kind;               /* how it descends, of SIGN, NORMALISED and POLAR; FROZEN: not at all, it has no buffers */
    double weight;              /* of its norm in the norm of all layers */
    vec *w, *m, *m_log, *r, *r_log; /* of all runs */
    vec *g;                     /* the gradient at w, as it lies there, of the runs that a record has looked at since it changed */
} Layer;

typedef struct {
    int64_t runs, layers, samples, features; /* of all runs */
    int64_t x_run, y_run;                    /* numbers from one run's samples, and labels, to the next's; 0: all share them */
    int64_t loss, activation, rule, momentum, bias_correction;
    int64_t kernel, pool, side;              /* of convolutions, rows of their kernels and of the images; 0: all layers are dense */
    double log_n, most;                      /* log of the samples' number; a parameter beyond `most` ends a call */
    const double *x;                         /* (samples, features) a run; images (rows, columns, whole vectors of samples) */
    const int64_t *y;
    const Layer *layer;
    /* a number a run; the last NULL where no loss is watched */
    const double *lr, *power, *slope, *beta, *gain, *ahead_beta, *ahead_gain, *beta2, *log_eps, *decay, *below;
    int64_t *seen;                           /* (runs): what a record has found there, of SEEN, ODD and DOUBTFUL; 0: none has looked */
    double *seen_unit;                       /* (runs): log scale of the weights that g was made from */
} Network;

/* Whether a record has looked at a run, whether a score is no finite number, and whether an entry is too small for one log scale. */
enum { SEEN = 1, ODD = 2, DOUBTFUL = 4 };

/* What a call is to do, and where it writes, of every run, how many updates it has made and why no more. */
typedef struct {
    int64_t first, steps, seen;
    const int64_t *active;
    int64_t *made, *why;
} Asked;

/* What a record says of every run: where it is written. */
typedef struct {
    double *scores, *total;                   /* (runs, outputs, samples); (runs, samples): sum_c w_ic = total e^unit */
    double *unit, *log_loss, *accuracy, *margin; /* (runs): log scale of the weights; log L, the share of samples with positive gaps,
                                               * the smallest gap, NaN where a score is no finite number */
    double *inner;                            /* (trained layers, runs): <W, C> of a layer */
    double *w_sizes, *c_sizes;                /* (3, trained layers + 1, runs): as block_sizes() has them */
    double *w[MOST_LAYERS], *g[MOST_LAYERS], *c[MOST_LAYERS]; /* (runs, units, inputs) a layer: W, its gradient in units of
                                               * e^unit / n, and C = -grad L / sum w */
} Looked;

typedef struct {
    vec *kept[MOST_LAYERS], *value[MOST_LAYERS]; /* (samples, units): of a layer's outputs, what the activation's derivative is made
                                                  * of, and the activation; of the last layer, the scores */
    vec *g[MOST_LAYERS], *ahead[MOST_LAYERS];    /* (inputs, units): the gradient, and the average that is not m */
    vec *scales[MOST_LAYERS];                    /* (units): log scales of either */
    vec *here, *before;                          /* (samples, units): the derivative in what a layer makes, and in its inputs */
    vec *made[MOST_LAYERS];                      /* of convolutions, (units, rows, columns, samples): the same before pooling */
    mask *which[MOST_LAYERS];                    /* the place in a cell that has its largest output */
    vec *back;                                   /* (units, inputs) */
    vec *u, *top, *size, *total;                 /* (outputs, samples): negative gaps, in place of which weights come later; (samples):
                                                  * the largest gap, sum_c e^(u_c - top), sum_c w_c */
    vec *old, *new, *scale, *largest;            /* (units) */
    vec *matrix, *turned;                        /* of the smaller side of a layer, and its rows */
    Work polar;
    vec *many;                                   /* of polar factors of many rows */
    vec unit, least;                             /* log scale of the weights, and the least of them */
} Room;

static inline int64_t vectors_in(const Layer *layer) { return layer->inputs * vectors_of(layer->units); }

static inline int trained(const Network *p, int64_t j) { return p->layer[j].kind != FROZEN; }

/* The first layer that is trained: nothing is differentiated below it. */
static inline int64_t first_trained(const Network *p)
{
    int64_t j = 0;
    while (!trained(p, j)) j++;
    return j;
}

/* A layer of one run. */
static inline Layer layer_of(const Network *p, int64_t j, int64_t run)
{
    Layer one = p->layer[j];
    const int64_t matrix = run * vectors_in(&one), row = run * vectors_of(one.units);
    one.w += matrix, one.m += matrix, one.r += matrix, one.g += matrix, one.m_log += row, one.r_log += row;
    return one;
}

/* Whether an activation is something else than what is kept of its argument. */
static inline int squares(int64_t activation) { return activation == SQUARED_RELU || activation == QUADRATIC; }

/* c (rows, vectors) = p q, p (rows, length) of numbers, in pieces of so many terms: those of q, and lines of p, stay near. */
static void product_in_pieces(
    int64_t rows, int64_t vectors, int64_t length, int64_t piece, const double *p, int64_t p_row, int64_t p_length, const vec *q, vec *c)
{
    for (int64_t l = 0; l < length; l += piece)
        spread_product(
            rows, vectors, l > 0, least(piece, length - l), p + l * p_length, p_row, p_length, q + l * vectors, vectors, c, vectors);
}

#endif
