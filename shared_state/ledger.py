"""Admission and settlement of one quota domain: the typed side of ``exchange.lua`` and ``renew_leases.lua``.

All take batches, for many callers share one round trip. When Redis is away they raise; whether the batch was applied is
then unknown. Every batch carries a sequence: an admission that was given up is void once the next batch has arrived, however
late its own arrives; a settlement may be sent again, for it is idempotent by reservation. Every batch carries the term that the node knows
as well: after a loss nothing is applied until the node has asserted what it knows (``assertion.py``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from enum import IntEnum
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
    Outcome,
    Settlement,
    Verdict,
    distinct,
    pack_asks,
    pack_settlements,
    plain,
)
from shared_state.errors import FencedOffError, TermChangedError
from shared_state.journal import Journal, Record
from shared_state.limits import windows_of
from shared_state.store import Argument, Store
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
    "Outcome",
    "Settlement",
    "Verdict",
]

_TABLES_KEPT: Final = 256
_STALE_CALENDAR: Final = -2
#: Where particulars begin in the reply to an exchange, and to a renewal: behind time, epoch, notes and what belongs to them.
_EXCHANGED: Final = 7
_RENEWED: Final = 4
_CALENDAR_TRIES: Final = 3
_HAS_LEFT: Final = -1


class Note(IntEnum):
    """How a batch was received as a whole."""

    FINE = 0
    STALE = 1
    UNASSERTED = 2
    HELD = 3
    STALE_CALENDAR = 4


class DomainLedger:
    """Admits and settles on behalf of one node.

    Attributes:
        epoch: of the domain, by the last reply.
        term: the one that this node has asserted, or found when it came; 0 before the first reply.
        is_asserted: False from the moment at which another term was seen until this node has asserted it.
        hold_until_ms: until then (server time) nobody is plainly admitted.
        on_hold: called whenever it is seen that another term is in force, or that plain admissions have to wait.
    """

    def __init__(self, store: Store, domain: DomainSpec, *, node: str, clock: ServerClock) -> None:
        self.domain = domain
        self.node = node
        self.epoch = -1
        self.term = 0
        self.is_asserted = True
        self.hold_until_ms = 0
        self.journal = Journal()
        self.on_hold: Callable[[], None] = lambda: None
        self.sequences = {"admit": 0, "settle": 0}
        self._store = store
        self._clock = clock
        self._key = store.keys.domain(domain.id)
        self._specs = {model.id: model for model in domain.models}
        self._account_limits = domain.providers[0].config.limits
        self._tables: dict[tuple[str, ...], bytes] = {}
        #: Admissions up to this sequence that have no answer are given up: whatever of them arrives late is void.
        self._void = 0
        self._under_way = 0
        self._quiet = asyncio.Event()
        self._quiet.set()

    def is_held(self) -> bool:
        """Whether plain admissions have to wait: for this node's assertion, or for the others'."""
        if self.is_asserted and not self.hold_until_ms:
            return False
        return not self.is_asserted or self._clock.now_ms() < self.hold_until_ms

    def observe_term(self, term: int) -> bool:
        """Whether a term that was read elsewhere is this node's own; a node that is new here takes it over."""
        if self.term == 0 and term > 0:
            self.term = term
        if term == self.term or self.term == 0:
            return True
        self._lose_term(self.hold_until_ms)
        return False

    def take_term(self, term: int, *, hold_until_ms: int) -> None:
        """This node has asserted what it knows."""
        self.term, self.hold_until_ms, self.is_asserted = term, hold_until_ms, True

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
        self._specs |= {model.id: model for model in domain.models}
        self._account_limits = domain.providers[0].config.limits
        self._tables.clear()

    async def recount_leases(self) -> None:
        """Puts right what leases hold of windows that others knew nothing of; for whoever goes on under other limits.

        Raises:
            RedisError, OSError, TimeoutError: the store is away; doing it again is safe.
        """
        await self._run("recount_leases", self._table(distinct(model.id for model in self.domain.models)))

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
        models = distinct(wish.model for wish in wishes)
        index = {model: i for i, model in enumerate(models, 1)}
        packed = ormsgpack.packb(
            [
                (
                    index[wish.model],
                    tuple(wish.used),
                    tuple(wish.kept),
                    wish.requests,
                    tuple(wish.one),
                    tuple(wish.running),
                )
                for wish in wishes
            ]
        )

        async def send() -> list[Any]:
            head = self._head(sequence, replay_in=replay_in)
            return await self._run("renew_leases", self._table(models), head, life_ms, share, packed)

        self._enter()
        try:
            reply = await send()
            if reply[1] < 0:
                self._tables.clear()
                reply = await send()
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
        ended: int = await self._store.run(
            "end_leases", [self._key], [self._table(distinct(self._specs)), token, most]
        )
        return ended

    async def learn(self, heads: Mapping[str, Sequence[tuple[str, int, int]]]) -> None:
        """Tightens the books by what the provider says about its windows, model by model, before anything is settled.

        Raises:
            RedisError, OSError, TimeoutError: the store is away; saying it again is safe.
        """
        reply = await self._learn(heads)
        if reply[1] < 0:
            self._tables.clear()
            reply = await self._learn(heads)
        self.epoch = max(self.epoch, reply[1])

    async def _learn(self, heads: Mapping[str, Sequence[tuple[str, int, int]]]) -> list[Any]:
        models = distinct(heads)
        batch = [(index, plain(heads[model])) for index, model in enumerate(models, 1)]
        return await self._run("learn", self._table(models), ormsgpack.packb(batch), self.node)

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
        table = self._table((asked or ended or _NOTHING).models)
        return await self._run("exchange", table, head, *parts)

    def _head(self, *sequences: int, replay_in: int = 0) -> bytes:
        is_replay = 1 if replay_in else 0
        return ormsgpack.packb(
            (self.node, replay_in or self.term, self.epoch, is_replay, self._void, *sequences)
        )

    def _observe(self, epoch: int, note: int, value: int) -> None:
        if note == Note.FINE:
            if epoch >= 0:
                self.epoch = epoch
            self.term = self.term or value
        elif note == Note.UNASSERTED:
            self._lose_term(value)
        elif note == Note.HELD:
            self.hold_until_ms = value
            self.on_hold()

    def _take_verdicts(
        self, sequence: int, batch: Batch, asks: Sequence[Ask], reply: list[Any]
    ) -> list[Verdict]:
        if reply[2] == Note.STALE_CALENDAR:
            return [Verdict(Code.STALE_CALENDAR)] * len(asks)
        if reply[2] != Note.FINE:
            return [Verdict(Code.HELD, reply[3])] * len(asks)
        verdicts = [_ADMITTED] * len(asks)
        for i in range(_EXCHANGED, len(reply), 4):
            verdicts[reply[i] - 1] = _exception(*reply[i + 1 : i + 4])
        self._note_admissions(sequence, batch, asks, verdicts)
        return verdicts

    def _take_settled(
        self, sequence: int, batch: Batch, settlements: Sequence[Settlement], reply: list[Any]
    ) -> list[bool] | None:
        if reply[4] != Note.FINE:
            return None
        unknown = tuple(place - 1 for place in reply[6])
        record = Record(sequence, self._clock.now_ms(), len(settlements), unknown, *batch)
        self.journal.settled(record, [s.reservation for s in settlements])
        applied = [True] * len(settlements)
        for place in unknown:
            applied[place] = False
        return applied

    def _lose_term(self, hold_until_ms: int) -> None:
        self.is_asserted, self.hold_until_ms = False, hold_until_ms
        self.on_hold()

    def _note_admissions(
        self, sequence: int, batch: Batch, asks: Sequence[Ask], verdicts: list[Verdict]
    ) -> None:
        refused: tuple[int, ...] = ()
        if verdicts.count(_ADMITTED) != len(verdicts):
            refused = tuple(place for place, v in enumerate(verdicts) if v.code != Code.ADMITTED)
        if len(refused) == len(asks):
            return
        record = Record(sequence, self._clock.now_ms(), len(asks), refused, *batch)
        left_out = set(refused)
        self.journal.admitted(
            record, [ask.reservation for place, ask in enumerate(asks) if place not in left_out]
        )

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

    def _table(self, models: tuple[str, ...]) -> bytes:
        table = self._tables.get(models)
        if table is None:
            if len(self._tables) >= _TABLES_KEPT:
                self._tables.clear()
            now_ms = self._clock.now_ms()
            specs = [self._specs[model] for model in models]
            table = self._tables[models] = ormsgpack.packb(
                (
                    self.domain.id,
                    self._store.keys.channel,
                    windows_of(self._account_limits, now_ms),
                    [(spec.id, spec.provider, windows_of(spec.config.limits, now_ms)) for spec in specs],
                )
            )
        return table


def _exception(code: int, at_ms: int, name: bytes) -> Verdict:
    if code == Code.ADMITTED:
        return _TRIAL if at_ms == 1 else _FROM_LEASE
    return Verdict(Code(code), at_ms, name.decode())


_NOTHING: Final = Batch((), b"")
#: The part has changed nothing and goes out again.
_AGAIN: Final = (Note.STALE, Note.STALE_CALENDAR)
_ADMITTED: Final = Verdict(Code.ADMITTED)
_TRIAL: Final = Verdict(Code.ADMITTED, trial=True)
_FROM_LEASE: Final = Verdict(Code.ADMITTED, from_lease=True)
