"""What is told about the traffic, and to whom: targets of events, the request log, exported statistics."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from pydantic import Field

from shared_state.config.values import DurationS, Secret, Section, SizeBytes

SeverityName = Literal["debug", "info", "warning", "error", "critical"]
ScopeName = Literal["model", "provider", "pool"]

_KEEP: Final = "how many full files are kept, as `.1`, `.2`, ...; 0: a full file is emptied"
_MAX_SIZE: Final = "of the file, before it is put aside; 0: without end"
#: Which keys each connector of events has, besides those that all have.
EVENT_OPTIONS: Final[Mapping[str, frozenset[str]]] = {
    "modelmesh.console.v1": frozenset({"prefix", "use_color", "show_timestamp"}),
    "modelmesh.file.v1": frozenset({"path", "max_size", "keep"}),
    "modelmesh.json-log.v1": frozenset({"path", "max_size", "keep"}),
    "modelmesh.webhook.v1": frozenset(
        {"url", "method", "headers", "content_type", "batch_size", "timeout", "retry_count", "secret"}
        | {"template", "max_waiting"}
    ),
    "modelmesh.callback.v1": frozenset({"on_event", "timeout", "retry_count", "max_waiting"}),
    "modelmesh.null.v1": frozenset(),
}
COMMON_OPTIONS: Final = frozenset({"connector", "name", "filter", "min_severity", "include_metadata"})
#: The file that a connector writes to if no other is named.
EVENT_FILES: Final[Mapping[str, str]] = {
    "modelmesh.file.v1": "modelmesh.log",
    "modelmesh.json-log.v1": "modelmesh_events.jsonl",
}
LOG_FILES: Final[Mapping[str, str]] = {
    "modelmesh.file.v1": "modelmesh_requests.log",
    "modelmesh.json-log.v1": "modelmesh_requests.jsonl",
}
STATISTICS_FILES: Final[Mapping[str, str]] = {
    "modelmesh.file.v1": "modelmesh_statistics.log",
    "modelmesh.json-log.v1": "modelmesh_statistics.jsonl",
}


def _all_scopes() -> list[ScopeName]:
    return ["model", "provider", "pool"]


class EventTargetConfig(Section):
    """A list of targets that the leading scheduler tells events to; a key that its connector does not have is refused."""

    connector: Literal[
        "modelmesh.console.v1",
        "modelmesh.file.v1",
        "modelmesh.json-log.v1",
        "modelmesh.webhook.v1",
        "modelmesh.callback.v1",
        "modelmesh.null.v1",
    ] = "modelmesh.console.v1"
    name: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9_.-]{1,64}$",
        description="by which what was told is remembered; default: `webhook`, the second one `webhook-2`",
    )
    filter: list[str] = Field(
        default_factory=list, description="types of events, or patterns such as `provider_*`; default: all"
    )
    min_severity: SeverityName | None = Field(None, description="default: info; of a webhook: error")
    include_metadata: bool = Field(True, description="whether events carry `metadata`")
    prefix: str = Field("[ModelMesh]", description="console: in front of every line")
    use_color: bool | None = Field(None, description="console; default: if it is a terminal")
    show_timestamp: bool = Field(True, description="console")
    path: str | None = Field(
        None, description="file, json-log; default: `modelmesh.log`, `modelmesh_events.jsonl`"
    )
    max_size: SizeBytes = Field(0, description=_MAX_SIZE)
    keep: int = Field(1, ge=0, le=100, description=_KEEP)
    url: str | None = Field(None, description="webhook; a secret address goes in by reference")
    method: Literal["POST", "PUT", "PATCH"] = Field("POST", description="webhook")
    headers: dict[str, Secret] = Field(
        default_factory=dict, description="webhook; secrets go in by reference"
    )
    content_type: str = Field("application/json", description="webhook")
    batch_size: int = Field(
        1, ge=1, le=1000, description="webhook: most events of one call; above 1 a list is sent"
    )
    timeout: DurationS = Field(10.0, gt=0, description="webhook, callback: of one call")
    retry_count: int = Field(
        3,
        ge=0,
        description="webhook, callback: quick repeats, after 1 s, 2 s, 4 s ...; then it counts as down and is tried twice a minute",
    )
    max_waiting: int = Field(
        10_000,
        ge=1,
        description="webhook, callback: events that wait for it to come back; the oldest go first",
    )
    secret: Secret | None = Field(
        None, description="webhook: bodies are signed with it (`x-modelmesh-signature`)"
    )
    template: dict[str, Any] | None = Field(
        None, description='webhook: the body to send, as `{text: "{event_type} {model_id}: {reason}"}`'
    )
    on_event: str | None = Field(
        None, description="callback: dotted path of a function that takes an event, plain or async"
    )

    @property
    def least(self) -> SeverityName:
        """The least severity that is told."""
        usual: SeverityName = "error" if self.connector == "modelmesh.webhook.v1" else "info"
        return self.min_severity or usual

    @property
    def short_name(self) -> str:
        """``webhook`` of ``modelmesh.webhook.v1``."""
        return self.connector.split(".")[1]


class RequestLogConfig(Section):
    """The log line of each request, written by the node that served it."""

    connector: Literal[
        "modelmesh.console.v1", "modelmesh.file.v1", "modelmesh.json-log.v1", "modelmesh.null.v1"
    ] = Field(
        "modelmesh.console.v1",
        description="console: JSON on standard error; json-log: JSON; file: text; null: none",
    )
    level: Literal["metadata", "summary", "full"] = Field(
        "metadata",
        description="summary adds cost, kind of call and every attempt; full adds payloads and error messages",
    )
    path: str | None = Field(
        None, description="default: `modelmesh_requests.jsonl`, `modelmesh_requests.log`; nodes may share it"
    )
    max_size: SizeBytes = Field(0, description=_MAX_SIZE)
    keep: int = Field(1, ge=0, le=100, description=_KEEP)
    redact: bool = Field(
        True,
        description="at full: values of keys that hold secrets are masked; known keys are, whatever it says",
    )
    redact_keys: list[str] = Field(
        default_factory=list,
        description="more of them, besides `api_key`, `token`, `password` and their like",
    )
    max_payload_size: SizeBytes = Field(
        10_000, ge=0, description="of a payload in the log; what is longer is cut off"
    )


class StatisticsConfig(Section):
    """Statistics of closed minutes: how long they are kept durably, and where they are told besides."""

    connector: Literal[
        "modelmesh.null.v1",
        "modelmesh.console.v1",
        "modelmesh.file.v1",
        "modelmesh.json-log.v1",
        "modelmesh.prometheus.v1",
    ] = Field(
        "modelmesh.null.v1",
        description="where sums are told after each flush; prometheus: nothing to do, nodes have `/metrics`",
    )
    path: str | None = Field(
        None, description="file, json-log; default: `modelmesh_statistics.log`, `modelmesh_statistics.jsonl`"
    )
    max_size: SizeBytes = Field(0, description=_MAX_SIZE)
    keep: int = Field(1, ge=0, le=100, description=_KEEP)
    flush_interval: DurationS | None = Field(
        None, gt=0, description="another spelling of scheduler.flush_interval; both must not differ"
    )
    retention: DurationS = Field(
        604_800.0, ge=0, description="older minutes leave the storage; 0: they stay for ever"
    )
    scopes: list[ScopeName] = Field(
        default_factory=_all_scopes, description="what the connector is told sums of"
    )


class TracingConfig(Section):
    """Traces by OTLP over HTTP, `pip install 'modelmesh[otel]'`: a span for each request and one for each attempt."""

    endpoint: str | None = Field(
        None, description="of a collector, such as http://127.0.0.1:4318; none: nothing is traced"
    )
    sample: float = Field(
        1.0,
        ge=0,
        le=1,
        description="part of the requests that are traced; a caller's own decision goes first",
    )
    headers: dict[str, Secret] = Field(default_factory=dict, description="secrets go in by reference")
    service_name: str = Field("modelmesh", min_length=1)
    timeout: DurationS = Field(10.0, gt=0, description="of one export")

    @property
    def traces_url(self) -> str:
        """Where spans go: below a bare address its usual place."""
        parts = urlsplit(self.endpoint or "")
        return parts.geturl() if parts.path.strip("/") else parts._replace(path="/v1/traces").geturl()
