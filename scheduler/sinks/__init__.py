"""Sinks: one file each, and a line in the table below."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Final

from scheduler.sinks.base import Sink, SinkError, StoredCopy
from scheduler.sinks.sqlite import SqliteSink
from shared_state.config.root import StorageConfig

__all__ = ["Sink", "SinkError", "SqliteSink", "StoredCopy", "make_sink"]

_SINKS: Final[Mapping[str, Callable[[StorageConfig, Mapping[str, str]], Sink]]] = {
    "modelmesh.sqlite.v1": SqliteSink.from_config,
}


def make_sink(config: StorageConfig, *, environ: Mapping[str, str] = os.environ) -> Sink:
    """The sink that the configuration names, not yet open."""
    return _SINKS[config.connector](config, environ)
