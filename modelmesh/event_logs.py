"""Where the parts of a mesh speak when they run inside another program: to the standard library's logging, under ``modelmesh``.

A program that has configured structlog hears them there instead. Nothing of the program's own set-up is touched.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import MutableMapping
from typing import Any, Final

import structlog

REQUESTS: Final = "modelmesh.requests"
_OURS: Final = frozenset({"node", "scheduler", "shared_state"})
_RENDER: Final = structlog.processors.LogfmtRenderer(key_order=["event"], bool_as_flag=False)


class EventLog:
    """A logger of a module: structlog's once anybody has configured that, else the standard library's."""

    def __init__(self, name: str, configured: Any) -> None:
        self._configured = configured
        self._plain = structlog.wrap_logger(
            logging.getLogger(f"modelmesh.{name}"),
            processors=[_drop_unwanted, _to_record],
            wrapper_class=structlog.make_filtering_bound_logger(logging.NOTSET),
            cache_logger_on_first_use=False,
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self._configured if structlog.is_configured() else self._plain, name)


class RequestLines:
    """A file for the request log, which hands each line to ``modelmesh.requests`` at level INFO."""

    def __init__(self) -> None:
        self._log = logging.getLogger(REQUESTS)

    def write(self, lines: bytes) -> int:
        """One record a line."""
        if self._log.isEnabledFor(logging.INFO):
            for line in lines.splitlines():
                self._log.info("%s", line.decode())
        return len(lines)

    def flush(self) -> None:
        """Nothing waits here."""


def keep_to_logging() -> None:
    """Have our parts speak so from here on: without this structlog would print to standard output what they say."""
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in _OURS:
            log = getattr(module, "log", None)
            if log is not None and not isinstance(log, EventLog) and hasattr(log, "bind"):
                module.log = EventLog(name, log)  # type: ignore[attr-defined]


def _drop_unwanted(
    logger: logging.Logger, method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    if not logger.isEnabledFor(_level_of(method)):
        raise structlog.DropEvent
    return event


def _to_record(
    logger: logging.Logger, method: str, event: MutableMapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    error = event.pop("exc_info", None)
    return ("%s", _RENDER(logger, method, event)), {"exc_info": error}


def _level_of(method: str) -> int:
    return logging.getLevelNamesMapping().get(method.upper(), logging.INFO)
