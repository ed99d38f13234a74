"""What operators see in a terminal: the shapes of the operators' API as Rich tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from modelmesh.ops_client import BookRow, Books, Event, Model, Node, Pool, Provider, Status, Totals, Window

if TYPE_CHECKING:
    from shared_state.topology import Topology

_EVENTS_SHOWN = 10
_GOOD, _FAIR, _BAD, _QUIET = "green", "yellow", "bold red", "dim"
_STYLES = {
    "active": _GOOD,
    "alive": _GOOD,
    "exact": _GOOD,
    "draining": _FAIR,
    "leased": _FAIR,
    "standby": _BAD,
    "dead": _BAD,
    "open": _BAD,
}
#: What is only for information is left to `--json`.
_SEVERITIES = {"warning": _FAIR, "error": _BAD}
_UNITS_S = (("d", 86400), ("h", 3600), ("m", 60), ("s", 1))
_COUNTS = ("admitted", "settled", "abandoned", "in_flight", "difference")


def status_view(status: Status, *, now: float) -> RenderableType:
    """Everything at a glance."""
    return Group(
        _headline(status, now=now),
        nodes_view(status["nodes"], now=now),
        pools_view(status["pools"]),
        models_view(status["models"], now=now),
        providers_view(status["providers"], now=now),
        events_view(status["events"][:_EVENTS_SHOWN], now=now),
    )


def nodes_view(nodes: Iterable[Node], *, now: float) -> Table:
    table = _table(
        "Nodes", "node", "address", "state", "mode", "#in flight", "up for", "seen", "version", "config"
    )
    for node in nodes:
        table.add_row(
            _text(node["id"]),
            _text(f"{node['host']}:{node['port']} pid {node['pid']}"),
            _state(node["state"]),
            _state(node["mode"]),
            str(node["in_flight"]),
            span(now - node["started"]),
            f"{span(node['seen_s'])} ago",
            _text(node["version"]),
            _text(node["config_version"]),
        )
    return table


def pools_view(pools: Iterable[Pool]) -> Table:
    table = _table("Pools", "pool", "capability", "strategy", "#active", "#standby", "current", "models")
    for pool in pools:
        table.add_row(
            _text(pool["id"]),
            _text(pool["capability"]),
            _text(pool["strategy"]),
            Text(str(pool["active"]), style=_GOOD if pool["active"] else _BAD),
            Text(str(pool["standby"]), style=_FAIR if pool["standby"] else _QUIET),
            _text(pool["current"]),
            _text(" ".join(pool["models"])),
        )
    return table


def models_view(models: Iterable[Model], *, now: float) -> Table:
    table = _table(
        "Models", "model", "status", "why", "until", "#requests", "#failed", "#in flight", "windows"
    )
    for model in models:
        table.add_row(
            _text(model["id"]),
            _state(model["status"], model["phase"]),
            _text(model["reason"]),
            until(model["until"], now=now),
            str(model["requests"]),
            Text(str(model["failed"]), style=_FAIR if model["failed"] else _QUIET),
            str(model["in_flight"]),
            _windows(model["windows"]),
        )
    return table


def providers_view(providers: Iterable[Provider], *, now: float) -> Table:
    table = _table("Providers", "provider", "status", "why", "until", "connector", "domain", "#models")
    for provider in providers:
        table.add_row(
            _text(provider["id"]),
            _state(provider["status"]),
            _text(provider["reason"]),
            until(provider["until"], now=now),
            _text(provider["connector"]),
            _text(provider["domain"]),
            str(provider["models"]),
        )
    return table


def events_view(events: Iterable[Event], *, now: float) -> Table:
    table = _table("Events", "when", "what", "who", "why", "until", "told by")
    for event in events:
        table.add_row(
            f"{span(now - event['time'])} ago",
            _text(event["type"].replace("_", " ")),
            _text(event["model"] or event["provider"] or event["domain"]),
            _text(event["reason"]),
            until(event["until"], now=now),
            _text(event["node"]),
        )
    return table


def books_view(books: Books) -> RenderableType:
    """The rows, those that do not balance in red, and the verdict."""
    off = rows_off(books)
    table = _table("Books", "model", "provider", "pool", *(f"#{name.replace('_', ' ')}" for name in _COUNTS))
    for row in books["rows"]:
        names = (_text(row[name]) for name in ("model", "provider", "pool"))
        table.add_row(*names, *_counts(row), style=_BAD if row in off else "")
    table.add_section()
    table.add_row("all", "", "", *_counts(books["totals"]))
    if is_balanced(books):
        return Group(table, Text("The books balance.", style=_GOOD))
    return Group(table, Text(f"The books are off in {len(off)} of {len(books['rows'])} rows.", style=_BAD))


def rows_off(books: Books) -> list[BookRow]:
    """Rows where admitted = settled + abandoned + in flight does not hold."""
    return [row for row in books["rows"] if _is_off(row)]


def is_balanced(books: Books) -> bool:
    """The verdict, worked out again here: an audit does not take the audited one's word."""
    return books["balanced"] and not rows_off(books) and not _is_off(books["totals"])


def topology_view(topology: Topology) -> RenderableType:
    """A configuration that has been found good."""
    providers = _table("Providers", "provider", "connector", "base URL", "quota domain", "key", "#models")
    for provider in topology.providers.values():
        served = sum(model.provider == provider.id for model in topology.models.values())
        providers.add_row(
            _text(provider.id),
            _text(provider.connector.id),
            _text(provider.base_url),
            _text(provider.domain),
            "yes" if provider.api_key else "none",
            str(served),
        )
    models = _table("Models", "model", "provider", "upstream", "capabilities")
    for model in topology.models.values():
        leaves = sorted(path.rpartition(".")[2] for path in model.capabilities)
        models.add_row(_text(model.id), _text(model.provider), _text(model.upstream), _text(" ".join(leaves)))
    pools = _table("Pools", "pool", "capability", "strategy", "models")
    for pool in topology.pools.values():
        members = " ".join(model.id for model in pool.models)
        pools.add_row(_text(pool.id), _text(pool.capability), _text(pool.strategy), _text(members))
    return Group(
        providers,
        models,
        pools,
        Text(f"The configuration is good (version {topology.version}).", style=_GOOD),
    )


def span(seconds: float) -> str:
    """A length of time in its one or two largest units: `3h 20m`, `45s`, `0.2s`."""
    if seconds < 1:
        return f"{max(seconds, 0.0):.1f}s"
    rest = int(seconds)
    parts: list[str] = []
    for unit, size_s in _UNITS_S:
        count, rest = divmod(rest, size_s)
        if count or parts:
            parts.append(f"{count}{unit}" if count else "")
        if len(parts) == 2:
            break
    return " ".join(filter(None, parts))


def until(moment: float | None, *, now: float) -> str:
    """When a time will have come."""
    if moment is None:
        return ""
    return f"in {span(moment - now)}" if moment > now else "due"


def _headline(status: Status, *, now: float) -> Table:
    store, scheduler = status["store"], status["scheduler"]
    grid = Table.grid(padding=(0, 2))
    grid.add_row("mode", _state(status["mode"]))
    grid.add_row("config", _text(status["config_version"]))
    link = f"connected, {store['round_trip_ms']:.1f} ms" if store["connected"] else "away"
    grid.add_row(
        "store", Text.assemble(_text(store["url"]), "  ", (link, _GOOD if store["connected"] else _BAD))
    )
    for finding in store.get("findings", []):  # a node of before has none
        if style := _SEVERITIES.get(finding["severity"]):
            grid.add_row("", Text(_clean(f"{finding['severity']}: {finding['message']}"), style=style))
    leader = scheduler["leader"]
    since = f" for {span(now - scheduler['since'])}" if leader and scheduler["since"] else ""
    grid.add_row("scheduler", _text(f"{leader}{since}") if leader else Text("nobody leads", style=_BAD))
    for job in scheduler["jobs"]:
        if job["last_error"]:
            grid.add_row("", Text.assemble((_clean(f"{job['name']}: {job['last_error']}"), _BAD)))
    return grid


def _table(title: str, *columns: str) -> Table:
    """An empty table; columns whose name begins with # hold numbers."""
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        is_number = column.startswith("#")
        table.add_column(column.lstrip("#"), justify="right" if is_number else "left", overflow="fold")
    return table


def _counts(row: Totals) -> Sequence[str]:
    return [
        str(row["admitted"]),
        str(row["settled"]),
        str(row["abandoned"]),
        str(row["in_flight"]),
        str(_off_by(row)),
    ]


def _off_by(row: Totals) -> int:
    return row["admitted"] - row["settled"] - row["abandoned"] - row["in_flight"]


def _is_off(row: Totals) -> bool:
    return _off_by(row) != 0 or row["difference"] != 0


def _windows(windows: Iterable[Window]) -> Text:
    return Text(" ").join(
        Text(f"{window['name']} {window['used']:g}/{window['limit']:g}", style=_load_style(window))
        for window in windows
    )


def _load_style(window: Window) -> str:
    share = window["used"] / window["limit"] if window["limit"] else 1.0
    return _BAD if share >= 1 else _FAIR if share >= 0.8 else ""


def _state(state: str, phase: str = "") -> Text:
    return Text(_clean(f"{state} ({phase})" if phase else state), style=_STYLES.get(state, ""))


def _text(value: str | None) -> Text:
    return Text(_clean(value or ""))


def _clean(value: str) -> str:
    """Reasons and names come from providers too: no control character reaches the terminal."""
    return "".join(char if char.isprintable() else "?" for char in value)
