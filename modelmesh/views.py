"""What operators see in a terminal: the shapes of the operators' API as Rich tables."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from modelmesh.drawing import BAD, FAIR, GOOD, QUIET, back, clean, span, state, table, text, until
from shared_state.shapes.status import (
    EventView,
    JobView,
    ModelView,
    NodeView,
    PoolView,
    ProbeView,
    ProviderView,
    StatusView,
    WindowView,
)

if TYPE_CHECKING:
    from shared_state.topology import Topology

_EVENTS_SHOWN = 10
_LATE_S = 5.0
#: What is only for information is left to `--json`.
_SEVERITIES = {"warning": FAIR, "error": BAD}


def status_view(status: StatusView, *, now: float) -> RenderableType:
    """Everything at a glance."""
    return Group(
        _headline(status, now=now),
        timetable_view(status.scheduler.jobs, now=now),
        nodes_view(status.nodes, now=now),
        pools_view(status.pools),
        models_view(status.models, now=now),
        providers_view(status.providers, now=now),
        events_view(status.events[:_EVENTS_SHOWN], now=now),
    )


def timetable_view(jobs: Iterable[JobView], *, now: float) -> Table:
    """What the scheduler does and when; whatever is late, overran, fell out or failed is coloured."""
    view = table(
        "Timetable",
        "job",
        "#every",
        "last run",
        "#took",
        "next",
        "#runs",
        "#failed",
        "#missed",
        "#overran",
        "last error",
    )
    for job in jobs:
        view.add_row(
            Text(clean(job.name), style=BAD if job.last_error else ""),
            span(job.interval_s),
            "never" if job.last_run is None else f"{span(now - job.last_run)} ago",
            _took(job),
            _due(job, now=now),
            str(job.runs),
            *(
                _count(number, style)
                for number, style in ((job.failures, BAD), (job.missed, FAIR), (job.overruns, FAIR))
            ),
            Text(clean(job.last_error or ""), style=BAD),
        )
    return view


def _took(job: JobView) -> Text:
    if job.duration_ms is None:
        return Text("")
    has_overrun = job.duration_ms > job.interval_s * 1000
    return Text(f"{job.duration_ms:,.0f} ms", style=FAIR if has_overrun else "")


def _due(job: JobView, *, now: float) -> Text:
    """When it is due; reports are written once a second, so a moment late is in time."""
    if job.next_run is None:
        return Text("")
    late_s = now - job.next_run
    if late_s > max(job.interval_s, _LATE_S):
        return Text(f"overdue by {span(late_s)}", style=BAD)
    return Text("now" if late_s >= 0 else f"in {span(-late_s)}", style=GOOD)


def _count(number: int, style: str) -> Text:
    return Text(str(number), style=style if number else QUIET)


def nodes_view(nodes: Iterable[NodeView], *, now: float) -> Table:
    view = table(
        "Nodes", "node", "address", "state", "mode", "#in flight", "up for", "seen", "version", "config"
    )
    for node in nodes:
        view.add_row(
            text(node.id),
            text(f"{_place_of(node)} pid {node.pid}"),
            state(node.state),
            state(node.mode),
            str(node.in_flight),
            span(now - node.started),
            f"{span(node.seen_s)} ago",
            text(node.version),
            _config_of(node),
        )
    return view


def _place_of(node: NodeView) -> str:
    """Where it listens; one inside another program does not."""
    return f"{node.host}:{node.port}" if node.port else f"in a program on {node.host}"


def _config_of(node: NodeView) -> Text:
    """The version that a node runs; one that it cannot run stands out."""
    number = f"{node.config_number} " if node.config_number else ""
    told = Text(f"{number}{node.config_version}")
    return (
        told.append(f" refuses: {node.config_fault.splitlines()[0]}", style=BAD)
        if node.config_fault
        else told
    )


def pools_view(pools: Iterable[PoolView]) -> Table:
    view = table(
        "Pools", "pool", "capability", "strategy", "#active", "#standby", "current", "models", "windows"
    )
    for pool in pools:
        view.add_row(
            _pool_text(pool),
            text(pool.capability),
            text(pool.strategy),
            Text(str(pool.active), style=GOOD if pool.active else BAD),
            Text(str(pool.standby), style=FAIR if pool.standby else QUIET),
            text(pool.current),
            text(" ".join(pool.models)),
            windows_text(pool.windows),
        )
    return view


def _pool_text(pool: PoolView) -> Text:
    name = text(pool.id)
    if pool.panic is not None:
        name.append(f" panic: {pool.panic.asked} asked, {pool.panic.answered} answered", style=BAD)
    return name


def models_view(models: Iterable[ModelView], *, now: float) -> Table:
    view = table("Models", "model", "status", "why", "until", "#requests", "#failed", "#in flight", "windows")
    for model in models:
        view.add_row(
            text(model.id),
            state(model.status, model.phase),
            text(model.reason),
            back(model.until, model.trigger, now=now),
            str(model.requests),
            Text(str(model.failed), style=FAIR if model.failed else QUIET),
            str(model.in_flight),
            windows_text(model.windows),
        )
    return view


def providers_view(providers: Iterable[ProviderView], *, now: float) -> Table:
    view = table(
        "Providers", "provider", "status", "why", "until", "health", "connector", "domain", "#models"
    )
    for provider in providers:
        view.add_row(
            text(provider.id),
            state(provider.status),
            text(provider.reason),
            back(provider.until, provider.trigger, now=now),
            _health_text(provider),
            text(provider.connector),
            text(provider.domain),
            str(provider.models),
        )
    return view


def _health_text(provider: ProviderView) -> Text:
    if provider.health is None or provider.availability is None:
        return Text("")
    return state(provider.health).append(f" {provider.availability:.0%}")


def probe_view(probe: ProbeView) -> Text:
    took = "" if probe.latency_ms is None else f", {probe.latency_ms:.0f} ms"
    why = f": {clean(probe.message)}" if probe.message else ""
    style = GOOD if probe.verdict == "well" else BAD
    return Text.assemble(text(probe.id), " ", (probe.verdict.replace("_", " "), style), took, why)


def events_view(events: Iterable[EventView], *, now: float) -> Table:
    view = table("Events", "when", "what", "who", "why", "until", "told by")
    for event in events:
        view.add_row(
            f"{span(now - event.time)} ago",
            text(event.type.replace("_", " ")),
            text(event.model or event.provider or event.pool or event.domain),
            text(event.reason),
            until(event.until, now=now),
            text(event.node),
        )
    return view


def topology_view(topology: Topology) -> RenderableType:
    """A configuration that has been found good."""
    verdict = f"The configuration is good (version {topology.version})."
    return Group(
        _configured_providers(topology),
        _configured_models(topology),
        _configured_pools(topology),
        Text(verdict, style=GOOD),
    )


def _configured_providers(topology: Topology) -> Table:
    view = table("Providers", "provider", "connector", "base URL", "quota domain", "key", "#models")
    for provider in topology.providers.values():
        served = sum(model.provider == provider.id for model in topology.models.values())
        view.add_row(
            text(provider.id),
            text(provider.connector.id),
            text(provider.base_url),
            text(provider.domain),
            "yes" if provider.api_key else "none",
            str(served),
        )
    return view


def _configured_models(topology: Topology) -> Table:
    view = table("Models", "model", "provider", "upstream", "capabilities")
    for model in topology.models.values():
        leaves = sorted(path.rpartition(".")[2] for path in model.capabilities)
        view.add_row(text(model.id), text(model.provider), text(model.upstream), text(" ".join(leaves)))
    return view


def _configured_pools(topology: Topology) -> Table:
    view = table("Pools", "pool", "capability", "strategy", "models")
    for pool in topology.pools.values():
        members = " ".join(model.id for model in pool.models)
        view.add_row(text(pool.id), text(pool.capability), text(pool.strategy), text(members))
    return view


def _headline(status: StatusView, *, now: float) -> Table:
    store, scheduler = status.store, status.scheduler
    grid = Table.grid(padding=(0, 2))
    grid.add_row("mode", state(status.mode))
    grid.add_row("config", text(status.config_version))
    link = f"connected, {store.round_trip_ms:.1f} ms" if store.connected else "away"
    grid.add_row("store", Text.assemble(text(store.url), "  ", (link, GOOD if store.connected else BAD)))
    for finding in store.findings:
        if style := _SEVERITIES.get(finding.severity):
            grid.add_row("", Text(clean(f"{finding.severity}: {finding.message}"), style=style))
    leader = scheduler.leader
    since = f" for {span(now - scheduler.since)}" if leader and scheduler.since else ""
    grid.add_row("scheduler", text(f"{leader}{since}") if leader else Text("nobody leads", style=BAD))
    return grid


def windows_text(windows: Iterable[WindowView]) -> Text:
    """How full windows are, on one line."""
    return Text(" ").join(
        Text(f"{window.name} {window.used:g}/{window.limit:g}", style=_load_style(window))
        for window in windows
    )


def _load_style(window: WindowView) -> str:
    share = window.used / window.limit if window.limit else 1.0
    return BAD if share >= 1 else FAIR if share >= 0.8 else ""
