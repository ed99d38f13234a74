"""``microsoft.key-vault.v1``: Azure Key Vault through its own libraries, with the credentials that azure-identity finds.

Key Vault knows no underscore in names: ``${secrets:OPENAI_API_KEY}`` is looked up as ``OPENAI-API-KEY``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from shared_state.config.secrets import SecretsConfig
from shared_state.errors import SecretStoreError
from shared_state.secret_stores.base import load_sdk, require

_ID: Final = "microsoft.key-vault.v1"
_NAME: Final = re.compile(r"[A-Za-z0-9-]{1,127}")
_MISSING: Final = 404
#: HTTP statuses that are about one secret; anything else would be wrong with the next one too.
_OF_ONE: Final = frozenset({400, 403, 409})


class AzureStore:
    """The secrets of a vault.

    Args:
        client: the library's ``SecretClient``.
    """

    def __init__(self, client: Any) -> None:
        self._client = client

    def get(self, name: str) -> str | None:
        spelling = self.spell(name)
        try:
            found = self._client.get_secret(spelling)
        except Exception as error:
            fault = error
        else:
            return str(found.value)
        if _status(fault) == _MISSING:
            return None
        raise _as_ours(fault)

    def describe(self, name: str) -> str:
        return f"{self._client.vault_url} holds no {self.spell(name)}"

    def names(self) -> list[str]:
        try:
            return sorted(str(secret.name) for secret in self._client.list_properties_of_secrets())
        except Exception as error:
            fault = error
        raise _as_ours(fault)

    def put(self, values: Mapping[str, str]) -> None:
        spelled = {self.spell(name): value for name, value in values.items()}
        for name, value in spelled.items():
            try:
                self._client.set_secret(name, value)
            except Exception as error:
                fault = error
            else:
                continue
            raise SecretStoreError(f"{name} was not stored: {_as_ours(fault).message}")

    def spell(self, name: str) -> str:
        """A name as the vault takes it."""
        spelling = name.replace("_", "-")
        if not _NAME.fullmatch(spelling):
            raise SecretStoreError("its name holds what Key Vault does not take: letters, digits and - only")
        return spelling


def open_store(config: SecretsConfig, environ: Mapping[str, str]) -> AzureStore:
    """The store of a configuration.

    Raises:
        SecretStoreError: the libraries are not installed, or the address is none.
    """
    require(config, "vault_url")
    identity = load_sdk("azure.identity", package="azure-identity", extra="azure", store=_ID)
    vaults = load_sdk("azure.keyvault.secrets", package="azure-keyvault-secrets", extra="azure", store=_ID)
    options = {"connection_timeout": config.timeout, "read_timeout": config.timeout, "retry_total": 1}
    try:
        credential = identity.DefaultAzureCredential(**_tenants(config.tenant_id))
        client = vaults.SecretClient(vault_url=config.vault_url, credential=credential, **options)
    except Exception as error:
        fault = type(error).__name__
    else:
        return AzureStore(client)
    raise SecretStoreError(f"Azure Key Vault cannot be used: {fault}", key="vault_url")


def _tenants(tenant: str | None) -> dict[str, Any]:
    """Without a word of ours the credentials ask their home tenant, or the one of the environment."""
    if tenant is None:
        return {}
    keys = ("workload_identity_tenant_id", "shared_cache_tenant_id")
    return {"additionally_allowed_tenants": [tenant], **dict.fromkeys(keys, tenant)}


def _status(error: Exception) -> int:
    status = getattr(error, "status_code", None)
    return status if isinstance(status, int) else 0


def _as_ours(error: Exception) -> SecretStoreError:
    """Only the kind of an error is told: its text may quote what was sent."""
    if isinstance(error, SecretStoreError):
        return error
    kind = type(error).__name__
    if _status(error) in _OF_ONE:
        return SecretStoreError(f"Azure Key Vault refuses it: {kind} ({_status(error)})")
    return SecretStoreError(f"Azure Key Vault: {kind}", is_outage=True)
