# docker build --target cpu .        the service for CPUs (the default target)
# docker build --target cuda .       the service with ONNX Runtime and libraries for NVIDIA GPUs
# docker build --target export .     the exporter (Python with torch), which makes bundles from checkpoints
#
# For a release, pin the base images by digest: --build-arg BASE=debian@sha256:... --build-arg RUST_IMAGE=rust@sha256:...
# `make image` builds and runs the cpu image on a machine without a container engine and without access to a registry.
ARG BASE=docker.io/library/debian:trixie-slim
ARG RUST_IMAGE=docker.io/library/rust:1.95-slim-trixie
ARG PYTHON_IMAGE=docker.io/library/python:3.11-slim-trixie

# nasm assembles the SIMD code of the JPEG decoder, which REQUIRE_JPEG_SIMD requires; pip fetches the wheels that contain
# ONNX Runtime.
FROM ${RUST_IMAGE} AS toolchain
RUN apt-get update -qq \
    && apt-get install -y -qq --no-install-recommends ca-certificates gcc libc6-dev nasm python3-pip \
    && rm -rf /var/lib/apt/lists/*
ENV REQUIRE_JPEG_SIMD=1
WORKDIR /src

FROM toolchain AS build
# cargo-auditable adds the list of crates to the binary, where vulnerability scanners find it.
ARG CARGO_AUDITABLE_VERSION=0.7.7
RUN cargo install --quiet --locked --root /usr/local --version ${CARGO_AUDITABLE_VERSION} cargo-auditable
COPY Cargo.toml Cargo.lock build.rs ./
COPY benches benches
COPY crates crates
COPY proto proto
COPY src src
# Function names are kept for backtraces; line numbers would be two thirds of the binary.
ENV CARGO_PROFILE_RELEASE_STRIP=debuginfo
RUN --mount=type=cache,target=/src/target \
    cargo auditable build --quiet --release --locked \
    && install -D target/release/blip-serve /opt/blip-serve/bin/blip-serve

FROM toolchain AS cpu-library
COPY requirements/onnxruntime.txt requirements/
COPY scripts/release/fetch_onnxruntime.py scripts/release/
RUN python3 scripts/release/fetch_onnxruntime.py --output /opt/blip-serve

FROM ${BASE} AS runtime
# The setuid and setgid bits are removed, because no program in the image changes its user.
RUN apt-get update -qq \
    && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/cache/debconf/*-old /var/log/apt /var/log/*.log \
    && find / -xdev -type f -perm /6000 -exec chmod a-s {} +
COPY LICENSE /opt/blip-serve/
COPY models/scenes /models/scenes
COPY --from=build /opt/blip-serve/bin /opt/blip-serve/bin
ENV PATH=/opt/blip-serve/bin:/usr/local/bin:/usr/bin:/bin \
    BLIP_MODELS=/etc/blip-serve/models.toml
EXPOSE 8080
# A user without name and home directory: the service only writes to the folder of --graph-cache.
USER 65532:65532
ENTRYPOINT ["blip-serve"]
HEALTHCHECK --interval=10s --timeout=5s --start-period=300s CMD ["blip-serve", "health"]
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="blip-serve" \
      org.opencontainers.image.description="Image captions from BLIP over gRPC and REST, on ONNX Runtime" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"

FROM runtime AS cpu
COPY deploy/container/cpu.toml /etc/blip-serve/models.toml
# ../lib of the binary, where the binary looks for it.
COPY --from=cpu-library /opt/blip-serve/lib /opt/blip-serve/lib

FROM toolchain AS cuda-library
COPY requirements/onnxruntime-gpu.txt requirements/cuda.txt requirements/
COPY scripts/release/fetch_onnxruntime.py scripts/release/
# Removes what the service does not load: TensorRT here, headers, archives and Python files below.
RUN python3 scripts/release/fetch_onnxruntime.py --gpu --output /opt/blip-serve \
    && rm /opt/blip-serve/lib/libonnxruntime_providers_tensorrt.so
RUN python3 -m pip install --quiet --no-cache-dir --no-input --no-deps --only-binary=:all: --require-hashes \
        --requirement requirements/cuda.txt --target /opt/wheels \
    && find /opt/wheels/nvidia \( -name '*.a' -o -name '*.py' -o -name include \) -prune -exec rm -r {} +

FROM runtime AS cuda
# NVIDIA's container runtime mounts the machine's driver, with these capabilities.
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    BLIP_CUDA_LIBRARIES=/opt/nvidia
COPY --from=cuda-library /opt/wheels/nvidia /opt/nvidia
COPY --from=cuda-library /opt/blip-serve/lib /opt/blip-serve/lib
COPY deploy/container/cuda.toml /etc/blip-serve/models.toml

FROM ${PYTHON_IMAGE} AS export
WORKDIR /opt/blip-serve
COPY requirements/export.txt requirements/
RUN pip install --quiet --no-cache-dir --no-input --no-deps --only-binary=:all: --require-hashes --requirement requirements/export.txt
COPY python/blip_onnx blip_onnx
# torch reads the name of the user, which has no entry in /etc/passwd.
ENV USER=exporter HOME=/tmp HF_HOME=/tmp/huggingface PYTHONDONTWRITEBYTECODE=1 PYTHONPATH=/opt/blip-serve
# A new volume is owned by the owner of this folder.
RUN install -d -o 65532 -g 65532 /bundles \
    && find / -xdev -type f -perm /6000 -exec chmod a-s {} +
USER 65532:65532
ENTRYPOINT ["python", "-m", "blip_onnx"]

FROM cpu
