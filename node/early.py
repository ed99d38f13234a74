"""What the heads of long answers say about a provider's limits, on its way to Redis before those answers are settled.

While one call is under way the next words gather, the strictest of each window; a word that cannot be delivered is dropped,
for the next answer brings a newer one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from node.watch import StoreWatch
from shared_state.ledger import DomainLedger
from shared_state.logs import get_logger
from shared_state.store import STORE_ERRORS

log = get_logger(__name__)

Word = tuple[str, int, int]


class EarlyWord:
    """Carries such words to one domain's ledger.

    Args:
        on_reply: called after each reply, for its epoch may be news.
    """

    def __init__(
        self, ledger: DomainLedger, watch: StoreWatch, *, on_reply: Callable[[DomainLedger], None]
    ) -> None:
        self._ledger = ledger
        self._watch = watch
        self._on_reply = on_reply
        self._waiting: dict[str, dict[str, Word]] = {}
        self._task: asyncio.Task[None] | None = None

    def tell(self, model: str, learned: Sequence[Word]) -> bool:
        """Takes the words of an answer; False if the store is away."""
        if not self._watch.connected:
            return False
        words = self._waiting.setdefault(model, {})
        for window, remaining, reset_ms in learned:
            known = words.get(window)
            if known is None or remaining <= known[1]:
                words[window] = (window, remaining, reset_ms)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._deliver())
        return True

    async def _deliver(self) -> None:
        try:
            while self._waiting:
                waiting, self._waiting = self._waiting, {}
                await self._ledger.learn({model: tuple(words.values()) for model, words in waiting.items()})
                self._on_reply(self._ledger)
        except STORE_ERRORS as error:
            self._waiting = {}
            self._watch.report_failure(error)
        except Exception:
            self._waiting = {}
            log.exception("words about limits dropped", domain=self._ledger.domain.id)
        finally:
            self._task = None
