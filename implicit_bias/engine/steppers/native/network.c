/* Steps of networks, from the equations of models/mlp.py and models/cnn.py, the losses, scaled.py and optimizers/: one call makes many
 * steps of every run, one run after the other.
 *
 * In a fully connected network a lane is a unit of a layer: products have numbers of the samples, or of a layer's inputs, times rows
 * of units (spread_product). In a convolutional one it is a sample (network_images.h); weights and buffers lie in the same way. A
 * run's numbers depend on no other run.
 *
 * A gradient has one log scale a run. Where weights span more than a double does and an entry is so small that those which have been
 * cut may matter for it, the run's updates end, and the caller makes the next. */

/* Names of losses, rules, momenta and activations, and the constants of the losses, are macros that network_rules.py gives on the
 * compiler's command line (DEFINITIONS). */
#include "made_with.h"

#include "network.h"
#include "network_gradient.h"
#include "network_images.h"
#include "network_scores.h"
#include "network_updates.h"
#include "sizes_of_blocks.h"
#include "sizes_of_many.h"

/* Why a run makes no more updates: it has made all; its loss is low enough, or its numbers are odd; an entry is too small. */
enum { ALL_MADE, LOOK, TOO_SMALL };

int64_t network_lanes(void) { return LANES; }

const char *network_made_with(void) { return MADE_WITH; }

static inline int64_t more_of(int64_t a, int64_t b) { return a > b ? a : b; }

#define TAKE(name, count) v->name = start ? start + used : NULL, used += (count)

/* What a layer keeps, laid out from `start` on; returns how many vectors it takes. */
static int64_t layer_laid_out(const Network *p, Room *v, int64_t j, vec *start)
{
    const Layer *of = p->layer + j;
    const int64_t inside = j + 1 < p->layers, n = vectors_of(p->samples);
    int64_t used = 0, kept = p->samples * vectors_of(of->units), value = kept, same = !squares(p->activation);
    if (p->kernel && inside) {
        const Convolution c = convolution_of(p, j);
        kept = arguments_of(p, &c) * n, value = pixels_of(&c) * n, same = same && kept == value;
        TAKE(made[j], c.units * c.room * c.room * n);
        vec *which = start ? start + used : NULL;
        v->which[j] = (mask *)which, used += value;
    }
    TAKE(kept[j], kept);
    TAKE(value[j], inside && !same ? value : 0);
    if (same) v->value[j] = v->kept[j];
    TAKE(g[j], trained(p, j) || p->kernel ? vectors_in(of) : 0);
    TAKE(scales[j], vectors_of(of->units));
    TAKE(ahead[j], p->momentum == LOOK_AHEAD && trained(p, j) ? vectors_in(of) : 0);
    return used;
}

/* Scratch memory laid out from `start` on, if there is any yet; returns how many vectors it takes. */
static int64_t laid_out(const Network *p, Room *v, vec *start)
{
    int64_t used = 0, units = 1, most = 1, few = 1, widest = 1;
    const int64_t n = vectors_of(p->samples), k = p->layer[p->layers - 1].units;
    for (int64_t j = 0; j < p->layers; j++) {
        const Layer *of = p->layer + j;
        used += layer_laid_out(p, v, j, start ? start + used : NULL);
        units = more_of(units, vectors_of(of->units));
        most = more_of(most, more_of(vectors_in(of), of->units * vectors_of(of->inputs)));
        if (of->kind == POLAR) few = more_of(few, least(of->inputs, of->units));
        const Convolution c = p->kernel && j + 1 < p->layers ? convolution_of(p, j) : (Convolution){0};
        widest = more_of(widest, p->kernel ? more_of(pixels_of(&c), c.channels * c.side * c.side) * n : p->samples * units);
    }
    TAKE(here, widest);
    TAKE(before, p->kernel ? 0 : widest);
    TAKE(back, p->kernel ? 0 : most);
    TAKE(u, k * n);
    TAKE(top, n);
    TAKE(size, n);
    TAKE(total, n);
    TAKE(old, units);
    TAKE(new, units);
    TAKE(scale, units);
    TAKE(largest, units);
    TAKE(matrix, most);
    TAKE(turned, most);
    const int64_t square = few * vectors_of(few);
    TAKE(polar.gram, square);
    TAKE(polar.rotation, square);
    TAKE(polar.corrected, square);
    TAKE(polar.across, most);
    TAKE(polar.sweep, sweep_size(few));
    TAKE(polar.norm, vectors_of(few));
    TAKE(polar.inverse, vectors_of(few));
    TAKE(many, few < MANY_ROWS ? 0 : wide_size(few));
    return used;
}

#undef TAKE

/* Doubles of memory that a call needs for every thread. */
int64_t network_work_size(const Network *p)
{
    Room v;
    return LANES * laid_out(p, &v, NULL);
}

/* The buffers take in the gradient, and a step of size eta is made from them; `t` is its number. */
static void update(const Network *p, Room *v, int64_t run, double eta, double t)
{
    const vec g_log = v->unit - p->log_n, beta = all(p->beta[run]);
    vec *from[MOST_LAYERS], *scales[MOST_LAYERS];
    const double keep = 1 - eta * p->decay[run];
    for (int64_t j = 0; j < p->layers; j++) {
        if (!trained(p, j)) continue;
        const Layer layer = layer_of(p, j, run);
        const int64_t rows = layer.inputs, wide = vectors_of(layer.units);
        const vec *g = v->g[j];
        from[j] = v->g[j], scales[j] = v->scales[j];
        for (int64_t b = 0; b < wide; b++) scales[j][b] = g_log;
        if (p->momentum != NO_MOMENTUM) {
            combine_units(v, rows, wide, beta, all(p->gain[run]), g_log, layer.m, layer.m_log, g, layer.m, layer.m_log);
            from[j] = layer.m, scales[j] = layer.m_log;
        }
        if (p->momentum == LOOK_AHEAD) {
            const vec old = all(p->ahead_beta[run]), new = all(p->ahead_gain[run]);
            from[j] = v->ahead[j], scales[j] = v->scales[j];
            combine_units(v, rows, wide, old, new, g_log, layer.m, layer.m_log, g, from[j], scales[j]);
        }
        if (keep != 1)
            for (int64_t e = 0; e < rows * wide; e++) layer.w[e] *= keep;
    }
    if (p->rule == STEEPEST && p->layer[first_trained(p)].kind == NORMALISED) {
        take_normalised(p, v, run, all(eta), from, (const vec *const *)scales);
        return;
    }
    const double beta1 = p->beta[run], beta2 = p->beta2[run];
    const double correct_m = p->bias_correction ? 1 - pow(beta1, t) : 1, correct_r = p->bias_correction ? sqrt(1 - pow(beta2, t)) : 1;
    for (int64_t j = 0; j < p->layers; j++) {
        if (!trained(p, j)) continue;
        const Layer layer = layer_of(p, j, run);
        const vec size = all(eta / layer.weight);
        if (p->rule == ADAM) {
            root_mean_squares(v, &layer, all(beta2), g_log, v->g[j]);
            take_ratios(v, &layer, all(eta), correct_m, correct_r, p->log_eps[run]);
        } else if (p->rule == GRADIENT) {
            for (int64_t b = 0; b < vectors_of(layer.units); b++) v->scale[b] = eta * exponential(scales[j][b]);
            take_multiples(&layer, v->scale, from[j]);
        } else if (layer.kind == SIGN) {
            take_signs(&layer, size, from[j]);
        } else {
            take_polar_factor(v, &layer, size, from[j], scales[j]);
        }
    }
}

/* Whether a parameter is beyond `most`, or no number. */
static int beyond(const Network *p, int64_t run)
{
    mask found = {0};
    for (int64_t j = 0; j < p->layers; j++) {
        const Layer layer = layer_of(p, j, run);
        for (int64_t e = 0; trained(p, j) && e < vectors_in(&layer); e++) found |= ~(magnitude(layer.w[e]) <= p->most);
    }
    return any(found);
}

/* The gradient of a run is where a record has found it, or will; or again in scratch memory, `scratch`. */
static void go_to_seen(const Network *p, Room *v, int64_t run, vec **scratch)
{
    for (int64_t j = 0; j < p->layers; j++) {
        scratch[j] = v->g[j];
        if (trained(p, j)) v->g[j] = layer_of(p, j, run).g;
    }
    v->unit = all(p->seen_unit[run]);
}

static void go_back(const Network *p, Room *v, vec *const *scratch)
{
    for (int64_t j = 0; j < p->layers; j++) v->g[j] = scratch[j];
}

/* The first update from the gradient that a record has looked at; returns whether it is made, and in `why` why no more are. */
static int64_t step_from_seen(const Network *p, Room *v, const Asked *asked, int64_t run, int64_t *why)
{
    const int64_t seen = p->seen[run];
    const double t = asked->first + 1, eta = p->lr[run] * pow(t, -p->power[run]);
    vec *scratch[MOST_LAYERS];
    p->seen[run] = 0, *why = TOO_SMALL;
    if (seen & DOUBTFUL) return 0;
    go_to_seen(p, v, run, scratch);
    update(p, v, run, eta, t);
    go_back(p, v, scratch);
    *why = (seen & ODD) || beyond(p, run) ? LOOK : ALL_MADE;
    return 1;
}

/* The updates of one run; returns how many. */
static int64_t steps_of(const Network *p, Room *v, const Asked *asked, int64_t run, int64_t *why)
{
    int64_t s = 0;
    *why = ALL_MADE;
    if (p->seen[run] && asked->steps) s = step_from_seen(p, v, asked, run, why);
    if (*why != ALL_MADE) return s;
    for (; s < asked->steps; s++) {
        const double t = asked->first + s + 1, eta = p->lr[run] * pow(t, -p->power[run]);
        *why = LOOK;
        (p->kernel ? forward_images : forward)(p, v, run);
        const int odd = !negative_gaps(p, v, run);
        if (odd && s) return s;
        weights_of(p, v);
        if (p->below && s >= asked->seen && log_loss_of(p, v) < p->below[run]) return s;
        derivative_in_scores(p, v, run);
        (p->kernel ? backward_images : backward)(p, v, run);
        *why = TOO_SMALL;
        if (doubtful(p, v)) return s;
        update(p, v, run, eta, t);
        *why = LOOK;
        if (odd || beyond(p, run)) return s + 1;
        *why = ALL_MADE;
    }
    return asked->steps;
}

/* The updates of a call, of the runs of a batch that no other thread has taken: `next` is the first of them. `work` is scratch memory
 * of this thread. */
int64_t network_advance(const Network *p, int64_t *next, vec *work, const Asked *asked)
{
    Room v;
    memset(work, 0, laid_out(p, &v, work) * sizeof(vec)); /* borders stay zero */
    for (int64_t run; (run = __atomic_fetch_add(next, 1, __ATOMIC_RELAXED)) < p->runs;)
        if (asked->active[run]) asked->made[run] = steps_of(p, &v, asked, run, asked->why + run);
    return 0;
}

/* b (units, inputs) from rows of units, `stride` apart; some rows at a time, whose lines stay near. */
static void by_units(const double *a, int64_t inputs, int64_t units, int64_t stride, double *b)
{
    for (int64_t i = 0; i < inputs; i += LANES)
        for (int64_t u = 0; u < units; u++)
            for (int64_t l = i; l < least(inputs, i + LANES); l++) b[u * inputs + l] = a[l * stride + u];
}

/* W, its gradient and C of every layer that is trained, row by row, and their sizes. */
static void write_layers(const Network *p, Room *v, int64_t run, double sum, const Looked *to)
{
    int64_t blocks = 0, block = 0;
    for (int64_t j = 0; j < p->layers; j++) blocks += trained(p, j);
    for (int64_t j = 0; j < p->layers; j++) {
        if (!trained(p, j)) continue;
        const Layer layer = layer_of(p, j, run);
        const int64_t inputs = layer.inputs, units = layer.units, count = inputs * units, stride = vectors_of(units) * LANES;
        double *w = to->w[j] + run * count, *g = to->g[j] + run * count, *c = to->c[j] + run * count;
        by_units((const double *)layer.w, inputs, units, stride, w);
        by_units((const double *)v->g[j], inputs, units, stride, g);
        for (int64_t e = 0; e < count; e++) c[e] = -g[e] / sum;
        sizes_of_block(w, count, block, blocks, run, p->runs, to->w_sizes);
        sizes_of_block(c, count, block, blocks, run, p->runs, to->c_sizes);
        to->inner[block++ * p->runs + run] = inner_of(w, c, count);
    }
    sizes_of_all(blocks, run, p->runs, to->w_sizes);
    sizes_of_all(blocks, run, p->runs, to->c_sizes);
}

/* What a record says, and the gradient where the next update starts, of the runs that no other thread has taken. */
int64_t network_look(const Network *p, int64_t *next, vec *work, const Looked *to)
{
    Room v;
    const int64_t k = p->layer[p->layers - 1].units, n = vectors_of(p->samples);
    memset(work, 0, laid_out(p, &v, work) * sizeof(vec));
    for (int64_t run; (run = __atomic_fetch_add(next, 1, __ATOMIC_RELAXED)) < p->runs;) {
        vec *scratch[MOST_LAYERS];
        go_to_seen(p, &v, run, scratch);
        (p->kernel ? forward_images : forward)(p, &v, run);
        for (int64_t c = 0; c < k; c++)
            memcpy(to->scores + (run * k + c) * p->samples, v.u + c * n, p->samples * sizeof(double));
        const int finite = negative_gaps(p, &v, run);
        weights_of(p, &v);
        memcpy(to->total + run * p->samples, v.total, p->samples * sizeof(double));
        const double sum = sum_of_weights(p, &v);
        look_at_gaps(p, &v, to->accuracy + run, to->margin + run);
        to->unit[run] = p->seen_unit[run] = v.unit[0], to->log_loss[run] = finite ? log_loss_of(p, &v) : NAN;
        if (!finite) to->accuracy[run] = to->margin[run] = NAN;
        derivative_in_scores(p, &v, run);
        (p->kernel ? backward_images : backward)(p, &v, run);
        p->seen[run] = SEEN | (finite ? 0 : ODD) | (doubtful(p, &v) ? DOUBTFUL : 0);
        write_layers(p, &v, run, sum, to);
        go_back(p, &v, scratch);
    }
    return 0;
}
