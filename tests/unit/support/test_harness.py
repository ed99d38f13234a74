"""The tools that other tests lean on: they hurt exactly what they are told to hurt."""

from __future__ import annotations

import sys
import time
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path

import httpx
import pytest
import redis.asyncio

from tests.support.nginx import COMPOSE, NginxServer, render_upstreams
from tests.support.processes import ChildProcess, ProcessFailedError, free_port, wait_until
from tests.support.tcp_proxy import TcpProxy
from tests.support.valkey import ValkeyServer

SLEEPER = "import time; print('ready 7', flush=True); time.sleep(60)"
ORPHAN_MAKER = """
import os, sys
from tests.support.processes import ChildProcess
child = ChildProcess([sys.executable, "-c", sys.argv[1]])
child.wait_line_blocking("ready")
child.log_path.unlink()
print("orphan", child.pid, flush=True)
os.kill(os.getpid(), 9)
"""


def _state(pid: int) -> str:
    """The kernel's letter for the state of a process, Z if there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return "Z"


async def _is_answering(url: str, *, timeout: float = 0.3) -> bool:
    client = redis.asyncio.Redis.from_url(
        url, socket_timeout=timeout, socket_connect_timeout=timeout, retry=None
    )
    async with client:
        try:
            return bool(await client.ping())
        except (redis.exceptions.RedisError, OSError):
            return False


# processes


async def test_a_child_is_heard_frozen_and_ended():
    """Its lines can be waited for, it stops and goes on, and SIGTERM ends it."""
    with closing(ChildProcess([sys.executable, "-c", SLEEPER])) as child:
        match = await child.wait_line(r"ready (\d)")
        child.stop()
        await wait_until(lambda: _state(child.pid) == "T")
        child.cont()

        assert match[1] == "7"
        assert await child.terminate() == -15
    assert not child.log_path.exists()


async def test_a_child_that_dies_early_is_reported_with_its_log():
    """The failure says what the child had to say."""
    with (
        closing(ChildProcess([sys.executable, "-c", "raise SystemExit('no luck')"])) as child,
        pytest.raises(ProcessFailedError, match="no luck"),
    ):
        await child.wait_line("ready")


async def test_a_child_dies_with_its_parent():
    """A test run that is killed leaves nothing behind."""
    env = {"PYTHONPATH": str(COMPOSE.parent)}
    with closing(ChildProcess([sys.executable, "-c", ORPHAN_MAKER, SLEEPER], env=env)) as parent:
        match = await parent.wait_line(r"^orphan (\d+)$")

        assert await parent.wait() == -9
        await wait_until(lambda: _state(int(match[1])) == "Z")


async def test_waiting_for_what_never_comes_says_so():
    """A time-out names what was waited for."""
    with pytest.raises(ProcessFailedError, match="the moon"):
        await wait_until(lambda: False, 0.02, what="the moon")


# the state server


async def test_the_shared_server_answers(valkey_server, namespace):
    """One server serves the run; a test writes in a namespace of its own."""
    async with redis.asyncio.Redis.from_url(valkey_server.url) as client:
        await client.set(f"{namespace}:k", "v", ex=10)

        assert await client.get(f"{namespace}:k") == b"v"


@pytest.mark.parametrize("is_tcp", [False, True])
async def test_a_server_restarts_with_or_without_its_data(is_tcp):
    """Persistence survives a kill, and is thrown away on request."""
    with closing(ValkeyServer(port=free_port() if is_tcp else None, persistence=True)) as server:
        server.start()
        async with redis.asyncio.Redis.from_url(server.url) as client:
            await client.set("k", "v")
            await client.waitaof(1, 0, 2000)
        server.restart(keep_data=True)
        async with redis.asyncio.Redis.from_url(server.url) as client:
            kept = await client.get("k")
        server.restart(keep_data=False)
        async with redis.asyncio.Redis.from_url(server.url) as client:
            lost = await client.get("k")

    assert (kept, lost) == (b"v", None)


async def test_a_frozen_server_is_silent_until_thawed():
    """Frozen, it accepts and says nothing; thawed, it goes on."""
    with closing(ValkeyServer()) as server:
        server.start()
        server.freeze()
        frozen = await _is_answering(server.url)
        server.thaw()

        assert not frozen
        assert await _is_answering(server.url, timeout=5)


# the proxy


@pytest.fixture
async def proxy(valkey_server) -> AsyncIterator[TcpProxy]:
    async with TcpProxy(valkey_server.unix_socket) as opened:
        yield opened


@pytest.fixture
async def client(proxy) -> AsyncIterator[redis.asyncio.Redis]:
    async with redis.asyncio.Redis.from_url(
        proxy.redis_url, socket_timeout=0.2, socket_connect_timeout=0.2, retry=None
    ) as opened:
        await opened.ping()
        yield opened


async def test_the_proxy_delays_but_does_not_throttle(proxy, client, namespace):
    """A pipeline of many commands takes two delays, not two for each packet."""
    proxy.delay_s = 0.05
    start = time.monotonic()
    async with client.pipeline(transaction=False) as pipe:
        for n in range(200):
            pipe.set(f"{namespace}:{n}", "x" * 1000, ex=10)
        await pipe.execute()

    assert 0.1 <= time.monotonic() - start < 0.5


async def test_a_paused_proxy_holds_bytes_back(proxy, client):
    """A black hole for connections old and new; what was held back arrives afterwards."""
    proxy.pause()
    with pytest.raises(redis.exceptions.TimeoutError):
        await client.ping()
    assert not await _is_answering(proxy.redis_url)

    await proxy.resume()
    assert await client.ping()


async def test_a_refusing_proxy_keeps_old_connections(proxy, client):
    """New connections are refused until it resumes, on the same port."""
    proxy.refuse()
    assert await client.ping()
    assert not await _is_answering(proxy.redis_url)

    await proxy.resume()
    assert await _is_answering(proxy.redis_url)


@pytest.mark.parametrize("is_reset", [False, True])
async def test_severed_connections_are_gone(proxy, client, is_reset):
    """Both ends see the end, and a new connection works."""
    proxy.sever(reset=is_reset)
    await wait_until(lambda: proxy.connections == 0)

    with pytest.raises((redis.exceptions.ConnectionError, ConnectionResetError)):
        await client.ping()
    assert await client.ping()
    assert proxy.connections_total == 2


async def test_the_proxy_cuts_after_that_many_bytes(proxy, mock_provider):
    """An answer ends in the middle, where it was ordered to."""
    mock = mock_provider("cut")
    async with (
        TcpProxy((mock.host, mock.port)) as cutter,
        httpx.AsyncClient(verify=False, trust_env=False) as http,
    ):
        cutter.cut_after_bytes = 150
        with pytest.raises(httpx.RemoteProtocolError):
            await http.post(f"{cutter.http_url}/v1/embeddings", json={"model": "m", "input": "x"})
        cutter.cut_after_bytes = None
        cutter.bandwidth_bytes_s = 4000
        start = time.monotonic()
        whole = await http.post(f"{cutter.http_url}/v1/embeddings", json={"model": "m", "input": "x"})

    assert whole.status_code == 200
    assert time.monotonic() - start > 0.03


async def test_a_proxy_without_a_target_resets(valkey_server, tmp_path):
    """A dead target looks dead, on a unix socket too."""
    async with (
        TcpProxy(tmp_path / "nobody") as dead,
        TcpProxy(valkey_server.unix_socket, listen=valkey_server.directory / "p") as alive,
    ):
        assert not await _is_answering(dead.redis_url)
        assert await _is_answering(alive.redis_url)


# nginx


def test_upstreams_are_rendered_from_the_template():
    """Every node gets the parameters of the template's one server line."""
    text = render_upstreams((COMPOSE / "upstreams.conf").read_text(), [("127.0.0.1", 1), ("127.0.0.2", 2)])

    assert "    server 127.0.0.1:1 max_fails=2 fail_timeout=1s;\n    server 127.0.0.2:2 max_fails=2" in text


async def test_nginx_passes_on_what_it_should_and_nothing_else(mock_provider):
    """A sane request id stays, a wild one is replaced; forwarded-for and hop headers are ours."""
    mock = mock_provider("node")
    with closing(NginxServer([(mock.host, mock.port)])) as nginx:
        nginx.check()
        nginx.start()
        url, body = f"{nginx.base_url}/v1/embeddings", {"model": "m", "input": "x"}
        spoofed = {"x-forwarded-for": "9.9.9.9", "upgrade": "h2c", "x-should-retry": "true"}
        async with httpx.AsyncClient(verify=False, trust_env=False) as http:
            await http.post(url, json=body, headers={"x-request-id": "sane.id-1", **spoofed})
            seen = mock.last()["headers"]
            await http.post(url, json=body, headers={"x-request-id": "not sane"})
        await wait_until(lambda: len(nginx.access_log()) == 2)

        ids = [entry["request_id"] for entry in mock.ledger()]
        assert ids[0] == "sane.id-1"
        assert len(ids[1]) == 32
        assert ids == [line["request_id"] for line in nginx.access_log()]
        assert seen["x-forwarded-for"] == "127.0.0.1"
        assert not {"upgrade", "x-should-retry", "connection"} & seen.keys()


async def test_nginx_streams_tokens_as_they_come(mock_provider):
    """The first token is not held back until the last one."""
    mock = mock_provider("node", tokens=4, token_delay="50ms")
    with closing(NginxServer([(mock.host, mock.port)])) as nginx:
        nginx.start()
        async with httpx.AsyncClient(verify=False, trust_env=False) as http:
            request = {"model": "m", "messages": [], "stream": True}
            async with http.stream("POST", f"{nginx.base_url}/v1/chat/completions", json=request) as response:
                marks = [time.monotonic() async for _ in response.aiter_raw()]

    assert len(marks) >= 4
    assert marks[-1] - marks[0] > 0.1


async def test_nginx_never_replays_a_post_that_was_sent(mock_provider):
    """A node that dies on a request costs that request; a node that cannot be reached costs none."""
    bad, good = mock_provider("bad"), mock_provider("good")
    bad.behave("reset=0")
    request = {"model": "m", "input": "x"}
    with closing(NginxServer([(bad.host, bad.port), (good.host, good.port)])) as nginx:
        nginx.start()
        async with httpx.AsyncClient(verify=False, trust_env=False) as http:
            answers = [await http.post(f"{nginx.base_url}/v1/embeddings", json=request) for _ in range(2)]
            bad.process.kill()
            after = [await http.post(f"{nginx.base_url}/v1/embeddings", json=request) for _ in range(6)]
            good.process.kill()
            nobody = await http.post(f"{nginx.base_url}/v1/embeddings", json=request)

    assert sorted(answer.status_code for answer in answers) == [200, 502]
    assert {answer.status_code for answer in after} == {200}
    assert nobody.status_code == 502
    assert nobody.json()["error"]["request_id"] == nobody.headers["x-request-id"]


async def test_nginx_takes_other_nodes_without_a_restart(mock_provider):
    """A reload moves new requests to the new set of nodes; none fails on the way."""
    old, new = mock_provider("old"), mock_provider("new")
    with closing(NginxServer([(old.host, old.port)])) as nginx:
        nginx.start()
        # The worker that leaves hangs up on idle clients: a kept connection could be closed under the next request.
        async with httpx.AsyncClient(verify=False, trust_env=False, headers={"connection": "close"}) as http:

            async def is_moved() -> bool:
                answer = await http.get(f"{nginx.base_url}/v1/models")
                assert answer.status_code == 200
                return bool(answer.json()["data"][0]["owned_by"] == "new")

            assert not await is_moved()
            nginx.reload([(new.host, new.port)])
            await wait_until(is_moved)
