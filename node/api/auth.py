"""Who may come in: static bearer tokens, compared in constant time and kept as digests."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from pydantic import SecretStr
from starlette.types import Scope

from node.api.body import header
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

    def check(self, scope: Scope) -> None:
        """Lets the request pass.

        Raises:
            AuthenticationRequiredError: no token, or an unknown one.
        """
        if self._is_open:
            return
        given = header(scope, b"authorization") or b""
        scheme, _, token = given.partition(b" ")
        if scheme.lower() != b"bearer":
            token = given
        if not token or not self._is_known(_digest(token.strip())):
            raise AuthenticationRequiredError("a valid bearer token is required")

    def _is_known(self, digest: bytes) -> bool:
        # Every entry is compared, so that the time says nothing about which one matched.
        return sum(hmac.compare_digest(digest, known) for known in self._digests) > 0


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()
