/* image.c: RGB pixels -> tiles, what a vision-language model does to a picture. (codecs/ makes pixels of files.)

     [height, width, 3]                                              SvImage
       |  transparent parts: painted                                 .convert_to_rgb
       |  longest edge to longest_edge, the other by aspect ratio    SmolVLMImageProcessorPil.resize
       |  (or both edges to an SV_EXACT_SIZE)
       |  both edges up to multiples of side                         .resize_for_vision_encoder
     [rows * side, cols * side, 3]
       |  cut into tiles; and the whole, resized to one more tile    .split_images
     [rows * cols + 1, side, side, 3]                                SvTiles */
#include "model.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

void sv_image_free(SvImage *image) {
    free(image->rgb);
    free(image->alpha);
    *image = (SvImage){0};
}

void sv_tiles_free(SvTiles *tiles) {
    free(tiles->rgb);
    *tiles = (SvTiles){0};
}

/* ------------------------------------------------------------------------------------------------ sizes and memory */

int sv_check_size(uint64_t width, uint64_t height, const char *name, SvError *error) {
    if (width == 0 || height == 0)
        return sv_fail(error, "%s: the picture has no pixels: its header says %llu x %llu", name,
                       (unsigned long long)width, (unsigned long long)height);
    if (width > SV_MAX_SIDE || height > SV_MAX_SIDE || width * height > SV_MAX_PIXELS)
        return sv_fail(error, "%s: %llu x %llu pixels are too many: at most %d a side and %d in all are read", name,
                       (unsigned long long)width, (unsigned long long)height, SV_MAX_SIDE, SV_MAX_PIXELS);
    return 0;
}

/* For sizes that passed sv_check_size; the pixels are not initialised. */
int sv_new_image(uint64_t width, uint64_t height, const char *name, SvImage *image, SvError *error) {
    if (width * height * 3 > SIZE_MAX || !(image->rgb = malloc((size_t)(width * height * 3))))
        return sv_fail(error, "%s: not enough memory for %llu x %llu pixels", name,
                       (unsigned long long)width, (unsigned long long)height);
    image->width = (int)width;
    image->height = (int)height;
    return 0;
}

/* ------------------------------------------------------------------------------------------------ transparency */

/* Composites a sample over an opaque one as ImagingAlphaComposite does, with 7 bits more than samples have. */
static uint8_t over(unsigned sample, unsigned below, unsigned alpha) {
    unsigned sum = ((sample * alpha + below * (255 - alpha)) << 7) + (128 << 7);
    return (uint8_t)((((sum >> 8) + sum) >> 8) >> 7);
}

int sv_image_paint(const SvImage *image, const uint8_t *background, SvImage *out, SvError *error) {
    const size_t size = (size_t)image->width * (size_t)image->height;
    *out = (SvImage){0};
    if (sv_new_image((uint64_t)image->width, (uint64_t)image->height, "paint", out, error)) return -1;
    memcpy(out->rgb, image->rgb, 3 * size);
    uint8_t *rgb = out->rgb;
    for (size_t i = 0; i < size; i++, rgb += 3) {
        if (!background && image->has_key && memcmp(rgb, image->key, 3) == 0) memset(rgb, 255, 3);
        if (background && image->alpha)
            for (int c = 0; c < 3; c++) rgb[c] = over(rgb[c], background[c], image->alpha[i]);
    }
    return 0;
}

/* ------------------------------------------------------------------------------------------------ resize

   LANCZOS for 8-bit pixels, as in Pillow's Resample.c: a sinc wave, sin(pi x) / (pi x), windowed to fade out three
   source pixels from the centre. An output pixel is the sum of the source pixels around it with these weights. Where
   the picture shrinks, the window is stretched by the scale. The weight in two dimensions is the product of two in one,
   so rows are scaled first and columns after: 2k multiplications a pixel instead of k * k. Weights are computed in
   double, normalized to sum to 1 and rounded to 22 bits. Both passes round to 8 bits.

     [h, w, 3]  -> along the rows [h', width, 3], only the rows that the next pass needs
                -> down the columns [height, width, 3]
     or first down the columns, then along the rows: see sv_image_resize                                             */

enum { PRECISION_BITS = 32 - 8 - 2 };

/* Whose arithmetic: Pillow's, for pictures; or torch's, in which the reference scales the frames of a video. There,
   weights have as many bits as fit into 16, and rows are scaled first, always; everything else is the same. */
typedef enum Whose { PILLOW, TORCH } Whose;

typedef struct Coeffs {
    int bits;                       /* of a weight, behind the point */
    int ksize;                      /* weights kept for each output pixel */
    int *bounds;                    /* [out, 2]: its first source pixel, and how many */
    int32_t *k;                     /* [out, ksize] */
} Coeffs;

/* sin(x) for |x| <= 10 without libm, whose last bit differs between systems. Subtracts the nearest multiple of pi (pi
   in three parts, so that the first two products are exact), then sums a Taylor series. Within 2 ulp, far finer than
   the 22 bits that are kept. */
static double sine(double x) {
    double turns = floor(x / 3.14159265358979323846 + 0.5);
    double r = ((x - turns * 0x1.921fb5p+1) - turns * 0x1.110b46p-25) - turns * 0x1.1a62633145c07p-53;
    double r2 = r * r, sum = 0;
    for (int n = 20; n >= 2; n -= 2) sum = (sum + 1) * -r2 / (n * (n + 1));
    sum = r + r * sum;
    return (int)turns % 2 ? -sum : sum;
}

static double sinc(double x) {
    if (x == 0) return 1;
    x *= 3.14159265358979323846;
    return sine(x) / x;
}

static double lanczos(double x) { return -3 <= x && x < 3 ? sinc(x) * sinc(x / 3) : 0; }

/* The weights of output pixel i, of sum 1; returns how many, and sets *first to the source pixel of the first one. */
static int pixel_weights(int in, int out, int i, double *weights, int *first) {
    const double scale = (double)in / out, filterscale = scale < 1 ? 1 : scale, support = 3 * filterscale;
    const double center = (i + 0.5) * scale;
    int end = (int)(center + support + 0.5);
    double sum = 0;
    *first = (int)(center - support + 0.5);
    if (*first < 0) *first = 0;
    if (end > in) end = in;
    for (int j = 0; j < end - *first; j++) {
        weights[j] = lanczos((j + *first - center + 0.5) * (1 / filterscale));
        sum += weights[j];
    }
    for (int j = 0; j < end - *first && sum != 0; j++) weights[j] /= sum;
    return end - *first;
}

static int precompute_coeffs(int in, int out, Whose whose, Coeffs *coeffs) {
    const double scale = (double)in / out, support = 3 * (scale < 1 ? 1 : scale);
    const int ksize = (int)ceil(support) * 2 + 1;
    double *weights = malloc((size_t)ksize * sizeof *weights), largest = 0;
    int first;
    coeffs->bits = PRECISION_BITS;
    coeffs->ksize = ksize;
    coeffs->bounds = malloc((size_t)out * 2 * sizeof *coeffs->bounds);
    coeffs->k = (size_t)ksize > SIZE_MAX / 4 / (size_t)out ? NULL : malloc((size_t)out * (size_t)ksize * 4);
    if (!weights || !coeffs->bounds || !coeffs->k) {
        free(weights);
        return -1;
    }
    if (whose == TORCH) {                               /* the largest weight, times 2^bits, is below 2^15 */
        for (int i = 0; i < out; i++)
            for (int j = pixel_weights(in, out, i, weights, &first) - 1; j >= 0; j--)
                if (weights[j] > largest) largest = weights[j];
        coeffs->bits = 0;
        while (coeffs->bits < PRECISION_BITS && (int)(0.5 + largest * (1 << (coeffs->bits + 1))) < 1 << 15)
            coeffs->bits++;
    }
    for (int i = 0; i < out; i++) {
        int count = pixel_weights(in, out, i, weights, &first);
        int32_t *k = coeffs->k + (size_t)i * (size_t)ksize;
        for (int j = 0; j < count; j++) {
            double weight = weights[j] * (1 << coeffs->bits);
            k[j] = (int32_t)(weight < 0 ? weight - 0.5 : weight + 0.5);
        }
        coeffs->bounds[2 * i] = first;
        coeffs->bounds[2 * i + 1] = count;
    }
    free(weights);
    return 0;
}

static void free_coeffs(Coeffs *coeffs) {
    free(coeffs->bounds);
    free(coeffs->k);
}

static uint8_t clip8(int32_t sum, int bits) {
    return sum < 0 ? 0 : sum >> bits > 255 ? 255 : (uint8_t)(sum >> bits);
}

/* Scales along the rows, eight rows at once. They are interleaved in `block`, [w, 8, 3], so that the innermost loop
   applies one weight to 24 adjacent samples. */
enum { BLOCK = 8 };
static void resample_rows(const uint8_t *from, int in, int rows, const Coeffs *coeffs, uint8_t *to, int out,
                          uint8_t *block) {
    const size_t row_size = (size_t)out * 3;
    for (int y = 0; y < rows; y += BLOCK) {
        int n = rows - y < BLOCK ? rows - y : BLOCK;
        for (int r = 0; r < n; r++) {
            const uint8_t *row = from + (size_t)(y + r) * (size_t)in * 3;
            for (size_t x = 0; x < (size_t)in; x++) memcpy(block + (x * BLOCK + (size_t)r) * 3, row + x * 3, 3);
        }
        for (int x = 0; x < out; x++) {
            const int32_t *k = coeffs->k + (size_t)x * (size_t)coeffs->ksize;
            const uint8_t *column = block + (size_t)coeffs->bounds[2 * x] * BLOCK * 3;
            int32_t sum[BLOCK * 3], half = 1 << (coeffs->bits - 1);
            for (int i = 0; i < BLOCK * 3; i++) sum[i] = half;
            for (int j = 0; j < coeffs->bounds[2 * x + 1]; j++, column += BLOCK * 3)
                for (int i = 0; i < BLOCK * 3; i++) sum[i] += column[i] * k[j];
            uint8_t *result = to + (size_t)x * 3;
            for (int r = 0; r < n; r++, result += row_size)
                for (int c = 0; c < 3; c++) result[c] = clip8(sum[r * 3 + c], coeffs->bits);
        }
        to += (size_t)n * row_size;
    }
}

/* Scales down the columns, a stretch of a row at a time. `from` begins with the source's row number `first`. */
static void resample_columns(const uint8_t *from, int first, size_t row_size, const Coeffs *coeffs, uint8_t *to,
                             int out) {
    for (int y = 0; y < out; y++, to += row_size) {
        const int32_t *k = coeffs->k + (size_t)y * (size_t)coeffs->ksize;
        const uint8_t *rows = from + (size_t)(coeffs->bounds[2 * y] - first) * row_size;
        for (size_t x = 0; x < row_size;) {
            enum { STRETCH = 768 };
            int32_t sum[STRETCH], half = 1 << (coeffs->bits - 1);
            size_t n = smaller(STRETCH, row_size - x);
            for (size_t i = 0; i < n; i++) sum[i] = half;
            for (int j = 0; j < coeffs->bounds[2 * y + 1]; j++) {
                const uint8_t *row = rows + (size_t)j * row_size + x;
                for (size_t i = 0; i < n; i++) sum[i] += row[i] * k[j];
            }
            for (size_t i = 0; i < n; i++) to[x + i] = clip8(sum[i], coeffs->bits);
            x += n;
        }
    }
}

static int resize(const SvImage *image, int width, int height, Whose whose, SvImage *out, SvError *error) {
    const uint64_t w = width > 0 ? (uint64_t)width : 0, h = height > 0 ? (uint64_t)height : 0;
    const bool need_horizontal = width != image->width, need_vertical = height != image->height;
    Coeffs horizontal = {0}, vertical = {0};
    SvImage between = {0};
    uint8_t *block = NULL;
    *out = (SvImage){0};
    if (sv_check_size(w, h, "resize", error) || sv_new_image(w, h, "resize", out, error)) return -1;
    if (!need_horizontal && !need_vertical) {
        memcpy(out->rgb, image->rgb, (size_t)w * (size_t)h * 3);
        return 0;
    }

    /* Pillow 13 scales the columns first where the height shrinks by more than twice what the width does (in pixels,
       not by scale). Pillow up to 12 never does: some bytes of such a picture differ by 1 there. */
    const bool columns_first = whose == PILLOW && image->height > height &&
                               image->height - height > (image->width - width) * 2;
    bool failed = (need_vertical && precompute_coeffs(image->height, height, whose, &vertical))
               || (need_horizontal && precompute_coeffs(image->width, width, whose, &horizontal))
               || (need_horizontal && !(block = calloc((size_t)image->width, BLOCK * 3)));
    if (failed) {
        ;
    } else if (!need_horizontal) {
        resample_columns(image->rgb, 0, (size_t)w * 3, &vertical, out->rgb, height);
    } else if (!need_vertical) {
        resample_rows(image->rgb, image->width, height, &horizontal, out->rgb, width, block);
    } else if (columns_first) {
        failed = sv_new_image((uint64_t)image->width, h, "resize", &between, error);
        if (!failed) {
            resample_columns(image->rgb, 0, (size_t)image->width * 3, &vertical, between.rgb, height);
            resample_rows(between.rgb, image->width, height, &horizontal, out->rgb, width, block);
        }
    } else {
        const int first = vertical.bounds[0], end = vertical.bounds[2 * height - 2] + vertical.bounds[2 * height - 1];
        const uint8_t *from = image->rgb + (size_t)first * (size_t)image->width * 3;
        failed = sv_new_image(w, (uint64_t)(end - first), "resize", &between, error);
        if (!failed) {
            resample_rows(from, image->width, end - first, &horizontal, between.rgb, width, block);
            resample_columns(between.rgb, first, (size_t)w * 3, &vertical, out->rgb, height);
        }
    }
    free(block);
    sv_image_free(&between);
    free_coeffs(&horizontal);
    free_coeffs(&vertical);
    if (!failed) return 0;
    sv_image_free(out);
    return sv_fail(error, "not enough memory to make %d x %d pixels of %d x %d", width, height, image->width,
                   image->height);
}

int sv_image_resize(const SvImage *image, int width, int height, SvImage *out, SvError *error) {
    return resize(image, width, height, PILLOW, out, error);
}

/* ------------------------------------------------------------------------------------------------ tiles */

/* _resize_output_size_rescale_to_max_len, then _scale_below_upper_bound: Python's int() is the cast to int. */
static void longest_edge_size(int *width, int *height, int longest_edge) {
    double aspect_ratio = (double)*width / *height;
    if (*width >= *height) {
        *width = longest_edge;
        *height = (int)(*width / aspect_ratio);
        *height += *height % 2;
    } else {
        *height = longest_edge;
        *width = (int)(*height * aspect_ratio);
        *width += *width % 2;
    }
    if (*width < 1) *width = 1;
    if (*height < 1) *height = 1;

    aspect_ratio = (double)*width / *height;
    if (*width >= *height && *width > SV_LONGEST_EDGE) {
        *width = SV_LONGEST_EDGE;
        *height = (int)(*width / aspect_ratio);
    } else if (*height > *width && *height > SV_LONGEST_EDGE) {
        *height = SV_LONGEST_EDGE;
        *width = (int)(*height * aspect_ratio);
    }
    if (*width < 1) *width = 1;
    if (*height < 1) *height = 1;
}

/* resize_for_vision_encoder: rounds the long edge up to a multiple of side, computes the other from it by the aspect
   ratio, and rounds that up, too. */
static void vision_encoder_size(int *width, int *height, int side) {
    double aspect_ratio = (double)*width / *height;
    if (*width >= *height) {
        *width = (*width + side - 1) / side * side;
        *height = (int)(*width / aspect_ratio);
        *height = (*height + side - 1) / side * side;
    } else {
        *height = (*height + side - 1) / side * side;
        *width = (int)(*height * aspect_ratio);
        *width = (*width + side - 1) / side * side;
    }
}

static int split_tiles(const SvImage *image, int side, SvTiles *tiles, SvError *error) {
    const size_t row_size = (size_t)side * 3, tile_size = row_size * (size_t)side;
    SvImage whole = {0};
    tiles->side = side;
    if (image->width > side || image->height > side) {
        tiles->rows = image->height / side;
        tiles->cols = image->width / side;
    }
    tiles->count = tiles->rows * tiles->cols + 1;
    if ((size_t)tiles->count > SIZE_MAX / tile_size || !(tiles->rgb = malloc((size_t)tiles->count * tile_size)))
        return sv_fail(error, "not enough memory for %d tiles of %d x %d pixels", tiles->count, side, side);
    uint8_t *to = tiles->rgb;
    for (int row = 0; row < tiles->rows; row++)
        for (int col = 0; col < tiles->cols; col++) {
            const uint8_t *from = image->rgb + ((size_t)(row * side) * (size_t)image->width + (size_t)(col * side)) * 3;
            for (int y = 0; y < side; y++, to += row_size, from += (size_t)image->width * 3) memcpy(to, from, row_size);
        }
    if (sv_image_resize(image, side, side, &whole, error)) return -1;
    memcpy(to, whole.rgb, tile_size);
    sv_image_free(&whole);
    return 0;
}

static int make_tiles(const SvImage *image, int longest_edge, int side, bool split, Whose whose, SvTiles *tiles,
                      SvError *error) {
    SvImage painted = {0}, resized = {0}, fitted = {0};
    int width = image->width, height = image->height, result;
    *tiles = (SvTiles){0};
    if (!sv_is_edge(longest_edge) || side < 1 || side > SV_MAX_SIDE)
        return sv_fail(error, "a picture cannot be cut: the longest edge %d and the tile's side %d must be 1 to %d",
                       longest_edge, side, SV_MAX_SIDE);
    if (!image->rgb || width < 1 || height < 1) return sv_fail(error, "a picture without pixels cannot be cut");
    if (image->has_key && sv_image_paint(image, NULL, &painted, error)) return -1;
    if (longest_edge > SV_MAX_SIDE) width = longest_edge & 0xffff, height = longest_edge >> 16;
    else longest_edge_size(&width, &height, longest_edge);
    result = resize(image->has_key ? &painted : image, width, height, whose, &resized, error);
    sv_image_free(&painted);
    if (result) return -1;
    if (split) vision_encoder_size(&width, &height, side);
    else width = height = side;
    if (width < 1 || height < 1)            /* the aspect ratio rounded it to 0; the reference raises here */
        result = sv_fail(error, "a picture of %d x %d pixels is too narrow to be cut into tiles", image->width,
                         image->height);
    else result = resize(&resized, width, height, whose, &fitted, error);
    sv_image_free(&resized);
    if (result == 0) result = split_tiles(&fitted, side, tiles, error);
    sv_image_free(&fitted);
    if (result) sv_tiles_free(tiles);
    return result;
}

int sv_image_split(const SvImage *image, int longest_edge, int side, bool split, SvTiles *tiles, SvError *error) {
    return make_tiles(image, longest_edge, side, split, PILLOW, tiles, error);
}

int sv_image_frame(const SvImage *image, int longest_edge, int side, SvTiles *tiles, SvError *error) {
    return make_tiles(image, longest_edge, side, false, TORCH, tiles, error);
}
