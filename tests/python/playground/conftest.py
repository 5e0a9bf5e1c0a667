"""Fixtures of the playground's tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from service import Service
from support.playground import Playground, chromium


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser for the tests of one file; each page has a separate context."""
    with chromium() as running:
        yield running


@pytest.fixture
def playground(browser: Browser, service: Service) -> Playground:
    """The service's page in a new tab."""
    return Playground(browser, service.url)
