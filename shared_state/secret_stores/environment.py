"""``modelmesh.env.v1``: environment variables, with an optional prefix before each name."""

from __future__ import annotations

from collections.abc import Mapping

from shared_state.config.secrets import SecretsConfig


class EnvironmentStore:
    """Read-only: a process cannot fill the environment of others. What others than ours stand there is not listed."""

    def __init__(self, environ: Mapping[str, str], *, prefix: str = "") -> None:
        self._environ = environ
        self._prefix = prefix

    def get(self, name: str) -> str | None:
        return self._environ.get(self._prefix + name)

    def describe(self, name: str) -> str:
        return f"the environment variable {self._prefix}{name} is not set"


def open_store(config: SecretsConfig, environ: Mapping[str, str]) -> EnvironmentStore:
    """The store of a configuration."""
    return EnvironmentStore(environ, prefix=config.prefix)
