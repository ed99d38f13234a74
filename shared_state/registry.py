"""The registry of live nodes: who is there, since when, in which mode."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Final

import orjson

from shared_state.store import Store

#: A node that was not heard of for this long is dead: its reservations are booked as abandoned.
NODE_LEASE_S: Final = 5.0
HEARTBEAT_S: Final = 1.0


@dataclass(slots=True)
class NodeInfo:
    """What a node says of itself.

    Attributes:
        started: unix seconds.
        state: ``alive`` or ``draining``.
        mode: ``exact``, ``leased`` or ``open``.
    """

    id: str
    host: str
    port: int
    pid: int
    started: float
    state: str
    version: str
    config_version: str
    mode: str
    in_flight: int


@dataclass(slots=True, frozen=True)
class RegisteredNode:
    """A node's own words and how long ago they were heard, in seconds of server time."""

    info: NodeInfo
    seen_s: float

    @property
    def is_dead(self) -> bool:
        """Whether its lease ran out."""
        return self.seen_s > NODE_LEASE_S


class Registry:
    """Heartbeats of nodes, timed by the server's clock."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._keys = [store.keys.nodes, store.keys.nodes + ":seen"]

    async def beat(self, info: NodeInfo) -> tuple[int, int]:
        """Registers or renews; server time (ms) and the number of registered nodes."""
        reply = await self._store.run("beat", self._keys, [info.id, orjson.dumps(asdict(info))])
        return reply[0], reply[1]

    async def leave(self, node: str) -> None:
        """Strikes a node from the registry: it left in order, or its reservations were abandoned."""
        await self._store.run("beat", self._keys, [node, ""])

    async def nodes(self) -> list[RegisteredNode]:
        """All registered nodes, dead ones included until they were reaped."""
        pipe = self._store.client.pipeline(transaction=False)
        pipe.hgetall(self._keys[0])
        pipe.zrange(self._keys[1], 0, -1, withscores=True)
        pipe.time()
        described, seen, (seconds, micros) = await pipe.execute()
        now_s = seconds + micros / 1e6
        rows = []
        for node, heard_ms in seen:
            if node in described:
                rows.append(RegisteredNode(_decode(described[node]), max(0.0, now_s - heard_ms / 1000)))
        return rows


def _decode(raw: bytes) -> NodeInfo:
    """A node's description; what a later release adds is passed over."""
    said = orjson.loads(raw)
    return NodeInfo(**{field.name: said[field.name] for field in fields(NodeInfo)})
