"""What went wrong on the wire: httpx's exceptions, each with the fact whether the request may have arrived."""

from __future__ import annotations

from typing import TypeVar

import httpx

_Fault = TypeVar("_Fault", bound=httpx.RequestError)


def fault(kind: type[_Fault], message: str, *, request_sent: bool) -> _Fault:
    """Build an exception of httpx that carries ``request_sent``."""
    error = kind(message)
    mark_sent(error, request_sent)
    return error


def mark_sent(error: BaseException, request_sent: bool) -> None:
    """Attach ``request_sent``: whether any byte of the request may have reached the peer."""
    error.request_sent = request_sent  # type: ignore[attr-defined]


def was_request_sent(error: BaseException) -> bool:
    """Read ``request_sent`` back; an error that does not know is taken as sent, and so as maybe billed."""
    return bool(getattr(error, "request_sent", True))
