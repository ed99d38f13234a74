"""What every sink promises; its tests run in the folder of each kind of storage."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from scheduler.sinks import Sink, StoredCopy
from shared_state.statistics import MinuteRow

MakeSink = Callable[[], Awaitable[Sink]]
ALL_TIME = (0, 1e12)


def row(
    minute: int = 10, *, model: str = "m", pool: str = "p", domain: str = "d", **metrics: int
) -> MinuteRow:
    return MinuteRow(domain, model, pool, minute, metrics)


async def attempts(sink: Sink, since_s: float = 0, until_s: float = 1e12) -> dict[str, int]:
    """By model."""
    return {total.model: total.metrics["attempts"] for total in await sink.totals(since_s, until_s)}


class SinkContract:
    """Needs a fixture `open_sink`, which opens one more sink on the same empty storage at each call, and closes them all."""

    async def test_totals_add_up_per_model_and_pool(self, open_sink: MakeSink) -> None:
        """Metrics and latency buckets are summed over the minutes of the span."""
        sink = await open_sink()
        await sink.write([row(10, attempts=2, ok=2, cost=5 * 10**12, latency_le_3=2)])
        second_batch = [row(11, attempts=3, ok=1, failed=2, latency_le_3=1, latency_le_4=1)]
        await sink.write([*second_batch, row(11, pool="q", attempts=1)])

        first, second = await sink.totals(0, 720)

        assert (first.domain, first.model, first.pool) == ("d", "m", "p")
        assert second.pool == "q"
        expected = {
            "attempts": 5,
            "ok": 3,
            "failed": 2,
            "cost": 5 * 10**12,
            "latency_le_3": 3,
            "latency_le_4": 1,
        }
        assert expected.items() <= first.metrics.items()

    async def test_a_span_holds_its_first_minute_and_not_its_end(self, open_sink: MakeSink) -> None:
        """Two spans side by side share no minute, over midnight as well."""
        sink = await open_sink()
        await sink.write([row(minute, attempts=1) for minute in range(1435, 1445)])

        assert await attempts(sink, 0, 1440 * 60) == {"m": 5}
        assert await attempts(sink, 1440 * 60, 1e9) == {"m": 5}
        assert await attempts(sink, 1436 * 60, 1437 * 60) == {"m": 1}
        assert await attempts(sink, 1445 * 60, 1e9) == {}

    async def test_there_is_a_time_after_2038(self, open_sink: MakeSink) -> None:
        """Seconds are more than 31 bits then; a span may be longer than all time."""
        sink = await open_sink()
        minute = 2**31 // 60 + 1
        await sink.write([row(minute, attempts=1)])

        assert await attempts(sink, 0, 1e15) == {"m": 1}
        assert await attempts(sink, minute * 60, minute * 60 + 1) == {"m": 1}
        assert await attempts(sink, minute * 60 + 1, 1e15) == {}

    async def test_what_is_written_again_counts_once(self, open_sink: MakeSink) -> None:
        """The flush was cut off after the write, and the next leader takes more minutes at once."""
        first, second = await open_sink(), await open_sink()
        rows = [row(10, attempts=4, latency_le_1=4), row(10, model="n", abandoned=1, attempts=0)]
        await first.write(rows)
        await second.write(rows)
        await second.write([*rows, row(11, attempts=1)])
        await first.write([])

        assert await attempts(first) == {"m": 5, "n": 0}
        assert await first.totals(*ALL_TIME) == await second.totals(*ALL_TIME)

    async def test_an_older_version_of_a_minute_does_not_win(self, open_sink: MakeSink) -> None:
        """A replica that was behind when it was promoted offers a part of what was stored already; and the other way round."""
        sink = await open_sink()
        await sink.write([row(10, attempts=4, latency_le_1=4), row(11, attempts=1)])
        await sink.write([row(10, attempts=1, latency_le_1=1), row(11, attempts=2)])

        (total,) = await sink.totals(*ALL_TIME)

        assert (total.metrics["attempts"], total.metrics["latency_le_1"]) == (6, 4)

    async def test_many_writers_at_once_come_to_the_same_numbers(self, open_sink: MakeSink) -> None:
        """Schedulers that all take themselves for the leader, in any order of rows."""
        sinks = await asyncio.gather(*(open_sink() for _ in range(4)))
        rows = [row(minute, model=f"m{i}", attempts=i + 1) for minute in range(50) for i in range(4)]

        await asyncio.gather(*(s.write(rows[:: 1 if i % 2 else -1]) for i, s in enumerate(sinks)))

        assert await attempts(sinks[0]) == {f"m{i}": 50 * (i + 1) for i in range(4)}

    async def test_the_two_newest_copies_of_a_domain_are_there(self, open_sink: MakeSink) -> None:
        """Whatever order they arrive in; other domains have their own, whatever characters are in their names."""
        sink = await open_sink()
        names: list[Any] = ["mm:{d:a}", "mm:{d:a}:", "mm:{d-a}"]
        for taken_ms in (20, 10, 40, 30, 40):
            await sink.save_copy(names[0], taken_ms, b"a%d" % taken_ms)
        await sink.save_copy(names[1], 5, b"\x00\xff")

        assert await sink.latest_copy(names[0]) == StoredCopy(40, b"a40")
        assert await sink.latest_copy(names[0], until_ms=39) == StoredCopy(30, b"a30")
        assert await sink.latest_copy(names[0], until_ms=29) is None
        assert await sink.latest_copy(names[1]) == StoredCopy(5, b"\x00\xff")
        assert await sink.latest_copy(names[2]) is None

    async def test_a_leader_that_slept_replaces_no_newer_copy(self, open_sink: MakeSink) -> None:
        """What it had taken before is older, and what was stored at the same moment stays."""
        old, new = await open_sink(), await open_sink()
        await new.save_copy("d", 10, b"before")
        await new.save_copy("d", 30, b"newer")
        await old.save_copy("d", 20, b"older")
        await old.save_copy("d", 30, b"other")

        assert await new.latest_copy("d") == StoredCopy(30, b"newer")

    async def test_copies_are_read_while_others_store(self, open_sink: MakeSink) -> None:
        """There is always one, and it is whole."""
        writer, reader = await open_sink(), await open_sink()
        await writer.save_copy("d", 1, b"1" * 10_000)

        async def store() -> None:
            for taken_ms in range(2, 12):
                await writer.save_copy("d", taken_ms, str(taken_ms).encode() * 10_000)

        writing = asyncio.create_task(store())
        seen = []
        while not writing.done():
            seen.append(await reader.latest_copy("d"))
        await writing

        for copy in seen:
            assert copy is not None
            assert copy.blob == str(copy.taken_ms).encode() * 10_000
        assert await reader.latest_copy("d") == StoredCopy(11, b"11" * 10_000)

    async def test_a_closed_sink_leaves_all_to_the_next(self, open_sink: MakeSink) -> None:
        """The next scheduler, or the next release, takes over what is there."""
        first = await open_sink()
        await first.write([row(attempts=4)])
        await first.save_copy("d", 1, b"x")
        await first.aclose()
        await first.aclose()
        again = await open_sink()

        assert await attempts(again) == {"m": 4}
        assert await again.latest_copy("d") == StoredCopy(1, b"x")

    async def test_old_minutes_leave_and_the_rest_stays(self, open_sink: MakeSink) -> None:
        """With the rest of their day at the latest; copies of domains stay. Doing it again changes nothing."""
        sink = await open_sink()
        await sink.write([row(minute, attempts=1) for minute in (0, 1440, 2880, 2881)])
        await sink.save_copy("d", 1, b"copy")
        for _ in range(2):
            await sink.prune(2882 * 60 - 0.1)
            assert await attempts(sink) in ({"m": 1}, {"m": 2})
        await sink.prune(2882 * 60)

        assert await attempts(sink) == {}
        assert await sink.latest_copy("d") == StoredCopy(1, b"copy")
