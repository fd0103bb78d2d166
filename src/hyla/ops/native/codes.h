/* FP8 weights: e4m3 codes with one scale per block of 128 x 128, and the numbers that they stand for. */
#ifndef HYLA_CODES_H
#define HYLA_CODES_H

#include "vector.h"

#define SIDE 128 /* of a scale's block */

enum { FLOAT, BFLOAT, POWER }; /* of a scale: POWER is the exponent of a power of two, biased by 127 */

INLINE float scale_of(const void *scales, int64_t kind, int64_t i) {
    if (kind == FLOAT) return ((const float *)scales)[i];
    if (kind == BFLOAT) return from_bf16(((const uint16_t *)scales)[i]);
    uint32_t exponent = ((const uint8_t *)scales)[i], bits = exponent ? exponent << 23 : 1u << 22;
    float y;
    memcpy(&y, &bits, 4);
    return y;
}

/* The numbers that codes stand for: sign, 4 bits of exponent (bias 7), 3 bits; 127 is not a number. */
INLINE part value_of(upart code) {
    upart size = code & 0x7f;
    part normal = (part)((size << 20) + (120u << 23));
    part small = __builtin_convertvector((ipart)size, part) * splat_part(0.001953125f);
    part value = select_part((ipart)((ipart)size < 8), small, normal);
    ipart nan = (ipart)((ipart)size == 0x7f) & 0x7fc00000;
    return (part)((ipart)value | nan | (ipart)((code & 0x80) << 24));
}
INLINE vec values_of(const uint8_t *codes) {
    vec y;
    EVERY_PART y.at[i] = value_of(from_bytes_part(codes + i * LANES_OF_A_PART));
    return y;
}

/* `count` numbers with one scale. */
INLINE void dense_in(const int is_bf16, int64_t count, float scale, const uint8_t *codes, void *out, int64_t to) {
    int64_t k = 0;
#pragma GCC unroll 1
    for (; k + LANES <= count; k += LANES)
        store_full(out, to + k, is_bf16, multiply(values_of(codes + k), splat(scale)));
    if (k == count) return;
    uint8_t rest[LANES] = {0};
    memcpy(rest, codes + k, (size_t)(count - k));
    store_row(out, to + k, (int)(count - k), is_bf16, multiply(values_of(rest), splat(scale)));
}
HOT void dense_row(int64_t count, float scale, int is_bf16, const uint8_t *codes, void *out, int64_t to) {
    if (is_bf16) dense_in(1, count, scale, codes, out, to);
    else dense_in(0, count, scale, codes, out, to);
}

#endif
