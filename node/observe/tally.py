"""Counts of finished requests: plain numbers that a request only adds to, made into metrics when somebody scrapes.

A node has one thread that counts, so no lock is needed; those of the metrics library cost more than the counting.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from itertools import accumulate
from typing import Final

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from node.call import Trail

_NANO_PER_USD: Final = 10**9
_SECONDS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class Times:
    """A histogram of seconds."""

    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(_SECONDS) + 1)
        self.sum_s = 0.0

    def observe(self, seconds: float) -> None:
        """Counts one duration."""
        self.counts[bisect_left(_SECONDS, seconds)] += 1
        self.sum_s += seconds

    def family(self, name: str, help_: str) -> Metric:
        """As Prometheus has it: each bucket holds those below it as well."""
        bounds = [*map(str, _SECONDS), "+Inf"]
        buckets = list(zip(bounds, map(float, accumulate(self.counts)), strict=True))
        return HistogramMetricFamily(name, help_, buckets=buckets, sum_value=self.sum_s)


class RequestTally(Collector):
    """Finished requests of this node since its start.

    Args:
        outcomes: those that become labels; any other counts as ``other``.
    """

    def __init__(self, outcomes: frozenset[str]) -> None:
        self._outcomes = outcomes
        self._requests: defaultdict[tuple[str, str, str, str], int] = defaultdict(int)
        self._panics: defaultdict[str, int] = defaultdict(int)
        self._cost_nano: defaultdict[tuple[str, str], int] = defaultdict(int)
        self._attempts = self._tokens_in = self._tokens_out = 0
        self._duration, self._first_content = Times(), Times()

    def observe(self, trail: Trail, *, outcome: str, started: float, ended: float) -> None:
        """Counts a finished request; ``started`` and ``ended`` are loop time."""
        target = trail.target
        if outcome not in self._outcomes:
            outcome = "other"
        if target is None:
            self._requests["", "", "", outcome] += 1
        else:
            self._requests[target.pool.id, target.model.id, target.model.provider, outcome] += 1
        if target is not None and trail.is_panic:
            self._panics[target.pool.id] += 1
        for step in trail.steps:
            if step.settlement is not None and step.settlement.cost_nano > 0:
                model = step.target.model
                self._cost_nano[model.id, model.provider] += step.settlement.cost_nano
        self._attempts += trail.attempts
        self._tokens_in += trail.tokens_in
        self._tokens_out += trail.tokens_out
        self._duration.observe(ended - started)
        if trail.first_content:
            self._first_content.observe(trail.first_content - started)

    def collect(self) -> Iterator[Metric]:
        """All families."""
        requests = CounterMetricFamily(
            "modelmesh_requests",
            "Finished requests; pool, model and provider are empty where nobody was asked.",
            labels=["pool", "model", "provider", "outcome"],
        )
        for labels, count in self._requests.items():
            requests.add_metric(labels, count)
        yield requests
        panics = CounterMetricFamily(
            "modelmesh_panic_requests",
            "Finished requests for which a model was asked that is on standby for its health, for want of a better one.",
            labels=["pool"],
        )
        for pool, count in self._panics.items():
            panics.add_metric([pool], count)
        yield panics
        yield CounterMetricFamily("modelmesh_attempts", "Attempts on providers.", value=self._attempts)
        tokens = CounterMetricFamily("modelmesh_tokens", "Tokens of finished requests.", labels=["direction"])
        tokens.add_metric(["input"], self._tokens_in)
        tokens.add_metric(["output"], self._tokens_out)
        yield tokens
        cost = CounterMetricFamily(
            "modelmesh_cost_dollars",
            "What attempts of finished requests cost, by the prices configured.",
            labels=["model", "provider"],
        )
        for model, nano in self._cost_nano.items():
            cost.add_metric(model, nano / _NANO_PER_USD)
        yield cost
        yield self._duration.family(
            "modelmesh_request_duration_seconds",
            "From the first byte of a request to the last of its answer.",
        )
        yield self._first_content.family(
            "modelmesh_first_content_seconds", "From the first byte of a request to the first content."
        )
