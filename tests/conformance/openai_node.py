"""A node with two scripted providers behind a real HTTP server, and the official OpenAI client in front of it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import orjson
from openai import AsyncOpenAI, DefaultAioHttpClient

from node.engine.contract import EngineName
from shared_state.ledger import Settlement
from tests.conformance.raw_http import serving
from tests.unit.node.api.asgi import Front
from tests.unit.node.house import House, mesh
from tests.unit.node.scripted import Answer, ScriptedTransport, Step

#: The pool of both models; its first member is asked first.
POOL = "chat"


@dataclass
class Served:
    """A node that serves, and its caller."""

    front: Front
    client: AsyncOpenAI

    @property
    def sent(self) -> list[Any]:
        """The bodies that went to providers, parsed."""
        return [orjson.loads(request.read()) for request in self.front.place.transport.requests]

    @property
    def asked(self) -> list[str]:
        """Which providers were asked at which path, in order."""
        return [f"{r.url.host}{r.url.path}" for r in self.front.place.transport.requests]

    @property
    def settled(self) -> list[Settlement]:
        return self.front.place.ledger.settled

    @property
    def booked(self) -> list[tuple[int, int]]:
        """Tokens of everything that was settled."""
        return [(settlement.tokens_in, settlement.tokens_out) for settlement in self.settled]


@asynccontextmanager
async def served(
    engine: EngineName,
    capability: str,
    alpha: Step | list[Step],
    beta: Step | list[Step] | None = None,
    **options: Any,
) -> AsyncIterator[Served]:
    """Two models of one capability: the first answers so, the second takes over, or must not be asked."""
    rules = {"retry": {"scope": "any"}, **options.pop("pool", {})}
    kind = {"capabilities": [capability], **options.pop("model", {})}
    topology = mesh("alpha.m", "beta.m", model=kind, pool=rules, **options)
    transport = ScriptedTransport(alpha=alpha, beta=beta or AssertionError("not to be asked"))
    front = Front(place=House(topology, transport), max_body_bytes=8 << 20)
    async with serving(engine, front.app) as server:
        client = AsyncOpenAI(
            base_url=f"http://127.0.0.1:{server.address[1]}/v1",
            api_key="unused",
            max_retries=0,
            timeout=10.0,
            http_client=DefaultAioHttpClient(verify=False),
        )
        async with client:
            yield Served(front, client)
    assert front.place.ledger.open == set()
    assert all(answer.body.closed == 1 for answer in transport.answers)


def answer(fields: Any) -> Answer:
    """A complete answer in JSON."""
    return Answer(orjson.dumps(fields))
