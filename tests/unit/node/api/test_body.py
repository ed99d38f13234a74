"""Reading a request's body: within bounds, and never at the price of the other requests."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message, Receive

from node.api.body import MAX_DEPTH, header, parse_object, read_body
from shared_state.errors import ClientDisconnectedError, PayloadTooLargeError, RequestError

LIMIT = 1000


def receiving(*messages: Message | bytes) -> Receive:
    """Pieces of a body; the last one ends it unless a message follows."""
    rest: Iterator[tuple[int, Message | bytes]] = iter(enumerate(messages, 1))

    async def receive() -> Message:
        number, message = next(rest)
        if isinstance(message, bytes):
            return {"type": "http.request", "body": message, "more_body": number < len(messages)}
        return message

    return receive


async def read(*messages: Message | bytes, length: bytes | None = None) -> bytes:
    headers = [] if length is None else [(b"content-length", length)]
    return await read_body({"headers": headers}, receiving(*messages), limit_bytes=LIMIT)


@pytest.mark.parametrize(
    "pieces",
    [[b"abc"], [b"a", b"b", b"c"], [b"", b"abc", b""], [b"abc", b""]],
    ids=["1", "3", "empty", "end"],
)
async def test_a_body_is_read_whole(pieces: list[bytes]) -> None:
    """However it is cut."""
    assert await read(*pieces) == b"abc"


@pytest.mark.parametrize(
    ("pieces", "length"),
    [
        ([b"x" * 1001], None),
        ([b"x" * 600, b"x" * 600], None),
        ([b"x"] * 1001, None),
        ([], b"1001"),
        ([], b"99999999999999999999"),
    ],
    ids=["one", "two", "drip", "announced", "absurd"],
)
async def test_a_body_that_is_too_large_is_refused(pieces: list[bytes], length: bytes | None) -> None:
    """As soon as it is known: an announced one before a byte of it is read."""
    with pytest.raises(PayloadTooLargeError):
        await read(*pieces, length=length)


@pytest.mark.parametrize("size", [0, 999, 1000])
async def test_a_body_up_to_the_limit_is_read(size: int) -> None:
    """The limit itself is allowed; a length that is no number is left to the server."""
    for length in (b"%d" % size, b"+7", b"x", b"-1", None):
        assert len(await read(b"x" * size, length=length)) == size


@pytest.mark.parametrize("pieces", [[], [b"half"]], ids=["at once", "in the middle"])
async def test_a_caller_who_leaves_meanwhile_is_noticed(pieces: list[bytes]) -> None:
    """Nothing of what was sent counts."""
    with pytest.raises(ClientDisconnectedError):
        await read(*pieces, {"type": "http.disconnect"})


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "empty"),
        (b" \r\n\t", "empty"),
        (b"{", "not valid JSON"),
        (b'{"a":1}x', "not valid JSON"),
        (b"{'a': 1}", "not valid JSON"),
        (b'{"a": NaN}', "not valid JSON"),
        (b'{"a": "\\ud800"}', "not valid JSON"),
        (b'\xff\xfe{"a":1}', "not valid JSON"),
        (b'\xef\xbb\xbf{"a":1}', "not valid JSON"),
        (b'{"a": "\x00"}', "not valid JSON"),
        (b"[]", "must be a JSON object"),
        (b'"text"', "must be a JSON object"),
        (b"null", "must be a JSON object"),
        (b"7", "must be a JSON object"),
    ],
)
def test_what_is_no_json_object_is_refused(body: bytes, message: str) -> None:
    """With a code that programs can tell."""
    with pytest.raises(RequestError, match=message) as caught:
        parse_object(body)
    assert (caught.value.http_status, caught.value.code) == (400, "invalid_json")


def nested(levels: int) -> bytes:
    """An object with lists inside, so many levels in all."""
    return b'{"a":' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"


@pytest.mark.parametrize(("levels", "passes"), [(MAX_DEPTH, True), (MAX_DEPTH + 1, False), (1000, False)])
def test_nesting_is_bounded(levels: int, passes: bool) -> None:
    """Parsers recurse, ours and the providers'."""
    if passes:
        assert parse_object(nested(levels))
        return
    with pytest.raises(RequestError, match="deep"):
        parse_object(nested(levels))


def test_much_that_is_not_deep_passes() -> None:
    """Long conversations have many brackets."""
    fields = {"messages": [{"role": "user", "content": [{"type": "text"}]}] * 500}

    assert parse_object(orjson.dumps(fields)) == fields


@pytest.mark.parametrize(
    "bomb",
    [
        b"[" * 1_000_000,
        b'{"a":' * 1_000_000,
        b'{"a":' + b"[" * 900_000,
        nested(1000),
        b'{"a":"' + b"[{" * 100_000 + b'"}',
        b'{"a":' + b"9" * 1_000_000 + b"}",
        b"[" * 1_000_000 + b"]" * 1_000_000,
    ],
    ids=["lists", "objects", "open", "closed", "in a string", "number", "balanced"],
)
def test_bombs_cost_next_to_nothing(bomb: bytes) -> None:
    """Every millisecond here is one for every stream of the node."""
    best_s = 1.0
    for _ in range(3):
        began = time.process_time()
        with suppress(RequestError):
            parse_object(bomb)
        best_s = min(best_s, time.process_time() - began)

    assert best_s < 0.01


@given(st.binary(max_size=100))
def test_any_bytes_are_an_object_or_the_callers_mistake(body: bytes) -> None:
    """Nothing else is raised."""
    try:
        assert isinstance(parse_object(body), dict)
    except RequestError as error:
        assert error.code == "invalid_json"


def test_the_first_header_of_a_name_counts() -> None:
    """Names are lower case in ASGI."""
    scope = {"headers": [(b"a", b"1"), (b"b", b"2"), (b"b", b"3")]}

    assert header(scope, b"b") == b"2"
    assert header(scope, b"c") is None
