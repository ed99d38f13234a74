"""Events: they arrive, gaps are told, and nothing on the channel ends the listener."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing, suppress

import pytest

from shared_state.bus import Bus
from shared_state.domains import order
from shared_state.events import Event
from shared_state.store import Store
from tests.redis.ground import DOMAIN, SMALL
from tests.support.processes import wait_until
from tests.support.valkey import ValkeyServer


class Listener:
    """A bus that runs, and what it has heard."""

    def __init__(self, store: Store) -> None:
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self.gaps: asyncio.Queue[None] = asyncio.Queue()
        self.bus = Bus(store, on_event=self.events.put_nowait, on_gap=lambda: self.gaps.put_nowait(None))
        self.task = asyncio.create_task(self.bus.run())

    async def next_event(self) -> Event:
        return await asyncio.wait_for(self.events.get(), 20)

    async def next_gap(self) -> None:
        await asyncio.wait_for(self.gaps.get(), 20)


@pytest.fixture
async def listen() -> AsyncIterator[Callable[[Store], Listener]]:
    """Listeners that end with the test."""
    listeners: list[Listener] = []

    def start(store: Store) -> Listener:
        listeners.append(Listener(store))
        return listeners[-1]

    yield start
    for listener in listeners:
        listener.task.cancel()
        with suppress(asyncio.CancelledError):
            await listener.task


@pytest.fixture
def server() -> Iterator[ValkeyServer]:
    """A server of the test's own, to kill."""
    with closing(ValkeyServer()) as own:
        yield own.start()


async def deactivate(store: Store) -> None:
    await order(store, DOMAIN, kind="model", name=SMALL, action="deactivate", node="n7")


async def test_a_change_is_heard_by_every_listener(
    open_store: Callable[..., Store], listen: Callable[[Store], Listener]
) -> None:
    """With everything that it says."""
    store = open_store()
    listeners = [listen(store), listen(open_store())]
    for listener in listeners:
        await listener.next_gap()
    await deactivate(store)

    for listener in listeners:
        event = await listener.next_event()
        assert (event.type, event.id, event.epoch) == ("model_deactivated", SMALL, 1)
        assert (event.domain, event.reason, event.until_ms, event.node) == (DOMAIN, "manual", 0, "n7")


async def test_a_subscription_begins_with_a_gap(
    open_store: Callable[..., Store], listen: Callable[[Store], Listener]
) -> None:
    """Whatever happened before it was missed."""
    listener = listen(open_store())
    assert not listener.bus.connected

    await listener.next_gap()
    assert listener.bus.connected
    assert listener.gaps.empty()


async def test_a_lost_connection_is_made_again_and_told(
    open_store: Callable[..., Store], listen: Callable[[Store], Listener]
) -> None:
    """Events of the meantime are lost for good, so the owner has to read everything again."""
    store = open_store()
    listener = listen(store)
    await listener.next_gap()
    await store.command("CLIENT", "KILL", "TYPE", "pubsub")

    await listener.next_gap()
    await deactivate(store)
    assert (await listener.next_event()).type == "model_deactivated"


async def test_a_server_that_comes_back_is_listened_to_again(
    server: ValkeyServer, open_store: Callable[..., Store], listen: Callable[[Store], Listener]
) -> None:
    """Also if it was away for longer than one try."""
    store = Store(server.url, timeout_s=1.0)
    listener = listen(store)
    await listener.next_gap()
    server.kill()
    await wait_until(lambda: not listener.bus.connected)
    server.start()

    await listener.next_gap()
    await store.client.connection_pool.disconnect()
    await deactivate(store)
    assert (await listener.next_event()).id == SMALL
    await store.aclose()


async def test_garbage_on_the_channel_is_passed_over(
    open_store: Callable[..., Store], listen: Callable[[Store], Listener]
) -> None:
    """The next event is heard over the same subscription."""
    store = open_store()
    listener = listen(store)
    await listener.next_gap()
    for garbage in (b"", b"\xff\x00", b"[1]", b'{"type": "x"}', b"1e999", b"{" * 500):
        await store.command("PUBLISH", store.keys.channel, garbage)
    await deactivate(store)

    assert (await listener.next_event()).type == "model_deactivated"
    assert listener.gaps.empty()


async def test_other_clusters_are_not_heard(
    open_store: Callable[..., Store], listen: Callable[[Store], Listener]
) -> None:
    """Each namespace has a channel of its own."""
    store = open_store()
    listener = listen(store)
    await listener.next_gap()
    await deactivate(open_store(namespace="somebody-else"))
    await deactivate(store)

    assert (await listener.next_event()).epoch == 1
    assert listener.events.empty()
