"""Early words about limits: gathered, delivered once, dropped when nobody can take them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from structlog.testing import capture_logs

from node.early import EarlyWord
from tests.unit.node.house import Watch, mesh
from tests.unit.node.scripted import pause
from tests.unit.node.virtual_time import in_virtual_time


class Scene:
    """A ledger that notes what it is told, and answers when and how the test says."""

    def __init__(self) -> None:
        self.domain = mesh("a.m").domains["a"]
        self.told: list[dict[str, Any]] = []
        self.errors: list[Exception] = []
        self.wait: Callable[[], Awaitable[object]] = pause(1)
        self.watch = Watch()
        self.replies: list[object] = []
        self.early = EarlyWord(self, self.watch, on_reply=self.replies.append)  # type: ignore[arg-type]

    async def learn(self, heads: Mapping[str, Any]) -> None:
        self.told.append(dict(heads))
        await self.wait()
        if self.errors:
            raise self.errors.pop(0)


@in_virtual_time
async def test_words_gather_while_a_call_is_under_way() -> None:
    """The first goes at once; those that follow travel together, the strictest of each window."""
    scene = Scene()
    assert scene.early.tell("a.m", [("rpm", 9, 1)])
    await asyncio.sleep(0.5)
    scene.early.tell("a.m", [("rpm", 7, 2), ("tpm", 50, 3)])
    scene.early.tell("a.n", [("rpm", 4, 4)])
    scene.early.tell("a.m", [("rpm", 8, 5)])
    await asyncio.sleep(3)

    assert scene.told == [
        {"a.m": (("rpm", 9, 1),)},
        {"a.m": (("rpm", 7, 2), ("tpm", 50, 3)), "a.n": (("rpm", 4, 4),)},
    ]
    assert scene.replies == [scene, scene]


@in_virtual_time
async def test_nothing_is_taken_while_the_store_is_away() -> None:
    """The settlement has to tell it then."""
    scene = Scene()
    scene.watch.connected = False

    assert not scene.early.tell("a.m", [("rpm", 9, 1)])
    await asyncio.sleep(2)
    assert scene.told == []


@pytest.mark.parametrize("error", [RedisConnectionError("gone"), ValueError("a fault of ours")])
@in_virtual_time
async def test_a_word_that_fails_is_dropped_and_the_next_one_goes(error: Exception) -> None:
    """A newer answer brings a newer word; nothing piles up."""
    scene = Scene()
    scene.errors = [error]
    scene.early.tell("a.m", [("rpm", 9, 1)])
    await asyncio.sleep(0.5)
    scene.early.tell("a.m", [("rpm", 8, 1)])
    with capture_logs() as logs:
        await asyncio.sleep(2)
    scene.watch.connected = True
    scene.early.tell("a.m", [("rpm", 7, 1)])
    await asyncio.sleep(2)

    assert scene.told == [{"a.m": (("rpm", 9, 1),)}, {"a.m": (("rpm", 7, 1),)}]
    is_away = isinstance(error, RedisConnectionError)
    assert scene.watch.failures == ([error] if is_away else [])
    assert [entry["log_level"] for entry in logs] == ([] if is_away else ["error"])
