/* Steps of a linear model, from the equations of models/linear.py, the losses, scaled.py and optimizers/: one call makes
 * many steps of LANES runs at once.
 *
 * A run is a lane: entry l of every vector belongs to run l, so that sums over samples, features and classes are plain loops, and
 * a run's numbers do not depend on its neighbours. What only some lanes need is computed for all and selected.
 *
 * A run alone would leave most lanes idle: its lanes are neighbouring samples or features. It is taken out of its group for the time
 * of a call (alone.h); what goes entry by entry is the same code, and what differs goes by `alone` (across.h).
 *
 * Arrays are (rows, columns) of vectors, row-major: x (n, d), w and buffers (k, d), scores (k, n). A tensor in the log domain is
 * a mantissa (k, d) and one log scale a class row (k). Everything stays finite: samples' weights are cut at e^FLOOR of the
 * largest, factors between scales at e^LOWEST, and buffers are scaled by powers of two. */

/* Losses, rules, momenta, and the constants RANK_TOLERANCE, FLOOR and CANCELLED are macros that rules.py gives on the
 * compiler's command line (DEFINITIONS). */
#include "made_with.h"

#include "alone.h"
#include "anchors.h"
#include "batches.h"
#include "decompositions.h"
#include "directions.h"
#include "entries.h"
#include "gradient.h"
#include "group.h"
#include "logarithms.h"
#include "orders.h"
#include "records.h"
#include "scales.h"
#include "sizes.h"
#include "sizes_of_many.h"
#include "vectors.h"

#define SMALL 0x1p-100       /* a buffer's row is scaled anew when its largest entry leaves [SMALL, LARGE] */
#define LARGE 0x1p+100
#define LEAST_EXPONENT -1000 /* powers of two by which rows are scaled: 2^1023 is the largest there is */
#define FORGOTTEN -64        /* log2 of a number that changes nothing when it is taken from one */
#define LOG_2 0x1.62e42fefa39efp-1

/* Bring a row whose entries have become too small or large for their squares back to about one; one that is zero has no scale, so that
 * it makes nothing else underflow. */
static void normalise_row(const Group *p, vec *row, vec *row_log)
{
    vec top = largest_in_rows(p, row, 1, p->d);
    *row_log = choose(top == 0, all(-INFINITY), *row_log);
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
    const vec beta = weight_of_past(p, p->m_log, p->k), gain = weight_of_new(p, beta);
    for (int64_t c = 0; c < p->k; c++) {
        vec old, new, *m = p->m + c * p->d;
        p->m_log[c] = in_common(counted(beta, p->m_log[c]), log_scale(v, c), &old, &new);
        old *= beta;
        new *= gain;
        for (int64_t j = 0; j < p->d; j++) m[j] = old * m[j] + new * v->g[c * p->d + j];
        normalise_row(p, m, p->m_log + c);
    }
}

/* r <- sqrt((old r)^2 + (new g)^2) of a few entries. */
__attribute__((always_inline)) static inline void average_few_squares(const int count, vec old, vec *r, vec new, const vec *g)
{
    vec a[ABREAST], b[ABREAST];
    EACH a[i] = old * r[i], b[i] = new * g[i];
    hypotenuses(count, a, b);
    EACH r[i] = a[i];
}

/* r = sqrt(beta2 r^2 + (1 - beta2) g^2). */
static void average_squares(const Group *p, const Work *v)
{
    vec keep = root(*p->beta2), add = root(1 - *p->beta2);
    for (int64_t c = 0; c < p->k; c++) {
        const vec *g = v->g + c * p->d;
        vec old, new, *r = p->r + c * p->d;
        p->r_log[c] = in_common(counted(*p->beta2, p->r_log[c]), log_scale(v, c), &old, &new);
        old *= keep;
        new *= add;
        int64_t j = 0;
        for (; j + ABREAST <= p->d; j += ABREAST) average_few_squares(ABREAST, old, r + j, new, g + j);
        for (; j < p->d; j++) average_few_squares(1, old, r + j, new, g + j);
        normalise_row(p, r, p->r_log + c);
    }
}

/* ahead = ahead_beta m + ahead_gain g. */
static void look_ahead(const Group *p, Work *v)
{
    for (int64_t c = 0; c < p->k; c++) {
        vec old, new;
        v->ahead_log[c] = in_common(counted(*p->ahead_beta, p->m_log[c]), log_scale(v, c), &old, &new);
        old *= *p->ahead_beta;
        new *= *p->ahead_gain;
        for (int64_t e = c * p->d; e < (c + 1) * p->d; e++) v->ahead[e] = old * p->m[e] + new * v->g[e];
    }
}

/* 1 - beta^t, in every lane: one from step `forgotten` on, where beta^t is below half a round-off unit. */
static vec debias(vec beta, vec forgotten, double t)
{
    if (!any(forgotten > t)) return all(1);
    vec b = all(1 - pow(beta[0], t));
    if (any(beta != beta[0]))
        for (int l = 1; l < LANES; l++) b[l] = 1 - pow(beta[l], t);
    return b;
}

static vec steps_to_forget(vec beta)
{
    vec steps = beta;
    for (int l = 0; l < LANES; l++) steps[l] = FORGOTTEN / log2(beta[l]);
    return steps;
}

/* Decoupled weight decay: w <- (1 - eta decay) w. */
static void shrink(const Group *p, vec eta)
{
    vec keep = 1 - eta * *p->decay;
    for (int64_t e = 0; e < p->k * p->d; e++) p->w[e] *= keep;
}

/* w <- w - eta (factor m) / (inverse r + eps) of a few entries. */
__attribute__((always_inline)) static inline void take_few_ratios(
    const int count, vec *w, vec eta, vec factor, const vec *m, vec inverse, const vec *r, vec eps)
{
    vec a[ABREAST], b[ABREAST];
    EACH a[i] = m[i] * factor, b[i] = r[i] * inverse + eps;
    divide(count, a, b);
    EACH w[i] -= eta * choose(m[i] == 0, all(0), a[i]);
}

static void adam_step(const Group *p, Work *v, vec eta, int64_t t)
{
    vec correct_m = all(1), correct_r = all(1);
    if (p->bias_correction) {
        correct_m = debias(*p->beta, v->forget_m, t);
        correct_r = root(debias(*p->beta2, v->forget_r, t));
    }
    if (p->entries) {
        adam_step_by_entry(p, eta, correct_m, correct_r);
        return;
    }
    for (int64_t c = 0; c < p->k; c++) {
        vec factor = exponential(p->m_log[c] - p->r_log[c]) / correct_m, inverse = 1 / correct_r;
        vec eps = eps_in(p, p->r_log[c]), *w = p->w + c * p->d;
        const vec *m = p->m + c * p->d, *r = p->r + c * p->d;
        int64_t j = 0;
        for (; j + ABREAST <= p->d; j += ABREAST) take_few_ratios(ABREAST, w + j, eta, factor, m + j, inverse, r + j, eps);
        for (; j < p->d; j++) take_few_ratios(1, w + j, eta, factor, m + j, inverse, r + j, eps);
    }
}

int64_t lanes(void) { return LANES; }

const char *made_with(void) { return MADE_WITH; }

/* Vectors that so many neighbouring numbers of a run take. */
static int64_t taken(int64_t alone, int64_t numbers) { return alone ? vectors_of(numbers) : numbers; }

/* Scratch memory laid out from `start` on, if there is any yet; returns how many vectors it takes. Of runs with n samples, k
 * classes and d features. */
static int64_t laid_out(
    Work *v, vec *start, int64_t alone, int64_t n, int64_t k, int64_t d, int64_t parts, int64_t batch, int64_t entries)
{
    const int64_t row = taken(alone, d), column = taken(alone, k), few = least(k, d), rows = batch ? k : 0;
    const int64_t either = k * row > d * column ? k * row : d * column; /* of a matrix or its transpose */
    int64_t used = 0;
    v->looks = 0;
#define TAKE(name, count) v->name = start ? start + used : NULL, used += (count)
    TAKE(scores, k * taken(alone, n));
    TAKE(own, taken(alone, n));
    TAKE(gap, taken(alone, n));
    TAKE(size, taken(alone, n));
    TAKE(g, k * row);
    TAKE(ahead, k * row);
    TAKE(reduced, either);
    TAKE(factor, either);
    TAKE(direction, either);
    TAKE(divide, k * parts);
    TAKE(gram, few * taken(alone, few));
    TAKE(rotation, few * taken(alone, few));
    TAKE(corrected, few * taken(alone, few));
    TAKE(across, alone ? either : 0);
    TAKE(sweep, alone ? sweep_size(few) : 0);
    TAKE(norm, few);
    TAKE(inverse, few);
    TAKE(basis, k);
    TAKE(row, k);
    TAKE(ahead_log, k);
    TAKE(dual, parts);
    TAKE(dual_log, parts);
    TAKE(batch_x, batch * row);
    TAKE(batch_columns, alone ? d * taken(alone, batch) : 0);
    TAKE(here, rows * row); /* gradients of batches alone are corrected */
    TAKE(mean, rows * row);
    TAKE(here_log, entries ? rows * row : rows);
    TAKE(mean_log, entries ? rows * row : rows);
    TAKE(losses, taken(alone, n));
    TAKE(g_log, entries ? k * row : 0);
    TAKE(ahead_m, entries ? k * row : 0);
    TAKE(ahead_m_log, entries ? k * row : 0);
    v->small = (Small *)(start ? start + used : NULL), used += sizeof(Small) / sizeof(vec);
    v->batch_y = (mask *)(start ? start + used : NULL), used += taken(alone, batch);
    if (!alone) v->turn = (Turn *)(start ? start + used : NULL), used += turns_of(few) * (int64_t)(sizeof(Turn) / sizeof(vec));
#undef TAKE
    return used;
}

/* Doubles of memory that `work` of a group, or of a run alone, needs. */
int64_t work_size(int64_t alone, int64_t n, int64_t k, int64_t d, int64_t parts, int64_t batch, int64_t entries)
{
    Work v;
    return LANES * (laid_out(&v, NULL, alone, n, k, d, parts, batch, entries) + (alone ? held_alone(k, d, entries) : 0));
}

/* The average, or the gradient, that a step is taken from, after the buffer has taken in the gradient; its log scales. */
static const vec *stepped_from(const Group *p, Work *v, const vec **log_scales)
{
    if (p->entries) return stepped_from_entries(p, v, log_scales);
    if (p->momentum == BEFORE) look_ahead(p, v);
    if (p->momentum != NO_MOMENTUM) average_gradients(p, v);
    if (p->momentum == LOOK_AHEAD) look_ahead(p, v);
    *log_scales = p->momentum == AVERAGE ? p->m_log : v->ahead_log;
    if (p->momentum == AVERAGE) return p->m;
    if (p->momentum != NO_MOMENTUM) return v->ahead;
    for (int64_t c = 0; c < p->k; c++) v->ahead_log[c] = log_scale(v, c);
    return v->g;
}

static int64_t make_steps(
    const Group *p, int64_t first, int64_t steps, int64_t seen, const vec *eta, const double *share, const int32_t *index)
{
    Work v;
    laid_out(&v, p->work, p->alone, p->samples.count, p->k, p->features, p->parts, p->batch, p->entries);
    v.forget_m = steps_to_forget(*p->beta), v.forget_r = steps_to_forget(*p->beta2);
    for (int64_t r = 0; r + 1 < p->k; r++) v.basis[r] = all(1 / sqrt((r + 1.0) * (r + 2.0)));
    v.most_doubtful = largest_of(p->doubtful, p->d);
    if (p->alone) v.most_doubtful = largest_across(v.most_doubtful);
    if (p->anchored && first % p->anchored) {
        gradient_at_anchor(p, &p->samples, &v);
        keep_gradient(p, &v, v.mean, v.mean_log);
    }
    for (int64_t s = 0; s < steps; s++) {
        int due = p->anchored && (first + s) % p->anchored == 0;
        int looks = p->watched && s >= seen && (first + s) % p->watched == 0;
        if (share[s] != 0 || due || looks || !p->batch) evaluate(p, &p->samples, &v);
        if (looks && any(log_loss(p, &p->samples, &v) < *p->below)) return s;
        if (share[s] != 0) (p->entries ? collect_by_entry : collect)(p, &v, share[s]);
        if (due) {
            for (int64_t e = 0; e < p->k * p->d; e++) p->anchor[e] = p->w[e];
            keep_gradient(p, &v, v.mean, v.mean_log);
        }
        const Samples of = p->batch ? samples_of(p, &v, index + s * p->batch * LANES) : p->samples;
        if (p->batch) evaluate(p, &of, &v);
        v.log_divisor = p->per_loss ? log_loss(p, &of, &v) : all(0);
        if (p->anchored) reduce_variance(p, &of, &v);
        const vec *from_log, *from = stepped_from(p, &v, &from_log);
        const vec rate = p->alone ? all(eta[s][p->lane]) : eta[s], size = rate * exponential(-v.log_divisor);
        if (any(*p->decay != 0)) shrink(p, size);
        if (p->rule == ADAM) {
            (p->entries ? average_squares_by_entry : average_squares)(p, &v);
            adam_step(p, &v, size, first + s + 1);
        } else {
            descend(p, &v, from, from_log, rate);
        }
    }
    return steps;
}

/* Updates first + 1, ..., first + steps, the s-th with eta[s], from the samples index[s] (batch, LANES) where there are
 * mini-batches. share[s], where not zero, is the weight of the full gradient before that update in the certificates' average.
 * With variance reduction an update whose number of updates before is a multiple of `anchored` begins at its own anchor.
 *
 * Returns how many updates were made: fewer where the loss before an update other than the first `seen` is low enough. Of all
 * runs of a group; or, where `alone`, of the run in one lane of it, whose samples those of the group are. */
static int64_t advance(
    const Group *p, int64_t first, int64_t steps, int64_t seen, const vec *eta, const double *share, const int32_t *index)
{
    if (!p->alone) return make_steps(p, first, steps, seen, eta, share, index);
    Work v;
    Held held;
    Group own = *p;
    vec *memory = p->work + laid_out(&v, NULL, 1, p->samples.count, p->k, p->features, p->parts, p->batch, p->entries);
    hold(p, memory, &held, &own);
    const int64_t made = make_steps(&own, first, steps, seen, eta, share, index);
    give_back(p, &own);
    return made;
}

/* What a record says where the next step starts: of `runs` runs of a group, or of the run that is alone, from run `first` of the batch
 * on. `share`, where not zero, is the weight of the gradient there in the certificates' average. */
static void look(const Group *p, double share, int64_t first, int64_t runs, const Seen *to)
{
    Work v;
    Held held;
    Group own = *p;
    own.asks_loss = 1;
    vec *memory = p->work + laid_out(&v, p->work, p->alone, p->samples.count, p->k, p->features, p->parts, p->batch, p->entries);
    if (p->alone) hold(p, memory, &held, &own);
    v.most_doubtful = largest_of(own.doubtful, own.d);
    if (p->alone) v.most_doubtful = largest_across(v.most_doubtful);
    look_at(&own, &v, share, first, runs, to);
    if (p->alone && share != 0) rows_back(own.certificate, p->k, p->features, p->lane, p->certificate);
}

/* eta_t = lr t^-power of a group's runs for t = first + 1, ..., first + steps. */
static void fill_step_sizes(const Task *task, int64_t first, int64_t steps, vec *eta)
{
    const vec power = *task->power;
    const int one = !any(power != power[0]);
    for (int64_t s = 0; s < steps; s++) {
        const double t = first + s + 1;
        vec shrunk = all(pow(t, -power[0]));
        if (!one)
            for (int l = 1; l < LANES; l++) shrunk[l] = pow(t, -power[l]);
        eta[s] = shrunk * *task->lr;
    }
}

/* The updates of a call, see advance(), of the tasks of a batch that no other thread has taken: `next` is the first of them. No task
 * goes further than another that has ended. Where a record follows, it is written what that needs, see look(). `work` and `eta`
 * (call->steps) are scratch memory of this thread. */
int64_t advance_all(const Task *tasks, int64_t *next, vec *work, vec *eta, const Call *call)
{
    int64_t fewest = call->steps;
    for (int64_t i; (i = __atomic_fetch_add(next, 1, __ATOMIC_RELAXED)) < call->tasks;) {
        const Task *task = tasks + i;
        Group group = task->group;
        group.work = work, group.watched = call->watched, group.asks_loss |= call->watched > 0;
        if (call->steps) {
            const int32_t *index = call->index ? call->index + task->place * call->index_size : NULL;
            fill_step_sizes(task, call->first, fewest, eta);
            fewest = least(fewest, advance(&group, call->first, fewest, call->seen, eta, call->share, index));
        }
        if (call->look) look(&group, call->look_share, task->first, task->runs, call->look);
    }
    return fewest;
}
