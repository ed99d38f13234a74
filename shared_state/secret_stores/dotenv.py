"""``modelmesh.dotenv.v1``: a file of assignments. The environment wins, unless ``override`` says that the file does."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from shared_state.config.secrets import SecretsConfig
from shared_state.errors import SecretStoreError
from shared_state.secret_stores.files import read_file, sole_writer, write_file

_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_ASSIGNMENT: Final = re.compile(rf"(?:export\s+)?({_NAME.pattern})\s*=\s*(.*)", re.DOTALL)
_QUOTED: Final = re.compile(r"""(?s:'([^']*)'|"((?:[^"\\]|\\.)*)")\s*(?:\#.*)?""")
_COMMENT: Final = re.compile(r"(?:^|\s+)#.*", re.DOTALL)
_PLAIN: Final = re.compile(r"[A-Za-z0-9_./:@%+=,-]+")
_LINE_END: Final = re.compile(r"\r\n|\n|\r")
_ESCAPES: Final = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\", '"': '"', "$": "$"}
_SPELLINGS: Final = str.maketrans(
    {"\\": r"\\", '"': r"\"", "$": r"\$", "\n": r"\n", "\r": r"\r", "\t": r"\t"}
)


class _Line(NamedTuple):
    """An assignment, a comment or nothing: its text joined, and the lines of the file that it takes."""

    text: str
    first: int
    last: int


class DotenvStore:
    """A file that was read when the store was opened; one that is not there holds nothing."""

    def __init__(self, environ: Mapping[str, str], *, path: str, override: bool = False) -> None:
        self._environ = environ
        self._path = Path(path)
        self._override = override
        self._values = self._read()[1]

    def get(self, name: str) -> str | None:
        first, second = self._environ, self._values
        if self._override:
            first, second = second, first
        return first.get(name, second.get(name))

    def describe(self, name: str) -> str:
        return f"neither the environment nor {self._path} holds {name}"

    def names(self) -> list[str]:
        return sorted(self._values)

    def put(self, values: Mapping[str, str]) -> None:
        for name in values:
            if not _NAME.fullmatch(name):
                raise SecretStoreError(
                    f"{name} is no name of a dotenv file: letters, digits, _, . and -", key="path"
                )
        with sole_writer(self._path):
            text, _ = self._read()
            write_file(self._path, with_assignments(text, values))
            self._values = self._read()[1]

    def _read(self) -> tuple[str, dict[str, str]]:
        text = read_file(self._path) or ""
        try:
            return text, parse_dotenv(text)
        except ValueError as error:
            raise SecretStoreError(f"{self._path}: {error}", key="path") from None


def open_store(config: SecretsConfig, environ: Mapping[str, str]) -> DotenvStore:
    """The store of a configuration.

    Raises:
        SecretStoreError: the file cannot be read; the text names the line, never its content.
    """
    return DotenvStore(environ, path=config.path, override=config.override)


def parse_dotenv(text: str) -> dict[str, str]:
    """Values of ``NAME=value`` lines: quotes, ``#`` comments, ``export``, backslash at the end continues the line.

    Raises:
        ValueError: a line is no assignment, or its quote is not closed.
    """
    return {name: value for name, value, _ in _assignments(text)}


def with_assignments(text: str, values: Mapping[str, str]) -> str:
    """A file's text with values changed or added; everything else stays as it stood.

    Raises:
        ValueError: the text is no dotenv file.
    """
    lines = _LINE_END.split(text)
    if lines[-1] == "":
        lines.pop()
    missing = dict(values)
    for name, _, line in reversed(list(_assignments(text))):
        if name in values:  # given twice, the last one counts: that is changed, and the others go
            lines[line.first - 1 : line.last] = [_spell(name, missing.pop(name))] if name in missing else []
    if missing and lines and lines[-1].endswith("\\"):
        lines.append("")  # what follows must not continue it
    lines += [_spell(name, value) for name, value in missing.items()]
    return "".join(f"{line}\n" for line in lines)


def _spell(name: str, value: str) -> str:
    return f"{name}={value}" if _PLAIN.fullmatch(value) else f'{name}="{value.translate(_SPELLINGS)}"'


def _assignments(text: str) -> Iterator[tuple[str, str, _Line]]:
    for line in _logical_lines(text):
        if not line.text or line.text.startswith("#"):
            continue
        match = _ASSIGNMENT.fullmatch(line.text)
        if match is None:
            raise ValueError(f"line {line.first} is no NAME=value assignment")
        yield match[1], _unquote(match[2].strip(), number=line.first), line


def _logical_lines(text: str) -> list[_Line]:
    """Lines with their numbers, continuations joined; a comment never continues."""
    lines: list[_Line] = []
    pending, start, number = "", 0, 0
    for number, raw in enumerate(_LINE_END.split(text), start=1):
        start = start or number
        is_comment = not pending and raw.lstrip().startswith("#")
        if raw.endswith("\\") and not raw.endswith("\\\\") and not is_comment:
            pending += raw[:-1]
            continue
        lines.append(_Line((pending + raw).strip(), start, number))
        pending, start = "", 0
    if pending:
        lines.append(_Line(pending.strip(), start, number))
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
