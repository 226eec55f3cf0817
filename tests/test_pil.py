"""Oracle of tests/test_pil.c: images, operations and Pillow's results, on standard output. Status 77 without Pillow.

A case is a line "KIND FILTER R G B VALUE HEIGHT WIDTH" (VALUE as a hexadecimal float; KIND as pil_name has it) and
HEIGHT*WIDTH*3 bytes of the image, as many of the result. The last line is "end COUNT".
"""
import math
import sys

try:
    from PIL import Image, ImageDraw, ImageEnhance, ImageOps
except ImportError:
    sys.exit(77)
import random

FILTERS = {"nearest": Image.NEAREST, "bilinear": Image.BILINEAR, "bicubic": Image.BICUBIC}
FILLS = [(128, 128, 128), (0, 0, 0), (125, 123, 114)]
FACTORS = [0.0, 0.05, 0.1, 0.19, 0.28, 0.5, 0.55, 0.73, 0.91, 0.95, 1.0, 1.09, 1.3, 1.45, 1.72, 1.9, 2.5, -0.4]
GEOMETRIC = {"ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate"}


def affine(image, matrix, kwargs):
    return image.transform(image.size, Image.AFFINE, matrix, **kwargs)


def solarize_add(image, add):
    return image.point([min(255, v + int(add)) if v < 128 else v for v in range(256)] * 3)


def posterize(image, bits):
    return ImageOps.posterize(image, int(bits)) if bits > 0 else Image.new("RGB", image.size)


OPERATIONS = {
    "Identity": lambda i, v, k: i,
    "AutoContrast": lambda i, v, k: ImageOps.autocontrast(i),
    "Equalize": lambda i, v, k: ImageOps.equalize(i),
    "Invert": lambda i, v, k: ImageOps.invert(i),
    "Posterize": lambda i, v, k: posterize(i, v),
    "Solarize": lambda i, v, k: ImageOps.solarize(i, v),
    "SolarizeAdd": lambda i, v, k: solarize_add(i, v),
    "Color": lambda i, v, k: ImageEnhance.Color(i).enhance(v),
    "Contrast": lambda i, v, k: ImageEnhance.Contrast(i).enhance(v),
    "Brightness": lambda i, v, k: ImageEnhance.Brightness(i).enhance(v),
    "Sharpness": lambda i, v, k: ImageEnhance.Sharpness(i).enhance(v),
    "ShearX": lambda i, v, k: affine(i, (1, v, 0, 0, 1, 0), k),
    "ShearY": lambda i, v, k: affine(i, (1, 0, 0, v, 1, 0), k),
    "TranslateX": lambda i, v, k: affine(i, (1, 0, v, 0, 1, 0), k),
    "TranslateY": lambda i, v, k: affine(i, (1, 0, 0, 0, 1, v), k),
    "Rotate": lambda i, v, k: i.rotate(v, **k),
}


def values_of(kind, image, rng):
    side = image.size[0] if kind.endswith("X") else image.size[1]
    if kind == "Posterize":
        return list(range(9))
    if kind == "Solarize":
        return [0, 1, 256, 255.0, 128, 127.5, 178.5, 56.66666793823242] + [rng.uniform(0, 256) for _ in range(4)]
    if kind == "SolarizeAdd":
        return [0, 1, 11, 55, 99, 110, 127, 128]
    if kind in ("Color", "Contrast", "Brightness", "Sharpness"):
        return FACTORS + [rng.uniform(0, 2) for _ in range(6)]
    if kind.startswith("Shear"):
        return [0.0, 0.3, -0.3, 0.27, 1 / 30] + [rng.uniform(-0.4, 0.4) for _ in range(6)]
    if kind.startswith("Translate"):
        relative = [0.45 * side, -0.405 * side, 150 / 331 * side, 0.0, 1.0, -3.0, 0.5, -0.5, side, -2 * side]
        return relative + [rng.uniform(-0.5, 0.5) * side for _ in range(4)] + [rng.randrange(-side, side + 1)]
    if kind == "Rotate":
        return [0.0, 30.0, -30.0, 27.0, -9.0, 0.1, -0.1, 45.0, 89.0, -60.0] + [rng.uniform(-30, 30) for _ in range(6)]
    return [0.0]


def two_colours(size, rng):
    image = Image.new("RGB", size, (13, 200, 90))
    for x in range(size[0]):
        for y in range(size[1]):
            if rng.random() < 0.3:
                image.putpixel((x, y), (250, 7, 91))
    return image


def picture(size, rng):
    """Smooth, as photographs are, with few values in one channel."""
    image = Image.new("RGB", size, (30, 60, 90))
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        x, y = rng.randrange(size[0]), rng.randrange(size[1])
        draw.ellipse((x, y, x + size[0] // 2, y + size[1] // 3), (rng.randrange(256), rng.randrange(40, 220), 80))
    return image


def noise(size, rng):
    return Image.frombytes("RGB", size, rng.randbytes(3 * size[0] * size[1]))


def images(rng):
    yield from (noise((32, 32), rng), noise((33, 47), rng), noise((47, 33), rng))
    yield Image.new("RGB", (32, 32), (7, 128, 255))
    yield Image.new("RGB", (33, 47), (0, 0, 0))
    yield from (two_colours((32, 32), rng), two_colours((47, 33), rng))
    yield from (picture((32, 32), rng), picture((33, 47), rng), picture((160, 120), rng), noise((97, 211), rng))
    for size in ((1, 1), (1, 9), (9, 1), (2, 2), (3, 3), (2, 40), (40, 2)):
        yield noise(size, rng)


def main():
    rng = random.Random(5)
    out = sys.stdout.buffer
    count = 0
    for image in images(rng):
        source = image.tobytes()
        for kind, operation in OPERATIONS.items():
            for value in values_of(kind, image, rng):
                for name, code in FILTERS.items() if kind in GEOMETRIC else [("nearest", None)]:
                    fill = rng.choice(FILLS)
                    result = operation(image, value, {"resample": code, "fillcolor": fill})
                    assert result.size == image.size and math.isfinite(value)
                    out.write(f"{kind} {name} {fill[0]} {fill[1]} {fill[2]} {float(value).hex()} "
                              f"{image.size[1]} {image.size[0]}\n".encode())
                    out.write(source)
                    out.write(result.tobytes())
                    count += 1
    out.write(f"end {count}\n".encode())


main()
