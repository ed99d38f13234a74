"""How much health counts: at most a share of a pool's members stays away for it, and none where nobody well is left. Pure.

Only an error threshold or an outage gives way. Orders, maintenance, refused credentials, quotas and limits hold whatever is left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from shared_state.config import DeactivationConfig
from shared_state.state import EntityState
from shared_state.topology import ModelSpec


@dataclass(frozen=True, slots=True)
class Patient:
    """A model that is away for its health, or its account's.

    Attributes:
        ends_ms: when its trial is due.
    """

    model: ModelSpec
    ends_ms: int
    fails: int
    is_on_trial: bool


@dataclass(slots=True)
class Ward:
    """The members of one pool, as a request finds them.

    Attributes:
        well: how many take traffic.
        due: how many wait for their trial.
    """

    well: int = 0
    due: int = 0
    patients: list[Patient] = field(default_factory=list)


def patient_of(model: ModelSpec, states: Sequence[EntityState], now_ms: int) -> Patient | None:
    """A model as a patient; None if anything else than health keeps it away.

    Args:
        states: those of the model and its account that are closed.
    """
    if not all(state.is_ill for state in states):
        return None
    return Patient(
        model,
        max(state.until_ms for state in states),
        max(state.fails for state in states),
        any(state.phase == "trial" and now_ms < state.trial_until_ms for state in states),
    )


def let_in(rules: DeactivationConfig, ward: Ward) -> list[ModelSpec]:
    """The patients that are asked all the same, least ill first: who is due soonest, then who has failed less.

    One of them on trial is left alone: the trial will tell.
    """
    size = ward.well + ward.due + len(ward.patients)
    resting = [patient for patient in ward.patients if not patient.is_on_trial]
    resting.sort(key=lambda patient: (patient.ends_ms, patient.fails))
    if _is_panic(rules, ward, size):
        chosen = resting
    else:
        most = max(1, math.floor(rules.max_ejected * size + 1e-9))
        chosen = resting[: max(0, size - ward.well - most)]
    return [patient.model for patient in chosen]


def _is_panic(rules: DeactivationConfig, ward: Ward, size: int) -> bool:
    return rules.panic_threshold is not None and size > 0 and ward.well / size <= rules.panic_threshold
