"""``modelmesh.memory-secrets.v1``: a mapping in the configuration itself, for programs and tests. It lasts as long as the process."""

from __future__ import annotations

from collections.abc import Mapping

from shared_state.config.secrets import SecretsConfig


class MemoryStore:
    """Values that were handed over."""

    def __init__(self, values: Mapping[str, str]) -> None:
        self._values = dict(values)

    def get(self, name: str) -> str | None:
        return self._values.get(name)

    def describe(self, name: str) -> str:
        return f"secrets.secrets holds no {name}"

    def names(self) -> list[str]:
        return sorted(self._values)


def open_store(config: SecretsConfig, environ: Mapping[str, str]) -> MemoryStore:
    """The store of a configuration."""
    return MemoryStore({name: value.get_secret_value() for name, value in config.secrets.items()})
