"""Server time between two replies."""

from __future__ import annotations

import time

import pytest

from shared_state import clock as module
from shared_state.clock import ServerClock


@pytest.fixture
def monotonic(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The process's own clock, moved by the test; the wall clock stands still."""
    now = [500.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(module.time, "time", lambda: 2_000.0)
    return now


def test_before_the_first_reply_it_is_the_wall_clock(monotonic: list[float]) -> None:
    """A guess is better than nothing, and the first reply mends it."""
    assert ServerClock().now_ms() == 2_000_000


def test_it_goes_on_from_the_last_reply(monotonic: list[float]) -> None:
    """The server's word counts, then our own monotonic clock."""
    clock = ServerClock()

    clock.observe(9_000_000)
    assert clock.now_ms() == 9_000_000

    monotonic[0] += 1.5
    assert clock.now_ms() == 9_001_500


def test_it_follows_a_server_that_steps_back(monotonic: list[float]) -> None:
    """A promoted replica may be behind; its time is the time."""
    clock = ServerClock()

    clock.observe(9_000_000)
    clock.observe(8_990_000)
    assert clock.now_ms() == 8_990_000


def test_a_step_of_the_wall_clock_does_not_matter(
    monotonic: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The offset is to the monotonic clock."""
    clock = ServerClock()
    clock.observe(9_000_000)

    monkeypatch.setattr(time, "time", lambda: 99_999.0)
    assert clock.now_ms() == 9_000_000
