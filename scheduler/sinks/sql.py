"""What sinks in SQL share: a row per minute, domain, model and pool, a column per metric; and copies of domains.

Each call is one transaction. The tables carry the number of their schema, so that no release works on one that it does not know.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Connection,
    Engine,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    delete,
    func,
    select,
)
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.schema import CreateTable

from scheduler.sinks.base import Sink, SinkError, StoredCopy, Totals, minutes_between
from shared_state.statistics import METRICS, MinuteRow

T = TypeVar("T")

SCHEMA: Final = 1
_KEY: Final = ("minute", "domain", "model", "pool")
_MINUTES_PER_DAY: Final = 24 * 60
#: The one before the newest tells what was counted since.
_COPIES_KEPT: Final = 2

MINUTES: Final = Table(
    "minute_statistics",
    MetaData(),
    Column("minute", BigInteger, primary_key=True, comment="unix time / 60", autoincrement=False),
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
    Column("taken_ms", BigInteger, primary_key=True, comment="server time, unix ms", autoincrement=False),
    Column("blob", LargeBinary, nullable=False),
)

VERSIONS: Final = Table(
    "storage_schema",
    MetaData(),
    Column("part", String, primary_key=True, comment="what the number is of: tables"),
    Column("version", Integer, nullable=False),
)

Step = Callable[[Connection], None]


class SqlSink(Sink):
    """Works in worker threads; a write is on the disk when it returns."""

    def __init__(self, engine: Engine, insert: Callable[[Table], Any]) -> None:
        self._engine = engine
        self._insert = insert  # the dialect's, for what is done on a conflict is not in the standard

    async def open(self) -> None:
        await asyncio.to_thread(self._open)

    async def write(self, rows: Sequence[MinuteRow]) -> None:
        # In one order everywhere: two writers at once wait for one another instead of holding each other up.
        records = sorted(map(_record, rows), key=_key)
        await asyncio.to_thread(self._transact, "written", lambda c: self._put_minutes(c, records))

    async def totals(self, since_s: float, until_s: float) -> list[Totals]:
        return await asyncio.to_thread(self._transact, "read", lambda c: _totals(c, since_s, until_s))

    async def save_copy(self, domain: str, taken_ms: int, blob: bytes) -> None:
        row = {"domain": domain, "taken_ms": taken_ms, "blob": blob}
        await asyncio.to_thread(self._transact, "written", lambda c: self._put_copy(c, row))

    async def latest_copy(self, domain: str, *, until_ms: int | None = None) -> StoredCopy | None:
        return await asyncio.to_thread(self._transact, "read", lambda c: _latest(c, domain, until_ms))

    async def prune(self, before_s: float) -> None:
        before = int(before_s // 60)
        while await asyncio.to_thread(self._transact, "pruned", lambda c: _prune_day(c, before)):
            pass  # a day at a time, so that nobody who writes has to wait for long

    async def aclose(self) -> None:
        await asyncio.to_thread(self._engine.dispose)

    @abstractmethod
    def _open(self) -> None: ...

    @abstractmethod
    def _fault(self, verb: str, error: Exception) -> SinkError:
        """What to say about an error; no secret is in it."""

    def _transact(self, verb: str, work: Callable[[Connection], T]) -> T:
        try:
            with self._engine.begin() as connection:
                return work(connection)
        except SQLAlchemyError as error:
            raise self._fault(verb, error) from error

    def _schema_steps(self) -> list[Step]:
        """What makes the schema, or finds it there; each repeatable."""
        tables = [CreateTable(table, if_not_exists=True) for table in (VERSIONS, MINUTES, COPIES)]
        version = self._insert(VERSIONS).values(part="tables", version=SCHEMA).on_conflict_do_nothing()
        return [*(_execute(statement) for statement in (*tables, version)), self._check_version]

    def _check_version(self, connection: Connection) -> None:
        found = connection.execute(select(VERSIONS.c.version)).scalar()
        if found != SCHEMA:
            raise self._fault("used", ValueError(f"its schema is {found}, this release knows {SCHEMA}"))

    def _put_minutes(self, connection: Connection, records: list[dict[str, Any]]) -> None:
        new = self._insert(MINUTES)
        columns = [column.name for column in MINUTES.columns if column.name not in _KEY]
        # Of two versions of a minute the later one holds more: an older one, from a store that fell back, must not win.
        upsert = new.on_conflict_do_update(
            index_elements=_KEY,
            set_={name: new.excluded[name] for name in columns},
            where=new.excluded.attempts + new.excluded.abandoned >= MINUTES.c.attempts + MINUTES.c.abandoned,
        )
        if records:
            connection.execute(upsert, records)

    def _put_copy(self, connection: Connection, row: dict[str, Any]) -> None:
        mine = COPIES.c.domain == row["domain"]
        newest = select(COPIES.c.taken_ms).where(mine).order_by(COPIES.c.taken_ms.desc()).limit(_COPIES_KEPT)
        connection.execute(self._insert(COPIES).on_conflict_do_nothing(), row)
        connection.execute(delete(COPIES).where(mine, COPIES.c.taken_ms.not_in(newest)))


def _execute(statement: Any) -> Step:
    def step(connection: Connection) -> None:
        connection.execute(statement)

    return step


def _prune_day(connection: Connection, before: int) -> bool:
    """Removes the oldest day of what is too old; whether there was any."""
    oldest = connection.execute(select(func.min(MINUTES.c.minute))).scalar()
    if oldest is None or oldest >= before:
        return False
    connection.execute(delete(MINUTES).where(MINUTES.c.minute < min(before, oldest + _MINUTES_PER_DAY)))
    return True


def _totals(connection: Connection, since_s: float, until_s: float) -> list[Totals]:
    span = minutes_between(since_s, until_s)
    query = select(MINUTES).where(MINUTES.c.minute >= span.start, MINUTES.c.minute < span.stop)
    sums: defaultdict[tuple[str, str, str], Counter[str]] = defaultdict(Counter)
    for row in connection.execute(query).mappings():
        total = sums[row["domain"], row["model"], row["pool"]]
        total.update({metric: row[metric] for metric in METRICS})
        total.update(row["details"])
    return [Totals(*key, dict(metrics)) for key, metrics in sorted(sums.items())]


def _latest(connection: Connection, domain: str, until_ms: int | None) -> StoredCopy | None:
    query = select(COPIES).where(COPIES.c.domain == domain).order_by(COPIES.c.taken_ms.desc()).limit(1)
    if until_ms is not None:
        query = query.where(COPIES.c.taken_ms <= until_ms)
    row = connection.execute(query).mappings().first()
    return StoredCopy(row["taken_ms"], row["blob"]) if row else None


def _record(row: MinuteRow) -> dict[str, Any]:
    return {
        "minute": row.minute,
        "domain": row.domain,
        "model": row.model,
        "pool": row.pool,
        **{metric: row.metrics.get(metric, 0) for metric in METRICS},
        "details": {metric: amount for metric, amount in row.metrics.items() if metric not in METRICS},
    }


def _key(record: dict[str, Any]) -> tuple[str, ...]:
    return tuple(str(record[name]) for name in _KEY)
