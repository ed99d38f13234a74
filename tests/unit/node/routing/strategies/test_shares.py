"""Fixed shares as a function of the turn: exact over a period, near in every stretch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.routing.strategies.shares import by_shares, even_draw
from tests.unit.node.house import mesh

MODELS = tuple(mesh("a.m", "b.m", "c.m", "d.m").models.values())
weight_lists = st.lists(st.integers(0, 60), min_size=4, max_size=4).filter(any)


def of_models(weights: Sequence[float]) -> dict[str, float]:
    return {spec.id: weight for spec, weight in zip(MODELS, weights, strict=True)}


@settings(max_examples=50)
@given(weights=weight_lists, first=st.integers(0, 10**9), length=st.integers(1, 400))
def test_any_stretch_of_turns_holds_about_the_shares(weights: list[int], first: int, length: int) -> None:
    """A node's block of turns is such a stretch, and so is what is left when another node has died."""
    picks = Counter(
        by_shares(MODELS, of_models(weights), turn)[0].id for turn in range(first, first + length)
    )

    for spec, weight in zip(MODELS, weights, strict=True):
        assert abs(picks[spec.id] - length * weight / sum(weights)) <= len(MODELS)


@pytest.mark.parametrize("weights", [[0.05, 0.475, 0.475, 0.0], [1e-5, 1, 1, 1], [1.5, 2.5, 0.25, 0.75]])
def test_fractions_are_kept_to_a_thousandth(weights: list[float]) -> None:
    """Whoever has a weight has turns, however small it is."""
    picks = Counter(by_shares(MODELS, of_models(weights), turn)[0].id for turn in range(10_000))

    for spec, weight in zip(MODELS, weights, strict=True):
        assert picks[spec.id] / 10_000 == pytest.approx(weight / sum(weights), abs=0.0011)
        assert (picks[spec.id] > 0) is (weight > 0)


def test_weights_of_nothing_are_even() -> None:
    """A pool in which every candidate has a weight of 0 still serves."""
    assert Counter(
        by_shares(MODELS, of_models([0, 0, 0, 0]), turn)[0].id[0] for turn in range(8)
    ) == dict.fromkeys("abcd", 2)


@given(first=st.integers(0, 2**63), parts=st.integers(2, 20))
def test_even_draws_leave_no_gap(first: int, parts: int) -> None:
    """Successive turns fall into all parts of [0, 1) about equally often."""
    picks = Counter(int(even_draw(turn) * parts) for turn in range(first, first + parts * 20))

    assert all(abs(picks[part] - 20) <= 3 for part in range(parts))
