"""A supervisor in a process of its own, to be killed: `driver.py child` or `driver.py store FOLDER`."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from modelmesh.children import Child
from modelmesh.embedded import EmbeddedStore
from modelmesh.supervisor import Supervisor
from tests.unit.modelmesh.programs import ANNOUNCING, python


def tell(name: str, line: str) -> None:
    print(name, line, flush=True)


async def main(kind: str, folder: str = "") -> None:
    service: Child | EmbeddedStore
    if kind == "child":
        service = child = Child(python(ANNOUNCING, announces_ready=True), tell=tell)
        await Supervisor([lambda: [service]]).run(when_ready=lambda: print(f"pid {child.pid}", flush=True))
    else:
        service = store = EmbeddedStore(Path(folder), environ=os.environ, tell=tell)
        await Supervisor([lambda: [service]]).run(when_ready=lambda: print(f"ready {store.url}", flush=True))


asyncio.run(main(*sys.argv[1:]))
