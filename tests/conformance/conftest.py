"""Fixtures of the conformance suites."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest

from node.engine.contract import EngineName


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """A module names the event loops that it runs on in ``EVENT_LOOPS``: their transports differ where it matters."""
    loops: Mapping[str, Callable[[], asyncio.AbstractEventLoop]] = getattr(
        getattr(item, "module", None), "EVENT_LOOPS", {"asyncio": asyncio.new_event_loop}
    )
    return loops


@pytest.fixture(params=["fast", "stock"])
def engine(request: pytest.FixtureRequest) -> EngineName:
    """Both HTTP engines."""
    name: EngineName = request.param
    return name
