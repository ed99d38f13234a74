"""The process of a scheduler: configuration, store, signals, exit code."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import socket
import sys
from typing import Final

import structlog
import uvloop

from scheduler.options import SchedulerOptions
from scheduler.shifts import Shifts
from shared_state.blueprints import Blueprints
from shared_state.config.loader import find_document, read_config
from shared_state.errors import ConfigurationError, ModelMeshError
from shared_state.logs import get_logger
from shared_state.store import Store
from shared_state.topology import Topology, build_topology

log = get_logger(__name__)

_EXIT_FAULT: Final = 2


def run(options: SchedulerOptions) -> int:
    """Runs one scheduler until SIGTERM; the exit code."""
    _configure_logging()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(options))
    except ModelMeshError as error:
        sys.stderr.write(f"{error}\n")
        return _EXIT_FAULT
    return 0


async def _serve(options: SchedulerOptions) -> None:
    stopping = _listen_for_signals()
    own = find_document(options.config_path)
    topology = build_topology(read_config(own.document, source=own.source))
    store = _open_store(options, topology)
    owner = f"{options.name or socket.gethostname()}.{os.getpid()}.{secrets.token_hex(4)}"
    log.info("scheduler starts", owner=owner, redis=store.masked_url, domains=len(topology.domains))
    token = os.environ.get("MODELMESH_ADMIN_TOKEN")
    try:
        await Shifts(store, Blueprints(own), topology, owner=owner, admin_token=token).run(stopping)
        log.info("scheduler ends", owner=owner)
    finally:
        await store.aclose()


def _listen_for_signals() -> asyncio.Event:
    """Set by the first SIGTERM or SIGINT; the second has its own way again and ends the process at once."""
    loop, stopping = asyncio.get_running_loop(), asyncio.Event()

    def stop() -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)  # else SIGINT would raise KeyboardInterrupt
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    return stopping


def _open_store(options: SchedulerOptions, topology: Topology) -> Store:
    config = topology.config.redis
    url = options.redis_url or config.address
    if not url:
        raise ConfigurationError(
            ["redis.url: a scheduler needs it; or give --redis, or set MODELMESH_REDIS_URL"]
        )
    return Store(url, namespace=config.namespace, timeout_s=config.timeout, name="scheduler")


def _configure_logging() -> None:
    """Events go to standard error; APScheduler's own lines would only repeat what the reports say."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.LogfmtRenderer(key_order=["timestamp", "level", "event"]),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.getLogger("apscheduler").setLevel(logging.CRITICAL)
