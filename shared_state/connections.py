"""Clients for one server, for a primary under sentinels and for a cluster: nothing retried, nothing waited for without end.

Whoever calls sets the deadline; the timeouts in here are the last resort behind it.
"""

from __future__ import annotations

import asyncio
import random
import weakref
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.cluster import ClusterNode, ClusterPipeline, RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError, SentinelManagedConnection
from redis.backoff import NoBackoff
from redis.exceptions import (
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    RedisClusterException,
    RedisError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.maint_notifications import MaintNotificationsConfig

from shared_state.addresses import CLUSTER, SENTINEL, Address, Host
from shared_state.cancellation import end_all
from shared_state.lines import Lines
from shared_state.steady import Steady, make_steady, steady

#: What redis-py and the event loop raise when the store is away, slow or not able to serve.
STORE_ERRORS: Final = (RedisError, OSError, TimeoutError)
#: After these another node may have taken over; a deadline ends a call by cancelling it.
_AWAY: Final = (
    RedisConnectionError,
    RedisTimeoutError,
    ClusterDownError,
    OSError,
    TimeoutError,
    asyncio.CancelledError,
)

_CONNECTIONS: Final = 16
#: Commands without a key; on a cluster one node answers them: its clock is the cluster's clock.
_KEYLESS: Final = frozenset(
    {"CLIENT", "CONFIG", "DBSIZE", "INFO", "PING", "PUBLISH", "ROLE", "SCRIPT", "TIME"}
)
_SUBSCRIBER_CONNECT_S: Final = 1.0


class PrimaryConnection(Steady, SentinelManagedConnection):
    """A connection to the primary of the moment; dropped when the other side says that it is not, or cannot serve."""

    async def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return await super().read_response(*args, **options)
        except (BusyLoadingError, MasterDownError):
            await self.disconnect()
            raise


class FinalPool(BlockingConnectionPool):
    """Connections that are gone for good once the pool is closed.

    redis-py's own pool would open them again for whoever asks late, and nobody would be left to close them.
    """

    _is_closed = False

    async def get_connection(self, *args: Any, **options: Any) -> Any:
        if self._is_closed:
            raise RedisConnectionError("the store is closed")
        return await super().get_connection(*args, **options)  # type: ignore[no-untyped-call]

    async def release(self, connection: Any) -> None:
        """Takes a connection back; one that outlasted the pool, or was being opened at its end, is closed."""
        if self._is_closed:
            await connection.disconnect(nowait=True)
        await super().release(connection)

    async def aclose(self) -> None:
        """Closes all connections, also those in use."""
        self._is_closed = True
        await super().aclose()


class PrimaryPool(FinalPool):
    """Connections to the primary that the sentinels name; asked anew for every connection that is made."""

    is_master = True  # what the connection class asks its pool
    check_connection = False

    def __init__(self, hosts: tuple[Host, ...], service: str, **options: Any) -> None:
        super().__init__(connection_class=PrimaryConnection, **options)
        self.connection_kwargs["connection_pool"] = weakref.proxy(self)
        self._service = service
        self._primary: Host | None = None
        self._epoch = 0
        asking = {name: options[name] for name in ("socket_timeout", "socket_connect_timeout")}
        self._sentinels = [_open_one(host=host, port=port, **asking) for host, port in hosts]

    async def get_master_address(self) -> Host:
        """The primary; connections to another one that are not in use are closed."""
        self._epoch, primary = await self._find_primary()
        if primary != self._primary:
            self._primary = primary
            await self.disconnect(inuse_connections=False)
        return primary

    async def ensure_connection(self, connection: Any) -> None:
        """Drops a connection that was in use, to the primary of before, when the change was seen."""
        if self._primary is not None and (connection.host, connection.port) != self._primary:
            await connection.disconnect()
        await super().ensure_connection(connection)

    async def aclose(self) -> None:
        """Closes all connections, those to the sentinels included."""
        await super().aclose()
        for sentinel in self._sentinels:
            await sentinel.aclose()

    async def _find_primary(self) -> tuple[int, Host]:
        """Configuration epoch and primary by the first sentinel that does not lag behind what was seen before.

        A sentinel that has not heard of a failover names the old primary, which may still accept writes and lose them.
        """
        asked = [asyncio.ensure_future(self._ask(sentinel)) for sentinel in self._sentinels]
        named: list[tuple[int, Host]] = []
        try:
            for answer in asyncio.as_completed(asked):
                named += await answer
                if named and max(named)[0] >= self._epoch:
                    break
        finally:
            await end_all(asked)
        if not named:
            raise MasterNotFoundError(f"no sentinel names a primary for {self._service!r}")
        return max(named)

    async def _ask(self, sentinel: Redis) -> list[tuple[int, Host]]:
        try:
            said = await sentinel.execute_command("SENTINEL", "MASTER", self._service)  # type: ignore[no-untyped-call]
        except STORE_ERRORS:
            return []
        facts = dict(zip(said[::2], said[1::2], strict=True))
        return [(int(facts[b"config-epoch"]), (facts[b"ip"].decode(), int(facts[b"port"])))]


class ClusterReads(ClusterPipeline):
    """Several reads in one go, whatever nodes they go to."""

    def __init__(self, client: ClusterClient) -> None:
        super().__init__(client)
        self._owner = client

    async def execute(self, *args: Any, **options: Any) -> list[Any]:
        async with self._owner.reaching():
            return await super().execute(*args, **options)


class ClusterClient(RedisCluster):
    """A cluster's client that sends each command once, to the one node that its key lives on.

    Args:
        home: a key; the node that it lives on answers commands without a key.
    """

    def __init__(self, *, home: str, **options: Any) -> None:
        super().__init__(**options)
        kind = self.connection_kwargs["connection_class"] = steady(self.connection_kwargs["connection_class"])
        for node in self.startup_nodes:
            node.connection_class = kind
        self._home = home
        self._loading: asyncio.Task[Any] | None = None
        self._suspect: str | None = None
        self._is_shut = False
        # one gate a node: a frozen node must not use up what the others are reached by
        self._gates: defaultdict[str, asyncio.Semaphore] = defaultdict(
            lambda: asyncio.Semaphore(_CONNECTIONS)
        )

    async def execute_command(self, *words: Any, **options: Any) -> Any:
        """Sends a command.

        Raises:
            RedisError, OSError, TimeoutError: its node is away or slow, or nobody knows where it is.
        """
        async with self.reaching():
            if "target_nodes" in options:
                return await super().execute_command(*words, **options)
            node = self._node_of(words)
            async with self._gates[node.name]:
                return await self._send(node, words, options)

    async def ask_at(self, key: str, *words: Any) -> Any:
        """Sends a command without a key to the node that this one lives on.

        Raises:
            RedisError, OSError, TimeoutError: the node is away or slow, or nobody knows where it is.
        """
        async with self.reaching():
            node = self.nodes_manager.get_node_from_slot(self.keyslot(key))
            async with self._gates[node.name]:
                return await self._send(node, words, {})

    def pipeline(self, transaction: Any = None, shard_hint: Any = None) -> ClusterReads:
        """Several reads in one go; a cluster has no transactions over its nodes."""
        return ClusterReads(self)  # type: ignore[abstract]  # redis-py's own declaration is incomplete

    @asynccontextmanager
    async def reaching(self) -> AsyncIterator[None]:
        """Knows the nodes before the block begins, and asks for them again after it found one away."""
        if self._is_shut:
            raise RedisConnectionError("the store is closed")
        try:
            await self._know_nodes()
            yield
        except RedisClusterException as error:  # not a RedisError, whatever its name says
            raise RedisConnectionError(str(error)) from error
        except _AWAY:
            self._initialize = True
            raise

    async def shut(self) -> None:
        """Closes all connections, also those of a client that was about to ask for its nodes again."""
        self._is_shut = True
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.gather(self._loading, return_exceptions=True)
        await self.aclose()
        await self.nodes_manager.aclose()
        await self.nodes_manager.aclose("startup_nodes")

    async def _send(self, node: ClusterNode, words: tuple[Any, ...], options: dict[str, Any]) -> Any:
        try:
            return await super().execute_command(*words, target_nodes=[node], **options)
        except _AWAY:
            self._suspect = node.name
            raise

    async def _know_nodes(self) -> None:
        """Asks for the cluster's nodes if need be: once for all who wait, and on when the first of them gives up."""
        if not self._initialize:
            return
        if self._loading is None or self._loading.done():
            self._loading = asyncio.ensure_future(self.initialize(last_failed_node_name=self._suspect))
            self._loading.add_done_callback(_retrieve)
        await asyncio.shield(self._loading)

    def _node_of(self, words: tuple[Any, ...]) -> ClusterNode:
        name = str(words[0]).upper()
        place = 3 if name in ("EVAL", "EVALSHA", "FCALL") else 1
        key = self._home if name in _KEYLESS else words[place]
        return self.nodes_manager.get_node_from_slot(self.keyslot(key))


Client = Redis | ClusterClient
#: A way to send one command to one server.
Ask = Callable[..., Awaitable[Any]]


async def primaries(client: Client) -> list[tuple[str, Ask]]:
    """Every server that accepts writes: its address, empty where there is only one, and a way to ask it.

    Raises:
        RedisError, OSError, TimeoutError: nobody knows the cluster's nodes.
    """
    if not isinstance(client, ClusterClient):
        return [("", client.execute_command)]
    async with client.reaching():
        nodes = client.get_primaries()
    return [(str(node.name), partial(client.execute_command, target_nodes=[node])) for node in nodes]


async def ask_at(client: Client, key: str, *words: Any) -> Any:
    """Sends a command without a key to the server that this one lives on.

    Raises:
        RedisError, OSError, TimeoutError: it is away or slow.
    """
    if isinstance(client, ClusterClient):
        return await client.ask_at(key, *words)
    return await client.execute_command(*words)  # type: ignore[no-untyped-call]


def open_client(address: Address, *, timeout_s: float, name: str, home: str) -> Client:
    """A client for commands; it connects when it is first used."""
    options: dict[str, Any] = {
        "socket_timeout": 2 * timeout_s,
        "socket_connect_timeout": 2 * timeout_s,
        "client_name": name,
        "health_check_interval": 0,
    }
    if address.scheme == CLUSTER:
        return _open_cluster(address, home=home, **options)
    options |= {"max_connections": _CONNECTIONS, "timeout": 2 * timeout_s, "retry_on_error": []}
    pool = (
        PrimaryPool(address.hosts, address.service, **_login(address), db=address.db, **options, **_common())
        if address.scheme == SENTINEL
        else make_steady(FinalPool.from_url(address.url, **options, **_common()))
    )
    return Redis(connection_pool=pool)


def open_lines(address: Address, client: Client) -> Lines | None:
    """The cheap way to the one server; None where servers may change: there each call asks who is meant."""
    if address.scheme == SENTINEL or isinstance(client, ClusterClient):
        return None
    return Lines(client.connection_pool, otherwise=client.execute_command)


async def close_client(client: Client) -> None:
    """Closes all connections."""
    if isinstance(client, ClusterClient):
        await client.shut()
    else:
        await client.aclose()
        await client.connection_pool.aclose()


def open_subscriber(address: Address, client: Client, *, timeout_s: float) -> Redis:
    """A client for one subscription; on a cluster any node will do, for events reach all of them.

    Args:
        client: the commands' client; it knows the nodes that have joined since the address was written.
    """
    options: dict[str, Any] = {"socket_timeout": timeout_s, "socket_connect_timeout": _SUBSCRIBER_CONNECT_S}
    if address.scheme == SENTINEL:
        pool = PrimaryPool(
            address.hosts, address.service, timeout=timeout_s, **_login(address), **options, **_common()
        )
        return Redis(connection_pool=pool)
    if isinstance(client, ClusterClient):
        known = {(node.host, int(node.port)) for node in client.get_nodes()} | set(address.hosts)
        host, port = random.choice(sorted(known))
        return _open_one(host=host, port=port, **_login(address), **options)
    client = Redis.from_url(address.url, **options, **_common())
    make_steady(client.connection_pool)
    return client


def _open_one(**options: Any) -> Redis:
    client = Redis(**options, **_common())
    make_steady(client.connection_pool)
    return client


def _open_cluster(address: Address, *, home: str, **options: Any) -> ClusterClient:
    return ClusterClient(
        home=home,
        startup_nodes=[ClusterNode(host, port) for host, port in address.hosts],
        require_full_coverage=False,  # the domains of other nodes go on
        max_connections=4 * _CONNECTIONS,
        reinitialize_steps=0,  # a move mends the map; starting over would cut the calls that are under way
        **_login(address),
        **options,
        **_common(),
    )


def _login(address: Address) -> dict[str, Any]:
    return {"username": address.username, "password": address.password}


def _common() -> dict[str, Any]:
    return {
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
        "maint_notifications_config": MaintNotificationsConfig(enabled=False),
        "decode_responses": False,
    }


def _retrieve(task: asyncio.Task[Any]) -> None:
    """Looks at the error of a task that everybody who waited for it has left."""
    if not task.cancelled():
        task.exception()
