/* Derivatives of the non-linearities, as the gradients use them. */
#ifndef HYLA_SLOPES_H
#define HYLA_SLOPES_H

#include "vector.h"

/* silu(x) and its derivative s (1 + x (1 - s)), s = sigmoid(x). */
INLINE vec silu_slope(vec x) {
    vec one = splat(1.0f), s = sigmoid_vec(x);
    return multiply(s, add(one, multiply(x, subtract(one, s))));
}
/* Of the sigmoid, from its value. */
INLINE vec sigmoid_slope(vec y) { return multiply(y, subtract(splat(1.0f), y)); }

#endif
