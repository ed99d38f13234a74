"""Targets of events on a real server: told at least once whoever leads, without doubles where nothing went wrong, without anybody waiting."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
import pytest

from scheduler.jobs.telling import Telling
from scheduler.news import KEPT, News
from scheduler.service import SchedulerService
from scheduler.sinks import SqliteSink
from scheduler.sinks.events import EventTarget, TargetError, make_target
from shared_state.client_keys import ClientKey, ClientKeys, new_key_text
from shared_state.config.observability import EventTargetConfig
from shared_state.config.root import MeshConfig
from shared_state.directory import DomainDirectory
from shared_state.domains import order, tell
from shared_state.errors import FencedOffError
from shared_state.marks import Mark, keep_mark, read_mark
from shared_state.store import Store
from shared_state.topology import Topology, build_topology
from tests.redis.scheduler_ground import DOMAIN, MODEL, make_config, make_topology
from tests.support.processes import wait_until
from tests.support.valkey import ValkeyServer
from tests.support.webhooks import Receiver

ALL = {"min_severity": "debug"}


@pytest.fixture
async def store(valkey_server: ValkeyServer, namespace: str) -> AsyncIterator[Store]:
    store = Store(valkey_server.url, namespace=namespace, timeout_s=5.0)
    yield store
    await store.aclose()


@pytest.fixture(scope="module")
def topology() -> Topology:
    return make_topology()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as receiver:
        yield receiver


class Memory(EventTarget):
    """Remembers what it was told, and fails when ``faults`` says so, call by call."""

    def __init__(self, faults: Sequence[TargetError | None] = (), *, most: int = 500) -> None:
        self.records: list[dict[str, Any]] = []
        self.faults = list(faults)
        self.most = most

    async def tell(self, records: Sequence[dict[str, Any]]) -> None:
        if self.faults and (fault := self.faults.pop(0)) is not None:
            raise fault
        self.records += records

    @property
    def subjects(self) -> list[str]:
        return [record["reason"] for record in self.records]


def telling(store: Store, topology: Topology, target: EventTarget | None = None, **options: Any) -> Telling:
    """The job of a target; without one, of that which the options describe."""
    config = EventTargetConfig.model_validate({**ALL, **options})
    news = News(store, topology, DomainDirectory(store, topology), fresh_s=0)
    return Telling(store, news, "t", config, target or make_target(config), draw=lambda: 0.0)


async def say(store: Store, *reasons: str, event: str = "model_rotated") -> None:
    """Events about the model, in that order."""
    for reason in reasons:
        await tell(store, DOMAIN, event=event, name=MODEL, reason=reason, node="n")


async def test_a_target_hears_what_happens_from_its_first_day_on(store: Store, topology: Topology) -> None:
    """Not what was before; each event once, in order, with all that is known of it."""
    await say(store, "before")
    memory = Memory()
    job = telling(store, topology, memory)
    await job.run(1)
    await say(store, "one", "two")
    await order(store, DOMAIN, kind="model", name=MODEL, action="deactivate", reason="lunch")
    await job.run(1)
    await job.run(1)

    assert memory.subjects == ["one", "two", "lunch"]
    last = memory.records[-1]
    assert (last["type"], last["event_type"], last["severity"]) == ("event", "model_deactivated", "warning")
    assert (last["model_id"], last["provider_id"], last["domain"]) == (MODEL, None, DOMAIN)
    assert len({record["id"] for record in memory.records}) == 3


async def test_events_of_versions_and_client_keys_are_told_too(store: Store, topology: Topology) -> None:
    """They belong to no quota domain."""
    memory = Memory()
    job = telling(store, topology, memory)
    await job.run(1)
    text = new_key_text()
    await ClientKeys(store, None).put(ClientKey(id="k1", name="k", created=0.0), text, node="n")
    await job.run(1)

    assert [record["event_type"] for record in memory.records] == ["key_created"]
    assert text not in str(memory.records)


async def test_whoever_leads_next_goes_on_where_the_last_one_stopped(
    store: Store, topology: Topology
) -> None:
    """No event is lost between two leaders, and none told twice that was marked; the old one can mark nothing any more."""
    first, second = Memory(), Memory()
    old, new = telling(store, topology, first), telling(store, topology, second)
    await old.run(1)
    await say(store, "a")
    await old.run(1)
    await say(store, "b")
    await new.run(2)
    await say(store, "c")
    with pytest.raises(FencedOffError):
        await old.run(1)
    await new.run(2)

    assert second.subjects == ["b", "c"]
    assert first.subjects[:1] == ["a"]


async def test_a_crash_between_telling_and_marking_tells_again_with_the_same_id(
    store: Store, topology: Topology
) -> None:
    """At least once; the receiver knows the repeat by its id."""
    first, second = Memory(), Memory()
    job = telling(store, topology, first)
    await job.run(1)
    mark = await read_mark(store, "t")
    assert mark is not None
    await say(store, "a")
    await job.run(1)
    await keep_mark(store, "t", mark, token=1)
    await telling(store, topology, second).run(2)

    assert first.records == second.records != []


async def test_what_is_not_taken_waits_and_is_told_later(store: Store, topology: Topology) -> None:
    """An outage costs nothing but time; its beginning and its length show in the mark."""
    memory = Memory([TargetError("away"), TargetError("away")])
    job = telling(store, topology, memory, connector="modelmesh.webhook.v1", url="http://x", retry_count=1)
    await job.run(1)
    await say(store, "a")
    marks = []
    for _ in range(3):
        with suppress(TargetError):
            await job.run(1)
        marks.append(await read_mark(store, "t"))
        job._resume_at = 0.0
    await say(store, "b")
    await job.run(1)

    assert [(m.waiting, m.is_down) for m in marks if m] == [(1, False), (1, True), (0, False)]
    assert memory.subjects == ["a", "b"]
    assert (await read_mark(store, "t") or Mark(0)).lost == 0


async def test_what_waits_when_a_leader_dies_is_told_by_the_next(store: Store, topology: Topology) -> None:
    """Neither what was told is told again, nor what was not is passed over; whatever was told of other lists meanwhile."""
    first, second = Memory([None, TargetError("away")], most=1), Memory()
    old = telling(store, topology, first)
    await old.run(1)
    await say(store, "a", "b", "c")
    with pytest.raises(TargetError):
        await old.run(1)
    with pytest.raises(TargetError):
        await old.run(1)
    await telling(store, topology, second).run(2)

    assert first.subjects == ["a"]
    assert second.subjects == ["b", "c"]


async def test_a_target_that_is_down_is_left_alone_for_a_while(store: Store, topology: Topology) -> None:
    """Runs in between do not call it, and say the same as before."""
    memory = Memory([TargetError("away", wait_s=60.0), TargetError("never asked")])
    job = telling(store, topology, memory)
    await job.run(1)
    await say(store, "a")
    for _ in range(3):
        with pytest.raises(TargetError, match="away"):
            await job.run(1)

    assert len(memory.faults) == 1


async def test_the_oldest_go_when_too_many_wait_and_are_counted(store: Store, topology: Topology) -> None:
    """Memory is bounded; what was lost is known."""
    memory = Memory([TargetError("away")])
    job = telling(
        store, topology, memory, connector="modelmesh.callback.v1", on_event="os.getpid", max_waiting=2
    )
    await job.run(1)
    await say(store, "a", "b", "c")
    with pytest.raises(TargetError):
        await job.run(1)
    job._resume_at = 0.0
    await job.run(1)
    mark = await read_mark(store, "t")

    assert memory.subjects == ["b", "c"]
    assert mark is not None
    assert (mark.lost, mark.delivered, mark.waiting) == (1, 2, 0)


async def test_an_event_that_is_refused_does_not_take_its_neighbours_along(
    store: Store, topology: Topology
) -> None:
    """A list that is refused is told one by one; what is refused alone is given up."""
    refusal = TargetError("answered 400", is_final=True)
    memory = Memory([refusal, refusal])
    job = telling(store, topology, memory)
    await job.run(1)
    await say(store, "poison", "good", "fine")
    await job.run(1)
    mark = await read_mark(store, "t")

    assert memory.subjects == ["good", "fine"]
    assert mark is not None
    assert (mark.lost, mark.delivered) == (1, 2)


async def test_events_that_left_their_list_unread_are_counted(store: Store, topology: Topology) -> None:
    """More than a list holds between two looks: what is left is told, the gap is admitted."""
    memory = Memory()
    job = telling(store, topology, memory)
    await say(store, "before")
    await job.run(1)
    news = await store.command("LINDEX", store.keys.news(DOMAIN), 0)
    event = orjson.loads(news)
    for number in range(KEPT):
        raw = orjson.dumps({**event, "time": event["time"] + 1, "reason": str(number)})
        await store.command("LPUSH", store.keys.news(DOMAIN), raw)
    await store.command("LTRIM", store.keys.news(DOMAIN), 0, KEPT - 1)
    await job.run(1)
    mark = await read_mark(store, "t")

    assert [str(number) for number in range(KEPT)] == memory.subjects
    assert mark is not None
    assert mark.lost == 1


async def test_filters_choose_and_what_they_leave_out_is_passed_over(
    store: Store, topology: Topology
) -> None:
    """By type and by severity; a leader that comes later does not look at it again."""
    memory = Memory()
    job = telling(
        store, topology, memory, filter=["model_d*"], min_severity="warning", include_metadata=False
    )
    await job.run(1)
    await say(store, "rotated")
    await say(store, "found", event="model_discovered")
    await say(store, "gone", event="model_deprecated")
    await job.run(1)
    other = Memory()
    await telling(store, topology, other).run(2)

    assert memory.subjects == ["gone"]
    assert "metadata" not in memory.records[0]
    assert other.records == []


async def test_files_and_two_leaders_make_one_line_of_each_event(
    store: Store, topology: Topology, tmp_path: Path
) -> None:
    """JSON lines in one file, whoever writes it."""
    path = tmp_path / "logs" / "events.jsonl"
    options = {"connector": "modelmesh.json-log.v1", "path": str(path)}
    await telling(store, topology, **options).run(1)
    await say(store, "a")
    await telling(store, topology, **options).run(2)
    await say(store, "b")
    await telling(store, topology, **options).run(3)

    lines = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    assert [line["reason"] for line in lines] == ["a", "b"]


async def test_a_webhook_that_fails_is_called_again_and_only_then_marked(
    store: Store, topology: Topology, receiver: Receiver
) -> None:
    """A real receiver: it fails, it comes back; headers, signature and body are what the page says."""
    receiver.statuses = [503]
    job = telling(
        store,
        topology,
        connector="modelmesh.webhook.v1",
        url=receiver.url + "/hooks/verysecret",
        headers={"authorization": "Bearer topsecret"},
        secret="s3cret",
    )
    await job.run(1)
    await say(store, "a")
    with pytest.raises(TargetError, match="answered 503") as caught:
        await job.run(1)
    job._resume_at = 0.0
    await job.run(1)
    await job.aclose()

    first, second = receiver.calls
    assert "secret" not in str(caught.value)
    assert first.body == second.body
    assert second.headers["authorization"] == "Bearer topsecret"
    assert receiver.sign(second.body, b"s3cret") == second.headers["x-modelmesh-signature"]
    assert orjson.loads(second.body)["id"] == second.headers["x-modelmesh-event-id"]


async def test_lists_and_templates(store: Store, topology: Topology, receiver: Receiver) -> None:
    """Above a batch of one a list is sent; a template makes a body of one's own, whatever is in the fields."""
    url = {"connector": "modelmesh.webhook.v1", "url": receiver.url}
    lists = telling(store, topology, **url, batch_size=10)
    await lists.run(1)
    await say(store, "a", 'b"}')
    await lists.run(1)
    text = telling(store, topology, **url, template={"text": "{event_type} of {model_id}: {reason}"})
    await text.run(2)
    await say(store, 'c"}')
    await text.run(2)
    await asyncio.gather(lists.aclose(), text.aclose())

    bodies = [orjson.loads(call.body) for call in receiver.calls]
    assert [record["reason"] for record in bodies[0]] == ["a", 'b"}']
    assert {"text": f'model_rotated of {MODEL}: c"}}'} == bodies[1]


async def test_two_schedulers_tell_each_event_once(store: Store, tmp_path: Path) -> None:
    """The one that leads tells, also while the other stands by; the other goes on after it, with nothing left out between them."""
    path = tmp_path / "events.jsonl"
    target = {"connector": "modelmesh.json-log.v1", "path": str(path), **ALL}
    config = {**make_config(), "observability": {"events": [target]}}
    topology = build_topology(MeshConfig.model_validate(config))
    sink = SqliteSink(tmp_path / "statistics.db")
    await sink.open()
    first, second = (SchedulerService(store, topology, sink, owner=owner) for owner in ("a", "b"))
    first.start()
    await wait_until(lambda: first.reports.of("events:json-log").runs)
    second.start()
    await say(store, "a", "b")
    await wait_until(lambda: _reasons(path) == ["a", "b"])
    await first.stop()
    await say(store, "between")
    await wait_until(lambda: _reasons(path) == ["a", "b", "between"])
    mark = await wait_until(lambda: _mark_of(store, delivered=3))
    await second.stop()
    await sink.aclose()

    assert _reasons(path) == ["a", "b", "between"]
    assert (mark.lost, mark.waiting, mark.is_down) == (0, 0, False)


def _reasons(path: Path) -> list[str]:
    if not path.exists():
        return []
    lines = [orjson.loads(line) for line in path.read_bytes().splitlines()]
    return [line["reason"] for line in lines if line["event_type"] == "model_rotated"]


async def _mark_of(store: Store, *, delivered: int) -> Mark | None:
    mark = await read_mark(store, "json-log")
    return mark if mark and mark.delivered >= delivered else None
