"""Secret stores: where ``${secrets:NAME}`` finds its value. The environment wins over a dotenv file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Protocol

from shared_state.config.root import SecretsConfig

_ASSIGNMENT: Final = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_.-]*)\s*=\s*(.*)", re.DOTALL)
_QUOTED: Final = re.compile(r"""(?s:'([^']*)'|"((?:[^"\\]|\\.)*)")\s*(?:\#.*)?""")
_COMMENT: Final = re.compile(r"(?:^|\s+)#.*", re.DOTALL)
_ESCAPES: Final = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\", '"': '"', "$": "$"}


class SecretStore(Protocol):
    """Where secrets are looked up."""

    def get(self, name: str) -> str | None:
        """The value of ``name``; None if the store has no such secret."""

    def describe(self, name: str) -> str:
        """Where ``name`` was looked for, for the message that it is missing."""


class EnvironmentStore:
    """``modelmesh.env.v1``: environment variables, with an optional prefix before each name."""

    def __init__(self, environ: Mapping[str, str], *, prefix: str = "") -> None:
        self._environ = environ
        self._prefix = prefix

    def get(self, name: str) -> str | None:
        return self._environ.get(self._prefix + name)

    def describe(self, name: str) -> str:
        return f"the environment variable {self._prefix}{name} is not set"


class DotenvStore:
    """``modelmesh.dotenv.v1``: a file of assignments, read once; a missing file holds nothing."""

    def __init__(self, environ: Mapping[str, str], *, path: str) -> None:
        self._environ = environ
        self._path = path
        self._values = parse_dotenv(_read(path))

    def get(self, name: str) -> str | None:
        return self._environ.get(name, self._values.get(name))

    def describe(self, name: str) -> str:
        return f"neither the environment nor {self._path} holds {name}"


def open_store(config: SecretsConfig, environ: Mapping[str, str]) -> SecretStore:
    """The store that the configuration names.

    Raises:
        ValueError: the store's file cannot be read; the text names the line, never its content.
    """
    if config.store == "modelmesh.dotenv.v1":
        return DotenvStore(environ, path=config.path)
    return EnvironmentStore(environ, prefix=config.prefix)


def parse_dotenv(text: str) -> dict[str, str]:
    """Values of ``NAME=value`` lines: quotes, ``#`` comments, ``export``, backslash at the end continues the line.

    Raises:
        ValueError: a line is no assignment, or its quote is not closed.
    """
    values: dict[str, str] = {}
    for number, line in _logical_lines(text):
        if not line or line.startswith("#"):
            continue
        match = _ASSIGNMENT.fullmatch(line)
        if match is None:
            raise ValueError(f"line {number} is no NAME=value assignment")
        values[match[1]] = _unquote(match[2].strip(), number=number)
    return values


def _logical_lines(text: str) -> list[tuple[int, str]]:
    """Lines with their numbers, continuations joined; a comment never continues."""
    lines: list[tuple[int, str]] = []
    pending, start = "", 0
    for number, raw in enumerate(text.splitlines(), start=1):
        start = start or number
        is_comment = not pending and raw.lstrip().startswith("#")
        if raw.endswith("\\") and not raw.endswith("\\\\") and not is_comment:
            pending += raw[:-1]
            continue
        lines.append((start, (pending + raw).strip()))
        pending, start = "", 0
    if pending:
        lines.append((start, pending.strip()))
    return lines


def _unquote(value: str, *, number: int) -> str:
    if value[:1] not in {"'", '"'}:
        return _COMMENT.sub("", value)
    match = _QUOTED.fullmatch(value)
    if match is None:
        raise ValueError(f"line {number} has a quote that is not closed, or text behind it")
    if match[1] is not None:
        return match[1]
    return re.sub(r"\\(.)", lambda escape: _ESCAPES.get(escape[1], escape[0]), match[2], flags=re.DOTALL)


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ValueError(f"cannot read {path}: {reason}") from None
