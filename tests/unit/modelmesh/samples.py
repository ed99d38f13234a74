"""Answers of the operators' API, as a node gives them."""

from __future__ import annotations

from typing import Any

NOW = 1_800_000_000.0


def status() -> dict[str, Any]:
    """Two nodes, one of them dead; a model on standby, with a name that plays tricks."""
    return {
        "mode": "exact",
        "config_version": "c0ffee12",
        "store": {
            "url": "redis://127.0.0.1:6379/0",
            "connected": True,
            "round_trip_ms": 0.42,
            "checked": NOW - 60,
            "findings": [
                {
                    "code": "eviction_policy",
                    "severity": "error",
                    "message": "maxmemory-policy is allkeys-lru",
                },
                {"code": "fsync", "severity": "warning", "message": "appendfsync is no"},
                {"code": "not_visible", "severity": "info", "message": "INFO is refused"},
            ],
        },
        "scheduler": {
            "leader": "clock-1",
            "token": 7,
            "since": NOW - 3720,
            "jobs": [
                {"name": "flush", "interval_s": 60, "last_run": NOW - 5, "last_error": "disk full"},
                {"name": "reap", "interval_s": 1, "last_run": NOW - 1, "last_error": None},
            ],
        },
        "nodes": [_node("n1", state="alive"), _node("n2", state="dead")],
        "pools": [
            {
                "id": "chat",
                "capability": "generation.text-generation.chat-completion",
                "strategy": "modelmesh.round-robin.v1",
                "active": 1,
                "standby": 1,
                "models": ["alpha.small", "beta.large"],
                "current": "alpha.small",
            }
        ],
        "models": [
            _model("alpha.small", status="active"),
            _model(
                "beta.large", status="standby", reason="rate_limit: \x1b[31mslow [bold]down", until=NOW + 45
            ),
        ],
        "providers": [_provider("alpha"), _provider("beta")],
        "events": [
            {
                "time": NOW - 3,
                "type": "model_deactivated",
                "domain": "beta",
                "model": "beta.large",
                "provider": None,
                "reason": "rate_limit",
                "until": NOW + 45,
                "node": "n1",
            }
        ],
    }


def books(*, difference: int = 0, balanced: bool | None = None) -> dict[str, Any]:
    """The books of one model; `difference` admissions are unaccounted for."""
    counts = {
        "admitted": 10 + difference,
        "settled": 7,
        "abandoned": 1,
        "in_flight": 2,
        "difference": difference,
    }
    names = {"domain": "alpha", "model": "alpha.small", "provider": "alpha", "pool": "chat"}
    is_balanced = difference == 0 if balanced is None else balanced
    return {"balanced": is_balanced, "time": NOW, "rows": [{**names, **counts}], "totals": counts}


def _node(name: str, *, state: str) -> dict[str, Any]:
    return {
        "id": name,
        "host": "127.0.0.1",
        "port": 8080,
        "pid": 4711,
        "started": NOW - 90,
        "seen_s": 0.2,
        "state": state,
        "version": "0.1.0",
        "config_version": "c0ffee12",
        "mode": "exact",
        "in_flight": 3,
    }


def _model(name: str, *, status: str, reason: str = "", until: float | None = None) -> dict[str, Any]:
    return {
        "id": name,
        "provider": name.partition(".")[0],
        "domain": name.partition(".")[0],
        "status": status,
        "phase": "",
        "reason": reason,
        "since": NOW - 10,
        "until": until,
        "fails": 0,
        "in_flight": 1,
        "requests": 1234,
        "failed": 5,
        "windows": [{"name": "rpm", "used": 59, "limit": 60, "resets": NOW + 30}],
    }


def _provider(name: str) -> dict[str, Any]:
    return {
        "id": name,
        "domain": name,
        "connector": "openai-compatible.v1",
        "status": "active",
        "reason": "",
        "until": None,
        "models": 1,
    }
