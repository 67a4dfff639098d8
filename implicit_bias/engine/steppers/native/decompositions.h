/* Polar factors, top singular pairs and Newton-Schulz iterations of small matrices. */

#ifndef DECOMPOSITIONS_H
#define DECOMPOSITIONS_H

#include "group.h"
#include "jacobi.h"
#include "powers.h"
#include "products.h"
#include "zolotarev.h"

#define NEARLY 3e-7 /* cosines whose squares are below what a step is known to, by far: ENOUGH, and what rounding adds to it */

/* corrected <- (I - F)^T rotation. Rows C with lengths s_a and cosines e_ab up to NEARLY have the polar factor
 * (C C^T)^(-1/2) C = (I - F) N + O(e^2), N the rows of length one, F_ab = e_ab s_b / (s_a + s_b): first order of the square root,
 * whose derivative solves s_a y_ab + y_ab s_b = e_ab s_a s_b. Only rows that are kept count; the Gram matrix becomes -F^T. */
static void correct(vec *gram, int64_t rows, const vec *norm, const vec *inverse, const vec *rotation, vec *corrected)
{
    for (int64_t a = 0; a < rows; a++) {
        gram[a * (rows + 1)] = all(0);
        for (int64_t b = a + 1; b < rows; b++) {
            const vec sum = norm[a] + norm[b], cosine = gram[a * rows + b] * (inverse[a] * inverse[b]);
            const vec each = -cosine / larger(sum, all(NOTHING));
            gram[b * rows + a] = each * norm[b], gram[a * rows + b] = each * norm[a];
        }
    }
    memcpy(corrected, rotation, rows * rows * sizeof(vec));
    product(rows, rows, 1, rows, (Matrix){gram, rows, 1}, (Matrix){(vec *)rotation, rows, 1}, (Matrix){corrected, rows, 1});
}

/* The truncated polar factor U_r V_r^T of g (rows, columns), rows <= columns, or its top u_1 v_1^T (RANK_ONE), or U f(S) V^T with
 * the sizes of the Schatten norm whose dual has the exponent q (SCHATTEN), into g; `turned` is scratch of its size. Rotations J
 * make the rows of C = J g orthogonal, C = S V^T; then U V^T = J^T V^T. They are found on the Gram matrix, which is small, but knows
 * cosines to round-off times the squared condition only: C itself shows whether that is enough, and is made orthogonal where not,
 * and where single singular vectors count. Returns the sum of the singular values, or the top one, or their norm. */
static vec polar_by_rotations(Work *v, vec *g, int64_t rows, int64_t columns, int64_t kind, vec q, vec *turned)
{
    const Matrix rotation = {v->rotation, rows, 1}, from = {g, columns, 1}, to = {turned, columns, 1};
    vec *gram = v->gram, *norm = v->norm, *inverse = v->inverse;
    gram_of(g, rows, columns, gram);
    diagonalise(gram, rows, v->turn, v->rotation);
    product(rows, columns, 0, rows, rotation, from, to);
    gram_of(turned, rows, columns, gram);
    const mask far = kind == POLAR ? askew(gram, rows, NEARLY) : ~(mask){0};
    if (any(far)) {
        orthogonalise(turned, rows, columns, far, norm, v->rotation);
        gram_of(turned, rows, columns, gram);
    }
    vec top = all(0), first = all(-1), nuclear = all(0);
    for (int64_t a = 0; a < rows; a++) {
        norm[a] = root(gram[a * (rows + 1)]);
        nuclear += norm[a];
        first = choose(norm[a] > top, all(a), first);
        top = larger(top, norm[a]);
    }
    for (int64_t a = 0; a < rows; a++) {
        mask kept = kind == RANK_ONE ? first == (double)a : norm[a] > RANK_TOLERANCE * top;
        inverse[a] = choose(kept, 1 / choose(norm[a] > 0, norm[a], all(1)), all(0));
    }
    vec size = kind == RANK_ONE ? top : nuclear;
    if (kind == SCHATTEN) size = schatten_sizes(rows, norm, top, q, inverse, gram);
    vec *of = v->rotation;
    if (kind == POLAR) correct(gram, rows, norm, inverse, v->rotation, of = v->corrected);
    for (int64_t a = 0; a < rows; a++)
        for (int64_t b = 0; b < rows; b++) of[a * rows + b] *= inverse[a]; /* N = inverse C, or more */
    product(rows, columns, 0, rows, transposed((Matrix){of, rows, 1}), to, from);
    return size;
}

/* The same, of a truncated polar factor without rotations in the lanes where these are not needed (zolotarev.h: there nothing is
 * truncated); `spare` is scratch of the size of g, too. */
static vec polar(Work *v, vec *g, int64_t rows, int64_t columns, int64_t kind, vec q, vec *turned, vec *spare)
{
    if (kind != POLAR || !has_functions(rows)) return polar_by_rotations(v, g, rows, columns, kind, q, turned);
    vec nuclear;
    const mask far = factors_of(v->small, rows, columns, g, turned, &nuclear);
    vec *found = any(far) ? spare : g;
    POLAR_OF[rows].times(columns, v->small->factor, turned, found);
    if (!any(far)) return nuclear;
    const vec size = polar_by_rotations(v, g, rows, columns, kind, q, turned);
    for (int64_t e = 0; e < rows * columns; e++) g[e] = choose(far, g[e], found[e]);
    return choose(far, size, nuclear);
}

/* a (k, d) in the basis of vectors that sum to zero (models/linear.py: zero_sum_basis, Helmert's: column r has r + 1 ones, then
 * -(r + 1), over sqrt((r + 1)(r + 2))), into v->reduced (k - 1, d). */
static void into_row_space(const Work *v, int64_t k, int64_t d, const vec *a)
{
    for (int64_t j = 0; j < d; j++) {
        vec sum = all(0);
        for (int64_t r = 0; r < k - 1; r++) {
            sum += a[r * d + j];
            v->reduced[r * d + j] = (sum - (r + 1.0) * a[(r + 1) * d + j]) * v->basis[r];
        }
    }
}

/* And back. */
static void out_of_row_space(const Work *v, int64_t k, int64_t d, vec *a)
{
    for (int64_t j = 0; j < d; j++) {
        vec sum = all(0);
        for (int64_t r = k - 2; r >= 0; r--) {
            vec u = v->reduced[r * d + j] * v->basis[r];
            a[(r + 1) * d + j] = sum - (r + 1.0) * u;
            sum += u;
        }
        a[j] = sum;
    }
}

/* a (k, d) becomes its polar factor, or what polar() has besides, taken in that basis. Returns as polar(). */
SHARED vec polar_in_row_space(Work *v, int64_t k, int64_t d, int64_t kind, vec q, vec *a)
{
    const int64_t rows = k - 1;
    vec sizes;
    into_row_space(v, k, d, a);
    if (rows <= d) {
        sizes = polar(v, v->reduced, rows, d, kind, q, v->factor, a);
    } else {
        transpose(v->reduced, rows, d, a);
        sizes = polar(v, a, d, rows, kind, q, v->factor, v->reduced);
        transpose(a, d, rows, v->reduced);
    }
    out_of_row_space(v, k, d, a);
    return sizes;
}

static inline vec combined(double a, vec x, double b, vec y) { return fused(all(a), x, b * y); }

/* a (k, d) after so many quintic Newton-Schulz steps from a over its norm, or over eps where that is larger; each has three
 * coefficients. optimizers/muon_ns.py. */
SHARED void newton_schulz(Work *v, int64_t k, int64_t d, int64_t iterations, const double *coefficients, vec eps, vec *a)
{
    const int tall = k > d;
    const int64_t rows = tall ? d : k, columns = tall ? k : d;
    vec *x = a, *next = v->factor, *gram = v->gram, *both = v->reduced;
    if (tall) {
        transpose(a, k, d, v->factor);
        x = v->factor, next = a;
    }
    vec size = larger(root(dot(x, x, rows * columns)), eps);
    size = 1 / choose(size > 0, size, all(1));
    for (int64_t e = 0; e < rows * columns; e++) x[e] *= size;
    for (int64_t step = 0; step < iterations; step++) {
        const double *now = coefficients + 3 * step;
        gram_of(x, rows, columns, gram);
        for (int64_t i = 0; i < rows; i++)
            for (int64_t j = 0; j < i; j++) gram[i * rows + j] = gram[j * rows + i];
        const Matrix square = {gram, rows, 1}, factor = {both, rows, 1};
        product(rows, rows, 0, rows, square, square, factor);
        for (int64_t e = 0; e < rows * rows; e++) both[e] = combined(now[1], gram[e], now[2], both[e]);
        product(rows, columns, 0, rows, factor, (Matrix){x, columns, 1}, (Matrix){next, columns, 1});
        for (int64_t e = 0; e < rows * columns; e++) next[e] += now[0] * x[e];
        vec *swap = x;
        x = next, next = swap;
    }
    if (tall) {
        transpose(x, rows, columns, next);
        x = next;
    }
    if (x != a) memcpy(a, x, rows * columns * sizeof(vec));
}

#endif
