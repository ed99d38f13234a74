"""The map of sessions, shared by nodes that remember what they were told."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from node.routing.sessions import Sessions
from shared_state.sessions import hold_session
from shared_state.store import Store
from shared_state.topology import PoolSpec
from tests.unit.node.house import Watch, mesh


class Teller(Store):
    """A store that counts what it is asked."""

    asked = 0

    async def run(self, script: str, *args: Any) -> Any:
        self.asked += 1
        return await super().run(script, *args)


class Node:
    """One node's sessions, with the epochs that it knows."""

    def __init__(self, store: Teller) -> None:
        self.store = store
        self.watch = Watch()
        self.epochs: Counter[str] = Counter()
        self.sessions = Sessions(store, self.watch, epoch_of=lambda model: self.epochs[model])  # type: ignore[arg-type]

    async def model_of(self, pool: PoolSpec, session: str, wish: str) -> str:
        return await self.sessions.model_of(pool, session, wish)

    async def moved(self) -> None:
        """Waits until moves have reached Redis."""
        await asyncio.gather(*self.sessions._moves)


@pytest.fixture
def nodes(open_store: Callable[..., Store], valkey_server, namespace) -> list[Node]:
    stores = [open_store() for _ in range(3)]
    for store in stores:
        store.__class__ = Teller
    return [Node(store) for store in stores]  # type: ignore[arg-type]


@pytest.fixture
def pool() -> PoolSpec:
    pools = {"chat": {"models": ["a.m", "b.m"], "strategy": "session-stickiness", "session_timeout": "8s"}}
    return mesh("a.m", "b.m", pools=pools).pools["chat"]


async def test_the_first_node_decides_for_all(nodes: list[Node], pool: PoolSpec):
    """Whatever the others would have wished."""
    first, second, third = nodes
    told = [
        await first.model_of(pool, "s", "a.m"),
        await second.model_of(pool, "s", "b.m"),
        await third.model_of(pool, "s", "b.m"),
    ]

    assert told == ["a.m"] * 3
    assert await second.model_of(pool, "another", "b.m") == "b.m"


async def test_only_the_first_sight_costs_a_round_trip(nodes: list[Node], pool: PoolSpec):
    """From then on a node remembers."""
    for _ in range(20):
        await nodes[0].model_of(pool, "s", "a.m")

    assert nodes[0].store.asked == 1


async def test_news_of_the_models_domain_is_a_reason_to_ask_again(nodes: list[Node], pool: PoolSpec):
    """A session moves only when its model went on standby, and every node hears of that."""
    first, second, _ = nodes
    await first.model_of(pool, "s", "a.m")
    await second.model_of(pool, "s", "a.m")
    first.sessions.move(pool, "s", seen="a.m", model="b.m")
    assert await first.model_of(pool, "s", "a.m") == "b.m"
    await first.moved()
    second.epochs["a.m"] += 1

    assert await second.model_of(pool, "s", "a.m") == "b.m"


async def test_two_moves_end_at_one_model(nodes: list[Node], pool: PoolSpec):
    """The faster one wins, and the slower one learns of it."""
    first, second, _ = nodes
    for node in nodes:
        await node.model_of(pool, "s", "a.m")
    first.sessions.move(pool, "s", seen="a.m", model="b.m")
    await first.moved()
    second.sessions.move(pool, "s", seen="a.m", model="c.m")
    await second.moved()

    assert await second.model_of(pool, "s", "a.m") == "b.m"


async def test_a_silent_session_is_forgotten(nodes: list[Node], pool: PoolSpec, namespace: str):
    """Redis lets it live a quarter longer than the pool says, for nodes renew it in steps of a quarter."""
    store = nodes[0].store
    await nodes[0].model_of(pool, "secret name", "a.m")
    (key,) = [key async for key in store.client.scan_iter(match=f"{namespace}*")]

    assert 8_000 < await store.client.pttl(key) <= 10_000
    assert b"secret" not in key


async def test_a_move_that_is_sent_again_changes_nothing(nodes: list[Node]):
    """A timeout means maybe applied."""
    store = nodes[0].store
    moved = [await hold_session(store, "chat", "s", seen="", model="a.m", life_ms=5000) for _ in range(2)]
    moved += [await hold_session(store, "chat", "s", seen="a.m", model="b.m", life_ms=5000) for _ in range(2)]

    assert moved == ["a.m", "a.m", "b.m", "b.m"]
