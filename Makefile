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

.PHONY: build demo test test-rust test-python parity parity-large cuda-check conformance bench bench-tools lint deny venv venv-bench ort ort-gpu export-scenes lock clean

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

# PARITY="--cases 1000" or "--seed N" for less, or the same once more.
parity: build venv
	$(PYTHON) scripts/parity.py --binary $(BINARY) $(PARITY)

parity-large: build venv
	$(PYTHON) scripts/parity.py --binary $(BINARY) --large

# Captions, nodes per execution provider and speed on an NVIDIA GPU against the CPU. BUNDLE=folder for another model.
cuda-check: build venv $(ORT_GPU)
	$(PYTHON) scripts/cuda_check.py --binary $(BINARY) $(if $(BUNDLE),--bundle $(BUNDLE))

# docs/conformance.md, which the tests compare with a running service.
conformance: build venv
	$(PYTHON) scripts/conformance.py --output docs/conformance.md

# Every figure of docs/benchmarks.md, an hour on two cores. BENCH="--only captions" runs a part, BENCH=--quick tries it out.
bench: build venv venv-bench bench-tools
	$(PYTHON) scripts/bench.py $(BENCH)

# Load generators, from Debian.
bench-tools:
	@if ! { command -v h2load && command -v wrk; } >/dev/null; then \
		command -v apt-get >/dev/null || { echo "error: install h2load (nghttp2) and wrk by hand"; exit 1; }; \
		apt-get update -qq && apt-get install -y -qq nghttp2-client wrk; \
	fi

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

# The Python server that is measured against. torch and transformers are those of .venv.
venv-bench: .venv-bench/installed
.venv-bench/installed: requirements/bench.txt .venv/installed
	python3 -m venv .venv-bench
	.venv-bench/bin/pip install --quiet --disable-pip-version-check --no-input --no-deps --require-hashes -r requirements/bench.txt
	$(PYTHON) -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
		>"$$(.venv-bench/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/scripts.pth"
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

# Resolves requirements/*.in anew; needs uv.
lock:
	uv pip compile --quiet --generate-hashes --python-version 3.11 --override requirements/overrides.txt \
		requirements/scripts.in --output-file requirements/scripts.txt
	uv pip compile --quiet --generate-hashes --python-version 3.11 --constraint requirements/scripts.txt \
		requirements/bench.in --output-file requirements/bench.txt

clean:
	rm -rf target build .venv .venv-bench .onnxruntime .onnxruntime-gpu
