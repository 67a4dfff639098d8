/* Jacobi's method and polar factors (jacobi.h, decompositions.h) of one matrix: a lane is a pair of rows, or a column. */

#ifndef ONE_POLAR_H
#define ONE_POLAR_H

#include "across.h"
#include "decompositions.h"
#include "one_matrix.h"

/* Numbers of every second lane: those at even places twice, those at odd ones twice; and two vectors' numbers by turns, of the first
 * half of their lanes or of the second. */
#if LANES == 8
#define EVENS 0, 0, 2, 2, 4, 4, 6, 6
#define ODDS 1, 1, 3, 3, 5, 5, 7, 7
#define FIRST_HALF 0, 8, 1, 9, 2, 10, 3, 11
#define SECOND_HALF 4, 12, 5, 13, 6, 14, 7, 15
#else
#define EVENS 0, 0, 2, 2
#define ODDS 1, 1, 3, 3
#define FIRST_HALF 0, 4, 1, 5
#define SECOND_HALF 2, 6, 3, 7
#endif
#ifdef __clang__
#define PLACED_(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define PLACED_(a, b, ...) __builtin_shuffle(a, b, (mask){__VA_ARGS__})
#endif
#define PLACED(a, b, places) PLACED_(a, b, places)

/* Memory of the sweeps over rows of a Gram matrix. Beyond its last row and column there are zeros, which pairs of lanes beyond the
 * last pair are made of. */
typedef struct {
    int64_t wide;       /* vectors of a row of `gram` */
    double *gram;       /* its upper triangle, but for the diagonal; something else below */
    double *diagonal, *c, *s;
    vec *even, *odd;    /* what numbers of even and odd places are multiplied with by the rotations of columns */
} Sweep;

static inline int64_t pairs_from(int64_t rows, int64_t first) { return (rows - first) / 2; }

/* Vectors of that memory. */
static int64_t sweep_size(int64_t rows)
{
    const int64_t wide = vectors_of(rows) + 1;
    return (rows + 2 * LANES) * wide + (wide + 2) + 4 * wide;
}

static Sweep room_for_sweeps(const Work *v, int64_t rows)
{
    const int64_t wide = vectors_of(rows) + 1;
    vec *diagonal = v->sweep + (rows + 2 * LANES) * wide, *c = diagonal + wide + 2;
    return (Sweep){wide, (double *)v->sweep, (double *)diagonal, (double *)c, (double *)(c + wide), c + 2 * wide, c + 3 * wide};
}

/* Numbers from, from + step, ..., as a vector. */
static inline vec every(const double *from, int64_t step)
{
#if LANES == 8
    return (vec){from[0], from[step], from[2 * step], from[3 * step], from[4 * step], from[5 * step], from[6 * step], from[7 * step]};
#else
    return (vec){from[0], from[step], from[2 * step], from[3 * step]};
#endif
}

/* find_turn() for LANES pairs of rows first, first + 1, ... with inner products x; their squared lengths change places in `r`, and
 * lanes beyond the last pair get what leaves even places as they are. */
static inline void find_turns(Sweep *r, int64_t first, int64_t i, int64_t pairs, vec x, double above)
{
    double *lengths = r->diagonal + first + 2 * i;
    vec p = every(lengths, 2), q = every(lengths + 1, 2);
    const mask there = lane_numbers() + i < pairs;
    const Turn turn = find_turn(&p, &q, x, oblique(p, q, x, above));
    const vec c = choose(there, turn.c, all(0)), s = choose(there, turn.s, all(1)), a = choose(there, q, p), b = choose(there, p, q);
    *(loose_vec *)lengths = PLACED(a, b, FIRST_HALF);
    *(loose_vec *)(lengths + LANES) = PLACED(a, b, SECOND_HALF);
    *(vec *)(r->c + i) = c, *(vec *)(r->s + i) = s;
    vec *even = r->even + 2 * i / LANES, *odd = r->odd + 2 * i / LANES;
    even[0] = PLACED(s, c, FIRST_HALF), even[1] = PLACED(s, c, SECOND_HALF);
    odd[0] = PLACED(c, -s, FIRST_HALF), odd[1] = PLACED(c, -s, SECOND_HALF);
}

/* A row's numbers after the rotations of the columns that they are in. */
static inline vec columns_turned(const Sweep *r, int64_t m, vec row)
{
    return fused(r->even[m], PLACED(row, row, EVENS), r->odd[m] * PLACED(row, row, ODDS));
}

/* A round of diagonalise(): all rotations of pairs from row `first` on, and turn_gram(). */
static void turn_one_gram(Sweep *r, int64_t rows, int64_t first)
{
    const int64_t stride = r->wide * LANES, pairs = pairs_from(rows, first), last = vectors_of(rows - first);
    for (int64_t i = 0; 2 * i < rows - first; i += LANES) { /* also where a last row is left over */
        const int64_t a = first + 2 * i;
        find_turns(r, first, i, pairs, every(r->gram + a * stride + a + 1, 2 * (stride + 1)), ENOUGH * ENOUGH);
    }
    for (int64_t i = 0; i < pairs; i++) {
        const vec c = all(r->c[i]), s = all(r->s[i]);
        double *ga = r->gram + (first + 2 * i) * stride + first, *gb = ga + stride, *x = ga + 2 * i + 1, left = *x;
        for (int64_t m = (2 * i + 2) / LANES; m < last; m++) {
            loose_vec *at = (loose_vec *)ga + m, *with = (loose_vec *)gb + m;
            vec u = *at, w = *with;
            rotate((Turn){c, s}, &u, &w);
            *at = columns_turned(r, m, u), *with = columns_turned(r, m, w);
        }
        *x = r->c[i] == 1 && r->s[i] == 0 ? left : 0;
    }
    if (first)
        for (int64_t m = 0; m < last; m++) {
            loose_vec *at = (loose_vec *)(r->gram + first) + m;
            *at = columns_turned(r, m, *at);
        }
}

/* Rotate the pairs of rows from row `first` on of m, `wide` vectors each. */
static void rotate_pairs(const Sweep *r, int64_t rows, int64_t first, vec *m, int64_t wide)
{
    for (int64_t i = 0; i < pairs_from(rows, first); i++) {
        vec *a = m + (first + 2 * i) * wide;
        rotate_rows((Turn){all(r->c[i]), all(r->s[i])}, a, a + wide, wide);
    }
}

/* askew() of one Gram matrix, its diagonal apart. */
static int one_is_askew(const double *gram, int64_t stride, const double *diagonal, int64_t rows, double above)
{
    double top = 0;
    for (int64_t a = 0; a < rows; a++) top = larger_number(top, diagonal[a]);
    top *= RANK_TOLERANCE * RANK_TOLERANCE;
    mask found = {0};
    for (int64_t b = 0; b < rows; b += LANES) {
        const vec q = *(const vec *)(diagonal + b);
        const mask columns = lane_numbers() + b;
        for (int64_t a = 0; a < least(rows, b + LANES); a++) {
            const vec p = all(diagonal[a]);
            const mask counts = (columns > a) & (columns < rows);
            found |= counts & oblique(p, q, *(const vec *)(gram + a * stride + b), above * above) & (larger(p, q) > top);
        }
    }
    return any(found);
}

/* The diagonal of v->gram, into `to`. */
static void diagonal_of(const Work *v, int64_t rows, double *to)
{
    for (int64_t a = 0; a < rows; a++) to[a] = ((const double *)v->gram)[a * (vectors_of(rows) * LANES + 1)];
}

/* diagonalise() of v->gram, which is left as it is. */
static void diagonalise_one(const Work *v, int64_t rows)
{
    const int64_t wide = vectors_of(rows);
    Sweep r = room_for_sweeps(v, rows);
    memset(v->sweep, 0, sweep_size(rows) * sizeof(vec));
    for (int64_t a = 0; a < rows; a++) memcpy(v->sweep + a * r.wide, v->gram + a * wide, wide * sizeof(vec));
    diagonal_of(v, rows, r.diagonal);
    memset(v->rotation, 0, rows * wide * sizeof(vec));
    for (int64_t a = 0; a < rows; a++) ((double *)v->rotation)[a * (wide * LANES + 1)] = 1;
    int64_t sweep = 0;
    for (; sweep < SWEEPS && one_is_askew(r.gram, r.wide * LANES, r.diagonal, rows, ENOUGH); sweep++)
        for (int64_t round = 0; round < rows; round++) {
            turn_one_gram(&r, rows, start_of(rows, sweep, round));
            rotate_pairs(&r, rows, start_of(rows, sweep, round), v->rotation, wide);
        }
    put_back(sweep, rows, v->rotation, wide);
}

/* orthogonalise() of one matrix. */
static void orthogonalise_one(const Work *v, double *g, int64_t rows, int64_t columns, int64_t stride)
{
    Sweep r = room_for_sweeps(v, rows);
    int64_t sweep = 0;
    int again = 1;
    for (; sweep < SWEEPS && again; sweep++) {
        again = 0;
        memset(r.diagonal, 0, (r.wide + 2) * sizeof(vec));
        for (int64_t a = 0; a < rows; a++) r.diagonal[a] = dot_across(g + a * stride, g + a * stride, columns);
        for (int64_t round = 0; round < rows; round++) {
            const int64_t first = start_of(rows, sweep, round), pairs = pairs_from(rows, first);
            for (int64_t i = 0; i < pairs; i += LANES) {
                const double *ga = g + (first + 2 * i) * stride, *lengths = r.diagonal + first + 2 * i;
                vec x = all(0);
                for (int64_t l = 0; l < least(LANES, pairs - i); l++, ga += 2 * stride) x[l] = dot_across(ga, ga + stride, columns);
                again |= any(oblique(every(lengths, 2), every(lengths + 1, 2), x, CONVERGED * CONVERGED));
                find_turns(&r, first, i, pairs, x, ORTHOGONAL);
            }
            rotate_pairs(&r, rows, first, (vec *)g, stride / LANES);
            rotate_pairs(&r, rows, first, v->rotation, vectors_of(rows));
        }
    }
    put_back(sweep, rows, (vec *)g, stride / LANES);
    put_back(sweep, rows, v->rotation, vectors_of(rows));
}

/* correct() of one matrix, into v->corrected. */
static void correct_one(const Work *v, int64_t rows)
{
    const int64_t wide = vectors_of(rows);
    const double *norm = (const double *)v->norm, *inverse = (const double *)v->inverse;
    for (int64_t a = 0; a < rows; a++)
        for (int64_t b = 0; b < wide; b++) {
            const vec sum = v->norm[b] + norm[a], cosine = v->gram[a * wide + b] * (v->inverse[b] * inverse[a]);
            const vec each = -cosine / larger(sum, all(NOTHING));
            v->gram[a * wide + b] = choose(lane_numbers() + b * LANES == a, all(0), each * norm[a]);
        }
    memcpy(v->corrected, v->rotation, rows * wide * sizeof(vec));
    spread_product(rows, wide, 1, rows, (double *)v->gram, wide * LANES, 1, v->rotation, wide, v->corrected, wide);
}

/* polar_by_rotations() of one matrix, whose rows and those of `turned` are `stride` apart. */
static double polar_of_one_by_rotations(
    Work *v, double *g, int64_t rows, int64_t columns, int64_t stride, int top_pair_only, double *turned)
{
    const int64_t wide = vectors_of(rows), across = stride / LANES;
    double *norm = (double *)v->norm, *inverse = (double *)v->inverse, top = 0, nuclear = 0;
    gram_of_one(v, g, rows, columns, stride);
    diagonalise_one(v, rows);
    spread_product(rows, across, 0, rows, (double *)v->rotation, wide * LANES, 1, (vec *)g, across, (vec *)turned, across);
    gram_of_one(v, turned, rows, columns, stride);
    for (int64_t b = 0; b < wide; b++) v->norm[b] = v->inverse[b] = all(0);
    diagonal_of(v, rows, norm);
    if (top_pair_only || one_is_askew((double *)v->gram, wide * LANES, norm, rows, NEARLY)) {
        orthogonalise_one(v, turned, rows, columns, stride);
        gram_of_one(v, turned, rows, columns, stride);
        diagonal_of(v, rows, norm);
    }
    int64_t first = -1;
    for (int64_t a = 0; a < rows; a++) {
        norm[a] = sqrt(norm[a]);
        nuclear += norm[a];
        first = norm[a] > top ? a : first;
        top = larger_number(top, norm[a]);
    }
    for (int64_t a = 0; a < rows; a++) {
        const int kept = top_pair_only ? first == a : norm[a] > RANK_TOLERANCE * top;
        inverse[a] = kept ? 1 / (norm[a] > 0 ? norm[a] : 1) : 0;
    }
    if (!top_pair_only) correct_one(v, rows);
    vec *of = top_pair_only ? v->rotation : v->corrected;
    for (int64_t a = 0; a < rows; a++)
        for (int64_t b = 0; b < wide; b++) of[a * wide + b] *= inverse[a];
    spread_product(rows, across, 0, rows, (double *)of, 1, wide * LANES, (vec *)turned, across, (vec *)g, across);
    return top_pair_only ? top : nuclear;
}

/* v->gram, the same in all lanes: what is made of it takes little, and is the work of a group. */
static void gram_to_small(const Work *v, int64_t rows)
{
    const double *gram = (const double *)v->gram;
    for (int64_t a = 0; a < rows; a++)
        for (int64_t b = a; b < rows; b++) v->small->gram[entry_at(rows, a, b)] = all(gram[a * vectors_of(rows) * LANES + b]);
}

/* to <- the factor in v->small times g. */
static void small_factor_times(const Work *v, int64_t rows, int64_t across, const double *g, double *to)
{
    double *factor = (double *)v->corrected;
    for (int64_t e = 0; e < rows * rows; e++) factor[e] = v->small->factor[e][0];
    spread_product(rows, across, 0, rows, factor, rows, 1, (const vec *)g, across, (vec *)to, across);
}

/* polar() of one matrix. */
static double polar_of_one(Work *v, double *g, int64_t rows, int64_t columns, int64_t stride, int top_pair_only, double *turned)
{
    const int64_t across = stride / LANES;
    if (top_pair_only || !has_functions(rows)) return polar_of_one_by_rotations(v, g, rows, columns, stride, top_pair_only, turned);
    vec nuclear;
    gram_of_one(v, g, rows, columns, stride);
    gram_to_small(v, rows);
    POLAR_OF[rows].first(v->small);
    small_factor_times(v, rows, across, g, turned);
    gram_of_one(v, turned, rows, columns, stride);
    gram_to_small(v, rows);
    if (any(POLAR_OF[rows].second(v->small, &nuclear)))
        return polar_of_one_by_rotations(v, g, rows, columns, stride, top_pair_only, turned);
    small_factor_times(v, rows, across, turned, g);
    return nuclear[0];
}

/* polar_in_row_space() of one matrix. */
SHARED vec polar_of_one_in_row_space(const Group *p, Work *v, int top_pair_only, vec *a)
{
    const int64_t k = p->k, rows = k - 1, columns = p->features, stride = p->d * LANES, tall = vectors_of(rows) * LANES;
    double *reduced = (double *)v->reduced, *factor = (double *)v->factor, *turned = (double *)a, sizes;
    into_row_space(v, k, p->d, a);
    if (rows <= columns) {
        sizes = polar_of_one(v, reduced, rows, columns, stride, top_pair_only, factor);
    } else {
        transpose_across(reduced, rows, columns, stride, turned, tall);
        sizes = polar_of_one(v, turned, columns, rows, tall, top_pair_only, factor);
        transpose_across(turned, columns, rows, tall, reduced, stride);
        fill_up(reduced, rows, columns, stride);
    }
    out_of_row_space(v, k, p->d, a);
    return all(sizes);
}

#endif
