"""Companion of tests/test_safetensors.c: test_safetensors.py OURS THEIRS

Reads OURS with the reference library and compares it with the values that the C test wrote; writes the same tensors
to THEIRS through the reference writer.
"""
import sys

import numpy as np
from safetensors import safe_open, serialize_file

halves = np.array([0x3C00, 0xC000, 0x7C00], np.uint16)
reals = np.array([1.5, -2.0, 0.0, 3.25, 1e-30, 7.0], np.float32)
tensors = {
    "zeta.weight": ("float32", reals.reshape(2, 3)),
    "alpha.weight": ("float32", reals[3:4]),
    "bn.num_batches_tracked": ("int64", np.array(42, np.int64)),
    "longs": ("int64", np.array([42, -1], np.int64)),
    "half": ("float16", halves.view(np.float16)),
    "brain": ("bfloat16", halves.reshape(1, 3, 1)),
    "bytes": ("uint8", np.array([1, 0, 255, 3, 4], np.uint8)),
    "flag": ("bool", np.array([True])),
    "double": ("float64", np.array([0.1])),
    "ints": ("int32", np.array([-5, 6], np.int32)),
    "chars": ("int8", np.array([-1, 127], np.int8)),
    'empty "quoted" é': ("float32", np.zeros((0, 3), np.float32)),
}

with safe_open(sys.argv[1], "np") as file:
    assert file.metadata() == {"format": "pt"}, file.metadata()
    assert set(file.keys()) == set(tensors)
    for name, (dtype, value) in tensors.items():
        if dtype != "bfloat16":  # numpy has no such type; the byte comparison covers it
            got = file.get_tensor(name)
            assert got.dtype == value.dtype and got.shape == value.shape and (got == value).all(), name

try:  # safetensors >= 0.8 takes addresses, older ones bytes
    from safetensors import TensorSpec
    described = {name: TensorSpec(dtype=dtype, shape=list(value.shape), data_ptr=value.ctypes.data,
                                  data_len=value.nbytes) for name, (dtype, value) in tensors.items()}
except ImportError:
    described = {name: {"dtype": dtype, "shape": list(value.shape), "data": value.tobytes()}
                 for name, (dtype, value) in tensors.items()}
serialize_file(described, sys.argv[2], {"format": "pt"})
