"""The journal: what was acknowledged can be said again, whole, in order, and in few batches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import ormsgpack
import pytest

from shared_state import journal as module
from shared_state.config import PoolConfig
from shared_state.entries import (
    MAX_BATCH,
    Ask,
    Outcome,
    Settlement,
    pack_asks,
    pack_settlements,
    unpack_asks,
    unpack_settlements,
)
from shared_state.journal import Journal, Record, Replay

NOW_MS = 1_000_000
#: Place of the reservation in an ask, and in a settlement.
_RESERVATION = (5, 3)
_POOLS = (PoolConfig(), PoolConfig.model_validate({"deactivation": {"retry_limit": 9}}))


def admit(
    journal: Journal, sequence: int, names: Sequence[str], *, at_ms: int = NOW_MS, refused: Sequence[int] = ()
) -> None:
    """A batch of asks, of these models by turns, of which some places were refused."""
    asks = [Ask(name, f"a.m{len(name) % 2}", "chat", 3, 4, 10, 300_000) for name in names]
    record = Record(sequence, at_ms, len(asks), tuple(refused), *pack_asks(asks))
    journal.admitted(record, [name for place, name in enumerate(names) if place not in refused])


def settle(journal: Journal, sequence: int, names: Sequence[str], *, at_ms: int = NOW_MS) -> None:
    """A batch of settlements under both pools' rules."""
    ended = [
        Settlement(name, "a.m0", _POOLS[place % 2], Outcome.SUCCESS, learned=[("rpm", 1, 2)])
        for place, name in enumerate(names)
    ]
    record = Record(sequence, at_ms, len(ended), (), *pack_settlements(ended))
    journal.settled(record, names)


def said(replays: Iterable[Replay]) -> list[tuple[int, list[str]]]:
    """Sequence and reservations of each batch."""
    return [
        (r.sequence, [entry[_RESERVATION[bool(r.batch.rules)]] for entry in entries_of(r)]) for r in replays
    ]


def entries_of(replay: Replay) -> list[list[Any]]:
    """The asks or settlements of a batch, each by itself."""
    return (unpack_settlements if replay.batch.rules else unpack_asks)(replay.batch.packed)


def test_only_what_is_above_is_said_again_in_one_batch() -> None:
    """What the server has is left out, and so is what it refused."""
    journal = Journal()
    admit(journal, 1, ["a"])
    admit(journal, 2, ["bb", "c", "dd"], refused=[1])
    admit(journal, 5, ["eee"])
    (replay,) = journal.admissions_above(1)

    assert said([replay]) == [(5, ["bb", "dd", "eee"])]
    assert (replay.size, replay.tokens, replay.cost_nano) == (3, 21, 30)
    entries = entries_of(replay)
    assert [replay.batch.models[entry[0] - 1] for entry in entries] == ["a.m0", "a.m0", "a.m1"]
    assert {entry[4] for entry in entries} == {1}
    assert said(journal.admissions_above(5)) == []


def test_settlements_keep_their_own_pools_rules() -> None:
    """Batches that are put together bring their rules along."""
    journal = Journal()
    settle(journal, 1, ["a", "b"])
    settle(journal, 2, ["c", "d"])
    (replay,) = journal.settlements_above(0)
    rules = ormsgpack.unpackb(replay.batch.rules)
    limits = [rules[entry[1] - 1][0] for entry in entries_of(replay)]

    assert limits == [3, 9, 3, 9]


def test_a_sequence_is_never_cut_in_two() -> None:
    """It would be taken for said after its first half."""
    journal = Journal()
    for sequence in (1, 2, 3):
        admit(journal, sequence, [f"{sequence}.{i}" for i in range(MAX_BATCH // 2 + 1)])

    assert [(sequence, len(names)) for sequence, names in said(journal.admissions_above(0))] == [
        (1, MAX_BATCH // 2 + 1),
        (2, MAX_BATCH // 2 + 1),
        (3, MAX_BATCH // 2 + 1),
    ]


def test_what_is_old_is_given_up_but_for_what_is_in_flight() -> None:
    """Calls that run still take their slots, for as long as their reservations live."""
    journal = Journal()
    admit(journal, 1, ["a", "bb"])
    admit(journal, 2, ["c"])
    settle(journal, 1, ["a"])
    assert journal.is_whole(0, 0)
    admit(journal, 3, ["dd"], at_ms=NOW_MS + 61_000)

    assert said(journal.admissions_above(0)) == [(3, ["bb", "c", "dd"])]
    assert said(journal.admissions_above(1)) == [(3, ["c", "dd"])]
    assert said(journal.settlements_above(0)) == []
    assert not journal.is_whole(0, 1)
    assert not journal.is_whole(2, 0)
    assert journal.is_whole(2, 1)
    settle(journal, 2, ["bb"], at_ms=NOW_MS + 62_000)
    assert said(journal.admissions_above(0)) == [(3, ["c", "dd"])]
    admit(journal, 4, ["ee"], at_ms=NOW_MS + 301_000)
    assert said(journal.admissions_above(0)) == [(4, ["dd", "ee"])]


@pytest.mark.parametrize(
    ("copied_ms", "kept"),
    [
        (0, ["a", "b", "c"]),
        (NOW_MS + 20_000, ["b", "c"]),
        (NOW_MS + 29_999, ["c"]),
        (NOW_MS, ["a", "b", "c"]),
    ],
)
def test_what_a_durable_copy_has_need_not_be_kept(copied_ms: int, kept: list[str]) -> None:
    """But for the last ten seconds, which a promoted replica or a log on disk may lack."""
    journal = Journal()
    journal.copied_ms = copied_ms
    for sequence, (name, after_ms) in enumerate((("a", 0), ("b", 19_500), ("c", 30_000)), 1):
        settle(journal, sequence, [name], at_ms=NOW_MS + after_ms)

    assert [name for _, names in said(journal.settlements_above(0)) for name in names] == kept


def test_a_journal_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A burst cannot fill the memory; what was given up is known to be missing."""
    monkeypatch.setattr(module, "_MOST_ENTRIES", 3)
    journal = Journal()
    for sequence in range(1, 6):
        settle(journal, sequence, [f"r{sequence}"])

    assert said(journal.settlements_above(0)) == [(5, ["r3", "r4", "r5"])]
    assert not journal.is_whole(0, 1)
