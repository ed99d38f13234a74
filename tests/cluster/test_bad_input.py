"""What nobody should send: right status, an error in the OpenAI shape, no provider asked, nobody blamed."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from tests.cluster.cluster import Cluster
from tests.cluster.mesh import pool
from tests.support.processes import wait_until

pytestmark = pytest.mark.cluster

POOLS = [pool("untouched", "quiet"), pool("left", "alpha", "beta")]

_CHAT = "/v1/chat/completions"
_HELLO = [{"role": "user", "content": "hello"}]


def _body(**changes: Any) -> bytes:
    whole = {"model": "untouched", "messages": _HELLO} | changes
    return json.dumps({key: value for key, value in whole.items() if value is not ...}).encode()


_BAD_BODIES = {
    "empty": (b"", 400, "invalid_json"),
    "not-json": (b"{model:", 400, "invalid_json"),
    "not-utf8": b'{"model": "\xff\xfe"}',
    "nan": b'{"model": "untouched", "temperature": NaN}',
    "array": (b"[]", 400, "invalid_json"),
    "string": (b'"hello"', 400, "invalid_json"),
    "number": (b"1" * 5000, 400, "invalid_json"),
    "too-deep": (_body(x=...)[:-1] + b',"x":' + b"[" * 200 + b"]" * 200 + b"}", 400, "invalid_json"),
    "absurdly-deep": (b'{"a":' * 60_000, 400, "invalid_json"),
    "too-large": (_body(x="x" * 1_100_000), 413, "payload_too_large"),
    "no-model": (_body(model=...), 400, "invalid_request"),
    "empty-model": (_body(model=""), 400, "invalid_request"),
    "null-model": (_body(model=None), 400, "invalid_request"),
    "number-model": (_body(model=7), 400, "invalid_request"),
    "long-model": (_body(model="m" * 5000), 400, "invalid_request"),
    "unknown-model": (_body(model="nobody"), 404, "model_not_found"),
    "model-with-newline": (_body(model="x\r\nset-cookie: a=b\r\n"), 404, "model_not_found"),
    "model-with-nul": (_body(model="untouched\0"), 404, "model_not_found"),
    "no-messages": (_body(messages=...), 400, "invalid_request"),
    "empty-messages": (_body(messages=[]), 400, "invalid_request"),
    "messages-as-text": (_body(messages="hello"), 400, "invalid_request"),
    "message-as-text": (_body(messages=["hello"]), 400, "invalid_request"),
    "stream-as-text": (_body(stream="yes"), 400, "invalid_request"),
    "stream-options-as-text": (_body(stream=True, stream_options="all"), 400, "invalid_request"),
    "max-tokens-as-text": (_body(max_tokens="many"), 400, "invalid_request"),
    "max-tokens-negative": (_body(max_tokens=-1), 400, "invalid_request"),
    "max-tokens-endless": (_body(max_tokens=10**30), 400, "invalid_request"),
    "n-zero": (_body(n=0), 400, "invalid_request"),
}
_BAD_BODIES = {
    name: case if isinstance(case, tuple) else (case, 400, "invalid_json")
    for name, case in _BAD_BODIES.items()
}
_BAD_ROUTES = {
    "unknown-route": ("POST", "/v1/chat/completion", 404, "not_found"),
    "trailing-slash": ("POST", "/v1/chat/completions/", 404, "not_found"),
    "dots": ("POST", "/v1/chat/../../etc/passwd", 404, "not_found"),
    "get": ("GET", _CHAT, 405, "method_not_allowed"),
    "delete": ("DELETE", _CHAT, 405, "method_not_allowed"),
    "post-models": ("POST", "/v1/models", 405, "method_not_allowed"),
    "unknown-order": ("POST", "/ops/models/untouched.quiet/explode", 404, "not_found"),
    "order-for-nobody": ("POST", "/ops/models/nobody/deactivate", 404, "model_not_found"),
}
_BAD_HEADERS = {
    "deadline-as-text": ({"x-modelmesh-deadline": "soon"}, 400),
    "deadline-zero": ({"x-modelmesh-deadline": "0"}, 400),
    "deadline-negative": ({"x-modelmesh-deadline": "-1"}, 400),
    "deadline-nan": ({"x-modelmesh-deadline": "nan"}, 400),
}


@pytest.fixture(params=["nginx", "direct"])
async def web(request: pytest.FixtureRequest, cluster: Cluster):
    """A client of nginx, or of a node itself; afterwards no provider may have been asked."""
    base_url = cluster.base_url if request.param == "nginx" else cluster.nodes[0].base_url
    async with httpx.AsyncClient(verify=False, base_url=base_url) as client:
        yield client
    assert cluster.seen("untouched.quiet") == []
    assert await cluster.books_of("untouched") == {"admitted": 0, "settled": 0, "abandoned": 0}


def _assert_refused(response: httpx.Response, status: int, code: str) -> None:
    error = response.json()["error"]

    assert (response.status_code, error["code"]) == (status, code)
    assert error["type"] == "invalid_request_error"
    assert error["message"]
    assert "param" in error
    assert error["request_id"] == response.headers["x-request-id"]
    assert "set-cookie" not in response.headers


@pytest.mark.parametrize(("body", "status", "code"), _BAD_BODIES.values(), ids=_BAD_BODIES)
async def test_a_bad_body_is_refused(web: httpx.AsyncClient, body: bytes, status: int, code: str):
    """Whatever is wrong with the body is the caller's mistake, and is called by its name."""
    response = await web.post(_CHAT, content=body, headers={"content-type": "application/json"})

    _assert_refused(response, status, code)


@pytest.mark.parametrize(("method", "path", "status", "code"), _BAD_ROUTES.values(), ids=_BAD_ROUTES)
async def test_a_bad_route_is_refused(web: httpx.AsyncClient, method: str, path: str, status: int, code: str):
    """Unknown routes and wrong methods are answered in the shape of the API, the right methods named."""
    response = await web.request(method, path)

    _assert_refused(response, status, code)
    assert ("allow" in response.headers) == (status == 405)


@pytest.mark.parametrize(("headers", "status"), _BAD_HEADERS.values(), ids=_BAD_HEADERS)
async def test_a_bad_header_is_refused(web: httpx.AsyncClient, headers: dict[str, str], status: int):
    """A deadline that is none is not guessed at."""
    response = await web.post(_CHAT, content=_body(), headers=headers)

    _assert_refused(response, status, "invalid_request")


async def test_a_page_of_another_site_may_do_nothing(web: httpx.AsyncClient):
    """Where no token is required it spends no money, gives no order, and has no name of its own for this server."""
    page, name = {"origin": "https://evil.example"}, {"host": "evil.example"}
    for method, path, headers, code in (
        ("POST", _CHAT, page, "origin_not_allowed"),
        ("POST", "/ops/models/untouched.quiet/deactivate", page, "origin_not_allowed"),
        ("GET", "/ops/status", name, "host_not_allowed"),
        ("GET", "/ui", name, "host_not_allowed"),
    ):
        response = await web.request(method, path, content=_body(), headers=headers)

        assert (response.status_code, response.json()["error"]["code"]) == (403, code)
    for path in ("/ops/status", "/ui"):
        assert (await web.get(path, headers={"host": "localhost"})).status_code == 200


@pytest.mark.parametrize("given", ["a b", "a" * 200, "id;set-cookie", "<script>"])
async def test_a_request_id_that_is_not_sane_is_replaced(web: httpx.AsyncClient, given: str):
    """An id goes into logs and headers, so only a harmless one is kept."""
    response = await web.post(_CHAT, content=b"{}", headers={"x-request-id": given})

    _assert_refused(response, 400, "invalid_request")
    assert response.headers["x-request-id"] not in (given, "")


@pytest.mark.parametrize(
    "head",
    [
        b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"content-length: 2\r\ncontent-length: 3\r\n\r\n{}",
        b"content-length: -2\r\n\r\n{}",
        b"transfer-encoding: chunked\r\n\r\nxyz\r\n",
        b"bad header: 1\r\ncontent-length: 2\r\n\r\n{}",
        b"x: " + b"y" * 100_000 + b"\r\ncontent-length: 2\r\n\r\n{}",
    ],
    ids=["two-framings", "two-lengths", "negative-length", "bad-chunk", "bad-name", "endless-head"],
)
async def test_a_malformed_request_is_refused(web: httpx.AsyncClient, head: bytes):
    """A head that could mean two things ends the connection with a 4xx."""
    answer = await _exchange(web, b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n" + head)

    assert answer.startswith(b"HTTP/1.1 4")


async def test_a_body_that_is_announced_too_large_is_not_waited_for(web: httpx.AsyncClient):
    """The length alone is enough to refuse."""
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\n\r\n"
    answer = await _exchange(web, head)

    assert answer.startswith(b"HTTP/1.1 413")
    assert b'"code":"payload_too_large"' in answer


async def test_a_client_that_leaves_before_its_request_is_complete_leaves_no_trace(web: httpx.AsyncClient):
    """At whatever byte a client hangs up, nothing is asked and nothing stays in flight."""
    body = _body()
    whole = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (
        len(body),
        body,
    )
    for size in range(0, len(whole), 7):
        _, writer = await asyncio.open_connection(web.base_url.host, web.base_url.port)
        writer.write(whole[:size])
        writer.close()
        await writer.wait_closed()
    response = await web.get("/health")

    assert response.status_code == 200


async def _exchange(web: httpx.AsyncClient, request: bytes) -> bytes:
    """The first bytes that come back for raw bytes."""
    reader, writer = await asyncio.open_connection(web.base_url.host, web.base_url.port)
    try:
        writer.write(request)
        async with asyncio.timeout(30):
            answer = await reader.read(65536)
            if b"\r\n\r\n" in answer and b"content-length: 0" not in answer.lower():
                while b"}" not in answer and (more := await reader.read(65536)):
                    answer += more
            return answer
    finally:
        writer.close()


async def test_a_client_that_leaves_at_any_time_blames_nobody(cluster: Cluster):
    """Hanging up in the middle of an answer, again and again, leaves the record clean and the books balanced."""
    body = json.dumps({"model": "left", "messages": _HELLO, "stream": True}).encode()
    whole = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (
        len(body),
        body,
    )
    cluster.order("left.alpha", "slow-head=20ms,slow-token=5ms,tokens=40")

    async def leave_after(delay_s: float) -> None:
        _, writer = await asyncio.open_connection("127.0.0.1", cluster.nodes[0].port)
        writer.write(whole)
        await writer.drain()
        await asyncio.sleep(delay_s)
        writer.transport.abort()

    await asyncio.gather(*(leave_after(number * 0.004) for number in range(50)))
    await wait_until(lambda: all(entry["t_end"] for entry in cluster.seen("left.alpha")))
    books = await cluster.books_of("left")
    row = await cluster.model("left.alpha")

    assert books["admitted"] == books["settled"]
    assert (row["status"], row["fails"], row["failed"]) == ("active", 0, 0)
