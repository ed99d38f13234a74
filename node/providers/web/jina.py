"""Jina: a host that searches and a host that reads. It bills tokens of what it gives, and tells them."""

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
    natives,
    page_read,
    results_asked,
    rows_found,
    said,
    text_in,
    value_in,
    with_sites,
)

_MOST_RESULTS: Final = 20
_LONGEST_S: Final = 180
_ROW: Final = RowNames(content=("content", "description"), published=("date", "publishedTime"))
#: "Target URL returned error 404: Not Found" stands beside whatever the site sent along.
_TARGET = re.compile(r"Target URL returned error (\d{3})")


def _search(fields: Fields, upstream: str) -> Fields:
    """Without a wish for depth only what the search itself says: to read every page costs ten times as much."""
    body = {
        **natives(fields),
        "q": with_sites(fields),
        "num": results_asked(fields, _MOST_RESULTS),
        **said(fields, country="gl", language="hl"),
    }
    if fields.get("search_depth") != "advanced":
        body.setdefault("respondWith", "no-content")
    if fields.get("topic") == "news":
        body["type"] = "news"
    return body


def _found(answer: Fields, fields: Fields) -> Fields:
    return {"results": rows_found(answer["data"], _ROW, fields)}


def _scrape(fields: Fields, upstream: str) -> Fields:
    body, wanted = {**natives(fields), "url": fields["url"]}, formats_asked(fields)[0]
    if (
        wanted != "markdown"
    ):  # which it gives unless it is told otherwise, and without what surrounds the content
        body["respondWith"] = wanted
    if fields.get("timeout"):
        body["timeout"] = max(1, min(fields["timeout"], _LONGEST_S))
    if fields.get("include_links"):
        body["withLinksSummary"] = True
    return body


def _read(answer: Fields, fields: Fields) -> Fields:
    page = answer["data"]
    wanted = formats_asked(fields)[0]
    texts = {wanted: page.get(wanted) or page.get("content")}
    links: Any = page.get("links")
    read = page_read(
        texts,
        fields,
        title=text_in(page, "title"),
        links=list(links.values()) if isinstance(links, dict) else links,
        metadata=page.get("metadata"),
    )
    return {**read, **beyond(page, {"url", "title", "content", "links", "metadata", "usage", wanted})}


def _unread(answer: Fields) -> Unread | None:
    page = answer["data"]
    if not isinstance(page, dict):
        return Unread("there is no page in the answer")
    warning = text_in(page, "warning")
    found = _TARGET.search(warning)
    return Unread(warning, is_gone=found[1] in ("404", "410")) if found else None


def _usage(answer: Fields) -> Fields:
    tokens = count_in(answer, "meta", "usage", "tokens")
    if tokens is None:
        data = answer.get("data")
        rows = data if isinstance(data, list) else [data]
        told = [count_in(row, "usage", "tokens") for row in rows if value_in(row, "usage")]
        tokens = sum(count or 0 for count in told) if told else None
    return {} if tokens is None else {"total_tokens": tokens}


JINA: Final = WebVendor(
    search=WebApi(
        "/",
        frozenset({"data"}),
        _search,
        _found,
        url="https://s.jina.ai/",
        lacks=frozenset({"time_range"}),
        usage=_usage,
    ),
    scrape=WebApi(
        "/",
        frozenset({"data"}),
        _scrape,
        _read,
        url="https://r.jina.ai/",
        lacks=frozenset({"several_formats"}),
        most_field="tokenBudget",
        usage=_usage,
        unread=_unread,
        faults=(
            Fault(re.compile(r"^422 .*(?:resolve|ENOTFOUND)", re.I), is_gone=True),
            Fault(re.compile(r"^(?:422|451) |\btoken budget\b", re.I)),
        ),
    ),
    counts_tokens=True,
)
