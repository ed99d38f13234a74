"""What operators can see and do, for programs: plain calls that may come from any thread but the mesh's own.

In a coroutine: ``await asyncio.to_thread(mesh.status)``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import quote

from modelmesh.ops_client import Kind, OpsClient, understand
from shared_state.shapes.decision import ExplainView
from shared_state.shapes.status import (
    ModelView,
    OrderView,
    PoolsView,
    PoolView,
    ProbeView,
    RotationView,
    StatusView,
)
from shared_state.shapes.usage import UsageView


class Operator(ABC):
    """Answers in the shapes of the operators' API.

    Every call raises OpsError where that API refuses, WrongLoopError in the thread of the mesh's event loop, and MeshClosedError
    when the mesh is closed.
    """

    @abstractmethod
    def _ops(self) -> OpsClient: ...

    def status(self) -> StatusView:
        """Everything at a glance: nodes, pools, models, providers, the store, the scheduler."""
        return understand(self._get("status"), StatusView)

    def usage(self) -> UsageView:
        """What is used of every quota and budget, and when it runs dry."""
        return understand(self._get("usage"), UsageView)

    def explain(
        self,
        model: str,
        *,
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        api: str = "chat/completions",
        key: str | None = None,
    ) -> ExplainView:
        """What would become of a request now, and why; nothing is sent, nothing is taken, no turn is used up.

        Args:
            body: of the request; its model is ``model``.
            headers: those that route.
            api: the path behind ``/v1/``.
            key: id of the client key that it would come with.
        """
        asked = {"model": model, "api": api, "body": dict(body or {}), "headers": dict(headers or {})}
        return understand(self._post("explain", asked | ({"key": key} if key else {})), ExplainView)

    def pool_status(self) -> dict[str, dict[str, Any]]:
        """``{pool: {"active", "standby", "total", "current_model"}}``; the current model is that of sticky pools."""
        return {
            pool.id: {
                "active": pool.active,
                "standby": pool.standby,
                "total": len(pool.models),
                "current_model": pool.current,
            }
            for pool in self._pools()
        }

    def active_providers(self) -> list[str]:
        """Providers with at least one active model, sorted."""
        status = self.status()
        accounts = {provider.id for provider in status.providers if provider.status == "active"}
        return sorted({m.provider for m in status.models if m.status == "active" and m.provider in accounts})

    def list_pools(self) -> list[str]:
        """Ids of all pools."""
        return [pool.id for pool in self._pools()]

    def describe(self, pool: str | None = None) -> str:
        """Pools and their models as text; the arrow stands before a sticky pool's current model."""
        status = self.status()
        models = {model.id: model for model in status.models}
        return "\n".join(_describe(p, models) for p in status.pools if pool in (None, p.id))

    def rotate(self, pool: str, *, reason: str = "rotated by a program") -> RotationView:
        """Move a pool on to its next model."""
        return understand(
            self._post(f"pools/{quote(pool, safe='')}/rotate", {"reason": reason}), RotationView
        )

    def deactivate(
        self, name: str, *, kind: Kind = "models", reason: str = "", for_s: float | None = None
    ) -> OrderView:
        """Take a model, or with ``kind="providers"`` an account, out of service in the whole cluster."""
        body = {"reason": reason or "deactivated by a program"} | ({"for_s": for_s} if for_s else {})
        return self._switch(kind, name, "deactivate", body)

    def activate(self, name: str, *, kind: Kind = "models") -> OrderView:
        """Bring a model or an account back."""
        return self._switch(kind, name, "activate", {})

    def probe(self, model: str) -> ProbeView:
        """Send a model one tiny request and say how it went."""
        with self._ops() as ops:
            return ops.probe(model)

    def _switch(
        self, kind: Kind, name: str, verb: Literal["activate", "deactivate"], body: Mapping[str, Any]
    ) -> OrderView:
        with self._ops() as ops:
            return ops.switch(kind, name, verb, body=body)

    def _pools(self) -> list[PoolView]:
        return understand(self._get("pools"), PoolsView).pools

    def _get(self, path: str) -> Any:
        with self._ops() as ops:
            return ops.get(path)

    def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        with self._ops() as ops:
            return ops.post(path, body)


def _describe(pool: PoolView, models: Mapping[str, ModelView]) -> str:
    lines = [f'Pool "{pool.id}" (strategy: {pool.strategy})', f"  capability: {pool.capability or '-'}"]
    for name in pool.models:
        arrow = "->" if name == pool.current else "  "
        model = models.get(name)
        lines.append(
            f"  {arrow} {name} [{model.provider if model else '?'}] ({model.status if model else '?'})"
        )
    return "\n".join(lines)
