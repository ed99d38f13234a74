"""Replies to an exchange, of which only exceptions are named."""

from __future__ import annotations

from typing import Any

from shared_state.entries import Code, Verdict
from shared_state.replies import verdicts_in

_HEAD: list[Any] = [1, 2, 0, 3, 0, 3, []]


def test_who_is_not_named_was_admitted() -> None:
    """A reply without particulars is a batch of plain admissions."""
    assert verdicts_in(_HEAD, 2) == ([Verdict(Code.ADMITTED)] * 2, ())


def test_exceptions_stand_at_their_places() -> None:
    """Trials and admissions out of a lease are named too, but are no refusals."""
    named = [2, Code.AT_LIMIT, 700, b"rpm", 3, Code.ADMITTED, 1, b"", 4, Code.ADMITTED, 2, b""]

    verdicts, refused = verdicts_in([*_HEAD, *named], 4)

    assert refused == (1,)
    assert verdicts == [
        Verdict(Code.ADMITTED),
        Verdict(Code.AT_LIMIT, 700, "rpm"),
        Verdict(Code.ADMITTED, trial=True),
        Verdict(Code.ADMITTED, from_lease=True),
    ]
