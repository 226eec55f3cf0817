"""Companion of tests/test_longtail.c: the recipe of CIFAR-100-LT with NumPy itself.

    test_longtail.py LABELS CLASSES [FACTOR:SEED ...]    prints the indices kept, one a line; after each case "end".

LABELS is a file of int32. Status 77 without NumPy.
"""
import sys

try:
    import numpy as np
except ImportError:
    sys.exit(77)


def kept(labels, classes, factor, seed):
    largest = int(np.bincount(labels, minlength=classes).max())
    np.random.seed(seed)
    for c in range(classes):
        members = np.where(labels == c)[0]
        np.random.shuffle(members)
        yield from members[:int(largest * (1 / factor) ** (c / (classes - 1.0)))]


def main():
    labels = np.fromfile(sys.argv[1], np.int32)
    for case in sys.argv[3:]:
        factor, seed = case.split(":")
        for index in kept(labels, int(sys.argv[2]), float(factor), int(seed)):
            print(index)
        print("end")


main()
