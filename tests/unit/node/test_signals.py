"""A node's view of how models do, between two readings: what it does itself counts at once, and once for every node."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from node.routing.strategies import Hints, Request, build_strategy
from node.signals import UNKNOWN, Signals
from shared_state.clock import ServerClock
from shared_state.keys import Keys
from tests.unit.node.house import NOW_MS, Watch, mesh
from tests.unit.node.virtual_time import in_virtual_time, settle_down

TOPOLOGY = mesh("a.m", "b.m", pool={"strategy": "least-busy"})


class Readings:
    """What the script would answer, by domain: latency, first token, peak, measured, in flight, room, requests left, of."""

    def __init__(self, **rows: list[Any]) -> None:
        self.keys = Keys("t")
        self.rows = rows
        self.reads: Counter[str] = Counter()
        self.error: Exception | None = None

    async def run(self, script: str, keys: list[str], args: list[bytes]) -> list[Any]:
        assert script == "read_signals"
        domain = keys[0][-2]
        self.reads[domain] += 1
        if self.error is not None:
            raise self.error
        return [NOW_MS, self.rows[domain]]


def row(*, in_flight: int = 0, room: int = 1_000_000, left: int = -1, most: int = -1) -> list[Any]:
    return [b"120.5", b"", b"300.0", str(NOW_MS - 4000).encode(), in_flight, room, left, most]


def signals_of(readings: Readings, *, nodes: int = 1, watch: Watch | None = None) -> Signals:
    domains = list(TOPOLOGY.domains.values())
    return Signals(readings, domains, watch or Watch(), clock=ServerClock(), nodes=lambda: nodes)  # type: ignore[arg-type]


@contextmanager
def under_way(signals: Signals, model: str) -> Iterator[None]:
    """Around an attempt of this node."""
    signals.begin(model)
    try:
        yield
    finally:
        signals.end(model)


@in_virtual_time
async def test_before_the_first_reading_nothing_is_known() -> None:
    """But what this node has under way."""
    signals = signals_of(Readings(), nodes=3)
    assert signals.of("a.m") == UNKNOWN

    with under_way(signals, "a.m"):
        assert signals.of("a.m").in_flight == 3


@in_virtual_time
async def test_a_reading_is_shown_as_it_is() -> None:
    """Unknown speeds stay unknown."""
    signals = signals_of(Readings(a=row(in_flight=2, room=250_000, left=5, most=20), b=row()))
    await signals.read()
    seen = signals.of("a.m")

    assert (seen.latency_ms, seen.first_token_ms, seen.peak_ms) == (120.5, None, 300.0)
    assert (seen.in_flight, seen.headroom, seen.requests_left) == (2, 0.25, 5)
    assert seen.age_s == pytest.approx(4.0, abs=0.5)


@in_virtual_time
async def test_own_work_counts_at_once_and_for_every_node() -> None:
    """What has ended since the reading counts as well, but nothing is ever less than nothing."""
    signals = signals_of(Readings(a=row(in_flight=6), b=row()), nodes=3)
    with ExitStack() as stack:
        stack.enter_context(under_way(signals, "a.m"))
        await signals.read()
        with under_way(signals, "a.m"), under_way(signals, "a.m"):
            assert signals.of("a.m").in_flight == 12
        assert signals.of("a.m").in_flight == 6
        stack.close()
        assert signals.of("a.m").in_flight == 3
    signals_of_idle = signals_of(Readings(a=row(), b=row()), nodes=3)
    with under_way(signals_of_idle, "a.m"):
        await signals_of_idle.read()

    assert signals_of_idle.of("a.m").in_flight == 0


@in_virtual_time
async def test_what_others_had_under_way_ends_as_their_answers_come() -> None:
    """Of twelve that others have, a third is left after the time of an answer, none after ten; those of this node are counted, not guessed."""
    signals = signals_of(Readings(a=row(in_flight=14), b=row()), nodes=2)
    with under_way(signals, "a.m"):
        await signals.read()
        at_once = signals.of("a.m").in_flight
        await asyncio.sleep(0.1205)
        soon = signals.of("a.m").in_flight
        await asyncio.sleep(1.205)

        assert at_once == 14
        assert soon == 2 + 4
        assert signals.of("a.m").in_flight == 2


@in_virtual_time
async def test_room_shrinks_with_what_was_sent() -> None:
    """Ended or not: a window of requests does not give back."""
    signals = signals_of(Readings(a=row(room=500_000, left=60, most=100), b=row(room=900_000)), nodes=2)
    await signals.read()
    for model in ("a.m", "b.m"):
        for _ in range(10):
            with under_way(signals, model):
                pass

    assert (signals.of("a.m").headroom, signals.of("a.m").requests_left) == (0.4, 40)
    assert (signals.of("b.m").headroom, signals.of("b.m").requests_left) == (0.9, None)


@in_virtual_time
async def test_an_old_reading_keeps_its_speeds_only() -> None:
    """Without Redis nobody knows what is in flight or left."""
    signals = signals_of(Readings(a=row(in_flight=9, room=100_000), b=row()))
    await signals.read()
    await asyncio.sleep(6)

    assert signals.of("a.m").latency_ms == 120.5
    assert (signals.of("a.m").in_flight, signals.of("a.m").headroom) == (0, None)


@in_virtual_time
async def test_it_reads_once_a_second_while_redis_answers() -> None:
    """One round trip a domain, whatever the load; a failure is reported and not repeated."""
    watch, readings = Watch(), Readings(a=row(), b=row())
    signals = signals_of(readings, watch=watch)
    task = asyncio.get_running_loop().create_task(signals.run())
    await asyncio.sleep(9.5)
    assert readings.reads == {"a": 10, "b": 10}
    readings.error = ConnectionError("gone")
    await asyncio.sleep(5)
    task.cancel()
    await settle_down()

    assert len(watch.failures) == 1
    assert readings.reads == {"a": 11, "b": 10}


@in_virtual_time
async def test_it_reads_as_soon_as_redis_is_there() -> None:
    """A node that starts would choose blindly for a second."""
    watch, readings = Watch(), Readings(a=row(in_flight=4), b=row())
    watch.connected = False
    signals = signals_of(readings, watch=watch)
    task = asyncio.get_running_loop().create_task(signals.run())
    await asyncio.sleep(0.25)
    watch.connected = True
    for callback in watch.returns:
        callback()
    await settle_down()
    task.cancel()

    assert signals.of("a.m").in_flight == 4


async def imbalance(*, believed: int) -> int:
    """Four nodes read that ``a`` has 20 in flight and ``b`` none; then 60 requests come before the next reading. By how much the two
    differ in the end, if each node believes that there are so many."""
    strategy = build_strategy(TOPOLOGY.pools["chat"].config)
    members = TOPOLOGY.pools["chat"].models
    fleet = [signals_of(Readings(a=row(in_flight=20), b=row()), nodes=believed) for _ in range(4)]
    busy = Counter({"a.m": 20})
    with ExitStack() as stack:
        for signals in fleet:
            await signals.read()
        for turn in range(60):
            signals = fleet[turn % 4]
            hints = Hints(members, turn=turn, signals={spec.id: signals.of(spec.id) for spec in members})
            chosen = strategy.rank(members, Request(), hints)[0].id
            stack.enter_context(under_way(signals, chosen))
            busy[chosen] += 1
    return abs(busy["a.m"] - busy["b.m"])


@in_virtual_time
async def test_nodes_do_not_all_run_to_the_same_model() -> None:
    """Each node sends a few and stops, for it takes the others to do the same; nodes that believed themselves alone would not stop."""
    assert await imbalance(believed=4) <= 4
    assert await imbalance(believed=1) == 40


@in_virtual_time
async def test_what_a_provider_says_counts_where_the_books_know_less() -> None:
    """The smaller share wins, until the provider's word is out of date; a silent answer takes nothing back."""
    signals = signals_of(Readings(a=row(room=500_000), b=row()))
    signals.tell("a.m", (0.1, 3.0))
    unread = signals.of("a.m").headroom
    await signals.read()
    signals.tell("a.m", None)
    strict = signals.of("a.m").headroom
    signals.tell("a.m", (0.9, 3.0))
    generous = signals.of("a.m").headroom
    signals.tell("a.m", (0.1, 3.0))
    await asyncio.sleep(3)

    assert (unread, strict, generous, signals.of("a.m").headroom) == (0.1, 0.1, 0.5, 0.5)
    assert signals.wants("a.m")
    assert not signals.wants("x.m")
