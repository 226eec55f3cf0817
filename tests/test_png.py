"""Companion of tests/test_png.c: test_png.py FOLDER

Checks FOLDER/ours.png against ours.rgb; writes NAME.png of every kind and NAME.rgb, its pixels as Pillow has them, and prints
the names.
"""
import os
import struct
import sys
import zlib

import numpy as np
from PIL import Image

folder = sys.argv[1]
height, width = 19, 23
rng = np.random.default_rng(7)
with Image.open(os.path.join(folder, "ours.png")) as ours:
    assert ours.mode == "RGB" and ours.size == (50, 40)
    assert np.asarray(ours).tobytes() == open(os.path.join(folder, "ours.rgb"), "rb").read()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def raw_png(colour, depth, lines):
    """Kinds that Pillow does not write."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    data = b"".join(b"\0" + line for line in lines)
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b""))


def report(name, pixels):
    with open(os.path.join(folder, name + ".rgb"), "wb") as file:
        file.write(np.ascontiguousarray(pixels, dtype=np.uint8).tobytes())
    print(name)


def save(name, image, **options):
    image.save(os.path.join(folder, name + ".png"), **options)
    with Image.open(os.path.join(folder, name + ".png")) as back:
        report(name, np.asarray(back.convert("RGB")))


rgb = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
alpha = rng.integers(0, 256, (height, width, 1), dtype=np.uint8)
picture = Image.fromarray(rgb)
save("rgb", picture)
save("rgba", Image.fromarray(np.concatenate([rgb, alpha], 2)))
save("grey", Image.fromarray(rgb[:, :, 0]))
save("grey_alpha", Image.fromarray(np.concatenate([rgb[:, :, :1], alpha], 2), "LA"))
save("palette", picture.quantize(200))
save("palette_transparent", picture.quantize(200), transparency=3)
save("palette_4_bits", picture.quantize(16), bits=4)
save("bits", Image.fromarray(rgb[:, :, 0] > 127))
save("rgb_transparent", picture, transparency=tuple(int(v) for v in rgb[0, 0]))

wide = rng.integers(0, 65536, (height, width, 3), dtype=np.uint16)
with open(os.path.join(folder, "rgb_16.png"), "wb") as file:
    file.write(raw_png(2, 16, [line.astype(">u2").tobytes() for line in wide]))
with Image.open(os.path.join(folder, "rgb_16.png")) as back:
    report("rgb_16", np.asarray(back.convert("RGB")))
quarters = rng.integers(0, 4, (height, 24), dtype=np.uint8)
packed = (quarters.reshape(height, 6, 4) << np.array([6, 4, 2, 0], np.uint8)).sum(2).astype(np.uint8)
with open(os.path.join(folder, "grey_2_bits.png"), "wb") as file:
    file.write(raw_png(0, 2, [line.tobytes() for line in packed]))
report("grey_2_bits", np.repeat(quarters[:, :width, None] * 85, 3, 2))
