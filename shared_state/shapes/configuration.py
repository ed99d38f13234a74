"""Versions of the configuration in the operators' API; times in unix seconds."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from shared_state.shapes.row import Row


class VersionView(Row):
    """What is told about a version."""

    number: int
    time: float
    author: str
    comment: str
    version: str = Field(description="of the configuration that it comes to; equal where the same is run")
    is_current: bool


class RunnerView(Row):
    """What a live node runs."""

    id: str
    state: str
    number: int = Field(description="of the version that it runs; 0: its own file")
    version: str
    fault: str = Field(description="why it cannot run the one in force, or the one that it is asked about")


class ConfigView(Row):
    """The configuration of the cluster."""

    number: int = Field(description="of the version in force; 0: none was pushed, nodes run their own files")
    proposed: int = Field(description="the version that nodes are asked about; 0: none")
    told: VersionView | None = Field(description="of the version in force")
    document: dict[str, Any] = Field(
        description="as it was written, references unresolved; without any version that of the answering node, secrets masked"
    )
    nodes: list[RunnerView]
    scheduler: RunnerView | None = Field(None, description="the scheduler that leads")


class StoredVersionView(VersionView):
    """A version that is remembered."""

    document: dict[str, Any]


class HistoryView(Row):
    """The versions that are remembered, the newest first."""

    current: int
    versions: list[VersionView]


class PushBody(BaseModel):
    """A configuration for the whole cluster. What is a process's own in it (``redis``, ``server``, ``proxy.host``, ``proxy.port``) is left out."""

    model_config = ConfigDict(extra="forbid")

    document: dict[str, Any] = Field(
        description="as a file holds it; secrets as ${secrets:NAME} or ${env:NAME}"
    )
    base: int | None = Field(
        None, ge=0, description="the version that the change was made on; another in force is a 409"
    )
    author: str = Field("", max_length=200)
    comment: str = Field("", max_length=500)
    force: bool = Field(False, description="a new version even if nothing changes: secrets are read again")


class RollbackBody(BaseModel):
    """Which version is to be in force again, as a new one."""

    model_config = ConfigDict(extra="forbid")

    number: int = Field(ge=1)
    base: int | None = Field(None, ge=0)
    author: str = Field("", max_length=200)
    comment: str = Field("", max_length=500)


class PushView(Row):
    """What has come of a push: the version is in force; live nodes follow within a second or so."""

    number: int
    version: str
    is_new: bool = Field(description="false: it was in force already")
    left_out: list[str] = Field([], description="sections that are each process's own")
