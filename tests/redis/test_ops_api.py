"""The operators' API describes itself, and answers as it says."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from node.api.auth import Doorkeeper
from node.ops.routes import ops_routes
from shared_state.ledger import Outcome
from shared_state.registry import NodeInfo, Registry
from tests.redis.office import Office, mesh, open_office

#: An answer in pieces is no JSON document; its shapes are checked where its pieces are.
STREAMS = {"/ops/events"}


@pytest.fixture
async def office(open_store) -> AsyncIterator[Office]:
    """A cluster in which something has happened."""
    models = {
        "alpha.small": {"rpm": 10, "tpd": 1000, "usd_per_day": 1.0, "concurrency": 5},
        "alpha.big": {},
        "beta.one": {"rpd": 50},
    }
    async with open_office(open_store(), mesh(models, accounts={"alpha": {"rpm": 12}})) as office:
        await office.attempt("alpha.small", tokens=(10, 10), tokens_in=5, tokens_out=6, latency_ms=80)
        await office.attempt("beta.one", Outcome.FAILURE)
        await office.admit("alpha.big")
        await office.ask("models/alpha.big/deactivate", method="POST", body=b'{"reason": "a whim"}')
        info = NodeInfo("n1", "127.0.0.1", 1, 2, 3.0, "alive", "0.1.0", "v", "exact", 0)
        await Registry(office.store).beat(info)
        yield office


async def described(office: Office) -> dict[str, Any]:
    document: dict[str, Any] = (await office.ask("openapi.json")).json
    return document


async def test_every_route_is_described(office):
    """Path and method of each route stand in the description, and nothing else does."""
    routes = ops_routes(office.parts, Doorkeeper([], is_open=False))
    served = {
        (re.sub(r"\{(\w+):\w+\}", r"{\1}", route.path), method.lower())
        for route in routes
        for method in route.methods - {"HEAD"}
    }
    paths = (await described(office))["paths"]

    assert {(path, method) for path, methods in paths.items() for method in methods} == served


async def test_the_description_is_sound(office):
    """Ids are unique, parameters declared, every reference leads somewhere, every shape is a JSON schema."""
    document = await described(office)
    operations = [(path, o) for path, methods in document["paths"].items() for o in methods.values()]
    schemas = document["components"]["schemas"]
    for schema in schemas.values():
        Draft202012Validator.check_schema(schema)
    references = set(re.findall(r"#/components/schemas/(\w+)", str(document)))

    assert document["openapi"].startswith("3.1")
    assert references == set(schemas)
    assert len({o["operationId"] for _, o in operations}) == len(operations)
    for path, operation in operations:
        declared = {p["name"] for p in operation.get("parameters", ()) if p["in"] == "path"}
        assert declared == set(re.findall(r"\{(\w+)\}", path))


async def test_answers_are_as_described(office):
    """Every view of a lively cluster validates against its shape."""
    paths = (await described(office))["paths"]
    views = [path for path, methods in paths.items() if "get" in methods and "{" not in path]

    assert len(views) >= 7
    for path in set(views) - STREAMS:
        await office.view(path.removeprefix("/ops/"))


async def test_orders_and_refusals_are_as_described(office):
    """What an order comes to, and every kind of refusal."""
    template = "/ops/models/{name}/activate"
    good = await office.ask("models/alpha.big/activate", method="POST")
    bad = await office.ask("models/alpha.big/activate", method="POST", body=b"[]")
    unknown = await office.ask("models/nobody/activate", method="POST")

    assert (good.status, bad.status, unknown.status) == (200, 400, 404)
    for heard in (good, bad, unknown):
        await office.check(template, heard, method="post")


async def test_the_check_is_no_rubber_stamp(office):
    """An answer of another shape does not pass."""
    heard = await office.ask("books")
    heard.body = heard.body.replace(b'"balanced"', b'"balance"')

    with pytest.raises(ValidationError):
        await office.check("/ops/books", heard)
