"""Events in the terminal: a line each, and a feed that goes on when a node ends it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

import pytest

from modelmesh.errors import OpsUnreachableError
from modelmesh.event_feed import event_line, follow
from shared_state.shapes.status import EventView

START = time.time()


def event(
    name: str, at: float = 0.0, *, kind: str = "model_deactivated", until: float | None = None
) -> EventView:
    return EventView(
        time=START + at,
        type=kind,
        domain="alpha",
        model=name,
        provider=None,
        reason="a\x1b whim",
        until=until,
        node="n1",
    )


class Nodes:
    """Feeds that a client is given, one after the other; an error is raised where one stands."""

    def __init__(self, *feeds: list[EventView | Exception]) -> None:
        self.feeds = iter(feeds)
        self.asked: list[int] = []
        self.breaks = 0
        self.pauses = 0

    def open(self, last: int) -> Iterator[EventView]:
        self.asked.append(last)
        for item in next(self.feeds):
            if isinstance(item, Exception):
                raise item
            yield item

    def read(self, count: int, *, last: int = 10) -> list[str | None]:
        def on_break() -> None:
            self.breaks += 1

        def pause() -> None:
            self.pauses += 1

        feed = follow(self.open, last=last, on_break=on_break, pause=pause)
        return [found.model for found in itertools.islice(feed, count)]


def test_a_feed_that_ends_is_opened_again_and_nothing_is_told_twice():
    """Whether the node drained or died."""
    old, a, b, c = event("old", -60), event("a"), event("b", 1), event("c", 2)
    nodes = Nodes(
        [a], [OpsUnreachableError("gone")], [old, a, b], [b, OpsUnreachableError("cut")], [old, a, b, c]
    )

    assert nodes.read(3, last=1) == ["a", "b", "c"]
    assert nodes.breaks == 1
    assert nodes.pauses == 4
    assert nodes.asked[0] == 1


def test_nobody_there_from_the_beginning_is_an_error():
    """It is not waited for."""
    with pytest.raises(OpsUnreachableError):
        Nodes([OpsUnreachableError("refused")]).read(1)


def test_a_line_says_who_why_and_how_long():
    """And no control character of theirs reaches the terminal."""
    line = event_line(event("alpha.small", until=START + 90)).plain

    for word in ("model deactivated", "alpha.small", "a? whim", "for 1m 30s", "by n1"):
        assert word in line


def test_an_event_of_a_domain_tells_its_numbers():
    """What was restored, and how old the copy was."""
    restored = event("", kind="state_restored").model_copy(
        update={"model": None, "numbers": {"age_ms": 12000}}
    )
    line = event_line(restored).plain

    assert "state restored" in line
    assert "alpha " in line
    assert "age_ms 12,000" in line


def test_an_event_of_a_pool_names_the_pool():
    """And not the domain of its gate."""
    panic = event("", kind="pool_panic_over").model_copy(
        update={"model": None, "pool": "chat", "domain": "pool:chat", "numbers": {"asked": 12}}
    )
    line = event_line(panic).plain

    assert "pool panic over" in line
    assert "  chat  " in line
    assert "asked 12" in line


def test_an_old_event_has_its_date():
    """The time of day alone would mislead."""
    line = event_line(event("alpha.small", -2 * 86_400)).plain

    assert line.startswith(time.strftime("%Y-", time.localtime(START - 2 * 86_400)))
