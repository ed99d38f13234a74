"""What a run of the outside test found, for people and for programs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import orjson
from rich.console import Console
from rich.table import Table

from benchmarks.exactness_oracle import Balance, Finding
from benchmarks.exactness_windows import Plan

#: A clock that lags by more than the way that limits allow for can see an excess that was none.
_MOST_LAG_S = 0.2
_NAMES = ("window", "kind", "limit", "true maximum", "over-admitted")
_COUNTS = ("sent", "calls", "200", "429", "5xx", "over", "lost", "double", "leaked", "abandoned")
_COLUMNS = ("faults", "seed", *_COUNTS)
_RIGHT = frozenset({*_NAMES[2:], *_COLUMNS[1:]})


@dataclass(frozen=True, slots=True)
class Report:
    """One run.

    Attributes:
        calls: how many the upstream saw.
        balance: None where nobody shows their books.
        lag_s: the most by which the upstream's clock was late.
    """

    fault: str
    seed: int
    answers: dict[str, int]
    findings: list[Finding]
    balance: Balance | None
    calls: int
    lag_s: float
    seconds: float

    @property
    def is_exact(self) -> bool:
        """Whether nothing was over-admitted, lost, booked twice or leaked."""
        is_balanced = self.balance is None or self.balance.is_clean
        return is_balanced and not any(finding.over for finding in self.findings)

    def document(self) -> dict[str, object]:
        """As it is written to the results."""
        windows = [
            {
                "scope": one.window.scope,
                "kind": one.window.kind,
                "algorithm": one.window.way,
                "limit": one.window.limit,
                "tolerance": one.window.tolerance,
                "maximum": one.maximum,
                "over": one.over,
            }
            for one in self.findings
        ]
        return {
            "fault": self.fault,
            "seed": self.seed,
            "seconds": round(self.seconds, 1),
            "calls": self.calls,
            "answers": self.answers,
            "windows": windows,
            "balance": asdict(self.balance) if self.balance else None,
            "upstream_lag_s": round(self.lag_s, 4),
        }

    def faults(self) -> str:
        """What was wrong, for a failed test."""
        wrong = [
            f"{one.window.scope} {one.window.kind} {one.window.limit:g}: {one.maximum:g}, {one.over:g} over"
            for one in self.findings
            if one.over
        ]
        return (
            f"{self.fault}, seed {self.seed}: {wrong}, {self.balance}, lag {self.lag_s:.3f} s, {self.answers}"
        )


def show(reports: Sequence[Report], console: Console) -> None:
    """Each window's worst over all runs, and a line for each run."""
    for names, rows in ((_NAMES, _worst(reports)), (_COLUMNS, _lines(reports))):
        table = Table()
        for name in names:
            table.add_column(name, justify="right" if name in _RIGHT else "left")
        for row in rows:
            table.add_row(*row)
        console.print(table)
    for report in reports:
        if report.lag_s > _MOST_LAG_S:
            console.print(
                f"{report.fault}, seed {report.seed}: the upstream's clock lagged by {report.lag_s:.2f} s; an excess may be none"
            )


def markdown(reports: Sequence[Report], *, source: str) -> str:
    """The same for the results' folder."""
    parts = [
        "# Exactness\n",
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC; every number is in [{source}]({source}), the method in [../README.md](../README.md).\n",
    ]
    for names, rows in ((_NAMES, _worst(reports)), (_COLUMNS, _lines(reports))):
        rule = ["---:" if name in _RIGHT else "---" for name in names]
        parts.append("\n".join("| " + " | ".join(row) + " |" for row in (names, rule, *rows)) + "\n")
    most = max(report.lag_s for report in reports)
    parts.append(f"The upstream's clock was late by {most * 1000:.0f} ms at most.\n")
    return "\n".join(parts)


def save(reports: Sequence[Report], folder: Path, *, name: str) -> Path:
    """Writes ``<name>.json`` and ``<name>.md``; the path of the second."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    path.write_bytes(orjson.dumps([report.document() for report in reports], option=options))
    page = path.with_suffix(".md")
    page.write_text(markdown(reports, source=path.name))
    return page


def describe(plan: Plan, address: str) -> Table:
    """What an operator has to set up before an endpoint can be examined."""
    table = Table(title=f"The provider behind the endpoint must be {address}, with these limits")
    for name in ("scope", "upstream models", "kind", "limit", "judged"):
        table.add_column(name)
    for one in plan.windows:
        calendar = f" {one.timezone} from {one.reset_hour}:00" if one.way == "calendar" else ""
        row = (one.scope, ", ".join(sorted(one.models)), one.kind, f"{one.limit:g}", one.way + calendar)
        table.add_row(*row)
    return table


def _worst(reports: Sequence[Report]) -> Iterator[tuple[str, ...]]:
    for findings in zip(*(report.findings for report in reports), strict=True):
        sign = -1 if findings[0].window.way == "min_delta" else 1
        worst = max(findings, key=lambda one: (one.over, sign * one.maximum))
        numbers = (worst.window.limit, worst.maximum, worst.over)
        way = worst.window.way
        kind = worst.window.kind if way == worst.window.kind else f"{worst.window.kind} {way}"
        yield (worst.window.scope, kind, *(f"{number:.6g}" for number in numbers))


def _lines(reports: Sequence[Report]) -> Iterator[tuple[str, ...]]:
    for report in reports:
        answers = report.answers
        errors = sum(count for kind, count in answers.items() if kind.startswith("5"))
        over = sum(one.over > 0 for one in report.findings)
        counts = (
            sum(answers.values()),
            report.calls,
            answers.get("200", 0),
            answers.get("429", 0),
            errors,
            over,
        )
        balance = [str(value) for value in asdict(report.balance).values()] if report.balance else ["-"] * 4
        yield (report.fault, str(report.seed), *map(str, counts), *balance)
