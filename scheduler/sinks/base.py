"""The contract of a sink: where closed statistics are kept for good."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from shared_state.errors import ModelMeshError
from shared_state.statistics import MinuteRow


class SinkError(ModelMeshError):
    """The sink did not take the rows; they stay in Redis until it does."""

    default_code = "sink_failed"


class Sink(ABC):
    """Durable storage of minute statistics."""

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
    async def aclose(self) -> None:
        """Releases what `open` has taken. May be called twice, and without `open`."""
