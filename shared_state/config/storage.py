"""The storage section: where statistics, and copies of what Redis holds, are kept for good."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Literal, Self

from pydantic import Field, field_validator, model_validator

from shared_state.config.values import Secret, Section

_DATABASE_URL: Final = re.compile(r"(postgresql\+psycopg|postgresql|postgres)://.+")
_ENDPOINT: Final = re.compile(r"https?://[^/@?#\s]+/?")
#: The keys beside `connector` that each connector obeys, those first without which it cannot be.
_KEYS: Final[Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "modelmesh.sqlite.v1": ((), ("path",)),
    "modelmesh.postgresql.v1": (("url",), ()),
    "modelmesh.local-file.v1": ((), ("path", "persistence")),
    "aws.s3.v1": (("bucket",), ("key", "region", "endpoint", "persistence")),
}


class PersistenceConfig(Section):
    """How the minutes of statistics are written into files and objects."""

    format: Literal["json", "msgpack"] = Field("json", description="json: a line for each row")
    compression: bool = Field(False, description="gzip; copies are always compressed")
    encryption: Literal[False] = Field(
        False, description="not offered: let the disk, the bucket or the database encrypt"
    )


class StorageConfig(Section):
    """Where closed statistics go, and copies of what Redis holds."""

    connector: Literal[
        "modelmesh.sqlite.v1", "modelmesh.postgresql.v1", "modelmesh.local-file.v1", "aws.s3.v1"
    ] = "modelmesh.sqlite.v1"
    path: str | None = Field(
        None,
        description="sqlite: the database file, default statistics.db in the state folder; local-file: a folder, default storage there",
    )
    url: Secret | None = Field(
        None, description="postgresql: postgresql+psycopg://user:password@host:5432/database"
    )
    bucket: str | None = Field(
        None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{1,254}$", description="s3: it has to exist"
    )
    key: str = Field(
        "modelmesh",
        pattern=r"^[A-Za-z0-9!_.*'()-]+(/[A-Za-z0-9!_.*'()-]+)*$",
        description="s3: what the names of all objects begin with",
    )
    region: str | None = Field(None, description="s3: default as in the environment")
    endpoint: str | None = Field(None, description="s3: http(s)://host:port of another store than Amazon's")
    persistence: PersistenceConfig = PersistenceConfig()

    @field_validator("url")
    @classmethod
    def _of_postgresql(cls, url: Secret | None) -> Secret | None:
        if url is not None and not _DATABASE_URL.fullmatch(url.get_secret_value()):
            raise ValueError("must begin with postgresql+psycopg:// and name a database")
        return url

    @field_validator("endpoint")
    @classmethod
    def _without_credentials(cls, endpoint: str | None) -> str | None:
        if endpoint is not None and not _ENDPOINT.fullmatch(endpoint):
            raise ValueError("must be http(s)://host:port; credentials come from the environment")
        return endpoint

    @model_validator(mode="after")
    def _keys_of_the_connector(self) -> Self:
        needed, possible = _KEYS[self.connector]
        missing = [key for key in needed if getattr(self, key) is None]
        if missing:
            raise ValueError(f"{self.connector} needs {' and '.join(missing)}")
        idle = sorted(self.model_fields_set - {"connector", *needed, *possible})
        if idle:
            raise ValueError(
                f"{self.connector} does not obey {', '.join(idle)}; it has {', '.join((*needed, *possible))}"
            )
        return self
