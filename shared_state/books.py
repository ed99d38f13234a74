"""The books: what was admitted is settled, abandoned or in flight, for every model and pool, at all times.

Beside the counts stand the reservations, their expiries, and what leases hold of the windows; all of it must agree. What does not is
told by its cause.
"""

from __future__ import annotations

import struct
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, NamedTuple

import orjson

from shared_state.limits import has_limits
from shared_state.specs import DomainSpec
from shared_state.store import Store

#: The pool, a tab and the provider stand behind the numbers of a packed reservation.
_POOL_AT: Final = 24
#: A lease record: its sequence, then what it holds in the five dimensions.
_LEASE: Final = struct.Struct(">6Q")
_REPORT_KEPT_S: Final = 600
_ACCOUNT: Final = ""
_HELD_NAMES: Final = ("requests", "tokens", "input tokens", "output tokens", "cost")


class Cause(StrEnum):
    """Why books may be off."""

    MISSING_SETTLEMENTS = "missing_settlements"
    BOOKED_TWICE = "booked_twice"
    LEAKED_RESERVATIONS = "leaked_reservations"
    HELD_LEASES = "held_leases"


class Audited(NamedTuple):
    """A domain to audit.

    Attributes:
        limited: models whose windows hold leases, and the empty name if the account's do; None if that is not known.
    """

    domain: str
    limited: frozenset[str] | None = None


@dataclass(slots=True, frozen=True)
class Difference:
    """One disagreement.

    Attributes:
        where: model and pool, or scope, in words.
        amount: how much too much (positive) or too little.
    """

    cause: Cause
    domain: str
    where: str
    amount: int


@dataclass(slots=True, frozen=True)
class BookRow:
    """One account of the books."""

    domain: str
    model: str
    pool: str
    admitted: int
    settled: int
    abandoned: int
    in_flight: int

    @property
    def difference(self) -> int:
        """What is missing (positive) or was booked twice (negative); 0 when the books balance."""
        return self.admitted - self.settled - self.abandoned - self.in_flight


@dataclass(slots=True, frozen=True)
class DomainBooks:
    """Books of a domain at one moment.

    Attributes:
        leases: size of the set of expiries; differs from the reservations only if one of them leaked.
        differences: everything that does not agree.
    """

    domain: str
    now_ms: int
    rows: tuple[BookRow, ...]
    leases: int
    differences: tuple[Difference, ...] = ()

    @property
    def is_balanced(self) -> bool:
        """Whether everything agrees."""
        return not self.differences


@dataclass(slots=True)
class _Records:
    """What lies in Redis beside the counts, by model; the account is the empty name.

    Attributes:
        reservations: model TAB reservation -> pool.
        leased: sum of all lease records.
        held: what the windows say that leases hold; None where nothing is on record.
    """

    expiries: set[str]
    reservations: dict[str, str] = field(default_factory=dict)
    leased: dict[str, Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    held: dict[str, tuple[int, ...] | None] = field(default_factory=dict)


def audited(domains: Mapping[str, DomainSpec]) -> list[Audited]:
    """All quota domains of a configuration."""
    return [
        Audited(
            name,
            frozenset(
                scope
                for scope, limits in [
                    (_ACCOUNT, spec.limits),
                    *((model.id, model.config.limits) for model in spec.models),
                ]
                if has_limits(limits)
            ),
        )
        for name, spec in domains.items()
    ]


async def read_books(store: Store, domain: str, *, limited: frozenset[str] | None = None) -> DomainBooks:
    """The books of a domain, consistent at one moment; costs time in proportion to what is in flight.

    Args:
        limited: as in `Audited`.
    """
    now_ms, flat, flight, leases, *rest = await store.run("read_books", [store.keys.domain(domain)])
    records = _decode(flight, leases, rest)
    rows = _rows(domain, flat, records)
    differences = [
        *_unbalanced(rows),
        *_leaked(domain, records),
        *_misheld(domain, records, limited),
    ]
    return DomainBooks(domain, now_ms, rows, len(records.expiries), tuple(differences))


def by_cause(differences: Iterable[Difference]) -> dict[str, int]:
    """How much is off for each cause, in either direction; every cause is there."""
    sums = {cause.value: 0 for cause in Cause}
    for difference in differences:
        sums[difference.cause] += abs(difference.amount)
    return sums


async def report_audit(store: Store, differences: Mapping[str, int]) -> None:
    """Leaves the outcome of an audit for everybody to see; it expires, so that nobody takes an old one for news."""
    seconds, _ = await store.command("TIME")
    report = orjson.dumps({"time": int(seconds), "differences": differences})
    await store.command("SET", store.keys.audit, report, "EX", _REPORT_KEPT_S)


async def read_audit(store: Store) -> tuple[float, dict[str, int]] | None:
    """When the last audit was (unix seconds), and what was off for each cause; None if there was none lately."""
    raw = await store.command("GET", store.keys.audit)
    if raw is None:
        return None
    report = orjson.loads(raw)
    return float(report["time"]), {str(cause): int(n) for cause, n in report["differences"].items()}


def _decode(flight: Sequence[bytes], leases: Sequence[bytes], rest: Sequence[Any]) -> _Records:
    account, *models = rest
    records = _Records({member.decode() for member in flight})
    records.held[_ACCOUNT] = _held(account)
    for name, reserved, held in zip(models[::3], models[1::3], models[2::3], strict=True):
        model = name.decode()
        records.held[model] = _held(held)
        for reservation, packed in zip(reserved[::2], reserved[1::2], strict=True):
            pool = packed[_POOL_AT:].partition(b"\t")[0].decode()
            records.reservations[f"{model}\t{reservation.decode()}"] = pool
    for lease, packed in zip(leases[::2], leases[1::2], strict=True):
        _, *amounts = _LEASE.unpack(packed)
        # Behind the model stands, where calls run that were paid out of the lease, that they do.
        model = lease.decode().split("\t")[1]
        for scope in (_ACCOUNT, model):
            records.leased[scope].update(dict(enumerate(amounts)))
    return records


def _held(fields: Sequence[bytes | None]) -> tuple[int, ...] | None:
    return tuple(int(value or 0) for value in fields) if any(f is not None for f in fields) else None


def _rows(domain: str, flat: Sequence[bytes], records: _Records) -> tuple[BookRow, ...]:
    counts: defaultdict[tuple[str, str], dict[str, int]] = defaultdict(dict)
    for name, value in zip(flat[::2], flat[1::2], strict=True):
        model, pool, verb = name.decode().split("\t")
        counts[model, pool][verb] = int(value)
    flight = Counter((member.partition("\t")[0], pool) for member, pool in records.reservations.items())
    return tuple(
        BookRow(
            domain=domain,
            model=model,
            pool=pool,
            admitted=counts[model, pool].get("admitted", 0),
            settled=counts[model, pool].get("settled", 0),
            abandoned=counts[model, pool].get("abandoned", 0),
            in_flight=flight[model, pool],
        )
        for model, pool in sorted({*counts, *flight})
    )


def _unbalanced(rows: Iterable[BookRow]) -> Iterable[Difference]:
    for row in rows:
        if row.difference:
            cause = Cause.MISSING_SETTLEMENTS if row.difference > 0 else Cause.BOOKED_TWICE
            yield Difference(cause, row.domain, f"{row.model} in {row.pool}", row.difference)


def _leaked(domain: str, records: _Records) -> Iterable[Difference]:
    """Expiries and reservations that lack each other, by model: the former count for concurrency, the latter never end."""
    for words, members, sign in (
        ("expiries without a reservation", records.expiries - records.reservations.keys(), 1),
        ("reservations without an expiry", records.reservations.keys() - records.expiries, -1),
    ):
        models = Counter(member.partition("\t")[0] for member in members)
        for model, count in sorted(models.items()):
            yield Difference(Cause.LEAKED_RESERVATIONS, domain, f"{words} of {model}", sign * count)


def _misheld(domain: str, records: _Records, limited: frozenset[str] | None) -> Iterable[Difference]:
    scopes = records.held if limited is None else [s for s in records.held if s in limited]
    for scope in scopes:
        held = records.held[scope]
        if held is None and limited is None:
            continue  # nothing is limited there, or nobody knows
        for dimension, name in enumerate(_HELD_NAMES):
            amount = (held[dimension] if held else 0) - records.leased[scope][dimension]
            if amount:
                yield Difference(
                    Cause.HELD_LEASES, domain, f"{name} held of {scope or 'the account'}", amount
                )
