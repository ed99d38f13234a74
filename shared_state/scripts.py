"""The Lua commands as a server knows them: by digest, or as a function of a library.

A command whose last line calls a function of its own (``return exchange()``) is made for many calls: where the server has
functions (Redis 7, Valkey) its pieces are built once, when the library is loaded, and not with every call. What such a command keeps from one
call to the next may be lost at any time, and does not outlive the server. The name of a library tells its text, so that two releases run side by side.
"""

from __future__ import annotations

import hashlib
import re
from functools import cached_property
from typing import Final

from redis.exceptions import NoPermissionError, ResponseError

from shared_state import lua
from shared_state.connections import Client, ask_at, primaries

#: What the names of our libraries begin with.
LIBRARIES: Final = "modelmesh_"
_ENTRY: Final = re.compile(r"\nreturn (\w+)\(\)\n\Z")
#: What the commands ask of the server's Lua. Looked up by name it takes three tables each time, as a local of the library none. It is there when
#: a function is called, not yet when the library is loaded.
_GLOBALS: Final = "redis, math, string, table, cjson, cmsgpack, struct, ipairs, next, pairs, rawget, setmetatable, tonumber, type, unpack"
_LIBRARY: Final = """#!lua name={name}
local KEYS, ARGV, entry
local function build()
  local {globals} = {globals}
  return (function()
{body}
return {entry}
  end)()
end
redis.register_function('{name}', function(keys, args)
  KEYS, ARGV = keys, args
  entry = entry or build()
  return entry()
end)
"""


class Script:
    """A Lua command: its text and the digest that the server knows it by."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.text = lua.source(name)
        self.digest = hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()

    @cached_property
    def function(self) -> str:
        """Its name as a function, and that of its library; empty if it is none."""
        return f"{LIBRARIES}{self.name}_{self.digest[:16]}" if _ENTRY.search(self.text) else ""

    @property
    def library(self) -> str:
        """Text of its library."""
        found = _ENTRY.search(self.text)
        assert found is not None
        return _LIBRARY.format(
            name=self.function, globals=_GLOBALS, body=self.text[: found.start()], entry=found[1]
        )


def is_unknown_function(error: ResponseError) -> bool:
    """Whether the server would have to be given the library."""
    return str(error).startswith("Function not found")


def has_no_functions(error: ResponseError) -> bool:
    """Whether this server has none, or none for us: older, another make, or its rules forbid it."""
    return isinstance(error, NoPermissionError) or (
        type(error) is ResponseError
        and str(error).lower().startswith(("unknown command", "unknown subcommand"))
    )


async def load_library(client: Client, script: Script, key: str) -> None:
    """Gives the library to the server that a key lives on; it hands it on to its replicas.

    Raises:
        RedisError, OSError, TimeoutError: the store is away, or does not want it.
    """
    await ask_at(client, key, "FUNCTION", "LOAD", "REPLACE", script.library)


async def forget_libraries(client: Client) -> int:
    """Removes the libraries of other releases from every server; how many. Whoever still needs one loads it again.

    Raises:
        RedisError, OSError, TimeoutError: the store is away.
    """
    current = {Script(name).function for name in lua.commands()}
    count = 0
    for _, ask in await primaries(client):
        for facts in await ask("FUNCTION", "LIST", "LIBRARYNAME", f"{LIBRARIES}*"):
            name = facts[1].decode()
            if name not in current:
                await ask("FUNCTION", "DELETE", name)
                count += 1
    return count
