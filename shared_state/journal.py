"""What the store acknowledged lately and could still forget: kept packed, in order, so that it can be said again.

A batch is one record, whatever its size; nothing is unpacked unless it is lost or, being old, left the journal with calls still in flight.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

import ormsgpack

from shared_state.entries import (
    MAX_BATCH,
    Batch,
    Entry,
    distinct,
    join_asks,
    join_settlements,
    unpack_asks,
    unpack_settlements,
)

#: An append-only file or a replica lags by seconds; the windows of a minute are whole even if everything is lost.
_LEAST_MS: Final = 10_000
_MOST_MS: Final = 60_000
#: The copy's time is the server's, ours an estimate of it.
_COPY_MARGIN_MS: Final = 1_000
_MOST_ENTRIES: Final = 100_000

#: Places in an entry that stands by itself; the policy is that of a settlement, the rest belong to asks.
_MODEL, _POLICY = 0, 1
_LEASE_MS, _RESENT, _RESERVATION, _TOKENS_IN, _TOKENS_OUT, _COST = 2, 4, 5, 6, 7, 8


class Record(NamedTuple):
    """A batch that was applied.

    Attributes:
        left_out: places, from 0, of the entries that changed nothing.
    """

    sequence: int
    at_ms: int
    size: int
    left_out: tuple[int, ...]
    models: tuple[str, ...]
    packed: bytes
    rules: bytes

    def entries(self) -> list[Entry]:
        """What of the batch was applied."""
        unpacked = unpack_settlements(self.packed) if self.rules else unpack_asks(self.packed)
        left_out = set(self.left_out)
        return [entry for place, entry in enumerate(unpacked) if place not in left_out]


class Group(NamedTuple):
    """Entries of one sequence; with them the models, and of settlements the rules, that they name."""

    sequence: int
    entries: list[Entry]
    models: tuple[str, ...]
    rules: list[Any]


class Replay(NamedTuple):
    """Batches put together, to be applied as one: everything up to its sequence that stands in the journal.

    Attributes:
        tokens, cost_nano: of admissions: what they reserve.
    """

    sequence: int
    batch: Batch
    size: int
    tokens: int = 0
    cost_nano: int = 0


class Strand:
    """Records of one kind, oldest first.

    Attributes:
        dropped: sequence of the last record that was given up.
    """

    def __init__(self) -> None:
        #: Bare tuples of what no cycle can run through: the garbage collector lets go of them, however many there are.
        self.records: deque[tuple[Any, ...]] = deque()
        self.dropped = 0
        self._entries = 0

    def add(self, record: Record) -> None:
        """Appends what was applied last."""
        self.records.append(tuple(record))
        self._entries += record.size

    def drop(self, before_ms: int) -> Iterator[Record]:
        """Gives up what is older, or too much."""
        while self.records and (self.records[0][1] < before_ms or self._entries > _MOST_ENTRIES):
            record = Record(*self.records.popleft())
            self._entries -= record.size
            self.dropped = record.sequence
            yield record

    def above(self, sequence: int) -> Iterator[Group]:
        """What was applied after a sequence."""
        for record in itertools.starmap(Record, self.records):
            if record.sequence > sequence:
                rules = ormsgpack.unpackb(record.rules) if record.rules else []
                yield Group(record.sequence, record.entries(), record.models, rules)


class Journal:
    """Of one node in one domain.

    Attributes:
        copied_ms: server time of the domain's last durable copy; 0 if there is none.
    """

    def __init__(self) -> None:
        self.copied_ms = 0
        self._admissions = Strand()
        self._settlements = Strand()
        self._open: set[str] = set()
        #: In flight, and dropped from the journal: reservation -> sequence, model, entry, end of its lease.
        self._old: dict[str, tuple[int, str, Entry, int]] = {}

    def admitted(self, record: Record, reservations: Iterable[str]) -> None:
        """A batch of asks was answered; these of them were admitted."""
        self._open.update(reservations)
        self._admissions.add(record)
        self._prune(record.at_ms)

    def settled(self, record: Record, reservations: Iterable[str]) -> None:
        """A batch of settlements was applied."""
        self._open.difference_update(reservations)
        if self._old:
            for reservation in reservations:
                self._old.pop(reservation, None)
        self._settlements.add(record)
        self._prune(record.at_ms)

    def is_whole(self, admissions: int, settlements: int) -> bool:
        """Whether a server that has these sequences can be told everything that it lacks."""
        return admissions >= self._admissions.dropped and settlements >= self._settlements.dropped

    def admissions_above(self, sequence: int) -> Iterator[Replay]:
        """What was admitted after a sequence, and what of it is in flight however old."""
        old = _grouped_by_sequence(self._old.values(), sequence)
        for part in _merged([*old, *self._admissions.above(sequence)]):
            entries = unpack_asks(part.batch.packed)
            for entry in entries:
                entry[_RESENT] = 1
            yield part._replace(
                batch=part.batch._replace(packed=join_asks(entries)),
                tokens=sum(entry[_TOKENS_IN] + entry[_TOKENS_OUT] for entry in entries),
                cost_nano=sum(entry[_COST] for entry in entries),
            )

    def settlements_above(self, sequence: int) -> Iterator[Replay]:
        """What was settled after a sequence."""
        return _merged(self._settlements.above(sequence))

    def _prune(self, now_ms: int) -> None:
        before_ms = now_ms - _MOST_MS
        if self.copied_ms:
            before_ms = max(before_ms, min(now_ms - _LEAST_MS, self.copied_ms - _COPY_MARGIN_MS))
        for record in self._admissions.drop(before_ms):
            self._keep_open_ones(record)
        for _ in self._settlements.drop(before_ms):
            pass
        while self._old and (first := next(iter(self._old.items())))[1][3] < now_ms:
            del self._old[first[0]]
            self._open.discard(first[0])

    def _keep_open_ones(self, record: Record) -> None:
        for entry in record.entries():
            if entry[_RESERVATION] in self._open:
                model = record.models[entry[_MODEL] - 1]
                ends_ms = record.at_ms + entry[_LEASE_MS]
                self._old[entry[_RESERVATION]] = (record.sequence, model, entry, ends_ms)


def _grouped_by_sequence(old: Iterable[tuple[int, str, Entry, int]], above: int) -> list[Group]:
    groups: dict[int, Group] = {}
    for sequence, model, entry, _ in old:
        if sequence <= above:
            continue
        group = groups.get(sequence)
        if group is None or model not in group.models:
            models = (*(group.models if group else ()), model)
            group = groups[sequence] = Group(sequence, group.entries if group else [], models, [])
        group.entries.append([group.models.index(model) + 1, *entry[_MODEL + 1 :]])
    return [groups[sequence] for sequence in sorted(groups)]


def _merged(groups: Iterable[Group]) -> Iterator[Replay]:
    """Puts groups together, as many as fit a batch; a sequence is never cut in two, for it is applied as a whole."""
    waiting: list[Group] = []
    size = 0
    for group in groups:
        if not group.entries:
            continue
        if waiting and size + len(group.entries) > MAX_BATCH:
            yield _as_one(waiting)
            waiting, size = [], 0
        waiting.append(group)
        size += len(group.entries)
    if waiting:
        yield _as_one(waiting)


def _as_one(groups: list[Group]) -> Replay:
    models = distinct(model for group in groups for model in group.models)
    index = {model: i for i, model in enumerate(models, 1)}
    entries: list[Entry] = []
    rules: list[Any] = []
    for group in groups:
        for entry in group.entries:
            moved = [index[group.models[entry[_MODEL] - 1]], *entry[_MODEL + 1 :]]
            if group.rules:
                moved[_POLICY] += len(rules)
            entries.append(moved)
        rules += group.rules
    packed = (join_settlements if rules else join_asks)(entries)
    batch = Batch(models, packed, ormsgpack.packb(rules) if rules else b"")
    return Replay(groups[-1].sequence, batch, len(entries))
