"""A name server whose answers the tests define, for each look-up of a name."""

from __future__ import annotations

import socket
import socketserver
import struct
from collections import Counter

A, AAAA, IN = 1, 28, 1
NO_ERROR, NO_SUCH_NAME = 0x8180, 0x8183

Zone = dict[str, list[list[str]] | None]
"""The addresses of a name at its first look-up, its second, ...; the last entry repeats. `None`: no answer."""


class NameServer(socketserver.UDPServer):
    """Answers from a zone; names in `.invalid` do not exist, all others have `default`."""

    allow_reuse_address = True

    def __init__(self, address: tuple[str, int], zone: Zone, default: str) -> None:
        super().__init__(address, _LookupHandler)
        self.zone, self.default = zone, default
        self.lookups: list[str] = []
        """The name of every look-up, in lower case."""
        self._counts: Counter[tuple[str, int]] = Counter()

    def addresses(self, name: str, kind: int) -> list[bytes] | None:
        """Returns the addresses for the next look-up of a name."""
        family = {A: socket.AF_INET, AAAA: socket.AF_INET6}.get(kind)
        answers = self.zone.get(name, [[self.default]])
        if answers is None or family is None:
            return None
        turn = self._counts[name, kind]
        self._counts[name, kind] += 1
        texts = answers[min(turn, len(answers) - 1)]
        return [socket.inet_pton(family, text) for text in texts if (":" in text) == (kind == AAAA)]


class _LookupHandler(socketserver.BaseRequestHandler):
    server: NameServer

    def handle(self) -> None:
        message, reply = self.request
        name, end = _parse_name(message)
        kind, _ = struct.unpack_from("!HH", message, end)
        if kind == A:
            self.server.lookups.append(name)
        found = [] if name.endswith(".invalid") else self.server.addresses(name, kind)
        if found is None:
            return
        status = NO_SUCH_NAME if name.endswith(".invalid") else NO_ERROR
        head = struct.pack("!2s5H", message[:2], status, 1, len(found), 0, 0)
        # 0xC00C refers to the name in the question; a time to live of 0 forbids caching.
        records = [struct.pack("!HHHIH", 0xC00C, kind, IN, 0, len(each)) + each for each in found]
        reply.sendto(b"".join([head, message[12 : end + 4], *records]), self.client_address)


def _parse_name(message: bytes) -> tuple[str, int]:
    """Returns the name in the question and the offset behind it."""
    labels, at = [], 12
    while length := message[at]:
        labels.append(message[at + 1 : at + 1 + length].decode("ascii").lower())
        at += 1 + length
    return ".".join(labels), at + 1
