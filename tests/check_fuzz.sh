#!/bin/bash
# A minute of fuzzing for each target (`make fuzz`), where clang has libFuzzer.
if ! tests/fuzz/run_fuzz --probe "${FUZZ_CC:-clang}"; then
    echo "skipped: ${FUZZ_CC:-clang} has no libFuzzer"
    exit 77
fi
# Not the jobs of a make above: it is this script that it waits for.
unset MAKEFLAGS MFLAGS MAKELEVEL
exec make --no-print-directory -j"$(nproc)" fuzz
