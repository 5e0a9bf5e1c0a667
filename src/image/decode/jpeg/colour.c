/* From a JPEG's YCbCr to RGB in SIMD, for x86-64: the samples of libjpeg's plain C.
 *
 * libjpeg asks jsimd_can_ycc_rgb() whether there is SIMD; build.rs has the linker send that question and the call here.
 * Three bytes a pixel are written, red first: the only colour space that the Rust side asks for.
 */

#include <emmintrin.h>
#include <stdio.h>
#include <string.h>

#include "jpeglib.h"

/* Times 2^16; each product with 16 bits stands for a factor that differs from it by a whole number. */
#define FIX_0_402 26345 /* 1.402 - 1 */
#define FIX_0_228 14942 /* 2 - 1.772 */
#define FIX_0_344 22554
#define FIX_0_286 18734 /* 1 - 0.71414 */

/* Red, green and blue of eight pixels, not yet clamped, and of chroma with its zero at 0. */
typedef struct {
    __m128i r, g, b;
} pixels;

/* Rounds v * factor / 2^16; |v| <= 2^14. */
static __m128i scaled(__m128i v, short factor) {
    const __m128i twice = _mm_mulhi_epi16(_mm_add_epi16(v, v), _mm_set1_epi16(factor));
    return _mm_srai_epi16(_mm_add_epi16(twice, _mm_set1_epi16(1)), 1);
}

static __m128i rounded_sum(__m128i pairs, __m128i weights) {
    return _mm_srai_epi32(_mm_add_epi32(_mm_madd_epi16(pairs, weights), _mm_set1_epi32(1 << 15)), 16);
}

static pixels convert(__m128i y, __m128i cb, __m128i cr) {
    const __m128i weights =
        _mm_set_epi16(FIX_0_286, -FIX_0_344, FIX_0_286, -FIX_0_344, FIX_0_286, -FIX_0_344, FIX_0_286, -FIX_0_344);
    const __m128i low = rounded_sum(_mm_unpacklo_epi16(cb, cr), weights);
    const __m128i high = rounded_sum(_mm_unpackhi_epi16(cb, cr), weights);
    return (pixels){
        .r = _mm_add_epi16(_mm_add_epi16(y, cr), scaled(cr, FIX_0_402)),
        .g = _mm_add_epi16(_mm_sub_epi16(y, cr), _mm_packs_epi32(low, high)),
        .b = _mm_add_epi16(_mm_add_epi16(y, _mm_add_epi16(cb, cb)), scaled(cb, -FIX_0_228)),
    };
}

/* Four pixels of four bytes, the last one 0, as twelve bytes and four zeros. */
static __m128i squeeze(__m128i v) {
    const __m128i first = _mm_and_si128(v, _mm_set1_epi64x(0xFFFFFF)), second = _mm_srli_epi64(v, 32);
    const __m128i pairs = _mm_or_si128(first, _mm_slli_epi64(second, 24));
    return _mm_or_si128(_mm_move_epi64(pairs), _mm_slli_si128(_mm_srli_si128(pairs, 8), 6));
}

/* Sixteen pixels, 48 bytes. */
static void convert16(const JSAMPLE *y, const JSAMPLE *cb, const JSAMPLE *cr, JSAMPLE *rgb) {
    const __m128i zero = _mm_setzero_si128(), centre = _mm_set1_epi16(128);
    const __m128i ys = _mm_loadu_si128((const __m128i *)y), cbs = _mm_loadu_si128((const __m128i *)cb);
    const __m128i crs = _mm_loadu_si128((const __m128i *)cr);
    const pixels low = convert(_mm_unpacklo_epi8(ys, zero), _mm_sub_epi16(_mm_unpacklo_epi8(cbs, zero), centre),
                               _mm_sub_epi16(_mm_unpacklo_epi8(crs, zero), centre));
    const pixels high = convert(_mm_unpackhi_epi8(ys, zero), _mm_sub_epi16(_mm_unpackhi_epi8(cbs, zero), centre),
                                _mm_sub_epi16(_mm_unpackhi_epi8(crs, zero), centre));
    const __m128i r = _mm_packus_epi16(low.r, high.r), g = _mm_packus_epi16(low.g, high.g);
    const __m128i b = _mm_packus_epi16(low.b, high.b);
    const __m128i rg0 = _mm_unpacklo_epi8(r, g), rg1 = _mm_unpackhi_epi8(r, g);
    const __m128i b0 = _mm_unpacklo_epi8(b, zero), b1 = _mm_unpackhi_epi8(b, zero);
    const __m128i v0 = squeeze(_mm_unpacklo_epi16(rg0, b0)), v1 = squeeze(_mm_unpackhi_epi16(rg0, b0));
    const __m128i v2 = squeeze(_mm_unpacklo_epi16(rg1, b1)), v3 = squeeze(_mm_unpackhi_epi16(rg1, b1));
    __m128i *out = (__m128i *)rgb;
    _mm_storeu_si128(out, _mm_or_si128(v0, _mm_slli_si128(v1, 12)));
    _mm_storeu_si128(out + 1, _mm_or_si128(_mm_srli_si128(v1, 4), _mm_slli_si128(v2, 8)));
    _mm_storeu_si128(out + 2, _mm_or_si128(_mm_srli_si128(v2, 8), _mm_slli_si128(v3, 4)));
}

int __wrap_jsimd_can_ycc_rgb(void) {
    return 1;
}

void __wrap_jsimd_ycc_rgb_convert(j_decompress_ptr cinfo, JSAMPIMAGE input, JDIMENSION row, JSAMPARRAY output,
                                  int rows) {
    const JDIMENSION width = cinfo->output_width, whole = width / 16 * 16;
    for (int i = 0; i < rows; i++) {
        const JSAMPLE *y = input[0][row + i], *cb = input[1][row + i], *cr = input[2][row + i];
        for (JDIMENSION at = 0; at < whole; at += 16) {
            convert16(y + at, cb + at, cr + at, output[i] + 3 * at);
        }
        JSAMPLE rest[3][16] = {{0}}, rgb[48];
        memcpy(rest[0], y + whole, width - whole);
        memcpy(rest[1], cb + whole, width - whole);
        memcpy(rest[2], cr + whole, width - whole);
        convert16(rest[0], rest[1], rest[2], rgb);
        memcpy(output[i] + 3 * whole, rgb, 3 * (width - whole));
    }
}
