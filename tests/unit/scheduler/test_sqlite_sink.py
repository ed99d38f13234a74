"""The SQLite sink: idempotent, durable, and clear about what it cannot do."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from scheduler.sinks import SinkError, SqliteSink, make_sink
from shared_state.config.storage import StorageConfig
from shared_state.statistics import METRICS, MinuteRow


@pytest.fixture
async def sink(tmp_path: Path) -> AsyncIterator[SqliteSink]:
    sink = SqliteSink(tmp_path / "made" / "statistics.db")
    await sink.open()
    yield sink
    await sink.aclose()


def row(minute: int = 10, *, model: str = "m", pool: str = "p", **metrics: int) -> MinuteRow:
    return MinuteRow("d", model, pool, minute, metrics)


async def test_a_batch_is_stored_whole_or_not_at_all(sink: SqliteSink) -> None:
    """Half a batch would be counted, and offered again."""
    with pytest.raises(SinkError, match="cannot be written"):
        await sink.write([row(attempts=1), MinuteRow("d", None, "p", 10, {"attempts": 1})])  # type: ignore[arg-type]

    assert await sink.totals(0, 1e9) == []


async def test_rows_survive_in_another_process(sink: SqliteSink) -> None:
    """What was written is on the disk, one column per metric, readable by any SQLite client."""
    await sink.write([row(attempts=4, tokens_in=9, latency_le_2=4)])

    connection = sqlite3.connect(sink.path)
    columns = [name for _, name, *_ in connection.execute("PRAGMA table_info(minute_statistics)")]
    stored = connection.execute("SELECT attempts, tokens_in, details FROM minute_statistics").fetchall()
    connection.close()

    assert ["minute", "domain", "model", "pool", *METRICS, "details"] == columns
    assert stored == [(4, 9, '{"latency_le_2": 4}')]


async def test_an_existing_file_is_taken_over(sink: SqliteSink) -> None:
    """The next scheduler, or the next release, opens the same file."""
    await sink.write([row(attempts=4)])
    again = SqliteSink(sink.path)
    await again.open()

    totals = await again.totals(0, 1e9)
    await again.aclose()

    assert totals[0].metrics["attempts"] == 4


async def test_a_file_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    """The error says which file and why."""
    (tmp_path / "file").write_text("not a folder")
    sink = SqliteSink(tmp_path / "file" / "statistics.db")

    with pytest.raises(SinkError, match=r"file/statistics\.db cannot be opened"):
        await sink.open()
    await sink.aclose()


@pytest.mark.parametrize(
    ("path", "environ", "expected"),
    [
        ("/data/s.db", {"MODELMESH_HOME": "/home/m"}, "/data/s.db"),
        (None, {"MODELMESH_HOME": "/home/m", "XDG_STATE_HOME": "/state"}, "/home/m/statistics.db"),
        (None, {"XDG_STATE_HOME": "/state"}, "/state/modelmesh/statistics.db"),
        (None, {}, str(Path.home() / ".local/state/modelmesh/statistics.db")),
    ],
)
def test_the_file_is_where_the_configuration_or_the_state_folder_says(
    path: str | None, environ: dict[str, str], expected: str
) -> None:
    """An explicit path, else MODELMESH_HOME, else the user's state folder."""
    sink = make_sink(StorageConfig(path=path), environ=environ)

    assert isinstance(sink, SqliteSink)
    assert Path(expected) == sink.path


async def test_two_schedulers_may_open_a_new_file_at_once(tmp_path):
    """Whoever comes second finds the table there."""
    path = tmp_path / "statistics.db"
    sinks = [SqliteSink(path) for _ in range(8)]
    try:
        await asyncio.gather(*(sink.open() for sink in sinks))
    finally:
        for sink in sinks:
            await sink.aclose()

    assert path.stat().st_size > 0


async def test_a_file_of_before_gets_its_table_of_copies(tmp_path: Path) -> None:
    """Who upgrades keeps the statistics."""
    first = SqliteSink(tmp_path / "s.db")
    await first.open()
    await first.write([row(attempts=1)])
    await first.aclose()
    with closing(sqlite3.connect(tmp_path / "s.db")) as connection:
        connection.execute("DROP TABLE state_copies")
    second = SqliteSink(tmp_path / "s.db")
    await second.open()
    await second.save_copy("a", 1, b"x")

    assert len(await second.totals(0, 1e9)) == 1
    await second.aclose()


async def test_a_copy_that_cannot_be_stored_or_read_is_an_error(sink: SqliteSink) -> None:
    """Never silence: without its copies a cluster is less safe than it seems."""
    with closing(sqlite3.connect(sink.path)) as connection:
        connection.execute("DROP TABLE state_copies")

    with pytest.raises(SinkError, match="cannot be written"):
        await sink.save_copy("a", 1, b"x")
    with pytest.raises(SinkError, match="cannot be read"):
        await sink.latest_copy("a")
