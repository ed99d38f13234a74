"""Who may come in: static bearer tokens, compared in constant time and kept as digests; and client keys."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable, Sequence
from copy import copy

from pydantic import SecretStr
from starlette.types import Scope

from node.api.body import header
from node.api.keyring import Keyring
from node.api.origins import Origins
from shared_state.client_keys import ClientKey, is_key_text
from shared_state.errors import AuthenticationRequiredError


class Doorkeeper:
    """Checks the ``Authorization`` header against a list of tokens.

    Args:
        tokens: any one of them opens the door.
        is_open: what an empty list means: everybody may come in, or nobody.
    """

    def __init__(self, tokens: Sequence[SecretStr], *, is_open: bool) -> None:
        self._digests = [_digest(token.get_secret_value().encode()) for token in tokens]
        self._is_open = is_open and not self._digests
        self._origins = Origins()

    @property
    def is_open(self) -> bool:
        """Whether nobody needs a token."""
        return self._is_open

    def known_to(self, origins: Origins) -> Doorkeeper:
        """The same door, for these web pages."""
        other = copy(self)
        other._origins = origins
        return other

    def check(self, scope: Scope) -> None:
        """Lets the request pass.

        Raises:
            AuthenticationRequiredError: no token, or an unknown one.
            OriginNotAllowedError: the door is open, and a web page of another site sends the request, or could.
        """
        if self._is_open:
            self._origins.check_order(scope)
        elif not self.knows(bearer_token(scope)):
            raise AuthenticationRequiredError("a valid bearer token is required")

    def check_name(self, scope: Scope) -> None:
        """Lets anybody pass, who through an open door must have asked for a host that is known here.

        Raises:
            OriginNotAllowedError: the door is open, and the host may be a website's.
        """
        if self._is_open:
            self._origins.check_host(scope)

    def knows(self, token: bytes) -> bool:
        """Whether it is one of the tokens."""
        return bool(token) and self._is_known(_digest(token))

    def _is_known(self, digest: bytes) -> bool:
        # Every entry is compared, so that the time says nothing about which one matched.
        return sum(hmac.compare_digest(digest, known) for known in self._digests) > 0


class ClientDoor:
    """Lets callers in by a static token or a client key.

    Args:
        tokens: the static ones.
        is_required: whether everybody needs one or the other; else static tokens alone decide that.
        now_ms: server time.
        origins: whose web pages may call through a door that is open.
    """

    def __init__(
        self,
        tokens: Doorkeeper,
        keyring: Keyring,
        *,
        is_required: bool,
        now_ms: Callable[[], int],
        origins: Origins | None = None,
    ) -> None:
        self._tokens = tokens
        self._keyring = keyring
        self._is_open = tokens.is_open and not is_required
        self._now_ms = now_ms
        self._origins = origins or Origins()

    async def admit(self, scope: Scope) -> ClientKey | None:
        """Lets the request pass; the client key that it came with, None for a static token or an open door.

        A client key that is not valid is refused even where none is needed: its owner believes in its limits.

        Raises:
            AuthenticationRequiredError: neither token nor valid key.
            OriginNotAllowedError: nobody needs one, and a web page of another site sends the request.
            StateUnavailableError: Redis is away, and nobody here knows the key.
        """
        token = bearer_token(scope) or (header(scope, b"x-api-key") or b"").strip()
        if is_key_text(token) and not self._tokens.knows(token):
            return self._valid(await self._keyring.find(token))
        if self._is_open:
            self._origins.check_call(scope)
        elif not self._tokens.knows(token):
            what = "is not valid" if token else "is required"
            raise AuthenticationRequiredError(f"a client key or bearer token {what}")
        return None

    def _valid(self, key: ClientKey | None) -> ClientKey:
        if key is None:
            raise AuthenticationRequiredError("the client key is unknown")
        status = key.status(self._now_ms())
        if status != "active":
            raise AuthenticationRequiredError(f"client key {key.id} is {status}")
        return key


def bearer_token(scope: Scope) -> bytes:
    """What stands in the ``Authorization`` header, with or without its scheme."""
    given = header(scope, b"authorization") or b""
    scheme, _, token = given.partition(b" ")
    return (token if scheme.lower() == b"bearer" else given).strip()


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
