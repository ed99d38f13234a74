"""Flow control, disconnects and failing applications, on both engines: bounded memory, and news of who has left."""

from __future__ import annotations

import asyncio
import gc
import socket
from collections.abc import AsyncIterator
from contextlib import suppress

import orjson
import pytest
from starlette.responses import StreamingResponse

from node.engine.connection import Connection
from node.engine.contract import ON_DISCONNECT, EngineName
from tests.conformance.raw_http import (
    ENGINES,
    EVENT_LOOPS,
    Message,
    Peer,
    Receive,
    Send,
    echo,
    read_body,
    request,
    respond,
    serving,
    settled,
    until,
)

__all__ = ["EVENT_LOOPS"]  # the suite runs on each of them
both = pytest.mark.parametrize("engine", ENGINES)
fast = pytest.mark.parametrize("engine", ENGINES[:1])
CHUNK = b"x" * 65_536
MEGABYTE = 1024 * 1024


async def start_stream(send: Send, *, version_headers: tuple[tuple[bytes, bytes], ...] = ()) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": list(version_headers)})


async def leave(peer: Peer, manner: str) -> None:
    """End the client's side: a killed process, an orderly close, or only the sending half."""
    match manner:
        case "reset":
            peer.reset()
        case "close":
            await peer.close()
        case "half-close":
            peer.writer.write_eof()


@both
async def test_a_slow_reader_slows_the_application(engine: EngineName) -> None:
    """send() waits while the client does not read: what is buffered has a bound, and nothing is lost."""
    sent_bytes = 0

    async def flood(scope: Message, receive: Receive, send: Send) -> None:
        nonlocal sent_bytes
        await read_body(receive)
        await start_stream(send)
        while sent_bytes < 32 * MEGABYTE:
            await send({"type": "http.response.body", "body": CHUNK, "more_body": True})
            sent_bytes += len(CHUNK)
        await send({"type": "http.response.body"})

    async with serving(engine, flood) as served, await served.connect(receive_buffer_bytes=65_536) as peer:
        await peer.send(request())
        held_bytes = await settled(lambda: sent_bytes)
        assert 0 < held_bytes < 8 * MEGABYTE
        assert len((await peer.answer()).body) == 32 * MEGABYTE


@both
async def test_a_slow_application_slows_the_sender(engine: EngineName) -> None:
    """A body that nobody reads is not taken in beyond a bound, and arrives whole once it is read."""
    go = asyncio.Event()
    size_bytes = 16 * MEGABYTE

    async def lazy(scope: Message, receive: Receive, send: Send) -> None:
        await go.wait()
        await respond(send, b"%d" % len(await read_body(receive)))

    async with serving(engine, lazy) as served, await served.connect() as peer:
        sending = asyncio.create_task(peer.send(request(method="POST", body=b"x" * size_bytes)))
        unsent_bytes = await settled(peer.writer.transport.get_write_buffer_size)
        assert unsent_bytes > size_bytes // 4
        go.set()
        assert b"%d" % size_bytes == (await peer.answer()).body
        await sending


@fast
async def test_a_pipelining_client_is_not_read_ahead_without_end(engine: EngineName) -> None:
    """What is sent ahead of a running request is kept, then left in the socket (stock: read by its own rules)."""
    go = asyncio.Event()

    async def patient(scope: Message, receive: Receive, send: Send) -> None:
        await read_body(receive)
        await go.wait()
        await respond(send, scope["path"].encode())

    filler = b"x" * 4000
    sent = request("/first") + b"".join(request(f"/{n}", method="POST", body=filler) for n in range(2000))
    async with serving(engine, patient) as served, await served.connect() as peer:
        sending = asyncio.create_task(peer.send(sent))
        assert await settled(peer.writer.transport.get_write_buffer_size) > len(sent) // 4
        go.set()
        assert (await peer.answer()).body == b"/first"
        for number in range(2000):
            assert b"/%d" % number == (await peer.answer()).body
        await sending


@fast
async def test_answers_to_a_pipelining_client_that_does_not_read_are_bounded(engine: EngineName) -> None:
    """The next request waits until the answer before it is on its way out."""
    called = 0

    async def large(scope: Message, receive: Receive, send: Send) -> None:
        nonlocal called
        called += 1
        await respond(send, scope["path"].encode().ljust(4 * len(CHUNK)))

    async with serving(engine, large) as served, await served.connect(receive_buffer_bytes=65_536) as peer:
        for start in (0, 100):  # the second hundred arrives while the answers to the first are stuck
            await peer.send(b"".join(request(f"/{number}") for number in range(start, start + 100)))
            assert await settled(lambda: called) < 40
        for number in range(200):
            body = (await peer.answer()).body
            assert (body.rstrip(), len(body)) == (b"/%d" % number, 4 * len(CHUNK))

    assert called == 200


@fast
async def test_a_client_that_takes_nothing_is_cut_off(engine: EngineName) -> None:
    """A stalled reader does not hold its connection for ever (stock has no such deadline)."""
    ended = asyncio.Event()

    async def flood(scope: Message, receive: Receive, send: Send) -> None:
        await start_stream(send)
        for _ in range(1000):
            await send({"type": "http.response.body", "body": CHUNK, "more_body": True})
        assert (await receive())["type"] == "http.disconnect"
        ended.set()

    async with (
        serving(engine, flood, write_stall_s=0.1) as served,
        await served.connect(receive_buffer_bytes=65_536) as peer,
    ):
        await peer.send(request())
        await asyncio.wait_for(ended.wait(), 20)
        await until(lambda: served.server.connections == 0)


@both
@pytest.mark.parametrize("manner", ["reset", "close", "half-close"])
@pytest.mark.parametrize("moment", ["before the head", "mid-stream"])
async def test_a_client_that_leaves_is_noticed_at_once(engine: EngineName, moment: str, manner: str) -> None:
    """A watcher on receive() hears of it, before the first byte and in the middle of a stream."""
    waiting, told = asyncio.Event(), asyncio.Event()

    async def watch(scope: Message, receive: Receive, send: Send) -> None:
        await read_body(receive)
        if moment == "mid-stream":
            await start_stream(send)
            await send({"type": "http.response.body", "body": b"first", "more_body": True})
        waiting.set()
        assert (await receive())["type"] == "http.disconnect"
        told.set()

    async with serving(engine, watch) as served:
        peer = await served.connect()
        await peer.send(request(method="POST", body=b"hello"))
        if moment == "mid-stream":
            assert (await peer.head()).status == 200
        await waiting.wait()
        assert not told.is_set()
        await leave(peer, manner)
        await asyncio.wait_for(told.wait(), 20)
        await until(lambda: served.server.in_flight == 0)
        await peer.close()


@fast
@pytest.mark.parametrize("moment", ["while it works", "before it asked", "never"])
async def test_somebody_may_be_called_when_the_client_leaves(engine: EngineName, moment: str) -> None:
    """By the extension: at once, also if it has left already, and not after the answer or once nobody is to be called."""
    waiting, left, calls = asyncio.Event(), asyncio.Event(), []

    async def listen(scope: Message, receive: Receive, send: Send) -> None:
        await read_body(receive)
        on_disconnect = scope["extensions"][ON_DISCONNECT]
        if moment != "before it asked":
            on_disconnect(lambda: calls.append("gone"))
        waiting.set()
        await left.wait()
        if moment == "before it asked":
            on_disconnect(lambda: calls.append("gone"))
        if moment == "never":
            on_disconnect(None)
            await respond(send)

    async with serving(engine, listen) as served:
        peer = await served.connect()
        await peer.send(request(method="POST", body=b"hello"))
        await waiting.wait()
        if moment == "never":
            left.set()
            assert (await peer.answer()).status == 200
        await peer.close()
        if moment == "while it works":
            await until(lambda: calls == ["gone"])
        else:
            await until(lambda: served.server.connections == 0)
        left.set()
        await until(lambda: served.server.in_flight == 0)
        assert calls == ([] if moment == "never" else ["gone"])


@both
async def test_leaving_is_told_to_who_asks_later(engine: EngineName) -> None:
    """http.disconnect is kept for an application that was not waiting for it, and told as often as asked."""
    go = asyncio.Event()
    told = asyncio.Queue[str]()

    async def late(scope: Message, receive: Receive, send: Send) -> None:
        await read_body(receive)
        await go.wait()
        told.put_nowait((await receive())["type"])

    async with serving(engine, late) as served:
        peer = await served.connect()
        await peer.send(request())
        await until(lambda: served.server.in_flight == 1)
        await peer.close()
        if engine == "fast":
            await until(lambda: served.server.connections == 0)
        go.set()
        assert await asyncio.wait_for(told.get(), 20) == "http.disconnect"


@both
async def test_leaving_in_the_middle_of_a_body_is_told(engine: EngineName) -> None:
    """A body that breaks off is never taken for a whole one."""
    told = asyncio.Queue[str]()

    async def read(scope: Message, receive: Receive, send: Send) -> None:
        try:
            told.put_nowait(f"whole: {await read_body(receive)!r}")
        except ConnectionResetError:
            told.put_nowait("broken")

    async with serving(engine, read) as served:
        peer = await served.connect()
        await peer.send(request(method="POST", headers=("Content-Length: 10",)) + b"12345")
        await until(lambda: served.server.in_flight == 1)
        await peer.close()
        assert await asyncio.wait_for(told.get(), 20) == "broken"


@fast
async def test_leaving_is_noticed_behind_a_pipelined_request(engine: EngineName) -> None:
    """Another request sent ahead does not hide the disconnect (with stock it does)."""
    waiting, told = asyncio.Event(), asyncio.Event()

    async def watch(scope: Message, receive: Receive, send: Send) -> None:
        await read_body(receive)
        waiting.set()
        assert (await receive())["type"] == "http.disconnect"
        told.set()

    async with serving(engine, watch) as served:
        peer = await served.connect()
        await peer.send(request("/one") + request("/two"))
        await waiting.wait()
        peer.reset()
        await asyncio.wait_for(told.wait(), 20)

    assert [scope["path"] for scope in served.app.scopes] == ["/one"]


@both
async def test_sending_to_nobody_is_harmless(engine: EngineName) -> None:
    """send() after a disconnect neither raises nor waits (ASGI 2.3 and below)."""
    done = asyncio.Event()

    async def talk(scope: Message, receive: Receive, send: Send) -> None:
        await read_body(receive)
        assert scope["asgi"]["spec_version"] in {"2.1", "2.3"}
        assert (await receive())["type"] == "http.disconnect"
        await start_stream(send)
        for _ in range(200):
            await send({"type": "http.response.body", "body": CHUNK, "more_body": True})
        await send({"type": "http.response.body"})
        done.set()

    async with serving(engine, talk) as served:
        peer = await served.connect()
        await peer.send(request())
        await until(lambda: served.server.in_flight == 1)
        peer.reset()
        await asyncio.wait_for(done.wait(), 20)


@both
async def test_a_receiver_may_give_up_waiting(engine: EngineName) -> None:
    """Cancelled waits on receive() leave no trace: the next one gets the next message."""
    told = asyncio.Event()

    async def impatient(scope: Message, receive: Receive, send: Send) -> None:
        await read_body(receive)
        for _ in range(20):
            waiter = asyncio.ensure_future(receive())
            await asyncio.sleep(0)
            waiter.cancel()
            await asyncio.wait({waiter})
        await start_stream(send)
        await send({"type": "http.response.body", "body": b"x", "more_body": True})
        assert (await receive())["type"] == "http.disconnect"
        told.set()

    async with serving(engine, impatient) as served:
        peer = await served.connect()
        await peer.send(request())
        await peer.head()
        await peer.close()
        await asyncio.wait_for(told.wait(), 20)


@both
async def test_starlette_stops_a_stream_nobody_reads(engine: EngineName) -> None:
    """StreamingResponse's own watcher works with the specification version that is announced."""
    stopped = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        try:
            while True:
                yield b"tick"
                await asyncio.sleep(0.005)
        finally:
            stopped.set()

    async def stream(scope: Message, receive: Receive, send: Send) -> None:
        await read_body(receive)
        await StreamingResponse(endless())(scope, receive, send)

    async with serving(engine, stream) as served:
        peer = await served.connect()
        await peer.send(request())
        await peer.head()
        await peer.close()
        await asyncio.wait_for(stopped.wait(), 20)


@both
async def test_a_finished_response_ends_the_watch(engine: EngineName) -> None:
    """receive() returns http.disconnect once the response is complete, so that no watcher is left behind."""
    told = asyncio.Queue[str]()

    async def answer_and_ask(scope: Message, receive: Receive, send: Send) -> None:
        await read_body(receive)
        watcher = asyncio.ensure_future(receive())
        await respond(send, b"done")
        told.put_nowait((await watcher)["type"])

    async with serving(engine, answer_and_ask) as served, await served.connect() as peer:
        for _ in range(2):
            await peer.send(request())
            assert (await peer.answer()).body == b"done"
            assert await asyncio.wait_for(told.get(), 20) == "http.disconnect"


@both
async def test_an_application_that_fails_before_its_answer(
    engine: EngineName, caplog: pytest.LogCaptureFixture
) -> None:
    """An exception makes a 500 in the API's own shape, the connection ends, the log says why, others are served."""

    async def fail(scope: Message, receive: Receive, send: Send) -> None:
        await read_body(receive)
        if scope["path"] == "/fail":
            await start_stream(send)  # nothing has left yet: with the fast engine this is still a 500
            raise ValueError("a fault to be seen in the log")
        await respond(send, b"well")

    async with serving(engine, fail) as served, await served.connect() as other:
        answered = await served.exchange(request("/fail") + request("/never"))
        await other.send(request("/other"))
        assert (await other.answer()).body == b"well"

    assert "a fault to be seen in the log" in caplog.text
    assert "/never" not in [scope["path"] for scope in served.app.scopes]
    if engine == "fast":  # stock sends the head at once, and can only cut
        assert answered.startswith(b"HTTP/1.1 500 ")
        assert orjson.loads(answered.partition(b"\r\n\r\n")[2])["error"]["code"] == "internal_error"


@both
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_an_application_that_does_not_answer(engine: EngineName, method: str) -> None:
    """Returning without a response is a 500 too, and HEAD gets none of its body."""

    async def silent(scope: Message, receive: Receive, send: Send) -> None:
        await read_body(receive)

    async with serving(engine, silent) as served:
        head, _, body = (await served.exchange(request(method=method))).partition(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 500 ")
    assert (method == "GET") == bool(body)
    assert b"connection: close" in head


@both
@pytest.mark.parametrize("failure", ["raises", "returns"])
@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_a_broken_stream_is_cut(engine: EngineName, version: str, failure: str) -> None:
    """After the first byte a failure is an end without the terminal chunk; in HTTP/1.0 the fast engine resets."""

    async def fail(scope: Message, receive: Receive, send: Send) -> None:
        await read_body(receive)
        await start_stream(send)
        await send({"type": "http.response.body", "body": b"first", "more_body": True})
        if failure == "raises":
            raise ValueError("in the middle")

    async with serving(engine, fail) as served, await served.connect() as peer:
        await peer.send(request(version=version))
        received = await peer.read_to_end()

    assert b"0\r\n\r\n" not in received
    assert version == "1.0" or received.endswith(b"5\r\nfirst\r\n")
    if engine == "fast":
        assert (version == "1.0") == isinstance(peer.reader.exception(), ConnectionResetError)


@both
@pytest.mark.parametrize("body", [b"too long for it", b"short"], ids=["more", "less"])
async def test_a_wrong_content_length_is_never_sent_as_right(engine: EngineName, body: bytes) -> None:
    """More or less than announced: the connection ends, and the next response cannot begin inside this one."""

    async def careless(scope: Message, receive: Receive, send: Send) -> None:
        await read_body(receive)
        await start_stream(send, version_headers=((b"content-length", b"10"),))
        await send({"type": "http.response.body", "body": b"", "more_body": True})
        await send({"type": "http.response.body", "body": body})

    async with serving(engine, careless) as served:
        answered = await served.exchange(request() + request("/never"))

    assert len(answered.partition(b"\r\n\r\n")[2]) < 10
    assert len(served.app.scopes) == 1


@fast
async def test_a_wrong_content_length_in_one_message_is_a_500(engine: EngineName) -> None:
    """Nothing has left yet, so the mistake can still be answered (stock cuts)."""

    async def careless(scope: Message, receive: Receive, send: Send) -> None:
        await respond(send, b"hello", headers=((b"content-length", b"10"),))

    async with serving(engine, careless) as served:
        assert (await served.exchange(request())).startswith(b"HTTP/1.1 500 ")


@fast
async def test_messages_out_of_order_are_errors(engine: EngineName) -> None:
    """A body before its start, a second start, a body after the end: RuntimeError, as in other servers."""
    refused: list[str] = []

    async def confused(scope: Message, receive: Receive, send: Send) -> None:
        start = {"type": "http.response.start", "status": 200}
        body = {"type": "http.response.body"}
        for message in (body, start, start, body, body, start):
            try:
                await send(message)
            except RuntimeError as error:
                refused.append(str(error))

    async with serving(engine, confused) as served, await served.connect() as peer:
        await peer.send(request())
        assert (await peer.answer()).status == 200
        await until(lambda: served.server.in_flight == 0)

    assert len(refused) == 4


@fast
async def test_churn_leaves_nothing_behind(engine: EngineName) -> None:
    """Clients that leave at any moment leave no connection and no request in the engine's books."""
    async with serving(engine, echo) as served:

        async def visit(number: int) -> None:
            peer = await served.connect()
            sent = request(f"/{number}", method="POST", body=b"x" * 3000)
            await peer.send(sent[: 1 + number * 37 % len(sent)])
            if number % 3:
                await asyncio.sleep(0)
            if number % 2:
                peer.reset()
            await peer.close()

        await asyncio.gather(*(visit(number) for number in range(100)))
        await until(lambda: served.server.connections == served.server.in_flight == 0)


@fast
async def test_ended_connections_leave_nothing_to_the_collector(engine: EngineName) -> None:
    """Their memory is free at once: a node with thousands of clients would else hold it until the collector comes by."""
    async with serving(engine, echo) as served:
        gc.collect()
        gc.disable()
        try:
            for _ in range(5):
                async with await served.connect() as peer:
                    await peer.send(request())
                    await peer.answer()
            await until(lambda: served.server.connections == 0)
            await asyncio.sleep(0.01)  # the transports' own last steps
            left = [one for one in gc.get_objects() if isinstance(one, Connection)]
        finally:
            gc.enable()

    assert not left


@fast
async def test_what_is_left_of_a_cut_answer_waits_for_nobody(engine: EngineName) -> None:
    """A reader that takes nothing, of an answer that has come to nothing: its connection goes with the answer."""

    async def flood(scope: Message, receive: Receive, send: Send) -> None:
        await start_stream(send)
        with suppress(TimeoutError):
            async with asyncio.timeout(0.1):
                while True:
                    await send({"type": "http.response.body", "body": CHUNK, "more_body": True})

    async with serving(engine, flood) as served, await served.connect(receive_buffer_bytes=16_384) as peer:
        await peer.send(request())
        await until(lambda: served.server.in_flight == 1)
        await until(lambda: served.server.connections == 0)


@fast
async def test_newcomers_do_not_wait_a_turn_of_the_loop_each(engine: EngineName) -> None:
    """Turns are long in a busy node; a crowd of new clients is let in within a few of them."""
    async with serving(engine, echo) as served:
        crowd = [socket.create_connection(served.address) for _ in range(64)]
        turns = 0
        while served.server.connections < len(crowd) and turns < 64:
            await asyncio.sleep(0)
            turns += 1
        for client in crowd:
            client.close()

    assert turns < 20
