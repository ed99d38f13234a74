"""The error that a caller gets when nobody served the call."""

from __future__ import annotations

from typing import Any

import pytest

from node.routing.fitness import TextFacts
from node.routing.pipeline import Plan
from node.routing.prospects import Prospects
from node.routing.verdicts import Refusals
from shared_state.errors import (
    AllProvidersExhaustedError,
    LimitReachedError,
    ModelMeshError,
    NoActiveModelError,
    ProviderTimeoutError,
    ProviderUnavailableError,
    RateLimitError,
    RejectedRequestError,
    StateUnavailableError,
)
from shared_state.ledger import Code, Verdict
from tests.unit.node.house import NOW_MS, chat, mesh

SERVER = ProviderUnavailableError("boom", status=500)
PACE = RateLimitError("slow down", status=429, retry_after_s=7.0)


async def judge(
    *verdicts: Verdict, errors: list[Any] | None = None, skipped: dict[str, str] | None = None, **facts: Any
) -> ModelMeshError:
    """The error after these refusals and failures."""
    call = chat()
    topology = mesh("alpha.small")
    meaning = topology.resolve("chat")
    prospect = Prospects(topology).of(call, meaning)
    plan = Plan(call, meaning, prospect, TextFacts(call), NOW_MS, skipped=skipped or {}, **facts)
    return Refusals(list(verdicts), errors or []).error(plan, NOW_MS)


def at_limit(in_ms: int) -> Verdict:
    return Verdict(Code.AT_LIMIT, NOW_MS + in_ms, "rpm")


def on_standby(in_ms: int | None = None) -> Verdict:
    return Verdict(Code.STANDBY, 0 if in_ms is None else NOW_MS + in_ms, "error_threshold")


@pytest.mark.parametrize(
    ("verdicts", "kind", "code", "wait_s"),
    [
        ([at_limit(2500)], LimitReachedError, "rate_limit_exceeded", 2.5),
        ([at_limit(2500), at_limit(900)], LimitReachedError, "rate_limit_exceeded", 0.9),
        ([at_limit(-50)], LimitReachedError, "rate_limit_exceeded", 0.001),
        ([at_limit(2500), on_standby(600)], LimitReachedError, "rate_limit_exceeded", 0.6),
        ([at_limit(2500), on_standby()], LimitReachedError, "rate_limit_exceeded", 1.0),
        ([Verdict(Code.HELD, NOW_MS + 1400)], StateUnavailableError, "state_unavailable", 1.4),
        ([Verdict(Code.HELD, NOW_MS + 1400), at_limit(300)], StateUnavailableError, "state_unavailable", 0.3),
        ([Verdict(Code.TOO_LARGE, -1, "tpm")], LimitReachedError, "request_too_large_for_limit", 1.0),
        ([Verdict(Code.TOO_LARGE, -1), on_standby(600)], LimitReachedError, "rate_limit_exceeded", 0.6),
        ([on_standby(4000)], NoActiveModelError, "no_active_model", 4.0),
        (
            [Verdict(Code.STANDBY, NOW_MS + 4000, "rate_limited")],
            LimitReachedError,
            "rate_limit_exceeded",
            4.0,
        ),
        ([Verdict(Code.TRIAL_TAKEN, NOW_MS + 300)], NoActiveModelError, "no_active_model", 0.3),
        ([Verdict(Code.STORE_AWAY)], StateUnavailableError, "state_unavailable", 1.0),
        ([at_limit(500), Verdict(Code.STORE_AWAY)], StateUnavailableError, "state_unavailable", 1.0),
        ([], NoActiveModelError, "no_active_model", 1.0),
    ],
)
async def test_refusals_become_the_most_telling_error(
    verdicts: list[Verdict], kind: type[ModelMeshError], code: str, wait_s: float
) -> None:
    """A limit says 429 with the earliest time; standby says 503."""
    error = await judge(*verdicts)

    assert type(error) is kind
    assert error.code == code
    assert error.retry_after_s == pytest.approx(wait_s)


@pytest.mark.parametrize(
    ("only_rate_limits", "kind"), [(True, LimitReachedError), (False, NoActiveModelError)]
)
async def test_models_that_were_never_asked_count_too(
    only_rate_limits: bool, kind: type[ModelMeshError]
) -> None:
    """All resting because of a provider's 429 is a limit; any other reason is not."""
    error = await judge(
        skipped={"alpha.small": "x"}, only_rate_limits=only_rate_limits, opens_ms=NOW_MS + 5000
    )

    assert type(error) is kind
    assert error.retry_after_s == pytest.approx(5.0)


async def test_the_earliest_of_all_times_counts() -> None:
    """Between those refused in Redis and those that rest by the snapshot."""
    error = await judge(at_limit(8000), skipped={"b": "rate_limited"}, opens_ms=NOW_MS + 3000)

    assert error.retry_after_s == pytest.approx(3.0)


async def test_a_failed_attempt_tells_more_than_a_refusal() -> None:
    """502 names the last failure and how many there were."""
    error = await judge(at_limit(100), errors=[ProviderTimeoutError("slow"), SERVER])

    assert type(error) is AllProvidersExhaustedError
    assert "2 attempts" in error.message
    assert "boom" in error.message


async def test_providers_that_all_ask_to_wait_are_a_limit() -> None:
    """The shortest wait is the caller's."""
    pace = RateLimitError("slow down", status=429, retry_after_s=3.0)
    error = await judge(errors=[PACE, pace])

    assert type(error) is LimitReachedError
    assert error.retry_after_s == 3.0
    assert type(await judge(errors=[PACE, SERVER])) is AllProvidersExhaustedError


async def test_providers_that_ask_to_wait_without_a_time_get_a_second() -> None:
    """A 429 always has its retry-after."""
    error = await judge(errors=[RateLimitError("slow down", status=429)])

    assert error.retry_after_s == 1.0


async def test_a_callers_mistake_is_handed_on() -> None:
    """Even if others failed before."""
    mistake = RejectedRequestError("bad", status=422, body=b"{}")

    assert await judge(errors=[SERVER, mistake]) is mistake
