"""Versions of the configuration in Redis: kept as they were written, references unresolved, so that no secret is among them.

A version comes into force in two steps. It is proposed, every live node says whether it could run it, and only then is it put into force: a
version that one of them refuses changes nothing anywhere. When Redis is away every verb raises.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import orjson

from shared_state.errors import VersionConflictError, VersionNotFoundError
from shared_state.store import Argument, Store

#: How many numbers back the history goes.
HISTORY: Final = 50
#: What events about versions are of.
KIND: Final = "config"


class Pulse(NamedTuple):
    """Numbers of the version in force and of the one that nodes are asked about; 0: none."""

    current: int
    proposed: int


@dataclass(frozen=True, slots=True)
class Told:
    """What is told about a version.

    Attributes:
        digest: of the configuration that it comes to, where it was proposed.
    """

    author: str = ""
    comment: str = ""
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Version:
    """A version; ``time_ms`` is when it was proposed."""

    number: int
    time_ms: int
    told: Told
    document: Mapping[str, Any]


class Versions:
    """The versions of a cluster.

    Args:
        node: signs what is done.
    """

    def __init__(self, store: Store, *, node: str) -> None:
        self._store = store
        self._node = node
        self._key = store.keys.versions

    async def pulse(self) -> Pulse:
        """What is in force and what is proposed."""
        current, proposed = await self._store.command("HMGET", self._key, "current", "proposed")
        return Pulse(int(current or 0), int(proposed or 0))

    async def read(self, number: int) -> Version:
        """A version that is remembered.

        Raises:
            VersionNotFoundError: it is not, any more or at all.
        """
        document = await self._store.command("HGET", f"{self._key}:documents", str(number))
        told, time_ms = await self._store.command("HMGET", self._key, f"m:{number}", f"t:{number}")
        if document is None or told is None:
            raise VersionNotFoundError(f"no version {number} of the configuration is remembered")
        return Version(number, int(time_ms or 0), _told(told), orjson.loads(document))

    async def history(self) -> list[Version]:
        """All that are remembered, the newest first, without their documents; what is only proposed is not among them."""
        raw: dict[bytes, bytes] = await self._store.command("HGETALL", self._key)
        proposed = int(raw.get(b"proposed", 0))
        numbers = sorted((int(name[2:]) for name in raw if name.startswith(b"m:")), reverse=True)
        return [
            Version(n, int(raw.get(b"t:%d" % n, 0)), _told(raw[b"m:%d" % n]), {})
            for n in numbers
            if n != proposed
        ]

    async def propose(
        self,
        document: Mapping[str, Any],
        told: Told,
        *,
        base: int,
        before: tuple[Mapping[str, Any], Told] | None = None,
    ) -> int:
        """Asks all nodes about a document; its number.

        Args:
            base: the version in force that it is made on.
            before: what runs without any version, to be kept as the first.

        Raises:
            VersionConflictError: another version is in force by now.
        """
        seed = (_pack(before[1]), orjson.dumps(before[0])) if before else (b"", b"")
        args = (base, secrets.token_hex(8), _pack(told), orjson.dumps(document))
        is_taken, number, *_ = await self._store.run(
            "propose_version", [self._key], [*args, self._store.keys.channel, self._node, *seed]
        )
        if not is_taken:
            raise VersionConflictError(
                f"version {number} is in force, and the change was made on {base or 'what ran before any version'}:"
                " look at what has changed and push again",
            )
        return int(number)

    async def decide(self, number: int, *, is_good: bool) -> bool:
        """Puts a proposed version into force, or withdraws it; whether it is in force."""
        args: list[Argument] = [number, int(is_good), HISTORY, self._store.keys.channel, self._node]
        return bool(await self._store.run("decide_version", [self._key], args))

    async def put_back(self, version: Version) -> None:
        """Says again what the store has forgotten: the version that this process runs was in force."""
        number, told = version.number, _pack(version.told)
        args: list[Argument] = [number, told, orjson.dumps(version.document), version.time_ms]
        await self._store.run("put_back_version", [self._key], args)


def is_same(document: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two documents say the same in the same order, which decides ties."""
    return orjson.dumps(document) == orjson.dumps(other)


def _pack(told: Told) -> bytes:
    return orjson.dumps({"author": told.author, "comment": told.comment, "digest": told.digest})


def _told(raw: bytes) -> Told:
    said = orjson.loads(raw)
    return Told(*(str(said.get(name, "")) for name in ("author", "comment", "digest")))
