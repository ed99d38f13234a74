"""``1password.connect.v1``: items of a vault through a 1Password Connect server. An item is found by its title."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from shared_state.config.secrets import SecretsConfig
from shared_state.errors import SecretStoreError
from shared_state.secret_stores.base import load_sdk, require

_ID: Final = "1password.connect.v1"
_PACKAGE: Final = "onepasswordconnectsdk"
_RECEIVED: Final = re.compile(r"Received (\d{3})")
_FIELDS: Final = ("credential", "password")


class OnePasswordStore:
    """One value an item: its password, or what its field ``credential`` or ``password`` holds.

    Args:
        client: the library's, for a Connect server.
        models: the library's module of that name.
    """

    def __init__(self, client: Any, models: Any, *, vault: str) -> None:
        self._client = client
        self._models = models
        self._vault = vault

    def get(self, name: str) -> str | None:
        item = self._find(name)
        if item is None:
            return None
        field = _value_field(item)
        if field is None or field.value is None:
            raise SecretStoreError("the item has no password, and no field credential or password")
        return str(field.value)

    def describe(self, name: str) -> str:
        return f"the vault {self._vault} of {self._client.url} has no item of the title {name}"

    def names(self) -> list[str]:
        return sorted(str(item.title) for item in self._ask("get_items", self._vault))

    def put(self, values: Mapping[str, str]) -> None:
        fault = ""
        for name, value in values.items():
            try:
                self._put(name, value)
            except SecretStoreError as error:
                fault = f"{name} was not stored: {error.message}"
                break
        if fault:
            raise SecretStoreError(fault)

    def _put(self, name: str, value: str) -> None:
        models, item = self._models, self._find(name)
        if item is None:
            field = models.Field(id="credential", type="CONCEALED", label="credential", value=value)
            vault = models.ItemVault(id=self._vault)
            made = models.Item(title=name, category="API_CREDENTIAL", vault=vault, fields=[field])
            self._ask("create_item", self._vault, made)
            return
        known = _value_field(item)
        if known is None:
            raise SecretStoreError("an item of that title is there, without a field that could hold it")
        known.value = value
        self._ask("update_item", item.id, self._vault, item)

    def _find(self, name: str) -> Any:
        found = self._ask("get_items", self._vault, f'title eq "{name}"')
        if len(found) > 1:
            raise SecretStoreError(f"{len(found)} items have that title")
        return self._ask("get_item_by_id", found[0].id, self._vault) if found else None

    def _ask(self, verb: str, *args: Any) -> Any:
        """The library's errors quote what the server says; only their kind and the status are told."""
        try:
            return getattr(self._client, verb)(*args)
        except Exception as error:
            status, kind = _RECEIVED.search(str(error)), type(error).__name__
        told = f"1Password Connect answers {status[1]}" if status else f"1Password Connect: {kind}"
        raise SecretStoreError(told, is_outage=True)


def open_store(config: SecretsConfig, environ: Mapping[str, str]) -> OnePasswordStore:
    """The store of a configuration.

    Raises:
        SecretStoreError: the library is not installed, or something is not given.
    """
    require(config, "server_url", "vault_id", "token")
    library = load_sdk("onepasswordconnectsdk.client", package=_PACKAGE, extra="1password", store=_ID)
    settings = load_sdk("onepasswordconnectsdk.config", package=_PACKAGE, extra="1password", store=_ID)
    models = load_sdk("onepasswordconnectsdk.models", package=_PACKAGE, extra="1password", store=_ID)
    token = config.token.get_secret_value() if config.token is not None else ""
    options = settings.ClientConfig(timeout=config.timeout)
    client = library.new_client(config.server_url, token, config=options)
    return OnePasswordStore(client, models, vault=config.vault_id or "")


def _value_field(item: Any) -> Any:
    fields = item.fields or []
    passwords = [field for field in fields if field.purpose == "PASSWORD"]
    named = [field for name in _FIELDS for field in fields if name in (field.id, field.label)]
    return next(iter([*passwords, *named]), None)
