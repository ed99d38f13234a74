"""Counts become the families that the metrics library itself would have made."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from node.observe.tally import _SECONDS, Times


@given(st.lists(st.floats(0, 500)))
def test_a_histogram_is_the_librarys_own(durations: list[float]) -> None:
    """Bucket by bucket, bounds included."""
    times, registry = Times(), CollectorRegistry()
    theirs = Histogram("t", "seconds", buckets=_SECONDS, registry=registry)
    for seconds in durations:
        times.observe(seconds)
        theirs.observe(seconds)
    ours = CollectorRegistry()
    ours.register(type("One", (), {"collect": lambda _: [times.family("t", "seconds")]})())
    lines = [line for line in generate_latest(registry).decode().splitlines() if "_created" not in line]

    assert generate_latest(ours).decode().splitlines() == lines
