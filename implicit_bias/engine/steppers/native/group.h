/* What a call is given, and its scratch memory. structures.py has the same fields in the same order. */

#ifndef GROUP_H
#define GROUP_H

#include "across.h"
#include "jacobi.h"
#include "vectors.h"
#include "zolotarev.h"

/* A block of columns of w, and the norm in which it descends. */
typedef struct {
    int64_t first, end, kind; /* columns first, ..., end - 1 */
    double weight;            /* of its norm among those of the parts */
} Part;

/* Training samples; the loss is their mean. */
typedef struct {
    int64_t count;
    int64_t n; /* vectors of a row of scores: one a sample; of a run alone, one for LANES samples */
    double log_n;
    const vec *x;       /* (count, d) */
    const vec *columns; /* (features, n): the same transposed, of a run alone */
    const mask *y;      /* (n): labels */
} Samples;

/* One group of LANES runs, or one run alone: see across.h. */
typedef struct {
    int64_t alone, lane, features; /* which run, alone */
    int64_t k, d; /* rows, and vectors of a row: one a feature; of a run alone, one for LANES features */
    int64_t loss, rule, momentum, bias_correction, iterations;
    int64_t parts, outer, by_dual; /* how many parts; what composes their norms; whether a step has the length N_*(g) */
    double clip;                   /* and at most this */
    Samples samples;
    double log_batch;
    int64_t batch;              /* samples of a mini-batch; 0: steps are made from all */
    int64_t anchored;           /* variance reduction: steps from one anchor to the next; 0: there is none */
    int64_t asks_loss;          /* whether losses are: watched, or what steps are divided by */
    int64_t per_loss;           /* whether step sizes are divided by the loss of the samples that a step is made from */
    int64_t from_first;         /* whether averages begin with the first gradient, not with zero */
    int64_t entries;            /* whether buffers have a log scale an entry, not a row: entries.h */
    int64_t watched;            /* steps from one look at the loss of all samples to the next; 0: it is not looked at */
    const Part *part;           /* one each of the parts; what follows is of each run */
    const vec *below;           /* log losses below which a call ends where they are looked at */
    const vec *smallest_row;    /* a class row whose largest entry is below it gets a scale of its own */
    const vec *doubtful;        /* (d): times the sum of a row's weights, what its entries are looked at closer below */
    vec *w;                     /* (k, d) */
    vec *m, *m_log, *r, *r_log; /* average of gradients, root of that of squares: (k, d), (k) or (k, d) */
    vec *anchor;                /* (k, d): w where gradients are corrected from */
    vec *certificate;           /* (k, d): average of the certificate's matrices */
    const vec *beta, *gain;     /* m <- beta m + gain g */
    const vec *ahead_beta, *ahead_gain; /* the step's average is ahead_beta m + ahead_gain g, where it is not m */
    const vec *beta2, *log_eps, *decay;
    const vec *dual_exponent;   /* q of l_p and Schatten norms: powers.h */
    const double *coefficients; /* (iterations, 3): of Newton and Schulz's polynomials */
    vec *work;                  /* work_size() doubles */
} Group;

typedef struct {
    vec *scores, *own, *gap, *size;    /* (k, n), (n), (n), (n): weights in place of scores later; gradient.h */
    vec *losses;                       /* (n), of samples, where the loss is asked for and is no exponential one */
    vec *g, *ahead, *reduced, *factor; /* (k, d) each; the last two (d, k), too */
    vec *direction, *divide;           /* (k, d) or (d, k), (parts, k): part after part; what each of its rows is to be divided by */
    vec *gram, *rotation, *corrected;  /* (min(k, d), min(k, d)) */
    Small *small;                      /* of polar factors without rotations */
    vec *across, *sweep;               /* (d, k) or (k, d), and sweep_size(min(k, d)), of a run alone */
    vec *norm, *inverse, *basis;       /* (k): lengths of rows; one over them; over those of Helmert's basis */
    Turn *turn;                        /* a sweep of min(k, d) rows */
    vec *row, *ahead_log;              /* (k): log scales of g less `unit`, of ahead */
    vec *dual, *dual_log;              /* (parts): N_*(g) of each, and its log scale */
    vec *batch_x;                      /* (batch, d): features of a step's samples, which differ from lane to lane */
    vec *batch_columns;                /* the same transposed, of a run alone */
    mask *batch_y;                     /* (batch) */
    vec *here, *here_log;              /* (k, d), (k) or (k, d): a batch's gradient, and its log scales */
    vec *mean, *mean_log;              /* the same of all samples, at the anchor */
    const vec *entry, *entry_log;       /* (k, d): what a step is taken from, by entry */
    vec *g_log, *ahead_m, *ahead_m_log; /* (k, d): by entry, log scales of g, the average that is not m */
    vec forget_m, forget_r;            /* steps after which nothing is left of the first gradient */
    vec log_divisor;                   /* log of the loss that eta is divided by; 0: it is not */
    vec unit, total, most_doubtful;    /* the largest of `doubtful` */
    double log_n;                      /* of the samples of g */
    int looks;                         /* whether a record follows, which needs to know: */
    mask far;                          /* the lanes in which some score is no finite number */
} Work;

#endif
