"""Every store, opened by its configuration; the vaults are on this machine, asked by their own libraries."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pytest

from shared_state.config.secrets import SecretsConfig
from shared_state.secret_stores import azure, google, keychain
from shared_state.secret_stores.base import SecretStore
from shared_state.secret_stores.table import open_store
from tests.unit.shared_state.secret_stores.vaults import Vaults

KEY: Final = "0f" * 32
#: Their libraries are large, and not installed for everyone.
VAULTS: Final = tuple(
    pytest.param(store, marks=pytest.mark.vaults)
    for store in (
        "aws.secrets-manager.v1",
        "google.secret-manager.v1",
        "microsoft.key-vault.v1",
        "1password.connect.v1",
    )
)
WRITABLE: Final = (
    "modelmesh.dotenv.v1",
    "modelmesh.json-secrets.v1",
    "modelmesh.encrypted-file.v1",
    "modelmesh.keyring.v1",
    *VAULTS,
)

Open = Callable[..., SecretStore]


class FakeKeyring:
    """What the keyring package offers, in memory."""

    def __init__(self) -> None:
        self.entries: dict[tuple[str, str], str] = {}
        self.fault: Exception | None = None

    def get_password(self, service: str, name: str) -> str | None:
        if self.fault:
            raise self.fault
        return self.entries.get((service, name))

    def set_password(self, service: str, name: str, value: str) -> None:
        if self.fault:
            raise self.fault
        self.entries[service, name] = value


@pytest.fixture(scope="package")
def all_vaults() -> Iterator[Vaults]:
    with closing(Vaults()) as vaults:
        yield vaults


@pytest.fixture
def vaults(all_vaults: Vaults) -> Vaults:
    """Empty, and of good will."""
    all_vaults.secrets.clear()
    all_vaults.asked.clear()
    all_vaults.refusal = None
    return all_vaults


@pytest.fixture
def keyring() -> FakeKeyring:
    return FakeKeyring()


@pytest.fixture
def open_any(tmp_path: Path, vaults: Vaults, keyring: FakeKeyring, monkeypatch: pytest.MonkeyPatch) -> Open:
    """Open a store by its id, always the same one."""
    sections: Mapping[str, dict[str, Any]] = {
        "modelmesh.dotenv.v1": {"path": str(tmp_path / "mesh.env")},
        "modelmesh.json-secrets.v1": {"path": str(tmp_path / "mesh.json")},
        "modelmesh.encrypted-file.v1": {"path": str(tmp_path / "mesh.enc"), "encryption_key": KEY},
        "modelmesh.memory-secrets.v1": {"secrets": {"OLD": "old-value"}},
        "google.secret-manager.v1": {"project": "p"},
        "microsoft.key-vault.v1": {"vault_url": "https://mesh.vault.azure.net"},
        "1password.connect.v1": {
            "server_url": f"http://{vaults.address}",
            "vault_id": "v",
            "token": "connect-token",
        },
    }
    for name, value in {
        "AWS_ENDPOINT_URL_SECRETS_MANAGER": f"http://{vaults.address}",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "eu-west-1",
    }.items():
        monkeypatch.setenv(name, value)

    def open_any(store: str, **keys: Any) -> SecretStore:
        config = SecretsConfig(**{"store": store, **sections.get(store, {}), **keys})
        if store == "modelmesh.keyring.v1":
            return keychain.KeyringStore(keyring, service=config.service_name)
        if store == "google.secret-manager.v1":
            return google.GoogleStore(_google_client(vaults), project="p", prefix=config.prefix)
        if store == "microsoft.key-vault.v1":
            return azure.AzureStore(_azure_client(vaults))
        return open_store(config, {})

    return open_any


def _google_client(vaults: Vaults) -> Any:
    """The library's client, its transport pointed here; it has no switch for plain HTTP."""
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import secretmanager_v1 as library
    from google.cloud.secretmanager_v1.services.secret_manager_service.transports.rest import (
        SecretManagerServiceRestTransport,
    )

    transport = SecretManagerServiceRestTransport(
        host=vaults.address, url_scheme="http", credentials=AnonymousCredentials()
    )
    return library.SecretManagerServiceClient(transport=transport)


def _azure_client(vaults: Vaults) -> Any:
    """The library's client with all its policies; it refuses plain HTTP, so only the last step goes elsewhere."""
    from azure.core.credentials import AccessToken
    from azure.core.pipeline.transport import RequestsTransport
    from azure.keyvault.secrets import SecretClient

    class Here(RequestsTransport):
        def send(self, request: Any, **kwargs: Any) -> Any:
            address = request.url
            request.url = address.replace("https://mesh.vault.azure.net", f"http://{vaults.address}")
            try:
                return super().send(request, **kwargs)
            finally:
                request.url = address

    class Credential:
        def get_token(self, *scopes: str, **_: Any) -> AccessToken:
            return AccessToken("token", 1 << 40)

    return SecretClient("https://mesh.vault.azure.net", Credential(), transport=Here(), retry_total=0)
