"""The Lua commands as texts: what each header says is what its body does, and nothing in them can run for long."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

from shared_state import lua

COMMANDS = lua.commands()
FORBIDDEN = ("KEYS", "SCAN", "HSCAN", "SSCAN", "ZSCAN", "SMEMBERS", "FLUSHALL", "FLUSHDB", "SORT", "EVAL")
#: Commands that read a whole record or list: where each is allowed, and why it is bounded there.
WHOLE_READS = {
    ("read_books", "HGETALL"): "audits only",
    ("read_books", "ZRANGE"): "audits only",
    ("read_domain", "HGETALL"): "a state has a dozen fields",
    ("read_copy", "HGETALL"): "every few seconds, by one scheduler; what grows with the traffic is bounded",
    ("share_retries", "HGETALL"): "twenty counts and a field a node",
    ("decide_version", "HKEYS"): "fifty numbers, when an operator pushes",
    ("recount_leases", "HGETALL"): "two records a node and model, when limits have changed",
    ("forget_entity", "HGETALL"): "once in the life of a model, by one scheduler: three counts a pool",
    ("share_waits", "ZRANGE"): "two hundred of a model",
    ("end_leases", "ZRANGE"): "as many as its caller says",
    ("exchange", "HVALS"): "what is in flight, and only when a cap or a budget is nearly reached",
    ("lift_rests", "HVALS"): "what is in flight on what is on standby, when a limit may have been raised",
    **{
        (command, "HGETALL"): "once a term: a few sequences per node"
        for command in ("exchange", "renew_leases", "assert_term")
    },
}
_CALL = re.compile(r"redis\.p?call\('(\w+)'")
_INDEX = re.compile(r"\b(KEYS|ARGV)\[(\d+)\]")


def header_and_body(command: str) -> tuple[str, str]:
    """The comment at the head of a file, and what follows it, includes resolved."""
    lines = (files(lua) / f"{command}.lua").read_text().splitlines()
    size = next(i for i, line in enumerate(lines) if not line.startswith("-- ") and line != "--")
    header = "\n".join(lines[:size])
    return header, lua.source(command).removeprefix(header)


def code_of(text: str) -> str:
    """The text without comments."""
    return re.sub(r"--.*", "", text)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_header_describes_exactly_the_arguments_in_use(command: str) -> None:
    """Each KEYS and ARGV index of the body is described, and none that is not used."""
    header, body = header_and_body(command)
    described = set(re.findall(r"^-- (KEYS|ARGV)\[(\d+)\]  \S", header, re.MULTILINE))
    used = set(_INDEX.findall(code_of(body)))

    assert used == described
    assert re.search(r"^-- Returns  \S", header, re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_header_says_what_is_published(command: str) -> None:
    """Whoever may raise an event names it; nobody else does."""
    header, body = header_and_body(command)
    code = code_of(body)
    calls = len(re.findall(r"\b(?:announce|activate|deactivate)\(", code))
    defined = len(re.findall(r"local function (?:announce|activate|deactivate)\(", code))

    assert ("-- Publishes" in header) is (calls > defined > 0)


@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_in_a_command_is_unbounded(command: str) -> None:
    """No walk over the key space; whole reads only where the record is small, range reads only with a limit."""
    code = code_of(lua.source(command))
    calls = _CALL.findall(code)

    assert not set(calls) & set(FORBIDDEN)
    assert {c for c in calls if c in ("HGETALL", "HVALS", "HKEYS", "LRANGE", "ZRANGE", "GETRANGE")} <= {
        name for at, name in WHOLE_READS if at == command
    }
    assert code.count("'ZRANGEBYSCORE'") == len(re.findall(r"'ZRANGEBYSCORE'.*'LIMIT'", code))
    assert len(calls) == len(
        re.findall(r"redis\.p?call\(", code)
    )  # names are literals, so this test sees them
    assert "while " not in code
    assert "math.random" not in code


@pytest.mark.parametrize("command", COMMANDS)
def test_includes_are_resolved_once(command: str) -> None:
    """No marker is left over, and no piece comes twice."""
    text = lua.source(command)
    functions = re.findall(r"^local function (\w+)", text, re.MULTILINE)

    assert "--#include" not in text
    assert len(set(functions)) == len(functions)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_fits_the_limits_of_the_language(command: str) -> None:
    """Lua 5.1 allows 200 locals in a function; a main chunk near that breaks with the next edit."""
    locals_ = re.findall(r"^local (?:function )?([\w, ]+)", code_of(lua.source(command)), re.MULTILINE)

    assert sum(names.count(",") + 1 for names in locals_) < 150


def test_an_unknown_command_is_an_error() -> None:
    """A misspelt name fails at once, not at the server."""
    with pytest.raises(FileNotFoundError):
        lua.source("no_such_command")


def test_every_include_is_used() -> None:
    """A piece that nobody includes is dead."""
    pieces = {f.name.removesuffix(".lua") for f in (files(lua) / "include").iterdir()}
    texts = [(files(lua) / f"{command}.lua").read_text() for command in COMMANDS]

    assert {
        name for text in texts for name in re.findall(r"^ *--#include (\w+)$", text, re.MULTILINE)
    } == pieces
