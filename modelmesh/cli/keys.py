"""Commands on client keys: `keys create`, `keys list`, `keys revoke`, over the operators' API of any node."""

from __future__ import annotations

import time
from typing import Annotated, Any

import typer

from modelmesh.cli.operate import JsonOption, open_client, seconds
from modelmesh.cli.output import refusals, show, show_json

_keys = typer.Typer(name="keys", help="Client keys.", no_args_is_help=True)


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.add_typer(_keys)


@_keys.command("create")
def create(
    name: Annotated[str, typer.Argument(help="Whose key it is.")],
    *,
    models: Annotated[
        str,
        typer.Option("--models", metavar="A,B", help="Pools and models that it may use, * as a wildcard."),
    ] = "",
    rpm: Annotated[int | None, typer.Option("--rpm", min=1, help="Requests per minute.")] = None,
    tpm: Annotated[int | None, typer.Option("--tpm", min=1, help="Tokens per minute.")] = None,
    rpd: Annotated[int | None, typer.Option("--rpd", min=1, help="Requests per day.")] = None,
    tpd: Annotated[int | None, typer.Option("--tpd", min=1, help="Tokens per day.")] = None,
    concurrency: Annotated[
        int | None, typer.Option("--concurrency", min=1, help="Calls in flight at once.")
    ] = None,
    usd_per_day: Annotated[float | None, typer.Option("--usd-per-day", help="Money per day.")] = None,
    usd_per_month: Annotated[float | None, typer.Option("--usd-per-month", help="Money per month.")] = None,
    expires: Annotated[
        str | None, typer.Option("--expires", metavar="DURATION", help="Void after 12h, 30d; default: never.")
    ] = None,
    note: Annotated[str, typer.Option("--note", help="Shown in the list.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Make a key; its text is shown this once."""
    from modelmesh.key_views import new_key_view

    limits = {
        "rpm": rpm,
        "tpm": tpm,
        "rpd": rpd,
        "tpd": tpd,
        "concurrency": concurrency,
        "usd_per_day": usd_per_day,
        "usd_per_month": usd_per_month,
    }
    body: dict[str, Any] = {
        "name": name,
        "models": [entry.strip() for entry in models.split(",") if entry.strip()],
        "limits": {window: limit for window, limit in limits.items() if limit is not None},
        "expires_s": seconds(expires, hint="--expires"),
        "note": note,
    }
    with refusals(), open_client() as client:
        key = client.create_key(body)
    show_json(key.model_dump()) if as_json else show(new_key_view(key))


@_keys.command("list")
def list_(*, as_json: JsonOption = False) -> None:
    """All keys, without their text."""
    from modelmesh.key_views import keys_view
    from modelmesh.ops_client import understand
    from shared_state.shapes.keys import KeysView

    with refusals(), open_client() as client:
        answer = client.get("keys")
        keys = understand(answer, KeysView).keys
    show_json(answer["keys"]) if as_json else show(keys_view(keys, now=time.time()))


@_keys.command("revoke")
def revoke(key: Annotated[str, typer.Argument(metavar="ID")], *, as_json: JsonOption = False) -> None:
    """Make a key void for good, on every node at once."""
    from rich.text import Text

    with refusals(), open_client() as client:
        revoked = client.revoke_key(key)
    if as_json:
        show_json(revoked.model_dump())
    else:
        show(Text(f"{revoked.id} ({revoked.name}) is revoked"))
