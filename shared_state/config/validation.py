"""From a document to `MeshConfig`, with every fault in our own words.

What is refused is cut out and the rest is validated again, so that checks across sections can still look at it.
"""

from __future__ import annotations

import types
from dataclasses import dataclass, field
from typing import Any, Final, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr, ValidationError
from pydantic_core import ErrorDetails

from shared_state.config.faults import Fault, Path, is_within
from shared_state.config.hints import explain_key, explain_value
from shared_state.config.references import Resolved
from shared_state.config.root import MeshConfig

_MAX_PASSES: Final = 10
_PRIVATE: Final = frozenset({("redis", "url")})
_MAPPING_TYPES: Final = frozenset({"model_type", "dict_type", "model_attributes_type"})
_MAX_SHOWN: Final = 60


@dataclass(slots=True)
class Validated:
    """The configuration as far as it could be read.

    Attributes:
        config: None if not even the sound parts form a configuration.
        refused: paths that were cut out, or hold nothing usable.
    """

    config: MeshConfig | None = None
    faults: list[Fault] = field(default_factory=list)
    refused: set[Path] = field(default_factory=set)


def validate(resolved: Resolved) -> Validated:
    """Validate what is left of a document after its references were resolved."""
    result = Validated(refused=set(resolved.unusable))
    document = resolved.document
    for _ in range(_MAX_PASSES):
        errors = _errors_of(document, result)
        if not errors:
            break
        for error in errors:
            path = _path_of(error)
            # What was cut out before is told already, and so is what its absence brings about.
            if not any(is_within(path, gone) for gone in result.refused):
                result.faults.extend(_explain(error, path, resolved))
        for error in errors:
            cut = _path_of(error)[:-1] if error["type"] == "missing" else _path_of(error)
            document, removed = _without(document, cut)
            result.refused.add(removed)
    return result


def _errors_of(document: dict[str, Any], result: Validated) -> list[ErrorDetails]:
    """Pydantic's complaints; on success the configuration is kept.

    The error itself is not raised further, not even as a context: it holds the refused values, and those may be secret.
    """
    try:
        result.config = MeshConfig.model_validate(document)
    except ValidationError as error:
        return error.errors(include_url=False, include_context=False)
    return []


def _path_of(error: ErrorDetails) -> Path:
    return tuple(error["loc"])


def _explain(error: ErrorDetails, path: Path, resolved: Resolved) -> list[Fault]:
    reference = resolved.reference_at(path)
    if error["type"] == "extra_forbidden":
        known = _keys_of(_annotation_at(path[:-1]))
        return [Fault(*hint) for hint in explain_key(path, error["input"], known=known)]
    if error["type"] == "missing":
        return [Fault(path, "is required")]
    if reference is not None and error["type"] == "value_error":
        return [Fault(path, f"the value of {reference} is not accepted here")]
    hint = explain_value(path, error["input"]) if reference is None else None
    return [Fault(path, hint or _reword(error, is_private=reference is not None or _is_private(path)))]


def _reword(error: ErrorDetails, *, is_private: bool) -> str:
    if error["type"] == "value_error":
        return error["msg"].removeprefix("Value error, ")
    message = "must be a mapping" if error["type"] in _MAPPING_TYPES else error["msg"]
    message = message.replace("Input should be", "must be", 1).replace("String should", "must", 1)
    if is_private or not isinstance(error["input"], (str, int, float, bool)):
        return message
    seen = repr(error["input"])
    return f"{message}, not {seen if len(seen) <= _MAX_SHOWN else seen[:_MAX_SHOWN] + '...'}"


def _is_private(path: Path) -> bool:
    """Whether what stands there may be a key written without a reference."""
    return path[:2] in _PRIVATE or "headers" in path or _holds_secret(_annotation_at(path))


def _holds_secret(annotation: Any) -> bool:
    return annotation is SecretStr or any(_holds_secret(part) for part in get_args(annotation))


def _annotation_at(path: Path) -> Any:
    """The type that the models expect at ``path``; None where they expect nothing."""
    annotation: Any = MeshConfig
    for part in path:
        annotation = _inner(_unwrap(annotation), part)
    return _unwrap(annotation)


def _inner(annotation: Any, part: str | int) -> Any:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        found = annotation.model_fields.get(str(part))
        return found.annotation if found else None
    arguments = get_args(annotation)
    return arguments[-1] if arguments and get_origin(annotation) in (dict, list) else None


def _unwrap(annotation: Any) -> Any:
    """``X`` for ``X | None``."""
    if get_origin(annotation) in (Union, types.UnionType):
        return next((part for part in get_args(annotation) if part is not types.NoneType), None)
    return annotation


def _keys_of(annotation: Any) -> list[str]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return list(annotation.model_fields)
    return []


def _without(document: dict[str, Any], path: Path) -> tuple[dict[str, Any], Path]:
    """A copy of ``document`` without the value at ``path``, and the path that really went.

    A list goes as a whole: without one of its items it would mean something else.
    """
    copy = dict(document)
    here: dict[Any, Any] = copy
    for depth, part in enumerate(path):
        inner = here.get(part) if depth < len(path) - 1 else None
        if not isinstance(inner, dict):
            here.pop(part, None)
            return copy, path[: depth + 1]
        here[part] = dict(inner)
        here = here[part]
    return copy, path
