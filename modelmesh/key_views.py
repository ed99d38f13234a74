"""Client keys in a terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from modelmesh.drawing import span, state, table, text, until
from modelmesh.views import windows_text
from shared_state.shapes.keys import KeyView, NewKeyView


def keys_view(keys: Iterable[KeyView], *, now: float) -> Table:
    view = table("Client keys", "id", "name", "status", "models", "windows", "made", "expires", "note")
    for key in keys:
        view.add_row(
            text(key.id),
            text(key.name),
            state(key.status),
            text(" ".join(key.models) or "all"),
            windows_text(key.windows),
            f"{span(now - key.created)} ago",
            until(key.expires, now=now),
            text(key.note),
        )
    return view


def new_key_view(key: NewKeyView) -> RenderableType:
    """The text on a line of its own, to be copied; and who it belongs to."""
    limits = " ".join(f"{name}={value}" for name, value in key.limits.items())
    facts = f"Key {key.id} ({key.name}): models {' '.join(key.models) or 'all'}, limits {limits or 'none'}."
    return Group(Text(key.key, style="bold"), text(facts), Text("Keep it: it is not shown again."))
