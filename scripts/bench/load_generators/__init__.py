"""Closed and open loops of requests."""
