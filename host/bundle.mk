# `make bundle`: a folder that runs on another machine of the same kind of processor without any packages: program, shared
# objects, the libraries that they need except those of the C library, of CUDA, of the driver and of MPI, and the checks and
# benchmarks for a GPU. A second copy is packed beside it.
BUNDLE := $(VARIANT)/bundle/cudistill
# DT_RPATH, not DT_RUNPATH: it must hold for the libraries of libraries too.
BUNDLE_LINK = $(CXX) $(LDFLAGS) -Wl,--disable-new-dtags '-Wl,-rpath,$$ORIGIN/../lib'
# Stay with the machine: glibc and what belongs to it, CUDA, the driver, MPI.
BUNDLE_LEFT_OUT := linux-vdso|ld-linux|libc\.so|libm\.so|libdl\.so|libpthread\.so|librt\.so|libcuda|libcudnn|libcublas|libnccl|libnv|libmpi
BUNDLE_TESTS := $(notdir $(ON_EMULATED:.c=)) test_train
BUNDLE_PROGRAMS := $(BUNDLE)/bin/cudistill $(addprefix $(BUNDLE)/tests/,$(BUNDLE_TESTS)) \
    $(if $(HAVE_CUDA),$(patsubst $(VARIANT)/cuda/tests/%,$(BUNDLE)/tests/%,$(GPU_KERNEL_TESTS)))

$(BUNDLE)/bin/cudistill: $(OBJ)/host/main.o $(LIBRARY)
	@mkdir -p $(@D)
	@$(BUNDLE_LINK) $^ $(LIBS) -o $@

$(BUNDLE)/tests/%: $(OBJ)/tests/%.o $(LIBRARY)
	@mkdir -p $(@D)
	@$(BUNDLE_LINK) $^ -lcmocka $(LIBS) -o $@

$(BUNDLE)/tests/%: $(CUDA_OBJ)/tests/kernels/%.o $(KERNELS:%.cu=$(CUDA_OBJ)/%.o) $(LIBRARY)
	@mkdir -p $(@D)
	@$(BUNDLE_LINK) $^ -lcmocka $(CUDA_LIBS) $(LIBS) -o $@

.PHONY: bundle bundle-folder
bundle: deps
	$(call install_missing,binutils xz-utils)
	+@$(SUBMAKE) found
	+@rm -rf $(VARIANT)/bundle
	+@$(SUBMAKE) $(PARALLEL) bundle-folder

bundle-folder: $(BUNDLE_PROGRAMS) $(if $(HAVE_CUDA),$(CUDA_LIBRARY))
	@mkdir -p $(BUNDLE)/lib $(BUNDLE)/tests/gpu $(BUNDLE)/bench
	@$(if $(HAVE_CUDA),cp $(CUDA_LIBRARY) $(BUNDLE)/lib/)
	@ldd $(BUNDLE_PROGRAMS) $(if $(HAVE_CUDA),$(CUDA_LIBRARY)) | awk '$$3 ~ /^\// {print $$3}' | sort -u | grep -vE '/($(BUNDLE_LEFT_OUT))' \
	    | xargs -I{} cp -L {} $(BUNDLE)/lib/
	@chmod u+w $(BUNDLE)/lib/*
	@strip --strip-unneeded $(BUNDLE)/lib/*.so* $(BUNDLE)/bin/* $(BUNDLE_PROGRAMS)
	@cp -r configs README.md LICENSE $(BUNDLE)/
	@cp -r bench/peers bench/MEASURES.md $(BUNDLE)/bench/
	@cp -r tests/golden tests/run_tests $(BUNDLE)/tests/
	@cp tests/gpu/check_gpu tests/gpu/bench_gpu tests/gpu/cuda_libraries $(BUNDLE)/tests/gpu/
	@cp $(VARIANT)/found.txt $(BUNDLE)/
	@printf '%s\n' '$(COMMIT)' > $(BUNDLE)/commit.txt
	@tar -C $(VARIANT)/bundle -cJf $(VARIANT)/cudistill-bundle.tar.xz cudistill
	@du -sh $(BUNDLE) $(VARIANT)/cudistill-bundle.tar.xz
