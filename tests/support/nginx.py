"""A real nginx in front of test nodes, running the configuration of the compose set-up."""

from __future__ import annotations

import json
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.support.processes import PATIENCE_S, POLL_S, ChildProcess, ProcessFailedError, free_port

COMPOSE = Path(__file__).resolve().parents[2] / "compose"
_LISTEN = re.compile(r"listen 8080\b")
_SERVER_LINE = re.compile(r"^( *server )\S+(.*;.*)$", re.MULTILINE)

Upstream = tuple[str, int]


def render_upstreams(template: str, upstreams: Sequence[Upstream]) -> str:
    """`template` with its one ``server`` line repeated for each of `upstreams`."""

    def lines(match: re.Match[str]) -> str:
        return "\n".join(f"{match[1]}{host}:{port}{match[2]}" for host, port in upstreams)

    text, count = _SERVER_LINE.subn(lines, template)
    assert count == 1, "upstreams.conf should have one server line"
    return text


class NginxServer:
    """nginx on a free loopback port, with everything it writes in a temporary folder.

    Args:
        upstreams: the nodes.
        conf_text: instead of ``compose/nginx.conf``; must say ``listen 8080`` once.
    """

    def __init__(self, upstreams: Sequence[Upstream], *, conf_text: str | None = None) -> None:
        self._binary = _nginx_binary()
        self.port = free_port()
        self.directory = Path(tempfile.mkdtemp(prefix="mm-nginx-"))
        self.directory.chmod(0o755)  # the workers of a root master are another user
        text = conf_text or (COMPOSE / "nginx.conf").read_text()
        text, count = _LISTEN.subn(f"listen 127.0.0.1:{self.port}", text)
        assert count == 1, "the configuration should say 'listen 8080' once"
        (self.directory / "nginx.conf").write_text(text)
        self._write_upstreams(upstreams)
        self.process: ChildProcess | None = None

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def check(self) -> None:
        """``nginx -t``.

        Raises:
            ProcessFailedError: nginx does not accept the configuration.
        """
        done = subprocess.run([*self._command(), "-t"], capture_output=True, text=True, check=False)
        if done.returncode:
            raise ProcessFailedError(done.stderr)

    def start(self) -> NginxServer:
        """Start it and wait until it accepts connections."""
        self.process = ChildProcess(
            [*self._command(), "-g", "daemon off;"], name="nginx", death_signal=signal.SIGTERM
        )
        self._await_port()
        return self

    def reload(self, upstreams: Sequence[Upstream]) -> None:
        """Another set of nodes, without losing a request (SIGHUP)."""
        assert self.process is not None
        self._write_upstreams(upstreams)
        self.process.send(signal.SIGHUP)

    def access_log(self) -> list[dict[str, Any]]:
        """One entry per request that is over."""
        assert self.process is not None
        return [json.loads(line) for line in self.process.log().splitlines() if line.startswith("{")]

    def close(self) -> None:
        """End master and workers, remove the folder. May be called twice."""
        if self.process:
            self.process.close()
            self.process = None
        shutil.rmtree(self.directory, ignore_errors=True)

    def _command(self) -> list[str]:
        return [self._binary, "-p", f"{self.directory}/", "-c", str(self.directory / "nginx.conf")]

    def _write_upstreams(self, upstreams: Sequence[Upstream]) -> None:
        template = (COMPOSE / "upstreams.conf").read_text()
        (self.directory / "upstreams.conf").write_text(render_upstreams(template, upstreams))

    def _await_port(self, timeout: float = PATIENCE_S) -> None:
        assert self.process is not None
        deadline = time.monotonic() + timeout
        while not _accepts(self.port):
            if not self.process.is_running or time.monotonic() > deadline:
                raise ProcessFailedError(f"nginx does not listen on {self.port}\n{self.process.tail()}")
            time.sleep(POLL_S)


def _nginx_binary() -> str:
    binary = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if not binary:
        raise ProcessFailedError(
            "these tests need nginx: install it (apt-get install nginx-light) and run again"
        )
    return binary


def _accepts(port: int) -> bool:
    with socket.socket() as sock:
        sock.settimeout(1.0)
        return sock.connect_ex(("127.0.0.1", port)) == 0
