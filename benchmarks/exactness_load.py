"""The load of the outside test, decided by its seed alone: who asks for what, how much, and what goes wrong meanwhile."""

from __future__ import annotations

import asyncio
import math
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import aiohttp
import orjson

#: How often the upstream is told to misbehave.
_ORDERS: Final = {"429": 0.01, "500": 0.015, "reset": 0.015, "cut": 0.015, "stall": 0.005, "slow": 0.08}
_STREAM_SHARE, _ABORT_SHARE, _PATIENT_SHARE = 0.3, 0.05, 0.2
_ABORT_S, _PATIENCE_S, _LONG_PATIENCE_S = (0.001, 0.05), (1.0, 3.0), 30.0
_WORD, _MOST_WORDS, _MOST_OUTPUT_TOKENS = "word ", 3000, 3000


@dataclass(frozen=True, slots=True)
class Request:
    """One request of the load.

    Attributes:
        patience_s: after this long its client leaves.
        is_abort: whether it leaves on purpose, amid whatever is going on.
    """

    model: str
    prompt: str
    max_tokens: int
    is_stream: bool
    is_abort: bool
    patience_s: float

    def body(self) -> dict[str, object]:
        """As it is sent."""
        message = {"role": "user", "content": self.prompt}
        body = {"model": self.model, "messages": [message], "max_tokens": self.max_tokens}
        return body | ({"stream": True} if self.is_stream else {})


def plan(asks: Sequence[str], seed: int, number: int) -> Request:
    """The request of that number. Sizes spread evenly over three orders of magnitude."""
    rng = random.Random(f"{seed}/{number}")
    orders = rng.choices(["", *_ORDERS], [1 - sum(_ORDERS.values()), *_ORDERS.values()])
    words = "".join(f"[[do:{order}]] " for order in orders if order) + _WORD * _size(rng, _MOST_WORDS)
    is_abort = rng.random() < _ABORT_SHARE
    patience_s = rng.uniform(*_ABORT_S) if is_abort else rng.uniform(*_PATIENCE_S)
    if not is_abort and rng.random() < _PATIENT_SHARE:
        patience_s = _LONG_PATIENCE_S
    return Request(
        model=rng.choice(asks),
        prompt=words,
        max_tokens=_size(rng, _MOST_OUTPUT_TOKENS),
        is_stream=rng.random() < _STREAM_SHARE,
        is_abort=is_abort,
        patience_s=patience_s,
    )


def _size(rng: random.Random, most: int) -> int:
    return round(math.exp(math.log(most) * rng.random()))


class Load:
    """Clients of one endpoint, together sending a number of requests, at a steady pace if they are given the time.

    Args:
        base_url: the endpoint, with or without the version prefix.
        seconds: how long it should last at least; 0: as fast as answers come.

    Attributes:
        log: of each answer when it was asked for and when it came, in seconds of the loop, and its kind: a status (that of a
            failure with the error's code), ``aborted`` and ``timeout`` by the client, ``broken``.
    """

    def __init__(
        self,
        base_url: str,
        asks: Sequence[str],
        *,
        seed: int,
        requests: int,
        api_key: str = "unused",
        seconds: float = 0.0,
        workers: int = 64,
    ) -> None:
        self.log: list[tuple[float, float, str]] = []
        self._url = f"{base_url.rstrip('/').removesuffix('/v1')}/v1/chat/completions"
        self._headers = {"authorization": f"Bearer {api_key}"}
        self._asks = asks
        self._seed = seed
        self._requests = requests
        self._gap_s = seconds / requests
        self._workers = workers

    @property
    def answers(self) -> Counter[str]:
        """How often each kind of answer came."""
        return Counter(kind for _, _, kind in self.log)

    async def run(self) -> None:
        """Sends everything and waits for the last answer."""
        now = asyncio.get_running_loop().time
        began, left = now(), iter(range(self._requests))

        async def work() -> None:
            for number in left:
                await asyncio.sleep(max(0.0, began + number * self._gap_s - now()))
                asked = now()
                kind = await self._ask(session, plan(self._asks, self._seed, number))
                self.log.append((asked, now(), kind))

        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(headers=self._headers, connector=connector) as session:
            await asyncio.gather(*(work() for _ in range(self._workers)))

    async def knock(self) -> None:
        """One small request to everybody, for those who tidy up only when they are asked."""
        async with aiohttp.ClientSession(headers=self._headers) as session:
            for model in self._asks:
                small = Request(model, _WORD, 1, is_stream=False, is_abort=False, patience_s=5.0)
                await self._ask(session, small)

    async def _ask(self, session: aiohttp.ClientSession, request: Request) -> str:
        try:
            async with asyncio.timeout(request.patience_s):
                async with session.post(self._url, json=request.body()) as response:
                    return _kind(response.status, await response.read())
        except TimeoutError:
            return "aborted" if request.is_abort else "timeout"
        except (aiohttp.ClientError, OSError):
            return "broken"


def _kind(status: int, body: bytes) -> str:
    if status < 500:
        return str(status)
    try:
        return f"{status} {orjson.loads(body)['error']['code']}"
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return str(status)
