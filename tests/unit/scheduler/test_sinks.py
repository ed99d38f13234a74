"""Every sink that needs no server keeps the contract of sinks; files are whole or not there, and settings are obeyed."""

from __future__ import annotations

import asyncio
import gzip
import os
import sqlite3
import stat
import time
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import pytest

from scheduler.sinks import Sink, SinkError, SqliteSink, StoredCopy, make_sink
from scheduler.sinks import local as local_module
from scheduler.sinks.local import Folder
from scheduler.sinks.objects import ObjectSink
from shared_state.config.storage import PersistenceConfig, StorageConfig
from tests.support.sink_contract import ALL_TIME, MakeSink, SinkContract, attempts, row


@pytest.fixture(params=["sqlite", "json", "json.gz", "msgpack", "msgpack.gz"])
async def open_sink(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[MakeSink]:
    sinks: list[Sink] = []

    async def opened() -> Sink:
        if request.param == "sqlite":
            sinks.append(SqliteSink(tmp_path / "made" / "statistics.db"))
        else:
            form, _, ending = request.param.partition(".")
            persistence = PersistenceConfig(format=form, compression=bool(ending))
            sinks.append(ObjectSink(Folder(tmp_path / "made" / "storage"), persistence))
        await sinks[-1].open()
        return sinks[-1]

    yield opened
    for sink in sinks:
        await sink.aclose()


class TestContract(SinkContract):
    """Of SQLite, and of files in each format."""


def folder_sink(path: Path, **persistence: bool) -> ObjectSink:
    return ObjectSink(Folder(path), PersistenceConfig(**persistence))  # type: ignore[arg-type]


def files(path: Path) -> list[Path]:
    return sorted(found for found in path.rglob("*") if found.is_file())


class TestFiles:
    async def test_a_write_that_breaks_off_leaves_nothing_to_be_read(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A disk that is full, or a crash before the file has its name."""
        sink = folder_sink(tmp_path)
        await sink.open()

        def full(_descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patch:
            patch.setattr(local_module.os, "fsync", full)
            with pytest.raises(SinkError, match="cannot be written: .*No space left"):
                await sink.write([row(attempts=1)])
            with pytest.raises(SinkError, match="No space left"):
                await sink.save_copy("d", 1, b"x")
        (tmp_path / "copies").mkdir(exist_ok=True)

        assert [tmp_path / "schema"] == files(tmp_path)
        assert await attempts(sink) == {}
        assert await sink.latest_copy("d") is None
        await sink.write([row(attempts=1)])
        assert await attempts(sink) == {"m": 1}

    async def test_only_two_copies_take_up_room(self, tmp_path: Path) -> None:
        """Older ones are removed; statistics that are written again take none."""
        sink = folder_sink(tmp_path)
        for taken_ms in range(5):
            await sink.save_copy("mm:{d:a}", taken_ms, b"x")
            await sink.write([row(attempts=1)])

        assert len(files(tmp_path / "copies")) == 2
        assert len(files(tmp_path / "statistics")) == 1

    async def test_a_copy_that_goes_while_it_is_looked_for_is_not_missed(self, tmp_path: Path) -> None:
        """Two newer ones came between the list and the read."""

        class Overtaken(Folder):
            async def get(self, name: str) -> bytes | None:
                if name.endswith("1.bin"):
                    for taken_ms in (2, 3):
                        await folder_sink(tmp_path).save_copy("d", taken_ms, b"newer")
                return await super().get(name)

        sink = ObjectSink(Overtaken(tmp_path), PersistenceConfig())
        await sink.save_copy("d", 1, b"older")

        assert await sink.latest_copy("d") == StoredCopy(3, b"newer")

    async def test_files_are_for_the_owner_alone_and_say_what_they_are(self, tmp_path: Path) -> None:
        """A line of JSON for each row, in a file that is named by its minutes, in a folder for each day."""
        sink = folder_sink(tmp_path / "new", compression=True)
        await sink.write([row(1439, attempts=1), row(1440, attempts=2), row(1441, attempts=3)])

        first, second = files(tmp_path / "new" / "statistics")
        assert (first.parent.name, second.parent.name) == ("1970-01-01", "1970-01-02")
        assert first.name.startswith("1439-1439.")
        assert second.name.startswith("1440-1441.")
        line = b'{"minute":1439,"domain":"d","model":"m","pool":"p","metrics":{"attempts":1}}\n'
        assert gzip.decompress(first.read_bytes()) == line
        assert stat.S_IMODE(first.stat().st_mode) == 0o600
        assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o700

    async def test_other_formats_of_before_are_read_on(self, tmp_path: Path) -> None:
        """Who changes storage.persistence loses nothing."""
        await ObjectSink(Folder(tmp_path), PersistenceConfig(format="msgpack")).write([row(10, attempts=1)])
        await folder_sink(tmp_path, compression=True).write([row(11, attempts=2)])

        assert await attempts(folder_sink(tmp_path)) == {"m": 3}

    async def test_a_broken_file_is_named(self, tmp_path: Path) -> None:
        """Sums without it would be wrong and nobody would know."""
        sink = folder_sink(tmp_path)
        await sink.write([row(10, attempts=1)])
        (path,) = files(tmp_path / "statistics")
        path.write_bytes(b"{")

        with pytest.raises(SinkError, match=path.name):
            await sink.totals(*ALL_TIME)

    async def test_what_a_dead_process_left_half_written_goes_after_a_while(self, tmp_path: Path) -> None:
        """Not sooner, for it may be written to right now."""
        for name, age_s in (("old", 7200), ("new", 0)):
            half = tmp_path / f".part-{name}"
            half.touch()
            os.utime(half, (time.time() - age_s,) * 2)
        sink = folder_sink(tmp_path)
        await sink.open()

        assert [tmp_path / ".part-new", tmp_path / "schema"] == files(tmp_path)

    async def test_a_folder_that_cannot_be_used_is_named(self, tmp_path: Path) -> None:
        """As with a `path` that was a file."""
        (tmp_path / "file").write_text("no folder")
        with pytest.raises(SinkError, match=r"the storage in .*file cannot be opened"):
            await folder_sink(tmp_path / "file").open()


class TestSchema:
    async def test_a_later_schema_is_left_alone(self, tmp_path: Path) -> None:
        """An older release beside a newer one would write what that does not expect."""
        await folder_sink(tmp_path / "f").open()
        (tmp_path / "f" / "schema").write_bytes(b"2")
        base = SqliteSink(tmp_path / "s.db")
        await base.open()
        with closing(sqlite3.connect(base.path)) as connection:
            connection.execute("UPDATE storage_schema SET version = 2")
            connection.commit()

        with pytest.raises(SinkError, match="its schema is b'2', this release knows b'1'"):
            await folder_sink(tmp_path / "f").write([row(attempts=1)])
        with pytest.raises(SinkError, match="its schema is 2, this release knows 1"):
            await base.open()
        await base.aclose()


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"connector": "modelmesh.local-file.v1"}, "/home/m/storage"),
        ({"connector": "modelmesh.local-file.v1", "path": "/data"}, "/data"),
    ],
)
def test_files_lie_where_the_configuration_or_the_state_folder_says(
    document: dict[str, str], expected: str
) -> None:
    """An explicit path, else the state folder."""
    sink = make_sink(StorageConfig.model_validate(document), environ={"MODELMESH_HOME": "/home/m"})

    assert isinstance(sink, ObjectSink)
    assert isinstance(sink.objects, Folder)
    assert Path(expected) == sink.objects.root


@pytest.mark.parametrize(
    ("document", "module", "expected"),
    [
        ({"connector": "aws.s3.v1", "bucket": "bbb"}, "s3fs", r"needs s3fs: install modelmesh\[s3\]"),
        (
            {"connector": "modelmesh.postgresql.v1", "url": "postgresql://u:canary@h/d"},
            "psycopg",
            r"needs psycopg: install modelmesh\[postgresql\]",
        ),
    ],
)
def test_a_missing_library_is_named_with_its_extra(
    document: dict[str, str], module: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything is opened."""
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(SinkError, match=expected):
        make_sink(StorageConfig.model_validate(document))


async def test_many_open_a_new_folder_at_once(tmp_path: Path) -> None:
    """Whoever comes second finds all there."""
    sinks = [folder_sink(tmp_path / "a" / "b") for _ in range(8)]
    await asyncio.gather(*(sink.open() for sink in sinks))

    assert [tmp_path / "a" / "b" / "schema"] == files(tmp_path)
