"""A service of the web as data: what our request becomes, and what its answer becomes. Everything here is pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from node.call import Fields


class Unread(NamedTuple):
    """Why a page was not read.

    Attributes:
        is_gone: nobody else could read it either.
    """

    reason: str
    is_gone: bool = False


@dataclass(frozen=True, slots=True)
class Fault:
    """Words by which a vendor says that it could not read a page.

    Attributes:
        words: found in status, code and message of its complaint, joined by spaces.
        is_gone: nobody else could read it either.
    """

    words: re.Pattern[str]
    is_gone: bool = False


def _nothing(_: Fields) -> Fields:
    return {}


def _is_read(_: Fields) -> Unread | None:
    return None


@dataclass(frozen=True, slots=True)
class WebApi:
    """How one vendor searches, or reads a page.

    Attributes:
        path: behind the provider's base URL.
        proof: fields of which an answer has at least one.
        ask: from our fields, and the model's name upstream, to the vendor's body.
        answer: from the vendor's answer, and our fields, to the parts of ours that say what was found; what it adds beyond them stays.
        url: the address, where the vendor has a host of its own for this and the configuration names none.
        news_path: takes the place of ``path`` where news are searched.
        lacks: filters that it does not know, by their names in ``node.routing.web_needs``.
        most_field: the vendor's field for the most tokens that an answer may cost.
        usage: what an answer says that it took: ``total_tokens``, ``credits``.
        unread: why an answer with a status of 200 holds no page.
        faults: the same for other statuses; the first that fits holds.
    """

    path: str
    proof: frozenset[str]
    ask: Callable[[Fields, str], Fields]
    answer: Callable[[Fields, Fields], Fields]
    url: str = ""
    news_path: str = ""
    lacks: frozenset[str] = frozenset()
    most_field: str = ""
    usage: Callable[[Fields], Fields] = _nothing
    unread: Callable[[Fields], Unread | None] = _is_read
    faults: tuple[Fault, ...] = ()


class WebVendor(NamedTuple):
    """What one vendor can do.

    Attributes:
        counts_tokens: it bills tokens, and tells them.
    """

    search: WebApi
    scrape: WebApi
    counts_tokens: bool = False
