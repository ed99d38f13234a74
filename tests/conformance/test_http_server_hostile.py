"""What must not pass: smuggling, header injection, oversized and malformed heads, slow ones; on both engines.

Each case names what either engine answers; where the stock one is more tolerant, the reason stands beside it. In no
case does the application see a request that was smuggled.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from dataclasses import dataclass

import orjson
import pytest
from h2.connection import H2Connection
from h2.events import ResponseReceived

from node.engine.contract import EngineName
from tests.conformance.raw_http import (
    ENGINES,
    EVENT_LOOPS,
    Message,
    Receive,
    Send,
    echo,
    read_body,
    request,
    respond,
    serving,
)

__all__ = ["EVENT_LOOPS"]  # the suite runs on each of them
both = pytest.mark.parametrize("engine", ENGINES)
fast = pytest.mark.parametrize("engine", ENGINES[:1])
SMUGGLED = request("/smuggled")


@dataclass(frozen=True)
class Attack:
    """Bytes sent on a fresh connection, and the status of the first answer; 0 means closed without one."""

    name: str
    sent: bytes
    fast: int = 400
    stock: int = 400


def post(*headers: str, body: bytes = b"") -> bytes:
    return "\r\n".join(["POST / HTTP/1.1", "Host: node", *headers, "", ""]).encode("latin-1") + body


AMBIGUOUS = [
    Attack(
        "CL then TE", post("Content-Length: 5", "Transfer-Encoding: chunked", body=b"0\r\n\r\n" + SMUGGLED)
    ),
    Attack(
        "TE then CL", post("Transfer-Encoding: chunked", "Content-Length: 5", body=b"0\r\n\r\n" + SMUGGLED)
    ),
    Attack("two lengths", post("Content-Length: 3", "Content-Length: 40", body=b"abc" + SMUGGLED)),
    Attack("length list", post("Content-Length: 3, 40", body=b"abc" + SMUGGLED)),
    Attack("signed length", post("Content-Length: +3", body=b"abc" + SMUGGLED)),
    Attack("hex length", post("Content-Length: 0x3", body=b"abc" + SMUGGLED)),
    Attack("empty length", post("Content-Length: ", body=SMUGGLED)),
    Attack("endless length", post("Content-Length: " + "9" * 30, body=SMUGGLED)),
    Attack("TE gzip", post("Transfer-Encoding: gzip", body=SMUGGLED), stock=501),
    Attack(
        "TE gzip, chunked", post("Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n" + SMUGGLED), stock=501
    ),
    Attack(
        "TE chunked twice",
        post("Transfer-Encoding: chunked, chunked", body=b"0\r\n\r\n" + SMUGGLED),
        stock=501,
    ),
    Attack(
        "TE in two lines", post(*["Transfer-Encoding: chunked"] * 2, body=b"0\r\n\r\n" + SMUGGLED), stock=501
    ),
    Attack("TE identity", post("Transfer-Encoding: identity", body=SMUGGLED), stock=501),
    Attack("TE xchunked", post("Transfer-Encoding: xchunked", body=SMUGGLED), stock=501),
    Attack("TE with a tab inside", post("Transfer-Encoding: chun\tked", body=SMUGGLED), stock=501),
    Attack("TE with a vertical tab", post("Transfer-Encoding: \x0bchunked", body=SMUGGLED)),
    Attack("space before colon", post("Transfer-Encoding : chunked", body=b"0\r\n\r\n" + SMUGGLED)),
    Attack(
        "chunk size 0x5", post("Transfer-Encoding: chunked", body=b"0x5\r\nhello\r\n0\r\n\r\n" + SMUGGLED)
    ),
    Attack(
        "endless chunk size", post("Transfer-Encoding: chunked", body=b"F" * 30 + b"\r\nhello" + SMUGGLED)
    ),
    Attack(
        "chunk longer than its size",
        post("Transfer-Encoding: chunked", body=b"3\r\nhello\r\n0\r\n\r\n" + SMUGGLED),
    ),
    Attack("space before the first header", b"GET / HTTP/1.1\r\n Host: node\r\n\r\n" + SMUGGLED),
    Attack("bare CR in a header", post("X-A: a\rContent-Length: 3")),
    Attack("NUL in a header", post("X-A: a\x00b")),
    Attack("header without a name", post(": a")),
    Attack("header without a colon", post("Nocolon")),
    Attack("header name with a space", post("X Y: a")),
    Attack("two hosts", post("Host: other")),
    Attack("no host", b"GET / HTTP/1.1\r\n\r\n"),
    Attack("no version", b"GET /\r\n\r\n" + SMUGGLED, fast=505),
    Attack("HTTP/0.9", b"GET / HTTP/0.9\r\nHost: node\r\n\r\n", fast=505, stock=505),
    Attack("HTTP/2.0", b"GET / HTTP/2.0\r\nHost: node\r\n\r\n", fast=505, stock=505),
    Attack(
        "HTTP/1.1 chunks in HTTP/1.0",
        request(version="1.0", headers=("Transfer-Encoding: chunked",)) + b"0\r\n\r\n",
    ),
    Attack("space in the target", b"GET / a HTTP/1.1\r\nHost: node\r\n\r\n"),
    Attack("control character in the target", b"GET /\x01 HTTP/1.1\r\nHost: node\r\n\r\n"),
    Attack("byte above 127 in the target", b"GET /\xff HTTP/1.1\r\nHost: node\r\n\r\n"),
    Attack("TLS to a plain port", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 32),
    Attack("CONNECT", b"CONNECT node:80 HTTP/1.1\r\nHost: node\r\n\r\n" + SMUGGLED),
]
CLOSE = "Connection: close"
TOLERATED = [  # by the stock engine, because h11 reads them in the one way that is left
    Attack("folded header", post(CLOSE, "X-Folded: a\r\n b"), stock=200),
    Attack("bare LF between headers", b"GET / HTTP/1.1\r\nHost: node\nConnection: close\r\n\r\n", stock=200),
    Attack("bare LF throughout", b"GET / HTTP/1.1\nHost: node\nConnection: close\n\n", stock=200),
    Attack("control character in a header", post(CLOSE, "X-A: a\x01b"), stock=200),
    Attack("unknown method", b"FROB / HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n", stock=200),
    Attack(
        "bare CR in a chunk line",
        post(CLOSE, "Transfer-Encoding: chunked", body=b"5;a=\rb\r\nhello\r\n0\r\n\r\n"),
        stock=200,
    ),
]


@both
@pytest.mark.parametrize("attack", AMBIGUOUS + TOLERATED, ids=lambda attack: attack.name)
async def test_a_doubtful_request_ends_its_connection(engine: EngineName, attack: Attack) -> None:
    """The first answer is the expected one, it is the last one too, and nothing smuggled reaches the application."""
    async with serving(engine, echo) as served:
        answered = await served.exchange(attack.sent)

    expected = attack.fast if engine == "fast" else attack.stock
    assert expected == int(answered.split(b" ", 2)[1])
    assert len(re.findall(rb"HTTP/1\.1 \d{3} ", answered)) == 1
    assert "/smuggled" not in [scope["path"] for scope in served.app.scopes]
    if engine == "fast":
        assert orjson.loads(answered.partition(b"\r\n\r\n")[2])["error"]["message"]


@fast
async def test_a_refused_head_never_reaches_the_application(engine: EngineName) -> None:
    """What is wrong with a head is found before the application is called (stock answers some by the application)."""
    in_body = {
        "chunk size 0x5",
        "endless chunk size",
        "chunk longer than its size",
        "bare CR in a chunk line",
    }
    async with serving(engine, echo) as served:
        for attack in AMBIGUOUS + TOLERATED:
            if attack.name not in in_body:
                await served.exchange(attack.sent)

    assert served.app.scopes == []


@fast
async def test_the_http_2_preface_is_refused(engine: EngineName) -> None:
    """HTTP/2 is not spoken, neither at once nor after an upgrade."""
    async with serving(engine, echo) as served:
        answered = await served.exchange(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4" + b"\0" * 5)

    assert answered.startswith(b"HTTP/1.1 400 ")
    assert served.app.scopes == []


@pytest.mark.parametrize("engine", ENGINES[1:])
@pytest.mark.parametrize("is_upgrade", [False, True], ids=["preface", "h2c upgrade"])
async def test_http_2_does_not_reach_the_application(engine: EngineName, is_upgrade: bool) -> None:
    """The stock engine does speak HTTP/2, but what is asked in it is answered 505 (fast: not spoken at all)."""
    client = H2Connection()
    async with serving(engine, echo) as served, await served.connect() as peer:
        if is_upgrade:
            settings = client.initiate_upgrade_connection().decode()
            offer = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", f"HTTP2-Settings: {settings}")
            await peer.send(request(headers=offer))
            assert (await peer.head()).status == 101
        else:
            client.initiate_connection()
            headers = [(":method", "GET"), (":path", "/"), (":scheme", "http"), (":authority", "node")]
            client.send_headers(1, headers, end_stream=True)
        await peer.send(client.data_to_send())
        answers: list[ResponseReceived] = []
        while not answers:
            events = client.receive_data(await peer.reader.read(2**16))
            answers = [event for event in events if isinstance(event, ResponseReceived)]

    assert dict(answers[0].headers)[b":status"] == b"505"
    assert served.app.scopes == []


@both
@pytest.mark.parametrize(
    "header",
    [
        (b"x-model", b"a\r\nx-injected: 1"),
        (b"x-model", b"a\nx-injected: 1"),
        (b"x-model", b"a\rb"),
        (b"x-model", b"a\x00b"),
        (b"x-model\r\nx-injected", b"1"),
        (b"x model", b"1"),
        (b"x-model:", b"1"),
        (b"", b"1"),
        (b"x-m\xc3\xb6del", b"1"),
        (b"content-length", b"five"),
        (b"content-length", b"-5"),
    ],
    ids=repr,
)
async def test_a_response_header_cannot_be_injected(engine: EngineName, header: tuple[bytes, bytes]) -> None:
    """Header names and values that would change the message make a 500, and the connection ends."""

    async def careless(scope: Message, receive: Receive, send: Send) -> None:
        await read_body(receive)
        await respond(send, b"hello", headers=(header,))

    async with serving(engine, careless) as served:
        answered = await served.exchange(request() + SMUGGLED)

    assert answered.startswith(b"HTTP/1.1 500 ")
    assert b"injected" not in answered
    assert len(served.app.scopes) == 1


@fast
@pytest.mark.parametrize("value", [b"a\x01b", b"a\x7fb", b"\x1b[31m"], ids=repr)
async def test_control_characters_stay_out_of_responses(engine: EngineName, value: bytes) -> None:
    """Not only line breaks (h11 lets these through)."""

    async def careless(scope: Message, receive: Receive, send: Send) -> None:
        await respond(send, headers=((b"x-model", value),))

    async with serving(engine, careless) as served:
        assert (await served.exchange(request())).startswith(b"HTTP/1.1 500 ")


@fast
async def test_framing_of_the_application_is_not_believed(engine: EngineName) -> None:
    """Hop-by-hop headers of a provider that were passed on do not end up beside our own (h11 reads them as orders)."""

    async def careless(scope: Message, receive: Receive, send: Send) -> None:
        await read_body(receive)
        headers = (
            (b"Transfer-Encoding", b"gzip"),
            (b"Keep-Alive", b"timeout=1"),
            (b"Connection", b"keep-alive"),
        )
        await respond(send, b"hello", headers=headers)

    async with serving(engine, careless) as served, await served.connect() as peer:
        await peer.send(request())
        answer = await peer.answer()

    assert answer.body == b"hello"
    assert {"content-length", "date"} == set(answer.headers)


@both
@pytest.mark.parametrize(
    ("sent", "status"),
    [
        pytest.param(request(headers=tuple(f"X-{n}: {n}" for n in range(99))), 200, id="as many as allowed"),
        pytest.param(
            request(headers=tuple(f"X-{n}: {n}" for n in range(100))), 431, id="one header too many"
        ),
        pytest.param(request(headers=("X: " + "x" * 15_000,)), 200, id="large"),
        pytest.param(request(headers=("X: " + "x" * 17_000,)), 431, id="too large"),
        pytest.param(request("/" + "x" * 17_000), 431, id="long target"),
    ],
)
async def test_heads_are_bounded(engine: EngineName, sent: bytes, status: int) -> None:
    """The number of headers and the size of the head have limits."""
    async with (
        serving(engine, echo, max_headers=100, max_head_bytes=16_384) as served,
        await served.connect() as peer,
    ):
        await peer.send(sent)
        assert status == (await peer.answer()).status


@both
@pytest.mark.parametrize(
    "start", [b"GET /", b"GET / HTTP/1.1\r\nX: ", b"GET / HTTP/1.1\r\nX", b"FROB"], ids=repr
)
async def test_an_endless_head_is_refused(engine: EngineName, start: bytes) -> None:
    """A head that never ends is cut off near the limit, wherever it is endless."""
    sent_bytes = 0
    async with serving(engine, echo, max_head_bytes=16_384) as served, await served.connect() as peer:
        reading = asyncio.create_task(peer.read_to_end())
        await peer.send(start)
        while sent_bytes < 10_000_000 and not reading.done():
            with suppress(ConnectionError):
                await peer.send(b"x" * 1000)
            await asyncio.sleep(0)
            sent_bytes += 1000
        answered = await reading

    assert sent_bytes < 1_000_000
    assert answered.startswith((b"HTTP/1.1 431 ", b"HTTP/1.1 400 ") if engine == "fast" else b"HTTP/1.1 4")
    assert served.app.scopes == []


@fast
async def test_endless_trailers_are_refused(engine: EngineName) -> None:
    """Trailers count as a part of the head (h11 bounds each of them by itself)."""
    trailers = b"".join(b"T%d: x\r\n" % number for number in range(5000))
    async with serving(engine, echo, max_head_bytes=16_384) as served:
        answered = await served.exchange(
            post("Transfer-Encoding: chunked", body=b"0\r\n" + trailers + b"\r\n")
        )

    assert answered.startswith(b"HTTP/1.1 431 ")


@fast
async def test_what_precedes_a_malformed_request_is_answered(engine: EngineName) -> None:
    """Two good requests and a bad one in one packet: two answers, then the refusal, then the end."""
    sent = request("/1") + request("/2") + b"NONSENSE\r\n\r\n" + request("/3")
    async with serving(engine, echo) as served, await served.connect() as peer:
        await peer.send(sent)
        answers = [await peer.answer() for _ in range(3)]
        assert await peer.read_to_end() == b""

    assert [answer.status for answer in answers] == [200, 200, 400]
    assert [scope["path"] for scope in served.app.scopes] == ["/1", "/2"]


@fast
async def test_a_body_that_turns_bad_is_not_given_as_whole(engine: EngineName) -> None:
    """A malformed chunk is answered 400 at once, and the application is told that the client is gone."""
    told = asyncio.Queue[str]()

    async def patient(scope: Message, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            told.put_nowait(message["type"])
            if message["type"] == "http.disconnect":
                await respond(send, b"to nobody")
                return

    async with serving(engine, patient) as served, await served.connect() as peer:
        await peer.send(post("Transfer-Encoding: chunked", body=b"5\r\nhello\r\n"))
        assert await told.get() == "http.request"
        await peer.send(b"NONSENSE\r\n")
        assert (await peer.answer()).status == 400
        assert await told.get() == "http.disconnect"
        assert await peer.read_to_end() == b""


@both
async def test_an_idle_connection_is_closed(engine: EngineName) -> None:
    """A connection without requests ends after keep_alive_s, a fresh one as well as a used one."""
    async with (
        serving(engine, echo, keep_alive_s=0.1) as served,
        await served.connect() as fresh,
        await served.connect() as used,
    ):
        await used.send(request())
        assert (await used.answer()).status == 200
        assert await fresh.read_to_end() == b""
        assert await used.read_to_end() == b""


@both
async def test_a_busy_connection_is_not_idle(engine: EngineName) -> None:
    """The idle time does not run while a request does, nor is a stream cut that pauses for longer."""

    async def slow(scope: Message, receive: Receive, send: Send) -> None:
        await read_body(receive)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(2):
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
            await asyncio.sleep(0.12)
        await send({"type": "http.response.body"})

    async with (
        serving(engine, slow, keep_alive_s=0.05, head_s=0.05) as served,
        await served.connect() as peer,
    ):
        await peer.send(request())
        assert (await peer.answer()).body == b"xx"


@both
async def test_a_slow_head_is_not_waited_for(engine: EngineName) -> None:
    """A head that trickles in has one deadline, not one a byte (stock: closed without a word)."""
    async with serving(engine, echo, head_s=0.2, keep_alive_s=0.2) as served, await served.connect() as peer:

        async def trickle() -> None:
            for byte in request(headers=("X: " + "x" * 1000,)):
                await peer.send(bytes([byte]))
                await asyncio.sleep(0.02)

        trickling = asyncio.create_task(trickle())
        answered = await peer.read_to_end()
        trickling.cancel()
        await asyncio.wait({trickling})

    assert answered.startswith(b"HTTP/1.1 408 ") if engine == "fast" else answered == b""
    assert served.app.scopes == []
