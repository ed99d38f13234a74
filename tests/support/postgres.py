"""A private PostgreSQL server on loopback, as whatever user it takes: it refuses to run as root."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

from tests.support.processes import ChildProcess, ProcessFailedError, free_port

_UNPRIVILEGED = ("postgres", "nobody")


def find_programs() -> Path | None:
    """The folder of the newest installed server; None if there is none, or if root may not become somebody else."""
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name))
    found = shutil.which("initdb")
    folders = [*([Path(found).resolve().parent] if found else []), *folders]
    usable = [folder for folder in folders if (folder / "postgres").exists() and (folder / "initdb").exists()]
    return usable[-1] if usable and (os.geteuid() or shutil.which("setpriv")) else None


class PostgresServer:
    """One server with one role `mesh`, which may do everything; its data are gone at the end."""

    def __init__(self) -> None:
        programs = find_programs()
        if programs is None:
            raise ProcessFailedError("no PostgreSQL: install the package postgresql")
        self.port = free_port()
        self._programs = programs
        self._folder = Path(tempfile.mkdtemp(prefix="mm-pg-"))
        self._as_user = self._give_away() if os.geteuid() == 0 else []
        self._process: ChildProcess | None = None

    def url(self, database: str = "postgres", *, user: str = "mesh", port: int | None = None) -> str:
        return f"postgresql+psycopg://{user}:canary-password@127.0.0.1:{port or self.port}/{database}"

    def start(self) -> PostgresServer:
        """Makes its data folder, starts it, and waits until it answers; blocks for a few seconds."""
        data = str(self._folder / "data")
        self._run("initdb", "--no-sync", "--auth=trust", "--username=mesh", "--encoding=UTF8", "-D", data)
        address = ["-p", str(self.port), "-k", str(self._folder), "-c", "listen_addresses=127.0.0.1"]
        self._process = ChildProcess(
            [*self._as_user, self._programs / "postgres", "-D", data, *address, "-c", "fsync=off"],
            name="postgres",
            death_signal=signal.SIGQUIT,
        )
        self._process.wait_line_blocking("ready to accept connections")
        return self

    def close(self) -> None:
        """Ends it, whoever is connected, and removes its data."""
        if self._process is not None and self._process.is_running:
            self._process.send(signal.SIGQUIT)
            self._process.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _give_away(self) -> list[str]:
        user = next(pwd.getpwnam(name) for name in _UNPRIVILEGED if _is_user(name))
        os.chown(self._folder, user.pw_uid, user.pw_gid)
        ids = [f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}"]
        return ["setpriv", *ids, "--clear-groups", "--pdeathsig=QUIT"]

    def _run(self, program: str, *args: str) -> None:
        done = subprocess.run(
            [*self._as_user, self._programs / program, *args],
            cwd=self._folder,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise ProcessFailedError(f"{program}: {done.stdout}{done.stderr}")


def _is_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True
