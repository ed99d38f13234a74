"""The node's view of the shared state: what makes it read, and that nothing is missed."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import ormsgpack
import pytest

from node.snapshot import Snapshot
from shared_state.assertion import Standby
from shared_state.clock import ServerClock
from shared_state.events import Event
from shared_state.journal import Journal
from shared_state.keys import Keys
from tests.unit.node.house import NOW_MS, Watch, mesh
from tests.unit.node.scripted import pause
from tests.unit.node.virtual_time import in_virtual_time, settle_down


class Pipe:
    """Several questions in one round trip."""

    def __init__(self, store: Records) -> None:
        self._store = store
        self._answers: list[Any] = []
        self._asks_epochs = False

    def hmget(self, key: str, fields: list[str]) -> None:
        assert fields == ["epoch", "term", "copied"]
        self._asks_epochs = True
        self._answers.append((self._store.epochs[key] or None, self._store.terms[key] or None, None))

    def get(self, key: str) -> None:
        self._answers.append(self._store.current.get(key))

    async def execute(self) -> list[Any]:
        await self._store.answer("epochs" if self._asks_epochs else "pointers")
        return [_as_bytes(answer) for answer in self._answers]


def _as_bytes(answer: Any) -> Any:
    if isinstance(answer, tuple):
        return [_as_bytes(part) for part in answer]
    return None if answer is None else str(answer).encode()


class Records:
    """The records that a snapshot reads, and a count of the readings."""

    def __init__(self) -> None:
        self.keys = Keys("t")
        self.timeout_s = 0.25
        self.epochs: Counter[str] = Counter()
        self.terms: Counter[str] = Counter()
        self.states: dict[str, dict[str, str]] = {}
        self.current: dict[str, str] = {}
        self.reads: Counter[str] = Counter()
        self.error: Exception | None = None
        self.wait: Callable[[], Awaitable[object]] | None = None
        self.client = self

    def pipeline(self, *, transaction: bool) -> Pipe:
        return Pipe(self)

    def change(self, domain: str, name: str, **fields: str) -> int:
        """A script moves an entity; the new epoch."""
        self.states[name] = fields
        key = self.keys.domain(domain)
        self.epochs[key] += 1
        return self.epochs[key]

    async def run(self, script: str, keys: list[str], args: list[bytes]) -> list[Any]:
        assert script == "read_domain"
        await self.answer(keys[0])
        rows = []
        for _, name in ormsgpack.unpackb(args[0]):
            flat = [part.encode() for item in self.states.get(name, {}).items() for part in item]
            rows.append(flat)
        return [NOW_MS, self.epochs[keys[0]], self.terms[keys[0]], *rows]

    async def answer(self, what: str) -> None:
        self.reads[what] += 1
        if self.wait is not None:
            await self.wait()
        if self.error is not None:
            raise self.error


class ReturningWatch(Watch):
    """A watch that can come back."""

    def __init__(self) -> None:
        super().__init__()
        self.returns: list[Callable[[], None]] = []

    def on_return(self, callback: Callable[[], None]) -> None:
        self.returns.append(callback)

    def forget(self, callback: Callable[[], None]) -> None:
        self.returns.remove(callback)

    def come_back(self) -> None:
        self.connected = True
        for callback in self.returns:
            callback()


class Scene:
    """A snapshot over two accounts, running."""

    def __init__(self) -> None:
        self.topology = mesh("a.m", "b.m", pool={"strategy": "stick-until-failure"})
        self.store = Records()
        self.watch = ReturningWatch()
        self.clock = ServerClock()
        self.snapshot = Snapshot(self.store, self.topology, self.watch, clock=self.clock)  # type: ignore[arg-type]

    async def __aenter__(self) -> Scene:
        self.watch.come_back()
        self._task = asyncio.get_running_loop().create_task(self.snapshot.run())
        await settle_down()
        self.store.reads.clear()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])

    def reads(self, domain: str) -> int:
        return self.store.reads[self.store.keys.domain(domain)]

    def status(self, model: str) -> str:
        return self.snapshot.model(self.topology.models[model]).status


def event(domain: str, epoch: int) -> Event:
    return Event("model_deactivated", NOW_MS, epoch, domain, "model", "x", "error_threshold", 0, "other")


@pytest.fixture
def scene() -> Scene:
    return Scene()


@in_virtual_time
async def test_it_is_complete_once_everything_was_read(scene: Scene) -> None:
    """States, epochs, pointers and the server's time."""
    scene.store.change("a", "m:none", status="active")
    scene.store.states["a.m"] = {"status": "standby", "reason": "auth", "until": "7"}
    scene.store.states["b"] = {"status": "standby", "reason": "outage"}
    scene.store.current[scene.store.keys.current("chat")] = "b.m"
    assert not scene.snapshot.is_complete.is_set()

    async with scene:
        assert scene.snapshot.is_complete.is_set()
        assert scene.status("a.m") == "standby"
        assert scene.snapshot.model(scene.topology.models["a.m"]).until_ms == 7
        assert scene.snapshot.provider(scene.topology.models["b.m"]).reason == "outage"
        assert scene.snapshot.provider_state("a", "a").status == "active"
        assert scene.snapshot.epoch("a") == 1
        assert scene.snapshot.current == {"chat": "b.m"}
        assert abs(scene.clock.now_ms() - NOW_MS) < 10_000


@in_virtual_time
async def test_before_redis_was_seen_nothing_is_complete(scene: Scene) -> None:
    """Everything looks active and nobody relies on it."""
    async with scene:
        pass
    fresh = Scene()
    fresh.watch.connected = False
    task = asyncio.create_task(fresh.snapshot.run())
    await asyncio.sleep(10)
    task.cancel()

    assert not fresh.snapshot.is_complete.is_set()
    assert fresh.store.reads == {}
    assert fresh.snapshot.epoch("a") == -1


@in_virtual_time
async def test_an_event_has_its_domain_read_at_once(scene: Scene) -> None:
    """That one and no other, without time passing."""
    async with scene:
        epoch = scene.store.change("a", "a.m", status="standby", mode="trial")
        scene.snapshot.observe_event(event("a", epoch))
        await settle_down()

        assert scene.status("a.m") == "standby"
        assert (scene.reads("a"), scene.reads("b")) == (1, 0)


@in_virtual_time
async def test_the_epoch_of_a_reply_is_news_as_well(scene: Scene) -> None:
    """A node whose events are lost learns from its own traffic."""
    async with scene:
        scene.snapshot.observe_epoch("b", scene.store.change("b", "b.m", status="standby"))
        await settle_down()

        assert scene.status("b.m") == "standby"
        assert (scene.reads("a"), scene.reads("b")) == (0, 1)


@in_virtual_time
async def test_what_is_known_is_not_read_again(scene: Scene) -> None:
    """Replies carry the same epoch a thousand times a second."""
    async with scene:
        for _ in range(100):
            scene.snapshot.observe_epoch("a", scene.snapshot.epoch("a"))
        scene.snapshot.observe_epoch("nobody", 99)
        await settle_down()

        assert scene.store.reads == {}


@in_virtual_time
async def test_lost_events_cost_one_poll_interval(scene: Scene) -> None:
    """Once a second the epochs are compared, in one round trip; only what changed is read."""
    async with scene:
        scene.store.change("a", "a.m", status="standby")
        await asyncio.sleep(1.01)

        assert scene.status("a.m") == "standby"
        assert (scene.reads("a"), scene.reads("b")) == (1, 0)
        await asyncio.sleep(10)
        assert (scene.reads("a"), scene.reads("b")) == (1, 0)
        assert 10 <= scene.store.reads["epochs"] <= 12


@in_virtual_time
async def test_polling_goes_on_under_a_stream_of_events(scene: Scene) -> None:
    """Events of one domain must not starve what is only polled."""
    async with scene:
        scene.store.change("b", "b.m", status="standby")
        for _ in range(30):
            scene.snapshot.observe_event(event("a", scene.store.change("a", "a.m")))
            await asyncio.sleep(0.05)

        assert scene.status("b.m") == "standby"


@in_virtual_time
async def test_news_during_a_reading_is_read_afterwards(scene: Scene) -> None:
    """A change that comes while the domain is being read is not overlooked."""
    async with scene:
        scene.store.wait = pause(0.1)
        scene.snapshot.observe_epoch("a", scene.store.change("a", "a.m", status="standby"))
        await asyncio.sleep(0.05)
        scene.snapshot.observe_epoch("b", scene.store.change("b", "b.m", status="standby"))
        await asyncio.sleep(0.5)

        assert (scene.status("a.m"), scene.status("b.m")) == ("standby", "standby")


@in_virtual_time
async def test_pointers_move_with_every_reading(scene: Scene) -> None:
    """Another node's move is seen by the next poll."""
    async with scene:
        scene.store.current[scene.store.keys.current("chat")] = "b.m"
        await asyncio.sleep(1.01)

        assert scene.snapshot.current == {"chat": "b.m"}


@in_virtual_time
async def test_without_redis_the_last_view_stays(scene: Scene) -> None:
    """A failure is reported once, and nothing is asked until the watch says so."""
    async with scene:
        epoch = scene.store.change("a", "a.m", status="standby")
        scene.snapshot.observe_epoch("a", epoch)
        await settle_down()
        scene.store.error = TimeoutError()
        await asyncio.sleep(1.01)
        asked = scene.store.reads.total()
        await asyncio.sleep(30)

        assert len(scene.watch.failures) == 1
        assert scene.store.reads.total() == asked
        assert scene.status("a.m") == "standby"
        assert scene.snapshot.is_complete.is_set()


@in_virtual_time
async def test_everything_is_read_again_when_redis_returns(scene: Scene) -> None:
    """Also a domain whose epoch looks the same: the server may have lost its tail."""
    async with scene:
        scene.watch.connected = False
        scene.store.states["a.m"] = {"status": "standby"}
        await asyncio.sleep(5)
        assert scene.store.reads == {}
        scene.watch.come_back()
        await settle_down()

        assert scene.status("a.m") == "standby"
        assert (scene.reads("a"), scene.reads("b")) == (1, 1)


@in_virtual_time
async def test_a_gap_in_the_events_has_everything_read(scene: Scene) -> None:
    """After a new subscription nobody knows what was missed."""
    async with scene:
        scene.snapshot.refresh_all()
        await settle_down()

        assert (scene.reads("a"), scene.reads("b")) == (1, 1)


@in_virtual_time
async def test_an_epoch_that_went_back_is_news(scene: Scene) -> None:
    """An empty restart or a replica behind its master: what is there now counts."""
    async with scene:
        scene.snapshot.observe_epoch("a", scene.store.change("a", "a.m", status="standby"))
        await settle_down()
        scene.store.epochs.clear()
        scene.store.states.clear()
        await asyncio.sleep(1.01)

        assert scene.snapshot.epoch("a") == 0
        assert scene.status("a.m") == "active"


class Asserting:
    """A ledger, as far as a snapshot can see it."""

    def __init__(self, term: int) -> None:
        self.term = term
        self.seen: list[int] = []
        self.journal = Journal()

    def observe_term(self, term: int) -> bool:
        self.seen.append(term)
        return term == self.term


@in_virtual_time
async def test_what_another_server_says_waits_for_this_nodes_assertion(scene: Scene) -> None:
    """Else the node would forget the very standby that the server has forgotten."""
    ledger = Asserting(term=5)
    scene.store.terms[scene.store.keys.domain("a")] = 5
    scene.snapshot.follow({"a": ledger})  # type: ignore[dict-item]
    async with scene:
        epoch = scene.store.change("a", "a.m", status="standby", mode="manual", reason="manual", until="0")
        scene.snapshot.observe_epoch("a", epoch)
        await settle_down()
        scene.store.epochs.clear()
        scene.store.states.clear()
        scene.store.terms[scene.store.keys.domain("a")] = 6
        await asyncio.sleep(1.01)
        before = (scene.status("a.m"), scene.snapshot.epoch("a"), scene.snapshot.standbys("a"))
        ledger.term = 6
        scene.snapshot.refresh("a")
        await settle_down()

    assert before == ("standby", epoch, [Standby("model", "a.m", "manual", "manual", 0)])
    assert 6 in ledger.seen
    assert (scene.status("a.m"), scene.snapshot.standbys("a")) == ("active", [])


@in_virtual_time
async def test_the_view_of_another_configuration_begins_with_what_is_known(scene: Scene) -> None:
    """It is complete when it has read what is new, shares the pointers, and is told of a return of Redis until it is closed."""
    scene.store.states["a.m"] = {"status": "standby", "reason": "auth", "until": "7"}
    scene.store.change("a", "m:none", status="active")
    async with scene:
        heir = scene.snapshot.succeed(mesh("a.m", "c.m"))
        model = heir.topology.models["a.m"]
        known, was_complete = heir.model(model).status, heir.is_complete.is_set()
        task = asyncio.get_running_loop().create_task(heir.run())
        await settle_down()
        is_complete = heir.is_complete.is_set()
        task.cancel()
        registered = heir.refresh_all in scene.watch.returns
        heir.close()

        assert (known, was_complete, is_complete) == ("standby", False, True)
        assert heir.current is scene.snapshot.current
        assert heir.epoch_of("b.m") == -1
        assert registered
        assert heir.refresh_all not in scene.watch.returns
