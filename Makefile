# Every command of the project. A fresh machine needs the Rust toolchain, python3 with venv and pip, a C compiler and make.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON := .venv/bin/python
BINARY := target/release/blip-serve
ORT := .onnxruntime/lib/libonnxruntime.so
ORT_GPU := .onnxruntime-gpu/lib/libonnxruntime.so
# Cargo features, separated by commas; simd-jpeg needs nasm.
FEATURES ?=
RUST_TESTS := cargo test --release --locked --no-fail-fast --features=$(FEATURES)
PYTHON_TESTS := $(PYTHON) -m pytest tests/python -q

.PHONY: build demo test test-rust test-python parity parity-large cuda-check conformance lint deny venv ort ort-gpu export-scenes lock clean

build: $(ORT)
	cargo build --release --locked --features=$(FEATURES)

demo: build venv
	$(PYTHON) scripts/demo.py --binary $(BINARY)

# Ends with one line for both suites: `N passed, M failed`.
test: build venv $(ORT_GPU)
	@$(PYTHON) scripts/run_tests.py '$(RUST_TESTS)' '$(PYTHON_TESTS)'

test-rust: $(ORT)
	$(RUST_TESTS)

test-python: build venv $(ORT_GPU)
	$(PYTHON_TESTS)

parity: build venv
	$(PYTHON) scripts/parity.py --binary $(BINARY)

parity-large: build venv
	$(PYTHON) scripts/parity.py --binary $(BINARY) --large

# Captions, nodes per execution provider and speed on an NVIDIA GPU against the CPU. BUNDLE=folder for another model.
cuda-check: build venv $(ORT_GPU)
	$(PYTHON) scripts/cuda_check.py --binary $(BINARY) $(if $(BUNDLE),--bundle $(BUNDLE))

# docs/conformance.md, which the tests compare with a running service.
conformance: build venv
	$(PYTHON) scripts/conformance.py --output docs/conformance.md

lint: venv
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items
	.venv/bin/ruff format --check scripts tests examples
	.venv/bin/ruff check scripts tests examples

# Without network: the advisories are not looked at. `cargo deny check` with network does that too.
deny:
	cargo deny --version >/dev/null 2>&1 || cargo install --quiet --locked --debug --version 0.20.2 cargo-deny
	cargo fetch --locked --quiet
	cargo deny --offline check bans licenses sources

venv: .venv/installed
# The list is complete, so no dependencies are looked up (and overrides.txt holds).
.venv/installed: requirements/scripts.txt
	python3 -m venv .venv
	.venv/bin/pip install --quiet --disable-pip-version-check --no-input --no-deps --require-hashes -r requirements/scripts.txt
	touch $@

ort: $(ORT)
$(ORT): scripts/fetch_onnxruntime.py
	python3 scripts/fetch_onnxruntime.py --output .onnxruntime
ort-gpu: $(ORT_GPU)
$(ORT_GPU): scripts/fetch_onnxruntime.py
	python3 scripts/fetch_onnxruntime.py --gpu --output .onnxruntime-gpu

# The bundle of the embedded model, from its checkpoint.
export-scenes: venv
	$(PYTHON) scripts/export_scenes.py

# Resolves requirements/scripts.in anew; needs uv.
lock:
	uv pip compile --quiet --generate-hashes --python-version 3.11 --override requirements/overrides.txt \
		requirements/scripts.in --output-file requirements/scripts.txt

clean:
	rm -rf target build .venv .onnxruntime .onnxruntime-gpu
