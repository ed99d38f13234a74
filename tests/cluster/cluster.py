"""A whole cluster of real processes: Valkey, mock providers, router nodes, schedulers, nginx in front."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import httpx
from openai import AsyncOpenAI, DefaultAioHttpClient

from tests.cluster.mesh import Section, mock_of, with_addresses
from tests.support.mock import MockProvider
from tests.support.nginx import NginxServer
from tests.support.preloaded import PreloadedProcess
from tests.support.processes import PATIENCE_S, ChildProcess, free_port, wait_until
from tests.support.valkey import ValkeyServer

_START_S = 60.0
_ORDINARY = re.compile(r'"outcome":"ok"|"status":200')
_SHOWN = 20
#: Between two looks at what operators see: each costs the node that is asked milliseconds.
_LOOK_S = 0.05
_DEAF_USER = "deaf on >deaf ~* &* +@all -subscribe"


class Node:
    """A router node that can be killed, drained and started again on its port.

    Args:
        redis_url: how it reaches the shared state.
    """

    def __init__(self, name: str, config_path: Path, redis_url: str) -> None:
        self.name = name
        self.port = free_port()
        self.redis_url = redis_url
        self._config_path = config_path
        self._process: ChildProcess | None = None

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def process(self) -> ChildProcess:
        assert self._process is not None
        return self._process

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.is_running

    def spawn(self) -> None:
        """Start it without waiting until it serves."""
        self.close()
        self._process = PreloadedProcess(
            "node",
            [
                *("-c", self._config_path, "--redis", self.redis_url),
                *("--host", "127.0.0.1", "--port", self.port, "--name", self.name),
            ],
            name=self.name,
            env={"MODELMESH_HOME": str(self._config_path.parent)},
        )

    def await_ready(self) -> None:
        """Wait until it serves; blocks the event loop, if there is one."""
        self.process.wait_line_blocking(r'"event": ?"ready"', _START_S)

    async def restart(self) -> None:
        """Start it again, and wait until it serves."""
        self.spawn()
        await self.process.wait_line(r'"event": ?"ready"', _START_S)

    def close(self) -> None:
        """End it. May be called twice."""
        if self._process:
            self._process.close()


class Cluster:
    """Everything that serves, as one thing under a test's command.

    Use it as an async context manager, or with `start` and `close`.

    Args:
        config: from `mesh`.
        mocks: name of each mock provider, and its options.
        nodes: router nodes behind nginx.
        deaf_nodes: further nodes, not behind nginx, that may not subscribe to events.
        starts_valkey: False leaves starting the shared state to the test.
        store_url: another store than the Valkey of its own, which then is not started.
        persistence: the shared state keeps an append-only file.
    """

    def __init__(
        self,
        config: Section,
        *,
        mocks: Mapping[str, Mapping[str, Any]],
        nodes: int = 3,
        deaf_nodes: int = 0,
        schedulers: int = 1,
        starts_valkey: bool = True,
        store_url: str | None = None,
        persistence: bool = False,
    ) -> None:
        self.valkey = ValkeyServer(
            port=free_port(), persistence=persistence, options=("--user", *_DEAF_USER.split())
        )
        self.mocks: dict[str, MockProvider] = {}
        self.nodes: list[Node] = []
        self._names = 0
        self.deaf_nodes: list[Node] = []
        self.schedulers: list[ChildProcess] = []
        self.nginx: NginxServer | None = None
        self._config = config
        self._mock_options = mocks
        self._counts = (nodes, deaf_nodes, schedulers)
        self._starts_valkey = starts_valkey and not store_url
        self._awaits_nodes = starts_valkey
        self._store_url = store_url or self.valkey.url
        self._config_path = Path()
        self._stack = ExitStack()

    @property
    def document(self) -> Section:
        """The configuration in the file that every process was started with."""
        found: Section = json.loads(self._config_path.read_text())
        return found

    @property
    def base_url(self) -> str:
        """The address of nginx."""
        assert self.nginx is not None
        return self.nginx.base_url

    def start(self) -> Cluster:
        """Start everything, side by side, and wait until the nodes serve."""
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def _start(self) -> None:
        self._stack.callback(self.valkey.close)
        if self._starts_valkey:
            self.valkey.start()
        for name, options in self._mock_options.items():
            self.mocks[name] = self._stack.enter_context(closing(MockProvider(name, **options)))
        directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="mm-cluster-")))
        self._config_path = self._write_config(directory)
        self._spawn_nodes()
        for _ in range(self._counts[2]):
            self.start_scheduler()
        self.nginx = NginxServer([("127.0.0.1", node.port) for node in self.nodes])
        self._stack.callback(self.nginx.close)
        self.nginx.start()
        if self._awaits_nodes:
            for node in self._all_nodes():
                node.await_ready()

    def _write_config(self, directory: Path) -> Path:
        urls = {name: mock.base_url for name, mock in self.mocks.items()}
        storage = {"path": str(directory / "statistics.db")}
        path = directory / "mesh.json"
        path.write_text(json.dumps({"storage": storage, **with_addresses(self._config, urls)}))
        return path

    def _spawn_nodes(self) -> None:
        nodes, deaf, _ = self._counts
        for _ in range(nodes):
            self.add_node()
        url = self._store_url.replace("//", "//deaf:deaf@", 1)
        self.deaf_nodes = [Node(f"deaf{i}", self._config_path, url) for i in range(1, deaf + 1)]
        for node in self.deaf_nodes:
            self._stack.callback(node.close)
            node.spawn()

    def add_node(self) -> Node:
        """Spawn one more node, which nginx does not know yet."""
        self._names += 1
        node = Node(f"n{self._names}", self._config_path, self._store_url)
        self._stack.callback(node.close)
        self.nodes.append(node)
        node.spawn()
        return node

    def start_scheduler(self) -> ChildProcess:
        """Start one more scheduler. One after the other, for they share the file of statistics and each would create it."""
        words = ["-c", self._config_path, "--redis", self._store_url]
        process = PreloadedProcess("scheduler", words, name=f"scheduler{len(self.schedulers) + 1}")
        self.schedulers.append(self._stack.enter_context(closing(process)))
        process.wait_line_blocking("scheduler starts", _START_S)
        return process

    def close(self) -> None:
        """End everything, nodes without a drain. May be called twice."""
        for process in [*(node.process for node in self._all_nodes() if node.is_running), *self.schedulers]:
            process.kill()
        self._stack.close()

    def _all_nodes(self) -> list[Node]:
        return [*self.nodes, *self.deaf_nodes]

    async def __aenter__(self) -> Cluster:
        return self.start()

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def logs(self) -> Iterator[tuple[str, str]]:
        """Name and last lines of every process that was not closed, without the requests that went well."""
        processes = [node.process for node in self._all_nodes()] + self.schedulers
        processes += [server.process for server in (self.valkey, self.nginx) if server and server.process]
        for process in processes:
            lines = process.log().splitlines() if process.log_path.exists() else []
            unusual = [line for line in lines if not _ORDINARY.search(line)]
            yield process.name, "\n".join(unusual[-_SHOWN:])

    def spooled(self) -> int:
        """Settlements that nodes keep on disk."""
        files = self._config_path.parent.glob("spool/**/*.spool")
        return sum(file.read_bytes().count(b"\n") for file in files)

    # the clients' side

    def client(self, node: Node | None = None, *, key: str = "unused") -> AsyncOpenAI:
        """The official client, without retries, pointed at nginx or at one node. Whoever asks for it closes it."""
        return AsyncOpenAI(
            base_url=f"{node.base_url if node else self.base_url}/v1",
            api_key=key,
            max_retries=0,
            timeout=60.0,
            http_client=DefaultAioHttpClient(
                verify=False
            ),  # reading certificates takes longer than a request
        )

    # the operators' side

    async def ops(self, path: str, *, node: Node | None = None, order: Section | None = None) -> Section:
        """What a node answers to ``GET /ops/...``, or to a POST if `order` is given."""
        asked = node or next(node for node in self.nodes if node.is_running)
        async with httpx.AsyncClient(verify=False, base_url=asked.base_url, timeout=30.0) as client:
            if order is None:
                response = await client.get(f"/ops/{path}")
            else:
                response = await client.post(f"/ops/{path}", json=order)
        response.raise_for_status()
        found: Section = response.json()
        return found

    async def revoke(self, key: str, *, node: Node) -> None:
        """Orders a node to revoke a client key."""
        async with httpx.AsyncClient(verify=False, base_url=node.base_url, timeout=30.0) as client:
            (await client.delete(f"/ops/keys/{key}")).raise_for_status()

    async def model(self, model: str) -> Section:
        """A model's state, windows and counts."""
        return _row(await self.ops("models"), "models", model)

    async def provider(self, provider: str) -> Section:
        """An account's state."""
        return _row(await self.ops("providers"), "providers", provider)

    async def await_model(self, model: str, *, within_s: float = PATIENCE_S, **wanted: object) -> Section:
        """The model, once it is as wanted, as in ``status="standby"``."""

        async def seen() -> Section | None:
            row = await self.model(model)
            return row if all(row[key] == value for key, value in wanted.items()) else None

        return await wait_until(seen, within_s, interval=_LOOK_S, what=f"{model} to be {wanted}")

    async def await_provider(
        self, provider: str, *, within_s: float = PATIENCE_S, **wanted: object
    ) -> Section:
        """The account, once it is as wanted."""

        async def seen() -> Section | None:
            row = await self.provider(provider)
            return row if all(row[key] == value for key, value in wanted.items()) else None

        return await wait_until(seen, within_s, interval=_LOOK_S, what=f"{provider} to be {wanted}")

    async def settled_books(self, *, within_s: float = PATIENCE_S) -> Section:
        """The books, once nothing is in flight; they must balance at every look."""

        async def settled() -> Section | None:
            books = await self.ops("books")
            assert books["balanced"], books
            return None if books["totals"]["in_flight"] else books

        return await wait_until(settled, within_s, interval=_LOOK_S, what="nothing to be in flight")

    async def books_of(self, pool: str) -> dict[str, int]:
        """Admitted, settled and abandoned of a pool, once nothing is in flight."""
        rows = [row for row in (await self.settled_books())["rows"] if row["pool"] == pool]
        return {name: sum(row[name] for row in rows) for name in ("admitted", "settled", "abandoned")}

    # the providers' side

    def seen(self, model: str) -> list[Section]:
        """What the provider of ``pool.mock`` has booked for that model, oldest first."""
        return [entry for entry in self._provider_of(model).ledger() if entry["model"] == model]

    def order(self, model: str, behaviour: str, *, times: int | None = None) -> None:
        """Give the provider of ``pool.mock`` a standing order for that model; ``ok`` withdraws it."""
        self._provider_of(model).behave(behaviour, model=model, times=times)

    def _provider_of(self, model: str) -> MockProvider:
        account = self._config["providers"][self._config["models"][model]["provider"]]
        return self.mocks[mock_of(account)]


def _row(view: Section, listing: str, name: str) -> Section:
    found: Section = next(row for row in view[listing] if row["id"] == name)
    return found
