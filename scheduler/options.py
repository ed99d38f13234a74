"""What a scheduler is told at its start: command line first, then the environment."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SchedulerOptions:
    """Options of one scheduler; None means that the configuration decides."""

    config_path: str | None
    redis_url: str | None
    name: str | None = None


def parse(
    argv: Sequence[str], *, environ: Mapping[str, str] = os.environ, prog: str = "python -m scheduler"
) -> SchedulerOptions:
    """Options from the arguments; MODELMESH_REDIS_URL fills what they leave open."""
    parser = argparse.ArgumentParser(prog=prog, description="Run one scheduler; of several, one leads.")
    parser.add_argument(
        "-c", "--config", metavar="FILE", help="default: MODELMESH_CONFIG, else the environment's keys"
    )
    parser.add_argument("--redis", metavar="URL", default=environ.get("MODELMESH_REDIS_URL"))
    parser.add_argument("--name", help="shown to operators; default: made from host and process")
    arguments = parser.parse_args(argv)
    return SchedulerOptions(config_path=arguments.config, redis_url=arguments.redis, name=arguments.name)
