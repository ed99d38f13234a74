"""Limits and identities of a domain's models as its scripts take them: packed once for each set of models that travels together."""

from __future__ import annotations

from typing import Final

import ormsgpack

from shared_state.clock import ServerClock
from shared_state.limits import windows_of
from shared_state.topology import DomainSpec

_KEPT: Final = 256


class Tables:
    """Packed tables of one domain.

    Windows of a calendar are true for their period; a script that finds one that is over says so, and then all are made anew.
    """

    def __init__(self, domain: DomainSpec, *, channel: str, clock: ServerClock) -> None:
        self._channel = channel
        self._clock = clock
        self._packed: dict[tuple[str, ...], bytes] = {}
        self._specs = {model.id: model for model in domain.models}
        self._domain = domain

    def follow(self, domain: DomainSpec) -> None:
        """Goes on under another configuration. Models that are gone stay known: their calls are settled still."""
        self._domain = domain
        self._specs |= {model.id: model for model in domain.models}
        self._packed.clear()

    def models(self) -> tuple[str, ...]:
        """All that are known, in order."""
        return tuple(sorted(self._specs))

    def clear(self) -> None:
        """Another period has begun."""
        self._packed.clear()

    def of(self, models: tuple[str, ...]) -> bytes:
        """Of these models, in their order."""
        packed = self._packed.get(models)
        if packed is None:
            if len(self._packed) >= _KEPT:
                self._packed.clear()
            packed = self._packed[models] = self._pack(models)
        return packed

    def _pack(self, models: tuple[str, ...]) -> bytes:
        now_ms = self._clock.now_ms()
        specs = [self._specs[model] for model in models]
        return ormsgpack.packb(
            (
                self._domain.id,
                self._channel,
                windows_of(self._domain.providers[0].config.limits, now_ms),
                [(spec.id, spec.provider, windows_of(spec.config.limits, now_ms)) for spec in specs],
            )
        )
