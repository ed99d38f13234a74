"""A provider's limit that differs from the configured one is worth a line in the log, once; the configuration stays as it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Final

from node.providers.learned import told_limits
from shared_state.config.limits import COUNTING
from shared_state.logs import get_logger
from shared_state.topology import ModelSpec, ProviderSpec

log = get_logger(__name__)

#: Limits seldom change, so most answers are not looked at.
_LOOK_S: Final = 60.0


class LimitNotices:
    """Compares what one account is told with what is configured for it.

    Args:
        now: monotonic seconds.
    """

    def __init__(self, provider: ProviderSpec, *, now: Callable[[], float] = time.monotonic) -> None:
        self._provider = provider
        self._now = now
        self._due: dict[str, float] = {}
        self._told: dict[tuple[str, str], int] = {}

    def note(self, headers: Mapping[str, str], model: ModelSpec) -> None:
        """Logs each limit that is lower than configured, or configured nowhere, and not told before."""
        now = self._now()
        if now < self._due.get(model.id, 0.0):
            return
        self._due[model.id] = now + _LOOK_S
        for window, limit in told_limits(headers, dialect=self._provider.connector.dialect).items():
            if window in COUNTING and self._told.get((model.id, window)) != limit:
                self._told[model.id, window] = limit
                self._compare(model, window, limit)

    def _compare(self, model: ModelSpec, window: str, limit: int) -> None:
        scopes = (model.config.limits, self._provider.config.limits)
        configured = [value for limits in scopes if (value := getattr(limits, window)) is not None]
        facts = {"provider": self._provider.id, "model": model.id, "window": window, "provider_says": limit}
        if not configured:
            log.info("the provider has a limit that is not configured", **facts)
        elif limit < min(configured):
            log.warning(
                "the provider's limit is lower than the configured one", **facts, configured=min(configured)
            )
