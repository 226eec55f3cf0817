# cuDistill. The two commands that matter, each enough by itself on a fresh Debian 12:
#     make quickstart     install what is missing, build, run the comparison of configs/quickstart.ini
#     make test           install what is missing, build, run the unit tests
# Others: all, deps, check (long tests and sanitizers), lint, format, bench, clean.

# ---- Switches: auto = compile and link a probe, and print what was found; 1 = absence is an error; 0 = without ----
CUDA ?= auto
MPI ?= auto
DEBUG ?= 0
# SAN: 1 or address = AddressSanitizer and UBSan, thread = ThreadSanitizer.
SAN ?= 0
# WERROR=1: a warning is an error (set by .ci/run; not the default, since newer compilers invent new warnings).
WERROR ?= 0
CC ?= cc
# Seconds that one test program may take.
TEST_TIMEOUT ?= 300
CHECK_TIMEOUT ?= 3000
QUICKSTART ?= suite configs/quickstart.ini

# ---- Packages (Debian 12 names) ----
PACKAGES := gcc g++ libc6-dev make pkg-config libdnnl-dev libinih-dev libjansson-dev libarchive-dev \
    libxxhash-dev libssl-dev libcmocka-dev librandom123-dev libprotobuf-c-dev protobuf-c-compiler libisal-dev libpng-dev
LINT_PACKAGES := clang-format clang-tidy cppcheck python3
# Of `make check` alone: libFuzzer with its coverage tools. Where they cannot be had the fuzzers are skipped.
CHECK_PACKAGES := clang llvm libclang-rt-14-dev groff-base

# ---- Variants: objects of each live apart, so switching between them rebuilds nothing ----
ifneq ($(filter thread,$(SAN)),)
  VARIANT := build/tsan
  SAN_FLAGS := -fsanitize=thread
else ifneq ($(filter 1 address,$(SAN)),)
  VARIANT := build/asan
  SAN_FLAGS := -fsanitize=address,undefined -fno-sanitize-recover=undefined
else ifneq ($(filter-out 0,$(DEBUG)),)
  VARIANT := build/debug
else
  VARIANT := build
endif
OBJ := $(VARIANT)/obj
PROGRAM := $(VARIANT)/cudistill
LOGS := $(VARIANT)/log

OPT := $(if $(filter-out 0,$(DEBUG)),-O0 -g3,$(if $(SAN_FLAGS),-O1 -g -fno-omit-frame-pointer,-O3 -g))
# A portable binary: no -march. Hot loops choose their instruction set at run time.
# Position independent, since shared objects take parts of the library along.
BASE_CFLAGS := -std=c11 -D_GNU_SOURCE -Iinclude -isystem $(VARIANT)/gen $(OPT) -fPIC -fno-semantic-interposition -fno-math-errno -fopenmp \
    -Wall -Wextra -Wshadow $(SAN_FLAGS)
COMPILE = $(CC) $(BASE_CFLAGS) $(if $(filter-out 0,$(WERROR)),-Werror) $(CPPFLAGS) $(CFLAGS)
LIBS := -ldnnl -linih -ljansson -larchive -lxxhash -lcrypto -lprotobuf-c -lisal -lpng -lpthread -lm -ldl -fopenmp

# ---- Sources. Parts that become shared objects of their own (CUDA, NCCL, MPI) are not linked into the program. ----
CUDA_SOURCES := $(wildcard kernels/*.cu host/backend/cuda*.c host/comm/nccl.c)
MPI_SOURCES := $(wildcard host/comm/mpi.c)
HOST_SOURCES := $(filter-out $(CUDA_SOURCES) $(MPI_SOURCES),$(sort $(shell find host -name '*.c')))
# Protobuf messages: host/io/x.proto becomes gen/io/x.pb-c.h, included as "io/x.pb-c.h" by the file that reads or writes them.
GEN := $(VARIANT)/gen
PROTOS := $(sort $(shell find host -name '*.proto'))
PROTO_HEADERS := $(PROTOS:host/%.proto=$(GEN)/%.pb-c.h)
PROTO_OBJECTS := $(PROTOS:host/%.proto=$(OBJ)/gen/%.pb-c.o)
OBJECTS := $(HOST_SOURCES:%.c=$(OBJ)/%.o) $(PROTO_OBJECTS)
# What tests of the command line need built before they run.
MAIN_PROGRAM := $(if $(wildcard host/main.c),$(PROGRAM))
LIBRARY := $(VARIANT)/libcudistill.a
programs_of = $(patsubst %.c,$(VARIANT)/%,$(sort $(wildcard $(1))))
TESTS := $(call programs_of,tests/test_*.c)
CHECKS := $(call programs_of,tests/check_*.c)
# Unit tests beyond one program run as it is: kernels under emulation, the cuda backend on the emulated device, nvcc.
MORE_TESTS :=
MORE_CHECKS :=
include kernels/cuda.mk
include host/bundle.mk
include host/install.mk
include tests/fuzz/fuzz.mk
CHECK_SCRIPTS := $(sort $(wildcard tests/check_*.sh))
BENCHES := $(call programs_of,bench/bench_*.c)
C_FILES := $(sort $(shell find host include tests bench kernels -name '*.c' -o -name '*.h' -o -name '*.cuh' \
    -o -name '*.cu' -o -name '*.cpp' 2>/dev/null))

# Build in parallel even when the user gave no -j.
PARALLEL = $(if $(filter -j% --jobserver%,$(MAKEFLAGS)),,-j$(shell nproc))
SUBMAKE = $(MAKE) --no-print-directory

.DEFAULT_GOAL := all
.DELETE_ON_ERROR:
.SUFFIXES:
.PHONY: all deps deps-check deps-lint quickstart test check lint format bench clean found programs \
    check-programs bench-programs run-tests run-checks run-sanitizers run-benches FORCE

all: found
	+@$(SUBMAKE) $(PARALLEL) $(PROGRAM) cuda-library

# ---- Packages: one query when all is there ----
# $(1): packages. Asks dpkg which are missing and installs those.
define install_missing
@if ! command -v dpkg-query >/dev/null 2>&1; then \
    echo "deps: no dpkg here; install the counterparts of: $(1)"; \
    exit 0; \
fi; \
present=" $$(dpkg-query -W -f='$${binary:Package}=$${db:Status-Status} ' $(1) 2>/dev/null) "; \
missing=""; \
for package in $(1); do \
    case "$$present" in \
    *" $$package=installed "*|*" $$package:"*"=installed "*) ;; \
    *) dpkg -s "$$package" >/dev/null 2>&1 || missing="$$missing $$package" ;; \
    esac; \
done; \
if [ -z "$$missing" ]; then exit 0; fi; \
echo "deps: installing$$missing"; \
sudo=""; \
if [ "$$(id -u)" != 0 ]; then \
    if ! command -v sudo >/dev/null 2>&1; then \
        echo "deps: not root and no sudo: as root, run: apt-get install$$missing" >&2; \
        exit 1; \
    fi; \
    sudo=sudo; \
fi; \
$$sudo apt-get -q update && \
$$sudo env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 \
    install --no-install-recommends $$missing
endef

deps:
	$(call install_missing,$(PACKAGES))

deps-check: deps
	-$(call install_missing,$(CHECK_PACKAGES))

deps-lint: deps
	$(call install_missing,$(LINT_PACKAGES))

# ---- What was found: compile and link probes, printed once and kept ----
# $(1): compiler, $(2): source text, $(3): libraries. A shell condition.
link_probe = printf '%b\n' '$(2)' | $(1) -x c - -o $(VARIANT)/probe.out $(3) >/dev/null 2>&1

found: $(VARIANT)/found.txt
	@cat $<

$(VARIANT)/found.txt: Makefile $(CUDA_SOURCES) $(MPI_SOURCES) | $(VARIANT)/flags.txt
	@{ \
	if ! $(call link_probe,$(CC),#include <dnnl.h>\n#include <ini.h>\nint main(void) {return !dnnl_version() + !ini_parse;},-ldnnl -linih); then \
	    echo "oneDNN or inih: compile-and-link probe with '$(CC)' failed; run 'make deps' first" >&2; exit 1; \
	fi; \
	echo "oneDNN $$(printf '#include <dnnl_version.h>\nversion=DNNL_VERSION_MAJOR.DNNL_VERSION_MINOR.DNNL_VERSION_PATCH\n' \
	    | $(CC) -E -P - | sed -n 's/^version=//p' | tr -d ' '), inih $$(pkg-config --modversion inih 2>/dev/null || echo '(version unknown)')"; \
	if [ "$(CUDA)" = 0 ]; then echo "CUDA   off"; \
	elif [ -z "$(CUDA_SOURCES)" ]; then \
	    if [ "$(CUDA)" = 1 ]; then echo "CUDA=1, but this tree has no CUDA sources" >&2; exit 1; fi; \
	    echo "CUDA   off: no CUDA sources in this tree"; \
	elif [ ! -x "$(NVCC)" ]; then \
	    if [ "$(CUDA)" = 1 ]; then echo "CUDA=1, but there is no nvcc: set CUDA_HOME" >&2; exit 1; fi; \
	    echo "CUDA   off: no nvcc (on PATH, in CUDA_HOME or /usr/local/cuda)"; \
	elif $(call link_probe,$(CC),#include <cuda_runtime_api.h>\n#include <cudnn.h>\n#include <cublasLt.h>\n#include <nccl.h>\nint main(void) {return cudaDeviceReset() + (int)cudnnGetVersion() + (int)cublasLtGetVersion() + ncclGetVersion(0);},$(CUDA_CFLAGS) $(CUDA_LIBS)); then \
	    echo "CUDA   found: $$($(NVCC) --version | sed -n 's/.*release \([0-9.]*\),.*/nvcc \1/p') in $(CUDA_HOME)"; \
	else \
	    if [ "$(CUDA)" = 1 ]; then echo "CUDA=1, but the probe does not link with cudart, cudnn, cublasLt and nccl in $(CUDA_HOME)" >&2; exit 1; fi; \
	    echo "CUDA   off: probe does not link with cudart, cudnn, cublasLt and nccl in $(CUDA_HOME)"; \
	fi; \
	if [ "$(MPI)" = 0 ]; then echo "MPI    off"; \
	elif [ -z "$(MPI_SOURCES)" ]; then \
	    if [ "$(MPI)" = 1 ]; then echo "MPI=1, but this tree has no MPI sources" >&2; exit 1; fi; \
	    echo "MPI    off: no MPI sources in this tree"; \
	elif $(call link_probe,mpicc,#include <mpi.h>\nint main(void) {return MPI_Finalize();},); then \
	    echo "MPI    found"; \
	else \
	    if [ "$(MPI)" = 1 ]; then echo "MPI=1, but the probe does not link with mpicc" >&2; exit 1; fi; \
	    echo "MPI    off: probe does not link with mpicc"; \
	fi; rm -f $(VARIANT)/probe.out; } > $@

# Rewritten only when the flags differ, so that changed flags rebuild and equal flags do not.
FLAGS_TEXT = $(CC) $(BASE_CFLAGS) $(CPPFLAGS) $(CFLAGS) $(LDFLAGS) CUDA=$(CUDA) MPI=$(MPI)
$(VARIANT)/flags.txt: FORCE
	@mkdir -p $(@D)
	@printf '%s\n' '$(FLAGS_TEXT)' | cmp -s - $@ || printf '%s\n' '$(FLAGS_TEXT)' > $@

# Results name the commit. Only what prints it is compiled anew when it changes.
COMMIT := $(shell git describe --always --dirty 2>/dev/null)
$(VARIANT)/commit.txt: FORCE
	@mkdir -p $(@D)
	@printf '%s\n' '$(COMMIT)' | cmp -s - $@ || printf '%s\n' '$(COMMIT)' > $@
COMMIT_OBJECTS := $(OBJ)/host/base/version.o
$(COMMIT_OBJECTS): $(VARIANT)/commit.txt
$(COMMIT_OBJECTS): private CPPFLAGS += -DCUDISTILL_COMMIT='"$(COMMIT)"'

# ---- Compile and link ----
$(GEN)/%.pb-c.h $(GEN)/%.pb-c.c &: host/%.proto
	@mkdir -p $(GEN)
	@echo "  proto $<"
	@protoc-c --proto_path=host --c_out=$(GEN) $<

$(OBJ)/gen/%.o: $(GEN)/%.c $(VARIANT)/flags.txt
	@mkdir -p $(@D)
	@$(COMPILE) -isystem $(GEN) -c $< -o $@

$(OBJ)/%.o: %.c $(VARIANT)/flags.txt | $(PROTO_HEADERS)
	@mkdir -p $(@D)
	@echo "  cc    $<"
	@$(COMPILE) -MMD -MP -c $< -o $@

# D: no time stamps, so equal objects give an equal archive. Made anew, so that it holds no removed object.
$(LIBRARY): $(filter-out $(OBJ)/host/main.o,$(OBJECTS))
	@echo "  ar    $@"
	@rm -f $@
	@ar rcsD $@ $^

$(PROGRAM): $(OBJ)/host/main.o $(LIBRARY)
	@echo "  link  $@"
	@$(CC) $(SAN_FLAGS) $(LDFLAGS) $^ $(LIBS) -o $@

$(VARIANT)/tests/%: $(OBJ)/tests/%.o $(LIBRARY)
	@mkdir -p $(@D)
	@echo "  link  $@"
	@$(CC) $(SAN_FLAGS) $(LDFLAGS) $^ -lcmocka $(LIBS) -o $@

$(VARIANT)/bench/bench_step: $(OBJ)/bench/step_rig.o
$(VARIANT)/bench/%: $(OBJ)/bench/%.o $(LIBRARY)
	@mkdir -p $(@D)
	@echo "  link  $@"
	@$(CC) $(SAN_FLAGS) $(LDFLAGS) $(filter %.o,$^) $(LIBRARY) $(LIBS) -o $@

.SECONDARY:
-include $(shell find $(OBJ) -name '*.d' 2>/dev/null)

# ---- The two commands ----
# Everything that needs the packages runs in a sub-make, which starts after they are there.
quickstart: deps
	+@$(SUBMAKE) found
	+@$(SUBMAKE) $(PARALLEL) $(PROGRAM) $(if $(wildcard /dev/nvidiactl),cuda-library)
	$(PROGRAM) $(QUICKSTART)

test: deps
	+@$(SUBMAKE) found
	+@$(SUBMAKE) $(PARALLEL) programs
	+@$(SUBMAKE) run-tests

programs: $(MAIN_PROGRAM) $(TESTS) $(MORE_TEST_PROGRAMS)

run-tests:
	@CUDISTILL=$(PROGRAM) tests/run_tests --timeout $(TEST_TIMEOUT) --log $(LOGS) $(TESTS) $(MORE_TESTS)

# ---- Long tests; in CI they follow `make test` ----
check: deps deps-check
	+@$(SUBMAKE) found
	+@$(SUBMAKE) $(PARALLEL) check-programs
	+@$(SUBMAKE) run-checks
	+@$(SUBMAKE) run-sanitizers

check-programs: $(MAIN_PROGRAM) $(CHECKS) $(MORE_CHECK_PROGRAMS)

run-checks:
	@CUDISTILL=$(PROGRAM) tests/run_tests --timeout $(CHECK_TIMEOUT) --log $(LOGS) $(CHECKS) $(CHECK_SCRIPTS) $(MORE_CHECKS)

# Sanitizers slow the tests down several times, hence the longer limit. libgomp is not instrumented for
# ThreadSanitizer: only programs without OpenMP regions are worth running under it.
run-sanitizers:
	+@$(SUBMAKE) SAN=1 $(PARALLEL) programs
	+@$(SUBMAKE) SAN=1 TEST_TIMEOUT=$(CHECK_TIMEOUT) run-tests
	+@$(if $(wildcard tests/test_loader.c),$(SUBMAKE) SAN=thread $(PARALLEL) build/tsan/tests/test_loader && \
	    tests/run_tests --timeout $(CHECK_TIMEOUT) --log build/tsan/log build/tsan/tests/test_loader)

# ---- Style ----
MAX_LINES := 800
# CUDA's own headers where they are; else the emulated device's, and then not the files that need cuDNN.
LINT_CUDA = $(if $(wildcard $(CUDA_HOME)/include/cudnn.h),$(CUDA_CFLAGS),-DCUDISTILL_EMU) -Ikernels/emu/include
LINT_EMU_C = $(filter tests/kernels/%.c tests/emu/%.c,$(C_FILES))
LINT_C = $(filter-out $(LINT_EMU_C) $(if $(wildcard $(CUDA_HOME)/include/cudnn.h),,$(CUDA_LIBRARY_ONLY) tests/gpu/%),$(filter %.c,$(C_FILES)))
lint: deps-lint
	@awk -v max=$(MAX_LINES) 'FNR == max + 1 {print FILENAME ": more than " max " lines"; bad = 1} END {exit bad}' $(C_FILES)
	tests/lint_layers
	clang-format --dry-run -Werror $(C_FILES)
	cppcheck --quiet --std=c11 --language=c --enable=warning,performance,portability --inline-suppr \
	    --error-exitcode=1 --suppress=missingIncludeSystem -D_GNU_SOURCE '-D_Noreturn=__attribute__((noreturn))' \
	    -Iinclude $(LINT_C) $(LINT_EMU_C)
	printf '%s\n' $(LINT_C) | xargs -P $$(nproc) -n 4 sh -c \
	    'clang-tidy --quiet --warnings-as-errors="*" "$$@" -- -std=c11 -D_GNU_SOURCE $(LINT_CUDA) -Iinclude -I. -fopenmp' lint
	printf '%s\n' $(LINT_EMU_C) | xargs -P $$(nproc) -n 4 sh -c \
	    'clang-tidy --quiet --warnings-as-errors="*" "$$@" -- -std=c11 -D_GNU_SOURCE -DCUDISTILL_EMU -Ikernels/emu/include -Iinclude -I.' lint

format: deps-lint
	clang-format -i $(C_FILES)

# ---- Benchmarks: those that run without arguments (the others leave with 64 and their usage) ----
bench: deps
	+@$(SUBMAKE) found
	+@$(SUBMAKE) $(PARALLEL) bench-programs
	+@$(SUBMAKE) run-benches

bench-programs: $(MAIN_PROGRAM) $(BENCHES)

run-benches:
	@for bench in $(BENCHES); do \
	    echo "== $$bench"; \
	    OMP_WAIT_POLICY=passive GOMP_SPINCOUNT=20000 "$$bench"; code=$$?; \
	    if [ $$code = 64 ]; then echo "($$bench needs arguments)"; \
	    elif [ $$code != 0 ]; then exit $$code; fi; \
	done

clean:
	rm -rf build
