"""What to say about a key or value that the configuration models refuse.

Keys of the documented schema that this release does not obey are told apart from typing errors, and older spellings
are answered with today's key. In the patterns ``*`` stands for the name of a provider, model or pool, or a place in a list.
"""

from __future__ import annotations

from typing import Any, Final

from shared_state.config.faults import Path, format_path, suggest

NOT_OBEYED: Final = "is known but not obeyed by this release yet; remove it"

_NAMED_SECTIONS: Final = frozenset({"providers", "models", "pools"})

_KNOWN_KEYS: Final[dict[str, str]] = {
    "": "connectors",
    "redis": "host port db password key_prefix ttl",
    "secrets": "instance config",
    "providers.*": "quota pricing discovery catalogue batch files fine_tuning infrastructure connection_pool "
    "instance config auth execution error",
    "providers.*.auth": "method key_rotation",
    "models.*": "batch",
    "pools.*": "strategy_instance rotation",
    "proxy": "endpoints rate_limit",
    "proxy.auth": "enabled method",
    "discovery": "connectors",
    "discovery.sync": "auto_register",
    "observability.events.*": "log_level redact_secrets append flush_each_line on_trace on_log on_stats port",
    "observability.logging": "url webhook on_log",
    "observability.statistics": "port url on_stats prefix",
    "storage": "sync_policy sync_interval locking table backup host port db password key_prefix ttl folder_id "
    "credentials filename instance config",
    "storage.persistence": "sync_policy sync_interval",
}

_TODAY: Final[dict[str, str]] = {
    "providers.*.config.api_key": "api_key of the provider",
    "providers.*.config.base_url": "base_url of the provider",
    "providers.*.config.timeout": "timeouts.total of the provider",
    "providers.*.config.models": "an entry under models for each",
    "providers.*.auth.api_key": "api_key of the provider",
    "providers.*.apikey": "api_key",
    "providers.*.key": "api_key",
    "providers.*.url": "base_url",
    "providers.*.type": "connector",
    "providers.*.timeout": "timeouts.total",
    "providers.*.max_retries": "retry.max_attempts of the pool",
    "providers.*.models": "an entry under models for each",
    "providers.*.execution.timeout": "timeouts.total of the provider",
    "providers.*.execution.max_retries": "retry.max_attempts of the pool",
    "providers.*.error.retryable_codes": "retry.retryable_codes of the pool",
    "providers.*.error.non_retryable_codes": "retry.non_retryable_codes of the pool",
    "models.*.model": "upstream",
    "models.*.name": "upstream",
    "models.*.capability": "capabilities, a list",
    "models.*.context_window": "constraints.context_window",
    "models.*.max_output_tokens": "constraints.max_output_tokens",
    "pools.*.hierarchy_node": "capability",
    "pools.*.allowed_providers": "providers",
    "pools.*.context_window_fallbacks": "fallbacks.context_window",
    "pools.*.content_policy_fallbacks": "fallbacks.content_policy",
    "pools.*.failure_threshold": "deactivation.retry_limit",
    "pools.*.cooldown_seconds": "recovery.cooldown, with a unit: 60s",
    "pools.*.max_retries": "retry.max_attempts",
    "pools.*.model_weights": "weights",
    "pools.*.rotation.policy": "strategy of the pool",
    "pools.*.rotation.selection": "its keys (affinity_mode, session_timeout) directly in the pool",
    "pools.*.rotation.strategy": "strategy of the pool",
    "pools.*.rotation.deactivation": "deactivation of the pool",
    "pools.*.rotation.recovery": "recovery of the pool",
    "pools.*.rotation.retry": "retry of the pool",
    "proxy.token": "auth.tokens, a list",
    "proxy.auth.token": "auth.tokens, a list",
    "proxy.max_body_size": "max_body",
    "secrets.connector": "store",
    "secrets.file_path": "path",
    "secrets.vault_name": "vault_url: https://NAME.vault.azure.net",
    "secrets.cache_enabled": "cache_ttl: 0 where secrets are not to be read again",
    "secrets.override_env": "override",
    "secrets.config.file_path": "path of the secrets section",
    "secrets.config.override_env": "override of the secrets section",
    **{
        f"secrets.config.{key}": f"{key} of the secrets section"
        for key in [
            "path",
            "prefix",
            "override",
            "json_path",
            "encryption_key",
            "passphrase",
            "service_name",
            "secrets",
            "cache_ttl",
            "region",
            "version_stage",
            "project",
            "vault_url",
            "tenant_id",
            "server_url",
            "vault_id",
            "token",
        ]
    },
    "observability.routing": "events, a list with a section for each target",
    "observability.connector": "events, a list with a section for each target",
    "observability.config": "events, a list with a section for each target",
    "observability.tracing.min_severity": "min_severity of the targets under observability.events",
    "observability.events.*.events": "filter",
    "observability.events.*.event_filter": "filter",
    "observability.events.*.file_path": "path",
    "observability.events.*.max_file_size_bytes": "max_size",
    "observability.events.*.max_size_mb": "max_size, with a unit: 10MB",
    "observability.logging.redact_secrets": "redact",
    "observability.logging.file_path": "path",
    "observability.statistics.file_path": "path",
    "storage.db_path": "path",
    "storage.file_path": "path",
    "storage.config.path": "path of the storage section",
    "storage.config.db_path": "path of the storage section",
}

_KNOWN_VALUES: Final[dict[str, frozenset[Any]]] = {
    "secrets.store": frozenset({"modelmesh.browser-secrets.v1"}),
    "observability.events.*.connector": frozenset({"modelmesh.prometheus.v1"}),
    "observability.logging.connector": frozenset({"modelmesh.webhook.v1", "modelmesh.callback.v1"}),
    "observability.statistics.connector": frozenset({"modelmesh.webhook.v1", "modelmesh.callback.v1"}),
    "storage.connector": frozenset(
        {
            "modelmesh.memory.v1",
            "redis.redis.v1",
            "google.drive.v1",
            "modelmesh.localstorage.v1",
            "modelmesh.sessionstorage.v1",
            "modelmesh.indexeddb.v1",
        }
    ),
    "storage.persistence.format": frozenset({"yaml"}),
    "storage.persistence.encryption": frozenset({True}),
}

_ONE_OF_THE_STORAGES: Final = (
    "write modelmesh.sqlite.v1, modelmesh.postgresql.v1, modelmesh.local-file.v1 or aws.s3.v1"
)
_IN_A_BROWSER: Final = f"is of a browser, and a cluster has none; {_ONE_OF_THE_STORAGES}"

#: Of values that will never be obeyed: why.
_REASONS: Final[dict[tuple[str, Any], str]] = {
    ("storage.connector", "modelmesh.memory.v1"): f"keeps nothing over a restart; {_ONE_OF_THE_STORAGES}",
    ("storage.connector", "redis.redis.v1"): "is what has to be kept safe; the storage lies elsewhere: "
    + _ONE_OF_THE_STORAGES,
    ("storage.connector", "modelmesh.localstorage.v1"): _IN_A_BROWSER,
    ("storage.connector", "modelmesh.sessionstorage.v1"): _IN_A_BROWSER,
    ("storage.connector", "modelmesh.indexeddb.v1"): _IN_A_BROWSER,
    ("storage.persistence.format", "yaml"): "has no advantage over json here; write json or msgpack",
    (
        "storage.persistence.encryption",
        True,
    ): "is not done here; let the disk, the bucket or the database encrypt",
}


def explain_key(path: Path, value: Any, *, known: list[str]) -> list[tuple[Path, str]]:
    """Faults for a key that its section does not have: one for it, or one for each key inside that has moved.

    Args:
        known: keys that the section does have.
    """
    pattern = _pattern(path)
    if pattern in _TODAY:
        return [(path, _moved(_TODAY[pattern]))]
    inner = [(*path, str(key)) for key in value] if isinstance(value, dict) else []
    if any(_pattern(deeper) in _TODAY for deeper in inner):
        return [(deeper, _explain_inner(deeper)) for deeper in inner]
    return [(path, NOT_OBEYED if _is_known(path) else f"unknown key{suggest(str(path[-1]), known)}")]


def explain_value(path: Path, value: Any) -> str | None:
    """What to say about a refused value that the documented schema knows."""
    pattern = _pattern(path)
    values = _KNOWN_VALUES.get(pattern)
    if values is None or not isinstance(value, (str, bool)) or value not in values:
        return None
    return f"{str(value).lower()} {_REASONS.get((pattern, value), NOT_OBEYED)}"


def _explain_inner(path: Path) -> str:
    today = _TODAY.get(_pattern(path))
    if today is not None:
        return _moved(today)
    return (
        NOT_OBEYED
        if _is_known(path)
        else f"unknown key; the section {format_path(path[:-1])} is no longer read"
    )


def _is_known(path: Path) -> bool:
    return str(path[-1]) in _KNOWN_KEYS.get(_pattern(path[:-1]), "").split()


def _pattern(path: Path) -> str:
    parts = ["*" if isinstance(part, int) else str(part) for part in path]
    if len(parts) > 1 and parts[0] in _NAMED_SECTIONS:
        parts[1] = "*"
    return ".".join(parts)


def _moved(today: str) -> str:
    return f"is an older spelling; write {today}"
