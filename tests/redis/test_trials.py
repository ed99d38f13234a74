"""Recovery: one trial in the whole cluster, then a ramp; and who may begin it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack

import pytest

from shared_state.domains import abandon_of_nodes
from shared_state.errors import FencedOffError
from shared_state.ledger import Code, Outcome, Verdict
from tests.redis.ground import (
    BIG,
    EPOCH_MS,
    LEASE_MS,
    PROVIDER,
    SMALL,
    Bench,
    Caller,
    SteeredStore,
    make_pool,
)
from tests.support.valkey import ValkeyServer

OpenBench = Callable[..., Bench]
COOLDOWN_MS = 60_000


@pytest.fixture
async def askers(
    valkey_server: ValkeyServer, namespace: str, steered: SteeredStore
) -> AsyncIterator[Callable[[Bench], list[Caller]]]:
    """Four more nodes at the same steered clock, each with connections of its own."""
    async with AsyncExitStack() as stack:

        def build(bench: Bench) -> list[Caller]:
            callers = []
            for i in range(4):
                store = SteeredStore(valkey_server.url, namespace=namespace, clock_key=steered.clock_key)
                stack.push_async_callback(store.aclose)
                callers.append(Caller(store, bench.domain, node=f"asker{i}"))
            return callers

        yield build


async def fall(bench: Bench, outcome: Outcome = Outcome.FAILURE) -> None:
    """Takes the model (or the account) out, and lets its cooldown pass."""
    await bench.attempt(outcome)
    await bench.store.pass_time(COOLDOWN_MS)


async def ask_all(callers: list[Caller], model: str = SMALL) -> list[tuple[str, Verdict]]:
    """Everybody asks three times over, in batches of five, all at once."""

    async def batch(caller: Caller) -> list[tuple[str, Verdict]]:
        asks = [caller.ask(model) for _ in range(5)]
        return [(a.reservation, v) for a, v in zip(asks, await caller.ledger.admit(asks), strict=True)]

    return [pair for pairs in await asyncio.gather(*map(batch, callers * 3)) for pair in pairs]


@pytest.mark.parametrize("outcome", [Outcome.FAILURE, Outcome.CREDENTIALS])
async def test_one_of_all_racing_askers_is_the_trial(
    bench: OpenBench, askers: Callable[[Bench], list[Caller]], outcome: Outcome
) -> None:
    """In the whole cluster, also among those that came in one batch; the others learn until when it lasts."""
    b = bench(make_pool(retry_limit=1))
    await fall(b, outcome)
    replies = await ask_all(askers(b))
    trials = [verdict for _, verdict in replies if not verdict.code]
    others = {(verdict.code, verdict.at_ms) for _, verdict in replies if verdict.code}

    assert trials == [Verdict(Code.ADMITTED, trial=True)]
    assert others == {(Code.TRIAL_TAKEN, EPOCH_MS + COOLDOWN_MS + LEASE_MS)}


async def test_the_trial_of_an_account_is_one_among_all_its_models(
    bench: OpenBench, askers: Callable[[Bench], list[Caller]]
) -> None:
    """Both models are asked for at once, also within one batch."""
    b = bench()
    await fall(b, Outcome.QUOTA)
    callers = askers(b)
    mixed = callers[0].ledger.admit([callers[0].ask(model) for model in (BIG, SMALL) * 3])
    replies = await asyncio.gather(mixed, *(c.admit(m) for c in callers for m in (SMALL, BIG)))
    verdicts = [*replies[0], *(verdict for _, verdict in replies[1:])]

    assert sum(not verdict.code for verdict in verdicts) == 1


async def test_a_trial_that_is_refused_at_a_limit_is_none(bench: OpenBench) -> None:
    """The trial is granted only when all windows agree."""
    b = bench(make_pool(retry_limit=1), small={"rpd": 1})
    await fall(b)

    assert (await b.admit())[1].name == "rpd"
    assert (await b.model()).phase == ""


async def test_success_ramps_up_step_by_step(bench: OpenBench) -> None:
    """Each step takes three successes and a second; after the last the model is as before."""
    b = bench(make_pool(retry_limit=1, ramp=[0.1, 0.3, 1.0]))
    await fall(b)
    await b.recover()
    assert (await b.attempt()).trial
    seen = [(await b.model()).step]
    for _ in range(2):
        for _ in range(5):
            await b.attempt()
        assert (await b.model()).step == seen[-1]  # a second has not passed
        await b.store.pass_time(1000)
        await b.attempt()
        state = await b.model()
        seen.append(state.step if state.phase == "ramp" else -1)

    assert seen == [0, 1, -1]
    assert (state.status, state.phase, state.fails) == ("active", "", 0)


async def test_without_steps_success_ends_the_recovery(bench: OpenBench) -> None:
    """A ramp of one share is none."""
    b = bench(make_pool(retry_limit=1, ramp=[1.0]))
    await fall(b)
    await b.attempt()

    assert ((await b.model()).status, (await b.model()).phase) == ("active", "")


async def test_a_failure_on_the_ramp_is_one_too_many(bench: OpenBench) -> None:
    """The next wait is twice as long, whatever the threshold says."""
    b = bench(make_pool(retry_limit=1))
    await fall(b)
    await b.attempt()
    patient = make_pool(retry_limit=50)
    reservation, _ = await b.admit()
    await b.settle(reservation, Outcome.FAILURE, pool=patient)
    state = await b.model()

    assert (state.status, state.phase) == ("standby", "")
    assert state.until_ms == await b.now_ms() + 2 * COOLDOWN_MS


async def test_a_failed_trial_waits_twice_as_long(bench: OpenBench) -> None:
    """And is due again after that."""
    b = bench(make_pool(retry_limit=1))
    await fall(b)
    await b.attempt(Outcome.FAILURE)
    until_ms = await b.now_ms() + 2 * COOLDOWN_MS

    assert (await b.model()).until_ms == until_ms
    assert await b.due() == {f"m:{SMALL}": until_ms}
    assert await b.attempt() == Verdict(Code.STANDBY, until_ms, "error_threshold")


async def test_a_failed_trial_of_the_account_keeps_its_reason(bench: OpenBench) -> None:
    """An account without credit is not ill because the trial failed otherwise."""
    b = bench()
    await fall(b, Outcome.QUOTA)
    await b.attempt(Outcome.FAILURE)
    state = await b.provider()

    assert (state.reason, state.until_ms) == ("quota_exhausted", await b.now_ms() + 2 * COOLDOWN_MS)


async def test_an_outcome_that_says_nothing_makes_room_for_another_trial(bench: OpenBench) -> None:
    """The caller's own mistake proves neither health nor illness."""
    b = bench(make_pool(retry_limit=1))
    await fall(b)
    assert (await b.attempt(Outcome.NEUTRAL)).trial

    state = await b.model()
    assert (state.status, state.phase) == ("standby", "")
    assert (await b.news())[-1]["type"] == "model_trial_over"
    assert (await b.attempt()).trial


@pytest.mark.parametrize("retry_after_ms", [0, 5000])
async def test_a_trial_that_is_rate_limited_waits_and_is_still_owed(
    bench: OpenBench, retry_after_ms: int
) -> None:
    """The provider lives and asks to wait: another trial after that."""
    b = bench(make_pool(retry_limit=1))
    await fall(b)
    await b.attempt(Outcome.RATE_LIMITED, retry_after_ms=retry_after_ms)
    state = await b.model()

    assert (state.mode, state.phase, state.until_ms) == ("trial", "", await b.now_ms() + retry_after_ms)
    await b.store.pass_time(retry_after_ms)
    assert (await b.attempt()).trial


async def test_the_account_may_fail_a_models_trial(bench: OpenBench) -> None:
    """Refused credentials say nothing about the model: its own trial is open again, behind the account's."""
    b = bench(make_pool(retry_limit=1))
    await fall(b)
    await b.attempt(Outcome.CREDENTIALS)

    assert ((await b.model()).phase, (await b.provider()).reason) == ("", "auth")
    await b.store.pass_time(COOLDOWN_MS)
    assert (await b.attempt()).trial
    assert ((await b.model()).phase, (await b.provider()).status) == ("ramp", "active")


async def test_a_late_verdict_of_another_request_does_not_end_the_trial(bench: OpenBench) -> None:
    """A request from before the outage ends while the trial runs: there is still one trial."""
    b = bench()
    late = [(await b.admit())[0] for _ in range(3)]
    await fall(b, Outcome.CREDENTIALS)
    trial, verdict = await b.admit()
    assert verdict.trial

    for reservation, outcome in zip(
        late, (Outcome.CREDENTIALS, Outcome.SUCCESS, Outcome.NEUTRAL), strict=True
    ):
        await b.end(reservation, outcome)
        assert (await b.admit())[1].code == Code.TRIAL_TAKEN
    await b.end(trial)
    assert (await b.provider()).status == "active"


async def test_an_order_ends_a_trial(bench: OpenBench) -> None:
    """What the trial finds out afterwards does not bring the model back."""
    b = bench(make_pool(retry_limit=1))
    await fall(b)
    trial, _ = await b.admit()
    await b.order("deactivate")
    await b.end(trial)

    assert (await b.model()).reason == "manual"
    assert await b.attempt() == Verdict(Code.STANDBY, 0, "manual")


async def test_a_trial_whose_node_died_makes_room_for_another(bench: OpenBench) -> None:
    """As soon as the reaper has booked it as abandoned."""
    b = bench(make_pool(retry_limit=1))
    await fall(b)
    dead = Caller(b.store, b.domain, node="dead-node")
    assert (await dead.admit())[1].trial
    assert (await b.admit())[1].code == Code.TRIAL_TAKEN

    assert await abandon_of_nodes(b.store, "alpha", {"dead-node"}, token=1) == 1
    assert (await b.attempt()).trial
    assert (await b.model()).phase == "ramp"


async def test_a_trial_that_never_ends_makes_room_when_its_lease_is_over(bench: OpenBench) -> None:
    """Without any scheduler: the next asker notices."""
    b = bench(make_pool(retry_limit=1))
    await fall(b)
    trial, _ = await b.admit(lease_ms=9000)
    await b.store.pass_time(8999)
    assert (await b.admit())[1].at_ms == EPOCH_MS + COOLDOWN_MS + 9000

    await b.store.pass_time(1)
    again, verdict = await b.admit()
    assert verdict.trial
    assert not await b.end(trial)
    assert (await b.model()).phase == "trial"
    await b.end(again)
    assert (await b.model()).status == "active"


# -- the scheduler's part


async def test_the_due_list_names_what_has_come_due(bench: OpenBench) -> None:
    """Each once, the earliest first, as many as were asked for; with what happens to it."""
    b = bench(make_pool(retry_limit=1))
    await b.attempt(Outcome.RATE_LIMITED, retry_after_ms=40_000)
    await b.attempt(Outcome.FAILURE, BIG)
    await b.order("deactivate", kind="provider", name=PROVIDER, for_s=50)
    assert await b.recover() == []

    await b.store.pass_time(55_000)
    assert await b.recover() == [(f"m:{SMALL}", "active"), (f"p:{PROVIDER}", "active")]
    await b.store.pass_time(5000)
    assert await b.recover() == [(f"m:{BIG}", "trial")]
    assert await b.recover() == []
    assert ((await b.model()).status, (await b.model(BIG)).needs_trial(await b.now_ms())) == ("active", True)


async def test_a_wait_that_was_lengthened_is_not_due_at_its_first_time(bench: OpenBench) -> None:
    """The list follows the state."""
    b = bench()
    first, second = [(await b.admit())[0] for _ in range(2)]
    await b.end(first, Outcome.RATE_LIMITED, retry_after_ms=10_000)
    await b.end(second, Outcome.RATE_LIMITED, retry_after_ms=20_000)

    await b.store.pass_time(10_000)
    assert await b.recover() == []
    await b.store.pass_time(10_000)
    assert await b.recover() == [(f"m:{SMALL}", "active")]


async def test_a_scheduler_that_lost_the_lead_is_refused(bench: OpenBench) -> None:
    """A newer token was seen: neither recovery nor burial by the old one, and nothing has changed."""
    b = bench(make_pool(retry_limit=1))
    await b.admit()
    await b.recover(token=7)
    await fall(b)

    with pytest.raises(FencedOffError):
        await b.recover(token=6)
    with pytest.raises(FencedOffError):
        await abandon_of_nodes(b.store, "alpha", {"n1"}, token=6)
    assert await b.due() == {f"m:{SMALL}": EPOCH_MS + COOLDOWN_MS}
    assert [row.in_flight for row in (await b.books()).rows] == [1]
    assert await b.recover(token=7) == [(f"m:{SMALL}", "trial")]
    assert await abandon_of_nodes(b.store, "alpha", {"n1"}, token=8) == 1


async def test_burial_takes_the_dead_nodes_reservations_only(bench: OpenBench) -> None:
    """More of them than one page of the walk and one script call hold; twice changes nothing."""
    b = bench()
    for _ in range(8):
        await b.admit_many(150)
    gone = Caller(b.store, b.domain, node="n1.eu")  # begins like the living one
    for _ in range(2):
        await gone.admit_many(150, BIG, lease_ms=LEASE_MS - 1)

    assert await abandon_of_nodes(b.store, "alpha", {"n1.eu", "never-seen"}, token=1) == 300
    assert await abandon_of_nodes(b.store, "alpha", {"n1.eu"}, token=1) == 0
    books = await b.books()
    assert books.is_balanced
    assert {(r.model, r.abandoned, r.in_flight) for r in books.rows} == {(SMALL, 0, 1200), (BIG, 300, 0)}
