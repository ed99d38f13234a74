"""Checks across sections that need neither catalogue nor capability tree: names, addresses, keys, shared limits."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from pydantic import SecretStr

from shared_state.config.faults import FaultLog, Path, suggest
from shared_state.config.limits import BudgetConfig, LimitsConfig, caps_of
from shared_state.config.providers import ProviderConfig
from shared_state.config.root import MeshConfig

_MAX_NAME: Final = 128


def check_names(config: MeshConfig, log: FaultLog) -> None:
    """Names become parts of Redis keys, headers and log lines."""
    for provider_id, provider in config.providers.items():
        _check_domain(provider_id, ("providers", provider_id), log)
        if provider.quota_domain is not None:
            _check_domain(provider.quota_domain, ("providers", provider_id, "quota_domain"), log)
    for model_id in config.models:
        _check_name(model_id, ("models", model_id), log)
    for pool_id in config.pools:
        _check_name(pool_id, ("pools", pool_id), log, spaces=True)


def check_discovery(config: MeshConfig, log: FaultLog) -> None:
    """Discovery names providers."""
    for section, names in (
        ("sync", config.discovery.sync.providers),
        ("health", config.discovery.health.providers),
    ):
        for index, name in enumerate(names):
            if name not in config.providers and not log.is_excused("providers", name):
                path = ("discovery", section, "providers", index)
                log.add(path, f"unknown provider {name!r}{suggest(name, list(config.providers))}")


def _check_domain(name: str, path: Path, log: FaultLog) -> None:
    if name.startswith(("mesh:", "pool:", "key:")):
        log.add(path, "a provider's name and a quota domain must not begin with mesh:, pool: or key:")
    if "{" in name or "}" in name:  # would end the hash tag that keeps a domain's keys in one slot
        log.add(path, "a provider's name and a quota domain must not hold braces")
    _check_name(name, path, log)


def _check_name(name: str, path: Path, log: FaultLog, *, spaces: bool = False) -> None:
    if not 0 < len(name) <= _MAX_NAME:
        log.add(path, f"a name must have 1 to {_MAX_NAME} characters, not {len(name)}")
    if not name.isprintable():
        log.add(path, "a name must not hold control characters")
    if (" " in name and not spaces) or name != name.strip():
        log.add(
            path, "a name must not hold spaces" if not spaces else "a name must not begin or end with a space"
        )


def check_base_url(url: str, path: Path, log: FaultLog) -> None:
    """An address must name a host, and nothing that would break out of a request's head."""
    try:
        parts = urlsplit(url)
        is_good = bool(parts.hostname) and parts.port != 0 and url.isprintable() and " " not in url
    except ValueError:
        is_good = False
    if not is_good:
        log.add(path, "must be an address such as https://api.example.com/v1")


def check_api_key(key: SecretStr, path: Path, log: FaultLog) -> None:
    """A key travels in a header."""
    text = key.get_secret_value()
    if not (text.isascii() and text.isprintable()) or " " in text:
        log.add(path, "holds a space, a line break or another character that a header cannot carry")


def domain_of(provider_id: str, provider: ProviderConfig) -> str:
    """The quota domain of a provider entry."""
    return provider.quota_domain or provider_id


def with_budget(limits: LimitsConfig, budget: BudgetConfig) -> LimitsConfig:
    """Limits together with a budget; where both speak of the same money, the budget's word holds."""
    money = budget.as_limits()
    return limits.model_copy(update=money) if money else limits


def spends_money(limits: LimitsConfig) -> bool:
    """Whether money is limited."""
    has_cap = any(cap.reason == "budget_exceeded" for cap in caps_of(limits))
    has_budget = limits.usd_enforced and bool(limits.usd_per_day or limits.usd_per_month)
    return has_cap or has_budget or bool(limits.usd_per_request)


def counts_money(limits: LimitsConfig) -> bool:
    """Whether money is limited, or counted as if it were."""
    return spends_money(limits) or bool(limits.usd_per_day or limits.usd_per_month)


def merge_limits(config: MeshConfig, log: FaultLog) -> dict[str, LimitsConfig]:
    """Limits of each quota domain: what its enabled providers say together, which must not differ."""
    merged: dict[str, dict[str, object]] = {}
    said_by: dict[tuple[str, str], str] = {}
    for provider_id, provider in config.providers.items():
        if not provider.enabled:
            continue
        domain = domain_of(provider_id, provider)
        limits = merged.setdefault(domain, {})
        own = with_budget(provider.limits, provider.budget)
        for key in sorted(own.model_fields_set):
            value = getattr(own, key)
            first = said_by.setdefault((domain, key), provider_id)
            if limits.setdefault(key, value) != value:
                log.add(
                    ("providers", provider_id, "limits", key),
                    f"{value} differs from {limits[key]} of provider {first!r}, which shares quota domain {domain!r}",
                )
    return {domain: LimitsConfig.model_validate(limits) for domain, limits in merged.items()}
