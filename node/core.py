"""What lives as long as the process of a node, whatever configurations it runs; and how it is put together."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Final

import httpx

from node.api.auth import Doorkeeper
from node.api.keyring import Keyring
from node.findings import StoreFindings
from node.observe.cluster import ClusterGauges
from node.observe.decisions import DecisionMetrics, DecisionQueue
from node.observe.metrics import ConfigGauge, Metrics
from node.observe.process import ProcessGauges
from node.observe.request_log import RequestLogs
from node.observe.retries import RetryCounters
from node.offices import Offices
from node.ops.configuration import ConfigDesk
from node.ops.events import EventFan
from node.routing.budget import RetryBudgets
from node.routing.cursors import Cursors
from node.routing.gatehouse import Gatehouse
from node.routing.sessions import Sessions
from node.snapshot import Snapshot
from node.spool import Spool
from node.upstream import open_transport
from node.watch import StoreWatch
from shared_state.client_keys import ClientKeys
from shared_state.clock import ServerClock
from shared_state.ledger import DomainLedger
from shared_state.registry import NodeInfo
from shared_state.store import Store
from shared_state.topology import Topology

#: The providers' limits bound the traffic; this only keeps a fault from taking every descriptor.
_CONNECTIONS_PER_ORIGIN: Final = 8192


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
    request_logs: RequestLogs
    metrics: Metrics
    gauges: ClusterGauges
    ops: Doorkeeper
    desk: ConfigDesk
    reservations: Iterator[str]
    nodes: Callable[[], int]
    readiness: Callable[[], tuple[bool, dict[str, object]]]
    on_failure: Callable[[asyncio.Task[None]], None]


@dataclass(frozen=True, slots=True)
class Node:
    """The node that a core is made for: who it is, what its parts ask of it, and what they tell it.

    Attributes:
        spool: where settlements wait while Redis is away.
        ops: who may operate it.
        nodes: number of nodes in the cluster.
        in_flight: calls under way, whatever they began in.
        epoch_of: epoch of a model's quota domain, in the view that serves.
        readiness: for ``/ready``.
        on_reply: called after each reply from a quota domain, for its epoch may be news.
        on_failure: called when background work has ended.
        request_lines: where the request log goes; None: to standard error.
    """

    info: NodeInfo
    store: Store
    watch: StoreWatch
    spool: Spool
    ops: Doorkeeper
    desk: ConfigDesk
    nodes: Callable[[], int]
    in_flight: Callable[[], int]
    epoch_of: Callable[[str], int]
    readiness: Callable[[], tuple[bool, dict[str, object]]]
    on_reply: Callable[[DomainLedger], None]
    on_failure: Callable[[asyncio.Task[None]], None]
    request_lines: IO[bytes] | None = None


def build_core(node: Node, topology: Topology, snapshot: Snapshot) -> Core:
    """All of it, by the process's own file; ``redis`` and ``server`` are the process's own whatever it runs later.

    Args:
        snapshot: the first view.
    """
    name, store, watch, config = node.info.id, node.store, node.watch, topology.config
    findings = StoreFindings(store, watch)
    offices = _build_offices(node, snapshot.clock, on_loss=config.redis.on_loss)
    decisions = DecisionQueue(store, watch)
    budgets = RetryBudgets(store, topology.pools, watch, node=name, nodes=node.nodes)
    gauges = ClusterGauges(store, snapshot, watch)
    transport = _open_transport(topology)
    metrics = _build_metrics(node, snapshot, offices, findings)
    request_logs = RequestLogs(name, node.request_lines)
    for collector in (
        gauges,
        ProcessGauges(transport),
        ConfigGauge(node.info),
        DecisionMetrics(decisions),
        RetryCounters(budgets),
        request_logs,
    ):
        metrics.add(collector)
    return Core(
        id=name,
        on_loss=config.redis.on_loss,
        store=store,
        watch=watch,
        clock=snapshot.clock,
        findings=findings,
        keyring=Keyring(ClientKeys(store, config.keys.pepper), watch),
        events=EventFan(),
        transport=transport,
        offices=offices,
        gatehouse=_build_gatehouse(node, snapshot.clock, on_loss=config.redis.on_loss),
        budgets=budgets,
        cursors=Cursors(store, watch, snapshot.current),
        sessions=Sessions(store, watch, epoch_of=node.epoch_of),
        decisions=decisions,
        request_logs=request_logs,
        metrics=metrics,
        gauges=gauges,
        ops=node.ops,
        desk=node.desk,
        reservations=_reservation_ids(name),
        nodes=node.nodes,
        readiness=node.readiness,
        on_failure=node.on_failure,
    )


def _build_offices(node: Node, clock: ServerClock, *, on_loss: str) -> Offices:
    return Offices(
        node.store,
        node.watch,
        node=node.info.id,
        clock=clock,
        nodes=node.nodes,
        on_reply=node.on_reply,
        on_failure=node.on_failure,
        holds_leases=on_loss == "leased",
        spool=node.spool,
    )


def _build_gatehouse(node: Node, clock: ServerClock, *, on_loss: str) -> Gatehouse:
    return Gatehouse(
        node.store,
        node.watch,
        clock=clock,
        node=node.info.id,
        nodes=node.nodes,
        on_loss=on_loss,
        on_failure=node.on_failure,
    )


def _build_metrics(node: Node, snapshot: Snapshot, offices: Offices, findings: StoreFindings) -> Metrics:
    return Metrics(
        snapshot,
        node.watch,
        offices.batchers,
        offices.leases,
        offices.terms,
        node.in_flight,
        findings,
    )


def _open_transport(topology: Topology) -> httpx.AsyncBaseTransport:
    return open_transport(
        topology.config.server.upstream,
        limit_per_origin=_CONNECTIONS_PER_ORIGIN,
        replay_stale=False,
        has_tls=any(p.base_url.startswith("https:") for p in topology.providers.values()),
    )


def _reservation_ids(node: str) -> Iterator[str]:
    return (f"{node}.{number:x}" for number in itertools.count(1))
