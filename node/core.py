"""What lives as long as the process of a node, whatever configurations it runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import httpx

from node.api.auth import Doorkeeper
from node.api.keyring import Keyring
from node.findings import StoreFindings
from node.observe.cluster import ClusterGauges
from node.observe.decisions import DecisionQueue
from node.observe.metrics import Metrics
from node.observe.request_log import RequestLog
from node.offices import Offices
from node.ops.configuration import ConfigDesk
from node.ops.events import EventFan
from node.routing.budget import RetryBudgets
from node.routing.cursors import Cursors
from node.routing.gatehouse import Gatehouse
from node.routing.sessions import Sessions
from node.watch import StoreWatch
from shared_state.clock import ServerClock
from shared_state.store import Store

Readiness = Callable[[], tuple[bool, dict[str, object]]]


@dataclass(frozen=True, slots=True)
class Core:
    """Connections, books, counters, memories.

    Attributes:
        on_loss: what the process does without Redis, by its own file.
        nodes: number of nodes in the cluster.
        reservations: ids, never given out twice.
        readiness: for ``/ready``.
        on_failure: called when background work has ended.
    """

    id: str
    on_loss: str
    store: Store
    watch: StoreWatch
    clock: ServerClock
    findings: StoreFindings
    keyring: Keyring
    events: EventFan
    transport: httpx.AsyncBaseTransport
    offices: Offices
    gatehouse: Gatehouse
    budgets: RetryBudgets
    cursors: Cursors
    sessions: Sessions
    decisions: DecisionQueue
    request_log: RequestLog
    metrics: Metrics
    gauges: ClusterGauges
    ops: Doorkeeper
    desk: ConfigDesk
    reservations: Iterator[str]
    nodes: Callable[[], int]
    readiness: Readiness
    on_failure: Callable[[asyncio.Task[None]], None]
