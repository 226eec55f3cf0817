"""The statistics of a report, from the definitions: python test_report_stats.py RUN. Prints "name value" lines."""
import sys
from collections import Counter

import numpy as np

BINS = 15
folder = sys.argv[1] + "/predictions/"
labels = np.load(folder + "labels.npy")
rows = np.arange(len(labels))
said = {}
for name in ("student", "teacher"):
    z = np.load(folder + name + ".npy").astype(np.float64)
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    said[name] = z.argmax(1)
    right = said[name] == labels
    # Rank of the label: better classes, and equal ones before it.
    own = z[rows, labels][:, None]
    rank = (z > own).sum(1) + ((z == own) & (np.arange(z.shape[1])[None] < labels[:, None])).sum(1)
    print("top1", repr(float(100 * right.mean())))
    print("top5", repr(float(100 * (rank < 5).mean())))
    print("nll", repr(float(-np.log(p[rows, labels]).mean())))
    confidence = p.max(1)
    edges = np.linspace(0, 1, BINS + 1)
    where = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, BINS - 1)
    ece = sum(abs(right[where == b].sum() - confidence[where == b].sum()) for b in range(BINS)) / len(labels)
    print("ece", repr(float(ece)))
    print("entropy", repr(float(-(p * np.log(p)).sum(1).mean())))
    for b in range(BINS):
        print("bin", int((where == b).sum()))
s, t = said["student"], said["teacher"]
print("both", int(((s == labels) & (t == labels)).sum()))
print("student", int(((s == labels) & (t != labels)).sum()))
print("teacher", int(((s != labels) & (t == labels)).sum()))
print("same", int(((s != labels) & (t == s)).sum()))
print("different", int(((s != labels) & (t != labels) & (t != s)).sum()))
pairs = Counter((int(min(a, b)), int(max(a, b))) for a, b in zip(labels, s) if a != b)
pair, count = min(pairs.items(), key=lambda item: (-item[1], item[0]))
print("pair_a", pair[0])
print("pair_b", pair[1])
print("pair_count", count)
