"""Loops: a module that must hold on several event loops names them in ``EVENT_LOOPS``."""

from __future__ import annotations

import asyncio

import pytest


@pytest.hookimpl(optionalhook=True)  # older releases of pytest-asyncio know only the default loop
def pytest_asyncio_loop_factories(item):
    return getattr(item.module, "EVENT_LOOPS", {"asyncio": asyncio.new_event_loop})
