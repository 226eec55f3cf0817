#!/usr/bin/env python3
"""One readable table from the JSON lines of tests/gpu/bench_gpu: our figure, the peer's, the floor and the share of it.

    bench/peers/table.py FILE.jsonl

Floor: the bytes that an operation must move at least, at the copy bandwidth measured in the same run. Share: floor over
ours. `x`: the peer's time over ours (above 1: ours is faster). What was not measured is left out or is a dash. Standard
library only.
"""
import collections
import json
import sys

CIFAR_STEPS = 782  # of an epoch: 50000 images in batches of 64


def load(path):
    with open(path, encoding="utf-8") as file:
        return [json.loads(line) for line in file if line.startswith("{")]


def number(value, digits=1):
    return "-" if value is None else f"{value:,.{digits}f}"


def times(peer, ours):
    return "" if not peer or not ours else f" ({peer / ours:.2f}x)"


def print_table(title, head, rows):
    if not rows:
        return
    rows = [head] + rows
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    print(f"\n{title}")
    for row in rows:
        cells = [row[0].ljust(widths[0])] + [cell.rjust(width) for cell, width in zip(row[1:], widths[1:])]
        print("  " + "  ".join(cells).rstrip())


def loss_table(lines):
    cases = collections.OrderedDict()
    for line in lines:
        if line.get("bench") == "loss" and "us" in line:
            cases.setdefault((line["dtype"], line["rows"], line["classes"]), {})[line["peer"], line["how"]] = line
    rows = []
    for (dtype, n, classes), found in cases.items():
        ours = found.get(("cudistill", "graph"))
        if not ours:
            continue
        cells = []
        for peer in ("eager", "compile", "triton kl"):
            line = found.get((peer, "graph")) or found.get((peer, "call"))
            cells.append(number(line and line["us"]) + times(line and line["us"], ours["us"]))
        rows.append([f"{dtype} {n}x{classes}", number(ours["floor_us"], 2), number(ours["us"], 2),
                     f"{100 * ours['share_of_floor']:.1f} %"] + cells)
    print_table("Fused loss, microseconds in graph replay (peers that cannot be recorded: a call)",
                ["", "floor", "ours", "share", "eager", "compile", "triton kl"], rows)


def peers_of(lines, name, dtype):
    return [line for line in lines if line.get("bench") == name and line.get("dtype") == dtype and "us" in line]


def ours_of(lines, op, dtype, **axes):
    """Seconds and bytes with cold caches; a graph's where there is one."""
    found = [line for line in lines if line.get("op") == op and line["dtype"] == dtype and line["cache"] == "cold"
             and all(line["axes"].get(axis) == value for axis, value in axes.items())]
    return max(found, key=lambda line: line["graph"], default=None)


def kernel_row(lines, label, dtype, parts, peer_name):
    parts = [part for part in parts if part]
    peers = peers_of(lines, peer_name, dtype)
    if not parts:
        return None
    us = sum(part["median_s"] for part in parts) * 1e6
    floor = sum(part["bytes"] / (part["copy_gb_per_s"] * 1e3) for part in parts)
    cells = [f"{line['peer']} {number(line['us'])}{times(line['us'], us)}" for line in peers]
    return [f"{label}, {dtype}", number(floor, 2), number(us, 2), f"{100 * floor / us:.1f} %", "; ".join(cells) or "-"]


def kernel_table(lines):
    rows = []
    seen = {line["axes"]["P"] for line in lines if line.get("op") == "sgd"}
    for count in sorted(seen, reverse=True):
        rows.append(kernel_row(lines, f"SGD, {count} parameters", "fp32", [ours_of(lines, "sgd", "fp32", P=count)], f"sgd P={count}"))
    shapes = collections.OrderedDict()
    for line in lines:
        if line.get("op") == "bn_stats":
            shapes[tuple(line["axes"][axis] for axis in "BHC")] = None
    for n, size, channels in shapes:
        axes = {"B": n, "H": size, "C": channels}
        shape = f"B={n} H={size} C={channels}"
        for dtype in ("fp16", "bf16"):
            for way, ops in (("forward", ("bn_stats", "bn_apply")), ("backward", ("bn_reduce", "bn_dx"))):
                parts = [ours_of(lines, op, dtype, **axes) for op in ops]
                if all(parts):
                    rows.append(kernel_row(lines, f"batch norm + ReLU {way} {shape}", dtype, parts, f"bn {way} {shape}"))
    for n, size, crop in ((64, 32, True), (256, 224, False)):
        parts = [ours_of(lines, "image", "fp16", B=n, H=size)]
        if crop:
            parts.append(ours_of(lines, "views", "u8", B=n, H=size))
        if all(parts):
            label = f"bytes to normalised{', crop, flip' if crop else ''} {n}x{size}x{size}"
            rows.append(kernel_row(lines, label, "fp16", parts, f"augment B={n} H={size}"))
    print_table("Single operations, microseconds, cold caches (ours in graph replay; PyTorch's crop and flip are fused with "
                "its normalisation, ours are two kernels)", ["", "floor", "ours", "share", "PyTorch"], [row for row in rows if row])


def other_ops_table(lines):
    rows = []
    for line in lines:
        if "op" in line and line["cache"] == "cold":
            axes = " ".join(f"{axis}={value}" for axis, value in line["axes"].items())
            rows.append([f"{line['op']} {axes}, {line['dtype']}", number(line["median_s"] * 1e6, 2), number(line["gb_per_s"]),
                         f"{100 * line['share_of_copy']:.1f} %", f"{100 * line['noise']:.0f} %"])
    print_table("All of `cudistill bench op`, cold caches", ["", "us", "GB/s", "of copy", "noise"], rows)


PRECISIONS = {"f32": "fp32", "f16": "fp16"}


def step_table(lines, ours_bench, peer_bench, title):
    peers = {(line["pair"], line["precision"], line["mode"]): line for line in lines if line.get("bench") == peer_bench}
    rows = []
    for line in lines:
        if line.get("bench") != ours_bench:
            continue
        precision = PRECISIONS.get(line["precision"], line["precision"])
        row = [f"{line['pair']}, {precision}, batch {line['batch']}{'' if line['capture'] else ', not recorded'}",
               number(line["img_per_s"]), number(line["ms_per_step"], 3),
               number(line["memory_mib"]["total"], 0), number(line["memory_mib"]["growth"] or None, 0)]
        for mode in ("eager", "compile"):
            peer = peers.get((line["pair"], precision, mode))
            rate = peer and peer["img_per_s"]
            row.append(number(rate) + ("" if not peer else f" ({line['img_per_s'] / rate:.2f}x)"))
        rows.append(row)
    print_table(title, ["", "ours img/s", "ms", "MiB planned", "MiB grown", "eager img/s", "compile img/s"], rows)


def epoch_table(lines):
    names = {"cold": "teacher in every step", "fill": "filling the memo", "memo": "from the memo"}
    rows = []
    pair = None
    for kind in names:
        found = [line for line in lines if line.get("bench") == "epoch" and line["kind"] == kind]
        if found:
            best = min(found, key=lambda line: line["train_s"])
            evals = [line["eval_s"] for line in found if line["eval_s"] is not None]
            pair = best["pair"]
            rows.append([f"ours, {names[kind]}", number(best["train_s"], 2), number(best["memo_s"], 2),
                         number(min(evals) if evals else None, 2), number(best["img_per_s"])])
    for line in lines:
        if line.get("bench") == "torch_step" and line["pair"] == pair:
            seconds = CIFAR_STEPS * line["batch"] / line["img_per_s"]
            rows.append([f"PyTorch {line['mode']}, {line['precision']}, {CIFAR_STEPS} steps", number(seconds, 2), "-", "-",
                         number(line["img_per_s"])])
    print_table(f"An epoch of CIFAR-100, {pair}, seconds (best of the epochs; memo: its part of the epoch)",
                ["", "epoch", "memo", "evaluation", "img/s"], rows)


def main():
    if len(sys.argv) != 2:
        print(__doc__)
        return 64
    lines = load(sys.argv[1])
    devices = sorted({line["device"] for line in lines if "device" in line})
    print(f"{len(lines)} figures; device: {', '.join(devices) or 'unknown'}")
    loss_table(lines)
    kernel_table(lines)
    step_table(lines, "step", "torch_step", "Training steps (x: ours over theirs, above 1: ours is faster)")
    step_table(lines, "forward", "torch_forward", "Forward passes of a teacher in inference form")
    epoch_table(lines)
    other_ops_table(lines)
    return 0


if __name__ == "__main__":
    sys.exit(main())
