/* The inverse DCT of a JPEG block in 16-bit SIMD arithmetic, for x86-64.
 *
 * The libjpeg that we link is plain C. On sound files its 32-bit inverse DCT gives the same samples as the SIMD code that
 * Pillow's libjpeg-turbo runs; on damaged ones, whose coefficients overflow 16 bits or whose samples leave the range by
 * far, it does not: SIMD wraps and saturates where C does neither. This file computes what the SIMD code does.
 *
 * libjpeg asks jsimd_can_idct_islow() whether there is SIMD; build.rs has the linker send that question and the call here.
 */

#include <emmintrin.h>
#include <stdio.h>

#include "jpeglib.h"

#define PASS1_BITS 2
#define FIX_0_298 2446
#define FIX_0_390 3196
#define FIX_0_541 4433
#define FIX_0_765 6270
#define FIX_0_899 7373
#define FIX_1_175 9633
#define FIX_1_501 12299
#define FIX_1_847 15137
#define FIX_1_961 16069
#define FIX_2_053 16819
#define FIX_2_562 20995
#define FIX_3_072 25172

/* 8 lanes of 32 bits. */
typedef struct {
    __m128i low, high;
} wide;

static inline wide add(wide a, wide b) {
    return (wide){_mm_add_epi32(a.low, b.low), _mm_add_epi32(a.high, b.high)};
}

static inline wide sub(wide a, wide b) {
    return (wide){_mm_sub_epi32(a.low, b.low), _mm_sub_epi32(a.high, b.high)};
}

/* a * x + b * y in 32 bits; x and y have 16. */
static inline wide weigh(__m128i a, short x, __m128i b, short y) {
    const __m128i weights = _mm_set_epi16(y, x, y, x, y, x, y, x);
    return (wide){_mm_madd_epi16(_mm_unpacklo_epi16(a, b), weights), _mm_madd_epi16(_mm_unpackhi_epi16(a, b), weights)};
}

/* v * 2^13 in 32 bits. */
static inline wide scale_up(__m128i v) {
    const __m128i zero = _mm_setzero_si128();
    return (wide){_mm_srai_epi32(_mm_unpacklo_epi16(zero, v), 3), _mm_srai_epi32(_mm_unpackhi_epi16(zero, v), 3)};
}

/* Rounds `bits` away, then saturates to 16 bits. */
static inline __m128i scale_down(wide v, int bits) {
    const __m128i half = _mm_set1_epi32(1 << (bits - 1));
    return _mm_packs_epi32(_mm_srai_epi32(_mm_add_epi32(v.low, half), bits),
                           _mm_srai_epi32(_mm_add_epi32(v.high, half), bits));
}

/* One pass of the transform over eight columns at once; `bits` is what the pass scales down by. */
static inline void transform(__m128i v[8], int bits) {
    const wide even0 = scale_up(_mm_add_epi16(v[0], v[4]));
    const wide even1 = scale_up(_mm_sub_epi16(v[0], v[4]));
    const wide even2 = weigh(v[2], FIX_0_541, v[6], FIX_0_541 - FIX_1_847);
    const wide even3 = weigh(v[2], FIX_0_541 + FIX_0_765, v[6], FIX_0_541);
    const wide sum0 = add(even0, even3), sum3 = sub(even0, even3);
    const wide sum1 = add(even1, even2), sum2 = sub(even1, even2);

    const __m128i z3 = _mm_add_epi16(v[7], v[3]), z4 = _mm_add_epi16(v[5], v[1]);
    const wide both3 = weigh(z3, FIX_1_175 - FIX_1_961, z4, FIX_1_175);
    const wide both4 = weigh(z3, FIX_1_175, z4, FIX_1_175 - FIX_0_390);
    const wide odd0 = add(weigh(v[7], FIX_0_298 - FIX_0_899, v[1], -FIX_0_899), both3);
    const wide odd1 = add(weigh(v[5], FIX_2_053 - FIX_2_562, v[3], -FIX_2_562), both4);
    const wide odd2 = add(weigh(v[5], -FIX_2_562, v[3], FIX_3_072 - FIX_2_562), both3);
    const wide odd3 = add(weigh(v[7], -FIX_0_899, v[1], FIX_1_501 - FIX_0_899), both4);

    v[0] = scale_down(add(sum0, odd3), bits);
    v[7] = scale_down(sub(sum0, odd3), bits);
    v[1] = scale_down(add(sum1, odd2), bits);
    v[6] = scale_down(sub(sum1, odd2), bits);
    v[2] = scale_down(add(sum2, odd1), bits);
    v[5] = scale_down(sub(sum2, odd1), bits);
    v[3] = scale_down(add(sum3, odd0), bits);
    v[4] = scale_down(sub(sum3, odd0), bits);
}

static inline void transpose(__m128i v[8]) {
    __m128i a[8], b[8];
    for (int i = 0; i < 4; i++) {
        a[2 * i] = _mm_unpacklo_epi16(v[i], v[i + 4]);
        a[2 * i + 1] = _mm_unpackhi_epi16(v[i], v[i + 4]);
    }
    for (int i = 0; i < 4; i++) {
        b[2 * i] = _mm_unpacklo_epi16(a[i], a[i + 4]);
        b[2 * i + 1] = _mm_unpackhi_epi16(a[i], a[i + 4]);
    }
    for (int i = 0; i < 4; i++) {
        v[2 * i] = _mm_unpacklo_epi16(b[i], b[i + 4]);
        v[2 * i + 1] = _mm_unpackhi_epi16(b[i], b[i + 4]);
    }
}

/* Eight quantisation factors, cut to 16 bits. */
static __m128i factors(const int *table) {
    const __m128i low = _mm_loadu_si128((const __m128i *)table), high = _mm_loadu_si128((const __m128i *)(table + 4));
    return _mm_packs_epi32(_mm_srai_epi32(_mm_slli_epi32(low, 16), 16), _mm_srai_epi32(_mm_slli_epi32(high, 16), 16));
}

int __wrap_jsimd_can_idct_islow(void) {
    return 1;
}

void __wrap_jsimd_idct_islow(j_decompress_ptr cinfo, jpeg_component_info *component, JCOEFPTR block,
                             JSAMPARRAY rows, JDIMENSION column) {
    __m128i v[8], any = _mm_setzero_si128();
    (void)cinfo;
    for (int i = 0; i < 8; i++) {
        const __m128i coefficients = _mm_loadu_si128((const __m128i *)(block + 8 * i));
        if (i > 0) {
            any = _mm_or_si128(any, coefficients);
        }
        v[i] = _mm_mullo_epi16(coefficients, factors((const int *)component->dct_table + 8 * i));
    }
    if (_mm_movemask_epi8(_mm_cmpeq_epi16(any, _mm_setzero_si128())) == 0xFFFF) {
        /* Only the first row is set: the SIMD code shifts, which wraps, where the full pass saturates. */
        v[0] = _mm_slli_epi16(v[0], PASS1_BITS);
        for (int i = 1; i < 8; i++) {
            v[i] = v[0];
        }
    } else {
        transform(v, 13 - PASS1_BITS);
    }
    transpose(v);
    transform(v, 13 + PASS1_BITS + 3);
    transpose(v);
    for (int i = 0; i < 8; i += 2) {
        const __m128i samples = _mm_add_epi8(_mm_packs_epi16(v[i], v[i + 1]), _mm_set1_epi8((char)128));
        _mm_storel_epi64((__m128i *)(rows[i] + column), samples);
        _mm_storel_epi64((__m128i *)(rows[i + 1] + column), _mm_srli_si128(samples, 8));
    }
}
