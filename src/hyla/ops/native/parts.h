/* One vector of the hardware: 16 floats (AVX-512), 8 (AVX2 with FMA) or 4 (NEON, and plain C for any machine).
   Nothing here is wider than a register, so that no compiler has a reason to keep it in memory. What a lane computes
   is the same in each. */
#ifndef HYLA_PARTS_H
#define HYLA_PARTS_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
#include <immintrin.h>
#define LANES_OF_A_PART 16
#elif defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
#define LANES_OF_A_PART 8
#elif defined(__aarch64__)
#include <arm_neon.h>
#define LANES_OF_A_PART 4
#else
#define LANES_OF_A_PART 4
#define PLAIN_C
#endif

typedef float part __attribute__((vector_size(4 * LANES_OF_A_PART)));
typedef int32_t ipart __attribute__((vector_size(4 * LANES_OF_A_PART)));
typedef uint32_t upart __attribute__((vector_size(4 * LANES_OF_A_PART)));
typedef float quad __attribute__((vector_size(16)));

INLINE part load_part(const float *p) { part x; memcpy(&x, p, sizeof x); return x; }
INLINE void store_part(float *p, part x) { memcpy(p, &x, sizeof x); }

/* fma_part: a * b + c, rounded once. larger_part: a where a > b, else b (also where one is not a number).
   widen: bfloat16 to float. from_bytes: to 32 bits each. from_doubles: rounded to nearest, ties to even. */
#if LANES_OF_A_PART == 16

INLINE part splat_part(float x) { return (part)_mm512_set1_ps(x); }
INLINE part fma_part(part a, part b, part c) { return (part)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
INLINE part larger_part(part a, part b) { return (part)_mm512_max_ps((__m512)a, (__m512)b); }
INLINE part select_part(ipart mask, part a, part b) {
    return (part)_mm512_ternarylogic_epi32((__m512i)mask, (__m512i)a, (__m512i)b, 0xca);
}
INLINE part widen_part(const uint16_t *p) {
    return (part)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const void *)p)), 16);
}
INLINE upart from_bytes_part(const uint8_t *p) {
    return (upart)_mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)p));
}
INLINE part from_doubles_part(const double *p) {
    __m256 low = _mm512_cvtpd_ps(_mm512_loadu_pd(p)), high = _mm512_cvtpd_ps(_mm512_loadu_pd(p + 8));
    return (part)_mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1);
}

#elif LANES_OF_A_PART == 8

INLINE part splat_part(float x) { return (part)_mm256_set1_ps(x); }
INLINE part fma_part(part a, part b, part c) { return (part)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
INLINE part larger_part(part a, part b) { return (part)_mm256_max_ps((__m256)a, (__m256)b); }
INLINE part select_part(ipart mask, part a, part b) {
    return (part)_mm256_blendv_ps((__m256)b, (__m256)a, (__m256)mask);
}
INLINE part widen_part(const uint16_t *p) {
    return (part)_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)p)), 16);
}
INLINE upart from_bytes_part(const uint8_t *p) {
    return (upart)_mm256_cvtepu8_epi32(_mm_loadl_epi64((const void *)p));
}
INLINE part from_doubles_part(const double *p) {
    __m128 low = _mm256_cvtpd_ps(_mm256_loadu_pd(p)), high = _mm256_cvtpd_ps(_mm256_loadu_pd(p + 4));
    return (part)_mm256_insertf128_ps(_mm256_castps128_ps256(low), high, 1);
}

#elif !defined(PLAIN_C)

INLINE part splat_part(float x) { return (part)vdupq_n_f32(x); }
INLINE part fma_part(part a, part b, part c) {
    return (part)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
}
INLINE part select_part(ipart mask, part a, part b) {
    return (part)vbslq_f32((uint32x4_t)mask, (float32x4_t)a, (float32x4_t)b);
}
INLINE part larger_part(part a, part b) { return select_part((ipart)(a > b), a, b); }
INLINE part widen_part(const uint16_t *p) { return (part)vshll_n_u16(vld1_u16(p), 16); }
INLINE upart from_bytes_part(const uint8_t *p) {
    uint32_t four;
    memcpy(&four, p, 4);
    return (upart)vmovl_u16(vget_low_u16(vmovl_u8(vcreate_u8(four))));
}
INLINE part from_doubles_part(const double *p) {
    return (part)vcvt_high_f32_f64(vcvt_f32_f64(vld1q_f64(p)), vld1q_f64(p + 2));
}

#else

INLINE part splat_part(float x) { return (part){x, x, x, x}; }
INLINE part fma_part(part a, part b, part c) {
    return (part){__builtin_fmaf(a[0], b[0], c[0]), __builtin_fmaf(a[1], b[1], c[1]), __builtin_fmaf(a[2], b[2], c[2]),
                  __builtin_fmaf(a[3], b[3], c[3])};
}
INLINE part select_part(ipart mask, part a, part b) { return (part)(((ipart)a & mask) | ((ipart)b & ~mask)); }
INLINE part larger_part(part a, part b) { return select_part((ipart)(a > b), a, b); }
INLINE part widen_part(const uint16_t *p) { return (part)((upart){p[0], p[1], p[2], p[3]} << 16); }
INLINE upart from_bytes_part(const uint8_t *p) { return (upart){p[0], p[1], p[2], p[3]}; }
INLINE part from_doubles_part(const double *p) {
    return (part){(float)p[0], (float)p[1], (float)p[2], (float)p[3]};
}

#endif

/* The numbers that e^x and bfloat16 are made of. But for AVX-512 they are read from memory where they are used: kept
   in registers they would leave too few, and the loops around would put vectors on the stack. */
#define LOW (-87.0f)
#define HIGH 88.7f
#define LOG2_E 1.44269504f
#define ROUND 12582912.0f /* 1.5 * 2^23 */
#define LN2_HIGH (-0.693359375f)
#define LN2_LOW 2.12194440e-4f
#define HALF_LESS 0x7fff
#define NAN_ABOVE 0x7f800000
#define NAN_BF16 0x7fc0
#if LANES_OF_A_PART == 16
#define WHOLE(x) {x, x, x, x, x, x, x, x, x, x, x, x, x, x, x, x}
#elif LANES_OF_A_PART == 8
#define WHOLE(x) {x, x, x, x, x, x, x, x}
#else
#define WHOLE(x) {x, x, x, x}
#endif
#if LANES_OF_A_PART < 16
typedef struct {
    part low, high, log2_e, round, ln2_high, ln2_low, p7, p6, p5, p4, p3, p2, one, infinity;
    ipart half_less, nan_above, nan_bf16;
} Numbers;
static const Numbers all_numbers __attribute__((unused)) = {
    WHOLE(LOW), WHOLE(HIGH), WHOLE(LOG2_E), WHOLE(ROUND), WHOLE(LN2_HIGH), WHOLE(LN2_LOW), WHOLE(1.0f / 5040),
    WHOLE(1.0f / 720), WHOLE(1.0f / 120), WHOLE(1.0f / 24), WHOLE(1.0f / 6), WHOLE(0.5f), WHOLE(1.0f), WHOLE(INFINITY),
    WHOLE(HALF_LESS), WHOLE(NAN_ABOVE), WHOLE(NAN_BF16)};
#define NUMBERS                                   \
    const Numbers *numbers = &all_numbers;     \
    __asm__ volatile("" : "+r"(numbers)) /* from here on the compiler does not know what is there */
#define NUMBER(name, value) numbers->name
#define INTEGER(name, value) numbers->name
#else
#define NUMBERS
#define NUMBER(name, value) splat_part(value)
#define INTEGER(name, value) ((ipart){0} + (value))
#endif

/* e^x: 2^n * e^r with |r| <= ln(2)/2, e^r by a polynomial of degree 7 (Taylor's coefficients); 1 ulp or so. Below -87
   it is 0, above 88.7 infinity; a NaN stays one. */
INLINE part exp_part(part x) {
    NUMBERS;
    ipart is_low = (ipart)(x < NUMBER(low, LOW)), is_high = (ipart)(x > NUMBER(high, HIGH));
    part inside = select_part(is_low | is_high, NUMBER(low, LOW), x);
    part n = fma_part(inside, NUMBER(log2_e, LOG2_E), NUMBER(round, ROUND)) - NUMBER(round, ROUND);
    part r = fma_part(n, NUMBER(ln2_high, LN2_HIGH), inside);
    r = fma_part(n, NUMBER(ln2_low, LN2_LOW), r);
    part p = fma_part(NUMBER(p7, 1.0f / 5040), r, NUMBER(p6, 1.0f / 720));
    p = fma_part(p, r, NUMBER(p5, 1.0f / 120));
    p = fma_part(p, r, NUMBER(p4, 1.0f / 24));
    p = fma_part(p, r, NUMBER(p3, 1.0f / 6));
    p = fma_part(p, r, NUMBER(p2, 0.5f));
    p = fma_part(p, r, NUMBER(one, 1.0f));
    p = fma_part(p, r, NUMBER(one, 1.0f));
    ipart exponent = __builtin_convertvector(n, ipart);
    part half = (part)(((exponent >> 1) + 127) << 23), rest = (part)((exponent - (exponent >> 1) + 127) << 23);
    part y = p * half * rest;
    return select_part(is_high, NUMBER(infinity, INFINITY), (part)((ipart)y & ~is_low));
}

/* 2 / 3, 2 / 5, ..: from memory in every build, since they are used beside the numbers of e^x. */
static const part artanh[] __attribute__((unused)) = {WHOLE(2.0f / 3), WHOLE(2.0f / 5),  WHOLE(2.0f / 7), WHOLE(2.0f / 9),
                                                      WHOLE(2.0f / 11), WHOLE(2.0f / 13), WHOLE(2.0f / 15)};

/* log(1 + y) for y in [0, 1]: 2 artanh(s) with s = y / (2 + y), written as y - s (y - r), r from artanh's series up to
   s^14, so that what s was rounded by counts half. */
INLINE part log1p_part(part y) {
    NUMBERS;
    const part *series = artanh;
    __asm__ volatile("" : "+r"(series));
    part two = NUMBER(one, 1.0f) + NUMBER(one, 1.0f), s = y / (y + two), z = s * s;
    part r = fma_part(series[6], z, series[5]);
    r = fma_part(r, z, series[4]);
    r = fma_part(r, z, series[3]);
    r = fma_part(r, z, series[2]);
    r = fma_part(r, z, series[1]);
    r = fma_part(r, z, series[0]);
    return fma_part(-s, fma_part(-z, r, y), y);
}

/* The 16 bits of each as bfloat16: the upper half, rounded to nearest, ties to even. */
INLINE upart bf16_part(part x) {
    NUMBERS;
    ipart bits = (ipart)x, is_nan = (ipart)((bits & 0x7fffffff) > INTEGER(nan_above, NAN_ABOVE));
    upart odd = (upart)(bits << 15) >> 31; /* whether the upper half is */
    upart rounded = ((upart)bits + (upart)INTEGER(half_less, HALF_LESS) + odd) >> 16;
    return (upart)select_part(is_nan, (part)INTEGER(nan_bf16, NAN_BF16), (part)rounded);
}

#endif
