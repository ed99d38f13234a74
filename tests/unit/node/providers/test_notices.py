"""Limits that a provider tells and the configuration does not know."""

from __future__ import annotations

from typing import Any

import structlog

from node.providers.notices import LimitNotices
from tests.unit.node.house import mesh


def notices(**limits: Any) -> tuple[LimitNotices, Any, list[float]]:
    """The notices of an account with these limits on its model, the model, and the clock."""
    topology = mesh("alpha.small", model={"limits": limits})
    model = topology.models["alpha.small"]
    clock = [1000.0]
    return LimitNotices(topology.providers[model.provider], now=lambda: clock[0]), model, clock


HEADERS = {"x-ratelimit-limit-requests": "60", "x-ratelimit-limit-tokens": "90000"}


def test_a_lower_limit_and_an_unknown_one_are_told_once() -> None:
    """A higher one is no news, and the same news is told only once."""
    told, model, clock = notices(rpm=600)
    with structlog.testing.capture_logs() as logs:
        for _ in range(3):
            told.note(HEADERS, model)
            clock[0] += 100

    assert [(entry["log_level"], entry["window"], entry["provider_says"]) for entry in logs] == [
        ("warning", "rpm", 60),
        ("info", "tpm", 90_000),
    ]
    assert logs[0]["configured"] == 600
    assert (logs[0]["provider"], logs[0]["model"]) == ("alpha", "alpha.small")


def test_a_changed_limit_is_told_again() -> None:
    """At most once a minute."""
    told, model, clock = notices(rpm=600, tpm=1000)
    with structlog.testing.capture_logs() as logs:
        told.note(HEADERS, model)
        told.note({"x-ratelimit-limit-requests": "30"}, model)
        clock[0] += 61
        told.note({"x-ratelimit-limit-requests": "30"}, model)

    assert [entry["provider_says"] for entry in logs] == [60, 30]


def test_a_limit_that_is_obeyed_is_no_news() -> None:
    """Configured as low, or lower."""
    told, model, _ = notices(rpm=60, tpm=1000)
    with structlog.testing.capture_logs() as logs:
        told.note(HEADERS, model)

    assert logs == []
