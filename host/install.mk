# `make install PREFIX=/usr/local DESTDIR=`: the program, its optional part for GPUs, configurations, man page, completion.
# `make uninstall` removes exactly that.
PREFIX ?= /usr/local
INSTALL_ROOT = $(DESTDIR)$(PREFIX)
INSTALL_FILES = bin/cudistill lib/cudistill/libcudistill_cuda.so include/cudistill.h share/man/man1/cudistill.1 \
    share/bash-completion/completions/cudistill share/zsh/site-functions/_cudistill share/fish/vendor_completions.d/cudistill.fish
INSTALL_FOLDERS = share/cudistill share/doc/cudistill

.PHONY: install install-files uninstall
install: all
	+@$(SUBMAKE) install-files

# What is described by the program's own tables is written by the program.
install-files: $(PROGRAM)
	@install -d $(addprefix $(INSTALL_ROOT)/,$(sort $(dir $(INSTALL_FILES))) $(INSTALL_FOLDERS))
	@install -m 755 $(PROGRAM) $(INSTALL_ROOT)/bin/cudistill
	@if [ -f $(CUDA_LIBRARY) ]; then install -m 644 $(CUDA_LIBRARY) $(INSTALL_ROOT)/lib/cudistill/; fi
	@install -m 644 include/cudistill.h $(INSTALL_ROOT)/include/cudistill.h
	@$(PROGRAM) help --man > $(INSTALL_ROOT)/share/man/man1/cudistill.1
	@$(PROGRAM) completion bash > $(INSTALL_ROOT)/share/bash-completion/completions/cudistill
	@$(PROGRAM) completion zsh > $(INSTALL_ROOT)/share/zsh/site-functions/_cudistill
	@$(PROGRAM) completion fish > $(INSTALL_ROOT)/share/fish/vendor_completions.d/cudistill.fish
	@cp -r configs $(INSTALL_ROOT)/share/cudistill/
	@install -m 644 README.md LICENSE $(INSTALL_ROOT)/share/doc/cudistill/
	@echo "installed in $(INSTALL_ROOT)"

# Folders that are empty afterwards go too, but never the prefix.
uninstall:
	@rm -f $(addprefix $(INSTALL_ROOT)/,$(INSTALL_FILES))
	@rm -rf $(addprefix $(INSTALL_ROOT)/,$(INSTALL_FOLDERS))
	@cd $(INSTALL_ROOT) && rmdir --ignore-fail-on-non-empty -p $(sort $(dir $(INSTALL_FILES))) 2>/dev/null || true
	@echo "removed from $(INSTALL_ROOT)"
