"""The caller's caps on who may serve, as request headers say them; what cannot be understood is refused, not ignored."""

from __future__ import annotations

import re
from typing import Final

from starlette.types import Scope

from node.api.body import headers_of
from node.call import Caps
from shared_state.errors import RequestError

_MAX_PRICE: Final = b"x-modelmesh-max-price"
_PROVIDERS: Final = b"x-modelmesh-allow-providers"
_REGIONS: Final = b"x-modelmesh-regions"
CAPS_HEADERS: Final = frozenset({_MAX_PRICE, _PROVIDERS, _REGIONS})
_USD: Final = re.compile(r"(?:\d{1,9}(?:\.\d{0,12})?|\.\d{1,12})")
_LONGEST_LIST: Final = 4096


def read_caps(scope: Scope) -> Caps | None:
    """The caps of a request; None if it has none.

    Raises:
        RequestError: one of the headers is empty or is not what it must be.
    """
    if CAPS_HEADERS.isdisjoint(headers_of(scope)):
        return None
    found: dict[bytes, str] = {}
    for key, value in scope["headers"]:
        if key in CAPS_HEADERS:
            text = value.decode("latin-1").strip()
            # A list may come in several headers; so much money and so much money is no amount.
            found[key] = f"{found[key]},{text}" if key in found else text
    return Caps(
        max_price_nano=_nano(found[_MAX_PRICE]) if _MAX_PRICE in found else None,
        providers=_list(_PROVIDERS, found[_PROVIDERS]) if _PROVIDERS in found else frozenset(),
        regions=_list(_REGIONS, found[_REGIONS].lower()) if _REGIONS in found else frozenset(),
    )


def _nano(text: str) -> int:
    if not _USD.fullmatch(text):
        name = _MAX_PRICE.decode()
        raise RequestError(f"{name} must be an amount of USD such as 0.05", param=name)
    return round(float(text) * 1e9)


def _list(header: bytes, text: str) -> frozenset[str]:
    names = [name.strip() for name in text.split(",")]
    if not all(names) or len(text) > _LONGEST_LIST:
        name = header.decode()
        raise RequestError(
            f"{name} must be a list of names, separated by commas, none of them empty", param=name
        )
    return frozenset(names)
