"""Settlements on disk while Redis is away, so that a node that dies in an outage loses no record.

One file for each domain of a node, one line a settlement, ids and numbers only. It is written while Redis is away and removed once everything
has arrived; while Redis answers nothing is ever written. The process that wrote it holds a lock on it: a file without one is a dead node's, and any
node that uses the same store hands it in. Settlements are idempotent by reservation, so nothing that had arrived all the same counts twice.
"""

from __future__ import annotations

import asyncio
import fcntl
import itertools
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final, Protocol

import orjson

from node.watch import StoreWatch
from shared_state.config import PoolConfig
from shared_state.ledger import LEASED, Outcome, Settlement
from shared_state.logs import get_logger

log = get_logger(__name__)

_SUFFIX: Final = ".spool"
_MOST_BYTES: Final = 32 * 1024 * 1024
#: What was written outlives the process at once, and the machine after this long.
_SYNC_S: Final = 1.0
#: An hour after a booking without reservation its store forgets that it has it.
_LEASED_LIFE_S: Final = 3000.0
_FIELDS: Final = (
    *("reservation", "model", "outcome", "tokens_in", "tokens_out", "cost_nano", "latency_ms"),
    *("first_token_ms", "flags", "dispatch_delay_ms", "pool_id"),
)
#: What a dead node has seen is no news: it is booked, and judges nobody.
_LENIENT: Final = PoolConfig.model_validate(
    {"deactivation": {"retry_limit": 1_000_000_000, "error_min_requests": 1_000_000_000}}
)
_FOR_THE_BOOKS: Final = {Outcome.SUCCESS: Outcome.SUCCESS, Outcome.NEUTRAL: Outcome.NEUTRAL}


class Shelf:
    """The outbox of one domain, as far as it is on disk."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None
        self._kept = 0
        self._size = 0
        self._synced_at = 0.0
        self._is_broken = False

    def keep(self, outbox: Sequence[Settlement], first: int) -> None:
        """Writes down what is not on disk yet.

        Args:
            first: how many settlements have left the outbox since the start.
        """
        new = list(itertools.islice(outbox, max(0, self._kept - first), None))
        self._kept = first + len(outbox)
        if not new or self._is_broken:
            return
        lines = b"".join(map(_line, new))
        try:
            self._write(lines)
        except OSError as error:
            self._is_broken = True
            log.warning("settlements are not kept on disk", path=str(self._path), error=str(error))

    def clear(self) -> None:
        """Everything has arrived."""
        if self._file is not None:
            self._path.unlink(missing_ok=True)
            os.close(self._file)
            self._file, self._size = None, 0
        self._is_broken = False

    def _write(self, lines: bytes) -> None:
        if self._size + len(lines) > _MOST_BYTES:
            raise OSError(f"{self._size} bytes are kept, and no more than {_MOST_BYTES} may be")
        if self._file is None:
            self._file = _create(self._path)
        self._size += len(lines)
        while lines:
            lines = lines[os.write(self._file, lines) :]
        if time.monotonic() - self._synced_at >= _SYNC_S:
            self._synced_at = time.monotonic()
            asyncio.get_running_loop().run_in_executor(None, _sync, os.dup(self._file))


class Outbox(Protocol):
    """Where settlements of a domain are handed in."""

    def settle(self, settlement: Settlement) -> None:
        """Hands one over."""

    async def flush(self) -> None:
        """Waits until all that was handed over has arrived."""


class Spool:
    """The files of all nodes of this machine that use one store.

    Args:
        home: where this machine keeps ModelMesh's state; nothing is created there before an outage. None: it has no such place.
        store: which store; what belongs to one is never handed in at another.
        node: id of this node.
    """

    def __init__(self, home: Path | None, watch: StoreWatch, *, store: str, node: str) -> None:
        self._folder = home / "spool" / _digest(store) if home else None
        self._node = node.replace(os.sep, "_")
        self._is_back = asyncio.Event()
        watch.on_return(self._is_back.set)

    def shelf(self, domain: str) -> Shelf | None:
        """The file of a domain, if there is a place for it."""
        if self._folder is None:
            return None
        return Shelf(self._folder / f"{self._node}.{_digest(domain)}{_SUFFIX}")

    async def run(self, outboxes: Mapping[str, Outbox]) -> None:
        """Hands in what dead nodes have left behind whenever Redis is back, the first time included; until cancelled.

        Args:
            outboxes: by model.
        """
        while True:
            await self._is_back.wait()
            self._is_back.clear()
            for path in self._files():
                await self._hand_in(path, outboxes)

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob(f"*{_SUFFIX}")) if self._folder else []

    async def _hand_in(self, path: Path, outboxes: Mapping[str, Outbox]) -> None:
        file = _adopt(path)
        if file is None:
            return
        try:
            found = [s for s in _read(path) if s.model in outboxes]
            for settlement in found:
                outboxes[settlement.model].settle(settlement)
            for model in {settlement.model for settlement in found}:
                await outboxes[model].flush()
            _remove(path)
            log.info("settlements of a dead node handed in", file=path.name, settlements=len(found))
        except OSError as error:
            log.warning("settlements of a dead node are left", file=path.name, error=str(error))
        finally:
            os.close(file)


def _line(settlement: Settlement) -> bytes:
    values = [getattr(settlement, name) for name in _FIELDS]
    return orjson.dumps([time.time(), *values], option=orjson.OPT_APPEND_NEWLINE)


def _read(path: Path) -> Iterator[Settlement]:
    """What can be read and may still be booked; a line that was cut or spoilt is passed over."""
    now = time.time()
    for line in path.read_bytes().splitlines():
        try:
            at, *values = orjson.loads(line)
            said: dict[str, Any] = dict(zip(_FIELDS, values, strict=True))
            outcome = _FOR_THE_BOOKS.get(Outcome(said.pop("outcome")), Outcome.FAILURE)
            if not (said["flags"] & LEASED and now - at > _LEASED_LIFE_S):
                yield Settlement(**said, outcome=outcome, pool=_LENIENT)
        except (ValueError, TypeError):
            log.warning("a line of a spool cannot be read", size=len(line))


def _create(path: Path) -> int:
    """A new file that only its owner may read, locked."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    while True:
        file = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY | os.O_CLOEXEC, 0o600)
        if _lock(file):
            return file
        os.close(file)  # somebody took the empty file for a dead node's, and is about to remove it


def _adopt(path: Path) -> int | None:
    """A dead node's file, locked; None if it is somebody's, or gone."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    if _lock(file):
        return file
    os.close(file)
    return None


def _lock(file: int) -> bool:
    """Whether the file is ours now, and still has its name."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return os.fstat(file).st_nlink > 0


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


def _sync(file: int) -> None:
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _digest(text: str) -> str:
    return blake2b(text.encode(), digest_size=6).hexdigest()
