/* Steps of a linear model on a GPU, from the equations of models/linear.py, the losses, scaled.py and optimizers/: one launch makes
 * many steps of all runs. A run is a block of threads, which never waits for another; what it reads again and again lies in the
 * block's shared memory. Sums go in one order whatever the batch is, so that a run's bits do not depend on it.
 *
 * Compiled for one problem: N samples, K classes, D features, the rule and its shapes are macros (kernel.py), so that loops over
 * classes are unrolled and what a rule does not do is not there.
 *
 * A sample belongs to a thread, which keeps its column of scores to itself; a class row belongs to a warp. In between the block
 * waits: for the scale of a run's weights, for its gradient, for what a direction needs of all rows. */

#define WARPS (THREADS / 32)
#define ALL 0xffffffffu
#define INF __longlong_as_double(0x7ff0000000000000LL)
#define LOG_2 0x1.62e42fefa39efp-1
#define SMALL 0x1p-100 /* a buffer's row is scaled anew when its largest entry leaves [SMALL, LARGE] */
#define LARGE 0x1p+100
#define LEAST_EXPONENT -1000

#define ENTRIES (K * D)
/* A thread sums CLASSES of a column of the gradient at a time, over all samples or, where these are many, over one of SEGMENTS parts;
 * of a sample's scores SCORES, an even number, in each of CHUNKS turns. */
#define SCORES ((K + 2 * CHUNKS - 1) / (2 * CHUNKS) * 2)
#define TILES ((K + CLASSES - 1) / CLASSES * D)
#define PIECE ((N + 2 * SEGMENTS - 1) / (2 * SEGMENTS) * 2)
/* Rows are padded: x, whose rows neighbouring threads read at once, so that they meet different banks; p and w, of which two
 * neighbours are read at once, to even lengths. */
#if X_SHARED
#define XS (D | 1)
#else
#define XS D
#endif
#define PS ((N + 1) / 2 * 2 + 2)
#define WS (CHUNKS * SCORES)

/* In the row space of vectors that sum to zero, k - 1 rows: FEW vectors of LONG numbers, with the rotations that they have had. */
#define ROWS_OF_SPACE (K - 1)
#define TALL (ROWS_OF_SPACE > D)
#define FEW (TALL ? D : ROWS_OF_SPACE)
#define LONG (TALL ? ROWS_OF_SPACE : D)
#define VS ((LONG + FEW) | 1)
#define MOST_SWEEPS 40
#define NEARLY 1e-9    /* cosines so small are square roots of nothing: one sweep more leaves none */
#define NO_COSINE 1e-16

/* What all runs have, one after the other; data may be shared. */
struct Arrays {
    const double *x;         /* (sets, N, D) */
    const double *columns;   /* (sets, D, N): the same, where it stays in the GPU's memory */
    const long long *y;      /* (sets, N) */
    const double *numbers;   /* (runs, NUMBERS) */
    const double *doubtful;  /* (sets, D) */
    const double *shares;    /* (steps): the weight of the gradient before a step in the certificates' average */
    double *w, *m, *r;       /* (runs, K, D) */
    double *m_log, *r_log;   /* (runs, K) */
    double *certificate;     /* (runs, K, D) */
    long long sets;
};

/* A run's own numbers. */
enum { LR, POWER, BETA, GAIN, AHEAD_BETA, AHEAD_GAIN, BETA2, LOG_EPS, DECAY, SMALLEST_ROW, NUMBERS };

/* The shared memory of a block. */
struct Block {
    const double *x, *columns;
    double *w, *p, *g, *parts, *m, *r, *top, *g_log, *m_log, *r_log, *from_log, *scratch, *eta, *correct_m, *correct_r, *v, *u, *norm;
    int *y;
};

__device__ static double larger(double a, double b) { return a < b ? b : a; }

__device__ static double warp_max(double a)
{
    for (int away = 16; away; away /= 2) a = larger(a, __shfl_xor_sync(ALL, a, away));
    return a;
}

__device__ static double warp_sum(double a)
{
    for (int away = 16; away; away /= 2) a += __shfl_xor_sync(ALL, a, away);
    return a;
}

/* Of all threads. `slot` is memory of its own for each call, since a warp may be there again before another has read. */
__device__ static double block_max(double *scratch, int slot, double a)
{
    double *of_warps = scratch + slot * WARPS;
    a = warp_max(a);
    if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = a;
    __syncthreads();
    for (int i = 0; i < WARPS; i++) a = larger(a, of_warps[i]);
    return a;
}

__device__ static double block_sum(double *scratch, int slot, double a)
{
    double *of_warps = scratch + slot * WARPS, sum = 0;
    a = warp_sum(a);
    if (threadIdx.x % 32 == 0) of_warps[threadIdx.x / 32] = a;
    __syncthreads();
    for (int i = 0; i < WARPS; i++) sum += of_warps[i];
    return sum;
}

enum { UNIT, TOTAL, TOP, SIZE, FIRST, SLOTS };

__device__ static double floored(double log) { return exp(log < FLOOR ? FLOOR : log); }

/* p[c, i] = <w_c, x_i> of sample i. */
__device__ __noinline__ static void scores_of(const Block &b, int i)
{
#if X_SHARED
    const double *x = b.x + i * XS;
#else
    const double *x = b.columns + i; /* neighbouring threads read neighbours */
#endif
    for (int chunk = 0; chunk < CHUNKS; chunk++) {
        double z[SCORES];
#pragma unroll
        for (int c = 0; c < SCORES; c++) z[c] = 0;
#pragma unroll 8
        for (int j = 0; j < D; j++) {
            const double feature = x[X_SHARED ? j : (long long)j * N];
            const double2 *w = (const double2 *)(b.w + j * WS + chunk * SCORES);
#pragma unroll
            for (int c = 0; c < SCORES / 2; c++) {
                const double2 pair = w[c];
                z[2 * c] += pair.x * feature;
                z[2 * c + 1] += pair.y * feature;
            }
        }
#pragma unroll
        for (int c = 0; c < SCORES; c++)
            if (chunk * SCORES + c < K) b.p[(chunk * SCORES + c) * PS + i] = z[c];
    }
}

/* The largest score of sample i but its label's. */
__device__ static double top_of_others(const Block &b, int i)
{
    double top = -INF;
#pragma unroll 4
    for (int c = 0; c < K; c++) top = c == b.y[i] ? top : larger(top, b.p[c * PS + i]);
    return top;
}

/* Scores become coefficients in units of e^unit: the weights of the other classes, and minus their sum, which is returned, at the
 * label. losses/cross_entropy.py and losses/exponential.py: terms. */
__device__ static double weigh(const Block &b, int i, double unit)
{
    const int y = b.y[i];
    const double top = b.top[i], gap = top - b.p[y * PS + i];
    double size = 0;
#pragma unroll 2
    for (int c = 0; c < K; c++) {
        const double shape = c == y ? 0 : floored(b.p[c * PS + i] - top);
        b.p[c * PS + i] = shape;
        size += shape;
    }
#if LOSS == EXPONENTIAL
    const double share = floored(gap - unit);
#else
    const double low = gap < 0 ? gap : 0;
    const double share = floored(low - unit) / (exp(low - gap) + size * exp(low));
#endif
    for (int c = 0; c < K; c++) b.p[c * PS + i] *= share;
    b.p[y * PS + i] = -size * share;
    return size * share;
}

/* g_c = sum_i p[c, i] x_i, or of each part of the samples its sum, which are added up then. */
__device__ __noinline__ static void weighted_sum(const Block &b)
{
    for (int task = threadIdx.x; task < TILES * SEGMENTS; task += THREADS) {
        const int tile = task % TILES, segment = task / TILES, j = tile % D, c0 = tile / D * CLASSES;
        const int end = (segment + 1) * PIECE < N ? (segment + 1) * PIECE : N;
        double sum[CLASSES];
#pragma unroll
        for (int c = 0; c < CLASSES; c++) sum[c] = 0;
        const double *x = b.x + j;
        int i = segment * PIECE;
#pragma unroll 4
        for (; i + 1 < end; i += 2) {
            const double one = x[(long long)i * XS], other = x[(long long)(i + 1) * XS];
#pragma unroll
            for (int c = 0; c < CLASSES; c++)
                if (K % CLASSES == 0 || c0 + c < K) {
                    const double2 p = *(const double2 *)(b.p + (c0 + c) * PS + i);
                    sum[c] += p.x * one;
                    sum[c] += p.y * other;
                }
        }
        if (i < end) {
#pragma unroll
            for (int c = 0; c < CLASSES; c++)
                if (K % CLASSES == 0 || c0 + c < K) sum[c] += b.p[(c0 + c) * PS + i] * x[(long long)i * XS];
        }
        double *to = segment ? b.parts + (segment - 1) * ENTRIES : b.g;
#pragma unroll
        for (int c = 0; c < CLASSES; c++)
            if (K % CLASSES == 0 || c0 + c < K) to[(c0 + c) * D + j] = sum[c];
    }
    if (SEGMENTS == 1) return;
    __syncthreads();
    for (int e = threadIdx.x; e < ENTRIES; e += THREADS)
        for (int segment = 1; segment < SEGMENTS; segment++) b.g[e] += b.parts[(segment - 1) * ENTRIES + e];
}

/* Whether an entry of g may be zero, of those that weighted_sum() has just written by this very thread. */
__device__ static int doubted(const Block &b, const double *doubtful, double total)
{
    int doubt = 0;
    if (SEGMENTS == 1) {
        for (int tile = threadIdx.x; tile < TILES; tile += THREADS) {
            const int j = tile % D, c0 = tile / D * CLASSES;
            for (int c = c0; c < c0 + CLASSES && c < K; c++) doubt |= fabs(b.g[c * D + j]) < total * doubtful[j];
        }
    } else {
        for (int e = threadIdx.x; e < ENTRIES; e += THREADS) doubt |= fabs(b.g[e]) < total * doubtful[e % D];
    }
    return doubt;
}

/* Coefficients of sample i by logarithms, each row in units of its own largest: first the logarithms. models/linear.py: _deep. */
__device__ static void log_coefficients(const Block &b, int i)
{
    scores_of(b, i);
    const int y = b.y[i];
    const double own = b.p[y * PS + i], top = top_of_others(b, i);
    double size = 0;
#pragma unroll 1
    for (int c = 0; c < K; c++) size += c == y ? 0 : floored(b.p[c * PS + i] - top);
    const double a = log(size) + (top - own);
#if LOSS == EXPONENTIAL
    const double others = 0, sum = a;
#else
    const double tail = log1p(exp(-fabs(a))), others = (a < 0 ? 0 : a) + tail, sum = (a < 0 ? a : 0) - tail;
#endif
    for (int c = 0; c < K; c++) b.p[c * PS + i] = c == y ? sum : b.p[c * PS + i] - own - others;
}

/* Where some row is too small for the common scale, all of the run's rows with one of their own. */
__device__ static void deepen(const Block &b)
{
    const int lane = threadIdx.x % 32;
    for (int i = threadIdx.x; i < N; i += THREADS) log_coefficients(b, i);
    __syncthreads();
    for (int c = threadIdx.x / 32; c < K; c += WARPS) {
        double top = -INF;
        for (int i = lane; i < N; i += 32) top = larger(top, b.p[c * PS + i]);
        top = warp_max(top);
        for (int i = lane; i < N; i += 32) {
            const double share = floored(b.p[c * PS + i] - top);
            b.p[c * PS + i] = c == b.y[i] ? -share : share;
        }
        if (lane == 0) b.g_log[c] = top - LOG_N;
    }
    __syncthreads();
    weighted_sum(b);
    __syncthreads();
}

/* Entries of which no more than CANCELLED of their contributions' sizes is left, summed with the errors of all additions made up for,
 * become zero. models/linear.py: _with_zeros. */
__device__ static void clear_cancelled(const Block &b, const double *doubtful)
{
    const int lane = threadIdx.x % 32;
    for (int c = threadIdx.x / 32; c < K; c += WARPS) {
        double size = 0;
        for (int i = lane; i < N; i += 32) size += fabs(b.p[c * PS + i]);
        size = warp_sum(size);
        for (int j = lane; j < D; j += 32) {
            const double g = b.g[c * D + j];
            if (!(fabs(g) < size * doubtful[j]) || g == 0) continue;
            double sum = 0, error = 0, sizes = 0;
#pragma unroll 1
            for (int i = 0; i < N; i++) {
                /* Rounded by itself: with the sum it would not be what the error is found of. */
                const double part = __dmul_rn(b.p[c * PS + i], b.x[(long long)i * XS + j]), next = sum + part, added = next - sum;
                error += (sum - (next - added)) + (part - added);
                sum = next;
                sizes += fabs(part);
            }
            if (fabs(sum + error) <= CANCELLED * sizes) b.g[c * D + j] = 0;
        }
    }
    __syncthreads();
}

__device__ __noinline__ static void look_closer(const Block &b, const double *doubtful, double smallest_row)
{
    const int lane = threadIdx.x % 32;
    int small = 0;
    for (int c = threadIdx.x / 32; c < K; c += WARPS) {
        double top = 0;
        for (int j = lane; j < D; j += 32) top = larger(top, fabs(b.g[c * D + j]));
        small |= warp_max(top) < smallest_row;
    }
    if (__syncthreads_or(small)) deepen(b);
    clear_cancelled(b, doubtful);
}

/* The gradient into g with a log scale a row; returns the sum of the weights in units of e^unit, the log of which is given. */
__device__ static double gradient(const Block &b, const double *doubtful, double smallest_row, double *unit)
{
    double top = -INF, sum = 0;
    for (int i = threadIdx.x; i < N; i += THREADS) {
        scores_of(b, i);
        b.top[i] = top_of_others(b, i);
        const double gap = b.top[i] - b.p[b.y[i] * PS + i];
#if LOSS == EXPONENTIAL
        top = larger(top, gap);
#else
        top = larger(top, gap < 0 ? gap : 0);
#endif
    }
    *unit = block_max(b.scratch, UNIT, top);
    for (int i = threadIdx.x; i < N; i += THREADS) sum += weigh(b, i, *unit);
    const double total = block_sum(b.scratch, TOTAL, sum); /* and p is whole */
    weighted_sum(b);
    for (int c = threadIdx.x; c < K; c += THREADS) b.g_log[c] = *unit - LOG_N;
    if (__syncthreads_or(doubted(b, doubtful, total))) look_closer(b, doubtful, smallest_row);
    return total;
}

/* The log scale of a buffer that counts with a weight. */
__device__ static double counted(double weight, double log_scale) { return weight == 0 ? -INF : log_scale; }

/* Factors that bring two numbers to a common scale, whose logarithm is returned. */
__device__ static double in_common(double a_log, double b_log, double *a, double *b)
{
    const double common = larger(a_log, b_log), safe = common == -INF ? 0 : common;
    *a = exp(a_log - safe), *b = exp(b_log - safe);
    return common;
}

/* Bring a warp's row whose entries, the largest is given, have become too small or large for their squares back to about one; returns
 * its log scale. A row that is zero has none, so that it makes nothing else underflow. */
__device__ static double normalised(double *row, double top, double row_log)
{
    top = warp_max(top);
    if (top == 0) return -INF;
    if (!(top > 0 && top < INF) || (top >= SMALL && top <= LARGE)) return row_log;
    const int e = ilogb(top) < LEAST_EXPONENT ? LEAST_EXPONENT : ilogb(top);
    const double factor = scalbn(1.0, -e);
    for (int j = threadIdx.x % 32; j < D; j += 32) row[j] *= factor;
    return row_log + e * LOG_2;
}

/* Row c of the average takes in the gradient's; where a step looks ahead, that becomes the gradient's row. */
__device__ static void average(const Block &b, const double *own, int c, double beta, double gain)
{
#if MOMENTUM != NO_MOMENTUM
    double *m = b.m + c * D, *g = b.g + c * D, old, new_, top = 0;
    const double m_log = b.m_log[c], g_log = b.g_log[c];
    double common = in_common(counted(beta, m_log), g_log, &old, &new_);
    old *= beta, new_ *= gain;
#if MOMENTUM == BEFORE
    double before, now;
    const double ahead_log = in_common(counted(own[AHEAD_BETA], m_log), g_log, &before, &now);
    before *= own[AHEAD_BETA], now *= own[AHEAD_GAIN];
#endif
    for (int j = threadIdx.x % 32; j < D; j += 32) {
        const double next = old * m[j] + new_ * g[j];
#if MOMENTUM == BEFORE
        g[j] = before * m[j] + now * g[j];
#endif
        m[j] = next;
        top = larger(top, fabs(next));
    }
    common = normalised(m, top, common);
#if MOMENTUM == LOOK_AHEAD
    double of_m, of_g;
    const double ahead_log = in_common(counted(own[AHEAD_BETA], common), g_log, &of_m, &of_g);
    of_m *= own[AHEAD_BETA], of_g *= own[AHEAD_GAIN];
    for (int j = threadIdx.x % 32; j < D; j += 32) g[j] = of_m * m[j] + of_g * g[j];
#endif
    __syncwarp();
    if (threadIdx.x % 32 == 0) {
        b.m_log[c] = common;
#if MOMENTUM == AVERAGE
        b.from_log[c] = common;
#else
        b.from_log[c] = ahead_log;
#endif
    }
#else
    if (threadIdx.x % 32 == 0) b.from_log[c] = b.g_log[c];
#endif
    __syncwarp();
}

/* sqrt(a^2 + b^2) from correctly rounded operations. */
__device__ static double hypotenuse(double a, double b)
{
    a = fabs(a), b = fabs(b);
    const double large = larger(a, b), small = a < b ? a : b, ratio = small / (large == 0 ? 1 : large);
    return large * sqrt(1 + ratio * ratio);
}

__device__ static void average_squares(const Block &b, const double *own, int c)
{
    double *r = b.r + c * D, *g = b.g + c * D, old, new_, top = 0;
    const double common = in_common(counted(own[BETA2], b.r_log[c]), b.g_log[c], &old, &new_);
    old *= sqrt(own[BETA2]), new_ *= sqrt(1 - own[BETA2]);
    for (int j = threadIdx.x % 32; j < D; j += 32) {
        r[j] = hypotenuse(old * r[j], new_ * g[j]);
        top = larger(top, r[j]);
    }
    const double scaled = normalised(r, top, common);
    __syncwarp();
    if (threadIdx.x % 32 == 0) b.r_log[c] = scaled;
    __syncwarp();
}

/* Row c of w after a step of its own; w is (D, K) here. */
__device__ static void step_of_row(const Block &b, const double *own, int c, int s)
{
    const int lane = threadIdx.x % 32;
    const double *from = (MOMENTUM == AVERAGE ? b.m : b.g) + c * D;
    const double eta = b.eta[s % THREADS], keep = 1 - eta * own[DECAY];
#if RULE == ADAM
    const double factor = exp(b.m_log[c] - b.r_log[c]) / b.correct_m[s % THREADS], correct = b.correct_r[s % THREADS];
    const double eps = own[LOG_EPS] == -INF ? 0 : exp(own[LOG_EPS] - b.r_log[c]), *r = b.r + c * D;
    for (int j = lane; j < D; j += 32) {
        const double ratio = from[j] == 0 ? 0 : from[j] * factor / (r[j] / correct + eps);
        b.w[j * WS + c] = keep * b.w[j * WS + c] - eta * ratio;
    }
#elif RULE == GRADIENT
    const double size = eta * exp(b.from_log[c]);
    for (int j = lane; j < D; j += 32) b.w[j * WS + c] = keep * b.w[j * WS + c] - size * from[j];
#elif KIND == SIGN
    const double size = eta / WEIGHT;
    for (int j = lane; j < D; j += 32)
        b.w[j * WS + c] = keep * b.w[j * WS + c] - (from[j] > 0 ? size : from[j] < 0 ? -size : 0 * from[j]);
#elif KIND == ROWS
    double top = 0, square = 0;
    for (int j = lane; j < D; j += 32) top = larger(top, fabs(from[j]));
    top = warp_max(top);
    const double inverse = 1 / (top > 0 ? top : 1);
    for (int j = lane; j < D; j += 32) square += (from[j] * inverse) * (from[j] * inverse);
    square = warp_sum(square);
    const double size = eta / WEIGHT / (square > 0 ? sqrt(square) : 1) * inverse;
    for (int j = lane; j < D; j += 32) b.w[j * WS + c] = keep * b.w[j * WS + c] - size * from[j];
#endif
}

/* Whether a row's step needs nothing of other rows. */
#define BY_ROWS (!BY_DUAL && (RULE != STEEPEST || KIND == SIGN || KIND == ROWS))

#if !BY_ROWS

#if KIND == POLAR || KIND == RANK_ONE

/* The entry of vector a, number i, of g in the row space. */
__device__ static double *entry(const Block &b, int row, int j) { return b.v + (TALL ? j * VS + row : row * VS + j); }

/* g (K, D) times `inverse` in the basis of vectors that sum to zero (models/linear.py: zero_sum_basis, Helmert's), into v, and no
 * rotation yet. */
__device__ static void into_row_space(const Block &b, double inverse)
{
    for (int j = threadIdx.x; j < D; j += THREADS) {
        double sum = 0;
#pragma unroll
        for (int r = 0; r < ROWS_OF_SPACE; r++) {
            sum += b.g[r * D + j];
            *entry(b, r, j) = (sum - (r + 1.0) * b.g[(r + 1) * D + j]) * inverse / sqrt((r + 1.0) * (r + 2.0));
        }
    }
    for (int e = threadIdx.x; e < FEW * FEW; e += THREADS) b.v[e / FEW * VS + LONG + e % FEW] = e / FEW == e % FEW;
    __syncthreads();
}

/* Turn vectors p and q of v, by a warp, so that they are orthogonal. Their squares, which go on with them, are those that they had
 * at the sweep's start, to the rounding of what they have lost since. Returns whether their cosine was more than NEARLY. */
__device__ static int turned(const Block &b, int p, int q)
{
    double *one = b.v + p * VS, *other = b.v + q * VS, inner = 0;
    for (int i = threadIdx.x % 32; i < LONG; i += 32) inner += one[i] * other[i];
    inner = warp_sum(inner);
    const double a = b.norm[p], c = b.norm[q], square = inner * inner;
    if (!(square > NO_COSINE * NO_COSINE * (a * c))) return 0;
    const double apart = c - a, root = sqrt(apart * apart + 4 * square);
    const double tangent = 2 * inner / (apart < 0 ? apart - root : apart + root);
    const double cosine = rsqrt(1 + tangent * tangent), sine = cosine * tangent;
    __syncwarp();
    for (int i = threadIdx.x % 32; i < LONG + FEW; i += 32) {
        const double before = one[i];
        one[i] = cosine * before - sine * other[i];
        other[i] = sine * before + cosine * other[i];
    }
    if (threadIdx.x % 32 == 0) {
        b.norm[p] = larger(a - tangent * inner, 0);
        b.norm[q] = c + tangent * inner;
    }
    __syncwarp();
    return square > NEARLY * NEARLY * (a * c);
}

/* The squares of the vectors' lengths. */
__device__ static void squares(const Block &b)
{
    for (int a = threadIdx.x / 32; a < FEW; a += WARPS) {
        double square = 0;
        for (int i = threadIdx.x % 32; i < LONG; i += 32) square += b.v[a * VS + i] * b.v[a * VS + i];
        square = warp_sum(square);
        if (threadIdx.x % 32 == 0) b.norm[a] = square;
    }
    __syncthreads();
}

/* Rotations until the vectors are orthogonal (one-sided Jacobi; pairs as in a tournament, so that those of a round share none). */
__device__ static void orthogonalise(const Block &b)
{
    const int players = FEW + FEW % 2, warp = threadIdx.x / 32;
    for (int sweep = 0, far = 1; far && sweep < MOST_SWEEPS; sweep++) {
        squares(b);
        far = 0;
        for (int round = 0; round < players - 1; round++) {
            for (int pair = warp; pair < players / 2; pair += WARPS) {
                const int one = pair ? 1 + (pair - 1 + round) % (players - 1) : 0;
                const int other = 1 + (players - 2 - pair + round) % (players - 1);
                if (one < FEW && other < FEW) far |= turned(b, one < other ? one : other, one < other ? other : one);
            }
            __syncthreads();
        }
        far = __syncthreads_or(far);
    }
    squares(b);
}

/* g (K, D) becomes its truncated polar factor, or its top singular pair, in the row space; returns the sum of its singular values, or
 * the top one, g before being in units of 1 / inverse. */
__device__ static double polar(const Block &b, double inverse)
{
    into_row_space(b, inverse);
    orthogonalise(b);
    double top = 0, sum = 0;
    int first = 0;
    for (int a = 0; a < FEW; a++) {
        const double length = sqrt(b.norm[a]);
        sum += length;
        if (length > top) top = length, first = a;
    }
    /* u = J^T diag(1 / norm) v over the vectors that count, (FEW, LONG). */
    for (int e = threadIdx.x; e < FEW * LONG; e += THREADS) {
        const int of = e / LONG, i = e % LONG;
        double entry_ = 0;
        for (int a = 0; a < FEW; a++) {
            const double length = sqrt(b.norm[a]);
            const int kept = KIND == RANK_ONE ? a == first && top > 0 : length > RANK_TOLERANCE * top;
            if (kept) entry_ += b.v[a * VS + LONG + of] / length * b.v[a * VS + i];
        }
        b.u[e] = entry_;
    }
    __syncthreads();
    for (int j = threadIdx.x; j < D; j += THREADS) {
        double below = 0;
#pragma unroll
        for (int r = ROWS_OF_SPACE - 1; r >= 0; r--) {
            const double u = (TALL ? b.u[j * LONG + r] : b.u[r * LONG + j]) / sqrt((r + 1.0) * (r + 2.0));
            b.g[(r + 1) * D + j] = below - (r + 1.0) * u;
            below += u;
        }
        b.g[j] = below;
    }
    __syncthreads();
    return KIND == RANK_ONE ? top : sum;
}

#endif

/* A step whose rows need each other; its direction is made in g, in units of the largest entry. norms/ and optimizers/descent.py. */
__device__ static void step_of_all(const Block &b, const double *own, int s)
{
    const double *from = MOMENTUM == AVERAGE ? b.m : b.g;
    double unit = -INF, top = 0;
    for (int c = 0; c < K; c++) unit = larger(unit, b.from_log[c]);
    unit = unit == -INF ? 0 : unit; /* of a buffer that is zero */
    for (int e = threadIdx.x; e < ENTRIES; e += THREADS) {
        const double plain = exp(b.from_log[e / D] - unit) * from[e];
#if KIND == SIGN || KIND == ROWS
        if (from != b.g) b.g[e] = from[e]; /* rows far below others keep their direction */
#else
        b.g[e] = plain;
#endif
        top = larger(top, fabs(plain));
    }
    top = block_max(b.scratch, TOP, top);
    const double inverse = 1 / (top > 0 ? top : 1);
    double dual = 0, divide = 1; /* in units of top e^unit; and what g is to be divided by */
#if KIND == SIGN
    for (int e = threadIdx.x; e < ENTRIES; e += THREADS) dual += fabs(b.g[e]) * (exp(b.from_log[e / D] - unit) * inverse);
    dual = block_sum(b.scratch, SIZE, dual);
    for (int e = threadIdx.x; e < ENTRIES; e += THREADS) b.g[e] = b.g[e] > 0 ? 1 : b.g[e] < 0 ? -1 : 0 * b.g[e];
#elif KIND == ROWS
    for (int c = threadIdx.x / 32; c < K; c += WARPS) {
        double largest = 0, square = 0;
        for (int j = threadIdx.x % 32; j < D; j += 32) largest = larger(largest, fabs(b.g[c * D + j]));
        largest = warp_max(largest);
        const double of_largest = 1 / (largest > 0 ? largest : 1);
        for (int j = threadIdx.x % 32; j < D; j += 32) square += (b.g[c * D + j] * of_largest) * (b.g[c * D + j] * of_largest);
        square = sqrt(warp_sum(square));
        if (threadIdx.x % 32 == 0) dual += square * largest * (exp(b.from_log[c] - unit) * inverse);
        for (int j = threadIdx.x % 32; j < D; j += 32) b.g[c * D + j] *= of_largest / (square > 0 ? square : 1);
    }
    dual = block_sum(b.scratch, SIZE, dual);
#elif KIND == NORMALISED
    for (int e = threadIdx.x; e < ENTRIES; e += THREADS) dual += (b.g[e] * inverse) * (b.g[e] * inverse);
    dual = sqrt(block_sum(b.scratch, SIZE, dual));
    divide = (dual > 0 ? dual : 1) / inverse;
#elif KIND == COORDINATE
    double before = ENTRIES; /* of equal entries the first is taken */
    for (int e = threadIdx.x; e < ENTRIES; e += THREADS)
        if (fabs(b.g[e]) == top && e < before) before = e;
    const double first = -block_max(b.scratch, FIRST, -before);
    for (int e = threadIdx.x; e < ENTRIES; e += THREADS) b.g[e] = e == first && top > 0 ? (b.g[e] < 0 ? -1 : 1) : 0;
    dual = 1;
#else
    dual = polar(b, inverse);
#endif
    const double eta = b.eta[s % THREADS], keep = 1 - eta * own[DECAY];
#if BY_DUAL
    const double whole = dual * top * exp(unit) / WEIGHT, size = eta * (whole < CLIP ? whole : CLIP) / WEIGHT / divide;
#else
    const double size = eta / WEIGHT / divide;
#endif
    /* As laid out in g, so that every thread reads what it has written. */
#if KIND == POLAR || KIND == RANK_ONE || KIND == ROWS
    __syncthreads();
#endif
    for (int e = threadIdx.x; e < ENTRIES; e += THREADS) {
        double *w = b.w + e % D * WS + e / D;
        *w = keep * *w - size * b.g[e];
    }
}

#endif

/* The shared memory, laid out from `memory` on. */
__device__ static Block laid_out(double *memory)
{
    Block b;
#define TAKE(name, count) b.name = memory, memory += (count)
    TAKE(p, K * PS); /* first, since pairs of it are read at once */
    TAKE(w, D * WS);
    TAKE(g, ENTRIES);
    TAKE(parts, (SEGMENTS - 1) * ENTRIES);
    TAKE(top, N);
    TAKE(g_log, K);
    TAKE(from_log, K);
    TAKE(scratch, SLOTS * WARPS);
    TAKE(eta, THREADS);
#if MOMENTUM != NO_MOMENTUM
    TAKE(m, ENTRIES);
    TAKE(m_log, K);
#endif
#if RULE == ADAM
    TAKE(r, ENTRIES);
    TAKE(r_log, K);
    TAKE(correct_m, THREADS);
    TAKE(correct_r, THREADS);
#endif
#if RULE == STEEPEST && (KIND == POLAR || KIND == RANK_ONE)
    TAKE(v, FEW * VS);
    TAKE(u, FEW * LONG);
    TAKE(norm, FEW);
#endif
#if X_SHARED
    TAKE(x, N * XS);
#endif
    b.y = (int *)memory;
#undef TAKE
    return b;
}

/* Step sizes, and what Adam's averages are divided by, of the next THREADS steps. */
__device__ static void fill(const Block &b, const double *own, long long t)
{
    b.eta[threadIdx.x] = own[LR] * pow((double)t, -own[POWER]);
#if RULE == ADAM
    b.correct_m[threadIdx.x] = BIAS_CORRECTION ? 1 - pow(own[BETA], (double)t) : 1;
    b.correct_r[threadIdx.x] = BIAS_CORRECTION ? sqrt(1 - pow(own[BETA2], (double)t)) : 1;
#endif
}

/* Updates first + 1, ..., first + steps of the run that the block is. */
extern "C" __global__ void __launch_bounds__(THREADS) advance(struct Arrays of, long long first, long long steps)
{
    extern __shared__ __align__(16) double memory[];
    Block b = laid_out(memory);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const long long run = blockIdx.x, set = of.sets > 1 ? run : 0;
    const double *own = of.numbers + run * NUMBERS, *doubtful = of.doubtful + set * D;
    double *w = of.w + run * ENTRIES, *certificate = of.certificate + run * ENTRIES;
    for (int e = threadIdx.x; e < D * WS; e += THREADS) b.w[e] = e % WS < K ? w[e % WS * D + e / WS] : 0;
    for (int e = threadIdx.x; e < ENTRIES; e += THREADS) {
#if MOMENTUM != NO_MOMENTUM
        b.m[e] = of.m[run * ENTRIES + e];
#endif
#if RULE == ADAM
        b.r[e] = of.r[run * ENTRIES + e];
#endif
    }
    for (int c = threadIdx.x; c < K; c += THREADS) {
#if MOMENTUM != NO_MOMENTUM
        b.m_log[c] = of.m_log[run * K + c];
#endif
#if RULE == ADAM
        b.r_log[c] = of.r_log[run * K + c];
#endif
    }
#if X_SHARED
    double *x = (double *)b.x;
    for (int e = threadIdx.x; e < N * D; e += THREADS) x[e / D * XS + e % D] = of.x[set * N * D + e];
#else
    b.x = of.x + set * N * D, b.columns = of.columns + set * N * D;
#endif
    for (int i = threadIdx.x; i < N; i += THREADS) b.y[i] = (int)of.y[set * N + i];
    __syncthreads();
    for (long long s = 0; s < steps; s++) {
        if (s % THREADS == 0) fill(b, own, first + s + 1 + threadIdx.x); /* read after the block has waited for the gradient */
        double unit;
        const double total = gradient(b, doubtful, own[SMALLEST_ROW], &unit), share = of.shares[s];
        if (share != 0)
            for (int c = warp; c < K; c += WARPS) {
                const double factor = exp(b.g_log[c] + LOG_N - unit) / total;
                for (int j = lane; j < D; j += 32)
                    certificate[c * D + j] += share * (-b.g[c * D + j] * factor - certificate[c * D + j]);
            }
        double beta = own[BETA], gain = own[GAIN];
#if FROM_FIRST
        double held = -INF;
        for (int c = 0; c < K; c++) held = larger(held, b.m_log[c]);
        beta = held == -INF ? 0 : beta, gain = 1 - beta;
        __syncthreads(); /* before a row's log scale is another */
#endif
        for (int c = warp; c < K; c += WARPS) {
            average(b, own, c, beta, gain);
#if RULE == ADAM
            average_squares(b, own, c);
#endif
#if BY_ROWS
            step_of_row(b, own, c, (int)(s % THREADS));
#endif
        }
        __syncthreads();
#if !BY_ROWS
        step_of_all(b, own, (int)(s % THREADS));
        __syncthreads();
#endif
    }
    for (int e = threadIdx.x; e < ENTRIES; e += THREADS) {
        w[e] = b.w[e % D * WS + e / D];
#if MOMENTUM != NO_MOMENTUM
        of.m[run * ENTRIES + e] = b.m[e];
#endif
#if RULE == ADAM
        of.r[run * ENTRIES + e] = b.r[e];
#endif
    }
    for (int c = threadIdx.x; c < K; c += THREADS) {
#if MOMENTUM != NO_MOMENTUM
        of.m_log[run * K + c] = b.m_log[c];
#endif
#if RULE == ADAM
        of.r_log[run * K + c] = b.r_log[c];
#endif
    }
}
