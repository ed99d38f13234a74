"""Whether Redis answers: one flag, one log line a change, one deadline an outage."""

from __future__ import annotations

import asyncio

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from structlog.testing import capture_logs

from node.watch import StoreWatch
from tests.unit.node.virtual_time import in_virtual_time, settle_down


class Server:
    """Answers pings or does not."""

    masked_url = "redis://example"

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.pings = 0

    async def ping(self) -> None:
        self.pings += 1
        if self.error is not None:
            raise self.error


@pytest.fixture
def server() -> Server:
    return Server()


@in_virtual_time
async def test_it_connects_by_asking(server: Server) -> None:
    """Before the first answer nothing is there; then callers are told, and nobody is asked again."""
    watch, returns = StoreWatch(server, on_loss="leased"), list[bool]()  # type: ignore[arg-type]
    watch.on_return(lambda: returns.append(watch.connected))
    assert (watch.connected, watch.mode) == (False, "leased")
    task = asyncio.create_task(watch.run())
    await asyncio.sleep(10)
    task.cancel()

    assert (watch.connected, watch.mode) == (True, "exact")
    assert returns == [True]
    assert server.pings == 1
    assert watch.losses == 0


@pytest.mark.parametrize("on_loss", ["leased", "open", "closed"])
@in_virtual_time
async def test_a_loss_is_one_log_line_and_one_return(server: Server, on_loss: str) -> None:
    """A thousand failing calls say it once; probes go on ten times a second until one is answered."""
    watch, returns = StoreWatch(server, on_loss=on_loss), list[int]()  # type: ignore[arg-type]
    watch.on_return(lambda: returns.append(1))
    with capture_logs() as logs:
        task = asyncio.create_task(watch.run())
        await settle_down()
        server.error = RedisConnectionError("refused")
        for _ in range(1000):
            watch.report_failure(TimeoutError("slow"))
        assert (watch.connected, watch.mode) == (False, on_loss)
        await asyncio.sleep(5.05)
        probes = server.pings - 1
        server.error = None
        await asyncio.sleep(1)
        task.cancel()

    assert [(entry["event"], entry["log_level"]) for entry in logs] == [
        ("shared state connected", "info"),
        ("shared state lost", "warning"),
        ("shared state connected", "info"),
    ]
    assert logs[1]["error"] == "TimeoutError: slow"
    assert logs[1]["mode"] == on_loss
    assert watch.losses == 1
    assert returns == [1, 1]
    assert watch.mode == "exact"
    assert 45 <= probes <= 55


@in_virtual_time
async def test_a_held_domain_is_announced_like_a_loss(server: Server) -> None:
    """Redis answers, but limits are kept by what was paid before."""
    watch = StoreWatch(server, on_loss="leased")  # type: ignore[arg-type]
    task = asyncio.create_task(watch.run())
    await settle_down()
    watch.held.add("alpha")
    held = watch.mode
    watch.held.clear()
    task.cancel()

    assert (held, watch.mode) == ("leased", "exact")


@in_virtual_time
async def test_every_change_is_told(server: Server) -> None:
    """Two outages are two lines."""
    watch = StoreWatch(server, on_loss="open")  # type: ignore[arg-type]
    with capture_logs() as logs:
        task = asyncio.create_task(watch.run())
        for _ in range(2):
            await settle_down()
            watch.report_failure(OSError("reset"))
        await settle_down()
        task.cancel()

    assert watch.losses == 2
    assert [entry["event"].rpartition(" ")[2] for entry in logs] == ["connected", "lost"] * 2 + ["connected"]


@in_virtual_time
async def test_who_is_gone_is_not_told(server: Server) -> None:
    """A registration can be taken back, also while others are told."""
    watch, told = StoreWatch(server, on_loss="leased"), list[str]()  # type: ignore[arg-type]

    def leave() -> None:
        told.append("leaving")
        watch.forget(leave)

    watch.on_return(leave)
    watch.on_return(lambda: told.append("staying"))
    task = asyncio.create_task(watch.run())
    await settle_down()
    watch.report_failure(TimeoutError())
    await settle_down()
    task.cancel()

    assert told == ["leaving", "staying", "staying"]
