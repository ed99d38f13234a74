"""Client keys: who may call, which models, how much. The text of a key is shown once; what is kept is a keyed digest of it.

When Redis is away every verb raises. A record never changes: a key with other rights is another key.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Final

import orjson
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from shared_state.config.limits import LimitsConfig
from shared_state.errors import StateUnavailableError
from shared_state.store import Store

#: What the text of every client key begins with.
PREFIX: Final = "mm-"
_RANDOM_BYTES: Final = 32
_LONGEST_TEXT: Final = 256
_NO_PEPPER: Final = b"modelmesh client key"


class ClientKey(BaseModel):
    """A client key as it is kept; times in unix seconds of server time.

    Attributes:
        models: pools, models and capabilities that it may ask for, ``*`` for any part of a name; empty: all.
        revoked: since when it is void; kept apart from the record.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    name: str
    created: float
    expires: float | None = None
    models: tuple[str, ...] = ()
    limits: LimitsConfig = LimitsConfig()
    note: str = ""
    revoked: float | None = Field(None, exclude=True)

    def may_use(self, name: str) -> bool:
        """Whether the name of a pool, model or capability is among those allowed."""
        return not self.models or any(
            name == pattern or fnmatchcase(name, pattern) for pattern in self.models
        )

    def is_expired(self, now_ms: int) -> bool:
        """Whether its time is over."""
        return self.expires is not None and now_ms >= self.expires * 1000

    def status(self, now_ms: int) -> str:
        """``active``, ``expired`` or ``revoked``."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.is_expired(now_ms) else "active"


def new_key_id() -> str:
    """An id: safe to log, and no help to anybody."""
    return secrets.token_hex(6)


def new_key_text() -> str:
    """The text that the caller will send."""
    return PREFIX + secrets.token_urlsafe(_RANDOM_BYTES)


def is_key_text(text: bytes) -> bool:
    """Whether it could be a client key at all."""
    return text.startswith(PREFIX.encode()) and len(text) <= _LONGEST_TEXT


class ClientKeys:
    """The client keys of a cluster.

    Args:
        pepper: mixed into every digest; without it the digests are those of any deployment.
    """

    def __init__(self, store: Store, pepper: SecretStr | None) -> None:
        self._store = store
        self._pepper = pepper.get_secret_value().encode() if pepper is not None else _NO_PEPPER

    def digest(self, text: bytes) -> str:
        """What a key is looked up by."""
        return hmac.digest(self._pepper, text, hashlib.sha256).hex()

    async def put(self, key: ClientKey, text: str, *, node: str) -> None:
        """Keeps a new key."""
        await self._put(key, self.digest(text.encode()), node)

    async def put_back(self, key: ClientKey, digest: str) -> None:
        """Says again what the store has forgotten: keys are never deleted, so one that is missing was lost."""
        await self._put(key, digest, "")
        if key.revoked is not None:
            await self.revoke(key.id, node="")

    async def _put(self, key: ClientKey, digest: str, node: str) -> None:
        keys = self._store.keys
        record = orjson.dumps(key.model_dump(mode="json", exclude_unset=True))
        await self._store.run(
            "put_client_key", [keys.client_keys], [key.id, digest, record, keys.channel, node]
        )

    async def find(self, digest: str) -> ClientKey | None:
        """The key behind a digest, revoked ones included.

        Raises:
            StateUnavailableError: another release wrote it, and this one cannot say what it allows.
        """
        reply = await self._store.run("find_client_key", [self._store.keys.client_keys], [digest])
        return _decode(reply[0], reply[1]) if reply else None

    async def revoke(self, key: str, *, node: str) -> ClientKey | None:
        """Makes a key void for good; None if there is none of that id."""
        keys = self._store.keys
        revoked_ms = await self._store.run("revoke_client_key", [keys.client_keys], [key, keys.channel, node])
        if not revoked_ms:
            return None
        return _decode(await self._store.command("HGET", keys.client_keys, key), revoked_ms)

    async def all(self) -> list[ClientKey]:
        """All keys, oldest first; those that this release cannot read are left out."""
        base = self._store.keys.client_keys
        records: dict[bytes, bytes] = await self._store.command("HGETALL", base)
        revoked: dict[bytes, bytes] = await self._store.command("HGETALL", f"{base}:revoked")
        found = []
        for key, record in records.items():
            try:
                found.append(_decode(record, int(revoked.get(key, 0))))
            except StateUnavailableError:
                continue
        return sorted(found, key=lambda key: (key.created, key.id))

    async def version(self) -> int:
        """Changes with every key that is made or revoked."""
        return int(await self._store.command("GET", f"{self._store.keys.client_keys}:version") or 0)


async def read_key(store: Store, key: str) -> ClientKey | None:
    """The key of an id, revoked ones included; None if there is none.

    Raises:
        StateUnavailableError: another release wrote it.
    """
    base = store.keys.client_keys
    record = await store.command("HGET", base, key)
    revoked = await store.command("HGET", f"{base}:revoked", key)
    return _decode(record, int(revoked or 0)) if record is not None else None


async def key_ids(store: Store) -> Sequence[str]:
    """The ids of all keys that ever were."""
    return [raw.decode() for raw in await store.command("HKEYS", store.keys.client_keys)]


def _decode(record: bytes, revoked_ms: int) -> ClientKey:
    try:
        key = ClientKey.model_validate_json(record)
    except ValidationError:
        raise StateUnavailableError(
            "the client key was written by another release", retry_after_s=1.0
        ) from None
    return key.model_copy(update={"revoked": revoked_ms / 1000}) if revoked_ms else key
