"""HTTP/1.1 messages, well-formed ones, on both engines: framing, order, methods, versions."""

from __future__ import annotations

import pytest

from node.engine.contract import EngineName
from tests.conformance.raw_http import Message, Receive, Send, echo, read_body, request, respond, serving


async def test_a_connection_is_used_again(engine: EngineName) -> None:
    """Keep-alive: request after request on one connection, with and without a body."""
    async with serving(engine, echo) as served, await served.connect() as peer:
        for number in range(3):
            await peer.send(request(f"/{number}"))
            answer = await peer.answer()
            assert (200, f"GET /{number} ".encode()) == (answer.status, answer.body)
            await peer.send(request(f"/{number}", method="POST", body=b"x" * number * 1000 or b"-"))
            assert (await peer.answer()).body.startswith(f"POST /{number} ".encode())

        assert "connection" not in answer.headers
        assert "date" in answer.headers
        assert "server" not in answer.headers


async def test_the_scope_says_what_was_asked(engine: EngineName) -> None:
    """The ASGI scope: decoded path, raw path, query, lower-case headers, addresses, lifespan state."""
    async with serving(engine, echo) as served, await served.connect() as peer:
        await peer.send(request("/a%20b/%C3%A4?x=1&y=%20", headers=("X-Thing:  a value\t ", "x-thing: two")))
        await peer.answer()
        client = peer.writer.get_extra_info("sockname")

    scope = served.app.scopes[0]
    assert ("GET", "1.1", "http") == (scope["method"], scope["http_version"], scope["scheme"])
    assert ("/a b/ä", b"/a%20b/%C3%A4") == (scope["path"], scope["raw_path"])
    assert b"x=1&y=%20" == scope["query_string"]
    assert [b"a value", b"two"] == [value for name, value in scope["headers"] if name == b"x-thing"]
    assert client == tuple(scope["client"])
    assert served.address == tuple(scope["server"])
    assert {"greeting": "hello"} == scope["state"]


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
            assert b"clean" == (await peer.answer()).body


async def test_pipelined_requests_are_answered_in_order(engine: EngineName) -> None:
    """Fifty requests in one packet get fifty answers, in their order."""
    sent = b"".join(request(f"/{number}", method="POST", body=b"%d" % number) for number in range(50))
    async with serving(engine, echo) as served, await served.connect() as peer:
        await peer.send(sent)
        for number in range(50):
            assert b"POST /%d %d" % (number, number) == (await peer.answer()).body


async def test_pipelined_requests_run_one_after_the_other(engine: EngineName) -> None:
    """The next request's application call begins after the answer before it."""
    running, most = 0, 0

    async def count(scope: Message, receive: Receive, send: Send) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await read_body(receive)
        await respond(send)
        running -= 1

    async with serving(engine, count) as served, await served.connect() as peer:
        await peer.send(request("/a") + request("/b") + request("/c"))
        for _ in range(3):
            await peer.answer()

    assert 1 == most


async def test_head_has_no_body(engine: EngineName) -> None:
    """HEAD gets the headers of GET and no body, and the connection stays in step."""
    async with serving(engine, echo) as served, await served.connect() as peer:
        await peer.send(request("/h", method="HEAD") + request("/g"))
        head = await peer.answer(to_head=True)

        assert (200, str(len("HEAD /h "))) == (head.status, head.headers["content-length"])
        assert b"GET /g " == (await peer.answer()).body


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
        assert b"seen" == (await peer.answer()).body


async def test_a_chunked_body_may_be_cut_anywhere(engine: EngineName) -> None:
    """A chunked request arrives in two packets, cut at every byte: the body is always the same."""
    head = request("/c", method="POST", headers=("Transfer-Encoding: chunked",))
    sent = head + b"5\r\nhello\r\n1;name=value\r\n,\r\n6\r\n world\r\n0\r\nTrailer: x\r\n\r\n"
    async with serving(engine, echo) as served, await served.connect() as peer:
        for cut in range(1, len(sent)):
            await peer.send(sent[:cut])
            await served.server._engine.listen([])  if False else None
            await peer.send(sent[cut:])
            assert b"POST /c hello, world" == (await peer.answer()).body


async def test_a_request_may_arrive_byte_by_byte(engine: EngineName) -> None:
    """One byte a packet."""
    async with serving(engine, echo) as served, await served.connect() as peer:
        for byte in request("/slow?q", method="POST", headers=("A: b",), body=b"abc"):
            await peer.send(bytes([byte]))
            await served_tick()
        assert b"POST /slow abc" == (await peer.answer()).body
