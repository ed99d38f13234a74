"""How much health counts: at most a share of a pool's members stays away for it, and none where nobody well is left. Pure.

Only an error threshold or an outage gives way. Orders, maintenance, refused credentials, quotas and limits hold whatever is left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from shared_state.config import DeactivationConfig
from shared_state.rotation.maintenance import Calendars
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


class States(Protocol):
    """Who knows the states of models and accounts."""

    def model(self, spec: ModelSpec) -> EntityState:
        """A model's state."""

    def provider(self, spec: ModelSpec) -> EntityState:
        """The state of the account that a model runs on."""


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

    @property
    def size(self) -> int:
        """How many count: those that nothing but health could keep away."""
        return self.well + self.due + len(self.patients)


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
    resting = [patient for patient in ward.patients if not patient.is_on_trial]
    resting.sort(key=lambda patient: (patient.ends_ms, patient.fails))
    if is_panic(rules, ward):
        chosen = resting
    else:
        most = max(1, math.floor(rules.max_ejected * ward.size + 1e-9))
        chosen = resting[: max(0, ward.size - ward.well - most)]
    return [patient.model for patient in chosen]


def is_panic(rules: DeactivationConfig, ward: Ward) -> bool:
    """Whether too few are well for health to count."""
    return (
        rules.panic_threshold is not None and ward.size > 0 and ward.well / ward.size <= rules.panic_threshold
    )


def take_stock(models: Sequence[ModelSpec], view: States, calendars: Calendars, now_ms: int) -> Ward:
    """The whole of a pool, whoever asks for what; those that rest by the clock, an order or a limit do not count."""
    ward = Ward()
    for model in models:
        state, provider = view.model(model), view.provider(model)
        if calendars.rest_of(model.id, state, now_ms) is not None:
            continue
        closed = [entity for entity in (provider, state) if not entity.is_open(now_ms)]
        patient = patient_of(model, closed, now_ms) if closed else None
        if patient is not None:
            ward.patients.append(patient)
        elif not closed and (state.needs_trial(now_ms) or provider.needs_trial(now_ms)):
            ward.due += 1
        elif not closed:
            ward.well += 1
    return ward
