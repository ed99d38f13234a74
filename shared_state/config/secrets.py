"""``secrets``: the store that ``${secrets:NAME}`` refers to. Which keys belong to which store is a table here; the stores are elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from pydantic import Field

from shared_state.config.faults import FaultLog
from shared_state.config.values import DurationS, Secret, Section

StoreId = Literal[
    "modelmesh.env.v1",
    "modelmesh.dotenv.v1",
    "modelmesh.json-secrets.v1",
    "modelmesh.encrypted-file.v1",
    "modelmesh.keyring.v1",
    "modelmesh.memory-secrets.v1",
    "aws.secrets-manager.v1",
    "google.secret-manager.v1",
    "microsoft.key-vault.v1",
    "1password.connect.v1",
]

#: The keys of each store, beside those of all.
STORE_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "modelmesh.env.v1": ("prefix",),
    "modelmesh.dotenv.v1": ("path", "override"),
    "modelmesh.json-secrets.v1": ("path", "json_path"),
    "modelmesh.encrypted-file.v1": ("path", "encryption_key", "key_file", "passphrase"),
    "modelmesh.keyring.v1": ("service_name",),
    "modelmesh.memory-secrets.v1": ("secrets",),
    "aws.secrets-manager.v1": ("region", "prefix", "version_stage", "timeout"),
    "google.secret-manager.v1": ("project", "prefix", "timeout"),
    "microsoft.key-vault.v1": ("vault_url", "tenant_id", "timeout"),
    "1password.connect.v1": ("server_url", "vault_id", "token", "timeout"),
}

_OF_ALL: Final = frozenset({"store", "fail_on_missing", "cache_ttl", "reload_on_rotation"})


class SecretsConfig(Section):
    """The store that `${secrets:NAME}` refers to; each has keys of its own ([secrets.md](secrets.md))."""

    store: StoreId = Field("modelmesh.env.v1", description="where secrets are kept")
    fail_on_missing: bool = Field(
        True, description="a secret that is missing is a fault; else it is empty text"
    )
    cache_ttl: DurationS = Field(
        300.0,
        ge=0,
        description="a node reads its secrets again after this long, and runs with what has changed; 0: only at its start, for a push and on SIGHUP",
    )
    reload_on_rotation: bool = Field(
        True, description="and when a key was refused, or a provider comes back from standby"
    )
    path: str = Field(".env", description="file of the dotenv, json and encrypted stores")
    prefix: str = Field("", description="env, aws, google: put before every name")
    override: bool = Field(False, description="dotenv: the file wins over the environment")
    json_path: str = Field("", description="json: where in the file the names stand, as a.b")
    encryption_key: Secret | None = Field(None, description="encrypted: 64 hex digits, as ${env:NAME}")
    key_file: str | None = Field(None, description="encrypted: a file with those digits")
    passphrase: Secret | None = Field(None, description="encrypted: instead of a key, as ${env:NAME}")
    service_name: str = Field("modelmesh", min_length=1, description="keyring: the service of its entries")
    secrets: dict[str, Secret] = Field(default_factory=dict, description="memory: the secrets themselves")
    region: str | None = Field(None, description="aws; default: the SDK's")
    version_stage: str = Field("AWSCURRENT", min_length=1, description="aws")
    project: str | None = Field(None, min_length=1, description="google")
    vault_url: str | None = Field(None, description="azure: https://NAME.vault.azure.net")
    tenant_id: str | None = Field(
        None, description="azure: the tenant that is asked for tokens; default: the SDK's"
    )
    server_url: str | None = Field(None, description="1password: of the Connect server")
    vault_id: str | None = Field(None, min_length=1, description="1password")
    token: Secret | None = Field(None, description="1password: of the Connect server, as ${env:NAME}")
    timeout: DurationS = Field(5.0, gt=0, le=60, description="aws, google, azure, 1password: of one call")


def check_secrets(config: SecretsConfig, log: FaultLog) -> None:
    """A key that the store does not have would be accepted and not obeyed."""
    keys = STORE_KEYS[config.store]
    for key in sorted(config.model_fields_set - _OF_ALL - set(keys)):
        owners = [store for store, theirs in STORE_KEYS.items() if key in theirs]
        log.add(
            ("secrets", key),
            f"is no key of {config.store}, which has {', '.join(keys)}; it belongs to {', '.join(owners)}",
        )
