"""The way to a node: whatever concerns providers is asked of a live one over HTTP, for credentials and formats are at home there."""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import Sequence
from typing import Any, Final

import httpx

from shared_state.errors import ModelMeshError
from shared_state.registry import NodeInfo, Registry
from shared_state.store import Store

_TIMEOUT: Final = httpx.Timeout(60.0, connect=1.0)
_MOST_NODES: Final = 3


class NoNodeError(ModelMeshError):
    """Nobody is there to ask."""

    default_code = "no_live_node"


class NodeRefusedError(ModelMeshError):
    """A node does not do what it is asked for."""

    default_code = "node_refused"


class Nodes:
    """Live nodes, asked in turn.

    Args:
        token: of the operators' API; None works where nodes listen on loopback without one.
        transport: in place of the network.
    """

    def __init__(
        self, store: Store, *, token: str | None, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._registry = Registry(store)
        headers = {"authorization": f"Bearer {token}"} if token else {}
        self._client = httpx.AsyncClient(
            headers=headers, timeout=_TIMEOUT, trust_env=False, transport=transport
        )
        self._turns = itertools.count()

    async def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """What a node answers to an order under ``/ops/``; another one is asked if it cannot be reached.

        Raises:
            NoNodeError: no live node could be reached.
            NodeRefusedError: the node did not accept the token, or the order.
            RedisError, OSError, TimeoutError: the store is away.
        """
        last: httpx.TransportError | None = None
        for node in await self._live():
            try:
                answer = await self._client.post(f"{_address(node)}/ops/{path}", json=body)
            except httpx.TransportError as error:
                last = error
                continue
            return _understand(answer, node)
        raise NoNodeError(f"no live node answers: {type(last).__name__ if last else 'none is registered'}")

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._client.aclose()

    async def _live(self) -> Sequence[NodeInfo]:
        nodes = [
            node.info
            for node in await self._registry.nodes()
            if not node.is_dead and node.info.state == "alive"
        ]
        first = next(self._turns) % len(nodes) if nodes else 0
        return [*nodes[first:], *nodes[:first]][:_MOST_NODES]


def _address(node: NodeInfo) -> str:
    host = node.host
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return f"http://{host}:{node.port}"
    return f"http://[{host}]:{node.port}" if address.version == 6 else f"http://{host}:{node.port}"


def _understand(answer: httpx.Response, node: NodeInfo) -> dict[str, Any]:
    if answer.status_code in (401, 403):
        raise NodeRefusedError(
            f"node {node.id} does not accept our token: give the scheduler the nodes' MODELMESH_ADMIN_TOKEN"
        )
    if not answer.is_success:
        raise NodeRefusedError(f"node {node.id} answered {answer.status_code} to {answer.request.url.path}")
    try:
        said = answer.json()
    except ValueError:
        said = None
    if not isinstance(said, dict):
        raise NodeRefusedError(f"node {node.id} answered something that is no JSON object")
    return said
