/* PNG through libpng. libpng reports errors by longjmp: every call that may do so stands in a function of its own below
 * the setjmp, and all that it changes lives in a struct of the caller, so no automatic variable is lost by the jump. */
#include "io/png.h"

#include <png.h>
#include <setjmp.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

enum { RGB = 3, GAP_GREY = 128, MAX_CHUNK_BYTES = 8 << 20, MAX_CHUNKS = 1000 };

typedef struct {
    jmp_buf jump;
    char message[160];
    /* writing */
    uint8_t *out;
    size_t size, capacity;
    /* reading */
    const uint8_t *data;
    size_t left, max_pixels;
    uint8_t *pixels;
    png_bytep *rows;
    png_uint_32 height, width;
} PngTask;

static void task_fail(PngTask *task, const char *message)
{
    const size_t length = strnlen(message, sizeof task->message - 1);
    memcpy(task->message, message, length);
    task->message[length] = '\0';
    longjmp(task->jump, 1);
}

static void on_error(png_structp png, png_const_charp message)
{
    task_fail(png_get_error_ptr(png), message);
}

/* Warnings are about colour profiles and the like: nothing that the pixels depend on. */
static void on_warning(png_structp png, png_const_charp message)
{
    (void)png;
    (void)message;
}

static void on_write(png_structp png, png_bytep bytes, size_t size)
{
    PngTask *const task = png_get_io_ptr(png);
    task->out = xgrow(task->out, &task->capacity, task->size + size, 1);
    memcpy(task->out + task->size, bytes, size);
    task->size += size;
}

static void on_flush(png_structp png)
{
    (void)png;
}

static void on_read(png_structp png, png_bytep bytes, size_t size)
{
    PngTask *const task = png_get_io_ptr(png);
    if (size > task->left) {
        task_fail(task, "the file ends too early");
    }
    memcpy(bytes, task->data, size);
    task->data += size;
    task->left -= size;
}

static void write_picture(png_structp png, png_infop info, PngTask *task, const uint8_t *rgb,
                          int height, int width)
{
    png_set_write_fn(png, task, on_write, on_flush);
    png_set_IHDR(png, info, (png_uint_32)width, (png_uint_32)height, 8, PNG_COLOR_TYPE_RGB,
                 PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    png_write_info(png, info);
    for (int y = 0; y < height; y++) {
        png_write_row(png, rgb + (size_t)y * (size_t)width * RGB);
    }
    png_write_end(png, info);
}

/* The jump lands here, where nothing but `task` is looked at afterwards. */
static bool try_write(png_structp png, png_infop info, PngTask *task, const uint8_t *rgb,
                      int height, int width)
{
    if (setjmp(task->jump) != 0) {
        return false;
    }
    write_picture(png, info, task, rgb, height, width);
    return true;
}

Err *png_encode(const uint8_t *rgb, int height, int width, uint8_t **out, size_t *size)
{
    *out = NULL;
    *size = 0;
    CHECK(height > 0 && width > 0, "picture of %d x %d", height, width);
    PngTask task = {0};
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, &task, on_error, on_warning);
    png_infop info = png ? png_create_info_struct(png) : NULL;
    CHECK(info, "libpng cannot start: its version is not %s's", PNG_LIBPNG_VER_STRING);
    const bool written = try_write(png, info, &task, rgb, height, width);
    png_destroy_write_struct(&png, &info);
    if (!written) {
        free(task.out);
        return err_new(EXIT_INTERNAL, "PNG of %d x %d pixels: libpng: %s", height, width,
                       task.message);
    }
    *out = task.out;
    *size = task.size;
    return NULL;
}

static void read_header(png_structp png, png_infop info, PngTask *task)
{
    png_set_read_fn(png, task, on_read);
    png_set_chunk_malloc_max(png, MAX_CHUNK_BYTES);
    png_set_chunk_cache_max(png, MAX_CHUNKS);
    png_read_info(png, info);
    task->height = png_get_image_height(png, info);
    task->width = png_get_image_width(png, info);
    if (task->height > task->max_pixels / task->width) {
        task_fail(task, "more pixels than are allowed here");
    }
    /* 16 bits are cut, not rounded, as Pillow does. A palette may bring an alpha channel along. */
    png_set_palette_to_rgb(png);
    png_set_expand_gray_1_2_4_to_8(png);
    png_set_strip_16(png);
    png_set_gray_to_rgb(png);
    png_set_strip_alpha(png);
    (void)png_set_interlace_handling(png);
    png_read_update_info(png, info);
    if (png_get_rowbytes(png, info) != (size_t)task->width * RGB) {
        task_fail(task, "its pixels do not become 8-bit RGB");
    }
}

static void read_picture(png_structp png, png_infop info, PngTask *task)
{
    read_header(png, info, task);
    const size_t row = (size_t)task->width * RGB;
    task->pixels = xcalloc(task->height, row);
    task->rows = xcalloc(task->height, sizeof *task->rows);
    for (size_t y = 0; y < task->height; y++) {
        task->rows[y] = task->pixels + y * row;
    }
    png_read_image(png, task->rows);
    png_read_end(png, NULL);
}

static bool try_read(png_structp png, png_infop info, PngTask *task)
{
    if (setjmp(task->jump) != 0) {
        return false;
    }
    read_picture(png, info, task);
    return true;
}

Err *png_decode(const uint8_t *data, size_t size, size_t max_pixels, uint8_t **rgb, int *height,
                int *width)
{
    *rgb = NULL;
    *height = *width = 0;
    PngTask task = {.data = data, .left = size, .max_pixels = max_pixels};
    png_structp png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &task, on_error, on_warning);
    png_infop info = png ? png_create_info_struct(png) : NULL;
    CHECK(info, "libpng cannot start: its version is not %s's", PNG_LIBPNG_VER_STRING);
    const bool read = try_read(png, info, &task);
    png_destroy_read_struct(&png, &info, NULL);
    free(task.rows);
    if (!read) {
        free(task.pixels);
        return err_new(EXIT_BAD_DATA, "PNG: %s (byte %zu of %zu)", task.message, size - task.left,
                       size);
    }
    *rgb = task.pixels;
    *height = (int)task.height;
    *width = (int)task.width;
    return NULL;
}

/* One picture into its place, each pixel scale x scale. */
static void grid_put(uint8_t *to, size_t to_row, const uint8_t *from, int height, int width,
                     int scale)
{
    const size_t size = (size_t)width * (size_t)scale * RGB;
    for (int y = 0; y < height * scale; y++) {
        const uint8_t *const line = from + (size_t)(y / scale) * (size_t)width * RGB;
        uint8_t *const out = to + (size_t)y * to_row;
        for (size_t i = 0; i < size; i++) {
            out[i] = line[i / RGB / (size_t)scale * RGB + i % RGB];
        }
    }
}

void picture_grid(const uint8_t *pictures, int count, int height, int width, int columns, int gap,
                  int scale, uint8_t **rgb, int *grid_height, int *grid_width)
{
    CHECK(count > 0 && height > 0 && width > 0 && columns > 0 && gap >= 0 && scale > 0,
          "grid of %d pictures of %d x %d in %d columns, gap %d, scale %d", count, height, width,
          columns, gap, scale);
    const int across = count < columns ? count : columns;
    const int down = (count + columns - 1) / columns;
    *grid_width = across * width * scale + (across - 1) * gap;
    *grid_height = down * height * scale + (down - 1) * gap;
    const size_t row = (size_t)*grid_width * RGB;
    const size_t bytes = (size_t)*grid_height * row;
    *rgb = xmalloc(bytes);
    memset(*rgb, GAP_GREY, bytes);
    for (int i = 0; i < count; i++) {
        const size_t y = (size_t)(i / columns) * (size_t)(height * scale + gap);
        const size_t x = (size_t)(i % columns) * (size_t)(width * scale + gap);
        grid_put(*rgb + y * row + x * RGB, row,
                 pictures + (size_t)i * (size_t)height * (size_t)width * RGB, height, width, scale);
    }
}
