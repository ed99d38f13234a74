"""A provider in the test's own event loop, whose answers the test lets go on piece by piece."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import orjson

_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\n%s\r\n"


class GatedUpstream:
    """Answers chat completions; a stream has the chunks that the test puts into `chunks`, and ends with an empty one.

    Attributes:
        asked: the bodies of all completions.
        listed: how often its models were listed.
        left: set when a caller has gone in the middle of a stream.
    """

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.listed = 0
        self.chunks: asyncio.Queue[str] = asyncio.Queue()
        self.left = asyncio.Event()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> GatedUpstream:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1")
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()

    @property
    def base_url(self) -> str:
        assert self._server is not None
        return f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/v1"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                while True:
                    head = await reader.readuntil(b"\r\n\r\n")
                    if head.startswith(b"GET"):
                        self._list(writer)
                    else:
                        await self._answer(await _read_body(head, reader), reader, writer)
        finally:
            writer.close()

    def _list(self, writer: asyncio.StreamWriter) -> None:
        self.listed += 1
        _write_json(writer, {"object": "list", "data": [{"id": "small", "object": "model"}]})

    async def _answer(
        self, body: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.asked.append(body)
        if not body.get("stream"):
            return _write_json(writer, _completion({"message": {"role": "assistant", "content": "whole"}}))
        writer.write(_HEAD % (b"text/event-stream", b"transfer-encoding: chunked\r\n"))
        leaving = asyncio.create_task(reader.read(1))
        while text := await self._next(leaving):
            _write_chunk(writer, b"data: %s\n\n" % orjson.dumps(_completion({"delta": {"content": text}})))
        leaving.cancel()
        _write_chunk(writer, b"data: [DONE]\n\n")
        writer.write(b"0\r\n\r\n")
        raise ConnectionError  # a cancelled read leaves the reader in doubt: one stream a connection

    async def _next(self, leaving: asyncio.Task[bytes]) -> str:
        waiting = asyncio.create_task(self.chunks.get())
        await asyncio.wait([waiting, leaving], return_when=asyncio.FIRST_COMPLETED)
        if not waiting.done():
            waiting.cancel()
            self.left.set()
            raise ConnectionError
        return waiting.result()


async def _read_body(head: bytes, reader: asyncio.StreamReader) -> dict[str, Any]:
    length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
    body: dict[str, Any] = orjson.loads(await reader.readexactly(length))
    return body


def _completion(choice: dict[str, Any]) -> dict[str, Any]:
    finish = "stop" if "message" in choice else None
    return {
        "id": "c1",
        "object": "chat.completion" if finish else "chat.completion.chunk",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "finish_reason": finish, **choice}],
    }


def _write_json(writer: asyncio.StreamWriter, fields: dict[str, Any]) -> None:
    answer = orjson.dumps(fields)
    writer.write(_HEAD % (b"application/json", b"content-length: %d\r\n" % len(answer)) + answer)


def _write_chunk(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(b"%x\r\n%s\r\n" % (len(data), data))
