"""Versions of the configuration in Redis: kept as they were written, references unresolved, so that no secret is among them.

A version comes into force in two steps. It is proposed, every live node says whether it could run it, and only then is it put into force: a
version that one of them refuses changes nothing anywhere. When Redis is away every verb raises.
"""

from __future__ import annotations

import secrets
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import orjson
import ormsgpack

from shared_state.errors import ModelMeshError, VersionConflictError, VersionNotFoundError
from shared_state.store import Argument, Store

#: How many numbers back the history goes.
HISTORY: Final = 50
#: What events about versions are of.
KIND: Final = "config"
_MAGIC: Final = b"modelmesh-versions-1\n"


class ChronicleError(ModelMeshError):
    """A blob holds no versions that this release understands."""

    default_code = "copy_unreadable"


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


class Mark(NamedTuple):
    """What tells whether anything was pushed or lost: the number in force, the largest given out, how many documents there are."""

    current: int
    last: int
    documents: int


@dataclass(frozen=True, slots=True)
class Chronicle:
    """All versions that were remembered at a moment, oldest first; what was only proposed is not among them."""

    current: int
    last: int
    versions: tuple[Version, ...]


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

    async def mark(self) -> Mark:
        """What a chronicle of now would be of; the versions may have grown in between."""
        current, last = await self._store.command("HMGET", self._key, "current", "last")
        documents = await self._store.command("HLEN", f"{self._key}:documents")
        return Mark(int(current or 0), int(last or 0), int(documents))

    async def chronicle(self) -> Chronicle | None:
        """All that is remembered; None if nothing is in force, or if somebody pushes meanwhile."""
        mark = await self.mark()
        known = [version.number for version in await self.history()]
        try:
            versions = [await self.read(number) for number in reversed(known)]
        except VersionNotFoundError:
            return None
        if mark.current not in known or await self.mark() != mark:
            return None
        return Chronicle(mark.current, mark.last, tuple(versions))

    async def restore(self, chronicle: Chronicle) -> int:
        """Says again what the store has forgotten of a chronicle; how many versions that were. What was pushed since stays in force."""
        rows = [
            (v.number, _pack(v.told).decode(), orjson.dumps(v.document).decode(), v.time_ms)
            for v in chronicle.versions
        ]
        args: list[Argument] = [chronicle.current, chronicle.last, ormsgpack.packb(rows)]
        args += [HISTORY, self._store.keys.channel, self._node]
        return int(await self._store.run("restore_versions", [self._key], args))


def encode_chronicle(chronicle: Chronicle) -> bytes:
    """One compressed blob."""
    versions = [(v.number, v.time_ms, _pack(v.told), orjson.dumps(v.document)) for v in chronicle.versions]
    return _MAGIC + zlib.compress(ormsgpack.packb((chronicle.current, chronicle.last, versions)))


def decode_chronicle(blob: bytes) -> Chronicle:
    """The chronicle in a blob.

    Raises:
        ChronicleError: there is none, or it is of another release.
    """
    if not blob.startswith(_MAGIC):
        raise ChronicleError("these are no versions of a configuration, or those of another release")
    try:
        current, last, rows = ormsgpack.unpackb(zlib.decompress(blob[len(_MAGIC) :]))
        versions = tuple(
            Version(n, at, _told(told), orjson.loads(document)) for n, at, told, document in rows
        )
        return Chronicle(int(current), int(last), versions)
    except (zlib.error, ValueError, TypeError, AttributeError) as error:
        raise ChronicleError(f"the versions cannot be read: {error}") from error


def is_same(document: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two documents say the same in the same order, which decides ties."""
    return orjson.dumps(document) == orjson.dumps(other)


def _pack(told: Told) -> bytes:
    return orjson.dumps({"author": told.author, "comment": told.comment, "digest": told.digest})


def _told(raw: bytes) -> Told:
    said = orjson.loads(raw)
    return Told(*(str(said.get(name, "")) for name in ("author", "comment", "digest")))
