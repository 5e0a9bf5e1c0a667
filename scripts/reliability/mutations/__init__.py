"""Requests with one field changed, as JSON and as protobuf messages."""
