"""The completion routes: plain ASGI callables from the caller's bytes to the router and back."""

from __future__ import annotations

import asyncio
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from random import getrandbits
from typing import Any, Final

import orjson
from starlette.types import Receive, Scope, Send

from node.api.auth import ClientDoor
from node.api.body import header, headers_of, parse_object, read_body
from node.api.border import PASSPORT_HEADERS, read_passport
from node.api.caps import CAPS_HEADERS, read_caps
from node.api.checks import check_files
from node.api.form import is_form, read_form
from node.api.once import Claim, Once, wait_until
from node.api.record import Answer, Recorder
from node.api.reply import AsgiReply
from node.call import Call, Surface, Trail
from node.engine.contract import ON_DISCONNECT
from node.observe.decisions import DecisionLog
from node.observe.details import Overheard
from node.observe.metrics import REPLAYED, Metrics
from node.observe.request_log import RequestLog
from node.observe.tracing import RequestTrace, Tracing
from node.routing.interrupts import Cause, Interrupted, Interrupts
from node.routing.router import Router
from node.routing.weight import weigh
from node.watch import StoreWatch
from shared_state.client_keys import ClientKey
from shared_state.config.values import parse_duration
from shared_state.errors import (
    ClientDisconnectedError,
    DeadlineExceededError,
    ModelMeshError,
    RequestError,
)
from shared_state.logs import get_logger

log = get_logger(__name__)

_SANE_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
_LONGEST_NAME = 256
#: Headers that route a call; most calls have none of them.
ROUTING_HEADERS: Final = (
    CAPS_HEADERS
    | PASSPORT_HEADERS
    | {
        b"x-modelmesh-provider",
        b"x-modelmesh-deadline",
        b"x-modelmesh-session",
    }
)
_LONGEST_SESSION = 256
_IDEMPOTENCY = b"idempotency-key"


@dataclass(frozen=True, slots=True)
class Edge:
    """What all completion routes share."""

    router: Router
    watch: StoreWatch
    door: ClientDoor
    request_log: RequestLog
    metrics: Metrics
    max_body_bytes: int
    once: Once
    decisions: DecisionLog | None = None
    tracing: Tracing | None = None


class Endpoint:
    """One API of the node."""

    def __init__(self, surface: Surface, edge: Edge) -> None:
        self._surface = surface
        self._edge = edge

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves one request; every error becomes an answer."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        request_id = request_id_of(scope)
        tracing = self._edge.tracing
        trace = None if tracing is None else tracing.begin(scope, started)
        heard = self._edge.request_log.overhear(send)
        send = heard or send
        recorder = self._recorder(scope, send)
        is_typed = self._surface.events is not None
        reply = AsgiReply(recorder or send, request_id, is_typed=is_typed, voice=self._surface.voice)
        trail = Trail(mode=self._edge.watch.mode)
        name, call, claim = "", None, None
        try:
            key = await self._edge.door.admit(scope)
            if key is not None:
                trail.key = key.id
            call, body = await self._read(scope, receive, request_id, started, key)
            name, call.trace = call.name, trace
            if recorder is not None:
                claim = self._edge.once.claim(scope, body, key, recorder, trail)
            del body  # it may be long, and the answer take minutes
            await self._serve(scope, call, claim, receive, reply, trail)
        except ClientDisconnectedError as error:
            trail.outcome = error.code or ""
            reply.status = error.http_status
        except ModelMeshError as error:
            trail.outcome = error.code or ""
            # Its traceback leads to all that the request was, and from there back to it: only the collector would free that.
            await reply.fail(error.with_traceback(None), trail)
        except Exception:
            log.exception("request failed", request_id=request_id)
            trail.outcome = "internal_error"
            await reply.fail(ModelMeshError("internal error"), trail)
        finally:
            if claim is not None:
                await claim.end()
        ended = loop.time()
        self._note(
            scope["path"], request_id, name, call, reply, trail, heard, trace, started=started, ended=ended
        )

    def _note(
        self,
        path: str,
        request_id: str,
        name: str,
        call: Call | None,
        reply: AsgiReply,
        trail: Trail,
        heard: Overheard | None,
        trace: RequestTrace | None,
        *,
        started: float,
        ended: float,
    ) -> None:
        """Counts and logs a finished request, and records its decision where somebody may ask for it."""
        outcome = trail.outcome or "ok"
        self._edge.metrics.observe(trail, outcome=outcome, started=started, ended=ended)
        self._edge.request_log.write(
            request_id,
            path=path,
            name=name,
            status=reply.status,
            outcome=outcome,
            started=started,
            ended=ended,
            trail=trail,
            call=call,
            heard=heard,
        )
        decisions = self._edge.decisions
        if decisions is not None and call is not None and decisions.wants(trail, outcome):
            decisions.add(call, trail, status=reply.status, outcome=outcome)
        if trace is not None:
            trace.finish(request_id, name, call, trail, status=reply.status, outcome=outcome)

    async def _read(
        self, scope: Scope, receive: Receive, request_id: str, started: float, key: ClientKey | None
    ) -> tuple[Call, bytes]:
        surface = self._surface
        body = await read_body(scope, receive, limit_bytes=self._edge.max_body_bytes)
        kind = header(scope, b"content-type") if surface.files else None
        if kind is not None and is_form(kind):
            fields, form = read_form(kind, body, default_model=surface.default_model)
            check_files(fields, form, surface.files)
            body = orjson.dumps(fields)
        else:
            fields, form = parse_object(body), None
            name_default(fields, surface)
        check_name(fields)
        surface.check(fields)
        call = build_call(surface, scope, fields, body=body, request_id=request_id, started=started, key=key)
        if form is not None:
            call.form = form
            call.prompt_tokens += form.tokens
            if header(scope, _IDEMPOTENCY) is not None:
                body = form.body(call.name, boundary=b"form")  # a repeat has another boundary
        return call, body

    def _recorder(self, scope: Scope, send: Send) -> Recorder | None:
        """Records the answer to a request that may be repeated."""
        if header(scope, _IDEMPOTENCY) is None:
            return None
        return Recorder(send, limit_bytes=self._edge.once.limit_bytes)

    async def _serve(
        self,
        scope: Scope,
        call: Call,
        claim: Claim | None,
        receive: Receive,
        reply: AsgiReply,
        trail: Trail,
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        interrupts = Interrupts(task)
        stop_watching = _watch(scope, receive, interrupts)
        try:
            if claim is not None:
                kept = await _take(claim, call, interrupts)
                if kept is not None:
                    trail.outcome = REPLAYED
                    return await reply.replay(kept)
                stop_watching()  # the caller may leave and ask again: the answer will be there
            await self._edge.router.serve(call, reply, interrupts, trail)
        finally:
            stop_watching()


def name_default(fields: dict[str, Any], surface: Surface) -> None:
    """Says for the caller which capability is meant, where the API has a model of its own for that."""
    if surface.default_model and fields.get("model") is None:
        fields["model"] = surface.default_model


def check_name(fields: dict[str, Any]) -> None:
    """Raises RequestError unless ``model`` may be a name."""
    name = fields.get("model")
    if not isinstance(name, str) or not name:
        raise RequestError("'model' must be a non-empty string", param="model")
    if len(name) > _LONGEST_NAME:
        raise RequestError(f"'model' is longer than {_LONGEST_NAME} characters", param="model")


def build_call(
    surface: Surface,
    scope: Scope,
    fields: dict[str, Any],
    *,
    body: bytes,
    request_id: str,
    started: float,
    key: ClientKey | None = None,
) -> Call:
    """The call that a body and the headers that route it come to.

    Raises:
        RequestError: a header is not what it must be.
    """
    call = Call(
        surface=surface,
        request_id=request_id,
        fields=fields,
        body_bytes=len(body),
        started=started,
        prompt_tokens=weigh(body, fields) + surface.more_tokens(fields),
        key=key,
    )
    if not ROUTING_HEADERS.isdisjoint(headers_of(scope)):
        _read_headers(call, scope)
    if surface.passes:
        call.headers = tuple(given for given in scope["headers"] if given[0] in surface.passes)
    return call


def _read_headers(call: Call, scope: Scope) -> None:
    """What the headers say of who may serve a call, and how long it may take."""
    preferred, call.passport = header(scope, b"x-modelmesh-provider"), read_passport(scope)
    call.deadline_s = _sooner(_deadline(scope), call.passport.left_s)
    call.provider = preferred.decode("latin-1") if preferred else None
    call.caps = read_caps(scope)
    call.session = _session(scope)


async def _take(claim: Claim, call: Call, interrupts: Interrupts) -> Answer | None:
    try:
        return await claim.take(interrupts, deadline=wait_until(call.started, call.deadline_s))
    except Interrupted as interrupted:
        if interrupted.cause is Cause.GONE:
            raise ClientDisconnectedError("the client has left") from None
        raise DeadlineExceededError("the idempotency key could not be looked up in time") from None
    finally:
        interrupts.close()


def _watch(scope: Scope, receive: Receive, interrupts: Interrupts) -> Callable[[], object]:
    """Has the work interrupted when the caller leaves; a function that stops that."""
    on_disconnect = scope.get("extensions", {}).get(ON_DISCONNECT)
    if on_disconnect is None:
        return asyncio.get_running_loop().create_task(_wait_for_goodbye(receive, interrupts)).cancel
    on_disconnect(interrupts.client_left)
    return lambda: on_disconnect(None)


async def _wait_for_goodbye(receive: Receive, interrupts: Interrupts) -> None:
    """Nothing else tells before the first byte, and sending need not fail afterwards."""
    while (await receive())["type"] != "http.disconnect":
        pass
    interrupts.client_left()


def request_id_of(scope: Scope) -> str:
    """The caller's id if it is sane, else a new one."""
    given = header(scope, b"x-request-id")
    if given is not None and _SANE_ID.fullmatch(given):
        return given.decode("ascii")
    return f"{getrandbits(128):032x}"


def _sooner(own_s: float | None, left_s: float) -> float | None:
    if left_s == math.inf:
        return own_s
    return left_s if own_s is None else min(own_s, left_s)


def _session(scope: Scope) -> str:
    session = (header(scope, b"x-modelmesh-session") or b"").decode("latin-1").strip()
    if len(session) > _LONGEST_SESSION:
        raise RequestError(f"x-modelmesh-session is longer than {_LONGEST_SESSION} characters")
    return session


def _deadline(scope: Scope) -> float | None:
    given = header(scope, b"x-modelmesh-deadline")
    if given is None:
        return None
    text = given.decode("latin-1")
    try:
        seconds = float(text) if text.replace(".", "", 1).isdigit() else parse_duration(text)
    except ValueError as error:
        raise RequestError(f"x-modelmesh-deadline: {error}") from None
    if seconds <= 0:
        raise RequestError("x-modelmesh-deadline must be greater than zero")
    return seconds
