"""Statistics and copies as objects that never change, in a folder or an object store.

Statistics lie in ``statistics/DAY/FIRST-LAST.DIGEST.FORMAT``: minutes since 1970, and what the content comes to. Written twice, an object
is the same one; if a minute was stored twice with different content, readers take the version that has counted more. So no writer has to
know of another, and none can undo what another has done. Copies lie in ``copies/DOMAIN/TIME.bin``; the one taken last is the newest.
``schema`` holds the number of this order.
"""

from __future__ import annotations

import asyncio
import gzip
import re
from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from hashlib import blake2b
from itertools import groupby
from typing import Any, Final

import orjson
import ormsgpack

from scheduler.sinks.base import Sink, SinkError, StoredCopy, Totals, minutes_between
from shared_state.config.storage import PersistenceConfig
from shared_state.statistics import MinuteRow

SCHEMA: Final = b"1"
_SCHEMA_NAME: Final = "schema"
_COPIES_KEPT: Final = 2
_MINUTE_S: Final = 60
_AT_ONCE: Final = 16
#: Looks for the newest copy: it goes between list and read only if newer ones have come.
_LOOKS: Final = 3
_STATISTICS: Final = re.compile(r"(\d+)-(\d+)\.[0-9a-f]+\.(jsonl|msgpack)(\.gz)?")
_COPY: Final = re.compile(r"(\d+)\.bin")
_UNSAFE: Final = re.compile(r"[^A-Za-z0-9_-]+")


class Objects(ABC):
    """A place for objects by name, with ``/`` between the parts."""

    @abstractmethod
    async def open(self) -> None:
        """As `Sink.open`."""

    @abstractmethod
    async def put(self, name: str, blob: bytes) -> None:
        """Stores an object for good, whole or not at all; one that is there already stays.

        Raises:
            SinkError: it was not stored.
        """

    @abstractmethod
    async def get(self, name: str) -> bytes | None:
        """Its content; None if it is gone.

        Raises:
            SinkError: it cannot be read.
        """

    @abstractmethod
    async def names(self, folder: str) -> list[str]:
        """What lies directly in a folder, without the folder's name: objects and folders.

        Raises:
            SinkError: it cannot be read.
        """

    @abstractmethod
    async def remove(self, name: str) -> None:
        """Removes an object, if it is there.

        Raises:
            SinkError: it may be there still.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """As `Sink.aclose`."""


class ObjectSink(Sink):
    """Statistics and copies in a place for objects, which it opens and closes."""

    def __init__(self, objects: Objects, persistence: PersistenceConfig) -> None:
        self.objects = objects
        self._persistence = persistence
        self._is_ready = False

    async def open(self) -> None:
        await self.objects.open()
        await self.objects.put(_SCHEMA_NAME, SCHEMA)
        found = await self.objects.get(_SCHEMA_NAME)
        if found != SCHEMA:
            raise SinkError(
                f"the storage cannot be used: its schema is {found!r}, this release knows {SCHEMA!r}"
            )
        self._is_ready = True

    async def write(self, rows: Sequence[MinuteRow]) -> None:
        await self._prepare()
        for day, of_day in groupby(sorted(rows, key=_place), key=lambda row: _day(row.minute)):
            name, blob = _pack(list(of_day), self._persistence)
            await self.objects.put(f"statistics/{day}/{name}", blob)

    async def totals(self, since_s: float, until_s: float) -> list[Totals]:
        await self._prepare()
        span = minutes_between(since_s, until_s)
        newest: dict[tuple[str, str, str, int], Counter[str]] = {}
        for row in await self._rows(span):
            key = (row["domain"], row["model"], row["pool"], row["minute"])
            metrics = Counter(row["metrics"])
            if row["minute"] in span and _counted(metrics) >= _counted(newest.get(key, metrics)):
                newest[key] = metrics
        return _sums(newest)

    async def save_copy(self, domain: str, taken_ms: int, blob: bytes) -> None:
        await self._prepare()
        folder = _folder_of(domain)
        await self.objects.put(f"{folder}/{taken_ms:015d}.bin", blob)
        for name in (await self._copies(folder))[:-_COPIES_KEPT]:
            await self.objects.remove(f"{folder}/{name}")

    async def latest_copy(self, domain: str, *, until_ms: int | None = None) -> StoredCopy | None:
        await self._prepare()
        folder = _folder_of(domain)
        for _ in range(_LOOKS):
            names = [n for n in await self._copies(folder) if until_ms is None or _taken_ms(n) <= until_ms]
            if not names:
                return None
            blob = await self.objects.get(f"{folder}/{names[-1]}")
            if blob is not None:
                return StoredCopy(_taken_ms(names[-1]), blob)
        raise SinkError(f"the copies in {folder} change faster than they are read")

    async def prune(self, before_s: float) -> None:
        await self._prepare()
        before = int(before_s // _MINUTE_S)
        for day in await self.objects.names("statistics"):
            if day > _day(before):
                continue
            for name in await self.objects.names(f"statistics/{day}"):
                match = _STATISTICS.fullmatch(name)
                if match is not None and int(match[2]) < before:
                    await self.objects.remove(f"statistics/{day}/{name}")

    async def aclose(self) -> None:
        await self.objects.aclose()

    async def _prepare(self) -> None:
        """For a storage that was away when it was to be opened."""
        if not self._is_ready:
            await self.open()

    async def _copies(self, folder: str) -> list[str]:
        """Oldest first."""
        return sorted(filter(_COPY.fullmatch, await self.objects.names(folder)), key=_taken_ms)

    async def _rows(self, span: range) -> list[dict[str, Any]]:
        if not span:
            return []
        first, last = _day(span[0]), _day(span[-1])
        days = [day for day in await self.objects.names("statistics") if first <= day <= last]
        names = [(day, name) for day in days for name in await self.objects.names(f"statistics/{day}")]
        gate = asyncio.Semaphore(_AT_ONCE)

        async def read(name: str) -> list[dict[str, Any]]:
            async with gate:
                return _unpack(name, await self.objects.get(name))

        wanted = [f"statistics/{day}/{name}" for day, name in names if _reaches_into(name, span)]
        return [row for rows in await asyncio.gather(*map(read, wanted)) for row in rows]


def _place(row: MinuteRow) -> tuple[int, str, str, str]:
    return row.minute, row.domain, row.model, row.pool


def _day(minute: int) -> str:
    """A date; of minutes beyond all dates the last one."""
    try:
        return datetime.fromtimestamp(minute * _MINUTE_S, UTC).date().isoformat()
    except (OverflowError, ValueError, OSError):
        return "9999-12-31"


def _folder_of(domain: str) -> str:
    """Readable, and its own: keys in Redis have characters that names of objects should not have."""
    return (
        f"copies/{_UNSAFE.sub('-', domain).strip('-')}.{blake2b(domain.encode(), digest_size=6).hexdigest()}"
    )


def _taken_ms(name: str) -> int:
    return int(name.partition(".")[0])


def _counted(metrics: Counter[str]) -> int:
    return metrics["attempts"] + metrics["abandoned"]


def _reaches_into(name: str, span: range) -> bool:
    match = _STATISTICS.fullmatch(name)
    return match is not None and int(match[1]) <= span[-1] and int(match[2]) >= span[0]


def _pack(rows: Sequence[MinuteRow], persistence: PersistenceConfig) -> tuple[str, bytes]:
    """Name and content; the same rows come to the same bytes."""
    records = [
        {
            "minute": row.minute,
            "domain": row.domain,
            "model": row.model,
            "pool": row.pool,
            "metrics": dict(sorted(row.metrics.items())),
        }
        for row in rows
    ]
    if persistence.format == "json":
        blob, ending = b"".join(orjson.dumps(record) + b"\n" for record in records), "jsonl"
    else:
        blob, ending = ormsgpack.packb(records), "msgpack"
    digest = blake2b(blob, digest_size=8).hexdigest()
    if persistence.compression:
        blob, ending = gzip.compress(blob, mtime=0), f"{ending}.gz"
    return f"{rows[0].minute}-{rows[-1].minute}.{digest}.{ending}", blob


def _unpack(name: str, blob: bytes | None) -> list[dict[str, Any]]:
    """The rows in an object, whatever it was written as; none if it is gone."""
    if blob is None:
        return []
    try:
        plain = gzip.decompress(blob) if name.endswith(".gz") else blob
        if ".msgpack" in name:
            return list(ormsgpack.unpackb(plain))
        return [orjson.loads(line) for line in plain.splitlines()]
    except (OSError, EOFError, ValueError) as error:
        raise SinkError(f"{name} cannot be read: {error}") from error


def _sums(minutes: dict[tuple[str, str, str, int], Counter[str]]) -> list[Totals]:
    sums: defaultdict[tuple[str, str, str], Counter[str]] = defaultdict(Counter)
    for (domain, model, pool, _minute), metrics in minutes.items():
        sums[domain, model, pool].update(metrics)
    return [Totals(*key, dict(metrics)) for key, metrics in sorted(sums.items())]


def sort_names(names: Iterable[str]) -> list[str]:
    """Each once, hidden ones left out."""
    return sorted({name for name in names if name and not name.startswith(".")})
