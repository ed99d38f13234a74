"""What a growing fleet has cost: figures, table, picture and files of ``benchmarks.scale``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import orjson
from pydantic import TypeAdapter
from rich.console import Console

from benchmarks.figures import disturbance
from benchmarks.plot import Bar, picture
from benchmarks.samples import Sample
from benchmarks.tables import Sheet, markdown, rich_table

_WIDTH: Final = 150
_NONE: Final = "-"
KINDS: Final = {"total": "one load in all", "each": "one load for each node"}


@dataclass(frozen=True, slots=True)
class Rest:
    """A fleet without load: CPU of each node and of Redis, and what Redis was asked."""

    round: int
    nodes: int
    node_ms_per_s: float
    redis_ms_per_s: float
    scripts_per_s: float
    commands_per_s: float


@dataclass(frozen=True, slots=True)
class Burst:
    """More requests at once than a limit allows.

    Attributes:
        admitted, refused: by the status of the answer.
        counted: what the upstream has seen.
    """

    round: int
    nodes: int
    limit: int
    asked: int
    admitted: int
    refused: int
    counted: int

    @property
    def is_exact(self) -> bool:
        """Whether the limit held, everybody was answered, and upstream and callers agree."""
        return self.counted == self.admitted <= self.limit and self.admitted + self.refused == self.asked


@dataclass(frozen=True, slots=True)
class ScaleRun:
    """Everything that was measured, and where."""

    setting: dict[str, Any]
    samples: list[Sample]
    rests: list[Rest]
    bursts: list[Burst]

    @property
    def is_sound(self) -> bool:
        """Whether nothing failed and no limit was passed."""
        return all(burst.is_exact for burst in self.bursts) and not any(s.is_void for s in self.samples)


@dataclass(frozen=True, slots=True)
class Cost:
    """Medians over the rounds, per request.

    Attributes:
        ratio: nodes and Redis together, to a fleet of one under the same kind of load in the same round.
        scripts: calls of Redis; two are the most, for an admission and a settlement that travel alone.
    """

    nodes: int
    per_s: float
    node_us: float
    redis_us: float
    nginx_us: float
    ratio: float
    scripts: float
    p50_ms: float
    p99_ms: float


def costs(run: ScaleRun, kind: str) -> list[Cost]:
    """The cost under one kind of load, by number of nodes. Where both kinds are the same load, one measurement serves for both."""
    found: dict[int, list[Sample]] = {}
    for one in run.samples:
        if not one.is_void and kind in _kinds(run, one):
            found.setdefault(nodes_of(one), []).append(one)
    first = {one.round: one for one in found[min(found)]} if found else {}
    return [_cost(nodes, found[nodes], first) for nodes in sorted(found)]


def _kinds(run: ScaleRun, one: Sample) -> set[str]:
    is_both = run.setting["each_per_s"] * nodes_of(one) == run.setting["total_per_s"]
    return set(KINDS) if is_both else {one.scenario}


def nodes_of(one: Sample) -> int:
    """The size of the fleet."""
    return int(one.subject.removeprefix("fleet/"))


def _cost(nodes: int, samples: list[Sample], first: dict[int, Sample]) -> Cost:
    def middle(figure: Callable[[Sample], float]) -> float:
        return median(figure(one) for one in samples)

    ratios = [_own_us(one) / _own_us(first[one.round]) for one in samples if one.round in first]
    return Cost(
        nodes,
        per_s=middle(lambda s: s.requests / s.elapsed_s),
        node_us=middle(lambda s: s.part_us("nodes")),
        redis_us=middle(lambda s: s.part_us("valkey")),
        nginx_us=middle(lambda s: s.part_us("nginx")),
        ratio=median(ratios),
        scripts=middle(lambda s: s.redis.scripts / s.requests if s.redis else 0.0),
        p50_ms=middle(lambda s: s.latency.p50_ms if s.latency else 0.0),
        p99_ms=middle(lambda s: s.latency.p99_ms if s.latency else 0.0),
    )


def _own_us(one: Sample) -> float:
    return one.part_us("nodes") + one.part_us("valkey")


def sheets(run: ScaleRun) -> list[Sheet]:
    """All tables of a run."""
    return [
        *(_cost_sheet(title, costs(run, kind)) for kind, title in KINDS.items()),
        _rest_sheet(run),
        _limit_sheet(run),
    ]


def _cost_sheet(title: str, found: list[Cost]) -> Sheet:
    header = ["nodes", "requests / s", "node us", "Redis us", "x 1 node", "nginx us", "calls / request"]
    header += ["p50 / p99 ms"]
    rows = [
        [
            str(one.nodes),
            f"{one.per_s:.0f}",
            f"{one.node_us:.0f}",
            f"{one.redis_us:.0f}",
            f"{one.ratio:.2f}",
            f"{one.nginx_us:.0f}",
            f"{one.scripts:.2f}",
            f"{one.p50_ms:.1f} / {one.p99_ms:.1f}",
        ]
        for one in found
    ]
    return Sheet(f"CPU per request, {title}", header, rows)


def _rest_sheet(run: ScaleRun) -> Sheet:
    header = ["nodes", "CPU ms / s of a node", "CPU ms / s of Redis", "scripts / s", "commands / s"]
    rows = []
    for nodes in sorted({rest.nodes for rest in run.rests}):
        found = [rest for rest in run.rests if rest.nodes == nodes]
        figures = ("node_ms_per_s", "redis_ms_per_s", "scripts_per_s", "commands_per_s")
        rows.append(
            [str(nodes), *(f"{median(getattr(rest, name) for rest in found):.1f}" for name in figures)]
        )
    return Sheet("Without load", header, rows)


def _limit_sheet(run: ScaleRun) -> Sheet:
    header = ["nodes", "limit", "asked at once", "admitted", "seen upstream", "exact"]
    rows = []
    for nodes in sorted({burst.nodes for burst in run.bursts}):
        found = [burst for burst in run.bursts if burst.nodes == nodes]
        rows.append(
            [
                str(nodes),
                _span(burst.limit for burst in found),
                _span(burst.asked for burst in found),
                _span(burst.admitted for burst in found),
                _span(burst.counted for burst in found),
                "yes" if all(burst.is_exact for burst in found) else "NO",
            ]
        )
    return Sheet("A limit of requests per minute, asked for by far more at once", header, rows)


def _span(values: Iterable[int]) -> str:
    found = sorted(set(values))
    return str(found[0]) if len(found) == 1 else f"{found[0]} to {found[-1]}"


def show(run: ScaleRun) -> None:
    """The tables on the terminal."""
    console = Console(width=_WIDTH)
    for sheet in sheets(run):
        console.print(rich_table(sheet))


def draw(run: ScaleRun) -> str:
    """The picture: nodes and Redis, per request, by size of the fleet."""
    return picture(
        [(f"CPU us per request, {title}", _bars(costs(run, kind))) for kind, title in KINDS.items()]
    )


def _bars(found: list[Cost]) -> list[Bar]:
    return [
        (f"{one.nodes} node{'s'[: one.nodes > 1]}", {"nodes": one.node_us, "Redis": one.redis_us})
        for one in found
    ]


def write(run: ScaleRun, directory: Path) -> list[Path]:
    """All samples as JSON, the tables, the picture."""
    directory.mkdir(parents=True, exist_ok=True)
    source = directory / f"{run.setting['at'][:10]}-scale.json"
    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    source.write_bytes(orjson.dumps(asdict(run), option=options))
    text, drawn = directory / "scale.md", directory / "scale.svg"
    text.write_text(page(run, source=source.name, drawn=drawn.name))
    drawn.write_text(draw(run))
    return [source, text, drawn]


def read(path: Path) -> ScaleRun:
    """A run from its file."""
    return TypeAdapter(ScaleRun).validate_json(path.read_bytes())


def page(run: ScaleRun, *, source: str, drawn: str) -> str:
    """The page for people."""
    setting = run.setting
    state = "" if setting["is_clean"] else " with local changes"
    voids = [f"- round {s.round}, {s.subject}: {'; '.join(s.faults)}\n" for s in run.samples if s.is_void]
    lines = [
        "# A growing fleet\n",
        f"{setting['at']}, commit {setting['commit']}{state}; {setting['rounds']} rounds of {setting['seconds']:g} s windows,"
        f" requests at random times; every sample is in [{source}]({source}), the method in [../README.md](../README.md).\n",
        f"{setting['cpu']}, {setting['cores']} cores, {setting['kernel']}, {setting['python']}. All nodes share one core;"
        " driver, provider, nginx and Valkey share the other."
        f" Other processes used {disturbance(run.samples, cores=setting['cores']):.0%} of the cores meanwhile.\n",
        *(["".join(voids)] if voids else []),
        f"![CPU per request by size of the fleet]({drawn})\n",
        *(markdown(sheet) for sheet in sheets(run)),
    ]
    return "\n".join(lines)
