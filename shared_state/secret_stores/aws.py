"""``aws.secrets-manager.v1``: AWS Secrets Manager through boto3, with the credentials that boto3 finds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from shared_state.config.secrets import SecretsConfig
from shared_state.errors import SecretStoreError
from shared_state.secret_stores.base import load_sdk

_ID: Final = "aws.secrets-manager.v1"
_CODE: Final = re.compile(r"[A-Za-z]{1,60}")
_MISSING: Final = "ResourceNotFoundException"
#: What is wrong with one secret; anything else would be wrong with the next one too.
_OF_ONE: Final = frozenset(
    {
        "AccessDeniedException",
        "DecryptionFailure",
        "InvalidParameterException",
        "InvalidRequestException",
        "ValidationException",
    }
)


class AwsStore:
    """Secrets of one region, as text.

    Args:
        client: boto3's for Secrets Manager.
    """

    def __init__(self, client: Any, *, prefix: str = "", stage: str = "AWSCURRENT") -> None:
        self._client = client
        self._prefix = prefix
        self._stage = stage

    def get(self, name: str) -> str | None:
        try:
            found = self._client.get_secret_value(SecretId=self._prefix + name, VersionStage=self._stage)
        except Exception as error:
            fault = error
        else:
            if "SecretString" in found:
                return str(found["SecretString"])
            raise SecretStoreError("it is binary, not text")
        if _code(fault) == _MISSING:
            return None
        raise _as_ours(fault)

    def describe(self, name: str) -> str:
        region = self._client.meta.region_name
        return f"AWS Secrets Manager in {region} holds no {self._prefix}{name} in stage {self._stage}"

    def names(self) -> list[str]:
        filters = [{"Key": "name", "Values": [self._prefix]}] if self._prefix else []
        try:
            pages = list(self._client.get_paginator("list_secrets").paginate(Filters=filters))
        except Exception as error:
            fault = error
        else:
            names = (str(secret["Name"]) for page in pages for secret in page["SecretList"])
            return sorted(name[len(self._prefix) :] for name in names if name.startswith(self._prefix))
        raise _as_ours(fault)

    def put(self, values: Mapping[str, str]) -> None:
        for name, value in values.items():
            fault = self._put(self._prefix + name, value)
            if fault is not None:
                error = _as_ours(fault)
                raise SecretStoreError(f"{name} was not stored: {error.message}")

    def _put(self, name: str, value: str) -> Exception | None:
        try:
            self._client.put_secret_value(SecretId=name, SecretString=value)
        except Exception as error:
            if _code(error) != _MISSING:
                return error
        else:
            return None
        try:
            self._client.create_secret(Name=name, SecretString=value)
        except Exception as error:
            return error
        return None


def open_store(config: SecretsConfig, environ: Mapping[str, str]) -> AwsStore:
    """The store of a configuration.

    Raises:
        SecretStoreError: boto3 is not installed, or no region is known.
    """
    boto3 = load_sdk("boto3", package="boto3", extra="aws", store=_ID)
    settings = load_sdk("botocore.config", package="boto3", extra="aws", store=_ID).Config(
        connect_timeout=config.timeout, read_timeout=config.timeout, retries={"total_max_attempts": 2}
    )
    try:
        client = boto3.client("secretsmanager", region_name=config.region, config=settings)
    except Exception as error:
        fault = type(error).__name__
    else:
        return AwsStore(client, prefix=config.prefix, stage=config.version_stage)
    if fault == "NoRegionError":
        raise SecretStoreError("is not given, and the SDK knows none", key="region")
    raise SecretStoreError(f"boto3 cannot be used: {fault}", key="store")


def _code(error: Exception) -> str:
    response = getattr(error, "response", None)
    code = str(response.get("Error", {}).get("Code", "")) if isinstance(response, dict) else ""
    return code if _CODE.fullmatch(code) else ""


def _as_ours(error: Exception) -> SecretStoreError:
    """Only the kind of an error is told: its text may quote what was sent."""
    code = _code(error)
    if code in _OF_ONE:
        return SecretStoreError(f"AWS Secrets Manager refuses it: {code}")
    return SecretStoreError(f"AWS Secrets Manager: {code or type(error).__name__}", is_outage=True)
