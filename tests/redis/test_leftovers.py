"""What no configuration has any more goes after its time of grace, unless something is owed; what may be in use stays."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from scheduler.jobs.flush import Flush
from scheduler.jobs.leftovers import Leftovers
from scheduler.sinks import SqliteSink
from shared_state.config.root import MeshConfig
from shared_state.domains import order
from shared_state.errors import FencedOffError
from shared_state.ledger import Outcome
from shared_state.leftovers import Item, items_of, note_known, read_known
from shared_state.registry import NodeInfo, Registry
from shared_state.statistics import minutes_of
from shared_state.store import Store
from shared_state.topology import Topology, build_topology
from tests.redis.ground import Bench, Only, make_pool
from tests.redis.office import open_office

TOKEN = 1000
HOUR_MS = 3_600_000
OLD, KEPT = "old", "kept"


def topology_of(*models: str, **scheduler: Any) -> Topology:
    """Models such as ``old.m``, each on the account of its first part, all in one pool."""
    account = {"connector": "openai-compatible.v1", "base_url": "http://127.0.0.1:9/v1"}
    document = {
        "providers": {name.partition(".")[0]: account for name in models},
        "models": {
            name: {"provider": name.partition(".")[0], "capabilities": ["chat-completion"]} for name in models
        },
        "pools": {"chat": {"models": list(models)}},
        "scheduler": scheduler,
    }
    return build_topology(MeshConfig.model_validate(document))


BEFORE, NOW = topology_of("old.m", "kept.m", "kept.n"), topology_of("kept.m")


class Site:
    """A store in which an older configuration has left something behind."""

    def __init__(self, store: Store, sink: SqliteSink) -> None:
        self.store, self.sink = store, sink

    async def look(self, topology: Topology = NOW, *, token: int = TOKEN) -> None:
        """One run of the job under a configuration."""
        await Leftovers(self.store, topology, Flush(self.store, Only(), self.sink)).run(token)

    def caller(self, domain: str) -> Bench:
        """A node of the older configuration."""
        return Bench(self.store, BEFORE.domains[domain], pool=make_pool())  # type: ignore[arg-type]

    async def age(self, hours: float) -> None:
        """Everything that is known was in a configuration so long ago."""
        now_ms = round((time.time() - hours * 3600) * 1000)
        await note_known(self.store, await read_known(self.store), now_ms=now_ms)

    async def keys(self, domain: str) -> set[str]:
        """What the domain has, without minutes that are stored and expire by themselves."""
        base = self.store.keys.domain(domain)
        names = {key.decode() async for key in self.store.client.scan_iter(match=f"{base}*")}
        return {name.removeprefix(base) for name in names if ":stat:" not in name}

    async def register(self, version: str) -> None:
        """A live node that runs this version."""
        info = NodeInfo("n1", "127.0.0.1", 1, 1, 0.0, "alive", "", version, "exact", 0)
        await Registry(self.store).beat(info)


@pytest.fixture
async def site(open_store: Callable[..., Store], tmp_path: Path) -> AsyncIterator[Site]:
    """Traffic on all three models an hour ago, then a look under the older configuration."""
    sink = SqliteSink(tmp_path / "statistics.db")
    await sink.open()
    site = Site(open_store(), sink)
    for domain, model in ((OLD, "old.m"), (KEPT, "kept.m"), (KEPT, "kept.n")):
        await site.caller(domain).attempt(model=model)
    old = site.caller(OLD)
    await old.attempt(Outcome.CREDENTIALS, model="old.m")
    for domain in (OLD, KEPT):  # the minute is closed
        minutes = site.store.keys.minutes(domain)
        for minute in await minutes_of(site.store, domain):
            past = minute - 60
            await site.store.client.rename(
                site.store.keys.statistics(domain, minute), site.store.keys.statistics(domain, past)
            )
            await site.store.client.zrem(minutes, str(minute))
            await site.store.client.zadd(minutes, {str(past): past})
    await site.look(BEFORE)
    await site.store.client.set(site.store.keys.turns("gone"), 7)
    await note_known(site.store, [Item("domain", "pool:gone", "pool:gone")], now_ms=1)
    yield site
    await sink.aclose()


async def test_a_domain_goes_after_its_grace_and_its_statistics_are_stored_before(site: Site) -> None:
    """Not a moment sooner; what is configured stays as it is."""
    before = await site.keys(KEPT)
    await site.age(71)
    await site.look()
    assert await site.keys(OLD) > {"", ":books", ":provider:old"}

    await site.age(73)
    await site.look()
    await site.look()
    stored = {row.model: row.metrics["attempts"] for row in await site.sink.totals(0, 2 * time.time())}

    assert await site.keys(OLD) == set()
    assert stored == {"old.m": 2}
    assert await site.keys(KEPT) <= before
    assert {item.domain for item in await read_known(site.store)} == {KEPT, "pool:chat"}


async def test_a_model_goes_from_a_domain_that_stays(site: Site) -> None:
    """With its rows in the books and its place among what is due; its neighbour's stay."""
    await order(site.store, KEPT, kind="model", name="kept.n", action="deactivate", for_s=9000)
    await site.age(73)
    await site.look()

    assert ":model:kept.n" not in await site.keys(KEPT)
    assert Item("model", KEPT, "kept.n") not in await read_known(site.store)
    books = await site.store.client.hgetall(site.store.keys.books(KEPT))
    assert {name.split(b"\t")[0] for name in books} == {b"kept.m"}


async def test_a_pool_leaves_no_cursor_behind(site: Site) -> None:
    """Whether it had limits or not."""
    await site.look()

    assert await site.keys("pool:gone") == set()
    assert Item("domain", "pool:gone", "pool:gone") not in await read_known(site.store)


async def test_what_is_in_flight_stays_until_it_is_settled(site: Site) -> None:
    """Of a domain and of a model alike."""
    old, kept = site.caller(OLD), site.caller(KEPT)
    await order(site.store, OLD, kind="provider", name=OLD, action="activate")
    calls = [(old, (await old.admit("old.m"))[0]), (kept, (await kept.admit("kept.n"))[0])]
    await site.age(73)
    await site.look()
    assert ":flight" in await site.keys(OLD)
    assert ":res:kept.n" in await site.keys(KEPT)

    for caller, reservation in calls:
        await caller.end(reservation)
    await site.store.client.delete(site.store.keys.minutes(OLD))  # else it waits for the minute to close
    await site.age(73)
    await site.look()
    assert await site.keys(OLD) == set()
    assert ":model:kept.n" not in await site.keys(KEPT)


async def test_statistics_that_are_not_stored_hold_a_domain(site: Site) -> None:
    """The running minute is not closed yet."""
    old = site.caller(OLD)
    await order(site.store, OLD, kind="provider", name=OLD, action="activate")
    await old.attempt(model="old.m")
    await site.age(73)
    await site.look()

    assert ":books" in await site.keys(OLD)


async def test_books_that_are_off_stay(site: Site) -> None:
    """Somebody has to look at them."""
    for domain, model in ((OLD, "old.m"), (KEPT, "kept.n")):
        await site.store.client.hincrby(site.store.keys.books(domain), f"{model}\tchat\tadmitted", 1)
    await site.age(73)
    await site.look()

    assert ":books" in await site.keys(OLD)
    assert await site.store.client.hexists(site.store.keys.books(KEPT), "kept.n\tchat\tadmitted")


async def test_a_node_with_another_configuration_keeps_everything(site: Site) -> None:
    """The grace begins anew when it has gone."""
    await site.register(BEFORE.version)
    await site.age(73)
    await site.look()
    await site.register(NOW.version)
    await site.look()
    assert ":books" in await site.keys(OLD)

    await site.age(73)
    await site.look()
    assert await site.keys(OLD) == set()


async def test_nothing_goes_where_that_is_the_rule(site: Site) -> None:
    """``forget_after: 0``."""
    await site.age(10_000)
    await site.look(topology_of("kept.m", forget_after=0))

    assert ":books" in await site.keys(OLD)


async def test_a_scheduler_that_lost_the_lead_deletes_nothing(site: Site) -> None:
    """Its token is older than one that was seen."""
    for domain in (OLD, KEPT):
        await site.store.client.hset(site.store.keys.domain(domain), "fence", TOKEN + 1)
    await site.age(73)
    with pytest.raises(FencedOffError):
        await site.look()

    assert ":books" in await site.keys(OLD)


async def test_the_audit_lists_what_is_going_to_go(site: Site) -> None:
    """Before anything is deleted: what, when, and whether calls are in flight."""
    kept = site.caller(KEPT)
    await kept.admit("kept.n")
    async with open_office(site.store, NOW) as office:
        view = await office.view("books")
    left = {(row["kind"], row["domain"], row["id"]): row for row in view["leftovers"]}
    model = left["model", KEPT, "kept.n"]

    assert set(left) == set(items_of(BEFORE) - items_of(NOW)) | {("domain", "pool:gone", "pool:gone")}
    assert model["in_flight"] == 1
    assert model["goes"] - model["seen"] == pytest.approx(72 * 3600)
