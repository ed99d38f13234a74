"""A mock OpenAI-compatible provider, as a process: ``python -m benchmarks.mock_upstream --port 0``.

Quick enough never to be the bottleneck of a benchmark, and ready to misbehave on order: by the header
``x-mock``, by the model's name (``gpt-x!slow-head=2s``) or by ``POST /_mock/behaviour``.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import hashlib
import math
import signal
import time
from dataclasses import dataclass
from functools import lru_cache, partial

import orjson

from benchmarks.mock_answers import (
    Headers,
    Script,
    compose,
    compose_unary,
    error_script,
    model_list,
    unary_script,
)
from benchmarks.mock_behaviour import (
    Behaviour,
    BehaviourError,
    Fault,
    OrderBook,
    Pace,
    parse_behaviour,
    parse_duration,
    split_model,
)
from benchmarks.mock_calls import CHAT, COMPLETIONS, EMBEDDINGS, Call, CallError, read_call
from benchmarks.mock_connection import Connection, Request
from benchmarks.mock_control import PREFIX, ControlDesk
from benchmarks.mock_ledger import Entry, Ledger, SlidingLimit
from benchmarks.mock_media import MEDIA, compose_media, read_media
from benchmarks.mock_web import WEB, compose_web, read_web

_MODELS = "/v1/models"
_CALLS = frozenset({CHAT, COMPLETIONS, EMBEDDINGS}) | MEDIA | WEB
#: What routers of self-hosted engines ask an engine before they send it traffic.
_ENGINE = frozenset({"/health", "/get_server_info", "/server_info", "/get_model_info", "/model_info"})
_ENGINE_FACTS = b'{"is_generation":true}'
_NO_CALL = Call("", "", [])


@dataclass(frozen=True, slots=True)
class MockOptions:
    """How one mock provider is set up."""

    name: str = "mock"
    models: tuple[str, ...] = ("mock-small", "mock-large", "mock-embed")
    pace: Pace = Pace()
    fail_rate: float = 0.0
    rpm: int | None = None
    seed: int = 0
    keeps_ledger: bool = True


@lru_cache(maxsize=1024)
def fingerprint(authorization: bytes) -> str:
    """First 8 hex digits of the SHA-256 of a bearer token; the token itself is never kept."""
    token = authorization.partition(b" ")[2]
    return hashlib.sha256(token).hexdigest()[:8] if token else ""


class MockUpstream:
    """One provider: decides how each request is answered, and books it."""

    def __init__(self, options: MockOptions) -> None:
        self.options = options
        failures = f"fail={options.fail_rate}" if options.fail_rate else "ok"
        self.book = OrderBook(parse_behaviour(failures, pace=options.pace), seed=options.seed)
        self.ledger = Ledger(capacity=200_000 if options.keeps_ledger else 0)
        self.limit = SlidingLimit(options.rpm) if options.rpm else None
        self.desk = ControlDesk(self.book, self.ledger, limit=self.limit)
        self._n = 0

    def answer(self, request: Request) -> tuple[Script, Entry | None]:
        """The script for a request and, unless it is a control request, its ledger entry."""
        if request.path.startswith(PREFIX):
            return self.desk.answer(request), None
        if request.method == b"GET" and request.path in _ENGINE:
            return unary_script(_ENGINE_FACTS), None
        if request.method == b"GET" and request.path.startswith(_MODELS):
            return self._look_up(request)[
                1
            ], None  # whoever watches a provider asks for it; the books are for calls
        self._n += 1
        self.desk.last = request
        now = time.time()
        if request.method == b"POST" and request.path in _CALLS:
            call, behaviour, script = self._call(request, now)
        else:
            call = _NO_CALL
            behaviour, script = self._look_up(request)
        entry = Entry(
            self._n,
            now,
            request.path,
            split_model(call.model)[0],
            call.is_stream,
            script.status,
            behaviour,
            len(request.body),
            request.headers.get(b"x-request-id", b"").decode("latin-1"),
            fingerprint(request.headers.get(b"authorization", b"")),
        )
        self.ledger.open(entry)
        return script, entry

    def _call(self, request: Request, now: float) -> tuple[Call, str, Script]:
        try:
            call = _read(request)
        except CallError as error:
            return _NO_CALL, "bad-request", error_script(Fault(status=400), message=str(error))
        headers: Headers = ()
        if self.limit:
            wait_s = self.limit.admit(now)
            headers = _rate_headers(self.limit, wait_s)
            if wait_s > 0:
                return call, "rpm", error_script(Fault(status=429), headers=headers)
        try:
            behaviour = self._choose(request, call.model)
        except BehaviourError as error:
            return call, "bad-order", error_script(Fault(status=400), message=str(error))
        name = self.options.name
        if call.path in MEDIA:
            script = compose_media(call, behaviour, name=name, headers=headers)
        elif call.path in WEB:
            script = compose_web(call, behaviour, name=name, headers=headers)
        else:
            script = compose(call, behaviour, name=name, n=self._n, headers=headers)
        return call, behaviour.text, script

    def _choose(self, request: Request, model: str) -> Behaviour:
        name, order = split_model(model)
        direct = request.headers.get(b"x-mock")
        if direct is not None:
            order = direct.decode("latin-1")
        return self.book.choose(request.path, name, direct=order)

    def _look_up(self, request: Request) -> tuple[str, Script]:
        model = request.path.removeprefix(_MODELS).removeprefix("/")
        known = self.options.models
        if request.method != b"GET" or not request.path.startswith(_MODELS) or (model and model not in known):
            message = f"{request.method.decode()} {request.path} is unknown to this mock"
            return "not-found", error_script(Fault(status=404), message=message)
        behaviour = self.book.choose(request.path, "", is_counted=False)
        if self.desk.listed and not model:
            body = orjson.dumps({"object": "list", "data": self.desk.listed})
        else:
            body = model_list(known, self.options.name, only=model)
        return behaviour.text, compose_unary(body, behaviour)


def _read(request: Request) -> Call:
    if request.path in MEDIA:
        return read_media(request.path, request.body, request.headers.get(b"content-type", b""))
    if request.path in WEB:
        return read_web(request.path, request.body)
    return read_call(request.path, request.body)


def _rate_headers(limit: SlidingLimit, wait_s: float) -> Headers:
    headers = [
        ("x-ratelimit-limit-requests", str(limit.limit)),
        ("x-ratelimit-remaining-requests", str(limit.remaining)),
        ("x-ratelimit-reset-requests", f"{math.ceil(wait_s)}s"),
    ]
    return [*headers, ("retry-after", str(math.ceil(wait_s)))] if wait_s > 0 else headers


async def serve(options: MockOptions, *, host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT; the address is announced on standard output."""
    upstream = MockUpstream(options)
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    factory = partial(Connection, upstream.answer, upstream.ledger)
    server = await loop.create_server(factory, host, port, backlog=4096)
    bound_host, bound_port = server.sockets[0].getsockname()[:2]
    gc.freeze()
    print(f"listening {bound_host}:{bound_port}", flush=True)
    await stopped.wait()
    server.close()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mock_upstream", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one (default)")
    parser.add_argument("--name", default="mock", help="identity shown in every answer")
    parser.add_argument("--models", default=",".join(MockOptions().models), help="what GET /v1/models lists")
    parser.add_argument("--rpm", type=int, help="own limit: requests in any 60 s, 429 beyond")
    parser.add_argument("--fail-rate", type=float, default=0.0, help="share of requests answered with 500")
    parser.add_argument("--latency", type=parse_duration, default=0.0, help="before each answer, as 50ms")
    parser.add_argument("--tokens", type=int, default=Pace().tokens, help="content chunks of an answer")
    parser.add_argument("--token-delay", type=parse_duration, default=0.0, help="before each chunk, as 5ms")
    parser.add_argument("--seed", type=int, default=0, help="of the failures")
    parser.add_argument(
        "--no-ledger", action="store_true", help="keep no entries and windows, for benchmarks"
    )
    parser.add_argument("--uvloop", action="store_true", help="run on uvloop")
    return parser


def main() -> None:
    """Entry point of ``python -m benchmarks.mock_upstream``."""
    arguments = _parser().parse_args()
    options = MockOptions(
        name=arguments.name,
        models=tuple(arguments.models.split(",")),
        pace=Pace(arguments.latency, arguments.token_delay, max(1, arguments.tokens)),
        fail_rate=arguments.fail_rate,
        rpm=arguments.rpm,
        seed=arguments.seed,
        keeps_ledger=not arguments.no_ledger,
    )
    loop_factory = None
    if arguments.uvloop:
        import uvloop

        loop_factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(serve(options, host=arguments.host, port=arguments.port))


if __name__ == "__main__":
    main()
