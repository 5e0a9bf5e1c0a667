"""Helpers of the tests in Python."""
