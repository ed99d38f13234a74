"""``modelmesh.keyring.v1``: the keyring of the operating system's user, through the ``keyring`` package."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from shared_state.config.secrets import SecretsConfig
from shared_state.errors import SecretStoreError
from shared_state.secret_stores.base import load_sdk

_ID: Final = "modelmesh.keyring.v1"


class KeyringStore:
    """Entries of one service. Keyrings cannot be listed, so neither can this.

    Args:
        keyring: the package, or what behaves like it.
    """

    def __init__(self, keyring: Any, *, service: str) -> None:
        self._keyring = keyring
        self._service = service

    def get(self, name: str) -> str | None:
        try:
            value: str | None = self._keyring.get_password(self._service, name)
        except Exception as error:
            fault = _explain(error)
        else:
            return value
        raise SecretStoreError(fault, is_outage=True)

    def describe(self, name: str) -> str:
        return f"the keyring has no {name} under the service {self._service}"

    def put(self, values: Mapping[str, str]) -> None:
        fault = ""
        for name, value in values.items():
            try:
                self._keyring.set_password(self._service, name, value)
            except Exception as error:
                fault = f"{name} was not stored: {_explain(error)}"
                break
        if fault:
            raise SecretStoreError(fault)


def open_store(config: SecretsConfig, environ: Mapping[str, str]) -> KeyringStore:
    """The store of a configuration.

    Raises:
        SecretStoreError: the package is not installed.
    """
    keyring = load_sdk("keyring", package="keyring", extra="keyring", store=_ID)
    return KeyringStore(keyring, service=config.service_name)


def _explain(error: Exception) -> str:
    """Backends raise what they like, and may quote what they were given: only the kind is told."""
    kind = type(error).__name__
    if kind == "NoKeyringError":
        return "there is no keyring on this machine that could be used"
    return f"the keyring does not answer: {kind}"
