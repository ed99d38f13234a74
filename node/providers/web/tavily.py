"""Tavily: ``/search`` in nearly our words, ``/extract`` for pages."""

from __future__ import annotations

import re
from typing import Final

from node.call import Fields
from node.providers.web.contract import Unread, WebApi, WebVendor
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
)

_MOST_RESULTS: Final = 20
_LONGEST_S: Final = 60
_ROW: Final = RowNames(published=("published_date", "published_at"))
_GONE: Final = re.compile(r"\b(?:404|410)\b|not found", re.I)


def _search(fields: Fields, upstream: str) -> Fields:
    depth = (
        {"search_depth": "basic"}
        if upstream.endswith("-basic")
        else said(fields, search_depth="search_depth")
    )
    return {
        **natives(fields),
        "query": fields["query"],
        "max_results": results_asked(fields, _MOST_RESULTS),
        **depth,
        **said(
            fields,
            topic="topic",
            time_range="time_range",
            include_domains="include_domains",
            exclude_domains="exclude_domains",
        ),
    }


def _found(answer: Fields, fields: Fields) -> Fields:
    rest = beyond(answer, {"results", "query", "usage", "request_id"})
    return {"results": rows_found(answer["results"], _ROW, fields), **rest}


def _extract(fields: Fields, upstream: str) -> Fields:
    body = {**natives(fields), "urls": [fields["url"]], "format": formats_asked(fields)[0]}
    if fields.get("timeout"):
        body["timeout"] = max(1, min(fields["timeout"], _LONGEST_S))
    return body


def _read(answer: Fields, fields: Fields) -> Fields:
    row = answer["results"][0]
    texts = {name: row.get("raw_content") for name in formats_asked(fields)}
    page = page_read(texts, fields, title=text_in(row, "title"))
    return {**page, **beyond(row, {"url", "title", "raw_content"})}


def _unread(answer: Fields) -> Unread | None:
    rows, failed = answer["results"], answer.get("failed_results")
    if isinstance(rows, list) and rows and isinstance(rows[0], dict):
        return None
    reason = text_in(failed[0], "error") if isinstance(failed, list) and failed else ""
    return Unread(reason or "nothing was extracted", is_gone=_GONE.search(reason) is not None)


def _usage(answer: Fields) -> Fields:
    credits = count_in(answer, "usage", "credits")
    return {} if credits is None else {"credits": credits}


TAVILY: Final = WebVendor(
    search=WebApi("/search", frozenset({"results"}), _search, _found, usage=_usage),
    scrape=WebApi(
        "/extract",
        frozenset({"results"}),
        _extract,
        _read,
        lacks=frozenset({"html", "several_formats"}),
        usage=_usage,
        unread=_unread,
    ),
)
