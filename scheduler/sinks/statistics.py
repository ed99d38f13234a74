"""Statistics told besides their durable storage: a record for each minute, domain and scope, behind every flush.

The storage is the truth. What a target does not take waits here for the next flush, up to a bound; after a crash records may be told again, with the
same ``id`` and the same numbers, for a closed minute does not change.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from scheduler.sinks.events.base import EventTarget, Record, TargetError, iso
from scheduler.sinks.events.lines import ConsoleTarget, FileTarget, json_line, text_line
from shared_state.config.observability import STATISTICS_FILES, EventTargetConfig, StatisticsConfig
from shared_state.log_files import LogFile
from shared_state.logs import get_logger
from shared_state.statistics import MinuteRow
from shared_state.summary import Summary, summarise
from shared_state.topology import Topology

log = get_logger(__name__)

_NANO_PER_USD: Final = 10**9
_MOST_WAITING: Final = 50_000
_AT_ONCE: Final = 1000
#: Domains of gates count what accounts count already.
_GATES: Final = ("mesh:", "pool:", "key:")

Key = Callable[[MinuteRow], str]


class StatisticsFeed:
    """Tells a target of the sums of closed minutes.

    Attributes:
        lost: records that were given up.
    """

    def __init__(self, topology: Topology, scopes: Iterable[str], target: EventTarget) -> None:
        providers = {model.id: model.provider for model in topology.models.values()}
        keys: dict[str, Key] = {
            "model": lambda row: row.model,
            "provider": lambda row: providers.get(row.model, row.domain),
            "pool": lambda row: row.pool,
        }
        self._keys = {scope: keys[scope] for scope in dict.fromkeys(scopes)}
        self._target = target
        self._waiting: deque[Record] = deque()
        self._is_failing = False
        self.lost = 0

    async def tell(self, rows: Sequence[MinuteRow]) -> None:
        """Hands over the sums of closed minutes, and what has waited; never raises for the target."""
        self._waiting.extend(self._records(rows))
        while len(self._waiting) > _MOST_WAITING:
            self._waiting.popleft()
            self.lost += 1
        try:
            while self._waiting:
                batch = [self._waiting[i] for i in range(min(_AT_ONCE, len(self._waiting)))]
                await self._target.tell(batch)
                for _ in batch:
                    self._waiting.popleft()
        except TargetError as error:
            if not self._is_failing:
                log.error("statistics are not told; they wait", error=error.message)
            self._is_failing = True
        else:
            self._is_failing = False

    def _records(self, rows: Sequence[MinuteRow]) -> Iterator[Record]:
        own = [row for row in rows if not row.domain.startswith(_GATES)]
        for domain, minute in sorted({(row.domain, row.minute) for row in own}):
            chosen = [row for row in own if (row.domain, row.minute) == (domain, minute)]
            for scope, key in self._keys.items():
                for name, summary in summarise(chosen, key).items():
                    yield _record(domain, minute, scope, str(name), summary)


def make_feed(config: StatisticsConfig, topology: Topology) -> StatisticsFeed | None:
    """The feed that the configuration asks for; None if it asks for none."""
    target: EventTarget
    if config.connector in STATISTICS_FILES:
        path = Path(config.path or STATISTICS_FILES[config.connector]).expanduser()
        line = json_line if config.connector == "modelmesh.json-log.v1" else text_line
        target = FileTarget(LogFile(path, max_size=config.max_size, keep=config.keep), line)
    elif config.connector == "modelmesh.console.v1":
        target = ConsoleTarget(EventTargetConfig())
    else:
        return None
    return StatisticsFeed(topology, config.scopes, target)


def _record(domain: str, minute: int, scope: str, name: str, summary: Summary) -> Record:
    count = summary["attempts"] + summary["abandoned"]
    return {
        "type": "stats",
        "id": f"{domain}/{minute}/{scope}/{name}",
        "timestamp": iso(minute * 60_000),
        "severity": "info",
        "message": f"{scope} {name or '-'}: {count} requests, {summary['ok']} good, {summary['failed']} failed",
        "seconds": 60,
        "domain": domain,
        "scope": scope,
        "name": name,
        "requests_total": count,
        "requests_success": summary["ok"],
        "requests_failed": summary["failed"],
        "requests_abandoned": summary["abandoned"],
        "tokens_in": summary["tokens_in"],
        "tokens_out": summary["tokens_out"],
        "cost_total": summary["cost"] / _NANO_PER_USD,
        "latency_avg": summary.mean_ms("latency_ms"),
        "latency_p50": summary.latency_ms(0.5),
        "latency_p95": summary.latency_ms(0.95),
    }
