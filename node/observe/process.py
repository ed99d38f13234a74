"""What this process holds right now: memory, descriptors, tasks, connections to providers."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import httpx
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from node.upstream import FastTransport


class ProcessGauges(Collector):
    """Read when somebody scrapes.

    Args:
        transport: the stock one tells nothing of its connections.
    """

    def __init__(self, transport: httpx.AsyncBaseTransport) -> None:
        self._transport = transport
        self._process = ProcessCollector(registry=None)

    def collect(self) -> Iterator[Metric]:
        """The families."""
        yield from self._process.collect()
        tasks = GaugeMetricFamily("modelmesh_tasks", "Tasks of the event loop.")
        tasks.add_metric([], len(asyncio.all_tasks()))
        yield tasks
        if isinstance(self._transport, FastTransport):
            yield self._connections(self._transport)

    def _connections(self, transport: FastTransport) -> Metric:
        family = GaugeMetricFamily(
            "modelmesh_upstream_connections",
            "Connections to providers, and requests that wait for one.",
            labels=["state"],
        )
        origins = list(transport.stats().values())
        family.add_metric(["in_use"], sum(origin["in_use"] for origin in origins))
        family.add_metric(["idle"], sum(origin["idle"] for origin in origins))
        family.add_metric(["waiting"], sum(origin["waiting"] for origin in origins))
        return family
