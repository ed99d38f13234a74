"""States as nodes see them: who may ask for admission, and when."""

from __future__ import annotations

import pytest

from shared_state.state import ACTIVE, EntityState, Mode, Reason, Status, decode_entity

NOW = 1_000_000


def standby(mode: str, until_ms: int, **more) -> EntityState:
    return EntityState(Status.STANDBY, Reason.ERROR_THRESHOLD, mode, until_ms=until_ms, **more)


@pytest.mark.parametrize(
    ("state", "is_open", "needs_trial"),
    [
        (ACTIVE, True, False),
        (EntityState(phase="ramp", step=1), True, False),
        (standby(Mode.TIME, NOW + 1), False, False),
        (standby(Mode.TIME, NOW), True, False),
        (standby(Mode.TRIAL, NOW + 1), False, False),
        (standby(Mode.TRIAL, NOW), True, True),
        (standby(Mode.TRIAL, NOW, phase="trial", trial_until_ms=NOW + 1), False, False),
        (standby(Mode.TRIAL, NOW, phase="trial", trial_until_ms=NOW), True, True),
        (standby(Mode.MANUAL, 0), False, False),
        (standby(Mode.MANUAL, NOW + 1), False, False),
        (standby(Mode.MANUAL, NOW), True, False),
    ],
)
def test_standby_opens_when_its_time_has_come(state, is_open, needs_trial):
    """Back by itself, by one trial, or by an operator only; a trial that overstayed makes room for another."""
    assert state.is_open(NOW) is is_open
    assert state.needs_trial(NOW) is needs_trial


def test_an_entity_without_a_record_is_active():
    """Nothing ever happened to it."""
    assert decode_entity([]) == ACTIVE
    assert decode_entity([]).is_open(0)


def test_a_record_may_be_partial():
    """The scripts write only what has changed: a first failure leaves no status behind."""
    state = decode_entity([b"fails", b"2"])

    assert state == EntityState(fails=2)
    assert state.is_open(NOW)


def test_a_whole_record_is_read():
    """Fields that nodes do not need are passed over."""
    fields = {
        b"status": b"standby",
        b"reason": b"auth",
        b"mode": b"trial",
        b"phase": b"trial",
        b"since": b"5",
        b"until": b"7",
        b"trial_until": b"9",
        b"fails": b"3",
        b"step": b"1",
        b"cooldowns": b"4",
    }

    assert decode_entity([part for pair in fields.items() for part in pair]) == EntityState(
        Status.STANDBY, Reason.AUTH, Mode.TRIAL, "trial", 5, 7, 9, 3, 1
    )
