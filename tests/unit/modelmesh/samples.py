"""Answers of the operators' API, as a node gives them."""

from __future__ import annotations

from typing import Any

NOW = 1_800_000_000.0
_KINDS = ("domains", "models", "providers", "pools")


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
                "windows": [],
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
                "pool": None,
                "reason": "rate_limit",
                "until": NOW + 45,
                "node": "n1",
                "numbers": {},
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
    names = {
        "domain": "alpha",
        "model": "alpha.small",
        "provider": "alpha",
        "pool": "chat",
    }
    is_balanced = difference == 0 if balanced is None else balanced
    sums = {kind: [{"name": name, **counts}] for kind, name in zip(_KINDS, names.values(), strict=True)}
    causes = dict.fromkeys(("booked_twice", "leaked_reservations", "held_leases"), 0)
    return {
        "balanced": is_balanced,
        "time": NOW,
        "rows": [{**names, "kind": "account", **counts}],
        "totals": dict(counts),
        "balances": sums,
        "causes": {"missing_settlements": difference, **causes},
        "differences": [
            {
                "cause": "missing_settlements",
                "domain": "alpha",
                "where": "alpha.small in chat",
                "amount": difference,
            }
        ]
        * bool(difference),
    }


def usage() -> dict[str, Any]:
    """A pool of two accounts, nearly dry, and one without limits."""
    window = {
        "name": "rpd",
        "unit": "requests_per_day",
        "algorithm": "calendar",
        "used": 950,
        "held": 5,
        "limit": 1000,
        "remaining": 45,
        "share": 0.955,
        "resets": NOW + 3600,
        "rate": 0.5,
        "dry_s": 90.0,
    }
    quota = {
        "unit": "requests_per_day",
        "limit": 1000,
        "remaining": 45,
        "resting": 200,
        "share": 0.955,
        "rate": 0.5,
        "dry_s": 90.0,
    }
    money = {**quota, "unit": "usd_per_month", "limit": 12.5, "remaining": 0.0425, "dry_s": None}
    endless = {**quota, "unit": "requests_per_minute", "limit": None, "remaining": None, "dry_s": None}
    return {
        "time": NOW,
        "pools": [
            {
                "id": "chat",
                "active": 1,
                "members": 2,
                "accounts": ["alpha", "beta"],
                "quotas": [endless, quota, money],
                "dry_s": 90.0,
                "dry_by": "requests_per_day",
            },
            {
                "id": "local",
                "active": 1,
                "members": 1,
                "accounts": ["gamma"],
                "quotas": [],
                "dry_s": None,
                "dry_by": None,
            },
        ],
        "accounts": [
            {
                "id": "alpha",
                "providers": ["alpha"],
                "windows": [],
                "models": [{"id": "alpha.small", "status": "standby", "windows": [window]}],
            }
        ],
    }


def stats() -> dict[str, Any]:
    """Two minutes of one model."""
    row = {
        "name": "alpha.small",
        "requests": 1234,
        "ok": 1200,
        "failed": 30,
        "neutral": 4,
        "estimated": 7,
        "abandoned": 0,
        "tokens_in": 250000,
        "tokens_out": 99,
        "cost_usd": 0.0123,
        "latency_ms": 820.4,
        "p50_ms": 640.0,
        "p95_ms": 12000.0,
        "p99_ms": None,
        "first_content_ms": 120.0,
    }
    return {
        "time": NOW,
        "minutes": 2,
        "since": NOW - 60,
        "kept_minutes": 60,
        "by": "model",
        "rows": [row],
        "totals": {**row, "name": ""},
        "timeline": [
            {"time": NOW - 60, "requests": 1000, "failed": 0},
            {"time": NOW, "requests": 234, "failed": 30},
        ],
    }


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
        "health": "degraded",
        "availability": 0.874,
    }


def _plan() -> dict[str, Any]:
    """A model left out by its needs, one at a limit, one that serves."""
    return {
        "asked": "chat",
        "because": None,
        "now_ms": round(NOW * 1000),
        "needs": {"features": ["tool_calling"], "input_least": 2, "input_most": 30, "output": 100},
        "stages": [
            {
                "name": "CapabilityResolver",
                "left": ["alpha.small", "beta.large", "gamma.tiny"],
                "skipped": [],
            },
            {
                "name": "NeedsFilter",
                "left": ["alpha.small", "beta.large"],
                "skipped": [{"model": "gamma.tiny", "reason": "tool_calling"}],
            },
            {"name": "SelectionStrategy", "left": ["alpha.small", "beta.large"], "skipped": []},
        ],
        "rankings": [
            {
                "pool": "chat",
                "strategy": "modelmesh.round-robin.v1",
                "candidates": ["alpha.small", "beta.large"],
                "order": ["alpha.small", "beta.large"],
                "turn": 12,
                "signals": {"alpha.small": {"latency_ms": 640.0, "in_flight": 2, "headroom": 0.25}},
            }
        ],
        "targets": [
            {"model": "alpha.small", "pool": "chat", "provider": "alpha"},
            {"model": "beta.large", "pool": "chat", "provider": "beta", "role": "reserve"},
        ],
    }


def explained() -> dict[str, Any]:
    """The first target is at its limit."""
    window = {"name": "rpm", "limit": 60, "remaining": 0, "takes": 1, "fits": False, "opens": NOW + 45}
    room = {"pool": "chat", "never": False, "tokens_in": 30, "tokens_out": 100, "cost_usd": 0.0021}
    return {
        "time": NOW,
        "node": "n1",
        "config_version": "c0ffee12",
        "api": "chat completions",
        "asked": "chat",
        "is_stream": False,
        "picked": "beta.large",
        "error": None,
        "message": None,
        "plans": [_plan()],
        "headroom": [
            {
                **room,
                "model": "alpha.small",
                "provider": "alpha",
                "place": 0,
                "admits": False,
                "opens": NOW + 45,
                "windows": [window],
            },
            {
                **room,
                "model": "beta.large",
                "provider": "beta",
                "place": 1,
                "admits": True,
                "opens": None,
                "windows": [],
            },
            {
                **room,
                "model": "gamma.tiny",
                "provider": "gamma",
                "place": None,
                "admits": True,
                "opens": None,
                "windows": [],
            },
        ],
    }


def replayed(*, same: bool) -> dict[str, Any]:
    """A request that went past a limit and a failure."""
    step = {"pool": "chat", "reservation": "n1.7", "asked_ms": 0.4}
    return {
        "request_id": "r-1",
        "same": same,
        "recorded": "beta.large",
        "replayed": "beta.large" if same else "alpha.small",
        "config_version": "c0ffee12",
        "recorded_version": "c0ffee12" if same else "0ld",
        "missing": [],
        "differences": []
        if same
        else [{"what": "pick", "recorded": "beta.large", "replayed": "alpha.small"}],
        "decision": {
            "request_id": "r-1",
            "node": "n1",
            "time": NOW,
            "config_version": "c0ffee12",
            "api": "chat completions",
            "asked": "chat",
            "is_stream": True,
            "outcome": "ok",
            "status": 200,
            "mode": "exact",
            "ms": 812.5,
            "picked": "beta.large",
            "served": "beta.large",
            "plans": [_plan()],
            "steps": [
                {
                    **step,
                    "model": "alpha.small",
                    "provider": "alpha",
                    "verdict": "at_limit",
                    "window": "rpm",
                    "at": NOW + 45,
                },
                {
                    **step,
                    "model": "beta.large",
                    "provider": "beta",
                    "verdict": "admitted",
                    "outcome": "failure",
                    "error": "server_\x1b[31merror",
                    "status": 500,
                    "ms": 80,
                },
                {
                    **step,
                    "model": "beta.large",
                    "provider": "beta",
                    "verdict": "admitted",
                    "outcome": "success",
                    "ms": 700,
                    "first_content_ms": 120,
                    "tokens_in": 25,
                    "tokens_out": 90,
                    "cost_usd": 0.0019,
                },
            ],
        },
    }
