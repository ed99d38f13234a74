"""How models do, as settlements leave it and nodes read it: speeds, attempts under way, room at the tightest limit."""

from __future__ import annotations

import math

import pytest

from shared_state.ledger import STREAM, Outcome
from shared_state.signals import Standing, read_signals
from tests.redis.ground import BIG, EPOCH_MS, SMALL, Bench

DAY_MS = 86_400_000


async def seen(node: Bench, model: str = SMALL) -> Standing:
    return (await read_signals(node.store, node.domain, now_ms=await node.now_ms()))[1][model]


async def test_nothing_is_known_of_a_model_that_never_answered(bench):
    """And nothing limits it."""
    assert await seen(bench()) == Standing(None, None, None, None, 0, 1.0, None, None)


async def test_the_first_answer_is_the_average_and_later_ones_weigh_a_little(bench):
    """As in a window of the last fifty."""
    node = bench()
    await node.attempt(latency_ms=100, first_token_ms=40)
    first = await seen(node)
    await node.attempt(latency_ms=610, first_token_ms=550)
    second = await seen(node)

    assert (first.latency_ms, first.measured_ms) == (100.0, EPOCH_MS)
    assert second.latency_ms == pytest.approx(100 + 510 * 2 / 51, abs=0.1)


async def test_an_old_average_gives_way(bench, steered):
    """What was measured long ago weighs less than one answer of now."""
    node = bench()
    await node.attempt(latency_ms=1000)
    await steered.pass_time(30_000)
    await node.attempt(latency_ms=100)
    after_half_a_minute = (await seen(node)).latency_ms
    await steered.pass_time(600_000)
    await node.attempt(latency_ms=500)

    assert after_half_a_minute == pytest.approx(100 + 900 * 49 / 51 / math.e, abs=1)
    assert (await seen(node)).latency_ms == pytest.approx(500, abs=0.1)


async def test_a_peak_rises_at_once_and_falls_slowly(bench, steered):
    """One slow answer is enough to be careful; ten seconds later most of it is forgotten."""
    node = bench()
    await node.attempt(first_token_ms=50)
    await node.attempt(first_token_ms=800)
    await node.attempt(first_token_ms=50)
    risen = (await seen(node)).peak_ms
    await steered.pass_time(10_000)
    await node.attempt(first_token_ms=50)
    fallen = (await seen(node)).peak_ms

    assert risen == pytest.approx(50 + 750 * 49 / 51, abs=0.1)
    assert fallen == pytest.approx(50 + 750 * (49 / 51) ** 2 / math.e, abs=1)


async def test_only_streams_tell_the_time_to_the_first_token(bench):
    """The first content of an answer in one piece is its end."""
    node = bench()
    await node.attempt(latency_ms=900, first_token_ms=900)
    whole = await seen(node)
    await node.attempt(latency_ms=900, first_token_ms=60, flags=STREAM)

    assert whole.first_token_ms is None
    assert (await seen(node)).first_token_ms == 60.0


async def test_failures_are_not_fast_answers(bench):
    """A model that refuses in a millisecond is not the fastest."""
    node = bench()
    await node.attempt(latency_ms=500)
    for outcome in (Outcome.FAILURE, Outcome.NEUTRAL, Outcome.RATE_LIMITED, Outcome.UNREACHABLE):
        await node.attempt(outcome, latency_ms=1)

    assert (await seen(node)).latency_ms == 500.0


async def test_a_settlement_that_comes_twice_is_measured_once(bench):
    """Like everything else that it counts."""
    node = bench()
    await node.attempt(latency_ms=100)
    reservation, _ = await node.admit()
    for _ in range(5):
        await node.end(reservation, latency_ms=610)

    assert (await seen(node)).latency_ms == pytest.approx(120, abs=0.1)


async def test_measuring_leaves_the_state_alone(bench):
    """Speeds lie in the hash of the model's state; neither its epoch nor its status moves."""
    node = bench()
    before = await node.epoch()
    await node.attempt(latency_ms=100)

    assert await node.epoch() == before
    assert (await node.model()).status == "active"


async def test_what_is_in_flight_is_counted_over_all_nodes(bench):
    """Until it is settled."""
    node = bench()
    other = Bench(node.store, node.domain)
    reservation, _ = await node.admit()
    await other.admit()
    await other.admit(BIG)
    busy = ((await seen(node)).in_flight, (await seen(node, BIG)).in_flight)
    await node.end(reservation)

    assert busy == (2, 1)
    assert (await seen(node)).in_flight == 1


async def test_headroom_is_that_of_the_tightest_limit(bench):
    """Of the model or of its account, whatever it counts."""
    node = bench(
        account={"rpm": 100, "concurrency": 10}, small={"tpm": 1000, "rpd": 50}, big={"min_delta": 5}
    )
    for _ in range(2):
        await node.admit(tokens=(300, 60))
    small, big = await seen(node), await seen(node, BIG)

    assert (small.headroom, small.requests_left, small.requests_limit) == (pytest.approx(0.28), 48, 50)
    assert (big.headroom, big.requests_left, big.requests_limit) == (pytest.approx(0.8), 98, 100)


async def test_a_calendar_that_is_out_of_date_says_nothing(bench):
    """Better unknown than yesterday's numbers."""
    node = bench(small={"rpd": 50})
    _, standings = await read_signals(node.store, node.domain, now_ms=EPOCH_MS + 3 * DAY_MS)

    assert (standings[SMALL].headroom, standings[SMALL].requests_left) == (None, None)


async def test_reading_changes_nothing(bench, steered):
    """Not even what has expired: that is for those who admit."""
    node = bench(small={"rpm": 10})
    await node.admit()
    await steered.pass_time(61_000)
    key = node.store.keys.windows(node.domain.id, f"m:{SMALL}")
    before = await steered.client.hgetall(key)

    assert (await seen(node)).requests_left == 10
    assert await steered.client.hgetall(key) == before
