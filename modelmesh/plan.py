"""What a mesh inside a program is to be: the configuration, where its state is, all settled before anything starts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, SecretStr

from modelmesh.errors import NoProvidersError
from modelmesh.home import state_folder
from node.parts import load_parts
from shared_state.blueprints import Blueprints
from shared_state.catalogue import spoken_profiles
from shared_state.config.loader import Written, find_document, read_config
from shared_state.config.root import MeshConfig
from shared_state.errors import ConfigurationError
from shared_state.topology import Topology, build_topology

Configuration = str | os.PathLike[str] | Mapping[str, Any] | MeshConfig
_SHOWN: Final = 6


@dataclass(frozen=True, slots=True)
class Plan:
    """A configuration that can be run here.

    Attributes:
        redis_url: None: the embedded store.
    """

    topology: Topology
    blueprints: Blueprints
    redis_url: str | None
    home: Path
    environ: Mapping[str, str]


def make_plan(
    config: Configuration | None, *, redis: str | None = None, environ: Mapping[str, str] = os.environ
) -> Plan:
    """Read and check a configuration.

    Raises:
        ConfigurationError: with every fault.
        NoProvidersError: there is nothing to route to.
    """
    return plan_of(written(config, environ), redis=redis, environ=environ)


def plan_of(own: Written, *, redis: str | None, environ: Mapping[str, str]) -> Plan:
    """The same for a document."""
    topology = build_topology(read_config(own.document, environ=environ, source=own.source))
    if not topology.config.providers:
        raise no_providers(own.source)
    load_parts(topology)
    return Plan(
        topology=topology,
        blueprints=Blueprints(own, check=load_parts, environ=environ),
        redis_url=redis or environ.get("MODELMESH_REDIS_URL") or topology.config.redis.address,
        home=state_folder(environ),
        environ=environ,
    )


def no_providers(source: str) -> NoProvidersError:
    """What to say of a mesh without providers."""
    variables = [profile.env_var for profile in spoken_profiles() if profile.env_var]
    fault = "no provider is configured"
    if source == "environment":
        fault = f"no provider's key is in the environment; set one of {', '.join(variables)}, or give a configuration"
    return NoProvidersError([fault], source=source)


def written(config: Configuration | None, environ: Mapping[str, str]) -> Written:
    """A configuration as a document, and what to call it.

    Raises:
        ConfigurationError: it cannot be read.
    """
    if isinstance(config, MeshConfig):
        return Written(_plain(config.model_dump(exclude_unset=True)), "the MeshConfig given")
    if isinstance(config, Mapping):
        if not config:
            raise ConfigurationError(["the mapping is empty: there is nothing to serve"])
        return Written(dict(config), "the mapping given")
    return find_document(None if config is None else os.fspath(config), environ=environ)


def _plain(value: Any) -> Any:
    """As it would stand in a file: what was resolved is written out, and is no reference whatever it looks like."""
    if isinstance(value, SecretStr):
        return _plain(value.get_secret_value())
    if isinstance(value, str):
        return value.replace("${", "$${")
    if isinstance(value, BaseModel):
        return _plain(value.model_dump(exclude_unset=True))
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(inner) for inner in value]
    return value
