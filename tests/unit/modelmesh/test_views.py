"""What operators see."""

from __future__ import annotations

import re
from typing import Any

import pytest
from rich.console import Console

from modelmesh.audit_view import audit_view, is_balanced, rows_off
from modelmesh.decision_view import explain_view, replay_view
from modelmesh.drawing import amount, back, bar, span, until
from modelmesh.stats_view import stats_view
from modelmesh.usage_view import usage_view
from modelmesh.views import (
    events_view,
    models_view,
    nodes_view,
    pools_view,
    providers_view,
    status_view,
    timetable_view,
)
from shared_state.shapes.decision import ExplainView, ReplayView
from shared_state.shapes.statistics import StatsView
from shared_state.shapes.status import BooksView, JobView, LeftoverView, PanicView, StatusView
from shared_state.shapes.usage import UsageView
from tests.unit.modelmesh.samples import NOW, books, explained, replayed, stats, status, usage


def render(view: object) -> str:
    """The view as text of a wide terminal without colours."""
    console = Console(width=200, color_system=None)
    with console.capture() as capture:
        console.print(view)
    return capture.get()


def seen(answer: dict[str, Any] | None = None) -> StatusView:
    """A status as the commands understand it."""
    return StatusView.model_validate(answer or status())


def seen_books(**how: Any) -> BooksView:
    return BooksView.model_validate(books(**how))


def line_with(text: str, word: str) -> str:
    return next(line for line in text.splitlines() if word in line)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "0.0s"),
        (0.24, "0.2s"),
        (1, "1s"),
        (59.9, "59s"),
        (60, "1m"),
        (3605, "1h"),
        (5400, "1h 30m"),
        (90_000, "1d 1h"),
    ],
)
def test_spans_show_their_two_largest_units(seconds, text):
    """People want a size, not a count of seconds."""
    assert span(seconds) == text


@pytest.mark.parametrize(("moment", "text"), [(None, ""), (NOW + 45, "in 45s"), (NOW - 1, "due")])
def test_times_to_come(moment, text):
    """A time that has passed is due, none is nothing."""
    assert until(moment, now=NOW) == text


def test_the_status_shows_every_part():
    """Mode, store, leader, the timetable, and all tables."""
    text = render(status_view(seen(), now=NOW))

    for word in (
        "exact",
        "c0ffee12",
        "connected, 0.4 ms",
        "clock-1 for 1h 2m",
        "disk full",
        "reap",
        "n2",
        "beta.large",
    ):
        assert word in text


def test_the_timetable_shows_what_is_late_failed_missed_and_overran():
    """An overdue job stands out even if nobody is left to report it."""
    jobs = [
        JobView(
            name="flush",
            interval_s=60,
            last_run=NOW - 200,
            duration_ms=61_000,
            next_run=NOW - 120,
            last_error="disk full",
            runs=9,
            failures=4,
            missed=3,
            overruns=2,
        ),
        JobView(name="reap", interval_s=1, last_run=NOW - 1, duration_ms=2, next_run=NOW + 0.5, runs=70),
        JobView(name="sweep", interval_s=60),
    ]
    console = Console(width=200, color_system="standard", force_terminal=True)
    with console.capture() as capture:
        console.print(timetable_view(jobs, now=NOW))
    lines = [re.sub(r" +", " ", line) for line in capture.get().splitlines() if line.strip()]
    late, fine, fresh = (line.replace("m ", "m") for line in lines[-3:])

    for word in ("33m61,000 ms", "1;31moverdue by 2m", "1;31m4", "33m3", "33m2", "1;31mdisk full"):
        assert f"\x1b[{word}" in late, word
    assert "\x1b[32min 0.5s" in fine
    assert "never" in fresh


def test_an_explanation_shows_stages_reasons_and_room():
    """Who is left at each stage, why the others are not, and when a full one opens."""
    text = render(explain_view(ExplainView.model_validate(explained()), now=NOW))

    for word in (
        "➜ beta.large  for chat by chat completions",
        "NeedsFilter        2 left",
        "✘ gamma.tiny  tool calling",
        "SelectionStrategy  2 left  alpha.small > beta.large",
        "chat  modelmesh.round-robin.v1  turn 12",
        "alpha.small: 2 in flight, latency 640 ms, 25% left",
        "rpm: takes 1, 0 of 60 left",
        "in 45s",
        "not asked",
    ):
        assert word in text, word


@pytest.mark.parametrize(
    ("because", "told"),
    [
        ("near_limit", "would be held: the preferred model"),
        ("queue_full", "would be refused"),
        ("", "would not be held"),
    ],
)
def test_an_explanation_tells_the_key_and_the_wait(because: str, told: str):
    """Whose limits counted, and what becomes of the request in a pool that rather waits."""
    waiting = {"pool": "chat", "action": "queue", "waits": because == "near_limit", "because": because}
    waiting |= {"max_wait_s": 30.0, "threshold": 0.8, "length": 3, "size": 100}
    view = {**explained(), "key": {"id": "0f3a", "models": []}, "waiting": waiting}
    text = render(explain_view(ExplainView.model_validate(view), now=NOW))

    for word in ("with client key 0f3a", "chat rather waits (queue, at most 30 s)", told, "3 of 100 wait"):
        assert word in text, word


def test_a_decision_shows_every_attempt():
    """What admission said, how attempts ended; no control character of a provider's reaches the terminal."""
    text = render(replay_view(ReplayView.model_validate(replayed(same=False))))

    for word in (
        "at limit rpm, open 45s later",
        "failure: server_?[31merror (500)",
        "success",
        "120 ms",
        "$0.0019",
    ):
        assert word in text, word
    assert "recorded on configuration 0ld, replayed on c0ffee12" in text
    assert "\x1b" not in text


def test_what_is_wrong_with_the_store_stands_out():
    """Errors and warnings in their colours; what is only for information is not shown."""
    console = Console(width=200, color_system="standard", force_terminal=True)
    with console.capture() as capture:
        console.print(status_view(seen(), now=NOW))
    text = capture.get()

    assert "\x1b[1;31merror: maxmemory-policy is allkeys-lru" in text
    assert "\x1b[33mwarning: appendfsync is no" in text
    assert "INFO is refused" not in text


def test_a_store_that_is_away_and_a_missing_leader_are_told():
    """The two facts an operator must not overlook."""
    answer = status()
    answer["store"]["connected"] = False
    answer["scheduler"].update(leader=None, since=None)

    text = render(status_view(seen(answer), now=NOW))

    assert "away" in text
    assert "nobody leads" in text


def test_models_show_why_and_until_when():
    """Reason, time and windows of a model stand in its line."""
    line = line_with(render(models_view(seen().models, now=NOW)), "beta.large")

    assert "standby" in line
    assert "in 45s" in line
    assert "rpm 59/60" in line


def test_a_reason_cannot_play_tricks_on_the_terminal():
    """Texts of providers are shown as they are: no escape sequence, no markup."""
    text = render(models_view(seen().models, now=NOW))

    assert "rate_limit: ?[31mslow [bold]down" in text
    assert "\x1b" not in text


def test_a_pool_in_panic_says_so():
    """Beside its name, with what was asked on faith."""
    (pool,) = seen().pools
    panicking = pool.model_copy(update={"panic": PanicView(since=NOW - 9, asked=12, answered=3)})

    assert "panic: 12 asked, 3 answered" in render(pools_view([panicking]))
    assert "panic" not in render(pools_view([pool]))


def test_the_other_tables_name_their_things():
    """One line each for nodes, pools, providers and events."""
    answer = seen()

    assert "alive" in line_with(render(nodes_view(answer.nodes, now=NOW)), "n1")
    inside = answer.nodes[0].model_copy(update={"host": "web-1", "port": 0})
    assert "in a program on web-1" in line_with(render(nodes_view([inside], now=NOW)), "n1")
    assert "alpha.small beta.large" in line_with(render(pools_view(answer.pools)), "chat")
    provider = line_with(render(providers_view(answer.providers, now=NOW)), "alpha")
    assert "openai-compatible.v1" in provider
    assert "degraded 87%" in provider
    assert "model deactivated" in line_with(render(events_view(answer.events, now=NOW)), "3s ago")


def test_balanced_books_say_so():
    """The verdict stands below all balances, in words and numbers."""
    shown = render(audit_view(seen_books()))

    assert "The books balance: 10 admitted = 7 settled + 1 abandoned + 2 in flight." in shown
    for kind in ("models", "providers", "pools", "domains"):
        assert line_with(shown, f" {kind} ").split()[-1] == "0"
    assert line_with(shown, "held leases").split()[2] == "0"
    assert "What is off" not in shown


def test_differences_beside_the_counts_are_told():
    """A lease that windows do not know puts no row off, and the books all the same."""
    off = books()
    off["balanced"] = False
    off["causes"]["held_leases"] = 3
    off["differences"] = [
        {"cause": "held_leases", "domain": "alpha", "where": "requests held of the account", "amount": -3}
    ]
    view = BooksView.model_validate(off)
    shown = render(audit_view(view))

    assert not is_balanced(view)
    assert "-3" in line_with(shown, "requests held of the account")
    assert "The books are off in 0 of 1 rows, and 1 other difference." in shown


def test_books_that_are_off_name_the_row():
    """The difference stands in the row, the number of rows in the verdict."""
    text = render(audit_view(seen_books(difference=2)))

    assert line_with(text, "alpha.small").split()[-1] == "+2"
    assert "The books are off in 1 of 1 rows." in text


def test_the_audit_lists_what_is_configured_no_more():
    """When it goes, if ever; a table of its own, and only where there is something."""
    view = seen_books()
    left = [
        LeftoverView(
            kind="model", domain="alpha", id="alpha.old", seen=0, goes=view.time + 7200, in_flight=3
        ),
        LeftoverView(kind="domain", domain="beta", id="beta", seen=0, goes=None, in_flight=0),
    ]
    shown = render(audit_view(view.model_copy(update={"leftovers": left})))

    assert "in 2h" in line_with(shown, "alpha.old")
    assert "never" in line_with(shown, "beta ")
    assert "No longer configured" not in render(audit_view(view))


def test_the_audit_counts_for_itself():
    """Books that claim to balance, and do not, are off; so are books that claim to be off."""
    forged = books(difference=2, balanced=True)
    forged["rows"][0]["difference"] = forged["totals"]["difference"] = 0
    view = BooksView.model_validate(forged)

    assert rows_off(view) == view.rows
    assert not is_balanced(view)
    assert not is_balanced(seen_books(balanced=False))
    assert is_balanced(seen_books())


def test_usage_shows_bars_and_when_it_runs_dry():
    """Quotas of pools, then the windows behind them; what is unlimited says so."""
    shown = render(usage_view(UsageView.model_validate(usage()), now=NOW))
    quota, window = line_with(shown, "requests per day"), line_with(shown, "alpha.small (standby)")

    assert "█" * 15 in quota
    assert "in 1m 30s" in quota
    assert quota.split()[-7:-3] == ["45", "1,000", "200", "30/min"]
    assert "unlimited" in line_with(shown, "requests per minute")
    assert "$0.0425" in line_with(shown, "USD per month")
    assert "no limits" in line_with(shown, "local")
    assert "in 1h" in window


def test_statistics_show_rows_sum_and_timeline():
    """Times in a unit that fits; the minute with many failures stands out."""
    view = StatsView.model_validate(stats())
    shown = render(stats_view(view))
    row = line_with(shown, "alpha.small")

    for word in ("1,234", "30", "250.0k", "$0.0123", "820 ms", "12.0 s"):
        assert word in row
    assert "█▂" in line_with(shown, "requests a minute")
    assert "Redis keeps the last 60 minutes" in shown


@pytest.mark.parametrize("width", [60, 80, 100, 200])
def test_tables_fit_the_terminal(width):
    """A narrow one sees the columns that matter, whole."""
    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(usage_view(UsageView.model_validate(usage()), now=NOW))
    pools = capture.get().partition("Accounts")[0]

    assert all(len(line) <= width for line in pools.splitlines())
    assert "in 1m 30s" in pools
    assert ("resting" in pools) is (width >= 120)


@pytest.mark.parametrize(
    ("share", "held", "drawn"),
    [
        (0.0, 0.0, "░" * 8),
        (0.001, 0.0, "▏" + "░" * 7),
        (0.5, 0.0, "████░░░░"),
        (0.75, 0.25, "████▒▒░░"),
        (1.0, 0.0, "█" * 8),
        (1.5, 0.0, "█" * 8),
    ],
)
def test_bars(share, held, drawn):
    """As long as the share, never longer than their place; the least use is seen."""
    assert bar(share, held=held, width=8).plain == drawn


@pytest.mark.parametrize(
    ("value", "is_money", "text"),
    [
        (0, False, "0"),
        (7, False, "7"),
        (0.25, False, "0.25"),
        (99_999, False, "99,999"),
        (123_456, False, "123.5k"),
        (4_500_000, False, "4.5M"),
        (0, True, "$0.00"),
        (0.0425, True, "$0.0425"),
        (1.5, True, "$1.50"),
        (1234.5678, True, "$1,234.56"),
    ],
)
def test_amounts_are_short(value, is_money, text):
    """A number in a table is read at a glance."""
    assert amount(value, is_money=is_money) == text


@pytest.mark.parametrize(
    ("moment", "trigger", "text"),
    [
        (None, "", ""),
        (NOW + 30, "", "in 30s"),
        (NOW + 30, "cooldown_expired", "in 30s"),
        (NOW + 30, "probe_success", "in 30s, trial"),
        (NOW - 30, "probe_success", "due, trial"),
        (NOW + 7200, "quota_reset", "in 2h, reset"),
        (None, "manual", "by order"),
    ],
)
def test_what_brings_something_back_is_told(moment: float | None, trigger: str, text: str) -> None:
    """The time alone where that is all."""
    assert back(moment, trigger, now=NOW) == text
