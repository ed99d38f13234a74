"""``GET /v1/models``: pools and models as one list; both routes read the same table."""

from __future__ import annotations

from typing import Any

from shared_state.topology import Topology


class ModelList:
    """The names that ``model`` may be, apart from capabilities."""

    def __init__(self, topology: Topology, *, created: int) -> None:
        pools = {pool.id: _entry(pool.id, "modelmesh", created) for pool in topology.pools.values()}
        models = {model.id: _entry(model.id, model.provider, created) for model in topology.models.values()}
        self._entries = {**models, **pools}
        self._order = [*pools, *(name for name in models if name not in pools)]

    def all(self) -> dict[str, Any]:
        """Everything, pools first."""
        return {"object": "list", "data": [self._entries[name] for name in self._order]}

    def get(self, name: str) -> dict[str, Any] | None:
        """One entry, None for an unknown name."""
        return self._entries.get(name)


def _entry(name: str, owner: str, created: int) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": created, "owned_by": owner}
