"""The answer to a call that nobody served: which error tells the caller most."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from node.routing.pipeline import Plan
from shared_state.errors import (
    AllProvidersExhaustedError,
    LimitReachedError,
    ModelMeshError,
    NoActiveModelError,
    ProviderError,
    RateLimitError,
    RejectedRequestError,
    StateUnavailableError,
)
from shared_state.ledger import Code, Verdict
from shared_state.state import LIMITS

_DEFAULT_WAIT_S: Final = 1.0


@dataclass(slots=True)
class Refusals:
    """Why candidates were not admitted, and how attempts failed."""

    verdicts: list[Verdict] = field(default_factory=list)
    errors: list[ProviderError] = field(default_factory=list)

    @property
    def may_wait(self) -> bool:
        """Whether nobody was asked yet, and a candidate is only held for a moment after a loss in the shared state."""
        return not self.errors and any(verdict.code is Code.HELD for verdict in self.verdicts)

    def error(self, plan: Plan, now_ms: int) -> ModelMeshError:
        """The error for the caller, with the earliest time at which trying again could succeed."""
        if self.errors:
            return self._exhausted(plan.call.name)
        codes = {verdict.code for verdict in self.verdicts}
        wait_s = self._earliest_s(plan, now_ms)
        if Code.STORE_AWAY in codes:
            return StateUnavailableError(
                "the shared state is away and no allowance is left; limits are kept",
                retry_after_s=_DEFAULT_WAIT_S,
            )
        if Code.HELD in codes:
            return StateUnavailableError(
                "the shared state was lost in part and is being put right; no allowance is left, limits are kept",
                retry_after_s=wait_s,
            )
        if codes == {Code.TOO_LARGE}:
            return LimitReachedError(
                f"the request needs more than a limit of {plan.call.name!r} ever allows",
                code="request_too_large_for_limit",
                retry_after_s=wait_s,
            )
        if codes & {Code.AT_LIMIT, Code.TOO_LARGE} or self._only_rate_limits(plan):
            return LimitReachedError(
                f"every fit model of {plan.call.name!r} is at a limit", retry_after_s=wait_s
            )
        return NoActiveModelError(f"no model of {plan.call.name!r} is active", retry_after_s=wait_s)

    def _only_rate_limits(self, plan: Plan) -> bool:
        """Whether limits alone, the providers' own or our caps, keep every model on standby."""
        reasons = [verdict.name for verdict in self.verdicts]
        return bool(plan.skipped or reasons) and plan.only_rate_limits and LIMITS.issuperset(reasons)

    def _exhausted(self, name: str) -> ModelMeshError:
        for error in reversed(self.errors):  # a fallback that failed too does not take the refusal's place
            if isinstance(error, RejectedRequestError):
                return error
        last = self.errors[-1]
        if all(isinstance(error, RateLimitError) for error in self.errors):
            waits = [error.retry_after_s for error in self.errors if error.retry_after_s is not None]
            return LimitReachedError(
                f"every provider of {name!r} is rate limited",
                retry_after_s=min(waits, default=_DEFAULT_WAIT_S),
            )
        tries = len(self.errors)
        return AllProvidersExhaustedError(
            f"all {tries} attempts for {name!r} failed; the last: {last.message}"
        )

    def _earliest_s(self, plan: Plan, now_ms: int) -> float:
        times = [verdict.at_ms for verdict in self.verdicts if verdict.at_ms > 0]
        if plan.opens_ms:
            times.append(plan.opens_ms)
        if any(verdict.at_ms == 0 for verdict in self.verdicts):
            times.append(now_ms + round(_DEFAULT_WAIT_S * 1000))
        return max(0.001, (min(times) - now_ms) / 1000) if times else _DEFAULT_WAIT_S
