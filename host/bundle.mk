# `make bundle`: a folder that runs on another machine of the same kind of processor without any packages: program, shared
# objects, the libraries that they need except those of the C library, of CUDA, of the driver and of MPI, and the checks and
# benchmarks for a GPU. A second copy is packed beside it.
BUNDLE = $(VARIANT)/bundle/cudistill
# 0: the folder alone.
BUNDLE_PACK = 1
# DT_RPATH, not DT_RUNPATH: it must hold for the libraries of libraries too.
BUNDLE_LINK = $(CXX) $(LDFLAGS) -Wl,--disable-new-dtags '-Wl,-rpath,$$ORIGIN/../lib'
# Stay with the machine: glibc and what belongs to it, CUDA, the driver, MPI.
BUNDLE_LEFT_OUT := linux-vdso|ld-linux|libc\.so|libm\.so|libdl\.so|libpthread\.so|librt\.so|libcuda|libcudnn|libcublas|libnccl|libnv|libmpi
BUNDLE_TESTS = $(notdir $(ON_EMULATED:.c=)) gpu/nccl_ranks
BUNDLE_PROGRAMS = $(BUNDLE)/bin/cudistill $(BUNDLE)/bench/bench_step $(addprefix $(BUNDLE)/tests/,$(BUNDLE_TESTS)) \
    $(if $(HAVE_CUDA),$(patsubst $(VARIANT)/cuda/tests/%,$(BUNDLE)/tests/%,$(GPU_KERNEL_TESTS)))
# The tests of kernels share one copy of them.
BUNDLE_KERNELS = $(BUNDLE)/lib/libcudistill_kernels.so
BUNDLE_LIBRARIES = $(if $(HAVE_CUDA),$(CUDA_LIBRARY) $(BUNDLE_KERNELS))
# Where CUDA lies is the other machine's affair.
BUNDLE_CUDA_LIBS := $(filter-out -Wl%,$(CUDA_LIBS))

$(BUNDLE)/bin/cudistill: $(OBJ)/host/main.o $(LIBRARY)
	@mkdir -p $(@D)
	@$(BUNDLE_LINK) $^ $(LIBS) -o $@

$(BUNDLE)/bench/bench_step: $(OBJ)/bench/bench_step.o $(OBJ)/bench/step_rig.o $(LIBRARY)
	@mkdir -p $(@D)
	@$(BUNDLE_LINK) $^ $(LIBS) -o $@

$(BUNDLE)/tests/gpu/nccl_ranks: $(OBJ)/tests/gpu/nccl_ranks.o $(LIBRARY)
	@mkdir -p $(@D)
	@$(BUNDLE_LINK) '-Wl,-rpath,$$ORIGIN/../../lib' $^ -lcmocka $(LIBS) -o $@

$(BUNDLE)/tests/%: $(OBJ)/tests/%.o $(LIBRARY)
	@mkdir -p $(@D)
	@$(BUNDLE_LINK) $^ -lcmocka $(LIBS) -o $@

$(BUNDLE_KERNELS): $(KERNELS:%.cu=$(CUDA_OBJ)/%.o)
	@mkdir -p $(@D)
	@$(CXX) $(LDFLAGS) -shared -Wl,-soname,$(@F) $^ $(BUNDLE_CUDA_LIBS) -o $@

$(BUNDLE)/tests/%: $(CUDA_OBJ)/tests/kernels/%.o $(BUNDLE_KERNELS) $(LIBRARY)
	@mkdir -p $(@D)
	@$(BUNDLE_LINK) $^ -lcmocka $(BUNDLE_CUDA_LIBS) $(LIBS) -o $@

.PHONY: bundle bundle-folder
bundle: deps
	$(call install_missing,binutils xz-utils)
	+@$(SUBMAKE) found
	+@rm -rf $(VARIANT)/bundle
	+@$(SUBMAKE) $(PARALLEL) bundle-folder

bundle-folder: $(BUNDLE_PROGRAMS) $(BUNDLE_LIBRARIES) $(VARIANT)/commit.txt
	@mkdir -p $(BUNDLE)/lib $(BUNDLE)/tests/gpu $(BUNDLE)/bench
	@$(if $(HAVE_CUDA),cp $(CUDA_LIBRARY) $(BUNDLE)/lib/)
	@ldd $(BUNDLE_PROGRAMS) $(BUNDLE_LIBRARIES) | awk '$$3 ~ /^\// {print $$3}' | sort -u | grep -vE '/($(BUNDLE_LEFT_OUT))' \
	    | grep -v '^$(abspath $(BUNDLE))/' | xargs -I{} cp -L {} $(BUNDLE)/lib/
	@chmod u+w $(BUNDLE)/lib/*
	@strip --strip-unneeded $(BUNDLE)/lib/*.so* $(BUNDLE_PROGRAMS)
	@cp -r configs README.md LICENSE $(BUNDLE)/
	@cp -r bench/peers bench/MEASURES.md $(BUNDLE)/bench/
	@rm -rf $(BUNDLE)/bench/peers/__pycache__
	@cp -r tests/golden tests/run_tests $(BUNDLE)/tests/
	@cp tests/gpu/check_gpu tests/gpu/bench_gpu tests/gpu/cuda_libraries $(BUNDLE)/tests/gpu/
	@cp $(VARIANT)/found.txt $(VARIANT)/commit.txt $(BUNDLE)/
	@$(if $(filter-out 0,$(BUNDLE_PACK)),tar -C $(VARIANT)/bundle -cf - cudistill | xz --lzma2=preset=6e$(comma)dict=32MiB > $(VARIANT)/cudistill-bundle.tar.xz)
	@du -sh $(BUNDLE) $(if $(filter-out 0,$(BUNDLE_PACK)),$(VARIANT)/cudistill-bundle.tar.xz)
