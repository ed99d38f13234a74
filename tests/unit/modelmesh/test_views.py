"""What operators see."""

from __future__ import annotations

import pytest
from rich.console import Console

from modelmesh.views import (
    books_view,
    events_view,
    is_balanced,
    models_view,
    nodes_view,
    pools_view,
    providers_view,
    rows_off,
    span,
    status_view,
    until,
)
from tests.unit.modelmesh.samples import NOW, books, status


def render(view: object) -> str:
    """The view as text of a wide terminal without colours."""
    console = Console(width=200, color_system=None)
    with console.capture() as capture:
        console.print(view)
    return capture.get()


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
    """Mode, store, leader, failing jobs, and all tables."""
    text = render(status_view(status(), now=NOW))

    for word in (
        "exact",
        "c0ffee12",
        "connected, 0.4 ms",
        "clock-1 for 1h 2m",
        "flush: disk full",
        "n2",
        "beta.large",
    ):
        assert word in text
    assert "reap" not in text


def test_what_is_wrong_with_the_store_stands_out():
    """Errors and warnings in their colours; what is only for information is not shown."""
    console = Console(width=200, color_system="standard", force_terminal=True)
    with console.capture() as capture:
        console.print(status_view(status(), now=NOW))
    text = capture.get()

    assert "\x1b[1;31merror: maxmemory-policy is allkeys-lru" in text
    assert "\x1b[33mwarning: appendfsync is no" in text
    assert "INFO is refused" not in text


def test_a_store_that_is_away_and_a_missing_leader_are_told():
    """The two facts an operator must not overlook."""
    answer = status()
    answer["store"]["connected"] = False
    answer["scheduler"].update(leader=None, since=None)

    text = render(status_view(answer, now=NOW))

    assert "away" in text
    assert "nobody leads" in text


def test_models_show_why_and_until_when():
    """Reason, time and windows of a model stand in its line."""
    line = line_with(render(models_view(status()["models"], now=NOW)), "beta.large")

    assert "standby" in line
    assert "in 45s" in line
    assert "rpm 59/60" in line


def test_a_reason_cannot_play_tricks_on_the_terminal():
    """Texts of providers are shown as they are: no escape sequence, no markup."""
    text = render(models_view(status()["models"], now=NOW))

    assert "rate_limit: ?[31mslow [bold]down" in text
    assert "\x1b" not in text


def test_the_other_tables_name_their_things():
    """One line each for nodes, pools, providers and events."""
    answer = status()

    assert "alive" in line_with(render(nodes_view(answer["nodes"], now=NOW)), "n1")
    assert "alpha.small beta.large" in line_with(render(pools_view(answer["pools"])), "chat")
    assert "openai-compatible.v1" in line_with(render(providers_view(answer["providers"], now=NOW)), "alpha")
    assert "model deactivated" in line_with(render(events_view(answer["events"], now=NOW)), "3s ago")


def test_balanced_books_say_so():
    """The verdict stands below the rows."""
    assert "The books balance." in render(books_view(books()))


def test_books_that_are_off_name_the_row():
    """The difference stands in the row, the number of rows in the verdict."""
    text = render(books_view(books(difference=2)))

    assert line_with(text, "alpha.small").split()[-1] == "2"
    assert "The books are off in 1 of 1 rows." in text


def test_the_audit_counts_for_itself():
    """Books that claim to balance, and do not, are off; so are books that claim to be off."""
    forged = books(difference=2, balanced=True)
    forged["rows"][0]["difference"] = forged["totals"]["difference"] = 0

    assert rows_off(forged) == forged["rows"]
    assert not is_balanced(forged)
    assert not is_balanced(books(balanced=False))
    assert is_balanced(books())
