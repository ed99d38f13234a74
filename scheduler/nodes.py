"""How the scheduler asks the nodes: any live one answers, over the operators' API. Only nodes talk to providers."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import httpx
import orjson
import structlog

from shared_state.errors import ModelMeshError
from shared_state.registry import NodeInfo, Registry
from shared_state.store import Store

log = structlog.get_logger(__name__)

_CONNECT_S: Final = 1.0
#: Beyond the time that the node itself allows a provider.
_GRACE_S: Final = 2.0
_ANYWHERE: Final = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}
_NOT_THIS_NODE: Final = frozenset({500, 503})
_CLOSED: Final = frozenset({401, 403})


class NoNodeError(ModelMeshError):
    """No live node has answered; which says nothing about any provider."""

    default_code = "no_node"


class NobodyAliveError(NoNodeError):
    """No node is there to be asked, as before the first has started: no fault of anybody's."""


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


class Nodes:
    """A client of all nodes in the registry.

    Args:
        token: admin token; None where the nodes ask for none.
        transport: what carries the calls; by default the network.
        shuffle: brings the nodes into the order in which they are asked.
    """

    def __init__(
        self,
        store: Store,
        *,
        token: str | None,
        transport: httpx.AsyncBaseTransport | None = None,
        shuffle: Callable[[list[NodeInfo]], None] = random.shuffle,
    ) -> None:
        self._registry = Registry(store)
        self._shuffle = shuffle
        self._client = httpx.AsyncClient(
            headers={"authorization": f"Bearer {token}"} if token else {},
            transport=transport,
            trust_env=False,
        )

    async def ask(
        self, path: str, *, timeout_s: float, method: str = "GET", body: object = None
    ) -> NodeAnswer:
        """Asks one node after the other until one answers, whatever it answers.

        Args:
            path: below ``/ops/``.
            timeout_s: how long the node itself may take over it.

        Raises:
            NobodyAliveError: there is none.
            NoNodeError: none answers, or they refuse the token.
            RedisError, OSError, TimeoutError: the store is away.
        """
        nodes = [n.info for n in await self._registry.nodes() if not n.is_dead and n.info.state == "alive"]
        self._shuffle(nodes)
        if not nodes:
            raise NobodyAliveError("no node is alive")
        why = ""
        for node in nodes:
            try:
                answer = await self._ask(node, path, timeout_s, method, body)
            except httpx.HTTPError as error:
                why = f"{node.id} did not answer: {type(error).__name__}"
                continue
            if answer.status in _CLOSED and not answer.code.startswith("provider_"):
                why = f"{node.id} refused the admin token: set MODELMESH_ADMIN_TOKEN for the scheduler, too"
            elif answer.status in _NOT_THIS_NODE:
                why = f"{node.id} answered {answer.status} {answer.code}".rstrip()
            else:
                return answer
        raise NoNodeError(why)

    async def _ask(
        self, node: NodeInfo, path: str, timeout_s: float, method: str, body: object
    ) -> NodeAnswer:
        response = await self._client.request(
            method,
            f"{_address(node)}/ops/{path}",
            content=None if body is None else orjson.dumps(body),
            timeout=httpx.Timeout(timeout_s + _GRACE_S, connect=_CONNECT_S),
        )
        try:
            return NodeAnswer(response.status_code, orjson.loads(response.content))
        except orjson.JSONDecodeError:
            return NodeAnswer(response.status_code, None)

    async def aclose(self) -> None:
        """Closes all connections."""
        await self._client.aclose()


def _address(node: NodeInfo) -> str:
    host = _ANYWHERE.get(node.host, node.host)
    return f"http://[{host}]:{node.port}" if ":" in host else f"http://{host}:{node.port}"
