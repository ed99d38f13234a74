"""A provider's list of models: read once, without retries, and brought into one shape.

Vendors agree on ``id`` and hardly on anything else. What they say is taken where its meaning is documented; prices only from
vendors whose unit is known.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from node.providers.connector import Connector
from shared_state.errors import (
    ProviderError,
    ProviderProtocolError,
    ProviderTimeoutError,
    RejectedRequestError,
)
from shared_state.shapes.listing import ListedModel

#: OpenRouter's list, the longest known, has about a megabyte.
MAX_LISTING_BYTES: Final = 8 * 2**20
#: The provider answered, but with no list that we understand.
NOT_LISTED: Final = "models_not_listed"
_UNKNOWN_PAGE: Final = "model_not_available"
_MOST_MODELS: Final = 5000
_MAX_NAME: Final = 256

#: Mistral, Groq, OpenRouter and Together, vLLM.
_CONTEXT: Final = ("context_window", "context_length", "max_context_length", "max_model_len")
_OUTPUT: Final = ("max_completion_tokens", "max_output_tokens")
#: Mistral, OpenRouter.
_RETIRES: Final = ("deprecation", "expiration_date")
#: Names of the two prices, and what makes USD per million tokens of them.
_PRICES: Final[Mapping[str, tuple[str, str, float]]] = {
    "openrouter": ("prompt", "completion", 1e6),
    "together": ("input", "output", 1.0),
}


async def list_models(connector: Connector, *, timeout_s: float) -> list[ListedModel]:
    """What the provider lists now.

    Raises:
        ProviderError: it does not answer, not in time, or with something that is no list.
    """
    provider = connector.provider
    try:
        async with asyncio.timeout(timeout_s):
            body = await _fetch(connector)
    except TimeoutError as error:
        raise ProviderTimeoutError(
            f"{provider.id} did not list its models within {timeout_s:g} s", sent=True
        ) from error
    except ProviderError as error:
        if not isinstance(error, RejectedRequestError) and error.code != _UNKNOWN_PAGE:
            raise
        # It has no such page, which is an answer, and nobody's mistake.
        raise ProviderProtocolError(error.message, status=error.status, code=NOT_LISTED) from error
    return read_listing(body, provider=provider.id, dialect=provider.connector.dialect)


async def _fetch(connector: Connector) -> bytes:
    try:
        response = await connector.send(connector.listing_request())
    except ProviderError as error:
        if not error.stale:
            raise
        # A kept connection had died, which says nothing about the provider.
        response = await connector.send(connector.listing_request())
    return await connector.read(response, most_bytes=MAX_LISTING_BYTES)


def read_listing(body: bytes, *, provider: str, dialect: str) -> list[ListedModel]:
    """The models in the body of an answer, each id once.

    Raises:
        ProviderProtocolError: it holds no list.
    """
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        document = None
    rows = document.get("data") if isinstance(document, dict) else document
    if not isinstance(rows, list):
        raise ProviderProtocolError(
            f"{provider} answered with no list of models", status=200, code=NOT_LISTED
        )
    models: dict[str, ListedModel] = {}
    for row in rows[:_MOST_MODELS]:
        model = normalise(row, dialect=dialect)
        if model is not None:
            models.setdefault(model.id, model)
    return list(models.values())


def normalise(row: Any, *, dialect: str) -> ListedModel | None:
    """One entry of a list; None for one without a usable id."""
    if not isinstance(row, dict) or not _is_name(row.get("id")):
        return None
    price_input, price_output = _prices(row, dialect)
    retires = next(filter(None, (_moment(row.get(key)) for key in _RETIRES)), None)
    return ListedModel(
        id=row["id"],
        created=_number(row.get("created")),
        owned_by=row["owned_by"] if _is_name(row.get("owned_by")) else None,
        context_window=_count(row, _CONTEXT),
        max_output_tokens=_count(row, _OUTPUT) or _count(row.get("top_provider"), _OUTPUT),
        price_input=price_input,
        price_output=price_output,
        is_active=row.get("active") is not False,
        is_deprecated=row.get("deprecated") is True or retires is not None,
        retires=retires,
    )


def _prices(row: Mapping[str, Any], dialect: str) -> tuple[float | None, float | None]:
    names, pricing = _PRICES.get(dialect), row.get("pricing")
    if names is None or not isinstance(pricing, dict):
        return None, None
    first, second, factor = names
    return _price(pricing.get(first), factor), _price(pricing.get(second), factor)


def _price(value: Any, factor: float) -> float | None:
    """OpenRouter writes numbers as text, and -1 where the price depends."""
    number = _number(value)
    return round(number * factor, 6) if number is not None and number >= 0 else None


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _count(row: Any, names: tuple[str, ...]) -> int | None:
    for name in names if isinstance(row, dict) else ():
        number = _number(row.get(name))
        if number is not None and 0 < number < 2**53:
            return int(number)
    return None


def _moment(value: Any) -> float | None:
    """Unix seconds of a date or time as ISO 8601 has it."""
    if not isinstance(value, str):
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _MAX_NAME and value.isprintable()
