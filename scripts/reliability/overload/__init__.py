"""Tests at ten times the capacity of the service: `make overload`."""
