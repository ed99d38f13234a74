"""The outside test of two promises: no window is ever exceeded, and the books balance, whatever dies meanwhile."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import orjson
from rich.console import Console
from rich.table import Table

from benchmarks.exactness_fleet import FAULTS, POOLS, fleet, windows
from benchmarks.exactness_oracle import Balance, Finding, compare, judge
from benchmarks.exactness_upstream import CountingUpstream
from tests.cluster.cluster import Cluster

_RESULTS = Path(__file__).parent / "results"
_WORKERS = 24
_ABORT_SHARE, _STREAM_SHARE = 0.05, 0.3
_QUIET_S = 60.0
_TIMEOUT = aiohttp.ClientTimeout(total=30.0)


@dataclass(frozen=True, slots=True)
class Report:
    """What one run found."""

    fault: str
    seed: int
    answers: dict[str, int]
    findings: list[Finding]
    balance: Balance
    calls: int

    @property
    def is_exact(self) -> bool:
        """Whether nothing was over-admitted, lost, booked twice or leaked."""
        return not any((*asdict(self.balance).values(), *(one.over for one in self.findings)))

    def document(self) -> dict[str, object]:
        """As it is written to the results."""
        found = [
            {"scope": f.window.scope, "kind": f.window.kind, "limit": f.window.limit} for f in self.findings
        ]
        for row, finding in zip(found, self.findings, strict=True):
            row |= {"allowed": finding.window.allowed, "maximum": finding.maximum, "over": finding.over}
        balance = asdict(self.balance)
        return {"fault": self.fault, "seed": self.seed, "calls": self.calls, "answers": self.answers} | {
            "windows": found,
            "balance": balance,
        }


async def examine(faults: str, seed: int, *, nodes: int, requests: int) -> Report:
    """Start a fleet, load it, let the faults strike, wait until it is quiet, and judge.

    Args:
        faults: names joined by ``+``, or ``none``.
    """
    async with CountingUpstream() as upstream:
        cluster = fleet(upstream, nodes=nodes)
        async with cluster:
            answers, _ = await asyncio.gather(
                _load(cluster.base_url, seed, requests=requests), _strike(cluster, faults, seed)
            )
            balance = await _quiet_balance(cluster, upstream)
        findings = [judge(window, upstream.arrivals) for window in windows()]
        return Report(faults, seed, dict(answers), findings, balance, len(upstream.arrivals))


async def _strike(cluster: Cluster, faults: str, seed: int) -> None:
    rng = random.Random(seed)
    for name in () if faults == "none" else faults.split("+"):
        await asyncio.sleep(rng.uniform(0.2, 1.5))
        await FAULTS[name](cluster, rng)


async def _load(base_url: str, seed: int, *, requests: int) -> Counter[str]:
    answers: Counter[str] = Counter()
    left = iter(range(requests))

    async def work(number: int) -> None:
        rng = random.Random(f"{seed}/{number}")
        for _ in left:
            answers[await _ask(session, rng)] += 1

    async with aiohttp.ClientSession(base_url, timeout=_TIMEOUT) as session:
        await asyncio.gather(*(work(number) for number in range(_WORKERS)))
    return answers


async def _ask(session: aiohttp.ClientSession, rng: random.Random) -> str:
    """Ask once; the kind of answer: a status, ``aborted`` by us, or ``broken``."""
    message = {"role": "user", "content": "word " * rng.randint(1, 200)}
    body = {"model": rng.choice(POOLS), "messages": [message], "max_tokens": rng.randint(1, 200)}
    body["stream"] = rng.random() < _STREAM_SHARE
    try:
        async with asyncio.timeout(rng.uniform(0.001, 0.03) if rng.random() < _ABORT_SHARE else None):
            async with session.post("/v1/chat/completions", json=body) as response:
                await response.read()
                return str(response.status)
    except aiohttp.ClientError:
        return "broken"
    except TimeoutError:
        return "aborted"


async def _quiet_balance(cluster: Cluster, upstream: CountingUpstream) -> Balance:
    """The balance as soon as it is clean, or as it is when the time is over."""
    give_up_at = time.monotonic() + _QUIET_S
    while True:
        balance = compare(upstream.arrivals, (await cluster.ops("books"))["rows"])
        if not any(asdict(balance).values()) or time.monotonic() > give_up_at:
            return balance
        await asyncio.sleep(0.5)


def show(reports: list[Report], console: Console) -> None:
    """Each window's worst over all runs, and a line for each run."""
    table = Table("window", "kind", "limit", "true maximum", "over-admitted")
    for findings in zip(*(report.findings for report in reports), strict=True):
        worst = max(findings, key=lambda one: (one.over, one.maximum))
        numbers = (f"{number:g}" for number in (worst.window.limit, worst.maximum, worst.over))
        table.add_row(worst.window.scope, worst.window.kind, *numbers)
    console.print(table)
    table = Table("faults", "seed", "sent", "200", "429", "5xx", "over", "lost", "double", "leaked")
    for report in reports:
        answers = report.answers
        errors = sum(count for kind, count in answers.items() if kind.startswith("5"))
        over = sum(one.over > 0 for one in report.findings)
        counts = (sum(answers.values()), answers.get("200", 0), answers.get("429", 0), errors, over)
        row = (report.seed, *counts, *asdict(report.balance).values())
        table.add_row(report.fault, *map(str, row))
    console.print(table)


def main() -> int:
    """Run what the command line asks for; 1 if anything was not exact."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.exactness", description=__doc__)
    parser.add_argument("--nodes", type=int, default=4)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--faults", default=",".join(["none", *FAULTS, "+".join(FAULTS)]))
    options = parser.parse_args()
    reports = [
        asyncio.run(examine(faults, seed, nodes=options.nodes, requests=options.requests))
        for faults in options.faults.split(",")
        for seed in range(1, options.seeds + 1)
    ]
    show(reports, Console())
    path = _RESULTS / f"{datetime.now(UTC):%Y-%m-%d}-exactness.json"
    path.write_bytes(orjson.dumps([report.document() for report in reports], option=orjson.OPT_INDENT_2))
    return 0 if all(report.is_exact for report in reports) else 1


if __name__ == "__main__":
    sys.exit(main())
