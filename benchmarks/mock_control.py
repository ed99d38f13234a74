"""The control routes of the mock provider under ``/_mock/``: immune to faults, never counted."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs

import orjson

from benchmarks.mock_answers import Script, error_script, unary_script
from benchmarks.mock_behaviour import BehaviourError, Fault, Order, OrderBook, parse_behaviour
from benchmarks.mock_connection import Request
from benchmarks.mock_ledger import Ledger, SlidingLimit

PREFIX = "/_mock/"
_DONE = b'{"ok":true}'


class ControlDesk:
    """Answers ``behaviour`` (POST, DELETE), ``models`` (POST), ``ledger``, ``counts``, ``last`` (GET) and ``reset`` (POST).

    ``models`` takes the entries that ``GET /v1/models`` is to list, in place of the usual ones; an empty list takes that back.
    ``last`` shows the newest counted request as it came in, its bearer token left out.
    """

    def __init__(self, book: OrderBook, ledger: Ledger, *, limit: SlidingLimit | None) -> None:
        self.last: Request | None = None
        self.listed: list[dict[str, Any]] = []
        self._book = book
        self._ledger = ledger
        self._limit = limit

    def answer(self, request: Request) -> Script:
        """The script for a control request; 400 for a bad order, 404 for an unknown route."""
        match request.method, request.path.removeprefix(PREFIX):
            case b"POST", "behaviour":
                return self._give(request.body)
            case b"POST", "models":
                self.listed = orjson.loads(request.body)
            case b"DELETE", "behaviour":
                self._book.clear()
            case b"GET", "ledger":
                since = int(parse_qs(request.query).get("since", ["0"])[0])
                return unary_script(
                    orjson.dumps([entry for entry in self._ledger.entries if entry.n > since])
                )
            case b"GET", "counts":
                return unary_script(orjson.dumps(self._ledger.counts()))
            case b"GET", "last":
                return unary_script(orjson.dumps(_shown(self.last)))
            case b"POST", "reset":
                self._reset()
            case _:
                return error_script(Fault(status=404), message=f"no control route {request.path}")
        return unary_script(_DONE)

    def _give(self, body: bytes) -> Script:
        try:
            order = read_order(orjson.loads(body), self._book)
        except (BehaviourError, orjson.JSONDecodeError, TypeError) as error:
            return error_script(Fault(status=400), message=str(error))
        self._book.give(order)
        return unary_script(_DONE)

    def _reset(self) -> None:
        self._book.clear()
        self._ledger.reset()
        self.last = None
        self.listed = []
        if self._limit:
            self._limit.clear()


def read_order(document: dict[str, Any], book: OrderBook) -> Order:
    """The standing order of a ``POST /_mock/behaviour`` body.

    Raises:
        BehaviourError: the behaviour is missing or cannot be understood.
        TypeError: a key is unknown.
    """
    fields = dict(document)
    text = fields.pop("behaviour", None)
    if not isinstance(text, str):
        raise BehaviourError("an order needs a 'behaviour' text")
    return Order(parse_behaviour(text, pace=book.default.pace), **fields)


def _shown(request: Request | None) -> dict[str, Any] | None:
    if request is None:
        return None
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in request.headers.items()}
    if "authorization" in headers:
        headers["authorization"] = headers["authorization"].partition(" ")[0] + " ***"
    return {
        "method": request.method.decode(),
        "path": request.path,
        "headers": headers,
        "body": request.body.decode(errors="replace"),
    }
