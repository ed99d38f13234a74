"""Sinks: one file each, and a line in the table below."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Final

from scheduler.sinks.base import Sink, SinkAwayError, SinkError, StoredCopy
from scheduler.sinks.local import make_local_sink
from scheduler.sinks.s3 import make_s3_sink
from scheduler.sinks.sqlite import SqliteSink
from shared_state.config.storage import StorageConfig

__all__ = ["Sink", "SinkAwayError", "SinkError", "SqliteSink", "StoredCopy", "make_sink"]


def _make_postgresql_sink(config: StorageConfig, environ: Mapping[str, str]) -> Sink:
    """Its dialect takes its time to load, and is seldom wanted."""
    from scheduler.sinks.postgresql import PostgresqlSink

    return PostgresqlSink.from_config(config, environ)


_SINKS: Final[Mapping[str, Callable[[StorageConfig, Mapping[str, str]], Sink]]] = {
    "modelmesh.sqlite.v1": SqliteSink.from_config,
    "modelmesh.postgresql.v1": _make_postgresql_sink,
    "modelmesh.local-file.v1": make_local_sink,
    "aws.s3.v1": make_s3_sink,
}


def make_sink(config: StorageConfig, *, environ: Mapping[str, str] = os.environ) -> Sink:
    """The sink that the configuration names, not yet open.

    Raises:
        SinkError: what it needs is not installed.
    """
    return _SINKS[config.connector](config, environ)
