"""A client of the operators' API, and the shapes of what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypedDict, cast
from urllib.parse import quote, urlsplit

import httpx

from modelmesh.addresses import is_loopback
from modelmesh.errors import OpsError, OpsUnreachableError

DEFAULT_URL = "http://127.0.0.1:8080"
_TIMEOUT_S = 10.0

Kind = Literal["models", "providers"]
Verb = Literal["activate", "deactivate"]


class Node(TypedDict):
    id: str
    host: str
    port: int
    pid: int
    started: float
    seen_s: float
    state: str
    version: str
    config_version: str
    mode: str
    in_flight: int


class Pool(TypedDict):
    id: str
    capability: str | None
    strategy: str
    active: int
    standby: int
    models: list[str]
    current: str | None


class Window(TypedDict):
    name: str
    used: float
    limit: float
    resets: float | None


class Model(TypedDict):
    id: str
    provider: str
    domain: str
    status: str
    phase: str
    reason: str
    since: float | None
    until: float | None
    fails: int
    in_flight: int
    requests: int
    failed: int
    windows: list[Window]


class Provider(TypedDict):
    id: str
    domain: str
    connector: str
    status: str
    reason: str
    until: float | None
    models: int


class Event(TypedDict):
    time: float
    type: str
    domain: str
    model: str | None
    provider: str | None
    reason: str
    until: float | None
    node: str | None


class Job(TypedDict):
    name: str
    interval_s: float
    last_run: float | None
    last_error: str | None


class SchedulerStatus(TypedDict):
    leader: str | None
    token: int
    since: float | None
    jobs: list[Job]


class Finding(TypedDict):
    code: str
    severity: str
    message: str


class StoreStatus(TypedDict):
    url: str
    connected: bool
    round_trip_ms: float
    checked: float | None
    findings: list[Finding]


class Status(TypedDict):
    mode: str
    config_version: str
    store: StoreStatus
    scheduler: SchedulerStatus
    nodes: list[Node]
    pools: list[Pool]
    models: list[Model]
    providers: list[Provider]
    events: list[Event]


class Totals(TypedDict):
    admitted: int
    settled: int
    abandoned: int
    in_flight: int
    difference: int


class BookRow(Totals):
    domain: str
    model: str
    provider: str
    pool: str


class Books(TypedDict):
    balanced: bool
    time: float
    rows: list[BookRow]
    totals: Totals


class Switched(TypedDict):
    """What became of a model or provider that was switched by hand."""

    id: str
    status: str
    reason: str
    until: float | None


class OpsClient:
    """Talks to one node; close it, or use it as a context manager."""

    def __init__(self, url: str, *, token: str | None = None) -> None:
        self._url = url.rstrip("/")
        headers = {"authorization": f"Bearer {token}"} if token else {}
        try:
            is_local = is_loopback(urlsplit(url).hostname or "")  # a proxy is no way to this machine itself
            self._http = httpx.Client(
                base_url=url, headers=headers, timeout=_TIMEOUT_S, trust_env=not is_local
            )
        except (httpx.InvalidURL, ValueError) as error:
            raise OpsError(f"not an address: {url!r}; write http://HOST:PORT") from error

    def __enter__(self) -> OpsClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def status(self) -> Status:
        return cast(Status, self._call("GET", "/ops/status"))

    def books(self) -> Books:
        return cast(Books, self._call("GET", "/ops/books"))

    def switch(self, kind: Kind, name: str, verb: Verb, *, body: Mapping[str, Any] | None = None) -> Switched:
        """Take a model or provider out, or bring it back."""
        path = f"/ops/{kind}/{quote(name, safe='')}/{verb}"
        return cast(Switched, self._call("POST", path, body=dict(body or {})))

    def _call(self, method: str, path: str, *, body: dict[str, Any] | None = None) -> Any:
        try:
            answer = self._http.request(method, path, json=body)
        except httpx.ConnectError as error:
            raise OpsUnreachableError(
                f"no ModelMesh answers at {self._url}: start one, or set MODELMESH_URL"
            ) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise OpsUnreachableError(f"{self._url}{path}: {error or type(error).__name__}") from error
        if answer.is_success:
            return _read_json(answer)
        raise OpsError(_describe_refusal(answer), status=answer.status_code)


def _read_json(answer: httpx.Response) -> Any:
    try:
        return answer.json()
    except ValueError as error:
        raise OpsError(
            f"{answer.url} did not answer JSON; is it a ModelMesh?", status=answer.status_code
        ) from error


def _describe_refusal(answer: httpx.Response) -> str:
    try:
        message = str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        message = f"{answer.url} answered {answer.status_code}; is it a ModelMesh?"
    return f"{message} (set MODELMESH_ADMIN_TOKEN)" if answer.status_code in (401, 403) else message
