/* What the processor can do at most with the vectors and exponentials of linear.c: what a benchmark's limit is made of. */

#include "vectors.h"

#define CHAINS 12 /* sums that do not wait for each other: as many as hide the time of a multiplication, and as registers hold */

/* `times` multiply-adds of CHAINS vectors, in registers; out[0] and out[1] are the factor and the term. */
void multiply_adds(int64_t times, double *out)
{
    vec sum[CHAINS], factor = all(out[0]), term = all(out[1]);
    for (int c = 0; c < CHAINS; c++) sum[c] = all(c);
    for (int64_t t = 0; t < times; t++)
        for (int c = 0; c < CHAINS; c++) sum[c] = sum[c] * factor + term;
    for (int c = 1; c < CHAINS; c++) sum[0] += sum[c];
    memcpy(out, sum, sizeof *sum);
}

/* e^x of `count` vectors, x <= 0, so many times; count is a multiple of ABREAST. */
void exponentials(int64_t count, int64_t times, const vec *x, vec *out)
{
    for (int64_t t = 0; t < times; t++)
        for (int64_t i = 0; i < count; i += ABREAST) {
            vec e[ABREAST];
            for (int j = 0; j < ABREAST; j++) e[j] = larger(x[i + j], all(FLOOR));
            exponentials_inside(ABREAST, e);
            for (int j = 0; j < ABREAST; j++) out[i + j] = e[j];
        }
}

int64_t chains(void) { return CHAINS; }

int64_t lanes(void) { return LANES; }
