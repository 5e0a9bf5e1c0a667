"""Builds and runs a container image without a container engine: `make image`."""
