"""State of models and provider accounts as nodes see it: a copy of the records that the scripts keep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final


class Status(StrEnum):
    """Whether an entity takes traffic."""

    ACTIVE = "active"
    STANDBY = "standby"


class Reason(StrEnum):
    """Why an entity is on standby."""

    ERROR_THRESHOLD = "error_threshold"
    QUOTA_EXHAUSTED = "quota_exhausted"
    BUDGET_EXCEEDED = "budget_exceeded"
    TOKEN_LIMIT = "token_limit"
    REQUEST_LIMIT = "request_limit"
    MAINTENANCE_WINDOW = "maintenance_window"
    MANUAL = "manual"
    RATE_LIMITED = "rate_limited"
    AUTH = "auth"
    OUTAGE = "outage"


#: Reasons that say how well an entity is; the others hold even where nobody else is left.
ILL: Final = frozenset({Reason.ERROR_THRESHOLD, Reason.OUTAGE})
#: Reasons that are limits: who asks again later is served.
LIMITS: Final = frozenset(
    {
        Reason.RATE_LIMITED,
        Reason.BUDGET_EXCEEDED,
        Reason.TOKEN_LIMIT,
        Reason.REQUEST_LIMIT,
    }
)


class Trigger(StrEnum):
    """What is to bring an entity back."""

    COOLDOWN_EXPIRED = "cooldown_expired"
    QUOTA_RESET = "quota_reset"
    PROBE_SUCCESS = "probe_success"
    MANUAL = "manual"
    STARTUP_PROBE = "startup_probe"
    LIMIT_RAISED = "limit_raised"


class Mode(StrEnum):
    """How an entity comes back."""

    TIME = "time"
    TRIAL = "trial"
    MANUAL = "manual"


@dataclass(frozen=True, slots=True)
class EntityState:
    """A model's or provider's state; times in unix milliseconds of server time, 0 for none.

    Attributes:
        trigger: what is to bring it back, and what has, once it is active again.
    """

    status: str = Status.ACTIVE
    reason: str = ""
    mode: str = ""
    phase: str = ""
    since_ms: int = 0
    until_ms: int = 0
    trial_until_ms: int = 0
    fails: int = 0
    step: int = 0
    trigger: str = ""

    @property
    def is_plain(self) -> bool:
        """Whether it simply takes its traffic, and all of it."""
        return self.status == "active" and not self.phase

    @property
    def is_ill(self) -> bool:
        """Whether it is out for how well it is, by nobody's order."""
        return self.status == Status.STANDBY and self.mode != Mode.MANUAL and self.reason in ILL

    def is_probable(self, now_ms: int) -> bool:
        """Whether a probe may try it now: one that need not wait for the time of the trial."""
        return self.is_open(now_ms) or (
            self.status == Status.STANDBY
            and self.mode == Mode.TRIAL
            and not (self.phase == "trial" and now_ms < self.trial_until_ms)
        )

    def is_open(self, now_ms: int) -> bool:
        """Whether a request may ask for admission now: active, back by itself, or due for its trial."""
        if self.status == Status.ACTIVE:
            return True
        if self.until_ms == 0 and self.mode == Mode.MANUAL:
            return False
        if now_ms < self.until_ms:
            return False
        return not (self.phase == "trial" and now_ms < self.trial_until_ms)

    def needs_trial(self, now_ms: int) -> bool:
        """Whether the next request would be the one trial."""
        return self.status == Status.STANDBY and self.mode == Mode.TRIAL and self.is_open(now_ms)


ACTIVE = EntityState()


@dataclass(frozen=True, slots=True)
class DomainState:
    """All entities of a quota domain at one epoch.

    Attributes:
        term: of the records; 0 before the first, -1 if the server is another one and nobody has opened its term yet.
    """

    epoch: int = -1
    term: int = 0
    models: dict[str, EntityState] = field(default_factory=dict)
    providers: dict[str, EntityState] = field(default_factory=dict)


def decode_entity(flat: Sequence[bytes]) -> EntityState:
    """An entity from the flat field list of a hash; an empty list is an entity that nothing ever happened to."""
    if not flat:
        return ACTIVE
    fields = {flat[i].decode(): flat[i + 1].decode() for i in range(0, len(flat), 2)}
    return EntityState(
        status=fields.get("status") or Status.ACTIVE,
        reason=fields.get("reason", ""),
        mode=fields.get("mode", ""),
        phase=fields.get("phase", ""),
        since_ms=int(fields.get("since", 0)),
        until_ms=int(fields.get("until", 0)),
        trial_until_ms=int(fields.get("trial_until", 0)),
        fails=int(fields.get("fails", 0)),
        step=int(fields.get("step", 0)),
        trigger=fields.get("trigger", ""),
    )
