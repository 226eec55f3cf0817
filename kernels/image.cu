/* From bytes to the network's input, and what prepares the bytes when the whole set lives on the device: a batch's
 * views. The image kernel crops, mirrors, mixes and normalises in one pass: a warp goes along a row of
 * the output, each lane makes whole pixels. The draws are those of base/rng.h, so that the host's loader gives the same
 * batches. Bytes: image.h. Reference loops: host/data/augment.c, host/base/rng.c, host/backend/ref_misc.c. */
#include "kernels/kernel.cuh"

#include "kernels/chunk.cuh"
#include "kernels/image.h"

enum {
    IMAGE_ROWS = BLOCK_THREADS / WARP_SIZE, /* rows of a block */
    ROWS_OF_A_WARP = 4,
    IMAGE_UNROLL = 4,
    MAX_IMAGES = 65535, /* of a grid's second dimension */
    MAX_C = 4096,
    VIEW_BYTES = 4 /* of a thread */
};

/* RngPurpose of base/rng.h. */
enum { PURPOSE_CROP = 3, PURPOSE_FLIP = 4 };

/* ---- Image ---- */
typedef struct {
    int n, h, w, oh, ow, c, pad;
    float factor[3], shift[3]; /* value = byte*factor + shift */
} ImagePass;

/* One row of an image through its view: column x of the output is column start + step*x of the source. */
typedef struct {
    const uint8_t *row; /* NULL: outside, black */
    int start, step;
} ImageLine;

DEVICE ImageView load_view(const ImagePass &a, const ImageView *views, int n)
{
    ImageView view = {};
    view.dx = a.pad;
    view.dy = a.pad;
    view.partner = -1;
    view.lambda = 1.0f;
    if (views) {
        views += n;
        view.dx = load_cached(&views->dx);
        view.dy = load_cached(&views->dy);
        view.flip = load_cached(&views->flip);
        view.partner = load_cached(&views->partner);
        view.lambda = load_cached(&views->lambda);
        view.left = load_cached(&views->left);
        view.top = load_cached(&views->top);
        view.right = load_cached(&views->right);
        view.bottom = load_cached(&views->bottom);
    }
    return view;
}

DEVICE ImageLine line_of(const ImagePass &a, const uint8_t *images, const ImageView &view, int n,
                         int y)
{
    const int source_y = y + view.dy - a.pad;
    ImageLine line;
    line.row = source_y >= 0 && source_y < a.h ? images + ((int64_t)n * a.h + source_y) * a.w * 3
                                               : nullptr;
    line.start = view.dx - a.pad + (view.flip ? a.ow - 1 : 0);
    line.step = view.flip ? -1 : 1;
    return line;
}

DEVICE void fetch_pixel(const ImagePass &a, const ImageLine &line, int x, float (&value)[3])
{
    const int source_x = line.start + line.step * x;
    const bool inside = line.row && source_x >= 0 && source_x < a.w;
#pragma unroll
    for (int k = 0; k < 3; k++) {
        const unsigned byte =
            inside ? (unsigned)load_global(line.row + (int64_t)source_x * 3 + k) : 0u;
        value[k] = fmaf((float)byte, a.factor[k], a.shift[k]);
    }
}

/* c: channels where they are few (packed: stored whole), 0 = a.c of them. */
template <typename T, int c> DEVICE void store_pixel(const ImagePass &a, T *y, const float (&v)[3])
{
    if constexpr (c == 0 || c == 3) {
        const int channels = c == 0 ? a.c : c;
#pragma unroll
        for (int k = 0; k < 3; k++) {
            store_global(y + k, from_float<T>(v[k]));
        }
        for (int k = 3; k < channels; k++) {
            store_global(y + k, from_float<T>(0.0f));
        }
    } else {
        constexpr int width = c < PACK_WIDTH<T> ? c : PACK_WIDTH<T>;
#pragma unroll
        for (int first = 0; first < c; first += width) {
            float part[width];
#pragma unroll
            for (int k = 0; k < width; k++) {
                part[k] = first + k < 3 ? v[first + k < 3 ? first + k : 0] : 0.0f;
            }
            store_pack(y + first, repack<T>(part));
        }
    }
}

template <typename T, int c>
__global__ void __launch_bounds__(BLOCK_THREADS, 4)
    image_kernel(ImagePass a, const uint8_t *images, const ImageView *views, T *out)
{
    for (int n = (int)blockIdx.y; n < a.n; n += (int)gridDim.y) {
        const ImageView view = load_view(a, views, n);
        const bool mixed = view.partner >= 0 && view.partner < a.n;
        const ImageView other_view = mixed ? load_view(a, views, view.partner) : view;
        const bool blended = mixed && view.lambda != 1.0f;
        for (int y = (int)blockIdx.x * IMAGE_ROWS + warp(); y < a.oh;
             y += (int)gridDim.x * IMAGE_ROWS) {
            const ImageLine own = line_of(a, images, view, n, y);
            const ImageLine other = mixed ? line_of(a, images, other_view, view.partner, y) : own;
            const bool boxed = mixed && y >= view.top && y < view.bottom;
            T *row = out + ((int64_t)n * a.oh + y) * a.ow * a.c;
#pragma unroll IMAGE_UNROLL
            for (int x = lane(); x < a.ow; x += WARP_SIZE) {
                const bool in_box = boxed && x >= view.left && x < view.right;
                float v[3];
                fetch_pixel(a, in_box ? other : own, x, v);
                if (blended && !in_box) {
                    float w[3];
                    fetch_pixel(a, other, x, w);
#pragma unroll
                    for (int k = 0; k < 3; k++) {
                        v[k] = fmaf(view.lambda, v[k], (1.0f - view.lambda) * w[k]);
                    }
                }
                store_pixel<T, c>(a, row + (int64_t)x * a.c, v);
            }
        }
    }
}

/* Blocks along an image's rows: few, so that a view is loaded for several rows, where the batch alone fills the device. */
static unsigned row_blocks(const ImagePass &pass)
{
    const int rows = IMAGE_ROWS * ROWS_OF_A_WARP;
    const int64_t blocks = (int64_t)pass.n * ((pass.oh + rows - 1) / rows);
    const int each = blocks >= 8 * (int64_t)multiprocessors() ? rows : (int)IMAGE_ROWS;
    return (unsigned)((pass.oh + each - 1) / each);
}

template <typename T>
static KernelStatus launch_image(KernelStream stream, const ImagePass &pass, const uint8_t *images,
                                 const ImageView *views, T *y)
{
    const size_t pixel_bytes = (size_t)pass.c * sizeof(T);
    const bool aligned = aligned_to(y, pixel_bytes < 16 ? pixel_bytes : 16);
    auto image = image_kernel<T, 0>;
    if (pass.c == 3) {
        image = image_kernel<T, 3>;
    } else if (pass.c == 4 && aligned) {
        image = image_kernel<T, 4>;
    } else if (pass.c == 8 && aligned) {
        image = image_kernel<T, 8>;
    }
    const dim3 grid(row_blocks(pass), (unsigned)(pass.n < MAX_IMAGES ? pass.n : MAX_IMAGES), 1);
    LAUNCH(image, grid, dim3(BLOCK_THREADS), 0, stream, pass, images, views, y);
    return kernel_status();
}

extern "C" KernelStatus kernel_image(KernelStream stream, const ImageShape *shape,
                                     const uint8_t *images, const ImageView *views, void *y)
{
    const ImageShape s = *shape;
    const bool same_size = s.oh == s.h && s.ow == s.w;
    if (s.n < 0 || s.h <= 0 || s.w <= 0 || s.oh <= 0 || s.ow <= 0 || s.c < 3 || s.c > MAX_C ||
        s.pad < 0 || (!views && !same_size)) {
        return KERNEL_BAD_ARGUMENT;
    }
    if (s.n == 0) {
        return 0;
    }
    ImagePass pass = {s.n, s.h, s.w, s.oh, s.ow, s.c, s.pad, {}, {}};
    for (int k = 0; k < 3; k++) {
        pass.factor[k] = (float)(1.0 / (255.0 * (double)s.std[k]));
        pass.shift[k] = (float)(-(double)s.mean[k] / (double)s.std[k]);
    }
    return by_float_type(s.type, [&](auto tag) {
        typedef typename decltype(tag)::type T;
        return launch_image<T>(stream, pass, images, views, static_cast<T *>(y));
    });
}

/* ---- Views of a set that lives on the device ---- */
typedef struct {
    int sample; /* -1: nothing is shown */
    int dx, dy, flip;
} SampleView;

DEVICE uint64_t seed_of(const int32_t *cursor)
{
    return (uint64_t)(uint32_t)load_cached(cursor + 2) | (uint64_t)(uint32_t)load_cached(cursor + 3)
                                                             << 32;
}

/* augment_view of data/augment.h for row i of the batch. */
DEVICE SampleView view_of_row(const ViewsLaunch &a, int i)
{
    SampleView view = {-1, a.pad, a.pad, 0};
    const int64_t at = (int64_t)load_cached(a.cursor + 1) + i;
    const float rows = a.rows_valid ? load_cached(a.rows_valid) : (float)a.n;
    if ((float)i >= rows || at < 0 || at >= a.count) {
        return view;
    }
    const uint64_t seed = seed_of(a.cursor);
    const uint32_t epoch = (uint32_t)load_cached(a.cursor);
    view.sample = load_cached(a.order + at);
    if (a.pad > 0) {
        Rng rng = rng_make(seed, epoch, (uint64_t)(uint32_t)view.sample, PURPOSE_CROP);
        view.dy = (int)rng_below(&rng, 2u * (uint32_t)a.pad + 1u);
        view.dx = (int)rng_below(&rng, 2u * (uint32_t)a.pad + 1u);
    }
    if (a.flip) {
        Rng rng = rng_make(seed, epoch, (uint64_t)(uint32_t)view.sample, PURPOSE_FLIP);
        view.flip = (int)(rng_u32(&rng) >> 31);
    }
    return view;
}

DEVICE uint8_t view_byte(const ViewsLaunch &a, const SampleView &view, int y, int x, int channel)
{
    const int source_y = y + view.dy - a.pad;
    const int source_x = (view.flip ? a.w - 1 - x : x) + view.dx - a.pad;
    if (view.sample < 0 || source_y < 0 || source_y >= a.h || source_x < 0 || source_x >= a.w) {
        return 0;
    }
    const int64_t pixel = ((int64_t)view.sample * a.h + source_y) * a.w + source_x;
    return load_global(a.set_images + pixel * 3 + channel);
}

/* Blocks: stretches of the image's bytes, rows of the batch. words: every image begins at a multiple of 4 bytes. */
template <int words> __global__ void __launch_bounds__(BLOCK_THREADS) views_kernel(ViewsLaunch a)
{
    SHARED_ARRAY(SampleView, shared_view, 1);
    const int bytes = a.h * a.w * 3;
    for (int i = (int)blockIdx.y; i < a.n; i += (int)gridDim.y) {
        sync_block();
        if (threadIdx.x == 0) {
            shared_view[0] = view_of_row(a, i);
        }
        sync_block();
        const SampleView view = shared_view[0];
        if (blockIdx.x == 0 && threadIdx.x == 0) {
            const bool shown = view.sample >= 0;
            store_global(a.labels + i, shown ? load_global(a.set_labels + view.sample) : 0);
            store_global(a.ids + i, shown ? view.sample : 0);
        }
        const int first = ((int)blockIdx.x * BLOCK_THREADS + (int)threadIdx.x) * VIEW_BYTES;
        if (first >= bytes) {
            continue;
        }
        int y = first / (a.w * 3);
        int x = first % (a.w * 3) / 3;
        int channel = first % 3;
        Pack<uint8_t, VIEW_BYTES> pack;
#pragma unroll
        for (int k = 0; k < VIEW_BYTES; k++) {
            pack.v[k] = y < a.h ? view_byte(a, view, y, x, channel) : (uint8_t)0;
            channel = channel == 2 ? 0 : channel + 1;
            x += channel == 0 ? 1 : 0;
            y += x == a.w ? 1 : 0;
            x = x == a.w ? 0 : x;
        }
        uint8_t *out = a.images + (int64_t)i * bytes + first;
        if constexpr (words) {
            store_pack(out, pack);
        } else {
#pragma unroll
            for (int k = 0; k < VIEW_BYTES; k++) {
                if (first + k < bytes) {
                    store_global(out + k, pack.v[k]);
                }
            }
        }
    }
}

extern "C" KernelStatus kernel_views(KernelStream stream, const ViewsLaunch *launch)
{
    const ViewsLaunch a = *launch;
    const int64_t bytes = (int64_t)a.h * a.w * 3;
    if (a.n < 0 || a.count < 0 || a.h <= 0 || a.w <= 0 || a.pad < 0 || bytes > INT32_MAX / 2) {
        return KERNEL_BAD_ARGUMENT;
    }
    if (a.n == 0) {
        return 0;
    }
    const int64_t each = BLOCK_THREADS * VIEW_BYTES;
    const dim3 grid((unsigned)((bytes + each - 1) / each),
                    (unsigned)(a.n < MAX_IMAGES ? a.n : MAX_IMAGES), 1);
    auto views = aligned_to(a.images, VIEW_BYTES) && bytes % VIEW_BYTES == 0 ? views_kernel<1>
                                                                             : views_kernel<0>;
    LAUNCH(views, grid, dim3(BLOCK_THREADS), 0, stream, a);
    return kernel_status();
}

/* ---- Philox ---- */
__global__ void __launch_bounds__(BLOCK_THREADS)
    philox_kernel(uint64_t seed, uint32_t epoch, uint64_t sample, int purpose, int blocks,
                  uint32_t *out)
{
    const int block = (int)(blockIdx.x * BLOCK_THREADS + threadIdx.x);
    if (block >= blocks) {
        return;
    }
    const Rng rng = rng_make(seed, epoch, sample, purpose);
    Philox4 counter = rng.counter;
    counter.v[0] = (uint32_t)block;
    const Philox4 four = philox4x32_10(counter, rng.key[0], rng.key[1]);
#pragma unroll
    for (int k = 0; k < 4; k++) {
        store_global(out + (int64_t)block * 4 + k, four.v[k]);
    }
}

extern "C" KernelStatus kernel_philox(KernelStream stream, uint64_t seed, uint32_t epoch,
                                      uint64_t sample, int purpose, int blocks, uint32_t *out)
{
    if (blocks < 0) {
        return KERNEL_BAD_ARGUMENT;
    }
    if (blocks == 0) {
        return 0;
    }
    LAUNCH(philox_kernel, dim3((unsigned)(blocks + BLOCK_THREADS - 1) / BLOCK_THREADS),
           dim3(BLOCK_THREADS), 0, stream, seed, epoch, sample, purpose, blocks, out);
    return kernel_status();
}
