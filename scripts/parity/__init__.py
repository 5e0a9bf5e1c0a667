"""Compares the service with transformers on random cases: `make parity`."""
