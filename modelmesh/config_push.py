"""What a push does on the operator's side: read the file, keep secrets at home, wait for every node."""

from __future__ import annotations

import getpass
import json
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from modelmesh.errors import OpsError
from modelmesh.ops_client import OpsClient, understand
from shared_state.config.documents import read_document
from shared_state.config.portions import find_literal_secrets, own_keys, shared_part
from shared_state.errors import ConfigurationError
from shared_state.shapes.configuration import ConfigView, RunnerView

_LOOK_EVERY_S: Final = 0.1


def read_for_push(file: str) -> tuple[dict[str, Any], list[str]]:
    """What of a file can be a version, and what is left out; what it means is for the nodes to judge, in their own environment.

    Raises:
        ConfigurationError: it cannot be read, or a secret is written out in it, which must not leave this machine.
    """
    document = read_document(Path(file))
    shared = shared_part(document)
    faults = [str(fault) for fault in find_literal_secrets(shared)]
    if not shared:
        faults.append("the file is empty: there is nothing to push")
    if faults:
        raise ConfigurationError(faults, source=file)
    plain: dict[str, Any] = json.loads(json.dumps(shared, default=str))
    return plain, own_keys(document)


def author() -> str:
    """Who pushes, for the history."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "somebody"
    return f"{user}@{socket.gethostname()}"


def wait_for_nodes(
    client: OpsClient, number: int, *, within_s: float, tell: Callable[[str], None]
) -> list[RunnerView]:
    """All live nodes, once each and the scheduler that leads runs the version or a later one; tells of each when it does.

    Raises:
        OpsError: some do not in time; the message names them.
    """
    ends, told = time.monotonic() + within_s, set[str]()
    while True:
        view = understand(client.get("config"), ConfigView)
        nodes = view.nodes
        runners = [*nodes, *([view.scheduler] if view.scheduler else [])]
        for node in runners:
            if node.number >= number and node.id not in told:
                told.add(node.id)
                tell(f"  {node.id} runs it")
        late = [node for node in runners if node.number < number]
        if not late:
            return nodes
        if time.monotonic() > ends:
            raise OpsError(_describe(late, number, within_s))
        time.sleep(_LOOK_EVERY_S)


def _describe(late: list[RunnerView], number: int, within_s: float) -> str:
    lines = [
        f"  {node.id} runs {f'version {node.number}' if node.number else 'its own file'}"
        + (f": {node.fault}" if node.fault else "")
        for node in late
    ]
    return "\n".join([f"version {number} is in force, but not on every node after {within_s:g} s", *lines])
