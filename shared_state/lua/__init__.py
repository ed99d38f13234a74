"""The Lua commands: one file each, shared pieces in ``include/``; one that is included further in belongs to that function alone."""

from __future__ import annotations

import re
import textwrap
from functools import cache
from importlib.resources import files

_INCLUDE = re.compile(r"^( *)--#include (\w+)$", re.MULTILINE)


@cache
def source(name: str) -> str:
    """Text of a command with its includes in place; each include once, in the order of the file.

    Raises:
        FileNotFoundError: no such command or include.
    """
    folder = files(__name__)

    def piece(marker: re.Match[str]) -> str:
        indent, included = marker.groups()
        return textwrap.indent((folder / "include" / f"{included}.lua").read_text(encoding="utf-8"), indent)

    return _INCLUDE.sub(piece, (folder / f"{name}.lua").read_text(encoding="utf-8"))


def commands() -> list[str]:
    """Names of all commands."""
    return sorted(f.name.removesuffix(".lua") for f in files(__name__).iterdir() if f.name.endswith(".lua"))
