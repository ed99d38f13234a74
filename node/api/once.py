"""``Idempotency-Key``: one execution in the whole cluster, and its answer for every repeat.

The execution goes on when its caller leaves, for that is when callers repeat. An error that cost nothing is not kept: a repeat tries again.
One that may have been billed is: a repeat is told so, and nothing is executed twice.
"""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from typing import Final

from starlette.types import Scope

from node.api.auth import bearer_token
from node.api.body import header
from node.api.record import Answer, Recorder, unpack
from node.call import Trail
from node.routing.interrupts import Cause, Interrupts
from node.watch import StoreWatch
from shared_state.client_keys import ClientKey
from shared_state.config.root import IdempotencyConfig
from shared_state.errors import (
    IdempotencyConflictError,
    IdempotencyKeyReusedError,
    ModelMeshError,
    RequestError,
    StateUnavailableError,
)
from shared_state.idempotency import (
    CLAIM_LIFE_S,
    End,
    Fate,
    Found,
    Ticket,
    digest_of,
    end_claim,
    hold_claim,
    take_claim,
)
from shared_state.logs import get_logger
from shared_state.store import STORE_ERRORS, Store

log = get_logger(__name__)

_NAME: Final = b"idempotency-key"
_LONGEST: Final = 255
_FIRST_LOOK_S: Final = 0.05
_LOOK_EVERY_S: Final = 0.5
#: A repeat waits as long as a request takes by default, unless it brings a deadline of its own.
_WAIT_S: Final = 120.0
_ENDS: Final = 20
_TOO_LARGE: Final = "too_large"


class Claim:
    """A keyed request: takes its key, gives signs of life while it is carried out, hands in the answer."""

    def __init__(self, once: Once, ticket: Ticket, recorder: Recorder, trail: Trail) -> None:
        self._once = once
        self._ticket = ticket
        self._recorder = recorder
        self._trail = trail
        self._pulse: asyncio.Task[None] | None = None
        self._is_mine = False

    async def take(self, interrupts: Interrupts, *, deadline: float) -> Answer | None:
        """The answer of the first execution, once it has one; None if this request is the first, or has taken over.

        Raises:
            IdempotencyKeyReusedError: the key belongs to another request.
            IdempotencyConflictError: the first execution takes too long, or its answer could not be kept.
            StateUnavailableError: without Redis nobody can promise anything.
            Interrupted: the caller left.
        """
        loop, pause_s = asyncio.get_running_loop(), _FIRST_LOOK_S
        interrupts.set_clock(deadline + CLAIM_LIFE_S, Cause.DEADLINE)
        while True:
            with interrupts:
                found = await self._once.look(self._ticket)
                if found.fate is Fate.MINE:
                    self._is_mine = True
                    self._pulse = loop.create_task(self._once.keep_alive(self._ticket))
                    self._recorder.on_end = self.end
                    return None
                if found.fate is not Fate.RUNNING:
                    return _answer(found)
                if loop.time() + pause_s >= deadline:
                    raise IdempotencyConflictError(
                        "a request with this Idempotency-Key is being carried out",
                        code="idempotency_key_in_use",
                        retry_after_s=1.0,
                    )
                await asyncio.sleep(pause_s)
            pause_s = min(_LOOK_EVERY_S, pause_s * 1.5)

    async def end(self) -> None:
        """Hands in what has come of it, once; before the last piece of the answer goes out, or when there will be none."""
        if not self._is_mine:
            return
        self._is_mine = False
        if self._pulse is not None:
            self._pulse.cancel()
        # A clock of the request, or the end of its task, must not come between.
        await asyncio.shield(self._once.hand_in(self._ticket, *self._outcome()))

    def _outcome(self) -> tuple[End, bytes, bytes]:
        recorder = self._recorder
        if recorder.is_complete and recorder.status < 400:
            if recorder.is_too_large:
                return End.LOST, _TOO_LARGE.encode(), b""
            answer = recorder.answer()
            return End.KEPT, answer.pack_head(), answer.body
        if self._trail.may_be_billed:
            return End.LOST, (self._trail.outcome or "not_received").encode(), b""
        return End.FREE, b"", b""


def _answer(found: Found) -> Answer:
    if found.fate is Fate.KEPT:
        return unpack(found.head, found.body)
    error: ModelMeshError
    if found.fate is Fate.REUSED:
        error = IdempotencyKeyReusedError("this Idempotency-Key was used for another request")
    elif found.head == _TOO_LARGE.encode():
        error = IdempotencyConflictError(
            "the request with this Idempotency-Key was carried out; its answer was too large to be kept",
            code="idempotency_answer_too_large",
        )
    else:
        why = found.head.decode("ascii", "replace")
        error = IdempotencyConflictError(
            f"the request with this Idempotency-Key may have been carried out and billed, but has no answer ({why})",
            code="idempotency_answer_lost",
        )
    error.is_final = True
    raise error


class Once:
    """Idempotency keys of a node."""

    def __init__(self, store: Store, watch: StoreWatch, rules: IdempotencyConfig) -> None:
        self._store = store
        self._watch = watch
        self._rules = rules
        self._late: set[asyncio.Task[None]] = set()

    @property
    def limit_bytes(self) -> int:
        """The largest body that is kept."""
        return self._rules.max_answer

    def claim(
        self, scope: Scope, body: bytes, key: ClientKey | None, recorder: Recorder, trail: Trail
    ) -> Claim:
        """The claim of a request that brings a key.

        Raises:
            RequestError: the key is empty, too long, or not plain text.
        """
        name = (header(scope, _NAME) or b"").strip()
        if not (name.isascii() and name.decode("latin-1").isprintable() and 0 < len(name) <= _LONGEST):
            raise RequestError(
                f"Idempotency-Key must have 1 to {_LONGEST} printable ASCII characters",
                param="Idempotency-Key",
            )
        token = bearer_token(scope) or (header(scope, b"x-api-key") or b"").strip()
        whose = b"key:" + key.id.encode() if key is not None else b"token:" + token
        fingerprint = hashlib.sha256(scope["path"].encode() + b"\0" + body).hexdigest()
        return Claim(self, Ticket(digest_of(whose, name), fingerprint, uuid.uuid4().hex), recorder, trail)

    async def look(self, ticket: Ticket) -> Found:
        """Takes the key, or sees who has it.

        Raises:
            StateUnavailableError: Redis is away.
        """
        if self._watch.connected:
            try:
                return await take_claim(self._store, ticket)
            except STORE_ERRORS as error:
                self._watch.report_failure(error)
        raise StateUnavailableError(
            "without the shared state an Idempotency-Key cannot be kept; send the request again later, or without it",
            retry_after_s=1.0,
        )

    async def keep_alive(self, ticket: Ticket) -> None:
        """Signs of life, until cancelled."""
        while True:
            await asyncio.sleep(CLAIM_LIFE_S / 4)
            if self._watch.connected:
                try:
                    if not await hold_claim(self._store, ticket):
                        log.warning("an idempotency key was lost while its request was carried out")
                        return
                except STORE_ERRORS as error:
                    self._watch.report_failure(error)

    async def hand_in(self, ticket: Ticket, end: End, head: bytes, body: bytes) -> None:
        """Ends a claim; while Redis is away that goes on in the background for a while, for the answer must not wait."""
        if await self._hand_in(ticket, end, head, body):
            return
        task = asyncio.get_running_loop().create_task(self._hand_in_late(ticket, end, head, body))
        self._late.add(task)
        task.add_done_callback(self._late.discard)

    async def _hand_in_late(self, ticket: Ticket, end: End, head: bytes, body: bytes) -> None:
        for _ in range(_ENDS):
            await asyncio.sleep(_LOOK_EVERY_S)
            if await self._hand_in(ticket, end, head, body):
                return
        log.warning("an answer under an idempotency key could not be kept")

    async def _hand_in(self, ticket: Ticket, end: End, head: bytes, body: bytes) -> bool:
        if not self._watch.connected:
            return False
        try:
            await end_claim(self._store, ticket, end, ttl_s=self._rules.ttl, head=head, body=body)
        except STORE_ERRORS as error:
            self._watch.report_failure(error)
            return False
        return True


def wait_until(started: float, deadline_s: float | None) -> float:
    """Loop time until which a repeat waits for the first execution."""
    return started + (_WAIT_S if deadline_s is None else deadline_s)
