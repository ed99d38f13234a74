"""Statistics and copies in a SQLite file, for the schedulers of one machine."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self

from sqlalchemy import URL, Engine, create_engine, event
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.exc import SQLAlchemyError

from scheduler.sinks.base import SinkError
from scheduler.sinks.sql import SqlSink
from shared_state.config.storage import StorageConfig
from shared_state.home import state_folder

_BUSY_TIMEOUT_MS: Final = 5000
_WAL_TRIES: Final = 40
_WAL_PAUSE_S: Final = 0.05


class SqliteSink(SqlSink):
    """One file; whoever writes waits up to 5 s for another."""

    def __init__(self, path: Path) -> None:
        super().__init__(_make_engine(path), insert)
        self.path = path

    @classmethod
    def from_config(cls, config: StorageConfig, environ: Mapping[str, str]) -> Self:
        """The sink at the configured path, else in the state folder."""
        return cls(Path(config.path).expanduser() if config.path else state_folder(environ) / "statistics.db")

    def _open(self) -> None:
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            for step in self._schema_steps():
                # Two schedulers may start on a new file at once: only the database itself can tell who was first. A transaction
                # each, for one that has read cannot write any more once another has written.
                with self._engine.begin() as connection:
                    step(connection)
        except (OSError, SQLAlchemyError) as error:
            raise self._fault("opened", error) from error

    def _fault(self, verb: str, error: Exception) -> SinkError:
        cause = getattr(error, "orig", None) or error
        return SinkError(f"the statistics file {self.path} cannot be {verb}: {cause}")


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
