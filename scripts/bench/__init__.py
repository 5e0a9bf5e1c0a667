"""Measures the service against other ways to serve BLIP, in interleaved runs: `make bench`."""
