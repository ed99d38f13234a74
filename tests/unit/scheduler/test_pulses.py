"""What has changed since somebody looked: nothing is looked at twice for nothing, and nothing is missed for long."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from scheduler.pulses import Follower, Pulses
from shared_state.domains import Pulse
from tests.unit.node.virtual_time import in_virtual_time


class Told(Pulses):
    """Pulses of the test's choice."""

    def __init__(self, **epochs: int) -> None:
        self.epochs = epochs

    async def read(self) -> Mapping[str, Pulse]:
        return {domain: Pulse(epoch, 1, 0) for domain, epoch in self.epochs.items()}


@in_virtual_time
async def test_only_what_has_changed_is_looked_at() -> None:
    """Everything at first; then whose epoch is another one, be it older: a server may have lost something."""
    pulses = Told(a=5, b=5)
    follower = Follower(pulses)
    assert await follower.changed() == ["a", "b"]
    assert await follower.changed() == ["a", "b"]
    follower.note(["a", "b"])
    assert await follower.changed() == []

    pulses.epochs["b"] = 4
    assert await follower.changed() == ["b"]
    follower.note(["b"])
    follower.doubt("a")
    assert await follower.changed() == ["a"]
    follower.doubt_all()
    assert await follower.changed() == ["a", "b"]


@in_virtual_time
async def test_now_and_then_everything_is_looked_at() -> None:
    """Whatever the pulses say."""
    follower = Follower(Told(a=5))
    await follower.changed()
    follower.note(["a"])
    await asyncio.sleep(9)
    assert await follower.changed() == []
    await asyncio.sleep(2)

    assert await follower.changed() == ["a"]
