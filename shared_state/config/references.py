"""References inside configured text: ``${env:NAME:-default}`` and ``${secrets:NAME}``.

Resolving remembers which values hold a secret, so that no message about them ever shows one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from shared_state.config.faults import Fault, Path, is_within, touches
from shared_state.errors import SecretStoreError
from shared_state.secret_stores.base import SecretStore

_REFERENCE: Final = re.compile(r"(?P<escape>\$)?\$\{(?P<body>[^{}]*)\}?")
_ENV: Final = re.compile(r"env:(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>.*))?", re.DOTALL)
_SECRET: Final = re.compile(r"secrets:(?P<name>[A-Za-z0-9_][A-Za-z0-9_./-]*)")
_MAX_DEPTH: Final = 32
_MIN_SCRUBBED: Final = 4
"""Shorter values are not searched for in messages: they would be found inside ordinary words."""


@dataclass(slots=True, repr=False)
class Resolved:
    """A document without references, and what must be known about where its values came from.

    Attributes:
        unusable: paths whose reference could not be resolved; they hold None.
        tainted: paths whose text holds a secret, with the text as it was written.
    """

    document: dict[str, Any] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    unusable: set[Path] = field(default_factory=set)
    tainted: dict[Path, str] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)

    def reference_at(self, path: Path) -> str | None:
        """What was written at or below ``path``, if a secret went into it."""
        return next((text for at, text in self.tainted.items() if touches(path, [at])), None)

    def scrub(self, fault: Fault) -> Fault:
        """The fault with every secret value in its message replaced by its reference."""
        message = fault.message
        for value, reference in sorted(self.secrets.items(), key=lambda item: -len(item[0])):
            for spelling in {value, repr(value)[1:-1]}:
                message = message.replace(spelling, reference)
        return Fault(fault.path, message)


def resolve(
    document: Mapping[str, Any],
    *,
    environ: Mapping[str, str],
    store: SecretStore | None,
    fail_on_missing: bool = True,
) -> Resolved:
    """Resolve every reference of ``document``, which stays as it is.

    Args:
        store: None leaves secret references unusable without a fault: what is wrong with the store was told already.
        fail_on_missing: whether a secret that the store lacks is a fault; else it is the empty text.
    """
    resolver = _Resolver(environ, store, fail_on_missing=fail_on_missing)
    resolver.out.document = resolver.walk(dict(document), ())
    return resolver.out


class _UnresolvedError(Exception):
    """One reference has no value; the text, if any, is the fault."""


class _Resolver:
    def __init__(
        self, environ: Mapping[str, str], store: SecretStore | None, *, fail_on_missing: bool
    ) -> None:
        self.out = Resolved()
        self._environ = environ
        self._store = store
        self._fail_on_missing = fail_on_missing

    def walk(self, value: Any, path: Path) -> Any:
        if len(path) > _MAX_DEPTH:  # deeper than any section: the models will refuse it
            return value
        if isinstance(value, dict):
            return {name: self.walk(value[key], (*path, name)) for key, name in self._names(value, path)}
        if isinstance(value, list):
            return [self.walk(item, (*path, index)) for index, item in enumerate(value)]
        return self._text(value, path) if isinstance(value, str) and "${" in value else value

    def _names(self, mapping: dict[Any, Any], path: Path) -> Iterator[tuple[Any, str]]:
        """Keys with the text they should have been: YAML reads ``4.1:`` as a number."""
        for key in mapping:
            if not isinstance(key, str):
                self.out.faults.append(Fault((*path, str(key)), f"names are text: quote {key!r}"))
            yield key, str(key)

    def _text(self, text: str, path: Path) -> str | None:
        try:
            return _REFERENCE.sub(lambda match: self._replace(match, text, path), text)
        except _UnresolvedError as error:
            if error.args:
                self.out.faults.append(Fault(path, str(error)))
            self.out.unusable.add(path)
            return None

    def _replace(self, match: re.Match[str], text: str, path: Path) -> str:
        if match["escape"]:
            return match[0][1:]
        if not match[0].endswith("}"):
            raise _UnresolvedError("a reference is not closed: write ${secrets:NAME} or ${env:NAME:-default}")
        if env := _ENV.fullmatch(match["body"]):
            return self._variable(env)
        if secret := _SECRET.fullmatch(match["body"]):
            return self._secret(secret["name"], text, path)
        raise _UnresolvedError(_explain(match["body"]))

    def _variable(self, match: re.Match[str]) -> str:
        value = self._environ.get(match["name"])
        if value:
            return value
        if match["default"] is not None:
            return match["default"]
        if value is None:
            name = match["name"]
            raise _UnresolvedError(
                f"the environment variable {name} is not set; ${{env:{name}:-default}} gives a default"
            )
        return value

    def _secret(self, name: str, text: str, path: Path) -> str:
        if is_within(path, ("secrets",)):
            raise _UnresolvedError(
                "the secret store cannot be configured by its own secrets; use ${env:NAME}"
            )
        if self._store is None:
            raise _UnresolvedError
        value = self._read(self._store, name)
        if value is None and self._fail_on_missing:
            raise _UnresolvedError(f"the secret {name} is missing: {self._store.describe(name)}")
        self.out.tainted[path] = text
        if value and len(value) >= _MIN_SCRUBBED:
            self.out.secrets[value] = f"${{secrets:{name}}}"
        return value or ""

    def _read(self, store: SecretStore, name: str) -> str | None:
        try:
            return store.get(name)
        except SecretStoreError as error:
            fault, is_outage = error.message, error.is_outage
        if not is_outage:
            raise _UnresolvedError(f"the secret {name} cannot be read: {fault}")
        outage = Fault(("secrets",), fault)
        if outage not in self.out.faults:  # once, not for every reference
            self.out.faults.append(outage)
        raise _UnresolvedError


def is_secret_name(name: str) -> bool:
    """Whether a reference could name it."""
    return _SECRET.fullmatch(f"secrets:{name}") is not None


def find_secrets(document: Any, path: Path = ()) -> Iterator[tuple[str, Path]]:
    """Every reference to a secret in a document, and where it stands."""
    if isinstance(document, Mapping):
        for key, value in document.items():
            yield from find_secrets(value, (*path, str(key)))
    elif isinstance(document, list):
        for index, item in enumerate(document):
            yield from find_secrets(item, (*path, index))
    elif isinstance(document, str) and "${" in document:
        for match in _REFERENCE.finditer(document):
            secret = _SECRET.fullmatch(match["body"])
            if secret and not match["escape"]:
                yield secret["name"], path


def _explain(body: str) -> str:
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", body):
        return f"${{{body}}} is no reference: write ${{env:{body}}} or ${{secrets:{body}}}"
    # What stands in the braces may be a secret that somebody pasted there: it is not repeated.
    return "a reference must read ${secrets:NAME} or ${env:NAME:-default}; write $${ for a literal ${"
