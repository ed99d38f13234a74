"""Which series rise, and which only look like it."""

from __future__ import annotations

import random

import pytest

from benchmarks.slopes import Tolerance, slope_of

TIMES = [10.0 * number for number in range(72)]
TOLERANCE = Tolerance(2.0, share=0.02)


def noise(seed: int, *, width: float = 3.0) -> list[float]:
    draw = random.Random(seed)
    return [100.0 + draw.uniform(-width, width) for _ in TIMES]


def test_a_straight_line_has_its_slope() -> None:
    """Per hour, and as the growth over the series."""
    found = slope_of(TIMES, [5.0 + 0.01 * at for at in TIMES])

    assert found.per_hour == pytest.approx(36.0)
    assert found.growth == pytest.approx(7.1)


@pytest.mark.parametrize("seed", range(20))
def test_noise_does_not_rise(seed: int) -> None:
    """Twelve minutes of a steady process that jitters."""
    assert TOLERANCE.forgives(slope_of(TIMES, noise(seed)))


@pytest.mark.parametrize("seed", range(20))
def test_a_leak_under_noise_rises(seed: int) -> None:
    """Ten of a hundred in twelve minutes, under jitter of three."""
    values = [value + 10 * at / TIMES[-1] for value, at in zip(noise(seed), TIMES, strict=True)]

    assert not TOLERANCE.forgives(slope_of(TIMES, values))


def test_a_step_at_the_begin_and_spikes_are_no_slope() -> None:
    """Memory that is taken once is not lost again and again."""
    values = [90.0] * 5 + noise(1, width=0.5)[5:]
    values[20] = values[40] = 400.0

    assert TOLERANCE.forgives(slope_of(TIMES, values))


def test_what_falls_is_forgiven() -> None:
    """Only growth is a fault."""
    assert TOLERANCE.forgives(slope_of(TIMES, [1000.0 - at for at in TIMES]))
