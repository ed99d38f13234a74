"""The store's self-test: what a server says of itself, and what of that would make ModelMesh break its promises.

Reading and judging are apart: `read_servers` asks, `judge` is a pure function. What a managed service does not let us see is
reported as such, and is no failure.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from redis.exceptions import NoScriptError, ResponseError

from shared_state.connections import Ask, primaries
from shared_state.deadline import Deadline
from shared_state.findings import Finding, Severity
from shared_state.store import Script, Store

VERSION_FLOOR: Final = (7, 0)
MEMORY_WARNING: Final = 0.7
MEMORY_ERROR: Final = 0.9
CLOCK_SKEW_MS: Final = 5000
#: Two readings of one clock differ by this much on a busy machine without anything being wrong.
CLOCK_TOLERANCE_MS: Final = 1000
REPLICA_LAG_S: Final = 10

_SECTIONS: Final = ("server", "memory", "persistence", "replication", "cluster")
_STATUSES: Final = ("aof_last_write_status", "aof_last_bgrewrite_status", "rdb_last_bgsave_status")
_SETTINGS: Final = ("appendfsync", "min-replicas-to-write", "min-replicas-max-lag")
_ORDER: Final = (Severity.ERROR, Severity.WARNING, Severity.INFO)


@dataclass(frozen=True, slots=True)
class Replica:
    """A replica as its primary sees it; the lag is the age of its last acknowledgement."""

    address: str
    state: str
    lag_s: int


@dataclass(frozen=True, slots=True)
class ScriptFacts:
    """What scripts can do.

    Attributes:
        error: why none runs at all; empty if they do.
        is_kept: a script that has run once is known by its digest.
        missing: libraries that are not there.
        sees_info: INFO answers inside a script.
    """

    error: str = ""
    is_kept: bool = True
    missing: tuple[str, ...] = ()
    sees_info: bool = True


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What was seen of one server that accepts writes; None stands for what it does not show.

    Attributes:
        name: its address if there are several, else empty.
        time_ms, wall_ms: its clock and ours at the same moment, unix ms.
        earliest_ms: what its clock must show at least, from earlier readings; 0 without any.
        is_cluster: it is one of several masters, and stops by itself when it is cut off from the others.
        failed: statuses of persistence that are not ``ok``.
        refused: commands that it refused.
    """

    name: str = ""
    time_ms: int = 0
    wall_ms: int = 0
    earliest_ms: int = 0
    version: str | None = None
    is_cluster: bool = False
    policy: str | None = None
    used_bytes: int | None = None
    max_bytes: int | None = None
    has_aof: bool | None = None
    fsync: str | None = None
    failed: tuple[str, ...] = ()
    replicas: tuple[Replica, ...] = ()
    min_replicas: int | None = None
    max_lag_s: int | None = None
    scripts: ScriptFacts = field(default_factory=ScriptFacts)
    refused: tuple[str, ...] = ()


# -- judging


def judge(servers: Sequence[ServerFacts]) -> tuple[Finding, ...]:
    """What is wrong, the gravest first; nothing if all is as wanted."""
    found = [
        Finding(code, severity, f"{facts.name}: {text}" if facts.name else text)
        for facts in servers
        for judgement in _JUDGEMENTS
        for code, severity, text in judgement(facts)
    ]
    return tuple(sorted(found, key=lambda finding: _ORDER.index(finding.severity)))


_Found = Iterator[tuple[str, Severity, str]]


def _judge_version(facts: ServerFacts) -> _Found:
    numbers = tuple(int(part) for part in re.findall(r"\d+", facts.version or "")[:2])
    if numbers and numbers < VERSION_FLOOR:
        floor = ".".join(map(str, VERSION_FLOOR))
        yield "version", Severity.ERROR, f"its version is {facts.version}; wanted: {floor} or newer"


def _judge_memory(facts: ServerFacts) -> _Found:
    if facts.policy not in (None, "noeviction"):
        severity = Severity.ERROR if facts.max_bytes != 0 else Severity.WARNING
        text = f"maxmemory-policy is {facts.policy}; wanted: noeviction, for others delete counters and reservations"
        yield "eviction_policy", severity, text
    if facts.max_bytes and facts.used_bytes is not None:
        share = facts.used_bytes / facts.max_bytes
        if share >= MEMORY_WARNING:
            severity = Severity.ERROR if share >= MEMORY_ERROR else Severity.WARNING
            text = f"{share:.0%} of maxmemory ({facts.max_bytes} bytes) is used; wanted: less than {MEMORY_WARNING:.0%}"
            yield "memory", severity, f"{text}, for a full store refuses to count"


def _judge_persistence(facts: ServerFacts) -> _Found:
    if facts.has_aof is False:
        text = (
            "appendonly is no; wanted: yes, else a restart loses what was counted since the last save or copy"
        )
        yield "persistence", Severity.WARNING, text
    elif facts.has_aof and facts.fsync == "no":
        text = "appendfsync is no; wanted: everysec or always, else the system decides how much a crash loses"
        yield "fsync", Severity.WARNING, text
    for status in facts.failed:
        severity = Severity.ERROR if status.startswith("aof_last_write") else Severity.WARNING
        yield "persistence_failed", severity, f"{status} is err; wanted: ok; look at the server's disk"


def _judge_scripts(facts: ServerFacts) -> _Found:
    scripts = facts.scripts
    if scripts.error:
        yield "scripts", Severity.ERROR, f"EVAL fails with {scripts.error!r}; wanted: Lua scripts"
        return
    if scripts.missing:
        text = f"scripts lack {', '.join(scripts.missing)}; wanted: cmsgpack, struct and cjson"
        yield "script_libraries", Severity.ERROR, text
    if not scripts.is_kept:
        text = "EVALSHA does not know a script that has just run; wanted: that it is kept, else every call carries its text"
        yield "script_cache", Severity.WARNING, text
    if not scripts.sees_info:
        text = "INFO fails inside scripts; wanted: that it works, else they cannot tell that the server was replaced"
        yield "script_info", Severity.WARNING, text


def _judge_clock(facts: ServerFacts) -> _Found:
    skew_ms = facts.time_ms - facts.wall_ms
    if abs(skew_ms) > CLOCK_SKEW_MS:
        text = f"its clock is {abs(skew_ms) / 1000:.1f} s {'ahead of' if skew_ms > 0 else 'behind'} the scheduler's"
        yield "clock_skew", Severity.WARNING, f"{text}; wanted: at most {CLOCK_SKEW_MS / 1000:g} s apart"
    back_ms = facts.earliest_ms - facts.time_ms
    if back_ms > CLOCK_TOLERANCE_MS:
        text = f"its clock went back by {back_ms / 1000:.1f} s since the last look; wanted: one that only goes forward"
        yield "clock_backwards", Severity.WARNING, f"{text}, for windows follow it"


def _judge_replicas(facts: ServerFacts) -> _Found:
    for replica in facts.replicas:
        if replica.state != "online" or replica.lag_s > REPLICA_LAG_S:
            text = f"replica {replica.address} is {replica.state}, its last sign {replica.lag_s} s old"
            yield "replica_lag", Severity.WARNING, f"{text}; wanted: online, at most {REPLICA_LAG_S} s"
    if facts.min_replicas and facts.max_lag_s:
        good = sum(r.state == "online" and r.lag_s <= facts.max_lag_s for r in facts.replicas)
        if good < facts.min_replicas:
            text = f"{good} replicas are in step and min-replicas-to-write is {facts.min_replicas}"
            yield "replicas_missing", Severity.ERROR, f"{text}: nothing can be written; wanted: as many"
    elif facts.replicas and not facts.is_cluster and facts.min_replicas is not None:
        text = f"min-replicas-to-write is {facts.min_replicas}, min-replicas-max-lag {facts.max_lag_s}; wanted: 1 and 10"
        text += (
            ", else a primary that is cut off from its replicas goes on counting what the failover forgets"
        )
        yield "min_replicas", Severity.WARNING, text


def _judge_visibility(facts: ServerFacts) -> _Found:
    hidden = {"INFO": "version, memory, persistence and replicas", "CONFIG": ", ".join(_SETTINGS)}
    for command in facts.refused:
        yield "not_visible", Severity.INFO, f"{command} is refused: {hidden[command]} cannot be seen"


_JUDGEMENTS: Final[tuple[Callable[[ServerFacts], _Found], ...]] = (
    _judge_version,
    _judge_memory,
    _judge_persistence,
    _judge_scripts,
    _judge_clock,
    _judge_replicas,
    _judge_visibility,
)


# -- reading


async def read_servers(
    store: Store, *, earliest_ms: Mapping[str, int], wall: Callable[[], float] = time.time
) -> list[ServerFacts]:
    """What every server that accepts writes says of itself.

    Args:
        earliest_ms: name of a server -> what its clock must show at least.
        wall: our own clock, unix seconds.

    Raises:
        RedisError, OSError, TimeoutError: one of them is away.
    """
    return [
        await _read_server(_Teller(ask, store.timeout_s), name, earliest_ms.get(name, 0), wall)
        for name, ask in await primaries(store.client)
    ]


async def read_runs(store: Store) -> dict[str, str]:
    """Every server that accepts writes, and the id of its present run; empty where it is not shown.

    Raises:
        RedisError, OSError, TimeoutError: one of them is away.
    """
    runs = {}
    for name, ask in await primaries(store.client):
        info = await _Teller(ask, store.timeout_s).see("INFO", "server") or {}
        runs[name] = str(info.get("run_id", ""))
    return runs


class _Teller:
    """Asks one server, each command under the deadline; notes which commands it refuses."""

    def __init__(self, ask: Ask, timeout_s: float) -> None:
        self._ask = ask
        self._timeout_s = timeout_s
        self.refused: list[str] = []

    async def __call__(self, *words: str | int) -> Any:
        async with Deadline(self._timeout_s):
            return await self._ask(*words)

    async def see(self, *words: str) -> Any:
        """The reply, or None from a server that does not allow the command."""
        if words[0] in self.refused:
            return None
        try:
            return await self(*words)
        except ResponseError:
            self.refused.append(words[0])
            return None


async def _read_server(tell: _Teller, name: str, earliest_ms: int, wall: Callable[[], float]) -> ServerFacts:
    info: dict[str, Any] = {}
    for section in _SECTIONS:
        info |= await tell.see("INFO", section) or {}
    settings: dict[str, str] = {}
    for setting in _SETTINGS:
        settings |= _pairs(await tell.see("CONFIG", "GET", setting))
    scripts = await _read_scripts(tell)
    before_s = wall()
    seconds, micros = await tell("TIME")
    return ServerFacts(
        name=name,
        time_ms=int(seconds) * 1000 + int(micros) // 1000,
        wall_ms=round((before_s + wall()) / 2 * 1000),
        earliest_ms=earliest_ms,
        version=info.get("redis_version"),
        is_cluster=bool(info.get("cluster_enabled", 0)),
        policy=info.get("maxmemory_policy"),
        used_bytes=info.get("used_memory"),
        max_bytes=info.get("maxmemory"),
        has_aof=bool(info["aof_enabled"]) if "aof_enabled" in info else None,
        fsync=settings.get("appendfsync"),
        failed=tuple(status for status in _STATUSES if info.get(status, "ok") != "ok"),
        replicas=tuple(_replicas(info)),
        min_replicas=_number(settings.get("min-replicas-to-write")),
        max_lag_s=_number(settings.get("min-replicas-max-lag")),
        scripts=scripts,
        refused=tuple(tell.refused),
    )


async def _read_scripts(tell: _Teller) -> ScriptFacts:
    script = Script("self_test")
    try:
        *libraries, run_id = await tell("EVAL", script.text, 0)
    except ResponseError as error:
        return ScriptFacts(error=" ".join(str(error).split())[:200])
    try:
        await tell("EVALSHA", script.digest, 0)
        is_kept = True
    except NoScriptError:
        is_kept = False
    names = ("cmsgpack", "struct", "cjson")
    missing = tuple(name for name, works in zip(names, libraries, strict=True) if not works)
    return ScriptFacts(is_kept=is_kept, missing=missing, sees_info=bool(run_id))


def _replicas(info: Mapping[str, Any]) -> Iterator[Replica]:
    for number in range(int(info.get("connected_slaves", 0))):
        row = info.get(f"slave{number}")
        if isinstance(row, dict):
            address = f"{row.get('ip')}:{row.get('port')}"
            yield Replica(address, str(row.get("state")), int(row.get("lag", 0)))


def _pairs(reply: Any) -> dict[str, str]:
    """A reply of CONFIG GET, whatever shape the client has given it."""
    flat = [part for pair in reply.items() for part in pair] if isinstance(reply, dict) else reply or []
    texts = [part.decode() if isinstance(part, bytes) else str(part) for part in flat]
    return dict(zip(texts[::2], texts[1::2], strict=True))


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdigit() else None
