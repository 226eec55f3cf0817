# Fuzz targets: `make fuzz` (FUZZ_TIME seconds each, or FUZZ_RUNS executions; FUZZ_ONLY: some targets), `make fuzz-corpus`
# (makes the kept corpora anew from the seeds and what fuzzing has found). Needs a clang with libFuzzer: without one,
# `make fuzz` says so and does nothing. The replay of kept inputs is part of `make test` with any compiler. The Makefile includes
# this file after MORE_TESTS is defined and before the rules that use it.
FUZZ_CC ?= clang
FUZZ_TIME ?= 60
FUZZ_RUNS ?=
FUZZ_TARGETS := config set safetensors pickle pth pth_old manifest cifar targz npy events
FUZZ_ONLY ?= $(FUZZ_TARGETS)
FUZZ := $(VARIANT)/fuzz
# Functions of the library, of libarchive and of the C library that fuzz_files.c stands in for.
FUZZ_WRAP := file_map file_unmap file_read_text file_write_atomic file_write_atomic_parts file_hash_hex file_md5_hex \
    path_exists path_is_dir lstat archive_read_open_filename xaligned check_failed
FUZZ_WRAP_FLAGS := $(FUZZ_WRAP:%=-Wl,--wrap=%)
# What the parsers need of the library; the CPU backend's instruction sets are not all known to every clang.
FUZZ_HOST := $(sort $(wildcard $(addprefix host/,base/*.c io/*.c data/*.c graph/*.c models/*.c distill/objective.c)) \
    $(wildcard host/train/settings*.c) $(addprefix host/train/,checkpoint.c schedule.c shape.c))
FUZZ_COMMON := tests/fuzz/fuzz_files.c tests/fuzz/fuzz_schema.c tests/fuzz/fuzz_weights.c
FUZZ_SOURCES := $(FUZZ_HOST) $(FUZZ_COMMON) $(FUZZ_TARGETS:%=tests/fuzz/fuzz_%.c)
FUZZ_CFLAGS := -std=c11 -D_GNU_SOURCE -Iinclude -isystem $(GEN) -g -Wall -Wextra -Wno-unknown-pragmas -fno-math-errno
FUZZ_SAN := -O2 -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
# Compares texts all the time: tracing its comparisons would take most of the time and teach nothing.
$(FUZZ)/san/host/base/near.o: FUZZ_SAN := -O2 -fsanitize=address -fno-omit-frame-pointer
FUZZ_COV := -O1 -fprofile-instr-generate -fcoverage-mapping
FUZZ_LIBS := $(filter-out -fopenmp -ldnnl,$(LIBS))
# $(1): san or cov. The archive holds all but the entry, so that each program takes what it needs.
fuzz_objects = $(patsubst %.c,$(FUZZ)/$(1)/%.o,$(FUZZ_SOURCES)) $(PROTOS:host/%.proto=$(FUZZ)/$(1)/gen/%.pb-c.o)
FUZZ_PROGRAMS := $(FUZZ_ONLY:%=$(FUZZ)/%)
FUZZ_COVERAGE := $(FUZZ_ONLY:%=$(FUZZ)/%-coverage)

FUZZ_REPLAY := $(VARIANT)/tests/fuzz/test_fuzz_replay
MORE_TESTS += $(FUZZ_REPLAY)
MORE_TEST_PROGRAMS += $(FUZZ_REPLAY)

.PHONY: fuzz fuzz-programs fuzz-corpus

fuzz: deps
	+@if ! tests/fuzz/run_fuzz --probe $(FUZZ_CC); then \
	    echo "skipped: $(FUZZ_CC) has no libFuzzer (install clang, or set FUZZ_CC)"; \
	else \
	    $(SUBMAKE) $(PARALLEL) fuzz-programs && \
	    tests/fuzz/run_fuzz --cc $(FUZZ_CC) --time $(FUZZ_TIME) $(FUZZ_RUNS:%=--runs %) $(FUZZ) $(FUZZ_ONLY); \
	fi

fuzz-programs: $(FUZZ_PROGRAMS) $(FUZZ_COVERAGE)

fuzz-corpus: deps
	+@$(SUBMAKE) $(PARALLEL) fuzz-programs $(FUZZ)/make_seeds
	tests/fuzz/run_fuzz --merge $(FUZZ) $(FUZZ_ONLY)

$(FUZZ)/san/%.o: %.c $(VARIANT)/flags.txt | $(PROTO_HEADERS)
	@mkdir -p $(@D)
	@$(FUZZ_CC) $(FUZZ_CFLAGS) $(FUZZ_SAN) -MMD -MP -c $< -o $@

$(FUZZ)/cov/%.o: %.c $(VARIANT)/flags.txt | $(PROTO_HEADERS)
	@mkdir -p $(@D)
	@$(FUZZ_CC) $(FUZZ_CFLAGS) $(FUZZ_COV) -MMD -MP -c $< -o $@

$(FUZZ)/san/gen/%.o: $(GEN)/%.c $(VARIANT)/flags.txt
	@mkdir -p $(@D)
	@$(FUZZ_CC) $(FUZZ_CFLAGS) $(FUZZ_SAN) -c $< -o $@

$(FUZZ)/cov/gen/%.o: $(GEN)/%.c $(VARIANT)/flags.txt
	@mkdir -p $(@D)
	@$(FUZZ_CC) $(FUZZ_CFLAGS) -O1 -c $< -o $@

$(FUZZ)/libsan.a: $(call fuzz_objects,san)
	@echo "  ar    $@"
	@rm -f $@
	@ar rcsD $@ $^

$(FUZZ)/libcov.a: $(call fuzz_objects,cov)
	@echo "  ar    $@"
	@rm -f $@
	@ar rcsD $@ $^

$(FUZZ_COVERAGE): $(FUZZ)/%-coverage: tests/fuzz/fuzz_entry.c $(FUZZ)/libcov.a
	@echo "  link  $@"
	@$(FUZZ_CC) $(FUZZ_CFLAGS) $(FUZZ_COV) -fsanitize=fuzzer -DFUZZ_TARGET=fuzz_$* $(FUZZ_WRAP_FLAGS) $^ $(FUZZ_LIBS) -o $@

$(FUZZ_PROGRAMS): $(FUZZ)/%: tests/fuzz/fuzz_entry.c $(FUZZ)/libsan.a
	@echo "  link  $@"
	@$(FUZZ_CC) $(FUZZ_CFLAGS) $(FUZZ_SAN) -fsanitize=fuzzer -DFUZZ_TARGET=fuzz_$* $(FUZZ_WRAP_FLAGS) $^ $(FUZZ_LIBS) -o $@

-include $(shell find $(FUZZ)/san $(FUZZ)/cov -name '*.d' 2>/dev/null)

$(FUZZ_REPLAY): $(patsubst %.c,$(OBJ)/%.o,tests/fuzz/test_fuzz_replay.c $(FUZZ_COMMON) $(FUZZ_TARGETS:%=tests/fuzz/fuzz_%.c)) $(LIBRARY)
	@mkdir -p $(@D)
	@echo "  link  $@"
	@$(CC) $(SAN_FLAGS) $(LDFLAGS) $(FUZZ_WRAP_FLAGS) $^ -lcmocka $(LIBS) -o $@

$(FUZZ)/make_seeds: $(OBJ)/tests/fuzz/make_seeds.o $(OBJ)/tests/fuzz/fuzz_files.o $(LIBRARY)
	@mkdir -p $(@D)
	@$(CC) $(SAN_FLAGS) $(LDFLAGS) $(FUZZ_WRAP_FLAGS) $^ $(LIBS) -o $@

# ---- Fault injection: the shim that tests/{test,check}_faults preload ----
FAULT_SHIM := $(VARIANT)/tests/faults/shim.so
$(VARIANT)/tests/test_faults $(VARIANT)/tests/check_faults: | $(FAULT_SHIM)
# Never with a sanitizer of its own: it is loaded into programs with any.
$(FAULT_SHIM): tests/faults/shim.c tests/faults/shim.h
	@mkdir -p $(@D)
	@echo "  link  $@"
	@$(CC) -std=c11 -D_GNU_SOURCE -O2 -g -fPIC -shared -Wall -Wextra -Wshadow $< -o $@
