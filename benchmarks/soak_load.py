"""The mixed load of a soak: answers, streams, failures, large bodies, and callers who leave at every moment."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import orjson

from benchmarks.mock_calls import CHAT
from tests.cluster.mesh import Member, Section, mesh, pool

_PATIENCE_S: Final = 30.0
_RESET: Final = struct.pack("ii", 1, 0)
_LIMIT_BYTES: Final = 2**20
#: Who fails comes back soon, so that failing goes on.
_QUICK: Final[Section] = {"recovery": {"cooldown": "1s", "max_cooldown": "2s", "ramp": [1.0]}}
_SHORT: Final[Section] = {"timeouts": {"connect": "1s", "first_token": "1s", "idle": "1s", "total": "10s"}}


def config() -> Section:
    """Pools of every temper; the second member of each is well."""
    return mesh(
        _pool("well", "tokens=8", limits={"rpm": 1_000_000, "tpm": 1_000_000_000, "concurrency": 500}),
        _pool("talks", "tokens=20,slow-token=20ms"),
        _pool("slow", "slow-head=400ms"),
        _pool("fails", "status=500,fail=0.3"),
        _pool("refuses", "status=429,retry-after=1,fail=0.3"),
        _pool("resets", "reset=60,fail=0.3"),
        _pool("garbles", "garbage,fail=0.3"),
        _pool("stalls", "stall-after=3,fail=0.2"),
        _pool("breaks", "error-after=4,fail=0.3,slow-token=5ms"),
        proxy={"max_body": "4MB"},
        scheduler={"flush_interval": "10s", "copy_interval": "10s"},
    )


def _pool(name: str, order: str, *, limits: Section | None = None) -> Section:
    ill = Member("alpha", provider=_SHORT, limits=limits or {}, model={"upstream": f"{name}-1!{order}"})
    return pool(name, ill, Member("beta", provider=_SHORT, limits=limits or {}), **_QUICK)


@dataclass(slots=True)
class Tally:
    """What has come of the requests.

    Attributes:
        ends: by kind of load and end: a status, ``cut`` where a stream ended without its end marker, ``left`` on purpose.
        strange: ends that no load of ours accounts for, the first few.
    """

    ends: Counter[tuple[str, str]] = field(default_factory=Counter)
    strange: list[str] = field(default_factory=list)

    @property
    def requests(self) -> int:
        """All of them."""
        return sum(self.ends.values())

    def note(self, kind: str, end: str, *, is_strange: bool = False) -> None:
        """Books one end."""
        self.ends[kind, end] += 1
        if is_strange and len(self.strange) < 20:
            self.strange.append(f"{kind}: {end}")


class Peer:
    """One connection that carries one request."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def send(self, model: str, *, size: int = 200, share: float = 1.0, **fields: Any) -> None:
        """A request, or its first part only."""
        text = "the quick brown fox jumps over the lazy dog " * (size // 44 + 1)
        body = orjson.dumps(
            {"model": model, "max_tokens": 64, "messages": [{"role": "user", "content": text}], **fields}
        )
        head = (
            f"POST {CHAT} HTTP/1.1\r\nhost: soak\r\nconnection: close\r\ncontent-type: application/json\r\n"
        )
        data = f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
        self._writer.write(data[: round(len(data) * share)])
        await self._writer.drain()

    async def ask(self, path: str) -> None:
        """A request without a body."""
        self._writer.write(f"GET {path} HTTP/1.1\r\nhost: soak\r\nconnection: close\r\n\r\n".encode())
        await self._writer.drain()

    async def status(self) -> int:
        """Of the answer, once its first line is there."""
        line = await self._reader.readline()
        return int(line.split()[1]) if line.startswith(b"HTTP/1.1 ") else 0

    async def some(self) -> bytes:
        """What comes next."""
        return await self._reader.read(2**16)

    async def rest(self) -> bytes:
        """All that is left, to the end of the connection; of a long answer its last part."""
        kept = b""
        while data := await self._reader.read(2**16):
            kept = (kept + data)[-_LIMIT_BYTES:]
        return kept

    def reset(self) -> None:
        """Leave like a process that is killed."""
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)

    async def close(self) -> None:
        """Hang up."""
        self._writer.close()
        with suppress(OSError):
            await self._writer.wait_closed()


Act = Callable[[Peer, random.Random], Awaitable[str]]


async def unary(peer: Peer, draw: random.Random) -> str:
    """An answer in one piece."""
    await peer.send("well")
    return await _ended(peer)


async def large(peer: Peer, draw: random.Random) -> str:
    """A long conversation."""
    await peer.send("well", size=draw.randrange(100_000, 1_500_000))
    return await _ended(peer)


async def stream(peer: Peer, draw: random.Random) -> str:
    """A stream, read to its end."""
    await peer.send("talks", stream=True)
    return await _ended(peer, marker=b"data: [DONE]")


async def ill(peer: Peer, draw: random.Random) -> str:
    """An upstream of bad temper, in one piece or as a stream."""
    name = draw.choice(("slow", "fails", "refuses", "resets", "garbles", "stalls", "breaks"))
    is_stream = draw.random() < 0.5
    await peer.send(name, **({"stream": True} if is_stream else {}))
    return await _ended(peer, marker=b"data: [DONE]" if is_stream else b"")


async def half_sent(peer: Peer, draw: random.Random) -> str:
    """Leaves while it still sends."""
    await peer.send("well", size=50_000, share=draw.random())
    return "left"


async def unanswered(peer: Peer, draw: random.Random) -> str:
    """Leaves before the answer begins."""
    await peer.send("slow", stream=draw.random() < 0.5)
    await asyncio.sleep(draw.random() * 0.3)
    return "left"


async def amid(peer: Peer, draw: random.Random) -> str:
    """Leaves in the middle of a stream."""
    await peer.send("talks", stream=True)
    for _ in range(draw.randrange(1, 8)):
        await peer.some()
    return "left"


async def at_the_end(peer: Peer, draw: random.Random) -> str:
    """Leaves about when the answer is complete."""
    await peer.send("well", stream=draw.random() < 0.5)
    await peer.some()
    return "left"


async def looks(peer: Peer, draw: random.Random) -> str:
    """Somebody watches."""
    await peer.ask(draw.choice(("/metrics", "/v1/models", "/ready", "/nowhere")))
    return await _ended(peer)


async def mistaken(peer: Peer, draw: random.Random) -> str:
    """Nobody can serve this."""
    await peer.send(draw.choice(("nonsense", "")), stream=draw.random() < 0.5)
    return await _ended(peer)


#: Kinds of load and how often each comes.
ACTS: Final[dict[Act, int]] = {
    unary: 30,
    stream: 25,
    ill: 20,
    large: 4,
    half_sent: 4,
    unanswered: 6,
    amid: 6,
    at_the_end: 3,
    looks: 3,
    mistaken: 2,
}
#: Ends of a kind of load that need no explanation; who leaves on purpose has no end.
_EXPECTED: Final[dict[Act, set[str]]] = {
    unary: {"200"},
    large: {"200"},
    stream: {"200"},
    ill: {"200", "cut", "429", "502", "503", "504"},
    looks: {"200", "404"},
    mistaken: {"400", "404"},
}


class Load:
    """Callers in a closed loop with pauses.

    Args:
        ports: of the servers that they ask, by chance.
    """

    def __init__(self, ports: Sequence[int], *, callers: int, seed: int = 1) -> None:
        self.tally = Tally()
        self._ports = ports
        self._draw = random.Random(seed)
        self._callers = callers
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Let them in."""
        loop = asyncio.get_running_loop()
        self._tasks = [loop.create_task(self._call()) for _ in range(self._callers)]

    async def stop(self) -> None:
        """Let each end as it likes, but begin nothing more."""
        tasks, self._tasks = self._tasks, []
        self._callers = 0
        await asyncio.gather(*tasks)

    async def _call(self) -> None:
        acts, weights = list(ACTS), list(ACTS.values())
        while self._callers:
            act = self._draw.choices(acts, weights)[0]
            try:
                async with asyncio.timeout(_PATIENCE_S):
                    end = await self._visit(act)
            except TimeoutError:
                end = "no end"
            except OSError as error:
                end = type(error).__name__
            is_strange = end not in _EXPECTED.get(act, {"left"})
            self.tally.note(act.__name__, end, is_strange=is_strange)
            await asyncio.sleep(self._draw.random() * 0.4)

    async def _visit(self, act: Act) -> str:
        peer = Peer(*await asyncio.open_connection("127.0.0.1", self._draw.choice(self._ports)))
        try:
            end = await act(peer, self._draw)
            if end == "left" and self._draw.random() < 0.5:
                peer.reset()
            return end
        finally:
            await peer.close()


async def _ended(peer: Peer, *, marker: bytes = b"") -> str:
    """How an answer ends."""
    status = await peer.status()
    rest = await peer.rest()
    return "cut" if status == 200 and marker not in rest else str(status)
