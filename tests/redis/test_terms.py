"""After a loss in the store: what the nodes know is asserted before anybody is admitted, so no limit is exceeded and the books balance."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, aclosing, closing
from typing import Any

import orjson
import pytest

from shared_state.assertion import Assertion, Standby
from shared_state.domains import order, read_domain
from shared_state.errors import TermChangedError
from shared_state.ledger import Amounts, Code, LeaseWish, Outcome
from shared_state.store import STORE_ERRORS, Store
from tests.redis.ground import (
    DOMAIN,
    EPOCH_MS,
    SMALL,
    Caller,
    SteeredStore,
    admitted,
    make_domain,
    make_pool,
)
from tests.support.processes import free_port, wait_until
from tests.support.valkey import ValkeyServer
from tests.support.valkey_fleet import ask, await_replica

LIMIT = 20
#: With a sync under way the server would put off writing, for seconds, and a kill would lose more than the test means it to.
_KEEPS_ALL = ("--appendfsync", "no")
POOL = make_pool()
SPEC = make_domain(small={"rpm": LIMIT})


@pytest.fixture
def server() -> Iterator[ValkeyServer]:
    """A server of its own whose append-only file has everything that was answered, however slow the disk is."""
    with closing(ValkeyServer(persistence=True, options=_KEEPS_ALL)) as server:
        yield server.start()


@pytest.fixture
async def nodes(server: ValkeyServer, namespace: str) -> AsyncIterator[list[Caller]]:
    """Two nodes on it."""
    async with AsyncExitStack() as stack:
        callers = []
        for name in ("n1", "n2"):
            store = await stack.enter_async_context(
                aclosing(Store(server.url, namespace=namespace, timeout_s=5.0))
            )
            callers.append(Caller(store, SPEC, node=name))
        yield callers


async def reconnect(nodes: list[Caller]) -> None:
    """Their connections are found dead."""
    for node in nodes:
        await wait_until(lambda node=node: _answers(node.store), what="the server answers")


async def _answers(store: Store) -> bool:
    try:
        await store.ping()
    except STORE_ERRORS:
        return False
    return True


async def use(node: Caller, count: int, *, tokens: tuple[int, int] = (0, 0)) -> list[str]:
    """So many admissions, one by one; their reservations."""
    made = [await node.admit(tokens=tokens) for _ in range(count)]
    assert {verdict.code for _, verdict in made} == {Code.ADMITTED}
    return [reservation for reservation, _ in made]


def lose_answers(store: Store, patch: pytest.MonkeyPatch) -> None:
    """Calls are carried out, and their answers never come."""
    run = store.run

    async def run_unheard(*args: Any) -> Any:
        await run(*args)
        raise TimeoutError

    patch.setattr(store, "run", run_unheard)


async def news(node: Caller, kind: str = "state_corrected") -> list[dict[str, object]]:
    raw = await node.store.client.lrange(node.store.keys.news(DOMAIN), 0, -1)
    return [event for event in map(orjson.loads, raw) if event["type"] == kind]


async def test_a_first_start_is_held_up_by_nothing(nodes: list[Caller]) -> None:
    """A domain that nobody has seen before has lost nothing."""
    one, two = nodes
    assert (await one.admit())[1].code is Code.ADMITTED
    assert (await two.admit())[1].code is Code.ADMITTED
    assert one.ledger.term == two.ledger.term > 0
    assert not one.ledger.is_held()


async def test_a_lost_tail_is_charged_before_anybody_is_admitted(
    server: ValkeyServer, nodes: list[Caller]
) -> None:
    """Admissions and settlements that the disk never saw are said again by the nodes that made them."""
    one, two = nodes
    kept = await use(one, 3) + await use(two, 3)
    await one.settle(kept[0], pool=POOL)
    size = server.log_size
    lost = await use(one, 4, tokens=(10, 5)) + await use(two, 2)
    await one.settle(kept[1], pool=POOL)
    await one.settle(lost[0], pool=POOL)
    await two.settle(kept[3], pool=POOL)
    server.lose_tail(size)
    await reconnect(nodes)

    assert [(await node.admit())[1].code for node in nodes] == [Code.HELD, Code.HELD]
    with pytest.raises(TermChangedError):
        await two.settle(lost[4], pool=POOL)
    first = await one.assert_known()
    assert one.ledger.is_held()
    assert (await one.admit())[1].code is Code.HELD
    second = await two.assert_known()
    await one.ledger.read_hold()

    assert (first.cause, first.admissions, first.settlements) == ("restart", 4, 2)
    assert (first.tokens, first.cost_nano) == (60, 4000)
    assert (second.admissions, second.settlements) == (2, 1)
    assert first.is_whole and second.is_whole
    assert not one.ledger.is_held()
    assert (await one.used())[SMALL, "rpm"][0] == 12
    verdicts = [v for node in nodes for v in await node.admit_many(LIMIT)]
    assert admitted(verdicts) == LIMIT - 12
    assert await two.settle(lost[4], pool=POOL)
    books = await one.books()
    assert books.is_balanced
    assert (books.rows[0].admitted, books.rows[0].settled) == (LIMIT, 5)
    events = await news(one)
    assert {(e["node"], e["numbers"]["admissions"]) for e in events} == {("n1", 4), ("n2", 2)}  # type: ignore[index]


async def test_a_clean_restart_changes_nothing(server: ValkeyServer, nodes: list[Caller]) -> None:
    """Nothing was lost: nothing is doubled, and the hold ends with the last assertion."""
    one, two = nodes
    kept = await use(one, 3) + await use(two, 3)
    await one.settle(kept[0], pool=POOL)
    server.restart()
    await reconnect(nodes)
    corrections = [await node.assert_known() for node in nodes]
    for node in nodes:
        await node.ledger.read_hold()

    assert [(c.cause, c.admissions, c.settlements) for c in corrections] == [("restart", 0, 0)] * 2
    assert (await one.used())[SMALL, "rpm"][0] == 6
    assert admitted(await one.admit_many(LIMIT)) == LIMIT - 6
    assert (await one.books()).is_balanced


async def test_a_promoted_replica_that_lagged_is_told_the_rest(namespace: str) -> None:
    """Its link was cut; what it never heard of is said again, and it is known to have been a replica."""
    primary = ValkeyServer(port=free_port(), options=("--repl-diskless-sync-delay", "0"))
    other = ValkeyServer(port=free_port(), options=("--replicaof", f"127.0.0.1 {primary.port}"))
    with closing(primary.start()), closing(other.start()):
        await await_replica(primary)
        async with (
            aclosing(Store(primary.url, namespace=namespace, timeout_s=5.0)) as store,
            aclosing(Store(other.url, namespace=namespace, timeout_s=5.0)) as store_after,
        ):
            nodes = [Caller(store, SPEC, node=name) for name in ("n1", "n2")]
            for node in nodes:
                await use(node, 3)
            await wait_until(lambda: _has(store_after, 6), what="the replica has heard of it")
            await ask(int(other.port or 0), "REPLICAOF", "NO", "ONE")
            for node in nodes:
                await use(node, 4)
            primary.kill()
            for node in nodes:
                node.store = node.ledger._store = store_after
            assert (await nodes[0].admit())[1].code is Code.HELD
            corrections = [await node.assert_known() for node in nodes]

            assert [(c.cause, c.admissions) for c in corrections] == [("failover", 4)] * 2
            await nodes[0].ledger.read_hold()
            assert admitted(await nodes[0].admit_many(LIMIT)) == LIMIT - 14
            assert (await nodes[0].books()).is_balanced


async def _has(store: Store, count: int) -> bool:
    return int(await store.client.zcard(store.keys.flight(DOMAIN))) == count


async def test_an_empty_server_is_filled_from_the_journals(server: ValkeyServer, nodes: list[Caller]) -> None:
    """No copy came: after a second the nodes say all they know; the hold lasts its time, for nobody can tell who else there was."""
    one, two = nodes
    mine = await use(one, 5)
    await use(two, 4)
    await one.settle(mine[0], pool=POOL)
    server.restart(keep_data=False)
    await reconnect(nodes)
    corrections = await asyncio.gather(*(node.assert_known() for node in nodes))
    held = [(await node.admit())[1].code for node in nodes]
    now_ms, _ = await read_domain(one.store, one.domain)

    assert [(c.cause, c.admissions, c.settlements) for c in corrections] == [("empty", 5, 1), ("empty", 4, 0)]
    assert held == [Code.HELD] * 2
    assert 0 < one.ledger.hold_until_ms - now_ms <= 2000
    await wait_until(lambda: not one.ledger.is_held(), 8)
    assert admitted(await one.admit_many(LIMIT)) == LIMIT - 9
    books = await one.books()
    assert books.is_balanced
    assert (books.rows[0].admitted, books.rows[0].settled) == (LIMIT, 1)


async def test_assertions_wait_for_a_copy_and_it_cannot_come_too_late(
    server: ValkeyServer, nodes: list[Caller]
) -> None:
    """Whoever restores deletes the wish; the nodes go on with what was restored. Once one went on, the wish is gone."""
    one, _ = nodes
    await use(one, 3)
    copy = await one.store.client.dump(one.store.keys.sequences(DOMAIN))
    await use(one, 2)
    server.restart(keep_data=False)
    await reconnect(nodes)
    assertion = Assertion(one.ledger)
    assert not await assertion.begin(epoch=one.ledger.epoch)

    domain = one.store.keys.domain(DOMAIN)
    assert int(await one.store.client.hget(domain, "wants_copy")) > 0
    await one.store.client.restore(one.store.keys.sequences(DOMAIN), 0, copy)
    await one.store.client.hdel(domain, "wants_copy")
    correction = await one.assert_known(assertion=assertion)
    assert (correction.admissions, correction.is_whole) == (2, True)


async def test_a_hold_ends_in_time_when_a_node_is_dead(server: ValkeyServer, nodes: list[Caller]) -> None:
    """Nobody can ask the dead what it knew; two seconds are enough for the living."""
    one, two = nodes
    await use(two, 1)
    await use(one, 1)
    server.restart()
    await reconnect(nodes)
    await one.assert_known()
    assert (await one.admit())[1].code is Code.HELD
    await wait_until(lambda: not one.ledger.is_held(), 8)

    assert (await one.admit())[1].code is Code.ADMITTED
    late = await two.admit()
    assert late[1].code is Code.HELD
    await two.assert_known()
    assert (await two.admit())[1].code is Code.ADMITTED


async def test_who_left_in_order_is_not_waited_for(server: ValkeyServer, nodes: list[Caller]) -> None:
    """A node that is new after a restart finds nobody to wait for, and is admitted at once."""
    one, two = nodes
    await use(one, 1)
    await use(two, 1)
    for node in nodes:
        await node.ledger.leave()
    server.restart()
    await reconnect(nodes)
    newcomer = Caller(one.store, SPEC, node="n3")

    assert (await newcomer.admit())[1].code is Code.ADMITTED


async def test_who_comes_back_to_a_domain_that_says_to_be_new_holds_it(
    server: ValkeyServer, nodes: list[Caller]
) -> None:
    """A newcomer was first on an empty server and was not held up; the others know better."""
    one, two = nodes
    await use(one, 5)
    server.restart(keep_data=False)
    await reconnect(nodes)
    await use(two, 1)

    assert (await one.admit())[1].code is Code.HELD
    assert (await two.admit())[1].code is Code.HELD
    correction = await one.assert_known()
    await two.assert_known()
    assert (correction.cause, correction.admissions) == ("empty", 5)
    assert (await one.used())[SMALL, "rpm"][0] == 6


async def test_a_second_failure_in_the_middle_of_an_assertion(
    server: ValkeyServer, nodes: list[Caller]
) -> None:
    """Half of it had been said; then the server loses that too. All of it is said again, once."""
    one, _ = nodes
    await use(one, 2)
    size = server.log_size
    lost = await use(one, 6)
    await one.settle(lost[0], pool=POOL)
    server.lose_tail(size)
    await reconnect(nodes)
    assertion = Assertion(one.ledger)
    assert await assertion.begin(epoch=one.ledger.epoch)
    size = server.log_size
    await assertion.replay()
    server.lose_tail(size)
    await reconnect(nodes)
    with pytest.raises(TermChangedError):
        await assertion.finish(epoch=one.ledger.epoch)
    correction = await one.assert_known(assertion=assertion)

    assert (correction.admissions, correction.settlements) == (6, 1)
    assert (await one.used())[SMALL, "rpm"][0] == 8
    assert (await one.books()).is_balanced
    row = (await one.books()).rows[0]
    assert (row.admitted, row.settled, row.in_flight) == (8, 1, 7)


async def test_an_assertion_may_be_said_twice(server: ValkeyServer, nodes: list[Caller]) -> None:
    """Its last reply was lost: everything is said again and nothing changes."""
    one, _ = nodes
    await use(one, 2)
    size = server.log_size
    await use(one, 6)
    server.lose_tail(size)
    await reconnect(nodes)
    first, again = Assertion(one.ledger), Assertion(one.ledger)
    for assertion in (first, again):
        assert await assertion.begin(epoch=one.ledger.epoch)
    for assertion in (first, again):
        await assertion.replay()
        await assertion.finish(epoch=one.ledger.epoch)

    assert (await one.used())[SMALL, "rpm"][0] == 8
    assert len(await news(one)) == 1
    assert (await one.books()).is_balanced


async def test_what_was_settled_without_an_answer_is_said_again(
    server: ValkeyServer, nodes: list[Caller], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second try changed nothing, for the first had; the server lost both."""
    one, _ = nodes
    (open_,) = await use(one, 1)
    size = server.log_size
    with monkeypatch.context() as patch:
        lose_answers(one.store, patch)
        with pytest.raises(TimeoutError):
            await one.settle(open_, pool=POOL)
    assert not await one.settle(open_, pool=POOL)
    server.lose_tail(size)
    await reconnect(nodes)
    await one.assert_known()

    row = (await one.books()).rows[0]
    assert (row.admitted, row.settled, row.in_flight) == (1, 1, 0)


async def test_all_parts_of_a_long_replay_are_applied(
    server: ValkeyServer, nodes: list[Caller], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the last call before the loss had no answer, so that what it admitted is given up."""
    one, _ = nodes
    one.ledger = Caller(one.store, make_domain(small={"rpm": 1000}), node=one.node).ledger
    await use(one, 1)
    size = server.log_size
    for _ in range(3):
        assert admitted(await one.admit_many(200)) == 200
    with monkeypatch.context() as patch:
        lose_answers(one.store, patch)
        with pytest.raises(TimeoutError):
            await one.admit()
    server.lose_tail(size)
    await reconnect(nodes)
    correction = await one.assert_known()

    assert (correction.admissions, correction.is_whole) == (600, True)
    assert (await one.used())[SMALL, "rpm"][0] == 601
    assert (await one.books()).rows[0].admitted == 601


async def test_a_standby_that_was_forgotten_is_set_again(server: ValkeyServer, nodes: list[Caller]) -> None:
    """By whoever has seen later changes than the server; the epoch goes beyond what anybody has seen."""
    one, two = nodes
    await use(one, 1)
    await use(two, 1)
    size = server.log_size
    (reservation,) = await use(one, 1)
    await one.settle(reservation, Outcome.RATE_LIMITED, pool=POOL, retry_after_ms=60_000)
    _, before = await read_domain(one.store, one.domain)
    server.lose_tail(size)
    await reconnect(nodes)
    assert (await one.admit())[1].code is Code.HELD
    assert (await read_domain(one.store, one.domain))[1].epoch > before.epoch
    known = before.models[SMALL]
    one.ledger.journal._settlements.records.clear()  # as if another node had settled it, and died
    correction = await one.assert_known([Standby("model", SMALL, known.reason, known.mode, known.until_ms)])
    _, after = await read_domain(one.store, one.domain)

    assert correction.states == 1
    assert after.models[SMALL].until_ms == known.until_ms
    assert after.models[SMALL].reason == "rate_limited"
    assert after.epoch > before.epoch


async def test_a_standby_that_was_lifted_since_stays_lifted(
    server: ValkeyServer, nodes: list[Caller]
) -> None:
    """The server has lost nothing, so it knows better than an old view."""
    one, _ = nodes
    await use(one, 1)
    await order(one.store, DOMAIN, kind="model", name=SMALL, action="deactivate")
    _, before = await read_domain(one.store, one.domain)
    await order(one.store, DOMAIN, kind="model", name=SMALL, action="activate")
    server.restart()
    await reconnect(nodes)
    one.ledger.epoch = before.epoch
    correction = await one.assert_known([Standby("model", SMALL, "manual", "manual", 0)])

    assert correction.states == 0
    assert (await read_domain(one.store, one.domain))[1].models[SMALL].status == "active"


async def test_a_held_domain_grants_no_lease(server: ValkeyServer, nodes: list[Caller]) -> None:
    """Windows that are not complete have nothing to give away; what a node keeps is held all the same."""
    one, two = nodes
    await use(one, 1)
    await use(two, 1)
    wish = LeaseWish(SMALL, Amounts(), Amounts(), 5, Amounts(1, 0, 0, 0, 0))
    assert (await one.ledger.renew_leases([wish], sequence=1, life_ms=60_000, share=1))[0].requests == 5
    server.restart()
    await reconnect(nodes)
    with pytest.raises(TermChangedError):
        await one.ledger.renew_leases([wish], sequence=2, life_ms=60_000, share=1)
    await one.assert_known()
    keeps = LeaseWish(SMALL, Amounts(), Amounts(2, 0, 0, 0, 0), 5, Amounts(1, 0, 0, 0, 0))
    (held,) = await one.ledger.renew_leases([keeps], sequence=2, life_ms=60_000, share=1)

    assert held.requests == 2


async def test_what_is_kept_and_spent_of_leases_is_asserted(
    server: ValkeyServer, nodes: list[Caller]
) -> None:
    """On an empty server as well: the spent part is charged, the rest held."""
    one, _ = nodes
    await use(one, 1)
    server.restart(keep_data=False)
    await reconnect(nodes)
    assertion = Assertion(one.ledger)
    await wait_until(lambda: assertion.begin(epoch=0))
    await assertion.replay()
    said = LeaseWish(SMALL, Amounts(3, 0, 0, 0, 0), Amounts(4, 0, 0, 0, 0), 9, Amounts(1, 0, 0, 0, 0))
    for _ in range(2):
        (held,) = await one.ledger.renew_leases(
            [said], sequence=7, life_ms=60_000, share=1, replay_in=assertion.term
        )
    await assertion.finish(epoch=0)
    await wait_until(lambda: not one.ledger.is_held(), 8)

    assert held.requests == 4
    assert (await one.used())[SMALL, "rpm"][0] == 4
    assert admitted(await one.admit_many(LIMIT)) == LIMIT - 3 - 4 - 1


async def test_calls_in_flight_are_remembered_however_old(server: ValkeyServer, nodes: list[Caller]) -> None:
    """They left the journal long ago; but they still count against the concurrency."""
    one, _ = nodes
    old = await use(one, 3)
    await one.settle(old[0], pool=POOL)
    one.ledger.journal._prune(one.clock.now_ms() + 90_000)
    assert not one.ledger.journal._admissions.records
    server.restart(keep_data=False)
    await reconnect(nodes)
    correction = await one.assert_known()

    assert (correction.admissions, correction.is_whole) == (2, False)
    row = (await one.books()).rows[0]
    assert (row.admitted, row.in_flight) == (2, 2)
    assert await one.settle(old[1], pool=POOL)


async def test_a_long_replay_prolongs_the_hold(server: ValkeyServer, namespace: str) -> None:
    """While a node is still saying what it knows nobody is admitted; but not for ever."""
    async with aclosing(SteeredStore(server.url, namespace=namespace)) as store:
        await store.set_time(EPOCH_MS)
        one, two = (Caller(store, SPEC, node=name) for name in ("n1", "n2"))
        await use(one, 1)
        await use(two, 1)
        size = server.log_size
        for _ in range(4):
            await use(one, 1)
        server.lose_tail(size)
        await reconnect([one])
        assertion = Assertion(one.ledger)
        assert await assertion.begin(epoch=one.ledger.epoch)
        (part,) = one.ledger.journal.admissions_above(1)
        ends = [assertion.hold_until_ms]
        for number, delta_ms in enumerate((1500, 500, 7800)):
            now_ms = await store.pass_time(delta_ms)
            if number == 2:
                await store.client.hset(store.keys.domain(DOMAIN), "hold", now_ms + 1)
            await one.ledger.replay("admit", part.batch, sequence=100 + number, term=assertion.term)
            ends.append(int(await store.client.hget(store.keys.domain(DOMAIN), "hold")))

    began = ends[0] - 2000
    assert ends == [began + 2000, began + 2500, began + 3000, assertion.term + 10_000]


@pytest.mark.parametrize("seed", range(4))
async def test_any_order_of_admissions_losses_and_assertions(
    server: ValkeyServer, nodes: list[Caller], seed: int
) -> None:
    """What the nodes know to have been admitted is what the server counts, whatever it forgot on the way, and how often."""
    draw = random.Random(seed)
    spec = make_domain(small={"rpm": 60})
    for node in nodes:
        node.ledger = Caller(node.store, spec, node=node.node).ledger
    open_: dict[str, Caller] = {}
    made = ended = 0
    await use(nodes[0], 1)
    await use(nodes[1], 1)
    made, sizes = 2, [server.log_size]
    for _ in range(30):
        node = draw.choice(nodes)
        step = draw.choice(["admit", "admit", "settle", "settle", "mark", "lose"])
        if step == "admit":
            asks = [node.ask() for _ in range(draw.randint(1, 4))]
            for ask_, verdict in zip(asks, await node.ledger.admit(asks), strict=True):
                if verdict.code is Code.ADMITTED:
                    open_[ask_.reservation] = node
                    made += 1
        elif step == "settle" and open_:
            reservation = draw.choice(sorted(open_))
            assert await open_.pop(reservation).settle(reservation, pool=POOL)
            ended += 1
        elif step == "mark":
            sizes.append(server.log_size)
        elif step == "lose":
            sizes = sizes[: draw.randint(1, len(sizes))]
            await _lose_and_assert(server, nodes, sizes[-1], draw)
        assert made <= 60

    assert (await nodes[0].used())[SMALL, "rpm"][0] == made
    books = await nodes[0].books()
    assert books.is_balanced
    assert (books.rows[0].admitted, books.rows[0].settled) == (made, ended)


async def _lose_and_assert(server: ValkeyServer, nodes: list[Caller], size: int, draw: random.Random) -> None:
    server.lose_tail(size)
    await reconnect(nodes)
    order_ = draw.sample(nodes, 2)
    if draw.random() < 0.4:  # the first one is cut short by another loss
        assertion = Assertion(order_[0].ledger)
        await assertion.begin(epoch=0)
        await assertion.replay()
        server.lose_tail(size)
        await reconnect(nodes)
    for node in order_:
        await node.assert_known()
    for node in nodes:
        await node.ledger.read_hold()
        assert not node.ledger.is_held()
