"""The stores by id. A store's file is imported when it is opened, and its library then."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, Final

from shared_state.config.secrets import SecretsConfig, StoreId
from shared_state.secret_stores.base import SecretStore

_MODULES: Final[Mapping[StoreId, str]] = {
    "modelmesh.env.v1": "environment",
    "modelmesh.dotenv.v1": "dotenv",
    "modelmesh.json-secrets.v1": "structured",
    "modelmesh.encrypted-file.v1": "encrypted",
    "modelmesh.keyring.v1": "keychain",
    "modelmesh.memory-secrets.v1": "memory",
    "aws.secrets-manager.v1": "aws",
    "google.secret-manager.v1": "google",
    "microsoft.key-vault.v1": "azure",
    "1password.connect.v1": "onepassword",
}

#: Stores whose content is settled when the process starts.
FIXED: Final = frozenset({"modelmesh.env.v1", "modelmesh.memory-secrets.v1"})


def open_store(config: SecretsConfig, environ: Mapping[str, str]) -> SecretStore:
    """The store that the configuration names.

    Raises:
        SecretStoreError: it cannot be opened; the message never holds a value.
    """
    module: Any = importlib.import_module(f"shared_state.secret_stores.{_MODULES[config.store]}")
    store: SecretStore = module.open_store(config, environ)
    return store
