"""Caps and maintenance windows of pools become their members': the strictest word, the right calendar, every contradiction a fault."""

from __future__ import annotations

from typing import Any

import pytest

from shared_state.config.limits import Cap, caps_of
from shared_state.errors import ConfigurationError
from tests.unit.shared_state.test_selection import faults, topology


def caps(model: str, **sections: Any) -> dict[str, Cap]:
    limits = topology(**sections).models[model].config.limits
    return {cap.reason: cap for cap in caps_of(limits)}


def test_the_stricter_of_two_pools_holds():
    """Cap by cap; models of neither pool have none."""
    pools: dict[str, Any] = {
        "models": {"a.m": {"pricing": {"input": 0}}},
        "chat": {"models": ["a.m"], "deactivation": {"request_limit": 100, "budget_limit": 3}},
        "more": {"models": ["a.m", "b.m"], "deactivation": {"request_limit": 40}},
    }
    seen = {model: {r: c.most for r, c in caps(model, **pools).items()} for model in ("a.m", "b.m", "c.m")}

    assert seen == {
        "a.m": {"budget_exceeded": 3, "request_limit": 40},
        "b.m": {"request_limit": 40},
        "c.m": {},
    }


def test_periods_are_those_of_the_models_calendar_by_default_months():
    """The model's own zone wins; ``daily_utc`` wins over both."""
    models = {"a.m": {"limits": {"rpd": 9, "timezone": "Asia/Tokyo", "reset_hour": 4}}}
    monthly = caps("a.m", models=models, chat={"deactivation": {"token_limit": 9}})["token_limit"]
    utc = caps(
        "a.m",
        models=models,
        chat={"deactivation": {"token_limit": 9}, "recovery": {"quota_reset_schedule": "daily_utc"}},
    )["token_limit"]

    assert (monthly.period, monthly.timezone, monthly.reset_hour) == ("M", "Asia/Tokyo", 4)
    assert (utc.period, utc.timezone, utc.reset_hour) == ("d", "UTC", 0)


def test_two_periods_for_one_cap_are_a_fault():
    """A model has one standby for one reason."""
    with pytest.raises(ConfigurationError, match="caps 'a.m' over another period"):
        topology(
            chat={"deactivation": {"request_limit": 1, "quota_window": "daily"}},
            more={"deactivation": {"request_limit": 9, "quota_window": "monthly"}},
        )


def test_a_window_without_a_cap_and_two_words_for_it_are_faults():
    """Nothing is accepted that would not be obeyed."""
    assert "of no use without" in faults(deactivation={"quota_window": "daily"})[0]
    rules = {"deactivation": {"request_limit": 1, "quota_window": "monthly"}}
    assert (
        "quota_reset_schedule is daily_utc"
        in faults(**rules, recovery={"quota_reset_schedule": "daily_utc"})[0]
    )


def test_limits_of_the_model_stay_as_they_were():
    """The caps come on top."""
    spec = topology(
        models={"a.m": {"limits": {"rpm": 7}}}, chat={"deactivation": {"request_limit": 1}}
    ).models["a.m"]

    assert (spec.config.limits.rpm, spec.config.limits.model_fields_set) == (7, {"rpm"})


def test_money_can_be_capped_only_where_prices_are_known():
    """A cap on what nobody counts would never be reached."""
    assert "pricing" in faults(deactivation={"budget_limit": 1})[0]
    topology(
        models={name: {"pricing": {"input": 0}} for name in ("a.m", "b.m", "c.m")},
        chat={"deactivation": {"budget_limit": 1}},
    )
