"""Peers as subjects: each installed by its own package manager into a scratch folder, configured for the same mock.

python -m benchmarks peers        # installs what is missing; `make bench-peers` does both
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from abc import abstractmethod
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, Final

from benchmarks.scenarios import ORDERS
from benchmarks.subjects import SUBJECTS, Subject, SubjectError, await_answer
from tests.support.processes import free_port
from tests.support.valkey import ValkeyServer

_START_S: Final = 120.0
_PLENTY: Final = 10**9


def scratch() -> Path:
    """Where peers are installed: ``$MODELMESH_PEERS``, or a folder of the user's cache."""
    named = os.environ.get("MODELMESH_PEERS")
    return Path(named) if named else Path.home() / ".cache" / "modelmesh" / "peers"


class Peer(Subject):
    """Another gateway; its installation is kept between runs."""

    def __init__(self) -> None:
        super().__init__()
        self.keeps_events = False

    @classmethod
    @abstractmethod
    def install(cls) -> None:
        """Installs it into the scratch folder, unless it is there.

        Raises:
            SubjectError: its package manager is missing or fails.
        """

    def _directory(self) -> Path:
        return Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="mm-bench-")))


class LiteLlm(Peer):
    """The LiteLLM proxy with one worker; with Redis it keeps requests and tokens per minute, as its documentation advises."""

    def __init__(self, *, has_redis: bool) -> None:
        super().__init__()
        self.name = "litellm/redis" if has_redis else "litellm"
        self._has_redis = has_redis

    @classmethod
    def install(cls) -> None:
        home = scratch() / "litellm"
        if not (home / "bin" / "litellm").exists():
            _command([sys.executable, "-m", "venv", str(home)])
            _command([str(home / "bin" / "pip"), "install", "--quiet", "litellm[proxy]"])

    def start(self, mock_port: int) -> float:
        self.install()
        config = self._directory() / "config.yaml"
        config.write_text(json.dumps(self._config(mock_port)))  # JSON is YAML
        self.port = free_port()
        binary = scratch() / "litellm" / "bin" / "litellm"
        address = ["--host", "127.0.0.1", "--port", str(self.port), "--num_workers", "1"]
        process = self._launch("litellm", [str(binary), "--config", str(config), *address], env=_QUIET)
        return await_answer(process, self.port, "/health/liveliness", within_s=_START_S)

    def _config(self, mock_port: int) -> dict[str, Any]:
        common = {"api_base": f"http://127.0.0.1:{mock_port}/v1", "api_key": "benchmark"}
        limits = {"rpm": _PLENTY, "tpm": _PLENTY} if self._has_redis else {}
        models = [
            {"model_name": name, "litellm_params": {"model": f"openai/{name}", **common, **limits}}
            for name in ORDERS
        ]
        return {"model_list": models, "router_settings": self._router_settings() if self._has_redis else {}}

    def _router_settings(self) -> dict[str, Any]:
        valkey = self._stack.enter_context(closing(ValkeyServer(port=free_port(), persistence=True))).start()
        assert valkey.process is not None
        self.parts["valkey"] = valkey.process.pid
        self.redis_url = valkey.url
        host, _, port = valkey.url.removeprefix("redis://").partition("/")[0].partition(":")
        strategy = "usage-based-routing-v2"
        return {"routing_strategy": strategy, "redis_host": host, "redis_port": int(port)}


class Portkey(Peer):
    """The Portkey gateway on Node.js; it keeps no limits."""

    name = "portkey"

    @classmethod
    def install(cls) -> None:
        home = scratch() / "portkey"
        if not _portkey_server(home).exists():
            home.mkdir(parents=True, exist_ok=True)
            npm = shutil.which("npm")
            if npm is None:
                raise SubjectError("npm is not installed")
            _command([npm, "install", "--silent", "--no-audit", "--no-fund", "@portkey-ai/gateway"], cwd=home)

    def start(self, mock_port: int) -> float:
        self.install()
        node = shutil.which("node")
        if node is None:
            raise SubjectError("Node.js is not installed")
        self.port = free_port()
        self.headers = {
            "x-portkey-provider": "openai",
            "x-portkey-custom-host": f"http://127.0.0.1:{mock_port}/v1",
        }
        server = str(_portkey_server(scratch() / "portkey"))
        process = self._launch(
            "portkey", [node, server, f"--port={self.port}", "--headless"], env={"NODE_ENV": "production"}
        )
        return await_answer(process, self.port, "/", within_s=_START_S)


#: Nothing is sent home, no line is logged per request, and nobody needs a key on loopback.
_QUIET: Final = {
    "LITELLM_LOG": "ERROR",
    "LITELLM_TELEMETRY": "False",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
}


def _portkey_server(home: Path) -> Path:
    return home / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"


def _command(words: list[str], *, cwd: Path | None = None) -> None:
    try:
        done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False)
    except OSError as error:
        raise SubjectError(f"{words[0]}: {error.strerror}") from error
    if done.returncode:
        raise SubjectError(f"{' '.join(words)}: {(done.stderr or done.stdout).strip()[-500:]}")


PEERS: Final[dict[str, Callable[[], Peer]]] = {
    "litellm": lambda: LiteLlm(has_redis=False),
    "litellm/redis": lambda: LiteLlm(has_redis=True),
    "portkey": Portkey,
}


def open_subject(name: str) -> Subject:
    """A subject or a peer by its name, not started yet."""
    return (SUBJECTS | PEERS)[name]()
