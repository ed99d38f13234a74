"""The version of a configuration: equal on every node that runs the same one."""

from __future__ import annotations

import hashlib

import orjson

from shared_state.config.root import MeshConfig

_OF_THE_MACHINE = {"redis": {"url"}, "proxy": {"host", "port"}}
"""May differ from node to node, as the command line may say otherwise."""


def config_version(config: MeshConfig) -> str:
    """Twelve hex digits over everything but secrets and addresses of the machine itself.

    Order counts, since the order of models and pools decides ties. Defaults are left out, so that a release that adds
    a key does not change the version.
    """
    values = config.model_dump(mode="json", exclude=_OF_THE_MACHINE, exclude_defaults=True)
    told = {section: value for section, value in values.items() if value}
    return hashlib.sha256(orjson.dumps(told)).hexdigest()[:12]
