"""The contract of sinks on a real PostgreSQL server, and what happens when that is away, frozen, or strict."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from sqlalchemy import make_url

from scheduler.sinks import SinkAwayError, SinkError, make_sink
from scheduler.sinks.postgresql import PostgresqlSink
from shared_state.config.storage import StorageConfig
from tests.storage.conftest import OpenSink
from tests.support.postgres import PostgresServer
from tests.support.processes import PATIENCE_S
from tests.support.sink_contract import ALL_TIME, MakeSink, SinkContract, attempts, row
from tests.support.tcp_proxy import TcpProxy

pytestmark = pytest.mark.storage
CONNECTOR = "modelmesh.postgresql.v1"


class TestContract(SinkContract):
    @pytest.fixture
    def open_sink(self, postgres: PostgresServer, database: str, opened: OpenSink) -> MakeSink:
        return partial(opened, connector=CONNECTOR, url=postgres.url(database))


@pytest.fixture
def ask(postgres: PostgresServer, database: str) -> Callable[..., list[tuple[object, ...]]]:
    """Asks the database directly, as its owner."""
    import psycopg

    def ask(query: str) -> list[tuple[object, ...]]:
        address = postgres.url(database).replace("+psycopg", "")
        with psycopg.connect(address, autocommit=True) as connection:
            cursor = connection.execute(query)
            return cursor.fetchall() if cursor.description else []

    return ask


async def test_many_make_the_schema_at_once(
    postgres: PostgresServer, database: str, opened: OpenSink
) -> None:
    """All schedulers of a new cluster start together."""
    await asyncio.gather(*(opened(connector=CONNECTOR, url=postgres.url(database)) for _ in range(12)))


async def test_a_crash_before_the_end_of_a_transaction_leaves_nothing(
    postgres: PostgresServer, database: str, opened: OpenSink, ask: Callable[..., list[tuple[object, ...]]]
) -> None:
    """A batch is there whole or not at all; offered again, it is there."""
    sink = await opened(connector=CONNECTOR, url=postgres.url(database))
    ask("ALTER TABLE minute_statistics ADD CONSTRAINT small CHECK (attempts < 5)")
    with pytest.raises(SinkError, match="cannot be written"):
        await sink.write([row(10, attempts=1), row(11, attempts=9)])
    assert await attempts(sink) == {}
    ask("ALTER TABLE minute_statistics DROP CONSTRAINT small")
    await sink.write([row(10, attempts=1), row(11, attempts=9)])

    assert await attempts(sink) == {"m": 10}


async def test_an_answer_that_is_lost_changes_nothing(
    postgres: PostgresServer, database: str, opened: OpenSink
) -> None:
    """The rows are stored, the line is dead before the server could say so; what is repeated then counts once."""
    import psycopg

    sink = await opened(connector=CONNECTOR, url=postgres.url(database))
    assert isinstance(sink, PostgresqlSink)
    dialect, deaths = sink._engine.dialect, []
    commit = dialect.do_commit

    def commit_and_die(connection: Any) -> None:
        commit(connection)
        if not deaths:
            deaths.append(connection.driver_connection.close())
            raise psycopg.OperationalError("the line is dead")

    dialect.do_commit = commit_and_die  # type: ignore[method-assign]
    await sink.write([row(10, attempts=3)])

    assert len(deaths) == 1
    assert await attempts(sink) == {"m": 3}


async def test_a_silent_line_ends_the_call_and_dead_ones_are_replaced(
    postgres: PostgresServer, database: str
) -> None:
    """As with a server that is frozen, or behind a firewall that has forgotten the connection."""
    async with TcpProxy(("127.0.0.1", postgres.port)) as proxy:
        sink = PostgresqlSink(make_url(postgres.url(database, port=proxy.port)), call_s=0.5)
        await sink.open()
        proxy.pause()
        started_s = time.monotonic()
        with pytest.raises(SinkAwayError):
            await sink.write([row(10, attempts=3)])
        assert time.monotonic() - started_s < 5
        await proxy.resume()
        await sink.write([row(10, attempts=3)])
        assert await attempts(sink) == {"m": 3}
        proxy.sever()
        assert await attempts(sink) == {"m": 3}  # idle connections have died; nobody notices
        await sink.aclose()


async def test_a_server_that_falls_silent_behind_the_greeting_ends_the_call(
    postgres: PostgresServer, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a pooler that lets everybody in, and has no server."""
    async with TcpProxy(("127.0.0.1", postgres.port)) as proxy:
        sink = PostgresqlSink(make_url(postgres.url(database, port=proxy.port)), call_s=0.5)
        connect = sink._engine.dialect.connect

        def greeted(*args: Any, **options: Any) -> Any:
            driver = connect(*args, **options)
            proxy.pause()
            return driver

        monkeypatch.setattr(sink._engine.dialect, "connect", greeted)
        async with asyncio.timeout(PATIENCE_S):
            with pytest.raises(SinkAwayError):
                await sink.open()
        await sink.aclose()


async def test_a_server_that_is_away_at_the_start_is_used_once_it_is_there(
    postgres: PostgresServer, database: str
) -> None:
    """Without another `open`, and with its schema."""
    async with TcpProxy(("127.0.0.1", postgres.port)) as proxy:
        proxy.refuse()
        sink = PostgresqlSink(make_url(postgres.url(database, port=proxy.port)))
        with pytest.raises(SinkAwayError) as caught:
            await sink.open()
        with pytest.raises(SinkAwayError):
            await sink.save_copy("d", 1, b"x")
        await proxy.resume()
        await sink.save_copy("d", 1, b"x")
        await sink.aclose()

    assert f"the database {database} at 127.0.0.1 cannot be opened" in str(caught.value)
    assert "canary" not in str(caught.value)


async def test_a_lock_of_somebody_else_does_not_hold_for_ever(
    postgres: PostgresServer, database: str, opened: OpenSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server gives the statement up."""
    import psycopg

    sink = await opened(connector=CONNECTOR, url=postgres.url(database))
    monkeypatch.setattr("scheduler.sinks.postgresql.STATEMENT_S", 0.2)
    with psycopg.connect(postgres.url(database).replace("+psycopg", "")) as other:
        other.execute("LOCK TABLE state_copies")
        with pytest.raises(SinkAwayError, match="timeout"):
            await sink.save_copy("d", 1, b"x")
    await sink.save_copy("d", 1, b"x")


async def test_who_may_only_write_needs_no_right_to_create(
    postgres: PostgresServer, database: str, opened: OpenSink, ask: Callable[..., list[tuple[object, ...]]]
) -> None:
    """The tables were made by somebody else."""
    await opened(connector=CONNECTOR, url=postgres.url(database))
    ask(f"CREATE ROLE writer_{database} LOGIN")
    ask(f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO writer_{database}")
    sink = await opened(connector=CONNECTOR, url=postgres.url(database, user=f"writer_{database}"))
    await sink.write([row(attempts=2)])

    assert await attempts(sink) == {"m": 2}


async def test_a_later_schema_is_left_alone(
    postgres: PostgresServer, database: str, opened: OpenSink, ask: Callable[..., list[tuple[object, ...]]]
) -> None:
    """Nothing is written into tables that this release does not know."""
    await opened(connector=CONNECTOR, url=postgres.url(database))
    ask("UPDATE storage_schema SET version = 2")

    with pytest.raises(SinkError, match="its schema is 2, this release knows 1"):
        await opened(connector=CONNECTOR, url=postgres.url(database))


async def test_what_is_stored_is_on_the_disk(
    postgres: PostgresServer, database: str, opened: OpenSink, ask: Callable[..., list[tuple[object, ...]]]
) -> None:
    """Even where the server's default is to say so before: Redis forgets then."""
    ask(f"ALTER DATABASE {database} SET synchronous_commit = off")
    sink = await opened(connector=CONNECTOR, url=postgres.url(database))
    assert isinstance(sink, PostgresqlSink)

    def setting(connection: object) -> object:
        return connection.exec_driver_sql("SHOW synchronous_commit").scalar()  # type: ignore[attr-defined]

    assert sink._transact("read", setting) == "on"


@pytest.mark.parametrize("url", ["postgresql://u:canary@h:port/d", "postgres://u:canary@h:99:99/d"])
def test_a_url_that_is_none_is_refused_without_its_password(url: str) -> None:
    """Neither the message nor its causes hold it."""
    with pytest.raises(SinkError, match="is no URL of a database") as caught:
        make_sink(StorageConfig.model_validate({"connector": CONNECTOR, "url": url}))

    assert "canary" not in repr(caught.value)
    assert caught.value.__suppress_context__


async def test_totals_of_nothing_are_none(postgres: PostgresServer, database: str, opened: OpenSink) -> None:
    """A new database is empty."""
    sink = await opened(connector=CONNECTOR, url=postgres.url(database))

    assert await sink.totals(*ALL_TIME) == []
