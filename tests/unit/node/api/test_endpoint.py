"""The completion routes from the caller's bytes to the answer, with every error in its shape and one log line a request."""

from __future__ import annotations

import asyncio
import gc
from typing import Any

import orjson
import pytest
from structlog.testing import capture_logs

from node.call import Call
from node.routing.journey import Journey
from tests.unit.node.api.asgi import MESSAGES, Front, ask, post
from tests.unit.node.house import House, mesh
from tests.unit.node.scripted import (
    DONE,
    FAILED,
    ROLE,
    Answer,
    ScriptedTransport,
    Step,
    chunk,
    for_ever,
    pause,
    refused,
    stream,
    whole,
)
from tests.unit.node.virtual_time import in_virtual_time

GOOD = {"model": "chat", "messages": MESSAGES}
CHAT = "/v1/chat/completions"


def front(*steps: Step, **options: Any) -> Front:
    """A node with one provider that answers so."""
    place = House(
        mesh("alpha.m", pool={"retry": {"max_attempts": 1}}), ScriptedTransport(alpha=list(steps) or whole())
    )
    return Front(place=place, **options)


# -- good requests


async def test_a_call_is_answered() -> None:
    """The provider's body, our headers, one line in the log."""
    node = front()
    heard = await post(node.app)

    assert heard.status == 200
    assert heard.json["choices"][0]["message"]["content"] == "hello"
    assert heard.header(b"x-modelmesh-model") == b"alpha.m"
    assert heard.header(b"x-modelmesh-attempts") == b"1"
    (line,) = node.lines
    assert {
        name: line[name] for name in ("status", "outcome", "asked", "model", "pool", "provider", "attempts")
    } == {
        "status": 200,
        "outcome": "ok",
        "asked": "chat",
        "model": "alpha.m",
        "pool": "chat",
        "provider": "alpha",
        "attempts": 1,
    }
    assert (line["tokens_in"], line["tokens_out"]) == (7, 3)
    assert line["request_id"].encode() == heard.header(b"x-request-id")


async def test_a_stream_is_answered() -> None:
    """Events as they came, to the end marker."""
    heard = await post(front(stream(ROLE, chunk("one"), DONE)).app, {**GOOD, "stream": True})

    assert heard.status == 200
    assert heard.body == ROLE + chunk("one") + DONE
    assert heard.is_complete


async def test_a_body_in_pieces_is_one_body() -> None:
    """Slow callers send it so."""
    body = orjson.dumps(GOOD)
    heard = await ask(front().app, "POST", CHAT, body[:5], body[5:], b"")

    assert heard.status == 200


# -- bad requests


def bad(**fields: Any) -> bytes:
    return orjson.dumps({**GOOD, **fields})


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        (b"", 400, "invalid_json", None),
        (b"{", 400, "invalid_json", None),
        (b"[]", 400, "invalid_json", None),
        (b'{"a":' * 2000, 400, "invalid_json", None),
        (b"x" * 100_001, 413, "payload_too_large", None),
        (b"{}", 400, "invalid_request", "model"),
        (bad(model=None), 400, "invalid_request", "model"),
        (bad(model=""), 400, "invalid_request", "model"),
        (bad(model=7), 400, "invalid_request", "model"),
        (bad(model=["chat"]), 400, "invalid_request", "model"),
        (bad(model="x" * 257), 400, "invalid_request", "model"),
        (bad(model="nobody"), 404, "model_not_found", "model"),
        (bad(model="chat\r\nx-evil: 1"), 404, "model_not_found", "model"),
        (bad(messages=None), 400, "invalid_request", "messages"),
        (bad(messages=[]), 400, "invalid_request", "messages"),
        (bad(messages="hi"), 400, "invalid_request", "messages"),
        (bad(messages=["hi"]), 400, "invalid_request", "messages"),
        (bad(messages=[{"content": "hi"}]), 400, "invalid_request", "messages"),
        (bad(messages=[{"role": 7}]), 400, "invalid_request", "messages"),
        (bad(stream="yes"), 400, "invalid_request", "stream"),
        (bad(stream=0), 400, "invalid_request", "stream"),
        (bad(stream=1), 400, "invalid_request", "stream"),
        (bad(stream=1.0), 400, "invalid_request", "stream"),
        (bad(stream_options=[]), 400, "invalid_request", "stream_options"),
        (bad(stream_options="x"), 400, "invalid_request", "stream_options"),
        (bad(max_tokens=0), 400, "invalid_request", "max_tokens"),
        (bad(max_tokens=-1), 400, "invalid_request", "max_tokens"),
        (bad(max_tokens=1.5), 400, "invalid_request", "max_tokens"),
        (bad(max_tokens="9"), 400, "invalid_request", "max_tokens"),
        (bad(max_tokens=True), 400, "invalid_request", "max_tokens"),
        (bad(max_completion_tokens=1 << 31), 400, "invalid_request", "max_completion_tokens"),
        (bad(n=0), 400, "invalid_request", "n"),
        (b'{"model":"chat","messages":[{"role":"u"}],"n":1e999}', 400, "invalid_json", None),
    ],
)
async def test_a_bad_request_is_told_what_is_wrong(
    body: bytes, status: int, code: str, param: str | None
) -> None:
    """In the API's shape, without asking anybody."""
    node = front()
    heard = await ask(node.app, "POST", CHAT, body)

    assert heard.status == status
    assert heard.error["type"] == "invalid_request_error"
    assert (heard.error["code"], heard.error["param"]) == (code, param)
    assert heard.error["request_id"].encode() == heard.header(b"x-request-id")
    assert node.place.transport.requests == []
    assert node.place.ledger.asks == []
    (line,) = node.lines
    assert (line["status"], line["outcome"]) == (status, code)


@pytest.mark.parametrize("given", [None, "", [], 7, {"a": 1}])
async def test_embeddings_need_an_input(given: object) -> None:
    """Text or a list."""
    heard = await post(front().app, {"model": "chat", "input": given}, path="/v1/embeddings")

    assert heard.status == 400
    assert heard.error["param"] == "input"


async def test_absurd_but_legal_numbers_are_carried() -> None:
    """The product of two bounds fits into no window; it must break nothing on its way there."""
    node, absurd = front(), 2**31 - 1
    heard = await post(node.app, {**GOOD, "max_tokens": absurd, "n": absurd})

    assert heard.status == 200
    assert node.place.ledger.asks[0].tokens_out == 2**31 - 1


# -- headers in


@pytest.mark.parametrize(
    ("given", "is_kept"),
    [
        (b"abc-123_x.y", True),
        (b"a" * 128, True),
        (b"a" * 129, False),
        (b"", False),
        (b"a b", False),
        (b"a\r\nset-cookie: x", False),
        (b"a\x00", False),
        (b"\xff", False),
        ("é".encode(), False),
        (b"a\n", False),
    ],
)
async def test_a_sane_request_id_is_kept_and_no_other(given: bytes, is_kept: bool) -> None:
    """On good answers and bad ones; it also goes to the provider and into the log."""
    node = front()
    for body in (GOOD, {}):
        heard = await post(node.app, body, headers=[(b"x-request-id", given)])
        found = heard.header(b"x-request-id")
        assert (found == given) is is_kept
        assert found is not None
        assert found.isascii()
        assert len(found) <= 128

    sent = node.place.transport.requests[0].headers["x-request-id"]
    assert sent == node.lines[0]["request_id"]


async def test_made_request_ids_differ() -> None:
    """Each request is one of its own."""
    node = front()

    assert len({(await post(node.app)).header(b"x-request-id") for _ in range(5)}) == 5


@pytest.mark.parametrize(
    "body",
    [
        {**GOOD, "model": "a\r\nx-evil: 1"},
        {**GOOD, "model": "chat\x00"},
        {**GOOD, "model": "\u2028\u00e9"},
        {**GOOD, "model": "x" * 256},
    ],
)
async def test_nothing_a_caller_says_gets_into_a_header(body: dict[str, Any]) -> None:
    """Names and values of all headers are printable and on one line."""
    node = front()
    headers = [(b"x-modelmesh-provider", b"a\r\nx-evil: 1"), (b"x-request-id", b"r\r\nx-evil: 1")]
    heard = await post(node.app, body, headers=headers)

    for name, value in heard.headers:
        assert b"evil" not in name + value
        assert all(32 <= byte < 127 for byte in name + value)


@pytest.mark.parametrize(
    ("given", "status"),
    [
        (b"30", 200),
        (b"2.5", 200),
        (b"500ms", 200),
        (b"5m", 200),
        (b"0", 400),
        (b"0s", 400),
        (b"-1", 400),
        (b"soon", 400),
        (b"", 400),
        (b"nan", 400),
        (b"1e3", 400),
        (b"\xb2", 400),
        (b"9" * 400, 200),
    ],
)
async def test_a_deadline_is_a_duration(given: bytes, status: int) -> None:
    """Seconds or a duration, greater than zero."""
    heard = await post(front().app, headers=[(b"x-modelmesh-deadline", given)])

    assert heard.status == status


@in_virtual_time
async def test_the_deadline_of_the_caller_ends_the_call() -> None:
    """504, and no SDK is told to try again."""
    heard = await post(front(Answer(wait=for_ever)).app, headers=[(b"x-modelmesh-deadline", b"1500ms")])

    assert heard.status == 504
    assert heard.error["code"] == "deadline_exceeded"
    assert heard.header(b"x-should-retry") == b"false"


async def test_a_preferred_provider_is_asked_first() -> None:
    """The header names it."""
    place = House(mesh("alpha.m", "beta.m"), ScriptedTransport(alpha=whole(), beta=whole()))
    heard = await post(Front(place=place).app, headers=[(b"x-modelmesh-provider", b"beta")])

    assert heard.header(b"x-modelmesh-provider") == b"beta"


async def test_the_door_is_before_the_body() -> None:
    """Without a token not a byte is read."""
    node = front(tokens=["t"])
    heard = await ask(node.app, "POST", CHAT, b"x" * 200_000)

    assert heard.status == 401
    assert heard.error["type"] == "authentication_error"
    assert heard.error["code"] == "invalid_api_key"
    allowed = await post(node.app, headers=[(b"authorization", b"Bearer t")])
    assert allowed.status == 200


# -- failures


@pytest.mark.parametrize(
    ("step", "status", "code"),
    [
        (refused(500), 502, "all_providers_exhausted"),
        (refused(401), 502, "all_providers_exhausted"),
        (refused(429, headers={"retry-after": "7"}), 429, "rate_limit_exceeded"),
        (refused(400, code="bad_value"), 400, "bad_value"),
        (stream(FAILED), 502, "all_providers_exhausted"),
        (stream(), 502, "all_providers_exhausted"),
    ],
)
@pytest.mark.parametrize("is_stream", [False, True], ids=["whole", "stream"])
async def test_a_failure_before_content_has_a_true_status(
    step: Answer, status: int, code: str, is_stream: bool
) -> None:
    """Also for a caller who wanted a stream."""
    node = front(step)
    heard = await post(node.app, {**GOOD, "stream": is_stream})

    assert heard.status == status
    assert heard.error["code"] == code
    assert heard.is_complete
    assert heard.header(b"content-type") == b"application/json"
    (line,) = node.lines
    assert line["status"] == status


@pytest.mark.parametrize("step", [refused(500), refused(400), stream(FAILED)], ids=["500", "400", "event"])
async def test_a_failed_request_leaves_nothing_to_the_collector(step: Answer) -> None:
    """An error leads to its traceback, and that to the request: in an outage every prompt would stay in memory for minutes."""
    node = front(step)
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        await post(node.app, {**GOOD, "stream": True})
        node.place.transport.requests.clear()
        gc.collect()
        left = [one for one in gc.garbage if isinstance(one, Call | Journey)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()

    assert not left


async def test_a_failure_after_content_is_the_last_event() -> None:
    """One error event, and no end marker."""
    node = front(stream(ROLE, chunk("one"), FAILED))
    heard = await post(node.app, {**GOOD, "stream": True})

    assert heard.status == 200
    assert heard.body.startswith(ROLE + chunk("one"))
    assert heard.body.count(b'"error"') == 1
    assert b"[DONE]" not in heard.body
    assert heard.is_complete
    assert node.lines[0]["outcome"] == "provider_unavailable"


@in_virtual_time
async def test_a_failure_after_our_head_is_the_last_event() -> None:
    """The head was sent to keep the caller; the error comes in the stream, once."""
    heard = await post(front(stream(ROLE, pause(10), FAILED)).app, {**GOOD, "stream": True})

    assert heard.status == 200
    assert heard.body.startswith(b": waiting\n\n")
    assert heard.body.count(b'"error"') == 1
    assert heard.is_complete


@pytest.mark.parametrize(
    "answer", [Answer(wait=for_ever), stream(ROLE, for_ever), stream(chunk("x"), for_ever)]
)
@in_virtual_time
async def test_a_caller_who_leaves_is_not_answered(answer: Answer) -> None:
    """The work ends, and the log says so."""
    node = front(answer)
    leaves = asyncio.Event()
    asyncio.get_running_loop().call_later(1, leaves.set)
    heard = await post(node.app, {**GOOD, "stream": True}, leaves=leaves)

    assert not heard.is_complete
    assert b"error" not in heard.body
    (line,) = node.lines
    assert (line["status"], line["outcome"]) == (499, "client_disconnected")
    assert node.place.ledger.open == set()


async def test_a_caller_who_leaves_while_sending_is_not_answered() -> None:
    """Half a request is none."""
    node = front()

    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def send(message: object) -> None:
        raise AssertionError(f"answered: {message}")

    scope = {"type": "http", "method": "POST", "path": CHAT, "headers": []}
    await node.app(scope, receive, send)

    assert node.lines[0]["status"] == 499


async def test_a_fault_of_ours_is_an_answer_without_its_words() -> None:
    """500; the traceback is for the log alone, under the same id."""
    node = front(stream(RuntimeError("secret detail")))
    with capture_logs() as logs:
        heard = await post(node.app, {**GOOD, "stream": True})

    assert heard.status == 500
    assert heard.error["code"] == "internal_error"
    assert b"secret" not in heard.body
    assert [entry["event"] for entry in logs] == ["request failed"]
    assert logs[0]["request_id"] == heard.error["request_id"]
    assert node.lines[0]["outcome"] == "internal_error"


@in_virtual_time
async def test_no_task_outlives_its_request() -> None:
    """The watcher ends with the answer."""
    await post(front().app)
    await asyncio.sleep(0)

    assert asyncio.all_tasks() == {asyncio.current_task()}


# -- what a request weighs


async def test_a_request_is_weighed_at_the_door() -> None:
    """An image is reserved as an image, however large its file."""
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 90_000}}
    messages = [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, picture]}]
    node = front()
    await post(node.app, {**GOOD, "messages": messages})
    await post(node.app, {**GOOD, "messages": [{"role": "user", "content": "7 8 9 " * 1000}]})
    image, digits = (asked.tokens_in for asked in node.place.ledger.asks)

    assert 2000 < image < 2100
    assert 4500 < digits < 4600


async def test_a_session_is_passed_on_to_the_strategy() -> None:
    """Its name is the caller's; only its length is bounded."""
    place = House(
        mesh("alpha.m", "beta.m", pool={"strategy": "session-stickiness"}),
        ScriptedTransport(alpha=whole(), beta=whole()),
    )
    heard = await post(Front(place=place).app, headers=[(b"x-modelmesh-session", b" talk 7 ")])
    refused = await post(Front(place=place).app, headers=[(b"x-modelmesh-session", b"x" * 257)])

    assert list(place.sessions.held) == [("chat", "talk 7")]
    assert heard.status == 200
    assert (refused.status, "x-modelmesh-session" in refused.error["message"]) == (400, True)
