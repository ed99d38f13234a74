"""Targets that are lines: the console, a file for people, a file for programs."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, Final, Self

import orjson

from scheduler.sinks.events.base import EventTarget, Record, TargetError
from shared_state.config.observability import EVENT_FILES, EventTargetConfig
from shared_state.log_files import LogFile

_PLAIN: Final = "\x1b[0m"
_COLOURS: Final = {"green": "\x1b[32m", "red": "\x1b[31m", "yellow": "\x1b[33m", "cyan": "\x1b[36m"}
#: By the end of an event's name; what a deactivation is must be looked at first.
_COLOUR_OF: Final = (
    ("deactivated", "red"),
    ("panic", "red"),
    ("activated", "green"),
    ("ready", "green"),
    ("rotated", "yellow"),
    ("health_changed", "yellow"),
    ("alert", "yellow"),
)


def json_line(record: Record) -> bytes:
    """For programs."""
    return orjson.dumps(record)


def text_line(record: Record) -> bytes:
    """For people: no control character gets through."""
    words = f"{record['timestamp']} {record['severity'].upper():8} {record['message']}"
    more = record.get("metadata", {})
    words += "".join(f" {name}={value}" for name, value in more.items() if _is_telling(name, value))
    return _printable(words).encode()


class FileTarget(EventTarget):
    """Lines in a file, on the disk when ``tell`` returns."""

    def __init__(self, file: LogFile, line: Callable[[Record], bytes]) -> None:
        self._file = file
        self._line = line

    @classmethod
    def from_config(cls, config: EventTargetConfig) -> Self:
        """The file that the configuration names."""
        path = Path(config.path or EVENT_FILES[config.connector]).expanduser()
        line = json_line if config.connector == "modelmesh.json-log.v1" else text_line
        return cls(LogFile(path, max_size=config.max_size, keep=config.keep), line)

    async def tell(self, records: Sequence[Record]) -> None:
        lines = b"".join(self._line(record) + b"\n" for record in records)
        try:
            await asyncio.to_thread(self._file.append, lines, is_durable=True)
        except OSError as error:
            raise TargetError(f"{self._file.path} cannot be written: {error.strerror or error}") from error


class ConsoleTarget(EventTarget):
    """Lines on standard output."""

    def __init__(self, config: EventTargetConfig, out: IO[Any] | None = None) -> None:
        self._out = out or sys.stdout
        self._prefix = config.prefix
        self._has_time = config.show_timestamp
        self._has_colour = self._out.isatty() if config.use_color is None else config.use_color

    async def tell(self, records: Sequence[Record]) -> None:
        text = "".join(self._line(record) + "\n" for record in records)
        try:
            await asyncio.to_thread(self._write, text)
        except (OSError, ValueError) as error:
            raise TargetError(f"standard output cannot be written: {error}") from error

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()

    def _line(self, record: Record) -> str:
        parts = [self._prefix, record["timestamp"] if self._has_time else "", record["severity"].upper()]
        line = _printable(" ".join(part for part in [*parts, record["message"]] if part))
        return f"{_colour(record.get('event_type', ''))}{line}{_PLAIN}" if self._has_colour else line


class NullTarget(EventTarget):
    """Nobody."""

    async def tell(self, records: Sequence[Record]) -> None:
        pass


def _is_telling(name: str, value: object) -> bool:
    return value is not None and name not in ("kind", "subject", "until")


def _printable(text: str) -> str:
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def _colour(kind: str) -> str:
    return next((_COLOURS[name] for word, name in _COLOUR_OF if word in kind), _COLOURS["cyan"])
