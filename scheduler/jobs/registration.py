"""Puts models that a provider has begun to list into the configuration: a new version, pushed through a node like an operator's.

What a model can do must be known: from the catalogue, or because all configured models of its provider can do the same. A model of which it is
not known is only told.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from scheduler.nodes import Nodes
from shared_state.logs import get_logger
from shared_state.shapes.listing import ListedModel
from shared_state.topology import ModelSpec, ProviderSpec, Topology

log = get_logger(__name__)

_TIMEOUT_S: Final = 30.0
_TRIES: Final = 3
_CONFLICT: Final = "version_conflict"
#: A vendor may bring out hundreds at once, and each takes traffic of the pools that it fits.
MOST_REGISTERED: Final = 20


class Registrar:
    """Registers models under one configuration."""

    def __init__(self, topology: Topology, nodes: Nodes) -> None:
        self._topology = topology
        self._nodes = nodes

    async def register(self, provider: ProviderSpec, listed: Sequence[ListedModel]) -> dict[str, str]:
        """What became of each model, by its name: ``registered``, or why it was not.

        Raises:
            NoNodeError, NodeRefusedError: no node answers, or none lets us in.
            RedisError, OSError, TimeoutError: the store is away.
        """
        capabilities = common_capabilities(
            [model for model in self._topology.models.values() if model.provider == provider.id]
        )
        entries = {
            model.id: entry
            for model in listed[:MOST_REGISTERED]
            if (entry := entry_of(model, provider, capabilities)) is not None
        }
        fate = await self._push(provider.id, entries) if entries else ""
        unknown = "new: what it can do is not known"
        return {model.id: fate if model.id in entries else unknown for model in listed}

    async def _push(self, provider: str, entries: Mapping[str, Mapping[str, Any]]) -> str:
        """``registered``, or why the cluster did not take them."""
        for _ in range(_TRIES):
            config = await self._nodes.get("config", timeout_s=_TIMEOUT_S)
            if config.status != 200 or not isinstance(config.body, dict):
                return f"new: the configuration could not be read ({config.code or config.status})"
            answer = await self._nodes.order("config", _order(config.body, provider, entries))
            if answer.status == 200:
                return "registered"
            if answer.code != _CONFLICT:
                break
        log.warning("models were not registered", provider=provider, error=answer.message)
        return f"new: not registered ({answer.code or answer.status})"


def _order(
    config: Mapping[str, Any], provider: str, entries: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """The push: everything as it is, and behind it the new models; one that somebody has added in between stays as it is."""
    document = dict(config["document"])
    models = dict(document.get("models") or {})
    for name, entry in entries.items():
        models.setdefault(f"{provider}.{name}", dict(entry))
    names = ", ".join(f"{provider}.{name}" for name in entries)
    return {
        "document": {**document, "models": models},
        "base": config["number"],
        "author": "scheduler",
        "comment": f"listed by {provider}: {names}"[:500],
    }


def entry_of(model: ListedModel, provider: ProviderSpec, common: Sequence[str]) -> dict[str, Any] | None:
    """A model's entry in the configuration; None if it is not known what it can do, or if it is on its way out."""
    known = provider.connector.model(model.id)
    if (known is None and not common) or not model.is_active or model.is_deprecated:
        return None
    entry: dict[str, Any] = {"provider": provider.id, "upstream": model.id}
    if known is None:
        entry["capabilities"] = list(common)
    sizes = {"context_window": model.context_window, "max_output_tokens": model.max_output_tokens}
    constraints = {name: size for name, size in sizes.items() if size}
    if constraints:
        entry["constraints"] = constraints
    if model.price_input is not None and model.price_output is not None:
        entry["pricing"] = {"input": model.price_input, "output": model.price_output}
    return entry


def common_capabilities(models: Sequence[ModelSpec]) -> list[str]:
    """What all configured models of a provider can do; nothing if they differ, for then nobody can tell of a new one."""
    sets = {model.capabilities for model in models}
    return sorted(next(iter(sets))) if len(sets) == 1 else []
