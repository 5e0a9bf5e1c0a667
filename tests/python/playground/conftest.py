"""Fixtures of the playground's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from service import Service
from support.playground.browser import Browser
from support.playground.page import Playground


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A browser for all tests; each page is in a profile of its own."""
    with Browser() as running:
        yield running


@pytest.fixture
def playground(browser: Browser, service: Service) -> Playground:
    """The service's page in a new tab."""
    return Playground(browser, service.url)
