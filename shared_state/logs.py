"""Where the parts speak: to structlog once a command has configured it, else to the standard library's logging, under ``modelmesh``.

So a mesh inside another program says nothing on its standard output and touches nothing of its set-up; a program that has configured structlog itself
hears the parts there.
"""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from typing import Any, Final

import structlog

_RENDER: Final = structlog.processors.LogfmtRenderer(key_order=["event"], bool_as_flag=False)


class EventLog:
    """The logger of a module."""

    def __init__(self, name: str) -> None:
        self._configured: Any = structlog.get_logger(name)
        self._plain = structlog.wrap_logger(
            logging.getLogger(f"modelmesh.{name}"),
            processors=[_drop_unwanted, _to_record],
            wrapper_class=structlog.make_filtering_bound_logger(logging.NOTSET),
            cache_logger_on_first_use=False,
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self._configured if structlog.is_configured() else self._plain, name)


def get_logger(name: str) -> Any:
    """A logger with structlog's methods: ``log.info("what happened", key=value)``."""
    return EventLog(name)


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
