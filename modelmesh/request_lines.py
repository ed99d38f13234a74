"""The request log of a mesh inside another program: records of the standard library's logging."""

from __future__ import annotations

import logging
from typing import Final

REQUESTS: Final = "modelmesh.requests"


class RequestLines:
    """A file for the request log, which hands each line to ``modelmesh.requests`` at level INFO."""

    def __init__(self) -> None:
        self._log = logging.getLogger(REQUESTS)

    def write(self, lines: bytes) -> int:
        """One record a line."""
        if self._log.isEnabledFor(logging.INFO):
            for line in lines.splitlines():
                self._log.info("%s", line.decode())
        return len(lines)

    def flush(self) -> None:
        """Nothing waits here."""
