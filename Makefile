# The contract: `make test` sets up what the tests need and runs them all; `make check` is what must pass before a change lands.
.PHONY: test test-arm test-units libtorch demo check fmt lint docs deny bench fuzz
CARGO ?= cargo
PYTHON ?= python3

# Needs a Rust toolchain and, for the crate `train` alone, what `libtorch` below says.
test: libtorch
	$(CARGO) test --workspace
	@$(MAKE) --no-print-directory test-arm

# libtorch for the crate `train`, fetched once (0.6 GB); an exported LIBTORCH, or a .libtorch that is there, wins.
libtorch:
	@command -v $(CARGO) >/dev/null || { echo "cargo is missing: install a Rust toolchain (see README.md)"; exit 1; }
	@command -v $${CXX:-c++} >/dev/null || { echo "a C++ compiler is missing: the crate train needs one (Debian: g++; macOS: xcode-select --install), or set CXX"; exit 1; }
	@[ -n "$$LIBTORCH" ] || [ -d .libtorch/lib ] || { \
		$(PYTHON) -m pip --version >/dev/null 2>&1 || { echo "Python 3 with pip is missing: the crate train's libtorch is fetched by it (Debian: python3-pip), or export LIBTORCH (PyTorch 2.11.0)"; exit 1; }; \
		PYTHON=$(PYTHON) train/get-libtorch.sh; }

# The demo model from an empty folder (train/README.md): make demo OUT=folder
OUT ?= target/demo
demo: libtorch
	$(CARGO) run --release -p pumice-train -- demo $(OUT)

# The kernels' tests on an emulated Arm processor, where a cross compiler, its standard library and the emulator are installed (Debian: dpkg
# --add-architecture arm64, then rustc-web libstd-rust-web-dev:arm64 gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user). They are linked
# statically: under qemu 7.2 a program that loads Debian 12's libc at run time never returns from starting its first thread. Then some of them on
# processors without the matrix product and without the dot product, which say what they expect to be found.
ARM_RUSTC ?= /usr/bin/rustc
ARM_STD = $(shell $(ARM_RUSTC) --print sysroot 2>/dev/null)/lib/rustlib/aarch64-unknown-linux-gnu
test-arm:
	@if command -v qemu-aarch64 >/dev/null && command -v aarch64-linux-gnu-gcc >/dev/null && [ -d "$(ARM_STD)" ]; then \
		export RUSTC=$(ARM_RUSTC) CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
			CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS="-C target-feature=+crt-static"; \
		on() { echo "on $$1:"; export PUMICE_EXPECTED_ISA=$$2 CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -cpu $$1"; shift 2; \
			$(CARGO) test -p pumice-kernels --target aarch64-unknown-linux-gnu --target-dir target/arm "$$@"; }; \
		on max neon-i8mm --lib --tests && on neoverse-n1 neon-dotprod --lib -- cpu::isa every_k_of_the_tiles && \
			on cortex-a72 neon --lib -- cpu::isa every_k_of_the_tiles; \
	else echo "skipped: tests on Arm (no emulator or no cross compiler here)"; fi

# Products in matrix units on a GPU in software that has them: `make test-units` fetches one beside the system's (Debian; 63 MB).
MESA ?= target/mesa
test-units:
	[ -x $(MESA)/run ] || kernels/tests/gpu/newer-mesa.sh $(MESA)
	PUMICE_EXPECTED_UNITS=1 CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER=$(abspath $(MESA))/run $(CARGO) test -p pumice-kernels --test gpu coop

fmt:
	$(CARGO) fmt --all --check

lint: libtorch
	$(CARGO) clippy --workspace --all-targets -- -D warnings

docs: libtorch
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --document-private-items

check: fmt lint test docs

# Licences, advisories and sources of dependencies (cargo install cargo-deny).
deny:
	$(CARGO) deny check

# How fast this machine is: make bench (the demo model), make bench MODEL=file.gguf ARGS="-p 512 -n 128"
bench:
	$(CARGO) run --release -- bench $(if $(MODEL),-m $(MODEL)) $(ARGS)

# Parsers against hostile bytes (cargo install cargo-fuzz): make fuzz TARGET=gguf
TARGET ?= gguf
fuzz:
	cd models && RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run -s none $(TARGET) -- -max_total_time=600
