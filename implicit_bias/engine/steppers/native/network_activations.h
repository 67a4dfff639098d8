/* Activations and their derivatives, from what is kept of the argument: models/activations.py. A leaky ReLU's value, which is kept,
 * has the sign of its argument. A sigmoid's is 1/2 in lanes beyond the last unit, which nothing is made from. */

#ifndef NETWORK_ACTIVATIONS_H
#define NETWORK_ACTIVATIONS_H

#include "network.h"

static inline vec kept_of(int64_t activation, vec slope, vec z)
{
    if (activation == RELU || activation == SQUARED_RELU) return choose(z < 0, all(0), z);
    if (activation == SIGMOID) return choose(z == z, 1 / (1 + exponential(-z)), z);
    return activation == LEAKY_RELU ? choose(z > 0, z, slope * z) : z;
}

static inline vec value_of(int64_t activation, vec kept) { return squares(activation) ? kept * kept : kept; }

/* g s'(z). */
static inline vec passed(int64_t activation, vec slope, vec kept, vec g)
{
    if (squares(activation)) return 2 * (g * kept);
    if (activation == LINEAR) return g;
    if (activation == SIGMOID) return g * (1 - kept) * kept;
    return choose(kept > 0, g, activation == RELU ? all(0) : slope * g);
}

/* What is kept of arguments, in their place, and the activation, which may be in the same place. */
static void activate(int64_t activation, vec slope, int64_t count, vec *kept, vec *value)
{
    if (activation == LINEAR) return;
    for (int64_t e = 0; e < count; e++) {
        const vec known = kept_of(activation, slope, kept[e]);
        kept[e] = known, value[e] = value_of(activation, known);
    }
}

static void through_activation(int64_t activation, vec slope, int64_t count, const vec *kept, vec *g)
{
    if (activation == LINEAR) return;
    for (int64_t e = 0; e < count; e++) g[e] = passed(activation, slope, kept[e], g[e]);
}

#endif
