"""The lead among schedulers: taken, renewed, and doubted in time.

The lease is renewed at a third of its length. After half of it without a renewal this process no longer believes that it
leads, long before anybody else can take over; and if it sleeps through all that, the fencing token stops its scripts.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from scheduler.contact import Contact
from shared_state.cancellation import obey_cancellation
from shared_state.leadership import Lead, hold_lead, release_lead
from shared_state.logs import get_logger
from shared_state.store import STORE_ERRORS, Store

log = get_logger(__name__)

_RETRY_AT_MOST_S: Final = 0.5
_AFTER_EXPIRY_S: Final = 0.01


class Leadership:
    """Contends for the lead as ``owner``.

    Attributes:
        gained: set while this process leads.
        lost: set while it does not.
    """

    def __init__(self, store: Store, owner: str, *, lease_s: float, contact: Contact) -> None:
        self.owner = owner
        self.gained = asyncio.Event()
        self.lost = asyncio.Event()
        self.lost.set()
        self._store = store
        self._lease_s = lease_s
        self._contact = contact
        self._token = 0
        self._trusted_until_s = 0.0
        self._alarm: asyncio.TimerHandle | None = None
        self._owes_release = False
        self._resigned = asyncio.Event()

    @property
    def is_leading(self) -> bool:
        """Whether this process may act: it holds the lead and has renewed it lately."""
        return self._token > 0 and asyncio.get_running_loop().time() < self._trusted_until_s

    @property
    def token(self) -> int:
        """The fencing token while leading, else 0: a token that every script refuses."""
        return self._token if self.is_leading else 0

    async def run(self) -> None:
        """Contends until `resign`, then gives the lead back, so that another need not wait for the lease to run out.

        Without the store it tries on, and stands down when the lease grows old.
        """
        while not self._resigned.is_set():
            pause_s = await self._take_turn()
            obey_cancellation()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._resigned.wait()
        await self._give_back()

    def resign(self) -> None:
        """Lets `run` end in good order; a turn under way comes to its end before, for it may take the lead."""
        self._resigned.set()

    def drop(self, token: int) -> None:
        """Stands down because a script has refused the token, unless a newer one is held by now.

        The lease is given back before the next try: should the store have forgotten the lease but not the token that fences us
        off, only a new, larger token helps.
        """
        if token != self._token:
            return
        self._owes_release = True
        self._stand_down("a newer token was seen")

    async def _take_turn(self) -> float:
        """Takes or renews the lead; seconds until the next turn."""
        sent_s = asyncio.get_running_loop().time()
        try:
            lead = await self._hold()
        except STORE_ERRORS as error:
            self._contact.lose(error)
            return min(_RETRY_AT_MOST_S, self._lease_s / 10)
        self._contact.observe(lead.now_ms / 1000)
        if lead.owner == self.owner:
            self._lead(lead.token, until_s=sent_s + self._lease_s / 2)
            return self._lease_s / 3
        self._stand_down(f"{lead.owner or 'nobody'} leads")
        return min(self._lease_s / 3, max(0.0, (lead.until_ms - lead.now_ms) / 1000) + _AFTER_EXPIRY_S)

    async def _give_back(self) -> None:
        self._stand_down("resigned")
        try:  # even if we believe that it is not ours: a taking that timed out may have been applied
            await release_lead(self._store, self.owner)
        except STORE_ERRORS as error:
            self._contact.lose(error)

    async def _hold(self) -> Lead:
        if self._owes_release:
            await release_lead(self._store, self.owner)
            self._owes_release = False
        return await hold_lead(self._store, self.owner, lease_s=self._lease_s)

    def _lead(self, token: int, *, until_s: float) -> None:
        loop = asyncio.get_running_loop()
        if until_s <= loop.time():  # the reply was half a lease on its way
            return
        if self._alarm:
            self._alarm.cancel()
        self._alarm = loop.call_at(until_s, self._stand_down, "not renewed in time")
        is_new = token != self._token
        self._token, self._trusted_until_s = token, until_s
        if is_new:
            self.lost.clear()
            self.gained.set()
            log.info("leads", owner=self.owner, token=token)

    def _stand_down(self, reason: str) -> None:
        if self._alarm:
            self._alarm.cancel()
            self._alarm = None
        if self._token == 0:
            return
        self._token = 0
        self.gained.clear()
        self.lost.set()
        log.info("leads no longer", owner=self.owner, reason=reason)
