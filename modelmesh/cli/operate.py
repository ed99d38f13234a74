"""Commands for operators, over the operators' API of any node."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from modelmesh.cli.output import EXIT_REFUSED, refusals, show, show_json

if TYPE_CHECKING:
    from rich.console import RenderableType

    from modelmesh.ops_client import OpsClient, Verb
    from shared_state.shapes.status import OrderView

JsonOption = Annotated[bool, typer.Option("--json", help="Print what the API answered, for programs.")]
TargetArgument = Annotated[str, typer.Argument(metavar="MODEL_OR_PROVIDER")]
ReasonOption = Annotated[str, typer.Option("--reason", help="Shown to everyone who asks why.")]
ForOption = Annotated[
    str | None,
    typer.Option("--for", metavar="DURATION", help="Come back by itself after 30s, 10m, 2h; default: never."),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (status, nodes, pools, models, providers, audit, deactivate, activate, probe):
        app.command()(command)


def status(*, as_json: JsonOption = False) -> None:
    """What is going on, at a glance."""
    from modelmesh.views import status_view

    _show_part(None, status_view, as_json=as_json)


def nodes(*, as_json: JsonOption = False) -> None:
    """The nodes, and how they are."""
    from modelmesh.views import nodes_view

    _show_part("nodes", nodes_view, as_json=as_json)


def pools(*, as_json: JsonOption = False) -> None:
    """The pools, and who serves them."""
    from modelmesh.views import pools_view

    _show_part("pools", lambda part, *, now: pools_view(part), as_json=as_json)


def models(*, as_json: JsonOption = False) -> None:
    """The models: state, traffic, limits."""
    from modelmesh.views import models_view

    _show_part("models", models_view, as_json=as_json)


def providers(*, as_json: JsonOption = False) -> None:
    """The provider accounts."""
    from modelmesh.views import providers_view

    _show_part("providers", providers_view, as_json=as_json)


def audit(*, as_json: JsonOption = False) -> None:
    """The books: every balance; exit code 1 if one is off."""
    from modelmesh.audit_view import audit_view, is_balanced
    from modelmesh.ops_client import understand
    from shared_state.shapes.status import BooksView

    with refusals(), open_client() as client:
        answer = client.get("books")
        books = understand(answer, BooksView)
    show_json(answer) if as_json else show(audit_view(books))
    if not is_balanced(books):
        raise typer.Exit(EXIT_REFUSED)


def deactivate(
    target: TargetArgument,
    *,
    reason: ReasonOption = "by an operator",
    duration: ForOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a model or a provider out, until it is activated or the time is over."""
    body = {"reason": reason, "for_s": seconds(duration, hint="--for")}
    _switch(target, "deactivate", body=body, as_json=as_json)


def activate(target: TargetArgument, *, as_json: JsonOption = False) -> None:
    """Bring a model or a provider back."""
    _switch(target, "activate", body={}, as_json=as_json)


def probe(model: Annotated[str, typer.Argument(metavar="MODEL")], *, as_json: JsonOption = False) -> None:
    """Send a model one tiny request and say how it went; exit code 1 if it is not well."""
    from modelmesh.views import probe_view

    with refusals(), open_client() as client:
        shown = client.probe(model)
    show_json(shown.model_dump()) if as_json else show(probe_view(shown))
    if shown.verdict != "well":
        raise typer.Exit(EXIT_REFUSED)


def open_client() -> OpsClient:
    """A client of the node that the environment names."""
    from modelmesh.ops_client import DEFAULT_URL, OpsClient

    return OpsClient(
        os.environ.get("MODELMESH_URL") or DEFAULT_URL, token=os.environ.get("MODELMESH_ADMIN_TOKEN")
    )


def _show_part(name: str | None, view: Callable[..., RenderableType], *, as_json: bool) -> None:
    """One part of the status, or all of it."""
    from modelmesh.ops_client import understand
    from shared_state.shapes.status import StatusView

    with refusals(), open_client() as client:
        answer = client.get("status")
        status = understand(answer, StatusView)
    if as_json:
        show_json(answer[name] if name else answer)
    else:
        show(view(getattr(status, name) if name else status, now=time.time()))


def _switch(target: str, verb: Verb, *, body: dict[str, Any], as_json: bool) -> None:
    from rich.text import Text

    from modelmesh.drawing import until

    with refusals(), open_client() as client:
        switched = _switch_either(client, target, verb, body=body)
    if as_json:
        show_json(switched.model_dump())
        return
    back = until(switched.until, now=time.time())
    show(Text(f"{switched.id} is {switched.status}" + (f", back {back}" if back else "")))


def _switch_either(client: OpsClient, target: str, verb: Verb, *, body: dict[str, Any]) -> OrderView:
    """The model of that name, else the provider."""
    from modelmesh.errors import OpsError

    try:
        return client.switch("models", target, verb, body=body)
    except OpsError as error:
        if error.status != 404:
            raise
    try:
        return client.switch("providers", target, verb, body=body)
    except OpsError as error:
        if error.status != 404:
            raise
        raise OpsError(_describe_unknown(client, target), status=404) from error


def _describe_unknown(client: OpsClient, target: str) -> str:
    from difflib import get_close_matches

    status = client.get("status")
    names = [entry["id"] for entry in (*status["models"], *status["providers"])]
    near = get_close_matches(target, names, n=3, cutoff=0.5)
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    return f"no model or provider is named {target!r}{hint}"


def seconds(duration: str | None, *, hint: str) -> float | None:
    """A duration given as an option; ``hint`` is the option's name."""
    from shared_state.config.values import parse_duration

    if duration is None:
        return None
    try:
        return parse_duration(duration)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=hint) from error
