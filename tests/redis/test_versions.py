"""Versions of the configuration on a real server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from shared_state.bus import Bus
from shared_state.errors import VersionConflictError, VersionNotFoundError
from shared_state.events import Event
from shared_state.store import Store
from shared_state.versions import (
    HISTORY,
    ChronicleError,
    Pulse,
    Told,
    Versions,
    decode_chronicle,
    encode_chronicle,
)


@pytest.fixture
def store(open_store: Callable[..., Store]) -> Store:
    return open_store()


@pytest.fixture
def versions(store: Store) -> Versions:
    return Versions(store, node="n1")


async def pushed(versions: Versions, document: dict[str, object], *, base: int, comment: str = "") -> int:
    """A version that everybody has agreed to."""
    number = await versions.propose(document, Told("ann", comment, "d"), base=base)
    assert await versions.decide(number, is_good=True)
    return number


async def test_a_version_comes_into_force_when_it_was_agreed_to(versions: Versions):
    """Before that it is only proposed; its document is as it was written, empty lists included."""
    document = {"pools": {"chat": {"models": []}}, "providers": {"p": {"api_key": "${secrets:K}"}}}
    number = await versions.propose(document, Told("ann", "first", "d1"), base=0)
    before = await versions.pulse()
    history = await versions.history()
    is_in_force = await versions.decide(number, is_good=True)
    version = await versions.read(number)

    assert before == Pulse(0, 1)
    assert history == []
    assert is_in_force
    assert await versions.pulse() == Pulse(1, 0)
    assert (version.document, version.told) == (document, Told("ann", "first", "d1"))
    assert version.time_ms > 10**12
    assert [told.number for told in await versions.history()] == [1]


async def test_a_withdrawn_version_leaves_nothing_but_its_number(versions: Versions):
    """The number is not given out again: nodes remember what they thought of it."""
    await pushed(versions, {"a": 1}, base=0)
    refused = await versions.propose({"a": 2}, Told(), base=1)
    await versions.decide(refused, is_good=False)
    again = await pushed(versions, {"a": 3}, base=1)

    assert (refused, again) == (2, 3)
    assert await versions.pulse() == Pulse(3, 0)
    assert [version.number for version in await versions.history()] == [3, 1]
    with pytest.raises(VersionNotFoundError):
        await versions.read(refused)


async def test_of_two_changes_to_one_version_the_second_is_refused(versions: Versions):
    """Who pushes says what the change was made on."""
    await pushed(versions, {"a": 1}, base=0)
    await pushed(versions, {"a": 2}, base=1)

    with pytest.raises(VersionConflictError, match="version 2 is in force"):
        await versions.propose({"a": 3}, Told(), base=1)


async def test_of_two_proposals_the_later_one_counts(versions: Versions):
    """Whoever decides on the first is told that it is not in force."""
    first = await versions.propose({"a": 1}, Told(), base=0)
    second = await versions.propose({"a": 2}, Told(), base=0)

    assert not await versions.decide(first, is_good=True)
    assert await versions.decide(second, is_good=True)
    assert await versions.decide(second, is_good=True), "saying it again changes nothing"
    assert await versions.decide(second, is_good=False), "what is in force stays so"
    assert await versions.pulse() == Pulse(second, 0)
    assert [version.number for version in await versions.history()] == [second]


async def test_concurrent_changes_end_with_one(versions: Versions):
    """Ten push at once on the same version; one is in force."""

    async def push(number: int) -> bool:
        try:
            return await versions.decide(await versions.propose({"a": number}, Told(), base=0), is_good=True)
        except VersionConflictError:
            return False

    won = await asyncio.gather(*map(push, range(10)))

    assert sum(won) == 1
    assert len(await versions.history()) == 1


async def test_what_ran_before_any_version_is_the_first(versions: Versions):
    """So there is a way back. It is kept once."""
    seed = ({"a": 0}, Told("", "what ran before", "d0"))
    number = await versions.propose({"a": 1}, Told(), base=0, before=seed)
    await versions.decide(number, is_good=False)
    again = await versions.propose({"a": 2}, Told(), base=0, before=seed)
    await versions.decide(again, is_good=True)

    assert (number, again) == (2, 3)
    assert [version.number for version in await versions.history()] == [3, 1]
    assert (await versions.read(1)).document == {"a": 0}


async def test_the_history_is_bounded(versions: Versions, store: Store):
    """Old documents go, withdrawn numbers in between or not."""
    for number in range(1, HISTORY + 8):
        version = await versions.propose({"a": number}, Told(), base=(await versions.pulse()).current)
        await versions.decide(version, is_good=number % 3 > 0)
    numbers = [version.number for version in await versions.history()]

    newest = HISTORY + 6  # 57 was withdrawn
    assert numbers == [n for n in range(newest, newest - HISTORY, -1) if n % 3 > 0]
    assert await store.command("HLEN", store.keys.versions + ":documents") == len(numbers)


async def test_a_store_that_forgot_is_told_what_runs(versions: Versions, store: Store):
    """By whoever runs it; numbers go on from there. A store that knows better is not changed."""
    await pushed(versions, {"a": 1}, base=0)
    await pushed(versions, {"a": 2}, base=1, comment="kept")
    runs = await versions.read(2)
    await store.client.flushdb()
    await versions.put_back(runs)
    put_back = await versions.read(2)
    following = await pushed(versions, {"a": 3}, base=2)
    await versions.put_back(runs)

    assert put_back == runs
    assert following == 3
    assert await versions.pulse() == Pulse(3, 0)


async def test_all_that_is_remembered_survives_in_a_chronicle(versions: Versions, store: Store):
    """Documents, what is told of them, when they were made, and which numbers were given out; what is only proposed is not among them."""
    await pushed(versions, {"a": 1}, base=0)
    await pushed(versions, {"a": 2, "b": []}, base=1, comment="kept")
    await versions.decide(await versions.propose({"a": 3}, Told(), base=2), is_good=False)
    await versions.propose({"a": 4}, Told(), base=2)
    before = [await versions.read(number) for number in (1, 2)]
    chronicle = await versions.chronicle()
    assert chronicle is not None
    await store.client.flushdb()
    restored = await versions.restore(decode_chronicle(encode_chronicle(chronicle)))

    assert restored == 2
    assert await versions.pulse() == Pulse(2, 0)
    assert [await versions.read(number) for number in (1, 2)] == before
    assert await pushed(versions, {"a": 5}, base=2) == 5


async def test_what_was_pushed_since_stays_in_force(versions: Versions, store: Store):
    """Only the history is filled in; a second time nothing is."""
    await pushed(versions, {"a": 1}, base=0)
    await pushed(versions, {"a": 2}, base=1)
    chronicle = await versions.chronicle()
    assert chronicle is not None
    await store.client.hdel(store.keys.versions + ":documents", "1")
    await pushed(versions, {"a": 3}, base=2)

    assert [await versions.restore(chronicle) for _ in range(2)] == [1, 0]
    assert await versions.pulse() == Pulse(3, 0)
    assert [version.number for version in await versions.history()] == [3, 2, 1]
    assert (await versions.read(1)).document == {"a": 1}


async def test_a_push_to_a_store_that_had_forgotten_gives_way(versions: Versions):
    """Its number was given out before; whoever pushes is told that it is not in force."""
    await pushed(versions, {"a": 1}, base=0)
    await pushed(versions, {"a": 2}, base=1)
    chronicle = await versions.chronicle()
    assert chronicle is not None
    await versions._store.client.flushdb()
    number = await versions.propose({"b": 1}, Told(), base=0)
    await versions.restore(chronicle)

    assert not await versions.decide(number, is_good=True)
    assert await versions.pulse() == Pulse(2, 0)
    assert (await versions.read(1)).document == {"a": 1}


@pytest.mark.parametrize("blob", [b"", b"modelmesh-copy-1\nx", b"modelmesh-versions-1\nx"])
def test_a_blob_without_versions_is_refused(blob: bytes):
    """A copy of something else, or a torn one."""
    with pytest.raises(ChronicleError):
        decode_chronicle(blob)


async def test_everybody_hears_of_it(versions: Versions, store: Store):
    """Events wake the nodes, so that a change does not wait for their next look."""
    heard: list[Event] = []
    listening, done = asyncio.Event(), asyncio.Event()

    def note(event: Event) -> None:
        heard.append(event)
        if len(heard) == 4:
            done.set()

    task = asyncio.create_task(Bus(store, on_event=note, on_gap=listening.set).run())
    await listening.wait()
    await pushed(versions, {"a": 1}, base=0)
    refused = await versions.propose({"a": 2}, Told(), base=1)
    await versions.decide(refused, is_good=False)
    await asyncio.wait_for(done.wait(), 20)
    task.cancel()

    assert [(event.type, event.id) for event in heard] == [
        ("config_proposed", "1"),
        ("config_changed", "1"),
        ("config_proposed", "2"),
        ("config_withdrawn", "2"),
    ]
    assert {event.kind for event in heard} == {"config"}
