"""Counters of the retry budgets."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from node.routing.budget import RetryBudgets


class RetryCounters(Collector):
    """What a node has retried, and what it has not for want of budget."""

    def __init__(self, budgets: RetryBudgets) -> None:
        self._budgets = budgets

    def collect(self) -> Iterator[Metric]:
        """All families."""
        made = CounterMetricFamily(
            "modelmesh_retries", "Attempts beyond a request's first, out of the budget.", labels=["pool"]
        )
        refused = CounterMetricFamily(
            "modelmesh_retries_refused",
            "Attempts that were not made because the budget was used up.",
            labels=["pool"],
        )
        hedges = CounterMetricFamily(
            "modelmesh_hedges", "Attempts beside a slow one, out of the budget.", labels=["pool"]
        )
        for pool, budget in self._budgets.pools.items():
            made.add_metric([pool], budget.made)
            refused.add_metric([pool], budget.refused)
            hedges.add_metric([pool], budget.hedges)
        yield from (made, refused, hedges)
