"""The same store on a primary under sentinels and on a cluster: everything works, and goes on after a server's death."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, closing, suppress

import pytest

from shared_state.addresses import mask_url, parse_address
from shared_state.books import by_cause, read_audit, report_audit
from shared_state.bus import Bus
from shared_state.client_keys import ClientKey, ClientKeys, new_key_text
from shared_state.config import MeshConfig
from shared_state.cursors import move_current, read_currents, take_turns
from shared_state.directory import DomainDirectory
from shared_state.domains import (
    next_lease_ends,
    next_recoveries,
    order,
    read_lists_of_news,
    read_nodes_on_record,
    read_pulses,
)
from shared_state.errors import ConfigurationError
from shared_state.events import Event
from shared_state.gates import ANY_MODEL
from shared_state.ledger import Code
from shared_state.leftovers import End, Item, forget, note_known, read_in_flight, read_known
from shared_state.panics import PanicReport, note_panic, read_panics
from shared_state.recent import read_recent
from shared_state.registry import NodeInfo, Registry
from shared_state.statistics import forget_minute, minutes_of, read_minute
from shared_state.store import STORE_ERRORS, Script, Store
from shared_state.topology import build_topology
from shared_state.usage import read_domain_use
from tests.redis.ground import DOMAIN, SMALL, Caller, admitted, make_domain, make_pool
from tests.support.processes import wait_until
from tests.support.valkey import ValkeyServer
from tests.support.valkey_fleet import ClusterFleet, SentinelFleet, await_replica

pytestmark = pytest.mark.topologies

TIMEOUT_S = 0.25
FAILOVER_S = 8.0
PASSWORD = "s3cr/t@#"
DOMAINS = [f"domain-{number}" for number in range(12)]


@pytest.fixture(params=["sentinel", "cluster"])
async def fleet(request: pytest.FixtureRequest) -> AsyncIterator[SentinelFleet | ClusterFleet]:
    """Servers of the test's own, to freeze and to kill."""
    fleet = SentinelFleet() if request.param == "sentinel" else ClusterFleet()
    with closing(fleet):
        yield await fleet.start()


@pytest.fixture
async def store(fleet: SentinelFleet | ClusterFleet, namespace: str) -> AsyncIterator[Store]:
    """A store that has not been used yet."""
    async with aclosing(Store(fleet.url, namespace=namespace, timeout_s=TIMEOUT_S)) as store:
        yield store


class Listener:
    """A bus that runs, and what it has heard."""

    def __init__(self, store: Store) -> None:
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self.bus = Bus(store, on_event=self.events.put_nowait, on_gap=lambda: None)

    async def hears(self, event: str) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(1):
                while (await self.events.get()).type != event:
                    pass
                return True
        return False


@asynccontextmanager
async def listening(store: Store) -> AsyncIterator[Listener]:
    """A listener that is connected."""
    listener = Listener(store)
    task = asyncio.create_task(listener.bus.run())
    try:
        await wait_until(lambda: listener.bus.connected)
        yield listener
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def victim_of(fleet: SentinelFleet | ClusterFleet, store: Store) -> ValkeyServer:
    """The server that the domain lives on."""
    if isinstance(fleet, SentinelFleet):
        return await fleet.primary()
    return await fleet.owner(store.keys.domain(DOMAIN))


async def succeeds(call: Callable[[], Awaitable[object]]) -> bool:
    """Whether the store answers; it must not take longer than its deadline to say no."""
    began_s = time.monotonic()
    try:
        await call()
    except STORE_ERRORS:
        assert time.monotonic() - began_s < TIMEOUT_S + 0.25
        return False
    return True


def describe(node: str) -> NodeInfo:
    return NodeInfo(node, "127.0.0.1", 1, 1, 0.0, "alive", "1", "1", "exact", 0)


async def epochs(store: Store) -> dict[str, int]:
    return {domain: pulse.epoch for domain, pulse in (await read_pulses(store, DOMAINS)).items()}


async def test_everything_works_from_the_first_call_on(store: Store) -> None:
    """Many first calls at once, domains on all nodes, events, registry, cursors, statistics."""
    await asyncio.gather(*(store.ping() for _ in range(40)))
    assert await epochs(store) == dict.fromkeys(DOMAINS, 0)

    caller = Caller(store, make_domain(small={"rpm": 3}))
    (one, _), verdicts = await caller.admit(), await caller.admit_many(5)
    assert admitted(verdicts) == 2
    assert await caller.settle(one, pool=make_pool())
    assert (await caller.books()).is_balanced

    async with listening(store) as listener:
        for domain in DOMAINS:
            await order(store, domain, kind="model", name=SMALL, action="deactivate")
        heard = {(await asyncio.wait_for(listener.events.get(), 3)).domain for _ in DOMAINS}
    assert heard == set(DOMAINS)
    assert await epochs(store) == dict.fromkeys(DOMAINS, 1)

    registry = Registry(store)
    await registry.beat(describe("a"))
    await registry.beat(describe("b"))
    assert [(row.info.id, row.is_dead) for row in await registry.nodes()] == [("a", False), ("b", False)]

    turns = await asyncio.gather(*(take_turns(store, "chat", 10) for _ in range(5)))
    assert sorted(turns) == [0, 10, 20, 30, 40]
    assert await move_current(store, "chat", seen="", model=SMALL) == SMALL
    assert await read_currents(store, ["chat", "other", "third"]) == {"chat": SMALL, "other": "", "third": ""}

    (minute,) = await minutes_of(store, DOMAIN)
    assert abs(int((await store.command("TIME"))[0]) // 60 - minute) <= 1
    assert [row.model for row in await read_minute(store, DOMAIN, minute)] == [SMALL]
    assert (
        sum(row.metrics["attempts"] for row in (await read_recent(store, [DOMAIN, *DOMAINS], minutes=5)).rows)
        == 1
    )
    use = await read_domain_use(store, caller.domain, now_ms=minute * 60_000)
    assert [(window.name, window.used) for window in use.models[SMALL]] == [("rpm", 3)]
    await report_audit(store, by_cause([]))
    assert await read_audit(store) is not None
    await forget_minute(store, DOMAIN, minute)
    assert await minutes_of(store, DOMAIN) == []
    seconds, _ = await store.client.time()
    assert abs(seconds - time.time()) < 60


async def test_the_schedulers_looks_go_to_many_domains_at_once(store: Store) -> None:
    """Due lists, nodes on record, panics and what is in flight, wherever they lie; and a domain that is forgotten is gone."""
    for domain in DOMAINS:
        await order(store, domain, kind="model", name=SMALL, action="deactivate", for_s=60)
        assert await note_panic(store, domain, PanicReport(1, True, 0, 2, 3, 1), node="n1")
    caller = Caller(store, make_domain())
    await caller.admit()
    due = await next_recoveries(store, [DOMAIN, *DOMAINS])
    items = {Item("domain", domain, domain) for domain in DOMAINS}
    await note_known(store, items, now_ms=1)

    assert [at < math.inf for at in due.values()] == [False] + [True] * len(DOMAINS)
    assert await read_nodes_on_record(store, [DOMAIN, "other"]) == {DOMAIN: {"n1"}, "other": set()}
    assert {panic.asked for panic in (await read_panics(store, DOMAINS)).values()} == {3}
    assert await read_in_flight(store, [DOMAIN, *DOMAINS]) == {DOMAIN: 1, **dict.fromkeys(DOMAINS, 0)}
    assert await read_known(store) == dict.fromkeys(items, 1)
    model = Item("model", DOMAINS[0], SMALL)
    assert {await forget(store, item, [model], token=1) for item in items} == {End.GONE}
    assert set((await next_recoveries(store, DOMAINS)).values()) == {math.inf}


async def test_client_keys_are_told_and_their_domains_listed(store: Store) -> None:
    """The keys lie in one slot, their gates in slots of their own."""
    keys, text = ClientKeys(store, None), new_key_text()
    made = [
        ClientKey.model_validate({"id": f"k{n}", "name": "k", "created": 1.0, "limits": {"rpm": 2}})
        for n in range(8)
    ]
    async with listening(store) as listener:
        for key in made:
            await keys.put(key, text if key is made[0] else new_key_text(), node="n1")
        assert await listener.hears("key_created")
        await keys.revoke("k7", node="n1")
        assert await listener.hears("key_revoked")
    directory = DomainDirectory(store, build_topology(MeshConfig()))
    domains = await directory.limited()
    verdicts = [await Caller(store, domain).admit_many(3, ANY_MODEL) for domain in domains.values()]

    assert await keys.find(keys.digest(text.encode())) == made[0]
    assert set(domains) == set(await directory.ids()) == {f"key:k{n}" for n in range(8)}
    assert [admitted(batch) for batch in verdicts] == [2] * 8
    assert await next_lease_ends(store, list(domains)) == dict.fromkeys(domains, math.inf)
    assert await read_lists_of_news(store, list(domains)) == [[]] * 8


async def test_a_killed_primary_is_replaced_and_its_admissions_are_remembered(
    fleet: SentinelFleet | ClusterFleet, store: Store
) -> None:
    """Within seconds, every call in between within its deadline; what was replicated still counts."""
    caller = Caller(store, make_domain(small={"rpm": 5}))
    assert admitted(await caller.admit_many(2)) == 2
    victim = await victim_of(fleet, store)
    await await_replica(victim)
    async with listening(store) as listener:
        victim.kill()
        await wait_until(lambda: succeeds(caller.books), FAILOVER_S, what="a replica takes over")

        assert (await caller.admit())[1].code == Code.HELD
        correction = await caller.assert_known()
        assert (correction.cause, correction.admissions) == ("failover", 0)
        assert admitted(await caller.admit_many(9)) == 3
        assert (await caller.admit())[1].code == Code.AT_LIMIT
        assert (await caller.books()).is_balanced
        await wait_until(lambda: _is_heard(store, listener), FAILOVER_S, what="events arrive again")


async def test_a_frozen_primary_is_given_up_in_time_and_never_asked_twice(
    fleet: SentinelFleet | ClusterFleet, store: Store
) -> None:
    """Also when it thaws as a replica: nothing that it kept is run, and nobody is left on it."""
    script = store._scripts["count_up"] = Script("beat")
    script.text, script.digest = "return redis.call('INCR', KEYS[1])", "0" * 40
    counter = f"{store.keys.domain(DOMAIN)}:counter"
    assert await store.run("count_up", [counter]) == 1
    victim = await victim_of(fleet, store)
    await await_replica(victim)
    victim.freeze()
    calls = 0
    try:
        async with asyncio.timeout(FAILOVER_S):
            while not await succeeds(lambda: store.run("count_up", [counter])):
                calls += 1
    finally:
        victim.thaw()

    assert calls
    assert int(await store.command("GET", counter)) == 2
    await asyncio.gather(*(store.run("count_up", [counter]) for _ in range(20)))
    assert int(await store.command("GET", counter)) == 22


async def test_other_masters_serve_while_one_is_frozen(namespace: str) -> None:
    """A domain suffers only with its own node, however many calls wait for the frozen one."""
    with closing(ClusterFleet()) as fleet:
        await fleet.start()
        async with aclosing(Store(fleet.url, namespace=namespace, timeout_s=TIMEOUT_S)) as store:
            owners = {domain: await fleet.owner(store.keys.domain(domain)) for domain in DOMAINS}
            frozen = owners[DOMAINS[0]]
            well = next(domain for domain in DOMAINS if owners[domain] is not frozen)
            await store.ping()
            frozen.freeze()
            try:
                waiting = [asyncio.create_task(read_pulses(store, DOMAINS[:1])) for _ in range(50)]
                await asyncio.sleep(0)
                assert (await read_pulses(store, [well]))[well].epoch == 0
                lost = await asyncio.gather(*waiting, return_exceptions=True)
            finally:
                frozen.thaw()
            assert all(isinstance(error, STORE_ERRORS) for error in lost)


async def test_a_password_reaches_the_primary_and_no_message(namespace: str) -> None:
    """The data's servers ask for it, the sentinels do not; people see three stars."""
    with closing(SentinelFleet(password="s3cret")) as fleet:
        await fleet.start()
        async with aclosing(Store(fleet.url, namespace=namespace, timeout_s=TIMEOUT_S)) as store:
            await store.ping()
            assert "s3cret" not in store.masked_url
            async with listening(store) as listener:
                assert await _is_heard(store, listener)


@pytest.mark.parametrize("scheme", ["redis", "rediss", "redis+sentinel", "redis+cluster", "wrong"])
def test_no_password_is_shown(scheme: str) -> None:
    """Whatever characters it holds."""
    assert mask_url(f"{scheme}://me:{PASSWORD}@h1:1,h2:2/x") == f"{scheme}://me:***@h1:1,h2:2/x"
    assert mask_url(f"unix:///run/s?password={PASSWORD}&db=1") == "unix:///run/s?password=***&db=1"


@pytest.mark.parametrize(
    "url",
    [
        "http://:s3cret@h",
        "redis+sentinel://:s3cret@h1:26379",
        "redis+sentinel://:s3cret@h1:26379/mesh/x",
        "redis+sentinel://:s3cret@h1:99999/mesh",
        "redis+sentinel://:s3cret@h1,,h2/mesh",
        "redis+cluster://:s3cret@h1:7000/1",
        "redis+cluster://:s3cret@h1:7000?db=1",
        "redis+cluster://:s3cret@[h1/",
        "redis+cluster://:s3/cret@h1",
        "redis+cluster://",
    ],
)
def test_a_wrong_url_is_refused_by_name_and_without_its_password(url: str) -> None:
    """Before anything is connected to."""
    with pytest.raises(ConfigurationError, match=r"redis\.url") as caught:
        Store(url)
    assert "s3cret" not in str(caught.value) and "s3/cret" not in str(caught.value)


def test_urls_of_many_hosts_are_understood() -> None:
    """Default ports, addresses of both kinds, escaped passwords, a database."""
    sentinel = parse_address("redis+sentinel://me:p%40ss@h1,[::1]:26380/mesh/3")
    cluster = parse_address("redis+cluster://10.0.0.1:7000,h2/")

    assert (sentinel.hosts, sentinel.service, sentinel.db) == ((("h1", 26379), ("::1", 26380)), "mesh", 3)
    assert (sentinel.username, sentinel.password) == ("me", "p@ss")
    assert (cluster.hosts, cluster.username, cluster.password) == (
        (("10.0.0.1", 7000), ("h2", 6379)),
        None,
        None,
    )


async def _is_heard(store: Store, listener: Listener) -> bool:
    """Whether an event that is sent now arrives."""
    try:
        for action in ("activate", "deactivate"):
            await order(store, DOMAIN, kind="model", name=SMALL, action=action)  # type: ignore[arg-type]
    except STORE_ERRORS:
        return False
    return await listener.hears("model_deactivated")
