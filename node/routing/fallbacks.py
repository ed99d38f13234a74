"""Where a call goes on after a refusal that other models need not share: too long a text, or content that a provider declines.

Only a pool's ``fallbacks`` lead there. Attempts and deadline stay those of the call, and nobody's record is harmed.
"""

from __future__ import annotations

import re
from typing import Final

from node.call import Fallback, Target
from node.routing.pipeline import Pipeline, Plan
from shared_state.errors import ProviderError, RejectedRequestError
from shared_state.topology import ModelSpec

_KINDS: Final = {
    "context_length_exceeded": Fallback.CONTEXT_WINDOW,
    "context_window_exceeded": Fallback.CONTEXT_WINDOW,
    "model_max_prompt_tokens_exceeded": Fallback.CONTEXT_WINDOW,
    "tokens_limit_reached": Fallback.CONTEXT_WINDOW,
    "content_policy_violation": Fallback.CONTENT_POLICY,
    "content_filter": Fallback.CONTENT_POLICY,
    "moderation_blocked": Fallback.CONTENT_POLICY,
    "ResponsibleAIPolicyViolation": Fallback.CONTENT_POLICY,
    "data_inspection_failed": Fallback.CONTENT_POLICY,
    "invalid_prompt": Fallback.CONTENT_POLICY,
}
#: Local servers and some vendors say it in words alone.
_TOO_LONG: Final = re.compile(
    r"maximum context length|exceed\w*[^.]{0,60}context (?:length|window|size)"
    r"|context (?:length|window|size)[^.]{0,60}exceed|prompt is too long|input is too long",
    re.IGNORECASE,
)


def fallback_for(error: ProviderError) -> Fallback | None:
    """The kind of refusal that an error is; None if another model would not change it. Pure."""
    if not isinstance(error, RejectedRequestError):
        return None
    kind = _KINDS.get(error.code or "")
    if kind is None and _TOO_LONG.search(error.message):
        return Fallback.CONTEXT_WINDOW
    return kind


class Detours:
    """The ways that one call has gone beyond its plan; nobody is asked twice, so every way has an end."""

    def __init__(self, pipeline: Pipeline, plan: Plan) -> None:
        self._pipeline = pipeline
        self._plan = plan
        self._offered = list(plan.targets)

    async def after(self, target: Target, error: ProviderError, waiting: list[Target]) -> list[Target]:
        """What to try after a final refusal; empty if it is the answer.

        Args:
            waiting: targets that were not tried yet. The plan's own go: they are of the same kind as the one that refused.
        """
        kind = fallback_for(error)
        if kind is None:
            return []
        before = self._plan.fallback
        tried = {offered.model for offered in self._offered} - {other.model for other in waiting}
        further = await self._pipeline.fall_back(self._plan, target.pool, kind)
        if before:
            further += waiting
        found: dict[ModelSpec, Target] = {}
        for other in further:
            if other.model not in tried:
                found.setdefault(other.model, other)
        if not found:
            self._plan.fallback = before
        self._offered += found.values()
        return list(found.values())
