"""Configuration files as documents: YAML, JSON or TOML by suffix, every duplicate key found, nothing interpreted yet."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path as FilePath
from typing import Any, Final

import yaml

from shared_state.config.faults import Fault, Path, format_path
from shared_state.errors import ConfigurationError

_MAX_DEPTH: Final = 32
_MAX_NODES: Final = 200_000
#: Words of the file in the parser's messages (names of anchors and tags, text that is no number): any may be a key that was pasted there.
_WORD: Final = re.compile(r"(?<= )(['\"])(?!<)[^'\"]{3,}\1")


def read_document(path: FilePath) -> dict[str, Any]:
    """The mapping that a configuration file holds; an empty file is an empty mapping.

    Raises:
        ConfigurationError: the file cannot be read or parsed, repeats a key, or holds something else than a mapping.
    """
    parse = _PARSERS.get(path.suffix.lower())
    if parse is None:
        accepted = ", ".join(_PARSERS)
        raise ConfigurationError(
            [f"unknown kind of file {path.suffix!r}; accepted: {accepted}"], source=str(path)
        )
    document, faults = parse(_read(path))
    if not faults and document is not None and not isinstance(document, dict):
        faults = [f"the file must hold a mapping of sections, not a {type(document).__name__}"]
    if faults:
        raise ConfigurationError(faults, source=str(path))
    return document or {}


def _read(path: FilePath) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigurationError([f"cannot be read: {error.strerror}"], source=str(path)) from error
    except UnicodeDecodeError as error:
        raise ConfigurationError([f"is not UTF-8 at byte {error.start}"], source=str(path)) from None


def _parse_yaml(text: str) -> tuple[Any, list[str]]:
    loader = yaml.SafeLoader(text)
    try:
        node = loader.get_single_node()
        faults = [str(fault) for fault in _duplicates(node)] if node is not None else []
        return (None if faults or node is None else loader.construct_document(node)), faults
    except yaml.MarkedYAMLError as error:
        return None, [_explain_yaml(error)]
    except (yaml.YAMLError, ValueError, AttributeError) as error:  # an unprintable character; what is no date
        return None, [_without_words(f"is not YAML: {str(error).splitlines()[0]}")]
    except RecursionError:
        return None, [f"is nested deeper than {_MAX_DEPTH} levels"]
    finally:
        loader.dispose()


def _explain_yaml(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark or error.context_mark
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
    context = f" ({error.context})" if error.context else ""
    return where + _without_words(f"{error.problem or 'is not YAML'}{context}")


def _without_words(message: str) -> str:
    return _WORD.sub("'...'", message)


def _duplicates(root: yaml.Node) -> Iterator[Fault]:
    """Keys given twice. Anchors can make a small file endless, so depth and number of visits are bounded."""
    pending: list[tuple[yaml.Node, Path]] = [(root, ())]
    visited = 0
    while pending:
        node, path = pending.pop()
        visited += 1
        if visited > _MAX_NODES or len(path) > _MAX_DEPTH:
            yield Fault((), "is nested too deeply or repeats an anchor without end")
            return
        if isinstance(node, yaml.SequenceNode):
            pending.extend((item, (*path, index)) for index, item in enumerate(node.value))
        elif isinstance(node, yaml.MappingNode):
            first: dict[str, int] = {}
            for key, value in node.value:
                name = str(key.value)
                line = key.start_mark.line + 1
                if name in first and name != "<<":
                    yield Fault((*path, name), f"is given twice, on line {first[name]} and on line {line}")
                first.setdefault(name, line)
                pending.append((value, (*path, name)))


def _parse_json(text: str) -> tuple[Any, list[str]]:
    repeated: list[str] = []

    def collect(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key, value in pairs:
            if key in mapping:
                repeated.append(f"{format_path((key,))}: is given twice in the same object")
            mapping[key] = value
        return mapping

    if not text.strip():
        return None, []
    try:
        return json.loads(text, object_pairs_hook=collect), repeated
    except json.JSONDecodeError as error:
        return None, [f"line {error.lineno}, column {error.colno}: {error.msg}"]
    except RecursionError:
        return None, [f"is nested deeper than {_MAX_DEPTH} levels"]


def _parse_toml(text: str) -> tuple[Any, list[str]]:
    try:
        return tomllib.loads(text), []
    except tomllib.TOMLDecodeError as error:
        return None, [str(error)]
    except RecursionError:
        return None, [f"is nested deeper than {_MAX_DEPTH} levels"]


_PARSERS: Final[dict[str, Callable[[str], tuple[Any, list[str]]]]] = {
    ".yaml": _parse_yaml,
    ".yml": _parse_yaml,
    ".json": _parse_json,
    ".toml": _parse_toml,
}
