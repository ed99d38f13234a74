"""The figures of `docs/scaling.md`: its marked blocks are written from result files, and from nothing else.

A block begins with ``<!-- figures: NAME -->`` and ends with ``<!-- end -->``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Final

from benchmarks.formulae import Calls, Shard, capacity
from benchmarks.lines import Exchange
from benchmarks.model import Costs
from benchmarks.model_checks import WITHIN_S, Check, Comparison
from benchmarks.model_tables import one_core, rate
from benchmarks.scale_report import Cost, ScaleRun, costs, disturbance
from node.leases import renewal_s

_BLOCK: Final = re.compile(r"(<!-- figures: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
_FIGURES: Final = {"calls": "calls per request", "redis_us": "CPU of Redis", "node_us": "CPU of nodes"}
_WORDS: Final = {1: "one", 2: "two", 4: "four", 8: "eight"}
#: What a core should carry at the least, where pairs are counted.
_PLENTY: Final = 10_000


@dataclass(frozen=True, slots=True)
class Report:
    """All that the page is made of.

    Attributes:
        setting: of the model's own run, with the names of its sources.
        times: the service times as they were measured.
        scale: the fleet that was measured.
    """

    setting: Mapping[str, Any]
    times: Mapping[str, Any]
    costs: Costs
    scale: ScaleRun
    checks: Sequence[Check]
    compared: Sequence[Comparison]


def filled(page: str, report: Report) -> str:
    """The page with its blocks written anew.

    Raises:
        ValueError: it lacks a block, or has one that nobody writes.
    """
    texts = blocks(report)
    found = [match[2] for match in _BLOCK.finditer(page)]
    if sorted(found) != sorted(texts):
        raise ValueError(f"blocks of figures are {found}, and should be {list(texts)}")
    return _BLOCK.sub(lambda match: f"{match[1]}{texts[match[2]]}\n{match[3]}", page)


def blocks(report: Report) -> dict[str, str]:
    """The text of each block."""
    return {
        "setting": _setting(report.scale),
        "short": _short(report),
        "calls": _calls(report),
        "formulae": _formulae(report.costs),
        "capacities": _capacities(report.costs),
        "shards": _shards(report.costs),
        "background": _background(report),
        "errors": _errors(report),
    }


def _setting(run: ScaleRun) -> str:
    setting = run.setting
    return (
        f"Measured on {setting['at'][:10]} at commit {setting['commit']}: {setting['cpu']}, {setting['cores']} cores,"
        f" {setting['python']}; other processes used {disturbance(run):.0%} of the cores meanwhile."
    )


def _short(report: Report) -> str:
    run = report.scale
    return "\n".join([_limits(run), _same_load_each(run), _one_load(run), _pairs(report.costs)])


def _limits(run: ScaleRun) -> str:
    nodes = _listed(str(n) for n in sorted({burst.nodes for burst in run.bursts}))
    seen, asked, limit = (
        _span(getattr(burst, name) for burst in run.bursts) for name in ("counted", "asked", "limit")
    )
    return (
        f"- **Limits.** On {nodes} nodes {asked} requests at once asked for a model that may take {limit}:"
        f" the provider saw {seen}."
    )


def _same_load_each(run: ScaleRun) -> str:
    first, *more = costs(run, "each")
    ratios = _listed(f"{one.ratio:.2f} times on {_word(one.nodes)}" for one in more)
    return (
        f"- **The same load for each node.** At {run.setting['each_per_s']:g} requests/s a node, a request costs node and Redis together,"
        f" compared with a fleet of {_word(first.nodes)}: {ratios}."
    )


def _one_load(run: ScaleRun) -> str:
    first, *more = costs(run, "total")
    small = costs(run, "each")[0]
    ratios = _listed(f"{one.ratio:.2f} times on {_word(one.nodes)}" for one in more)
    busy, idle, rests = _own_us(first), _own_us(small), [rest.node_ms_per_s for rest in run.rests]
    return (
        f"- **One load spread over more nodes.** {run.setting['total_per_s']:g} requests/s in all, compared in the same way: {ratios}."
        f" A node that has less to do finds its caches colder and its batches smaller: in a fleet of {_word(first.nodes)} a request costs,"
        f" at {run.setting['each_per_s']:g} a second, {idle / busy:.1f} times what it costs at {run.setting['total_per_s']:g} (nginx, which knows nothing of fleets,"
        f" {small.nginx_us / first.nginx_us:.1f} times). A node without load uses {median(rests):.1f} ms of CPU a second."
    )


def _own_us(one: Cost) -> float:
    return one.node_us + one.redis_us


def _pairs(costs: Costs) -> str:
    return (
        "- **Count pairs** of a node and a quota domain that it uses, on one Redis core: that is what decides."
        f" Up to {rate(most_pairs(costs))} pairs a core carries {_PLENTY:,} requests a second and more, each call at most"
        f" {WITHIN_S * 1000:.0f} ms under way; where every ask and every settlement travels alone, {rate(_lone(costs))}."
    )


def most_pairs(costs: Costs) -> int:
    """How many nodes may use a domain while its core carries plenty."""
    low, high = 0, 10_000
    while high - low > 1:
        middle = (low + high) // 2
        is_plenty = one_core(costs, middle, 1).capacity(WITHIN_S) >= _PLENTY
        low, high = (middle, high) if is_plenty else (low, middle)
    return low


def _calls(report: Report) -> str:
    costs = report.costs
    busy, exchange = costs.busy.server, costs.busy.server_exchange
    rows = [["asks", *_exchange_cells(exchange, 1, 0)], ["settlements", *_exchange_cells(exchange, 0, 1)]]
    rows += [["both in one call", *_exchange_cells(exchange, 1, 1)]]
    per = {"pulses": "a domain", "publish": "a node"}
    names = {
        "renew": "renewal of a lease",
        "beat": "heartbeat",
        "pulses": "poll",
        "share_retries": "share of a retry budget",
        "read_domain": "reading a domain again",
        "publish": "publishing an event",
    }
    for kind, name in names.items():
        each = f"{busy[kind].each_us:.1f} {per[kind]}" if kind in per else ""
        rows.append([name, f"{busy[kind].fixed_us:.0f}", each])
    ways = [f"{times.server_exchange.fixed_us(1, 1):.0f}" for times in (costs.busy, costs.alone, costs.rare)]
    return (
        _table(["call", "fixed, us", "each, us"], rows)
        + f"\n\nA process that sleeps between calls works longer on each: the fixed part of an exchange with both is {ways[0]} us where Redis"
        f" is busy, {ways[1]} us where it wakes up for each call, {ways[2]} us where one comes every {costs.rare_s * 1000:.0f} ms. These"
        f" straight lines are within {_misfit(report):.0%} of each of the busy exchanges that were measured, from 1 to 256 entries of a kind."
    )


def _misfit(report: Report) -> float:
    exchange = report.costs.busy.server_exchange
    points = report.times["busy"]["exchange"]["points"]
    errors = [exchange.at(p["asks"], p["settlements"]) / float(p["server_us"]) - 1 for p in points]
    return max(abs(error) for error in errors)


def _exchange_cells(cost: Exchange, asks: int, settlements: int) -> list[str]:
    each = [f"{cost.ask_us:.1f} an ask"] * asks + [f"{cost.settlement_us:.1f} a settlement"] * settlements
    return [f"{cost.fixed_us(asks, settlements):.0f}", ", ".join(each)]


def _formulae(costs: Costs) -> str:
    cost = costs.busy.server_exchange
    a, b = cost.fixed_us(1, 1), cost.ask_us + cost.settlement_us
    alone = cost.fixed_us(1, 0) + cost.fixed_us(0, 1)
    half, pairs = 0.5e6 / b, (8, 64, 1000)
    full_s = [count * a / 1e6 / (1 - half * b / 1e6) for count in pairs]
    rows = [
        ["the constants", "`A`, `L`, `B`", f"{a:.0f}, {alone:.0f} and {b:.1f} us"],
        [
            "CPU per request, travelling together",
            "`A / n + B`",
            f"{a + b:.0f} us alone in its call, {a / 32 + b:.0f} us among 32",
        ],
        ["CPU per request, ask and settlement apart", "`L + B`", f"{alone + b:.0f} us"],
        [
            "settlements that travel alone, of a quiet pair",
            "`q / (2 - q)`, `q = exp(-W λ / P)`",
            _company((1, 10, 100, 1000)),
        ],
        ["every ask and settlement alone", "`λ = 1 / (L + B)`", f"{rate(_lone(costs))} requests/s"],
        ["never more than", "`λ = 1 / B`", f"{rate(1e6 / b)} requests/s"],
        [
            "a full core: a call is under way for",
            "`T = P A / (1 - λ B)`",
            f"at half of that, with {_each(pairs)} pairs: {', '.join(f'{s * 1000:.0f}' for s in full_s)} ms",
        ],
        ["and carries", "`n = λ T / P`", f"{half * full_s[0] / pairs[0]:.0f} requests"],
    ]
    return _table(["", "formula", "here"], rows, words=3)


def _company(rates: Sequence[int]) -> str:
    found = ", ".join(f"{Calls.of(per_s, 0.0).alone:.0%}" for per_s in rates)
    return f"{found} at {_each(rates)} requests/s"


def _lone(costs: Costs) -> float:
    return 1e6 / Shard(costs, 1, 1).lone_us


def _capacities(costs: Costs) -> str:
    domains = (1, 4, 16, 64, 256)
    rows = [
        [f"{nodes:,}", *(rate(one_core(costs, nodes, count).capacity(WITHIN_S)) for count in domains)]
        for nodes in (1, 8, 64, 250, 1000)
    ]
    return _table(["nodes", *(_plural(count, "domain") for count in domains)], rows)


def _shards(costs: Costs) -> str:
    shards = (1, 4, 16, 64)

    def of(nodes: int, count: int) -> float:
        return capacity(
            costs, nodes=nodes, domains=256, shards=count, within_s=WITHIN_S, renew_s=renewal_s(nodes)
        )

    rows = [[f"{nodes:,}", *(rate(of(nodes, count)) for count in shards)] for nodes in (8, 64, 1000)]
    return _table(["nodes", *(_plural(count, "shard") for count in shards)], rows)


def _background(report: Report) -> str:
    busy = report.costs.busy.server
    publish, pulses = busy["publish"], busy["pulses"]
    beat, renew, share, again = (
        busy[kind].at(1) for kind in ("beat", "renew", "share_retries", "read_domain")
    )
    few, many = (one_core(report.costs, 1000, domains).background() for domains in (1, 16))
    news_ms = (publish.at(1000) + 1000 * again) / 1000
    formulae = {
        "heartbeats": ("heartbeats, on the registry's shard", f"`{beat:.0f} N`"),
        "polls": ("polls", f"`N ({pulses.fixed_us:.0f} + {pulses.each_us:.1f} D)`"),
        "renewals": (
            "lease renewals, of domains in use",
            f"`{renew:.0f} D min(N, 100)`; beyond 1,000 nodes `{renew / 10:.0f} D N`",
        ),
        "retry budgets": ("retry budgets, of pools in use", f"`{share:.0f} N` a pool"),
    }
    rows = [[*formulae[name], f"{few[name]:.1%}", f"{many[name]:.1%}"] for name in formulae]
    rows += [["all of these", "", *(f"{sum(found.values()):.1%}" for found in (few, many))]]
    event = f"`{publish.fixed_us:.0f} + {publish.each_us:.1f} N` published, `{again:.0f} N` to read the domain again"
    rows += [["one event", event, f"{news_ms:.0f} ms", f"{news_ms:.0f} ms, on its shard"]]
    header = ["each second", "formula (us)", "1,000 nodes, 1 domain", "1,000 nodes, 16 domains"]
    return _table(header, rows, words=2)


def _errors(report: Report) -> str:
    kinds = {"total": "one load in all", "each": "one load for each node"}
    rows = []
    for figure, name in _FIGURES.items():
        found = {kind: _errors_of(report.checks, figure, kind) for kind in kinds}
        rows.append([name, *(_between(errors) for errors in found.values())])
    agreed = _listed(
        f"{max(abs(error) for error in errors):.0%} on {name}" for name, errors in _agreement(report.compared)
    )
    return (
        _table(["modelled to measured", *kinds.values()], rows)
        + f"\n\nSimulation and formulae agree, where Redis is more than half busy, within {agreed}."
    )


def _errors_of(checks: Sequence[Check], figure: str, kind: str) -> list[float]:
    """Without the fleet that taught the model its nodes' own work, where it is that which is foretold."""
    smallest = min(check.nodes for check in checks)
    return [
        check.error
        for check in checks
        if check.figure == figure and check.load == kind and (figure != "node_us" or check.nodes > smallest)
    ]


def _agreement(compared: Sequence[Comparison]) -> list[tuple[str, list[float]]]:
    busy = [one for one in compared if one.simulated.redis_busy > 0.5]
    return [
        ("calls per request", [one.calls / one.simulated.calls - 1 for one in busy]),
        ("the CPU of Redis", [one.redis_us / one.simulated.redis_us - 1 for one in busy]),
    ]


def _between(errors: Sequence[float]) -> str:
    return f"{min(errors):+.0%} to {max(errors):+.0%}" if errors else "-"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], *, words: int = 1) -> str:
    """The first columns are words, the others are figures."""
    marks = ["---" if place < words else "---:" for place in range(len(header))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, marks, *rows))


def _plural(count: int, name: str) -> str:
    return f"{count} {name}{'s'[: count > 1]}"


def _word(nodes: int) -> str:
    return _WORDS.get(nodes, str(nodes))


def _each(values: Sequence[int]) -> str:
    return _listed(f"{value:,}" for value in values)


def _listed(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def _span(values: Iterable[int]) -> str:
    found = sorted(set(values))
    return str(found[0]) if len(found) == 1 else f"{found[0]} to {found[-1]}"
