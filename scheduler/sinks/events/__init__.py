"""Targets of events: one file for each kind, and a line in the table below."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from scheduler.sinks.events.base import EventTarget, Record, TargetError, record_of
from scheduler.sinks.events.callback import CallbackTarget
from scheduler.sinks.events.lines import ConsoleTarget, FileTarget, NullTarget
from scheduler.sinks.events.webhook import WebhookTarget
from shared_state.config.observability import EventTargetConfig

__all__ = ["EventTarget", "Record", "TargetError", "make_target", "record_of"]

_TARGETS: Final[Mapping[str, Callable[[EventTargetConfig], EventTarget]]] = {
    "modelmesh.console.v1": ConsoleTarget,
    "modelmesh.file.v1": FileTarget.from_config,
    "modelmesh.json-log.v1": FileTarget.from_config,
    "modelmesh.webhook.v1": WebhookTarget,
    "modelmesh.callback.v1": CallbackTarget,
    "modelmesh.null.v1": lambda _: NullTarget(),
}


def make_target(config: EventTargetConfig) -> EventTarget:
    """The target that a section describes.

    Raises:
        ConfigurationError: it cannot be made on this machine.
    """
    return _TARGETS[config.connector](config)
