"""Several servers that act as one: a primary and its replica under sentinels, and a cluster. All on loopback."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from tests.support.processes import ChildProcess, free_port, wait_until
from tests.support.valkey import ValkeyServer, server_binary

SERVICE = "mesh"
SLOTS = 16384
_SENTINEL = """\
port {port}
bind 127.0.0.1
dir {directory}
sentinel monitor {service} 127.0.0.1 {primary} 2
sentinel down-after-milliseconds {service} 500
sentinel failover-timeout {service} 1000
{password}
"""
#: Sentinels talk every second or two; tests need not wait for that. Not faster than this, though: a replica is good enough to be promoted
#: only if it was heard of within five ping periods, and while its primary is down sentinels ask it once a second. With a shorter
#: period many an election ends without a candidate, and the next comes two seconds later.
_HASTE = ("publish-period", "100", "info-period", "200", "ping-period", "300", "ask-period", "100")


class Fleet:
    """Servers on TCP ports, ended together."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.servers: dict[int, ValkeyServer] = {}

    def start_server(self, *options: str) -> ValkeyServer:
        """One more server, on a free port."""
        server = ValkeyServer(port=free_port(), options=options)
        self._stack.enter_context(closing(server))
        assert server.port is not None
        self.servers[server.port] = server
        return server.start()

    def close(self) -> None:
        """End all processes and remove their data."""
        self._stack.close()


class SentinelFleet(Fleet):
    """A primary, its replica, and three sentinels of which two must agree.

    Args:
        password: what the servers ask of their clients; the sentinels ask for none.
    """

    def __init__(self, *, password: str = "") -> None:
        super().__init__()
        self._password = password
        self.sentinel_ports: list[int] = []
        self.sentinels: list[ChildProcess] = []

    @property
    def url(self) -> str:
        hosts = ",".join(f"127.0.0.1:{port}" for port in self.sentinel_ports)
        login = f":{self._password}@" if self._password else ""
        return f"redis+sentinel://{login}{hosts}/{SERVICE}"

    async def start(self) -> SentinelFleet:
        """Start everything; back when every sentinel knows the replica and the two others."""
        primary = self.start_server("--repl-diskless-sync-delay", "0")
        self.start_server("--replicaof", f"127.0.0.1 {primary.port}")
        await await_replica(primary)
        if self._password:
            for setting in ("masterauth", "requirepass"):
                await asyncio.gather(
                    *(ask(p, "CONFIG", "SET", setting, self._password) for p in self.servers)
                )
        for _ in range(3):
            self._start_sentinel(int(primary.port or 0))
        for port in self.sentinel_ports:
            await wait_until(lambda port=port: ask(port, "PING"), what="a sentinel answers")
            await ask(port, "SENTINEL", "DEBUG", *_HASTE)
        await wait_until(self._is_settled, 10, interval=0.05, what="sentinels know of each other")
        return self

    async def primary(self) -> ValkeyServer:
        """The server that the first sentinel names."""
        _, port = await ask(self.sentinel_ports[0], "SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
        return self.servers[int(port)]

    def _start_sentinel(self, primary: int) -> None:
        port, directory = free_port(), Path(tempfile.mkdtemp(prefix="mm-s-"))
        self._stack.callback(shutil.rmtree, directory, ignore_errors=True)
        password = f"sentinel auth-pass {SERVICE} {self._password}" if self._password else ""
        config = directory / "sentinel.conf"
        config.write_text(
            _SENTINEL.format(
                port=port, directory=directory, service=SERVICE, primary=primary, password=password
            )
        )
        process = ChildProcess([server_binary(), str(config), "--sentinel"], name="sentinel")
        self._stack.enter_context(closing(process))
        self.sentinels.append(process)
        self.sentinel_ports.append(port)

    async def _is_settled(self) -> bool:
        for port in self.sentinel_ports:
            said = await ask(port, "SENTINEL", "MASTER", SERVICE)
            facts = dict(zip(said[::2], said[1::2], strict=True)) if said else {}
            if (facts.get(b"num-slaves"), facts.get(b"num-other-sentinels")) != (b"1", b"2"):
                return False
        return True


class ClusterFleet(Fleet):
    """Three masters with a replica each."""

    def __init__(self) -> None:
        super().__init__()
        self.masters: list[ValkeyServer] = []

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(f"127.0.0.1:{server.port}" for server in self.masters)

    async def start(self) -> ClusterFleet:
        """Start everything; back when all nodes agree and the replicas are in step."""
        buses = {}
        for _ in range(6):
            bus = free_port()
            server = self.start_server(
                *("--cluster-enabled", "yes", "--cluster-port", str(bus)),
                *("--cluster-node-timeout", "1000", "--repl-diskless-sync-delay", "0"),
                *("--cluster-require-full-coverage", "no", "--cluster-replica-validity-factor", "0"),
            )
            buses[int(server.port or 0)] = bus
        ports = list(buses)
        self.masters = [self.servers[port] for port in ports[:3]]
        await self._give_out_slots(ports[:3])
        for number, port in enumerate(ports):
            await ask(port, "CLUSTER", "SET-CONFIG-EPOCH", number + 1)
        for port in ports[1:]:
            await ask(ports[0], "CLUSTER", "MEET", "127.0.0.1", port, buses[port])
        await wait_until(lambda: _all_know(ports, 6), 10, interval=0.05, what="nodes know of each other")
        for master, replica in zip(ports[:3], ports[3:], strict=True):
            await ask(replica, "CLUSTER", "REPLICATE", (await ask(master, "CLUSTER", "MYID")).decode())
        await wait_until(lambda: self._is_settled(ports), 10, interval=0.05, what="replicas are in step")
        return self

    async def owner(self, key: str) -> ValkeyServer:
        """The master that a key lives on."""
        port = next(port for port, server in self.servers.items() if server.process)
        slot = await ask(port, "CLUSTER", "KEYSLOT", key)
        for first, last, master, *_ in await ask(port, "CLUSTER", "SLOTS"):
            if first <= slot <= last:
                return self.servers[master[1]]
        raise LookupError(key)

    async def move(self, key: str, *, atomically: bool = True) -> None:
        """Gives the slot of a key to another master, with everything in it.

        Args:
            atomically: all at once, as Valkey 9 can; else key by key, as ``--cluster reshard`` does it.
        """
        source = await self.owner(key)
        target = next(master for master in self.masters if master is not source and master.process)
        slot = await ask(int(source.port or 0), "CLUSTER", "KEYSLOT", key)
        if atomically:
            name = (await ask(int(target.port or 0), "CLUSTER", "MYID")).decode()
            words = ("CLUSTER", "MIGRATESLOTS", "SLOTSRANGE", slot, slot, "NODE", name)
            assert await ask(int(source.port or 0), *words) == b"OK"
        else:
            await self._move_keys(slot, source, target)

        async def has_moved() -> bool:
            return await self.owner(key) is target

        await wait_until(has_moved, what=f"slot {slot} to be at {target.port}")

    async def _move_keys(self, slot: int, source: ValkeyServer, target: ValkeyServer) -> None:
        ports = (int(source.port or 0), int(target.port or 0))
        names = [(await ask(port, "CLUSTER", "MYID")).decode() for port in ports]
        await ask(ports[1], "CLUSTER", "SETSLOT", slot, "IMPORTING", names[0])
        await ask(ports[0], "CLUSTER", "SETSLOT", slot, "MIGRATING", names[1])
        while keys := await ask(ports[0], "CLUSTER", "GETKEYSINSLOT", slot, 100):
            await ask(ports[0], "MIGRATE", "127.0.0.1", ports[1], "", 0, 1000, "KEYS", *keys)
        for port in (ports[1], ports[0], *(int(master.port or 0) for master in self.masters)):
            await ask(port, "CLUSTER", "SETSLOT", slot, "NODE", names[1])

    async def _give_out_slots(self, ports: Sequence[int]) -> None:
        share = -(-SLOTS // len(ports))
        for number, port in enumerate(ports):
            last = min((number + 1) * share, SLOTS) - 1
            await ask(port, "CLUSTER", "ADDSLOTSRANGE", number * share, last)

    async def _is_settled(self, ports: Sequence[int]) -> bool:
        for port in ports[3:]:
            if b"master_link_status:up" not in await ask(port, "INFO", "replication"):
                return False
        for port in ports:
            slots = await ask(port, "CLUSTER", "SLOTS")
            if len(slots) != 3 or any(len(row) != 4 for row in slots):
                return False
        return all([b"cluster_state:ok" in await ask(port, "CLUSTER", "INFO") for port in ports])


async def ask(port: int, *words: Any) -> Any:
    """Sends one command to the server on that port; its plain reply, or None if it does not answer."""
    client = Redis(port=port, protocol=2, socket_timeout=1.0)
    client.response_callbacks.clear()
    try:
        async with asyncio.timeout(2):
            return await client.execute_command(*words)
    except (OSError, RedisError):
        return None
    finally:
        await client.aclose()


async def await_replica(server: ValkeyServer) -> None:
    """Wait until a replica has acknowledged everything that was written before."""
    written, _ = await _offsets(server)

    async def has_it() -> bool:
        return (await _offsets(server))[1] >= written

    await wait_until(has_it, what="the replica has it")


async def _offsets(server: ValkeyServer) -> tuple[int, int]:
    said = await ask(int(server.port or 0), "INFO", "replication")
    facts = dict(line.split(b":", 1) for line in said.splitlines() if b":" in line)
    replica = dict(pair.split(b"=", 1) for pair in facts.get(b"slave0", b"offset=-1").split(b","))
    return int(facts[b"master_repl_offset"]), int(replica[b"offset"])


async def _all_know(ports: Sequence[int], count: int) -> bool:
    known = f"cluster_known_nodes:{count}".encode()
    return all([known in await ask(port, "CLUSTER", "INFO") for port in ports])
