"""Whose web pages are listened to where nobody needs a token."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import SecretStr
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from node.api.application import build_application
from node.api.auth import Doorkeeper
from node.api.origins import Origins, open_to_pages
from node.ui.routes import ui_routes
from shared_state.config.root import CorsConfig
from shared_state.errors import OriginNotAllowedError
from tests.unit.node.api.asgi import Front, Heard, Keys, ask, post
from tests.unit.node.api.test_client_keys import key

APP = "https://app.example"
EVIL = "http://evil.example:8080"
HERE = "127.0.0.1:8080"


def sent(
    origin: str | None, host: str | None = HERE, *, method: str = "POST", site: str | None = None
) -> dict[str, Any]:
    """The scope of a request with these headers."""
    given = {"host": host, "origin": origin, "sec-fetch-site": site}
    headers = [(name.encode(), value.encode("latin-1")) for name, value in given.items() if value is not None]
    return {"method": method, "headers": headers}


def passes(check: Any, scope: dict[str, Any]) -> bool:
    try:
        check(scope)
    except OriginNotAllowedError:
        return False
    return True


@pytest.mark.parametrize(
    ("origin", "host", "is_ours"),
    [
        (None, HERE, True),
        (None, None, True),
        ("http://127.0.0.1:8080", HERE, True),
        ("http://localhost:3000", HERE, True),
        ("http://app.localhost:3000", HERE, True),
        ("http://[::1]:8080", "[::1]:8080", True),
        ("http://10.0.0.5:8080", "10.0.0.5:8080", True),
        (APP, HERE, True),
        (APP, "app.example", True),
        (EVIL, HERE, False),
        (EVIL, "evil.example:8080", False),
        ("null", HERE, False),
        ("", HERE, False),
        ("http://10.0.0.6:8080", "10.0.0.5:8080", False),
        ("http://10.0.0.5:3000", "10.0.0.5:8080", False),
        ("http://app.example", HERE, False),
        ("https://app.example.evil.example", HERE, False),
        ("http://localhost.evil.example", HERE, False),
        ("http://127.0.0.1.evil.example", HERE, False),
        ("http://evil.example#localhost", HERE, False),
        ("http://evil.example/@localhost", HERE, False),
        ("http://evil.example, http://localhost", HERE, False),
        ("http://\xe9vil.example", HERE, False),
    ],
)
def test_pages_of_other_sites_change_nothing(origin: str | None, host: str | None, is_ours: bool) -> None:
    """Neither by a call nor by an order; a browser cannot hide which page it shows. Who is no browser says nothing, and passes."""
    origins = Origins([APP])

    assert passes(origins.check_call, sent(origin, host)) is is_ours
    assert passes(origins.check_order, sent(origin, host)) is is_ours


@pytest.mark.parametrize("site", ["cross-site", "same-site", "same-origin", "none"])
def test_a_browser_that_hides_the_origin_still_says_that_it_is_another_site(site: str) -> None:
    """Sec-Fetch-Site cannot be set by a page."""
    assert passes(Origins().check_call, sent(None, site=site)) is (site != "cross-site")
    assert passes(Origins().check_order, sent(None, site=site)) is (site != "cross-site")


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_what_changes_nothing_may_be_linked_to(method: str) -> None:
    """A link on another site leads here; its page cannot read the answer."""
    scope = sent(EVIL, method=method, site="cross-site")

    assert passes(Origins().check_call, scope)
    assert passes(Origins().check_order, scope)


@pytest.mark.parametrize(
    ("host", "is_known"),
    [
        ("localhost", True),
        ("nodes", True),
        ("node_1:8080", True),
        ("LocalHost.:8080", True),
        ("mesh.localhost:8080", True),
        ("127.0.0.1", True),
        ("[::1]:8080", True),
        ("192.168.1.5:8080", True),
        ("app.example", True),
        ("app.example:8443", True),
        (None, True),
        ("evil.example:8080", False),
        ("app.example.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("localhost@evil.example", False),
        ("[evil]", False),
        ("::1", False),
        (":8080", False),
    ],
)
def test_a_name_that_a_website_could_own_is_not_answered(host: str | None, is_known: bool) -> None:
    """Whoever owns a name can point it here, and its page is then of the same site as this server; an address cannot be pointed."""
    assert passes(Origins([APP]).check_order, sent(None, host, method="GET")) is is_known


def test_every_page_may_call_where_that_is_said_but_none_gives_orders() -> None:
    """``*`` is about the APIs of models."""
    origins = Origins(["*"])

    assert passes(origins.check_call, sent(EVIL))
    assert not passes(origins.check_order, sent(EVIL))
    assert not passes(origins.check_order, sent(None, "evil.example"))


async def test_a_page_of_another_site_spends_no_money() -> None:
    """403 that says why, before anything is read or asked; the page of a listed origin is served."""
    front = Front(origins=[APP])
    refused = await post(front.app, headers=[(b"host", HERE.encode()), (b"origin", EVIL.encode())])

    assert (refused.status, refused.error["code"]) == (403, "origin_not_allowed")
    assert EVIL in refused.error["message"]
    assert front.place.transport.requests == []
    assert (await post(front.app, headers=[(b"origin", APP.encode())])).status == 200


async def test_a_token_is_enough() -> None:
    """No page knows it; a client key is enough as well, also where none is needed."""
    page = (b"origin", EVIL.encode())
    by_token = await post(Front(tokens=["t0ken"]).app, headers=[page, (b"authorization", b"Bearer t0ken")])
    by_key = await post(Front(keys=Keys(good=key())).app, headers=[page, (b"x-api-key", b"mm-good")])

    assert (by_token.status, by_key.status) == (200, 200)


@pytest.mark.parametrize("is_open", [True, False])
@pytest.mark.parametrize(
    ("method", "path", "name"),
    [
        ("POST", "/ops/do", HERE),
        ("GET", "/ops/do", "evil.example"),
        ("GET", "/ui", "evil.example"),
        ("GET", "/ui/", "evil.example"),
    ],
)
async def test_the_operators_door_is_guarded_while_it_is_open(
    is_open: bool, method: str, path: str, name: str
) -> None:
    """With an admin token any name and any page will do: behind nginx the host is the public name."""
    tokens = [] if is_open else [SecretStr("admin")]
    door = Doorkeeper(tokens, is_open=True).known_to(Origins([APP]))
    headers = [(b"host", name.encode()), (b"origin", EVIL.encode()), (b"authorization", b"Bearer admin")]

    async def do(request: Request) -> Response:
        door.check(request.scope)
        return Response()

    routes = [Route("/ops/do", do, methods=["GET", "POST"]), *ui_routes(check=door.check_name)]
    heard = await ask(build_application({}, routes=routes), method, path, headers=headers)

    assert (heard.status == 403) is is_open
    if is_open:
        assert heard.error["code"] in ("origin_not_allowed", "host_not_allowed")


# -- answers that pages may read


async def from_page(method: str, path: str, origin: str, *listed: str, **more: str) -> Heard:
    front = Front(origins=listed)
    headers = {"origin": origin, **{name.replace("_", "-"): value for name, value in more.items()}}
    body = b'{"model": "chat", "messages": [{"role": "user", "content": "hi"}]}' if method == "POST" else b""
    return await ask(
        open_to_pages(front.app, listed),
        method,
        path,
        body,
        headers=[(name.encode(), value.encode()) for name, value in headers.items()],
    )


@pytest.mark.parametrize("listed", [APP, "*"])
async def test_a_listed_page_asks_first_and_reads_the_answer(listed: str) -> None:
    """Its browser hears that it may, of the question and of the answer, headers included."""
    path = "/v1/chat/completions"
    asked = {"access_control_request_method": "POST", "access_control_request_headers": "authorization"}
    before = await from_page("OPTIONS", path, APP, listed, **asked)
    answer = await from_page("POST", path, APP, listed)

    assert (before.status, answer.status) == (200, 200)
    assert {APP.encode(), b"*"} & {before.header(b"access-control-allow-origin")}
    assert {APP.encode(), b"*"} & {answer.header(b"access-control-allow-origin")}
    assert before.header(b"access-control-allow-headers") == b"authorization"
    assert answer.header(b"access-control-expose-headers") == b"*"


async def test_other_pages_and_other_routes_are_not_shared() -> None:
    """Nothing is said where nothing is listed."""
    for path, origin, listed in (
        ("/v1/models", EVIL, [APP]),
        ("/v1/models", APP, []),
        ("/metrics", APP, [APP]),
        ("/ready", EVIL, ["*"]),
    ):
        heard = await from_page("GET", path, origin, *listed)

        assert heard.status == 200
        assert heard.header(b"access-control-allow-origin") is None


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("*", "*"),
        ("https://App.Example", APP),
        ("https://app.example:443", APP),
        ("http://app.example:443", "http://app.example:443"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("chrome-extension://abcdef", "chrome-extension://abcdef"),
    ],
)
def test_origins_are_kept_as_browsers_write_them(text: str, origin: str) -> None:
    """So that they can be compared."""
    assert CorsConfig.model_validate({"origins": [text]}).origins == [origin]


@pytest.mark.parametrize(
    "text", ["app.example", "https://app.example/", "https://*.app.example", "null", "", 7]
)
def test_what_is_no_origin_is_refused(text: object) -> None:
    """With a word on how to write it."""
    with pytest.raises(ValueError, match="write https://app.example"):
        CorsConfig.model_validate({"origins": [text]})
