"""What is measured: the mock alone, nginx as the floor, and a node with its Redis. Each starts from nothing and can be ended."""

from __future__ import annotations

import http.client
import json
import shutil
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from benchmarks.scenarios import ORDERS, Target
from tests.support.processes import ChildProcess, free_port
from tests.support.valkey import ValkeyServer

ROOT: Final = Path(__file__).resolve().parents[1]
_START_S: Final = 20.0
_POLL_S: Final = 0.002
#: More than any run can use: nothing is refused, and every window is checked and counted all the same.
_PLENTY: Final = 10**9


class SubjectError(Exception):
    """A subject cannot be started; the message says why."""


class Subject(ABC):
    """Something that answers the load. Use `start`, and `close` whatever happens."""

    name: str

    def __init__(self) -> None:
        self.port = 0
        #: Name and processes of each part; their descendants count with it.
        self.parts: dict[str, list[int]] = {}
        self.redis_url: str | None = None
        #: What a request to it carries besides the usual.
        self.headers: dict[str, str] = {}
        #: What its names of models begin with, and its paths.
        self.model_prefix = ""
        self.path_prefix = ""
        #: Whether it passes a stream's events on one by one; a peer may put them together anew.
        self.keeps_events = True
        self._stack = ExitStack()

    @property
    def target(self) -> Target:
        """Where and how it is asked, once it runs."""
        return Target(self.port, self.headers, self.model_prefix, self.path_prefix)

    @abstractmethod
    def start(self, mock_port: int) -> float:
        """Start it in front of the mock; the seconds until its first answer.

        Raises:
            SubjectError: something that it needs is missing, or it does not come up.
        """

    def close(self) -> None:
        """End everything that was started. May be called twice."""
        self._stack.close()

    def _launch(self, part: str, command: list[str], *, env: dict[str, str] | None = None) -> ChildProcess:
        process = self._stack.enter_context(closing(ChildProcess(command, name=part, cwd=ROOT, env=env)))
        self.parts.setdefault(part, []).append(process.pid)
        return process

    def _directory(self) -> Path:
        """An empty folder that is removed at the end."""
        directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="mm-bench-")))
        directory.chmod(0o755)  # the worker of a root master of nginx is another user
        return directory

    def _start_valkey(self, *, port: int | None = None) -> str:
        """A store of its own, durable as `modelmesh serve` has it; its address."""
        valkey = self._stack.enter_context(closing(ValkeyServer(port=port, persistence=True))).start()
        assert valkey.process is not None
        self.parts["valkey"] = [valkey.process.pid]
        self.redis_url = valkey.url
        return valkey.url


class Direct(Subject):
    """No subject: driver and mock alone. What it takes is taken off the others' latencies."""

    name = "direct"

    def start(self, mock_port: int) -> float:
        self.port = mock_port
        return 0.0


_NGINX_CONF: Final = """\
worker_processes 1;
pid nginx.pid;
error_log stderr warn;
events { worker_connections %(connections)d; }
http {
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    tcp_nodelay on;
    keepalive_requests 1000000000;
    upstream behind {
        %(servers)s
        keepalive 256;
        keepalive_requests 1000000000;
    }
    server {
        listen 127.0.0.1:%(port)d backlog=4096;
        location / {
            proxy_pass http://behind;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
        }
    }
}
"""


class Nginx(Subject):
    """A plain proxy: one worker, kept connections on both sides, streams unbuffered, no log."""

    name = "nginx"

    def __init__(self, *, connections: int = 4096) -> None:
        super().__init__()
        self._connections = connections

    def start(self, mock_port: int) -> float:
        return await_answer(self._front([mock_port]), self.port, "/v1/models")

    def _front(self, ports: Sequence[int]) -> ChildProcess:
        """Starts nginx before these ports, which it asks in turn."""
        binary = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
        if not binary:
            raise SubjectError("nginx is not installed")
        directory = self._directory()
        self.port = free_port()
        conf = directory / "nginx.conf"
        servers = "\n        ".join(f"server 127.0.0.1:{port};" for port in ports)
        facts = {"port": self.port, "servers": servers, "connections": self._connections}
        conf.write_text(_NGINX_CONF % facts)
        return self._launch("nginx", [binary, "-p", f"{directory}/", "-c", str(conf), "-g", "daemon off;"])


class Node(Subject):
    """One router node with a Valkey of its own, durable as `modelmesh serve` has it.

    Args:
        engine: of both sides, ``fast`` or ``stock``.
        has_limits: whether requests, tokens and concurrency are limited, far above what a run can use.
        launcher: runs the node instead of ``python -m node``.
        models: names that are asked for.
        timeouts: clocks of the account, where the defaults will not do.
    """

    def __init__(
        self,
        engine: str,
        *,
        has_limits: bool = True,
        launcher: tuple[str, ...] = ("-m", "node"),
        models: Iterable[str] = ORDERS,
        timeouts: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        super().__init__()
        self.name = f"node/{engine}" if has_limits else f"node/{engine}-nolimits"
        self._engine = engine
        self._has_limits = has_limits
        self._launcher = launcher
        self._models = list(models)
        self._timeouts = dict(timeouts)

    def start(self, mock_port: int) -> float:
        url = self._start_valkey()
        config = self._directory() / "mesh.json"
        config.write_text(json.dumps(self._config(mock_port)))
        self.port = free_port()
        address = ["--host", "127.0.0.1", "--port", str(self.port)]
        command = [sys.executable, *self._launcher, "-c", str(config), "--redis", url, *address]
        return await_answer(self._launch("node", command), self.port, "/ready")

    def _config(self, mock_port: int) -> dict[str, Any]:
        config = node_config(mock_port, engine=self._engine, has_limits=self._has_limits, models=self._models)
        config["providers"]["mock"]["timeouts"] = self._timeouts
        return config


class Fleet(Nginx):
    """Nodes on one Valkey behind nginx. Started step by step it can grow between measurements."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.name = f"fleet/{count}"
        self._count = count
        self._ports: list[int] = []

    def start(self, mock_port: int) -> float:
        self.found(node_config(mock_port, engine="fast", has_limits=True))
        took_s = self.grow(self._count)
        return took_s + self.front()

    def found(self, config: dict[str, Any]) -> None:
        """The store, and the configuration of all nodes."""
        self._url = self._start_valkey()
        self._config = self._directory() / "mesh.json"
        self._config.write_text(json.dumps(config))

    def grow(self, count: int) -> float:
        """Adds nodes until there are so many; the seconds until the last one answers."""
        started, fresh = time.perf_counter(), []
        for _ in range(count - len(self._ports)):
            port = free_port()
            address = ["--host", "127.0.0.1", "--port", str(port)]
            command = [sys.executable, "-m", "node", "-c", str(self._config), "--redis", self._url, *address]
            fresh.append((self._launch("nodes", command), port))
            self._ports.append(port)
        for process, port in fresh:
            await_answer(process, port, "/ready")
        return time.perf_counter() - started

    def front(self) -> float:
        """nginx before all nodes, in place of an older one; the seconds until it answers."""
        self.parts.pop("nginx", None)
        return await_answer(self._front(self._ports), self.port, "/ready")


def node_config(
    mock_port: int, *, engine: str, has_limits: bool, models: Iterable[str] = ORDERS
) -> dict[str, Any]:
    """The configuration of a node that is measured: one account, one model and one pool per kind of request."""
    names = list(models)
    model_limits = dict.fromkeys(("rpm", "rpd", "tpm", "tpd", "concurrency"), _PLENTY) if has_limits else {}
    account_limits = dict.fromkeys(("rpm", "tpm"), _PLENTY) if has_limits else {}
    return {
        # a busy machine must not pass for a lost Redis: the node would refuse what the lost limits forbid
        "redis": {"timeout": "5s"},
        "server": {"engine": engine, "upstream": engine},
        "providers": {
            "mock": {
                "connector": "openai-compatible.v1",
                "base_url": f"http://127.0.0.1:{mock_port}/v1",
                "api_key": "benchmark",
                "limits": account_limits,
            }
        },
        "models": {
            f"mock.{name}": {
                "provider": "mock",
                "upstream": name,
                "capabilities": ["chat-completion"],
                "limits": model_limits,
            }
            for name in names
        },
        "pools": {name: {"models": [f"mock.{name}"]} for name in names},
    }


def await_answer(process: ChildProcess, port: int, path: str, *, within_s: float = _START_S) -> float:
    """Wait until ``GET path`` is answered with 200; the seconds that it took.

    Raises:
        SubjectError: the process ends or does not answer in time.
    """
    started = time.perf_counter()
    while not _is_answered(port, path):
        if not process.is_running or time.perf_counter() > started + within_s:
            raise SubjectError(f"{process.name} does not serve\n{process.tail()}")
        time.sleep(_POLL_S)
    return time.perf_counter() - started


def _is_answered(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2.0)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


SUBJECTS: Final[dict[str, Callable[[], Subject]]] = {
    "direct": Direct,
    "nginx": Nginx,
    "node/stock": lambda: Node("stock"),
    "node/fast": lambda: Node("fast"),
    "node/fast-nolimits": lambda: Node("fast", has_limits=False),
    "fleet/1": lambda: Fleet(1),
    "fleet/2": lambda: Fleet(2),
    "fleet/4": lambda: Fleet(4),
}
