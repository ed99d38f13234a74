"""``modelmesh.json-secrets.v1``: a JSON, YAML or TOML file of names and texts; ``json_path`` says where in it they stand."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from shared_state.config.secrets import SecretsConfig
from shared_state.errors import SecretStoreError
from shared_state.secret_stores.base import require
from shared_state.secret_stores.files import read_file, sole_writer, write_file

_KINDS: Final = (".json", ".yaml", ".yml", ".toml")


class StructuredStore:
    """A file that was read when the store was opened. JSON can be written; the others would lose their comments."""

    def __init__(self, *, path: str, json_path: str = "") -> None:
        self._path = Path(path)
        self._steps = json_path.split(".") if json_path else []
        text = read_file(self._path)
        if text is None:
            self._values: dict[str, str] = {}
        else:
            self._values = texts_of(self._section(parse_file(self._path, text)), source=str(self._path))

    def get(self, name: str) -> str | None:
        return self._values.get(name)

    def describe(self, name: str) -> str:
        return f"{self._where()} holds no {name}"

    def names(self) -> list[str]:
        return sorted(self._values)

    def put(self, values: Mapping[str, str]) -> None:
        if self._path.suffix.lower() != ".json":
            raise SecretStoreError(
                f"{self._path} is not written by this command, for its comments would be lost: edit it",
                key="path",
            )
        with sole_writer(self._path):
            text = read_file(self._path)
            document = parse_file(self._path, text) if text is not None else {}
            section = self._section(document, is_made=True)
            section.update(values)
            self._values = texts_of(section, source=str(self._path))
            write_file(self._path, json.dumps(document, indent=2, ensure_ascii=False) + "\n")

    def _section(self, document: dict[str, Any], *, is_made: bool = False) -> dict[str, Any]:
        here: Any = document
        for step in self._steps:
            here = here.setdefault(step, {}) if is_made else here.get(step, {})
            if not isinstance(here, dict):
                raise SecretStoreError(f"{self._where()} is no mapping", key="json_path")
        return here  # type: ignore[no-any-return]

    def _where(self) -> str:
        return f"{self._path} at {'.'.join(self._steps)}" if self._steps else str(self._path)


def open_store(config: SecretsConfig, environ: Mapping[str, str]) -> StructuredStore:
    """The store of a configuration.

    Raises:
        SecretStoreError: the file cannot be read, or holds anything but texts; the message names it, never its content.
    """
    require(config, "path")
    return StructuredStore(path=config.path, json_path=config.json_path)


def parse_file(path: Path, text: str) -> dict[str, Any]:
    """The mapping in a JSON, YAML or TOML file.

    Raises:
        SecretStoreError: there is none; parsers quote what they read, so only the line is told.
    """
    suffix, fault = path.suffix.lower(), ""
    document: Any = None
    try:
        if suffix == ".json":
            document = json.loads(text or "{}")
        elif suffix == ".toml":
            document = tomllib.loads(text)
        elif suffix in _KINDS:
            document = yaml.safe_load(text) or {}
        else:
            fault = f"unknown kind of file {suffix!r}; accepted: {', '.join(_KINDS)}"
    except json.JSONDecodeError as error:
        fault = f"line {error.lineno} is not JSON"
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        fault = f"line {mark.line + 1} is not YAML" if mark else "is not YAML"
    except (yaml.YAMLError, ValueError, RecursionError):
        fault = f"is not {suffix[1:].upper()}"
    if not fault and not isinstance(document, dict):
        fault = "must hold a mapping of names to texts"
    if fault:
        raise SecretStoreError(f"{path}: {fault}", key="path")
    return document  # type: ignore[no-any-return]


def texts_of(section: Mapping[Any, Any], *, source: str) -> dict[str, str]:
    """The texts in a mapping.

    Raises:
        SecretStoreError: a value is no text, or a name none.
    """
    wrong = [
        str(name)
        for name, value in section.items()
        if not isinstance(name, str) or not isinstance(value, str)
    ]
    if wrong:
        names = ", ".join(wrong[:20])
        raise SecretStoreError(f"{source}: secrets are texts, which these are not: {names}", key="path")
    return dict(section)
