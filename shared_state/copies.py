"""Copies of quota domains that outlive the server: read in one moment, packed into one blob, put back by one script.

A copy holds what limits and books depend on: windows, states, books, reservations, leases, the sequences of the nodes' journals. It does
not hold statistics and news. Redis knows the time of the latest copy that is stored (``copied``), so a copy that is newer than that, and
whose books hold more, tells of a loss.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final, NamedTuple

import ormsgpack

from shared_state.deadline import Deadline
from shared_state.errors import FencedOffError, ModelMeshError
from shared_state.limits import windows_of
from shared_state.store import Argument, Store
from shared_state.topology import DomainSpec

#: Reading so many takes the server some 10 ms, and nobody is served meanwhile. Those beyond are booked as abandoned when the copy is
#: restored: charged in full, but not counted as in flight.
MOST_RESERVATIONS: Final = 4000

_MAGIC: Final = b"modelmesh-copy-1\n"
_MAGIC_OF_MANY: Final = b"modelmesh-state-1\n"
_LEVEL: Final = 3
_RECORD: Final = struct.Struct(">QIIQ")
_LEASE: Final = struct.Struct(">6Q")
_OF_COPIES: Final = frozenset({"copying", "copied", "wants_copy", "fence"})
_STALE_CALENDAR: Final = -2
_FENCED_OFF: Final = -1


class CopyError(ModelMeshError):
    """A blob is no copy that this release understands."""

    default_code = "copy_unreadable"


class Reservation(NamedTuple):
    """One reservation as its record has it, and its expiry."""

    admitted_ms: int
    tokens_in: int
    tokens_out: int
    cost_nano: int
    pool: str
    provider: str
    expires_ms: int


class Lease(NamedTuple):
    """One lease: its sequence, its amounts in five dimensions, its end."""

    sequence: int
    requests: int
    tokens: int
    tokens_in: int
    tokens_out: int
    cost_nano: int
    end_ms: int


@dataclass(frozen=True, slots=True)
class DomainCopy:
    """All that counts in a quota domain at one moment.

    Attributes:
        taken_ms: server time, and the name of the copy; later than that of every copy before.
        base_ms: 0, or the time of the copy before if this holds only the difference.
        fields: of the domain itself.
        scopes: model, or empty for the account -> field of its windows -> value.
        states: (kind, id) joined by a tab -> field -> value.
        reservations: model TAB reservation -> what is known of it.
        closed: model TAB reservation -> pool, of those that ended since the copy before; for a difference only.
        leases: node TAB model -> lease.
        done: attempts booked out of leases -> when.
        seq: node TAB kind -> last sequence applied.
        left_out: how much was in flight beyond `MOST_RESERVATIONS`.
    """

    domain: str
    taken_ms: int
    base_ms: int = 0
    fields: Mapping[str, str] = field(default_factory=dict)
    scopes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    states: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    books: Mapping[str, int] = field(default_factory=dict)
    reservations: Mapping[str, Reservation] = field(default_factory=dict)
    closed: Mapping[str, str] = field(default_factory=dict)
    leases: Mapping[str, Lease] = field(default_factory=dict)
    done: Mapping[str, str] = field(default_factory=dict)
    seq: Mapping[str, str] = field(default_factory=dict)
    left_out: int = 0

    @property
    def copied_ms(self) -> int:
        """The latest copy that the domain knows to be stored; 0 for none."""
        return int(self.fields.get("copied", 0))

    @property
    def is_empty(self) -> bool:
        """Whether nothing has ever happened in the domain."""
        return not (self.epoch or self.books or self.scopes or self.states or self.reservations)

    @property
    def fence(self) -> int:
        """The largest fencing token that was seen in the domain."""
        return int(self.fields.get("fence", 0))

    @property
    def epoch(self) -> int:
        """Count of the changes of state."""
        return int(self.fields.get("epoch", 0))

    def lacks(self, epoch: int, books: Mapping[str, int]) -> bool:
        """Whether the domain has forgotten a change of state, or anything that those books hold: they only ever grow."""
        return self.epoch < epoch or any(
            self.books.get(account, 0) < count for account, count in books.items()
        )

    def digest(self) -> str:
        """The same for two copies between which nothing happened."""
        own = {name: value for name, value in self.fields.items() if name not in _OF_COPIES}
        return hashlib.sha256(_pack(replace(self, taken_ms=0, fields=own))).hexdigest()


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore brought back; `books` counts admissions."""

    age_ms: int
    reservations: int
    books: int


# -- blobs


def encode_copy(copy: DomainCopy) -> bytes:
    """One compressed blob."""
    return _MAGIC + zlib.compress(_pack(copy), _LEVEL)


def decode_copy(blob: bytes) -> DomainCopy:
    """The copy in a blob.

    Raises:
        CopyError: there is none, or it is of another release.
    """
    if not blob.startswith(_MAGIC):
        raise CopyError("this is no copy of a domain, or one of another release")
    try:
        raw = ormsgpack.unpackb(zlib.decompress(blob[len(_MAGIC) :]))
        raw["reservations"] = {name: Reservation(*row) for name, row in raw["reservations"].items()}
        raw["leases"] = {name: Lease(*row) for name, row in raw["leases"].items()}
        return DomainCopy(**{name.name: raw[name.name] for name in fields(DomainCopy)})
    except (zlib.error, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CopyError(f"the copy cannot be read: {error}") from error


def encode_copies(copies: Sequence[DomainCopy]) -> bytes:
    """Several domains in one blob, for a file."""
    return _MAGIC_OF_MANY + ormsgpack.packb([encode_copy(copy) for copy in copies])


def decode_copies(blob: bytes) -> list[DomainCopy]:
    """The copies in a file.

    Raises:
        CopyError: there are none, or they are of another release.
    """
    if not blob.startswith(_MAGIC_OF_MANY):
        raise CopyError("this is no exported state, or one of another release")
    try:
        return [decode_copy(bytes(part)) for part in ormsgpack.unpackb(blob[len(_MAGIC_OF_MANY) :])]
    except (ValueError, TypeError) as error:
        raise CopyError(f"the exported state cannot be read: {error}") from error


def _pack(copy: DomainCopy) -> bytes:
    raw = {name.name: getattr(copy, name.name) for name in fields(copy)}
    raw["reservations"] = {name: tuple(row) for name, row in copy.reservations.items()}
    raw["leases"] = {name: tuple(row) for name, row in copy.leases.items()}
    return ormsgpack.packb(raw, option=ormsgpack.OPT_SORT_KEYS)


# -- the difference of two copies


def subtract(copy: DomainCopy, base: DomainCopy) -> DomainCopy:
    """What was counted between two copies: for a server that still has all of the earlier one, and perhaps a part of the rest."""
    return replace(
        copy,
        base_ms=base.taken_ms,
        scopes={
            name: _subtract_scope(windows, base.scopes.get(name, {})) for name, windows in copy.scopes.items()
        },
        books={name: count - base.books.get(name, 0) for name, count in copy.books.items()},
        reservations={n: row for n, row in copy.reservations.items() if n not in base.reservations},
        closed={n: row.pool for n, row in base.reservations.items() if n not in copy.reservations},
        leases={name: lease for name, lease in copy.leases.items() if name not in base.leases},
    )


def _subtract_scope(windows: Mapping[str, str], base: Mapping[str, str]) -> dict[str, str]:
    result = dict(windows)
    for name, value in windows.items():
        window, _, part = name.rpartition(":")
        if part.isdigit() and window != "held":
            result[name] = str(max(0, int(value) - int(base.get(name, 0))))
        elif part == "sum" and windows.get(f"{window}:at") == base.get(f"{window}:at"):
            result[name] = str(max(0.0, float(value) - float(base.get(name, 0))))
    return result


# -- reading and marking


async def read_copy(store: Store, domain: DomainSpec, *, token: int = 0) -> DomainCopy:
    """The domain as it is; with a fencing token a copy is begun, which `mark_copied` completes.

    Raises:
        FencedOffError: another scheduler leads.
        RedisError, OSError, TimeoutError: the store is away.
    """
    wanted = [("provider", p.id) for p in domain.providers] + [("model", m.id) for m in domain.models]
    reply = await store.run(
        "read_copy", [store.keys.domain(domain.id)], [token, ormsgpack.packb(wanted), MOST_RESERVATIONS]
    )
    if reply[0] == _FENCED_OFF:
        raise FencedOffError(domain.id)
    return _decode_reply(domain.id, wanted, reply)


async def mark_copied(store: Store, domain: str, *, token: int, taken_ms: int) -> bool:
    """Notes that a copy is stored; False if the domain is not the one that was copied any more.

    Raises:
        FencedOffError: another scheduler leads.
    """
    done = await store.run("mark_copy", [store.keys.domain(domain)], [token, taken_ms])
    if done == _FENCED_OFF:
        raise FencedOffError(domain)
    return bool(done)


async def read_marks(store: Store, domains: Sequence[str]) -> dict[str, tuple[int, bool]]:
    """Of each domain: the latest copy that it knows to be stored, and whether nodes wait for one. One round trip."""
    pipe = store.client.pipeline(transaction=False)
    for domain in domains:
        pipe.hmget(store.keys.domain(domain), "copied", "wants_copy")
    async with Deadline(store.timeout_s):
        rows = await pipe.execute()
    return {
        name: (int(copied or 0), wants is not None)
        for name, (copied, wants) in zip(domains, rows, strict=True)
    }


def _decode_reply(domain: str, wanted: Sequence[tuple[str, str]], reply: Sequence[Any]) -> DomainCopy:
    taken_ms, own, account, books, leases, ends, done, seq, flight, packed, left_out, *rest = reply
    states = {"\t".join(entity): _texts(row) for entity, row in zip(wanted, rest[::2], strict=True)}
    scopes = {
        name: _texts(row) for (kind, name), row in zip(wanted, rest[1::2], strict=True) if kind == "model"
    }
    return DomainCopy(
        domain=domain,
        taken_ms=taken_ms,
        fields=_texts(own),
        scopes={name: windows for name, windows in {"": _texts(account), **scopes}.items() if windows},
        states={name: state for name, state in states.items() if state},
        books={name: int(count) for name, count in _texts(books).items()},
        reservations=_reservations(flight, packed),
        leases=_leases(leases, _texts(ends)),
        done=_texts(done),
        seq=_texts(seq),
        left_out=left_out,
    )


def _texts(flat: Sequence[bytes]) -> dict[str, str]:
    texts = [part.decode() for part in flat]
    return dict(zip(texts[::2], texts[1::2], strict=True))


def _reservations(flight: Sequence[bytes], packed: Sequence[bytes]) -> dict[str, Reservation]:
    found = {}
    for member, expires, record in zip(flight[::2], flight[1::2], packed, strict=True):
        if record:
            pool, _, provider = record[_RECORD.size :].decode().partition("\t")
            row = (*_RECORD.unpack_from(record), pool, provider, int(float(expires)))
            found[member.decode()] = Reservation._make(row)
    return found


def _leases(flat: Sequence[bytes], ends: Mapping[str, str]) -> dict[str, Lease]:
    return {
        name.decode(): Lease._make((*_LEASE.unpack(record), int(float(ends.get(name.decode(), 0)))))
        for name, record in zip(flat[::2], flat[1::2], strict=True)
    }


# -- restoring


async def restore_copy(
    store: Store, domain: DomainSpec, copy: DomainCopy, *, token: int, whole: Mapping[str, int] | None = None
) -> Restored | None:
    """Puts a copy back, or the difference of two; None if nothing of it is missing.

    Args:
        whole: the books of the whole copy, where `copy` is a difference.

    Raises:
        FencedOffError: another scheduler leads.
        RedisError, OSError, TimeoutError: the store is away; it may have been restored, and doing it again is safe.
    """
    payload = ormsgpack.packb(_payload(copy, copy.books if whole is None else whole))
    now_ms = copy.taken_ms
    for _ in range(3):  # once more where a calendar has turned since
        arguments: list[Argument] = [token, _table(store, domain, now_ms), payload]
        code, *facts = await store.run("restore_copy", [store.keys.domain(domain.id)], arguments)
        if code != _STALE_CALENDAR:
            break
        now_ms = facts[0]
    if code == _FENCED_OFF:
        raise FencedOffError(domain.id)
    return Restored(*facts) if code == 1 else None


def _table(store: Store, domain: DomainSpec, now_ms: int) -> bytes:
    models = [(spec.id, spec.provider, windows_of(spec.config.limits, now_ms)) for spec in domain.models]
    account = windows_of(domain.providers[0].config.limits, now_ms)
    return ormsgpack.packb((domain.id, store.keys.channel, account, models))


def _payload(copy: DomainCopy, whole: Mapping[str, int]) -> dict[str, Any]:
    return {
        "taken": copy.taken_ms,
        "base": copy.base_ms,
        "whole": dict(whole),
        "epoch": copy.epoch,
        "minute": int(copy.fields.get("minute", 0)),
        "scopes": {name: _windows(windows) for name, windows in copy.scopes.items()},
        "states": [(*name.split("\t", 1), dict(state)) for name, state in copy.states.items()],
        "books": _balanced(copy),
        "reservations": [(*name.split("\t", 1), *row) for name, row in copy.reservations.items()],
        "closed": [(*name.split("\t", 1), pool) for name, pool in copy.closed.items()],
        "leases": [(name, *lease) for name, lease in copy.leases.items()],
        "done": dict(copy.done),
        "seq": dict(copy.seq),
    }


def _windows(flat: Mapping[str, str]) -> dict[str, tuple[float, int, int, list[int]]]:
    """Window -> its sum, its mark, the period it was alerted in, and bucket, amount, ... of a sliding one."""
    names = dict.fromkeys(name.rpartition(":")[0] for name in flat if name.endswith(":sum"))
    buckets: dict[str, list[int]] = {name: [] for name in names}
    for name, value in flat.items():
        window, _, part = name.rpartition(":")
        if part.isdigit() and window in buckets:
            buckets[window] += (int(part), int(value))
    return {
        name: (
            float(flat[f"{name}:sum"]),
            int(flat.get(f"{name}:at", 0)),
            int(flat.get(f"{name}:alerted", 0)),
            buckets[name],
        )
        for name in names
    }


def _balanced(copy: DomainCopy) -> dict[str, int]:
    """The books of the copy; what was in flight beyond its reservations is booked as abandoned."""
    books = Counter(copy.books)
    if copy.left_out:
        flight = Counter((name.partition("\t")[0], row.pool) for name, row in copy.reservations.items())
        for account, admitted in copy.books.items():
            model, pool, verb = account.split("\t")
            if verb == "admitted":
                ended = copy.books.get(f"{model}\t{pool}\tsettled", 0) + copy.books.get(
                    f"{model}\t{pool}\tabandoned", 0
                )
                books[f"{model}\t{pool}\tabandoned"] += admitted - ended - flight[model, pool]
    return dict(books)
