"""Our own shape, as another ModelMesh speaks it: nothing to translate but the names of models."""

from __future__ import annotations

import re
from typing import Any, Final

from node.call import Fields
from node.providers.web.contract import Fault, WebApi, WebVendor
from node.providers.web.shape import RowNames, beyond, rows_found

_ENVELOPE: Final = frozenset({"object", "id", "model", "query", "url", "usage"})


def _ask(fields: Fields, upstream: str) -> Fields:
    return {**fields, "model": upstream}


def _found(answer: Fields, fields: Fields) -> Fields:
    return {**beyond(answer, _ENVELOPE), "results": rows_found(answer["results"], RowNames(), fields)}


def _read(answer: Fields, fields: Fields) -> Fields:
    return beyond(answer, _ENVELOPE)


def _usage(answer: Fields) -> Fields:
    usage: Any = answer.get("usage")
    return beyond(usage, {"requests"}) if isinstance(usage, dict) else {}


OWN: Final = WebVendor(
    search=WebApi("/search", frozenset({"results"}), _ask, _found, usage=_usage),
    scrape=WebApi(
        "/scrape",
        frozenset({"content"}),
        _ask,
        _read,
        usage=_usage,
        faults=(
            Fault(re.compile(r"\bpage_not_found\b"), is_gone=True),
            Fault(re.compile(r"\bpage_unreadable\b")),
        ),
    ),
)
