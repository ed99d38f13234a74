"""The load driver against the mock: it counts what is right, and one wrong answer voids the window."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import replace
from itertools import pairwise

import pytest

from benchmarks.driver import Driver, DriverError, Window
from benchmarks.scenarios import ORDERS, SCENARIOS, Scenario, Target
from tests.support.mock import MockProvider
from tests.support.processes import free_port

_UNARY = replace(SCENARIOS["unary32"], connections=4)
_STREAM = replace(SCENARIOS["burst"], connections=2)


@pytest.fixture(scope="module")
def process() -> Iterator[MockProvider]:
    with closing(MockProvider("bench")) as mock:
        yield mock


@pytest.fixture
def mock(process: MockProvider) -> MockProvider:
    """The module's mock with clean books and the orders of the scenarios."""
    process.reset()
    for model, order in ORDERS.items():
        process.behave(order, model=model)
    return process


async def _drive(mock: MockProvider, scenario: Scenario, seconds: float = 0.1) -> Window:
    async with Driver(Target(mock.port), scenario) as driver:
        return await driver.run(seconds)


@pytest.mark.parametrize("scenario", [_UNARY, _STREAM], ids=["unary", "stream"])
async def test_every_answer_is_counted(mock: MockProvider, scenario: Scenario) -> None:
    """What the driver has counted is what the mock has served in full, and each has its times."""
    window = await _drive(mock, scenario)

    assert not window.is_void, window.faults
    assert window.requests == mock.counts()["total"] == len(window.latencies_s) == len(window.first_s)
    assert all(entry["completed"] for entry in mock.ledger())
    assert all(0 < first <= whole for first, whole in zip(window.first_s, window.latencies_s, strict=True))


async def test_a_window_ends_with_its_last_answer(mock: MockProvider) -> None:
    """Answers that were asked for are waited for, so that cost and count belong together."""
    mock.behave("slow-head=150ms", model=_UNARY.model)
    window = await _drive(mock, _UNARY, seconds=0.05)

    assert window.requests == _UNARY.connections == mock.counts()["max_in_flight"]
    assert window.elapsed_s >= 0.15


async def test_windows_follow_one_another_on_the_same_connections(mock: MockProvider) -> None:
    """The warm-up is a window of its own."""
    async with Driver(Target(mock.port), _UNARY) as driver:
        first, second = await driver.run(0.05), await driver.run(0.05)

    assert first is not second
    assert first.requests + second.requests == mock.counts()["total"]
    assert second.reconnects == 0


async def test_a_mix_is_asked_for_in_turn(mock: MockProvider) -> None:
    """Every connection asks for the same sequence, so that all subjects do the same work."""
    window = await _drive(mock, replace(SCENARIOS["mixed"], connections=1), seconds=0.2)

    assert not window.is_void, window.faults
    streams = [entry["stream"] for entry in mock.ledger()]
    assert streams == [n % 4 == 3 for n in range(window.requests)]


async def test_a_paced_load_keeps_its_rate(mock: MockProvider) -> None:
    """Requests come at random times, as many as were wanted, and not as fast as answers do."""
    window = await _drive(mock, replace(_UNARY, connections=16, rate_per_s=200.0), seconds=0.5)

    assert not window.is_void, window.faults
    assert 50 <= window.requests <= 150
    arrivals = sorted(entry["t_arrival"] for entry in mock.ledger())
    gaps = [after - before for before, after in pairwise(arrivals)]
    assert max(gaps) > 2 * sum(gaps) / len(gaps)


@pytest.mark.parametrize(
    ("scenario", "order", "complaint"),
    [
        (_UNARY, "status=503", "status 503"),
        (_UNARY, "truncate=40", "connection was lost"),
        (_UNARY, "garbage", "not a whole answer"),
        (_STREAM, "tokens=100,no-done", "the stream ends with"),
        (_STREAM, "tokens=99", "103 events where 104"),
        (_STREAM, "tokens=100,reset=9000", "connection was lost"),
    ],
)
async def test_one_wrong_answer_voids_the_window(
    mock: MockProvider, scenario: Scenario, order: str, complaint: str
) -> None:
    """Whatever is wrong with one answer of many, the driver sees it and says what."""
    mock.behave(order, model=scenario.model, path="/v1/chat/completions", times=1, after=5)
    window = await _drive(mock, scenario, seconds=5.0)

    assert window.is_void
    assert complaint in window.faults[0]
    assert window.elapsed_s < 5.0  # the rest of a void window is not waited for


async def test_a_silent_server_ends_the_window(mock: MockProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer that never comes is a fault, not a hang."""
    monkeypatch.setattr("benchmarks.driver.GRACE_S", 0.1)
    mock.behave("stall-after=1", model=_UNARY.model)
    window = await _drive(mock, _UNARY, seconds=0.05)

    assert "answers did not come" in window.faults[0]


async def test_a_closed_connection_is_replaced() -> None:
    """A server that hangs up after an answer and says so has done nothing wrong."""
    async with _closing_server() as port, Driver(Target(port), _UNARY) as driver:
        window = await driver.run(0.1)

    assert not window.is_void, window.faults
    assert window.requests == window.reconnects > _UNARY.connections


async def test_a_connection_that_was_closed_while_idle_is_replaced(mock: MockProvider) -> None:
    """A server may give up idle connections between two windows."""
    async with Driver(Target(mock.port), _UNARY) as driver:
        await driver.run(0.05)
        for client in driver._clients:
            client._transport.abort()
        await asyncio.wait([client.is_closed for client in driver._clients])
        window = await driver.run(0.05)

    assert not window.is_void, window.faults
    assert window.requests > window.reconnects == _UNARY.connections


async def test_nobody_there_is_said_at_once() -> None:
    """Without a server there is no window."""
    with pytest.raises(DriverError, match="does not take connections"):
        async with Driver(Target(free_port()), _UNARY):
            pass


@asynccontextmanager
async def _closing_server() -> AsyncIterator[int]:
    body = b'{"usage": {}}'
    answer = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):  # the last connection asks nothing
            await reader.readexactly(len(_UNARY.request(Target(port))))
            writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port: int = server.sockets[0].getsockname()[1]
    async with server:
        yield port
