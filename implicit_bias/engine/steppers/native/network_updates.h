/* Buffers and parameters of one run's layers after a gradient: scaled.py and optimizers/. A buffer has a log scale a unit, which is
 * changed by powers of two where its entries become too small or large. */

#ifndef NETWORK_UPDATES_H
#define NETWORK_UPDATES_H

#include "narrow_polar.h"
#include "network_gradient.h"
#include "wide_polar.h"

#define SMALL 0x1p-100 /* a unit's entries are scaled anew when the largest leaves [SMALL, LARGE] */
#define LARGE 0x1p+100
#define LEAST_EXPONENT -1000 /* powers of two that they are scaled by: 2^1023 is the largest there is */
#define LOG_2 0x1.62e42fefa39efp-1

/* e^x, and 0 where that is no normal number: what is that much smaller than something else is nothing beside it. */
static inline vec factor_of(vec x) { return choose(x >= LOWEST, exponential(x), all(0)); }

/* log e^a + e^b's larger part, and the factors of both to it; a buffer with no weight counts for nothing. */
static inline vec common_scale(vec weight, vec old_log, vec new_log, vec *old, vec *new)
{
    const vec counts = choose(weight == 0, all(-INFINITY), old_log), common = larger(counts, new_log);
    *old = factor_of(counts - common), *new = factor_of(new_log - common);
    return common;
}

/* Bring units whose largest entries (`top`) are too small or large back to about one. */
static void normalise_units(int64_t rows, int64_t wide, const vec *top, vec *a, vec *a_log)
{
    for (int64_t b = 0; b < wide; b++) {
        const mask far = (top[b] > 0) & ((top[b] < SMALL) | (top[b] > LARGE));
        if (!any(far)) continue;
        vec factor = all(1);
        for (int l = 0; l < LANES; l++)
            if (far[l] && isfinite(top[b][l])) {
                const int found = ilogb(top[b][l]), e = found < LEAST_EXPONENT ? LEAST_EXPONENT : found;
                factor[l] = ldexp(1, -e);
                a_log[b][l] += e * LOG_2;
            }
        for (int64_t i = 0; i < rows; i++) a[i * wide + b] *= factor;
    }
}

/* Units with no entry but zeros have the log scale -inf, as in scaled.py: the largest that they ever had would stand above all others
 * for good. */
static void forget_empty_units(int64_t wide, const vec *top, vec *a_log)
{
    for (int64_t b = 0; b < wide; b++) a_log[b] = choose(top[b] == 0, all(-INFINITY), a_log[b]);
}

/* to = old a + new g with a factor a unit, in units of its log scale `to_log`. */
static void combine_units(
    Room *v, int64_t rows, int64_t wide, vec weight_old, vec weight_new, vec g_log, const vec *a, const vec *a_log, const vec *g,
    vec *to, vec *to_log)
{
    for (int64_t b = 0; b < wide; b++) {
        to_log[b] = common_scale(weight_old, a_log[b], g_log, v->old + b, v->new + b);
        v->old[b] *= weight_old, v->new[b] *= weight_new, v->largest[b] = all(0);
    }
    for (int64_t i = 0; i < rows; i++)
        for (int64_t b = 0; b < wide; b++) {
            const int64_t e = i * wide + b;
            to[e] = v->old[b] * a[e] + v->new[b] * g[e];
            v->largest[b] = larger(v->largest[b], magnitude(to[e]));
        }
    normalise_units(rows, wide, v->largest, to, to_log);
    forget_empty_units(wide, v->largest, to_log);
}

/* r = sqrt(beta2 r^2 + (1 - beta2) g^2). */
static void root_mean_squares(Room *v, const Layer *layer, vec beta2, vec g_log, const vec *g)
{
    const int64_t rows = layer->inputs, wide = vectors_of(layer->units);
    const vec keep = root(beta2), add = root(1 - beta2);
    for (int64_t b = 0; b < wide; b++) {
        layer->r_log[b] = common_scale(beta2, layer->r_log[b], g_log, v->old + b, v->new + b);
        v->old[b] *= keep, v->new[b] *= add, v->largest[b] = all(0);
    }
    for (int64_t i = 0; i < rows; i++)
        for (int64_t b = 0; b < wide; b++) {
            vec *r = layer->r + i * wide + b;
            *r = hypotenuse(v->old[b] * *r, v->new[b] * g[i * wide + b]);
            v->largest[b] = larger(v->largest[b], *r);
        }
    normalise_units(rows, wide, v->largest, layer->r, layer->r_log);
    forget_empty_units(wide, v->largest, layer->r_log);
}

/* w <- w - eta (m / correct_m) / (r / correct_r + eps), 0 / 0 = 0: optimizers/adam.py. */
static void take_ratios(Room *v, const Layer *layer, vec eta, double correct_m, double correct_r, double log_eps)
{
    const int64_t rows = layer->inputs, wide = vectors_of(layer->units);
    for (int64_t b = 0; b < wide; b++) {
        v->old[b] = exponential(layer->m_log[b] - layer->r_log[b]) / correct_m;
        v->new[b] = log_eps > -INFINITY ? exponential(log_eps - layer->r_log[b]) : all(0);
    }
    const vec inverse = all(1 / correct_r);
    for (int64_t i = 0; i < rows; i++)
        for (int64_t b = 0; b < wide; b++) {
            const int64_t e = i * wide + b;
            const vec ratio = quotient(v->old[b] * layer->m[e], layer->r[e] * inverse + v->new[b]);
            layer->w[e] -= eta * choose(layer->m[e] == 0, all(0), ratio);
        }
}

static void take_signs(const Layer *layer, vec eta, const vec *from)
{
    for (int64_t e = 0; e < vectors_in(layer); e++)
        layer->w[e] -= choose(from[e] > 0, eta, choose(from[e] < 0, -eta, all(0)));
}

/* w <- w - size from, with a factor a unit. */
static void take_multiples(const Layer *layer, const vec *size, const vec *from)
{
    const int64_t wide = vectors_of(layer->units);
    for (int64_t i = 0; i < layer->inputs; i++)
        for (int64_t b = 0; b < wide; b++) layer->w[i * wide + b] -= size[b] * from[i * wide + b];
}

/* The polar factor of rows <= columns, `stride` numbers apart, in their place: by rotations. */
static void polar_in_place(Room *v, double *g, int64_t rows, int64_t columns, int64_t stride)
{
    vec *a = (vec *)g, top = all(0);
    const int64_t count = rows * stride / LANES;
    for (int64_t e = 0; e < count; e++) top = larger(top, magnitude(a[e]));
    const double size = largest_across(top)[0];
    for (int64_t e = 0; e < count; e++) a[e] /= size > 0 ? size : 1; /* one over it may be infinite */
    if (rows > 1) {
        polar_of_one_by_rotations(&v->polar, g, rows, columns, stride, 0, (double *)v->turned);
        return;
    }
    const double length = sqrt(dot_across(g, g, columns));
    for (int64_t e = 0; e < count; e++) a[e] /= length > 0 ? length : 1;
}

/* w <- w - eta times the polar factor of v->turned, which lies as w does, where that takes no rotations; returns whether. */
static int take_narrow_polar_factor(Room *v, const Layer *layer, vec eta)
{
    const int64_t p = layer->inputs, q = layer->units, wide = vectors_of(q), tall = vectors_of(p);
    if (p >= q) return polar_of_narrow(q, p, v->turned, v->matrix, -eta[0], 1, layer->w);
    transpose_across((double *)v->turned, p, q, wide * LANES, (double *)v->matrix, tall * LANES);
    if (!polar_of_narrow(p, q, v->matrix, v->polar.across, 1, 0, v->matrix)) return 0;
    transpose_across((double *)v->matrix, q, p, tall * LANES, (double *)v->turned, wide * LANES);
    for (int64_t e = 0; e < vectors_in(layer); e++) layer->w[e] -= eta * v->turned[e];
    return 1;
}

/* v->turned <- `from`, with log scales a unit, in units of the largest of these. */
static void in_one_unit(Room *v, const Layer *layer, const vec *from, const vec *from_log)
{
    const int64_t wide = vectors_of(layer->units);
    vec unit = from_log[0];
    for (int64_t b = 1; b < wide; b++) unit = larger(unit, from_log[b]);
    unit = largest_across(unit);
    for (int64_t b = 0; b < wide; b++) v->scale[b] = factor_of(from_log[b] - unit);
    for (int64_t i = 0; i < layer->inputs; i++)
        for (int64_t b = 0; b < wide; b++) v->turned[i * wide + b] = from[i * wide + b] * v->scale[b];
}

/* The polar factor of v->turned, in its place or in v->matrix, by rotations. */
static const vec *polar_by_rows(Room *v, int64_t p, int64_t q)
{
    const int64_t wide = vectors_of(q), tall = vectors_of(p);
    if (p <= q) {
        memcpy(v->matrix, v->turned, p * wide * sizeof(vec));
        polar_in_place(v, (double *)v->matrix, p, q, wide * LANES);
        return v->matrix;
    }
    transpose_across((double *)v->turned, p, q, wide * LANES, (double *)v->matrix, tall * LANES);
    polar_in_place(v, (double *)v->matrix, q, p, tall * LANES);
    transpose_across((double *)v->matrix, q, p, tall * LANES, (double *)v->turned, wide * LANES);
    return v->turned;
}

/* The same of many rows, without rotations; NULL: it is not found so, and v->turned is something else. */
static const vec *polar_of_many(Room *v, int64_t p, int64_t q)
{
    const int64_t wide = vectors_of(q), tall = vectors_of(p), count = p * wide;
    vec *x = v->turned, *spare = v->matrix;
    const double size = largest_across(largest_size(x, count))[0];
    if (size > 0 && isfinite(size) && (size < SMALL || size > LARGE)) {
        const int found = ilogb(size);
        const double factor = ldexp(1, found < LEAST_EXPONENT ? -LEAST_EXPONENT : -found);
        for (int64_t e = 0; e < count; e++) x[e] *= factor;
    }
    if (size == 0) return x;
    if (p < q) {
        transpose_across((double *)x, p, q, wide * LANES, (double *)spare, tall * LANES);
        x = v->matrix, spare = v->turned;
    }
    const Wide room = room_for_wide(v->many, least(wide, tall));
    if (!polar_of_wide(&room, least(wide, tall), p < q ? q : p, &x, &spare)) return NULL;
    if (p >= q) return x;
    transpose_across((double *)x, q, p, tall * LANES, (double *)spare, wide * LANES);
    return spare;
}

/* w <- w - eta times the polar factor of `from`, with log scales a unit. */
static void take_polar_factor(Room *v, const Layer *layer, vec eta, const vec *from, const vec *from_log)
{
    const int64_t p = layer->inputs, q = layer->units;
    const vec *found = NULL;
    in_one_unit(v, layer, from, from_log);
    if (is_narrow(least(p, q)) && take_narrow_polar_factor(v, layer, eta)) return;
    if (least(p, q) >= MANY_ROWS && !(found = polar_of_many(v, p, q))) in_one_unit(v, layer, from, from_log);
    if (!found) found = polar_by_rows(v, p, q);
    for (int64_t e = 0; e < vectors_in(layer); e++) layer->w[e] -= eta * found[e];
}

/* Steps in the l2 norm of all layers: w <- w - eta from / |from|. `from` and its log scales are by layer. */
static void take_normalised(const Network *p, Room *v, int64_t run, vec eta, vec *const *from, const vec *const *from_log)
{
    vec unit = all(-INFINITY), top = all(1), sum = all(0);
    for (int64_t j = 0; j < p->layers; j++)
        for (int64_t b = 0; trained(p, j) && b < vectors_of(p->layer[j].units); b++) unit = larger(unit, from_log[j][b]);
    unit = largest_across(unit);
    for (int pass = 0; pass < 3; pass++) {
        const vec size = pass ? top : all(1);
        if (!pass) top = all(0);
        const double length = sqrt(added_in_order(0, sum, LANES));
        for (int64_t j = 0; j < p->layers; j++) {
            if (!trained(p, j)) continue;
            const Layer layer = layer_of(p, j, run);
            const int64_t wide = vectors_of(layer.units);
            for (int64_t b = 0; b < wide; b++) v->scale[b] = factor_of(from_log[j][b] - unit) / size;
            if (pass == 2) {
                for (int64_t b = 0; b < wide; b++) v->scale[b] *= eta / (length > 0 ? length : 1);
                take_multiples(&layer, v->scale, from[j]);
                continue;
            }
            for (int64_t i = 0; i < layer.inputs; i++)
                for (int64_t b = 0; b < wide; b++) {
                    const vec number = v->scale[b] * from[j][i * wide + b];
                    if (pass) sum += number * number;
                    else top = larger(top, magnitude(number));
                }
        }
        if (!pass) top = largest_across(top), top = choose(top > 0, top, all(1));
    }
}

#endif
