"""One provider account: what is sent, what comes back, and every failure in our own terms."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import httpx
import orjson
import pytest

from node.api.surfaces import EMBEDDINGS, MESSAGES
from node.call import Call
from node.providers import connector as module
from node.providers.connector import Connector, translate, unary_fields
from shared_state.errors import (
    ProviderError,
    ProviderProtocolError,
    ProviderTimeoutError,
    ProviderUnavailableError,
    RateLimitError,
    RejectedRequestError,
)
from shared_state.topology import ModelSpec
from tests.unit.node.house import chat, mesh
from tests.unit.node.scripted import HTML_PAGE, Answer, ScriptedTransport, for_ever, refused, whole
from tests.unit.node.virtual_time import in_virtual_time


def connect(*steps: Any, **provider: Any) -> tuple[Connector, ModelSpec, ScriptedTransport]:
    """A connector of the provider ``alpha`` whose answers are scripted, and its only model."""
    topology = mesh("alpha.small", provider=provider, model={"upstream": "small-1"})
    transport = ScriptedTransport(alpha=list(steps) or whole())
    return Connector(topology.providers["alpha"], transport), topology.models["alpha.small"], transport


async def send(connector: Connector, model: ModelSpec, call: Call | None = None) -> bytes:
    """A call to its end."""
    response = await connector.send(connector.request(call or chat(), model))
    return await connector.read(response)


def body_of(request: httpx.Request) -> dict[str, Any]:
    fields: dict[str, Any] = orjson.loads(request.content)
    return fields


async def test_the_callers_fields_go_out_as_they_came() -> None:
    """Only the model's name changes; what we do not know is passed on."""
    connector, model, _ = connect()
    call = chat(temperature=0.5, x_unknown={"deep": [1, None]}, stream=False, user="ü")

    request = connector.request(call, model)

    assert str(request.url) == "http://alpha/v1/chat/completions"
    assert request.method == "POST"
    assert body_of(request) == {**call.fields, "model": "small-1"}
    assert call.fields["model"] == "chat"


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        (None, {"include_usage": True}),
        ({}, {"include_usage": True}),
        ({"include_usage": False, "x": 1}, {"include_usage": True, "x": 1}),
        ({"include_usage": True}, {"include_usage": True}),
        ({"include_obfuscation": False}, {"include_obfuscation": False, "include_usage": True}),
    ],
)
async def test_a_stream_always_asks_for_usage(given: object, sent: object) -> None:
    """Other stream options stay, and the caller's own fields are not touched."""
    connector, model, _ = connect()
    options: dict[str, Any] = {} if given is None else {"stream_options": given}
    call = chat(stream=True, **options)
    before = orjson.dumps(call.fields)

    assert body_of(connector.request(call, model))["stream_options"] == sent
    assert orjson.dumps(call.fields) == before


async def test_a_whole_answer_gets_no_stream_options() -> None:
    """Providers refuse stream_options without stream."""
    connector, model, _ = connect()

    assert "stream_options" not in body_of(connector.request(chat(), model))


async def test_an_api_without_streams_is_asked_as_it_came() -> None:
    """A stray ``stream`` in an embeddings body changes nothing."""
    connector, model, _ = connect()
    request = connector.request(chat(surface=EMBEDDINGS, input="x", stream=True), model)

    assert str(request.url) == "http://alpha/v1/embeddings"
    assert "stream_options" not in body_of(request)
    assert request.headers["accept"] == "application/json"


async def test_the_secret_travels_in_authorization_alone() -> None:
    """No other header, no URL, no body holds the key."""
    connector, model, _ = connect()
    request = connector.request(chat(stream=True), model)

    assert request.headers["authorization"] == "Bearer sk-secret"
    holders = [name for name, value in request.headers.items() if "sk-secret" in value]
    assert holders == ["authorization"]
    assert "sk-secret" not in str(request.url)
    assert b"sk-secret" not in request.content


async def test_headers_are_complete_and_single() -> None:
    """The transport adds nothing, so host, length and formats are here, each once."""
    connector, model, _ = connect(
        base_url="http://alpha:9001/v1", organization="org-1", headers={"X-Team": "a"}
    )
    request = connector.request(chat(stream=True), model)

    assert request.headers["host"] == "alpha:9001"
    assert request.headers["content-length"] == str(len(request.content))
    assert request.headers["content-type"] == "application/json"
    assert request.headers["accept"] == "text/event-stream"
    assert request.headers["accept-encoding"] == "identity"
    assert request.headers["openai-organization"] == "org-1"
    assert request.headers["x-team"] == "a"
    assert request.headers["x-request-id"] == "req-1"
    names = [name.lower() for name, _ in request.headers.raw]
    assert len(names) == len(set(names))


async def test_an_account_without_a_key_sends_none() -> None:
    """A local server needs no authorization."""
    connector, model, _ = connect(api_key=None)

    assert "authorization" not in connector.request(chat(), model).headers


async def test_a_success_is_read_whole_and_closed() -> None:
    """Pieces are joined."""
    connector, model, transport = connect(Answer(b'{"a":', b"1", b"}"))

    assert await send(connector, model) == b'{"a":1}'
    assert transport.answers[0].body.closed == 1


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (refused(400), RejectedRequestError),
        (refused(429, headers={"retry-after": "2"}), RateLimitError),
        (refused(500), ProviderUnavailableError),
        (Answer(HTML_PAGE, status=502), ProviderUnavailableError),
        (Answer(b"", status=204), ProviderProtocolError),
        (Answer(b"{}", status=201), ProviderProtocolError),
        (Answer(b"", status=302, headers={"location": "http://beta/"}), ProviderProtocolError),
    ],
)
async def test_an_answer_that_is_no_success_is_classified_and_closed(
    answer: Answer, kind: type[ProviderError]
) -> None:
    """Redirects are not followed: they would carry the key elsewhere."""
    connector, model, transport = connect(answer)

    with pytest.raises(kind):
        await send(connector, model)
    assert transport.answers[0].body.closed == 1
    assert len(transport.requests) == 1


@pytest.mark.parametrize(
    "broken", [httpx.ReadError("reset"), httpx.RemoteProtocolError("cut"), OSError("reset")]
)
async def test_an_error_answer_that_breaks_off_keeps_its_status(broken: Exception) -> None:
    """The status alone tells enough."""
    answer = Answer(b'{"error": {"mess', broken, status=429)
    connector, model, transport = connect(answer)

    with pytest.raises(RateLimitError):
        await send(connector, model)
    assert transport.answers[0].body.closed == 1


@in_virtual_time
async def test_an_error_answer_that_never_ends_is_cut_after_the_idle_time() -> None:
    """An error is worth little patience."""
    answer = Answer(b"{", for_ever, status=500)
    connector, model, transport = connect(answer, timeouts={"idle": "20s"})
    loop = asyncio.get_running_loop()
    began = loop.time()

    with pytest.raises(ProviderUnavailableError):
        await send(connector, model)
    assert loop.time() - began == 20.0
    assert transport.answers[0].body.closed == 1


async def test_an_endless_error_page_is_not_read_to_its_end() -> None:
    """64 KiB of it is plenty."""
    given: list[int] = []

    async def note() -> None:
        given.append(1)

    answer = Answer(*[b"x" * 1024, note] * 1000, status=500)
    connector, model, transport = connect(answer)

    with pytest.raises(ProviderUnavailableError):
        await send(connector, model)
    assert len(given) <= 65
    assert transport.answers[0].body.closed == 1


@pytest.mark.parametrize(
    "broken", [httpx.ReadError("reset"), httpx.RemoteProtocolError("cut"), OSError("reset")]
)
async def test_an_answer_that_breaks_off_is_an_error_and_closed(broken: Exception) -> None:
    """Half an answer is none, and it was sent."""
    answer = Answer(b'{"choices": ', broken)
    connector, model, transport = connect(answer)

    with pytest.raises(ProviderError) as caught:
        await send(connector, model)
    assert caught.value.sent
    assert caught.value.__cause__ is broken
    assert transport.answers[0].body.closed == 1


async def test_an_answer_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """No provider can fill a node's memory."""
    monkeypatch.setattr(module, "MAX_ANSWER_BYTES", 1000)
    answer = Answer(b"x" * 600, b"x" * 600, for_ever)
    connector, model, transport = connect(answer)

    with pytest.raises(ProviderProtocolError, match="1000 bytes"):
        await send(connector, model)
    assert transport.answers[0].body.closed == 1


@in_virtual_time
async def test_reading_that_is_cancelled_closes_the_answer() -> None:
    """A connection is never left behind, for an answer or for an error."""
    for status in (200, 500):
        answer = Answer(b"x", for_ever, status=status)
        connector, model, transport = connect(answer)
        task = asyncio.create_task(send(connector, model))
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.wait([task])

        assert task.cancelled()
        assert transport.answers[0].body.closed == 1


#: The classes of httpx that a transport may raise, with what each must become.
EXPECTED: dict[type[Exception], tuple[type[ProviderError], bool]] = {
    httpx.ConnectError: (ProviderUnavailableError, False),
    httpx.ConnectTimeout: (ProviderUnavailableError, False),
    httpx.PoolTimeout: (ProviderUnavailableError, False),
    httpx.UnsupportedProtocol: (ProviderUnavailableError, False),
    httpx.ReadTimeout: (ProviderTimeoutError, True),
    httpx.WriteTimeout: (ProviderTimeoutError, True),
    httpx.TimeoutException: (ProviderTimeoutError, True),
    httpx.RemoteProtocolError: (ProviderProtocolError, True),
    httpx.LocalProtocolError: (ProviderUnavailableError, True),
    httpx.ProtocolError: (ProviderUnavailableError, True),
    httpx.ReadError: (ProviderUnavailableError, True),
    httpx.WriteError: (ProviderUnavailableError, True),
    httpx.CloseError: (ProviderUnavailableError, True),
    httpx.NetworkError: (ProviderUnavailableError, True),
    httpx.ProxyError: (ProviderUnavailableError, True),
    httpx.DecodingError: (ProviderUnavailableError, True),
    httpx.TooManyRedirects: (ProviderUnavailableError, True),
    httpx.TransportError: (ProviderUnavailableError, True),
    httpx.RequestError: (ProviderUnavailableError, True),
    httpx.HTTPError: (ProviderUnavailableError, True),
}
#: Raised by httpx's client and response objects, which stand above a transport.
NOT_OF_A_TRANSPORT = {httpx.HTTPStatusError}


def test_every_error_of_httpx_has_a_meaning() -> None:
    """A new release cannot bring a class that nobody has thought about."""
    known = {
        found
        for found in vars(httpx).values()
        if inspect.isclass(found) and issubclass(found, httpx.HTTPError)
    }

    assert known == EXPECTED.keys() | NOT_OF_A_TRANSPORT


@pytest.mark.parametrize("kind", EXPECTED, ids=lambda kind: kind.__name__)
async def test_each_error_of_a_transport_becomes_one_of_ours(kind: type[Exception]) -> None:
    """With the truth about whether the provider may have been asked."""
    ours, sent = EXPECTED[kind]
    connector, model, _ = connect(kind("it broke"))

    with pytest.raises(ProviderError) as caught:
        await send(connector, model)
    assert type(caught.value) is ours
    assert caught.value.sent is sent
    assert caught.value.status == 0
    assert "alpha" in caught.value.message
    assert "it broke" in caught.value.message


@pytest.mark.parametrize("sent", [True, False])
def test_a_transport_that_knows_better_is_believed(sent: bool) -> None:
    """Our transport knows for each failure whether a byte went out."""
    error = httpx.WriteError("reset")
    error.request_sent = sent  # type: ignore[attr-defined]

    assert translate(error, provider="alpha").sent is sent


@pytest.mark.parametrize(
    "kind", [httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError, httpx.ReadTimeout]
)
def test_a_kept_connection_that_was_dead_is_told(kind: type[httpx.TransportError]) -> None:
    """The transport says so; without its word nobody assumes it."""
    error = kind("closed")
    assert not translate(error, provider="alpha").stale

    error.was_stale = True  # type: ignore[attr-defined]
    assert translate(error, provider="alpha").stale


def test_an_error_without_words_is_named() -> None:
    """Many timeouts have no text."""
    assert "ReadTimeout" in translate(httpx.ReadTimeout(""), provider="alpha").message


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b'"text"', b"null", b'{"a":'])
def test_an_answer_that_is_no_object_is_refused(body: bytes) -> None:
    """A 200 with something else is a fault of the provider."""
    with pytest.raises(ProviderProtocolError, match="alpha"):
        unary_fields(body, provider="alpha")


@pytest.mark.parametrize(
    ("given", "configured", "sent"),
    [
        ({}, {}, {"anthropic-version": ["2023-06-01"]}),
        (
            {b"anthropic-version": b"2026-10-21", b"anthropic-beta": b"a,b"},
            {},
            {"anthropic-version": ["2026-10-21"], "anthropic-beta": ["a,b"]},
        ),
        ({b"anthropic-version": b"2026-10-21"}, {"Anthropic-Version": "9"}, {"anthropic-version": ["9"]}),
    ],
)
async def test_messages_name_their_version_once(given: Any, configured: Any, sent: Any) -> None:
    """The configuration's, the caller's, or the first there was."""
    connector, model, _ = connect(headers=configured, messages=True)
    call = chat(surface=MESSAGES, max_tokens=1)
    call.headers = tuple(given.items())
    headers = connector.request(call, model).headers

    assert {name: headers.get_list(name) for name in sent} == sent
    assert ("anthropic-version" in connector.request(chat(), model).headers) == bool(configured)
