"""Statistics and copies in PostgreSQL, for schedulers on several machines.

Nothing waits for ever: the server bounds its statements, we bound the connection, and one whose server says nothing at all is cut. Every
call may be repeated, so one that meets a connection which died while it was idle is, at once.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, Final, Self, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as NoConnectionError

from scheduler.sinks.base import SinkAwayError, SinkError
from scheduler.sinks.sql import VERSIONS, SqlSink
from shared_state.config.storage import StorageConfig

T = TypeVar("T")

CONNECT_S: Final = 5
#: A statement is given up by the server after the first, the whole call by us after the second.
STATEMENT_S: Final = 8.0
CALL_S: Final = 12.0
_CONNECTIONS: Final = 2
#: Of the lock under which the schema is made: the first bytes of "modelmesh".
_SCHEMA_LOCK: Final = 0x6D6F64656C6D6573

#: For this transaction alone, so that it holds behind a pooler too. Redis forgets a minute once it is stored, so a server that would
#: say so before it is on the disk is asked for more; a writer that is frozen does not hold up the others for long.
_BOUNDS: Final = text(
    "SELECT set_config('statement_timeout', :statement, true), set_config('lock_timeout', :statement, true),"
    " set_config('idle_in_transaction_session_timeout', :idle, true), set_config('synchronous_commit',"
    " CASE current_setting('synchronous_commit') WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END, true)"
)


class PostgresqlSink(SqlSink):
    """One database, which schedulers share. Its schema is made at the first call that reaches it.

    Args:
        url: with the password, if any; libpq's own variables and files count as well.
        call_s: how long a call may last on a connection.
    """

    def __init__(self, url: URL, *, call_s: float = CALL_S) -> None:
        super().__init__(_make_engine(url), insert)
        self._call_s = call_s
        self._call = threading.local()
        event.listen(self._engine, "do_connect", self._connect)
        self._name = f"the database {url.database} at {url.host or 'the local server'}"
        self._is_ready = False

    @classmethod
    def from_config(cls, config: StorageConfig, _environ: Mapping[str, str]) -> Self:
        """The sink at the configured URL.

        Raises:
            SinkError: the driver is not installed, or the URL is none.
        """
        assert config.url is not None
        try:
            return cls(make_url(config.url.get_secret_value()).set(drivername="postgresql+psycopg"))
        except ImportError as error:
            raise SinkError(
                "storage.connector modelmesh.postgresql.v1 needs psycopg: install modelmesh[postgresql]"
            ) from error
        except (SQLAlchemyError, ValueError):
            raise SinkError("storage.url is no URL of a database") from None

    def _open(self) -> None:
        self._transact("opened", lambda _connection: None)

    def _transact(self, verb: str, work: Callable[[Connection], T]) -> T:
        started_s = time.monotonic()
        try:
            try:
                return self._try(work)
            except DBAPIError as error:
                if not error.connection_invalidated or time.monotonic() - started_s > self._call_s / 2:
                    raise
                return self._try(work)
        except (OSError, SQLAlchemyError) as error:
            self._engine.dispose()  # after a failover an idle connection may lead to a server that only reads
            raise self._fault(verb, error) from error

    def _try(self, work: Callable[[Connection], T]) -> T:
        with (
            _Deadline(self._call_s) as deadline,
            self._in_call(deadline),
            self._engine.connect() as connection,
        ):
            deadline.watch(connection.connection.driver_connection)
            if not self._is_ready:
                with connection.begin():
                    _bound(connection)
                    self._make_schema(connection)
                self._is_ready = True
            with connection.begin():
                _bound(connection)
                return work(connection)

    @contextmanager
    def _in_call(self, deadline: _Deadline) -> Iterator[None]:
        self._call.deadline = deadline
        try:
            yield
        finally:
            del self._call.deadline

    def _connect(self, dialect: Any, _record: object, args: Any, options: Any) -> Any:
        """The first words with a new server count as well."""
        driver = dialect.connect(*args, **options)
        self._call.deadline.watch(driver)
        return driver

    def _make_schema(self, connection: Connection) -> None:
        """Looks first: whoever may write need not be one who may create tables."""
        if inspect(connection).has_table(VERSIONS.name):
            return self._check_version(connection)
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _SCHEMA_LOCK})
        for step in self._schema_steps():
            step(connection)
        return None

    def _fault(self, verb: str, error: Exception) -> SinkError:
        cause = str(getattr(error, "orig", None) or error).strip().replace("\n", " ")
        kind = SinkAwayError if isinstance(error, _AWAY) else SinkError
        return kind(f"{self._name} cannot be {verb}: {cause}")


_AWAY: Final = (OSError, OperationalError, InterfaceError, NoConnectionError)


def _make_engine(url: URL) -> Engine:
    options: dict[str, Any] = {
        "connect_timeout": CONNECT_S,
        "application_name": "modelmesh",
        "prepare_threshold": None,  # a pooler hands each transaction to another connection
    }
    return create_engine(
        url,
        connect_args={name: value for name, value in options.items() if name not in url.query},
        pool_size=_CONNECTIONS,
        max_overflow=0,
        pool_timeout=CALL_S,
        hide_parameters=True,
    )


def _bound(connection: Connection) -> None:
    connection.execute(
        _BOUNDS, {"statement": f"{STATEMENT_S * 1000:.0f}", "idle": f"{2 * CALL_S * 1000:.0f}"}
    )


class _Deadline:
    """Cuts the connections of a call after that long: a server that is frozen, or a pooler without one, keeps them open and says nothing."""

    def __init__(self, limit_s: float) -> None:
        self._lines: list[socket.socket] = []
        self._lock = threading.Lock()
        self._is_over = False
        self._timer = threading.Timer(limit_s, self._pass)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._timer.cancel()
        self._timer.join()
        for line in self._lines:
            line.close()

    def watch(self, driver: Any) -> None:
        """From here on it is one of the call's connections."""
        # A descriptor of our own, which nobody else can close and open again for something else meanwhile.
        line = socket.socket(fileno=os.dup(driver.fileno()))
        with self._lock:
            self._lines.append(line)
            if self._is_over:
                _cut(line)

    def _pass(self) -> None:
        with self._lock:
            self._is_over = True
            for line in self._lines:
                _cut(line)


def _cut(line: socket.socket) -> None:
    with suppress(OSError):
        line.shutdown(socket.SHUT_RDWR)
