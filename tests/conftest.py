"""Fixtures that all tests share: a server for state, namespaces, providers to order about."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from typing import Any

import pytest

from tests.support.mock import MockProvider
from tests.support.valkey import ValkeyServer


@pytest.fixture(scope="session")
def valkey_server() -> Iterator[ValkeyServer]:
    """One server for the whole run, without persistence; tests part by namespace."""
    with closing(ValkeyServer()) as server:
        yield server.start()


@pytest.fixture
def namespace() -> str:
    """A key namespace that no other test uses."""
    return f"t{uuid.uuid4().hex[:10]}"


@pytest.fixture
def mock_provider() -> Iterator[Callable[..., MockProvider]]:
    """Start mock providers: ``mock_provider("alpha", rpm=60)``; they end with the test."""
    with ExitStack() as stack:

        def start(name: str = "mock", **options: Any) -> MockProvider:
            return stack.enter_context(closing(MockProvider(name, **options)))

        yield start
