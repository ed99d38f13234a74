"""The start of a process that serves: imports without what no server needs, and without the collector."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

#: structlog, httpx and redis-py take these along wherever they are installed, for coloured output and for metrics that a server never makes:
#: more than 90 modules, 5 MB and a tenth of the time to start.
_NEEDLESS: Final = ("rich", "pygments", "click", "opentelemetry")


@contextmanager
def lean_imports() -> Iterator[None]:
    """Imports within take libraries that a server does not need for not installed; later ones find them as always.

    The collector rests meanwhile: what is being imported stays, and looking at it again and again takes a twentieth of the time.
    """
    hidden = [name for name in _NEEDLESS if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None stands for a module that there is not
    gc.disable()
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
        gc.enable()
