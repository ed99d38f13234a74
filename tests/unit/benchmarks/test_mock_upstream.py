"""The mock provider as a process: what goes over the wire, well-formed or broken as ordered."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import httpx
import openai
import pytest

from benchmarks.mock_upstream import fingerprint
from tests.support.mock import MockProvider
from tests.support.processes import wait_until

CHAT = {"model": "gpt-x", "messages": [{"role": "user", "content": "marker-1"}]}


@pytest.fixture(scope="module")
def process() -> Iterator[MockProvider]:
    with closing(MockProvider("alpha")) as mock:
        yield mock


@pytest.fixture
def mock(process: MockProvider) -> MockProvider:
    """The module's mock with clean books and no orders."""
    process.reset()
    return process


@pytest.fixture
def client(mock: MockProvider) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=mock.base_url, verify=False, trust_env=False, timeout=5.0) as opened:
        yield opened


def _chat(client: httpx.Client, order: str | None = None, **fields: Any) -> httpx.Response:
    headers = {} if order is None else {"x-mock": order}
    return client.post("/chat/completions", json=CHAT | fields, headers=headers)


def _events(response: httpx.Response) -> list[Any]:
    found = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    return [event if event == "[DONE]" else json.loads(event) for event in found]


def _content(events: list[Any]) -> str:
    deltas = [choice["delta"] for event in events if event != "[DONE]" for choice in event.get("choices", ())]
    return "".join(delta.get("content") or "" for delta in deltas)


# answers without fault


def test_answer_names_the_mock_and_echoes_the_marker(client):
    """A test can see who answered, and which request."""
    answer = _chat(client).json()

    assert answer["system_fingerprint"] == "alpha"
    assert answer["choices"][0]["message"]["content"].startswith("alpha: marker-1")


def test_usage_follows_the_published_rule(client):
    """Tokens are a quarter of the bytes, rounded up."""
    answer = _chat(client).json()
    text = answer["choices"][0]["message"]["content"]

    assert answer["usage"]["prompt_tokens"] == 2
    assert answer["usage"]["completion_tokens"] == -(-len(text) // 4)


def test_stream_and_unary_answers_are_the_same(client):
    """The chunks of a stream add up to the unary text, and usage comes when it was asked for."""
    unary = _chat(client).json()
    events = _events(_chat(client, stream=True, stream_options={"include_usage": True}))

    assert _content(events) == unary["choices"][0]["message"]["content"]
    assert events[-1] == "[DONE]"
    assert events[-2]["usage"] == unary["usage"]
    assert all(event["usage"] is None for event in events[:-2])


def test_an_answer_never_exceeds_max_tokens(client):
    """What was reserved for an answer is never overdrawn."""
    answer = _chat(client, max_tokens=3).json()

    assert answer["usage"]["completion_tokens"] == 3
    assert len(answer["choices"][0]["message"]["content"]) == 12
    assert answer["choices"][0]["finish_reason"] == "length"


def test_embeddings_are_deterministic_in_both_encodings(client):
    """The same text has the same vector, as numbers and as base64."""
    body = {"model": "e", "input": ["one", "two"], "dimensions": 4}
    numbers = client.post("/embeddings", json=body).json()
    packed = client.post("/embeddings", json=body | {"input": "two", "encoding_format": "base64"}).json()
    vector = struct.unpack("<4f", base64.b64decode(packed["data"][0]["embedding"]))

    assert numbers["data"][0]["embedding"] != numbers["data"][1]["embedding"]
    assert vector == pytest.approx(numbers["data"][1]["embedding"])
    assert numbers["usage"] == {"prompt_tokens": 2, "total_tokens": 2}


def test_the_official_client_understands_every_route(mock):
    """The openai SDK reads chat, stream, completion, embedding and model list."""
    with openai.OpenAI(base_url=mock.base_url, api_key="sk-1", max_retries=0) as sdk:
        messages = CHAT["messages"]
        chat = sdk.chat.completions.create(model="gpt-x", messages=messages)
        chunks = list(sdk.chat.completions.create(model="gpt-x", messages=messages, stream=True))
        text = sdk.completions.create(model="gpt-x", prompt="p")
        vector = sdk.embeddings.create(model="e", input="two")
        models = [model.id for model in sdk.models.list()]

    assert chat.choices[0].message.content == "".join(c.choices[0].delta.content or "" for c in chunks)
    assert text.choices[0].text.startswith("alpha: p")
    assert len(vector.data[0].embedding) == 8
    assert models == ["mock-small", "mock-large", "mock-embed"]


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"messages": []}', b'{"model": "m!nonsense"}'])
def test_a_request_without_sense_is_a_400(client, body):
    """The mock blames the caller, in the API's words."""
    response = client.post("/chat/completions", content=body)

    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"


# errors with a status


@pytest.mark.parametrize(
    ("order", "status", "kind", "code"),
    [
        ("status=500", 500, "server_error", "server_error"),
        ("401", 401, "authentication_error", "invalid_api_key"),
        ("429", 429, "rate_limit_error", "rate_limit_exceeded"),
        ("insufficient_quota", 429, "insufficient_quota", "insufficient_quota"),
        ("context_length_exceeded", 400, "invalid_request_error", "context_length_exceeded"),
    ],
)
@pytest.mark.parametrize("is_stream", [False, True])
def test_an_ordered_status_has_a_fitting_body(client, order, status, kind, code, is_stream):
    """Errors look as the vendors' do, for streams too."""
    response = _chat(client, order, stream=is_stream)

    assert response.status_code == status
    assert (response.json()["error"]["type"], response.json()["error"]["code"]) == (kind, code)


def test_an_ordered_retry_after_reaches_the_client(client):
    """Waiting times come in seconds, in milliseconds, as a date, or not at all."""
    assert _chat(client, "429,retry-after=7").headers["retry-after"] == "7"
    assert _chat(client, "429,retry-after-ms=250").headers["retry-after-ms"] == "250"
    assert _chat(client, "429,retry-after-date=30s").headers["retry-after"].endswith("GMT")
    assert "retry-after" not in _chat(client, "429,retry-after=none").headers


def test_html_errors_and_rate_headers(client):
    """A proxy's error page, and a good answer that announces little room."""
    assert _chat(client, "html502").headers["content-type"] == "text/html"
    assert _chat(client, "ratelimit-headers=3").headers["x-ratelimit-remaining-requests"] == "3"
    assert _chat(client, "ratelimit-headers=3", stream=True).headers["x-ratelimit-limit-requests"] == "60"


# a 200 that is none


def test_an_error_may_come_first_or_in_the_middle_of_a_stream(client):
    """Both streams end without [DONE]."""
    first = _events(_chat(client, "error-first", stream=True))
    middle = _events(_chat(client, "error-after=2", stream=True))

    assert [list(event) for event in first] == [["error"]]
    assert _content(middle[:-1]) == "alpha: marker-1"
    assert list(middle[-1]) == ["error"]


def test_a_stream_may_end_cleanly_without_its_end(client):
    """Without [DONE] only, or without a finish reason as well."""
    no_done = _events(_chat(client, "no-done", stream=True))
    no_finish = _events(_chat(client, "no-finish", stream=True))

    assert no_done[-1]["choices"][0]["finish_reason"] == "stop"
    assert no_finish[-1]["choices"][0]["finish_reason"] is None
    assert _content(no_done) == _content(no_finish)


@pytest.mark.parametrize("is_stream", [False, True])
def test_garbage_and_nothing_are_sent_as_200(client, is_stream):
    """Neither can be understood."""
    garbage, empty = (_chat(client, order, stream=is_stream) for order in ("garbage", "empty"))

    assert (garbage.status_code, empty.status_code) == (200, 200)
    assert empty.content == b""
    with pytest.raises(ValueError, match=r"codec|Expecting|Unterminated"):
        _events(garbage) if is_stream else garbage.json()


# the connection


@pytest.mark.parametrize("is_stream", [False, True])
def test_truncation_stops_at_exactly_that_byte(client, mock, is_stream):
    """The connection ends after the ordered number of body bytes, and the client can tell."""
    got = b""
    with (
        pytest.raises(httpx.RemoteProtocolError),
        client.stream(
            "POST", "/chat/completions", json=CHAT | {"stream": is_stream, "model": "m!truncate=100"}
        ) as r,
    ):
        for part in r.iter_bytes():
            got += part

    assert len(got) == 100
    assert not mock.ledger()[0]["completed"]


def test_a_cut_beyond_the_end_changes_nothing(client, mock):
    """An answer shorter than the cut is whole."""
    assert _events(_chat(client, "truncate=99999", stream=True))[-1] == "[DONE]"
    assert mock.ledger()[0]["completed"]


@pytest.mark.parametrize("size", [0, 1, 60, 200])
@pytest.mark.parametrize("is_stream", [False, True])
def test_reset_sends_that_many_bytes_and_then_rst(mock, size, is_stream):
    """Counted from the first byte of the head; 0 is before the head."""
    body = json.dumps(CHAT | {"stream": is_stream}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nx-mock: reset={size}\r\ncontent-length: {len(body)}\r\n\r\n"
    got = b""
    with socket.create_connection((mock.host, mock.port), timeout=5) as sock:
        sock.sendall(head.encode() + body)
        with pytest.raises(ConnectionResetError):
            while data := sock.recv(4096):
                got += data

    assert len(got) == size


def test_close_idle_hangs_up_without_a_word(mock):
    """The answer is whole and does not announce the close, yet the next request meets a closed connection."""
    connection = http.client.HTTPConnection(mock.host, mock.port, timeout=5)
    with closing(connection):
        connection.request("POST", "/v1/chat/completions", json.dumps(CHAT), {"x-mock": "close-idle"})
        response = connection.getresponse()
        response.read()

        assert response.getheader("connection") is None
        assert connection.sock.recv(1) == b""


async def test_a_stall_lasts_until_the_client_leaves(mock):
    """Two chunks come, then nothing; the ledger shows who gave up."""
    async with httpx.AsyncClient(base_url=mock.base_url, verify=False, trust_env=False) as client:
        request = client.build_request(
            "POST",
            "/chat/completions",
            json=CHAT | {"stream": True},
            headers={"x-mock": "stall-after=2"},
            extensions={"timeout": {"connect": 5, "write": 5, "pool": 5, "read": 0.2}},
        )
        got = b""
        response = await client.send(request, stream=True)
        with pytest.raises(httpx.ReadTimeout):
            async for part in response.aiter_bytes():
                got += part
        await response.aclose()

    assert b"marker-1" in got
    assert b"tok" not in got
    await wait_until(lambda: mock.counts()["in_flight"] == 0)
    entry = mock.ledger()[0]
    assert (entry["chunks"], entry["completed"], entry["client_gone"]) == (2, False, True)


def test_paces_are_kept(client):
    """The head comes late, then every chunk after its pause."""
    start = time.monotonic()
    order = {"x-mock": "slow-head=80ms,slow-token=30ms,tokens=4"}
    with client.stream("POST", "/chat/completions", json=CHAT | {"stream": True}, headers=order) as response:
        head_s = time.monotonic() - start
        marks = [time.monotonic() - start for _ in response.iter_raw()]

    assert head_s >= 0.08
    assert marks[-1] >= 0.08 + 4 * 0.03
    assert len(marks) >= 4


# orders, limits, books


def test_orders_come_by_control_route_and_by_model_name(client, mock):
    """A counted order for one model leaves other models alone, and is withdrawn with the others."""
    mock.behave("status=503", model="gpt-x", times=2, after=1)

    assert [_chat(client).status_code for _ in range(4)] == [200, 503, 503, 200]
    assert _chat(client, model="gpt-y!status=418").status_code == 418

    mock.behave("status=500")
    assert _chat(client).status_code == 500
    mock.clear()
    assert _chat(client).status_code == 200


def test_a_bad_order_is_refused(mock):
    """The control route says what it would understand."""
    for order in ({"behaviour": "slow"}, {"behaviour": "ok", "modle": "m"}, {}):
        response = httpx.post(f"{mock.root_url}/_mock/behaviour", json=order, trust_env=False)

        assert response.status_code == 400


def test_control_routes_are_immune_and_not_counted(client, mock):
    """Orders never hit the routes by which they are given."""
    mock.behave("reset=0")

    assert mock.counts()["total"] == 0
    with pytest.raises(httpx.TransportError):
        _chat(client)
    assert mock.counts()["total"] == 1


def test_the_ledger_tells_who_asked_for_what(client, mock):
    """Ids and a fingerprint of the key are kept, the key is not."""
    headers = {"x-request-id": "r-1", "authorization": "Bearer sk-secret"}
    client.post("/chat/completions", json=CHAT | {"model": "gpt-x!tokens=2"}, headers=headers)

    entry = mock.ledger()[0]
    assert (entry["n"] > 0, entry["path"], entry["model"]) == (True, "/v1/chat/completions", "gpt-x")
    assert (entry["status"], entry["behaviour"], entry["completed"]) == (200, "tokens=2", True)
    assert (entry["request_id"], entry["auth"]) == ("r-1", fingerprint(b"Bearer sk-secret"))
    assert entry["t_arrival"] <= entry["t_end"]
    assert "sk-secret" not in json.dumps([mock.ledger(), mock.last()])


def test_its_own_limit_refuses_with_an_honest_wait(mock_provider):
    """Three requests in any minute, then 429 with the time when the first one leaves the window."""
    limited = mock_provider("limited", rpm=3)
    with httpx.Client(base_url=limited.base_url, verify=False, trust_env=False) as client:
        answers = [_chat(client) for _ in range(5)]

    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    assert 55 <= int(answers[-1].headers["retry-after"]) <= 60
    assert limited.counts()["max_in_any_60s"] == {"all": 5, "answered_2xx": 3}


def test_a_request_behind_a_slow_one_waits_its_turn(mock):
    """Two requests in one packet are answered in order."""
    slow, quick = (json.dumps(CHAT | {"model": model}) for model in ("m!slow-head=50ms", "m"))
    packet = "".join(
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n{body}"
        for body in (slow, quick)
    )
    got = b""
    with socket.create_connection((mock.host, mock.port), timeout=5) as sock:
        sock.sendall(packet.encode())
        while got.count(b'"usage"') < 2:
            got += sock.recv(4096)

    assert got.index(b'"model":"m!slow-head=50ms"') < got.index(b'"model":"m"')


async def test_sigterm_ends_it_cleanly(mock_provider):
    """The process leaves with exit code 0."""
    assert await mock_provider("short-lived").process.terminate() == 0


def test_uvloop_serves_the_same(mock_provider):
    """The loop of the benchmarks answers as the other one does."""
    quick = mock_provider("quick", uvloop=True, no_ledger=True)
    with httpx.Client(base_url=quick.base_url, verify=False, trust_env=False) as client:
        assert _events(_chat(client, "slow-token=1ms", stream=True))[-1] == "[DONE]"
        with pytest.raises(httpx.TransportError):
            _chat(client, "reset=10")
    assert quick.counts()["total"] == 2
    assert quick.counts()["max_in_any_60s"] is None


@pytest.mark.parametrize("path", ["/health", "/get_server_info", "/get_model_info"])
def test_a_router_of_engines_finds_it_well(client, mock, path):
    """Health checks of peers are answered and not booked."""
    response = client.get(f"{mock.root_url}{path}")

    assert (response.status_code, mock.counts()["total"]) == (200, 0)


@pytest.mark.parametrize(
    ("path", "body", "found"),
    [
        ("/v1/search", {"model": "m", "query": "hello"}, lambda answer: answer["results"][0]["content"]),
        ("/v1/scrape", {"model": "m", "url": "hello"}, lambda answer: answer["content"]),
        ("/tavily/search", {"query": "hello"}, lambda answer: answer["results"][0]["content"]),
        ("/tavily/extract", {"urls": ["hello"]}, lambda answer: answer["results"][0]["raw_content"]),
        ("/serper/search", {"q": "hello"}, lambda answer: answer["organic"][0]["snippet"]),
    ],
)
def test_the_web_is_searched_and_read_in_several_words(
    client: httpx.Client, path: str, body: dict[str, Any], found: Any
) -> None:
    """Each names the mock and what was asked; a body that asks for nothing is refused."""
    address = client.base_url.copy_with(path=path)

    assert found(client.post(address, json=body).json()) == "alpha: hello"
    assert client.post(address, json={"model": "m"}).status_code == 400
