"""Metrics for Prometheus: requests are counted as they are logged, everything else is read when somebody scrapes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from node.batch import DomainBatcher
from node.findings import StoreFindings
from node.leases import LeaseKeeper
from node.observe.tally import RequestTally
from node.snapshot import Snapshot
from node.terms import TermKeeper
from node.watch import StoreWatch
from shared_state.errors import ModelMeshError
from shared_state.findings import Severity
from shared_state.registry import NodeInfo
from shared_state.state import Status

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


def _codes(error: type[ModelMeshError]) -> Iterator[str]:
    if error.default_code:
        yield error.default_code
    for kind in error.__subclasses__():
        yield from _codes(kind)


#: The answer of an earlier request with the same idempotency key was given again.
REPLAYED: Final = "replayed"
#: Outcomes that become labels; a code that a provider made up counts as ``other``.
_OUTCOMES: Final = frozenset({"ok", REPLAYED, *_codes(ModelMeshError)})
_CORRECTED: Final = {
    "terms": "Losses in the shared state after which this node asserted what it knew.",
    "admissions": "Admissions that had been forgotten and were said again.",
    "settlements": "Settlements that had been forgotten and were said again.",
    "states": "Standbys that had been forgotten and were set again.",
}
_MODES: Final = ("exact", "leased", "open", "closed")


class _NodeCollector(Collector):
    """What a node holds right now. Labels come from the configuration alone, never from callers."""

    def __init__(
        self,
        snapshot: Snapshot,
        watch: StoreWatch,
        batchers: Mapping[str, DomainBatcher],
        leases: Mapping[str, LeaseKeeper],
        terms: Mapping[str, TermKeeper],
        in_flight: Callable[[], int],
        findings: StoreFindings,
    ) -> None:
        self.snapshot = snapshot
        self._watch = watch
        self._batchers = batchers
        self._leases = leases
        self._terms = terms
        self._in_flight = in_flight
        self._findings = findings

    def collect(self) -> Iterator[Metric]:
        """All families."""
        mode = GaugeMetricFamily(
            "modelmesh_mode", "How limits are kept: 1 for the mode in force.", labels=["mode"]
        )
        for name in _MODES:
            mode.add_metric([name], float(self._watch.mode == name))
        yield mode
        yield GaugeMetricFamily(
            "modelmesh_store_connected",
            "Whether Redis answers this node.",
            value=float(self._watch.connected),
        )
        yield CounterMetricFamily(
            "modelmesh_store_losses", "How often Redis was lost since the start.", value=self._watch.losses
        )
        yield GaugeMetricFamily(
            "modelmesh_in_flight", "Requests under way on this node.", value=self._in_flight()
        )
        yield self._store_findings()
        yield self._of_domains("modelmesh_unsettled", "Settlements on their way to Redis.", "unsettled")
        yield self._of_domains("modelmesh_lost_settlements", "Settlements given up.", "lost_settlements")
        yield from self._corrections()
        yield self._lease_requests()
        yield self._models()

    def _of_domains(self, name: str, help_: str, attribute: str) -> Metric:
        family = GaugeMetricFamily(name, help_, labels=["domain"])
        for domain, batcher in self._batchers.items():
            family.add_metric([domain], getattr(batcher, attribute))
        return family

    def _corrections(self) -> Iterator[Metric]:
        held = GaugeMetricFamily(
            "modelmesh_held", "Whether a domain is held after a loss in the shared state.", labels=["domain"]
        )
        for domain in self._terms:
            held.add_metric([domain], float(domain in self._watch.held))
        yield held
        for name, help_ in _CORRECTED.items():
            family = CounterMetricFamily(f"modelmesh_corrected_{name}", help_, labels=["domain"])
            for domain, keeper in self._terms.items():
                family.add_metric([domain], keeper.corrected[name])
            yield family

    def _store_findings(self) -> Metric:
        family = GaugeMetricFamily(
            "modelmesh_store_findings",
            "What the scheduler's self-test of the store found.",
            labels=["severity"],
        )
        found = [finding.severity for finding in self._findings.findings]
        for severity in Severity:
            family.add_metric([severity], found.count(severity))
        return family

    def _lease_requests(self) -> Metric:
        family = GaugeMetricFamily(
            "modelmesh_lease_requests",
            "Requests that this node may still admit without Redis.",
            labels=["model"],
        )
        for keeper in self._leases.values():
            for model, allowance in keeper.allowances.items():
                family.add_metric([model], allowance.left.requests)
        return family

    def _models(self) -> Metric:
        family = GaugeMetricFamily(
            "modelmesh_models",
            "Members of a pool by status, as this node sees them.",
            labels=["pool", "status"],
        )
        for pool in self.snapshot.topology.pools.values():
            states = [(self.snapshot.model(m), self.snapshot.provider(m)) for m in pool.models]
            active = sum(all(state.status == Status.ACTIVE for state in pair) for pair in states)
            family.add_metric([pool.id, Status.ACTIVE], active)
            family.add_metric([pool.id, Status.STANDBY], len(states) - active)
        return family


class ConfigGauge(Collector):
    """Which configuration this node runs."""

    def __init__(self, info: NodeInfo) -> None:
        self._info = info

    def collect(self) -> Iterator[Metric]:
        """Both families."""
        yield GaugeMetricFamily(
            "modelmesh_config_number",
            "Number of the version of the configuration that this node runs; 0: its own file.",
            value=self._info.config_number,
        )
        yield GaugeMetricFamily(
            "modelmesh_config_refused",
            "Whether this node cannot run the version in force, or the one that it is asked about.",
            value=float(bool(self._info.config_fault)),
        )


class Metrics:
    """A node's registry.

    Attributes:
        observe: counts a finished request.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        watch: StoreWatch,
        batchers: Mapping[str, DomainBatcher],
        leases: Mapping[str, LeaseKeeper],
        terms: Mapping[str, TermKeeper],
        in_flight: Callable[[], int],
        findings: StoreFindings,
    ) -> None:
        self._registry = CollectorRegistry()
        self._collector = _NodeCollector(snapshot, watch, batchers, leases, terms, in_flight, findings)
        self._registry.register(self._collector)
        self._tally = RequestTally(_OUTCOMES)
        self._registry.register(self._tally)
        self.observe = self._tally.observe

    def look_at(self, snapshot: Snapshot) -> None:
        """Tells of another configuration from here on."""
        self._collector.snapshot = snapshot

    def add(self, collector: Collector) -> None:
        """Takes in what somebody else holds."""
        self._registry.register(collector)

    def render(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self._registry)
