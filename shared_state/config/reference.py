"""The configuration's reference as Markdown, written from the models: ``python -m shared_state.config.reference``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from shared_state.config.root import MeshConfig
from shared_state.config.values import Section

_HEAD = """# Configuration

Written by `python -m shared_state.config.reference > docs/configuration.md`; change the models, not this file.
`ID` stands for a name of your choice. Durations are in seconds or `500ms 30s 5m 24h 7d`, sizes in bytes or `32MB`.
"""


def render() -> str:
    """The whole reference."""
    return _HEAD + "".join(_section(MeshConfig, ""))


def _section(section: type[Section], path: str) -> Iterator[str]:
    rows, rooms = [], []
    for name, field in section.model_fields.items():
        inner = _inner(field.annotation)
        if inner is None:
            rows.append(f"| `{name}` | {_default(field)} | {_cell(field.description or '')} |\n")
        else:
            key = f"{name}.ID" if _is_mapping(field.annotation) else name
            rooms.append((inner, f"{path}.{key}" if path else key))
    if path:
        yield f"\n## {path}\n\n{_summary(section)}\n"
    if rows:
        yield "\n| key | default | meaning |\n|---|---|---|\n" + "".join(rows)
    for inner, deeper in rooms:
        yield from _section(inner, deeper)


def _inner(annotation: Any) -> type[Section] | None:
    """The section that a field holds, by itself or by name; None for a plain value."""
    candidates = (annotation, *get_args(annotation))
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, Section)), None)


def _is_mapping(annotation: Any) -> bool:
    return get_origin(annotation) is dict


def _summary(section: type[Section]) -> str:
    return " ".join((section.__doc__ or "").split()).replace("``", "`")


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True, validated_data={})
    return "" if value is None or value is PydanticUndefined else f"`{value!r}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(render())
