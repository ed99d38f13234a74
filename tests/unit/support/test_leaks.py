"""Connections that a test leaves open are found when it ends."""

from __future__ import annotations

import asyncio

from shared_state.store import Store
from tests.support.leaks import connections_left
from tests.support.valkey import ValkeyServer


def test_a_connection_that_outlives_its_loop_is_told_once(valkey_server: ValkeyServer):
    """One that was closed is not."""

    async def open_two() -> list[Store]:
        stores = [Store(valkey_server.url, name=name) for name in ("left", "closed")]
        for store in stores:
            await store.ping()
        await stores[1].aclose()
        return stores

    stores = asyncio.run(open_two())
    (told,) = connections_left()

    assert "client_name=left" in told
    assert connections_left() == []
    del stores
