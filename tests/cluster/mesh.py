"""Configurations of test clusters, put together from pools that share nothing: each member has an account of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Section = dict[str, Any]

#: Stands for the address of the mock provider of that name until the cluster knows it.
_MOCK_URL = "mock:"


@dataclass(frozen=True)
class Member:
    """A model of a test pool, on an account of its own at a mock provider.

    Attributes:
        mock: name of the mock provider.
        name: of the model, where a pool has several at one provider; they share the account.
        limits: of the model.
        provider: further keys of the account.
        model: further keys of the model.
    """

    mock: str
    name: str = ""
    limits: Section = field(default_factory=dict)
    provider: Section = field(default_factory=dict)
    model: Section = field(default_factory=dict)


def pool(name: str, *members: Member | str, **rules: Any) -> Section:
    """A pool with its accounts and models: ``pool("fast", "alpha")`` has the model ``fast.alpha`` of ``fast-alpha``.

    A model's name upstream is its id, so that a mock provider can be ordered about for this pool alone. Failures go to the next member at once, unless ``retry`` says otherwise.
    """
    providers, models = {}, {}
    for member in members:
        own = Member(member) if isinstance(member, str) else member
        account, model = f"{name}-{own.mock}", f"{name}.{own.name or own.mock}"
        providers[account] = {
            "connector": "openai-compatible.v1",
            "base_url": _MOCK_URL + own.mock,
            "api_key": f"key-of-{account}",
            **own.provider,
        }
        models[model] = {
            "provider": account,
            "upstream": model,
            "capabilities": ["chat-completion"],
            "limits": own.limits,
            **own.model,
        }
    rules = {"models": list(models), "retry": {"scope": "any"}} | rules
    return {"providers": providers, "models": models, "pools": {name: rules}}


def mesh(*fragments: Section, **sections: Any) -> Section:
    """One configuration from pools and further sections."""
    whole: Section = {"providers": {}, "models": {}, "pools": {}}
    for fragment in fragments:
        for key, value in fragment.items():
            assert not whole[key].keys() & value.keys(), f"two pools of tests share a name: {value.keys()}"
            whole[key] |= value
    return whole | sections


def mock_of(provider: Section) -> str:
    """The mock provider that a configured account is at."""
    return str(provider["base_url"]).removeprefix(_MOCK_URL)


def with_addresses(config: Section, base_urls: Mapping[str, str]) -> Section:
    """The configuration with the addresses of the mock providers."""
    providers = {
        name: {**provider, "base_url": base_urls[mock_of(provider)]}
        for name, provider in config["providers"].items()
    }
    return {**config, "providers": providers}
