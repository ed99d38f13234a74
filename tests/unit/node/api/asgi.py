"""A caller of an ASGI application: sends what the test says, keeps what comes back, may leave."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson
from pydantic import SecretStr
from starlette.types import ASGIApp, Message

from node.api.application import Application, build_application, health_routes, metrics_route, model_routes
from node.api.auth import ClientDoor, Doorkeeper
from node.api.endpoint import Edge
from node.api.keyring import Keyring
from node.api.models import ModelList
from node.api.once import Once
from node.api.origins import Origins
from node.api.routes import endpoints
from node.observe.metrics import Metrics
from node.observe.request_log import RequestLog
from node.observe.tracing import Tracing
from shared_state.client_keys import ClientKey
from shared_state.config.root import IdempotencyConfig
from shared_state.findings import Finding, StoreReport
from shared_state.store import Store
from tests.unit.node.house import House, mesh
from tests.unit.node.scripted import ScriptedTransport, whole

Headers = Sequence[tuple[bytes, bytes]]
MESSAGES = [{"role": "user", "content": "hi"}]


@dataclass
class Heard:
    """What a caller heard."""

    status: int = 0
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    parts: list[bytes] = field(default_factory=list)
    is_complete: bool = False

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        found: dict[str, Any] = self.json["error"]
        return found

    def header(self, name: bytes) -> bytes | None:
        """The header of that name, which must not be there twice."""
        found = [value for key, value in self.headers if key.lower() == name]
        assert len(found) <= 1
        return found[0] if found else None

    async def send(self, message: Message) -> None:
        """The ``send`` of the call; insists on the order that ASGI asks for."""
        if message["type"] == "http.response.start":
            assert self.status == 0
            self.status, self.headers = message["status"], list(message["headers"])
        else:
            assert self.status != 0
            assert not self.is_complete
            self.body += message["body"]
            self.parts.append(message["body"])
            self.is_complete = not message.get("more_body", False)


async def ask(
    app: ASGIApp,
    method: str,
    path: str,
    *pieces: bytes,
    headers: Headers = (),
    query: str = "",
    leaves: asyncio.Event | None = None,
    heard: Heard | None = None,
) -> Heard:
    """One request to its end; the caller leaves when the event is set. ``heard`` can be looked at meanwhile."""
    given = list(pieces) or [b""]
    heard = heard or Heard()

    async def receive() -> Message:
        if given:
            piece = given.pop(0)
            return {"type": "http.request", "body": piece, "more_body": bool(given)}
        await (leaves or asyncio.Event()).wait()
        return {"type": "http.disconnect"}

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": list(headers),
        "http_version": "1.1",
        "scheme": "http",
        "root_path": "",
    }
    await app(scope, receive, heard.send)
    return heard


async def post(app: ASGIApp, body: Any = None, *, path: str = "/v1/chat/completions", **more: Any) -> Heard:
    """One request with a JSON body; by default a good one."""
    fields = {"model": "chat", "messages": MESSAGES} if body is None else body
    return await ask(app, "POST", path, orjson.dumps(fields), **more)


class Findings:
    """What the self-test found, as the test says."""

    def __init__(self) -> None:
        self.report: StoreReport | None = None

    @property
    def findings(self) -> Sequence[Finding]:
        return self.report.findings if self.report else ()


class Keys:
    """Client keys in memory; counts who asks.

    Attributes:
        found: text -> key.
        error: raised instead of an answer.
        on_find: called while a key is read.
    """

    def __init__(self, **found: ClientKey) -> None:
        self.found = {f"mm-{name}": key for name, key in found.items()}
        self.asked: list[str] = []
        self.error: Exception | None = None
        self.on_find: Callable[[], None] = lambda: None

    def digest(self, text: bytes) -> str:
        return text.decode("latin-1")

    async def find(self, digest: str) -> ClientKey | None:
        self.asked.append(digest)
        self.on_find()
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        return self.found.get(digest)

    async def put_back(self, key: ClientKey, digest: str) -> None:
        self.found[digest] = key


class Front:
    """The application of a node over a scripted house."""

    def __init__(
        self,
        *,
        tokens: Sequence[str] = (),
        max_body_bytes: int = 100_000,
        place: House | None = None,
        keys: Keys | None = None,
        keys_required: bool = False,
        store: Store | None = None,
        request_log: Callable[[io.BytesIO], RequestLog] | None = None,
        tracing: Tracing | None = None,
        origins: Sequence[str] = (),
    ) -> None:
        self.place = place or House(mesh("alpha.m"), ScriptedTransport(alpha=whole()))
        self.keys = keys or Keys()
        self.keyring = Keyring(self.keys, self.place.watch)  # type: ignore[arg-type]
        self.log = io.BytesIO()
        self.request_log = request_log(self.log) if request_log else RequestLog("node-1", self.log)
        doorkeeper = Doorkeeper([SecretStr(token) for token in tokens], is_open=True)
        self.findings = Findings()
        self.metrics = Metrics(
            self.place.view,  # type: ignore[arg-type]
            self.place.watch,  # type: ignore[arg-type]
            {},
            {},
            {},
            lambda: self.place.router.in_flight,
            self.findings,  # type: ignore[arg-type]
        )
        door = ClientDoor(
            doorkeeper,
            self.keyring,
            is_required=keys_required,
            now_ms=self.place.view.clock.now_ms,
            origins=Origins(origins),
        )
        edge = Edge(
            self.place.router,
            self.place.watch,  # type: ignore[arg-type]
            door,
            self.request_log,
            self.metrics,
            max_body_bytes,
            Once(store or self.place.watch, self.place.watch, IdempotencyConfig()),  # type: ignore[arg-type]
            tracing=tracing,
        )
        self.is_ready = True
        self.app: Application = build_application(
            endpoints(edge),
            routes=[
                *model_routes(ModelList(self.place.topology), door),
                *health_routes(lambda: (self.is_ready, {"mode": "exact"})),
                metrics_route(self.metrics, doorkeeper),
            ],
        )

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The request log."""
        self.request_log.flush()
        return [orjson.loads(line) for line in self.log.getvalue().splitlines()]
