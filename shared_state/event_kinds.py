"""The types of events there are, and how grave each is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import IntEnum
from fnmatch import fnmatchcase
from typing import Final


class Gravity(IntEnum):
    """Severity of what is told; the greater, the worse."""

    DEBUG = 10
    INFO = 20
    WARNING = 30
    ERROR = 40
    CRITICAL = 50

    @property
    def word(self) -> str:
        """As configured and told."""
        return self.name.lower()


KINDS: Final[Mapping[str, Gravity]] = {
    **{
        f"{kind}_{change}": gravity
        for kind in ("model", "provider")
        for change, gravity in {
            "activated": Gravity.INFO,
            "deactivated": Gravity.WARNING,
            "trial": Gravity.DEBUG,
            "trial_over": Gravity.DEBUG,
            "ready": Gravity.DEBUG,
            "ramp": Gravity.DEBUG,
        }.items()
    },
    "model_rotated": Gravity.INFO,
    "model_discovered": Gravity.INFO,
    "model_changed": Gravity.INFO,
    "model_deprecated": Gravity.WARNING,
    "provider_health_changed": Gravity.WARNING,
    "budget_alert": Gravity.WARNING,
    "pool_panic": Gravity.CRITICAL,
    "pool_panic_over": Gravity.INFO,
    "state_corrected": Gravity.WARNING,
    "state_restored": Gravity.ERROR,
    "term_opened": Gravity.WARNING,
    "config_proposed": Gravity.DEBUG,
    "config_withdrawn": Gravity.INFO,
    "config_changed": Gravity.INFO,
    "key_created": Gravity.INFO,
    "key_revoked": Gravity.INFO,
}
#: Older names, and what is told in their place.
OLDER: Final[Mapping[str, tuple[str, ...]]] = {
    "provider_recovered": ("provider_activated",),
    "discovery_models_updated": ("model_discovered", "model_deprecated", "model_changed"),
}
#: Nobody ordered these, and no calendar brings them about.
_FAULTS: Final = frozenset({"error_threshold", "auth", "outage", "quota_exhausted", "budget_exceeded"})


def gravity_of(kind: str, reason: str) -> Gravity:
    """How grave an event is; one of another release is news."""
    if kind.endswith("_deactivated") and reason in _FAULTS:
        return Gravity.ERROR
    return KINDS.get(kind, Gravity.INFO)


def kinds_of(pattern: str) -> frozenset[str]:
    """The types that a name or pattern stands for; empty if there are none."""
    return frozenset(OLDER.get(pattern, ())) or frozenset(k for k in KINDS if fnmatchcase(k, pattern))


def chosen(patterns: Iterable[str]) -> frozenset[str] | None:
    """All types that the patterns stand for; None for all there are, those of other releases among them."""
    kinds = frozenset[str]().union(*(kinds_of(pattern) for pattern in patterns))
    return kinds or None
