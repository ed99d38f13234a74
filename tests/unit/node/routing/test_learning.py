"""What answers teach about a provider's limits reaches the settlement, from successes and refusals alike."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest

from shared_state.ledger import Outcome
from tests.unit.node.house import NOW_MS, House, mesh
from tests.unit.node.providers.vendors import quota_failure
from tests.unit.node.routing.scene import GOOD, house
from tests.unit.node.scripted import (
    DONE,
    ROLE,
    USAGE,
    Answer,
    ScriptedTransport,
    chunk,
    pause,
    refused,
    whole,
)
from tests.unit.node.virtual_time import in_virtual_time

HEADERS = {"x-ratelimit-remaining-requests": "3", "x-ratelimit-reset-requests": "20s"}


def taught(answer: Answer) -> Answer:
    """An answer with headers about limits."""
    answer.headers.update(HEADERS)
    return answer


@in_virtual_time
async def test_a_whole_answer_teaches() -> None:
    """By its headers."""
    place = house(alpha=taught(whole()))
    await place.serve()

    assert place.ledger.settled[0].learned == [("rpm", 3, 20_000)]


@in_virtual_time
async def test_a_window_that_the_books_do_not_know_is_no_reason_to_rest() -> None:
    """Together tells the rest of a second; that it is used up is no refusal."""
    answer = whole()
    answer.headers.update({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "1"})
    topology = mesh("together.m", provider={"connector": "together.api.v1"})
    place = House(topology, ScriptedTransport(together=answer))
    await place.serve()

    assert place.ledger.settled[0].learned == []


@pytest.mark.parametrize("is_away", [False, True])
@in_virtual_time
async def test_a_stream_teaches_at_its_head(is_away: bool) -> None:
    """It may take minutes; only if the store is away its settlement has to tell."""
    head = {"content-type": "text/event-stream"}
    place = house(alpha=taught(Answer(ROLE, chunk("one"), pause(60), DONE, headers=head)))
    place.ledger.takes_early_words = not is_away
    call = asyncio.create_task(place.serve(stream=True))
    await asyncio.sleep(1)
    early = list(place.ledger.learned)
    await call

    assert early == ([] if is_away else [("alpha.m", [("rpm", 3, 20_000)])])
    assert place.ledger.settled[0].learned == []


@in_virtual_time
async def test_a_short_stream_teaches_at_its_end_if_the_store_was_away() -> None:
    """Nothing that still holds is lost."""
    place = house(alpha=taught(Answer(*GOOD, USAGE, DONE, headers={"content-type": "text/event-stream"})))
    place.ledger.takes_early_words = False
    await place.serve(stream=True)

    assert place.ledger.settled[0].learned == [("rpm", 3, 20_000)]


@in_virtual_time
async def test_a_refusal_teaches() -> None:
    """A 429 empties the window at once, for every model of the account; the model itself waits as long as it was asked to."""
    empty = {"x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "50s", "retry-after": "7"}
    place = house(alpha=refused(429, headers=empty), beta=whole())
    await place.serve()
    failed = place.ledger.settled[0]

    assert failed.outcome is Outcome.RATE_LIMITED
    assert failed.retry_after_ms == 7000
    assert failed.learned == [("tpm", 0, 0)]


@in_virtual_time
async def test_a_rate_limit_without_a_wait_lasts_until_the_window_is_full_again() -> None:
    """Not a failure that adds up, but a pause with an end."""
    empty = {"x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-requests": "12s"}
    place = house(alpha=refused(429, headers=empty), beta=whole())
    await place.serve()
    failed = place.ledger.settled[0]

    assert (failed.outcome, failed.retry_after_ms) == (Outcome.RATE_LIMITED, 12_000)


def spent_day(*quotas: str) -> Answer:
    """Google's answer when the quota of a day is used up."""
    error = {"code": 429, "status": "RESOURCE_EXHAUSTED", "details": [quota_failure(*quotas)]}
    return Answer(orjson.dumps([{"error": error}]), status=429)


@pytest.mark.parametrize(
    ("quota", "limits", "outcome", "hours"),
    [
        # NOW_MS is 22:13:20 UTC, 14:13:20 in California.
        (
            "GenerateRequestsPerDayPerProjectPerModel",
            {"timezone": "America/Los_Angeles"},
            Outcome.RATE_LIMITED,
            9,
        ),
        ("GenerateRequestsPerDayPerProject", {"timezone": "America/Los_Angeles"}, Outcome.QUOTA, 9),
        ("GenerateRequestsPerDayPerProject", {"timezone": "UTC"}, Outcome.QUOTA, 1),
    ],
)
@in_virtual_time
async def test_a_spent_day_lasts_until_the_providers_midnight(
    monkeypatch: pytest.MonkeyPatch, quota: str, limits: dict[str, Any], outcome: Outcome, hours: int
) -> None:
    """The account if all of it is spent, the model if only its own quota is; nothing is tried again before."""
    monkeypatch.setattr("node.routing.attempt.time.time", lambda: NOW_MS / 1000)
    topology = mesh("alpha.m", "beta.m", provider={"limits": limits}, pool={"retry": {"max_attempts": 3}})
    place = House(topology, ScriptedTransport(alpha=spent_day(quota), beta=whole()))
    await place.serve()
    failed = place.ledger.settled[0]

    assert failed.outcome is outcome
    assert failed.retry_after_ms == (hours * 3600 + 46 * 60 + 40) * 1000
    assert place.trail.attempts == 2


@in_virtual_time
async def test_a_day_of_nobody_knows_which_calendar_is_an_hour() -> None:
    """Then it is tried again."""
    place = house(alpha=spent_day("RequestsPerDayPerProject"), beta=whole())
    await place.serve()

    assert place.ledger.settled[0].outcome is Outcome.QUOTA
    assert place.ledger.settled[0].retry_after_ms == 3_600_000


@pytest.mark.parametrize(
    ("schedule", "hours"),
    [("daily_utc", 1), ("monthly", 16 * 24 + 1), (None, None)],
)
@in_virtual_time
async def test_spent_money_comes_back_by_the_pools_schedule(
    monkeypatch: pytest.MonkeyPatch, schedule: str | None, hours: int | None
) -> None:
    """Where the provider names no time; without a schedule it is tried after an hour. NOW_MS is 14 November 2023, 22:13:20 UTC."""
    monkeypatch.setattr("node.routing.attempt.time.time", lambda: NOW_MS / 1000)
    recovery = {"quota_reset_schedule": schedule} if schedule else {}
    topology = mesh("alpha.m", "beta.m", pool={"recovery": recovery})
    spent = refused(429, code="insufficient_quota")
    place = House(topology, ScriptedTransport(alpha=spent, beta=whole()))
    await place.serve()
    wait_s = 3600 if hours is None else hours * 3600 + 46 * 60 + 40

    assert place.ledger.settled[0].retry_after_ms == wait_s * 1000


@in_virtual_time
async def test_a_time_that_the_provider_names_wins_over_the_schedule() -> None:
    """It knows better."""
    topology = mesh("alpha.m", "beta.m", pool={"recovery": {"quota_reset_schedule": "monthly"}})
    spent = refused(429, code="insufficient_quota", headers={"retry-after": "7200"})
    place = House(topology, ScriptedTransport(alpha=spent, beta=whole()))
    await place.serve()

    assert place.ledger.settled[0].retry_after_ms == 7_200_000
