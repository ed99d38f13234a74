"""Errors of the front door: what keeps a command from doing what it was asked.

FrontDoorError
├── FolderError            a folder of this machine cannot be used
├── AddressError           an address cannot be listened on
├── StartError             the server cannot be started as asked
├── SecretsError           secrets cannot be put where they were to go
├── StoreError             the embedded store cannot be used
├── MeshClosedError        the mesh in this process is closed, or was left behind in another
├── WrongLoopError         a client is used in an event loop that it does not belong to
├── MissingExtraError      an optional package is not installed
├── NoProvidersError       nothing to route to is configured (a ConfigurationError too)
└── OpsError               the operators' API refused, or makes no sense
    └── OpsUnreachableError
"""

from __future__ import annotations

from typing import ClassVar

from shared_state.errors import ConfigurationError, ModelMeshError


class FrontDoorError(ModelMeshError):
    """Base; `exit_code` is what the command ends with."""

    exit_code: ClassVar[int] = 1


class FolderError(FrontDoorError):
    """A folder of this machine cannot be used."""

    default_code = "folder_unusable"


class AddressError(FrontDoorError):
    """An address cannot be listened on."""

    default_code = "address_unusable"


class StartError(FrontDoorError):
    """The server cannot be started as asked."""

    default_code = "cannot_start"


class SecretsError(FrontDoorError):
    """Secrets cannot be put where they were to go; the message never holds a value."""

    default_code = "secrets_refused"


class StoreError(FrontDoorError):
    """The embedded store cannot be used."""

    default_code = "embedded_store"


class MeshClosedError(FrontDoorError):
    """The mesh in this process is closed, or was left behind in the process that this one was forked from."""

    default_code = "mesh_closed"


class WrongLoopError(FrontDoorError, RuntimeError):
    """A client is used in an event loop that it does not belong to, or a call would wait for its own loop."""

    default_code = "wrong_event_loop"


class MissingExtraError(FrontDoorError, ImportError):
    """An optional package is not installed; the message names the extra that brings it."""

    default_code = "missing_extra"

    def __init__(self, message: str, *, name: str) -> None:
        super().__init__(message)
        self.name = name


class NoProvidersError(ConfigurationError, RuntimeError):
    """Neither a configuration nor the environment names a provider."""


class OpsError(FrontDoorError):
    """The operators' API refused, or answered what cannot be understood.

    Attributes:
        status: the HTTP status of the answer, 0 without one.
    """

    default_code = "ops_error"

    def __init__(self, message: str, *, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class OpsUnreachableError(OpsError):
    """Nobody answers there."""

    default_code = "ops_unreachable"
    exit_code = 2
