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
        config_number: the version of the configuration that it runs; 0: its own file.
        config_judged: the proposed version that it has judged last.
        config_fault: why it cannot run that one, or the one in force; empty if it can.
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
    config_number: int = 0
    config_judged: int = 0
    config_fault: str = ""


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
        now_ms, *rows = await self._store.run("read_nodes", self._keys)
        return [
            RegisteredNode(_decode(described), max(0.0, (now_ms - heard_ms) / 1000))
            for heard_ms, described in zip(rows[1::3], rows[2::3], strict=True)
        ]


def _decode(raw: bytes) -> NodeInfo:
    """A node's description; what a later release adds is passed over, what an earlier one does not know is left out."""
    said = orjson.loads(raw)
    known = {field.name for field in fields(NodeInfo)}
    return NodeInfo(**{name: value for name, value in said.items() if name in known})
