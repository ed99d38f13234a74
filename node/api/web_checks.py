"""What a search and the reading of a page insist on in a body; fields that are not known here are for the vendors to judge."""

from __future__ import annotations

import math
import re
from typing import Any, Final
from urllib.parse import urlsplit

from node.api.checks import check_counts, check_text
from node.call import Fields
from shared_state.errors import RequestError

#: More than any vendor gives at once.
MOST_RESULTS: Final = 100
_MOST_DOMAINS: Final = 300
_LONGEST_URL: Final = 8192
_DEPTHS: Final = ("basic", "advanced")
_TOPICS: Final = ("general", "news")
_SPANS: Final = ("day", "week", "month", "year")
_FORMATS: Final = ("markdown", "html", "text")
#: With wildcards and paths, which some vendors take; never anything that a search engine would read as an operator.
_DOMAIN: Final = re.compile(r"[\w*.-]+(?:/[\w*.~%/-]*)?")
_COUNTRY: Final = re.compile(r"[A-Za-z]{2}")
_LANGUAGE: Final = re.compile(r"[A-Za-z]{2,3}(?:-[A-Za-z0-9]{2,8})*")


def check_search(fields: Fields) -> None:
    """A query, and how it is narrowed."""
    check_text(fields, "query")
    check_counts(fields, "max_results")
    if (fields.get("max_results") or 1) > MOST_RESULTS:
        raise RequestError(f"'max_results' must be at most {MOST_RESULTS}", param="max_results")
    _check_choice(fields, "search_depth", _DEPTHS)
    _check_choice(fields, "topic", _TOPICS)
    _check_choice(fields, "time_range", _SPANS)
    for name in ("include_domains", "exclude_domains"):
        _check_domains(fields, name)
    _check_code(fields, "country", _COUNTRY, "a country's code of two letters, such as 'us'")
    _check_code(fields, "language", _LANGUAGE, "a language's code, such as 'en'")


def check_scrape(fields: Fields) -> None:
    """A page, and what is wanted of it."""
    check_text(fields, "url")
    if not _is_page(fields["url"]):
        raise RequestError("'url' must be an address that begins with http:// or https://", param="url")
    formats = fields.get("formats")
    is_list = isinstance(formats, list) and bool(formats)
    if formats is not None and not (is_list and all(name in _FORMATS for name in formats)):
        raise RequestError(f"'formats' must be an array of some of {', '.join(_FORMATS)}", param="formats")
    if not _is_time(fields.get("timeout")):
        raise RequestError("'timeout' must be a number of seconds, more than 0", param="timeout")
    if not isinstance(fields.get("include_links"), bool | None):
        raise RequestError("'include_links' must be a boolean", param="include_links")


def _is_page(url: str) -> bool:
    try:
        parts = urlsplit(url)
        is_sound = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    return is_sound and len(url) <= _LONGEST_URL and url.isprintable() and " " not in url


def _is_time(value: Any) -> bool:
    if value is None:
        return True
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and value > 0 and math.isfinite(value)
    )


def _check_choice(fields: Fields, name: str, accepted: tuple[str, ...]) -> None:
    value = fields.get(name)
    if value is not None and value not in accepted:
        raise RequestError(f"'{name}' must be one of {', '.join(accepted)}", param=name)


def _check_domains(fields: Fields, name: str) -> None:
    domains = fields.get(name)
    if domains is None:
        return
    is_list = isinstance(domains, list) and len(domains) <= _MOST_DOMAINS
    if not is_list or not all(isinstance(domain, str) and _DOMAIN.fullmatch(domain) for domain in domains):
        raise RequestError(
            f"'{name}' must be an array of at most {_MOST_DOMAINS} domains, such as 'example.com'", param=name
        )


def _check_code(fields: Fields, name: str, pattern: re.Pattern[str], what: str) -> None:
    value = fields.get(name)
    if value is not None and not (isinstance(value, str) and pattern.fullmatch(value)):
        raise RequestError(f"'{name}' must be {what}", param=name)
