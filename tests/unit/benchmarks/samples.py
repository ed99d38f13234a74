"""Samples of invented runs, with round numbers."""

from __future__ import annotations

from benchmarks.meters import RedisReading
from benchmarks.samples import Life, Quantiles, Run, Sample

SETTING = {
    "at": "2026-01-02T03:04:05+00:00",
    "commit": "abc",
    "is_clean": True,
    "cpu": "a <fine> machine",
    "cores": 2,
    "kernel": "Linux 6",
    "python": "CPython 3.11",
    "packages": {"uvloop": "1.0"},
    "nginx": "1.22",
    "rounds": 3,
    "seconds": 1.0,
    "scenarios": ["unary1", "unary32", "heads", "burst"],
}


def sample(
    subject: str,
    scenario: str,
    *,
    round_: int = 1,
    cpu_us: float = 100.0,
    p50_ms: float = 1.0,
    faults: tuple[str, ...] = (),
) -> Sample:
    """A thousand requests in a second."""
    parts = {"nginx": {"nginx": 1.0}, "direct": {}}.get(subject, {"node": 0.75, "valkey": 0.25})
    return Sample(
        round=round_,
        subject=subject,
        scenario=scenario,
        elapsed_s=1.0,
        requests=1000,
        cpu_s={part: share * cpu_us / 1000 for part, share in parts.items()},
        load_cpu_s=0.1,
        others_cpu_s=0.5,
        latency=Quantiles(p50_ms, 2 * p50_ms),
        first_content=Quantiles(p50_ms, 2 * p50_ms),
        redis=RedisReading(200, 4000, 210, 0.01) if "valkey" in parts else None,
        faults=list(faults),
    )


def life(subject: str, *, round_: int = 1) -> Life:
    """A life that began within half a second."""
    parts = {"nginx": ["nginx"], "direct": []}.get(subject, ["node", "valkey"])
    return Life(round_, subject, 0.5, dict.fromkeys(parts, 50 * 10**6), dict.fromkeys(parts, 60 * 10**6), 2.0)


def run(samples: list[Sample]) -> Run:
    """A run of these samples."""
    lives = {(s.subject, s.round): life(s.subject, round_=s.round) for s in samples}
    return Run(dict(SETTING), samples, list(lives.values()), {})
