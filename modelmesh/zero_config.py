"""Which providers of the environment a client wishes for."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from modelmesh.plan import no_providers
from shared_state.catalogue import ConnectorProfile, spoken_profiles
from shared_state.config.environment import environment_document
from shared_state.config.loader import Written

_SOURCE = "environment"


@dataclass(frozen=True, slots=True)
class Wishes:
    """What `create` was asked to narrow down; None: nothing."""

    providers: Sequence[str] | None
    models: Sequence[str] | None
    strategy: str | None
    api_keys: Mapping[str, str] | None

    @property
    def any(self) -> bool:
        """Whether there are any."""
        return any(wish is not None for wish in (self.providers, self.models, self.strategy, self.api_keys))

    def refuse(self) -> None:
        """Raises ValueError if there are any: a whole configuration says all that itself."""
        if self.any:
            raise ValueError(
                "providers, models, strategy and api_keys narrow down what the environment has; a configuration says that itself"
            )


def find_providers(wishes: Wishes, environ: Mapping[str, str]) -> tuple[Written, dict[str, str]]:
    """The document of what is left, and the environment in which its references are resolved.

    Raises:
        ValueError: a wish that means nothing.
        NoProvidersError: nothing is left.
    """
    profiles = {p.provider_name: p for p in spoken_profiles() if p.env_var}
    seen = _narrow(wishes, environ, profiles)
    document = environment_document(seen).document
    if not document["providers"]:
        raise no_providers(_SOURCE)
    if wishes.models is not None:
        document = _only_models(document, wishes.models, profiles)
    if wishes.strategy is not None:
        document["pools"] = {
            name: {**pool, "strategy": wishes.strategy} for name, pool in document["pools"].items()
        }
    return Written(document, _SOURCE), seen


def _narrow(
    wishes: Wishes, environ: Mapping[str, str], profiles: Mapping[str, ConnectorProfile]
) -> dict[str, str]:
    """The environment without the variables of other providers."""
    given = wishes.api_keys
    for name in [*(wishes.providers or ()), *(given or ())]:
        _check(name, profiles, "provider")
    variables = {str(p.env_var): name for name, p in profiles.items()}
    seen = {
        variable: value
        for variable, value in environ.items()
        if variable not in variables
        or (given is None and (wishes.providers is None or variables[variable] in wishes.providers))
    }
    wanted = {
        name: key
        for name, key in (given or {}).items()
        if wishes.providers is None or name in wishes.providers
    }
    return seen | {str(profiles[name].env_var): key for name, key in wanted.items()}


def _only_models(
    document: Mapping[str, Any], wanted: Sequence[str], profiles: Mapping[str, ConnectorProfile]
) -> dict[str, Any]:
    for name in wanted:
        _check(name, document["models"], "model")
    models = {name: model for name, model in document["models"].items() if name in wanted}
    kept = {model["provider"] for model in models.values()}
    leaves = {leaf for name in models for leaf in _leaves_of(name, profiles)}
    return {
        "providers": {name: p for name, p in document["providers"].items() if name in kept},
        "models": models,
        "pools": {name: pool for name, pool in document["pools"].items() if pool["capability"] in leaves},
    }


def _leaves_of(model: str, profiles: Mapping[str, ConnectorProfile]) -> Sequence[str]:
    provider, _, upstream = model.partition(".")
    known = profiles[provider].model(upstream)
    return known.capabilities if known else ()


def _check(name: str, known: Collection[str], what: str) -> None:
    if name not in known:
        near = get_close_matches(name, known, n=1)
        guess = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"unknown {what} {name!r}; {guess}there are: {', '.join(known)}")
