"""A client of the operators' API."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Literal, TypeVar
from urllib.parse import quote, urlsplit

import httpx
from pydantic import BaseModel, ValidationError

from modelmesh.errors import OpsError, OpsUnreachableError
from shared_state.addresses import is_loopback
from shared_state.shapes.configuration import PushView
from shared_state.shapes.keys import KeyView, NewKeyView
from shared_state.shapes.status import EventView, OrderView, ProbeView

DEFAULT_URL = "http://127.0.0.1:8080"
_TIMEOUT_S = 10.0
_PROBE_TIMEOUT_S = 120.0  # as long as the provider's own clock
_PUSH_TIMEOUT_S = 30.0
_FEED_TIMEOUT = httpx.Timeout(_TIMEOUT_S, read=30.0)  # heartbeats come every ten seconds

Kind = Literal["models", "providers"]
Verb = Literal["activate", "deactivate"]
Shape = TypeVar("Shape", bound=BaseModel)


class OpsClient:
    """Talks to one node; close it, or use it as a context manager.

    Args:
        transport: in place of the network.
    """

    def __init__(
        self, url: str, *, token: str | None = None, transport: httpx.BaseTransport | None = None
    ) -> None:
        self._url = url.rstrip("/")
        headers = {"authorization": f"Bearer {token}"} if token else {}
        try:
            is_local = is_loopback(urlsplit(url).hostname or "")  # a proxy is no way to this machine itself
            self._http = httpx.Client(
                base_url=url,
                headers=headers,
                timeout=_TIMEOUT_S,
                trust_env=not (is_local or transport),
                transport=transport,
            )
        except (httpx.InvalidURL, ValueError) as error:
            raise OpsError(f"not an address: {url!r}; write http://HOST:PORT") from error

    def __enter__(self) -> OpsClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(self, path: str, **query: Any) -> Any:
        """What a node answers to ``GET /ops/...``, as it stands."""
        given = {name: value for name, value in query.items() if value is not None}
        return self._call("GET", f"/ops/{path}", query=given)

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """What a node answers to ``POST /ops/...``, as it stands."""
        return self._call("POST", f"/ops/{path}", body=dict(body))

    def events(self, *, follow: bool, last: int) -> Iterator[EventView]:
        """The latest events, and with ``follow`` what happens from here on, until the node ends the feed."""
        query = {"follow": str(follow).lower(), "last": str(last)}
        try:
            with self._http.stream("GET", "/ops/events", params=query, timeout=_FEED_TIMEOUT) as answer:
                if not answer.is_success:
                    answer.read()
                    raise OpsError(_describe_refusal(answer), status=answer.status_code)
                for line in answer.iter_lines():
                    if line.startswith("data: "):
                        yield understand(_parse(line.removeprefix("data: "), answer), EventView)
        except httpx.ConnectError as error:
            raise self._unreachable() from error
        except httpx.HTTPError as error:
            raise OpsUnreachableError(f"{self._url}/ops/events: {error or type(error).__name__}") from error

    def switch(
        self, kind: Kind, name: str, verb: Verb, *, body: Mapping[str, Any] | None = None
    ) -> OrderView:
        """Take a model or provider out, or bring it back."""
        path = f"/ops/{kind}/{quote(name, safe='')}/{verb}"
        return understand(self._call("POST", path, body=dict(body or {})), OrderView)

    def probe(self, model: str) -> ProbeView:
        """Have a model asked one tiny request; it may take as long as its provider does."""
        path = f"/ops/models/{quote(model, safe='')}/probe"
        return understand(self._call("POST", path, body={}, timeout_s=_PROBE_TIMEOUT_S), ProbeView)

    def push(self, path: Literal["config", "config/rollback"], body: Mapping[str, Any]) -> PushView:
        """Give the cluster a version; all nodes are asked first, and one that has just died is waited for."""
        return understand(
            self._call("POST", f"/ops/{path}", body=dict(body), timeout_s=_PUSH_TIMEOUT_S), PushView
        )

    def create_key(self, body: Mapping[str, Any]) -> NewKeyView:
        """Make a client key."""
        return understand(self._call("POST", "/ops/keys", body=dict(body)), NewKeyView)

    def revoke_key(self, key: str) -> KeyView:
        """Make a client key void for good."""
        return understand(self._call("DELETE", f"/ops/keys/{quote(key, safe='')}"), KeyView)

    def _call(
        self,
        method: str,
        path: str,
        *,
        body: dict[str, Any] | None = None,
        query: Mapping[str, Any] | None = None,
        timeout_s: float = _TIMEOUT_S,
    ) -> Any:
        try:
            answer = self._http.request(method, path, json=body, params=query or None, timeout=timeout_s)
        except httpx.ConnectError as error:
            raise self._unreachable() from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise OpsUnreachableError(f"{self._url}{path}: {error or type(error).__name__}") from error
        if answer.is_success:
            return _read_json(answer)
        raise OpsError(_describe_refusal(answer), status=answer.status_code)

    def _unreachable(self) -> OpsUnreachableError:
        return OpsUnreachableError(f"no ModelMesh answers at {self._url}: start one, or set MODELMESH_URL")


def understand(answer: Any, shape: type[Shape]) -> Shape:
    """An answer in its shape; what is not known here is passed over.

    Raises:
        OpsError: it has another shape.
    """
    try:
        return shape.model_validate(answer)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise OpsError(
            f"the answer is not one of this release: {place}: {first['msg']}; is it a ModelMesh?"
        ) from error


def _read_json(answer: httpx.Response) -> Any:
    return _parse(answer.text, answer)


def _parse(text: str, answer: httpx.Response) -> Any:
    try:
        return json.loads(text)
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
