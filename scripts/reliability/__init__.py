"""Tests of the service under load, faults, overload and damaged input."""
