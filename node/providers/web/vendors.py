"""Which vendor speaks how; who is none of them speaks our own shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from node.providers.web.contract import WebApi, WebVendor
from node.providers.web.firecrawl import FIRECRAWL
from node.providers.web.jina import JINA
from node.providers.web.own import OWN
from node.providers.web.serper import SERPER
from node.providers.web.tavily import TAVILY

VENDORS: Final[Mapping[str, WebVendor]] = {
    "own": OWN,
    "tavily": TAVILY,
    "serper": SERPER,
    "jina": JINA,
    "firecrawl": FIRECRAWL,
}


def web_apis(vendor: str) -> Mapping[str, WebApi]:
    """Our path -> how a vendor does it.

    Args:
        vendor: ``ConnectorProfile.web``.
    """
    known = VENDORS[vendor or "own"]
    return {"/search": known.search, "/scrape": known.scrape}


def web_lacks(vendor: str) -> frozenset[str]:
    """Filters that a vendor does not know."""
    known = VENDORS[vendor or "own"]
    return known.search.lacks | known.scrape.lacks


def counts_tokens(vendor: str) -> bool:
    """Whether a vendor bills tokens of what it gives."""
    return VENDORS[vendor or "own"].counts_tokens
