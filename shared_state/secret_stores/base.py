"""What a secret store is, and what all of them share: reading each secret once, and failing once."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from shared_state.config.secrets import SecretsConfig
from shared_state.errors import SecretStoreError


class SecretStore(Protocol):
    """Where secrets are looked up. Stores are read in a thread or before anything serves: they may block, within their timeout."""

    def get(self, name: str) -> str | None:
        """The value of ``name``; None if the store has no such secret.

        Raises:
            SecretStoreError: it cannot be told; the message never holds a value.
        """

    def describe(self, name: str) -> str:
        """Where ``name`` was looked for, for the message that it is missing."""


@runtime_checkable
class ListingStore(SecretStore, Protocol):
    """A store that can say what it holds."""

    def names(self) -> list[str]:
        """The names of all secrets, sorted.

        Raises:
            SecretStoreError: it cannot be told.
        """


@runtime_checkable
class WritableStore(SecretStore, Protocol):
    """A store that can be filled."""

    def put(self, values: Mapping[str, str]) -> None:
        """Adds or replaces secrets; those that are not given stay. A file changes at once or not at all.

        Raises:
            SecretStoreError: it cannot be written, or cannot hold such a name or value.
        """


@runtime_checkable
class SpellingStore(SecretStore, Protocol):
    """A store that spells names in its own way."""

    def spell(self, name: str) -> str:
        """A name as the store lists it.

        Raises:
            SecretStoreError: it cannot hold such a name.
        """


class ReadOnce:
    """A store that is asked for each name once, and not at all any more once it cannot be reached.

    Thirty references to a vault that is away cost one timeout instead of thirty.
    """

    def __init__(self, store: SecretStore) -> None:
        self._store = store
        self._values: dict[str, str | None] = {}
        self._outage: SecretStoreError | None = None

    def get(self, name: str) -> str | None:
        if name in self._values:
            return self._values[name]
        if self._outage is not None:
            raise self._outage
        try:
            value = self._values[name] = self._store.get(name)
        except SecretStoreError as error:
            if error.is_outage:
                self._outage = error
            raise
        return value

    def describe(self, name: str) -> str:
        return self._store.describe(name)


def load_sdk(module: str, *, package: str, extra: str, store: str) -> Any:
    """An optional library, imported when a store needs it.

    Raises:
        SecretStoreError: it is not installed; the message names the extra.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        fault = (
            f"{store} needs the package {package}, which is not installed: pip install 'modelmesh[{extra}]'"
        )
    raise SecretStoreError(fault, key="store")


def require(config: SecretsConfig, *keys: str) -> None:
    """Keys without which a store cannot be found.

    Raises:
        SecretStoreError: one is not given.
    """
    for key in keys:
        if key not in config.model_fields_set or not getattr(config, key):
            raise SecretStoreError(f"is required by {config.store}", key=key)
