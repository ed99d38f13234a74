"""Errors of the front door: what keeps a command from doing what it was asked.

FrontDoorError
├── FolderError            a folder of this machine cannot be used
├── AddressError           an address cannot be listened on
├── StartError             the server cannot be started as asked
├── SecretsError           secrets cannot be put where they were to go
├── StoreError             the embedded store cannot be used
└── OpsError               the operators' API refused, or makes no sense
    └── OpsUnreachableError
"""

from __future__ import annotations

from typing import ClassVar

from shared_state.errors import ModelMeshError


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
