"""Writes docs/conformance.md from a running service: `make conformance`."""
