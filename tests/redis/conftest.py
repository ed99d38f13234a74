"""Fixtures of tests on a real server: stores that close, benches with a steered clock, fleets of callers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing
from typing import Any

import pytest

from shared_state.config import PoolConfig
from shared_state.store import Store
from shared_state.topology import DomainSpec
from tests.redis.ground import EPOCH_MS, Bench, Caller, SteeredStore, make_domain
from tests.support.valkey import ValkeyServer


@pytest.fixture
async def open_store(valkey_server: ValkeyServer, namespace: str) -> AsyncIterator[Callable[..., Store]]:
    """Stores on the shared server, each with connections of its own; they close with the test."""
    async with AsyncExitStack() as stack:

        def open_(**options: Any) -> Store:
            store = Store(valkey_server.url, **{"namespace": namespace, "timeout_s": 5.0, **options})
            stack.push_async_callback(store.aclose)
            return store

        yield open_


@pytest.fixture
async def steered(valkey_server: ValkeyServer, namespace: str) -> AsyncIterator[SteeredStore]:
    """A store whose clock stands still until the test moves it."""
    async with aclosing(SteeredStore(valkey_server.url, namespace=namespace)) as store:
        await store.set_time(EPOCH_MS)
        yield store


@pytest.fixture
def bench(steered: SteeredStore) -> Callable[..., Bench]:
    """A caller at the steered clock: ``bench(account={...}, small={...}, big={...}, pool=...)``."""

    def build(pool: PoolConfig | None = None, **limits: Any) -> Bench:
        return Bench(steered, make_domain(**limits), pool=pool)

    return build


@pytest.fixture
def fleet(open_store: Callable[..., Store]) -> Callable[..., list[Caller]]:
    """Several nodes on the server's own clock, each with its own connections: ``fleet(3, domain)``."""

    def build(size: int, domain: DomainSpec) -> list[Caller]:
        return [Caller(open_store(), domain, node=f"n{i}") for i in range(size)]

    return build
