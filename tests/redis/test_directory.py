"""The scheduler's jobs reach the domains of gates and of keys that are made while it runs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from scheduler.contact import Contact
from scheduler.jobs.audit import Audit, BooksOffError
from scheduler.jobs.flush import Flush
from scheduler.jobs.leases import LeaseEnder
from scheduler.jobs.reaper import Reaper
from scheduler.sinks.sqlite import SqliteSink
from shared_state.books import read_books
from shared_state.client_keys import ClientKey, ClientKeys, new_key_text
from shared_state.config import MeshConfig
from shared_state.directory import DomainDirectory
from shared_state.domains import next_lease_ends
from shared_state.gates import ANY_MODEL
from shared_state.ledger import Amounts, LeaseWish
from shared_state.store import Store
from shared_state.topology import Topology, build_topology
from tests.redis.ground import Caller
from tests.redis.scheduler_ground import Node, make_config
from tests.support.processes import wait_until

ONE = Amounts(1, 100, 60, 40, 1000)


@pytest.fixture
def store(open_store: Callable[..., Store]) -> Store:
    return open_store()


@pytest.fixture
def topology() -> Topology:
    config: dict[str, Any] = make_config()
    config["pools"]["chat"]["limits"] = {"rpm": 100}
    return build_topology(MeshConfig.model_validate(config))


async def make_key(store: Store, key: str, **limits: int) -> str:
    """The domain of a new key."""
    made = ClientKey.model_validate({"id": key, "name": key, "created": 1.0, "limits": limits})
    await ClientKeys(store, None).put(made, new_key_text(), node="n1")
    return f"key:{key}"


async def caller_at(store: Store, directory: DomainDirectory, domain: str, *, node: str = "n1") -> Caller:
    return Caller(store, (await directory.limited())[domain], node=node)


async def test_keys_join_the_list_when_they_are_made(store: Store, topology: Topology) -> None:
    """Accounts, then gates, then keys; those without limits hold no leases."""
    directory = DomainDirectory(store, topology)
    assert list(await directory.ids()) == list(await directory.limited()) == ["alpha", "pool:chat"]
    await make_key(store, "free")
    await make_key(store, "bound", rpm=5)

    assert set(await directory.ids()) == {"alpha", "pool:chat", "key:free", "key:bound"}
    assert set(await directory.limited()) == {"alpha", "pool:chat", "key:bound"}


@pytest.mark.parametrize("gate", ["pool:chat", "key:bound"])
async def test_leases_of_gates_end(store: Store, topology: Topology, gate: str) -> None:
    """What a node may have used of them is charged in full."""
    directory = DomainDirectory(store, topology)
    ender = LeaseEnder(store, directory)
    await ender.run(1)
    await make_key(store, "bound", rpm=100)
    node = await caller_at(store, directory, gate)
    wish = LeaseWish(ANY_MODEL, Amounts(), Amounts(), 4, ONE)
    await node.ledger.renew_leases([wish], sequence=1, life_ms=30, share=1)
    assert (await node.used())["", "rpm"][0] == 0

    async def is_charged() -> bool:
        await ender.run(1)
        return (await node.used())["", "rpm"][0] == 4

    await wait_until(is_charged, what="the lease to end")
    assert (await next_lease_ends(store, [gate])) == {gate: math.inf}


async def test_a_dead_nodes_places_at_gates_are_abandoned(store: Store, topology: Topology) -> None:
    """Its calls count in full, and no place stays taken."""
    directory = DomainDirectory(store, topology)
    await make_key(store, "bound", concurrency=2)
    for gate in ("pool:chat", "key:bound"):
        dead = await caller_at(store, directory, gate, node="dead")
        await dead.admit(ANY_MODEL)
    await Node(store, topology, "dead").beat(seconds_ago=60)
    await Reaper(store, directory, contact=_steady()).run(1)

    for gate in ("pool:chat", "key:bound"):
        (row,) = (await read_books(store, gate)).rows
        assert (row.abandoned, row.in_flight) == (1, 0)


def _steady() -> Contact:
    """A contact that has been good for long."""
    contact = Contact("")
    contact.observe = lambda server_s: None  # type: ignore[method-assign]
    contact._last, contact._since_s = (1000.0, 1000.0), 0.0
    return contact


async def test_books_and_statistics_of_keys_are_looked_after(
    store: Store, topology: Topology, tmp_path: Any
) -> None:
    """The audit notices a fault at a key's gate; its minutes go to the sink under its own domain."""
    directory = DomainDirectory(store, topology)
    gate = await make_key(store, "bound", rpm=9)
    node = await caller_at(store, directory, gate)
    reservation, _ = await node.admit(ANY_MODEL)
    minute = 28_000_000
    await store.client.hset(store.keys.statistics(gate, minute), mapping={"*\t\tattempts": 3})
    await store.client.zadd(store.keys.minutes(gate), {str(minute): minute})
    sink = SqliteSink(tmp_path / "s.db")
    await sink.open()
    await Audit(store, directory).run(1)
    await Flush(store, directory, sink).run(1)

    (total,) = await sink.totals(minute * 60, minute * 60 + 60)
    assert (total.domain, total.model, total.pool, total.metrics["attempts"]) == (gate, "*", "", 3)
    await sink.aclose()
    await store.client.hdel(store.keys.reservations(gate, ANY_MODEL), reservation)
    with pytest.raises(BooksOffError):
        await Audit(store, directory).run(1)
