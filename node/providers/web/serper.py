"""Serper: Google's results; pages by a host of its own."""

from __future__ import annotations

from typing import Any, Final

from node.call import Fields
from node.providers.web.contract import Unread, WebApi, WebVendor
from node.providers.web.shape import (
    RowNames,
    beyond,
    count_in,
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
_ROW: Final = RowNames(url="link", content=("snippet",), published=("date",))
_SPANS: Final = {"day": "qdr:d", "week": "qdr:w", "month": "qdr:m", "year": "qdr:y"}


def _search(fields: Fields, upstream: str) -> Fields:
    body = {
        **natives(fields),
        "q": with_sites(fields),
        "num": results_asked(fields, _MOST_RESULTS),
        **said(fields, country="gl", language="hl"),
    }
    if fields.get("time_range"):
        body["tbs"] = _SPANS[fields["time_range"]]
    return body


def _found(answer: Fields, fields: Fields) -> Fields:
    rows = answer.get("organic") or answer.get("news")
    found: Fields = {"results": rows_found(rows, _ROW, fields)}
    box = answer.get("answerBox")
    told = text_in(box, "answer") or text_in(box, "snippet")
    if told:
        found["answer"] = told
    return {**found, **beyond(answer, {"organic", "news", "searchParameters", "credits"})}


def _scrape(fields: Fields, upstream: str) -> Fields:
    return {**natives(fields), "url": fields["url"], "includeMarkdown": True}


def _read(answer: Fields, fields: Fields) -> Fields:
    text = answer.get("text")
    metadata: Any = answer.get("metadata")
    texts = {"text": text, "markdown": answer.get("markdown") or text}
    title = text_in(metadata, "title") or text_in(answer, "title")
    page = page_read(texts, fields, title=title, metadata=metadata if isinstance(metadata, dict) else None)
    return {**page, **beyond(answer, {"text", "markdown", "metadata", "title", "credits"})}


def _unread(answer: Fields) -> Unread | None:
    is_read = any(value_in(answer, name) for name in ("text", "markdown"))
    return None if is_read else Unread("the page holds no text")


def _usage(answer: Fields) -> Fields:
    credits = count_in(answer, "credits")
    return {} if credits is None else {"credits": credits}


SERPER: Final = WebVendor(
    search=WebApi(
        "/search",
        frozenset({"organic", "news", "searchParameters"}),
        _search,
        _found,
        news_path="/news",
        usage=_usage,
    ),
    scrape=WebApi(
        "/scrape",
        frozenset({"text", "markdown"}),
        _scrape,
        _read,
        url="https://scrape.serper.dev/",
        lacks=frozenset({"html"}),
        usage=_usage,
        unread=_unread,
    ),
)
