"""The subjects of the benchmark: the service, transformers, raw sessions and a Python server."""
