"""Our own shape of searches and pages, and the ways in which vendors commonly differ from it. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from node.call import Fields

DEFAULT_RESULTS: Final = 10
DEFAULT_FORMAT: Final = "markdown"

_SEARCH_FIELDS: Final = frozenset(
    {
        "model",
        "query",
        "max_results",
        "search_depth",
        "topic",
        "include_domains",
        "exclude_domains",
        "country",
        "language",
        "time_range",
    }
)
_SCRAPE_FIELDS: Final = frozenset({"model", "url", "formats", "timeout", "include_links"})
#: A caller does not bring an account of their own.
_NEVER: Final = frozenset({"api_key", "apiKey"})
_GONE: Final = frozenset({404, 410})


class RowNames(NamedTuple):
    """A vendor's names for the parts of a result; of several the first that says anything."""

    title: str = "title"
    url: str = "url"
    content: tuple[str, ...] = ("content",)
    score: str = "score"
    published: tuple[str, ...] = ("published_at",)


def natives(fields: Fields, known: frozenset[str] | None = None) -> Fields:
    """Fields that are not ours, for the vendor.

    Args:
        known: the only ones that the vendor takes, where it refuses others.
    """
    ours = (_SEARCH_FIELDS if "query" in fields else _SCRAPE_FIELDS) | _NEVER
    return {
        name: value for name, value in fields.items() if name not in ours and (known is None or name in known)
    }


def said(fields: Fields, **names: str) -> Fields:
    """Our fields under the vendor's names, as far as they are said: ``ours="theirs"``."""
    return {theirs: fields[ours] for ours, theirs in names.items() if fields.get(ours) is not None}


def results_asked(fields: Fields, most: int) -> int:
    """How many results are wanted, within what the vendor gives."""
    return min(int(fields.get("max_results") or DEFAULT_RESULTS), most)


def formats_asked(fields: Fields) -> list[str]:
    """The formats of a page that are wanted, each once."""
    return list(dict.fromkeys(fields.get("formats") or (DEFAULT_FORMAT,)))


def with_sites(fields: Fields) -> str:
    """The query with its domains as operators, which search engines understand."""
    included = [f"site:{domain}" for domain in fields.get("include_domains") or ()]
    excluded = [f"-site:{domain}" for domain in fields.get("exclude_domains") or ()]
    either = [f"({' OR '.join(included)})"] if len(included) > 1 else included
    return " ".join([str(fields["query"]), *either, *excluded])


def rows_found(rows: Any, names: RowNames, fields: Fields) -> list[Fields]:
    """Results in our words, no more than were asked for."""
    found = [_row(row, names) for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    return [row for row in found if row["url"]][: int(fields.get("max_results") or DEFAULT_RESULTS)]


def _row(row: Fields, names: RowNames) -> Fields:
    content, used = _first(row, names.content)
    published, when = _first(row, names.published)
    told: Fields = {
        "title": _text(row.get(names.title)),
        "url": _text(row.get(names.url)),
        "content": content,
    }
    score = row.get(names.score)
    if isinstance(score, int | float):
        told["score"] = score
    if published:
        told["published_at"] = published
    taken = {names.title, names.url, names.score, used, when}
    return {**told, **beyond(row, taken | told.keys())}


def beyond(answer: Mapping[str, Any], taken: Iterable[str]) -> Fields:
    """What a vendor says besides; it keeps its own names."""
    known = frozenset(taken)
    return {name: value for name, value in answer.items() if name not in known and value is not None}


def page_read(texts: Mapping[str, Any], fields: Fields, **parts: Any) -> Fields:
    """A page in our words.

    Args:
        texts: format -> the page.
        parts: ``title``, ``links``, ``metadata``, as far as the vendor tells them.
    """
    asked = formats_asked(fields)
    read = {name: _text(texts.get(name)) for name in asked}
    page: Fields = {"content": read[asked[0]], **{name: part for name, part in parts.items() if part}}
    if len(asked) > 1:
        page["formats"] = read
    return page


def is_gone(status: Any) -> bool:
    """Whether a page's own status says that there is no such page."""
    return status in _GONE


def is_error(status: Any) -> bool:
    """Whether a page's own status says that it was not given."""
    return isinstance(status, int) and not isinstance(status, bool) and status >= 400


def text_in(answer: Any, *path: str) -> str:
    """The text at the end of a path through objects; empty if there is none."""
    return _text(value_in(answer, *path))


def value_in(answer: Any, *path: str) -> Any:
    """The value at the end of a path through objects; None if there is none."""
    for name in path:
        answer = answer.get(name) if isinstance(answer, dict) else None
    return answer


def count_in(answer: Any, *path: str) -> int | None:
    """The whole number at the end of a path through objects."""
    value = value_in(answer, *path)
    is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return value if is_count else None


def _first(row: Fields, names: tuple[str, ...]) -> tuple[str, str]:
    """The first text among several, and its name."""
    return next(((text, name) for name in names if (text := _text(row.get(name)))), ("", ""))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""
