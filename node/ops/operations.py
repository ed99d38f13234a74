"""What a route of the operators' API is: a handler, and what is told about it in the API's own description."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from shared_state.errors import RequestError

Handler = Callable[[Request], Awaitable[Response]]
Given = TypeVar("Given", bound=BaseModel)

_MOST_BODY_BYTES = 10_000


@dataclass(frozen=True, slots=True)
class Operation:
    """One route under ``/ops/``.

    Attributes:
        path: below ``/ops/``, in Starlette's spelling.
        answer: shape of the answer; with another ``media`` than JSON, of one event in it.
        query: a field for each parameter.
        asks_provider: it is answered by a provider, who may fail.
        changes_all: every node of the cluster has a say.
    """

    path: str
    handler: Handler
    summary: str
    answer: type[BaseModel] | None
    method: str = "GET"
    body: type[BaseModel] | None = None
    query: type[BaseModel] | None = None
    media: str = "application/json"
    asks_provider: bool = False
    changes_all: bool = False


class ViewResponse(Response):
    """An answer in one of the shapes."""

    media_type = "application/json"

    def __init__(self, view: BaseModel) -> None:
        super().__init__(view.model_dump_json().encode())


def read_query(request: Request, shape: type[Given]) -> Given:
    """The parameters of a request.

    Raises:
        RequestError: one of them is unknown or means nothing.
    """
    try:
        return shape.model_validate(dict(request.query_params))
    except ValidationError as error:
        raise RequestError(f"the query was not understood: {_faults(error, 'query')}") from None


async def read_small_body(request: Request, shape: type[Given]) -> Given:
    """The body of an order; an empty one leaves everything out.

    Raises:
        RequestError: it is too large or means nothing.
    """
    return await read_body(request, shape, most_bytes=_MOST_BODY_BYTES)


async def read_body(request: Request, shape: type[Given], *, most_bytes: int) -> Given:
    """A body of at most so many bytes.

    Raises:
        RequestError: it is too large or means nothing.
    """
    raw = b""
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > most_bytes:
            raise RequestError(f"the body has more than {most_bytes} bytes")
    try:
        return shape.model_validate_json(raw or b"{}")
    except ValidationError as error:
        raise RequestError(f"the order was not understood: {_faults(error, 'body')}") from None


def _faults(error: ValidationError, whole: str) -> str:
    return "; ".join(f"{'.'.join(map(str, e['loc'])) or whole}: {e['msg']}" for e in error.errors())
