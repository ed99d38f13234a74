"""The process of a router node: configuration, socket, signals, server, exit code."""

from __future__ import annotations

import asyncio
import gc
import ipaddress
import logging
import os
import resource
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path

import structlog
import uvloop
from pydantic import SecretStr

from node.api.auth import Doorkeeper
from node.options import NodeOptions
from node.parts import load_parts
from node.server import ServerOptions, bind_socket, serve
from node.service import NodeService
from shared_state.addresses import is_loopback
from shared_state.blueprints import Blueprints
from shared_state.config.loader import find_document, read_config
from shared_state.errors import ConfigurationError
from shared_state.home import state_folder
from shared_state.logs import get_logger
from shared_state.store import Store
from shared_state.topology import Topology, build_topology

log = get_logger(__name__)

_DEFAULT_REDIS_URL = "redis://127.0.0.1:6379/0"
#: How long the first answers wait for the first sight of the shared state; then the node says that it has none.
_FIRST_LOOK_S = 1.0
#: New objects between two looks of the garbage collector; with the usual 700 it takes a twentieth of the CPU.
_GC_ALLOCATIONS = 20_000


def run(options: NodeOptions) -> int:
    """Runs a node until SIGTERM; its exit code."""
    _configure_logging()
    _raise_descriptor_limit()
    try:
        own = find_document(options.config_path)
        topology = build_topology(read_config(own.document, source=own.source))
        load_parts(topology)
        listener = _listener(options, topology)
    except ConfigurationError as error:
        return _refuse(str(error))
    except OSError as error:
        return _refuse(f"cannot listen: {error.strerror or error}")
    host = listener.getsockname()[0]
    blueprints = Blueprints(own, check=lambda topology: _check(topology, host=host, options=options))
    return uvloop.run(_run(options, topology, blueprints, listener))


async def _run(
    options: NodeOptions, topology: Topology, blueprints: Blueprints, listener: socket.socket
) -> int:
    service = _build_service(options, topology, blueprints, listener)
    stop, abort = _signals()
    if not os.isatty(0):  # there it is the end of the terminal, and the node's
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, service.renew_secrets)
    await service.start()
    background = asyncio.get_running_loop().create_task(_announce(service, options, stop))
    with suppress(TimeoutError):  # who connects meanwhile waits in the backlog, and need not be refused
        async with asyncio.timeout(_FIRST_LOOK_S):
            await service.until_ready()
    _rest_collector()
    server = topology.config.server
    served = ServerOptions(engine=server.engine, keep_alive_s=server.keep_alive, drain_s=server.drain)
    await serve(service.application, [listener], served, stop=stop, abort=abort)
    background.cancel()
    await service.stop()
    return 1 if service.failed.is_set() else 0


def _build_service(
    options: NodeOptions, topology: Topology, blueprints: Blueprints, listener: socket.socket
) -> NodeService:
    redis, (host, port) = topology.config.redis, listener.getsockname()[:2]
    store = Store(
        options.redis_url or redis.address or _DEFAULT_REDIS_URL,
        namespace=redis.namespace,
        timeout_s=redis.timeout,
        name="modelmesh-node",
    )
    return NodeService(
        topology,
        store,
        blueprints,
        name=options.name or "node",
        host=_reachable(host),
        port=port,
        ops=_ops_door(host),
        home=_home(),
    )


async def _announce(service: NodeService, options: NodeOptions, stop: asyncio.Event) -> None:
    """Reports readiness once, and the drain when it begins; a node whose background work failed stops itself."""
    waiting = asyncio.get_running_loop().call_later(
        1.0, lambda: log.warning("waiting for the shared state", url=service.store.masked_url)
    )
    loop = asyncio.get_running_loop()
    ends = [loop.create_task(service.failed.wait()), loop.create_task(stop.wait())]
    ready = loop.create_task(service.until_ready())
    await asyncio.wait([ready, *ends], return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if ready.done():
        log.info("ready", node=service.id, port=service.info.port)
        if options.ready_fd is not None:
            os.write(options.ready_fd, b"1")
            os.close(options.ready_fd)
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    for task in (ready, *ends):
        task.cancel()
    stop.set()
    await service.announce_drain()


def _ops_door(host: str) -> Doorkeeper:
    """Who may operate the node: who has the token; without one, who is on this machine."""
    admin = os.environ.get("MODELMESH_ADMIN_TOKEN")
    return Doorkeeper([SecretStr(admin)] if admin else [], is_open=is_loopback(host))


def _rest_collector() -> None:
    """What exists by the first request lives as long as the process, and a request leaves no rings behind: it need not look often."""
    gc.freeze()
    gc.set_threshold(_GC_ALLOCATIONS, 20, 20)


def _home() -> Path | None:
    try:
        return state_folder(os.environ)
    except RuntimeError:  # a user without a home, as in some containers
        return None


def _signals() -> tuple[asyncio.Event, asyncio.Event]:
    """SIGTERM and SIGINT drain; the second one ends at once."""
    stop, abort = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            abort.set()
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    return stop, abort


def _listener(options: NodeOptions, topology: Topology) -> socket.socket:
    """The listening socket: inherited, or bound here.

    Raises:
        ConfigurationError: it is open to the network and nobody needs a token.
        OSError: the port is taken or may not be used.
    """
    proxy = topology.config.proxy
    if options.fd is not None:
        listener = socket.socket(fileno=options.fd)
    else:
        listener = bind_socket(
            options.host or proxy.host, proxy.port if options.port is None else options.port
        )
    try:
        _check_door(topology, host=listener.getsockname()[0], options=options)
    except ConfigurationError:
        listener.close()
        raise
    return listener


def _check(topology: Topology, *, host: str, options: NodeOptions) -> None:
    """Whether this process could run a configuration; loads what it would need for that."""
    _check_door(topology, host=host, options=options)
    load_parts(topology)


def _check_door(topology: Topology, *, host: str, options: NodeOptions) -> None:
    config = topology.config
    has_door = bool(config.proxy.auth.tokens) or config.keys.required
    if not (is_loopback(host) or has_door or options.insecure):
        raise ConfigurationError(
            [
                f"proxy.host: {host} is open to the network and proxy.auth.tokens is empty; set a token,"
                " set keys.required, or pass --insecure"
            ]
        )


def _reachable(host: str) -> str:
    """Where others of the cluster find what listens on ``host``: of all addresses, the one that this machine's name stands for."""
    if not ipaddress.ip_address(host).is_unspecified:
        return host
    with suppress(OSError):
        return socket.gethostbyname(socket.gethostname())
    return "127.0.0.1"


def _refuse(message: str) -> int:
    sys.stderr.write(message + "\n")
    return 1


def _raise_descriptor_limit() -> None:
    """As many descriptors as the system allows: a stream takes two, and the usual limit of 1024 would end at 500 of them."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):  # some systems call unlimited what they do not allow
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _configure_logging() -> None:
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
    )
