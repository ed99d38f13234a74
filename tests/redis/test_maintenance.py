"""A maintenance window takes its model out once, until it ends, and gives way to nobody but an operator."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from shared_state.domains import maintain
from shared_state.errors import FencedOffError
from shared_state.ledger import Code, Outcome, Verdict
from tests.redis.ground import DOMAIN, EPOCH_MS, SMALL, Bench, make_pool

OpenBench = Callable[..., Bench]
ENDS_MS = EPOCH_MS + 1_800_000


async def begin(bench: Bench, *, begins_ms: int = EPOCH_MS, ends_ms: int = ENDS_MS, token: int = 1) -> int:
    return await maintain(bench.store, DOMAIN, [(SMALL, begins_ms, ends_ms)], token=token)


async def test_a_window_takes_the_model_out_until_it_ends(bench: OpenBench) -> None:
    """Announced once, however often the scheduler looks; back without a trial."""
    b = bench()
    assert [await begin(b) for _ in range(3)] == [1, 0, 0]
    state = await b.model()

    assert (state.reason, state.mode, state.until_ms) == ("maintenance_window", "time", ENDS_MS)
    assert await b.attempt() == Verdict(Code.STANDBY, ENDS_MS, "maintenance_window")
    assert [event["type"] for event in await b.news()] == ["model_deactivated"]
    await b.store.set_time(ENDS_MS)
    assert await b.recover() == [(f"m:{SMALL}", "active")]
    assert await b.attempt() == Verdict(Code.ADMITTED)


async def test_an_operator_may_end_it_and_the_next_one_begins_all_the_same(bench: OpenBench) -> None:
    """What was ended stays ended."""
    b = bench()
    await begin(b)
    await b.order("activate")
    assert await begin(b) == 0
    assert (await b.model()).status == "active"

    await b.store.pass_time(86_400_000)
    assert await begin(b, begins_ms=EPOCH_MS + 86_400_000, ends_ms=ENDS_MS + 86_400_000) == 1
    assert (await b.model()).reason == "maintenance_window"


async def test_a_window_is_the_weightiest_reason_but_pardons_no_trial(bench: OpenBench) -> None:
    """A model that was failing before is tried after it."""
    b = bench(make_pool(retry_limit=1))
    await b.attempt(Outcome.FAILURE)
    await begin(b)
    state = await b.model()

    assert (state.reason, state.mode, state.until_ms) == ("maintenance_window", "trial", ENDS_MS)


async def test_a_trial_under_way_ends_with_the_window(bench: OpenBench) -> None:
    """Its success does not bring a model back that is being maintained."""
    b = bench(make_pool(retry_limit=1))
    await b.attempt(Outcome.FAILURE)
    await b.store.pass_time(60_000)
    trial, verdict = await b.admit()
    assert verdict.trial
    await begin(b)
    await b.end(trial)

    assert (await b.model()).reason == "maintenance_window"


async def test_an_order_stays_and_a_window_that_is_over_is_none(bench: OpenBench) -> None:
    """Manual stays manual; who comes late changes nothing."""
    b = bench()
    await b.order("deactivate")
    await begin(b)
    assert (await b.model()).mode == "manual"

    await b.order("activate")
    await begin(b, begins_ms=EPOCH_MS + 1, ends_ms=EPOCH_MS)
    assert (await b.model()).status == "active"


async def test_a_scheduler_that_has_lost_the_lead_begins_nothing(bench: OpenBench) -> None:
    """The fencing token decides."""
    b = bench()
    await b.recover(token=5)
    with pytest.raises(FencedOffError):
        await begin(b, token=4)

    assert (await b.model()).status == "active"
