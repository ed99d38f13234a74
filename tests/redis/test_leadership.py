"""The lead among schedulers on a real server: one at a time, tokens that grow, doubt in time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from scheduler.contact import Contact
from scheduler.leadership import Leadership
from shared_state.leadership import hold_lead, read_lead, release_lead
from shared_state.store import Store
from tests.support.processes import wait_until
from tests.support.valkey import ValkeyServer

LEASE_S = 0.6


@pytest.fixture
async def store(valkey_server: ValkeyServer, namespace: str) -> AsyncIterator[Store]:
    store = Store(valkey_server.url, namespace=namespace)
    yield store
    await store.aclose()


@pytest.fixture
async def contend(store: Store) -> AsyncIterator[Callable[..., Leadership]]:
    """Start contenders: ``contend("a")``; they end with the test."""
    tasks: list[asyncio.Task[None]] = []

    def start(owner: str, *, on: Store = store, lease_s: float = LEASE_S) -> Leadership:
        leadership = Leadership(on, owner, lease_s=lease_s, contact=Contact(on.masked_url))
        tasks.append(asyncio.create_task(leadership.run(), name=owner))
        return leadership

    yield start
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_one_of_many_leads(contend: Callable[..., Leadership]) -> None:
    """All contend at once; exactly one wins, and keeps the lead by renewing it."""
    contenders = [contend(f"s{number}") for number in range(5)]
    await wait_until(lambda: any(c.is_leading for c in contenders))
    (winner,) = [c for c in contenders if c.is_leading]
    token = winner.token

    await asyncio.sleep(2 * LEASE_S)

    assert [c for c in contenders if c.is_leading] == [winner]
    assert winner.token == token
    assert winner.gained.is_set()
    assert not winner.lost.is_set()


async def test_a_released_lead_is_taken_over_with_a_larger_token(contend: Callable[..., Leadership]) -> None:
    """The next one need not wait for the lease to run out."""
    first = contend("first", lease_s=30.0)
    await asyncio.wait_for(first.gained.wait(), 10)
    token = first.token
    second = contend("second")
    await asyncio.sleep(0.05)
    assert not second.is_leading

    first.resign()
    await asyncio.wait_for(first.lost.wait(), 10)

    assert not first.is_leading
    await asyncio.wait_for(second.gained.wait(), 10)
    assert second.token > token


async def test_the_lead_is_doubted_after_half_a_lease_without_renewal(
    contend: Callable[..., Leadership], store: Store
) -> None:
    """The store still holds our lease when we stop; when it answers again, the lead is ours again."""
    with ServerOfItsOwn() as server:
        own = Store(server.url)
        leadership = contend("frozen-out", on=own, lease_s=2.0)
        await asyncio.wait_for(leadership.gained.wait(), 10)
        loop = asyncio.get_running_loop()
        frozen_at = loop.time()

        server.freeze()
        await asyncio.wait_for(leadership.lost.wait(), 10)
        doubted_after_s = loop.time() - frozen_at
        server.thaw()

        assert doubted_after_s < 2.0  # before anybody else can take over
        assert leadership.token == 0
        await asyncio.wait_for(leadership.gained.wait(), 10)
        await own.aclose()


async def test_a_short_hiccup_does_not_cost_the_lead(contend: Callable[..., Leadership]) -> None:
    """One renewal fails; the next try is early enough."""
    with ServerOfItsOwn() as server:
        own = Store(server.url)
        leadership = contend("steady", on=own, lease_s=3.0)
        await asyncio.wait_for(leadership.gained.wait(), 10)

        server.freeze()
        await asyncio.sleep(0.4)
        server.thaw()
        await asyncio.sleep(1.5)

        assert leadership.is_leading
        await own.aclose()


async def test_a_store_that_forgot_everything_gives_a_larger_token(
    contend: Callable[..., Leadership],
) -> None:
    """An empty restart must not hand out a token that was used before."""
    with ServerOfItsOwn() as server:
        own = Store(server.url)
        leadership = contend("a", on=own)
        await asyncio.wait_for(leadership.gained.wait(), 10)
        token = leadership.token

        server.restart(keep_data=False)

        await wait_until(lambda: leadership.token > token)
        await own.aclose()


async def test_a_refused_token_is_replaced_by_a_larger_one(
    contend: Callable[..., Leadership], store: Store
) -> None:
    """The lease is ours but a script knows a newer token: holding on to it would fence us off for ever."""
    leadership = contend("a")
    await asyncio.wait_for(leadership.gained.wait(), 10)
    token = leadership.token

    leadership.drop(token)

    assert not leadership.is_leading
    await wait_until(lambda: leadership.token > token)


async def test_a_refusal_of_an_old_token_does_not_cost_the_new_lead(
    contend: Callable[..., Leadership],
) -> None:
    """A job of the last term that ends late says nothing about this one."""
    leadership = contend("a")
    await asyncio.wait_for(leadership.gained.wait(), 10)

    leadership.drop(leadership.token - 1)

    assert leadership.is_leading


async def test_only_the_owner_can_release(store: Store) -> None:
    """A scheduler that ends does not take the lead away from another."""
    held = await hold_lead(store, "a", lease_s=5)

    await release_lead(store, "b")

    assert (await read_lead(store))["owner"] == "a"
    assert (await hold_lead(store, "b", lease_s=5)).token == held.token


class ServerOfItsOwn:
    """A server that a test may freeze and kill."""

    def __enter__(self) -> ValkeyServer:
        self._server = ValkeyServer()
        return self._server.start()

    def __exit__(self, *_: object) -> None:
        self._server.close()
