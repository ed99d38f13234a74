"""Secrets as people see them: names, never values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rich.markup import escape
from rich.table import Table
from rich.text import Text

from modelmesh.drawing import BAD, GOOD, table, text
from modelmesh.secret_desk import Entry


def secrets_view(entries: Iterable[Entry], *, where: str) -> Table:
    """What the configuration refers to, and what else the store holds."""
    view = table(f"Secrets in {escape(where)}", "name", "", "used by")
    for entry in entries:
        state = Text("found", style=GOOD) if entry.is_found else Text(entry.fault or "missing", style=BAD)
        view.add_row(text(entry.name), state, text(", ".join(entry.used_by) or "-"))
    return view


def place(store: str, where: Mapping[str, str]) -> str:
    """A store in a few words."""
    keys = ", ".join(f"{key} {value}" for key, value in where.items())
    return f"{store} ({keys})" if keys else store
