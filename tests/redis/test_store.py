"""The connection to the store: short deadlines, nothing twice, scripts that come back by themselves."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing

import pytest
import uvloop
from redis.exceptions import ResponseError

from shared_state.domains import read_pulses
from shared_state.errors import TermChangedError
from shared_state.ledger import Code
from shared_state.registry import Registry
from shared_state.statistics import forget_minute
from shared_state.store import STORE_ERRORS, Script, Store
from tests.redis.ground import DOMAIN, SMALL, Caller, make_domain, make_pool
from tests.support.processes import wait_until
from tests.support.valkey import ValkeyServer

TIMEOUT_S = 0.1


@pytest.fixture
def server() -> Iterator[ValkeyServer]:
    """A server of the test's own, to freeze and to kill."""
    with closing(ValkeyServer()) as own:
        yield own.start()


@pytest.fixture
async def store(server: ValkeyServer, namespace: str) -> AsyncIterator[Store]:
    """A store with a short deadline."""
    store = Store(server.url, namespace=namespace, timeout_s=TIMEOUT_S)
    await store.ping()
    yield store
    await store.aclose()


def count_up(store: Store) -> None:
    """Adds a script that shows how often it ran."""
    script = store._scripts["count_up"] = Script("beat")
    script.text = "return redis.call('INCR', KEYS[1])"
    script.digest = "0" * 40


@pytest.mark.parametrize(
    "call",
    [
        lambda store: store.run("beat", [store.keys.nodes, store.keys.nodes + ":seen"], ["n1", "{}"]),
        lambda store: store.command("TIME"),
        lambda store: store.ping(),
        lambda store: read_pulses(store, [DOMAIN]),
        lambda store: Registry(store).nodes(),
        lambda store: forget_minute(store, DOMAIN, 7),
    ],
    ids=["run", "command", "ping", "read_pulses", "nodes", "forget_minute"],
)
async def test_a_frozen_server_is_given_up_within_the_deadline(
    server: ValkeyServer, store: Store, call: Callable[..., object]
) -> None:
    """Whatever is asked of it; and it serves again as soon as it thaws."""
    server.freeze()
    began_s = time.monotonic()
    try:
        with pytest.raises(STORE_ERRORS):
            await call(store)  # type: ignore[misc]
        took_s = time.monotonic() - began_s
    finally:
        server.thaw()

    assert took_s < 2 * TIMEOUT_S + 1
    await store.ping()


async def test_a_call_that_timed_out_is_not_sent_again(server: ValkeyServer, store: Store) -> None:
    """The client library would try ten more times: a timeout means maybe, never twice."""
    count_up(store)
    assert await store.run("count_up", ["counter"]) == 1

    server.freeze()
    try:
        with pytest.raises(STORE_ERRORS):
            await store.run("count_up", ["counter"])
    finally:
        server.thaw()
    await store.ping()
    assert int(await store.command("GET", "counter")) <= 2


async def test_a_server_that_is_not_there_is_an_error_at_once(store: Store, server: ValkeyServer) -> None:
    """No waiting for a connection that is refused."""
    server.kill()
    began_s = time.monotonic()
    with pytest.raises(STORE_ERRORS):
        await store.command("TIME")

    assert time.monotonic() - began_s < TIMEOUT_S + 1


async def test_a_closed_store_stays_closed(store: Store) -> None:
    """A call that comes late opens no connection again, nor does one that was under way; nobody would close it."""
    other = Store(store.url, name="closed")
    await other.ping()
    echo(other)
    await other.run("echo", [], ["warm"])
    late = [asyncio.create_task(other.ping()) for _ in range(5)]
    late += [asyncio.create_task(other.run("echo", [], [n])) for n in range(5)]
    await asyncio.sleep(0)
    await other.aclose()
    await asyncio.gather(*late, return_exceptions=True)
    for call in (other.ping, lambda: other.run("echo", [], ["late"])):
        with pytest.raises(STORE_ERRORS):
            await call()

    async def is_alone() -> bool:
        return b"name=closed" not in await store.command("CLIENT", "LIST")

    await wait_until(is_alone, what="the server to see the end of them")


async def test_a_killed_connection_costs_at_most_one_call(store: Store) -> None:
    """The next call opens another."""
    other = Store(store.url)
    await other.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    await other.aclose()

    with contextlib.suppress(*STORE_ERRORS):
        await store.ping()
    await store.ping()


def echo(store: Store) -> None:
    """Adds a script that says what it is told, late if it is told so."""
    script = store._scripts["echo"] = Script("beat")
    script.text = "return ARGV[1]"
    script.digest = "1" * 40


async def test_a_reply_is_never_taken_for_another_calls(server: ValkeyServer) -> None:
    """Whoever gives up, cancelled or out of time, takes its connection along: what still comes on it is nobody's."""
    store = Store(server.url, timeout_s=0.5)
    echo(store)
    assert await store.run("echo", [], ["warm"]) == b"warm"
    for turn in range(8):
        server.freeze()
        try:
            calls = [asyncio.create_task(store.run("echo", [], [f"lost {turn} {n}"])) for n in range(6)]
            await asyncio.sleep(0.002)
            for call in calls[::2]:
                call.cancel()
            if turn == 7:
                await asyncio.wait(calls)
        finally:
            server.thaw()
        said = [await store.run("echo", [], [f"{turn} {n}"]) for n in range(6)]
        assert said == [f"{turn} {n}".encode() for n in range(6)]
        ended = await asyncio.gather(*calls, return_exceptions=True)
        for n, end in enumerate(ended):
            assert isinstance(end, BaseException) or end == f"lost {turn} {n}".encode()
    await store.aclose()
    assert [type(end) for end in ended] == [asyncio.CancelledError, TimeoutError] * 3


async def test_a_script_finds_that_its_connection_was_closed_while_nobody_used_it(store: Store) -> None:
    """A server that closes what is idle costs no call at all."""
    echo(store)
    await store.run("echo", [], ["warm"])
    before = await store.command("CLIENT", "ID")
    other = Store(store.url)
    await other.command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    await other.aclose()
    await asyncio.sleep(0.01)

    assert await store.run("echo", [], ["again"]) == b"again"
    assert await store.command("CLIENT", "ID") != before


async def test_scripts_have_few_connections_of_their_own(server: ValkeyServer) -> None:
    """What is more at once goes through the pool; all are closed in the end."""
    patient = Store(server.url, timeout_s=10)
    echo(patient)
    said = await asyncio.gather(*(patient.run("echo", [], [n]) for n in range(40)))
    assert said == [b"%d" % n for n in range(40)]
    assert patient._lines is not None
    lines = patient._lines._open
    assert len(lines) == len(patient._lines._free) == 8

    await patient.aclose()
    assert not any(line.is_connected for line in lines)


async def test_scripts_that_the_server_forgot_are_sent_again(store: Store) -> None:
    """After SCRIPT FLUSH, a restart or a failover: nobody notices."""
    caller = Caller(store, make_domain(small={"rpm": 2}))
    for _ in range(2):
        assert not (await caller.admit())[1].code
        await store.command("SCRIPT", "FLUSH")

    assert (await caller.admit())[1].code == Code.AT_LIMIT
    assert (await caller.books()).is_balanced


async def commands_run(store: Store, *names: str) -> list[int]:
    """How often the server has carried out each of these."""
    stats = await store.client.info("commandstats")
    return [int(stats.get(f"cmdstat_{name}", {"calls": 0})["calls"]) for name in names]


async def test_an_exchange_is_a_function_of_a_library(store: Store) -> None:
    """Loaded with the first call, and again when the server has forgotten it; evaluated never."""
    caller = Caller(store, make_domain(small={"rpm": 3}))
    before = await commands_run(store, "evalsha", "eval", "function|load")
    assert not (await caller.admit())[1].code
    await store.command("FUNCTION", "FLUSH")
    reservation, verdict = await caller.admit()
    await caller.settle(reservation, pool=make_pool())
    after = await commands_run(store, "evalsha", "eval", "function|load")

    assert not verdict.code
    assert [now - then for then, now in zip(before, after, strict=True)] == [0, 0, 2]
    assert (await caller.books()).is_balanced


@pytest.mark.parametrize("rule", ["-fcall", "-function|load"])
async def test_without_functions_an_exchange_is_evaluated(server: ValkeyServer, rule: str) -> None:
    """On a server that is older, or does not let us: the same text, the same effect, and no second try."""
    admin = Store(server.url)
    await admin.command("ACL", "SETUSER", "plain", "on", ">secret", "~*", "&*", "+@all", rule)
    store = Store(server.url.replace("://", "://plain:secret@"), timeout_s=TIMEOUT_S)
    caller = Caller(store, make_domain(small={"rpm": 2}), node="n3")
    try:
        verdicts = [(await caller.admit())[1].code for _ in range(3)]
        (calls,) = await commands_run(admin, "fcall")
    finally:
        await store.aclose()
        await admin.aclose()

    assert verdicts == [Code.ADMITTED, Code.ADMITTED, Code.AT_LIMIT]
    assert calls <= 1


async def test_a_fault_in_a_function_is_an_error_not_a_missing_function(store: Store) -> None:
    """What cannot be read is refused as such, and the next call works."""
    caller = Caller(store, make_domain())
    await caller.admit()
    with pytest.raises(ResponseError, match="Missing bytes"):
        await store.run("exchange", [store.keys.domain("alpha")], [b"\x93", b"", b"", b"", b""])

    assert not (await caller.admit())[1].code


async def test_libraries_of_other_releases_are_forgotten(store: Store) -> None:
    """Ours stays, and so does what is not ours; who still needs the old one loads it again."""
    caller = Caller(store, make_domain())
    await caller.admit()
    for name in ("modelmesh_exchange_0123", "theirs"):
        text = f"#!lua name={name}\nredis.register_function('{name}', function() return 1 end)"
        await store.command("FUNCTION", "LOAD", "REPLACE", text)

    assert await store.forget_libraries() == 1
    assert await store.forget_libraries() == 0
    left = {facts[1] for facts in await store.command("FUNCTION", "LIST")}
    assert b"theirs" in left
    assert len(left) == 2


async def test_a_server_that_lost_everything_serves_who_is_new_at_once(
    server: ValkeyServer, store: Store
) -> None:
    """Neither scripts nor state: the next call works; what was in flight before is unknown, and its node has to say so first."""
    caller = Caller(store, make_domain(small={"rpm": 2}))
    before, _ = await caller.admit()
    server.restart(keep_data=False)
    with pytest.raises(STORE_ERRORS):
        await store.ping()

    newcomer = Caller(store, caller.domain, node="n2")
    assert not (await newcomer.admit())[1].code
    assert not await newcomer.settle(before, pool=make_pool())
    with pytest.raises(TermChangedError):
        await caller.settle(before, pool=make_pool())
    books = await caller.books()
    assert books.is_balanced
    assert [(row.model, row.in_flight) for row in books.rows] == [(SMALL, 1)]


async def test_an_ask_lost_in_a_frozen_server_is_admitted_once(server: ValkeyServer, store: Store) -> None:
    """The first try may run when the server thaws; the second says that it is one."""
    caller = Caller(store, make_domain(small={"rpm": 5}))
    await caller.admit()
    ask = caller.ask()
    server.freeze()
    try:
        with pytest.raises(STORE_ERRORS):
            await caller.ledger.admit([ask])
    finally:
        server.thaw()
    await store.ping()
    ask.resent = True

    assert [verdict.code for verdict in await caller.ledger.admit([ask])] == [Code.ADMITTED]
    assert (await caller.used())[SMALL, "rpm"][0] == 2
    assert (await caller.books()).is_balanced


def test_a_connection_that_was_closed_meanwhile_is_a_store_that_is_away(server: ValkeyServer) -> None:
    """On uvloop, which has closed the transport before redis-py hears of it."""
    uvloop.run(_write_too_late(Store(server.url)))


async def _write_too_late(store: Store) -> None:
    connection = store.client.connection_pool.make_connection()
    await connection.connect()
    connection._writer.transport.abort()
    await asyncio.sleep(0.01)  # the loop's own time to close it
    with pytest.raises(STORE_ERRORS, match="the connection is closed"):
        await connection.send_command("PING")
    await store.aclose()
