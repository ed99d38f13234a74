"""``google.secret-manager.v1``: Google Secret Manager through its own library, over HTTPS, with the machine's default credentials."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from shared_state.config.secrets import SecretsConfig
from shared_state.errors import SecretStoreError
from shared_state.secret_stores.base import load_sdk, require

_ID: Final = "google.secret-manager.v1"
_PACKAGE: Final = "google-cloud-secret-manager"
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,255}")
_MISSING: Final = 404
#: HTTP statuses that are about one secret; anything else would be wrong with the next one too.
_OF_ONE: Final = frozenset({400, 403, 409})


class GoogleStore:
    """The latest versions of a project's secrets.

    Args:
        client: the library's ``SecretManagerServiceClient``.
    """

    def __init__(self, client: Any, *, project: str, prefix: str = "", timeout_s: float = 5.0) -> None:
        self._client = client
        self._project = project
        self._prefix = prefix
        self._options: dict[str, Any] = {"timeout": timeout_s, "retry": None}

    def get(self, name: str) -> str | None:
        path = f"{self._path(name)}/versions/latest"
        try:
            found = self._client.access_secret_version(request={"name": path}, **self._options)
            return bytes(found.payload.data).decode()
        except UnicodeDecodeError:
            fault = None
        except Exception as error:
            fault = error
        if fault is None:
            raise SecretStoreError("it is binary, not text")
        if _status(fault) == _MISSING:
            return None
        raise _as_ours(fault)

    def describe(self, name: str) -> str:
        return f"Google Secret Manager of {self._project} holds no version of {self._prefix}{name}"

    def names(self) -> list[str]:
        request = {"parent": f"projects/{self._project}"}
        try:
            paths = [secret.name for secret in self._client.list_secrets(request=request, **self._options)]
        except Exception as error:
            fault = error
        else:
            names = (path.rpartition("/")[2] for path in paths)
            return sorted(name[len(self._prefix) :] for name in names if name.startswith(self._prefix))
        raise _as_ours(fault)

    def put(self, values: Mapping[str, str]) -> None:
        for name, value in values.items():
            fault = self._put(name, value.encode())
            if fault is not None:
                raise SecretStoreError(f"{name} was not stored: {_as_ours(fault).message}")

    def _put(self, name: str, data: bytes) -> Exception | None:
        version = {"parent": self._path(name), "payload": {"data": data}}
        try:
            self._client.add_secret_version(request=version, **self._options)
        except Exception as error:
            if _status(error) != _MISSING:
                return error
        else:
            return None
        secret: dict[str, Any] = {"replication": {"automatic": {}}}
        request = {"parent": f"projects/{self._project}", "secret_id": self._prefix + name, "secret": secret}
        try:
            self._client.create_secret(request=request, **self._options)
            self._client.add_secret_version(request=version, **self._options)
        except Exception as error:
            return error
        return None

    def _path(self, name: str) -> str:
        if not _NAME.fullmatch(self._prefix + name):
            raise SecretStoreError("its name holds what Google does not take: letters, digits, _ and - only")
        return f"projects/{self._project}/secrets/{self._prefix}{name}"


def open_store(config: SecretsConfig, environ: Mapping[str, str]) -> GoogleStore:
    """The store of a configuration.

    Raises:
        SecretStoreError: the library is not installed, or the machine has no credentials.
    """
    require(config, "project")
    library = load_sdk("google.cloud.secretmanager_v1", package=_PACKAGE, extra="google", store=_ID)
    try:
        client = library.SecretManagerServiceClient(transport="rest")
    except Exception as error:
        fault = type(error).__name__
    else:
        return GoogleStore(
            client, project=config.project or "", prefix=config.prefix, timeout_s=config.timeout
        )
    raise SecretStoreError(f"Google Secret Manager cannot be used: {fault}", key="store")


def _status(error: Exception) -> int:
    return int(getattr(error, "code", None) or 0) if isinstance(getattr(error, "code", None), int) else 0


def _as_ours(error: Exception) -> SecretStoreError:
    """Only the kind of an error is told: its text may quote what was sent."""
    if isinstance(error, SecretStoreError):
        return error
    kind = type(error).__name__
    if _status(error) in _OF_ONE:
        return SecretStoreError(f"Google Secret Manager refuses it: {kind}")
    return SecretStoreError(f"Google Secret Manager: {kind}", is_outage=True)
