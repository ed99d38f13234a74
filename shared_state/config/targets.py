"""Checks of what is told to whom: every target has the keys of its connector alone, and no two write to one place."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from typing import Any, Final

from pydantic import SecretStr

from shared_state.config.checks import check_base_url
from shared_state.config.faults import FaultLog, Path, suggest
from shared_state.config.observability import (
    COMMON_OPTIONS,
    EVENT_FILES,
    EVENT_OPTIONS,
    LOG_FILES,
    STATISTICS_FILES,
    EventTargetConfig,
    TracingConfig,
)
from shared_state.config.root import MeshConfig
from shared_state.event_kinds import KINDS, OLDER, kinds_of

#: What a template may name.
RECORD_FIELDS: Final = (
    "id",
    "event_type",
    "timestamp",
    "severity",
    "message",
    "domain",
    "model_id",
    "provider_id",
    "pool_id",
    "reason",
)
PLACEHOLDER: Final = re.compile(r"\{([^{}]*)\}")
_HEADER_NAME: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_FUNCTION: Final = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*[.:][A-Za-z_]\w*")
_NEVER: Final = frozenset({"content-length", "host", "transfer-encoding", "connection"})


def check_observability(config: MeshConfig, log: FaultLog) -> None:
    """All of the section."""
    observed = config.observability
    for index, target in enumerate(observed.events):
        _check_target(target, ("observability", "events", index), log)
    names = [target.name for target in observed.events if target.name]
    for name in sorted({name for name in names if names.count(name) > 1}):
        log.add(("observability", "events"), f"two targets have the name {name!r}")
    _check_files(config, log)
    for section, files in (("logging", LOG_FILES), ("statistics", STATISTICS_FILES)):
        part = getattr(observed, section)
        for key in sorted({"path", "max_size", "keep"} & part.model_fields_set):
            if part.connector not in files:
                log.add(("observability", section, key), f"is no option of {part.connector}")
    _check_flush(config, log)
    _check_tracing(observed.tracing, log)


def names_of(targets: Iterable[EventTargetConfig]) -> list[str]:
    """By which each target is known; those without a name are counted."""
    given = {target.name for target in targets if target.name}
    names: list[str] = []
    for target in targets:
        name, number = target.name or target.short_name, 2
        while not target.name and (name in names or name in given):
            name, number = f"{target.short_name}-{number}", number + 1
        names.append(name)
    return names


def _check_target(target: EventTargetConfig, path: Path, log: FaultLog) -> None:
    has = EVENT_OPTIONS[target.connector]
    for key in sorted(target.model_fields_set - COMMON_OPTIONS - has):
        log.add((*path, key), f"is no option of {target.connector}")
    for place, pattern in enumerate(target.filter):
        if not kinds_of(pattern):
            log.add((*path, "filter", place), f"no event is {pattern!r}{suggest(pattern, [*KINDS, *OLDER])}")
    if "url" in has:
        _check_webhook(target, path, log)
    if "on_event" in has and (target.on_event is None or not _FUNCTION.fullmatch(target.on_event)):
        log.add((*path, "on_event"), "must be the dotted path of a function, such as mypackage.hooks.tell")


def _check_webhook(target: EventTargetConfig, path: Path, log: FaultLog) -> None:
    if target.url is None:
        log.add((*path, "url"), "is required by modelmesh.webhook.v1")
    elif target.url.lower().startswith(("http://", "https://")):
        check_base_url(target.url, (*path, "url"), log)
    else:
        log.add((*path, "url"), "must be an address such as https://hooks.example.com/services/1")
    _check_headers({**_texts(target.headers), "content-type": target.content_type}, path, log)
    if target.template is not None:
        _check_template(target.template, (*path, "template"), log)
        if target.batch_size > 1:
            log.add((*path, "batch_size"), "cannot be more than 1 together with template")


def _texts(headers: Mapping[str, SecretStr]) -> dict[str, str]:
    return {name: value.get_secret_value() for name, value in headers.items()}


def _check_headers(headers: Mapping[str, str], path: Path, log: FaultLog) -> None:
    for name, text in headers.items():
        if not _HEADER_NAME.fullmatch(name) or name.lower() in _NEVER:
            log.add((*path, "headers", name), "is no header that can be set here")
        if not (text.isascii() and text.isprintable()):
            log.add(
                (*path, "headers", name), "holds a character that no header carries, such as a line break"
            )


def _check_template(value: Any, path: Path, log: FaultLog) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            _check_template(inner, (*path, str(key)), log)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            _check_template(inner, (*path, index), log)
    elif isinstance(value, str):
        for name in PLACEHOLDER.findall(value):
            if name not in RECORD_FIELDS:
                log.add(path, f"an event has no {name!r}{suggest(name, RECORD_FIELDS)}")


def _check_files(config: MeshConfig, log: FaultLog) -> None:
    """Two that write to one file would put it aside under each other's hands."""
    observed = config.observability
    seen: dict[str, Path] = {}
    wanted: list[tuple[Path, str | None]] = [
        (("observability", "events", index), target.path or EVENT_FILES.get(target.connector))
        for index, target in enumerate(observed.events)
    ]
    logging, statistics = observed.logging, observed.statistics
    wanted += [
        (("observability", "logging"), logging.path or LOG_FILES.get(logging.connector)),
        (("observability", "statistics"), statistics.path or STATISTICS_FILES.get(statistics.connector)),
    ]
    for path, file in wanted:
        if file is not None and seen.setdefault(file, path) != path:
            log.add((*path, "path"), f"{file!r} is written to by another section already")


def _check_flush(config: MeshConfig, log: FaultLog) -> None:
    theirs, ours = config.observability.statistics.flush_interval, config.scheduler.flush_interval
    if theirs is not None and "flush_interval" in config.scheduler.model_fields_set and theirs != ours:
        log.add(
            ("observability", "statistics", "flush_interval"),
            f"{theirs:g} s differs from scheduler.flush_interval, {ours:g} s; write one of both",
        )


def _check_tracing(tracing: TracingConfig, log: FaultLog) -> None:
    path: Path = ("observability", "tracing")
    if tracing.endpoint is None:
        for key in sorted(tracing.model_fields_set - {"endpoint"}):
            log.add_absence((*path, key), "means nothing without endpoint")
        return
    if not tracing.endpoint.lower().startswith(("http://", "https://")):
        log.add((*path, "endpoint"), "must be an address such as http://127.0.0.1:4318")
    else:
        check_base_url(tracing.endpoint, (*path, "endpoint"), log)
    _check_headers(_texts(tracing.headers), path, log)
    if not _has_opentelemetry():
        log.add((*path, "endpoint"), "needs the extra modelmesh[otel]: pip install 'modelmesh[otel]'")


def _has_opentelemetry() -> bool:
    try:
        return find_spec("opentelemetry.exporter.otlp.proto.http") is not None
    except ModuleNotFoundError:
        return False
