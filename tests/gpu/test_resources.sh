#!/bin/bash
# What ptxas said when the kernels were compiled for every target: no spills, no stack frames, and the register counts of
# tests/golden/registers.txt.
#   tests/gpu/test_resources.sh [--write]      --write: take the present counts as golden
# BUILD (default build) is the folder of the build. Register counts belong to one compiler release: with another one only
# spills are looked at.
set -eu
root=$(cd "$(dirname "$0")/../.." && pwd)
build=${BUILD:-build}
golden=$root/tests/golden/registers.txt
reports=$(find "$build/cuda/obj/kernels" -name '*.ptxas' 2>/dev/null | sort)
if [ -z "$reports" ]; then
    echo "skip: no kernels compiled by nvcc in $build (no CUDA here)"
    exit 77
fi
release=$(sed -n 's/^CUDA   found: \(nvcc [0-9.]*\).*/\1/p' "$build/found.txt")

# One line an entry: name target registers spilled-bytes stack-bytes.
now=$(for report in $reports; do
    awk '
        /Compiling entry function/ {split($0, q, "\x27"); entry = q[2]; target = q[4]; spill = stack = 0}
        /bytes stack frame/ {
            for (i = 1; i <= NF; i++) {
                if ($i == "bytes" && $(i + 1) == "stack") stack = $(i - 1)
                if ($i == "bytes" && $(i + 1) == "spill") spill += $(i - 1)
            }
        }
        /Used [0-9]+ registers/ {
            for (i = 1; i <= NF; i++) if ($i == "Used") used = $(i + 1)
            print entry, target, used, spill, stack
        }' "$report"
done | c++filt -p | sed 's/<unnamed>:://g; s/(anonymous namespace):://g; s/, /,/g; s/> >/>>/g' | sort)
entries=$(printf '%s\n' "$now" | wc -l)
bad=$(printf '%s\n' "$now" | awk '$(NF - 1) > 0 || $NF > 0')
if [ -n "$bad" ]; then
    echo "entries with spills or a stack frame (name target registers spilled stack):"
    printf '%s\n' "$bad"
    exit 1
fi
table=$(printf '%s\n' "$now" | awk '{NF -= 2; print}')
if [ "${1:-}" = --write ]; then
    { echo "# $release: entry, target, registers. Written by tests/gpu/test_resources.sh --write"; printf '%s\n' "$table"; } > "$golden"
    echo "$golden: $entries entries"
    exit 0
fi
if ! grep -qF "# $release:" "$golden"; then
    echo "$entries entries for all targets, no spills; register counts not compared: $release is not the golden table's compiler"
    exit 0
fi
if ! diff <(grep -v '^#' "$golden") <(printf '%s\n' "$table"); then
    echo "register counts differ from $golden (< golden, > now): look why, then run $0 --write"
    exit 1
fi
echo "$entries entries for all targets, no spills, register counts as in the golden table"
