"""The file that describes somebody else's limits."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from benchmarks.exactness_windows import PlanError, Price, read_plan

_OURS = ("modelmesh", "node", "scheduler", "shared_state")


def _read(tmp_path, text: str):
    path = tmp_path / "limits.yaml"
    path.write_text(text)
    return read_plan(path)


def test_a_plan_names_what_to_ask_for_and_what_must_hold(tmp_path):
    """By default everything that has a limit is asked for under its upstream's name."""
    plan = _read(
        tmp_path,
        """
        prices: {small: {input: 1, output: 4}}
        windows:
          - {models: small, kind: rpm, limit: 60}
          - {scope: account, models: [small, large], kind: tpd, limit: 1000, timezone: Asia/Kathmandu}
          - {models: small, kind: usd_per_day, limit: 0.5}
          - {models: large, kind: min_delta, limit: 0.2, slack: 0.01}
          - {models: large, kind: rpm, limit: 60, algorithm: token_bucket}
        """,
    )
    minute, account, money, spacing, bucket = plan.windows

    assert plan.asks == ("large", "small")
    assert (minute.scope, minute.way, minute.tolerance) == ("small", "sliding", 0)
    assert (account.scope, account.way, account.timezone) == ("account", "calendar", "Asia/Kathmandu")
    assert (money.way, money.period, money.prices["small"]) == ("calendar", "d", Price(1, 4))
    assert (spacing.way, spacing.tolerance) == ("min_delta", 0.01)
    assert (bucket.way, bucket.tolerance) == ("token_bucket", 0.25)


def test_json_is_read_as_well(tmp_path):
    """With names of its own for those who ask."""
    windows = [{"models": ["m"], "kind": "concurrency", "limit": 3}]
    plan = _read(tmp_path, json.dumps({"asks": ["chat"], "windows": windows}))

    assert plan.asks == ("chat",)
    assert plan.windows[0].way == "concurrency"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[]", "a list of `windows`"),
        ("windows: []", "a list of `windows`"),
        ("{windows: [{models: m, kind: rpm, limit: 1}], models: []}", "models unknown"),
        ("windows: [{models: m, kind: rpm}]", "limit is missing"),
        ("windows: [{models: m, kind: rps, limit: 1}]", "kind 'rps'"),
        ("windows: [{models: m, kind: rpm, limit: 1, algorithm: fixed}]", "algorithm 'fixed'"),
        ("windows: [{models: m, kind: usd_per_day, limit: 1}]", "needs `prices` of m"),
        ("windows: [{models: m, kind: rpm, limit: 1, zone: UTC}]", "zone unknown"),
        ("windows: [rpm]", "windows.0: a mapping"),
    ],
)
def test_a_wrong_file_is_refused_with_the_place_and_what_is_accepted(tmp_path, text, complaint):
    """Nothing is guessed."""
    with pytest.raises(PlanError) as refused:
        _read(tmp_path, text)

    assert complaint in str(refused.value)


def test_load_upstream_and_oracle_know_nothing_of_what_they_examine():
    """Pointed at an endpoint, none of our packages is even loaded."""
    code = (
        "import sys, benchmarks.exactness; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert not set(_OURS) & set(done.stdout.split())
