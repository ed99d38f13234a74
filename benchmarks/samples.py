"""What a run has measured, sample by sample, as it goes into the result file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks.driver import Window
from benchmarks.meters import Reading, RedisReading

_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Quantiles:
    """Median and 99th percentile, in milliseconds."""

    p50_ms: float
    p99_ms: float


def quantiles(values_s: Sequence[float]) -> Quantiles:
    """Nearest-rank quantiles of durations in seconds; at least one is needed."""
    ordered = sorted(values_s)
    last = len(ordered) - 1
    return Quantiles(ordered[round(last * 0.5)] * 1000, ordered[round(last * 0.99)] * 1000)


@dataclass(frozen=True, slots=True)
class Sample:
    """One window: a subject under a scenario's load in a round.

    Attributes:
        cpu_s: of each part of the subject.
        load_cpu_s: of driver and mock.
        others_cpu_s: of everything else on the machine; a quiet machine has next to none.
        faults: any one makes the sample void; then nothing else in it means anything.
    """

    round: int
    subject: str
    scenario: str
    elapsed_s: float
    requests: int
    cpu_s: dict[str, float]
    load_cpu_s: float
    others_cpu_s: float
    latency: Quantiles | None
    first_content: Quantiles | None
    redis: RedisReading | None
    reconnects: int = 0
    faults: list[str] = field(default_factory=list)

    @property
    def is_void(self) -> bool:
        return bool(self.faults)

    @property
    def cpu_us(self) -> float:
        """CPU of the whole subject per request."""
        return sum(self.cpu_s.values()) / self.requests * 1e6

    def part_us(self, part: str) -> float:
        """CPU of one part per request."""
        return self.cpu_s[part] / self.requests * 1e6


def sample(
    window: Window, before: Reading, after: Reading, *, round_: int, subject: str, scenario: str
) -> Sample:
    """A sample from the window and the meters before and after it."""
    faults = list(window.faults)
    if window.is_void and not faults:
        faults.append("no request was answered")
    has_times = bool(window.latencies_s)
    cpu_s = {part: used - before.cpu_s[part] for part, used in after.cpu_s.items()}
    load_cpu_s = after.load_cpu_s - before.load_cpu_s
    ours_s = sum(cpu_s.values()) + load_cpu_s
    return Sample(
        round=round_,
        subject=subject,
        scenario=scenario,
        elapsed_s=window.elapsed_s,
        requests=window.requests,
        cpu_s=cpu_s,
        load_cpu_s=load_cpu_s,
        others_cpu_s=max(0.0, after.machine_cpu_s - before.machine_cpu_s - ours_s),
        latency=quantiles(window.latencies_s) if has_times else None,
        first_content=quantiles(window.first_s) if has_times else None,
        redis=after.redis.since(before.redis) if after.redis and before.redis else None,
        reconnects=window.reconnects,
        faults=faults,
    )


@dataclass(frozen=True, slots=True)
class Life:
    """One life of a subject, from its start to its end in a round.

    Attributes:
        start_s: from the launch to the first answer.
        rest_rss_bytes: of each part, before any load.
        end_rss_bytes: of each part, after all scenarios.
        rest_cpu_ms: CPU of all parts per second without any load.
    """

    round: int
    subject: str
    start_s: float
    rest_rss_bytes: dict[str, int]
    end_rss_bytes: dict[str, int]
    rest_cpu_ms: float


@dataclass(frozen=True, slots=True)
class Run:
    """Everything that a run has measured, and where.

    Attributes:
        setting: machine, versions, commit, arguments.
        absent: subjects that could not be started, and why.
    """

    setting: dict[str, Any]
    samples: list[Sample]
    lives: list[Life]
    absent: dict[str, str]

    def document(self) -> dict[str, Any]:
        """The run as a JSON document."""
        return {"format": _FORMAT, **asdict(self)}
