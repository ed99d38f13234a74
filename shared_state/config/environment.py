"""Zero-configuration: the document that the keys and hosts in the environment amount to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from shared_state.catalogue import ConnectorProfile, spoken_profiles
from shared_state.catalogue.vendors import UNSPOKEN

_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_ANY_ADDRESS: Final = frozenset({"", "0.0.0.0", "::"})


class EnvironmentDocument(NamedTuple):
    """A configuration document; keys stand in it as references, and ``notices`` say what was found but is not used."""

    document: dict[str, Any]
    notices: list[str]


def environment_document(environ: Mapping[str, str]) -> EnvironmentDocument:
    """Providers whose variable is set, their default models, and one pool for each capability among them."""
    providers: dict[str, Any] = {}
    models: dict[str, Any] = {}
    pools: dict[str, Any] = {}
    notices = []
    for profile in spoken_profiles():
        value = environ.get(profile.env_var, "").strip() if profile.env_var else ""
        if not value:
            continue
        name = profile.provider_name
        defaults = [model for model in profile.models if model.zero_config]
        try:
            providers[name] = _provider(profile, value)
        except ValueError:
            notices.append(f"{profile.env_var} is skipped: it is no host, host:port or http:// address")
            continue
        if not defaults:
            notices.append(f"{profile.env_var} is set, but which models {name} serves must be configured")
        models.update({f"{name}.{model.name}": {"provider": name} for model in defaults})
        pools.update({leaf: {"capability": leaf} for model in defaults for leaf in model.capabilities})
    for connector, variable in UNSPOKEN.items():
        if variable and environ.get(variable, "").strip():
            notices.append(f"{variable} is skipped: {connector} is known but not spoken by this release yet")
    return EnvironmentDocument({"providers": providers, "models": models, "pools": pools}, notices)


def _provider(profile: ConnectorProfile, value: str) -> dict[str, Any]:
    if profile.is_local and profile.base_url is not None:
        return {"connector": profile.id, "base_url": base_url_of(value, default=profile.base_url)}
    return {"connector": profile.id, "api_key": f"${{secrets:{profile.env_var}}}"}


def base_url_of(host: str, *, default: str) -> str:
    """The endpoint for a local server's host variable: a host, ``host:port``, or a URL.

    Without a scheme the port of ``default`` applies; an address to listen on becomes one to connect to.

    Raises:
        ValueError: it is none of these.
    """
    usual = urlsplit(default)
    has_scheme = _SCHEME.match(host) is not None
    if not has_scheme and host.count(":") > 1 and not host.startswith("["):
        host = f"[{host}]"
    parts = urlsplit(host if has_scheme else f"http://{host}")
    if parts.scheme not in {"http", "https"} or (has_scheme and not parts.hostname) or not host.isprintable():
        raise ValueError(f"not a host: {host!r}")
    name = parts.hostname or ""
    if name in _ANY_ADDRESS:
        name = "127.0.0.1"
    if ":" in name:
        name = f"[{name}]"
    port = parts.port or (None if has_scheme else usual.port)
    path = parts.path.rstrip("/") or usual.path
    return f"{parts.scheme}://{name}{f':{port}' if port else ''}{path}"
