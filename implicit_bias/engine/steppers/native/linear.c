/* Steps of a linear model, from the equations of models/linear.py, the losses, scaled.py and optimizers/: one call makes
 * many steps of LANES runs at once.
 *
 * A run is a lane: entry l of every vector belongs to run l, so that sums over samples, features and classes are plain loops, and
 * a run's numbers do not depend on its neighbours. What only some lanes need is computed for all and selected.
 *
 * Arrays are (rows, columns) of vectors, row-major: x (n, d), w and buffers (k, d), scores (k, n). A tensor in the log domain is
 * a mantissa (k, d) and one log scale a class row (k). Everything stays finite: samples' weights are cut at e^FLOOR of the
 * largest, factors between scales at e^LOWEST, and buffers are scaled by powers of two. */

#include <math.h>
#include <stdint.h>
#include <string.h>

#ifdef __AVX512F__
#define LANES 8
#else
#define LANES 4
#endif

typedef double vec __attribute__((vector_size(8 * LANES)));
typedef int64_t mask __attribute__((vector_size(8 * LANES)));

/* Losses, rules, momenta, and the constants RANK_TOLERANCE, FLOOR and CANCELLED are macros that linear.py gives on the
 * compiler's command line (DEFINITIONS), with COMPILED_WITH, the options. */
#ifndef COMPILED_WITH
#error "compiled by engine/steppers/native/compiling.py only"
#endif

#define TILE 32              /* samples whose features stay in the first cache between two uses */
#define LOWEST -708.0        /* e^x is a normal number from here to HIGHEST */
#define HIGHEST 709.0
#define SMALL 0x1p-100       /* a buffer's row is scaled anew when its largest entry leaves [SMALL, LARGE] */
#define LARGE 0x1p+100
#define LEAST_EXPONENT -1000 /* powers of two by which rows are scaled: 2^1023 is the largest there is */
#define SWEEPS 30            /* of Jacobi's method at most; five or six are the rule */
#define ORTHOGONAL 1e-31     /* squared cosine of two rows that are not turned any more: below round-off */
#define CONVERGED 1e-9       /* cosines that one more sweep of a quadratically convergent method takes below round-off */
#define LOG_2 0x1.62e42fefa39efp-1
#define PER_LOG_2 0x1.71547652b82fep+0     /* 1 / log 2 */
#define LOG_2_HIGH 0x1.62e42fefa38p-1      /* log 2 in two parts: the first ends in zeros, times a whole number it is exact */
#define LOG_2_LOW 0x1.ef35793c7673p-45
#define ROUND_BY 0x1.8p52                  /* added and subtracted, it rounds to whole numbers */

/* One group of LANES runs; native/linear.py has the same fields in the same order. */
typedef struct {
    int64_t n, k, d, loss, rule, momentum, bias_correction, iterations;
    double log_n;
    const vec *smallest_row;    /* one each: a class row whose largest entry is below it gets a scale of its own */
    const vec *doubtful;        /* (d): times the sum of a row's weights, what its entries are looked at closer below */
    const vec *x;               /* (n, d) */
    const mask *y;              /* (n): labels */
    vec *w;                     /* (k, d) */
    vec *m, *m_log, *r, *r_log; /* average of gradients, root of that of squares: (k, d), (k) */
    vec *certificate;           /* (k, d): average of the certificate's matrices */
    const vec *beta, *gain, *beta2, *log_eps, *decay; /* one each; m <- beta m + gain g */
    const double *coefficients; /* (iterations, 3): of Newton and Schulz's polynomials */
    vec *work;                  /* work_size() vectors */
} Group;

typedef struct {
    vec *scores, *top, *size;          /* (k, n), (n), (n): weights in place of scores later */
    vec *g, *ahead, *reduced, *factor; /* (k, d) each; factor: (d, k) too */
    vec *rotation;                     /* (min(k, d), min(k, d)) */
    vec *row, *ahead_log, *norm;       /* (k): log scales of g less `unit`, of ahead; squared norms of rows */
    vec unit, total;
} Work;

static inline vec all(double value) { return value - (vec){0}; }
static inline vec choose(mask where, vec yes, vec no) { return (vec)(((mask)yes & where) | ((mask)no & ~where)); }
static inline vec larger(vec a, vec b) { return choose(a > b, a, b); }
static inline vec smaller(vec a, vec b) { return choose(a < b, a, b); }
static inline vec magnitude(vec a) { return (vec)((mask)a & INT64_MAX); }

static inline int any(mask m)
{
    int64_t found = 0;
    for (int l = 0; l < LANES; l++) found |= m[l];
    return found != 0;
}

static inline vec root(vec a)
{
    vec b = a;
    for (int l = 0; l < LANES; l++) b[l] = sqrt(a[l]);
    return b;
}

/* e^x to about an ulp for LOWEST <= x <= HIGHEST: x = m log 2 + r, e^r by its Taylor polynomial, |r| <= log(2) / 2. */
static inline vec exponential_inside(vec x)
{
    vec t = x * PER_LOG_2 + ROUND_BY;
    vec m = t - ROUND_BY;
    vec r = (x - m * LOG_2_HIGH) - m * LOG_2_LOW;
    /* In pairs, then pairs of pairs: half as long a chain of operations that wait for each other as Horner's. */
    vec r2 = r * r, r4 = r2 * r2;
    vec low = (1.0 / 2 + r * (1.0 / 6)) + r2 * (1.0 / 24 + r * (1.0 / 120));
    vec middle = (1.0 / 720 + r * (1.0 / 5040)) + r2 * (1.0 / 40320 + r * (1.0 / 362880));
    vec high = (1.0 / 3628800 + r * (1.0 / 39916800)) + r2 * (1.0 / 479001600 + r * (1.0 / 6227020800));
    vec p = 1.0 + (r + r2 * (low + r4 * (middle + r4 * high)));
    return p * (vec)(((mask)t - (mask)all(ROUND_BY) + 1023) << 52);
}

/* The same for any x, which is cut to that range. */
static inline vec exponential(vec x) { return exponential_inside(smaller(larger(x, all(LOWEST)), all(HIGHEST))); }

/* e^x for x <= 0, cut at FLOOR. */
static inline vec share_of(vec x) { return exponential_inside(larger(x, all(FLOOR))); }

/* c[a, b] (+)= sum_l p[a, l] q[l, b] for `rows` x `columns` entries at once, in registers; strides in vectors. */
__attribute__((always_inline)) static inline void tile_product(
    const int rows, const int columns, int add, int64_t length, const vec *p, int64_t p_row, const vec *q, int64_t q_length,
    int64_t q_column, vec *c, int64_t c_row)
{
    vec sum[rows * columns];
    for (int a = 0; a < rows; a++)
        for (int b = 0; b < columns; b++) sum[a * columns + b] = add ? c[a * c_row + b] : all(0);
    for (int64_t l = 0; l < length; l++)
        for (int a = 0; a < rows; a++)
            for (int b = 0; b < columns; b++) sum[a * columns + b] += p[a * p_row + l] * q[l * q_length + b * q_column];
    for (int a = 0; a < rows; a++)
        for (int b = 0; b < columns; b++) c[a * c_row + b] = sum[a * columns + b];
}

/* The same for any number of rows and columns. A sum's order depends on no other entry, so the blocks do not show. */
__attribute__((always_inline)) static inline void product(
    int64_t rows, int64_t columns, int add, int64_t length, const vec *p, int64_t p_row, const vec *q, int64_t q_length,
    int64_t q_column, vec *c, int64_t c_row)
{
    for (int64_t a = 0; a < rows; a += 4)
        for (int64_t b = 0; b < columns; b += 2) {
            const vec *pa = p + a * p_row, *qb = q + b * q_column;
            vec *cab = c + a * c_row + b;
            int two = b + 1 < columns;
            switch (rows - a) {
#define BLOCK(R) \
    if (two) tile_product(R, 2, add, length, pa, p_row, qb, q_length, q_column, cab, c_row); \
    else tile_product(R, 1, add, length, pa, p_row, qb, q_length, q_column, cab, c_row); \
    break
            case 1: BLOCK(1);
            case 2: BLOCK(2);
            case 3: BLOCK(3);
            default: BLOCK(4);
            }
        }
}

static int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }

/* scores[c, i] = <w_c, x_i>. */
static void all_scores(const Group *p, Work *v)
{
    for (int64_t i = 0; i < p->n; i += TILE)
        product(p->k, least(TILE, p->n - i), 0, p->d, p->w, p->d, p->x + i * p->d, 1, p->d, v->scores + i, p->n);
}

/* g_c = sum_i weights[c, i] x_i. */
static void weighted_sums(const Group *p, const Work *v, vec *g)
{
    for (int64_t i = 0; i < p->n; i += TILE)
        product(p->k, p->d, i > 0, least(TILE, p->n - i), v->scores + i, p->n, p->x + i * p->d, p->d, 1, g, p->d);
}

/* The largest |entry| of row c of g (k, d). */
static vec row_top(const Group *p, const vec *g, int64_t c)
{
    vec top = all(0);
    for (int64_t j = 0; j < p->d; j++) top = larger(top, magnitude(g[c * p->d + j]));
    return top;
}

/* Gradients with one scale a class row, of all lanes; kept where `deep`. models/linear.py: _deep. */
__attribute__((noinline)) static void deep_gradient(const Group *p, Work *v, mask deep)
{
    all_scores(p, v);
    for (int64_t i = 0; i < p->n; i++) {
        vec own = all(0), own_log, others;
        for (int64_t c = 0; c < p->k; c++) own = choose(p->y[i] == c, v->scores[c * p->n + i], own);
        for (int l = 0; l < LANES; l++) {
            double a = v->top[i][l] + log(v->size[i][l]), tail = log1p(exp(-fabs(a)));
            /* log of a weight is u_c - others; of their sum own_log. */
            others[l] = p->loss == EXPONENTIAL ? 0 : fmax(a, 0) + tail;
            own_log[l] = p->loss == EXPONENTIAL ? a : fmin(a, 0) - tail;
        }
        for (int64_t c = 0; c < p->k; c++) {
            vec *s = v->scores + c * p->n + i;
            *s = choose(p->y[i] == c, own_log, *s - own - others);
        }
    }
    for (int64_t c = 0; c < p->k; c++) {
        vec *s = v->scores + c * p->n, top = s[0];
        for (int64_t i = 1; i < p->n; i++) top = larger(top, s[i]);
        for (int64_t i = 0; i < p->n; i++) {
            vec weight = share_of(s[i] - top);
            s[i] = choose(p->y[i] == c, -weight, weight);
        }
        v->row[c] = choose(deep, top - v->unit, all(0));
    }
    weighted_sums(p, v, v->factor);
    for (int64_t e = 0; e < p->k * p->d; e++) v->g[e] = choose(deep, v->factor[e], v->g[e]);
}

/* Entry (c, j) of g, summed anew with the errors of all additions made up for: exactly zero where no more is left than CANCELLED
 * of the sum of the contributions' absolute values. models/linear.py: _with_zeros. */
static void clear_if_cancelled(const Group *p, Work *v, int64_t c, int64_t j, mask doubt)
{
    vec sum = all(0), error = all(0), size = all(0);
    for (int64_t i = 0; i < p->n; i++) {
        vec part = v->scores[c * p->n + i] * p->x[i * p->d + j], next = sum + part, added = next - sum;
        error += (sum - (next - added)) + (part - added);
        sum = next;
        size += magnitude(part);
    }
    vec *g = v->g + c * p->d + j;
    *g = choose(doubt & (magnitude(sum + error) <= CANCELLED * size), all(0), *g);
}

/* The same for all entries, in the lanes `where`; `scores` are the samples' weights that g is made of. */
static void clear_cancelled(const Group *p, Work *v, mask where)
{
    for (int64_t c = 0; c < p->k; c++) {
        vec *s = v->scores + c * p->n, size = all(0);
        for (int64_t i = 0; i < p->n; i++) size += magnitude(s[i]);
        for (int64_t j = 0; j < p->d; j++) {
            mask doubt = where & (magnitude(v->g[c * p->d + j]) < size * p->doubtful[j]);
            if (any(doubt)) clear_if_cancelled(p, v, c, j, doubt);
        }
    }
}

/* Gradients with an entry that may be zero, or a class row too small for the common scale. */
__attribute__((noinline)) static void look_closer(const Group *p, Work *v)
{
    clear_cancelled(p, v, ~(mask){0});
    vec small = all(INFINITY);
    for (int64_t c = 0; c < p->k; c++) small = smaller(small, row_top(p, v->g, c));
    mask deep = small < *p->smallest_row;
    if (!any(deep)) return;
    deep_gradient(p, v, deep);
    clear_cancelled(p, v, deep);
}

/* n e^-unit grad L into g, with `row` and `total` = n e^-unit sum of weights. */
static void gradient(const Group *p, Work *v)
{
    const int64_t n = p->n, k = p->k;
    all_scores(p, v);
    v->unit = all(-INFINITY);
    for (int64_t i = 0; i < n; i++) {
        vec *s = v->scores + i, own = all(0), top = all(-INFINITY), size = all(0);
        for (int64_t c = 0; c < k; c++) {
            mask label = p->y[i] == c;
            own = choose(label, s[c * n], own);
            s[c * n] = choose(label, all(-INFINITY), s[c * n]);
            top = larger(top, s[c * n]);
        }
        for (int64_t c = 0; c < k; c++) { /* the label's e^FLOOR is nothing beside the 1 of the largest */
            s[c * n] = share_of(s[c * n] - top);
            size += s[c * n];
        }
        v->top[i] = top - own;
        v->size[i] = size;
        v->unit = larger(v->unit, p->loss == EXPONENTIAL ? v->top[i] : smaller(v->top[i], all(0)));
    }
    v->total = all(0);
    for (int64_t i = 0; i < n; i++) {
        vec top = v->top[i], low = p->loss == EXPONENTIAL ? top : smaller(top, all(0));
        vec share = share_of(low - v->unit);
        if (p->loss == CROSS_ENTROPY) { /* share / (e^(low - top) + size e^low); one of the two is 1 */
            vec e = exponential(-magnitude(top));
            share /= choose(top > 0, e, all(1)) + v->size[i] * choose(top > 0, all(1), e);
        }
        vec total = v->size[i] * share;
        v->total += total;
        for (int64_t c = 0; c < k; c++) {
            vec *s = v->scores + c * n + i;
            *s = choose(p->y[i] == c, -total, *s * share);
        }
    }
    weighted_sums(p, v, v->g);
    vec least = all(INFINITY);
    for (int64_t e = 0; e < k * p->d; e++) least = smaller(least, magnitude(v->g[e]));
    for (int64_t c = 0; c < k; c++) v->row[c] = all(0);
    /* No row's weights sum to more than the total. */
    vec doubtful = p->doubtful[0];
    for (int64_t j = 1; j < p->d; j++) doubtful = larger(doubtful, p->doubtful[j]);
    if (any(least < v->total * doubtful)) look_closer(p, v);
}

/* The matrix sum w_ic (e_y - e_c) x_i^T, weights summing to one, into the certificates' average. */
static void collect(const Group *p, const Work *v, double share)
{
    for (int64_t c = 0; c < p->k; c++) {
        vec factor = exponential(v->row[c]) / v->total;
        for (int64_t e = c * p->d; e < (c + 1) * p->d; e++) p->certificate[e] += share * (-v->g[e] * factor - p->certificate[e]);
    }
}

static inline vec log_scale(const Group *p, const Work *v, int64_t c) { return v->row[c] + v->unit - p->log_n; }

/* Factors that bring two rows to a common scale, whose logarithm is returned. */
static inline vec in_common(vec a_log, vec b_log, vec *a, vec *b)
{
    vec common = larger(a_log, b_log);
    *a = exponential(a_log - common);
    *b = exponential(b_log - common);
    return common;
}

/* The log scale of a buffer that counts with a weight: nothing where that is 0, so that it makes nothing else underflow. */
static inline vec counted(vec weight, vec log_scale) { return choose(weight == 0, all(-INFINITY), log_scale); }

/* Bring a row whose entries have become too small or large for their squares back to about one. */
static void normalise_row(const Group *p, vec *row, vec *row_log)
{
    vec top = row_top(p, row, 0);
    mask far = (top > 0) & ((top < SMALL) | (top > LARGE));
    if (!any(far)) return;
    vec factor = all(1);
    for (int l = 0; l < LANES; l++)
        if (far[l] && isfinite(top[l])) {
            int e = ilogb(top[l]) < LEAST_EXPONENT ? LEAST_EXPONENT : ilogb(top[l]);
            factor[l] = ldexp(1, -e);
            (*row_log)[l] += e * LOG_2;
        }
    for (int64_t j = 0; j < p->d; j++) row[j] *= factor;
}

static void average_gradients(const Group *p, const Work *v)
{
    for (int64_t c = 0; c < p->k; c++) {
        vec old, new, *m = p->m + c * p->d;
        p->m_log[c] = in_common(counted(*p->beta, p->m_log[c]), log_scale(p, v, c), &old, &new);
        old *= *p->beta;
        new *= *p->gain;
        for (int64_t j = 0; j < p->d; j++) m[j] = old * m[j] + new * v->g[c * p->d + j];
        normalise_row(p, m, p->m_log + c);
    }
}

/* r = sqrt(beta2 r^2 + (1 - beta2) g^2), by hypot. */
static void average_squares(const Group *p, const Work *v)
{
    vec keep = root(*p->beta2), add = root(1 - *p->beta2);
    for (int64_t c = 0; c < p->k; c++) {
        vec old, new, *r = p->r + c * p->d;
        p->r_log[c] = in_common(counted(*p->beta2, p->r_log[c]), log_scale(p, v, c), &old, &new);
        old *= keep;
        new *= add;
        for (int64_t j = 0; j < p->d; j++) {
            vec a = magnitude(old * r[j]), b = magnitude(new * v->g[c * p->d + j]), high = larger(a, b);
            vec ratio = smaller(a, b) / choose(high == 0, all(1), high);
            r[j] = high * root(1 + ratio * ratio);
        }
        normalise_row(p, r, p->r_log + c);
    }
}

/* ahead = beta m + gain g. */
static void look_ahead(const Group *p, Work *v)
{
    for (int64_t c = 0; c < p->k; c++) {
        vec old, new;
        v->ahead_log[c] = in_common(counted(*p->beta, p->m_log[c]), log_scale(p, v, c), &old, &new);
        old *= *p->beta;
        new *= *p->gain;
        for (int64_t e = c * p->d; e < (c + 1) * p->d; e++) v->ahead[e] = old * p->m[e] + new * v->g[e];
    }
}

/* Of log scales (k), the largest. */
static vec largest_scale(const Group *p, const vec *logs)
{
    vec found = logs[0];
    for (int64_t c = 1; c < p->k; c++) found = larger(found, logs[c]);
    return found;
}

/* `from`, with log scales `from_log`, in units of its largest entry: the direction of steepest descent needs no more. What one
 * e^largest_scale() is in that unit is returned. */
static vec plain(const Group *p, const vec *from, const vec *from_log, vec *to)
{
    vec unit = largest_scale(p, from_log), top = all(0);
    for (int64_t c = 0; c < p->k; c++) {
        vec factor = exponential(from_log[c] - unit);
        for (int64_t e = c * p->d; e < (c + 1) * p->d; e++) {
            to[e] = factor * from[e];
            top = larger(top, magnitude(to[e]));
        }
    }
    vec inverse = 1 / choose(top > 0, top, all(1));
    for (int64_t e = 0; e < p->k * p->d; e++) to[e] *= inverse;
    return inverse;
}

static inline vec dot(const vec *a, const vec *b, int64_t length)
{
    vec s0 = all(0), s1 = all(0), s2 = all(0), s3 = all(0);
    int64_t j = 0;
    for (; j + 3 < length; j += 4) {
        s0 += a[j] * b[j];
        s1 += a[j + 1] * b[j + 1];
        s2 += a[j + 2] * b[j + 2];
        s3 += a[j + 3] * b[j + 3];
    }
    for (; j < length; j++) s0 += a[j] * b[j];
    return (s0 + s1) + (s2 + s3);
}

static inline void rotate(vec *a, vec *b, vec c, vec s, int64_t length)
{
    for (int64_t j = 0; j < length; j++) {
        vec u = a[j], v = b[j];
        a[j] = c * u - s * v;
        b[j] = s * u + c * v;
    }
}

/* The truncated polar factor U_r V_r^T of g (rows, columns), rows <= columns, or its top u_1 v_1^T; g is overwritten. One-sided
 * Jacobi: rotations J make the rows of J g orthogonal, J g = S V^T, to high relative accuracy whatever the condition; then
 * U V^T = J^T V^T. (Demmel and Veselic 1992.) */
static void polar(vec *g, int64_t rows, int64_t columns, int top_pair_only, vec *rotation, vec *norm, vec *out)
{
    for (int64_t a = 0; a < rows; a++)
        for (int64_t b = 0; b < rows; b++) rotation[a * rows + b] = all(a == b);
    mask going = ~(mask){0};
    for (int sweep = 0; sweep < SWEEPS && any(going); sweep++) {
        vec worst = all(0);
        for (int64_t a = 0; a < rows; a++) norm[a] = dot(g + a * columns, g + a * columns, columns);
        for (int64_t a = 0; a < rows; a++)
            for (int64_t b = a + 1; b < rows; b++) {
                vec *ga = g + a * columns, *gb = g + b * columns;
                vec inner = dot(ga, gb, columns), square = norm[a] * norm[b];
                mask turns = going & (inner * inner > ORTHOGONAL * square) & (square > 0);
                if (!any(turns)) continue;
                vec safe = choose(turns, inner, all(1));
                worst = larger(worst, choose(turns, inner * inner / choose(square > 0, square, all(1)), all(0)));
                vec zeta = (norm[b] - norm[a]) / (2 * safe);
                vec t = 1 / (magnitude(zeta) + root(1 + zeta * zeta));
                t = choose(turns, choose(zeta < 0, -t, t), all(0));
                vec c = 1 / root(1 + t * t), s = c * t;
                norm[a] -= t * choose(turns, inner, all(0));
                norm[b] += t * choose(turns, inner, all(0));
                rotate(ga, gb, c, s, columns);
                rotate(rotation + a * rows, rotation + b * rows, c, s, rows);
            }
        going &= worst > CONVERGED * CONVERGED;
    }
    vec top = all(0), first = all(-1);
    for (int64_t a = 0; a < rows; a++) {
        norm[a] = root(dot(g + a * columns, g + a * columns, columns));
        first = choose(norm[a] > top, all(a), first);
        top = larger(top, norm[a]);
    }
    for (int64_t a = 0; a < rows; a++) {
        mask kept = top_pair_only ? first == (double)a : norm[a] > RANK_TOLERANCE * top;
        vec inverse = choose(kept, 1 / choose(norm[a] > 0, norm[a], all(1)), all(0));
        for (int64_t j = 0; j < columns; j++) g[a * columns + j] *= inverse;
    }
    for (int64_t a = 0; a < rows; a++)
        for (int64_t j = 0; j < columns; j++) {
            vec sum = all(0);
            for (int64_t b = 0; b < rows; b++) sum += rotation[b * rows + a] * g[b * columns + j];
            out[a * columns + j] = sum;
        }
}

static void transpose(const vec *a, int64_t rows, int64_t columns, vec *b)
{
    for (int64_t i = 0; i < rows; i++)
        for (int64_t j = 0; j < columns; j++) b[j * rows + i] = a[i * columns + j];
}

/* ahead (k, d) becomes the polar factor of itself, or its top pair, taken in the basis of vectors that sum to zero
 * (models/linear.py: zero_sum_basis, Helmert's: column r has r + 1 ones, then -(r + 1), over sqrt((r + 1)(r + 2))). */
static void polar_in_row_space(const Group *p, Work *v)
{
    const int64_t rows = p->k - 1, d = p->d;
    for (int64_t j = 0; j < d; j++) {
        vec sum = all(0);
        for (int64_t r = 0; r < rows; r++) {
            sum += v->ahead[r * d + j];
            v->reduced[r * d + j] = (sum - (r + 1.0) * v->ahead[(r + 1) * d + j]) / sqrt((r + 1.0) * (r + 2.0));
        }
    }
    if (rows <= d) {
        polar(v->reduced, rows, d, p->rule == RANK_ONE, v->rotation, v->norm, v->factor);
    } else {
        transpose(v->reduced, rows, d, v->ahead);
        polar(v->ahead, d, rows, p->rule == RANK_ONE, v->rotation, v->norm, v->reduced);
        transpose(v->reduced, d, rows, v->factor);
    }
    for (int64_t j = 0; j < d; j++) {
        vec sum = all(0);
        for (int64_t c = rows; c >= 0; c--) {
            vec u = c < rows ? v->factor[c * d + j] / sqrt((c + 1.0) * (c + 2.0)) : all(0);
            vec before = c > 0 ? v->factor[(c - 1) * d + j] / sqrt(c * (c + 1.0)) : all(0);
            sum += u;
            v->ahead[c * d + j] = sum - (double)c * before;
        }
    }
}

/* ahead (k, d) after p->iterations quintic Newton-Schulz steps from ahead over its norm, or over eps where that is larger.
 * optimizers/muon_ns.py. */
static void newton_schulz(const Group *p, Work *v, vec eps)
{
    const int tall = p->k > p->d;
    const int64_t rows = tall ? p->d : p->k, columns = tall ? p->k : p->d;
    vec *x = v->ahead, *next = v->factor, *gram = v->rotation, *both = v->reduced;
    if (tall) {
        transpose(v->ahead, p->k, p->d, v->factor);
        x = v->factor, next = v->ahead;
    }
    vec size = larger(root(dot(x, x, rows * columns)), eps);
    size = 1 / choose(size > 0, size, all(1));
    for (int64_t e = 0; e < rows * columns; e++) x[e] *= size;
    for (int64_t step = 0; step < p->iterations; step++) {
        const double *now = p->coefficients + 3 * step, a = now[0], b = now[1], c = now[2];
        for (int64_t i = 0; i < rows; i++)
            for (int64_t j = 0; j <= i; j++)
                gram[i * rows + j] = gram[j * rows + i] = dot(x + i * columns, x + j * columns, columns);
        product(rows, rows, 0, rows, gram, rows, gram, rows, 1, both, rows);
        for (int64_t e = 0; e < rows * rows; e++) both[e] = b * gram[e] + c * both[e];
        product(rows, columns, 0, rows, both, rows, x, columns, 1, next, columns);
        for (int64_t e = 0; e < rows * columns; e++) next[e] += a * x[e];
        vec *swap = x;
        x = next, next = swap;
    }
    if (tall) {
        transpose(x, rows, columns, next);
        x = next;
    }
    if (x != v->ahead) memcpy(v->ahead, x, rows * columns * sizeof(vec));
}

/* 1 - beta^t, in every lane. */
static vec debias(vec beta, double t)
{
    vec b = beta;
    for (int l = 0; l < LANES; l++) b[l] = 1 - pow(beta[l], t);
    return b;
}

/* Decoupled weight decay: w <- (1 - eta decay) w. */
static void shrink(const Group *p, vec eta)
{
    vec keep = 1 - eta * *p->decay;
    for (int64_t e = 0; e < p->k * p->d; e++) p->w[e] *= keep;
}

/* eps in units of e^log_unit. */
static inline vec eps_in(const Group *p, vec log_unit)
{
    return choose(*p->log_eps == -INFINITY, all(0), exponential(*p->log_eps - log_unit));
}

static void adam_step(const Group *p, vec eta, int64_t t)
{
    vec correct_m = all(1), correct_r = all(1);
    if (p->bias_correction) {
        correct_m = debias(*p->beta, t);
        correct_r = root(debias(*p->beta2, t));
    }
    for (int64_t c = 0; c < p->k; c++) {
        vec factor = exponential(p->m_log[c] - p->r_log[c]) / correct_m, inverse = 1 / correct_r;
        vec eps = eps_in(p, p->r_log[c]);
        for (int64_t e = c * p->d; e < (c + 1) * p->d; e++) {
            vec step = p->m[e] * factor / (p->r[e] * inverse + eps);
            p->w[e] -= eta * choose(p->m[e] == 0, all(0), step);
        }
    }
}

static void descend(const Group *p, Work *v, const vec *from, const vec *from_log, vec eta)
{
    const int64_t entries = p->k * p->d;
    switch (p->rule) {
    case SIGN:
        for (int64_t e = 0; e < entries; e++)
            p->w[e] -= choose(from[e] == 0, all(0), choose(from[e] < 0, -eta, eta));
        break;
    case GRADIENT:
        for (int64_t c = 0; c < p->k; c++) {
            vec size = eta * exponential(from_log[c]);
            for (int64_t e = c * p->d; e < (c + 1) * p->d; e++) p->w[e] -= size * from[e];
        }
        break;
    case NORMALISED: {
        plain(p, from, from_log, v->ahead);
        vec size = root(dot(v->ahead, v->ahead, entries));
        size = eta / choose(size > 0, size, all(1));
        for (int64_t e = 0; e < entries; e++) p->w[e] -= size * v->ahead[e];
        break;
    }
    case COORDINATE: {
        plain(p, from, from_log, v->ahead);
        vec top = all(0), first = all(-1);
        for (int64_t e = 0; e < entries; e++) {
            mask higher = magnitude(v->ahead[e]) > top;
            first = choose(higher, all(e), first);
            top = larger(top, magnitude(v->ahead[e]));
        }
        for (int64_t e = 0; e < entries; e++)
            p->w[e] -= choose(first == (double)e, choose(from[e] < 0, -eta, eta), all(0));
        break;
    }
    case ROWS:
        for (int64_t c = 0; c < p->k; c++) {
            vec top = row_top(p, from, c), *row = v->ahead + c * p->d;
            vec inverse = 1 / choose(top > 0, top, all(1));
            for (int64_t j = 0; j < p->d; j++) row[j] = from[c * p->d + j] * inverse;
            vec size = root(dot(row, row, p->d));
            size = eta / choose(size > 0, size, all(1));
            for (int64_t j = 0; j < p->d; j++) p->w[c * p->d + j] -= size * row[j];
        }
        break;
    case NEWTON_SCHULZ: {
        vec inverse = plain(p, from, from_log, v->ahead);
        newton_schulz(p, v, inverse * eps_in(p, largest_scale(p, from_log)));
        for (int64_t e = 0; e < entries; e++) p->w[e] -= eta * v->ahead[e];
        break;
    }
    case POLAR:
    case RANK_ONE:
        plain(p, from, from_log, v->ahead);
        polar_in_row_space(p, v);
        for (int64_t e = 0; e < entries; e++) p->w[e] -= eta * v->ahead[e];
        break;
    }
}

int64_t lanes(void) { return LANES; }

/* The compiler, and on a second line the options it was called with. */
const char *made_with(void)
{
#ifdef __clang__
    return "clang " __clang_version__ "\n" COMPILED_WITH;
#else
    return "gcc " __VERSION__ "\n" COMPILED_WITH;
#endif
}

/* Doubles of memory that `work` of a group needs. */
int64_t work_size(int64_t n, int64_t k, int64_t d)
{
    int64_t small = least(k, d);
    return LANES * (k * n + 2 * n + 4 * k * d + small * small + 3 * k + d);
}

/* Updates first + 1, ..., first + steps, the s-th with eta[s]. share[s], where not zero, is the weight of the gradient before
 * that update in the certificates' average. */
void advance(const Group *p, int64_t first, int64_t steps, const vec *eta, const double *share)
{
    Work v;
    vec *next = p->work;
#define TAKE(name, count) v.name = next, next += (count)
    TAKE(scores, p->k * p->n);
    TAKE(top, p->n);
    TAKE(size, p->n);
    TAKE(g, p->k * p->d);
    TAKE(ahead, p->k * p->d);
    TAKE(reduced, p->k * p->d);
    TAKE(factor, p->k * p->d);
    TAKE(rotation, least(p->k, p->d) * least(p->k, p->d));
    TAKE(row, p->k);
    TAKE(ahead_log, p->k);
    TAKE(norm, p->k + p->d);
    for (int64_t s = 0; s < steps; s++) {
        gradient(p, &v);
        if (share[s] != 0) collect(p, &v, share[s]);
        if (p->momentum != NO_MOMENTUM) average_gradients(p, &v);
        if (any(*p->decay != 0)) shrink(p, eta[s]);
        if (p->rule == ADAM) {
            average_squares(p, &v);
            adam_step(p, eta[s], first + s + 1);
            continue;
        }
        const vec *from = p->m, *from_log = p->m_log;
        if (p->momentum == LOOK_AHEAD) {
            look_ahead(p, &v);
            from = v.ahead, from_log = v.ahead_log;
        } else if (p->momentum == NO_MOMENTUM) {
            for (int64_t c = 0; c < p->k; c++) v.ahead_log[c] = log_scale(p, &v, c);
            from = v.g, from_log = v.ahead_log;
        }
        descend(p, &v, from, from_log, eta[s]);
    }
}
