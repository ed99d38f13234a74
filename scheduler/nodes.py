"""The way to a node: whatever concerns providers is asked of a live one over HTTP, for credentials and formats are at home there."""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import httpx

from shared_state.errors import ModelMeshError
from shared_state.registry import NodeInfo, Registry
from shared_state.store import Store

_CONNECT_S: Final = 1.0
_TIMEOUT: Final = httpx.Timeout(60.0, connect=_CONNECT_S)
#: Beyond the time that the node itself allows a provider.
_GRACE_S: Final = 2.0
_CLOSED: Final = (401, 403)
_OWN_FAULTS: Final = (500, 503)
_MOST_NODES: Final = 3


class NoNodeError(ModelMeshError):
    """Nobody is there to ask."""

    default_code = "no_live_node"


class NobodyAliveError(NoNodeError):
    """No node is registered, as before the first has started: no fault of anybody's."""


class NodeRefusedError(ModelMeshError):
    """A node does not do what it is asked for."""

    default_code = "node_refused"


@dataclass(frozen=True, slots=True)
class NodeAnswer:
    """What a node has said; ``body`` is None if it was no JSON."""

    status: int
    body: Any

    @property
    def code(self) -> str:
        """The code of an error; empty if it is none."""
        error = self.body.get("error") if isinstance(self.body, dict) else None
        return str(error.get("code") or "") if isinstance(error, dict) else ""

    @property
    def message(self) -> str:
        """The message of an error; empty if it is none."""
        error = self.body.get("error") if isinstance(self.body, dict) else None
        return str(error.get("message") or "") if isinstance(error, dict) else ""


class Nodes:
    """Live nodes, asked in turn.

    Args:
        token: of the operators' API; None works where nodes listen on loopback without one.
        transport: in place of the network.
        at_home: the nodes in this process, which have no port, and the way to each.
    """

    def __init__(
        self,
        store: Store,
        *,
        token: str | None,
        transport: httpx.AsyncBaseTransport | None = None,
        at_home: Mapping[str, httpx.AsyncBaseTransport] | None = None,
    ) -> None:
        self._at_home = at_home or {}
        self._registry = Registry(store)
        headers = {"authorization": f"Bearer {token}"} if token else {}
        self._client = httpx.AsyncClient(
            headers=headers,
            timeout=_TIMEOUT,
            trust_env=False,
            transport=transport,
            mounts={f"all://{node}": way for node, way in self._at_home.items()},
        )
        self._turns = itertools.count()

    async def post(
        self, path: str, body: dict[str, Any], *, timeout_s: float | None = None
    ) -> dict[str, Any]:
        """What a node answers to an order under ``/ops/``; another one is asked if it cannot be reached.

        Args:
            timeout_s: how long the node itself may take over it.

        Raises:
            NoNodeError: no live node could be reached.
            NodeRefusedError: the node did not accept the token, or the order.
            RedisError, OSError, TimeoutError: the store is away.
        """
        timeout = _TIMEOUT if timeout_s is None else httpx.Timeout(timeout_s + _GRACE_S, connect=_CONNECT_S)
        answer, node = await self._ask("POST", path, timeout, json=body)
        return _understand(answer, node)

    async def get(self, path: str, *, timeout_s: float) -> NodeAnswer:
        """What a node answers under ``/ops/``, be it an error of a provider; another one is asked if it has an error of its own.

        Args:
            timeout_s: how long the node itself may take over it.

        Raises:
            NoNodeError: no live node could be reached, or none could say.
            NodeRefusedError: the node did not accept the token.
            RedisError, OSError, TimeoutError: the store is away.
        """
        timeout = httpx.Timeout(timeout_s + _GRACE_S, connect=_CONNECT_S)
        return _hear(*await self._ask("GET", path, timeout, own_faults=_OWN_FAULTS))

    async def order(self, path: str, body: dict[str, Any]) -> NodeAnswer:
        """What a node answers to an order that it may refuse.

        Raises:
            NoNodeError: no live node could be reached, or none could say.
            NodeRefusedError: the node did not accept the token.
            RedisError, OSError, TimeoutError: the store is away.
        """
        return _hear(*await self._ask("POST", path, _TIMEOUT, json=body, own_faults=_OWN_FAULTS))

    async def _ask(
        self,
        method: str,
        path: str,
        timeout: httpx.Timeout,
        *,
        json: dict[str, Any] | None = None,
        own_faults: Container[int] = (),
    ) -> tuple[httpx.Response, NodeInfo]:
        """The first answer, and whose it is; one with a status of ``own_faults`` is none."""
        nodes, why = await self._live(), ""
        if not nodes:
            raise NobodyAliveError("no live node answers: none is registered")
        for node in nodes:
            try:
                answer = await self._client.request(
                    method, f"{_address(node)}/ops/{path}", json=json, timeout=timeout
                )
            except httpx.TransportError as error:
                why = type(error).__name__
                continue
            if answer.status_code not in own_faults:
                return answer, node
            why = f"node {node.id} answered {answer.status_code}"
        raise NoNodeError(f"no live node answers: {why}")

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._client.aclose()

    async def _live(self) -> Sequence[NodeInfo]:
        nodes = [
            node.info
            for node in await self._registry.nodes()
            if not node.is_dead and node.info.state == "alive" and self._is_reachable(node.info)
        ]
        first = next(self._turns) % len(nodes) if nodes else 0
        return [*nodes[first:], *nodes[:first]][:_MOST_NODES]

    def _is_reachable(self, node: NodeInfo) -> bool:
        """Whether it can be asked from here: a node inside another program has no port."""
        return node.port > 0 or node.id in self._at_home


def _hear(answer: httpx.Response, node: NodeInfo) -> NodeAnswer:
    if answer.status_code in _CLOSED:
        _understand(answer, node)
    try:
        return NodeAnswer(answer.status_code, answer.json())
    except ValueError:
        return NodeAnswer(answer.status_code, None)


def _address(node: NodeInfo) -> str:
    host = node.host
    if not node.port:
        return f"http://{node.id}"
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return f"http://{host}:{node.port}"
    return f"http://[{host}]:{node.port}" if address.version == 6 else f"http://{host}:{node.port}"


def _understand(answer: httpx.Response, node: NodeInfo) -> dict[str, Any]:
    if answer.status_code in _CLOSED:
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
