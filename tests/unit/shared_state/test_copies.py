"""Copies as values: blobs there and back, differences, and what tells of a loss."""

from __future__ import annotations

import zlib
from dataclasses import replace

import ormsgpack
import pytest

from shared_state.copies import CopyError, DomainCopy, Lease, Reservation, decode_copy, encode_copy, subtract

HELD = Reservation(1_795_424_400_000, 10, 20, 2**40, "chat", "alpha", 1_795_424_500_000)
BASE = DomainCopy(
    domain="alpha",
    taken_ms=100,
    fields={"epoch": "7", "copied": "90"},
    scopes={"": {"rpm:sum": "5", "rpm:old": "3", "rpm:3": "2", "rpm:4": "3", "held:1": "4"}},
    states={"model\talpha.small": {"status": "standby", "until": "5"}},
    books={"alpha.small\tchat\tadmitted": 5, "alpha.small\tchat\tsettled": 3},
    reservations={"alpha.small\tn.1": HELD, "alpha.small\tn.2": HELD},
    leases={"n\talpha.small": Lease(1, 2, 3, 4, 5, 6, 7)},
    done={"n.3": "1"},
    seq={"n\tadmit": "4"},
    left_out=1,
)


def test_a_blob_holds_the_whole_copy() -> None:
    """Every field, names in any script, numbers beyond 32 bits."""
    copy = replace(BASE, domain="häuser", closed={"m\tn.9": "chat"}, base_ms=3)

    assert decode_copy(encode_copy(copy)) == copy


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"garbage",
        encode_copy(BASE)[:-5],
        encode_copy(BASE).replace(b"copy-1", b"copy-2"),
        encode_copy(BASE)[:17] + zlib.compress(b"\xc1"),
        encode_copy(BASE)[:17] + zlib.compress(ormsgpack.packb({"domain": "alpha"})),
        encode_copy(BASE)[:17] + zlib.compress(ormsgpack.packb([1])),
    ],
)
def test_what_is_no_copy_is_refused(blob: bytes) -> None:
    """Cut off, of another release, or something else."""
    with pytest.raises(CopyError):
        decode_copy(blob)


def test_the_digest_tells_whether_something_happened() -> None:
    """Neither the time nor the marks of copies count."""
    later = replace(
        BASE, taken_ms=200, fields={"epoch": "7", "copied": "100", "copying": "200", "fence": "9"}
    )

    assert later.digest() == BASE.digest()
    assert replace(BASE, fields={"epoch": "8"}).digest() != BASE.digest()
    assert replace(BASE, reservations={}).digest() != BASE.digest()


@pytest.mark.parametrize(
    ("changes", "lacks"),
    [
        ({}, False),
        ({"books": {**BASE.books, "alpha.small\tchat\tadmitted": 6}}, False),
        ({"books": {**BASE.books, "alpha.small\tchat\tsettled": 2}}, True),
        ({"books": {}}, True),
        ({"fields": {"epoch": "6"}}, True),
        ({"fields": {"epoch": "8"}}, False),
    ],
)
def test_a_loss_shows_in_what_only_ever_grows(changes: dict[str, object], lacks: bool) -> None:
    """Any account of the books that is smaller, or an epoch that went back."""
    assert replace(BASE, **changes).lacks(BASE.epoch, BASE.books) is lacks  # type: ignore[arg-type]


def test_a_difference_is_what_was_counted_since() -> None:
    """Buckets by their own time, sums of the same period; of another period all of it; never less than nothing."""
    base = replace(
        BASE,
        scopes={
            "m": {"rpm:sum": "5", "rpm:3": "5", "rpd:sum": "9", "rpd:at": "70", "rph:sum": "4", "rph:at": "1"}
        },
    )
    copy = replace(
        BASE,
        taken_ms=200,
        scopes={
            "m": {
                "rpm:sum": "6",
                "rpm:3": "4",
                "rpm:8": "2",
                "held:1": "4",
                "rpd:sum": "12",
                "rpd:at": "70",
                "rph:sum": "3",
                "rph:at": "2",
            }
        },
        books={"alpha.small\tchat\tadmitted": 7, "alpha.small\tchat\tsettled": 4},
        reservations={"alpha.small\tn.2": HELD, "alpha.small\tn.5": HELD},
        leases={"n\talpha.small": Lease(2, 2, 3, 4, 5, 6, 7), "o\talpha.small": Lease(1, 2, 3, 4, 5, 6, 7)},
    )
    part = subtract(copy, base)

    windows = part.scopes["m"]
    assert (part.taken_ms, part.base_ms) == (200, 100)
    assert (windows["rpm:3"], windows["rpm:8"], windows["held:1"]) == ("0", "2", "4")
    assert (float(windows["rpd:sum"]), float(windows["rph:sum"])) == (3, 3)
    assert part.books == {"alpha.small\tchat\tadmitted": 2, "alpha.small\tchat\tsettled": 1}
    assert part.reservations.keys() == {"alpha.small\tn.5"}
    assert part.closed == {"alpha.small\tn.1": "chat"}
    assert part.leases.keys() == {"o\talpha.small"}
