"""Faults, one module each: `TITLE` and `run`."""
