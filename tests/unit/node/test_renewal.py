"""Secrets that change under a running node: when they are read, and what becomes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from node.renewal import SecretRenewal
from shared_state.blueprints import Blueprints
from shared_state.config.loader import Written
from shared_state.events import Event
from shared_state.topology import Topology
from shared_state.versions import Told, Version
from tests.support.processes import wait_until

CANARY = "sk-canary"


def document(path: Path, **secrets: Any) -> dict[str, Any]:
    return {
        "secrets": {"store": "modelmesh.dotenv.v1", "path": str(path), **secrets},
        "providers": {"a": {"connector": "openai.llm.v1", "api_key": "${secrets:KEY}"}},
        "models": {"a.gpt-4o": {"provider": "a"}},
    }


class Seat:
    """A renewal with a node that does what it is told."""

    def __init__(self, path: Path, **secrets: Any) -> None:
        self.path = path
        self.blueprints = Blueprints(Written(document(path, **secrets), "mesh.yaml"), environ={})
        self.topology = self.blueprints.build(self.blueprints.shared, source="mesh.yaml")
        self.running: Version | None = None
        self.looked = asyncio.Event()
        self.looked.set()
        self.refuses = False
        self.readings = 0
        self.renewed: list[Version | None] = []
        mark = self.blueprints.mark_secrets

        def counted(document: Any) -> bytes | None:
            self.readings += 1
            return mark(document)

        self.blueprints.mark_secrets = counted  # type: ignore[method-assign]
        self.renewal = SecretRenewal(
            self.blueprints,
            self,  # type: ignore[arg-type]
            current=lambda: self.topology,
            draw=lambda: 0.5,
            apart_s=0.0,
        )

    @property
    def key(self) -> str:
        key = self.topology.providers["a"].api_key
        return key.get_secret_value() if key else ""

    async def renew(self, version: Version | None, topology: Topology) -> bool:
        self.renewed.append(version)
        if not self.refuses:
            self.topology = topology
        return not self.refuses

    async def read(self) -> None:
        """One reading, without the loop."""
        await self.renewal._look_and_tell()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Any]:
    """Start renewals on a dotenv file that holds a key."""
    path = tmp_path / "mesh.env"
    path.write_text(f"KEY={CANARY}-1\n")
    tasks: list[asyncio.Task[None]] = []

    def start(*, is_running: bool = False, **secrets: Any) -> Seat:
        seat = Seat(path, **secrets)
        if is_running:
            tasks.append(asyncio.ensure_future(seat.renewal.run()))
        return seat

    yield start
    for task in tasks:
        task.cancel()


def told(kind: str, reason: str = "") -> Event:
    return Event(kind, 0, 0, "a", "provider", "a", reason, 0, "n2")


async def test_a_changed_secret_is_put_to_work_after_its_time(start: Any):
    """``cache_ttl``; the number of the version stays."""
    seat = start(is_running=True, cache_ttl=0.02)
    seat.running = Version(7, 0, Told(), seat.blueprints.shared)
    seat.path.write_text(f"KEY={CANARY}-2\n")
    await wait_until(lambda: seat.key == f"{CANARY}-2")

    assert seat.renewed == [seat.running]


async def test_what_has_not_changed_changes_nothing(start: Any):
    """However often it is read."""
    seat = start(is_running=True, cache_ttl=0.01)
    await wait_until(lambda: seat.readings > 3)

    assert seat.renewed == []


async def test_without_a_time_secrets_are_read_on_demand_only(start: Any):
    """``cache_ttl: 0``; a signal is a demand, and there is no version before the first push."""
    seat = start(is_running=True, cache_ttl=0)
    seat.path.write_text(f"KEY={CANARY}-2\n")
    await asyncio.sleep(0.03)
    before = seat.readings
    seat.renewal.hurry()
    await wait_until(lambda: seat.key == f"{CANARY}-2")

    assert before == 0
    assert seat.renewed == [None]


@pytest.mark.parametrize(
    ("event", "is_reason"),
    [
        (told("provider_deactivated", "auth"), True),
        (told("model_deactivated", "auth"), True),
        (told("provider_activated"), True),
        (told("provider_trial"), True),
        (told("provider_deactivated", "outage"), False),
        (told("model_activated"), False),
    ],
)
@pytest.mark.parametrize("asks", [True, False])
async def test_news_about_a_provider_are_a_reason_to_read(
    start: Any, event: Event, is_reason: bool, asks: bool
):
    """``reload_on_rotation``: a refused key may have been replaced already."""
    seat = start(cache_ttl=0, reload_on_rotation=asks)
    seat.renewal.observe_event(event)

    assert seat.renewal._wake.is_set() is (is_reason and asks)


@pytest.mark.parametrize("text", ["KEY='broken", "", "KEY=with space\n"])
async def test_a_store_that_makes_no_sense_changes_nothing_and_is_told_once(start: Any, text: str):
    """A missing or impossible value, or a file that cannot be read: no call fails for it. When it is well again it counts."""
    seat = start(cache_ttl=0)
    with capture_logs() as logs:
        seat.path.write_text(text)
        for _ in range(3):
            await seat.read()
    lines = [entry for entry in logs if entry["event"].startswith("the secrets cannot be renewed")]
    seat.path.write_text(f"KEY={CANARY}-3\n")
    await seat.read()

    assert len(lines) == 1
    assert CANARY not in str(lines)
    assert seat.key == f"{CANARY}-3"


async def test_a_change_in_between_is_read_again(start: Any):
    """Another version came into force while the store was asked: the next look is about that."""
    seat = start(cache_ttl=0)
    seat.refuses = True
    seat.path.write_text(f"KEY={CANARY}-2\n")
    await seat.read()
    seat.refuses, seat.topology = False, seat.blueprints.build(document(seat.path), source="version 8")
    seat.path.write_text(f"KEY={CANARY}-3\n")
    await seat.read()

    assert seat.key == f"{CANARY}-3"


async def test_what_the_process_was_given_is_not_read(start: Any):
    """The environment of a process does not change."""
    seat = start(cache_ttl=0)
    fixed = {**document(seat.path), "secrets": {"store": "modelmesh.env.v1"}}

    assert seat.blueprints.mark_secrets(fixed) is None
    assert seat.blueprints.mark_secrets({**document(seat.path), "providers": {}}) is None
    assert seat.blueprints.mark_secrets(document(seat.path)) is not None
