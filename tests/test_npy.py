"""Companion of tests/test_npy.c. Status 77 without NumPy.

    test_npy.py write DIR     writes DIR/<n>.npy for each array of the list below, and DIR/<n>.txt: "TYPE SHAPE md5", or
                              "error TEXT" where the file must be refused; their number goes to DIR/count
    test_npy.py compare DIR   DIR/<n>.ours.npy must be read as the array of DIR/<n>.npy, and have the same bytes
"""
import hashlib
import pathlib
import sys

try:
    import numpy as np
except ImportError:
    sys.exit(77)

TYPES = {"bool": "BOOL", "uint8": "U8", "int8": "I8", "int16": "I16", "uint16": "U16", "float16": "F16", "int32": "I32",
         "uint32": "U32", "float32": "F32", "float64": "F64", "int64": "I64", "uint64": "U64"}


def write(folder):
    count = 0

    def add(array, error=None, version=(1, 0), data=None):
        nonlocal count
        path = folder / f"{count}.npy"
        if data is None:
            with open(path, "wb") as out:
                np.lib.format.write_array(out, array, version=version)
        else:
            path.write_bytes(data)
        shape = "x".join(map(str, array.shape))
        text = f"error {error}" if error else f"{TYPES[array.dtype.name]} {shape} {hashlib.md5(array.tobytes()).hexdigest()}"
        (folder / f"{count}.txt").write_text(text + "\n")
        count += 1

    rng = np.random.default_rng(1)
    for name in TYPES:
        add((rng.standard_normal((3, 5)) * 100).astype(name))
    for rank in range(9):
        add(rng.standard_normal(tuple(range(1, rank + 1))[:rank] if rank < 5 else (2,) * rank).astype("float32"))
    add(np.zeros((0,), "float32"))
    add(np.zeros((3, 0, 2), "int64"))
    add(np.zeros((123456, 0), "uint8"))
    for extra in range(39):  # headers of many lengths
        ones = min(6, extra // 3)
        add(np.zeros((0, 10 ** min(18, extra - 3 * ones)) + (1,) * ones, "int8"))
    (folder / "same").write_text(str(count))  # of these, our own writer's bytes are compared
    for version in ((2, 0), (3, 0)):
        add(rng.standard_normal((4, 6)).astype("float32"), version=version)
    add(np.asfortranarray(rng.standard_normal((4, 6))), "Fortran")
    add(rng.standard_normal(3).astype(">f4"), "big-endian")
    add(np.array([{}, []], dtype=object), "Python objects")
    add(np.zeros(2, dtype=[("a", "f4"), ("b", "i4")]), "structures")
    add(np.array(["ab", "c"]), "'<U2'")
    add(np.zeros(2, "complex64"), "'<c8'")
    add(np.zeros(2, "datetime64[s]"), "'<M8[s]'")
    add(np.zeros((1,) * 9), "more than 8 dimensions")
    (folder / "count").write_text(str(count))


def compare(folder):
    for i in range(int((folder / "same").read_text())):
        theirs, ours = folder / f"{i}.npy", folder / f"{i}.ours.npy"
        a, b = np.load(theirs), np.load(ours)
        assert a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes(), i
        assert theirs.read_bytes() == ours.read_bytes(), (i, theirs.read_bytes()[:160], ours.read_bytes()[:160])


{"write": write, "compare": compare}[sys.argv[1]](pathlib.Path(sys.argv[2]))
