"""The model checked: against a fleet that was measured, and its simulation against its formulae."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Final

from benchmarks.formulae import Shard
from benchmarks.model import Costs, Fleet, Outcome, simulate
from benchmarks.samples import Sample
from benchmarks.scale_report import ScaleRun, nodes_of
from node.leases import renewal_s

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
    calls: float
    redis_us: float


def validate(costs: Costs, scale: ScaleRun, *, requests: int = 4000) -> list[Check]:
    """Fleets as they were measured, on one core for all nodes. What a node works by itself is learnt from the fleet of one, at both of
    its loads, for a node that has more to do finds its caches warmer; all else is foretold."""
    measured = _medians(scale)
    smallest = min(nodes for nodes, _ in measured)
    own = sorted(
        (
            found["per_s"],
            found["node_us"] - simulate(_fleet(smallest, found), costs, requests=requests).node_us,
        )
        for (nodes, _), found in measured.items()
        if nodes == smallest
    )
    checks = []
    for (nodes, load), found in measured.items():
        fleet = replace(_fleet(nodes, found), node_us=_between(own, found["per_s"] / nodes))
        told = simulate(fleet, costs, requests=requests)
        for figure, value in (
            ("calls", told.scripts),
            ("node_us", told.node_us),
            ("redis_us", told.redis_us),
        ):
            checks.append(Check(nodes, load, found["per_s"], figure, found[figure], value))
    return checks


def _fleet(nodes: int, found: Mapping[str, float]) -> Fleet:
    """As it is measured: nodes on one core, all else on the other, nginx before them. They have no work of their own yet."""
    beside_us = found["beside_us"]
    return Fleet(nodes, 1, found["per_s"], node_us=0.0, cores=1, beside_us=beside_us, in_turn=True)


def _between(points: Sequence[tuple[float, float]], rate: float) -> float:
    """Between two points that are known, by the logarithm of the rate; beyond them as at the nearer one."""
    (low, at_low), (high, at_high) = points[0], points[-1]
    if low == high:
        return at_low
    part = math.log(rate / low) / math.log(high / low)
    return at_low + (at_high - at_low) * min(1.0, max(0.0, part))


def _medians(scale: ScaleRun) -> dict[tuple[int, str], dict[str, float]]:
    """Medians over the rounds, by nodes and load."""
    found: dict[tuple[int, str], list[dict[str, float]]] = {}
    for one in scale.samples:
        if not one.is_void:
            found.setdefault((nodes_of(one), one.scenario), []).append(_figures(one))
    return {
        key: {name: median(figures[name] for figures in rounds) for name in rounds[0]}
        for key, rounds in sorted(found.items(), key=lambda item: (item[0][1], item[0][0]))
    }


def _figures(one: Sample) -> dict[str, float]:
    return {
        "per_s": one.requests / one.elapsed_s,
        "calls": one.redis.scripts / one.requests if one.redis else 0.0,
        "node_us": one.part_us("nodes"),
        "redis_us": one.part_us("valkey"),
        "beside_us": one.part_us("nginx") + one.load_cpu_s / one.requests * 1e6,
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
        calls = shard.calls(per_s, cycle_s)
        redis_us = shard.redis_us(calls) + background
        found.append(Comparison(nodes, domains, per_s, told, cycle_s * 1000, calls.all, redis_us))
    return found
