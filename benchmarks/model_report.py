"""The model put to use: checked against a fleet that was measured, then carried on to a thousand nodes. Tables, picture, files."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import orjson
from rich.console import Console

from benchmarks.curves import draw_curves
from benchmarks.formulae import Shard, capacity
from benchmarks.model import Costs, Fleet, Outcome, simulate
from benchmarks.setting import describe
from benchmarks.tables import Sheet, markdown, rich_table
from node.leases import renewal_s

RESULTS: Final = Path(__file__).parent / "results"
NODES: Final = (1, 2, 4, 8, 16, 32, 64, 125, 250, 500, 1000)
DOMAINS: Final = (1, 4, 16, 64, 256)
SHARDS: Final = (1, 4, 16, 64)
#: How long a call may be under way before a Redis core counts as full.
WITHIN_S: Final = 0.025
#: Where simulation and formulae are compared: nodes, domains, and the part of the capacity that is asked for.
_CHECKS: Final = (
    (1, 1, 0.5),
    (4, 4, 0.5),
    (8, 1, 0.5),
    (64, 1, 0.8),
    (64, 16, 0.8),
    (250, 4, 0.8),
    (1000, 1, 0.8),
)
#: Long enough that a request is not settled next to the ask for it.
_UPSTREAM_S: Final = 0.02
_WIDTH: Final = 150


@dataclass(frozen=True, slots=True)
class Check:
    """A figure that was measured, and what the model says of it."""

    nodes: int
    load: str
    per_s: float
    figure: str
    measured: float
    modelled: float

    @property
    def error(self) -> float:
        """In proportion to what was measured."""
        return self.modelled / self.measured - 1


@dataclass(frozen=True, slots=True)
class Comparison:
    """Simulation beside formulae, under one load of a fleet whose nodes have cores of their own."""

    nodes: int
    domains: int
    per_s: float
    simulated: Outcome
    cycle_ms: float
    redis_us: float


def validate(costs: Costs, scale: Mapping[str, Any], *, requests: int = 4000) -> list[Check]:
    """Fleets as they were measured, on one core for all nodes. What a node works by itself is learnt from the fleet of one, at both of
    its loads, for a node that has more to do finds its caches warmer; all else is foretold."""
    measured = _medians(scale)
    smallest = min(nodes for nodes, _ in measured)
    own = sorted(
        (found["per_s"], found["node_us"] - _calls_us(costs, smallest, found["per_s"], requests))
        for (nodes, _), found in measured.items()
        if nodes == smallest
    )
    checks = []
    for (nodes, load), found in measured.items():
        fleet = Fleet(nodes, 1, found["per_s"], _between(own, found["per_s"] / nodes), cores=1)
        told = simulate(fleet, costs, requests=requests)
        for figure, value in (("calls", told.calls), ("node_us", told.node_us), ("redis_us", told.redis_us)):
            checks.append(Check(nodes, load, found["per_s"], figure, found[figure], value))
    return checks


def _calls_us(costs: Costs, nodes: int, per_s: float, requests: int) -> float:
    """What a node spends on its calls of Redis, per request."""
    return simulate(Fleet(nodes, 1, per_s, node_us=0.0, cores=1), costs, requests=requests).node_us


def _between(points: Sequence[tuple[float, float]], rate: float) -> float:
    """Between two points that are known, by the logarithm of the rate; beyond them as at the nearer one."""
    (low, at_low), (high, at_high) = points[0], points[-1]
    if low == high:
        return at_low
    part = math.log(rate / low) / math.log(high / low)
    return at_low + (at_high - at_low) * min(1.0, max(0.0, part))


def _medians(scale: Mapping[str, Any]) -> dict[tuple[int, str], dict[str, float]]:
    """Medians over the rounds of a result file of ``benchmarks.scale``, by nodes and load."""
    found: dict[tuple[int, str], list[dict[str, float]]] = {}
    for one in scale["samples"]:
        if not one["faults"]:
            key = int(one["subject"].removeprefix("fleet/")), one["scenario"]
            found.setdefault(key, []).append(_figures(one))
    return {
        key: {name: median(figures[name] for figures in rounds) for name in rounds[0]}
        for key, rounds in sorted(found.items(), key=lambda item: (item[0][1], item[0][0]))
    }


def _figures(one: Mapping[str, Any]) -> dict[str, float]:
    requests = one["requests"]
    return {
        "per_s": requests / one["elapsed_s"],
        "calls": one["redis"]["scripts"] / requests,
        "node_us": one["cpu_s"]["nodes"] / requests * 1e6,
        "redis_us": one["cpu_s"]["valkey"] / requests * 1e6,
    }


def compare(costs: Costs, *, requests: int = 6000) -> list[Comparison]:
    """Simulation and formulae side by side."""
    found = []
    for nodes, domains, part in _CHECKS:
        every_s = renewal_s(nodes)
        shard = Shard(costs, nodes, domains, renew_s=every_s)
        per_s = part * min(shard.capacity(WITHIN_S), nodes * 1500.0)
        told = simulate(
            Fleet(nodes, domains, per_s, upstream_s=_UPSTREAM_S, renew_s=every_s), costs, requests=requests
        )
        cycle_s = shard.cycle_s(per_s)
        background = sum(shard.background().values()) / per_s * 1e6
        redis_us = shard.redis_us(shard.calls(per_s, cycle_s)) + background
        found.append(Comparison(nodes, domains, per_s, told, cycle_s * 1000, redis_us))
    return found


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
    header = ["nodes", "domains", "requests / s", "calls / request", "admission ms, mean / p99"]
    header += ["call under way ms, formula", "Redis us", "Redis us, formula", "Redis core in use"]
    rows = [
        [
            str(one.nodes),
            str(one.domains),
            f"{one.per_s:,.0f}",
            f"{one.simulated.calls:.2f}",
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
            *(_rate(_one_core(costs, nodes, domains).capacity(WITHIN_S)) for domains in DOMAINS),
            _rate(_one_core(costs, nodes, 1).knee()),
        ]
        for nodes in NODES
    ]
    return Sheet(
        f"Requests / s of one Redis core, a call at most {WITHIN_S * 1000:.0f} ms under way", header, rows
    )


def _one_core(costs: Costs, nodes: int, domains: int) -> Shard:
    return Shard(costs, nodes, domains, renew_s=renewal_s(nodes))


def _shards(costs: Costs) -> Sheet:
    domains = max(DOMAINS)
    header = ["nodes", *(f"{shards} shard{'s'[: shards > 1]}" for shards in SHARDS)]
    rows = [
        [
            f"{nodes:,}",
            *(
                _rate(
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
            found = _one_core(costs, nodes, domains).background()
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


def _rate(value: float) -> str:
    """Two digits are all that a model knows."""
    if value < 1:
        return "none"
    scale = 10 ** (math.floor(math.log10(value)) - 1)
    return f"{round(value / scale) * scale:,.0f}"


def draw(costs: Costs) -> str:
    """What one core carries, by nodes, for numbers of domains."""
    curves = {
        f"{domains} domain{'s'[: domains > 1]}": [
            (float(nodes), _one_core(costs, nodes, domains).capacity(WITHIN_S)) for nodes in NODES
        ]
        for domains in DOMAINS
    }
    shown = {name: [(x, y if y >= 10 else 0.0) for x, y in points] for name, points in curves.items()}
    title = f"Requests / s of one Redis core, a call at most {WITHIN_S * 1000:.0f} ms under way"
    return draw_curves(title, "nodes, each asking for every domain", shown)


def page(setting: Mapping[str, Any], tables: Sequence[Sheet], *, sources: Sequence[str], drawn: str) -> str:
    """The page for people."""
    state = "" if setting["is_clean"] else " with local changes"
    named = ", ".join(f"[{name}]({name})" for name in sources)
    lines = [
        "# A fleet modelled\n",
        f"{setting['at']}, commit {setting['commit']}{state}; from {named}."
        " What it means is in [../../docs/scaling.md](../../docs/scaling.md).\n",
        f"![what one Redis core carries]({drawn})\n",
        *(markdown(table) for table in tables),
    ]
    return "\n".join(lines)


def newest(directory: Path, kind: str) -> Path:
    """The latest result file of a kind.

    Raises:
        FileNotFoundError: there is none.
    """
    found = sorted(directory.glob(f"*-{kind}.json"))
    if not found:
        raise FileNotFoundError(
            f"no {kind} in {directory}: run python -m benchmarks.{kind.replace('-', '_')}"
        )
    return found[-1]


def main(argv: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.model_report", description=__doc__)
    parser.add_argument(
        "--results", type=Path, default=RESULTS, metavar="DIR", help="what was measured, and where to write"
    )
    parser.add_argument("--requests", type=int, default=6000, help="of each simulation")
    options = parser.parse_args(argv)
    times, scale = newest(options.results, "service-times"), newest(options.results, "scale")
    costs = Costs.read(orjson.loads(times.read_bytes()))
    checks = validate(costs, orjson.loads(scale.read_bytes()), requests=options.requests)
    compared = compare(costs, requests=options.requests)
    tables = sheets(costs, checks, compared)
    console = Console(width=_WIDTH)
    for table in tables:
        console.print(rich_table(table))
    setting = describe()
    source = options.results / f"{setting['at'][:10]}-model.json"
    document = {
        "setting": setting | {"service_times": times.name, "scale": scale.name},
        "checks": [asdict(check) | {"error": check.error} for check in checks],
        "compared": [asdict(one) for one in compared],
        "tables": [asdict(table) for table in tables],
    }
    source.write_bytes(orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    (options.results / "model.svg").write_text(draw(costs))
    text = page(setting, tables, sources=[times.name, scale.name, source.name], drawn="model.svg")
    (options.results / "model.md").write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
