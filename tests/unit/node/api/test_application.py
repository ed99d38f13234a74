"""Routes beside the completions: errors in the same shape, methods, health, operators behind their door."""

from __future__ import annotations

import asyncio
import functools
from typing import Any

import pytest
from pydantic import SecretStr
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from node.api.application import Front as ServedFront
from node.api.application import build_application
from node.api.auth import Doorkeeper
from node.ops.routes import OpsParts, ops_routes
from node.routing.ranking import Facts, Ranker
from node.routing.strategies import build_strategies
from shared_state.keys import Keys
from tests.unit.node.api.asgi import Findings, Front, ask
from tests.unit.node.house import Gauge, Map, Pointers, View, Watch, mesh

CHAT = "/v1/chat/completions"


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/nothing", "/v1/chat/completions/", "/nothing\r\nx: y", "/é"]
)
async def test_an_unknown_route_is_not_found(method: str, path: str) -> None:
    """404 in the API's shape, with an id, and no redirects."""
    heard = await ask(Front().app, method, path)

    assert heard.status == 404
    assert heard.error["code"] == "not_found"
    assert heard.error["type"] == "invalid_request_error"
    assert heard.error["request_id"].encode() == heard.header(b"x-request-id")
    assert all(b"\r" not in value and b"\n" not in value for _, value in heard.headers)


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"])
@pytest.mark.parametrize("path", [CHAT, "/v1/embeddings"])
async def test_a_completion_route_takes_post_alone(method: str, path: str) -> None:
    """405 with what is allowed, for methods that nobody has heard of as well."""
    heard = await ask(Front().app, method, path)

    assert heard.status == 405
    assert heard.header(b"allow") == b"POST"
    assert heard.error["code"] == "method_not_allowed"


async def test_a_listing_takes_no_post() -> None:
    """The framework's own 405 has our shape."""
    heard = await ask(Front().app, "POST", "/v1/models")

    assert heard.status == 405
    assert heard.error["code"] == "method_not_allowed"
    assert set((heard.header(b"allow") or b"").split(b", ")) == {b"GET", b"HEAD"}


async def test_a_sane_request_id_is_kept_everywhere() -> None:
    """On errors of the framework, too."""
    heard = await ask(Front().app, "GET", "/nothing", headers=[(b"x-request-id", b"mine-1")])

    assert heard.header(b"x-request-id") == b"mine-1"
    assert heard.error["request_id"] == "mine-1"


async def test_health_and_readiness() -> None:
    """Alive is not ready; a node that cannot serve says when to ask again."""
    front = Front()
    assert (await ask(front.app, "GET", "/health")).json == {"status": "ok"}
    ready = await ask(front.app, "GET", "/ready")
    assert (ready.status, ready.json) == (200, {"ready": True, "mode": "exact"})

    front.is_ready = False
    waiting = await ask(front.app, "GET", "/ready")

    assert (waiting.status, waiting.json) == (503, {"ready": False, "mode": "exact"})
    assert waiting.header(b"retry-after") == b"1"
    assert (await ask(front.app, "GET", "/health")).status == 200


async def test_health_needs_no_token() -> None:
    """Load balancers have none."""
    front = Front(tokens=["t"])

    assert (await ask(front.app, "GET", "/health")).status == 200
    assert (await ask(front.app, "GET", "/ready")).status == 200


async def test_an_unexpected_fault_is_answered_and_raised() -> None:
    """The caller gets a 500 without a word of it; the server gets the exception for its log."""

    async def fail(request: object) -> Any:
        raise LookupError("secret detail")

    app = build_application({}, routes=[Route("/fail", fail)])
    heards: list[Any] = []

    async def send(message: Any) -> None:
        heards.append(message)

    scope = {
        "type": "http",
        "method": "GET",
        "path": "/fail",
        "headers": [],
        "query_string": b"",
        "root_path": "",
    }
    with pytest.raises(LookupError):
        await app(scope, None, send)  # type: ignore[arg-type]

    assert heards[0]["status"] == 500
    assert b"internal_error" in heards[1]["body"]
    assert b"secret" not in heards[1]["body"]


# -- the operators' API


class AwayStore:
    """A store that does not answer, and counts who asked."""

    def __init__(self) -> None:
        self.keys = Keys("t")
        self.timeout_s = 0.25
        self.masked_url = "redis://example"
        self.asked = 0

    async def ping(self) -> None:
        self.asked += 1
        raise TimeoutError

    async def run(self, *_: Any) -> None:
        await self.ping()

    command = run


OPS = [
    ("GET", "/ops/status"),
    ("GET", "/ops/books"),
    ("GET", "/ops/events"),
    ("GET", "/ops/usage"),
    ("GET", "/ops/stats"),
    ("GET", "/ops/nodes"),
    ("GET", "/ops/pools"),
    ("GET", "/ops/models"),
    ("GET", "/ops/providers"),
    ("POST", "/ops/models/alpha.m/deactivate"),
    ("POST", "/ops/models/alpha.m/activate"),
    ("POST", "/ops/providers/alpha/deactivate"),
    ("POST", "/ops/providers/alpha/activate"),
    ("GET", "/ops/keys"),
    ("POST", "/ops/keys"),
    ("DELETE", "/ops/keys/abc"),
    ("GET", "/ops/requests/r-1"),
    ("GET", "/ops/requests/r-1/replay"),
    ("POST", "/ops/explain"),
    ("POST", "/ops/pools/chat/rotate"),
]


def order_of(path: str) -> bytes:
    """A body that the route understands."""
    return {"/ops/keys": b'{"name": "billing"}', "/ops/explain": b'{"model": "chat"}'}.get(path, b"{}")


#: Answered without Redis.
STANDING = [("GET", "/ops/openapi.json")]
#: Those that ask a provider, not the store.
ASKING = [("GET", "/ops/providers/alpha/models")]


def ranker_of(view: View) -> Ranker:
    facts = Facts(Pointers(view.current), Map(), Gauge())
    return Ranker(build_strategies(view.topology.pools.values()), view, facts, draw=lambda: 0.5)


class Office:
    """The operators' API of a node whose store is away."""

    def __init__(self, *tokens: str, is_open: bool = False) -> None:
        self.store, self.watch, topology = AwayStore(), Watch(), mesh("alpha.m")
        doorkeeper = Doorkeeper([SecretStr(token) for token in tokens], is_open=is_open)
        view = View(topology)
        parts = OpsParts("node-1", self.store, topology, view, self.watch, Findings(), ranker_of(view))  # type: ignore[arg-type]
        self.app = build_application({}, routes=ops_routes(parts, doorkeeper))


async def test_every_operators_route_is_tested() -> None:
    """A new one cannot be forgotten here."""
    topology = mesh("alpha.m")
    view = View(topology)
    parts = OpsParts("n", AwayStore(), topology, view, Watch(), Findings(), ranker_of(view))  # type: ignore[arg-type]
    routes = ops_routes(parts, Doorkeeper([], is_open=False))
    names = [
        *((f"/{name}/", "/{name:path}/") for name in ("alpha.m", "alpha", "chat")),
        *(("/abc", "/{key}"), ("/r-1", "/{request_id}")),
    ]
    known = {
        functools.reduce(lambda path, name: path.replace(*name), names, path)
        for _, path in OPS + STANDING + ASKING
    }

    assert {route.path for route in routes} == known  # type: ignore[attr-defined]


@pytest.mark.parametrize(("method", "path"), OPS + STANDING + ASKING)
@pytest.mark.parametrize("authorization", [None, b"Bearer wrong", b"Bearer "])
async def test_operators_need_their_token(method: str, path: str, authorization: bytes | None) -> None:
    """Without it nothing is read and nothing is done."""
    for office in (Office("admin"), Office()):
        headers = [] if authorization is None else [(b"authorization", authorization)]
        heard = await ask(office.app, method, path, order_of(path), headers=headers)

        assert heard.status == 401
        assert heard.error["code"] == "invalid_api_key"
        assert office.store.asked == 0


@pytest.mark.parametrize(("method", "path"), OPS)
async def test_without_redis_operators_are_told_so(method: str, path: str) -> None:
    """503, and the node knows at once."""
    office = Office("admin")
    heard = await ask(office.app, method, path, order_of(path), headers=[(b"authorization", b"Bearer admin")])

    assert heard.status == 503
    assert heard.error["code"] == "state_unavailable"
    assert heard.header(b"retry-after") == b"1"
    assert not office.watch.connected


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/ops/models/nobody/deactivate", b"{}", 404),
        ("/ops/providers/alpha.m/deactivate", b"{}", 404),
        ("/ops/models/alpha.m/deactivate", b"{", 400),
        ("/ops/models/alpha.m/deactivate", b"[]", 400),
        ("/ops/models/alpha.m/deactivate", b'{"unknown": 1}', 400),
        ("/ops/models/alpha.m/deactivate", b"x" * 10_001, 400),
    ],
)
async def test_an_order_that_cannot_be_meant_is_refused(path: str, body: bytes, status: int) -> None:
    """Before anything is asked of the store."""
    office = Office(is_open=True)
    heard = await ask(office.app, "POST", path, body)

    assert heard.status == status
    assert heard.error["type"] == "invalid_request_error"
    assert office.store.asked == 0


class Slow:
    """A completion that ends when it is told to."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.go_on = asyncio.Event()
        self.served: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.go_on.wait()
        self.served.append(self.name)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": self.name.encode()})


async def test_a_call_ends_in_the_application_that_it_began_in() -> None:
    """Another takes the new ones; the old one is quiet when its last call is over."""
    old, new = Slow("old"), Slow("new")
    first, second = (build_application({CHAT: slow}, routes=[]) for slow in (old, new))
    front = ServedFront(first)
    under_way = asyncio.create_task(ask(front, "POST", CHAT))
    await asyncio.sleep(0)
    front.application = second
    quiet = asyncio.create_task(first.until_quiet())
    new.go_on.set()
    after = await ask(front, "POST", CHAT)
    was_quiet = quiet.done()
    old.go_on.set()
    before = await under_way
    await asyncio.wait_for(quiet, 20)
    await asyncio.wait_for(first.until_quiet(), 20)

    assert (before.body, after.body) == (b"old", b"new")
    assert not was_quiet
