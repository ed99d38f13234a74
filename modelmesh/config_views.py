"""Versions of the configuration as people see them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import yaml
from rich.table import Table
from rich.text import Text

from modelmesh.drawing import GOOD, table, text
from shared_state.shapes.configuration import ConfigView, HistoryView, StoredVersionView, VersionView


def document_text(view: ConfigView) -> str:
    """What is in force, as a file that can be edited and pushed; who runs it stands in comments."""
    if view.told is None:
        head = ["# no version was pushed: this is the file of the node that answered, secrets masked"]
    else:
        head = [_head(view.told)]
    behind = [node for node in view.nodes if node.number != view.number]
    head += [f"# {node.id} runs {node.number or 'its own file'} {node.fault}".rstrip() for node in behind]
    return "\n".join([*head, _yaml(view.document)])


def version_text(version: StoredVersionView) -> str:
    """The same of any version."""
    return "\n".join([_head(version), _yaml(version.document)])


def _head(told: VersionView) -> str:
    comment = f": {told.comment}" if told.comment else ""
    return (
        f"# version {told.number} ({told.version}) of {_moment(told.time)} by {told.author}{comment}".replace(
            "\n", " "
        )
    )


def _yaml(document: dict[str, Any]) -> str:
    written: str = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    return written.rstrip("\n")


def history_view(history: HistoryView) -> Table:
    """The versions, newest first."""
    view = table("Versions", "#number", "", "when", "author", "comment", "config")
    for version in history.versions:
        view.add_row(
            str(version.number),
            Text("in force", style=GOOD) if version.is_current else Text(""),
            _moment(version.time),
            text(version.author),
            text(version.comment),
            text(version.version),
        )
    return view


def _moment(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
