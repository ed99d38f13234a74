"""From samples to figures: medians over the rounds, compared within each round. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import median

from benchmarks.samples import Run, Sample
from benchmarks.scenarios import HEADS, SCENARIOS

FLOOR = "nginx"
BASE = "direct"

#: Scenarios whose cost counts per request, and those whose cost counts per chunk.
UNARY = tuple(name for name, scenario in SCENARIOS.items() if not scenario.is_stream and not scenario.mix)
STREAMS = tuple(name for name, scenario in SCENARIOS.items() if scenario.chunks > 1)


@dataclass(frozen=True, slots=True)
class Load:
    """Figures of a subject under one scenario.

    Attributes:
        cpu_us: CPU per request of the whole subject.
        parts_us: the same of each of its parts.
        chunk_us: CPU per further chunk, for streams of many.
        per_s: requests per second.
        added_p50_ms, added_p99_ms: latency beyond the mock's own in the same round; for streams to the first content.
        busy: share of the subject's core that was in use; well below 1 the load side was the limit.
        scripts, commands, reads: of Redis, per request.
        redis_cpu_us: as Redis itself counts it, per request.
    """

    cpu_us: float | None = None
    parts_us: dict[str, float] | None = None
    chunk_us: float | None = None
    per_s: float | None = None
    added_p50_ms: float | None = None
    added_p99_ms: float | None = None
    busy: float | None = None
    scripts: float | None = None
    commands: float | None = None
    reads: float | None = None
    redis_cpu_us: float | None = None


@dataclass(frozen=True, slots=True)
class Figures:
    """All figures of a subject; memory in MB.

    Attributes:
        voids: windows in which something failed.
        void_loads: scenarios under which no window was without a failure.
    """

    subject: str
    loads: dict[str, Load]
    start_s: float
    rest_mb: dict[str, float]
    end_mb: dict[str, float]
    rest_cpu_ms: float
    voids: int
    void_loads: frozenset[str] = frozenset()

    def cpu_us(self, scenario: str) -> float | None:
        """CPU per request under a scenario, if it was measured."""
        load = self.loads.get(scenario)
        return load.cpu_us if load else None


class _Samples:
    """The valid samples by subject, scenario and round."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        self._found = {(s.subject, s.scenario, s.round): s for s in samples if not s.is_void}

    def of(self, subject: str, scenario: str) -> list[Sample]:
        return [s for key, s in self._found.items() if key[:2] == (subject, scenario)]

    def beside(
        self, sample: Sample, *, subject: str | None = None, scenario: str | None = None
    ) -> Sample | None:
        """Another sample of the same round."""
        return self._found.get((subject or sample.subject, scenario or sample.scenario, sample.round))


def summarise(run: Run) -> list[Figures]:
    """The figures of every subject that was measured, in the order of the run."""
    samples = _Samples(run.samples)
    return [
        _figures(run, subject, samples) for subject in dict.fromkeys(sample.subject for sample in run.samples)
    ]


def _figures(run: Run, subject: str, samples: _Samples) -> Figures:
    scenarios = dict.fromkeys(sample.scenario for sample in run.samples)
    lives = [life for life in run.lives if life.subject == subject]
    ours = [sample for sample in run.samples if sample.subject == subject]
    loads = {name: _load(found, samples) for name in scenarios if (found := samples.of(subject, name))}
    return Figures(
        subject=subject,
        loads=loads,
        start_s=median([life.start_s for life in lives]),
        rest_mb=_megabytes([life.rest_rss_bytes for life in lives]),
        end_mb=_megabytes([life.end_rss_bytes for life in lives]),
        rest_cpu_ms=median([life.rest_cpu_ms for life in lives]),
        voids=sum(sample.is_void for sample in ours),
        void_loads=frozenset(sample.scenario for sample in ours) - set(loads),
    )


def _megabytes(readings: list[dict[str, int]]) -> dict[str, float]:
    return {part: median([reading[part] for reading in readings]) / 1e6 for part in _in_order(readings[0])}


def _in_order(parts: Iterable[str]) -> list[str]:
    """A subject's own parts before its store."""
    return sorted(parts, key="valkey".__eq__)


def _load(found: list[Sample], samples: _Samples) -> Load:
    def middle(figure: Callable[[Sample], float | None]) -> float | None:
        values = [value for sample in found if (value := figure(sample)) is not None]
        return median(values) if values else None

    parts = _in_order(found[0].cpu_s)
    return Load(
        cpu_us=middle(lambda s: s.cpu_us) if parts else None,
        parts_us={part: median([s.part_us(part) for s in found]) for part in parts},
        chunk_us=middle(lambda s: chunk_us(s, samples.beside(s, scenario=HEADS))),
        per_s=middle(lambda s: s.requests / s.elapsed_s),
        added_p50_ms=middle(lambda s: _added(s, samples.beside(s, subject=BASE), is_tail=False)),
        added_p99_ms=middle(lambda s: _added(s, samples.beside(s, subject=BASE), is_tail=True)),
        busy=middle(lambda s: sum(s.cpu_s.values()) / s.elapsed_s) if parts else None,
        scripts=middle(lambda s: s.redis.scripts / s.requests if s.redis else None),
        commands=middle(lambda s: s.redis.commands / s.requests if s.redis else None),
        reads=middle(lambda s: s.redis.reads / s.requests if s.redis else None),
        redis_cpu_us=middle(lambda s: s.redis.cpu_s / s.requests * 1e6 if s.redis else None),
    )


def disturbance(samples: Iterable[Sample], *, cores: int) -> float:
    """Share of the machine that other processes used while it was measured, the median of all windows."""
    shares = [s.others_cpu_s / s.elapsed_s / cores for s in samples if not s.is_void]
    return median(shares) if shares else 0.0


def chunk_us(sample: Sample, heads: Sample | None) -> float | None:
    """CPU per chunk: (CPU of a stream - CPU of a stream of one chunk) / (chunks - 1)."""
    chunks = SCENARIOS[sample.scenario].chunks
    if heads is None or chunks < 2 or not sample.cpu_s:
        return None
    return (sample.cpu_us - heads.cpu_us) / (chunks - 1)


def _added(sample: Sample, base: Sample | None, *, is_tail: bool) -> float | None:
    """Latency beyond that without a subject, in ms."""
    if base is None or base is sample:
        return None
    scenario = SCENARIOS[sample.scenario]
    has_streams = scenario.is_stream or bool(scenario.mix)
    ours, theirs = (s.first_content if has_streams else s.latency for s in (sample, base))
    if ours is None or theirs is None:
        return None
    return ours.p99_ms - theirs.p99_ms if is_tail else ours.p50_ms - theirs.p50_ms
