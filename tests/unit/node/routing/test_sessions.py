"""What a node remembers of sessions, with and without Redis."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from node.routing.sessions import Sessions
from shared_state.keys import Keys
from shared_state.topology import PoolSpec
from tests.unit.node.house import Watch, mesh
from tests.unit.node.virtual_time import in_virtual_time, settle_down


class Map:
    """The one script of Redis that sessions use."""

    def __init__(self) -> None:
        self.keys = Keys("t")
        self.held: dict[str, str] = {}
        self.calls: list[tuple[str, str, int]] = []
        self.error: Exception | None = None

    async def run(self, script: str, keys: list[str], args: list[Any]) -> bytes:
        assert script == "hold_session"
        if self.error is not None:
            raise self.error
        seen, model, life_ms = args
        self.calls.append((seen, model, life_ms))
        if self.held.get(keys[0], "") == seen:
            self.held[keys[0]] = model
        return self.held[keys[0]].encode()


class Scene:
    def __init__(self) -> None:
        self.store, self.watch = Map(), Watch()
        self.sessions = Sessions(self.store, self.watch, epoch_of=lambda _: 0)  # type: ignore[arg-type]
        pool = {"strategy": "session-stickiness", "session_timeout": "100s"}
        self.pool: PoolSpec = mesh("a.m", "b.m", pool=pool).pools["chat"]

    async def ask(self, wish: str, session: str = "s") -> str:
        return await self.sessions.model_of(self.pool, session, wish)


@pytest.fixture
def scene() -> Scene:
    return Scene()


@in_virtual_time
async def test_a_session_in_use_is_kept_alive(scene: Scene) -> None:
    """Every quarter of its life, with as much to spare."""
    for _ in range(10):
        assert await scene.ask("a.m") == "a.m"
        await asyncio.sleep(10)

    assert len(scene.store.calls) == 4
    assert {life_ms for _, _, life_ms in scene.store.calls} == {125_000}


@in_virtual_time
async def test_after_its_time_a_session_begins_anew(scene: Scene) -> None:
    """Silence of a whole session_timeout here and everywhere."""
    await scene.ask("a.m")
    await asyncio.sleep(101)
    scene.store.held.clear()

    assert await scene.ask("b.m") == "b.m"


@in_virtual_time
async def test_what_redis_has_lost_is_told_to_it_again(scene: Scene) -> None:
    """A restart without data scatters no session that some node remembers."""
    await scene.ask("a.m")
    scene.store.held.clear()
    await asyncio.sleep(30)

    assert await scene.ask("b.m") == "a.m"
    assert list(scene.store.held.values()) == ["a.m"]


@in_virtual_time
async def test_without_redis_memory_and_wish_decide(scene: Scene) -> None:
    """Nobody waits; a session that is new meanwhile is told to Redis when it is back."""
    await scene.ask("a.m", "old")
    scene.watch.connected = False
    await asyncio.sleep(50)
    away = [await scene.ask("b.m", "old"), await scene.ask("b.m", "new"), await scene.ask("a.m", "new")]
    calls = len(scene.store.calls)
    scene.watch.connected = True
    await scene.ask("a.m", "new")

    assert away == ["a.m", "b.m", "b.m"]
    assert scene.store.calls[calls:] == [("", "b.m", 125_000)]


@in_virtual_time
async def test_a_failure_is_reported_and_costs_nobody_the_answer(scene: Scene) -> None:
    """The wish stands."""
    scene.store.error = ConnectionError("gone")

    assert await scene.ask("b.m") == "b.m"
    assert len(scene.watch.failures) == 1


@in_virtual_time
async def test_a_move_holds_here_at_once(scene: Scene) -> None:
    """And in Redis a moment later."""
    await scene.ask("a.m")
    scene.sessions.move(scene.pool, "s", seen="a.m", model="b.m")

    assert await scene.ask("a.m") == "b.m"
    await settle_down()
    assert list(scene.store.held.values()) == ["b.m"]


@in_virtual_time
async def test_memory_is_bounded(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sessions that were silent longest are forgotten; Redis knows them still."""
    monkeypatch.setattr("node.routing.sessions._REMEMBERED", 3)
    for number in range(5):
        await scene.ask("a.m", f"s{number}")
    calls = len(scene.store.calls)
    for number in range(2, 5):
        await scene.ask("b.m", f"s{number}")
    assert len(scene.store.calls) == calls

    assert await scene.ask("b.m", "s0") == "a.m"
