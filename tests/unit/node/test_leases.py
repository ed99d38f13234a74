"""Allowances: what may be spent without Redis is never more than what Redis holds for this node."""

from __future__ import annotations

import asyncio
import itertools

import pytest

from node.leases import LIFE_S, Allowance, LeaseKeeper, renewal_s
from shared_state.config import MeshConfig
from shared_state.ledger import Amounts, Ask, LeaseWish
from shared_state.topology import build_topology
from tests.unit.node.virtual_time import in_virtual_time, settle_down

ONE = Amounts(1, 30, 10, 20, 5)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


_numbers = itertools.count(1)


def an_ask() -> Ask:
    return Ask(f"n.{next(_numbers)}", "a.m", "chat", 10, 20, 5, 1000)


def times(count: int) -> Amounts:
    return Amounts(*(count * amount for amount in ONE))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def allowance(clock: Clock) -> Allowance:
    """An allowance of three requests, taken now."""
    allowance = Allowance("a.m", now=clock)
    for _ in range(10):
        allowance.note(an_ask())
    allowance.renewed(allowance.wish(), times(3), asked_at=clock.now)
    return allowance


def test_a_quiet_model_wants_nothing(clock: Clock) -> None:
    """Nothing was asked, nothing is held: there is nothing to say."""
    allowance = Allowance("a.m", now=clock)

    assert allowance.is_idle()
    assert not allowance.spend(an_ask())


def test_a_wish_follows_recent_traffic(allowance: Allowance) -> None:
    """A busy model wants more than it holds; one that falls silent gives everything up in the end."""
    for _ in range(20):
        allowance.note(an_ask())
    busy = allowance.wish()
    for _ in range(30):
        quiet = allowance.wish()

    assert busy.requests > 3
    assert busy.one == ONE
    assert quiet == LeaseWish("a.m", Amounts(), Amounts(), 0, ONE)
    assert allowance.is_idle()


def test_an_allowance_is_spent_once(allowance: Allowance) -> None:
    """Three requests, not a fourth; what was spent is reported."""
    asks = [an_ask() for _ in range(4)]
    spent = [allowance.spend(ask) for ask in asks]
    for ask in asks:
        allowance.end(ask.reservation)
        allowance.end(ask.reservation)

    assert spent == [True, True, True, False]
    assert allowance.wish().used == times(3)


def test_what_runs_is_kept_apart_until_it_ends(allowance: Allowance, clock: Clock) -> None:
    """A call takes its slot for as long as it runs, also when Redis is back before it ends."""
    ask = an_ask()
    assert allowance.spend(ask)
    while_running = allowance.wish()
    allowance.renewed(while_running, times(2), asked_at=clock.now)
    allowance.end(ask.reservation)
    afterwards = allowance.wish()

    assert (while_running.used, while_running.kept, while_running.running) == (Amounts(), times(2), ONE)
    assert (afterwards.used, afterwards.kept, afterwards.running) == (ONE, times(2), Amounts())
    assert not allowance.is_idle()


async def test_what_was_spent_counts_as_reported_when_an_answer_knows_of_it(
    allowance: Allowance, clock: Clock
) -> None:
    """An answer to an earlier report does not."""
    earlier = allowance.wish()
    assert allowance.is_reported
    allowance.spend(an_ask())
    allowance.renewed(earlier, times(3), asked_at=clock.now)
    await allowance.until_reported(0.01)
    assert not allowance.is_reported
    allowance.renewed(allowance.wish(), times(2), asked_at=clock.now)

    await allowance.until_reported(0.01)
    assert allowance.is_reported


def test_an_old_allowance_is_worth_nothing(allowance: Allowance, clock: Clock) -> None:
    """Before Redis stops holding it for us we stop spending it."""
    clock.now += LIFE_S - 2

    assert not allowance.spend(an_ask())


def test_what_is_spent_while_a_report_is_on_its_way_is_not_lost(allowance: Allowance, clock: Clock) -> None:
    """The answer speaks of what was held when the report was made."""
    wish = allowance.wish()
    assert allowance.spend(an_ask())
    allowance.renewed(wish, times(3), asked_at=clock.now)

    assert allowance.left == times(2)
    assert allowance.running == times(1)


def test_what_gave_way_meanwhile_is_given_up(allowance: Allowance, clock: Clock) -> None:
    """Whether the answer knows of it cannot be told, so it is not counted on."""
    wish = allowance.wish()
    allowance.shrink(an_ask())
    allowance.renewed(wish, times(3), asked_at=clock.now)

    assert allowance.left == times(2)


def test_what_was_granted_under_other_limits_is_given_up(allowance: Allowance, clock: Clock) -> None:
    """At once, and so is what an answer under way brings; the next wish says that nothing is kept, and gets its share anew."""
    under_way = allowance.wish()
    allowance.give_up()
    had = allowance.spend(an_ask())
    allowance.renewed(under_way, times(3), asked_at=clock.now)
    in_between = allowance.left
    wish = allowance.wish()
    allowance.renewed(wish, times(2), asked_at=clock.now)

    assert not had
    assert in_between == wish.kept == Amounts()
    assert wish.requests > 0
    assert allowance.left == times(2)


def test_a_model_that_is_gone_gives_its_lease_back(allowance: Allowance) -> None:
    """With one more wish, which wants nothing; then it is idle."""
    allowance.give_up(for_good=True)
    is_idle_before = allowance.is_idle()
    wish = allowance.wish()
    allowance.renewed(wish, Amounts(), asked_at=0.0)

    assert not is_idle_before
    assert (wish.kept, wish.requests) == (Amounts(), 0)
    assert allowance.is_idle()


class Ledger:
    """Answers renewals as it is told, and remembers them."""

    def __init__(self) -> None:
        config = {
            "providers": {"a": {"connector": "openai-compatible.v1", "base_url": "http://127.0.0.1:9/v1"}},
            "models": {"a.m": {"provider": "a", "capabilities": ["chat-completion"], "limits": {"rpm": 60}}},
        }
        self.domain = build_topology(MeshConfig.model_validate(config)).domains["a"]
        self.calls: list[tuple[int, list[LeaseWish], int]] = []
        self.is_away = False
        self.is_asserted = True
        self.replays: list[int] = []
        self.recounts = 0

    async def recount_leases(self) -> None:
        if self.is_away:
            raise TimeoutError
        self.recounts += 1

    async def renew_leases(
        self, wishes: list[LeaseWish], *, sequence: int, life_ms: int, share: int, replay_in: int
    ) -> list[Amounts]:
        self.replays.append(replay_in)
        self.calls.append((sequence, wishes, share))
        if self.is_away:
            raise TimeoutError
        return [times(2) for _ in wishes]


class Watch:
    connected = True
    failures = 0

    def on_return(self, callback: object) -> None:
        """Nothing ever returns here."""

    def report_failure(self, error: BaseException) -> None:
        self.failures += 1


async def test_a_report_that_may_have_been_applied_is_sent_again_as_it_was() -> None:
    """The same sequence and the same words, until an answer comes; then the next."""
    ledger, watch = Ledger(), Watch()
    keeper = LeaseKeeper(ledger, watch, nodes=lambda: 3)  # type: ignore[arg-type]
    allowance = keeper.allowances["a.m"]
    allowance.note(an_ask())
    ledger.is_away = True
    await keeper._renew()
    allowance.note(an_ask())
    await keeper._renew()
    ledger.is_away = False
    await keeper._renew()
    await keeper._renew()

    first, second, third, fourth = ledger.calls
    assert first == second == third
    assert (third[0], fourth[0]) == (1, 2)
    assert first[2] == 6
    assert watch.failures == 2
    assert allowance.left == times(2)


def _keeper(ledger: Ledger) -> LeaseKeeper:
    return LeaseKeeper(ledger, Watch(), nodes=lambda: 1)  # type: ignore[arg-type]


async def test_what_a_server_forgot_of_leases_is_said_again() -> None:
    """Reports that it has acknowledged and does not have, with what was spent since; what it has is not said twice."""
    ledger = Ledger()
    keeper = _keeper(ledger)
    allowance = keeper.allowances["a.m"]
    allowance.note(an_ask())
    for _ in range(3):
        await keeper._renew()
        ask = an_ask()
        assert allowance.spend(ask)
        allowance.end(ask.reservation)
    used = await keeper.assert_held(term=9, known=2)

    assert [wishes[0].used for _, wishes, _ in ledger.calls] == [Amounts(), times(1), times(1), times(2)]
    assert used == times(2)
    assert ledger.replays == [0, 0, 0, 9]
    assert await keeper.assert_held(term=10, known=4) == Amounts()
    assert await keeper.assert_held(term=11, known=1) == times(3)


async def test_an_assertion_without_an_answer_is_said_again_as_it_was() -> None:
    """The same sequence, so that it is charged once."""
    ledger = Ledger()
    keeper = _keeper(ledger)
    keeper.allowances["a.m"].note(an_ask())
    ledger.is_away = True
    for _ in range(2):
        with pytest.raises(TimeoutError):
            await keeper.assert_held(term=9, known=0)

    assert ledger.calls[0] == ledger.calls[1]


async def test_without_leases_nothing_is_asserted() -> None:
    """A node that neither holds nor has spent anything has nothing to say."""
    ledger = Ledger()

    assert await _keeper(ledger).assert_held(term=9, known=0) == Amounts()
    assert ledger.calls == []


async def test_the_keeper_runs_until_it_is_cancelled() -> None:
    """A domain without traffic says nothing."""
    ledger = Ledger()
    keeper = LeaseKeeper(ledger, Watch(), nodes=lambda: 1)  # type: ignore[arg-type]
    task = asyncio.create_task(keeper.run())
    await asyncio.sleep(0)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert ledger.calls == []


async def test_other_limits_are_followed() -> None:
    """What leases hold is counted again, before anything is asked for; again and again until the server has done it."""
    ledger, watch = Ledger(), Watch()
    keeper = LeaseKeeper(ledger, watch, nodes=lambda: 1)  # type: ignore[arg-type]
    keeper.follow(ledger.domain, is_changed=False)
    await keeper._renew()
    keeper.follow(ledger.domain, is_changed=True)
    ledger.is_away = True
    await keeper._renew()
    said_before = len(ledger.calls)
    ledger.is_away = False
    await keeper._renew()

    assert ledger.recounts == 1
    assert said_before == 0
    assert watch.failures == 1
    assert [wish.kept for _, wishes, _ in ledger.calls for wish in wishes] == [Amounts()]


async def test_a_new_model_gets_an_allowance() -> None:
    """One that is gone keeps its own for the calls that still run."""
    ledger = Ledger()
    keeper, old = _keeper(ledger), ledger.domain
    config = {
        "providers": {"a": {"connector": "openai-compatible.v1", "base_url": "http://127.0.0.1:9/v1"}},
        "models": {"a.n": {"provider": "a", "capabilities": ["chat-completion"]}},
    }
    keeper.allowances["a.m"].note(an_ask())
    keeper.follow(build_topology(MeshConfig.model_validate(config)).domains["a"], is_changed=False)

    assert [model.id for model in old.models] == ["a.m"]
    assert keeper.allowances.keys() == {"a.m", "a.n"}
    assert keeper.allowances["a.m"].wish().requests == 0


@pytest.mark.parametrize(("nodes", "every_s"), [(1, 1.0), (100, 1.0), (500, 5.0), (1000, 10.0), (5000, 10.0)])
def test_large_fleets_renew_less_often(nodes: int, every_s: float) -> None:
    """Up to a thousand nodes Redis sees no more renewals of a model's leases than of a hundred."""
    assert renewal_s(nodes) == every_s


def test_a_wish_covers_as_much_however_rarely_it_is_said(clock: Clock) -> None:
    """The same traffic makes the same lease, whether it is asked for each second or every ten."""
    often, rarely = Allowance("a.m", now=clock), Allowance("a.m", now=clock)
    for second in range(1, 61):
        clock.now += 1
        for _ in range(4):
            often.note(an_ask())
            rarely.note(an_ask())
        wish = often.wish()
        if second % 10 == 0:
            rare = rarely.wish(10.0)

    assert wish.requests == rare.requests == 20


@pytest.mark.parametrize(("nodes", "renewals"), [(1, 5), (300, 2)])
@in_virtual_time
async def test_renewals_come_as_often_as_the_fleet_can_bear(nodes: int, renewals: int) -> None:
    """In some five seconds; the first lease of a model waits for nobody, however large the fleet is."""
    ledger = Ledger()
    keeper = LeaseKeeper(ledger, Watch(), nodes=lambda: nodes)  # type: ignore[arg-type]
    task = asyncio.get_running_loop().create_task(keeper.run())
    await asyncio.sleep(10.5)
    keeper.allowances["a.m"].note(an_ask())
    await asyncio.sleep(0.6)
    asked_first = len(ledger.calls)
    await asyncio.sleep(4.7)
    task.cancel()

    assert asked_first == 1
    assert len(ledger.calls) == renewals


@in_virtual_time
async def test_what_was_spent_is_reported_at_once_where_somebody_waits() -> None:
    """A large fleet does not keep a request waiting for the next renewal."""
    ledger = Ledger()
    keeper = LeaseKeeper(ledger, Watch(), nodes=lambda: 1000)  # type: ignore[arg-type]
    allowance = keeper.allowances["a.m"]
    allowance.note(an_ask())
    task = asyncio.get_running_loop().create_task(keeper.run())
    await settle_down()
    assert allowance.spend(an_ask())
    began_s = asyncio.get_running_loop().time()
    await allowance.until_reported(5.0)
    task.cancel()

    assert allowance.is_reported
    assert asyncio.get_running_loop().time() - began_s < 2
