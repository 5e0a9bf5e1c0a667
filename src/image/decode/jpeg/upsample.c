/* Smooth upsampling of a JPEG's chroma in SIMD, for x86-64: the samples of libjpeg's plain C.
 *
 * libjpeg asks jsimd_can_...() whether there is SIMD; build.rs has the linker send those questions and the calls here.
 */

#include <emmintrin.h>
#include <stdio.h>
#include <string.h>

#include "jpeglib.h"

/* Columns treated together; a multiple of 8. */
#define CHUNK 64

/* A column of the row, or 3 * near + far where there is a second row. */
static short column(const JSAMPLE *near, const JSAMPLE *far, JDIMENSION at) {
    return far == NULL ? near[at] : 3 * near[at] + far[at];
}

/* Eight columns. */
static __m128i columns(const JSAMPLE *near, const JSAMPLE *far, JDIMENSION at) {
    const __m128i zero = _mm_setzero_si128();
    const __m128i n = _mm_unpacklo_epi8(_mm_loadl_epi64((const __m128i *)(near + at)), zero);
    if (far == NULL) {
        return n;
    }
    const __m128i f = _mm_unpacklo_epi8(_mm_loadl_epi64((const __m128i *)(far + at)), zero);
    return _mm_add_epi16(_mm_add_epi16(n, f), _mm_add_epi16(n, n));
}

/* Two samples for each column: 3/4 of it, and 1/4 of its left, then of its right neighbour; at the ends, of itself.
 * One of them rounds down and the other one up, so that no bias adds up. */
static void widen(const JSAMPLE *near, const JSAMPLE *far, JSAMPLE *out, JDIMENSION width) {
    const __m128i bits = _mm_cvtsi32_si128(far == NULL ? 2 : 4);
    const __m128i round_left = _mm_set1_epi16(far == NULL ? 1 : 8), round_right = _mm_set1_epi16(far == NULL ? 2 : 7);
    short padded[8 + CHUNK + 8] = {0}, *const sums = padded + 8;
    for (JDIMENSION start = 0; start < width; start += CHUNK) {
        const JDIMENSION count = width - start < CHUNK ? width - start : CHUNK;
        JDIMENSION i = 0;
        for (; i + 8 <= count; i += 8) {
            _mm_storeu_si128((__m128i *)(sums + i), columns(near, far, start + i));
        }
        for (; i < count; i++) {
            sums[i] = column(near, far, start + i);
        }
        sums[-1] = start > 0 ? column(near, far, start - 1) : sums[0];
        sums[count] = start + count < width ? column(near, far, start + count) : sums[count - 1];
        for (i = 0; i < count; i += 8) {
            const __m128i self = _mm_loadu_si128((const __m128i *)(sums + i));
            const __m128i self3 = _mm_add_epi16(self, _mm_add_epi16(self, self));
            const __m128i left = _mm_add_epi16(_mm_loadu_si128((const __m128i *)(sums + i - 1)), round_left);
            const __m128i right = _mm_add_epi16(_mm_loadu_si128((const __m128i *)(sums + i + 1)), round_right);
            const __m128i even = _mm_srl_epi16(_mm_add_epi16(self3, left), bits);
            const __m128i odd = _mm_srl_epi16(_mm_add_epi16(self3, right), bits);
            const __m128i pairs = _mm_or_si128(even, _mm_slli_epi16(odd, 8));
            if (count - i >= 8) {
                _mm_storeu_si128((__m128i *)(out + 2 * (start + i)), pairs);
            } else {
                memcpy(out + 2 * (start + i), &pairs, 2 * (count - i));
            }
        }
    }
}

int __wrap_jsimd_can_h2v1_fancy_upsample(void) {
    return 1;
}

int __wrap_jsimd_can_h2v2_fancy_upsample(void) {
    return 1;
}

void __wrap_jsimd_h2v1_fancy_upsample(j_decompress_ptr cinfo, jpeg_component_info *component, JSAMPARRAY input,
                                      JSAMPARRAY *output) {
    for (int row = 0; row < cinfo->max_v_samp_factor; row++) {
        widen(input[row], NULL, (*output)[row], component->downsampled_width);
    }
}

/* Of two output rows the upper one leans on the row above, the lower one on the row below; libjpeg keeps both ready. */
void __wrap_jsimd_h2v2_fancy_upsample(j_decompress_ptr cinfo, jpeg_component_info *component, JSAMPARRAY input,
                                      JSAMPARRAY *output) {
    for (int row = 0; row < cinfo->max_v_samp_factor; row++) {
        const JSAMPROW *near = input + row / 2;
        widen(near[0], row % 2 == 0 ? near[-1] : near[1], (*output)[row], component->downsampled_width);
    }
}
