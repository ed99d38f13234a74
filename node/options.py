"""What a node is told at its start: command line first, then the environment."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class NodeOptions:
    """Options of one router node; None means that the configuration decides.

    Attributes:
        fd: an inherited listening socket to serve on, instead of host and port.
        ready_fd: a descriptor to write one byte to, and close, when the node serves.
    """

    config_path: str | None
    redis_url: str | None
    host: str | None
    port: int | None
    fd: int | None = None
    name: str | None = None
    insecure: bool = False
    ready_fd: int | None = None


def parse(
    argv: Sequence[str], *, environ: Mapping[str, str] = os.environ, prog: str = "python -m node"
) -> NodeOptions:
    """Options from the arguments; MODELMESH_REDIS_URL and MODELMESH_READY_FD fill what they leave open."""
    parser = argparse.ArgumentParser(prog=prog, description="Run one router node.")
    parser.add_argument(
        "-c", "--config", metavar="FILE", help="default: MODELMESH_CONFIG, else the environment's keys"
    )
    parser.add_argument("--redis", metavar="URL", default=environ.get("MODELMESH_REDIS_URL"))
    parser.add_argument("--host")
    parser.add_argument("--port", type=int)
    parser.add_argument("--fd", type=int, help="serve on this inherited listening socket")
    parser.add_argument("--name", help="shown to operators; default: made from host and process")
    parser.add_argument(
        "--insecure", action="store_true", help="serve beyond loopback without any authentication"
    )
    arguments = parser.parse_args(argv)
    ready_fd = environ.get("MODELMESH_READY_FD")
    return NodeOptions(
        config_path=arguments.config,
        redis_url=arguments.redis,
        host=arguments.host,
        port=arguments.port,
        fd=arguments.fd,
        name=arguments.name,
        insecure=arguments.insecure,
        ready_fd=int(ready_fd) if ready_fd else None,
    )
