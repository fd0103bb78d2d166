/* Vectors of 16 floats in plain GNU C: the compiler maps them to whatever the machine has. Every helper does the same
   operations per element whatever the width of the hardware, so a result never depends on an element's place. */
#ifndef HYLA_VECTOR_H
#define HYLA_VECTOR_H

#include <math.h>
#include <stdint.h>
#include <string.h>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

#define LANES 16
typedef float vec __attribute__((vector_size(4 * LANES), aligned(4)));
typedef int32_t ivec __attribute__((vector_size(4 * LANES), aligned(4)));
typedef uint32_t uvec __attribute__((vector_size(4 * LANES), aligned(4)));
typedef uint16_t hvec __attribute__((vector_size(2 * LANES), aligned(2)));

static inline vec load(const float *p) { vec x; memcpy(&x, p, sizeof x); return x; }
static inline void store(float *p, vec x) { memcpy(p, &x, sizeof x); }
static inline vec splat(float x) { return (vec){x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}; }

/* a * b + c, rounded once. (The compiler sees the loop as one instruction only in simple places.) */
static inline vec fma_vec(vec a, vec b, vec c) {
#ifdef __AVX512F__
    return (vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#endif
    vec r;
    for (int i = 0; i < LANES; i++) r[i] = __builtin_fmaf(a[i], b[i], c[i]);
    return r;
}

/* The sum of a vector in one fixed tree. */
static inline float sum_vec(vec x) {
    float s[LANES];
    memcpy(s, &x, sizeof s);
    for (int width = LANES / 2; width; width /= 2)
        for (int i = 0; i < width; i++) s[i] += s[i + width];
    return s[0];
}

/* e^x: 2^n * e^r with |r| <= ln(2)/2, e^r by a polynomial of degree 7 (Taylor's coefficients); 1 ulp or so. Below -87
   it is 0, above 88.7 infinity; a NaN stays one. */
static inline vec exp_vec(vec x) {
    const vec low = splat(-87.0f), high = splat(88.7f);
    ivec is_low = x < low, is_high = x > high;
    vec inside = (vec)(((ivec)x & ~(is_low | is_high)) | ((ivec)low & is_low) | ((ivec)high & is_high));
    const float round = 12582912.0f; /* 1.5 * 2^23 */
    vec n = fma_vec(inside, splat(1.44269504f), splat(round)) - round;
    vec r = fma_vec(n, splat(-0.693359375f), inside);
    r = fma_vec(n, splat(2.12194440e-4f), r);
    vec p = splat(1.0f / 5040);
    p = fma_vec(p, r, splat(1.0f / 720));
    p = fma_vec(p, r, splat(1.0f / 120));
    p = fma_vec(p, r, splat(1.0f / 24));
    p = fma_vec(p, r, splat(1.0f / 6));
    p = fma_vec(p, r, splat(0.5f));
    p = fma_vec(p, r, splat(1.0f));
    p = fma_vec(p, r, splat(1.0f));
    ivec exponent = __builtin_convertvector(n, ivec);
    vec half = (vec)(((exponent >> 1) + 127) << 23), rest = (vec)((exponent - (exponent >> 1) + 127) << 23);
    vec y = p * half * rest;
    const vec infinity = splat(INFINITY);
    return (vec)(((ivec)y & ~(is_low | is_high)) | ((ivec)infinity & is_high));
}

static inline float exp_one(float x) { return exp_vec(splat(x))[0]; }

/* x / (1 + e^-x) and 1 / (1 + e^-x). */
static inline vec sigmoid_vec(vec x) { return splat(1.0f) / (splat(1.0f) + exp_vec(-x)); }
static inline vec silu_vec(vec x) { return x / (splat(1.0f) + exp_vec(-x)); }

/* bfloat16: the upper half of a float; rounded to nearest, ties to even. */
static inline float from_bf16(uint16_t x) {
    uint32_t bits = (uint32_t)x << 16;
    float y;
    memcpy(&y, &bits, 4);
    return y;
}
static inline uint16_t to_bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fc0;
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

/* Up to 16 elements of a row, float or bfloat16; missing ones are zeros on the way in and dropped on the way out. */
static inline vec load_some(const void *p, int64_t at, int count, int is_bf16) {
    float x[LANES] = {0};
    if (is_bf16) {
        const uint16_t *q = (const uint16_t *)p + at;
        for (int i = 0; i < count; i++) x[i] = from_bf16(q[i]);
    } else {
        memcpy(x, (const float *)p + at, 4 * (size_t)count);
    }
    return load(x);
}
static inline void store_some(void *p, int64_t at, int count, int is_bf16, vec y) {
    float x[LANES];
    store(x, y);
    if (is_bf16) {
        uint16_t *q = (uint16_t *)p + at;
        for (int i = 0; i < count; i++) q[i] = to_bf16(x[i]);
    } else {
        memcpy((float *)p + at, x, 4 * (size_t)count);
    }
}
static inline vec load_row(const void *p, int64_t at, int left, int is_bf16) {
    if (left < LANES) return load_some(p, at, left, is_bf16);
    if (!is_bf16) return load((const float *)p + at);
    hvec x;
    memcpy(&x, (const uint16_t *)p + at, sizeof x);
    return (vec)(__builtin_convertvector(x, uvec) << 16);
}
static inline void store_row(void *p, int64_t at, int left, int is_bf16, vec y) {
    if (left < LANES) { store_some(p, at, left, is_bf16, y); return; }
    if (!is_bf16) { store((float *)p + at, y); return; }
    uvec bits = (uvec)y, rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    uvec is_nan = (uvec)((bits & 0x7fffffffu) > 0x7f800000u);
    hvec x = __builtin_convertvector((rounded & ~is_nan) | (0x7fc0u & is_nan), hvec);
    memcpy((uint16_t *)p + at, &x, sizeof x);
}

#endif
