"""The way to a mesh from other threads: work is done in the mesh's event loop, and waited for here."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from typing import Any, Final, TypeVar

import httpx

from modelmesh.errors import MeshClosedError, WrongLoopError
from modelmesh.in_process import AnswerStream, Calls, InProcessTransport

_LOOK_S: Final = 1.0
_CLOSED: Final = "the event loop of this mesh is closed"
T = TypeVar("T")


class Bridge:
    """Runs work in the loop of `calls`, whose thread is the one that makes this."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._thread = threading.get_ident()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """What the work comes to.

        Raises:
            WrongLoopError: this thread is the loop's own, which cannot wait for itself.
            MeshClosedError: the mesh or its loop is gone.
        """
        loop = self._calls.loop
        try:
            self._calls.check_process()
            if loop.is_closed():
                raise MeshClosedError(_CLOSED)
            if threading.get_ident() == self._thread and loop.is_running():
                raise WrongLoopError(
                    "this would wait for the event loop that it runs in: use mesh.client() there, or await asyncio.to_thread(...)"
                )
        except BaseException:
            work.close()
            raise
        try:
            return wait_for(asyncio.run_coroutine_threadsafe(work, loop), loop)
        except CancelledError:
            raise MeshClosedError("the mesh was closed meanwhile") from None


def wait_for(future: Future[T], loop: asyncio.AbstractEventLoop) -> T:
    """The result of what runs in a loop; an interrupted wait cancels it, and a loop that is gone will never tell.

    Raises:
        MeshClosedError: the loop is closed.
    """
    try:
        while True:
            try:
                return future.result(_LOOK_S)
            except TimeoutError:
                if future.done():
                    return future.result()
                if loop.is_closed():
                    raise MeshClosedError(_CLOSED) from None
    except BaseException:
        future.cancel()
        raise


class SyncTransport(httpx.BaseTransport):
    """The in-process transport for other threads."""

    def __init__(self, inner: InProcessTransport, bridge: Bridge) -> None:
        self._inner = inner
        self._bridge = bridge

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """The answer, once its head is there."""
        request.read()  # in this thread: its parts may be files or generators of the caller
        answer = self._bridge.run(self._inner.handle_async_request(request))
        assert isinstance(answer.stream, AnswerStream)
        return httpx.Response(
            answer.status_code,
            headers=answer.headers.raw,
            stream=_SyncStream(answer.stream, self._bridge),
            extensions=answer.extensions,
        )


class _SyncStream(httpx.SyncByteStream):
    def __init__(self, stream: AnswerStream, bridge: Bridge) -> None:
        self._stream = stream
        self._bridge = bridge
        self._is_read = False

    def __iter__(self) -> Iterator[bytes]:
        while data := self._bridge.run(self._stream.take()):
            yield data
        self._is_read = True

    def close(self) -> None:
        if not self._is_read:
            self._is_read = True
            # Nobody is left to tell, or the collector closes it in the loop's own thread: `AnswerStream` tells by itself.
            with suppress(MeshClosedError, WrongLoopError):
                self._bridge.run(self._stream.aclose())
