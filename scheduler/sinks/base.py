"""The contract of a sink: where closed statistics, and copies of the shared state, are kept for good."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

from shared_state.errors import ModelMeshError
from shared_state.statistics import MinuteRow


class SinkError(ModelMeshError):
    """The sink did not take the rows; they stay in Redis until it does."""

    default_code = "sink_failed"


class SinkAwayError(SinkError):
    """The sink cannot be reached, or does not answer in time; it may be back at the next call, without another `open`."""

    default_code = "sink_away"


@dataclass(frozen=True, slots=True)
class StoredCopy:
    """A copy of a quota domain, packed, and when it was taken."""

    taken_ms: int
    blob: bytes


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over a span of time for a model within a pool; metrics as in `MinuteRow`."""

    domain: str
    model: str
    pool: str
    metrics: dict[str, int]


def minutes_between(since_s: float, until_s: float) -> range:
    """The minutes that begin in ``[since_s, until_s)``."""
    return range(math.ceil(since_s / 60), math.ceil(until_s / 60))


class Sink(ABC):
    """Durable storage of minute statistics and of copies of quota domains. Several schedulers may have one together.

    No call lasts longer than some 15 s where the storage is on the network.
    """

    @abstractmethod
    async def open(self) -> None:
        """Prepares the storage: folder, schema, connection.

        Raises:
            SinkAwayError: it is not there right now; the sink may be used all the same, and prepares it then.
            SinkError: it cannot be used; the message says what and why.
        """

    @abstractmethod
    async def write(self, rows: Sequence[MinuteRow]) -> None:
        """Stores rows and returns once they would survive a crash.

        The key of a row is (domain, minute, model, pool) and its values are absolute: writing it again changes nothing, and of
        two versions the one that has counted more wins. The caller deletes its own copy afterwards.

        Raises:
            SinkError: they are not all stored. Rows of one domain and one day are stored together or not at all.
        """

    @abstractmethod
    async def totals(self, since_s: float, until_s: float) -> list[Totals]:
        """Sums of the minutes that begin in ``[since_s, until_s)``, unix seconds.

        Raises:
            SinkError: they cannot be read.
        """

    @abstractmethod
    async def save_copy(self, domain: str, taken_ms: int, blob: bytes) -> None:
        """Stores a copy of a domain and returns once it would survive a crash; at least the two newest are kept.

        A copy that is there already stays as it is, and one that was taken later stays the newest, whoever comes last.

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
        """Removes the rows of minutes that ended before that unix time, at the latest with the rest of their day; copies of domains stay.

        Raises:
            SinkError: not all of it was removed.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Releases what `open` has taken. May be called twice, and without `open`."""
