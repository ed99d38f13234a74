"""What is measured: the loads that every subject meets, byte for byte the same but for a peer's own names of models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import orjson

from benchmarks.mock_calls import CHAT

#: Size of every request body: a short conversation.
BODY_BYTES: Final = 2048


@dataclass(frozen=True, slots=True)
class Target:
    """Who is asked, and what it wants to see besides the usual."""

    port: int
    headers: Mapping[str, str] = field(default_factory=dict)
    model_prefix: str = ""
    path_prefix: str = ""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One load. Each connection asks again as soon as it has its answer, or at random times of a given rate.

    Attributes:
        model: what is asked for; the mock has a standing order for it.
        order: that order, see ``mock_behaviour.py``.
        connections: requests in flight at any time.
        chunks: content chunks of the answer, if it is a stream.
        stagger_s: between the starts of two connections, so that paced streams do not tick together.
        rate_per_s: requests of all connections together, at random times; 0: as fast as answers come.
        mix: what each connection asks for in turn, instead of one thing.
        max_tokens: asked for; the mock gives no more chunks than that.
    """

    name: str
    title: str
    model: str
    order: str
    connections: int
    chunks: int = 0
    stagger_s: float = 0.0
    rate_per_s: float = 0.0
    mix: tuple[Scenario, ...] = ()
    max_tokens: int = 256

    @property
    def turns(self) -> tuple[Scenario, ...]:
        return self.mix or (self,)

    @property
    def is_stream(self) -> bool:
        return self.chunks > 0

    @property
    def events(self) -> int:
        """Server-sent events of the whole answer: opening, content, finish, usage, ``[DONE]``."""
        return self.chunks + 4 if self.is_stream else 0

    def body(self, model_prefix: str = "") -> bytes:
        """The request's body, of `BODY_BYTES`."""
        fields: dict[str, object] = {"model": model_prefix + self.model, "max_tokens": self.max_tokens}
        if self.is_stream:
            fields |= {"stream": True, "stream_options": {"include_usage": True}}
        bare = orjson.dumps(fields | {"messages": [{"role": "user", "content": ""}]})
        return orjson.dumps(
            fields | {"messages": [{"role": "user", "content": _prose(BODY_BYTES - len(bare))}]}
        )

    def request(self, target: Target) -> bytes:
        """The request as it goes over the wire."""
        body = self.body(target.model_prefix)
        more = "".join(f"{name}: {value}\r\n" for name, value in target.headers.items())
        head = (
            f"POST {target.path_prefix}{CHAT} HTTP/1.1\r\nhost: 127.0.0.1:{target.port}\r\nuser-agent: modelmesh-benchmark\r\n"
            "authorization: Bearer benchmark\r\ncontent-type: application/json\r\naccept: */*\r\n"
            f"{more}content-length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body


def _prose(size_bytes: int) -> str:
    sentence = "the quick brown fox jumps over the lazy dog and asks a model what to make of it; "
    return (sentence * (size_bytes // len(sentence) + 1))[:size_bytes]


#: A stream's cost per chunk is what it costs more than the stream of one chunk.
HEADS: Final = "heads"

_UNARY: Final = Scenario("unary32", "2 kB request, 32 connections", "bench-unary", "ok", 32)
# the shortest gap: one write for each chunk, with no pause between them
_BURST: Final = Scenario(
    "burst",
    "stream of 100 chunks without pause, 8 streams",
    "bench-burst",
    "tokens=100,slow-token=0.01ms",
    8,
    chunks=100,
)

SCENARIOS: Final = {
    scenario.name: scenario
    for scenario in (
        Scenario("unary1", "2 kB request, 1 connection", "bench-unary", "ok", 1),
        _UNARY,
        Scenario("unary128", "2 kB request, 128 connections", "bench-unary", "ok", 128),
        Scenario(
            "mixed",
            "three plain answers, then a stream of 100 chunks, 32 connections",
            "bench-unary",
            "ok",
            32,
            mix=(_UNARY, _UNARY, _UNARY, _BURST),
        ),
        Scenario(HEADS, "stream of one chunk, 8 connections", "bench-heads", "tokens=1", 8, chunks=1),
        _BURST,
        Scenario(
            "paced",
            "stream of 100 chunks 10 ms apart, 50 streams",
            "bench-paced",
            "tokens=100,slow-token=10ms",
            50,
            chunks=100,
            stagger_s=0.0002,
        ),
    )
}

#: Model names and the mock's standing orders for them.
ORDERS: Final = {scenario.model: scenario.order for scenario in SCENARIOS.values()}
