"""One execution for each idempotency key: who carries it out, and the answer that repeats get.

A claim lives as long as its owner gives signs of life; the key of an owner that died is free for another execution.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from typing import Final

from shared_state.store import Argument, Store

#: How long a claim lives without a sign of its owner.
CLAIM_LIFE_S: Final = 10.0


class Fate(StrEnum):
    """What has become of a key."""

    MINE = "mine"
    RUNNING = "running"
    REUSED = "reused"
    KEPT = "kept"
    LOST = "lost"


class End(StrEnum):
    """How an execution ends: with an answer for all repeats, with none that could be kept, or as if it had not been."""

    KEPT = "kept"
    LOST = "lost"
    FREE = "free"


@dataclass(frozen=True, slots=True)
class Ticket:
    """One request under a key.

    Attributes:
        digest: of the key and of whose it is.
        fingerprint: of what is asked.
        owner: unique to this request.
    """

    digest: str
    fingerprint: str
    owner: str


@dataclass(frozen=True, slots=True)
class Found:
    """A key's fate, with the answer that was kept; of a lost one ``head`` says why."""

    fate: Fate
    head: bytes = b""
    body: bytes = b""


def digest_of(whose: bytes, key: bytes) -> str:
    """Under which name a caller's key is known. Callers choose keys: their length, and what they may say, stays out of Redis."""
    return blake2b(key, digest_size=16, key=blake2b(whose, digest_size=32).digest()).hexdigest()


async def take_claim(store: Store, ticket: Ticket) -> Found:
    """Claims the key for this request, or tells who has it.

    Raises:
        RedisError, OSError, TimeoutError: the store is away; the key may have been claimed, and is free again when the claim expires.
    """
    args: list[Argument] = [ticket.owner, ticket.fingerprint, round(CLAIM_LIFE_S * 1000)]
    fate, *answer = await store.run("take_claim", [store.keys.claim(ticket.digest)], args)
    return Found(Fate(fate.decode()), *answer)


async def hold_claim(store: Store, ticket: Ticket) -> bool:
    """A sign of life; False if the claim has passed to another.

    Raises:
        RedisError, OSError, TimeoutError: the store is away.
    """
    life_ms = round(CLAIM_LIFE_S * 1000)
    held = await store.run("hold_claim", [store.keys.claim(ticket.digest)], [ticket.owner, life_ms])
    return bool(held)


async def end_claim(
    store: Store, ticket: Ticket, end: End, *, ttl_s: float, head: bytes = b"", body: bytes = b""
) -> bool:
    """Ends the claim; False if it has passed to another.

    Raises:
        RedisError, OSError, TimeoutError: the store is away; say the same again.
    """
    args: list[Argument] = [ticket.owner, ticket.fingerprint, end.value, round(ttl_s * 1000), head, body]
    return bool(await store.run("end_claim", [store.keys.claim(ticket.digest)], args))
