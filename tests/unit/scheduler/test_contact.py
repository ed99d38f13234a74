"""Contact with the store: what counts as a gap, and what is said about it."""

from __future__ import annotations

import pytest
from structlog.testing import capture_logs

from scheduler.contact import Contact, describe


class Clock:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def contact(clock: Clock) -> Contact:
    return Contact("redis://example", clock=clock)


def watch(contact: Contact, clock: Clock, *, seconds: int, server_s: float = 5000.0) -> float:
    """One reading a second; the server's time at the last."""
    for _ in range(seconds):
        clock.now_s += 1
        server_s += 1
        contact.observe(server_s)
    return server_s


def test_it_is_steady_for_as_long_as_it_was_watched(contact: Contact, clock: Clock) -> None:
    """The first reading begins the watch, each further one lengthens it."""
    assert contact.steady_s == 0

    watch(contact, clock, seconds=7)

    assert contact.steady_s == 6


def test_a_failed_call_begins_the_watch_anew(contact: Contact, clock: Clock) -> None:
    """Whatever happened while the store was away, nobody saw it."""
    server_s = watch(contact, clock, seconds=7)

    contact.lose(TimeoutError())
    assert contact.steady_s == 0
    contact.observe(server_s)
    assert contact.steady_s == 0


@pytest.mark.parametrize(
    ("ours_s", "servers_s"),
    [(3.0, 3.0), (0.5, 4.0), (0.5, -4.0)],
    ids=["we slept", "the server's clock jumped ahead", "the server's clock was set back"],
)
def test_a_gap_begins_the_watch_anew(contact: Contact, clock: Clock, ours_s: float, servers_s: float) -> None:
    """A pause of ours, or two clocks that disagree about the time in between."""
    server_s = watch(contact, clock, seconds=7)

    clock.now_s += ours_s
    contact.observe(server_s + servers_s)

    assert contact.steady_s == 0


def test_loss_and_return_are_logged_once(contact: Contact, clock: Clock) -> None:
    """A store that is away for an hour fills no disk."""
    with capture_logs() as logs:
        for _ in range(3):
            contact.lose(ConnectionRefusedError("refused"))
        watch(contact, clock, seconds=3)

    assert [entry["event"] for entry in logs] == ["redis is away, waiting for it", "redis is back"]


def test_an_error_without_text_is_described_by_its_name() -> None:
    """Most timeouts are silent."""
    assert describe(TimeoutError()) == "TimeoutError"
    assert describe(OSError("two\nlines")) == "two lines"
