# The contract: `make test` sets up what the tests need and runs them all; `make check` is what must pass before a change lands.
.PHONY: test test-arm check fmt lint docs deny bench fuzz
CARGO ?= cargo

# Needs a Rust toolchain and a C linker, nothing else.
test:
	@command -v $(CARGO) >/dev/null || { echo "cargo is missing: install a Rust toolchain (see README.md)"; exit 1; }
	$(CARGO) test --workspace
	@$(MAKE) --no-print-directory test-arm

# The kernels' tests on an emulated Arm processor, where a cross compiler, its standard library and the emulator are installed (Debian: dpkg
# --add-architecture arm64, then rustc-web libstd-rust-web-dev:arm64 gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user). They are linked
# statically: under qemu 7.2 a program that loads Debian 12's libc at run time never returns from starting its first thread.
ARM_RUSTC ?= /usr/bin/rustc
ARM_STD = $(shell $(ARM_RUSTC) --print sysroot 2>/dev/null)/lib/rustlib/aarch64-unknown-linux-gnu
test-arm:
	@if command -v qemu-aarch64 >/dev/null && command -v aarch64-linux-gnu-gcc >/dev/null && [ -d "$(ARM_STD)" ]; then \
		RUSTC=$(ARM_RUSTC) CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc \
		CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS="-C target-feature=+crt-static" \
		CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -cpu max" \
		$(CARGO) test -p pumice-kernels --lib --tests --target aarch64-unknown-linux-gnu --target-dir target/arm; \
	else echo "skipped: tests on Arm (no emulator or no cross compiler here)"; fi

fmt:
	$(CARGO) fmt --all --check

lint:
	$(CARGO) clippy --workspace --all-targets -- -D warnings

docs:
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --document-private-items

check: fmt lint test docs

# Licences, advisories and sources of dependencies (cargo install cargo-deny).
deny:
	$(CARGO) deny check

# Tokens per second of a model file: make bench MODEL=file.gguf
bench:
	$(CARGO) run --release --example throughput -- $(MODEL)

# Parsers against hostile bytes (cargo install cargo-fuzz): make fuzz TARGET=gguf
TARGET ?= gguf
fuzz:
	cd models && RUSTC_BOOTSTRAP=1 $(CARGO) fuzz run -s none $(TARGET) -- -max_total_time=600
