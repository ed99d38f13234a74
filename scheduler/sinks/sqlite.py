"""Statistics in a SQLite file: one row per minute, domain, model and pool, one column per metric; and copies of domains."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from sqlalchemy import (
    JSON,
    URL,
    BigInteger,
    Column,
    Engine,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    create_engine,
    delete,
    event,
    func,
    select,
)
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.schema import CreateIndex, CreateTable

from scheduler.sinks.base import Sink, SinkError, StoredCopy
from shared_state.config.root import StorageConfig
from shared_state.home import state_folder
from shared_state.statistics import METRICS, MinuteRow

_KEY: Final = ("minute", "domain", "model", "pool")
_BUSY_TIMEOUT_MS: Final = 5000
_WAL_TRIES: Final = 40
_WAL_PAUSE_S: Final = 0.05
_MINUTES_PER_DAY: Final = 24 * 60
#: The one before the newest tells what was counted since.
_COPIES_KEPT: Final = 2

MINUTES: Final = Table(
    "minute_statistics",
    MetaData(),
    Column("minute", Integer, primary_key=True, comment="unix time / 60"),
    Column("domain", String, primary_key=True),
    Column("model", String, primary_key=True),
    Column("pool", String, primary_key=True),
    *(Column(metric, BigInteger, nullable=False) for metric in METRICS),
    Column(
        "details", JSON, nullable=False, comment="metrics without a column of their own: the latency buckets"
    ),
    sqlite_with_rowid=False,
)

COPIES: Final = Table(
    "state_copies",
    MetaData(),
    Column("domain", String, primary_key=True, comment="its key in Redis"),
    Column("taken_ms", BigInteger, primary_key=True, comment="server time, unix ms"),
    Column("blob", LargeBinary, nullable=False),
)


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over a span of time for a model within a pool; metrics as in `MinuteRow`."""

    domain: str
    model: str
    pool: str
    metrics: dict[str, int]


class SqliteSink(Sink):
    """Writes in a worker thread; a write is on the disk when it returns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._engine = _make_engine(path)

    @classmethod
    def from_config(cls, config: StorageConfig, environ: Mapping[str, str]) -> Self:
        """The sink at the configured path, else in the state folder."""
        return cls(Path(config.path).expanduser() if config.path else state_folder(environ) / "statistics.db")

    async def open(self) -> None:
        await asyncio.to_thread(self._open)

    async def write(self, rows: Sequence[MinuteRow]) -> None:
        await asyncio.to_thread(self._write, [_record(row) for row in rows])

    async def totals(self, since_s: float, until_s: float) -> list[Totals]:
        """Sums of the minutes that begin in ``[since_s, until_s)``, unix seconds.

        Raises:
            SinkError: the file cannot be read.
        """
        return await asyncio.to_thread(self._totals, since_s, until_s)

    async def save_copy(self, domain: str, taken_ms: int, blob: bytes) -> None:
        await asyncio.to_thread(self._save_copy, domain, taken_ms, blob)

    async def latest_copy(self, domain: str, *, until_ms: int | None = None) -> StoredCopy | None:
        return await asyncio.to_thread(self._latest_copy, domain, until_ms)

    async def prune(self, before_s: float) -> None:
        await asyncio.to_thread(self._prune, int(before_s // 60))

    async def aclose(self) -> None:
        await asyncio.to_thread(self._engine.dispose)

    def _open(self) -> None:
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            for table in (MINUTES, COPIES):
                # Two schedulers may start on a new file at once: only the database itself can tell who was first. A transaction
                # each, for one that has read cannot write any more once another has written.
                with self._engine.begin() as connection:
                    connection.execute(CreateTable(table, if_not_exists=True))
                    for index in table.indexes:
                        connection.execute(CreateIndex(index, if_not_exists=True))
        except (OSError, SQLAlchemyError) as error:
            raise self._fault("opened", error) from error

    def _write(self, records: list[dict[str, Any]]) -> None:
        new = insert(MINUTES)
        # Of two versions of a minute the later one holds more: an older one, from a store that fell back, must not win.
        upsert = new.on_conflict_do_update(
            index_elements=_KEY,
            set_={
                column.name: new.excluded[column.name]
                for column in MINUTES.columns
                if column.name not in _KEY
            },
            where=new.excluded.attempts + new.excluded.abandoned >= MINUTES.c.attempts + MINUTES.c.abandoned,
        )
        try:
            with self._engine.begin() as connection:
                connection.execute(upsert, records)
        except SQLAlchemyError as error:
            raise self._fault("written", error) from error

    def _totals(self, since_s: float, until_s: float) -> list[Totals]:
        query = select(MINUTES).where(MINUTES.c.minute * 60 >= since_s, MINUTES.c.minute * 60 < until_s)
        sums: defaultdict[tuple[str, str, str], Counter[str]] = defaultdict(Counter)
        try:
            with self._engine.connect() as connection:
                for row in connection.execute(query).mappings():
                    total = sums[row["domain"], row["model"], row["pool"]]
                    total.update({metric: row[metric] for metric in METRICS})
                    total.update(row["details"])
        except SQLAlchemyError as error:
            raise self._fault("read", error) from error
        return [Totals(*key, dict(metrics)) for key, metrics in sorted(sums.items())]

    def _save_copy(self, domain: str, taken_ms: int, blob: bytes) -> None:
        row = {"domain": domain, "taken_ms": taken_ms, "blob": blob}
        newest = (
            select(COPIES.c.taken_ms)
            .where(COPIES.c.domain == domain)
            .order_by(COPIES.c.taken_ms.desc())
            .limit(_COPIES_KEPT)
        )
        older = delete(COPIES).where(COPIES.c.domain == domain, COPIES.c.taken_ms.not_in(newest))
        try:
            with self._engine.begin() as connection:
                connection.execute(insert(COPIES).on_conflict_do_nothing(), row)
                connection.execute(older)
        except SQLAlchemyError as error:
            raise self._fault("written", error) from error

    def _latest_copy(self, domain: str, until_ms: int | None) -> StoredCopy | None:
        query = select(COPIES).where(COPIES.c.domain == domain).order_by(COPIES.c.taken_ms.desc()).limit(1)
        if until_ms is not None:
            query = query.where(COPIES.c.taken_ms <= until_ms)
        try:
            with self._engine.connect() as connection:
                row = connection.execute(query).mappings().first()
        except SQLAlchemyError as error:
            raise self._fault("read", error) from error
        return StoredCopy(row["taken_ms"], row["blob"]) if row else None

    def _prune(self, before: int) -> None:
        """A day at a time, so that nobody who writes has to wait for long."""
        try:
            while True:
                with self._engine.begin() as connection:
                    oldest = connection.execute(select(func.min(MINUTES.c.minute))).scalar()
                    if oldest is None or oldest >= before:
                        return
                    limit = min(before, oldest + _MINUTES_PER_DAY)
                    connection.execute(delete(MINUTES).where(MINUTES.c.minute < limit))
        except SQLAlchemyError as error:
            raise self._fault("pruned", error) from error

    def _fault(self, verb: str, error: Exception) -> SinkError:
        cause = getattr(error, "orig", None) or error
        return SinkError(f"the statistics file {self.path} cannot be {verb}: {cause}")


def _record(row: MinuteRow) -> dict[str, Any]:
    return {
        "minute": row.minute,
        "domain": row.domain,
        "model": row.model,
        "pool": row.pool,
        **{metric: row.metrics.get(metric, 0) for metric in METRICS},
        "details": {metric: amount for metric, amount in row.metrics.items() if metric not in METRICS},
    }


def _make_engine(path: Path) -> Engine:
    engine = create_engine(URL.create("sqlite", database=str(path)))
    event.listen(engine, "connect", _prepare_connection)
    return engine


def _use_wal(cursor: Any) -> None:
    """Somebody else may be about to do the same on a new file; that wait is not covered by the busy timeout."""
    for _ in range(_WAL_TRIES):
        with suppress(sqlite3.OperationalError):
            cursor.execute("PRAGMA journal_mode = WAL")
            return
        time.sleep(_WAL_PAUSE_S)
    cursor.execute("PRAGMA journal_mode = WAL")


def _prepare_connection(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {_BUSY_TIMEOUT_MS}")
    _use_wal(cursor)
    cursor.execute("PRAGMA synchronous = FULL")  # Redis forgets the minute once we say that it is stored
    cursor.close()
