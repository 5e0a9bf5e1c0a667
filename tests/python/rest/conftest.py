"""Fixtures of the tests of the REST interface."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from service import Service
from support.refusals import Connection


@pytest.fixture(scope="module")
def connection(service: Service) -> Iterator[Connection]:
    """One HTTP connection that must stay open."""
    connection = Connection(service)
    yield connection
    connection.http.close()
