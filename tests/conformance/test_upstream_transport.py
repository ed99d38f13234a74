"""What every upstream transport owes its caller, on a server scripted byte by byte; on both event loops."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import shutil
import socket
import ssl
import subprocess

import httpx
import pytest
import uvloop

from node.upstream import (
    Address,
    AddressedRequest,
    FastTransport,
    open_transport,
    was_request_sent,
)
from node.upstream.stock import StockTransport
from tests.conformance.scripted_server import Peer, SeenRequest, always, answer, scripted_server

EVENT_LOOPS = {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
TIMEOUTS = {"connect": 5.0, "read": 5.0, "write": 5.0, "pool": 5.0}
BODY = b'{"model":"m"}'
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n6\r\n world\r\n0\r\nX-T: 1\r\n\r\n"
NOTHING = {"open": 0, "idle": 0, "in_use": 0, "waiting": 0}


@pytest.fixture(params=["fast", "stock"])
async def transport(request):
    """Either transport with ten connections."""
    opened = open_transport(request.param, limit_per_origin=10)
    yield opened
    await opened.aclose()


@pytest.fixture(params=["fast", "stock"])
async def single(request):
    """Either transport with one connection, for what happens when it is taken."""
    opened = open_transport(request.param, limit_per_origin=1)
    yield opened
    await opened.aclose()


@pytest.fixture
async def fast():
    """Only the fast one, for what the stock one does not promise."""
    opened = FastTransport(limit_per_origin=10)
    yield opened
    await opened.aclose()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory):
    """A self-made certificate for ``localhost``: (certificate file, key file)."""
    openssl = shutil.which("openssl")
    assert openssl, "the tests of TLS need the openssl command"
    folder = tmp_path_factory.mktemp("tls")
    crt, key = str(folder / "crt.pem"), str(folder / "key.pem")
    command = (
        f"{openssl} req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    )
    arguments = ["-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", crt]
    subprocess.run([*command.split(), *arguments], check=True, capture_output=True)
    return crt, key


def request_to(url, *, method="POST", body=BODY, headers=(), **timeouts):
    extensions = {"timeout": TIMEOUTS | timeouts}
    return httpx.Request(method, url, content=body, headers=list(headers), extensions=extensions)


async def fetch(transport, request):
    """Send and read to the end: (response, body)."""
    response = await transport.handle_async_request(request)
    try:
        return response, b"".join([chunk async for chunk in response.stream])
    finally:
        await response.aclose()


@contextlib.asynccontextmanager
async def held_connection(transport):
    """Keep one request in flight on a server that answers only the second connection, and give that server."""

    async def script(peer: Peer) -> None:
        await peer.read_request()
        if peer.number > 1:
            await peer.send(answer(b"free"))
        await peer.wait_gone()

    async with scripted_server(script) as server:
        held = asyncio.create_task(fetch(transport, request_to(server.url)))
        await server.arrived.wait()
        try:
            yield server
        finally:
            held.cancel()
            await asyncio.wait([held])


@contextlib.contextmanager
def deaf_listener():
    """A port whose backlog is full: connecting to its URL never ends."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"


async def end_by_cancel(task):
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


def only_stats(transport):
    (stats,) = transport.stats().values()
    return stats


async def test_connection_is_kept_and_the_request_arrives_as_given(transport):
    """Requests one after the other travel over one connection, byte for byte what was asked."""
    async with scripted_server(always(answer(b"ok"))) as server:
        for _ in range(3):
            response, body = await fetch(transport, request_to(server.url, headers=[(b"X-Key", b"v \xe9")]))
            assert (response.status_code, body) == (200, b"ok")

        assert len(server.peers) == 1
        seen = server.requests[0]
        assert seen.line == b"POST /v1/chat/completions?trace=a%20b HTTP/1.1"
        assert f"127.0.0.1:{server.port}".encode() == seen.header(b"host")
        assert b"%d" % len(BODY) == seen.header(b"content-length")
        assert seen.body == BODY
        assert response.extensions["request_sent"] is True


def addressed_to(url, *own, fixed=(), body=BODY, on_send=None):
    """The same request in its short form."""
    where = httpx.URL(url)
    address = Address(where, [(b"Host", where.netloc), (b"X-Fixed", b"f"), *fixed], dict(TIMEOUTS))
    return AddressedRequest(address, list(own), body, on_send=on_send)


async def test_an_addressed_request_is_the_same_on_the_wire(transport):
    """Whoever knows the short form and whoever takes it for httpx's own send the same."""
    async with scripted_server(always(answer(b"ok"))) as server:
        request = addressed_to(server.url, (b"X-Own", b"1"))
        for _ in range(2):
            response, body = await fetch(transport, request)
            assert (response.status_code, body) == (200, b"ok")

        assert len(server.peers) == 1
        for seen in server.requests:
            assert seen.line == b"POST /v1/chat/completions?trace=a%20b HTTP/1.1"
            assert seen.header(b"host") == f"127.0.0.1:{server.port}".encode()
            assert (seen.header(b"x-fixed"), seen.header(b"x-own")) == (b"f", b"1")
            assert seen.header(b"content-length") == b"%d" % len(BODY)
            assert seen.body == BODY
        assert request.headers["x-own"] == "1"
        assert request.content == BODY
        assert response.headers["content-length"] == "2"


async def test_an_addressed_request_may_still_be_held_back(transport):
    """What ``on_send`` raises is raised instead of sending."""

    def refuse():
        raise RuntimeError("not now")

    async with scripted_server(always(answer())) as server:
        with pytest.raises(RuntimeError, match="not now"):
            await fetch(transport, addressed_to(server.url, on_send=refuse))

        assert server.requests == []


@pytest.mark.parametrize(
    "header",
    [
        (b"X-A", b"1\r\nX-Evil: 2"),
        (b"X-A", b"1\n"),
        (b"X-A", b"1\x00"),
        (b"X A", b"1"),
        (b"Content-Length", b"3"),
    ],
    ids=["CRLF", "LF", "NUL", "name", "length"],
)
@pytest.mark.parametrize("is_fixed", [True, False], ids=["fixed", "own"])
async def test_fast_transport_refuses_what_could_split_an_addressed_request(fast, is_fixed, header):
    """Neither what an address always sends nor what one request adds reaches the wire unchecked."""
    async with scripted_server(always(answer())) as server:
        request = addressed_to(server.url, fixed=[header]) if is_fixed else addressed_to(server.url, header)
        with pytest.raises(httpx.LocalProtocolError) as caught:
            await fetch(fast, request)

        assert not was_request_sent(caught.value)
        assert server.requests == []


async def test_fast_transport_tells_whether_the_connection_was_reused(fast):
    """The extensions say fresh, then reused."""
    async with scripted_server(always(answer())) as server:
        first, _ = await fetch(fast, request_to(server.url))
        second, _ = await fetch(fast, request_to(server.url))

        assert [first.extensions["reused"], second.extensions["reused"]] == [False, True]
        assert [first.extensions["replayed"], second.extensions["replayed"]] == [False, False]


async def test_a_request_may_still_be_held_back_when_its_connection_stands(transport):
    """``on_send`` has the last word; what it raises is raised, nothing is written, and the next request finds the way free."""

    class HeldBackError(Exception):
        pass

    def hold_back():
        raise HeldBackError

    calls = []
    async with scripted_server(always(answer())) as server:
        held, sent = request_to(server.url), request_to(server.url)
        held.extensions["on_send"], sent.extensions["on_send"] = hold_back, lambda: calls.append(1)
        with pytest.raises(HeldBackError):
            await transport.handle_async_request(held)
        await fetch(transport, sent)

    assert calls == [1]
    assert len(server.requests) == 1


async def test_fast_transport_keeps_the_spelling_of_the_target(fast):
    """Percent-encoding that other libraries would tidy up arrives as the caller wrote it."""
    async with scripted_server(always(answer())) as server:
        await fetch(fast, request_to(f"http://127.0.0.1:{server.port}/a%2fb//c/?q=%7e&"))

        assert server.requests[0].line == b"POST /a%2fb//c/?q=%7e& HTTP/1.1"


async def test_chunked_response_may_be_split_at_every_byte(transport):
    """Wherever the network cuts it, the body is the same and the connection stays usable."""
    cuts = iter(range(1, len(CHUNKED)))

    async def script(peer: Peer) -> None:
        while True:
            await peer.read_request()
            cut = next(cuts)
            await peer.send(CHUNKED[:cut], CHUNKED[cut:])

    async with scripted_server(script) as server:
        for _ in range(1, len(CHUNKED)):
            assert (await fetch(transport, request_to(server.url)))[1] == b"hello world"

        assert len(server.peers) == 1


@pytest.mark.parametrize(
    ("method", "raw", "status", "body", "is_kept"),
    [
        ("POST", answer(b""), 200, b"", True),
        ("POST", CHUNKED, 200, b"hello world", True),
        ("POST", b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", True),
        ("GET", b"HTTP/1.1 304 Not Modified\r\nContent-Length: 10\r\n\r\n", 304, b"", True),
        ("HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", 200, b"", True),
        (
            "POST",
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 E\r\nLink: x\r\n\r\n" + answer(b"ok"),
            200,
            b"ok",
            True,
        ),
        ("POST", answer(b"ok", extra=b"Connection: close\r\n"), 200, b"ok", False),
        ("POST", answer(b"ok").replace(b"1.1", b"1.0"), 200, b"ok", False),
        ("POST", answer(b"no", status=b"529 Overloaded"), 529, b"no", True),
    ],
    ids=["empty", "chunked", "204", "304", "head", "interim", "close", "http/1.0", "unknown status"],
)
async def test_bodies_end_where_their_framing_says(transport, method, raw, status, body, is_kept):
    """Each way to frame a body is understood, and the connection is kept exactly when it may be."""
    async with scripted_server(always(raw)) as server:
        content = b"" if method != "POST" else BODY
        for _ in range(2):
            response, got = await fetch(transport, request_to(server.url, method=method, body=content))
            assert (status, body) == (response.status_code, got)

        assert (1 if is_kept else 2) == len(server.peers)


async def test_body_without_length_ends_with_the_connection(transport):
    """A close-delimited body is complete when the server closes."""

    async def script(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(b"HTTP/1.1 200 OK\r\n\r\n", b"all ", b"of it")

    async with scripted_server(script) as server:
        for _ in range(2):
            assert (await fetch(transport, request_to(server.url)))[1] == b"all of it"


@pytest.mark.parametrize(
    "raw",
    [answer(b"cut")[:-1], CHUNKED[:-12], CHUNKED[:-2]],
    ids=["content-length", "in a chunk", "before the last line"],
)
async def test_truncated_body_is_an_error(transport, raw):
    """A body that stops early raises after the part that came, and says that the request was sent."""

    async def script(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(raw)

    async with scripted_server(script) as server:
        with pytest.raises(httpx.RemoteProtocolError) as caught:
            await fetch(transport, request_to(server.url))

        assert was_request_sent(caught.value)


@pytest.mark.parametrize(
    "raw",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\x00c\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 70_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: a\r\n" * 201 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: nine\r\n\r\n",
    ],
    ids=["no http", "NUL", "long head", "many headers", "two lengths", "no number"],
)
async def test_garbage_instead_of_a_head_is_refused(transport, raw):
    """What is no response raises RemoteProtocolError, and the connection goes."""
    async with scripted_server(always(raw)) as server:
        for _ in range(2):
            with pytest.raises(httpx.RemoteProtocolError) as caught:
                await fetch(transport, request_to(server.url, read=2.0))
            assert was_request_sent(caught.value)

        assert len(server.peers) == 2


async def test_early_end_without_any_answer_is_not_repeated_on_a_fresh_connection(transport):
    """A server that reads and hangs up has maybe worked: the request is sent once, and the error says so."""

    async def script(peer: Peer) -> None:
        await peer.read_request()

    async with scripted_server(script) as server:
        with pytest.raises(httpx.RemoteProtocolError) as caught:
            await fetch(transport, request_to(server.url))

        assert was_request_sent(caught.value)
        assert len(server.requests) == 1


@pytest.mark.parametrize("is_reset", [False, True], ids=["eof", "reset"])
async def test_stale_connection_is_replayed_once_by_the_fast_transport(fast, is_reset):
    """The request that meets a dying kept-alive connection is answered over a fresh one, and says so."""

    async def script(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(answer(b"%d" % peer.number))
        if peer.number == 1:
            await peer.read_request()
            if is_reset:
                peer.reset()
            return
        await peer.wait_gone()

    async with scripted_server(script) as server:
        await fetch(fast, request_to(server.url))
        response, body = await fetch(fast, request_to(server.url))

        assert body == b"2"
        assert response.extensions["replayed"] is True
        assert len(server.requests) == 3
        assert only_stats(fast) == {"open": 1, "idle": 1, "in_use": 0, "waiting": 0}


async def test_second_stale_failure_is_final(fast):
    """One replay, never two: when the fresh connection fails as well, the caller learns it."""

    async def script(peer: Peer) -> None:
        await peer.read_request()
        if peer.number == 1:
            await peer.send(answer())
            await peer.read_request()

    async with scripted_server(script) as server:
        await fetch(fast, request_to(server.url))
        with pytest.raises(httpx.RemoteProtocolError) as caught:
            await fetch(fast, request_to(server.url))

        assert was_request_sent(caught.value)
        assert len(server.requests) == 3
        assert only_stats(fast) == NOTHING


async def test_stale_post_is_reported_as_sent_by_the_stock_transport():
    """aiohttp does not replay a POST; the error says that it may have arrived."""

    async def script(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(answer())
        await peer.read_request()

    async with scripted_server(script) as server:
        stock = StockTransport()
        await fetch(stock, request_to(server.url))
        with pytest.raises(httpx.RemoteProtocolError) as caught:
            await fetch(stock, request_to(server.url))
        await stock.aclose()

        assert was_request_sent(caught.value)
        assert len(server.requests) == 2


async def test_reused_connection_is_not_replayed_once_bytes_were_received(transport):
    """One byte of an answer proves that the server was at work: no second copy."""

    async def script(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(answer())
        await peer.read_request()
        await peer.send(b"H")

    async with scripted_server(script) as server:
        await fetch(transport, request_to(server.url))
        with pytest.raises(httpx.RemoteProtocolError):
            await fetch(transport, request_to(server.url))

        assert len(server.requests) == 2


async def test_replay_that_finds_nobody_still_says_sent(fast):
    """The first copy may have arrived, so a refused second connection does not make it unsent."""
    gone = asyncio.Event()

    async def script(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(answer())
        await peer.read_request()
        await gone.wait()

    async with scripted_server(script) as server:
        await fetch(fast, request_to(server.url))
        server.arrived.clear()
        second = asyncio.create_task(fetch(fast, request_to(server.url)))
        await server.arrived.wait()
    # The server has closed its listener and every connection.
    with pytest.raises(httpx.ConnectError) as caught:
        await second

    assert was_request_sent(caught.value)
    assert only_stats(fast) == NOTHING


async def test_bytes_behind_a_response_end_the_connection(fast):
    """What follows a complete response is nobody's answer: neither in the same packet nor while idle."""

    async def script(peer: Peer) -> None:
        await peer.read_request()
        if peer.number == 1:
            await peer.send(answer(b"1") + answer(b"smuggled"))
        else:
            await peer.send(answer(b"2"))
            await peer.send(answer(b"smuggled"))
        await peer.wait_gone()

    async with scripted_server(script) as server:
        assert (await fetch(fast, request_to(server.url)))[1] == b"1"
        assert (await fetch(fast, request_to(server.url)))[1] == b"2"
        await asyncio.wait_for(server.peers[1].closed.wait(), 20)

        assert only_stats(fast) == NOTHING


async def test_refused_connection_was_not_sent(transport):
    """Nobody listens: ConnectError, nothing sent."""
    async with scripted_server(always(answer())) as server:
        url = server.url
    with pytest.raises(httpx.ConnectError) as caught:
        await fetch(transport, request_to(url))

    assert not was_request_sent(caught.value)


async def test_connect_that_hangs_times_out(transport):
    """A listener with a full backlog answers no SYN: ConnectTimeout, nothing sent."""
    with deaf_listener() as url, pytest.raises(httpx.ConnectTimeout) as caught:
        await fetch(transport, request_to(url, connect=0.1))

    assert not was_request_sent(caught.value)


async def test_wait_for_a_connection_times_out(single):
    """With every connection in use, a request waits its pool time and was not sent."""
    async with held_connection(single) as server:
        expected = httpx.PoolTimeout if isinstance(single, FastTransport) else httpx.ConnectTimeout
        with pytest.raises(expected) as caught:
            await fetch(single, request_to(server.url, pool=0.05))

        assert not was_request_sent(caught.value)


@pytest.mark.parametrize("parts", [(), (answer(b"half")[:-2],)], ids=["head", "body"])
async def test_silent_server_times_out(transport, parts):
    """The read time covers the wait for the head and each wait for more of the body."""
    async with scripted_server(always(*parts)) as server:
        with pytest.raises(httpx.ReadTimeout) as caught:
            await fetch(transport, request_to(server.url, read=0.1))

        assert was_request_sent(caught.value)


@pytest.mark.parametrize(
    "start",
    [b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;"],
    ids=["head", "chunk extension"],
)
async def test_drip_without_progress_does_not_extend_the_read_time(fast, start):
    """Bytes that bring neither a head nor a body leave the clock alone."""

    async def script(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(start)
        while not peer.reader.at_eof():
            await peer.send(b"x")
            await asyncio.sleep(0.02)

    async with scripted_server(script) as server:
        with pytest.raises(httpx.ReadTimeout):
            async with asyncio.timeout(3):
                await fetch(fast, request_to(server.url, read=0.15))


async def test_slow_stream_outlives_the_read_time_that_it_keeps(transport):
    """Chunks that each come in time may take longer together."""

    async def script(peer: Peer) -> None:
        await peer.read_request()
        await peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(8):
            await asyncio.sleep(0.05)
            await peer.send(b"1\r\nx\r\n")
        await peer.send(b"0\r\n\r\n")

    async with scripted_server(script) as server:
        assert (await fetch(transport, request_to(server.url, read=0.2)))[1] == b"x" * 8


async def test_server_that_does_not_take_the_request_times_out(fast):
    """A body that the peer does not read ends in WriteTimeout, maybe sent."""

    async def script(peer: Peer) -> None:
        peer.writer.transport.pause_reading()
        await asyncio.Event().wait()

    async with scripted_server(script) as server:
        with pytest.raises(httpx.WriteTimeout) as caught:
            await fetch(fast, request_to(server.url, body=b"x" * 20_000_000, write=0.2))

        assert was_request_sent(caught.value)
        assert only_stats(fast) == NOTHING


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
async def test_large_request_arrives_whole(transport):
    """A body far above the socket's buffers is sent, and its own time starts anew while it progresses."""
    async with scripted_server(always(answer(b"ok"))) as server:
        body = bytes(range(256)) * 20_000
        assert (await fetch(transport, request_to(server.url, body=body)))[1] == b"ok"

        assert body == server.requests[0].body


async def test_slow_upload_outlives_the_write_time_that_it_keeps(fast):
    """A body that is taken piece by piece may take longer than the write time altogether."""

    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        taken = 0
        while taken < 20_000_000:
            await asyncio.sleep(0.02)
            taken += len(await peer.reader.readexactly(500_000))
        await peer.send(answer(b"ok"))

    async with scripted_server(script) as server:
        request = request_to(server.url, body=b"x" * 20_000_000, write=0.25)
        assert (await fetch(fast, request))[1] == b"ok"


async def test_read_time_starts_when_the_request_is_taken(fast):
    """A long write time does not prolong the wait for an answer once the body is out."""
    async with scripted_server(always()) as server:
        with pytest.raises(httpx.ReadTimeout):
            async with asyncio.timeout(3):
                await fetch(fast, request_to(server.url, body=b"x" * 20_000_000, write=10.0, read=0.1))


async def test_early_answer_to_an_unfinished_request_is_delivered(fast):
    """A server may refuse before it has read all; the answer counts, the connection does not."""

    async def script(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        await peer.send(answer(b"too large", status=b"413 Content Too Large"))
        peer.writer.transport.pause_reading()
        await asyncio.Event().wait()

    async with scripted_server(script) as server:
        response, body = await fetch(fast, request_to(server.url, body=b"x" * 20_000_000))

        assert (response.status_code, body) == (413, b"too large")
        assert only_stats(fast) == NOTHING


async def test_cancelled_while_connecting(fast):
    """A request cancelled before its connection stands leaves nothing behind and was not sent."""
    with deaf_listener() as url:
        task = asyncio.create_task(fetch(fast, request_to(url)))
        await asyncio.sleep(0.01)
        assert only_stats(fast)["open"] == 1
        await end_by_cancel(task)

        assert only_stats(fast) == NOTHING


async def test_cancelled_while_waiting_for_a_connection(single):
    """A cancelled waiter does not swallow the connection that comes free."""
    async with held_connection(single) as server:
        waiter = asyncio.create_task(fetch(single, request_to(server.url)))
        await asyncio.sleep(0.01)
        await end_by_cancel(waiter)
    async with scripted_server(always(answer(b"ok"))) as server:
        assert (await fetch(single, request_to(server.url)))[1] == b"ok"


async def test_cancelled_while_waiting_for_the_head(transport):
    """The connection that carries a cancelled request is closed, its place is free."""
    async with held_connection(transport) as server:
        cancelled = server.peers[0]
    await cancelled.closed.wait()

    if isinstance(transport, FastTransport):
        assert only_stats(transport) == NOTHING


async def test_cancelled_in_the_middle_of_a_body(transport):
    """A reader that is cancelled mid-stream takes its connection with it."""
    async with scripted_server(always(answer(b"half")[:-2])) as server:
        response = await transport.handle_async_request(request_to(server.url))
        chunks = aiter(response.stream)
        assert await anext(chunks) == b"ha"
        task = asyncio.ensure_future(anext(chunks))
        await asyncio.sleep(0.01)
        await end_by_cancel(task)
        if isinstance(transport, FastTransport):
            assert only_stats(transport) == NOTHING
        await response.aclose()
        await server.peers[0].closed.wait()


async def test_churn_of_cancelled_calls_leaves_a_healthy_pool(transport):
    """Ten connections, forty callers that lose patience at random: afterwards five of five requests succeed."""
    dice = random.Random(7)

    async def script(peer: Peer) -> None:
        while True:
            await peer.read_request()
            await asyncio.sleep(dice.random() * 0.01)
            await peer.send(answer(b"he", extra=b"Keep-Alive: timeout=60\r\n")[:-1])
            await peer.send(b"e")

    async def caller(url: str, until: float) -> None:
        while asyncio.get_running_loop().time() < until:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(dice.random() * 0.02):
                    await fetch(transport, request_to(url))

    async with scripted_server(script) as server:
        until = asyncio.get_running_loop().time() + (1.2 if isinstance(transport, FastTransport) else 0.4)
        await asyncio.gather(*(caller(server.url, until) for _ in range(40)))
        healthy = [await fetch(transport, request_to(server.url)) for _ in range(5)]

        assert [body for _, body in healthy] == [b"he"] * 5
        if isinstance(transport, FastTransport):
            stats = only_stats(transport)
            assert (stats["in_use"], stats["waiting"]) == (0, 0)
            assert stats["open"] <= 10


async def test_many_requests_share_few_connections(transport):
    """Two hundred at once over ten connections: all served, never an eleventh."""

    async def script(peer: Peer) -> None:
        while True:
            request = await peer.read_request()
            await peer.send(answer(request.body))

    async with scripted_server(script) as server:
        bodies = [b"%d" % number for number in range(200)]
        got = await asyncio.gather(*(fetch(transport, request_to(server.url, body=body)) for body in bodies))

        assert bodies == [body for _, body in got]
        assert len(server.peers) <= 10


async def test_waiters_are_served_in_the_order_they_came():
    """The line is first in, first out."""
    fast = FastTransport(limit_per_origin=1)
    async with scripted_server(always(answer())) as server:
        calls = [fetch(fast, request_to(server.url, body=b"%d" % number)) for number in range(20)]
        await asyncio.gather(*calls)
        await fast.aclose()

        assert [b"%d" % number for number in range(20)] == [request.body for request in server.requests]


async def test_slow_reader_makes_the_server_wait(transport):
    """A server that pushes 50 MB to a reader that does not read is stopped by the sockets, not buffered here."""
    pushed = 0
    total = 50_000_000

    async def script(peer: Peer) -> None:
        nonlocal pushed
        await peer.read_request()
        peer.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % total)
        while pushed < total:
            peer.writer.write(b"x" * 100_000)
            await peer.writer.drain()
            pushed += 100_000
        await peer.wait_gone()

    async with scripted_server(script) as server:
        response = await transport.handle_async_request(request_to(server.url))
        await wait_until_still(lambda: pushed)
        assert pushed < 20_000_000
        if isinstance(transport, FastTransport):
            assert response.stream._exchange.response.unread_bytes <= 64 * 1024 + 256 * 1024
        received = 0
        async for chunk in response.stream:
            received += len(chunk)
        await response.aclose()

        assert total == received


async def wait_until_still(measure):
    """Wait until a number that grows has stood still for 50 ms."""
    before, now = -1, measure()
    while before != now or not now:
        await asyncio.sleep(0.05)
        before, now = now, measure()


@contextlib.contextmanager
def tls_contexts(certificate):
    server, client = (
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER),
        ssl.create_default_context(cafile=certificate[0]),
    )
    server.load_cert_chain(*certificate)
    yield server, client


@pytest.mark.parametrize("kind", [FastTransport, StockTransport])
async def test_tls_with_the_name_kept(kind, certificate):
    """The name goes out as SNI and Host, the certificate is checked against it, the connection is kept."""
    names: list[str] = []
    with tls_contexts(certificate) as (server_tls, client_tls):
        server_tls.sni_callback = lambda _socket, name, _context: names.append(name)
        transport = kind(ssl_context=client_tls)
        async with scripted_server(always(CHUNKED), tls=server_tls) as server:
            server.host = "localhost"
            for _ in range(2):
                assert (await fetch(transport, request_to(server.url)))[1] == b"hello world"
            await transport.aclose()

            assert names == ["localhost"]
            assert f"localhost:{server.port}".encode() == server.requests[0].header(b"host")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_tls_certificate_that_does_not_fit_is_refused(transport, certificate, host):
    """An unknown issuer or another name: ConnectError, and no byte of the request."""
    with tls_contexts(certificate) as (server_tls, _):
        async with scripted_server(always(answer()), tls=server_tls) as server:
            server.host = host
            with pytest.raises(httpx.ConnectError) as caught:
                await fetch(transport, request_to(server.url))

            assert not was_request_sent(caught.value)
            assert server.requests == []


async def test_tls_handshake_that_hangs_times_out(fast):
    """The connect time covers the handshake."""
    async with scripted_server(always(answer())) as server:
        server.scheme = "https"
        with pytest.raises(httpx.ConnectTimeout):
            await fetch(fast, request_to(server.url, connect=0.1))

        assert only_stats(fast) == NOTHING


@pytest.mark.parametrize(
    "header",
    [
        (b"X-A", b"1\r\nX-Evil: 2"),
        (b"X-A", b"1\n"),
        (b"X-A", b"1\r2"),
        (b"X-A", b"1\x00"),
        (b"X-A\r\nX-Evil", b"1"),
    ],
    ids=["CRLF", "LF", "CR", "NUL", "name"],
)
async def test_header_injection_is_refused_before_anything_is_sent(transport, header):
    """A name or value that could split the request never reaches the wire."""
    async with scripted_server(always(answer())) as server:
        with pytest.raises(httpx.LocalProtocolError) as caught:
            await fetch(transport, request_to(server.url, headers=[header]))

        assert not was_request_sent(caught.value)
        assert server.requests == []


@pytest.mark.parametrize(
    ("method", "header"),
    [
        ("POST", (b"X A", b"1")),
        ("POST", (b"X-A:", b"1")),
        ("POST", (b"Content-Length", b"3")),
        ("POST", (b"Host", b"other")),
        ("PO ST", (b"X-A", b"1")),
    ],
    ids=["space in a name", "colon in a name", "wrong length", "second host", "method"],
)
async def test_fast_transport_refuses_ambiguous_framing(fast, method, header):
    """A request that two readers could understand differently is not sent."""
    async with scripted_server(always(answer())) as server:
        headers = [(b"Host", b"one"), (b"Content-Length", b"%d" % len(BODY)), header]
        with pytest.raises(httpx.LocalProtocolError):
            await fetch(fast, request_to(server.url, method=method, headers=headers))

        assert fast.stats() == {}


async def test_generated_body_is_sent_with_its_length(fast):
    """A body from a generator is read first: some providers refuse chunked requests."""

    async def parts():
        yield b"one "
        yield b"two"

    async with scripted_server(always(answer())) as server:
        await fetch(fast, request_to(server.url, body=parts()))

        request: SeenRequest = server.requests[0]
        assert (request.header(b"content-length"), request.header(b"transfer-encoding")) == (b"7", None)
        assert request.body == b"one two"


async def test_closing_a_response_early_closes_its_connection(transport):
    """The rest of an unwanted body is not read; the next request has a connection of its own."""
    async with scripted_server(always(answer(b"half")[:-2])) as server:
        response = await transport.handle_async_request(request_to(server.url))
        await response.aclose()
        await server.peers[0].closed.wait()

        if isinstance(transport, FastTransport):
            with pytest.raises(httpx.StreamClosed):
                await anext(aiter(response.stream))
            assert only_stats(transport) == NOTHING


@pytest.mark.filterwarnings("ignore:an upstream response was dropped:ResourceWarning")
async def test_forgotten_response_gives_its_place_back(fast):
    """A response that nobody closed does not hold its connection for ever."""
    async with scripted_server(always(answer(b"half")[:-2])) as server:
        response = await fast.handle_async_request(request_to(server.url))
        assert response.status_code == 200
        del response
        gc.collect()
        await server.peers[0].closed.wait()

        assert only_stats(fast) == NOTHING


async def test_idle_connection_expires(fast):
    """An idle connection is closed after its time, before the server would do it."""
    fast = FastTransport(keepalive_expiry_s=0.05)
    async with scripted_server(always(answer())) as server:
        await fetch(fast, request_to(server.url))
        await asyncio.wait_for(server.peers[0].closed.wait(), 20)
        await fast.aclose()

        assert only_stats(fast) == NOTHING


async def test_announced_idle_limit_is_respected(fast):
    """A server that says how long it waits is left a second earlier."""
    async with scripted_server(always(answer(extra=b"Keep-Alive: timeout=1, max=5\r\n"))) as server:
        await fetch(fast, request_to(server.url))
        await asyncio.wait_for(server.peers[0].closed.wait(), 10)


async def test_old_connection_is_not_kept():
    """A connection above its age is closed instead of kept, so that a moved name is noticed."""
    fast = FastTransport(max_age_s=0)
    async with scripted_server(always(answer())) as server:
        for _ in range(2):
            await fetch(fast, request_to(server.url))
        await fast.aclose()

        assert len(server.peers) == 2


async def test_closing_the_transport_ends_what_is_in_flight(single):
    """A request in flight and one in line both end with an error when the transport closes."""
    async with held_connection(single) as server:
        in_line = asyncio.create_task(fetch(single, request_to(server.url)))
        await asyncio.sleep(0.01)
        await single.aclose()
        with pytest.raises(httpx.TransportError) as caught:
            await asyncio.wait_for(in_line, 20)
        await asyncio.wait_for(server.peers[0].closed.wait(), 20)

        assert not was_request_sent(caught.value)
        with pytest.raises(httpx.ConnectError):
            await fetch(single, request_to(server.url))
        if isinstance(single, FastTransport):
            assert only_stats(single) == NOTHING


async def test_closing_the_transport_ends_a_connect(fast):
    """A request whose connection is still being opened ends when the transport closes."""
    with deaf_listener() as url:
        connecting = asyncio.create_task(fetch(fast, request_to(url, connect=None)))
        await asyncio.sleep(0.01)
        await fast.aclose()
        with pytest.raises(httpx.ConnectError):
            await asyncio.wait_for(connecting, 20)

    assert only_stats(fast) == NOTHING


async def test_unknown_scheme_is_refused(transport):
    """Only http and https have a meaning here."""
    with pytest.raises(httpx.UnsupportedProtocol) as caught:
        await fetch(transport, request_to("ftp://127.0.0.1/"))

    assert not was_request_sent(caught.value)


async def test_works_under_a_client_of_httpx(transport):
    """As the transport of an httpx.AsyncClient: plain, streamed, left early."""
    async with (
        scripted_server(always(CHUNKED)) as server,
        httpx.AsyncClient(verify=False, transport=transport) as client,
    ):
        plain = await client.post(server.url, json={"model": "m"})
        async with client.stream("POST", server.url, content=BODY) as response:
            streamed = [line async for line in response.aiter_lines()]
        async with client.stream("POST", server.url, content=BODY) as left:
            pass

        assert plain.text == "hello world"
        assert streamed == ["hello world"]
        assert left.status_code == 200
