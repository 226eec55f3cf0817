"""Companion of tests/test_convert.c. Status 77 without NumPy.

    test_convert.py IN FP16 BF16 FP32    tensor "x" of the three files must be that of IN (F64), each element rounded once,
                                         to nearest, ties to even
"""
import fractions
import json
import math
import struct
import sys

try:
    import numpy as np
except ImportError:
    sys.exit(77)


def load(path):
    with open(path, "rb") as file:
        data = file.read()
    size = struct.unpack("<Q", data[:8])[0]
    entry = json.loads(data[8:8 + size])["x"]
    begin, end = entry["data_offsets"]
    return entry["dtype"], data[8 + size + begin:8 + size + end]


def rounded(x, digits, least):
    """To `digits` binary digits, or to a multiple of 2**least where that is coarser, in exact arithmetic."""
    if not math.isfinite(x) or x == 0:
        return x
    quantum = fractions.Fraction(2) ** max(math.frexp(x)[1] - digits, least)
    return math.copysign(float(round(fractions.Fraction(x) / quantum) * quantum), x)


kind, data = load(sys.argv[1])
assert kind == "F64"
x = np.frombuffer(data, "<f8")
for path, name, digits, least in ((sys.argv[2], "F16", 11, -24), (sys.argv[3], "BF16", 8, -133), (sys.argv[4], "F32", 24, -149)):
    kind, data = load(path)
    assert kind == name
    if name == "BF16":
        got = (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
    else:
        got = np.frombuffer(data, "<f2" if name == "F16" else "<f4")
    want = np.array([rounded(float(v), digits, least) for v in x])
    same = (got.astype("f8") == want) & (np.signbit(got) == np.signbit(want)) | (np.isnan(got) & np.isnan(want))
    assert same.all(), (name, x[~same][:5], got[~same][:5], want[~same][:5])
