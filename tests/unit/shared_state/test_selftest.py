"""The judgement of the store's self-test: what is wanted, what is not, what cannot be seen."""

from __future__ import annotations

from dataclasses import replace

import pytest

from shared_state.findings import Severity
from shared_state.selftest import Replica, ScriptFacts, ServerFacts, judge

NOW_MS = 1_795_424_400_000
IN_STEP, LATE = Replica("10.0.0.2:6379", "online", 1), Replica("10.0.0.2:6379", "online", 60)
WELL = ServerFacts(
    time_ms=NOW_MS,
    wall_ms=NOW_MS + 300,
    earliest_ms=NOW_MS - 1,
    version="7.2.4",
    policy="noeviction",
    used_bytes=10,
    max_bytes=100,
    has_aof=True,
    fsync="everysec",
    min_replicas=0,
    max_lag_s=10,
)


def test_a_server_as_it_should_be_is_clean() -> None:
    """Nothing to say: with replicas that hold it to account, without a memory limit, with the fsync of the careful."""
    guarded = replace(WELL, replicas=(IN_STEP,), min_replicas=1)

    for facts in (WELL, guarded, replace(WELL, max_bytes=0), replace(WELL, fsync="always")):
        assert judge([facts]) == ()


@pytest.mark.parametrize(
    ("changes", "code", "severity", "seen", "wanted"),
    [
        ({"version": "6.2.14"}, "version", "error", "6.2.14", "7.0"),
        ({"policy": "allkeys-lru"}, "eviction_policy", "error", "allkeys-lru", "noeviction"),
        (
            {"policy": "volatile-ttl", "max_bytes": 0},
            "eviction_policy",
            "warning",
            "volatile-ttl",
            "noeviction",
        ),
        ({"used_bytes": 70}, "memory", "warning", "70%", "less than 70%"),
        ({"used_bytes": 95}, "memory", "error", "95%", "less than 70%"),
        ({"has_aof": False}, "persistence", "warning", "no", "yes"),
        ({"fsync": "no"}, "fsync", "warning", "no", "everysec"),
        (
            {"failed": ("aof_last_write_status",)},
            "persistence_failed",
            "error",
            "aof_last_write_status",
            "ok",
        ),
        ({"failed": ("rdb_last_bgsave_status",)}, "persistence_failed", "warning", "bgsave", "ok"),
        ({"scripts": ScriptFacts(error="unknown command")}, "scripts", "error", "unknown command", "Lua"),
        ({"scripts": ScriptFacts(missing=("struct",))}, "script_libraries", "error", "struct", "cmsgpack"),
        ({"scripts": ScriptFacts(is_kept=False)}, "script_cache", "warning", "EVALSHA", "kept"),
        ({"scripts": ScriptFacts(sees_info=False)}, "script_info", "warning", "INFO", "works"),
        ({"wall_ms": NOW_MS + 5001}, "clock_skew", "warning", "5.0 s behind", "5 s"),
        ({"wall_ms": NOW_MS - 8000}, "clock_skew", "warning", "8.0 s ahead of", "5 s"),
        ({"earliest_ms": NOW_MS + 2500}, "clock_backwards", "warning", "2.5 s", "forward"),
        ({"replicas": (IN_STEP,)}, "min_replicas", "warning", "min-replicas-to-write is 0", "1 and 10"),
        ({"replicas": (LATE,), "min_replicas": 1}, "replica_lag", "warning", "60 s", "10 s"),
        ({"replicas": (LATE,), "min_replicas": 1}, "replicas_missing", "error", "0 replicas", "as many"),
        ({"refused": ("CONFIG",), "fsync": None}, "not_visible", "info", "CONFIG", "cannot be seen"),
    ],
)
def test_every_finding_says_what_was_seen_and_what_is_wanted(
    changes: dict[str, object], code: str, severity: str, seen: str, wanted: str
) -> None:
    """One change makes one finding; a replica that lags may make a second."""
    found = {finding.code: finding for finding in judge([replace(WELL, **changes)])}  # type: ignore[arg-type]

    assert found[code].severity == severity
    assert seen in found[code].message
    assert wanted in found[code].message
    assert found.keys() - {code} <= {"replica_lag", "replicas_missing"}


def test_what_cannot_be_seen_is_no_failure() -> None:
    """A managed service that forbids CONFIG and INFO is told apart from a wrong setting."""
    hidden = ServerFacts(time_ms=NOW_MS, wall_ms=NOW_MS, replicas=(IN_STEP,), refused=("INFO", "CONFIG"))

    assert {finding.severity for finding in judge([hidden])} == {Severity.INFO}


def test_a_master_of_a_cluster_stops_by_itself() -> None:
    """It needs no min-replicas-to-write: cut off from the others it refuses after the node timeout."""
    assert judge([replace(WELL, is_cluster=True, replicas=(IN_STEP,))]) == ()


def test_several_servers_are_told_apart_and_the_gravest_comes_first() -> None:
    """Each message begins with its server."""
    found = judge(
        [replace(WELL, name="h1:1", has_aof=False), replace(WELL, name="h2:2", policy="allkeys-lfu")]
    )

    assert [finding.severity for finding in found] == [Severity.ERROR, Severity.WARNING]
    assert found[0].message.startswith("h2:2: ")
    assert found[1].message.startswith("h1:1: ")
