"""Peers as subjects: each installed by its own package manager into a scratch folder, configured for the same mock.

python -m benchmarks peers        # installs what is missing; `make bench-peers` does both
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from abc import abstractmethod
from collections.abc import Callable
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, Final

from benchmarks.scenarios import ORDERS
from benchmarks.subjects import SUBJECTS, Subject, SubjectError, await_answer
from tests.support.processes import free_port

_START_S: Final = 120.0
_PLENTY: Final = 10**9
#: The gateway inside the wheel; its own launcher serves no OpenAI route.
_EMBEDDED: Final = """\
import signal, sys
from tensorzero.tensorzero import _start_http_gateway as start
gateway = start(config_file=sys.argv[1], clickhouse_url=None, postgres_url=None, valkey_url=None, async_setup=False)
print("listening", gateway.base_url, flush=True)
signal.pause()
"""


def scratch() -> Path:
    """Where peers are installed: ``$MODELMESH_PEERS``, or a folder of the user's cache."""
    named = os.environ.get("MODELMESH_PEERS")
    return Path(named) if named else Path.home() / ".cache" / "modelmesh" / "peers"


class Peer(Subject):
    """Another gateway; its installation is kept between runs."""

    def __init__(self) -> None:
        super().__init__()
        self.keeps_events = False

    @abstractmethod
    def install(self) -> None:
        """Installs it into the scratch folder, unless it is there.

        Raises:
            SubjectError: its package manager is missing or fails.
        """

    @abstractmethod
    def version(self) -> str | None:
        """Of what is installed, if anything is."""


class LiteLlm(Peer):
    """The LiteLLM proxy with one worker; with Redis it keeps requests and tokens per minute, as its documentation advises."""

    def __init__(self, *, has_redis: bool) -> None:
        super().__init__()
        self.name = "litellm/redis" if has_redis else "litellm"
        self._has_redis = has_redis

    def install(self) -> None:
        _install_wheel("litellm", "litellm[proxy]")

    def version(self) -> str | None:
        return _wheel_version("litellm")

    def start(self, mock_port: int) -> float:
        self.install()
        config = self._directory() / "config.yaml"
        config.write_text(json.dumps(self._config(mock_port)))  # JSON is YAML
        self.port = free_port()
        binary = _binary("litellm", "litellm")
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
        url = self._start_valkey(port=free_port())
        host, _, port = url.removeprefix("redis://").partition("/")[0].partition(":")
        strategy = "usage-based-routing-v2"
        return {"routing_strategy": strategy, "redis_host": host, "redis_port": int(port)}


class Portkey(Peer):
    """The Portkey gateway on Node.js; it keeps no limits."""

    name = "portkey"

    def install(self) -> None:
        home = scratch() / "portkey"
        if not _portkey_server(home).exists():
            home.mkdir(parents=True, exist_ok=True)
            npm = shutil.which("npm")
            if npm is None:
                raise SubjectError("npm is not installed")
            _command([npm, "install", "--silent", "--no-audit", "--no-fund", "@portkey-ai/gateway"], cwd=home)

    def version(self) -> str | None:
        package = scratch() / "portkey" / "node_modules" / "@portkey-ai" / "gateway" / "package.json"
        return str(json.loads(package.read_text())["version"]) if package.exists() else None

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


class WorkerRouter(Peer):
    """A Rust router that spreads load over engines of one's own; it keeps no limits, and looks at each engine's health.

    Args:
        command: its program and what comes before the options.
    """

    def __init__(self, package: str, *command: str) -> None:
        super().__init__()
        self.name = package
        self._command = command

    def install(self) -> None:
        _install_wheel(self.name, self.name)

    def version(self) -> str | None:
        return _wheel_version(self.name)

    def start(self, mock_port: int) -> float:
        self.install()
        self.port = free_port()
        program, *words = self._command
        words += ["--host", "127.0.0.1", "--port", str(self.port), "--prometheus-port", str(free_port())]
        words += ["--worker-urls", f"http://127.0.0.1:{mock_port}", "--policy", "round_robin"]
        words += ["--log-level", "error"]
        process = self._launch(self.name, [str(_binary(self.name, program)), *words])
        return await_answer(process, self.port, "/v1/models", within_s=_START_S)


class TensorZero(Peer):
    """The gateway that the TensorZero wheel embeds, in a process of its own, without its databases; it keeps no limits."""

    name = "tensorzero"

    def __init__(self) -> None:
        super().__init__()
        self.model_prefix = "tensorzero::model_name::"

    def install(self) -> None:
        _install_wheel("tensorzero", "tensorzero")

    def version(self) -> str | None:
        return _wheel_version("tensorzero")

    def start(self, mock_port: int) -> float:
        self.install()
        config = self._directory() / "tensorzero.toml"
        config.write_text(tensorzero_config(mock_port))
        started = time.perf_counter()
        process = self._launch(
            "tensorzero", [str(_binary("tensorzero", "python")), "-c", _EMBEDDED, str(config)]
        )
        address = process.wait_line_blocking(r"listening http://[^:]+:(\d+)(/\S*)/v1", timeout=_START_S)
        self.port, self.path_prefix = int(address[1]), address[2]
        return time.perf_counter() - started


def tensorzero_config(mock_port: int) -> str:
    """Every model of the mock, in TOML."""
    parts = ["[gateway]\nobservability.enabled = false\n"]
    parts += [
        f'[models."{name}"]\nrouting = ["mock"]\n[models."{name}".providers.mock]\ntype = "openai"\n'
        f'model_name = "{name}"\napi_base = "http://127.0.0.1:{mock_port}/v1/"\napi_key_location = "none"\n'
        for name in ORDERS
    ]
    return "\n".join(parts)


#: Nothing is sent home, no line is logged per request, and nobody needs a key on loopback.
_QUIET: Final = {
    "LITELLM_LOG": "ERROR",
    "LITELLM_TELEMETRY": "False",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
}


def _portkey_server(home: Path) -> Path:
    return home / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"


def _binary(home: str, name: str) -> Path:
    return scratch() / home / "bin" / name


def _install_wheel(home: str, package: str) -> None:
    if _wheel_version(home) is None:
        _command([sys.executable, "-m", "venv", str(scratch() / home)])
        _command([str(_binary(home, "pip")), "install", "--quiet", package])


def _wheel_version(home: str) -> str | None:
    """The version of the package that a scratch environment is named after."""
    paths = [str(path) for path in (scratch() / home / "lib").glob("python*/site-packages")]
    return next((found.version for found in distributions(name=home, path=paths)), None)


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
    "sglang-router": lambda: WorkerRouter("sglang-router", "sglang-router", "launch"),
    "vllm-router": lambda: WorkerRouter("vllm-router", "vllm-router"),
    "tensorzero": TensorZero,
}


def open_subject(name: str) -> Subject:
    """A subject or a peer by its name, not started yet."""
    return (SUBJECTS | PEERS)[name]()
