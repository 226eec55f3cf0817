# Everything about CUDA: the emulated device (g++ alone), the real shared object (nvcc, where it is found), their tests.

# ---- Where CUDA is ----
CUDA_HOME ?= $(or $(patsubst %/bin/nvcc,%,$(realpath $(shell command -v nvcc 2>/dev/null))),$(realpath /usr/local/cuda))
NVCC := $(CUDA_HOME)/bin/nvcc
CUDA_LIB := $(firstword $(wildcard $(CUDA_HOME)/lib64 $(CUDA_HOME)/lib))
CUDA_CFLAGS := -isystem $(CUDA_HOME)/include
CUDA_LIBS := -L$(CUDA_LIB) -Wl,-rpath,$(CUDA_LIB) -lcudart -lcudnn -lcublasLt -lnccl
CUDA_ARCHS ?= 80 90 100
HAVE_CUDA := $(shell grep -s '^CUDA   found' $(VARIANT)/found.txt)
CXX ?= g++

KERNELS := $(sort $(wildcard kernels/*.cu))
CUDA_HOST := $(sort $(wildcard host/backend/cuda*.c host/comm/nccl.c))
# What stands in for them under emulation is in tests/emu.
CUDA_LIBRARY_ONLY := host/backend/cuda_cudnn.c host/backend/cuda_cublas.c
CXX_COMPILE = $(CXX) -std=c++17 $(if $(SAN_FLAGS),-O1 -g -fno-omit-frame-pointer,-O2 -g) -fPIC -Wall -Wextra -Wno-unknown-pragmas -DCUDISTILL_EMU \
    $(SAN_FLAGS) $(if $(filter-out 0,$(WERROR)),-Werror) -Ikernels/emu/include -Iinclude -I.

# ---- The emulated device ----
EMU := $(VARIANT)/emu
EMU_KERNEL_OBJECTS := $(KERNELS:%.cu=$(EMU)/obj/%.o) $(patsubst %.cpp,$(EMU)/obj/%.o,$(wildcard kernels/emu/*.cpp))
EMU_HOST_OBJECTS := $(patsubst %.c,$(EMU)/obj/%.o,$(filter-out $(CUDA_LIBRARY_ONLY),$(CUDA_HOST)) $(wildcard tests/emu/*.c))
EMU_FAULTS := $(patsubst %.cu,$(EMU)/obj/%.o,$(wildcard tests/emu/*.cu))
EMU_KERNELS := $(EMU)/libkernels.a
EMU_LIBRARY := $(EMU)/libcudistill_cuda.so
EMU_TESTS := $(patsubst tests/kernels/%.c,$(EMU)/tests/%,$(sort $(wildcard tests/kernels/test_*.c)))

$(EMU)/obj/%.o: %.cu $(VARIANT)/flags.txt
	@mkdir -p $(@D)
	@echo "  emu   $<"
	@$(CXX_COMPILE) -MMD -MP -x c++ -c $< -o $@

$(EMU)/obj/%.o: %.cpp $(VARIANT)/flags.txt
	@mkdir -p $(@D)
	@echo "  emu   $<"
	@$(CXX_COMPILE) -MMD -MP -c $< -o $@

$(EMU)/obj/%.o: %.c $(VARIANT)/flags.txt
	@mkdir -p $(@D)
	@echo "  emu   $<"
	@$(COMPILE) -DCUDISTILL_EMU -Ikernels/emu/include -I. -MMD -MP -c $< -o $@

$(EMU_KERNELS): $(EMU_KERNEL_OBJECTS)
	@echo "  ar    $@"
	@rm -f $@
	@ar rcsD $@ $^

# Parts of the library come along, hidden: the object stands alone, whoever opens it.
CUDA_PART_LINK = -shared -Wl,--version-script=kernels/exports.map -Wl,--as-needed
$(EMU_LIBRARY): $(EMU_HOST_OBJECTS) $(EMU_KERNEL_OBJECTS) $(LIBRARY) kernels/exports.map
	@echo "  link  $@"
	@$(CXX) $(SAN_FLAGS) $(LDFLAGS) $(CUDA_PART_LINK) $(EMU_HOST_OBJECTS) $(EMU_KERNEL_OBJECTS) $(LIBRARY) $(LIBS) -o $@

$(EMU)/tests/%: $(EMU)/obj/tests/kernels/%.o $(EMU_FAULTS) $(EMU_KERNELS) $(LIBRARY)
	@mkdir -p $(@D)
	@echo "  link  $@"
	@$(CXX) $(SAN_FLAGS) $(LDFLAGS) $^ -lcmocka $(LIBS) -o $@

-include $(shell find $(EMU)/obj $(VARIANT)/cuda/obj -name '*.d' 2>/dev/null)

# Unit test programs that also run with `cuda` on the emulated device.
ON_EMULATED := $(wildcard $(addprefix tests/,$(addsuffix .c,test_ops test_exec test_queue test_train_switches test_train_loop test_cuda_choices test_cuda_groups)))
emulated = $(patsubst tests/%.c,cuda-emulated$(comma)CUDISTILL_TEST_BACKEND=cuda$(comma)CUDISTILL_CUDA_LIBRARY=$(EMU_LIBRARY)@$(VARIANT)/tests/%,$(1))
comma := ,
# The same in other thread orders, with other delays of the streams, and with the device refusing the fused convolutions.
EMULATED_HARD := test_exec test_queue test_cuda_groups
emulated_hard = $(patsubst %,$(1)$(comma)CUDISTILL_TEST_BACKEND=cuda$(comma)CUDISTILL_CUDA_LIBRARY=$(EMU_LIBRARY)$(comma)$(2)@$(VARIANT)/tests/%,$(EMULATED_HARD))
ifneq ($(wildcard host/backend/cuda.c),)
  MORE_TESTS += $(patsubst %,emulated$(comma)CUDISTILL_EMU_ORDERS=$(if $(SAN_FLAGS),3,1)@%,$(EMU_TESTS)) $(call emulated,$(ON_EMULATED))
  MORE_TEST_PROGRAMS += $(EMU_TESTS) $(EMU_LIBRARY)
  MORE_CHECK_PROGRAMS += $(EMU_LIBRARY) $(patsubst %,$(VARIANT)/tests/%,$(EMULATED_HARD))
  MORE_CHECKS += $(foreach order,1 2,$(foreach seed,7 23,$(call emulated_hard,order$(order)-seed$(seed),CUDISTILL_EMU_ORDER=$(order)$(comma)CUDISTILL_EMU_DELAY_SEED=$(seed)))) \
      $(filter-out %test_cuda_groups,$(call emulated_hard,groups-refused,CUDISTILL_EMU_REFUSE=affine:stats:drelu_bn))
endif

# ---- The real device ----
CUDA_OBJ := $(VARIANT)/cuda/obj
CUDA_LIBRARY := $(VARIANT)/libcudistill_cuda.so
CUDA_OBJECTS := $(KERNELS:%.cu=$(CUDA_OBJ)/%.o) $(CUDA_HOST:%.c=$(CUDA_OBJ)/%.o)
GENCODE := $(foreach arch,$(CUDA_ARCHS),-gencode arch=compute_$(arch),code=sm_$(arch)) \
    -gencode arch=compute_$(lastword $(CUDA_ARCHS)),code=compute_$(lastword $(CUDA_ARCHS))

# What ptxas says of registers and spills is kept beside the object, for tests/gpu/check_resources.sh.
$(CUDA_OBJ)/%.o: %.cu $(VARIANT)/flags.txt
	@mkdir -p $(@D)
	@echo "  nvcc  $<"
	@$(NVCC) -std=c++17 -O3 --expt-relaxed-constexpr $(GENCODE) -ccbin $(CXX) -Xcompiler -fPIC -Xptxas -v -Iinclude -I. \
	    -MMD -MP -MF $(@:.o=.d) -c $< -o $@ 2> $@.ptxas || { cat $@.ptxas >&2; exit 1; }

$(CUDA_OBJ)/%.o: %.c $(VARIANT)/flags.txt
	@mkdir -p $(@D)
	@echo "  cc    $< (CUDA)"
	@$(COMPILE) $(CUDA_CFLAGS) -MMD -MP -c $< -o $@

$(CUDA_LIBRARY): $(CUDA_OBJECTS) $(LIBRARY) kernels/exports.map
	@echo "  link  $@"
	@$(CXX) $(SAN_FLAGS) $(LDFLAGS) $(CUDA_PART_LINK) '-Wl,-rpath,$$ORIGIN' $(CUDA_OBJECTS) $(LIBRARY) $(CUDA_LIBS) $(LIBS) -o $@

.PHONY: cuda-library
cuda-library: $(if $(HAVE_CUDA),$(if $(wildcard host/backend/cuda.c),$(CUDA_LIBRARY)))

# nvcc for all targets is part of the unit tests; so are cuDNN's plans for a described device.
GPU_LINK = $(CXX) $(SAN_FLAGS) $(LDFLAGS)
PLAN_TESTS := $(patsubst tests/gpu/%.c,$(VARIANT)/cuda/tests/%,$(sort $(wildcard tests/gpu/test_*.c)))
PLAN_CHECKS := $(patsubst tests/gpu/%.c,$(VARIANT)/cuda/tests/%,$(sort $(wildcard tests/gpu/check_*.c)))
GPU_KERNEL_TESTS := $(patsubst tests/kernels/%.c,$(VARIANT)/cuda/tests/%,$(filter-out $(wildcard tests/kernels/test_emu*.c),$(sort $(wildcard tests/kernels/test_*.c))))
ifneq ($(wildcard host/backend/cuda.c),)
  # Without sanitizers: the objects of nvcc are the same.
  ifeq ($(SAN_FLAGS),)
    MORE_TESTS += resources,BUILD=$(VARIANT)@tests/gpu/test_resources.sh
    ifneq ($(HAVE_CUDA),)
      MORE_TESTS += $(patsubst %,described$(comma)CUDA_LIB=$(CUDA_LIB)@%,$(PLAN_TESTS))
      MORE_TEST_PROGRAMS += $(CUDA_LIBRARY) $(PLAN_TESTS)
      MORE_CHECKS += $(patsubst %,described$(comma)CUDA_LIB=$(CUDA_LIB)@%,$(PLAN_CHECKS))
      MORE_CHECK_PROGRAMS += $(PLAN_CHECKS)
    endif
  endif
endif

$(VARIANT)/cuda/tests/%: $(CUDA_OBJ)/tests/gpu/%.o $(CUDA_OBJECTS) $(LIBRARY)
	@mkdir -p $(@D)
	@echo "  link  $@"
	@$(GPU_LINK) $^ -lcmocka $(CUDA_LIBS) $(LIBS) -o $@

$(VARIANT)/cuda/tests/%: $(CUDA_OBJ)/tests/kernels/%.o $(KERNELS:%.cu=$(CUDA_OBJ)/%.o) $(LIBRARY)
	@mkdir -p $(@D)
	@echo "  link  $@"
	@$(GPU_LINK) $^ -lcmocka $(CUDA_LIBS) $(LIBS) -o $@

# ---- With a GPU ----
.PHONY: check-gpu bench-gpu gpu-programs
gpu-programs: $(MAIN_PROGRAM) $(if $(HAVE_CUDA),$(CUDA_LIBRARY) $(GPU_KERNEL_TESTS)) $(ON_EMULATED:%.c=$(VARIANT)/%) \
    $(VARIANT)/tests/gpu/nccl_ranks $(VARIANT)/bench/bench_step

check-gpu: deps
	+@$(SUBMAKE) found
	+@$(SUBMAKE) $(PARALLEL) gpu-programs
	@tests/gpu/check_gpu $(VARIANT)

bench-gpu: deps
	+@$(SUBMAKE) found
	+@$(SUBMAKE) $(PARALLEL) gpu-programs
	@tests/gpu/bench_gpu $(VARIANT)
