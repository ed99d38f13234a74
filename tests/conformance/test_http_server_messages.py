"""Well-formed HTTP/1.1 on both engines: framing, order, methods, versions."""

from __future__ import annotations

import asyncio

import pytest

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
MEGABYTES_8 = bytes(range(256)) * 4 * 1024 * 8


@both
async def test_a_connection_is_used_again(engine: EngineName) -> None:
    """Keep-alive: request after request on one connection, with and without a body."""
    async with serving(engine, echo) as served, await served.connect() as peer:
        for number in range(3):
            await peer.send(request(f"/{number}"))
            answer = await peer.answer()
            assert (200, f"GET /{number} ".encode()) == (answer.status, answer.body)
            await peer.send(request(f"/{number}", method="POST", body=b"x" * 1000))
            assert f"POST /{number} ".encode() + b"x" * 1000 == (await peer.answer()).body

        assert "connection" not in answer.headers
        assert "server" not in answer.headers
        assert answer.headers["date"].endswith(" GMT")


@both
async def test_the_scope_says_what_was_asked(engine: EngineName) -> None:
    """Decoded path, raw path, query, lower-case header names, trimmed values, addresses, lifespan state."""
    async with serving(engine, echo) as served, await served.connect() as peer:
        await peer.send(request("/a%20b/%C3%A4?x=1&y=%20", headers=("X-Thing:  a value\t ", "x-thing: two")))
        await peer.answer()
        client = peer.writer.get_extra_info("sockname")

    scope = served.app.scopes[0]
    assert (scope["method"], scope["http_version"], scope["scheme"]) == ("GET", "1.1", "http")
    assert (scope["path"], scope["raw_path"]) == ("/a b/ä", b"/a%20b/%C3%A4")
    assert scope["query_string"] == b"x=1&y=%20"
    assert [value for name, value in scope["headers"] if name == b"x-thing"] == [b"a value", b"two"]
    assert client == tuple(scope["client"])
    assert served.address == tuple(scope["server"])
    assert scope["state"] == {"greeting": "hello"}


@fast
@pytest.mark.parametrize("target", ["http://node/p?q", "http://node:80/p?q", "/p?q"])
async def test_an_absolute_target_is_a_path(engine: EngineName, target: str) -> None:
    """Proxies may send the whole URL (stock hands it on as the path)."""
    async with serving(engine, echo) as served, await served.connect() as peer:
        await peer.send(request(target))
        assert (await peer.answer()).body == b"GET /p "

    assert (served.app.scopes[0]["raw_path"], served.app.scopes[0]["query_string"]) == (b"/p", b"q")


@both
async def test_one_request_does_not_see_the_state_of_another(engine: EngineName) -> None:
    """Each request has its own copy of the lifespan's state."""

    async def scribble(scope: Message, receive: Receive, send: Send) -> None:
        await read_body(receive)
        seen = scope["state"].get("mark", "clean")
        scope["state"]["mark"] = "dirty"
        await respond(send, seen.encode())

    async with serving(engine, scribble) as served, await served.connect() as peer:
        for _ in range(2):
            await peer.send(request())
            assert (await peer.answer()).body == b"clean"


@both
async def test_pipelined_requests_are_answered_in_order(engine: EngineName) -> None:
    """A thousand requests in few packets get as many answers, in their order, one application call at a time."""
    running, most = 0, 0

    async def counted_echo(scope: Message, receive: Receive, send: Send) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        await echo(scope, receive, send)
        running -= 1

    count = 1000 if engine == "fast" else 100
    sent = b"".join(request(f"/{number}", method="POST", body=b"%d" % number) for number in range(count))
    async with serving(engine, counted_echo) as served, await served.connect() as peer:
        sending = asyncio.create_task(peer.send(sent))
        for number in range(count):
            assert b"POST /%d %d" % (number, number) == (await peer.answer()).body
        await sending

    assert most == 1


@both
async def test_head_has_no_body(engine: EngineName) -> None:
    """HEAD gets the headers of GET and no body, and the connection stays in step."""
    async with serving(engine, echo) as served, await served.connect() as peer:
        await peer.send(request("/h", method="HEAD") + request("/g"))
        head = await peer.answer(to_head=True)

        assert (200, str(len("HEAD /h "))) == (head.status, head.headers["content-length"])
        assert (await peer.answer()).body == b"GET /g "


@both
@pytest.mark.parametrize("status", [204, 304])
async def test_some_statuses_have_no_body(engine: EngineName, status: int) -> None:
    """204 and 304 have no body whatever the application sends, and the connection stays in step."""

    async def careless(scope: Message, receive: Receive, send: Send) -> None:
        await read_body(receive)
        if scope["path"] == "/empty":
            await respond(send, b"not to be seen", status=status)
        else:
            await respond(send, b"seen", headers=((b"content-length", b"4"),))

    async with serving(engine, careless) as served, await served.connect() as peer:
        await peer.send(request("/empty") + request("/full"))
        empty = await peer.answer()

        assert status == empty.status
        assert "transfer-encoding" not in empty.headers
        assert (await peer.answer()).body == b"seen"


@both
async def test_a_chunked_body_may_be_cut_anywhere(engine: EngineName) -> None:
    """A chunked request arrives in two packets, cut at every byte: the body is always the same, trailers are dropped."""
    head = request("/c", method="POST", headers=("Transfer-Encoding: chunked",))
    sent = head + b"5\r\nhello\r\n1;name=value\r\n,\r\n6\r\n world\r\n0\r\nTrailer: x\r\n\r\n"
    async with serving(engine, echo) as served, await served.connect() as peer:
        for cut in range(1, len(sent)):
            await peer.send(sent[:cut])
            await asyncio.sleep(0)
            await peer.send(sent[cut:])
            assert (await peer.answer()).body == b"POST /c hello, world"

    assert [name for name, _ in served.app.scopes[-1]["headers"]] == [b"host", b"transfer-encoding"]


@both
async def test_a_request_may_arrive_byte_by_byte(engine: EngineName) -> None:
    """One byte a packet."""
    async with serving(engine, echo) as served, await served.connect() as peer:
        for byte in request("/slow?q", method="POST", headers=("A: b",), body=b"abc"):
            await peer.send(bytes([byte]))
            await asyncio.sleep(0)
        assert (await peer.answer()).body == b"POST /slow abc"


@both
async def test_the_body_reaches_the_application_while_it_arrives(engine: EngineName) -> None:
    """receive() gives the first part of a body before the last one has been sent."""
    arrived = asyncio.Queue[bytes]()

    async def relay(scope: Message, receive: Receive, send: Send) -> None:
        more = True
        while more:
            message = await receive()
            more = message.get("more_body", False)
            if message["body"]:
                arrived.put_nowait(message["body"])
        await respond(send)

    async with serving(engine, relay) as served, await served.connect() as peer:
        await peer.send(request(method="POST", headers=("Content-Length: 6",)) + b"one")
        assert await arrived.get() == b"one"
        await peer.send(b"two")
        assert await arrived.get() == b"two"
        assert (await peer.answer()).status == 200


@both
async def test_eight_megabytes_both_ways(engine: EngineName) -> None:
    """A large body arrives whole and goes back whole, and the connection is used again."""
    async with serving(engine, echo) as served, await served.connect() as peer:
        await peer.send(request("/big", method="POST", body=MEGABYTES_8))
        assert (await peer.answer()).body == b"POST /big " + MEGABYTES_8
        await peer.send(request("/small"))
        assert (await peer.answer()).body == b"GET /small "


@both
async def test_continue_is_sent_when_the_body_is_asked_for(engine: EngineName) -> None:
    """Expect: 100-continue gets its go-ahead, then the answer."""
    async with serving(engine, echo) as served, await served.connect() as peer:
        await peer.send(request(method="POST", headers=("Expect: 100-continue", "Content-Length: 2")))
        assert (await peer.answer()).status == 100
        await peer.send(b"ok")
        assert (await peer.answer()).body == b"POST / ok"
        await peer.send(request("/again"))
        assert (await peer.answer()).body == b"GET /again "


@fast
async def test_a_refused_body_is_never_asked_for(engine: EngineName) -> None:
    """An application that answers without reading gets no body, and no 100 is sent (stock sends it unasked)."""

    async def refuse(scope: Message, receive: Receive, send: Send) -> None:
        await respond(send, b"no", status=413)

    async with serving(engine, refuse) as served, await served.connect() as peer:
        await peer.send(request(method="POST", headers=("Expect: 100-continue", "Content-Length: 2")))
        answer = await peer.answer()
        assert (answer.status, answer.headers["connection"]) == (413, "close")
        assert await peer.read_to_end() == b""


@both
async def test_an_answer_to_a_half_read_request_ends_the_connection(engine: EngineName) -> None:
    """After an early answer nothing can follow: the rest of the body would be taken for a request."""

    async def refuse(scope: Message, receive: Receive, send: Send) -> None:
        await respond(send, b"too large", status=413)

    async with serving(engine, refuse) as served, await served.connect() as peer:
        await peer.send(request(method="POST", headers=("Content-Length: 1000",)) + request("/smuggled"))
        answer = await peer.answer()
        assert (answer.status, answer.body) == (413, b"too large")
        assert await peer.read_to_end() == b""

    assert len(served.app.scopes) == 1


@fast
async def test_an_early_answer_survives_the_flood(engine: EngineName) -> None:
    """The answer is not destroyed by a reset while the refused body still arrives (with stock it may be)."""

    async def refuse(scope: Message, receive: Receive, send: Send) -> None:
        await respond(send, b"too large", status=413)

    async with serving(engine, refuse) as served, await served.connect() as peer:
        await peer.send(request(method="POST", headers=(f"Content-Length: {len(MEGABYTES_8)}",)))
        await peer.send(MEGABYTES_8)
        assert ((answer := await peer.answer()).status, answer.body) == (413, b"too large")


@both
@pytest.mark.parametrize(
    ("version", "connection", "is_kept"),
    [
        ("1.0", None, False),
        ("1.0", "close", False),
        pytest.param("1.0", "Keep-Alive", True, id="stock closes all the same"),
        ("1.1", None, True),
        ("1.1", "keep-alive", True),
        ("1.1", "Close", False),
        ("1.1", "x-some-token , close", False),
    ],
)
async def test_version_and_connection_header_decide_about_keeping(
    engine: EngineName, version: str, connection: str | None, is_kept: bool
) -> None:
    """HTTP/1.1 keeps unless told to close, HTTP/1.0 closes unless told to keep; the answer says what will happen."""
    headers = (f"Connection: {connection}",) if connection else ()
    async with serving(engine, echo) as served, await served.connect() as peer:
        await peer.send(request("/one", headers=headers, version=version))
        answer = await peer.answer()
        assert answer.body == b"GET /one "
        if is_kept and not (engine == "stock" and version == "1.0"):
            assert ("keep-alive" if version == "1.0" else None) == answer.headers.get("connection")
            await peer.send(request("/two"))
            assert (await peer.answer()).body == b"GET /two "
        else:
            assert answer.headers["connection"] == "close"
            assert await peer.read_to_end() == b""


@both
async def test_a_stream_is_chunked_one_chunk_a_message(engine: EngineName) -> None:
    """Each body message leaves as one chunk, an empty one as none; the connection is kept."""

    async def stream(scope: Message, receive: Receive, send: Send) -> None:
        await read_body(receive)
        await send(
            {
                "type": "http.response.start",
                "status": 200,
                "headers": [(b"content-type", b"text/event-stream")],
            }
        )
        for part in (b"one", b"", b"two"):
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body"})

    async with serving(engine, stream) as served, await served.connect() as peer:
        for _ in range(2):
            await peer.send(request())
            answer = await peer.answer()
            assert answer.headers["transfer-encoding"] == "chunked"
            assert answer.chunks == [b"one", b"two"]


@both
async def test_a_stream_to_http_1_0_ends_with_the_connection(engine: EngineName) -> None:
    """HTTP/1.0 knows no chunks."""

    async def stream(scope: Message, receive: Receive, send: Send) -> None:
        await read_body(receive)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        await send({"type": "http.response.body", "body": b"two"})

    async with serving(engine, stream) as served, await served.connect() as peer:
        await peer.send(request(version="1.0", headers=("Connection: keep-alive",)))
        answer = await peer.answer()
        assert "transfer-encoding" not in answer.headers
        assert (answer.body, answer.headers["connection"]) == (b"onetwo", "close")


@fast
async def test_a_whole_answer_gets_its_length(engine: EngineName) -> None:
    """An answer in one message needs no chunks, and leaves in one write (stock sends it chunked)."""

    async def plain(scope: Message, receive: Receive, send: Send) -> None:
        await respond(send, b"hello")

    async with serving(engine, plain) as served, await served.connect() as peer:
        await peer.send(request())
        packet = await peer.reader.read(2**16)

    assert b"content-length: 5\r\n" in packet
    assert packet.endswith(b"\r\n\r\nhello")


@both
async def test_the_application_may_end_the_connection(engine: EngineName) -> None:
    """`connection: close` from the application is obeyed, and sent once."""

    async def leave(scope: Message, receive: Receive, send: Send) -> None:
        await read_body(receive)
        await respond(send, b"bye", headers=((b"connection", b"close"), (b"content-length", b"3")))

    async with serving(engine, leave) as served, await served.connect() as peer:
        await peer.send(request())
        answer = await peer.answer()
        assert (answer.body, answer.headers["connection"]) == (b"bye", "close")
        assert await peer.read_to_end() == b""


@fast
async def test_an_upgrade_is_ignored(engine: EngineName) -> None:
    """A client that offers HTTP/2 is served in HTTP/1.1, its body whole, its connection ended (stock: see hostile)."""
    offer = (
        "Connection: Upgrade, HTTP2-Settings",
        "Upgrade: h2c",
        "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA",
    )
    async with serving(engine, echo) as served:
        plain = await served.exchange(request("/get", headers=offer) + request("/never"))
        sized = await served.exchange(request("/post", method="POST", headers=offer, body=b"abc"))
        chunked = (*offer, "Transfer-Encoding: chunked")
        streamed = await served.exchange(
            request("/c", method="POST", headers=chunked) + b"2\r\nab\r\n0\r\n\r\n"
        )

    assert plain.endswith(b"GET /get ")
    assert sized.endswith(b"POST /post abc")
    assert streamed.endswith(b"POST /c ab")
    assert all(b"connection: close\r\n" in answer for answer in (plain, sized, streamed))
    assert len(served.app.scopes) == 3
