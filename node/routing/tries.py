"""How many attempts a request may make: so many of its own, and for each beyond the first one of the pool's retry budget."""

from __future__ import annotations

from node.call import Target, Trail
from node.passport import Passport
from node.routing.budget import RetryBudget
from shared_state.errors import ModelMeshError, ProviderError, RejectedRequestError

_BUDGET_WAIT_S = 1.0
_MOST_OF_REPEATS = 2


class Tries:
    """The attempts of one request.

    An attempt that cannot have reached its provider costs nobody anything: the one that follows is as good as the first. Neither does a
    detour after a refusal: the configuration asks for it, and nothing has failed.

    A request that an SDK sends again by itself is a retry from its first attempt on, which is made all the same; then it may fail over once.

    Args:
        passport: what the request says of its way so far.

    Attributes:
        is_refused: another attempt was not made because the budget is used up.
    """

    def __init__(self, trail: Trail, budget: RetryBudget, passport: Passport) -> None:
        self.is_refused = False
        self._trail = trail
        self._budget = budget
        self._is_repeat = passport.is_repeat
        self._most = min(passport.attempts, _MOST_OF_REPEATS) if passport.is_repeat else passport.attempts
        self._is_free = True
        self._is_paid = False

    @property
    def is_first(self) -> bool:
        """Whether the attempt that has begun is the request's first."""
        return self._trail.attempts == 1

    @property
    def left(self) -> int:
        """Attempts that the request may still make by its own number."""
        return self._most - self._trail.attempts

    def may_begin(self) -> bool:
        """Whether another attempt may be made; it is paid for now, and once."""
        if self.left <= 0:
            return False
        if not (self._is_free or self._is_paid):
            self._is_paid = self._budget.take()
            self.is_refused = not self._is_paid
        return self._is_free or self._is_paid

    def begin(self) -> None:
        """An attempt begins."""
        if self._trail.attempts == 0:
            if self._is_repeat:
                self._budget.take()
            else:
                self._budget.note_request()
        self._trail.attempts += 1
        self._is_free = self._is_paid = False

    def for_next(self, *, has_other: bool) -> int:
        """Attempts that the provider may make of the one that begins, if it is a router: one while there are other ways from here."""
        return 1 if has_other else self.left + 1

    async def take_hedge(self) -> bool:
        """Pays for an attempt beside the one that runs."""
        if self.left <= 0 or self._is_repeat:
            return False
        await self._budget.refill()
        return self._budget.take()

    def begin_hedge(self) -> None:
        """It begins."""
        self._trail.attempts += 1
        self._budget.hedges += 1

    def drop_hedge(self) -> None:
        """It was not made."""
        self._budget.give_back()

    async def failed(self, error: ProviderError) -> None:
        """The attempt has failed; what another would cost is looked after."""
        self._is_free = not error.sent
        if not self._is_free and self.left > 0:
            await self._budget.refill()

    def answered(self) -> None:
        """The attempt has answered the request."""
        self._budget.note_answer()

    def take_detour(self) -> None:
        """The next attempt goes where the configuration sends a refused request."""
        self._is_free = True

    def close(self, untried: list[Target]) -> None:
        """Ends it; a retry that was paid for and not made goes back."""
        if self._is_paid:
            self._budget.give_back()
            self._is_paid = False
        if self.is_refused:
            for target in untried:
                self._trail.skipped.setdefault(target.model.id, "retry_budget")

    def explained(self, error: ModelMeshError) -> ModelMeshError:
        """The error for the caller; with the budget used up, a retry from outside would do what ours may not."""
        if self.is_refused and not isinstance(error, RejectedRequestError):
            error.message += "; the retry budget is used up"
            error.is_final = True
            if error.retry_after_s is None:
                error.retry_after_s = _BUDGET_WAIT_S
        return error
