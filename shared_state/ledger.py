"""Admission and settlement of one quota domain: the typed side of ``exchange.lua`` and ``renew_leases.lua``.

All take batches, for many callers share one round trip. When Redis is away they raise; whether the batch was applied is
then unknown. Every batch carries a sequence: an admission that was given up is void once the next batch has arrived, however
late its own arrives; a settlement may be sent again, for it is idempotent by reservation. Every batch carries the term that the node knows
as well: after a loss nothing is applied until the node has asserted what it knows (``assertion.py``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import ormsgpack

from shared_state.clock import ServerClock
from shared_state.entries import (
    ESTIMATED,
    LEASED,
    MAX_BATCH,
    NOT_SENT,
    STREAM,
    UNKNOWN,
    Amounts,
    Ask,
    Batch,
    Code,
    How,
    LeaseWish,
    Note,
    Outcome,
    Settlement,
    Verdict,
    distinct,
    pack_asks,
    pack_settlements,
    pack_wishes,
    plain,
)
from shared_state.errors import FencedOffError, TermChangedError
from shared_state.journal import Journal, Record
from shared_state.replies import verdicts_in
from shared_state.standing import Standing
from shared_state.store import Argument, Store
from shared_state.tables import Tables
from shared_state.topology import DomainSpec

__all__ = [
    "ESTIMATED",
    "LEASED",
    "MAX_BATCH",
    "NOT_SENT",
    "STREAM",
    "UNKNOWN",
    "Amounts",
    "Ask",
    "Code",
    "DomainLedger",
    "How",
    "LeaseWish",
    "Note",
    "Outcome",
    "Settlement",
    "Verdict",
]

_STALE_CALENDAR: Final = -2
#: Where the reply to an exchange names settlements that changed nothing.
_UNKNOWN_PLACES: Final = 6
#: Where amounts begin in the reply to a renewal: behind time, epoch, note and what belongs to it.
_RENEWED: Final = 4
_CALENDAR_TRIES: Final = 3
_HAS_LEFT: Final = -1


class DomainLedger(Standing):
    """Admits and settles on behalf of one node, and keeps its standing."""

    def __init__(self, store: Store, domain: DomainSpec, *, node: str, clock: ServerClock) -> None:
        super().__init__(clock=clock)
        self.domain = domain
        self.node = node
        self.journal = Journal()
        self.sequences = {"admit": 0, "settle": 0}
        self._store = store
        self._key = store.keys.domain(domain.id)
        self._tables = Tables(domain, channel=store.keys.channel, clock=clock)
        #: Admissions up to this sequence that have no answer are given up: whatever of them arrives late is void.
        self._void = 0
        self._under_way = 0
        self._quiet = asyncio.Event()
        self._quiet.set()

    async def read_hold(self) -> None:
        """Looks whether the hold has ended.

        Raises:
            RedisError, OSError, TimeoutError: the store is away.
        """
        term, hold = await self._store.command("HMGET", self._key, "term", "hold")
        if self.observe_term(int(term or 0)):
            self.hold_until_ms = int(hold or 0)

    def follow(self, domain: DomainSpec) -> None:
        """Goes on under another configuration of the domain. Models that are gone stay known: their calls are settled still."""
        self.domain = domain
        self._tables.follow(domain)

    async def recount_leases(self) -> None:
        """Puts right what leases hold of windows that others knew nothing of; for whoever goes on under other limits.

        Raises:
            RedisError, OSError, TimeoutError: the store is away; doing it again is safe.
        """
        await self._run("recount_leases", self._tables.of(distinct(model.id for model in self.domain.models)))

    async def until_quiet(self) -> None:
        """Waits for the answers of all batches that are under way; each comes within the store's deadline."""
        await self._quiet.wait()

    async def admit(self, asks: Sequence[Ask]) -> list[Verdict]:
        """Checks and reserves, each ask for itself, in the order given.

        Raises:
            RedisError, OSError, TimeoutError: the store is away; asks may have been admitted.
        """
        verdicts, _ = await self.exchange(asks, ())
        return verdicts

    async def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        """Applies each settlement once; False for one whose reservation was settled or abandoned before.

        Raises:
            TermChangedError: none was applied; they have to wait for this node's assertion.
            RedisError, OSError, TimeoutError: the store is away; settlements may have been applied.
        """
        _, applied = await self.exchange(None, settlements)
        if applied is None:
            raise TermChangedError(self.domain.id)
        return applied

    async def exchange(
        self, asks: Sequence[Ask] | None, settlements: Sequence[Settlement]
    ) -> tuple[list[Verdict], list[bool] | None]:
        """Settles, then admits, in one call; see `settle` and `admit`.

        Args:
            asks: even if there are none, what is past its lease is abandoned; None leaves that to others.

        Returns:
            A verdict for each ask; for each settlement whether it was applied now, or None if all have to wait for this node's assertion.

        Raises:
            RedisError, OSError, TimeoutError: the store is away; both may have been applied.
        """
        models = distinct(entry.model for part in (asks or (), settlements) for entry in part)
        asked = pack_asks(asks, models) if asks is not None else None
        ended = pack_settlements(settlements, models) if settlements else None
        verdicts: list[Verdict] = []
        applied: list[bool] | None = []
        tries = 0
        self._enter()
        try:
            while asked or ended:
                sequences, reply = await self._send_next(asked, ended)
                if Note.STALE_CALENDAR in (reply[2], reply[4]):
                    self._tables.clear()
                    tries += 1
                is_over = tries == _CALENDAR_TRIES
                if asked and (is_over or reply[2] not in _AGAIN):
                    verdicts = self._take_verdicts(sequences[0], asked, asks or (), reply)
                    asked = None
                if ended and (is_over or reply[4] not in _AGAIN):
                    applied = self._take_settled(sequences[1], ended, settlements, reply)
                    ended = None
            return verdicts, applied
        finally:
            self._leave_call()

    async def renew_leases(
        self,
        wishes: Sequence[LeaseWish],
        *,
        sequence: int,
        life_ms: int,
        share: int,
        replay_in: int = 0,
    ) -> list[Amounts]:
        """Reports on the node's leases and has them filled up; what they hold now, in the order of the wishes.

        Args:
            replay_in: the term to which all this is asserted: what is kept is held, what was used is charged, nothing is granted.

        Raises:
            TermChangedError: nothing was done; it has to wait for this node's assertion.
            RedisError, OSError, TimeoutError: the store is away; sending the same sequence again is safe.
        """
        models, packed = pack_wishes(wishes)

        def send() -> Awaitable[list[Any]]:
            head = self._head(sequence, replay_in=replay_in)
            return self._run("renew_leases", self._tables.of(models), head, life_ms, share, packed)

        self._enter()
        try:
            reply = await self._in_calendar(send)
            self._observe(reply[1], reply[2], reply[3])
            if reply[2] == Note.UNASSERTED:
                raise TermChangedError(self.domain.id)
            return [Amounts(*reply[i : i + 5]) for i in range(_RENEWED, len(reply), 5)]
        finally:
            self._leave_call()

    async def replay(self, kind: str, batch: Batch, *, sequence: int, term: int) -> None:
        """Says again what a server has lost; nothing is refused.

        Args:
            kind: ``admit`` or ``settle``.

        Raises:
            TermChangedError: that term is over.
            RedisError, OSError, TimeoutError: the store is away; it may have been applied.
        """
        asked, ended = (batch, None) if kind == "admit" else (None, batch)
        sequences = (sequence, 0) if asked else (0, sequence)
        reply: list[Any] = []
        for _ in range(_CALENDAR_TRIES):
            reply = await self._send(asked, ended, self._head(*sequences, replay_in=term))
            if Note.STALE_CALENDAR not in (reply[2], reply[4]):
                break
            self._tables.clear()
        if reply[2] == Note.UNASSERTED:
            raise TermChangedError(self.domain.id)

    async def say(self, verb: str, *, term: int, epoch: int, said: bytes = b"") -> list[Any]:
        """One step of an assertion: ``begin`` or ``finish``.

        Raises:
            RedisError, OSError, TimeoutError: the store is away; it may have been applied.
        """
        head = ormsgpack.packb((self.node, term, max(epoch, self.epoch), 1))
        return await self._run("assert_term", head, self.domain.id, self._store.keys.channel, verb, said)

    async def leave(self) -> None:
        """Nobody needs to wait for this node any more.

        Raises:
            RedisError, OSError, TimeoutError: the store is away.
        """
        if self.term:
            key = self._store.keys.sequences(self.domain.id)
            await self._store.command("HSET", key, f"{self.node}\tt", _HAS_LEFT)

    async def end_leases(self, *, token: int, most: int = 200) -> int:
        """Ends leases whose time is over, charged in full; how many.

        Raises:
            FencedOffError: another scheduler leads.
        """
        ended = await self._end_leases(token, most)
        if ended == _STALE_CALENDAR:
            self._tables.clear()
            ended = await self._end_leases(token, most)
        if ended < 0:
            raise FencedOffError(self.domain.id)
        return ended

    async def _end_leases(self, token: int, most: int) -> int:
        table = self._tables.of(self._tables.models())
        ended: int = await self._store.run("end_leases", [self._key], [table, token, most])
        return ended

    async def learn(self, heads: Mapping[str, Sequence[tuple[str, int, int]]]) -> None:
        """Tightens the books by what the provider says about its windows, model by model, before anything is settled.

        Raises:
            RedisError, OSError, TimeoutError: the store is away; saying it again is safe.
        """
        models = distinct(heads)
        batch = [(index, plain(heads[model])) for index, model in enumerate(models, 1)]
        packed = ormsgpack.packb(batch)
        reply = await self._in_calendar(
            lambda: self._run("learn", self._tables.of(models), packed, self.node)
        )
        self.epoch = max(self.epoch, reply[1])

    async def _in_calendar(self, send: Callable[[], Awaitable[list[Any]]]) -> list[Any]:
        """Sends again, with windows of the period that has begun, what was told that its own are over."""
        reply = await send()
        if reply[1] < 0:
            self._tables.clear()
            reply = await send()
        return reply

    async def _send_next(self, asked: Batch | None, ended: Batch | None) -> tuple[tuple[int, int], list[Any]]:
        """Sends what there is, each part under its next sequence. A part that says STALE has changed nothing: one that was sent later
        has arrived first."""
        sequences = (self._next("admit") if asked else 0, self._next("settle") if ended else 0)
        try:
            reply = await self._send(asked, ended, self._head(*sequences))
        except BaseException:
            self._void = max(self._void, sequences[0])
            raise
        for kind, note, value in (("admit", *reply[2:4]), ("settle", *reply[4:6])):
            self._observe(reply[1], note, value)
            if note == Note.STALE:
                self.sequences[kind] = max(self.sequences[kind], value)
        return sequences, reply

    def _next(self, kind: str) -> int:
        self.sequences[kind] += 1
        return self.sequences[kind]

    async def _send(self, asked: Batch | None, ended: Batch | None, head: bytes) -> list[Any]:
        parts = (
            asked.packed if asked else b"",
            ended.packed if ended else b"",
            ended.rules if ended else b"",
        )
        table = self._tables.of((asked or ended or _NOTHING).models)
        return await self._run("exchange", table, head, *parts)

    def _head(self, *sequences: int, replay_in: int = 0) -> bytes:
        is_replay, void = (
            (1, 0) if replay_in else (0, self._void)
        )  # else the next part of a replay would be stale
        return ormsgpack.packb((self.node, replay_in or self.term, self.epoch, is_replay, void, *sequences))

    def _take_verdicts(
        self, sequence: int, batch: Batch, asks: Sequence[Ask], reply: list[Any]
    ) -> list[Verdict]:
        if reply[2] == Note.STALE_CALENDAR:
            return [Verdict(Code.STALE_CALENDAR)] * len(asks)
        if reply[2] != Note.FINE:
            return [Verdict(Code.HELD, reply[3])] * len(asks)
        verdicts, refused = verdicts_in(reply, len(asks))
        if len(refused) < len(asks):
            left_out = set(refused)
            admitted = [ask.reservation for place, ask in enumerate(asks) if place not in left_out]
            record = Record(sequence, self._clock.now_ms(), len(asks), refused, *batch)
            self.journal.admitted(record, admitted)
        return verdicts

    def _take_settled(
        self, sequence: int, batch: Batch, settlements: Sequence[Settlement], reply: list[Any]
    ) -> list[bool] | None:
        if reply[4] != Note.FINE:
            return None
        # What changed nothing stays in the record: it may have been applied before, by a call whose answer was lost.
        record = Record(sequence, self._clock.now_ms(), len(settlements), (), *batch)
        self.journal.settled(record, [s.reservation for s in settlements])
        applied = [True] * len(settlements)
        for place in reply[_UNKNOWN_PLACES]:
            applied[place - 1] = False
        return applied

    def _enter(self) -> None:
        self._under_way += 1
        self._quiet.clear()

    def _leave_call(self) -> None:
        self._under_way -= 1
        if not self._under_way:
            self._quiet.set()

    async def _run(self, script: str, *args: Argument) -> list[Any]:
        reply: list[Any] = await self._store.run(script, [self._key], args)
        self._clock.observe(reply[0])
        return reply


_NOTHING: Final = Batch((), b"")
#: The part has changed nothing and goes out again.
_AGAIN: Final = (Note.STALE, Note.STALE_CALENDAR)
