"""Payloads without secrets: by the names of their keys, at any depth and inside JSON within strings; by the look of a text; and by what is known.

What is cut off is cut after it was looked at, and no payload is looked at much further than it will be shown.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

import orjson
from pydantic import BaseModel, SecretStr

MASK: Final = "***REDACTED***"
_NAMES: Final = (
    *("apikey", "token", "secret", "password", "passwd", "authorization", "proxyauthorization", "cookie"),
    *("setcookie", "credential", "credentials", "privatekey", "accesskey", "secretkey", "bearer", "xapikey"),
)
_ENDS: Final = ("_api_key", "_token", "_secret", "_password", "_apikey", "_private_key", "_access_key")
_SPLIT: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
#: A key of ours, whatever else is configured.
_OWN_KEY: Final = re.compile(r"\bmm-[A-Za-z0-9_-]{8,}")
_BY_LOOK: Final = (
    re.compile(r"(?i)\b(bearer|basic)(\s+)[A-Za-z0-9._~+/=-]{6,}"),
    re.compile(
        r"\b()()(?:sk|rk|pk|gsk|xai|hf|ghp|gho|glpat|pplx|nvapi|tvly|fc|jina|xox[abps])[-_][A-Za-z0-9_-]{12,}"
    ),
    re.compile(
        r"\b()()(?:AIza[A-Za-z0-9_-]{20,}|AKIA[A-Z0-9]{12,}|eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9._-]{8,})"
    ),
    re.compile(r"(?i)\b((?:[a-z]+[_-])*(?:api[_-]?key|token|secret|password))(\s*[=:]\s*)[^\s&\"',;}]{4,}"),
)
_DEEPEST: Final = 60
_SHORTEST_SECRET: Final = 8
#: What is looked at beyond what is shown, so that nothing is cut in the middle of a secret.
_MARGIN: Final = 400


class Redactor:
    """Takes secrets out of payloads.

    Args:
        most_bytes: a payload as it is shown.
        names: keys whose values are secret, besides the usual ones.
        known: secrets that are masked wherever they stand.
        is_on: if not, only what is known goes.
    """

    def __init__(
        self, *, most_bytes: int, names: Iterable[str] = (), known: Iterable[str] = (), is_on: bool = True
    ) -> None:
        self._most = most_bytes
        self._is_on = is_on
        self._names = frozenset(map(_plain, (*_NAMES, *names)))
        self._known = sorted({s for s in known if len(s) >= _SHORTEST_SECRET}, key=len, reverse=True)
        in_text = "|".join(re.escape(name) for name in sorted({*names, "authorization"}))
        pattern = rf'(?i)("[^"]*(?:api_?key|token|secret|password|{in_text})"\s*:\s*")(?:[^"\\]|\\.)*'
        self._pairs = re.compile(pattern)

    def fields(self, fields: Any) -> str:
        """A parsed payload as JSON, without secrets, cut to its size."""
        left = [self._most + _MARGIN]
        return self._shown(orjson.dumps(self._value(fields, left, 0), default=str).decode())

    def body(self, body: bytes, *, content_type: str, size: int) -> str:
        """A payload as it was sent, of which ``body`` is the beginning and ``size`` the length."""
        if not content_type.startswith(("application/json", "text/")):
            return f"<{size} bytes of {content_type or 'unknown type'}>"
        is_stream = content_type.startswith("text/event-stream")
        if len(body) == size and not is_stream:
            try:
                return self.fields(orjson.loads(body))
            except orjson.JSONDecodeError:
                pass
        beginning = body[: self._most + _MARGIN]
        text = beginning.decode(errors="replace")
        text = "\n".join(map(self._line, text.split("\n"))) if is_stream else self.text(text)
        return self._shown(text if len(beginning) == size else _cut(text))

    def text(self, text: str) -> str:
        """Words without secrets."""
        for secret in self._known:
            text = text.replace(secret, MASK)
        text = _OWN_KEY.sub(MASK, text)
        if self._is_on:
            for pattern in _BY_LOOK:
                text = pattern.sub(rf"\g<1>\g<2>{MASK}", text)
            text = self._pairs.sub(rf"\g<1>{MASK}", text)
        return text

    def _line(self, line: str) -> str:
        """A line of an event stream."""
        if line.startswith("data:"):
            try:
                found = orjson.loads(line[5:])
            except orjson.JSONDecodeError:
                pass
            else:
                return "data: " + orjson.dumps(self._value(found, [self._most + _MARGIN], 0)).decode()
        return self.text(line)

    def _value(self, value: Any, left: list[int], depth: int) -> Any:
        if left[0] <= 0 or depth > _DEEPEST:
            return "..."
        left[0] -= 4
        if isinstance(value, dict):
            return {
                self.text(key): MASK if self._is_secret(key) else self._value(inner, left, depth + 1)
                for key, inner in self._first(value.items(), left)
            }
        if isinstance(value, list):
            return [self._value(inner, left, depth + 1) for inner in self._first(value, left)]
        if isinstance(value, str):
            return self._string(value, left, depth)
        return value

    def _first(self, items: Iterable[Any], left: list[int]) -> Iterator[Any]:
        """As many as will be shown."""
        for item in items:
            if left[0] <= 0:
                return
            yield item

    def _string(self, value: str, left: list[int], depth: int) -> str:
        """A text, or JSON within one, such as the arguments of a tool call."""
        if value[:1] in ("{", "[") and len(value) <= 4 * self._most + _MARGIN:
            try:
                inner = orjson.loads(value)
            except orjson.JSONDecodeError:
                pass
            else:
                return orjson.dumps(self._value(inner, left, depth + 1)).decode()
        room = max(0, left[0])
        text = self.text(value[:room])
        left[0] -= len(text)
        return text if len(value) <= room else _cut(text)

    def _is_secret(self, key: str) -> bool:
        if not self._is_on:
            return False
        return _plain(key) in self._names or _SPLIT.sub("_", key).lower().replace("-", "_").endswith(_ENDS)

    def _shown(self, text: str) -> str:
        for secret in self._known:  # put together again by what was around it
            text = text.replace(secret, MASK)
        data = text.encode()
        return text if len(data) <= self._most else data[: self._most].decode(errors="ignore") + "..."


def _cut(text: str) -> str:
    """Without its last part, in which a secret may have been cut in two and not be known any more."""
    return text[:-_MARGIN] + "..."


def secrets_of(config: BaseModel) -> Iterator[str]:
    """Every secret that a configuration holds."""
    for _, value in config:
        yield from _secrets_in(value)


def _secrets_in(value: Any) -> Iterator[str]:
    if isinstance(value, SecretStr):
        yield value.get_secret_value()
    elif isinstance(value, BaseModel):
        yield from secrets_of(value)
    elif isinstance(value, dict):
        for inner in value.values():
            yield from _secrets_in(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _secrets_in(inner)


def _plain(name: str) -> str:
    return name.lower().replace("-", "").replace("_", "")
