"""``/v1/models``: one table, two routes."""

from __future__ import annotations

import pytest

from node.api.models import ModelList
from tests.unit.node.api.asgi import Front, ask
from tests.unit.node.house import House, mesh
from tests.unit.node.scripted import ScriptedTransport


def test_pools_come_first_and_a_name_stands_once() -> None:
    """A pool that is called like a model hides it, as in requests."""
    models = ModelList(mesh("a.m", "chat", pools={"chat": {"models": ["a.m"]}, "other": {"models": ["a.m"]}}))

    assert [(entry["id"], entry["owned_by"]) for entry in models.all()["data"]] == [
        ("chat", "modelmesh"),
        ("other", "modelmesh"),
        ("a.m", "a"),
    ]
    assert models.get("chat") == models.all()["data"][0]
    assert models.get("nobody") is None


async def test_both_routes_agree() -> None:
    """Every entry of the list can be asked for, names with slashes included."""
    place = House(mesh("a.m", "b.org/model-1"), ScriptedTransport())
    front = Front(place=place)
    listed = (await ask(front.app, "GET", "/v1/models")).json

    assert listed["object"] == "list"
    assert {entry["id"] for entry in listed["data"]} == {"chat", "a.m", "b.org/model-1"}
    for entry in listed["data"]:
        assert set(entry) == {"id", "object", "created", "owned_by"}
        assert (await ask(front.app, "GET", f"/v1/models/{entry['id']}")).json == entry


@pytest.mark.parametrize("name", ["nobody", "nobody/at/all", "chat%0d%0ax: y"])
async def test_an_unknown_model_is_not_found(name: str) -> None:
    """In the API's own shape."""
    heard = await ask(Front().app, "GET", f"/v1/models/{name}")

    assert heard.status == 404
    assert heard.error["code"] == "model_not_found"
    assert heard.error["param"] == "model"


async def test_the_list_is_behind_the_door() -> None:
    """Names of models are nobody's business without a token."""
    front = Front(tokens=["t"])

    for path in ("/v1/models", "/v1/models/chat"):
        assert (await ask(front.app, "GET", path)).status == 401
        assert (await ask(front.app, "GET", path, headers=[(b"authorization", b"Bearer t")])).status == 200


async def test_who_names_a_version_of_anthropics_api_hears_its_shape() -> None:
    """The list, an entry of it, and that there is none."""
    named = [(b"anthropic-version", b"2023-06-01")]
    app = Front(place=House(mesh("a.m"), ScriptedTransport())).app
    listed, one, none = [
        (await ask(app, "GET", f"/v1/models{rest}", headers=named)).json for rest in ("", "/a.m", "/nobody")
    ]

    assert (listed["first_id"], listed["last_id"], listed["has_more"]) == ("chat", "a.m", False)
    assert one == listed["data"][1]
    assert (one["type"], one["id"], one["display_name"]) == ("model", "a.m", "a.m")
    assert (none["type"], none["error"]["type"]) == ("error", "not_found_error")
