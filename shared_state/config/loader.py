"""Loading a configuration: parse, resolve references, validate, check across sections; all faults at once.

Stands above `shared_state.topology`, whose checks it runs, and so is not re-exported by the package.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path as FilePath
from typing import Any, NamedTuple

from pydantic import ValidationError

from shared_state.config.documents import read_document
from shared_state.config.environment import environment_document
from shared_state.config.faults import Fault, FaultLog
from shared_state.config.references import Resolved, find_secrets, resolve
from shared_state.config.root import MeshConfig
from shared_state.config.secrets import SecretsConfig, check_secrets
from shared_state.config.validation import Validated, validate
from shared_state.errors import ConfigurationError, SecretStoreError
from shared_state.secret_stores.base import ReadOnce, SecretStore
from shared_state.secret_stores.table import FIXED, open_store
from shared_state.topology import find_faults


class Written(NamedTuple):
    """A configuration as it was written, references unresolved, and where that was."""

    document: dict[str, Any]
    source: str


class EnvironmentConfig(NamedTuple):
    """Zero-configuration, and a sentence about each provider that was found but cannot be used."""

    config: MeshConfig
    notices: list[str]


def load_config(
    path: str | FilePath | None,
    *,
    environ: Mapping[str, str] = os.environ,
    overrides: Mapping[str, Any] | None = None,
) -> MeshConfig:
    """Load and check a configuration.

    Args:
        path: a YAML, JSON or TOML file; None means ``MODELMESH_CONFIG``, or else what the provider keys in the
            environment amount to.
        environ: where environment references, secrets and provider keys are looked up.
        overrides: sections that win over the file's; None inside means "not given".

    Raises:
        ConfigurationError: with every fault, each as ``path: message``.
    """
    document, source = find_document(path, environ=environ, overrides=overrides)
    return read_config(document, environ=environ, source=source)


def find_document(
    path: str | FilePath | None,
    *,
    environ: Mapping[str, str] = os.environ,
    overrides: Mapping[str, Any] | None = None,
) -> Written:
    """What `load_config` would read, as it was written.

    Raises:
        ConfigurationError: the file cannot be read, or holds nothing.
    """
    file = path or environ.get("MODELMESH_CONFIG") or None
    if file is None:
        document, source = environment_document(environ).document, "environment"
    else:
        document, source = read_document(FilePath(file)), str(file)
    document = _merge(document, overrides or {})
    if not document:
        raise ConfigurationError(["the file is empty: there is nothing to serve"], source=source)
    return Written(document, source)


def config_from_environment(environ: Mapping[str, str] = os.environ) -> EnvironmentConfig:
    """Providers, models and pools for the keys and hosts found in the environment; none is no fault.

    Raises:
        ConfigurationError: a key holds characters that no key can hold.
    """
    document, notices = environment_document(environ)
    return EnvironmentConfig(read_config(document, environ=environ, source="environment"), notices)


def read_config(
    document: Mapping[str, Any],
    *,
    environ: Mapping[str, str] = os.environ,
    source: str = "configuration",
) -> MeshConfig:
    """The configuration that a document with references holds.

    Raises:
        ConfigurationError: with every fault.
    """
    resolved, validated = _resolve_and_validate(_fill_blanks(document), environ)
    faults = [*resolved.faults, *validated.faults]
    if validated.config is not None:
        faults += [
            _hide(fault, resolved) for fault in find_faults(validated.config, refused=validated.refused)
        ]
    if faults or validated.config is None:
        lines = dict.fromkeys(str(resolved.scrub(fault)) for fault in faults)
        raise ConfigurationError(list(lines), source=source)
    return validated.config


def read_secrets_section(
    document: Mapping[str, Any], *, environ: Mapping[str, str] = os.environ, source: str = "configuration"
) -> SecretsConfig:
    """Where the secrets of a document are kept, whatever else is wrong with it or missing.

    Raises:
        ConfigurationError: with every fault of that section.
    """
    section = {"secrets": document.get("secrets") or {}}
    resolved = resolve(section, environ=environ, store=None)
    validated = validate(resolved)
    log = FaultLog(validated.refused)
    config = validated.config.secrets if validated.config is not None else SecretsConfig()
    check_secrets(config, log)
    if faults := [*resolved.faults, *validated.faults, *log.faults]:
        raise ConfigurationError([str(fault) for fault in faults], source=source)
    return config


def read_secrets(document: Mapping[str, Any], *, environ: Mapping[str, str]) -> dict[str, str | None] | None:
    """The secrets that a document refers to; None if there are none, or none that could change while a process runs.

    Raises:
        ConfigurationError: the section is wrong.
        SecretStoreError: the store cannot be used.
    """
    names = dict.fromkeys(name for name, _ in find_secrets(document))
    config = read_secrets_section(document, environ=environ)
    if not names or config.store in FIXED:
        return None
    store = open_store(config, environ)
    return {name: store.get(name) for name in names}


def _resolve_and_validate(
    document: Mapping[str, Any], environ: Mapping[str, str]
) -> tuple[Resolved, Validated]:
    secrets = _secrets_section(document, environ)
    store, store_faults = _open_store(secrets, environ)
    resolved = resolve(
        document, environ=environ, store=store, fail_on_missing=secrets is None or secrets.fail_on_missing
    )
    resolved.faults.extend(store_faults)
    return resolved, validate(resolved)


def _secrets_section(document: Mapping[str, Any], environ: Mapping[str, str]) -> SecretsConfig | None:
    """How secrets are to be found; None if that section is wrong, which validation will tell with all the rest."""
    section = document.get("secrets") or {}
    if not isinstance(section, dict):
        return None
    try:
        return SecretsConfig.model_validate(
            resolve({"secrets": section}, environ=environ, store=None).document["secrets"]
        )
    except ValidationError:
        return None


def _open_store(
    config: SecretsConfig | None, environ: Mapping[str, str]
) -> tuple[SecretStore | None, list[Fault]]:
    if config is None:
        return None, []
    try:
        return ReadOnce(open_store(config, environ)), []
    except SecretStoreError as error:
        path = ("secrets", error.key) if error.key else ("secrets",)
        return None, [Fault(path, error.message)]


def _fill_blanks(document: Mapping[str, Any]) -> dict[str, Any]:
    """A section or entry that is named and left blank takes its defaults: ``pools: {text-generation: }``."""
    filled = {key: {} if value is None else value for key, value in document.items()}
    for section in ("providers", "models", "pools"):
        entries = filled.get(section)
        if isinstance(entries, dict):
            filled[section] = {name: {} if entry is None else entry for name, entry in entries.items()}
    return filled


def _hide(fault: Fault, resolved: Resolved) -> Fault:
    """A fault in a value that holds a secret names the reference instead."""
    reference = resolved.reference_at(fault.path)
    return fault if reference is None else Fault(fault.path, f"the value of {reference} is not accepted here")


def _merge(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in overrides.items():
        if isinstance(value, Mapping):
            inner = merged.get(key)
            merged[key] = _merge(inner if isinstance(inner, dict) else {}, value)
        elif value is not None:
            merged[key] = value
    return merged
