/* 16 floats, held in as many registers as the hardware needs for them. Every function does the same operations for each
   element, in one order, whatever the hardware's vectors: a result depends neither on them nor on an element's place. */
#ifndef HYLA_VECTOR_H
#define HYLA_VECTOR_H

#include "parts.h"

#define LANES 16
#define PARTS (LANES / LANES_OF_A_PART)
#define EVERY_PART _Pragma("GCC unroll 4") for (int i = 0; i < PARTS; i++)

/* Functions that the test of the machine code knows by name: the loops that a kernel spends its time in ... */
#define HOT static __attribute__((noinline))
/* ... and what is left over at the end of a row, element by element; its loops may be anything. */
#define TAIL static __attribute__((noinline, cold, unused))

typedef struct { part at[PARTS]; } vec;
typedef struct { ipart at[PARTS]; } mask;

INLINE vec load(const float *p) { vec x; EVERY_PART x.at[i] = load_part(p + i * LANES_OF_A_PART); return x; }
INLINE void store(float *p, vec x) { EVERY_PART store_part(p + i * LANES_OF_A_PART, x.at[i]); }
INLINE vec splat(float x) { vec y; EVERY_PART y.at[i] = splat_part(x); return y; }
INLINE vec add(vec a, vec b) { EVERY_PART a.at[i] = a.at[i] + b.at[i]; return a; }
INLINE vec subtract(vec a, vec b) { EVERY_PART a.at[i] = a.at[i] - b.at[i]; return a; }
INLINE vec multiply(vec a, vec b) { EVERY_PART a.at[i] = a.at[i] * b.at[i]; return a; }
INLINE vec divide(vec a, vec b) { EVERY_PART a.at[i] = a.at[i] / b.at[i]; return a; }
INLINE vec negative(vec a) { EVERY_PART a.at[i] = -a.at[i]; return a; }
INLINE vec fma_vec(vec a, vec b, vec c) { EVERY_PART c.at[i] = fma_part(a.at[i], b.at[i], c.at[i]); return c; }
INLINE vec larger(vec a, vec b) { EVERY_PART a.at[i] = larger_part(a.at[i], b.at[i]); return a; }
INLINE mask is_equal(vec a, vec b) { mask y; EVERY_PART y.at[i] = (ipart)(a.at[i] == b.at[i]); return y; }
INLINE vec select_vec(mask m, vec a, vec b) { EVERY_PART a.at[i] = select_part(m.at[i], a.at[i], b.at[i]); return a; }
INLINE vec from_doubles(const double *p) {
    vec y;
    EVERY_PART y.at[i] = from_doubles_part(p + i * LANES_OF_A_PART);
    return y;
}

/* The lanes whose number is in [low, high]. */
INLINE mask lanes_between(int32_t low, int32_t high) {
    mask y;
#if LANES_OF_A_PART == 16
    const ipart lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
#elif LANES_OF_A_PART == 8
    const ipart lane = {0, 1, 2, 3, 4, 5, 6, 7};
#else
    const ipart lane = {0, 1, 2, 3};
#endif
    EVERY_PART {
        ipart own = lane + i * LANES_OF_A_PART;
        y.at[i] = (ipart)(own >= low) & (ipart)(own <= high);
    }
    return y;
}

/* The four sums or maxima of lanes 4 apart: of the two halves first, then of the halves of that. */
#if LANES_OF_A_PART == 16
#define BY_QUARTERS(x, OP)                                                                   \
    __m256 low = _mm512_castps512_ps256((__m512)(x).at[0]);                                  \
    __m256 high = _mm512_extractf32x8_ps((__m512)(x).at[0], 1), both = _mm256_##OP(high, low); \
    quad four = (quad)_mm_##OP(_mm256_extractf128_ps(both, 1), _mm256_castps256_ps128(both))
#elif LANES_OF_A_PART == 8
#define BY_QUARTERS(x, OP)                                                     \
    __m256 both = _mm256_##OP((__m256)(x).at[1], (__m256)(x).at[0]);           \
    quad four = (quad)_mm_##OP(_mm256_extractf128_ps(both, 1), _mm256_castps256_ps128(both))
#else
INLINE part add_ps(part a, part b) { return a + b; }
INLINE part max_ps(part a, part b) { return larger_part(a, b); }
#define BY_QUARTERS(x, OP) quad four = OP(OP((x).at[3], (x).at[1]), OP((x).at[2], (x).at[0]))
#endif

INLINE float sum_vec(vec x) {
    BY_QUARTERS(x, add_ps);
    return (four[0] + four[2]) + (four[1] + four[3]);
}

INLINE float larger_of(float a, float b) { return a > b ? a : b; }
INLINE float largest(vec x) {
    BY_QUARTERS(x, max_ps);
    return larger_of(larger_of(four[0], four[2]), larger_of(four[1], four[3]));
}

INLINE vec exp_vec(vec x) { EVERY_PART x.at[i] = exp_part(x.at[i]); return x; }
INLINE float exp_one(float x) { return exp_part(splat_part(x))[0]; }

/* x / (1 + e^-x) and 1 / (1 + e^-x). */
INLINE vec sigmoid_vec(vec x) { return divide(splat(1.0f), add(splat(1.0f), exp_vec(negative(x)))); }
INLINE vec silu_vec(vec x) { return divide(x, add(splat(1.0f), exp_vec(negative(x)))); }

/* log(1 + e^x) = max(x, 0) + log(1 + e^-|x|), which cannot overflow. */
INLINE vec softplus_vec(vec x) {
    vec y = exp_vec(negative(larger(x, negative(x))));
    EVERY_PART y.at[i] = log1p_part(y.at[i]);
    return add(y, larger(x, splat(0.0f)));
}

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
INLINE vec load_bf16(const uint16_t *p) { vec y; EVERY_PART y.at[i] = widen_part(p + i * LANES_OF_A_PART); return y; }

/* The 16 bits of each as bfloat16. */
typedef struct { upart at[PARTS]; } uvec;
INLINE uvec bf16_bits(vec x) { uvec y; EVERY_PART y.at[i] = bf16_part(x.at[i]); return y; }
INLINE void store_bf16(uint16_t *p, vec x) {
    uvec y = bf16_bits(x);
#if LANES_OF_A_PART == 16
    _mm256_storeu_si256((void *)p, _mm512_cvtepi32_epi16((__m512i)y.at[0]));
#elif LANES_OF_A_PART == 8
    __m256i packed = _mm256_packus_epi32((__m256i)y.at[0], (__m256i)y.at[1]);
    _mm256_storeu_si256((void *)p, _mm256_permute4x64_epi64(packed, 0xd8));
#elif !defined(PLAIN_C)
    EVERY_PART vst1_u16(p + 4 * i, vmovn_u32((uint32x4_t)y.at[i]));
#else
    for (int i = 0; i < LANES; i++) p[i] = (uint16_t)y.at[i / 4][i % 4];
#endif
}

/* 16 elements of a row, float or bfloat16. */
INLINE vec load_full(const void *p, int64_t at, int is_bf16) {
    return is_bf16 ? load_bf16((const uint16_t *)p + at) : load((const float *)p + at);
}
INLINE void store_full(void *p, int64_t at, int is_bf16, vec y) {
    if (is_bf16) store_bf16((uint16_t *)p + at, y);
    else store((float *)p + at, y);
}

typedef uint16_t bf16_eight __attribute__((vector_size(16)));
typedef uint32_t bits_eight __attribute__((vector_size(32)));
INLINE void widen_eight(const uint16_t *p, float *x) {
    bf16_eight own;
    memcpy(&own, p, sizeof own);
    bits_eight wide = __builtin_convertvector(own, bits_eight) << 16;
    memcpy(x, &wide, sizeof wide);
}

/* Fewer than 16: the missing ones are zeros on the way in and dropped on the way out. They pass through 16 floats in
   memory, since a vector that is given to a function may be kept in memory by its caller's loops. */
TAIL void load_some(const void *p, int64_t at, int count, int is_bf16, float *x) {
    int i = count & 8;
    store(x, splat(0.0f));
    if (is_bf16) {
        const uint16_t *q = (const uint16_t *)p + at;
        if (i) widen_eight(q, x);
        for (; i < count; i++) x[i] = from_bf16(q[i]);
    } else {
        const float *q = (const float *)p + at;
        if (i) memcpy(x, q, 4 * 8);
        for (; i < count; i++) x[i] = q[i];
    }
}
TAIL void store_some(void *p, int64_t at, int count, int is_bf16, const float *x) {
    int i = count & 8;
    if (is_bf16) {
        uint16_t *q = (uint16_t *)p + at, y[LANES];
        store_bf16(y, load(x));
        if (i) memcpy(q, y, 2 * 8);
        for (; i < count; i++) q[i] = y[i];
    } else {
        float *q = (float *)p + at;
        if (i) memcpy(q, x, 4 * 8);
        for (; i < count; i++) q[i] = x[i];
    }
}
/* Up to 16. `left` is LANES, written out, in the loop over whole vectors, and what is left after it. */
INLINE vec load_row(const void *p, int64_t at, int left, int is_bf16) {
    if (left >= LANES) return load_full(p, at, is_bf16);
    float x[LANES];
    load_some(p, at, left, is_bf16, x);
    return load(x);
}
INLINE void store_row(void *p, int64_t at, int left, int is_bf16, vec y) {
    if (left >= LANES) { store_full(p, at, is_bf16, y); return; }
    float x[LANES];
    store(x, y);
    store_some(p, at, left, is_bf16, x);
}

/* BODY(i, left) for all elements of a row, 16 at a time: left is a constant but for what remains at the end. */
#define ALONG_ROW(width, BODY)                                             \
    {                                                                      \
        int64_t along = 0;                                                 \
        for (; along + LANES <= (width); along += LANES) BODY(along, LANES); \
        if (along < (width)) BODY(along, (int)((width)-along));            \
    }

#endif
