/* Scores and gradients of one run of a convolutional network: models/cnn.py. Images are (channels, rows, columns, samples), lanes are
 * samples: a convolution is a sum of so many images, each times a number of its kernel. */

#ifndef NETWORK_IMAGES_H
#define NETWORK_IMAGES_H

#include "network_activations.h"
#include "network_scores.h"

#define MOST_CHANNELS 4 /* outputs at once */
#define MOST_TAPS 3     /* numbers of a kernel at once, whose derivatives are summed */
#define MOST_NEAR 4     /* neighbouring vectors at once */
#define PLACES 4        /* of a cell that is pooled */

/* One for one more, or none beyond `count`. */
#define OF_CHANNELS(count, call) \
    switch (count) { \
    case 1: call(1); break; \
    case 2: call(2); break; \
    case 3: call(3); break; \
    default: call(4); break; \
    }

/* A convolution: it makes `units` images of `made` rows from `channels` of `side`, which are pooled to `cells` rows. `room` rows are
 * there for the derivative in what it makes, of which the first `border` are zero, as are those behind. */
typedef struct {
    int64_t channels, side, units, made, cells, border, room;
} Convolution;

static inline int64_t rows_of_cell(const Network *p) { return p->pool == NO_POOL ? 1 : 2; }

/* The j-th, from 0; what follows the last one is the head's input. */
static Convolution convolution_of(const Network *p, int64_t j)
{
    Convolution c = {.cells = p->side, .units = 1};
    for (int64_t i = 0; i <= j; i++) {
        c.side = c.cells, c.channels = c.units, c.units = p->layer[i].units;
        c.cells = (c.side - p->kernel + 1) / rows_of_cell(p), c.made = c.cells * rows_of_cell(p);
    }
    c.border = j ? p->kernel - 1 : 0, c.room = j ? c.side + p->kernel - 1 : c.made;
    return c;
}

static inline int64_t pixels_of(const Convolution *c) { return c->units * c->cells * c->cells; }
static inline int64_t arguments_of(const Network *p, const Convolution *c)
{
    return p->pool == AVERAGE_POOL ? c->units * c->made * c->made : pixels_of(c);
}

/* The outputs of one cell, at all of its places. */
__attribute__((always_inline)) static inline void cell_of(
    const int places, const int channels, const Network *p, const Convolution *c, const double *w, int64_t stride, const vec *h,
    int64_t n, vec *sum)
{
#pragma GCC unroll 16
    for (int e = 0; e < places * channels; e++) sum[e] = all(0);
    for (int64_t l = 0; l < c->channels; l++)
        for (int64_t a = 0; a < p->kernel; a++)
            for (int64_t b = 0; b < p->kernel; b++, w += stride) {
                const vec *at = h + ((l * c->side + a) * c->side + b) * n;
#pragma GCC unroll 4
                for (int q = 0; q < places; q++) {
                    const vec pixel = at[(q / 2 * c->side + q % 2) * n];
#pragma GCC unroll 4
                    for (int u = 0; u < channels; u++) sum[q * channels + u] += w[u] * pixel;
                }
            }
}

/* A cell's largest output, and the first place that has it. */
static inline vec largest_of_cell(const int channels, const vec *sum, mask *which)
{
    vec top = sum[0];
    *which = (mask){0};
    for (int q = 1; q < PLACES; q++) {
        const vec now = sum[q * channels];
        const mask more = (now > top) | (now != now);
        top = choose(more, now, top), *which = (more & q) | (~more & *which);
    }
    return top;
}

/* The convolution's outputs of some channels from `first` on, pooled and activated. */
__attribute__((always_inline)) static inline void convolve_some(
    const int places, const int channels, const Network *p, Room *v, int64_t j, const Convolution *c, vec slope, const double *w,
    int64_t stride, const vec *h, int64_t first)
{
    const int64_t n = vectors_of(p->samples), step = rows_of_cell(p);
    vec sum[PLACES * MOST_CHANNELS];
    for (int64_t row = 0; row < c->cells; row++)
        for (int64_t column = 0; column < c->cells; column++)
            for (int64_t i = 0; i < n; i++) {
                const vec *at = h + (row * step * c->side + column * step) * n + i;
                cell_of(places, channels, p, c, w + first, stride, at, n, sum);
                for (int u = 0; u < channels; u++) {
                    const int64_t e = (((first + u) * c->cells + row) * c->cells + column) * n + i;
                    if (p->pool != AVERAGE_POOL) {
                        const vec top = places > 1 ? largest_of_cell(channels, sum + u, v->which[j] + e) : sum[u];
                        v->kept[j][e] = kept_of(p->activation, slope, top);
                        v->value[j][e] = value_of(p->activation, v->kept[j][e]);
                        continue;
                    }
                    vec total = all(0);
                    for (int q = 0; q < places; q++) {
                        const int64_t at_row = row * 2 + q / 2, at_column = column * 2 + q % 2;
                        const vec kept = kept_of(p->activation, slope, sum[q * channels + u]);
                        v->kept[j][(((first + u) * c->made + at_row) * c->made + at_column) * n + i] = kept;
                        total += value_of(p->activation, kept);
                    }
                    v->value[j][e] = total / PLACES;
                }
            }
}

static void convolve(const Network *p, Room *v, int64_t run, int64_t j, const vec *h)
{
    const Convolution c = convolution_of(p, j);
    const Layer layer = layer_of(p, j, run);
    const vec slope = all(p->slope[run]);
    const double *w = (const double *)layer.w;
    const int64_t stride = vectors_of(c.units) * LANES;
    for (int64_t first = 0; first < c.units; first += MOST_CHANNELS) {
#define ONE_PLACE(count) convolve_some(1, count, p, v, j, &c, slope, w, stride, h, first)
#define ALL_PLACES(count) convolve_some(PLACES, count, p, v, j, &c, slope, w, stride, h, first)
        if (p->pool == NO_POOL) OF_CHANNELS(c.units - first, ONE_PLACE)
        else OF_CHANNELS(c.units - first, ALL_PLACES)
    }
}

/* Scores of the head from its inputs h (features, samples). */
static void head_scores(const Network *p, Room *v, int64_t run, const vec *h)
{
    const Layer head = layer_of(p, p->layers - 1, run);
    const double *w = (const double *)head.w;
    const int64_t n = vectors_of(p->samples), stride = vectors_of(head.units) * LANES;
    for (int64_t c = 0; c < head.units; c++)
        for (int64_t i = 0; i < n; i++) {
            vec sum[4] = {all(0), all(0), all(0), all(0)};
            for (int64_t f = 0; f < head.inputs; f++) sum[f % 4] += w[f * stride + c] * h[f * n + i];
            v->u[c * n + i] = (sum[0] + sum[1]) + (sum[2] + sum[3]);
        }
}

/* The images of the first layer, and the head's inputs. */
static const vec *image_before(const Network *p, const Room *v, int64_t run, int64_t j)
{
    return j ? v->value[j - 1] : (const vec *)(p->x + run * p->x_run);
}

static void forward_images(const Network *p, Room *v, int64_t run)
{
    for (int64_t j = 0; j + 1 < p->layers; j++) convolve(p, v, run, j, image_before(p, v, run, j));
    head_scores(p, v, run, image_before(p, v, run, p->layers - 1));
}

/* The head's gradient, and the derivative in its inputs, into `here`. */
static void head_backward(const Network *p, Room *v, int64_t run)
{
    const Layer head = layer_of(p, p->layers - 1, run);
    const vec *h = image_before(p, v, run, p->layers - 1);
    const int64_t n = vectors_of(p->samples), stride = vectors_of(head.units) * LANES;
    const double *w = (const double *)head.w;
    double *g = (double *)v->g[p->layers - 1];
    memset(g, 0, vectors_in(&head) * sizeof(vec));
    for (int64_t f = 0; f < head.inputs; f++) {
        for (int64_t i = 0; i < n; i++) v->here[f * n + i] = all(0);
        for (int64_t c = 0; c < head.units; c++) {
            vec sum = all(0);
            for (int64_t i = 0; i < n; i++) {
                sum += v->u[c * n + i] * h[f * n + i];
                v->here[f * n + i] += w[f * stride + c] * v->u[c * n + i];
            }
            g[f * stride + c] = added_in_order(0, sum, LANES);
        }
    }
}

/* From the derivative in what a convolution makes after pooling (`here`) to that in what it makes before. */
static void through_cells(const Network *p, Room *v, const Convolution *c, int64_t j, vec slope)
{
    const int64_t n = vectors_of(p->samples), step = rows_of_cell(p);
    for (int64_t u = 0; u < c->units; u++)
        for (int64_t row = 0; row < c->cells; row++)
            for (int64_t column = 0; column < c->cells; column++) {
                const int64_t e = ((u * c->cells + row) * c->cells + column) * n;
                for (int64_t q = 0; q < step * step; q++) {
                    const int64_t at_row = row * step + q / 2, at_column = column * step + q % 2;
                    vec *to = v->made[j] + ((u * c->room + c->border + at_row) * c->room + c->border + at_column) * n;
                    const vec *kept = v->kept[j] + e, *from = v->here + e;
                    if (p->pool == AVERAGE_POOL) {
                        kept = v->kept[j] + ((u * c->made + at_row) * c->made + at_column) * n;
                        for (int64_t i = 0; i < n; i++) to[i] = passed(p->activation, slope, kept[i], from[i] / PLACES);
                    } else if (p->pool == NO_POOL) {
                        for (int64_t i = 0; i < n; i++) to[i] = passed(p->activation, slope, kept[i], from[i]);
                    } else {
                        const mask *which = v->which[j] + e;
                        for (int64_t i = 0; i < n; i++)
                            to[i] = choose(which[i] == q, passed(p->activation, slope, kept[i], from[i]), all(0));
                    }
                }
            }
}

/* Derivatives of neighbouring numbers of some kernels, `tap` the first of them: sums over all places and samples. */
__attribute__((always_inline)) static inline void kernel_derivatives(
    const int taps, const int channels, const Network *p, const Convolution *c, int64_t tap, const vec *h, const vec *d, double *g,
    int64_t stride)
{
    const int64_t n = vectors_of(p->samples), square = p->kernel * p->kernel;
    vec sum[MOST_TAPS * MOST_CHANNELS];
    const vec *from[MOST_TAPS];
#pragma GCC unroll 16
    for (int e = 0; e < taps * channels; e++) sum[e] = all(0);
    for (int t = 0; t < taps; t++) {
        const int64_t l = (tap + t) / square, a = (tap + t) % square / p->kernel, b = (tap + t) % p->kernel;
        from[t] = h + ((l * c->side + a) * c->side + b) * n;
    }
    for (int64_t row = 0; row < c->made; row++) {
        const vec *of = d + ((c->border + row) * c->room + c->border) * n;
        for (int64_t e = 0; e < c->made * n; e++) {
            vec pixel[MOST_TAPS];
#pragma GCC unroll 4
            for (int t = 0; t < taps; t++) pixel[t] = from[t][row * c->side * n + e];
#pragma GCC unroll 4
            for (int u = 0; u < channels; u++) {
                const vec made = of[u * c->room * c->room * n + e];
#pragma GCC unroll 4
                for (int t = 0; t < taps; t++) sum[t * channels + u] += made * pixel[t];
            }
        }
    }
    for (int t = 0; t < taps; t++)
        for (int u = 0; u < channels; u++) g[(tap + t) * stride + u] = added_in_order(0, sum[t * channels + u], LANES);
}

static void kernels_backward(const Network *p, Room *v, const Convolution *c, int64_t j, const vec *h)
{
    const int64_t n = vectors_of(p->samples), stride = vectors_of(c->units) * LANES;
    const int64_t taps = c->channels * p->kernel * p->kernel;
    memset(v->g[j], 0, vectors_in(p->layer + j) * sizeof(vec));
    for (int64_t first = 0; first < c->units; first += MOST_CHANNELS) {
        const vec *d = v->made[j] + first * c->room * c->room * n;
        double *g = (double *)v->g[j] + first;
        int64_t tap = 0;
#define SOME_TAPS(count) kernel_derivatives(MOST_TAPS, count, p, c, tap, h, d, g, stride)
#define ONE_TAP(count) kernel_derivatives(1, count, p, c, tap, h, d, g, stride)
        for (; tap + MOST_TAPS <= taps; tap += MOST_TAPS) OF_CHANNELS(c->units - first, SOME_TAPS)
        for (; tap < taps; tap++) OF_CHANNELS(c->units - first, ONE_TAP)
    }
}

/* The derivative in neighbouring vectors of a row of some channels of a convolution's image. */
__attribute__((always_inline)) static inline void image_derivatives(
    const int near, const int channels, const Network *p, const Convolution *c, const double *w, int64_t stride, const vec *d, vec *to)
{
    const int64_t n = vectors_of(p->samples), k = p->kernel;
    vec sum[MOST_NEAR * MOST_CHANNELS];
#pragma GCC unroll 16
    for (int e = 0; e < near * channels; e++) sum[e] = all(0);
    for (int64_t u = 0; u < c->units; u++)
        for (int64_t a = 0; a < k; a++)
            for (int64_t b = 0; b < k; b++) {
                const vec *of = d + ((u * c->room + k - 1 - a) * c->room + k - 1 - b) * n;
                const double *number = w + (a * k + b) * stride + u;
                vec made[MOST_NEAR];
#pragma GCC unroll 4
                for (int e = 0; e < near; e++) made[e] = of[e];
#pragma GCC unroll 4
                for (int l = 0; l < channels; l++) {
                    const vec times = all(number[l * k * k * stride]);
#pragma GCC unroll 4
                    for (int e = 0; e < near; e++) sum[l * near + e] += times * made[e];
                }
            }
#pragma GCC unroll 4
    for (int l = 0; l < channels; l++)
#pragma GCC unroll 4
        for (int e = 0; e < near; e++) to[l * c->side * c->side * n + e] = sum[l * near + e];
}

/* The derivative in a convolution's image, into `to`. */
static void image_backward(const Network *p, Room *v, int64_t run, const Convolution *c, int64_t j, vec *to)
{
    const Layer layer = layer_of(p, j, run);
    const int64_t n = vectors_of(p->samples), stride = vectors_of(c->units) * LANES, square = p->kernel * p->kernel;
    for (int64_t first = 0; first < c->channels; first += MOST_CHANNELS)
        for (int64_t row = 0; row < c->side; row++) {
            const double *w = (const double *)layer.w + first * square * stride;
            int64_t e = 0;
#define NEAR_ONES(count) image_derivatives(MOST_NEAR, count, p, c, w, stride, d, at)
#define ONE_OF_THEM(count) image_derivatives(1, count, p, c, w, stride, d, at)
            for (; e < c->side * n; e += e + MOST_NEAR <= c->side * n ? MOST_NEAR : 1) {
                const vec *d = v->made[j] + row * c->room * n + e;
                vec *at = to + (first * c->side + row) * c->side * n + e;
                if (e + MOST_NEAR <= c->side * n) OF_CHANNELS(c->channels - first, NEAR_ONES)
                else OF_CHANNELS(c->channels - first, ONE_OF_THEM)
            }
        }
}

/* The gradient of every layer, in units of e^unit / n, from the derivative in the scores. */
static void backward_images(const Network *p, Room *v, int64_t run)
{
    const int64_t first = first_trained(p);
    head_backward(p, v, run);
    for (int64_t j = p->layers - 2; j >= first; j--) {
        const Convolution c = convolution_of(p, j);
        through_cells(p, v, &c, j, all(p->slope[run]));
        if (trained(p, j)) kernels_backward(p, v, &c, j, image_before(p, v, run, j));
        if (j > first) image_backward(p, v, run, &c, j, v->here);
    }
}

#endif
