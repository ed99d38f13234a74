"""The moving average: bounded, monotonous, each attempt once; and the status that it comes to."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared_state.availability import (
    Evidence,
    Health,
    HealthStatus,
    judge,
    look,
    take_probe,
    take_traffic,
)
from shared_state.statistics import MinuteRow

scores = st.floats(0, 1)
counts = st.integers(0, 10**6)


def row(minute: int, ok: int = 0, bad: int = 0, *, pool: str = "chat") -> MinuteRow:
    return MinuteRow("alpha", "m", pool, minute, {"ok": ok, "failed": bad, "neutral": 7, "attempts": 99})


@given(scores, counts, counts)
def test_a_score_stays_between_none_and_all(score: float, ok: int, bad: int):
    """And moves towards the share that went well, never past it."""
    after = take_traffic(Health(score=score), Evidence(ok, bad)).score
    share = ok / (ok + bad) if ok + bad else score

    assert 0 <= after <= 1
    assert min(score, share) - 1e-9 <= after <= max(score, share) + 1e-9


@given(scores, st.integers(1, 1000), st.integers(1, 1000))
def test_more_failures_are_never_better(score: float, count: int, more: int):
    """Of as many attempts, and of probes."""
    fewer = take_traffic(Health(score=score), Evidence(more, count))
    many = take_traffic(Health(score=score), Evidence(0, count + more))

    assert many.score <= fewer.score
    assert take_probe(Health(score=score), is_well=False, now_s=1).score <= score
    assert take_probe(Health(score=score), is_well=True, now_s=1).score >= score


def test_no_evidence_changes_nothing():
    """Silence is neither good nor bad."""
    before = Health(score=0.4, fails=2)

    assert take_traffic(before, Evidence()) == before


def test_a_limit_is_no_outage():
    """Neither good nor bad: whoever refuses so is there, and has shown no more than that."""
    refused = MinuteRow("alpha", "m", "chat", 5, {"ok": 2, "failed": 9, "limited": 8})
    health, evidence = look(Health(minute=5), [refused], minute=5)

    assert evidence == Evidence(2, 1)
    assert look(health, [refused], minute=5)[1] == Evidence()


def test_our_own_probes_are_not_heard_twice():
    """What the statistics hold of them is passed over, once."""
    probed = Health(minute=5, ok=1, own_ok=1, own_bad=2)
    health, evidence = look(probed, [row(5, ok=2, bad=3)], minute=5)

    assert evidence == Evidence(0, 1)
    assert look(health, [row(5, ok=3, bad=3)], minute=5)[1] == Evidence(1, 0)


def test_one_look_never_decides_alone():
    """A thousand failures of one bad minute leave half of the good record."""
    assert take_traffic(Health(), Evidence(0, 1000)).score == 0.5


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 3), st.integers(0, 3)), max_size=20))
def test_every_attempt_is_looked_at_once(arrivals: list[tuple[int, int, int]]):
    """However minutes and looks interleave, what was counted adds up to what there was."""
    health, minute = Health(), 100
    held: dict[int, MinuteRow] = {}
    seen_ok = seen_bad = 0
    for step, ok, bad in arrivals:
        minute += step
        entry = held.setdefault(minute, row(minute))
        entry.metrics["ok"] += ok
        entry.metrics["failed"] += bad
        health, evidence = look(health, held.values(), minute=minute)
        seen_ok, seen_bad = seen_ok + evidence.ok, seen_bad + evidence.bad

    assert seen_ok == sum(ok for _, ok, _ in arrivals)
    assert seen_bad == sum(bad for _, _, bad in arrivals)


def test_a_clock_that_went_back_counts_nothing_twice():
    """After a failover the server may be some minutes behind."""
    health, _ = look(Health(), [row(100, 5, 1)], minute=100)
    back, evidence = look(health, [row(98, 3)], minute=98)
    _, later = look(back, [row(98, 3), row(100, 6, 1)], minute=100)

    assert evidence == Evidence()
    assert later == Evidence(1, 0)


@pytest.mark.parametrize(
    ("score", "fails", "status"),
    [
        (1.0, 0, HealthStatus.HEALTHY),
        (0.9, 2, HealthStatus.HEALTHY),
        (0.89, 0, HealthStatus.DEGRADED),
        (0.5, 0, HealthStatus.DEGRADED),
        (0.49, 0, HealthStatus.UNAVAILABLE),
        (1.0, 3, HealthStatus.UNAVAILABLE),
    ],
)
def test_the_status_follows_from_score_and_failed_probes(score: float, fails: int, status: HealthStatus):
    """By the thresholds of this module, and the configured one."""
    assert judge(Health(score=score, fails=fails), threshold=3).status == status


@given(st.floats(0.9, 0.929), st.sampled_from([HealthStatus.DEGRADED, HealthStatus.UNAVAILABLE]))
def test_a_score_at_its_threshold_is_no_news_each_time(score: float, was: HealthStatus):
    """It has to be a little better than that to count as better."""
    worse = judge(Health(score=score, status=was), threshold=3)

    assert worse.status == HealthStatus.DEGRADED
    assert judge(replace(worse, score=0.94), threshold=3).status == HealthStatus.HEALTHY


def test_three_failed_probes_and_one_that_went_well():
    """The row of failures ends, the average takes its time."""
    health = Health()
    for _ in range(3):
        health = judge(take_probe(health, is_well=False, now_s=5), threshold=3)
    after = judge(take_probe(health, is_well=True, now_s=6), threshold=3)

    assert (health.fails, health.status) == (3, HealthStatus.UNAVAILABLE)
    assert (after.fails, after.status, after.probed) == (0, HealthStatus.DEGRADED, 6)
    assert take_traffic(health, Evidence(1, 0)).fails == 0
    assert take_traffic(health, Evidence(0, 1)).fails == 3
