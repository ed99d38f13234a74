"""Firecrawl: ``/scrape`` and ``/search``. It refuses bodies with fields that it does not know."""

from __future__ import annotations

import re
from typing import Any, Final

from node.call import Fields
from node.providers.web.contract import Fault, Unread, WebApi, WebVendor
from node.providers.web.shape import (
    RowNames,
    beyond,
    count_in,
    formats_asked,
    is_error,
    is_gone,
    natives,
    page_read,
    results_asked,
    rows_found,
    said,
    text_in,
    value_in,
    with_sites,
)

_MOST_RESULTS: Final = 100
_ROW: Final = RowNames(content=("markdown", "description", "snippet"), published=("date",))
_SPANS: Final = {"day": "qdr:d", "week": "qdr:w", "month": "qdr:m", "year": "qdr:y"}
_SEARCH_NATIVES: Final = frozenset(
    {"tbs", "filter", "location", "ignoreInvalidURLs", "scrapeOptions", "timeout", "origin", "integration"}
)
_SCRAPE_NATIVES: Final = frozenset(
    {
        "headers",
        "includeTags",
        "excludeTags",
        "onlyMainContent",
        "waitFor",
        "extract",
        "jsonOptions",
        "changeTrackingOptions",
        "mobile",
        "parsePDF",
        "actions",
        "location",
        "skipTlsVerification",
        "removeBase64Images",
        "blockAds",
        "proxy",
        "maxAge",
        "storeInCache",
        "zeroDataRetention",
        "origin",
        "integration",
    }
)


def _search(fields: Fields, upstream: str) -> Fields:
    body = {
        **natives(fields, _SEARCH_NATIVES),
        "query": with_sites(fields),
        "limit": results_asked(fields, _MOST_RESULTS),
        **said(fields, country="country", language="lang"),
    }
    if fields.get("time_range"):
        body["tbs"] = _SPANS[fields["time_range"]]
    if fields.get("search_depth") == "advanced":
        body.setdefault("scrapeOptions", {"formats": ["markdown"]})
    return body


def _found(answer: Fields, fields: Fields) -> Fields:
    data: Any = answer["data"]
    rows = value_in(data, "web") if isinstance(data, dict) else data
    return {"results": rows_found(rows, _ROW, fields), **beyond(answer, {"data", "success", "creditsUsed"})}


def _scrape(fields: Fields, upstream: str) -> Fields:
    formats = [*formats_asked(fields), *(["links"] if fields.get("include_links") else [])]
    body = {**natives(fields, _SCRAPE_NATIVES), "url": fields["url"], "formats": formats}
    if fields.get("timeout"):
        body["timeout"] = max(1, round(fields["timeout"] * 1000))
    return body


def _read(answer: Fields, fields: Fields) -> Fields:
    page = answer["data"]
    metadata = page.get("metadata")
    read = page_read(
        page, fields, title=text_in(metadata, "title"), links=page.get("links"), metadata=metadata
    )
    return {**read, **beyond(page, {"markdown", "html", "links", "metadata"})}


def _unread(answer: Fields) -> Unread | None:
    page = answer["data"]
    if not isinstance(page, dict):
        return Unread("there is no page in the answer")
    status = value_in(page, "metadata", "statusCode")
    if not is_error(status):
        return None
    return Unread(f"the site answered {status}", is_gone=is_gone(status))


def _usage(answer: Fields) -> Fields:
    credits = count_in(answer, "creditsUsed")
    if credits is None:
        credits = count_in(answer, "data", "metadata", "creditsUsed")
    return {} if credits is None else {"credits": credits}


FIRECRAWL: Final = WebVendor(
    search=WebApi("/search", frozenset({"data"}), _search, _found, lacks=frozenset({"news"}), usage=_usage),
    scrape=WebApi(
        "/scrape",
        frozenset({"data"}),
        _scrape,
        _read,
        lacks=frozenset({"text"}),
        usage=_usage,
        unread=_unread,
        faults=(
            Fault(re.compile(r"\bSCRAPE_DNS_RESOLUTION_ERROR\b"), is_gone=True),
            Fault(re.compile(r"\bSCRAPE_\w+|^408 ")),
            Fault(
                re.compile(r"^403 .*(?:not (?:currently )?support|no longer supported|policy restrictions)")
            ),
        ),
    ),
)
