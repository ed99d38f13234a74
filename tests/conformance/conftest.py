"""Fixtures of the conformance suites."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop

from node.engine.contract import EngineName


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]] | None:
    """The HTTP servers are tried on both event loops: their transports differ where it matters."""
    if item.path.name.startswith("test_http_server"):
        return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
    return None


@pytest.fixture(params=["fast", "stock"])
def engine(request: pytest.FixtureRequest) -> EngineName:
    """Both HTTP engines."""
    name: EngineName = request.param
    return name
