"""What is written down on the side: statistics, books, the registry of nodes, cursors, the lead; and how long it stays."""

from __future__ import annotations

import asyncio
import fnmatch
from collections.abc import Callable

import pytest

from shared_state.books import BookRow
from shared_state.cursors import move_current, read_currents, take_turns
from shared_state.leadership import hold_lead, read_lead, release_lead
from shared_state.ledger import ESTIMATED, NOT_SENT, Outcome
from shared_state.registry import NODE_LEASE_S, NodeInfo, Registry
from shared_state.statistics import (
    FURTHER_METRICS,
    KEPT_S,
    LATENCY_BOUNDS_MS,
    METRICS,
    forget_minute,
    minutes_of,
    read_minute,
)
from shared_state.store import Store
from tests.redis.ground import BIG, DOMAIN, EPOCH_MS, SMALL, Bench, SteeredStore

OpenBench = Callable[..., Bench]
MINUTE = EPOCH_MS // 60_000


async def metrics(bench: Bench, minute: int, model: str = SMALL) -> dict[str, int]:
    rows = {row.model: row.metrics for row in await read_minute(bench.store, DOMAIN, minute)}
    return rows.get(model, {})


# -- statistics


async def test_a_minute_sums_what_was_settled_in_it(bench: OpenBench) -> None:
    """By outcome; latencies and first tokens of successes only; what was used, not what was reserved."""
    b = bench()
    for latency_ms in (10, 11, 70_000):
        rid, _ = await b.admit(tokens=(50, 50))
        await b.end(rid, tokens_in=40, tokens_out=3, cost_nano=700, latency_ms=latency_ms, first_token_ms=5)
    for outcome in (Outcome.FAILURE, Outcome.RATE_LIMITED):
        rid, _ = await b.admit(tokens=(50, 50))
        await b.end(rid, outcome, latency_ms=99, flags=ESTIMATED)
    await b.attempt(Outcome.NEUTRAL, BIG, tokens_in=0, tokens_out=0, cost_nano=0)
    await b.attempt(Outcome.NEUTRAL, BIG, flags=NOT_SENT)  # given back before anything was tried
    await b.store.pass_time(60_000)

    assert await metrics(b, MINUTE) == {
        "attempts": 5,
        "ok": 3,
        "failed": 2,
        "limited": 1,
        "estimated": 2,
        "tokens_in": 3 * 40 + 2 * 50,
        "tokens_out": 3 * 3 + 2 * 50,
        "cost": 3 * 700 + 2 * 1000,
        "latency_ms": 70_021,
        "first_token_ms": 15,
        "latency_le_1": 1,
        "latency_le_2": 1,
        f"latency_le_{len(LATENCY_BOUNDS_MS) + 1}": 1,
    }
    assert await metrics(b, MINUTE, BIG) == {"attempts": 1, "neutral": 1}


async def test_the_script_counts_no_metric_that_python_does_not_know(bench: OpenBench) -> None:
    """Both sides list them; they must agree."""
    b = bench()
    for outcome in Outcome:
        rid, _ = await b.admit(tokens=(1, 1))
        await b.end(rid, outcome, latency_ms=10, first_token_ms=1, flags=ESTIMATED)
        await b.order("activate")
        await b.order("activate", kind="provider", name="alpha")
    await b.admit(tokens=(1, 1), lease_ms=1)
    await b.store.pass_time(1)
    await b.admit()

    assert set(await metrics(b, MINUTE)) == {*METRICS, *FURTHER_METRICS, "latency_le_1"}


async def test_minutes_are_listed_and_forgotten_one_by_one(bench: OpenBench) -> None:
    """A minute without traffic does not exist; one that was stored stays readable for an hour."""
    b = bench()
    for pause_ms in (0, 60_000, 180_000):
        await b.store.pass_time(pause_ms)
        await b.attempt()
    assert await minutes_of(b.store, DOMAIN) == [MINUTE, MINUTE + 1, MINUTE + 4]

    await forget_minute(b.store, DOMAIN, MINUTE + 1)
    await forget_minute(b.store, DOMAIN, MINUTE + 1)
    assert await minutes_of(b.store, DOMAIN) == [MINUTE, MINUTE + 4]
    assert (await metrics(b, MINUTE + 1))["attempts"] == 1
    assert 0 < await b.store.client.ttl(b.store.keys.statistics(DOMAIN, MINUTE + 1)) <= KEPT_S
    assert await b.store.client.ttl(b.store.keys.statistics(DOMAIN, MINUTE)) == -1


async def test_a_minute_never_goes_back(bench: OpenBench) -> None:
    """A clock that steps back writes on in the latest minute: a closed one never changes again."""
    b = bench()
    await b.attempt()
    await b.store.pass_time(60_000)
    await b.attempt()
    await forget_minute(b.store, DOMAIN, MINUTE)
    await b.store.pass_time(-45_000)
    await b.attempt()

    assert await minutes_of(b.store, DOMAIN) == [MINUTE + 1]
    assert (await metrics(b, MINUTE + 1))["attempts"] == 2
    assert (await metrics(b, MINUTE))["attempts"] == 1


async def test_what_is_abandoned_is_charged_in_the_minute_of_its_end(bench: OpenBench) -> None:
    """In full, and counted apart from attempts."""
    b = bench()
    await b.admit(tokens=(30, 20), lease_ms=1000)
    await b.store.pass_time(61_000)
    await b.admit()

    assert await metrics(b, MINUTE + 1) == {"abandoned": 1, "tokens_in": 30, "tokens_out": 20, "cost": 1000}


# -- books


async def test_books_are_kept_by_model_and_pool(bench: OpenBench) -> None:
    """Each attempt is in one state; an unknown settlement is in none."""
    b = bench()
    rid, _ = await b.admit()
    await b.end(rid)
    await b.end(rid)
    await b.end("n1.never-admitted")
    await b.admit(lease_ms=1)
    await b.admit(BIG)
    await b.store.pass_time(1)
    await b.admit(BIG)
    books = await b.books()

    assert books.rows == (
        BookRow(DOMAIN, BIG, "chat", admitted=2, settled=0, abandoned=0, in_flight=2),
        BookRow(DOMAIN, SMALL, "chat", admitted=2, settled=1, abandoned=1, in_flight=0),
    )
    assert (books.is_balanced, books.leases, books.now_ms) == (True, 2, EPOCH_MS + 1)


async def test_books_show_what_is_missing(bench: OpenBench) -> None:
    """A record that vanished is a difference, a leaked expiry is one too."""
    b = bench()
    rid, _ = await b.admit()
    await b.admit()
    await b.store.client.hdel(b.store.keys.reservations(DOMAIN, SMALL), rid)
    books = await b.books()

    assert not books.is_balanced
    assert [row.difference for row in books.rows] == [1]


async def test_books_hold_large_amounts_to_the_last_digit(bench: OpenBench) -> None:
    """Doubles print as 1e+17 if one lets them."""
    b = bench()
    cost_nano, calls = 900_000_000_000_007, 3
    for _ in range(calls):
        rid, _ = await b.admit()
        await b.end(rid, cost_nano=cost_nano)

    assert (await metrics(b, MINUTE))["cost"] == calls * cost_nano


# -- the registry


def node(name: str, **fields: object) -> NodeInfo:
    values = {"host": "127.0.0.1", "port": 1, "pid": 2, "started": 3.0, "state": "alive", "version": "0"}
    return NodeInfo(name, **{**values, "config_version": "c", "mode": "exact", "in_flight": 0, **fields})


async def test_a_node_is_registered_renewed_and_struck(steered: SteeredStore) -> None:
    """Its latest words count; whoever leaves is gone at once."""
    registry = Registry(steered)
    assert await registry.beat(node("a")) == (EPOCH_MS, 1)
    assert (await registry.beat(node("b")))[1] == 2
    await registry.beat(node("a", state="draining", in_flight=7))

    assert [(n.info.id, n.info.state, n.info.in_flight) for n in await registry.nodes()] == [
        ("a", "draining", 7),
        ("b", "alive", 0),
    ]
    await registry.leave("a")
    await registry.leave("never-there")
    assert [n.info.id for n in await registry.nodes()] == ["b"]


async def test_a_node_that_was_not_heard_of_is_dead(open_store: Callable[..., Store]) -> None:
    """Past its lease, by the server's clock; it stays on the list until somebody buries it."""
    store = open_store()
    registry = Registry(store)
    await registry.beat(node("a"))
    await registry.beat(node("b"))
    await store.client.zincrby(store.keys.nodes + ":seen", -(NODE_LEASE_S + 1) * 1000, "a")
    nodes = {n.info.id: n for n in await registry.nodes()}

    assert (nodes["a"].is_dead, nodes["b"].is_dead) == (True, False)
    assert nodes["a"].seen_s == pytest.approx(NODE_LEASE_S + 1, abs=1)
    await registry.beat(node("a"))
    assert not any(n.is_dead for n in await registry.nodes())


# -- cursors


async def test_turns_are_given_out_once(open_store: Callable[..., Store]) -> None:
    """Blocks of many takers lie side by side, without gap and without overlap."""
    stores = [open_store() for _ in range(3)]
    sizes = [1, 7, 32] * 10
    firsts = await asyncio.gather(
        *(take_turns(stores[i % 3], "chat", size) for i, size in enumerate(sizes)),
    )
    turns = sorted(t for first, size in zip(firsts, sizes, strict=True) for t in range(first, first + size))

    assert turns == list(range(sum(sizes)))
    assert await take_turns(stores[0], "other", 1) == 0


async def test_a_pointer_is_moved_by_the_first_who_saw_it(open_store: Callable[..., Store]) -> None:
    """All others learn where it points now, so the whole fleet turns the same way."""
    stores = [open_store() for _ in range(4)]
    assert await read_currents(stores[0], ["chat", "other"]) == {"chat": "", "other": ""}

    moved = await asyncio.gather(
        *(move_current(store, "chat", seen="", model=f"m{i}") for i, store in enumerate(stores * 3))
    )
    current = (await read_currents(stores[0], ["chat"]))["chat"]
    assert set(moved) == {current}
    assert await move_current(stores[1], "chat", seen="somewhere else", model="m9") == current
    assert await move_current(stores[1], "chat", seen=current, model="m9") == "m9"


# -- the lead


async def test_the_lead_passes_on_when_its_lease_is_over(steered: SteeredStore) -> None:
    """Not before; with a larger token each time, also to the same owner."""
    first = await hold_lead(steered, "a", lease_s=10)
    await steered.pass_time(9_999)
    assert (await hold_lead(steered, "b", lease_s=10)).owner == "a"
    await steered.pass_time(1)
    second = await hold_lead(steered, "b", lease_s=10)
    await steered.pass_time(10_000)
    third = await hold_lead(steered, "b", lease_s=10)

    assert (first.owner, second.owner, third.owner) == ("a", "b", "b")
    assert first.token < second.token < third.token
    assert third.until_ms == EPOCH_MS + 30_000


async def test_renewal_keeps_the_token(steered: SteeredStore) -> None:
    """The work goes on under the same fence."""
    first = await hold_lead(steered, "a", lease_s=10)
    await steered.pass_time(9_000)
    again = await hold_lead(steered, "a", lease_s=10)

    assert (again.token, again.until_ms) == (first.token, EPOCH_MS + 19_000)


async def test_one_of_many_takes_a_free_lead(open_store: Callable[..., Store]) -> None:
    """Whoever asks at the same time sees the same leader."""
    stores = [open_store() for _ in range(3)]
    leads = await asyncio.gather(*(hold_lead(s, f"s{i}", lease_s=9) for i, s in enumerate(stores * 4)))

    assert len({(lead.owner, lead.token) for lead in leads}) == 1


async def test_a_token_is_larger_after_the_store_forgot_it(steered: SteeredStore) -> None:
    """Tokens are no smaller than the time, so an empty restart cannot give an old one out again."""
    tokens = [(await hold_lead(steered, "a", lease_s=10)).token]
    for _ in range(3):
        await release_lead(steered, "a")
        tokens.append((await hold_lead(steered, "a", lease_s=10)).token)
    await steered.client.delete(steered.keys.leader)
    await steered.pass_time(5)
    tokens.append((await hold_lead(steered, "b", lease_s=10)).token)

    assert tokens == sorted(set(tokens))


async def test_only_its_owner_gives_the_lead_back(steered: SteeredStore) -> None:
    """A stranger's goodbye changes nothing; the owner's frees it at once."""
    held = await hold_lead(steered, "a", lease_s=10)
    await release_lead(steered, "b")
    assert (await read_lead(steered))["owner"] == "a"

    await release_lead(steered, "a")
    assert (await hold_lead(steered, "b", lease_s=10)).token > held.token


# -- how long keys stay

#: Keys without an expiry, and what bounds each of them.
LASTING = {
    "{alpha}": "a dozen fields",
    "{alpha}:model:*": "one per model that ever failed or was ordered about",
    "{alpha}:provider:*": "one per account that ever failed or was ordered about",
    "{alpha}:flight": "emptied by settlement, admission and the reaper",
    "{alpha}:res:*": "emptied by settlement, admission and the reaper",
    "{alpha}:books": "three counters per model and pool",
    "{alpha}:stat:*": "expires an hour after the flush",
    "{alpha}:minutes": "trimmed by the flush",
    "{alpha}:due": "one entry per model and account",
    "{alpha}:news": "a hundred events",
    "{alpha}:seq": "a few fields per node; the scheduler forgets those that are gone",
    "{cluster}:nodes": "struck by the leaving node and the reaper",
    "{cluster}:nodes:seen": "struck by the leaving node and the reaper",
    "{cluster}:leader": "one record",
    "{pool:chat}:turns": "one counter per pool",
    "{pool:chat}:current": "one pointer per pool",
}


async def test_every_key_expires_or_is_bounded_by_its_owner(bench: OpenBench) -> None:
    """All commands once: whatever they leave without expiry is on the list, and all of the list is there."""
    b = bench(
        account={"rpm": 9, "tpd": 900, "min_delta": "1ms"},
        small={"rph": 9, "rpM": 900, "concurrency": 5},
    )
    for outcome in (Outcome.SUCCESS, Outcome.CREDENTIALS):
        await b.attempt(outcome)
        await b.store.pass_time(10)
    await b.order("activate", kind="provider", name="alpha")
    await b.order("deactivate", for_s=9)
    await b.admit(BIG)
    await Registry(b.store).beat(node("a"))
    await hold_lead(b.store, "a", lease_s=10)
    await take_turns(b.store, "chat", 5)
    await move_current(b.store, "chat", seen="", model=SMALL)
    prefix = b.store.keys.domain(DOMAIN).removesuffix("{alpha}")
    lasting = set()
    async for raw in b.store.client.scan_iter(f"{prefix}*"):
        name = raw.decode().removeprefix(prefix)
        ttl_ms = await b.store.client.pttl(raw)
        if ":win:" in name:
            assert ttl_ms > 0, name
        else:
            assert ttl_ms == -1, name
            lasting.add(next((p for p in LASTING if fnmatch.fnmatchcase(name, p)), name))

    assert lasting == set(LASTING)


async def test_windows_outlive_their_longest_period(bench: OpenBench) -> None:
    """A window that expired early would give its limit twice; a shorter one beside it must not shorten the wait."""
    b = bench(small={"rpm": 9, "rpM": 900}, account={"rpm": 9})
    await b.attempt()
    model_ttl_ms = await b.store.client.pttl(b.store.keys.windows(DOMAIN, f"m:{SMALL}"))
    account_ttl_ms = await b.store.client.pttl(b.store.keys.windows(DOMAIN, "a"))
    brief = Bench(b.store, bench(small={"rpm": 9}).domain)
    await brief.attempt()

    assert model_ttl_ms > 7 * 86_400_000  # the month's end, a week away, and the month after it
    assert 60_000 < account_ttl_ms < 300_000
    assert await b.store.client.pttl(b.store.keys.windows(DOMAIN, f"m:{SMALL}")) > 7 * 86_400_000
