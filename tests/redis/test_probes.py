"""Asks that treat a state otherwise: probes before the time of a trial, and calls despite an illness."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from shared_state.ledger import Code, How, Outcome, Verdict
from tests.redis.ground import BIG, EPOCH_MS, PROVIDER, SMALL, Bench, make_pool

OpenBench = Callable[..., Bench]
COOLDOWN_MS = 60_000


async def test_a_probe_need_not_wait_and_brings_the_model_back(bench: OpenBench) -> None:
    """It is the one trial; nobody else gets in meanwhile; success begins the ramp."""
    b = bench(make_pool(retry_limit=1, ramp=[0.5, 1.0]))
    await b.attempt(Outcome.FAILURE)
    probe, verdict = await b.admit(how=How.PROBE)
    assert verdict.trial
    assert (await b.admit(how=How.PROBE))[1].code == Code.TRIAL_TAKEN
    assert (await b.admit())[1].code == Code.STANDBY

    await b.end(probe)
    state = await b.model()
    assert (state.status, state.phase, state.trigger) == ("active", "ramp", "probe_success")


async def test_a_probe_that_comes_too_early_and_fails_changes_nothing(bench: OpenBench) -> None:
    """Whoever looks often must not prolong the wait; at its time the trial counts as ever."""
    b = bench(make_pool(retry_limit=1))
    await b.attempt(Outcome.FAILURE)
    for _ in range(3):
        probe, _ = await b.admit(how=How.PROBE)
        await b.end(probe, Outcome.FAILURE)
    assert ((await b.model()).until_ms, (await b.model()).phase) == (EPOCH_MS + COOLDOWN_MS, "")

    await b.store.pass_time(COOLDOWN_MS)
    probe, _ = await b.admit(how=How.PROBE)
    await b.end(probe, Outcome.FAILURE)
    assert (await b.model()).until_ms == await b.now_ms() + 2 * COOLDOWN_MS


async def test_the_first_probe_of_a_scheduler_is_told_apart(bench: OpenBench) -> None:
    """Its success is a trigger of its own."""
    b = bench(make_pool(retry_limit=1))
    await b.attempt(Outcome.CREDENTIALS)
    probe, _ = await b.admit(BIG, how=How.STARTUP_PROBE)
    await b.end(probe)
    state = await b.provider()

    assert (state.status, state.trigger) == ("active", "startup_probe")


@pytest.mark.parametrize("how", [How.PROBE, How.STARTUP_PROBE, How.DESPITE])
async def test_an_order_a_pause_and_a_limit_hold_for_everybody(bench: OpenBench, how: How) -> None:
    """Manual stays manual, a provider's pause a pause, a full window full."""
    b = bench(make_pool(retry_limit=1), big={"rpm": 1})
    await b.order("deactivate")
    assert (await b.admit(how=how))[1] == Verdict(Code.STANDBY, 0, "manual")
    await b.order("activate")
    await b.attempt(Outcome.RATE_LIMITED, retry_after_ms=9000)
    assert (await b.admit(how=how))[1] == Verdict(Code.STANDBY, EPOCH_MS + 9000, "rate_limited")
    await b.attempt(Outcome.FAILURE, BIG)

    assert (await b.admit(BIG, how=how))[1].code == Code.AT_LIMIT


async def test_calls_despite_an_illness_are_no_trial(bench: OpenBench) -> None:
    """Any number goes through; neither their success nor their failure moves the state."""
    b = bench(make_pool(retry_limit=1))
    await b.attempt(Outcome.FAILURE)
    before = await b.model()
    for outcome in (Outcome.SUCCESS, Outcome.FAILURE, Outcome.FAILURE):
        reservation, verdict = await b.admit(how=How.DESPITE)
        assert verdict == Verdict(Code.ADMITTED)
        await b.end(reservation, outcome)
    after = await b.model()

    assert (after.status, after.phase, after.until_ms) == ("standby", "", before.until_ms)
    assert await b.due() == {f"m:{SMALL}": before.until_ms}


async def test_nobody_goes_past_refused_credentials(bench: OpenBench) -> None:
    """They are no illness that could pass by itself."""
    b = bench()
    await b.attempt(Outcome.CREDENTIALS)

    assert (await b.admit(how=How.DESPITE))[1].code == Code.STANDBY


async def test_a_call_despite_an_outage_leaves_the_trial_of_its_account_alone(bench: OpenBench) -> None:
    """The account's trial is still free at its time."""
    b = bench(make_pool(retry_limit=100, error_min_requests=100))
    for _ in range(5):
        await b.attempt(Outcome.UNREACHABLE)
    assert (await b.provider()).reason == "outage"
    assert (await b.admit(how=How.DESPITE))[1] == Verdict(Code.ADMITTED)
    await b.store.set_time((await b.provider()).until_ms)

    assert (await b.admit())[1].trial
    assert (await b.provider()).phase == "trial", PROVIDER
