"""Commands on secret stores: `secrets set`, `secrets list`, `secrets import`. They open the store themselves and show no value."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from modelmesh.cli.output import refusals, show, show_json
from modelmesh.cli.run import ConfigOption

if TYPE_CHECKING:
    from modelmesh.secret_desk import Change, SecretDesk

_secrets = typer.Typer(name="secrets", help="Secret stores.", no_args_is_help=True)

_VISIBLE = (
    "warning: every user of this machine could see the value in the list of processes, and it may be in the"
    " history of your shell; leave it out to be asked for it, or give it with --value-from-stdin"
)

StoreOption = Annotated[
    str | None, typer.Option("--store", metavar="ID", help="Default: the configuration's secrets.store.")
]
KeysOption = Annotated[
    list[str] | None,
    typer.Option("-o", "--option", metavar="KEY=VALUE", help="A key of that store, such as path=FILE."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="The same for programs; no values either.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.add_typer(_secrets)


@_secrets.command("set")
def set_(
    name: Annotated[str, typer.Argument(help="As in ${secrets:NAME}.")],
    value: Annotated[list[str] | None, typer.Argument(hidden=True)] = None,
    *,
    from_stdin: Annotated[
        bool, typer.Option("--value-from-stdin", help="Read the value from standard input.")
    ] = False,
    config: ConfigOption = None,
    store: StoreOption = None,
    option: KeysOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add or replace a secret; the value is asked for, or read from standard input."""
    with refusals():
        desk = _open(config, store, option)
        given = _value(name, value or [], from_stdin=from_stdin)
        _tell(desk, desk.fill({name: given}, may_overwrite=True), as_json=as_json)


@_secrets.command("list")
def list_(
    *,
    config: ConfigOption = None,
    store: StoreOption = None,
    option: KeysOption = None,
    as_json: JsonOption = False,
) -> None:
    """What the configuration refers to, whether it is found, and what else the store holds."""
    from modelmesh.secret_views import place, secrets_view

    with refusals():
        desk = _open(config, store, option)
        entries = desk.entries()
    if not as_json:
        show(secrets_view(entries, where=place(desk.config.store, desk.where)))
        return
    rows = [
        {"name": e.name, "found": e.is_found, "used_by": list(e.used_by), "fault": e.fault} for e in entries
    ]
    show_json({"store": desk.config.store, "where": desk.where, "secrets": rows})


@_secrets.command("import")
def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="dotenv, or JSON, YAML, TOML by its suffix.")],
    *,
    config: ConfigOption = None,
    store: StoreOption = None,
    option: KeysOption = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace other values that the store holds.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Put all secrets of a file into the store, or none if the store holds other values."""
    from modelmesh.secret_desk import read_secrets

    with refusals():
        desk = _open(config, store, option)
        _tell(desk, desk.fill(read_secrets(file), may_overwrite=force), as_json=as_json)


def _open(config: str | None, store: str | None, option: list[str] | None) -> SecretDesk:
    from modelmesh.secret_desk import open_desk

    return open_desk(config_path=config, store=store, options=option or [], environ=os.environ)


def _value(name: str, given: list[str], *, from_stdin: bool) -> str:
    from modelmesh.errors import SecretsError

    if given and (from_stdin or len(given) > 1):
        raise SecretsError("one value is needed, from one place")
    if given:
        typer.echo(_VISIBLE, err=True)
        return given[0]
    if from_stdin:
        try:
            read = sys.stdin.read()
        except UnicodeDecodeError:
            read = None
        if read is None:
            raise SecretsError(f"the value of {name} is no UTF-8 text")
        return read.removesuffix("\n").removesuffix("\r")
    if not _has_terminal():
        raise SecretsError("there is no terminal to ask for the value: give --value-from-stdin")
    asked: str = typer.prompt(f"Value of {name}", hide_input=True, err=True)
    return asked


def _has_terminal() -> bool:
    return sys.stdin.isatty()


def _tell(desk: SecretDesk, changes: Mapping[str, Change], *, as_json: bool) -> None:
    from modelmesh.secret_views import place

    overruled = desk.overruled(changes)
    if as_json:
        rows = [
            {"name": name, "change": change, "overruled": name in overruled}
            for name, change in changes.items()
        ]
        show_json({"store": desk.config.store, "where": desk.where, "secrets": rows})
        return
    where = place(desk.config.store, desk.where)
    for name, change in changes.items():
        typer.echo(f"{name} is {change} in {where}")
        if name in overruled:
            typer.echo(f"warning: the environment variable {name} is set and wins over it", err=True)
