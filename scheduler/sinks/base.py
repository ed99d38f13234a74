"""The contract of a sink: where closed statistics, and copies of the shared state, are kept for good."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from shared_state.errors import ModelMeshError
from shared_state.statistics import MinuteRow


class SinkError(ModelMeshError):
    """The sink did not take the rows; they stay in Redis until it does."""

    default_code = "sink_failed"


@dataclass(frozen=True, slots=True)
class StoredCopy:
    """A copy of a quota domain, packed, and when it was taken."""

    taken_ms: int
    blob: bytes


class Sink(ABC):
    """Durable storage of minute statistics and of copies of quota domains."""

    @abstractmethod
    async def open(self) -> None:
        """Prepares the storage: folder, schema, connection.

        Raises:
            SinkError: it cannot be used; the message says what and why.
        """

    @abstractmethod
    async def write(self, rows: Sequence[MinuteRow]) -> None:
        """Stores rows, all or none, and returns once they would survive a crash.

        The key of a row is (domain, minute, model, pool) and its values are absolute: writing it again changes nothing. The
        caller deletes its own copy afterwards.

        Raises:
            SinkError: nothing was stored.
        """

    @abstractmethod
    async def save_copy(self, domain: str, taken_ms: int, blob: bytes) -> None:
        """Stores a copy of a domain and returns once it would survive a crash; at least the two newest are kept.

        Raises:
            SinkError: it was not stored; the older ones are still there.
        """

    @abstractmethod
    async def latest_copy(self, domain: str, *, until_ms: int | None = None) -> StoredCopy | None:
        """The newest copy of a domain, taken no later than `until_ms`; None if there is none.

        Raises:
            SinkError: it cannot be read.
        """

    @abstractmethod
    async def prune(self, before_s: float) -> None:
        """Removes the rows of minutes that ended before that unix time; copies of domains stay.

        Raises:
            SinkError: not all of it was removed.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Releases what `open` has taken. May be called twice, and without `open`."""
