"""The record of what reached the web servers of a simulated network."""

from __future__ import annotations

import threading

TIMEOUT = 60
"""Seconds until a test that waits for something fails."""

Endpoint = tuple[str, int]
"""Address and port."""


class Traffic:
    """Connections, requests and responses of all web servers of a network."""

    def __init__(self) -> None:
        self.request_heads: list[str] = []
        """Request lines and headers."""
        self.bytes_sent = 0
        """Size of the endless responses in bytes."""
        self.most_concurrent = 0
        """The largest number of `concurrent` requests at the same time."""
        self.pair = threading.Barrier(2)
        self.stopped = threading.Event()
        self._concurrent = 0
        self._connections: list[tuple[Endpoint, Endpoint]] = []
        self._changed = threading.Condition()

    def add_connection(self, local: Endpoint, peer: Endpoint) -> None:
        """Records a connection that `peer` made to `local`."""
        with self._changed:
            self._connections.append((local, peer))
            self._changed.notify_all()

    def change_concurrency(self, change: int) -> None:
        """Records that a `concurrent` request has begun (1) or ended (-1)."""
        with self._changed:
            self._concurrent += change
            self.most_concurrent = max(self.most_concurrent, self._concurrent)

    def remove_connection(self, peer: Endpoint) -> None:
        """Waits for the connection from `peer` and removes it from the record."""
        with self._changed:
            others = [each for each in self._connections if each[1] != peer]
            while len(others) == len(self._connections):
                assert self._changed.wait(TIMEOUT), "the marker connection did not arrive"
                others = [each for each in self._connections if each[1] != peer]
            self._connections = others

    def take_endpoints(self) -> list[Endpoint]:
        """Returns where connections were made since the last call, each endpoint once."""
        with self._changed:
            endpoints = sorted({local for local, _ in self._connections})
            self._connections = []
        return endpoints
