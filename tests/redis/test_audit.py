"""The auditor notices every account that is off, and says which."""

from __future__ import annotations

import pytest

from scheduler.jobs.audit import Audit, BooksOffError
from shared_state.ledger import Outcome
from tests.redis.ground import DOMAIN, SMALL, Only


async def test_books_that_balance_are_silent(bench):
    """Whatever is in flight is in the books."""
    node = bench()
    await node.attempt(Outcome.SUCCESS)
    await node.admit()

    await Audit(node.store, Only(DOMAIN)).run(0)


async def test_a_lost_settlement_is_found(bench):
    """A reservation that vanished without being settled or abandoned is named."""
    node = bench()
    reservation, _ = await node.admit()
    await node.store.client.hdel(node.store.keys.reservations(DOMAIN, SMALL), reservation)

    with pytest.raises(BooksOffError, match=rf"{SMALL} in chat: \+1.*\+1 expiries"):
        await Audit(node.store, Only(DOMAIN)).run(0)
