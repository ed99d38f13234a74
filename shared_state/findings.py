"""What the store's self-test found, as the leading scheduler publishes it and every node shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Final

import orjson

from shared_state.store import Store

#: A report outlives two self-tests that fell out; then nodes show none rather than an old one.
REPORT_TTL_S: Final = 3 * 3600


class Severity(StrEnum):
    """How much a finding matters."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about the store that should be otherwise; the message holds the value seen and what is wanted."""

    code: str
    severity: Severity
    message: str


@dataclass(frozen=True, slots=True)
class StoreReport:
    """One self-test.

    Attributes:
        checked_ms: server time.
        findings: the gravest first.
        clocks: server (empty if there is only one) -> its time, unix ms.
    """

    checked_ms: int
    findings: tuple[Finding, ...] = ()
    clocks: Mapping[str, int] = field(default_factory=dict)

    def count(self, severity: Severity) -> int:
        """How many findings are of this severity."""
        return sum(finding.severity == severity for finding in self.findings)


async def publish_report(store: Store, report: StoreReport) -> None:
    """Puts the report where nodes look for it. Needs no fence: the next one replaces it.

    Raises:
        RedisError, OSError, TimeoutError: the store is away.
    """
    await store.command("SET", store.keys.report, orjson.dumps(asdict(report)), "EX", REPORT_TTL_S)


async def read_report(store: Store) -> StoreReport | None:
    """The latest report; None if there is none, or none that this release understands.

    Raises:
        RedisError, OSError, TimeoutError: the store is away.
    """
    raw = await store.command("GET", store.keys.report)
    return _decode(raw) if raw else None


def _decode(raw: bytes) -> StoreReport | None:
    try:
        said = orjson.loads(raw)
        findings = [
            Finding(str(row["code"]), Severity(row["severity"]), str(row["message"]))
            for row in said["findings"]
        ]
        clocks = {str(name): int(ms) for name, ms in said["clocks"].items()}
        return StoreReport(int(said["checked_ms"]), tuple(findings), clocks)
    except (orjson.JSONDecodeError, AttributeError, KeyError, TypeError, ValueError):
        return None
