"""Which parts of a document belong to the cluster and which to a process, and which values must not leave the file.

What is shared is what a version holds. Where a process finds its store and listens, and the engines under it, are its own: they are
settled when it starts, and come from its own file whatever version it runs.
"""

from __future__ import annotations

import re
import types
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, Union, get_args, get_origin

from pydantic import BaseModel, SecretStr

from shared_state.config.faults import Fault, Path
from shared_state.config.root import MeshConfig

#: Sections of a process; of a section with keys only those are.
_OWN: Final[Mapping[str, tuple[str, ...]]] = {"redis": (), "server": (), "proxy": ("host", "port")}
_ANY: Final = "*"
_REFERENCE: Final = re.compile(r"(?<!\$)\$\{(?:secrets|env):[^{}]*\}")
_DEFAULT: Final = re.compile(r"(?<!\$)\$\{env:[^{}]*:-[^{}]+\}")
_PASSWORD: Final = re.compile(r"://[^/@]*:[^/@]+@")
_MASK: Final = "**********"
_ADVICE: Final = (
    "holds a value that is a secret: a version is kept in Redis, so write ${secrets:NAME} or ${env:NAME}"
)


def shared_part(document: Mapping[str, Any]) -> dict[str, Any]:
    """A document without what is a process's own."""
    shared: dict[str, Any] = {}
    for section, value in document.items():
        keys = _OWN.get(section)
        if keys is None:
            shared[section] = value
        elif keys and isinstance(value, Mapping):
            rest = {key: inner for key, inner in value.items() if key not in keys}
            shared |= {section: rest} if rest else {}
    return shared


def own_part(document: Mapping[str, Any]) -> dict[str, Any]:
    """What of a document is a process's own."""
    own: dict[str, Any] = {}
    for section, keys in _OWN.items():
        value = document.get(section)
        if value is None:
            continue
        if keys:
            value = {key: value[key] for key in keys if isinstance(value, Mapping) and key in value}
        own |= {section: value} if value else {}
    return own


def own_keys(document: Mapping[str, Any]) -> list[str]:
    """The names of what is a process's own in a document."""
    own = own_part(document)
    return [f"proxy.{key}" for key in own.pop("proxy", {})] + list(own)


def with_own_part(shared: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """What a process runs: a version, and what is its own in the document that it was started with."""
    whole = shared_part(shared)
    for section, value in own_part(own).items():
        inner = whole.get(section)
        whole[section] = {**inner, **value} if isinstance(inner, Mapping) else value
    return whole


def find_literal_secrets(document: Mapping[str, Any]) -> list[Fault]:
    """Secrets that are written out where a reference should stand; the faults do not repeat them."""
    return [Fault(path, _ADVICE) for path, _ in _literals(document)]


def without_literal_secrets(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document with every secret that is written out masked."""
    masked: dict[str, Any] = _copy(document)
    for path, _ in _literals(document):
        here: Any = masked
        for part in path[:-1]:
            here = here[part]
        here[path[-1]] = _MASK
    return masked


def _literals(document: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
    for pattern in _SECRET_PLACES:
        for path, value in _at(document, pattern, ()):
            if isinstance(value, (str, int, float)) and _is_literal(str(value)):
                yield path, str(value)
    for path, value in _at(document, ("providers", _ANY, "base_url"), ()):
        if isinstance(value, str) and _PASSWORD.search(_REFERENCE.sub("", value)):
            yield path, value


def _is_literal(text: str) -> bool:
    """Whether a secret is written out: no reference stands there, or one whose default is the secret."""
    return bool(text) and (not _REFERENCE.search(text) or bool(_DEFAULT.search(text)))


def _at(value: Any, pattern: Path, path: Path) -> Iterator[tuple[Path, Any]]:
    if not pattern:
        yield path, value
        return
    head, rest = pattern[0], pattern[1:]
    if isinstance(value, Mapping):
        for key in value if head == _ANY else [head] if head in value else []:
            yield from _at(value[key], rest, (*path, key))
    elif isinstance(value, list) and head == _ANY:
        for index, item in enumerate(value):
            yield from _at(item, rest, (*path, index))


def _secret_places(annotation: Any, path: Path = ()) -> Iterator[Path]:
    """Where the models of the configuration hold secrets."""
    if annotation is SecretStr:
        yield path
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        for name, field in annotation.model_fields.items():
            yield from _secret_places(field.annotation, (*path, name))
    else:
        origin, inner = get_origin(annotation), get_args(annotation)
        if origin in (dict, list, tuple):
            yield from _secret_places(inner[-1], (*path, _ANY))
        elif origin in (Union, types.UnionType, Annotated):
            for one in inner if origin is not Annotated else inner[:1]:
                yield from _secret_places(one, path)


def _copy(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _copy(inner) for key, inner in value.items()}
    return [_copy(item) for item in value] if isinstance(value, list) else value


_SECRET_PLACES: Final = tuple(dict.fromkeys(_secret_places(MeshConfig)))
