"""Measures the service against what else could serve BLIP, in interleaved runs: `make bench`."""
