"""The node's ASGI application: completion routes straight to their endpoints, everything else through Starlette."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp, Lifespan, Receive, Scope, Send

from node.api.auth import ClientDoor, Doorkeeper
from node.api.body import header
from node.api.endpoint import request_id_of
from node.api.errors import error_answer
from node.api.models import ModelList, claudes_entry, claudes_list
from node.api.reply import id_headers
from node.call import Voice
from node.observe.metrics import CONTENT_TYPE, Metrics
from shared_state.errors import (
    AuthenticationRequiredError,
    MethodNotAllowedError,
    ModelMeshError,
    ModelNotFoundError,
    RequestError,
    RouteNotFoundError,
)

_ANTHROPICS: Final = "/v1/messages"


class JsonResponse(Response):
    """A JSON answer, written by orjson."""

    media_type = "application/json"

    def render(self, content: object) -> bytes:
        """The body."""
        return orjson.dumps(content)


class Application:
    """Dispatches by path: the completion routes skip the framework, whose routing costs more than theirs.

    Args:
        endpoints: ``/v1`` path -> ASGI callable for POST.
    """

    def __init__(self, endpoints: Mapping[str, ASGIApp], fallback: Starlette) -> None:
        self._endpoints = dict(endpoints)
        self._fallback = fallback
        self._running = 0
        self._quiet: asyncio.Event | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request or the lifespan."""
        if scope["type"] == "http" and scope["method"] == "POST":
            endpoint = self._endpoints.get(scope["path"])
            if endpoint is not None:
                self._running += 1
                try:
                    await endpoint(scope, receive, send)
                finally:
                    self._running -= 1
                    if self._quiet is not None and not self._running:
                        self._quiet.set()
                return
        await self._fallback(scope, receive, send)

    async def until_quiet(self) -> None:
        """Waits until no completion runs; for an application that gets no more of them."""
        if self._running:
            self._quiet = asyncio.Event()
            await self._quiet.wait()


class Front:
    """What the server serves: the application of the configuration in force. A call goes to its end in the one that it began in."""

    def __init__(self, application: ASGIApp) -> None:
        self.application = application

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Passes on; nothing is awaited here, for this stands before every request."""
        return self.application(scope, receive, send)


def build_application(
    endpoints: Mapping[str, ASGIApp],
    *,
    routes: Sequence[BaseRoute],
    lifespan: Lifespan[Starlette] | None = None,
) -> Application:
    """The application of a node: completion endpoints, and further routes with errors in the OpenAI shape."""

    starlette = Starlette(
        routes=[*routes, *(Route(path, _OnlyPost()) for path in endpoints)],
        exception_handlers={HTTPException: _http_error, ModelMeshError: _own_error, Exception: _unexpected},
        lifespan=lifespan,
    )
    starlette.router.redirect_slashes = False
    return Application(endpoints, starlette)


def model_routes(models: ModelList, door: ClientDoor) -> list[BaseRoute]:
    """``/v1/models`` and ``/v1/models/{id}``; in Anthropic's shape for who names a version of that API."""

    async def list_models(request: Request) -> Response:
        listed = models.all(await door.admit(request.scope))
        return JsonResponse(claudes_list(listed) if _is_claudes(request.scope) else listed)

    async def get_model(request: Request) -> Response:
        key = await door.admit(request.scope)
        name = request.path_params["name"]
        entry = models.get(name, key)
        if entry is None:
            raise ModelNotFoundError(f"no pool or model is called {name!r}", param="model")
        return JsonResponse(claudes_entry(entry) if _is_claudes(request.scope) else entry)

    return [Route("/v1/models", list_models), Route("/v1/models/{name:path}", get_model)]


def health_routes(ready: Callable[[], tuple[bool, dict[str, object]]]) -> list[BaseRoute]:
    """``/health`` says that the process lives, ``/ready`` whether it can serve."""

    async def health(request: Request) -> Response:
        return JsonResponse({"status": "ok"})

    async def readiness(request: Request) -> Response:
        is_ready, facts = ready()
        headers = None if is_ready else {"retry-after": "1"}
        return JsonResponse({"ready": is_ready, **facts}, 200 if is_ready else 503, headers)

    return [Route("/health", health), Route("/ready", readiness)]


class _OnlyPost:
    """Stands on a completion route for every other method, those that nobody has heard of included."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raise HTTPException(405, headers={"allow": "POST"})


def metrics_route(
    metrics: Metrics, doorkeeper: Doorkeeper, *, refresh: Callable[[], Awaitable[None]] | None = None
) -> BaseRoute:
    """``/metrics``, for those who may operate the node; ``refresh`` comes before each look."""

    async def scrape(request: Request) -> Response:
        doorkeeper.check(request.scope)
        if refresh is not None:
            await refresh()
        return Response(metrics.render(), headers={"content-type": CONTENT_TYPE})

    return Route("/metrics", scrape)


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    path, method = request.scope["path"], request.scope["method"]
    ours: ModelMeshError
    if error.status_code == 404:
        ours = RouteNotFoundError(f"no route {path!r}")
    elif error.status_code == 405:
        ours = MethodNotAllowedError(f"{method} is not allowed on {path!r}")
    elif error.status_code == 401:
        ours = AuthenticationRequiredError(error.detail)
    else:
        ours = RequestError(error.detail)
    response = _render(request, ours)
    response.headers.update(error.headers or {})
    return response


async def _own_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ModelMeshError)
    return _render(request, error)


async def _unexpected(request: Request, error: Exception) -> Response:
    return _render(request, ModelMeshError("internal error"))


def _is_claudes(scope: Scope) -> bool:
    """Whether the caller is a client of Anthropic's API, of which every request names a version."""
    return header(scope, b"anthropic-version") is not None


def _voice_of(scope: Scope) -> Voice:
    """In whose words errors are told, whether there is anything at that path or not."""
    path = scope["path"]
    is_theirs = path == _ANTHROPICS or path.startswith(f"{_ANTHROPICS}/") or _is_claudes(scope)
    return Voice.ANTHROPIC if is_theirs else Voice.OPENAI


def _render(request: Request, error: ModelMeshError) -> Response:
    request_id = request_id_of(request.scope)
    voice = _voice_of(request.scope)
    status, headers, body = error_answer(error, request_id, voice)
    response = Response(body, status)
    for name, value in [*headers, *id_headers(request_id, voice)]:
        response.headers[name.decode()] = value.decode()
    return response
