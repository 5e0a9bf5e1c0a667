"""The parts of `scripts/overload.py`."""
