"""The runner on both engines: lifespan, the three phases of a drain, abort, and a hand-over without a failed request."""

from __future__ import annotations

import asyncio
import socket
from contextlib import closing
from typing import Any

import pytest

from node.engine.contract import EngineName
from node.server import HttpServer, ServerOptions, bind_socket, serve
from tests.conformance.raw_http import (
    ENGINES,
    EVENT_LOOPS,
    QUICK,
    Message,
    Peer,
    Receive,
    RecordingApp,
    Send,
    Served,
    echo,
    read_body,
    request,
    respond,
    serving,
    until,
)

__all__ = ["EVENT_LOOPS"]  # the suite runs on each of them
both = pytest.mark.parametrize("engine", ENGINES)
fast = pytest.mark.parametrize("engine", ENGINES[:1])


class Stage:
    """A handler that streams three chunks, and holds after the first until it is let go."""

    def __init__(self) -> None:
        self.held, self.go = asyncio.Event(), asyncio.Event()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        await read_body(receive)
        if scope["path"] != "/stream":
            await respond(send, b"hello", headers=((b"content-length", b"5"),))
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"one", "more_body": True})
        self.held.set()
        await self.go.wait()
        await send({"type": "http.response.body", "body": b"two", "more_body": True})
        await send({"type": "http.response.body", "body": b"three"})


async def rest_of(peer: Peer) -> list[bytes]:
    """The chunks up to the terminal one."""
    return [chunk async for chunk in _chunks(peer)]


async def _chunks(peer: Peer) -> Any:
    while chunk := await peer.chunk():
        yield chunk


async def assert_refused(served: Served) -> None:
    with pytest.raises(OSError):  # refused or reset, as the kernel likes
        async with await served.connect() as peer:
            await peer.send(request())
            await peer.head()


@both
async def test_the_lifespan_frames_the_service(engine: EngineName) -> None:
    """Startup before the first request, shutdown after the last one has ended."""
    stage = Stage()
    async with serving(engine, stage) as served, await served.connect() as peer:
        assert served.app.log == ["lifespan.startup"]
        await peer.send(request("/stream"))
        await stage.held.wait()
        draining = asyncio.create_task(served.server.drain())
        await asyncio.sleep(0.1)
        assert served.app.log == ["lifespan.startup", "request"]
        stage.go.set()
        assert (await peer.answer()).chunks == [b"one", b"two", b"three"]
        await draining

    assert served.app.log == ["lifespan.startup", "request", "lifespan.shutdown"]


@both
@pytest.mark.parametrize("failure", ["raises", "reports", "returns"])
async def test_a_failed_startup_is_raised(engine: EngineName, failure: str) -> None:
    """The application's own exception reaches who starts the server, and nothing is served."""

    async def broken(scope: Message, receive: Receive, send: Send) -> None:
        await receive()
        if failure == "raises":
            raise ValueError("no configuration")
        if failure == "reports":
            await send({"type": "lifespan.startup.failed", "message": "no configuration"})

    with closing(bind_socket("127.0.0.1", 0)) as sock:
        server = HttpServer(broken, [sock], ServerOptions(engine=engine, **QUICK))
        expected = "without lifespan.startup.complete" if failure == "returns" else "no configuration"
        with pytest.raises(ValueError if failure == "raises" else RuntimeError, match=expected):
            await server.start()


@both
async def test_an_endless_shutdown_is_cut_short(engine: EngineName) -> None:
    """The application has shutdown_s, and is cancelled then."""
    cancelled = asyncio.Event()

    async def stubborn(scope: Message, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    server = HttpServer(
        stubborn, [bind_socket("127.0.0.1", 0)], ServerOptions(engine=engine, shutdown_s=0.1, **QUICK)
    )
    await server.start()
    await asyncio.wait_for(server.drain(), 8)
    assert cancelled.is_set()


@both
async def test_a_drain_announces_itself_before_it_closes(engine: EngineName) -> None:
    """First phase: old and new connections are served, and told that their connection ends. Then: refused."""
    async with serving(engine, Stage(), announce_s=0.15) as served, await served.connect() as old:
        await old.send(request("/before"))
        assert "connection" not in (await old.answer()).headers

        draining = asyncio.create_task(served.server.drain())
        await asyncio.sleep(0.05)
        await old.send(request("/old"))
        answer = await old.answer()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        assert await old.read_to_end() == b""
        if engine == "stock":  # the fast engine knows that nobody is connected any more, and goes on at once
            async with await served.connect() as new:
                await new.send(request("/new"))
                assert (await new.answer()).headers["connection"] == "close"

        await draining
        await assert_refused(served)


@fast
async def test_new_connections_are_served_while_the_drain_is_announced(engine: EngineName) -> None:
    """As long as somebody is connected who could use his connection again (stock: see the test above)."""
    async with serving(engine, Stage(), announce_s=0.15) as served, await served.connect() as idle:
        await idle.send(request())
        await idle.answer()
        draining = asyncio.create_task(served.server.drain())
        await asyncio.sleep(0.05)
        async with await served.connect() as new:
            await new.send(request("/new"))
            assert (await new.answer()).headers["connection"] == "close"
        assert not draining.done()
        await draining
        assert await idle.read_to_end() == b""


@both
async def test_a_drain_waits_for_running_streams(engine: EngineName) -> None:
    """Second phase: a stream goes on to its end while new connections are refused."""
    stage = Stage()
    async with serving(engine, stage) as served, await served.connect() as peer:
        await peer.send(request("/stream"))
        await stage.held.wait()
        draining = asyncio.create_task(served.server.drain())
        await asyncio.sleep(0.2)
        await assert_refused(served)
        assert not draining.done()
        assert served.server.in_flight == 1
        stage.go.set()
        assert (await peer.answer()).chunks == [b"one", b"two", b"three"]
        await asyncio.wait_for(draining, 8)
        assert await peer.read_to_end() == b""


@both
async def test_a_drain_closes_idle_connections(engine: EngineName) -> None:
    """A client that never comes back does not hold up the end."""
    async with serving(engine, Stage(), drain_s=30) as served, await served.connect() as idle:
        await idle.send(request())
        await idle.answer()
        await asyncio.wait_for(served.server.drain(), 8)
        assert await idle.read_to_end() == b""


@both
async def test_a_stream_that_outlives_the_drain_is_cut(engine: EngineName) -> None:
    """Last phase: it is cancelled, and ends without its terminal chunk."""
    stage = Stage()
    async with serving(engine, stage, drain_s=0.1) as served, await served.connect() as peer:
        await peer.send(request("/stream"))
        await stage.held.wait()
        await asyncio.wait_for(served.server.drain(), 8)
        received = await peer.read_to_end()

    assert received.endswith(b"3\r\none\r\n")


@both
async def test_a_cancelled_stream_may_say_goodbye(engine: EngineName) -> None:
    """The application can still send an error event when it is cancelled."""

    async def polite(scope: Message, receive: Receive, send: Send) -> None:
        await read_body(receive)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            await send({"type": "http.response.body", "body": b"one", "more_body": True})
            await receive()
        except asyncio.CancelledError:
            await send({"type": "http.response.body", "body": b"error: shutting down"})
            raise

    async with serving(engine, polite, drain_s=0.1) as served, await served.connect() as peer:
        await peer.send(request())
        await until(lambda: served.server.in_flight == 1)
        draining = asyncio.create_task(served.server.drain())
        assert (await peer.answer()).chunks == [b"one", b"error: shutting down"]
        await draining


@both
async def test_a_request_without_an_answer_yet_gets_a_503(engine: EngineName) -> None:
    """Cancelled before its first byte, a request is answered, and told to come back."""

    async def slow(scope: Message, receive: Receive, send: Send) -> None:
        await read_body(receive)
        await asyncio.Event().wait()

    async with serving(engine, slow, drain_s=0.1) as served, await served.connect() as peer:
        await peer.send(request())
        await until(lambda: served.server.in_flight == 1)
        draining = asyncio.create_task(served.server.drain())
        answer = await peer.answer()
        await draining

    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert b"shutting_down" in answer.body


@both
async def test_an_application_that_ignores_its_cancellation_does_not_hold_up_the_end(
    engine: EngineName,
) -> None:
    """After cancel_s the runner goes on without it."""
    release = asyncio.Event()

    async def deaf(scope: Message, receive: Receive, send: Send) -> None:
        await read_body(receive)
        while not release.is_set():
            try:
                await release.wait()
            except asyncio.CancelledError:
                continue

    async with serving(engine, deaf, drain_s=0.05, cancel_s=0.1) as served, await served.connect() as peer:
        await peer.send(request())
        await until(lambda: served.server.in_flight == 1)
        await asyncio.wait_for(served.server.drain(), 8)
        release.set()
        await until(lambda: served.server.in_flight == 0)


@both
async def test_an_abort_ends_at_once(engine: EngineName) -> None:
    """Whatever runs is cancelled, whoever is connected is cut; the application may still shut down."""
    stage = Stage()
    async with (
        serving(engine, stage) as served,
        await served.connect() as peer,
        await served.connect() as idle,
    ):
        await peer.send(request("/stream"))
        await stage.held.wait()
        await asyncio.wait_for(served.server.abort(), 8)
        assert not (await peer.read_to_end()).endswith(b"0\r\n\r\n")
        assert await idle.read_to_end() == b""
        assert served.server.in_flight == 0
        assert served.app.log[-1] == "lifespan.shutdown"
        await assert_refused(served)


@both
async def test_serve_drains_on_stop(engine: EngineName) -> None:
    """`serve` returns when the drain is over."""
    stage, stop, abort = Stage(), asyncio.Event(), asyncio.Event()
    sock = bind_socket("127.0.0.1", 0)
    app = RecordingApp(stage)
    served = Served(HttpServer(app, [], ServerOptions()), app, sock.getsockname())
    serving_task = asyncio.create_task(
        serve(app, [sock], ServerOptions(engine=engine, **QUICK), stop=stop, abort=abort)
    )
    async with await served.connect() as peer:
        await peer.send(request("/stream"))
        await stage.held.wait()
        stop.set()
        await peer.head()
        stage.go.set()
        assert await rest_of(peer) == [b"one", b"two", b"three"]
        await asyncio.wait_for(serving_task, 8)

    assert app.log == ["lifespan.startup", "request", "lifespan.shutdown"]


@both
@pytest.mark.parametrize("is_draining", [True, False])
async def test_serve_ends_at_once_on_abort(engine: EngineName, is_draining: bool) -> None:
    """A second signal cuts a drain short."""
    stage, stop, abort = Stage(), asyncio.Event(), asyncio.Event()
    sock = bind_socket("127.0.0.1", 0)
    app = RecordingApp(stage)
    served = Served(HttpServer(app, [], ServerOptions()), app, sock.getsockname())
    options = ServerOptions(engine=engine, drain_s=60, announce_s=0.05)
    serving_task = asyncio.create_task(serve(app, [sock], options, stop=stop, abort=abort))
    async with await served.connect() as peer:
        await peer.send(request("/stream"))
        await stage.held.wait()
        if is_draining:
            stop.set()
            await asyncio.sleep(0.1)
        abort.set()
        await asyncio.wait_for(serving_task, 8)

    assert app.log == ["lifespan.startup", "request", "lifespan.shutdown"]


@both
async def test_serve_passes_a_failed_startup_on(engine: EngineName) -> None:
    """The caller prints what is wrong and exits."""

    async def broken(scope: Message, receive: Receive, send: Send) -> None:
        raise ValueError("no configuration")

    with closing(bind_socket("127.0.0.1", 0)) as sock, pytest.raises(ValueError, match="no configuration"):
        options = ServerOptions(engine=engine, **QUICK)
        await serve(broken, [sock], options, stop=asyncio.Event(), abort=asyncio.Event())


@both
async def test_a_hand_over_fails_no_request(engine: EngineName) -> None:
    """Two servers share a listening socket, one drains: keep-alive clients that send POSTs without repeating see nothing.

    Like a reverse proxy, a client keeps its connection until an answer says `connection: close`.
    """
    listener = bind_socket("127.0.0.1", 0)
    app = RecordingApp(echo)
    options = ServerOptions(engine=engine, announce_s=0.15, drain_s=5)
    old, new = (HttpServer(app, [listener.dup()], options) for _ in range(2))
    served = Served(old, app, listener.getsockname())
    over = asyncio.Event()
    count = 0

    async def client() -> None:
        nonlocal count
        peer = await served.connect()
        while not over.is_set():
            await peer.send(request("/", method="POST", body=b"hello"))
            answer = await peer.answer()
            assert answer.body == b"POST / hello"
            count += 1
            if answer.headers.get("connection") == "close":
                await peer.close()
                peer = await served.connect()
        await peer.close()

    await old.start()
    async with asyncio.TaskGroup() as clients:
        for _ in range(8):
            clients.create_task(client())
        await until(lambda: count > 50)
        await new.start()
        await old.drain()
        before = count
        await until(lambda: count > before + 50)
        over.set()
    await new.abort()
    listener.close()


def test_a_taken_port_is_an_error() -> None:
    """bind_socket leaves the message to its caller."""
    with closing(bind_socket("127.0.0.1", 0)) as sock, pytest.raises(OSError, match="in use"):
        bind_socket("127.0.0.1", sock.getsockname()[1])


def test_a_name_is_resolved() -> None:
    """Host names and IPv6 addresses are accepted."""
    with closing(bind_socket("localhost", 0)) as sock:
        assert sock.getsockname()[0] in {"127.0.0.1", "::1"}
    if socket.has_dualstack_ipv6():
        with closing(bind_socket("::1", 0)) as sock:
            assert sock.family == socket.AF_INET6
