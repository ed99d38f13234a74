"""Durable copies: what a server has lost comes back, nothing twice, nothing that has passed, and only where something is missing."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scheduler.jobs.copies import Copies
from scheduler.service import SchedulerService
from scheduler.sinks import SinkError, SqliteSink
from shared_state import copies as copies_module
from shared_state.assertion import Correction
from shared_state.copies import DomainCopy, decode_copy, mark_copied, read_copy, restore_copy
from shared_state.domains import abandon_of_nodes
from shared_state.errors import FencedOffError
from shared_state.events import decode_event
from shared_state.ledger import Amounts, Code, LeaseWish, Outcome
from shared_state.store import STORE_ERRORS, Store
from tests.redis.ground import (
    BIG,
    DOMAIN,
    EPOCH_MS,
    LEASE_MS,
    PROVIDER,
    SMALL,
    Bench,
    Caller,
    Only,
    make_domain,
)
from tests.redis.scheduler_ground import FlakySink, make_topology
from tests.redis.scheduler_ground import Node as TrafficNode
from tests.support.processes import wait_until
from tests.support.valkey import ValkeyServer
from tests.support.valkey_fleet import ClusterFleet, SentinelFleet

TOKEN = 1000
#: Longer than assertions wait for a copy, and than plain admissions are held up.
HOLD_MS = 2001
MINUTE_MS, DAY_MS = 60_000, 86_400_000


@pytest.fixture
async def sink(tmp_path: Path) -> AsyncIterator[SqliteSink]:
    async with aclosing(SqliteSink(tmp_path / "statistics.db")) as sink:
        await sink.open()
        yield sink


class Scene:
    """A domain at a steered clock, its scheduler's copies, and the losses that befall it."""

    def __init__(self, bench: Bench, sink: SqliteSink) -> None:
        self.bench = bench
        self.store = bench.store
        self.sink = sink
        self.copies = self.successor()
        self.key = self.store.keys.domain(DOMAIN)

    def successor(self, sink: Any = None) -> Copies:
        """The copies of another scheduler, which knows only what is stored."""
        return Copies(self.store, Only(self.bench.domain), sink or self.sink)

    async def keys(self) -> list[bytes]:
        return [key async for key in self.store.client.scan_iter(f"{self.key}*", count=1000)]

    async def lose(self) -> None:
        """The server comes back empty."""
        await self.store.client.delete(*await self.keys())

    async def save(self) -> dict[bytes, bytes]:
        """What a fallen-back server will remember."""
        return {key: await self.store.client.dump(key) for key in await self.keys()}

    async def fall_back(self, saved: dict[bytes, bytes]) -> None:
        """The server comes back with older data."""
        await self.lose()
        for key, dumped in saved.items():
            await self.store.client.restore(key, 0, dumped)

    async def resume(self) -> Correction:
        """The node of before finds another term, waits for the copy, and says what is missing still; then the hold passes."""
        await self.bench.admit()
        await self.copies.watch(TOKEN)
        correction = await self.bench.assert_known()
        await self.store.pass_time(HOLD_MS)
        await self.bench.ledger.read_hold()
        return correction

    def stranger(self, name: str = "n9") -> Caller:
        """A node that has seen nothing of what was before, so that nothing holds it up."""
        return Caller(self.store, self.bench.domain, node=name)

    async def rate_limit(self, *, for_ms: int) -> None:
        """A stranger is asked to wait."""
        other = self.stranger()
        reservation, verdict = await other.admit()
        assert verdict.code == Code.ADMITTED
        options: dict[str, Any] = {"pool": self.bench.pool, "retry_after_ms": for_ms}
        await other.settle(reservation, Outcome.RATE_LIMITED, **options)

    async def fields(self) -> dict[str, str]:
        """Of the domain itself."""
        raw = await self.store.client.hgetall(self.key)
        return {name.decode(): value.decode() for name, value in raw.items()}

    async def restored(self) -> list[dict[str, Any]]:
        """Events of restores."""
        return [event for event in await self.bench.news() if event["type"] == "state_restored"]

    async def assert_balanced(self) -> None:
        books = await self.bench.books()
        assert books.is_balanced, books


@pytest.fixture
def scene(bench: Callable[..., Bench], sink: SqliteSink) -> Callable[..., Scene]:
    """``scene(small={...}, account={...})``."""
    return lambda **limits: Scene(bench(**limits), sink)


class TestEmptyRestart:
    async def test_windows_refuse_as_before_and_books_go_on(self, scene: Callable[..., Scene]) -> None:
        """Every kind of window, on model and account; reservations settle, the news is told."""
        s = scene(
            account={"rpm": 100, "tpd": 4000},
            small={"rpm": 5, "rpd": 50, "tpm": 1000, "concurrency": 4, "tph": 5000},
            big={"tpm": 1000, "algorithms": {"tpm": "token_bucket"}, "min_delta": 30},
        )
        held = [(await s.bench.admit(tokens=(100, 50)))[0] for _ in range(3)]
        await s.bench.attempt(tokens_in=10, tokens_out=5)
        await s.bench.admit(BIG, tokens=(300, 0))
        await s.store.pass_time(5000)
        used, books = await s.bench.used(), await s.bench.books()
        await s.copies.run(TOKEN)

        await s.lose()
        await s.store.pass_time(2000)
        await s.copies.watch(TOKEN)

        after = await s.bench.used()
        for window in used.keys() - {(BIG, "tpm")}:
            assert after[window] == used[window], window
        assert (used[BIG, "tpm"][0], after[BIG, "tpm"][0]) == (216, 183)  # it has drained meanwhile
        assert (await s.bench.books()).rows == books.rows
        (event,) = await s.restored()
        assert (event["kind"], event["id"], event["node"]) == ("domain", DOMAIN, "scheduler")
        assert event["numbers"] == {"age_ms": 2000, "reservations": 4, "books": 5}
        correction = await s.resume()
        assert (correction.admissions, correction.settlements, correction.cause) == (0, 0, "empty")
        assert (await s.bench.admit(BIG))[1].name == "min_delta"
        assert [await s.bench.end(r, tokens_in=50, tokens_out=10) for r in held] == [True] * 3
        assert (await s.bench.used())[SMALL, "tpm"][0] == 15 + 3 * 60
        assert [verdict.code for verdict in await s.bench.admit_many(3)] == [0, Code.AT_LIMIT, Code.AT_LIMIT]
        await s.assert_balanced()

    async def test_buckets_keep_their_own_time(self, scene: Callable[..., Scene]) -> None:
        """What was used a minute ago is free a minute later, not a minute after the restore."""
        s = scene(small={"rpm": 3})
        await s.bench.admit_many(2)
        await s.store.pass_time(30_000)
        await s.bench.admit_many(1)
        await s.copies.run(TOKEN)
        await s.lose()
        await s.store.pass_time(20_000)
        await s.copies.watch(TOKEN)
        await s.resume()

        assert (await s.bench.admit())[1].code == Code.AT_LIMIT
        await s.store.pass_time(11_000 - HOLD_MS)
        codes = [verdict.code for verdict in await s.bench.admit_many(3)]
        assert codes == [Code.ADMITTED, Code.ADMITTED, Code.AT_LIMIT]
        await s.store.pass_time(2 * MINUTE_MS)
        assert (await s.bench.used())[SMALL, "rpm"][0] == 0

    async def test_what_has_passed_is_not_restored(self, scene: Callable[..., Scene]) -> None:
        """Neither a minute nor a day that is over; the books all the same, and the reservations, to be abandoned."""
        s = scene(small={"rpm": 3, "rpd": 5})
        await s.bench.admit_many(3)
        await s.copies.run(TOKEN)
        await s.lose()
        await s.store.pass_time(DAY_MS)
        s.bench.clock.observe(EPOCH_MS + DAY_MS)
        other = s.stranger()
        await other.admit()
        await s.copies.watch(TOKEN)
        await s.store.pass_time(2 * MINUTE_MS)

        assert {name: used for (_, name), (used, _) in (await s.bench.used()).items()} == {"rpm": 0, "rpd": 1}
        await other.admit()
        (row,) = (await s.bench.books()).rows
        assert (row.admitted, row.abandoned, row.in_flight, row.difference) == (5, 3, 2, 0)

    async def test_what_was_admitted_meanwhile_is_added(self, scene: Callable[..., Scene]) -> None:
        """Before the copy was back others used the empty windows; both count."""
        s = scene(small={"rpm": 6, "rpd": 10})
        await s.bench.admit_many(3)
        await s.copies.run(TOKEN)
        await s.lose()
        other = s.stranger()
        meanwhile = [await other.admit() for _ in range(2)]
        await s.copies.watch(TOKEN)

        used = await s.bench.used()
        assert (used[SMALL, "rpm"][0], used[SMALL, "rpd"][0]) == (5, 5)
        codes = [verdict.code for verdict in await other.admit_many(2)]
        assert codes == [Code.ADMITTED, Code.AT_LIMIT]
        assert await other.settle(meanwhile[0][0], pool=s.bench.pool)
        await s.assert_balanced()

    async def test_a_reservation_that_its_node_has_brought_back_is_booked_once(
        self, scene: Callable[..., Scene]
    ) -> None:
        """No scheduler was there in time, so it has said again what it knew; the windows count it twice, which is safe."""
        s = scene(small={"rpm": 9})
        for _ in range(2):
            await s.bench.admit()
        await s.stranger().admit()
        await s.copies.run(TOKEN)
        await s.lose()
        await s.bench.admit()
        await s.store.pass_time(HOLD_MS)
        assert (await s.bench.assert_known()).admissions == 2
        await s.copies.watch(TOKEN)

        (row,) = (await s.bench.books()).rows
        assert (row.admitted, row.in_flight, row.difference) == (3, 3, 0)
        assert (await s.bench.used())[SMALL, "rpm"][0] == 5
        await s.assert_balanced()

    async def test_twice_is_once_and_an_older_token_does_nothing(self, scene: Callable[..., Scene]) -> None:
        """A call whose answer was lost is sent again; a leader that slept finds the script closed."""
        s = scene(small={"rpm": 9})
        await s.bench.admit_many(3)
        await s.copies.run(TOKEN)
        stored = await s.sink.latest_copy(s.key)
        assert stored is not None
        copy = decode_copy(stored.blob)
        await s.lose()

        assert await restore_copy(s.store, s.bench.domain, copy, token=TOKEN) is not None
        assert await restore_copy(s.store, s.bench.domain, copy, token=TOKEN) is None
        await s.successor().run(TOKEN + 1)
        with pytest.raises(FencedOffError):
            await restore_copy(s.store, s.bench.domain, copy, token=TOKEN)
        with pytest.raises(FencedOffError):
            await s.copies.run(TOKEN)
        assert (await s.bench.used())[SMALL, "rpm"][0] == 3
        assert len(await s.restored()) == 1

    async def test_the_script_judges_for_itself(self, scene: Callable[..., Scene]) -> None:
        """Between the look and the restore others may have been there: it has been restored, or nothing is missing, or only the
        difference to another copy is at hand. Nodes are released in the same moment.
        """
        s = scene(small={"rpd": 9})
        await s.bench.admit_many(3)
        await s.copies.run(TOKEN)
        stored = await s.sink.latest_copy(s.key)
        assert stored is not None
        copy = decode_copy(stored.blob)

        async def restores(copy: DomainCopy) -> bool:
            await s.store.client.hset(s.key, "wants_copy", 1)
            is_restored = await restore_copy(s.store, s.bench.domain, copy, token=TOKEN) is not None
            assert copy.base_ms or "wants_copy" not in await s.fields()
            return is_restored

        await s.store.client.hdel(s.key, "copied")
        assert not await restores(copy)
        await s.lose()
        assert not await restores(replace(copy, base_ms=copy.taken_ms - 1))
        assert await restores(copy)
        await s.store.client.delete(s.store.keys.books(DOMAIN))
        assert not await restores(copy)

    async def test_closed_minutes_and_alerts_stay_what_they_were(self, scene: Callable[..., Scene]) -> None:
        """No minute that was flushed is opened again, nobody is alarmed twice."""
        s = scene(small={"usd_per_day": 10**-5})
        for _ in range(8):  # another call like these still fits into the day
            await s.bench.attempt(cost_nano=1000)
        await s.copies.run(TOKEN)
        minute = (await s.fields())["minute"]
        await s.lose()
        await s.store.pass_time(-2 * MINUTE_MS)
        await s.copies.watch(TOKEN)
        other = s.stranger()
        reservation, verdict = await other.admit()
        assert verdict.code == Code.ADMITTED
        await other.settle(reservation, pool=s.bench.pool, cost_nano=0)

        assert (await s.fields())["minute"] == minute
        assert "budget_alert" not in [event["type"] for event in await s.bench.news()]

    async def test_everything_that_was_used_is_used_afterwards(self, scene: Callable[..., Scene]) -> None:
        """Whatever happened before: random traffic, copied and lost and restored, leaves every window as it was."""
        draw = random.Random(4)
        s = scene(
            account={"rpm": 60, "tpd": 100_000},
            small={"rpm": 40, "tpm": 9000, "rpd": 500, "concurrency": 20},
            big={"rph": 90, "tpm": 5000, "usd_per_day": 1.0},
        )
        for _ in range(4):
            for _ in range(25):
                await s.store.pass_time(draw.choice([1, 300, 4000]))
                model = draw.choice([SMALL, BIG])
                reservation, verdict = await s.bench.admit(model, tokens=(draw.randrange(200), 50))
                if not verdict.code and draw.random() < 0.7:
                    outcome = draw.choice([Outcome.SUCCESS, Outcome.SUCCESS, Outcome.NEUTRAL])
                    await s.bench.end(reservation, outcome, tokens_in=draw.randrange(300), tokens_out=9)
            await s.copies.run(TOKEN)
            used, books = await s.bench.used(), await s.bench.books()
            await s.lose()
            await s.copies.run(TOKEN)

            assert await s.bench.used() == used
            assert (await s.bench.books()).rows == books.rows
            await s.assert_balanced()


class TestStates:
    async def test_a_standby_comes_back_with_its_time(self, scene: Callable[..., Scene]) -> None:
        """And with its place in the due list; the epoch is later than both."""
        s = scene()
        await s.bench.attempt(Outcome.RATE_LIMITED, retry_after_ms=30_000)
        await s.bench.attempt(Outcome.CREDENTIALS, BIG)
        before, epoch = (await s.bench.model(), await s.bench.provider()), await s.bench.epoch()
        due = await s.bench.due()
        await s.copies.run(TOKEN)
        await s.lose()
        await s.copies.watch(TOKEN)

        assert (await s.bench.model(), await s.bench.provider()) == before
        assert await s.bench.epoch() == epoch + 1
        assert await s.bench.due() == due
        assert due.keys() == {f"m:{SMALL}", f"p:{PROVIDER}"}

    async def test_a_later_standby_is_not_shortened_and_an_order_stands(
        self, scene: Callable[..., Scene]
    ) -> None:
        """What was learned and ordered since the loss is newer than the copy."""
        s = scene()
        await s.bench.attempt(Outcome.RATE_LIMITED, retry_after_ms=10_000)
        await s.bench.attempt(Outcome.RATE_LIMITED, BIG, retry_after_ms=10_000)
        await s.copies.run(TOKEN)
        await s.lose()
        await s.store.pass_time(1000)
        await s.rate_limit(for_ms=60_000)
        await s.bench.order("activate", name=BIG)
        later = await s.bench.model()
        await s.copies.watch(TOKEN)

        assert await s.bench.model() == later
        assert (await s.bench.model(BIG)).status == "active"

    async def test_a_shorter_standby_is_lengthened(self, scene: Callable[..., Scene]) -> None:
        """Unless an operator gave it."""
        s = scene()
        for model in (SMALL, BIG):
            await s.bench.attempt(Outcome.RATE_LIMITED, model, retry_after_ms=60_000)
        before = await s.bench.model()
        await s.copies.run(TOKEN)
        await s.lose()
        await s.rate_limit(for_ms=5000)
        await s.bench.order("deactivate", name=BIG, for_s=5)
        await s.copies.watch(TOKEN)

        assert (await s.bench.model()).until_ms == before.until_ms
        assert (await s.bench.model(BIG)).until_ms == EPOCH_MS + 5000


class TestFallBack:
    async def test_only_what_was_counted_since_is_added(self, scene: Callable[..., Scene]) -> None:
        """The server still has all of the copy before: counting it again would fill a day's window twice."""
        s = scene(small={"rpd": 100, "rpm": 50, "tph": 9000}, account={"tpd": 99_000})
        old = [(await s.bench.admit(tokens=(10, 10)))[0] for _ in range(4)]
        await s.copies.run(TOKEN)
        await s.bench.end(old[0], tokens_in=10, tokens_out=10)
        between, _ = await s.bench.admit(tokens=(10, 10))
        saved = await s.save()
        await s.bench.end(old[1], tokens_in=10, tokens_out=10)
        lost, _ = await s.bench.admit(tokens=(10, 10))
        await s.copies.run(TOKEN)

        await s.fall_back(saved)
        await s.bench.admit(tokens=(10, 10))
        await s.copies.watch(TOKEN)

        used = await s.bench.used()
        assert (
            used[SMALL, "rpd"][0] == 4 + 1 + 2 + 1
        )  # `between` counts twice, for nobody knows that it was there
        assert used["", "tpd"][0] == 20 * 8
        (row,) = (await s.bench.books()).rows
        assert row.difference == 0
        assert row.admitted == 7
        assert await s.bench.end(lost)
        assert await s.bench.end(between)
        assert not await s.bench.end(old[1])
        await s.assert_balanced()

    async def test_the_next_scheduler_notices_it_too(self, scene: Callable[..., Scene]) -> None:
        """It has never seen the server before; the storage tells it what is missing."""
        s = scene(small={"rpd": 9})
        await s.bench.admit_many(2)
        await s.copies.run(TOKEN)
        saved = await s.save()
        await s.bench.admit_many(3)
        await s.copies.run(TOKEN)
        await s.fall_back(saved)

        await s.successor().run(TOKEN + 1)

        assert (await s.bench.used())[SMALL, "rpd"][0] == 5
        (row,) = (await s.bench.books()).rows
        assert (row.admitted, row.in_flight) == (5, 5)

    async def test_a_server_that_has_all_of_it_is_left_alone(self, scene: Callable[..., Scene]) -> None:
        """Also one that lost only the mark, or whose copy is older."""
        s = scene(small={"rpd": 9})
        await s.bench.admit_many(2)
        await s.copies.run(TOKEN)
        await s.bench.admit_many(1)
        for copies in (s.copies, s.successor()):
            await copies.watch(TOKEN)
            await s.store.client.hdel(s.key, "copied", "copying")
            await copies.watch(TOKEN)

        assert (await s.bench.used())[SMALL, "rpd"][0] == 3
        assert await s.restored() == []


class TestTaking:
    async def test_a_loss_between_reading_and_marking_is_not_marked(
        self, scene: Callable[..., Scene]
    ) -> None:
        """Else the empty domain would seem to be copied, and the copy would never come back."""
        s = scene(small={"rpd": 9})
        await s.bench.admit_many(3)

        class Losing(FlakySink):
            async def save_copy(self, domain: str, taken_ms: int, blob: bytes) -> None:
                await super().save_copy(domain, taken_ms, blob)
                await s.lose()

        copies = s.successor(Losing(s.sink))
        await copies.run(TOKEN)
        assert "copied" not in await s.fields()
        await copies.watch(TOKEN)
        assert (await s.bench.used())[SMALL, "rpd"][0] == 3

    @pytest.mark.parametrize("where", ["fails_before", "fails_after"])
    async def test_a_sink_that_fails_leaves_the_copy_before(
        self, scene: Callable[..., Scene], where: str
    ) -> None:
        """The domain is not marked; the next copy makes it good."""
        s = scene(small={"rpd": 9})
        flaky = FlakySink(s.sink)
        copies = s.successor(flaky)
        await s.bench.admit_many(1)
        await copies.run(TOKEN)
        copied = (await s.fields())["copied"]
        await s.bench.admit_many(1)
        setattr(flaky, where, True)
        with pytest.raises(SinkError):
            await copies.run(TOKEN)
        assert (await s.fields())["copied"] == copied

        setattr(flaky, where, False)
        await copies.run(TOKEN)
        assert int((await s.fields())["copied"]) > int(copied)

    async def test_an_idle_domain_is_not_stored_again(self, scene: Callable[..., Scene]) -> None:
        """And a loss is never copied over a good copy."""
        s = scene(small={"rpd": 9})
        await s.bench.admit_many(1)
        await s.copies.run(TOKEN)
        first = await s.sink.latest_copy(s.key)
        await s.store.pass_time(10_000)
        await s.copies.run(TOKEN)
        assert await s.sink.latest_copy(s.key) == first

        await s.lose()
        await s.copies.run(TOKEN)
        assert await s.sink.latest_copy(s.key) == first
        assert (await s.bench.used())[SMALL, "rpd"][0] == 1

    async def test_copies_follow_each_other_though_the_clock_stepped_back(
        self, scene: Callable[..., Scene]
    ) -> None:
        """A promoted replica's clock may be behind; the newest copy is the one that was taken last."""
        s = scene(small={"rpd": 9})
        await s.bench.admit_many(1)
        await s.copies.run(TOKEN)
        await s.store.pass_time(-30_000)
        await s.bench.admit_many(1)
        await s.copies.run(TOKEN)
        await s.lose()
        await s.copies.watch(TOKEN)

        assert (await s.bench.used())[SMALL, "rpd"][0] == 2

    async def test_beyond_the_cap_books_balance_all_the_same(
        self, scene: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """What was left out is charged in full and booked as abandoned; those that expire last come back."""
        monkeypatch.setattr(copies_module, "MOST_RESERVATIONS", 2)
        s = scene(small={"rpm": 9, "concurrency": 8})
        early = [(await s.bench.admit(lease_ms=LEASE_MS - 1))[0] for _ in range(3)]
        late = [(await s.bench.admit())[0] for _ in range(2)]
        await s.copies.run(TOKEN)
        await s.lose()
        await s.copies.watch(TOKEN)

        (row,) = (await s.bench.books()).rows
        assert (row.admitted, row.abandoned, row.in_flight, row.difference) == (5, 3, 2, 0)
        assert (await s.bench.used())[SMALL, "rpm"][0] == 5
        await s.resume()
        assert [await s.bench.end(r) for r in early + late] == [False] * 3 + [True] * 2


class TestContract:
    async def test_nodes_that_wait_are_released_by_the_copy(self, scene: Callable[..., Scene]) -> None:
        """The sequences of their journals are those of the copy where they are missing or behind, and never go back."""
        s = scene(small={"rpd": 9})
        await s.bench.admit_many(2)
        sequences = {"x\ta": "7", "x\ts": "5", "x\tt": "5", "y\ta": "9"}
        await s.store.client.hset(s.store.keys.sequences(DOMAIN), mapping=sequences)
        await s.copies.run(TOKEN)
        await s.lose()
        new_term = {"run": "abc", "term": "2", "hold": "1", "wants_copy": str(EPOCH_MS + 3000)}
        await s.store.client.hset(s.key, mapping=new_term)
        live = {"x\ta": "8", "x\tt": "-1", "y\ta": "2"}
        await s.store.client.hset(s.store.keys.sequences(DOMAIN), mapping=live)
        await s.copies.watch(TOKEN)

        fields = await s.fields()
        assert "wants_copy" not in fields
        assert {"run": "abc", "term": "2", "hold": "1"}.items() <= fields.items()
        raw = await s.store.client.hgetall(s.store.keys.sequences(DOMAIN))
        after = {name.decode(): value.decode() for name, value in raw.items() if name[:1] in b"xy"}
        assert after == {"x\ta": "8", "x\ts": "5", "x\tt": "-1", "y\ta": "9"}
        assert (await s.bench.used())[SMALL, "rpd"][0] == 2

    async def test_nodes_do_not_wait_for_a_copy_that_there_is_not(self, scene: Callable[..., Scene]) -> None:
        """Neither without any copy nor with one that has nothing to give."""
        s = scene()
        await s.store.client.hset(s.key, "wants_copy", EPOCH_MS + 3000)
        await s.copies.watch(TOKEN)
        assert "wants_copy" not in await s.fields()

        await s.bench.admit_many(1)
        await s.copies.run(TOKEN)
        await s.store.client.hset(s.key, "wants_copy", EPOCH_MS + 3000)
        await s.copies.watch(TOKEN)
        assert "wants_copy" not in await s.fields()
        assert await s.restored() == []

    async def test_a_look_changes_nothing(self, scene: Callable[..., Scene]) -> None:
        """Without a token nothing is begun; a mark needs a copy that was begun in this very domain."""
        s = scene(small={"rpd": 9})
        await s.bench.admit_many(1)
        before = await s.fields()
        live = await read_copy(s.store, s.bench.domain)

        assert await s.fields() == before
        assert not await mark_copied(s.store, DOMAIN, token=TOKEN, taken_ms=live.taken_ms)

    async def test_the_event_is_understood(self, scene: Callable[..., Scene]) -> None:
        """By those who listen, with its numbers."""
        s = scene(small={"rpd": 9})
        await s.bench.admit_many(2)
        await s.copies.run(TOKEN)
        await s.lose()
        await s.copies.watch(TOKEN)
        event = decode_event((await s.store.client.lrange(s.store.keys.news(DOMAIN), 0, 0))[0])

        assert event is not None
        assert (event.type, event.domain) == ("state_restored", DOMAIN)
        assert event.numbers == {"age_ms": 0, "reservations": 2, "books": 2}


class TestLeases:
    WISH = LeaseWish(SMALL, Amounts(), Amounts(), 4, Amounts(1, 0, 0, 0, 0))

    async def renew(self, caller: Caller, sequence: int, **changes: Any) -> Amounts:
        wish = replace(self.WISH, **changes)
        (held,) = await caller.ledger.renew_leases([wish], sequence=sequence, life_ms=MINUTE_MS, share=2)
        return held

    async def test_a_lease_comes_back_and_ends_charged(self, scene: Callable[..., Scene]) -> None:
        """Its node may have spent it: it stands in the way of others until it is reported or over."""
        s = scene(small={"rph": 11})
        await s.bench.admit()
        held = await self.renew(s.bench, 1)
        await s.copies.run(TOKEN)
        await s.lose()
        await s.copies.watch(TOKEN)

        verdicts = [
            verdict.code for verdict in await Caller(s.store, s.bench.domain, node="n2").admit_many(10)
        ]
        assert verdicts.count(Code.ADMITTED) == 10 - held.requests == 6
        kept = await self.renew(s.bench, 2, used=Amounts(3), kept=Amounts(1), requests=0)
        assert kept.requests == 1
        assert (await s.bench.used())[SMALL, "rph"][0] == 10
        await s.store.pass_time(MINUTE_MS + 1)
        assert await s.bench.ledger.end_leases(token=TOKEN) == 1
        assert (await s.bench.used())[SMALL, "rph"][0] == 11

    async def test_a_lease_that_nobody_renews_ends_at_its_time(self, scene: Callable[..., Scene]) -> None:
        """Not later, because its node may be dead; all of it is charged."""
        s = scene(small={"rph": 11})
        await s.bench.admit()
        held = await self.renew(s.bench, 1)
        await s.copies.run(TOKEN)
        await s.lose()
        await s.copies.watch(TOKEN)
        await s.store.pass_time(MINUTE_MS + 1)

        assert await s.bench.ledger.end_leases(token=TOKEN) == 1
        assert (await s.bench.used())[SMALL, "rph"][0] == 1 + held.requests

    async def test_a_lease_that_was_given_anew_is_charged_as_well(self, scene: Callable[..., Scene]) -> None:
        """Of the lost one nobody knows what was used."""
        s = scene(small={"rph": 20})
        held = await self.renew(s.bench, 1)
        await s.copies.run(TOKEN)
        await s.bench.admit()
        await s.copies.run(TOKEN)
        await s.lose()
        again = await self.renew(s.stranger(s.bench.node), 2, requests=2)
        await s.copies.watch(TOKEN)

        other = Caller(s.store, s.bench.domain, node="n2")
        verdicts = [verdict.code for verdict in await other.admit_many(20)]
        assert verdicts.count(Code.ADMITTED) == 20 - held.requests - 1 - again.requests

    async def test_an_attempt_booked_out_of_a_lease_stays_booked(self, scene: Callable[..., Scene]) -> None:
        """A settlement that is sent again after the restore changes nothing."""
        s = scene(small={"rph": 10})
        await s.bench.end("n1.leased", flags=4)
        await s.copies.run(TOKEN)
        await s.lose()
        await s.copies.watch(TOKEN)
        await s.resume()

        assert not await s.bench.end("n1.leased", flags=4)
        (row,) = (await s.bench.books()).rows
        assert (row.admitted, row.settled) == (1, 1)


async def test_dead_nodes_reservations_are_reaped_after_a_restore(scene: Callable[..., Scene]) -> None:
    """Or expire by themselves."""
    s = scene(small={"concurrency": 3})
    await s.bench.admit_many(2)
    await s.copies.run(TOKEN)
    await s.lose()
    await s.copies.watch(TOKEN)

    assert await abandon_of_nodes(s.store, DOMAIN, {"n1"}, token=TOKEN) == 2
    await s.assert_balanced()


async def test_a_scheduler_restores_a_server_that_came_back_empty(tmp_path: Path) -> None:
    """The whole way: real processes, a kill, no data left; within a second all is as before."""
    topology = make_topology(copy_interval_s=0.1)
    with closing(ValkeyServer()) as server:
        server.start()
        async with aclosing(Store(server.url)) as store, aclosing(SqliteSink(tmp_path / "s.db")) as sink:
            await sink.open()
            service = SchedulerService(store, topology, sink, owner="a")
            service.start()
            node = TrafficNode(store, topology, "n")
            running, done = await node.admit(), await node.admit()
            await node.settle(done)
            books = (await read_copy(store, topology.domains[DOMAIN])).books

            async def is_copied() -> bool:
                stored = await sink.latest_copy(store.keys.domain(DOMAIN))
                return stored is not None and decode_copy(stored.blob).books == books

            await wait_until(is_copied)
            server.restart(keep_data=False)

            async def is_back() -> bool:
                try:
                    return (await read_copy(store, topology.domains[DOMAIN])).books == books
                except STORE_ERRORS:
                    return False

            await wait_until(is_back)
            assert (await node.assert_known()).admissions == 0
            assert await node.settle(running)
            await service.stop()


@pytest.mark.topologies
@pytest.mark.parametrize("kind", [SentinelFleet, ClusterFleet])
async def test_copies_work_on_every_kind_of_store(
    kind: type[SentinelFleet | ClusterFleet], sink: SqliteSink, namespace: str
) -> None:
    """Domains on several masters: taken, lost, put back."""
    names = [f"d{number}" for number in range(6)]
    with closing(kind()) as fleet:
        await fleet.start()
        async with aclosing(Store(fleet.url, namespace=namespace, timeout_s=5)) as store:
            domains = {name: replace(make_domain(small={"rpd": 9}), id=name) for name in names}
            copies = Copies(store, Only(*domains.values()), sink)
            for domain in domains.values():
                await Caller(store, domain).admit_many(2)
            await copies.run(TOKEN)
            for domain in domains.values():
                key = store.keys.domain(domain.id)
                for part in ("", ":books", f":win:m:{SMALL}", f":res:{SMALL}", ":flight", ":seq"):
                    await store.command("DEL", key + part)
            await copies.watch(TOKEN)

            for domain in domains.values():
                caller = Caller(store, domain, node="n9")
                assert (await caller.used())[SMALL, "rpd"][0] == 2
                assert (await caller.books()).is_balanced
