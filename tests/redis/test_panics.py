"""Panic over several nodes: one beginning and one end are told, and every request on faith is counted once."""

from __future__ import annotations

from typing import Any

import orjson

from node.panics import PanicWatch
from node.routing.restraint import Faith
from node.watch import StoreWatch
from shared_state.panics import KEPT_MS, OVER_MS, Panic, PanicReport, note_panic, read_panics
from shared_state.state import EntityState
from shared_state.store import Store
from tests.redis.ground import EPOCH_MS, SteeredStore
from tests.unit.node.house import House, mesh
from tests.unit.node.scripted import ScriptedTransport

POOL = "chat"


def report(
    sequence: int, *, is_on: bool = True, well: int = 0, asked: int = 0, answered: int = 0
) -> PanicReport:
    return PanicReport(sequence, is_on, well, 3, asked, answered)


async def news(store: Store) -> list[dict[str, Any]]:
    """What was told, oldest first."""
    raw = await store.client.lrange(store.keys.news(f"pool:{POOL}"), 0, -1)
    return [orjson.loads(event) for event in reversed(raw)]


async def test_begin_and_end_are_told_once_however_many_nodes_see_them(steered: SteeredStore) -> None:
    """With the numbers of all of them."""
    for node in ("n1", "n2", "n3"):
        assert await note_panic(steered, POOL, report(1, asked=4, answered=1), node=node)
        await steered.pass_time(100)
    assert await read_panics(steered, [POOL, "other"]) == {POOL: Panic(EPOCH_MS, 12, 3)}
    over_ms = EPOCH_MS + 300
    for node in ("n1", "n2", "n3"):
        assert await note_panic(steered, POOL, report(2, is_on=False, well=2, asked=1), node=node)
    await steered.pass_time(OVER_MS)
    lasts = [await note_panic(steered, POOL, report(3, is_on=False, well=2), node=n) for n in ("n1", "n2")]
    begun, ended = await news(steered)

    assert lasts == [False, False]
    assert (begun["type"], begun["kind"], begun["id"], begun["reason"]) == (
        "pool_panic",
        "pool",
        POOL,
        "0 of 3 well",
    )
    assert begun["numbers"] == {"well": 0, "members": 3}
    assert (ended["type"], ended["reason"]) == ("pool_panic_over", "2 of 3 well")
    assert ended["numbers"] == {
        "well": 2,
        "members": 3,
        "lasted_ms": over_ms - EPOCH_MS,
        "asked": 15,
        "answered": 3,
    }
    assert await read_panics(steered, [POOL]) == {}


async def test_a_node_that_sees_it_later_keeps_it_up(steered: SteeredStore) -> None:
    """Another finds it over, for a moment: nothing is told."""
    await note_panic(steered, POOL, report(1), node="n1")
    await note_panic(steered, POOL, report(1, is_on=False, well=3), node="n2")
    await note_panic(steered, POOL, report(2), node="n1")
    await steered.pass_time(OVER_MS)

    assert await note_panic(steered, POOL, report(2, is_on=False, well=3), node="n2")
    assert [event["type"] for event in await news(steered)] == ["pool_panic"]


async def test_a_report_that_comes_twice_counts_once(steered: SteeredStore) -> None:
    """Its answer may have been lost."""
    for _ in range(2):
        await note_panic(steered, POOL, report(7, asked=5, answered=2), node="n1")

    assert (await read_panics(steered, [POOL]))[POOL] == Panic(EPOCH_MS, 5, 2)
    assert len(await news(steered)) == 1


async def test_what_is_well_is_no_panic_and_a_silent_one_is_forgotten(steered: SteeredStore) -> None:
    """Requests on faith alone are none: the cap on ejections lets them in too."""
    assert not await note_panic(steered, POOL, report(1, is_on=False, well=1), node="n1")
    assert await news(steered) == []
    await note_panic(steered, POOL, report(2), node="n1")
    key = steered.keys.panic(f"pool:{POOL}")

    assert 0 < await steered.client.pttl(key) <= KEPT_MS


async def test_a_node_reports_what_it_has_asked_until_the_panic_is_over(steered: SteeredStore) -> None:
    """By its own view of the whole pool; nothing is said of pools that were not asked on faith."""
    place = House(mesh("a.m", "b.m"), ScriptedTransport())
    watch, faith = StoreWatch(steered, on_loss="leased"), Faith()
    panics = PanicWatch(steered, place.view, watch, faith, node="n1")  # type: ignore[arg-type]
    ill = EntityState("standby", "outage", "trial", until_ms=place.view.clock.now_ms() + 60_000)
    place.view.models = {"a.m": ill, "b.m": ill}
    await panics.look()
    assert await news(steered) == []

    faith.asked[POOL], faith.answered[POOL] = 3, 1
    await panics.look()
    faith.asked[POOL] = 5
    await panics.look()
    assert (await read_panics(steered, [POOL]))[POOL] == Panic(EPOCH_MS, 5, 1)

    place.view.models = {"a.m": ill}
    await panics.look()
    await steered.pass_time(OVER_MS)
    await panics.look()
    await panics.look()
    assert [event["type"] for event in await news(steered)] == ["pool_panic", "pool_panic_over"]
    assert await read_panics(steered, [POOL]) == {}


async def test_a_watch_follows_the_configuration(steered: SteeredStore) -> None:
    """Its reports go on where they were, though the router of the new one counts from nothing."""
    old, new = (House(mesh("a.m", "b.m"), ScriptedTransport()) for _ in range(2))
    ill = EntityState("standby", "outage", "trial", until_ms=old.view.clock.now_ms() + 60_000)
    for place in (old, new):
        place.view.models = {"a.m": ill, "b.m": ill}
    watch, faith, fresh = StoreWatch(steered, on_loss="leased"), Faith(), Faith()
    panics = PanicWatch(steered, old.view, watch, faith, node="n1")  # type: ignore[arg-type]
    faith.asked[POOL] = 4
    await panics.look()
    panics.follow(new.view, fresh)  # type: ignore[arg-type]
    fresh.asked[POOL] = 3
    await panics.look()

    assert (await read_panics(steered, [POOL]))[POOL] == Panic(EPOCH_MS, 7, 0)
