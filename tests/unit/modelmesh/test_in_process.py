"""The transport into an application of this process: what a caller sees of it, and it of the caller."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Callable, Iterator

import httpx
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from modelmesh.bridge import Bridge, SyncTransport
from modelmesh.errors import MeshClosedError, WrongLoopError
from modelmesh.in_process import PLACEHOLDER, Calls, InProcessTransport
from node.engine.contract import ON_DISCONNECT

URL = "http://in-process/v1/x?a=b%20c"


class Script:
    """An application that says what a test puts into `parts`, one message after the other, until an empty one."""

    def __init__(self, *parts: bytes) -> None:
        self.parts: asyncio.Queue[bytes] = asyncio.Queue()
        for part in parts:
            self.parts.put_nowait(part)
        self.scope: Scope = {}
        self.body = b""
        self.sent = 0
        self.left = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = dict(scope)
        scope["extensions"][ON_DISCONNECT](self.left.set)
        while (message := await receive())["more_body"]:
            self.body += message["body"]
        await send({"type": "http.response.start", "status": 200, "headers": [(b"x-a", b"1")]})
        while part := await self.parts.get():
            await send({"type": "http.response.body", "body": part, "more_body": True})
            self.sent += 1
        await send({"type": "http.response.body", "body": b""})


@pytest.fixture
async def client_of() -> AsyncIterator[Callable[[ASGIApp], httpx.AsyncClient]]:
    """A client of an application; all calls end with the test."""
    opened: list[tuple[Calls, httpx.AsyncClient]] = []

    def make(app: ASGIApp, token: Callable[[], str | None] = lambda: None) -> httpx.AsyncClient:
        calls = Calls(app)
        opened.append(
            (calls, httpx.AsyncClient(transport=InProcessTransport(calls, token=token), timeout=30))
        )
        return opened[-1][1]

    yield make
    for calls, client in opened:
        await client.aclose()
        await calls.end(within_s=0)


async def test_a_request_arrives_as_it_was_sent(client_of):
    """Method, path, query, headers and body are the caller's."""
    app = Script(b"yes", b"")

    answer = await client_of(app).post(URL, content=b"hello", headers={"X-Two": "2"})

    assert (answer.status_code, answer.headers["x-a"], answer.content) == (200, "1", b"yes")
    assert (app.scope["method"], app.scope["path"], app.scope["query_string"]) == (
        "POST",
        "/v1/x",
        b"a=b%20c",
    )
    assert (b"x-two", b"2") in app.scope["headers"]
    assert app.body == b"hello"


async def test_a_body_in_parts_arrives_whole(client_of):
    """A body that is made while it is sent is read as the application asks for it."""
    app = Script(b"")

    async def parts() -> AsyncIterator[bytes]:
        yield b"one "
        yield b"two"

    await client_of(app).post(URL, content=parts())

    assert app.body == b"one two"


async def test_chunks_arrive_as_they_are_sent(client_of):
    """The caller has the first chunk before the application has the second."""
    app = Script(b"one")
    async with client_of(app).stream("POST", URL) as answer:
        chunks = answer.aiter_raw()
        assert await anext(chunks) == b"one"
        for part in (b"two", b"three"):
            app.parts.put_nowait(part)
            assert await anext(chunks) == part
        app.parts.put_nowait(b"")

        with pytest.raises(StopAsyncIteration):
            await anext(chunks)


async def test_the_head_comes_with_the_first_chunk_at_the_latest(client_of):
    """An application that has sent nothing yet has not answered yet, one that has sent a chunk has."""
    app = Script()
    client = client_of(app)
    opening = asyncio.create_task(client.send(client.build_request("POST", URL), stream=True))
    await asyncio.sleep(0.01)
    assert not opening.done()

    app.parts.put_nowait(b"one")

    await (await opening).aclose()


async def test_an_application_waits_for_a_slow_caller(client_of):
    """It is not let far ahead, and goes on when its chunks are taken."""
    app = Script(*[b"x" * 40_000] * 10, b"")
    async with client_of(app).stream("POST", URL) as answer:
        for _ in range(100):
            await asyncio.sleep(0)
        assert app.sent == 1

        assert len(await answer.aread()) == 400_000


async def test_closing_an_answer_tells_the_application(client_of):
    """Who closes a stream before its end has left."""
    app = Script(b"one")
    async with client_of(app).stream("POST", URL) as answer:
        assert await anext(answer.aiter_raw()) == b"one"
        assert not app.left.is_set()

    assert app.left.is_set()


async def test_cancelling_a_call_tells_the_application(client_of):
    """Also before there is an answer."""
    app = Script()
    calling = asyncio.create_task(client_of(app).post(URL))
    await asyncio.sleep(0.01)

    calling.cancel()
    await asyncio.wait([calling])

    assert app.left.is_set()


async def test_receive_tells_too(client_of):
    """An application that waits in `receive` hears of it there."""
    heard: asyncio.Queue[str] = asyncio.Queue()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while (message := await receive())["type"] == "http.request":
            pass
        heard.put_nowait(message["type"])

    calling = asyncio.create_task(client_of(app).post(URL))
    await asyncio.sleep(0.01)
    calling.cancel()

    assert await heard.get() == "http.disconnect"


async def test_an_answer_that_nobody_holds_any_more_is_left(client_of):
    """Whoever lets go of a stream without closing it must not keep the application waiting."""
    app = Script(b"one")
    client = client_of(app)
    answer = await client.send(client.build_request("POST", URL), stream=True)

    del answer
    gc.collect()

    async with asyncio.timeout(10):
        await app.left.wait()


@pytest.mark.parametrize("parts", [(), (b"one",)])
async def test_the_read_timeout_is_obeyed(client_of, parts):
    """Before the head and between chunks."""
    app = Script(*parts)

    with pytest.raises(httpx.ReadTimeout):
        await client_of(app).post(URL, timeout=0.02)

    assert app.left.is_set()


async def test_a_failing_application_is_a_broken_answer(client_of, caplog):
    """Its error is logged, and becomes one of httpx, before the head and after it."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] == "/late":
            await send({"type": "http.response.start", "status": 200})
            await send({"type": "http.response.body", "body": b"x", "more_body": True})
        raise ValueError("broken")

    client = client_of(app)
    for path in ("/early", "/late"):
        with pytest.raises(httpx.RemoteProtocolError, match="ValueError"):
            await client.get(f"http://in-process{path}")

    assert caplog.text.count("ValueError: broken") == 2


async def test_an_answer_without_an_end_is_none(client_of):
    """An application that returns in the middle has broken off."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b"x", "more_body": True})

    with pytest.raises(httpx.RemoteProtocolError, match="broke the answer off"):
        await client_of(app).get(URL)


async def test_the_placeholder_gives_way_to_a_token(client_of):
    """A key of the caller's own does not."""
    app = Script(b"", b"")
    client = client_of(app, lambda: "secret")

    await client.post(URL, headers={"authorization": f"Bearer {PLACEHOLDER}"})
    assert (b"authorization", b"Bearer secret") in app.scope["headers"]

    await client.post(URL, headers={"authorization": "Bearer own"})
    assert (b"authorization", b"Bearer own") in app.scope["headers"]


async def test_ending_waits_for_calls_and_then_cancels_them():
    """New ones are refused from the start."""
    app = Script(b"one")
    calls = Calls(app)
    client = httpx.AsyncClient(transport=InProcessTransport(calls))
    answer = await client.send(client.build_request("POST", URL), stream=True)
    calls.refuse("closed for today")
    with pytest.raises(MeshClosedError, match="closed for today"):
        await client.post(URL)

    ending = asyncio.create_task(calls.end(within_s=0.01))

    with pytest.raises(httpx.RemoteProtocolError, match="closed before the answer was complete"):
        await answer.aread()
    await ending
    await client.aclose()


async def test_another_loop_is_refused():
    """A client belongs to one loop, and says so elsewhere."""
    transport = InProcessTransport(Calls(Script(b"")))

    def elsewhere() -> None:
        asyncio.run(transport.handle_async_request(httpx.Request("GET", URL)))

    with pytest.raises(WrongLoopError, match="sync_client"):
        await asyncio.to_thread(elsewhere)


# -- from other threads


def sync_client(app: ASGIApp) -> httpx.Client:
    calls = Calls(app)
    return httpx.Client(transport=SyncTransport(InProcessTransport(calls), Bridge(calls)), timeout=30)


async def test_threads_have_chunks_as_they_are_sent():
    """Chunk by chunk, with a body that the thread makes."""
    app = Script()

    def parts() -> Iterator[bytes]:
        yield b"from "
        yield threading.current_thread().name.encode()

    def send(loop: asyncio.AbstractEventLoop) -> list[bytes]:
        threading.current_thread().name = "caller"
        heard = []
        with sync_client_.stream("POST", URL, content=parts()) as answer:
            for chunk in answer.iter_raw():
                heard.append(chunk)
                loop.call_soon_threadsafe(app.parts.put_nowait, b"two" if len(heard) == 1 else b"")
        return heard

    with sync_client(app) as sync_client_:
        app.parts.put_nowait(b"one")
        assert await asyncio.to_thread(send, asyncio.get_running_loop()) == [b"one", b"two"]

    assert app.body == b"from caller"


async def test_a_thread_that_leaves_is_noticed():
    """Closing half way is told to the application as elsewhere."""
    app = Script(b"one")

    def send() -> bytes:
        with sync_client_.stream("POST", URL) as answer:
            return next(answer.iter_raw())

    with sync_client(app) as sync_client_:
        assert await asyncio.to_thread(send) == b"one"

    assert app.left.is_set()


async def test_a_loop_cannot_wait_for_itself():
    """In the loop's own thread a call is refused instead of standing still for ever."""
    with sync_client(Script(b"")) as client, pytest.raises(WrongLoopError, match=r"mesh\.client\(\)"):
        client.post(URL)


def test_a_loop_that_is_gone_is_told():
    """Before a call and during one."""
    app_called = threading.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        app_called.set()
        await asyncio.Event().wait()

    errors: list[BaseException] = []

    def call(client: httpx.Client) -> None:
        try:
            client.post(URL)
        except MeshClosedError as error:
            errors.append(error)

    async def begin() -> tuple[httpx.Client, threading.Thread]:
        client = sync_client(app)
        thread = threading.Thread(target=call, args=(client,))
        thread.start()
        await asyncio.to_thread(app_called.wait)
        return client, thread

    client, thread = asyncio.run(begin())
    thread.join(10)
    call(client)

    assert ["meanwhile" in str(error) or "event loop" in str(error) for error in errors] == [True, True]
