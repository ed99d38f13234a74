"""Fixtures that all tests share: a server for state, namespaces, providers to order about."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.support.leaks import connections_left, watch_connections
from tests.support.mock import MockProvider
from tests.support.valkey import ValkeyServer

# a busy machine is no fault of an example's, and a run must not find what the one before it did not look for;
# to look for more: --hypothesis-profile=wide
settings.register_profile(
    "suite", max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("wide", settings.get_profile("suite"), max_examples=1000, derandomize=False)
settings.load_profile("suite")

_ROOT = Path(__file__).parent
_FOLDERS = ("cluster", "conformance", "redis")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes longest comes first, so that no process is left alone with it at the end.

    Of the cluster tests those with a cluster of their own go before those that share one, which would idle meanwhile.
    """
    items.sort(key=_place)


def _place(item: pytest.Item) -> tuple[int, bool]:
    folder = item.path.relative_to(_ROOT).parts[0]
    module = item.getparent(pytest.Module)
    is_sharing = module is not None and hasattr(module.obj, "POOLS")
    return _FOLDERS.index(folder) if folder in _FOLDERS else len(_FOLDERS), is_sharing


watch_connections()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown() -> Iterator[None]:
    """A connection to the store that is left open fails the test that left it; the collector would blame another."""
    yield
    left = connections_left()
    assert not left, f"left open: {left}"


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
