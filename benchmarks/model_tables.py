"""What the model says, as tables and as a picture: up to a thousand nodes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from benchmarks.curves import draw_curves
from benchmarks.formulae import Shard, capacity
from benchmarks.model import Costs
from benchmarks.model_checks import WITHIN_S, Check, Comparison
from benchmarks.tables import Sheet
from node.leases import renewal_s

NODES: Final = (1, 2, 4, 8, 16, 32, 64, 125, 250, 500, 1000)
DOMAINS: Final = (1, 4, 16, 64, 256)
SHARDS: Final = (1, 4, 16, 64)


def sheets(costs: Costs, checks: Sequence[Check], compared: Sequence[Comparison]) -> list[Sheet]:
    """All tables."""
    return [
        _validation(checks),
        _formulae(compared),
        _capacities(costs),
        _shards(costs),
        _background(costs),
        _news(costs),
    ]


def _validation(checks: Sequence[Check]) -> Sheet:
    header = ["nodes", "load", "requests / s"]
    names = {"calls": "calls / request", "node_us": "node us", "redis_us": "Redis us"}
    header += [f"{name}: measured > model (error)" for name in names.values()]
    rows: dict[tuple[str, int], list[str]] = {}
    for check in checks:
        row = rows.setdefault((check.load, check.nodes), [str(check.nodes), check.load, f"{check.per_s:.0f}"])
        digits = 2 if check.figure == "calls" else 0
        row.append(f"{check.measured:.{digits}f} > {check.modelled:.{digits}f} ({check.error:+.0%})")
    return Sheet("Measured and modelled", header, list(rows.values()))


def _formulae(compared: Sequence[Comparison]) -> Sheet:
    header = [
        "nodes",
        "domains",
        "requests / s",
        "calls / request",
        "calls / request, formula",
        "admission ms, mean / p99",
    ]
    header += ["call under way ms, formula", "Redis us", "Redis us, formula", "Redis core in use"]
    rows = [
        [
            str(one.nodes),
            str(one.domains),
            f"{one.per_s:,.0f}",
            f"{one.simulated.calls:.2f}",
            f"{one.calls:.2f}",
            f"{one.simulated.wait_ms:.1f} / {one.simulated.p99_ms:.1f}",
            f"{one.cycle_ms:.1f}",
            f"{one.simulated.redis_us:.0f}",
            f"{one.redis_us:.0f}",
            f"{one.simulated.redis_busy:.0%}",
        ]
        for one in compared
    ]
    return Sheet("Simulation and formulae", header, rows)


def _capacities(costs: Costs) -> Sheet:
    header = [
        "nodes",
        *(f"{domains} domain{'s'[: domains > 1]}" for domains in DOMAINS),
        "all calls alone, 1 domain",
    ]
    rows = [
        [
            f"{nodes:,}",
            *(rate(one_core(costs, nodes, domains).capacity(WITHIN_S)) for domains in DOMAINS),
            rate(one_core(costs, nodes, 1).knee()),
        ]
        for nodes in NODES
    ]
    return Sheet(
        f"Requests / s of one Redis core, a call at most {WITHIN_S * 1000:.0f} ms under way", header, rows
    )


def one_core(costs: Costs, nodes: int, domains: int) -> Shard:
    return Shard(costs, nodes, domains, renew_s=renewal_s(nodes))


def _shards(costs: Costs) -> Sheet:
    domains = max(DOMAINS)
    header = ["nodes", *(f"{shards} shard{'s'[: shards > 1]}" for shards in SHARDS)]
    rows = [
        [
            f"{nodes:,}",
            *(
                rate(
                    capacity(
                        costs,
                        nodes=nodes,
                        domains=domains,
                        shards=shards,
                        within_s=WITHIN_S,
                        renew_s=renewal_s(nodes),
                    )
                )
                for shards in SHARDS
            ),
        ]
        for nodes in NODES
    ]
    return Sheet(f"Requests / s of a Redis Cluster, {domains} domains", header, rows)


def _background(costs: Costs) -> Sheet:
    names = list(Shard(costs, 1, 1).background())
    header = ["nodes", "domains", *names, "together"]
    rows = []
    for nodes in (8, 100, 1000):
        for domains in (1, 16, 256):
            found = one_core(costs, nodes, domains).background()
            cells = [f"{found[name]:.1%}" for name in names]
            rows.append([f"{nodes:,}", str(domains), *cells, f"{sum(found.values()):.1%}"])
    return Sheet("One Redis core without any request: share in use, every node on every domain", header, rows)


def _news(costs: Costs) -> Sheet:
    header = ["nodes", "publishing ms", "reading again ms", "events / s that take a tenth of the core"]
    rows = []
    for nodes in (8, 100, 1000):
        publish, read = (us / 1000 for us in news_us(costs, nodes))
        rows.append([f"{nodes:,}", f"{publish:.2f}", f"{read:.2f}", f"{100 / (publish + read):,.1f}"])
    return Sheet("One change of state: work of the Redis core that has the domain", header, rows)


def news_us(costs: Costs, nodes: int) -> tuple[float, float]:
    """An event to all nodes, and all of them reading the domain again."""
    return costs.busy.server["publish"].at(nodes), nodes * costs.busy.server["read_domain"].at(1)


def rate(value: float) -> str:
    """Two digits are all that a model knows."""
    if value < 100:
        return "none"
    scale = 10 ** (math.floor(math.log10(value)) - 1)
    return f"{round(value / scale) * scale:,.0f}"


def draw(costs: Costs) -> str:
    """What one core carries, by nodes, for numbers of domains."""
    curves = {
        f"{domains} domain{'s'[: domains > 1]}": [
            (float(nodes), one_core(costs, nodes, domains).capacity(WITHIN_S)) for nodes in NODES
        ]
        for domains in DOMAINS
    }
    shown = {name: [(x, y if y >= 10 else 0.0) for x, y in points] for name, points in curves.items()}
    title = f"Requests / s of one Redis core, a call at most {WITHIN_S * 1000:.0f} ms under way"
    return draw_curves(title, "nodes, each asking for every domain", shown)
