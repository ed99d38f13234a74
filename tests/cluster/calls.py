"""What clients do in cluster tests: ask, listen to streams, keep up a load, come in crowds."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

import aiohttp
from openai import AsyncOpenAI, OpenAIError
from openai.types.chat import ChatCompletion

HELLO: Any = [{"role": "user", "content": "hello"}]


@dataclass(frozen=True)
class Answer:
    """A complete answer and the head that it came with."""

    headers: Any
    body: ChatCompletion

    @property
    def text(self) -> str | None:
        return self.body.choices[0].message.content

    @property
    def model(self) -> str:
        """The model that served, by the contract's header."""
        return str(self.headers["x-modelmesh-model"])


async def ask(client: AsyncOpenAI, model: str, **options: Any) -> Answer:
    """One request, answered in one piece."""
    options.setdefault("messages", HELLO)
    raw = await client.chat.completions.with_raw_response.create(model=model, **options)
    return Answer(raw.headers, raw.parse())


@dataclass
class Told:
    """What a stream has told, up to its end or to its error.

    Attributes:
        finish: the finish reason, None if none came.
        error: what the stream ended with instead.
    """

    headers: Any
    pieces: list[str] = field(default_factory=list)
    finish: str | None = None
    usage: Any = None
    error: OpenAIError | None = None

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def model(self) -> str:
        """The model that served, by the contract's header."""
        return str(self.headers["x-modelmesh-model"])


async def listen(client: AsyncOpenAI, model: str, **options: Any) -> Told:
    """One request, answered as a stream, read to its end or its error."""
    options.setdefault("messages", HELLO)
    raw = await client.chat.completions.with_raw_response.create(model=model, stream=True, **options)
    told = Told(raw.headers)
    async with raw.parse() as stream:
        try:
            async for chunk in stream:
                told.usage = chunk.usage or told.usage
                for choice in chunk.choices:
                    told.pieces.append(choice.delta.content or "")
                    told.finish = choice.finish_reason or told.finish
        except OpenAIError as error:
            told.error = error
    return told


@dataclass(frozen=True)
class Failure:
    """A request of a load that was not answered in full."""

    started: float
    error: Exception


class Load:
    """Clients that ask again and again, every other one for streams; use as an async context manager.

    Args:
        pause_s: between the requests of one client.

    Attributes:
        answered: requests answered in full.
        failures: the others.
    """

    def __init__(self, client: AsyncOpenAI, model: str, *, clients: int = 8, pause_s: float = 0.05) -> None:
        self.answered = 0
        self.streamed = 0
        self.failures: list[Failure] = []
        self._client = client
        self._model = model
        self._clients = clients
        self._pause_s = pause_s
        self._stopping = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Load:
        for number in range(self._clients):
            self._tasks.append(asyncio.create_task(self._keep_asking(streams=number % 2 == 1)))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        await asyncio.gather(*self._tasks)

    async def _keep_asking(self, *, streams: bool) -> None:
        while not self._stopping.is_set():
            started = time.monotonic()
            try:
                await (self._listen() if streams else ask(self._client, self._model))
            except Exception as error:  # every kind of failure is the finding
                self.failures.append(Failure(started, error))
            else:
                self.answered += 1
                self.streamed += streams
            await asyncio.sleep(self._pause_s)

    async def _listen(self) -> None:
        told = await listen(self._client, self._model)
        if told.error:
            raise told.error
        assert told.finish == "stop", "a stream was cut"


class Callers:
    """Callers who are quick, never retry by themselves, and note who served them.

    Attributes:
        served: answers by model.
        sent: when each request was sent, unix seconds.
    """

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.served = Counter[str]()
        self.sent: list[float] = []
        self._session = session

    async def ask_many(self, name: str, count: int, *, at_once: int = 24) -> dict[str, int]:
        """Who served so many requests, so many at once."""
        numbers, before = itertools.count(), self._of(name)

        async def keep_asking() -> None:
            while next(numbers) < count:
                await self._ask_once(name)

        await asyncio.gather(*(keep_asking() for _ in range(at_once)))
        return dict(self._of(name) - before)

    def _of(self, name: str) -> Counter[str]:
        return Counter({model: n for model, n in self.served.items() if model.partition(".")[0] == name})

    async def _ask_once(self, name: str) -> None:
        body = {"model": name, "messages": HELLO}
        self.sent.append(time.time())
        async with self._session.post("/v1/chat/completions", json=body) as answer:
            await answer.read()
            if answer.status == 200:
                self.served[answer.headers["x-modelmesh-model"]] += 1
