"""The files of `compose/`, brought up as one project over the demo's mock providers."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Mapping
from typing import Any, Final

import httpx
from openai import AsyncOpenAI, DefaultAioHttpClient

from tests.containers.engine import run
from tests.support.processes import free_port, wait_until

TOKEN: Final = "token-of-the-clients"
ADMIN_TOKEN: Final = "token-of-the-operators"
_FILES: Final = ("compose/compose.yaml", "compose/demo.yaml")
_NETWORK: Final = "10.231.78"
_BUILD_S: Final = 600.0
NODES: Final = ("node1", "node2", "node3")


class Composition:
    """Everything that `docker compose up` starts, as one thing under a test's command.

    Args:
        engine: environment in which docker's commands work.
    """

    def __init__(self, engine: Mapping[str, str]) -> None:
        self.port = free_port()
        self._environ = {
            **engine,
            "MODELMESH_TOKEN": TOKEN,
            "MODELMESH_ADMIN_TOKEN": ADMIN_TOKEN,
            "MODELMESH_PORT": str(self.port),
            "MODELMESH_NET": _NETWORK,
            "MODELMESH_TAG": "test",
        }
        files = [word for file in _FILES for word in ("-f", file)]
        self._command = [*_compose_command(self._environ), "-p", "modelmesh-test", *files]

    @property
    def base_url(self) -> str:
        """The address of nginx."""
        return f"http://127.0.0.1:{self.port}"

    def compose(self, *words: str, limit_s: float = 120) -> str:
        """What a command of compose printed."""
        return run([*self._command, *words], environ=self._environ, limit_s=limit_s)

    def up(self) -> Composition:
        """Builds and starts everything; returns when nginx, which waits for the others, runs."""
        try:
            self.compose("up", "-d", "--build", limit_s=_BUILD_S)
        except AssertionError as error:
            error.add_note(self.compose("logs", "--no-color", "--tail", "30"))
            self.down()
            raise
        return self

    def down(self) -> None:
        """Ends and removes everything, volumes included."""
        self.compose("down", "--volumes", "--timeout", "10")

    def signal(self, service: str, name: str) -> None:
        """Sends a signal from inside, as no operator did it: the restart policy applies."""
        self.compose("exec", "-T", service, "python", "-c", f"import os, signal; os.kill(1, signal.{name})")

    def state(self, service: str) -> dict[str, Any]:
        """What the engine knows about a service's container."""
        identity = self.compose("ps", "-q", service).strip()
        found: list[dict[str, Any]] = json.loads(run(["docker", "inspect", identity], environ=self._environ))
        return found[0]

    def client(self) -> AsyncOpenAI:
        """The official client, without retries. Whoever asks for it closes it."""
        return AsyncOpenAI(
            base_url=f"{self.base_url}/v1",
            api_key=TOKEN,
            max_retries=0,
            timeout=20.0,
            http_client=DefaultAioHttpClient(),
        )

    async def ops(self, path: str) -> dict[str, Any]:
        """What the operators' API answers."""
        headers = {"authorization": f"Bearer {ADMIN_TOKEN}"}
        async with httpx.AsyncClient(base_url=self.base_url, headers=headers, timeout=10.0) as client:
            response = await client.get(f"/ops/{path}")
        response.raise_for_status()
        found: dict[str, Any] = response.json()
        return found

    async def await_nodes(self, *, within_s: float = 30.0) -> None:
        """Returns when all nodes are alive, and have told so to the shared state since this was called."""
        started = time.monotonic()

        async def well() -> bool:
            waited_s = time.monotonic() - started
            try:
                rows = (await self.ops("status"))["nodes"]
            except httpx.HTTPError:
                return False
            alive = [row for row in rows if row["state"] == "alive" and row["seen_s"] < waited_s]
            return {row["id"].partition("-")[0] for row in alive} == set(NODES)

        await wait_until(well, within_s, interval=0.2, what="three nodes to be alive")

    async def settled_books(self, *, within_s: float = 20.0) -> dict[str, Any]:
        """The books, once nothing is in flight; they must balance at every look."""

        async def settled() -> dict[str, Any] | None:
            books = await self.ops("books")
            assert books["balanced"], books
            return None if books["totals"]["in_flight"] else books

        return await wait_until(settled, within_s, interval=0.2, what="nothing to be in flight")


def _compose_command(environ: Mapping[str, str]) -> list[str]:
    plugin = ["docker", "compose"]
    has_plugin = subprocess.run([*plugin, "version"], env=environ, capture_output=True, check=False)
    return plugin if has_plugin.returncode == 0 else ["docker-compose"]
