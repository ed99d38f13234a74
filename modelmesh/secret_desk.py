"""Filling and looking through a secret store, for the command. Names are told, values never."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from pydantic import SecretStr

from modelmesh.errors import SecretsError
from shared_state.config.faults import Fault, format_path
from shared_state.config.loader import find_document, read_secrets_section
from shared_state.config.references import find_secrets, is_secret_name
from shared_state.config.secrets import STORE_KEYS, SecretsConfig
from shared_state.errors import ConfigurationError, SecretStoreError
from shared_state.secret_stores.base import ListingStore, ReadOnce, SecretStore, SpellingStore, WritableStore
from shared_state.secret_stores.dotenv import parse_dotenv
from shared_state.secret_stores.files import read_file
from shared_state.secret_stores.structured import parse_file, texts_of
from shared_state.secret_stores.table import open_store

_STRUCTURED: Final = frozenset({".json", ".yaml", ".yml", ".toml"})
_WHY_READ_ONLY: Final = {
    "modelmesh.env.v1": "a command cannot fill the environment of other processes",
    "modelmesh.memory-secrets.v1": "its secrets stand in the configuration itself",
}


class Change(StrEnum):
    """What becomes of a secret."""

    ADDED = "added"
    CHANGED = "changed"
    UNCHANGED = "unchanged"


@dataclass(frozen=True, slots=True)
class Entry:
    """A secret as it may be told.

    Attributes:
        used_by: paths of the configuration that refer to it.
        fault: why it cannot be told whether it is there.
    """

    name: str
    is_found: bool
    used_by: tuple[str, ...] = ()
    fault: str = ""


class SecretDesk:
    """A store, and the document that refers to its secrets."""

    def __init__(
        self, config: SecretsConfig, document: Mapping[str, Any], environ: Mapping[str, str], *, source: str
    ) -> None:
        self.config = config
        self._document = document
        self._environ = environ
        self._source = source

    @property
    def where(self) -> dict[str, str]:
        """The keys that say where the store is, without those that open it."""
        keys = {key: getattr(self.config, key) for key in STORE_KEYS[self.config.store] if key != "timeout"}
        return {key: str(value) for key, value in keys.items() if isinstance(value, str) and value}

    def entries(self) -> list[Entry]:
        """What the configuration refers to, in its order, then what else the store holds.

        Raises:
            ConfigurationError, SecretStoreError: the store cannot be used.
        """
        store = self._open(self._environ)
        reading = ReadOnce(store)
        places: dict[str, list[str]] = {}
        for name, path in find_secrets(self._document):
            places.setdefault(name, []).append(format_path(path))
        entries = [_look(reading, name, tuple(paths)) for name, paths in places.items()]
        if isinstance(store, ListingStore):
            known = {_spell(store, name) for name in places}
            entries += [Entry(name, True) for name in store.names() if name not in known]
        return entries

    def fill(self, values: Mapping[str, str], *, may_overwrite: bool) -> dict[str, Change]:
        """Puts secrets into the store; what became of each.

        Raises:
            SecretsError: the store is read-only, a name or value is none, or one is there already; nothing was written.
            ConfigurationError, SecretStoreError: the store cannot be used.
        """
        _check(values)
        store = self._open({})  # what the store itself holds, whatever wins over it
        if not isinstance(store, WritableStore):
            raise SecretsError(self._explain_read_only())
        changes = {name: _compare(store, name, value) for name, value in values.items()}
        taken = [name for name, change in changes.items() if change is Change.CHANGED]
        if taken and not may_overwrite:
            raise SecretsError(
                f"nothing was written, for the store holds other values: {', '.join(taken)}; --force replaces them"
            )
        fresh = {name: value for name, value in values.items() if changes[name] is not Change.UNCHANGED}
        if fresh:
            store.put(fresh)
        return changes

    def overruled(self, names: Iterable[str]) -> list[str]:
        """Secrets whose value in the store does not count, because the environment has one."""
        is_overruled = self.config.store == "modelmesh.dotenv.v1" and not self.config.override
        return [name for name in names if is_overruled and name in self._environ]

    def _open(self, environ: Mapping[str, str]) -> SecretStore:
        try:
            return open_store(self.config, environ)
        except SecretStoreError as error:
            path = ("secrets", error.key) if error.key else ("secrets",)
            fault = str(Fault(path, error.message))
        raise ConfigurationError([fault], source=self._source)

    def _explain_read_only(self) -> str:
        store = self.config.store
        others = ", ".join(other for other in STORE_KEYS if other not in _WHY_READ_ONLY)
        return f"{store} is read-only: {_WHY_READ_ONLY[store]}; secrets.store can be {others}"


def open_desk(
    *, config_path: str | None, store: str | None, options: Iterable[str], environ: Mapping[str, str]
) -> SecretDesk:
    """The desk of a configuration, or of a store that is named.

    Args:
        options: further keys of a named store, as ``KEY=VALUE``.

    Raises:
        SecretsError: an option is none, or shows a secret.
        ConfigurationError: the configuration cannot be read, or its section is wrong.
    """
    document, source = _document(config_path, environ, is_needed=store is None)
    if store is not None:
        section, source = {"store": store, **_options(options)}, "command line"
    elif given := list(options):
        raise SecretsError(f"{given[0].partition('=')[0]} belongs to a store that is named with --store")
    else:
        section = document.get("secrets") or {}
    config = read_secrets_section({"secrets": section}, environ=environ, source=source)
    return SecretDesk(config, document, environ, source=source)


def read_secrets(path: Path) -> dict[str, str]:
    """The secrets in a JSON, YAML or TOML file by its suffix, else in a dotenv file.

    Raises:
        SecretsError: it is not there, cannot be read, or holds none.
    """
    fault = "holds no secrets"
    try:
        text = read_file(path)
        if text is None:
            raise SecretsError(f"there is no file {path}")
        if path.suffix.lower() in _STRUCTURED:
            values = texts_of(parse_file(path, text), source=str(path))
        else:
            values = parse_dotenv(text)
    except SecretStoreError as error:
        raise SecretsError(error.message) from None
    except ValueError as error:
        fault, values = str(error), {}
    if not values:
        raise SecretsError(f"{path}: {fault}")
    return values


def _document(
    config_path: str | None, environ: Mapping[str, str], *, is_needed: bool
) -> tuple[Mapping[str, Any], str]:
    """A named store needs no configuration; with one, its references are told."""
    if not is_needed and not config_path and not environ.get("MODELMESH_CONFIG"):
        return {}, "command line"
    return find_document(config_path, environ=environ)


def _options(options: Iterable[str]) -> dict[str, str]:
    given: dict[str, str] = {}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals:
            raise SecretsError("an option of a store is KEY=VALUE")
        field = SecretsConfig.model_fields.get(key)
        if (
            field is not None
            and SecretStr in getattr(field.annotation, "__args__", ())
            and "${env:" not in value
        ):
            raise SecretsError(
                f"{key} is a secret, and a command is visible in the list of processes: write '{key}=${{env:NAME}}'"
            )
        given[key] = value
    return given


def _check(values: Mapping[str, str]) -> None:
    for name, value in values.items():
        if not is_secret_name(name):
            raise SecretsError(
                f"{name} is no name of a secret: letters, digits, _ . / and -, no _ . / or - first"
            )
        if not value:
            raise SecretsError(f"the value of {name} is empty")
        try:
            value.encode()
        except UnicodeEncodeError:
            pass
        else:
            continue
        raise SecretsError(f"the value of {name} is no UTF-8 text")


def _look(store: SecretStore, name: str, used_by: tuple[str, ...]) -> Entry:
    try:
        return Entry(name, store.get(name) is not None, used_by)
    except SecretStoreError as error:
        if error.is_outage:
            raise
        return Entry(name, False, used_by, error.message)


def _spell(store: SecretStore, name: str) -> str:
    """A name as the store lists it; some have to spell names in their own way."""
    if not isinstance(store, SpellingStore):
        return name
    try:
        return store.spell(name)
    except SecretStoreError:
        return name  # it cannot be there


def _compare(store: SecretStore, name: str, value: str) -> Change:
    """Who may write and not read is told that it is changed."""
    try:
        known = store.get(name)
    except SecretStoreError as error:
        if error.is_outage:
            raise
        return Change.CHANGED
    if known is None:
        return Change.ADDED
    return Change.UNCHANGED if known == value else Change.CHANGED
