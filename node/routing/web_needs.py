"""What a search, or the reading of a page, asks of a service of the web that not all of them can do. Pure.

Filters keep a service away that would answer as if they had not been said. Hints (depth, country, language, a bound on time) do not:
who knows nothing of them leaves them out.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntFlag
from typing import Any, Final

from node.routing.needs import NAMES


class WebWant(IntFlag):
    """Beside `node.routing.needs.Feature`, in the same sum."""

    TIME_RANGE = 1 << 16
    NEWS = 1 << 17
    HTML = 1 << 18
    TEXT = 1 << 19
    SEVERAL_FORMATS = 1 << 20


WEB_NAMES: Final[Mapping[int, str]] = {want.value: str(want.name).lower() for want in WebWant}
ALL_NAMES: Final[Mapping[int, str]] = {**NAMES, **WEB_NAMES}
"""Value of anything that a request may want -> its name."""

#: The field that asks for it.
WEB_PARAMS: Final[Mapping[str, str]] = {
    "time_range": "time_range",
    "news": "topic",
    "html": "formats",
    "text": "formats",
    "several_formats": "formats",
}
_BITS: Final = {name: value for value, name in WEB_NAMES.items()}
_OF_FORMATS: Final = {"html": WebWant.HTML.value, "text": WebWant.TEXT.value}


def bits_of(names: frozenset[str]) -> int:
    """The sum of wants of these names."""
    return sum(_BITS[name] for name in names)


def search_wants(fields: Mapping[str, Any]) -> int:
    """What a search asks for."""
    wants = WebWant.TIME_RANGE.value if fields.get("time_range") else 0
    return wants | (WebWant.NEWS.value if fields.get("topic") == "news" else 0)


def scrape_wants(fields: Mapping[str, Any]) -> int:
    """What the reading of a page asks for."""
    formats = set(fields.get("formats") or ())
    wants = WebWant.SEVERAL_FORMATS.value if len(formats) > 1 else 0
    for name in formats & _OF_FORMATS.keys():
        wants |= _OF_FORMATS[name]
    return wants
