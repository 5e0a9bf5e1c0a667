"""Requests with one mutated field, as JSON and as protobuf messages."""
