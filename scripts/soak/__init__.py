"""The kinds of requests that `scripts/soak.py` mixes, each with the outcomes that it may have."""
