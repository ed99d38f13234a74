"""A provider may quote the key that it was sent; who reads its complaint is not the one who may know it."""

from __future__ import annotations

import re
from typing import Final

import orjson

from shared_state.errors import ProviderError
from shared_state.topology import ProviderSpec

_SHORTEST: Final = 8  # shorter values would be found inside ordinary words
#: Headers that prove who somebody is; others may hold ordinary words.
_TELLING: Final = re.compile("auth|key|token|secret|cookie|password")
_MASK: Final = "***"


class Mask:
    """The secrets of one account, as they may stand in text and in JSON."""

    def __init__(self, provider: ProviderSpec) -> None:
        headers = provider.config.headers.items()
        given = [value for name, value in headers if _TELLING.search(name.lower())]
        values = {value.get_secret_value() for value in [*given, provider.api_key] if value is not None}
        spelled = {orjson.dumps(value).decode()[1:-1] for value in values}
        self._texts = sorted((v for v in values | spelled if len(v) >= _SHORTEST), key=len, reverse=True)
        self._raws = [text.encode() for text in self._texts]

    def raw(self, body: bytes) -> bytes:
        """The body without them."""
        for secret in self._raws:
            body = body.replace(secret, _MASK.encode())
        return body

    def clean(self, error: ProviderError) -> None:
        """The same of all that an error tells."""
        error.body = self.raw(error.body)
        for secret in self._texts:
            error.message = _without_end(error.message.replace(secret, _MASK), secret)
            error.code = error.code and error.code.replace(secret, _MASK)
        error.args = (error.message,)


def _without_end(message: str, secret: str) -> str:
    """Long complaints are cut off, perhaps within the secret."""
    for length in range(len(secret) - 1, _SHORTEST - 1, -1):
        if message.endswith(secret[:length]):
            return message[:-length] + _MASK
    return message
