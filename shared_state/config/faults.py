"""One thing that is wrong with a configuration, and where."""

from __future__ import annotations

from collections.abc import Iterable, Set
from difflib import get_close_matches
from typing import NamedTuple

Path = tuple[str | int, ...]

_MAX_LISTED = 20


class Fault(NamedTuple):
    """``message`` says what is wrong and what is accepted; it never holds a secret's value."""

    path: Path
    message: str

    def __str__(self) -> str:
        return f"{format_path(self.path)}: {self.message}" if self.path else self.message


def format_path(path: Path) -> str:
    """``pools.chat.models[0]`` for ``("pools", "chat", "models", 0)``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            name = part if part.isprintable() else repr(part)
            text += f".{name}" if text else name
    return text


def is_within(path: Path, other: Path) -> bool:
    """Whether ``path`` is ``other`` or lies below it."""
    return path[: len(other)] == other


def touches(path: Path, others: Iterable[Path]) -> bool:
    """Whether one of ``others`` lies at, above or below ``path``."""
    return any(is_within(path, other) or is_within(other, path) for other in others)


def suggest(name: str, known: Iterable[str]) -> str:
    """What to put behind "unknown ...": the nearest known name, or all of them if they are few."""
    names = list(known)
    near = get_close_matches(name, names, n=1, cutoff=0.6)
    if near:
        return f"; did you mean {near[0]!r}?"
    if not names:
        return "; there are none"
    return f"; known: {', '.join(names)}" if len(names) <= _MAX_LISTED else ""


class FaultLog:
    """Faults found by checks that run on the sound part of a configuration.

    Args:
        refused: paths that were refused before; what only follows from them is not told.
    """

    def __init__(self, refused: Set[Path] = frozenset()) -> None:
        self.faults: list[Fault] = []
        self._refused = refused

    def add(self, path: Path, message: str) -> None:
        """A present value is wrong."""
        self.faults.append(Fault(path, message))

    def add_absence(self, path: Path, message: str) -> None:
        """Something is missing from an entry; it may be just what was refused there."""
        if not touches(path[:2], self._refused):
            self.faults.append(Fault(path, message))

    def is_excused(self, section: str, name: str) -> bool:
        """Whether an entry is unknown only because it was refused."""
        return (section,) in self._refused or (section, name) in self._refused

    def is_sound(self, *paths: Path) -> bool:
        """Whether nothing at, above or below ``paths`` was refused or found wrong."""
        told = [fault.path for fault in self.faults]
        return not any(touches(path, self._refused) or touches(path, told) for path in paths)
