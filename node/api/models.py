"""``GET /v1/models``: pools and models as one list; both routes read the same table."""

from __future__ import annotations

from typing import Any, Final

from shared_state.client_keys import ClientKey
from shared_state.topology import Topology

#: The API wants a date of every model. Nobody knows one, and all nodes must say the same.
_CREATED: Final = 1_700_000_000
_CREATED_AT: Final = "2023-11-14T22:13:20Z"


class ModelList:
    """The names that ``model`` may be, apart from capabilities."""

    def __init__(self, topology: Topology) -> None:
        pools = {pool.id: _entry(pool.id, "modelmesh") for pool in topology.pools.values()}
        models = {model.id: _entry(model.id, model.provider) for model in topology.models.values()}
        self._entries = {**models, **pools}
        self._order = [*pools, *(name for name in models if name not in pools)]

    def all(self, key: ClientKey | None = None) -> dict[str, Any]:
        """Everything that a key may use, pools first."""
        names = self._order if key is None else [name for name in self._order if key.may_use(name)]
        return {"object": "list", "data": [self._entries[name] for name in names]}

    def get(self, name: str, key: ClientKey | None = None) -> dict[str, Any] | None:
        """One entry, None for a name that is unknown, or not for this key."""
        return self._entries.get(name) if key is None or key.may_use(name) else None


def claudes_list(listed: dict[str, Any]) -> dict[str, Any]:
    """The same list as Anthropic's API has it; there is one page."""
    entries = [claudes_entry(entry) for entry in listed["data"]]
    first, last = (entries[0]["id"], entries[-1]["id"]) if entries else (None, None)
    return {"data": entries, "has_more": False, "first_id": first, "last_id": last}


def claudes_entry(entry: dict[str, Any]) -> dict[str, Any]:
    """The same entry as Anthropic's API has it."""
    name = entry["id"]
    return {"type": "model", "id": name, "display_name": name, "created_at": _CREATED_AT}


def _entry(name: str, owner: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": _CREATED, "owned_by": owner}
